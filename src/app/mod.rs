//! Build, run, drain, command line.
//!
//! [`cli`] reads the command line, `settings` the configuration it names; `run` builds the server bottom up, serves
//! until a signal and takes it down in the opposite order. `sessions` asks about sessions, through `operator`, which
//! finds whoever has the data directory.

mod admin_token;
mod bridge_texts;
mod cached;
pub mod cli;
mod counts;
mod health;
mod hosts;
mod keys;
mod migrate;
mod notice;
mod operator;
mod reload;
mod run;
mod sessions;
mod settings;
mod sharing;
mod stdio;
mod systemd;
mod text;
mod tools;
mod topics;

use crate::config::error::ConfigError;

/// Why the process ends without having done what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the configuration is wrong: exit code 2.
    Usage(String),
    /// Anything else: exit code 1.
    Failed(anyhow::Error),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}
