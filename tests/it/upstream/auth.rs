//! Who a remote server is told that calls: headers from the environment, one's own, and never the client's.

use serde_json::json;

use super::{LATEST, configured, place, run, said, scripted, status};
use crate::support::mcp::Session;
use crate::support::peer::{Caller, Peer, Request, text};
use crate::support::server::{self, Server};

const SECRETS: &[&str] = &["c0mmon-secret", "anna-secret"];
const VARIABLES: &[(&str, &str)] = &[("COMMON_TOKEN", "c0mmon-secret"), ("ANNA_TOKEN", "anna-secret")];

async fn peer() -> Peer {
    scripted(|request: Request, caller: Caller| async move {
        caller.result(&[], text(request.header("authorization").unwrap_or("nothing"))).await;
    })
    .await
}

/// Two principals with tokens.
fn tokens() -> String {
    ["anna", "bert"]
        .map(|name| {
            let hash = outlast::base::seal::hex(&outlast::base::seal::sha256(name.as_bytes()));
            format!("[[auth.tokens]]\nprincipal = {name:?}\nsha256 = {hash:?}\n")
        })
        .join("")
}

async fn calls_as(front: &Server, name: &str) -> String {
    let bearer = format!("Bearer {name}");
    let session = crate::support::session::Session::open_as(front, LATEST, Some(&bearer)).await;
    let answer =
        session.post(&crate::support::session::silent_call(&json!(1), "act", json!({}))).await.json();
    said(&answer).to_owned()
}

#[tokio::test]
async fn headers_come_from_the_environment_and_each_principal_has_its_own() {
    let peer = peer().await;
    let settings = format!(
        "headers = {{ Authorization = \"Bearer ${{COMMON_TOKEN}}\" }}\n\
         [servers.one.headers_by_principal.anna]\nAuthorization = \"Bearer ${{ANNA_TOKEN}}\"\n{}",
        tokens()
    );
    let front = Server::start_in(&place(&peer.url(), &settings), &["--ephemeral"], VARIABLES).await;
    assert_eq!(calls_as(&front, "anna").await, "Bearer anna-secret");
    assert_eq!(calls_as(&front, "bert").await, "Bearer c0mmon-secret");
    // Neither the client's own token nor a secret of the server's is anywhere else.
    for request in peer.requests() {
        let sent = request.header("authorization").unwrap_or_default();
        assert!(sent == "Bearer c0mmon-secret" || sent == "Bearer anna-secret", "{sent}");
    }
    let shown = status(&front).await.to_string();
    let metrics = front.admin_exchange("GET", "/metrics", b"").await.text();
    for secret in SECRETS {
        assert!(!front.logs().contains(secret) && !shown.contains(secret) && !metrics.contains(secret));
    }
}

#[tokio::test]
async fn who_has_no_credentials_where_each_has_its_own_is_refused() {
    let peer = peer().await;
    let settings = format!(
        "[servers.one.headers_by_principal.anna]\nAuthorization = \"Bearer ${{ANNA_TOKEN}}\"\n{}",
        tokens()
    );
    let front = Server::start_in(&place(&peer.url(), &settings), &["--ephemeral"], VARIABLES).await;
    assert_eq!(calls_as(&front, "anna").await, "Bearer anna-secret");
    let before = peer.count("tools/call");
    let refused = calls_as(&front, "bert").await;
    assert!(
        refused.contains("no credentials for \"bert\"") && refused.contains("headers_by_principal"),
        "{refused}"
    );
    assert_eq!(peer.count("tools/call"), before);
}

#[tokio::test]
async fn a_refusal_of_ones_own_credentials_says_where_they_stand() {
    let peer = scripted(|_, caller: Caller| async move { caller.answer(401, &[], "").await }).await;
    let settings =
        format!("[servers.one.headers_by_principal.anna]\nAuthorization = \"Bearer x\"\n{}", tokens());
    let front = Server::start_in(&place(&peer.url(), &settings), &["--ephemeral"], &[]).await;
    let refused = calls_as(&front, "anna").await;
    assert!(refused.contains("servers.one.headers_by_principal.anna"), "{refused}");
}

#[test]
fn a_variable_that_is_not_set_is_found_by_the_check_and_no_secret_is_shown() {
    let settings = "headers = { Authorization = \"Bearer ${COMMON_TOKEN}\" }\n\
                    headers_by_principal = { anna = { X-Key = \"${ANNA_TOKEN}\" } }";
    let dir = place("https://tools.example.com/mcp?key=hidden", settings);
    let run = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = server::command(dir.path(), args);
        command.envs(variables.iter().copied());
        let output = server::run(&mut command);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = run(&["config", "check"], &VARIABLES[..1]);
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("ANNA_TOKEN is not set") && said.contains("headers_by_principal"), "{said}");
    assert!(!said.contains("c0mmon-secret"), "{said}");
    let (code, said) = run(&["config", "check"], VARIABLES);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&["config", "show"], VARIABLES);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("X-Key") && said.contains("https://tools.example.com/mcp"), "{said}");
    for secret in SECRETS.iter().chain(&["hidden"]) {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test]
async fn an_entry_of_a_desktop_client_is_served_with_its_headers() {
    let peer = peer().await;
    let dir = place(&peer.url(), "");
    std::fs::write(dir.path().join("config.toml"), "[tools]\ncode = false\n").unwrap();
    let entry = json!({ "type": "streamable-http", "url": peer.url(), "headers": { "Authorization": "Bearer ${env:COMMON_TOKEN}" } });
    std::fs::write(dir.path().join("mcp.json"), json!({ "mcpServers": { "one": entry } }).to_string())
        .unwrap();
    let front = Server::start_in(&dir, &["--ephemeral", "--mcp-json", "mcp.json"], VARIABLES).await;
    let session = Session::open(&front, LATEST).await;
    assert_eq!(said(&run(&session, "act", json!({})).await), "Bearer c0mmon-secret");
    assert!(!configured("x", "").is_empty());
}

#[tokio::test]
async fn credentials_over_plain_http_to_another_machine_are_named_in_the_log() {
    let secret = "headers = { Authorization = \"Bearer c0mmon-secret\" }";
    let far = Server::start_in(&place("http://192.0.2.1/mcp", secret), &["--ephemeral"], &[]).await;
    let line = far.wait_for_log("plain HTTP").await;
    assert!(line.contains("192.0.2.1") && !line.contains("c0mmon"), "{line}");
    let peer = peer().await;
    let near = Server::start_in(&place(&peer.url(), secret), &["--ephemeral"], &[]).await;
    near.wait_for_log("remote server found").await;
    assert!(!near.logs().contains("plain HTTP"));
}
