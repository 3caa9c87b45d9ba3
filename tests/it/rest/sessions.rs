//! One session through the bridge and through MCP, under the id that its caller has chosen, whatever happens.

use std::collections::BTreeSet;

use outlast::base::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::{API, JWT, call, credentials, filled, init, post, refused, server};
use crate::support::mcp::{self, Session};
use crate::support::server::Server;

const TOKENS: &str = "[[auth.tokens]]\nprincipal = \"alice\"\nsha256 = \"2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\"\n[[auth.tokens]]\nprincipal = \"bob\"\nsha256 = \"81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9\"";
const ALICE: (&str, &str) = ("Authorization", "Bearer alice");
const BOB: (&str, &str) = ("Authorization", "Bearer bob");

#[tokio::test]
async fn an_id_of_the_bridge_is_one_of_mcp_and_back() {
    let server = server("").await;
    let made = init(&server, "mine").await;
    for id in ["mine", made["mcp_session_id"].as_str().unwrap()] {
        let session = Session::known(&server, id, "2025-11-25");
        let tools = session.ask(1, "tools/list", json!({})).await;
        assert!(tools["result"]["tools"].is_array(), "{tools}");
        assert_eq!(filled(&server, id).await, ["apiUrl", "jwtToken", "session_id"]);
    }
    // Ended by MCP, gone for the bridge.
    Session::known(&server, "mine", "2025-11-25").end().await;
    refused(&call(&server, "mine", "plain", json!({})).await, 404);
    let answer = Session::known(&server, "mine", "2025-11-25").post(mcp::request(1, "ping", json!({}))).await;
    assert_eq!(answer.status(), 404);

    let session = Session::open(&server, "2025-06-18").await;
    assert_eq!(call(&server, &session.id, "plain", json!({})).await.json()["result"], "just words");
    // The first who brings credentials for it gives it its values.
    init(&server, &session.id).await;
    assert!(filled(&server, &session.id).await.contains(&"jwtToken".to_owned()));
    let other = json!({ "session_id": session.id, "apiUrl": API, "jwtToken": "x.y.z" });
    refused(&post(&server, "/init", &[], &other).await, 403);
    let ended = post(&server, "/shutdown", &[], &json!({ "session_id": session.id })).await;
    assert_eq!(ended.status(), 200);
    assert_eq!(session.post(mcp::request(1, "ping", json!({}))).await.status(), 404);
}

#[tokio::test]
async fn a_session_id_that_the_server_names_is_its_own() {
    let server = server("").await;
    let answer = post(&server, "/init", &[], &json!({ "question": "why" })).await;
    let made = answer.json();
    assert_eq!(made["session_id"], made["mcp_session_id"]);
    assert_eq!(answer.header("mcp-session-id"), made["session_id"].as_str());
    assert_eq!(answer.header("mcp-session-idle-ttl"), Some("86400"));
    let id = made["session_id"].as_str().unwrap();
    // Named by a header as well.
    for header in ["Mcp-Session-Id", "X-Session-Id"] {
        let body = json!({ "tool_name": "names", "args": {} });
        let told = post(&server, "/call_tool", &[(header, id)], &body).await.json();
        assert_eq!(told["result"]["question"], "why", "{told}");
    }
    let forged = format!("{}x", &id[..id.len() - 1]);
    refused(&call(&server, &forged, "plain", json!({})).await, 404);
    refused(&post(&server, "/init", &[], &credentials(&forged)).await, 404);
}

#[tokio::test]
async fn the_same_session_comes_back_for_the_same_credentials_alone() {
    let server = server("").await;
    let made = init(&server, "mine").await;
    let again = init(&server, "mine").await;
    assert_eq!(again["mcp_session_id"], made["mcp_session_id"]);
    for body in [
        json!({ "session_id": "mine", "apiUrl": API, "jwtToken": "other.jwt.token" }),
        json!({ "session_id": "mine", "apiUrl": "https://evil.example", "jwtToken": JWT }),
        json!({ "session_id": "mine" }),
    ] {
        let said = refused(&post(&server, "/init", &[], &body).await, 403);
        assert!(said.contains("other credentials"), "{said}");
    }
    // A session that is ended frees its id.
    post(&server, "/shutdown", &[], &json!({ "session_id": "mine" })).await;
    let other = json!({ "session_id": "mine", "apiUrl": API, "jwtToken": "other.jwt.token" });
    let next = post(&server, "/init", &[], &other).await.json();
    assert_ne!(next["mcp_session_id"], made["mcp_session_id"]);
}

#[tokio::test]
async fn a_principal_goes_on_with_renewed_credentials() {
    let server = server(TOKENS).await;
    let made = post(&server, "/init", &[ALICE], &credentials("hers")).await.json();
    let renewed = json!({ "session_id": "hers", "jwtToken": "new.jwt.token", "question": "later" });
    refused(&post(&server, "/init", &[BOB], &renewed).await, 403);
    let again = post(&server, "/init", &[ALICE], &renewed).await;
    assert_eq!(again.status(), 200, "{}", again.text());
    assert_eq!(again.json()["mcp_session_id"], made["mcp_session_id"]);
    let names = json!({ "session_id": "hers", "name": "names" });
    let told = post(&server, "/call-tool", &[ALICE], &names).await.json();
    // What belonged to the earlier ones is not mixed with them.
    assert_eq!(told["result"]["got"], json!(["jwtToken", "question", "session_id"]), "{told}");
    assert_eq!(
        (&told["result"]["reversed"], &told["result"]["question"]),
        (&json!("nekot.twj.wen"), &json!("later"))
    );
    // None are no renewed ones.
    let none = json!({ "session_id": "hers", "question": "now" });
    assert!(refused(&post(&server, "/init", &[ALICE], &none).await, 403).contains("other credentials"));
    let told = post(&server, "/call-tool", &[ALICE], &names).await.json();
    assert_eq!(told["result"]["question"], "later", "{told}");
}

#[tokio::test]
async fn another_principal_has_no_part_in_a_session() {
    let server = server(TOKENS).await;
    let answer = post(&server, "/init", &[ALICE], &credentials("hers")).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    refused(&post(&server, "/init", &[BOB], &credentials("hers")).await, 403);
    for (path, body) in [
        ("/tools", json!({ "session_id": "hers" })),
        ("/call-tool", json!({ "session_id": "hers", "name": "plain" })),
        ("/shutdown", json!({ "session_id": "hers" })),
    ] {
        refused(&post(&server, path, &[BOB], &body).await, 404);
        let mut sandsiv = vec![BOB, super::SANDSIV];
        let told = post(&server, path, &sandsiv, &body).await;
        // Nothing is said of a session that is not his; and it is still there.
        assert_eq!(told.status(), if path == "/shutdown" { 200 } else { 409 });
        sandsiv.clear();
    }
    let headers = [BOB, ("Mcp-Session-Id", "hers")];
    assert_eq!(mcp::post(&server, &headers, mcp::request(1, "ping", json!({}))).await.status(), 404);
    let called =
        post(&server, "/call-tool", &[ALICE], &json!({ "session_id": "hers", "name": "plain" })).await;
    assert_eq!(called.status(), 200, "{}", called.text());
}

#[tokio::test]
async fn of_many_who_give_one_id_at_once_all_have_one_session() {
    let server = server("").await;
    let answers = futures_util::future::join_all((0..24).map(|_| init(&server, "same"))).await;
    let ids: BTreeSet<String> = answers.iter().map(|answer| answer["mcp_session_id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let mine: Vec<Value> = (0..24)
        .map(|n| json!({ "session_id": "raced", "apiUrl": API, "jwtToken": format!("a.b.{n}") }))
        .collect();
    let answers =
        futures_util::future::join_all(mine.iter().map(|body| post(&server, "/init", &[], body))).await;
    let well = answers.iter().filter(|answer| answer.status() == 200).count();
    let foreign = answers.iter().filter(|answer| answer.status() == 403).count();
    assert_eq!((well, foreign), (1, 23));
    // What the others had begun is not left behind.
    let listed = server.admin_exchange("GET", "/admin/sessions", b"").await.json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 2, "{listed}");
}

#[tokio::test]
async fn a_session_survives_kill_with_its_id_its_values_and_its_guard() {
    let mut server = server("").await;
    let made = init(&server, "mine").await;
    call(&server, "mine", "names", json!({ "question": "kept?" })).await;
    server.kill();
    server.restart().await;
    let told = call(&server, "mine", "names", json!({})).await.json();
    assert_eq!(told["result"]["question"], "kept?", "{told}");
    assert_eq!(told["result"]["got"], json!(["apiUrl", "jwtToken", "question", "session_id"]));
    assert_eq!(init(&server, "mine").await["mcp_session_id"], made["mcp_session_id"]);
    let other = json!({ "session_id": "mine", "apiUrl": API, "jwtToken": "other.jwt.token" });
    refused(&post(&server, "/init", &[], &other).await, 403);
    let session = Session::known(&server, "mine", "2025-11-25");
    assert_eq!(session.post(mcp::request(1, "ping", json!({}))).await.status(), 200);
}

#[tokio::test]
async fn a_session_that_was_not_used_is_gone_and_its_id_can_be_given_again() {
    let server = server("[sessions]\nidle_ttl_seconds = 1").await;
    let made = init(&server, "mine").await;
    let now = SystemClock::default().now_ms() / 1_000;
    assert!((now..=now + 3).contains(&made["expires_at"].as_u64().unwrap()), "{made} at {now}");
    crate::support::until("the session is gone", async || {
        // Looking at it would be a use of it.
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
        call(&server, "mine", "plain", json!({})).await.status() == 404
    })
    .await;
    // Also by its own id: without its values it would be another session.
    refused(&call(&server, made["mcp_session_id"].as_str().unwrap(), "plain", json!({})).await, 404);
    let other = json!({ "session_id": "mine", "apiUrl": API, "jwtToken": "other.jwt.token" });
    assert_eq!(post(&server, "/init", &[], &other).await.status(), 200);
}

#[tokio::test]
async fn nothing_of_a_session_is_readable_on_the_disk_or_in_the_logs() {
    let dir = super::place("");
    let mut server = Server::start_in(&dir, &["--log-level", "trace"], &[]).await;
    init(&server, "a-callers-own-id").await;
    call(&server, "a-callers-own-id", "names", json!({ "question": "a-secret-question" })).await;
    call(&server, "a-callers-own-id", "leak", json!({})).await;
    call(&server, "a-callers-own-id", "error", json!({})).await;
    assert!(server.term().await.success());
    for secret in [JWT, "api.example.com", "a-secret-question", "a-callers-own-id"] {
        for file in walk(&server.data_dir()) {
            let bytes = std::fs::read(&file).unwrap();
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} in {}", file.display());
        }
        assert!(!server.logs().contains(secret), "{secret} in the logs");
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}
