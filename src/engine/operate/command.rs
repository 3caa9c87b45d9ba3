//! What the operator can want, and what comes of it.

use bytes::Bytes;
use serde_json::Value;

use crate::base::ids::SessionKey;
use crate::engine::rest::Old;
use crate::state::doc::Version;
use crate::state::lock::Scope;

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A page of sessions.
    List(Filter),
    /// A session is made, unless it is there.
    Create {
        /// Whose it is to be, by name; none: everybody's.
        principal: Option<String>,
        /// Its key; none: any.
        key: Option<SessionKey>,
    },
    /// Something of one session.
    Session {
        /// Its key, or its whole id.
        session: String,
        /// What.
        act: Act,
    },
    /// Something of a lock.
    Lock {
        /// Its name.
        name: String,
        /// What.
        act: LockAct,
    },
    /// Something is said on a topic.
    Publish {
        /// Which.
        topic: String,
        /// JSON text.
        message: Bytes,
    },
    /// How many locks there are.
    Locks,
    /// Values that lost against a later write of another instance, the oldest first.
    Conflicts {
        /// Those whose numbers are higher.
        after: u64,
        /// At most so many.
        limit: usize,
    },
    /// Something of the cache of results.
    Cache(CacheAct),
    /// How the hosted servers are.
    Servers,
    /// The tools, as clients see them.
    Tools,
    /// A tool, with all that is known of it.
    Tool {
        /// Its name, as clients see it.
        name: String,
    },
    /// A tool is called, for the operator and without a session.
    Call {
        /// Its name, as clients see it.
        name: String,
        /// An object, as JSON text; nothing: an empty one.
        arguments: Bytes,
    },
    /// An exported session is put in, and can be used at once.
    Import {
        /// What [`Act::Export`] gave.
        file: Bytes,
        /// In place of the session that is there.
        replace: bool,
    },
    /// Sessions of the Flask bridge become sessions here.
    TakeOver {
        /// Whose they are to be.
        principal: String,
        /// What was stored.
        sessions: Vec<Old>,
    },
}

/// Which sessions are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those after this one.
    pub after: Option<SessionKey>,
    /// At most so many.
    pub limit: usize,
    /// Of this principal: its name, or the hash under which the store knows it.
    pub principal: Option<String>,
    /// Those that were not used for longer than this, milliseconds.
    pub idle_over_ms: Option<u64>,
}

/// What is done with a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// All that is known of it, without its values.
    Inspect,
    /// A value.
    Value {
        /// Its name.
        name: String,
    },
    /// A value is written.
    SetValue {
        /// Its name.
        name: String,
        /// What it is to be.
        value: Bytes,
        /// Only if the session is at this version.
        expected: Option<Version>,
        /// Only if this is the newest fence of this lock.
        fence: Option<(String, u64)>,
    },
    /// A value is removed.
    RemoveValue {
        /// Its name.
        name: String,
        /// Only if the session is at this version.
        expected: Option<Version>,
    },
    /// It ends: its calls, its streams, its values.
    End,
    /// How long it has.
    Ttl,
    /// It is kept for so long from now, milliseconds, though nobody uses it.
    Extend {
        /// From now, milliseconds.
        by_ms: u64,
    },
    /// It becomes a file.
    Export,
}

/// What is done with the cache of results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheAct {
    /// What it holds and what it was good for.
    Stats,
    /// Results in memory, those that were made last first.
    List {
        /// Only these.
        which: Option<Which>,
        /// At most so many.
        limit: usize,
    },
    /// They count no more, on any instance.
    Clear {
        /// Only these; none: all.
        which: Option<Which>,
    },
}

/// Some of the results in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those of a tool, by its public name.
    Tool(String),
    /// Those with a tag.
    Tag(String),
}

/// What is done with a lock.
#[derive(Clone, PartialEq, Eq)]
pub enum LockAct {
    /// How it stands.
    Look,
    /// It is taken.
    Take {
        /// For so long, milliseconds.
        ttl_ms: u64,
        /// Among whom; `None`: among all instances where the mode says that there are others.
        scope: Option<Scope>,
        /// In the name of this session, with which it goes: its key, or its whole id.
        session: Option<String>,
    },
    /// Its holder has it for longer.
    Renew {
        /// The holder's token.
        token: String,
        /// From now, milliseconds.
        ttl_ms: u64,
    },
    /// Its holder lets it go.
    Release {
        /// The holder's token.
        token: String,
    },
}

/// Without tokens.
impl std::fmt::Debug for LockAct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Look => "Look",
            Self::Take { .. } => "Take",
            Self::Renew { .. } => "Renew",
            Self::Release { .. } => "Release",
        })
    }
}

/// What came of a command.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// An object.
    Told(Value),
    /// An object, as JSON text: nothing of it is read here.
    Text(Bytes),
    /// An exported session.
    File(Bytes),
}
