//! Two instances with one Redis.

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{TEN_MINUTES, TWO_PRINCIPALS, ask, ask_as, is_cached, made, place, said, stats};
use crate::redis::Redis;
use crate::support::server::Server;
use crate::support::until;

async fn instance(redis: &Redis, dir: &Arc<TempDir>) -> Server {
    let server = Server::start_in(dir, &["--redis", &redis.url()], &[]).await;
    until_shared(&server).await;
    server
}

/// Until what one of them keeps is found by the other.
async fn until_shared(server: &Server) {
    until("it shares", || async {
        let status = server.admin_exchange("GET", "/admin/status", b"").await.json();
        status["mode"] == "redis"
            && status["redis"]["sharing"]["agreed"] == true
            && status["redis"]["links"]["links"][0]["leased"] == true
    })
    .await;
}

async fn two(tools: &str) -> (Redis, Server, Server) {
    let redis = Redis::start();
    let a = instance(&redis, &place(tools, "")).await;
    let b = instance(&redis, &place(tools, "")).await;
    (redis, a, b)
}

/// One makes a result; what the other one says then.
async fn found_by(a: &Server, b: &Server, arguments: impl Fn(u64) -> Value) -> (String, Value) {
    let mut found = (String::new(), Value::Null);
    // What is put on its way may not have arrived; arguments are new each time, so that nobody made it himself.
    for round in 0..200 {
        let of_a = said(&made(a, arguments(round)).await);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let of_b = made(b, arguments(round)).await;
        found = (of_a, of_b);
        if is_cached(&found.1) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(80)).await;
        // A machine that does other things besides: a link that was slow is no link for a while.
        until_shared(a).await;
        until_shared(b).await;
    }
    found
}

#[tokio::test]
async fn what_one_instance_made_the_other_one_answers_and_nothing_of_it_is_readable() {
    let (redis, a, b) = two(TEN_MINUTES).await;
    let (of_a, of_b) =
        found_by(&a, &b, |round| json!({ "round": round, "message": "\"secret\":\"not for others\"" })).await;
    assert!(is_cached(&of_b) && said(&of_b) == of_a && of_b["secret"] == "not for others", "{of_b}");
    assert_eq!(stats(&b).await["shared_hits"], 1);
    let keys = redis.command(&["KEYS", "mcp:cache:*"]);
    assert!(keys.lines().count() >= 2, "{keys}");
    for key in keys.lines().filter(|key| !key.contains("~voided")) {
        let ttl: i64 = redis.command(&["PTTL", key]).parse().unwrap();
        assert!((1..=600_000).contains(&ttl), "{ttl}");
        let value = redis.command(&["GET", key]);
        assert!(!value.contains("not for others") && !value.contains("made"), "{value}");
    }
}

#[tokio::test]
async fn principals_do_not_see_each_others_results_across_instances() {
    let redis = Redis::start();
    let a = instance(&redis, &place(TEN_MINUTES, TWO_PRINCIPALS)).await;
    let b = instance(&redis, &place(TEN_MINUTES, TWO_PRINCIPALS)).await;
    let ask = async |server: &Server, who: &str, round: u64| {
        ask_as(server, Some(who), "made", json!({ "round": round })).await
    };
    let mut shared = false;
    for round in 0..200 {
        let of_ann = ask(&a, "ann", round).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let of_bob = ask(&b, "bob", round).await;
        assert!(!is_cached(&of_bob) && said(&of_bob) != said(&of_ann), "{of_bob}");
        let again = ask(&b, "ann", round).await;
        shared = is_cached(&again);
        if shared {
            assert_eq!(said(&again), said(&of_ann));
            break;
        }
    }
    assert!(shared, "what ann has on one instance is hers on the other");
}

#[tokio::test]
async fn what_is_voided_on_one_instance_is_void_on_all() {
    let (_redis, a, b) = two(TEN_MINUTES).await;
    let (of_a, of_b) = found_by(&a, &b, |round| json!({ "round": round })).await;
    assert_eq!(said(&of_b), of_a);
    // It counts the listing of one kept result on each.
    let kept = async |server: &Server| {
        server.admin_exchange("GET", "/admin/cache/entries?tag=numbers", b"").await.json()["entries"]
            .as_array()
            .unwrap()
            .len()
    };
    assert!(kept(&a).await >= 1 && kept(&b).await >= 1);
    let cleared = b.admin_exchange("DELETE", "/admin/cache?tag=numbers", b"").await.json();
    assert_eq!(cleared["shared"], true, "{cleared}");
    until("nothing is left on the other one", || async { kept(&a).await == 0 }).await;
    // Nor is it found where both look.
    let c_like = made(&a, json!({ "round": 0 })).await;
    assert!(!is_cached(&c_like), "{c_like}");

    // The event of a child of one of them.
    let (of_a, of_b) = found_by(&a, &b, |round| json!({ "later": round })).await;
    assert_eq!(said(&of_b), of_a);
    ask(&a, "change", json!({})).await;
    until("nothing is left on both", || async { kept(&a).await == 0 && kept(&b).await == 0 }).await;
}

/// Redis goes away and comes back: with what it had, or with nothing.
async fn an_outage(away: impl FnOnce(&mut Redis), back: impl FnOnce(&mut Redis)) {
    let (mut redis, a, b) = two(TEN_MINUTES).await;
    let (of_a, of_b) = found_by(&a, &b, |round| json!({ "round": round })).await;
    assert_eq!(said(&of_b), of_a);
    away(&mut redis);
    // At once, while the link is still thought to be up: it waits for its deadline at most.
    made(&a, json!({ "early": 1 })).await;
    for server in [&a, &b] {
        until("degraded", || async {
            server.admin_exchange("GET", "/admin/status", b"").await.json()["mode"] == "degraded"
        })
        .await;
    }
    let new = said(&made(&a, json!({ "new": 1 })).await);
    let again = made(&a, json!({ "new": 1 })).await;
    assert!(is_cached(&again) && said(&again) == new, "{again}");
    let of_b = said(&made(&b, json!({ "of": "b" })).await);
    assert!(is_cached(&made(&b, json!({ "of": "b" })).await));

    // Voided on one of them while nobody can be told.
    assert_eq!(a.admin_exchange("DELETE", "/admin/cache?tag=numbers", b"").await.status(), 200);
    assert!(!is_cached(&made(&a, json!({ "new": 1 })).await));
    assert_eq!(said(&made(&b, json!({ "of": "b" })).await), of_b, "it cannot know");
    back(&mut redis);
    until_shared(&a).await;
    until_shared(&b).await;
    until("the other one has heard", || async { said(&made(&b, json!({ "of": "b" })).await) != of_b }).await;
    let (of_a, of_b) = found_by(&a, &b, |round| json!({ "after": round })).await;
    assert!(is_cached(&of_b) && said(&of_b) == of_a, "{of_b}");
}

#[tokio::test]
async fn while_redis_is_silent_memory_answers_and_what_is_voided_meanwhile_is_void_when_it_speaks_again() {
    an_outage(|redis| redis.pause(), |redis| redis.resume()).await;
}

#[tokio::test]
async fn a_redis_that_was_killed_and_comes_back_empty_is_filled_anew() {
    an_outage(Redis::kill, Redis::restart).await;
}

#[tokio::test]
async fn an_instance_that_starts_anew_finds_what_the_others_keep() {
    let (_redis, a, mut b) = two(TEN_MINUTES).await;
    let (of_a, of_b) = found_by(&a, &b, |round| json!({ "round": round })).await;
    assert_eq!(said(&of_b), of_a, "before");
    let hits = async |server: &Server| stats(server).await["shared_hits"].as_u64().unwrap();
    b.term().await;
    b.restart().await;
    until_shared(&b).await;
    let (of_a, of_b) = found_by(&a, &b, |round| json!({ "later": round })).await;
    assert!(is_cached(&of_b) && said(&of_b) == of_a && hits(&b).await >= 1, "{of_b}");
}
