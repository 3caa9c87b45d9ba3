//! Parts of a hosted server's section: what its children may use, and what is said of its tools.

use serde::{Deserialize, Serialize};

/// `[servers.NAME.limits]`: what a child, with everything that it starts, may use. 0: as much as there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChildLimits {
    /// Memory of all its processes together, bytes.
    pub memory_bytes: u64,
    /// Processor time of each of its processes, seconds.
    pub cpu_seconds: u64,
    /// Files that each of its processes has open.
    pub open_files: u64,
    /// Processes and threads together.
    pub processes: u64,
}

impl Default for ChildLimits {
    fn default() -> Self {
        Self {
            // Far above what servers need that do not leak, a browser included.
            memory_bytes: 4 << 30,
            // A server may live for weeks.
            cpu_seconds: 0,
            open_files: 4_096,
            processes: 1_024,
        }
    }
}

/// `[servers.NAME.tools.TOOL]`: what is known of a tool beside what its server says. TOOL is the server's own name of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolFacts {
    /// Its version; empty: what the tool says, else that of its server.
    pub version: String,
    /// Tools that it is of no use without, by the names that clients see. While one of them is missing, it is not listed.
    pub needs: Vec<String>,
    /// What it is for, in a few words each: for clients that choose tools by intent.
    pub intents: Vec<String>,
    /// How long its calls take.
    pub class: TimeClass,
    /// A call that takes longer is ended with an error, seconds; 0: as its class says.
    pub timeout_seconds: u64,
    /// How often a call that failed is made again where that does no harm; -1: `tools.retries`.
    pub retries: i64,
    /// Calls of it that run at a time; 0: any number.
    pub max_concurrent: usize,
    /// Which of its calls are held against its schemas.
    pub validate: Validate,
    /// A result that does not say itself for how long it counts is answered again for so long, seconds, if the tool says
    /// that calling it again changes nothing; 0: none of its results is, -1: only those that say so.
    pub cache_seconds: i64,
    /// Who may have a result that is answered again.
    pub cache_scope: CacheScope,
    /// Tags by which kept results can be voided.
    pub tags: Vec<String>,
}

impl Default for ToolFacts {
    fn default() -> Self {
        Self {
            version: String::new(),
            needs: Vec::new(),
            intents: Vec::new(),
            class: TimeClass::Auto,
            timeout_seconds: 0,
            retries: -1,
            max_concurrent: 0,
            validate: Validate::Both,
            cache_seconds: -1,
            cache_scope: CacheScope::Auto,
            tags: Vec::new(),
        }
    }
}

/// How long calls of a tool take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeClass {
    /// As the tool says itself: one that may be a task takes long.
    #[default]
    Auto,
    /// `tools.short_timeout_seconds`
    Short,
    /// `tools.call_timeout_seconds`
    Long,
}

/// Who may have a kept result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheScope {
    /// Everybody, if it says so itself (`cacheScope`); else the principal for whom it was made.
    #[default]
    Auto,
    /// The principal for whom it was made, whatever it says.
    Private,
    /// Everybody, unless it says that it is private.
    Public,
}

/// What is held against the schemas of a tool. Of two that say it the one that says less counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Validate {
    /// Nothing.
    Off,
    /// Arguments, before the tool runs.
    Input,
    /// Arguments, and structured results after it.
    #[default]
    Both,
}
