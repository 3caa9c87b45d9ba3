//! What a log consists of: entries, each of a kind and on a stream.

use std::fmt;

use bytes::Bytes;

use crate::base::ids::Origin;

/// The name of a stream within its session: `g` for the GET stream, else ten characters of base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName {
    len: u8,
    text: [u8; Self::MAX],
}

impl StreamName {
    /// Longest name, in characters.
    pub const MAX: usize = 10;
    /// The GET stream: whatever belongs to no request.
    pub const GET: Self = Self { len: 1, text: *b"g\0\0\0\0\0\0\0\0\0" };

    /// Reads a name: 1 to 10 characters of `a-z2-7`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut name = Self { len: u8::try_from(text.len()).ok()?, text: [0; Self::MAX] };
        name.text.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        (!text.is_empty() && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))).then_some(name)
    }

    /// The name that a hash gives: 50 of its bits in base 32.
    #[must_use]
    pub fn from_hash(hash: &[u8; 32]) -> Self {
        let mut text = [b'a'; Self::MAX];
        for (slot, byte) in text.iter_mut().zip(hash) {
            *slot = match byte & 31 {
                low @ 0..=25 => b'a' + low,
                high => b'2' + high - 26,
            };
        }
        Self { len: Self::MAX as u8, text }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.get(..usize::from(self.len)).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or("g")
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A request's stream begins. The payload says which request (`engine::stream`); the client sees it as the
    /// priming event.
    Open = 0,
    /// A notification or request to the client, as JSON text.
    Message = 1,
    /// The response that ends a request's stream, as JSON text.
    Final = 2,
    /// The stream ends without a response: the request was cancelled.
    Close = 3,
}

impl Kind {
    /// From its stored form.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Open,
            1 => Self::Message,
            2 => Self::Final,
            3 => Self::Close,
            _ => return None,
        })
    }

    /// Whether nothing follows it on its stream.
    #[must_use]
    pub fn ends_stream(self) -> bool {
        matches!(self, Self::Final | Self::Close)
    }
}

/// One entry of a session's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who wrote it.
    pub origin: Origin,
    /// Its place in that origin's run, from 1.
    pub seq: u64,
    /// When, in milliseconds since the epoch, by the writer's clock.
    pub at_ms: u64,
    /// What it is.
    pub kind: Kind,
    /// The stream it belongs to.
    pub stream: StreamName,
    /// Its content.
    pub payload: Bytes,
}

impl Entry {
    /// What it counts for against a log's byte cap: payload and a fixed overhead.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.payload.len() + 64
    }
}
