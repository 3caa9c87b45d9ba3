//! How many locks are held, and how many were asked for in vain.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Locks, Scope};
use crate::store::Store;

/// How many locks there are, as this instance knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LockCounts {
    /// Held on this instance alone.
    pub instance: usize,
    /// Held among all instances, and taken or renewed here.
    pub global: usize,
    /// Asked for on this instance alone, and not given.
    pub refused_instance: u64,
    /// Asked for among all instances, and not given.
    pub refused_global: u64,
}

impl Locks {
    /// Counts a lock that was asked for and not given.
    pub(super) fn refused(&self, scope: Scope) {
        let count = match scope {
            Scope::Global => &self.refused_global,
            Scope::Instance => &self.refused_instance,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Store {
    /// Numbers of locks.
    #[must_use]
    pub fn lock_counts(&self) -> LockCounts {
        let known = self.locks.known();
        let now_ms = self.clock.monotonic_ms();
        let held = known.by_name.values().filter(|held| held.register.left_ms(now_ms) > 0);
        let mut counts = LockCounts::default();
        for held in held {
            match held.scope {
                Scope::Global => counts.global += 1,
                Scope::Instance => counts.instance += 1,
            }
        }
        (counts.refused_instance, counts.refused_global) = self.locks_refused();
        counts
    }

    /// Locks that were asked for and not given: on this instance, among all.
    #[must_use]
    pub fn locks_refused(&self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.locks.refused_instance), count(&self.locks.refused_global))
    }
}
