//! Remote servers that fail in every way: each has a clear error, harms nobody else, and is not called for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{LATEST, fronting, run, run_modern, said, scripted, status, url_of};
use crate::support::mcp::Session;
use crate::support::peer::{self, Caller, Peer, Request, text};
use crate::support::until;

/// What a caller reads of a failure, which has to name the server.
async fn failure(peer: &Peer, settings: &str) -> Value {
    let front = fronting(&peer.url(), settings).await;
    let session = Session::open(&front, LATEST).await;
    let answer = run(&session, "act", json!({})).await;
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    assert!(said(&answer).contains("server \"one\""), "{answer}");
    answer
}

fn retry_safe(answer: &Value) -> &Value {
    &answer["result"]["_meta"]["outlast/retrySafe"]
}

#[tokio::test]
async fn each_refusal_and_failure_is_a_sentence_that_says_what_to_do() {
    for (code, headers, body, parts, safe) in [
        (401, &[("WWW-Authenticate", "Bearer")][..], "", &["credentials", "servers.one.headers"][..], true),
        (403, &[], "", &["forbids", "servers.one.headers"], true),
        (429, &[("Retry-After", "7")], "", &["too often", "7"], true),
        (500, &[], "oops", &["failed (500", "oops", "check before calling again"], false),
        (503, &[("Retry-After", "9")], "", &["failed (503", "9"], false),
        (
            200,
            &[("Content-Type", "text/html")],
            "<html>",
            &["text/html", "no MCP server", "servers.one.url"],
            false,
        ),
        (200, &[("Content-Type", "application/json")], "{", &["no answer to the request"], false),
        (
            200,
            &[("Content-Type", "application/json")],
            r#"{"jsonrpc":"2.0","id":99999,"result":{}}"#,
            &["no answer"],
            false,
        ),
        (202, &[], "", &["gave no answer"], false),
        (
            302,
            &[("Location", "http://elsewhere.example/")],
            "",
            &["redirects to http://elsewhere.example/", "servers.one.url"],
            true,
        ),
    ] {
        let peer =
            scripted(move |_, caller: Caller| async move { caller.answer(code, headers, body).await }).await;
        let answer = failure(&peer, "").await;
        for part in parts {
            assert!(said(&answer).contains(part), "{code}: {part:?} is not in {}", said(&answer));
        }
        assert_eq!(retry_safe(&answer), &json!(safe), "{code}: {answer}");
        // Only what cannot have been carried out, and may soon be, is tried again.
        let tries = peer.count("tools/call");
        assert_eq!(tries > 1, code == 302, "{code}: {tries}");
    }
}

#[tokio::test]
async fn half_a_stream_is_resumed_where_it_can_be_and_an_error_where_it_cannot() {
    let peer = Peer::start(|request, caller| async move {
        let mut caller = caller;
        if let Some(last) = request.header("last-event-id") {
            assert_eq!(last, "e-1");
            caller.begin_stream(&[]).await;
            // Which number the call has is between the server under test and this one: all that it can be are answered.
            for number in 1..=9 {
                let answer = json!({ "jsonrpc": "2.0", "id": number, "result": text("after the break") });
                caller.event(Some(&format!("e-{}", number + 1)), &answer).await;
            }
            return;
        }
        let Some(mut caller) = peer::legacy(&request, caller).await else { return };
        caller.begin_stream(&[]).await;
        caller.write("id: e-1\nretry: 50\ndata: \n\n").await;
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    assert_eq!(said(&run(&session, "act", json!({})).await), "after the break");
    assert_eq!(peer.count("tools/call"), 1, "it is not run twice");

    // A server that does not resume streams is not asked again.
    let deaf = scripted(|_, mut caller: Caller| async move {
        caller.begin_stream(&[]).await;
        caller.write("id: e-1\nretry: 0\ndata: \n\n").await;
    })
    .await;
    let answer = failure(&deaf, "").await;
    assert!(said(&answer).contains("not resumed (405"), "{answer}");
    let resumed = deaf.requests().into_iter().filter(|request| request.header("last-event-id").is_some());
    assert_eq!((resumed.count(), deaf.count("tools/call")), (1, 1));

    let broken = scripted(|_, mut caller: Caller| async move {
        caller.begin_stream(&[]).await;
        caller.write("data: {\"jsonrpc\":\"2.0\",\"id\":").await;
    })
    .await;
    let answer = failure(&broken, "").await;
    assert!(said(&answer).contains("broke off before the answer"), "{answer}");
    assert_eq!((retry_safe(&answer), broken.count("tools/call")), (&json!(false), 1));
}

#[tokio::test]
async fn a_call_that_does_no_harm_twice_is_made_again_once() {
    let calls = Arc::new(AtomicUsize::new(0));
    let peer = scripted(move |_, mut caller: Caller| {
        let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                caller.begin_stream(&[]).await;
                return;
            }
            caller.result(&[], text("seen")).await;
        }
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    assert_eq!(said(&run(&session, "look", json!({})).await), "seen");
    assert_eq!(peer.count("tools/call"), 2);
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_and_told() {
    let peer = scripted(|_, mut caller: Caller| async move { caller.gone().await }).await;
    let front = fronting(&peer.url(), "call_timeout_seconds = 3").await;
    let session = Session::open(&front, LATEST).await;
    let answer = run(&session, "act", json!({})).await;
    assert!(
        said(&answer).contains("within 3 s") && said(&answer).contains("call_timeout_seconds"),
        "{answer}"
    );
    assert_eq!(answer["result"]["_meta"]["outlast/timedOut"], true);
    peer.until("notifications/cancelled", 1).await;
}

#[tokio::test]
async fn a_server_that_takes_calls_and_never_answers_is_left_alone() {
    let peer = scripted(|_, mut caller: Caller| async move { caller.gone().await }).await;
    let front = fronting(&peer.url(), "call_timeout_seconds = 1").await;
    let session = Session::open(&front, LATEST).await;
    let calls = (0..5).map(|n| session.ask(n, "tools/call", json!({ "name": "act", "arguments": {} })));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer["result"]["_meta"]["outlast/timedOut"], true, "{answer}");
    }
    assert_eq!(peer.count("tools/call"), 5);
    let metrics = front.exchange("GET", "/metrics", &[], b"").await.text();
    for counted in [
        "outlast_upstream_failures_total{server=\"one\"} 5",
        "outlast_upstream_breaker_openings_total{server=\"one\"} 1",
    ] {
        assert!(metrics.contains(counted), "{counted:?} is not in {metrics}");
    }
}

#[tokio::test]
async fn calls_that_their_clients_give_up_say_nothing_about_the_server() {
    let peer = scripted(|_, mut caller: Caller| async move { caller.gone().await }).await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    for n in 1..=6 {
        let _connection = session.send(crate::support::mcp::call(n, "act", json!({}))).await;
        peer.until("tools/call", n).await;
        let cancel = crate::support::mcp::notification("notifications/cancelled", json!({ "requestId": n }));
        assert_eq!(session.post(cancel).await.status(), 202);
        peer.until("notifications/cancelled", n).await;
    }
    let shown = status(&front).await;
    assert_eq!((&shown["remote"]["breaker"], &shown["remote"]["failures"]), (&json!("closed"), &json!(0)));
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirection_to_another_origin() {
    let elsewhere = Peer::start(|_, caller| async move { caller.answer(200, &[], "").await }).await;
    let to = elsewhere.url();
    let peer = Peer::start(move |_, caller: Caller| {
        let to = to.clone();
        async move { caller.answer(307, &[("Location", &to)], "").await }
    })
    .await;
    let front = fronting(&peer.url(), "headers = { Authorization = \"Bearer s3cret-value\" }").await;
    until("a failure", || async { status(&front).await["state"] == "failing" }).await;
    assert!(elsewhere.requests().is_empty(), "{:?}", elsewhere.requests());
    assert!(!front.logs().contains("s3cret-value"));
}

#[tokio::test]
async fn a_redirection_within_the_origin_is_followed() {
    let behind = crate::support::mcp::server().await;
    let address = behind.address();
    let peer = Peer::start(move |request: Request, caller: Caller| async move {
        if request.path == "/mcp/" {
            return caller.answer(307, &[("Location", "/mcp")], "").await;
        }
        caller.pass_to(address, &request).await;
    })
    .await;
    let front = fronting(&format!("{}/", peer.url()), "").await;
    let session = Session::open(&front, LATEST).await;
    assert_eq!(said(&run(&session, "echo", json!({ "message": "x" })).await), "x");
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone_and_called_again_when_it_answers() {
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    let peer = Peer::start(move |request, caller: Caller| {
        let broken = is_broken.load(Ordering::SeqCst);
        async move {
            if broken {
                return caller.answer(502, &[], "").await;
            }
            if let Some(caller) = peer::legacy(&request, caller).await {
                caller.result(&[], text("well")).await;
            }
        }
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    assert_eq!(said(&run(&session, "act", json!({})).await), "well");
    broken.store(true, Ordering::SeqCst);
    until("the breaker opens", || {
        let session = &session;
        async move {
            let answer = run(session, "act", json!({})).await;
            assert_eq!(answer["result"]["isError"], true, "{answer}");
            said(&answer).contains("not called for another")
        }
    })
    .await;
    let shown = status(&front).await;
    assert_eq!(shown["state"], "failing", "{shown}");
    assert!(shown["remote"]["refused"].as_str().unwrap().contains("502"), "{shown}");
    assert!(peer.count("tools/call") <= 6, "{}", peer.count("tools/call"));
    let metrics = front.exchange("GET", "/metrics", &[], b"").await.text();
    assert!(metrics.contains("outlast_upstream_breaker_openings_total{server=\"one\"} 1"), "{metrics}");

    // No call of anybody is the probe.
    let calls = peer.count("tools/call");
    broken.store(false, Ordering::SeqCst);
    until("the breaker closes", || async { status(&front).await["remote"]["breaker"] == "closed" }).await;
    assert_eq!(peer.count("tools/call"), calls);
    until("an answer", || {
        let session = &session;
        async move { said(&run(session, "act", json!({})).await) == "well" }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_a_call_is_named_and_serves_again_after() {
    let mut behind = crate::support::server::Server::start(&["--diagnostics"]).await;
    // It says that it may be run twice: here it shall not be.
    let front = fronting(&url_of(&behind), "tools = { sleep = { retries = 0 } }").await;
    let session = Session::open(&front, LATEST).await;
    let mut connection =
        session.send(crate::support::mcp::call("s", "sleep", json!({ "ms": 600_000 }))).await;
    crate::support::mcp::until_calls(&behind, 1).await;
    behind.kill();
    let head = connection.head().await;
    assert_eq!(head.status, 200);
    let body = String::from_utf8(connection.body().await.to_vec()).unwrap();
    assert!(body.contains("server \\\"one\\\"") && body.contains("broke off"), "{body}");
    let down = run(&session, "echo", json!({ "message": "x" })).await;
    assert!(said(&down).contains("cannot be reached"), "{down}");
    assert_eq!(retry_safe(&down), &json!(true));
    behind.restart().await;
    until("an answer", || {
        let session = &session;
        async move { said(&run(session, "echo", json!({ "message": "x" })).await) == "x" }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_changes_its_era_is_asked_anew() {
    let behind = crate::support::mcp::server().await;
    let address = behind.address();
    let is_modern = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = Arc::clone(&is_modern);
    let peer = Peer::start(move |request, caller: Caller| {
        let modern = switch.load(Ordering::SeqCst);
        async move {
            let claims = request.body.contains("io.modelcontextprotocol/protocolVersion");
            if claims && !modern {
                return caller.error(400, -32000, "Bad Request: Server not initialized").await;
            }
            if !claims && modern {
                return caller.answer(405, &[], "").await;
            }
            caller.pass_to(address, &request).await;
        }
    })
    .await;
    let front = fronting(&peer.url(), "lifetime = \"pool\"").await;
    let session = Session::open(&front, LATEST).await;
    for modern in [false, true, false] {
        is_modern.store(modern, Ordering::SeqCst);
        assert_eq!(said(&run(&session, "echo", json!({ "message": "x" })).await), "x", "{modern}");
        let revision = status(&front).await["revision"].clone();
        assert_eq!(revision, if modern { "2026-07-28" } else { LATEST });
    }
    assert_eq!(said(&run_modern(&front, "echo", json!({ "message": "x" })).await), "x");
}

#[tokio::test]
async fn what_no_server_is_has_a_clear_reason_in_the_status() {
    let html = Peer::start(|_, caller: Caller| async move {
        caller.answer(200, &[("Content-Type", "text/html")], "<html>hello</html>").await;
    })
    .await;
    let front = fronting(&html.url(), "").await;
    until("a reason", || async {
        status(&front).await["listing"].as_str().is_some_and(|why| why.contains("text/html"))
    })
    .await;
    let nobody = fronting("http://127.0.0.1:9/mcp", "").await;
    until("a reason", || async {
        status(&nobody).await["listing"].as_str().is_some_and(|why| why.contains("cannot be reached"))
    })
    .await;
}
