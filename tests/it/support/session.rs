//! A client of sessions and streams, as plain as the protocol lets it be: every id and every event is in the test's hands.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::http::{Answer, Connection, Event};
use super::server::Server;
use super::until;

/// The newest revision with sessions.
pub const LATEST: &str = "2025-11-25";
/// What a client accepts that reads both kinds of answers.
pub const BOTH: &str = "application/json, text/event-stream";

/// A server with the diagnostics tools and this `config.toml`.
pub async fn server_with(config: &str) -> Server {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    Server::start_in(&dir, &["--diagnostics"], &[]).await
}

/// Sends a message to one session as the operator; the answer says what became of it.
pub async fn send(server: &Server, session: &Session, message: &str) -> Answer {
    server.admin_exchange("POST", &format!("/admin/send?sid={}", session.id), message.as_bytes()).await
}

/// The operator of a server that may die at any moment. It keeps its addresses and its token over restarts.
#[derive(Clone, Debug)]
pub struct Operator {
    admin: SocketAddr,
    authorization: String,
}

impl Operator {
    pub fn of(server: &Server) -> Self {
        Self { admin: server.admin(), authorization: format!("Bearer {}", server.admin_token()) }
    }

    /// Sends a message; true when it was acknowledged. `session`: to this one, else to every one.
    pub async fn send(&self, session: Option<&Session>, message: &str) -> bool {
        let path = session.map_or_else(
            || "/admin/broadcast".to_owned(),
            |session| format!("/admin/send?sid={}", session.id),
        );
        let headers = [("Authorization", self.authorization.as_str()), ("Content-Type", "application/json")];
        let answer = Connection::try_exchange(self.admin, "POST", &path, &headers, message.as_bytes()).await;
        answer.is_some_and(|answer| answer.status() == 200)
    }
}

/// Sends a message to every session as the operator.
pub async fn broadcast(server: &Server, message: &str) -> Answer {
    server.admin_exchange("POST", "/admin/broadcast", message.as_bytes()).await
}

/// Sends [`note`]s to one session, in order, each acknowledged before the next.
pub async fn send_notes(server: &Server, session: &Session, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        let answer = send(server, session, &note(number)).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
}

/// A figure of the engine, as `/admin/status` tells it.
pub async fn figure(server: &Server, name: &str) -> u64 {
    let status = server.admin_exchange("GET", "/admin/status", b"").await.json();
    status["engine"][name].as_u64().unwrap_or_else(|| panic!("no figure {name}: {status}"))
}

/// Waits until a figure of the engine has this value.
pub async fn until_figure(server: &Server, name: &str, value: u64) {
    until(&format!("{name} = {value}"), || async { figure(server, name).await == value }).await;
}

/// A session as its client knows it. It outlives the server's process, as the server keeps its address.
#[derive(Clone, Debug)]
pub struct Session {
    pub address: SocketAddr,
    pub id: String,
    pub revision: String,
    /// The bearer token that goes with every request.
    pub bearer: Option<String>,
}

impl Session {
    /// A new session of [`LATEST`].
    pub async fn open(server: &Server) -> Self {
        Self::open_as(server, LATEST, None).await
    }

    /// A new session of this revision and of whoever bears the token.
    pub async fn open_as(server: &Server, revision: &str, bearer: Option<&str>) -> Self {
        let answer = initialize(server, revision, bearer).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let agreed = answer.json()["result"]["protocolVersion"].as_str().unwrap().to_owned();
        let session = Self {
            address: server.address(),
            id: answer.header("mcp-session-id").expect("a session id").to_owned(),
            revision: agreed,
            bearer: bearer.map(ToOwned::to_owned),
        };
        let ready = session.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!(ready.status(), 202, "{}", ready.text());
        session
    }

    fn headers<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut headers = vec![
            ("Content-Type", "application/json"),
            ("Mcp-Session-Id", self.id.as_str()),
            ("MCP-Protocol-Version", self.revision.as_str()),
        ];
        if let Some(bearer) = &self.bearer {
            headers.push(("Authorization", bearer.as_str()));
        }
        headers.extend_from_slice(more);
        headers
    }

    /// The same session in the hands of whoever bears this.
    pub fn borne_by(&self, bearer: &str) -> Self {
        Self { bearer: Some(bearer.to_owned()), ..self.clone() }
    }

    /// The same session on another instance.
    pub fn at(&self, server: &Server) -> Self {
        Self { address: server.address(), ..self.clone() }
    }

    /// POST, and the whole answer.
    pub async fn post(&self, message: &Value) -> Answer {
        let mut connection = Connection::open(self.address).await;
        let body = message.to_string();
        connection.exchange("POST", "/mcp", &self.headers(&[("Accept", BOTH)]), body.as_bytes()).await
    }

    /// Calls a tool and waits for its result, which must be one.
    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        let answer = self.post(&call(&json!("c"), tool, arguments)).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let message = answer.json();
        assert!(message["error"].is_null(), "{message}");
        message["result"].clone()
    }

    /// POST to a server that may die at any moment; none when it did before it had answered.
    pub async fn try_post(&self, message: &Value) -> Option<Answer> {
        let headers = self.headers(&[("Accept", BOTH)]);
        Connection::try_exchange(self.address, "POST", "/mcp", &headers, message.to_string().as_bytes()).await
    }

    /// Calls `counter` and returns its value.
    pub async fn count(&self) -> i64 {
        self.call("counter", json!({})).await["structuredContent"]["value"].as_i64().expect("a number")
    }

    /// Sends a request whose answer is to be a stream, and reads the stream from its beginning.
    pub async fn start(&self, id: &Value, tool: &str, arguments: Value) -> Stream {
        self.start_by(&call(id, tool, arguments)).await
    }

    /// [`Session::start`] with a request of the test's own.
    pub async fn start_by(&self, request: &Value) -> Stream {
        let mut connection = Connection::open(self.address).await;
        let body = request.to_string();
        connection.request("POST", "/mcp", &self.headers(&[("Accept", BOTH)]), body.as_bytes()).await;
        Stream::of(connection).await
    }

    /// GET; `last` is the `Last-Event-ID`.
    pub async fn stream(&self, last: Option<&str>) -> Stream {
        Stream::of(self.ask_for_stream(last).await).await
    }

    /// GET, or the answer that refuses it.
    pub async fn try_stream(&self, last: Option<&str>) -> Result<Stream, Answer> {
        Stream::try_of(self.ask_for_stream(last).await).await
    }

    /// GET that is refused: the answer.
    pub async fn refused_stream(&self, last: Option<&str>) -> Answer {
        self.try_stream(last).await.err().expect("a refusal")
    }

    async fn ask_for_stream(&self, last: Option<&str>) -> Connection {
        let mut connection = Connection::open(self.address).await;
        let mut headers = self.headers(&[("Accept", "text/event-stream")]);
        if let Some(last) = last {
            headers.push(("Last-Event-ID", last));
        }
        connection.request("GET", "/mcp", &headers, b"").await;
        connection
    }

    /// DELETE, and its answer.
    pub async fn end(&self) -> Answer {
        Connection::open(self.address).await.exchange("DELETE", "/mcp", &self.headers(&[]), b"").await
    }

    /// Whether a request of the session is served.
    pub async fn status(&self) -> u16 {
        self.post(&json!({"jsonrpc": "2.0", "id": "ping", "method": "ping"})).await.status()
    }
}

/// `initialize`, and its answer.
pub async fn initialize(server: &Server, revision: &str, bearer: Option<&str>) -> Answer {
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": revision,
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "test", "version": "1"},
    }});
    let mut headers = vec![("Content-Type", "application/json"), ("Accept", BOTH)];
    if let Some(bearer) = bearer {
        headers.push(("Authorization", bearer));
    }
    server.exchange("POST", "/mcp", &headers, body.to_string().as_bytes()).await
}

/// A `tools/call` with a progress token.
pub fn call(id: &Value, tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {
        "name": tool, "arguments": arguments, "_meta": {"progressToken": "p"},
    }})
}

/// A `tools/call` without one: nothing is said before its result.
pub fn silent_call(id: &Value, tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

/// A notification with a number in it.
pub fn note(number: u64) -> String {
    json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": {"n": number}}})
        .to_string()
}

/// The number of a notification that [`note`] or the tool `emit` made.
pub fn number_of(message: &Value) -> Option<u64> {
    message["params"]["data"]["n"].as_u64()
}

/// Whether a message tells a gap.
pub fn is_gap(message: &Value) -> bool {
    message["params"]["logger"] == "outlast.stream" && message["params"]["data"]["gap"] == true
}

/// An event stream that was opened.
pub struct Stream {
    pub connection: Connection,
    /// The id of the last event: what a client resumes with.
    pub last: Option<String>,
}

impl Stream {
    async fn of(connection: Connection) -> Self {
        match Self::try_of(connection).await {
            Ok(stream) => stream,
            Err(refused) => panic!("no stream: {} {}", refused.status(), refused.text()),
        }
    }

    async fn try_of(mut connection: Connection) -> Result<Self, Answer> {
        let head = connection.head().await;
        if head.status != 200 {
            return Err(Answer { head, body: connection.body().await });
        }
        let kind = head.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/event-stream"), "no stream: {kind}");
        Ok(Self { connection, last: None })
    }

    /// The next event of any kind.
    pub async fn event(&mut self) -> Option<Event> {
        let event = self.connection.next_event().await?;
        if event.id.is_some() {
            self.last.clone_from(&event.id);
        }
        Some(event)
    }

    /// The next event with a message, and the message.
    pub async fn message(&mut self) -> Option<(Event, Value)> {
        loop {
            let event = self.event().await?;
            if event.data.as_deref().is_some_and(|data| !data.is_empty()) {
                let message = event.json();
                return Some((event, message));
            }
        }
    }

    /// The next `count` messages, which must come.
    pub async fn take(&mut self, count: usize) -> Vec<Value> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            match self.message().await {
                Some((_, message)) => messages.push(message),
                None => panic!("the stream ended after {messages:?}"),
            }
        }
        messages
    }

    /// The numbers of the next `count` messages that have one. A restart also announces its tools; anything else in
    /// between is wrong.
    pub async fn numbers(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::with_capacity(count);
        while numbers.len() < count {
            let message = self.take(1).await.remove(0);
            let announces = message["method"] == "notifications/tools/list_changed";
            assert!(announces || number_of(&message).is_some(), "no number: {message}");
            numbers.extend(number_of(&message));
        }
        numbers
    }

    /// All messages up to the end of the stream, which must come by itself.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut messages = Vec::new();
        while let Some((_, message)) = self.message().await {
            messages.push(message);
        }
        messages
    }
}
