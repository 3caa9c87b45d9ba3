//! Which results may be kept, and what is said of it before there is one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::tags::Tag;
use crate::base::limits::CACHED_MAX_TTL;
use crate::base::seal::sha256;
pub(super) use crate::config::CacheScope as Scope;
use crate::config::ToolFacts;
use crate::tools::registry::{Kind, Registered};

/// How results of one tool, or of one resource, are kept.
#[derive(Debug)]
pub(crate) struct Rules {
    /// A digest of what it is: of another description, version or server it is another one.
    identity: [u8; 32],
    kind: Kind,
    /// The tool's public name, or the URI.
    name: Box<str>,
    server: Box<str>,
    /// How long a result counts that does not say so itself.
    configured: Option<Duration>,
    scope: Scope,
    tags: Vec<Tag>,
    labels: Vec<Box<str>>,
    /// A result of it said that it may be kept: since then it is looked for.
    learned: AtomicBool,
    /// A result of it said that everybody may have it.
    public: AtomicBool,
}

impl Rules {
    /// Of a listed tool; none: its results are never kept. Those are kept of tools of hosted servers that say that they
    /// change nothing (`readOnlyHint`), and of those that say that repeating them changes nothing more (`idempotentHint`)
    /// if the configuration says for how long: for a tool that changes something, being answered without being run is
    /// something for its operator to decide. The built-in code tools keep what they know of each file by its content.
    pub(crate) fn of(tool: &Registered) -> Option<Self> {
        if tool.kind != Kind::Tool || !tool.hosted || tool.host.has_own_task(&tool.host_tool) {
            return None;
        }
        let none = ToolFacts::default();
        let facts = tool.host.facts(&tool.host_tool).unwrap_or(&none);
        let configured = match facts.cache_seconds {
            0 => return None,
            seconds => u64::try_from(seconds).ok().map(|it| Duration::from_secs(it).min(CACHED_MAX_TTL)),
        };
        let server = tool.host.name();
        if !tool.repeatable {
            if configured.is_some() {
                tracing::warn!(
                    server,
                    tool = tool.tool.name,
                    "cache_seconds has no effect: the tool has neither readOnlyHint nor idempotentHint"
                );
            }
            return None;
        }
        if configured.is_none() && !tool.tool.is_read_only() {
            return None;
        }
        let version = match tool.facts.version.is_empty() {
            true => tool.host.status().map(|status| status.version).unwrap_or_default(),
            false => tool.facts.version.clone(),
        };
        let parts = ["tool", server, &tool.host_tool, &version, tool.tool.json.get()];
        let labels: Vec<Box<str>> = facts.tags.iter().map(|tag| tag.as_str().into()).collect();
        let mut tags = vec![Tag::all(), Tag::server(server), Tag::tool(&tool.tool.name)];
        tags.extend(labels.iter().map(|label| Tag::named(label)));
        Some(Self {
            identity: identity(&parts),
            kind: Kind::Tool,
            name: tool.tool.name.as_str().into(),
            server: server.into(),
            configured,
            scope: facts.cache_scope,
            tags,
            labels,
            learned: AtomicBool::new(configured.is_some()),
            public: AtomicBool::new(facts.cache_scope == Scope::Public),
        })
    }

    /// Of a resource of a hosted server. `learned`: one of that server's said that it may be kept.
    pub(super) fn of_resource(server: &str, uri: &str, learned: bool) -> Self {
        Self {
            identity: identity(&["resource", server]),
            kind: Kind::Resource,
            name: uri.into(),
            server: server.into(),
            configured: None,
            scope: Scope::Auto,
            tags: vec![Tag::all(), Tag::resources(server), Tag::uri(uri)],
            labels: Vec::new(),
            learned: AtomicBool::new(learned),
            public: AtomicBool::new(learned),
        }
    }

    pub(super) fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    pub(super) fn method(&self) -> &'static str {
        if self.is_resource() { "resources/read" } else { "tools/call" }
    }

    pub(super) fn is_resource(&self) -> bool {
        self.kind == Kind::Resource
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn configured(&self) -> Option<Duration> {
        self.configured
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    pub(super) fn tags(&self) -> &[Tag] {
        &self.tags
    }

    pub(super) fn labels(&self) -> &[Box<str>] {
        &self.labels
    }

    /// Whether there may be a result of it.
    pub(in crate::tools) fn is_looked_for(&self) -> bool {
        self.learned.load(Ordering::Relaxed)
    }

    /// Whether everybody's may be there.
    pub(super) fn may_be_public(&self) -> bool {
        self.scope != Scope::Private && self.public.load(Ordering::Relaxed)
    }

    /// A result said that it may be kept; true the first time.
    pub(super) fn learn(&self) -> bool {
        !self.learned.swap(true, Ordering::Relaxed)
    }

    pub(super) fn learn_public(&self) {
        self.public.store(true, Ordering::Relaxed);
    }
}

fn identity(parts: &[&str]) -> [u8; 32] {
    let mut text = Vec::new();
    for part in parts {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    sha256(&text)
}
