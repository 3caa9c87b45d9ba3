//! The laws of a result: reports rise, the first terminal one stays, and whatever is lost or doubled on the way changes
//! nothing about that.

use outlast::state::result::{Reported, TERMINAL, report};
use proptest::prelude::*;

type Report = (u64, u64, u8);

fn any_report() -> impl Strategy<Value = Report> {
    (0_u64..5, 0_u64..5, prop_oneof![8 => 0_u8..TERMINAL, 1 => Just(TERMINAL)])
}

fn after(standing: Option<Report>, (fence, rev, rank): Report) -> Option<Report> {
    match report(standing, fence, rev) {
        Reported::Ok => Some((fence, rev, rank)),
        Reported::Stale { .. } | Reported::Final { .. } => standing,
    }
}

proptest! {
    #![proptest_config(super::cases(10_000))]
    #[test]
    fn reports_rise_and_the_first_terminal_one_stays(reports in proptest::collection::vec(any_report(), 1..30)) {
        let mut standing: Option<Report> = None;
        let mut terminal = None;
        for (fence, rev, rank) in reports {
            let said = report(standing, fence, rev);
            match (terminal, standing) {
                (Some((fence, rev)), _) => prop_assert_eq!(said, Reported::Final { fence, rev }),
                (None, Some((held, held_rev, _))) if (fence, rev) <= (held, held_rev) => {
                    prop_assert_eq!(said, Reported::Stale { fence: held, rev: held_rev });
                }
                _ => prop_assert_eq!(said, Reported::Ok),
            }
            if said == Reported::Ok {
                standing = Some((fence, rev, rank));
                if rank == TERMINAL {
                    terminal = Some((fence, rev));
                }
            }
        }
    }

    #[test]
    fn without_a_terminal_one_order_and_repeats_change_nothing(
        reports in proptest::collection::vec((0_u64..5, 0_u64..5), 1..12),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let all = |order: &mut dyn Iterator<Item = &(u64, u64)>| {
            order.fold(None, |standing, (fence, rev)| after(standing, (*fence, *rev, 0)))
        };
        let straight = all(&mut reports.iter());
        let mut shuffled: Vec<_> = order.iter().map(|index| index.get(&reports)).collect();
        shuffled.extend(reports.iter().rev());
        prop_assert_eq!(all(&mut shuffled.into_iter()), straight);
        let newest = reports.iter().max().map(|(fence, rev)| (*fence, *rev, 0));
        prop_assert_eq!(straight, newest);
    }
}
