//! Hosted servers and tools, for the operator.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::told::refusal;
use super::{Engine, Refusal};
use crate::rpc::error::{INTERNAL, INVALID_REQUEST, RpcError};
use crate::rpc::message::quote;
use crate::tools::answer::raw;
use crate::tools::registry::Registered;
use crate::tools::{BoxFuture, Call, LogLevel, Outbox};

/// Who calls a tool for the operator.
const OPERATOR: &str = "operator";

impl Engine {
    /// How each hosted server is: its name and its status.
    #[must_use]
    pub fn hosts(&self) -> Vec<(String, crate::tools::status::HostStatus)> {
        self.registry.statuses()
    }

    pub(super) fn servers(&self) -> Value {
        let each = self.hosts().into_iter().map(|(name, status)| {
            let state = status.state().name();
            let mut told = json!(status);
            if let Some(fields) = told.as_object_mut() {
                // `name` is what the server calls itself.
                let said = fields.remove("name").unwrap_or_default();
                fields.insert("server".to_owned(), name.into());
                fields.insert("says_name".to_owned(), said);
                fields.insert("state".to_owned(), state.into());
            }
            told
        });
        json!({ "servers": each.collect::<Vec<_>>() })
    }

    pub(super) async fn tools_told(&self) -> Value {
        let snapshot = self.registry.settled(self.settle).await;
        let all: Vec<Value> = snapshot.tools.iter().map(|tool| self.told(tool)).collect();
        json!({ "tools": all })
    }

    pub(super) async fn tool_told(&self, name: &str) -> Result<Bytes, Refusal> {
        let tool = self.find_tool(name).await.ok_or_else(|| no_tool(name))?;
        let mut told = self.told(&tool).to_string();
        told.pop();
        // As its server wrote it, down to the last digit.
        Ok(Bytes::from(format!("{told},\"tool\":{}}}", tool.tool.json.get())))
    }

    /// Runs a tool without a session and without anybody who could be asked.
    pub(super) async fn call_for_operator(
        self: &Arc<Self>,
        name: &str,
        arguments: &[u8],
    ) -> Result<Bytes, Refusal> {
        let tool = self.find_tool(name).await.ok_or_else(|| no_tool(name))?;
        let arguments = match arguments.trim_ascii() {
            [] => "{}",
            text => std::str::from_utf8(text)
                .ok()
                .filter(|text| serde_json::from_str::<serde_json::Map<String, Value>>(text).is_ok())
                .ok_or_else(|| {
                    refusal(400, "the arguments: want a JSON object, such as {\"path\": \".\"}")
                })?,
        };
        let cancel = CancellationToken::new();
        let _given_up = cancel.clone().drop_guard();
        let call = Call {
            params: raw(format!("{{\"name\":{},\"arguments\":{arguments}}}", quote(name))),
            progress_token: None,
            session: None,
            out: Arc::new(Nobody),
            cancel,
            principal: OPERATOR.into(),
            handles: Arc::clone(&self.handles) as _,
            correlation: OPERATOR.into(),
            resumed_after: None,
            anew: false,
        };
        tracing::info!(tool = name, "called by the operator");
        match tool.run(call).await {
            Ok(result) => Ok(Bytes::from(String::from(Box::<str>::from(result)))),
            Err(error) => {
                let status = if error.code == INTERNAL { 502 } else { 400 };
                Err(Refusal { status, error })
            }
        }
    }

    /// What is known of a tool beside its description.
    fn told(&self, tool: &Registered) -> Value {
        #[derive(serde::Deserialize, Default)]
        #[serde(default)]
        struct Described {
            title: Option<String>,
            description: Option<String>,
        }
        let described: Described = serde_json::from_str(tool.tool.json.get()).unwrap_or_default();
        let about = tool.host.status();
        let of_server = about.as_ref().map_or(env!("CARGO_PKG_VERSION"), |status| &status.version);
        let version = if tool.facts.version.is_empty() { of_server } else { &tool.facts.version };
        json!({
            "name": tool.tool.name,
            "title": described.title,
            "description": described.description,
            "server": tool.host.name(),
            "own_name": &*tool.host_tool,
            "hosted": tool.hosted,
            "version": version,
            "needs": tool.facts.needs,
            "intents": tool.facts.intents,
            "repeatable": tool.repeatable,
        })
    }
}

fn no_tool(name: &str) -> Refusal {
    Refusal {
        status: 404,
        error: RpcError::new(
            INVALID_REQUEST,
            format!("there is no tool {name:?}: `outlast tools ls` lists them"),
        ),
    }
}

/// A client that hears nothing and cannot be asked.
struct Nobody;

impl Outbox for Nobody {
    fn notify(&self, _: Bytes) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn ask(&self, method: &str, _: Box<RawValue>) -> BoxFuture<'_, Result<Box<RawValue>, RpcError>> {
        let why = format!("nobody can be asked here ({method}): this tool needs a client of MCP");
        Box::pin(std::future::ready(Err(RpcError::new(INVALID_REQUEST, why))))
    }

    fn wants_log(&self, _: LogLevel) -> bool {
        false
    }

    fn can_ask(&self) -> bool {
        false
    }

    fn modern_capabilities(&self) -> Option<&RawValue> {
        None
    }
}
