//! One connection, from its first byte to its end, with every limit that hyper has and the two it lacks: the wait for
//! the first byte (hyper#3962), and idle HTTP/2 connections.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Handle;
use super::held::{Answer, End, Handover, Held, Socket};
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

/// Serves a connection until it ends, is too slow, is cut by a drain, or carries a stream that is left open, which is
/// given back. `at` is the address it came to.
pub(crate) async fn connection(stream: TcpStream, at: IpAddr, front: Arc<Front>) -> Option<LeftOpen> {
    front.metrics.connection_opened();
    let closed = Closed(Arc::clone(&front));
    let opening = tokio::select! {
        biased;
        opening = timeout(front.limits.first_byte, opening(&stream)) => opening,
        () = front.drain.cancelled() => return None,
    };
    match opening {
        Ok(Opening::Http1) => serve_http1(stream, at, &front).await.map(|held| LeftOpen { held, closed }),
        // Boxed: its state is several times that of HTTP/1, which would have to keep room for it.
        Ok(Opening::Http2) => {
            Box::pin(serve_http2(stream, at, front)).await;
            None
        }
        Ok(Opening::Closed) => None,
        Err(_) => {
            front.metrics.connection_refused();
            None
        }
    }
}

/// A connection that carries a stream which is left open, and nothing else any more.
pub(crate) struct LeftOpen {
    held: Held,
    closed: Closed,
}

impl LeftOpen {
    /// Carries it until it ends, its reader goes, or a drain cuts it.
    pub(crate) async fn carry(mut self) {
        let front = &self.closed.0;
        let held = &mut self.held;
        let ended = tokio::select! {
            biased;
            ended = poll_fn(|cx| held.poll(cx)) => Some(ended),
            () = front.drain.cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => timeout(front.limits.drain, poll_fn(|cx| self.held.poll(cx))).await.unwrap_or(End::Gone),
        };
        if ended == End::Sent {
            Box::pin(linger(self.held.into_socket())).await;
        }
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

async fn serve_http1(stream: TcpStream, at: IpAddr, front: &Front) -> Option<Held> {
    let handover = Arc::new(Handover::default());
    let service = service_fn(|request: Request<Incoming>| {
        // HTTP/1.0 has no chunks: that is hyper's to know.
        let handover = (request.version() == Version::HTTP_11).then_some(&*handover);
        Answered { answering: Some(Arc::clone(&front.handler).handle(request, at)), handover }
    });
    let socket = TokioIo::new(Socket::new(stream, Arc::clone(&handover)));
    let mut connection = front.http1.serve_connection(socket, service);
    let served = tokio::select! {
        biased;
        served = poll_fn(|cx| drive(&mut connection, &handover, cx)) => Some(served),
        () = front.drain.cancelled() => None,
    };
    let served = match served {
        Some(served) => served,
        None => {
            // Not moved into a `pin!`: its state would be held twice.
            Pin::new(&mut connection).graceful_shutdown();
            timeout(front.limits.drain, poll_fn(|cx| drive(&mut connection, &handover, cx))).await.ok()?
        }
    };
    match served {
        // The peer broke off or was too slow: there is nobody to be polite to.
        Served::Over(Err(error)) if !error.is_parse() => None,
        Served::Over(_) => {
            Box::pin(linger(connection.into_parts().io.into_inner().into_inner())).await;
            None
        }
        Served::LeftOpen(answer) => {
            Some(Held::new(connection.into_parts().io.into_inner().into_inner(), answer))
        }
    }
}

/// What became of a connection in hyper's hands.
enum Served {
    Over(Result<(), hyper::Error>),
    LeftOpen(Answer),
}

fn drive<S>(
    connection: &mut http1::Connection<TokioIo<Socket>, S>,
    handover: &Handover,
    cx: &mut Context<'_>,
) -> Poll<Served>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Unpin,
    S::Future: Unpin,
{
    if let Poll::Ready(over) = connection.poll_without_shutdown(cx) {
        return Poll::Ready(Served::Over(over));
    }
    // hyper has sent what it could: what is left out of its buffers goes first.
    handover.take().map_or(Poll::Pending, |answer| Poll::Ready(Served::LeftOpen(answer)))
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

/// An answer for hyper, which wants errors; there are none. One that is taken from hyper never comes: hyper may ask for it
/// again until it is taken.
struct Answered<'a> {
    answering: Option<super::Answering>,
    handover: Option<&'a Handover>,
}

impl Future for Answered<'_> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(answering) = &mut self.answering else { return Poll::Pending };
        let answer = ready!(answering.as_mut().poll(cx));
        self.answering = None;
        let kept = match self.handover {
            Some(handover) => handover.offer(answer),
            None => Some(answer),
        };
        kept.map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer)))
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
