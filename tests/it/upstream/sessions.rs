//! Sessions in a remote server: whose they are, and that losing one is nobody's trouble but is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::{LATEST, fronting, only_legacy, place, run, run_modern, said, scripted};
use crate::support::mcp::Session;
use crate::support::peer::{Peer, text};
use crate::support::server::Server;

fn value(answer: &Value) -> i64 {
    answer["result"]["structuredContent"]["value"].as_i64().unwrap_or_else(|| panic!("no value: {answer}"))
}

fn told_anew(answer: &Value) -> bool {
    answer["result"]["_meta"]["outlast/startedAnew"]["server"] == "one"
}

/// The session ids under which calls came, in order.
fn ids(peer: &Peer) -> Vec<String> {
    let calls = peer.requests().into_iter().filter(|request| request.asks() == "tools/call");
    calls.map(|request| request.header("mcp-session-id").unwrap().to_owned()).collect()
}

async fn durable() -> Server {
    Server::start(&["--diagnostics"]).await
}

#[tokio::test]
async fn each_session_has_one_of_its_own_and_a_pool_has_one_for_all() {
    let behind = crate::support::mcp::server().await;
    let peer = only_legacy(&behind).await;
    for (lifetime, second) in [("session", 1), ("pool", 2)] {
        let front = fronting(&peer.url(), &format!("lifetime = {lifetime:?}")).await;
        let (one, two) = (Session::open(&front, LATEST).await, Session::open(&front, LATEST).await);
        assert_eq!(value(&run(&one, "counter", json!({})).await), 1);
        assert_eq!(value(&run(&two, "counter", json!({})).await), second, "{lifetime}");
    }
    let front = fronting(&peer.url(), "lifetime = \"call\"").await;
    let one = Session::open(&front, LATEST).await;
    let before = peer.count("DELETE");
    for _ in 0..2 {
        assert_eq!(value(&run(&one, "counter", json!({})).await), 1);
    }
    peer.until("DELETE", before + 2).await;
}

#[tokio::test]
async fn a_session_that_was_ended_behind_its_back_is_made_anew_and_that_is_told_once() {
    let behind = crate::support::mcp::server().await;
    let peer = only_legacy(&behind).await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    for n in 1..=2 {
        assert_eq!(value(&run(&session, "counter", json!({})).await), n);
    }
    let lost = ids(&peer).pop().unwrap();
    Session::known(&behind, &lost, LATEST).end().await;

    let answer = run(&session, "counter", json!({})).await;
    assert_eq!(value(&answer), 1, "the call is repeated in a session that knows nothing");
    assert!(told_anew(&answer), "{answer}");
    let answer = run(&session, "counter", json!({})).await;
    assert_eq!(value(&answer), 2);
    assert!(!told_anew(&answer), "{answer}");
    assert_ne!(ids(&peer).pop().unwrap(), lost);
    let modern = run_modern(&front, "echo", json!({ "message": "x" })).await;
    assert!(modern["result"]["_meta"]["outlast/startedAnew"].is_null(), "{modern}");
}

#[tokio::test]
async fn a_server_that_says_400_or_401_to_a_session_it_does_not_know_is_understood() {
    for (status, kind, body) in [
        (
            400,
            "application/json",
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#,
        ),
        (401, "text/plain", "Unauthorized: Session not found"),
    ] {
        let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let peer = scripted(move |_, caller| {
            let lost = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1;
            async move {
                if lost {
                    return caller.answer(status, &[("Content-Type", kind)], body).await;
                }
                caller.result(&[], text("done")).await;
            }
        })
        .await;
        let front = fronting(&peer.url(), "").await;
        let session = Session::open(&front, LATEST).await;
        assert!(!told_anew(&run(&session, "act", json!({})).await));
        let answer = run(&session, "act", json!({})).await;
        assert_eq!(said(&answer), "done");
        assert!(told_anew(&answer), "{answer}");
        assert_eq!(peer.count("tools/call"), 3);
    }
}

#[tokio::test]
async fn a_session_opened_in_another_version_has_the_lists_looked_at() {
    let is_another = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&is_another);
    let peer = Peer::start(move |request, caller| {
        let is_another = switch.load(Ordering::SeqCst);
        async move {
            match request.asks().as_str() {
                "initialize" if is_another => {
                    let result = json!({
                        "protocolVersion": LATEST, "capabilities": { "tools": {} },
                        "serverInfo": { "name": "scripted", "version": "2" },
                    });
                    return caller.result(&[("Mcp-Session-Id", "s-2")], result).await;
                }
                "tools/list" if is_another => {
                    let tools = ["act", "act_anew"]
                        .map(|name| json!({ "name": name, "inputSchema": { "type": "object" } }));
                    return caller.result(&[], json!({ "tools": tools })).await;
                }
                _ => {}
            }
            if let Some(caller) = crate::support::peer::legacy(&request, caller).await {
                caller.result(&[], text("done")).await;
            }
        }
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    assert_eq!(said(&run(&Session::open(&front, LATEST).await, "act", json!({})).await), "done");
    // The sessions that are there go on, so that nothing is lost.
    is_another.store(true, Ordering::SeqCst);
    let session = Session::open(&front, LATEST).await;
    assert_eq!(said(&run(&session, "act", json!({})).await), "done");
    crate::support::until("the list of the other version", async || {
        let list = session.ask(1, "tools/list", json!({})).await;
        list["result"]["tools"].as_array().unwrap().iter().any(|tool| tool["name"] == "act_anew")
    })
    .await;
    assert_eq!(super::status(&front).await["version"], "2");
}

#[tokio::test]
async fn the_end_of_a_session_is_the_end_of_its_session_there() {
    let behind = crate::support::mcp::server().await;
    let peer = only_legacy(&behind).await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    run(&session, "counter", json!({})).await;
    let there = ids(&peer).pop().unwrap();
    session.end().await;
    peer.until("DELETE", 1).await;
    crate::support::until("the end", || async {
        let known = Session::known(&behind, &there, LATEST);
        known.post(crate::support::mcp::call(1, "counter", json!({}))).await.status() == 404
    })
    .await;
}

#[tokio::test]
async fn a_session_there_goes_on_after_restarts_of_either_side() {
    let mut behind = durable().await;
    let peer = only_legacy(&behind).await;
    let mut front = Server::start_in(&place(&peer.url(), ""), &[], &[]).await;
    let (id, revision) = {
        let session = Session::open(&front, LATEST).await;
        assert_eq!(value(&run(&session, "counter", json!({})).await), 1);
        (session.id.clone(), session.revision.clone())
    };
    front.kill();
    front.restart().await;
    {
        let session = Session::known(&front, &id, &revision);
        let answer = run(&session, "counter", json!({})).await;
        assert_eq!(value(&answer), 2, "{answer}");
        assert!(!told_anew(&answer), "{answer}");
    }
    behind.kill();
    behind.restart().await;
    let session = Session::known(&front, &id, &revision);
    let answer = run(&session, "counter", json!({})).await;
    assert_eq!(value(&answer), 3, "{answer}");
    let used = ids(&peer);
    assert!(used.iter().all(|id| *id == used[0]), "{used:?}");
}

#[tokio::test]
async fn a_session_that_was_lost_while_this_server_was_away_is_told() {
    let behind = crate::support::mcp::server().await;
    let peer = only_legacy(&behind).await;
    let mut front = Server::start_in(&place(&peer.url(), ""), &[], &[]).await;
    let (id, revision) = {
        let session = Session::open(&front, LATEST).await;
        run(&session, "counter", json!({})).await;
        (session.id.clone(), session.revision.clone())
    };
    front.kill();
    Session::known(&behind, &ids(&peer)[0], LATEST).end().await;
    front.restart().await;
    let session = Session::known(&front, &id, &revision);
    let answer = run(&session, "counter", json!({})).await;
    assert_eq!(value(&answer), 1);
    assert!(told_anew(&answer), "{answer}");
}

#[tokio::test]
async fn the_level_of_log_messages_is_told_and_told_again_to_a_new_session() {
    let peer = Peer::start(|request, caller| async move {
        match request.asks().as_str() {
            "initialize" => {
                let result = json!({
                    "protocolVersion": "2025-06-18", "capabilities": { "tools": {}, "logging": {} },
                    "serverInfo": { "name": "scripted", "version": "1" },
                });
                return caller.result(&[("Mcp-Session-Id", "s-1")], result).await;
            }
            "logging/setLevel" => return caller.result(&[], json!({})).await,
            _ => {}
        }
        let Some(mut caller) = crate::support::peer::legacy(&request, caller).await else { return };
        if request.message()["params"]["arguments"]["lost"] == true && request.header("x-again").is_none() {
            return caller.answer(404, &[], "").await;
        }
        caller.begin_stream(&[]).await;
        for level in ["debug", "error"] {
            let log = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": level, "data": level } });
            caller.event(None, &log).await;
        }
        caller.event_result(text("done")).await;
    })
    .await;
    let front = fronting(&peer.url(), "tools = { act = { retries = 0 } }").await;
    let session = Session::open(&front, LATEST).await;
    let set = session.ask(1, "logging/setLevel", json!({ "level": "warning" })).await;
    assert_eq!(set["result"], json!({}));
    let mut stream = session.stream(crate::support::mcp::call("c", "act", json!({}))).await;
    let first = super::next_message(&mut stream).await;
    assert_eq!(first["params"]["level"], "error", "what is not wanted is not passed on: {first}");
    assert_eq!(super::next_message(&mut stream).await["id"], "c");
    assert_eq!(peer.count("logging/setLevel"), 1);
    // Lost, made anew, and lost again: both sessions are told before the call.
    let answer = run(&session, "act", json!({ "lost": true })).await;
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    assert_eq!(peer.count("logging/setLevel"), 2);
    let told = peer.requests().into_iter().filter(|request| request.asks() == "logging/setLevel");
    assert!(told.into_iter().all(|request| request.message()["params"]["level"] == "warning"));
}
