//! Calls that stand alone: results, messages on the response's stream, disconnects, questions, handles.

use serde_json::{Value, json};

use crate::support::http::Connection;
use crate::support::mcp::{
    call, claim, claimed, code, mirrors, modern, post, post_on, request, send_on, server, server_with, stats,
    text, until_calls, until_stats,
};
use crate::support::server::Server;

const FOREVER: u64 = 3_600_000;
const SERVER: &str = "io.modelcontextprotocol/serverInfo";

fn params(tool: &str, arguments: Value, meta: Value) -> Value {
    json!({ "name": tool, "arguments": arguments, "_meta": meta })
}

/// Calls a tool whose answer is an event stream.
async fn stream(server: &Server, params: Value) -> Connection {
    let mut connection = server.connect().await;
    let tool = params["name"].as_str().unwrap().to_owned();
    let body = request("s", "tools/call", params);
    let head = post_on(&mut connection, &mirrors("tools/call", Some(&tool)), body).await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"), "{head:?}");
    connection
}

fn with_level(level: &str) -> Value {
    let mut meta = claim(json!({}));
    meta["io.modelcontextprotocol/logLevel"] = json!(level);
    meta
}

#[tokio::test]
async fn a_result_is_complete_and_names_the_server() {
    let server = server().await;
    let answer =
        modern(&server, "e", "tools/call", claimed(params("echo", json!({ "message": "m" }), json!({}))))
            .await;
    let said = answer.json();
    assert_eq!((answer.status(), &said["id"], text(&said)), (200, &json!("e"), "m"));
    assert_eq!(said["result"]["resultType"], "complete");
    assert_eq!(said["result"]["_meta"][SERVER]["name"], "outlast");
    assert_eq!(answer.header("mcp-session-id"), None);
    // A tool's own failure is a result, too.
    let answer =
        modern(&server, "e", "tools/call", claimed(params("sleep", json!({ "ms": "x" }), json!({})))).await;
    let said = answer.json();
    assert_eq!(
        (&said["result"]["isError"], &said["result"]["resultType"]),
        (&json!(true), &json!("complete"))
    );
}

#[tokio::test]
async fn a_call_that_is_no_call_is_bad_params() {
    let server = server().await;
    let meta = || claim(json!({}));
    for (header, params) in [
        ("no-such", json!({ "name": "no-such", "_meta": meta() })),
        ("echo", json!({ "_meta": meta() })),
        ("echo", json!({ "name": "echo", "arguments": [], "_meta": meta() })),
        ("echo", json!({ "name": "echo", "arguments": "m", "_meta": meta() })),
    ] {
        let answer =
            post(&server, &mirrors("tools/call", Some(header)), request("b", "tools/call", params.clone()))
                .await;
        let said = answer.json();
        assert_eq!((answer.status(), code(&said), &said["id"]), (200, -32602, &json!("b")), "{params}");
    }
    let mut odd = meta();
    odd["progressToken"] = json!({});
    let answer = modern(&server, 1, "tools/call", params("sleep", json!({ "ms": 0 }), odd)).await;
    assert_eq!(code(&answer.json()), -32602);
}

#[tokio::test]
async fn log_messages_come_only_where_the_request_asks_for_them() {
    let server = server().await;
    for (meta, wanted) in [
        (claim(json!({})), 0),
        (with_level("debug"), 3),
        (with_level("info"), 3),
        (with_level("warning"), 0),
        (with_level("emergency"), 0),
    ] {
        let answer =
            modern(&server, 1, "tools/call", params("emit", json!({ "count": 3 }), meta.clone())).await;
        assert_eq!(answer.text().matches("notifications/message").count(), wanted, "{meta}");
        assert!(answer.text().matches("\"resultType\":\"complete\"").count() == 1, "{}", answer.text());
    }
}

#[tokio::test]
async fn progress_goes_on_the_response_and_nothing_else_does() {
    let server = server().await;
    let mut meta = claim(json!({}));
    meta["progressToken"] = json!("tok");
    let mut connection = stream(&server, params("sleep", json!({ "ms": 350 }), meta)).await;
    let mut last = 0;
    loop {
        let event = connection.next_event().await.expect("a response");
        assert_eq!((&event.id, &event.retry), (&None, &None), "{event:?}");
        let message = event.json();
        if message.get("id").is_some() {
            assert_eq!((&message["id"], text(&message)), (&json!("s"), "slept 350 ms"));
            assert_eq!(message["result"]["resultType"], "complete");
            break;
        }
        assert_eq!(message["method"], "notifications/progress");
        assert_eq!(message["params"]["progressToken"], "tok");
        let progress = message["params"]["progress"].as_u64().unwrap();
        assert!(progress > last, "{message}");
        last = progress;
    }
    assert!(last > 0);
    assert_eq!(connection.next_event().await, None);
}

#[tokio::test]
async fn closing_the_stream_of_a_call_cancels_it() {
    let server = server().await;
    let arguments = json!({ "count": 100_000, "interval_ms": 20 });
    let mut emitting = stream(&server, params("emit", arguments, with_level("info"))).await;
    emitting.next_message().await.unwrap();
    let sleeping = stream(&server, params("sleep", json!({ "ms": FOREVER }), claim(json!({})))).await;
    assert_eq!(stats(&server).await["calls"], 2);
    drop(emitting);
    drop(sleeping);
    until_stats(&server, "two cancelled calls", |stats| stats["calls"] == 0 && stats["calls_failed"] == 2)
        .await;
}

#[tokio::test]
async fn going_away_before_the_answer_begins_cancels_the_call() {
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "60000")]).await;
    let body = request("s", "tools/call", params("sleep", json!({ "ms": FOREVER }), claim(json!({}))));
    for accept in ["application/json", "application/json, text/event-stream"] {
        let mut connection = server.connect().await;
        let mut headers = mirrors("tools/call", Some("sleep"));
        headers.push(("Accept", accept));
        send_on(&mut connection, &headers, &body).await;
        until_calls(&server, 1).await;
        drop(connection);
        until_calls(&server, 0).await;
    }
}

#[tokio::test]
async fn a_cancel_notification_is_taken_and_cancels_nobody() {
    let server = server().await;
    let _running = stream(&server, params("sleep", json!({ "ms": FOREVER }), claim(json!({})))).await;
    let cancel =
        crate::support::mcp::notification("notifications/cancelled", claimed(json!({ "requestId": "s" })));
    assert_eq!(post(&server, &[], cancel).await.status(), 202);
    // The same id at the same time is no matter: requests know nothing of each other.
    let answer =
        modern(&server, "s", "tools/call", claimed(params("echo", json!({ "message": "m" }), json!({}))))
            .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(stats(&server).await["calls"], 1);
}

#[tokio::test]
async fn a_question_is_a_result_and_its_answer_comes_with_the_call_made_again() {
    let server = server().await;
    let meta = claim(json!({ "elicitation": {} }));
    let asked = params("ask", json!({ "message": "Who?" }), meta.clone());
    let first = modern(&server, 1, "tools/call", asked.clone()).await;
    assert_eq!((first.status(), first.header("content-type")), (200, Some("application/json")));
    let result = first.json()["result"].clone();
    assert_eq!(result["resultType"], "input_required");
    assert_eq!((result.get("ttlMs"), result.get("content")), (None, None));
    let questions = result["inputRequests"].as_object().unwrap();
    assert_eq!(questions.len(), 1);
    let (key, question) = questions.iter().next().unwrap();
    assert_eq!((&question["method"], question.get("id")), (&json!("elicitation/create"), None));
    assert_eq!(question["params"]["message"], "Who?");
    assert_eq!(question["params"]["requestedSchema"]["type"], "object");

    let again = async |responses: Value| {
        let mut params = asked.clone();
        params["inputResponses"] = responses;
        modern(&server, "again", "tools/call", params).await.json()
    };
    let answer = json!({ "action": "accept", "content": { "answer": "me" } });
    let said = again(json!({ key: answer, "other": { "unasked": true } })).await;
    assert_eq!((text(&said), &said["result"]["resultType"]), ("me", &json!("complete")));
    for action in ["decline", "cancel"] {
        let said = again(json!({ key: { "action": action } })).await;
        assert!(text(&said).starts_with(action), "{said}");
    }
    // No answer, or none that can be read: asked again.
    for odd in [
        json!({}),
        json!({ "other": {} }),
        json!({ key: 5 }),
        json!({ key: { "action": "x" } }),
        json!([]),
        json!(null),
    ] {
        let said = again(odd.clone()).await;
        assert_eq!(said["result"]["resultType"], "input_required", "{odd}: {said}");
    }
}

#[tokio::test]
async fn a_question_that_the_client_cannot_put_names_the_capability() {
    let server = server().await;
    for capabilities in [
        json!({}),
        json!({ "sampling": {} }),
        json!({ "elicitation": { "url": {} } }),
        json!({ "elicitation": [] }),
        json!({ "elicitation": null }),
    ] {
        let asked = params("ask", json!({ "message": "?" }), claim(capabilities.clone()));
        let answer = modern(&server, "q", "tools/call", asked).await;
        let said = answer.json();
        assert_eq!((answer.status(), code(&said), &said["id"]), (400, -32021, &json!("q")), "{capabilities}");
        assert!(said["error"]["data"]["requiredCapabilities"]["elicitation"].is_object(), "{said}");
    }
}

#[tokio::test]
async fn a_number_is_kept_under_a_handle_and_by_nothing_else() {
    let server = server().await;
    let count = async |arguments: Value| {
        modern(&server, 1, "tools/call", claimed(params("counter", arguments, json!({})))).await.json()
    };
    let first = count(json!({ "by": 5 })).await["result"]["structuredContent"].clone();
    assert_eq!(first["value"], 5);
    let handle = first["handle"].as_str().unwrap().to_owned();
    assert!(handle.len() >= 22, "at least 122 bits: {handle}");
    let second = count(json!({ "by": 2, "handle": handle })).await["result"]["structuredContent"].clone();
    assert_eq!((&second["value"], second["handle"].as_str()), (&json!(7), Some(handle.as_str())));
    let other = count(json!({})).await["result"]["structuredContent"].clone();
    assert_eq!(other["value"], 1);
    assert_ne!(other["handle"], handle.as_str());
    for wrong in
        ["", "h1_", "nonsense", &handle[..handle.len() - 1], &format!("{handle}a"), &handle.to_uppercase()]
    {
        let said = count(json!({ "handle": wrong })).await;
        assert_eq!(said["result"]["isError"], true, "{wrong:?}: {said}");
        assert!(text(&said).contains("handle"), "{said}");
    }
}

#[tokio::test]
async fn a_handle_is_its_principals_alone() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let config = r#"
[[auth.tokens]]
principal = "alice"
sha256 = "9c220f200955d76c0a38d308225e0ef10c5f971acaf2f8d1d8f732affa5bd1dc"
[[auth.tokens]]
principal = "bob"
sha256 = "97dd3707015dcf069cf73022ed7173b1165db6eff24b441cb57fd069a8c4e525"
"#;
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    let server = crate::support::mcp::server_in(&dir, &[]).await;
    let count = async |who: &str, arguments: Value| {
        let bearer = format!("Bearer {who}-token");
        let mut headers = mirrors("tools/call", Some("counter"));
        headers.push(("Authorization", bearer.as_str()));
        let params = claimed(params("counter", arguments, json!({})));
        post(&server, &headers, request(1, "tools/call", params)).await.json()
    };
    let made = count("alice", json!({})).await;
    let handle = json!({ "handle": made["result"]["structuredContent"]["handle"] });
    assert_eq!(count("bob", handle.clone()).await["result"]["isError"], true);
    assert_eq!(count("alice", handle).await["result"]["structuredContent"]["value"], 2);
}

#[tokio::test]
async fn what_json_can_write_comes_back_as_it_was_written() {
    let server = server().await;
    let meta = claim(json!({}));
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"_meta":{meta},"x":123456789012345678901234567890,"name":"\u0065cho","arguments":{{"message":"\ud800 \u0041"}}}}}}"#
    );
    let answer = post(&server, &mirrors("tools/call", Some("echo")), body).await;
    assert!(answer.text().contains(r#""text":"\ud800 \u0041""#), "{}", answer.text());
}

#[tokio::test]
async fn both_eras_are_served_at_a_time_on_one_connection() {
    let server = server().await;
    let session = crate::support::mcp::Session::open(&server, "2025-11-25").await;
    let mut connection = server.connect().await;
    for round in 0..3 {
        let head = post_on(&mut connection, &session.headers(), call(round, "counter", json!({}))).await;
        assert_eq!(head.status, 200);
        let said: Value = serde_json::from_slice(&connection.body().await).unwrap();
        assert_eq!(text(&said), (round + 1).to_string());
        let alone = claimed(params("counter", json!({}), json!({})));
        let head = post_on(
            &mut connection,
            &mirrors("tools/call", Some("counter")),
            request(round, "tools/call", alone),
        )
        .await;
        assert_eq!(head.status, 200);
        let said: Value = serde_json::from_slice(&connection.body().await).unwrap();
        assert_eq!(said["result"]["structuredContent"]["value"], 1);
    }
}
