//! Arguments and structured results against the schemas of their tools.

use serde_json::json;

use super::hosting;
use crate::support::mcp::{Session, call, claimed, code, modern, text};

const SECRET: &str = "hunter2-hunter2";

#[tokio::test]
async fn arguments_that_do_not_fit_are_refused_in_the_form_of_the_era_and_the_tool_does_not_run() {
    let server = hosting("", "").await;
    let wrong = json!({ "n": SECRET, "message": "{\"ok\":true}" });
    let session = Session::open(&server, "2025-11-25").await;
    let told = session.post(call(1, "typed", wrong.clone())).await.json();
    assert_eq!(told["result"]["isError"], true, "{told}");
    assert_eq!(told["result"]["_meta"]["outlast/invalidArguments"], true, "{told}");
    assert!(text(&told).contains("/n: ") && text(&told).contains("integer"), "{told}");
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18"] {
        let older = Session::open(&server, revision).await;
        let told = older.post(call(1, "typed", wrong.clone())).await.json();
        assert_eq!(code(&told), -32_602, "{told}");
        assert!(
            told["error"]["message"].as_str().unwrap().contains("/n: ") && !told.to_string().contains(SECRET)
        );
    }
    let params = claimed(json!({ "name": "typed", "arguments": wrong }));
    let told = modern(&server, 1, "tools/call", params).await.json();
    assert_eq!(
        (&told["result"]["isError"], &told["result"]["resultType"]),
        (&json!(true), &json!("complete"))
    );
    assert!(!told.to_string().contains(SECRET), "{told}");
    let missing = session.post(call(2, "typed", json!({}))).await.json();
    assert!(text(&missing).contains("\"n\" is a required property"), "{missing}");
    // One call has reached the child: this one.
    assert_eq!(text(&session.post(call(3, "count", json!({}))).await.json()), "1");
    assert!(!server.logs().contains(SECRET));
}

#[tokio::test]
async fn a_structured_result_that_does_not_fit_is_a_failure_unless_the_operator_lets_it_through() {
    let server = hosting("", "").await;
    let with = |n: u64, message: &str| call(n, "typed", json!({ "n": 1, "message": message }));
    let session = Session::open(&server, "2025-11-25").await;
    let good = session.post(with(1, r#"{"ok":true,"x":1e400}"#)).await.text();
    assert!(good.contains(r#"{"ok":true,"x":1e400}"#), "as the tool wrote it: {good}");
    let told = session.post(with(2, r#"{"ok":"yes"}"#)).await.json();
    assert_eq!(told["result"]["isError"], true, "{told}");
    assert!(text(&told).contains("outputSchema") && text(&told).contains("/ok: "), "{told}");
    assert!(told["result"].get("structuredContent").is_none(), "{told}");
    server.wait_for_log("does not fit the outputSchema").await;
    for settings in ["validate = \"input\"", "validate = \"off\""] {
        let server = hosting(settings, "").await;
        let session = Session::open(&server, "2025-11-25").await;
        let told = session.post(with(1, r#"{"ok":"yes"}"#)).await.json();
        assert_eq!(told["result"]["structuredContent"]["ok"], "yes", "{told}");
    }
    let server = hosting("", "[servers.fix.tools.typed]\nvalidate = \"off\"").await;
    let session = Session::open(&server, "2025-11-25").await;
    let told = session.post(call(1, "typed", json!({ "message": "{\"ok\":1}" }))).await.json();
    assert_eq!(told["result"]["structuredContent"]["ok"], 1, "{told}");
}

#[tokio::test]
async fn a_schema_that_cannot_be_used_is_said_once_and_not_enforced() {
    let server = hosting("", "").await;
    let session = Session::open(&server, "2025-11-25").await;
    for n in 1..=3 {
        let told = session.post(call(n, "unenforced", json!({ "anything": [1] }))).await.json();
        assert_eq!(text(&told), "ran", "{told}");
    }
    let line = server.wait_for_log("is not enforced").await;
    assert!(line.contains("example.com"), "{line}");
    assert_eq!(server.logs().matches("is not enforced").count(), 1);
}
