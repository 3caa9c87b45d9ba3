//! Who is asked: the server that runs, or the directory when none does.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::json;

use super::{Client, outlast, sessions, start};
use crate::support::http::Connection;
use crate::support::server::{Server, command, run};
use crate::support::until;

#[tokio::test]
async fn the_address_is_for_the_owner_alone_and_goes_at_a_clean_end() {
    let mut server = start().await;
    let notice = server.data_dir().join("admin.address");
    assert_eq!(fs::metadata(&notice).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&notice).unwrap().contains(&server.admin().to_string()));
    assert_eq!(server.term().await.code(), Some(0));
    assert!(!notice.exists());
}

#[tokio::test]
async fn after_a_kill_the_directory_is_asked_and_whoever_has_the_port_learns_nothing() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    client.count(&server, 3).await;
    let admin = server.admin();
    server.kill();
    assert!(server.data_dir().join("admin.address").exists());
    let stranger = TcpListener::bind(admin).unwrap();
    stranger.set_nonblocking(true).unwrap();
    assert_eq!(sessions(&server, &["get", &client.key, super::COUNTER]).well().out, b"3");
    assert!(stranger.accept().is_err(), "somebody called the old address");
    drop(stranger);
    server.restart().await;
    assert_eq!(sessions(&server, &["get", &client.key, super::COUNTER]).well().out, b"3");
    assert_eq!(client.count(&server, 1).await, 4);
}

#[tokio::test]
async fn a_server_that_dies_under_a_question_is_followed_by_its_directory() {
    let mut server = start().await;
    let client = Client::start(&server).await;
    client.count(&server, 3).await;
    // Stopped, it has the lock and the port, and does not answer until it is killed.
    server.signal(Signal::STOP);
    let data = server.data_dir();
    let asked = |args: &[&str]| {
        let args: Vec<&str> = [&["sessions"], args, &["--data-dir", data.to_str().unwrap()]].concat();
        let mut command = command(server.dir(), &args);
        tokio::task::spawn_blocking(move || run(&mut command))
    };
    let read = asked(&["get", &client.key, super::COUNTER]);
    let write = asked(&["set", &client.key, "a", "b"]);
    // A connection alone is no question: one that breaks off before it was put is put to the directory.
    until("two questions", || async { questions_to(server.admin()) == 2 }).await;
    server.kill();
    let read = read.await.unwrap();
    assert!(read.status.success() && read.stdout == b"3", "{}", String::from_utf8_lossy(&read.stderr));
    let write = write.await.unwrap();
    let said = String::from_utf8_lossy(&write.stderr);
    assert!(
        write.status.code() == Some(1) && said.contains("whether the change was made is not known"),
        "{said}"
    );
}

/// Connections to this port of this machine on which bytes have come that its process has not read.
fn questions_to(address: SocketAddr) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let wanted = format!("0100007F:{:04X}", address.port());
    let rows = table.lines().filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, _, state) = (columns.next()?, columns.next()?, columns.next()?);
        let (_, unread) = columns.next()?.split_once(':')?;
        Some(local == wanted && state == "01" && unread != "00000000")
    });
    rows.filter(|asked| *asked).count()
}

#[tokio::test]
async fn a_server_without_an_admin_listener_is_named() {
    let server = Server::start(&["--admin-listen", ""]).await;
    sessions(&server, &["ls"])
        .failed(1, &["has no admin listener", &server.pid().to_string(), "admin.listen"]);
}

#[test]
fn a_place_that_is_no_data_directory_is_not_made_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    for (place, part) in
        [("missing", "there is no data directory"), ("empty", "is no data directory of Outlast")]
    {
        for args in [&["sessions", "ls"][..], &["status"]] {
            let args = [args, &["--data-dir", place]].concat();
            let done = run(&mut command(dir.path(), &args));
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(
                done.status.code() == Some(1) && said.contains(part) && said.contains("--data-dir"),
                "{said}"
            );
        }
    }
    assert!(!dir.path().join("missing").exists());
    assert_eq!(fs::read_dir(dir.path().join("empty")).unwrap().count(), 0);
    let done = run(&mut command(dir.path(), &["sessions", "ls", "--config", "none.toml"]));
    assert_eq!(done.status.code(), Some(2));
    fs::write(dir.path().join("config.toml"), "[store]\nephemeral = true\n").unwrap();
    let done = run(&mut command(dir.path(), &["sessions", "ls"]));
    assert_eq!(done.status.code(), Some(2), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn an_ephemeral_server_with_a_directory_is_asked_while_it_lives() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut server = Server::start_in(&dir, &["--ephemeral"], &[]).await;
    let client = Client::start(&server).await;
    let listed = sessions(&server, &["ls", "--json"]).well().json();
    assert_eq!(listed[0]["key"], client.key.as_str());
    server.kill();
    sessions(&server, &["ls"]).failed(1, &["is no data directory of Outlast"]);
}

#[tokio::test]
async fn the_admin_listener_keeps_session_ids_out_of_the_log() {
    let server = Server::start(&["--log-level", "debug"]).await;
    let client = Client::start(&server).await;
    sessions(&server, &["show", &client.id]).well();
    let line = server.wait_for_log("admin request").await;
    assert!(line.contains("inspect"), "{line}");
    assert!(!server.logs().contains(&client.id), "{}", server.logs());
}

#[tokio::test]
async fn help_says_what_each_command_does() {
    let server = start().await;
    let help = outlast_help(&server, &["sessions", "--help"]);
    for name in ["ls", "show", "get", "set", "rm", "ttl", "lock", "export", "import"] {
        assert!(help.contains(&format!("\n  {name} ")), "{name} in {help}");
        let args: &[&str] = if name == "lock" {
            &["sessions", "lock", "take", "--help"]
        } else {
            &["sessions", name, "--help"]
        };
        assert!(outlast_help(&server, args).contains("--json"), "{name}");
    }
    assert!(outlast_help(&server, &["status", "--help"]).contains("exit code 0"));
}

fn outlast_help(server: &Server, args: &[&str]) -> String {
    let done = run(&mut command(server.dir(), args));
    assert_eq!(done.status.code(), Some(0), "{args:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test]
async fn the_listener_refuses_what_is_malformed_with_a_sentence() {
    let server = start().await;
    let client = Client::start(&server).await;
    let path = format!("/admin/sessions/{}", client.key);
    for (method, path, body, status) in [
        ("POST", format!("{path}/ttl"), "{\"extend_seconds\": \"long\"}", 400),
        ("POST", format!("{path}/ttl"), "{}", 400),
        ("POST", "/admin/locks/a".to_owned(), "{\"action\":\"steal\"}", 400),
        ("GET", "/admin/sessions?limit=100000".to_owned(), "", 400),
        ("GET", "/admin/sessions?lmit=1".to_owned(), "", 400),
        ("GET", format!("{path}/values/%FF"), "", 400),
        ("PATCH", path.clone(), "", 405),
        ("GET", format!("{path}/other"), "", 404),
    ] {
        let answer = server.admin_exchange(method, &path, body.as_bytes()).await;
        assert_eq!(answer.status(), status, "{method} {path}: {}", answer.text());
        assert!(answer.json()["error"]["message"].as_str().is_some_and(|text| text.len() > 10));
    }
    // Nobody comes in without the token, whatever is asked.
    let answer = Connection::open(server.admin()).await.exchange("DELETE", &path, &[], b"").await;
    assert_eq!(answer.status(), 401);
    assert_eq!(client.ping(&server).await, 200);
    let status = outlast(&server, &["status", "--json"]).well().json();
    assert_eq!(status["engine"]["sessions"], json!(1));
}
