//! Idle time, with a clock that stands still until it is moved.

use std::sync::Arc;

use outlast::config::Config;
use serde_json::json;

use crate::support::engine::Place;
use crate::support::until;

fn config(idle: u64, unload: u64, strict: bool) -> Config {
    let mut config = Config::default();
    config.sessions.idle_ttl_seconds = idle;
    config.sessions.unload_after_seconds = unload;
    config.sessions.strict_idle_expiry = strict;
    // The answer of a tool is whole, however slow the machine.
    config.streams.json_within_ms = 60_000;
    config
}

#[tokio::test]
async fn every_request_gives_a_session_its_whole_idle_time_again() {
    // In memory all the time; read from the disk for each request; with little between the two.
    for (idle, unload) in [(100, 1_000), (100, 10), (100, 99)] {
        let place = Place::new(&config(idle, unload, true)).await;
        let session = place.open().await;
        for round in 1..=20 {
            assert_eq!(place.count(&session).await, Ok(round), "idle {idle}, unload {unload}");
            place.wait(95).await;
            let loaded = place.engine.stats().sessions_loaded;
            assert_eq!(loaded, usize::from(unload > 95), "unloaded after {unload}");
        }
        // A last request long ago, and none since.
        place.wait(25).await;
        assert_eq!((place.count(&session).await, place.store.sessions()), (Err(404), 0));
    }
}

#[tokio::test]
async fn a_session_that_comes_and_goes_within_its_idle_time_does_not_live_on_that_alone() {
    let place = Place::new(&config(100, 10, false)).await;
    let session = place.open().await;
    assert_eq!(place.count(&session).await, Ok(1));
    place.wait(60).await;
    assert_eq!(place.count(&session).await, Ok(2));
    place.wait(111).await;
    assert_eq!(place.count(&session).await, Ok(1), "it begins anew");
    assert_eq!(place.engine.stats().rehydrated, 1);
}

#[tokio::test]
async fn an_open_stream_keeps_its_session_alive() {
    for (idle, unload) in [(3, 1), (20, 5), (20, 1_000)] {
        let place = Place::new(&config(idle, unload, true)).await;
        let session = place.open().await;
        assert_eq!(place.count(&session).await, Ok(1));
        let stream = place.stream(&session, None).await;
        place.wait(100).await;
        assert_eq!(place.count(&session).await, Ok(2));
        place.wait(100).await;
        drop(stream);
        place.wait(idle - 1).await;
        assert_eq!(place.count(&session).await, Ok(3));
        place.wait(2 * idle).await;
        assert_eq!(place.count(&session).await, Err(404));
    }
}

#[tokio::test]
async fn a_session_that_runs_a_call_is_not_idle() {
    let mut settings = config(20, 5, true);
    settings.streams.json_within_ms = 60_000;
    let place = Arc::new(Place::new(&settings).await);
    let session = place.open().await;
    assert_eq!(place.count(&session).await, Ok(1));
    let running = {
        let (place, session) = (Arc::clone(&place), session.clone());
        tokio::spawn(async move {
            let params = json!({"name": "sleep", "arguments": {"ms": 600_000}});
            let message = json!({"jsonrpc": "2.0", "id": "s", "method": "tools/call", "params": params});
            place.post(Some(&session), message).await
        })
    };
    until("a call", || async { place.engine.stats().calls == 1 }).await;
    place.wait(60).await;
    assert_eq!(place.count(&session).await, Ok(2));
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "s"}});
    place.post(Some(&session), cancel).await;
    running.abort();
}
