//! A hosted server of the legacy era that asks in the middle of a call, and a client of 2026-07-28 behind it.

mod errors;
mod headers;
mod held;
mod rounds;

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::children::fixture;
use crate::support::http::Answer;
use crate::support::mcp::{claim, mirrors, post, request};
use crate::support::server::Server;

fn place(tools: &str, server: &str, rest: &str) -> Arc<TempDir> {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = format!(
        "[tools]\ncode = false\n{tools}\n[servers.one]\ncommand = {:?}\n{server}\n{rest}\n",
        fixture()
    );
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    dir
}

/// A server with one hosted server, whose tools keep their names. Settings for `[tools]`, for the server.
async fn hosting(tools: &str, server: &str) -> Server {
    Server::start_in(&place(tools, server, ""), &["--ephemeral"], &[]).await
}

/// A question with a form for `field`, under this key.
fn form(key: &str, field: &str) -> Value {
    let schema =
        json!({ "type": "object", "properties": { field: { "type": "string" } }, "required": [field] });
    let params = json!({ "message": key, "requestedSchema": schema, "_meta": { "outlast/inputKey": key } });
    json!(["elicitation/create", params])
}

fn accept(field: &str, value: &str) -> Value {
    json!({ "action": "accept", "content": { field: value } })
}

/// A client of 2026-07-28, and a call that it makes.
struct Client<'a> {
    server: &'a Server,
    capabilities: Value,
    tool: &'a str,
    arguments: Value,
    token: Option<&'a str>,
    progress_token: Option<Value>,
}

impl<'a> Client<'a> {
    /// Calls the fixture's `interview` with these rounds of questions.
    fn new(server: &'a Server, rounds: &Value) -> Self {
        Self {
            server,
            capabilities: json!({ "elicitation": { "form": {}, "url": {} }, "sampling": {}, "roots": {} }),
            tool: "interview",
            arguments: json!({ "message": rounds.to_string() }),
            token: None,
            progress_token: None,
        }
    }

    fn body(&self, answers: Option<Value>, state: Option<&str>) -> String {
        let mut params = json!({ "name": self.tool, "arguments": self.arguments });
        params["_meta"] = claim(self.capabilities.clone());
        if let Some(token) = &self.progress_token {
            params["_meta"]["progressToken"] = token.clone();
        }
        if let Some(answers) = answers {
            params["inputResponses"] = answers;
        }
        if let Some(state) = state {
            params["requestState"] = state.into();
        }
        request("a", "tools/call", params)
    }

    async fn send(&self, answers: Option<Value>, state: Option<&str>) -> Answer {
        let bearer = self.token.map(|token| format!("Bearer {token}"));
        let mut headers = mirrors("tools/call", Some(self.tool));
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        post(self.server, &headers, self.body(answers, state)).await
    }

    async fn begin(&self) -> Value {
        self.send(None, None).await.json()
    }

    async fn retry(&self, answers: Value, state: &str) -> Value {
        self.send(Some(answers), Some(state)).await.json()
    }
}

/// The keys of what is asked, sorted, and the state.
fn asked(answer: &Value) -> (Vec<String>, String) {
    let result = &answer["result"];
    assert_eq!(result["resultType"], "input_required", "{answer}");
    assert!(result.get("ttlMs").is_none());
    let requests = result["inputRequests"].as_object().unwrap_or_else(|| panic!("nothing asked: {answer}"));
    (requests.keys().cloned().collect(), result["requestState"].as_str().unwrap().to_owned())
}

/// What the fixture was answered.
fn told(answer: &Value) -> Value {
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    serde_json::from_str(crate::support::mcp::text(answer)).unwrap()
}

/// The answer refuses the state and says what to do.
fn assert_refused(answer: &Value) {
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("start the call again"), "{answer}");
}

/// Calls a tool of the fixture without arguments that matter.
async fn number(server: &Server, tool: &str) -> String {
    let client = Client { tool, arguments: json!({}), ..Client::new(server, &json!([])) };
    crate::support::mcp::text(&client.begin().await).to_owned()
}
