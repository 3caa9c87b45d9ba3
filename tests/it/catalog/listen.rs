//! `subscriptions/listen` of 2026-07-28.

use serde_json::{Value, json};

use super::{POOL, next, next_of, run};
use crate::children::{hosting, place};
use crate::redis::Redis;
use crate::shared::until_mode;
use crate::support::http::Connection;
use crate::support::mcp::{claimed, code, mirrors, modern, post, post_on, request};
use crate::support::server::Server;
use crate::support::soon;

const KEY: &str = "io.modelcontextprotocol/subscriptionId";

async fn listen(server: &Server, id: Value, wanted: Value) -> Connection {
    let mut connection = server.connect().await;
    let body = request(id, "subscriptions/listen", claimed(json!({ "notifications": wanted })));
    let head = post_on(&mut connection, &mirrors("subscriptions/listen", None), body).await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    connection
}

/// The first message of a stream: what it honours.
async fn acknowledged(stream: &mut Connection, id: &Value) -> Value {
    let first = next(stream).await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(&first["params"]["_meta"][KEY], id);
    assert!(first.get("id").is_none(), "{first}");
    first["params"]["notifications"].clone()
}

#[tokio::test]
async fn only_what_was_asked_for_is_told_with_the_streams_own_id() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"])]).await;
    let prompts = json!({ "promptsListChanged": true, "toolsListChanged": false, "unknown": 1 });
    let resources =
        json!({ "resourcesListChanged": true, "resourceSubscriptions": ["a://one", "no://where"] });
    let mut one = listen(&server, json!(7), prompts).await;
    let mut two = listen(&server, json!("7"), resources).await;
    assert_eq!(acknowledged(&mut one, &json!(7)).await, json!({ "promptsListChanged": true }));
    let honoured = acknowledged(&mut two, &json!("7")).await;
    assert_eq!(honoured, json!({ "resourcesListChanged": true, "resourceSubscriptions": ["a://one"] }));

    run(&server, "touch", json!({ "message": "a://one" })).await;
    let message = next(&mut two).await;
    assert_eq!(message["method"], "notifications/resources/updated");
    assert_eq!(message["params"], json!({ "uri": "a://one", "_meta": { KEY: "7" } }));

    // Both lists change; each stream hears of its own.
    run(&server, "more", json!({ "message": "prompts" })).await;
    for (stream, id, method) in [
        (&mut one, json!(7), "notifications/prompts/list_changed"),
        (&mut two, json!("7"), "notifications/resources/list_changed"),
    ] {
        let message = next(stream).await;
        assert_eq!((&message["method"], &message["params"]["_meta"][KEY]), (&json!(method), &id));
    }

    // The subscription ends with its connection.
    assert_eq!(run(&server, "subscriptions", json!({})).await, "a://one");
    drop(two);
    soon("the end of the subscription", async {
        while !run(&server, "subscriptions", json!({})).await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_listens_on_one_instance_is_told_what_changed_on_another() {
    let redis = Redis::start();
    let servers: [(&str, &str, &[&str]); 1] = [("a", POOL, &["--catalog", "a"])];
    let url = redis.url();
    let there = Server::start_in(&place(&servers), &["--redis", &url], &[]).await;
    let here = Server::start_in(&place(&servers), &["--redis", &url], &[]).await;
    until_mode(&there, "redis").await;
    until_mode(&here, "redis").await;
    let wanted = json!({ "promptsListChanged": true, "resourceSubscriptions": ["a://one"] });
    let mut stream = listen(&here, json!(1), wanted).await;
    acknowledged(&mut stream, &json!(1)).await;
    // Children are of one instance, and tell that instance of what somebody there subscribed to.
    let mut theirs = listen(&there, json!(2), json!({ "resourceSubscriptions": ["a://one"] })).await;
    acknowledged(&mut theirs, &json!(2)).await;
    run(&there, "touch", json!({ "message": "a://one" })).await;
    let message = next_of(&mut stream, "notifications/resources/updated").await;
    assert_eq!(message["params"]["uri"], "a://one");
    run(&there, "more", json!({ "message": "prompts" })).await;
    next_of(&mut stream, "notifications/prompts/list_changed").await;
}

#[tokio::test]
async fn what_no_server_has_is_not_acknowledged() {
    let server = hosting(&[("plain", POOL, &[])]).await;
    let wanted = json!({
        "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true,
        "resourceSubscriptions": ["a://one"],
    });
    let mut stream = listen(&server, json!(1), wanted).await;
    assert_eq!(acknowledged(&mut stream, &json!(1)).await, json!({ "toolsListChanged": true }));
    run(&server, "change", json!({})).await;
    assert_eq!(next(&mut stream).await["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn a_drain_ends_the_stream_without_a_result_so_that_its_client_listens_again() {
    let mut server = hosting(&[("a", POOL, &["--catalog", "a"])]).await;
    let mut stream = listen(&server, json!(1), json!({ "toolsListChanged": true })).await;
    acknowledged(&mut stream, &json!(1)).await;
    server.term().await;
    assert_eq!(stream.next_message().await, None);
}

#[tokio::test]
async fn a_request_that_cannot_be_understood_is_refused() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"])]).await;
    let many: Vec<String> = (0..1_001).map(|n| format!("a://{n}")).collect();
    for params in [
        json!({}),
        json!({ "notifications": 1 }),
        json!({ "notifications": { "toolsListChanged": "yes" } }),
        json!({ "notifications": { "resourceSubscriptions": "a://one" } }),
        json!({ "notifications": { "resourceSubscriptions": [""] } }),
        json!({ "notifications": { "resourceSubscriptions": many } }),
    ] {
        let answer = modern(&server, 1, "subscriptions/listen", claimed(params)).await;
        assert_eq!((answer.status(), code(&answer.json())), (200, -32602), "{}", answer.text());
    }
    let mut headers = mirrors("subscriptions/listen", None);
    headers.push(("Accept", "application/json"));
    let body = request(1, "subscriptions/listen", claimed(json!({ "notifications": {} })));
    let answer = post(&server, &headers, body).await;
    assert_eq!((answer.status(), code(&answer.json())), (406, -32600));
}
