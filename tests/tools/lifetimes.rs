//! Whose child it is, how long it lives, and how many there may be.

use std::sync::Arc;
use std::time::Duration;

use outlast::base::ids::PrincipalHash;
use outlast::config::Lifetime;
use outlast::tools::Host;
use outlast::tools::catalog::Subscriber;
use outlast::tools::child::ChildHost;

use crate::support::{
    Client, InSession as _, Session, bounded, call, failure, fixture, host, is_reaped, pid, run, run_for,
    session, text, until,
};

async fn pid_in(host: &ChildHost, session: &Arc<Session>) -> u32 {
    text(&run_for(host, "pid", call("pid", "{}", &Arc::default()).of(session)).await).parse().unwrap()
}

#[tokio::test]
async fn each_session_has_its_own_child_until_it_ends() {
    let host = host(&fixture(Lifetime::Session, &[]));
    let (a, b) = (session("a"), session("b"));
    let (first, second) = (pid_in(&host, &a).await, pid_in(&host, &b).await);
    assert_ne!(first, second);
    assert_eq!(pid_in(&host, &a).await, first);
    host.session_ended("a");
    until("the session's child is gone", || is_reaped(first)).await;
    assert_eq!(pid_in(&host, &b).await, second);
    assert_ne!(pid_in(&host, &a).await, first);
    host.session_ended("never seen");
    bounded(host.close()).await;
    assert!(is_reaped(second));
}

#[tokio::test]
async fn a_session_that_ends_while_its_child_starts_leaves_none() {
    let mut settings = fixture(Lifetime::Session, &["--mute"]);
    settings.start_timeout_seconds = 30;
    let host = host(&settings);
    let starting = tokio::spawn(host.call("pid", call("pid", "{}", &Arc::default()).of(&session("a"))));
    until("it starts", || host.status().children == 1).await;
    host.session_ended("a");
    let answer = bounded(starting).await.unwrap().unwrap();
    assert!(answer.get().contains("isError"), "{}", answer.get());
    until("nothing is left of it", || host.status().children == 0).await;
}

#[tokio::test]
async fn calls_without_a_session_share_a_child() {
    let host = host(&fixture(Lifetime::Session, &[]));
    let first = pid(&*host).await;
    assert_eq!(pid(&*host).await, first);
    assert_ne!(pid_in(&host, &session("a")).await, first);
    host.close().await;
}

#[tokio::test]
async fn each_call_has_its_own_child_where_it_is_set_so() {
    let host = host(&fixture(Lifetime::Call, &[]));
    bounded(host.tools()).await.unwrap();
    let (first, second) = (pid(&*host).await, pid(&*host).await);
    assert_ne!(first, second);
    until("both are gone", || is_reaped(first) && is_reaped(second)).await;
    assert_eq!(host.status().children, 0);
}

#[tokio::test]
async fn a_pool_grows_to_its_size_while_its_children_are_busy() {
    let mut settings = fixture(Lifetime::Pool, &[]);
    settings.pool_size = 3;
    let host = host(&settings);
    let mut calls = Vec::new();
    let mut seen = std::collections::HashSet::new();
    // Each call keeps the child busy that had the fewest.
    while seen.len() < 3 && calls.len() < 200 {
        calls.push(tokio::spawn(host.call("sleep", call("sleep", r#"{"n":15000}"#, &Arc::default()))));
        tokio::time::sleep(Duration::from_millis(20)).await;
        seen.insert(pid(&*host).await);
    }
    assert_eq!((seen.len(), host.status().children), (3, 3));
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    bounded(host.close()).await;
}

#[tokio::test]
async fn a_pool_keeps_one_child_warm() {
    let mut settings = fixture(Lifetime::Pool, &[]);
    (settings.pool_size, settings.idle_seconds) = (2, 1);
    let host = host(&settings);
    let busy: Vec<_> = (0..2)
        .map(|_| tokio::spawn(host.call("sleep", call("sleep", r#"{"n":1000}"#, &Arc::default()))))
        .collect();
    until("it has grown", || host.status().children == 2).await;
    for call in busy {
        call.await.unwrap().unwrap();
    }
    until("one is left", || host.status().children == 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Who calls now waits for no start.
    pid(&*host).await;
    assert_eq!((host.status().children, host.status().started), (1, 2));
    host.close().await;
}

#[tokio::test]
async fn an_idle_child_is_ended_and_a_new_one_comes_when_it_is_needed() {
    let mut settings = fixture(Lifetime::Session, &[]);
    settings.idle_seconds = 1;
    let host = host(&settings);
    let a = session("a");
    let first = pid_in(&host, &a).await;
    // A call in flight is no idleness, however long it takes.
    let long = run_for(&*host, "sleep", call("sleep", r#"{"n":2500}"#, &Arc::default()).of(&a)).await;
    assert_eq!(text(&long), "slept 2500");
    assert_eq!(pid_in(&host, &a).await, first);
    until("it is ended", || is_reaped(first)).await;
    assert_ne!(pid_in(&host, &a).await, first);
    assert_eq!(host.status().died, 0);
    host.close().await;
}

#[tokio::test]
async fn no_more_children_than_allowed_and_a_clear_error_for_the_next() {
    let mut settings = fixture(Lifetime::Session, &[]);
    settings.max_children = 2;
    let host = host(&settings);
    let sessions = ["a", "b", "c"].map(session);
    // A shared child that nobody uses makes room for a session's.
    pid(&*host).await;
    pid_in(&host, &sessions[0]).await;
    pid_in(&host, &sessions[1]).await;
    assert_eq!(host.status().children, 2);
    let result = run_for(&*host, "pid", call("pid", "{}", &Arc::default()).of(&sessions[2])).await;
    let says = failure(&result);
    assert!(says.contains("servers.fix.max_children") && says.contains('2'), "{says}");
    assert_eq!(result["_meta"]["outlast/retrySafe"], true);
    host.session_ended("a");
    pid_in(&host, &sessions[2]).await;
    host.close().await;
}

#[tokio::test]
async fn a_session_that_has_been_idle_longest_makes_room_for_another_one() {
    let mut settings = fixture(Lifetime::Session, &[]);
    settings.max_children = 2;
    let host = host(&settings);
    let [a, b, c] = ["a", "b", "c"].map(session);
    let first = pid_in(&host, &a).await;
    let second = pid_in(&host, &b).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(pid_in(&host, &b).await, second);
    // It waits for its place until the other one has been idle for long enough.
    pid_in(&host, &c).await;
    until("it is ended", || is_reaped(first)).await;
    assert_eq!(pid_in(&host, &b).await, second);
    host.close().await;
}

#[tokio::test]
async fn calls_of_one_session_at_once_start_one_child() {
    let host = host(&fixture(Lifetime::Session, &[]));
    let a = session("a");
    let pids = futures_util::future::join_all((0..20).map(|_| pid_in(&host, &a))).await;
    assert!(pids.iter().all(|pid| *pid == pids[0]));
    assert_eq!(host.status().started, 1);
    // The list has a child of its own, for as long as it takes.
    bounded(host.tools()).await.unwrap();
    until("only the session's child is left", || host.status().children == 1).await;
    host.close().await;
}

#[tokio::test]
async fn after_close_there_are_no_children_and_calls_say_so() {
    let host = host(&fixture(Lifetime::Pool, &[]));
    let one = pid(&*host).await;
    let waiting = tokio::spawn(host.call("never", call("never", "{}", &Arc::default())));
    tokio::time::sleep(Duration::from_millis(50)).await;
    bounded(host.close()).await;
    assert!(is_reaped(one));
    assert_eq!(host.status().children, 0);
    assert!(bounded(waiting).await.unwrap().unwrap().get().contains("being shut down"));
    let result = run(&*host, "echo", r#"{"message":"x"}"#).await;
    assert!(failure(&result).contains("being shut down"), "{result}");
}

#[tokio::test]
async fn a_subscription_keeps_a_child_but_none_that_was_started_for_a_call_that_asks() {
    let mut settings = fixture(Lifetime::Pool, &["--catalog", "a"]);
    (settings.max_children, settings.idle_seconds) = (4, 1);
    let host = host(&settings);
    let subscriber = Subscriber { key: Arc::from("me"), session: None, principal: PrincipalHash::of("me") };
    bounded(host.subscribe(&subscriber, "a://one")).await.unwrap();
    let client = Arc::new(Client { answer: Some(Ok("{}")), ..Client::default() });
    run_for(&*host, "ask", call("ask", r#"{"method":"roots/list"}"#, &client)).await;
    let waiting: Vec<_> = (0..3)
        .map(|_| tokio::spawn(host.call("ask", call("ask", r#"{"method":"roots/list"}"#, &Arc::default()))))
        .collect();
    until("each has a child of its own", || host.status().children == 3).await;
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    until("the pool has its size again", || host.status().children == 1).await;
    assert_eq!(text(&run(&*host, "subscriptions", "{}").await), "a://one");
    host.close().await;
}
