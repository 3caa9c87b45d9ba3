//! What is known of sessions in memory, and the order of writes to each.
//!
//! A session that is being written has two states: what the disk has, which readers see, and what the last queued
//! write makes of it, on which the next write builds. The lock under which a write takes its place in the order is
//! held for the decision alone, never while the disk works.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StoreError;
use super::cache::{Documents, Session};
use crate::base::ids::SessionKey;
pub(super) use crate::state::quota::Counts;

/// Locks over all sessions. Many, because a write to one session makes readers of the disk under the same lock start
/// over.
const SHARDS: usize = 1_024;

/// A session, or nothing.
pub(super) type State = Option<Arc<Session>>;

/// Where the committed state of a session can be had.
pub(super) enum Committed {
    /// Here it is.
    Known(State),
    /// On the disk; what is read there counts if the number has not changed by then.
    Read(u64),
}

#[derive(Default)]
pub(super) struct Shard {
    /// Rises when the last queued write of a session is done.
    epoch: u64,
    writing: HashMap<SessionKey, Writing>,
}

struct Writing {
    committed: State,
    latest: State,
    in_flight: u32,
    failed: bool,
}

impl Shard {
    /// Notes that a write was queued which makes `next` of `current`.
    pub(super) fn begin(&mut self, key: SessionKey, current: State, next: State) {
        let writing = self.writing.entry(key).or_insert_with(|| Writing {
            committed: current,
            latest: None,
            in_flight: 0,
            failed: false,
        });
        writing.latest = next;
        writing.in_flight += 1;
    }

    /// Whether a write of this session waits for the disk.
    pub(super) fn is_writing(&self, key: SessionKey) -> bool {
        self.writing.contains_key(&key)
    }
}

/// All that is known of sessions in memory.
pub(super) struct Sessions {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    documents: Documents,
    counts: Mutex<Counts>,
}

impl Sessions {
    pub(super) fn new(cache_bytes: u64, counts: Counts) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            documents: Documents::new(cache_bytes),
            counts: Mutex::new(counts),
        })
    }

    /// The committed state, if it is in the cache.
    pub(super) fn cached(&self, key: SessionKey) -> State {
        self.documents.get(key)
    }

    /// The committed state, or that it must be read.
    pub(super) fn committed(&self, key: SessionKey) -> Committed {
        let shard = self.shard(key);
        match shard.writing.get(&key) {
            Some(writing) => Committed::Known(writing.committed.clone()),
            None => match self.documents.get(key) {
                Some(session) => Committed::Known(Some(session)),
                None => Committed::Read(shard.epoch),
            },
        }
    }

    /// Takes in what was read from the disk. False if it may be outdated: read again.
    pub(super) fn settle(&self, key: SessionKey, epoch: u64, read: &State) -> bool {
        let shard = self.shard(key);
        if shard.epoch != epoch || shard.writing.contains_key(&key) {
            return false;
        }
        if read.is_some() && self.documents.get(key).is_none() {
            self.documents.put(key, read.clone());
        }
        true
    }

    /// Whether the session was not written since it was said that it must be read from the disk.
    pub(super) fn is_settled(&self, key: SessionKey, epoch: u64) -> bool {
        let shard = self.shard(key);
        shard.epoch == epoch && !shard.writing.contains_key(&key)
    }

    /// Calls `f` with the state on which the next write builds, under the lock that gives writes of this session
    /// their order. Gives `f` back, and the number for [`Sessions::settle`], when the disk must be read first.
    pub(super) fn with_latest<F, T>(
        &self,
        key: SessionKey,
        read: Option<(u64, State)>,
        f: F,
    ) -> Result<T, (u64, F)>
    where
        F: FnOnce(&mut Shard, State) -> T,
    {
        let mut shard = self.shard(key);
        let latest = match shard.writing.get(&key) {
            Some(writing) => writing.latest.clone(),
            None => match (self.documents.get(key), read) {
                (Some(session), _) => Some(session),
                (None, Some((epoch, state))) if epoch == shard.epoch => state,
                _ => return Err((shard.epoch, f)),
            },
        };
        Ok(f(&mut shard, latest))
    }

    /// The write that makes `next` is done. After a failure readers go on seeing what was there before, although the
    /// disk may have the write.
    pub(super) fn finish(&self, key: SessionKey, next: State, result: &Result<(), StoreError>) {
        let mut shard = self.shard(key);
        let Some(writing) = shard.writing.get_mut(&key) else { return };
        writing.in_flight = writing.in_flight.saturating_sub(1);
        if result.is_ok() {
            writing.committed = next.clone();
            self.documents.put(key, next);
        } else {
            writing.failed = true;
        }
        if writing.in_flight == 0 && !writing.failed {
            shard.writing.remove(&key);
            shard.epoch += 1;
        }
    }

    /// The counters.
    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, key: SessionKey) -> MutexGuard<'_, Shard> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        #[expect(clippy::indexing_slicing, reason = "there are SHARDS of them")]
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
