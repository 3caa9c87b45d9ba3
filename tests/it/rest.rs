//! The plain HTTP bridge, as callers without MCP see it.

mod calls;
mod flask;
mod guards;
mod import;
mod openapi;
mod sessions;
mod validation;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http::Answer;
use crate::support::server::Server;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const SANDSIV: (&str, &str) = ("X-Outlast-Compat", "sandsiv");
const API: &str = "https://api.example.com";
const JWT: &str = "aaaaaa.bbbbbb.cccccc";

/// The server whose tools want credentials. Examples are built with the tests and stand beside their directory.
fn narrator() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples/fixture-narrator");
    assert!(built.exists(), "{} is missing: cargo build --example fixture-narrator", built.display());
    built
}

/// A place with a configuration that hosts it, with these further lines.
fn place(config: &str) -> Arc<TempDir> {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = format!("[tools]\ncode = false\n{config}\n[servers.narrator]\ncommand = {:?}\n", narrator());
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    dir
}

/// A server that hosts it.
async fn server(config: &str) -> Server {
    Server::start_in(&place(config), &[], &[]).await
}

/// A POST of JSON.
async fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut all = vec![JSON];
    all.extend(headers);
    server.exchange("POST", path, &all, body.to_string().as_bytes()).await
}

/// A session of this name with credentials.
fn credentials(name: &str) -> Value {
    json!({ "session_id": name, "apiUrl": API, "jwtToken": JWT })
}

/// Makes a session of this name.
async fn init(server: &Server, name: &str) -> Value {
    let answer = post(server, "/init", &[], &credentials(name)).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

/// Calls a tool of a session, in the default profile.
async fn call(server: &Server, session: &str, tool: &str, arguments: Value) -> Answer {
    let body = json!({ "session_id": session, "name": tool, "arguments": arguments });
    post(server, "/call-tool", &[], &body).await
}

/// The names of arguments with which the tool `names` is called.
async fn filled(server: &Server, session: &str) -> Vec<String> {
    let answer = call(server, session, "names", json!({})).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    serde_json::from_value(answer.json()["result"]["got"].clone()).unwrap()
}

/// `{"status":"error","error":…}` with this status; what it says.
#[track_caller]
fn refused(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status(), status, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["status"], "error", "{body}");
    body["error"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
}
