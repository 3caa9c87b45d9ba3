//! Whether a backend is called at all: after failures it is left alone for a growing pause, then tried by one probe.
//!
//! ```text
//!             5 failures in a row · half of 20 outcomes in 30 s
//!   CLOSED ──────────────────────────────────────────────────▶ OPEN ◀─── the probe failed ───┐
//!     ▲                                                          │                           │
//!     │                                                          └── the pause is over ──▶ HALF OPEN
//!     └───────────────────────── the probe succeeded ──────────────────────────────────────┘
//! ```
//!
//! A pure machine: time goes in, decisions come out. Whoever is let through gets a [`Ticket`] and reports with it how it
//! ended. A ticket of an earlier state decides nothing: a call that began before the failures says nothing about what
//! came after them.
//!
//! Where the backend can be asked something harmless, calls use [`Breaker::admit`] and the owner probes with
//! [`Breaker::probe`]; where it cannot, [`Breaker::admit_or_probe`] makes one of the calls the probe.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::base::backoff::Backoff;
use crate::base::limits::{
    BREAKER_FAILURES, BREAKER_PAUSE, BREAKER_PROBE_PATIENCE, BREAKER_RELAPSE, BREAKER_WINDOW,
    BREAKER_WINDOW_CALLS,
};

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Everything.
    #[default]
    Closed,
    /// One probe, whose outcome decides.
    HalfOpen,
    /// Nothing.
    Open,
}

impl BreakerState {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Lets through whoever holds it, and ties the outcome to the state in which that was decided.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the outcome is reported with it"]
pub struct Ticket {
    epoch: u64,
}

/// Why nobody is let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When trying again may help.
    pub wait: Duration,
    /// The failure that opened the breaker.
    pub reason: Arc<str>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0);
        write!(to, "not called for another {} s; the last failure: {}", seconds.max(1), self.reason)
    }
}

/// The breaker of one backend.
#[derive(Debug)]
pub struct Breaker {
    phase: Phase,
    /// Counts the changes of the phase.
    epoch: u64,
    /// Failures since the last success.
    row: usize,
    /// The last outcomes in the closed state, and whether each was a failure.
    recent: VecDeque<(Instant, bool)>,
    backoff: Backoff,
    reason: Arc<str>,
    openings: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// `since` is there when it was open before.
    Closed {
        since: Option<Instant>,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        since: Instant,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        let (first, longest) = BREAKER_PAUSE;
        Self::with_pauses(Backoff::new(first, longest))
    }
}

impl Breaker {
    /// A closed breaker that pauses for these times.
    #[must_use]
    pub fn with_pauses(backoff: Backoff) -> Self {
        Self {
            phase: Phase::Closed { since: None },
            epoch: 0,
            row: 0,
            recent: VecDeque::with_capacity(BREAKER_WINDOW_CALLS),
            backoff,
            reason: Arc::from(""),
            openings: 0,
        }
    }

    /// Lets a call through that is not to be the probe.
    ///
    /// # Errors
    /// [`Refusal`] unless it is closed.
    pub fn admit(&self, now: Instant) -> Result<Ticket, Refusal> {
        match self.phase {
            Phase::Closed { .. } => Ok(Ticket { epoch: self.epoch }),
            Phase::Open { .. } | Phase::HalfOpen { .. } => Err(self.refusal(now)),
        }
    }

    /// Lets the probe through, when one is due and none is on its way.
    pub fn probe(&mut self, now: Instant) -> Option<Ticket> {
        let due = match self.phase {
            Phase::Closed { .. } => false,
            Phase::Open { until } => until <= now,
            // Whoever went to look has not come back.
            Phase::HalfOpen { since } => since + BREAKER_PROBE_PATIENCE <= now,
        };
        due.then(|| {
            match self.phase {
                // The one before it may still come back, and say how the backend is.
                Phase::HalfOpen { .. } => self.phase = Phase::HalfOpen { since: now },
                Phase::Open { .. } | Phase::Closed { .. } => self.enter(Phase::HalfOpen { since: now }),
            }
            Ticket { epoch: self.epoch }
        })
    }

    /// Lets a call through, as the probe if one is due.
    ///
    /// # Errors
    /// [`Refusal`] while it is open, or half open with a probe on its way.
    pub fn admit_or_probe(&mut self, now: Instant) -> Result<Ticket, Refusal> {
        self.admit(now).or_else(|refusal| self.probe(now).ok_or(refusal))
    }

    /// What was let through has reached the backend and come back. A backend that answers with an error works.
    pub fn succeeded(&mut self, ticket: &Ticket, now: Instant) {
        if ticket.epoch != self.epoch {
            return;
        }
        match self.phase {
            Phase::Closed { .. } => {
                self.row = 0;
                self.remember(now, false);
            }
            Phase::HalfOpen { .. } => {
                self.row = 0;
                self.recent.clear();
                self.enter(Phase::Closed { since: Some(now) });
            }
            Phase::Open { .. } => {}
        }
    }

    /// What was let through has found that the backend does not work. Whether this opened the breaker.
    pub fn failed(&mut self, ticket: &Ticket, now: Instant, reason: &str) -> bool {
        if ticket.epoch != self.epoch {
            return false;
        }
        self.reason = Arc::from(reason);
        let opens = match self.phase {
            Phase::Closed { since } => {
                self.row = self.row.saturating_add(1);
                self.remember(now, true);
                // Soon after it was closed, a failure belongs to the trouble before: the pause goes on growing.
                if since.is_none_or(|since| since + BREAKER_RELAPSE <= now) {
                    self.backoff.reset();
                }
                self.row >= BREAKER_FAILURES || self.is_mostly_failing()
            }
            Phase::HalfOpen { .. } => true,
            Phase::Open { .. } => false,
        };
        if opens {
            let until = now + self.backoff.wait();
            self.enter(Phase::Open { until });
            self.openings += 1;
        }
        opens
    }

    /// What was let through went away without having learned anything: another one may take its place.
    pub fn abandoned(&mut self, ticket: &Ticket, now: Instant) {
        if ticket.epoch == self.epoch && matches!(self.phase, Phase::HalfOpen { .. }) {
            self.enter(Phase::Open { until: now });
        }
    }

    /// What it lets through at this moment.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
            Phase::Open { .. } => BreakerState::Open,
        }
    }

    /// Why nobody is let through, and for how long; none when everybody is.
    #[must_use]
    pub fn refused(&self, now: Instant) -> Option<Refusal> {
        self.admit(now).err()
    }

    /// When a probe is due that is not yet on its way.
    #[must_use]
    pub fn probe_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closed { .. } => None,
            Phase::Open { until } => Some(until),
            Phase::HalfOpen { since } => Some(since + BREAKER_PROBE_PATIENCE),
        }
    }

    /// How often it has opened.
    #[must_use]
    pub fn openings(&self) -> u64 {
        self.openings
    }

    fn refusal(&self, now: Instant) -> Refusal {
        let wait = self.probe_at().map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        Refusal { wait, reason: Arc::clone(&self.reason) }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch = self.epoch.wrapping_add(1);
    }

    fn remember(&mut self, now: Instant, failed: bool) {
        while self.recent.len() >= BREAKER_WINDOW_CALLS
            || self.recent.front().is_some_and(|(then, _)| *then + BREAKER_WINDOW < now)
        {
            self.recent.pop_front();
        }
        self.recent.push_back((now, failed));
    }

    fn is_mostly_failing(&self) -> bool {
        let failures = self.recent.iter().filter(|(_, failed)| *failed).count();
        self.recent.len() >= BREAKER_WINDOW_CALLS && failures * 2 >= self.recent.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> (Breaker, Instant) {
        let (first, longest) = BREAKER_PAUSE;
        (Breaker::with_pauses(Backoff::seeded(first, longest, 7)), Instant::now())
    }

    /// Fails until it opens, and says how long it stays open.
    fn trip(breaker: &mut Breaker, now: Instant) -> Duration {
        for _ in 0..BREAKER_FAILURES {
            let ticket = breaker.admit(now).unwrap();
            breaker.failed(&ticket, now, "no route");
        }
        breaker.refused(now).expect("open").wait
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let (mut breaker, now) = breaker();
        for _ in 0..3 {
            for _ in 1..BREAKER_FAILURES {
                let ticket = breaker.admit(now).unwrap();
                assert!(!breaker.failed(&ticket, now, "x"));
            }
            let ticket = breaker.admit(now).unwrap();
            breaker.succeeded(&ticket, now);
            // The window must not see them either.
            breaker.recent.clear();
        }
        assert_eq!((breaker.state(), breaker.openings()), (BreakerState::Closed, 0));
        trip(&mut breaker, now);
        assert_eq!((breaker.state(), breaker.openings()), (BreakerState::Open, 1));
        assert_eq!(&*breaker.admit(now).unwrap_err().reason, "no route");
    }

    #[test]
    fn half_of_many_outcomes_open_it_unless_they_are_old() {
        let (mut breaker, start) = breaker();
        let run = |breaker: &mut Breaker, pause: Duration| {
            (0..BREAKER_WINDOW_CALLS as u32 * 2).find(|n| {
                let now = start + pause * *n;
                let Ok(ticket) = breaker.admit(now) else { return true };
                match n % 2 {
                    0 => breaker.succeeded(&ticket, now),
                    _ => drop(breaker.failed(&ticket, now, "x")),
                }
                false
            })
        };
        assert_eq!(run(&mut breaker, BREAKER_WINDOW / 4), None);
        breaker.recent.clear();
        assert_eq!(run(&mut breaker, Duration::from_millis(1)), Some(BREAKER_WINDOW_CALLS as u32));
    }

    #[test]
    fn one_probe_is_let_through_after_the_pause_and_decides() {
        let (mut breaker, now) = breaker();
        let wait = trip(&mut breaker, now);
        assert_eq!(breaker.probe(now + wait - Duration::from_millis(1)), None);
        let then = now + wait;
        let probe = breaker.probe(then).expect("due");
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(breaker.probe(then), None, "one at a time");
        assert!(breaker.admit_or_probe(then).is_err());
        assert!(breaker.failed(&probe, then, "still"));
        let longer = breaker.refused(then).unwrap().wait;
        assert!(longer > wait / 2, "{longer:?} after {wait:?}");
        let then = then + longer;
        let probe = breaker.admit_or_probe(then).unwrap();
        breaker.succeeded(&probe, then);
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(breaker.admit(then).is_ok());
    }

    #[test]
    fn outcomes_of_an_earlier_state_decide_nothing() {
        let (mut breaker, now) = breaker();
        let early = breaker.admit(now).unwrap();
        let wait = trip(&mut breaker, now);
        breaker.succeeded(&early, now);
        assert_eq!(breaker.state(), BreakerState::Open);
        let probe = breaker.probe(now + wait).unwrap();
        breaker.succeeded(&early, now + wait);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.succeeded(&probe, now + wait);
        for _ in 0..BREAKER_FAILURES {
            assert!(!breaker.failed(&early, now + wait, "late"));
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_probe_that_is_abandoned_or_never_comes_back_is_followed_by_another() {
        let (mut breaker, now) = breaker();
        let then = now + trip(&mut breaker, now);
        let probe = breaker.probe(then).unwrap();
        breaker.abandoned(&probe, then);
        let lost = breaker.probe(then).expect("another one");
        assert_eq!(breaker.probe(then + BREAKER_PROBE_PATIENCE - Duration::from_millis(1)), None);
        let probe = breaker.probe(then + BREAKER_PROBE_PATIENCE).expect("a third one");
        breaker.succeeded(&probe, then + BREAKER_PROBE_PATIENCE);
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.failed(&lost, then + BREAKER_PROBE_PATIENCE, "late news of the one before");
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_probe_that_takes_longer_than_others_wait_for_it_still_decides() {
        for works in [true, false] {
            let (mut breaker, now) = breaker();
            let then = now + trip(&mut breaker, now);
            let slow = breaker.probe(then).unwrap();
            let next = breaker.probe(then + BREAKER_PROBE_PATIENCE).unwrap();
            let after = then + BREAKER_PROBE_PATIENCE + SECOND;
            let wanted = if works {
                breaker.succeeded(&slow, after);
                BreakerState::Closed
            } else {
                assert!(breaker.failed(&slow, after, "no answer"));
                BreakerState::Open
            };
            assert_eq!(breaker.state(), wanted);
            // Of two only the first one decides.
            breaker.succeeded(&next, after);
            assert_eq!(breaker.state(), wanted);
        }
    }

    #[test]
    fn pauses_grow_while_it_relapses_and_begin_anew_after_calm() {
        let (mut breaker, mut now) = breaker();
        let mut waits = Vec::new();
        for _ in 0..12 {
            let wait = trip(&mut breaker, now);
            waits.push(wait);
            now += wait;
            let probe = breaker.probe(now).unwrap();
            breaker.succeeded(&probe, now);
            now += SECOND;
        }
        let (first, longest) = BREAKER_PAUSE;
        assert!(waits[0] <= first && waits[11] >= longest / 2, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= longest));
        let calm = trip(&mut breaker, now + BREAKER_RELAPSE);
        assert!(calm <= first, "{calm:?}");
    }

    #[test]
    fn a_refusal_says_when_and_why() {
        let refusal = Refusal { wait: Duration::from_millis(1_200), reason: "it answered 502".into() };
        assert_eq!(refusal.to_string(), "not called for another 2 s; the last failure: it answered 502");
    }
}
