use super::*;
use crate::state::result::Outcome;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_create_one_session_at_once_exactly_one_made_it() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let tasks = (0..16_u8).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let value = vec![("n".to_owned(), Some(Bytes::from(vec![n])))];
            store.create_new(key(1), "ann", DEADLINE, value).await.unwrap()
        })
    });
    let mut made = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        made.push(task.await.unwrap());
    }
    let [first] = made.iter().filter(|created| created.made).collect::<Vec<_>>()[..] else {
        panic!("{made:?}")
    };
    assert!(made.iter().all(|created| created.doc.get("n") == first.doc.get("n")));
    assert_eq!(store.sessions(), 1);
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_that_names_both_and_changes_nothing() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    let none = live(store.load(key(1)).await.unwrap()).version();
    assert_eq!(none.to_string(), "0");
    let first = store.update_if(key(1), Guard::version(none), vec![field("a", "1")]).await.unwrap();
    let error = store.update_if(key(1), Guard::version(none), vec![field("a", "2")]).await.unwrap_err();
    let StoreError::Conflict { expected, actual } = &error else { panic!("{error:?}") };
    assert_eq!((*expected, *actual), (none, first.version()));
    let text = error.to_string();
    assert!(text.contains(&actual.to_string()) && text.contains("not 0"), "{text}");
    let doc = live(open(&disk, &clock).await.load(key(1)).await.unwrap());
    assert_eq!(doc.get("a"), Some(&Bytes::from_static(b"1")));
    let version = crate::state::doc::Version::parse(&doc.version().to_string()).unwrap();
    store.update_if(key(1), Guard::version(version), vec![field("a", "3")]).await.unwrap();
}

#[tokio::test]
async fn a_removed_field_leaves_no_row_and_versions_go_on_rising() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let long = ("long".to_owned(), Some(Bytes::from(vec![7; 100_000])));
    store.create(key(1), "ann", DEADLINE, vec![field("a", "1"), long]).await.unwrap();
    let before = live(store.load(key(1)).await.unwrap()).version();
    assert!(store.remove_field(key(1), "long").await.unwrap());
    assert!(store.remove_field(key(1), "a").await.unwrap());
    assert!(!store.remove_field(key(1), "a").await.unwrap());
    let doc = live(store.load(key(1)).await.unwrap());
    assert!(doc.version() > before);
    assert_eq!((doc.stamped().count(), doc.bytes()), (0, 0));
    // The row that remembers the newest removal, however many there were.
    assert!(rows_of(&*disk).contains(&(Table::Doc, 1)));
    let again = open(&disk, &clock).await;
    assert_eq!(live(again.load(key(1)).await.unwrap()), doc);
    let stale = again.update_if(key(1), Guard::version(before), vec![field("a", "2")]).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    let doc = again.update(key(1), vec![field("a", "3")]).await.unwrap();
    assert_eq!(doc.get("a"), Some(&Bytes::from_static(b"3")));
}

#[tokio::test]
async fn an_extended_session_outlives_its_idle_time_also_over_a_restart() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    let ttl = store.ttl(key(1)).await.unwrap();
    assert_eq!((ttl.idle_left_ms, ttl.left_ms), (24 * 3_600_000, 7 * 24 * 3_600_000));
    let ttl = store.extend(key(1), 72 * HOUR).await.unwrap();
    assert_eq!(ttl.idle_left_ms, 72 * 3_600_000);
    // Never shorter.
    assert_eq!(store.extend(key(1), HOUR).await.unwrap(), ttl);
    let error = store.extend(key(1), 8 * 24 * HOUR).await.unwrap_err();
    assert!(matches!(error, StoreError::BeyondDeadline { deadline_ms: DEADLINE, .. }), "{error}");
    assert_eq!(store.ttl(key(1)).await.unwrap(), ttl);
    let again = open(&disk, &clock).await;
    clock.advance(50 * HOUR);
    live(again.load(key(1)).await.unwrap());
    again.touch(key(1));
    assert_eq!(again.sweep().await.unwrap(), 0);
    assert_eq!(again.ttl(key(1)).await.unwrap().idle_left_ms, 24 * 3_600_000);
    clock.advance(21 * HOUR);
    live(again.load(key(1)).await.unwrap());
    clock.advance(6 * HOUR);
    assert!(matches!(again.ttl(key(1)).await, Err(StoreError::Gone)));
    assert_eq!(again.sweep().await.unwrap(), 1);
    assert_eq!(rows_of(&*disk).iter().filter(|(table, _)| *table == Table::Head).count(), 0);
}

#[tokio::test]
async fn pages_list_every_session_once_and_filters_hold() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    for n in 1..=20 {
        let principal = if n % 3 == 0 { "bob" } else { "ann" };
        store.create(key(n), principal, DEADLINE, vec![field("a", "1")]).await.unwrap();
    }
    clock.advance(3 * HOUR);
    store.touch(key(4));
    store.terminate(key(5), DEADLINE).await.unwrap();
    let all = async |store: &Store, filter: &Filter| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.list(after, 3, filter).await.unwrap();
            assert!(page.sessions.len() <= 3);
            found.extend(page.sessions);
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    };
    for store in [Arc::clone(&store), open(&disk, &clock).await] {
        let listed = all(&store, &Filter::default()).await;
        let keys: Vec<_> = listed.iter().map(|session| session.key).collect();
        assert_eq!(keys, (1..=20).filter(|n| *n != 5).map(key).collect::<Vec<_>>());
        let [first, ..] = &listed[..] else { panic!() };
        assert_eq!((first.created_ms, first.last_seen_ms, first.fields), (NOW, NOW, 1));
        assert_eq!((first.principal.as_str(), first.deadline_ms, first.ended), ("ann", DEADLINE, false));
        let bobs = all(&store, &Filter { principal: Some("bob".into()), ..Filter::default() }).await;
        assert_eq!(bobs.len(), 6);
        let ended = all(&store, &Filter { ended: true, ..Filter::default() }).await;
        assert_eq!(ended.iter().filter(|session| session.ended).map(|s| s.key).collect::<Vec<_>>(), [key(5)]);
        let idle = Filter { idle_longer_than: Some(HOUR), ..Filter::default() };
        assert!(all(&store, &idle).await.iter().all(|session| session.key != key(4)));
        assert_eq!(all(&store, &idle).await.len(), 18);
    }
    clock.advance(30 * HOUR);
    assert_eq!(all(&store, &Filter::default()).await, []);
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_number_of_sessions() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let many = crate::base::limits::SESSIONS_LOOKED_AT as u128 + 500;
    for n in 1..=many {
        let key = SessionKey::from_bytes(n.to_be_bytes());
        store.create(key, if n == many { "bob" } else { "ann" }, DEADLINE, vec![]).await.unwrap();
    }
    let bobs = Filter { principal: Some("bob".into()), ..Filter::default() };
    let page = store.list(None, 10, &bobs).await.unwrap();
    assert_eq!(page.sessions, []);
    let page = store.list(page.next, 10, &bobs).await.unwrap();
    assert_eq!((page.sessions.len(), page.next), (1, None));
}

#[tokio::test]
async fn an_inspection_names_values_streams_locks_and_results() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![field("a", "12345")]).await.unwrap();
    append(
        &store,
        key(1),
        entries(&mut Log::default(), store.origin(), 3),
        vec![Cut { origin: store.origin(), base: 2, get: 1 }],
    )
    .await
    .unwrap();
    let lock = store.lock("build", HOUR, Some(key(1))).await.unwrap();
    let id = ResultId { session: key(1), name: "t".into() };
    let outcome = Outcome { fence: 1, rev: 2, rank: 9, payload: Bytes::from_static(b"done") };
    store.put_result(id, outcome, HOUR).await.unwrap();
    let found = store.inspect(key(1)).await.unwrap();
    assert_eq!(found.fields.iter().map(|f| (f.name.as_str(), f.bytes)).collect::<Vec<_>>(), [("a", 5)]);
    assert_eq!(found.runs, [RunInfo { origin: store.origin(), base: 2, high_water: 3 }]);
    let [stream] = found.streams[..] else { panic!() };
    assert_eq!((stream.name, stream.entries, stream.bytes, stream.last), (StreamName::GET, 2, 80, 3));
    let [held] = &found.locks[..] else { panic!() };
    assert_eq!(
        (held.name.as_str(), held.fence, held.expires_ms),
        ("build", lock.fence, Some(lock.expires_ms))
    );
    let [result] = &found.results[..] else { panic!() };
    assert_eq!((result.name.as_str(), result.rank, result.bytes), ("t", 9, 4));
    store.terminate(key(1), DEADLINE).await.unwrap();
    let found = store.inspect(key(1)).await.unwrap();
    assert!(found.summary.ended && found.fields.is_empty() && found.locks.is_empty());
    assert!(matches!(store.inspect(key(2)).await, Err(StoreError::Gone)));
}

#[tokio::test]
async fn cached_values_end_with_their_time_and_long_ones_are_refused() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.cache_put("a", Bytes::from_static(b"1"), HOUR).unwrap();
    assert_eq!(store.cache_get("a"), Some(Bytes::from_static(b"1")));
    clock.advance(HOUR);
    assert_eq!(store.cache_get("a"), None);
    let long = Bytes::from(vec![0; 5 << 20]);
    assert!(matches!(store.cache_put("a", long, HOUR), Err(StoreError::Cap(_))));
    assert!(matches!(store.cache_put("", Bytes::new(), HOUR), Err(StoreError::Invalid(_))));
}
