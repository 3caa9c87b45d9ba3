//! Questions to the client in the middle of a call.

use serde_json::{Value, json};

use crate::support::http::Connection;
use crate::support::mcp::{Session, call, notification, server, server_with, text, until_calls};

const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

async fn asking<'a>(server: &'a crate::support::server::Server, revision: &str) -> Session<'a> {
    Session::open_with(server, revision, json!({ "elicitation": {} })).await
}

/// Calls `ask`: the call's stream, and the question on it.
async fn asked(session: &Session<'_>, id: &str) -> (Connection, Value) {
    let mut stream = session.stream(call(id, "ask", json!({ "message": "Who \u{1f4be} are you?" }))).await;
    let question = stream.next_message().await.expect("a question").json();
    assert_eq!(question["method"], "elicitation/create");
    (stream, question)
}

fn response(question: &Value, result: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": question["id"], "result": result }).to_string()
}

#[tokio::test]
async fn a_question_goes_on_the_calls_stream_and_is_answered_on_another_connection() {
    let server = server().await;
    for revision in REVISIONS {
        let session = asking(&server, revision).await;
        let (mut stream, question) = asked(&session, "a").await;
        assert!(question["id"].is_string() && question["jsonrpc"] == "2.0", "{question}");
        assert_eq!(question["params"]["message"], "Who \u{1f4be} are you?");
        assert_eq!(question["params"].get("mode"), None, "2025-06-18 has no modes; none means form");
        let schema = &question["params"]["requestedSchema"];
        assert_eq!(
            (&schema["type"], &schema["properties"]["answer"]["type"]),
            (&json!("object"), &json!("string"))
        );
        let said = json!({ "action": "accept", "content": { "answer": "Jérôme", "more": 1 } });
        let taken = session.post(response(&question, &said)).await;
        assert_eq!((taken.status(), taken.text()), (202, String::new()));
        let end = stream.next_message().await.unwrap().json();
        assert_eq!((&end["id"], text(&end)), (&json!("a"), "Jérôme"));
        assert_eq!(stream.next_event().await, None);
        // A second answer is one that nobody waits for.
        assert_eq!(session.post(response(&question, &said)).await.status(), 202);
    }
}

#[tokio::test]
async fn the_user_may_decline_or_turn_away() {
    let server = server().await;
    let session = asking(&server, "2025-11-25").await;
    for (action, wanted) in [("decline", "declined"), ("cancel", "cancelled")] {
        let (mut stream, question) = asked(&session, action).await;
        session.post(response(&question, &json!({ "action": action }))).await;
        assert_eq!(text(&stream.next_message().await.unwrap().json()), wanted);
    }
}

#[tokio::test]
async fn an_answer_that_is_an_error_or_nonsense_ends_the_call_with_a_tool_error() {
    let server = server().await;
    let session = asking(&server, "2025-06-18").await;
    for outcome in [
        r#""error":{"code":-32601,"message":"cannot do that"}"#,
        r#""error":{"code":-1,"message":"refused","data":{"n":123456789012345678901234567890}}"#,
        r#""error":{"code":99999999999,"message":"no such code"}"#,
        r#""error":"odd""#,
        r#""result":{}"#,
        r#""result":null"#,
        r#""result":{"action":"accept"}"#,
        r#""result":{"action":"perhaps"}"#,
        r#""result":{"action":"accept","content":{"answer":5}}"#,
    ] {
        let (mut stream, question) = asked(&session, "e").await;
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},{outcome}}}"#, question["id"]);
        assert_eq!(session.post(&body).await.status(), 202, "{outcome}");
        let end = stream.next_message().await.unwrap().json();
        assert_eq!((&end["id"], &end["result"]["isError"]), (&json!("e"), &json!(true)), "{outcome}: {end}");
        assert!(!text(&end).is_empty());
    }
}

#[tokio::test]
async fn the_answer_of_another_session_is_no_answer() {
    let server = server().await;
    let session = asking(&server, "2025-11-25").await;
    let stranger = asking(&server, "2025-11-25").await;
    let (mut stream, question) = asked(&session, "a").await;
    let forged = json!({ "action": "accept", "content": { "answer": "forged" } });
    assert_eq!(stranger.post(response(&question, &forged)).await.status(), 202);
    let real = json!({ "action": "accept", "content": { "answer": "real" } });
    session.post(response(&question, &real)).await;
    assert_eq!(text(&stream.next_message().await.unwrap().json()), "real");
}

#[tokio::test]
async fn a_client_that_did_not_declare_it_is_not_asked() {
    let server = server().await;
    for capabilities in [
        json!({}),
        json!({ "sampling": {}, "roots": {} }),
        json!({ "elicitation": { "url": {} } }),
        json!({ "elicitation": "yes" }),
        json!({ "elicitation": [{}, {}] }),
        json!({ "elicitation": null }),
    ] {
        let session = Session::open_with(&server, "2025-11-25", capabilities.clone()).await;
        let answer = session.post(call(1, "ask", json!({ "message": "?" }))).await;
        assert!(!answer.text().contains("elicitation/create\",\"params"), "{}", answer.text());
        let said = answer.json();
        assert_eq!(said["result"]["isError"], true, "{capabilities}: {said}");
        assert!(text(&said).contains("elicitation"), "{said}");
    }
}

#[tokio::test]
async fn a_client_that_takes_no_stream_is_told_that_it_cannot_be_asked() {
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "0")]).await;
    let session = asking(&server, "2025-11-25").await;
    let answer = session.post_accepting("application/json", call(1, "ask", json!({ "message": "?" }))).await;
    let said = answer.json();
    assert_eq!(said["result"]["isError"], true, "{said}");
    until_calls(&server, 0).await;
}

#[tokio::test]
async fn cancelling_a_call_gives_its_question_up() {
    let server = server().await;
    let session = asking(&server, "2025-11-25").await;
    let (mut stream, question) = asked(&session, "c").await;
    session.post(notification("notifications/cancelled", json!({ "requestId": "c" }))).await;
    assert_eq!(stream.next_message().await, None);
    until_calls(&server, 0).await;
    let late = json!({ "action": "accept", "content": { "answer": "late" } });
    assert_eq!(session.post(response(&question, &late)).await.status(), 202);
}

#[tokio::test]
async fn two_questions_at_a_time_get_each_its_own_answer() {
    let server = server().await;
    let session = asking(&server, "2025-11-25").await;
    let (mut one, first) = asked(&session, "one").await;
    let (mut two, second) = asked(&session, "two").await;
    assert_ne!(first["id"], second["id"]);
    let said = |answer: &str| json!({ "action": "accept", "content": { "answer": answer } });
    session.post(response(&second, &said("2"))).await;
    session.post(response(&first, &said("1"))).await;
    assert_eq!(text(&one.next_message().await.unwrap().json()), "1");
    assert_eq!(text(&two.next_message().await.unwrap().json()), "2");
}
