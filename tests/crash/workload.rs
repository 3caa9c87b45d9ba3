//! What the store is made to do: many tasks over a few sessions, each operation noted before and after. The same on a
//! real directory in a process that is killed, and over a disk that loses its power.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use outlast::base::clock::{Clock, SharedClock, SystemClock};
use outlast::base::ids::{Origin, SessionKey};
use outlast::base::seal::Keys;
use outlast::config;
use outlast::state::log::{Kind, Log, Retention, StreamName};
use outlast::store::dir::Dir;
use outlast::store::durable::Durable;
use outlast::store::sled::Sled;
use outlast::store::{Lookup, Store, StoreError};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::faults::{Fault, Faulty};
use super::history::{Answer, Call, Run, Sink, What, Why};
use super::mutants::{Mutant, Mutated};
use super::random::Random;

/// The process that works finds its job in this variable.
pub const JOB: &str = "OUTLAST_TEST_CRASH_JOB";
/// Far beyond the end of every run.
const DEADLINE_MS: u64 = u64::MAX / 2;
/// Entries kept of a session's log.
const KEEP: usize = 10;
const FIELDS: [&str; 3] = ["f0", "f1", "f2"];
/// Written together only.
const TOGETHER: [&str; 3] = ["t0", "t1", "t2"];
const COUNTERS: [&str; 2] = ["c0", "c1"];
const STREAMS: [&str; 3] = ["g", "aaaa", "bbbb"];
/// A process that nobody kills ends by itself.
const LONGEST: Duration = Duration::from_secs(120);

/// Short enough that uses are written during a run, and far longer than a run leaves any session alone.
pub fn sessions() -> config::Sessions {
    config::Sessions { idle_ttl_seconds: 600, ..config::Sessions::default() }
}

/// How late the disk may hear of a use.
pub fn touch_ms() -> u64 {
    sessions().idle_ttl_seconds * 100
}

/// What one process start is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub run: u32,
    pub seed: u64,
    /// Sessions that are there, or may be.
    pub live: Vec<u32>,
    /// Sessions that are ended, or may be, and are to be read.
    pub ended: Vec<u32>,
    /// Numbers from here on were never used for a session.
    pub next: u32,
    /// How far the clock of this process is ahead of the system's, milliseconds.
    pub ahead_ms: u64,
    pub workers: usize,
    pub sessions: usize,
    /// Read everything and end.
    pub read_only: bool,
    pub twist: Option<Twist>,
}

/// A fault of the workload's own, which the checker must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Twist {
    /// Every process start appends as the same origin.
    SameOrigin,
    /// Some increments are applied twice.
    CountTwice,
    /// A counter is read and then written, not changed.
    CountByReading,
}

/// What a process is to do, and on which disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub plan: Plan,
    pub dir: PathBuf,
    pub history: PathBuf,
    pub ballast_bytes: u64,
    pub fault: Option<Fault>,
    pub mutant: Option<Mutant>,
}

impl Job {
    /// There as soon as the process has read everything and begins to work.
    pub fn ready(&self) -> PathBuf {
        self.history.with_extension("ready")
    }

    /// There as long as the fault is to be.
    pub fn switch(&self) -> PathBuf {
        self.dir.with_extension("fault")
    }
}

/// The system's clock, moved: it jumps at every restart, in both directions.
pub struct MovedClock {
    pub system: SystemClock,
    pub ahead_ms: u64,
}

impl Clock for MovedClock {
    fn now_ms(&self) -> u64 {
        self.system.now_ms() + self.ahead_ms
    }

    fn monotonic_ms(&self) -> u64 {
        self.system.monotonic_ms()
    }
}

pub fn clock(ahead_ms: u64) -> SharedClock {
    Arc::new(MovedClock { system: SystemClock::default(), ahead_ms })
}

/// Not a test by itself: the process that works until it is killed.
#[test]
fn the_process_that_is_killed() {
    let Some(job) = std::env::var_os(JOB) else { return };
    let job: Job = serde_json::from_slice(job.as_encoded_bytes()).unwrap();
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = clock(job.plan.ahead_ms);
        let sink = Arc::new(Sink::to_file(&job.history, job.plan.run, Arc::clone(&clock)));
        let store = match open(&job, clock).await {
            Ok(store) => store,
            Err(error) => return sink.note(What::Refused { text: error.to_string() }),
        };
        let ready = job.ready();
        let begun = move || std::fs::write(&ready, "").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let work = work(Arc::clone(&store), &job.plan, sink, stop, begun);
        // Whoever was to kill it has died.
        let _ = tokio::time::timeout(LONGEST, work).await;
        let _ = store.close().await;
    });
}

async fn open(job: &Job, clock: SharedClock) -> Result<Arc<Store>, StoreError> {
    let settings = config::Store {
        data_dir: job.dir.clone(),
        ballast_bytes: job.ballast_bytes,
        // Small, so that documents are read from the disk now and then.
        document_cache_bytes: 16 << 10,
        ..config::Store::default()
    };
    if job.fault.is_none() && job.mutant.is_none() {
        return Store::open(Some(&settings), &sessions(), clock).await;
    }
    let dir = Dir::open(&settings.data_dir)?;
    // Nothing here is signed or sealed with them.
    let keys = Keys::generate();
    let mut disk: Arc<dyn Durable> = Arc::new(Sled::open(dir, &settings, clock.now_ms())?);
    if let Some(fault) = job.fault {
        disk = Arc::new(Faulty::new(disk, fault, job.switch()));
    }
    if let Some(mutant) = job.mutant {
        disk = Arc::new(Mutated::new(disk, mutant));
    }
    Store::over(disk, keys, settings.document_cache_bytes, &sessions(), clock).await
}

/// The key of a session, spread over all of them.
pub fn key(s: u32) -> SessionKey {
    let number = u64::from(s).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [1; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[12..].copy_from_slice(&s.to_be_bytes());
    SessionKey::from_bytes(bytes)
}

/// A value's bytes: its number, and as much more as its number says. Some are longer than a row.
fn render(number: u64) -> Bytes {
    let length = match number % 23 {
        0 => 30_000,
        1 => 60_000,
        2..8 => 900,
        _ => 40,
    };
    let mut text = number.to_string();
    text.push(' ');
    text.extend(std::iter::repeat_n('x', length));
    text.into()
}

/// The number of a value; 0, which is nobody's, for bytes that nobody wrote.
fn number(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let number = text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    if render(number) == value { number } else { 0 }
}

struct Member {
    s: u32,
    log: Mutex<Log>,
}

struct Work {
    store: Arc<Store>,
    sink: Arc<Sink>,
    stop: Arc<AtomicBool>,
    members: Mutex<Vec<Arc<Member>>>,
    next: Mutex<u32>,
    /// Values are unique over all runs.
    values: std::sync::atomic::AtomicU64,
    origin: Origin,
    sessions: usize,
    twist: Option<Twist>,
}

/// Reads everything, then works until `stop`. `begun` is called in between.
pub async fn work(
    store: Arc<Store>,
    plan: &Plan,
    sink: Arc<Sink>,
    stop: Arc<AtomicBool>,
    begun: impl FnOnce(),
) {
    let origin = match plan.twist {
        Some(Twist::SameOrigin) => Origin::from_bits(7),
        _ => store.origin(),
    };
    // Only appends show the twist: process starts are told apart by their real origin.
    sink.note(What::Start { origin: store.origin().bits() });
    let work = Arc::new(Work {
        store,
        sink,
        stop,
        members: Mutex::default(),
        next: Mutex::new(plan.next),
        values: ((u64::from(plan.run) << 32) + 1).into(),
        origin,
        sessions: plan.sessions,
        twist: plan.twist,
    });
    for s in &plan.ended {
        work.read(*s, true).await;
    }
    for s in &plan.live {
        if let Some(Answer::Live { .. }) = work.read(*s, true).await
            && let Some(log) = work.read_log(*s).await
        {
            let log = if plan.twist == Some(Twist::SameOrigin) { Log::default() } else { log };
            work.members().push(Arc::new(Member { s: *s, log: Mutex::new(log) }));
        }
    }
    if plan.read_only {
        return work.sink.note(What::Final);
    }
    begun();
    let mut workers = JoinSet::new();
    for worker in 0..plan.workers {
        let random = Random::new(plan.seed ^ ((u64::from(plan.run) << 20) + worker as u64));
        workers.spawn(Arc::clone(&work).steps(random));
    }
    while workers.join_next().await.is_some() {}
}

impl Work {
    fn members(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    async fn steps(self: Arc<Self>, mut random: Random) {
        let mut poisoned = 0;
        // A few more steps show what a store that has stopped says; then there is nothing left to find out.
        while !self.stop.load(Ordering::Relaxed) && poisoned < 5 {
            match self.step(&mut random).await {
                Ok(()) => {}
                Err(StoreError::Poisoned(_)) => poisoned += 1,
                Err(StoreError::Gone) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    async fn step(&self, random: &mut Random) -> Result<(), StoreError> {
        let member = {
            let members = self.members();
            let few = members.len() < self.sessions && random.one_in(2);
            let at = random.below(members.len().max(1) as u64) as usize;
            members.get(at).filter(|_| !few).cloned()
        };
        let Some(member) = member else { return self.create().await };
        match random.below(100) {
            0..25 => self.put(&member, random).await,
            25..37 => self.put_all(&member).await,
            37..59 => self.count(&member, random).await,
            59..83 => self.append(&member, random).await,
            83..89 => {
                self.read(member.s, false).await;
                Ok(())
            }
            89..96 => {
                let (used, takes_writes) = (self.sink.now_ms(), self.store.trouble().is_none());
                self.store.touch(key(member.s));
                let taken = takes_writes && self.store.trouble().is_none();
                self.sink.note(What::Touch { s: member.s, used, taken });
                Ok(())
            }
            // Some sessions last, so that they meet many restarts.
            _ if member.s.is_multiple_of(4) && !random.one_in(6) => self.append(&member, random).await,
            _ => self.terminate(&member).await,
        }
    }

    fn tell<T>(
        &self,
        op: u64,
        result: Result<T, StoreError>,
        answer: impl FnOnce(&T) -> Answer,
    ) -> Result<T, StoreError> {
        match &result {
            Ok(value) => self.sink.note(What::Ok { op, answer: answer(value) }),
            Err(error) => {
                let why = match error {
                    StoreError::Gone => Why::Gone,
                    StoreError::Full(_) => Why::Full,
                    StoreError::Cap(_) => Why::Cap,
                    StoreError::Poisoned(_) => Why::Poisoned,
                    _ => Why::Other,
                };
                self.sink.note(What::Fail { op, why, text: error.to_string() });
            }
        }
        result
    }

    async fn create(&self) -> Result<(), StoreError> {
        let s = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next - 1
        };
        let fields: Vec<(String, u64)> =
            FIELDS.iter().map(|name| ((*name).to_owned(), self.value())).collect();
        let writes = fields.iter().map(|(name, value)| (name.clone(), Some(render(*value)))).collect();
        let op = self.sink.invoke(Call::Create { s, fields });
        let result = self.store.create(key(s), "ann", DEADLINE_MS, writes).await;
        self.tell(op, result, |_| Answer::Done)?;
        self.members().push(Arc::new(Member { s, log: Mutex::default() }));
        Ok(())
    }

    async fn put(&self, member: &Member, random: &mut Random) -> Result<(), StoreError> {
        // Most go to one field, so that its writes meet.
        let field = if random.one_in(2) { "f0" } else { random.pick(&FIELDS) }.to_owned();
        let value = self.value();
        let op = self.sink.invoke(Call::Put { s: member.s, field: field.clone(), value });
        let result = self.store.update(key(member.s), vec![(field, Some(render(value)))]).await;
        self.tell(op, result, |_| Answer::Done).map(drop)
    }

    async fn put_all(&self, member: &Member) -> Result<(), StoreError> {
        let fields: Vec<(String, u64)> =
            TOGETHER.iter().map(|name| ((*name).to_owned(), self.value())).collect();
        let writes = fields.iter().map(|(name, value)| (name.clone(), Some(render(*value)))).collect();
        let op = self.sink.invoke(Call::PutAll { s: member.s, fields });
        let result = self.store.update(key(member.s), writes).await;
        self.tell(op, result, |_| Answer::Done).map(drop)
    }

    async fn count(&self, member: &Member, random: &mut Random) -> Result<(), StoreError> {
        let field = random.pick(&COUNTERS);
        let by = if self.twist == Some(Twist::CountTwice) && random.one_in(10) { 2 } else { 1 };
        let op = self.sink.invoke(Call::Count { s: member.s, field: field.to_owned() });
        let result = if self.twist == Some(Twist::CountByReading) {
            self.count_by_reading(member.s, field).await
        } else {
            let add = |old: Option<&Bytes>| Some(render(old.map_or(0, |old| number(old)) + by));
            let written = self.store.change(key(member.s), field, add).await;
            written.map(|value| value.map_or(0, |value| number(&value)))
        };
        self.tell(op, result, |value| Answer::Count(*value)).map(drop)
    }

    async fn count_by_reading(&self, s: u32, field: &str) -> Result<u64, StoreError> {
        let Lookup::Live(doc) = self.store.load(key(s)).await? else { return Err(StoreError::Gone) };
        let value = doc.get(field).map_or(0, |old| number(old)) + 1;
        self.store.update(key(s), vec![(field.to_owned(), Some(render(value)))]).await?;
        Ok(value)
    }

    async fn append(&self, member: &Member, random: &mut Random) -> Result<(), StoreError> {
        let stream = random.pick(&STREAMS);
        let value = self.value();
        let place = self.store.place().await?;
        let (tell, told) = tokio::sync::oneshot::channel();
        let op = {
            let mut log = member.log.lock().unwrap_or_else(PoisonError::into_inner);
            let name = StreamName::parse(stream).unwrap_or(StreamName::GET);
            let entry = log.append(self.origin, Kind::Message, name, render(value), 1);
            let trims =
                log.trim(Retention { entries: KEEP, bytes: usize::MAX, age_ms: u64::MAX / 2 }, 1, None);
            let op = self.sink.invoke(Call::Append {
                s: member.s,
                origin: entry.origin.bits(),
                seq: entry.seq,
                stream: stream.to_owned(),
                value,
                trims: trims.iter().map(|cut| (cut.origin.bits(), cut.base)).collect(),
            });
            let done = Box::new(move |result: Result<(), StoreError>| {
                let _ = tell.send(result);
            });
            self.store.append(place, key(member.s), vec![entry], trims, done);
            op
        };
        let result = told.await.unwrap_or(Err(StoreError::Closed));
        self.tell(op, result, |()| Answer::Done)
    }

    async fn terminate(&self, member: &Member) -> Result<(), StoreError> {
        self.members().retain(|other| other.s != member.s);
        let op = self.sink.invoke(Call::Terminate { s: member.s });
        let result = self.store.terminate(key(member.s), DEADLINE_MS).await;
        self.tell(op, result, |()| Answer::Done)
    }

    async fn read(&self, s: u32, from_disk: bool) -> Option<Answer> {
        let op = self.sink.invoke(Call::Read { s });
        let result = self.store.load(key(s)).await.map(|lookup| match lookup {
            Lookup::Unknown => Answer::Unknown,
            Lookup::Terminated => Answer::Terminated,
            Lookup::Live(doc) => {
                let held = |names: &[&str]| {
                    let held = names.iter().filter_map(|name| Some((*name, doc.get(name)?)));
                    held.map(|(name, value)| (name.to_owned(), number(value))).collect()
                };
                let seen = from_disk.then(|| doc.last_seen_ms());
                Answer::Live { fields: held(&[FIELDS, TOGETHER].concat()), counters: held(&COUNTERS), seen }
            }
        });
        self.tell(op, result, Clone::clone).ok()
    }

    async fn read_log(&self, s: u32) -> Option<Log> {
        let op = self.sink.invoke(Call::ReadLog { s });
        let result = self.store.log(key(s)).await;
        let log = self.tell(op, result, |log| {
            let run = |(origin, base, hw): (Origin, u64, u64)| {
                let entries = log.entries().filter(|entry| entry.origin == origin);
                let entry = |entry: &outlast::state::log::Entry| {
                    (entry.seq, entry.stream.as_str().to_owned(), number(&entry.payload))
                };
                Run { origin: origin.bits(), base, hw, entries: entries.map(entry).collect() }
            };
            Answer::Log(log.marks().map(run).collect())
        });
        log.ok()
    }
}

/// What a directory holds beside the database that is in use: databases that were set aside.
pub fn set_aside(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("corrupt-")).count()
}
