//! Several instances and one Redis: any instance serves any session, and none stops when Redis does.

mod conflicts;
mod locks;
mod lost;
mod tasks;
mod topics;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::redis::Redis;
use crate::support::server::Server;
use crate::support::session::{Session, Stream, broadcast, note, send, send_notes};
use crate::support::until;

/// An instance with a data directory of its own.
async fn instance(redis: &Redis) -> Server {
    Server::start_in(
        &Arc::new(tempfile::tempdir().unwrap()),
        &["--diagnostics", "--redis", &redis.url()],
        &[],
    )
    .await
}

async fn two() -> (Redis, Server, Server) {
    let redis = Redis::start();
    // At once, so that both make keys of their own before they meet.
    let (a, b) = tokio::join!(instance(&redis), instance(&redis));
    until_mode(&a, "redis").await;
    until_mode(&b, "redis").await;
    (redis, a, b)
}

async fn status(server: &Server) -> Value {
    server.admin_exchange("GET", "/admin/status", b"").await.json()
}

/// The answer of a client that agrees.
fn yes(question: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"answer": "yes"}}})
}

/// A server may serve before its link is up.
pub async fn until_mode(server: &Server, mode: &str) {
    until(&format!("mode {mode}"), || async { status(server).await["mode"] == mode }).await;
}

async fn until_healed(server: &Server) {
    until("nothing owed", || async {
        let status = status(server).await;
        let sharing = &status["redis"]["sharing"];
        status["mode"] == "redis" && sharing["dirty_sessions"] == 0 && sharing["auditing"] == false
    })
    .await;
}

/// The numbers up to this one, whatever else is said in between.
async fn numbers_up_to(stream: &mut Stream, last: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        numbers.extend(stream.numbers(1).await);
    }
    numbers
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls_where_its_authority_is_known_and_else_it_is_said_what_is_missing() {
    let redis = Redis::start();
    let tls = crate::tls::Tls::before(([127, 0, 0, 1], redis.port).into()).await;
    let url = format!("rediss://localhost:{}", tls.address.port());
    let authority = tls.authority();
    let start = async |variables: &[(&str, &str)]| {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Server::start_in(&dir, &["--diagnostics", "--redis", &url], variables).await
    };
    let knows = [("OUTLAST_REDIS__CA_FILE", authority.to_str().unwrap())];
    let (a, b) = tokio::join!(start(&knows), start(&knows));
    until_mode(&a, "redis").await;
    until_mode(&b, "redis").await;
    let session = Session::open(&a).await;
    assert_eq!((session.count().await, session.at(&b).count().await), (1, 2));
    let stranger = start(&[]).await;
    let reason = || async { status(&stranger).await["redis"]["links"].to_string().to_lowercase() };
    until("it says why", || async { reason().await.contains("certificate") }).await;
}

#[tokio::test]
async fn an_instance_whose_key_has_the_number_of_a_sisters_takes_that_one_over() {
    let redis = Redis::start();
    let a = instance(&redis).await;
    until_mode(&a, "redis").await;
    until("a has told of its key", || async { status(&a).await["redis"]["sharing"]["agreed"] == true }).await;
    let key = std::fs::read_to_string(a.dir().join("data/keys")).unwrap();
    let number = key.lines().last().unwrap().split(':').next().unwrap().to_owned();
    // What b made for itself before they met. It notes under it, as it starts, what its clients know of its lists.
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::fs::create_dir_all(dir.path().join("data")).unwrap();
    let other = format!("{number}:{}=\n", "A".repeat(43));
    std::fs::write(dir.path().join("data/keys"), other).unwrap();
    let b = Server::start_in(&dir, &["--diagnostics", "--redis", &redis.url()], &[]).await;
    until("they agree", || async { status(&b).await["redis"]["sharing"]["agreed"] == true }).await;
    let session = Session::open(&a).await;
    assert_eq!((session.count().await, session.at(&b).count().await), (1, 2));
}

#[tokio::test]
async fn a_session_has_its_values_on_every_instance_and_its_end_too() {
    let (_redis, a, b) = two().await;
    let session = Session::open(&a).await;
    let there = session.at(&b);
    // Quicker than news of a write goes around: each adds to what the other one has acknowledged.
    for round in 0..100 {
        assert_eq!(session.count().await, 2 * round + 1);
        assert_eq!(there.count().await, 2 * round + 2);
    }
    session.end().await;
    // The other one held it in memory, and hears of it.
    until("the end is heard of", || async { there.status().await == 404 }).await;
}

#[tokio::test]
async fn what_is_said_on_one_instance_is_carried_by_a_stream_of_another_and_resumed_on_any() {
    let (_redis, a, b) = two().await;
    let session = Session::open(&a).await;
    let there = session.at(&b);
    let mut stream = there.stream(None).await;
    send_notes(&a, &session, 1..=3).await;
    assert_eq!(stream.numbers(3).await, [1, 2, 3]);
    assert_eq!(broadcast(&a, &note(4)).await.status(), 200);
    assert_eq!(stream.numbers(1).await, [4]);
    let seen = stream.last.clone().unwrap();
    drop(stream);
    // Said on both while nobody listens.
    send_notes(&a, &session, [5]).await;
    send_notes(&b, &there, [6]).await;
    assert_eq!(broadcast(&b, &note(7)).await.status(), 200);
    for server in [&a, &b] {
        let mut resumed = session.at(server).stream(Some(&seen)).await;
        let mut numbers = resumed.numbers(3).await;
        numbers.sort_unstable();
        assert_eq!(numbers, [5, 6, 7], "on {}", server.address());
    }
}

#[tokio::test]
async fn the_stream_of_a_call_goes_on_on_another_instance_with_every_message_once() {
    let (_redis, a, b) = two().await;
    let session = Session::open(&a).await;
    let mut stream = session.start(&json!(1), "emit", json!({"count": 30, "interval_ms": 20})).await;
    let mut numbers = numbers_up_to(&mut stream, 5).await;
    let seen = stream.last.clone();
    drop(stream);
    let mut resumed = session.at(&b).stream(seen.as_deref()).await;
    let rest = resumed.rest().await;
    numbers.extend(rest.iter().filter_map(|message| message["params"]["data"]["n"].as_u64()));
    assert_eq!(numbers, (1..=30).collect::<Vec<u64>>());
    assert_eq!(rest.last().unwrap()["id"], 1, "{rest:?}");
}

#[tokio::test]
async fn an_answer_and_a_cancellation_reach_the_instance_that_waits() {
    let (_redis, a, b) = two().await;
    let session = Session::open(&a).await;
    let there = session.at(&b);
    let mut asked = session.start(&json!(1), "ask", json!({"message": "well?"})).await;
    let question = asked.take(1).await.remove(0);
    assert_eq!(question["method"], "elicitation/create", "{question}");
    assert_eq!(there.post(&yes(&question)).await.status(), 202);
    let result = asked.rest().await.pop().unwrap();
    assert_eq!(result["id"], 1, "{result}");
    assert!(result["result"].to_string().contains("yes"), "{result}");

    let mut sleeping = session.start(&json!(2), "sleep", json!({"ms": 60_000})).await;
    sleeping.take(1).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}});
    assert_eq!(there.post(&cancel).await.status(), 202);
    // It ends without a response.
    let rest = sleeping.rest().await;
    assert!(rest.iter().all(|message| message["id"] != 2), "{rest:?}");
}

#[tokio::test]
async fn without_redis_both_go_on_and_when_an_empty_one_comes_nothing_is_missing() {
    let (mut redis, a, b) = two().await;
    let session = Session::open(&a).await;
    let there = session.at(&b);
    assert_eq!((session.count().await, there.count().await), (1, 2));
    send_notes(&a, &session, 1..=2).await;
    redis.kill();
    // At once, and not after a timeout that is longer than the deadline of the link.
    assert_eq!(session.count().await, 3);
    until_mode(&a, "degraded").await;
    until_mode(&b, "degraded").await;
    let ready = a.exchange("GET", "/readyz", &[], b"").await;
    assert_eq!((ready.status(), ready.header("x-degraded")), (200, Some("redis")));
    // A session of the outage is honoured by whom it is shown to.
    let late = Session::open(&a).await;
    assert_eq!(late.count().await, 1);
    assert_eq!(late.at(&b).post(&json!({"jsonrpc": "2.0", "id": 9, "method": "ping"})).await.status(), 200);
    send_notes(&a, &session, 3..=4).await;
    let ended = Session::open(&a).await;
    assert_eq!(ended.at(&b).count().await, 1);
    ended.end().await;
    redis.restart();
    until_healed(&a).await;
    until_healed(&b).await;
    assert_eq!(there.count().await, 4);
    assert_eq!(late.at(&b).count().await, 2);
    let mut stream = there.stream(None).await;
    assert_eq!(stream.numbers(4).await, [1, 2, 3, 4]);
    until("the end is heard of", || async { ended.at(&b).status().await == 404 }).await;
}

#[tokio::test]
async fn what_an_instance_owes_survives_its_own_death_during_the_outage() {
    let (mut redis, mut a, b) = two().await;
    let session = Session::open(&a).await;
    assert_eq!(session.count().await, 1);
    redis.kill();
    until_mode(&a, "degraded").await;
    assert_eq!(session.count().await, 2);
    send_notes(&a, &session, 1..=3).await;
    a.kill();
    redis.restart();
    until_mode(&b, "redis").await;
    a.restart().await;
    until_healed(&a).await;
    assert_eq!(session.at(&b).count().await, 3);
    let mut stream = session.at(&b).stream(None).await;
    assert_eq!(stream.numbers(3).await, [1, 2, 3]);
}

#[tokio::test]
async fn an_instance_without_its_disk_serves_the_sessions_of_its_sisters() {
    let (redis, mut a, _b) = two().await;
    let session = Session::open(&a).await;
    assert_eq!(session.count().await, 1);
    send_notes(&a, &session, [1]).await;
    a.term().await;
    let c = instance(&redis).await;
    until_mode(&c, "redis").await;
    assert_eq!(session.at(&c).count().await, 2);
    assert_eq!(session.at(&c).stream(None).await.numbers(1).await, [1]);
    let said = send(&c, &session.at(&c), &note(2)).await;
    assert_eq!(said.status(), 200, "{}", said.text());
}

#[tokio::test]
async fn a_redis_that_refuses_this_instance_is_named_with_what_to_do() {
    let redis = Redis::with(&["--requirepass", "right"]);
    let url = redis.url().replacen("redis://", "redis://:wrong@", 1);
    let url = if url.contains(":wrong@") && url.matches('@').count() > 1 {
        format!("redis://:wrong@{}", url.rsplit('@').next().unwrap())
    } else {
        url
    };
    let server =
        Server::start_in(&Arc::new(tempfile::tempdir().unwrap()), &["--diagnostics", "--redis", &url], &[])
            .await;
    let status = status(&server).await;
    assert_eq!(status["mode"], "degraded");
    let why = status["checks"]["redis"].as_str().unwrap();
    assert!(why.contains("password"), "{why}");
    // It serves all the same.
    assert_eq!(Session::open(&server).await.count().await, 1);
}

#[tokio::test]
async fn a_stream_that_hops_between_instances_of_which_one_lags_far_behind_repeats_nothing() {
    const ROUNDS: u64 = 20;
    let (mut redis, mut a, b) = two().await;
    let session = Session::open(&a).await;
    let there = session.at(&b);
    let mut last = there.stream(None).await.last;
    for round in 0..ROUNDS {
        if round == ROUNDS - 3 {
            // From here on the other one knows nothing of what is said.
            redis.kill();
            until_mode(&b, "degraded").await;
        }
        // Each start gives a stream two origins: that of what is said to it, and that of broadcasts.
        a.kill();
        a.restart().await;
        send_notes(&a, &session, [2 * round]).await;
        assert_eq!(broadcast(&a, &note(2 * round + 1)).await.status(), 200);
        let mut stream = session.stream(last.as_deref()).await;
        let mut numbers = stream.numbers(2).await;
        numbers.sort_unstable();
        assert_eq!(numbers, [2 * round, 2 * round + 1]);
        last = stream.last;
    }
    let mut stream = there.stream(last.as_deref()).await;
    send_notes(&b, &there, [1_000]).await;
    assert_eq!(stream.numbers(1).await, [1_000]);
    last = stream.last;
    redis.restart();
    until_healed(&a).await;
    until_healed(&b).await;
    for (server, number) in [(&a, 1_001), (&b, 1_002)] {
        let mut stream = session.at(server).stream(last.as_deref()).await;
        send_notes(server, &session.at(server), [number]).await;
        assert_eq!(stream.numbers(1).await, [number]);
        last = stream.last;
    }
}
