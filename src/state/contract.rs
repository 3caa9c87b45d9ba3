//! What the shared store does with what instances send it, as pure machines: the scripts that run inside Redis answer
//! exactly as these do. Scripts are tested against them, and simulations of the shared store are built of them.
//!
//! Each machine is what one key (or, of a log, two keys) holds. Time is passed in: milliseconds, or microseconds where
//! it is a fence, since the epoch, on the shared store's clock. What has expired is gone when it is looked at.

mod cache;
mod doc;
mod lock;
mod log;
mod result;

use bytes::Bytes;

pub use self::cache::{Cached, Voided, Voiding, cache_put, cache_void};
pub use self::doc::{DOC_GRACE_MS, DocAnswer, DocHash, DocOffer, END, Offer, SEEN, doc_merge};
pub use self::lock::{LOCK_KEEP_MS, Step, lock_look, lock_reply, lock_take, look_reply};
pub use self::log::{
    DIGEST, Entry, LogAnswer, LogContent, LogKeys, Run, digest, log_append, log_end, log_read,
};
pub use self::result::{result_put, result_reply};

/// An answer in the form in which Redis gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A whole number.
    Int(i64),
    /// Bytes.
    Text(Bytes),
    /// A list.
    List(Vec<Reply>),
}

impl Reply {
    fn text(text: impl Into<Bytes>) -> Self {
        Self::Text(text.into())
    }

    fn number(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// Something that goes at a moment.
#[derive(Clone, Debug)]
pub struct Slot<T> {
    held: Option<T>,
    expires_ms: u64,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { held: None, expires_ms: u64::MAX }
    }
}

impl<T> Slot<T> {
    /// What is there at `now_ms`.
    pub fn at(&mut self, now_ms: u64) -> Option<&mut T> {
        if self.expires_ms <= now_ms {
            self.clear();
        }
        self.held.as_mut()
    }

    /// When it goes, milliseconds since the epoch; `None`: there is nothing, or it stays.
    #[must_use]
    pub fn expires_ms(&self) -> Option<u64> {
        self.held.as_ref().and(Some(self.expires_ms)).filter(|at| *at != u64::MAX)
    }

    /// Loses it: evicted, flushed, or never replicated.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn put(&mut self, held: T, expires_ms: u64, now_ms: u64) {
        match expires_ms > now_ms {
            true => *self = Self { held: Some(held), expires_ms },
            false => self.clear(),
        }
    }
}
