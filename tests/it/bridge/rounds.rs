//! Questions and answers: who is asked what, in how many rounds.

use serde_json::{Value, json};

use super::{Client, accept, asked, form, hosting, told};
use crate::support::mcp::{Session, call, claim, code, mirrors, modern, request, send_on};

#[tokio::test]
async fn a_call_goes_through_three_rounds_to_its_result() {
    let server = hosting("", "").await;
    let rounds = json!([[form("one", "a")], [form("two", "b")], [form("three", "c")]]);
    let client = Client::new(&server, &rounds);
    let mut answer = client.begin().await;
    let mut states: Vec<String> = Vec::new();
    for (key, field) in [("one", "a"), ("two", "b"), ("three", "c")] {
        let (keys, state) = asked(&answer);
        assert_eq!(keys, [key]);
        let question = &answer["result"]["inputRequests"][key];
        assert_eq!(question["method"], "elicitation/create");
        assert_eq!(question["params"]["message"], key);
        assert!(question["params"].get("_meta").is_none(), "{question}");
        assert!(!states.contains(&state), "each round has a state of its own");
        states.push(state.clone());
        answer = client.retry(json!({ key: accept(field, key) }), &state).await;
    }
    assert_eq!(told(&answer), json!([accept("a", "one"), accept("b", "two"), accept("c", "three")]));
}

#[tokio::test]
async fn questions_at_once_are_asked_in_one_answer_and_what_is_missing_is_asked_again() {
    let server = hosting("", "").await;
    let sampling = json!(["sampling/createMessage", { "messages": [], "maxTokens": 5, "_meta": { "outlast/inputKey": "s" } }]);
    let client = Client::new(&server, &json!([[form("f", "x"), sampling, ["roots/list", {}]]]));
    let answer = client.begin().await;
    let (keys, state) = asked(&answer);
    let roots = keys.iter().find(|key| key.starts_with("roots")).unwrap().clone();
    assert_eq!(keys.len(), 3, "{keys:?}");

    let some = json!({ "f": accept("x", "y"), "unknown": {}, "s": 5 });
    let (left, state) = asked(&client.retry(some, &state).await);
    assert_eq!(left, [roots.clone(), "s".to_owned()], "a malformed answer is none");
    let (left, state) = asked(&client.send(None, Some(&state)).await.json());
    assert_eq!(left.len(), 2);
    let said = json!({ "role": "assistant", "content": { "type": "text", "text": "t" }, "model": "m" });
    let all =
        json!({ "s": said, roots.clone(): { "roots": [{ "uri": "file:///r" }] }, "f": accept("x", "late") });
    let answers = told(&client.retry(all, &state).await);
    assert_eq!(answers, json!([accept("x", "y"), said, { "roots": [{ "uri": "file:///r" }] }]));
}

#[tokio::test]
async fn without_a_state_answers_are_matched_by_their_keys_alone() {
    let server = hosting("", "").await;
    let client = Client::new(&server, &json!([[form("one", "a")], [form("two", "b")]]));
    let (one, two) = (accept("a", "1"), accept("b", "2"));
    let both = json!({ "one": one, "two": two, "three": {} });
    assert_eq!(told(&client.send(Some(both), None).await.json()), json!([one, two]));
    let (keys, _) = asked(&client.send(Some(json!({ "two": two })), None).await.json());
    assert_eq!(keys, ["one"]);
    let (keys, _) = asked(&client.send(Some(json!({ "one": 12345 })), None).await.json());
    assert_eq!(keys, ["one"]);
    let (keys, _) = asked(&client.send(Some(json!(["one"])), None).await.json());
    assert_eq!(keys, ["one"]);
}

#[tokio::test]
async fn a_capability_that_is_not_declared_is_named_and_what_can_do_without_it_does() {
    let server = hosting("", "").await;
    let rounds = json!([[form("f", "x"), ["roots/list", {}]]]);
    let mut client = Client::new(&server, &rounds);
    client.capabilities = json!({});
    client.arguments["level"] = "strict".into();
    let answer = client.send(None, None).await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
    assert_eq!(code(&answer.json()), -32021);
    let needed = &answer.json()["error"]["data"]["requiredCapabilities"];
    assert!(needed["elicitation"].is_object() && needed["roots"].is_object(), "{needed}");

    client.arguments["level"] = "".into();
    let answers = told(&client.begin().await);
    assert_eq!((&answers[0]["code"], &answers[1]["code"]), (&json!(-32021), &json!(-32021)));

    client.capabilities = json!({ "roots": {} });
    let (keys, state) = asked(&client.begin().await);
    assert!(keys.len() == 1 && keys[0].starts_with("roots-"), "{keys:?}");
    let answers = told(&client.retry(json!({ keys[0].as_str(): { "roots": [] } }), &state).await);
    assert_eq!((&answers[0]["code"], &answers[1]["roots"]), (&json!(-32021), &json!([])));
}

#[tokio::test]
async fn a_url_is_asked_for_without_an_id_and_only_of_a_client_that_opens_urls() {
    let server = hosting("", "").await;
    let url = json!({ "mode": "url", "message": "m", "url": "https://x.example/", "elicitationId": "e" });
    let mut client = Client::new(&server, &json!([[["elicitation/create", url]]]));
    client.arguments["level"] = "strict".into();
    let answer = client.begin().await;
    let (keys, state) = asked(&answer);
    let expected = json!({ "mode": "url", "message": "m", "url": "https://x.example/" });
    assert_eq!(answer["result"]["inputRequests"][&keys[0]]["params"], expected);
    let answer = client.retry(json!({ keys[0].as_str(): { "action": "accept" } }), &state).await;
    assert_eq!(told(&answer)[0]["action"], "accept");
    client.capabilities = json!({ "elicitation": {} });
    let answer = client.begin().await;
    assert_eq!(answer["error"]["data"]["requiredCapabilities"], json!({ "elicitation": { "url": {} } }));
}

#[tokio::test]
async fn calls_that_ask_at_the_same_time_are_each_asked_their_own() {
    let server = hosting("", "pool_size = 1").await;
    let names: Vec<String> = (0..4).map(|n| format!("q{n}")).collect();
    let rounds: Vec<Value> = names.iter().map(|name| json!([[form(name, "a")]])).collect();
    // The first call shows that the tool asks.
    let first = Client::new(&server, &rounds[0]);
    let (_, state) = asked(&first.begin().await);
    told(&first.retry(json!({ "q0": accept("a", "0") }), &state).await);
    let clients: Vec<Client<'_>> = rounds.iter().map(|rounds| Client::new(&server, rounds)).collect();
    let begun = futures_util::future::join_all(clients.iter().map(Client::begin)).await;
    for ((client, name), answer) in clients.iter().zip(&names).zip(&begun) {
        let (keys, state) = asked(answer);
        assert_eq!(keys, std::slice::from_ref(name));
        let answers = told(&client.retry(json!({ name.as_str(): accept("a", name) }), &state).await);
        assert_eq!(answers, json!([accept("a", name)]));
    }
}

#[tokio::test]
async fn progress_after_a_question_has_the_token_of_the_retry() {
    let server = hosting("", "").await;
    let mut client =
        Client::new(&server, &json!([[form("one", "a")], [form("two", "b")], [form("three", "c")]]));
    client.progress_token = Some(json!("first"));
    let (_, state) = asked(&client.begin().await);
    client.progress_token = Some(json!(2));
    let answer = client.send(Some(json!({ "one": accept("a", "1") })), Some(&state)).await;
    assert!(answer.text().contains("\"progressToken\":2,\"progress\":1"), "{}", answer.text());
    let (_, state) = asked(&answer.json());
    client.progress_token = None;
    let answer = client.send(Some(json!({ "two": accept("b", "2") })), Some(&state)).await;
    assert!(!answer.text().contains("progressToken"), "{}", answer.text());
    asked(&answer.json());
}

#[tokio::test]
async fn a_shared_child_still_asks_the_client_of_a_session_on_its_stream() {
    let server = hosting("", "lifetime = \"pool\"").await;
    let session = Session::open_with(&server, "2025-11-25", json!({ "elicitation": {} })).await;
    let rounds = json!([[form("one", "a"), ["roots/list", {}]]]).to_string();
    let mut stream = session.stream(call(7, "interview", json!({ "message": rounds }))).await;
    let question = loop {
        let message = stream.next_message().await.unwrap().json();
        if message["method"] == "elicitation/create" {
            break message;
        }
    };
    let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": accept("a", "1") }).to_string();
    assert_eq!(session.post(answer).await.status(), 202);
    let last = stream.next_message().await.unwrap().json();
    let answers: Value = serde_json::from_str(crate::support::mcp::text(&last)).unwrap();
    assert_eq!((&answers[0], &answers[1]["code"]), (&accept("a", "1"), &json!(-32021)));
}

#[tokio::test]
async fn a_client_that_takes_no_event_stream_is_asked_all_the_same() {
    let server = hosting("", "").await;
    let client = Client::new(&server, &json!([[form("one", "a")]]));
    let mut headers = mirrors("tools/call", Some("interview"));
    headers.push(("Accept", "application/json"));
    let mut connection = server.connect().await;
    send_on(&mut connection, &headers, client.body(None, None)).await;
    let head = connection.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/json")));
    let answer: Value = serde_json::from_slice(&connection.body().await).unwrap();
    let (_, state) = asked(&answer);
    told(&client.retry(json!({ "one": accept("a", "1") }), &state).await);
}

#[tokio::test]
async fn lists_ask_nothing_whatever_they_bring() {
    let server = hosting("", "").await;
    let params = json!({ "_meta": claim(json!({})), "inputResponses": 5, "requestState": 5 });
    let answer =
        crate::support::mcp::post(&server, &mirrors("tools/list", None), request(1, "tools/list", params))
            .await;
    assert!(answer.json()["result"]["tools"].is_array(), "{}", answer.text());
}

#[tokio::test]
async fn a_resource_that_asks_is_read_in_two_rounds() {
    let server = hosting("", "args = [\"--catalog\", \"one\"]").await;
    let read = async |capabilities: Value, more: Value| {
        let mut params = json!({ "uri": "ask://roots", "_meta": claim(capabilities) });
        for (key, value) in more.as_object().unwrap() {
            params[key] = value.clone();
        }
        modern(&server, 1, "resources/read", params).await
    };
    let can = json!({ "roots": {} });
    let (keys, state) = asked(&read(can.clone(), json!({})).await.json());
    let roots = json!({ "roots": [{ "uri": "file:///r" }] });
    let answers = json!({ "inputResponses": { keys[0].clone(): roots.clone() }, "requestState": state });
    let result = read(can, answers).await.json()["result"].clone();
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result["cacheScope"], "private", "an answer may be of this client alone");
    let said: Value = serde_json::from_str(result["contents"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(said, roots);
}
