//! `result_put`: what became of a task or a request.

use super::{Reply, Slot};
use crate::state::result::{self, Outcome, Reported};

/// `result_put`: reports on a result that is kept for `ttl_ms`. `again`: it was taken before, and is put back if it is
/// terminal.
pub fn result_put(
    slot: &mut Slot<Outcome>,
    now_ms: u64,
    outcome: &Outcome,
    ttl_ms: u64,
    again: bool,
) -> Reported {
    let standing = slot.at(now_ms).map(|held| (held.fence, held.rev, held.rank));
    let reported = match result::report(standing, outcome.fence, outcome.rev) {
        Reported::Stale { .. } if again && outcome.rank >= result::TERMINAL => Reported::Ok,
        reported => reported,
    };
    if reported == Reported::Ok {
        slot.put(outcome.clone(), now_ms.saturating_add(ttl_ms), now_ms);
    }
    reported
}

/// As Redis says what became of a report.
#[must_use]
pub fn result_reply(reported: Reported, outcome: &Outcome) -> Reply {
    let (word, fence, rev) = match reported {
        Reported::Ok => ("OK", outcome.fence, outcome.rev),
        Reported::Stale { fence, rev } => ("STALE", fence, rev),
        Reported::Final { fence, rev } => ("FINAL", fence, rev),
    };
    Reply::List(vec![Reply::text(word), Reply::text(fence.to_string()), Reply::text(rev.to_string())])
}
