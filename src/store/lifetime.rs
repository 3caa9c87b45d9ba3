//! How long a session has, and more of it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::cache::Session;
use super::commit::Work;
use super::durable::{Durable, Table, Write};
use super::record::{Head, StoredStamp};
use super::share::{Owed, OwedDoc};
use super::write::Plan;
use super::{Store, StoreError, record};
use crate::base::clock::millis;
use crate::base::ids::SessionKey;

/// How long a session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ttl {
    /// Until it is removed if nobody uses it, milliseconds. Never beyond the deadline.
    pub idle_left_ms: u64,
    /// Until it is over whatever happens, milliseconds.
    pub left_ms: u64,
    /// That moment, in milliseconds since the epoch.
    pub deadline_ms: u64,
}

impl Store {
    /// Notes that a session was used now: its idle time starts anew. Writes at most once per tenth of the idle time,
    /// and nothing at all while the disk takes no writes.
    pub fn touch(&self, key: SessionKey) {
        let now_ms = self.clock.now_ms();
        let session = self.sessions.cached(key);
        let every_ms = self.settings.touch_ms();
        let life = match &session {
            Some(session) if !session.is_live(now_ms) => return,
            Some(session) if !session.life.touch(now_ms, self.settings.idle_ms, every_ms) => return,
            Some(session) => Some(Arc::clone(&session.life)),
            None => None,
        };
        let Some(place) = self.queue.try_place() else {
            if let Some(life) = life {
                life.not_written();
            }
            return;
        };
        let stamp = self.stamp();
        let decide = move |disk: &dyn Durable| match disk.get(Table::Head, key.as_bytes())? {
            Some(stored) => {
                let head: Head = record::decode(&stored)?;
                if head.ended.is_some() || stamp.ms() < head.seen.0.ms().saturating_add(every_ms) {
                    return Ok(Vec::new());
                }
                let head = Head { seen: StoredStamp(stamp), ..head };
                Ok(vec![Write::Put(Table::Head, key.as_bytes().to_vec(), record::encode(&head)?)])
            }
            None => Ok(Vec::new()),
        };
        let mut work = Work::Decide(Box::new(decide));
        // Paid with the next write, or by the healer.
        let owes =
            if life.is_some() { Owed::doc(OwedDoc::Fields(Default::default())) } else { Owed::default() };
        let pledged = self.pledge(key, owes, &mut work);
        let done = move |result: Result<(), StoreError>| {
            if let Some(pledged) = pledged {
                pledged.arrived(result.is_ok());
            }
            if let (Err(_), Some(life)) = (result, life) {
                life.not_written();
            }
        };
        self.queue.submit(place, work, stamp.ms(), Box::new(done));
    }

    /// How long a session has.
    ///
    /// # Errors
    /// [`StoreError::Gone`]; failures of the disk.
    pub async fn ttl(&self, key: SessionKey) -> Result<Ttl, StoreError> {
        let now_ms = self.clock.now_ms();
        let session = self.committed(key).await?.filter(|session| session.is_live(now_ms));
        session.map(|session| ttl(&session, now_ms)).ok_or(StoreError::Gone)
    }

    /// Keeps a session for at least `idle_for` from now, even if nobody uses it. Never shortens what it has. Resolves
    /// when the disk has it.
    ///
    /// # Errors
    /// [`StoreError::BeyondDeadline`] when that would be after its deadline; [`StoreError::Gone`]; failures of the
    /// disk. Nothing is changed then.
    pub async fn extend(&self, key: SessionKey, idle_for: Duration) -> Result<Ttl, StoreError> {
        let now_ms = self.clock.now_ms();
        let until_ms = now_ms.saturating_add(millis(idle_for));
        let session = self.write(key, self.place().await?, |current| {
            let session =
                current.as_ref().filter(|session| session.is_live(now_ms)).ok_or(StoreError::Gone)?;
            let deadline_ms = session.doc.deadline_ms();
            if until_ms > deadline_ms {
                return Err(StoreError::BeyondDeadline {
                    deadline_ms,
                    left_ms: deadline_ms.saturating_sub(now_ms),
                });
            }
            let life = Arc::clone(&session.life);
            // On the commit thread: uses change the same row there.
            let decide = move |disk: &dyn Durable| match disk.get(Table::Head, key.as_bytes())? {
                Some(stored) => {
                    let head: Head = record::decode(&stored)?;
                    life.extend(until_ms);
                    let head = Head { keep_ms: head.keep_ms.max(until_ms), ..head };
                    Ok(vec![Write::Put(Table::Head, key.as_bytes().to_vec(), record::encode(&head)?)])
                }
                None => Ok(Vec::new()),
            };
            let value = Arc::clone(session);
            Ok(Plan {
                next: current.clone(),
                work: Work::Decide(Box::new(decide)),
                newest_ms: 0,
                owes: Owed::default(),
                value,
            })
        });
        Ok(ttl(&*session.await?, now_ms))
    }
}

fn ttl(session: &Session, now_ms: u64) -> Ttl {
    let deadline_ms = session.doc.deadline_ms();
    let left = |until_ms: u64| until_ms.min(deadline_ms).saturating_sub(now_ms);
    Ttl { idle_left_ms: left(session.life.until_ms()), left_ms: left(deadline_ms), deadline_ms }
}
