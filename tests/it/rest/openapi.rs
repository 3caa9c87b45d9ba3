//! `/openapi.json` and what is served are the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{JSON, SANDSIV, credentials, init, server};
use crate::support::http::Answer;
use crate::support::server::Server;

struct Document(Value);

impl Document {
    async fn read(server: &Server) -> Self {
        let answer = server.exchange("GET", "/openapi.json", &[], b"").await;
        assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")));
        Self(answer.json())
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value.get("$ref").and_then(Value::as_str) {
            Some(path) => {
                self.0.pointer(path.trim_start_matches('#')).unwrap_or_else(|| panic!("{path} is missing"))
            }
            None => value,
        }
    }

    /// The answer is one that the document describes.
    #[track_caller]
    fn check(&self, path: &str, method: &str, answer: &Answer) {
        let operation = &self.0["paths"][path][method.to_lowercase()];
        let responses = &operation["responses"];
        let response = &responses[answer.status().to_string()];
        assert!(
            !response.is_null(),
            "{method} {path}: {} is not described: {}",
            answer.status(),
            answer.text()
        );
        let mut schema = self.resolve(response)["content"]["application/json"]["schema"].clone();
        schema["components"] = self.0["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let body = answer.json();
        let errors: Vec<String> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{method} {path} {}: {errors:?} in {body}", answer.status());
    }
}

#[tokio::test]
async fn every_route_is_described_and_every_described_route_is_served() {
    let server = server("").await;
    let document = Document::read(&server).await;
    let mut described = BTreeSet::new();
    for (path, item) in document.0["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.insert((path.clone(), method.to_uppercase()));
        }
    }
    let mut served = BTreeSet::from([("/health".to_owned(), "GET".to_owned())]);
    for (path, methods) in outlast::edge::http::BRIDGE_PATHS {
        served.extend(methods.split(", ").map(|method| ((*path).to_owned(), method.to_owned())));
    }
    assert_eq!(described, served);
    let mut ids = BTreeSet::new();
    for (path, method) in described {
        let operation = &document.0["paths"][&path][method.to_lowercase()];
        assert!(ids.insert(operation["operationId"].to_string()), "{operation}");
        // Its own example is a request that is served.
        let body =
            document.resolve(&operation["requestBody"])["content"]["application/json"]["example"].clone();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = server.exchange(&method, &path, &[JSON], body.as_bytes()).await;
        document.check(&path, &method, &answer);
        assert!(![404, 405].contains(&answer.status()) || path != "/init", "{method} {path}");
    }
}

#[tokio::test]
async fn answers_have_the_shapes_that_are_described() {
    let server = server("").await;
    let document = Document::read(&server).await;
    init(&server, "s").await;
    let mut seen = BTreeSet::new();
    let session = json!({ "session_id": "s" });
    let nobody = json!({ "session_id": "nobody" });
    let tool = |name: &str| json!({ "session_id": "s", "name": name });
    let other = json!({ "session_id": "s", "apiUrl": "x", "jwtToken": "y" });
    for (path, body) in [
        ("/init", credentials("s")),
        ("/init", other),
        ("/init", json!({ "session_id": ["s"] })),
        ("/init", json!({ "session_id": "s1.x.y" })),
        ("/init", json!({})),
        ("/tools", session.clone()),
        ("/tools", nobody.clone()),
        ("/tools", json!([])),
        ("/call-tool", tool("plain")),
        ("/call-tool", tool("structured")),
        ("/call-tool", tool("names")),
        ("/call-tool", tool("refuse")),
        ("/call-tool", tool("error")),
        ("/call-tool", tool("no-such-tool")),
        ("/call-tool", json!({ "session_id": "nobody", "name": "plain" })),
        ("/call_tool", json!({ "session_id": "s" })),
        ("/tools/call", tool("renew")),
        ("/shutdown", nobody),
        ("/shutdown", json!({})),
        ("/shutdown", session),
    ] {
        for headers in [&[JSON][..], &[JSON, SANDSIV]] {
            let answer = server.exchange("POST", path, headers, body.to_string().as_bytes()).await;
            document.check(path, "POST", &answer);
            seen.insert(answer.status());
        }
    }
    for path in ["/init", "/call-tool", "/shutdown"] {
        let answer = server.exchange("PUT", path, &[JSON], b"{}").await;
        document.check(path, "POST", &answer);
        seen.insert(answer.status());
    }
    for status in [200, 400, 403, 404, 405, 409, 500] {
        assert!(seen.contains(&status), "{status} was not seen: {seen:?}");
    }
}
