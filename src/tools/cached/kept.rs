//! A result as it is kept, and as it is told again.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::rules::{Rules, Scope};
use super::tags::Tag;
use crate::base::limits::{CACHED_MAX_TTL, CACHED_PACK_ABOVE, TAG_BYTES, TAGS_EACH};
use crate::mcp::view::{SERVER_INFO, server_info};
use crate::rpc::object::{Change, Object};
use crate::tools::answer::raw;

/// Key in a result's `_meta`: it was not made for this call, and how old it is.
pub const CACHED: &str = "outlast/cached";
/// Key in a result's `_meta`: tags by which it can be voided.
pub const TAGS: &str = "outlast/tags";
/// Key in a request's `_meta`: `true` for a result that is made now.
pub const NO_CACHE: &str = "outlast/noCache";

const LEVEL: i32 = 1;

/// A result without what is said anew each time: its members but `_meta` and `ttlMs`, and those of `_meta`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The tool's public name, or the URI.
    pub(super) name: Box<str>,
    pub(super) server: Box<str>,
    pub(super) public: bool,
    /// When its making began, milliseconds since the epoch.
    pub(super) made_ms: u64,
    pub(super) tags: Vec<Tag>,
    pub(super) labels: Vec<Box<str>>,
    /// It says itself how long it counts.
    says_ttl: bool,
    /// Members of its `_meta`, JSON text without the braces.
    meta: Box<str>,
    /// Its `_meta` names the server.
    names_server: bool,
    members: Members,
}

/// Members of an object, JSON text without the braces.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Members {
    Plain(Box<str>),
    /// Their length, and zstd.
    Packed(usize, #[serde(with = "serde_bytes")] Vec<u8>),
}

/// A result that may be kept.
pub(super) struct Verdict {
    pub(super) kept: Kept,
    /// How long it counts, from the beginning of its making.
    pub(super) ttl: Duration,
    /// It says so itself.
    pub(super) says_ttl: bool,
}

impl Kept {
    /// Whether and how a result is kept. Not one that says that the tool failed, that asks something, or of which nobody
    /// says how long it counts.
    pub(super) fn of(rules: &Rules, result: &RawValue, made_ms: u64) -> Option<Verdict> {
        let object = Object::parse(result.get()).ok()?;
        let is = |key: &str, text: &str| object.get(key).is_some_and(|value| value.get() == text);
        let complete = object.get("resultType").is_none_or(|kind| kind.get() == "\"complete\"");
        if is("isError", "true") || !complete || object.get("task").is_some() {
            return None;
        }
        let said = object.get("ttlMs").map(|said| milliseconds(said.get()));
        let ttl = said.or(rules.configured())?.min(CACHED_MAX_TTL);
        if ttl.is_zero() {
            return None;
        }
        let public = match rules.scope() {
            Scope::Private => false,
            Scope::Public => !is("cacheScope", "\"private\""),
            Scope::Auto => is("cacheScope", "\"public\""),
        };
        let own = object.get("_meta").and_then(|meta| Object::parse(meta.get()).ok());
        let (mut tags, mut labels) = (rules.tags().to_vec(), rules.labels().to_vec());
        for label in own.as_ref().map(named_tags).unwrap_or_default() {
            tags.push(Tag::named(&label));
            labels.push(label.into());
        }
        let names_server = own.as_ref().is_some_and(|meta| meta.get(SERVER_INFO).is_some());
        let meta = own.map(|meta| meta.with(|key, _| dropped_if(key == CACHED))).unwrap_or_default();
        let members = object.with(|key, _| dropped_if(matches!(key, "_meta" | "ttlMs")));
        let kept = Self {
            name: rules.name().into(),
            server: rules.server().into(),
            public,
            made_ms,
            tags,
            labels,
            says_ttl: said.is_some(),
            meta: inner(&meta).into(),
            names_server,
            members: Members::Plain(inner(&members).into()),
        };
        Some(Verdict { kept, ttl, says_ttl: said.is_some() })
    }

    /// As it is told after so long, with so much time left. `modern`: in the form of 2026-07-28.
    pub(super) fn told(&self, age_ms: u64, left_ms: u64, modern: bool) -> Box<RawValue> {
        let unpacked;
        let members = match &self.members {
            Members::Plain(members) => &**members,
            Members::Packed(len, packed) => {
                unpacked = unpack(packed, *len);
                &unpacked
            }
        };
        let mut text = String::with_capacity(members.len() + self.meta.len() + 256);
        text.push_str(&format!("{{\"_meta\":{{\"{CACHED}\":{{\"ageMs\":{age_ms}}}"));
        if modern && !self.names_server {
            text.push_str(&format!(",\"{SERVER_INFO}\":{}", server_info()));
        }
        if !self.meta.is_empty() {
            text.push(',');
            text.push_str(&self.meta);
        }
        text.push('}');
        if self.says_ttl {
            text.push_str(&format!(",\"ttlMs\":{left_ms}"));
        }
        if !members.is_empty() {
            text.push(',');
            text.push_str(members);
        }
        text.push('}');
        raw(text)
    }

    /// The same, packed if it is long and that makes it shorter.
    pub(super) fn packed(mut self) -> Self {
        if let Members::Plain(members) = &self.members
            && members.len() > CACHED_PACK_ABOVE
            && let Ok(packed) = zstd::bulk::compress(members.as_bytes(), LEVEL)
            && packed.len() < members.len()
        {
            self.members = Members::Packed(members.len(), packed);
        }
        self
    }

    pub(super) fn is_packed(&self) -> bool {
        matches!(self.members, Members::Packed(..))
    }

    /// What it takes, bytes.
    pub(super) fn bytes(&self) -> usize {
        let members = match &self.members {
            Members::Plain(members) => members.len(),
            Members::Packed(_, packed) => packed.len(),
        };
        let labels: usize = self.labels.iter().map(|label| label.len() + 16).sum();
        members + self.meta.len() + self.name.len() + self.server.len() + labels + self.tags.len() * 16
    }

    /// For the shared tier, which packs for itself.
    pub(super) fn to_bytes(&self) -> Option<Bytes> {
        rmp_serde::to_vec_named(self).ok().map(Bytes::from)
    }

    /// Reads what [`Kept::to_bytes`] made; none: another version of this program made it.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let kept: Self = rmp_serde::from_slice(bytes).ok()?;
        // What is packed was unpacked by whoever shared it.
        matches!(kept.members, Members::Plain(_)).then_some(kept)
    }
}

/// Text that was packed here, in memory. Never fails short of memory that went bad; then nothing is left of it.
fn unpack(packed: &[u8], len: usize) -> String {
    let bytes = zstd::bulk::decompress(packed, len).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

fn dropped_if(drop: bool) -> Change {
    if drop { Change::Drop } else { Change::Keep }
}

/// What stands between the braces.
fn inner(object: &str) -> &str {
    object.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default()
}

/// A number of milliseconds; what is none, or less than none, is none.
fn milliseconds(json: &str) -> Duration {
    if let Ok(ms) = json.parse::<u64>() {
        return Duration::from_millis(ms);
    }
    let ms: f64 = json.parse().unwrap_or_default();
    Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or(if ms > 0.0 {
        CACHED_MAX_TTL
    } else {
        Duration::ZERO
    })
}

fn named_tags(meta: &Object<'_>) -> Vec<String> {
    let said = meta.get(TAGS).and_then(|said| serde_json::from_str::<Vec<String>>(said.get()).ok());
    let mut said = said.unwrap_or_default();
    said.retain(|tag| (1..=TAG_BYTES).contains(&tag.len()));
    said.truncate(TAGS_EACH);
    said
}
