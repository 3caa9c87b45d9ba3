//! Works on a task: lets its call run, reports where it stands, and takes up what others want of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::view::related;
use super::{Running, error_text, failed, lease_ms, sentence};
use crate::base::limits::{TASK_LEASE, TASK_LOOK, TASK_TELL_LOGS, TASK_TELL_PAUSE};
use crate::engine::Engine;
use crate::engine::bridge::Parked;
use crate::engine::orphan::interrupted;
use crate::engine::outbox::CallOutbox;
use crate::rpc::error::RpcError;
use crate::rpc::message::notification;
use crate::state::task::{End, Question, Task};
use crate::store::StoreError;
use crate::tools::answer::raw;

/// How long a report waits before it is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Why the work is over.
enum Over {
    /// The call has answered.
    Answered(Result<Box<RawValue>, RpcError>),
    /// The client does not want it any more.
    Cancelled,
    /// The server stops.
    Stopping,
    /// Somebody else has the task, or nobody can see it any more.
    Abandoned,
}

impl Engine {
    /// Has a task worked on, by `parked`, to its end.
    pub(super) fn work_on(self: &Arc<Self>, running: Arc<Running>, parked: Parked) {
        // From this moment on the host leaves it the time that a task has.
        parked.outbox.become_task();
        let tracker = if running.repeatable { &self.mcp_tasks.repeatable } else { &self.tasks };
        tracker.spawn(work(Arc::clone(self), running, parked));
    }
}

async fn work(engine: Arc<Engine>, running: Arc<Running>, mut parked: Parked) {
    engine.counters.call_started();
    let over = drive(&engine, &running, &mut parked).await;
    let ok = matches!(over, Over::Answered(Ok(_)));
    let mut ended = true;
    match over {
        Over::Answered(outcome) => {
            drop(parked.future);
            let (end, message) = end_of(outcome);
            finish(&engine, &running, end, message).await;
        }
        Over::Cancelled => {
            // First the report: nothing that the call still does changes it (MCP 2025-11-25, tasks).
            finish(&engine, &running, End::Cancelled, Some("cancelled by its client".into())).await;
            parked.cancel.cancel();
        }
        Over::Stopping if running.repeatable => {
            // Its next owner need not wait.
            if let Some(released) = running.task().renewed(engine.clock.now_ms(), 0) {
                let _ = engine.report_task(&running, released).await;
            }
            parked.cancel.cancel();
            ended = false;
        }
        Over::Stopping => {
            let error = interrupted("the server stopped");
            finish(&engine, &running, failed(&error), Some(sentence(&error.message))).await;
            parked.cancel.cancel();
        }
        Over::Abandoned => {
            parked.cancel.cancel();
            ended = false;
        }
    }
    parked.outbox.close();
    engine.mcp_tasks.running.remove(&running.identity.key);
    if ended {
        engine.forget_parts(&running.identity).await;
    }
    engine.counters.call_finished(ok);
}

fn end_of(outcome: Result<Box<RawValue>, RpcError>) -> (End, Option<String>) {
    match outcome {
        Ok(result) => (End::Completed(result.get().to_owned()), None),
        Err(error) => (failed(&error), Some(sentence(&error.message))),
    }
}

async fn drive(engine: &Arc<Engine>, running: &Arc<Running>, parked: &mut Parked) -> Over {
    let Parked { future, outbox, .. } = parked;
    let Some(questions) = outbox.questions() else { return Over::Abandoned };
    let left_ms = running.identity.deadline_ms.saturating_sub(engine.clock.now_ms());
    let mut time = std::pin::pin!(sleep(Duration::from_millis(left_ms)));
    let mut lease = tokio::time::interval_at(Instant::now() + TASK_LEASE / 2, TASK_LEASE / 2);
    let mut taken = HashSet::new();
    let mut tell_at = Instant::now();
    loop {
        let shown = running.task().open.clone();
        let next = tokio::select! {
            biased;
            () = running.stop.cancelled() => return Over::Abandoned,
            () = engine.stopping.cancelled() => return Over::Stopping,
            () = &mut time => {
                tracing::debug!(task = %running.identity.key, "a task is ended: its time is over");
                return Over::Abandoned;
            }
            () = wanted(engine, running) => {
                match engine.intents(&running.identity, &shown).await {
                    Ok(intents) if intents.cancel => return Over::Cancelled,
                    Ok(intents) => {
                        for (question, answer) in intents.answers {
                            if taken.insert(question.clone()) {
                                questions.settle(&question, read_answer(answer));
                            }
                        }
                    }
                    Err(StoreError::Gone) => return Over::Abandoned,
                    Err(error) => {
                        tracing::warn!(task = %running.identity.key, %error, "what is wanted of a task cannot be read");
                        running.intents.notify_one();
                        sleep(STORE_RETRY).await;
                    }
                }
                continue;
            }
            outcome = &mut *future => return Over::Answered(outcome),
            open = questions.differ(&shown) => next_of(engine, running, Some(open)),
            () = news(outbox, tell_at) => {
                tell(engine, running, outbox).await;
                tell_at = Instant::now() + TASK_TELL_PAUSE;
                continue;
            }
            _ = lease.tick() => next_of(engine, running, None),
        };
        let Some(next) = next else { return Over::Abandoned };
        let asks = !next.open.is_empty();
        match engine.report_task(running, next).await {
            // The answer may be there already: given when an earlier worker had asked the same, and not taken by it.
            Ok(true) if asks => running.intents.notify_one(),
            Ok(true) => {}
            Ok(false) | Err(StoreError::Gone) => return Over::Abandoned,
            Err(error) => {
                tracing::warn!(task = %running.identity.key, %error, "where a task stands cannot be stored");
                sleep(STORE_RETRY).await;
            }
        }
    }
}

/// Waits until somebody here wants something of the task; where others may write, too, only for a while.
async fn wanted(engine: &Engine, running: &Running) {
    if engine.store.is_shared() {
        let _ = timeout(TASK_LOOK, running.intents.notified()).await;
    } else {
        running.intents.notified().await;
    }
}

/// Waits until there is something to tell, and the pause after the last time is over.
async fn news(outbox: &CallOutbox, not_before: Instant) {
    while outbox.is_empty() {
        outbox.arrived().await;
    }
    sleep_until(not_before).await;
}

fn next_of(engine: &Engine, running: &Running, open: Option<Vec<Question>>) -> Option<Task> {
    let (task, now_ms) = (running.task(), engine.clock.now_ms());
    match open {
        Some(open) => task.asks(open, now_ms, lease_ms()),
        None => task.renewed(now_ms, lease_ms()),
    }
}

pub(super) fn read_answer(answer: Result<String, String>) -> Result<Box<RawValue>, RpcError> {
    match answer {
        Ok(result) => Ok(raw(result)),
        Err(error) => Err(serde_json::from_str(&error)
            .unwrap_or_else(|_| RpcError::internal("the client answered with an error that cannot be read"))),
    }
}

/// Reports the end. It is not given up because the disk takes nothing just now.
async fn finish(engine: &Arc<Engine>, running: &Arc<Running>, end: End, message: Option<String>) {
    let (mut end, mut message) = (end, message);
    loop {
        let Some(next) = running.task().ended(end.clone(), message.clone(), engine.clock.now_ms()) else {
            return;
        };
        match engine.report_task(running, next).await {
            Ok(_) | Err(StoreError::Gone | StoreError::Closed | StoreError::Poisoned(_)) => return,
            Err(StoreError::Cap(why)) if !matches!(end, End::Failed(_)) => {
                let error = RpcError::internal(format!("the result of this task cannot be kept: {why}"));
                (end, message) = (End::Failed(error_text(&error)), Some(sentence(&error.message)));
            }
            Err(error) => {
                tracing::warn!(task = %running.identity.key, %error, "the end of a task cannot be stored yet");
                tokio::select! {
                    () = sleep(STORE_RETRY) => {}
                    () = running.stop.cancelled() => return,
                    // The next start finds it interrupted.
                    () = engine.stopping.cancelled() => return,
                }
            }
        }
    }
}

/// Passes on what the call of a session says: of its progress the newest, of its logs some.
async fn tell(engine: &Arc<Engine>, running: &Arc<Running>, outbox: &Arc<CallOutbox>) {
    let messages = outbox.take_all();
    let Some(session) = &running.session else { return };
    let (mut progress, mut news) = (None, Vec::new());
    for message in messages {
        match labelled(&message, &running.identity.id) {
            Some((true, message)) => progress = Some(message),
            Some((false, message)) if news.len() < TASK_TELL_LOGS => news.push(message),
            _ => {}
        }
    }
    news.extend(progress);
    if !news.is_empty() {
        engine.tell_news(session, news).await;
    }
}

/// A notification with the id of its task; whether it is of progress.
fn labelled(message: &Bytes, id: &str) -> Option<(bool, Bytes)> {
    #[derive(Deserialize)]
    struct Message<'a> {
        method: std::borrow::Cow<'a, str>,
        #[serde(borrow)]
        params: Option<&'a RawValue>,
    }
    let Message { method, params } = serde_json::from_slice(message).ok()?;
    let params = related(params.map_or("{}", RawValue::get), id);
    Some((method == "notifications/progress", notification(&method, params.get())))
}
