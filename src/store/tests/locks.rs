use super::*;
use crate::state::lock::Token;

#[tokio::test]
async fn one_holds_a_lock_and_others_are_told_for_how_long() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let lock = store.lock("a", HOUR, None).await.unwrap();
    assert_eq!(lock.expires_ms, NOW + 3_600_000);
    clock.advance(HOUR / 4);
    let error = store.lock("a", HOUR, None).await.unwrap_err();
    assert!(matches!(&error, StoreError::Held { left_ms: 2_700_000, .. }), "{error:?}");
    let error = store.unlock("a", Token::random()).await.unwrap_err();
    assert!(matches!(&error, StoreError::NotHolder { left_ms: 2_700_000, .. }), "{error:?}");
    assert!(error.to_string().contains("2700000 ms"), "{error}");
    assert!(matches!(store.renew("a", Token::random(), HOUR).await, Err(StoreError::NotHolder { .. })));
    let renewed = store.renew("a", lock.token, HOUR).await.unwrap();
    assert_eq!((renewed.fence, renewed.expires_ms), (lock.fence, NOW + 3_600_000 * 5 / 4));
    store.unlock("a", lock.token).await.unwrap();
    let error = store.unlock("a", lock.token).await.unwrap_err();
    assert!(error.to_string().contains("nobody holds"), "{error}");
    let next = store.lock("a", HOUR, None).await.unwrap();
    assert!(next.fence > lock.fence && next.token != lock.token);
    for bad in [store.lock("", HOUR, None).await, store.lock("b", Duration::ZERO, None).await] {
        assert!(matches!(bad, Err(StoreError::Invalid(_))), "{bad:?}");
    }
}

#[tokio::test]
async fn fences_rise_over_expiry_restart_forgetting_and_a_clock_set_back() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let mut store = open(&disk, &clock).await;
    let mut last = 0;
    let mut clock = clock;
    for round in 0..6 {
        let lock = store.lock("a", Duration::from_secs(5), None).await.unwrap();
        assert!(lock.fence > last, "round {round}: {} after {last}", lock.fence);
        last = lock.fence;
        match round {
            0 => clock.advance(Duration::from_secs(5)),
            1 => {
                clock.advance(Duration::from_secs(5));
                store = open(&disk, &clock).await;
            }
            2 => {
                clock.advance(HOUR);
                store.sweep().await.unwrap();
                assert_eq!(store.lock_state("a"), None);
                assert_eq!(rows_of(&*disk), []);
            }
            3 => {
                store.unlock("a", lock.token).await.unwrap();
                clock = ManualClock::at(NOW - 24 * 3_600_000);
                store = open(&disk, &clock).await;
            }
            4 => {
                clock.advance(HOUR);
                store.sweep().await.unwrap();
                clock = ManualClock::at(1_000);
                store = open(&disk, &clock).await;
                assert_eq!(store.lock_state("a"), None);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_holder_keeps_its_lock_over_a_restart_and_no_longer_than_it_was_given() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let lock = store.lock("a", HOUR, None).await.unwrap();
    clock.advance(HOUR / 2);
    let again = open(&disk, &clock).await;
    assert!(matches!(again.lock("a", HOUR, None).await, Err(StoreError::Held { left_ms: 1_800_000, .. })));
    again.renew("a", lock.token, HOUR).await.unwrap();
    // A clock that was set back by a day while nobody ran makes nobody wait for a day.
    let back = open(&disk, &ManualClock::at(NOW - 24 * 3_600_000)).await;
    assert!(matches!(back.lock("a", HOUR, None).await, Err(StoreError::Held { left_ms: 3_600_000, .. })));
}

#[tokio::test]
async fn a_write_under_an_older_fence_is_refused() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    let late = store.lock("a", Duration::from_secs(1), None).await.unwrap();
    store.update_if(key(1), Guard::fence("a", late.fence), vec![field("v", "1")]).await.unwrap();
    clock.advance(Duration::from_secs(2));
    // Its time is over, but nobody came: no harm done.
    store.update_if(key(1), Guard::fence("a", late.fence), vec![field("v", "2")]).await.unwrap();
    let next = store.lock("a", HOUR, None).await.unwrap();
    let error =
        store.update_if(key(1), Guard::fence("a", late.fence), vec![field("v", "3")]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Fenced { newest: Some(newest), .. } if *newest == next.fence));
    store.unlock("a", next.token).await.unwrap();
    let still = store.update_if(key(1), Guard::fence("a", late.fence), vec![field("v", "4")]).await;
    assert!(matches!(still, Err(StoreError::Fenced { .. })));
    clock.advance(HOUR);
    store.sweep().await.unwrap();
    let error =
        store.update_if(key(1), Guard::fence("a", next.fence), vec![field("v", "5")]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Fenced { newest: None, .. }), "{error:?}");
    let doc = live(store.load(key(1)).await.unwrap());
    assert_eq!(doc.get("v"), Some(&Bytes::from_static(b"2")));
    // A refused write is not in the way of the next one.
    store.update(key(1), vec![field("v", "6")]).await.unwrap();
}

#[tokio::test]
async fn a_lock_in_the_name_of_a_session_goes_with_it() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    assert!(matches!(store.lock("a", HOUR, Some(key(1))).await, Err(StoreError::Gone)));
    for (n, name) in [(1, "ended"), (2, "idle")] {
        store.create(key(n), "ann", DEADLINE, vec![]).await.unwrap();
        store.lock(name, 24 * HOUR, Some(key(n))).await.unwrap();
    }
    store.terminate(key(1), DEADLINE).await.unwrap();
    assert_eq!(store.lock_state("ended").unwrap().expires_ms, None);
    store.lock("ended", HOUR, None).await.unwrap();
    let again = open(&disk, &clock).await;
    assert!(again.lock_state("idle").unwrap().expires_ms.is_some());
    clock.advance(24 * HOUR - Duration::from_secs(1));
    store.extend(key(2), Duration::from_secs(1)).await.unwrap();
    clock.advance(4 * HOUR);
    assert_eq!(store.sweep().await.unwrap(), 1);
    assert_eq!(store.lock_state("idle"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_take_a_lock_at_once_one_gets_it() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let tasks = (0..16).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.lock("a", HOUR, None).await })
    });
    let mut held = 0;
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(_) => held += 1,
            Err(error) => assert!(matches!(error, StoreError::Held { .. }), "{error}"),
        }
    }
    assert_eq!(held, 1);
}
