//! A remote server whose every byte the test decides: one request to a connection, written down, and answered by the test.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::until;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Its message; null where there is none.
    pub fn message(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// What it asks for: a method of MCP, or GET and DELETE.
    pub fn asks(&self) -> String {
        self.message()["method"].as_str().unwrap_or(&self.method).to_owned()
    }
}

/// The other end of a request.
pub struct Caller {
    stream: TcpStream,
    id: Value,
}

impl Caller {
    /// Bytes as they are. Who is gone does not get them.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// A whole answer.
    pub async fn answer(mut self, status: u16, headers: &[(&str, &str)], body: &str) {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        self.write(format!(
            "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ))
        .await;
        let _ = self.stream.shutdown().await;
    }

    /// A result in a JSON answer.
    pub async fn result(self, headers: &[(&str, &str)], result: Value) {
        let body = json!({ "jsonrpc": "2.0", "id": self.id, "result": result }).to_string();
        self.answer(200, &[&[("Content-Type", "application/json")], headers].concat(), &body).await;
    }

    /// An error in a JSON answer.
    pub async fn error(self, status: u16, code: i64, message: &str) {
        let body = json!({ "jsonrpc": "2.0", "id": self.id, "error": { "code": code, "message": message } });
        self.answer(status, &[("Content-Type", "application/json")], &body.to_string()).await;
    }

    /// The head of an event stream, which ends with the connection.
    pub async fn begin_stream(&mut self, headers: &[(&str, &str)]) {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.write(format!(
            "HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n{headers}Connection: close\r\n\r\n"
        ))
        .await;
    }

    /// An event with a message.
    pub async fn event(&mut self, id: Option<&str>, message: &Value) {
        let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
        self.write(format!("{id}data: {message}\n\n")).await;
    }

    /// An event with the answer to the request.
    pub async fn event_result(&mut self, result: Value) {
        let message = json!({ "jsonrpc": "2.0", "id": self.id, "result": result });
        self.event(None, &message).await;
    }

    /// Waits until the other end is gone.
    pub async fn gone(&mut self) {
        let mut rest = [0; 64];
        while self.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    }

    /// Passes the request on to a real server, and its answer back as it comes.
    pub async fn pass_to(mut self, server: SocketAddr, request: &Request) {
        let Ok(mut there) = TcpStream::connect(server).await else { return };
        let headers: String = request
            .headers
            .iter()
            .filter(|(name, _)| !["connection", "host"].contains(&name.to_lowercase().as_str()))
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: {server}\r\n{headers}Connection: close\r\n\r\n{}",
            request.method, request.path, request.body
        );
        if there.write_all(head.as_bytes()).await.is_ok() {
            let _ = tokio::io::copy_bidirectional(&mut there, &mut self.stream).await;
        }
    }
}

/// A remote server.
pub struct Peer {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Peer {
    /// One that answers each request by `answer`, in a task of its own.
    pub async fn start<F: Future<Output = ()> + Send + 'static>(
        answer: impl Fn(Request, Caller) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let seen = Arc::clone(&requests);
        let answer = Arc::new(answer);
        let serving = tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                tokio::spawn(async move {
                    let Some(request) = read(&mut stream).await else { return };
                    seen.lock().unwrap().push(request.clone());
                    let id = request.message()["id"].clone();
                    answer(request, Caller { stream, id }).await;
                });
            }
        });
        Self { address, requests, _serving: AbortOnDropHandle::new(serving) }
    }

    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Everything that came, in the order in which it came.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests asked for this.
    pub fn count(&self, asks: &str) -> usize {
        self.requests().iter().filter(|request| request.asks() == asks).count()
    }

    /// Waits until so many requests asked for this.
    pub async fn until(&self, asks: &str, count: usize) {
        until(&format!("{count} of {asks}"), || async { self.count(asks) >= count }).await;
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = bytes.split_off(end);
    while body.len() < length {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        body.extend_from_slice(&part[..read]);
    }
    Some(Request { method, path, headers, body: String::from_utf8(body).unwrap() })
}

/// How a legacy server with one tool, `act`, answers what is no call of it; the call comes back.
pub async fn legacy(request: &Request, caller: Caller) -> Option<Caller> {
    match request.asks().as_str() {
        "server/discover" => caller.error(400, -32000, "Bad Request: Server not initialized").await,
        "initialize" => {
            let result = json!({
                "protocolVersion": "2025-11-25",
                "capabilities": { "tools": {} },
                "serverInfo": { "name": "scripted", "version": "1" },
            });
            caller.result(&[("Mcp-Session-Id", "s-1")], result).await;
        }
        "tools/list" => caller.result(&[], json!({ "tools": tools() })).await,
        "notifications/initialized" | "notifications/cancelled" => caller.answer(202, &[], "").await,
        "GET" => caller.answer(405, &[], "").await,
        "DELETE" => caller.answer(200, &[], "").await,
        _ => return Some(caller),
    }
    None
}

/// How a server of 2026-07-28 with the same tool does.
pub async fn modern(request: &Request, caller: Caller) -> Option<Caller> {
    match request.asks().as_str() {
        "server/discover" => {
            let result = json!({
                "resultType": "complete", "ttlMs": 0, "cacheScope": "public",
                "supportedVersions": ["2026-07-28"],
                "capabilities": { "tools": {}, "extensions": { "io.modelcontextprotocol/tasks": {} } },
                "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "scripted", "version": "2" } },
            });
            caller.result(&[], result).await;
        }
        "tools/list" => {
            let result =
                json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "public", "tools": tools() });
            caller.result(&[], result).await;
        }
        "subscriptions/listen" => caller.error(404, -32601, "Method not found").await,
        _ => return Some(caller),
    }
    None
}

/// `act`, and `look`, which does no harm twice.
fn tools() -> Value {
    let schema = json!({ "type": "object", "properties": { "region": { "type": "string", "x-mcp-header": "Region" } } });
    json!([
        { "name": "act", "description": "acts", "inputSchema": schema },
        { "name": "look", "description": "looks", "inputSchema": { "type": "object" }, "annotations": { "readOnlyHint": true } },
    ])
}

/// A result with one text.
pub fn text(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}
