//! The store against a model, over memory and over real files, with restarts in between.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use outlast::base::clock::{Clock as _, ManualClock, SharedClock};
use outlast::base::ids::SessionKey;
use outlast::base::seal::Keys;
use outlast::config;
use outlast::state::doc::Version;
use outlast::state::log::{Cut, Entry, Kind, Log, StreamName};
use outlast::state::result::{Outcome, Reported};
use outlast::store::durable::{Durable, Table};
use outlast::store::memory::Memory;
use outlast::store::{Filter, Guard, ImportError, Lock, Lookup, ResultId, Store, StoreError};
use proptest::prelude::*;
use tokio::sync::oneshot;

const NOW: u64 = 1_795_000_000_000;
const IDLE: u64 = 10_000;
const KEYS: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    Create(u8, Vec<(u8, u16)>),
    Update(u8, Vec<(u8, Option<u16>)>),
    /// Many writes of one session, all queued at once.
    Burst(u8, u8),
    Terminate(u8),
    Touch(u8),
    Append(u8, u8, u16),
    Trim(u8, u8),
    /// A report of a session's result: fence, revision, rank, length.
    Report(u8, u64, u64, u8, u16),
    Lock(u8, u16),
    Unlock(u8),
    /// A write under the fence that this lock was taken with last.
    Fenced(u8, u8, u16),
    /// The session is taken out and put in again.
    Move(u8),
    Extend(u8, u16),
    Wait(u16),
    Sweep,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS;
    // Lengths around that of a row, so that values are cut now and then.
    let len = || prop_oneof![8 => 0_u16..200, 1 => 24_000_u16..26_000, 1 => 48_000_u16..60_000];
    let fields = proptest::collection::vec((0_u8..3, len()), 0..3);
    let writes = proptest::collection::vec((0_u8..3, proptest::option::weighted(0.8, len())), 0..3);
    prop_oneof![
        4 => (key(), fields).prop_map(|(key, fields)| Step::Create(key, fields)),
        6 => (key(), writes).prop_map(|(key, writes)| Step::Update(key, writes)),
        2 => (key(), 1_u8..10).prop_map(|(key, count)| Step::Burst(key, count)),
        1 => key().prop_map(Step::Terminate),
        4 => key().prop_map(Step::Touch),
        4 => (key(), 1_u8..5, len()).prop_map(|(key, count, len)| Step::Append(key, count, len)),
        1 => (key(), 0_u8..5).prop_map(|(key, keep)| Step::Trim(key, keep)),
        2 => (key(), 0_u64..3, 0_u64..3, prop_oneof![4 => 0_u8..9, 1 => Just(9)], len())
            .prop_map(|(key, fence, rev, rank, len)| Step::Report(key, fence, rev, rank, len)),
        2 => (0_u8..2, 1_u16..8_000).prop_map(|(lock, ttl)| Step::Lock(lock, ttl)),
        1 => (0_u8..2).prop_map(Step::Unlock),
        2 => (key(), 0_u8..2, len()).prop_map(|(key, lock, len)| Step::Fenced(key, lock, len)),
        1 => key().prop_map(Step::Move),
        1 => (key(), 0_u16..20_000).prop_map(|(key, ms)| Step::Extend(key, ms)),
        3 => (0_u16..6_000).prop_map(Step::Wait),
        2 => Just(Step::Sweep),
        1 => Just(Step::Reopen),
    ]
}

fn key(n: u8) -> SessionKey {
    SessionKey::from_bytes([n + 1; 16])
}

fn deadline(n: u8) -> u64 {
    NOW + if n < 2 { 40_000 } else { 10_000_000 }
}

/// Bytes that cannot be packed, so that long ones are cut into rows.
fn value(len: u16) -> Bytes {
    static NOISE: LazyLock<Bytes> = LazyLock::new(|| {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_be_bytes()
        };
        std::iter::repeat_with(next).flatten().take(usize::from(u16::MAX)).collect()
    });
    NOISE.slice(..usize::from(len))
}

struct Session {
    fields: BTreeMap<String, Bytes>,
    until: u64,
    /// The last use that the disk knows of.
    written: u64,
    /// It is kept up to then.
    keep: u64,
    ended: bool,
    version: Version,
    result: Option<Outcome>,
    /// It was over when the store was swept: the disk may have been rid of it, and may not, since a use that is known there
    /// moves only the row that names it.
    swept: bool,
}

impl Session {
    fn new(fields: BTreeMap<String, Bytes>, now: u64) -> Self {
        let version = Version::default();
        Self {
            fields,
            until: now + IDLE,
            written: now,
            keep: 0,
            ended: false,
            version,
            result: None,
            swept: false,
        }
    }
}

/// A lock as it was taken last.
#[derive(Clone, Copy)]
struct Held {
    lock: Lock,
    /// 0: it was released.
    until: u64,
}

struct Model {
    locks: [Option<Held>; 2],
    /// Fences over all locks.
    newest: u64,
    sessions: BTreeMap<u8, Session>,
    logs: BTreeMap<u8, Log>,
    clock: Arc<ManualClock>,
}

impl Model {
    fn is_over(&self, n: u8) -> bool {
        let now = self.clock.now_ms();
        now >= deadline(n) || self.sessions.get(&n).is_some_and(|s| !s.ended && now >= s.until)
    }

    fn is_live(&self, n: u8) -> bool {
        self.sessions.get(&n).is_some_and(|s| !s.ended) && !self.is_over(n)
    }
}

/// Where the store's rows are, and how it is opened again.
trait Place {
    async fn open(&self, clock: SharedClock) -> Arc<Store>;
    /// Whether no rows are left, if that can be seen.
    fn is_empty(&self) -> bool;
}

fn settings() -> config::Sessions {
    config::Sessions {
        idle_ttl_seconds: IDLE / 1_000,
        max_ttl_seconds: 10_000,
        ..config::Sessions::default()
    }
}

#[derive(Default)]
struct InMemory(Arc<Memory>);

impl Place for InMemory {
    async fn open(&self, clock: SharedClock) -> Arc<Store> {
        let disk: Arc<dyn Durable> = Arc::<Memory>::clone(&self.0);
        Store::over(disk, Keys::generate(), 1 << 20, &settings(), clock).await.unwrap()
    }

    fn is_empty(&self) -> bool {
        Table::ALL.into_iter().all(|table| {
            let rows = self.0.scan(table, &[], &[255; 64], usize::MAX).unwrap();
            table == Table::Meta || rows.is_empty()
        })
    }
}

struct OnDisk(tempfile::TempDir);

impl Place for OnDisk {
    async fn open(&self, clock: SharedClock) -> Arc<Store> {
        let store = config::Store {
            data_dir: self.0.path().to_owned(),
            durability: config::Durability::Relaxed,
            ballast_bytes: 0,
            ..config::Store::default()
        };
        Store::open(Some(&store), &settings(), clock).await.unwrap()
    }

    fn is_empty(&self) -> bool {
        true
    }
}

async fn append(
    store: &Store,
    key: SessionKey,
    entries: Vec<Entry>,
    trimmed: Vec<Cut>,
) -> Result<(), StoreError> {
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result| {
        let _ = tell.send(result);
    });
    store.append(store.place().await?, key, entries, trimmed, done);
    told.await.unwrap()
}

async fn run(steps: Vec<Step>, place: impl Place) {
    let clock = ManualClock::at(NOW);
    let mut store = place.open(Arc::<ManualClock>::clone(&clock)).await;
    let mut model = Model {
        locks: [None; 2],
        newest: 0,
        sessions: BTreeMap::new(),
        logs: BTreeMap::new(),
        clock: Arc::clone(&clock),
    };
    for step in steps {
        apply(&mut store, &mut model, &place, step).await;
        check(&store, &mut model).await;
    }
    clock.advance(Duration::from_secs(20_000));
    store.sweep().await.unwrap();
    assert_eq!(store.sessions(), 0);
    store.close().await.unwrap();
    assert!(place.is_empty(), "expiry leaves nothing behind");
}

async fn apply(store: &mut Arc<Store>, model: &mut Model, place: &impl Place, step: Step) {
    let now = model.clock.now_ms();
    match step {
        Step::Create(n, fields) => {
            let writes = fields.iter().map(|(f, len)| (format!("f{f}"), Some(value(*len)))).collect();
            let made = store.create(key(n), "ann", deadline(n), writes).await;
            if now >= deadline(n) || model.sessions.get(&n).is_some_and(|s| s.ended) {
                assert!(matches!(made, Err(StoreError::Gone)));
                return;
            }
            made.unwrap();
            if !model.is_live(n) {
                let fields = fields.into_iter().map(|(f, len)| (format!("f{f}"), value(len))).collect();
                model.sessions.insert(n, Session::new(fields, now));
                // What had been said is gone, but no number of it is used again.
                if let Some(log) = model.logs.get_mut(&n) {
                    let mut empty = Log::default();
                    log.marks().for_each(|(origin, _, hw)| empty.note_mark(origin, hw));
                    *log = empty;
                }
            }
        }
        Step::Update(n, writes) => {
            let fields = writes.iter().map(|(f, len)| (format!("f{f}"), len.map(value))).collect();
            let done = store.update(key(n), fields).await;
            if !model.is_live(n) {
                assert!(matches!(done, Err(StoreError::Gone)));
                return;
            }
            done.unwrap();
            let fields = &mut model.sessions.get_mut(&n).unwrap().fields;
            for (f, len) in writes {
                match len {
                    Some(len) => fields.insert(format!("f{f}"), value(len)),
                    None => fields.remove(&format!("f{f}")),
                };
            }
        }
        Step::Burst(n, count) => {
            let add = |old: Option<&Bytes>| Some([old.map_or(&[][..], |old| old), b"x"].concat().into());
            let writes = (0..count).map(|_| store.change(key(n), "burst", add));
            for done in futures_util::future::join_all(writes).await {
                assert_eq!(done.is_ok(), model.is_live(n));
            }
            if model.is_live(n) {
                let fields = &mut model.sessions.get_mut(&n).unwrap().fields;
                let old = fields.remove("burst").unwrap_or_default();
                fields.insert("burst".into(), [&old[..], &vec![b'x'; count.into()]].concat().into());
            }
        }
        Step::Terminate(n) => {
            store.terminate(key(n), deadline(n)).await.unwrap();
            let ended = Session { ended: true, ..Session::new(BTreeMap::new(), 0) };
            model.sessions.insert(n, ended);
            model.logs.remove(&n);
        }
        Step::Touch(n) => {
            store.touch(key(n));
            // A use of a session that is not in memory is known when the disk has it.
            append(store, SessionKey::BROADCAST, vec![], vec![]).await.unwrap();
            if model.is_live(n) {
                let session = model.sessions.get_mut(&n).unwrap();
                session.until = session.until.max(now + IDLE);
                if now >= session.written + IDLE / 10 {
                    session.written = now;
                }
            }
        }
        Step::Append(n, count, len) => {
            let mut log = model.logs.get(&n).cloned().unwrap_or_default();
            let entries = (0..count)
                .map(|_| log.append(store.origin(), Kind::Message, StreamName::GET, value(len), now))
                .collect();
            match append(store, key(n), entries, vec![]).await {
                Ok(()) => {
                    assert!(model.sessions.get(&n).is_some_and(|s| !s.ended));
                    model.logs.insert(n, log);
                }
                Err(error) => assert!(matches!(error, StoreError::Gone) && !model.is_live(n), "{error}"),
            }
        }
        Step::Trim(n, keep) => {
            let Some(log) = model.logs.get_mut(&n) else { return };
            let keep = outlast::state::log::Retention {
                entries: keep.into(),
                bytes: usize::MAX,
                age_ms: u64::MAX / 2,
            };
            let mut trimmed = log.clone();
            let cut = trimmed.trim(keep, now, None);
            if append(store, key(n), vec![], cut).await.is_ok() {
                *log = trimmed;
            }
        }
        Step::Report(n, fence, rev, rank, len) => {
            let outcome = Outcome { fence, rev, rank, payload: value(len) };
            let said = store.put_result(result_id(n), outcome.clone(), Duration::from_secs(9_000)).await;
            if !model.is_live(n) {
                // Until the sweep finds it, a session that nobody used may still be reported on.
                assert!(matches!(said, Ok(_) | Err(StoreError::Gone)), "{said:?}");
                // It may yet be found alive: a start gives those that are read from the disk more time.
                if let (Ok(Reported::Ok), Some(session)) = (said, model.sessions.get_mut(&n)) {
                    session.result = Some(outcome);
                }
                return;
            }
            let held = &mut model.sessions.get_mut(&n).unwrap().result;
            let expected = match held {
                Some(held) if held.rank == 9 => Reported::Final { fence: held.fence, rev: held.rev },
                Some(held) if (fence, rev) <= (held.fence, held.rev) => {
                    Reported::Stale { fence: held.fence, rev: held.rev }
                }
                _ => {
                    *held = Some(outcome);
                    Reported::Ok
                }
            };
            assert_eq!(said.unwrap(), expected);
        }
        Step::Lock(at, ttl) => {
            let taken = store.lock(&lock_name(at), Duration::from_millis(ttl.into()), None).await;
            match model.locks[usize::from(at)] {
                Some(held) if held.until > now => {
                    let left = held.until - now;
                    assert!(matches!(taken, Err(StoreError::Held { left_ms, .. }) if left_ms == left));
                }
                _ => {
                    let lock = taken.unwrap();
                    assert!(lock.fence > model.newest, "{} after {}", lock.fence, model.newest);
                    model.newest = lock.fence;
                    model.locks[usize::from(at)] = Some(Held { lock, until: now + u64::from(ttl) });
                }
            }
        }
        Step::Unlock(at) => {
            let Some(held) = &mut model.locks[usize::from(at)] else { return };
            let released = store.unlock(&lock_name(at), held.lock.token).await;
            assert_eq!(released.is_ok(), held.until > now, "{released:?}");
            held.until = 0;
        }
        Step::Fenced(n, at, len) => {
            let Some(held) = model.locks[usize::from(at)] else { return };
            let write = |fence| {
                let fields = vec![("fenced".to_owned(), Some(value(len)))];
                store.update_if(key(n), Guard::fence(&lock_name(at), fence), fields)
            };
            let late = write(held.lock.fence - 1).await;
            assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
            match write(held.lock.fence).await {
                Ok(_) => {
                    let session = model.sessions.get_mut(&n).filter(|session| !session.ended).unwrap();
                    session.fields.insert("fenced".into(), value(len));
                }
                Err(error) => assert!(matches!(error, StoreError::Gone) && !model.is_live(n), "{error}"),
            }
        }
        Step::Move(n) => {
            let file = store.export(key(n)).await;
            if !model.is_live(n) {
                assert!(matches!(file, Err(StoreError::Gone)));
                return;
            }
            let file = file.unwrap();
            let refused = store.import(&file, false).await;
            assert!(matches!(refused, Err(StoreError::Import(ImportError::Exists(_)))), "{refused:?}");
            store.import(&file, true).await.unwrap();
            let session = model.sessions.get_mut(&n).unwrap();
            (session.until, session.written) = (session.keep.max(now + IDLE), now);
        }
        Step::Extend(n, ms) => {
            let extended = store.extend(key(n), Duration::from_millis(ms.into())).await;
            let until = now + u64::from(ms);
            if !model.is_live(n) {
                assert!(matches!(extended, Err(StoreError::Gone)));
            } else if until > deadline(n) {
                assert!(matches!(extended, Err(StoreError::BeyondDeadline { .. })));
            } else {
                let session = model.sessions.get_mut(&n).unwrap();
                (session.until, session.keep) = (session.until.max(until), session.keep.max(until));
                assert_eq!(extended.unwrap().idle_left_ms, session.until.min(deadline(n)) - now);
            }
        }
        Step::Wait(ms) => model.clock.advance(Duration::from_millis(ms.into())),
        Step::Sweep => {
            store.sweep().await.unwrap();
            for n in 0..KEYS {
                let over = model.is_over(n);
                if let Some(session) = model.sessions.get_mut(&n).filter(|session| over && !session.ended) {
                    session.swept = true;
                }
            }
        }
        Step::Reopen => {
            store.close().await.unwrap();
            assert!(matches!(store.place().await, Err(StoreError::Closed)));
            // Stamps go on after those of the earlier start; the clock shows as much time.
            model.clock.advance(Duration::from_millis(2));
            *store = place.open(Arc::<ManualClock>::clone(&model.clock)).await;
            for n in 0..KEYS {
                if model.sessions.get(&n).is_some_and(|session| session.swept)
                    && !matches!(store.load(key(n)).await.unwrap(), Lookup::Live(_))
                {
                    model.sessions.remove(&n);
                    model.logs.remove(&n);
                }
            }
            for session in model.sessions.values_mut() {
                session.swept = false;
                session.until = session.keep.max(session.written + IDLE + IDLE / 10);
            }
        }
    }
}

fn result_id(n: u8) -> ResultId {
    ResultId { session: key(n), name: "result".into() }
}

fn lock_name(at: u8) -> String {
    format!("lock{at}")
}

async fn check(store: &Store, model: &mut Model) {
    let mut listed = store.list(None, 100, &Filter::default()).await.unwrap().sessions.into_iter();
    for n in 0..KEYS {
        if model.is_live(n) {
            let summary = listed.next().unwrap();
            let session = model.sessions.get_mut(&n).unwrap();
            assert_eq!((summary.key, summary.fields), (key(n), session.fields.len()));
            assert!(summary.version >= session.version, "a version never goes back");
            session.version = summary.version;
        }
    }
    assert_eq!(listed.next(), None);
    let mut living = 0;
    for n in 0..KEYS {
        let found = store.load(key(n)).await.unwrap();
        match model.sessions.get(&n) {
            Some(session) if model.is_live(n) => {
                let Lookup::Live(doc) = found else { panic!("{n} lives: {found:?}") };
                let fields: BTreeMap<_, _> =
                    doc.fields().map(|(name, value)| (name.to_owned(), value.clone())).collect();
                assert!(fields == session.fields, "fields of {n} differ");
                let log = store.log(key(n)).await.unwrap();
                let held = model.logs.get(&n).cloned().unwrap_or_default();
                let sorted = |log: &Log| {
                    let mut entries: Vec<Entry> = log.entries().cloned().collect();
                    entries.sort_by_key(|entry| (entry.origin, entry.seq));
                    entries
                };
                assert!(sorted(&log) == sorted(&held), "the log of {n} differs");
                assert_eq!(store.result(&result_id(n)).await.unwrap(), session.result);
                for (origin, _, hw) in held.marks() {
                    assert_eq!(log.high_water(origin), hw);
                }
                living += 1;
            }
            Some(session) if session.ended && !model.is_over(n) => {
                assert!(matches!(found, Lookup::Terminated), "{found:?}");
            }
            _ => assert!(matches!(found, Lookup::Unknown), "{n}: {found:?}"),
        }
    }
    assert!((living..=usize::from(KEYS)).contains(&store.sessions()));
}

fn block_on(future: impl Future<Output = ()>) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future));
}

proptest! {
    #![proptest_config(super::cases(10_000))]
    #[test]
    fn in_memory_it_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..40)) {
        block_on(run(steps, InMemory::default()));
    }
}

proptest! {
    #![proptest_config(super::cases(10_000).scaled_for_disk())]
    #[test]
    fn on_disk_it_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..40)) {
        block_on(run(steps, OnDisk(tempfile::tempdir().unwrap())));
    }
}

trait ScaledForDisk {
    fn scaled_for_disk(self) -> Self;
}

impl ScaledForDisk for proptest::test_runner::Config {
    /// A case on a disk takes some fifty times as long as one in memory.
    fn scaled_for_disk(self) -> Self {
        Self { cases: self.cases / 50, ..self }
    }
}
