//! What a message means: a classified message in, a reply or a stream out.

mod alone;
mod announce;
mod ask;
mod bridge;
mod broadcast;
mod cached;
mod call;
mod catalog;
mod completers;
mod conversation;
mod counters;
mod driver;
mod elsewhere;
mod events;
mod handles;
mod hearers;
mod keyed;
mod legacy;
mod listen;
mod listing;
mod modern;
pub mod operate;
mod orphan;
mod outbox;
mod paged;
pub mod rest;
mod session;
mod shape;
mod stream;
mod subscriptions;
mod tasks;
mod topics;

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::conversation::Conversation;
pub use self::counters::Stats;
use self::session::{Reason, Session, store_error};
use crate::auth::Principal;
use crate::base::clock::SharedClock;
use crate::base::ids::SessionKey;
use crate::base::limits::HOST_START;
use crate::base::table::Table;
use crate::config::{Config, Mode};
use crate::mcp::era::{Era, Refusal, is_modern_notification, of_request};
use crate::mcp::header::{Accepts, value};
use crate::mcp::revision::Revision;
use crate::mcp::{SESSION_HEADER, VERSION_HEADER};
use crate::rpc::error::RpcError;
use crate::rpc::message::{Envelope, Message};
use crate::state::lock::Scope;
use crate::state::log::{Kind, Retention, StreamName};
use crate::store::{Store, StoreError};
use crate::tools::registry::Registry;

/// A request to the MCP endpoint, after the edge has let it in.
#[derive(Debug)]
pub struct Inbound<'a> {
    /// The request's headers: the engine reads the protocol's own ones.
    pub headers: &'a HeaderMap,
    /// Whether the client could set headers: then they must mirror the body where the protocol says so.
    pub mirrors: bool,
    /// Who calls.
    pub principal: &'a Arc<Principal>,
    /// The correlation id: names this request in every log line.
    pub correlation: &'a Arc<str>,
}

impl<'a> Inbound<'a> {
    fn mirrored(&self) -> Option<&'a HeaderMap> {
        self.mirrors.then_some(self.headers)
    }
}

/// What is answered.
#[derive(Debug)]
pub enum Reply {
    /// A whole answer: `application/json`, or without content when `body` is empty.
    Whole {
        /// HTTP status.
        status: u16,
        /// Value for `Mcp-Session-Id`.
        session: Option<String>,
        /// JSON text.
        body: Bytes,
    },
    /// 200 with `text/event-stream`.
    Stream {
        /// Value for `Mcp-Session-Id`.
        session: Option<String>,
        /// The events.
        events: Events,
    },
}

impl Reply {
    /// An error of the HTTP level: `{"jsonrpc":"2.0","error":…}`.
    #[must_use]
    pub fn error(status: u16, error: &RpcError) -> Self {
        Self::error_for(status, None, error)
    }

    /// An error answer to the request whose id, as JSON text, is `id`.
    #[must_use]
    pub fn error_for(status: u16, id: Option<&str>, error: &RpcError) -> Self {
        Self::Whole { status, session: None, body: crate::rpc::message::error_response(id, error) }
    }

    fn accepted() -> Self {
        Self::Whole { status: 202, session: None, body: Bytes::new() }
    }

    /// A whole answer; for a client that takes event streams only, a stream of one event.
    fn whole_or_event(body: Bytes, accepts: Accepts) -> Self {
        if accepts.json || !accepts.sse {
            return Self::Whole { status: 200, session: None, body };
        }
        Self::Stream { session: None, events: Events(EventsKind::Once(events::frame(&body))) }
    }

    /// The answer to a request that was understood and failed, in the form that the client takes.
    fn failed(id: &str, error: &RpcError, accepts: Accepts) -> Self {
        Self::whole_or_event(crate::rpc::message::error_response(Some(id), error), accepts)
    }

    fn with_session(mut self, token: &str) -> Self {
        let (Self::Whole { session, .. } | Self::Stream { session, .. }) = &mut self;
        *session = Some(token.to_owned());
        self
    }
}

/// The events of one answer, each item one or more complete SSE frames. Pulled: nothing is queued for a reader that
/// does not read. Dropping it tells the engine that the connection is gone.
#[derive(Debug)]
pub struct Events(EventsKind);

#[derive(Debug)]
enum EventsKind {
    Log(events::LogEvents),
    Queue(events::QueueEvents),
    Listen(listen::ListenEvents),
    Tail(topics::TailEvents),
    Once(Bytes),
    Over,
}

impl Events {
    /// The next frames; `None` when the answer is complete.
    pub fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let kind = &mut self.get_mut().0;
        match kind {
            EventsKind::Log(events) => Pin::new(events).poll_next(cx),
            EventsKind::Queue(events) => events.poll_next(cx),
            EventsKind::Listen(events) => events.poll_next(cx),
            EventsKind::Tail(events) => events.poll_next(cx),
            EventsKind::Once(frame) => {
                let frame = std::mem::take(frame);
                *kind = EventsKind::Over;
                Poll::Ready(Some(frame))
            }
            EventsKind::Over => Poll::Ready(None),
        }
    }

    /// Whether the stream has no end of its own: a session's GET stream, subscriptions, a look at topics.
    #[must_use]
    pub fn is_left_open(&self) -> bool {
        match &self.0 {
            EventsKind::Log(events) => events.is_get(),
            EventsKind::Listen(_) | EventsKind::Tail(_) => true,
            EventsKind::Queue(_) | EventsKind::Once(_) | EventsKind::Over => false,
        }
    }
}

/// What became of a message for a session's client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Delivery {
    /// Live streams that carry it.
    pub delivered: usize,
    /// It is stored, and found by a client that comes or resumes later.
    pub stored: bool,
}

/// The engine of one instance.
pub struct Engine {
    store: Arc<Store>,
    registry: Arc<Registry>,
    clock: SharedClock,
    sessions: Table<Arc<str>, Arc<Session>>,
    /// The same, for those who know the key alone.
    by_key: Table<SessionKey, Weak<Session>>,
    broadcast: Arc<broadcast::Broadcast>,
    handles: Arc<handles::StoredHandles>,
    held: Arc<bridge::Held>,
    completers: completers::Completers,
    counters: counters::Counters,
    pages: listing::Pages,
    paged: Arc<paged::Paged>,
    hearers: hearers::Hearers,
    changes: elsewhere::Changes,
    listeners: Table<Arc<str>, Arc<listen::Listener>>,
    mcp_tasks: tasks::Tasks,
    topics: topics::Topics,
    /// What runs in the background and is waited for at the end.
    tasks: TaskTracker,
    stopping: CancellationToken,
    retention: Retention,
    retry_ms: u64,
    json_within: Duration,
    stall: Duration,
    max_ttl_ms: u64,
    idle_ttl_ms: u64,
    unload_after_ms: u64,
    strict_idle_expiry: bool,
    open_to_all: bool,
    /// Among whom a lock is taken of which nobody said so.
    lock_scope: Scope,
    settle: Duration,
    /// Keys of sessions that are being put in from a file.
    closed: Table<SessionKey, ()>,
    /// The number of the last message of this process in sessions that the operator ended.
    said: Table<SessionKey, u64>,
    /// The plain HTTP bridge.
    rest: rest::Rest,
    /// Names of principals by what the store knows them by, as far as the configuration has them.
    principals: HashMap<String, Arc<str>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine over a store and tools, for clients: it tells them what changes here and on other instances.
    ///
    /// # Errors
    /// As [`Engine::over`].
    pub async fn start(
        config: &Config,
        store: Arc<Store>,
        registry: Arc<Registry>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, StoreError> {
        let engine = Self::over(config, store, registry, clock).await?;
        let kept = Duration::from_secs(config.tools.key_ttl_seconds);
        engine.registry.keep_in(keyed::of(&engine, kept));
        engine.announce_changes();
        engine.announce_updates();
        engine.watch_elsewhere();
        engine.relay_topics();
        engine.share_results();
        Ok(engine)
    }

    /// An engine that does what it is asked and tells nobody anything by itself. Reads the log of broadcasts from the
    /// store.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn over(
        config: &Config,
        store: Arc<Store>,
        registry: Arc<Registry>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, StoreError> {
        let max_ttl_ms = config.sessions.max_ttl_seconds.saturating_mul(1_000);
        let slowest_start =
            config.servers.values().map(|server| server.start_timeout_seconds).max().unwrap_or_default();
        let changes = elsewhere::Changes::since(clock.now_ms());
        Ok(Arc::new(Self {
            broadcast: Arc::new(broadcast::Broadcast::load(&store).await?),
            handles: Arc::new(handles::StoredHandles {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                max_ttl_ms,
            }),
            held: Arc::new(bridge::Held::new(Duration::from_secs(config.tools.input_timeout_seconds))),
            completers: completers::Completers::new(config.tools.completions_per_second, Arc::clone(&clock)),
            paged: paged::Paged::new(Arc::clone(&store), Arc::clone(&clock)),
            store,
            registry,
            clock,
            sessions: Table::default(),
            by_key: Table::default(),
            counters: counters::Counters::default(),
            pages: listing::Pages::default(),
            hearers: hearers::Hearers::default(),
            changes,
            listeners: Table::default(),
            mcp_tasks: tasks::Tasks::new(&config.tools),
            topics: topics::Topics::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            retention: stream::retention(&config.streams),
            retry_ms: config.streams.retry_ms,
            json_within: Duration::from_millis(config.streams.json_within_ms),
            stall: Duration::from_secs(config.streams.stall_seconds),
            max_ttl_ms,
            idle_ttl_ms: config.sessions.idle_ttl_seconds.saturating_mul(1_000),
            unload_after_ms: config.sessions.unload_after_seconds.saturating_mul(1_000),
            strict_idle_expiry: config.sessions.strict_idle_expiry,
            open_to_all: config.auth.tokens.is_empty(),
            lock_scope: if config.mode == Mode::Redis { Scope::Global } else { Scope::Instance },
            settle: Duration::from_secs(slowest_start).max(HOST_START),
            closed: Table::default(),
            said: Table::default(),
            rest: rest::Rest::new(&config.bridge),
            principals: principals(config),
        }))
    }

    /// `POST /mcp`
    pub async fn post(self: &Arc<Self>, inbound: Inbound<'_>, body: Bytes) -> Reply {
        let accepts = Accepts::of(inbound.headers);
        let message = match Envelope::parse(&body) {
            Ok(Envelope::One(message)) => message,
            Ok(Envelope::Batch(items)) => return self.legacy_batch(items, &inbound).await,
            Err(bad) => return Reply::error_for(400, bad.id.as_deref(), &bad.error),
        };
        match message {
            Message::Request(request) => match of_request(&request, inbound.mirrored()) {
                Ok(Era::Legacy) => self.legacy_request(&request, &inbound, accepts).await,
                Ok(Era::Modern(envelope)) => {
                    self.modern_request(&envelope, &request, &inbound, accepts).await
                }
                Err(Refusal { status, error }) => Reply::error_for(status, Some(request.id.get()), &error),
            },
            // Nothing hangs on a notification of a client without sessions: a call ends with its connection.
            Message::Notification(notification)
                if is_modern_notification(&notification, inbound.mirrored()) =>
            {
                Reply::accepted()
            }
            message => self.legacy_message(message, &inbound).await,
        }
    }

    /// `GET /mcp`
    pub async fn get(self: &Arc<Self>, inbound: Inbound<'_>) -> Reply {
        match self.refuse_modern(&inbound) {
            Some(refused) => refused,
            None => self.open_stream(&inbound).await,
        }
    }

    /// `DELETE /mcp`
    pub async fn delete(self: &Arc<Self>, inbound: Inbound<'_>) -> Reply {
        match self.refuse_modern(&inbound) {
            Some(refused) => refused,
            None => self.end_by_client(&inbound).await,
        }
    }

    /// 2026-07-28 has POST alone.
    fn refuse_modern(&self, inbound: &Inbound<'_>) -> Option<Reply> {
        let version = value(inbound.headers, VERSION_HEADER).ok().flatten();
        (version == Some(Revision::MODERN.as_str()) && !inbound.headers.contains_key(SESSION_HEADER)).then(
            || {
                Reply::error(
                    405,
                    &RpcError::invalid_request("2026-07-28 has neither streams nor sessions: POST only"),
                )
            },
        )
    }

    /// Sends a notification to every session.
    ///
    /// # Errors
    /// -32600 when it is not a notification; -32603 when it could not be stored: then nobody got it.
    pub async fn broadcast(&self, message: Bytes) -> Result<Delivery, RpcError> {
        check_notification(&message)?;
        let heard = self.topics.is_heard().then(|| message.clone());
        let delivered = self
            .broadcast
            .send(&self.store, &self.clock, self.retention, message)
            .await
            .map_err(|error| store_error(&error))?;
        if let Some(message) = heard {
            let text = || String::from_utf8(message.to_vec()).unwrap_or_default();
            self.say(|| "mcp/broadcast/notification".to_owned(), text);
        }
        Ok(Delivery { delivered, stored: true })
    }

    /// Sends a notification to one session, by its session id; `None` when there is no such session.
    ///
    /// # Errors
    /// As [`Engine::broadcast`].
    pub async fn send(self: &Arc<Self>, session: &str, message: Bytes) -> Result<Option<Delivery>, RpcError> {
        check_notification(&message)?;
        let session = match self.any_session(session).await {
            Ok(session) => session,
            Err(Refusal { status: 404, .. }) => return Ok(None),
            Err(refusal) => return Err(refusal.error),
        };
        session
            .append(self, StreamName::GET, vec![(Kind::Message, message)])
            .await
            .map_err(|error| store_error(&error))?;
        let delivered = usize::from(session.streams().carrier(StreamName::GET).is_some());
        Ok(Some(Delivery { delivered, stored: true }))
    }

    /// Lets calls finish until `within`, then ends what is left so that its stream says so, and keeps what must outlive
    /// the process. New sessions are refused from now on.
    pub async fn drain(&self, within: Duration) {
        self.tasks.close();
        let _ = tokio::time::timeout(within, self.tasks.wait()).await;
        self.stopping.cancel();
        self.sessions.for_each(|_, session| {
            for running in session.calls().values() {
                running.end(Reason::Shutdown);
            }
        });
        // What they still store is small, and the disk is not far.
        let stored = async { tokio::join!(self.tasks.wait(), self.mcp_tasks.stopped()) };
        let _ = tokio::time::timeout(Duration::from_secs(2), stored).await;
        self.save_positions().await;
        self.sessions.for_each(|_, session| session.streams().end_all());
    }

    /// Makes a new key that signs session ids and seals values from now on. Returns its number.
    ///
    /// # Errors
    /// [`INTERNAL`](crate::rpc::error::INTERNAL) with the store's reason: nothing has changed then.
    pub async fn rotate_keys(&self) -> Result<u8, RpcError> {
        self.store.rotate_keys().await.map_err(|error| store_error(&error))
    }

    /// Numbers for status and metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.stats(self.sessions.len(), self.store.sessions(), self.mcp_tasks.running())
    }

    /// Periodic work: lets idle sessions go. Called about once a second.
    pub async fn tick(self: &Arc<Self>) {
        self.look_after_sisters();
        self.look_after_topics();
        self.unload_idle().await;
    }
}

fn principals(config: &Config) -> HashMap<String, Arc<str>> {
    let configured = config.auth.tokens.iter().map(|token| token.principal.as_str());
    let all = configured.chain(["anonymous"]).map(Principal::new);
    all.map(|principal| (crate::base::seal::hex(&principal.hash.0), principal.name)).collect()
}

fn check_notification(message: &[u8]) -> Result<(), RpcError> {
    match Envelope::parse(message) {
        Ok(Envelope::One(Message::Notification(_))) => Ok(()),
        Ok(_) => Err(RpcError::invalid_request("want one JSON-RPC notification: a method, and no id")),
        Err(bad) => Err(bad.error),
    }
}
