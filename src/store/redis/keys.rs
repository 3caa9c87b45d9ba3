//! The names of everything that instances share. What is in braces decides the slot, so that a session's keys lie
//! together in a cluster.
//!
//! | Key | Type | Content |
//! |---|---|---|
//! | `{prefix}:session:{id}` | hash | a document: field, its stamp and value |
//! | `{prefix}:log:{id}` | stream | a log: origin, number, digest and entry |
//! | `{prefix}:mark:{id}` | hash | by origin the highest number and its digest; lives and dies with the log |
//! | `{prefix}:result:{id}:NAME` | hash | a result: fence, revision, rank, payload |
//! | `{prefix}:lock:{name}` | hash | a lock: token, fence, end |
//! | `{prefix}:cache:{key}` | string | a cached value: when it was made, what it is |
//! | `{prefix}:cache:{~voided}` | hash | which tags of cached values were voided last, and when |
//! | `{prefix}:inst:{mcp}` | hash | the instances that live |
//! | `{prefix}:meta:{mcp}` | hash | what all instances agree on: format, keys |
//! | `{prefix}:canary:{kNN}` | string | tells this data set from another one |

use crate::base::ids::SessionKey;

/// Canaries: so many that every shard has some.
pub(super) const CANARIES: u16 = 64;
/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Names under a prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

/// What was written, by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Written<'a> {
    Session(SessionKey),
    /// A document that belongs to no session: a probe, by its name.
    Probe(&'a str),
    Log(SessionKey),
    Result(SessionKey, &'a str),
    Cache(&'a str),
    Voided,
}

/// In place of a cached value's key: what is known of voided tags.
const VOIDED: &str = "~voided";

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn session(&self, key: SessionKey) -> String {
        format!("{}:session:{{{key}}}", self.prefix)
    }

    /// The document that probes write; `name` is chosen so that it lies on the shard in question.
    pub(super) fn probe(&self, name: &str) -> String {
        format!("{}:session:{{{name}}}", self.prefix)
    }

    pub(super) fn log(&self, key: SessionKey) -> [String; 2] {
        [format!("{}:log:{{{key}}}", self.prefix), format!("{}:mark:{{{key}}}", self.prefix)]
    }

    pub(super) fn result(&self, key: SessionKey, name: &str) -> String {
        format!("{}:result:{{{key}}}:{name}", self.prefix)
    }

    pub(super) fn lock(&self, name: &str) -> String {
        format!("{}:lock:{{{name}}}", self.prefix)
    }

    pub(super) fn cache(&self, key: &str) -> String {
        format!("{}:cache:{{{key}}}", self.prefix)
    }

    pub(super) fn voided(&self) -> String {
        self.cache(VOIDED)
    }

    pub(super) fn instances(&self) -> String {
        format!("{}:inst:{{mcp}}", self.prefix)
    }

    pub(super) fn meta(&self) -> String {
        format!("{}:meta:{{mcp}}", self.prefix)
    }

    pub(super) fn canary(&self, number: u16) -> String {
        format!("{}:canary:{{k{number:02}}}", self.prefix)
    }

    /// The pattern that finds all documents.
    pub(super) fn session_pattern(&self) -> String {
        let mut pattern = String::new();
        for c in self.prefix.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push_str(":session:{*");
        pattern
    }

    /// Beginnings of the keys whose changes are heard of. Marks are written with their log.
    pub(super) fn tracked(&self) -> [String; 4] {
        ["session", "log", "result", "cache"].map(|kind| format!("{}:{kind}:", self.prefix))
    }

    /// What a key that changed is; `None`: nothing of ours.
    pub(super) fn read<'a>(&self, key: &'a str) -> Option<Written<'a>> {
        let (kind, rest) = key.strip_prefix(&self.prefix)?.strip_prefix(':')?.split_once(":{")?;
        if kind == "cache" {
            return rest.strip_suffix('}').map(|key| match key {
                VOIDED => Written::Voided,
                key => Written::Cache(key),
            });
        }
        let (id, name) = rest.split_once('}')?;
        let session = SessionKey::parse(id);
        match (kind, session) {
            ("session", Some(key)) if name.is_empty() => Some(Written::Session(key)),
            ("session", None) if name.is_empty() => Some(Written::Probe(id)),
            ("log", Some(key)) if name.is_empty() => Some(Written::Log(key)),
            ("result", Some(key)) => Some(Written::Result(key, name.strip_prefix(':')?)),
            _ => None,
        }
    }
}

/// The slot of a key in a cluster (Redis Cluster specification): CRC16 of what is in its first braces, or of all of it.
pub(super) fn slot(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    crc16(tag.unwrap_or(key).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 { shifted } else { shifted ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_changed_is_read_back() {
        let (keys, key) = (Keys::new("a:b"), SessionKey::random());
        let [log, mark] = keys.log(key);
        let probe = keys.probe("probe-1");
        for (text, written) in [
            (&keys.session(key), Some(Written::Session(key))),
            (&probe, Some(Written::Probe("probe-1"))),
            (&log, Some(Written::Log(key))),
            (&mark, None),
            (&keys.result(key, "x}:{y"), Some(Written::Result(key, "x}:{y"))),
            (&keys.cache("a}b"), Some(Written::Cache("a}b"))),
            (&keys.voided(), Some(Written::Voided)),
            (&keys.lock("l"), None),
            (&"other:session:{x}".to_owned(), None),
            (&"a:b:session".to_owned(), None),
        ] {
            assert_eq!(keys.read(text), written, "{text}");
        }
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot("foo"), 12_182);
        assert_eq!(slot("{user1000}.following"), slot("{user1000}.followers"));
        assert_eq!(slot("foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot("foo{{bar}}zap"), crc16(b"{bar") % SLOTS);
    }

    #[test]
    fn a_sessions_keys_share_a_slot() {
        let (keys, key) = (Keys::new("mcp"), SessionKey::random());
        let [log, mark] = keys.log(key);
        for other in [log, mark, keys.result(key, "{n}")] {
            assert_eq!(slot(&other), slot(&keys.session(key)));
        }
    }
}
