//! JSON-RPC 2.0 and server-sent events as bytes; nothing MCP in it.

pub mod error;
pub mod message;
pub mod object;
pub mod sse;
