//! Documents: I4, I12, and I7 for fields; counters.

use std::collections::{BTreeMap, HashMap};

use super::super::history::{Answer, Call, FieldRead, Link, SharedDoc, Stop, What};
use super::index::{Fate, Index, Op};
use super::{Finding, Rule, Settings};

/// Checks all documents; returns how many reads were compared with what pushes had told.
pub(super) fn check(index: &Index<'_>, settings: &Settings, findings: &mut Vec<Finding>) -> u64 {
    let ended = index.maybe_ended();
    let losses: Vec<usize> = index
        .history
        .iter()
        .enumerate()
        .filter(|(_, record)| matches!(record.what, What::Fault { loses: true, .. }))
        .map(|(at, _)| at)
        .collect();
    let mut compared = 0;
    for (s, ops) in index.sessions() {
        from_nowhere(s, &ops, findings);
        compared += stale(settings, s, &ops, &losses, findings);
        if !ended.contains(&s) {
            healed(index, s, &ops, findings);
            counted(index, s, &ops, findings);
        }
    }
    compared
}

/// A write of a field: its value, and its stamp if it was told.
struct Write<'a> {
    op: &'a Op<'a>,
    value: Option<u64>,
    stamp: Option<&'a str>,
}

fn writes<'a>(ops: &[&'a Op<'a>]) -> BTreeMap<&'a str, Vec<Write<'a>>> {
    let mut writes: BTreeMap<&str, Vec<Write<'_>>> = BTreeMap::new();
    for op in ops.iter().copied().filter(|op| op.fate != Fate::Refused) {
        let stamps = match op.answer {
            Some(Answer::Stamped(stamps)) => stamps.as_slice(),
            _ => &[],
        };
        let mut note = |field: &'a str, value| {
            let stamp = stamps.iter().find(|(name, _)| name == field).map(|(_, stamp)| stamp.as_str());
            writes.entry(field).or_default().push(Write { op, value, stamp });
        };
        match op.call {
            Call::Create { fields, .. } => {
                fields.iter().for_each(|(name, value)| note(name.as_str(), Some(*value)));
            }
            Call::Put { field, value, .. } => note(field.as_str(), *value),
            _ => {}
        }
    }
    writes
}

fn live<'a>(op: &Op<'a>) -> Option<&'a [FieldRead]> {
    match op.answer {
        Some(Answer::Live(fields)) if matches!(op.call, Call::Read { .. }) => Some(fields),
        _ => None,
    }
}

/// Every value is written once, and read nowhere else and not before.
fn from_nowhere(s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let writes = writes(ops);
    let known: HashMap<(&str, u64), usize> = writes
        .iter()
        .flat_map(|(name, writes)| {
            writes.iter().filter_map(|write| Some(((*name, write.value?), write.op.begin)))
        })
        .collect();
    for op in ops {
        for field in live(op).into_iter().flatten() {
            let Some(value) = field.value else { continue };
            let written = known.get(&(field.name.as_str(), value));
            if written.is_none_or(|begin| *begin > op.end) {
                findings.push(Finding {
                    rule: Rule::I4Diverged,
                    what: format!("{} of session {s} is {value}, which nobody wrote there", field.name),
                    lines: op.lines(),
                });
            }
        }
    }
}

/// The time of a stamp.
fn ms(stamp: &str) -> u64 {
    stamp.get(..12).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0)
}

/// After the healing every instance has the same, which is what the acknowledged writes make.
fn healed(index: &Index<'_>, s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let last: Vec<&&Op<'_>> = ops.iter().filter(|op| index.is_at_last(op) && live(op).is_some()).collect();
    let fields = |op: &Op<'_>| -> BTreeMap<String, (String, Option<u64>)> {
        let of = live(op).into_iter().flatten();
        // A marker of a removed field may be kept or dropped.
        of.filter(|field| field.value.is_some())
            .map(|field| (field.name.clone(), (field.stamp.clone(), field.value)))
            .collect()
    };
    if let [first, rest @ ..] = last.as_slice() {
        for other in rest {
            if fields(first) != fields(other) {
                findings.push(Finding {
                    rule: Rule::I4Diverged,
                    what: format!(
                        "session {s} differs between instances {} and {} after the healing",
                        first.instance, other.instance
                    ),
                    lines: [first.lines(), other.lines()].concat(),
                });
            }
        }
        let shared = index.shared.iter().rfind(|shared| shared.s == s && shared.at > index.end);
        if let Some(shared) = shared {
            let held: BTreeMap<&str, &str> = match shared.doc {
                SharedDoc::Live(fields) => {
                    fields.iter().map(|(name, at)| (name.as_str(), at.as_str())).collect()
                }
                _ => BTreeMap::new(),
            };
            let missing = live(first).into_iter().flatten().filter(|field| field.value.is_some());
            let missing: Vec<&str> = missing
                .filter(|field| held.get(field.name.as_str()) != Some(&field.stamp.as_str()))
                .map(|field| field.name.as_str())
                .collect();
            if !missing.is_empty() || matches!(shared.doc, SharedDoc::None) {
                findings.push(Finding {
                    rule: Rule::I4Diverged,
                    what: format!("session {s}: {missing:?} in the shared store is not as on the instances"),
                    lines: [first.lines(), vec![shared.at]].concat(),
                });
            }
        }
    }
    for (name, writes) in writes(ops) {
        // A stamp ahead of the shared clock may be given anew when it is offered: what it says is not what counts.
        let fixed = |write: &&Write<'_>| {
            write.op.is_done()
                && write.op.end < index.end
                && write.stamp.is_some_and(|stamp| ms(stamp) <= write.op.at.1)
        };
        let Some(newest) = writes.iter().filter(fixed).max_by_key(|write| write.stamp) else { continue };
        for op in &last {
            let held = live(op).into_iter().flatten().find(|field| field.name == name);
            let found = held.map(|field| field.stamp.as_str());
            let lost = match (found, newest.stamp) {
                // The same value under an earlier stamp: it was stamped anew.
                (Some(found), Some(stamp)) => {
                    found < stamp && held.is_none_or(|held| held.value != newest.value)
                }
                (None, _) => newest.value.is_some() && !later_removal(&writes, newest),
                (_, None) => false,
            };
            if lost {
                let op_of = newest.op;
                let power = index.stopped(op_of.instance, Stop::PowerCut, op_of.end, index.end);
                let rule = if power && !op_of.shared { Rule::I7NotDurable } else { Rule::I4Diverged };
                findings.push(Finding {
                    rule,
                    what: format!(
                        "{name} of session {s}: the acknowledged write of {:?} at {:?} is not on instance {}, which \
                         has {found:?}",
                        newest.value, newest.stamp, op.instance
                    ),
                    lines: [op_of.lines(), op.lines()].concat(),
                });
            } else if let Some(field) = held
                && found == newest.stamp
                && field.value != newest.value
            {
                findings.push(Finding {
                    rule: Rule::I4Diverged,
                    what: format!(
                        "{name} of session {s}: at one stamp {:?} and {:?}",
                        newest.value, field.value
                    ),
                    lines: [newest.op.lines(), op.lines()].concat(),
                });
            }
        }
    }
}

/// Whether the field may have been removed after this write: by a write whose stamp is not known, or is later.
fn later_removal(writes: &[Write<'_>], newest: &Write<'_>) -> bool {
    let mut removals = writes.iter().filter(|write| write.value.is_none());
    removals.any(|removal| removal.stamp.is_none() || removal.stamp > newest.stamp)
}

/// An instance that reads under a lease knows everything that was shared more than a lease ago, unless the shared store
/// has lost it since.
fn stale(settings: &Settings, s: u32, ops: &[&Op<'_>], losses: &[usize], findings: &mut Vec<Finding>) -> u64 {
    let mut compared = 0;
    let writes = writes(ops);
    for op in ops.iter().filter(|op| op.links.0 == Link::Leased && op.links.1 == Link::Leased) {
        let Some(fields) = live(op) else { continue };
        for (name, writes) in &writes {
            let told = writes.iter().filter(|write| {
                write.op.is_done()
                    && write.op.shared
                    && write.op.before(op)
                    && write.op.at.1.saturating_add(settings.lease_ms) < op.at.0
                    && !losses.iter().any(|loss| (write.op.begin..op.end).contains(loss))
            });
            let Some(newest) = told.max_by_key(|write| write.stamp) else { continue };
            compared += 1;
            let found = fields.iter().find(|field| field.name == *name);
            let held = found.map(|field| field.stamp.as_str());
            let same = found.is_some_and(|field| field.value == newest.value);
            let missing = held.is_none() && newest.value.is_some() && !later_removal(writes, newest);
            if missing || (!same && held.is_some_and(|held| Some(held) < newest.stamp)) {
                findings.push(Finding {
                    rule: Rule::I12Stale,
                    what: format!(
                        "{name} of session {s} was {:?} {} ms before, and instance {} read {held:?} under a lease",
                        newest.stamp,
                        op.at.0.saturating_sub(newest.op.at.1),
                        op.instance
                    ),
                    lines: [newest.op.lines(), op.lines()].concat(),
                });
            }
        }
    }
    compared
}

/// A counter that one instance at a time counts on ends between the increments that were acknowledged and those that
/// may have been made; and no increment gives a number that another one gave.
fn counted(index: &Index<'_>, s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let all: Vec<&&Op<'_>> =
        ops.iter().filter(|op| matches!(op.call, Call::Count { .. }) && op.fate != Fate::Refused).collect();
    let done = all.iter().filter(|op| op.is_done()).count() as u64;
    let most = all.len() as u64;
    for op in ops.iter().filter(|op| matches!(op.call, Call::ReadCount { .. }) && op.begin > index.end) {
        let Some(Answer::Count(found)) = op.answer else { continue };
        if !(done..=most).contains(found) {
            let last = all.iter().filter(|op| op.is_done()).max_by_key(|op| op.end);
            let mut lines = op.lines();
            lines.extend(last.into_iter().flat_map(|op| op.lines()));
            findings.push(Finding {
                rule: Rule::I4Diverged,
                what: format!("the counter of session {s} is {found}, want {done} to {most}"),
                lines,
            });
        }
    }
    let mut numbers: HashMap<u64, &Op<'_>> = HashMap::new();
    for op in all {
        if let Some(Answer::Count(number)) = op.answer
            && let Some(first) = numbers.insert(*number, op)
        {
            findings.push(Finding {
                rule: Rule::I4Diverged,
                what: format!("two increments of session {s} gave {number}"),
                lines: [first.lines(), op.lines()].concat(),
            });
        }
    }
}
