//! The one error object that is sent to clients.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Not JSON.
pub const PARSE_ERROR: i32 = -32_700;
/// JSON, but not a JSON-RPC message, or not one that may come here.
pub const INVALID_REQUEST: i32 = -32_600;
/// No such method.
pub const METHOD_NOT_FOUND: i32 = -32_601;
/// The parameters do not fit the method.
pub const INVALID_PARAMS: i32 = -32_602;
/// The server failed.
pub const INTERNAL: i32 = -32_603;
/// There is no such resource (MCP up to 2025-11-25; 2026-07-28 has [`INVALID_PARAMS`] for it).
pub const RESOURCE_NOT_FOUND: i32 = -32_002;
/// A URL must be opened first (MCP 2025-11-25; 2026-07-28 asks by an input-required result).
pub const URL_ELICITATION: i32 = -32_042;
/// A header says something else than the body (MCP 2026-07-28).
pub const HEADER_MISMATCH: i32 = -32_020;
/// The client did not declare a capability that is needed (MCP 2026-07-28).
pub const MISSING_CAPABILITY: i32 = -32_021;
/// The protocol version is not served (MCP 2026-07-28).
pub const UNSUPPORTED_VERSION: i32 = -32_022;

/// A JSON-RPC error object.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RpcError {
    /// Its code.
    pub code: i32,
    /// A sentence for people; says what to do where something can be done.
    pub message: Cow<'static, str>,
    /// More, for programs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data: Option<Box<RawValue>>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// -32602
    pub fn invalid_params(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(INVALID_PARAMS, message)
    }

    /// -32600
    pub fn invalid_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(INVALID_REQUEST, message)
    }

    /// -32601
    #[must_use]
    pub fn method_not_found(method: &str) -> Self {
        Self::new(METHOD_NOT_FOUND, format!("no method {method:?} here"))
    }

    /// -32603
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(INTERNAL, message)
    }

    /// Adds data; what cannot be serialized is left out.
    #[must_use]
    pub fn with_data(mut self, data: &impl Serialize) -> Self {
        self.data = serde_json::value::to_raw_value(data).ok();
        self
    }
}
