//! Results and locks: I8, I9, I10.

use std::collections::BTreeMap;

use super::super::history::{Answer, Call, Reported, Stop};
use super::index::{Fate, Index, Op};
use super::{Finding, Rule};

pub(super) fn check(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let ended = index.maybe_ended();
    let mut results: BTreeMap<(u32, &str), Vec<&Op<'_>>> = BTreeMap::new();
    let mut locks: BTreeMap<(&str, Option<u32>), Vec<&Op<'_>>> = BTreeMap::new();
    for op in &index.ops {
        match op.call {
            Call::Report { s, name, .. } | Call::ReadResult { s, name } if !ended.contains(s) => {
                results.entry((*s, name.as_str())).or_default().push(op);
            }
            Call::Lock { lock, global, .. } => {
                let own = (!global).then_some(op.instance);
                locks.entry((lock.as_str(), own)).or_default().push(op);
                if *global && op.is_done() && [op.links.0, op.links.1].iter().all(|link| is_away(*link)) {
                    findings.push(Finding {
                        rule: Rule::I10GlobalAlone,
                        what: format!(
                            "the lock {lock:?} was taken among all instances without the shared store"
                        ),
                        lines: op.lines(),
                    });
                }
            }
            _ => {}
        }
    }
    results.iter().for_each(|((s, name), ops)| result(index, *s, name, ops, findings));
    locks.iter().for_each(|((lock, own), ops)| fences(index, lock, *own, ops, findings));
}

fn is_away(link: super::super::history::Link) -> bool {
    use super::super::history::Link;
    matches!(link, Link::Down | Link::ReadOnly)
}

/// The terminal value that a client was shown.
fn terminal(op: &Op<'_>) -> Option<u64> {
    match op.answer {
        Some(Answer::Outcome(Some((_, _, true, value)))) => Some(*value),
        _ => None,
    }
}

fn result(index: &Index<'_>, s: u32, name: &str, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let mut changed = |what: String, a: &Op<'_>, b: &Op<'_>| {
        findings.push(Finding {
            rule: Rule::I8ResultChanged,
            what: format!("result {name:?} of session {s}: {what}"),
            lines: [a.lines(), b.lines()].concat(),
        });
    };
    let shown: Vec<&&Op<'_>> = ops.iter().filter(|op| terminal(op).is_some()).collect();
    for (at, first) in shown.iter().enumerate() {
        for later in shown.iter().skip(at + 1) {
            if terminal(first) != terminal(later) {
                changed(format!("clients saw {:?} and {:?}", terminal(first), terminal(later)), first, later);
            }
        }
        for op in ops.iter().filter(|op| first.before(op) && op.instance == first.instance) {
            if let (Call::Report { value, .. }, Some(Answer::Reported(Reported::Ok))) = (op.call, op.answer)
                && !index.stopped(op.instance, Stop::DiskLost, first.end, op.begin)
            {
                changed(format!("{value} was accepted after a client saw {:?}", terminal(first)), first, op);
            }
        }
    }
    let reports = ops.iter().filter(|op| {
        matches!(op.call, Call::Report { terminal: true, .. })
            && matches!(op.answer, Some(Answer::Reported(Reported::Ok)))
    });
    let Some(reported) = reports.min_by_key(|op| op.end) else { return };
    let unknown = ops.iter().any(|op| matches!(op.call, Call::Report { .. }) && op.fate == Fate::Unknown);
    for read in ops.iter().filter(|op| index.is_at_last(op) && op.is_done() && reported.end < index.end) {
        if matches!(read.call, Call::ReadResult { .. }) && terminal(read).is_none() && !unknown {
            changed("its terminal report is not there after the healing".into(), reported, read);
        }
    }
}

fn fences(index: &Index<'_>, lock: &str, own: Option<u32>, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let mut granted: Vec<(&Op<'_>, u64, u64)> = ops
        .iter()
        .filter_map(|op| match (op.call, op.answer) {
            (Call::Lock { holder, .. }, Some(Answer::Fence(fence))) => Some((*op, *fence, *holder)),
            _ => None,
        })
        .collect();
    granted.sort_by_key(|(op, ..)| op.end);
    let mut highest: Option<(&Op<'_>, u64, u64)> = None;
    let mut waiting: Vec<(&Op<'_>, u64, u64)> = Vec::new();
    for (op, fence, holder) in granted.iter().copied() {
        // Only what had ended before this one began must be below it.
        waiting.retain(|before| {
            let over = before.0.before(op);
            if over && highest.is_none_or(|highest| highest.1 < before.1) {
                highest = Some(*before);
            }
            !over
        });
        // What one instance alone gave is forgotten with its disk.
        let forgotten =
            |before: &Op<'_>| own.is_some_and(|own| index.stopped(own, Stop::DiskLost, before.end, op.begin));
        if let Some((before, held, by)) = highest.filter(|(before, ..)| !forgotten(before))
            && (fence < held || (fence == held && by != holder))
        {
            findings.push(Finding {
                rule: Rule::I9Fence,
                what: format!("the lock {lock:?} gave the fence {fence} after {held}"),
                lines: [before.lines(), op.lines()].concat(),
            });
        }
        waiting.push((op, fence, holder));
    }
    for op in index.ops.iter().filter(|op| op.is_done()) {
        let Call::Put { fence: Some((of, fence)), .. } = op.call else { continue };
        let made = matches!(op.answer, Some(Answer::Stamped(_)));
        if !made || of != lock || own.is_some_and(|own| own != op.instance) {
            continue;
        }
        let newer = granted.iter().find(|(grant, held, _)| {
            held > fence && grant.before(op) && grant.instance == op.instance && grant.end > 0
        });
        if let Some((newer, held, _)) = newer {
            findings.push(Finding {
                rule: Rule::I9Fence,
                what: format!("a write under the fence {fence} of {lock:?} was made after {held} was given"),
                lines: [newer.lines(), op.lines()].concat(),
            });
        }
    }
}
