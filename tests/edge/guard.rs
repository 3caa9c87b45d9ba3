//! Who and what is let in.

use std::sync::atomic::Ordering;

use crate::support::{POST, Raw, TOKEN, ask, start, start_closed};

#[tokio::test]
async fn a_message_reaches_the_engine_and_its_answer_comes_back_whole() {
    let server = start(|_| {}).await;
    let answer = ask(server.address, POST, r#"{"jsonrpc":"2.0"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"jsonrpc":"2.0"}"#));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let answer = ask(server.address, POST, "accepted").await;
    assert_eq!((answer.status, answer.header("content-type"), answer.body.as_str()), (202, "", ""));
    assert_eq!(ask(server.address, "DELETE /mcp HTTP/1.1", "").await.status, 200);
    assert_eq!(
        *server.counts.requests.lock().unwrap(),
        [("mcp_post", 200), ("mcp_post", 202), ("mcp_delete", 200)]
    );
}

#[tokio::test]
async fn a_request_id_is_taken_over_or_made_and_always_returned() {
    let server = start(|_| {}).await;
    let answer = ask(server.address, &format!("{POST}\nX-Request-Id: mine-1"), "x").await;
    assert_eq!(answer.header("x-request-id"), "mine-1");
    let answer = ask(server.address, &format!("{POST}\nX-Request-Id: not mine"), "x").await;
    let made = answer.header("x-request-id").to_owned();
    assert!(!made.is_empty() && made != "not mine");
    let seen: Vec<String> = server.engine.seen.lock().unwrap().iter().map(|(_, id)| id.clone()).collect();
    assert_eq!(seen, ["mine-1".to_owned(), made]);
    assert!(!ask(server.address, "GET /nowhere HTTP/1.1", "").await.header("x-request-id").is_empty());
}

#[tokio::test]
async fn a_foreign_host_is_refused_everywhere() {
    let server = start(|config| config.server.allowed_hosts = vec!["mcp.example".into()]).await;
    for path in ["POST /mcp", "GET /livez", "OPTIONS /mcp", "GET /nowhere"] {
        let answer = ask(server.address, &format!("{path} HTTP/1.1\nHost: evil.example"), "").await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.sentence().contains("server.allowed_hosts"));
    }
    for host in ["localhost", "127.0.0.1:8808", "[::1]:1", "mcp.example:443"] {
        let answer = ask(server.address, &format!("GET /livez HTTP/1.1\nHost: {host}"), "").await;
        assert_eq!(answer.status, 200, "{host}");
    }
    // The target of the request line counts where it names a host (RFC 9112 §3.2.2).
    let answer = ask(server.address, "GET http://evil.example/livez HTTP/1.1\nHost: localhost", "").await;
    assert_eq!(answer.status, 403);
    assert_eq!(server.engine.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_missing_host_is_only_for_http_1_0() {
    let server = start(|_| {}).await;
    let mut raw = Raw::to(server.address).await;
    raw.send("GET /livez HTTP/1.0\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    for head in
        ["GET /livez HTTP/1.1\r\n\r\n", "GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"]
    {
        let mut raw = Raw::to(server.address).await;
        raw.send(head).await;
        assert_eq!(raw.response().await.status, 400, "{head}");
    }
}

#[tokio::test]
async fn a_foreign_origin_is_refused_and_a_known_one_may_read_the_answer() {
    let server = start(|config| config.server.allowed_origins = vec!["https://app.example".into()]).await;
    let answer = ask(server.address, &format!("{POST}\nOrigin: https://evil.example"), "x").await;
    assert_eq!(answer.status, 403);
    assert!(answer.sentence().contains("server.allowed_origins"));
    assert_eq!(answer.header("access-control-allow-origin"), "");
    for origin in ["https://app.example", "http://localhost:6274"] {
        let answer = ask(server.address, &format!("{POST}\nOrigin: {origin}"), "x").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        let exposed = answer.header("access-control-expose-headers");
        assert!(exposed.contains("Mcp-Session-Id") && exposed.contains("WWW-Authenticate"));
    }
    assert_eq!(server.engine.calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_preflight_is_answered_without_credentials() {
    let server = start_closed(|_| {}).await;
    let head = "OPTIONS /mcp HTTP/1.1\nOrigin: http://localhost:1\nAccess-Control-Request-Method: POST\n\
                Access-Control-Request-Headers: content-type, mcp-param-region, x-other";
    let answer = ask(server.address, head, "").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), "http://localhost:1");
    assert_eq!(answer.header("access-control-allow-methods"), "GET, POST, DELETE, OPTIONS");
    let allowed = answer.header("access-control-allow-headers");
    for name in [
        "Authorization",
        "Content-Type",
        "Mcp-Session-Id",
        "MCP-Protocol-Version",
        "Last-Event-ID",
        "Mcp-Method",
        "Mcp-Name",
        "mcp-param-region",
    ] {
        assert!(allowed.contains(name), "{name}: {allowed}");
    }
    assert!(!allowed.contains("x-other"));
    // What the page may then read includes the refusal.
    let answer = ask(server.address, &format!("{POST}\nOrigin: http://localhost:1"), "x").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, "http://localhost:1"));
}

#[tokio::test]
async fn other_methods_and_paths_are_named_as_such() {
    let server = start(|_| {}).await;
    let answer = ask(server.address, "PUT /mcp HTTP/1.1", "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, POST, DELETE, OPTIONS"));
    let answer = ask(server.address, "DELETE /livez HTTP/1.1", "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD, OPTIONS"));
    let answer = ask(server.address, "GET /mpc HTTP/1.1", "").await;
    assert_eq!(answer.status, 404);
    assert!(answer.sentence().contains("/mcp"));
}

#[tokio::test]
async fn a_body_that_is_not_json_by_its_type_is_refused() {
    let server = start(|_| {}).await;
    for head in ["POST /mcp HTTP/1.1", "POST /mcp HTTP/1.1\nContent-Type: text/plain"] {
        let answer = ask(server.address, head, "{}").await;
        assert_eq!(answer.status, 415);
        assert!(answer.sentence().contains("application/json"));
    }
    assert_eq!(ask(server.address, &format!("{POST}; charset=utf-8"), "{}").await.status, 200);
}

#[tokio::test]
async fn an_answer_that_would_not_be_accepted_is_not_computed() {
    let server = start(|_| {}).await;
    assert_eq!(ask(server.address, &format!("{POST}\nAccept: text/html"), "{}").await.status, 406);
    for head in ["GET /mcp HTTP/1.1", "GET /mcp HTTP/1.1\nAccept: application/json"] {
        let answer = ask(server.address, head, "").await;
        assert_eq!(answer.status, 406);
        assert!(answer.sentence().contains("text/event-stream"));
    }
    assert_eq!(server.engine.calls.load(Ordering::SeqCst), 0);
    for accept in ["application/json, text/event-stream", "*/*", "application/json"] {
        assert_eq!(ask(server.address, &format!("{POST}\nAccept: {accept}"), "{}").await.status, 200);
    }
}

#[tokio::test]
async fn without_a_valid_token_nothing_is_read_or_run() {
    let server = start_closed(|_| {}).await;
    let answer = ask(server.address, POST, "{}").await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"));
    let answer = ask(server.address, &format!("{POST}\nAuthorization: Bearer wrong"), "{}").await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer error=\"invalid_token\""));
    for method in ["GET", "DELETE"] {
        assert_eq!(ask(server.address, &format!("{method} /mcp HTTP/1.1"), "").await.status, 401);
    }
    assert_eq!(server.engine.calls.load(Ordering::SeqCst), 0);
    let answer = ask(server.address, &format!("{POST}\nAuthorization: Bearer {TOKEN}"), "{}").await;
    assert_eq!(answer.status, 200);
    assert_eq!(server.engine.seen.lock().unwrap()[0].0, "alice");
}

#[tokio::test]
async fn health_is_open_but_says_what_is_wrong_only_to_callers() {
    let server = start_closed(|_| {}).await;
    assert_eq!(ask(server.address, "GET /livez HTTP/1.1", "").await.status, 200);
    let ready = ask(server.address, "GET /readyz HTTP/1.1", "").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("\"tools\":\"failed\"") && !ready.body.contains("child died"));
    let health =
        ask(server.address, &format!("GET /health HTTP/1.1\nAuthorization: Bearer {TOKEN}"), "").await;
    let health_body: serde_json::Value = serde_json::from_str(&health.body).unwrap();
    assert_eq!(health.status, 200);
    assert_eq!(
        health_body,
        serde_json::json!({
            "status": "degraded", "ready": false, "mode": "local",
            "checks": { "store": "ok", "tools": "child died" },
        })
    );
    assert_eq!(ask(server.address, "GET /metrics HTTP/1.1", "").await.status, 401);
    let head = format!("GET /metrics HTTP/1.1\nAuthorization: Bearer {TOKEN}");
    let metrics = ask(server.address, &head, "").await;
    assert_eq!((metrics.status, metrics.body.as_str()), (200, "# EOF\n"));
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
}
