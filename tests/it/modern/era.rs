//! Which era a message belongs to, row by row, with both served on one URL.

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::mcp::{
    LEGACY, MODERN, Session, claim, claimed, code, initialize, mirrors, modern, notification, post, request,
    server,
};
use crate::support::server::Server;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// What a refusal is: its status, its code; and that it echoes the id and says something.
fn refusal(answer: &Answer, id: &Value) -> (u16, i64) {
    let said = answer.json();
    assert_eq!(said["id"], *id, "{said}");
    assert_eq!(answer.header("mcp-session-id"), None);
    assert!(said["error"]["message"].as_str().unwrap().len() > 10, "{said}");
    (answer.status(), code(&said))
}

/// A `tools/list` with this `_meta` and these headers.
async fn list(server: &Server, headers: &[(&str, &str)], meta: Value) -> Answer {
    post(server, headers, request("l", "tools/list", json!({ "_meta": meta }))).await
}

#[tokio::test]
async fn a_request_with_a_whole_claim_is_served_alone() {
    let server = server().await;
    let answer = list(&server, &mirrors("tools/list", None), claim(json!({}))).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.json()["result"]["resultType"], "complete");
    assert_eq!(answer.header("mcp-session-id"), None);
    // Without the name of the client, with blanks around header values, with header names in any case.
    let mut meta = claim(json!({ "x": { "y": 1 } }));
    meta.as_object_mut().unwrap().remove("io.modelcontextprotocol/clientInfo");
    let headers = [("mcp-PROTOCOL-version", "  2026-07-28 \t"), ("mcp-METHOD", "\ttools/list ")];
    assert_eq!(list(&server, &headers, meta).await.status(), 200);
    // The key may be written with escapes.
    let body = request("l", "tools/list", json!({ "_meta": claim(json!({})) })).replace('/', "\\/");
    let answer = post(&server, &mirrors("tools/list", None), &body).await;
    assert_eq!(answer.json()["result"]["resultType"], "complete", "{}", answer.text());
}

#[tokio::test]
async fn a_claim_that_is_not_whole_is_bad_params() {
    let server = server().await;
    let with = |key: &str, value: Value| {
        let mut meta = claim(json!({}));
        meta[key] = value;
        meta
    };
    let without = |key: &str| {
        let mut meta = claim(json!({}));
        meta.as_object_mut().unwrap().remove(key);
        meta
    };
    for meta in [
        without(CAPABILITIES),
        with(CAPABILITIES, json!([])),
        with(CAPABILITIES, json!("{}")),
        with(CAPABILITIES, json!(1)),
        with(CAPABILITIES, Value::Null),
        with(VERSION, json!(20260728)),
        with(VERSION, json!([MODERN])),
        with(LEVEL, json!("loud")),
        with(LEVEL, json!(3)),
        with(LEVEL, json!("")),
        // Absent, with the header that needs it.
        without(VERSION),
        json!({}),
        with(VERSION, Value::Null),
    ] {
        let answer = list(&server, &mirrors("tools/list", None), meta.clone()).await;
        assert_eq!(refusal(&answer, &json!("l")), (400, -32602), "{meta}");
    }
    for params in
        ["", r#","params":{}"#, r#","params":{"_meta":5}"#, r#","params":{"_meta":["protocolVersion"]}"#]
    {
        let body = format!(r#"{{"jsonrpc":"2.0","id":"l","method":"tools/list"{params}}}"#);
        let answer = post(&server, &mirrors("tools/list", None), body).await;
        assert_eq!(refusal(&answer, &json!("l")), (400, -32602), "{params}");
        assert!(answer.text().contains(VERSION) && answer.text().contains(CAPABILITIES), "{}", answer.text());
    }
    // A claim in both of two places is none.
    let meta = claim(json!({})).to_string();
    let twice = format!(
        r#"{{"jsonrpc":"2.0","id":"l","method":"tools/list","params":{{"_meta":{meta},"_meta":{meta}}}}}"#
    );
    let answer = post(&server, &mirrors("tools/list", None), twice).await;
    assert_eq!(refusal(&answer, &json!("l")), (400, -32602));
}

#[tokio::test]
async fn the_version_header_says_what_the_body_says() {
    let server = server().await;
    for header in ["2025-11-25", "2026-07-29", "", "2026-07-28,2026-07-28"] {
        let headers = [("MCP-Protocol-Version", header), ("Mcp-Method", "tools/list")];
        let answer = list(&server, &headers, claim(json!({}))).await;
        assert_eq!(refusal(&answer, &json!("l")), (400, -32020), "{header:?}");
    }
    let answer = list(&server, &[("Mcp-Method", "tools/list")], claim(json!({}))).await;
    assert_eq!(refusal(&answer, &json!("l")), (400, -32020), "no header");
    // A broken claim is told of before a header that does not fit.
    let headers = [("MCP-Protocol-Version", "2025-11-25"), ("Mcp-Method", "tools/list")];
    let answer = list(&server, &headers, json!({ VERSION: MODERN })).await;
    assert_eq!(refusal(&answer, &json!("l")), (400, -32602));
}

#[tokio::test]
async fn a_claim_of_another_version_is_told_which_there_are() {
    let server = server().await;
    for version in LEGACY.into_iter().chain(["2099-01-01", "DRAFT-2026-v1", "", "2026-07-28 "]) {
        let mut meta = claim(json!({}));
        meta[VERSION] = json!(version);
        for method in ["tools/list", "server/discover", "no/such"] {
            // With the header, and with none: the version is told of before a header that is missing.
            for headers in [&[][..], &[("MCP-Protocol-Version", version), ("Mcp-Method", method)]] {
                let answer = post(&server, headers, request(9, method, json!({ "_meta": meta }))).await;
                let wanted = if version.ends_with(' ') && !headers.is_empty() { -32020 } else { -32022 };
                assert_eq!(refusal(&answer, &json!(9)), (400, wanted), "{version:?} {headers:?}");
                if wanted == -32022 {
                    let data = answer.json()["error"]["data"].clone();
                    assert_eq!(data, json!({ "supported": [MODERN], "requested": version }));
                }
            }
        }
    }
}

#[tokio::test]
async fn the_method_header_says_what_the_body_says() {
    let server = server().await;
    for header in ["tools/call", "Tools/List", "", "tools/list,tools/list", "=?base64?dG9vbHMvbGlzdA==?="] {
        let headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", header)];
        let answer = list(&server, &headers, claim(json!({}))).await;
        assert_eq!(refusal(&answer, &json!("l")), (400, -32020), "{header:?}");
    }
    let answer = list(&server, &[("MCP-Protocol-Version", MODERN)], claim(json!({}))).await;
    assert_eq!(refusal(&answer, &json!("l")), (400, -32020), "no header");
    // Also where the method is none: headers come first.
    let answer =
        post(&server, &[("MCP-Protocol-Version", MODERN)], request("l", "no/such", claimed(json!({})))).await;
    assert_eq!(refusal(&answer, &json!("l")), (400, -32020));
}

#[tokio::test]
async fn a_header_that_is_sent_twice_is_refused() {
    let server = server().await;
    let call = claimed(json!({ "name": "echo", "arguments": { "message": "m" } }));
    for (name, value) in [("Mcp-Method", "tools/call"), ("Mcp-Name", "echo"), ("Mcp-Name", "sleep")] {
        let mut headers = mirrors("tools/call", Some("echo"));
        headers.push((name, value));
        let answer = post(&server, &headers, request(1, "tools/call", call.clone())).await;
        assert_eq!(refusal(&answer, &json!(1)), (400, -32020), "{name}");
    }
    let session = Session::open(&server, "2025-11-25").await;
    for (name, value) in [
        ("Mcp-Session-Id", session.id.as_str()),
        ("Mcp-Session-Id", "x"),
        ("MCP-Protocol-Version", "2025-06-18"),
    ] {
        let mut headers = session.headers();
        headers.push((name, value));
        let answer = post(&server, &headers, request(1, "ping", json!({}))).await;
        assert_eq!(refusal(&answer, &json!(1)), (400, -32600), "{name}");
    }
}

#[tokio::test]
async fn methods_that_are_not_served_or_no_more_are_404() {
    let server = server().await;
    for method in [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "resources/unsubscribe",
        "resources/list",
        "resources/templates/list",
        "prompts/list",
        "completion/complete",
        "tasks/list",
        "tasks/result",
        "roots/list",
        "no/such",
        "Tools/list",
        "notifications/initialized",
    ] {
        let answer = modern(&server, method, method, claimed(json!({ "uri": "x", "level": "info" }))).await;
        assert_eq!(refusal(&answer, &json!(method)), (404, -32601), "{method}");
    }
    for (method, key) in [("prompts/get", "name"), ("resources/read", "uri")] {
        let params = claimed(json!({ key: "x" }));
        let answer = post(&server, &mirrors(method, Some("x")), request(1, method, params)).await;
        assert_eq!(refusal(&answer, &json!(1)), (404, -32601), "{method}");
    }
}

#[tokio::test]
async fn without_a_claim_the_modern_header_is_refused_and_names_what_is_missing() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    // In a session, too: the header contradicts it.
    let headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Session-Id", session.id.as_str())];
    for headers in [&headers[..1], &headers[..]] {
        let answer = post(&server, headers, request(4, "ping", json!({}))).await;
        assert_eq!(refusal(&answer, &json!(4)), (400, -32602));
        assert!(answer.text().contains(VERSION) && answer.text().contains(CAPABILITIES), "{}", answer.text());
    }
    let answer = post(&server, &headers[..1], initialize("2025-11-25", json!({}))).await;
    assert_eq!(refusal(&answer, &json!("init")), (400, -32020));
    assert_eq!(session.ask(1, "ping", json!({})).await["result"], json!({}));
}

#[tokio::test]
async fn initialize_is_legacy_unless_its_claim_is_whole() {
    let server = server().await;
    let broken = json!({
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {},
        "_meta": { VERSION: MODERN },
    });
    let answer = post(&server, &[], request(1, "initialize", broken)).await;
    assert_eq!(answer.json()["result"]["protocolVersion"], "2025-06-18", "{}", answer.text());
    assert!(answer.header("mcp-session-id").is_some());
    let whole = claimed(json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {} }));
    let answer = modern(&server, 1, "initialize", whole).await;
    assert_eq!(refusal(&answer, &json!(1)), (404, -32601));
}

#[tokio::test]
async fn a_probe_without_a_claim_is_a_4xx_that_sends_a_client_back_to_initialize() {
    let server = server().await;
    let answer = post(&server, &[], request(1, "server/discover", json!({}))).await;
    let (status, code) = refusal(&answer, &json!(1));
    assert_eq!(status, 400);
    assert!(![-32020, -32021, -32022].contains(&code), "{code}");
    assert!(answer.text().contains("initialize"), "{}", answer.text());
}

#[tokio::test]
async fn modern_notifications_are_accepted_without_a_body_and_need_no_mirrors() {
    let server = server().await;
    let cancelled = |params: Value| notification("notifications/cancelled", params);
    let claiming = cancelled(claimed(json!({ "requestId": "listen:0" })));
    for (headers, body) in [
        (&[][..], claiming.clone()),
        (&[("MCP-Protocol-Version", MODERN)], claiming),
        (&[("MCP-Protocol-Version", MODERN)], cancelled(json!({ "requestId": "listen:0" }))),
        (&[("MCP-Protocol-Version", MODERN)], r#"{"jsonrpc":"2.0","method":"x"}"#.to_owned()),
    ] {
        let answer = post(&server, headers, &body).await;
        assert_eq!((answer.status(), answer.text()), (202, String::new()), "{body}");
    }
    // Without either it belongs to a session.
    assert_eq!(post(&server, &[], cancelled(json!({ "requestId": 1 }))).await.status(), 400);
}

#[tokio::test]
async fn responses_belong_to_sessions() {
    let server = server().await;
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    for headers in [&[][..], &[("MCP-Protocol-Version", MODERN)]] {
        let answer = post(&server, headers, response).await;
        assert_eq!(answer.status(), 400, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_claim_in_an_array_refuses_it() {
    let server = server().await;
    let one = request(1, "tools/list", claimed(json!({})));
    for body in [format!("[{one}]"), format!("[{},{one}]", request(2, "ping", json!({})))] {
        for headers in [&[][..], &mirrors("tools/list", None)] {
            let answer = post(&server, headers, &body).await;
            assert_eq!((answer.status(), code(&answer.json())), (400, -32600), "{body}");
            assert!(answer.text().contains("batch"), "{}", answer.text());
        }
    }
    for headers in [&[][..], &[("MCP-Protocol-Version", MODERN)]] {
        let answer = post(&server, headers, "[]").await;
        assert_eq!((answer.status(), code(&answer.json())), (400, -32600));
    }
}

#[tokio::test]
async fn a_modern_request_takes_no_notice_of_a_session() {
    let server = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    for id in [session.id.as_str(), "nonsense", ""] {
        let mut headers = mirrors("tools/list", None);
        headers.extend([("Mcp-Session-Id", id), ("Last-Event-ID", "v1.g.")]);
        let answer = list(&server, &headers, claim(json!({}))).await;
        assert_eq!((answer.status(), answer.header("mcp-session-id")), (200, None), "{id}");
        assert_eq!(answer.json()["result"]["resultType"], "complete");
    }
    session.end().await;
    let mut headers = mirrors("tools/list", None);
    headers.push(("Mcp-Session-Id", session.id.as_str()));
    assert_eq!(list(&server, &headers, claim(json!({}))).await.status(), 200);
}

#[tokio::test]
async fn streams_and_sessions_do_not_exist_under_the_modern_header() {
    let server = server().await;
    for method in ["GET", "DELETE"] {
        let headers = [("MCP-Protocol-Version", MODERN), ("Accept", "text/event-stream")];
        let answer = server.exchange(method, "/mcp", &headers, b"").await;
        assert_eq!((answer.status(), answer.header("allow")), (405, Some("POST")), "{method}");
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("POST"));
    }
    for method in ["PUT", "PATCH", "HEAD", "TRACE"] {
        let answer = server.exchange(method, "/mcp", &[], b"").await;
        assert_eq!(answer.status(), 405, "{method}");
        assert!(answer.header("allow").unwrap().contains("POST"), "{method}");
    }
}
