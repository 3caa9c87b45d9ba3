//! How documents and entries look in the shared store.
//!
//! ```text
//! field   kind 1 | value            kind 0: removed, without value; 1: as it is; 2: packed (zstd); +16: sealed
//! ~b      as a field: principal, NUL, deadline (8 bytes): the same for every copy of a session, under a stamp of zeros
//! ~s      empty; the stamp is the time of the last use
//! ~t      deadline (8 bytes); the stamp is the time of the end
//! entry   kind 1 as of a field | record kind 1 | at_ms 8 | length of the stream's name 1 | stream | payload
//! ```
//! Numbers are big-endian. What is sealed is sealed the same way every time, so that two instances that offer the same
//! write offer the same bytes.

use bytes::Bytes;

use crate::base::ids::{Origin, SessionKey};
use crate::base::seal::Keys;
use crate::state::doc::{Doc, Field};
use crate::state::log::{Entry, Kind, StreamName};
use crate::state::stamp::Stamp;
use crate::store::StoreError;
use crate::store::remote::SharedField;

/// The field that says whose session it is and until when.
pub(super) const BIRTH: &str = "~b";
/// The field of the last use.
pub(super) const SEEN: &str = "~s";
/// The field of the end.
pub(super) const ENDED: &str = "~t";

const REMOVED: u8 = 0;
const PLAIN: u8 = 1;
const PACKED: u8 = 2;
const SEALED: u8 = 16;
/// Shorter values are not packed: it would gain nothing.
const PACK_FROM: usize = 1_024;
const PACK_LEVEL: i32 = 1;
/// Longer than any value or entry that a setting allows by default, and a bound for what is unpacked.
const UNPACKED_MAX: usize = 64 * 1024 * 1024;

/// Packs and seals what goes to the shared store, and the reverse.
#[derive(Clone)]
pub(super) struct Form {
    keys: Option<Keys>,
}

fn damaged(what: &str) -> StoreError {
    StoreError::Sealed(format!("what the shared store holds cannot be read: {what}"))
}

impl Form {
    /// Values are sealed with these keys, if there are any.
    pub(super) fn new(keys: Option<Keys>) -> Self {
        Self { keys }
    }

    fn put(&self, bound: &[u8], value: &[u8]) -> Result<Bytes, StoreError> {
        let packed = (value.len() >= PACK_FROM)
            .then(|| zstd::bulk::compress(value, PACK_LEVEL).ok())
            .flatten()
            .filter(|packed| packed.len() < value.len());
        let (kind, body) = packed.as_deref().map_or((PLAIN, value), |packed| (PACKED, packed));
        let Some(keys) = &self.keys else {
            let mut out = Vec::with_capacity(body.len() + 1);
            out.push(kind);
            out.extend_from_slice(body);
            return Ok(out.into());
        };
        let mut out = vec![kind + SEALED];
        keys.seal_alike(bound, body, &mut out)
            .map_err(|closed| StoreError::Sealed(format!("a value cannot be sealed: {closed}")))?;
        Ok(out.into())
    }

    fn take(&self, bound: &[u8], stored: &Bytes) -> Result<Option<Bytes>, StoreError> {
        let (kind, body) = stored.split_first().ok_or_else(|| damaged("it is empty"))?;
        let body = match (kind & SEALED != 0, &self.keys) {
            (false, _) => stored.slice(1..),
            (true, Some(keys)) => {
                keys.open(bound, body).map_err(|closed| StoreError::Sealed(closed.to_string()))?.into()
            }
            (true, None) => return Err(damaged("it is sealed, and redis.seal is off here")),
        };
        match kind & !SEALED {
            REMOVED => Ok(None),
            PLAIN => Ok(Some(body)),
            PACKED => {
                let len = zstd::zstd_safe::get_frame_content_size(&body).ok().flatten();
                let len = len.and_then(|len| usize::try_from(len).ok()).filter(|len| *len <= UNPACKED_MAX);
                let len = len.ok_or_else(|| damaged("a packed value has no length, or too much of it"))?;
                let value = zstd::bulk::decompress(&body, len);
                value.map(|value| Some(value.into())).map_err(|_| damaged("a packed value does not unpack"))
            }
            _ => Err(damaged("a newer program wrote it")),
        }
    }

    /// A field of a document.
    pub(super) fn field(
        &self,
        key: SessionKey,
        name: &str,
        field: &Field,
    ) -> Result<SharedField, StoreError> {
        let value = match &field.value {
            Some(value) => self.put(&bound_field(key, name, field.stamp), value)?,
            None => Bytes::from_static(&[REMOVED]),
        };
        Ok(SharedField { name: name.to_owned(), stamp: field.stamp, value })
    }

    /// What every copy of a document says of itself, beside its fields.
    pub(super) fn birth(&self, key: SessionKey, doc: &Doc) -> Result<SharedField, StoreError> {
        let value = [doc.principal().as_bytes(), &[0], &doc.deadline_ms().to_be_bytes()].concat();
        let stamp = zero();
        Ok(SharedField {
            name: BIRTH.into(),
            stamp,
            value: self.put(&bound_field(key, BIRTH, stamp), &value)?,
        })
    }

    /// The last use.
    pub(super) fn seen(stamp: Stamp) -> SharedField {
        SharedField { name: SEEN.into(), stamp, value: Bytes::new() }
    }

    /// The end.
    pub(super) fn ended(stamp: Stamp, deadline_ms: u64) -> SharedField {
        let value = Bytes::copy_from_slice(&deadline_ms.to_be_bytes());
        SharedField { name: ENDED.into(), stamp, value }
    }

    /// The document of these fields; `None`: there is none, or nothing says whose it is.
    pub(super) fn doc(&self, key: SessionKey, fields: &[SharedField]) -> Result<Option<Doc>, StoreError> {
        let named = |name: &str| fields.iter().find(|field| field.name == name);
        if let Some(end) = named(ENDED) {
            let deadline = end.value.first_chunk::<8>().ok_or_else(|| damaged("an end without deadline"))?;
            let mut doc = Doc::new("", u64::from_be_bytes(*deadline), end.stamp);
            doc.end(end.stamp);
            return Ok(Some(doc));
        }
        let Some(birth) = named(BIRTH) else { return Ok(None) };
        let value = self.take(&bound_field(key, BIRTH, birth.stamp), &birth.value)?;
        let value = value.ok_or_else(|| damaged("a session without owner"))?;
        let (principal, deadline) =
            value.split_last_chunk::<8>().ok_or_else(|| damaged("a session without deadline"))?;
        let principal = principal.strip_suffix(&[0]).and_then(|name| std::str::from_utf8(name).ok());
        let principal = principal.ok_or_else(|| damaged("a session without owner"))?;
        let seen = named(SEEN).map_or_else(zero, |field| field.stamp);
        let mut doc = Doc::new(principal, u64::from_be_bytes(*deadline), seen);
        for field in fields.iter().filter(|field| Doc::is_field_name(&field.name)) {
            let value = self.take(&bound_field(key, &field.name, field.stamp), &field.value)?;
            doc.put(&field.name, field.stamp, value);
        }
        Ok(Some(doc))
    }

    /// The number of a key that is missing to read these.
    pub(super) fn unknown_key(&self, fields: &[SharedField]) -> Option<u8> {
        let keys = self.keys.as_ref()?;
        let sealed = fields.iter().filter(|field| field.value.first().is_some_and(|kind| kind & SEALED != 0));
        let mut ids = sealed.filter_map(|field| field.value.get(1).copied());
        ids.find(|id| !keys.has(*id))
    }

    /// An entry of a log.
    pub(super) fn entry(&self, key: SessionKey, entry: &Entry) -> Result<Bytes, StoreError> {
        let stream = entry.stream.as_str().as_bytes();
        let mut body = Vec::with_capacity(entry.payload.len() + stream.len() + 10);
        body.push(entry.kind as u8);
        body.extend_from_slice(&entry.at_ms.to_be_bytes());
        body.push(u8::try_from(stream.len()).map_err(|_| damaged("the name of a stream is too long"))?);
        body.extend_from_slice(stream);
        body.extend_from_slice(&entry.payload);
        self.put(&bound_entry(key, entry.origin, entry.seq), &body)
    }

    /// Reads an entry.
    pub(super) fn read_entry(
        &self,
        key: SessionKey,
        origin: Origin,
        seq: u64,
        stored: &Bytes,
    ) -> Result<Entry, StoreError> {
        let body = self.take(&bound_entry(key, origin, seq), stored)?.unwrap_or_default();
        let bad = || damaged("an entry of a log is damaged");
        let (kind, rest) = body.split_first().ok_or_else(bad)?;
        let (at_ms, rest) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
        let (len, rest) = rest.split_first().ok_or_else(bad)?;
        let (stream, payload) = rest.split_at_checked(usize::from(*len)).ok_or_else(bad)?;
        let stream = std::str::from_utf8(stream).ok().and_then(StreamName::parse).ok_or_else(bad)?;
        Ok(Entry {
            origin,
            seq,
            at_ms: u64::from_be_bytes(*at_ms),
            kind: Kind::from_u8(*kind).ok_or_else(bad)?,
            stream,
            payload: body.slice_ref(payload),
        })
    }

    /// A cached value.
    pub(super) fn value(&self, name: &str, value: &[u8]) -> Result<Bytes, StoreError> {
        self.put(&bound_value(name), value)
    }

    /// Reads it.
    pub(super) fn read_value(&self, name: &str, stored: &Bytes) -> Result<Bytes, StoreError> {
        self.take(&bound_value(name), stored).map(Option::unwrap_or_default)
    }

    /// The number of the key that is missing to read a value.
    pub(super) fn unknown_key_of(&self, stored: &[u8]) -> Option<u8> {
        let keys = self.keys.as_ref()?;
        let (kind, id) = (stored.first()?, *stored.get(1)?);
        (kind & SEALED != 0 && !keys.has(id)).then_some(id)
    }

    /// A result's content.
    pub(super) fn content(&self, key: SessionKey, name: &str, content: &[u8]) -> Result<Bytes, StoreError> {
        self.put(&bound_result(key, name), content)
    }

    /// Reads it.
    pub(super) fn read_content(
        &self,
        key: SessionKey,
        name: &str,
        stored: &Bytes,
    ) -> Result<Bytes, StoreError> {
        self.take(&bound_result(key, name), stored).map(Option::unwrap_or_default)
    }
}

fn bound_value(name: &str) -> Vec<u8> {
    [b"shared value\0".as_slice(), name.as_bytes()].concat()
}

fn zero() -> Stamp {
    Stamp::new(0, 0, Origin::from_bits(0))
}

/// What a sealed value is bound to: it opens nowhere else.
fn bound_field(key: SessionKey, name: &str, stamp: Stamp) -> Vec<u8> {
    [b"shared field\0".as_slice(), key.as_bytes(), &stamp.to_bytes(), name.as_bytes()].concat()
}

fn bound_entry(key: SessionKey, origin: Origin, seq: u64) -> Vec<u8> {
    [b"shared entry\0".as_slice(), key.as_bytes(), &origin.to_bytes(), &seq.to_be_bytes()].concat()
}

fn bound_result(key: SessionKey, name: &str) -> Vec<u8> {
    [b"shared result\0".as_slice(), key.as_bytes(), name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forms() -> [Form; 2] {
        [Form::new(None), Form::new(Some(Keys::generate()))]
    }

    #[test]
    fn a_sealed_value_opens_in_its_place_alone() {
        let form = Form::new(Some(Keys::generate()));
        let (key, stamp) = (SessionKey::random(), Stamp::new(5, 1, Origin::from_bits(9)));
        let field = Field { stamp, value: Some(Bytes::from_static(b"secret")) };
        let shared = form.field(key, "a", &field).unwrap();
        assert!(!shared.value.windows(6).any(|part| part == b"secret"));
        let birth = form.birth(key, &Doc::new("ann", 9, stamp)).unwrap();
        let moved = SharedField { name: "b".into(), ..shared.clone() };
        assert!(form.doc(key, &[birth.clone(), moved]).is_err());
        assert!(form.doc(SessionKey::random(), &[birth.clone(), shared.clone()]).is_err());
        assert!(Form::new(None).doc(key, &[birth, shared]).is_err());
    }

    #[test]
    fn a_cached_value_opens_under_its_name_alone() {
        for form in forms() {
            let stored = form.value("a", b"secret").unwrap();
            assert_eq!(form.read_value("a", &stored).unwrap(), "secret");
            assert_eq!(form.unknown_key_of(&stored), None);
        }
        let [_, form] = forms();
        let stored = form.value("a", b"secret").unwrap();
        assert!(form.read_value("b", &stored).is_err());
        assert!(!stored.windows(6).any(|part| part == b"secret"));
    }

    #[test]
    fn without_an_owner_there_is_no_document_and_an_end_needs_none() {
        let [form, _] = forms();
        let stamp = Stamp::new(5, 1, Origin::from_bits(9));
        assert_eq!(form.doc(SessionKey::random(), &[Form::seen(stamp)]).unwrap(), None);
        let ended = form.doc(SessionKey::random(), &[Form::ended(stamp, 77)]).unwrap().unwrap();
        assert_eq!((ended.ended(), ended.deadline_ms()), (Some(stamp), 77));
    }

    proptest! {
        #[test]
        fn documents_and_entries_read_back_and_look_alike_every_time(
            value in proptest::collection::vec(any::<u8>(), 0..3_000),
            repeated in any::<bool>(), removed in any::<bool>(), seq in 1_u64..9,
        ) {
            let value = if repeated { vec![7; value.len()] } else { value };
            let (key, stamp) = (SessionKey::random(), Stamp::new(55, 3, Origin::from_bits(4)));
            for form in forms() {
                let mut doc = Doc::new("ann", 1_000, Stamp::new(9, 0, Origin::from_bits(4)));
                doc.put("f", stamp, (!removed).then(|| value.clone().into()));
                let fields = || {
                    let field = form.field(key, "f", doc.field("f").unwrap()).unwrap();
                    vec![form.birth(key, &doc).unwrap(), field, Form::seen(doc.seen().unwrap())]
                };
                prop_assert_eq!(fields(), fields());
                prop_assert_eq!(form.doc(key, &fields()).unwrap().unwrap(), doc.clone());
                let entry = Entry { origin: Origin::from_bits(3), seq, at_ms: 8, kind: Kind::Message,
                    stream: StreamName::GET, payload: value.clone().into() };
                let stored = form.entry(key, &entry).unwrap();
                prop_assert_eq!(&stored, &form.entry(key, &entry).unwrap());
                prop_assert_eq!(form.read_entry(key, entry.origin, seq, &stored).unwrap(), entry);
            }
        }

        #[test]
        fn bytes_of_any_kind_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for form in forms() {
                let stored = Bytes::from(bytes.clone());
                let _ = form.read_entry(SessionKey::random(), Origin::from_bits(1), 1, &stored);
                let field = |name: &str| SharedField { name: name.into(), stamp: zero(), value: stored.clone() };
                let _ = form.doc(SessionKey::random(), &[field(BIRTH), field("a")]);
                let _ = form.doc(SessionKey::random(), &[field(ENDED)]);
            }
        }
    }
}
