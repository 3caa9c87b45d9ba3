//! The labels of metrics: every value is of a closed set, or of the configuration.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Route {
    McpPost,
    McpGet,
    McpDelete,
    Health,
    Metrics,
    Admin,
    Other,
}

impl Route {
    pub(super) const ALL: [Self; 7] =
        [Self::McpPost, Self::McpGet, Self::McpDelete, Self::Health, Self::Metrics, Self::Admin, Self::Other];
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// With a result.
    Ok,
    /// With a result that says `isError`.
    ToolError,
    /// With a JSON-RPC error.
    Error,
    /// It took too long.
    Timeout,
    /// The client cancelled it.
    Cancelled,
}

/// Why a connection or a request was turned away before it was read in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The process is out of file descriptors or memory for it.
    Accept,
    /// Nothing came, or too slowly.
    Timeout,
    /// A `Host` that is not served.
    Host,
    /// An `Origin` that is not served.
    Origin,
    /// No or wrong credentials.
    Unauthorized,
    /// A body or headers above the cap.
    TooLarge,
    /// The server is ending.
    Draining,
}

macro_rules! label_values {
    ($type:ty: $($variant:ident = $text:literal),* $(,)?) => {
        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&match self { $(Self::$variant => $text),* }, encoder)
            }
        }
    };
}

label_values!(Route: McpPost = "mcp_post", McpGet = "mcp_get", McpDelete = "mcp_delete", Health = "health",
    Metrics = "metrics", Admin = "admin", Other = "other");
label_values!(Outcome: Ok = "ok", ToolError = "tool_error", Error = "error", Timeout = "timeout",
    Cancelled = "cancelled");
label_values!(Refusal: Accept = "accept", Timeout = "timeout", Host = "host", Origin = "origin",
    Unauthorized = "unauthorized", TooLarge = "too_large", Draining = "draining");

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabels {
    pub(super) route: Route,
    pub(super) status: StatusClass,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabel {
    pub(super) route: Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StatusClass(pub(super) u8);

impl EncodeLabelValue for StatusClass {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        use std::fmt::Write as _;
        write!(encoder, "{}xx", self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ToolLabels {
    pub(super) tool: Arc<str>,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ToolLabel {
    pub(super) tool: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ServerLabel {
    pub(super) server: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ShardLabel {
    pub(super) shard: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LinkStateLabels {
    pub(super) shard: u16,
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TransitionLabels {
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OpLabel {
    pub(super) op: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResultLabel {
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ScopeLabel {
    pub(super) scope: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TierLabel {
    pub(super) tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusalLabel {
    pub(super) reason: Refusal,
}
