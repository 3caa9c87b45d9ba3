//! Stamps: hybrid logical time and who wrote, so that any two writes of one field have an order everywhere.

use std::fmt;

use crate::base::ids::Origin;

const MAX_MS: u64 = (1 << 48) - 1;

/// When and by whom something was written: milliseconds since the epoch, a counter within the millisecond, and the
/// process start that wrote it. Ordered in that order.
///
/// As text 26 lower-case hexadecimal digits (12 of the time, 4 of the counter, 10 of the origin), whose order as
/// strings is the order of the stamps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    ms: u64,
    counter: u16,
    origin: Origin,
}

impl Stamp {
    /// Length of the binary form in bytes.
    pub const LEN: usize = 13;
    /// Length of the text form in characters.
    pub const TEXT: usize = 26;

    /// A stamp of these parts; of the time the lower 48 bits count.
    #[must_use]
    pub fn new(ms: u64, counter: u16, origin: Origin) -> Self {
        Self { ms: ms.min(MAX_MS), counter, origin }
    }

    /// Its time, in milliseconds since the epoch.
    #[must_use]
    pub fn ms(self) -> u64 {
        self.ms
    }

    /// Who wrote.
    #[must_use]
    pub fn origin(self) -> Origin {
        self.origin
    }

    /// Binary form; its order as bytes is the order of the stamps.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [_, _, a, b, c, d, e, f] = self.ms.to_be_bytes();
        let [g, h] = self.counter.to_be_bytes();
        let [i, j, k, l, m] = self.origin.to_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m]
    }

    /// From the binary form.
    #[must_use]
    pub fn from_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m]: [u8; Self::LEN]) -> Self {
        Self {
            ms: u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
            counter: u16::from_be_bytes([g, h]),
            origin: Origin::from_bytes([i, j, k, l, m]),
        }
    }

    /// Reads the text form; `None` for anything that `Display` would not write.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != Self::TEXT || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let number = |from: usize, to: usize| u64::from_str_radix(text.get(from..to)?, 16).ok();
        Some(Self {
            ms: number(0, 12)?,
            counter: u16::try_from(number(12, 16)?).ok()?,
            origin: Origin::from_bits(number(16, 26)?),
        })
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}{:04x}{:010x}", self.ms, self.counter, self.origin.bits())
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamp({self})")
    }
}

/// The clock that gives stamps: follows the system's clock, and never goes back when that one does.
#[derive(Clone, Debug)]
pub struct Hlc {
    origin: Origin,
    ms: u64,
    counter: u16,
}

impl Hlc {
    /// A clock of a process start whose stamps are all later than `floor_ms`, the highest time that an earlier start
    /// of this instance may have used.
    #[must_use]
    pub fn new(origin: Origin, floor_ms: u64) -> Self {
        Self { origin, ms: floor_ms.min(MAX_MS), counter: u16::MAX }
    }

    /// The next stamp, later than all before it and all that were observed.
    pub fn next(&mut self, now_ms: u64) -> Stamp {
        if now_ms > self.ms {
            (self.ms, self.counter) = (now_ms.min(MAX_MS), 0);
        } else if let Some(next) = self.counter.checked_add(1) {
            self.counter = next;
        } else {
            (self.ms, self.counter) = ((self.ms + 1).min(MAX_MS), 0);
        }
        Stamp { ms: self.ms, counter: self.counter, origin: self.origin }
    }

    /// The time of the last stamp given or observed, in milliseconds since the epoch.
    #[must_use]
    pub fn ms(&self) -> u64 {
        self.ms
    }

    /// Goes back to `ms`, if it is ahead: that clock was wrong. Whoever calls it sees to what carries later stamps.
    pub fn set_back(&mut self, ms: u64) {
        if self.ms > ms {
            (self.ms, self.counter) = (ms.min(MAX_MS), 0);
        }
    }

    /// Notes a stamp of another writer: the next one of this clock is later.
    pub fn observe(&mut self, seen: Stamp) {
        if (seen.ms, seen.counter) > (self.ms, self.counter) {
            (self.ms, self.counter) = (seen.ms, seen.counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stamps_rise_when_the_clock_stands_still_or_goes_back() {
        let mut hlc = Hlc::new(Origin::from_bits(7), 0);
        let mut last = hlc.next(1_000);
        for now in [1_000, 1_000, 999, 0, 1_001, 1_001] {
            let next = hlc.next(now);
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        for _ in 0..70_000 {
            let next = hlc.next(5);
            assert!(next > last, "the counter runs over into the next millisecond");
            last = next;
        }
    }

    #[test]
    fn a_new_start_goes_on_after_the_floor() {
        let stamp = Hlc::new(Origin::from_bits(1), 5_000).next(10);
        assert!(stamp > Stamp::new(5_000, u16::MAX, Origin::from_bits(u64::MAX)));
    }

    #[test]
    fn a_stamp_seen_elsewhere_is_overtaken() {
        let mut hlc = Hlc::new(Origin::from_bits(1), 0);
        let seen = Stamp::new(9_000, 4, Origin::from_bits(u64::MAX));
        hlc.observe(seen);
        assert!(hlc.next(10) > seen);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn text_and_bytes_read_back_and_keep_the_order(
            a in (0_u64..1 << 48, any::<u16>(), any::<u64>()),
            b in (0_u64..1 << 48, any::<u16>(), any::<u64>()),
        ) {
            let [a, b] = [a, b].map(|(ms, counter, bits)| Stamp::new(ms, counter, Origin::from_bits(bits)));
            prop_assert_eq!(Stamp::parse(&a.to_string()), Some(a));
            prop_assert_eq!(Stamp::from_bytes(a.to_bytes()), a);
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
        }

        #[test]
        fn no_text_makes_parse_panic(text in "\\PC{0,40}") {
            if let Some(stamp) = Stamp::parse(&text) {
                prop_assert_eq!(stamp.to_string(), text);
            }
        }
    }
}
