//! What goes over the wire, revision by revision: a change of it is a change that clients see.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::children::hosting;
use crate::support::http::Answer;
use crate::support::mcp::{
    LEGACY, MODERN, Session, call, claim, claimed, initialize, mirrors, modern, notification, post, request,
    server_with,
};
use crate::support::schema::Schema;

const ASIDE: &[&str] = &["date", "x-request-id", "content-length", "transfer-encoding", "connection"];

/// An answer as text: status, headers that say something, body. Every message is held to its revision's schema.
struct Transcript(String, Schema);

impl Transcript {
    fn of(revision: &str) -> Self {
        Self(String::new(), Schema::of(revision))
    }

    fn add(&mut self, request: &str, answer: &Answer) {
        let sent: Value = serde_json::from_str(request).unwrap();
        check(&mut self.1, sent["method"].as_str().unwrap_or("ping"), answer);
        writeln!(self.0, "--> {}", sent["method"].as_str().unwrap_or("array")).unwrap();
        writeln!(self.0, "<-- {}", answer.status()).unwrap();
        let mut headers: Vec<_> =
            answer.head.headers.iter().filter(|(name, _)| !ASIDE.contains(&name.as_str())).collect();
        headers.sort();
        for (name, value) in headers {
            let value = if name == "mcp-session-id" { "[session]" } else { value };
            writeln!(self.0, "{name}: {value}").unwrap();
        }
        let version = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
        let text = answer.text().replace(&version, "\"version\":\"[version]\"");
        match answer.header("content-type") {
            Some("application/json") => writeln!(self.0, "{}", pretty(&text)).unwrap(),
            _ => {
                let mut ids = 0;
                for line in text.lines() {
                    match line.split_once(':') {
                        Some(("id", _)) => {
                            ids += 1;
                            writeln!(self.0, "id: [event {ids}]").unwrap();
                        }
                        _ => writeln!(self.0, "{line}").unwrap(),
                    }
                }
            }
        }
        self.0.push('\n');
    }
}

/// Holds all messages of an answer to the schema.
fn check(schema: &mut Schema, method: &str, answer: &Answer) {
    match answer.header("content-type") {
        Some("application/json") => schema.check(method, &answer.json()),
        Some("text/event-stream") => {
            for data in answer.text().lines().filter_map(|line| line.strip_prefix("data: ")) {
                if !data.is_empty() {
                    schema.check(method, &serde_json::from_str(data).unwrap());
                }
            }
        }
        _ => assert!(answer.text().is_empty(), "{}", answer.text()),
    }
}

/// With line ends, every field where it was on the wire.
fn pretty(json: &str) -> String {
    let (mut out, mut depth, mut in_string, mut escaped) = (String::new(), 0_usize, false, false);
    let mut all = json.chars().peekable();
    while let Some(c) = all.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '{' | '[' if all.peek().is_some_and(|next| matches!(next, '}' | ']')) => {
                out.push(c);
                out.extend(all.next());
            }
            '{' | '[' => {
                depth += 1;
                out.push(c);
                // What is deeper stays on its line: enough to read a difference by.
                if depth < 5 {
                    out.push('\n');
                    out.push_str(&"  ".repeat(depth));
                }
            }
            '}' | ']' => {
                if depth < 5 {
                    out.push('\n');
                    out.push_str(&"  ".repeat(depth - 1));
                }
                depth -= 1;
                out.push(c);
            }
            ',' if depth < 5 => {
                out.push_str(",\n");
                out.push_str(&"  ".repeat(depth));
            }
            _ => {
                in_string = c == '"';
                out.push(c);
            }
        }
    }
    out
}

/// Without the code tools, which have tests of their own.
const SETTINGS: &[(&str, &str)] = &[("OUTLAST_TOOLS__CODE", "false")];

#[tokio::test]
async fn the_wire_of_every_legacy_revision() {
    let server = server_with(SETTINGS).await;
    for revision in LEGACY {
        let mut transcript = Transcript::of(revision);
        let hello = initialize(revision, json!({ "elicitation": {} }));
        transcript.add(&hello, &post(&server, &[], &hello).await);
        let session = Session::open(&server, revision).await;
        let streaming = json!({ "name": "emit", "arguments": { "count": 2 } });
        for body in [
            notification("notifications/initialized", json!({})),
            request(1, "ping", json!({})),
            request(2, "tools/list", json!({})),
            call(3, "echo", json!({ "message": "hello" })),
            call(4, "counter", json!({ "by": 2 })),
            request(5, "tools/call", streaming),
            call(6, "sleep", json!({})),
            call(7, "no-such-tool", json!({})),
            request(8, "logging/setLevel", json!({ "level": "error" })),
            request(9, "prompts/list", json!({})),
            json!([{ "jsonrpc": "2.0", "id": 10, "method": "ping" }]).to_string(),
        ] {
            transcript.add(&body, &session.post(&body).await);
        }
        insta::assert_snapshot!(format!("wire-{revision}"), transcript.0);
    }
}

#[tokio::test]
async fn the_wire_of_the_modern_revision() {
    let server = server_with(SETTINGS).await;
    let mut transcript = Transcript::of(MODERN);
    let mut meta = claim(json!({ "elicitation": {} }));
    meta["io.modelcontextprotocol/logLevel"] = json!("info");
    let call = |tool: &str, arguments: Value| {
        ("tools/call", json!({ "name": tool, "arguments": arguments, "_meta": meta }))
    };
    for (id, (method, params)) in [
        ("server/discover", json!({ "_meta": meta })),
        ("tools/list", json!({ "_meta": meta })),
        call("echo", json!({ "message": "hello" })),
        call("emit", json!({ "count": 2 })),
        call("ask", json!({ "message": "Who?" })),
        call("sleep", json!({})),
        call("no-such-tool", json!({})),
        ("ping", json!({ "_meta": meta })),
    ]
    .into_iter()
    .enumerate()
    {
        let name = params["name"].as_str().map(ToOwned::to_owned);
        let body = request(id, method, params);
        transcript.add(&body, &post(&server, &mirrors(method, name.as_deref()), &body).await);
    }
    insta::assert_snapshot!(format!("wire-{MODERN}"), transcript.0);
}

/// Blocks of content that not every revision has.
const BLOCKS: &str = r#""result":{"content":[{"type":"audio","data":"AAAA","mimeType":"audio/wav"},{"type":"resource_link","uri":"a:b","name":"n"},{"type":"image","data":"AAAA","mimeType":"image/png"}],"structuredContent":[1]}"#;

/// What to ask a hosted server, and with what.
fn questions() -> Vec<(&'static str, Value)> {
    let reference = json!({ "type": "ref/prompt", "name": "greet" });
    vec![
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("tools/call", json!({ "name": "respond", "arguments": { "message": BLOCKS } })),
        ("tools/call", json!({ "name": "fail", "arguments": {} })),
        ("prompts/get", json!({ "name": "greet" })),
        ("prompts/get", json!({ "name": "none" })),
        ("resources/read", json!({ "uri": "no:where" })),
        (
            "completion/complete",
            json!({ "ref": { "type": "ref/tool" }, "argument": { "name": "n", "value": "" } }),
        ),
        ("completion/complete", json!({ "ref": reference })),
        ("resources/list", json!({ "cursor": "none" })),
    ]
}

/// The fields that the tool with all of them is listed with.
fn rich_fields(list: &Value) -> Vec<String> {
    let tools = list["result"]["tools"].as_array().unwrap();
    let rich = tools.iter().find(|tool| tool["name"] == "rich").unwrap().as_object().unwrap();
    let mut fields: Vec<String> = rich.keys().cloned().collect();
    fields.sort();
    fields
}

#[tokio::test]
async fn what_hosted_servers_say_is_as_the_schema_of_the_clients_revision_says() {
    let server = hosting(&[("one", "lifetime = \"pool\"\n", &["--catalog", "one", "--rich"])]).await;
    let mut rich = Vec::new();
    for revision in LEGACY {
        let mut schema = Schema::of(revision);
        let session = Session::open(&server, revision).await;
        for (method, params) in questions() {
            let answer = session.post(request(1, method, params)).await;
            assert_eq!(answer.status(), 200, "{revision} {method}: {}", answer.text());
            check(&mut schema, method, &answer);
            if method == "tools/list" {
                rich.push(rich_fields(&answer.json()));
            }
        }
        assert_eq!(schema.checked, questions().len());
    }
    let mut schema = Schema::of(MODERN);
    for (method, params) in questions() {
        let answer = modern(&server, 1, method, claimed(params)).await;
        check(&mut schema, method, &answer);
        if method == "tools/list" {
            rich.push(rich_fields(&answer.json()));
        }
    }
    assert_eq!(schema.checked, questions().len());
    let common = ["description", "inputSchema", "name"];
    for (fields, more) in rich.iter().zip([
        &[][..],
        &["annotations"],
        &["annotations", "_meta", "outputSchema", "title"],
        &["annotations", "_meta", "execution", "icons", "outputSchema", "title"],
        &["annotations", "_meta", "icons", "outputSchema", "title"],
    ]) {
        let mut wanted: Vec<&str> = common.iter().chain(more).copied().collect();
        wanted.sort_unstable();
        assert_eq!(*fields, wanted);
    }
}

#[test]
fn the_schemas_refuse_what_is_not_theirs() {
    let answer = json!({ "jsonrpc": "2.0", "id": 1, "result": { "tools": [{ "name": "x" }] } });
    for revision in LEGACY.into_iter().chain([MODERN]) {
        let refused = std::panic::catch_unwind(|| Schema::of(revision).check("tools/list", &answer));
        assert!(refused.is_err(), "{revision}");
    }
}
