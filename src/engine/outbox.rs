//! The messages of a running call on their way from the tool to the stream: a bounded queue, cheap when unused.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::bridge::questions::{Answer, Questions, undeclared, wants_url};
use super::session::Session;
use crate::base::counted::Counted;
use crate::base::limits::{ASK_TIMEOUT, CALL_OUTBOX};
use crate::mcp::capability::ClientCapabilities;
use crate::mcp::era::Envelope;
use crate::mcp::input::Answers;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::rpc::message::{notification, request};
use crate::rpc::object::{Change, Object};
use crate::tools::{BoxFuture, LogLevel, Outbox};

/// Whose call it is.
pub(super) enum Peer {
    /// A session's.
    Session(Arc<Session>),
    /// A request that stands alone.
    Alone(Box<Alone>),
    /// A session's, as a task: it is asked where it waits for the result.
    Task {
        /// The session.
        session: Arc<Session>,
        /// What is asked.
        questions: Box<Questions>,
    },
}

/// What a request that stands alone says of its client, and how that client is asked.
pub(super) struct Alone {
    /// What the first request of the call declares.
    capabilities: Box<RawValue>,
    /// As a number; [`NO_LOGS`] when the present request wants none.
    log_level: AtomicU8,
    questions: Questions,
    /// The present request's progress token, when it is not the first one's.
    label: Mutex<Option<Label>>,
}

/// Present progress token of a call that was held; none when the present request has none.
type Label = Option<Box<RawValue>>;

const NO_LOGS: u8 = u8::MAX;

impl Alone {
    /// `known`: answers to questions that will be asked.
    pub(super) fn new(envelope: &Envelope<'_>, known: Answers) -> Self {
        Self {
            capabilities: envelope.capabilities.to_owned(),
            log_level: AtomicU8::new(level_number(envelope)),
            questions: Questions::new(ClientCapabilities::read(envelope.capabilities.get()), known),
            label: Mutex::default(),
        }
    }

    /// Of a task that is run again: its request is long answered. `taken`: answers that it had.
    pub(super) fn of_task(capabilities: Box<RawValue>, taken: HashMap<String, Answer>) -> Self {
        let client = ClientCapabilities::read(capabilities.get());
        Self {
            capabilities,
            log_level: AtomicU8::new(NO_LOGS),
            questions: Questions::of_task(client, true, taken),
            label: Mutex::default(),
        }
    }
}

fn level_number(envelope: &Envelope<'_>) -> u8 {
    envelope.log_level.as_deref().and_then(LogLevel::parse).map_or(NO_LOGS, |level| level as u8)
}

/// The outbox of one call.
pub(super) struct CallOutbox {
    peer: Peer,
    cancel: CancellationToken,
    items: Mutex<VecDeque<Bytes>>,
    arrived: Notify,
    room: Semaphore,
    /// Nothing that is sent reaches the client before the answer.
    muted: AtomicBool,
    muting: Notify,
    wanted_to_ask: AtomicBool,
    /// The call is a task.
    task: AtomicBool,
    /// The server that runs it has made a task of it.
    begun: CancellationToken,
    /// Its client went away without a word.
    abandoned: AtomicBool,
    /// It waits for others to end before it begins.
    queued: AtomicBool,
    /// Questions that wait for the client.
    asking: AtomicUsize,
}

/// Where a call stands that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// It waits for others to end before it begins.
    Queued,
    /// Its tool works.
    Running,
    /// Its tool waits for an answer of the client.
    WaitingForInput,
}

impl CallOutbox {
    /// `streams`: the client takes an event stream, so that it can be told things before the answer.
    pub(super) fn new(peer: Peer, cancel: CancellationToken, streams: bool) -> Arc<Self> {
        Arc::new(Self {
            peer,
            cancel,
            items: Mutex::default(),
            arrived: Notify::new(),
            room: Semaphore::new(CALL_OUTBOX),
            muted: AtomicBool::new(!streams),
            muting: Notify::new(),
            wanted_to_ask: AtomicBool::new(false),
            task: AtomicBool::new(false),
            begun: CancellationToken::new(),
            abandoned: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            asking: AtomicUsize::new(0),
        })
    }

    /// Everything that waits, without waiting.
    pub(super) fn take_all(&self) -> Vec<Bytes> {
        let taken: Vec<Bytes> = self.items().drain(..).collect();
        self.room.add_permits(taken.len());
        taken
    }

    /// Waits until something is there. May return for nothing.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.items().is_empty()
    }

    /// The tool cannot send any more; what waits can still be taken.
    pub(super) fn close(&self) {
        self.room.close();
    }

    /// From now on the call is a task.
    pub(super) fn become_task(&self) {
        self.task.store(true, Ordering::Release);
    }

    /// Where the call stands.
    pub(super) fn standing(&self) -> Standing {
        match (self.queued.load(Ordering::Relaxed), self.asking.load(Ordering::Relaxed)) {
            (true, _) => Standing::Queued,
            (false, 0) => Standing::Running,
            (false, _) => Standing::WaitingForInput,
        }
    }

    /// The client has closed its connection.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Waits until the server that runs the call has made a task of it.
    pub(super) async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// From now on what the tool sends is dropped, and it cannot ask: who waits for an answer is told.
    pub(super) fn mute(&self) {
        self.muted.store(true, Ordering::Release);
        self.muting.notify_waiters();
        self.take_all();
    }

    /// The call goes on under another request: its answers are handed on, and what is sent goes to its client.
    pub(super) fn resume(
        &self,
        envelope: &Envelope<'_>,
        token: Option<&RawValue>,
        answers: Answers,
        streams: bool,
    ) {
        let Peer::Alone(alone) = &self.peer else { return };
        alone.log_level.store(level_number(envelope), Ordering::Relaxed);
        *alone.label.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.map(ToOwned::to_owned));
        self.muted.store(!streams, Ordering::Release);
        alone.questions.resume(ClientCapabilities::read(envelope.capabilities.get()), answers);
    }

    /// The questions of a call whose client is not asked on the call's own stream.
    pub(super) fn questions(&self) -> Option<&Questions> {
        match &self.peer {
            Peer::Session(_) => None,
            Peer::Alone(alone) => Some(&alone.questions),
            Peer::Task { questions, .. } => Some(questions),
        }
    }

    /// Waits until the client is to be asked by the answer to its request.
    pub(super) async fn asked(&self) {
        match self.questions() {
            Some(questions) => questions.asked().await,
            None => std::future::pending().await,
        }
    }

    /// Progress of a call that goes on under another request carries that request's token; none when nobody wants it.
    fn labelled(&self, message: Bytes) -> Option<Bytes> {
        #[derive(Deserialize)]
        struct Message<'a> {
            method: Cow<'a, str>,
            #[serde(borrow)]
            params: Option<&'a RawValue>,
        }
        let Peer::Alone(alone) = &self.peer else { return Some(message) };
        let label = alone.label.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(token) = &*label else { return Some(message) };
        let progress = match serde_json::from_slice::<Message<'_>>(&message) {
            Ok(Message { method, params: Some(params) }) if method == "notifications/progress" => {
                Object::parse(params.get()).ok().zip(token.as_ref()).map(|(params, token)| {
                    params.with(|key, _| match key {
                        "progressToken" => Change::Set(token.get().to_owned()),
                        _ => Change::Keep,
                    })
                })
            }
            _ => return Some(message),
        };
        progress.map(|params| notification("notifications/progress", &params))
    }

    async fn until_muted(&self) {
        loop {
            let muting = self.muting.notified();
            if self.muted.load(Ordering::Acquire) {
                return;
            }
            muting.await;
        }
    }

    fn items(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put(&self, message: Bytes) -> Result<(), RpcError> {
        if self.muted.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(message) = self.labelled(message) else { return Ok(()) };
        tokio::select! {
            biased;
            room = self.room.acquire() => match room {
                Ok(permit) => permit.forget(),
                Err(_) => return Err(over()),
            },
            () = self.cancel.cancelled() => return Err(over()),
        }
        self.items().push_back(message);
        self.arrived.notify_one();
        Ok(())
    }
}

impl Outbox for CallOutbox {
    fn notify(&self, message: Bytes) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(self.put(message))
    }

    fn ask(&self, method: &str, params: Box<RawValue>) -> BoxFuture<'_, Result<Box<RawValue>, RpcError>> {
        let method = method.to_owned();
        self.may_have_asked();
        Box::pin(async move {
            let _asking = Counted::begin(&self.asking);
            let (session, questions) = match &self.peer {
                Peer::Session(session) => (Some(session), None),
                Peer::Alone(alone) => (None, Some(&alone.questions)),
                Peer::Task { questions, .. } => (None, Some(&**questions)),
            };
            if let Some(questions) = questions {
                return tokio::select! {
                    answer = questions.ask(&method, &params) => answer,
                    () = self.cancel.cancelled() => Err(over()),
                };
            }
            let Some(session) = session else { return Err(over()) };
            if !session.client().allow(&method, wants_url(params.get())) {
                return Err(undeclared(&method));
            }
            let (id, answer) = session.asks.open()?;
            let _given_up = GivenUp { session, id: &id };
            self.put(request(&id, &method, params.get())).await?;
            tokio::select! {
                biased;
                answer = answer => answer.unwrap_or_else(|_| Err(over())),
                () = self.cancel.cancelled() => Err(over()),
                () = self.until_muted() => Err(RpcError::invalid_request(
                    "the client takes no event stream for this call, so it cannot be asked: it must accept \
                     text/event-stream",
                )),
                () = tokio::time::sleep(ASK_TIMEOUT) => {
                    let params = format!("{{\"requestId\":{id},\"reason\":\"no answer in time\"}}");
                    self.put(notification("notifications/cancelled", &params)).await?;
                    Err(RpcError::new(INTERNAL, format!("the client did not answer {method} in time")))
                }
            }
        })
    }

    fn wants_log(&self, level: LogLevel) -> bool {
        match &self.peer {
            Peer::Session(session) | Peer::Task { session, .. } => level as u8 >= session.level(),
            Peer::Alone(alone) => level as u8 >= alone.log_level.load(Ordering::Relaxed),
        }
    }

    fn can_ask(&self) -> bool {
        match self.peer {
            Peer::Session(_) => !self.muted.load(Ordering::Acquire),
            Peer::Alone(_) => false,
            Peer::Task { .. } => true,
        }
    }

    fn wanted_to_ask(&self) -> bool {
        self.wanted_to_ask.load(Ordering::Relaxed)
    }

    fn may_have_asked(&self) {
        self.wanted_to_ask.store(true, Ordering::Relaxed);
    }

    fn task_begun(&self) {
        self.begun.cancel();
    }

    fn queued(&self, waits: bool) {
        self.queued.store(waits, Ordering::Relaxed);
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    fn is_task(&self) -> bool {
        self.task.load(Ordering::Acquire)
    }

    fn modern_capabilities(&self) -> Option<&RawValue> {
        match &self.peer {
            Peer::Session(_) | Peer::Task { .. } => None,
            Peer::Alone(alone) => Some(&alone.capabilities),
        }
    }
}

/// Forgets a question when nobody waits for its answer any more.
struct GivenUp<'a> {
    session: &'a Session,
    id: &'a str,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.session.asks.forget(self.id);
    }
}

fn over() -> RpcError {
    RpcError::new(INTERNAL, "the call is over")
}
