//! The session document: fields with stamps, merged by join.
//!
//! A document is joined with any other copy of itself, in any order and any number of times, and all copies end up
//! equal: per field the newer stamp wins, a removed field is a stamped marker without value, the end of a session
//! absorbs everything (the earliest one wins), the time it was last used is the latest known (docs/sessions.md).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::stamp::Stamp;
use crate::base::limits::FIELD_NAME_BYTES;

/// The version of a document: the newest stamp in it, or none while nothing was ever written.
///
/// As text the stamp's, or `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub Option<Stamp>);

impl Version {
    /// Reads the text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Self(None)),
            _ => Stamp::parse(text).map(|stamp| Self(Some(stamp))),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(stamp) => stamp.fmt(f),
            None => f.write_str("0"),
        }
    }
}

/// One field: what was written last, by stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// When and by whom.
    pub stamp: Stamp,
    /// The value; `None`: the field was removed.
    pub value: Option<Bytes>,
}

/// A session's document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doc {
    principal: Arc<str>,
    deadline_ms: u64,
    fields: BTreeMap<Arc<str>, Field>,
    seen: Option<Stamp>,
    ended: Option<Stamp>,
    removed: Option<Stamp>,
    bytes: usize,
}

impl Doc {
    /// The document of a session that begins: whose it is, and the moment at which it is over whatever happens, in
    /// milliseconds since the epoch. Both stay.
    #[must_use]
    pub fn new(principal: &str, deadline_ms: u64, born: Stamp) -> Self {
        Self { principal: principal.into(), deadline_ms, seen: Some(born), ..Self::default() }
    }

    /// Whether a field may have this name: 1 to [`FIELD_NAME_BYTES`] bytes, without NUL, not beginning with `~`.
    #[must_use]
    pub fn is_field_name(name: &str) -> bool {
        (1..=FIELD_NAME_BYTES).contains(&name.len()) && !name.starts_with('~') && !name.contains('\0')
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&Bytes> {
        self.fields.get(field).and_then(|field| field.value.as_ref())
    }

    /// The fields that have a value, by name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.fields.iter().filter_map(|(name, field)| Some((&**name, field.value.as_ref()?)))
    }

    /// All fields with their stamps, by name, the removed ones too.
    pub fn stamped(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.fields.iter().map(|(name, field)| (&**name, field))
    }

    /// One field with its stamp, also when it was removed.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name)
    }

    /// What it takes: names, values and stamps, those of removed fields too, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whose session it is.
    #[must_use]
    pub fn principal(&self) -> &Arc<str> {
        &self.principal
    }

    /// The session is over at this moment, in milliseconds since the epoch.
    #[must_use]
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// When it was last used, as far as this copy knows, in milliseconds since the epoch.
    #[must_use]
    pub fn last_seen_ms(&self) -> u64 {
        self.seen.map_or(0, Stamp::ms)
    }

    /// The stamp of its last use.
    #[must_use]
    pub fn seen(&self) -> Option<Stamp> {
        self.seen
    }

    /// The stamp of its end, if it was ended.
    #[must_use]
    pub fn ended(&self) -> Option<Stamp> {
        self.ended
    }

    /// The newest stamp in it: equal for equal documents, and higher after every change but a mere use.
    #[must_use]
    pub fn version(&self) -> Version {
        let newest = || self.fields.values().map(|field| field.stamp).max().max(self.removed);
        Version(self.ended.or_else(newest))
    }

    /// The newest stamp of a removal whose marker was dropped.
    #[must_use]
    pub fn removed(&self) -> Option<Stamp> {
        self.removed
    }

    /// Notes that a field was removed then, whose marker is not here: versions do not go back below it.
    pub fn note_removed(&mut self, stamp: Stamp) {
        if self.ended.is_none() {
            self.removed = self.removed.max(Some(stamp));
        }
    }

    /// Drops the markers of removed fields and returns their names. Only where no other copy of the document is left
    /// that still has such a field: joined with that one, the field would come back.
    pub fn drop_markers(&mut self) -> Vec<Arc<str>> {
        let marks = self.fields.extract_if(.., |_, field| field.value.is_none()).collect::<Vec<_>>();
        let mut names = Vec::with_capacity(marks.len());
        for (name, field) in marks {
            self.bytes -= cost(&name, &field);
            self.removed = self.removed.max(Some(field.stamp));
            names.push(name);
        }
        names
    }

    /// Writes a field, or removes it with `None`; true if the stamp was the newer one. Two values of one stamp are
    /// a fault of the writer: the greater one wins, so that all copies agree.
    pub fn put(&mut self, name: &str, stamp: Stamp, value: Option<Bytes>) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let field = Field { stamp, value };
        if let Some(held) = self.fields.get_mut(name) {
            if (held.stamp, &held.value) >= (field.stamp, &field.value) {
                return false;
            }
            self.bytes = self.bytes - cost(name, held) + cost(name, &field);
            *held = field;
        } else {
            self.bytes += cost(name, &field);
            self.fields.insert(name.into(), field);
        }
        true
    }

    /// Gives a field another stamp, whichever is the later one: the clock that stamped it was wrong.
    pub fn restamp(&mut self, name: &str, stamp: Stamp) {
        if let Some(field) = self.fields.get_mut(name) {
            field.stamp = stamp;
        }
    }

    /// The same for the last use, or the end.
    pub fn restamp_life(&mut self, stamp: Stamp) {
        match &mut self.ended {
            Some(ended) => *ended = stamp,
            None => self.seen = Some(stamp),
        }
    }

    /// Notes that the session was used then.
    pub fn touch(&mut self, stamp: Stamp) {
        if self.ended.is_none() {
            self.seen = self.seen.max(Some(stamp));
        }
    }

    /// Ends the session: its fields go, and nothing is taken in any more.
    pub fn end(&mut self, stamp: Stamp) {
        self.ended = Some(self.ended.map_or(stamp, |ended| ended.min(stamp)));
        self.fields.clear();
        self.seen = None;
        self.removed = None;
        self.bytes = 0;
    }

    /// Takes in another copy of the document. True if that changed anything.
    pub fn join(&mut self, other: &Self) -> bool {
        let mut changed = false;
        if other.deadline_ms > self.deadline_ms {
            self.deadline_ms = other.deadline_ms;
            changed = true;
        }
        if other.principal > self.principal {
            self.principal = Arc::clone(&other.principal);
            changed = true;
        }
        if let Some(stamp) = other.ended
            && self.ended.is_none_or(|ended| stamp < ended)
        {
            self.end(stamp);
            changed = true;
        }
        if self.ended.is_some() {
            return changed;
        }
        for (name, field) in &other.fields {
            changed |= self.put(name, field.stamp, field.value.clone());
        }
        if other.seen > self.seen {
            self.seen = other.seen;
            changed = true;
        }
        if other.removed > self.removed {
            self.removed = other.removed;
            changed = true;
        }
        changed
    }
}

fn cost(name: &str, field: &Field) -> usize {
    name.len() + Stamp::LEN + field.value.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Origin;

    fn at(ms: u64) -> Stamp {
        Stamp::new(ms, 0, Origin::from_bits(1))
    }

    fn doc() -> Doc {
        Doc::new("ann", 10_000, at(1))
    }

    #[test]
    fn the_newer_write_of_a_field_stays() {
        let mut doc = doc();
        assert!(doc.put("a", at(5), Some(Bytes::from_static(b"five"))));
        assert!(!doc.put("a", at(4), Some(Bytes::from_static(b"four"))));
        assert_eq!(doc.get("a"), Some(&Bytes::from_static(b"five")));
        assert_eq!(doc.version(), Version(Some(at(5))));
        assert_eq!(doc.bytes(), 1 + Stamp::LEN + 4);
    }

    #[test]
    fn a_removed_field_stays_removed_when_an_older_copy_comes() {
        let mut old = doc();
        old.put("a", at(2), Some(Bytes::from_static(b"x")));
        let mut new = old.clone();
        new.put("a", at(3), None);
        assert_eq!(new.get("a"), None);
        assert!(!new.join(&old));
        assert!(old.join(&new));
        assert_eq!(old, new);
        assert_eq!(new.fields().count(), 0);
        assert_eq!(new.bytes(), 1 + Stamp::LEN);
    }

    #[test]
    fn the_end_absorbs_later_writes_and_the_earliest_end_wins() {
        let mut ended = doc();
        ended.put("a", at(2), Some(Bytes::from_static(b"x")));
        ended.end(at(9));
        let mut live = doc();
        live.put("a", at(99), Some(Bytes::from_static(b"y")));
        live.join(&ended);
        assert_eq!(live.ended(), Some(at(9)));
        assert_eq!(live.get("a"), None);
        assert!(!live.put("b", at(100), Some(Bytes::new())));
        live.end(at(3));
        ended.join(&live);
        assert_eq!(ended.ended(), Some(at(3)));
        assert_eq!(ended, live);
        assert_eq!(ended.bytes(), 0);
    }

    #[test]
    fn last_seen_never_goes_back_and_is_no_change_of_version() {
        let mut doc = doc();
        doc.put("a", at(2), Some(Bytes::new()));
        let version = doc.version();
        doc.touch(at(50));
        doc.touch(at(40));
        assert_eq!(doc.last_seen_ms(), 50);
        assert_eq!(doc.version(), version);
    }

    #[test]
    fn names_that_the_store_keeps_for_itself_are_refused() {
        for name in ["", "~t", "a\0b", &"x".repeat(FIELD_NAME_BYTES + 1)] {
            assert!(!Doc::is_field_name(name), "{name:?}");
        }
        for name in ["a", "sub/file:///x y", "ü", &"x".repeat(FIELD_NAME_BYTES)] {
            assert!(Doc::is_field_name(name), "{name:?}");
        }
    }
}
