//! Arguments that clients of 2026-07-28 repeat in headers.

use serde_json::{Value, json};

use super::hosting;
use crate::support::mcp::{claimed, code, mirrors, modern, post, request, text};

#[tokio::test]
async fn a_header_must_say_what_the_argument_says() {
    let server = hosting("", "").await;
    let call = |arguments: Value, header: Option<&'static str>| {
        let server = &server;
        async move {
            let params = claimed(json!({ "name": "headed", "arguments": arguments }));
            let mut headers = mirrors("tools/call", Some("headed"));
            headers.extend(header.map(|value| ("Mcp-Param-N", value)));
            post(server, &headers, request(1, "tools/call", params)).await
        }
    };
    for (arguments, header) in [
        (json!({ "n": 42 }), Some("42")),
        (json!({ "n": 42 }), Some("=?base64?NDI=?=")),
        (json!({ "n": 42 }), Some("42.0")),
    ] {
        let answer = call(arguments, header).await;
        assert_eq!((answer.status(), text(&answer.json())), (200, "42"), "{header:?}");
    }
    assert_eq!(call(json!({}), None).await.status(), 200);
    for (arguments, header) in [
        (json!({ "n": 42 }), None),
        (json!({ "n": 42 }), Some("43")),
        (json!({ "n": 42 }), Some("=?base64?NDI?=")),
        (json!({}), Some("42")),
    ] {
        let answer = call(arguments, header).await;
        assert_eq!((answer.status(), code(&answer.json())), (400, -32020), "{header:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_tool_is_listed_without_annotations_that_clients_would_refuse_it_for() {
    let server = hosting("", "").await;
    let listed = modern(&server, 1, "tools/list", claimed(json!({}))).await.json();
    let tools = listed["result"]["tools"].as_array().unwrap();
    let schema = |name: &str| {
        tools
            .iter()
            .find(|tool| tool["name"] == name)
            .map(|tool| tool["inputSchema"]["properties"]["n"].clone())
    };
    assert_eq!(schema("headed").unwrap(), json!({ "type": "integer", "x-mcp-header": "N" }));
    assert_eq!(schema("misheaded").unwrap(), json!({ "type": "number" }));
    server.wait_for_log("listed without its x-mcp-header annotations").await;
    let params = claimed(json!({ "name": "misheaded", "arguments": { "n": 5 } }));
    assert_eq!(text(&modern(&server, 2, "tools/call", params).await.json()), "5");
}
