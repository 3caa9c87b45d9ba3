//! What a child may use, and that only those whose child goes beyond it see an error.

use std::sync::Arc;

use outlast::config::{ChildLimits, HostedServer, Lifetime};
use outlast::tools::Host;
use outlast::tools::child::ChildHost;

use crate::support::{
    InSession as _, bounded, call, failure, fixture, host, pid, run, run_for, runs, session, text, until,
};

fn limited(lifetime: Lifetime, limits: ChildLimits) -> HostedServer {
    HostedServer { limits, ..fixture(lifetime, &[]) }
}

async fn in_session(host: &ChildHost, name: &str, tool: &str, arguments: &str) -> serde_json::Value {
    run_for(host, tool, call(tool, arguments, &Arc::default()).of(&session(name))).await
}

#[tokio::test]
async fn a_child_that_takes_too_much_memory_is_killed_and_only_its_session_sees_an_error() {
    let limits = ChildLimits { memory_bytes: 256 << 20, ..ChildLimits::default() };
    let host = host(&limited(Lifetime::Session, limits));
    let others = text(&in_session(&host, "good", "pid", "{}").await).to_owned();
    let other_call = tokio::spawn(run_owned(Arc::clone(&host), "good", "sleep", r#"{"n":3000}"#));
    // Within the limit is well.
    assert_eq!(text(&in_session(&host, "bad", "eat", r#"{"n":100000000}"#).await), "ate 100663296");
    let result = in_session(&host, "bad", "eat", r#"{"n":2147483648}"#).await;
    let says = failure(&result);
    assert!(says.contains("servers.fix.limits.memory_bytes = 268435456"), "{says}");
    assert_eq!(text(&bounded(other_call).await.unwrap()), "slept 3000");
    assert_eq!(text(&in_session(&host, "good", "pid", "{}").await), others);
    until("its death is counted", || host.status().died == 1 && host.status().children == 1).await;
    assert!(host.status().last_death.unwrap().contains("memory"));
    host.close().await;
}

async fn run_owned(
    host: Arc<ChildHost>,
    name: &'static str,
    tool: &'static str,
    arguments: &'static str,
) -> serde_json::Value {
    in_session(&host, name, tool, arguments).await
}

#[tokio::test]
async fn memory_is_that_of_all_its_processes_and_is_told() {
    let host = host(&fixture(Lifetime::Pool, &[]));
    assert_eq!(text(&run(&*host, "eat", r#"{"n":50000000}"#).await), "ate 50331648");
    until("its memory is seen", || host.status().memory_bytes > 1 << 20).await;
    host.close().await;
    until("it has none any more", || host.status().memory_bytes == 0).await;
}

#[tokio::test]
async fn more_threads_than_it_may_run_end_a_child() {
    let limits = ChildLimits { processes: 30, ..ChildLimits::default() };
    let host = host(&limited(Lifetime::Session, limits));
    assert_eq!(text(&in_session(&host, "a", "threads", r#"{"n":10}"#).await), "10");
    in_session(&host, "a", "threads", r#"{"n":60}"#).await;
    until("it is ended", || host.status().died == 1).await;
    assert_eq!(text(&in_session(&host, "b", "echo", r#"{"message":"m"}"#).await), "m");
    host.close().await;
}

#[tokio::test]
async fn a_child_cannot_open_more_files_than_it_may() {
    let limits = ChildLimits { open_files: 64, ..ChildLimits::default() };
    let host = host(&limited(Lifetime::Pool, limits));
    let opened: u64 = text(&run(&*host, "files", r#"{"n":1000}"#).await).parse().unwrap();
    assert!((40..64).contains(&opened), "{opened}");
    host.close().await;
}

#[tokio::test]
async fn a_child_that_uses_up_its_processor_time_is_ended_with_the_reason() {
    let limits = ChildLimits { cpu_seconds: 1, ..ChildLimits::default() };
    let host = host(&limited(Lifetime::Session, limits));
    let says = failure(&in_session(&host, "a", "burn", "{}").await).to_owned();
    assert!(says.contains("servers.fix.limits.cpu_seconds = 1"), "{says}");
    assert_eq!(text(&in_session(&host, "b", "echo", r#"{"message":"m"}"#).await), "m");
    host.close().await;
}

/// Where this machine lets nobody make control groups, a process that leaves its group cannot be reached, which the
/// documentation says; everywhere else it is ended with the rest.
#[tokio::test]
async fn what_left_the_process_group_is_ended_with_its_control_group() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let host = host(&fixture(Lifetime::Pool, &[]));
    let arguments = serde_json::json!({ "message": file }).to_string();
    let child = pid(&*host).await;
    run(&*host, "escape", &arguments).await;
    until("it runs", || file.exists()).await;
    let escaped: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let group = std::fs::read_to_string(format!("/proc/{child}/cgroup")).unwrap();
    let has_group = group.lines().any(|line| line.starts_with("0::") && line.contains("/outlast-"));
    bounded(host.close()).await;
    if has_group {
        until("it is ended", || !runs(escaped)).await;
    } else {
        let escaped = rustix::process::Pid::from_raw(escaped.try_into().unwrap()).unwrap();
        let _ = rustix::process::kill_process(escaped, rustix::process::Signal::KILL);
    }
}
