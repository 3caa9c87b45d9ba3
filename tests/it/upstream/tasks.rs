//! Calls that are tasks of the remote server: one look that fails does not end them, and none makes them run twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{LATEST, fronting, run, said};
use crate::support::mcp::Session;
use crate::support::peer::{self, Caller, Peer, text};
use crate::support::server::Server;

/// How a look at a task fails.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Status(u16),
    Silence,
    Break,
}

impl Fault {
    async fn show(self, mut caller: Caller) {
        match self {
            Self::Status(status) => caller.answer(status, &[], "").await,
            Self::Silence => caller.gone().await,
            Self::Break => {}
        }
    }
}

/// A server of 2026-07-28 that makes a task of each call; the first looks at it fail, the next one finds the result.
async fn modern(fault: Fault, failures: usize) -> Peer {
    let looks = Arc::new(AtomicUsize::new(0));
    Peer::start(move |request, caller| {
        let looks = Arc::clone(&looks);
        async move {
            let Some(caller) = peer::modern(&request, caller).await else { return };
            let task = |kind: &str, status: &str| json!({ "resultType": kind, "taskId": "t", "status": status, "pollIntervalMs": 250 });
            match request.asks().as_str() {
                "tools/call" => caller.result(&[], task("task", "working")).await,
                "tasks/get" if looks.fetch_add(1, Ordering::SeqCst) < failures => fault.show(caller).await,
                "tasks/get" => {
                    let mut ended = task("complete", "completed");
                    ended["result"] = text("finished");
                    caller.result(&[], ended).await;
                }
                _ => caller.result(&[], json!({ "resultType": "complete" })).await,
            }
        }
    })
    .await
}

/// A server with sessions whose tool has to be run as a task.
async fn legacy(fault: Fault, failures: usize) -> Peer {
    let looks = Arc::new(AtomicUsize::new(0));
    Peer::start(move |request, caller| {
        let looks = Arc::clone(&looks);
        async move {
            match request.asks().as_str() {
                "initialize" => {
                    let result = json!({
                        "protocolVersion": LATEST,
                        "capabilities": { "tools": {}, "tasks": { "requests": { "tools": { "call": {} } } } },
                        "serverInfo": { "name": "scripted", "version": "1" },
                    });
                    return caller.result(&[("Mcp-Session-Id", "s-1")], result).await;
                }
                "tools/list" => {
                    let act = json!({ "name": "act", "inputSchema": { "type": "object" }, "execution": { "taskSupport": "required" } });
                    return caller.result(&[], json!({ "tools": [act] })).await;
                }
                _ => {}
            }
            let Some(caller) = peer::legacy(&request, caller).await else { return };
            match request.asks().as_str() {
                "tools/call" => {
                    let task = json!({ "taskId": "t", "status": "working", "createdAt": "2026-01-01T00:00:00Z", "lastUpdatedAt": "2026-01-01T00:00:00Z", "ttl": null });
                    caller.result(&[], json!({ "task": task })).await;
                }
                "tasks/result" if looks.fetch_add(1, Ordering::SeqCst) < failures => fault.show(caller).await,
                _ => caller.result(&[], text("finished")).await,
            }
        }
    })
    .await
}

async fn before(peer: &Peer) -> Server {
    fronting(&peer.url(), "start_timeout_seconds = 2").await
}

async fn answer_of(front: &Server) -> Value {
    let session = Session::open(front, LATEST).await;
    run(&session, "act", json!({})).await
}

/// The same of a tool that is run as a task only.
async fn result_of(front: &Server) -> Value {
    let session = Session::open(front, LATEST).await;
    let params = json!({ "name": "act", "arguments": {}, "task": {} });
    let begun = session.ask("b", "tools/call", params).await;
    session.ask("r", "tasks/result", json!({ "taskId": begun["result"]["task"]["taskId"] })).await
}

#[tokio::test]
async fn a_task_goes_on_over_looks_that_fail() {
    for fault in [
        Fault::Status(404),
        Fault::Status(415),
        Fault::Status(429),
        Fault::Status(502),
        Fault::Break,
        Fault::Silence,
    ] {
        let peer = modern(fault, 2).await;
        let answer = answer_of(&before(&peer).await).await;
        assert_eq!((said(&answer), peer.count("tools/call")), ("finished", 1), "{fault:?}: {answer}");
        assert_eq!(peer.count("tasks/cancel"), 0, "{fault:?}");
    }
    for fault in [Fault::Status(405), Fault::Status(502), Fault::Break] {
        let peer = legacy(fault, 2).await;
        let answer = result_of(&before(&peer).await).await;
        assert_eq!((said(&answer), peer.count("tools/call")), ("finished", 1), "{fault:?}: {answer}");
    }
}

#[tokio::test]
async fn a_task_that_is_lost_is_not_begun_a_second_time() {
    let (here, there) =
        (modern(Fault::Status(404), usize::MAX).await, legacy(Fault::Status(404), usize::MAX).await);
    let (modern_front, legacy_front) = (before(&here).await, before(&there).await);
    let (of_modern, of_legacy) = tokio::join!(answer_of(&modern_front), result_of(&legacy_front));
    for (answer, peer) in [(of_modern, &here), (of_legacy, &there)] {
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        assert_eq!(answer["result"]["_meta"]["outlast/retrySafe"], false, "{answer}");
        assert_eq!(peer.count("tools/call"), 1, "{answer}");
    }
    here.until("tasks/cancel", 1).await;
}
