//! Connections that carry everything both ways: stdio, and HTTP+SSE of 2024-11-05.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::http::Connection;
use crate::support::mcp::{MODERN, call, initialize, notification, request, server};
use crate::support::server::{Server, command};
use crate::support::soon;

/// `outlast stdio` as its client sees it.
struct Pipes {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    dir: tempfile::TempDir,
}

impl Pipes {
    fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    fn start_with(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut all = vec!["stdio", "--diagnostics"];
        if !args.contains(&"--data-dir") {
            all.extend(["--data-dir", "data"]);
        }
        all.extend(args);
        let mut command = command(dir.path(), &all);
        command.envs(variables.iter().copied());
        let mut child = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output, dir }
    }

    async fn say(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(line.as_bytes()).await.unwrap();
        input.write_all(b"\n").await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let line = soon("a line", self.output.next_line()).await.unwrap().expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a message: {line}"))
    }

    /// The next message that has `id`; what comes before it is returned, too.
    async fn answer(&mut self, id: Value) -> (Vec<Value>, Value) {
        let mut before = Vec::new();
        loop {
            let message = self.hear().await;
            if message["id"] == id && message.get("method").is_none() {
                return (before, message);
            }
            before.push(message);
        }
    }

    async fn begin(&mut self, capabilities: Value) {
        self.say(&initialize("2025-06-18", capabilities)).await;
        assert_eq!(self.answer(json!("init")).await.1["result"]["protocolVersion"], "2025-06-18");
        self.say(&notification("notifications/initialized", json!({}))).await;
    }

    async fn close(mut self) -> Vec<Value> {
        drop(self.input.take());
        let mut rest = Vec::new();
        while let Some(line) = soon("a line", self.output.next_line()).await.unwrap() {
            rest.push(serde_json::from_str(&line).unwrap());
        }
        assert!(soon("the end", self.child.wait()).await.unwrap().success());
        drop(self.dir);
        rest
    }
}

fn modern(id: i64, method: &str, mut params: Value) -> String {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    request(id, method, params)
}

#[tokio::test]
async fn both_eras_are_served_on_one_pair_of_pipes() {
    let mut pipes = Pipes::start(&[]);
    pipes.say(&modern(1, "server/discover", json!({}))).await;
    assert_eq!(pipes.answer(json!(1)).await.1["result"]["supportedVersions"], json!([MODERN]));
    pipes.begin(json!({})).await;
    pipes.say(&call(2, "emit", json!({ "count": 3 }))).await;
    let (before, last) = pipes.answer(json!(2)).await;
    let numbers: Vec<_> = before.iter().map(|message| message["params"]["data"]["n"].clone()).collect();
    assert_eq!(numbers, [json!(1), json!(2), json!(3)], "{before:?}");
    assert!(last["result"]["content"].is_array());
    pipes.say(&modern(3, "tools/call", json!({ "name": "echo", "arguments": { "message": "m" } }))).await;
    let answer = pipes.answer(json!(3)).await.1;
    assert_eq!(
        (&answer["result"]["resultType"], &answer["result"]["content"][0]["text"]),
        (&json!("complete"), &json!("m"))
    );
    assert!(pipes.close().await.is_empty());
}

#[tokio::test]
async fn a_question_is_asked_and_answered_on_the_same_pipes() {
    let mut pipes = Pipes::start(&[]);
    pipes.begin(json!({ "elicitation": {} })).await;
    pipes.say(&call(5, "ask", json!({ "message": "which?" }))).await;
    let question = pipes.hear().await;
    assert_eq!(question["method"], "elicitation/create");
    let result = json!({ "action": "accept", "content": { "answer": "this" } });
    pipes.say(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": result }).to_string()).await;
    assert_eq!(pipes.answer(json!(5)).await.1["result"]["content"][0]["text"], "this");
    pipes.close().await;
}

#[tokio::test]
async fn what_was_asked_before_the_input_ended_is_answered() {
    let mut pipes = Pipes::start(&[]);
    pipes.begin(json!({})).await;
    pipes.say(&call(6, "sleep", json!({ "ms": 300 }))).await;
    let rest = pipes.close().await;
    assert_eq!(rest.last().map(|message| &message["id"]), Some(&json!(6)), "{rest:?}");
}

#[tokio::test]
async fn a_stream_of_changes_does_not_hold_up_the_end() {
    // Longer than a test waits.
    let mut pipes = Pipes::start_with(&[], &[("OUTLAST_SERVER__DRAIN_SECONDS", "3600")]);
    pipes
        .say(&modern(7, "subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } })))
        .await;
    let first = pipes.hear().await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
    pipes.close().await;
}

#[tokio::test]
async fn a_cancelled_request_says_nothing_more_in_either_era() {
    let mut pipes = Pipes::start(&[]);
    pipes.say(&modern(1, "tools/call", json!({ "name": "sleep", "arguments": { "ms": 600_000 } }))).await;
    pipes.say(&notification("notifications/cancelled", json!({ "requestId": 1 }))).await;
    pipes.begin(json!({})).await;
    pipes.say(&call(2, "sleep", json!({ "ms": 600_000 }))).await;
    pipes.say(&notification("notifications/cancelled", json!({ "requestId": 2 }))).await;
    pipes.say(&request(3, "ping", json!({}))).await;
    assert!(pipes.answer(json!(3)).await.0.is_empty());
    assert!(pipes.close().await.is_empty(), "and the end does not wait for them");
}

#[tokio::test]
async fn lines_that_are_no_messages_are_answered_and_harm_nothing() {
    let mut pipes = Pipes::start(&[]);
    for (line, code) in [
        ("garbage", -32_700),
        ("[]", -32_600),
        ("{\"jsonrpc\":\"2.0\"}", -32_600),
        ("{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"tools/list\"}", -32_600),
    ] {
        pipes.say(line).await;
        assert_eq!(pipes.hear().await["error"]["code"], code, "{line}");
    }
    pipes.say("").await;
    pipes.begin(json!({})).await;
    pipes.say(&request(1, "ping", json!({}))).await;
    assert_eq!(pipes.answer(json!(1)).await.1["result"], json!({}));
    pipes.close().await;
}

#[tokio::test]
async fn a_second_process_on_the_directory_serves_from_memory() {
    let mut first = Pipes::start(&[]);
    first.begin(json!({})).await;
    let data = first.dir.path().join("data");
    let mut second = Pipes::start(&["--data-dir", data.to_str().unwrap()]);
    second.begin(json!({})).await;
    second.close().await;
    first.close().await;
}

/// A stream of HTTP+SSE, and where to post.
async fn open_sse(server: &Server) -> (Connection, String) {
    let mut stream = server.connect().await;
    stream.request("GET", "/sse", &[("Accept", "text/event-stream")], b"").await;
    assert_eq!(stream.head().await.status, 200);
    let first = soon("the endpoint", stream.next_event()).await.unwrap();
    assert_eq!(first.event.as_deref(), Some("endpoint"));
    (stream, first.data.unwrap())
}

async fn post(server: &Server, path: &str, body: &str) -> u16 {
    server.exchange("POST", path, &[("Content-Type", "application/json")], body.as_bytes()).await.status()
}

async fn hear(stream: &mut Connection) -> Value {
    let event = soon("a message", stream.next_message()).await.expect("a message");
    assert_eq!(event.event.as_deref(), Some("message"));
    assert_eq!(event.id, None, "there is nothing to resume by");
    event.json()
}

#[tokio::test]
async fn the_stream_of_2024_11_05_names_where_to_post_and_carries_what_comes_of_it() {
    let server = server().await;
    let (mut stream, path) = open_sse(&server).await;
    assert!(path.starts_with("/message?sessionId="), "{path}");
    assert_eq!(post(&server, &path, &initialize("2024-11-05", json!({}))).await, 202);
    assert_eq!(hear(&mut stream).await["result"]["protocolVersion"], "2024-11-05");
    assert_eq!(post(&server, &path, &notification("notifications/initialized", json!({}))).await, 202);
    assert_eq!(post(&server, &path, &call(1, "echo", json!({ "message": "hello" }))).await, 202);
    assert_eq!(hear(&mut stream).await["result"]["content"][0]["text"], "hello");
    // Two streams are two peers.
    let (mut other, other_path) = open_sse(&server).await;
    assert_ne!(path, other_path);
    assert_eq!(post(&server, &other_path, &request(1, "ping", json!({}))).await, 202);
    assert_eq!(hear(&mut other).await["error"]["code"], -32_600, "it has no session yet");
}

#[tokio::test]
async fn posts_without_a_stream_are_refused_and_the_end_of_a_stream_ends_its_session() {
    let server = server().await;
    assert_eq!(post(&server, "/message", "{}").await, 400);
    assert_eq!(post(&server, "/message?sessionId=none", "{}").await, 404);
    let (mut stream, path) = open_sse(&server).await;
    assert_eq!(post(&server, &path, "garbage").await, 400);
    assert_eq!(post(&server, &path, &initialize("2024-11-05", json!({}))).await, 202);
    hear(&mut stream).await;
    drop(stream);
    soon("the end of the peer", async {
        while post(&server, &path, &request(1, "ping", json!({}))).await != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    for (method, path) in [("POST", "/sse"), ("GET", "/message")] {
        assert_eq!(server.exchange(method, path, &[], b"").await.status(), 405);
    }
}
