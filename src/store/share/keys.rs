//! Agreeing with sister instances on the keys that sign session ids and seal values.
//!
//! Keys that an instance made for itself are shared through the shared store: the first instance's key is everybody's.
//! Keys that the operator set (`store.key_file`, a credential, `store.keys`) never leave the machine; there only their
//! checks are compared. What is known of keys in the shared store:
//!
//! ```text
//! keys          "made" or "set": where keys come from
//! key/first     the number of the first key
//! key/NUMBER    the key, as a line of a key file; of one that was set, its check
//! ```

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::Sharing;
use crate::base::ids::SessionKey;
use crate::base::seal::hex;
use crate::store::commit::Work;
use crate::store::durable::{Durable, Table, Write};
use crate::store::keyring::Place;
use crate::store::remote::RemoteError;
use crate::store::{KNOWN_LISTS, Store, StoreError, blocking, reading, rows};

/// A key that is not there is not asked for again before this long, milliseconds.
const ASK_AGAIN_MS: u64 = 10_000;

/// Why instances do not share yet.
#[derive(Clone, Debug)]
pub enum Disagreement {
    /// It cannot be asked now.
    Away,
    /// The keys are not the same; the text says what to do.
    Keys(String),
}

impl From<RemoteError> for Disagreement {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Fault(text) => Self::Keys(text.to_string()),
            _ => Self::Away,
        }
    }
}

impl From<StoreError> for Disagreement {
    fn from(error: StoreError) -> Self {
        Self::Keys(error.to_string())
    }
}

/// When keys were asked for in vain, by number; on the clock that never goes back.
pub(super) struct Asked([AtomicU64; 256]);

impl Default for Asked {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

fn key_field(id: u8) -> String {
    format!("key/{id}")
}

/// Whether nothing was signed or sealed here that needs its keys, but for what can be lost: the rows of that go then.
fn unused(disk: &dyn Durable) -> Result<Option<Vec<Write>>, StoreError> {
    for table in [Table::Head, Table::Log] {
        if !disk.scan(table, &[], &[u8::MAX; 64], 1)?.is_empty() {
            return Ok(None);
        }
    }
    let mut rows = Vec::new();
    for (id, result) in rows::read_all_results_under(disk, "")? {
        if id.session != SessionKey::BROADCAST || id.name != KNOWN_LISTS {
            return Ok(None);
        }
        rows::remove_result(&id, &result, &mut rows);
    }
    Ok(Some(rows))
}

impl Store {
    /// Agrees with sister instances on keys. Until it has nothing is shared.
    ///
    /// # Errors
    /// [`Disagreement`]
    pub async fn agree(&self) -> Result<(), Disagreement> {
        let Some(sharing) = self.sharing.get() else { return Ok(()) };
        if sharing.agreed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.confirm(sharing).await?;
        *sharing.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        sharing.agreed.store(true, Ordering::Release);
        sharing.woken.all();
        sharing.values.wake();
        sharing.pace.audit();
        Ok(())
    }

    /// Says what keys there are, where sisters look for them, and hears what they say.
    pub(super) async fn confirm(&self, sharing: &Sharing) -> Result<(), Disagreement> {
        match self.keyring {
            Some(_) => self.agree_on_keys(sharing).await,
            None => Ok(()),
        }
    }

    async fn agree_on_keys(&self, sharing: &Sharing) -> Result<(), Disagreement> {
        let entries = self.with_keyring(|keyring| Ok(keyring.entries().to_vec())).await?;
        let Some(current) = entries.first() else { return Ok(()) };
        let set = entries.iter().find(|entry| !matches!(entry.place, Place::Own(_)));
        let kind: &[u8] = if set.is_some() { b"set" } else { b"made" };
        let standing = sharing.remote.once("keys", Bytes::from_static(kind)).await?;
        match (set, &*standing == kind) {
            (_, true) => {}
            (Some(set), false) => {
                return Err(Disagreement::Keys(format!(
                    "this instance's keys come from {}, those of its sisters were made by one of them: give all \
                     instances the same keys, and delete the field `keys` of the hash that ends in `:meta:{{mcp}}`",
                    set.place
                )));
            }
            (None, false) => {
                return Err(Disagreement::Keys(
                    "this instance made its own keys, those of its sisters were set by the operator: set the same ones \
                     here (store.key_file, the credential outlast.keys, or OUTLAST_STORE__KEYS)"
                        .into(),
                ));
            }
        }
        if set.is_some() {
            for entry in &entries {
                let check = Bytes::from(hex(&entry.secret.check()));
                let standing = sharing.remote.once(&key_field(entry.secret.id()), check.clone()).await?;
                if standing != check {
                    return Err(Disagreement::Keys(format!(
                        "key {} of this instance is another one than its sisters': give all instances the same keys; an \
                         instance that has used its own needs an empty data directory then",
                        entry.secret.id()
                    )));
                }
            }
            return Ok(());
        }
        let own = current.secret.id();
        let first = sharing.remote.once("key/first", own.to_string().into()).await?;
        let first: Option<u8> = std::str::from_utf8(&first).ok().and_then(|id| id.parse().ok());
        let first =
            first.ok_or_else(|| Disagreement::Keys("the shared store names no key that could be".into()))?;
        if first != own && !entries.iter().any(|entry| entry.secret.id() == first) {
            let line = sharing.remote.meta(&key_field(first)).await?.ok_or(Disagreement::Away)?;
            self.adopt_key(&line, true).await?;
        }
        for entry in entries {
            let line = entry.line();
            let standing =
                sharing.remote.once(&key_field(entry.secret.id()), line.clone().into_bytes().into()).await?;
            if *standing != *line.as_bytes() {
                self.adopt_key(&standing, entry.secret.id() == first).await?;
            }
        }
        Ok(())
    }

    /// Takes in a key of a sister. One of the same number that was never used gives way.
    async fn adopt_key(&self, line: &[u8], current: bool) -> Result<(), StoreError> {
        let text = std::str::from_utf8(line).unwrap_or_default().to_owned();
        let unused = reading(&self.disk, unused).await?;
        let (is_unused, keys) = (unused.is_some(), self.keys().clone());
        let (line, rows) = (text.clone(), unused.unwrap_or_default());
        if !rows.is_empty() && self.with_keyring(move |keyring| keyring.has_other(&line)).await? {
            // First: nobody could read them afterwards.
            self.forget_rows(rows).await?;
        }
        self.with_keyring(move |keyring| {
            keyring.adopt(&text, current, is_unused)?;
            keys.replace(&keyring.secrets());
            Ok(())
        })
        .await?;
        tracing::info!("a key of a sister instance was taken over");
        Ok(())
    }

    async fn forget_rows(&self, rows: Vec<Write>) -> Result<(), StoreError> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let done = move |result| drop(tell.send(result));
        self.queue.submit(self.queue.place().await?, Work::Writes(rows), 0, Box::new(done));
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Looks whether a sister has the key of this number, which something is signed or sealed with that is not known
    /// here. True if it is known now.
    pub async fn find_key(&self, id: u8) -> bool {
        let Some(sharing) = self.sharing.get().filter(|_| self.keyring.is_some()) else { return false };
        if self.keys().has(id) {
            return true;
        }
        let now_ms = self.clock.monotonic_ms().max(1);
        let Some(asked) = sharing.asked_keys.0.get(usize::from(id)) else { return false };
        let before = asked.load(Ordering::Relaxed);
        if before != 0 && now_ms.saturating_sub(before) < ASK_AGAIN_MS {
            return false;
        }
        asked.store(now_ms, Ordering::Relaxed);
        match sharing.remote.meta(&key_field(id)).await {
            Ok(Some(line)) => match self.adopt_key(&line, false).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(key = id, %error, "a key of a sister instance cannot be taken over");
                    false
                }
            },
            Ok(None) | Err(_) => false,
        }
    }

    /// Tells sisters of the key that signs here from now on.
    pub(in crate::store) async fn publish_key(&self, id: u8) {
        let Some(sharing) = self.sharing.get() else { return };
        let entries = self.with_keyring(|keyring| Ok(keyring.entries().to_vec())).await;
        let entry =
            entries.ok().and_then(|entries| entries.into_iter().find(|entry| entry.secret.id() == id));
        let Some(entry) = entry.filter(|entry| matches!(entry.place, Place::Own(_))) else { return };
        if let Err(error) = sharing.remote.once(&key_field(id), entry.line().into_bytes().into()).await {
            tracing::warn!(key = id, %error, "sister instances could not be told of a new key: session ids that it signs are unknown to them until they are");
            sharing.agreed.store(false, Ordering::Release);
        }
    }

    async fn with_keyring<T: Send + 'static>(
        &self,
        with: impl FnOnce(&mut crate::store::keyring::Keyring) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Some(keyring) = self.keyring.clone() else {
            return Err(StoreError::Unusable("this server keeps nothing on disk, its keys neither".into()));
        };
        blocking(move || with(&mut keyring.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}
