//! `outlast sessions` and `outlast status`, each against a server that runs and against its directory alone.

mod away;
mod changing;
mod creating;
mod files;
mod finding;
mod reading;

use std::process::Output;

use serde_json::{Value, json};

use crate::support::http::{Answer, Connection};
use crate::support::server::{Server, command, run};
use crate::support::soon;

const ACCEPT: (&str, &str) = ("Accept", "application/json, text/event-stream");
const JSON: (&str, &str) = ("Content-Type", "application/json");
/// Where the `counter` tool keeps its number.
const COUNTER: &str = "diagnostics.counter";

/// What a command came to.
#[derive(Debug)]
struct Done {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Done {
    #[track_caller]
    fn well(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.err);
        self
    }

    /// It failed, and said this.
    #[track_caller]
    fn failed(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{} {}", self.text(), self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} in {:?}", self.err);
        }
        self
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.text(), self.err))
    }
}

/// `outlast` with these arguments and the data directory of `server`, which runs or not.
fn outlast(server: &Server, args: &[&str]) -> Done {
    let data = server.data_dir();
    let args: Vec<&str> = args.iter().copied().chain(["--data-dir", data.to_str().unwrap()]).collect();
    let Output { status, stdout, stderr } = run(&mut command(server.dir(), &args));
    Done { code: status.code().unwrap_or(-1), out: stdout, err: String::from_utf8(stderr).unwrap() }
}

/// `outlast sessions …`
fn sessions(server: &Server, args: &[&str]) -> Done {
    outlast(server, &[&["sessions"], args].concat())
}

/// A client with a session, and capabilities that its id does not say.
struct Client {
    id: String,
    key: String,
}

impl Client {
    async fn start(server: &Server) -> Self {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params":
            { "protocolVersion": "2025-11-25", "capabilities": { "experimental": { "x": {} } },
              "clientInfo": { "name": "t", "version": "1" } } });
        let answer = server.exchange("POST", "/mcp", &[JSON, ACCEPT], body.to_string().as_bytes()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let id = answer.header("mcp-session-id").expect("a session").to_owned();
        let key = outlast::base::ids::SessionKey::from_bytes(key_bytes(&id)).to_string();
        Self { id, key }
    }

    async fn post(&self, server: &Server, body: &Value) -> Answer {
        let headers = [JSON, ACCEPT, ("Mcp-Session-Id", self.id.as_str())];
        server.exchange("POST", "/mcp", &headers, body.to_string().as_bytes()).await
    }

    async fn ping(&self, server: &Server) -> u16 {
        self.post(server, &json!({ "jsonrpc": "2.0", "id": 2, "method": "ping" })).await.status()
    }

    /// Adds to the number that the session keeps, and returns it.
    async fn count(&self, server: &Server, by: i64) -> i64 {
        let answer = self.post(server, &call("counter", &json!({ "by": by }))).await;
        let text = answer.json();
        let text =
            text["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{text}")).to_owned();
        text.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    /// Opens the stream of GET.
    async fn listen(&self, server: &Server, after: Option<&str>) -> Connection {
        let mut headers = vec![("Accept", "text/event-stream"), ("Mcp-Session-Id", self.id.as_str())];
        headers.extend(after.map(|after| ("Last-Event-ID", after)));
        let mut connection = server.connect().await;
        connection.request("GET", "/mcp", &headers, b"").await;
        assert_eq!(connection.head().await.status, 200);
        connection
    }

    /// Sends it a notification.
    async fn tell(&self, server: &Server, number: u64) {
        let message = json!({ "jsonrpc": "2.0", "method": "notifications/test", "params": { "n": number } });
        let path = format!("/admin/send?sid={}", self.id);
        let answer = server.admin_exchange("POST", &path, message.to_string().as_bytes()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
}

fn call(tool: &str, arguments: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": tool, "arguments": arguments } })
}

/// The key within a session id: its bytes 23 to 38.
fn key_bytes(id: &str) -> [u8; 16] {
    use base64::Engine as _;
    let claims = id.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
    claims[23..39].try_into().unwrap()
}

/// The number of the next message, which has to be one of the test's, with its event id.
async fn heard(stream: &mut Connection) -> (u64, String) {
    let event = soon("a test message", stream.next_message()).await.expect("a message");
    let message = event.json();
    assert_eq!(message["method"], "notifications/test", "{message}");
    (message["params"]["n"].as_u64().expect("a number"), event.id.expect("an id"))
}

/// Without what goes on by itself.
fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for name in ["idle_left_ms", "left_ms", "last_seen_ms", "live"] {
                fields.remove(name);
            }
            fields.iter_mut().for_each(|(_, value)| *value = timeless(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = timeless(item.take())),
        _ => {}
    }
    value
}

async fn start() -> Server {
    Server::start(&["--diagnostics"]).await
}

/// Ends the server, unless that was done.
async fn stop(server: &mut Server) {
    if server.data_dir().join("admin.address").exists() {
        assert_eq!(server.term().await.code(), Some(0));
    }
}
