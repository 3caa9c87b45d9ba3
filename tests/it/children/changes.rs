//! What changes while clients are there: the configuration, the process, the child of a session; and what they are told.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fixture, hosting, place};
use crate::support::mcp::{Session, call, text};
use crate::support::server::{Server, command, run};
use crate::support::soon;

const REVISION: &str = "2025-11-25";

fn configure(dir: &TempDir, servers: &[(&str, &str)]) {
    let mut config = String::from("[tools]\ncode = false\nnamespacing = \"always\"\n");
    for (name, settings) in servers {
        config.push_str(&format!("[servers.{name}]\ncommand = {:?}\n{settings}\n", fixture()));
    }
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
}

async fn pid(session: &Session<'_>, tool: &str) -> String {
    text(&session.post(call(1, tool, json!({}))).await.json()).to_owned()
}

async fn names(session: &Session<'_>) -> Vec<String> {
    let list = session.ask(1, "tools/list", json!({})).await;
    let tools = list["result"]["tools"].as_array().unwrap();
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_reload_changes_the_servers_that_changed_and_no_others() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    configure(&dir, &[("a", ""), ("b", ""), ("c", "")]);
    let server = Server::start_in(&dir, &["--ephemeral"], &[]).await;
    let session = Session::open(&server, REVISION).await;
    let (a, b) = (pid(&session, "a__pid").await, pid(&session, "b__pid").await);
    let mut running = session.stream(call("long", "b__sleep", json!({ "n": 1500 }))).await;

    // One stays, one changes while it runs a call, one goes, one comes.
    configure(&dir, &[("a", ""), ("b", "env = { NEW = \"yes\" }"), ("d", "")]);
    server.signal(Signal::HUP);
    server.wait_for_log("hosted servers are as configured now").await;
    soon("the new list", async {
        loop {
            let names = names(&session).await;
            let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
            if has("a__") && has("b__") && !has("c__") && has("d__") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(pid(&session, "a__pid").await, a);
    assert_ne!(pid(&session, "b__pid").await, b);
    let env = session.post(call(2, "b__env", json!({}))).await.json();
    assert!(text(&env).contains("NEW=yes"), "{env}");
    // The call ends in the child in which it began.
    assert_eq!(text(&running.next_message().await.unwrap().json()), "slept 1500");
    let gone = std::path::PathBuf::from(format!("/proc/{b}"));
    soon("the end of the child that was replaced", async {
        while gone.exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;

    // A configuration that is wrong changes nothing.
    configure(&dir, &[("a", "max_children = 0")]);
    server.signal(Signal::HUP);
    server.wait_for_log("the new configuration is refused").await;
    assert_eq!(pid(&session, "a__pid").await, a);
}

async fn until_listed(server: &Server) {
    soon("all servers have listed", async {
        while server.admin_exchange("GET", "/admin/status", b"").await.json()["checks"]["tools"] != "ok" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// The list_changed messages that a session's stream carries up to a message of the test's own.
async fn told(server: &Server, session: &Session<'_>, mark: u64) -> Vec<String> {
    let mut connection = server.connect().await;
    let mut headers = session.headers();
    headers.push(("Accept", "text/event-stream"));
    connection.request("GET", "/mcp", &headers, b"").await;
    let mut seen = Vec::new();
    // The lists have been looked at; what is to be told of them takes a write to the disk.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let message = json!({ "jsonrpc": "2.0", "method": "notifications/test", "params": { "n": mark } });
    let sent = server.admin_exchange("POST", "/admin/broadcast", message.to_string().as_bytes()).await;
    assert_eq!(sent.status(), 200);
    connection.head().await;
    loop {
        let message = soon("a message", connection.next_message()).await.expect("a message").json();
        match message["method"].as_str().unwrap() {
            "notifications/test" if message["params"]["n"] == mark => return seen,
            "notifications/test" => seen.clear(),
            other => seen.push(other.to_owned()),
        }
    }
}

#[tokio::test]
async fn a_restart_is_told_of_only_when_a_list_is_another_one() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    configure(&dir, &[("a", "")]);
    let mut server = Server::start_in(&dir, &[], &[]).await;
    let id = Session::open(&server, REVISION).await.id;
    until_listed(&server).await;
    assert_eq!(told(&server, &Session::known(&server, &id, REVISION), 1).await, Vec::<String>::new());

    server.term().await;
    let mut server = Server::start_in(&dir, &[], &[]).await;
    until_listed(&server).await;
    assert_eq!(told(&server, &Session::known(&server, &id, REVISION), 2).await, Vec::<String>::new());

    server.term().await;
    configure(&dir, &[("a", ""), ("b", "")]);
    let server = Server::start_in(&dir, &[], &[]).await;
    until_listed(&server).await;
    let session = Session::known(&server, &id, REVISION);
    let mut headers = session.headers();
    headers.push(("Accept", "text/event-stream"));
    let mut connection = server.connect().await;
    connection.request("GET", "/mcp", &headers, b"").await;
    connection.head().await;
    loop {
        let message = soon("list_changed", connection.next_message()).await.expect("a message").json();
        match message["method"].as_str().unwrap() {
            // The marks of before.
            "notifications/test" => {}
            other => {
                assert_eq!(other, "notifications/tools/list_changed");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_told_once_that_its_child_was_started_anew() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    configure(&dir, &[("a", "")]);
    let mut server = Server::start_in(&dir, &[], &[]).await;
    let session = Session::open(&server, REVISION).await;
    let anew = async |session: &Session<'_>, n: u64| {
        let said = session.post(call(n, "a__echo", json!({ "message": "m" }))).await.json();
        assert_eq!(text(&said), "m", "{said}");
        said["result"]["_meta"]["outlast/startedAnew"]["server"].clone()
    };
    assert_eq!(anew(&session, 1).await, Value::Null);
    session.post(call(2, "a__exit", json!({ "n": 1 }))).await;
    assert_eq!(anew(&session, 3).await, "a");
    assert_eq!(anew(&session, 4).await, Value::Null);

    // Also when it is another process that starts it.
    let id = session.id.clone();
    server.term().await;
    let server = Server::start_in(&dir, &[], &[]).await;
    let session = Session::known(&server, &id, REVISION);
    assert_eq!(anew(&session, 5).await, "a");
    assert_eq!(anew(&session, 6).await, Value::Null);
    assert_eq!(anew(&Session::open(&server, REVISION).await, 7).await, Value::Null);
}

#[tokio::test]
async fn a_child_of_another_version_has_its_lists_taken_again() {
    for lifetime in ["session", "pool"] {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        // What the server says goes through it, so that another version is there without a reload.
        let edits = dir.path().join("edits");
        std::fs::write(&edits, "").unwrap();
        let script = format!("{:?} | sed -u -f {edits:?}", fixture());
        let config = format!(
            "[tools]\ncode = false\n[servers.a]\ncommand = \"sh\"\nargs = [\"-c\", {script:?}]\nlifetime = {lifetime:?}\npool_size = 1\n"
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let server = Server::start_in(&dir, &["--ephemeral"], &[]).await;
        let session = Session::open(&server, REVISION).await;
        let echo = async |n: u64| {
            let said = session.post(call(n, "echo", json!({ "message": "m" }))).await.json();
            assert_eq!(text(&said), "m", "{lifetime}: {said}");
        };
        echo(1).await;
        std::fs::write(
            &edits,
            "s/\"version\":\"1\"/\"version\":\"2\"/\ns/\"name\":\"burn\"/\"name\":\"burn_anew\"/\n",
        )
        .unwrap();
        session.post(call(2, "exit", json!({ "n": 1 }))).await;
        echo(3).await;
        soon("the list of the other version", async {
            while !names(&session).await.contains(&"burn_anew".to_owned()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn tools_are_listed_with_what_the_configuration_says_of_them_and_left_out_without_what_they_need() {
    let facts = "[servers.a.tools.echo]\nversion = \"2.1\"\nintents = [\"say it again\"]\nneeds = [\"a__pid\"]\n\
                 [servers.a.tools.sleep]\nneeds = [\"b__lock\"]\n[servers.a.tools.poll]\nneeds = [\"a__sleep\"]\n";
    let server = hosting(&[("a", facts, &[])]).await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    configure(&dir, &[("a", facts)]);
    drop(server);
    let server = Server::start_in(&dir, &["--ephemeral"], &[]).await;
    let session = Session::open(&server, REVISION).await;
    let list = session.ask(1, "tools/list", json!({})).await;
    let tools = list["result"]["tools"].as_array().unwrap();
    let find = |name: &str| tools.iter().find(|tool| tool["name"] == name);
    let echo = find("a__echo").unwrap();
    assert_eq!(
        echo["_meta"],
        json!({ "outlast/version": "2.1", "outlast/needs": ["a__pid"], "outlast/intents": ["say it again"] })
    );
    assert!(find("a__pid").unwrap()["_meta"].is_null());
    assert!(find("a__sleep").is_none() && find("a__poll").is_none());
}

/// `outlast tools …` in a directory: its exit code, what it prints, what it complains of.
fn tools(dir: &TempDir, args: &[&str]) -> (Option<i32>, String, String) {
    let all: Vec<&str> =
        ["tools"].into_iter().chain(args.iter().copied()).chain(["--data-dir", "data"]).collect();
    let output = run(&mut command(dir.path(), &all));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_command_line_lists_shows_and_calls_tools_with_a_server_and_without() {
    let dir = place(&[("fix", "", &[])]);
    let server = Server::start_in(&dir, &[], &[]).await;
    let check = |whose: &str| {
        let (code, listed, err) = tools(&dir, &["ls"]);
        assert_eq!(code, Some(0), "{whose}: {err}");
        assert!(
            listed.lines().any(|line| line.starts_with("echo  ") && line.contains("fix")),
            "{whose}: {listed}"
        );
        let (_, listed, _) = tools(&dir, &["ls", "--json"]);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let echo = listed["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == "echo").unwrap();
        assert_eq!((&echo["server"], &echo["version"]), (&json!("fix"), &json!("1")), "{whose}: {echo}");
        let (code, shown, _) = tools(&dir, &["show", "echo", "--json"]);
        assert!(
            code == Some(0) && shown.contains("\"n\":123456789012345678901234567890"),
            "{whose}: {shown}"
        );
        let (code, said, err) = tools(&dir, &["call", "echo", "{\"message\":\"one\\ntwo\"}"]);
        assert_eq!((code, said.as_str()), (Some(0), "one\ntwo\n"), "{whose}: {err}");
        let (code, said, _) = tools(&dir, &["call", "echo", "--arg", "message=x", "--json"]);
        assert_eq!(
            (code, said.as_str()),
            (Some(0), "{\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}\n"),
            "{whose}"
        );
        let (code, said, err) = tools(&dir, &["call", "exit", "{\"n\":3,\"message\":\"bye\"}"]);
        assert!(code == Some(1) && said.contains("bye") && err.contains("failed"), "{whose}: {said} {err}");
        for (args, exit) in [
            (&["call", "nothing"][..], 1),
            (&["show", "nothing"], 1),
            (&["call", "echo", "[]"], 2),
            (&["call", "echo", "--arg", "x"], 2),
            (&["call", "fail"], 2),
        ] {
            let (code, _, err) = tools(&dir, args);
            assert!(code == Some(exit) && err.contains("outlast: "), "{whose}: {args:?}: {code:?} {err}");
        }
    };
    check("a running server");
    drop(server);
    check("nobody");
}
