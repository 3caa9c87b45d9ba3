//! Failures that the caller can act on.

use std::fmt::Write as _;

/// Why an analysis did not run. Every variant has a code and says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnalysisError {
    /// An argument is not what it must be.
    InvalidArgument {
        /// Which.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// A path leads outside of what may be read.
    PathOutsideRoot {
        /// As it was given.
        path: String,
    },
    /// There is nothing of this name.
    NotFound {
        /// As it was given.
        path: String,
        /// The most similar names that do exist, at most three.
        nearest: Vec<String>,
    },
    /// No file of a language that can be read.
    NoSupportedFiles {
        /// As it was given.
        path: String,
        /// The extensions that were seen, most frequent first, at most ten.
        extensions: Vec<String>,
    },
    /// A glob that cannot be read.
    InvalidPattern {
        /// Which argument.
        field: &'static str,
        /// The glob.
        pattern: String,
        /// What is wrong with it.
        message: String,
    },
    /// The cursor is of files that have changed since.
    CursorStale,
    /// Not a cursor of these arguments, or not one of ours.
    InvalidCursor,
    /// Not even one row fits.
    BudgetTooSmall {
        /// The smallest `max_tokens` that would do for this page.
        needed: u64,
    },
    /// The caller has gone.
    Cancelled,
    /// The system failed: the text says how.
    Io(String),
}

impl AnalysisError {
    /// An argument that is not what it must be.
    pub fn argument(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidArgument { field: field.into(), message: message.into() }
    }

    /// The code by which a program tells it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidArgument { .. } => "invalid_argument",
            Self::PathOutsideRoot { .. } => "path_outside_root",
            Self::NotFound { .. } => "not_found",
            Self::NoSupportedFiles { .. } => "no_supported_files",
            Self::InvalidPattern { .. } => "invalid_pattern",
            Self::CursorStale => "cursor_stale",
            Self::InvalidCursor => "invalid_cursor",
            Self::BudgetTooSmall { .. } => "budget_too_small",
            Self::Cancelled => "cancelled",
            Self::Io(_) => "io",
        }
    }

    /// A sentence that says what to do.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::InvalidArgument { field, message } => format!("{field}: {message}"),
            Self::PathOutsideRoot { path } => {
                format!("{path:?} leads outside of the root directory; give a path within it")
            }
            Self::NotFound { path, nearest } => {
                let mut text = format!("there is no {path:?} in the root directory");
                if !nearest.is_empty() {
                    let _ = write!(text, "; the nearest names are {}", nearest.join(", "));
                }
                text
            }
            Self::NoSupportedFiles { path, extensions } => {
                let mut text = format!("no file in {path:?} is of a supported language");
                if extensions.is_empty() {
                    text.push_str("; no other files were seen: they may be ignored or excluded");
                } else {
                    let _ = write!(text, "; the extensions seen are {}", extensions.join(", "));
                }
                text
            }
            Self::InvalidPattern { field, pattern, message } => {
                format!("{field}: {pattern:?} is not a glob: {message}")
            }
            Self::CursorStale => {
                "the files have changed since this cursor was made; ask again without a cursor".into()
            }
            Self::InvalidCursor => {
                "not a cursor of these arguments; give next_cursor of a result with the same arguments".into()
            }
            Self::BudgetTooSmall { needed } => {
                format!("not one row fits into max_tokens; give at least {needed}")
            }
            Self::Cancelled => "the call was cancelled".into(),
            Self::Io(message) => message.clone(),
        }
    }
}

impl std::fmt::Display for AnalysisError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for AnalysisError {}
