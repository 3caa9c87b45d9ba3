//! Tasks of 2025-11-25.

use serde_json::{Value, json};

use super::{Client, RELATED, accept, asking, form, hosting, keeping, place};
use crate::support::http::Connection;
use crate::support::mcp::{LEGACY, Session, code, notification, request, text};
use crate::support::server::Server;
use crate::support::{session, until};

async fn client(server: &crate::support::server::Server) -> Session<'_> {
    Session::open_with(server, "2025-11-25", json!({ "elicitation": { "form": {} }, "roots": {} })).await
}

async fn begin(session: &Session<'_>, tool: &str, arguments: Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments, "task": { "ttl": 60_000 } });
    let answer = session.ask("b", "tools/call", params).await;
    assert!(answer["result"]["task"]["taskId"].is_string(), "{answer}");
    answer["result"]["task"].clone()
}

async fn get(session: &Session<'_>, task: &Value) -> Value {
    session.ask("g", "tasks/get", json!({ "taskId": task["taskId"] })).await["result"].clone()
}

#[tokio::test]
async fn only_2025_11_25_has_tasks_in_sessions_and_there_tool_and_client_must_agree() {
    let server = hosting().await;
    for revision in LEGACY {
        let session = Session::open(&server, revision).await;
        let plain = session
            .ask(1, "tools/call", json!({ "name": "job_must", "arguments": { "message": "m" } }))
            .await;
        let asked = json!({ "name": "echo", "arguments": { "message": "m" }, "task": {} });
        let asked = session.ask(2, "tools/call", asked).await;
        let list = session.ask(3, "tasks/list", json!({})).await;
        if revision == "2025-11-25" {
            assert_eq!((code(&plain), code(&asked)), (-32601, -32601));
            assert_eq!(list["result"], json!({ "tasks": [] }));
        } else {
            // The hosted server must run it as a task of its own, and does; nobody else need know.
            assert_eq!((text(&plain), text(&asked), code(&list)), ("own: [] []", "m", -32601), "{revision}");
            for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
                assert_eq!(code(&session.ask(4, method, json!({ "taskId": "t" })).await), -32601);
            }
        }
    }
    for (revision, declared) in [
        ("2025-11-25", json!({ "list": {}, "cancel": {}, "requests": { "tools": { "call": {} } } })),
        ("2025-06-18", Value::Null),
    ] {
        let greeting = session::initialize(&server, revision, None).await.json();
        assert_eq!(greeting["result"]["capabilities"]["tasks"], declared);
        assert!(greeting["result"]["capabilities"].get("extensions").is_none());
    }
}

#[tokio::test]
async fn a_task_is_made_at_once_and_its_result_is_that_of_the_call() {
    // Whatever is there at once comes whole, however slow this machine is.
    let whole = [("OUTLAST_STREAMS__JSON_WITHIN_MS", "60000")];
    let server = Server::start_in(&place(""), &["--ephemeral", "--diagnostics"], &whole).await;
    let session = client(&server).await;
    let task = begin(&session, "job", json!({ "n": 2_000, "message": "m" })).await;
    assert_eq!(
        (&task["status"], &task["ttl"], &task["pollInterval"]),
        (&json!("working"), &json!(60_000), &json!(1_000))
    );
    assert_eq!(get(&session, &task).await["status"], "working");
    let result = session.ask("r", "tasks/result", json!({ "taskId": task["taskId"] })).await;
    assert!(text(&result).ends_with("as a task false: m"), "{result}");
    assert_eq!(result["result"]["_meta"][RELATED], json!({ "taskId": task["taskId"] }));
    let done = get(&session, &task).await;
    assert_eq!(done["status"], "completed");
    // Again, and as a whole answer now that it is there.
    let again = session.post(request("s", "tasks/result", json!({ "taskId": task["taskId"] }))).await;
    assert_eq!(again.header("content-type"), Some("application/json"));
    assert_eq!(again.json()["result"], result["result"]);

    let failed = begin(&session, "job_fails", json!({ "n": 0 })).await;
    let result = session.ask("r", "tasks/result", json!({ "taskId": failed["taskId"] })).await;
    assert_eq!(
        (&result["result"]["isError"], &get(&session, &failed).await["status"]),
        (&json!(true), &json!("failed"))
    );
    let broken = begin(&session, "job_breaks", json!({ "n": 0 })).await;
    let result = session.post(request("r", "tasks/result", json!({ "taskId": broken["taskId"] }))).await;
    assert!(
        result.text().contains("\"code\":-32099") && result.text().contains("123456789012345678901234567890")
    );
    assert_eq!(get(&session, &broken).await["status"], "failed");
    let listed = session.ask("l", "tasks/list", json!({})).await["result"]["tasks"].clone();
    let ids = |tasks: &[&Value]| tasks.iter().map(|task| task["taskId"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&listed.as_array().unwrap().iter().collect::<Vec<_>>()), ids(&[&task, &failed, &broken]));
    // Those that another session made are not shown to it.
    assert_eq!(
        client(&server).await.ask("l", "tasks/list", json!({})).await["result"],
        json!({ "tasks": [] })
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let server = hosting().await;
    let session = client(&server).await;
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        for params in [json!({ "taskId": "none" }), json!({}), json!({ "taskId": [] })] {
            assert_eq!(code(&session.ask(1, method, params).await), -32602, "{method}");
        }
    }
    for task in [json!(1), json!({ "ttl": -1 }), json!({ "ttl": "long" })] {
        let params = json!({ "name": "job", "arguments": {}, "task": task });
        assert_eq!(code(&session.ask(2, "tools/call", params).await), -32602);
    }
    for cursor in [json!("page-1"), json!(""), json!(7)] {
        assert_eq!(code(&session.ask(3, "tasks/list", json!({ "cursor": cursor })).await), -32602);
    }
    // Bounds hold whatever is asked for.
    let longest = json!({ "name": "job", "arguments": {}, "task": { "ttl": u64::MAX } });
    let longest = session.ask(4, "tools/call", longest).await["result"]["task"]["ttl"].clone();
    let shortest = json!({ "name": "job", "arguments": {}, "task": { "ttl": 0 } });
    let shortest = session.ask(5, "tools/call", shortest).await["result"]["task"]["ttl"].clone();
    assert!(longest.as_u64().unwrap() <= 86_400_000 && shortest == 10_000, "{longest} {shortest}");
}

#[tokio::test]
async fn lists_have_pages() {
    let server = hosting().await;
    let session = client(&server).await;
    let mut made = Vec::new();
    for _ in 0..51 {
        made.push(begin(&session, "job", json!({ "n": 0 })).await["taskId"].clone());
    }
    let first = session.ask(1, "tasks/list", json!({})).await["result"].clone();
    let second =
        session.ask(2, "tasks/list", json!({ "cursor": first["nextCursor"] })).await["result"].clone();
    let shown = [first["tasks"].as_array().unwrap(), second["tasks"].as_array().unwrap()];
    assert_eq!((shown[0].len(), shown[1].len(), second.get("nextCursor")), (50, 1, None));
    let mut ids: Vec<&Value> = shown.into_iter().flatten().map(|task| &task["taskId"]).collect();
    // Within a millisecond there is no order.
    ids.sort_by_key(|id| id.to_string());
    made.sort_by_key(Value::to_string);
    assert_eq!(ids, made.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cancelled_task_is_cancelled_before_it_is_said_and_the_tool_hears_of_it() {
    let server = hosting().await;
    let session = client(&server).await;
    let task = begin(&session, "job", asking(&json!([[form("first", "a")]]), 0)).await;
    // So it runs there.
    until("a question", || async { get(&session, &task).await["status"] == "input_required" }).await;
    let waiting = session.send(request("r", "tasks/result", json!({ "taskId": task["taskId"] }))).await;
    let cancelled =
        session.ask("c", "tasks/cancel", json!({ "taskId": task["taskId"] })).await["result"].clone();
    assert_eq!((&cancelled["status"], &cancelled["taskId"]), (&json!("cancelled"), &task["taskId"]));
    assert_eq!(get(&session, &task).await, cancelled);
    assert_eq!(code(&session.ask("c", "tasks/cancel", json!({ "taskId": task["taskId"] })).await), -32602);
    assert_eq!(code(&answer_on(waiting).await), -32603);
    until("the cancelled call", || async {
        let counted = session.ask("n", "tools/call", json!({ "name": "cancelled", "arguments": {} })).await;
        text(&counted) == "1"
    })
    .await;
}

/// The answer on a connection, whole or as a stream.
async fn answer_on(mut connection: Connection) -> Value {
    let head = connection.head().await;
    if head.header("content-type") == Some("application/json") {
        return serde_json::from_slice(&connection.body().await).unwrap();
    }
    loop {
        let message = connection.next_message().await.expect("an answer").json();
        if message.get("id").is_some() && message.get("method").is_none() {
            return message;
        }
    }
}

#[tokio::test]
async fn questions_come_where_the_result_is_waited_for_and_follow_who_waits_last() {
    let server = hosting().await;
    let session = client(&server).await;
    let task = begin(&session, "job", asking(&json!([[form("first", "a")]]), 0)).await;
    until("a question", || async { get(&session, &task).await["status"] == "input_required" }).await;
    let wait =
        |id: &'static str| session.stream(request(id, "tasks/result", json!({ "taskId": task["taskId"] })));
    let mut gone = wait("r1").await;
    let first = gone.next_message().await.unwrap().json();
    assert_eq!(
        (&first["method"], &first["params"]["message"]),
        (&json!("elicitation/create"), &json!("first"))
    );
    assert_eq!(first["params"]["_meta"][RELATED], json!({ "taskId": task["taskId"] }));
    drop(gone);
    let mut stream = wait("r2").await;
    let second = stream.next_message().await.unwrap().json();
    assert_ne!(second["id"], first["id"]);
    let respond = |id: &Value, value: &str| {
        json!({ "jsonrpc": "2.0", "id": id, "result": accept("a", value) }).to_string()
    };
    // The question as the one who went had it is not open any more.
    assert_eq!(session.post(respond(&first["id"], "late")).await.status(), 202);
    assert_eq!(session.post(respond(&second["id"], "now")).await.status(), 202);
    let last = stream.next_message().await.unwrap().json();
    assert_eq!(last["id"], "r2");
    assert!(text(&last).contains(&accept("a", "now").to_string()), "{last}");
    assert_eq!(get(&session, &task).await["status"], "completed");
}

#[tokio::test]
async fn a_clients_refusal_is_the_tools_to_handle() {
    let server = hosting().await;
    let session = client(&server).await;
    let task =
        begin(&session, "job", asking(&json!([[["roots/list", {}], ["sampling/createMessage", {}]]]), 0))
            .await;
    let mut stream = session.stream(request("r", "tasks/result", json!({ "taskId": task["taskId"] }))).await;
    let question = stream.next_message().await.unwrap().json();
    assert_eq!(question["method"], "roots/list", "what was not declared is not asked");
    let refusal =
        json!({ "jsonrpc": "2.0", "id": question["id"], "error": { "code": -1, "message": "not today" } });
    session.post(refusal.to_string()).await;
    let last = stream.next_message().await.unwrap().json();
    assert!(text(&last).contains("not today") && text(&last).contains("-32021"), "{last}");
}

#[tokio::test]
async fn news_of_a_task_goes_on_the_sessions_own_stream() {
    let server = hosting().await;
    let own = session::Session::open(&server).await;
    let mut stream = own.stream(None).await;
    let params = json!({
        "name": "job_progress", "arguments": { "n": 30 }, "task": {}, "_meta": { "progressToken": "p" }
    });
    let answer =
        own.post(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params })).await;
    let task = answer.json()["result"]["task"]["taskId"].clone();
    let (mut progress, mut logs) = (Vec::new(), 0);
    loop {
        let message = stream.take(1).await.remove(0);
        let params = &message["params"];
        match message["method"].as_str().unwrap() {
            "notifications/tasks/status" => {
                assert_eq!((&params["taskId"], &params["status"]), (&task, &json!("completed")));
                break;
            }
            "notifications/progress" => {
                assert_eq!(
                    (&params["progressToken"], &params["_meta"][RELATED]["taskId"]),
                    (&json!("p"), &task)
                );
                progress.push(params["progress"].as_u64().unwrap());
            }
            "notifications/message" => {
                assert_eq!(params["_meta"][RELATED]["taskId"], task);
                logs += 1;
            }
            other => assert_eq!(other, "notifications/tools/list_changed"),
        }
    }
    // The newest of each round: it rises.
    assert!(!progress.is_empty() && progress.is_sorted() && logs > 0, "{progress:?} {logs}");
}

#[tokio::test]
async fn a_task_is_found_from_another_session_of_its_principal_and_goes_with_its_own() {
    let server = keeping().await;
    let open = async |token| session::Session::open_as(&server, "2025-11-25", Some(token)).await;
    let (first, second) = (open("Bearer alice").await, open("Bearer alice").await);
    let bob = open("Bearer bob").await;
    let ask = async |session: &session::Session, method: &str, params: Value| {
        session.post(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).await.json()
    };
    let params = json!({ "name": "job", "arguments": { "n": 60_000 }, "task": {} });
    let task = ask(&first, "tools/call", params).await["result"]["task"]["taskId"].clone();
    let id = json!({ "taskId": task });
    assert_eq!(ask(&second, "tasks/get", id.clone()).await["result"]["status"], "working");
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        assert_eq!(code(&ask(&bob, method, id.clone()).await), -32602, "{method}");
    }
    // One store: what a session made, a client of 2026-07-28 sees in its own shape.
    let task = task.as_str().unwrap();
    assert_eq!(Client::of(&server, "alice").get(task).await["status"], "working");
    assert_eq!(code(&Client::of(&server, "bob").cancel(task).await), -32602);
    assert_eq!(first.end().await.status(), 200);
    assert_eq!(code(&ask(&second, "tasks/get", id).await), -32602);
    until("the end of the call", || async { session::figure(&server, "tasks").await == 0 }).await;
}

#[tokio::test]
async fn a_task_outlives_the_connection_that_asked_for_it() {
    let server = hosting().await;
    let session = client(&server).await;
    let params = json!({ "name": "job", "arguments": { "n": 200 }, "task": {} });
    let connection = session.send(request("b", "tools/call", params)).await;
    let status =
        async || session.ask("l", "tasks/list", json!({})).await["result"]["tasks"][0]["status"].clone();
    until("the task", || async { !status().await.is_null() }).await;
    drop(connection);
    until("its end", || async { status().await == "completed" }).await;
    // A cancelled request is none of a task's business.
    session.post(notification("notifications/cancelled", json!({ "requestId": "b" }))).await;
}
