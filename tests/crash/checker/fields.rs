//! Fields as registers, counters as counters.

use std::collections::{BTreeMap, HashMap};

use super::super::history::{Answer, Call};
use super::index::{Fate, Index, Op};
use super::{Finding, Rule};

pub fn check(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (s, ops) in index.sessions() {
        registers(s, &ops, findings);
        updates(s, &ops, findings);
        counters(index, s, &ops, findings);
    }
}

/// All that is known of one value: its write, and the reads that found it.
struct Cluster<'a> {
    value: u64,
    write: &'a Op<'a>,
    reads: usize,
    /// The operation that ended first, and the one that began last.
    first_end: &'a Op<'a>,
    last_begin: &'a Op<'a>,
}

impl Cluster<'_> {
    /// The field has this value all the time from `from` to `to`, if `from < to`; else for a moment between `to` and
    /// `from`.
    fn from(&self) -> usize {
        self.first_end.end
    }

    fn to(&self) -> usize {
        self.last_begin.begin
    }

    fn lasts(&self) -> bool {
        self.from() < self.to()
    }

    fn lines(&self) -> Vec<usize> {
        [self.write, self.first_end, self.last_begin].into_iter().flat_map(Op::lines).collect()
    }
}

/// Every value is written once. Then some order of writes and reads explains what was read exactly if no two values
/// are both in the field for certain at one time, and no value had to come and go while another was there for certain
/// (Gibbons and Korach, Testing Shared Memories, 1997). A write that was in flight counts if its value was read, and
/// then it was over when its process died.
fn registers(s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let mut fields: BTreeMap<&str, BTreeMap<u64, Cluster<'_>>> = BTreeMap::new();
    let mut begin = |name, value: u64, write| {
        let cluster = Cluster { value, write, reads: 0, first_end: write, last_begin: write };
        fields.entry(name).or_default().insert(value, cluster);
    };
    for op in ops.iter().copied().filter(|op| op.fate != Fate::Refused) {
        match op.call {
            Call::Create { fields: made, .. } => {
                made.iter().for_each(|(name, value)| begin(name.as_str(), *value, op));
            }
            Call::Put { field, value, .. } => begin(field.as_str(), *value, op),
            Call::PutAll { fields: put, .. } => {
                put.iter().for_each(|(name, value)| begin(name.as_str(), *value, op));
            }
            _ => {}
        }
    }
    for read in ops.iter().copied() {
        let Some(Answer::Live { fields: held, .. }) = read.answer else { continue };
        for (name, value) in held {
            let cluster = fields.get_mut(name.as_str()).and_then(|values| values.get_mut(value));
            let Some(cluster) = cluster.filter(|cluster| cluster.write.begin < read.end) else {
                findings.push(Finding {
                    rule: Rule::ValueFromNowhere,
                    what: format!("{name} of session {s} is {value}, which was not written there"),
                    lines: read.lines().to_vec(),
                });
                continue;
            };
            cluster.reads += 1;
            if read.end < cluster.first_end.end {
                cluster.first_end = read;
            }
            if read.begin > cluster.last_begin.begin {
                cluster.last_begin = read;
            }
        }
    }
    for (name, values) in fields {
        let counted = |cluster: &&Cluster<'_>| cluster.reads > 0 || cluster.write.fate == Fate::Done;
        let (mut lasting, brief): (Vec<_>, Vec<_>) =
            values.values().filter(counted).partition(|cluster| cluster.lasts());
        lasting.sort_by_key(|cluster| cluster.from());
        for pair in lasting.windows(2) {
            if let [a, b] = pair
                && b.from() < a.to()
            {
                findings.push(disorder(s, name, a, b));
            }
        }
        for short in brief {
            // The last of those that began before it had to come.
            let place = lasting.partition_point(|long| long.from() < short.to());
            if let Some(long) = place.checked_sub(1).and_then(|place| lasting.get(place))
                && short.from() < long.to()
            {
                findings.push(disorder(s, name, long, short));
            }
        }
    }
}

/// Fields that are written in updates of all of them only: whoever finds one value of an update finds the others.
fn updates(s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let updates: Vec<(&Op<'_>, &[(String, u64)])> = ops
        .iter()
        .filter_map(|op| match op.call {
            Call::PutAll { fields, .. } => Some((*op, fields.as_slice())),
            _ => None,
        })
        .collect();
    let of: HashMap<u64, usize> = updates
        .iter()
        .enumerate()
        .flat_map(|(at, (_, fields))| fields.iter().map(move |(_, value)| (*value, at)))
        .collect();
    for read in ops {
        let Some(Answer::Live { fields: held, .. }) = read.answer else { continue };
        for (name, value) in held {
            let Some((update, fields)) = of.get(value).and_then(|at| updates.get(*at)) else { continue };
            let Some((missing, _)) = fields.iter().find(|field| !held.contains(field)) else { continue };
            findings.push(Finding {
                rule: Rule::HalfUpdate,
                what: format!("session {s} has {name} of an update without {missing} of the same one"),
                lines: [update.lines(), read.lines()].concat(),
            });
        }
    }
}

fn disorder(s: u32, name: &str, a: &Cluster<'_>, b: &Cluster<'_>) -> Finding {
    let mut lines = a.lines();
    lines.extend(b.lines());
    lines.sort_unstable();
    lines.dedup();
    Finding {
        rule: Rule::FieldOrder,
        what: format!(
            "{name} of session {s}: no order of writes explains both {} (from line {} to {}) and {}",
            a.value,
            a.from(),
            a.to(),
            b.value
        ),
        lines,
    }
}

fn counters(index: &Index<'_>, s: u32, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let mut names: Vec<&str> = ops
        .iter()
        .filter_map(|op| match op.call {
            Call::Count { field, .. } => Some(field.as_str()),
            _ => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        counter(index, s, name, ops, findings);
    }
}

/// Whoever was told a number, by a read or as the answer to an increment.
struct Known<'a> {
    op: &'a Op<'a>,
    value: u64,
    is_read: bool,
}

fn counter(index: &Index<'_>, s: u32, name: &str, ops: &[&Op<'_>], findings: &mut Vec<Finding>) {
    let increments: Vec<&Op<'_>> = ops
        .iter()
        .copied()
        .filter(|op| {
            matches!(op.call, Call::Count { field, .. } if field == name) && op.fate != Fate::Refused
        })
        .collect();
    let mut known: Vec<Known<'_>> = Vec::new();
    let create = ops.iter().copied().find(|op| matches!(op.call, Call::Create { .. }));
    let age = create.map_or(0, |create| index.age(create.begin));
    for op in ops.iter().copied().filter(|op| index.age(op.begin) == age) {
        match (op.call, op.answer) {
            (Call::Count { field, .. }, Some(Answer::Count(value))) if field == name => {
                known.push(Known { op, value: *value, is_read: false });
            }
            (Call::Read { .. }, Some(Answer::Live { counters, .. })) => {
                let value = counters.iter().find(|(held, _)| held == name).map_or(0, |(_, value)| *value);
                known.push(Known { op, value, is_read: true });
            }
            _ => {}
        }
    }
    known.sort_by_key(|known| known.op.end);
    let mut holders: HashMap<u64, &Op<'_>> = HashMap::new();
    for Known { op, value, .. } in known.iter().filter(|known| !known.is_read) {
        if let Some(before) = holders.insert(*value, op) {
            findings.push(Finding {
                rule: Rule::CountLost,
                what: format!("two increments of {name} of session {s} were both told that it is {value}"),
                lines: [before.lines(), op.lines()].concat(),
            });
        }
    }
    // The highest number told so far, by the time at which it was told.
    let mut highest: Vec<(usize, &Known<'_>)> = Vec::new();
    for told in &known {
        if highest.last().is_none_or(|(_, best)| told.value > best.value) {
            highest.push((told.op.end, told));
        }
    }
    let reads: Vec<&Known<'_>> = known.iter().filter(|known| known.is_read).collect();
    for told in &known {
        let before = highest.partition_point(|(end, _)| *end < told.op.begin);
        if let Some((_, best)) = before.checked_sub(1).and_then(|place| highest.get(place))
            && told.value < best.value + u64::from(!told.is_read)
        {
            findings.push(Finding {
                rule: Rule::CountLost,
                what: format!("{name} of session {s} was {} and then {}", best.value, told.value),
                lines: [best.op.lines(), told.op.lines()].concat(),
            });
        }
        // No more than the last read found, and one for each increment that may have come since.
        let place = reads.partition_point(|read| read.op.end < told.op.begin);
        let base = place.checked_sub(1).and_then(|place| reads.get(place));
        let since = base.map_or(0, |base| base.op.begin);
        let possible =
            increments.iter().filter(|op| op.end > since && op.begin <= told.op.end).count() as u64;
        let most = base.map_or(0, |base| base.value) + possible;
        if told.value > most {
            let mut lines = told.op.lines().to_vec();
            lines.extend(base.iter().flat_map(|base| base.op.lines()));
            findings.push(Finding {
                rule: Rule::CountTwice,
                what: format!(
                    "{name} of session {s} is {}: it was {} and there were {possible} increments since",
                    told.value,
                    base.map_or(0, |base| base.value)
                ),
                lines,
            });
        }
    }
}
