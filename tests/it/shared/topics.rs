//! Topics that operators listen to, on one instance and on several.

use std::time::Duration;

use serde_json::{Value, json};

use super::{status, two, until_healed, until_mode};
use crate::redis::Redis;
use crate::support::http::Connection;
use crate::support::server::{Server, command, run};
use crate::support::session::{Session, broadcast, note, send_notes};
use crate::support::soon;

/// One who listens.
struct Tail(Connection);

impl Tail {
    async fn open(server: &Server, filter: &str) -> Self {
        let mut connection = Connection::open(server.admin()).await;
        let path = format!("/admin/tail?topic={}", filter.replace('#', "%23").replace('+', "%2B"));
        let authorization = format!("Bearer {}", server.admin_token());
        connection.request("GET", &path, &[("Authorization", authorization.as_str())], b"").await;
        let head = connection.head().await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        Self(connection)
    }

    async fn next(&mut self) -> Value {
        soon("something that is said", async {
            loop {
                let event = self.0.next_event().await.expect("the stream goes on");
                if event.data.as_deref().is_some_and(|data| !data.is_empty()) {
                    return event.json();
                }
            }
        })
        .await
    }

    /// The next one on this topic; others are passed over.
    async fn next_on(&mut self, topic: &str) -> Value {
        loop {
            let said = self.next().await;
            if said["topic"] == topic {
                return said;
            }
        }
    }

    /// The numbers up to this one, whatever else is said.
    async fn numbers_up_to(&mut self, last: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        while numbers.last() != Some(&last) {
            numbers.extend(self.next().await["message"]["params"]["data"]["n"].as_u64());
        }
        numbers
    }
}

async fn publish(server: &Server, topic: &str, message: &str) -> (u16, Value) {
    let answer =
        server.admin_exchange("POST", &format!("/admin/publish?topic={topic}"), message.as_bytes()).await;
    (answer.status(), answer.json())
}

async fn only_key(server: &Server) -> String {
    let page = server.admin_exchange("GET", "/admin/sessions", b"").await.json();
    page["sessions"][0]["key"].as_str().unwrap_or_else(|| panic!("no session: {page}")).to_owned()
}

/// Until what is said on `from` is heard by who listens on another instance: it takes a moment until that is known there.
async fn until_heard(from: &Server, tail: &mut Tail) {
    let mut heard = std::pin::pin!(tail.next_on("test/ready"));
    loop {
        tokio::select! {
            _ = &mut heard => return,
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                assert_eq!(publish(from, "test/ready", "1").await.0, 200);
            }
        }
    }
}

#[tokio::test]
async fn what_is_said_is_heard_by_who_listens_to_it_and_it_is_said_what_became_of_it() {
    let server = Server::start(&["--diagnostics"]).await;
    let mut all = Tail::open(&server, "#").await;
    let mut broadcasts = Tail::open(&server, "mcp/broadcast/+").await;
    let session = Session::open(&server).await;
    let key = only_key(&server).await;
    assert_eq!(all.next_on(&format!("outlast/session/{key}/created")).await["message"], json!({}));
    // Nobody carries it yet; then somebody does.
    let topic = format!("mcp/session/{key}/message");
    let (status, told) = publish(&server, &topic, &note(1)).await;
    assert_eq!((status, &told), (200, &json!({ "delivered": 0, "stored": true, "topic": topic })));
    let mut stream = session.stream(None).await;
    assert_eq!(stream.numbers(1).await, [1]);
    assert_eq!(publish(&server, &topic, &note(2)).await.1["delivered"], 1);
    assert_eq!(stream.numbers(1).await, [2]);
    // By its id, too.
    let by_id = format!("mcp/session/{}/message", session.id);
    assert_eq!(publish(&server, &by_id, &note(3)).await.1["delivered"], 1);
    for n in 1..=3 {
        let said = all.next_on(&topic).await;
        assert_eq!(said["message"]["params"]["data"]["n"], n, "{said}");
        assert!(said["at_ms"].as_u64().unwrap() > 1_600_000_000_000 && said["instance"].is_string());
    }
    assert_eq!(publish(&server, "mcp/broadcast/notification", &note(4)).await.1["delivered"], 1);
    assert_eq!(broadcast(&server, &note(5)).await.status(), 200);
    for n in [4, 5] {
        assert_eq!(broadcasts.next().await["message"]["params"]["data"]["n"], n);
    }
    // A topic of the operator's own.
    let (status, told) = publish(&server, "deploy/done", "{\"version\": \"1.2\"}").await;
    assert_eq!((status, &told["delivered"], &told["stored"]), (200, &json!(1), &json!(false)));
    session.end().await;
    assert_eq!(all.next_on(&format!("outlast/session/{key}/ended")).await["message"], json!({}));

    let nobody = format!("mcp/session/{}/message", "A".repeat(22));
    for (topic, message, status, why) in [
        (nobody.as_str(), note(1), 404, "no such session"),
        (topic.as_str(), note(1), 404, "no such session"),
        ("mcp/session/x/message", note(1), 404, "no such session"),
        ("mcp/broadcast/notification", "{}".into(), 400, "JSON-RPC"),
        ("mcp/other", note(1), 403, "not for operators"),
        ("outlast/link/0", note(1), 403, "not for operators"),
        ("a//b", note(1), 400, "without a name"),
        ("a/%2B", note(1), 400, "for filters"),
        ("a/b", "{".into(), 400, "no JSON"),
    ] {
        let (got, told) = publish(&server, topic, &message).await;
        assert_eq!(got, status, "{topic}: {told}");
        assert!(told.to_string().contains(why), "{topic}: {told}");
    }
    for (filter, why) in [("a/%23/b", "the last one"), ("a%2Bb", "whole levels"), ("", "which topics")] {
        let path = format!("/admin/tail?topic={filter}");
        let refused = server.admin_exchange("GET", &path, b"").await;
        assert_eq!(refused.status(), 400, "{filter}: {}", refused.text());
        assert!(refused.text().contains(why), "{filter}: {}", refused.text());
    }
}

#[tokio::test]
async fn who_listens_hears_every_instance_and_everything_once() {
    let (_redis, a, b) = two().await;
    let session = Session::open(&a).await;
    let key = only_key(&a).await;
    let mut here = Tail::open(&a, "#").await;
    let mut there = Tail::open(&b, "#").await;
    let mut other = Tail::open(&b, "outlast/#").await;
    until_heard(&a, &mut there).await;
    until_heard(&b, &mut here).await;
    send_notes(&a, &session, 1..=5).await;
    assert_eq!(broadcast(&b, &note(6)).await.status(), 200);
    // To a session that the other instance has in memory, by its key.
    let (status, told) = publish(&b, &format!("mcp/session/{key}/message"), &note(7)).await;
    assert_eq!((status, &told["stored"]), (200, &json!(true)), "{told}");
    assert_eq!(broadcast(&a, &note(8)).await.status(), 200);
    for tail in [&mut here, &mut there] {
        let mut numbers = Vec::new();
        while numbers.len() < 8 {
            numbers.extend(tail.next().await["message"]["params"]["data"]["n"].as_u64());
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    }
    // Nothing of it came twice: the next numbers are new ones.
    assert_eq!(broadcast(&a, &note(9)).await.status(), 200);
    assert_eq!((here.numbers_up_to(9).await, there.numbers_up_to(9).await), (vec![9], vec![9]));
    // The session's client got what was said by its key on the other instance.
    let mut stream = session.stream(None).await;
    let mut numbers = stream.numbers(9).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
    // A stream of another instance counts as one that it was delivered to.
    for topic in [format!("mcp/session/{key}/message"), "mcp/broadcast/notification".to_owned()] {
        // A busy machine may not say so in time.
        soon("what was delivered elsewhere", async {
            loop {
                let (status, told) = publish(&b, &topic, &note(10)).await;
                assert_eq!((status, &told["stored"]), (200, &json!(true)), "{told}");
                assert_eq!(stream.numbers(1).await, [10]);
                if told["delivered"] == 1 {
                    return;
                }
            }
        })
        .await;
    }
    session.end().await;
    let ended = other.next_on(&format!("outlast/session/{key}/ended")).await;
    assert_eq!(ended["instance"], origin_of(&a).await, "{ended}");
}

async fn origin_of(server: &Server) -> Value {
    let mut tail = Tail::open(server, "test/self").await;
    publish(server, "test/self", "1").await;
    tail.next().await["instance"].clone()
}

#[tokio::test]
async fn a_link_that_goes_and_comes_back_is_heard_of_and_so_is_that_something_may_be_missing() {
    let (mut redis, a, b): (Redis, Server, Server) = two().await;
    let mut tail = Tail::open(&a, "outlast/link/+").await;
    redis.kill();
    let down = tail.next_on("outlast/link/0").await;
    assert_eq!(down["message"]["state"], "down", "{down}");
    until_mode(&a, "degraded").await;
    redis.restart();
    let (mut up, mut missing) = (false, false);
    while !up || !missing {
        let said = tail.next().await;
        up |= said["message"]["state"] == "up";
        missing |= said.get("missed").is_some_and(Value::is_null);
    }
    until_healed(&b).await;
    assert_eq!(status(&a).await["mode"], "redis");
}

#[tokio::test]
async fn a_slow_reader_is_told_what_it_missed_and_holds_nobody_up() {
    let server = Server::start(&["--diagnostics"]).await;
    // It takes nothing for now.
    let mut slow = Tail::open(&server, "mcp/#").await;
    let pad = "x".repeat(200_000);
    let count = 120;
    for n in 0..count {
        let message = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {
            "level": "info", "data": {"n": n, "pad": pad}}});
        assert_eq!(broadcast(&server, &message.to_string()).await.status(), 200);
    }
    // Each was either heard or counted.
    let (mut heard, mut missed) = (0, 0);
    while heard + missed < count {
        let said = slow.next().await;
        match said["missed"].as_u64() {
            Some(more) => missed += more,
            None => {
                assert_eq!(said["message"]["params"]["data"]["n"], heard + missed, "in order");
                heard += 1;
            }
        }
    }
    assert!(heard > 0 && missed > 0, "{heard} heard, {missed} missed");
}

#[tokio::test]
async fn the_command_line_says_and_hears() {
    let server = Server::start(&["--diagnostics"]).await;
    let outlast = |args: &[&str]| run(&mut command(server.dir(), &[args, &["--data-dir", "data"]].concat()));
    let listening = {
        let mut command =
            command(server.dir(), &["tail", "deploy/#", "--count", "2", "--json", "--data-dir", "data"]);
        tokio::task::spawn_blocking(move || run(&mut command))
    };
    // Until it listens nobody hears it.
    soon("a listener", async {
        while publish(&server, "deploy/ready", "0").await.1["delivered"] == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let said = outlast(&["publish", "deploy/done", "--json", "{\"ok\":true}"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success() && text.starts_with("deploy/done: delivered to "), "{text}");
    let heard = listening.await.unwrap();
    let lines = String::from_utf8(heard.stdout).unwrap();
    assert!(heard.status.success(), "{}", String::from_utf8_lossy(&heard.stderr));
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((&last["topic"], &last["message"]), (&json!("deploy/done"), &json!({ "ok": true })));
    for (args, code, why) in [
        (&["tail", "a/#/b"][..], 2, "the last one"),
        (&["publish", "outlast/x", "--json", "1"], 1, "not for operators"),
        (&["publish", "a/b", "--json", "{"], 2, "no JSON"),
        (&["publish", "a/b"], 2, "--json"),
    ] {
        let refused = outlast(args);
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(why), "{args:?}: {stderr}");
    }
    let stopped = tempfile::tempdir().unwrap();
    let nobody = run(&mut command(stopped.path(), &["tail", "#", "--data-dir", "data"]));
    assert_eq!(nobody.status.code(), Some(1), "{}", String::from_utf8_lossy(&nobody.stderr));
}
