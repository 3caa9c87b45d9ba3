//! The relation of this instance to one shard of the shared store, as a machine: what was seen and when goes in, the
//! state and its reason come out.
//!
//! ```text
//!             3 good probes over 1 s, after the pause
//!   DOWN ───────────────────────────────────────────────▶ UP ◀──── a write is taken ──── READ ONLY
//!    ▲ ▲                                                  │ │                               │  ▲
//!    │ └── 3 deadlines missed · half of 20 calls in 2 s ──┘ └── full, read-only, ───────────┼──┘
//!    │     bad · nothing heard for 2 s · a hard failure         without replicas            │
//!    └──────────────────────────────────────────────────────────────────────────────────────┘
//!   DOWN ◀──▶ ISOLATED: a sister instance says that it is up
//! ```
//!
//! The pause in DOWN is 2 s, and doubles up to 60 s when the link fails again within 30 s: a shared store at its limit
//! is not helped by instances that come and go together. Calls of users are never the probe.

use std::collections::VecDeque;
use std::fmt;

/// Deadlines missed in a row after which the link is down.
const MISSES: u32 = 3;
/// What calls are judged over, milliseconds.
const WINDOW_MS: u64 = 2_000;
/// Calls within the window below which they say nothing.
const WINDOW_CALLS: u32 = 20;
/// The window is counted in parts of this length, milliseconds.
const PART_MS: u64 = 250;
/// Good probes in a row that the way up takes,
const PROBES: u32 = 3;
/// and the time that they must span, milliseconds.
const PROBES_MS: u64 = 1_000;
/// When nothing was heard for so long the link is down, milliseconds.
const DEAF_MS: u64 = 2_000;
/// The pause after a failure, and the longest one, milliseconds.
const PAUSE_MS: (u64, u64) = (2_000, 60_000);
/// A failure so soon after the way up doubles the pause, milliseconds.
const RELAPSE_MS: u64 = 30_000;

/// Relation to one shard of the shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// Reads and writes.
    Up,
    /// Reads alone.
    ReadOnly,
    /// Neither.
    Down,
    /// Neither, though a sister instance has both: it is this one that is cut off.
    Isolated,
}

impl LinkState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Up, Self::ReadOnly, Self::Down, Self::Isolated];

    /// Its name in status, metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::ReadOnly => "read_only",
            Self::Down => "down",
            Self::Isolated => "isolated",
        }
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why the link is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It was not tried yet.
    Starting,
    /// Probes come back.
    Probed,
    /// Deadlines were missed.
    Timeout,
    /// Too many calls failed or took too long.
    Slow,
    /// What is written is not heard of.
    Deaf,
    /// There is no connection, or it broke.
    Unreachable,
    /// It reads its data in.
    Loading,
    /// The cluster or the primary is not there.
    ClusterDown,
    /// A script or a command blocks it.
    Busy,
    /// It is not the primary.
    WrongPrimary,
    /// User, password or rights.
    Auth,
    /// A version, a protocol or a setting that cannot be served.
    Unfit,
    /// Its memory is full.
    Full,
    /// It cannot write to its disk.
    Misconfigured,
    /// It has too few replicas.
    NoReplicas,
    /// It takes no writes.
    ReadOnly,
    /// A sister instance reaches it.
    PeerUp,
    /// No sister instance reaches it.
    PeersDown,
}

impl Cause {
    /// Its name in status, metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Probed => "probed",
            Self::Timeout => "timeout",
            Self::Slow => "slow",
            Self::Deaf => "deaf",
            Self::Unreachable => "unreachable",
            Self::Loading => "loading",
            Self::ClusterDown => "cluster_down",
            Self::Busy => "busy",
            Self::WrongPrimary => "wrong_primary",
            Self::Auth => "auth",
            Self::Unfit => "unfit",
            Self::Full => "full",
            Self::Misconfigured => "misconfigured",
            Self::NoReplicas => "no_replicas",
            Self::ReadOnly => "read_only",
            Self::PeerUp => "peer_up",
            Self::PeersDown => "peers_down",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// It was answered after so long, milliseconds; a refusal that is the caller's own fault counts as an answer.
    Answered(u64),
    /// It was not answered within the deadline.
    Missed,
    /// It failed in another way that may pass.
    Failed,
}

/// How a probe went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Its write, made at this moment (milliseconds), was heard of.
    Heard(u64),
    /// It was written, and not heard of.
    Deaf,
    /// Writes are refused.
    Refused(Cause),
    /// It failed.
    Failed,
}

/// The state became another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// From this one
    pub from: LinkState,
    /// to this one
    pub to: LinkState,
    /// for this reason.
    pub cause: Cause,
}

/// The machine of one link. Times are milliseconds that never go back.
#[derive(Clone, Debug)]
pub struct Link {
    slow_ms: u64,
    state: LinkState,
    cause: Cause,
    since_ms: u64,
    misses: u32,
    parts: VecDeque<Part>,
    probes: u32,
    first_probe_ms: u64,
    /// The moment of the last write that was heard of.
    heard_ms: Option<u64>,
    /// The end of the pause.
    pause_until_ms: u64,
    /// The last pause.
    pause_ms: u64,
    /// When it last left DOWN.
    recovered_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    from_ms: u64,
    calls: u32,
    bad: u32,
}

impl Link {
    /// A link that was not tried yet; a call that takes longer than `slow_ms` counts as bad.
    #[must_use]
    pub fn new(now_ms: u64, slow_ms: u64) -> Self {
        Self {
            slow_ms,
            state: LinkState::Down,
            cause: Cause::Starting,
            since_ms: now_ms,
            misses: 0,
            parts: VecDeque::new(),
            probes: 0,
            first_probe_ms: 0,
            heard_ms: None,
            pause_until_ms: 0,
            pause_ms: PAUSE_MS.0,
            recovered_ms: None,
        }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// Its reason.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Since when it is so, milliseconds.
    #[must_use]
    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// The moment of the last write that was heard of, milliseconds; `None` while the link is not up.
    #[must_use]
    pub fn heard_ms(&self) -> Option<u64> {
        self.heard_ms.filter(|_| self.state == LinkState::Up)
    }

    /// How long it stays down before probes count, milliseconds; 0: they count.
    #[must_use]
    pub fn pause_left_ms(&self, now_ms: u64) -> u64 {
        self.pause_until_ms.saturating_sub(now_ms)
    }

    /// A call of a user went so.
    pub fn called(&mut self, now_ms: u64, called: Called) -> Option<Change> {
        if !matches!(self.state, LinkState::Up | LinkState::ReadOnly) {
            return None;
        }
        let bad = match called {
            Called::Answered(took_ms) => took_ms > self.slow_ms,
            Called::Missed | Called::Failed => true,
        };
        match called {
            Called::Missed => self.misses += 1,
            Called::Answered(_) => self.misses = 0,
            Called::Failed => {}
        }
        if self.misses >= MISSES {
            return self.fail(now_ms, Cause::Timeout);
        }
        let (calls, bads) = self.count(now_ms, bad);
        if calls >= WINDOW_CALLS && bads * 2 >= calls {
            return self.fail(now_ms, Cause::Slow);
        }
        None
    }

    /// A probe went so.
    pub fn probed(&mut self, now_ms: u64, probed: Probed) -> Option<Change> {
        match (self.state, probed) {
            (LinkState::Up, Probed::Heard(at_ms)) => {
                self.misses = 0;
                self.heard_ms = self.heard_ms.max(Some(at_ms));
                None
            }
            (LinkState::Up, Probed::Deaf) => self.tick(now_ms),
            (LinkState::Up | LinkState::ReadOnly, Probed::Failed) => self.called(now_ms, Called::Missed),
            (LinkState::Up, Probed::Refused(cause)) => self.refused(now_ms, cause),
            (LinkState::ReadOnly, Probed::Heard(at_ms)) => {
                self.heard_ms = Some(at_ms);
                self.turn(now_ms, LinkState::Up, Cause::Probed)
            }
            (LinkState::ReadOnly, Probed::Deaf) => None,
            (LinkState::ReadOnly, Probed::Refused(cause)) => {
                self.misses = 0;
                self.cause = cause;
                None
            }
            (LinkState::Down | LinkState::Isolated, Probed::Failed | Probed::Deaf) => {
                self.probes = 0;
                if probed == Probed::Deaf {
                    self.cause = Cause::Deaf;
                }
                None
            }
            (LinkState::Down | LinkState::Isolated, Probed::Heard(_) | Probed::Refused(_)) => {
                if now_ms < self.pause_until_ms {
                    return None;
                }
                if self.probes == 0 {
                    self.first_probe_ms = now_ms;
                }
                self.probes += 1;
                if self.probes < PROBES || now_ms.saturating_sub(self.first_probe_ms) < PROBES_MS {
                    return None;
                }
                self.recovered_ms = Some(now_ms);
                match probed {
                    Probed::Refused(cause) => self.turn(now_ms, LinkState::ReadOnly, cause),
                    _ => {
                        self.heard_ms = if let Probed::Heard(at_ms) = probed { Some(at_ms) } else { None };
                        self.turn(now_ms, LinkState::Up, Cause::Probed)
                    }
                }
            }
        }
    }

    /// A write was refused, though reads are answered.
    pub fn refused(&mut self, now_ms: u64, cause: Cause) -> Option<Change> {
        match self.state {
            LinkState::Up => self.turn(now_ms, LinkState::ReadOnly, cause),
            LinkState::ReadOnly => {
                self.cause = cause;
                None
            }
            LinkState::Down | LinkState::Isolated => None,
        }
    }

    /// A failure that says by itself that the link is down.
    pub fn failed(&mut self, now_ms: u64, cause: Cause) -> Option<Change> {
        match self.state {
            LinkState::Up | LinkState::ReadOnly => self.fail(now_ms, cause),
            LinkState::Down | LinkState::Isolated => {
                self.probes = 0;
                if self.state == LinkState::Down {
                    self.cause = cause;
                }
                None
            }
        }
    }

    /// Time has gone on.
    pub fn tick(&mut self, now_ms: u64) -> Option<Change> {
        let heard_ms = self.heard_ms.unwrap_or(self.since_ms);
        if self.state == LinkState::Up && now_ms.saturating_sub(heard_ms) > DEAF_MS {
            return self.fail(now_ms, Cause::Deaf);
        }
        None
    }

    /// Sister instances were asked whether they reach the shard.
    pub fn peers(&mut self, now_ms: u64, any_up: bool) -> Option<Change> {
        match (self.state, any_up) {
            (LinkState::Down, true) => self.turn(now_ms, LinkState::Isolated, Cause::PeerUp),
            (LinkState::Isolated, false) => self.turn(now_ms, LinkState::Down, Cause::PeersDown),
            _ => None,
        }
    }

    fn fail(&mut self, now_ms: u64, cause: Cause) -> Option<Change> {
        let relapse = self.recovered_ms.is_some_and(|at| now_ms.saturating_sub(at) < RELAPSE_MS)
            && self.pause_until_ms > 0;
        self.pause_ms = if relapse { (self.pause_ms * 2).min(PAUSE_MS.1) } else { PAUSE_MS.0 };
        self.pause_until_ms = now_ms.saturating_add(self.pause_ms);
        self.turn(now_ms, LinkState::Down, cause)
    }

    fn turn(&mut self, now_ms: u64, to: LinkState, cause: Cause) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        self.cause = cause;
        self.since_ms = now_ms;
        self.misses = 0;
        self.probes = 0;
        self.parts.clear();
        if to != LinkState::Up {
            self.heard_ms = None;
        }
        Some(Change { from, to, cause })
    }

    /// Counts a call; the calls of the window and how many of them were bad.
    fn count(&mut self, now_ms: u64, bad: bool) -> (u32, u32) {
        while self.parts.front().is_some_and(|part| now_ms.saturating_sub(part.from_ms) >= WINDOW_MS) {
            self.parts.pop_front();
        }
        match self.parts.back_mut() {
            Some(part) if now_ms.saturating_sub(part.from_ms) < PART_MS => {
                part.calls = part.calls.saturating_add(1);
                part.bad = part.bad.saturating_add(u32::from(bad));
            }
            _ => self.parts.push_back(Part { from_ms: now_ms, calls: 1, bad: u32::from(bad) }),
        }
        self.parts.iter().fold((0_u32, 0_u32), |(calls, bad), part| {
            (calls.saturating_add(part.calls), bad.saturating_add(part.bad))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn up(now_ms: u64) -> Link {
        let mut link = Link::new(now_ms, 150);
        for step in 0..3 {
            link.probed(now_ms + step * 500, Probed::Heard(now_ms + step * 500));
        }
        assert_eq!(link.state(), LinkState::Up);
        link
    }

    fn probe_until_up(link: &mut Link, mut now_ms: u64) -> u64 {
        while link.state() != LinkState::Up {
            now_ms += 250;
            link.probed(now_ms, Probed::Heard(now_ms));
        }
        now_ms
    }

    #[test]
    fn three_good_probes_over_a_second_lead_up() {
        let mut link = Link::new(0, 150);
        for now_ms in [0, 10, 20, 30, 999] {
            assert_eq!(link.probed(now_ms, Probed::Heard(now_ms)), None);
        }
        assert_eq!(link.probed(1_000, Probed::Failed), None);
        for now_ms in [1_100, 1_600] {
            assert_eq!(link.probed(now_ms, Probed::Heard(now_ms)), None);
        }
        let change = link.probed(2_100, Probed::Heard(2_100)).unwrap();
        assert_eq!((change.from, change.to, change.cause), (LinkState::Down, LinkState::Up, Cause::Probed));
    }

    #[test]
    fn missed_deadlines_in_a_row_lead_down_and_others_do_not() {
        let mut link = up(0);
        for _ in 0..8 {
            assert_eq!(link.called(1_000, Called::Missed), None);
            assert_eq!(link.called(1_000, Called::Answered(1)), None);
        }
        let mut link = up(0);
        assert_eq!(link.called(1_000, Called::Missed), None);
        assert_eq!(link.called(1_100, Called::Missed), None);
        assert_eq!(link.called(1_200, Called::Missed).unwrap().cause, Cause::Timeout);
    }

    #[test]
    fn half_of_twenty_calls_slow_lead_down() {
        let mut link = up(0);
        for call in 0..19 {
            let took_ms = if call % 2 == 0 { 151 } else { 150 };
            assert_eq!(link.called(1_000 + call * 100, Called::Answered(took_ms)), None);
        }
        assert_eq!(link.called(2_900, Called::Answered(151)).unwrap().cause, Cause::Slow);
        let mut link = up(0);
        for call in 0..100 {
            // As many, over a longer time: never twenty within two seconds.
            assert_eq!(link.called(1_000 + call * 150, Called::Answered(200)), None);
        }
    }

    #[test]
    fn silence_of_two_seconds_leads_down() {
        let mut link = up(0);
        assert_eq!(link.tick(3_000), None);
        assert_eq!(link.tick(3_001).unwrap().cause, Cause::Deaf);
        assert_eq!(link.heard_ms(), None);
    }

    #[test]
    fn the_pause_doubles_for_a_link_that_fails_again_soon() {
        let mut link = up(0);
        let mut now_ms = 2_000;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            link.failed(now_ms, Cause::Unreachable);
            pauses.push(link.pause_left_ms(now_ms));
            now_ms = probe_until_up(&mut link, now_ms) + 1_000;
        }
        assert_eq!(pauses, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        now_ms += 40_000;
        link.failed(now_ms, Cause::Unreachable);
        assert_eq!(link.pause_left_ms(now_ms), 2_000);
    }

    #[test]
    fn refused_writes_leave_reads_and_one_taken_write_ends_it() {
        let mut link = up(0);
        assert_eq!(link.refused(2_000, Cause::Full).unwrap().to, LinkState::ReadOnly);
        assert_eq!(link.tick(90_000), None);
        assert_eq!(link.probed(90_000, Probed::Refused(Cause::NoReplicas)), None);
        assert_eq!(link.cause(), Cause::NoReplicas);
        assert_eq!(link.probed(91_000, Probed::Heard(91_000)).unwrap().to, LinkState::Up);
        link.refused(92_000, Cause::Full);
        assert_eq!(link.failed(93_000, Cause::Loading).unwrap().to, LinkState::Down);
    }

    #[test]
    fn a_link_that_only_refuses_writes_comes_back_read_only() {
        let mut link = Link::new(0, 150);
        for now_ms in [0, 500] {
            assert_eq!(link.probed(now_ms, Probed::Refused(Cause::Full)), None);
        }
        assert_eq!(link.probed(1_000, Probed::Refused(Cause::Full)).unwrap().to, LinkState::ReadOnly);
    }

    #[test]
    fn a_peer_that_is_up_isolates_and_a_probe_ends_it() {
        let mut link = up(0);
        assert_eq!(link.peers(1_500, true), None);
        link.failed(2_000, Cause::Unreachable);
        assert_eq!(link.peers(2_100, true).unwrap().to, LinkState::Isolated);
        assert_eq!(link.peers(2_200, false).unwrap().to, LinkState::Down);
        assert_eq!(link.peers(2_300, true).unwrap().to, LinkState::Isolated);
        probe_until_up(&mut link, 2_300);
    }

    #[derive(Clone, Debug)]
    enum Input {
        Called(Called),
        Probed(u8),
        Refused,
        Failed,
        Tick,
        Peers(bool),
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            4 => prop_oneof![
                (0_u64..300).prop_map(Called::Answered),
                Just(Called::Missed),
                Just(Called::Failed)
            ].prop_map(Input::Called),
            12 => (0_u8..12).prop_map(Input::Probed),
            1 => Just(Input::Refused),
            1 => Just(Input::Failed),
            2 => Just(Input::Tick),
            1 => any::<bool>().prop_map(Input::Peers),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn the_way_up_is_always_earned(steps in proptest::collection::vec((0_u64..600, input()), 1..200)) {
            let mut link = Link::new(0, 150);
            let (mut now_ms, mut good, mut down_ms) = (0, Vec::new(), None::<u64>);
            for (wait_ms, input) in steps {
                now_ms += wait_ms;
                let before = link.state();
                let change = match input {
                    Input::Called(called) => link.called(now_ms, called),
                    Input::Probed(kind) => {
                        let probed = match kind {
                            0..9 => Probed::Heard(now_ms),
                            9 => Probed::Deaf,
                            10 => Probed::Refused(Cause::Full),
                            _ => Probed::Failed,
                        };
                        match probed {
                            Probed::Heard(_) | Probed::Refused(_) => good.push(now_ms),
                            _ => good.clear(),
                        }
                        link.probed(now_ms, probed)
                    }
                    Input::Refused => link.refused(now_ms, Cause::Full),
                    Input::Failed => {
                        good.clear();
                        link.failed(now_ms, Cause::Unreachable)
                    }
                    Input::Tick => link.tick(now_ms),
                    Input::Peers(up) => link.peers(now_ms, up),
                };
                prop_assert_eq!(change.map(|change| change.from), change.map(|_| before));
                prop_assert_eq!(change.is_some(), before != link.state());
                let is_down = |state| matches!(state, LinkState::Down | LinkState::Isolated);
                if let Some(Change { to, .. }) = change {
                    prop_assert_eq!(to, link.state());
                    prop_assert_eq!(link.since_ms(), now_ms);
                    if is_down(before) && !is_down(to) {
                        prop_assert!(good.len() >= 3 && now_ms - good[0] >= 1_000);
                        prop_assert!(down_ms.is_none_or(|at| now_ms >= at + 2_000));
                    }
                    if !is_down(before) && is_down(to) {
                        down_ms = Some(now_ms);
                        good.clear();
                    }
                }
                prop_assert!(link.heard_ms().is_none() || link.state() == LinkState::Up);
                link.tick(now_ms);
                if link.state() == LinkState::Up {
                    prop_assert!(link.heard_ms().is_some_and(|at| now_ms - at <= 2_000));
                }
                if is_down(link.state()) && !is_down(before) && down_ms != Some(now_ms) {
                    down_ms = Some(now_ms);
                    good.clear();
                }
            }
        }
    }
}
