//! What is done for a remote server while nobody asks for anything: sessions that nobody uses are let go of, those that are
//! waited by are made anew, and lists that may have changed are looked at.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Inner;
use crate::base::backoff::Backoff;
use crate::base::limits::{UPSTREAM_REOPEN, UPSTREAM_SWEEP, UPSTREAM_TELL};

impl Inner {
    /// Sessions that nobody used for a while are let go of, and lists are looked at again when they may have changed.
    pub(super) fn keep_from_now_on(self: &Arc<Self>) {
        self.keeper.get_or_init(|| {
            let (weak, closing) = (Arc::downgrade(self), self.common.closing.clone());
            let common = Arc::clone(&self.common);
            let keep = async move {
                let mut sweep = interval(UPSTREAM_SWEEP);
                let (first, longest) = UPSTREAM_REOPEN;
                let mut backoff = Backoff::new(first, longest);
                let mut looked = Instant::now();
                loop {
                    tokio::select! {
                        _ = sweep.tick() => {
                            let Some(inner) = weak.upgrade() else { return };
                            inner.slots.sweep(inner.idle);
                            if inner.has_lost() || inner.is_stale() {
                                common.look_again.notify_one();
                            }
                        }
                        () = common.look_again.notified() => {
                            let Some(inner) = weak.upgrade() else { return };
                            if looked.elapsed() > longest * 2 {
                                backoff.reset();
                            }
                            inner.look_again().await;
                            inner.restore().await;
                            drop(inner);
                            looked = Instant::now();
                            // A look may be what makes the server ask for the next one.
                            sleep(backoff.wait()).await;
                        }
                    }
                }
            };
            AbortOnDropHandle::new(tokio::spawn(async move {
                tokio::select! {
                    () = closing.cancelled() => {}
                    () = keep => {}
                }
            }))
        });
    }

    /// Ends the sessions in the server: nobody comes back to them.
    pub(super) async fn end_sessions(&self) {
        self.common.closing.cancel();
        let sessions: Vec<_> = self.slots.take_all().iter().filter_map(|slot| slot.for_the_end()).collect();
        let ending = join_all(sessions.iter().map(|session| session.end()));
        let _ = timeout(UPSTREAM_TELL, ending).await;
    }

    /// This server ends: what belongs to sessions of ours goes on in the server, the rest is ended.
    pub(super) async fn leave_sessions(&self) {
        self.common.closing.cancel();
        let slots = self.slots.take_all();
        let shared: Vec<_> =
            slots.iter().filter(|slot| slot.is_shared()).filter_map(|slot| slot.for_the_end()).collect();
        let ending = join_all(shared.iter().map(|session| session.end()));
        let _ = timeout(UPSTREAM_TELL / 4, ending).await;
    }
}
