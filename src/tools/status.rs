//! How a hosted server is at a moment: for the operator, in status, metrics and logs.

use serde::Serialize;

use super::breaker::BreakerState;

/// What a hosted server is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// No child runs: one is started when it is needed. A remote server: not called yet.
    #[default]
    Idle,
    /// Children run. A remote server: it answered.
    Running,
    /// It died too often: no child is started for a while.
    Parked,
    /// Its tools cannot be listed, or it is a remote server that is not called because it failed too often.
    Failing,
}

impl HostState {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Parked => "parked",
            Self::Failing => "failing",
        }
    }
}

/// A hosted server at this moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HostStatus {
    /// `call`, `session` or `pool`.
    pub lifetime: &'static str,
    /// Children that live, those that start included.
    pub children: usize,
    /// Children that may live at a time.
    pub max_children: usize,
    /// Sessions that have a child of their own.
    pub sessions: usize,
    /// Calls that run in children.
    pub calls: usize,
    /// Memory of all processes of its children, bytes, a moment ago.
    pub memory_bytes: u64,
    /// Children that were started since the server began.
    pub started: u64,
    /// Children that died or could not be started.
    pub died: u64,
    /// Why no child is started at the moment.
    pub parked: Option<String>,
    /// For how long none is started, seconds.
    pub parked_seconds: Option<u64>,
    /// How a child died the last time, with the last lines of its stderr.
    pub last_death: Option<String>,
    /// Why its tools could not be listed, the last time.
    pub listing: Option<String>,
    /// Tools that it lists.
    pub tools: usize,
    /// What it calls itself; empty: no child has said it yet.
    pub name: String,
    /// Its version, in its own words.
    pub version: String,
    /// The revision of MCP that it speaks.
    pub revision: String,
    /// More of a remote server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
}

/// What a remote server has that a child has not.
#[derive(Clone, Debug, Serialize)]
pub struct Remote {
    /// Its address, without what may be a secret in it.
    pub url: String,
    /// What its breaker lets through.
    pub breaker: BreakerState,
    /// Why it is not called at the moment.
    pub refused: Option<String>,
    /// When it is looked at again, seconds.
    pub refused_seconds: Option<u64>,
    /// Sessions in it.
    pub open_sessions: usize,
    /// Requests that found that it does not work.
    pub failures: u64,
    /// Why the last one did.
    pub last_failure: Option<String>,
}

impl HostStatus {
    /// What it is doing, in a word.
    #[must_use]
    pub fn state(&self) -> HostState {
        match self {
            Self { parked: Some(_), .. } => HostState::Parked,
            Self { listing: Some(_), .. } | Self { remote: Some(Remote { refused: Some(_), .. }), .. } => {
                HostState::Failing
            }
            Self { remote: Some(_), revision, .. } if !revision.is_empty() => HostState::Running,
            Self { children: 0, .. } => HostState::Idle,
            _ => HostState::Running,
        }
    }
}
