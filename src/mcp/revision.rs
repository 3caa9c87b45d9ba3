//! The five revisions of MCP, what each one has, and which one a client gets.

use std::fmt;

/// A revision of the protocol. Numbers are stored in session ids and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Revision {
    V2024_11_05 = 0,
    V2025_03_26 = 1,
    V2025_06_18 = 2,
    V2025_11_25 = 3,
    V2026_07_28 = 4,
}

impl Revision {
    /// All, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];
    /// The newest that begins with `initialize`.
    pub const LATEST_LEGACY: Self = Self::V2025_11_25;
    /// The one without sessions.
    pub const MODERN: Self = Self::V2026_07_28;

    /// Its date, as on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// From its date.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == text)
    }

    /// From its number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether it has sessions.
    #[must_use]
    pub fn is_legacy(self) -> bool {
        self <= Self::LATEST_LEGACY
    }

    /// What `initialize` answers to a client that asks for `requested` (MCP 2025-11-25, lifecycle: the same if it is
    /// served, else the latest that is).
    #[must_use]
    pub fn negotiate(requested: &str) -> Self {
        Self::parse(requested).filter(|revision| revision.is_legacy()).unwrap_or(Self::LATEST_LEGACY)
    }

    /// Only here may a body be an array of messages.
    #[must_use]
    pub fn has_batches(self) -> bool {
        self == Self::V2025_03_26
    }

    /// Only here are tasks part of the protocol itself; 2026-07-28 has them as an extension.
    #[must_use]
    pub fn has_tasks(self) -> bool {
        self == Self::V2025_11_25
    }

    /// A stream begins with an event that has an id and no data, and may be polled. Older clients would parse the
    /// empty data as JSON.
    #[must_use]
    pub fn has_priming(self) -> bool {
        self == Self::V2025_11_25
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_served_legacy_revision_is_echoed_and_any_other_request_gets_the_latest_legacy_one() {
        for revision in Revision::ALL {
            assert_eq!(Revision::from_u8(revision as u8), Some(revision));
            assert_eq!(Revision::parse(revision.as_str()), Some(revision));
        }
        assert_eq!(Revision::negotiate("2025-03-26"), Revision::V2025_03_26);
        for other in ["2026-07-28", "1999-01-01", "", "2025-11-25 "] {
            assert_eq!(Revision::negotiate(other), Revision::V2025_11_25, "{other:?}");
        }
    }
}
