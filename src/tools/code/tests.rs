use std::sync::Mutex;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::tools::{Handles, LogLevel};

/// Keeps what a call sends; from `deaf_after` messages on, the client is gone.
#[derive(Default)]
struct Kept {
    messages: Mutex<Vec<Value>>,
    deaf: bool,
}

impl Outbox for Kept {
    fn notify(&self, message: Bytes) -> BoxFuture<'_, Result<(), RpcError>> {
        self.messages.lock().unwrap().push(serde_json::from_slice(&message).unwrap());
        let answer = if self.deaf { Err(RpcError::internal("gone")) } else { Ok(()) };
        Box::pin(std::future::ready(answer))
    }

    fn ask(&self, _: &str, _: Box<RawValue>) -> BoxFuture<'_, Result<Box<RawValue>, RpcError>> {
        Box::pin(std::future::ready(Err(RpcError::internal("nobody is asked"))))
    }

    fn wants_log(&self, _: LogLevel) -> bool {
        false
    }

    fn can_ask(&self) -> bool {
        false
    }

    fn modern_capabilities(&self) -> Option<&RawValue> {
        None
    }
}

struct NoHandles;

impl Handles for NoHandles {
    fn create(&self, _: &str, _: Bytes) -> BoxFuture<'_, Result<String, RpcError>> {
        Box::pin(std::future::ready(Err(RpcError::internal("no handles"))))
    }

    fn change(
        &self,
        _: &str,
        _: &str,
        _: Box<dyn FnOnce(&Bytes) -> Bytes + Send>,
    ) -> BoxFuture<'_, Result<Option<Bytes>, RpcError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

fn call(params: &Value, token: Option<&str>, out: Arc<Kept>) -> Call {
    Call {
        params: to_raw_value(params).unwrap(),
        progress_token: token.map(|token| RawValue::from_string(token.into()).unwrap()),
        session: None,
        out,
        cancel: CancellationToken::new(),
        principal: "tester".into(),
        handles: Arc::new(NoHandles),
        correlation: "test".into(),
        resumed_after: None,
        anew: false,
    }
}

fn tools() -> CodeTools {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    CodeTools::new(root.into(), &Keys::generate()).unwrap()
}

async fn run(tools: &CodeTools, tool: &str, arguments: Value) -> Value {
    let call = call(&json!({ "name": tool, "arguments": arguments }), None, Arc::default());
    serde_json::from_str(tools.call(tool, call).await.unwrap().get()).unwrap()
}

async fn listed(tools: &CodeTools) -> Vec<Value> {
    let listed = tools.tools().await.unwrap();
    listed.iter().map(|tool| serde_json::from_str(tool.json.get()).unwrap()).collect()
}

#[tokio::test]
async fn results_are_what_the_output_schemas_promise_and_the_text_repeats_them() {
    let tools = tools();
    for tool in listed(&tools).await {
        let name = tool["name"].as_str().unwrap();
        let output = jsonschema::validator_for(&tool["outputSchema"]).unwrap();
        let input = jsonschema::validator_for(&tool["inputSchema"]).unwrap();
        let mut asks = vec![json!({}), json!({ "path": "base/seal.rs" }), json!({ "max_tokens": 500 })];
        match name {
            STRUCTURE => asks.extend([
                json!({ "view": "tree" }),
                json!({ "docs": "full", "signatures": false, "depth": 10, "max_tokens": 20000 }),
                json!({ "kinds": ["trait", "impl"], "private": false, "docs": "none" }),
            ]),
            _ => asks.extend([
                json!({ "profile": "radon", "sort": "path", "order": "desc", "limit": 1 }),
                json!({ "metrics": ["lines", "doc", "tokens"], "min": { "lines": 10 }, "languages": ["rust"] }),
                json!({ "metrics": tool["inputSchema"]["properties"]["metrics"]["items"]["enum"] }),
            ]),
        }
        for ask in asks {
            assert!(input.is_valid(&ask), "{ask}");
            let result = run(&tools, name, ask.clone()).await;
            assert_eq!(result["isError"], false, "{ask} {result}");
            let structured = &result["structuredContent"];
            let errors: Vec<String> = output.iter_errors(structured).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{name} {ask}: {errors:?}");
            let text = result["content"][0]["text"].as_str().unwrap();
            assert_eq!(&serde_json::from_str::<Value>(text).unwrap(), structured);
        }
    }
}

#[tokio::test]
async fn every_choice_that_a_schema_offers_is_accepted() {
    let tools = tools();
    for tool in listed(&tools).await {
        let name = tool["name"].as_str().unwrap();
        assert!(tool["description"].as_str().unwrap().starts_with("Use this instead of"));
        assert_eq!(tool["annotations"]["readOnlyHint"], true);
        assert_eq!(tool["annotations"]["openWorldHint"], false);
        for (field, schema) in tool["inputSchema"]["properties"].as_object().unwrap() {
            let one = schema["enum"].as_array().into_iter().flatten().cloned();
            let many = schema["items"]["enum"].as_array().into_iter().flatten().map(|item| json!([item]));
            let keys = schema["propertyNames"]["enum"].as_array().into_iter().flatten();
            let keyed = keys.map(|key| json!({ key.as_str().unwrap(): 1 }));
            let edges = [&schema["minimum"], &schema["maximum"], &schema["default"]];
            let edges = edges.into_iter().filter(|value| !value.is_null()).cloned();
            for value in one.chain(many).chain(keyed).chain(edges) {
                let arguments = json!({ field: value });
                let arguments = arguments.as_object().unwrap();
                let outcome = match name {
                    STRUCTURE => StructureRequest::parse(arguments).map(|_| ()),
                    _ => ComplexityRequest::parse(arguments).map(|_| ()),
                };
                assert_eq!(outcome, Ok(()), "{name} {field} {value}");
            }
        }
    }
}

#[tokio::test]
async fn failures_are_results_that_say_what_to_do() {
    let tools = tools();
    for (arguments, code) in [
        (json!({ "pth": "." }), "invalid_argument"),
        (json!({ "path": "../secret" }), "path_outside_root"),
        (json!({ "path": "bose" }), "not_found"),
        (json!({ "path": "base", "languages": ["go"] }), "no_supported_files"),
        (json!({ "include": ["{"] }), "invalid_pattern"),
        (json!({ "cursor": "x" }), "invalid_cursor"),
    ] {
        let result = run(&tools, COMPLEXITY, arguments.clone()).await;
        assert_eq!(result["isError"], true, "{arguments}");
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text["error"], code, "{arguments}");
        assert!(text["message"].as_str().unwrap().len() > 10);
    }
    let params = json!({ "name": COMPLEXITY, "arguments": [] });
    let wrong = tools.call(COMPLEXITY, call(&params, None, Arc::default())).await;
    assert!(wrong.is_err());
    let unknown = tools.call("code_poetry", call(&json!({}), None, Arc::default())).await;
    assert!(unknown.is_err());
    assert!(CodeTools::new("/nowhere/at/all".into(), &Keys::generate()).is_err());
}

#[tokio::test]
async fn progress_is_sent_only_when_asked_for_and_ends_at_its_total() {
    let tools = tools();
    let params = json!({ "name": STRUCTURE });
    let silent = Arc::new(Kept::default());
    tools.call(STRUCTURE, call(&params, None, Arc::clone(&silent))).await.unwrap();
    assert!(silent.messages.lock().unwrap().is_empty());
    let tools = self::tools();
    let kept = Arc::new(Kept::default());
    let token = "123456789012345678901234567890";
    tools.call(STRUCTURE, call(&params, Some(token), Arc::clone(&kept))).await.unwrap();
    let messages = kept.messages.lock().unwrap();
    let last = &messages.last().unwrap()["params"];
    assert_eq!(last["progress"], last["total"]);
    assert!(messages.iter().all(|message| message["method"] == "notifications/progress"));
    let amounts: Vec<u64> =
        messages.iter().map(|message| message["params"]["progress"].as_u64().unwrap()).collect();
    assert!(amounts.windows(2).all(|pair| pair[0] < pair[1]), "{amounts:?}");
}

#[tokio::test]
async fn a_cancelled_or_dropped_call_frees_its_place() {
    let tools = tools();
    let params = json!({ "name": COMPLEXITY });
    for _ in 0..ANALYSES_AT_ONCE * 3 {
        let call = call(&params, None, Arc::default());
        call.cancel.cancel();
        assert!(tools.call(COMPLEXITY, call).await.is_err());
    }
    for _ in 0..ANALYSES_AT_ONCE * 3 {
        let mut running = tools.call(COMPLEXITY, call(&params, None, Arc::default()));
        let started = tokio::time::timeout(Duration::from_millis(1), &mut running).await;
        drop((started, running));
    }
    // Nobody listens to the progress of this one any more.
    let deaf = Arc::new(Kept { deaf: true, ..Kept::default() });
    let _ = tools.call(COMPLEXITY, call(&params, Some("1"), deaf)).await;
    let result = run(&tools, COMPLEXITY, json!({ "path": "base" })).await;
    assert_eq!(result["isError"], false);
    // A thread that was given up may hold its place for a moment.
    let all = tools.running.acquire_many(u32::try_from(ANALYSES_AT_ONCE).unwrap());
    drop(
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("every place is free again").unwrap(),
    );
}
