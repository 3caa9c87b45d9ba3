//! Streams as their clients meet them: ids, resumption from anywhere, who carries, gaps, readers that do not read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::http::Event;
use crate::support::session::{
    LATEST, Session, Stream, broadcast, call, figure, is_gap, note, number_of, send, send_notes, server_with,
    silent_call, until_figure,
};

const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LATEST];

fn numbers(messages: &[Value]) -> Vec<u64> {
    messages.iter().filter_map(number_of).collect()
}

fn is_priming(event: &Event) -> bool {
    event.data.as_deref() == Some("") && event.id.is_some() && event.retry.is_some()
}

#[tokio::test]
async fn a_get_stream_carries_what_is_sent_in_order_also_what_was_sent_before_it_was_opened() {
    let server = server_with("").await;
    let session = Session::open(&server).await;
    send_notes(&server, &session, 1..=3).await;
    let mut stream = session.stream(None).await;
    assert_eq!(stream.numbers(3).await, [1, 2, 3]);
    let said = send(&server, &session, &note(4)).await.json();
    assert_eq!(said, json!({"delivered": 1, "stored": true}));
    let said = broadcast(&server, &note(5)).await.json();
    assert_eq!(said, json!({"delivered": 1, "stored": true}));
    assert_eq!(stream.numbers(2).await, [4, 5]);
    drop(stream);
    until_figure(&server, "streams", 0).await;
    // Who comes without an id gets what no connection was handed.
    let said = send(&server, &session, &note(6)).await.json();
    assert_eq!(said, json!({"delivered": 0, "stored": true}));
    assert_eq!(session.stream(None).await.numbers(1).await, [6]);
}

#[tokio::test]
async fn of_several_get_streams_the_newest_carries_and_the_next_goes_on_when_it_is_gone() {
    let server = server_with("").await;
    let session = Session::open(&server).await;
    let mut first = session.stream(None).await;
    send_notes(&server, &session, 1..=2).await;
    assert_eq!(first.numbers(2).await, [1, 2]);
    let mut second = session.stream(None).await;
    let mut third = session.stream(None).await;
    until_figure(&server, "streams", 3).await;
    send_notes(&server, &session, 3..=6).await;
    assert_eq!(third.numbers(4).await, [3, 4, 5, 6]);
    drop(third);
    until_figure(&server, "streams", 2).await;
    // Nothing that another connection was handed comes again.
    send_notes(&server, &session, 7..=8).await;
    assert_eq!(second.numbers(2).await, [7, 8]);
    drop(second);
    until_figure(&server, "streams", 1).await;
    assert_eq!(broadcast(&server, &note(9)).await.status(), 200);
    send_notes(&server, &session, [10]).await;
    let mut heard = first.numbers(2).await;
    heard.sort_unstable();
    assert_eq!(heard, [9, 10]);
}

#[tokio::test]
async fn a_resume_ends_the_half_dead_connection_that_carried_the_stream() {
    let server = server_with("").await;
    let session = Session::open(&server).await;
    let mut dead = session.stream(None).await;
    send_notes(&server, &session, 1..=3).await;
    dead.take(1).await;
    let seen = dead.last.clone().unwrap();
    let mut live = session.stream(Some(&seen)).await;
    send_notes(&server, &session, [4]).await;
    assert_eq!(live.numbers(3).await, [2, 3, 4]);
    let rest = dead.rest().await;
    assert!(numbers(&rest).iter().all(|number| *number < 4), "the old one carries no more: {rest:?}");
    // The same for the stream of a call.
    let mut dead = session.start(&json!(1), "emit", json!({"count": 8, "interval_ms": 20})).await;
    dead.take(1).await;
    let mut live = session.stream(dead.last.as_deref()).await;
    let heard = live.rest().await;
    assert_eq!(numbers(&heard), (2..=8).collect::<Vec<_>>());
    assert_eq!(heard.last().unwrap()["id"], 1);
    dead.rest().await;
}

#[tokio::test]
async fn a_get_stream_of_200_resumes_from_every_position() {
    let server = server_with("").await;
    let session = Session::open(&server).await;
    let mut stream = session.stream(None).await;
    let mut ids = vec![stream.event().await.unwrap().id.unwrap()];
    send_notes(&server, &session, 1..=200).await;
    for number in 1..=200 {
        let (event, message) = stream.message().await.unwrap();
        assert_eq!(number_of(&message), Some(number));
        ids.push(event.id.unwrap());
    }
    for (seen, id) in (0..).zip(&ids) {
        let mut resumed = session.stream(Some(id)).await;
        let echo = resumed.event().await.unwrap();
        assert!(is_priming(&echo) && echo.id.as_ref() == Some(id), "{echo:?}");
        let expected: Vec<u64> = (seen + 1..=200).collect();
        assert_eq!(resumed.numbers(expected.len()).await, expected);
    }
}

#[tokio::test]
async fn the_stream_of_a_call_of_200_resumes_from_every_position() {
    let server = server_with("").await;
    let session = Session::open(&server).await;
    let mut stream = session.start(&json!("long"), "emit", json!({"count": 200})).await;
    let mut ids = vec![stream.event().await.unwrap().id.unwrap()];
    while let Some((event, _)) = stream.message().await {
        ids.push(event.id.unwrap());
    }
    assert_eq!(ids.len(), 202);
    for (seen, id) in ids.iter().enumerate() {
        let heard = session.stream(Some(id)).await.rest().await;
        let expected: Vec<u64> = (seen as u64 + 1..=200).collect();
        assert_eq!(numbers(&heard), expected);
        // After its last event a stream is over, also for one who asks again.
        assert_eq!(heard.len(), 201_usize.saturating_sub(seen));
        if let Some(last) = heard.last() {
            assert_eq!(last["result"]["content"][0]["text"], "emitted 200 messages");
        }
    }
}

#[tokio::test]
async fn the_result_of_a_call_waits_for_a_client_that_lost_its_connection() {
    let server = server_with("").await;
    let session = Session::open(&server).await;
    let mut stream = session.start(&json!(7), "sleep", json!({"ms": 400})).await;
    stream.take(1).await;
    let seen = stream.last.clone().unwrap();
    drop(stream);
    until_figure(&server, "calls", 0).await;
    let heard = session.stream(Some(&seen)).await.rest().await;
    let last = heard.last().unwrap();
    assert_eq!(
        (last["id"].clone(), &last["result"]["content"][0]["text"]),
        (json!(7), &json!("slept 400 ms"))
    );
    // Again, from the same place: nothing is used up.
    assert_eq!(session.stream(Some(&seen)).await.rest().await, heard);
}

#[tokio::test]
async fn streams_begin_with_a_priming_event_in_the_one_revision_that_has_it() {
    let server = server_with("[streams]\nretry_ms = 1234\n").await;
    for revision in REVISIONS {
        let session = Session::open_as(&server, revision, None).await;
        assert_eq!(session.revision, revision);
        let mut get = session.stream(None).await;
        send_notes(&server, &session, [1]).await;
        let mut post = session.start(&json!(1), "emit", json!({"count": 2, "interval_ms": 100})).await;
        for stream in [&mut get, &mut post] {
            let first = stream.event().await.unwrap();
            if revision == LATEST {
                assert!(is_priming(&first), "{first:?}");
                assert_eq!(first.retry, Some(1234));
                stream.message().await.unwrap();
            } else {
                assert!(first.retry.is_none() && number_of(&first.json()) == Some(1), "{first:?}");
            }
        }
        let mut again = session.stream(post.last.as_deref()).await;
        let first = again.event().await.unwrap();
        assert_eq!(is_priming(&first), revision == LATEST, "{first:?}");
    }
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_by_comments() {
    let server = server_with("[streams]\nkeep_alive_seconds = 1\n").await;
    let session = Session::open_as(&server, "2025-06-18", None).await;
    let mut get = session.stream(None).await;
    let mut post = session.start_by(&silent_call(&json!(1), "sleep", json!({"ms": 2_500}))).await;
    for connection in [&mut get.connection, &mut post.connection] {
        let event = connection.next_event().await.unwrap();
        assert!(!event.comments.is_empty() && event.data.is_none() && event.id.is_none(), "{event:?}");
    }
    assert_eq!(post.rest().await[0]["id"], 1);
}

#[tokio::test]
async fn a_gap_is_told_when_something_was_lost_and_only_then() {
    let server = server_with("[streams]\nmax_entries = 10\n").await;
    let session = Session::open(&server).await;
    let mut stream = session.stream(None).await;
    send_notes(&server, &session, 1..=5).await;
    assert_eq!(stream.numbers(5).await, [1, 2, 3, 4, 5]);
    let seen = stream.last.clone().unwrap();
    drop(stream);
    until_figure(&server, "streams", 0).await;

    send_notes(&server, &session, 6..=15).await;
    assert_eq!(session.stream(Some(&seen)).await.numbers(10).await, (6..=15).collect::<Vec<_>>());
    assert_eq!(figure(&server, "gaps").await, 0);

    send_notes(&server, &session, [16]).await;
    let mut resumed = session.stream(Some(&seen)).await;
    let heard = resumed.take(12).await;
    assert!(is_gap(&heard[0]), "{heard:?}");
    assert_eq!(heard[0]["params"]["level"], "warning");
    assert_eq!(heard[1]["method"], "notifications/tools/list_changed");
    assert_eq!(numbers(&heard), (7..=16).collect::<Vec<_>>());
    // Who has heard of it is not told again.
    assert_eq!(broadcast(&server, &note(17)).await.status(), 200);
    assert_eq!(resumed.numbers(1).await, [17]);
    let mut again = session.stream(resumed.last.as_deref()).await;
    send_notes(&server, &session, [18]).await;
    assert_eq!(again.numbers(1).await, [18]);
}

#[tokio::test]
async fn a_gap_in_broadcasts_is_told() {
    let server = server_with("[streams]\nmax_entries = 4\n").await;
    let session = Session::open(&server).await;
    let mut stream = session.stream(None).await;
    assert_eq!(broadcast(&server, &note(1)).await.status(), 200);
    assert_eq!(stream.numbers(1).await, [1]);
    let seen = stream.last.clone().unwrap();
    drop(stream);
    until_figure(&server, "streams", 0).await;
    for number in 2..=6 {
        assert_eq!(broadcast(&server, &note(number)).await.status(), 200);
    }
    let heard = session.stream(Some(&seen)).await.take(6).await;
    assert!(is_gap(&heard[0]), "{heard:?}");
    assert_eq!(numbers(&heard), [3, 4, 5, 6]);
    // A session that began after that has lost nothing.
    let late = Session::open(&server).await;
    let mut stream = late.stream(None).await;
    assert_eq!(broadcast(&server, &note(7)).await.status(), 200);
    assert_eq!(stream.numbers(1).await, [7]);
}

#[tokio::test]
async fn a_gap_in_the_stream_of_a_call_is_told_before_what_is_left_of_it() {
    let server = server_with("[streams]\nmax_entries = 10\n").await;
    let session = Session::open(&server).await;
    let mut stream = session.start(&json!(1), "emit", json!({"count": 50, "interval_ms": 5})).await;
    assert_eq!(stream.numbers(1).await, [1]);
    let seen = stream.last.clone().unwrap();
    drop(stream);
    until_figure(&server, "calls", 0).await;
    // What a connection has yet to take is spared; when it is gone, the next entry of the session trims all the same.
    until_figure(&server, "streams", 0).await;
    send_notes(&server, &session, [99]).await;
    let heard = session.stream(Some(&seen)).await.rest().await;
    assert!(is_gap(&heard[0]), "{heard:?}");
    let kept = numbers(&heard);
    assert!(kept.len() < 10, "{kept:?}");
    assert_eq!(kept, (51 - kept.len() as u64..=50).collect::<Vec<_>>());
    assert_eq!(heard.last().unwrap()["id"], 1);
}

#[tokio::test]
async fn a_running_call_is_found_again_after_the_session_has_said_much_else() {
    let server = server_with("[streams]\nmax_entries = 5\n").await;
    let session = Session::open(&server).await;
    let mut stream = session.start(&json!(1), "ask", json!({"message": "well?"})).await;
    let question = stream.take(1).await.remove(0);
    let seen = stream.last.clone().unwrap();
    drop(stream);
    send_notes(&server, &session, 1..=20).await;
    let mut resumed = session.stream(Some(&seen)).await;
    let answer = json!({"jsonrpc": "2.0", "id": question["id"],
        "result": {"action": "accept", "content": {"answer": "yes"}}});
    assert_eq!(session.post(&answer).await.status(), 202);
    let heard = resumed.rest().await;
    assert_eq!(heard.last().unwrap()["id"], 1, "{heard:?}");
}

#[tokio::test]
async fn an_answer_longer_than_the_history_of_a_session_arrives() {
    let server = server_with("[streams]\nmax_bytes = 2048\n").await;
    let session = Session::open(&server).await;
    let mut stream = session.start(&json!(1), "ask", json!({"message": "well?"})).await;
    let question = stream.take(1).await.remove(0);
    let long = "x".repeat(100_000);
    let answer = json!({"jsonrpc": "2.0", "id": question["id"],
        "result": {"action": "accept", "content": {"answer": long}}});
    assert_eq!(session.post(&answer).await.status(), 202);
    let heard = stream.rest().await;
    assert_eq!(heard.len(), 1, "no gap, one answer");
    assert_eq!(heard[0]["id"], 1);
    assert!(heard[0].to_string().len() > long.len());
}

#[tokio::test]
async fn a_reader_that_keeps_up_loses_nothing_however_fast_the_tool_is() {
    let server = server_with("[streams]\nmax_entries = 100\n").await;
    let session = Session::open(&server).await;
    let mut stream = session.start(&json!(1), "emit", json!({"count": 5_000})).await;
    let heard = stream.rest().await;
    assert_eq!(numbers(&heard), (1..=5_000).collect::<Vec<_>>());
    assert_eq!(heard.len(), 5_001);
}

#[tokio::test]
async fn an_id_that_cannot_be_read_gets_all_there_is_and_one_of_a_foreign_stream_is_refused() {
    let server = server_with("").await;
    let session = Session::open(&server).await;
    send_notes(&server, &session, 1..=5).await;
    assert_eq!(session.stream(None).await.numbers(5).await, [1, 2, 3, 4, 5]);
    let long = format!("v1.g.{}", "a".repeat(2_000));
    for id in
        ["nonsense", "42", "v2.g.00000000-1", "v1.g.0000000-1", "v1..00000000-1", "v1.g.00000000-0", &long]
    {
        assert_eq!(session.stream(Some(id)).await.numbers(5).await, [1, 2, 3, 4, 5], "{id}");
    }
    let answer = session.refused_stream(Some("v1.aaaaaaaaaa.00000000-1")).await;
    assert_eq!((answer.status(), answer.json()["error"]["code"].as_i64()), (400, Some(-32600)));

    // The id of another session's stream, further on than this one ever was.
    let other = Session::open(&server).await;
    send_notes(&server, &other, 1..=50).await;
    let mut stream = other.stream(None).await;
    stream.take(50).await;
    let mut misled = session.stream(stream.last.as_deref()).await;
    assert_eq!(misled.numbers(5).await, [1, 2, 3, 4, 5]);
    send_notes(&server, &session, [6]).await;
    assert_eq!(misled.numbers(1).await, [6]);
}

#[tokio::test]
async fn no_event_id_of_a_session_is_given_to_two_events() {
    let server = server_with("").await;
    let session = Session::open(&server).await;
    let mut get = session.stream(None).await;
    let mut all: Vec<Event> = Vec::new();
    for id in 0..3 {
        // The same id again and again: the streams are different ones all the same.
        let mut post = session.start(&json!("same"), "emit", json!({"count": 5, "interval_ms": 30})).await;
        send_notes(&server, &session, [id]).await;
        assert_eq!(broadcast(&server, &note(id)).await.status(), 200);
        while let Some(event) = post.event().await {
            all.push(event);
        }
    }
    for _ in 0..6 {
        all.push(get.message().await.unwrap().0);
    }
    let ids: Vec<String> = all.into_iter().filter_map(|event| event.id).collect();
    assert_eq!(ids.len(), 3 * 7 + 6);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
}

#[tokio::test]
async fn sends_and_broadcasts_arrive_once_and_in_order_over_any_number_of_resumes() {
    const EACH: u64 = 100;
    let server = server_with("").await;
    let session = Session::open(&server).await;
    let mut stream = session.stream(None).await;
    stream.event().await.unwrap();
    let sender = send_notes(&server, &session, 1..=EACH);
    let broadcaster = async {
        for number in 1..=EACH {
            assert_eq!(broadcast(&server, &note(1_000 + number)).await.status(), 200);
        }
    };
    let reader = async {
        let mut heard = Vec::new();
        let mut turn = 0;
        while heard.len() < 2 * EACH as usize {
            turn += 1;
            // Breaks off after a few events, at times with more of them on the way.
            for _ in 0..(turn * 7) % 13 + 1 {
                if heard.len() < 2 * EACH as usize {
                    heard.push(stream.numbers(1).await[0]);
                }
            }
            let last = stream.last.take();
            stream = session.stream(last.as_deref()).await;
        }
        (heard, turn)
    };
    let ((), (), (heard, turns)) = tokio::join!(sender, broadcaster, reader);
    assert!(turns > 10);
    let (sent, broadcasts): (Vec<u64>, Vec<u64>) = heard.iter().partition(|number| **number < 1_000);
    assert_eq!(sent, (1..=EACH).collect::<Vec<_>>());
    assert_eq!(broadcasts, (1_001..=1_000 + EACH).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_nobody_up_costs_little_and_is_cut() {
    let config = "[streams]\nstall_seconds = 2\nmax_bytes = 8388608\n[store]\ncache_bytes = 8388608\n";
    let server = server_with(config).await;
    let good = Session::open(&server).await;
    let mut reader = good.stream(None).await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let session = Session::open(&server).await;
        let mut stream = session.stream(None).await;
        stream.event().await.unwrap();
        stalled.push((session, stream));
    }
    let before = server.resident_bytes();
    let filling = "x".repeat(900_000);
    let message = |number: u64| {
        json!({"jsonrpc": "2.0", "method": "notifications/message",
            "params": {"level": "info", "data": {"n": number, "filling": filling}}})
        .to_string()
    };
    for number in 1..=24 {
        assert_eq!(broadcast(&server, &message(number)).await.status(), 200);
        assert_eq!(reader.numbers(1).await, [number]);
    }
    let grown = server.resident_bytes().saturating_sub(before);
    // Each of the 8 was to get 21 MB: what is held is the history, once, and what waits in the connections.
    assert!(grown < 80 << 20, "{grown} bytes more than before");
    until_figure(&server, "streams", 1).await;
    let (session, stream) = &stalled[0];
    let heard = session.stream(stream.last.as_deref()).await.take(3).await;
    assert!(is_gap(&heard[0]), "{:?}", heard[0].to_string().get(..300));
    assert!(number_of(&heard[2]).unwrap() > 1);
}

#[tokio::test]
async fn streams_that_end_after_their_time_go_on_when_they_are_asked_for() {
    let server = server_with("[streams]\nmax_seconds = 1\n").await;
    let session = Session::open(&server).await;
    let mut heard = Vec::new();
    let mut stream = session.start(&json!(1), "emit", json!({"count": 60, "interval_ms": 40})).await;
    let mut ended = 0;
    loop {
        heard.extend(stream.rest().await);
        if heard.last().is_some_and(|last| last["id"] == 1) {
            break;
        }
        ended += 1;
        stream = session.stream(stream.last.as_deref()).await;
    }
    assert!(ended >= 1, "the stream was ended in between");
    assert_eq!(numbers(&heard), (1..=60).collect::<Vec<_>>());
    let mut get = session.stream(None).await;
    assert!(get.rest().await.is_empty());
    send_notes(&server, &session, [1]).await;
    assert_eq!(session.stream(get.last.as_deref()).await.numbers(1).await, [1]);
}

#[tokio::test]
async fn calls_side_by_side_have_streams_of_their_own() {
    let server = server_with("").await;
    let session = Session::open(&server).await;
    let mut streams = BTreeMap::new();
    for id in 0..8_u64 {
        let stream = session.start(&json!(id), "emit", json!({"count": 10 + id, "interval_ms": 10})).await;
        streams.insert(id, stream);
    }
    for (id, mut stream) in streams {
        let heard = stream.rest().await;
        assert_eq!(numbers(&heard), (1..=10 + id).collect::<Vec<_>>());
        assert_eq!(heard.last().unwrap()["id"], id);
    }
    // An id that is in use is refused, one that was used is not.
    let _running: Stream = session.start(&json!("r"), "sleep", json!({"ms": 60_000})).await;
    let refused = session.post(&call(&json!("r"), "sleep", json!({"ms": 60_000}))).await.json();
    assert_eq!(refused["error"]["code"], -32600, "{refused}");
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "r"}});
    assert_eq!(session.post(&cancel).await.status(), 202);
    until_figure(&server, "calls", 0).await;
    assert!(
        session.post(&call(&json!("r"), "echo", json!({"message": "m"}))).await.json()["result"].is_object()
    );
}
