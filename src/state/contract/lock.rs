//! `lock_take` and `lock_look`: a lock among all instances.

use super::{Reply, Slot};
use crate::state::lock::{Register, Token};

/// A lock's fence is remembered for so long, milliseconds.
pub const LOCK_KEEP_MS: u64 = 7 * 24 * 3600 * 1000;

/// A step on a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take it, or hold it longer.
    Take,
    /// Hold it longer.
    Renew,
    /// Let it go.
    Drop,
}

impl Step {
    /// Its name in the script.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Renew => "renew",
            Self::Drop => "drop",
        }
    }
}

/// `lock_take`: a step on a lock; its fence, or how long somebody else still has, milliseconds. A new fence is above the
/// last one, and neither below the time nor below `floor`.
///
/// # Errors
/// Who does not hold it learns how long somebody else still does; 0: nobody does.
pub fn lock_take(
    slot: &mut Slot<Register>,
    now_us: u64,
    token: Token,
    ttl_ms: u64,
    step: Step,
    floor: u64,
) -> Result<u64, u64> {
    let now_ms = now_us / 1000;
    let held = slot.at(now_ms).copied();
    let next = match (step, held) {
        (Step::Take, held) => Register::take(held.as_ref(), token, ttl_ms, now_ms, now_us.max(floor)),
        (Step::Renew, Some(held)) => held.renew(token, ttl_ms, now_ms),
        (Step::Drop, Some(held)) => held.release(token, now_ms),
        (Step::Renew | Step::Drop, None) => return Err(0),
    };
    let next = next.map_err(|refused| refused.left_ms)?;
    slot.put(next, now_ms.saturating_add(LOCK_KEEP_MS), now_ms);
    Ok(next.fence)
}

/// As Redis says it.
#[must_use]
pub fn lock_reply(taken: Result<u64, u64>) -> Reply {
    let (done, number) = match taken {
        Ok(fence) => (1, fence),
        Err(left_ms) => (0, left_ms),
    };
    Reply::List(vec![Reply::Int(done), Reply::number(number)])
}

/// `lock_look`: the fence that was given last, 0 where none is known, and how long its holder still has, milliseconds.
#[must_use]
pub fn lock_look(slot: &mut Slot<Register>, now_us: u64) -> (u64, u64) {
    let now_ms = now_us / 1000;
    slot.at(now_ms).map_or((0, 0), |held| (held.fence, held.left_ms(now_ms)))
}

/// As Redis says it.
#[must_use]
pub fn look_reply((fence, left_ms): (u64, u64)) -> Reply {
    Reply::List(vec![Reply::number(fence), Reply::number(left_ms)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    #[test]
    fn fences_rise_when_the_lock_is_forgotten() {
        let (mut slot, token) = (Slot::default(), Token::from_bytes([1; 16]));
        let first = lock_take(&mut slot, NOW * 1000, token, 10, Step::Take, 0).unwrap();
        assert_eq!(lock_look(&mut slot, NOW * 1000 + 4_000), (first, 6));
        slot.clear();
        assert_eq!(lock_look(&mut slot, NOW * 1000), (0, 0));
        assert!(lock_take(&mut slot, NOW * 1000 + 5, token, 10, Step::Take, 0).unwrap() > first);
        assert_eq!(lock_take(&mut slot, NOW * 1000, Token::from_bytes([2; 16]), 10, Step::Take, 0), Err(10));
        slot.clear();
        // Whoever knows of a later one from elsewhere gets one above it.
        assert_eq!(lock_take(&mut slot, NOW, token, 10, Step::Take, first + 7), Ok(first + 7));
    }
}
