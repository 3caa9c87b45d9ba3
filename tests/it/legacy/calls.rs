//! `tools/list` and `tools/call` in a session: what passes, what is refused, progress, cancellation.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::mcp::{
    LEGACY, Session, call, code, notification, request, server, server_with, stats, text, until_calls,
    until_stats,
};

const FOREVER: u64 = 3_600_000;

fn cancel(id: impl Into<Value>) -> String {
    notification("notifications/cancelled", json!({ "requestId": id.into(), "reason": "changed my mind" }))
}

#[tokio::test]
async fn the_tools_are_listed_whole_on_one_page() {
    let server = server().await;
    for revision in LEGACY {
        let session = Session::open(&server, revision).await;
        for params in [json!({}), json!({ "cursor": null }), json!({ "_meta": { "progressToken": 1 } })] {
            let said = session.ask(1, "tools/list", params).await;
            let result = &said["result"];
            assert_eq!(result.get("nextCursor"), None);
            assert_eq!(result.get("ttlMs"), None, "a field of 2026-07-28");
            let tools = result["tools"].as_array().unwrap();
            let names: HashSet<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
            assert_eq!(names.len(), tools.len());
            for name in ["echo", "sleep", "counter", "ask", "emit", "fill"] {
                assert!(names.contains(name), "{name}");
            }
            for tool in tools {
                assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
                assert!(!tool["description"].as_str().unwrap().is_empty(), "{tool}");
            }
        }
    }
}

#[tokio::test]
async fn a_cursor_that_no_page_named_is_refused() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for cursor in [
        json!("page-1"),
        json!("page-0"),
        json!("page--1"),
        json!("page-99999999999999999999999"),
        json!(""),
        json!("nonsense"),
        json!(1),
        json!({}),
        json!(["page-1"]),
    ] {
        let said = session.ask("c", "tools/list", json!({ "cursor": cursor })).await;
        assert_eq!((code(&said), &said["id"]), (-32602, &json!("c")), "{cursor}");
        assert!(said["error"]["message"].as_str().unwrap().contains("cursor"), "{said}");
    }
    let twice = session
        .post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"a","cursor":"b"}}"#);
    assert_eq!(code(&twice.await.json()), -32602);
}

#[tokio::test]
async fn a_call_that_is_no_call_is_refused_with_what_is_wanted() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    let long = "n".repeat(10_000);
    for (params, said) in [
        (json!({ "name": "no-such-tool", "arguments": {} }), "no-such-tool"),
        (json!({ "name": long }), "tools/list"),
        (json!({ "name": "" }), "tools/list"),
        (json!({ "name": "Echo" }), "Echo"),
        (json!({}), "name"),
        (json!({ "arguments": {} }), "name"),
        (json!({ "name": null }), "name"),
        (json!({ "name": 5 }), "name"),
        (json!({ "name": ["echo"] }), "name"),
        (json!({ "name": "echo", "arguments": [] }), "arguments"),
        (json!({ "name": "echo", "arguments": "message" }), "arguments"),
        (json!({ "name": "echo", "arguments": 5 }), "arguments"),
        (json!({ "name": "sleep", "arguments": { "ms": 0 }, "_meta": 5 }), "_meta"),
        (
            json!({ "name": "sleep", "arguments": { "ms": 0 }, "_meta": { "progressToken": {} } }),
            "progressToken",
        ),
        (
            json!({ "name": "sleep", "arguments": { "ms": 0 }, "_meta": { "progressToken": 1.5 } }),
            "progressToken",
        ),
        (
            json!({ "name": "sleep", "arguments": { "ms": 0 }, "_meta": { "progressToken": true } }),
            "progressToken",
        ),
    ] {
        let answer = session.post(request("r", "tools/call", params.clone())).await;
        let error = answer.json();
        assert_eq!((answer.status(), code(&error), &error["id"]), (200, -32602, &json!("r")), "{params}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(said) && message.len() < 500, "{params}: {message}");
    }
    let none = session.post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#).await.json();
    assert_eq!(code(&none), -32602);
    assert_eq!(stats(&server).await["calls"], 0);
}

#[tokio::test]
async fn wrong_arguments_are_for_the_model_to_read() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for (tool, arguments, field) in [
        ("echo", json!({}), "message"),
        ("echo", json!({ "message": 5 }), "message"),
        ("echo", json!({ "message": null }), "message"),
        ("sleep", json!({ "ms": "5" }), "ms"),
        ("sleep", json!({ "ms": -1 }), "ms"),
        ("sleep", json!({ "ms": 1.5 }), "ms"),
        ("sleep", json!({ "ms": 3_600_001 }), "ms"),
        ("counter", json!({ "by": "1" }), "by"),
        ("counter", json!({ "handle": 1 }), "handle"),
        ("emit", json!({ "count": 100_001 }), "count"),
        ("emit", json!({ "count": 1, "interval_ms": {} }), "interval_ms"),
        ("fill", json!({ "bytes": 1_000_000_000 }), "bytes"),
        ("ask", json!({ "message": [] }), "message"),
    ] {
        let said = session.post(call(1, tool, arguments.clone())).await.json();
        assert_eq!(said["result"]["isError"], true, "{tool} {arguments}: {said}");
        assert!(text(&said).contains(field) && text(&said).contains("want"), "{tool} {arguments}: {said}");
    }
    // Not given at all is the same as empty.
    let said = session.ask(1, "tools/call", json!({ "name": "counter" })).await;
    assert_eq!(text(&said), "1");
    let said = session.ask(1, "tools/call", json!({ "name": "counter", "arguments": null })).await;
    assert_eq!(text(&said), "2");
}

#[tokio::test]
async fn what_json_can_write_comes_back_as_it_was_written() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for message in
        [r#""\u0041\/\b""#, r#""\ud83d\ude00""#, r#""\ud800 alone""#, r#""💾 \" \\ ü""#, r#""\u0000""#]
    {
        let body = format!(
            r#" {{ "id" : 1 , "x-unknown":[1.10,1e400,123456789012345678901234567890],
               "params":{{"x":{{"y":[[]]}},"arguments":{{"also":null,"message":{message}}},"name":"\u0065cho"}},
               "method":"tools\/call", "jsonrpc":"2.0" }} "#
        );
        let answer = session.post(&body).await;
        assert!(answer.text().contains(&format!(r#""text":{message}"#)), "{message}: {}", answer.text());
    }
}

#[tokio::test]
async fn an_id_in_use_is_refused_and_free_again_afterwards() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    let other = Session::open(&server, "2025-11-25").await;
    let mut first = session.stream(call("same", "sleep", json!({ "ms": FOREVER }))).await;
    let said = session.post(call("same", "sleep", json!({ "ms": 0 }))).await.json();
    assert_eq!((code(&said), &said["id"]), (-32600, &json!("same")));
    // It is the id of this session only, and the one that runs is not disturbed.
    assert_eq!(text(&other.post(call("same", "echo", json!({ "message": "m" }))).await.json()), "m");
    assert_eq!(stats(&server).await["calls"], 1);
    session.post(cancel("same")).await;
    while first.next_event().await.is_some() {}
    assert_eq!(text(&session.post(call("same", "echo", json!({ "message": "m" }))).await.json()), "m");
}

#[tokio::test]
async fn an_id_is_free_as_soon_as_its_answer_is_there() {
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "0")]).await;
    let session = Session::open(&server, "2025-11-25").await;
    for round in 0..50 {
        let accept = if round % 2 == 0 { "application/json" } else { "text/event-stream" };
        let said = session.post_accepting(accept, call("same", "sleep", json!({ "ms": 1 }))).await.json();
        assert_eq!(text(&said), "slept 1 ms", "{round}");
    }
}

#[tokio::test]
async fn of_many_calls_with_one_id_at_a_time_one_runs() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for round in 0..10 {
        let body = call(round, "sleep", json!({ "ms": FOREVER }));
        let mut sent = Vec::new();
        for _ in 0..12 {
            sent.push(session.send(&body).await);
        }
        let mut running = Vec::new();
        for mut connection in sent {
            let head = connection.head().await;
            if head.header("content-type") == Some("text/event-stream") {
                running.push(connection);
                continue;
            }
            let said: Value = serde_json::from_slice(&connection.body().await).unwrap();
            assert_eq!(code(&said), -32600, "{said}");
        }
        assert_eq!(running.len(), 1);
        assert_eq!(session.post(cancel(round)).await.status(), 202);
        while running[0].next_event().await.is_some() {}
        until_calls(&server, 0).await;
    }
}

#[tokio::test]
async fn cancelling_a_call_ends_its_stream_without_a_response() {
    let server = server().await;
    for revision in LEGACY {
        let session = Session::open(&server, revision).await;
        let arguments = json!({ "count": 100_000, "interval_ms": 20 });
        let mut stream = session.stream(call("c", "emit", arguments)).await;
        assert_eq!(stream.next_message().await.unwrap().json()["method"], "notifications/message");
        assert_eq!(session.post(cancel("c")).await.status(), 202);
        while let Some(event) = stream.next_message().await {
            assert_eq!(event.json()["method"], "notifications/message", "{revision}: {event:?}");
        }
        until_calls(&server, 0).await;
    }
}

#[tokio::test]
async fn a_call_that_is_cancelled_before_it_streams_is_answered_by_an_empty_stream() {
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "60000")]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let mut waiting = session.send(call("c", "sleep", json!({ "ms": FOREVER }))).await;
    until_calls(&server, 1).await;
    session.post(cancel("c")).await;
    let head = waiting.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(waiting.body().await, b"");
}

#[tokio::test]
async fn only_the_call_that_is_named_in_its_own_session_is_cancelled() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    let other = Session::open(&server, "2025-11-25").await;
    let mut streams = Vec::new();
    for id in [json!(7), json!("7"), json!("8")] {
        streams.push(session.stream(call(id, "sleep", json!({ "ms": FOREVER }))).await);
    }
    for id in [json!(7), json!("7"), json!("8")] {
        assert_eq!(other.post(cancel(id)).await.status(), 202);
    }
    assert_eq!(session.post(cancel("70")).await.status(), 202);
    assert_eq!(stats(&server).await["calls"], 3);
    session.post(cancel("7")).await;
    while streams[1].next_event().await.is_some() {}
    until_calls(&server, 2).await;
    let said = session.post(call(7, "sleep", json!({ "ms": 0 }))).await.json();
    assert_eq!(code(&said), -32600, "the number still runs: {said}");
}

#[tokio::test]
async fn a_lost_connection_cancels_nothing() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    let mut stream = session.stream(call("c", "emit", json!({ "count": 5, "interval_ms": 60 }))).await;
    stream.next_message().await.unwrap();
    drop(stream);
    until_stats(&server, "the end of the call", |stats| stats["calls"] == 0 && stats["calls_ok"] == 1).await;
}

#[tokio::test]
async fn progress_carries_the_token_of_its_call_and_grows() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for token in [json!("tok"), json!(0), json!("")] {
        let params =
            json!({ "name": "sleep", "arguments": { "ms": 350 }, "_meta": { "progressToken": token } });
        let mut stream = session.stream(request("p", "tools/call", params)).await;
        let mut last = 0;
        loop {
            let message = stream.next_message().await.unwrap().json();
            if message["id"] == "p" {
                assert_eq!(text(&message), "slept 350 ms");
                break;
            }
            assert_eq!(message["method"], "notifications/progress");
            assert_eq!(message["params"]["progressToken"], token);
            let progress = message["params"]["progress"].as_u64().unwrap();
            assert!(progress > last && message["params"]["total"] == 350, "{message}");
            last = progress;
        }
        assert!(last > 0);
        assert_eq!(stream.next_event().await, None, "the response is the end");
    }
    let mut stream = session.stream(call("p", "sleep", json!({ "ms": 250 }))).await;
    assert_eq!(stream.next_message().await.unwrap().json()["id"], "p", "no token, no progress");
}
