//! Children that do what they should not: the caller gets a clear error, everybody else goes on.

use std::sync::Arc;
use std::time::Duration;

use outlast::config::Lifetime;
use outlast::tools::child::ChildHost;
use outlast::tools::{Host, LogLevel};
use serde_json::Value;

use crate::support::{
    Client, InSession as _, bounded, call, failure, fixture, host, pid, run, run_for, session, shared, text,
    until,
};

async fn echoes(host: &impl Host) {
    assert_eq!(text(&run(host, "echo", r#"{"message":"well"}"#).await), "well");
}

#[tokio::test]
async fn lines_that_are_no_messages_are_skipped() {
    let host = shared(&["--garbage", "50"]);
    echoes(&*host).await;
    assert_eq!(text(&run(&*host, "garbage", r#"{"n":99}"#).await), "sorry");
    assert_eq!(text(&run(&*host, "garbage", r#"{"n":99}"#).await), "sorry");
    assert_eq!(host.status().died, 0);
    host.close().await;
}

#[tokio::test]
async fn a_program_that_prints_only_garbage_is_ended_with_a_reason() {
    let host = shared(&["--garbage", "5000"]);
    let result = run(&*host, "echo", r#"{"message":"x"}"#).await;
    assert!(failure(&result).contains("it is no MCP server"), "{result}");
    host.close().await;
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named() {
    let mut settings = fixture(Lifetime::Pool, &[]);
    settings.command = "no-such-mcp-server".into();
    let missing = host(&settings);
    let result = run(&*missing, "echo", "{}").await;
    let says = failure(&result);
    assert!(says.contains("\"fix\"") && says.contains("no-such-mcp-server"), "{says}");
    assert_eq!(result["_meta"]["outlast/retrySafe"], true);
    let error = bounded(missing.tools()).await.unwrap_err();
    assert!(error.message.contains("no-such-mcp-server"), "{error}");

    let mut settings = fixture(Lifetime::Pool, &[]);
    settings.command = "/etc/passwd".into();
    let result = run(&*host(&settings), "echo", "{}").await;
    assert!(failure(&result).contains("not an executable file"), "{result}");
}

#[tokio::test]
async fn a_child_that_dies_at_start_is_explained_with_its_last_lines() {
    let host = shared(&["--die"]);
    let result = run(&*host, "echo", "{}").await;
    let says = failure(&result);
    assert!(says.contains("exit status: 3") && says.contains("no licence found"), "{says}");
    host.close().await;
}

#[tokio::test]
async fn a_child_that_dies_in_a_call_is_explained_and_replaced() {
    let host = shared(&[]);
    bounded(host.tools()).await.unwrap();
    let before = pid(&*host).await;
    let result = run(&*host, "exit", r#"{"n":7,"message":"assertion failed: x"}"#).await;
    let says = failure(&result);
    assert!(says.contains("exit status: 7") && says.contains("assertion failed: x"), "{says}");
    assert_eq!(result["_meta"]["outlast/retrySafe"], false);
    assert_ne!(pid(&*host).await, before);
    until("its death is counted", || host.status().died == 1).await;
    host.close().await;
}

#[tokio::test]
async fn all_calls_of_a_child_that_dies_are_answered_and_say_whether_to_repeat_them() {
    let host = shared(&[]);
    bounded(host.tools()).await.unwrap();
    let waiting: Vec<_> =
        (0..5).map(|_| tokio::spawn(host.call("never", call("never", "{}", &Arc::default())))).collect();
    // They run when the child has counted them.
    while text(&run(&*host, "count", "{}").await).parse::<u64>().unwrap() < 6 {}
    run(&*host, "exit", r#"{"n":1,"message":"bye"}"#).await;
    for call in waiting {
        let answer = bounded(call).await.unwrap().unwrap();
        assert!(
            answer.get().contains("exit status: 1") && answer.get().contains(r#""outlast/retrySafe":false"#)
        );
    }
    host.close().await;
}

#[tokio::test]
async fn a_child_that_never_answers_initialize_is_given_up() {
    let mut settings = fixture(Lifetime::Pool, &["--mute"]);
    settings.start_timeout_seconds = 1;
    let host = host(&settings);
    let result = run(&*host, "echo", "{}").await;
    assert!(failure(&result).contains("did not answer `initialize` within 1 s"), "{result}");
    until("nothing is left of it", || host.status().children == 0).await;
}

#[tokio::test]
async fn a_line_beyond_the_cap_ends_the_child_and_only_its_calls() {
    let host = shared(&[]);
    let result = run(&*host, "long", r#"{"n":20971520}"#).await;
    assert!(failure(&result).contains("more than 16777216 bytes"), "{result}");
    let long = run(&*host, "long", r#"{"n":1000000}"#).await;
    assert_eq!(text(&long).len(), 1_000_000);
    host.close().await;
}

#[tokio::test]
async fn a_flood_on_stderr_blocks_nothing() {
    let host = shared(&["--flood"]);
    echoes(&*host).await;
    assert_eq!(text(&run(&*host, "stderr", r#"{"n":5000000}"#).await), "flooded");
    host.close().await;
}

#[tokio::test]
async fn second_and_unknown_answers_are_dropped() {
    let host = shared(&[]);
    for _ in 0..20 {
        assert_eq!(text(&run(&*host, "twice", "{}").await), "first");
        assert_eq!(text(&run(&*host, "unknown", "{}").await), "mine");
    }
    assert_eq!(host.status().died, 0);
    host.close().await;
}

#[tokio::test]
async fn an_answer_that_is_none_fails_its_call_at_once() {
    let host = shared(&[]);
    let error = bounded(host.call("malformed", call("malformed", "{}", &Arc::default()))).await.unwrap_err();
    assert!(error.message.contains("no response"), "{error}");
    echoes(&*host).await;
    host.close().await;
}

#[tokio::test]
async fn a_child_that_closes_a_pipe_and_stays_is_ended() {
    let host = shared(&[]);
    let result = run(&*host, "close_stdout", "{}").await;
    assert!(failure(&result).contains("closed its stdout"), "{result}");
    echoes(&*host).await;

    let stdin = format!("/proc/{}/fd/0", pid(&*host).await);
    let waiting = tokio::spawn(host.call("close_stdin", call("close_stdin", "{}", &Arc::default())));
    until("its stdin is closed", || std::fs::symlink_metadata(&stdin).is_err()).await;
    // Only a line that cannot be written shows it.
    let result = run(&*host, "echo", r#"{"message":"x"}"#).await;
    assert!(text(&result) == "x", "the line was not written, so another child got it: {result}");
    let answer = bounded(waiting).await.unwrap().unwrap();
    assert!(answer.get().contains("closed its stdin"), "{}", answer.get());
    host.close().await;
}

#[tokio::test]
async fn a_crash_loop_is_parked_and_every_call_is_told_why() {
    let host = shared(&["--die"]);
    let mut says = String::new();
    for _ in 0..12 {
        says = failure(&run(&*host, "echo", "{}").await).to_owned();
        if says.contains("died too often") {
            break;
        }
    }
    assert!(says.contains("is not started again for") && says.contains("no licence found"), "{says}");
    let started_before = host.status().died;
    let again = run(&*host, "echo", "{}").await;
    assert!(failure(&again).contains("died too often"), "{again}");
    assert_eq!(host.status().died, started_before);
    assert!(host.status().parked.unwrap().contains("no licence found"));
    host.close().await;
}

#[tokio::test]
async fn a_session_that_crashes_its_child_again_and_again_parks_itself_only() {
    let host = host(&fixture(Lifetime::Session, &[]));
    let (bad, good) = (session("bad"), session("good"));
    let client = Arc::new(Client { level: LogLevel::Emergency, ..Client::default() });
    let mut says = String::new();
    for _ in 0..12 {
        let crash = call("exit", r#"{"n":1,"message":"boom"}"#, &client).of(&bad);
        says = failure(&run_for(&*host, "exit", crash).await).to_owned();
        if says.contains("died too often") {
            break;
        }
        assert!(says.contains("What it kept for this session is lost"), "{says}");
    }
    assert!(says.contains("died too often") && says.contains("boom"), "{says}");
    let result = run_for(&*host, "echo", call("echo", r#"{"message":"fine"}"#, &client).of(&good)).await;
    assert_eq!(text(&result), "fine");
    host.close().await;
}

fn stop(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
}

/// A host whose children have two seconds for a call, and four for a sign of life.
fn hasty(lifetime: Lifetime, pool_size: usize) -> Arc<ChildHost> {
    let mut settings = fixture(lifetime, &[]);
    (settings.pool_size, settings.call_timeout_seconds, settings.start_timeout_seconds) = (pool_size, 2, 2);
    host(&settings)
}

fn is_late(result: &Value) {
    assert!(failure(result).contains("gave no answer"), "{result}");
}

#[tokio::test]
async fn a_child_that_hangs_is_avoided_at_once_and_ended_soon() {
    // Also where the pool has its size: who hangs is none of it.
    for pool_size in [1, 2] {
        let host = hasty(Lifetime::Pool, pool_size);
        let hung = pid(&*host).await;
        stop(hung);
        is_late(&run(&*host, "echo", r#"{"message":"x"}"#).await);
        for _ in 0..5 {
            assert_ne!(pid(&*host).await, hung);
        }
        until("it is ended", || host.status().died == 1).await;
        assert!(host.status().last_death.unwrap().contains("it did not answer any more"));
        echoes(&*host).await;
        host.close().await;
    }
}

#[tokio::test]
async fn a_call_that_asks_has_a_child_of_its_own_while_another_one_hangs() {
    let host = hasty(Lifetime::Pool, 2);
    let hung = pid(&*host).await;
    stop(hung);
    is_late(&run(&*host, "echo", r#"{"message":"x"}"#).await);
    let sleeping = tokio::spawn(host.call("sleep", call("sleep", r#"{"n":1500}"#, &Arc::default())));
    until("it runs", || host.status().calls == 1).await;
    // Beside another call its question would be nobody's, and refused.
    let client = Arc::new(Client { answer: Some(Ok("{}")), ..Client::default() });
    run_for(&*host, "ask", call("ask", r#"{"method":"roots/list"}"#, &client)).await;
    assert_eq!(client.asked.lock().unwrap().len(), 1);
    sleeping.await.unwrap().unwrap();
    host.close().await;
}

#[tokio::test]
async fn a_child_that_is_only_busy_with_calls_that_were_given_up_stays() {
    let host = hasty(Lifetime::Pool, 1);
    let busy = pid(&*host).await;
    // The second one while the first answer to a ping may still be thought to be waited for.
    for _ in 0..2 {
        is_late(&run(&*host, "never", "{}").await);
    }
    // Longer than it is waited for.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((pid(&*host).await, host.status().died), (busy, 0));
    host.close().await;
}

#[tokio::test]
async fn a_sessions_child_that_hangs_is_replaced() {
    let host = hasty(Lifetime::Session, 1);
    let a = session("a");
    let pid = async || -> u32 {
        text(&run_for(&*host, "pid", call("pid", "{}", &Arc::default()).of(&a)).await).parse().unwrap()
    };
    let hung = pid().await;
    stop(hung);
    is_late(&run_for(&*host, "echo", call("echo", "{}", &Arc::default()).of(&a)).await);
    until("it is ended", || !crate::support::runs(hung)).await;
    assert_ne!(pid().await, hung);
    host.close().await;
}
