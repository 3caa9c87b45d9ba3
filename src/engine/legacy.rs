//! Revisions with sessions: the handshake and what belongs to a session.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::events::Start;
use super::session::{Birth, Reason, Session, store_error, unavailable};
use super::{Engine, Events, EventsKind, Inbound, Reply};
use crate::mcp::era::{Refusal, has_claim};
use crate::mcp::header::{self, Accepts};
use crate::mcp::revision::Revision;
use crate::mcp::view::server_info;
use crate::mcp::{LAST_EVENT_HEADER, SESSION_HEADER, VERSION_HEADER};
use crate::rpc::error::{INVALID_REQUEST, RpcError};
use crate::rpc::message::{Message, Notification, Request, Response, error_response, response};
use crate::state::cursor::{Cursor, EventId};
use crate::state::log::StreamName;
use crate::tools::LogLevel;

const INSTRUCTIONS: &str = "Sessions of this server outlast its restarts: after a lost connection go on with the same session id, and resume a stream with Last-Event-ID.";

impl Engine {
    /// A request of a session, or the one that makes it.
    pub(super) async fn legacy_request(
        self: &Arc<Self>,
        request: &Request<'_>,
        inbound: &Inbound<'_>,
        accepts: Accepts,
    ) -> Reply {
        let id = request.id.get();
        let refuse = |refusal: Refusal| Reply::error_for(refusal.status, Some(id), &refusal.error);
        if request.method == "initialize" {
            return self.initialize(request, inbound, accepts).await;
        }
        let session = match self.session_of(inbound).await {
            Ok(session) => session,
            Err(refusal) => return refuse(refusal),
        };
        self.session_request(&session, request, inbound, accepts).await
    }

    async fn session_request(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: &Request<'_>,
        inbound: &Inbound<'_>,
        accepts: Accepts,
    ) -> Reply {
        let id = request.id.get();
        let outcome = match request.method.as_ref() {
            "tools/call" => return self.call_in_session(session, request, inbound, accepts).await,
            method if method.starts_with("tasks/") && !session.revision.has_tasks() => {
                Err(RpcError::method_not_found(method))
            }
            "tasks/result" => return self.await_task(session, request, inbound, accepts).await,
            "tasks/get" | "tasks/list" | "tasks/cancel" => {
                self.session_tasks(session, request, inbound).await
            }
            method if !self.serves(method, request.params).await => Err(RpcError::method_not_found(method)),
            "completion/complete" => match self.completers.take(&inbound.principal.name) {
                Ok(()) => return self.call_in_session(session, request, inbound, accepts).await,
                Err(error) => Err(error),
            },
            "prompts/get" | "resources/read" => {
                return self.call_in_session(session, request, inbound, accepts).await;
            }
            "tools/list" => self
                .list_tools(request.params, session.revision)
                .await
                .map(|members| format!("{{{members}}}")),
            "prompts/list" | "resources/list" | "resources/templates/list" => self
                .list_offers(&request.method, request.params, session.revision)
                .await
                .map(|members| format!("{{{members}}}")),
            "resources/subscribe" => self.subscribe(session, request.params).await,
            "resources/unsubscribe" => self.unsubscribe(session, request.params).await,
            "ping" => Ok("{}".to_owned()),
            "logging/setLevel" => set_level(session, request.params).await,
            "initialize" => Err(RpcError::invalid_request("initialize must not be in a batch")),
            method => Err(RpcError::method_not_found(method)),
        };
        match outcome {
            Ok(result) => Reply::whole_or_event(response(id, &result), accepts),
            Err(error) => Reply::failed(id, &error, accepts),
        }
    }

    async fn initialize(
        self: &Arc<Self>,
        request: &Request<'_>,
        inbound: &Inbound<'_>,
        accepts: Accepts,
    ) -> Reply {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Params<'a> {
            protocol_version: String,
            #[serde(borrow)]
            capabilities: Option<&'a RawValue>,
        }
        let id = request.id.get();
        let refuse = |status, error: &RpcError| Reply::error_for(status, Some(id), error);
        if self.stopping.is_cancelled() {
            return refuse(503, &RpcError::internal("the server is stopping: try again in a moment"));
        }
        // A session's id on `initialize` is a client that lost track; one that is gone does not stand in its way.
        if inbound.headers.contains_key(SESSION_HEADER)
            && let Ok(_alive) = self.session_of(inbound).await
        {
            return refuse(
                400,
                &RpcError::invalid_request(
                    "this session is initialized already: leave Mcp-Session-Id away for a new one",
                ),
            );
        }
        let text = request.params.map_or("{}", RawValue::get);
        let params: Params<'_> = match serde_json::from_str(text) {
            Ok(params) => params,
            Err(error) => {
                let error = RpcError::invalid_params(format!(
                    "initialize: {error}; want {{\"protocolVersion\": \"{}\", \"capabilities\": {{…}}, \"clientInfo\": {{…}}}}",
                    Revision::LATEST_LEGACY
                ));
                return Reply::failed(id, &error, accepts);
            }
        };
        let none = RawValue::from_string("{}".into()).unwrap_or_else(|_| RawValue::NULL.to_owned());
        let capabilities = params.capabilities.unwrap_or(&none);
        if !capabilities.get().starts_with('{') {
            let error = RpcError::invalid_params("params.capabilities: want an object");
            return Reply::failed(id, &error, accepts);
        }
        let revision = Revision::negotiate(&params.protocol_version);
        let declared = self.capabilities(revision).await;
        let session =
            match self.create_session(inbound.principal, revision, capabilities, Birth::default()).await {
                Ok(session) => session,
                Err(error @ crate::store::StoreError::Cap(_)) => return refuse(429, &store_error(&error)),
                Err(error) => {
                    let refusal = unavailable(&error);
                    return refuse(refusal.status, &refusal.error);
                }
            };
        tracing::debug!(session = %session.claims.key, %revision, correlation = %inbound.correlation, "session made");
        let result = format!(
            "{{\"protocolVersion\":\"{revision}\",\"capabilities\":{declared},\
             \"serverInfo\":{},\"instructions\":\"{INSTRUCTIONS}\"}}",
            server_info()
        );
        Reply::whole_or_event(response(id, &result), accepts).with_session(&session.token)
    }

    /// A notification or a response of a session.
    pub(super) async fn legacy_message(
        self: &Arc<Self>,
        message: Message<'_>,
        inbound: &Inbound<'_>,
    ) -> Reply {
        match self.session_of(inbound).await {
            Ok(session) => {
                self.take_message(&session, message);
                Reply::accepted()
            }
            Err(refusal) => Reply::error(refusal.status, &refusal.error),
        }
    }

    /// An array of messages: in 2025-03-26 alone. One that makes a claim is refused before any of it is done.
    pub(super) async fn legacy_batch(
        self: &Arc<Self>,
        items: Vec<&RawValue>,
        inbound: &Inbound<'_>,
    ) -> Reply {
        let messages: Vec<_> = items.into_iter().map(|item| Message::parse(item.get())).collect();
        if messages.iter().flatten().any(|message| has_claim(message.params())) {
            let error = RpcError::invalid_request("2026-07-28 has no batches: send each message by itself");
            return Reply::error(400, &error);
        }
        let session = match self.session_of(inbound).await {
            Ok(session) => session,
            Err(refusal) => return Reply::error(refusal.status, &refusal.error),
        };
        if !session.revision.has_batches() {
            let error = RpcError::invalid_request(format!(
                "the body is an array: batches are of 2025-03-26, this session is of {}",
                session.revision
            ));
            return Reply::error(400, &error);
        }
        // Calls of a batch run side by side; nothing can be told before the whole answer.
        let whole = Accepts { json: true, sse: false };
        let answers = messages.into_iter().map(|message| {
            let session = &session;
            async move {
                match message {
                    // In an array an answer without an id would be a hole: JSON-RPC 2.0 says `null`.
                    Err(bad) => Some(error_response(Some(bad.id.as_deref().unwrap_or("null")), &bad.error)),
                    Ok(Message::Request(request)) => {
                        match self.session_request(session, &request, inbound, whole).await {
                            // Nothing: the request was cancelled.
                            Reply::Whole { body, .. } => Some(body).filter(|body| !body.is_empty()),
                            Reply::Stream { .. } => None,
                        }
                    }
                    Ok(other) => {
                        self.take_message(session, other);
                        None
                    }
                }
            }
        });
        let answers: Vec<Bytes> =
            futures_util::future::join_all(answers).await.into_iter().flatten().collect();
        if answers.is_empty() {
            return Reply::accepted();
        }
        let mut body = Vec::from(&b"["[..]);
        for (at, answer) in answers.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            body.extend_from_slice(answer);
        }
        body.push(b']');
        Reply::Whole { status: 200, session: None, body: body.into() }
    }

    /// `GET /mcp`
    pub(super) async fn open_stream(self: &Arc<Self>, inbound: &Inbound<'_>) -> Reply {
        let session = match self.session_of(inbound).await {
            Ok(session) => session,
            Err(refusal) => return Reply::error(refusal.status, &refusal.error),
        };
        if let Err(error) = session.load_log(self).await {
            let refusal = unavailable(&error);
            return Reply::error(refusal.status, &refusal.error);
        }
        // An id that cannot be read is not refused: the client would lose the stream for good. It gets all there is.
        let last = match header::value(inbound.headers, LAST_EVENT_HEADER) {
            Ok(None) => None,
            Ok(Some(text)) => Some(EventId::parse(text)),
            Err(_) => Some(Err(crate::state::cursor::BadEventId)),
        };
        let (stream, start, resumed) = match last {
            None => (StreamName::GET, Start::Fresh, false),
            Some(Err(_)) => (StreamName::GET, Start::Resume(Cursor::default()), true),
            Some(Ok(id)) => {
                let known = session.streams().log.entries().any(|entry| entry.stream == id.stream);
                if !known && id.stream != StreamName::GET {
                    // Begun on another instance just now, perhaps.
                    session.read_all_shared(self).await;
                }
                let streams = session.streams();
                let known = id.stream == StreamName::GET
                    || streams.is_live(id.stream)
                    || streams.log.entries().any(|entry| entry.stream == id.stream)
                    || self.may_be_elsewhere(&session, id.stream);
                if !known {
                    let error = RpcError::invalid_request(
                        "Last-Event-ID names a stream that this session does not have, or has no more",
                    );
                    // Not 404: that says that the session is gone, and clients throw it away.
                    return Reply::error(400, &error);
                }
                // One that was given by another session's stream of the same name says nothing of this one.
                let ours = streams.may_have_given(self.store.origin(), &id.cursor)
                    && !self.broadcast.is_beyond(&id.cursor);
                let seen = if ours { id.cursor } else { Cursor::default() };
                let over = streams.log.entries().any(|entry| {
                    entry.stream == id.stream
                        && entry.kind.ends_stream()
                        && entry.seq <= seen.seen(entry.origin)
                });
                if over {
                    let events = Events(EventsKind::Over);
                    return Reply::Stream { session: Some(session.token.to_string()), events };
                }
                (id.stream, Start::Resume(seen), true)
            }
        };
        let events = session.read(self, stream, start, resumed);
        Reply::Stream { session: Some(session.token.to_string()), events: Events(EventsKind::Log(events)) }
    }

    /// `DELETE /mcp`
    pub(super) async fn end_by_client(self: &Arc<Self>, inbound: &Inbound<'_>) -> Reply {
        let session = match self.session_of(inbound).await {
            Ok(session) => session,
            Err(refusal) => return Reply::error(refusal.status, &refusal.error),
        };
        match self.end_session(&session).await {
            Ok(()) => Reply::Whole { status: 200, session: None, body: Bytes::new() },
            Err(error) => {
                let refusal = unavailable(&error);
                Reply::error(refusal.status, &refusal.error)
            }
        }
    }

    async fn session_of(self: &Arc<Self>, inbound: &Inbound<'_>) -> Result<Arc<Session>, Refusal> {
        let bad = |message: String| Refusal { status: 400, error: RpcError::new(INVALID_REQUEST, message) };
        let read = |name| header::value(inbound.headers, name).map_err(|error| bad(error.to_string()));
        if let Some(version) = read(VERSION_HEADER)?
            && Revision::parse(version).is_none()
        {
            let served: Vec<&str> = Revision::ALL.iter().map(|revision| revision.as_str()).collect();
            return Err(bad(format!(
                "MCP-Protocol-Version {version:?} is not served; served: {}",
                served.join(", ")
            )));
        }
        let token = read(SESSION_HEADER)?.ok_or_else(|| {
            bad("the header Mcp-Session-Id is missing: send initialize first, and its session id with every request".into())
        })?;
        self.session(token, inbound.principal).await
    }
}

impl Engine {
    /// A notification or a response, which nobody waits to hear about.
    fn take_message(self: &Arc<Self>, session: &Arc<Session>, message: Message<'_>) {
        match message {
            Message::Notification(notification) => self.take_notification(session, &notification),
            Message::Response(Response { id, outcome }) => {
                let outcome = match outcome {
                    Ok(result) => Ok(result.to_owned()),
                    Err(error) => Err(serde_json::from_str(error.get()).unwrap_or_else(|_| {
                        RpcError::internal("the client answered with an error that cannot be read")
                    })),
                };
                match session.asks.waits(id.get()) {
                    true => drop(session.asks.answer(id.get(), outcome)),
                    // Asked by another instance, or by nobody.
                    false => self.answer_elsewhere(session, id.get(), outcome),
                }
            }
            Message::Request(_) => {}
        }
    }

    fn take_notification(self: &Arc<Self>, session: &Arc<Session>, notification: &Notification<'_>) {
        #[derive(Deserialize)]
        struct Cancelled<'a> {
            #[serde(borrow, rename = "requestId")]
            request_id: &'a RawValue,
        }
        if notification.method == "notifications/cancelled"
            && let Some(params) = notification.params
            && let Ok(cancelled) = serde_json::from_str::<Cancelled<'_>>(params.get())
        {
            let running = session.calls().get(cancelled.request_id.get()).cloned();
            match running {
                Some(running) => running.end(Reason::Client),
                None => self.cancel_elsewhere(session, cancelled.request_id.get()),
            }
        }
    }
}

async fn set_level(session: &Session, params: Option<&RawValue>) -> Result<String, RpcError> {
    #[derive(Deserialize)]
    struct Params {
        level: String,
    }
    let bad = || {
        RpcError::invalid_params(
            "params.level: want debug, info, notice, warning, error, critical, alert or emergency",
        )
    };
    let params: Params = params.and_then(|params| serde_json::from_str(params.get()).ok()).ok_or_else(bad)?;
    let level = LogLevel::parse(&params.level).ok_or_else(bad)?;
    session.set_level(level).await.map_err(|error| store_error(&error))?;
    Ok("{}".into())
}
