//! How long a call may take.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::tools::Outbox;

/// The end of a call's time. People take longer to answer than programs: while the call waits for its client's answer
/// its time begins anew. A task has a time of its own.
pub(in crate::tools) async fn deadline(within: Duration, asking: &AtomicUsize, out: &Arc<dyn Outbox>) {
    if within.is_zero() || out.is_timed() {
        return pending().await;
    }
    loop {
        sleep(within).await;
        if asking.load(Ordering::Relaxed) == 0 && !out.is_task() {
            return;
        }
    }
}
