//! What passes between a client and a hosted server.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{hosting, hosting_by_json};
use crate::support::mcp::{
    Session, call, claim, claimed, code, mirrors, modern, notification, post_on, request, text, until_calls,
};

const BIG: &str = "123456789012345678901234567890";

fn names(list: &Value) -> HashSet<String> {
    let tools = list["result"]["tools"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn tools_of_one_server_have_their_own_names_and_all_of_their_fields() {
    let server = hosting(&[("fix", "", &[])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let answer = session.post(request(1, "tools/list", json!({}))).await;
    let listed = names(&answer.json());
    assert!(listed.contains("echo") && listed.contains("reflect"), "{listed:?}");
    assert!(answer.text().contains(&format!(r#""x-vendor":{{"n":{BIG}}}"#)), "{}", answer.text());
    let said = session.post(call(2, "echo", json!({ "message": "through" }))).await.json();
    assert_eq!(text(&said), "through");
    let alone = modern(&server, 3, "tools/list", claimed(json!({}))).await;
    assert_eq!(names(&alone.json()), listed);
}

#[tokio::test]
async fn fields_that_nobody_knows_pass_both_ways_as_they_were_written() {
    let server = hosting(&[("fix", "", &[])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let params = format!(
        r#"{{"arguments":{{"n":7,"big":{BIG},"f":1.10,"e":1e400,"s":"\u0041\/"}},"name":"reflect","x-unknown":[{BIG},{{}}],"_meta":{{"x/y":{BIG}}}}}"#
    );
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
    let answer = session.post(body).await;
    let sent = serde_json::to_string(&params).unwrap();
    assert!(
        answer.text().contains(&format!(r#""text":{sent}"#)),
        "what the child was sent: {}",
        answer.text()
    );
    assert!(
        answer.text().contains(&format!(r#""big":{BIG},"x-unknown":{{"f":1.10,"e":1e400}}"#)),
        "{}",
        answer.text()
    );
    // Errors too.
    let answer = session.post(call(2, "fail", json!({}))).await;
    let wanted = format!(r#""error":{{"code":-32602,"message":"bad","data":{{"big":{BIG}}}}}"#);
    assert!(answer.text().contains(&wanted), "{}", answer.text());
    // The envelope of a modern request is between its client and this server.
    let meta = claim(json!({})).to_string();
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{{"name":"reflect","arguments":{{"big":{BIG}}},"_meta":{meta}}}}}"#
    );
    let answer = crate::support::mcp::post(&server, &mirrors("tools/call", Some("reflect")), body).await;
    let said = answer.text();
    let sent = format!(r#"\"arguments\":{{\"big\":{BIG}}}"#);
    assert!(said.contains(&sent) && !said.contains("protocolVersion"), "{said}");
    assert!(said.contains(r#""resultType":"complete""#), "{said}");
    assert!(answer.text().contains(r#""x-unknown":{"f":1.10,"e":1e400}"#), "{}", answer.text());
}

#[tokio::test]
async fn two_servers_with_the_same_tools_are_told_apart() {
    for server in [hosting(&[("a", "", &[]), ("b", "", &[])]).await, hosting_by_json(&["a", "b"]).await] {
        let session = Session::open(&server, "2025-11-25").await;
        let listed = names(&session.ask(1, "tools/list", json!({})).await);
        assert!(
            listed.contains("a__echo") && listed.contains("b__echo") && !listed.contains("echo"),
            "{listed:?}"
        );
        let pid = async |tool: &str| text(&session.post(call(2, tool, json!({}))).await.json()).to_owned();
        assert_ne!(pid("a__pid").await, pid("b__pid").await);
        let bare = session.post(call(3, "echo", json!({ "message": "m" }))).await.json();
        assert_eq!(code(&bare), -32602);
    }
}

#[tokio::test]
async fn the_file_of_a_desktop_client_is_taken_with_its_environment() {
    let server = hosting_by_json(&["desk top"]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let said = session.post(call(1, "env", json!({}))).await.json();
    assert!(text(&said).contains("WHO=desk top"), "{said}");
    assert!(!text(&said).contains("RUST_BACKTRACE"), "only what a child needs is inherited: {said}");
}

#[tokio::test]
async fn every_session_has_a_child_of_its_own_and_those_without_share_one() {
    let server = hosting(&[("fix", "lifetime = \"session\"", &[])]).await;
    let (one, two) = (Session::open(&server, "2025-11-25").await, Session::open(&server, "2025-11-25").await);
    let pid =
        async |session: &Session<'_>| text(&session.post(call(1, "pid", json!({}))).await.json()).to_owned();
    let (first, second) = (pid(&one).await, pid(&two).await);
    assert_ne!(first, second);
    assert_eq!((pid(&one).await, pid(&two).await), (first.clone(), second.clone()));
    let alone = async || {
        let params = claimed(json!({ "name": "pid", "arguments": {} }));
        text(&modern(&server, 1, "tools/call", params).await.json()).to_owned()
    };
    let shared = alone().await;
    assert!(shared != first && shared != second);
    assert_eq!(alone().await, shared);
}

#[tokio::test]
async fn progress_and_logs_come_in_order_before_the_answer() {
    let server = hosting(&[("fix", "", &[])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    for token in [json!("caller's"), json!(4)] {
        let params =
            json!({ "name": "progress", "arguments": { "n": 300 }, "_meta": { "progressToken": token } });
        let mut stream = session.stream(request("p", "tools/call", params)).await;
        for done in 1..=300 {
            let message = stream.next_message().await.unwrap().json();
            assert_eq!(message["method"], "notifications/progress", "{message}");
            assert_eq!(
                message["params"],
                json!({ "progressToken": token, "progress": done, "total": 300, "x": 1.0 })
            );
        }
        let end = stream.next_message().await.unwrap().json();
        assert_eq!((&end["id"], text(&end)), (&json!("p"), "done"));
    }
    let mut stream = session.stream(call("l", "log", json!({ "level": "warning", "n": 5 }))).await;
    for n in 1..=5 {
        let message = stream.next_message().await.unwrap().json();
        assert_eq!(message["params"], json!({ "level": "warning", "data": { "n": n } }));
    }
    assert_eq!(stream.next_message().await.unwrap().json()["id"], "l");
    // What the session does not want to hear it does not hear: the end is all there is.
    session.ask(1, "logging/setLevel", json!({ "level": "error" })).await;
    let answer = session.post(call(2, "log", json!({ "level": "warning", "n": 5 }))).await;
    assert!(
        text(&answer.json()) == "done" && !answer.text().contains("notifications/message"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn progress_of_a_modern_call_has_the_callers_token() {
    let server = hosting(&[("fix", "", &[])]).await;
    let mut meta = claim(json!({}));
    meta["progressToken"] = json!("mine");
    let params = json!({ "name": "progress", "arguments": { "n": 3 }, "_meta": meta });
    let mut connection = server.connect().await;
    let body = request(1, "tools/call", params);
    post_on(&mut connection, &mirrors("tools/call", Some("progress")), body).await;
    for done in 1..=3 {
        let message = connection.next_message().await.unwrap().json();
        assert_eq!(
            (&message["params"]["progressToken"], &message["params"]["progress"]),
            (&json!("mine"), &json!(done))
        );
    }
    assert_eq!(connection.next_message().await.unwrap().json()["result"]["resultType"], "complete");
}

#[tokio::test]
async fn a_childs_question_reaches_its_client_and_the_answer_the_child() {
    let server = hosting(&[("fix", "", &[])]).await;
    let can = json!({ "elicitation": {}, "roots": {}, "sampling": {} });
    let session = Session::open_with(&server, "2025-06-18", can).await;
    for method in ["elicitation/create", "roots/list", "sampling/createMessage"] {
        let mut stream = session.stream(call("q", "ask", json!({ "method": method }))).await;
        let event = stream.next_message().await.unwrap();
        let question = event.json();
        assert_eq!(
            (&question["method"], &question["params"]["message"]),
            (&json!(method), &json!("really?"))
        );
        assert!(event.data.unwrap().contains(BIG));
        let answer = format!(r#"{{"action":"accept","big":{BIG}}}"#);
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{answer}}}"#, question["id"]);
        assert_eq!(session.post(body).await.status(), 202);
        assert_eq!(text(&stream.next_message().await.unwrap().json()), answer);
    }
    // A client that cannot be asked is not; the child is told.
    let mute = Session::open(&server, "2025-06-18").await;
    let said = mute.post(call(1, "ask", json!({ "method": "elicitation/create" }))).await.json();
    assert!(text(&said).contains("\"code\":-"), "{said}");
}

#[tokio::test]
async fn cancelling_a_call_cancels_it_in_the_child() {
    let server = hosting(&[("fix", "", &[])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    let mut stream = session.stream(call("n", "never", json!({}))).await;
    session.post(notification("notifications/cancelled", json!({ "requestId": "n" }))).await;
    while stream.next_event().await.is_some() {}
    until_calls(&server, 0).await;
    let said = session.post(call(1, "cancelled", json!({}))).await.json();
    assert_eq!(text(&said), "1");
}

#[tokio::test]
async fn a_new_tool_of_a_child_is_announced_and_listed() {
    let server = hosting(&[("fix", "lifetime = \"pool\"\npool_size = 1", &[])]).await;
    let session = Session::open(&server, "2025-11-25").await;
    assert!(!names(&session.ask(1, "tools/list", json!({})).await).contains("late"));
    let mut headers = session.headers();
    headers.push(("Accept", "text/event-stream"));
    let mut listening = server.connect().await;
    listening.request("GET", "/mcp", &headers, b"").await;
    assert_eq!(listening.head().await.status, 200);
    // The fixture lists it once it has been called.
    session.post(call(2, "change", json!({}))).await;
    // The list that the server itself began with may be announced as well.
    loop {
        let message = listening.next_message().await.unwrap().json();
        assert_eq!(message["method"], "notifications/tools/list_changed");
        if names(&session.ask(3, "tools/list", json!({})).await).contains("late") {
            break;
        }
    }
}

#[tokio::test]
async fn a_list_of_more_than_a_page_is_handed_out_page_by_page() {
    let servers: Vec<(&str, &str, &[&str])> =
        ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| (name, "", &[][..])).into();
    let server = hosting(&servers).await;
    let session = Session::open(&server, "2025-11-25").await;
    let legacy = async |params: Value| session.ask(1, "tools/list", params).await;
    let alone = async |params: Value| modern(&server, 1, "tools/list", claimed(params)).await.json();

    let first = legacy(json!({})).await;
    assert_eq!(names(&first).len(), 200, "a page");
    let cursor = json!({ "cursor": first["result"]["nextCursor"].as_str().expect("a cursor") });
    let second = legacy(cursor.clone()).await;
    assert_eq!(second["result"].get("nextCursor"), None);
    let all: HashSet<String> = names(&first).union(&names(&second)).cloned().collect();
    assert_eq!(all.len(), names(&first).len() + names(&second).len(), "none twice");
    assert_eq!(all.len() % servers.len(), 0, "of each server the same ones");
    // A cursor holds for anybody, and again.
    assert_eq!(legacy(cursor.clone()).await, second);
    let pages = [alone(json!({})).await["result"].clone(), alone(cursor).await["result"].clone()];
    assert_eq!(
        (&pages[0]["tools"], &pages[1]["tools"]),
        (&first["result"]["tools"], &second["result"]["tools"])
    );
    for page in &pages {
        assert!(page["ttlMs"].is_u64() && page["cacheScope"] == "public" && page["resultType"] == "complete");
    }
    let beyond = legacy(json!({ "cursor": "page-2" })).await;
    assert_eq!(code(&beyond), -32602);
}
