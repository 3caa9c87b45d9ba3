//! The HTTP+SSE transport of 2024-11-05: a stream that begins with the address to post to, and the posts.
//!
//! `GET /sse` opens the stream; its first event, `endpoint`, names `/message?sessionId=…`. Every message is posted
//! there and answered 202; what it causes comes on the stream as `message` events. The stream cannot be resumed: its
//! end is the end of the session (MCP 2024-11-05, transports).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::mcp::Call;
use super::reply::{Body, Refusal, answer, whole};
use super::{Public, body, guard};
use crate::base::seal::random;
use crate::base::table::Table;
use crate::edge::{Answer, Endpoint, Frames};
use crate::engine::Conversation;
use crate::rpc::message::{Envelope, error_response};

/// The open streams, by the name under which messages are posted to them.
pub(super) type Streams = Arc<Table<Box<str>, Peer>>;

/// Who is at the other end of a stream.
pub(super) struct Peer {
    conversation: Conversation,
    principal: Arc<str>,
}

/// `GET /sse`
pub(super) async fn open<E: Endpoint>(public: &Public<E>, call: Call<'_>) -> Result<Response<Body>, Refusal> {
    guard::check_accept_get(call.headers)?;
    let caller = Arc::clone(call.caller);
    let principal = Arc::clone(&caller.name);
    let (conversation, said) = public
        .app
        .engine
        .converse(caller, Arc::clone(call.correlation))
        .ok_or_else(|| Refusal::not_found("nothing is served at this path: the MCP endpoint is /mcp"))?;
    let name: Box<str> = URL_SAFE_NO_PAD.encode(random::<16>()).into();
    let endpoint = format!("event: endpoint\ndata: /message?sessionId={name}\n\n");
    public.sse.insert(name.clone(), Peer { conversation: conversation.clone(), principal });
    let events = Events {
        endpoint: Some(Bytes::from(endpoint)),
        said,
        _end: End { name, streams: Arc::clone(&public.sse), conversation },
    };
    Ok(answer(Answer::Stream { session: None, events }, &public.pace, &public.idle_ttl))
}

/// `POST /message?sessionId=…`
pub(super) async fn post<E: Endpoint>(
    public: &Public<E>,
    call: Call<'_>,
    query: Option<&str>,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    guard::check_content_type(call.headers)?;
    let name = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("sessionId="))
        .ok_or_else(|| Refusal::bad_request("which stream? post to the address that GET /sse named first"))?;
    let found = public
        .sse
        .with(name, |peer| (*peer.principal == *call.caller.name).then(|| peer.conversation.clone()));
    let Some(conversation) = found.flatten() else {
        return Err(Refusal::not_found("no such stream: it has ended; open a new one with GET /sse"));
    };
    let limit = public.app.config.server.max_body_bytes;
    let advice = "send less, or raise server.max_body_bytes";
    let bytes = body::read(body, limit, advice, public.body_timeout).await?;
    if let Err(bad) = Envelope::parse(&bytes) {
        return Ok(whole(StatusCode::BAD_REQUEST, error_response(bad.id.as_deref(), &bad.error)));
    }
    conversation.take(bytes).await;
    let mut accepted = whole(StatusCode::ACCEPTED, Bytes::from_static(b"Accepted"));
    accepted
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(accepted)
}

/// What a stream carries.
struct Events {
    endpoint: Option<Bytes>,
    said: mpsc::Receiver<Bytes>,
    _end: End,
}

impl Frames for Events {
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(endpoint) = self.endpoint.take() {
            return Poll::Ready(Some(endpoint));
        }
        self.said.poll_recv(cx).map(|said| said.map(|message| frame(&message)))
    }

    fn is_left_open(&self) -> bool {
        true
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = b"event: message\n".to_vec();
    crate::rpc::sse::write_event(&mut frame, None, None, message);
    frame.into()
}

/// Ends the session with its stream.
struct End {
    name: Box<str>,
    streams: Streams,
    conversation: Conversation,
}

impl Drop for End {
    fn drop(&mut self) {
        self.streams.remove(&*self.name);
        let conversation = self.conversation.clone();
        // Outside of a runtime everything ends anyway.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { conversation.end().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_events_of_their_own_type() {
        assert_eq!(frame(b"{}").as_ref(), b"event: message\ndata: {}\n\n");
    }
}
