//! What a tool is to the rest of the server: a [`Host`] lists tools and runs calls.

pub mod answer;
pub mod breaker;
pub mod builtin;
pub mod cached;
pub mod catalog;
pub mod child;
#[cfg(feature = "code")]
pub mod code;
pub mod execute;
pub mod hosted;
pub mod registry;
pub mod schema;
pub mod status;
pub mod upstream;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use crate::rpc::object;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use self::catalog::{ListsChanged, Offers, Subscriber, Updated};
use self::status::HostStatus;
use crate::config::ToolFacts;
use crate::mcp::revision::Revision;
use crate::rpc::error::RpcError;

/// A future without a name.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What becomes of a session's value; none: it is not there.
pub type ValueChange = Box<dyn FnOnce(Option<&Bytes>) -> Option<Bytes> + Send>;

/// What becomes of a handle's value.
pub type HandleChange = Box<dyn FnOnce(&Bytes) -> Bytes + Send>;

/// A tool as it is listed: raw JSON, so that no field of a hosted server's tool is lost.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Its name, unique in the registry.
    pub name: String,
    /// The whole description as a JSON object, `name` included.
    pub json: Box<RawValue>,
    /// A call that was interrupted may be run again from where its stream stopped ([`Call::resumed_after`]).
    pub resumable: bool,
}

impl Tool {
    /// Whether it says that it changes nothing.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.hints().read_only_hint
    }

    /// Whether it says that running it twice does no harm.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        let hints = self.hints();
        hints.read_only_hint || hints.idempotent_hint
    }

    fn hints(&self) -> Hints {
        #[derive(Deserialize)]
        struct Hinted {
            #[serde(default)]
            annotations: Hints,
        }
        serde_json::from_str::<Hinted>(self.json.get()).map(|it| it.annotations).unwrap_or_default()
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Hints {
    read_only_hint: bool,
    idempotent_hint: bool,
}

/// Something that has tools and runs them.
pub trait Host: Send + Sync + 'static {
    /// Short name for logs and metrics.
    fn name(&self) -> &str;

    /// Its tools, in its own order. Called at start and after [`Host::changed`].
    fn tools(&self) -> BoxFuture<'_, Result<Vec<Tool>, RpcError>>;

    /// Runs one call. `tool` is the host's own name of it. Dropping the future or cancelling `call.cancel` ends the
    /// call. A tool's own failure is an `Ok` with `isError`.
    fn call(&self, tool: &str, call: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>>;

    /// Whether a call of this tool is a task of the server that runs it, so that only that server knows when the task
    /// has begun ([`Outbox::task_begun`]).
    fn has_own_task(&self, tool: &str) -> bool {
        let _ = tool;
        false
    }

    /// A session of the engine has ended: whatever was kept for it goes.
    fn session_ended(&self, session: &str) {
        let _ = session;
    }

    /// Resolves when the list of tools has changed since the last call of [`Host::tools`]; never, if it cannot.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// What it has beside tools. Called at start and after [`Host::offers_changed`].
    fn offers(&self) -> BoxFuture<'_, Result<Offers, RpcError>> {
        Box::pin(std::future::ready(Ok(Offers::default())))
    }

    /// As [`Host::changed`], for [`Host::offers`]: says which lists it is about.
    fn offers_changed(&self) -> BoxFuture<'_, ListsChanged> {
        Box::pin(std::future::pending())
    }

    /// Runs `prompts/get`; `prompt` is the host's own name of it. Ends as [`Host::call`] does.
    fn get_prompt(&self, prompt: &str, call: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let _ = (prompt, call);
        Box::pin(std::future::ready(Err(RpcError::method_not_found("prompts/get"))))
    }

    /// Runs `resources/read`.
    fn read(&self, call: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let _ = call;
        Box::pin(std::future::ready(Err(RpcError::method_not_found("resources/read"))))
    }

    /// Runs `completion/complete`. `prompt`: the host's own name of the prompt that it is about, if it is about one.
    fn complete(
        &self,
        prompt: Option<&str>,
        call: Call,
    ) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let _ = (prompt, call);
        Box::pin(std::future::ready(Err(RpcError::method_not_found("completion/complete"))))
    }

    /// From now on tells through [`Host::updated`] when the resource changes. Once more does no harm.
    fn subscribe(&self, subscriber: &Subscriber, uri: &str) -> BoxFuture<'static, Result<(), RpcError>> {
        let _ = (subscriber, uri);
        Box::pin(std::future::ready(Err(RpcError::method_not_found("resources/subscribe"))))
    }

    /// Takes a subscription back, if there is one. `subscriber` is its [`Subscriber::key`].
    fn unsubscribe(&self, subscriber: &str, uri: &str) {
        let _ = (subscriber, uri);
    }

    /// Takes all subscriptions of this key back.
    fn release(&self, subscriber: &str) {
        let _ = subscriber;
    }

    /// Resolves with the resources that changed since it did last; what changed twice is there once. For one caller at
    /// a time; may be dropped without loss.
    fn updated(&self) -> BoxFuture<'_, Vec<Updated>> {
        Box::pin(std::future::pending())
    }

    /// How it is, for the operator; none: there is nothing that could be otherwise.
    fn status(&self) -> Option<HostStatus> {
        None
    }

    /// What the configuration says of a tool, by the host's own name of it.
    fn facts(&self, tool: &str) -> Option<&ToolFacts> {
        let _ = tool;
        None
    }

    /// How long a call of its tools may take, seconds, as its configuration says; 0: as the class of the tool says.
    fn call_timeout_seconds(&self) -> u64 {
        0
    }

    /// Whether calls of its tools have a time at all. Not those of tools that are there to take long.
    fn is_timed(&self) -> bool {
        true
    }

    /// Whether it looks after what does not answer by itself, so that its tools need no breaker.
    fn has_own_breaker(&self) -> bool {
        false
    }

    /// It was taken out of the registry: ends, as [`Host::close`] does, once the calls that run have ended.
    fn retire(&self) -> BoxFuture<'_, ()> {
        self.close()
    }

    /// Ends everything it started. Called once, at shutdown.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// One call of a tool.
#[derive(Clone)]
pub struct Call {
    /// The whole `params` of `tools/call`, as they came.
    pub params: Box<RawValue>,
    /// The caller's `_meta.progressToken`, as JSON text.
    pub progress_token: Option<Box<RawValue>>,
    /// The session it belongs to; none under 2026-07-28.
    pub session: Option<Arc<dyn SessionView>>,
    /// Where messages to the client go.
    pub out: Arc<dyn Outbox>,
    /// Ends the call.
    pub cancel: CancellationToken,
    /// Who calls.
    pub principal: Arc<str>,
    /// Where values are kept that outlive the call without a session (2026-07-28).
    pub handles: Arc<dyn Handles>,
    /// The correlation id for logs.
    pub correlation: Arc<str>,
    /// `Some(n)`: the server was killed in the middle of this call after `n` messages of it were stored. Only for
    /// tools that say they are resumable.
    pub resumed_after: Option<u64>,
    /// The caller wants a result that is made now, not one that was kept.
    pub anew: bool,
}

impl Call {
    /// `params.arguments` as JSON text; `{}` when absent.
    ///
    /// # Errors
    /// -32602 when `arguments` is not an object.
    pub fn arguments(&self) -> Result<&RawValue, RpcError> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow)]
            arguments: Option<&'a RawValue>,
        }
        let params: Params<'_> = serde_json::from_str(self.params.get())
            .map_err(|error| RpcError::invalid_params(format!("params: {error}")))?;
        match params.arguments {
            None => Ok(EMPTY_OBJECT.get_or_init(|| {
                RawValue::from_string("{}".into()).unwrap_or_else(|_| RawValue::NULL.to_owned())
            })),
            Some(raw) if raw.get().starts_with('{') => Ok(raw),
            Some(_) => Err(RpcError::invalid_params("params.arguments: want an object")),
        }
    }
}

static EMPTY_OBJECT: std::sync::OnceLock<Box<RawValue>> = std::sync::OnceLock::new();

/// A function of a kept value: what it becomes, or `None` to leave it as it is.
pub type Change = Box<dyn FnOnce(Option<&Bytes>) -> Option<Bytes> + Send>;

/// What a tool may know and keep of the session that calls it.
pub trait SessionView: Send + Sync + 'static {
    /// The session's internal key as text: names it in logs, proves nothing.
    fn key(&self) -> &str;

    /// What the client declared at `initialize`, as JSON text: its `capabilities` object.
    fn client_capabilities(&self) -> &RawValue;

    /// The revision of the protocol that its client speaks.
    fn revision(&self) -> Revision {
        Revision::LATEST_LEGACY
    }

    /// Changes a value kept in the session, atomically; resolves when the disk has it, with the value now there.
    fn change_value<'a>(
        &'a self,
        name: &'a str,
        change: ValueChange,
    ) -> BoxFuture<'a, Result<Option<Bytes>, RpcError>>;
}

/// Values without a session, under names that nobody can guess (2026-07-28).
pub trait Handles: Send + Sync + 'static {
    /// Makes a handle with this value; resolves with its name when the disk has it.
    fn create(&self, principal: &str, value: Bytes) -> BoxFuture<'_, Result<String, RpcError>>;

    /// Changes the value of a handle, atomically; `Ok(None)` when the principal has no such handle.
    fn change(
        &self,
        principal: &str,
        handle: &str,
        change: HandleChange,
    ) -> BoxFuture<'_, Result<Option<Bytes>, RpcError>>;
}

/// Where a running call's messages go: to the stream of its request.
pub trait Outbox: Send + Sync + 'static {
    /// Sends a notification, a complete JSON-RPC message as JSON text. Waits while the client or the disk is behind.
    ///
    /// # Errors
    /// When the call is over or nothing can be stored: the tool should end.
    fn notify(&self, message: Bytes) -> BoxFuture<'_, Result<(), RpcError>>;

    /// Asks the client (elicitation, sampling, roots) and waits for the answer: its `result` as JSON text.
    ///
    /// # Errors
    /// The client's error; -32021 or -32600 when the client did not declare the capability or there is no way to ask.
    fn ask(&self, method: &str, params: Box<RawValue>) -> BoxFuture<'_, Result<Box<RawValue>, RpcError>>;

    /// Whether the client wants log messages of this severity on this request's stream, as at this moment.
    fn wants_log(&self, level: LogLevel) -> bool;

    /// Whether `ask` reaches the client in the middle of the call: never under 2026-07-28. There the answer to the
    /// request asks, and the call is held until a retry brings the answer; what can be run again should return an
    /// input-required result instead.
    fn can_ask(&self) -> bool;

    /// Whether the call wanted to ask its client, as far as it is known.
    fn wanted_to_ask(&self) -> bool {
        false
    }

    /// A question came that may have been this call's, or another's.
    fn may_have_asked(&self) {}

    /// The server that runs the call has made a task of it: what it asks from now on is asked within the task.
    fn task_begun(&self) {}

    /// Whether the call is a task, as at this moment: then it has the task's time, whatever bound the host has.
    fn is_task(&self) -> bool {
        false
    }

    /// The call waits for others to end before it begins, or has begun.
    fn queued(&self, waits: bool) {
        let _ = waits;
    }

    /// Whether its client went away without a word, so that it may come back for the call.
    fn is_abandoned(&self) -> bool {
        false
    }

    /// Whether somebody else sees to the call's time, so that the host has no bound of its own.
    fn is_timed(&self) -> bool {
        false
    }

    /// Whether the call's time is over, for which it is ended now.
    fn is_late(&self) -> bool {
        false
    }

    /// Under 2026-07-28: the capabilities that this request declares; the result is to be in that revision's form.
    fn modern_capabilities(&self) -> Option<&RawValue>;
}

/// Severity of a log message, as RFC 5424 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum LogLevel {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl LogLevel {
    /// All of them, from the least severe on.
    pub const ALL: [Self; 8] = [
        Self::Debug,
        Self::Info,
        Self::Notice,
        Self::Warning,
        Self::Error,
        Self::Critical,
        Self::Alert,
        Self::Emergency,
    ];

    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }

    /// From its name on the wire.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}
