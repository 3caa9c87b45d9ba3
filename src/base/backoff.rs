//! How long to wait before the next attempt.

use std::time::Duration;

use super::seal::random;

/// Waiting times that double up to a longest one, without end.
///
/// Each is drawn between a half and the whole of its step: those who failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    step: Duration,
    seed: u64,
}

impl Backoff {
    /// Times that begin at `first` and grow to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self::seeded(first, longest, u64::from_be_bytes(random()))
    }

    /// The same with a known seed: the same times every time.
    #[must_use]
    pub fn seeded(first: Duration, longest: Duration, seed: u64) -> Self {
        let first = first.min(longest);
        Self { first, longest, step: first, seed }
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.step = self.first;
    }

    /// The next waiting time.
    pub fn wait(&mut self) -> Duration {
        let step = self.step;
        self.step = step.saturating_mul(2).min(self.longest);
        // SplitMix64 (Steele, Lea, Flood 2014): enough for jitter.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.seed;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let share = f64::from((bits >> 32) as u32) / f64::from(u32::MAX);
        step.mul_f64(0.5 + share / 2.0)
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(1);

    #[test]
    fn each_wait_lies_between_a_half_and_the_whole_of_its_step() {
        for seed in 0..200 {
            let mut step = FIRST;
            for wait in Backoff::seeded(FIRST, LONGEST, seed).take(8) {
                assert!(wait >= step / 2 && wait <= step, "seed {seed}: {wait:?} is not within {step:?}");
                step = (step * 2).min(LONGEST);
            }
        }
    }

    #[test]
    fn two_seeds_do_not_wait_in_step() {
        let of = |seed| Backoff::seeded(FIRST, LONGEST, seed).take(4).collect::<Vec<_>>();
        assert_ne!(of(1), of(2));
        assert_eq!(of(1), of(1));
    }

    #[test]
    fn after_a_success_it_begins_anew() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        assert!(backoff.by_ref().take(6).last().is_some_and(|wait| wait >= LONGEST / 2));
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }
}
