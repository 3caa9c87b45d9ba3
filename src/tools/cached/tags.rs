//! What a kept result is known by beside its key, so that many can be voided at once.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::limits::VOIDED_TAGS;
use crate::base::seal::{hex, sha256};
use crate::base::table::Table;

/// A tag: a digest, so that neither names nor URIs are readable where instances share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Tag([u8; 16]);

impl Tag {
    /// That of everything.
    #[must_use]
    pub fn all() -> Self {
        Self::of("all", "")
    }

    /// That of all tools of a server.
    #[must_use]
    pub fn server(name: &str) -> Self {
        Self::of("server", name)
    }

    /// That of all resources of a server.
    #[must_use]
    pub fn resources(server: &str) -> Self {
        Self::of("resources", server)
    }

    /// That of a tool, by its public name.
    #[must_use]
    pub fn tool(name: &str) -> Self {
        Self::of("tool", name)
    }

    /// That of a resource.
    #[must_use]
    pub fn uri(uri: &str) -> Self {
        Self::of("uri", uri)
    }

    /// One that the configuration or a result gives.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::of("named", name)
    }

    /// From its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut tag = [0; 16];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != tag.len() || !rest.is_empty() {
            return None;
        }
        for (byte, pair) in tag.iter_mut().zip(pairs) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(tag))
    }

    fn of(kind: &str, name: &str) -> Self {
        let digest = sha256(format!("{kind}\0{name}").as_bytes());
        let mut tag = [0; 16];
        tag.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self(tag)
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// When each tag was voided last, in numbers that count voidings.
#[derive(Debug, Default)]
pub(super) struct Voids {
    now: AtomicU64,
    /// Up to this number everything counts as voided.
    floor: AtomicU64,
    tags: Table<Tag, u64>,
}

impl Voids {
    /// The number of the last voiding: what is begun now is void if one of its tags is voided after it.
    pub(super) fn now(&self) -> u64 {
        self.now.load(Ordering::Acquire)
    }

    pub(super) fn void(&self, tags: &[Tag]) {
        let number = self.now.fetch_add(1, Ordering::AcqRel) + 1;
        for tag in tags {
            self.tags.with_or_insert(*tag, || number, |last| *last = (*last).max(number));
        }
        if self.tags.len() > VOIDED_TAGS {
            // Of what is forgotten it has to be taken that it was voided now.
            self.floor.fetch_max(number, Ordering::AcqRel);
            self.tags.retain(|_, last| *last > number);
        }
    }

    /// Whether one of these was voided after `since`.
    pub(super) fn is_void(&self, since: u64, tags: &[Tag]) -> bool {
        // Nothing was voided after the last one.
        since < self.now()
            && (self.floor.load(Ordering::Acquire) > since
                || tags.iter().any(|tag| self.tags.with(tag, |last| *last > since).unwrap_or(false)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_reads_back_and_kinds_do_not_meet() {
        let tags = [
            Tag::all(),
            Tag::server("a"),
            Tag::resources("a"),
            Tag::tool("a"),
            Tag::uri("a"),
            Tag::named("a"),
        ];
        for (at, tag) in tags.iter().enumerate() {
            assert_eq!(Tag::parse(&tag.to_string()), Some(*tag));
            assert!(!tags[..at].contains(tag));
        }
        for bad in ["", "0", &"0g".repeat(16), &"00".repeat(15), &"00".repeat(17)] {
            assert_eq!(Tag::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_was_begun_before_a_voiding_of_its_tag_is_void_and_nothing_else() {
        let voids = Voids::default();
        let (a, b) = (Tag::named("a"), Tag::named("b"));
        let before = voids.now();
        voids.void(&[a]);
        assert!(voids.is_void(before, &[b, a]));
        assert!(!voids.is_void(before, &[b]));
        assert!(!voids.is_void(voids.now(), &[a]));
    }

    #[test]
    fn more_tags_than_are_remembered_void_everything_of_before() {
        let voids = Voids::default();
        let before = voids.now();
        for number in 0..=VOIDED_TAGS {
            voids.void(&[Tag::named(&number.to_string())]);
        }
        assert!(voids.tags.len() <= VOIDED_TAGS);
        assert!(voids.is_void(before, &[Tag::named("another")]));
        assert!(!voids.is_void(voids.now(), &[Tag::named("another")]));
    }
}
