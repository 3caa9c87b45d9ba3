//! The life of sessions, the origins of process starts, and what a store may say after it has failed.

use std::collections::{BTreeMap, HashMap};

use super::super::history::{Answer, Call, What, Why};
use super::index::{Fate, Index, Op};
use super::{Finding, Rule, Settings};

pub fn check(index: &Index<'_>, settings: Settings, findings: &mut Vec<Finding>) {
    let settled = settled_uses(index);
    for (s, ops) in index.sessions() {
        life(index, s, &ops, findings);
        uses(index, s, &ops, settled.get(&s).map_or(&[], Vec::as_slice), settings, findings);
        messages(index, s, &ops, findings);
    }
    origins(index, findings);
    poison(index, findings);
}

fn is_write(op: &Op<'_>) -> bool {
    !op.call.is_read()
}

fn life(index: &Index<'_>, s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let mut find = |rule, what: String, of: &[&Op<'_>]| {
        findings.push(Finding { rule, what, lines: of.iter().flat_map(|op| op.lines()).collect() });
    };
    let create = ops.iter().copied().find(|op| matches!(op.call, Call::Create { .. }));
    let ends: Vec<&Op<'_>> = ops
        .iter()
        .copied()
        .filter(|op| matches!(op.call, Call::Terminate { .. }) && op.fate != Fate::Refused)
        .collect();
    let ended_by = |at: usize| ends.iter().copied().find(|end| end.fate == Fate::Done && end.end < at);
    let age = create.map_or(0, |create| index.age(create.begin));
    let reads = || {
        ops.iter().copied().filter_map(|op| match (op.call, op.answer) {
            (Call::Read { .. }, Some(answer)) => Some((op, answer)),
            _ => None,
        })
    };
    // The earliest read that saw it live, and the earliest that saw it ended.
    let first_of = |wanted: fn(&Answer) -> bool| {
        reads().filter(|(_, answer)| wanted(answer)).map(|(op, _)| op).min_by_key(|op| op.end)
    };
    let first_live = first_of(|answer| matches!(answer, Answer::Live { .. }));
    let first_ended = first_of(|answer| matches!(answer, Answer::Terminated));
    for (read, answer) in reads() {
        let later_age = index.age(read.begin) > age;
        match answer {
            Answer::Live { fields, .. } => {
                match create.filter(|create| create.begin < read.end && create.fate != Fate::Refused) {
                    None => find(
                        Rule::SessionFromNowhere,
                        format!("session {s} is there and nobody made it"),
                        &[read],
                    ),
                    Some(create) if later_age => find(
                        Rule::SessionFromNowhere,
                        format!("session {s} is there although its database was set aside"),
                        &[create, read],
                    ),
                    Some(create) => {
                        if let Call::Create { fields: made, .. } = create.call
                            && let Some((name, _)) =
                                made.iter().find(|(name, _)| fields.iter().all(|(held, _)| held != name))
                        {
                            find(
                                Rule::HalfCreate,
                                format!("session {s} was made with the field {name} and is there without it"),
                                &[create, read],
                            );
                        }
                    }
                }
                if let Some(end) = ended_by(read.begin) {
                    find(Rule::Revived, format!("session {s} was terminated and is there"), &[end, read]);
                }
                if let Some(before) = first_ended.filter(|before| before.precedes(read)) {
                    find(
                        Rule::Revived,
                        format!("session {s} was ended, and is there again"),
                        &[before, read],
                    );
                }
                let absent = reads().find(|(before, answer)| {
                    matches!(answer, Answer::Unknown)
                        && before.precedes(read)
                        && create.is_some_and(|create| create.end < before.begin)
                });
                if let Some((before, _)) = absent {
                    find(
                        Rule::SessionFromNowhere,
                        format!("session {s} was not there after its create was over, and is there now"),
                        &[before, read],
                    );
                }
            }
            Answer::Unknown if !later_age => {
                if let Some(create) =
                    create.filter(|create| create.fate == Fate::Done && create.end < read.begin)
                {
                    find(
                        Rule::SessionLost,
                        format!("session {s} was made and is not there"),
                        &[create, read],
                    );
                }
                if let Some(before) =
                    [first_live, first_ended].into_iter().flatten().find(|before| before.precedes(read))
                {
                    find(Rule::SessionLost, format!("session {s} was there and is not"), &[before, read]);
                }
            }
            Answer::Terminated if later_age => {
                find(
                    Rule::SessionFromNowhere,
                    format!("session {s} is known although its database was set aside"),
                    &[read],
                );
            }
            Answer::Terminated if !ends.iter().any(|end| end.begin < read.end) => {
                find(
                    Rule::FalselyGone,
                    format!("session {s} counts as terminated and nobody ended it"),
                    &[read],
                );
            }
            _ => {}
        }
    }
    for op in ops.iter().copied().filter(|op| {
        matches!(op.call, Call::Put { .. } | Call::PutAll { .. } | Call::Count { .. } | Call::Append { .. })
    }) {
        if op.fate == Fate::Done {
            if let Some(end) = ended_by(op.begin) {
                find(
                    Rule::Revived,
                    format!("a write to session {s} was acknowledged after its end"),
                    &[end, op],
                );
            }
            continue;
        }
        let gone = matches!(
            index.history.get(op.told).map(|record| &record.what),
            Some(What::Fail { why: Why::Gone, .. })
        );
        if gone
            && index.age(op.begin) == age
            && create.is_some_and(|create| create.fate == Fate::Done && create.precedes(op))
            && !ends.iter().any(|end| end.begin < op.end)
        {
            find(Rule::FalselyGone, format!("session {s} is said to be gone and nobody ended it"), &[op]);
        }
    }
}

/// Uses of sessions that are older than an acknowledged write of the same process: by session, (line, time).
/// A use waits in the same queue as writes, so the disk has it by then; unless the store took no writes at the time.
fn settled_uses(index: &Index<'_>) -> BTreeMap<u32, Vec<(usize, u64)>> {
    // A use adds nothing to one just before it, whose thread may pause on the way to the queue.
    const SLACK: usize = 32;
    let mut last: HashMap<u32, usize> = HashMap::new();
    for op in index.ops.iter().filter(|op| op.fate == Fate::Done && is_write(op)) {
        let last = last.entry(op.run).or_default();
        *last = (*last).max(op.begin);
    }
    let mut settled: BTreeMap<u32, Vec<(usize, u64)>> = BTreeMap::new();
    for (at, record) in index.history.iter().enumerate() {
        if let What::Touch { s, used, taken: true } = record.what
            && last.get(&record.run).is_some_and(|last| at + SLACK < *last)
        {
            settled.entry(s).or_default().push((at, used));
        }
    }
    settled
}

fn uses(
    index: &Index<'_>,
    s: u32,
    ops: &[&Op<'_>],
    settled: &[(usize, u64)],
    settings: Settings,
    findings: &mut Vec<Finding>,
) {
    let run = |at: usize| index.history.get(at).map_or(0, |record| record.run);
    for read in ops {
        let Some(Answer::Live { seen: Some(seen), .. }) = read.answer else { continue };
        let lost = settled
            .iter()
            .filter(|(at, _)| run(*at) < read.run && index.age(*at) == index.age(read.begin))
            .find(|(_, used)| seen.saturating_add(settings.touch_ms) < *used);
        if let Some((at, used)) = lost {
            findings.push(Finding {
                rule: Rule::UseLost,
                what: format!("session {s} was used at {used} and the disk knows of {seen} only"),
                lines: vec![*at, read.begin, read.told],
            });
        }
    }
}

/// What was sent to a session reaches its client once and in order, as far as the order of sending is known.
fn messages(index: &Index<'_>, s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let sends: Vec<(u64, &Op<'_>)> = ops
        .iter()
        .filter_map(|op| match op.call {
            Call::Send { value, .. } if op.fate != Fate::Refused => Some((*value, *op)),
            _ => None,
        })
        .collect();
    if sends.is_empty() {
        return;
    }
    let sent: HashMap<u64, &Op<'_>> = sends.iter().copied().collect();
    let mut told: HashMap<u64, usize> = HashMap::new();
    // The send that began last among those told so far, and where it was told.
    let mut latest: Option<(&Op<'_>, usize)> = None;
    let mut find = |rule, what: String, lines: Vec<usize>| findings.push(Finding { rule, what, lines });
    for (at, record) in index.history.iter().enumerate() {
        let What::Told { s: of, value } = record.what else { continue };
        if of != s {
            continue;
        }
        let Some(send) = sent.get(&value).filter(|send| send.begin < at) else {
            find(
                Rule::MessageOrder,
                format!("a client of session {s} was told {value}, which was not sent"),
                vec![at],
            );
            continue;
        };
        if let Some(before) = told.insert(value, at) {
            find(
                Rule::MessageOrder,
                format!("a client of session {s} was told {value} twice"),
                vec![before, at],
            );
            continue;
        }
        if let Some((later, line)) =
            latest.filter(|(later, _)| send.fate == Fate::Done && send.precedes(later))
        {
            find(
                Rule::MessageOrder,
                format!("a client of session {s} was told {value} after what was sent later"),
                vec![send.begin, send.told, later.begin, line, at],
            );
        }
        if latest.is_none_or(|(latest, _)| send.begin > latest.begin) {
            latest = Some((send, at));
        }
    }
    for (value, send) in
        sends.iter().filter(|(value, send)| send.fate == Fate::Done && !told.contains_key(value))
    {
        find(
            Rule::MessageLost,
            format!("{value} was accepted for session {s} and its client was never told"),
            send.lines().to_vec(),
        );
    }
}

fn origins(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let mut known: HashMap<u64, usize> = HashMap::new();
    for (at, record) in index.history.iter().enumerate() {
        if let What::Start { origin } = record.what
            && let Some(before) = known.insert(origin, at)
        {
            findings.push(Finding {
                rule: Rule::OriginReused,
                what: format!("two process starts are origin {origin}"),
                lines: vec![before, at],
            });
        }
    }
}

fn poison(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let mut poisoned: HashMap<u32, usize> = HashMap::new();
    for (at, record) in index.history.iter().enumerate() {
        if matches!(record.what, What::Fail { why: Why::Poisoned, .. }) {
            poisoned.entry(record.run).or_insert(at);
        }
    }
    for op in index.ops.iter().filter(|op| op.fate == Fate::Done && is_write(op)) {
        if let Some(at) = poisoned.get(&op.run).filter(|at| **at < op.begin) {
            findings.push(Finding {
                rule: Rule::AckAfterPoison,
                what: "a write was acknowledged after the store had stopped writing".into(),
                lines: vec![*at, op.begin, op.told],
            });
        }
    }
}
