use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::base::clock::{Clock as _, ManualClock, SharedClock};
use crate::base::ids::{Claims, Mode, PrincipalHash, SessionKey};
use crate::base::seal::{Keys, Secret};
use crate::config;
use crate::state::log::{Entry, Kind, Log, StreamName};
use crate::state::result::Outcome;
use crate::store::memory::Memory;
use crate::store::{Filter, Lookup, ResultId, Store};

const NOW: u64 = 1_795_000_000_000;
const DEADLINE: u64 = NOW + 7 * 24 * 3_600_000;
const MARKER: &[u8] = b"a marker that nobody else writes";

fn key(n: u8) -> SessionKey {
    SessionKey::from_bytes([n; 16])
}

fn clock() -> Arc<ManualClock> {
    ManualClock::at(NOW)
}

async fn open(disk: &Arc<Memory>, sealer: &Sealer, clock: &Arc<ManualClock>) -> Arc<Store> {
    let disk: Arc<dyn Durable> = Arc::<Memory>::clone(disk);
    let clock: SharedClock = Arc::<ManualClock>::clone(clock);
    Store::on(disk, sealer.clone(), None, 1 << 20, &config::Sessions::default(), clock).await.unwrap()
}

fn field(name: &str, value: &[u8]) -> (String, Option<Bytes>) {
    (name.to_owned(), Some(Bytes::copy_from_slice(value)))
}

/// Bytes that do not pack, with the marker in them.
fn long(len: usize) -> Vec<u8> {
    let noise =
        (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(n | 1) >> 56) as u8);
    MARKER.iter().copied().chain(noise).collect()
}

fn all_rows(disk: &Memory) -> Vec<(Table, Row)> {
    let rows = |table| disk.scan(table, &[], &rows::after(&[]), usize::MAX).unwrap();
    Table::ALL.into_iter().flat_map(|table| rows(table).into_iter().map(move |row| (table, row))).collect()
}

fn shows_marker(disk: &Memory) -> bool {
    all_rows(disk).iter().any(|(_, (_, value))| value.windows(MARKER.len()).any(|part| part == MARKER))
}

fn values() -> Vec<(String, Option<Bytes>)> {
    vec![
        field("short", MARKER),
        field("long", &long(100_000)),
        field("text", &MARKER.repeat(3_000)),
        field("gone", b"x"),
    ]
}

fn results() -> [(&'static str, Vec<u8>); 2] {
    [("short", MARKER.to_vec()), ("long", long(70_000))]
}

fn result(name: &str) -> ResultId {
    ResultId { session: key(1), name: name.to_owned() }
}

/// A store with a session, a log and results, closed again.
async fn filled(sealer: &Sealer) -> (Arc<Memory>, Vec<Entry>) {
    let disk = Arc::new(Memory::default());
    let store = open(&disk, sealer, &clock()).await;
    store.create(key(1), "ann", DEADLINE, values()).await.unwrap();
    store.update(key(1), vec![("gone".into(), None)]).await.unwrap();
    let mut log = Log::default();
    let payloads = [MARKER.to_vec(), long(60_000), MARKER.repeat(3_000)];
    let entries: Vec<Entry> = payloads
        .into_iter()
        .map(|payload| log.append(store.origin(), Kind::Message, StreamName::GET, payload.into(), NOW))
        .collect();
    let (tell, told) = tokio::sync::oneshot::channel();
    let done = Box::new(move |result| drop(tell.send(result)));
    store.append(store.place().await.unwrap(), key(1), entries.clone(), vec![], done);
    told.await.unwrap().unwrap();
    for (name, content) in results() {
        let outcome = Outcome { fence: 1, rev: 2, rank: 3, payload: content.into() };
        store.put_result(result(name), outcome, Duration::from_secs(3_600)).await.unwrap();
    }
    store.close().await.unwrap();
    (disk, entries)
}

async fn holds(disk: &Arc<Memory>, sealer: &Sealer, entries: &[Entry]) {
    let store = open(disk, sealer, &clock()).await;
    let Lookup::Live(doc) = store.load(key(1)).await.unwrap() else { panic!() };
    for (name, value) in values().into_iter().filter(|(name, _)| name != "gone") {
        assert_eq!(doc.get(&name), value.as_ref(), "{name}");
    }
    assert_eq!(doc.get("gone"), None);
    assert!(store.log(key(1)).await.unwrap().entries().eq(entries));
    for (name, content) in results() {
        let held = store.result(&result(name)).await.unwrap().unwrap();
        assert_eq!(held.payload, content, "{name}");
    }
    store.close().await.unwrap();
}

fn copy(disk: &Memory) -> Arc<Memory> {
    let copy = Memory::default();
    copy.write(
        all_rows(disk).into_iter().map(|(table, (key, value))| Write::Put(table, key, value)).collect(),
    )
    .unwrap();
    Arc::new(copy)
}

fn sealer(secrets: &[Secret], on: bool) -> Sealer {
    Sealer::new(Keys::of(secrets), on)
}

#[tokio::test]
async fn nothing_that_a_session_keeps_is_readable_on_the_disk_unless_that_is_wanted() {
    for on in [true, false] {
        let sealer = sealer(&[Secret::generate(1)], on);
        let (disk, entries) = filled(&sealer).await;
        assert_eq!(shows_marker(&disk), !on);
        assert_eq!(used(&*disk).unwrap().contains(&1), on);
        holds(&disk, &sealer, &entries).await;
    }
}

#[tokio::test]
async fn a_rotation_keeps_old_values_and_session_ids_and_seals_what_is_written_with_the_new_key() {
    let (one, two) = (Secret::generate(1), Secret::generate(2));
    let sealer = sealer(std::slice::from_ref(&one), true);
    let (disk, entries) = filled(&sealer).await;
    let claims = Claims {
        mode: Mode::Local,
        revision: 3,
        capabilities: 0,
        issued_ms: NOW,
        deadline_ms: DEADLINE,
        origin: entries[0].origin,
        key: key(1),
        principal: PrincipalHash([0; 8]),
    };
    let id = claims.sign(sealer.keys());
    sealer.keys().replace(&[two, one]);
    assert_eq!(Claims::verify(&id, sealer.keys()), Ok(claims));
    holds(&disk, &sealer, &entries).await;
    assert_eq!(used(&*disk).unwrap(), BTreeSet::from([1]));
    let store = open(&disk, &sealer, &clock()).await;
    store.update(key(1), vec![field("new", b"value")]).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(used(&*disk).unwrap(), BTreeSet::from([1, 2]));
}

#[tokio::test]
async fn what_was_written_in_the_clear_is_read_and_sealed_when_it_is_written() {
    let plain = sealer(&[Secret::generate(1)], false);
    let (disk, entries) = filled(&plain).await;
    let sealed = Sealer::new(plain.keys().clone(), true);
    holds(&disk, &sealed, &entries).await;
    assert!(shows_marker(&disk) && used(&*disk).unwrap().is_empty());
    let store = open(&disk, &sealed, &clock()).await;
    store.update(key(1), values().into_iter().filter(|(name, _)| name != "gone").collect()).await.unwrap();
    store.close().await.unwrap();
    let doc = disk.scan(Table::Doc, &[], &rows::after(&[]), usize::MAX).unwrap();
    assert!(!doc.iter().any(|(_, value)| value.windows(MARKER.len()).any(|part| part == MARKER)));
    assert!(shows_marker(&disk), "the log is as it was");
    holds(&disk, &plain, &entries).await;
}

#[tokio::test]
async fn a_walk_seals_all_with_the_current_key_or_none_and_then_has_nothing_to_do() {
    let (one, two) = (Secret::generate(1), Secret::generate(2));
    let first = sealer(std::slice::from_ref(&one), true);
    let (disk, entries) = filled(&first).await;
    let second = sealer(&[two.clone(), one.clone()], true);
    let off = Sealer::new(second.keys().clone(), false);
    let steps = [(&second, BTreeSet::from([2])), (&off, BTreeSet::new()), (&second, BTreeSet::from([2]))];
    for (sealer, expected) in steps {
        assert_eq!(all(&*disk, sealer).unwrap(), Done { resealed: 8, unopened: 0 });
        assert_eq!(used(&*disk).unwrap(), expected);
        assert_eq!(all(&*disk, sealer).unwrap(), Done::default());
        holds(&disk, sealer, &entries).await;
    }
    holds(&disk, &sealer(&[two], true), &entries).await;
    assert!(!shows_marker(&disk));
    assert_eq!(disk.scan(Table::Meta, META_RESEAL, &rows::after(META_RESEAL), 9).unwrap(), []);
}

/// A disk whose power is cut after a number of changes.
struct Cut {
    disk: Arc<Memory>,
    left: std::sync::Mutex<usize>,
}

impl Durable for Cut {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.disk.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.disk.scan(table, from, to, limit)
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        for write in writes {
            let mut left = self.left.lock().unwrap();
            *left = left.checked_sub(1).ok_or(StoreError::Closed)?;
            self.disk.write(vec![write])?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn witness(&self, _tick: u64) {}

    fn check_space(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_walk_that_is_cut_off_anywhere_loses_nothing_and_can_be_repeated() {
    let (one, two) = (Secret::generate(1), Secret::generate(2));
    let (disk, entries) = filled(&sealer(std::slice::from_ref(&one), true)).await;
    let both = sealer(&[two, one], true);
    let mut after = 0;
    loop {
        let cut = Cut { disk: copy(&disk), left: after.into() };
        let ended = all(&cut, &both).is_ok();
        holds(&cut.disk, &both, &entries).await;
        assert_eq!(all(&*cut.disk, &both).unwrap().unopened, 0);
        assert_eq!(used(&*cut.disk).unwrap(), BTreeSet::from([2]));
        holds(&cut.disk, &both, &entries).await;
        if ended {
            break;
        }
        after += 1;
    }
    assert!(after > 20, "{after}");
}

#[tokio::test]
async fn a_record_that_does_not_open_fails_its_reader_and_nobody_else_and_goes_when_its_time_is_over() {
    let sealer = sealer(&[Secret::generate(1)], true);
    let (disk, _) = filled(&sealer).await;
    let clock = clock();
    let store = open(&disk, &sealer, &clock).await;
    store.create(key(2), "bob", DEADLINE, vec![field("short", b"other")]).await.unwrap();
    store.close().await.unwrap();
    // The value of one session in the row of another; a flipped byte in an entry.
    let row = |n: u8| [key(n).as_bytes().as_slice(), &[0], b"short"].concat();
    let moved = disk.get(Table::Doc, &row(2)).unwrap().unwrap();
    let (entry, mut flipped) = disk.scan(Table::Log, &[], &rows::after(&[]), 1).unwrap().remove(0);
    *flipped.last_mut().unwrap() ^= 1;
    disk.write(vec![Write::Put(Table::Doc, row(1), moved), Write::Put(Table::Log, entry, flipped)]).unwrap();

    let store = open(&disk, &sealer, &clock).await;
    assert!(matches!(store.load(key(1)).await, Err(StoreError::Sealed(_))));
    assert!(matches!(store.log(key(1)).await, Err(StoreError::Sealed(_))));
    let listed = store.list(None, 10, &Filter::default()).await.unwrap().sessions;
    assert_eq!(listed.iter().map(|session| session.key).collect::<Vec<_>>(), [key(1), key(2)]);
    assert!(matches!(store.update(key(1), vec![field("a", b"1")]).await, Err(StoreError::Sealed(_))));
    assert!(matches!(store.load(key(2)).await.unwrap(), Lookup::Live(_)));
    store.update(key(2), vec![field("a", b"1")]).await.unwrap();
    assert_eq!(store.trouble().map(|error| error.to_string()), None);
    clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(store.sweep().await.unwrap(), 0);
    clock.advance(std::time::Duration::from_millis(DEADLINE - clock.now_ms()));
    assert_eq!(store.sweep().await.unwrap(), 2);
    assert_eq!(store.sessions(), 0);
    store.close().await.unwrap();
    assert_eq!(all(&*disk, &sealer).unwrap(), Done::default());
}

#[tokio::test]
async fn a_session_whose_values_do_not_open_can_be_ended() {
    let (disk, _) = filled(&sealer(&[Secret::generate(1)], true)).await;
    let other = sealer(&[Secret::generate(1)], true);
    let store = open(&disk, &other, &clock()).await;
    assert!(matches!(store.load(key(1)).await, Err(StoreError::Sealed(_))));
    assert!(matches!(store.export(key(1)).await, Err(StoreError::Sealed(_))));
    assert!(matches!(store.result(&result("short")).await, Err(StoreError::Sealed(_))));
    assert_eq!(store.deadline_ms(key(1)).await.unwrap(), DEADLINE);
    store.terminate(key(1), DEADLINE).await.unwrap();
    assert!(matches!(store.load(key(1)).await.unwrap(), Lookup::Terminated));
    assert_eq!((store.sessions(), used(&*disk).unwrap().len()), (0, 0));
}

#[tokio::test]
async fn a_session_is_exported_in_the_clear_and_sealed_again_where_it_is_imported() {
    let (here, there) = (sealer(&[Secret::generate(1)], true), sealer(&[Secret::generate(2)], true));
    let (disk, entries) = filled(&here).await;
    let store = open(&disk, &here, &clock()).await;
    let file = store.export(key(1)).await.unwrap();
    assert!(file.windows(MARKER.len()).any(|part| part == MARKER));
    let disk = Arc::new(Memory::default());
    let store = open(&disk, &there, &clock()).await;
    store.import(&file, false).await.unwrap();
    store.close().await.unwrap();
    assert!(!shows_marker(&disk));
    assert_eq!(used(&*disk).unwrap(), BTreeSet::from([2]));
    holds(&disk, &there, &entries).await;
}
