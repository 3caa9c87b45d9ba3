//! One connection, from its first byte to its end, with every limit that hyper has and the two it lacks: the wait for
//! the first byte (hyper#3962), and idle HTTP/2 connections.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Handle;
use super::reply::Body;
use crate::base::limits::{
    H2_PING, H2_SEND_BUFFER_BYTES, H2_STREAMS, H2_WINDOW_BYTES, HEADER_BYTES, HEADER_COUNT, LINGER,
    READ_BUFFER_BYTES,
};
use crate::config::Config;
use crate::edge::Metrics;

/// How long things may take.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Until the first byte of a connection.
    pub(crate) first_byte: Duration,
    /// Until a request's headers are there, and between requests.
    pub(crate) headers: Duration,
    /// Until a peer takes what was sent to it.
    pub(crate) stall: Duration,
    /// From the beginning of a drain until a connection is cut.
    pub(crate) drain: Duration,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        let seconds = |value: u64| Duration::from_secs(value.max(1));
        Self {
            first_byte: seconds(config.server.first_byte_timeout_seconds),
            headers: seconds(config.server.header_timeout_seconds),
            stall: seconds(config.streams.stall_seconds),
            drain: Duration::from_secs(config.server.drain_seconds),
        }
    }
}

/// What all connections of a listener share.
pub(crate) struct Front {
    handler: Arc<dyn Handle>,
    limits: Limits,
    metrics: Arc<dyn Metrics>,
    drain: CancellationToken,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Front {
    pub(crate) fn new(
        handler: Arc<dyn Handle>,
        limits: Limits,
        metrics: Arc<dyn Metrics>,
        drain: CancellationToken,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        // The number of headers stays at hyper's default of 100 (`HEADER_COUNT`): setting it, even to that, moves
        // them to the heap with every request.
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.headers)
            .max_header_size(HEADER_BYTES)
            .max_buf_size(READ_BUFFER_BYTES);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS)
            .max_send_buf_size(H2_SEND_BUFFER_BYTES)
            .max_header_list_size(u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX))
            .initial_stream_window_size(H2_WINDOW_BYTES)
            .initial_connection_window_size(H2_WINDOW_BYTES.saturating_mul(4))
            .keep_alive_interval(H2_PING)
            .keep_alive_timeout(H2_PING);
        Self { handler, limits, metrics, drain, http1, http2 }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn drain(&self) -> &CancellationToken {
        &self.drain
    }
}

const _: () = assert!(HEADER_COUNT == 100, "hyper's default is used for it");

/// Serves a connection until it ends, is too slow, or is cut by a drain. `at` is the address it came to.
pub(crate) async fn connection(stream: TcpStream, at: IpAddr, front: Arc<Front>) {
    front.metrics.connection_opened();
    let _closed = Closed(Arc::clone(&front));
    let opening = tokio::select! {
        biased;
        opening = timeout(front.limits.first_byte, opening(&stream)) => opening,
        () = front.drain.cancelled() => return,
    };
    match opening {
        Ok(Opening::Http1) => serve_http1(stream, at, front).await,
        // Boxed: its state is several times that of HTTP/1, which would have to keep room for it.
        Ok(Opening::Http2) => Box::pin(serve_http2(stream, at, front)).await,
        Ok(Opening::Closed) => {}
        Err(_) => front.metrics.connection_refused(),
    }
}

struct Closed(Arc<Front>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.metrics.connection_closed();
    }
}

#[derive(Clone, Copy, Debug)]
enum Opening {
    Http1,
    Http2,
    /// The peer closed, or the socket failed, before anything came.
    Closed,
}

/// What HTTP/2 connections begin with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits for the first bytes and says what they begin, leaving them to be read.
async fn opening(stream: &TcpStream) -> Opening {
    let mut bytes = [0_u8; PREFACE.len()];
    loop {
        let Ok(count @ 1..) = stream.peek(&mut bytes).await else { return Opening::Closed };
        let seen = bytes.get(..count).unwrap_or_default();
        if seen == PREFACE {
            return Opening::Http2;
        }
        if !PREFACE.starts_with(seen) {
            return Opening::Http1;
        }
        // A part of the preface: what was looked at stays readable, so there is no event to wait for.
        sleep(Duration::from_millis(10)).await;
    }
}

async fn serve_http1(stream: TcpStream, at: IpAddr, front: Arc<Front>) {
    let handler = &front.handler;
    let service = service_fn(|request: Request<Incoming>| {
        let answering = Arc::clone(handler).handle(request, at);
        Infallibly(answering)
    });
    let mut connection = front.http1.serve_connection(TokioIo::new(stream), service);
    let served = {
        let mut served = pin!(std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)));
        tokio::select! {
            biased;
            served = served.as_mut() => Some(served),
            () = front.drain.cancelled() => None,
        }
    };
    match served {
        // The peer broke off or was too slow: there is nobody to be polite to.
        Some(Err(error)) if !error.is_parse() => {}
        Some(_) => Box::pin(linger(connection.into_parts().io.into_inner())).await,
        None => {
            // Not moved into a `pin!`: its state would be held twice.
            Pin::new(&mut connection).graceful_shutdown();
            let _ = timeout(front.limits.drain, &mut connection).await;
        }
    }
}

/// Ends a connection so that its peer reads the last answer: closing a socket on which input is unread resets it, and
/// a client that is still sending the body that was refused would see that instead of the refusal.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut scratch = vec![0_u8; 16 * 1024];
    let drained = async { while matches!(stream.read(&mut scratch).await, Ok(1..)) {} };
    let _ = timeout(LINGER, drained).await;
}

/// hyper wants errors; there are none.
struct Infallibly(super::Answering);

impl Future for Infallibly {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

async fn serve_http2(stream: TcpStream, at: IpAddr, front: Arc<Front>) {
    let load = Arc::new(Load::default());
    let service = {
        let (handler, load) = (Arc::clone(&front.handler), Arc::clone(&load));
        service_fn(move |request: Request<Incoming>| {
            let busy = Busy::new(&load);
            let answering = Arc::clone(&handler).handle(request, at);
            async move { Ok::<_, Infallible>(answering.await.map(|body| Counted { body, _busy: busy })) }
        })
    };
    let mut connection = pin!(front.http2.serve_connection(TokioIo::new(stream), service));
    let mut rounds = interval(front.limits.headers);
    rounds.tick().await;
    let bound = loop {
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = front.drain.cancelled() => break front.limits.drain,
            // A peer that is there answers the goodbye at once; one that is not is waited for no longer than this.
            _ = rounds.tick() => if load.was_idle() { break front.limits.headers.min(front.limits.drain) },
        }
    };
    connection.as_mut().graceful_shutdown();
    let _ = timeout(bound, connection).await;
}

/// What goes on on an HTTP/2 connection.
#[derive(Debug, Default)]
struct Load {
    requests: AtomicUsize,
    touched: AtomicBool,
}

impl Load {
    /// Whether nothing went on since the last time this was asked.
    fn was_idle(&self) -> bool {
        let touched = self.touched.swap(false, Ordering::Relaxed);
        !touched && self.requests.load(Ordering::Relaxed) == 0
    }
}

/// A request that is not over until its answer's body is.
struct Busy(Arc<Load>);

impl Busy {
    fn new(load: &Arc<Load>) -> Self {
        load.requests.fetch_add(1, Ordering::Relaxed);
        load.touched.store(true, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
        self.0.touched.store(true, Ordering::Relaxed);
    }
}

struct Counted {
    body: Body,
    _busy: Busy,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Handle for Nothing {
        fn handle(self: Arc<Self>, _: Request<Incoming>, _: IpAddr) -> super::super::Answering {
            Box::pin(async { super::super::reply::empty(http::StatusCode::OK) })
        }
    }

    impl Metrics for Nothing {
        fn request(&self, _: &'static str, _: u16, _: Duration) {}
        fn connection_opened(&self) {}
        fn connection_closed(&self) {}
        fn connection_refused(&self) {}
        fn encode(&self) -> String {
            String::new()
        }
    }

    #[tokio::test]
    async fn the_state_of_a_connection_stays_small() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let limits = Limits::new(&Config::default());
        let front = Front::new(Arc::new(Nothing), limits, Arc::new(Nothing), CancellationToken::new());
        let state = connection(stream, address.ip(), Arc::new(front));
        assert!(size_of_val(&state) <= 1200, "{} bytes", size_of_val(&state));
    }
}
