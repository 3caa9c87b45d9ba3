//! One server that fails in every way: where the link goes and that it comes back.

use std::time::Duration;

use tokio::time::Instant;

use super::support::Redis;
use super::{Bed, Shard};
use crate::base::ids::SessionKey;
use crate::state::link::LinkState;
use crate::store::remote::{Event, Remote as _, RemoteError};

/// Longer than any call may take: the deadline, and room for a busy machine.
const SOON: Duration = Duration::from_millis(3_000);

async fn away_soon(bed: &Bed) {
    let start = Instant::now();
    let error = bed.write(SessionKey::random(), "x").await.unwrap_err();
    assert!(matches!(error, RemoteError::Away(_)), "{error}");
    assert!(start.elapsed() < SOON);
    assert!(!bed.links.is_leased(Shard(0)));
}

#[tokio::test]
async fn a_killed_server_is_down_and_an_empty_one_is_another() {
    let mut redis = Redis::start();
    let bed = Bed::up(&redis.url()).await;
    let key = SessionKey::random();
    bed.write(key, "x").await.unwrap();
    redis.kill();
    bed.is(LinkState::Down).await;
    away_soon(&bed).await;
    assert_eq!(bed.link().reason, "unreachable");
    bed.forget();
    redis.restart();
    bed.is(LinkState::Up).await;
    assert_eq!(bed.read(key).await, Ok(None));
    assert_eq!(bed.heard(&Event::Lineage(Shard(0))), 1);
    assert!(bed.heard(&Event::Lapsed(Shard(0))) > 0);
}

#[tokio::test]
async fn a_stopped_server_is_down_without_any_traffic_and_the_same_one_afterwards() {
    let redis = Redis::start();
    let bed = Bed::up(&redis.url()).await;
    redis.pause();
    bed.is(LinkState::Down).await;
    assert!(matches!(bed.link().reason, "timeout" | "deaf" | "unreachable"), "{}", bed.link().reason);
    away_soon(&bed).await;
    bed.forget();
    redis.resume();
    bed.is(LinkState::Up).await;
    assert_eq!(bed.heard(&Event::Lineage(Shard(0))), 0);
    assert!(bed.heard(&Event::Lapsed(Shard(0))) > 0);
    bed.write(SessionKey::random(), "x").await.unwrap();
}

#[tokio::test]
async fn calls_in_a_row_that_miss_their_deadline_lead_down_before_the_next_probe() {
    let redis = Redis::start();
    let bed = Bed::up(&redis.url()).await;
    redis.pause();
    for _ in 0..4 {
        let error = bed.read(SessionKey::random()).await.unwrap_err();
        assert!(matches!(error, RemoteError::Away(_)), "{error}");
    }
    assert_eq!(bed.links.state(Shard(0)), LinkState::Down);
    redis.resume();
}

#[tokio::test]
async fn connections_that_are_cut_are_made_anew_without_an_outage() {
    let redis = Redis::start();
    let bed = Bed::up(&redis.url()).await;
    for kind in ["normal", "pubsub"] {
        bed.forget();
        redis.command(&["CLIENT", "KILL", "TYPE", kind]);
        redis.command(&["SCRIPT", "FLUSH"]);
        bed.until("the lease", || bed.links.is_leased(Shard(0))).await;
        let written = async || bed.write(SessionKey::random(), "x").await.is_ok();
        let start = Instant::now();
        while !written().await {
            assert!(start.elapsed() < super::PATIENCE);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(bed.heard(&Event::State(Shard(0), LinkState::Down)), 0);
        assert_eq!(bed.heard(&Event::Lineage(Shard(0))), 0);
    }
}

#[tokio::test]
async fn an_emptied_server_is_noticed_and_so_is_a_lost_canary() {
    let redis = Redis::start();
    let bed = Bed::up(&redis.url()).await;
    for wipe in [&["FLUSHALL"][..], &["FLUSHDB"]] {
        bed.forget();
        redis.command(wipe);
        bed.until("the lineage", || bed.heard(&Event::Lineage(Shard(0))) > 0).await;
        assert!(bed.heard(&Event::Lapsed(Shard(0))) > 0);
        bed.write(SessionKey::random(), "x").await.unwrap();
        // Canaries are set again before the next step.
        bed.until("a canary", || redis.command(&["EXISTS", "mcp:canary:{k00}"]) == "1").await;
    }
    bed.forget();
    redis.command(&["DEL", "mcp:canary:{k00}"]);
    bed.until("the lineage", || bed.heard(&Event::Lineage(Shard(0))) > 0).await;
}

#[tokio::test]
async fn a_server_that_refuses_writes_is_read_only() {
    let redis = Redis::start();
    let bed = Bed::up(&redis.url()).await;
    let key = SessionKey::random();
    bed.write(key, "x").await.unwrap();
    let other = Redis::start();
    let port = other.port.to_string();
    let steps: [(&[&str], &[&str], &str); 3] = [
        (&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"], "full"),
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
            "no_replicas",
        ),
        // A replica keeps what it has until it is in step: reads are only tried.
        (&["REPLICAOF", "127.0.0.1", &port], &["REPLICAOF", "NO", "ONE"], "read_only"),
    ];
    for (refuse, allow, reason) in steps {
        redis.command(refuse);
        bed.until(reason, || bed.link().reason == reason && bed.links.state(Shard(0)) == LinkState::ReadOnly)
            .await;
        let error = bed.write(key, "y").await.unwrap_err();
        assert!(matches!(error, RemoteError::Refuses(_)), "{error}");
        let read = bed.read(key).await.unwrap();
        assert!(reason == "read_only" || read.as_deref() == Some("x"), "{reason}: {read:?}");
        redis.command(allow);
        bed.is(LinkState::Up).await;
    }
}

#[tokio::test]
async fn a_peer_that_reaches_redis_shows_that_this_instance_is_cut_off() {
    use std::io::{Read as _, Write as _};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    let mut redis = Redis::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = format!("http://{}", listener.local_addr().unwrap());
    let reaches = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&reaches);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let word = if says.load(Ordering::SeqCst) { "ok" } else { "failed" };
            let body = format!("{{\"checks\":{{\"redis\":\"{word}\"}}}}");
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    let bed = Bed::with(&redis.url(), |settings| settings.peers = vec![peer]);
    bed.is(LinkState::Up).await;
    redis.kill();
    bed.is(LinkState::Isolated).await;
    away_soon(&bed).await;
    assert_eq!(bed.link().reason, "peer_up");
    reaches.store(false, Ordering::SeqCst);
    bed.until("the peer's answer", || bed.links.state(Shard(0)) == LinkState::Down).await;
    reaches.store(true, Ordering::SeqCst);
    bed.is(LinkState::Isolated).await;
    redis.restart();
    bed.is(LinkState::Up).await;
}
