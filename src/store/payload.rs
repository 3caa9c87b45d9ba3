//! Records in two parts: a head that stays readable, and a payload that is packed and sealed on its way to the disk.
//!
//! ```text
//! version | flags | length of the head (4) | head, MessagePack | payload
//! payload, PACKED   length before packing (4) | zstd
//! payload, SEALED   number of the key (1) | random (24) | ciphertext | tag (16), over the packed form
//! ```
//! A sealed payload is bound to everything before it, to its table and to the key of its row: it opens nowhere else
//! and with no other head.

use std::cell::RefCell;
use std::io::Read as _;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use super::durable::Table;
use super::record::VERSION;
use crate::base::limits::PACK_ABOVE_BYTES;
use crate::base::seal::{Keys, hex, sealed_by};

/// The record has two parts.
const SPLIT: u8 = 2;
/// The payload is packed.
const PACKED: u8 = 4;
/// The payload is sealed.
const SEALED: u8 = 8;
/// Version, flags, length of the head.
const PREFIX: usize = 6;
/// Fast: it runs on the way of every long write.
const LEVEL: i32 = 1;

/// Where a record belongs.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Its table.
    pub table: Table,
    /// The key of its row; of the first row, when it is cut.
    pub key: &'a [u8],
}

impl At<'_> {
    fn bind(self, prefix: &[u8]) -> Vec<u8> {
        let name = self.table.name().as_bytes();
        [name, &[0], &(self.key.len() as u64).to_be_bytes(), self.key, prefix].concat()
    }
}

/// Packs and seals payloads, and opens them again.
#[derive(Clone, Debug)]
pub struct Sealer {
    keys: Keys,
    on: bool,
}

impl Sealer {
    /// Seals with the current key of `keys` if `on`; opens what any of them sealed in either case.
    #[must_use]
    pub fn new(keys: Keys, on: bool) -> Self {
        Self { keys, on }
    }

    /// The ring.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The stored form of a record whose `head` stays readable.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be written.
    pub fn encode<H: Serialize>(&self, at: At<'_>, head: &H, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        let packed = pack(payload);
        let flags = if packed.is_some() { PACKED } else { 0 };
        let body = packed.as_deref().unwrap_or(payload);
        let mut written = Vec::with_capacity(64);
        rmp_serde::encode::write_named(&mut written, head).map_err(unwritten)?;
        self.assemble(at, flags, &written, body)
    }

    /// The stored form of a value of which nothing stays readable.
    ///
    /// # Errors
    /// As [`Sealer::encode`].
    pub fn encode_whole<T: Serialize>(&self, at: At<'_>, value: &T) -> Result<Vec<u8>, StoreError> {
        self.encode(at, &(), &rmp_serde::to_vec_named(value).map_err(unwritten)?)
    }

    /// Reads what [`Sealer::encode`] made for this place.
    ///
    /// # Errors
    /// [`StoreError::Sealed`] when it does not open, [`StoreError::Unusable`] for a record of a newer program,
    /// [`StoreError::Io`] for a damaged one.
    pub fn decode<H: DeserializeOwned>(&self, at: At<'_>, stored: &[u8]) -> Result<(H, Vec<u8>), StoreError> {
        let parts = Parts::of(stored)?;
        let body = self.open(at, &parts)?;
        let head = rmp_serde::from_slice(parts.head).map_err(|error| damaged(&error.to_string()))?;
        let payload = if parts.flags & PACKED != 0 { unpack(&body)? } else { body };
        Ok((head, payload))
    }

    /// Reads what [`Sealer::encode_whole`] made for this place, or [`super::record::encode`] before there were keys.
    ///
    /// # Errors
    /// As [`Sealer::decode`].
    pub fn decode_whole<T: DeserializeOwned>(&self, at: At<'_>, stored: &[u8]) -> Result<T, StoreError> {
        if !is_split(stored) {
            return super::record::decode(stored);
        }
        let ((), payload) = self.decode(at, stored)?;
        rmp_serde::from_slice(&payload).map_err(|error| damaged(&error.to_string()))
    }

    /// The record as it would be written now, with the current key or with none; `None` when it is like that already.
    ///
    /// # Errors
    /// As [`Sealer::decode`].
    pub fn renew(&self, at: At<'_>, stored: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let parts = Parts::of(stored)?;
        let wanted = self.on.then(|| self.keys.current_id());
        if parts.sealed_by() == wanted {
            return Ok(None);
        }
        let body = self.open(at, &parts)?;
        self.assemble(at, parts.flags & PACKED, parts.head, &body).map(Some)
    }

    fn assemble(&self, at: At<'_>, flags: u8, head: &[u8], body: &[u8]) -> Result<Vec<u8>, StoreError> {
        let len = u32::try_from(head.len()).map_err(|_| unwritten("its head is longer than 4 GiB"))?;
        let sealed = if self.on { SEALED } else { 0 };
        let mut out = Vec::with_capacity(PREFIX + head.len() + body.len() + crate::base::seal::SEAL_BYTES);
        out.extend_from_slice(&[VERSION, SPLIT | flags | sealed]);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(head);
        if self.on {
            let bound = at.bind(&out);
            self.keys.seal(&bound, body, &mut out).map_err(unwritten)?;
        } else {
            out.extend_from_slice(body);
        }
        Ok(out)
    }

    /// The payload, packed as it may be.
    fn open(&self, at: At<'_>, parts: &Parts<'_>) -> Result<Vec<u8>, StoreError> {
        if parts.flags & SEALED == 0 {
            return Ok(parts.body.to_vec());
        }
        self.keys.open(&at.bind(parts.bound), parts.body).map_err(|why| {
            let place = format!("{}/{}", at.table.name(), hex(at.key));
            tracing::error!(record = %place, %why, "a record on the disk cannot be opened");
            StoreError::Sealed(format!("the record {place} cannot be opened: {why}"))
        })
    }
}

struct Parts<'a> {
    flags: u8,
    /// Everything before the payload.
    bound: &'a [u8],
    head: &'a [u8],
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(stored: &'a [u8]) -> Result<Self, StoreError> {
        let short = || damaged(&format!("it has {} bytes", stored.len()));
        let (&[version, flags, a, b, c, d], rest) = stored.split_first_chunk::<PREFIX>().ok_or_else(short)?;
        if version != VERSION || flags & SPLIT == 0 || flags & !(SPLIT | PACKED | SEALED) != 0 {
            return Err(super::record::unknown(version, flags));
        }
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| short())?;
        let (head, body) = rest.split_at_checked(len).ok_or_else(short)?;
        let bound = stored.get(..PREFIX + len).ok_or_else(short)?;
        Ok(Self { flags, bound, head, body })
    }

    fn sealed_by(&self) -> Option<u8> {
        (self.flags & SEALED != 0).then(|| sealed_by(self.body)).flatten()
    }
}

/// Whether a stored form has two parts.
#[must_use]
pub fn is_split(stored: &[u8]) -> bool {
    matches!(stored, [VERSION, flags, ..] if flags & SPLIT != 0)
}

/// The number of the key with which a stored form, or the first piece of one, is sealed.
#[must_use]
pub fn key_of(stored: &[u8]) -> Option<u8> {
    Parts::of(stored).ok()?.sealed_by()
}

fn pack(payload: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        // A compressor's tables are large: one per thread, kept.
        static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    if payload.len() <= PACK_ABOVE_BYTES {
        return None;
    }
    let len = u32::try_from(payload.len()).ok()?;
    let packed = COMPRESSOR.with_borrow_mut(|compressor| {
        if compressor.is_none() {
            *compressor = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        compressor.as_mut()?.compress(payload).ok()
    })?;
    let packed = [&len.to_be_bytes(), packed.as_slice()].concat();
    (packed.len() < payload.len()).then_some(packed)
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, StoreError> {
    let (len, packed) = packed.split_first_chunk::<4>().ok_or_else(|| damaged("its packed form is short"))?;
    let len = u64::from(u32::from_be_bytes(*len));
    let mut payload = Vec::new();
    // Read by bits, so that a wrong length takes no memory that the packed form does not fill.
    zstd::stream::read::Decoder::with_buffer(packed)
        .and_then(|decoder| decoder.take(len.saturating_add(1)).read_to_end(&mut payload))
        .map_err(|error| damaged(&error.to_string()))?;
    if payload.len() as u64 != len {
        return Err(damaged("its packed form has another length"));
    }
    Ok(payload)
}

fn unwritten(why: impl std::fmt::Display) -> StoreError {
    StoreError::Io(format!("a record cannot be written: {why}"))
}

fn damaged(why: &str) -> StoreError {
    StoreError::Io(format!("a record is damaged: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seal::{SEAL_BYTES, Secret};
    use proptest::prelude::*;

    const AT: At<'static> = At { table: Table::Doc, key: b"row" };

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 7_u64;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(len)
        .collect()
    }

    fn sealers() -> [Sealer; 2] {
        [true, false].map(|on| Sealer::new(Keys::generate(), on))
    }

    #[test]
    fn a_record_reads_back_and_the_payload_is_not_in_it() {
        let [sealed, plain] = sealers();
        let marker = b"a marker that nobody else writes";
        for (sealer, visible) in [(&sealed, false), (&plain, true)] {
            let stored = sealer.encode(AT, &("head", 7), marker).unwrap();
            assert_eq!(stored.windows(marker.len()).any(|part| part == marker), visible);
            assert!(stored.windows(4).any(|part| part == b"head"));
            let (head, payload): ((String, u8), _) = sealer.decode(AT, &stored).unwrap();
            assert_eq!((head, payload), (("head".into(), 7), marker.to_vec()));
        }
    }

    #[test]
    fn a_record_opens_in_its_own_row_and_table_only() {
        let [sealer, _] = sealers();
        let stored = sealer.encode(AT, &1_u8, b"value").unwrap();
        for other in [At { key: b"other", ..AT }, At { table: Table::Log, ..AT }, At { key: b"", ..AT }] {
            let error = sealer.decode::<u8>(other, &stored).unwrap_err();
            assert!(
                matches!(&error, StoreError::Sealed(text) if text.contains(other.table.name())),
                "{error}"
            );
        }
    }

    #[test]
    fn a_flipped_byte_anywhere_is_an_error_and_never_another_value() {
        let [sealer, _] = sealers();
        let stored = sealer.encode(AT, &("head", 7), &vec![b'x'; 2_000]).unwrap();
        for at in 0..stored.len() {
            for bit in [1, 0x80] {
                let mut wrong = stored.clone();
                wrong[at] ^= bit;
                assert!(sealer.decode::<(String, u8)>(AT, &wrong).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_long_value_is_packed_if_that_makes_it_shorter() {
        for sealer in sealers() {
            let extra = if sealer.on { SEAL_BYTES } else { 0 };
            let len = |payload: &[u8]| sealer.encode(AT, &(), payload).unwrap().len() - PREFIX - 1 - extra;
            assert!(len(&vec![b'x'; 100_000]) < 1_000);
            assert_eq!(len(&noise(100_000)), 100_000);
            assert_eq!(len(&vec![b'x'; PACK_ABOVE_BYTES]), PACK_ABOVE_BYTES);
            assert!(len(&vec![b'x'; PACK_ABOVE_BYTES + 1]) < PACK_ABOVE_BYTES);
        }
    }

    #[test]
    fn a_packed_form_with_a_wrong_length_is_damaged() {
        let [_, sealer] = sealers();
        let stored = sealer.encode(AT, &(), &vec![b'x'; 5_000]).unwrap();
        for wrong in [0_u32, 4_999, 5_001, u32::MAX] {
            let mut stored = stored.clone();
            stored[PREFIX + 1..PREFIX + 5].copy_from_slice(&wrong.to_be_bytes());
            assert!(matches!(sealer.decode::<()>(AT, &stored), Err(StoreError::Io(_))), "{wrong}");
        }
    }

    #[test]
    fn a_record_is_renewed_once_after_a_rotation_and_after_sealing_was_turned_on_or_off() {
        let (one, two) = (Secret::generate(1), Secret::generate(2));
        let on = Sealer::new(Keys::of(std::slice::from_ref(&one)), true);
        let off = Sealer::new(on.keys().clone(), false);
        let payload = vec![b'x'; 3_000];
        let first = on.encode(AT, &5_u8, &payload).unwrap();
        assert_eq!(key_of(&first), Some(1));
        assert_eq!(on.renew(AT, &first).unwrap(), None);
        on.keys().replace(&[two, one]);
        let second = on.renew(AT, &first).unwrap().unwrap();
        assert_eq!(key_of(&second), Some(2));
        let plain = off.renew(AT, &second).unwrap().unwrap();
        assert_eq!(key_of(&plain), None);
        assert_eq!(off.renew(AT, &plain).unwrap(), None);
        for stored in [&first, &second, &plain, &on.renew(AT, &plain).unwrap().unwrap()] {
            assert_eq!(off.decode::<u8>(AT, stored).unwrap(), (5, payload.clone()));
        }
    }

    #[test]
    fn a_whole_value_reads_back_and_so_does_one_from_before_there_were_keys() {
        let mark = super::super::record::Mark { base: 4, at_ms: 5, get: None };
        for sealer in sealers() {
            let stored = sealer.encode_whole(AT, &mark).unwrap();
            assert_eq!(sealer.decode_whole::<super::super::record::Mark>(AT, &stored).unwrap(), mark);
            let old = super::super::record::encode(&mark).unwrap();
            assert_eq!(sealer.decode_whole::<super::super::record::Mark>(AT, &old).unwrap(), mark);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]
        #[test]
        fn payloads_of_any_kind_read_back(payload in proptest::collection::vec(any::<u8>(), 0..3_000), on: bool) {
            let sealer = Sealer::new(Keys::generate(), on);
            let stored = sealer.encode(AT, &(), &payload).unwrap();
            prop_assert_eq!(sealer.decode::<()>(AT, &stored).unwrap(), ((), payload));
        }

        #[test]
        fn bytes_of_any_kind_are_refused_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), flags in 0_u8..16) {
            if let [version, second, ..] = &mut bytes[..] {
                (*version, *second) = (VERSION, flags);
            }
            for sealer in sealers() {
                let _ = sealer.decode::<u8>(AT, &bytes);
                let _ = sealer.renew(AT, &bytes);
            }
            let _ = key_of(&bytes);
        }
    }
}
