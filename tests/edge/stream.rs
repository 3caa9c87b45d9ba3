//! Event streams and the end of the server.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::{PATIENCE, POST, Raw, Server, start, until};

const GET: &str = "GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";

async fn open(server: &Server) -> Raw {
    let mut raw = Raw::to(server.address).await;
    raw.send(GET).await;
    let head = raw.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, "text/event-stream"));
    assert_eq!(head.header("cache-control"), "no-cache, no-transform");
    assert_eq!(head.header("x-accel-buffering"), "no");
    assert_eq!(head.header("mcp-session-id"), "s1.x");
    raw
}

/// A client that takes little at a time.
async fn slow(server: &Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(server.address).await.unwrap()
}

/// Says something on the newest stream, and lets go of it.
async fn say(server: &Server) {
    let sender = server.engine.streams.lock().unwrap().pop().unwrap();
    sender.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
}

/// The answer that comes now is a stream, and carries what is said.
async fn carries(server: &Server, raw: &mut Raw) {
    assert_eq!(raw.head().await.header("content-type"), "text/event-stream");
    say(server).await;
    assert_eq!(raw.take_until("data: 1\n\n").await, "9\r\ndata: 1\n\n");
}

#[tokio::test]
async fn events_arrive_when_they_happen_and_silence_is_filled() {
    let server = start(|config| config.streams.keep_alive_seconds = 1).await;
    let mut raw = open(&server).await;
    let sender = server.engine.streams.lock().unwrap()[0].clone();
    sender.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
    assert!(raw.take_until("data: 1\n\n").await.ends_with("data: 1\n\n"));
    raw.take_until(":\n\n").await;
    drop((sender, std::mem::take(&mut *server.engine.streams.lock().unwrap())));
    raw.take_until("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_stream_that_is_left_open_ends_with_its_connection() {
    let server = start(|_| {}).await;
    let mut raw = Raw::to(server.address).await;
    raw.send(GET).await;
    let head = raw.head().await;
    assert_eq!((head.header("connection"), head.header("transfer-encoding")), ("close", "chunked"));
    assert!(httpdate::parse_http_date(head.header("date")).is_ok(), "{head:?}");
    assert!(!head.header("x-request-id").is_empty());
    say(&server).await;
    assert_eq!(String::from_utf8(raw.end().await).unwrap(), "9\r\ndata: 1\n\n\r\n0\r\n\r\n");
    until("the end", || server.counts.closed.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_stream_comes_after_the_answers_that_were_asked_for_before_it() {
    let server = start(|_| {}).await;
    let mut raw = Raw::of(slow(&server).await);
    // More answers than the sockets hold.
    const BEFORE: usize = 4_000;
    let post = POST.replace('\n', "\r\n");
    let post = format!("{post}\r\nHost: localhost\r\nContent-Length: 8\r\n\r\naccepted");
    raw.send(post.repeat(BEFORE) + GET).await;
    for _ in 0..BEFORE {
        assert_eq!(raw.head().await.status, 202);
    }
    carries(&server, &mut raw).await;
}

/// Requests that are answered before their bodies are read, which hyper does last.
const ANSWERED_EARLY: [&str; 2] = [
    "OPTIONS /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    "OPTIONS /mcp HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
];

#[tokio::test]
async fn a_stream_comes_after_a_request_whose_body_nobody_wanted() {
    let server = start(|_| {}).await;
    for early in ANSWERED_EARLY {
        let mut raw = Raw::to(server.address).await;
        raw.send(format!("{early}{GET}")).await;
        assert_eq!(raw.head().await.status, 204, "{early}");
        carries(&server, &mut raw).await;
    }
}

#[tokio::test]
async fn a_stream_waits_until_the_answers_before_it_are_taken() {
    let server = start(|_| {}).await;
    let mut raw = Raw::of(slow(&server).await);
    const BEFORE: usize = 4_000;
    raw.send(ANSWERED_EARLY[0].repeat(BEFORE) + GET).await;
    for _ in 0..BEFORE {
        assert_eq!(raw.head().await.status, 204);
    }
    carries(&server, &mut raw).await;
}

#[tokio::test]
async fn a_reader_of_http_1_0_gets_a_stream_without_chunks() {
    let server = start(|_| {}).await;
    let mut raw = Raw::to(server.address).await;
    raw.send(GET.replace("1.1", "1.0")).await;
    assert_eq!(raw.head().await.header("transfer-encoding"), "");
    say(&server).await;
    assert_eq!(raw.end().await, b"data: 1\n\n");
}

#[tokio::test]
async fn a_stream_is_dropped_when_its_reader_goes() {
    let server = start(|_| {}).await;
    drop(open(&server).await);
    until("the drop", || server.engine.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_stream_ends_after_its_time() {
    let server = start(|config| config.streams.max_seconds = 1).await;
    let mut raw = open(&server).await;
    raw.take_until("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut() {
    let server = start(|config| config.streams.stall_seconds = 1).await;
    let stream = slow(&server).await;
    stream.writable().await.unwrap();
    let request =
        format!("{}\r\nHost: localhost\r\nContent-Length: 7\r\n\r\nendless", POST.replace('\n', "\r\n"));
    assert_eq!(stream.try_write(request.as_bytes()).unwrap(), request.len());
    until("the cut", || server.engine.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_reader_of_a_stream_that_is_left_open_is_cut_as_well() {
    let server = start(|config| config.streams.stall_seconds = 1).await;
    let stream = slow(&server).await;
    stream.writable().await.unwrap();
    assert_eq!(stream.try_write(GET.as_bytes()).unwrap(), GET.len());
    until("the stream", || server.engine.streams.lock().unwrap().len() == 1).await;
    let sender = server.engine.streams.lock().unwrap()[0].clone();
    let frame = Bytes::from(vec![b'\n'; 64 * 1024]);
    while sender.send(frame.clone()).await.is_ok() {}
    assert_eq!(server.engine.dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_drain_ends_streams_lets_answers_finish_and_returns() {
    let server = start(|config| config.server.drain_seconds = 15).await;
    let mut raw = open(&server).await;
    let mut idle = Raw::to(server.address).await;
    idle.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.response().await.status, 200);
    // The interim answer says that the request has reached its handler.
    let mut slow = Raw::to(server.address).await;
    let head = POST.replace('\n', "\r\n");
    slow.send(format!("{head}\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\nabc"))
        .await;
    assert_eq!(slow.head().await.status, 100);
    let silent = Raw::to(server.address).await;
    until("four connections", || server.counts.opened.load(Ordering::SeqCst) == 4).await;
    server.drain.cancel();
    raw.take_until("0\r\n\r\n").await;
    assert_eq!(idle.end().await, b"");
    assert_eq!(silent.end().await, b"");
    slow.send("def").await;
    assert_eq!(slow.response().await.body, "abcdef");
    timeout(Duration::from_secs(10), server.done).await.expect("before the bound").unwrap();
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_bound_of_the_drain() {
    let server = start(|config| config.server.drain_seconds = 1).await;
    let mut raw = Raw::to(server.address).await;
    raw.send(format!("{}\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nhang", POST.replace('\n', "\r\n")))
        .await;
    until("the call", || server.engine.calls.load(Ordering::SeqCst) == 1).await;
    server.drain.cancel();
    timeout(PATIENCE, server.done).await.expect("returns").unwrap();
    assert_eq!(server.engine.dropped.load(Ordering::SeqCst), 1);
    raw.end().await;
}
