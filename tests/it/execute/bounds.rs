//! Time, tries and places of calls.

use serde_json::{Value, json};

use super::{call_with, file, hosting, runs};
use crate::support::mcp::{Session, call, text, until_calls};
use crate::support::soon;

fn late(told: &Value, setting: &str) {
    assert_eq!(told["result"]["_meta"]["outlast/timedOut"], true, "{told}");
    assert!(text(told).contains(setting), "{setting} in {told}");
}

#[tokio::test]
async fn a_call_has_the_time_of_its_class_and_its_child_is_told_when_it_is_over() {
    let settings = "short_timeout_seconds = 1\ncall_timeout_seconds = 2";
    let server = hosting(settings, "[servers.fix.tools.sleep]\ntimeout_seconds = 3").await;
    let session = Session::open(&server, "2025-11-25").await;
    let (short, long, own) = tokio::join!(
        async { session.post(call(1, "never", json!({}))).await.json() },
        async { session.post(call(2, "lengthy", json!({}))).await.json() },
        async { session.post(call(3, "sleep", json!({ "n": 1_500 }))).await.json() },
    );
    late(&short, "tools.short_timeout_seconds");
    late(&long, "tools.call_timeout_seconds");
    assert_eq!(text(&own), "slept 1500");
    let cancelled = session.post(call(4, "cancelled", json!({}))).await.json();
    assert_ne!(text(&cancelled), "0", "{cancelled}");
}

#[tokio::test]
async fn progress_renews_the_time_of_a_call_and_not_for_ever() {
    let server = hosting("short_timeout_seconds = 2\ncall_max_seconds = 8", "").await;
    let session = Session::open(&server, "2025-11-25").await;
    let working = |id: u64, n: u64, meta: Value| {
        let body = call_with(id, "working", json!({ "n": n }), meta);
        async { session.post(body).await }
    };
    let token = json!({ "progressToken": "p" });
    let (done, silent, endless) =
        tokio::join!(working(1, 20, token.clone()), working(2, 20, json!({})), working(3, 60, token));
    assert!(done.text().contains("\"done\""), "{}", done.text());
    assert!(silent.text().contains("tools.short_timeout_seconds"), "{}", silent.text());
    assert!(endless.text().contains("tools.call_max_seconds"), "{}", endless.text());
}

#[tokio::test]
async fn a_call_whose_child_died_is_made_again_only_where_its_tool_says_that_it_may_be() {
    let server = hosting("", "").await;
    let session = Session::open(&server, "2025-11-25").await;
    let (safe, not) = (server.dir().join("safe"), server.dir().join("not"));
    let told = session.post(call(1, "flaky", json!({ "message": safe, "n": 2 }))).await.json();
    assert_eq!((text(&told), runs(&safe)), ("3", 3), "{told}");
    let told = session.post(call(2, "rough", json!({ "message": not, "n": 2 }))).await.json();
    assert_eq!((&told["result"]["isError"], runs(&not)), (&json!(true), 1), "{told}");
    assert_eq!(told["result"]["_meta"]["outlast/retrySafe"], false, "{told}");
}

#[tokio::test]
async fn tries_are_counted_by_tool_or_for_all() {
    for (tools, server) in [("retries = 0", ""), ("", "[servers.fix.tools.flaky]\nretries = 0")] {
        let server = hosting(tools, server).await;
        let session = Session::open(&server, "2025-11-25").await;
        let told = session.post(call(1, "flaky", json!({ "message": file(&server), "n": 1 }))).await.json();
        assert_eq!((&told["result"]["isError"], runs(&file(&server))), (&json!(true), 1), "{told}");
    }
}

#[tokio::test]
async fn calls_of_a_tool_wait_for_a_place_and_are_told_when_there_is_none() {
    let server = hosting("queue_seconds = 4", "[servers.fix.tools.sleep]\nmax_concurrent = 1").await;
    let session = Session::open(&server, "2025-11-25").await;
    let sleep = |id: u64, ms: u64| {
        let body = call(id, "sleep", json!({ "n": ms }));
        async { session.post(body).await.json() }
    };
    let (a, b) = tokio::join!(sleep(1, 300), sleep(2, 300));
    assert_eq!((text(&a), text(&b)), ("slept 300", "slept 300"));
    let long = sleep(3, 12_000);
    let refused = async {
        until_calls(&server, 1).await;
        sleep(4, 1).await
    };
    let (long, refused) = tokio::join!(long, refused);
    assert_eq!(text(&long), "slept 12000");
    assert_eq!(refused["error"]["data"], json!({ "reason": "busy", "retryable": true }), "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("max_concurrent"), "{refused}");
    // Other tools are not held up, and a cancelled call gives its place back.
    assert_eq!(text(&sleep(5, 1).await), "slept 1");
}

#[tokio::test]
async fn calls_of_a_principal_have_so_many_places_and_others_have_their_own() {
    let server = hosting("queue_seconds = 0\nmax_concurrent_per_principal = 1", "").await;
    let session = Session::open(&server, "2025-11-25").await;
    let long = session.post(call(1, "sleep", json!({ "n": 6_000 })));
    let refused = async {
        until_calls(&server, 1).await;
        session.post(call(2, "echo", json!({ "message": "m" }))).await.json()
    };
    let (long, refused) = tokio::join!(long, refused);
    assert_eq!(text(&long.json()), "slept 6000");
    assert!(
        refused["error"]["message"].as_str().unwrap().contains("max_concurrent_per_principal"),
        "{refused}"
    );
    assert_eq!(text(&session.post(call(3, "echo", json!({ "message": "m" }))).await.json()), "m");
}

#[tokio::test]
async fn a_tool_of_a_pool_that_never_answers_is_left_alone_for_a_while_and_no_other() {
    let server = hosting("short_timeout_seconds = 1", "").await;
    let session = Session::open(&server, "2025-11-25").await;
    // The first pause is short: where it was over before the call came, once more.
    let told = soon("a call that is refused", async {
        loop {
            let calls = (1..=5).map(|id| session.post(call(id, "never", json!({}))));
            futures_util::future::join_all(calls).await;
            let told = session.post(call(9, "never", json!({}))).await.json();
            if told.get("error").is_some() {
                return told;
            }
        }
    })
    .await;
    let why = told["error"]["message"].as_str().unwrap_or_else(|| panic!("{told}"));
    assert!(why.contains("not called for another") && why.contains("later"), "{told}");
    assert_eq!(told["error"]["data"]["retryable"], true, "{told}");
    assert_eq!(text(&session.post(call(10, "echo", json!({ "message": "m" }))).await.json()), "m");
    // It is tried again by and by.
    crate::support::until("it is called again", || async {
        let told = session.post(call(11, "never", json!({}))).await.json();
        told["result"]["_meta"]["outlast/timedOut"] == true
    })
    .await;
}

#[tokio::test]
async fn calls_that_get_no_answer_shut_out_nobody_who_has_a_child_of_his_own() {
    let server = hosting("short_timeout_seconds = 1", "lifetime = \"session\"").await;
    let (one, other) =
        (Session::open(&server, "2025-11-25").await, Session::open(&server, "2025-11-25").await);
    for _ in 0..2 {
        let calls = (1..=5).map(|id| one.post(call(id, "never", json!({}))));
        futures_util::future::join_all(calls).await;
    }
    assert_eq!(text(&other.post(call(9, "echo", json!({ "message": "m" }))).await.json()), "m");
    assert_eq!(text(&one.post(call(10, "echo", json!({ "message": "m" }))).await.json()), "m");
}
