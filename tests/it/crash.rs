//! What a crash takes and what it leaves: the server is killed in the middle of everything, and started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::server::Server;
use crate::support::session::{
    Operator, Session, call, figure, is_gap, note, number_of, send_notes, server_with, until_figure,
};
use crate::support::until;

fn numbers(messages: &[Value]) -> Vec<u64> {
    messages.iter().filter_map(number_of).collect()
}

/// This, and a server whose tool `tally` takes long and does not say that running it twice does no harm.
fn hosting(config: &str) -> String {
    format!("{config}[servers.fix]\ncommand = {:?}\nargs = [\"--execute\"]\n", crate::children::fixture())
}

async fn crash(server: &mut Server) {
    server.kill();
    server.restart().await;
}

#[tokio::test]
async fn a_stream_of_200_numbers_goes_on_where_its_client_was_when_the_server_was_killed() {
    let mut server = server_with("").await;
    let session = Session::open(&server).await;
    let mut stream = session.start(&json!("e"), "emit", json!({"count": 200, "interval_ms": 4})).await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.extend(stream.take(40).await);
        server.kill();
        // What is on the way when the server dies still counts as seen.
        heard.extend(stream.rest().await);
        server.restart().await;
        stream = session.stream(stream.last.as_deref()).await;
    }
    heard.extend(stream.rest().await);
    assert_eq!(numbers(&heard), (1..=200).collect::<Vec<_>>());
    assert_eq!(heard.len(), 201);
    let last = heard.last().unwrap();
    assert_eq!(
        (&last["id"], &last["result"]["content"][0]["text"]),
        (&json!("e"), &json!("emitted 200 messages"))
    );
}

#[tokio::test]
async fn what_a_tool_says_is_said_once_also_when_its_history_was_cut_off_before_the_crash() {
    let mut server = server_with("[streams]\nmax_entries = 20\n").await;
    let session = Session::open(&server).await;
    let mut stream = session.start(&json!(1), "emit", json!({"count": 150, "interval_ms": 4})).await;
    let mut heard = stream.take(60).await;
    server.kill();
    heard.extend(stream.rest().await);
    server.restart().await;
    let mut stream = session.stream(stream.last.as_deref()).await;
    heard.extend(stream.rest().await);
    assert_eq!(numbers(&heard), (1..=150).collect::<Vec<_>>());
    assert_eq!(heard.last().unwrap()["id"], 1);
    assert_eq!(figure(&server, "gaps").await, 0);
}

#[tokio::test]
async fn every_acknowledged_message_arrives_once_and_in_order_over_crashes() {
    let mut server = server_with("").await;
    let session = Session::open(&server).await;
    let operator = Operator::of(&server);
    let over = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let senders: Vec<_> = [Some(session.clone()), None]
        .into_iter()
        .map(|to| {
            let (operator, over, acknowledged) =
                (operator.clone(), Arc::clone(&over), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                let (mut number, mut done) = (if to.is_some() { 0 } else { 1_000_000 }, Vec::new());
                while !over.load(Ordering::SeqCst) {
                    number += 1;
                    if operator.send(to.as_ref(), &note(number)).await {
                        done.push(number);
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    } else {
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    }
                }
                done
            })
        })
        .collect();
    let mut stream = session.stream(None).await;
    let mut heard = Vec::new();
    for _ in 0..5 {
        let before = acknowledged.load(Ordering::SeqCst);
        heard.extend(stream.take(20).await);
        until("progress", || async { acknowledged.load(Ordering::SeqCst) > before + 20 }).await;
        server.kill();
        heard.extend(stream.rest().await);
        server.restart().await;
        stream = session.stream(stream.last.as_deref()).await;
    }
    over.store(true, Ordering::SeqCst);
    let mut done = Vec::new();
    for sender in senders {
        done.push(sender.await.unwrap());
    }
    // The last words, so that there is an end to wait for.
    assert!(operator.send(Some(&session), &note(999_999)).await);
    assert!(operator.send(None, &note(1_999_999)).await);
    let mut ends = 0;
    while ends < 2 {
        let message = stream.take(1).await.remove(0);
        ends += u32::from(matches!(number_of(&message), Some(999_999 | 1_999_999)));
        heard.push(message);
    }
    assert!(!heard.iter().any(is_gap));
    let (broadcasts, sent): (Vec<u64>, Vec<u64>) =
        numbers(&heard).into_iter().partition(|number| *number > 1_000_000);
    for (heard, done) in [sent, broadcasts].iter().zip(&done) {
        assert!(heard.windows(2).all(|pair| pair[0] < pair[1]), "once and in order: {heard:?}");
        let missing: Vec<_> = done.iter().filter(|number| !heard.contains(number)).collect();
        assert!(missing.is_empty(), "acknowledged and not delivered: {missing:?}");
    }
}

#[tokio::test]
async fn a_stream_that_lives_through_twenty_crashes_repeats_nothing() {
    let mut server = server_with("").await;
    let session = Session::open(&server).await;
    let operator = Operator::of(&server);
    let mut stream = session.stream(None).await;
    stream.event().await.unwrap();
    let first = stream.last.clone();
    for round in 1..=20 {
        assert!(operator.send(Some(&session), &note(round)).await);
        assert!(operator.send(None, &note(1_000 + round)).await);
        let mut heard = stream.numbers(2).await;
        heard.sort_unstable();
        assert_eq!(heard, [round, 1_000 + round]);
        crash(&mut server).await;
        stream = session.stream(stream.last.as_deref()).await;
    }
    assert!(operator.send(Some(&session), &note(21)).await);
    assert_eq!(stream.numbers(1).await, [21]);
    assert_eq!(figure(&server, "gaps").await, 0);
    // A session that begins now has missed nothing of all that.
    let late = Session::open(&server).await;
    let mut stream = late.stream(None).await;
    assert!(operator.send(None, &note(1_021)).await);
    assert_eq!(stream.numbers(1).await, [1_021]);
    assert_eq!(figure(&server, "gaps").await, 0);
    // One that has been away all the time is told what there is, in order, and that it is not all.
    let mut stream = session.stream(first.as_deref()).await;
    let mut heard = Vec::new();
    while !numbers(&heard).contains(&1_021) {
        heard.extend(stream.take(1).await);
    }
    assert!(is_gap(&heard[0]), "{heard:?}");
    let (broadcasts, sent): (Vec<u64>, Vec<u64>) =
        numbers(&heard).into_iter().partition(|number| *number > 1_000);
    assert!(sent.windows(2).all(|pair| pair[1] == pair[0] + 1) && sent.ends_with(&[20, 21]), "{sent:?}");
    assert!(broadcasts.windows(2).all(|pair| pair[1] == pair[0] + 1), "{broadcasts:?}");
}

#[tokio::test]
async fn no_acknowledged_update_of_a_session_is_missing_after_twenty_crashes() {
    let mut server = server_with("").await;
    let over = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let session = Session::open(&server).await;
        let (over, acknowledged) = (Arc::clone(&over), Arc::clone(&acknowledged));
        clients.push(tokio::spawn(async move {
            // Updates that were acknowledged, and those of which nobody knows.
            let (mut value, mut unknown, mut known) = (0_i64, 0_i64, 0_u32);
            while !over.load(Ordering::SeqCst) {
                let Some(answer) = session.try_post(&call(&json!(1), "counter", json!({}))).await else {
                    unknown += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    continue;
                };
                assert_eq!(answer.status(), 200, "{}", answer.text());
                let now = answer.json()["result"]["structuredContent"]["value"].as_i64().unwrap();
                assert!(now > value, "an acknowledged update is missing: {now} after {value}");
                assert!(now <= value + 1 + unknown, "{now} after {value} with {unknown} in flight");
                (value, unknown, known) = (now, 0, known + 1);
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            (session, value, unknown, known)
        }));
    }
    for _ in 0..20 {
        let before = acknowledged.load(Ordering::SeqCst);
        until("progress", || async { acknowledged.load(Ordering::SeqCst) > before + 12 }).await;
        crash(&mut server).await;
    }
    over.store(true, Ordering::SeqCst);
    for client in clients {
        let (session, value, unknown, known) = client.await.unwrap();
        assert!(known > 20, "{known}");
        let now = session.count().await;
        assert!((value + 1..=value + 1 + unknown).contains(&now), "{now} after {value}");
    }
    assert_eq!(figure(&server, "rehydrated").await, 0);
}

#[tokio::test]
async fn a_server_whose_database_is_damaged_goes_on_with_the_last_copy_of_its_sessions() {
    let mut server = server_with("[store]\nbackup_seconds = 1\n").await;
    let session = Session::open(&server).await;
    assert_eq!(session.count().await, 1);
    let copy = server.dir().join("data/backup");
    let written = || std::fs::metadata(&copy).and_then(|file| file.modified()).ok();
    // The second that is finished from now on was begun after the count.
    for _ in 0..2 {
        let before = written();
        until("a copy", || async { written() != before }).await;
    }
    server.kill();
    // What its start does with bytes that it cannot read is for tests/crash: this is what it leaves.
    std::fs::write(server.dir().join("data/suspect"), "corrupt").unwrap();
    server.restart().await;
    let session = session.at(&server);
    assert_eq!(session.count().await, 2);
    assert!(server.logs().contains("those of the last copy"), "{}", server.logs());
}

#[tokio::test]
async fn a_call_that_cannot_go_on_ends_with_an_error_that_says_so() {
    let mut server = server_with(&hosting("[streams]\nmax_entries = 6\n")).await;
    let session = Session::open(&server).await;
    let tally = async |id: &str| {
        let arguments = json!({ "message": server.dir().join(id), "n": 12_000 });
        session.start(&json!(id), "tally", arguments).await
    };
    let (mut one, mut two) = (tally("s").await, tally("a").await);
    one.take(1).await;
    two.take(1).await;
    drop(one.connection);
    // By now the session has said so much that the beginning of both is no longer kept.
    send_notes(&server, &session, 1..=20).await;
    crash(&mut server).await;
    for (id, last) in [("s", one.last), ("a", two.last)] {
        let mut stream = session.stream(last.as_deref()).await;
        let heard = stream.rest().await;
        let end = heard.last().unwrap();
        assert_eq!(end["id"], id, "{heard:?}");
        assert_eq!(end["error"]["data"]["reason"], "interrupted", "{end}");
        assert!(end["error"]["data"]["retry"].is_string(), "{end}");
        // It is stored: the next crash changes nothing.
        crash(&mut server).await;
        let again = session.stream(last.as_deref()).await.rest().await;
        assert_eq!(again.last(), Some(end));
    }
    // The ids are free again.
    assert!(
        session.post(&call(&json!("s"), "echo", json!({"message": "m"}))).await.json()["result"].is_object()
    );
}

#[tokio::test]
async fn sigterm_ends_streams_resumably_finishes_what_it_can_and_keeps_the_rest() {
    let mut server = server_with(&hosting("[server]\ndrain_seconds = 2\n")).await;
    let session = Session::open(&server).await;
    let mut get = session.stream(None).await;
    send_notes(&server, &session, 1..=3).await;
    assert_eq!(get.numbers(1).await, [1]);
    let seen = get.last.clone();
    let mut short = session.start(&json!("short"), "sleep", json!({"ms": 700})).await;
    let mut long = session
        .start(&json!("long"), "tally", json!({"message": server.dir().join("long"), "n": 12_000}))
        .await;
    let mut emit = session.start(&json!("emit"), "emit", json!({"count": 150, "interval_ms": 25})).await;
    short.take(1).await;
    long.take(1).await;
    let mut heard = emit.take(5).await;
    assert_eq!(session.count().await, 1);

    let start = Instant::now();
    server.signal(Signal::TERM);
    get.rest().await;
    heard.extend(emit.rest().await);
    short.rest().await;
    long.rest().await;
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.logs());
    assert!(start.elapsed().as_secs() < 2 + 10, "{:?}", start.elapsed());
    assert!(heard.len() < 150, "it was in the middle");

    server.restart().await;
    assert_eq!(session.count().await, 2);
    assert_eq!(session.stream(seen.as_deref()).await.numbers(2).await, [2, 3]);
    heard.extend(session.stream(emit.last.as_deref()).await.rest().await);
    assert_eq!(numbers(&heard), (1..=150).collect::<Vec<_>>());
    let end = session.stream(short.last.as_deref()).await.rest().await.pop().unwrap();
    assert_eq!(end["result"]["content"][0]["text"], "slept 700 ms", "{end}");
    let end = session.stream(long.last.as_deref()).await.rest().await.pop().unwrap();
    assert_eq!(end["error"]["data"]["reason"], "interrupted", "{end}");
    until_figure(&server, "calls", 0).await;
}

#[tokio::test]
async fn what_was_cut_off_other_streams_before_a_crash_is_no_gap_of_this_one() {
    let mut server = server_with("[streams]\nmax_entries = 10\n").await;
    let session = Session::open(&server).await;
    let mut get = session.stream(None).await;
    send_notes(&server, &session, 1..=3).await;
    assert_eq!(get.numbers(3).await, [1, 2, 3]);
    let mut call = session.start(&json!(1), "emit", json!({"count": 50, "interval_ms": 1})).await;
    assert_eq!(call.rest().await.len(), 51);
    crash(&mut server).await;
    send_notes(&server, &session, 4..=5).await;
    assert_eq!(session.stream(get.last.as_deref()).await.numbers(2).await, [4, 5]);
    // Nor of the stream of a call that was begun since.
    let mut call = session.start(&json!(2), "emit", json!({"count": 6, "interval_ms": 50})).await;
    let heard = numbers(&call.take(2).await);
    assert_eq!(heard, [1, 2]);
    let last = call.last.clone();
    drop(call);
    let rest = session.stream(last.as_deref()).await.rest().await;
    assert_eq!(numbers(&rest), [3, 4, 5, 6]);
    assert_eq!(figure(&server, "gaps").await, 0);
}

#[tokio::test]
async fn a_clean_restart_repeats_nothing_to_a_client_that_remembers_no_event_id() {
    let mut server = server_with("").await;
    let session = Session::open_as(&server, "2025-03-26", None).await;
    let operator = Operator::of(&server);
    let mut stream = session.stream(None).await;
    send_notes(&server, &session, 1..=3).await;
    assert_eq!(stream.numbers(3).await, [1, 2, 3]);
    drop(stream);
    until_figure(&server, "streams", 0).await;
    send_notes(&server, &session, [4]).await;
    assert!(operator.send(None, &note(5)).await);
    server.term().await;
    server.restart().await;
    let mut heard = session.stream(None).await.numbers(2).await;
    heard.sort_unstable();
    assert_eq!(heard, [4, 5]);
}
