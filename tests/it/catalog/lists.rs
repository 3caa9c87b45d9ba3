//! What is listed, what is read, and what is refused.

use serde_json::{Value, json};

use super::{BIG, LATEST, POOL, column, next_of, run, stream_of};
use crate::children::hosting;
use crate::support::mcp::{LEGACY, Session, claimed, code, initialize, modern, post, request, server};

const LISTS: [(&str, &str, &str); 3] = [
    ("prompts/list", "prompts", "name"),
    ("resources/list", "resources", "uri"),
    ("resources/templates/list", "resourceTemplates", "uriTemplate"),
];

/// A listing in both eras: the same, but for what the newest one adds.
async fn listed(server: &crate::support::server::Server, method: &str) -> (Value, String) {
    let session = Session::open(server, LATEST).await;
    let legacy = session.post(request(1, method, json!({}))).await;
    let alone = modern(server, 1, method, claimed(json!({}))).await.json();
    assert_eq!(alone["result"]["resultType"], "complete");
    assert!(alone["result"]["ttlMs"].is_u64() && alone["result"]["cacheScope"].is_string(), "{alone}");
    let member = LISTS.iter().find(|(known, ..)| *known == method).unwrap().1;
    assert_eq!(legacy.json()["result"][member], alone["result"][member]);
    (legacy.json(), legacy.text())
}

#[tokio::test]
async fn lists_of_two_servers_are_one_and_every_field_stays_what_it_was() {
    let server = hosting(&[("b", POOL, &["--catalog", "b"]), ("a", POOL, &["--catalog", "a"])]).await;
    for ((method, member, key), wanted) in LISTS.into_iter().zip([
        &["a__greet", "b__greet"][..],
        &["shared://doc", "a://one", "b://one"],
        &["a://item/{id}", "b://item/{id}"],
    ]) {
        let (list, text) = listed(&server, method).await;
        assert_eq!(column(&list, member, key), wanted);
        assert!(text.contains(BIG), "{text}");
        if member == "resources" {
            assert_eq!(list["result"][member][0]["name"], "of a");
        }
    }
    let line = server.wait_for_log("has this URI").await;
    assert!(line.contains("shared://doc"), "{line}");
}

#[tokio::test]
async fn what_some_server_has_is_declared_and_what_none_has_is_not_there() {
    let with = hosting(&[("a", POOL, &["--catalog", "a"]), ("plain", POOL, &[])]).await;
    let without = server().await;
    let all = json!({
        "tools": { "listChanged": true }, "logging": {}, "prompts": { "listChanged": true },
        "resources": { "subscribe": true, "listChanged": true }, "completions": {},
    });
    let none = json!({ "tools": { "listChanged": true }, "logging": {} });
    for (server, wanted) in [(&with, all), (&without, none)] {
        for revision in LEGACY {
            let answer = post(server, &[], initialize(revision, json!({}))).await.json();
            let mut wanted = wanted.clone();
            if revision == LATEST {
                wanted["tasks"] =
                    json!({ "list": {}, "cancel": {}, "requests": { "tools": { "call": {} } } });
            }
            assert_eq!(answer["result"]["capabilities"], wanted, "{revision}");
        }
        let mut wanted = wanted;
        wanted["extensions"] = json!({ "io.modelcontextprotocol/tasks": {} });
        let answer = modern(server, 1, "server/discover", claimed(json!({}))).await.json();
        assert_eq!(answer["result"]["capabilities"], wanted);
    }
    let session = Session::open(&without, LATEST).await;
    for method in LISTS.iter().map(|(method, ..)| *method).chain([
        "prompts/get",
        "resources/read",
        "completion/complete",
        "resources/subscribe",
        "resources/unsubscribe",
    ]) {
        let params = json!({ "name": "x", "uri": "x" });
        let answer = session.post(request(1, method, params.clone())).await;
        assert_eq!((answer.status(), code(&answer.json())), (200, -32601), "{method}");
        let answer = modern(&without, 1, method, claimed(params)).await;
        assert_eq!((answer.status(), code(&answer.json())), (404, -32601), "{method}");
    }
    // Streams of changes stand in their place.
    for method in ["resources/subscribe", "resources/unsubscribe"] {
        let answer = modern(&with, 1, method, claimed(json!({ "uri": "shared://doc" }))).await;
        assert_eq!((answer.status(), code(&answer.json())), (404, -32601), "{method}");
    }
}

#[tokio::test]
async fn a_read_goes_to_the_server_that_has_it_with_everything_in_it() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"]), ("b", POOL, &["--catalog", "b"])]).await;
    let session = Session::open(&server, LATEST).await;
    for (uri, by) in [("shared://doc", "a"), ("b://one", "b"), ("b://item/7", "b"), ("a://item/x", "a")] {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{{"x-unknown":{BIG},"uri":"{uri}"}}}}"#
        );
        let answer = session.post(body).await;
        let sent = serde_json::to_string(&format!(r#"{{"x-unknown":{BIG},"uri":"{uri}"}}"#)).unwrap();
        assert!(answer.text().contains(&sent), "{}", answer.text());
        assert!(answer.text().contains(&format!(r#""big":{BIG},"by":"{by}""#)), "{}", answer.text());
        let alone = modern(&server, 1, "resources/read", claimed(json!({ "uri": uri }))).await;
        let answer = alone.json();
        assert_eq!(answer["result"]["by"], by);
        assert_eq!(
            (&answer["result"]["resultType"], &answer["result"]["ttlMs"], &answer["result"]["cacheScope"]),
            (&json!("complete"), &json!(0), &json!("private"))
        );
        assert!(alone.text().contains(&format!(r#""big":{BIG}"#)), "{}", alone.text());
    }
}

#[tokio::test]
async fn a_resource_that_nobody_has_is_refused_with_its_uri_in_each_eras_way() {
    let one = hosting(&[("a", POOL, &["--catalog", "a"])]).await;
    let two = hosting(&[("a", POOL, &["--catalog", "a"]), ("b", POOL, &["--catalog", "b"])]).await;
    // The only server is asked and says so itself; of two nobody is.
    for (server, from_child) in [(&one, true), (&two, false)] {
        let session = Session::open(server, LATEST).await;
        let legacy = session.post(request(1, "resources/read", json!({ "uri": "no://where" }))).await;
        let alone = modern(server, 1, "resources/read", claimed(json!({ "uri": "no://where" }))).await;
        for (answer, wanted) in [(legacy, -32002), (alone, -32602)] {
            let error = answer.json();
            assert_eq!((answer.status(), code(&error)), (200, wanted), "{error}");
            assert_eq!(error["error"]["data"]["uri"], "no://where");
            assert_eq!(answer.text().contains(BIG), from_child, "{}", answer.text());
        }
        for params in
            [json!({}), json!({ "uri": 1 }), json!({ "uri": "" }), json!({ "uri": "x".repeat(5_000) })]
        {
            let answer = session.ask(1, "resources/read", params.clone()).await;
            assert_eq!(code(&answer), -32602, "{params}");
        }
    }
}

#[tokio::test]
async fn a_prompt_is_got_by_its_public_name_and_its_server_sees_its_own() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"]), ("b", POOL, &["--catalog", "b"])]).await;
    let session = Session::open(&server, LATEST).await;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{{"x":{BIG},"name":"b__greet","arguments":{{"name":"b__greet"}}}}}}"#
    );
    let answer = session.post(body).await;
    assert!(answer.text().contains(&format!(r#""big":{BIG}"#)), "{}", answer.text());
    assert_eq!(
        answer.json()["result"]["description"],
        format!(r#"b: {{"x":{BIG},"name":"greet","arguments":{{"name":"b__greet"}}}}"#)
    );
    let alone = modern(&server, 1, "prompts/get", claimed(json!({ "name": "a__greet" }))).await.json();
    assert_eq!(alone["result"]["resultType"], "complete");
    // The envelope is between client and host.
    let said = alone["result"]["description"].as_str().unwrap();
    assert!(said.starts_with("a: ") && !said.contains("io.modelcontextprotocol/"), "{said}");
    for params in [json!({ "name": "greet" }), json!({ "name": "a__none" }), json!({}), json!({ "name": {} })]
    {
        let answer = session.ask(2, "prompts/get", params.clone()).await;
        assert_eq!(code(&answer), -32602, "{params}");
    }
}

#[tokio::test]
async fn a_completion_goes_to_the_server_of_the_prompt_or_of_the_resource() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"]), ("b", POOL, &["--catalog", "b"])]).await;
    let session = Session::open(&server, LATEST).await;
    let argument = json!({ "name": "n", "value": "v" });
    for (reference, own) in [
        (json!({ "type": "ref/prompt", "name": "b__greet" }), r#""name":"greet""#),
        (json!({ "type": "ref/resource", "uri": "b://item/{id}" }), r#""uri":"b://item/{id}""#),
        (json!({ "type": "ref/resource", "uri": "a://one" }), r#""uri":"a://one""#),
    ] {
        let params = json!({ "ref": reference, "argument": argument });
        let answer = session.post(request(1, "completion/complete", params.clone())).await;
        let sent = answer.json()["result"]["completion"]["values"][0].as_str().unwrap().to_owned();
        assert!(sent.contains(own), "{sent}");
        assert!(answer.text().contains(&format!(r#""total":{BIG}"#)), "{}", answer.text());
        let alone = modern(&server, 1, "completion/complete", claimed(params)).await.json();
        assert_eq!(alone["result"]["resultType"], "complete", "{alone}");
    }
    for params in [
        json!({ "ref": { "type": "ref/prompt", "name": "greet" }, "argument": argument }),
        json!({ "ref": { "type": "ref/resource", "uri": "no://where" }, "argument": argument }),
        json!({ "ref": { "type": "ref/tool", "name": "echo" }, "argument": argument }),
        json!({ "ref": { "type": "ref/prompt", "name": "a__greet" } }),
        json!({ "ref": { "type": "ref/prompt", "name": "a__greet" }, "argument": { "name": "n", "value": 1 } }),
        json!({}),
    ] {
        let answer = session.ask(2, "completion/complete", params.clone()).await;
        assert_eq!(code(&answer), -32602, "{params}");
    }
}

#[tokio::test]
async fn a_cursor_that_no_list_gave_out_is_refused() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"])]).await;
    let session = Session::open(&server, LATEST).await;
    for (method, ..) in LISTS {
        for cursor in [json!("page-7"), json!(""), json!("2"), json!(1)] {
            let params = json!({ "cursor": cursor });
            let answer = session.ask(1, method, params.clone()).await;
            assert_eq!(code(&answer), -32602, "{method} {params}");
            let alone = modern(&server, 1, method, claimed(params)).await.json();
            assert_eq!(code(&alone), -32602, "{method}");
        }
    }
}

#[tokio::test]
async fn a_changed_list_is_told_to_sessions_and_then_listed() {
    let server = hosting(&[("a", POOL, &["--catalog", "a"])]).await;
    let session = Session::open(&server, LATEST).await;
    let before = session.ask(1, "prompts/list", json!({})).await;
    assert_eq!(column(&before, "prompts", "name"), ["greet"]);
    let mut stream = stream_of(&server, &session).await;
    run(&server, "more", json!({ "message": "prompts" })).await;
    // The server speaks of one list, and the other is another one, too.
    next_of(&mut stream, "notifications/prompts/list_changed").await;
    next_of(&mut stream, "notifications/resources/list_changed").await;
    let after = session.ask(2, "prompts/list", json!({})).await;
    assert_eq!(column(&after, "prompts", "name"), ["greet", "late"]);

    run(&server, "more", json!({ "message": "resources" })).await;
    next_of(&mut stream, "notifications/resources/list_changed").await;
    let after = session.ask(3, "resources/list", json!({})).await;
    assert_eq!(column(&after, "resources", "uri"), ["shared://doc", "a://one"]);
}
