//! The processes behind hosted servers: none is left when its session or this server is gone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::place;
use crate::support::mcp::{Session, call, text};
use crate::support::server::Server;
use crate::support::soon;

/// A field of `/proc/PID/stat` behind the name: 0 is the state, 2 the process group.
fn stat(pid: u32, field: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(field).map(ToOwned::to_owned)
}

/// One that has ended and waits to be reaped does not run.
fn runs(pid: u32) -> bool {
    stat(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    soon(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A server with a child per session, each with a child of its own that ignores SIGTERM and writes its id to a file.
async fn server() -> (Server, Arc<TempDir>) {
    let dir = place(&[("fix", "lifetime = \"session\"", &["--grandchild", "grandchild"])]);
    // Relative to the children's directory.
    let root = dir.path().to_str().unwrap().to_owned();
    (Server::start_in(&dir, &["--ephemeral", "--root", &root], &[]).await, dir)
}

async fn child_of(session: &Session<'_>) -> u32 {
    text(&session.post(call(1, "pid", json!({}))).await.json()).parse().unwrap()
}

/// The grandchild of this child: the last that wrote its id, once it is of the child's group.
async fn grandchild_of(child: u32, dir: &Path) -> u32 {
    let read = || -> Option<u32> {
        let pid = std::fs::read_to_string(dir.join("grandchild")).ok()?.trim().parse().ok()?;
        (stat(pid, 2)? == child.to_string()).then_some(pid)
    };
    until("the grandchild runs", || read().is_some()).await;
    read().unwrap()
}

#[tokio::test]
async fn the_whole_group_of_a_sessions_child_ends_with_the_session() {
    let (server, dir) = server().await;
    let other = Session::open(&server, "2025-11-25").await;
    let others = child_of(&other).await;
    let session = Session::open(&server, "2025-11-25").await;
    let child = child_of(&session).await;
    let grandchild = grandchild_of(child, dir.path()).await;
    // In the middle of a call.
    let _running = session.stream(call("n", "never", json!({}))).await;
    session.end().await;
    until("the child and its own are gone", || stat(child, 0).is_none() && !runs(grandchild)).await;
    assert!(runs(others));
    assert_eq!(child_of(&other).await, others);
}

#[tokio::test]
async fn sigterm_ends_all_children_and_theirs() {
    let (mut server, dir) = server().await;
    let session = Session::open(&server, "2025-11-25").await;
    let child = child_of(&session).await;
    let grandchild = grandchild_of(child, dir.path()).await;
    let second = child_of(&Session::open(&server, "2025-11-25").await).await;
    assert_eq!(server.term().await.code(), Some(0), "{}", server.logs());
    until("nothing is left", || [child, grandchild, second].into_iter().all(|pid| !runs(pid))).await;
}

#[tokio::test]
async fn a_server_that_is_killed_takes_its_children_along() {
    let (mut server, _dir) = server().await;
    let mut children = Vec::new();
    for _ in 0..3 {
        children.push(child_of(&Session::open(&server, "2025-11-25").await).await);
    }
    server.kill();
    until("no child is left", || children.iter().all(|pid| !runs(*pid))).await;
}
