//! What the operator sees of running calls, and what calls leave behind.

use serde_json::{Value, json};

use super::{hosting, keyed, place};
use crate::support::mcp::{Session, call, notification, text, until_calls};
use crate::support::server::Server;
use crate::support::until;

/// The only session, as the operator sees it.
async fn inspected(server: &Server) -> Value {
    let all = server.admin_exchange("GET", "/admin/sessions", b"").await.json();
    let key = all["sessions"][0]["key"].as_str().unwrap_or_else(|| panic!("{all}")).to_owned();
    server.admin_exchange("GET", &format!("/admin/sessions/{key}"), b"").await.json()
}

#[tokio::test]
async fn a_running_call_is_shown_with_its_tool_and_where_it_stands() {
    let server = hosting("", "[servers.fix.tools.never]\nmax_concurrent = 1").await;
    let session = Session::open_with(&server, "2025-11-25", json!({ "elicitation": {} })).await;
    let _working = session.stream(call("w", "never", json!({}))).await;
    let _queued = session.stream(call("q", "never", json!({}))).await;
    let _asking = session.stream(call("a", "ask", json!({ "method": "elicitation/create" }))).await;
    let states = || async {
        let running = inspected(&server).await["live"]["running"].take();
        let state =
            |call: &Value| format!("{} {} {}", call["id"], call["tool"], call["state"]).replace('"', "");
        let mut states: Vec<String> = running.as_array().unwrap().iter().map(state).collect();
        states.sort();
        states
    };
    let wanted = ["a ask waiting_for_input", "q never queued", "w never running"];
    until("three states", || async { states().await == wanted }).await;
    // The one that works is ended, and the other one takes its place.
    session.post(notification("notifications/cancelled", json!({ "requestId": "w" }))).await;
    until("the place is taken", || async { states().await.contains(&"q never running".to_owned()) }).await;
}

#[tokio::test]
async fn a_short_call_writes_nothing_and_one_with_a_key_is_kept() {
    let server = Server::start_in(&place("", ""), &[], &[]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let echo = |id: u64| call(id, "echo", json!({ "message": "m" }));
    // The first one may have to wait for its child.
    session.post(echo(0)).await;
    until_calls(&server, 0).await;
    let written = || async {
        let session = inspected(&server).await;
        ["version", "streams", "runs", "results", "fields", "bytes"].map(|name| session[name].clone())
    };
    let before = written().await;
    for id in 1..=50 {
        let answer = session.post_accepting("application/json", echo(id)).await;
        assert_eq!(text(&answer.json()), "m");
    }
    assert_eq!(written().await, before);
    // It is kept beside the session, since it may be collected from another one.
    session.post(keyed(100, "echo", json!({ "message": "m" }), "k")).await;
    session.end().await;
    let other = Session::open(&server, "2025-11-25").await;
    let refused = other.post(keyed(1, "echo", json!({ "message": "other" }), "k")).await.json();
    assert_eq!(refused["error"]["data"]["reason"], "idempotencyKey", "{refused}");
}
