//! Requests that stand alone (2026-07-28) and may take long, or ask: they run while their connection lasts, or are held
//! while their client answers.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::bridge::{Parked, Start};
use super::call::poll_once;
use super::events::QueueEvents;
use super::outbox::{self, CallOutbox, Peer};
use super::tasks::Offer;
use super::{Engine, Events, EventsKind, Inbound, Reply};
use crate::base::limits::REFUSAL_WITHIN;
use crate::mcp::capability::ClientCapabilities;
use crate::mcp::era::Envelope;
use crate::mcp::header::Accepts;
use crate::mcp::input::digest;
use crate::mcp::view::modern_result;
use crate::rpc::error::{INTERNAL, MISSING_CAPABILITY, RpcError};
use crate::rpc::message::{Request, error_response, response};
use crate::tools::BoxFuture;

type Outcome = Result<Box<RawValue>, RpcError>;

/// A request that stands alone, and what is known of it.
pub(super) struct Alone<'a> {
    pub(super) envelope: &'a Envelope<'a>,
    pub(super) request: &'a Request<'a>,
    pub(super) inbound: &'a Inbound<'a>,
    pub(super) accepts: Accepts,
    pub(super) progress_token: Option<&'a RawValue>,
    /// Running it twice does no harm.
    pub(super) repeatable: bool,
    /// A hosted server runs it: it may want to ask what the client did not declare.
    pub(super) hosted: bool,
    /// It may become a task.
    pub(super) task: Option<Offer>,
}

/// How a round of a call ends.
enum End {
    Outcome(Outcome),
    /// The client must answer first.
    Asks,
    /// It becomes a task now.
    Task,
}

impl Engine {
    /// Runs a request that may ask its client: tools/call, prompts/get, resources/read. `begin` makes the future that
    /// runs it; it is not called for a retry that finds its call.
    pub(super) async fn run_alone(
        self: &Arc<Self>,
        alone: Alone<'_>,
        begin: impl FnOnce(&Arc<CallOutbox>, &CancellationToken) -> BoxFuture<'static, Outcome>,
    ) -> Reply {
        let Alone { envelope, request, inbound, accepts, progress_token, repeatable, hosted, task } = alone;
        let id = request.id.get();
        let parked = match self.start_alone(request, &inbound.principal.name, repeatable).await {
            Err(error) => return Reply::failed(id, &error, accepts),
            Ok(Start::Resumed(parked, answers)) => {
                parked.outbox.resume(envelope, progress_token, answers, accepts.sse);
                parked
            }
            Ok(Start::Anew(known)) => {
                let cancel = CancellationToken::new();
                let peer = Peer::Alone(Box::new(outbox::Alone::new(envelope, known)));
                let outbox = CallOutbox::new(peer, cancel.clone(), accepts.sse);
                let mut running = begin(&outbox, &cancel);
                let future: BoxFuture<'static, Outcome> = match poll_once(&mut running).await {
                    Poll::Ready(outcome) if outbox.is_empty() => {
                        self.counters.call_ended(outcome.is_ok());
                        return whole(id, concluded(outcome, &outbox), accepts);
                    }
                    Poll::Ready(outcome) => Box::pin(std::future::ready(outcome)),
                    Poll::Pending => running,
                };
                Parked { future, outbox, cancel }
            }
        };
        // Whoever drops this cancels the call: the handler while it waits, then the body that is being sent. A call that
        // is held by then goes on.
        let gone = CancellationToken::new();
        let guard = gone.clone().drop_guard();
        let (head, answer) = oneshot::channel();
        let (messages, queue) = mpsc::channel(1);
        let round = Round {
            engine: Arc::clone(self),
            id: id.into(),
            principal: Arc::clone(&inbound.principal.name),
            method: request.method.as_ref().into(),
            params: request.params.map(ToOwned::to_owned),
            gone,
            whole_within: self.whole_within(envelope, accepts, hosted),
            capabilities: envelope.capabilities.get().into(),
            task,
            head: Some(head),
            messages,
            accepts,
        };
        self.tasks.spawn(round.run(parked));
        match answer.await {
            Ok(Some(outcome)) => whole(id, outcome, accepts),
            Ok(None) => {
                let events = QueueEvents { messages: queue, _cancel: guard };
                Reply::Stream { session: None, events: Events(EventsKind::Queue(events)) }
            }
            Err(_) => Reply::failed(id, &RpcError::new(INTERNAL, "the call was given up"), accepts),
        }
    }

    /// After this time an answer becomes an event stream, whose status is 200. Where it may have to be 400, for want of a
    /// capability, that is waited for a little longer: a child may have to start first.
    fn whole_within(&self, envelope: &Envelope<'_>, accepts: Accepts, hosted: bool) -> Duration {
        let client = ClientCapabilities::read(envelope.capabilities.get());
        match accepts.json {
            false => Duration::ZERO,
            true if hosted && client != ClientCapabilities::ALL => self.json_within.max(REFUSAL_WITHIN),
            true => self.json_within,
        }
    }
}

/// One request of a call: from its beginning, or a retry, to the answer or the next question.
struct Round {
    engine: Arc<Engine>,
    id: Box<str>,
    principal: Arc<str>,
    /// With the params: what a retry must repeat.
    method: Box<str>,
    params: Option<Box<RawValue>>,
    /// The client has closed the answer.
    gone: CancellationToken,
    /// For how long a whole answer is waited for.
    whole_within: Duration,
    /// What the request declares, JSON text.
    capabilities: Box<str>,
    /// The call may become a task.
    task: Option<Offer>,
    /// `Some(outcome)` for a whole answer, `None` for an event stream.
    head: Option<oneshot::Sender<Option<Outcome>>>,
    messages: mpsc::Sender<Bytes>,
    accepts: Accepts,
}

impl Round {
    async fn run(mut self, parked: Parked) {
        self.engine.counters.call_started();
        let outbox = Arc::clone(&parked.outbox);
        let (end, parked) = self.end(parked).await;
        let rest = outbox.take_all();
        let outcome = match end {
            End::Outcome(outcome) => {
                drop(parked);
                outbox.close();
                concluded(outcome, &outbox)
            }
            End::Asks => {
                let digest = digest(&self.method, self.params.as_deref());
                match parked {
                    Some(parked) => self.engine.hold(parked, &self.principal, &digest),
                    None => Err(RpcError::new(INTERNAL, "the call was given up")),
                }
            }
            // It runs on as a task, which is what the outcome says.
            End::Task => Err(RpcError::new(INTERNAL, "the call was given up")),
        };
        self.engine.counters.call_finished(outcome.is_ok());
        self.answer(rest, outcome).await;
    }

    /// How this request ends, with the call where it runs on for its client.
    async fn end(&mut self, mut parked: Parked) -> (End, Option<Parked>) {
        loop {
            let end = self.drive(&mut parked).await;
            let (End::Task, Some(offer)) = (&end, &self.task) else { return (end, Some(parked)) };
            let made =
                self.engine.make_task_of(offer, &self.capabilities, self.params.as_deref(), parked).await;
            match made {
                Ok(created) => {
                    if self.gone.is_cancelled() {
                        self.engine.cancel_unseen(&created, offer).await;
                    }
                    return (End::Outcome(Ok(created)), None);
                }
                Err((error, call)) if offer.required => {
                    call.cancel.cancel();
                    return (End::Outcome(Err(error)), Some(call));
                }
                Err((error, call)) => {
                    tracing::debug!(%error, "a call goes on as one that is no task");
                    parked = call;
                    self.task = None;
                }
            }
        }
    }

    /// Lets the call run and passes on what it says, until this request can be answered.
    async fn drive(&mut self, parked: &mut Parked) -> End {
        let Parked { future, outbox, cancel } = parked;
        let mut upgrade = std::pin::pin!(tokio::time::sleep(self.whole_within));
        let mut asked = std::pin::pin!(outbox.asked());
        // A call that becomes a task if it does not end soon says nothing before that is decided.
        let soon = self.task.as_ref().is_some_and(|task| !task.own);
        let own = self.task.as_ref().is_some_and(|task| task.own);
        let mut late = std::pin::pin!(tokio::time::sleep(self.engine.json_within));
        loop {
            tokio::select! {
                biased;
                () = self.gone.cancelled() => {
                    outbox.abandon();
                    cancel.cancel();
                    return End::Outcome(Err(super::orphan::interrupted("the call was cancelled")));
                }
                () = self.engine.stopping.cancelled() => {
                    cancel.cancel();
                    return End::Outcome(Err(super::orphan::interrupted("the server stopped")));
                }
                outcome = &mut *future => return End::Outcome(outcome),
                () = outbox.begun(), if own => return End::Task,
                () = &mut late, if soon => return End::Task,
                () = outbox.arrived(), if !soon => {
                    if !self.accepts.sse {
                        outbox.take_all();
                        continue;
                    }
                    self.begin_stream();
                    let sent = async {
                        for message in outbox.take_all() {
                            if self.messages.send(message).await.is_err() {
                                break;
                            }
                        }
                    };
                    tokio::select! { () = sent => {}, () = self.gone.cancelled() => {} }
                }
                () = &mut asked => return if soon { End::Task } else { End::Asks },
                () = &mut upgrade, if self.head.is_some() && self.accepts.sse && !soon => self.begin_stream(),
            }
        }
    }

    fn begin_stream(&mut self) {
        if let Some(head) = self.head.take() {
            let _ = head.send(None);
        }
    }

    async fn answer(mut self, rest: Vec<Bytes>, outcome: Outcome) {
        if self.head.is_some() && !rest.is_empty() && self.accepts.sse {
            self.begin_stream();
        }
        if let Some(head) = self.head.take() {
            let _ = head.send(Some(outcome));
            return;
        }
        let last = match outcome {
            Ok(result) => response(&self.id, &modern_result(result.get())),
            Err(error) => error_response(Some(&self.id), &error),
        };
        for message in rest.into_iter().chain([last]) {
            tokio::select! {
                sent = self.messages.send(message) => if sent.is_err() { return },
                // At shutdown the call was cancelled and its connection is still there to be told; a connection that is
                // gone has closed the queue.
                () = self.messages.closed() => return,
            }
        }
    }
}

/// A call that failed after it wanted to ask what its client did not declare failed for that: the client is told what to
/// declare.
fn concluded(outcome: Outcome, outbox: &CallOutbox) -> Outcome {
    #[derive(Deserialize)]
    struct Result {
        #[serde(rename = "isError", default)]
        is_error: bool,
    }
    let Some(missed) = outbox.questions().and_then(super::bridge::questions::Questions::missed) else {
        return outcome;
    };
    let failed = match &outcome {
        Ok(result) => serde_json::from_str::<Result>(result.get()).is_ok_and(|result| result.is_error),
        Err(_) => true,
    };
    if failed { Err(missed) } else { outcome }
}

fn whole(id: &str, outcome: Outcome, accepts: Accepts) -> Reply {
    match outcome {
        Ok(result) => Reply::whole_or_event(response(id, &modern_result(result.get())), accepts),
        Err(error) if error.code == MISSING_CAPABILITY => Reply::error_for(400, Some(id), &error),
        Err(error) => Reply::failed(id, &error, accepts),
    }
}
