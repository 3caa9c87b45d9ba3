//! How calls of tools are run: against schemas, in time, again where that does no harm, so many at a time, and once for
//! each key (docs/execution.md).

mod batch;
mod bounds;
mod keys;
mod schemas;
mod states;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::children::fixture;
use crate::support::mcp::request;
use crate::support::server::Server;
use crate::support::until;

/// A place with a configuration that hosts the tools of `--execute`: settings of `[tools]`, and of the server.
fn place(tools: &str, server: &str) -> Arc<TempDir> {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut config = format!("[tools]\ncode = false\n{tools}\n[servers.fix]\ncommand = {:?}\n", fixture());
    let lifetime = if server.contains("lifetime = ") { "" } else { "lifetime = \"pool\"" };
    writeln!(config, "args = [\"--execute\"]\n{lifetime}\n{server}").unwrap();
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    dir
}

/// A server that hosts them, and forgets everything at its end.
async fn hosting(tools: &str, server: &str) -> Server {
    Server::start_in(&place(tools, server), &["--ephemeral"], &[]).await
}

/// `tools/call` with these members of `_meta`.
fn call_with(id: u64, tool: &str, arguments: Value, meta: Value) -> String {
    request(id, "tools/call", json!({ "name": tool, "arguments": arguments, "_meta": meta }))
}

fn keyed(id: u64, tool: &str, arguments: Value, key: &str) -> String {
    call_with(id, tool, arguments, json!({ "io.outlast/idempotencyKey": key }))
}

/// How often a tool has written that it ran.
fn runs(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

async fn until_runs(file: &Path, times: usize) {
    until("the tool runs", || async { runs(file) >= times }).await;
}

fn file(server: &Server) -> PathBuf {
    server.dir().join("tally")
}
