//! Errors of a hosted server of the legacy era that have no meaning, or another one, to a client of 2026-07-28.

use serde_json::{Value, json};

use super::{Client, asked};
use crate::children::hosting;
use crate::support::mcp::{Session, code, text};
use crate::support::server::Server;

/// One child for all calls, so that it can count them.
const ONE: &str = "lifetime = \"pool\"\npool_size = 1\nmax_children = 1\n";

async fn server() -> Server {
    hosting(&[("one", ONE, &["--rich"])]).await
}

/// The error that wants a URL opened.
fn sign_in() -> String {
    let urls = json!([{ "mode": "url", "url": "https://example.com/in", "message": "Sign in", "elicitationId": "e1" }]);
    format!(r#""error":{{"code":-32042,"message":"sign in first","data":{{"elicitations":{urls}}}}}"#)
}

/// A client that calls the tool that answers its first `n` calls with `message`, or all for 0.
fn caller<'a>(server: &'a Server, message: &str, n: u64) -> Client<'a> {
    let arguments = json!({ "message": message, "n": n });
    Client { tool: "respond", arguments, ..Client::new(server, &json!([])) }
}

fn answer_all(keys: &[String], action: &str) -> Value {
    keys.iter()
        .map(|key| (key.clone(), json!({ "action": action })))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test]
async fn a_url_that_must_be_opened_first_is_asked_for_and_then_the_call_is_made_again() {
    let server = server().await;
    let client = caller(&server, &sign_in(), 1);
    let first = client.begin().await;
    let (keys, state) = asked(&first);
    assert_eq!(keys.len(), 1);
    let question = &first["result"]["inputRequests"][&keys[0]];
    assert_eq!(question["method"], "elicitation/create");
    assert_eq!(
        question["params"],
        json!({ "mode": "url", "url": "https://example.com/in", "message": "Sign in" })
    );
    let last = client.retry(answer_all(&keys, "accept"), &state).await;
    assert_eq!(text(&last), "at last");
}

#[tokio::test]
async fn a_url_that_the_user_does_not_open_ends_the_call_with_a_tool_error() {
    let server = server().await;
    let client = caller(&server, &sign_in(), 0);
    let (keys, state) = asked(&client.begin().await);
    let last = client.retry(answer_all(&keys, "decline"), &state).await;
    assert_eq!(last["result"]["isError"], true, "{last}");
    assert!(text(&last).contains("sign in first"), "{last}");
}

#[tokio::test]
async fn a_server_that_always_wants_a_url_opened_is_not_followed_for_ever() {
    let server = server().await;
    let client = caller(&server, &sign_in(), 0);
    let mut answer = client.begin().await;
    for _ in 0..4 {
        let (keys, state) = asked(&answer);
        answer = client.retry(answer_all(&keys, "accept"), &state).await;
    }
    assert_eq!(code(&answer), -32603, "{answer}");
}

#[tokio::test]
async fn who_cannot_open_urls_is_told_what_to_declare() {
    let server = server().await;
    let client =
        Client { capabilities: json!({ "elicitation": { "form": {} } }), ..caller(&server, &sign_in(), 0) };
    let answer = client.send(None, None).await;
    assert_eq!((answer.status(), code(&answer.json())), (400, -32021), "{}", answer.text());
    let required = &answer.json()["error"]["data"]["requiredCapabilities"];
    assert_eq!(*required, json!({ "elicitation": { "url": {} } }));
}

#[tokio::test]
async fn codes_of_the_legacy_era_reach_its_clients_alone() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for (given, told) in [(-32002, -32602), (-32042, -32603), (-32077, -32603), (-32000, -32000), (-5, -5)] {
        let message = format!(r#""error":{{"code":{given},"message":"why","data":{{"a":1}}}}"#);
        let params = json!({ "name": "respond", "arguments": { "message": message } });
        let legacy = session.ask(1, "tools/call", params).await;
        assert_eq!(code(&legacy), given);
        let modern = caller(&server, &message, 0).begin().await;
        assert_eq!(code(&modern), told);
        for answer in [legacy, modern] {
            assert_eq!(
                (&answer["error"]["message"], &answer["error"]["data"]),
                (&json!("why"), &json!({ "a": 1 }))
            );
        }
    }
}
