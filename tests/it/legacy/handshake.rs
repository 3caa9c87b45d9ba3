//! `initialize`: negotiation, capabilities, what is refused.

use serde_json::{Value, json};

use crate::support::mcp::{LEGACY, Session, call, code, initialize, post, request, server};

#[tokio::test]
async fn a_legacy_revision_is_echoed_and_any_other_gets_the_latest_legacy_one() {
    let server = server().await;
    let others = ["2026-07-28", "2099-01-01", "1999-01-01", "", "2025-11-25 ", "v1", "2025-11-2\u{fe0f}5"];
    let asked = LEGACY.iter().map(|revision| (*revision, *revision));
    for (asked, wanted) in asked.chain(others.map(|other| (other, "2025-11-25"))) {
        let answer = post(&server, &[], initialize(asked, json!({}))).await;
        assert_eq!(answer.status(), 200, "{asked}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let token = answer.header("mcp-session-id").expect("a session id").to_owned();
        assert!(token.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{token}");
        let said = answer.json();
        assert_eq!((&said["jsonrpc"], &said["id"]), (&json!("2.0"), &json!("init")));
        assert_eq!(said["result"]["protocolVersion"], wanted, "{asked}");
        assert_eq!(said["result"]["serverInfo"]["name"], "outlast");
        assert_eq!(said["result"]["serverInfo"]["version"], env!("CARGO_PKG_VERSION"));
    }
}

#[tokio::test]
async fn every_session_has_an_id_of_its_own() {
    let server = server().await;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..20 {
        ids.insert(Session::open(&server, "2025-11-25").await.id);
    }
    assert_eq!(ids.len(), 20);
}

#[tokio::test]
async fn only_what_is_served_is_advertised_and_the_rest_is_no_method() {
    let server = server().await;
    for revision in LEGACY {
        let said = post(&server, &[], initialize(revision, json!({}))).await.json();
        let capabilities = said["result"]["capabilities"].clone();
        let mut wanted = json!({ "tools": { "listChanged": true }, "logging": {} });
        let has_tasks = revision == "2025-11-25";
        if has_tasks {
            wanted["tasks"] = json!({ "list": {}, "cancel": {}, "requests": { "tools": { "call": {} } } });
        }
        assert_eq!(capabilities, wanted, "{revision}");
        let session = Session::open(&server, revision).await;
        let tasks = ["tasks/list", "tasks/get", "tasks/result", "tasks/cancel"];
        for method in tasks.into_iter().filter(|_| !has_tasks).chain([
            "resources/list",
            "resources/read",
            "resources/templates/list",
            "resources/subscribe",
            "prompts/list",
            "prompts/get",
            "completion/complete",
            "tasks/update",
            "server/discover",
            "subscriptions/listen",
            "tools/List",
            "",
            "\u{0}",
        ]) {
            let answer = session.post(request(method, method, json!({}))).await;
            assert_eq!(answer.status(), 200, "{method}");
            let said = answer.json();
            assert_eq!((code(&said), &said["id"]), (-32601, &json!(method)), "{method}");
        }
    }
}

#[tokio::test]
async fn an_initialize_that_cannot_be_read_is_told_what_is_wanted() {
    let server = server().await;
    let good = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {} });
    let with = |key: &str, value: Value| {
        let mut params = good.clone();
        params[key] = value;
        params.to_string()
    };
    for params in [
        "{}".to_owned(),
        with("protocolVersion", Value::Null),
        with("protocolVersion", json!(20251125)),
        with("protocolVersion", json!(["2025-11-25"])),
        with("capabilities", json!([])),
        with("capabilities", json!("all")),
        r#"{"protocolVersion":"2025-11-25","protocolVersion":"2025-03-26","capabilities":{}}"#.to_owned(),
        r#"{"protocolVersion":"\ud800","capabilities":{}}"#.to_owned(),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":77,"method":"initialize","params":{params}}}"#);
        let answer = post(&server, &[], &body).await;
        let said = answer.json();
        assert_eq!((code(&said), &said["id"]), (-32602, &json!(77)), "{params}");
        assert!(said["error"]["message"].as_str().unwrap().contains("want"), "{said}");
        assert_eq!(answer.header("mcp-session-id"), None, "{params}");
    }
    let none = post(&server, &[], r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#).await;
    assert_eq!(code(&none.json()), -32602);
    // Odd, and no reason to refuse: capabilities that nobody knows, or none.
    for params in [
        with("capabilities", json!({ "x": [1], "elicitation": "yes", "roots": null, "tasks": {} })),
        with("capabilities", Value::Null),
        r#"{"protocolVersion":"2025-11-25","unknown":123456789012345678901234567890}"#.to_owned(),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}"#);
        let answer = post(&server, &[], &body).await;
        assert!(answer.json()["result"].is_object(), "{params}: {}", answer.text());
    }
}

#[tokio::test]
async fn initialize_in_a_live_session_is_refused_and_the_session_lives_on() {
    let server = server().await;
    let session = Session::open(&server, "2025-06-18").await;
    let answer = session.post(initialize("2025-06-18", json!({}))).await;
    assert_eq!((answer.status(), code(&answer.json())), (400, -32600));
    assert_eq!(answer.json()["id"], "init");
    assert_eq!(session.ask(1, "ping", json!({})).await["result"], json!({}));
}

#[tokio::test]
async fn initialize_with_the_id_of_no_session_makes_a_new_one() {
    let server = server().await;
    let dead = Session::open(&server, "2025-11-25").await;
    dead.end().await;
    for id in [dead.id.as_str(), "never-was-one", "x", "\u{7e}"] {
        let answer = post(&server, &[("Mcp-Session-Id", id)], initialize("2025-11-25", json!({}))).await;
        assert_eq!(answer.status(), 200, "{id}: {}", answer.text());
        let new = answer.header("mcp-session-id").expect("a session id");
        assert_ne!(new, id);
    }
}

#[tokio::test]
async fn a_session_serves_before_its_client_says_that_it_is_initialized() {
    let server = server().await;
    let answer = post(&server, &[], initialize("2025-11-25", json!({}))).await;
    let id = answer.header("mcp-session-id").unwrap().to_owned();
    let headers = [("Mcp-Session-Id", id.as_str())];
    let ping = post(&server, &headers, request(0, "ping", json!({}))).await;
    assert_eq!(ping.json(), json!({ "jsonrpc": "2.0", "id": 0, "result": {} }));
    let echo = post(&server, &headers, call(1, "echo", json!({ "message": "m" }))).await;
    assert_eq!(echo.status(), 200);
}
