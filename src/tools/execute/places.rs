//! Only so many calls at a time: of one tool, and of one principal.
//!
//! Who comes first is first; how many wait, and for how long, is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::Outcome;
use crate::base::limits::CALLS_WAITING;
use crate::base::table::Table;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::tools::Call;
use crate::tools::answer::failure;

/// The places of one tool, or of one principal.
pub(super) struct Line {
    places: Arc<Semaphore>,
    most: usize,
    waiting: AtomicUsize,
}

/// Somebody who waits, for as long as they do.
struct Waiting<'a> {
    line: &'a Line,
    call: &'a Call,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.line.waiting.fetch_sub(1, Ordering::Relaxed);
        self.call.out.queued(false);
    }
}

impl Line {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Arc::new(Self { places: Arc::new(Semaphore::new(most)), most, waiting: AtomicUsize::new(0) })
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// A place of a tool.
    ///
    /// # Errors
    /// What the call is answered when none became free in time.
    pub(super) async fn place(
        &self,
        tool: &str,
        until: Instant,
        call: &Call,
    ) -> Result<OwnedSemaphorePermit, Outcome> {
        let what =
            || format!("{} calls of the tool {tool:?} run, as many as may (max_concurrent)", self.most);
        self.wait(until, call, what).await
    }

    async fn wait(
        &self,
        until: Instant,
        call: &Call,
        what: impl Fn() -> String,
    ) -> Result<OwnedSemaphorePermit, Outcome> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= CALLS_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Err(busy(&format!("{}, and {CALLS_WAITING} wait", what()))));
        }
        let _waiting = Waiting { line: self, call };
        let within = until.saturating_duration_since(Instant::now());
        call.out.queued(true);
        tokio::select! {
            biased;
            () = call.cancel.cancelled() => Err(Ok(failure("the call was cancelled"))),
            place = Arc::clone(&self.places).acquire_owned() => {
                place.map_err(|_| Err(busy("the server is stopping")))
            }
            () = sleep_until(until) => {
                Err(Err(busy(&format!("{}, and none ended within {:.0} s", what(), within.as_secs_f64()))))
            }
        }
    }
}

/// Nothing was done, and later it may be.
pub(super) fn busy(why: &str) -> RpcError {
    RpcError::new(INTERNAL, format!("{why}: this call was not begun; make it again later"))
        .with_data(&serde_json::json!({ "retryable": true, "reason": "busy" }))
}

/// The places of principals: a line for each who has calls.
pub(super) struct Principals {
    most: usize,
    lines: Table<Arc<str>, Arc<Line>>,
}

/// A place of a principal. The last one to leave takes the line away.
pub(super) struct OwnPlace<'a> {
    principals: &'a Principals,
    principal: Arc<str>,
    place: Option<OwnedSemaphorePermit>,
}

impl Principals {
    pub(super) fn new(most: usize) -> Self {
        Self { most, lines: Table::default() }
    }

    /// A place of a principal; none, where there is no limit.
    ///
    /// # Errors
    /// What the call is answered when none became free in time.
    pub(super) async fn place(&self, until: Instant, call: &Call) -> Result<Option<OwnPlace<'_>>, Outcome> {
        if self.most == 0 {
            return Ok(None);
        }
        let principal = &call.principal;
        let line = self.lines.with_or_insert(
            Arc::clone(principal),
            || Line::new(self.most),
            |line| Arc::clone(line),
        );
        let mut own = OwnPlace { principals: self, principal: Arc::clone(principal), place: None };
        let what = || {
            format!("{} calls of yours run, as many as may (tools.max_concurrent_per_principal)", self.most)
        };
        own.place = Some(line.wait(until, call, what).await?);
        Ok(Some(own))
    }
}

impl Drop for OwnPlace<'_> {
    fn drop(&mut self) {
        self.place.take();
        // Whoever waits or holds a place has the line, too; the count is steady while the shard is locked.
        let unused =
            |line: &Arc<Line>| line.places.available_permits() == line.most && Arc::strong_count(line) == 1;
        self.principals.lines.remove_if(&self.principal, unused);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::call;
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    fn long() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn refusal(refused: Outcome) -> RpcError {
        refused.unwrap_err()
    }

    #[tokio::test]
    async fn a_place_is_given_in_the_order_of_asking_and_not_for_ever_waited_for() {
        let (line, call) = (Line::new(1), call("a"));
        let held = line.place("t", long(), &call).await.unwrap();
        let told = refusal(line.place("t", soon(), &call).await.unwrap_err());
        assert!(told.message.contains("make it again later") && told.message.contains("\"t\""), "{told:?}");
        assert_eq!(told.data.unwrap().get(), r#"{"reason":"busy","retryable":true}"#);
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for n in 0..5 {
            let (line, order, call) = (Arc::clone(&line), Arc::clone(&order), call.clone());
            tasks.push(tokio::spawn(async move {
                let _place = line.place("t", long(), &call).await.unwrap();
                order.lock().unwrap().push(n);
            }));
            tokio::task::yield_now().await;
        }
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(line.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn so_many_wait_and_no_more_and_a_cancelled_one_leaves() {
        let (line, call) = (Line::new(1), call("a"));
        let _held = line.place("t", long(), &call).await.unwrap();
        let mut waiting: Vec<_> =
            (0..CALLS_WAITING).map(|_| Box::pin(line.place("t", long(), &call))).collect();
        for one in &mut waiting {
            assert!(futures_util::poll!(one.as_mut()).is_pending());
        }
        assert!(refusal(line.place("t", long(), &call).await.unwrap_err()).message.contains("wait"));
        call.cancel.cancel();
        assert!(waiting.pop().unwrap().await.unwrap_err().unwrap().get().contains("cancelled"));
        drop(waiting);
        assert_eq!(line.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn each_principal_has_places_of_its_own_and_leaves_nothing_behind() {
        let (principals, a, b) = (Principals::new(1), call("a"), call("b"));
        let held = principals.place(soon(), &a).await.unwrap();
        assert!(principals.place(soon(), &a).await.is_err());
        let other = principals.place(soon(), &b).await.unwrap();
        assert_eq!(principals.lines.len(), 2);
        drop((held, other));
        assert_eq!(principals.lines.len(), 0);
        assert!(Principals::new(0).place(soon(), &a).await.unwrap().is_none());
    }
}
