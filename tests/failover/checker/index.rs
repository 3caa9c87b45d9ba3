//! A history with its operations put together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::history::{Answer, Call, Link, Record, SharedDoc, SharedRun, Stop, What};
use super::Summary;

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    Refused,
    Unknown,
}

/// An operation.
pub(super) struct Op<'a> {
    pub(super) call: &'a Call,
    pub(super) instance: u32,
    /// The line with which it began.
    pub(super) begin: usize,
    /// The line with which it was over; of one without an answer there is none.
    pub(super) end: usize,
    pub(super) at: (u64, u64),
    pub(super) links: (Link, Link),
    pub(super) shared: bool,
    pub(super) fate: Fate,
    pub(super) answer: Option<&'a Answer>,
}

impl Op<'_> {
    pub(super) fn lines(&self) -> Vec<usize> {
        if self.end == usize::MAX { vec![self.begin] } else { vec![self.begin, self.end] }
    }

    pub(super) fn is_done(&self) -> bool {
        self.fate == Fate::Done
    }

    /// Whether the instance could not ask the shared store.
    pub(super) fn is_alone(&self) -> bool {
        [self.links.0, self.links.1].contains(&Link::Down)
    }

    pub(super) fn before(&self, other: &Self) -> bool {
        self.end < other.begin
    }
}

/// What the shared store had of a session.
pub(super) struct Shared<'a> {
    pub(super) at: usize,
    pub(super) s: u32,
    pub(super) doc: &'a SharedDoc,
    pub(super) log: &'a [SharedRun],
}

pub(super) struct Index<'a> {
    pub(super) history: &'a [Record],
    pub(super) ops: Vec<Op<'a>>,
    pub(super) shared: Vec<Shared<'a>>,
    /// The line of the final read; behind the end if there is none.
    pub(super) end: usize,
    by_session: BTreeMap<u32, Vec<usize>>,
    stops: Vec<(usize, u32, Stop)>,
}

impl<'a> Index<'a> {
    pub(super) fn of(history: &'a [Record]) -> Result<Self, String> {
        let mut ops: Vec<Op<'a>> = Vec::new();
        let mut by_number: HashMap<u64, usize> = HashMap::new();
        let (mut shared, mut stops) = (Vec::new(), Vec::new());
        let mut end = history.len();
        for (at, record) in history.iter().enumerate() {
            match &record.what {
                What::Invoke { op, instance, link, call } => {
                    let known = by_number.insert(*op, ops.len());
                    if known.is_some() {
                        return Err(format!("line {at}: operation {op} begins twice"));
                    }
                    ops.push(Op {
                        call,
                        instance: *instance,
                        begin: at,
                        end: usize::MAX,
                        at: (record.at, u64::MAX),
                        links: (*link, Link::Unknown),
                        shared: false,
                        fate: Fate::Unknown,
                        answer: None,
                    });
                }
                What::Ok { op, .. } | What::Fail { op, .. } | What::Info { op, .. } => {
                    let Some(ended) = by_number.get(op).and_then(|known| ops.get_mut(*known)) else {
                        return Err(format!("line {at}: operation {op} never began"));
                    };
                    if ended.end != usize::MAX {
                        return Err(format!("line {at}: operation {op} ends twice"));
                    }
                    if let What::Ok { link, shared, answer, .. } = &record.what {
                        (ended.fate, ended.answer, ended.shared) = (Fate::Done, Some(answer), *shared);
                        ended.links.1 = *link;
                    } else if let What::Fail { link, .. } = &record.what {
                        ended.fate = Fate::Refused;
                        ended.links.1 = *link;
                    } else {
                        continue;
                    }
                    ended.end = at;
                    ended.at.1 = record.at;
                }
                What::Shared { s, doc, log } => shared.push(Shared { at, s: *s, doc, log }),
                What::Stop { instance, how } => stops.push((at, *instance, *how)),
                What::Final => end = end.min(at),
                _ => {}
            }
        }
        let mut by_session: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, op) in ops.iter().enumerate() {
            if let Some(s) = op.call.session() {
                by_session.entry(s).or_default().push(at);
            }
        }
        Ok(Self { history, ops, shared, end, by_session, stops })
    }

    /// The operations of every session.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (u32, Vec<&Op<'a>>)> {
        self.by_session.iter().map(|(s, ops)| (*s, ops.iter().filter_map(|at| self.ops.get(*at)).collect()))
    }

    /// The sessions of which a create was acknowledged.
    pub(super) fn created(&self) -> BTreeSet<u32> {
        let made = self.ops.iter().filter(|op| op.is_done() && matches!(op.call, Call::Create { .. }));
        made.filter_map(|op| op.call.session()).collect()
    }

    /// The sessions that somebody may have ended.
    pub(super) fn maybe_ended(&self) -> BTreeSet<u32> {
        let ends = self.ops.iter().filter(|op| matches!(op.call, Call::Terminate { .. }));
        ends.filter(|op| op.fate != Fate::Refused).filter_map(|op| op.call.session()).collect()
    }

    /// The instances that run at the end.
    pub(super) fn running(&self) -> BTreeSet<u32> {
        let mut running = BTreeSet::new();
        for record in self.history {
            match record.what {
                What::Start { instance, .. } => running.insert(instance),
                What::Stop { instance, .. } => running.remove(&instance),
                _ => false,
            };
        }
        running
    }

    /// Whether it belongs to the final read. What an instance says alone is no proof of anything then.
    pub(super) fn is_at_last(&self, op: &Op<'_>) -> bool {
        op.begin > self.end && !op.is_alone()
    }

    pub(super) fn is_read_at_last(&self, s: u32, instance: u32) -> bool {
        let of = self.by_session.get(&s).into_iter().flatten().filter_map(|at| self.ops.get(*at));
        let mut read = of.filter(|op| self.is_at_last(op) && op.instance == instance && op.is_done());
        read.any(|op| matches!(op.call, Call::Read { .. } | Call::ReadCount { .. }))
    }

    /// Whether an instance stopped like this between two lines.
    pub(super) fn stopped(&self, instance: u32, how: Stop, from: usize, to: usize) -> bool {
        self.stops.iter().any(|(at, of, stop)| (from..to).contains(at) && *of == instance && *stop == how)
    }

    pub(super) fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        let mut count = |name: &str, by: u64| match summary.counts.get_mut(name) {
            Some(count) => *count += by,
            None => {
                summary.counts.insert(name.to_owned(), by);
            }
        };
        for op in &self.ops {
            count("operations", 1);
            match op.fate {
                Fate::Done => count(op.call.kind(), 1),
                Fate::Refused => count("refused", 1),
                Fate::Unknown => count("unanswered", 1),
            }
            if op.links.0 == Link::Down && op.is_done() {
                count("while down", 1);
            }
        }
        for record in self.history {
            match &record.what {
                What::Fault { kind, .. } => count(&format!("fault:{kind}"), 1),
                What::Stop { how: Stop::Killed | Stop::PowerCut | Stop::DiskLost, .. } => {
                    count("fault:crash", 1);
                }
                What::Delivered { .. } => count("delivered", 1),
                What::Resumed { .. } => count("resumed", 1),
                What::Gap { .. } => count("gaps", 1),
                What::Replayed { commands } => count("replayed", *commands),
                _ => {}
            }
        }
        summary
    }
}
