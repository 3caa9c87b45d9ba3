//! Session documents in memory, as the disk has them.
//!
//! Entries are put in and taken out only under the lock of `sessions::Sessions` that belongs to their key, so an old
//! document never comes back after a newer one: a reader that was slower than a write is told to read again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::base::ids::SessionKey;
use crate::state::doc::Doc;

/// What a document takes beside its values, and what each of its fields takes beside name and value, bytes.
const DOCUMENT_BYTES: usize = 400;
const FIELD_BYTES: usize = 120;

/// Until when a session lives if nobody uses it. Shared by all versions of its document in memory.
#[derive(Debug)]
pub(super) struct Life {
    until_ms: AtomicU64,
    seen_ms: AtomicU64,
    written_ms: AtomicU64,
    fresh: AtomicU64,
}

/// The lowest bit of `Life::fresh`: the rest is the number of an epoch, else that of a look at the shared store.
const CONFIRMED: u64 = 1;

impl Life {
    /// Until `until_ms`; the disk knows of a use at `written_ms`.
    pub(super) fn new(until_ms: u64, written_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            until_ms: AtomicU64::new(until_ms),
            seen_ms: AtomicU64::new(written_ms),
            written_ms: AtomicU64::new(written_ms),
            fresh: AtomicU64::new(0),
        })
    }

    /// Whether what is held is what the shared store had at the last event of this epoch, which is not 0.
    pub(super) fn is_fresh(&self, epoch: u64) -> bool {
        self.fresh.load(Ordering::Acquire) == (epoch << 1 | CONFIRMED)
    }

    /// The shared store is looked at now, under a number that nobody else has.
    pub(super) fn look(&self, number: u64) {
        self.fresh.store(number << 1, Ordering::Release);
    }

    /// What was seen under that number is what is held; unless it was changed or looked at again in the meantime.
    pub(super) fn confirm(&self, number: u64, epoch: u64) {
        // A later look confirms for itself.
        let _ = self.fresh.compare_exchange(
            number << 1,
            epoch << 1 | CONFIRMED,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    }

    /// The shared store has something else.
    pub(super) fn stale(&self) {
        self.fresh.store(0, Ordering::Release);
    }

    /// The last use was not after `now_ms`: the clock was ahead.
    pub(super) fn set_back(&self, now_ms: u64) {
        self.seen_ms.fetch_min(now_ms, Ordering::Relaxed);
    }

    /// The last use, in milliseconds since the epoch.
    pub(super) fn seen_ms(&self) -> u64 {
        self.seen_ms.load(Ordering::Relaxed)
    }

    /// It lives at least until then.
    pub(super) fn extend(&self, until_ms: u64) {
        self.until_ms.fetch_max(until_ms, Ordering::Relaxed);
    }

    /// The moment, in milliseconds since the epoch.
    pub(super) fn until_ms(&self) -> u64 {
        self.until_ms.load(Ordering::Relaxed)
    }

    /// A use at `now_ms`, unless it is too late for one. True when the disk should hear of it, which is said to one
    /// caller per `every_ms`.
    pub(super) fn touch(&self, now_ms: u64, idle_ms: u64, every_ms: u64) -> bool {
        let renewed = self.until_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            (now_ms < until).then(|| until.max(now_ms.saturating_add(idle_ms)))
        });
        if renewed.is_ok() {
            self.seen_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
        let written = self.written_ms.load(Ordering::Relaxed);
        renewed.is_ok()
            && now_ms >= written.saturating_add(every_ms)
            && self.written_ms.compare_exchange(written, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The disk did not hear of it.
    pub(super) fn not_written(&self) {
        self.written_ms.store(0, Ordering::Relaxed);
    }
}

/// A session as it is known here: living, or ended and not yet forgotten.
#[derive(Debug)]
pub(super) struct Session {
    /// Its document.
    pub(super) doc: Arc<Doc>,
    /// Until when it lives.
    pub(super) life: Arc<Life>,
    /// Its birth, in milliseconds since the epoch; 0: not known.
    pub(super) created_ms: u64,
}

impl Session {
    /// Whether nothing is left of it: its deadline is over, or nobody used it for too long.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.doc.deadline_ms() || (self.doc.ended().is_none() && now_ms >= self.life.until_ms())
    }

    /// Whether it can be read and written.
    pub(super) fn is_live(&self, now_ms: u64) -> bool {
        self.doc.ended().is_none() && !self.is_over(now_ms)
    }
}

/// The cache, bounded by bytes; what was used longest ago leaves first.
pub(super) struct Documents(Cache<SessionKey, Arc<Session>>);

impl Documents {
    pub(super) fn new(bytes: u64) -> Self {
        let weigh = |_: &SessionKey, session: &Arc<Session>| {
            let fields = session.doc.stamped().count() * FIELD_BYTES;
            u32::try_from(session.doc.bytes() + fields + DOCUMENT_BYTES).unwrap_or(u32::MAX)
        };
        let policy = EvictionPolicy::lru();
        Self(Cache::builder().max_capacity(bytes).weigher(weigh).eviction_policy(policy).build())
    }

    pub(super) fn get(&self, key: SessionKey) -> Option<Arc<Session>> {
        self.0.get(&key)
    }

    pub(super) fn put(&self, key: SessionKey, session: Option<Arc<Session>>) {
        match session {
            Some(session) => self.0.insert(key, session),
            None => self.0.invalidate(&key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_uses_one_per_interval_is_written() {
        let life = Life::new(1_000, 0);
        assert!(life.touch(100, 1_000, 100));
        assert!(!life.touch(150, 1_000, 100));
        assert_eq!(life.until_ms(), 1_150);
        assert!(life.touch(200, 1_000, 100));
        life.not_written();
        assert!(life.touch(201, 1_000, 100));
    }

    #[test]
    fn a_use_after_the_end_of_its_time_revives_nothing() {
        let life = Life::new(1_000, 0);
        assert!(!life.touch(1_000, 1_000, 100));
        assert_eq!(life.until_ms(), 1_000);
    }
}
