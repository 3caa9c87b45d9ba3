//! Session ids that prove themselves, and the ids of process starts.
//!
//! A session id is a token: what was agreed at `initialize` and when the session must end, signed. An instance that
//! has lost its disk, or never had this session, still tells a real id from a forged or an expired one, so it never
//! has to answer "no such session" because a store is away (docs/sessions.md).
//!
//! ```text
//! s1.<base64url of the claims>.<base64url of the first 16 bytes of HMAC-SHA256 over "s1.<claims>">
//! claims: version 1 | key id 1 | mode 1 | revision 1 | capabilities 2 | issued 6 | deadline 6 | origin 5 | key 16 | principal 8
//! ```
//! Numbers are big-endian, times are milliseconds since the Unix epoch.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::limits::MAX_SESSION_ID_BYTES;
use super::seal::{Keys, random, sha256};

mod task;

pub use self::task::{TaskClaims, TaskKey};

const CLAIMS: usize = 47;
const MAC: usize = 16;
const PREFIX: &str = "s1.";
const VERSION: u8 = 1;

/// One start of one process: 40 random bits. Two starts never share one, so a sequence number of an origin is never
/// used twice with different content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(u64);

impl Origin {
    /// Eight characters of base 36 hold 40 bits.
    pub const TEXT: usize = 8;
    const MASK: u64 = (1 << 40) - 1;

    /// A new origin, for a process that starts.
    #[must_use]
    pub fn random() -> Self {
        Self(u64::from_be_bytes(random()) & Self::MASK)
    }

    /// The origin with these 40 bits; higher bits are dropped.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & Self::MASK)
    }

    /// Its 40 bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Big-endian bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 5] {
        let [_, _, _, a, b, c, d, e] = self.0.to_be_bytes();
        [a, b, c, d, e]
    }

    /// From big-endian bytes.
    #[must_use]
    pub fn from_bytes([a, b, c, d, e]: [u8; 5]) -> Self {
        Self(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({self})")
    }
}

/// Eight characters of base 36, padded with zeros.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; Self::TEXT];
        let mut rest = self.0;
        for slot in text.iter_mut().rev() {
            *slot = base36_digit(rest % 36);
            rest /= 36;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// The digit of `value`, which must be below 36.
#[must_use]
pub fn base36_digit(value: u64) -> u8 {
    match value {
        0..=9 => b'0' + value as u8,
        _ => b'a' + (value as u8).saturating_sub(10),
    }
}

/// A number in lower-case base 36, without sign or leading zeros.
///
/// # Errors
/// `None` for anything else, or more than 64 bits.
#[must_use]
pub fn parse_base36(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 13 {
        return None;
    }
    text.bytes().try_fold(0_u64, |sum, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'z' => byte - b'a' + 10,
            _ => return None,
        };
        sum.checked_mul(36)?.checked_add(u64::from(digit))
    })
}

/// What a session is called inside: 128 random bits, the key of everything that is stored about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey([u8; 16]);

impl SessionKey {
    /// Length in bytes.
    pub const LEN: usize = 16;
    /// The key under which broadcasts are logged: no session has it.
    pub const BROADCAST: Self = Self([0; 16]);

    /// The key under which instances tell each other of changes that no session has to be told: no session has it.
    pub const CHANGES: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    /// The key under which instances pass on what operators of others listen to: no session has it.
    pub const TOPICS: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);

    /// A new key.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// From its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 18];
        let read = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        bytes.get(..read)?.try_into().ok().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({self})")
    }
}

/// 22 characters of base64url: fit for logs, and no proof of anything.
impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// The first 8 bytes of the SHA-256 of a principal's name: which caller a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrincipalHash(pub [u8; 8]);

impl PrincipalHash {
    /// That of a name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = sha256(name.as_bytes());
        Self([a, b, c, d, e, f, g, h])
    }
}

/// Where a session's data lives, decided at its birth so that it never flips in mid-life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// On this instance alone.
    Local = 0,
    /// In Redis, with a copy here.
    Redis = 1,
}

/// What a session id says of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Where its data lives.
    pub mode: Mode,
    /// The negotiated revision, as `mcp::Revision` numbers them.
    pub revision: u8,
    /// The client's capabilities, as `mcp::capability` packs them.
    pub capabilities: u16,
    /// Birth, in milliseconds since the epoch.
    pub issued_ms: u64,
    /// The session is over at this moment, whoever asks, in milliseconds since the epoch.
    pub deadline_ms: u64,
    /// The process start that made it.
    pub origin: Origin,
    /// What it is called inside.
    pub key: SessionKey,
    /// Whose it is.
    pub principal: PrincipalHash,
}

/// Why a session id is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSessionId {
    /// Not the form of a session id of ours.
    #[error("not a session id of this server")]
    Malformed,
    /// The signature does not fit, or its key is not known here.
    #[error("the signature of the session id does not fit")]
    Forged,
}

impl Claims {
    /// The session id that says this, signed with the current key. Visible ASCII, 89 characters.
    #[must_use]
    pub fn sign(&self, keys: &Keys) -> String {
        let signer = keys.signer();
        let mut raw = [0_u8; CLAIMS];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(slot) = raw.get_mut(at..at + bytes.len()) {
                slot.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&[VERSION, signer.id(), self.mode as u8, self.revision]);
        put(&self.capabilities.to_be_bytes());
        put(&six(self.issued_ms));
        put(&six(self.deadline_ms));
        put(&self.origin.to_bytes());
        put(&self.key.0);
        put(&self.principal.0);
        let mut token = String::with_capacity(96);
        token.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(raw, &mut token);
        let mac = signer.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(mac.get(..MAC).unwrap_or_default(), &mut token);
        token
    }

    /// The number of the key that signed this, if it is a session id at all.
    #[must_use]
    pub fn key_id(token: &str) -> Option<u8> {
        let (claims, _) = token.strip_prefix(PREFIX)?.split_once('.')?;
        let mut raw = [0_u8; CLAIMS + 1];
        let read = URL_SAFE_NO_PAD.decode_slice(claims, &mut raw).ok()?;
        raw.get(..read).filter(|raw| raw.len() == CLAIMS)?.get(1).copied()
    }

    /// Reads and proves a session id. Says nothing of deadlines: that needs the time.
    ///
    /// # Errors
    /// [`BadSessionId`]: to a client both are "no such session".
    pub fn verify(token: &str, keys: &Keys) -> Result<Self, BadSessionId> {
        if token.len() > MAX_SESSION_ID_BYTES {
            return Err(BadSessionId::Malformed);
        }
        let rest = token.strip_prefix(PREFIX).ok_or(BadSessionId::Malformed)?;
        let (claims, mac) = rest.split_once('.').ok_or(BadSessionId::Malformed)?;
        let mut raw = [0_u8; CLAIMS + 1];
        let read = URL_SAFE_NO_PAD.decode_slice(claims, &mut raw).map_err(|_| BadSessionId::Malformed)?;
        let mut given = [0_u8; MAC + 2];
        let given_len = URL_SAFE_NO_PAD.decode_slice(mac, &mut given).map_err(|_| BadSessionId::Malformed)?;
        if read != CLAIMS || given_len != MAC {
            return Err(BadSessionId::Malformed);
        }
        let signed = token.get(..PREFIX.len() + claims.len()).ok_or(BadSessionId::Malformed)?;
        let mut fields = Fields(&raw);
        let [version, key_id, mode, revision] = fields.take()?;
        if version != VERSION {
            return Err(BadSessionId::Malformed);
        }
        if !keys.verify(key_id, signed.as_bytes(), given.get(..MAC).unwrap_or_default()) {
            return Err(BadSessionId::Forged);
        }
        Ok(Self {
            mode: match mode {
                0 => Mode::Local,
                1 => Mode::Redis,
                _ => return Err(BadSessionId::Malformed),
            },
            revision,
            capabilities: u16::from_be_bytes(fields.take()?),
            issued_ms: from_six(fields.take()?),
            deadline_ms: from_six(fields.take()?),
            origin: Origin::from_bytes(fields.take()?),
            key: SessionKey(fields.take()?),
            principal: PrincipalHash(fields.take()?),
        })
    }
}

/// Whether a text looks like a session id of ours; a name that a caller has chosen does not.
#[must_use]
pub fn is_session_id(text: &str) -> bool {
    text.starts_with(PREFIX)
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadSessionId> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(BadSessionId::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }
}

fn six(ms: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = ms.min((1 << 48) - 1).to_be_bytes();
    [a, b, c, d, e, f]
}

fn from_six([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claims() -> Claims {
        Claims {
            mode: Mode::Local,
            revision: 3,
            capabilities: 0x1234,
            issued_ms: 1_795_000_000_000,
            deadline_ms: 1_795_600_000_000,
            origin: Origin::from_bits(0xab_cdef_0123),
            key: SessionKey::from_bytes([7; 16]),
            principal: PrincipalHash([9; 8]),
        }
    }

    #[test]
    fn a_signed_id_reads_back_and_is_visible_ascii() {
        let keys = Keys::generate();
        let token = claims().sign(&keys);
        assert_eq!(Claims::verify(&token, &keys), Ok(claims()));
        assert!(token.bytes().all(|b| (0x21..=0x7e).contains(&b)));
        assert_eq!(token.len(), 89);
    }

    #[test]
    fn another_key_does_not_accept_it() {
        let token = claims().sign(&Keys::generate());
        assert_eq!(Claims::verify(&token, &Keys::generate()), Err(BadSessionId::Forged));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn any_changed_character_is_refused(at in 0_usize..89, to in 0x21_u8..0x7f) {
            let keys = Keys::generate();
            let mut token = claims().sign(&keys).into_bytes();
            prop_assume!(token[at] != to);
            token[at] = to;
            let token = String::from_utf8(token).unwrap();
            prop_assert!(Claims::verify(&token, &keys).is_err());
        }

        #[test]
        fn no_string_makes_it_panic(text in "\\PC{0,200}") {
            prop_assert!(Claims::verify(&text, &Keys::generate()).is_err());
            let _ = Claims::verify(&format!("s1.{text}.{text}"), &Keys::generate());
        }

        #[test]
        fn base36_reads_back(bits in any::<u64>()) {
            let origin = Origin::from_bits(bits);
            prop_assert_eq!(parse_base36(&origin.to_string()), Some(origin.bits()));
            prop_assert_eq!(Origin::from_bytes(origin.to_bytes()), origin);
        }
    }
}
