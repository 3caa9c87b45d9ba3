//! A task is kept for its time and not longer, and nothing of it is left.

use outlast::config::Config;
use outlast::store::durable::{Durable as _, Table};
use serde_json::{Value, json};

use crate::support::engine::Place;
use crate::support::mcp::code;
use crate::support::until;

async fn ask(place: &Place, session: &str, method: &str, params: Value) -> Value {
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    place.post(Some(session), message).await.2
}

#[tokio::test]
async fn a_task_is_there_until_its_time_is_over_and_nothing_is_left_of_it_then() {
    let place = Place::new(&Config::default()).await;
    let session = place.open_as("2025-11-25").await;
    let begin = async |ms: u64| {
        let params = json!({ "name": "sleep", "arguments": { "ms": ms }, "task": { "ttl": 20_000 } });
        ask(&place, &session, "tools/call", params).await["result"]["task"]["taskId"].clone()
    };
    let (short, long) = (begin(1).await, begin(60_000).await);
    let status = async |task: &Value| {
        let answer = ask(&place, &session, "tasks/get", json!({ "taskId": task })).await;
        match answer.get("error") {
            Some(_) => json!(code(&answer)),
            None => answer["result"]["status"].clone(),
        }
    };
    until("the end of the short one", || async { status(&short).await == "completed" }).await;
    place.wait(19).await;
    assert_eq!((status(&short).await, status(&long).await), (json!("completed"), json!("working")));
    place.wait(2).await;
    assert_eq!((status(&short).await, status(&long).await), (json!(-32602), json!(-32602)));
    assert_eq!(ask(&place, &session, "tasks/list", json!({})).await["result"], json!({ "tasks": [] }));
    let left = task_rows(&place);
    assert_eq!(left.len(), 0, "{left:?}");
}

#[tokio::test]
async fn a_task_that_ends_leaves_its_state_alone() {
    let mut place = Place::new(&Config::default()).await;
    let session = place.open_as("2025-11-25").await;
    for _ in 0..3 {
        let params = json!({ "name": "sleep", "arguments": { "ms": 1 }, "task": {} });
        ask(&place, &session, "tools/call", params).await;
    }
    let rows = |place: &Place| task_rows(place).len();
    // A head, its content, and when it goes.
    until("the end of all", || async { rows(&place) == 9 }).await;
    place.crash().await;
    let listed = ask(&place, &session, "tasks/list", json!({})).await["result"]["tasks"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert!(listed.as_array().unwrap().iter().all(|task| task["status"] == "completed"), "{listed}");
}

/// The rows of results, without those of what clients know of the lists, which belong to no task.
fn task_rows(place: &Place) -> Vec<(Vec<u8>, Vec<u8>)> {
    let all = place.disk.scan(Table::Result, &[], &[0xff; 64], 100).unwrap();
    all.into_iter().filter(|(key, _)| !key.windows(5).any(|part| part == b"lists")).collect()
}
