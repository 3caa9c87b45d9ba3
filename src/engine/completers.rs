//! How often each caller may ask for completion (MCP 2025-11-25, completion: servers should limit it).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::clock::SharedClock;
use crate::base::limits::COMPLETERS;
use crate::rpc::error::RpcError;
use crate::state::quota::{Bucket, Rate};

/// The callers that asked lately.
pub(super) struct Completers {
    rate: Rate,
    clock: SharedClock,
    buckets: Mutex<HashMap<Arc<str>, Bucket>>,
}

impl Completers {
    pub(super) fn new(per_second: u64, clock: SharedClock) -> Self {
        Self { rate: Rate::per_second(per_second), clock, buckets: Mutex::default() }
    }

    /// Counts a request of `principal`.
    ///
    /// # Errors
    /// -32603 with `data.retryAfterMs` when it is one too many.
    pub(super) fn take(&self, principal: &Arc<str>) -> Result<(), RpcError> {
        let now_ms = self.clock.monotonic_ms();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= COMPLETERS && !buckets.contains_key(principal) {
            buckets.retain(|_, bucket| !bucket.is_full(self.rate, now_ms));
            if buckets.len() >= COMPLETERS {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(Arc::clone(principal)).or_insert_with(|| Bucket::full(self.rate, now_ms));
        bucket.take(self.rate, now_ms).map_err(|wait_ms| {
            RpcError::internal(format!(
                "too many requests for completion: the next one is served in {wait_ms} ms"
            ))
            .with_data(&serde_json::json!({ "reason": "rate limited", "retryAfterMs": wait_ms }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::ManualClock;

    #[test]
    fn callers_are_counted_apart_and_their_number_is_bounded() {
        let completers = Completers::new(1, ManualClock::at(0));
        let (one, other): (Arc<str>, Arc<str>) = (Arc::from("one"), Arc::from("other"));
        assert!(completers.take(&one).is_ok() && completers.take(&one).is_ok());
        let refused = completers.take(&one).unwrap_err();
        assert_eq!(refused.code, -32_603);
        assert!(refused.data.unwrap().get().contains("\"retryAfterMs\":1000"));
        assert!(completers.take(&other).is_ok());
        for number in 0..COMPLETERS * 2 {
            let _ = completers.take(&Arc::from(number.to_string()));
        }
        assert!(completers.buckets.lock().unwrap().len() <= COMPLETERS);
    }
}
