//! Calls through a child that behaves: what goes in and comes out is what was meant.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outlast::config::{Lifetime, Namespacing};
use outlast::rpc::error::RpcError;
use outlast::tools::registry::{Registry, Source};
use outlast::tools::{Host, LogLevel};
use serde_json::{Value, json};

use crate::support::{
    Client, InSession as _, bounded, call, failure, fixture, host, run, run_for, session, shared, text,
    until, with_params,
};

#[tokio::test]
async fn a_call_comes_back_through_a_child() {
    let host = shared(&[]);
    let result = run(&*host, "echo", r#"{"message":"line\nend \u00e9 😀"}"#).await;
    assert_eq!(text(&result), "line\nend é 😀");
    host.close().await;
}

#[tokio::test]
async fn big_integers_and_unknown_fields_pass_unchanged_both_ways() {
    let host = shared(&[]);
    let params = concat!(
        r#"{"arguments":{"big":123456789012345678901234567890,"f":1.10,"#,
        r#""deep":[{"u":"\u00e9"}]},"name":"fix__reflect","task":{"ttl":1},"x":[1E5],"#,
        r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","mine":1.0}}"#
    );
    let answer =
        bounded(host.call("reflect", with_params(params, &Arc::default()))).await.unwrap().get().to_owned();
    assert!(
        answer.ends_with(r#""big":123456789012345678901234567890,"x-unknown":{"f":1.10,"e":1e400}}"#),
        "{answer}"
    );
    let seen: Value = serde_json::from_str(answer.replace("1e400", "1").as_str()).unwrap();
    assert_eq!(
        text(&seen),
        params
            .replace("fix__reflect", "reflect")
            .replace(r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#, "")
    );
    host.close().await;
}

#[tokio::test]
async fn parameters_over_several_lines_reach_the_child_as_one_message() {
    let host = shared(&[]);
    let params = "{\r\n \"name\": \"echo\",\n \"arguments\": {\n  \"message\": \"a\\nb\"\n }\n}";
    assert_eq!(text(&run_for(&*host, "echo", with_params(params, &Arc::default())).await), "a\nb");
    host.close().await;
}

#[tokio::test]
async fn the_childs_own_error_comes_with_its_code_and_data() {
    let host = shared(&[]);
    let error = bounded(host.call("fail", call("fail", "{}", &Arc::default()))).await.unwrap_err();
    assert_eq!((error.code, &*error.message), (-32602, "bad"));
    assert_eq!(error.data.unwrap().get(), r#"{"big":123456789012345678901234567890}"#);
    host.close().await;
}

#[tokio::test]
async fn progress_comes_in_order_with_the_callers_own_token_and_before_the_answer() {
    let host = shared(&[]);
    let each = ["\"mine\"", "7", "12345678901234567890"].map(|token| {
        let client = Arc::new(Client::default());
        let params =
            format!(r#"{{"name":"progress","arguments":{{"n":200}},"_meta":{{"progressToken":{token}}}}}"#);
        let mut call = with_params(&params, &client);
        call.progress_token = Some(crate::support::raw(token));
        let host = Arc::clone(&host);
        async move {
            run_for(&*host, "progress", call).await;
            let texts = client.texts.lock().unwrap().clone();
            let expected: Vec<String> = (1..=200)
                .map(|done| {
                    format!(
                        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{done},"total":200,"x":1.0}}}}"#
                    )
                })
                .collect();
            assert_eq!(texts, expected);
        }
    });
    futures_util::future::join_all(each).await;
    host.close().await;
}

#[tokio::test]
async fn without_a_token_the_child_gets_none() {
    let host = shared(&[]);
    let client = Arc::new(Client::default());
    run_for(&*host, "progress", call("progress", r#"{"n":3}"#, &client)).await;
    assert!(client.messages.lock().unwrap().is_empty());
    host.close().await;
}

#[tokio::test]
async fn logs_go_to_the_running_call_if_its_client_wants_their_level() {
    let host = host(&fixture(Lifetime::Session, &[]));
    let session = session("s");
    for (level, wanted) in [("info", 100), ("debug", 0), ("emergency", 100), ("shouting", 0)] {
        let client = Arc::new(Client { level: LogLevel::Info, ..Client::default() });
        let arguments = format!(r#"{{"n":100,"level":"{level}"}}"#);
        run_for(&*host, "log", call("log", &arguments, &client).of(&session)).await;
        let got = client.got("notifications/message");
        let numbers: Vec<u64> = got.iter().map(|it| it["params"]["data"]["n"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=wanted).collect::<Vec<_>>(), "{level}");
    }
    host.close().await;
}

#[tokio::test]
async fn a_child_with_one_client_is_told_which_logs_that_client_wants() {
    let host = host(&fixture(Lifetime::Session, &[]));
    let session = session("s");
    for (level, told) in [(LogLevel::Warning, "warning"), (LogLevel::Debug, "debug")] {
        let client = Arc::new(Client { level, ..Client::default() });
        let result = run_for(&*host, "level", call("level", "{}", &client).of(&session)).await;
        assert_eq!(text(&result), format!(r#"{{"level":"{told}"}}"#));
    }
    assert_eq!(text(&run(&*host, "level", "{}").await), "", "a shared child has no level of its own");
    host.close().await;
}

#[tokio::test]
async fn calls_run_side_by_side_on_one_child() {
    let host = shared(&[]);
    run(&*host, "pid", "{}").await;
    let slow = host.call("sleep", call("sleep", r#"{"n":15000}"#, &Arc::default()));
    let slow = tokio::spawn(slow);
    for n in 0..50 {
        let message = format!("quick {n}");
        let result = run(&*host, "echo", &format!(r#"{{"message":"{message}"}}"#)).await;
        assert_eq!(text(&result), message);
    }
    assert!(!slow.is_finished());
    assert_eq!(host.status().children, 1);
    slow.abort();
    host.close().await;
}

#[tokio::test]
async fn many_calls_at_once_each_get_their_own_answer() {
    let host = shared(&[]);
    let calls = (0..200).map(|n| {
        let host = Arc::clone(&host);
        async move {
            let result = run(&*host, "echo", &format!(r#"{{"message":"{n}"}}"#)).await;
            assert_eq!(text(&result), n.to_string());
        }
    });
    futures_util::future::join_all(calls).await;
    host.close().await;
}

#[tokio::test]
async fn a_question_of_the_child_reaches_the_client_of_its_call_and_the_answer_the_child() {
    let host = shared(&[]);
    for method in ["elicitation/create", "sampling/createMessage", "roots/list"] {
        let answer = r#"{"action":"accept","n":123456789012345678901234567890}"#;
        let client = Arc::new(Client { answer: Some(Ok(answer)), ..Client::default() });
        let arguments = format!(r#"{{"method":"{method}"}}"#);
        let result = run_for(&*host, "ask", call("ask", &arguments, &client)).await;
        assert_eq!(text(&result), answer);
        assert_eq!(
            *client.asked.lock().unwrap(),
            [(method.to_owned(), r#"{"message":"really?","n":123456789012345678901234567890}"#.to_owned())]
        );
    }
    let no = Some(Err(RpcError::new(-1, "user said no")));
    let client = Arc::new(Client { answer: no, ..Client::default() });
    let result = run_for(&*host, "ask", call("ask", r#"{"method":"roots/list"}"#, &client)).await;
    assert_eq!(text(&result), r#"{"code":-1,"message":"user said no"}"#);
    host.close().await;
}

#[tokio::test]
async fn a_question_that_could_be_of_two_calls_is_answered_with_an_error() {
    let host = shared(&[]);
    let client = Arc::new(Client { answer: Some(Ok("{}")), ..Client::default() });
    let other = tokio::spawn(host.call("sleep", call("sleep", r#"{"n":15000}"#, &client)));
    // The other one runs when the child has counted it.
    loop {
        let count = text(&run(&*host, "count", "{}").await).parse::<u64>().unwrap();
        if count >= 2 {
            break;
        }
    }
    let result = run_for(&*host, "ask", call("ask", r#"{"method":"roots/list"}"#, &client)).await;
    assert!(text(&result).contains("-32601"), "{result}");
    assert!(client.asked.lock().unwrap().is_empty());
    // Of a kind that nobody knows.
    let result = run(&*host, "ask", r#"{"method":"x/y"}"#).await;
    assert!(text(&result).contains("-32601"), "{result}");
    other.abort();
    host.close().await;
}

#[tokio::test]
async fn a_session_child_may_ask_its_client_before_the_first_call() {
    let host = host(&fixture(Lifetime::Session, &["--ask-early"]));
    let client = Arc::new(Client { answer: Some(Ok(r#"{"roots":[]}"#)), ..Client::default() });
    let result = run_for(&*host, "early", call("early", "{}", &client).of(&session("s"))).await;
    assert_eq!(text(&result), r#"{"roots":[]}"#);
    host.close().await;
}

#[tokio::test]
async fn a_question_that_the_child_withdraws_is_not_waited_for() {
    let host = shared(&[]);
    let client = Arc::new(Client::default());
    let result = run_for(&*host, "withdraw", call("withdraw", "{}", &client)).await;
    assert_eq!(text(&result), "never mind");
    assert_eq!(client.asked.lock().unwrap().len(), 1);
    host.close().await;
}

#[tokio::test]
async fn a_child_is_told_what_the_client_of_its_session_can_do_and_a_shared_one_that_it_can_do_everything() {
    let session_host = host(&fixture(Lifetime::Session, &[]));
    let client = Arc::default();
    let told =
        run_for(&*session_host, "capabilities", call("capabilities", "{}", &client).of(&session("s"))).await;
    let told: Value = serde_json::from_str(text(&told)).unwrap();
    assert_eq!(told["capabilities"], json!({"elicitation": {}, "roots": {"listChanged": true}}));
    assert_eq!(
        (&told["clientInfo"]["name"], &told["protocolVersion"]),
        (&json!("outlast"), &json!("2025-11-25"))
    );
    // Without a session, from the pool: there each question is held against what the client at hand can do.
    let told = run(&*session_host, "capabilities", "{}").await;
    let told: Value = serde_json::from_str(text(&told)).unwrap();
    let everything = json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}});
    assert_eq!(told["capabilities"], everything);
    session_host.close().await;
}

#[tokio::test]
async fn a_cancelled_and_a_dropped_call_are_cancelled_in_the_child() {
    let host = shared(&[]);
    run(&*host, "pid", "{}").await;
    let mut asked = 0;
    let cancelled = call("sleep", r#"{"n":2000}"#, &Arc::default());
    let cancel = cancelled.cancel.clone();
    let running = tokio::spawn(host.call("sleep", cancelled));
    until_received(&*host, 2, &mut asked).await;
    cancel.cancel();
    let answer = bounded(running).await.unwrap().unwrap();
    assert!(answer.get().contains("cancelled"));

    let running = tokio::spawn(host.call("never", call("never", "{}", &Arc::default())));
    until_received(&*host, 3, &mut asked).await;
    running.abort();
    bounded(async {
        while text(&run(&*host, "cancelled", "{}").await) != "2" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // The late answer of the first one harms nobody.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(text(&run(&*host, "echo", r#"{"message":"on"}"#).await), "on");
    host.close().await;
}

/// Waits until the one child has received so many calls, not counting those that ask for it: `asked` so far.
async fn until_received(host: &impl Host, calls: usize, asked: &mut usize) {
    bounded(async {
        loop {
            *asked += 1;
            if text(&run(host, "count", "{}").await) == (calls + *asked).to_string() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_cancelled_and_says_so() {
    let mut settings = fixture(Lifetime::Pool, &[]);
    settings.call_timeout_seconds = 1;
    let host = host(&settings);
    let result = run(&*host, "never", "{}").await;
    assert!(failure(&result).contains("no answer within 1 s"), "{result}");
    assert_eq!(result["_meta"]["outlast/retrySafe"], false);
    assert_eq!(text(&run(&*host, "cancelled", "{}").await), "1");
    host.close().await;
}

#[tokio::test]
async fn a_stuck_client_holds_up_its_own_call_only() {
    let host = shared(&[]);
    let stuck = Arc::new(Client::default());
    stuck.stuck.store(true, Ordering::SeqCst);
    let params = r#"{"name":"progress","arguments":{"n":500},"_meta":{"progressToken":1}}"#;
    let slow = tokio::spawn(host.call("progress", with_params(params, &stuck)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let result = run(&*host, "echo", r#"{"message":"free"}"#).await;
    assert_eq!(text(&result), "free");
    assert!(!slow.is_finished());
    stuck.stuck.store(false, Ordering::SeqCst);
    let answer = bounded(slow).await.unwrap().unwrap();
    assert!(answer.get().contains("done"));
    assert!(stuck.messages.lock().unwrap().len() >= 64, "what fitted into its queue was kept");
    host.close().await;
}

#[tokio::test]
async fn the_registry_lists_a_childs_tools_and_hears_of_changes() {
    let host = shared(&[]);
    let source = Source { host: Arc::clone(&host) as _, server: Some("fix".into()) };
    let registry = Registry::start(vec![source], Namespacing::Always);
    let snapshot = registry.settled(Duration::from_secs(20)).await;
    let echo = snapshot.get("fix__echo").expect("listed");
    assert!(echo.tool.json.get().contains(r#""x-vendor":{"n":123456789012345678901234567890}"#));
    assert!(snapshot.get("fix__late").is_none());

    assert_eq!(text(&run(&*host, "change", "{}").await), "changed");
    until("the new tool is listed", || registry.snapshot().get("fix__late").is_some()).await;
    bounded(registry.close()).await;
    assert_eq!(host.status().children, 0);
}

#[tokio::test]
async fn all_pages_of_a_list_are_read() {
    let host = shared(&["--pages"]);
    let tools = bounded(host.tools()).await.unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["echo", "reflect", "progress"]);
    host.close().await;
}

#[tokio::test]
async fn every_revision_with_a_handshake_is_taken_and_no_other() {
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let host = shared(&["--revision", revision]);
        assert_eq!(text(&run(&*host, "echo", r#"{"message":"x"}"#).await), "x", "{revision}");
        host.close().await;
    }
    let host = shared(&["--revision", "2031-01-01"]);
    let result = run(&*host, "echo", r#"{"message":"x"}"#).await;
    assert!(failure(&result).contains("protocol version \"2031-01-01\""), "{result}");
    host.close().await;
}
