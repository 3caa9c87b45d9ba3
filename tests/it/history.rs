//! Event ids over more process starts than an id has room for.

use bytes::Bytes;
use outlast::config::Config;
use serde_json::Value;

use crate::support::engine::{Frames, Place};
use crate::support::session::{is_gap, note, number_of};

/// The next number on a stream, and the event id that has seen it.
async fn number(stream: &mut Frames) -> (u64, String) {
    loop {
        let (id, message): (Option<String>, Value) = stream.message().await;
        assert!(!is_gap(&message), "{message}");
        if let (Some(id), Some(number)) = (id, number_of(&message)) {
            return (number, id);
        }
    }
}

async fn send(place: &Place, session: &str, number: u64) {
    let sent = place.engine.send(session, Bytes::from(note(number))).await.unwrap();
    assert!(sent.unwrap().stored);
}

async fn broadcast(place: &Place, number: u64) {
    assert!(place.engine.broadcast(Bytes::from(note(number))).await.unwrap().stored);
}

#[tokio::test]
async fn a_client_that_came_along_through_any_number_of_restarts_hears_nothing_twice() {
    let mut place = Place::new(&Config::default()).await;
    let session = place.open().await;
    let mut last = None;
    // At first both logs grow, then one of them for long, then the other one, then both.
    let phases = [(5, true, true), (45, false, true), (45, true, false), (40, true, true)];
    let mut next = 0;
    for (rounds, sends, broadcasts) in phases {
        for _ in 0..rounds {
            let mut stream = place.stream(&session, last.as_deref()).await;
            for told in [sends.then_some(true), broadcasts.then_some(false)].into_iter().flatten() {
                next += 1;
                if told {
                    send(&place, &session, next).await;
                } else {
                    broadcast(&place, next).await;
                }
                let (heard, id) = number(&mut stream).await;
                assert_eq!(heard, next, "with {last:?}");
                last = Some(id);
            }
            drop(stream);
            place.crash().await;
        }
    }
    assert!(last.unwrap().len() < outlast::base::limits::MAX_EVENT_ID_BYTES);
}

#[tokio::test]
async fn a_session_that_begins_late_or_loses_its_event_id_is_told_no_gap() {
    let mut place = Place::new(&Config::default()).await;
    let early = place.open().await;
    send(&place, &early, 1).await;
    for round in 2..60 {
        broadcast(&place, round).await;
        place.crash().await;
    }
    let late = place.open().await;
    place.crash().await;
    broadcast(&place, 60).await;
    assert_eq!(number(&mut place.stream(&late, None).await).await.0, 60);
    // What the other one was not handed yet is still there, as far as it is kept, and it is told that it is not all.
    let (_, first) = place.stream(&early, None).await.message().await;
    assert!(number_of(&first) == Some(1) || is_gap(&first), "{first}");
}
