//! Who has to look again, after something was heard of the shared store.
//!
//! What is heard is a hint, and is coalesced: a session that was written a hundred times is looked at once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::StreamExt as _;
use tokio::sync::Notify;

use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{WOKEN, WOKEN_AT_ONCE};
use crate::state::doc::Doc;
use crate::state::result::Outcome;
use crate::store::remote::{LinkState, RemoteError, Shard};
use crate::store::sessions::State;
use crate::store::{Lookup, Store};

/// One who holds sessions in memory, and wants to know what becomes of them elsewhere.
pub trait Watch: Send + Sync {
    /// Whether it holds this one. [`SessionKey::BROADCAST`]: whether it hears broadcasts.
    fn watches(&self, key: SessionKey) -> bool;

    /// All that it holds.
    fn watched(&self) -> Vec<SessionKey>;

    /// The results of a session that something here waits for: what was reported of them may have been missed.
    fn awaited(&self, _key: SessionKey) -> Vec<String> {
        Vec::new()
    }

    /// Its document is another one now.
    fn document(&self, key: SessionKey, doc: &Arc<Doc>);

    /// It was ended.
    fn ended(&self, key: SessionKey);

    /// Its log may have more than what is held.
    fn log(&self, key: SessionKey);

    /// Changes that nobody keeps may have been missed.
    fn lapsed(&self);

    /// A result was reported, of this session or of none, here or elsewhere. Called in between other work: short.
    fn reported(&self, _key: SessionKey, _name: &str) {}

    /// The link to a shard is in this state now. Called in between other work: short.
    fn link(&self, _shard: Shard, _state: LinkState) {}

    /// A result was reported.
    fn result(&self, key: SessionKey, name: &str, outcome: Outcome);

    /// A cached value became another one, or is gone.
    fn cached(&self, name: &str) {
        let _ = name;
    }

    /// Tags of cached values were voided elsewhere; none: any may have been.
    fn voided(&self, tags: Option<&[String]>) {
        let _ = tags;
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Look {
    Document(SessionKey),
    Log(SessionKey),
    Result(SessionKey, String),
}

/// What is to be looked at.
#[derive(Default)]
pub(super) struct Woken {
    watch: OnceLock<Arc<dyn Watch>>,
    looks: Mutex<HashSet<Look>>,
    news: Notify,
}

impl Woken {
    pub(super) fn document(&self, key: SessionKey) {
        self.add(key, || Look::Document(key));
    }

    pub(super) fn log(&self, key: SessionKey) {
        self.add(key, || Look::Log(key));
    }

    pub(super) fn result(&self, key: SessionKey, name: String) {
        if let Some(watch) = self.watch.get() {
            watch.reported(key, &name);
        }
        self.add(key, || Look::Result(key, name));
    }

    /// Everything that is watched.
    pub(super) fn all(&self) {
        let Some(watch) = self.watch.get() else { return };
        let keys = watch.watched();
        let awaited: Vec<Look> = keys
            .iter()
            .flat_map(|key| watch.awaited(*key).into_iter().map(|name| Look::Result(*key, name)))
            .collect();
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.extend(awaited);
        for key in keys {
            looks.insert(Look::Log(key));
            if ![SessionKey::BROADCAST, SessionKey::CHANGES, SessionKey::TOPICS].contains(&key) {
                looks.insert(Look::Document(key));
            }
        }
        drop(looks);
        self.news.notify_one();
    }

    pub(super) fn link(&self, shard: Shard, state: LinkState) {
        if let Some(watch) = self.watch.get() {
            watch.link(shard, state);
        }
    }

    pub(super) fn lapsed(&self) {
        if let Some(watch) = self.watch.get() {
            watch.lapsed();
        }
    }

    /// Who watches.
    pub(super) fn watcher(&self) -> Option<&Arc<dyn Watch>> {
        self.watch.get()
    }

    fn add(&self, key: SessionKey, look: impl FnOnce() -> Look) {
        if !self.watch.get().is_some_and(|watch| watch.watches(key)) {
            return;
        }
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() < WOKEN {
            looks.insert(look());
        } else {
            // More than there are sessions to watch, or nearly so.
            drop(looks);
            self.all();
        }
        self.news.notify_one();
    }

    /// Tells who watches what was taken in.
    pub(super) fn absorbed(&self, key: SessionKey, state: Option<&Arc<crate::store::cache::Session>>) {
        let (Some(watch), Some(session)) = (self.watch.get(), state) else { return };
        if watch.watches(key) {
            match session.doc.ended() {
                Some(_) => watch.ended(key),
                None => watch.document(key, &session.doc),
            }
        }
    }

    /// Something could not be looked at: it is with the next news.
    fn put_back(&self, look: Look) {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).insert(look);
    }

    fn take(&self) -> Vec<Look> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }
}

impl Store {
    /// From now on `watch` is told what becomes of sessions elsewhere. Called once, after [`Store::attach`].
    pub fn watch(&self, watch: Arc<dyn Watch>) {
        if let Some(sharing) = self.sharing.get()
            && sharing.woken.watch.set(watch).is_err()
        {
            tracing::error!("two parts of the server want to watch the shared store");
        }
        if let Some(sharing) = self.sharing.get() {
            sharing.woken.all();
        }
    }

    /// The process starts that run, as far as the shared store knows; `None`: nothing is shared, or it is away.
    pub async fn running_starts(&self) -> Option<Vec<Origin>> {
        self.sharing.get()?.remote.instances().await.ok()
    }

    /// Looks at what was heard of, as long as it is polled.
    pub(super) async fn look_around(&self) {
        let Some(sharing) = self.sharing.get() else { return };
        loop {
            sharing.woken.news.notified().await;
            self.look_now().await;
        }
    }

    /// Looks at what was heard of so far. Returns how much that was.
    pub async fn look_now(&self) -> usize {
        let Some(sharing) = self.sharing.get() else { return 0 };
        let looks = sharing.woken.take();
        let count = looks.len();
        futures_util::stream::iter(looks).for_each_concurrent(WOKEN_AT_ONCE, |look| self.look(look)).await;
        count
    }

    async fn look(&self, look: Look) {
        let Some((sharing, watch)) =
            self.sharing.get().and_then(|sharing| Some((sharing, sharing.woken.watch.get()?)))
        else {
            return;
        };
        match look {
            Look::Document(key) => {
                let state: State = match self.refresh(key).await {
                    Ok(state) => state,
                    Err(error) => {
                        tracing::warn!(session = %key, %error, "what another instance wrote could not be taken in");
                        return;
                    }
                };
                if matches!(self.lookup(state), Lookup::Terminated) {
                    watch.ended(key);
                }
            }
            Look::Log(key) => watch.log(key),
            Look::Result(key, name) => match sharing.remote.pull_result(key, &name).await {
                Ok(Some((outcome, _))) => {
                    let payload = sharing.form.read_content(key, &name, &outcome.payload);
                    match payload {
                        Ok(payload) => watch.result(key, &name, Outcome { payload, ..outcome }),
                        Err(error) => {
                            tracing::error!(session = %key, name, %error, "a shared result cannot be read")
                        }
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(session = %key, name, %error, "a shared result is not looked at now");
                    if matches!(error, RemoteError::Away(_)) {
                        sharing.woken.put_back(Look::Result(key, name));
                    }
                }
            },
        }
    }
}
