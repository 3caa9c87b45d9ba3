//! A result: a register that rises, and stands still for ever once it is final.
//!
//! Who works on a task reports under the fence of its lease, with revisions of its own. Reports are ordered by fence,
//! then revision; an older one changes nothing. The first terminal report that arrives is the result, and no report
//! after it changes anything, whatever its fence: a client may have seen it.

use bytes::Bytes;

/// The rank of a terminal result: nothing changes it.
pub const TERMINAL: u8 = 9;

/// What was reported last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The fence of the reporter's lease.
    pub fence: u64,
    /// Its revision under that fence.
    pub rev: u64,
    /// How far it is: 0 to 8 as the reporter likes, [`TERMINAL`] at the end.
    pub rank: u8,
    /// Its content.
    pub payload: Bytes,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It stands.
    Ok,
    /// A newer one stands, of this fence and revision.
    Stale {
        /// The fence of the one that stands.
        fence: u64,
        /// Its revision.
        rev: u64,
    },
    /// The terminal one stands, of this fence and revision.
    Final {
        /// The fence of the terminal one.
        fence: u64,
        /// Its revision.
        rev: u64,
    },
}

/// Whether a report replaces what stands.
#[must_use]
pub fn report(standing: Option<(u64, u64, u8)>, fence: u64, rev: u64) -> Reported {
    match standing {
        Some((held, held_rev, TERMINAL..)) => Reported::Final { fence: held, rev: held_rev },
        Some((held, held_rev, _)) if (fence, rev) <= (held, held_rev) => {
            Reported::Stale { fence: held, rev: held_rev }
        }
        _ => Reported::Ok,
    }
}
