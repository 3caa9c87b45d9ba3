use super::*;
use crate::state::result::Outcome;

fn import_error(result: Result<SessionKey, StoreError>) -> ImportError {
    match result {
        Err(StoreError::Import(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn exported(store: &Store) -> Vec<u8> {
    let long = ("long".to_owned(), Some(noise(3, 60_000)));
    store.create(key(1), "ann", DEADLINE, vec![field("a", "1"), field("gone", "x"), long]).await.unwrap();
    store.remove_field(key(1), "gone").await.unwrap();
    let mut log = Log::default();
    append(
        store,
        key(1),
        entries(&mut log, store.origin(), 6),
        vec![Cut { origin: store.origin(), base: 3, get: 2 }],
    )
    .await
    .unwrap();
    let outcome = Outcome { fence: 3, rev: 1, rank: 9, payload: Bytes::from(vec![1; 50_000]) };
    store.put_result(ResultId { session: key(1), name: "t".into() }, outcome, HOUR).await.unwrap();
    store.export(key(1)).await.unwrap()
}

fn all_rows(disk: &Memory) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let rows = |table| disk.scan(table, &[], &rows::after(&[]), usize::MAX).unwrap();
    let tables = Table::ALL.into_iter().filter(|table| *table != Table::Meta);
    tables.flat_map(|table| rows(table).into_iter().map(move |(key, value)| (table, key, value))).collect()
}

#[tokio::test]
async fn an_exported_session_goes_on_in_another_store() {
    let clock = ManualClock::at(NOW);
    let from = open(&Arc::default(), &clock).await;
    let file = exported(&from).await;
    let disk = Arc::default();
    let to = open(&disk, &clock).await;
    assert_eq!(to.import(&file, false).await.unwrap(), key(1));
    for to in [Arc::clone(&to), open(&disk, &clock).await] {
        let (old, new) = (live(from.load(key(1)).await.unwrap()), live(to.load(key(1)).await.unwrap()));
        assert!(old.stamped().eq(new.stamped()));
        assert_eq!((old.version(), old.principal()), (new.version(), new.principal()));
        let (old, new) = (from.log(key(1)).await.unwrap(), to.log(key(1)).await.unwrap());
        assert!(old.entries().eq(new.entries()));
        assert!(old.marks().eq(new.marks()));
        let id = ResultId { session: key(1), name: "t".into() };
        assert_eq!(from.result(&id).await.unwrap(), to.result(&id).await.unwrap());
        assert_eq!((to.sessions(), to.sessions_of("ann")), (1, 1));
    }
    let doc = to.update(key(1), vec![field("a", "2")]).await.unwrap();
    assert!(doc.version() > live(from.load(key(1)).await.unwrap()).version());
    clock.advance(8 * 24 * HOUR);
    assert_eq!(to.sweep().await.unwrap(), 1);
    assert_eq!(rows_of(&*disk), []);
}

#[tokio::test]
async fn a_session_that_exists_is_replaced_only_when_told_so() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let file = exported(&store).await;
    clock.advance(Duration::from_secs(5));
    let newer = ("long".to_owned(), Some(noise(9, 90_000)));
    store.update(key(1), vec![field("a", "2"), field("b", "3"), newer]).await.unwrap();
    let mut log = store.log(key(1)).await.unwrap();
    append(&store, key(1), entries(&mut log, store.origin(), 2), vec![]).await.unwrap();
    let before = all_rows(&disk);
    assert_eq!(import_error(store.import(&file, false).await), ImportError::Exists(key(1)));
    assert!(all_rows(&disk) == before);
    store.import(&file, true).await.unwrap();
    for store in [Arc::clone(&store), open(&disk, &clock).await] {
        let doc = live(store.load(key(1)).await.unwrap());
        assert_eq!((doc.get("a"), doc.get("b")), (Some(&Bytes::from_static(b"1")), None));
        assert_eq!(doc.get("long"), Some(&noise(3, 60_000)));
        // What was said stays said: no number is used twice.
        assert_eq!(store.log(key(1)).await.unwrap().marks().map(|(_, _, hw)| hw).max(), Some(8));
        assert_eq!(store.sessions(), 1);
    }
    let pieces = all_rows(&disk).into_iter().filter(|(table, ..)| *table == Table::Doc).count();
    assert_eq!(pieces, 2 + 3 + 1, "a, long and its pieces, the newest removal");
}

#[tokio::test]
async fn a_file_that_is_not_whole_or_not_ours_is_refused_and_changes_nothing() {
    let clock = ManualClock::at(NOW);
    let file = exported(&*open(&Arc::default(), &clock).await).await;
    let disk = Arc::default();
    let store = open(&disk, &clock).await;
    for len in [0, 4, 8, 11, 19, 100, file.len() / 2, file.len() - 1] {
        let error = import_error(store.import(&file[..len], false).await);
        assert!(matches!(error, ImportError::Truncated { .. }) || len == 0, "{len}: {error}");
    }
    for at in (20..file.len()).step_by(977) {
        let mut altered = file.clone();
        altered[at] ^= 1;
        let error = import_error(store.import(&altered, false).await);
        assert!(matches!(error, ImportError::Altered(_)), "{at}: {error}");
    }
    let longer = [file.as_slice(), b"x"].concat();
    assert!(matches!(import_error(store.import(&longer, false).await), ImportError::Altered(_)));
    assert_eq!(import_error(store.import(b"PK\x03\x04 something", false).await), ImportError::NotAnExport);
    let mut newer = file.clone();
    newer[11] = 9;
    assert_eq!(import_error(store.import(&newer, false).await), ImportError::Newer { format: 9, known: 1 });
    assert_eq!(rows_of(&*disk), []);
    assert_eq!(store.sessions(), 0);
}

#[tokio::test]
async fn an_ended_session_is_brought_back_only_when_told_so_and_lives_like_any_other() {
    let clock = ManualClock::at(NOW);
    let store = open(&Arc::default(), &clock).await;
    let file = exported(&store).await;
    let whole = store.inspect(key(1)).await.unwrap();
    store.terminate(key(1), DEADLINE).await.unwrap();
    assert_eq!(store.sessions(), 0);
    assert_eq!(import_error(store.import(&file, false).await), ImportError::Ended(key(1)));
    store.import(&file, true).await.unwrap();
    assert_eq!(store.sessions(), 1);
    let back = store.inspect(key(1)).await.unwrap();
    assert_eq!((&back.fields, &back.runs, &back.streams), (&whole.fields, &whole.runs, &whole.streams));
    // The tombstone's row of the index does not take it away before its time.
    store.sweep().await.unwrap();
    store.update(key(1), vec![("more".into(), Some(Bytes::from_static(b"x")))]).await.unwrap();
    store.terminate(key(1), DEADLINE).await.unwrap();
    assert_eq!(store.sessions(), 0);
}

#[tokio::test]
async fn an_import_too_late_from_the_future_ended_or_over_a_cap_is_refused() {
    let clock = ManualClock::at(NOW);
    let file = exported(&*open(&Arc::default(), &clock).await).await;
    let disk = Arc::default();
    let early = open(&disk, &ManualClock::at(NOW - 600_000)).await;
    assert!(matches!(import_error(early.import(&file, false).await), ImportError::Future { .. }));
    let store = open(&disk, &clock).await;
    store.terminate(key(1), DEADLINE).await.unwrap();
    assert_eq!(import_error(store.import(&file, false).await), ImportError::Ended(key(1)));
    clock.advance(8 * 24 * HOUR);
    let error = import_error(store.import(&file, false).await);
    assert_eq!(error, ImportError::PastDeadline { deadline_ms: DEADLINE });
    let small = config::Sessions { max_bytes: 1_000, ..config::Sessions::default() };
    let store = open_with(&Arc::default(), &ManualClock::at(NOW), &small).await;
    assert!(matches!(store.import(&file, false).await, Err(StoreError::Cap(_))));
    assert_eq!(store.sessions(), 0);
    assert!(matches!(store.export(key(1)).await, Err(StoreError::Gone)));
}
