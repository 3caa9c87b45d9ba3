//! Arrays of messages: in sessions of 2025-03-26 alone.

use serde_json::{Value, json};

use crate::support::mcp::{
    Session, call, claim, code, initialize, notification, request, server, server_with, text, until_calls,
};

fn ping(id: impl Into<Value>) -> String {
    request(id, "ping", json!({}))
}

fn batch(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}

/// The element of an answer that has this id.
fn of(answer: &Value, id: impl Into<Value>) -> Value {
    let id = id.into();
    let mut found = answer.as_array().unwrap().iter().filter(|element| element["id"] == id);
    let element = found.next().unwrap_or_else(|| panic!("nothing for {id} in {answer}")).clone();
    assert!(found.next().is_none(), "{id} is answered twice: {answer}");
    element
}

#[tokio::test]
async fn requests_are_answered_and_notifications_and_responses_are_taken() {
    let server = server().await;
    let session = Session::open(&server, "2025-03-26").await;
    let answer = session
        .post(batch(&[
            ping(1),
            notification("notifications/roots/list_changed", json!({})),
            request("two", "no/such", json!({})),
            r#"{"jsonrpc":"2.0","id":"x","result":{}}"#.into(),
            call(3, "echo", json!({ "message": "in a batch" })),
            request(4, "tools/list", json!({})),
            call(5, "no-such-tool", json!({})),
        ]))
        .await;
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")));
    let said = answer.json();
    assert_eq!(said.as_array().unwrap().len(), 5, "{said}");
    assert_eq!(of(&said, 1)["result"], json!({}));
    assert_eq!(code(&of(&said, "two")), -32601);
    assert_eq!(text(&of(&said, 3)), "in a batch");
    assert!(of(&said, 4)["result"]["tools"].is_array());
    assert_eq!(code(&of(&said, 5)), -32602);
}

#[tokio::test]
async fn a_batch_without_requests_is_accepted_without_a_body() {
    let server = server().await;
    let session = Session::open(&server, "2025-03-26").await;
    let note = notification("notifications/roots/list_changed", json!({}));
    let response = r#"{"jsonrpc":"2.0","id":"x","result":{}}"#.to_owned();
    for items in
        [vec![note.clone()], vec![note.clone(), note.clone()], vec![response.clone(), response, note]]
    {
        let answer = session.post(batch(&items)).await;
        assert_eq!((answer.status(), answer.text()), (202, String::new()));
    }
}

#[tokio::test]
async fn an_empty_batch_and_one_that_is_too_long_are_refused() {
    let server = server().await;
    let session = Session::open(&server, "2025-03-26").await;
    for body in ["[]".to_owned(), " [ ] ".to_owned(), batch(&vec![ping(1); 101])] {
        let answer = session.post(&body).await;
        assert_eq!((answer.status(), code(&answer.json())), (400, -32600), "{}", answer.text());
        assert!(answer.text().contains("1 to 100"), "{}", answer.text());
    }
    let most: Vec<String> = (0..100).map(ping).collect();
    let answer = session.post(batch(&most)).await;
    assert_eq!(answer.json().as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn every_element_that_is_no_message_is_answered_with_an_error() {
    let server = server().await;
    let session = Session::open(&server, "2025-03-26").await;
    let odd = ["1", "null", "\"x\"", "{}", r#"{"jsonrpc":"2.0","method":1,"id":9}"#, "[]", "[[]]"];
    for odd in odd.into_iter().chain([r#"["2.0",2,"ping",{},null,null]"#, r#"["2.0",2,"ping"]"#]) {
        let said = session.post(batch(&[ping(1), odd.into()])).await.json();
        assert_eq!(said.as_array().unwrap().len(), 2, "{odd}: {said}");
        assert_eq!(of(&said, 1)["result"], json!({}));
        let other = said.as_array().unwrap().iter().find(|element| element["id"] != 1).unwrap();
        assert_eq!(code(other), -32600, "{odd}: {said}");
    }
    let broken = session.post(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"#).await;
    assert_eq!((broken.status(), code(&broken.json())), (400, -32700));
}

#[tokio::test]
async fn initialize_has_no_place_in_a_batch() {
    let server = server().await;
    let session = Session::open(&server, "2025-03-26").await;
    let answer = session.post(batch(&[ping(1), initialize("2025-03-26", json!({}))])).await;
    assert_eq!(answer.header("mcp-session-id"), None);
    let said = answer.json();
    assert_eq!(code(&of(&said, "init")), -32600);
    assert_eq!(of(&said, 1)["result"], json!({}));
}

#[tokio::test]
async fn a_claim_of_the_modern_revision_refuses_the_whole_batch() {
    let server = server().await;
    let meta = json!({ "_meta": claim(json!({})) });
    for revision in ["2025-03-26", "2025-11-25"] {
        let session = Session::open(&server, revision).await;
        for claiming in
            [request(2, "tools/list", meta.clone()), notification("notifications/cancelled", meta.clone())]
        {
            let count = call(1, "counter", json!({}));
            let answer = session.post(batch(&[count, claiming])).await;
            assert_eq!((answer.status(), code(&answer.json())), (400, -32600), "{}", answer.text());
            assert!(answer.text().contains("2026-07-28"), "{}", answer.text());
        }
        // Nothing of it was done.
        let said = session.post(call(3, "counter", json!({}))).await.json();
        assert_eq!(text(&said), "1");
    }
}

#[tokio::test]
async fn other_revisions_have_no_batches() {
    let server = server().await;
    for revision in ["2024-11-05", "2025-06-18", "2025-11-25"] {
        let session = Session::open(&server, revision).await;
        let answer = session.post(batch(&[ping(1)])).await;
        assert_eq!((answer.status(), code(&answer.json())), (400, -32600), "{revision}");
        assert!(answer.text().contains(revision) && answer.text().contains("2025-03-26"));
    }
}

#[tokio::test]
async fn long_calls_of_a_batch_run_side_by_side_and_are_answered_together() {
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "0")]).await;
    let session = Session::open(&server, "2025-03-26").await;
    let sleep = |id: &str| call(id, "sleep", json!({ "ms": 1_000 }));
    let answer = session.post(batch(&[sleep("a"), ping(1), sleep("b"), sleep("a")])).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let said = answer.json();
    assert_eq!(said.as_array().unwrap().len(), 4, "{said}");
    assert_eq!(text(&of(&said, "b")), "slept 1000 ms");
    let twins: Vec<&Value> = said.as_array().unwrap().iter().filter(|element| element["id"] == "a").collect();
    assert_eq!(text(twins[0]), "slept 1000 ms");
    assert_eq!(code(twins[1]), -32600, "an id that is in use: {said}");
}

#[tokio::test]
async fn a_cancelled_call_of_a_batch_is_left_out_of_the_answer() {
    let server = server().await;
    let session = Session::open(&server, "2025-03-26").await;
    let forever = |id: &str| call(id, "sleep", json!({ "ms": 3_600_000 }));
    let cancel = |id: &str| notification("notifications/cancelled", json!({ "requestId": id }));

    let mut waiting = session.send(batch(&[forever("a"), ping(1)])).await;
    until_calls(&server, 1).await;
    session.post(cancel("a")).await;
    assert_eq!(waiting.head().await.status, 200);
    let said: Value = serde_json::from_slice(&waiting.body().await).unwrap();
    assert_eq!(said, json!([{ "jsonrpc": "2.0", "id": 1, "result": {} }]));

    let mut waiting = session.send(batch(&[forever("a"), forever("b")])).await;
    until_calls(&server, 2).await;
    session.post(batch(&[cancel("a"), cancel("b")])).await;
    let head = waiting.head().await;
    assert_eq!((head.status, waiting.body().await.len()), (202, 0));
}

#[tokio::test]
async fn a_call_of_a_batch_has_no_way_to_ask_and_says_so() {
    let server = server().await;
    let session = Session::open_with(&server, "2025-03-26", json!({ "elicitation": {} })).await;
    let said = session.post(batch(&[ping(1), call(2, "ask", json!({ "message": "?" }))])).await.json();
    let asked = of(&said, 2);
    assert_eq!(asked["result"]["isError"], true, "{asked}");
}
