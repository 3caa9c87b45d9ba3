//! Calls over plain HTTP: how they are read, what fills them, what is shown and kept of them.

use serde_json::{Value, json};

use super::{API, JWT, call, filled, init, post, refused, server};

#[tokio::test]
async fn every_path_and_every_name_is_the_same_call() {
    let server = server("").await;
    init(&server, "s").await;
    for path in ["/call-tool", "/call_tool", "/tools/call"] {
        for (tool, arguments) in
            [("name", "arguments"), ("tool", "params"), ("tool_name", "args"), ("name", "parameters")]
        {
            let body = json!({ "session_id": "s", tool: "names", arguments: { "question": "q" } });
            let answer = post(&server, path, &[], &body).await;
            assert_eq!(answer.status(), 200, "{}", answer.text());
            assert_eq!(answer.json()["result"]["question"], "q");
        }
    }
}

#[tokio::test]
async fn the_default_answer_has_the_result_and_the_content() {
    let server = server("").await;
    init(&server, "s").await;
    assert_eq!(
        call(&server, "s", "plain", json!({})).await.json(),
        json!({
            "status": "success", "result": "just words", "isError": false,
            "content": [{ "type": "text", "text": "just words" }],
        })
    );
    let structured = call(&server, "s", "structured", json!({})).await.json();
    assert_eq!(structured["result"], json!({ "rows": 3 }));
    assert_eq!(structured["structuredContent"], json!({ "rows": 3 }));
    let analysed = call(&server, "s", "analyze_source_structure", json!({ "sourceId": "96" })).await;
    assert!(analysed.text().contains(r#""sum":12345678901234567890123"#), "{}", analysed.text());
    assert_eq!(analysed.json()["result"]["intermediate"]["sourceStructure"]["columns"], 35);
    let failed = call(&server, "s", "refuse", json!({})).await;
    assert_eq!(refused(&failed, 500), "cannot: [secret]");
    assert_eq!(failed.json()["isError"], true);
}

#[tokio::test]
async fn a_call_without_a_session_stands_alone() {
    let server = server("").await;
    let body = json!({ "name": "names", "arguments": { "question": "alone" } });
    let told = post(&server, "/call-tool", &[], &body).await.json();
    assert_eq!(told["result"]["got"], json!(["question"]), "{told}");
    let leaked = json!({ "name": "refuse", "arguments": { "jwtToken": JWT } });
    assert_eq!(refused(&post(&server, "/call-tool", &[], &leaked).await, 500), "cannot: [secret]");
}

#[tokio::test]
async fn session_values_fill_what_the_caller_leaves_away_and_nothing_else() {
    let server = server("").await;
    init(&server, "s").await;
    assert_eq!(filled(&server, "s").await, ["apiUrl", "jwtToken", "session_id"]);
    // Credentials go to tools that name them, to no other.
    let nothing = call(&server, "s", "nothing", json!({})).await.json();
    assert_eq!(nothing["result"]["got"], json!([]));
    // The caller's value wins; it is kept, unless it is sensitive.
    let own = call(&server, "s", "names", json!({ "jwtToken": "m.i.n.e", "question": "first" })).await.json();
    assert_eq!(
        (&own["result"]["reversed"], &own["result"]["question"]),
        (&json!("e.n.i.m"), &json!("first"))
    );
    let next = call(&server, "s", "names", json!({})).await.json();
    let reversed: String = JWT.chars().rev().collect();
    assert_eq!(
        (&next["result"]["reversed"], &next["result"]["question"]),
        (&json!(reversed), &json!("first"))
    );
    // null is a value, too.
    let null = call(&server, "s", "names", json!({ "question": null })).await.json();
    assert_eq!(null["result"]["question"], "");
    // A result that is a success is kept, credentials in it as well.
    let renewed = call(&server, "s", "renew", json!({})).await.json();
    assert_eq!(renewed["result"], json!({ "status": "success" }));
    let next = call(&server, "s", "names", json!({})).await.json();
    assert_eq!(next["result"]["reversed"], "ereh.nekot.dewener");
}

#[tokio::test]
async fn arguments_that_are_refused_and_nulls_are_not_kept() {
    let server = server("").await;
    init(&server, "s").await;
    call(&server, "s", "names", json!({ "question": "first" })).await;
    refused(&call(&server, "s", "generate_strategy", json!({ "question": "second" })).await, 400);
    let next = call(&server, "s", "names", json!({})).await.json();
    assert_eq!(next["result"]["question"], "first", "{next}");

    // A result that is a success, with null in it.
    let slept = call(&server, "s", "slow", json!({ "ms": null })).await.json();
    assert_eq!(slept["result"], json!({ "status": "success", "slept": null }));
    call(&server, "s", "names", json!({ "sourceId": null })).await;
    assert_eq!(filled(&server, "s").await, ["apiUrl", "jwtToken", "question", "session_id"]);
    let listed = server.admin_exchange("GET", "/admin/sessions", b"").await.json();
    let key = listed["sessions"][0]["key"].as_str().unwrap().to_owned();
    for (name, status) in [("question", 200), ("sourceId", 404), ("slept", 404), ("ms", 404)] {
        let path = format!("/admin/sessions/{key}/values/bridge%2F{name}");
        assert_eq!(server.admin_exchange("GET", &path, b"").await.status(), status, "{name}");
    }
    // One that came with the session fills nothing either.
    let body = json!({ "session_id": "t", "question": null });
    assert_eq!(post(&server, "/init", &[], &body).await.status(), 200);
    assert_eq!(filled(&server, "t").await, ["session_id"]);
}

#[tokio::test]
async fn what_is_sensitive_is_in_no_result() {
    let server = server("").await;
    init(&server, "s").await;
    for headers in [&[][..], &[super::SANDSIV]] {
        let body = json!({ "session_id": "s", "tool": "leak" });
        let told = post(&server, "/call-tool", headers, &body).await;
        assert_eq!(told.status(), 200);
        let text = told.text();
        assert!(!text.contains(JWT) && !text.contains("apiUrl") && !text.contains("jwtToken"), "{text}");
        let told = told.json();
        let result = if headers.is_empty() { &told["result"] } else { &told };
        assert_eq!(result["note"], "called with [secret]");
        // An address by itself is no secret: links are what callers come for.
        assert_eq!(result["link"], format!("{API}/dashboard/1"));
        assert_eq!(result["deep"], json!([{ "n": 1 }]));
    }
}

#[tokio::test]
async fn values_of_calls_side_by_side_are_all_kept() {
    let server = server("").await;
    init(&server, "s").await;
    let bodies: Vec<Value> = (0..20)
        .map(|n| json!({ "session_id": "s", "name": "nothing", "arguments": { format!("value{n}"): n } }))
        .collect();
    let calls = bodies.iter().map(|body| post(&server, "/call-tool", &[], body));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    let listed = server.admin_exchange("GET", "/admin/sessions", b"").await.json();
    let key = listed["sessions"][0]["key"].as_str().unwrap().to_owned();
    let shown = server.admin_exchange("GET", &format!("/admin/sessions/{key}"), b"").await;
    let values: Vec<String> = shown.json()["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value["name"].as_str().unwrap().to_owned())
        .collect();
    for n in 0..20 {
        assert!(values.contains(&format!("bridge/value{n}")), "{values:?}");
    }
    // An operator sees the values, and none that is sensitive.
    assert!(!shown.text().contains(JWT), "{}", shown.text());
    let value =
        server.admin_exchange("GET", &format!("/admin/sessions/{key}/values/bridge%2Fvalue7"), b"").await;
    assert_eq!(value.json()["text"], "7");
    let hidden = format!("/admin/sessions/{key}/values/bridge.secret.jwtToken");
    assert_eq!(server.admin_exchange("GET", &hidden, b"").await.status(), 404);
}

#[tokio::test]
async fn a_result_that_does_not_fit_is_answered_and_what_was_before_it_is_forgotten() {
    let server = server("[sessions]\nmax_bytes = 4096\nmax_value_bytes = 4096").await;
    init(&server, "s").await;
    let small = call(&server, "s", "large", json!({ "bytes": 10 })).await.json();
    assert!(small.get("not_kept").is_none(), "{small}");
    assert!(filled(&server, "s").await.contains(&"blob".to_owned()));
    let large = call(&server, "s", "large", json!({ "bytes": 100_000 })).await.json();
    assert_eq!(large["result"]["blob"].as_str().unwrap().len(), 100_000);
    assert_eq!(large["not_kept"], json!(["blob"]));
    assert!(!filled(&server, "s").await.contains(&"blob".to_owned()));
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_a_call_that_is_kept() {
    let server = server("").await;
    init(&server, "s").await;
    let mut connection = server.connect().await;
    let body = json!({ "session_id": "s", "name": "slow", "arguments": { "ms": 700 } }).to_string();
    connection.request("POST", "/call-tool", &[super::JSON], body.as_bytes()).await;
    crate::support::mcp::until_calls(&server, 1).await;
    drop(connection);
    let listed = server.admin_exchange("GET", "/admin/sessions", b"").await.json();
    let key = listed["sessions"][0]["key"].as_str().unwrap().to_owned();
    crate::support::until("the result is kept", async || {
        let path = format!("/admin/sessions/{key}/values/bridge%2Fslept");
        server.admin_exchange("GET", &path, b"").await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_what_would() {
    let server = server("").await;
    init(&server, "s").await;
    let bodies: &[(&[u8], &str)] = &[
        (b"", "name is missing"),
        (b"{}", "name is missing"),
        (b"[]", "must be a JSON object"),
        (b"{\"name\":", "not JSON"),
        (b"\xff\xfe", "must be a JSON object"),
        (b"{\"name\":\"\xff\"}", "not JSON"),
        (br#"{"name":7}"#, "name: want a string"),
        (br#"{"name":"plain","arguments":[1]}"#, "arguments: want an object"),
        (br#"{"name":"plain","session_id":{}}"#, "session_id: want a string"),
    ];
    for (body, part) in bodies {
        let answer = server.exchange("POST", "/call-tool", &[super::JSON], body).await;
        let said = refused(&answer, 400);
        assert!(said.contains(part), "{part:?} in {said:?}");
    }
    for name in ["a\nb".to_owned(), "x".repeat(257)] {
        let said = refused(&post(&server, "/init", &[], &json!({ "session_id": name })).await, 400);
        assert!(said.contains("session_id: want"), "{said}");
    }
    let said = refused(&call(&server, "s", "no-such-tool", json!({})).await, 404);
    assert!(said.contains("/tools names those there are"), "{said}");
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let body = format!(r#"{{"session_id":"s","name":"nothing","arguments":{{"deep":{deep}}}}}"#);
    let answer = server.exchange("POST", "/call-tool", &[super::JSON], body.as_bytes()).await;
    assert!(answer.status() < 600 && answer.json()["status"].is_string(), "{}", answer.text());
    refused(&post(&server, "/shutdown", &[], &json!({})).await, 400);
    assert_eq!(server.exchange("GET", "/livez", &[], b"").await.status(), 200);
}
