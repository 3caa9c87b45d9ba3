//! Sessions of the Flask bridge go on here: out of its Redis, or out of a file.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{API, JWT, call, credentials, place, post, refused, server};
use crate::support::server::{Server, command, run};
use crate::support::soon;

/// A Redis of the test's own.
struct Redis {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Redis {
    async fn start() -> Self {
        // Free now, and nobody else's a moment later but by chance: then the next one is tried.
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let child = Command::new("redis-server")
                .args([
                    "--port",
                    &port.to_string(),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                ])
                .args(["--requirepass", "hu:sh@", "--dir"])
                .arg(dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server is needed: apt-get install redis-server");
            let mut redis = Self { child, port, _dir: dir };
            if redis.is_up().await {
                return redis;
            }
        }
        panic!("no free port");
    }

    async fn is_up(&mut self) -> bool {
        soon("redis-server", async {
            loop {
                if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                    return self.child.try_wait().unwrap().is_none();
                }
                if self.child.try_wait().unwrap().is_some() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Runs commands, each a list of words; the last answer.
    async fn run(&self, commands: &[&[&str]]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let mut text = String::new();
        for words in [&["AUTH", "hu:sh@"][..]].iter().chain(commands).chain([&["QUIT"][..]].iter()) {
            text.push_str(&format!("*{}\r\n", words.len()));
            words.iter().for_each(|word| text.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        }
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon("an answer of Redis", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(!answer.contains("-ERR") && !answer.contains("-NOAUTH"), "{answer}");
        answer
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stored(question: &str) -> String {
    json!({
        "session_id": "old", "apiUrl": API, "jwtToken": JWT, "question": question,
        "created_at": "2026-01-01T00:00:00+00:00", "last_accessed": "2026-01-01T00:00:00+00:00",
    })
    .to_string()
}

struct Done {
    code: i32,
    out: String,
    err: String,
}

fn import(dir: &Arc<TempDir>, args: &[&str], variables: &[(&str, &str)]) -> Done {
    let all: Vec<&str> =
        ["migrate", "import-flask", "--data-dir", "data"].into_iter().chain(args.iter().copied()).collect();
    let output = run(command(dir.path(), &all).envs(variables.iter().copied()));
    Done {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn report(done: &Done) -> Value {
    serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {} {}", done.out, done.err))
}

/// How long a session has if nobody uses it, seconds.
async fn left(server: &Server, name: &str) -> u64 {
    let listed = server.admin_exchange("GET", "/admin/sessions?limit=1000", b"").await.json();
    for session in listed["sessions"].as_array().unwrap() {
        let key = session["key"].as_str().unwrap();
        let value = format!("/admin/sessions/{key}/values/bridge%2Fquestion");
        let question = server.admin_exchange("GET", &value, b"").await;
        if question.status() == 200 && question.json()["text"] == format!("\"{name}\"") {
            let ttl = server.admin_exchange("GET", &format!("/admin/sessions/{key}/ttl"), b"").await.json();
            return ttl["idle_left_ms"].as_u64().unwrap() / 1_000;
        }
    }
    panic!("no session {name}");
}

#[tokio::test]
async fn sessions_in_redis_go_on_under_their_ids_with_their_values_and_their_time() {
    let redis = Redis::start().await;
    let many: Vec<String> = (0..250).map(|n| format!("mcp_session:many-{n}")).collect();
    for name in &many {
        redis.run(&[&["SET", name, &stored("many")]]).await;
    }
    redis
        .run(&[
            &["SETEX", "mcp_session:short", "600", &stored("short")],
            &["SETEX", "mcp_session:long", "172800", &stored("long")],
            &["SET", "mcp_session:ever", &stored("ever")],
            &["SET", "mcp_session:with:colon", &stored("colon")],
            &["SET", "mcp_sessionX", &stored("another")],
            &["SET", "mcp_session:broken", "not json"],
            &["RPUSH", "mcp_session:list", "x"],
        ])
        .await;
    let port = redis.port.to_string();
    let variables =
        [("REDIS_HOST", "127.0.0.1"), ("REDIS_PORT", port.as_str()), ("REDIS_PASSWORD", "hu:sh@")];

    let dir = place("");
    let server = Server::start_in(&dir, &[], &[]).await;
    let looked = import(&dir, &["--dry-run", "--json"], &variables);
    assert_eq!(report(&looked)["read"], 256, "{}", looked.err);
    // What is wrong with two of them keeps none of the others.
    let done = import(&dir, &["--json"], &variables);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("2 of 256 sessions cannot be imported"), "{}", done.err);
    let told = report(&done);
    assert_eq!((&told["imported"], &told["existing"]), (&json!(254), &json!(0)), "{told}");
    for part in ["broken", "not a JSON object", "list", "not a string"] {
        assert!(done.out.contains(part), "{}", done.out);
    }
    let again = import(&dir, &[], &variables);
    assert!(again.out.contains("256 sessions read: 0 imported, 254 here already"), "{}", again.out);
    assert!(![done.err, done.out, again.err, again.out].concat().contains(JWT));

    // The idle time here is a day.
    assert!((500..=600).contains(&left(&server, "short").await), "{}", left(&server, "short").await);
    assert!((172_000..=172_800).contains(&left(&server, "long").await), "{}", left(&server, "long").await);
    assert!((86_000..=86_400).contains(&left(&server, "ever").await), "{}", left(&server, "ever").await);
    for (name, question) in [("short", "short"), ("with:colon", "colon"), ("many-249", "many")] {
        let told = call(&server, name, "names", json!({})).await.json();
        assert_eq!(told["result"]["question"], question, "{told}");
        let reversed: String = JWT.chars().rev().collect();
        assert_eq!(told["result"]["reversed"], reversed);
    }
    // A use gives it its whole idle time, as there.
    assert!(left(&server, "short").await > 80_000);
    // Its caller finds it again, and nobody else.
    assert_eq!(post(&server, "/init", &[], &credentials("ever")).await.status(), 200);
    let other = json!({ "session_id": "ever", "apiUrl": API, "jwtToken": "other.jwt.token" });
    refused(&post(&server, "/init", &[], &other).await, 403);
    // Nothing was changed there.
    assert!(redis.run(&[&["DBSIZE"]]).await.contains(":257"));
}

#[tokio::test]
async fn sessions_in_a_file_are_put_into_a_directory_on_which_no_server_runs() {
    let mut server = server("").await;
    assert!(server.term().await.success());
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::fs::rename(server.data_dir(), dir.path().join("data")).unwrap();
    std::fs::copy(server.dir().join("config.toml"), dir.path().join("config.toml")).unwrap();
    let lines = [
        json!({ "key": "mcp_session:a", "ttl": 300, "value": stored("a") }),
        json!({ "key": "mcp_session:b", "ttl": -1, "value": { "question": "b" } }),
        json!({ "key": "mcp_session:c", "pttl": 0, "value": {} }),
        json!({ "key": "something:else", "value": {} }),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.path().join("dump.jsonl"), text).unwrap();
    let done = import(&dir, &["--file", "dump.jsonl"], &[]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(done.out, "3 sessions read: 2 imported, 0 here already, 1 expired\n");
    let again = import(&dir, &["--file", "dump.jsonl", "--json"], &[]);
    assert_eq!(report(&again)["existing"], 2);

    let server = Server::start_in(&dir, &[], &[]).await;
    assert!((250..=300).contains(&left(&server, "a").await));
    assert_eq!(call(&server, "b", "names", json!({})).await.json()["result"]["question"], "b");
    refused(&call(&server, "c", "names", json!({})).await, 404);
}

#[tokio::test]
async fn what_cannot_be_read_is_said_without_secrets() {
    let dir = place("");
    let server = Server::start_in(&dir, &[], &[]).await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("redis://:hush@127.0.0.1:{port}/0");
    for (args, code, part) in [
        (&["--redis", url.as_str()][..], 1, "cannot be used"),
        (&["--redis", "hush"], 1, "want redis://"),
        (&["--file", "no.jsonl"], 1, "no.jsonl cannot be read"),
        (&["--file", "a", "--redis", "b"], 2, "cannot be used with"),
    ] {
        let done = import(&dir, args, &[]);
        assert_eq!(done.code, code, "{}", done.err);
        assert!(done.err.contains(part) && !done.err.contains("hush"), "{}", done.err);
    }
    drop(server);
    let closed = place(
        "[[auth.tokens]]\nprincipal = \"alice\"\nsha256 = \"2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\"",
    );
    let done = import(&closed, &["--file", "x"], &[]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("--principal"), "{}", done.err);
}
