//! Tools that a hosted server runs as tasks of its own: the host drives them for clients of either shape.

use serde_json::{Value, json};

use super::{Client, RELATED, accept, asking, form, hosting, keys, said};
use crate::support::mcp::{Session, request, text};
use crate::support::until;

#[tokio::test]
async fn what_is_asked_before_the_task_is_asked_by_the_answer_and_the_rest_within_the_task() {
    let server = hosting().await;
    let client = Client::new(&server);
    let rounds = json!([[form("before", "a")], [form("within", "b")]]);
    let arguments = asking(&rounds, 100);
    let first = client.call("job_own", arguments.clone()).await["result"].clone();
    assert_eq!((&first["resultType"], keys(&first)), (&json!("input_required"), vec!["before"]));
    assert!(first.get("taskId").is_none());
    let retry = json!({
        "name": "job_own", "arguments": arguments, "requestState": first["requestState"],
        "inputResponses": { "before": accept("a", "one") }
    });
    let created = client.ask("tools/call", retry).await["result"].clone();
    assert_eq!(created["resultType"], "task", "{created}");
    assert!(created.get("requestState").is_none() && created.get("inputRequests").is_none());
    let task = created["taskId"].as_str().unwrap();
    assert_eq!(keys(&client.until(task, "input_required").await), ["within"]);
    client.update(task, json!({ "within": accept("b", "two") })).await;
    let done = client.until(task, "completed").await;
    assert_eq!(said(&done), format!("own: [{}] [{}]", accept("a", "one"), accept("b", "two")));
    // The hosted server's own id means nothing to its client.
    assert!(done["result"]["_meta"].get(RELATED).is_none(), "{done}");
}

#[tokio::test]
async fn a_session_sees_its_own_task_and_cancels_the_hosted_servers() {
    let server = hosting().await;
    let session = Session::open_with(&server, "2025-11-25", json!({ "elicitation": {} })).await;
    let begin = async |arguments: Value| {
        let params = json!({ "name": "job_own", "arguments": arguments, "task": {} });
        session.ask("b", "tools/call", params).await["result"]["task"]["taskId"].clone()
    };
    let task = begin(asking(&json!([[form("before", "a")], []]), 50)).await;
    let mut stream = session.stream(request("r", "tasks/result", json!({ "taskId": task }))).await;
    let question = stream.next_message().await.unwrap().json();
    assert_eq!(question["params"]["_meta"][RELATED]["taskId"], task);
    session
        .post(json!({ "jsonrpc": "2.0", "id": question["id"], "result": accept("a", "x") }).to_string())
        .await;
    let last = stream.next_message().await.unwrap().json();
    assert_eq!(text(&last), format!("own: [{}] [[]]", accept("a", "x")).replace("[[]]", "[]"));
    assert_eq!(last["result"]["_meta"][RELATED], json!({ "taskId": task }));

    let task = begin(json!({ "n": 60_000, "message": "[]" })).await;
    let get =
        async || session.ask("g", "tasks/get", json!({ "taskId": task })).await["result"]["status"].clone();
    assert_eq!(get().await, "working");
    let counted = async |tool: &str| {
        text(&session.ask("n", "tools/call", json!({ "name": tool, "arguments": {} })).await).to_owned()
    };
    // From the moment the hosted server has a task, that is what is cancelled.
    until("the hosted server has the task", || async { counted("jobs_begun").await == "2" }).await;
    session.ask("c", "tasks/cancel", json!({ "taskId": task })).await;
    assert_eq!(get().await, "cancelled");
    until("the hosted server's task", || async { counted("jobs_cancelled").await == "1" }).await;
}
