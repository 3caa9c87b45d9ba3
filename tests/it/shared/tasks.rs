//! Tasks of several instances: those whose instance died, and whose disk never comes back; and those that there are not
//! while Redis is away.

use std::sync::Arc;
use std::time::Duration;

use outlast::base::seal::{hex, sha256};
use serde_json::{Value, json};

use super::{status, until_mode};
use crate::redis::Redis;
use crate::support::mcp::{claim, mirrors, post_on, request};
use crate::support::server::Server;
use crate::support::session::Session;
use crate::support::until;
use crate::tasks::{Client, fixture};

/// Far longer than the lease of a task and a sign of life together.
const TAKEN_OVER: Duration = Duration::from_secs(120);

/// An instance that hosts the fixture with its tasks, and knows one principal.
async fn instance(redis: &Redis) -> Server {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = format!(
        "[tools]\ncode = false\n[servers.one]\ncommand = {:?}\nargs = [\"--tasks\"]\n\
         [[auth.tokens]]\nprincipal = \"alice\"\nsha256 = \"{}\"\n",
        fixture(),
        hex(&sha256(b"alice"))
    );
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    Server::start_in(&dir, &["--diagnostics", "--redis", &redis.url()], &[]).await
}

async fn two() -> (Redis, Server, Server) {
    let redis = Redis::start();
    let (a, b) = tokio::join!(instance(&redis), instance(&redis));
    until_mode(&a, "redis").await;
    until_mode(&b, "redis").await;
    (redis, a, b)
}

async fn ask(session: &Session, method: &str, params: Value) -> Value {
    session.post(&json!({ "jsonrpc": "2.0", "id": "q", "method": method, "params": params })).await.json()
}

/// The id of a task that a session makes.
async fn begin(session: &Session, tool: &str, n: u64) -> Value {
    let params = json!({ "name": tool, "arguments": { "n": n, "message": "m" }, "task": { "ttl": 600_000 } });
    let answer = ask(session, "tools/call", params).await;
    let task = answer["result"]["task"]["taskId"].clone();
    assert!(task.is_string(), "{answer}");
    task
}

/// The status of each task of a list.
fn statuses(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = list["result"]["tasks"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    all.iter().map(|task| (text(&task["taskId"]), text(&task["status"]))).collect()
}

/// Waits until a task is this, which may take a lease and a sign of life.
async fn until_is(client: &Client<'_>, task: &str, status: &str) -> Value {
    let begun = tokio::time::Instant::now();
    loop {
        let shown = client.get(task).await;
        if shown["status"] == status {
            return shown;
        }
        assert_eq!(shown["status"], "working", "{shown}");
        assert!(begun.elapsed() < TAKEN_OVER, "{shown}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn tasks_of_an_instance_that_died_with_its_disk_are_run_again_by_a_sister_or_failed() {
    let (_redis, mut a, b) = two().await;
    let session = Session::open_as(&a, "2025-11-25", Some("Bearer alice")).await;
    let there = session.at(&b);
    let (modern_once, modern_again) = {
        let alice = Client::of(&a, "alice");
        let once = alice.begin("job", json!({ "n": 600_000 })).await;
        // Long enough to be running when its instance dies, and to end on the other one.
        (once, alice.begin("job_again", json!({ "n": 15_000, "message": "m" })).await)
    };
    let (once, again) = (begin(&session, "job", 600_000).await, begin(&session, "job_again", 600_000).await);
    let cancelled = begin(&session, "job_again", 600_000).await;
    // All of them are seen on the other instance, in both shapes, while their own one lives.
    let alice = Client::of(&b, "alice");
    assert_eq!(alice.get(&modern_once).await["status"], "working");
    let listed = statuses(&ask(&there, "tasks/list", json!({})).await);
    let working = |task: &Value| (task.as_str().unwrap().to_owned(), "working".to_owned());
    assert_eq!(listed, [working(&once), working(&again), working(&cancelled)]);
    // Who waits there waits on, over the death of the instance.
    let wait = json!({ "jsonrpc": "2.0", "id": "r", "method": "tasks/result", "params": { "taskId": once } });
    let mut waiting = there.start_by(&wait).await;
    waiting.event().await.unwrap();
    let dir = a.data_dir();
    a.kill();
    std::fs::remove_dir_all(dir).unwrap();
    // Until its lease is over it may live, and nothing is said that could be wrong.
    assert_eq!(alice.get(&modern_once).await["status"], "working");
    assert_eq!(alice.cancel(cancelled.as_str().unwrap()).await["result"]["resultType"], "complete");

    let failed = until_is(&alice, &modern_once, "failed").await;
    assert_eq!(failed["error"]["data"]["reason"], "interrupted", "{failed}");
    assert!(failed["statusMessage"].as_str().unwrap().contains("the server was restarted"), "{failed}");
    let done = until_is(&alice, &modern_again, "completed").await;
    assert!(done["result"]["content"][0]["text"].as_str().unwrap().ends_with(": m"), "{done}");
    until_is(&alice, cancelled.as_str().unwrap(), "cancelled").await;
    // The shape of 2025-11-25: the answer comes to who waited for it.
    let last = waiting.rest().await.pop().unwrap();
    assert_eq!((&last["id"], &last["error"]["code"]), (&json!("r"), &json!(-32603)), "{last}");
    assert_eq!(last["error"]["data"]["reason"], "interrupted");
    assert_eq!(ask(&there, "tasks/get", json!({ "taskId": once })).await["result"]["status"], "failed");
    // The one that may run twice runs here now.
    until("it runs here", || async { crate::support::session::figure(&b, "tasks").await == 1 }).await;
    let mut listed = statuses(&ask(&there, "tasks/list", json!({})).await);
    let with = |task: &Value, status: &str| (task.as_str().unwrap().to_owned(), status.to_owned());
    let mut expected = vec![with(&once, "failed"), with(&again, "working"), with(&cancelled, "cancelled")];
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    let ended = ask(&there, "tasks/cancel", json!({ "taskId": again })).await;
    assert_eq!(ended["result"]["status"], "cancelled", "{ended}");
}

#[tokio::test]
async fn an_owner_that_was_taken_for_dead_and_is_not_changes_nothing_any_more() {
    let (_redis, a, b) = two().await;
    let (once, again) = {
        let alice = Client::of(&a, "alice");
        let once = alice.begin("job", json!({ "n": 600_000 })).await;
        (once, alice.begin("job_again", json!({ "n": 600_000 })).await)
    };
    a.signal(rustix::process::Signal::STOP);
    let alice = Client::of(&b, "alice");
    let failed = until_is(&alice, &once, "failed").await;
    assert_eq!(alice.get(&again).await["status"], "working");
    until("it runs here", || async { crate::support::session::figure(&b, "tasks").await == 1 }).await;
    a.signal(rustix::process::Signal::CONT);
    // It hears that they are in other hands as soon as it reports, and works on neither of them.
    let begun = tokio::time::Instant::now();
    while crate::support::session::figure(&a, "tasks").await > 0 {
        assert!(begun.elapsed() < TAKEN_OVER);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(alice.get(&once).await, failed, "what a client has seen stays");
    assert_eq!(Client::of(&a, "alice").get(&once).await, failed);
    assert_eq!(alice.get(&again).await["status"], "working");
    assert_eq!(crate::support::session::figure(&b, "tasks").await, 1);
}

#[tokio::test]
async fn while_redis_is_away_a_task_of_another_instance_is_worked_on_and_nobody_takes_it_over() {
    let (mut redis, mut a, b) = two().await;
    let session = Session::open_as(&a, "2025-11-25", Some("Bearer alice")).await;
    let task = Client::of(&a, "alice").begin("job", json!({ "n": 600_000 })).await;
    let own = begin(&session, "job", 600_000).await;
    let there = session.at(&b);
    assert_eq!(ask(&there, "ping", json!({})).await["result"], json!({}));
    redis.kill();
    until_mode(&b, "degraded").await;
    a.kill();
    let alice = Client::of(&b, "alice");
    let shown = alice.get(&task).await;
    assert_eq!((&shown["status"], &shown["pollIntervalMs"]), (&json!("working"), &json!(1_000)), "{shown}");
    let shown = ask(&there, "tasks/get", json!({ "taskId": own })).await;
    assert_eq!(shown["result"]["status"], "working", "{shown}");
    // Also after a lease.
    tokio::time::sleep(Duration::from_secs(32)).await;
    assert_eq!(alice.get(&task).await["status"], "working");
    assert_eq!(crate::support::session::figure(&b, "tasks").await, 0);
    // A forged one is none all the same.
    let at = task.len() - 5;
    let other = if task.as_bytes()[at] == b'x' { 'y' } else { 'x' };
    let forged = format!("{}{other}{}", &task[..at], &task[at + 1..]);
    let answer = alice.ask("tasks/get", json!({ "taskId": forged })).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    redis.restart();
    a.restart().await;
    // Its own instance finds it interrupted.
    until_is(&alice, &task, "failed").await;
}

#[tokio::test]
async fn who_listens_on_another_instance_is_told_where_a_task_stands() {
    let (_redis, a, b) = two().await;
    let task = Client::of(&a, "alice").begin("job", json!({ "n": 2_000, "message": "m" })).await;
    let capabilities = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } });
    let params = json!({ "notifications": { "taskIds": [task] }, "_meta": claim(capabilities) });
    let mut stream = b.connect().await;
    let mut headers = mirrors("subscriptions/listen", None);
    headers.push(("Authorization", "Bearer alice"));
    let head = post_on(&mut stream, &headers, request("l", "subscriptions/listen", params)).await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"), "{head:?}");
    let mut statuses = Vec::new();
    while statuses.last() != Some(&json!("completed")) {
        let message = stream.next_message().await.expect("the stream goes on").json();
        if message["method"] == "notifications/tasks" {
            assert_eq!(message["params"]["taskId"], task, "{message}");
            statuses.push(message["params"]["status"].clone());
        }
    }
    assert_eq!(statuses.first(), Some(&json!("working")), "{statuses:?}");
}

/// Whether there are others is known once signs of life were given.
async fn knows_instances(server: &Server, count: usize) {
    until("the instances", || async {
        let known = status(server).await["redis"]["links"]["instances"].as_array().map_or(0, Vec::len);
        known == count
    })
    .await;
}

#[tokio::test]
async fn a_call_becomes_no_task_while_other_instances_could_not_find_it() {
    let (mut redis, a, b) = two().await;
    knows_instances(&a, 2).await;
    redis.kill();
    until_mode(&a, "degraded").await;
    let alice = Client::of(&a, "alice");
    let call = json!({ "name": "job", "arguments": { "n": 2_000, "message": "m" } });
    let answer = alice.ask("tools/call", call).await;
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().ends_with(": m"), "{answer}");
    // What is a task or nothing is one all the same, and nobody says that it is lost.
    let must = alice.begin("job_must", json!({ "n": 600_000 })).await;
    assert_eq!(Client::of(&b, "alice").get(&must).await["status"], "working");
    redis.restart();
    until_mode(&a, "redis").await;
    until_mode(&b, "redis").await;
    let task = alice.begin("job", json!({ "n": 600_000 })).await;
    assert_eq!(Client::of(&b, "alice").get(&task).await["status"], "working");
}

#[tokio::test]
async fn an_instance_without_sisters_makes_tasks_while_redis_is_away() {
    let mut redis = Redis::start();
    let only = instance(&redis).await;
    knows_instances(&only, 1).await;
    redis.kill();
    until_mode(&only, "degraded").await;
    let alice = Client::of(&only, "alice");
    let task = alice.begin("job", json!({ "n": 2_000, "message": "m" })).await;
    until_is(&alice, &task, "completed").await;
}
