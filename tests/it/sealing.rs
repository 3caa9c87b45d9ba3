//! Encryption at rest: what is on the disk, the keys, and the commands for them.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use tempfile::TempDir;

use crate::support::http::Answer;
use crate::support::server::{Server, command, run};

const MARKER: &str = "a-marker-that-nobody-else-writes";
const JSON: (&str, &str) = ("Content-Type", "application/json");
const ACCEPT: (&str, &str) = ("Accept", "application/json, text/event-stream");

fn outlast(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = run(command(dir, args).envs(variables.iter().copied()));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

async fn post(server: &Server, session: Option<&str>, body: &str) -> Answer {
    let mut headers = vec![JSON, ACCEPT];
    if let Some(session) = session {
        headers.extend([("Mcp-Session-Id", session), ("Mcp-Protocol-Version", "2025-11-25")]);
    }
    server.exchange("POST", "/mcp", &headers, body.as_bytes()).await
}

/// A session whose client says this among its capabilities, which the session keeps.
async fn initialize(server: &Server, said: &str) -> String {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{"experimental":{{"{said}":{{}}}}}},"clientInfo":{{"name":"a","version":"1"}}}}}}"#
    );
    let answer = post(server, None, &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let id = answer.header("mcp-session-id").expect("a session id").to_owned();
    let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    assert_eq!(post(server, Some(&id), ready).await.status(), 202);
    id
}

/// Counts in the session, and returns what stands then.
async fn count(server: &Server, session: &str) -> String {
    let body = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"counter","arguments":{}}}"#;
    let answer = post(server, Some(session), body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.text()
}

async fn broadcast(server: &Server, text: &str) {
    let body = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":"{text}"}}}}"#
    );
    let answer = server.admin_exchange("POST", "/admin/broadcast", body.as_bytes()).await;
    assert_eq!((answer.status(), &answer.json()["stored"]), (200, &true.into()), "{}", answer.text());
}

fn files_with(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if fs::read(&path).unwrap().windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn what_clients_say_is_in_no_file_of_the_data_directory_unless_encryption_is_off() {
    for on in [true, false] {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let variable = [("OUTLAST_STORE__ENCRYPTION", if on { "true" } else { "false" })];
        let mut server = Server::start_in(&dir, &["--diagnostics"], &variable).await;
        let value = format!("{MARKER}-value");
        let session = initialize(&server, &value).await;
        let message = format!("{MARKER}-message");
        broadcast(&server, &message).await;
        count(&server, &session).await;
        assert_eq!(server.term().await.code(), Some(0), "{}", server.logs());
        for text in [value, message] {
            let found = files_with(&server.data_dir(), &text);
            assert_eq!(found.is_empty(), on, "{text}: {found:?}");
        }
        assert_eq!(server.logs().contains("store.encryption is false"), !on, "{}", server.logs());
    }
}

#[tokio::test]
async fn sessions_go_on_through_rotations_while_the_server_runs_and_while_it_does_not() {
    let mut server = Server::start(&["--diagnostics"]).await;
    let first = initialize(&server, "a").await;
    count(&server, &first).await;
    let admin = server.admin().to_string();
    let args = ["keys", "rotate", "--data-dir", "data", "--admin-listen", &admin];
    let (code, out, err) = outlast(server.dir(), &args, &[]);
    assert!(code == 0 && out.contains("key 2 from now on"), "{out}{err}");
    let second = initialize(&server, "b").await;
    assert!(count(&server, &first).await.contains('2'));
    count(&server, &second).await;

    assert_eq!(server.term().await.code(), Some(0), "{}", server.logs());
    let (code, out, err) = outlast(server.dir(), &args, &[]);
    assert!(code == 0 && out.contains("key 3") && out.contains("next start"), "{out}{err}");
    server.restart().await;
    assert!(count(&server, &first).await.contains('3'));
    assert!(count(&server, &second).await.contains('2'));

    let (code, out, _) = outlast(server.dir(), &["keys", "ls", "--data-dir", "data"], &[]);
    let ids: Vec<&str> = out.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!((code, ids), (0, vec!["3", "2", "1"]), "{out}");
    let keys = fs::read_to_string(server.data_dir().join("keys")).unwrap();
    let secrets =
        keys.lines().filter_map(|line| line.split_once(':')).map(|(_, rest)| rest.get(..20).unwrap());
    for secret in secrets {
        assert!(!out.contains(secret) && !server.logs().contains(secret));
    }
}

#[tokio::test]
async fn keys_are_pruned_once_nothing_needs_them_and_not_under_a_server() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let short = [("OUTLAST_SESSIONS__MAX_TTL_SECONDS", "1"), ("OUTLAST_SESSIONS__IDLE_TTL_SECONDS", "1")];
    let mut server = Server::start_in(&dir, &["--diagnostics"], &[]).await;
    let session = initialize(&server, "a").await;
    count(&server, &session).await;
    let (code, _, err) = outlast(server.dir(), &["keys", "prune", "--data-dir", "data"], &short);
    assert!(code == 1 && err.contains("is in use by process"), "{err}");
    assert_eq!(server.term().await.code(), Some(0));
    assert_eq!(outlast(server.dir(), &["keys", "rotate", "--data-dir", "data"], &[]).0, 0);
    let prune = |args: &[&str], variables: &[(&str, &str)]| {
        let args = [&["keys", "prune", "--data-dir", "data"], args].concat();
        let (code, out, err) = outlast(dir.path(), &args, variables);
        assert_eq!(code, 0, "{out}{err}");
        out
    };
    let out = prune(&[], &[]);
    assert!(out.contains("key 1 stays: values are sealed with it"), "{out}");
    let out = prune(&["--reseal"], &[]);
    assert!(out.contains("records were written anew") && out.contains("session ids that it signed"), "{out}");
    server.restart().await;
    assert!(count(&server, &session).await.contains('2'));
    assert_eq!(server.term().await.code(), Some(0));
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let out = prune(&[], &short);
    assert!(out.contains("key 1 is removed"), "{out}");
    let (_, out, _) = outlast(server.dir(), &["keys", "ls", "--data-dir", "data"], &[]);
    assert_eq!(out.lines().count(), 2, "{out}");
    server.restart().await;
    let ping = r#"{"jsonrpc":"2.0","id":3,"method":"ping"}"#;
    assert_eq!(post(&server, Some(&session), ping).await.status(), 404);
}

#[tokio::test]
async fn a_server_without_the_right_keys_names_them_and_changes_nothing() {
    let mut server = Server::start(&["--diagnostics"]).await;
    let session = initialize(&server, "a").await;
    assert_eq!(server.term().await.code(), Some(0));
    let (data, aside) = (server.data_dir(), server.dir().join("keys.aside"));
    fs::rename(data.join("keys"), &aside).unwrap();
    let database = fs::read(data.join("db/db")).unwrap();
    let args = ["serve", "--data-dir", "data", "--listen", "127.0.0.1:0", "--admin-listen", ""];
    let (code, _, err) = outlast(server.dir(), &args, &[]);
    assert!(code == 1 && err.contains("data/keys does not have the key 1"), "{code} {err}");
    let other = format!("9:{}=", "A".repeat(43));
    let (code, _, err) = outlast(server.dir(), &args, &[("OUTLAST_STORE__KEYS", &other)]);
    assert!(code == 1 && err.contains("OUTLAST_STORE__KEYS") && err.contains("the key 1"), "{code} {err}");
    assert!(!data.join("keys").exists() && fs::read(data.join("db/db")).unwrap() == database);
    // Kept elsewhere, and handed over as systemd does it.
    let credentials = TempDir::new_in(server.dir()).unwrap();
    fs::copy(&aside, credentials.path().join("outlast.keys")).unwrap();
    let credentials = credentials.path().to_str().unwrap().to_owned();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    fs::rename(&data, dir.path().join("data")).unwrap();
    let moved = Server::start_in(&dir, &["--diagnostics"], &[("CREDENTIALS_DIRECTORY", &credentials)]).await;
    assert!(count(&moved, &session).await.contains('1'));
    assert!(!moved.data_dir().join("keys").exists());
    let admin = moved.admin().to_string();
    let args = ["keys", "rotate", "--data-dir", "data", "--admin-listen", &admin];
    let (code, _, err) = outlast(moved.dir(), &args, &[]);
    assert!(code == 1 && err.contains("outlast.keys, which this program does not write"), "{code} {err}");
}

#[test]
fn the_commands_for_keys_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["ls", "rotate", "prune"] {
        let (code, _, err) = outlast(dir.path(), &["keys", command, "--data-dir", "nowhere"], &[]);
        assert!(code == 1 && err.contains("nowhere is not there"), "{command}: {code} {err}");
        assert!(!dir.path().join("nowhere").exists());
    }
    let ephemeral = [("OUTLAST_STORE__EPHEMERAL", "true")];
    let (code, _, err) = outlast(dir.path(), &["keys", "rotate"], &ephemeral);
    assert!(code == 2 && err.contains("store.ephemeral"), "{code} {err}");
    let (code, _, err) = outlast(dir.path(), &["keys", "rotat"], &[]);
    assert!(code == 2 && err.contains("rotate"), "{err}");
}
