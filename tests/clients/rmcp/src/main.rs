//! The official Rust SDK as a client: the handshake in every revision that it speaks, and 2026-07-28.
//!
//! usage: outlast-rmcp-client http://127.0.0.1:PORT/mcp
//! One line per check; the exit code is 0 when all passed.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, ElicitRequestParams,
    ElicitResult, ElicitationAction, ElicitationCapability, GetPromptRequestParams, Implementation,
    ProgressNotificationParam, ProtocolVersion, ReadResourceRequestParams,
};
use rmcp::service::{NotificationContext, RequestContext, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, ErrorData, RoleClient};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(20);

type Failure = Box<dyn std::error::Error>;
type Running = RunningService<RoleClient, Client>;

/// Answers questions with "blue" and keeps what it is told.
#[derive(Clone)]
struct Client {
    version: ProtocolVersion,
    progress: Arc<Mutex<Vec<f64>>>,
}

impl ClientHandler for Client {
    async fn create_elicitation(
        &self,
        _: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({ "answer": "blue" })))
    }

    async fn on_progress(&self, params: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).push(params.progress);
    }

    fn get_info(&self) -> ClientConfig {
        let mut capabilities = ClientCapabilities::default();
        capabilities.elicitation = Some(ElicitationCapability::default());
        ClientConfig::new(capabilities, Implementation::new("check", "1"))
            .with_protocol_version(self.version.clone())
    }
}

/// Runs the checks of one connection, and counts those that fail.
struct Checks {
    client: String,
    failed: usize,
}

impl Checks {
    async fn run(&mut self, name: &str, body: impl Future<Output = Result<(), Failure>>) {
        let why = match tokio::time::timeout(DEADLINE, body).await {
            Ok(Ok(())) => return println!("ok    {}: {name}", self.client),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no end after {DEADLINE:?}"),
        };
        self.failed += 1;
        println!("FAIL  {}: {name}: {}", self.client, why.replace('\n', " "));
    }
}

fn ensure(holds: bool, what: impl ToString) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(what.to_string().into()) }
}

async fn call(client: &Running, tool: &'static str, arguments: Value) -> Result<CallToolResult, Failure> {
    let arguments = arguments.as_object().cloned().unwrap_or_default();
    Ok(client.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments)).await?)
}

fn text_of(result: &CallToolResult) -> Result<String, Failure> {
    let text = result.content.first().and_then(|block| block.as_text()).ok_or("no text")?.text.clone();
    ensure(result.is_error != Some(true), &text)?;
    Ok(text)
}

async fn checks(url: &str, version: ProtocolVersion, mode: ClientLifecycleMode) -> usize {
    let name = format!("rmcp, {version}");
    let mut checks = Checks { client: name, failed: 0 };
    let progress = Arc::<Mutex<Vec<f64>>>::default();
    let handler = Client { version: version.clone(), progress: Arc::clone(&progress) };
    let transport = StreamableHttpClientTransport::from_uri(url.to_owned());
    let client = match tokio::time::timeout(DEADLINE, handler.serve_with_lifecycle(transport, mode)).await {
        Ok(Ok(client)) => client,
        failed => {
            println!("FAIL  {}: connects: {:?}", checks.client, failed.map(|failed| failed.err()));
            return 1;
        }
    };
    let modern = version == ProtocolVersion::V_2026_07_28;
    checks
        .run("connects", async {
            let said = client.peer_info().ok_or("no answer to the handshake")?.protocol_version.clone();
            ensure(said == version, said)
        })
        .await;
    checks
        .run("lists the tools", async {
            let tools = client.list_all_tools().await?;
            for wanted in ["echo", "sleep", "counter", "ask", "emit", "fill"] {
                ensure(tools.iter().any(|tool| tool.name == wanted), format!("no {wanted}"))?;
            }
            Ok(())
        })
        .await;
    checks
        .run("echo returns the message", async {
            let message = "häh? \"quoted\" \u{1F980}\n";
            let said = text_of(&call(&client, "echo", json!({ "message": message })).await?)?;
            ensure(said == message, said)
        })
        .await;
    checks
        .run("sleep reports progress", async {
            call(&client, "sleep", json!({ "ms": 450 })).await?;
            let seen = progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
            ensure(seen.len() >= 2 && seen.is_sorted_by(|a, b| a < b), format!("{seen:?}"))
        })
        .await;
    // Revisions before 2025-06-18 have no elicitation.
    if modern || version.as_str() >= "2025-06-18" {
        checks
            .run("ask is answered", async {
                let said = text_of(&call(&client, "ask", json!({ "message": "Which color?" })).await?)?;
                ensure(said == "blue", said)
            })
            .await;
    }
    checks
        .run("counter counts", async {
            let value = |result: &CallToolResult| -> Result<i64, Failure> {
                match &result.structured_content {
                    Some(content) => content["value"].as_i64().ok_or_else(|| "no value".into()),
                    None => Ok(text_of(result)?.parse()?),
                }
            };
            let first = call(&client, "counter", json!({ "by": 5 })).await?;
            let handle = first.structured_content.as_ref().and_then(|content| content.get("handle"));
            let again = match handle {
                Some(handle) => json!({ "by": 2, "handle": handle }),
                None => json!({ "by": 2 }),
            };
            let second = call(&client, "counter", again).await?;
            ensure(value(&second)? == value(&first)? + 2, "it does not go on")
        })
        .await;
    checks
        .run("lists and gets prompts", async {
            let prompts = client.list_all_prompts().await?;
            ensure(prompts.iter().any(|prompt| prompt.name == "test_simple_prompt"), "not listed")?;
            let prompt = client.get_prompt(GetPromptRequestParams::new("test_simple_prompt")).await?;
            ensure(prompt.messages.len() == 1, prompt.messages.len())
        })
        .await;
    checks
        .run("lists and reads resources", async {
            let uri = "test://static-text";
            let resources = client.list_all_resources().await?;
            ensure(resources.iter().any(|resource| resource.uri == uri), "not listed")?;
            let read = client.read_resource(ReadResourceRequestParams::new(uri)).await?;
            ensure(read.contents.len() == 1, read.contents.len())
        })
        .await;
    checks
        .run("completes an argument", async {
            client.complete_prompt_simple("test_prompt_with_arguments", "arg1", "par").await?;
            Ok(())
        })
        .await;
    checks
        .run("an unknown tool and a missing argument are errors", async {
            ensure(call(&client, "no_such_tool", json!({})).await.is_err(), "an unknown tool was called")?;
            // Until 2025-11-25 said that the model shall read it, this was an error of the protocol.
            let wrong = match call(&client, "echo", json!({})).await {
                Err(error) => error.to_string().contains("-32602"),
                Ok(result) => result.is_error == Some(true),
            };
            ensure(wrong, "a missing argument is no error")
        })
        .await;
    let _ = client.cancel().await;
    checks.failed
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let Some(url) = std::env::args().nth(1) else {
        eprintln!("usage: outlast-rmcp-client http://127.0.0.1:PORT/mcp");
        return 2.into();
    };
    let modern = ProtocolVersion::V_2026_07_28;
    let mut failed = 0;
    for version in [
        ProtocolVersion::V_2024_11_05,
        ProtocolVersion::V_2025_03_26,
        ProtocolVersion::V_2025_06_18,
        ProtocolVersion::V_2025_11_25,
    ] {
        failed += checks(&url, version, ClientLifecycleMode::Initialize).await;
    }
    let discover = ClientLifecycleMode::Discover { preferred_versions: vec![modern.clone()] };
    failed += checks(&url, modern, discover).await;
    u8::from(failed > 0).into()
}
