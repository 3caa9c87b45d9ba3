//! The tools of `--diagnostics`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use outlast::rpc::error::RpcError;
use outlast::tools::builtin::diagnostics::Diagnostics;
use outlast::tools::{Host as _, LogLevel};
use serde_json::{Value, json};

use crate::support::{
    Client, InSession as _, Memory, bounded, call, failure, raw, run, run_for, session, text, with_params,
};

async fn at_first_poll(tool: &str, arguments: &str) -> String {
    let mut answer = Diagnostics.call(tool, call(tool, arguments, &Arc::default()));
    match poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await {
        Poll::Ready(answer) => answer.unwrap().get().to_owned(),
        Poll::Pending => panic!("{tool} is not ready at the first poll"),
    }
}

#[tokio::test]
async fn every_tool_has_a_description_a_schema_and_annotations() {
    let tools = Diagnostics.tools().await.unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["echo", "sleep", "counter", "ask", "emit", "fill"]);
    for tool in &tools {
        let json: Value = serde_json::from_str(tool.json.get()).unwrap();
        assert_eq!(json["name"], tool.name.as_str());
        assert!(json["description"].as_str().is_some_and(|text| !text.is_empty()));
        assert_eq!(json["inputSchema"]["type"], "object");
        assert!(json["annotations"]["readOnlyHint"].is_boolean());
        assert_eq!(tool.resumable, tool.name == "emit");
    }
}

#[tokio::test]
async fn echo_returns_any_string_as_it_was_written_at_the_first_poll() {
    for message in [r#""plain""#, r#""""#, r#""\"quoted\" \\ \u00e9 \ud83d\ude00 \n\t""#, r#""é 😀""#] {
        assert_eq!(
            at_first_poll("echo", &format!(r#"{{"x":[1],"message":{message}}}"#)).await,
            format!(r#"{{"content":[{{"type":"text","text":{message}}}]}}"#)
        );
    }
}

#[tokio::test]
async fn wrong_arguments_are_told_with_their_name_and_what_is_wanted() {
    for (tool, arguments, says) in [
        ("echo", r#"{"message":1}"#, ["\"message\"", "a string"]),
        ("echo", "{}", ["\"message\"", "missing"]),
        ("sleep", r#"{"ms":-1}"#, ["\"ms\"", "from 0 to 3600000"]),
        ("sleep", r#"{"ms":1.5}"#, ["\"ms\"", "integer"]),
        ("emit", r#"{"count":100001}"#, ["\"count\"", "from 0 to 100000"]),
        ("emit", r#"{"count":1,"interval_ms":"x"}"#, ["\"interval_ms\"", "got \"x\""]),
        ("fill", r#"{"bytes":99999999999999999999}"#, ["\"bytes\"", "8388608"]),
        ("counter", r#"{"by":"x"}"#, ["\"by\"", "integer"]),
        ("counter", r#"{"handle":5}"#, ["\"handle\"", "a string"]),
        ("counter", r#"{"handle":"guessed"}"#, ["\"handle\"", "no such handle"]),
        ("ask", r#"{"message":null}"#, ["\"message\"", "a string"]),
    ] {
        let result = run(&Diagnostics, tool, arguments).await;
        for part in says {
            assert!(failure(&result).contains(part), "{tool} {arguments}: {result}");
        }
    }
    let error = bounded(Diagnostics.call("nope", call("nope", "{}", &Arc::default()))).await.unwrap_err();
    assert_eq!(error.code, -32602);
    let list = with_params(r#"{"name":"echo","arguments":[]}"#, &Arc::default());
    assert_eq!(bounded(Diagnostics.call("echo", list)).await.unwrap_err().code, -32602);
}

#[tokio::test]
async fn fill_returns_so_many_bytes() {
    assert_eq!(text(&run(&Diagnostics, "fill", r#"{"bytes":100000}"#).await).len(), 100_000);
    assert_eq!(text(&run(&Diagnostics, "fill", r#"{"bytes":0}"#).await), "");
}

#[tokio::test]
async fn sleep_tells_its_progress_to_who_asked_for_it() {
    let client = Arc::new(Client::default());
    let params = r#"{"name":"sleep","arguments":{"ms":350},"_meta":{"progressToken":"t"}}"#;
    run_for(&Diagnostics, "sleep", with_params(params, &client)).await;
    let progress: Vec<Value> =
        client.got("notifications/progress").iter().map(|it| it["params"].clone()).collect();
    let at = |ms: u64| json!({"progressToken": "t", "progress": ms, "total": 350});
    assert_eq!(progress, [at(100), at(200), at(300)]);

    let silent = Arc::new(Client::default());
    run_for(&Diagnostics, "sleep", call("sleep", r#"{"ms":150}"#, &silent)).await;
    assert!(silent.messages.lock().unwrap().is_empty());
}

#[tokio::test]
async fn sleep_ends_at_once_when_it_is_cancelled() {
    let call = call("sleep", r#"{"ms":3600000}"#, &Arc::default());
    let cancel = call.cancel.clone();
    let running = tokio::spawn(Diagnostics.call("sleep", call));
    tokio::time::sleep(Duration::from_millis(20)).await;
    cancel.cancel();
    let answer = bounded(running).await.unwrap().unwrap();
    assert!(answer.get().contains("cancelled"));
}

#[tokio::test]
async fn the_counter_is_kept_in_the_session() {
    let (one, two) = (session("one"), session("two"));
    let count = async |arguments: &str, session| {
        run_for(&Diagnostics, "counter", call("counter", arguments, &Arc::default()).of(session)).await
    };
    assert_eq!(text(&count("{}", &one).await), "1");
    let third = count(r#"{"by":41}"#, &one).await;
    assert_eq!(text(&third), "42");
    assert_eq!(third["structuredContent"], json!({"value": 42}));
    assert_eq!(text(&count(r#"{"by":-3}"#, &two).await), "-3");
}

#[tokio::test]
async fn without_a_session_the_counter_is_kept_under_a_handle_of_its_principal() {
    let handles = Arc::new(Memory::default());
    let count = async |arguments: &str, principal: &str| {
        let mut call = call("counter", arguments, &Arc::default());
        call.handles = Arc::clone(&handles) as _;
        call.principal = Arc::from(principal);
        run_for(&Diagnostics, "counter", call).await
    };
    let first = count(r#"{"by":5}"#, "me").await;
    let handle = first["structuredContent"]["handle"].as_str().unwrap().to_owned();
    assert!(first["content"][1]["text"].as_str().unwrap().contains(&handle));
    let again = format!(r#"{{"handle":"{handle}"}}"#);
    assert_eq!(count(&again, "me").await["structuredContent"], json!({"value": 6, "handle": handle}));
    failure(&count(&again, "somebody else").await);
}

#[tokio::test]
async fn emit_numbers_its_messages_and_goes_on_behind_the_last_stored_one() {
    let emitted = async |resumed_after| {
        let client = Arc::new(Client::default());
        let mut call = call("emit", r#"{"count":5,"interval_ms":1}"#, &client);
        call.resumed_after = resumed_after;
        let result = run_for(&Diagnostics, "emit", call).await;
        assert!(text(&result).contains("emitted 5 messages"));
        let got = client.got("notifications/message");
        assert!(got.iter().all(|it| it["params"]["level"] == "info" && it["params"]["logger"] == "emit"));
        got.iter().map(|it| it["params"]["data"]["n"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(emitted(None).await, [1, 2, 3, 4, 5]);
    assert_eq!(emitted(Some(3)).await, [4, 5]);
    assert_eq!(emitted(Some(9)).await, [0_u64; 0]);
}

#[tokio::test]
async fn emit_sends_nothing_to_a_client_that_does_not_want_this_level() {
    let client = Arc::new(Client { level: LogLevel::Error, ..Client::default() });
    let result = run_for(&Diagnostics, "emit", call("emit", r#"{"count":3}"#, &client)).await;
    assert!(text(&result).contains("3 of them not sent"));
    assert!(client.messages.lock().unwrap().is_empty());
}

#[tokio::test]
async fn ask_returns_what_the_user_says() {
    for (answer, says) in [
        (r#"{"action":"accept","content":{"answer":"blue"}}"#, "blue"),
        (r#"{"action":"decline"}"#, "declined"),
        (r#"{"action":"cancel"}"#, "cancelled"),
    ] {
        let client = Arc::new(Client { answer: Some(Ok(answer)), ..Client::default() });
        let result =
            run_for(&Diagnostics, "ask", call("ask", r#"{"message":"which \"colour\"?"}"#, &client)).await;
        assert_eq!(text(&result), says);
        let (method, params) = client.asked.lock().unwrap()[0].clone();
        assert_eq!(method, "elicitation/create");
        let params: Value = serde_json::from_str(&params).unwrap();
        assert_eq!(params["message"], "which \"colour\"?");
        assert_eq!(params["requestedSchema"]["required"], json!(["answer"]));
    }
    let refused = Some(Err(RpcError::invalid_request("the client has no elicitation")));
    let client = Arc::new(Client { answer: refused, ..Client::default() });
    let result = run_for(&Diagnostics, "ask", call("ask", r#"{"message":"?"}"#, &client)).await;
    assert!(failure(&result).contains("the client has no elicitation"));
}

#[tokio::test]
async fn ask_without_sessions_returns_the_question_and_reads_the_answer_of_the_retry() {
    let client =
        |capabilities: &str| Arc::new(Client { modern: Some(raw(capabilities)), ..Client::default() });
    let able = client(r#"{"elicitation":{}}"#);
    let first = run_for(&Diagnostics, "ask", call("ask", r#"{"message":"?"}"#, &able)).await;
    assert_eq!(first["resultType"], "input_required");
    let request = &first["inputRequests"]["answer"];
    assert_eq!(request["method"], "elicitation/create");
    assert_eq!(request["params"]["message"], "?");

    let retry = |responses: &str| {
        let params =
            format!(r#"{{"name":"ask","arguments":{{"message":"?"}},"inputResponses":{responses}}}"#);
        run_for(&Diagnostics, "ask", with_params(&params, &able))
    };
    let said = retry(r#"{"other":1,"answer":{"action":"accept","content":{"answer":"42"}}}"#).await;
    assert_eq!(text(&said), "42");
    for wrong in ["{}", "[]", r#"{"answer":5}"#, r#"{"answer":{"action":"accept"}}"#] {
        assert_eq!(retry(wrong).await["resultType"], "input_required", "{wrong}");
    }

    for capabilities in ["{}", r#"{"elicitation":{"url":{}}}"#, r#"{"sampling":{}}"#] {
        let call = call("ask", r#"{"message":"?"}"#, &client(capabilities));
        let error = bounded(Diagnostics.call("ask", call)).await.unwrap_err();
        assert_eq!(error.code, -32021);
        assert_eq!(error.data.unwrap().get(), r#"{"requiredCapabilities":{"elicitation":{}}}"#);
    }
}
