//! Of two writes of one value that could not see each other, the one that lost is kept, once.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{status, two, until_healed, until_mode};
use crate::support::server::{Server, command, run};
use crate::support::session::Session;
use crate::support::until;

async fn set(server: &Server, key: &str, value: &str) {
    let path = format!("/admin/sessions/{key}/values/v");
    let answer = server.admin_exchange("PUT", &path, value.as_bytes()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

async fn get(server: &Server, key: &str) -> Value {
    let path = format!("/admin/sessions/{key}/values/v");
    server.admin_exchange("GET", &path, b"").await.json()["text"].clone()
}

async fn listed(server: &Server) -> Vec<Value> {
    let page = server.admin_exchange("GET", "/admin/conflicts", b"").await.json();
    assert_eq!(page["next"], Value::Null, "{page}");
    page["conflicts"].as_array().unwrap().clone()
}

async fn counted(server: &Server) -> u64 {
    status(server).await["redis"]["sharing"]["conflicts"].as_u64().unwrap()
}

/// `outlast sessions conflicts`
fn printed(server: &Server, args: &[&str]) -> String {
    let data = server.data_dir();
    let args = [&["sessions", "conflicts", "--data-dir", data.to_str().unwrap()], args].concat();
    let output = run(&mut command(server.dir(), &args));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Who is there to pay while the other one is held up.
#[derive(Clone, Copy, PartialEq)]
enum First {
    Either,
    Loser,
    Winner,
}

/// Both write one value while Redis is away, which comes back with nothing.
async fn lose(first: First) {
    let (mut redis, a, b) = two().await;
    let session = Session::open(&a).await;
    assert_eq!((session.count().await, session.at(&b).count().await), (1, 2));
    let page = a.admin_exchange("GET", "/admin/sessions", b"").await.json();
    let key = page["sessions"][0]["key"].as_str().unwrap();
    redis.kill();
    until_mode(&a, "degraded").await;
    until_mode(&b, "degraded").await;
    set(&a, key, "early").await;
    // Their clocks are one.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    set(&b, key, "late").await;
    let (there, held_up) = match first {
        First::Loser => (&a, Some(&b)),
        First::Either | First::Winner => (&b, (first == First::Winner).then_some(&a)),
    };
    if let Some(held_up) = held_up {
        held_up.signal(Signal::STOP);
    }
    redis.restart();
    until_healed(there).await;
    if let Some(held_up) = held_up {
        held_up.signal(Signal::CONT);
    }
    until_healed(&a).await;
    until_healed(&b).await;
    for server in [&a, &b] {
        until("the later one stands", || async { get(server, key).await == "late" }).await;
    }
    until("the earlier one is listed", || async { !listed(&a).await.is_empty() }).await;
    let (lost, other) = (listed(&a).await, listed(&b).await);
    assert_eq!((lost.len(), &other), (1, &Vec::new()), "{lost:?}");
    assert_eq!((counted(&a).await, counted(&b).await), (1, 0));
    let lost = &lost[0];
    assert_eq!((&lost["key"], &lost["name"], &lost["text"]), (&json!(key), &json!("v"), &json!("early")));
    assert_ne!(lost["origin"], lost["lost_to"]["origin"], "{lost}");
    assert!(lost["written_ms"].as_u64() < lost["lost_to"]["written_ms"].as_u64(), "{lost}");

    assert_eq!(serde_json::from_str::<Value>(&printed(&a, &["--json"])).unwrap(), json!([lost]));
    let text = printed(&a, &[]);
    assert!(text.starts_with("NOTICED") && text.contains(key) && text.contains("early"), "{text}");
    assert_eq!((printed(&b, &["--json"]).trim(), printed(&b, &[]).trim()), ("[]", "no conflicts"));
}

#[tokio::test]
async fn the_earlier_of_two_writes_is_listed_once_when_both_are_paid_together() {
    lose(First::Either).await;
}

#[tokio::test]
async fn the_earlier_of_two_writes_is_listed_once_when_it_is_paid_first() {
    lose(First::Loser).await;
}

#[tokio::test]
async fn the_earlier_of_two_writes_is_listed_once_when_it_is_paid_last() {
    lose(First::Winner).await;
}
