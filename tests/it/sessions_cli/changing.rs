//! Changing values, lifetimes and locks, and ending sessions.

use super::{ACCEPT, COUNTER, Client, JSON, call, sessions, start, stop};
use crate::support::soon;
use serde_json::json;

#[tokio::test]
async fn a_value_is_set_read_and_removed_and_a_live_session_sees_it() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    assert_eq!(client.count(&server, 1).await, 1);
    sessions(&server, &["set", &client.key, COUNTER, "41"]).well();
    assert_eq!(client.count(&server, 1).await, 42);
    sessions(&server, &["rm", &client.key, COUNTER]).well();
    assert_eq!(client.count(&server, 1).await, 1);

    for value in ["running", "stopped"] {
        // Names and values as nasty as they may be.
        for name in ["a", "a/b?c=d&e%2F#", "-n", "..", "ü \u{1b}[2J", "session.mine", &"n".repeat(4_094)] {
            sessions(&server, &["set", &client.key, name, value]).well();
            assert_eq!(sessions(&server, &["get", &client.key, name]).well().text(), value, "{name:.20}");
        }
        let raw: Vec<u8> = (0..=255).collect();
        std::fs::write(server.dir().join("raw"), &raw).unwrap();
        sessions(&server, &["set", &client.key, "raw", "--file", "raw"]).well();
        assert_eq!(sessions(&server, &["get", &client.key, "raw"]).well().out, raw);
        sessions(&server, &["set", &client.key, "empty", ""]).well();
        assert_eq!(sessions(&server, &["get", &client.key, "empty"]).well().out, b"");
        let shown = sessions(&server, &["show", &client.key]).well().text();
        assert!(!shown.contains('\u{1b}'), "{shown}");
        sessions(&server, &["rm", &client.key, "a"]).well();
        sessions(&server, &["get", &client.key, "a"]).failed(1, &["has no value"]);
        stop(&mut server).await;
    }
    server.restart().await;
    assert_eq!(client.count(&server, 1).await, 2);
    assert_eq!(sessions(&server, &["get", &client.key, "session.mine"]).well().text(), "stopped");
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_that_names_both_and_changes_nothing() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    for _ in 0..2 {
        let set = |args: &[&str]| sessions(&server, &[&["set", &client.key, "a"], args].concat());
        let version = |done: super::Done| done.well().json()["version"].as_str().unwrap().to_owned();
        let old = version(set(&["1", "--json"]));
        let new = version(set(&["2", "--if-version", &old, "--json"]));
        assert_ne!(old, new);
        set(&["3", "--if-version", &old]).failed(1, &[&old, &new]);
        let rm = ["rm", &client.key, "a", "--if-version", &old];
        sessions(&server, &rm).failed(1, &[&old, &new]);
        let got = sessions(&server, &["get", &client.key, "a", "--json"]).well().json();
        assert_eq!((&got["text"], &got["version"]), (&"2".into(), &new.as_str().into()));
        set(&["3", "--if-version", "yesterday"]).failed(2, &["If-Match: want the version"]);
        sessions(&server, &["rm", &client.key, "a", "--if-version", &new]).well();
        stop(&mut server).await;
    }
}

#[tokio::test]
async fn what_may_not_be_written_is_refused_and_nothing_is_changed() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    let long = "x".repeat((1 << 20) + 1);
    std::fs::write(server.dir().join("long"), &long).unwrap();
    for _ in 0..2 {
        let field = "session.capabilities";
        sessions(&server, &["set", &client.key, field, "{}"]).failed(1, &["read-only"]);
        sessions(&server, &["rm", &client.key, field]).failed(1, &["read-only"]);
        sessions(&server, &["set", &client.key, "long", "--file", "long"])
            .failed(1, &["sessions.max_value_bytes"]);
        sessions(&server, &["set", &client.key, "long", "--file", "none"])
            .failed(1, &["none cannot be read"]);
        sessions(&server, &["set", &client.key, &"n".repeat(4_095), "x"]).failed(2, &["4094"]);
        sessions(&server, &["set", &client.key, "", "x"]).failed(2, &["the name of a value"]);
        sessions(&server, &["set", &client.key, "a"]).failed(2, &["--file"]);
        let values = sessions(&server, &["show", &client.key, "--json"]).well().json()["values"].clone();
        assert_eq!(values, json!([]));
        stop(&mut server).await;
    }
}

#[tokio::test]
async fn a_session_that_is_ended_is_gone_with_its_streams_and_its_calls() {
    let mut server = start().await;
    let (client, other) = (Client::start(&server).await, Client::start(&server).await);
    let mut stream = client.listen(&server, None).await;
    let mut running = server.connect().await;
    let headers = [JSON, ACCEPT, ("Mcp-Session-Id", client.id.as_str())];
    let sleep = call("sleep", &json!({ "ms": 600_000 })).to_string();
    running.request("POST", "/mcp", &headers, sleep.as_bytes()).await;
    assert_eq!(running.head().await.status, 200, "a stream, since it takes long");
    let live = sessions(&server, &["show", &client.key, "--json"]).well().json()["live"].clone();
    assert_eq!((&live["streams"], &live["calls"]), (&json!(2), &json!(1)));

    assert_eq!(sessions(&server, &["rm", &client.key]).well().text(), format!("{}: ended\n", client.key));
    soon("the end of the stream", async { while stream.next_event().await.is_some() {} }).await;
    soon("the end of the call", async { while running.next_event().await.is_some() {} }).await;
    assert_eq!(client.ping(&server).await, 404);
    assert_eq!(other.ping(&server).await, 200);
    sessions(&server, &["rm", &client.key]).failed(1, &["there is no such session"]);

    server.term().await;
    sessions(&server, &["show", &other.key]).well();
    sessions(&server, &["rm", &other.id]).well();
    assert_eq!(sessions(&server, &["ls", "--json"]).well().json(), json!([]));
    server.restart().await;
    assert_eq!((client.ping(&server).await, other.ping(&server).await), (404, 404));
}

#[tokio::test]
async fn a_session_is_kept_for_longer_but_not_beyond_its_deadline() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    for _ in 0..2 {
        let before = sessions(&server, &["ttl", &client.key, "--json"]).well().json();
        assert!(before["idle_left_ms"].as_u64().unwrap() <= 3 * 86_400_000, "{before}");
        let after = sessions(&server, &["ttl", &client.key, "--extend", "3d", "--json"]).well().json();
        let left = after["idle_left_ms"].as_u64().unwrap();
        assert!((3 * 86_400_000 - 60_000..=3 * 86_400_000).contains(&left), "{after}");
        let deadline = after["deadline_ms"].clone();
        sessions(&server, &["ttl", &client.key, "--extend", "8d"]).failed(1, &[&deadline.to_string()]);
        sessions(&server, &["ttl", &client.key, "--extend", "0s"]).failed(2, &["at least one second"]);
        let unchanged = sessions(&server, &["ttl", &client.key, "--json"]).well().json();
        assert!(unchanged["idle_left_ms"].as_u64().unwrap() <= left && unchanged["deadline_ms"] == deadline);
        stop(&mut server).await;
    }
}

#[tokio::test]
async fn a_session_that_was_kept_outlives_its_idle_time_in_memory_too() {
    let server = crate::support::server::Server::start_in(
        &std::sync::Arc::new(tempfile::tempdir().unwrap()),
        &["--diagnostics"],
        &[("OUTLAST_SESSIONS__IDLE_TTL_SECONDS", "1"), ("OUTLAST_SESSIONS__STRICT_IDLE_EXPIRY", "true")],
    )
    .await;
    let other = Client::start(&server).await;
    // On a slow machine one may be over before the command comes.
    let kept = soon("a session that is kept", async {
        loop {
            let client = Client::start(&server).await;
            if sessions(&server, &["ttl", &client.key, "--extend", "1h"]).code == 0 {
                return client;
            }
        }
    })
    .await;
    kept.count(&server, 7).await;
    soon("the end of the other session", async {
        while sessions(&server, &["show", &other.key]).code == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(other.ping(&server).await, 404);
    assert_eq!(kept.count(&server, 1).await, 8);
}

#[tokio::test]
async fn a_lock_is_its_holders_alone() {
    let mut server = start().await;
    for name in ["a/b", "c"] {
        let lock = |args: &[&str]| sessions(&server, &[&["lock"], args].concat());
        let taken = lock(&["take", name, "--ttl", "1h", "--json"]).well().json();
        let token = taken["token"].as_str().unwrap().to_owned();
        lock(&["take", name, "--ttl", "1h"]).failed(1, &["is held for"]);
        let wrong = "0".repeat(32);
        lock(&["renew", name, "--token", &wrong, "--ttl", "1h"]).failed(1, &["not the token"]);
        lock(&["release", name, "--token", &wrong]).failed(1, &["not the token"]);
        lock(&["release", name, "--token", "mine"]).failed(2, &["32 hexadecimal digits"]);
        lock(&["take", name, "--ttl", "0s"]).failed(2, &["ttl_seconds"]);
        let renewed = lock(&["renew", name, "--token", &token, "--ttl", "2h", "--json"]).well().json();
        assert_eq!((&renewed["token"], &renewed["fence"]), (&taken["token"], &taken["fence"]));
        assert!(renewed["expires_ms"].as_u64() > taken["expires_ms"].as_u64());
        assert!(lock(&["release", name, "--token", &token]).well().text().contains("released"));
        let again = lock(&["take", name, "--ttl", "1h", "--json"]).well().json();
        assert!(again["fence"].as_u64() > taken["fence"].as_u64());
        assert_ne!(again["token"], taken["token"]);
        // The next name is locked in the directory, and what was locked before is so there, too.
        stop(&mut server).await;
        let lock = |args: &[&str]| sessions(&server, &[&["lock"], args].concat());
        lock(&["take", name, "--ttl", "1h"]).failed(1, &["is held for"]);
    }
}
