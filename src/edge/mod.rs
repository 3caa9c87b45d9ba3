//! The outside: bytes in, bytes out. HTTP for clients, and a listener of its own for the operator.
//!
//! The edge decides whether a request may come in and how an answer looks on the wire. What a message means is the
//! engine's business.

pub mod admin;
pub mod http;
pub mod stdio;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::auth::{Authenticate, Principal};
use crate::config::Config;
use crate::engine::operate::{Command, Outcome};
use crate::engine::rest::{Ask, Caller, Refused, Told};
use crate::engine::{Conversation, Delivery, Engine, Events, Inbound, Reply, Stats};
use crate::mcp::era::Refusal;
use crate::rpc::error::RpcError;

/// What the listeners serve.
pub struct App<E = Engine> {
    /// Gives messages their meaning.
    pub engine: Arc<E>,
    /// Finds out who calls.
    pub auth: Arc<dyn Authenticate>,
    /// The settings.
    pub config: Arc<Config>,
    /// Looks at everything the server depends on. Called per request to a health path: it must be cheap.
    pub health: Arc<dyn Fn() -> Health + Send + Sync>,
    /// Counts.
    pub metrics: Arc<dyn Metrics>,
    /// What the bridge says of itself, where the operator has words for it.
    pub bridge: BridgeTexts,
}

/// JSON objects of the operator's for callers of the bridge.
#[derive(Clone, Debug, Default)]
pub struct BridgeTexts {
    /// `system_info` of `/tools-schema`.
    pub system_info: Option<Box<RawValue>>,
    /// `workflow_guidance` of `/tools`.
    pub workflow_guidance: Option<Box<RawValue>>,
}

/// How the server is.
#[derive(Clone, Debug)]
pub struct Health {
    /// Requests can be served.
    pub ready: bool,
    /// One word for people and scripts: `ok` when all is well.
    pub status: &'static str,
    /// Each dependency, with what is wrong with it.
    pub checks: Vec<(String, Result<(), String>)>,
    /// Where data lives at this moment: `local`, `redis`, `degraded`.
    pub mode: &'static str,
    /// What is known of Redis, for operators; `None`: it is not used.
    pub redis: Option<serde_json::Value>,
}

/// What the edge counts; the layer above registers and encodes it. Called on the request path: it must not block.
pub trait Metrics: Send + Sync + 'static {
    /// A request has its answer, or its client has gone (499). Of a stream this is its beginning.
    fn request(&self, route: &'static str, status: u16, took: Duration);
    /// A connection was accepted.
    fn connection_opened(&self);
    /// A connection that was opened is gone.
    fn connection_closed(&self);
    /// A connection that was opened is ended because nothing came on it in time.
    fn connection_refused(&self);
    /// All metrics as OpenMetrics text.
    fn encode(&self) -> String;
}

/// What the edge needs of an engine.
pub trait Endpoint: Send + Sync + 'static {
    /// The events of a streamed answer.
    type Events: Frames + Send + 'static;

    /// `POST /mcp`. Dropped when the client goes away.
    fn post(
        self: &Arc<Self>,
        inbound: Inbound<'_>,
        body: Bytes,
    ) -> impl Future<Output = Answer<Self::Events>> + Send;

    /// `GET /mcp`
    fn get(self: &Arc<Self>, inbound: Inbound<'_>) -> impl Future<Output = Answer<Self::Events>> + Send;

    /// `DELETE /mcp`
    fn delete(self: &Arc<Self>, inbound: Inbound<'_>) -> impl Future<Output = Answer<Self::Events>> + Send;

    /// A notification for every session.
    fn broadcast(&self, message: Bytes) -> impl Future<Output = Result<Delivery, RpcError>> + Send;

    /// A notification for one session; `None` when there is no such session.
    fn send(
        self: &Arc<Self>,
        session: &str,
        message: Bytes,
    ) -> impl Future<Output = Result<Option<Delivery>, RpcError>> + Send;

    /// Begins to talk with a peer on a connection that carries everything; what is said comes out of the receiver.
    fn converse(
        self: &Arc<Self>,
        principal: Arc<Principal>,
        correlation: Arc<str>,
    ) -> Option<(Conversation, mpsc::Receiver<Bytes>)>;

    /// Makes a new key that signs and seals from now on, and says its number.
    fn rotate_keys(&self) -> impl Future<Output = Result<u8, RpcError>> + Send;

    /// What the operator wants of sessions and locks.
    fn operate(self: &Arc<Self>, command: Command) -> impl Future<Output = Result<Outcome, Refusal>> + Send;

    /// What is said on the topics that a filter picks, as long as the stream is read.
    fn tail(self: &Arc<Self>, filter: &str) -> impl Future<Output = Result<Self::Events, Refusal>> + Send;

    /// What a caller without MCP asks.
    fn rest(
        self: &Arc<Self>,
        caller: &Caller,
        ask: Ask,
    ) -> impl Future<Output = Result<Told, Refused>> + Send;

    /// Numbers for the operator.
    fn stats(&self) -> Stats;
}

/// A pulled source of server-sent events, each item whole frames.
pub trait Frames {
    /// The next frames; `None` when the stream is complete.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;

    /// Whether the stream has no end of its own: it may be open for hours, and silent for most of them.
    fn is_left_open(&self) -> bool;
}

/// [`Reply`], with the events left open.
#[derive(Debug)]
pub enum Answer<F> {
    /// A whole answer: JSON, or nothing when `body` is empty.
    Whole {
        /// HTTP status.
        status: u16,
        /// Value for `Mcp-Session-Id`.
        session: Option<String>,
        /// JSON text.
        body: Bytes,
    },
    /// 200 with an event stream.
    Stream {
        /// Value for `Mcp-Session-Id`.
        session: Option<String>,
        /// The events.
        events: F,
    },
}

impl From<Reply> for Answer<Events> {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Whole { status, session, body } => Self::Whole { status, session, body },
            Reply::Stream { session, events } => Self::Stream { session, events },
        }
    }
}

impl Frames for Events {
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Events::poll_next(self, cx)
    }

    fn is_left_open(&self) -> bool {
        Events::is_left_open(self)
    }
}

impl Endpoint for Engine {
    type Events = Events;

    async fn post(self: &Arc<Self>, inbound: Inbound<'_>, body: Bytes) -> Answer<Events> {
        Engine::post(self, inbound, body).await.into()
    }

    async fn get(self: &Arc<Self>, inbound: Inbound<'_>) -> Answer<Events> {
        Engine::get(self, inbound).await.into()
    }

    async fn delete(self: &Arc<Self>, inbound: Inbound<'_>) -> Answer<Events> {
        Engine::delete(self, inbound).await.into()
    }

    async fn broadcast(&self, message: Bytes) -> Result<Delivery, RpcError> {
        Engine::broadcast(self, message).await
    }

    async fn send(self: &Arc<Self>, session: &str, message: Bytes) -> Result<Option<Delivery>, RpcError> {
        Engine::send(self, session, message).await
    }

    fn converse(
        self: &Arc<Self>,
        principal: Arc<Principal>,
        correlation: Arc<str>,
    ) -> Option<(Conversation, mpsc::Receiver<Bytes>)> {
        Some(Conversation::new(Arc::clone(self), principal, correlation))
    }

    async fn rotate_keys(&self) -> Result<u8, RpcError> {
        Engine::rotate_keys(self).await
    }

    async fn operate(self: &Arc<Self>, command: Command) -> Result<Outcome, Refusal> {
        Engine::operate(self, command).await
    }

    async fn tail(self: &Arc<Self>, filter: &str) -> Result<Events, Refusal> {
        Engine::tail(self, filter).await
    }

    async fn rest(self: &Arc<Self>, caller: &Caller, ask: Ask) -> Result<Told, Refused> {
        Engine::rest(self, caller, ask).await
    }

    fn stats(&self) -> Stats {
        Engine::stats(self)
    }
}

/// Why a listener cannot stand. Every text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// Strangers could call.
    #[error(
        "server.listen = {address} can be reached from other machines, and nobody would have to authenticate: \
         configure auth.tokens, listen on 127.0.0.1, or set server.allow_open = true if that is meant"
    )]
    Open {
        /// The address.
        address: SocketAddr,
    },
    /// The setting is no address.
    #[error(
        "{setting} = {value:?} is not an address to listen on (want HOST:PORT, such as 127.0.0.1:8808): {reason}"
    )]
    Address {
        /// The key.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refuses.
    #[error("{setting}: cannot listen on {address}: {source}{}", advice(source))]
    Listen {
        /// The key.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A socket that was handed over at start cannot be used.
    #[error("the socket that was handed over at start cannot be used: {0}")]
    Inherited(std::io::Error),
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process listens there: end it or choose another port",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege: choose a higher one",
        std::io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}
