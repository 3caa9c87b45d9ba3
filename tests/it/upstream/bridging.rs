//! Any era of the client with any era of the remote server: questions, tasks, headers.

use serde_json::{Value, json};

use super::{LATEST, fronting, next_message, only_legacy, run, run_modern, said, url_of};
use crate::support::mcp::{Session, call, claim, code, mirrors, modern, post, request};
use crate::support::peer::{self, Peer, text};
use crate::support::server::Server;

fn forms() -> Value {
    json!({ "elicitation": { "form": {} } })
}

/// A session is asked on the stream of its call, and answers.
async fn asked_on_the_stream(front: &Server) -> Value {
    let session = Session::open_with(front, LATEST, forms()).await;
    let mut stream = session.stream(call("c", "ask", json!({ "message": "who?" }))).await;
    let question = next_message(&mut stream).await;
    assert_eq!(
        (&question["method"], &question["params"]["message"]),
        (&json!("elicitation/create"), &json!("who?"))
    );
    let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": "accept", "content": { "answer": "me" } } });
    assert_eq!(session.post(answer.to_string()).await.status(), 202);
    next_message(&mut stream).await
}

/// A client of 2026-07-28 is asked by the answer to its request, and tries again.
async fn asked_by_the_answer(front: &Server) -> Value {
    let params = json!({ "name": "ask", "arguments": { "message": "who?" }, "_meta": claim(forms()) });
    let first = modern(front, 1, "tools/call", params.clone()).await.json();
    assert_eq!(first["result"]["resultType"], "input_required", "{first}");
    let asked = first["result"]["inputRequests"].as_object().unwrap();
    let (key, question) = asked.iter().next().unwrap();
    assert_eq!(question["params"]["message"], "who?");
    let mut params = params;
    params["inputResponses"] = json!({ key.as_str(): { "action": "accept", "content": { "answer": "me" } } });
    params["requestState"] = first["result"]["requestState"].clone();
    modern(front, 2, "tools/call", params).await.json()
}

#[tokio::test]
async fn a_server_of_any_era_asks_a_client_of_any_era() {
    let behind = crate::support::mcp::server().await;
    let legacy = only_legacy(&behind).await;
    let sse = format!("http://{}/sse", behind.address());
    for url in [url_of(&behind), legacy.url(), sse] {
        let front = fronting(&url, "").await;
        let direct = asked_on_the_stream(&behind).await;
        assert_eq!(asked_on_the_stream(&front).await["result"], direct["result"], "{url}");
        let answer = asked_by_the_answer(&front).await;
        assert_eq!(said(&answer), said(&direct), "{url}");
    }
}

#[tokio::test]
async fn a_client_that_cannot_be_asked_is_told_what_it_lacks() {
    let behind = crate::support::mcp::server().await;
    let front = fronting(&url_of(&behind), "").await;
    let answer = run_modern(&front, "ask", json!({ "message": "who?" })).await;
    assert_eq!(code(&answer), -32021, "{answer}");
    assert!(answer["error"]["data"]["requiredCapabilities"]["elicitation"].is_object());
}

/// What a session is asked on the common stream of its session in the server is asked for the call that runs.
#[tokio::test]
async fn a_question_on_the_common_stream_reaches_the_one_call_that_runs() {
    let (ask, asked) = tokio::sync::watch::channel(false);
    let (tell, told) = tokio::sync::watch::channel(Value::Null);
    let peer = Peer::start(move |request, caller| {
        let (ask, mut asked, tell, mut told) = (ask.clone(), asked.clone(), tell.clone(), told.clone());
        async move {
            let message = request.message();
            if message.get("result").is_some() {
                tell.send_replace(message["result"].clone());
                return caller.answer(202, &[], "").await;
            }
            let mut caller = caller;
            if request.asks() == "GET" {
                caller.begin_stream(&[]).await;
                asked.wait_for(|asked| *asked).await.unwrap();
                let question = json!({ "jsonrpc": "2.0", "id": "q", "method": "roots/list" });
                caller.event(None, &question).await;
                return caller.gone().await;
            }
            let Some(caller) = peer::legacy(&request, caller).await else { return };
            ask.send_replace(true);
            let answer = told.wait_for(|told| !told.is_null()).await.unwrap().clone();
            caller.result(&[], text(&answer.to_string())).await;
        }
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open_with(&front, LATEST, json!({ "roots": {} })).await;
    let mut stream = session.stream(call("c", "act", json!({}))).await;
    let question = next_message(&mut stream).await;
    assert_eq!(question["method"], "roots/list");
    let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "roots": [] } });
    assert_eq!(session.post(answer.to_string()).await.status(), 202);
    assert_eq!(said(&next_message(&mut stream).await), r#"{"roots":[]}"#);
}

#[tokio::test]
async fn arguments_are_repeated_in_headers_and_the_request_says_who_asks() {
    let peer = Peer::start(|request, caller| async move {
        if let Some(caller) = peer::modern(&request, caller).await {
            caller.result(&[], json!({ "resultType": "complete", "content": [] })).await;
        }
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open(&front, LATEST).await;
    let answer = run(&session, "act", json!({ "region": "süd" })).await;
    assert_eq!(answer["result"], json!({ "content": [] }), "what belongs to 2026-07-28 goes");
    let sent = peer.requests().into_iter().find(|request| request.asks() == "tools/call").unwrap();
    for (header, value) in [
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "act"),
        ("Mcp-Param-Region", "=?base64?c8O8ZA==?="),
    ] {
        assert_eq!(sent.header(header), Some(value), "{header}");
    }
    assert_eq!(sent.header("mcp-session-id"), None);
    let meta = &sent.message()["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "outlast");
    assert!(meta["io.modelcontextprotocol/clientCapabilities"].is_object());
}

#[tokio::test]
async fn a_task_of_the_server_is_followed_to_its_result_and_what_it_asks_is_asked() {
    let rounds = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let peer = Peer::start(move |request, caller| {
        let rounds = std::sync::Arc::clone(&rounds);
        async move {
            let Some(caller) = peer::modern(&request, caller).await else { return };
            let task = |status: &str| json!({ "resultType": "complete", "taskId": "t", "status": status, "pollIntervalMs": 250, "createdAt": "2026-01-01T00:00:00Z", "lastUpdatedAt": "2026-01-01T00:00:00Z", "ttlMs": null });
            match request.asks().as_str() {
                "tools/call" => {
                    let mut created = task("working");
                    created["resultType"] = json!("task");
                    caller.result(&[], created).await;
                }
                "tasks/update" => {
                    assert_eq!(request.message()["params"]["inputResponses"]["k"]["action"], "accept");
                    rounds.store(10, std::sync::atomic::Ordering::SeqCst);
                    caller.result(&[], json!({ "resultType": "complete" })).await;
                }
                "tasks/get" => {
                    assert_eq!(request.header("mcp-name"), Some("t"));
                    let mut state = task("working");
                    match rounds.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                        0 => {}
                        1..10 => {
                            state["status"] = json!("input_required");
                            state["inputRequests"] = json!({ "k": { "method": "elicitation/create", "params": { "message": "go on?", "requestedSchema": { "type": "object", "properties": {} } } } });
                        }
                        _ => {
                            state["status"] = json!("completed");
                            state["result"] = text("finished");
                        }
                    }
                    caller.result(&[], state).await;
                }
                other => panic!("asked for {other}"),
            }
        }
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let session = Session::open_with(&front, LATEST, forms()).await;
    let mut stream = session.stream(call("c", "act", json!({}))).await;
    let question = next_message(&mut stream).await;
    assert_eq!(question["params"]["message"], "go on?");
    let answer =
        json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": "accept", "content": {} } });
    assert_eq!(session.post(answer.to_string()).await.status(), 202);
    assert_eq!(said(&next_message(&mut stream).await), "finished");
    assert_eq!(peer.count("tasks/update"), 1);
}

#[tokio::test]
async fn a_call_that_asks_over_rounds_carries_the_state_of_the_server() {
    let peer = Peer::start(|request, caller| async move {
        let Some(caller) = peer::modern(&request, caller).await else { return };
        let params = request.message()["params"].clone();
        let ask = |key: &str, state: &str| {
            json!({ "resultType": "input_required", "requestState": state, "inputRequests": { key: { "method": "roots/list" } } })
        };
        let result = match params["requestState"].as_str() {
            None => ask("a", "one"),
            Some("one") if params["inputResponses"]["a"]["roots"].is_array() => ask("b", "two"),
            Some("two") if params["inputResponses"]["b"]["roots"].is_array() => text("done"),
            other => return caller.error(200, -32602, &format!("not this: {other:?} {params}")).await,
        };
        caller.result(&[], result).await;
    })
    .await;
    let front = fronting(&peer.url(), "").await;
    let mut params = json!({ "name": "act", "arguments": {}, "_meta": claim(json!({ "roots": {} })) });
    for key in ["a", "b"] {
        let body = request("r", "tools/call", params.clone());
        let answer = post(&front, &mirrors("tools/call", Some("act")), body).await.json();
        let asked = answer["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(asked.keys().collect::<Vec<_>>(), [key]);
        params["inputResponses"] = json!({ key: { "roots": [] } });
        params["requestState"] = answer["result"]["requestState"].clone();
    }
    let body = request("r", "tools/call", params);
    let answer = post(&front, &mirrors("tools/call", Some("act")), body).await.json();
    assert_eq!(said(&answer), "done");
    assert_eq!(peer.count("tools/call"), 3);
}
