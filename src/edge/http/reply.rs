//! How answers look on the wire.

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Frame, SizeHint};

use super::stream::{EventStream, Pace};
use crate::edge::{Answer, Frames};
use crate::rpc::error::{INTERNAL, INVALID_REQUEST, RpcError};
use crate::rpc::message::error_response;

/// `Mcp-Session-Id`
pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `Mcp-Session-Idle-Ttl`: a session that is not used for this many seconds is removed.
pub(crate) const IDLE_TTL: HeaderName = HeaderName::from_static("mcp-session-idle-ttl");

/// The body of an answer. Kept small: every open connection has room for one.
#[derive(Debug)]
pub(crate) enum Body {
    /// All of it; empty: no body.
    Whole(Bytes),
    /// Events as they come.
    Events(Box<dyn EventBody + Send>),
    /// The same, of a stream that is left open until somebody ends it.
    Open(Box<dyn EventBody + Send>),
}

/// A stream of events whose source is not known any more.
pub(crate) trait EventBody: std::fmt::Debug {
    /// The next bytes; `None` at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Events(events) | Self::Open(events) => {
                events.poll(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Self::Events(_) | Self::Open(_) => SizeHint::default(),
        }
    }
}

/// Why a request is not served, as its client reads it.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    message: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A refusal; the message says what to do.
    pub(crate) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    /// 400
    pub(crate) fn bad_request(message: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404
    pub(crate) fn not_found(message: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 405
    pub(crate) fn method(allowed: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes {allowed}"))
            .with_header(ALLOW, HeaderValue::from_static(allowed))
    }

    /// Adds a header; there is room for one.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// Status, message and header, for an answer of another form.
    pub(crate) fn into_parts(self) -> (StatusCode, Cow<'static, str>, Option<(HeaderName, HeaderValue)>) {
        (self.status, self.message, self.header)
    }

    /// The answer.
    pub(crate) fn into_response(self) -> Response<Body> {
        let code = if self.status.is_server_error() { INTERNAL } else { INVALID_REQUEST };
        let body = error_response(None, &RpcError::new(code, self.message));
        let mut response = whole(self.status, body);
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// An answer of JSON, or without content.
pub(crate) fn whole(status: StatusCode, body: Bytes) -> Response<Body> {
    typed(status, HeaderValue::from_static("application/json"), body)
}

/// An answer of some other type.
pub(crate) fn typed(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Body> {
    let typed = !body.is_empty();
    let mut response = Response::new(Body::Whole(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if typed {
        headers.insert(CONTENT_TYPE, content_type);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer without content.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// An answer that is a stream of events.
pub(crate) fn streamed<F: Frames + Send + 'static>(events: F, pace: &Pace) -> Response<Body> {
    let body = if events.is_left_open() { Body::Open } else { Body::Events };
    let mut response = Response::new(body(Box::new(EventStream::new(events, pace))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Proxies that compress or buffer would hold events back.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The engine's answer. `idle_ttl`: what a client is told of how long its session may be idle, in seconds.
pub(crate) fn answer<F: Frames + Send + 'static>(
    answer: Answer<F>,
    pace: &Pace,
    idle_ttl: &HeaderValue,
) -> Response<Body> {
    let (mut response, session) = match answer {
        Answer::Whole { status, session, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = whole(status, body);
            match status {
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                }
                StatusCode::METHOD_NOT_ALLOWED => {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                }
                _ => {}
            }
            (response, session)
        }
        Answer::Stream { session, events } => (streamed(events, pace), session),
    };
    if let Some(value) = session.and_then(|session| HeaderValue::try_from(session).ok()) {
        response.headers_mut().insert(SESSION_ID, value);
        response.headers_mut().insert(IDLE_TTL, idle_ttl.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_a_connection_stays_small() {
        assert!(size_of::<Body>() <= 40, "{}", size_of::<Body>());
    }
}
