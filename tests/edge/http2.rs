//! HTTP/2 with prior knowledge, by its frames.

use std::sync::atomic::Ordering;

use crate::support::{Raw, start, until};

const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A HEADERS frame that is a whole request: indexed :method GET and :scheme http, the rest as plain literals.
fn get(stream: u8, authority: &str, path: &str) -> Vec<u8> {
    let literal =
        |index: u8, value: &str| [&[index, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    let block = [vec![0x82, 0x86], literal(4, path), literal(1, authority)].concat();
    frame(1, 0x5, stream, &block)
}

#[tokio::test]
async fn requests_are_served_and_guarded() {
    let server = start(|config| config.server.drain_seconds = 1).await;
    let mut raw = Raw::to(server.address).await;
    raw.send([PREFACE.as_bytes(), &SETTINGS, &get(1, "localhost", "/livez")].concat()).await;
    raw.send(get(3, "evil.example", "/livez")).await;
    until("both answers", || server.counts.requests.lock().unwrap().len() == 2).await;
    assert_eq!(*server.counts.requests.lock().unwrap(), [("livez", 200), ("none", 403)]);
    server.drain.cancel();
    let sent = raw.end().await;
    let body = b"{\"status\":\"ok\"}";
    assert!(sent.windows(body.len()).any(|window| window == body));
}

#[tokio::test]
async fn a_preface_that_stalls_is_closed() {
    let server = start(|config| {
        config.server.first_byte_timeout_seconds = 1;
        config.server.header_timeout_seconds = 1;
        config.server.drain_seconds = 1;
    })
    .await;
    for begun in ["PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r", PREFACE] {
        let mut raw = Raw::to(server.address).await;
        raw.send(begun).await;
        raw.end().await;
    }
    assert_eq!(server.counts.refused.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_method_that_begins_like_the_preface_is_http_1() {
    let server = start(|_| {}).await;
    let mut raw = Raw::to(server.address).await;
    raw.send("P").await;
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    raw.send("RIVATE /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 405);
}
