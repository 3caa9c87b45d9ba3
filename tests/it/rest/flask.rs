//! A script that was written for the Flask bridge runs unchanged: its paths, its bodies, its checks, in its order.

use serde_json::{Value, json};

use super::{API, JWT, SANDSIV, narrator, place, post, server};
use crate::support::http::Answer;
use crate::support::server::Server;

/// What the script sends; it knows of no headers.
async fn send(server: &Server, path: &str, body: &Value) -> Answer {
    post(server, path, &[], body).await
}

/// The script.
async fn script(server: &Server) {
    let session = "test-session-125";
    let health = server.exchange("GET", "/health", &[], b"").await;
    assert_eq!((health.status(), &health.json()["status"]), (200, &json!("ok")));

    let answer =
        send(server, "/init", &json!({ "session_id": session, "apiUrl": API, "jwtToken": JWT })).await;
    assert_eq!(answer.json()["status"], "ok", "{}", answer.text());

    let schema = server.exchange("GET", "/tools-schema", &[], b"").await.json();
    assert_eq!(schema["status"], "success");
    assert!(schema["system_info"].is_object());

    let tools = send(server, "/tools", &json!({ "session_id": session })).await.json();
    let names: Vec<&str> =
        tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"validate_settings") && names.contains(&"create_configuration"), "{names:?}");
    assert!(tools["workflow_guidance"].is_object());
    for tool in tools["tools"].as_array().unwrap().iter().chain(schema["tools"].as_array().unwrap()) {
        let input = &tool["inputSchema"];
        for name in ["apiUrl", "jwtToken"] {
            assert!(input["properties"].get(name).is_none(), "{tool}");
            assert!(!input["required"].as_array().unwrap().contains(&json!(name)), "{tool}");
        }
    }

    let call = async |tool: &str, params: Value| {
        send(server, "/call-tool", &json!({ "session_id": session, "tool": tool, "params": params })).await
    };
    // Credentials come from the session.
    assert_eq!(call("validate_settings", json!({})).await.json(), json!({ "status": "success" }));
    let sources = call("list_sources", json!({ "search": "", "limit": 5 })).await.json();
    assert_eq!(sources["status"], "success");
    let source = sources["data"][0]["id"].as_str().unwrap();
    let analysed = call("analyze_source_structure", json!({ "sourceId": source })).await;
    // The tool's JSON itself, to the digit, and without what is for the session alone.
    assert_eq!(
        analysed.text(),
        r#"{"status":"success","columnAnalysis":[{"name":"amount","sum":12345678901234567890123}]}"#
    );
    let strategy = call("generate_strategy", json!({ "question": "What sells?" })).await.json();
    assert_eq!(strategy["status"], "success", "{strategy}");
    // What came before fills all of it, the member of `intermediate` too.
    let configuration = call("create_configuration", json!({})).await.json();
    assert_eq!(configuration["markdownConfig"], "# What sells? of 35", "{configuration}");

    let unknown = send(server, "/tools", &json!({ "session_id": "invalid-session-xyz" })).await;
    assert_eq!(unknown.status(), 409, "{}", unknown.text());

    let shutdown = send(server, "/shutdown", &json!({ "session_id": session })).await;
    assert_eq!((shutdown.status(), &shutdown.json()["status"]), (200, &json!("ok")));
    assert_eq!(shutdown.json()["message"], "Session test-session-125 shut down.");
    let gone = send(server, "/tools", &json!({ "session_id": session })).await;
    assert_eq!(gone.status(), 409, "{}", gone.text());
    assert_eq!(
        gone.json()["error"],
        "Session test-session-125 not found or expired. Please run /init first."
    );
}

#[tokio::test]
async fn a_script_for_the_flask_bridge_runs_unchanged_and_again_with_the_same_session_id() {
    let dir = place("");
    let server = Server::start_in(&dir, &["--compat", "sandsiv"], &[]).await;
    script(&server).await;
    script(&server).await;
}

#[tokio::test]
async fn an_entry_of_a_desktop_client_is_served_by_one_flag() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let json = json!({ "mcpServers": { "narrator": { "command": narrator(), "args": [] } } });
    std::fs::write(dir.path().join("mcp.json"), json.to_string()).unwrap();
    let variables = [("OUTLAST_TOOLS__CODE", "false"), ("OUTLAST_BRIDGE__PROFILE", "sandsiv")];
    let server = Server::start_in(&dir, &["--mcp-json", "mcp.json"], &variables).await;
    script(&server).await;
}

#[tokio::test]
async fn a_mount_has_a_profile_of_its_own_and_a_header_chooses_another() {
    let server = server("[bridge]\nmounts = { \"/data-narrator-mcp\" = \"sandsiv\" }").await;
    let body = json!({ "session_id": "nobody" });
    for (path, headers, status) in [
        ("/tools", &[][..], 404),
        ("/data-narrator-mcp/tools", &[], 409),
        ("/tools", &[SANDSIV], 409),
        ("/data-narrator-mcp/tools", &[("X-Outlast-Compat", "default")], 404),
        ("/tools", &[("X-Outlast-Compat", "other")], 400),
    ] {
        let answer = post(&server, path, headers, &body).await;
        super::refused(&answer, status);
    }
    let health = server.exchange("GET", "/data-narrator-mcp/health", &[], b"").await;
    assert_eq!(health.json()["status"], "ok");
}

#[tokio::test]
async fn the_variables_of_the_flask_bridge_are_read_below_everything_else() {
    let dir = place("");
    let variables = [
        ("MCP_CLIENT_PORT", "1"),
        ("MCP_SESSION_IDLE_TTL", "1234"),
        ("MCP_SENSITIVE_PARAMS", "apiUrl,jwtToken,question"),
        ("MCP_LOG_LEVEL", "WARNING"),
        ("REDIS_HOST", "redis.invalid"),
    ];
    // The flag goes over the port.
    let server = Server::start_in(&dir, &["--listen", "127.0.0.1:0"], &variables).await;
    assert_eq!(super::init(&server, "a").await["idle_ttl"], 1234);
    let tools = server.exchange("GET", "/tools", &[], b"").await.json();
    let strategy = tools["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == "generate_strategy");
    assert_eq!(strategy.unwrap()["inputSchema"]["properties"], json!({ "columnAnalysis": {} }));
}

#[tokio::test]
async fn errors_have_the_statuses_and_words_of_the_flask_bridge() {
    let server = server("[bridge]\nprofile = \"sandsiv\"").await;
    for (path, body, status, words) in [
        ("/init", json!({ "session_id": "a" }), 400, "Missing session_id, apiUrl, or jwtToken"),
        ("/call-tool", json!({ "session_id": "a" }), 400, "Missing session_id or tool name"),
        (
            "/call-tool",
            json!({ "session_id": "a", "tool": "plain", "params": [] }),
            400,
            "params must be a dictionary",
        ),
        (
            "/call-tool",
            json!({ "session_id": "a", "tool": "plain" }),
            409,
            "Session a not found or expired. Please run /init first.",
        ),
        ("/tools", json!({}), 400, "Missing session_id"),
    ] {
        let answer = send(&server, path, &body).await;
        assert_eq!(super::refused(&answer, status), words);
    }
    assert_eq!(send(&server, "/shutdown", &json!({ "session_id": "nobody" })).await.status(), 200);

    super::init(&server, "a").await;
    let call = async |tool: &str| {
        send(&server, "/call-tool", &json!({ "session_id": "a", "tool": tool, "params": null })).await
    };
    assert_eq!(call("plain").await.json(), json!({ "result": "just words" }));
    let failed = call("no-such-tool").await;
    assert!(super::refused(&failed, 500).starts_with("Error executing tool 'no-such-tool': "));
    // What the tool was given does not come back.
    assert_eq!(super::refused(&call("refuse").await, 500), "Error executing tool 'refuse': cannot: [secret]");
    assert_eq!(super::refused(&call("error").await, 500), "Error executing tool 'error': no good: [secret]");
}
