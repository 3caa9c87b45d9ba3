//! The breaker of a remote server: a server that fails is left alone for a while, and looked at before it is called again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::time::{Instant, sleep_until};

use super::Inner;
use super::failure::{Failure, Kind, Trouble};
use super::meet::probe;
use crate::base::limits::BREAKER_PROBE_PATIENCE;
use crate::tools::breaker::{Breaker, BreakerState, Refusal, Ticket};

/// The breaker and what is counted with it.
#[derive(Debug, Default)]
pub(super) struct Guard {
    breaker: Mutex<Breaker>,
    pub(super) failures: AtomicU64,
    pub(super) last_failure: ArcSwapOption<String>,
}

impl Guard {
    pub(super) fn state(&self) -> BreakerState {
        self.lock().state()
    }

    /// Why the server is not called, if it is not.
    pub(super) fn refused(&self) -> Option<Refusal> {
        self.lock().refused(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Lets a request to the server through.
    pub(super) fn admit(&self) -> Result<Ticket, Failure> {
        let admitted = self.guard.lock().admit(Instant::now());
        admitted.map_err(|refusal| {
            let what = format!("is {refusal}");
            self.common.http.trouble(Kind::Open, false, &what).into()
        })
    }

    /// Reports how it ended.
    pub(super) fn judged<T>(self: &Arc<Self>, ticket: &Ticket, outcome: &Result<T, Failure>) {
        match outcome {
            Err(Failure::Trouble(trouble)) if trouble.is_down() => self.failed(ticket, trouble),
            Err(Failure::Trouble(Trouble { kind: Kind::Open | Kind::Closed, .. })) => {}
            Ok(_) | Err(_) => self.guard.lock().succeeded(ticket, Instant::now()),
        }
    }

    /// Reports that the server does not work.
    pub(super) fn failed(self: &Arc<Self>, ticket: &Ticket, trouble: &Trouble) {
        self.guard.failures.fetch_add(1, Ordering::Relaxed);
        self.metrics.failures.inc();
        self.guard.last_failure.store(Some(Arc::new(trouble.why.to_string())));
        let opened = self.guard.lock().failed(ticket, Instant::now(), &trouble.why);
        if opened {
            self.metrics.openings.inc();
            tracing::warn!("{trouble}; it is not called any more until it answers again");
            let (inner, closing) = (Arc::downgrade(self), self.common.closing.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = closing.cancelled() => {}
                    () = look_after(inner) => {}
                }
            });
        }
    }
}

/// Looks whether the server is there again, at the times that its breaker names, until it is.
async fn look_after(inner: std::sync::Weak<Inner>) {
    loop {
        let due = {
            let Some(inner) = inner.upgrade() else { return };
            let due = inner.guard.lock().probe_at();
            let Some(due) = due else { return };
            due
        };
        sleep_until(due).await;
        let Some(inner) = inner.upgrade() else { return };
        let ticket = inner.guard.lock().probe(Instant::now());
        let Some(ticket) = ticket else {
            // Another one looks.
            sleep_until(Instant::now() + BREAKER_PROBE_PATIENCE / 10).await;
            continue;
        };
        let seen = probe(&inner.common, inner.credentials.common(), inner.is_sse()).await;
        match seen {
            Ok(()) => {
                inner.guard.lock().succeeded(&ticket, Instant::now());
                tracing::info!(server = %inner.common.http.server, "the server answers again");
                // It may have been replaced by another version of itself.
                inner.common.look_again.notify_one();
                return;
            }
            Err(trouble) => {
                inner.guard.lock().failed(&ticket, Instant::now(), &trouble.why);
                tracing::debug!("{trouble}");
            }
        }
    }
}
