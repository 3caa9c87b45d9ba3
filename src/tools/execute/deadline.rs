//! The time of a call: renewed by what the call says and by answers of its client, bounded all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};

use super::rules::Time;
use super::{Outcome, Plan, retry};
use crate::base::clock::millis;
use crate::rpc::error::RpcError;
use crate::tools::answer::timed_out;
use crate::tools::{BoxFuture, Call, LogLevel, Outbox};

/// Where a notification has its method, if this server or a usual one wrote it.
const METHOD_WITHIN: usize = 96;

/// Runs a call as long as it may take.
pub(super) async fn run(plan: &Plan, call: Call) -> Outcome {
    let Some(time) = plan.rules.time else { return retry::run(plan, call).await };
    let watch = Arc::new(Watch::new(Arc::clone(&call.out)));
    let running = retry::run(plan, Call { out: Arc::clone(&watch) as _, ..call });
    tokio::select! {
        biased;
        outcome = running => outcome,
        // Dropping the call ends it in its host.
        over = watch.ended(time) => {
            let told = format!(
                "server {:?}: {:?} gave no answer within {} s and was cancelled ({})",
                plan.host.name(), &*plan.name, over.as_secs(), match over == time.most && over != time.within {
                    true => "tools.call_max_seconds",
                    false => time.setting,
                }
            );
            Ok(timed_out(&told, plan.repeatable))
        }
    }
}

/// An outbox that sees what gives a call new time.
struct Watch {
    out: Arc<dyn Outbox>,
    start: Instant,
    /// The last news, milliseconds after the start.
    news_ms: AtomicU64,
    /// Questions that wait for the client.
    asking: AtomicUsize,
    /// The call's time is over. Hosts look at it when their call is dropped.
    late: AtomicBool,
}

impl Watch {
    fn new(out: Arc<dyn Outbox>) -> Self {
        Self {
            out,
            start: Instant::now(),
            news_ms: AtomicU64::new(0),
            asking: AtomicUsize::new(0),
            late: AtomicBool::new(false),
        }
    }

    fn news(&self) {
        let ms = millis(self.start.elapsed());
        self.news_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// Waits for the end of the call's time; says which it was.
    async fn ended(&self, time: Time) -> Duration {
        let over = self.over(time).await;
        self.late.store(true, Ordering::Release);
        over
    }

    /// As [`ended`](Self::ended), and nobody is told.
    ///
    /// Progress renews it up to the most (MCP 2025-11-25, lifecycle, timeouts). People take longer to answer than
    /// programs: a call that waits for its client's answer has time, and a task has a time of its own.
    async fn over(&self, time: Time) -> Duration {
        let mut most = self.start + time.most;
        let mut end = self.start + time.within;
        loop {
            sleep_until(end.min(most)).await;
            let now = Instant::now();
            if self.asking.load(Ordering::Relaxed) > 0 || self.out.is_task() {
                end = now + time.within;
                most = most.max(end);
                continue;
            }
            if now >= most {
                return time.most;
            }
            let renewed =
                self.start + Duration::from_millis(self.news_ms.load(Ordering::Relaxed)) + time.within;
            if renewed <= now {
                return time.within;
            }
            end = renewed;
        }
    }
}

/// A question, for as long as it waits.
struct Asking<'a>(&'a Watch);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
        self.0.news();
    }
}

fn is_progress(message: &[u8]) -> bool {
    const PROGRESS: &[u8] = b"\"notifications/progress\"";
    let head = message.get(..METHOD_WITHIN.min(message.len())).unwrap_or_default();
    head.windows(PROGRESS.len()).any(|window| window == PROGRESS)
}

impl Outbox for Watch {
    fn notify(&self, message: Bytes) -> BoxFuture<'_, Result<(), RpcError>> {
        if is_progress(&message) {
            self.news();
        }
        self.out.notify(message)
    }

    fn ask(&self, method: &str, params: Box<RawValue>) -> BoxFuture<'_, Result<Box<RawValue>, RpcError>> {
        self.asking.fetch_add(1, Ordering::Relaxed);
        let asking = Asking(self);
        let answer = self.out.ask(method, params);
        Box::pin(async move {
            let _asking = asking;
            answer.await
        })
    }

    fn wants_log(&self, level: LogLevel) -> bool {
        self.out.wants_log(level)
    }

    fn can_ask(&self) -> bool {
        self.out.can_ask()
    }

    fn wanted_to_ask(&self) -> bool {
        self.out.wanted_to_ask()
    }

    fn may_have_asked(&self) {
        self.out.may_have_asked();
    }

    fn queued(&self, waits: bool) {
        self.out.queued(waits);
    }

    fn is_abandoned(&self) -> bool {
        self.out.is_abandoned()
    }

    fn task_begun(&self) {
        self.out.task_begun();
    }

    fn is_task(&self) -> bool {
        self.out.is_task()
    }

    fn is_timed(&self) -> bool {
        true
    }

    fn is_late(&self) -> bool {
        self.late.load(Ordering::Acquire)
    }

    fn modern_capabilities(&self) -> Option<&RawValue> {
        self.out.modern_capabilities()
    }
}
