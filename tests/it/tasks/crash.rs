//! Tasks whose process is killed or stopped: none of them stays as if it were worked on.

use serde_json::{Value, json};

use super::{Client, accept, asking, form, keeping, keys, said};
use crate::support::mcp::code;
use crate::support::server::Server;
use crate::support::session::Session;
use crate::support::until;

async fn crash(server: &mut Server) {
    server.kill();
    server.restart().await;
}

#[tokio::test]
async fn what_may_not_run_twice_is_failed_after_a_crash_and_what_may_runs_again() {
    let mut server = keeping().await;
    let (once, again, asks) = {
        let alice = Client::of(&server, "alice");
        // Alone with its child at first, so that the question can only be its own.
        let asks = alice.begin("job", asking(&json!([[form("first", "a")]]), 0)).await;
        alice.until(&asks, "input_required").await;
        let once = alice.begin("job", json!({ "n": 60_000 })).await;
        let again = alice.begin("job_again", json!({ "n": 3_000, "message": "m" })).await;
        (once, again, asks)
    };
    crash(&mut server).await;
    let alice = Client::of(&server, "alice");
    for task in [&once, &asks] {
        let failed = alice.until(task, "failed").await;
        assert_eq!(failed["error"]["data"]["reason"], "interrupted", "{failed}");
        assert!(failed["statusMessage"].as_str().unwrap().contains("restarted"), "{failed}");
        assert!(keys(&failed).is_empty() && failed.get("result").is_none());
    }
    // A new process of the hosted server, so it is the first run there.
    assert_eq!(said(&alice.until(&again, "completed").await), "run 1, as a task false: m");
    let before = [alice.get(&once).await, alice.get(&again).await];
    crash(&mut server).await;
    let alice = Client::of(&server, "alice");
    assert_eq!([alice.get(&once).await, alice.get(&again).await], before, "what has ended stays as it is");
}

#[tokio::test]
async fn an_answer_that_was_taken_is_not_asked_for_again() {
    let mut server = keeping().await;
    let rounds = json!([[form("first", "a")], [form("second", "b")]]);
    let task = {
        let alice = Client::of(&server, "alice");
        let task = alice.begin("job_again", asking(&rounds, 0)).await;
        alice.until(&task, "input_required").await;
        alice.update(&task, json!({ "first": accept("a", "one") })).await;
        until("the second question", || async { keys(&alice.get(&task).await) == ["second"] }).await;
        task
    };
    crash(&mut server).await;
    let alice = Client::of(&server, "alice");
    assert_eq!(keys(&alice.until(&task, "input_required").await), ["second"]);
    alice.update(&task, json!({ "second": accept("b", "two") })).await;
    let heard = format!("[{},{}]", accept("a", "one"), accept("b", "two"));
    assert!(said(&alice.until(&task, "completed").await).ends_with(&heard));
}

#[tokio::test]
async fn a_cancellation_that_was_acknowledged_holds_over_a_crash() {
    let mut server = keeping().await;
    for _ in 0..3 {
        let task = {
            let alice = Client::of(&server, "alice");
            let task = alice.begin("job_again", json!({ "n": 60_000 })).await;
            assert_eq!(alice.cancel(&task).await["result"]["resultType"], "complete");
            task
        };
        crash(&mut server).await;
        Client::of(&server, "alice").until(&task, "cancelled").await;
    }
}

#[tokio::test]
async fn a_session_waits_on_for_the_result_after_a_crash() {
    let mut server = keeping().await;
    let session = Session::open_as(&server, "2025-11-25", Some("Bearer alice")).await;
    let ask = async |id: &str, method: &str, params: Value| {
        session.post(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await.json()
    };
    let begin = async |tool: &str, n: u64| {
        let params = json!({ "name": tool, "arguments": { "n": n, "message": "m" }, "task": {} });
        ask("b", "tools/call", params).await["result"]["task"]["taskId"].clone()
    };
    let (again, once) = (begin("job_again", 1_500).await, begin("job", 60_000).await);
    let wait = |id: &str, task: &Value| json!({ "jsonrpc": "2.0", "id": id, "method": "tasks/result", "params": { "taskId": task } });
    let mut streams =
        [session.start_by(&wait("r1", &again)).await, session.start_by(&wait("r2", &once)).await];
    for stream in &mut streams {
        // The event to resume from.
        stream.event().await.unwrap();
    }
    server.kill();
    server.restart().await;
    let mut first = session.stream(streams[0].last.as_deref()).await.rest().await;
    let last = first.pop().unwrap();
    assert_eq!(
        (&last["id"], &last["result"]["content"][0]["text"]),
        (&json!("r1"), &json!("run 1, as a task false: m"))
    );
    let last = session.stream(streams[1].last.as_deref()).await.rest().await.pop().unwrap();
    assert_eq!((&last["id"], code(&last)), (&json!("r2"), -32603));
    assert_eq!(last["error"]["data"]["reason"], "interrupted");
    let listed = ask("l", "tasks/list", json!({})).await["result"]["tasks"].clone();
    let statuses: Vec<&Value> = listed.as_array().unwrap().iter().map(|task| &task["status"]).collect();
    assert_eq!(statuses, ["completed", "failed"]);
    assert_eq!(listed[0]["taskId"], again);
}

#[tokio::test]
async fn a_stopped_server_leaves_what_may_run_again_and_ends_the_rest() {
    let dir = super::place("[server]\ndrain_seconds = 1\n");
    let mut server = Server::start_in(&dir, &[], &[]).await;
    let (once, again) = {
        let client = Client::new(&server);
        let once = client.begin("job", json!({ "n": 60_000 })).await;
        (once, client.begin("job_again", json!({ "n": 2_500 })).await)
    };
    assert!(server.term().await.success());
    server.restart().await;
    let client = Client::new(&server);
    let failed = client.until(&once, "failed").await;
    assert!(failed["statusMessage"].as_str().unwrap().contains("stopped"), "{failed}");
    client.until(&again, "completed").await;
}

#[tokio::test]
async fn a_task_whose_data_was_lost_is_failed_and_not_unknown() {
    let mut server = keeping().await;
    let task = Client::of(&server, "alice").begin("job", json!({ "n": 60_000 })).await;
    server.kill();
    std::fs::remove_dir_all(server.data_dir().join("db")).unwrap();
    server.restart().await;
    let alice = Client::of(&server, "alice");
    let lost = alice.get(&task).await;
    assert_eq!((&lost["status"], &lost["error"]["data"]["reason"]), (&json!("failed"), &json!("lost")));
    assert_eq!(alice.cancel(&task).await["result"]["resultType"], "complete");
    assert_eq!(code(&Client::of(&server, "bob").ask("tasks/get", json!({ "taskId": task })).await), -32602);
}

#[tokio::test]
async fn the_death_of_the_hosted_server_ends_its_tasks() {
    let server = keeping().await;
    let alice = Client::of(&server, "alice");
    let pid = alice.call("pid", json!({})).await["result"]["content"][0]["text"].as_str().unwrap().to_owned();
    let task = alice.begin("job", json!({ "n": 60_000 })).await;
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let ended = alice.until(&task, "completed").await;
    assert_eq!(ended["result"]["isError"], true, "{ended}");
}
