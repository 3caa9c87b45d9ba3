//! Calls that wait for their clients: whose they are, how often they are taken over, and how they end.

use std::time::Duration;

use outlast::base::seal::{hex, sha256};
use serde_json::json;

use super::{Client, accept, asked, assert_refused, form, hosting, number, place, told};
use crate::support::mcp::{mirrors, send_on, until_calls};
use crate::support::server::Server;
use crate::support::until;

#[tokio::test]
async fn a_state_that_was_changed_or_is_of_another_request_is_refused_and_the_call_waits_on() {
    let server = hosting("", "").await;
    let rounds = json!([[form("one", "a")]]);
    let client = Client::new(&server, &rounds);
    let (_, state) = asked(&client.begin().await);
    let answers = json!({ "one": accept("a", "1") });
    let mut inside = state.clone().into_bytes();
    let at = inside.len() / 2;
    inside[at] = if inside[at] == b'A' { b'B' } else { b'A' };
    for bad in
        [format!("{state}-TAMPERED"), String::from_utf8(inside).unwrap(), "r1.e30.AAAA".into(), "".into()]
    {
        assert_refused(&client.retry(answers.clone(), &bad).await);
    }
    let mut other = Client::new(&server, &rounds);
    other.arguments["n"] = 1.into();
    assert_refused(&other.retry(answers.clone(), &state).await);
    let other = Client { tool: "poll", ..Client::new(&server, &rounds) };
    assert_refused(&other.retry(answers.clone(), &state).await);
    // None of them has disturbed it.
    told(&client.retry(answers, &state).await);
}

#[tokio::test]
async fn a_state_is_used_once() {
    let server = hosting("", "").await;
    let client = Client::new(&server, &json!([[form("one", "a")]]));
    let (_, state) = asked(&client.begin().await);
    let answers = json!({ "one": accept("a", "1") });
    let both = tokio::join!(client.retry(answers.clone(), &state), client.retry(answers.clone(), &state));
    let (done, refused) = if both.0.get("error").is_some() { (both.1, both.0) } else { both };
    told(&done);
    assert_refused(&refused);
    assert_refused(&client.retry(answers, &state).await);
}

#[tokio::test]
async fn a_held_call_belongs_to_one_principal() {
    let token = |name: &str| {
        format!("[[auth.tokens]]\nprincipal = \"{name}\"\nsha256 = \"{}\"\n", hex(&sha256(name.as_bytes())))
    };
    let dir = place("", "", &(token("anna") + &token("bert")));
    let server = Server::start_in(&dir, &["--ephemeral"], &[]).await;
    let rounds = json!([[form("one", "a")]]);
    let anna = Client { token: Some("anna"), ..Client::new(&server, &rounds) };
    let bert = Client { token: Some("bert"), ..Client::new(&server, &rounds) };
    let (_, state) = asked(&anna.begin().await);
    let answers = json!({ "one": accept("a", "1") });
    assert_refused(&bert.retry(answers.clone(), &state).await);
    told(&anna.retry(answers, &state).await);
}

#[tokio::test]
async fn a_call_whose_client_does_not_come_back_in_time_is_cancelled() {
    let server = hosting("input_timeout_seconds = 1", "pool_size = 1").await;
    let client = Client::new(&server, &json!([[form("one", "a")]]));
    let (_, state) = asked(&client.begin().await);
    number(&server, "pid").await.parse::<u32>().unwrap();
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    assert_refused(&client.retry(json!({ "one": accept("a", "1") }), &state).await);
    // One of the children was told. Which one runs a call of `cancelled` is for the pool to say.
    until("the child is told", || async { number(&server, "cancelled").await == "1" }).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_its_call_runs_cancels_it_and_one_that_leaves_while_it_is_held_does_not() {
    let server = hosting("", "pool_size = 1").await;
    let client = Client::new(&server, &json!([[form("one", "a")], [form("two", "b")]]));
    // Every answer is read on a connection that is closed then.
    let (_, state) = asked(&client.begin().await);
    let (_, state) = asked(&client.retry(json!({ "one": accept("a", "1") }), &state).await);
    told(&client.retry(json!({ "two": accept("b", "2") }), &state).await);

    let slow =
        Client { tool: "sleep", arguments: json!({ "n": 20_000 }), ..Client::new(&server, &json!([])) };
    let mut connection = server.connect().await;
    send_on(&mut connection, &mirrors("tools/call", Some("sleep")), slow.body(None, None)).await;
    until_calls(&server, 1).await;
    drop(connection);
    until_calls(&server, 0).await;
}

#[tokio::test]
async fn after_a_restart_a_repeatable_call_is_run_again_with_its_answers_and_another_is_refused() {
    let mut server = Server::start_in(&place("", "", ""), &[], &[]).await;
    let rounds = json!([[form("one", "a")], [form("two", "b")]]);
    let one = json!({ "one": accept("a", "1") });
    let (poll, interview) = {
        let client = Client { tool: "poll", ..Client::new(&server, &rounds) };
        let (_, state) = asked(&client.begin().await);
        let poll = asked(&client.retry(one.clone(), &state).await).1;
        let client = Client::new(&server, &rounds);
        let (_, state) = asked(&client.begin().await);
        (poll, asked(&client.retry(one, &state).await).1)
    };
    assert!(server.term().await.success());
    server.restart().await;
    let two = json!({ "two": accept("b", "2") });
    let client = Client { tool: "poll", ..Client::new(&server, &rounds) };
    assert_eq!(told(&client.retry(two.clone(), &poll).await), json!([accept("a", "1"), accept("b", "2")]));
    let client = Client::new(&server, &rounds);
    let refused = client.retry(two, &interview).await;
    assert_refused(&refused);
    assert!(refused["error"]["message"].as_str().unwrap().contains("restarted"), "{refused}");
}

#[tokio::test]
async fn a_server_that_dies_while_its_call_is_held_is_told_of_to_the_one_who_comes_back() {
    let server = hosting("", "lifetime = \"call\"\nmax_children = 1\npool_size = 1").await;
    let client = Client::new(&server, &json!([[form("one", "a")]]));
    let (_, state) = asked(&client.begin().await);
    let children = || {
        let own = server.pid().to_string();
        let listed = std::process::Command::new("ps").args(["-o", "pid=", "--ppid", &own]).output().unwrap();
        let pids: Vec<i32> = String::from_utf8(listed.stdout)
            .unwrap()
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect();
        pids
    };
    for pid in children() {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    until("the child is gone", || async { children().is_empty() }).await;
    let answer = client.retry(json!({ "one": accept("a", "1") }), &state).await;
    assert_eq!(answer["result"]["isError"], true, "{answer}");
}

#[tokio::test]
async fn a_principal_that_leaves_too_many_calls_behind_loses_the_oldest() {
    let server = hosting("", "max_children = 128").await;
    let client = Client::new(&server, &json!([[form("one", "a")]]));
    let answers = json!({ "one": accept("a", "1") });
    let (_, first) = asked(&client.begin().await);
    let (_, second) = asked(&client.begin().await);
    for _ in 2..outlast::base::limits::HELD_CALLS_PER_PRINCIPAL + 1 {
        asked(&client.begin().await);
    }
    assert_refused(&client.retry(answers.clone(), &first).await);
    told(&client.retry(answers, &second).await);
}
