//! `tools/call` in both eras, and the other requests that a host runs.
//!
//! A call is polled once where it came in: one that ends at once costs no task, no queue and no write. Any other runs in
//! a task of its own, because the connection that brought it may go without ending it. If it is still running after a
//! short while, or has something to say before it ends, its answer becomes an event stream.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http::header::CACHE_CONTROL;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::alone::Alone;
use super::driver::{Driver, Head};
use super::outbox::{CallOutbox, Peer};
use super::session::{Reason, Running, Session};
use super::tasks::{Offer, wanted_as_task};
use super::{Engine, Events, EventsKind, Inbound, Reply};
use crate::base::limits::{CALL_AGAIN_BYTES, CALLS_PER_SESSION};
use crate::mcp::era::Envelope;
use crate::mcp::header::Accepts;
use crate::mcp::task::task_id;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::rpc::message::{Request, error_response, quote, response, text_of};
use crate::rpc::object::{Change, Object};
use crate::tools::answer::raw;
use crate::tools::registry::{Kind as Target, Registered};
use crate::tools::{BoxFuture, Call};

type Outcome = Result<Box<RawValue>, RpcError>;

/// The name of the tool (of the prompt, the URI of the resource) and what of `_meta` concerns the engine.
struct Asked<'a> {
    tool: Cow<'a, str>,
    progress_token: Option<&'a RawValue>,
    /// It wants a result that is made now.
    no_cache: bool,
}

impl<'a> Asked<'a> {
    fn read(request: &Request<'a>) -> Result<Self, RpcError> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow)]
            name: Option<&'a RawValue>,
            #[serde(borrow)]
            uri: Option<&'a RawValue>,
            #[serde(borrow)]
            arguments: Option<&'a RawValue>,
            #[serde(borrow, rename = "_meta")]
            meta: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Meta<'a> {
            #[serde(borrow, rename = "progressToken")]
            progress_token: Option<&'a RawValue>,
            #[serde(borrow, rename = "outlast/noCache")]
            no_cache: Option<&'a RawValue>,
        }
        let params = request
            .params
            .ok_or_else(|| RpcError::invalid_params("params: want {\"name\": …, \"arguments\": {…}}"))?;
        let read: Params<'a> = serde_json::from_str(params.get())
            .map_err(|error| RpcError::invalid_params(format!("params: {error}")))?;
        let (name, key) = match request.method.as_ref() {
            "resources/read" => (read.uri, "uri"),
            "completion/complete" => (Some(RawValue::NULL), "ref"),
            _ => (read.name, "name"),
        };
        let name =
            name.ok_or_else(|| RpcError::invalid_params(format!("params.{key} is missing: which one?")))?;
        // It has no name of its own: `ref` says what it is about.
        let tool = match key {
            "ref" => Cow::Borrowed(""),
            _ => text_of(name)
                .ok_or_else(|| RpcError::invalid_params(format!("params.{key}: want a string")))?,
        };
        if read.arguments.is_some_and(|arguments| !arguments.get().starts_with('{')) {
            return Err(RpcError::invalid_params("params.arguments: want an object"));
        }
        let (progress_token, no_cache) = match read.meta {
            None => (None, false),
            Some(meta) => {
                let meta: Meta<'a> = serde_json::from_str(meta.get())
                    .map_err(|_| RpcError::invalid_params("params._meta: want an object"))?;
                if let Some(token) = meta.progress_token
                    && !is_token(token.get())
                {
                    return Err(RpcError::invalid_params(
                        "params._meta.progressToken: want a string or an integer",
                    ));
                }
                (meta.progress_token, meta.no_cache.is_some_and(|wish| wish.get() == "true"))
            }
        };
        Ok(Self { tool, progress_token, no_cache })
    }
}

/// `Cache-Control: no-cache` (RFC 9111 §5.2.1.4).
fn wants_anew(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|wish| wish.trim().eq_ignore_ascii_case("no-cache"))
}

fn is_token(json: &str) -> bool {
    json.starts_with('"') || json.strip_prefix('-').unwrap_or(json).bytes().all(|b| b.is_ascii_digit())
}

impl Engine {
    /// `tools/call` of a session.
    pub(super) async fn call_in_session(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: &Request<'_>,
        inbound: &Inbound<'_>,
        accepts: Accepts,
    ) -> Reply {
        let id = request.id.get();
        let (asked, tool) = match self.target_of(request, false).await {
            Ok(found) => found,
            Err(error) => return Reply::failed(id, &error, accepts),
        };
        if tool.kind == Target::Tool {
            let wanted = match wanted_as_task(session, &tool, request.params) {
                Ok(wanted) => wanted,
                Err(error) => return Reply::failed(id, &error, accepts),
            };
            if let Some(wanted) = wanted {
                let make = |outbox: &Arc<CallOutbox>, cancel: &CancellationToken| {
                    self.make_call(request, &asked, Some(session), outbox, cancel, inbound)
                };
                let made = self.call_as_task(session, &tool, wanted, inbound.principal, make).await;
                return whole(id, made.map(raw), accepts);
            }
        }
        let begun = Begun {
            open: open_record(id, &tool, request, &inbound.principal.name),
            resumable: may_run_again(&tool, request),
            what: tool.tool.name.clone(),
        };
        self.run_in_session(session, id, accepts, begun, |outbox, cancel| {
            let call = self.make_call(request, &asked, Some(session), outbox, cancel, inbound);
            self.run_for(session.revision, &tool, call)
        })
        .await
    }

    /// `tasks/result` of a session: a call that waits for another one.
    pub(super) async fn await_task(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: &Request<'_>,
        inbound: &Inbound<'_>,
        accepts: Accepts,
    ) -> Reply {
        let id = request.id.get();
        let found = match task_id(request.params) {
            Ok(task) => self.find_task(&task, inbound.principal).await,
            Err(error) => Err(error),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => return Reply::failed(id, &error, accepts),
        };
        let (task, principal) = (quote(&found.identity.id), quote(&inbound.principal.name));
        let open = format!("{{\"id\":{id},\"tool\":\"\",\"task\":{task},\"principal\":{principal}}}");
        let begun = Begun { open: open.into(), resumable: true, what: "tasks/result".into() };
        self.run_in_session(session, id, accepts, begun, |outbox, _| {
            self.result_of_task(found, Arc::clone(outbox))
        })
        .await
    }

    /// Runs what `begin` makes as a request of a session. It runs on when its connection goes.
    async fn run_in_session(
        self: &Arc<Self>,
        session: &Arc<Session>,
        id: &str,
        accepts: Accepts,
        begun: Begun,
        begin: impl FnOnce(&Arc<CallOutbox>, &CancellationToken) -> BoxFuture<'static, Outcome>,
    ) -> Reply {
        let cancel = CancellationToken::new();
        let handle = Running::new(cancel.clone());
        // Entered before it begins: of two calls with one id at the same moment one must not do anything.
        if let Err(refused) = enter(session, id, &handle) {
            return Reply::failed(id, &refused, accepts);
        }
        let outbox = CallOutbox::new(Peer::Session(Arc::clone(session)), cancel.clone(), accepts.sse);
        let mut running = begin(&outbox, &cancel);
        let future = match poll_once(&mut running).await {
            Poll::Ready(outcome) if outbox.is_empty() => {
                session.calls().remove(id);
                self.counters.call_ended(outcome.is_ok());
                return match handle.reason() {
                    Reason::Client => unanswered(accepts),
                    _ => whole(id, outcome, accepts),
                };
            }
            Poll::Ready(outcome) => Box::pin(std::future::ready(outcome)),
            Poll::Pending => running,
        };
        handle.is_of(begun.what, &outbox);
        let (head, answer) = oneshot::channel();
        let driver = Driver {
            engine: Arc::clone(self),
            session: Arc::clone(session),
            id: id.into(),
            open: begun.open,
            resumable: begun.resumable,
            outbox,
            handle,
            stream: None,
            head: Some(head),
            may_stream: accepts.sse,
            at_once: !accepts.json,
        };
        self.tasks.spawn(driver.run(future));
        match answer.await {
            Ok(Head::Outcome(outcome)) => whole(id, outcome, accepts),
            Ok(Head::Stream(events)) => {
                Reply::Stream { session: None, events: Events(EventsKind::Log(events)) }
            }
            Ok(Head::Nothing) => unanswered(accepts),
            Err(_) => Reply::failed(id, &RpcError::new(INTERNAL, "the call was given up"), accepts),
        }
    }

    /// `tools/call` that stands alone (2026-07-28), and the other requests that a host runs.
    pub(super) async fn call_alone(
        self: &Arc<Self>,
        envelope: &Envelope<'_>,
        request: &Request<'_>,
        inbound: &Inbound<'_>,
        accepts: Accepts,
    ) -> Reply {
        let id = request.id.get();
        let (asked, tool) = match self.target_of(request, true).await {
            Ok(found) => found,
            Err(error) => return Reply::failed(id, &error, accepts),
        };
        if let Some(headers) = inbound.mirrored()
            && let Err(refused) = tool.headers.check(headers, request.params)
        {
            return Reply::error_for(400, Some(id), &refused);
        }
        let task = match Offer::of(&tool, envelope, inbound.principal) {
            Ok(task) => task,
            Err(refused) => return Reply::error_for(400, Some(id), &refused),
        };
        let alone = Alone {
            envelope,
            request,
            inbound,
            accepts,
            progress_token: asked.progress_token,
            repeatable: tool.repeatable,
            hosted: tool.hosted,
            task,
        };
        self.run_alone(alone, |outbox, cancel| {
            let call = self.make_call(request, &asked, None, outbox, cancel, inbound);
            self.run(&tool, call)
        })
        .await
    }

    /// What a request asks for, and who runs it.
    async fn target_of<'a>(
        &self,
        request: &Request<'a>,
        modern: bool,
    ) -> Result<(Asked<'a>, Registered), RpcError> {
        let asked = Asked::read(request)?;
        let target = self.find_target(request, &asked.tool, modern).await?;
        Ok((asked, target))
    }

    /// The tool of this name, once every host has said what it has.
    pub(super) async fn find_tool(&self, name: &str) -> Option<Registered> {
        if let Some(tool) = self.registry.snapshot().get(name) {
            return Some(tool.clone());
        }
        // A host that has not answered yet may have it, or has answered since the look above.
        self.registry.settled(self.settle).await.get(name).cloned()
    }

    fn make_call(
        self: &Arc<Self>,
        request: &Request<'_>,
        asked: &Asked<'_>,
        session: Option<&Arc<Session>>,
        outbox: &Arc<CallOutbox>,
        cancel: &CancellationToken,
        inbound: &Inbound<'_>,
    ) -> Call {
        Call {
            params: match request.method.as_ref() {
                "tools/call" => without_task(request.params),
                _ => request.params.map_or_else(|| RawValue::NULL.to_owned(), ToOwned::to_owned),
            },
            progress_token: asked.progress_token.map(ToOwned::to_owned),
            session: session.map(|session| Arc::clone(session) as _),
            out: Arc::clone(outbox) as _,
            cancel: cancel.clone(),
            principal: Arc::clone(&inbound.principal.name),
            handles: Arc::clone(&self.handles) as _,
            correlation: Arc::clone(inbound.correlation),
            resumed_after: None,
            anew: asked.no_cache || wants_anew(inbound.headers),
        }
    }
}

/// Enters a call into its session.
fn enter(session: &Session, id: &str, handle: &Running) -> Result<(), RpcError> {
    let mut calls = session.calls();
    if calls.len() >= CALLS_PER_SESSION {
        return Err(RpcError::invalid_request(format!(
            "{CALLS_PER_SESSION} calls of this session are running: wait for one to end"
        )));
    }
    match calls.entry(id.into()) {
        Entry::Occupied(_) => Err(RpcError::invalid_request(
            "a request with this id is still running in this session: give each request an id of its own",
        )),
        Entry::Vacant(place) => {
            place.insert(handle.clone());
            Ok(())
        }
    }
}

/// What is kept of a request of a session.
struct Begun {
    /// The record with which its stream begins.
    open: Bytes,
    /// It is run again after a restart.
    resumable: bool,
    /// What the operator is shown of it.
    what: String,
}

/// The parameters of a call without the wish that it be a task: that is between the client and this server.
fn without_task(params: Option<&RawValue>) -> Box<RawValue> {
    let Some(params) = params else { return RawValue::NULL.to_owned() };
    if !params.get().contains("\"task\"") {
        return params.to_owned();
    }
    match Object::parse(params.get()) {
        Ok(object) => raw(object.with(|key, _| if key == "task" { Change::Drop } else { Change::Keep })),
        Err(_) => params.to_owned(),
    }
}

/// A cancelled request is not answered.
fn unanswered(accepts: Accepts) -> Reply {
    match accepts.sse {
        true => Reply::Stream { session: None, events: Events(EventsKind::Over) },
        false => Reply::accepted(),
    }
}

pub(super) async fn poll_once(future: &mut BoxFuture<'static, Outcome>) -> Poll<Outcome> {
    std::future::poll_fn(|cx: &mut Context<'_>| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

fn whole(id: &str, outcome: Outcome, accepts: Accepts) -> Reply {
    Reply::whole_or_event(response_text(id, outcome), accepts)
}

pub(super) fn response_text(id: &str, outcome: Outcome) -> Bytes {
    match outcome {
        Ok(result) => response(id, result.get()),
        Err(error) => error_response(Some(id), &error),
    }
}

pub(super) fn unknown_tool(name: &str) -> RpcError {
    let shown: String = name.chars().take(128).collect();
    RpcError::invalid_params(format!("no tool {shown:?}: tools/list names those there are"))
}

/// Whether a call goes on after its process has died: where its tool can, or where running it twice does no harm.
fn may_run_again(tool: &Registered, request: &Request<'_>) -> bool {
    let is_short = |params: &RawValue| params.get().len() <= CALL_AGAIN_BYTES;
    tool.tool.resumable
        || (tool.kind == Target::Tool && tool.repeatable && request.params.is_some_and(is_short))
}

/// What a call's stream begins with. The params are kept where the call can be run again.
fn open_record(id: &str, tool: &Registered, request: &Request<'_>, principal: &str) -> Bytes {
    let mut text = format!("{{\"id\":{id},\"tool\":{}", quote(&tool.tool.name));
    if may_run_again(tool, request)
        && let Some(params) = request.params
    {
        text.push_str(",\"principal\":");
        text.push_str(&quote(principal));
        text.push_str(",\"params\":");
        text.push_str(params.get());
    }
    text.push('}');
    Bytes::from(text)
}
