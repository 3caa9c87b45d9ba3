//! Outlast hosts MCP tools whose sessions outlast restarts.
//!
//! The layers, from the bottom up; an arrow of dependency points down only (`tests/layers.rs` holds it):
//!
//! | layer | what it is for |
//! |---|---|
//! | [`base`] | time, ids, bounds, secrets: what every layer may use |
//! | [`config`], [`telemetry`] | settings; logs and metrics |
//! | [`rpc`] | JSON-RPC 2.0 and server-sent events as bytes |
//! | [`mcp`] | the protocol as data: revisions, eras, methods, headers |
//! | [`state`], [`analysis`] | pure machines without I/O; code analysis as a library |
//! | [`store`], [`auth`], [`tools`] | the three things the engine drives |
//! | [`engine`] | what a message means: sessions, streams, calls |
//! | [`edge`] | HTTP and admin: bytes in, bytes out |
//! | [`app`] | build, run, drain, command line |
//!
//! A request from the socket to the disk and back: `edge::http::mcp` reads it, [`engine::Engine`] decides what it
//! means, `engine::session` finds the session it belongs to, [`state`] says what follows from it, [`store::Store`]
//! makes that durable, and a stream of `engine::stream` carries the answer out.

pub mod app;
pub mod auth;
pub mod base;
pub mod config;
pub mod edge;
pub mod engine;
pub mod mcp;
pub mod rpc;
pub mod state;
pub mod store;
pub mod telemetry;
pub mod tools;

#[cfg(feature = "code")]
pub mod analysis;
