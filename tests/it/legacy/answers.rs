//! The form of an answer: JSON or an event stream, by what the client accepts and by how long it takes.

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::mcp::{
    BOTH, LEGACY, Session, call, initialize, post, request, server, server_with, text, until_calls,
};

const EVENTS: &str = "text/event-stream";
const JSON: &str = "application/json";

/// What a client accepts, and the forms of a short and of a long answer to it.
const FORMS: &[(&str, &str, &str)] = &[
    (BOTH, JSON, EVENTS),
    ("text/event-stream, application/json", JSON, EVENTS),
    ("application/json;q=0.1 ,text/event-stream;q=0.9", JSON, EVENTS),
    ("Application/JSON,TEXT/event-stream", JSON, EVENTS),
    ("-", JSON, EVENTS),
    ("*/*", JSON, EVENTS),
    ("application/json", JSON, JSON),
    ("application/*", JSON, JSON),
    ("application/json, text/html", JSON, JSON),
    ("application/json, text/event-stream;q=0", JSON, JSON),
    ("*/*, text/event-stream;q=0.0", JSON, JSON),
    ("text/*;q=0, */*", JSON, JSON),
    ("text/event-stream", EVENTS, EVENTS),
    ("text/*", EVENTS, EVENTS),
    ("text/event-stream, application/json;q=0", EVENTS, EVENTS),
    ("application/json;q=0, */*;q=0.5", EVENTS, EVENTS),
];

fn form(answer: &Answer) -> &str {
    answer.header("content-type").unwrap_or("none")
}

#[tokio::test]
async fn the_form_of_an_answer_is_one_that_the_client_accepts() {
    // A long call is one that does not end at once.
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "0")]).await;
    let session = Session::open(&server, "2025-11-25").await;
    for (accept, short, long) in FORMS {
        for (what, body) in [
            ("result", call(1, "echo", json!({ "message": "m" }))),
            ("list", request(1, "tools/list", json!({}))),
            ("unknown tool", call(1, "no-such", json!({}))),
            ("bad params", request(1, "tools/call", json!({}))),
            ("unknown method", request(1, "no/such", json!({}))),
        ] {
            let answer = session.post_accepting(accept, body).await;
            assert_eq!((answer.status(), form(&answer)), (200, *short), "{accept}: {what}");
            assert_eq!(answer.json()["id"], 1, "{accept}: {what}");
        }
        let answer = session.post_accepting(accept, call("long", "sleep", json!({ "ms": 1_000 }))).await;
        assert_eq!((answer.status(), form(&answer)), (200, *long), "{accept}: long");
        assert_eq!(text(&answer.json()), "slept 1000 ms", "{accept}");
        let made = post(&server, &[("Accept", accept)], initialize("2025-11-25", json!({}))).await;
        assert_eq!((made.status(), form(&made)), (200, *short), "{accept}: initialize");
        assert!(made.header("mcp-session-id").is_some(), "{accept}");
    }
}

#[tokio::test]
async fn who_accepts_no_form_of_answer_is_told_which_there_are() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for accept in ["text/html", "*/*;q=0", "application/json;q=0", "image/*, text/plain", "json"] {
        let answer = session.post_accepting(accept, request(1, "ping", json!({}))).await;
        assert_eq!(answer.status(), 406, "{accept}");
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains(JSON), "{}", answer.text());
    }
    for accept in [&[("Accept", JSON)][..], &[("Accept", "text/event-stream;q=0")], &[]] {
        let answer = session.exchange("GET", accept).await;
        assert_eq!(answer.status(), 406, "{accept:?}");
        assert!(answer.text().contains(EVENTS), "{}", answer.text());
    }
}

#[tokio::test]
async fn who_accepts_json_alone_gets_the_end_of_a_long_call_and_nothing_before() {
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "0")]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let many = call(1, "emit", json!({ "count": 500, "interval_ms": 0 }));
    let answer = session.post_accepting(JSON, many).await;
    assert_eq!(form(&answer), JSON);
    assert_eq!(text(&answer.json()), "emitted 500 messages");
}

#[tokio::test]
async fn a_call_that_has_something_to_say_streams_however_short_it_is() {
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "60000")]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let answer = session.post(call(1, "emit", json!({ "count": 3 }))).await;
    assert_eq!(form(&answer), EVENTS);
    let messages: Vec<Value> = answer
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .filter(|data| !data.trim().is_empty())
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let numbers: Vec<&Value> = messages.iter().map(|message| &message["params"]["data"]["n"]).collect();
    assert_eq!(numbers, [&json!(1), &json!(2), &json!(3), &Value::Null]);
    // The same call with nothing to say.
    let answer = session.post(call(1, "emit", json!({ "count": 0 }))).await;
    assert_eq!(form(&answer), JSON);
}

#[tokio::test]
async fn only_streams_of_2025_11_25_begin_with_an_event_without_data() {
    let server = server().await;
    for revision in LEGACY {
        let session = Session::open(&server, revision).await;
        let mut stream = session.stream(call(1, "emit", json!({ "count": 2, "interval_ms": 1 }))).await;
        let mut ids = Vec::new();
        let mut first = true;
        while let Some(event) = stream.next_event().await {
            ids.push(event.id.clone().expect("an event id"));
            let primes = first && revision == "2025-11-25";
            assert_eq!(event.data.as_deref() == Some(""), primes, "{revision}: {event:?}");
            assert_eq!(event.retry.is_some(), primes, "{revision}: {event:?}");
            assert!(event.event.as_deref().is_none_or(|name| name == "message"), "{event:?}");
            first = false;
        }
        let distinct: std::collections::HashSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{ids:?}");
        assert_eq!(ids.len(), if revision == "2025-11-25" { 4 } else { 3 });
    }
}

#[tokio::test]
async fn ending_a_session_ends_its_calls_and_their_streams() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    let mut emitting = session.stream(call(1, "emit", json!({ "count": 100_000, "interval_ms": 20 }))).await;
    emitting.next_message().await.unwrap();
    let mut headers = session.headers();
    headers.push(("Accept", EVENTS));
    let mut listening = server.connect().await;
    listening.request("GET", "/mcp", &headers, b"").await;
    assert_eq!(listening.head().await.status, 200);
    session.end().await;
    while let Some(event) = emitting.next_message().await {
        assert_eq!(event.json().get("id"), None, "no response: {event:?}");
    }
    while listening.next_event().await.is_some() {}
    until_calls(&server, 0).await;
}
