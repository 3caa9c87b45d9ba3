//! Arguments and structured results, held against the schemas of their tool.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Outcome, Plan};
use crate::base::limits::SCHEMA_INLINE_BYTES;
use crate::config::Validate;
use crate::mcp::revision::Revision;
use crate::rpc::error::RpcError;
use crate::rpc::object::Object;
use crate::tools::Call;
use crate::tools::answer::{failure_with_retry, invalid_arguments};
use crate::tools::registry::Registered;
use crate::tools::schema::{Misfit, Schema};

/// The schemas of one listed tool, compiled when they are first needed and kept as long as the list is.
pub(super) struct Schemas {
    input: Option<Arc<Lazy>>,
    output: Option<Arc<Lazy>>,
}

struct Lazy {
    text: Box<str>,
    compiled: OnceLock<Option<Schema>>,
    /// For the log: the server and the tool.
    server: Box<str>,
    tool: Box<str>,
    /// Which of the tool's schemas it is.
    member: &'static str,
}

impl Schemas {
    /// Of a tool, as far as they are to be enforced.
    pub(super) fn of(tool: &Registered, validate: Validate) -> Self {
        let described = Object::parse(tool.tool.json.get()).ok();
        let lazy = |member: &'static str| {
            let text = described.as_ref()?.get(member)?.get();
            // An empty schema, and one that only wants an object, say what is known anyhow.
            let empty = matches!(text, "{}" | r#"{"type":"object"}"#);
            (text.starts_with('{') && !empty).then(|| {
                Arc::new(Lazy {
                    text: text.into(),
                    compiled: OnceLock::new(),
                    server: tool.host.name().into(),
                    tool: tool.tool.name.as_str().into(),
                    member,
                })
            })
        };
        Self {
            input: (validate >= Validate::Input).then(|| lazy("inputSchema")).flatten(),
            // What runs in this process is held to its schemas by tests.
            output: (validate >= Validate::Both && tool.hosted).then(|| lazy("outputSchema")).flatten(),
        }
    }

    /// Holds the arguments of a call against the tool's schema.
    ///
    /// # Errors
    /// What the call is answered: from 2025-11-25 on a result of the tool that the model reads, before it -32602 (MCP
    /// 2025-11-25, tools, error handling).
    pub(super) async fn check_arguments(&self, plan: &Plan, call: &Call) -> Result<(), Outcome> {
        let Some(schema) = &self.input else { return Ok(()) };
        let arguments = match call.arguments() {
            Ok(arguments) => arguments,
            Err(error) => return Err(Err(error)),
        };
        let Err(Misfit(faults)) = schema.check(arguments).await else { return Ok(()) };
        let why = format!("the arguments of {:?} are not what its inputSchema wants: {faults}", &*plan.name);
        tracing::debug!(
            tool = &*plan.name,
            correlation = &*call.correlation,
            "a call is refused: its arguments do not fit"
        );
        Err(match revision_of(call) {
            Some(revision) if revision >= Revision::V2025_11_25 => Ok(invalid_arguments(&why)),
            _ => Err(RpcError::invalid_params(why)),
        })
    }

    /// Whether the client of a call sees structured results, so that they have to fit.
    pub(super) fn wants_result(&self, call: &Call) -> bool {
        self.output.is_some() && revision_of(call).is_none_or(|revision| revision >= Revision::V2025_06_18)
    }

    /// Holds what a tool answered against its schema. An answer that says that the tool failed, or that has nothing
    /// structured, is left alone.
    pub(super) async fn check_result(&self, plan: &Plan, outcome: Outcome) -> Outcome {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(default, rename = "isError")]
            is_error: bool,
            #[serde(borrow, rename = "structuredContent")]
            structured: Option<&'a RawValue>,
        }
        let (Some(schema), Ok(result)) = (&self.output, &outcome) else { return outcome };
        let structured = match serde_json::from_str::<Answer<'_>>(result.get()) {
            Ok(Answer { is_error: false, structured: Some(structured) }) => structured,
            _ => return outcome,
        };
        let Err(Misfit(faults)) = schema.check(structured).await else { return outcome };
        tracing::warn!(
            server = &*schema.server,
            tool = &*plan.name,
            "a result does not fit the outputSchema of its own tool: {faults}"
        );
        Ok(failure_with_retry(
            &format!(
                "{:?} ran, and its structured result does not fit its own outputSchema: {faults}. That is a fault of the \
                 server {:?}; its operator can let such results through (validate = \"input\").",
                &*plan.name, &*schema.server
            ),
            plan.repeatable,
        ))
    }
}

impl Lazy {
    /// What cannot be read as a value (a number beyond all measure, half a surrogate pair) is for the tool to judge.
    async fn check(self: &Arc<Self>, json: &RawValue) -> Result<(), Misfit> {
        let small = json.get().len() <= SCHEMA_INLINE_BYTES;
        if small && (self.compiled.get().is_some() || self.text.len() <= COMPILED_INLINE) {
            return self.judge(json.get());
        }
        let (this, text) = (Arc::clone(self), json.get().to_owned());
        // One that was given up at the end of the process refuses nothing.
        tokio::task::spawn_blocking(move || this.judge(&text)).await.unwrap_or(Ok(()))
    }

    fn judge(&self, json: &str) -> Result<(), Misfit> {
        let Some(schema) = self.compiled() else { return Ok(()) };
        match serde_json::from_str::<Value>(json) {
            Ok(value) => schema.check(&value),
            Err(_) => Ok(()),
        }
    }

    fn compiled(&self) -> Option<&Schema> {
        self.compiled
            .get_or_init(|| match Schema::compile(&self.text) {
                Ok(schema) => Some(schema),
                Err(why) => {
                    tracing::warn!(
                        server = &*self.server,
                        tool = &*self.tool,
                        "its {} is not enforced: {why}",
                        self.member
                    );
                    None
                }
            })
            .as_ref()
    }
}

/// Schemas up to this size, bytes, are compiled where the call came in: it takes well below a millisecond.
const COMPILED_INLINE: usize = 4 * 1024;

/// The revision of a call's client; none: the call is of no client.
fn revision_of(call: &Call) -> Option<Revision> {
    match &call.session {
        Some(session) => Some(session.revision()),
        None => call.out.modern_capabilities().map(|_| Revision::MODERN),
    }
}
