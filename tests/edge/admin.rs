//! The operator's listener.

use std::sync::atomic::Ordering;

use crate::support::{Raw, ask, start, until};

const TOKEN: &str = "Authorization: Bearer admin-token";

fn post(path: &str) -> String {
    format!("POST {path} HTTP/1.1\nContent-Type: application/json\n{TOKEN}")
}

#[tokio::test]
async fn only_the_bearer_of_the_token_comes_in() {
    let server = start(|_| {}).await;
    for header in [
        "X: y",
        "Authorization: Bearer admin-toke",
        "Authorization: Bearer",
        "Authorization: Basic admin-token",
    ] {
        let answer = ask(server.admin, &format!("GET /admin/status HTTP/1.1\n{header}"), "").await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{header}");
        assert!(answer.sentence().contains("admin.token"));
    }
}

#[tokio::test]
async fn foreign_hosts_and_pages_are_refused_whatever_they_bear() {
    let server = start(|config| config.server.allowed_origins = vec!["https://app.example".into()]).await;
    for header in ["Host: evil.example", "Origin: https://app.example", "Origin: null"] {
        let answer = ask(server.admin, &format!("GET /admin/status HTTP/1.1\n{TOKEN}\n{header}"), "").await;
        assert_eq!(answer.status, 403, "{header}");
    }
    let head = format!("GET /admin/status HTTP/1.1\n{TOKEN}\nOrigin: http://localhost:8809");
    assert_eq!(ask(server.admin, &head, "").await.status, 200);
}

#[tokio::test]
async fn status_tells_health_and_numbers() {
    let server = start(|_| {}).await;
    let answer = ask(server.admin, &format!("GET /admin/status HTTP/1.1\n{TOKEN}"), "").await;
    let status: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(status["engine"]["streams"], 7);
    assert_eq!(status["checks"]["tools"], "child died");
    assert_eq!(status["mode"], "local");
}

#[tokio::test]
async fn a_message_is_sent_or_it_is_said_why_not() {
    let server = start(|_| {}).await;
    let sent = r#"{"delivered":3,"stored":true}"#;
    let notification = r#"{"jsonrpc":"2.0","method":"x"}"#;
    let answer = ask(server.admin, &post("/admin/broadcast"), notification).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, sent));
    let answer = ask(server.admin, &post("/admin/send?sid=s1.known"), notification).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, sent));
    assert_eq!(ask(server.admin, &post("/admin/send?sid=s1.other"), notification).await.status, 404);
    let answer = ask(server.admin, &post("/admin/keys/rotate"), "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"key":2}"#));
    for path in ["/admin/send", "/admin/send?sid="] {
        assert_eq!(ask(server.admin, &post(path), notification).await.status, 400);
    }
    assert_eq!(ask(server.admin, &post("/admin/broadcast"), "{}").await.status, 400);
    assert_eq!(ask(server.admin, &post("/admin/broadcast"), "fail").await.status, 500);
}

#[tokio::test]
async fn what_is_said_on_topics_is_an_event_stream_and_a_filter_that_makes_no_sense_is_refused() {
    let server = start(|_| {}).await;
    let get = |topic: &str| format!("GET /admin/tail?topic={topic} HTTP/1.1\n{TOKEN}");
    let refused = ask(server.admin, &get("none"), "").await;
    assert_eq!((refused.status, refused.sentence().as_str()), (400, "no such filter"));
    assert_eq!(ask(server.admin, "GET /admin/tail?topic=all HTTP/1.1", "").await.status, 401);
    let mut raw = Raw::to(server.admin).await;
    raw.send(format!("{}\r\nHost: localhost\r\n\r\n", get("all").replace('\n', "\r\n"))).await;
    let head = raw.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, "text/event-stream"));
    raw.take_until("data: {}").await;
    drop(raw);
    until("the end of the stream", || server.engine.dropped.load(Ordering::SeqCst) == 1).await;
    let told = ask(server.admin, &post("/admin/publish?topic=a/b"), "{}").await;
    assert!(told.status == 200 && told.body.contains("a/b"), "{told:?}");
}

#[tokio::test]
async fn other_paths_and_methods_are_named_as_such() {
    let server = start(|_| {}).await;
    let answer = ask(server.admin, &format!("GET /admin/broadcast HTTP/1.1\n{TOKEN}"), "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
    assert_eq!(ask(server.admin, &format!("GET /mcp HTTP/1.1\n{TOKEN}"), "").await.status, 404);
    assert_eq!(ask(server.address, &post("/admin/broadcast"), "x").await.status, 404);
}

#[tokio::test]
async fn commands_reach_the_engine_with_their_bodies_and_its_refusals_come_back() {
    let server = start(|config| config.sessions.max_value_bytes = 10).await;
    let with = |method: &str, path: &str| format!("{method} /admin/{path} HTTP/1.1\n{TOKEN}");
    let key = "AAECAwQFBgcICQoLDA0ODw";

    let answer = ask(server.admin, &with("PUT", &format!("sessions/{key}/values/a%2Fb")), "five!").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("a/b") && answer.body.contains("five!"), "{}", answer.body);
    let answer = ask(server.admin, &with("PUT", &format!("sessions/{key}/values/a")), "eleven byte").await;
    assert!(answer.status == 413 && answer.sentence().contains("sessions.max_value_bytes"), "{answer:?}");

    let answer = ask(server.admin, &with("POST", "sessions/import?replace=true"), "a file").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "a file"));
    assert_eq!(answer.header("content-type"), "application/octet-stream");

    let take = r#"{"action":"take","ttl_seconds":5}"#;
    let answer = ask(server.admin, &post("locks/a").replace("locks", "/admin/locks"), take).await;
    assert_eq!((answer.status, answer.sentence().as_str()), (409, "somebody else holds the lock"));
    // A page could send this much without asking first: it is not JSON to a browser.
    let answer = ask(server.admin, &with("POST", "locks/a"), take).await;
    assert_eq!(answer.status, 415);
    for (method, path) in [("GET", "sessions"), ("DELETE", "sessions/x"), ("POST", "sessions/import")] {
        let answer = ask(server.admin, &format!("{method} /admin/{path} HTTP/1.1"), "").await;
        assert_eq!(answer.status, 401, "{path}");
    }
}
