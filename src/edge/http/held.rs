//! A stream that is left open, on its connection without hyper.
//!
//! hyper keeps two buffers of 8 KiB for as long as a connection lives. A stream that may be silent for hours needs
//! neither, and they cost more than all the rest of it: so hyper reads the request, and once the answer is such a
//! stream and everything before it is sent, the socket is taken from hyper and the answer written here. It ends with
//! its connection (`Connection: close`, RFC 9112 §9.6).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use http::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::reply::{Body, EventBody};
use crate::base::clock::{Clock as _, SystemClock};
use crate::base::limits::{HELD_BATCH_BYTES, HELD_BATCH_FRAMES, HELD_IGNORED_BYTES};

/// Where the answer to a request waits until it can be taken from hyper.
#[derive(Debug, Default)]
pub(super) struct Handover {
    answer: Mutex<Option<Answer>>,
    /// The socket did not take everything that hyper has for it.
    unsent: AtomicBool,
}

impl Handover {
    /// Leaves an answer here if it is one to be taken; gives it back if not.
    pub(super) fn offer(&self, answer: Response<Body>) -> Option<Response<Body>> {
        let (parts, body) = answer.into_parts();
        match body {
            Body::Open(events) => {
                *self.answer() = Some(Answer { head: head(&parts.headers), events });
                None
            }
            body => Some(Response::from_parts(parts, body)),
        }
    }

    /// The answer, if there is one and nothing has to be sent before it.
    pub(super) fn take(&self) -> Option<Answer> {
        if self.unsent.load(Ordering::Relaxed) {
            return None;
        }
        self.answer().take()
    }

    fn answer(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that was taken from hyper.
#[derive(Debug)]
pub(super) struct Answer {
    head: Bytes,
    events: Box<dyn EventBody + Send>,
}

/// The head of a streamed answer as HTTP/1.1 has it.
fn head(headers: &http::HeaderMap) -> Bytes {
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let now = UNIX_EPOCH + Duration::from_millis(SystemClock::default().now_ms());
    head.extend_from_slice(b"date: ");
    head.extend_from_slice(httpdate::fmt_http_date(now).as_bytes());
    head.extend_from_slice(b"\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    head.into()
}

/// A socket in hyper's hands that says whether it took everything.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    handover: Arc<Handover>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, handover: Arc<Handover>) -> Self {
        Self { stream, handover }
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        self.handover.unsent.store(written.is_pending(), Ordering::Relaxed);
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All of it is sent.
    Sent,
    /// Its reader went away.
    Gone,
}

/// A stream that is left open, on its connection.
pub(super) struct Held<S = TcpStream> {
    socket: S,
    /// `None` once it is over.
    events: Option<Box<dyn EventBody + Send>>,
    /// What the socket has not taken yet.
    unsent: VecDeque<Bytes>,
    /// Bytes that came although nothing was to come.
    ignored: usize,
}

const CHUNK_END: Bytes = Bytes::from_static(b"\r\n");
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");
/// Pieces that are handed to the socket at once: a batch, and what frames it.
const SLICES: usize = HELD_BATCH_FRAMES + 3;

impl<S: AsyncRead + AsyncWrite + Unpin> Held<S> {
    pub(super) fn new(socket: S, answer: Answer) -> Self {
        let Answer { head, events } = answer;
        Self { socket, events: Some(events), unsent: VecDeque::from([head]), ignored: 0 }
    }

    pub(super) fn into_socket(self) -> S {
        self.socket
    }

    /// Sends what there is. Ready when the stream is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.is_gone(cx) {
            return Poll::Ready(End::Gone);
        }
        loop {
            if ready!(self.send(cx)).is_err() {
                return Poll::Ready(End::Gone);
            }
            let Some(events) = &mut self.events else { return Poll::Ready(End::Sent) };
            let next = batch(events.as_mut(), cx);
            if next.frames.is_empty() && !next.over {
                return Poll::Pending;
            }
            if !next.frames.is_empty() {
                self.unsent.push_back(format!("{:x}\r\n", next.bytes).into());
                self.unsent.extend(next.frames);
                self.unsent.push_back(CHUNK_END);
            }
            if next.over {
                self.unsent.push_back(LAST_CHUNK);
                self.events = None;
            } else if next.silent {
                // Woken by its events or by the socket: the first has been arranged for, the second is if it is full.
                return match ready!(self.send(cx)) {
                    Ok(()) => Poll::Pending,
                    Err(_) => Poll::Ready(End::Gone),
                };
            }
        }
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.unsent) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
            let slices = slices.get(..count).unwrap_or_default();
            let mut taken = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, slices))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(first) = self.unsent.front_mut().filter(|_| taken > 0) {
                let of_first = taken.min(first.len());
                first.advance(of_first);
                taken -= of_first;
                if first.is_empty() {
                    self.unsent.pop_front();
                }
            }
        }
        // Not kept for the next event: most streams are silent most of the time.
        self.unsent = VecDeque::new();
        Poll::Ready(Ok(()))
    }

    /// Whether the reader has closed. What it sends is ignored, within a bound: a connection that is to be closed takes no
    /// further request (RFC 9112 §9.6).
    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        let mut scratch = [0; 256];
        while self.ignored < HELD_IGNORED_BYTES {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.ignored += buffer.filled().len(),
                Poll::Ready(_) => return true,
            }
        }
        // Who goes on sending is no reader.
        true
    }
}

/// What goes into one chunk.
struct Batch {
    frames: Vec<Bytes>,
    bytes: usize,
    /// There is nothing more at the moment.
    silent: bool,
    over: bool,
}

fn batch(events: &mut (dyn EventBody + Send), cx: &mut Context<'_>) -> Batch {
    let mut batch = Batch { frames: Vec::new(), bytes: 0, silent: false, over: false };
    while batch.frames.len() < HELD_BATCH_FRAMES && batch.bytes < HELD_BATCH_BYTES {
        match events.poll(cx) {
            // A chunk without content would be the last one.
            Poll::Ready(Some(bytes)) if bytes.is_empty() => {}
            Poll::Ready(Some(bytes)) => {
                batch.bytes += bytes.len();
                batch.frames.push(bytes);
            }
            Poll::Ready(None) => {
                batch.over = true;
                break;
            }
            Poll::Pending => {
                batch.silent = true;
                break;
            }
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::runtime::Builder;
    use tokio::sync::mpsc;

    use super::*;

    #[derive(Debug)]
    struct Queue(mpsc::Receiver<Bytes>);

    impl EventBody for Queue {
        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
            self.0.poll_recv(cx)
        }
    }

    fn held(room: usize) -> (mpsc::Sender<Bytes>, Held<DuplexStream>, DuplexStream) {
        let (sender, receiver) = mpsc::channel(64);
        let (near, far) = duplex(room);
        let answer = Answer { head: Bytes::from_static(b"head"), events: Box::new(Queue(receiver)) };
        (sender, Held::new(near, answer), far)
    }

    /// The chunks of a body, without its last one.
    fn chunks(mut body: &[u8]) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        loop {
            let end = body.windows(2).position(|two| two == b"\r\n").expect("a length");
            let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
            let (chunk, rest) = body[end + 2..].split_at(length);
            body = rest.strip_prefix(b"\r\n").expect("an end of the chunk");
            if length == 0 {
                assert_eq!(body, b"", "nothing comes after the last chunk");
                return chunks;
            }
            chunks.push(chunk.to_vec());
        }
    }

    proptest! {
        #[test]
        fn what_is_said_arrives_in_chunks_however_little_the_socket_takes(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..60),
            room in 1_usize..700,
        ) {
            Builder::new_current_thread().build().unwrap().block_on(async {
                let (sender, mut held, mut far) = held(room);
                for frame in &frames {
                    sender.try_send(Bytes::copy_from_slice(frame)).unwrap();
                }
                drop(sender);
                let writer = async move {
                    assert_eq!(poll_fn(|cx| held.poll(cx)).await, End::Sent);
                    drop(held);
                };
                let mut read = Vec::new();
                let (_, read_all) = tokio::join!(writer, far.read_to_end(&mut read));
                read_all.unwrap();
                let body = read.strip_prefix(b"head").expect("the head first");
                assert_eq!(chunks(body).concat(), frames.concat());
            });
        }
    }

    #[tokio::test]
    async fn an_event_goes_out_when_it_is_said() {
        let (sender, mut held, mut far) = held(1024);
        let carrier = tokio::spawn(async move { poll_fn(|cx| held.poll(cx)).await });
        let mut head = [0; 4];
        far.read_exact(&mut head).await.unwrap();
        for _ in 0..3 {
            sender.send(Bytes::from_static(b"event")).await.unwrap();
            let mut chunk = [0; 10];
            far.read_exact(&mut chunk).await.unwrap();
            assert_eq!(&chunk, b"5\r\nevent\r\n");
        }
        drop(far);
        assert_eq!(carrier.await.unwrap(), End::Gone);
    }

    #[tokio::test]
    async fn what_the_reader_sends_is_ignored_within_a_bound() {
        let (sender, mut held, mut far) = held(1024);
        let carrier = tokio::spawn(async move { poll_fn(|cx| held.poll(cx)).await });
        far.write_all(&vec![b'x'; HELD_IGNORED_BYTES - 1]).await.unwrap();
        sender.send(Bytes::from_static(b"event")).await.unwrap();
        let mut read = [0; 14];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"head5\r\nevent\r\n");
        far.write_all(b"x").await.unwrap();
        assert_eq!(carrier.await.unwrap(), End::Gone);
    }

    #[tokio::test]
    async fn an_answer_is_not_taken_from_hyper_before_what_is_to_be_sent_first() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        let handover = Arc::new(Handover::default());
        let mut socket = Socket::new(near, Arc::clone(&handover));
        let (_sender, receiver) = mpsc::channel(1);
        let answer = Response::new(Body::Open(Box::new(Queue(receiver))));
        assert!(handover.offer(answer).is_none());
        let mut sent = 0;
        while let Poll::Ready(Ok(more)) =
            poll_fn(|cx| Poll::Ready(Pin::new(&mut socket).poll_write(cx, &[0; 65_536]))).await
        {
            sent += more;
        }
        assert!(handover.take().is_none());
        let mut read = vec![0; sent];
        far.read_exact(&mut read).await.unwrap();
        socket.write_all(b"rest").await.unwrap();
        assert!(handover.take().is_some());
    }

    #[test]
    fn an_answer_that_ends_by_itself_stays_with_hyper() {
        let handover = Handover::default();
        assert!(handover.offer(Response::new(Body::Whole(Bytes::new()))).is_some());
        assert!(handover.take().is_none());
    }

    #[test]
    fn a_silent_stream_holds_no_room_for_events() {
        let (sender, mut held, far) = held(1024);
        sender.try_send(Bytes::from_static(b"event")).unwrap();
        assert!(held.poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        assert_eq!(held.unsent.capacity(), 0);
        assert!(size_of::<Held>() <= 112, "{}", size_of::<Held>());
        drop(far);
    }
}
