//! Clients that take all they can: what they cost is bounded, and the session beside them does not notice.

use std::time::Duration;

use serde_json::json;

use crate::support::http::Connection;
use crate::support::mcp::{BOTH, Session, call, request, send_on, server_with, text, until_stats};
use crate::support::server::Server;
use crate::support::soon;

const LATEST: &str = "2025-11-25";
/// What everything that is tried here may take together, bytes: the connections themselves are the most of it.
const BOUND: u64 = 96 << 20;

async fn serves(session: &Session<'_>, what: &str) {
    let answer = soon(what, session.post(call(1, "echo", json!({ "message": what })))).await;
    assert_eq!(text(&answer.json()), what);
}

/// Opens a GET stream of the session and leaves it.
async fn open_stream(server: &Server, session: &Session<'_>) -> Connection {
    let mut connection = server.connect().await;
    let mut headers = session.headers();
    headers.push(("Accept", "text/event-stream"));
    connection.request("GET", "/mcp", &headers, b"").await;
    assert_eq!(soon("a stream", connection.head()).await.status, 200);
    connection
}

#[tokio::test]
async fn two_thousand_streams_of_one_session_leave_as_many_as_it_may_have() {
    let server = server_with(&[]).await;
    let (greedy, other) = (Session::open(&server, LATEST).await, Session::open(&server, LATEST).await);
    let mut kept = open_stream(&server, &other).await;
    let before = server.resident_bytes();
    let mut streams = Vec::new();
    for number in 0..2_000 {
        streams.push(open_stream(&server, &greedy).await);
        // Ended streams leave their connections open for another request: those the client has to hold, too.
        if streams.len() > 256 {
            streams.remove(0);
        }
        if number % 500 == 0 {
            serves(&other, "among streams").await;
        }
    }
    let allowed = outlast::base::limits::STREAMS_PER_SESSION as u64 + 1;
    until_stats(&server, "streams beyond the bound to end", |stats| {
        stats["streams"].as_u64().unwrap() <= allowed
    })
    .await;
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < BOUND, "{grown} bytes more than before");
    // The stream of the other session is what it was.
    let message = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } });
    let sent = server.admin_exchange("POST", "/admin/broadcast", message.to_string().as_bytes()).await;
    assert_eq!(sent.status(), 200, "{}", sent.text());
    let heard = soon("the broadcast", kept.next_message()).await.unwrap();
    assert_eq!(heard.json()["params"]["data"], 1);
}

#[tokio::test]
async fn bodies_that_never_end_and_long_ones_that_mean_nothing_cost_little() {
    let server = server_with(&[("OUTLAST_SERVER__BODY_TIMEOUT_SECONDS", "2")]).await;
    let other = Session::open(&server, LATEST).await;
    let before = server.resident_bytes();
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut connection = server.connect().await;
        // A megabyte is announced, a few bytes come.
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: {BOTH}\r\n\
             Content-Length: 1000000\r\n\r\n{{\"jsonrpc\":\"2.0\",\"id\":{number}"
        );
        connection.send(head.as_bytes()).await.unwrap();
        slow.push(connection);
    }
    serves(&other, "beside slow bodies").await;
    // Brackets without end, and a million members: refused without being built.
    for body in ["[".repeat(1_000_000), format!("{{{}\"a\":1}}", "\"a\":1,".repeat(160_000))] {
        let mut connection = server.connect().await;
        send_on(&mut connection, &[], &body).await;
        assert_eq!(soon("a refusal", connection.head()).await.status, 400);
        serves(&other, "beside deep bodies").await;
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < BOUND, "{grown} bytes more than before");
    for mut connection in slow {
        assert_eq!(soon("the end of a slow body", connection.head()).await.status, 408);
    }
}

#[tokio::test]
async fn ids_used_again_by_thousands_and_questions_that_nobody_answers_stay_in_their_session() {
    let server = server_with(&[("OUTLAST_STREAMS__JSON_WITHIN_MS", "0")]).await;
    let capabilities = json!({ "elicitation": {} });
    let greedy = Session::open_with(&server, LATEST, capabilities).await;
    let other = Session::open(&server, LATEST).await;
    // Questions that wait: as many as a session may have, the rest are tool errors.
    let mut waiting = Vec::new();
    for id in 0..100 {
        waiting.push(greedy.send(call(id, "ask", json!({ "message": "?" }))).await);
    }
    serves(&other, "beside questions").await;
    let mut connection = server.connect().await;
    for _ in 0..2_000 {
        let mut headers = greedy.headers();
        headers.push(("Accept", "application/json"));
        send_on(&mut connection, &headers, call(7, "echo", json!({ "message": "m" }))).await;
        // Its id belongs to a call that runs.
        assert_eq!(soon("an answer", connection.head()).await.status, 200);
        let said = String::from_utf8(connection.body().await).unwrap();
        assert!(said.contains("still running"), "{said}");
    }
    // Answers to questions that were never asked.
    for id in 0..500 {
        let answer = json!({ "jsonrpc": "2.0", "id": format!("no-{id}"), "result": {} });
        assert_eq!(greedy.post(answer.to_string()).await.status(), 202);
    }
    serves(&other, "beside reused ids").await;
    greedy.end().await;
    until_stats(&server, "no calls", |stats| stats["calls"] == 0).await;
    let gone = greedy.post(request(1, "ping", json!({}))).await;
    assert_eq!(gone.status(), 404);
    tokio::time::sleep(Duration::from_millis(50)).await;
    serves(&other, "at the end").await;
}
