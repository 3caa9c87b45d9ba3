//! Keys that sign and seal, constant-time comparison, randomness and hashes.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, digest, hmac, rand};
use zeroize::{Zeroize as _, Zeroizing};

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 32;
/// Length of [`Secret::check`].
pub const CHECK_BYTES: usize = 8;

/// HKDF (RFC 5869) with this salt: what is derived from a secret has nothing in common with its signatures.
const SALT: &[u8] = b"outlast record keys";
const SEAL_INFO: &[u8] = b"seal";
const CHECK_INFO: &[u8] = b"check";
const ALIKE_INFO: &[u8] = b"alike";
/// Random bytes that choose the key of one sealing, before its nonce.
const CHOICE: usize = 12;
const TAG: usize = 16;
/// What sealing adds: number of the key, choice, nonce, tag.
pub const SEAL_BYTES: usize = 1 + CHOICE + NONCE_LEN + TAG;

/// A key with its number, as it is kept. Its bytes are wiped from memory when it is dropped.
#[derive(Clone)]
pub struct Secret {
    id: u8,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl Secret {
    /// The key `id` with these bytes.
    #[must_use]
    pub fn new(id: u8, bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self { id, bytes }
    }

    /// A new random key.
    #[must_use]
    pub fn generate(id: u8) -> Self {
        Self { id, bytes: Zeroizing::new(random()) }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u8 {
        self.id
    }

    /// Its bytes, to be written to a key file and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }

    /// A number by which this key is told from another one of the same number. Says nothing of its bytes.
    #[must_use]
    pub fn check(&self) -> [u8; CHECK_BYTES] {
        let mut check = [0; CHECK_BYTES];
        expand(&self.extract(), &[CHECK_INFO], &mut check);
        check
    }

    fn extract(&self) -> hmac::Key {
        let extracted = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SALT), self.bytes.as_slice());
        hmac::Key::new(hmac::HMAC_SHA256, extracted.as_ref())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// HKDF-Expand of one block, of which `out` takes as much as it holds.
fn expand(key: &hmac::Key, info: &[&[u8]], out: &mut [u8]) {
    let mut context = hmac::Context::with_key(key);
    info.iter().for_each(|part| context.update(part));
    context.update(&[1]);
    out.iter_mut().zip(context.sign().as_ref()).for_each(|(out, byte)| *out = *byte);
}

/// The ring of keys: one signs and seals, all verify and open. A key's number travels in what it signed or sealed, so
/// that stays valid after a rotation. Clones share the ring: [`Keys::replace`] reaches all of them.
#[derive(Clone)]
pub struct Keys {
    ring: Arc<ArcSwap<Vec<Key>>>,
}

struct Key {
    id: u8,
    signing: hmac::Key,
    sealing: hmac::Key,
}

/// The key that signs at one moment. For what carries the key's number inside what is signed.
pub struct Signer {
    ring: Arc<Vec<Key>>,
}

/// Why something sealed stays closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// Too short to have been sealed here.
    #[error("it is cut short")]
    Short,
    /// The key is not in the ring.
    #[error("key {0}, with which it was sealed, is not there")]
    NoKey(u8),
    /// The bytes or what they are bound to are not what was sealed, or the key is another one.
    #[error("it does not open with key {0}: it was changed or moved, or the key is another one")]
    Refused(u8),
}

impl Keys {
    /// The ring of these keys; the first signs and seals.
    #[must_use]
    pub fn of(secrets: &[Secret]) -> Self {
        Self { ring: Arc::new(ArcSwap::from_pointee(ring(secrets))) }
    }

    /// A ring of one new random key, for tests and for servers that keep nothing.
    #[must_use]
    pub fn generate() -> Self {
        Self::of(&[Secret::generate(1)])
    }

    /// Puts other keys in place, here and in every clone.
    pub fn replace(&self, secrets: &[Secret]) {
        self.ring.store(Arc::new(ring(secrets)));
    }

    /// Whether a key of this number is in the ring.
    #[must_use]
    pub fn has(&self, id: u8) -> bool {
        self.ring.load().iter().any(|key| key.id == id)
    }

    /// The number of the key that signs and seals; 0 in an empty ring.
    #[must_use]
    pub fn current_id(&self) -> u8 {
        self.ring.load().first().map_or(0, |key| key.id)
    }

    /// The key that signs, the same one until this is dropped.
    #[must_use]
    pub fn signer(&self) -> Signer {
        Signer { ring: self.ring.load_full() }
    }

    /// HMAC-SHA256 with the key that signs; 32 bytes.
    #[must_use]
    pub fn sign(&self, data: &[u8]) -> [u8; 32] {
        self.signer().sign(data)
    }

    /// Whether `mac` is the beginning of the HMAC of `data` under key `id`. Never true for a `mac` of less than 16
    /// bytes.
    #[must_use]
    pub fn verify(&self, id: u8, data: &[u8], mac: &[u8]) -> bool {
        let ring = self.ring.load();
        let Some(key) = ring.iter().find(|key| key.id == id) else { return false };
        let full = hmac::sign(&key.signing, data);
        mac.len() >= 16 && full.as_ref().get(..mac.len()).is_some_and(|head| equal(head, mac))
    }

    /// Appends `plain`, sealed and bound to `bound`, to `out`: AES-256-GCM under a key of its own, derived from the
    /// ring's by random bytes. With a random nonce alone a key would be good for 2^32 records (NIST SP 800-38D §8.3),
    /// which a busy server writes in a day; so it takes 2^80.
    ///
    /// # Errors
    /// [`Closed`] for an empty ring or more than the cipher takes (64 GiB).
    pub fn seal(&self, bound: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), Closed> {
        let ring = self.ring.load();
        ring.first().ok_or(Closed::NoKey(0))?.seal(random(), bound, plain, out)
    }

    /// As [`Keys::seal`], and the same every time for the same `bound`, `plain` and key: what is random there is a MAC of
    /// both here, as in SIV (RFC 5297). It tells whether two sealed texts are the same, and nothing else.
    ///
    /// # Errors
    /// As [`Keys::seal`].
    pub fn seal_alike(&self, bound: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), Closed> {
        let ring = self.ring.load();
        let key = ring.first().ok_or(Closed::NoKey(0))?;
        let mut mac = hmac::Context::with_key(&key.sealing);
        mac.update(ALIKE_INFO);
        mac.update(&(bound.len() as u64).to_be_bytes());
        mac.update(bound);
        mac.update(plain);
        let mut choice = [0; CHOICE + NONCE_LEN];
        choice.iter_mut().zip(mac.sign().as_ref()).for_each(|(out, byte)| *out = *byte);
        key.seal(choice, bound, plain, out)
    }

    /// What was sealed, if it is bound to `bound`.
    ///
    /// # Errors
    /// [`Closed`]
    pub fn open(&self, bound: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Closed> {
        let id = sealed_by(sealed).ok_or(Closed::Short)?;
        let (choice, rest) =
            sealed.get(1..).and_then(|rest| rest.split_first_chunk::<CHOICE>()).ok_or(Closed::Short)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Closed::Short)?;
        let ring = self.ring.load();
        let key = ring.iter().find(|key| key.id == id).ok_or(Closed::NoKey(id))?;
        let cipher = key.cipher(choice).ok_or(Closed::Refused(id))?;
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = cipher.open_in_place(nonce, Aad::from(bound), &mut body);
        let len = plain.map_err(|_| Closed::Refused(id))?.len();
        body.truncate(len);
        Ok(body)
    }
}

/// The number of the key with which something was sealed; `None` when it is too short for that.
#[must_use]
pub fn sealed_by(sealed: &[u8]) -> Option<u8> {
    sealed.first().copied().filter(|_| sealed.len() >= SEAL_BYTES)
}

fn ring(secrets: &[Secret]) -> Vec<Key> {
    let key = |secret: &Secret| Key {
        id: secret.id,
        signing: hmac::Key::new(hmac::HMAC_SHA256, secret.bytes.as_slice()),
        sealing: secret.extract(),
    };
    secrets.iter().map(key).collect()
}

impl Key {
    /// Seals; `choice` is the choice of a key of its own, then a nonce under that key.
    fn seal(
        &self,
        choice: [u8; CHOICE + NONCE_LEN],
        bound: &[u8],
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Closed> {
        let (own, nonce) = choice.split_first_chunk::<CHOICE>().ok_or(Closed::Short)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Closed::Short)?;
        out.reserve(plain.len() + SEAL_BYTES);
        out.push(self.id);
        out.extend_from_slice(&choice);
        let start = out.len();
        out.extend_from_slice(plain);
        let body = out.get_mut(start..).ok_or(Closed::Short)?;
        let tag = self
            .cipher(own)
            .and_then(|cipher| cipher.seal_in_place_separate_tag(nonce, Aad::from(bound), body).ok());
        let Some(tag) = tag else {
            // What is there now may be plain.
            out.truncate(start);
            return Err(Closed::Refused(self.id));
        };
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    fn cipher(&self, choice: &[u8; CHOICE]) -> Option<LessSafeKey> {
        let mut bytes = [0; KEY_BYTES];
        expand(&self.sealing, &[SEAL_INFO, choice], &mut bytes);
        let key = UnboundKey::new(&AES_256_GCM, &bytes);
        bytes.zeroize();
        key.ok().map(LessSafeKey::new)
    }
}

impl Signer {
    /// The number of the key; 0 in an empty ring.
    #[must_use]
    pub fn id(&self) -> u8 {
        self.ring.first().map_or(0, |key| key.id)
    }

    /// HMAC-SHA256; 32 bytes. An empty ring signs nothing that would verify.
    #[must_use]
    pub fn sign(&self, data: &[u8]) -> [u8; 32] {
        let mut mac = [0; 32];
        if let Some(key) = self.ring.first() {
            mac.copy_from_slice(hmac::sign(&key.signing, data).as_ref());
        }
        mac
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("current", &self.current_id()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Equality in a time that does not depend on where two secrets differ.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// SHA-256.
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    hash
}

/// SHA-256 of what comes in parts.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Sha256 {
    /// One more part.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The sum of all parts.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// Random bytes from the system.
///
/// # Panics
/// When the system has no randomness: nothing safe can be done without it.
#[must_use]
#[expect(clippy::expect_used, reason = "a server without randomness must not hand out session ids")]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random source works");
    bytes
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(id: u8, byte: u8) -> Secret {
        Secret::new(id, Zeroizing::new([byte; KEY_BYTES]))
    }

    fn seal(keys: &Keys, bound: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        keys.seal(bound, plain, &mut out).unwrap();
        out
    }

    #[test]
    fn what_is_sealed_opens_where_it_belongs_and_is_never_the_same_twice() {
        let keys = Keys::generate();
        for len in [0, 1, 15, 16, 1_000, 100_000] {
            let plain = vec![7; len];
            let (one, two) = (seal(&keys, b"here", &plain), seal(&keys, b"here", &plain));
            assert_eq!(one.len(), len + SEAL_BYTES);
            assert_ne!(one, two);
            assert_eq!(keys.open(b"here", &one).unwrap(), plain);
            assert_eq!(keys.open(b"there", &one), Err(Closed::Refused(1)));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_keeps_it_closed() {
        let keys = Keys::generate();
        let sealed = seal(&keys, b"here", b"some text");
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut wrong = sealed.clone();
                wrong[at] ^= 1 << bit;
                assert!(keys.open(b"here", &wrong).is_err(), "byte {at} bit {bit}");
            }
            assert!(keys.open(b"here", &sealed[..at]).is_err());
        }
    }

    #[test]
    fn after_a_rotation_old_things_open_and_verify_and_new_ones_use_the_new_key_in_every_clone() {
        let keys = Keys::of(&[secret(1, 1)]);
        let clone = keys.clone();
        let (old, mac) = (seal(&keys, b"", b"old"), keys.sign(b"x"));
        keys.replace(&[secret(2, 2), secret(1, 1)]);
        assert_eq!((clone.current_id(), clone.signer().id()), (2, 2));
        assert_eq!(clone.open(b"", &old).unwrap(), b"old");
        assert!(clone.verify(1, b"x", &mac) && !clone.verify(2, b"x", &mac));
        assert_eq!(sealed_by(&seal(&clone, b"", b"new")), Some(2));
        keys.replace(&[secret(2, 2)]);
        assert_eq!(clone.open(b"", &old), Err(Closed::NoKey(1)));
        keys.replace(&[secret(1, 9)]);
        assert_eq!(clone.open(b"", &old), Err(Closed::Refused(1)));
        keys.replace(&[]);
        assert_eq!(keys.seal(b"", b"x", &mut Vec::new()), Err(Closed::NoKey(0)));
    }

    #[test]
    fn nothing_of_a_key_is_shown_and_its_check_tells_it_from_others() {
        let shown = format!("{:?} {:?}", secret(3, 0xab), Keys::of(&[secret(3, 0xab)]));
        assert!(!shown.contains("ab, ") && !shown.contains("171"), "{shown}");
        assert_eq!(secret(3, 1).check(), secret(4, 1).check());
        assert_ne!(secret(3, 1).check(), secret(3, 2).check());
    }
}
