//! What can go wrong in a store.

use super::ImportError;
use crate::state::doc::Version;

/// What a caller can do about a failed store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A write that was acknowledged by nobody: the disk failed, and nothing more is written until a restart.
    #[error("the store stopped writing after a failed sync: {0}; restart to recover")]
    Poisoned(String),
    /// The disk is full or nearly so; reads go on.
    #[error("the disk is full: {0}")]
    Full(String),
    /// The data directory cannot be used; the text says what to do.
    #[error("{0}")]
    Unusable(String),
    /// Another process holds the data directory; the text names it and says what to do.
    #[error("{0}")]
    InUse(String),
    /// A cap of the configuration; the text names the setting.
    #[error("{0}")]
    Cap(String),
    /// The session is not there: unknown, ended, or its time is over.
    #[error("the session is gone: it ended or its time is over")]
    Gone,
    /// A record cannot be opened: its key is not there, or it was changed or moved. Everything else goes on.
    #[error("{0}")]
    Sealed(String),
    /// What was asked for makes no sense; the text says why. Asking again changes nothing.
    #[error("{0}")]
    Invalid(String),
    /// The document is not at the version that the writer has seen: read it again.
    #[error("the document is at version {actual}, not {expected}: read it again")]
    Conflict {
        /// What the writer expected.
        expected: Version,
        /// What it is.
        actual: Version,
    },
    /// Somebody else holds the lock.
    #[error("the lock {name:?} is held for {left_ms} ms more")]
    Held {
        /// The lock.
        name: String,
        /// How long the holder still has, milliseconds.
        left_ms: u64,
    },
    /// A lock of all instances, of which only the shared store could say anything; the text says what to do.
    #[error("{}", unshared(.name, .why))]
    Unshared {
        /// The lock.
        name: String,
        /// Why it cannot be asked.
        why: String,
    },
    /// The token is not the one of the lock's holder.
    #[error("{}", not_holder(.name, *.left_ms))]
    NotHolder {
        /// The lock.
        name: String,
        /// How long the holder still has, milliseconds; 0: nobody holds it.
        left_ms: u64,
    },
    /// The writer held a lock that somebody else has taken since, or that nobody knows any more.
    #[error("{}", fenced(.lock, *.fence, *.newest))]
    Fenced {
        /// The lock.
        lock: String,
        /// The writer's fence.
        fence: u64,
        /// The newest one; `None`: the lock is forgotten.
        newest: Option<u64>,
    },
    /// A session cannot be kept beyond its deadline.
    #[error(
        "the session is over at {deadline_ms} ms since the epoch, {left_ms} ms from now: it cannot be kept longer"
    )]
    BeyondDeadline {
        /// Its deadline, in milliseconds since the epoch.
        deadline_ms: u64,
        /// How far away that is, milliseconds.
        left_ms: u64,
    },
    /// A file that was not imported.
    #[error("{0}")]
    Import(ImportError),
    /// Anything else of the disk.
    #[error("store: {0}")]
    Io(String),
    /// The store is closed: the server is ending.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether one request was refused and nothing is wrong with the store.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Poisoned(_)
            | Self::Full(_)
            | Self::Unusable(_)
            | Self::InUse(_)
            | Self::Io(_)
            | Self::Closed => false,
            Self::Cap(_)
            | Self::Gone
            | Self::Sealed(_)
            | Self::Invalid(_)
            | Self::Conflict { .. }
            | Self::Held { .. }
            | Self::Unshared { .. }
            | Self::NotHolder { .. }
            | Self::Fenced { .. }
            | Self::BeyondDeadline { .. }
            | Self::Import(_) => true,
        }
    }
}

fn unshared(name: &str, why: &str) -> String {
    format!(
        "the lock {name:?} is one of all instances, and only Redis could say who holds it: {why}; nothing was promised. \
         Try again when `outlast status` shows the link as up, or take one of this instance alone (--scope instance, \
         \"scope\": \"instance\"), which no other instance sees"
    )
}

fn not_holder(name: &str, left_ms: u64) -> String {
    match left_ms {
        0 => format!("nobody holds the lock {name:?}, its time is over: take it again"),
        _ => format!("this is not the token of the lock {name:?}, whose holder has {left_ms} ms more"),
    }
}

fn fenced(lock: &str, fence: u64, newest: Option<u64>) -> String {
    match newest {
        Some(newest) => {
            format!("the lock {lock:?} is at fence {newest}, past {fence}: somebody else has taken it")
        }
        None => format!("the lock {lock:?} is forgotten, and with it the fence {fence}: take it again"),
    }
}
