//! A server with an engine that does what the body says, and a client that speaks bytes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use outlast::auth::token::Tokens;
use outlast::auth::{Authenticate, Open};
use outlast::base::seal::sha256;
use outlast::config::Config;
use outlast::edge::{Answer, App, Endpoint, Frames, Health, Metrics, admin, http};
use outlast::engine::operate::{Command, Outcome};
use outlast::engine::rest::{Ask, Caller, Refused, Told};
use outlast::engine::{Delivery, Inbound, Stats};
use outlast::mcp::era::Refusal;
use outlast::rpc::error::RpcError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The token of servers that have one.
pub const TOKEN: &str = "secret-token";

/// An engine: the body `hang` never answers, `endless` streams without an end, `stream` opens a quiet stream, and
/// everything else comes back as it is.
#[derive(Default)]
pub struct Echo {
    pub calls: AtomicUsize,
    /// Calls and streams that were dropped before they were over.
    pub dropped: Arc<AtomicUsize>,
    pub streams: Mutex<Vec<mpsc::Sender<Bytes>>>,
    pub seen: Mutex<Vec<(String, String)>>,
}

struct Noted(Arc<AtomicUsize>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub enum Source {
    Queue(mpsc::Receiver<Bytes>, #[expect(dead_code, reason = "notes the drop")] Box<dyn Send>),
    Endless(Bytes, #[expect(dead_code, reason = "notes the drop")] Box<dyn Send>),
}

impl Frames for Source {
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self.get_mut() {
            Self::Queue(queue, _) => queue.poll_recv(cx),
            Self::Endless(frame, _) => Poll::Ready(Some(frame.clone())),
        }
    }

    fn is_left_open(&self) -> bool {
        matches!(self, Self::Queue(..))
    }
}

fn whole(status: u16, body: impl Into<Bytes>) -> Answer<Source> {
    Answer::Whole { status, session: None, body: body.into() }
}

impl Echo {
    fn noted(&self) -> Box<Noted> {
        Box::new(Noted(Arc::clone(&self.dropped)))
    }

    fn open(&self) -> Answer<Source> {
        let (sender, receiver) = mpsc::channel(16);
        self.streams.lock().unwrap().push(sender);
        Answer::Stream { session: Some("s1.x".into()), events: Source::Queue(receiver, self.noted()) }
    }

    fn note(&self, inbound: &Inbound<'_>) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let seen = (inbound.principal.name.to_string(), inbound.correlation.to_string());
        self.seen.lock().unwrap().push(seen);
    }
}

impl Endpoint for Echo {
    type Events = Source;

    async fn post(self: &Arc<Self>, inbound: Inbound<'_>, body: Bytes) -> Answer<Source> {
        self.note(&inbound);
        match &*body {
            b"hang" => {
                let _noted = self.noted();
                std::future::pending().await
            }
            b"stream" => self.open(),
            b"endless" => Answer::Stream {
                session: None,
                events: Source::Endless(Bytes::from(vec![b'\n'; 16 * 1024]), self.noted()),
            },
            b"accepted" => whole(202, Bytes::new()),
            _ => whole(200, body),
        }
    }

    async fn get(self: &Arc<Self>, inbound: Inbound<'_>) -> Answer<Source> {
        self.note(&inbound);
        self.open()
    }

    async fn delete(self: &Arc<Self>, inbound: Inbound<'_>) -> Answer<Source> {
        self.note(&inbound);
        whole(200, Bytes::new())
    }

    async fn broadcast(&self, message: Bytes) -> Result<Delivery, RpcError> {
        match &*message {
            b"{}" => Err(RpcError::invalid_request("not a notification")),
            b"fail" => Err(RpcError::internal("the disk failed")),
            _ => Ok(Delivery { delivered: 3, stored: true }),
        }
    }

    async fn send(self: &Arc<Self>, session: &str, message: Bytes) -> Result<Option<Delivery>, RpcError> {
        if session == "s1.known" { self.broadcast(message).await.map(Some) } else { Ok(None) }
    }

    fn converse(
        self: &Arc<Self>,
        _: Arc<outlast::auth::Principal>,
        _: Arc<str>,
    ) -> Option<(outlast::engine::Conversation, tokio::sync::mpsc::Receiver<Bytes>)> {
        None
    }

    async fn rotate_keys(&self) -> Result<u8, RpcError> {
        Ok(2)
    }

    async fn operate(self: &Arc<Self>, command: Command) -> Result<Outcome, Refusal> {
        match command {
            Command::Import { file, .. } => Ok(Outcome::File(file)),
            Command::Lock { .. } => {
                Err(Refusal { status: 409, error: RpcError::invalid_request("somebody else holds the lock") })
            }
            command => Ok(Outcome::Told(format!("{command:?}").into())),
        }
    }

    async fn tail(self: &Arc<Self>, filter: &str) -> Result<Source, Refusal> {
        match filter {
            "all" => Ok(Source::Endless(Bytes::from_static(b"data: {}\n\n"), self.noted())),
            _ => Err(Refusal { status: 400, error: RpcError::invalid_request("no such filter") }),
        }
    }

    async fn rest(self: &Arc<Self>, caller: &Caller, ask: Ask) -> Result<Told, Refused> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.seen.lock().unwrap().push((caller.principal.name.to_string(), caller.correlation.to_string()));
        match ask {
            Ask::Init { .. } => Err(Refused::Unavailable("the store does not answer".into())),
            Ask::Tools { .. } => Ok(Told::Tools("[]".into())),
            Ask::Call { .. } => Err(Refused::NoSession),
            Ask::Shutdown { .. } => Ok(Told::Ended),
        }
    }

    fn stats(&self) -> Stats {
        Stats { streams: 7, ..Stats::default() }
    }
}

/// Counts of the edge.
#[derive(Default)]
pub struct Counts {
    pub requests: Mutex<Vec<(&'static str, u16)>>,
    pub opened: AtomicUsize,
    pub closed: AtomicUsize,
    pub refused: AtomicUsize,
}

impl Metrics for Counts {
    fn request(&self, route: &'static str, status: u16, _: Duration) {
        self.requests.lock().unwrap().push((route, status));
    }

    fn connection_opened(&self) {
        self.opened.fetch_add(1, Ordering::SeqCst);
    }

    fn connection_closed(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }

    fn connection_refused(&self) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }

    fn encode(&self) -> String {
        "# EOF\n".into()
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub engine: Arc<Echo>,
    pub counts: Arc<Counts>,
    pub drain: CancellationToken,
    pub done: JoinHandle<()>,
}

/// A server with the settings as `change` leaves them.
pub async fn start(change: impl FnOnce(&mut Config)) -> Server {
    start_with(Arc::new(Open::default()), change).await
}

/// The same for callers with [`TOKEN`] only.
pub async fn start_closed(change: impl FnOnce(&mut Config)) -> Server {
    start_with(Arc::new(Tokens::new([(sha256(TOKEN.as_bytes()), "alice".into())])), change).await
}

async fn start_with(auth: Arc<dyn Authenticate>, change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".into();
    config.admin.listen = "127.0.0.1:0".into();
    change(&mut config);
    let bound = http::bind(&config.server, &*auth, None).await.unwrap();
    let admin_listener = admin::bind(&config.admin).await.unwrap().unwrap();
    let (address, admin_address) = (bound.local_addr(), admin_listener.local_addr().unwrap());
    let (engine, counts) = (Arc::new(Echo::default()), Arc::new(Counts::default()));
    let app = Arc::new(App {
        engine: Arc::clone(&engine),
        auth,
        config: Arc::new(config),
        health: Arc::new(|| Health {
            ready: false,
            status: "degraded",
            checks: vec![("store".into(), Ok(())), ("tools".into(), Err("child died".into()))],
            mode: "local",
            redis: None,
        }),
        metrics: Arc::clone(&counts) as Arc<dyn Metrics>,
        bridge: outlast::edge::BridgeTexts::default(),
    });
    let drain = CancellationToken::new();
    let public = bound.serve(Arc::clone(&app), drain.clone());
    let private = admin::serve(admin_listener, app, "admin-token".into(), drain.clone());
    let done = tokio::spawn(async move {
        tokio::join!(public, private);
    });
    Server { address, admin: admin_address, engine, counts, drain, done }
}

/// Waits until `test` holds.
pub async fn until(what: &str, mut test: impl FnMut() -> bool) {
    let waiting = async {
        while !test() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// What a server answered.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The sentence of an error body, which must be a JSON-RPC error.
    pub fn sentence(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).expect(&self.body);
        assert_eq!(body["jsonrpc"], "2.0");
        assert_eq!(body["error"]["code"], -32_600, "{body}");
        body["error"]["message"].as_str().expect("a message").to_owned()
    }
}

/// A connection that sends what it is told to.
pub struct Raw {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

impl Raw {
    pub async fn to(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).await.unwrap())
    }

    pub fn of(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads more; false at the end.
    pub async fn more(&mut self) -> bool {
        let mut piece = [0; 4096];
        let read = timeout(PATIENCE, self.stream.read(&mut piece)).await.expect("something is sent");
        // A reset is an end as well.
        let count = read.unwrap_or(0);
        self.unread.extend_from_slice(&piece[..count]);
        count > 0
    }

    /// Reads until `end` was seen, and takes everything up to and with it.
    pub async fn take_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end.as_bytes()) {
                let rest = self.unread.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap();
            }
            let so_far = String::from_utf8_lossy(&self.unread).into_owned();
            assert!(self.more().await, "the connection ended before {end:?}: {so_far:?}");
        }
    }

    /// Reads status and headers.
    pub async fn head(&mut self) -> Response {
        let head = self.take_until("\r\n\r\n").await;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(':').unwrap());
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
        Response { status, headers, body: String::new() }
    }

    /// Reads an answer with a body of declared length.
    pub async fn response(&mut self) -> Response {
        let mut response = self.head().await;
        let length: usize = response.header("content-length").parse().unwrap_or(0);
        while self.unread.len() < length {
            assert!(self.more().await, "the body broke off: {response:?}");
        }
        let rest = self.unread.split_off(length);
        response.body = String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap();
        response
    }

    /// Waits until the server closes; everything it sent before that.
    pub async fn end(mut self) -> Vec<u8> {
        while self.more().await {}
        self.unread
    }
}

/// One request on a connection of its own. `head` is the request line and headers beside Host and Content-Length.
pub async fn ask(address: SocketAddr, head: &str, body: &str) -> Response {
    let mut raw = Raw::to(address).await;
    let host = if head.to_lowercase().contains("\nhost:") { "" } else { "Host: localhost\r\n" };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    raw.send(format!("{}\r\n{host}{length}\r\n{body}", head.replace('\n', "\r\n"))).await;
    raw.response().await
}

/// A POST of JSON.
pub const POST: &str = "POST /mcp HTTP/1.1\nContent-Type: application/json";
