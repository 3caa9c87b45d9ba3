//! `notifications/tasks` on streams of `subscriptions/listen`.

use serde_json::{Value, json};

use super::{Client, EXTENSION, accept, asking, form, hosting, keys, said};
use crate::support::http::Connection;
use crate::support::mcp::{claim, code, mirrors, post, post_on, request};

async fn listen(client: &Client<'_>, tasks: &[&str]) -> Connection {
    let params =
        json!({ "notifications": { "taskIds": tasks }, "_meta": claim(client.capabilities.clone()) });
    let mut connection = client.server.connect().await;
    let body = request("l", "subscriptions/listen", params);
    let head = post_on(&mut connection, &mirrors("subscriptions/listen", None), body).await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"), "{head:?}");
    connection
}

async fn next(connection: &mut Connection) -> Value {
    let message = connection.next_message().await.expect("a message").json();
    assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l", "{message}");
    message
}

#[tokio::test]
async fn a_stream_is_told_where_each_task_stands_as_tasks_get_would_say_it() {
    let server = hosting().await;
    let client = Client::new(&server);
    let done = client.begin("job", json!({ "n": 2_000 })).await;
    client.until(&done, "completed").await;
    let task = client.begin("job", asking(&json!([[form("first", "a")]]), 0)).await;
    let mut stream = listen(&client, &[&done, "t1.none", &task, &done]).await;
    let ack = next(&mut stream).await;
    assert_eq!(ack["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(ack["params"]["notifications"], json!({ "taskIds": [done, task] }));
    let (mut heard, mut ended) = (Vec::new(), Vec::new());
    while ended.len() < 2 {
        let message = next(&mut stream).await;
        assert_eq!(message["method"], "notifications/tasks", "{message}");
        let shown = &message["params"];
        match shown["status"].as_str().unwrap() {
            "completed" => ended.push(message["params"].clone()),
            "input_required" if !keys(shown).is_empty() && shown["taskId"] == *task => {
                client.update(&task, json!({ "first": accept("a", "x") })).await;
            }
            _ => {}
        }
        heard.push(message["params"]["status"].clone());
    }
    assert!(heard.contains(&json!("input_required")), "{heard:?}");
    assert!(said(&ended[1]).contains("\"x\""), "{ended:?}");
    for mut shown in ended {
        let mut asked = client.get(shown["taskId"].as_str().unwrap()).await;
        asked.as_object_mut().unwrap().remove("resultType");
        for value in [&mut shown, &mut asked] {
            value.as_object_mut().unwrap().remove("_meta");
        }
        assert_eq!(shown, asked);
    }
}

#[tokio::test]
async fn listening_to_tasks_needs_the_extension() {
    let server = hosting().await;
    let ask = async |notifications: Value, capabilities: Value| {
        let params = json!({ "notifications": notifications, "_meta": claim(capabilities) });
        post(&server, &mirrors("subscriptions/listen", None), request(1, "subscriptions/listen", params))
            .await
    };
    let refused = ask(json!({ "taskIds": [] }), json!({})).await;
    assert_eq!((refused.status(), code(&refused.json())), (400, -32021));
    let extension = json!({ "extensions": { EXTENSION: {} } });
    for bad in [json!({ "taskIds": 7 }), json!({ "taskIds": [7] }), json!({ "taskIds": vec!["x"; 1_001] })] {
        assert_eq!(code(&ask(bad, extension.clone()).await.json()), -32602);
    }
}

#[tokio::test]
async fn who_does_not_read_is_told_the_newest_and_holds_nobody_up() {
    let server = hosting().await;
    let client = Client::new(&server);
    let mut tasks = Vec::new();
    for _ in 0..8 {
        tasks.push(client.begin("job", json!({ "n": 300, "message": "m".repeat(1 << 20) })).await);
    }
    let ids: Vec<&str> = tasks.iter().map(String::as_str).collect();
    let mut slow = listen(&client, &ids).await;
    let mut quick = listen(&client, &ids).await;
    // More than the kernel holds for a reader that does not read.
    for task in &tasks {
        client.until(task, "completed").await;
    }
    for stream in [&mut quick, &mut slow] {
        let mut ended = std::collections::BTreeSet::new();
        while ended.len() < tasks.len() {
            let message = next(stream).await;
            if message["params"]["status"] == "completed" {
                assert!(said(&message["params"]).len() > 1 << 20);
                assert!(ended.insert(message["params"]["taskId"].to_string()), "told twice");
            }
        }
    }
}
