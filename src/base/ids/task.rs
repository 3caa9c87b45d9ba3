//! Task ids that prove themselves.
//!
//! ```text
//! t1.<base64url of the claims>.<base64url of the first 16 bytes of HMAC-SHA256 over "t1.<claims>">
//! claims: version 1 | key id 1 | deadline 6 | origin 5 | session 16 | key 16 | principal 8
//! ```
//! As with session ids, an instance that knows nothing of a task still tells its id from a forged or an expired one.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{BadSessionId, Fields, MAC, Origin, PrincipalHash, SessionKey, from_six, six};
use crate::base::limits::MAX_TASK_ID_BYTES;
use crate::base::seal::{Keys, hex, random};

const CLAIMS: usize = 53;
const PREFIX: &str = "t1.";
const VERSION: u8 = 1;

/// What a task is called inside: the moment of its birth and 80 random bits, so that keys are in the order of birth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey([u8; 16]);

impl TaskKey {
    /// The length of its text.
    pub const TEXT: usize = 32;

    /// A new key, for a task that begins at `now_ms` (milliseconds since the epoch).
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        let mut key = [0; 16];
        let (born, chance) = key.split_at_mut(6);
        born.copy_from_slice(&six(now_ms));
        chance.copy_from_slice(&random::<10>());
        Self(key)
    }

    /// When the task began, in milliseconds since the epoch.
    #[must_use]
    pub fn created_ms(self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.0;
        from_six([a, b, c, d, e, f])
    }

    /// From its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != Self::TEXT || !text.bytes().all(is_digit) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()))
    }
}

impl fmt::Debug for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskKey({self})")
    }
}

/// 32 hexadecimal digits, which sort as the keys do: fit for logs, and no proof of anything.
impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// What a task id says of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskClaims {
    /// The task is forgotten at this moment, in milliseconds since the epoch.
    pub deadline_ms: u64,
    /// The process start that made it.
    pub origin: Origin,
    /// The session that it belongs to and goes with; [`SessionKey::BROADCAST`]: none.
    pub session: SessionKey,
    /// What it is called inside.
    pub key: TaskKey,
    /// Whose it is.
    pub principal: PrincipalHash,
}

impl TaskClaims {
    /// The task id that says this, signed with the current key. Visible ASCII, 97 characters.
    #[must_use]
    pub fn sign(&self, keys: &Keys) -> String {
        let signer = keys.signer();
        let mut raw = Vec::with_capacity(CLAIMS);
        raw.extend([VERSION, signer.id()]);
        raw.extend(six(self.deadline_ms));
        raw.extend(self.origin.to_bytes());
        raw.extend(self.session.as_bytes());
        raw.extend(self.key.0);
        raw.extend(self.principal.0);
        let mut id = String::with_capacity(100);
        id.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(raw, &mut id);
        let mac = signer.sign(id.as_bytes());
        id.push('.');
        URL_SAFE_NO_PAD.encode_string(mac.get(..MAC).unwrap_or_default(), &mut id);
        id
    }

    /// Reads and proves a task id; `None` for what is none of ours. Says nothing of deadlines: that needs the time.
    #[must_use]
    pub fn verify(id: &str, keys: &Keys) -> Option<Self> {
        if id.len() > MAX_TASK_ID_BYTES {
            return None;
        }
        let (claims, mac) = id.strip_prefix(PREFIX)?.split_once('.')?;
        let mut raw = [0_u8; CLAIMS + 1];
        let read = URL_SAFE_NO_PAD.decode_slice(claims, &mut raw).ok()?;
        let mut given = [0_u8; MAC + 2];
        let given_len = URL_SAFE_NO_PAD.decode_slice(mac, &mut given).ok()?;
        if read != CLAIMS || given_len != MAC {
            return None;
        }
        let signed = id.get(..PREFIX.len() + claims.len())?;
        Self::read(&raw, |key| keys.verify(key, signed.as_bytes(), given.get(..MAC).unwrap_or_default())).ok()
    }

    fn read(raw: &[u8], is_signed_by: impl FnOnce(u8) -> bool) -> Result<Self, BadSessionId> {
        let mut fields = Fields(raw);
        let [version, key_id] = fields.take()?;
        if version != VERSION {
            return Err(BadSessionId::Malformed);
        }
        if !is_signed_by(key_id) {
            return Err(BadSessionId::Forged);
        }
        Ok(Self {
            deadline_ms: from_six(fields.take()?),
            origin: Origin::from_bytes(fields.take()?),
            session: SessionKey::from_bytes(fields.take()?),
            key: TaskKey(fields.take()?),
            principal: PrincipalHash(fields.take()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claims() -> TaskClaims {
        TaskClaims {
            deadline_ms: 1_795_600_000_000,
            origin: Origin::from_bits(0xab_cdef_0123),
            session: SessionKey::from_bytes([7; 16]),
            key: TaskKey::new(1_795_000_000_000),
            principal: PrincipalHash([9; 8]),
        }
    }

    #[test]
    fn a_signed_id_reads_back_and_is_visible_ascii() {
        let keys = Keys::generate();
        let id = claims().sign(&keys);
        let claims = TaskClaims::verify(&id, &keys).unwrap();
        assert_eq!((claims.key.created_ms(), id.len()), (1_795_000_000_000, 97));
        assert_eq!(claims.sign(&keys), id);
        assert!(id.bytes().all(|b| (0x21..=0x7e).contains(&b)));
        assert_eq!(TaskClaims::verify(&id, &Keys::generate()), None);
    }

    #[test]
    fn a_key_has_a_text_that_sorts_as_it_does_and_no_other_text_is_one() {
        let (first, second) = (TaskKey::new(1), TaskKey::new(2));
        assert!(first < second && first.to_string() < second.to_string());
        assert_eq!(TaskKey::parse(&first.to_string()), Some(first));
        let upper = "A".repeat(TaskKey::TEXT);
        for bad in ["", "0", &upper, &format!("+{}", &first.to_string()[1..]), &format!("{first}0")] {
            assert_eq!(TaskKey::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn any_changed_character_is_refused(at in 0_usize..97, to in 0x21_u8..0x7f) {
            let keys = Keys::generate();
            let mut id = claims().sign(&keys).into_bytes();
            prop_assume!(id[at] != to);
            id[at] = to;
            prop_assert!(TaskClaims::verify(&String::from_utf8(id).unwrap(), &keys).is_none());
        }

        #[test]
        fn no_string_makes_it_panic(text in "\\PC{0,200}") {
            prop_assert!(TaskClaims::verify(&text, &Keys::generate()).is_none());
            let _ = TaskClaims::verify(&format!("t1.{text}.{text}"), &Keys::generate());
        }
    }
}
