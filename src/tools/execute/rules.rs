//! What is said of how a tool's calls are run: by the configuration, else by the tool itself, else by default.

use std::time::Duration;

use serde::Deserialize;

use crate::config::{self, TimeClass, ToolFacts, Validate};
use crate::mcp::task::TaskSupport;
use crate::tools::registry::Registered;

/// Key in a tool's `_meta`: `short` or `long`.
const CLASS: &str = "outlast/class";

/// How the calls of one tool are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// What is held against its schemas.
    pub(super) validate: Validate,
    /// How long a call may take without news; none: as long as it likes.
    pub(super) time: Option<Time>,
    /// How often it is made again.
    pub(super) retries: u32,
    /// Calls at a time; 0: any number.
    pub(super) max_concurrent: usize,
    /// How long a call waits for a place.
    pub(super) queue: Duration,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time {
    /// Without news.
    pub(super) within: Duration,
    /// With news.
    pub(super) most: Duration,
    /// The setting that says so.
    pub(super) setting: &'static str,
}

impl Rules {
    /// Of a listed tool.
    pub(super) fn of(tool: &Registered, settings: &config::Tools) -> Self {
        let none = ToolFacts::default();
        let facts = tool.host.facts(&tool.host_tool).unwrap_or(&none);
        let (seconds, setting) = match (facts.timeout_seconds, facts.class, tool.host.call_timeout_seconds())
        {
            (own @ 1.., _, _) => (own, "timeout_seconds of the tool"),
            (0, TimeClass::Auto, server @ 1..) => (server, "call_timeout_seconds of its server"),
            (0, TimeClass::Short, _) => (settings.short_timeout_seconds, SHORT),
            (0, TimeClass::Long, _) => (settings.call_timeout_seconds, LONG),
            (0, TimeClass::Auto, 0) => match says_long(tool) {
                true => (settings.call_timeout_seconds, LONG),
                false => (settings.short_timeout_seconds, SHORT),
            },
        };
        let within = Duration::from_secs(seconds);
        // Whoever gives one tool more than all may have means it.
        let most = Duration::from_secs(settings.call_max_seconds).max(within);
        Self {
            validate: settings.validate.min(facts.validate),
            time: tool.host.is_timed().then_some(Time { within, most, setting }),
            // What runs in this process fails the same way again.
            retries: match u32::try_from(facts.retries) {
                _ if !tool.hosted => 0,
                Ok(own) => own,
                Err(_) => settings.retries,
            },
            max_concurrent: facts.max_concurrent,
            queue: Duration::from_secs(settings.queue_seconds),
        }
    }
}

const SHORT: &str = "tools.short_timeout_seconds";
const LONG: &str = "tools.call_timeout_seconds";

/// Whether a tool says that its calls take long: one that may be a task does.
fn says_long(tool: &Registered) -> bool {
    #[derive(Deserialize)]
    struct Described {
        #[serde(default, rename = "_meta")]
        meta: Option<serde_json::Value>,
    }
    let described: Option<Described> = serde_json::from_str(tool.tool.json.get()).ok();
    let class = described
        .and_then(|tool| tool.meta)
        .and_then(|mut meta| meta.get_mut(CLASS).map(serde_json::Value::take));
    match class.as_ref().and_then(serde_json::Value::as_str) {
        Some("long") => true,
        Some("short") => false,
        _ => tool.task_support != TaskSupport::Forbidden,
    }
}
