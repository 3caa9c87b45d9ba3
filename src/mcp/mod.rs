//! The protocol as data: revisions, eras, headers, the shapes of answers.

pub mod capability;
pub mod era;
pub mod header;
pub mod input;
pub mod revision;
pub mod task;
pub mod view;

/// `Mcp-Session-Id`
pub const SESSION_HEADER: &str = "mcp-session-id";
/// `MCP-Protocol-Version`
pub const VERSION_HEADER: &str = "mcp-protocol-version";
/// `Mcp-Method` (2026-07-28)
pub const METHOD_HEADER: &str = "mcp-method";
/// `Mcp-Name` (2026-07-28)
pub const NAME_HEADER: &str = "mcp-name";
/// `Last-Event-ID`
pub const LAST_EVENT_HEADER: &str = "last-event-id";
