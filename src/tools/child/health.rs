//! Whether a program that died may be started again: after a growing pause, and not at all for a while when it dies
//! again and again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::backoff::Backoff;
use crate::base::limits::{CHILD_BACKOFF, CHILD_CRASH_WINDOW, CHILD_CRASHES, CHILD_PARK};

/// The recent deaths of one program.
#[derive(Debug)]
pub(super) struct Health {
    /// When it died, within the last [`CHILD_CRASH_WINDOW`].
    deaths: VecDeque<Instant>,
    reason: Arc<str>,
    parked_until: Option<Instant>,
    not_before: Option<Instant>,
    backoff: Backoff,
}

/// What may be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Start it.
    Open,
    /// Start it after this time.
    Wait(Duration),
    /// Do not start it for this time; why it died last.
    Parked(Duration, Arc<str>),
}

impl Default for Health {
    fn default() -> Self {
        let (first, longest) = CHILD_BACKOFF;
        Self {
            deaths: VecDeque::new(),
            reason: Arc::from(""),
            parked_until: None,
            not_before: None,
            backoff: Backoff::new(first, longest),
        }
    }
}

impl Health {
    /// It died.
    pub(super) fn died(&mut self, now: Instant, reason: &str) {
        self.forget_old(now);
        if self.deaths.is_empty() {
            self.backoff.reset();
            // The first restart is at once: most deaths are single ones.
            self.not_before = None;
        } else {
            self.not_before = Some(now + self.backoff.wait());
        }
        self.deaths.push_back(now);
        self.reason = Arc::from(reason);
        if self.deaths.len() >= CHILD_CRASHES {
            self.parked_until = Some(now + CHILD_PARK);
            // After the park one more death parks it again.
            self.deaths.pop_front();
        }
    }

    /// It runs: what was wrong with starting it is over.
    pub(super) fn recovered(&mut self) {
        self.deaths.clear();
        self.parked_until = None;
        self.not_before = None;
    }

    pub(super) fn gate(&self, now: Instant) -> Gate {
        if let Some(until) = self.parked_until.filter(|until| *until > now) {
            return Gate::Parked(until - now, Arc::clone(&self.reason));
        }
        match self.not_before.filter(|then| *then > now) {
            Some(then) => Gate::Wait(then - now),
            None => Gate::Open,
        }
    }

    /// A park's time does not count: right after it, its deaths are still recent.
    fn forget_old(&mut self, now: Instant) {
        let calm_since = self.parked_until.filter(|until| *until <= now);
        while let Some(first) = self.deaths.front() {
            let counted_from = calm_since.map_or(*first, |until| until.max(*first));
            if now.saturating_duration_since(counted_from) <= CHILD_CRASH_WINDOW {
                break;
            }
            self.deaths.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_restart_is_at_once_and_the_next_ones_wait_longer() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!(health.gate(now), Gate::Open);
        health.died(now, "a");
        assert_eq!(health.gate(now), Gate::Open);
        health.died(now, "b");
        let Gate::Wait(first) = health.gate(now) else { panic!("no pause after two deaths") };
        assert_eq!(health.gate(now + first), Gate::Open);
        health.died(now + SECOND, "c");
        assert!(matches!(health.gate(now + SECOND), Gate::Wait(_)));
    }

    #[test]
    fn a_crash_loop_is_parked_with_its_reason_until_the_time_is_over() {
        let (mut health, now) = (Health::default(), Instant::now());
        (0..CHILD_CRASHES).for_each(|n| health.died(now, &format!("death {n}")));
        assert_eq!(health.gate(now + SECOND), Gate::Parked(CHILD_PARK - SECOND, "death 4".into()));
        let after = now + CHILD_PARK;
        assert_eq!(health.gate(after), Gate::Open);
        health.died(after + SECOND, "again");
        assert!(matches!(health.gate(after + SECOND), Gate::Parked(_, reason) if &*reason == "again"));
    }

    #[test]
    fn deaths_far_apart_never_park() {
        let (mut health, start) = (Health::default(), Instant::now());
        for n in 0..50 {
            let now = start + CHILD_CRASH_WINDOW * n / 2;
            health.died(now, "x");
            assert!(!matches!(health.gate(now), Gate::Parked(..)), "death {n}");
        }
    }

    #[test]
    fn what_has_recovered_may_start_at_once() {
        let (mut health, now) = (Health::default(), Instant::now());
        (0..CHILD_CRASHES).for_each(|_| health.died(now, "x"));
        health.recovered();
        assert_eq!(health.gate(now), Gate::Open);
    }
}
