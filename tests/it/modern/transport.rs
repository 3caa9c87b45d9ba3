//! What goes around a modern request and its answer: mirrors in headers, discovery, caching hints, forms of answers.

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::mcp::{
    MODERN, Session, claim, claimed, code, mirrors, modern, post, request, server, server_with,
};
use crate::support::server::Server;

const SERVER: &str = "io.modelcontextprotocol/serverInfo";

/// `tools/call` of `echo` under the name that the header says; `name` in the body.
async fn named(server: &Server, header: Option<&str>, name: Value) -> Answer {
    let params = claimed(json!({ "name": name, "arguments": { "message": "m" } }));
    post(server, &mirrors("tools/call", header), request("n", "tools/call", params)).await
}

#[tokio::test]
async fn the_name_header_says_what_the_body_says() {
    let server = server().await;
    for header in ["echo", " echo\t", "=?base64?ZWNobw==?="] {
        let answer = named(&server, Some(header), json!("echo")).await;
        assert_eq!(answer.status(), 200, "{header:?}: {}", answer.text());
        assert_eq!(answer.json()["result"]["content"][0]["text"], "m", "{header:?}");
    }
    for header in [
        None,
        Some(""),
        Some("Echo"),
        Some("sleep"),
        Some("echo,echo"),
        Some("\"echo\""),
        // Markers are exact, what is between them is Base64 with its padding and of UTF-8.
        Some("=?BASE64?ZWNobw==?="),
        Some("=?Base64?ZWNobw==?="),
        Some("=?base64?ZWNobw==?"),
        Some("?base64?ZWNobw==?="),
        Some("ZWNobw=="),
        Some("=?base64?ZWNobw?="),
        Some("=?base64?ZWNobw=?="),
        Some("=?base64?ZWNo bw==?="),
        Some("=?base64?ZWNobx==?="),
        Some("=?base64?_w==?="),
        Some("=?base64?/w==?="),
        Some("=?base64??="),
        Some("ech\u{f6}"),
    ] {
        let answer = named(&server, header, json!("echo")).await;
        let said = answer.json();
        assert_eq!((answer.status(), code(&said), &said["id"]), (400, -32020, &json!("n")), "{header:?}");
        assert!(said["error"]["message"].as_str().unwrap().to_lowercase().contains("mcp-name"), "{said}");
    }
}

#[tokio::test]
async fn names_beyond_ascii_travel_as_base64_and_are_compared_decoded() {
    let server = server().await;
    // "wörk \u{1f4be}", " lead", "", "=?base64?eA==?="
    for (header, name) in [
        ("=?base64?d8O2cmsg8J+Svg==?=", "wörk \u{1f4be}"),
        ("=?base64?IGxlYWQ=?=", " lead"),
        ("=?base64??=", ""),
        ("=?base64?PT9iYXNlNjQ/ZUE9PT89?=", "=?base64?eA==?="),
        ("plain but unknown", "plain but unknown"),
        ("=?base64?not closed", "=?base64?not closed"),
    ] {
        let said = named(&server, Some(header), json!(name)).await;
        assert_eq!((said.status(), code(&said.json())), (200, -32602), "{name:?}: {}", said.text());
        let other = named(&server, Some(header), json!(format!("{name}x"))).await;
        assert_eq!((other.status(), code(&other.json())), (400, -32020), "{name:?}");
    }
    // A body that names nothing is told of that.
    for name in [Value::Null, json!(5)] {
        let said = named(&server, Some("echo"), name).await.json();
        assert_eq!(code(&said), -32602, "{said}");
    }
    // Only calls name something.
    let headers = mirrors("tools/list", Some("whatever"));
    let list = post(&server, &headers, request(1, "tools/list", claimed(json!({})))).await;
    assert_eq!(list.status(), 200);
    // Mirrors of arguments that no schema asks for are not looked at.
    let mut headers = mirrors("tools/call", Some("echo"));
    headers.push(("Mcp-Param-Region", "=?base64?broken?="));
    let params = claimed(json!({ "name": "echo", "arguments": { "message": "m" } }));
    assert_eq!(post(&server, &headers, request(1, "tools/call", params)).await.status(), 200);
}

#[tokio::test]
async fn discovery_says_what_is_served() {
    let server = server().await;
    let answer = modern(&server, "d", "server/discover", claimed(json!({}))).await;
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")));
    let result = answer.json()["result"].clone();
    assert_eq!(result["supportedVersions"], json!([MODERN]));
    let extensions = json!({ "io.modelcontextprotocol/tasks": {} });
    let wanted = json!({ "tools": { "listChanged": true }, "logging": {}, "extensions": extensions });
    assert_eq!(result["capabilities"], wanted);
    assert_eq!(result["resultType"], "complete");
    assert!(result["ttlMs"].is_u64() && result["cacheScope"] == "public", "{result}");
    assert_eq!(result["_meta"][SERVER]["name"], "outlast");
    assert_eq!(result["_meta"][SERVER]["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn the_list_is_the_same_for_everybody_and_says_how_long_it_holds() {
    let server = server().await;
    let params = claimed(json!({}));
    let first = modern(&server, 1, "tools/list", params.clone()).await.json()["result"].clone();
    assert_eq!(first["resultType"], "complete");
    assert!(first["ttlMs"].is_u64() && first["cacheScope"] == "public", "{first}");
    assert_eq!(first["_meta"][SERVER]["name"], "outlast");
    let session = Session::open(&server, "2025-11-25").await;
    let mut theirs = session.ask(1, "tools/list", json!({})).await["result"]["tools"].clone();
    for tool in theirs.as_array_mut().unwrap() {
        // Of tasks 2026-07-28 has another form, in which the server chooses.
        tool.as_object_mut().unwrap().remove("execution");
    }
    assert_eq!(first["tools"], theirs);
    session.post(crate::support::mcp::call(2, "counter", json!({}))).await;
    assert_eq!(first, modern(&server, 1, "tools/list", params).await.json()["result"]);
    for cursor in [json!("page-1"), json!(""), json!(5)] {
        let answer = modern(&server, "c", "tools/list", claimed(json!({ "cursor": cursor }))).await;
        let said = answer.json();
        assert_eq!((answer.status(), code(&said), &said["id"]), (200, -32602, &json!("c")));
    }
}

#[tokio::test]
async fn what_depends_on_the_caller_is_not_to_be_shared() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    // `printf %s alice-token | sha256sum`
    let config = "[[auth.tokens]]\nprincipal = \"alice\"\n\
                  sha256 = \"9c220f200955d76c0a38d308225e0ef10c5f971acaf2f8d1d8f732affa5bd1dc\"\n";
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    let server = crate::support::mcp::server_in(&dir, &[]).await;
    for method in ["tools/list", "server/discover"] {
        let mut headers = mirrors(method, None);
        let body = request(1, method, claimed(json!({})));
        let nobody = post(&server, &headers, &body).await;
        assert_eq!(nobody.status(), 401);
        assert!(nobody.header("www-authenticate").is_some());
        headers.push(("Authorization", "Bearer alice-token"));
        let answer = post(&server, &headers, &body).await;
        assert_eq!(answer.json()["result"]["cacheScope"], "private", "{}", answer.text());
    }
}

#[tokio::test]
async fn the_form_of_a_modern_answer_is_one_that_the_client_accepts() {
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "0")]).await;
    const EVENTS: &str = "text/event-stream";
    const JSON: &str = "application/json";
    for (accept, short, long) in [
        ("application/json, text/event-stream", JSON, EVENTS),
        ("*/*", JSON, EVENTS),
        (JSON, JSON, JSON),
        (EVENTS, EVENTS, EVENTS),
        ("*/*, text/event-stream;q=0", JSON, JSON),
    ] {
        for (tool, arguments, wanted) in [
            ("echo", json!({ "message": "m" }), short),
            ("no-such", json!({}), short),
            ("sleep", json!({ "ms": 1_000 }), long),
        ] {
            let mut headers = mirrors("tools/call", Some(tool));
            headers.push(("Accept", accept));
            let params = claimed(json!({ "name": tool, "arguments": arguments }));
            let answer = post(&server, &headers, request("f", "tools/call", params)).await;
            assert_eq!(
                (answer.status(), answer.header("content-type")),
                (200, Some(wanted)),
                "{accept} {tool}"
            );
            assert_eq!(answer.json()["id"], "f", "{accept} {tool}");
            if wanted == EVENTS {
                assert_eq!(answer.header("x-accel-buffering"), Some("no"));
                assert!(!answer.text().lines().any(|line| line.starts_with("id:")), "{}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn ids_come_back_as_they_were_written_whatever_happens() {
    let server = server().await;
    let meta = claim(json!({}));
    for id in ["0", "-5", "123456789012345678901234567890", r#""\u0041\/""#, r#""\ud800""#, r#""""#] {
        for (method, headers, status) in [
            ("tools/list", mirrors("tools/list", None), 200),
            ("server/discover", mirrors("server/discover", None), 200),
            ("no/such", mirrors("no/such", None), 404),
            ("tools/list", mirrors("tools/call", None), 400),
        ] {
            let body =
                format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"_meta":{meta}}}}}"#);
            let answer = post(&server, &headers, body).await;
            assert_eq!(answer.status(), status, "{id} {method}");
            assert!(answer.text().contains(&format!(r#""id":{id},"#)), "{id}: {}", answer.text());
        }
    }
}
