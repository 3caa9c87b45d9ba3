//! Many calls that nobody waits for, many children that crash, and servers that do everything wrong at once: what is left
//! is what should be there, and nobody else notices.

use std::time::Duration;

use serde_json::{Value, json};

use super::hosting;
use crate::support::mcp::{Session, call, claimed, mirrors, modern, request, send_on, text, until_calls};
use crate::support::server::Server;
use crate::support::soon;

/// Processes whose parent is this one, each with its state.
fn children_of(parent: u32) -> Vec<(u32, String)> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.to_owned();
        (fields.next()?.parse() == Ok(parent)).then_some((pid, state))
    })
    .collect()
}

/// Waits until the server has this many children, and none of them is a zombie.
async fn until_children(server: &Server, count: usize) {
    let mut seen = Vec::new();
    let settled = async {
        loop {
            seen = children_of(server.pid());
            if seen.len() == count && seen.iter().all(|(_, state)| state != "Z") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(50), settled).await.is_err() {
        panic!("want {count} children and no zombie: {seen:?}");
    }
}

#[tokio::test]
async fn a_thousand_dropped_requests_leave_exactly_the_pool() {
    let server = hosting(&[("fix", "lifetime = \"pool\"\npool_size = 2", &[])]).await;
    let echo = async || {
        let params = claimed(json!({ "name": "echo", "arguments": { "message": "m" } }));
        text(&modern(&server, 1, "tools/call", params).await.json()).to_owned()
    };
    assert_eq!(echo().await, "m");
    // Under this revision a call ends with its connection.
    for _ in 0..10 {
        let mut open = Vec::new();
        for n in 0..100 {
            let mut connection = server.connect().await;
            let body = request(n, "tools/call", claimed(json!({ "name": "never", "arguments": {} })));
            send_on(&mut connection, &mirrors("tools/call", Some("never")), body).await;
            open.push(connection);
        }
        drop(open);
    }
    until_calls(&server, 0).await;
    assert_eq!(echo().await, "m");
    let status = server.admin_exchange("GET", "/admin/servers", b"").await.json();
    let fix = &status["servers"][0];
    assert_eq!((&fix["died"], &fix["state"]), (&json!(0), &json!("running")), "{status}");
    let pool = usize::try_from(fix["children"].as_u64().unwrap()).unwrap();
    assert!((1..=2).contains(&pool), "{status}");
    until_children(&server, pool).await;
}

#[tokio::test]
async fn two_hundred_crashed_children_leave_no_process_behind() {
    let server = hosting(&[("fix", "max_children = 16", &[])]).await;
    for _ in 0..25 {
        let crashes = (0..8).map(|_| async {
            let session = Session::open(&server, "2025-11-25").await;
            let said = session.post(call(1, "exit", json!({ "n": 1, "message": "boom" }))).await.json();
            assert_eq!(said["result"]["isError"], true, "{said}");
            session.end().await;
        });
        futures_util::future::join_all(crashes).await;
    }
    let status = server.admin_exchange("GET", "/admin/servers", b"").await.json();
    let fix = &status["servers"][0];
    assert_eq!((&fix["died"], &fix["parked"]), (&json!(200), &Value::Null), "{status}");
    assert!(fix["last_death"].as_str().unwrap().contains("boom"), "{status}");
    until_children(&server, 0).await;
    // Who did not crash it is served as ever, and counted.
    let session = Session::open(&server, "2025-11-25").await;
    assert_eq!(text(&session.post(call(1, "echo", json!({ "message": "m" }))).await.json()), "m");
    until_children(&server, 1).await;
    let metrics = server.exchange("GET", "/metrics", &[], b"").await;
    let metrics = metrics.text();
    for line in [
        "outlast_child_crashes_total{server=\"fix\"} 200",
        "outlast_tool_calls_total{tool=\"exit\",outcome=\"tool_error\"} 200",
        "outlast_tool_calls_total{tool=\"echo\",outcome=\"ok\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn servers_that_do_everything_wrong_harm_nobody_else() {
    let server = hosting(&[
        ("good", "", &[]),
        (
            "bad",
            "call_timeout_seconds = 12\nlimits = { memory_bytes = 268435456 }",
            &["--grandchild", "bad.pid"],
        ),
    ])
    .await;
    let good = Session::open(&server, "2025-11-25").await;
    let call_good = async |n: u64| {
        text(&good.post(call(n, "good__echo", json!({ "message": n.to_string() }))).await.json()).to_owned()
    };
    assert_eq!(call_good(0).await, "0");
    let wrongs = [
        ("bad__long", json!({ "n": 104_857_600 }), Some("more than 16777216 bytes")),
        ("bad__stderr", json!({ "n": 20_000_000 }), None),
        ("bad__never", json!({}), Some("call_timeout_seconds")),
        ("bad__twice", json!({}), None),
        ("bad__garbage", json!({ "n": 5_000 }), Some("no messages")),
        ("bad__eat", json!({ "n": 2_147_483_648_u64 }), Some("limits.memory_bytes")),
        ("bad__exit", json!({ "n": 9, "message": "bye" }), Some("bye")),
    ];
    let wrong = wrongs.into_iter().map(|(tool, arguments, says)| {
        let server = &server;
        async move {
            let session = Session::open(server, "2025-11-25").await;
            let answer = session.post(call(1, tool, arguments)).await.json();
            match says {
                Some(says) => assert!(text(&answer).contains(says), "{tool}: {answer}"),
                None => assert!(answer["result"]["isError"].is_null(), "{tool}: {answer}"),
            }
            session.end().await;
        }
    });
    let all_wrong = futures_util::future::join_all(wrong);
    tokio::pin!(all_wrong);
    let mut answered = 0;
    loop {
        tokio::select! {
            _ = &mut all_wrong => break,
            said = call_good(answered + 1) => {
                answered += 1;
                assert_eq!(said, answered.to_string());
            }
        }
    }
    assert!(answered > 10, "{answered}");
    // The good one's child alone is left.
    soon("only the good child", until_children(&server, 1)).await;
    let status = server.admin_exchange("GET", "/admin/servers", b"").await.json();
    assert_eq!(status["servers"][1]["server"], "good");
    assert_eq!((&status["servers"][1]["died"], &status["servers"][1]["children"]), (&json!(0), &json!(1)));
}
