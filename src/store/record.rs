//! Stored forms: a version byte, a flag byte, then MessagePack with named fields.
//!
//! Fields may be added: what is missing reads as its default, what is unknown is passed over. A new version is needed
//! only when the meaning of a field changes. A flag says how the bytes after it were made; an unknown one is an error.
//! Values of fields, payloads of entries and contents of results are packed and sealed (`payload`); stamps, times and
//! numbers stay readable.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::payload::{At, Sealer, is_split};
use crate::base::ids::Origin;
use crate::base::limits::ROW_VALUE_BYTES;
use crate::state::doc::Field;
use crate::state::log::{Entry, Kind, StreamName};
use crate::state::stamp::Stamp;

/// The version of the records that this program writes, and the newest that it reads.
pub const VERSION: u8 = 1;
/// The content is too long for one row: this row holds its length only, the pieces are in rows of their own.
const CUT: u8 = 1;
/// Version, flags and length of a row that was cut.
const CUT_HEAD: usize = 10;

/// A session's head row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Whose it is.
    #[serde(rename = "p")]
    pub principal: String,
    /// The absolute deadline, in milliseconds since the epoch.
    #[serde(rename = "d")]
    pub deadline_ms: u64,
    /// Its last use, or its birth.
    #[serde(rename = "s")]
    pub seen: StoredStamp,
    /// Its birth, in milliseconds since the epoch; 0: it was not noted.
    #[serde(rename = "b", default)]
    pub created_ms: u64,
    /// It is kept up to this moment even if nobody uses it, in milliseconds since the epoch.
    #[serde(rename = "u", default, skip_serializing_if = "is_zero")]
    pub keep_ms: u64,
    /// Its end.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<StoredStamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A field of a document that was removed, or, in a record of one part, one with its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredField {
    #[serde(rename = "s")]
    stamp: StoredStamp,
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    value: Option<Vec<u8>>,
}

/// What stays readable of a field with a value.
#[derive(Serialize, Deserialize)]
struct FieldHead {
    #[serde(rename = "s")]
    stamp: StoredStamp,
}

/// A log entry in a record of one part, without what its key says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredEntry {
    #[serde(rename = "a")]
    at_ms: u64,
    #[serde(rename = "k")]
    kind: u8,
    #[serde(rename = "m")]
    stream: String,
    #[serde(rename = "p", with = "serde_bytes")]
    payload: Vec<u8>,
}

/// What stays readable of a log entry.
#[derive(Serialize, Deserialize)]
struct EntryHead {
    #[serde(rename = "a")]
    at_ms: u64,
    #[serde(rename = "k")]
    kind: u8,
    #[serde(rename = "m")]
    stream: String,
}

/// Where the retained part of a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The lowest number that may be retained: all below is gone.
    #[serde(rename = "b")]
    pub base: u64,
    /// When it was written, in milliseconds since the epoch.
    #[serde(rename = "a", default)]
    pub at_ms: u64,
    /// The highest number below `base` of the GET stream; not known: any.
    #[serde(rename = "g", default)]
    pub get: Option<u64>,
}

/// A process start, kept so that no later one takes its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// When, in milliseconds since the epoch.
    #[serde(rename = "a")]
    pub at_ms: u64,
}

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLock {
    /// The holder's token; none: nobody holds it.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub token: Option<[u8; 16]>,
    /// The fence that was given last.
    #[serde(rename = "f")]
    pub fence: u64,
    /// The end of the holder's time, in milliseconds since the epoch.
    #[serde(rename = "x")]
    pub expires_ms: u64,
    /// How long it was taken for, milliseconds: a clock that was set back makes it no longer.
    #[serde(rename = "l")]
    pub ttl_ms: u64,
    /// The session in whose name it was taken.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub session: Option<[u8; 16]>,
    /// It is of all instances: the shared store has it, and this is what was last heard of it.
    #[serde(rename = "g", default, skip_serializing_if = "std::ops::Not::not")]
    pub global: bool,
}

/// The report of a result that stands, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredResult {
    /// The fence of the reporter's lease.
    #[serde(rename = "f")]
    pub fence: u64,
    /// Its revision.
    #[serde(rename = "r")]
    pub rev: u64,
    /// Its rank.
    #[serde(rename = "k")]
    pub rank: u8,
    /// Its content's length, bytes.
    #[serde(rename = "l")]
    pub bytes: u64,
    /// It is kept up to this moment, in milliseconds since the epoch.
    #[serde(rename = "x")]
    pub expires_ms: u64,
}

/// A result's content in a record of one part.
#[derive(Debug, Deserialize)]
struct StoredBody {
    #[serde(rename = "p", with = "serde_bytes")]
    payload: Vec<u8>,
}

/// What the data directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// The format of the directory as a whole.
    #[serde(rename = "f")]
    pub format: u32,
    /// The version of the program that wrote it last.
    #[serde(rename = "by")]
    pub by: String,
}

/// Written at a clean shutdown, removed at the next start: nobody has to count the sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clean {
    /// Sessions by principal.
    #[serde(rename = "n")]
    pub sessions: std::collections::HashMap<String, u64>,
}

/// A stamp in its binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredStamp(pub Stamp);

impl Serialize for StoredStamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.to_bytes())
    }
}

impl<'de> Deserialize<'de> for StoredStamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes: [u8; Stamp::LEN] = serde_bytes::deserialize(deserializer)?;
        Ok(Self(Stamp::from_bytes(bytes)))
    }
}

/// The stored form of a value.
///
/// # Errors
/// [`StoreError::Io`] when it cannot be written as MessagePack.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&[VERSION, 0]);
    rmp_serde::encode::write_named(&mut out, value)
        .map_err(|error| StoreError::Io(format!("a record cannot be written: {error}")))?;
    Ok(out)
}

/// Reads a stored form.
///
/// # Errors
/// [`StoreError::Unusable`] for a version or a flag of a newer program, [`StoreError::Io`] for a damaged record.
pub fn decode<T: DeserializeOwned>(stored: &[u8]) -> Result<T, StoreError> {
    let (version, flags, body) = open(stored)?;
    if version != VERSION || flags != 0 {
        return Err(unknown(version, flags));
    }
    rmp_serde::from_slice(body).map_err(|error| StoreError::Io(format!("a record is damaged: {error}")))
}

/// What to say of a record of a newer program.
pub(super) fn unknown(version: u8, flags: u8) -> StoreError {
    StoreError::Unusable(format!(
        "a record has version {version} with flags {flags:#04x}; this program reads version {VERSION} and not these \
         flags: use the newer program that wrote it"
    ))
}

fn open(stored: &[u8]) -> Result<(u8, u8, &[u8]), StoreError> {
    match stored {
        [version, flags, body @ ..] => Ok((*version, *flags, body)),
        _ => Err(StoreError::Io(format!("a record is damaged: it has {} bytes", stored.len()))),
    }
}

/// The stored form of a field.
///
/// # Errors
/// As [`Sealer::encode`].
pub fn encode_field(sealer: &Sealer, at: At<'_>, field: &Field) -> Result<Vec<u8>, StoreError> {
    let stamp = StoredStamp(field.stamp);
    match &field.value {
        Some(value) => sealer.encode(at, &FieldHead { stamp }, value),
        None => encode(&StoredField { stamp, value: None }),
    }
}

/// Reads a field.
///
/// # Errors
/// As [`Sealer::decode`].
pub fn decode_field(sealer: &Sealer, at: At<'_>, stored: &[u8]) -> Result<Field, StoreError> {
    if is_split(stored) {
        let (FieldHead { stamp: StoredStamp(stamp) }, value) = sealer.decode(at, stored)?;
        return Ok(Field { stamp, value: Some(value.into()) });
    }
    let StoredField { stamp: StoredStamp(stamp), value } = decode(stored)?;
    Ok(Field { stamp, value: value.map(Into::into) })
}

/// The stored form of an entry.
///
/// # Errors
/// As [`Sealer::encode`].
pub fn encode_entry(sealer: &Sealer, at: At<'_>, entry: &Entry) -> Result<Vec<u8>, StoreError> {
    let stream = entry.stream.as_str().to_owned();
    let head = EntryHead { at_ms: entry.at_ms, kind: entry.kind as u8, stream };
    sealer.encode(at, &head, &entry.payload)
}

/// Reads an entry whose key says `origin` and `seq`.
///
/// # Errors
/// As [`Sealer::decode`].
pub fn decode_entry(
    sealer: &Sealer,
    at: At<'_>,
    origin: Origin,
    seq: u64,
    stored: &[u8],
) -> Result<Entry, StoreError> {
    let (EntryHead { at_ms, kind, stream }, payload) = if is_split(stored) {
        sealer.decode(at, stored)?
    } else {
        let StoredEntry { at_ms, kind, stream, payload } = decode(stored)?;
        (EntryHead { at_ms, kind, stream }, payload)
    };
    let damaged = |what: &str| StoreError::Io(format!("a log entry is damaged: {what}"));
    Ok(Entry {
        origin,
        seq,
        at_ms,
        kind: Kind::from_u8(kind).ok_or_else(|| damaged("unknown kind"))?,
        stream: StreamName::parse(&stream).ok_or_else(|| damaged("bad stream name"))?,
        payload: Bytes::from(payload),
    })
}

/// The stored form of a result's content.
///
/// # Errors
/// As [`Sealer::encode`].
pub fn encode_content(sealer: &Sealer, at: At<'_>, content: &[u8]) -> Result<Vec<u8>, StoreError> {
    sealer.encode(at, &(), content)
}

/// Reads a result's content.
///
/// # Errors
/// As [`Sealer::decode`].
pub fn decode_content(sealer: &Sealer, at: At<'_>, stored: &[u8]) -> Result<Vec<u8>, StoreError> {
    if is_split(stored) {
        return sealer.decode(at, stored).map(|((), content)| content);
    }
    decode::<StoredBody>(stored).map(|body| body.payload)
}

/// A stored form cut into rows: the row that is looked up, and the pieces, if it is too long for one row. The first
/// row then carries `tag`, by which its pieces are told from those of another write.
#[must_use]
pub fn cut(stored: Vec<u8>, tag: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    if stored.len() <= ROW_VALUE_BYTES {
        return (stored, Vec::new());
    }
    let mut first = vec![VERSION, CUT];
    first.extend_from_slice(&(stored.len() as u64).to_be_bytes());
    first.extend_from_slice(tag);
    (first, stored.chunks(ROW_VALUE_BYTES).map(<[u8]>::to_vec).collect())
}

/// The tag of a row that was cut; empty for a whole one.
#[must_use]
pub fn tag(first: &[u8]) -> &[u8] {
    first.get(CUT_HEAD..).filter(|_| first.get(1).is_some_and(|flags| flags & CUT != 0)).unwrap_or_default()
}

/// How many pieces belong to this row; 0: it is whole.
///
/// # Errors
/// [`StoreError::Io`] for a damaged record.
pub fn pieces(first: &[u8]) -> Result<usize, StoreError> {
    Ok(cut_len(first)?.map_or(0, |len| len.div_ceil(ROW_VALUE_BYTES)))
}

/// The stored form that was cut into these pieces.
///
/// # Errors
/// [`StoreError::Io`] when they do not fit.
pub fn join<'a>(first: &[u8], pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, StoreError> {
    let whole = pieces.fold(Vec::new(), |mut whole, piece| {
        whole.extend_from_slice(piece);
        whole
    });
    match cut_len(first)? {
        Some(len) if len == whole.len() => Ok(whole),
        _ => Err(StoreError::Io("a record is damaged: pieces of it are missing".into())),
    }
}

fn cut_len(first: &[u8]) -> Result<Option<usize>, StoreError> {
    let (version, flags, body) = open(first)?;
    if version != VERSION || flags & CUT == 0 {
        return Ok(None);
    }
    let len = body.first_chunk::<8>().and_then(|len| usize::try_from(u64::from_be_bytes(*len)).ok());
    match len {
        Some(len) => Ok(Some(len)),
        None => Err(StoreError::Io("a record is damaged: bad length".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seal::Keys;
    use crate::store::durable::Table;
    use proptest::prelude::*;

    const AT: At<'static> = At { table: Table::Log, key: b"row" };

    fn sealer() -> Sealer {
        Sealer::new(Keys::generate(), true)
    }

    fn entry(payload: Vec<u8>) -> Entry {
        Entry {
            origin: Origin::from_bits(5),
            seq: 9,
            at_ms: 1_795_000_000_000,
            kind: Kind::Message,
            stream: StreamName::GET,
            payload: payload.into(),
        }
    }

    #[test]
    fn a_record_of_a_newer_program_is_refused_by_name() {
        let mut stored = encode(&Mark { base: 3, at_ms: 4, get: None }).unwrap();
        stored[0] = 9;
        let error = decode::<Mark>(&stored).unwrap_err().to_string();
        assert!(error.contains("version 9") && error.contains("version 1"), "{error}");
        stored[0] = VERSION;
        stored[1] = 0x80;
        assert!(matches!(decode::<Mark>(&stored), Err(StoreError::Unusable(_))));
    }

    #[test]
    fn a_field_that_this_program_does_not_know_is_passed_over() {
        #[derive(Serialize)]
        struct Later {
            b: u64,
            new: &'static str,
        }
        let stored = encode(&Later { b: 7, new: "x" }).unwrap();
        assert_eq!(decode::<Mark>(&stored).unwrap(), Mark { base: 7, at_ms: 0, get: None });
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
        #[test]
        fn entries_and_fields_read_back(payload in proptest::collection::vec(any::<u8>(), 0..300), some: bool) {
            let (entry, sealer) = (entry(payload.clone()), sealer());
            let stored = encode_entry(&sealer, AT, &entry).unwrap();
            prop_assert_eq!(decode_entry(&sealer, AT, entry.origin, entry.seq, &stored).unwrap(), entry.clone());
            let EntryHead { at_ms, kind, stream } =
                EntryHead { at_ms: entry.at_ms, kind: entry.kind as u8, stream: entry.stream.as_str().into() };
            let old = encode(&StoredEntry { at_ms, kind, stream, payload: payload.clone() }).unwrap();
            prop_assert_eq!(decode_entry(&sealer, AT, entry.origin, entry.seq, &old).unwrap(), entry);
            let stamp = Stamp::new(77, 3, Origin::from_bits(12));
            let field = Field { stamp, value: some.then(|| payload.clone().into()) };
            let stored = encode_field(&sealer, AT, &field).unwrap();
            prop_assert_eq!(&decode_field(&sealer, AT, &stored).unwrap(), &field);
            let old = encode(&StoredField { stamp: StoredStamp(stamp), value: some.then_some(payload) }).unwrap();
            prop_assert_eq!(decode_field(&sealer, AT, &old).unwrap(), field);
        }

        #[test]
        fn bytes_of_any_kind_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode_entry(&sealer(), AT, Origin::from_bits(1), 1, &bytes);
            let _ = decode::<Head>(&bytes);
            let _ = pieces(&bytes).and_then(|_| join(&bytes, std::iter::empty()));
        }

        #[test]
        fn long_records_are_cut_and_joined(len in 0_usize..4 * ROW_VALUE_BYTES) {
            let plain = Sealer::new(Keys::generate(), false);
            let noise: Vec<u8> = (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
            let stored = encode_entry(&plain, AT, &entry(noise)).unwrap();
            let (first, rest) = cut(stored.clone(), b"tag");
            prop_assert!(first.len() <= ROW_VALUE_BYTES && rest.iter().all(|piece| piece.len() <= ROW_VALUE_BYTES));
            prop_assert_eq!(pieces(&first).unwrap(), rest.len());
            if rest.is_empty() {
                prop_assert_eq!(first, stored);
            } else {
                prop_assert_eq!(tag(&first), b"tag");
                prop_assert_eq!(&join(&first, rest.iter().map(Vec::as_slice)).unwrap(), &stored);
                prop_assert!(join(&first, rest.iter().skip(1).map(Vec::as_slice)).is_err());
            }
        }
    }
}
