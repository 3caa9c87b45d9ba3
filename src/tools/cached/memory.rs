//! The tier in memory, bounded by bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::notification::RemovalCause;
use moka::sync::Cache;

use super::kept::Kept;
use super::key::Key;

/// What an entry takes beside what is kept, bytes.
const ENTRY_BYTES: usize = 320;
/// One result takes at most this part of it: else it would push out all others.
const SHARE: u64 = 8;

/// The shared tier may have a newer one, whatever its epoch.
pub(super) const NEVER: u64 = u64::MAX;

/// A kept result in memory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kept: Kept,
    /// It counts up to this moment, milliseconds on the clock that never goes back.
    pub(super) until_ms: u64,
    /// The number of the last voiding when its making began.
    pub(super) since: u64,
    /// The epoch in which the shared tier was known to have no newer one, or [`NEVER`].
    pub(super) epoch: AtomicU64,
}

impl Entry {
    /// What it takes, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.kept.bytes() + ENTRY_BYTES
    }
}

pub(super) struct Memory {
    cache: Cache<Key, Arc<Entry>>,
    bytes: u64,
    evicted: Arc<AtomicU64>,
}

impl Memory {
    pub(super) fn new(bytes: u64) -> Self {
        let evicted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&evicted);
        let weigh = |_: &Key, entry: &Arc<Entry>| u32::try_from(entry.bytes()).unwrap_or(u32::MAX);
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(weigh)
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self { cache, bytes, evicted }
    }

    /// What one result may take, bytes.
    pub(super) fn most_each(&self) -> u64 {
        self.bytes / SHARE
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.cache.get(key)
    }

    pub(super) fn put(&self, key: Key, entry: Arc<Entry>) {
        self.cache.insert(key, entry);
    }

    pub(super) fn forget(&self, key: &Key) {
        self.cache.invalidate(key);
    }

    /// Forgets what was found to be of no use, unless there is another one by now.
    pub(super) fn forget_if(&self, key: &Key, entry: &Arc<Entry>) {
        if self.cache.get(key).is_some_and(|held| Arc::ptr_eq(&held, entry)) {
            self.cache.invalidate(key);
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (Key, Arc<Entry>)> + '_ {
        self.cache.iter().map(|(key, entry)| (*key, entry))
    }

    /// Entries, what they take, how many left to make room, what they may take.
    pub(super) fn sizes(&self) -> (u64, u64, u64, u64) {
        self.cache.run_pending_tasks();
        let evicted = self.evicted.load(Ordering::Relaxed);
        (self.cache.entry_count(), self.cache.weighted_size(), evicted, self.bytes)
    }
}
