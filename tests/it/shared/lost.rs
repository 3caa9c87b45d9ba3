//! What must not stay lost when Redis, or a connection to it, was lost for a moment.

use rustix::process::Signal;
use serde_json::json;

use super::{instance, status, two, until_mode, yes};
use crate::support::session::Session;
use crate::support::until;

#[tokio::test]
async fn an_instance_that_comes_after_redis_has_lost_everything_knows_the_sessions_of_its_sisters() {
    let (redis, a, b) = two().await;
    let session = Session::open(&a).await;
    assert_eq!(session.count().await, 1);
    redis.command(&["FLUSHALL"]);
    // At once: it may come before its sisters have noticed.
    let c = instance(&redis).await;
    until_mode(&c, "redis").await;
    until("the session there", || async { session.at(&c).status().await == 200 }).await;
    assert_eq!(session.at(&c).count().await, 2);
    let there = Session::open(&c).await;
    until("its session here", || async { there.at(&b).status().await == 200 }).await;
    // One that comes now finds all keys where it looks for them.
    let d = instance(&redis).await;
    until_mode(&d, "redis").await;
    assert_eq!((session.at(&d).status().await, there.at(&d).status().await), (200, 200));
}

#[tokio::test]
async fn an_answer_and_a_cancellation_are_heard_by_an_instance_that_was_cut_off_when_they_came() {
    let (redis, a, b) = two().await;
    let session = Session::open(&a).await;
    let there = session.at(&b);
    let mut asked = session.start(&json!(1), "ask", json!({"message": "well?"})).await;
    let question = asked.take(1).await.remove(0);
    let mut sleeping = session.start(&json!(2), "sleep", json!({"ms": 60_000})).await;
    sleeping.take(1).await;
    // Its connections go while it cannot notice, and the other one is back before it can.
    a.signal(Signal::STOP);
    redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    until("the other one's link", || async {
        status(&b).await["redis"]["links"]["links"][0]["leased"] == true
    })
    .await;
    assert_eq!(there.post(&yes(&question)).await.status(), 202);
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}});
    assert_eq!(there.post(&cancel).await.status(), 202);
    until("both there", || async { redis.command(&["KEYS", "*:result:*"]).contains("cancel/2") }).await;
    until("both there", || async { redis.command(&["KEYS", "*:result:*"]).contains("answer/") }).await;
    a.signal(Signal::CONT);
    let result = asked.rest().await.pop().unwrap();
    assert!(result["result"].to_string().contains("yes"), "{result}");
    let rest = sleeping.rest().await;
    assert!(rest.iter().all(|message| message["id"] != 2), "{rest:?}");
}
