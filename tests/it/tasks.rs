//! Tasks of both shapes, of a hosted server and its host, as clients see them on the wire.

mod crash;
mod extension;
mod hosted;
mod listen;
mod sessions;
mod time;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use outlast::base::seal::{hex, sha256};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http::Answer;
use crate::support::mcp::{claim, mirrors, post, request};
use crate::support::server::Server;
use crate::support::soon;

/// The extension's name.
const EXTENSION: &str = "io.modelcontextprotocol/tasks";
const RELATED: &str = "io.modelcontextprotocol/related-task";

/// The server to host. Examples are built with the tests and stand beside their directory.
pub fn fixture() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples/fixture-child");
    assert!(built.exists(), "{} is missing: cargo build --example fixture-child", built.display());
    built
}

fn place(settings: &str) -> Arc<TempDir> {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = format!(
        "[tools]\ncode = false\n[servers.one]\ncommand = {:?}\nargs = [\"--tasks\"]\n{settings}\n",
        fixture()
    );
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    dir
}

/// A server that hosts the fixture with its tasks and keeps nothing.
async fn hosting() -> Server {
    Server::start_in(&place(""), &["--ephemeral", "--diagnostics"], &[]).await
}

/// A server that hosts the same, keeps everything, and knows two principals.
async fn keeping() -> Server {
    let tokens = ["alice", "bob"].map(|name| {
        format!("[[auth.tokens]]\nprincipal = \"{name}\"\nsha256 = \"{}\"\n", hex(&sha256(name.as_bytes())))
    });
    Server::start_in(&place(&tokens.concat()), &["--diagnostics"], &[]).await
}

/// A client of 2026-07-28 that takes tasks.
#[derive(Clone)]
pub struct Client<'a> {
    server: &'a Server,
    token: Option<&'a str>,
    capabilities: Value,
}

impl<'a> Client<'a> {
    fn new(server: &'a Server) -> Self {
        let capabilities = json!({
            "elicitation": { "form": {}, "url": {} }, "sampling": {}, "roots": {}, "extensions": { EXTENSION: {} }
        });
        Self { server, token: None, capabilities }
    }

    pub fn of(server: &'a Server, token: &'a str) -> Self {
        Self { token: Some(token), ..Self::new(server) }
    }

    fn declaring(&self, capabilities: Value) -> Self {
        Self { capabilities, ..self.clone() }
    }

    async fn send(&self, method: &str, mut params: Value) -> Answer {
        params["_meta"] = claim(self.capabilities.clone());
        let name = ["name", "taskId"].iter().find_map(|key| params[*key].as_str().map(ToOwned::to_owned));
        let bearer = self.token.map(|token| format!("Bearer {token}"));
        let mut headers = mirrors(method, name.as_deref());
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        post(self.server, &headers, request("a", method, params)).await
    }

    pub async fn ask(&self, method: &str, params: Value) -> Value {
        self.send(method, params).await.json()
    }

    async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// The id of the task that a call becomes.
    pub async fn begin(&self, tool: &str, arguments: Value) -> String {
        let answer = self.call(tool, arguments).await;
        assert_eq!(answer["result"]["resultType"], "task", "{answer}");
        answer["result"]["taskId"].as_str().unwrap().to_owned()
    }

    pub async fn get(&self, task: &str) -> Value {
        let answer = self.ask("tasks/get", json!({ "taskId": task })).await;
        assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
        answer["result"].clone()
    }

    pub async fn cancel(&self, task: &str) -> Value {
        self.ask("tasks/cancel", json!({ "taskId": task })).await
    }

    async fn update(&self, task: &str, answers: Value) -> Value {
        self.ask("tasks/update", json!({ "taskId": task, "inputResponses": answers })).await
    }

    /// The task, once its status is this.
    async fn until(&self, task: &str, status: &str) -> Value {
        soon(&format!("a task that is {status}"), async {
            loop {
                let shown = self.get(task).await;
                if shown["status"] == status {
                    return shown;
                }
                let over = ["completed", "failed", "cancelled"].contains(&shown["status"].as_str().unwrap());
                assert!(!over, "{shown}");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await
    }
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

/// Arguments of a job that asks these rounds and then takes so many milliseconds.
fn asking(rounds: &Value, n: u64) -> Value {
    json!({ "message": rounds.to_string(), "n": n })
}

/// The first text of what the call of a task answered.
fn said(task: &Value) -> &str {
    task["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {task}"))
}

/// The keys of what is asked.
fn keys(task: &Value) -> Vec<&str> {
    task["inputRequests"]
        .as_object()
        .map_or_else(Vec::new, |asked| asked.keys().map(String::as_str).collect())
}
