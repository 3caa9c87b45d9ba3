//! The laws of quotas: never more than allowed, nothing counted twice, and a level that does not flutter.

use std::collections::BTreeMap;
use std::sync::Arc;

use outlast::state::quota::{
    Bucket, Counts, Level, Limits, NO_SESSIONS_PERCENT, NO_WRITES_PERCENT, Rate, Reached,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Admit(u8),
    Replace(u8, u8),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0_u8..4;
    prop_oneof![
        6 => who().prop_map(Step::Admit),
        2 => (who(), who()).prop_map(|(new, old)| Step::Replace(new, old)),
        3 => who().prop_map(Step::Remove),
    ]
}

proptest! {
    #![proptest_config(super::cases(10_000))]
    #[test]
    fn never_more_than_allowed(
        steps in proptest::collection::vec(step(), 1..60),
        total in 1_usize..12,
        per_principal in 1_usize..6,
    ) {
        let name = |who: u8| Arc::<str>::from(who.to_string());
        let limits = Limits { total, per_principal };
        let (mut counts, mut model) = (Counts::default(), BTreeMap::<u8, usize>::new());
        for step in steps {
            let (new, old) = match step {
                Step::Admit(new) => (new, None),
                Step::Replace(new, old) if model.contains_key(&old) => (new, Some(old)),
                Step::Replace(..) => continue,
                Step::Remove(who) => {
                    counts.remove(&name(who));
                    if let Some(count) = model.get_mut(&who) {
                        *count -= 1;
                    }
                    model.retain(|_, count| *count > 0);
                    continue;
                }
            };
            let mut next = model.clone();
            if let Some(count) = old.and_then(|old| next.get_mut(&old)) {
                *count -= 1;
            }
            *next.entry(new).or_default() += 1;
            let admitted = counts.admit(&name(new), old.map(name).as_ref(), limits);
            let expected = if next.values().sum::<usize>() > total {
                Err(Reached::Total)
            } else if next[&new] > per_principal {
                Err(Reached::PerPrincipal)
            } else {
                Ok(())
            };
            prop_assert_eq!(admitted, expected);
            if admitted.is_ok() {
                next.retain(|_, count| *count > 0);
                model = next;
            }
            prop_assert_eq!(counts.total(), model.values().sum::<usize>());
            for who in 0..4 {
                prop_assert_eq!(counts.of(&who.to_string()), model.get(&who).copied().unwrap_or(0));
            }
            prop_assert_eq!(counts.by_principal().count(), model.len());
        }
    }

    #[test]
    fn a_level_is_taken_at_its_bound_and_left_below_it(
        used in proptest::collection::vec(0_u64..=110, 1..40),
        unit in 1_u64..1 << 50,
    ) {
        let mut level = Level::default();
        for percent in used {
            let before = level;
            level = level.after(percent.saturating_mul(unit), 100 * unit);
            if percent >= NO_WRITES_PERCENT {
                prop_assert_eq!(level, Level::NoWrites);
            } else if percent >= NO_SESSIONS_PERCENT {
                prop_assert!(level >= Level::NoSessions);
            }
            if level > before {
                let bound = if level == Level::NoWrites { NO_WRITES_PERCENT } else { NO_SESSIONS_PERCENT };
                prop_assert!(percent >= bound);
            }
            if percent < NO_SESSIONS_PERCENT - 2 {
                prop_assert_eq!(level, Level::Open);
            }
            // The same again changes nothing.
            prop_assert_eq!(level.after(percent.saturating_mul(unit), 100 * unit), level);
        }
        prop_assert_eq!(level.after(u64::MAX, 0), Level::Open);
    }
}

#[test]
fn a_bucket_serves_two_seconds_worth_at_once_and_then_its_rate() {
    let rate = Rate::per_second(10);
    let mut bucket = Bucket::full(rate, 1_000);
    let taken = (0..100).take_while(|_| bucket.take(rate, 1_000).is_ok()).count();
    assert_eq!(taken, 20);
    assert_eq!(bucket.take(rate, 1_000), Err(100));
    assert_eq!(bucket.take(rate, 1_099), Err(1));
    assert_eq!(bucket.take(rate, 1_100), Ok(()));
    // Over ten seconds: the rate, whenever they come.
    let served = (1_101..=11_100).filter(|now| bucket.take(rate, *now).is_ok()).count();
    assert_eq!(served, 100);
    assert!(!bucket.is_full(rate, 12_000) && bucket.is_full(rate, 14_000));
}

#[test]
fn a_clock_that_goes_back_gives_nothing_and_no_rate_refuses_nobody() {
    let rate = Rate::per_second(1);
    let mut bucket = Bucket::full(rate, 5_000);
    assert!(bucket.take(rate, 5_000).is_ok() && bucket.take(rate, 4_000).is_ok());
    assert_eq!(bucket.take(rate, 3_000), Err(1_000));
    let any = Rate::per_second(0);
    let mut bucket = Bucket::full(any, 0);
    assert!((0..10_000).all(|_| bucket.take(any, 0).is_ok()));
}
