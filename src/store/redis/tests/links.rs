//! One server: what is asked, what is heard, and what is refused at the start.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use bytes::Bytes;

use super::support::{Redis, free_port};
use super::{Bed, Shard};
use crate::base::ids::{Origin, SessionKey};
use crate::state::link::LinkState;
use crate::state::lock::Token;
use crate::state::result::{Outcome, Reported};
use crate::store::redis::{FORMAT, Links};
use crate::store::remote::{
    Appended, Event, Hint, LockSeen, LockStep, LockTaken, LogPush, Remote as _, RemoteError, ResultPush,
};

#[tokio::test]
async fn two_instances_share_and_hear_of_each_other() {
    let redis = Redis::start();
    let (a, b) = (Bed::new(&redis.url()), Bed::new(&redis.url()));
    a.is(LinkState::Up).await;
    b.is(LinkState::Up).await;
    assert_eq!((b.heard(&Event::Lapsed(Shard(0))), b.heard(&Event::Lineage(Shard(0)))), (1, 1));
    assert!(a.links.is_leased(Shard(0)));
    let key = SessionKey::random();

    let merged = a.write(key, "x").await.unwrap();
    assert_eq!((merged.ended, merged.news, merged.fields.len()), (false, 1, 1));
    assert_eq!(b.read(key).await.unwrap().as_deref(), Some("x"));
    b.until("the document", || b.heard(&Event::Document(key)) == 1).await;

    let entries: Vec<Bytes> = (1..=3).map(|n| Bytes::from(format!("entry {n}"))).collect();
    let push = |first: u64, entries: &[Bytes]| LogPush {
        origin: a.origin,
        first,
        base: 1,
        expires_ms: u64::MAX,
        entries: entries.to_vec(),
    };
    assert_eq!(a.links.push_log(key, push(2, &entries[1..])).await, Ok(Appended::Gap(0)));
    assert_eq!(a.links.push_log(key, push(1, &entries[..2])).await, Ok(Appended::Ok(2)));
    assert_eq!(b.links.push_log(key, push(1, &entries[..1])).await, Ok(Appended::Known(2)));
    let fork = b.links.push_log(key, push(2, &entries[..1])).await;
    assert!(matches!(fork, Err(RemoteError::Fork { .. })), "{fork:?}");
    b.until("the log", || b.heard(&Event::Log(key)) > 0).await;
    let log = b.links.pull_log(key, None).await.unwrap();
    assert_eq!(log.marks, [(a.origin, 2)]);
    assert_eq!(log.entries, [(a.origin, 1, entries[0].clone()), (a.origin, 2, entries[1].clone())]);
    a.links.push_log(key, push(3, &entries[2..])).await.unwrap();
    let more = b.links.pull_log(key, Some(log.hint)).await.unwrap();
    assert_eq!(more.entries, [(a.origin, 3, entries[2].clone())]);
    let all = b.links.pull_log(key, Some(Hint("0-1 nonsense".into()))).await.unwrap();
    assert_eq!(all.entries.len(), 3);

    let outcome = Outcome { fence: 5, rev: 1, rank: 9, payload: Bytes::from_static(b"done") };
    let ttl = Duration::from_secs(60);
    let report = |outcome| ResultPush { outcome, ttl, again: false };
    assert_eq!(a.links.push_result(key, "r", report(outcome.clone())).await, Ok(Reported::Ok));
    let late = b.links.push_result(key, "r", report(Outcome { fence: 9, ..outcome.clone() })).await;
    assert_eq!(late, Ok(Reported::Final { fence: 5, rev: 1 }));
    let (read, left) = b.links.pull_result(key, "r").await.unwrap().unwrap();
    assert!(read == outcome && left <= ttl && left > ttl / 2);
    assert_eq!(b.links.pull_result(key, "none").await, Ok(None));
    b.until("the result", || b.heard(&Event::Result(key, "r".into())) == 1).await;

    let (mine, yours) = (Token::random(), Token::random());
    let LockTaken::Done(fence) = a.links.lock("l", mine, ttl, LockStep::Take(0)).await.unwrap() else {
        panic!()
    };
    let held = b.links.lock("l", yours, ttl, LockStep::Take(0)).await.unwrap();
    assert!(matches!(held, LockTaken::Held(ms) if ms > 30_000), "{held:?}");
    assert_eq!(a.links.lock("l", mine, ttl, LockStep::Renew).await, Ok(LockTaken::Done(fence)));
    assert_eq!(a.links.lock("l", mine, ttl, LockStep::Drop).await, Ok(LockTaken::Done(fence)));
    let next = b.links.lock("l", yours, ttl, LockStep::Take(0)).await.unwrap();
    assert!(matches!(next, LockTaken::Done(next) if next > fence), "{next:?}");
    let seen = a.links.lock_state("l").await.unwrap();
    assert!(seen.fence > fence && seen.left_ms > 30_000 && LockTaken::Done(seen.fence) == next, "{seen:?}");
    assert_eq!(a.links.lock_state("none").await, Ok(LockSeen { fence: 0, left_ms: 0 }));
    let above = a.links.lock("other", mine, ttl, LockStep::Take(seen.fence + (1 << 40))).await;
    assert_eq!(above, Ok(LockTaken::Done(seen.fence + (1 << 40))));

    let now_ms = crate::base::clock::Clock::now_ms(&crate::base::clock::SystemClock::default());
    let value = |text: &'static str| Some((Bytes::from_static(text.as_bytes()), now_ms + 60_000));
    assert_eq!(a.links.cache_put("c", 8, value("v")).await, Ok(true));
    assert_eq!(b.links.cache_put("c", 7, value("of before")).await, Ok(false));
    let cached = b.links.cache_get("c").await.unwrap().unwrap();
    assert!(cached.value == "v" && cached.made_ms == 8 && cached.left <= ttl, "{cached:?}");
    assert_eq!(a.links.cache_put("c", 7, None).await, Ok(false));
    assert_eq!(a.links.cache_put("c", 8, None).await, Ok(true));
    assert_eq!(b.links.cache_get("c").await, Ok(None));
    b.until("the cache", || b.heard(&Event::Cache("c".into())) == 2).await;

    assert_eq!(a.links.cache_voided().await, Ok(None));
    a.links.cache_void(Vec::new()).await.unwrap();
    let begun = b.links.cache_voided().await.unwrap().unwrap();
    assert_eq!((begun.counting.len(), begun.last), (16, 0));
    b.links.cache_void(vec!["t".into(), "u".into()]).await.unwrap();
    let voided = a.links.cache_voided().await.unwrap().unwrap();
    assert_eq!(
        (&voided.counting, voided.last, voided.tags.get(b"t".as_slice())),
        (&begun.counting, 1, Some(&1))
    );
    a.until("what was voided", || a.heard(&Event::Voided) == 2).await;

    assert_eq!(a.links.meta("token-keys").await, Ok(None));
    assert_eq!(a.links.once("token-keys", Bytes::from_static(b"first")).await.unwrap(), "first");
    assert_eq!(b.links.once("token-keys", Bytes::from_static(b"second")).await.unwrap(), "first");
    assert_eq!(b.links.meta("token-keys").await.unwrap().unwrap(), "first");

    a.links.instances().await.unwrap();
    let mut origins = b.links.instances().await.unwrap();
    origins.sort();
    let mut both = vec![a.origin, b.origin];
    both.sort();
    assert_eq!(origins, both);
    a.links.close().await;
    assert_eq!(b.links.instances().await.unwrap(), [b.origin]);
    assert_eq!(b.links.status().instances.len(), 1);
    let link = b.link();
    assert_eq!((link.state, link.reason, link.role.as_str()), ("up", "probed", "master"));
    assert!(
        link.version.starts_with(char::is_numeric) && !link.run_id.is_empty() && link.leased && !link.skewed
    );
    let text = b.metrics.encode();
    for line in [
        "outlast_link_state{shard=\"0\",state=\"up\"} 1",
        "outlast_link_transitions_total{from=\"down\",to=\"up\",reason=\"probed\"} 1",
        "outlast_append_result_total{result=\"fork\"} 1",
        "outlast_redis_op_seconds_count{op=\"lock\"} 2",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    serde_json::to_string(&b.links.status()).unwrap();
}

#[tokio::test]
async fn a_scan_finds_every_session_and_nothing_else() {
    let redis = Redis::start();
    let bed = Bed::up(&redis.url()).await;
    let mut keys: Vec<SessionKey> = (0..1_200).map(|_| SessionKey::random()).collect();
    for key in &keys {
        bed.write(*key, "x").await.unwrap();
    }
    let (mut found, mut at, mut pages) = (Vec::new(), None, 0);
    loop {
        let (page, next) = bed.links.scan(at).await.unwrap();
        found.extend(page);
        pages += 1;
        at = next;
        if at.is_none() {
            break;
        }
    }
    found.sort();
    found.dedup();
    keys.sort();
    assert_eq!(found, keys);
    assert!(pages > 1);
}

/// What is said of a link that does not come up.
async fn refused(bed: &Bed, reason: &str, part: &str) {
    let said = || {
        let link = bed.link();
        link.reason == reason && link.problem.is_some_and(|problem| problem.contains(part))
    };
    bed.until(&format!("{reason} with {part:?}"), said).await;
    assert_eq!(bed.links.state(Shard(0)), LinkState::Down);
    let error = bed.read(SessionKey::random()).await.unwrap_err();
    assert!(matches!(error, RemoteError::Away(_)), "{error}");
}

#[tokio::test]
async fn what_is_wrong_is_named_and_mended_without_a_restart() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "me", "on", ">right", "allkeys", "+@all"]);
    let file = redis.dir().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let bed = Bed::with(&redis.url(), |settings| {
        settings.user = "me".into();
        settings.password_file = file.clone();
    });
    refused(&bed, "auth", "redis.password_file").await;
    std::fs::write(&file, "right\n").unwrap();
    bed.is(LinkState::Up).await;
    // Rights that are taken away are a reason of their own, and so is a password that was changed.
    redis.command(&["ACL", "SETUSER", "me", "-evalsha", "-eval"]);
    bed.until("NOPERM", || bed.link().reason == "auth").await;
    redis.command(&["ACL", "SETUSER", "me", "+@all"]);
    bed.is(LinkState::Up).await;
}

#[tokio::test]
async fn a_server_that_may_evict_is_refused_unless_allowed() {
    let redis = Redis::with(&["--maxmemory-policy", "volatile-lru"]);
    let (bed, allowed) =
        (Bed::new(&redis.url()), Bed::with(&redis.url(), |settings| settings.allow_eviction = true));
    refused(&bed, "unfit", "redis.allow_eviction = true").await;
    allowed.is(LinkState::Up).await;
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    bed.is(LinkState::Up).await;
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    bed.is(LinkState::Down).await;
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let redis = Redis::start();
    redis.command(&["HSET", "mcp:meta:{mcp}", "format", "9", "min_writer", &(FORMAT + 1).to_string()]);
    let bed = Bed::new(&redis.url());
    refused(&bed, "unfit", "update this instance, or give it another redis.prefix").await;
    assert!(bed.links.status().problems[0].contains("newer version"));
    let other = Bed::with(&redis.url(), |settings| settings.prefix = "other".into());
    other.is(LinkState::Up).await;
    // It is asked again: what was written there may have been a mistake, or come later.
    redis.command(&["HDEL", "mcp:meta:{mcp}", "min_writer"]);
    bed.is(LinkState::Up).await;
    redis.command(&["HSET", "mcp:meta:{mcp}", "min_writer", &(FORMAT + 1).to_string()]);
    bed.is(LinkState::Down).await;
    assert!(bed.links.status().problems[0].contains("newer version"));
}

#[tokio::test]
async fn a_wrong_address_and_a_server_without_resp3_are_named() {
    let nobody = Bed::new(&format!("redis://127.0.0.1:{}", free_port()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let old = Bed::new(&format!("redis://{}", listener.local_addr().unwrap()));
    let server = std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                stream.write_all(b"-ERR unknown command `HELLO`\r\n").unwrap();
            }
        }
    });
    refused(&nobody, "unreachable", "check the address").await;
    refused(&old, "unfit", "6.2 or later").await;
    drop(old);
    drop(server);
}

#[tokio::test]
async fn certificates_that_cannot_be_read_are_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, "nothing").unwrap();
    let settings =
        crate::config::Redis { url: "rediss://localhost".into(), ca_file: file, ..Default::default() };
    let clock = std::sync::Arc::new(crate::base::clock::SystemClock::default());
    let metrics = crate::telemetry::metrics::Metrics::new();
    let error = Links::new(&settings, Origin::random(), 1, clock, metrics.links.clone()).unwrap_err();
    assert!(error.contains("redis.ca_file") && error.contains("PEM"), "{error}");
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let text = include_str!("../../../../docs/redis.md");
    let line = text.lines().find(|line| line.starts_with("ACL SETUSER")).unwrap();
    let redis = Redis::start();
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(redis.command(&words), "OK");
    let bed = Bed::with(&redis.url(), |settings| {
        settings.user = "outlast".into();
        settings.password = "PASSWORD".to_owned().into();
    });
    bed.is(LinkState::Up).await;
    let key = SessionKey::random();
    bed.write(key, "x").await.unwrap();
    assert_eq!(bed.read(key).await.unwrap().as_deref(), Some("x"));
    assert_eq!(bed.links.scan(None).await.unwrap().0, [key]);
    assert_eq!(bed.links.cache_put("c", 1, Some((Bytes::from_static(b"v"), u64::MAX))).await, Ok(true));
    assert!(bed.links.cache_get("c").await.unwrap().is_some());
    bed.links.cache_void(vec!["t".into()]).await.unwrap();
    assert_eq!(bed.links.cache_voided().await.unwrap().unwrap().last, 1);
    let link = bed.link();
    assert!(!link.run_id.is_empty() && link.policy == "noeviction" && link.clock_offset_ms.is_some());
    assert_eq!(redis.command(&["ACL", "LOG"]), "");
}
