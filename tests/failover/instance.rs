//! Operations on the store of one instance, each with its lines in the history; and clients that read streams. It does
//! what the layer above the store does: sessions that are not known go on, numbers of entries are given, logs are joined
//! with what is shared of them, event ids say where a client is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use outlast::base::ids::SessionKey;
use outlast::base::limits::MAX_EVENT_ID_BYTES;
use outlast::state::cursor::{Cursor, EventId};
use outlast::state::doc::Doc;
use outlast::state::lock::Token;
use outlast::state::log::{Entry, Kind, Log, Position, Retention, StreamName};
use outlast::state::result::{self, Outcome, TERMINAL};
use outlast::store::remote::Remote;
use outlast::store::share::Watch;
use outlast::store::{Guard, Lookup, ResultId, Store, StoreError};
use tokio::sync::oneshot;

use super::history::{Answer, Call, FieldRead, History, Link, Reported, Run, What, Why};

/// Where instances stand: what only who runs them knows.
pub trait Ground: Send + Sync {
    /// True time, milliseconds.
    fn now_ms(&self) -> u64;
    /// The key of a session, and its deadline.
    fn key(&self, s: u32) -> SessionKey;
    /// The link of an instance to what has this session, or `None` for a lock: this name.
    fn link(&self, instance: u32, of: Result<SessionKey, &str>) -> Link;
    /// Whether a field with this stamp is in the shared store now.
    fn has_field(&self, key: SessionKey, name: &str, stamp: &str) -> bool;
    /// Whether an entry is in the shared store now.
    fn has_entry(&self, key: SessionKey, origin: u64, seq: u64) -> bool;
}

/// Mistakes in how clients are served.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    pub cursor_from_instance: bool,
    pub cursor_forgotten: bool,
    pub not_found_while_down: bool,
    pub gap_untold: bool,
}

/// What all instances of a run have in common.
pub struct Common {
    pub history: Arc<History>,
    pub ground: Arc<dyn Ground>,
    pub manners: Manners,
    pub deadline_ms: u64,
    /// A log that is longer is cut.
    pub keep: usize,
}

/// The sessions that an instance holds in memory, and of which it wants to hear.
#[derive(Default)]
struct Held {
    keys: Mutex<BTreeMap<SessionKey, u32>>,
    /// Logs of which something was heard.
    logs: Mutex<BTreeSet<SessionKey>>,
}

impl Watch for Held {
    fn watches(&self, key: SessionKey) -> bool {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&key)
    }

    fn watched(&self) -> Vec<SessionKey> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn document(&self, _key: SessionKey, _doc: &Arc<Doc>) {}

    fn ended(&self, key: SessionKey) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    fn log(&self, key: SessionKey) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    fn lapsed(&self) {}

    fn result(&self, _key: SessionKey, _name: &str, _outcome: Outcome) {}
}

/// A running instance.
pub struct Instance {
    pub number: u32,
    pub store: Arc<Store>,
    pub run: Arc<Common>,
    /// The last number that this start gave in a session, under a lock that is held while an entry is given one.
    given: Mutex<HashMap<u32, Arc<tokio::sync::Mutex<u64>>>>,
    held: Arc<Held>,
    remote: Arc<dyn Remote>,
}

/// Whoever reads a stream.
#[derive(Clone, Debug)]
pub struct Client {
    pub number: u32,
    pub s: u32,
    pub stream: StreamName,
    /// The last event id.
    pub cursor: Option<String>,
}

enum Served {
    Live(Arc<Doc>),
    Ended,
    NotFound,
}

fn stream_text(stream: StreamName) -> String {
    stream.as_str().to_owned()
}

/// A value as bytes, and back.
pub fn bytes(value: u64) -> Bytes {
    Bytes::from(format!("{{\"value\":{value},\"filler\":\"{}\"}}", "x".repeat((value % 97) as usize)))
}

fn value_of(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let digits = text.strip_prefix("{\"value\":").and_then(|rest| rest.split(',').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX)
}

fn fields_of(doc: &Doc) -> Vec<FieldRead> {
    let field = |(name, field): (&str, &outlast::state::doc::Field)| FieldRead {
        name: name.to_owned(),
        value: field.value.as_deref().map(value_of),
        stamp: field.stamp.to_string(),
    };
    doc.stamped().map(field).collect()
}

impl Instance {
    pub fn new(number: u32, store: Arc<Store>, run: Arc<Common>, remote: Arc<dyn Remote>) -> Self {
        let held: Arc<Held> = Arc::default();
        store.watch(Arc::<Held>::clone(&held));
        Self { number, store, run, given: Mutex::default(), held, remote }
    }

    /// What an instance does by itself for a moment: looks at what it heard of, pays for so many sessions.
    pub async fn heal(&self, sessions: usize) {
        // While the shared store is away there is nobody to agree with.
        let _ = self.store.agree().await;
        self.store.look_now().await;
        self.look_at_logs().await;
        // A disk that fails is found out by the operations.
        let _ = self.store.heal_some(sessions).await;
        let _ = self.store.audit_some(sessions).await;
        let _ = self.store.clear_debts().await;
    }

    /// Reads the logs of which something was heard.
    pub async fn look_at_logs(&self) {
        let logs = std::mem::take(&mut *self.held.logs.lock().unwrap_or_else(PoisonError::into_inner));
        for key in logs {
            let _ = self.log(key).await;
        }
    }

    fn link(&self, s: u32) -> Link {
        self.run.ground.link(self.number, Ok(self.run.ground.key(s)))
    }

    fn begin(&self, link: Link, call: Call) -> u64 {
        self.run.history.invoke(self.run.ground.now_ms(), self.number, link, call)
    }

    fn note(&self, what: What) {
        self.run.history.note(self.run.ground.now_ms(), what);
    }

    fn done(&self, op: u64, link: Link, shared: bool, answer: Answer) {
        self.note(What::Ok { op, link, shared, answer });
    }

    fn failed(&self, op: u64, link: Link, error: &StoreError) {
        let text = error.to_string();
        let why = match error {
            StoreError::Gone => Some(Why::Gone),
            StoreError::Held { .. } | StoreError::NotHolder { .. } | StoreError::Fenced { .. } => {
                Some(Why::Held)
            }
            StoreError::Full(_) => Some(Why::Refused),
            // It may have been given to nobody who knows.
            StoreError::Unshared { .. } => None,
            error if error.is_refusal() => Some(Why::Away),
            _ => None,
        };
        match why {
            Some(why) => self.note(What::Fail { op, link, why, text }),
            None => self.note(What::Info { op, text }),
        }
    }

    /// What an instance does with the id of a session that it issued, or a sister did.
    async fn serve(&self, s: u32) -> Result<Served, StoreError> {
        let key = self.run.ground.key(s);
        Ok(match self.store.load(key).await? {
            Lookup::Live(doc) => {
                self.held.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key, s);
                Served::Live(doc)
            }
            Lookup::Terminated => Served::Ended,
            Lookup::Unknown if self.run.manners.not_found_while_down && !self.link(s).is_up() => {
                Served::NotFound
            }
            Lookup::Unknown => {
                match self.store.create(key, "somebody", self.run.deadline_ms, Vec::new()).await {
                    Ok(doc) => Served::Live(doc),
                    Err(StoreError::Gone) => Served::Ended,
                    Err(error) => return Err(error),
                }
            }
        })
    }

    pub async fn create(&self, s: u32, fields: Vec<(String, u64)>) -> bool {
        let key = self.run.ground.key(s);
        let op = self.begin(self.link(s), Call::Create { s, fields: fields.clone() });
        let writes = fields.iter().map(|(name, value)| (name.clone(), Some(bytes(*value)))).collect();
        match self.store.create(key, "somebody", self.run.deadline_ms, writes).await {
            Ok(doc) => {
                let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
                self.written(op, s, &doc, &names);
                true
            }
            Err(error) => {
                self.failed(op, self.link(s), &error);
                false
            }
        }
    }

    fn written(&self, op: u64, s: u32, doc: &Doc, names: &[&str]) {
        let key = self.run.ground.key(s);
        let stamp = |name: &&str| Some(((*name).to_owned(), doc.field(name)?.stamp.to_string()));
        let stamps: Vec<(String, String)> = names.iter().filter_map(stamp).collect();
        let shared = stamps.iter().all(|(name, stamp)| self.run.ground.has_field(key, name, stamp));
        self.done(op, self.link(s), shared && !stamps.is_empty(), Answer::Stamped(stamps));
    }

    pub async fn put(&self, s: u32, field: &str, value: Option<u64>, fence: Option<(String, u64)>) {
        let key = self.run.ground.key(s);
        let call = Call::Put { s, field: field.to_owned(), value, fence: fence.clone() };
        let op = self.begin(self.link(s), call);
        let result = async {
            match self.serve(s).await? {
                Served::Live(_) => {}
                Served::Ended => return Ok(Err(Answer::Ended)),
                Served::NotFound => return Ok(Err(Answer::NotFound)),
            }
            let writes = vec![(field.to_owned(), value.map(bytes))];
            let doc = match &fence {
                Some((lock, fence)) => self.store.update_if(key, Guard::fence(lock, *fence), writes).await?,
                None => self.store.update(key, writes).await?,
            };
            Ok::<_, StoreError>(Ok(doc))
        };
        match result.await {
            Ok(Ok(doc)) => self.written(op, s, &doc, &[field]),
            Ok(Err(answer)) => self.done(op, self.link(s), false, answer),
            Err(error) => self.failed(op, self.link(s), &error),
        }
    }

    pub async fn terminate(&self, s: u32) {
        let key = self.run.ground.key(s);
        let op = self.begin(self.link(s), Call::Terminate { s });
        match self.store.terminate(key, self.run.deadline_ms).await {
            Ok(()) => self.done(op, self.link(s), false, Answer::Done),
            Err(error) => self.failed(op, self.link(s), &error),
        }
    }

    pub async fn read(&self, s: u32) {
        let op = self.begin(self.link(s), Call::Read { s });
        match self.serve(s).await {
            Ok(Served::Live(doc)) => self.done(op, self.link(s), false, Answer::Live(fields_of(&doc))),
            Ok(Served::Ended) => self.done(op, self.link(s), false, Answer::Ended),
            Ok(Served::NotFound) => self.done(op, self.link(s), false, Answer::NotFound),
            Err(error) => self.failed(op, self.link(s), &error),
        }
    }

    fn given(&self, s: u32) -> Arc<tokio::sync::Mutex<u64>> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(given.entry(s).or_default())
    }

    pub async fn append(&self, s: u32, stream: StreamName, value: u64, trim: bool) {
        let key = self.run.ground.key(s);
        let given = self.given(s);
        let mut given = given.lock().await;
        let mut cuts = Vec::new();
        if trim && let Ok(mut log) = self.store.log(key).await {
            let keep = Retention { entries: self.run.keep, bytes: usize::MAX, age_ms: u64::MAX / 2 };
            cuts = log.trim(keep, self.run.ground.now_ms(), None);
        }
        let trims = cuts.iter().map(|cut| (cut.origin.bits(), cut.base)).collect();
        let op = self.begin(self.link(s), Call::Append { s, stream: stream_text(stream), value, trims });
        let origin = self.store.origin();
        let result = async {
            match self.serve(s).await? {
                Served::Live(_) => {}
                Served::Ended => return Ok(Err(Answer::Ended)),
                Served::NotFound => return Ok(Err(Answer::NotFound)),
            }
            let entry = Entry {
                origin,
                seq: *given + 1,
                at_ms: self.run.ground.now_ms(),
                kind: Kind::Message,
                stream,
                payload: bytes(value),
            };
            let place = self.store.place().await?;
            let (tell, told) = oneshot::channel();
            let done = Box::new(move |result| drop(tell.send(result)));
            self.store.append(place, key, vec![entry], cuts, done);
            told.await.unwrap_or(Err(StoreError::Closed))?;
            self.share(key).await;
            Ok::<_, StoreError>(Ok(*given + 1))
        };
        match result.await {
            Ok(Ok(seq)) => {
                *given = seq;
                let shared = self.run.ground.has_entry(key, origin.bits(), seq);
                self.done(op, self.link(s), shared, Answer::Placed(origin.bits(), seq));
            }
            Ok(Err(answer)) => self.done(op, self.link(s), false, answer),
            Err(error) => self.failed(op, self.link(s), &error),
        }
    }

    async fn share(&self, key: SessionKey) {
        self.store.share(key).await;
    }

    /// The log of a session, joined with what is shared of it.
    async fn log(&self, key: SessionKey) -> Result<Log, StoreError> {
        let mut log = self.store.log(key).await?;
        if let Some(pulled) = self.store.pull_log(key, None).await {
            let (mut fresh, mut lacks) = (Vec::new(), false);
            for entry in pulled.entries {
                if matches!(log.union(entry.clone()), Ok(true)) {
                    fresh.push(entry);
                }
            }
            for (origin, base, hw) in log.marks() {
                let there = pulled.marks.iter().find(|(of, _)| *of == origin).map_or(0, |(_, hw)| *hw);
                lacks |= hw >= base && there < hw;
            }
            if !fresh.is_empty() {
                let place = self.store.place().await?;
                let (tell, told) = oneshot::channel();
                let done = Box::new(move |result| drop(tell.send(result)));
                self.store.adopt(place, key, fresh, Vec::new(), Vec::new(), done);
                told.await.unwrap_or(Err(StoreError::Closed))?;
            }
            if lacks {
                self.store.owe_log(key);
                self.share(key).await;
            }
        }
        log.sort_runs();
        Ok(log)
    }

    pub async fn read_log(&self, s: u32) {
        let key = self.run.ground.key(s);
        let op = self.begin(self.link(s), Call::ReadLog { s });
        let read = async {
            if let Served::Ended | Served::NotFound = self.serve(s).await? {
                return Ok(None);
            }
            self.log(key).await.map(Some)
        };
        match read.await {
            Ok(Some(log)) => {
                let run = |(origin, base, hw): (outlast::base::ids::Origin, u64, u64)| {
                    let entries = log.entries().filter(|entry| entry.origin == origin);
                    let entry =
                        |entry: &Entry| (entry.seq, stream_text(entry.stream), value_of(&entry.payload));
                    Run { origin: origin.bits(), base, hw, entries: entries.map(entry).collect() }
                };
                let runs = log.marks().map(run).collect();
                self.done(op, self.link(s), false, Answer::Log(runs));
            }
            Ok(None) => self.done(op, self.link(s), false, Answer::Ended),
            Err(error) => self.failed(op, self.link(s), &error),
        }
    }

    /// A client comes and takes at most `max` entries. Returns how many it got.
    pub async fn deliver(&self, client: &mut Client, max: usize) -> usize {
        let key = self.run.ground.key(client.s);
        if !matches!(self.serve(client.s).await, Ok(Served::Live(_))) {
            return 0;
        }
        let Ok(log) = self.log(key).await else { return 0 };
        self.note(What::Resumed { client: client.number, instance: self.number });
        let seen = client.cursor.as_deref().and_then(|id| EventId::parse(id).ok()).map(|id| id.cursor);
        let mut seen: Cursor = seen.unwrap_or_default();
        if self.run.manners.cursor_from_instance {
            // Everything that the instance knows counts as seen as soon as anything was.
            let begun = !seen.is_empty();
            for (origin, _, hw) in log.marks().filter(|_| begun) {
                if seen.seen(origin) == 0 {
                    seen.advance(origin, hw);
                }
            }
        }
        if self.run.manners.cursor_forgotten {
            seen = Cursor::default();
        }
        let before = seen.clone();
        let mut position = Position::at(seen);
        let mut got = Vec::new();
        let origin = self.store.origin();
        let gap = log.visit_owed(client.stream, &mut position, origin, u64::MAX, max, |entry, cursor| {
            got.push((
                entry.origin.bits(),
                entry.seq,
                value_of(&entry.payload),
                cursor.event_id(client.stream),
            ));
        });
        if gap && !self.run.manners.gap_untold {
            let upto = log
                .marks()
                .filter(|(origin, base, _)| before.seen(*origin) + 1 < *base)
                .map(|(origin, base, _)| (origin.bits(), base - 1))
                .collect();
            self.note(What::Gap { client: client.number, upto });
        }
        if gap || !got.is_empty() {
            let id = position.seen.event_id(client.stream);
            self.note(What::Measure {
                instance: self.number,
                name: "event id".into(),
                value: id.len() as u64,
                bound: MAX_EVENT_ID_BYTES as u64,
            });
            client.cursor = Some(id);
        }
        let count = got.len();
        for (origin, seq, value, _) in got {
            self.note(What::Delivered { client: client.number, s: client.s, origin, seq, value });
        }
        count
    }

    pub async fn report(&self, s: u32, name: &str, fence: u64, rev: u64, terminal: bool, value: u64) {
        let key = self.run.ground.key(s);
        let call = Call::Report { s, name: name.to_owned(), fence, rev, terminal, value };
        let op = self.begin(self.link(s), call);
        let result = async {
            match self.serve(s).await? {
                Served::Live(_) => {}
                Served::Ended => return Ok(Err(Answer::Ended)),
                Served::NotFound => return Ok(Err(Answer::NotFound)),
            }
            let id = ResultId { session: key, name: name.to_owned() };
            let rank = if terminal { TERMINAL } else { 1 };
            let outcome = Outcome { fence, rev, rank, payload: bytes(value) };
            self.store.put_result(id, outcome, Duration::from_secs(86_400)).await.map(Ok)
        };
        match result.await {
            Ok(Ok(reported)) => {
                let reported = match reported {
                    result::Reported::Ok => Reported::Ok,
                    result::Reported::Stale { .. } => Reported::Stale,
                    result::Reported::Final { .. } => Reported::Final,
                };
                self.done(op, self.link(s), false, Answer::Reported(reported));
            }
            Ok(Err(answer)) => self.done(op, self.link(s), false, answer),
            Err(error) => self.failed(op, self.link(s), &error),
        }
    }

    /// What stands, as a client is shown it: fence, revision, whether it is terminal, value.
    pub async fn read_result(&self, s: u32, name: &str) -> Option<(u64, u64, bool, u64)> {
        let id = ResultId { session: self.run.ground.key(s), name: name.to_owned() };
        let op = self.begin(self.link(s), Call::ReadResult { s, name: name.to_owned() });
        match self.store.result(&id).await {
            Ok(outcome) => {
                let shown = outcome.map(|o| (o.fence, o.rev, o.rank == TERMINAL, value_of(&o.payload)));
                self.done(op, self.link(s), false, Answer::Outcome(shown));
                shown
            }
            Err(error) => {
                self.failed(op, self.link(s), &error);
                None
            }
        }
    }

    pub async fn lock(&self, name: &str, ttl: Duration, holder: u64) -> Option<(Token, u64)> {
        let link = || self.run.ground.link(self.number, Err(name));
        let op = self.begin(link(), Call::Lock { lock: name.to_owned(), global: false, holder });
        match self.store.lock(name, ttl, None).await {
            Ok(lock) => {
                self.done(op, link(), false, Answer::Fence(lock.fence));
                Some((lock.token, lock.fence))
            }
            Err(error) => {
                self.failed(op, link(), &error);
                None
            }
        }
    }

    pub async fn unlock(&self, name: &str, token: Token, holder: u64) {
        let link = || self.run.ground.link(self.number, Err(name));
        let op = self.begin(link(), Call::Unlock { lock: name.to_owned(), holder });
        match self.store.unlock(name, token).await {
            Ok(()) => self.done(op, link(), false, Answer::Done),
            Err(error) => self.failed(op, link(), &error),
        }
    }

    /// A lock among all instances, which only the shared store can give.
    pub async fn lock_among_all(&self, name: &str, ttl: Duration, holder: u64) -> Option<Token> {
        let link = || self.run.ground.link(self.number, Err(name));
        let op = self.begin(link(), Call::Lock { lock: name.to_owned(), global: true, holder });
        match self.store.lock_among_all(name, ttl, None).await {
            Ok(lock) => {
                self.done(op, link(), true, Answer::Fence(lock.fence));
                Some(lock.token)
            }
            Err(error) => {
                self.failed(op, link(), &error);
                None
            }
        }
    }

    pub async fn unlock_among_all(&self, name: &str, token: Token, holder: u64) {
        let link = || self.run.ground.link(self.number, Err(name));
        let op = self.begin(link(), Call::Unlock { lock: name.to_owned(), holder });
        match self.store.unlock(name, token).await {
            Ok(()) => self.done(op, link(), true, Answer::Done),
            Err(error) => self.failed(op, link(), &error),
        }
    }
}
