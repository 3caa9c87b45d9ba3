//! The real program, killed again and again while clients call it: counters of sessions, messages that an operator
//! sends, and streams that are resumed. The clients write the history, and the same checker decides.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outlast::base::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::RwLock;
use tokio::task::JoinSet;

use super::checker::{self, Floors, Settings, Verdict};
use super::history::{Answer, Call, Record, What, Why};
use super::lane::{seed, setting};
use super::random::Random;
use super::support::server::Server;

const SESSIONS: u32 = 3;
const COUNTER: &str = "counter";
/// How long an answer may take; more than any does, unless the server has died.
const PATIENCE: Duration = Duration::from_secs(20);

/// One history of all clients.
#[derive(Default)]
struct Notes {
    clock: SystemClock,
    records: Mutex<(u32, u64, Vec<Record>)>,
}

impl Notes {
    fn note(&self, what: What) {
        self.write(|_| what);
    }

    fn invoke(&self, call: Call) -> u64 {
        self.write(|op| What::Invoke { op, call })
    }

    fn write(&self, what: impl FnOnce(u64) -> What) -> u64 {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.1 += 1;
        let (run, op) = (records.0, records.1);
        let at = self.clock.now_ms();
        records.2.push(Record { run, n: 0, at, what: what(op) });
        op
    }

    fn next_run(&self) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
    }

    fn count(&self, of: impl Fn(&What) -> bool) -> usize {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.2.iter().filter(|record| of(&record.what)).count()
    }

    fn history(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).2.clone()
    }
}

/// A request on a connection of its own. None when the connection ended before the answer was whole.
async fn exchange(to: SocketAddr, request: &str, headers: &str, body: &str) -> Option<(u16, String, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(':'));
            lines
                .into_iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
        };
        let whole = header("content-length").and_then(|length| length.parse().ok()) == Some(body.len())
            || header("transfer-encoding").is_some() && body.ends_with("0\r\n\r\n");
        whole.then(|| (status, head.to_owned(), body.to_owned()))
    };
    tokio::time::timeout(PATIENCE, exchange).await.ok().flatten()
}

/// The JSON of an answer, plain or as the last event of a stream.
fn json_of(body: &str) -> Option<Value> {
    let lines = body.lines().rev().map(|line| line.trim().trim_start_matches("data:").trim());
    lines.into_iter().find_map(|line| serde_json::from_str(line).ok().filter(Value::is_object))
}

/// The clients, and what they know.
struct Clients {
    notes: Notes,
    address: SocketAddr,
    admin: SocketAddr,
    token: String,
    sessions: Vec<String>,
    /// Held for writing while there is no server.
    gate: RwLock<()>,
    stop: AtomicBool,
    values: std::sync::atomic::AtomicU64,
}

const REVISION: &str = "2025-06-18";
const ACCEPT: &str = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n";

async fn open_session(address: SocketAddr) -> String {
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": REVISION, "capabilities": {}, "clientInfo": {"name": "crash", "version": "1"},
    }});
    let (status, head, body) = exchange(address, "POST /mcp", ACCEPT, &hello.to_string()).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let id = head.lines().find_map(|line| {
        line.to_lowercase().starts_with("mcp-session-id:").then(|| line[15..].trim().to_owned())
    });
    let id = id.unwrap_or_else(|| panic!("no session: {head}"));
    let headers = session_headers(&id);
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
    let (status, _, body) = exchange(address, "POST /mcp", &headers, &ready).await.unwrap();
    assert_eq!(status, 202, "{body}");
    id
}

fn session_headers(id: &str) -> String {
    format!("{ACCEPT}Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: {REVISION}\r\n")
}

impl Clients {
    /// Calls the counter. None: nobody knows.
    async fn counter(&self, s: u32, by: u64, id: u64) -> Option<u64> {
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": "counter", "arguments": {"by": by}}});
        let headers = session_headers(&self.sessions[s as usize]);
        let (status, _, body) = exchange(self.address, "POST /mcp", &headers, &call.to_string()).await?;
        if status == 503 {
            return None;
        }
        assert_eq!(status, 200, "{body}");
        let answer = json_of(&body)?;
        let value = answer["result"]["structuredContent"]["value"].as_u64();
        Some(value.unwrap_or_else(|| panic!("no number: {body}")))
    }

    fn tell(&self, op: u64, answer: Option<Answer>) {
        self.notes.note(match answer {
            Some(answer) => What::Ok { op, answer },
            None => What::Fail { op, why: Why::Other, text: "no answer".into() },
        });
    }

    async fn count(&self, s: u32) {
        let op = self.notes.invoke(Call::Count { s, field: COUNTER.into() });
        let value = self.counter(s, 1, op).await;
        self.tell(op, value.map(Answer::Count));
    }

    async fn read(&self, s: u32) {
        let op = self.notes.invoke(Call::Read { s });
        let value = self.counter(s, 0, op).await;
        let live =
            |value| Answer::Live { fields: Vec::new(), counters: vec![(COUNTER.into(), value)], seen: None };
        self.tell(op, value.map(live));
    }

    async fn send(&self, s: u32) {
        let value = self.values.fetch_add(1, Ordering::Relaxed) + 1;
        let op = self.notes.invoke(Call::Send { s, value });
        let message = json!({"jsonrpc": "2.0", "method": "notifications/message",
            "params": {"level": "info", "data": {"n": value}}});
        let headers = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", self.token);
        let request = format!("POST /admin/send?sid={}", self.sessions[s as usize]);
        let answer = exchange(self.admin, &request, &headers, &message.to_string()).await;
        self.tell(op, answer.filter(|(status, ..)| *status == 200).map(|_| Answer::Done));
    }

    /// Works on, a step at a time; between steps the server may be restarted.
    async fn work(self: Arc<Self>, mut random: Random) {
        while !self.stop.load(Ordering::Relaxed) {
            let _open = self.gate.read().await;
            let s = random.below(u64::from(SESSIONS)) as u32;
            match random.below(10) {
                0..5 => self.count(s).await,
                5..9 => self.send(s).await,
                _ => self.read(s).await,
            }
        }
    }

    /// Listens to the session's stream, over every restart, from the event after the last one seen.
    async fn listen(self: Arc<Self>, s: u32) {
        let mut last: Option<String> = None;
        loop {
            if self.listen_once(s, &mut last).await.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    async fn listen_once(&self, s: u32, last: &mut Option<String>) -> Option<()> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let (reader, mut writer) = stream.into_split();
        let mut headers = format!(
            "Host: {}\r\nAccept: text/event-stream\r\nMcp-Session-Id: {}\r\nMCP-Protocol-Version: {REVISION}\r\n",
            self.address, self.sessions[s as usize]
        );
        if let Some(last) = &*last {
            headers.push_str(&format!("Last-Event-ID: {last}\r\n"));
        }
        writer.write_all(format!("GET /mcp HTTP/1.1\r\n{headers}\r\n").as_bytes()).await.ok()?;
        let mut lines = BufReader::new(reader).lines();
        let status = lines.next_line().await.ok()??;
        assert!(status.contains(" 200 ") || status.contains(" 503 "), "no stream: {status}");
        // Lines of the chunked framing hold no colon, so they are no fields. Each event comes in chunks of its own.
        let (mut id, mut data) = (None, None);
        while let Some(line) = lines.next_line().await.ok()? {
            if let Some(value) = line.strip_prefix("id:") {
                id = Some(value.trim().to_owned());
            } else if let Some(value) = line.strip_prefix("data:") {
                data = Some(value.trim().to_owned());
            } else if line.is_empty() {
                if id.is_some() {
                    *last = id.take();
                }
                let message = data.take().and_then(|data| serde_json::from_str::<Value>(&data).ok());
                if let Some(value) =
                    message.as_ref().and_then(|message| message["params"]["data"]["n"].as_u64())
                {
                    self.notes.note(What::Told { s, value });
                }
            }
        }
        Some(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_keeps_every_promise_to_its_clients_when_it_is_killed() {
    let seed = seed();
    let mut random = Random::new(seed);
    let kills = setting("CRASH_SERVER_KILLS").unwrap_or(12);
    let dir = Arc::new(tempfile::tempdir().unwrap());
    // Clients that are away for a restart must not lose what is kept for them.
    std::fs::write(
        dir.path().join("config.toml"),
        "[streams]\nmax_entries = 100000\nmax_bytes = 100000000\n",
    )
    .unwrap();
    let mut server = Server::start_in(&dir, &["--diagnostics"], &[]).await;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(open_session(server.address()).await);
    }
    let clients = Arc::new(Clients {
        notes: Notes::default(),
        address: server.address(),
        admin: server.admin(),
        token: server.admin_token(),
        sessions,
        gate: RwLock::default(),
        stop: AtomicBool::new(false),
        values: 0.into(),
    });
    clients.notes.next_run();
    for s in 0..SESSIONS {
        let op = clients.notes.invoke(Call::Create { s, fields: Vec::new() });
        clients.tell(op, Some(Answer::Done));
    }
    let mut listeners = JoinSet::new();
    for s in 0..SESSIONS {
        listeners.spawn(Arc::clone(&clients).listen(s));
    }
    let mut workers = JoinSet::new();
    for _ in 0..6 {
        workers.spawn(Arc::clone(&clients).work(Random::new(random.next())));
    }
    for _ in 0..kills {
        let done = |what: &What| matches!(what, What::Ok { .. });
        let enough = clients.notes.count(done) + 10;
        while clients.notes.count(done) < enough {
            assert!(!workers.is_empty());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.below(100))).await;
        server.kill();
        // What was in flight fails now; nothing begins until the server is back.
        let closed = clients.gate.write().await;
        clients.notes.note(What::Killed);
        clients.notes.next_run();
        server.restart().await;
        drop(closed);
    }
    clients.stop.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    for s in 0..SESSIONS {
        clients.read(s).await;
    }
    // The last words to each session: when they have arrived, everything before them has.
    let before = clients.notes.history();
    let sent = |what: &What| matches!(what, What::Invoke { call: Call::Send { .. }, .. });
    assert!(before.iter().any(|record| sent(&record.what)));
    let first_of_last = clients.values.load(Ordering::Relaxed);
    for s in 0..SESSIONS {
        clients.send(s).await;
    }
    let arrived = |what: &What| matches!(what, What::Told { value, .. } if *value > first_of_last);
    let all = async {
        while clients.notes.count(arrived) < SESSIONS as usize {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Without them the checker says what is missing.
    let _ = tokio::time::timeout(PATIENCE, all).await;
    listeners.abort_all();
    while let Some(listener) = listeners.join_next().await {
        assert!(listener.is_err_and(|error| error.is_cancelled()), "a stream was refused");
    }
    clients.notes.note(What::Final);
    let settings =
        Settings { touch_ms: 0, reads_may_fail: true, writes_may_fail: true, may_be_set_aside: false };
    let kills = kills as usize;
    let floors =
        Floors { kills, counts: 3 * kills, sends: 2 * kills, reads: SESSIONS as usize, ..Floors::default() };
    let verdict = checker::check(&clients.notes.history(), settings, &floors);
    assert!(matches!(verdict, Verdict::Sound(_)), "CRASH_SEED={seed}: {verdict}");
}
