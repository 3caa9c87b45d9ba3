//! Real server processes, each with a data directory and a way to Redis of its own, and legacy clients over HTTP that
//! move between them. Processes are killed at any moment, also in the middle of a healing.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outlast::base::clock::{Clock as _, SystemClock};
use outlast::state::cursor::EventId;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::failover::checker::{Settings, Verdict, check};
use super::failover::history::{self, Answer, Call, History, Link, Record, Stop, What};
use super::failover::random::Random;
use super::proxy::Proxy;
use super::stores::{setting, span};
use super::storm::Storm;
use super::support::http::Connection;
use super::support::server::Server;
use super::support::session::{Session, is_gap, note, number_of, silent_call};
use super::topology::{Form, Topology};

const SERVERS: usize = 3;
/// Sessions that are made; every fourth is ended.
const SESSIONS: u32 = 16;
/// A request that takes longer than this is given up.
const GIVE_UP: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(100);

/// Where a server listens; that stays over its restarts.
struct Home {
    address: SocketAddr,
    admin: SocketAddr,
    authorization: String,
}

struct Field {
    history: Arc<History>,
    clock: Arc<SystemClock>,
    homes: Vec<Home>,
    values: AtomicU64,
    over: AtomicBool,
}

type Whole = super::support::http::Answer;

impl Field {
    fn note(&self, what: What) {
        self.history.note(self.clock.now_ms(), what);
    }

    fn begin(&self, at: usize, call: Call) -> u64 {
        self.history.invoke(self.clock.now_ms(), at as u32, Link::Unknown, call)
    }

    /// What became of an operation: done, gone, or nobody knows.
    fn end(&self, op: u64, answer: Option<&Whole>, done: impl FnOnce(&Whole) -> Option<Answer>) {
        let answered = match answer.map(Whole::status) {
            Some(404) => Some(Answer::NotFound),
            Some(200 | 202 | 204) => answer.and_then(done),
            _ => None,
        };
        match answered {
            Some(answer) => self.note(What::Ok { op, link: Link::Unknown, shared: false, answer }),
            None => {
                let text =
                    answer.map(|answer| format!("{} {}", answer.status(), answer.text())).unwrap_or_default();
                self.note(What::Info { op, text });
            }
        }
    }

    async fn exchange(
        &self,
        to: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<Whole> {
        let exchange = Connection::try_exchange(to, method, path, headers, body.as_bytes());
        timeout(GIVE_UP, exchange).await.ok().flatten()
    }

    async fn post(&self, at: usize, session: &Session, message: &Value) -> Option<Whole> {
        let headers = [
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
            ("Mcp-Session-Id", session.id.as_str()),
            ("MCP-Protocol-Version", session.revision.as_str()),
        ];
        self.exchange(self.homes[at].address, "POST", "/mcp", &headers, &message.to_string()).await
    }

    async fn count(&self, at: usize, s: u32, session: &Session, by: u64) {
        let call = if by == 0 { Call::ReadCount { s } } else { Call::Count { s } };
        let op = self.begin(at, call);
        let request = silent_call(&json!(op), "counter", json!({ "by": by }));
        let answer = self.post(at, session, &request).await;
        let value = |whole: &Whole| {
            let text = whole.text();
            let data = text.lines().rev().find_map(|line| line.strip_prefix("data:")).unwrap_or(&text);
            let message: Value = serde_json::from_str(data.trim()).ok()?;
            message["result"]["structuredContent"]["value"].as_u64().map(Answer::Count)
        };
        self.end(op, answer.as_ref(), value);
    }

    async fn say(&self, at: usize, s: Option<(u32, &Session)>) {
        let value = self.values.fetch_add(1, Ordering::Relaxed) + 1;
        let home = &self.homes[at];
        let (call, path) = match s {
            Some((s, session)) => (
                Call::Append { s, stream: "g".into(), value, trims: Vec::new() },
                format!("/admin/send?sid={}", session.id),
            ),
            None => (Call::Broadcast { value }, "/admin/broadcast".into()),
        };
        let op = self.begin(at, call);
        let headers = [("Authorization", home.authorization.as_str()), ("Content-Type", "application/json")];
        let answer = self.exchange(home.admin, "POST", &path, &headers, &note(value)).await;
        self.end(op, answer.as_ref(), |_| Some(Answer::Done));
    }

    async fn terminate(&self, at: usize, s: u32, session: &Session) {
        let op = self.begin(at, Call::Terminate { s });
        let headers =
            [("Mcp-Session-Id", session.id.as_str()), ("MCP-Protocol-Version", session.revision.as_str())];
        let answer = self.exchange(self.homes[at].address, "DELETE", "/mcp", &headers, "").await;
        self.end(op, answer.as_ref(), |_| Some(Answer::Done));
    }
}

/// A client's GET stream, wherever it is read.
struct Reader {
    number: u32,
    s: u32,
    session: Session,
    last: Option<String>,
    /// Nothing more is asked of a session that was ended.
    ended: Arc<AtomicBool>,
}

impl Reader {
    /// Reads on a server for a while; how many messages came.
    async fn read(&mut self, field: &Field, at: usize, span: Duration) -> usize {
        let read = async {
            let mut connection = Connection::try_open(field.homes[at].address).await.ok()?;
            let mut text = format!(
                "GET /mcp HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nMcp-Session-Id: {}\r\n\
                 MCP-Protocol-Version: {}\r\n",
                field.homes[at].address, self.session.id, self.session.revision
            );
            if let Some(last) = &self.last {
                text.push_str(&format!("Last-Event-ID: {last}\r\n"));
            }
            text.push_str("\r\n");
            connection.send(text.as_bytes()).await.ok()?;
            let head = connection.try_head().await?;
            Some((head.status, connection))
        };
        let Ok(Some((status, mut connection))) = timeout(GIVE_UP, read).await else { return 0 };
        if status == 404 {
            let op = field.begin(at, Call::Read { s: self.s });
            field.note(What::Ok { op, link: Link::Unknown, shared: false, answer: Answer::NotFound });
        }
        if status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            return 0;
        }
        field.note(What::Resumed { client: self.number, instance: at as u32 });
        let (mut count, until) = (0, Instant::now() + span);
        while let Ok(Some(event)) = tokio::time::timeout_at(until, connection.next_event()).await {
            // Taken in as a whole or not at all: the message with the id that says so.
            let message = event.data.as_deref().filter(|data| !data.is_empty());
            let message = message.and_then(|data| serde_json::from_str::<Value>(data).ok());
            let id = event.id.as_deref().and_then(|id| EventId::parse(id).ok());
            if event.id.is_some() {
                self.last.clone_from(&event.id);
            }
            let Some(message) = message else { continue };
            if is_gap(&message) {
                field.note(What::Gap { client: self.number, upto: Vec::new() });
            }
            let place = id.and_then(|id| id.cursor.pairs().last());
            if let (Some(value), Some((origin, seq))) = (number_of(&message), place) {
                count += 1;
                let (client, s, origin) = (self.number, self.s, origin.bits());
                field.note(What::Delivered { client, s, origin, seq, value });
            }
        }
        count
    }
}

async fn live(field: Arc<Field>, s: u32, mut random: Random, readers: Arc<Mutex<Vec<Reader>>>) {
    let home = s as usize % SERVERS;
    // The id of the session must be known to both sides, so a server that dies meanwhile is asked again.
    let session = loop {
        if field.over.load(Ordering::SeqCst) {
            return;
        }
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "chaos", "version": "1"},
        }});
        let headers =
            [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
        let answer =
            field.exchange(field.homes[home].address, "POST", "/mcp", &headers, &body.to_string()).await;
        if let Some(id) = answer.as_ref().and_then(|answer| answer.header("mcp-session-id")) {
            break Session {
                address: field.homes[home].address,
                id: id.to_owned(),
                revision: "2025-11-25".to_owned(),
                bearer: None,
            };
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let op = field.begin(home, Call::Create { s, fields: Vec::new() });
    field.note(What::Ok { op, link: Link::Unknown, shared: false, answer: Answer::Done });
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    while field.post(home, &session, &ready).await.is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if field.over.load(Ordering::SeqCst) {
            return;
        }
    }
    let ended = Arc::new(AtomicBool::new(false));
    let mut reader = Reader { number: s, s, session: session.clone(), last: None, ended: Arc::clone(&ended) };
    // Subscribed is who has an event id.
    while reader.last.is_none() && !field.over.load(Ordering::SeqCst) {
        reader.read(&field, home, Duration::from_millis(300)).await;
    }
    if reader.last.is_none() {
        return;
    }
    field.note(What::Subscribed { client: s, s, stream: "g".into() });
    let reading = {
        let (field, mut random) = (Arc::clone(&field), Random::new(random.next()));
        tokio::spawn(async move {
            while !field.over.load(Ordering::SeqCst) && !reader.ended.load(Ordering::SeqCst) {
                let (at, ms) = (random.below(SERVERS as u64) as usize, 50 + random.below(700));
                reader.read(&field, at, Duration::from_millis(ms)).await;
            }
            reader
        })
    };
    let begun = Instant::now();
    let end = (s % 4 == 3).then(|| span() * 2 / 3);
    while !field.over.load(Ordering::SeqCst) {
        if end.is_some_and(|end| begun.elapsed() > end) {
            ended.store(true, Ordering::SeqCst);
            field.terminate(home, s, &session).await;
            break;
        }
        let at = random.below(SERVERS as u64) as usize;
        match random.below(20) {
            0..8 => field.count(home, s, &session, 1).await,
            8..19 => field.say(at, Some((s, &session))).await,
            _ => field.say(at, None).await,
        }
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
    }
    if let Ok(reader) = reading.await {
        readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
    }
}

async fn run(form: Form, seed: u64) -> Vec<Record> {
    let mut random = Random::new(seed);
    let topology = tokio::task::spawn_blocking(move || Topology::start(form)).await.unwrap();
    let clock = Arc::new(SystemClock::default());
    let history = Arc::new(History::in_memory());
    let (url, ports) = (topology.url(), topology.ports());
    let proxies: Vec<Arc<Proxy>> = (0..SERVERS).map(|_| Arc::new(Proxy::start(&ports))).collect();
    let mut servers = Vec::new();
    for (at, proxy) in proxies.iter().enumerate() {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let cluster = if form == Form::Cluster { "true" } else { "false" };
        let variables = [("OUTLAST_REDIS__CLUSTER", cluster)];
        let server =
            Server::start_in(&dir, &["--diagnostics", "--redis", &proxy.url(&url)], &variables).await;
        history.note(clock.now_ms(), What::Start { instance: at as u32, origin: at as u64 });
        servers.push(server);
    }
    let homes = servers.iter().map(|server| Home {
        address: server.address(),
        admin: server.admin(),
        authorization: format!("Bearer {}", server.admin_token()),
    });
    let field = Arc::new(Field {
        history: Arc::clone(&history),
        clock: Arc::clone(&clock),
        homes: homes.collect(),
        values: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    // Before the storm they agree on their keys: ids of one are then good for all.
    for at in 0..SERVERS {
        until_healed(&field, at, false).await;
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut storm = Storm {
        topology,
        proxies,
        history,
        clock,
        random: Random::new(seed ^ 0xf00d),
        rate: setting("CHAOS_RATE").unwrap_or(10),
        over: Arc::clone(&over),
        large: 0,
    };
    let raging = std::thread::spawn(move || {
        storm.rage();
        storm
    });
    let readers = Arc::new(Mutex::new(Vec::new()));
    let mut lives = Vec::new();
    for s in 1..=SESSIONS {
        let life = live(Arc::clone(&field), s, Random::new(random.next()), Arc::clone(&readers));
        lives.push(tokio::spawn(life));
    }
    let end = Instant::now() + span();
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1_000 + random.below(4_000))).await;
        let at = random.below(SERVERS as u64) as usize;
        servers[at].kill();
        field.note(What::Stop { instance: at as u32, how: Stop::Killed });
        servers[at].restart().await;
        field.note(What::Start { instance: at as u32, origin: at as u64 });
    }
    field.over.store(true, Ordering::SeqCst);
    over.store(true, Ordering::SeqCst);
    let storm = tokio::task::spawn_blocking(move || raging.join()).await.unwrap().unwrap();
    for life in lives {
        life.await.unwrap();
    }
    for at in 0..SERVERS {
        until_healed(&field, at, false).await;
    }
    field.note(What::Quiet);
    for at in 0..SERVERS {
        until_healed(&field, at, true).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    field.note(What::Final);
    let readers = std::mem::take(&mut *readers.lock().unwrap_or_else(PoisonError::into_inner));
    let mut last = JoinSet::new();
    for mut reader in readers {
        let field = Arc::clone(&field);
        last.spawn(async move {
            for at in 0..SERVERS {
                field.count(at, reader.s, &reader.session, 0).await;
            }
            if !reader.ended.load(Ordering::SeqCst) {
                for at in 0..SERVERS {
                    while reader.read(&field, at, Duration::from_millis(1_500)).await > 0 {}
                }
            }
        });
    }
    while let Some(read) = last.join_next().await {
        read.unwrap();
    }
    for server in &mut servers {
        server.kill();
    }
    drop(storm);
    field.history.take()
}

/// Waits until a server has its links and owes nothing.
async fn until_healed(field: &Field, at: usize, tell: bool) {
    let home = &field.homes[at];
    let headers = [("Authorization", home.authorization.as_str())];
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = field.exchange(home.admin, "GET", "/admin/status", &headers, "").await;
        let status: Value =
            answer.and_then(|answer| serde_json::from_str(&answer.text()).ok()).unwrap_or_default();
        let sharing = &status["redis"]["sharing"];
        let owes = sharing["dirty_sessions"].as_u64().unwrap_or(1);
        let healed = status["mode"] == "redis" && owes == 0 && sharing["auditing"] == false;
        if tell {
            let sessions = if healed { 0 } else { owes.max(1) };
            field.note(What::Owes { instance: at as u32, sessions });
        }
        if healed {
            return;
        }
        assert!(Instant::now() < until, "server {at} does not heal: {status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[expect(clippy::print_stderr, reason = "a run says what it was")]
fn weather(form: Form) {
    let seed = setting("CHAOS_SEED").unwrap_or_else(|| SystemClock::default().now_ms() % 1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bound = span() * 2 + Duration::from_secs(240);
    let history = runtime.block_on(async { timeout(bound, run(form, seed)).await });
    let history =
        history.unwrap_or_else(|_| panic!("CHAOS_SEED={seed} against {}: no end in sight", form.name()));
    drop(runtime);
    let settings = Settings { looks_inside: false, heal_per_second: 50, ..Settings::default() };
    let seconds = span().as_secs();
    let floors = [
        ("create", 8),
        ("count", seconds),
        ("append", seconds),
        ("broadcast", 1),
        ("delivered", seconds),
        ("resumed", seconds / 2),
        ("fault:crash", seconds / 10),
    ];
    match check(&history, &settings, &floors) {
        Verdict::Sound(summary) => eprintln!("servers, {} seed {seed}, {seconds} s: {summary}", form.name()),
        verdict => {
            let path =
                Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("servers-{}-{seed}.jsonl", form.name()));
            history::keep(&path, &history);
            panic!("CHAOS_SEED={seed} against {}: {verdict}\nhistory: {}", form.name(), path.display());
        }
    }
}

#[test]
fn servers_on_a_single_redis_break_no_word() {
    weather(Form::Single);
}

#[test]
fn servers_with_sentinels_break_no_word() {
    weather(Form::Sentinel);
}

#[test]
fn servers_on_a_cluster_break_no_word() {
    weather(Form::Cluster);
}
