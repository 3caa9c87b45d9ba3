//! What belongs to a session: its header, its methods, its end.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::mcp::{
    LEGACY, Session, call, code, initialize, notification, post, request, server, server_in, server_with,
    text, until_stats,
};

const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

#[tokio::test]
async fn ping_is_answered_with_the_id_as_it_was_written() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for id in [
        "0",
        "-1",
        "-0",
        "9007199254740993",
        "123456789012345678901234567890",
        r#""""#,
        r#""a b""#,
        r#""\u0041\/\ud83d\ude00""#,
        r#""\ud800""#,
        r#""💾""#,
    ] {
        for params in ["", r#","params":{}"#, r#","params":{"_meta":{"x":1}}"#, r#","params":null"#] {
            let body = format!(r#"{{"jsonrpc":"2.0","method":"ping"{params},"id":{id}}}"#);
            let answer = session.post(body).await;
            let wanted = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            assert_eq!((answer.status(), answer.text()), (200, wanted));
        }
    }
}

#[tokio::test]
async fn without_a_session_header_the_answer_is_400_and_says_what_to_do() {
    let server = server().await;
    for body in [
        request(5, "ping", json!({})),
        call(5, "echo", json!({ "message": "m" })),
        notification("notifications/initialized", json!({})),
        json!({ "jsonrpc": "2.0", "id": 1, "result": {} }).to_string(),
        format!("[{}]", request(5, "ping", json!({}))),
        format!("[{}]", initialize("2025-03-26", json!({}))),
    ] {
        let answer = post(&server, &[], &body).await;
        assert_eq!(answer.status(), 400, "{body}");
        let said = answer.json();
        assert!(said["error"]["message"].as_str().unwrap().contains("initialize"), "{said}");
        if body.contains(r#""id":5"#) && !body.starts_with('[') {
            assert_eq!(said["id"], 5, "{said}");
        }
    }
    for (method, headers) in [("GET", &[("Accept", "text/event-stream")][..]), ("DELETE", &[])] {
        let answer = server.exchange(method, "/mcp", headers, b"").await;
        assert_eq!(answer.status(), 400, "{method}");
    }
}

async fn all_ways(session: &Session<'_>) -> Vec<(&'static str, Answer)> {
    let events = ("Accept", "text/event-stream");
    vec![
        ("request", session.post(request(5, "ping", json!({}))).await),
        ("call", session.post(call(5, "echo", json!({ "message": "m" }))).await),
        ("notification", session.post(notification("notifications/initialized", json!({}))).await),
        ("response", session.post(r#"{"jsonrpc":"2.0","id":"ask-0","result":{}}"#).await),
        ("batch", session.post(format!("[{}]", request(5, "ping", json!({})))).await),
        ("stream", session.exchange("GET", &[events]).await),
        ("resumption", session.exchange("GET", &[events, ("Last-Event-ID", "v1.g.")]).await),
        ("end", session.exchange("DELETE", &[]).await),
    ]
}

#[tokio::test]
async fn an_ended_session_is_404_everywhere_and_another_one_is_not() {
    let server = server().await;
    for revision in LEGACY {
        let session = Session::open(&server, revision).await;
        let other = Session::open(&server, revision).await;
        session.end().await;
        for (what, answer) in all_ways(&session).await {
            assert_eq!(answer.status(), 404, "{revision} {what}: {}", answer.text());
            let said = answer.json();
            assert!(!said["error"]["message"].as_str().unwrap().is_empty());
            if matches!(what, "request" | "call") {
                assert_eq!(said["id"], 5, "{what}");
            }
        }
        assert_eq!(other.ask(1, "ping", json!({})).await["result"], json!({}));
    }
}

#[tokio::test]
async fn an_id_that_was_never_given_out_is_404_everywhere() {
    let server = server().await;
    let real = Session::open(&server, "2025-11-25").await;
    let mut forged = real.id.clone().into_bytes();
    let last = forged.len() - 2;
    forged[last] = if forged[last] == b'a' { b'b' } else { b'a' };
    let long = "x".repeat(4_000);
    for id in
        [String::from_utf8(forged).unwrap(), "nonsense".into(), "0".into(), long, real.id.to_uppercase()]
    {
        let session = Session::known(&server, &id, "2025-11-25");
        for (what, answer) in all_ways(&session).await {
            assert_eq!(answer.status(), 404, "{} {what}: {}", session.id, answer.text());
        }
    }
    assert_eq!(real.ask(1, "ping", json!({})).await["result"], json!({}));
}

#[tokio::test]
async fn a_session_is_404_under_another_principal() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    // `printf %s alice-token | sha256sum`, and bob's.
    let config = r#"
[[auth.tokens]]
principal = "alice"
sha256 = "9c220f200955d76c0a38d308225e0ef10c5f971acaf2f8d1d8f732affa5bd1dc"
[[auth.tokens]]
principal = "bob"
sha256 = "97dd3707015dcf069cf73022ed7173b1165db6eff24b441cb57fd069a8c4e525"
"#;
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    let server = server_in(&dir, &[]).await;
    let (alice, bob) = (("Authorization", "Bearer alice-token"), ("Authorization", "Bearer bob-token"));
    let made = post(&server, &[alice], initialize("2025-11-25", json!({}))).await;
    let id = made.header("mcp-session-id").unwrap().to_owned();
    let session = ("Mcp-Session-Id", id.as_str());
    let ping = request(1, "ping", json!({}));
    assert_eq!(post(&server, &[alice, session], &ping).await.status(), 200);
    assert_eq!(post(&server, &[bob, session], &ping).await.status(), 404);
    assert_eq!(server.exchange("DELETE", "/mcp", &[bob, session], b"").await.status(), 404);
    let events = ("Accept", "text/event-stream");
    assert_eq!(server.exchange("GET", "/mcp", &[bob, session, events], b"").await.status(), 404);
    // Bob's mistake neither ended it nor stands in his own way.
    assert_eq!(post(&server, &[bob, session], initialize("2025-11-25", json!({}))).await.status(), 200);
    assert_eq!(post(&server, &[session], &ping).await.status(), 401);
    assert_eq!(post(&server, &[alice, session], &ping).await.status(), 200);
}

#[tokio::test]
async fn a_protocol_version_that_is_not_served_is_400_and_any_served_legacy_one_will_do() {
    let server = server().await;
    let session = Session::open(&server, "2025-06-18").await;
    let with = async |version: &str| {
        let headers = [("Mcp-Session-Id", session.id.as_str()), ("MCP-Protocol-Version", version)];
        post(&server, &headers, request(1, "ping", json!({}))).await
    };
    for version in ["2025-06-18", " 2025-06-18\t", "2025-03-26", "2024-11-05", "2025-11-25"] {
        assert_eq!(with(version).await.status(), 200, "{version:?}");
    }
    for version in ["1999-01-01", "", "latest", "2025-06-18, 2025-11-25"] {
        let answer = with(version).await;
        assert_eq!((answer.status(), code(&answer.json())), (400, -32600), "{version:?}");
        assert!(answer.text().contains("2025-11-25"), "{}", answer.text());
        assert_eq!(answer.json()["id"], 1);
    }
    // The header is not there in 2025-03-26 and before; and `initialize` itself needs none.
    let headers = [("Mcp-Session-Id", session.id.as_str())];
    assert_eq!(post(&server, &headers, request(1, "ping", json!({}))).await.status(), 200);
}

#[tokio::test]
async fn notifications_and_responses_are_accepted_without_a_body() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for body in [
        notification("notifications/initialized", json!({})),
        notification("notifications/roots/list_changed", json!({})),
        notification("notifications/of/tomorrow", json!({ "n": 1 })),
        notification("notifications/cancelled", json!({ "requestId": "none-such" })),
        notification("notifications/cancelled", json!({ "requestId": { "not": "an id" } })),
        notification("notifications/cancelled", json!({})),
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#.to_owned(),
        // Requests without an id are notifications, whatever their method.
        notification("tools/call", json!({ "name": "echo", "arguments": { "message": "m" } })),
        notification("ping", json!({})),
        r#"{"jsonrpc":"2.0","id":1,"result":{"unasked":true}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":"ask-0-000000000000","result":{}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no"}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"error":"odd"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"result":null}"#.to_owned(),
    ] {
        let answer = session.post(&body).await;
        assert_eq!((answer.status(), answer.text()), (202, String::new()), "{body}");
    }
}

/// How many of three info messages reach the client.
async fn infos(session: &Session<'_>) -> usize {
    let answer = session.post(call("emit", "emit", json!({ "count": 3 }))).await;
    assert!(answer.json()["result"].is_object(), "{}", answer.text());
    answer.text().matches("notifications/message").count()
}

#[tokio::test]
async fn the_log_level_filters_and_belongs_to_one_session() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    let other = Session::open(&server, "2025-11-25").await;
    for level in LEVELS {
        let said = session.ask(1, "logging/setLevel", json!({ "level": level })).await;
        assert_eq!(said["result"], json!({}), "{said}");
        let wanted = if matches!(level, "debug" | "info") { 3 } else { 0 };
        assert_eq!(infos(&session).await, wanted, "{level}");
        assert_eq!(infos(&other).await, 3, "{level}");
    }
}

#[tokio::test]
async fn a_bad_log_level_is_refused_and_changes_nothing() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    session.ask(1, "logging/setLevel", json!({ "level": "error" })).await;
    for params in [
        json!({ "level": "loud" }),
        json!({ "level": "INFO" }),
        json!({ "level": 1 }),
        json!({}),
        json!({ "level": null }),
    ] {
        let said = session.ask(2, "logging/setLevel", params.clone()).await;
        assert_eq!(code(&said), -32602, "{params}");
        assert!(said["error"]["message"].as_str().unwrap().contains("debug, info"), "{said}");
    }
    let none = session.post(r#"{"jsonrpc":"2.0","id":2,"method":"logging/setLevel"}"#).await;
    assert_eq!(code(&none.json()), -32602);
    assert_eq!(infos(&session).await, 0);
}

#[tokio::test]
async fn level_values_and_client_outlast_the_memory_of_the_session() {
    let server = server_with(&[("OUTLAST_SESSIONS__UNLOAD_AFTER_SECONDS", "1")]).await;
    let session = Session::open_with(&server, "2025-06-18", json!({ "elicitation": {} })).await;
    session.ask(1, "logging/setLevel", json!({ "level": "error" })).await;
    session.post(call(2, "counter", json!({ "by": 40 }))).await;
    until_stats(&server, "no session in memory", |stats| stats["sessions_loaded"] == 0).await;
    assert_eq!(infos(&session).await, 0);
    let said = session.post(call(3, "counter", json!({ "by": 2 }))).await.json();
    assert_eq!(text(&said), "42");
    // Its revision too: what was an array's session is none now, what may be asked may be asked.
    assert_eq!(session.post("[]").await.status(), 400);
    let mut stream = session.stream(call(4, "ask", json!({ "message": "?" }))).await;
    let question = stream.next_message().await.unwrap().json();
    assert_eq!(question["method"], "elicitation/create");
}

#[tokio::test]
async fn values_belong_to_one_session() {
    let server = server().await;
    let (one, two) = (Session::open(&server, "2025-11-25").await, Session::open(&server, "2024-11-05").await);
    for wanted in ["1", "2", "3"] {
        assert_eq!(text(&one.post(call(1, "counter", json!({}))).await.json()), wanted);
    }
    let said = two.post(call(1, "counter", json!({ "by": -7 }))).await.json();
    assert_eq!(text(&said), "-7");
    assert_eq!(said["result"]["structuredContent"]["value"], Value::from(-7));
}
