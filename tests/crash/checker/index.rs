//! A history by operations.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::history::{Answer, Call, Record, What};
use super::{Floors, Summary};

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was acknowledged.
    Done,
    /// It is certain that nothing was done.
    Refused,
    /// It was in flight when its process died, or failed in a way that leaves it open.
    Open,
}

#[derive(Clone, Copy, Debug)]
pub struct Op<'a> {
    pub call: &'a Call,
    pub answer: Option<&'a Answer>,
    pub fate: Fate,
    /// Index of its `Invoke`.
    pub begin: usize,
    /// Until when it can have taken effect: index of its answer, or of the death of its process.
    pub end: usize,
    /// Index of the line that says how it ended.
    pub told: usize,
    pub run: u32,
}

impl Op<'_> {
    pub fn lines(&self) -> [usize; 2] {
        [self.begin, self.told]
    }

    /// Whether it was over before the other one began.
    pub fn precedes(&self, other: &Self) -> bool {
        self.end < other.begin
    }
}

pub struct Index<'a> {
    pub history: &'a [Record],
    /// In the order in which they began.
    pub ops: Vec<Op<'a>>,
    /// Indices of the moments at which a database was set aside.
    aside: Vec<usize>,
    /// Operations by session.
    by_session: BTreeMap<u32, Vec<usize>>,
}

impl<'a> Index<'a> {
    pub fn of(history: &'a [Record]) -> Result<Self, String> {
        let mut deaths: HashMap<u32, usize> = HashMap::new();
        let mut next: HashMap<u32, u64> = HashMap::new();
        let mut aside = Vec::new();
        let mut run = 0;
        for (at, record) in history.iter().enumerate() {
            if record.run < run {
                return Err(format!("line {at} is of an earlier process than the line before"));
            }
            run = record.run;
            if record.n > 0 {
                let next = next.entry(record.run).or_insert(1);
                if record.n != *next {
                    return Err(format!(
                        "line {at}: process {run} has lost lines, {} is not {next}",
                        record.n
                    ));
                }
                *next += 1;
            }
            match record.what {
                What::Killed | What::Ended => {
                    deaths.insert(record.run, at);
                }
                What::Aside { .. } => aside.push(at),
                _ => {}
            }
        }
        let mut ops: Vec<Op<'a>> = Vec::new();
        let mut by_number: HashMap<u64, usize> = HashMap::new();
        for (at, record) in history.iter().enumerate() {
            let (op, answer, fate) = match &record.what {
                What::Invoke { op, call } => {
                    let end = deaths.get(&record.run).copied().unwrap_or(history.len());
                    if by_number.insert(*op, ops.len()).is_some() {
                        return Err(format!("line {at}: operation {op} begins twice"));
                    }
                    let run = record.run;
                    ops.push(Op { call, answer: None, fate: Fate::Open, begin: at, end, told: at, run });
                    continue;
                }
                What::Ok { op, answer } => (op, Some(answer), Fate::Done),
                What::Fail { op, why, .. } if why.is_sure() => (op, None, Fate::Refused),
                What::Fail { op, .. } => (op, None, Fate::Open),
                _ => continue,
            };
            let known = by_number.get(op).and_then(|place| ops.get_mut(*place));
            let known = known.filter(|known| known.told == known.begin);
            let known =
                known.ok_or_else(|| format!("line {at}: operation {op} ends without having begun"))?;
            (known.answer, known.fate, known.told) = (answer, fate, at);
            if fate != Fate::Open {
                known.end = at;
            }
        }
        let mut by_session: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (place, op) in ops.iter().enumerate() {
            by_session.entry(op.call.session()).or_default().push(place);
        }
        Ok(Self { history, ops, aside, by_session })
    }

    /// How many databases had been set aside by then. What is written in one age is not expected in another.
    pub fn age(&self, at: usize) -> usize {
        self.aside.partition_point(|aside| *aside < at)
    }

    /// The sessions, each with its operations in the order in which they began.
    pub fn sessions(&self) -> impl Iterator<Item = (u32, Vec<&Op<'a>>)> {
        self.by_session.iter().map(|(s, places)| (*s, places.iter().map(|place| &self.ops[*place]).collect()))
    }

    /// A session that was made and that this process has not read.
    pub fn unread_in(&self, run: u32) -> Option<u32> {
        let read: BTreeSet<u32> = self
            .ops
            .iter()
            .filter(|op| op.run == run && matches!(op.call, Call::Read { .. }) && op.fate == Fate::Done)
            .map(|op| op.call.session())
            .collect();
        let made = |op: &&Op<'_>| matches!(op.call, Call::Create { .. }) && op.fate == Fate::Done;
        self.ops.iter().filter(made).map(|op| op.call.session()).find(|s| !read.contains(s))
    }

    pub fn summary(&self) -> Summary {
        let mut counted = Floors::default();
        let done = self.ops.iter().filter(|op| op.fate == Fate::Done);
        for op in done {
            *match op.call {
                Call::Create { .. } => &mut counted.creates,
                Call::Put { .. } => &mut counted.puts,
                Call::PutAll { .. } => &mut counted.updates,
                Call::Count { .. } => &mut counted.counts,
                Call::Append { trims, .. } => {
                    counted.trims += usize::from(!trims.is_empty());
                    &mut counted.appends
                }
                Call::Terminate { .. } => &mut counted.terminates,
                Call::Read { .. } | Call::ReadLog { .. } => &mut counted.reads,
                Call::Send { .. } => &mut counted.sends,
            } += 1;
        }
        let open: BTreeSet<u32> = self
            .ops
            .iter()
            .filter(|op| op.fate == Fate::Open && !op.call.is_read())
            .map(|op| op.run)
            .collect();
        for record in self.history {
            match record.what {
                What::Touch { .. } => counted.touches += 1,
                What::Killed => {
                    counted.kills += 1;
                    counted.kills_in_flight += usize::from(open.contains(&record.run));
                }
                _ => {}
            }
        }
        let in_flight = self.ops.iter().filter(|op| op.fate == Fate::Open).count();
        Summary { counted, operations: self.ops.len(), in_flight, aside: self.aside.len() }
    }
}
