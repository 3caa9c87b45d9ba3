use super::*;
use crate::state::result::{Outcome, Reported};

fn id(session: SessionKey, name: &str) -> ResultId {
    ResultId { session, name: name.into() }
}

fn outcome(fence: u64, rev: u64, rank: u8, len: usize) -> Outcome {
    Outcome { fence, rev, rank, payload: Bytes::from(vec![rank; len]) }
}

#[tokio::test]
async fn the_newest_report_stands_until_the_terminal_one() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let task = id(SessionKey::BROADCAST, "task");
    assert_eq!(store.result(&task).await.unwrap(), None);
    let put = async |outcome: Outcome| store.put_result(task.clone(), outcome, HOUR).await.unwrap();
    assert_eq!(put(outcome(5, 2, 1, 100_000)).await, Reported::Ok);
    assert_eq!(put(outcome(5, 2, 2, 10)).await, Reported::Stale { fence: 5, rev: 2 });
    assert_eq!(put(outcome(4, 9, 9, 10)).await, Reported::Stale { fence: 5, rev: 2 });
    assert_eq!(store.result(&task).await.unwrap(), Some(outcome(5, 2, 1, 100_000)));
    assert_eq!(put(outcome(6, 1, 9, 60_000)).await, Reported::Ok);
    assert_eq!(put(outcome(7, 1, 9, 10)).await, Reported::Final { fence: 6, rev: 1 });
    let again = open(&disk, &clock).await;
    assert_eq!(again.result(&task).await.unwrap(), Some(outcome(6, 1, 9, 60_000)));
    clock.advance(HOUR);
    assert_eq!(again.result(&task).await.unwrap(), None);
    again.sweep().await.unwrap();
    assert_eq!(rows_of(&*disk), []);
}

#[tokio::test]
async fn a_report_that_is_kept_longer_does_not_go_with_the_one_before() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let task = id(SessionKey::BROADCAST, "task");
    store.put_result(task.clone(), outcome(1, 1, 0, 10), HOUR).await.unwrap();
    store.put_result(task.clone(), outcome(1, 2, 0, 20), 3 * HOUR).await.unwrap();
    clock.advance(2 * HOUR);
    store.sweep().await.unwrap();
    assert_eq!(store.result(&task).await.unwrap(), Some(outcome(1, 2, 0, 20)));
}

#[tokio::test]
async fn results_of_a_session_go_with_it() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    let early = store.put_result(id(key(1), "a"), outcome(1, 1, 9, 10), HOUR).await;
    assert!(matches!(early, Err(StoreError::Gone)));
    for n in [1, 2] {
        store.create(key(n), "ann", DEADLINE, vec![]).await.unwrap();
        store.put_result(id(key(n), "a"), outcome(1, 1, 9, 50_000), 720 * HOUR).await.unwrap();
        store.put_result(id(key(n), "b"), outcome(1, 1, 9, 10), HOUR).await.unwrap();
    }
    store.terminate(key(1), DEADLINE).await.unwrap();
    assert_eq!(store.result(&id(key(1), "a")).await.unwrap(), None);
    let late = store.put_result(id(key(1), "a"), outcome(2, 1, 9, 10), HOUR).await;
    assert!(matches!(late, Err(StoreError::Gone)));
    clock.advance(30 * HOUR);
    assert_eq!(store.sweep().await.unwrap(), 1);
    assert!(rows_of(&*disk).iter().all(|(table, _)| *table != Table::Result), "{:?}", rows_of(&*disk));
}

#[tokio::test]
async fn results_have_caps() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    for n in 0..crate::base::limits::RESULTS_PER_SESSION {
        store.put_result(id(key(1), &n.to_string()), outcome(1, 1, 0, 1), HOUR).await.unwrap();
    }
    let one_more = store.put_result(id(key(1), "more"), outcome(1, 1, 0, 1), HOUR).await;
    assert!(matches!(one_more, Err(StoreError::Cap(_))), "{one_more:?}");
    store.put_result(id(key(1), "7"), outcome(1, 2, 0, 1), HOUR).await.unwrap();
    for bad in [
        store.put_result(id(key(1), ""), outcome(1, 1, 0, 1), HOUR).await,
        store.put_result(id(key(1), "x"), outcome(1, 1, 10, 1), HOUR).await,
        store.put_result(id(key(1), "x"), outcome(1, 1, 0, 1), Duration::ZERO).await,
    ] {
        assert!(matches!(bad, Err(StoreError::Invalid(_))), "{bad:?}");
    }
}

#[tokio::test]
async fn results_are_found_by_the_beginning_of_their_names_and_forgotten_by_name() {
    let (disk, clock) = (Arc::default(), ManualClock::at(NOW));
    let store = open(&disk, &clock).await;
    store.create(key(1), "ann", DEADLINE, vec![]).await.unwrap();
    for (session, name, ttl) in [
        (key(1), "task/b", HOUR),
        (key(1), "task/a", 2 * HOUR),
        (key(1), "tas", HOUR),
        (SessionKey::BROADCAST, "task/c", 2 * HOUR),
    ] {
        store.put_result(id(session, name), outcome(1, 1, 0, 50_000), ttl).await.unwrap();
    }
    let under = async |session: SessionKey, prefix: &str| -> Vec<String> {
        let found = store.results_under(session, prefix).await.unwrap();
        found.into_iter().map(|info| info.name).collect()
    };
    assert_eq!(under(key(1), "task/").await, ["task/a", "task/b"]);
    assert_eq!(under(key(1), "").await, ["tas", "task/a", "task/b"]);
    assert_eq!(under(key(2), "task/").await, [""; 0]);
    let all = store.all_results_under("task/").await.unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.contains(&(
        SessionKey::BROADCAST,
        store.results_under(SessionKey::BROADCAST, "").await.unwrap()[0].clone()
    )));
    clock.advance(HOUR);
    assert_eq!(under(key(1), "").await, ["task/a"]);
    store.forget_results(key(1), vec!["task/a".into(), "never".into()]).await.unwrap();
    store.forget_results(SessionKey::BROADCAST, vec!["task/c".into()]).await.unwrap();
    assert_eq!(store.all_results_under("").await.unwrap(), []);
    store.sweep().await.unwrap();
    assert!(rows_of(&*disk).iter().all(|(table, _)| *table != Table::Result), "{:?}", rows_of(&*disk));
}
