//! The processes behind the children: their environment, and that nothing is ever left of them.

use std::path::Path;
use std::sync::Arc;

use outlast::config::{HostedServer, Lifetime};
use outlast::tools::Host;
use secrecy::SecretString;
use tempfile::TempDir;

use crate::support::{bounded, call, fixture, fixture_path, host, is_reaped, pid, run, runs, text, until};

/// A child with a grandchild that ignores SIGTERM, and the file that has its id.
fn with_grandchild(lifetime: Lifetime, more: &[&str]) -> (HostedServer, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let mut args = vec!["--grandchild", file.to_str().unwrap()];
    args.extend(more);
    (fixture(lifetime, &args), directory)
}

async fn grandchild(directory: &Path) -> u32 {
    let file = directory.join("pid");
    let read = || std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    until("the grandchild runs", || read().is_some()).await;
    read().unwrap()
}

#[tokio::test]
async fn close_ends_the_whole_group_even_what_ignores_sigterm() {
    for more in [&[][..], &["--stay"]] {
        let (settings, directory) = with_grandchild(Lifetime::Pool, more);
        let host = host(&settings);
        let child = pid(&*host).await;
        let grandchild = grandchild(directory.path()).await;
        assert!(runs(child) && runs(grandchild));
        bounded(host.close()).await;
        assert!(is_reaped(child), "{more:?}");
        until("the grandchild is gone", || !runs(grandchild)).await;
    }
}

#[tokio::test]
async fn a_child_that_ignores_sigterm_too_is_killed() {
    let mut settings = fixture(Lifetime::Pool, &[]);
    let script = format!("trap '' TERM; exec {} --stay", fixture_path().display());
    settings.command = "sh".into();
    settings.args = vec!["-c".into(), script];
    let host = host(&settings);
    let child = pid(&*host).await;
    bounded(host.close()).await;
    assert!(is_reaped(child));
}

#[tokio::test]
async fn dropping_the_host_kills_the_whole_group_at_once_and_reaps_it() {
    let (settings, directory) = with_grandchild(Lifetime::Pool, &["--stay"]);
    let host = host(&settings);
    let child = pid(&*host).await;
    let grandchild = grandchild(directory.path()).await;
    let waiting = tokio::spawn(host.call("never", call("never", "{}", &Arc::default())));
    tokio::task::yield_now().await;
    drop(host);
    until("all of it is gone", || is_reaped(child) && !runs(grandchild)).await;
    let answer = bounded(waiting).await.unwrap().unwrap();
    assert!(answer.get().contains("isError"), "{}", answer.get());
}

#[tokio::test]
async fn a_child_that_dies_leaves_nothing_of_its_group() {
    let (settings, directory) = with_grandchild(Lifetime::Pool, &[]);
    let host = host(&settings);
    let child = pid(&*host).await;
    let grandchild = grandchild(directory.path()).await;
    run(&*host, "exit", r#"{"n":0,"message":"bye"}"#).await;
    until("all of it is gone", || is_reaped(child) && !runs(grandchild)).await;
    host.close().await;
}

#[tokio::test]
async fn dropped_calls_with_children_of_their_own_leave_none() {
    let (settings, directory) = with_grandchild(Lifetime::Call, &["--stay"]);
    let host = host(&settings);
    for at_once in 0..3 {
        let calls: Vec<_> =
            (0..4).map(|_| tokio::spawn(host.call("never", call("never", "{}", &Arc::default())))).collect();
        if at_once > 0 {
            grandchild(directory.path()).await;
        }
        for call in calls {
            call.abort();
            assert!(bounded(call).await.unwrap_err().is_cancelled());
        }
        until("every place is free again", || host.status().children == 0).await;
    }
    let last = grandchild(directory.path()).await;
    until("the last grandchild is gone", || !runs(last)).await;
}

#[test]
fn the_end_of_the_runtime_ends_the_children() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (settings, directory) = with_grandchild(Lifetime::Pool, &["--stay"]);
    let (host, child, grandchild) = runtime.block_on(async {
        let host = host(&settings);
        let child = pid(&*host).await;
        (host, child, grandchild(directory.path()).await)
    });
    drop(runtime);
    let watch = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    watch.block_on(until("all of it is gone", || !runs(child) && !runs(grandchild)));
    drop(host);
}

#[tokio::test]
async fn a_server_that_is_killed_takes_its_children_along() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let mut server = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::a_server_to_be_killed", "--ignored"])
        .env("PID_FILE", &file)
        .spawn()
        .unwrap();
    let child = grandchild(directory.path()).await;
    assert!(runs(child));
    server.kill().unwrap();
    server.wait().unwrap();
    until("its child is gone", || !runs(child)).await;
}

#[tokio::test]
#[ignore = "run by a_server_that_is_killed_takes_its_children_along, in a process of its own"]
async fn a_server_to_be_killed() {
    let Some(file) = std::env::var_os("PID_FILE") else { return };
    // Only its death ends this child: it does not look at its stdin.
    let host = host(&fixture(Lifetime::Pool, &["--stay"]));
    let child = pid(&*host).await;
    std::fs::write(file, child.to_string()).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_child_lives_on_when_the_thread_of_its_first_call_ends() {
    let host = host(&fixture(Lifetime::Pool, &[]));
    let runtime = tokio::runtime::Handle::current();
    let first = {
        let host = Arc::clone(&host);
        tokio::task::spawn_blocking(move || {
            std::thread::spawn(move || runtime.block_on(pid(&*host))).join().unwrap()
        })
    };
    let first = bounded(first).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(pid(&*host).await, first);
    host.close().await;
}

#[tokio::test]
async fn a_child_sees_the_listed_variables_its_own_and_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = fixture(Lifetime::Pool, &[]);
    settings.env.insert("API_KEY".into(), SecretString::from("k3y"));
    settings.cwd = directory.path().to_owned();
    let host = host(&settings);
    let seen = run(&*host, "env", "{}").await;
    let lines: Vec<&str> = text(&seen).lines().collect();
    let cwd = directory.path().canonicalize().unwrap();
    assert_eq!(lines[0], format!("cwd={}", cwd.display()));
    assert!(lines.contains(&"API_KEY=k3y"));
    assert!(lines.iter().any(|line| line.starts_with("PATH=")));
    let known = ["cwd", "API_KEY", "PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "TERM", "SHELL"];
    for line in &lines {
        let name = line.split('=').next().unwrap();
        assert!(known.contains(&name) || name.starts_with("LC_") || name.starts_with("XDG_"), "{line}");
    }
    host.close().await;
}
