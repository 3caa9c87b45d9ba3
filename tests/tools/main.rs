//! Tools behind the registry: built-in ones, and stdio servers as real child processes.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod calls;
mod diagnostics;
mod lifetimes;
mod limits;
mod misbehaviour;
mod processes;
mod support;
