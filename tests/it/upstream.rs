//! Remote servers behind this one, as its clients see them.

mod auth;
mod bridging;
mod eras;
mod faults;
mod reload;
mod sessions;
mod streams;
mod tasks;
mod ways;

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::mcp::{Session, call, claim, modern};
use crate::support::peer::{self, Peer};
use crate::support::server::Server;

const LATEST: &str = "2025-11-25";

/// A place with a server `one` at this address, and further settings for it.
fn place(url: &str, settings: &str) -> Arc<TempDir> {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("config.toml"), configured(url, settings)).unwrap();
    dir
}

fn configured(url: &str, settings: &str) -> String {
    format!("[tools]\ncode = false\n[servers.one]\nurl = {url:?}\n{settings}\n")
}

/// A server that hosts the remote one at this address.
async fn fronting(url: &str, settings: &str) -> Server {
    Server::start_in(&place(url, settings), &["--ephemeral"], &[]).await
}

/// The address of a server as a remote one.
fn url_of(server: &Server) -> String {
    format!("http://{}/mcp", server.address())
}

/// A server that speaks only the revisions with sessions, in front of one that speaks all.
async fn only_legacy(behind: &Server) -> Peer {
    let address = behind.address();
    Peer::start(move |request, caller| async move {
        if request.asks() == "server/discover" {
            return caller.error(400, -32000, "Bad Request: Server not initialized").await;
        }
        caller.pass_to(address, &request).await;
    })
    .await
}

/// A call of a tool in a session, and its result or error.
async fn run(session: &Session<'_>, tool: &str, arguments: Value) -> Value {
    session.post(call("c", tool, arguments)).await.json()
}

/// A call of a tool that a client of 2026-07-28 makes.
async fn run_modern(server: &Server, tool: &str, arguments: Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments, "_meta": claim(json!({})) });
    modern(server, "m", "tools/call", params).await.json()
}

/// The text of a result.
fn said(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

/// What the operator is shown of the remote server.
async fn status(server: &Server) -> Value {
    let answer = server.admin_exchange("GET", "/admin/servers", b"").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let all = answer.json();
    let servers = all["servers"].as_array().or_else(|| all.as_array()).unwrap_or_else(|| panic!("{all}"));
    servers.iter().find(|server| server["server"] == "one").unwrap_or_else(|| panic!("{all}")).clone()
}

/// A scripted server of the legacy era whose tool answers by `act`.
async fn scripted<F: Future<Output = ()> + Send + 'static>(
    act: impl Fn(peer::Request, peer::Caller) -> F + Send + Sync + 'static,
) -> Peer {
    let act = Arc::new(act);
    Peer::start(move |request, caller| {
        let act = Arc::clone(&act);
        async move {
            if let Some(caller) = peer::legacy(&request, caller).await {
                act(request, caller).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn the_tools_of_a_remote_server_are_listed_and_answer_as_they_do_directly() {
    let behind = crate::support::mcp::server().await;
    let legacy = only_legacy(&behind).await;
    for (url, revision) in [(url_of(&behind), "2026-07-28"), (legacy.url(), LATEST)] {
        let front = fronting(&url, "").await;
        for era in ["2024-11-05", "2025-03-26", "2025-06-18", LATEST] {
            let (here, there) = (Session::open(&front, era).await, Session::open(&behind, era).await);
            // Of tasks that are an extension a list says nothing.
            let listed = async |session: &Session<'_>| {
                let mut list = session.ask(1, "tools/list", json!({})).await["result"]["tools"].take();
                for tool in list.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                    tool.remove("execution");
                }
                list
            };
            assert_eq!(listed(&here).await, listed(&there).await, "{era}");
            for (tool, arguments) in [
                ("echo", json!({ "message": "\u{1F980} é" })),
                ("echo", json!({})),
                ("fill", json!({ "bytes": 70_000 })),
            ] {
                let answer = run(&here, tool, arguments.clone()).await;
                assert_eq!(answer["result"], run(&there, tool, arguments).await["result"], "{era} {tool}");
            }
        }
        let answer = run_modern(&front, "echo", json!({ "message": "x" })).await;
        assert_eq!(answer["result"], run_modern(&behind, "echo", json!({ "message": "x" })).await["result"]);
        let status = status(&front).await;
        assert_eq!(
            (&status["revision"], &status["state"], &status["says_name"]),
            (&json!(revision), &json!("running"), &json!("outlast"))
        );
        assert_eq!(status["remote"]["breaker"], "closed");
    }
}

#[tokio::test]
async fn a_server_of_the_first_revision_is_found_at_its_event_stream() {
    let behind = crate::support::mcp::server().await;
    let url = format!("http://{}/sse", behind.address());
    for settings in ["transport = \"sse\"", ""] {
        let front = fronting(&url, settings).await;
        let session = Session::open(&front, LATEST).await;
        assert_eq!(said(&run(&session, "echo", json!({ "message": "x" })).await), "x");
        let counts = [run(&session, "counter", json!({})).await, run(&session, "counter", json!({})).await];
        assert_eq!(counts[1]["result"]["structuredContent"]["value"], 2, "{counts:?}");
    }
}

#[tokio::test]
async fn progress_comes_with_the_callers_token_and_cancelling_reaches_the_server() {
    let behind = crate::support::mcp::server().await;
    let legacy = only_legacy(&behind).await;
    for url in [url_of(&behind), legacy.url()] {
        let front = fronting(&url, "").await;
        let session = Session::open(&front, LATEST).await;
        let params =
            json!({ "name": "sleep", "arguments": { "ms": 350 }, "_meta": { "progressToken": "mine" } });
        let mut stream = session.stream(crate::support::mcp::request("s", "tools/call", params)).await;
        let first = next_message(&mut stream).await;
        assert_eq!(
            (&first["method"], &first["params"]["progressToken"]),
            (&json!("notifications/progress"), &json!("mine"))
        );
        let last = loop {
            let message = next_message(&mut stream).await;
            if message["id"] == "s" {
                break message;
            }
        };
        assert_eq!(said(&last), "slept 350 ms");

        let _connection = session.send(call("long", "sleep", json!({ "ms": 600_000 }))).await;
        crate::support::mcp::until_calls(&behind, 1).await;
        let cancel =
            crate::support::mcp::notification("notifications/cancelled", json!({ "requestId": "long" }));
        assert_eq!(session.post(cancel).await.status(), 202);
        crate::support::mcp::until_calls(&behind, 0).await;
    }
}

/// The next message of an event stream.
async fn next_message(connection: &mut crate::support::http::Connection) -> Value {
    loop {
        let event = connection.next_event().await.expect("the stream goes on");
        if event.data.as_deref().is_some_and(|data| !data.is_empty()) {
            return event.json();
        }
    }
}

#[tokio::test]
async fn what_stands_beside_tools_is_served_too() {
    let behind = crate::children::hosting(&[("a", "lifetime = \"pool\"", &["--catalog", "a"])]).await;
    let legacy = only_legacy(&behind).await;
    for url in [url_of(&behind), legacy.url()] {
        let front = fronting(&url, "").await;
        let (here, there) = (Session::open(&front, LATEST).await, Session::open(&behind, LATEST).await);
        for (method, params) in [
            ("prompts/list", json!({})),
            ("resources/list", json!({})),
            ("resources/templates/list", json!({})),
        ] {
            let listed = here.ask(1, method, params.clone()).await;
            assert_eq!(listed["result"], there.ask(1, method, params).await["result"], "{method}");
        }
        let resources = there.ask(2, "resources/list", json!({})).await;
        let uri = resources["result"]["resources"][0]["uri"].clone();
        let params = json!({ "uri": uri });
        let read = here.ask(3, "resources/read", params.clone()).await;
        assert_eq!(read["result"], there.ask(3, "resources/read", params).await["result"]);

        // A change of a resource reaches who subscribed to it.
        let answer = here.ask(4, "resources/subscribe", json!({ "uri": "a://one" })).await;
        assert_eq!(answer["result"], json!({}), "{url}: {answer}");
        let mut stream = front.connect().await;
        let mut headers = here.headers();
        headers.push(("Accept", "text/event-stream"));
        stream.request("GET", "/mcp", &headers, b"").await;
        assert_eq!(stream.head().await.status, 200);
        run(&there, "touch", json!({ "message": "a://one" })).await;
        loop {
            let message = next_message(&mut stream).await;
            if message["method"] == "notifications/resources/updated" {
                assert_eq!(message["params"]["uri"], "a://one");
                break;
            }
        }
    }
}
