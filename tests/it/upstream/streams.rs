//! Streams of a remote server that end, are refused or begin anew: what somebody waits to hear is heard, at a bounded rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{LATEST, fronting, next_message, run, said, status};
use crate::support::mcp::Session;
use crate::support::peer::{self, Caller, Peer, Request, text};
use crate::support::until;

const URI: &str = "a://one";

/// A server that loses its sessions, and ends their streams, each time the number of its life changes; 0: it fails. What
/// it is asked for in a session that it knows, and does not answer itself, comes to `act` with that number.
async fn forgetful<F: Future<Output = ()> + Send + 'static>(
    life: watch::Receiver<u64>,
    act: impl Fn(u64, Request, Caller) -> F + Clone + Send + Sync + 'static,
) -> Peer {
    Peer::start(move |request, mut caller| {
        let (mut life, act) = (life.clone(), act.clone());
        async move {
            let now = *life.borrow_and_update();
            let own = format!("life-{now}");
            match request.asks().as_str() {
                _ if now == 0 => return caller.answer(503, &[], "").await,
                "server/discover" => {}
                "initialize" => {
                    let result = json!({
                        "protocolVersion": LATEST,
                        "capabilities": { "tools": { "listChanged": true }, "resources": { "subscribe": true } },
                        "serverInfo": { "name": "scripted", "version": "1" },
                    });
                    return caller.result(&[("Mcp-Session-Id", &own)], result).await;
                }
                _ if request.header("mcp-session-id") != Some(&own) => return caller.answer(404, &[], "").await,
                "GET" => {
                    caller.begin_stream(&[]).await;
                    let _ = life.changed().await;
                    return;
                }
                "tools/list" => {
                    let tools = json!([{ "name": "act", "description": own, "inputSchema": { "type": "object" } }]);
                    return caller.result(&[], json!({ "tools": tools })).await;
                }
                "resources/list" => {
                    return caller.result(&[], json!({ "resources": [{ "uri": URI, "name": "one" }] })).await;
                }
                "resources/templates/list" => return caller.result(&[], json!({ "resourceTemplates": [] })).await,
                "resources/subscribe" => return act(now, request, caller).await,
                _ => {}
            }
            if let Some(caller) = peer::legacy(&request, caller).await {
                act(now, request, caller).await;
            }
        }
    })
    .await
}

async fn well(_: u64, request: Request, caller: Caller) {
    let result = if request.asks() == "tools/call" { text("well") } else { json!({}) };
    caller.result(&[], result).await;
}

#[tokio::test]
async fn a_server_that_has_no_common_stream_and_says_404_keeps_its_sessions() {
    let peer = Peer::start(|request, caller: Caller| async move {
        if request.asks() == "GET" {
            return caller.answer(404, &[], "no such route").await;
        }
        if let Some(caller) = peer::legacy(&request, caller).await {
            caller.result(&[], text("well")).await;
        }
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    assert_eq!(said(&run(&session, "act", json!({})).await), "well");
    peer.until("GET", 2).await;
    let made = peer.count("initialize");
    sleep(Duration::from_secs(2)).await;
    let again = run(&session, "act", json!({})).await;
    assert_eq!((said(&again), peer.count("initialize"), peer.count("GET")), ("well", made, 2), "{again}");
    assert!(again["result"]["_meta"].is_null(), "{again}");
}

#[tokio::test]
async fn a_subscriber_that_makes_no_calls_hears_on_after_a_restart_that_loses_sessions() {
    let (life, lives) = watch::channel(1);
    let peer = forgetful(lives, well).await;
    for lifetime in ["session", "pool"] {
        let front = fronting(&peer.url(), &format!("lifetime = {lifetime:?}")).await;
        let session = Session::open(&front, LATEST).await;
        let answer = session.ask(1, "resources/subscribe", json!({ "uri": URI })).await;
        assert_eq!(answer["result"], json!({}), "{answer}");
        let mut stream = front.connect().await;
        let mut headers = session.headers();
        headers.push(("Accept", "text/event-stream"));
        stream.request("GET", "/mcp", &headers, b"").await;
        assert_eq!(stream.head().await.status, 200);
        let told = peer.count("resources/subscribe");
        let (before, streams) = (*life.borrow(), peer.count("GET"));
        life.send_replace(0);
        peer.until("GET", streams + 1).await;
        life.send_replace(before + 1);
        peer.until("resources/subscribe", told + 1).await;
        loop {
            let message = next_message(&mut stream).await;
            if message["method"] == "notifications/resources/updated" {
                assert_eq!(message["params"]["uri"], URI);
                break;
            }
        }
        assert_eq!(peer.count("tools/call"), 0);
    }
}

#[tokio::test]
async fn lists_that_are_others_after_a_restart_are_listed_without_a_call() {
    let (life, lives) = watch::channel(1);
    let peer = forgetful(lives, well).await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    let described = async || -> Value {
        session.ask("l", "tools/list", json!({})).await["result"]["tools"][0]["description"].clone()
    };
    until("the tools", || async { described().await == "life-1" }).await;
    peer.until("GET", 1).await;
    life.send_replace(2);
    until("the tools of the other life", || async { described().await == "life-2" }).await;
    assert_eq!(peer.count("tools/call"), 0);
}

#[tokio::test]
async fn a_server_that_has_no_sessions_any_more_is_found_without_a_call() {
    let (new, is_new) = watch::channel(false);
    let peer = Peer::start(move |request, mut caller: Caller| {
        let mut is_new = is_new.clone();
        async move {
            let now = *is_new.borrow_and_update();
            let answered = match (now, request.asks().as_str()) {
                (true, "GET") => return caller.answer(405, &[], "").await,
                (true, _) if !request.body.contains("io.modelcontextprotocol/") => {
                    return caller.error(400, -32022, "Unsupported protocol version").await;
                }
                (true, _) => peer::modern(&request, caller).await,
                (false, "GET") => {
                    caller.begin_stream(&[]).await;
                    let _ = is_new.changed().await;
                    return;
                }
                (false, _) => peer::legacy(&request, caller).await,
            };
            if let Some(caller) = answered {
                caller.result(&[], text("well")).await;
            }
        }
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let revision = async || status(&front).await["revision"].clone();
    until("a session", || async { revision().await == LATEST }).await;
    peer.until("GET", 1).await;
    new.send_replace(true);
    until("the other revision", || async { revision().await == "2026-07-28" }).await;
    assert_eq!(peer.count("tools/call"), 0);
}

#[tokio::test]
async fn a_subscription_that_is_slow_to_be_renewed_holds_up_no_call() {
    let (life, lives) = watch::channel(1);
    let peer = forgetful(lives, |life, request, mut caller| async move {
        if life > 1 && request.asks() == "resources/subscribe" {
            return caller.gone().await;
        }
        well(life, request, caller).await;
    })
    .await;
    let front = fronting(&peer.url(), "start_timeout_seconds = 60").await;
    let session = Session::open(&front, LATEST).await;
    let answer = session.ask(1, "resources/subscribe", json!({ "uri": URI })).await;
    assert_eq!(answer["result"], json!({}), "{answer}");
    life.send_replace(2);
    let answer = timeout(Duration::from_secs(20), run(&session, "act", json!({}))).await;
    assert_eq!(said(&answer.expect("an answer before the subscription is given up")), "well");
    peer.until("resources/subscribe", 2).await;
}

#[tokio::test]
async fn a_stream_of_changes_that_ends_at_once_is_opened_ever_more_slowly() {
    let peer = Peer::start(|request, mut caller: Caller| async move {
        if request.asks() == "subscriptions/listen" {
            caller.begin_stream(&[]).await;
            let params = json!({ "notifications": { "toolsListChanged": true } });
            let begun = json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params });
            return caller.event(None, &begun).await;
        }
        if let Some(caller) = peer::modern(&request, caller).await {
            caller.result(&[], text("well")).await;
        }
    })
    .await;
    let _front = fronting(&peer.url(), "").await;
    peer.until("subscriptions/listen", 1).await;
    sleep(Duration::from_secs(4)).await;
    let opened = peer.count("subscriptions/listen");
    assert!((2..=6).contains(&opened), "{opened}");
}

#[tokio::test]
async fn lists_that_count_for_a_while_are_looked_at_again_after_it_where_nobody_tells_of_changes() {
    let lists = Arc::new(AtomicU64::new(0));
    let peer = Peer::start(move |request, caller| {
        let lists = Arc::clone(&lists);
        async move {
            if request.asks() == "tools/list" {
                let description = if lists.fetch_add(1, Ordering::SeqCst) == 0 { "first" } else { "later" };
                let tools = json!([{ "name": "act", "description": description, "inputSchema": { "type": "object" } }]);
                let result = json!({ "resultType": "complete", "ttlMs": 1_000, "cacheScope": "public", "tools": tools });
                return caller.result(&[], result).await;
            }
            if let Some(caller) = peer::modern(&request, caller).await {
                caller.error(404, -32_601, "Method not found").await;
            }
        }
    })
    .await;
    let server = fronting(&format!("http://{}/mcp", peer.address), "").await;
    let session = Session::open(&server, LATEST).await;
    let described =
        async || session.ask(1, "tools/list", json!({})).await["result"]["tools"][0]["description"].clone();
    assert_eq!(described().await, "first");
    until("the later list", || async { described().await == "later" }).await;
}
