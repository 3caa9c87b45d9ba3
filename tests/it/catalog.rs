//! Prompts, resources, completion and subscriptions of hosted servers, as clients of both eras see them.

mod listen;
mod lists;
mod subscriptions;

use serde_json::{Value, json};

use crate::support::http::Connection;
use crate::support::mcp::{Session, call, claimed, modern};
use crate::support::server::Server;

/// An integer that no float holds.
const BIG: &str = "123456789012345678901234567890";
const LATEST: &str = "2025-11-25";
/// A server that runs one child for everybody, and looks after it often.
const POOL: &str = "lifetime = \"pool\"\nidle_seconds = 1\n";

/// The values of a member of a list's elements, in order.
fn column(list: &Value, member: &str, key: &str) -> Vec<String> {
    let elements = list["result"][member].as_array().unwrap_or_else(|| panic!("no {member}: {list}"));
    elements.iter().map(|element| element[key].as_str().unwrap().to_owned()).collect()
}

/// Runs a tool under 2026-07-28, which has no sessions; its text.
async fn run(server: &Server, tool: &str, arguments: Value) -> String {
    let params = claimed(json!({ "name": tool, "arguments": arguments }));
    let answer = modern(server, "run", "tools/call", params).await.json();
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}")).to_owned()
}

/// Runs a tool in a session; its text.
async fn run_in(session: &Session<'_>, tool: &str, arguments: Value) -> String {
    let answer = session.post(call("run", tool, arguments)).await.json();
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}")).to_owned()
}

/// The GET stream of a session.
async fn stream_of(server: &Server, session: &Session<'_>) -> Connection {
    let mut connection = server.connect().await;
    let mut headers = session.headers();
    headers.push(("Accept", "text/event-stream"));
    connection.request("GET", "/mcp", &headers, b"").await;
    assert_eq!(connection.head().await.status, 200);
    connection
}

/// The next message of a stream.
async fn next(stream: &mut Connection) -> Value {
    stream.next_message().await.expect("a message").json()
}

/// The next message of this method; what comes before it is passed over.
async fn next_of(stream: &mut Connection, method: &str) -> Value {
    loop {
        let message = next(stream).await;
        if message["method"] == method {
            return message;
        }
    }
}
