//! What a remote server says of itself by refusing: of its revision, of its sessions, of its tools.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::sync::{Barrier, Notify};

use super::{LATEST, fronting, run, said, scripted, status};
use crate::support::mcp::Session;
use crate::support::peer::{self, Caller, Peer, Request, text};
use crate::support::until;

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[tokio::test]
async fn a_server_that_finds_a_request_without_a_session_unprocessable_has_sessions() {
    for refusal in [409, 422] {
        let peer = Peer::start(move |request, caller: Caller| async move {
            if request.asks() == "server/discover" {
                return caller.answer(refusal, &[], "Unexpected message, expect initialize request").await;
            }
            if let Some(caller) = peer::legacy(&request, caller).await {
                caller.result(&[], text("well")).await;
            }
        })
        .await;
        let front = fronting(&peer.url(), "").await;
        let session = Session::open(&front, LATEST).await;
        assert_eq!(said(&run(&session, "act", json!({})).await), "well", "{refusal}");
    }
}

#[tokio::test]
async fn a_server_that_has_no_sessions_any_more_is_found_by_its_refusals() {
    for (code, message) in [
        (-32022, "Unsupported protocol version"),
        (-32020, "MCP-Protocol-Version is missing"),
        (-32602, "params._meta: want io.modelcontextprotocol/protocolVersion"),
    ] {
        let is_modern = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&is_modern);
        let peer = Peer::start(move |request, caller: Caller| {
            let is_modern = switch.load(Ordering::SeqCst);
            async move {
                let answered = match (is_modern, request.body.contains("io.modelcontextprotocol/")) {
                    (true, true) => peer::modern(&request, caller).await,
                    (true, false) => return caller.error(400, code, message).await,
                    (false, _) => peer::legacy(&request, caller).await,
                };
                if let Some(caller) = answered {
                    caller.result(&[], text(if is_modern { "anew" } else { "as before" })).await;
                }
            }
        })
        .await;
        let front = fronting(&peer.url(), "").await;
        let session = Session::open(&front, LATEST).await;
        assert_eq!(said(&run(&session, "act", json!({})).await), "as before");
        is_modern.store(true, Ordering::SeqCst);
        let answer = run(&session, "act", json!({})).await;
        assert_eq!(answer["result"]["content"], text("anew")["content"], "{message}: {answer}");
        assert_eq!(status(&front).await["revision"], "2026-07-28", "{message}");
    }
}

#[tokio::test]
async fn a_refusal_of_what_one_client_sent_takes_nothing_from_the_others() {
    const AT_ONCE: usize = 6;
    let (refused, all_there) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(AT_ONCE)));
    let go_on = Arc::new(Notify::new());
    let goes_on = Arc::clone(&go_on);
    let peer = scripted(move |request, caller| {
        let (refused, all_there, go_on) = (Arc::clone(&refused), Arc::clone(&all_there), Arc::clone(&goes_on));
        async move {
            if request.message()["params"]["name"] == "look" {
                go_on.notified().await;
                return caller.result(&[], text("seen")).await;
            }
            // The first tries are all refused before the second ones begin.
            if refused.fetch_add(1, Ordering::SeqCst) < AT_ONCE {
                all_there.wait().await;
            }
            let body = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32000, "message": "cannot be read" } });
            caller.answer(400, &[JSON], &body.to_string()).await;
        }
    })
    .await;
    let front = fronting(&peer.url(), "lifetime = \"pool\"").await;
    let session = Session::open(&front, LATEST).await;
    let looking = async {
        let answer = run(&session, "look", json!({})).await;
        assert_eq!(said(&answer), "seen", "{answer}");
    };
    let others = async {
        peer.until("tools/call", 1).await;
        let (found, opened) = (peer.count("server/discover"), peer.count("initialize"));
        let calls =
            (0..AT_ONCE).map(|n| session.ask(n, "tools/call", json!({ "name": "act", "arguments": {} })));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer["result"]["isError"], true, "{answer}");
            assert!(said(&answer).contains("cannot be read"), "{answer}");
        }
        let anew = (peer.count("server/discover") - found, peer.count("initialize") - opened);
        assert_eq!(anew, (1, 1), "it is asked once what it speaks");
        assert_eq!(peer.count("DELETE"), 0, "a session in which a call runs is not ended");
        go_on.notify_one();
    };
    tokio::join!(looking, others);
    peer.until("DELETE", 1).await;
}

#[tokio::test]
async fn an_error_of_a_call_that_speaks_of_sessions_costs_no_session() {
    let peer = scripted(|_, caller: Caller| async move {
        caller.error(400, -32000, "the session of the database is over").await;
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    let answer = run(&session, "act", json!({})).await;
    assert!(answer.to_string().contains("the session of the database is over"), "{answer}");
    let made = peer.count("initialize");
    assert_eq!(peer.count("tools/call"), 1, "{answer}");
    run(&session, "act", json!({})).await;
    assert_eq!(peer.count("initialize"), made);
}

#[tokio::test]
async fn what_has_no_answer_may_be_taken_with_an_empty_body_of_any_type() {
    for kind in ["application/json", "text/plain"] {
        let peer = Peer::start(move |request, caller: Caller| async move {
            if request.asks().starts_with("notifications/") {
                return caller.answer(200, &[("Content-Type", kind)], "").await;
            }
            if let Some(caller) = peer::legacy(&request, caller).await {
                caller.result(&[], text("well")).await;
            }
        })
        .await;
        let front = fronting(&peer.url(), "").await;
        let session = Session::open(&front, LATEST).await;
        assert_eq!(said(&run(&session, "act", json!({})).await), "well", "{kind}");
    }
}

#[tokio::test]
async fn a_header_that_does_not_fit_any_more_is_a_change_of_the_tools() {
    let is_other = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&is_other);
    let peer = Peer::start(move |request: Request, caller: Caller| {
        let is_other = switch.load(Ordering::SeqCst);
        async move {
            match request.asks().as_str() {
                "tools/list" => {
                    let region = if is_other { json!({ "type": "string", "x-mcp-header": "Region" }) } else { json!({ "type": "string" }) };
                    let tool = json!({ "name": "act", "description": if is_other { "other" } else { "first" }, "inputSchema": { "type": "object", "properties": { "region": region } } });
                    let list = json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "public", "tools": [tool] });
                    caller.result(&[], list).await;
                }
                "tools/call" if is_other && request.header("mcp-param-region").is_none() => {
                    caller.error(400, -32020, "Mcp-Param-Region is missing").await;
                }
                "tools/call" => caller.result(&[], text("well")).await,
                _ => drop(peer::modern(&request, caller).await),
            }
        }
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    let described = async || -> Value {
        session.ask("l", "tools/list", json!({})).await["result"]["tools"][0]["description"].clone()
    };
    until("the tools", || async { described().await == "first" }).await;
    is_other.store(true, Ordering::SeqCst);
    assert_eq!(said(&run(&session, "act", json!({ "region": "south" })).await), "well");
    until("the tools as they are", || async { described().await == "other" }).await;
}
