//! Paying what a session owes to the shared store.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::debts::Due;
use super::form::Form;
use super::risk::Paid;
use super::{Owed, OwedDoc, Sharing};
use crate::base::ids::SessionKey;
use crate::base::limits::{PAY_AGAIN, PAY_AT_MOST, PUSH_BYTES, PUSH_FIELDS};
use crate::state::doc::Doc;
use crate::state::stamp::Stamp;
use crate::store::cache::Session;
use crate::store::remote::{DocPush, RemoteError, SharedField};
use crate::store::{Store, StoreError};

/// Why a debt was not paid.
pub(super) enum Unpaid {
    /// The shared store is away, or refuses writes: it stays owed.
    Away,
    /// It says that a stamp lies ahead of its clock, which says so many milliseconds since the epoch.
    Skew(u64),
    /// It says that a field is there with this stamp and another value.
    Fork,
    /// It did not understand.
    Fault(String),
    /// What is to be paid cannot be read here.
    Here(String),
}

impl From<RemoteError> for Unpaid {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Away(_) | RemoteError::Refuses(_) => Self::Away,
            RemoteError::Skew { now_ms } => Self::Skew(now_ms),
            RemoteError::Fork { .. } => Self::Fork,
            RemoteError::Fault(text) => Self::Fault(text.to_string()),
        }
    }
}

/// A payment under way. Who gives up in the middle of it leaves all of it owed.
struct Paying<'a> {
    sharing: &'a Sharing,
    key: SessionKey,
    owed: Option<Owed>,
    number: u64,
}

impl Paying<'_> {
    fn done(mut self) {
        self.owed = None;
        self.sharing.debts.settle(self.key, Ok(self.number));
    }

    fn later(mut self, not_before_ms: u64) {
        self.unpaid(not_before_ms);
    }

    fn unpaid(&mut self, not_before_ms: u64) {
        if let Some(owed) = self.owed.take() {
            self.sharing.conflicts.at_risk.unpaid(self.key);
            self.sharing.debts.settle(self.key, Err((owed, not_before_ms)));
        }
    }
}

impl Drop for Paying<'_> {
    fn drop(&mut self) {
        self.unpaid(0);
    }
}

impl Store {
    /// Pays what a session owes, up to the debt of this number. Returns when that is paid, or cannot be paid now: it
    /// stays owed then, and is on the disk.
    pub(in crate::store) async fn pay(&self, key: SessionKey, number: Option<u64>) {
        let Some(sharing) = self.sharing.get() else { return };
        loop {
            if !sharing.is_up(key) {
                return;
            }
            match sharing.debts.due(key, number) {
                Due::Paid => return,
                Due::Wait(told) => {
                    // Told in any case: what pays settles when it is dropped.
                    let _ = told.await;
                }
                Due::Pay(owed, up_to) => {
                    let task = self.payment(Arc::clone(sharing), key, owed, up_to);
                    if !tokio::spawn(task).await.unwrap_or(false) {
                        return;
                    }
                }
            }
        }
    }

    /// Pays, in a task of its own: a caller may be one of several futures of a task that waits for another one of them,
    /// which waits for this. False: it could not be done.
    fn payment(
        &self,
        sharing: Arc<Sharing>,
        key: SessionKey,
        owed: Owed,
        number: u64,
    ) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let store = sharing.store.upgrade();
        Box::pin(async move {
            let paying = Paying { sharing: &sharing, key, owed: Some(owed.clone()), number };
            let Some(store) = store else { return false };
            // Every step has its own bound; should one not end all the same, nobody else waits for it for ever.
            let paid = tokio::time::timeout(PAY_AT_MOST, store.pay_all(&sharing, key, owed, paying)).await;
            paid.unwrap_or_else(|_| {
                tracing::warn!(session = %key, "paying what a session owes took too long: it is tried again");
                false
            })
        })
    }

    /// Offers everything that is held of a session, owed or not. False: it cannot be done now.
    pub(super) async fn offer(&self, sharing: &Sharing, key: SessionKey) -> bool {
        sharing.debts.owe_unwritten(key, Owed::all());
        self.pay(key, None).await;
        sharing.is_up(key)
    }

    async fn pay_all(&self, sharing: &Sharing, key: SessionKey, owed: Owed, paying: Paying<'_>) -> bool {
        let mut again = 0;
        let unpaid = loop {
            match self.push(sharing, key, &owed).await {
                Ok(()) => {
                    paying.done();
                    return true;
                }
                Err(Unpaid::Skew(now_ms)) if again == 0 => {
                    again += 1;
                    if let Err(error) = self.restamp(sharing, key, now_ms).await {
                        break Unpaid::Here(error.to_string());
                    }
                }
                Err(Unpaid::Fork) if again == 0 => {
                    // Perhaps only sealed with another key. What is there is taken in, and is not offered again.
                    again += 1;
                    if let Err(error) = self.refresh(key).await {
                        break Unpaid::Here(error.to_string());
                    }
                }
                Err(unpaid) => break unpaid,
            }
        };
        let later_ms = self.clock.monotonic_ms().saturating_add(PAY_AGAIN.as_millis() as u64);
        match unpaid {
            Unpaid::Away => {
                tracing::debug!(session = %key, "what a session owes cannot be paid now");
                paying.later(0);
            }
            Unpaid::Here(error) => {
                tracing::warn!(session = %key, error, "what a session owes to the shared store cannot be read here now");
                paying.later(later_ms);
            }
            Unpaid::Skew(_) => paying.later(later_ms),
            Unpaid::Fault(error) => {
                sharing.counts.faults.fetch_add(1, Ordering::Relaxed);
                tracing::error!(session = %key, error, "the shared store does not understand what a session owes: it is tried again later");
                paying.later(later_ms);
            }
            Unpaid::Fork => {
                sharing.counts.forks.fetch_add(1, Ordering::Relaxed);
                tracing::error!(session = %key, "another process writes under the name of this process start: this \
                    machine or its memory was cloned; restart this instance");
                paying.later(later_ms);
            }
        }
        false
    }

    async fn push(&self, sharing: &Sharing, key: SessionKey, owed: &Owed) -> Result<(), Unpaid> {
        let here = |error: StoreError| Unpaid::Here(error.to_string());
        let expires_ms = if key == SessionKey::BROADCAST {
            self.clock.now_ms().saturating_add(self.settings.keep_ms)
        } else {
            // Its time was over and nobody else needs to know what it owed.
            let Some(session) = self.committed(key).await.map_err(here)? else {
                sharing.conflicts.at_risk.forget(key);
                return Ok(());
            };
            self.push_session(sharing, key, &session, &owed.doc).await?;
            if session.doc.ended().is_some() {
                sharing.conflicts.at_risk.forget(key);
                // After the end itself: who reads the log finds that it has ended.
                return Ok(sharing.remote.end_log(key, session.doc.deadline_ms()).await?);
            }
            session.doc.deadline_ms()
        };
        if owed.log {
            let log = self.log(key).await.map_err(here)?;
            let origins: Vec<_> = log.marks().map(|(origin, ..)| origin).collect();
            for origin in origins {
                self.push_run_of(sharing, key, &log, origin, expires_ms).await?;
            }
        }
        for (origin, run) in &owed.runs {
            match &run.entries {
                Some(entries) => {
                    let entries = entries.iter().cloned().collect();
                    self.push_run(sharing, key, *origin, run.first, entries, expires_ms).await?;
                }
                None => {
                    let log = self.log(key).await.map_err(here)?;
                    self.push_run_of(sharing, key, &log, *origin, expires_ms).await?;
                }
            }
        }
        self.push_results(sharing, key, owed).await
    }

    async fn push_session(
        &self,
        sharing: &Sharing,
        key: SessionKey,
        session: &Session,
        owed: &OwedDoc,
    ) -> Result<(), Unpaid> {
        let here = |error: StoreError| Unpaid::Here(error.to_string());
        let doc = &session.doc;
        let names: Vec<&str> = match owed {
            OwedDoc::Nothing => return Ok(()),
            OwedDoc::Fields(names) => names.iter().map(|name| &**name).collect(),
            OwedDoc::All => doc.stamped().map(|(name, _)| name).collect(),
        };
        let mut head = Vec::new();
        if let Some(ended) = doc.ended() {
            head.push(Form::ended(ended, doc.deadline_ms()));
        } else {
            head.push(sharing.form.birth(key, doc).map_err(here)?);
            let used = Stamp::new(session.life.seen_ms(), 0, self.origin);
            head.push(Form::seen(doc.seen().map_or(used, |seen| seen.max(used))));
        }
        let mut fields = std::mem::take(&mut head);
        let mut bytes = 0;
        for field in names.iter().filter_map(|name| doc.field(name).map(|field| (name, field))) {
            let form = sharing.form.field(key, field.0, field.1).map_err(here)?;
            if fields.len() >= PUSH_FIELDS || (bytes > 0 && bytes + form.value.len() > PUSH_BYTES) {
                self.push_fields(sharing, key, doc, std::mem::take(&mut fields)).await?;
                bytes = 0;
            }
            bytes += form.value.len();
            fields.push(form);
        }
        match fields.is_empty() {
            true => Ok(()),
            false => self.push_fields(sharing, key, doc, fields).await,
        }
    }

    async fn push_fields(
        &self,
        sharing: &Sharing,
        key: SessionKey,
        doc: &Doc,
        fields: Vec<SharedField>,
    ) -> Result<(), Unpaid> {
        let push = DocPush {
            fields: fields.clone(),
            idle_ms: self.settings.idle_ms,
            deadline_ms: doc.deadline_ms(),
        };
        let begun = Instant::now();
        // Nobody has seen what is paid before this moment.
        let paid = Paid { seen_ms: self.shared_now_ms(), now_ms: self.clock.monotonic_ms() };
        let merged = sharing.remote.push_doc(key, push).await;
        sharing.pace.saw(begun.elapsed());
        let merged = merged?;
        let copy = match sharing.form.doc(key, &merged.fields) {
            Ok(Some(copy)) => copy,
            Ok(None) => return Ok(()),
            Err(error) => return Err(Unpaid::Here(error.to_string())),
        };
        // What stands in the place of the others is taken in, which notes what is lost by that.
        let taken = fields.iter().filter_map(|offered| {
            let stands = copy.field(&offered.name)?;
            (stands.stamp == offered.stamp).then_some((&*offered.name, offered.stamp))
        });
        sharing.conflicts.at_risk.paid(key, taken, paid);
        self.absorb(key, copy).await.map(drop).map_err(|error| Unpaid::Here(error.to_string()))
    }

    /// Stamps fields anew that carry stamps from the future of the shared clock.
    async fn restamp(&self, sharing: &Sharing, key: SessionKey, now_ms: u64) -> Result<(), StoreError> {
        sharing.counts.restamped.fetch_add(1, Ordering::Relaxed);
        tracing::error!(session = %key, shared_clock_ms = now_ms, own_clock_ms = self.clock.now_ms(),
            "this machine's clock is ahead of the shared store's: set it right; what was written is stamped anew");
        self.restamp_from(key, now_ms).await?;
        if let Some(session) = self.committed(key).await? {
            sharing.conflicts.at_risk.restamped(key, &session.doc, self.origin);
        }
        Ok(())
    }
}
