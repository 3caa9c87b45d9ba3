//! Hosted servers that die, print nonsense, or never answer: the caller reads what happened, the rest goes on.

use serde_json::{Value, json};

use super::hosting;
use crate::support::mcp::{Session, call, claimed, modern, text, until_calls};

/// The sentences of a failed call.
fn failed(said: &Value) -> &str {
    assert_eq!(said["result"]["isError"], true, "{said}");
    text(said)
}

#[tokio::test]
async fn a_child_that_dies_in_the_middle_of_a_call_is_told_of_and_replaced() {
    let server = hosting(&[("fix", "", &[])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let before = text(&session.post(call(1, "pid", json!({}))).await.json()).to_owned();
    let said = session.post(call(2, "exit", json!({ "n": 3, "message": "disk on fire" }))).await.json();
    let why = failed(&said);
    assert!(why.contains("fix") && why.contains("disk on fire") && why.contains('3'), "{why}");
    let after = session.post(call(3, "pid", json!({}))).await.json();
    assert_ne!(text(&after), before);
    // Another call that was running in it is told as well, and one of another session is not.
    let other = Session::open(&server, "2025-11-25").await;
    let mut theirs = other.stream(call("s", "sleep", json!({ "n": 400 }))).await;
    let mut waiting = session.stream(call("w", "never", json!({}))).await;
    session.post(call("x", "exit", json!({ "n": 1 }))).await;
    failed(&waiting.next_message().await.unwrap().json());
    assert_eq!(text(&theirs.next_message().await.unwrap().json()), "slept 400");
    until_calls(&server, 0).await;
}

#[tokio::test]
async fn a_modern_call_whose_child_dies_ends_with_a_tool_error() {
    let server = hosting(&[("fix", "", &[])]).await;
    let params = claimed(json!({ "name": "exit", "arguments": { "n": 0, "message": "bye" } }));
    let said = modern(&server, 1, "tools/call", params).await.json();
    assert!(failed(&said).contains("fix"), "{said}");
    assert_eq!(said["result"]["resultType"], "complete");
}

#[tokio::test]
async fn lines_that_are_no_messages_are_skipped_until_they_are_too_many() {
    let server = hosting(&[("fix", "", &["--garbage", "20"])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    assert_eq!(text(&session.post(call(1, "echo", json!({ "message": "m" }))).await.json()), "m");
    assert_eq!(text(&session.post(call(2, "garbage", json!({ "n": 50 }))).await.json()), "sorry");
    assert_eq!(text(&session.post(call(3, "unknown", json!({}))).await.json()), "mine");
    assert_eq!(text(&session.post(call(4, "twice", json!({}))).await.json()), "first");
    let said = session.post(call(5, "malformed", json!({}))).await.json();
    assert!(said["error"]["message"].as_str().unwrap().contains("no response"), "{said}");
    let said = session.post(call(6, "garbage", json!({ "n": 500 }))).await.json();
    assert!(failed(&said).contains("no messages"), "{said}");
    assert_eq!(text(&session.post(call(7, "echo", json!({ "message": "m" }))).await.json()), "m");
}

#[tokio::test]
async fn a_call_without_an_answer_ends_in_time_and_is_cancelled_in_the_child() {
    let server = hosting(&[("fix", "call_timeout_seconds = 1", &[])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let said = session.post(call(1, "never", json!({}))).await.json();
    assert!(failed(&said).contains("call_timeout_seconds"), "{said}");
    assert_eq!(text(&session.post(call(2, "cancelled", json!({}))).await.json()), "1");
    until_calls(&server, 0).await;
}

#[tokio::test]
async fn a_child_that_cannot_start_takes_nothing_from_the_others() {
    let server = hosting(&[("dead", "", &["--die"]), ("live", "", &[])]).await;
    server.wait_for_log("no licence found").await;
    let session = Session::open(&server, "2025-11-25").await;
    let said = session.post(call(1, "live__echo", json!({ "message": "m" }))).await.json();
    assert_eq!(text(&said), "m");
    let listed = session.ask(2, "tools/list", json!({})).await.to_string();
    assert!(listed.contains("live__echo") && !listed.contains("dead__"), "{listed}");
    assert_eq!(server.exchange("GET", "/readyz", &[], b"").await.status(), 200);
}

#[tokio::test]
async fn a_child_that_never_answers_the_handshake_is_given_up() {
    let server = hosting(&[("mute", "start_timeout_seconds = 1", &["--mute"]), ("live", "", &[])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let listed = session.ask(1, "tools/list", json!({})).await.to_string();
    assert!(listed.contains("live__echo"), "{listed}");
    server.wait_for_log("did not answer").await;
}

#[tokio::test]
async fn a_child_that_floods_its_stderr_is_served_all_the_same() {
    let server = hosting(&[("fix", "", &["--flood"])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let said = session.post(call(1, "stderr", json!({ "n": 2_000_000 }))).await.json();
    assert_eq!(text(&said), "flooded");
}

#[tokio::test]
async fn a_long_answer_of_a_child_comes_whole() {
    let server = hosting(&[("fix", "", &[])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let said = session.post(call(1, "long", json!({ "n": 3_000_000 }))).await.json();
    assert_eq!(text(&said).len(), 3_000_000);
}
