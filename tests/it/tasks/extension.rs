//! Tasks of 2026-07-28.

use serde_json::{Value, json};

use super::{Client, EXTENSION, accept, asking, form, hosting, keeping, keys, said};
use crate::support::mcp::{claim, code, mirrors, post, request, text};
use crate::support::until;

#[tokio::test]
async fn a_client_that_declares_nothing_gets_no_task_and_no_method_of_tasks() {
    let server = hosting().await;
    let client = Client::new(&server);
    let task = client.begin("job", json!({ "n": 60_000 })).await;
    // What 2025-11-25 calls the capability is none here, and neither is something that is no object.
    for none in [json!({}), json!({ "tasks": { "list": {} } }), json!({ "extensions": { EXTENSION: true } })]
    {
        let plain = client.declaring(none);
        for (method, params) in [
            ("tasks/get", json!({ "taskId": task })),
            ("tasks/update", json!({ "taskId": task, "inputResponses": {} })),
            ("tasks/cancel", json!({ "taskId": task })),
            ("tools/call", json!({ "name": "job_must", "arguments": {} })),
            ("tools/call", json!({ "name": "job_own", "arguments": {} })),
        ] {
            let answer = plain.send(method, params).await;
            let body = answer.json();
            assert_eq!((answer.status(), code(&body), &body["id"]), (400, -32021, &json!("a")), "{method}");
            assert_eq!(body["error"]["data"]["requiredCapabilities"]["extensions"][EXTENSION], json!({}));
        }
        let inline = plain.call("job", json!({ "n": 100, "message": "m" })).await;
        assert_eq!(inline["result"]["resultType"], "complete", "{inline}");
        assert!(text(&inline).ends_with("as a task false: m"), "{inline}");
    }
    for method in ["tasks/result", "tasks/list"] {
        let answer = client.send(method, json!({ "taskId": task })).await;
        assert_eq!((answer.status(), code(&answer.json())), (404, -32601), "{method}");
    }
    assert_eq!(client.get(&task).await["status"], "working");
    let discovered = client.ask("server/discover", json!({})).await;
    let capabilities = &discovered["result"]["capabilities"];
    assert_eq!((&capabilities["extensions"][EXTENSION], capabilities.get("tasks")), (&json!({}), None));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_says_why() {
    let server = hosting().await;
    let client = Client::new(&server);
    let task = client.begin("job", json!({ "n": 60_000 })).await;
    let forged = format!("{}{}", &task[..task.len() - 1], if task.ends_with('A') { "B" } else { "A" });
    for id in ["", "nothing", "t1..", &forged, &"x".repeat(500)] {
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let answer = client.send(method, json!({ "taskId": id, "inputResponses": {} })).await;
            assert_eq!((answer.status(), code(&answer.json())), (200, -32602), "{method} {id}");
        }
    }
    for (method, params) in [
        ("tasks/get", json!({})),
        ("tasks/get", json!({ "taskId": 7 })),
        ("tasks/update", json!({ "taskId": task })),
        ("tasks/update", json!({ "taskId": task, "inputResponses": [] })),
    ] {
        let mut params = params;
        params["_meta"] = claim(client.capabilities.clone());
        let headers = mirrors(method, Some(&task));
        let answer = post(&server, &headers, request(1, method, params.clone())).await;
        assert_eq!(code(&answer.json()), -32602, "{method} {params}");
    }
    for (name, status) in [(None, -32020), (Some("t1.other"), -32020)] {
        let params = json!({ "taskId": task, "_meta": claim(client.capabilities.clone()) });
        let answer = post(&server, &mirrors("tasks/get", name), request(1, "tasks/get", params)).await;
        assert_eq!((answer.status(), code(&answer.json())), (400, status), "{name:?}");
    }
}

#[tokio::test]
async fn a_call_that_takes_long_becomes_a_task_and_one_that_does_not_is_answered() {
    let server = hosting().await;
    let client = Client::new(&server);
    // What a client of 2025-11-25 would ask for makes no task of a tool that is none.
    let params = json!({ "name": "echo", "arguments": { "message": "m" }, "task": { "ttl": 1 } });
    assert_eq!(client.ask("tools/call", params).await["result"]["resultType"], "complete");
    let created = client.call("job", json!({ "n": 300, "message": "m" })).await["result"].clone();
    assert_eq!((&created["resultType"], &created["status"]), (&json!("task"), &json!("working")));
    assert_eq!((&created["ttlMs"], &created["pollIntervalMs"]), (&json!(3_600_000), &json!(1_000)));
    for absent in ["task", "ttl", "pollInterval", "result", "error", "inputRequests", "requestState"] {
        assert!(created.get(absent).is_none(), "{created}");
    }
    let id = created["taskId"].as_str().unwrap();
    // At once: it was on the disk before the answer left.
    let working = client.get(id).await;
    assert_eq!((&working["taskId"], &working["createdAt"]), (&created["taskId"], &created["createdAt"]));
    let done = client.until(id, "completed").await;
    assert!(said(&done).ends_with("as a task false: m"), "{done}");
    assert_eq!(done["result"]["resultType"], "complete");
    assert!(done["lastUpdatedAt"].as_str() > done["createdAt"].as_str());
    assert!(done["result"]["_meta"].get(super::RELATED).is_none());

    let failed = client.begin("job_fails", json!({ "n": 2_000 })).await;
    let failed = client.until(&failed, "completed").await;
    assert_eq!((&failed["result"]["isError"], failed.get("error")), (&json!(true), None));
    let broken = client.begin("job_breaks", json!({ "n": 2_000 })).await;
    let broken = client.until(&broken, "failed").await;
    assert_eq!((&broken["error"]["code"], broken.get("result")), (&json!(-32603), None));
    assert_eq!(broken["statusMessage"], "broken");
    let answer = client.send("tasks/get", json!({ "taskId": broken["taskId"] })).await;
    assert!(answer.text().contains("\"big\":123456789012345678901234567890"), "{}", answer.text());
}

#[tokio::test]
async fn a_task_asks_and_is_answered_one_by_one() {
    let server = hosting().await;
    let client = Client::new(&server);
    let rounds = json!([[form("first", "a"), form("second", "b")], [["roots/list", {}]]]);
    let task = client.begin("job", asking(&rounds, 0)).await;
    let asked = client.until(&task, "input_required").await;
    assert_eq!(keys(&asked), ["first", "second"]);
    assert_eq!(asked["inputRequests"]["first"]["method"], "elicitation/create");
    assert!(asked["inputRequests"]["first"]["params"].get("_meta").is_none(), "{asked}");
    // An answer to nothing, and one that is none, change nothing.
    for idle in [
        json!({ "third": accept("a", "x") }),
        json!({ "first": 7 }),
        json!({ "first": accept("b", "x") }),
        json!({}),
    ] {
        let ack = client.update(&task, idle).await;
        assert_eq!(ack["result"]["resultType"], "complete", "{ack}");
        assert_eq!(keys(&client.get(&task).await), ["first", "second"]);
    }
    let ack = client.update(&task, json!({ "first": accept("a", "one"), "third": 1 })).await;
    assert_eq!(ack["result"].as_object().unwrap().keys().collect::<Vec<_>>(), ["_meta", "resultType"]);
    let left = client.get(&task).await;
    assert_eq!((&left["status"], keys(&left)), (&json!("input_required"), vec!["second"]));
    // The first answer counts.
    client.update(&task, json!({ "first": accept("a", "other"), "second": { "action": "decline" } })).await;
    let more = client.until(&task, "input_required").await;
    assert!(!keys(&more).contains(&"first") && !keys(&more).contains(&"second"), "{more}");
    let roots = keys(&more)[0].to_owned();
    client.update(&task, json!({ roots: { "roots": [] } })).await;
    let done = client.until(&task, "completed").await;
    let heard: Value = serde_json::from_str(said(&done).split_once(": ").unwrap().1).unwrap();
    assert_eq!(heard, json!([accept("a", "one"), { "action": "decline" }, { "roots": [] }]));
}

#[tokio::test]
async fn a_client_that_cannot_be_asked_is_not_asked() {
    let server = hosting().await;
    let client = Client::new(&server).declaring(json!({ "extensions": { EXTENSION: {} } }));
    let task = client.begin("job", asking(&json!([[form("first", "a")]]), 2_000)).await;
    let done = client.until(&task, "completed").await;
    assert!(said(&done).contains("-32021"), "{done}");
}

#[tokio::test]
async fn cancelling_reaches_the_tool_and_what_has_ended_stays_as_it_is() {
    let server = hosting().await;
    let client = Client::new(&server);
    let task = client.begin("job", asking(&json!([[form("first", "a")]]), 0)).await;
    client.until(&task, "input_required").await;
    let ack = client.cancel(&task).await;
    assert_eq!(ack["result"].as_object().unwrap().keys().collect::<Vec<_>>(), ["_meta", "resultType"]);
    let cancelled = client.until(&task, "cancelled").await;
    assert!(cancelled.get("result").is_none() && cancelled.get("error").is_none(), "{cancelled}");
    until("the cancelled call", || async { text(&client.call("cancelled", json!({})).await) == "1" }).await;
    for ack in
        [client.cancel(&task).await, client.update(&task, json!({ "first": accept("a", "late") })).await]
    {
        assert_eq!(ack["result"]["resultType"], "complete", "{ack}");
    }
    assert_eq!(client.get(&task).await, cancelled);
    let done = client.begin("job", json!({ "n": 2_000 })).await;
    let done = client.until(&done, "completed").await;
    client.cancel(done["taskId"].as_str().unwrap()).await;
    assert_eq!(client.get(done["taskId"].as_str().unwrap()).await, done);
}

#[tokio::test]
async fn a_task_is_its_principals_alone() {
    let mut server = keeping().await;
    let task = Client::of(&server, "alice").begin("job_again", json!({ "n": 400 })).await;
    for _ in 0..2 {
        let (alice, bob) = (Client::of(&server, "alice"), Client::of(&server, "bob"));
        for (method, params) in [
            ("tasks/get", json!({ "taskId": task })),
            ("tasks/update", json!({ "taskId": task, "inputResponses": {} })),
            ("tasks/cancel", json!({ "taskId": task })),
        ] {
            assert_eq!(code(&bob.ask(method, params).await), -32602, "{method}");
        }
        alice.until(&task, "completed").await;
        // The same when it has to be read from the disk.
        server.kill();
        server.restart().await;
    }
}
