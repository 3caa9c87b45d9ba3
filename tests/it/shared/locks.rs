//! Locks among all instances, and locks of one.

use std::time::Duration;

use serde_json::{Value, json};

use super::{status, two, until_healed, until_mode};
use crate::support::http::Answer;
use crate::support::server::Server;
use crate::support::session::Session;
use crate::support::{soon, until};

async fn ask(server: &Server, name: &str, body: Value) -> Answer {
    server.admin_exchange("POST", &format!("/admin/locks/{name}"), body.to_string().as_bytes()).await
}

async fn take(server: &Server, name: &str, seconds: u64) -> Answer {
    ask(server, name, json!({ "action": "take", "ttl_seconds": seconds })).await
}

async fn take_alone(server: &Server, name: &str) -> Answer {
    ask(server, name, json!({ "action": "take", "ttl_seconds": 600, "scope": "instance" })).await
}

async fn renew(server: &Server, name: &str, lock: &Value) -> Answer {
    ask(server, name, json!({ "action": "renew", "ttl_seconds": 600, "token": lock["token"] })).await
}

async fn release(server: &Server, name: &str, lock: &Value) -> Answer {
    ask(server, name, json!({ "action": "release", "token": lock["token"] })).await
}

async fn look(server: &Server, name: &str) -> Answer {
    server.admin_exchange("GET", &format!("/admin/locks/{name}"), b"").await
}

/// The answer, which must be a good one.
fn well(answer: &Answer) -> Value {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

fn fence(lock: &Value) -> u64 {
    lock["fence"].as_u64().unwrap_or_else(|| panic!("no fence: {lock}"))
}

/// Writes a value of a session under a fence.
async fn write_under(server: &Server, key: &str, lock: &str, fence: u64, value: &str) -> Answer {
    let path = format!("/admin/sessions/{key}/values/v?lock={lock}&fence={fence}");
    server.admin_exchange("PUT", &path, value.as_bytes()).await
}

/// The key of the only session.
async fn only_key(server: &Server) -> String {
    let page = server.admin_exchange("GET", "/admin/sessions", b"").await.json();
    page["sessions"][0]["key"].as_str().unwrap_or_else(|| panic!("no session: {page}")).to_owned()
}

async fn refused(server: &Server, scope: &str) -> u64 {
    let text = server.exchange("GET", "/metrics", &[], b"").await.text();
    let name = format!("outlast_lock_refused_total{{scope=\"{scope}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[tokio::test]
async fn a_lock_has_one_holder_among_all_instances_and_any_of_them_renews_it_and_lets_it_go() {
    let (_redis, a, b) = two().await;
    let lock = well(&take(&a, "l", 600).await);
    assert_eq!((&lock["scope"], &lock["name"]), (&json!("global"), &json!("l")), "{lock}");
    let valid_ms = lock["valid_ms"].as_u64().unwrap();
    assert!(valid_ms <= 540_000 && valid_ms > 500_000, "{lock}");
    for other in [&a, &b] {
        let held = take(other, "l", 600).await;
        assert_eq!(held.status(), 409, "{}", held.text());
        let left_ms = held.json()["error"]["data"]["left_ms"].as_u64().unwrap();
        assert!(left_ms > 500_000 && left_ms <= 600_000, "{}", held.text());
    }
    let seen = well(&look(&b, "l").await);
    assert_eq!((&seen["scope"], fence(&seen)), (&json!("global"), fence(&lock)));
    assert!(seen["expires_ms"].is_u64() && seen.get("token").is_none(), "{seen}");
    let renewed = well(&renew(&b, "l", &lock).await);
    assert_eq!((fence(&renewed), &renewed["scope"]), (fence(&lock), &json!("global")));
    let wrong = json!({ "token": "0".repeat(32) });
    assert_eq!((renew(&b, "l", &wrong).await.status(), release(&a, "l", &wrong).await.status()), (409, 409));
    assert_eq!(well(&release(&b, "l", &lock).await)["released"], true);
    assert_eq!(release(&a, "l", &lock).await.status(), 409, "it is nobody's any more");
    assert!(well(&look(&a, "l").await)["expires_ms"].is_null());
    let next = well(&take(&b, "l", 600).await);
    assert!(fence(&next) > fence(&lock));
    assert_eq!(look(&a, "unheard-of").await.status(), 404);
    assert_eq!(status(&b).await["locks"]["global"], 1);
}

#[tokio::test]
async fn a_write_under_an_older_fence_is_refused_on_every_instance_and_fences_rise_though_redis_is_emptied() {
    let (redis, a, b) = two().await;
    let _session = Session::open(&a).await;
    let key = only_key(&a).await;
    let late = well(&take(&a, "l", 1).await);
    // The fence of a lock that was taken elsewhere.
    let written = write_under(&a, &key, "l", fence(&late), "first").await;
    assert!(written.status() == 200 || written.text().contains("nobody holds"), "{}", written.text());
    // Once the time of that one is over.
    let next = soon("the next holder", async {
        loop {
            let taken = take(&b, "l", 600).await;
            if taken.status() == 200 {
                return taken.json();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(fence(&next) > fence(&late));
    for server in [&a, &b] {
        let refused = write_under(server, &key, "l", fence(&late), "late").await;
        assert_eq!(refused.status(), 409, "{}", refused.text());
        assert!(refused.text().contains("somebody else has taken it"), "{}", refused.text());
        assert_eq!(write_under(server, &key, "l", fence(&next), "next").await.status(), 200);
    }
    // Redis forgets everything: what was promised before counts no more, and nothing that comes is below it.
    redis.command(&["FLUSHALL"]);
    let forgotten = write_under(&b, &key, "l", fence(&next), "after").await;
    assert_eq!(forgotten.status(), 409, "{}", forgotten.text());
    assert!(forgotten.text().contains("forgotten"), "{}", forgotten.text());
    let again = well(&take(&a, "l", 600).await);
    assert!(fence(&again) > fence(&next));
    assert_eq!(write_under(&a, &key, "l", fence(&again), "again").await.status(), 200);
    let value = a.admin_exchange("GET", &format!("/admin/sessions/{key}/values/v"), b"").await.json();
    assert_eq!(value["text"], "again");
}

#[tokio::test]
async fn without_redis_a_lock_of_all_is_refused_with_what_to_do_and_one_of_this_instance_is_given() {
    let (mut redis, a, b) = two().await;
    let before = well(&take(&a, "before", 600).await);
    redis.kill();
    until_mode(&a, "degraded").await;
    until_mode(&b, "degraded").await;
    let no = take(&a, "l", 600).await;
    assert_eq!(no.status(), 503, "{}", no.text());
    let text = no.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(text.contains("one of all instances") && text.contains("--scope instance"), "{text}");
    assert_eq!(no.json()["error"]["data"], json!({ "scope": "global", "retryable": true }));
    for answer in
        [renew(&a, "before", &before).await, release(&b, "before", &before).await, look(&b, "before").await]
    {
        assert_eq!(answer.status(), 503, "{}", answer.text());
    }
    // Also a write under the fence of one cannot be let through: somebody may have it.
    let _session = Session::open(&a).await;
    let key = only_key(&a).await;
    let unknown = write_under(&a, &key, "before", fence(&before), "x").await;
    assert_eq!(unknown.status(), 503, "{}", unknown.text());
    // Counted once a second.
    until("the refusals are counted", || async { refused(&a, "global").await >= 2 }).await;
    assert_eq!(refused(&a, "instance").await, 0);
    // The name of one that may still be held is not given here either.
    assert_eq!(take_alone(&a, "before").await.status(), 409);
    let (here, there) = (well(&take_alone(&a, "l").await), well(&take_alone(&b, "l").await));
    assert_eq!((&here["scope"], &there["scope"]), (&json!("instance"), &json!("instance")));
    assert_eq!(take_alone(&a, "l").await.status(), 409);
    until("the refusals are counted", || async { refused(&a, "instance").await == 2 }).await;
    assert_eq!(write_under(&a, &key, "l", fence(&here), "mine").await.status(), 200);
    assert_eq!(well(&renew(&a, "l", &here).await)["scope"], "instance");
    redis.restart();
    until_healed(&a).await;
    until_healed(&b).await;
    assert_eq!(take(&a, "l", 600).await.status(), 409, "one of this instance is in its way");
    assert_eq!(well(&release(&a, "l", &here).await)["released"], true);
    let moved = well(&take(&a, "l", 600).await);
    assert_eq!(moved["scope"], "global");
    assert!(fence(&moved) > fence(&here));
    let stale = write_under(&a, &key, "l", fence(&here), "stale").await;
    assert_eq!(stale.status(), 409, "{}", stale.text());
    assert_eq!(take_alone(&a, "l").await.status(), 409);
    assert_eq!(well(&release(&a, "l", &moved).await)["released"], true);
    assert!(fence(&well(&take_alone(&a, "l").await)) > fence(&moved));
}

#[tokio::test]
async fn a_lock_in_the_name_of_a_session_goes_with_it_wherever_it_ends() {
    let (_redis, a, b) = two().await;
    let session = Session::open(&a).await;
    let key = only_key(&a).await;
    let body = json!({ "action": "take", "ttl_seconds": 600, "session": key });
    well(&ask(&a, "l", body).await);
    let shown = a.admin_exchange("GET", &format!("/admin/sessions/{key}"), b"").await.json();
    assert_eq!((&shown["locks"][0]["name"], &shown["locks"][0]["scope"]), (&json!("l"), &json!("global")));
    assert_eq!(take(&b, "l", 600).await.status(), 409);
    session.at(&b).end().await;
    until("the lock is let go", || async { look(&b, "l").await.json()["expires_ms"].is_null() }).await;
    assert_eq!(take(&b, "l", 600).await.status(), 200);
    let gone = ask(&a, "other", json!({ "action": "take", "ttl_seconds": 600, "session": key })).await;
    assert_eq!(gone.status(), 404, "{}", gone.text());
}

#[tokio::test]
async fn what_is_left_of_a_lock_of_one_instance_does_not_refuse_a_fence_of_all() {
    let (_redis, a, b) = two().await;
    let _session = Session::open(&a).await;
    let key = only_key(&a).await;
    // One of b alone, taken and let go: b knows its fence still.
    let alone = well(&take_alone(&b, "l").await);
    assert_eq!(well(&release(&b, "l", &alone).await)["released"], true);
    let of_all = well(&take(&a, "l", 600).await);
    for server in [&a, &b] {
        let written = write_under(server, &key, "l", fence(&of_all), "under it").await;
        assert_eq!(written.status(), 200, "{}", written.text());
    }
    // While b holds one of its own, that is the one which counts there.
    well(&release(&a, "l", &of_all).await);
    let alone = well(&take_alone(&b, "l").await);
    assert_eq!(write_under(&b, &key, "l", fence(&of_all), "late").await.status(), 409);
    assert_eq!(write_under(&b, &key, "l", fence(&alone), "b alone").await.status(), 200);
}
