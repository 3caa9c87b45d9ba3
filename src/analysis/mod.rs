//! Code analysis as a library; knows nothing of MCP.

pub mod cache;
pub mod complexity;
pub mod confine;
pub mod cursor;
pub mod engine;
pub mod error;
pub mod extract;
pub mod facts;
pub mod files;
pub mod language;
pub mod metric;
pub mod page;
pub mod parse;
pub mod request;
pub mod scan;
pub mod structure;
pub mod syntax;
pub mod text;
pub mod vector;

#[cfg(test)]
mod tests;
