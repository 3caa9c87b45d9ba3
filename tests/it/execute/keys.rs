//! Calls that were lost, made again: by a key, or because they are equal.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{call_with, file, hosting, keyed, place, runs, until_runs};
use crate::redis::Redis;
use crate::shared::until_mode;
use crate::support::mcp::{Session, call, claim, code, mirrors, modern, request, send_on, text, until_calls};
use crate::support::server::Server;

const INTERRUPTED: &str = "interrupted";

fn modern_keyed(file: &std::path::Path, n: u64, key: &str) -> Value {
    let mut meta = claim(json!({}));
    meta["io.outlast/idempotencyKey"] = json!(key);
    json!({ "name": "tally", "arguments": { "message": file, "n": n }, "_meta": meta })
}

#[tokio::test]
async fn a_call_with_a_key_runs_once_whoever_of_its_principal_makes_it_again() {
    let mut server = Server::start_in(&place("", ""), &[], &[]).await;
    let file = file(&server);
    let arguments = json!({ "message": file, "n": 0 });
    let first = Session::open(&server, "2025-11-25").await;
    let other = Session::open(&server, "2025-06-18").await;
    for (n, session) in [&first, &first, &other].into_iter().enumerate() {
        let told = session.post(keyed(n as u64, "tally", arguments.clone(), "k1")).await.json();
        assert_eq!((text(&told), &told["id"]), ("1", &json!(n)), "{told}");
    }
    let told = modern(&server, 1, "tools/call", modern_keyed(&file, 0, "k1")).await.json();
    assert_eq!(text(&told), "1", "{told}");
    assert_eq!(runs(&file), 1);
    for (tool, arguments) in
        [("tally", json!({ "message": file, "n": 1 })), ("tally_safe", arguments.clone())]
    {
        let told = first.post(keyed(5, tool, arguments, "k1")).await.json();
        assert_eq!(
            (code(&told), &told["error"]["data"]["reason"]),
            (-32_602, &json!("idempotencyKey")),
            "{told}"
        );
    }
    let told = first.post(keyed(6, "tally", arguments.clone(), "k2")).await.json();
    assert_eq!(text(&told), "2", "another key is another call: {told}");
    let odd =
        first.post(call_with(7, "tally", arguments.clone(), json!({ "io.outlast/idempotencyKey": 7 }))).await;
    assert_eq!(code(&odd.json()), -32_602);
    // What came of it is on the disk before it is told.
    server.kill();
    server.restart().await;
    let session = Session::open(&server, "2025-11-25").await;
    let told = session.post(keyed(8, "tally", arguments, "k1")).await.json();
    assert_eq!((text(&told), runs(&file)), ("1", 2), "{told}");
}

#[tokio::test]
async fn callers_of_one_key_wait_for_the_same_call_each_with_its_own_progress_and_may_leave() {
    let server = hosting("", "").await;
    let file = file(&server);
    let session = Session::open(&server, "2025-11-25").await;
    let arguments = json!({ "message": file, "n": 30 });
    let with = |id: u64, token: &str| {
        let meta = json!({ "io.outlast/idempotencyKey": "k", "progressToken": token });
        call_with(id, "tally", arguments.clone(), meta)
    };
    let mut first = session.stream(with(1, "one")).await;
    until_runs(&file, 1).await;
    let mut second = session.stream(with(2, "two")).await;
    let token = |event: &Value| event["params"]["progressToken"].clone();
    assert_eq!(token(&first.next_message().await.unwrap().json()), "one");
    assert_eq!(token(&second.next_message().await.unwrap().json()), "two");
    // The one who began it is told to stop, and the other one gets the answer.
    let cancelled = json!({ "requestId": 1 });
    session.post(crate::support::mcp::notification("notifications/cancelled", cancelled)).await;
    let last = loop {
        let event = second.next_message().await.unwrap().json();
        if event.get("id").is_some() {
            break event;
        }
        assert_eq!(token(&event), "two", "{event}");
    };
    assert_eq!((&last["id"], text(&last), runs(&file)), (&json!(2), "1", 1), "{last}");
    until_calls(&server, 0).await;
}

#[tokio::test]
async fn a_modern_call_whose_connection_broke_is_collected_by_its_key() {
    let server = hosting("", "").await;
    let file = file(&server);
    let params = modern_keyed(&file, 20, "k");
    let mut connection = server.connect().await;
    send_on(&mut connection, &mirrors("tools/call", Some("tally")), request(1, "tools/call", params.clone()))
        .await;
    until_runs(&file, 1).await;
    drop(connection);
    until_calls(&server, 0).await;
    let told = modern(&server, 2, "tools/call", params).await.json();
    assert_eq!((text(&told), runs(&file)), ("1", 1), "{told}");
    // Without a key the end of the connection is the end of the call.
    let mut connection = server.connect().await;
    let plain = json!({ "name": "never", "arguments": {}, "_meta": claim(json!({})) });
    send_on(&mut connection, &mirrors("tools/call", Some("never")), request(3, "tools/call", plain)).await;
    until_calls(&server, 1).await;
    drop(connection);
    until_calls(&server, 0).await;
}

#[tokio::test]
async fn a_call_with_a_key_that_was_running_when_the_server_was_killed_is_run_again_only_where_it_may_be() {
    let mut server = Server::start_in(&place("", ""), &[], &[]).await;
    let (safe, not) = (server.dir().join("safe"), server.dir().join("not"));
    let id = Session::open(&server, "2025-11-25").await.id;
    {
        let session = Session::known(&server, &id, "2025-11-25");
        let _one = session.send(keyed(1, "tally_safe", json!({ "message": safe, "n": 400 }), "s")).await;
        let _two = session.send(keyed(2, "tally", json!({ "message": not, "n": 400 }), "n")).await;
        until_runs(&safe, 1).await;
        until_runs(&not, 1).await;
    }
    server.kill();
    server.restart().await;
    let session = Session::known(&server, &id, "2025-11-25");
    let told = session.post(keyed(4, "tally", json!({ "message": not, "n": 400 }), "n")).await.json();
    assert_eq!((&told["error"]["data"]["reason"], runs(&not)), (&json!(INTERRUPTED), 1), "{told}");
    let _again = session.send(keyed(3, "tally_safe", json!({ "message": safe, "n": 400 }), "s")).await;
    until_runs(&safe, 2).await;
}

#[tokio::test]
async fn a_call_without_a_key_that_was_running_when_the_server_was_killed_is_run_again_only_where_it_may_be()
{
    let mut server = Server::start_in(&place("", ""), &[], &[]).await;
    let (safe, not) = (server.dir().join("safe"), server.dir().join("not"));
    let id = Session::open(&server, "2025-11-25").await.id;
    let mut last = Vec::new();
    {
        let session = Session::known(&server, &id, "2025-11-25");
        for (id, tool, file) in [(1, "tally_safe", &safe), (2, "tally", &not)] {
            let meta = json!({ "progressToken": id });
            let arguments = json!({ "message": file, "n": 100 });
            let mut stream = session.stream(call_with(id, tool, arguments, meta)).await;
            let event = stream.next_event().await.unwrap();
            until_runs(file, 1).await;
            last.push(event.id.unwrap());
        }
    }
    server.kill();
    server.restart().await;
    let session = Session::known(&server, &id, "2025-11-25");
    let end = async |last: &str| {
        let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", last)];
        session.exchange("GET", &headers).await.json()
    };
    let told = end(&last[1]).await;
    assert_eq!((&told["error"]["data"]["reason"], runs(&not)), (&json!(INTERRUPTED), 1), "{told}");
    let told = end(&last[0]).await;
    assert_eq!((&told["id"], text(&told), runs(&safe)), (&json!(1), "2", 2), "{told}");
}

#[tokio::test]
async fn equal_calls_of_a_tool_that_may_be_repeated_become_one_within_the_window() {
    let server = hosting("join_window_seconds = 3600", "").await;
    let (safe, not) = (server.dir().join("safe"), server.dir().join("not"));
    let session = Session::open(&server, "2025-11-25").await;
    let body =
        |id: u64, tool: &str, file: &std::path::Path| call(id, tool, json!({ "message": file, "n": 4 }));
    let both =
        tokio::join!(session.post(body(1, "tally_safe", &safe)), session.post(body(2, "tally_safe", &safe)));
    assert_eq!((text(&both.0.json()), text(&both.1.json())), ("1", "1"));
    assert_eq!(text(&session.post(body(3, "tally_safe", &safe)).await.json()), "1");
    let other = session.post(call(4, "tally_safe", json!({ "message": safe, "n": 3 }))).await.json();
    assert_eq!(text(&other), "2", "other arguments: {other}");
    for id in 5..=6 {
        session.post(body(id, "tally", &not)).await;
    }
    assert_eq!((runs(&safe), runs(&not)), (2, 2));
    // Unless it is asked for, nothing is joined.
    let server = hosting("", "").await;
    let session = Session::open(&server, "2025-11-25").await;
    for id in 1..=2 {
        session.post(body(id, "tally_safe", &file(&server))).await;
    }
    assert_eq!(runs(&file(&server)), 2);
}

#[tokio::test]
async fn a_key_is_one_on_all_instances_that_share_a_store_and_local_while_it_is_away() {
    let mut redis = Redis::start();
    let place = |name: &str| {
        let dir = place("", "");
        (name.to_owned(), dir)
    };
    let start = |(_, dir): (String, Arc<tempfile::TempDir>), url: String| async move {
        Server::start_in(&dir, &["--redis", &url], &[]).await
    };
    let (a, b) = tokio::join!(start(place("a"), redis.url()), start(place("b"), redis.url()));
    until_mode(&a, "redis").await;
    until_mode(&b, "redis").await;
    let shared = tempfile::tempdir().unwrap();
    let file = shared.path().join("tally");
    let (one, two) = (Session::open(&a, "2025-11-25").await, Session::open(&b, "2025-11-25").await);
    let body = |id: u64, n: u64, key: &str| keyed(id, "tally", json!({ "message": file, "n": n }), key);
    // Run on one, collected on the other.
    assert_eq!(text(&one.post(body(1, 0, "k")).await.json()), "1");
    assert_eq!(text(&two.post(body(1, 0, "k")).await.json()), "1");
    // Running on one, waited for on the other.
    let running = one.post(body(2, 20, "l"));
    let joined = async {
        until_runs(&file, 2).await;
        two.post(body(2, 20, "l")).await
    };
    let (running, joined) = tokio::join!(running, joined);
    assert_eq!((text(&running.json()), text(&joined.json()), runs(&file)), ("2", "2", 2));
    redis.kill();
    let told = one.post(body(3, 0, "m")).await.json();
    assert_eq!((text(&told), runs(&file)), ("3", 3), "{told}");
    assert_eq!(text(&one.post(body(4, 0, "m")).await.json()), "3");
}
