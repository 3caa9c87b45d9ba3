//! That what has ended stays so, and that nothing else is said to be gone: I5, I6.

use super::super::history::{Answer, Call, SharedDoc, Stop, What, Why};
use super::index::{Fate, Index, Op};
use super::{Finding, Rule};

pub(super) fn check(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (s, ops) in index.sessions() {
        revived(index, s, &ops, findings);
        falsely_gone(index, s, &ops, findings);
    }
}

/// Whether the instance took the session for a living one.
fn serves(op: &Op<'_>) -> bool {
    op.call.serves()
        && op.is_done()
        && !matches!(op.answer, Some(Answer::NotFound | Answer::Ended | Answer::Reported(_)))
}

fn revived(index: &Index<'_>, s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let ends = ops.iter().filter(|op| matches!(op.call, Call::Terminate { .. }) && op.is_done());
    let Some(end) = ends.min_by_key(|op| op.end) else { return };
    let ended_on = |instance| {
        let ends = ops.iter().filter(move |op| matches!(op.call, Call::Terminate { .. }) && op.is_done());
        ends.filter(move |op| op.instance == instance).min_by_key(|op| op.end)
    };
    for op in ops.iter().filter(|op| serves(op)) {
        let own = ended_on(op.instance)
            .filter(|own| own.before(op) && !index.stopped(op.instance, Stop::DiskLost, own.end, op.begin));
        let healed = (end.end < index.end && op.begin > index.end).then_some(end);
        if let Some(end) = own.or(healed) {
            let mut lines = end.lines();
            lines.extend(op.lines());
            let when = if own.is_some() { "on the instance that ended it" } else { "after the healing" };
            let what = format!("session {s} had ended and was served again {when}");
            findings.push(Finding { rule: Rule::I5Revived, what, lines });
        }
    }
    for shared in index.shared.iter().filter(|shared| shared.s == s && shared.at > index.end) {
        if matches!(shared.doc, SharedDoc::Live(_)) && end.end < index.end {
            let mut lines = end.lines();
            lines.push(shared.at);
            let what = format!("session {s} had ended and lives in the shared store after the healing");
            findings.push(Finding { rule: Rule::I5Revived, what, lines });
        }
    }
}

fn falsely_gone(index: &Index<'_>, s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let made = ops.iter().filter(|op| matches!(op.call, Call::Create { .. }) && op.is_done());
    let Some(made) = made.min_by_key(|op| op.end) else { return };
    let first_end = ops
        .iter()
        .filter(|op| matches!(op.call, Call::Terminate { .. }) && op.fate != Fate::Refused)
        .map(|op| op.begin)
        .min()
        .unwrap_or(usize::MAX);
    for op in ops.iter().filter(|op| made.before(op) && op.end < first_end) {
        let gone = match op.fate {
            Fate::Refused => matches!(
                index.history.get(op.end).map(|record| &record.what),
                Some(What::Fail { why: Why::Gone, .. })
            ),
            _ => matches!(op.answer, Some(Answer::NotFound | Answer::Ended)),
        };
        if gone {
            let mut lines = made.lines();
            lines.extend(op.lines());
            let what = format!("session {s} was said to be gone, and nobody had ended it");
            findings.push(Finding { rule: Rule::I6FalseNotFound, what, lines });
        }
    }
    if first_end < usize::MAX {
        return;
    }
    for shared in index.shared.iter().filter(|shared| shared.s == s && *shared.doc == SharedDoc::Ended) {
        let mut lines = made.lines();
        lines.push(shared.at);
        let what = format!("session {s} has ended in the shared store, and nobody had ended it");
        findings.push(Finding { rule: Rule::I6FalseNotFound, what, lines });
    }
}
