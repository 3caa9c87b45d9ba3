//! Why there is no child, and how one died: sentences for the log and for the caller.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why a child could not be had. No call has reached one when this is the answer, so trying again is safe.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum StartError {
    #[error("server {server:?}: `command` is empty: it must name the program to run")]
    NoCommand { server: Arc<str> },
    #[error("server {server:?}: the program {command:?} does not exist (looked in {searched})")]
    NotFound { server: Arc<str>, command: String, searched: String },
    #[error("server {server:?}: the program {} is not an executable file", path.display())]
    NotExecutable { server: Arc<str>, path: PathBuf },
    #[error("server {server:?}: the working directory {} is not a directory", path.display())]
    NoDirectory { server: Arc<str>, path: PathBuf },
    #[error("server {server:?}: the program {command:?} could not be started: {source}")]
    Spawn { server: Arc<str>, command: String, source: io::Error },
    #[error("{0}")]
    Died(Arc<Death>),
    #[error("server {server:?} did not answer `{step}` within {seconds} s{stderr}", seconds = within.as_secs())]
    Silent { server: Arc<str>, step: &'static str, within: Duration, stderr: LastLines },
    #[error("server {server:?}: its answer to `{step}` cannot be used: {reason}")]
    Unusable { server: Arc<str>, step: &'static str, reason: String },
    #[error(
        "server {server:?} runs {limit} children, as many as it may (servers.{server}.max_children), and none became \
         free; try again later"
    )]
    Full { server: Arc<str>, limit: usize },
    #[error(
        "server {server:?} died too often and is not started again for {seconds} s; the last time: {reason}",
        seconds = remaining.as_secs().max(1)
    )]
    Parked { server: Arc<str>, remaining: Duration, reason: Arc<str> },
    #[error("server {server:?} is being shut down")]
    Closed { server: Arc<str> },
}

impl StartError {
    /// Whether it counts as a failed start of the program: not what this server decided itself.
    pub(super) fn is_failed_start(&self) -> bool {
        !matches!(self, Self::Full { .. } | Self::Parked { .. } | Self::Closed { .. })
    }
}

/// How a child ended that was not asked to.
#[derive(Debug)]
pub struct Death {
    pub(super) server: Arc<str>,
    /// What was seen: "it ended", "it printed a line of more than … bytes".
    pub(super) reason: String,
    /// How its process ended, as the system says it; none when it could not be learned.
    pub(super) status: Option<String>,
    /// The last lines of its stderr.
    pub(super) stderr: LastLines,
}

impl fmt::Display for Death {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "server {:?} is gone: {}", self.server, self.reason)?;
        if let Some(status) = &self.status {
            write!(to, " ({status})")?;
        }
        write!(to, "{}", self.stderr)
    }
}

/// The last lines of a child's stderr, as the end of a sentence.
#[derive(Clone, Debug, Default)]
pub struct LastLines(pub(super) Vec<String>);

impl fmt::Display for LastLines {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return to.write_str("; its stderr is empty");
        }
        to.write_str("; the last lines of its stderr:")?;
        self.0.iter().try_for_each(|line| write!(to, "\n  {line}"))
    }
}
