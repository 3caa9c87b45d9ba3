//! What is too much or too slow.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::support::{PATIENCE, POST, Raw, ask, start, until};

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_closed() {
    let server = start(|config| config.server.first_byte_timeout_seconds = 1).await;
    assert_eq!(Raw::to(server.address).await.end().await, b"");
    assert_eq!(server.counts.refused.load(Ordering::SeqCst), 1);
    until("the count of closed", || server.counts.closed.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn half_a_head_is_not_waited_for() {
    let server = start(|config| config.server.header_timeout_seconds = 1).await;
    let mut raw = Raw::to(server.address).await;
    raw.send("POST /mcp HTTP/1.1\r\nHost: loc").await;
    raw.end().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_answer() {
    let server = start(|config| config.server.header_timeout_seconds = 1).await;
    let mut raw = Raw::to(server.address).await;
    raw.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    assert_eq!(raw.end().await, b"");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_408() {
    let server = start(|config| config.server.body_timeout_seconds = 1).await;
    let mut raw = Raw::to(server.address).await;
    raw.send(format!("{}\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf", POST.replace('\n', "\r\n")))
        .await;
    let answer = raw.response().await;
    assert_eq!(answer.status, 408);
    assert!(answer.sentence().contains("1 s"));
    raw.end().await;
}

#[tokio::test]
async fn a_body_in_pieces_arrives_whole() {
    let server = start(|_| {}).await;
    let mut raw = Raw::to(server.address).await;
    raw.send(format!("{}\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nab", POST.replace('\n', "\r\n")))
        .await;
    for piece in ["cd", "ef"] {
        sleep(Duration::from_millis(30)).await;
        raw.send(piece).await;
    }
    assert_eq!(raw.response().await.body, "abcdef");
}

#[tokio::test]
async fn a_body_that_declares_too_much_is_refused_before_it_comes() {
    let server = start(|config| config.server.max_body_bytes = 1000).await;
    let mut raw = Raw::to(server.address).await;
    raw.send(format!("{}\r\nHost: localhost\r\nContent-Length: 1001\r\n\r\n", POST.replace('\n', "\r\n")))
        .await;
    let answer = raw.response().await;
    assert_eq!(answer.status, 413);
    assert!(answer.sentence().contains("server.max_body_bytes"));
    assert_eq!(ask(server.address, POST, &"x".repeat(1000)).await.status, 200);
}

#[tokio::test]
async fn a_chunked_body_is_refused_when_it_passes_the_limit() {
    let server = start(|config| config.server.max_body_bytes = 1000).await;
    let mut raw = Raw::to(server.address).await;
    let head = POST.replace('\n', "\r\n");
    raw.send(format!("{head}\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    for _ in 0..2 {
        raw.send(format!("1f4\r\n{}\r\n", "x".repeat(500))).await;
    }
    raw.send("1\r\nx\r\n").await;
    assert_eq!(raw.response().await.status, 413);
    let mut raw = Raw::to(server.address).await;
    raw.send(format!(
        "{head}\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    ))
    .await;
    assert_eq!(raw.response().await.body, "abc");
}

#[tokio::test]
async fn a_client_that_sends_all_of_a_refused_body_reads_the_refusal() {
    let server = start(|config| config.server.max_body_bytes = 1000).await;
    let mut raw = Raw::to(server.address).await;
    let size = 3 << 20;
    raw.send(format!("{}\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n", POST.replace('\n', "\r\n")))
        .await;
    timeout(PATIENCE, raw.send(vec![b'x'; size])).await.unwrap();
    assert_eq!(raw.response().await.status, 413);
}

#[tokio::test]
async fn too_many_or_too_long_headers_are_refused() {
    let server = start(|_| {}).await;
    let many = "X-Many: 1\n".repeat(101);
    assert_eq!(
        ask(server.address, &format!("GET /livez HTTP/1.1\n{}", many.trim_end()), "").await.status,
        431
    );
    let long = format!("GET /livez HTTP/1.1\nX-Long: {}", "x".repeat(40_000));
    assert_eq!(ask(server.address, &long, "").await.status, 431);
    let fair = format!("GET /livez HTTP/1.1\nX-Long: {}", "x".repeat(8_000));
    assert_eq!(ask(server.address, &fair, "").await.status, 200);
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_go_on_or_refused_at_once() {
    let server = start(|config| config.server.max_body_bytes = 1000).await;
    let head = format!("{}\r\nHost: localhost\r\nExpect: 100-continue\r\n", POST.replace('\n', "\r\n"));
    let mut raw = Raw::to(server.address).await;
    raw.send(format!("{head}Content-Length: 4\r\n\r\n")).await;
    assert_eq!(raw.head().await.status, 100);
    raw.send("body").await;
    assert_eq!(raw.response().await.body, "body");
    let mut raw = Raw::to(server.address).await;
    raw.send(format!("{head}Content-Length: 4000\r\n\r\n")).await;
    assert_eq!(raw.response().await.status, 413);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = start(|_| {}).await;
    let mut raw = Raw::to(server.address).await;
    let head = format!("{}\r\nHost: localhost\r\n", POST.replace('\n', "\r\n"));
    let one = |body: &str| format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    raw.send([one("first"), one("second"), one("third")].concat()).await;
    for body in ["first", "second", "third"] {
        assert_eq!(raw.response().await.body, body);
    }
}

#[tokio::test]
async fn connections_over_the_cap_wait_until_one_ends() {
    let server = start(|config| config.server.max_connections = 1).await;
    let request = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut first = Raw::to(server.address).await;
    first.send(request).await;
    assert_eq!(first.response().await.status, 200);
    let mut second = Raw::to(server.address).await;
    second.send(request).await;
    assert!(timeout(Duration::from_millis(200), second.more()).await.is_err());
    assert_eq!(server.counts.opened.load(Ordering::SeqCst), 1);
    drop(first);
    assert_eq!(second.response().await.status, 200);
}

#[tokio::test]
async fn a_call_is_dropped_when_its_client_goes() {
    let server = start(|_| {}).await;
    let mut raw = Raw::to(server.address).await;
    raw.send(format!("{}\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nhang", POST.replace('\n', "\r\n")))
        .await;
    until("the call", || server.engine.calls.load(Ordering::SeqCst) == 1).await;
    drop(raw);
    until("the drop", || server.engine.dropped.load(Ordering::SeqCst) == 1).await;
    until("the count", || *server.counts.requests.lock().unwrap() == [("mcp_post", 499)]).await;
}
