//! One call in a child, of a tool or of what stands beside tools: its request, its messages, its questions, its end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::value::RawValue;
use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Event, InFlight, Line, Pipe, Relay, Shared};
use crate::base::limits::{ASKS_PER_CALL, CALL_OUTBOX};
use crate::rpc::error::RpcError;
use crate::rpc::message::{self, quote};
use crate::tools::child::error::Death;
use crate::tools::child::lines::on_one_line;
use crate::tools::hosted::call_time::deadline;
use crate::tools::hosted::own_task::{related_task, task_of, with_task, without_related};
use crate::tools::hosted::params::{Errand, for_server};
use crate::tools::{Call, Outbox};

/// How a call ended.
pub(in crate::tools::child) enum Outcome {
    /// With the child's answer.
    Answered(Result<Box<RawValue>, RpcError>),
    /// With the child's death. It was sent: the child may have acted on it.
    Died { death: Arc<Death>, sent: bool },
    /// With the end of its time; the child was told.
    TimedOut,
}

impl Pipe {
    /// Runs a call. Dropping the future cancels it in the child. `own_task`: the child runs it as a task of its own.
    pub(in crate::tools::child) async fn call(
        &self,
        errand: Errand<'_>,
        call: &Call,
        own_task: bool,
        within: Duration,
    ) -> Outcome {
        let shared = &self.shared;
        let (answer, answered) = oneshot::channel();
        let (to, events) = mpsc::channel(CALL_OUTBOX);
        let relay = Relay {
            token: call.progress_token.clone(),
            to,
            out: Arc::clone(&call.out),
            stalled: Arc::default(),
        };
        let id = match shared.register(answer, Some(relay), own_task) {
            Ok(id) => id,
            Err(death) => return Outcome::Died { death, sent: false },
        };
        let mut running = InFlight { shared, id, sent_at: None };
        let token = call.progress_token.as_ref().map(|_| id);
        let Some(params) =
            for_server(&call.params, errand.name, token).and_then(|params| with_task(params, own_task))
        else {
            return Outcome::Answered(Err(RpcError::invalid_params("params: want an object")));
        };
        let asking = AtomicUsize::new(0);
        let mut end = std::pin::pin!(deadline(within, &asking, &call.out));
        let relaying = std::pin::pin!(relay_events(events, &call.out, &asking));
        let mut exchange = Exchange { relaying, relayed: false, end: end.as_mut() };
        let (written, was_written) = oneshot::channel();
        if let Err(outcome) = exchange.send(shared, id, errand.method, &params, written).await {
            return outcome;
        }
        running.sent();
        let mut answer = match exchange.answer(answered).await {
            Ok(answer) => answer,
            Err(outcome) => return outcome,
        };
        if own_task
            && let Ok(Answer::Result(result)) = &answer
            && let Some(task) = task_of(result)
        {
            if let Some(running) = shared.lock().running.get_mut(&id) {
                running.task = Some(task.clone());
            }
            call.out.task_begun();
            let mut guard = ChildTask { shared, id: &task, over: false };
            answer = match exchange.result_of(shared, &task).await {
                Ok(answer) => answer,
                Err(outcome) => return outcome,
            };
            guard.over = true;
        }
        // What the child said before its answer goes out before it; a call that stayed for more does so no longer.
        drop(running);
        if !exchange.relayed {
            tokio::select! {
                biased;
                over = &mut exchange.relaying => if let Err(error) = over {
                    return Outcome::Answered(Err(error));
                },
                () = &mut exchange.end => {}
            }
        }
        match answer {
            Ok(Answer::Result(result)) if own_task => Outcome::Answered(Ok(without_related(result))),
            Ok(Answer::Result(result)) => Outcome::Answered(Ok(result)),
            Ok(Answer::Error(error)) => Outcome::Answered(Err(error)),
            // It may have died of this very line, before the writer could say that it wrote it.
            Ok(Answer::Died(death)) => Outcome::Died { death, sent: was_written.await.is_ok() },
            Err(_) => Outcome::Answered(Err(RpcError::internal("the call was forgotten"))),
        }
    }
}

/// An answer, or that it was forgotten.
type Waited = Result<Answer, RecvError>;

/// The requests of one call, one after another, while its messages are passed on.
struct Exchange<'a, R, E> {
    relaying: Pin<&'a mut R>,
    relayed: bool,
    end: Pin<&'a mut E>,
}

impl<R: Future<Output = Result<(), RpcError>>, E: Future<Output = ()>> Exchange<'_, R, E> {
    async fn send(
        &mut self,
        shared: &Shared,
        id: u64,
        method: &str,
        params: &str,
        written: oneshot::Sender<()>,
    ) -> Result<(), Outcome> {
        let request = message::request(&id.to_string(), method, params);
        let text = on_one_line(String::from_utf8_lossy(&request).into_owned());
        let line = Line { text, written: Some(written) };
        tokio::select! {
            biased;
            // A queue without a reader belongs to a child that is dying: its death is the answer.
            _ = shared.lines.send(line) => Ok(()),
            () = &mut self.end => Err(Outcome::TimedOut),
        }
    }

    async fn answer(&mut self, mut answered: oneshot::Receiver<Answer>) -> Result<Waited, Outcome> {
        loop {
            tokio::select! {
                biased;
                over = &mut self.relaying, if !self.relayed => match over {
                    // Only the answer closes the way for messages, so it is there.
                    Ok(()) => self.relayed = true,
                    // The call is over for its client: so it is for the child.
                    Err(error) => return Err(Outcome::Answered(Err(error))),
                },
                answer = &mut answered => return Ok(answer),
                () = &mut self.end => return Err(Outcome::TimedOut),
            }
        }
    }

    /// Waits for the result of the child's task: it comes when the task has ended, and what the task asks comes because
    /// somebody waits for it (MCP 2025-11-25, tasks).
    async fn result_of(&mut self, shared: &Arc<Shared>, task: &str) -> Result<Waited, Outcome> {
        let (answer, answered) = oneshot::channel();
        let id = shared.register(answer, None, false).map_err(|death| Outcome::Died { death, sent: true })?;
        let mut running = InFlight { shared, id, sent_at: None };
        let params = format!("{{\"taskId\":{}}}", quote(task));
        self.send(shared, id, "tasks/result", &params, oneshot::channel().0).await?;
        running.sent();
        self.answer(answered).await
    }
}

/// A task of the child. Dropping it before it is over cancels it.
struct ChildTask<'a> {
    shared: &'a Shared,
    id: &'a str,
    over: bool,
}

impl Drop for ChildTask<'_> {
    fn drop(&mut self) {
        if !self.over {
            let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
            let params = format!("{{\"taskId\":{}}}", quote(self.id));
            self.shared.try_send(&message::request(&id.to_string(), "tasks/cancel", &params));
        }
    }
}

impl Shared {
    /// The call that a question of the child belongs to: it may name the task that the call is.
    pub(super) fn asker<'a>(&self, state: &'a super::State, params: Option<&RawValue>) -> Option<&'a Relay> {
        let named = params.and_then(related_task);
        let own = named.and_then(|task| state.running.values().find(|it| it.task.as_ref() == Some(&task)));
        own.and_then(|running| running.relay.as_ref()).or_else(|| self.addressee(state))
    }

    /// The call that a message without an address belongs to.
    pub(super) fn addressee<'a>(&self, state: &'a super::State) -> Option<&'a Relay> {
        let mut calls = state.running.values().rev().filter_map(|running| running.relay.as_ref());
        let latest = calls.next()?;
        (self.owner == super::Owner::Session || calls.next().is_none()).then_some(latest)
    }
}

/// Passes the messages of a call on, in order, and puts its questions, each when it comes. Ends when the call has its
/// answer and everything before it is passed on.
async fn relay_events(
    mut events: mpsc::Receiver<Event>,
    out: &Arc<dyn Outbox>,
    asking: &AtomicUsize,
) -> Result<(), RpcError> {
    let mut asks = FuturesUnordered::new();
    loop {
        let event = tokio::select! {
            biased;
            Some(()) = asks.next(), if !asks.is_empty() => {
                asking.store(asks.len(), Ordering::Relaxed);
                continue;
            }
            event = events.recv() => event,
        };
        match event {
            // Questions that are still open are answered with an error as they are dropped.
            None => return Ok(()),
            Some(Event::Notify(message)) => out.notify(message).await?,
            Some(Event::Ask(ask)) if asks.len() >= ASKS_PER_CALL => {
                ask.refuse("this call waits for too many answers already");
            }
            Some(Event::Ask(ask)) => {
                asks.push(ask.put_to(Arc::clone(out)));
                asking.store(asks.len(), Ordering::Relaxed);
            }
        }
    }
}
