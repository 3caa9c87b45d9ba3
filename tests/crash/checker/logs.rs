//! The logs of sessions.

use std::collections::{BTreeMap, HashMap};

use super::super::history::{Answer, Call, Run};
use super::index::{Fate, Index, Op};
use super::{Finding, Rule};

/// What one origin has written to one session's log, as the history tells it.
#[derive(Default)]
struct Written<'a> {
    by_seq: HashMap<u64, &'a Op<'a>>,
    /// Acknowledged entries, and entries that were read, by the line at which that was known: highest number so far.
    settled: Vec<(usize, u64, &'a Op<'a>)>,
    /// Trims that may have been done: by the line at which they were asked for, highest base so far.
    asked: Vec<(usize, u64)>,
    /// Trims that were acknowledged or seen.
    done: Vec<(usize, u64, &'a Op<'a>)>,
}

pub fn check(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (s, ops) in index.sessions() {
        session(index, s, &ops, findings);
    }
}

fn session(index: &Index<'_>, s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let mut written: BTreeMap<u64, Written<'_>> = BTreeMap::new();
    for op in ops.iter().copied() {
        match (op.call, op.answer) {
            (Call::Append { origin, seq, trims, .. }, _) => {
                let of = written.entry(*origin).or_default();
                if let Some(before) = of.by_seq.insert(*seq, op) {
                    findings.push(Finding {
                        rule: Rule::OriginReused,
                        what: format!("number {seq} of origin {origin} was given out twice in session {s}"),
                        lines: [before.lines(), op.lines()].concat(),
                    });
                }
                if op.fate == Fate::Done {
                    of.settled.push((op.end, *seq, op));
                }
                for (origin, base) in trims.iter().filter(|_| op.fate != Fate::Refused) {
                    let of = written.entry(*origin).or_default();
                    of.asked.push((op.begin, *base));
                    if op.fate == Fate::Done {
                        of.done.push((op.end, *base, op));
                    }
                }
            }
            (Call::ReadLog { .. }, Some(Answer::Log(runs))) => {
                for run in runs {
                    let of = written.entry(run.origin).or_default();
                    of.settled.push((op.end, run.hw, op));
                    of.done.push((op.end, run.base, op));
                }
            }
            _ => {}
        }
    }
    for of in written.values_mut() {
        of.settled.sort_by_key(|(line, ..)| *line);
        of.settled.dedup_by(|later, before| later.1 <= before.1);
        of.asked.dedup_by(|later, before| later.1 <= before.1);
        of.done.sort_by_key(|(line, ..)| *line);
        of.done.dedup_by(|later, before| later.1 <= before.1);
    }
    for read in ops.iter().copied() {
        let Some(Answer::Log(runs)) = read.answer else { continue };
        for (origin, of) in &written {
            let run = runs.iter().find(|run| run.origin == *origin);
            presence(index, s, *origin, of, run, read, findings);
        }
        for run in runs {
            content(s, written.get(&run.origin), run, read, findings);
        }
    }
}

/// The last of a rising list that was known before `line`.
fn before<T>(list: &[T], line: usize, at: impl Fn(&T) -> usize) -> Option<&T> {
    list.partition_point(|item| at(item) < line).checked_sub(1).and_then(|place| list.get(place))
}

/// What must be there is there, what must be gone is gone.
fn presence(
    index: &Index<'_>,
    s: u32,
    origin: u64,
    of: &Written<'_>,
    run: Option<&Run>,
    read: &Op<'_>,
    findings: &mut Vec<Finding>,
) {
    let mut find = |rule, what: String, other: Option<&Op<'_>>| {
        let mut lines = read.lines().to_vec();
        lines.extend(other.iter().flat_map(|op| op.lines()));
        findings.push(Finding { rule, what, lines });
    };
    let (base, hw) = run.map_or((1, 0), |run| (run.base, run.hw));
    let same_age = |op: &Op<'_>| index.age(op.begin) == index.age(read.begin);
    if let Some((_, seq, op)) = before(&of.settled, read.begin, |(line, ..)| *line)
        && *seq > hw
        && same_age(op)
    {
        // Between two lists of the highest the one that is missing first says most.
        let first = of.settled.iter().find(|(line, seq, _)| *seq > hw && *line < read.begin);
        let (seq, op) = first.map_or((*seq, *op), |(_, seq, op)| (*seq, *op));
        find(
            Rule::EntryLost,
            format!("session {s}, origin {origin}: number {seq} is missing, the log ends at {hw}"),
            Some(op),
        );
    }
    let asked = before(&of.asked, read.end, |(line, _)| *line).map_or(1, |(_, base)| *base);
    if base > asked {
        find(
            Rule::TrimmedTooMuch,
            format!("session {s}, origin {origin}: the log begins at {base}, trims went up to {asked}"),
            None,
        );
    }
    if let Some((_, done, op)) = before(&of.done, read.begin, |(line, ..)| *line)
        && run.is_some()
        && base < *done
        && same_age(op)
    {
        find(
            Rule::Untrimmed,
            format!("session {s}, origin {origin}: the log begins at {base} after a trim to {done}"),
            Some(op),
        );
    }
}

fn content(s: u32, of: Option<&Written<'_>>, run: &Run, read: &Op<'_>, findings: &mut Vec<Finding>) {
    let mut find = |rule, what: String, other: Option<&Op<'_>>| {
        let mut lines = read.lines().to_vec();
        lines.extend(other.iter().flat_map(|op| op.lines()));
        findings.push(Finding { rule, what, lines });
    };
    let origin = run.origin;
    let held: Vec<u64> = run.entries.iter().map(|(seq, ..)| *seq).collect();
    if !held.iter().copied().eq(run.base..=run.hw) {
        let hole = held.windows(2).find(|pair| pair[0] + 1 != pair[1]);
        find(
            Rule::LogOrder,
            format!("session {s}, origin {origin}: from {} to {} there is {hole:?}", run.base, run.hw),
            None,
        );
    }
    for (seq, stream, value) in &run.entries {
        let append = of.and_then(|of| of.by_seq.get(seq)).copied();
        let fits = append.is_some_and(|append| {
            append.begin < read.end
                && append.fate != Fate::Refused
                && matches!(append.call, Call::Append { stream: of, value: is, .. } if of == stream && is == value)
        });
        if !fits {
            find(
                Rule::EntryFromNowhere,
                format!(
                    "session {s}, origin {origin}: number {seq} is {value} on {stream}, which was not written there"
                ),
                append,
            );
        }
    }
}
