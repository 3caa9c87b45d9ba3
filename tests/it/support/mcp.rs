//! MCP over the raw client: sessions of the legacy revisions, requests of the modern one, and what the server counts.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{Answer, Connection, Head};
use super::server::Server;
use super::soon;

/// What clients of MCP accept.
pub const BOTH: &str = "application/json, text/event-stream";
/// The revisions with sessions.
pub const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The revision without.
pub const MODERN: &str = "2026-07-28";

/// A server with the diagnostics tools that keeps nothing.
pub async fn server() -> Server {
    server_with(&[]).await
}

/// [`server`] with further variables.
pub async fn server_with(variables: &[(&str, &str)]) -> Server {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    server_in(&dir, variables).await
}

/// [`server_with`] in a directory that holds files for it.
pub async fn server_in(dir: &Arc<TempDir>, variables: &[(&str, &str)]) -> Server {
    Server::start_in(dir, &["--ephemeral", "--diagnostics"], variables).await
}

/// A request as text.
pub fn request(id: impl Into<Value>, method: &str, params: Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params }).to_string()
}

/// A notification as text.
pub fn notification(method: &str, params: Value) -> String {
    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
}

/// A `tools/call` as text.
pub fn call(id: impl Into<Value>, tool: &str, arguments: Value) -> String {
    request(id, "tools/call", json!({ "name": tool, "arguments": arguments }))
}

/// An `initialize` as text.
pub fn initialize(revision: &str, capabilities: Value) -> String {
    let client = json!({ "name": "test", "version": "1" });
    let params = json!({ "protocolVersion": revision, "capabilities": capabilities, "clientInfo": client });
    request("init", "initialize", params)
}

/// A POST that says nothing but its body, with these further headers.
pub async fn post(server: &Server, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
    let mut connection = server.connect().await;
    let head = post_on(&mut connection, headers, body).await;
    let body = connection.body().await;
    Answer { head, body }
}

/// [`post`] on a connection, up to the head of its answer.
pub async fn post_on(connection: &mut Connection, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Head {
    send_on(connection, headers, body).await;
    connection.head().await
}

/// [`post_on`] without waiting for the answer.
pub async fn send_on(connection: &mut Connection, headers: &[(&str, &str)], body: impl AsRef<[u8]>) {
    let mut all = vec![("Content-Type", "application/json")];
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept")) {
        all.push(("Accept", BOTH));
    }
    // `Accept: -` stands for none.
    all.extend(headers.iter().filter(|(name, value)| !(*name == "Accept" && *value == "-")));
    connection.request("POST", "/mcp", &all, body.as_ref()).await;
}

/// A session.
pub struct Session<'a> {
    server: &'a Server,
    pub id: String,
    pub revision: String,
}

impl<'a> Session<'a> {
    /// A session of this revision, of a client that declares nothing.
    pub async fn open(server: &'a Server, revision: &str) -> Self {
        Self::open_with(server, revision, json!({})).await
    }

    /// A session of a client that declares these capabilities.
    pub async fn open_with(server: &'a Server, revision: &str, capabilities: Value) -> Self {
        let answer = post(server, &[], initialize(revision, capabilities)).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let id = answer.header("mcp-session-id").expect("a session id").to_owned();
        let revision = answer.json()["result"]["protocolVersion"].as_str().unwrap().to_owned();
        let session = Self { server, id, revision };
        let greeted = session.post(notification("notifications/initialized", json!({}))).await;
        assert_eq!(greeted.status(), 202, "{}", greeted.text());
        session
    }

    /// What a client takes for a session.
    pub fn known(server: &'a Server, id: &str, revision: &str) -> Self {
        Self { server, id: id.to_owned(), revision: revision.to_owned() }
    }

    /// What this session's requests carry.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        let mut headers = vec![("Mcp-Session-Id", self.id.as_str())];
        // The header is there since 2025-06-18.
        if self.revision.as_str() >= "2025-06-18" {
            headers.push(("MCP-Protocol-Version", self.revision.as_str()));
        }
        headers
    }

    /// Posts a body on a connection of its own.
    pub async fn post(&self, body: impl AsRef<[u8]>) -> Answer {
        post(self.server, &self.headers(), body).await
    }

    /// [`Session::post`] of a client that accepts this. `-`: it does not say.
    pub async fn post_accepting(&self, accept: &str, body: impl AsRef<[u8]>) -> Answer {
        let mut headers = self.headers();
        headers.push(("Accept", accept));
        post(self.server, &headers, body).await
    }

    /// Posts a request, and what is answered.
    pub async fn ask(&self, id: impl Into<Value>, method: &str, params: Value) -> Value {
        self.post(request(id, method, params)).await.json()
    }

    /// Posts a request whose answer is an event stream, and the connection that carries it.
    pub async fn stream(&self, body: impl AsRef<[u8]>) -> Connection {
        let mut connection = self.server.connect().await;
        let head = post_on(&mut connection, &self.headers(), body).await;
        assert_eq!(head.header("content-type"), Some("text/event-stream"), "{head:?}");
        connection
    }

    /// Sends a request, whose answer the connection will carry.
    pub async fn send(&self, body: impl AsRef<[u8]>) -> Connection {
        let mut connection = self.server.connect().await;
        send_on(&mut connection, &self.headers(), body).await;
        connection
    }

    /// GET or DELETE with these further headers.
    pub async fn exchange(&self, method: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = self.headers();
        all.extend(headers);
        self.server.exchange(method, "/mcp", &all, b"").await
    }

    /// Ends it.
    pub async fn end(&self) {
        let answer = self.exchange("DELETE", &[]).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
}

/// The `_meta` of a modern request.
pub fn claim(capabilities: Value) -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
    })
}

/// `params` with a claim of a client without capabilities.
pub fn claimed(params: Value) -> Value {
    let mut params = params;
    params["_meta"] = claim(json!({}));
    params
}

/// The headers that mirror a modern request.
pub fn mirrors<'a>(method: &'a str, name: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![("MCP-Protocol-Version", MODERN), ("Mcp-Method", method)];
    headers.extend(name.map(|name| ("Mcp-Name", name)));
    headers
}

/// A modern request with its mirrors. `params` carry their claim.
pub async fn modern(server: &Server, id: impl Into<Value>, method: &str, params: Value) -> Answer {
    let name = params["name"].as_str().or_else(|| params["uri"].as_str()).map(ToOwned::to_owned);
    post(server, &mirrors(method, name.as_deref()), request(id, method, params)).await
}

/// The code of an error answer.
pub fn code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {answer}"))
}

/// The first text of a tool's result.
pub fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

/// What the engine counts, as the operator sees it.
pub async fn stats(server: &Server) -> Value {
    let answer = server.admin_exchange("GET", "/admin/status", b"").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()["engine"].take()
}

/// Waits until the engine's numbers are as wanted.
pub async fn until_stats(server: &Server, what: &str, wanted: impl Fn(&Value) -> bool) {
    soon(what, async {
        while !wanted(&stats(server).await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Waits until this many calls run.
pub async fn until_calls(server: &Server, count: u64) {
    until_stats(server, &format!("{count} running calls"), |stats| stats["calls"] == count).await;
}
