use super::*;
use crate::state::result::Outcome;

#[tokio::test]
async fn caps_of_values_name_their_setting() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let sessions = config::Sessions { max_fields: 2, max_value_bytes: 10, ..Default::default() };
    let store = open_with(&disk, &clock, &sessions).await;
    store.create(key(1), "ann", DEADLINE, vec![field("a", "1"), field("b", "1")]).await.unwrap();
    let cap = |result: Result<Arc<Doc>, StoreError>| match result {
        Err(StoreError::Cap(text)) => text,
        other => panic!("{other:?}"),
    };
    let text = cap(store.update(key(1), vec![field("c", "1")]).await);
    assert!(text.contains("sessions.max_fields"), "{text}");
    let text = cap(store.update(key(1), vec![field("a", "12345678901")]).await);
    assert!(text.contains("sessions.max_value_bytes"), "{text}");
    store.update(key(1), vec![("a".into(), None), field("c", "1")]).await.unwrap();
    let bad = store.update(key(1), vec![field("~v", "1")]).await;
    assert!(matches!(bad, Err(StoreError::Invalid(_))));
}

/// Fills the store by results until `full` says so.
async fn fill(store: &Store, from: u64, full: impl Fn(&Store) -> bool) -> u64 {
    for n in from..5_000 {
        if full(store) {
            return n;
        }
        let payload = noise(n, 4_000);
        let id = ResultId { session: SessionKey::BROADCAST, name: format!("fill{n}") };
        let outcome = Outcome { fence: n, rev: 1, rank: 0, payload };
        if let Err(error) = store.put_result(id, outcome, HOUR).await {
            assert!(matches!(error, StoreError::Full(_)), "{error}");
        }
    }
    panic!("it never was full");
}

#[tokio::test]
async fn a_store_that_fills_up_refuses_sessions_first_then_writes_and_recovers() {
    let (disk, clock) = (Arc::new(Memory::bounded(8_000_000)), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![field("a", "1")]).await.unwrap();
    let filled = fill(&store, 0, |store| store.queue.health().crowded().is_some()).await;
    let error = store.create(key(2), "ann", DEADLINE, vec![]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Full(text) if text.contains("store.max_bytes")), "{error}");
    // What lives goes on, and one that is there is found.
    store.update(key(1), vec![field("a", "2")]).await.unwrap();
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    assert!(store.trouble().is_none());

    fill(&store, filled, |store| store.trouble().is_some()).await;
    let refused = store.update(key(1), vec![field("a", "3")]).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    assert!(matches!(store.lock("l", HOUR, None).await, Err(StoreError::Full(_))));
    assert_eq!(live(store.load(key(1)).await.unwrap()).get("a"), Some(&Bytes::from_static(b"2")));
    // What makes room goes on.
    store.terminate(key(1), DEADLINE).await.unwrap();
    clock.advance(2 * HOUR);
    store.sweep().await.unwrap();
    for _ in 0..100 {
        if store.trouble().is_none() && store.queue.health().crowded().is_none() {
            store.create(key(3), "ann", DEADLINE, vec![]).await.unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("there is room, and it was not seen");
}
