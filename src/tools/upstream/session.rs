//! A session in a remote server of the legacy era (2024-11-05 to 2025-11-25).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use reqwest::Url;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Common;
use super::credentials::Credential;
use super::exchange::{Hearing, Sent, exchange};
use super::failure::{Failure, Kind};
use super::http::Reply;
use crate::base::limits::{ASKS_PER_CALL, RETIRE_LOOK, UPSTREAM_SIDE, UPSTREAM_TELL};
use crate::rpc::error::RpcError;
use crate::rpc::message::{self, quote};
use crate::tools::catalog::Features;
use crate::tools::hosted::changes::Ears;
use crate::tools::hosted::greeting::{About, Greeting, initialize};
use crate::tools::hosted::own_task::related_task;
use crate::tools::{Call, LogLevel, Outbox};

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

/// Whose session it is: decides which call a message without an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// One session of ours, or one call: its most recent call.
    Session,
    /// Everybody: only if exactly one call runs.
    Shared,
}

/// How messages travel.
#[derive(Debug)]
pub(super) enum Transport {
    /// Streamable HTTP.
    Streamable,
    /// HTTP+SSE of 2024-11-05: requests go to an address of their own, and all answers come on the common stream.
    Sse(Url),
}

/// What a server said in its handshake.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) about: About,
    pub(super) features: Features,
    /// It runs tools as tasks of its own.
    pub(super) tasks: bool,
    logging: bool,
}

/// A session. It reads its common stream until it is closed or gone.
pub(super) struct Session {
    pub(super) common: Arc<Common>,
    pub(super) credential: Arc<Credential>,
    pub(super) ears: Ears,
    owner: Owner,
    transport: Transport,
    /// None in a server that has no sessions.
    id: OnceLock<HeaderValue>,
    told: OnceLock<Told>,
    next_id: AtomicU64,
    state: Mutex<State>,
    /// The level of log messages that it was told.
    log_level: Mutex<Option<LogLevel>>,
    /// It is no more: by the server, or because it is not wanted any more.
    pub(super) gone: CancellationToken,
    /// Its owner had another one before, and was not told yet.
    pub(super) is_anew: AtomicBool,
}

#[derive(Default)]
struct State {
    running: BTreeMap<u64, Running>,
    /// Questions that came before the first call: many servers ask for roots as soon as they are initialized.
    early: VecDeque<Bytes>,
    had_a_call: bool,
}

/// A request that waits for its answer.
struct Running {
    /// For what comes on the common stream.
    side: mpsc::Sender<Bytes>,
    /// Of a call.
    out: Option<Arc<dyn Outbox>>,
    /// The server's task that the call became.
    task: Option<String>,
}

impl Session {
    /// A session that has not shaken hands. Nothing is sent.
    pub(super) fn new(
        common: &Arc<Common>,
        credential: &Arc<Credential>,
        owner: Owner,
        ears: Ears,
        transport: Transport,
    ) -> Arc<Self> {
        Arc::new(Self {
            common: Arc::clone(common),
            credential: Arc::clone(credential),
            ears,
            owner,
            transport,
            id: OnceLock::new(),
            told: OnceLock::new(),
            next_id: AtomicU64::new(1),
            state: Mutex::default(),
            log_level: Mutex::default(),
            gone: common.closing.child_token(),
            is_anew: AtomicBool::new(false),
        })
    }

    /// Shakes hands for a client with these capabilities, JSON text.
    pub(super) async fn shake_hands(self: &Arc<Self>, capabilities: &str) -> Result<(), Failure> {
        let result = self.request("initialize", &initialize(capabilities)).await?;
        let unusable = |reason: &str| {
            let what = format!("gave an answer to `initialize` that cannot be used: {reason}");
            Failure::from(self.common.http.trouble(Kind::Down, true, &what))
        };
        let greeting: Greeting =
            serde_json::from_str(result.get()).map_err(|error| unusable(&error.to_string()))?;
        greeting.check().map_err(|reason| unusable(&reason))?;
        let told = Told {
            about: greeting.about(),
            features: greeting.capabilities.features(),
            tasks: greeting.capabilities.has_tasks(),
            logging: greeting.capabilities.logging.is_some(),
        };
        let about = Arc::new(told.about.clone());
        let before = self.common.about.swap(Some(Arc::clone(&about)));
        if before.is_some_and(|before| (&before.name, &before.version) != (&about.name, &about.version)) {
            // What it was before may have listed other things.
            self.common.look_again.notify_one();
        }
        self.adopt(None, told);
        self.send(message::notification("notifications/initialized", "{}")).await?;
        Ok(())
    }

    /// Takes over what an earlier handshake was about. `id`: the session that is gone on with.
    pub(super) fn adopt(&self, id: Option<HeaderValue>, told: Told) {
        if let Some(id) = id {
            let _ = self.id.set(id);
        }
        let _ = self.told.set(told);
    }

    /// Whether hands were shaken.
    pub(super) fn is_begun(&self) -> bool {
        self.told.get().is_some()
    }

    pub(super) fn told(&self) -> Told {
        self.told.get().cloned().unwrap_or_default()
    }

    /// The id with which it can be gone on with by somebody else.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.get().and_then(|id| id.to_str().ok())
    }

    /// Whether answers come on the common stream.
    pub(super) fn answers_elsewhere(&self) -> bool {
        matches!(self.transport, Transport::Sse(_))
    }

    /// Keeps the id that the answer to the handshake names.
    pub(super) fn saw(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(id) = headers.get(SESSION).filter(|_| self.told.get().is_none() && self.id.get().is_none())
        else {
            return Ok(());
        };
        if id.is_empty() || !id.as_bytes().iter().all(u8::is_ascii_graphic) {
            let what = "gave a session id with characters that are not visible ASCII";
            return Err(self.common.http.trouble(Kind::Down, true, what).into());
        }
        let mut id = id.clone();
        id.set_sensitive(true);
        let _ = self.id.set(id);
        Ok(())
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = self.credential.headers();
        if let Some(id) = self.id.get() {
            headers.insert(SESSION, id.clone());
        }
        // Of the earlier revisions none has this header.
        if let Some(told) = self.told.get()
            && told.about.revision.as_str() >= "2025-06-18"
            && let Ok(revision) = HeaderValue::from_str(&told.about.revision)
        {
            headers.insert(VERSION, revision);
        }
        headers
    }

    /// For a stream that goes on behind an event.
    pub(super) fn headers_to_resume(&self, cursor: Option<&str>) -> HeaderMap {
        let mut headers = self.headers();
        if let Some(cursor) = cursor.and_then(|cursor| HeaderValue::from_str(cursor).ok()) {
            headers.insert("last-event-id", cursor);
        }
        headers
    }

    fn address(&self) -> &Url {
        match &self.transport {
            Transport::Streamable => &self.common.http.url,
            Transport::Sse(to) => to,
        }
    }

    /// A request of our own, within the time of a start.
    pub(super) async fn request(
        self: &Arc<Self>,
        method: &str,
        params: &str,
    ) -> Result<Box<RawValue>, Failure> {
        let (asking, headed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let hearing = Hearing { token: None, out: None, asking: &asking, headed: &headed };
        let within = self.common.within;
        let request = self.exchange(method, params, hearing, None);
        match timeout(within, request).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let what = format!("did not answer `{method}` within {} s", within.as_secs());
                Err(self.common.http.trouble(Kind::Down, true, &what).into())
            }
        }
    }

    /// A call, whose number is the token of its progress: `hearing` and `params` are made for that number. Dropping it
    /// cancels it in the server.
    pub(super) async fn call(
        self: &Arc<Self>,
        method: &str,
        params: impl FnOnce(u64) -> Option<String>,
        call: &Call,
        asking: &AtomicUsize,
        headed: &AtomicBool,
    ) -> Result<(Box<RawValue>, u64), Failure> {
        self.tell_log_level(call).await;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let Some(params) = params(id) else {
            return Err(Failure::Answer(RpcError::invalid_params("params: want an object")));
        };
        let token = call.progress_token.as_deref().map(|token| (id, token));
        let hearing = Hearing { token, out: Some(&call.out), asking, headed };
        self.exchange_as(id, method, &params, hearing, None).await.map(|result| (result, id))
    }

    /// Another request of a call: what is said of the call comes with it.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        method: &str,
        params: &str,
        hearing: Hearing<'_>,
        task: Option<&str>,
    ) -> Result<Box<RawValue>, Failure> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.exchange_as(id, method, params, hearing, task).await
    }

    async fn exchange_as(
        self: &Arc<Self>,
        id: u64,
        method: &str,
        params: &str,
        hearing: Hearing<'_>,
        task: Option<&str>,
    ) -> Result<Box<RawValue>, Failure> {
        let (side, aside) = mpsc::channel(UPSTREAM_SIDE);
        let mut running = self.register(id, side, hearing.out, task);
        let sent = Sent {
            id,
            to: self.address(),
            headers: self.headers(),
            body: message::request(&id.to_string(), method, params),
            whose: &self.credential.whose,
        };
        running.cancels = method != "initialize";
        let outcome = exchange(&self.common, Some(self), sent, hearing, Some(aside)).await;
        running.cancels = false;
        outcome
    }

    fn register(
        self: &Arc<Self>,
        id: u64,
        side: mpsc::Sender<Bytes>,
        out: Option<&Arc<dyn Outbox>>,
        task: Option<&str>,
    ) -> InFlight {
        let mut state = self.lock();
        if out.is_some() {
            state.had_a_call = true;
            for early in std::mem::take(&mut state.early) {
                // The queue of a new call has room for all of them.
                let _ = side.try_send(early);
            }
        }
        let running = Running { side, out: out.cloned(), task: task.map(ToOwned::to_owned) };
        state.running.insert(id, running);
        drop(state);
        InFlight { session: Arc::clone(self), id, cancels: false }
    }

    /// Tells a server that has one client which log messages that client wants.
    async fn tell_log_level(self: &Arc<Self>, call: &Call) {
        if self.owner != Owner::Session || !self.told.get().is_some_and(|told| told.logging) {
            return;
        }
        let wanted = LogLevel::ALL.into_iter().find(|level| call.out.wants_log(*level));
        let changed = {
            let mut told = self.log_level.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.is_some() && std::mem::replace(&mut *told, wanted) != wanted
        };
        if let (Some(level), true) = (wanted, changed) {
            let params = format!("{{\"level\":\"{}\"}}", level.name());
            if let Err(failure) = self.request("logging/setLevel", &params).await {
                tracing::debug!(server = %self.common.http.server, "the level of log messages is not set: {failure}");
                *self.log_level.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    }

    /// Sends what has no answer.
    pub(super) async fn send(&self, message: Bytes) -> Result<(), Failure> {
        let posting = self.common.http.post(self.address(), self.headers(), message);
        match timeout(UPSTREAM_TELL, posting).await {
            Ok(Ok(Reply::Status(refusal))) => {
                let trouble = self.common.http.refused(&refusal, &self.credential.whose);
                Err(self.judge(&refusal, trouble, None))
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(trouble)) => Err(trouble.into()),
            Err(_) => {
                let what = format!("did not take a message within {} s", UPSTREAM_TELL.as_secs());
                Err(self.common.http.trouble(Kind::Down, true, &what).into())
            }
        }
    }

    /// Sends what nobody waits for.
    pub(super) fn send_later(self: &Arc<Self>, message: Bytes) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let session = Arc::clone(self);
            runtime.spawn(async move {
                if let Err(failure) = session.send(message).await {
                    tracing::debug!(server = %session.common.http.server, "a message did not arrive: {failure}");
                }
            });
        }
    }

    /// Cancels a task of the server.
    pub(super) fn cancel_task(self: &Arc<Self>, task: &str) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let params = format!("{{\"taskId\":{}}}", quote(task));
        self.send_later(message::request(&id.to_string(), "tasks/cancel", &params));
    }

    /// Leaves it as it is in the server, and reads nothing of it any more.
    pub(super) fn leave(&self) {
        self.gone.cancel();
    }

    /// Another one has taken its place: it is ended when what runs in it is over.
    pub(super) async fn end_after_its_calls(self: Arc<Self>) {
        let over = async {
            while !self.lock().running.is_empty() {
                sleep(RETIRE_LOOK).await;
            }
        };
        tokio::select! {
            () = self.gone.cancelled() => {}
            () = over => self.end().await,
        }
    }

    /// Ends it in the server, too.
    pub(super) async fn end(&self) {
        let was_gone = self.gone.is_cancelled() && !self.common.closing.is_cancelled();
        self.gone.cancel();
        if was_gone || self.id.get().is_none() {
            return;
        }
        let ending = self.common.http.delete(self.headers());
        match timeout(UPSTREAM_TELL / 4, ending).await {
            // 405: sessions of this server are not ended by clients (MCP 2025-03-26, transports).
            Ok(Ok(Reply::Status(refusal))) if !matches!(refusal.status.as_u16(), 404 | 405) => {
                tracing::debug!(server = %self.common.http.server, status = %refusal.status, "a session is not ended");
            }
            Ok(Err(trouble)) => tracing::debug!("a session is not ended: {trouble}"),
            _ => {}
        }
    }

    /// The queue of the request that this number is of.
    pub(super) fn side_of(&self, id: u64) -> Option<mpsc::Sender<Bytes>> {
        self.lock().running.get(&id).map(|running| running.side.clone())
    }

    /// The queue of the one call that a message without an address belongs to; it may name the task that the call is.
    pub(super) fn addressee(&self, params: Option<&RawValue>) -> Option<mpsc::Sender<Bytes>> {
        let state = self.lock();
        let named = params.and_then(related_task);
        let own = named.and_then(|task| state.running.values().find(|it| it.task.as_ref() == Some(&task)));
        if let Some(own) = own {
            return Some(own.side.clone());
        }
        let mut calls = state.running.values().rev().filter(|running| running.out.is_some());
        let latest = calls.next()?;
        (self.owner == Owner::Session || calls.next().is_none()).then(|| latest.side.clone())
    }

    /// Keeps a question for the first call, or marks the calls that it may be of.
    pub(super) fn keep_early(&self, message: &Bytes) -> bool {
        let mut state = self.lock();
        if self.owner == Owner::Session && !state.had_a_call && state.early.len() < ASKS_PER_CALL {
            state.early.push_back(message.clone());
            return true;
        }
        state
            .running
            .values()
            .filter_map(|running| running.out.as_ref())
            .for_each(|out| out.may_have_asked());
        false
    }

    /// All queues: for what names a question that may be anybody's.
    pub(super) fn all_sides(&self) -> Vec<mpsc::Sender<Bytes>> {
        self.lock().running.values().map(|running| running.side.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server does not know it any more, or its stream ended: what it told of has to be told by another one.
    pub(super) fn lost(&self) {
        self.gone.cancel();
        self.common.look_again.notify_one();
    }

    /// Something may have happened of which it did not hear.
    pub(super) fn missed(&self) {
        for uri in self.ears.wanted.uris() {
            self.ears.news.updated(&self.ears.wanted, &uri);
        }
        if self.owner == Owner::Shared {
            self.common.look_again.notify_one();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

/// A request that runs in the server. Dropping it before its answer came tells the server to stop.
struct InFlight {
    session: Arc<Session>,
    id: u64,
    cancels: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.session.lock().running.remove(&self.id);
        if self.cancels {
            let params = format!("{{\"requestId\":{},\"reason\":\"nobody waits for the answer\"}}", self.id);
            self.session.send_later(message::notification("notifications/cancelled", &params));
        }
    }
}
