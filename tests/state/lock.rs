//! The laws of a lock: one holder at a time, fences that rise, and no step by anybody but the holder.

use outlast::state::contract::{self, Slot};
use outlast::state::lock::{Refused, Register, Token, assured_ms};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Take {
        who: u8,
        ttl_ms: u64,
    },
    Renew {
        who: u8,
        ttl_ms: u64,
    },
    Release {
        who: u8,
    },
    /// The one who took it last in this place writes under its fence.
    Write {
        who: u8,
    },
    Wait(u64),
    /// The time in microseconds jumps, back or forth.
    Clock(u64),
    /// The register is lost; what is known of time is not.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0_u8..4;
    let ttl = || 1_u64..60;
    prop_oneof![
        8 => (who(), ttl()).prop_map(|(who, ttl_ms)| Step::Take { who, ttl_ms }),
        3 => (who(), ttl()).prop_map(|(who, ttl_ms)| Step::Renew { who, ttl_ms }),
        3 => who().prop_map(|who| Step::Release { who }),
        4 => who().prop_map(|who| Step::Write { who }),
        6 => (0_u64..50).prop_map(Step::Wait),
        1 => (0_u64..1_000_000).prop_map(Step::Clock),
        1 => Just(Step::Forget),
    ]
}

fn token(who: u8) -> Token {
    Token::from_bytes([who + 1; 16])
}

/// Who holds it and until when, kept without fences or tokens.
#[derive(Default)]
struct Model {
    holder: Option<(u8, u64)>,
    newest: u64,
    /// The fence that each one was given last.
    fences: [u64; 4],
}

impl Model {
    fn left(&self, now: u64) -> u64 {
        self.holder.map_or(0, |(_, until)| until.saturating_sub(now))
    }

    fn holds(&self, who: u8, now: u64) -> bool {
        self.left(now) > 0 && self.holder.is_some_and(|(holder, _)| holder == who)
    }
}

proptest! {
    #![proptest_config(super::cases(10_000))]
    #[test]
    fn one_holds_it_and_fences_rise(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut lock, mut model): (Option<Register>, Model) = (None, Model::default());
        let (mut now, mut clock) = (1_000_u64, 5_000_u64);
        for step in steps {
            let refused = Err(Refused { left_ms: model.left(now) });
            match step {
                Step::Take { who, ttl_ms } => {
                    let floor = clock.max(model.newest + 1);
                    let taken = Register::take(lock.as_ref(), token(who), ttl_ms, now, floor);
                    if model.left(now) > 0 && !model.holds(who, now) {
                        prop_assert_eq!(taken, refused);
                        continue;
                    }
                    let taken = taken.unwrap();
                    if model.holds(who, now) {
                        prop_assert_eq!(taken.fence, model.newest, "the holder keeps its fence");
                    } else {
                        prop_assert!(taken.fence > model.newest && taken.fence >= floor);
                    }
                    model.newest = taken.fence;
                    model.fences[usize::from(who)] = taken.fence;
                    model.holder = Some((who, now + ttl_ms));
                    lock = Some(taken);
                }
                Step::Renew { who, ttl_ms } => {
                    let Some(held) = lock else { continue };
                    let renewed = held.renew(token(who), ttl_ms, now);
                    if model.holds(who, now) {
                        lock = Some(renewed.unwrap());
                        model.holder = Some((who, now + ttl_ms));
                    } else {
                        prop_assert_eq!(renewed, refused);
                    }
                }
                Step::Release { who } => {
                    let Some(held) = lock else { continue };
                    let released = held.release(token(who), now);
                    if model.holds(who, now) {
                        lock = Some(released.unwrap());
                        model.holder = None;
                    } else {
                        prop_assert_eq!(released, refused);
                    }
                }
                Step::Write { who } => {
                    let fence = model.fences[usize::from(who)];
                    let admitted = lock.is_some_and(|lock| lock.admits(fence));
                    prop_assert_eq!(admitted, lock.is_some() && fence == model.newest);
                }
                Step::Wait(ms) => now += ms,
                Step::Clock(us) => clock = us,
                Step::Forget => (lock, model.holder) = (None, None),
            }
            if let Some(lock) = lock {
                prop_assert_eq!(lock.left_ms(now), model.left(now));
                prop_assert_eq!(lock.fence, model.newest);
            }
        }
    }

    #[test]
    fn a_token_reads_back_and_no_other_text_is_one(bytes: [u8; 16], text in "[0-9a-fA-F]{30,34}") {
        let token = Token::from_bytes(bytes);
        prop_assert_eq!(Token::parse(&token.to_string()), Some(token));
        let shown = format!("{token:?}");
        prop_assert!(!shown.contains(&token.to_string()), "a token is a secret");
        if let Some(token) = Token::parse(&text) {
            prop_assert_eq!(token.to_string(), text);
        }
    }
}

/// What happens to a lock that is now one of all instances, now one of one of them.
#[derive(Clone, Debug)]
enum Move {
    /// Taken among all instances, through this one.
    Among {
        at: usize,
        ttl_ms: u64,
    },
    /// Taken on this instance alone.
    Alone {
        at: usize,
        ttl_ms: u64,
    },
    /// All that is shared is lost.
    Lose,
    Wait(u64),
    /// An instance's clock lags so far behind the shared one, microseconds.
    Lag {
        at: usize,
        us: u64,
    },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let (at, ttl) = (|| 0..2_usize, || 1_u64..50);
    let step = prop_oneof![
        5 => (at(), ttl()).prop_map(|(at, ttl_ms)| Move::Among { at, ttl_ms }),
        4 => (at(), ttl()).prop_map(|(at, ttl_ms)| Move::Alone { at, ttl_ms }),
        1 => Just(Move::Lose),
        5 => (1_u64..80).prop_map(Move::Wait),
        1 => (at(), 0_u64..50_000).prop_map(|(at, us)| Move::Lag { at, us }),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(super::cases(10_000))]
    #[test]
    fn fences_rise_over_the_loss_of_all_that_is_shared_and_between_all_instances_and_one(moves in moves()) {
        let mut shared: Slot<Register> = Slot::default();
        let mut now_us = 1_000_000_000_000_u64;
        // What each instance knows of the lock, on its own clock; the fences that it has given; how far it lags.
        let mut known: [Option<Register>; 2] = [None, None];
        let (mut given, mut lag, mut all) = ([0_u64; 2], [0_u64; 2], 0);
        for (number, step) in (0_u8..).zip(moves) {
            now_us += 1;
            let now_ms = now_us / 1_000;
            let token = Token::from_bytes([number; 16]);
            match step {
                Move::Among { at, ttl_ms } => {
                    let floor = known[at].map_or(0, |held| held.fence + 1);
                    let taken =
                        contract::lock_take(&mut shared, now_us, token, ttl_ms, contract::Step::Take, floor);
                    if let Ok(fence) = taken {
                        prop_assert!(fence > given[at], "{fence} after {} on {at}", given[at]);
                        prop_assert!(fence > all, "{fence} after {all}, of all instances");
                        (given[at], all) = (fence, fence);
                        known[at] = Some(Register { token: Some(token), fence, until_ms: now_ms + ttl_ms });
                        prop_assert_eq!(contract::lock_look(&mut shared, now_us), (fence, ttl_ms));
                    }
                }
                Move::Alone { at, ttl_ms } => {
                    let floor = (given[at] + 1).max(now_us - lag[at]);
                    if let Ok(next) = Register::take(known[at].as_ref(), token, ttl_ms, now_ms, floor) {
                        prop_assert!(next.fence > given[at], "{} after {} on {at}", next.fence, given[at]);
                        given[at] = next.fence;
                        known[at] = Some(next);
                    }
                }
                Move::Lose => shared.clear(),
                Move::Wait(ms) => now_us += ms * 1_000,
                Move::Lag { at, us } => lag[at] = us,
            }
        }
    }

    #[test]
    fn who_counts_on_a_lock_stops_before_it_ends_however_fast_its_clock_runs(
        left_ms in 1_u64..86_400_000,
        there_ms in 0_u64..500,
        back_ms in 0_u64..500,
        // The holder's clock, in thousandths of the one that decides.
        speed in 910_u64..1_100,
    ) {
        // It ends so long after it was asked for, on the clock that decides.
        let ends_ms = there_ms + left_ms;
        let round_trip_ms = (there_ms + back_ms) * speed / 1_000;
        let counted_ms = assured_ms(left_ms, round_trip_ms) * 1_000 / speed;
        prop_assert!(
            counted_ms == 0 || there_ms + back_ms + counted_ms <= ends_ms,
            "counts on it {} ms too long", there_ms + back_ms + counted_ms - ends_ms
        );
        prop_assert!(assured_ms(left_ms, 0) >= left_ms / 10 * 9);
    }
}
