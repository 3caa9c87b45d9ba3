//! `resources/subscribe`: who is told of a change, and that nothing makes the server forget it.

use serde_json::json;

use super::{LATEST, POOL, next, next_of, run, run_in, stream_of};
use crate::children::{hosting, place};
use crate::support::http::Connection;
use crate::support::mcp::{Session, code, notification};
use crate::support::server::Server;
use crate::support::soon;

const UPDATED: &str = "notifications/resources/updated";

async fn subscribe(session: &Session<'_>, uri: &str) {
    let answer = session.ask("subscribe", "resources/subscribe", json!({ "uri": uri })).await;
    assert_eq!(answer["result"], json!({}), "{answer}");
}

/// What a stream carries up to a message that is sent to everybody now.
async fn until_now(server: &Server, stream: &mut Connection) -> Vec<serde_json::Value> {
    let mark = notification("notifications/message", json!({ "level": "info", "data": "now" }));
    assert_eq!(server.admin_exchange("POST", "/admin/broadcast", mark.as_bytes()).await.status(), 200);
    let mut carried = Vec::new();
    loop {
        let message = next(stream).await;
        if message["params"]["data"] == "now" {
            return carried;
        }
        carried.push(message);
    }
}

/// Waits until the child that serves everybody is subscribed to this.
async fn until_subscribed(server: &Server, to: &str) {
    soon("the child's subscriptions", async {
        while run(server, "subscriptions", json!({})).await != to {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn exactly_those_who_subscribed_are_told() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"])]).await;
    let (one, two, none) = (
        Session::open(&server, LATEST).await,
        Session::open(&server, "2024-11-05").await,
        Session::open(&server, LATEST).await,
    );
    subscribe(&one, "a://one").await;
    subscribe(&two, "a://one").await;
    subscribe(&two, "a://one").await;
    subscribe(&none, "a://other").await;
    let mut streams = Vec::new();
    for session in [&one, &two, &none] {
        streams.push(stream_of(&server, session).await);
    }
    run(&server, "touch", json!({ "message": "a://one" })).await;
    for stream in &mut streams[..2] {
        let message = next_of(stream, UPDATED).await;
        assert_eq!(message["params"], json!({ "uri": "a://one" }));
    }
    assert_eq!(until_now(&server, &mut streams[2]).await, Vec::<serde_json::Value>::new());

    // The second one takes it back; the first one still hears, and so does the child stay subscribed.
    let answer = two.ask(2, "resources/unsubscribe", json!({ "uri": "a://one" })).await;
    assert_eq!(answer["result"], json!({}));
    run(&server, "touch", json!({ "message": "a://one" })).await;
    next_of(&mut streams[0], UPDATED).await;
    assert!(until_now(&server, &mut streams[1]).await.iter().all(|message| message["method"] != UPDATED));
    until_subscribed(&server, "a://one a://other").await;

    // The end of the last session that wanted it is the end of the child's subscription.
    one.end().await;
    until_subscribed(&server, "a://other").await;
}

#[tokio::test]
async fn what_is_below_a_subscription_is_news_of_it() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"])]).await;
    let session = Session::open(&server, LATEST).await;
    subscribe(&session, "a://dir").await;
    let mut stream = stream_of(&server, &session).await;
    for uri in ["a://dirt", "a://di", "a://dir/file"] {
        run(&server, "touch", json!({ "message": uri })).await;
    }
    assert_eq!(next_of(&mut stream, UPDATED).await["params"]["uri"], "a://dir/file");
}

#[tokio::test]
async fn a_flood_of_changes_is_told_in_a_few_messages() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"])]).await;
    let session = Session::open(&server, LATEST).await;
    subscribe(&session, "a://one").await;
    // Nobody reads: one announcement waits, however often it is made.
    for _ in 0..5 {
        run(&server, "touch", json!({ "message": "a://one", "n": 2_000 })).await;
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    let mut stream = stream_of(&server, &session).await;
    let first = next_of(&mut stream, UPDATED).await;
    assert_eq!(first["params"]["uri"], "a://one");
    let waiting = until_now(&server, &mut stream).await;
    assert!(waiting.len() <= 1, "{waiting:?}");
    // Once it was taken, the next change is told again.
    run(&server, "touch", json!({ "message": "a://one", "n": 2_000 })).await;
    next_of(&mut stream, UPDATED).await;
}

#[tokio::test]
async fn a_subscription_is_refused_for_what_is_not_there() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"]), ("b", POOL, &["--catalog", "b"])]).await;
    let session = Session::open(&server, LATEST).await;
    let answer = session.ask(1, "resources/subscribe", json!({ "uri": "no://where" })).await;
    assert_eq!((code(&answer), &answer["error"]["data"]["uri"]), (-32002, &json!("no://where")));
    for params in [json!({}), json!({ "uri": 7 }), json!({ "uri": "" }), json!({ "uri": "a\nb" })] {
        for method in ["resources/subscribe", "resources/unsubscribe"] {
            let answer = session.ask(1, method, params.clone()).await;
            assert_eq!(code(&answer), -32602, "{method} {params}");
        }
    }
    // What was never subscribed to can be taken back.
    let answer = session.ask(2, "resources/unsubscribe", json!({ "uri": "a://one" })).await;
    assert_eq!(answer["result"], json!({}));
}

#[tokio::test]
async fn a_subscription_outlasts_the_server() {
    let dir = place(&[("a", POOL, &["--catalog", "a"])]);
    let mut server = Server::start_in(&dir, &[], &[]).await;
    let (id, gone) = {
        let session = Session::open(&server, LATEST).await;
        subscribe(&session, "a://one").await;
        subscribe(&session, "a://two").await;
        let answer = session.ask(2, "resources/unsubscribe", json!({ "uri": "a://two" })).await;
        assert_eq!(answer["result"], json!({}));
        (session.id.clone(), "a://two")
    };
    server.kill();
    server.restart().await;
    let session = Session::known(&server, &id, LATEST);
    let mut stream = stream_of(&server, &session).await;
    // Nobody watched meanwhile, so it counts as changed.
    assert_eq!(next_of(&mut stream, UPDATED).await["params"]["uri"], "a://one");
    until_subscribed(&server, "a://one").await;
    run(&server, "touch", json!({ "message": gone })).await;
    run(&server, "touch", json!({ "message": "a://one" })).await;
    assert_eq!(next_of(&mut stream, UPDATED).await["params"]["uri"], "a://one");
}

#[tokio::test]
async fn a_session_that_left_memory_is_told_again_when_it_is_back() {
    let dir = place(&[("a", POOL, &["--catalog", "a"])]);
    let unload = [("OUTLAST_SESSIONS__UNLOAD_AFTER_SECONDS", "1")];
    let server = Server::start_in(&dir, &["--ephemeral"], &unload).await;
    let session = Session::open(&server, LATEST).await;
    subscribe(&session, "a://one").await;
    // Nothing is kept for it at the child while it is away.
    until_subscribed(&server, "").await;
    let mut stream = stream_of(&server, &session).await;
    assert_eq!(next_of(&mut stream, UPDATED).await["params"]["uri"], "a://one");
    until_subscribed(&server, "a://one").await;
    run(&server, "touch", json!({ "message": "a://one" })).await;
    assert_eq!(next_of(&mut stream, UPDATED).await["params"]["uri"], "a://one");
}

#[tokio::test]
async fn a_gap_in_the_stream_names_what_may_have_changed() {
    let dir = place(&[("a", POOL, &["--catalog", "a"])]);
    let few = [("OUTLAST_STREAMS__MAX_ENTRIES", "4")];
    let server = Server::start_in(&dir, &["--ephemeral"], &few).await;
    let session = Session::open(&server, LATEST).await;
    subscribe(&session, "a://one").await;
    let mut stream = stream_of(&server, &session).await;
    let first = notification("notifications/message", json!({ "level": "info", "data": 0 }));
    let path = format!("/admin/send?sid={}", session.id);
    server.admin_exchange("POST", &path, first.as_bytes()).await;
    let seen = stream.next_message().await.unwrap().id.unwrap();
    drop(stream);
    for number in 1..10 {
        let message = notification("notifications/message", json!({ "level": "info", "data": number }));
        server.admin_exchange("POST", &path, message.as_bytes()).await;
    }
    let mut connection = server.connect().await;
    let mut headers = session.headers();
    headers.extend([("Accept", "text/event-stream"), ("Last-Event-ID", seen.as_str())]);
    connection.request("GET", "/mcp", &headers, b"").await;
    assert_eq!(connection.head().await.status, 200);
    let mut methods = Vec::new();
    for _ in 0..5 {
        methods.push(next(&mut connection).await["method"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        methods,
        [
            "notifications/message",
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/list_changed",
            UPDATED
        ]
    );
}

#[tokio::test]
async fn a_subscription_outlasts_the_child() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"])]).await;
    let session = Session::open(&server, LATEST).await;
    subscribe(&session, "a://one").await;
    let mut stream = stream_of(&server, &session).await;
    run(&server, "exit", json!({ "message": "that was it", "n": 1 })).await;
    // Nobody calls, and still there is a child again that tells.
    assert_eq!(next_of(&mut stream, UPDATED).await["params"]["uri"], "a://one");
    until_subscribed(&server, "a://one").await;
    run(&server, "touch", json!({ "message": "a://one" })).await;
    assert_eq!(next_of(&mut stream, UPDATED).await["params"]["uri"], "a://one");
    // And it is not ended for idleness, though nobody calls it.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(run(&server, "subscriptions", json!({ "message": "all" })).await, "+a://one");
}

#[tokio::test]
async fn a_sessions_own_child_tells_that_session_alone() {
    let server = hosting(&[("a", "lifetime = \"session\"\n", &["--catalog", "a"])]).await;
    let one = Session::open(&server, LATEST).await;
    let two = Session::open(&server, LATEST).await;
    subscribe(&one, "a://one").await;
    subscribe(&two, "a://one").await;
    let mut heard = stream_of(&server, &one).await;
    let mut silent = stream_of(&server, &two).await;
    run_in(&one, "touch", json!({ "message": "a://one" })).await;
    assert_eq!(next_of(&mut heard, UPDATED).await["params"]["uri"], "a://one");
    assert!(until_now(&server, &mut silent).await.iter().all(|message| message["method"] != UPDATED));
}
