//! The laws of a task in the hands of several owners, some of whom are taken for dead and are not, over a register whose
//! writes may come late, twice or in another order.

use outlast::mcp::task::Status;
use outlast::state::result::{Reported, report};
use outlast::state::task::{End, Intents, Question, Recovery, Task};
use proptest::prelude::*;

const LEASE: u64 = 100;
const OWNERS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// An owner reads the register and takes the task over if it may.
    Claim {
        owner: usize,
        dead: bool,
    },
    /// An owner reports on what it holds.
    Asks {
        owner: usize,
        keys: Vec<u8>,
    },
    Renew {
        owner: usize,
    },
    End {
        owner: usize,
        how: u8,
    },
    /// A report that is under way arrives, and may arrive again.
    Arrive {
        which: prop::sample::Index,
        stays: bool,
    },
    /// Time passes, or is set back.
    Clock {
        ahead: bool,
        by: u64,
    },
    Answer {
        key: u8,
    },
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    let owner = || 0..OWNERS;
    prop_oneof![
        2 => (owner(), any::<bool>()).prop_map(|(owner, dead)| Step::Claim { owner, dead }),
        2 => (owner(), proptest::collection::vec(0_u8..4, 0..3)).prop_map(|(owner, keys)| Step::Asks { owner, keys }),
        1 => owner().prop_map(|owner| Step::Renew { owner }),
        1 => (owner(), 0_u8..3).prop_map(|(owner, how)| Step::End { owner, how }),
        6 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(which, stays)| Step::Arrive { which, stays }),
        2 => (prop::bool::weighted(0.8), 0_u64..2 * LEASE).prop_map(|(ahead, by)| Step::Clock { ahead, by }),
        1 => (0_u8..4).prop_map(|key| Step::Answer { key }),
        1 => Just(Step::Cancel),
    ]
}

fn question(key: u8) -> Question {
    Question { key: key.to_string(), method: "roots/list".into(), params: "{}".into() }
}

proptest! {
    #![proptest_config(super::cases(10_000))]
    #[test]
    fn one_owner_counts_and_the_first_end_stays(steps in proptest::collection::vec(step(), 1..60)) {
        let mut now = 1_000_000_u64;
        let mut register = Task::begin(0, now, LEASE);
        // What each owner believes to hold, and what it has sent.
        let mut held: Vec<Option<Task>> = vec![Some(register.clone()), None, None];
        let mut sent: Vec<Task> = Vec::new();
        let mut intents = Intents::default();
        for step in steps {
            let before = register.clone();
            match step {
                Step::Claim { owner, dead } => {
                    let claimed = register.claim(owner as u64, now, LEASE, dead);
                    // A lease that runs is respected unless its owner is known to be dead; an end always is.
                    prop_assert_eq!(claimed.is_some(), register.end.is_none() && (dead || now >= register.lease_ms));
                    if let Some(claimed) = claimed {
                        prop_assert!(claimed.fence > register.fence && claimed.open.is_empty());
                        held[owner] = Some(claimed.clone());
                        sent.push(claimed);
                    }
                }
                Step::Asks { owner, keys } => {
                    let keys: std::collections::BTreeSet<u8> = keys.into_iter().collect();
                    let open = keys.into_iter().map(question).collect();
                    advance(&mut held[owner], &mut sent, |task| task.asks(open, now, LEASE))?;
                }
                Step::Renew { owner } => advance(&mut held[owner], &mut sent, |task| task.renewed(now, LEASE))?,
                Step::End { owner, how } => {
                    let end = match how {
                        0 => End::Completed("{}".into()),
                        1 => End::Failed("{}".into()),
                        _ => End::Cancelled,
                    };
                    advance(&mut held[owner], &mut sent, |task| task.ended(end, None, now))?;
                }
                Step::Arrive { which, stays } if !sent.is_empty() => {
                    let at = which.index(sent.len());
                    let task = if stays { sent[at].clone() } else { sent.remove(at) };
                    let standing = Some((register.fence, register.rev, register.rank()));
                    if report(standing, task.fence, task.rev) == Reported::Ok {
                        register = task;
                    }
                }
                Step::Arrive { .. } => {}
                Step::Clock { ahead, by } => now = if ahead { now + by } else { now.saturating_sub(by) },
                Step::Answer { key } => {
                    intents.answers.entry(key.to_string()).or_insert_with(|| Ok("{}".into()));
                }
                Step::Cancel => intents.cancel = true,
            }
            // An end is for ever, a fence never falls, and whoever has a lower one has no say.
            if before.end.is_some() {
                prop_assert_eq!(&register, &before);
            }
            prop_assert!((register.fence, register.rev) >= (before.fence, before.rev));
            if register.fence > before.fence {
                prop_assert!(before.end.is_none());
            }
            let seen = register.seen(&intents);
            prop_assert!(seen.open.iter().all(|question| !intents.answers.contains_key(&question.key)));
            prop_assert_eq!(seen.status == Status::InputRequired, !seen.open.is_empty());
            prop_assert_eq!(seen.status.is_terminal(), register.end.is_some());
            prop_assert_eq!(register.rank() == outlast::state::result::TERMINAL, register.end.is_some());
        }
        // Whoever finds it after all of that brings it to an end, or goes on with it: it is not left behind.
        let recovery = register.recover(intents.clone(), true);
        let other = register.recover(intents.clone(), false);
        match (&register.end, intents.cancel) {
            (Some(_), _) => prop_assert_eq!((recovery, other), (Recovery::Ended, Recovery::Ended)),
            (None, true) => prop_assert_eq!((recovery, other), (Recovery::Cancel, Recovery::Cancel)),
            (None, false) => {
                prop_assert_eq!(recovery, Recovery::Run(intents.answers));
                prop_assert_eq!(other, Recovery::Fail);
            }
        }
        let over = register.claim(9, now, LEASE, true).and_then(|task| task.ended(End::Cancelled, None, now));
        if let Some(over) = over {
            let standing = Some((register.fence, register.rev, register.rank()));
            prop_assert_eq!(report(standing, over.fence, over.rev), Reported::Ok);
        } else {
            prop_assert!(register.end.is_some());
        }
    }

    #[test]
    fn the_time_of_the_last_change_never_goes_back_and_news_that_is_none_does_not_move_it(
        times in proptest::collection::vec((0_u64..1_000, proptest::collection::vec(0_u8..3, 0..2)), 1..20),
    ) {
        let mut task = Task::begin(0, 500, LEASE);
        for (now, keys) in times {
            let open: Vec<_> = keys.into_iter().map(question).collect();
            let same = open == task.open;
            let next = task.asks(open, now, LEASE).unwrap();
            prop_assert!(next.updated_ms >= task.updated_ms && next.rev == task.rev + 1);
            prop_assert!(!same || next.updated_ms == task.updated_ms);
            let renewed = next.renewed(now, LEASE).unwrap();
            prop_assert_eq!((renewed.updated_ms, &renewed.open), (next.updated_ms, &next.open));
            task = renewed;
        }
    }
}

/// An owner's next report; none of its reports follows its last one.
fn advance(
    held: &mut Option<Task>,
    sent: &mut Vec<Task>,
    change: impl FnOnce(&Task) -> Option<Task>,
) -> Result<(), TestCaseError> {
    let Some(task) = held else { return Ok(()) };
    let next = change(task);
    prop_assert_eq!(next.is_none(), task.end.is_some());
    if let Some(next) = next {
        prop_assert_eq!((next.fence, next.rev, next.owner), (task.fence, task.rev + 1, task.owner));
        *task = next.clone();
        sent.push(next);
    }
    Ok(())
}
