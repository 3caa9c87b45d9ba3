//! The edge over real sockets, byte by byte, with an engine that only echoes.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod admin;
mod guard;
mod http2;
mod limits;
mod listen;
mod stream;
mod support;
