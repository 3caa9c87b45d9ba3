//! A peer on one connection that carries everything, both ways: stdio, and the HTTP+SSE transport of 2024-11-05.
//!
//! Such a connection has no headers, no event ids and no way to resume: its session lives and ends with it. A message
//! goes in, and whatever it causes comes out as JSON texts in one bounded queue.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Engine, Events, Inbound, Reply};
use crate::auth::Principal;
use crate::base::limits::{CONVERSATION_QUEUE, CONVERSATION_REQUESTS, SSE_EVENT_BYTES};
use crate::mcp::SESSION_HEADER;
use crate::mcp::era::is_modern_notification;
use crate::rpc::error::RpcError;
use crate::rpc::message::{Envelope, Message, error_response};
use crate::rpc::sse::Reader;

/// One peer.
#[derive(Clone)]
pub struct Conversation {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<Engine>,
    principal: Arc<Principal>,
    correlation: Arc<str>,
    out: mpsc::Sender<Bytes>,
    /// The session, once the peer has one.
    headers: Mutex<Option<HeaderMap>>,
    /// Requests that run, by id: a modern one is cancelled by giving it up.
    running: Mutex<HashMap<Box<str>, CancellationToken>>,
    settled: Notify,
    tasks: TaskTracker,
    /// The connection is gone.
    over: CancellationToken,
}

/// How a request is waited for.
#[derive(Clone, Copy)]
enum Kind {
    /// Before anything else is taken.
    Handshake,
    /// Not at all.
    Listen,
    /// When the peer has said all it had to say.
    Other,
}

impl Kind {
    fn of(method: &str) -> Self {
        match method {
            "initialize" => Self::Handshake,
            "subscriptions/listen" => Self::Listen,
            _ => Self::Other,
        }
    }
}

impl Conversation {
    /// A conversation, and what it says.
    #[must_use]
    pub fn new(
        engine: Arc<Engine>,
        principal: Arc<Principal>,
        correlation: Arc<str>,
    ) -> (Self, mpsc::Receiver<Bytes>) {
        let (out, said) = mpsc::channel(CONVERSATION_QUEUE);
        let shared = Shared {
            engine,
            principal,
            correlation,
            out,
            headers: Mutex::default(),
            running: Mutex::default(),
            settled: Notify::new(),
            tasks: TaskTracker::new(),
            over: CancellationToken::new(),
        };
        (Self { shared: Arc::new(shared) }, said)
    }

    /// Takes one message. Requests run side by side; this waits only while too many do, and until what every later
    /// message depends on (the handshake, a notification) is done.
    pub async fn take(&self, message: Bytes) {
        let shared = Arc::clone(&self.shared);
        let request = match Envelope::parse(&message) {
            Ok(Envelope::One(Message::Request(request))) => {
                Some((Box::<str>::from(request.id.get()), Kind::of(&request.method)))
            }
            Ok(Envelope::One(Message::Notification(notification)))
                if notification.method == "notifications/cancelled" =>
            {
                // A legacy call is told, in case it runs already. Then the request is given up, in case it has not
                // come so far yet; a modern one ends by that alone, as there is no connection of its own to close.
                if !is_modern_notification(&notification, None) && shared.has_session() {
                    shared.answer(message.clone(), &CancellationToken::new()).await;
                }
                shared.give_up(notification.params);
                return;
            }
            _ => None,
        };
        let Some((id, kind)) = request else {
            return shared.answer(message, &CancellationToken::new()).await;
        };
        while shared.running().len() >= CONVERSATION_REQUESTS {
            tokio::select! {
                () = shared.settled.notified() => {}
                () = shared.over.cancelled() => return,
            }
        }
        let cancel = shared.over.child_token();
        let taken = match shared.running().entry(id.clone()) {
            Entry::Occupied(_) => true,
            Entry::Vacant(free) => {
                free.insert(cancel.clone());
                false
            }
        };
        if taken {
            let error = RpcError::invalid_request("a request with this id is still running");
            shared.say(error_response(Some(&id), &error)).await;
            return;
        }
        let answering = async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = shared.answer(message, &cancel) => {}
            }
            shared.running().remove(&id);
            shared.settled.notify_one();
        };
        match kind {
            Kind::Handshake => answering.await,
            // It has no end of its own that anybody could wait for.
            Kind::Listen => drop(tokio::spawn(answering)),
            Kind::Other => drop(self.shared.tasks.spawn(answering)),
        }
    }

    /// Says something of the connection's own.
    pub async fn say(&self, message: Bytes) {
        self.shared.say(message).await;
    }

    /// Waits until every request that was taken is answered.
    pub async fn settled(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Ends the conversation and its session. Dropping alone leaves both.
    pub async fn end(&self) {
        self.shared.over.cancel();
        let headers = self.shared.headers().take();
        if let Some(headers) = headers {
            let shared = &self.shared;
            shared.engine.delete(shared.inbound(&headers)).await;
        }
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").finish_non_exhaustive()
    }
}

impl Shared {
    async fn answer(self: &Arc<Self>, message: Bytes, cancel: &CancellationToken) {
        let headers = self.headers().clone().unwrap_or_default();
        match self.engine.post(self.inbound(&headers), message).await {
            Reply::Whole { session, body, .. } => {
                if let Some(token) = session {
                    self.begin(&token);
                }
                if !body.is_empty() {
                    self.say(body).await;
                }
            }
            Reply::Stream { events, .. } => self.forward(events, cancel).await,
        }
    }

    /// The peer has a session: from now on what belongs to no request comes here, too.
    fn begin(self: &Arc<Self>, token: &str) {
        let Ok(value) = HeaderValue::try_from(token) else { return };
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(SESSION_HEADER), value)]);
        *self.headers() = Some(headers.clone());
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let reply = shared.engine.get(shared.inbound(&headers)).await;
            if let Reply::Stream { events, .. } = reply {
                let over = shared.over.clone();
                shared.forward(events, &over).await;
            }
        });
    }

    /// Says what a stream carries, without its frames.
    async fn forward(&self, mut events: Events, cancel: &CancellationToken) {
        let mut reader = Reader::new(SSE_EVENT_BYTES);
        let mut read = Vec::new();
        loop {
            let next = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                next = poll_fn(|cx| Pin::new(&mut events).poll_next(cx)) => next,
            };
            let Some(frames) = next else { return };
            if reader.push(&frames, &mut read).is_err() {
                tracing::warn!(correlation = &*self.correlation, "a message is too long for this connection");
                return;
            }
            for event in read.drain(..).filter(|event| !event.data.is_empty()) {
                self.say(event.data.into()).await;
            }
        }
    }

    /// Waits while the peer is behind; nothing is said to one that is gone.
    async fn say(&self, message: Bytes) {
        tokio::select! {
            _ = self.out.send(message) => {}
            () = self.over.cancelled() => {}
        }
    }

    fn give_up(&self, params: Option<&RawValue>) {
        #[derive(Deserialize)]
        struct Cancelled<'a> {
            #[serde(borrow, rename = "requestId")]
            request_id: &'a RawValue,
        }
        let Some(params) = params else { return };
        if let Ok(cancelled) = serde_json::from_str::<Cancelled<'_>>(params.get())
            && let Some(running) = self.running().get(cancelled.request_id.get())
        {
            running.cancel();
        }
    }

    fn inbound<'a>(&'a self, headers: &'a HeaderMap) -> Inbound<'a> {
        Inbound { headers, mirrors: false, principal: &self.principal, correlation: &self.correlation }
    }

    fn has_session(&self) -> bool {
        self.headers().is_some()
    }

    fn headers(&self) -> MutexGuard<'_, Option<HeaderMap>> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Box<str>, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
