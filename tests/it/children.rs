//! Stdio servers behind this one, as its clients see them; and that none is left when they are to be gone.

mod changes;
mod faults;
mod processes;
mod relay;
mod storm;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;

use crate::support::server::Server;

/// The server to host. Examples are built with the tests and stand beside their directory.
pub fn fixture() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples/fixture-child");
    assert!(built.exists(), "{} is missing: cargo build --example fixture-child", built.display());
    built
}

/// A place with a configuration that hosts these: name, further settings, arguments.
pub fn place(servers: &[(&str, &str, &[&str])]) -> Arc<TempDir> {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut config = String::from("[tools]\ncode = false\n");
    for (name, settings, args) in servers {
        writeln!(config, "[servers.{name}]\ncommand = {:?}\nargs = {args:?}\n{settings}", fixture()).unwrap();
    }
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    dir
}

/// A server that hosts these.
pub async fn hosting(servers: &[(&str, &str, &[&str])]) -> Server {
    Server::start_in(&place(servers), &["--ephemeral"], &[]).await
}

/// A server that hosts these by the file of a desktop client.
async fn hosting_by_json(names: &[&str]) -> Server {
    let dir = place(&[]);
    let entries: serde_json::Map<String, serde_json::Value> = names
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "command": fixture(), "args": [], "env": { "WHO": name } })))
        .collect();
    let json = json!({ "mcpServers": entries }).to_string();
    std::fs::write(dir.path().join("mcp.json"), json).unwrap();
    Server::start_in(&dir, &["--ephemeral", "--mcp-json", "mcp.json"], &[]).await
}
