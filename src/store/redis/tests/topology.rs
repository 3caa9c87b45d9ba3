//! Sentinels and clusters: the primary changes, slots move, one shard fails alone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::support::{Cluster, Watched};
use super::{Bed, Shard};
use crate::base::ids::SessionKey;
use crate::config;
use crate::state::link::LinkState;
use crate::store::redis::keys::{Keys, slot};
use crate::store::remote::{Event, Remote as _, RemoteError};

#[tokio::test]
async fn sentinels_lead_to_the_new_primary_and_keep_from_the_old_one() {
    let mut watched = Watched::start(1, Duration::from_secs(1));
    let bed = Bed::up(&watched.url()).await;
    let first = bed.link().address;
    bed.forget();
    // A primary that is stopped, and comes back when another one was chosen.
    let old = watched.primary_at();
    watched.servers[old].pause();
    bed.is(LinkState::Down).await;
    bed.until("another primary", || {
        bed.links.state(Shard(0)) == LinkState::Up && bed.link().address != first
    })
    .await;
    assert_eq!(bed.heard(&Event::Lineage(Shard(0))), 1);
    watched.servers[old].resume();
    let key = SessionKey::random();
    bed.write(key, "x").await.unwrap();
    assert_eq!(bed.link().address, format!("127.0.0.1:{}", watched.primary().port));
    assert_eq!(bed.link().role, "master");
    // A majority is enough.
    watched.sentinels[2].kill();
    bed.write(key, "y").await.unwrap();
    // None at all leaves the connection that is there.
    watched.sentinels[1].kill();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(bed.links.state(Shard(0)), LinkState::Up);
    let alone = Bed::new(&watched.url());
    alone.until("the reason", || alone.link().problem.is_some_and(|text| text.contains("no majority"))).await;
    assert_eq!(alone.links.state(Shard(0)), LinkState::Down);
}

fn cluster(settings: &mut config::Redis) {
    settings.cluster = true;
}

#[tokio::test]
async fn a_cluster_has_a_link_per_shard_and_slots_may_move() {
    let mut servers = Cluster::start(3);
    let bed = Bed::with(&servers.url(), cluster);
    let all_up = || {
        let shards = bed.links.shards();
        shards.len() == 3 && shards.iter().all(|shard| bed.links.state(*shard) == LinkState::Up)
    };
    bed.until("three shards", all_up).await;
    let keys: Vec<SessionKey> = (0..60).map(|_| SessionKey::random()).collect();
    for key in &keys {
        bed.write(*key, "x").await.unwrap();
        bed.until("the document", || bed.heard(&Event::Document(*key)) > 0).await;
    }
    let shards: BTreeSet<u16> = keys.iter().map(|key| bed.links.shard(*key).0).collect();
    assert_eq!(shards.len(), 3);
    let (mut at, mut found) = (None, BTreeSet::new());
    loop {
        let (page, next) = bed.links.scan(at).await.unwrap();
        found.extend(page);
        at = next;
        if at.is_none() {
            break;
        }
    }
    assert_eq!(found, keys.iter().copied().collect());

    // A slot on the move: keys that are there, keys that went ahead, and keys that are new.
    let key = keys[0];
    let number = slot(&Keys::new("mcp").session(key));
    let (from, to) = (servers.owner(number), (servers.owner(number) + 1) % 3);
    servers.begin_move(number, to);
    bed.write(key, "before").await.unwrap();
    servers.move_keys(number, to, 100);
    assert!(bed.write(key, "asked for").await.is_ok(), "ASK is followed");
    servers.end_move(number, to);
    assert!(bed.write(key, "moved").await.is_ok(), "MOVED is followed");
    let before = bed.links.shard(keys[0]);
    let elsewhere = keys
        .iter()
        .find(|key| servers.owner(slot(&Keys::new("mcp").session(**key))) == to && **key != keys[0]);
    if let Some(elsewhere) = elsewhere {
        let there = bed.links.shard(*elsewhere);
        bed.until("the map", || bed.links.shard(key) == there).await;
    }
    let _ = before;
    assert_eq!(bed.read(key).await.unwrap().as_deref(), Some("moved"));

    // A shard that fails, fails alone.
    let survivors: Vec<SessionKey> = keys
        .iter()
        .copied()
        .filter(|key| servers.owner(slot(&Keys::new("mcp").session(*key))) != from)
        .collect();
    let lost = keys.iter().copied().find(|key| !survivors.contains(key)).unwrap();
    let dead = bed.links.shard(lost);
    servers.nodes[from].kill();
    bed.shard_is(dead, LinkState::Down).await;
    let error = bed.write(lost, "x").await.unwrap_err();
    assert!(matches!(error, RemoteError::Away(_)), "{error}");
    for key in &survivors {
        assert_eq!(bed.links.state(bed.links.shard(*key)), LinkState::Up);
        bed.write(*key, "y").await.unwrap();
    }
    // Its node comes back with another data set and no slots of its own: they are given again.
    drop(servers);
}

#[tokio::test]
async fn a_node_that_joins_gets_a_link_and_a_single_server_is_no_cluster() {
    let mut servers = Cluster::start(2);
    let bed = Bed::with(&servers.url(), cluster);
    bed.until("two shards", || bed.links.shards().len() == 2).await;
    let node = Cluster::node();
    servers.meet(&node);
    servers.nodes.push(node);
    servers.settle();
    let key = SessionKey::random();
    let number = slot(&Keys::new("mcp").session(key));
    servers.begin_move(number, 2);
    servers.move_keys(number, 2, 100);
    servers.end_move(number, 2);
    bed.until("three shards", || bed.links.shards().len() == 3).await;
    let third = bed.links.shard(key);
    bed.shard_is(third, LinkState::Up).await;
    bed.write(key, "x").await.unwrap();
    bed.until("the document", || bed.heard(&Event::Document(key)) > 0).await;

    let single = super::support::Redis::start();
    let wrong = Bed::with(&single.url(), cluster);
    let said = || wrong.link().problem.is_some_and(|text| text.contains("redis.cluster = false"));
    wrong.until("the reason", said).await;
}
