//! SIGHUP, and the command line.

use rustix::process::Signal;
use serde_json::json;

use super::{LATEST, configured, only_legacy, place, run, said, scripted, url_of};
use crate::support::mcp::{Session, call};
use crate::support::peer::{Caller, Request, text};
use crate::support::server::{self, Server};
use crate::support::until;

#[tokio::test]
async fn only_what_changed_is_replaced() {
    let behind = crate::support::mcp::server().await;
    let kept = only_legacy(&behind).await;
    let other = scripted(|request: Request, caller: Caller| async move {
        caller.result(&[], text(request.header("x-who").unwrap_or("nobody"))).await;
    })
    .await;
    let config = |who: &str| {
        format!(
            "{}[servers.two]\nurl = {:?}\nheaders = {{ X-Who = {who:?} }}\n",
            configured(&kept.url(), ""),
            other.url()
        )
    };
    let dir = place(&kept.url(), "");
    std::fs::write(dir.path().join("config.toml"), config("first")).unwrap();
    let front = Server::start_in(&dir, &["--ephemeral"], &[]).await;
    let session = Session::open(&front, LATEST).await;
    let one = run(&session, "one__counter", json!({})).await;
    assert_eq!(one["result"]["structuredContent"]["value"], 1, "{one}");
    assert_eq!(said(&run(&session, "two__act", json!({})).await), "first");

    std::fs::write(dir.path().join("config.toml"), config("second")).unwrap();
    front.signal(Signal::HUP);
    until("the new header", || {
        let session = &session;
        async move { said(&run(session, "two__act", json!({})).await) == "second" }
    })
    .await;
    let one = run(&session, "one__counter", json!({})).await;
    assert_eq!(one["result"]["structuredContent"]["value"], 2, "its session goes on: {one}");
    let opened = kept.count("initialize");

    // An address that is none is refused, and everything stays.
    std::fs::write(dir.path().join("config.toml"), configured("ftp://x", "")).unwrap();
    front.signal(Signal::HUP);
    front.wait_for_log("the new configuration is refused").await;
    assert_eq!(said(&run(&session, "two__act", json!({})).await), "second");
    assert_eq!(kept.count("initialize"), opened);
}

#[tokio::test]
async fn a_server_that_is_taken_out_finishes_its_calls_and_ends_its_sessions() {
    let behind = crate::support::mcp::server().await;
    let peer = only_legacy(&behind).await;
    let dir = place(&peer.url(), "");
    let front = Server::start_in(&dir, &["--ephemeral"], &[]).await;
    let session = Session::open(&front, LATEST).await;
    let mut connection = session.send(call("s", "sleep", json!({ "ms": 700 }))).await;
    crate::support::mcp::until_calls(&behind, 1).await;
    std::fs::write(dir.path().join("config.toml"), "[tools]\ncode = false\n").unwrap();
    front.signal(Signal::HUP);
    assert_eq!(connection.head().await.status, 200);
    let body = String::from_utf8(connection.body().await.to_vec()).unwrap();
    assert!(body.contains("slept 700 ms"), "{body}");
    peer.until("DELETE", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_and_calls_its_tools() {
    let behind = crate::support::mcp::server().await;
    let dir = place(&url_of(&behind), "");
    let outlast = |args: Vec<&'static str>| {
        let dir = std::sync::Arc::clone(&dir);
        tokio::task::spawn_blocking(move || {
            let output = server::run(&mut server::command(dir.path(), &args));
            let said = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(said).unwrap())
        })
    };
    let (code, said) = outlast(vec!["tools", "ls"]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("echo") && said.contains("one"), "{said}");
    let (code, said) = outlast(vec!["tools", "call", "echo", r#"{"message": "over there"}"#]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("over there"), "{said}");
}
