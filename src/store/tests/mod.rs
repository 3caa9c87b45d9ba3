use std::time::Duration;

use tokio::sync::oneshot;

use super::durable::Table;
use super::*;
use crate::base::clock::{Clock, ManualClock};
use crate::state::log::{Cut, Entry, Kind, Log, StreamName};
use crate::store::memory::Memory;

mod locks;
mod quotas;
mod results;
mod sessions;
mod transfer;

const NOW: u64 = 1_795_000_000_000;
const HOUR: Duration = Duration::from_secs(3_600);
const DEADLINE: u64 = NOW + 7 * 24 * 3_600_000;

fn key(n: u8) -> SessionKey {
    SessionKey::from_bytes([n; 16])
}

fn field(name: &str, value: &'static str) -> FieldWrite {
    (name.into(), Some(Bytes::from_static(value.as_bytes())))
}

/// Bytes that do not pack.
fn noise(seed: u64, len: usize) -> Bytes {
    let mix = |n: u64| (n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(n | 1).to_be_bytes()[0];
    (0..len as u64).map(mix).collect()
}

fn rows_of(disk: &dyn Durable) -> Vec<(Table, usize)> {
    Table::ALL
        .into_iter()
        .filter(|table| *table != Table::Meta)
        .map(|table| (table, disk.scan(table, &[], &rows::after(&[]), usize::MAX).unwrap().len()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

async fn open(disk: &Arc<Memory>, clock: &Arc<ManualClock>) -> Arc<Store> {
    open_with(disk, clock, &config::Sessions::default()).await
}

async fn open_with(disk: &Arc<Memory>, clock: &Arc<ManualClock>, sessions: &config::Sessions) -> Arc<Store> {
    let disk: Arc<dyn Durable> = Arc::<Memory>::clone(disk);
    let clock: SharedClock = Arc::<ManualClock>::clone(clock);
    Store::over(disk, Keys::generate(), 1 << 20, sessions, clock).await.unwrap()
}

async fn append(
    store: &Store,
    key: SessionKey,
    entries: Vec<Entry>,
    trimmed: Vec<Cut>,
) -> Result<(), StoreError> {
    let (tell, told) = oneshot::channel();
    let done: Done = Box::new(move |result| {
        let _ = tell.send(result);
    });
    store.append(store.place().await?, key, entries, trimmed, done);
    told.await.unwrap()
}

fn entries(log: &mut Log, origin: Origin, count: u8) -> Vec<Entry> {
    let payload = |n| Bytes::from(vec![n; 40]);
    (0..count).map(|n| log.append(origin, Kind::Message, StreamName::GET, payload(n), NOW)).collect()
}

fn live(lookup: Lookup) -> Arc<Doc> {
    match lookup {
        Lookup::Live(doc) => doc,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_written_is_read_from_memory_and_after_a_restart() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![field("a", "1")]).await.unwrap();
    let doc = store.update(key(1), vec![field("b", "2"), ("a".into(), None)]).await.unwrap();
    assert_eq!((doc.get("a"), doc.get("b")), (None, Some(&Bytes::from_static(b"2"))));
    assert_eq!(live(store.load(key(1)).await.unwrap()), doc);
    let first = store.origin();
    store.close().await.unwrap();
    assert!(matches!(store.update(key(1), vec![field("b", "3")]).await, Err(StoreError::Closed)));

    let store = open(&disk, &clock).await;
    assert_ne!(store.origin(), first);
    assert_eq!(live(store.load(key(1)).await.unwrap()), doc);
    assert_eq!((store.sessions(), store.sessions_of("ann")), (1, 1));
}

#[tokio::test]
async fn a_start_without_a_clean_end_counts_the_sessions() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    for n in 1..=5 {
        store.create(key(n), if n < 3 { "ann" } else { "bob" }, DEADLINE, vec![]).await.unwrap();
    }
    store.terminate(key(5), DEADLINE).await.unwrap();
    let again = open(&disk, &clock).await;
    assert_eq!((again.sessions(), again.sessions_of("ann"), again.sessions_of("bob")), (4, 2, 2));
}

#[tokio::test]
async fn a_session_that_nobody_uses_is_unknown_and_leaves_nothing() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![field("a", "1")]).await.unwrap();
    clock.advance(23 * HOUR);
    store.touch(key(1));
    clock.advance(23 * HOUR);
    assert_eq!(store.sweep().await.unwrap(), 0);
    live(store.load(key(1)).await.unwrap());
    clock.advance(HOUR);
    assert!(matches!(store.load(key(1)).await.unwrap(), Lookup::Unknown));
    assert!(matches!(store.update(key(1), vec![field("a", "2")]).await, Err(StoreError::Gone)));
    clock.advance(3 * HOUR);
    assert_eq!(store.sweep().await.unwrap(), 1);
    assert_eq!(rows_of(&*disk), []);
    assert_eq!(store.sessions(), 0);
}

#[tokio::test]
async fn an_unused_session_on_disk_gets_a_tenth_more_because_uses_are_written_late() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    clock.advance(2 * HOUR);
    store.touch(key(1));
    clock.advance(23 * HOUR);
    let again = open(&disk, &clock).await;
    live(again.load(key(1)).await.unwrap());
    clock.advance(2 * HOUR);
    assert!(matches!(again.load(key(1)).await.unwrap(), Lookup::Unknown));
}

#[tokio::test]
async fn a_session_past_its_deadline_goes_however_much_it_is_used() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", NOW + 3_600_000, vec![field("a", "1")]).await.unwrap();
    let log = entries(&mut Log::default(), store.origin(), 3);
    append(&store, key(1), log, vec![]).await.unwrap();
    clock.advance(HOUR / 2);
    store.touch(key(1));
    clock.advance(HOUR / 2);
    assert!(matches!(store.load(key(1)).await.unwrap(), Lookup::Unknown));
    assert_eq!(store.sweep().await.unwrap(), 1);
    assert_eq!(rows_of(&*disk), []);
}

#[tokio::test]
async fn the_end_is_absorbing_and_its_tombstone_goes_at_the_deadline() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![field("a", "1")]).await.unwrap();
    append(
        &store,
        key(1),
        entries(&mut Log::default(), store.origin(), 3),
        vec![Cut { origin: store.origin(), base: 2, get: 1 }],
    )
    .await
    .unwrap();
    store.terminate(key(1), DEADLINE).await.unwrap();
    store.terminate(key(2), DEADLINE).await.unwrap();
    assert_eq!(store.sessions(), 0);
    let left = rows_of(&*disk);
    assert!(left.iter().all(|(table, _)| matches!(table, Table::Head | Table::Expiry)), "{left:?}");
    for store in [Arc::clone(&store), open(&disk, &clock).await] {
        for n in [1, 2] {
            assert!(matches!(store.load(key(n)).await.unwrap(), Lookup::Terminated));
            assert!(matches!(store.update(key(n), vec![field("a", "2")]).await, Err(StoreError::Gone)));
            let create = store.create(key(n), "ann", DEADLINE, vec![]).await;
            assert!(matches!(create, Err(StoreError::Gone)));
            let late = entries(&mut Log::default(), store.origin(), 1);
            assert!(matches!(append(&store, key(n), late, vec![]).await, Err(StoreError::Gone)));
            store.touch(key(n));
        }
    }
    clock.advance(30 * HOUR);
    assert_eq!(store.sweep().await.unwrap(), 0);
    assert!(matches!(store.load(key(1)).await.unwrap(), Lookup::Terminated));
    clock.advance(7 * 24 * HOUR);
    assert_eq!(store.sweep().await.unwrap(), 0);
    assert_eq!(rows_of(&*disk), []);
    assert!(matches!(store.load(key(1)).await.unwrap(), Lookup::Unknown));
}

#[tokio::test]
async fn a_session_that_comes_back_after_idling_is_empty_and_reuses_no_number() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    for swept in [true, false] {
        let key = key(u8::from(swept) + 1);
        let deadline = clock.now_ms() + 7 * 24 * 3_600_000;
        store.create(key, "ann", deadline, vec![field("a", "1")]).await.unwrap();
        append(&store, key, entries(&mut Log::default(), store.origin(), 3), vec![]).await.unwrap();
        clock.advance(27 * HOUR);
        if swept {
            assert_eq!(store.sweep().await.unwrap(), 1);
        }
        assert!(matches!(store.load(key).await.unwrap(), Lookup::Unknown));
        let doc = store.create(key, "ann", deadline, vec![field("b", "2")]).await.unwrap();
        assert_eq!(doc.get("a"), None);
        assert_eq!(store.sessions_of("ann"), 1);
        let log = store.log(key).await.unwrap();
        assert_eq!(log.high_water(store.origin()), 3, "swept: {swept}");
        assert!(log.is_empty());
        let again = open(&disk, &clock).await;
        assert_eq!(live(again.load(key).await.unwrap()), doc);
        clock.advance(8 * 24 * HOUR);
        store.sweep().await.unwrap();
        assert_eq!(rows_of(&*disk), []);
    }
}

#[tokio::test]
async fn logs_come_back_whole_with_the_high_water_of_what_was_trimmed() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    let mut log = Log::default();
    let long = log.append(
        store.origin(),
        Kind::Final,
        StreamName::from_hash(&[7; 32]),
        Bytes::from(vec![1; 100_000]),
        NOW,
    );
    let mut written = vec![long];
    written.extend(entries(&mut log, store.origin(), 9));
    append(&store, key(1), written.clone(), vec![]).await.unwrap();
    let read = store.log(key(1)).await.unwrap();
    assert_eq!(read.entries().cloned().collect::<Vec<_>>(), written);
    append(&store, key(1), vec![], vec![Cut { origin: store.origin(), base: 4, get: 3 }]).await.unwrap();
    let read = store.log(key(1)).await.unwrap();
    assert_eq!(read.marks().collect::<Vec<_>>(), [(store.origin(), 4, 10)]);
    append(&store, key(1), vec![], vec![Cut { origin: store.origin(), base: 11, get: 10 }]).await.unwrap();
    let again = open(&disk, &clock).await;
    let read = again.log(key(1)).await.unwrap();
    assert_eq!(read.marks().collect::<Vec<_>>(), [(store.origin(), 11, 10)]);
}

#[tokio::test]
async fn broadcasts_need_no_session_and_their_old_marks_go() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let origin = store.origin();
    append(&store, SessionKey::BROADCAST, entries(&mut Log::default(), origin, 3), vec![]).await.unwrap();
    append(&store, SessionKey::BROADCAST, vec![], vec![Cut { origin, base: 4, get: 3 }]).await.unwrap();
    assert_eq!(store.log(SessionKey::BROADCAST).await.unwrap().high_water(origin), 3);
    clock.advance(6 * 24 * HOUR);
    let again = open(&disk, &clock).await;
    assert_eq!(again.log(SessionKey::BROADCAST).await.unwrap().high_water(origin), 3);
    clock.advance(2 * 24 * HOUR);
    again.sweep().await.unwrap();
    assert_eq!(rows_of(&*disk), []);
}

#[tokio::test]
async fn a_hole_on_the_disk_is_told_as_a_gap() {
    let (disk, clock): (Arc<Memory>, _) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    append(&store, key(1), entries(&mut Log::default(), store.origin(), 5), vec![]).await.unwrap();
    let lost = [key(1).as_bytes().as_slice(), &store.origin().to_bytes(), &3_u64.to_be_bytes()].concat();
    disk.write(vec![Write::Delete(Table::Log, lost)]).unwrap();
    let read = store.log(key(1)).await.unwrap();
    assert_eq!(read.marks().collect::<Vec<_>>(), [(store.origin(), 4, 5)]);
}

#[tokio::test]
async fn caps_name_their_setting_and_change_nothing() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let sessions =
        config::Sessions { max_total: 3, max_per_principal: 2, max_bytes: 100, ..Default::default() };
    let store = open_with(&disk, &clock, &sessions).await;
    let cap = |result: Result<Arc<Doc>, StoreError>| match result {
        Err(StoreError::Cap(text)) => text,
        other => panic!("{other:?}"),
    };
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    store.create(key(2), "ann", DEADLINE, vec![]).await.unwrap();
    let text = cap(store.create(key(3), "ann", DEADLINE, vec![]).await);
    assert!(text.contains("sessions.max_per_principal"), "{text}");
    store.create(key(3), "bob", DEADLINE, vec![]).await.unwrap();
    let text = cap(store.create(key(4), "eve", DEADLINE, vec![]).await);
    assert!(text.contains("sessions.max_total"), "{text}");
    store.terminate(key(3), DEADLINE).await.unwrap();
    store.create(key(4), "eve", DEADLINE, vec![]).await.unwrap();

    let big = Bytes::from(vec![0; 90]);
    let text = cap(store.update(key(1), vec![field("a", "1"), ("big".into(), Some(big))]).await);
    assert!(text.contains("sessions.max_bytes"), "{text}");
    assert_eq!(live(store.load(key(1)).await.unwrap()).get("a"), None);
    assert_eq!(store.sessions(), 3);
}

#[tokio::test]
async fn values_of_any_length_come_back_and_leave_no_pieces() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    for len in [1_000, 24_000, 25_000, 300_000, 70_000, 10] {
        let value = Bytes::from((0..len).map(|n| (n % 251) as u8).collect::<Vec<_>>());
        store.update(key(1), vec![("v".into(), Some(value.clone()))]).await.unwrap();
        let again = open(&disk, &clock).await;
        assert_eq!(live(again.load(key(1)).await.unwrap()).get("v"), Some(&value), "{len}");
    }
    assert!(rows_of(&*disk).contains(&(Table::Doc, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_of_one_field_by_many_tasks_are_all_counted() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    let add = |value: Option<&Bytes>| {
        let number = value.map_or(0, |value| std::str::from_utf8(value).unwrap().parse::<u32>().unwrap());
        Some(Bytes::from((number + 1).to_string()))
    };
    let tasks = (0..32).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..20 {
                store.change(key(1), "n", add).await.unwrap().unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(store.change(key(1), "n", |_| None).await.unwrap(), None);
    let again = open(&disk, &clock).await;
    assert_eq!(live(again.load(key(1)).await.unwrap()).get("n"), Some(&Bytes::from_static(b"640")));
}

#[tokio::test]
async fn stamps_go_on_after_a_restart_with_the_clock_set_back() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![field("a", "old")]).await.unwrap();
    let before = live(store.load(key(1)).await.unwrap()).version();
    let again = open(&disk, &ManualClock::at(NOW - 3_600_000)).await;
    let doc = again.update(key(1), vec![field("a", "new")]).await.unwrap();
    assert!(doc.version() > before);
    assert_eq!(doc.get("a"), Some(&Bytes::from_static(b"new")));
}
