//! The cache: values that may be forgotten at any time, under keys of the caller. In memory, bounded by bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;

use super::locks::check_name;
use super::{Store, StoreError};
use crate::base::clock::millis;
use crate::base::limits::CACHE_BYTES;

/// What an entry takes beside key and value, bytes.
const ENTRY_BYTES: usize = 200;
/// One value takes at most this part of the cache: else it would push out all others.
const SHARE: u64 = 8;

/// The cached values, each with the moment up to which it counts, on the clock that never goes back.
pub(super) struct Values(Cache<Arc<str>, (Bytes, u64)>);

impl Values {
    /// Values of up to `bytes` together.
    pub(super) fn new(bytes: u64) -> Self {
        let weigh = |key: &Arc<str>, value: &(Bytes, u64)| {
            u32::try_from(key.len() + value.0.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(bytes).weigher(weigh).build())
    }

    /// Forgets a value.
    pub(super) fn forget(&self, key: &str) {
        self.0.invalidate(key);
    }

    /// Forgets all of them.
    pub(super) fn forget_all(&self) {
        self.0.invalidate_all();
    }
}

impl Store {
    /// A cached value, if it is still there.
    #[must_use]
    pub fn cache_get(&self, key: &str) -> Option<Bytes> {
        let (value, until_ms) = self.values.0.get(key)?;
        if self.clock.monotonic_ms() < until_ms {
            return Some(value);
        }
        self.values.0.invalidate(key);
        None
    }

    /// Caches a value for `ttl`, or less: what was used longest ago leaves when room is needed, and nothing survives a
    /// restart.
    ///
    /// # Errors
    /// [`StoreError::Cap`] for a value that is too long to be cached, [`StoreError::Invalid`] for a bad key.
    pub fn cache_put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), StoreError> {
        check_name("a cached value", key)?;
        if value.len() as u64 > CACHE_BYTES / SHARE {
            return Err(StoreError::Cap(format!(
                "a value of {} bytes is too long for the cache: it takes {} at most",
                value.len(),
                CACHE_BYTES / SHARE
            )));
        }
        let until_ms = self.clock.monotonic_ms().saturating_add(millis(ttl));
        // A short value that is part of a long buffer would keep all of it.
        self.values.0.insert(key.into(), (Bytes::copy_from_slice(&value), until_ms));
        Ok(())
    }
}
