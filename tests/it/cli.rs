//! The command line as an operator meets it: usage, configuration, exit codes, signals, the service manager.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::http::Connection;
use crate::support::server::{Server, command, run};

fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn outlast(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = run(command(dir, args).envs(variables.iter().copied()));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

#[test]
fn version_and_help_are_answered_well() {
    let dir = place();
    let (code, out, _) = outlast(dir.path(), &["--version"], &[]);
    assert_eq!((code, out.trim()), (0, concat!("outlast ", env!("CARGO_PKG_VERSION"))));
    let (code, out, _) = outlast(dir.path(), &["serve", "--help"], &[]);
    assert!(code == 0 && out.contains("--data-dir"), "{out}");
}

#[test]
fn bad_usage_ends_with_2_and_names_the_flag_that_was_meant() {
    let dir = place();
    for (args, part) in [
        (&["serve", "--lisen", "x"][..], "--listen"),
        (&["serv"], "serve"),
        (&["config"], "show"),
        (&["serve", "--config"], "--config"),
    ] {
        let (code, _, err) = outlast(dir.path(), args, &[]);
        assert!(code == 2 && err.contains(part), "{args:?}: {code} {err}");
    }
}

#[test]
fn a_typo_in_the_configuration_is_named_with_line_and_column() {
    let dir = place();
    fs::write(dir.path().join("config.toml"), "[server]\nlisten = \"127.0.0.1:0\"\nmax_conections = 5\n")
        .unwrap();
    for args in [&["config", "check"][..], &["config", "show"], &["serve"], &[]] {
        let (code, out, err) = outlast(dir.path(), args, &[]);
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(out.is_empty());
        assert!(
            err.contains(
                "config.toml:3:1: unknown key `server.max_conections`; did you mean `server.max_connections`?"
            ) && err.contains("3 | max_conections = 5"),
            "{err}"
        );
    }
}

#[test]
fn a_wrong_variable_and_a_wrong_flag_are_named() {
    let dir = place();
    let (code, _, err) = outlast(dir.path(), &["serve"], &[("OUTLAST_SERVER__LISTN", "x")]);
    assert!(
        code == 2
            && err.contains("OUTLAST_SERVER__LISTN: unknown setting; did you mean OUTLAST_SERVER__LISTEN?")
    );
    let (code, _, err) =
        outlast(dir.path(), &["config", "check"], &[("OUTLAST_SERVER__DRAIN_SECONDS", "soon")]);
    assert!(code == 2 && err.contains("OUTLAST_SERVER__DRAIN_SECONDS: want a whole number"), "{err}");
    for (args, part) in [
        (&["--listen", "nowhere"][..], "--listen: `server.listen` is \"nowhere\""),
        (&["--listen", "0.0.0.0:0"], "--allow-open"),
        (&["--mode", "redis"], "mode `redis` needs the address of Redis"),
        (&["--mode", "shadow"], "--mode: modes `shadow` and `canary` come later"),
        (&["--redis", "redis://:hush@h:x"], "--redis: `redis.url` names no host, or a wrong port"),
        (&["--log-level", "loud"], "--log-level: \"loud\" is no log level"),
        (&["--root", "missing"], "missing: no such directory"),
        (&["--config", "missing.toml"], "missing.toml: the configuration cannot be read"),
    ] {
        let (code, _, err) = outlast(dir.path(), args, &[]);
        assert!(code == 2 && err.contains(part) && !err.contains("hush"), "{args:?}: {code} {err}");
    }
}

#[test]
fn the_configuration_in_force_is_shown_with_sources_and_without_secrets() {
    let dir = place();
    let hash = "ab".repeat(32);
    let text = format!(
        "[[auth.tokens]]\nprincipal = \"alice\"\nsha256 = \"{hash}\"\n[servers.a]\ncommand = \"x\"\nenv = {{ KEY = \"hush\" }}\n"
    );
    fs::write(dir.path().join("c.toml"), text).unwrap();
    let args = ["config", "show", "--config", "c.toml", "--listen", "127.0.0.1:1"];
    let (code, out, err) = outlast(
        dir.path(),
        &args,
        &[("OUTLAST_LOG__LEVEL", "warn"), ("OUTLAST_SERVER__LISTEN", "127.0.0.1:2")],
    );
    assert_eq!(code, 0, "{err}");
    assert!(!out.contains("hush") && !out.contains(&hash), "{out}");
    for part in [
        "listen = \"127.0.0.1:1\"  # --listen",
        "level = \"warn\"  # OUTLAST_LOG__LEVEL",
        "KEY = \"[secret]\"  # c.toml:6:15",
        "drain_seconds = 20  # default",
    ] {
        assert!(out.contains(part), "{part} in\n{out}");
    }
    let (code, out, _) = outlast(dir.path(), &["config", "check", "--config", "c.toml"], &[]);
    assert_eq!((code, out.as_str()), (0, "the configuration is right\n"));
}

#[test]
fn a_broken_json_of_servers_is_named_with_line_and_column() {
    let dir = place();
    fs::write(dir.path().join("m.json"), "{\n  \"mcpServers\": {\"a\": {\"command\": }}\n}").unwrap();
    let (code, _, err) = outlast(dir.path(), &["serve", "--mcp-json", "m.json"], &[]);
    assert!(code == 2 && err.contains("m.json:2:35: "), "{err}");
}

#[test]
fn a_data_directory_that_cannot_be_used_ends_with_1_and_is_named() {
    let dir = place();
    fs::write(dir.path().join("file"), "").unwrap();
    let args =
        ["serve", "--data-dir", "file/data", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let (code, _, err) = outlast(dir.path(), &args, &[]);
    assert!(code == 1 && err.contains("file/data"), "{code} {err}");
}

#[tokio::test]
async fn a_server_says_where_it_listens_keeps_a_token_and_ends_well() {
    let mut server = Server::start(&[]).await;
    assert_ne!(server.address().port(), 0);
    assert_ne!(server.admin().port(), server.address().port());
    let line = server.wait_for_log("serves MCP at").await;
    assert!(line.contains(env!("CARGO_PKG_VERSION")) && line.contains("mode: local"), "{line}");
    assert!(line.contains(server.data_dir().to_str().unwrap()), "{line}");
    let token = server.data_dir().join("admin.token");
    assert_eq!(fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(server.exchange("GET", "/livez", &[], b"").await.status(), 200);

    let (before, address, pid) = (server.admin_token(), server.address(), server.pid());
    assert_eq!(server.term().await.code(), Some(0), "{}", server.logs());
    server.restart().await;
    assert_eq!((server.address(), server.admin_token()), (address, before));
    assert_ne!(server.pid(), pid);
    assert_eq!(server.exchange("GET", "/livez", &[], b"").await.status(), 200);
}

#[tokio::test]
async fn the_admin_listener_opens_to_the_token_of_the_data_directory() {
    let server = Server::start(&[]).await;
    let answer = server.admin_exchange("GET", "/admin/status", b"").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.json()["version"], env!("CARGO_PKG_VERSION"));
    let wrong = [("Authorization", "Bearer wrong")];
    let refused = Connection::open(server.admin()).await.exchange("GET", "/admin/status", &wrong, b"").await;
    assert_eq!(refused.status(), 401, "{}", refused.text());
}

#[tokio::test]
async fn a_second_server_on_the_same_data_directory_is_refused_with_advice() {
    let server = Server::start(&[]).await;
    let data = server.data_dir();
    let args =
        ["serve", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin-listen", ""];
    let (code, _, err) = outlast(server.dir(), &args, &[]);
    assert!(
        code == 1 && err.contains("is in use by") && err.contains(data.to_str().unwrap()),
        "{code} {err}"
    );
    assert_eq!(server.exchange("GET", "/readyz", &[], b"").await.status(), 200);
}

#[test]
fn a_port_that_is_taken_ends_with_1_and_is_named() {
    let dir = place();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, err) = outlast(
        dir.path(),
        &["serve", "--data-dir", "data", "--listen", &address, "--admin-listen", ""],
        &[],
    );
    assert!(code == 1 && err.contains("server.listen") && err.contains(&address), "{code} {err}");
    // What failed to start has left the data directory free.
    let (code, _, err) = outlast(
        dir.path(),
        &["serve", "--data-dir", "data", "--listen", &address, "--admin-listen", ""],
        &[],
    );
    assert!(code == 1 && err.contains("server.listen"), "{code} {err}");
}

#[tokio::test]
async fn sighup_changes_the_log_level_and_refuses_what_is_wrong() {
    let dir = Arc::new(place());
    let config = dir.path().join("config.toml");
    fs::write(&config, "[log]\nlevel = \"info\"\n").unwrap();
    let mut server = Server::start_in(&dir, &[], &[]).await;

    fs::write(&config, "[log]\nlevel = \"debug\"\n[streams]\nretry_ms = 5\n").unwrap();
    server.signal(Signal::HUP);
    let line = server.wait_for_log("restart to change them").await;
    assert!(line.contains("streams.retry_ms"), "{line}");

    fs::write(&config, "[log]\nlevl = \"debug\"\n").unwrap();
    server.signal(Signal::HUP);
    let line = server.wait_for_log("the old one stays in force").await;
    assert!(line.contains("config.toml:2:1"), "{line}");
    assert_eq!(server.exchange("GET", "/livez", &[], b"").await.status(), 200);
    assert_eq!(server.term().await.code(), Some(0));
}

#[tokio::test]
async fn the_service_manager_is_told_that_the_server_is_ready_alive_and_stopping() {
    let dir = Arc::new(place());
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut server = Server::start_in(&dir, &[], &variables).await;
    let url = format!("http://{}/mcp", server.address());
    let ready = heard(&socket, "READY=1");
    assert!(ready.contains(&format!("STATUS=serving {url}")), "{ready}");
    heard(&socket, "WATCHDOG=1");
    heard(&socket, "WATCHDOG=1");
    server.signal(Signal::HUP);
    assert!(heard(&socket, "RELOADING=1").contains("MONOTONIC_USEC="));
    heard(&socket, "READY=1");
    assert_eq!(server.term().await.code(), Some(0));
    heard(&socket, "STOPPING=1");
}

/// The next datagram that holds `text`.
fn heard(socket: &UnixDatagram, text: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{text}: {error}"));
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if said.contains(text) {
            return said;
        }
    }
}

#[tokio::test]
async fn a_socket_of_the_service_manager_is_served() {
    let dir = Arc::new(place());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // LISTEN_PID must be the server's own: the shell becomes the server. The socket comes as its stdin.
    let script =
        r#"LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=outlast.socket exec "$0" "$@" 3<&0 0</dev/null"#;
    let inner = command(
        dir.path(),
        &["serve", "--data-dir", "data", "--listen", "127.0.0.1:1", "--admin-listen", ""],
    );
    let mut by = std::process::Command::new("sh");
    by.arg("-c").arg(script).arg(inner.get_program()).args(inner.get_args()).current_dir(dir.path());
    by.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    by.stdin(Stdio::from(OwnedFd::from(listener)));
    let mut server = Server::start_by(&dir, &mut by).await;
    drop(by);
    assert_eq!(server.address(), address);
    assert_eq!(server.exchange("GET", "/livez", &[], b"").await.status(), 200);
    assert_eq!(server.term().await.code(), Some(0));
}

#[tokio::test]
async fn an_ephemeral_server_leaves_nothing_behind() {
    let dir = Arc::new(place());
    let mut by = command(dir.path(), &["--ephemeral", "--listen", "127.0.0.1:0"]);
    let mut server = Server::start_by(&dir, &mut by).await;
    let line = server.wait_for_log("serves MCP at").await;
    assert!(line.contains("data: in memory only") && line.contains("admin: none"), "{line}");
    assert_eq!(server.term().await.code(), Some(0));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
