//! Sessions as their clients meet them: which ids are served, for how long, how many, and what survives.

use std::fs;

use outlast::base::seal::{hex, sha256};
use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::session::{
    BOTH, LATEST, Session, broadcast, call, figure, initialize, note, server_with, silent_call, until_figure,
};
use crate::support::until;

fn ping() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})
}

/// POST, GET and DELETE with this session id.
async fn statuses(server: &Server, id: Option<&str>) -> [u16; 3] {
    let mut answered = [0; 3];
    for (slot, method) in answered.iter_mut().zip(["POST", "GET", "DELETE"]) {
        let accept = if method == "GET" { "text/event-stream" } else { BOTH };
        let mut headers = vec![("Content-Type", "application/json"), ("Accept", accept)];
        headers.extend(id.map(|id| ("Mcp-Session-Id", id)));
        let body = if method == "POST" { ping().to_string() } else { String::new() };
        let answer = server.exchange(method, "/mcp", &headers, body.as_bytes()).await;
        assert_eq!(answer.json()["error"]["code"], -32600, "{}", answer.text());
        *slot = answer.status();
    }
    answered
}

#[tokio::test]
async fn a_request_without_a_session_is_400_and_one_of_a_session_that_never_was_is_404() {
    let server = server_with("").await;
    assert_eq!(statuses(&server, None).await, [400; 3]);
    let session = Session::open(&server).await;
    let other_server = server_with("").await;
    let foreign = Session::open(&other_server).await;
    let swapped = |at: usize| {
        let mut id = session.id.clone().into_bytes();
        id[at] = if id[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(id).unwrap()
    };
    let dot = session.id.rfind('.').unwrap();
    let mut forged = vec![
        "x".to_owned(),
        "s1..".to_owned(),
        "00000000-0000-0000-0000-000000000000".to_owned(),
        session.id[..dot].to_owned(),
        format!("{}A", session.id),
        session.id[..session.id.len() - 1].to_owned(),
        format!("{}{}", &session.id[..dot], &foreign.id[foreign.id.rfind('.').unwrap()..]),
        foreign.id.clone(),
        "y".repeat(4_000),
    ];
    // Every part of the id counts.
    forged.extend((3..session.id.len()).filter(|at| *at != dot).step_by(7).map(swapped));
    for id in &forged {
        assert_eq!(statuses(&server, Some(id)).await, [404; 3], "{id}");
    }
    assert_eq!(session.status().await, 200);
    assert_eq!(figure(&server, "rehydrated").await, 0);
}

#[tokio::test]
async fn a_session_belongs_to_the_principal_that_made_it() {
    let tokens: String = [("alice", "one"), ("alice", "two"), ("bob", "three")]
        .iter()
        .map(|(name, token)| {
            format!(
                "[[auth.tokens]]\nprincipal = \"{name}\"\nsha256 = \"{}\"\n",
                hex(&sha256(token.as_bytes()))
            )
        })
        .collect();
    let mut server = server_with(&tokens).await;
    let alice = Session::open_as(&server, LATEST, Some("Bearer one")).await;
    assert_eq!(alice.count().await, 1);
    let (again, bob) = (alice.borne_by("Bearer two"), alice.borne_by("Bearer three"));
    for _ in 0..2 {
        assert_eq!(bob.status().await, 404);
        assert_eq!(bob.refused_stream(None).await.status(), 404);
        assert_eq!(bob.end().await.status(), 404);
        assert_eq!(alice.borne_by("Bearer four").status().await, 401);
        assert_eq!(again.status().await, 200);
        // The same when the session has to be read from the disk first.
        server.kill();
        server.restart().await;
    }
    assert_eq!(again.count().await, 2);
    // What the store has lost comes back for its owner alone.
    server.kill();
    fs::remove_dir_all(server.data_dir().join("db")).unwrap();
    server.restart().await;
    assert_eq!(bob.status().await, 404);
    assert_eq!((figure(&server, "rehydrated").await, figure(&server, "sessions").await), (0, 0));
    assert_eq!(alice.count().await, 1);
}

#[tokio::test]
async fn a_session_is_over_at_its_deadline_however_much_it_is_used() {
    let mut server = server_with("[sessions]\nmax_ttl_seconds = 2\n").await;
    let session = Session::open(&server).await;
    let mut stream = session.stream(None).await;
    until("the deadline", || async { session.status().await == 404 }).await;
    assert_eq!(session.refused_stream(None).await.status(), 404);
    assert_eq!(stream.rest().await, Vec::<Value>::new(), "its streams end");
    server.kill();
    server.restart().await;
    assert_eq!(session.status().await, 404);
    assert_eq!(figure(&server, "rehydrated").await, 0);
    Session::open(&server).await;
}

#[tokio::test]
async fn a_session_that_was_ended_is_gone_for_good_with_its_calls_and_streams() {
    let mut server = server_with("").await;
    let session = Session::open(&server).await;
    let mut get = session.stream(None).await;
    get.event().await.unwrap();
    let mut post = session.start(&json!(1), "sleep", json!({"ms": 60_000})).await;
    post.take(1).await;
    assert_eq!(session.end().await.status(), 200);
    assert!(get.rest().await.is_empty());
    assert!(post.rest().await.iter().all(|message| message["id"].is_null()));
    until_figure(&server, "calls", 0).await;
    assert_eq!(statuses(&server, Some(&session.id)).await, [404; 3]);
    let said =
        server.admin_exchange("POST", &format!("/admin/send?sid={}", session.id), note(1).as_bytes()).await;
    assert_eq!(said.status(), 404);
    for clean in [false, true] {
        if clean {
            server.term().await;
        } else {
            server.kill();
        }
        server.restart().await;
        assert_eq!(statuses(&server, Some(&session.id)).await, [404; 3]);
    }
    assert_eq!(figure(&server, "sessions").await, 0);
}

#[tokio::test]
async fn a_client_is_told_how_long_its_session_may_be_idle() {
    let server = server_with("[sessions]\nidle_ttl_seconds = 77\n").await;
    let answer = initialize(&server, LATEST, None).await;
    assert_eq!(answer.header("mcp-session-idle-ttl"), Some("77"));
}

#[tokio::test]
async fn a_session_goes_on_after_kill_9_with_its_values_level_and_capabilities() {
    let mut server = server_with("").await;
    let session = Session::open(&server).await;
    let level =
        json!({"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "error"}});
    assert_eq!(session.post(&level).await.json()["result"], json!({}));
    for round in 0..3 {
        assert_eq!(session.count().await, 2 * round + 1);
        assert_eq!(session.count().await, 2 * round + 2);
        let said = session.call("emit", json!({"count": 3})).await;
        assert!(said["content"][0]["text"].as_str().unwrap().contains("3 of them not sent"), "{said}");
        // The client declared elicitation, so it is asked.
        let mut asked = session.start(&json!(round), "ask", json!({"message": "well?"})).await;
        let question = asked.take(1).await.remove(0);
        assert_eq!(question["method"], "elicitation/create");
        let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}});
        assert_eq!(session.post(&answer).await.status(), 202);
        assert_eq!(asked.rest().await.last().unwrap()["id"], round);
        if round == 1 {
            server.term().await;
        } else {
            server.kill();
        }
        server.restart().await;
    }
    assert_eq!(figure(&server, "rehydrated").await, 0);
}

#[tokio::test]
async fn an_id_outlives_the_loss_of_the_database_as_an_empty_session() {
    for strict in [false, true] {
        let mut server = server_with(&format!("[sessions]\nstrict_idle_expiry = {strict}\n")).await;
        let session = Session::open_as(&server, "2025-06-18", None).await;
        assert_eq!(session.count().await, 1);
        let mut stream = session.stream(None).await;
        assert_eq!(broadcast(&server, &note(1)).await.status(), 200);
        assert_eq!(stream.numbers(1).await, [1]);
        server.kill();
        fs::remove_dir_all(server.data_dir().join("db")).unwrap();
        server.restart().await;
        if strict {
            assert_eq!(session.status().await, 404);
            assert_eq!(figure(&server, "sessions").await, 0);
            continue;
        }
        assert_eq!(session.count().await, 1);
        assert_eq!((figure(&server, "rehydrated").await, figure(&server, "sessions").await), (1, 1));
        // An id of a life that is forgotten stands in nobody's way, and capabilities are in the session id.
        let mut stream = session.stream(stream.last.as_deref()).await;
        assert_eq!(broadcast(&server, &note(2)).await.status(), 200);
        assert_eq!(stream.numbers(1).await, [2]);
        let mut asked = session.start(&json!(1), "ask", json!({"message": "well?"})).await;
        assert_eq!(asked.take(1).await[0]["method"], "elicitation/create");
    }
}

#[tokio::test]
async fn an_id_without_the_keys_that_signed_it_is_forged() {
    let mut server = server_with("").await;
    let session = Session::open(&server).await;
    server.kill();
    for name in ["db", "keys", "sealed"] {
        let path = server.data_dir().join(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    server.restart().await;
    assert_eq!(session.status().await, 404);
}

#[tokio::test]
async fn caps_on_sessions_answer_429_and_name_the_setting() {
    let tokens: String = ["a", "b"]
        .iter()
        .map(|name| {
            format!(
                "[[auth.tokens]]\nprincipal = \"{name}\"\nsha256 = \"{}\"\n",
                hex(&sha256(name.as_bytes()))
            )
        })
        .collect();
    let mut server =
        server_with(&format!("{tokens}[sessions]\nmax_total = 3\nmax_per_principal = 2\n")).await;
    let first = Session::open_as(&server, LATEST, Some("Bearer a")).await;
    Session::open_as(&server, LATEST, Some("Bearer a")).await;
    for _ in 0..2 {
        let refused = initialize(&server, LATEST, Some("Bearer a")).await;
        assert_eq!(refused.status(), 429);
        assert!(refused.header("retry-after").is_some() && refused.header("mcp-session-id").is_none());
        let text = refused.json()["error"]["message"].to_string();
        assert!(text.contains("sessions.max_per_principal"), "{text}");
        // Counted anew after a crash.
        server.kill();
        server.restart().await;
    }
    Session::open_as(&server, LATEST, Some("Bearer b")).await;
    let refused = initialize(&server, LATEST, Some("Bearer b")).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.text().contains("sessions.max_total"), "{}", refused.text());
    assert_eq!(first.end().await.status(), 200);
    Session::open_as(&server, LATEST, Some("Bearer b")).await;
}

#[tokio::test]
async fn more_calls_at_a_time_than_a_session_may_have_are_refused_and_the_others_go_on() {
    let server = server_with("[streams]\njson_within_ms = 0\n").await;
    let session = Session::open(&server).await;
    let calls = outlast::base::limits::CALLS_PER_SESSION;
    let mut running = Vec::new();
    for id in 0..calls {
        running.push(session.start_by(&silent_call(&json!(id), "sleep", json!({"ms": 600_000}))).await);
    }
    let refused = session.post(&call(&json!("one more"), "sleep", json!({"ms": 600_000}))).await.json();
    assert!(refused["error"]["message"].as_str().unwrap().contains(&calls.to_string()), "{refused}");
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 0}});
    assert_eq!(session.post(&cancel).await.status(), 202);
    assert!(running.remove(0).rest().await.iter().all(|message| message["id"].is_null()));
    assert_eq!(session.call("sleep", json!({"ms": 60})).await["content"][0]["text"], "slept 60 ms");
    assert_eq!(session.end().await.status(), 200);
    until_figure(&server, "calls", 0).await;
}
