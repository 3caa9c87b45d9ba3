//! A lock: who holds it, until when, and the fence that makes a late holder harmless.
//!
//! A lock is a register of a token, a fence and a moment. Taking it, renewing it and releasing it are decided on the
//! register and the time alone, so any two machines that see the same steps agree. Fences of a lock strictly rise: a
//! holder that was stopped for longer than its time carries an older one, and whatever it still writes under it is
//! refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::seal;

/// Among whom a lock has one holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Among all instances that share a store. Only that store can give it.
    Global,
    /// On one instance: the others know nothing of it.
    Instance,
}

impl Scope {
    /// Its name, as the operator reads and writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Instance => "instance",
        }
    }
}

/// For how long, milliseconds, a holder may count on a lock that another machine has just said it has for `left_ms`
/// more: nine tenths of that, for clocks that run at different speeds, less the round trip of the question.
#[must_use]
pub fn assured_ms(left_ms: u64, round_trip_ms: u64) -> u64 {
    (left_ms.saturating_mul(9) / 10).saturating_sub(round_trip_ms)
}

/// What a holder proves itself with: 128 random bits, nobody else's business.
#[derive(Clone, Copy)]
pub struct Token([u8; 16]);

impl Token {
    /// Length of the text form in characters.
    pub const TEXT: usize = 32;

    /// A new token.
    #[must_use]
    pub fn random() -> Self {
        Self(seal::random())
    }

    /// From its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Reads the text form; `None` for anything that [`fmt::Display`] would not write.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != Self::TEXT || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|bits| Self(bits.to_be_bytes()))
    }
}

/// In a time that does not depend on where two tokens differ.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        seal::equal(&self.0, &other.0)
    }
}

impl Eq for Token {}

/// 32 lower-case hexadecimal digits. A secret: not for logs.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Without the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The state of one lock. A lock that nobody ever took has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// The holder's token; `None` after a release.
    pub token: Option<Token>,
    /// The fence that was given last.
    pub fence: u64,
    /// The holder's time ends at this moment, in milliseconds on the caller's clock.
    pub until_ms: u64,
}

/// Not the holder's token, or somebody else holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How long the holder still has, in milliseconds; 0: nobody holds it.
    pub left_ms: u64,
}

impl Register {
    /// How long the holder still has at `now_ms`, in milliseconds; 0: nobody holds the lock.
    #[must_use]
    pub fn left_ms(&self, now_ms: u64) -> u64 {
        self.token.map_or(0, |_| self.until_ms.saturating_sub(now_ms))
    }

    /// The lock as it is after `token` takes it for `ttl_ms`. The holder itself gets its time anew under the same
    /// fence; anybody else gets a fence above the last one and not below `floor`, which is a time in microseconds, so
    /// that fences rise even where the last one is not remembered.
    ///
    /// # Errors
    /// [`Refused`] when somebody else holds it.
    pub fn take(
        held: Option<&Self>,
        token: Token,
        ttl_ms: u64,
        now_ms: u64,
        floor: u64,
    ) -> Result<Self, Refused> {
        let until_ms = now_ms.saturating_add(ttl_ms);
        match held {
            Some(held) if held.left_ms(now_ms) > 0 => match held.token == Some(token) {
                true => Ok(Self { until_ms, ..*held }),
                false => Err(Refused { left_ms: held.left_ms(now_ms) }),
            },
            _ => {
                let next = held.map_or(1, |held| held.fence.saturating_add(1));
                Ok(Self { token: Some(token), fence: next.max(floor), until_ms })
            }
        }
    }

    /// The lock as it is after its holder gets `ttl_ms` from now.
    ///
    /// # Errors
    /// [`Refused`] when this is not the holder's token, or its time is over.
    pub fn renew(&self, token: Token, ttl_ms: u64, now_ms: u64) -> Result<Self, Refused> {
        self.check(token, now_ms)?;
        Ok(Self { until_ms: now_ms.saturating_add(ttl_ms), ..*self })
    }

    /// The lock as it is after its holder let it go. The fence stays.
    ///
    /// # Errors
    /// As [`Register::renew`].
    pub fn release(&self, token: Token, now_ms: u64) -> Result<Self, Refused> {
        self.check(token, now_ms)?;
        Ok(Self { token: None, until_ms: now_ms, ..*self })
    }

    /// Whether a write under this fence may still be made: nobody has taken the lock since it was given.
    #[must_use]
    pub fn admits(&self, fence: u64) -> bool {
        fence == self.fence
    }

    fn check(&self, token: Token, now_ms: u64) -> Result<(), Refused> {
        let left_ms = self.left_ms(now_ms);
        match left_ms > 0 && self.token == Some(token) {
            true => Ok(()),
            false => Err(Refused { left_ms }),
        }
    }
}
