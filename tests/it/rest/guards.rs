//! The guards of the edge hold for the bridge as for MCP; and what cannot be known is no session that is gone.

use serde_json::json;

use super::{JSON, credentials, init, post, refused, server};

const TOKEN: &str = "[[auth.tokens]]\nprincipal = \"alice\"\nsha256 = \"2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\"";

#[tokio::test]
async fn strangers_hosts_and_pages_are_refused_on_every_path() {
    let server = server(TOKEN).await;
    let alice = ("Authorization", "Bearer alice");
    for (path, methods) in outlast::edge::http::BRIDGE_PATHS {
        for method in methods.split(", ") {
            let ask = async |headers: &[(&str, &str)]| server.exchange(method, path, headers, b"{}").await;
            let stranger = ask(&[JSON]).await;
            assert!(refused(&stranger, 401).contains("Authorization"), "{method} {path}");
            assert_eq!(stranger.header("www-authenticate"), Some("Bearer"));
            refused(&ask(&[JSON, ("Authorization", "Bearer mallory")]).await, 401);
            refused(&ask(&[JSON, alice, ("Origin", "https://evil.example")]).await, 403);
            let known = ask(&[JSON, alice, ("Origin", "http://localhost:3000")]).await;
            assert_eq!(known.header("access-control-allow-origin"), Some("http://localhost:3000"));
            assert!(known.status() < 500, "{method} {path}: {}", known.text());
        }
        let mut connection = server.connect().await;
        let text = format!("POST {path} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{{}}");
        connection.send(text.as_bytes()).await.unwrap();
        assert_eq!(connection.head().await.status, 403, "{path}");
        let wrong = server.exchange("PUT", path, &[JSON, alice], b"{}").await;
        assert!(refused(&wrong, 405).contains("OPTIONS"));
        assert!(wrong.header("allow").is_some());
        assert_eq!(server.exchange("OPTIONS", path, &[], b"").await.status(), 204);
    }
}

#[tokio::test]
async fn scripts_need_no_content_type_and_pages_do() {
    let server = server("").await;
    let body = credentials("a").to_string();
    for headers in [&[][..], &[("Content-Type", "application/x-www-form-urlencoded")]] {
        let answer = server.exchange("POST", "/init", headers, body.as_bytes()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    let page = ("Origin", "http://localhost:3000");
    let simple =
        server.exchange("POST", "/init", &[page, ("Content-Type", "text/plain")], body.as_bytes()).await;
    refused(&simple, 415);
    assert_eq!(server.exchange("POST", "/init", &[page, JSON], body.as_bytes()).await.status(), 200);
}

#[tokio::test]
async fn a_body_that_is_too_long_and_a_session_too_many_are_told() {
    let server = server("[server]\nmax_body_bytes = 1000\n[sessions]\nmax_per_principal = 1").await;
    let long = json!({ "session_id": "a", "x": "y".repeat(2_000) });
    assert!(refused(&post(&server, "/init", &[], &long).await, 413).contains("server.max_body_bytes"));
    init(&server, "a").await;
    let second = post(&server, "/init", &[], &credentials("b")).await;
    assert!(refused(&second, 429).contains("sessions.max_per_principal"));
    assert!(second.header("retry-after").is_some());
    // Who has one finds it.
    init(&server, "a").await;
}

#[tokio::test]
async fn a_bridge_that_is_not_wanted_is_not_there() {
    let server = server("[bridge]\nenabled = false").await;
    for path in ["/init", "/call-tool", "/tools", "/openapi.json"] {
        assert_eq!(server.exchange("POST", path, &[JSON], b"{}").await.status(), 404, "{path}");
    }
    assert_eq!(server.exchange("GET", "/health", &[], b"").await.json()["status"], "ok");
}
