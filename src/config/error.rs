//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// The configuration file.
    File {
        /// The file, as it was named.
        path: Arc<PathBuf>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// A file of `--mcp-json`.
    McpJson(Arc<PathBuf>),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::McpJson(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the value came from; none when it belongs to no single value.
    pub source: Option<Source>,
    /// The line of the file, without secrets.
    pub shown: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    /// A problem with a value from `source`.
    #[must_use]
    pub fn at(source: Source, message: impl Into<String>) -> Self {
        Self { source: Some(source), shown: None, message: message.into() }
    }

    /// A problem that belongs to no single value.
    #[must_use]
    pub fn general(message: impl Into<String>) -> Self {
        Self { source: None, shown: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{source}: {}", self.message)?,
            None => f.write_str(&self.message)?,
        }
        if let (Some(shown), Some(Source::File { line, column, .. })) = (&self.shown, &self.source) {
            let number = line.to_string();
            let (left, up_to) = (number.len(), column.saturating_sub(1));
            write!(f, "\n  {number} | {shown}\n  {:left$} | {:up_to$}^", "", "")?;
        }
        Ok(())
    }
}

/// Why a configuration is refused: everything that was found wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
