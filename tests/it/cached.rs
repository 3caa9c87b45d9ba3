//! Results that are answered again, as clients and the operator see them; on one instance and on two with one Redis.

mod shared;

use std::fmt::Write as _;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::children::fixture;
use crate::support::mcp::{self, Session};
use crate::support::server::{Server, command, run};
use crate::support::until;

/// Who bears "ann" is ann, who bears "bob" is bob.
const TWO_PRINCIPALS: &str = r#"
[[auth.tokens]]
principal = "ann"
sha256 = "49915e0d7d4b402e3017d010bc1c0e83cac6c797d6c16e66340fe3268693a6a1"
[[auth.tokens]]
principal = "bob"
sha256 = "81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9"
"#;

/// A place with a pool of one child that counts how often it runs.
fn place(tools: &str, more: &str) -> Arc<TempDir> {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    write(&dir, tools, more);
    dir
}

fn write(dir: &TempDir, tools: &str, more: &str) {
    let mut config = format!("{more}\n[tools]\ncode = false\n");
    // Their order in the file does not matter, but top-level keys come first.
    writeln!(
        config,
        "[servers.s]\ncommand = {:?}\nargs = [\"--cached\", \"--catalog\", \"s\"]\nlifetime = \"pool\"\npool_size = 1\ntools = {{ {tools} }}",
        fixture()
    )
    .unwrap();
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
}

async fn server_of(tools: &str) -> Server {
    Server::start_in(&place(tools, ""), &[], &[]).await
}

const TEN_MINUTES: &str = "made = { cache_seconds = 600, tags = [\"numbers\"] }";

/// What the fixture says: which process ran it and how often.
fn said(result: &Value) -> String {
    result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned()
}

fn is_cached(result: &Value) -> bool {
    result["_meta"]["outlast/cached"]["ageMs"].is_u64()
}

async fn made(server: &Server, arguments: Value) -> Value {
    ask(server, "made", arguments).await
}

/// Calls a tool; its result.
async fn ask(server: &Server, tool: &str, arguments: Value) -> Value {
    ask_as(server, None, tool, arguments).await
}

/// [`ask`], of whoever bears this.
async fn ask_as(server: &Server, who: Option<&str>, tool: &str, arguments: Value) -> Value {
    let params = mcp::claimed(json!({ "name": tool, "arguments": arguments }));
    let answer = request_as(server, who, "tools/call", tool, params).await;
    assert!(answer.get("result").is_some(), "{answer}");
    answer["result"].clone()
}

/// A request of whoever bears this, and what is answered: an event, if it took a moment.
async fn request_as(server: &Server, who: Option<&str>, method: &str, name: &str, params: Value) -> Value {
    let bearer = who.map(|who| format!("Bearer {who}"));
    let mut headers = mcp::mirrors(method, Some(name));
    headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
    let text = mcp::post(server, &headers, mcp::request(1, method, params)).await.text();
    let message = text.rsplit("data: ").next().unwrap_or_default().trim();
    serde_json::from_str(message).unwrap_or_else(|_| panic!("{text}"))
}

async fn stats(server: &Server) -> Value {
    server.admin_exchange("GET", "/admin/cache", b"").await.json()
}

#[tokio::test]
async fn a_result_is_answered_again_for_as_long_as_the_configuration_says() {
    let server = server_of(TEN_MINUTES).await;
    let first = made(&server, json!({ "x": 1 })).await;
    assert!(!is_cached(&first), "{first}");
    let again = made(&server, json!({ "x": 1 })).await;
    assert!(is_cached(&again) && said(&again) == said(&first), "{again}");
    assert_eq!(again["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "outlast");
    assert_eq!(again["resultType"], "complete");
    let other = made(&server, json!({ "x": 1.0 })).await;
    assert!(!is_cached(&other) && said(&other) != said(&first), "{other}");

    // A session of another revision has the same one, in its own form.
    let session = Session::open(&server, "2025-11-25").await;
    let legacy = session.ask(1, "tools/call", json!({ "name": "made", "arguments": { "x": 1 } })).await;
    assert!(is_cached(&legacy["result"]) && said(&legacy["result"]) == said(&first), "{legacy}");

    let stats = stats(&server).await;
    assert_eq!((&stats["memory_hits"], &stats["entries"]), (&json!(2), &json!(2)), "{stats}");
    let status = server.admin_exchange("GET", "/admin/status", b"").await.json();
    assert_eq!(status["cache"]["memory_hits"], 2, "{status}");
    until("the metrics", || async {
        let text = server.exchange("GET", "/metrics", &[], b"").await.text();
        text.contains("outlast_cache_hits_total{tier=\"memory\"} 2")
            && text.contains("outlast_cache_entries 2")
    })
    .await;
}

#[tokio::test]
async fn a_result_may_say_itself_for_how_long_it_counts() {
    let server = server_of("slow = { cache_seconds = 0 }").await;
    let ttl = json!({ "message": "\"ttlMs\":600000" });
    let first = made(&server, ttl.clone()).await;
    assert_eq!(first["ttlMs"], 600_000);
    let again = made(&server, ttl).await;
    assert!(is_cached(&again) && said(&again) == said(&first), "{again}");
    assert!(again["ttlMs"].as_u64().unwrap() <= 600_000, "{again}");
    for arguments in [
        json!({}),
        json!({ "message": "\"ttlMs\":0" }),
        json!({ "message": "\"isError\":true,\"ttlMs\":9999" }),
    ] {
        let first = made(&server, arguments.clone()).await;
        let again = made(&server, arguments.clone()).await;
        assert!(!is_cached(&again) && said(&again) != said(&first), "{arguments}: {again}");
    }
    // One that changes something is not spared because its result says so; one for which the operator says never, neither.
    for tool in ["set", "slow"] {
        for _ in 0..2 {
            let answer = ask(&server, tool, json!({ "message": "\"ttlMs\":600000" })).await;
            assert!(!is_cached(&answer), "{answer}");
        }
    }
}

#[tokio::test]
async fn who_wants_a_result_of_now_says_so_in_meta_or_in_a_header() {
    let server = server_of(TEN_MINUTES).await;
    let first = said(&made(&server, json!({})).await);
    let mut params = mcp::claimed(json!({ "name": "made", "arguments": {} }));
    params["_meta"]["outlast/noCache"] = true.into();
    let anew = request_as(&server, None, "tools/call", "made", params).await;
    let second = said(&anew["result"]);
    assert_ne!(first, second, "{anew}");
    assert_eq!(said(&made(&server, json!({})).await), second, "it was left for others");

    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": mcp::claimed(json!({ "name": "made", "arguments": {} })) });
    let mut headers = mcp::mirrors("tools/call", Some("made"));
    headers.push(("Cache-Control", "max-age=0, No-Cache"));
    let anew = mcp::post(&server, &headers, body.to_string()).await.json();
    assert_ne!(said(&anew["result"]), second, "{anew}");
}

#[tokio::test]
async fn principals_do_not_see_each_others_results_unless_they_are_everybodys() {
    let tools = "made = { cache_seconds = 600 }, slow = { cache_seconds = 600, cache_scope = \"public\" }";
    let server = Server::start_in(&place(tools, TWO_PRINCIPALS), &[], &[]).await;
    let ask =
        async |who: &str, tool: &str, arguments: Value| ask_as(&server, Some(who), tool, arguments).await;
    let of_ann = ask("ann", "made", json!({})).await;
    let of_bob = ask("bob", "made", json!({})).await;
    assert!(!is_cached(&of_bob) && said(&of_ann) != said(&of_bob), "{of_bob}");
    assert_eq!(said(&ask("ann", "made", json!({})).await), said(&of_ann));

    let everybodys = ask("ann", "slow", json!({})).await;
    let same = ask("bob", "slow", json!({})).await;
    assert!(is_cached(&same) && said(&same) == said(&everybodys), "{same}");
    let public = json!({ "message": "\"cacheScope\":\"public\"" });
    let everybodys = ask("ann", "made", public.clone()).await;
    assert_eq!(said(&ask("bob", "made", public).await), said(&everybodys));
}

#[tokio::test]
async fn what_stands_under_a_key_is_not_kept_again_after_it_was_voided() {
    let server = server_of(TEN_MINUTES).await;
    let keyed = async || {
        let mut params = mcp::claimed(json!({ "name": "made", "arguments": {} }));
        params["_meta"]["io.outlast/idempotencyKey"] = "k".into();
        said(&request_as(&server, None, "tools/call", "made", params).await["result"])
    };
    let first = keyed().await;
    assert_eq!(said(&made(&server, json!({})).await), first, "it was kept");
    let cleared = server.admin_exchange("DELETE", "/admin/cache", b"").await;
    assert_eq!(cleared.status(), 200, "{}", cleared.text());
    assert_eq!(keyed().await, first, "a key stands for one call");
    let after = made(&server, json!({})).await;
    assert!(!is_cached(&after) && said(&after) != first, "{after}");
}

#[tokio::test]
async fn equal_calls_at_one_moment_run_once() {
    let server = Arc::new(server_of("slow = { cache_seconds = 600 }").await);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { ask(&server, "slow", json!({ "n": 500 })).await })
        })
        .collect();
    let mut all = std::collections::BTreeSet::new();
    for call in calls {
        all.insert(said(&call.await.unwrap()));
    }
    assert_eq!(all.len(), 1, "{all:?}");
}

#[tokio::test]
async fn a_resource_is_read_again_when_it_has_changed_or_its_lists_have() {
    let server = server_of("").await;
    let read = async || {
        let params = mcp::claimed(json!({ "uri": "s://dir/kept" }));
        let answer = request_as(&server, None, "resources/read", "s://dir/kept", params).await;
        let result = answer["result"].clone();
        (result["contents"][0]["text"].as_str().unwrap().to_owned(), is_cached(&result), result)
    };
    let call = async |tool: &str, message: &str| ask(&server, tool, json!({ "message": message })).await;
    // Who wants to know of a resource is told, and so is the cache.
    let session = Session::open(&server, "2025-11-25").await;
    let subscribed = session.ask(2, "resources/subscribe", json!({ "uri": "s://dir/kept" })).await;
    assert!(subscribed.get("result").is_some(), "{subscribed}");
    let (first, ..) = read().await;
    let (again, cached, whole) = read().await;
    assert!(cached && again == first && whole["ttlMs"].as_u64().unwrap() <= 600_000, "{whole}");
    assert_eq!(whole["cacheScope"], "private");
    let mut last = first;
    // The resource itself, one below it, and the lists of its server.
    for (tool, message) in [("touch", "s://dir/kept"), ("touch", "s://dir/kept/below"), ("more", "resources")]
    {
        call(tool, message).await;
        until(&format!("{message} is voided"), || async { read().await.0 != last }).await;
        last = read().await.0;
    }
    call("touch", "s://dir/other").await;
    call("touch", "s://dir/keptor").await;
    assert_eq!(read().await.0, last);
}

#[tokio::test]
async fn a_server_that_says_its_tools_changed_or_is_replaced_is_asked_again() {
    let dir = place(TEN_MINUTES, "");
    let server = Server::start_in(&dir, &[], &[]).await;
    let first = said(&made(&server, json!({})).await);
    assert_eq!(said(&made(&server, json!({})).await), first);
    ask(&server, "change", json!({})).await;
    until("the tools are voided", || async { said(&made(&server, json!({})).await) != first }).await;

    let second = said(&made(&server, json!({})).await);
    write(&dir, "made = { cache_seconds = 600, version = \"2\" }", "");
    server.signal(Signal::HUP);
    until("the server is another one", || async { said(&made(&server, json!({})).await) != second }).await;
    let third = said(&made(&server, json!({})).await);
    assert_ne!(third.split(':').next(), second.split(':').next(), "another process");
}

#[tokio::test]
async fn the_operator_lists_and_clears_what_is_kept() {
    let dir = place(TEN_MINUTES, "");
    let server = Server::start_in(&dir, &[], &[]).await;
    let outlast = |args: &[&str]| {
        let all: Vec<&str> = ["cache"].iter().chain(args).copied().chain(["--data-dir", "data"]).collect();
        let output = run(&mut command(server.dir(), &all));
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(outlast(&["ls"]), "no results\n");
    let labelled = json!({ "message": "\"_meta\":{\"outlast/tags\":[\"of-result\"]}" });
    for arguments in [json!({}), labelled.clone()] {
        made(&server, arguments).await;
    }
    let listed = outlast(&["ls"]);
    assert!(
        listed.lines().count() == 3 && listed.contains("made") && listed.contains("numbers, of-result"),
        "{listed}"
    );
    assert_eq!(outlast(&["ls", "--tag", "of-result"]).lines().count(), 2);
    let json: Value = serde_json::from_str(&outlast(&["stats", "--json"])).unwrap();
    assert_eq!((&json["entries"], &json["kept"]), (&json!(2), &json!(2)));
    assert!(outlast(&["stats"]).contains("2 results"));

    assert_eq!(outlast(&["clear", "--tag", "of-result"]), "1 results in memory were voided\n");
    assert!(is_cached(&made(&server, json!({})).await));
    assert!(!is_cached(&made(&server, labelled).await));
    let another = outlast(&["clear", "--tool", "another"]);
    assert!(
        another.starts_with("0 results in memory were voided\n") && another.contains("no tool \"another\""),
        "{another}"
    );
    assert_eq!(outlast(&["clear", "--tool", "echo"]), "0 results in memory were voided\n");
    assert_eq!(outlast(&["clear", "--tool", "made"]), "2 results in memory were voided\n");
    assert!(!is_cached(&made(&server, json!({})).await));
    assert_eq!(outlast(&["clear"]), "1 results in memory were voided\n");

    let both = run(&mut command(server.dir(), &["cache", "clear", "--tag", "a", "--tool", "b"]));
    assert_eq!(both.status.code(), Some(2));
    drop(server);
    let nobody = run(&mut command(dir.path(), &["cache", "stats", "--data-dir", "data"]));
    let why = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(nobody.status.code() == Some(1) && why.contains("no server runs"), "{why}");
}

#[tokio::test]
async fn without_room_nothing_is_kept() {
    let dir = place(TEN_MINUTES, "");
    let server = Server::start_in(&dir, &[], &[("OUTLAST_TOOLS__CACHE_BYTES", "0")]).await;
    let first = said(&made(&server, json!({})).await);
    let again = made(&server, json!({})).await;
    assert!(!is_cached(&again) && said(&again) != first);
    assert_eq!(stats(&server).await["max_bytes"], 0);
}

#[tokio::test]
async fn a_client_may_take_a_long_result_page_by_page_and_nobody_elses() {
    let dir = place("", TWO_PRINCIPALS);
    let mut server = Server::start_in(&dir, &[], &[]).await;
    let ask = async |server: &Server, who: &str, method: &str, name: &str, params: Value| {
        request_as(server, Some(who), method, name, params).await
    };
    let mut params = mcp::claimed(json!({ "name": "long", "arguments": { "n": 10_000 } }));
    let whole = ask(&server, "ann", "tools/call", "long", params.clone()).await;
    assert_eq!(said(&whole["result"]).len(), 10_000, "unchanged for who does not ask");
    params["_meta"]["outlast/pageBytes"] = 4_096.into();
    let first = ask(&server, "ann", "tools/call", "long", params).await["result"].clone();
    assert_eq!(said(&first).len(), 4_096, "{first}");
    let link = first["content"][2]["uri"].as_str().unwrap().to_owned();
    assert_eq!(first["content"][2]["type"], "resource_link");

    // It outlives the process.
    server.kill();
    server.restart().await;
    let read = async |who: &str, uri: &str| {
        ask(&server, who, "resources/read", uri, mcp::claimed(json!({ "uri": uri }))).await
    };
    let mut text = said(&first);
    let mut next = first["_meta"]["outlast/pages"]["next"].clone();
    while let Some(uri) = next.as_str() {
        let page = read("ann", uri).await["result"].clone();
        text.push_str(page["contents"][0]["text"].as_str().unwrap());
        assert_eq!(page["cacheScope"], "private", "{page}");
        next = page["_meta"]["outlast/pages"]["next"].clone();
    }
    assert_eq!(text, said(&whole["result"]));
    assert_eq!(mcp::code(&read("bob", &link).await), -32602);
    assert_eq!(mcp::code(&read("ann", &format!("{link}?page=9")).await), -32602);
    assert_eq!(mcp::code(&read("ann", "outlast://result/0").await), -32602);
}
