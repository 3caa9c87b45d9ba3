//! Built-in tools.

pub mod diagnostics;
