//! Decides from a history alone whether the store has kept its word. Knows nothing of how the store works.
//!
//! What it holds the store to: an acknowledged operation is there after any crash; one that was in flight happened as a
//! whole or not at all, and before its process died; nothing is read that was not written; the reads and writes of a
//! field fit into one order that respects time; entries of a log are contiguous, once each and in order, and gone only
//! where a trim was asked for; what was ended stays ended; no place in a log is given out twice. A database that was set
//! aside may lose everything, all of it, from that moment on.

mod fields;
mod index;
mod logs;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use self::index::Index;
use super::history::{Record, What, Why};

/// What a history must contain at least to prove anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Floors {
    /// Processes that were killed while they worked.
    pub kills: usize,
    /// Kills that met operations in flight.
    pub kills_in_flight: usize,
    pub creates: usize,
    pub puts: usize,
    pub updates: usize,
    pub counts: usize,
    pub appends: usize,
    pub trims: usize,
    pub terminates: usize,
    pub touches: usize,
    pub reads: usize,
    pub sends: usize,
}

/// What a history contains; operations are counted when they were acknowledged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub counted: Floors,
    pub operations: usize,
    pub in_flight: usize,
    pub aside: usize,
}

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// An acknowledged create, or a session that was read, is not there.
    SessionLost,
    /// A session was there that nobody made, or that had been found not to be there after the crash.
    SessionFromNowhere,
    /// A terminated session was served.
    Revived,
    /// A session was said to be over that nobody ended.
    FalselyGone,
    /// A session without all the fields of its create.
    HalfCreate,
    /// Fields of one update that are not there together.
    HalfUpdate,
    /// A value that was not written there.
    ValueFromNowhere,
    /// No order of the writes and reads of a field explains what was read.
    FieldOrder,
    /// An increment is missing.
    CountLost,
    /// An increment was counted more than once, or two share one number.
    CountTwice,
    /// An acknowledged entry is not there.
    EntryLost,
    /// An entry that is not what was written at its place.
    EntryFromNowhere,
    /// A run of the log has a hole, a repetition, or is out of order.
    LogOrder,
    /// Entries are gone that nobody asked to trim.
    TrimmedTooMuch,
    /// Entries are back that had been trimmed.
    Untrimmed,
    /// A process start has the origin of an earlier one, or a place in a log was given out twice.
    OriginReused,
    /// A use of a session that is older than a later acknowledged write is not known.
    UseLost,
    /// A write was acknowledged after the store had said that it takes no more.
    AckAfterPoison,
    /// The store did not open, set its database aside, or an operation failed, although nothing had been done to its disk.
    FailedWithoutCause,
    /// A message that was accepted for a client did not reach it.
    MessageLost,
    /// A message reached its client twice, out of order, or without having been sent.
    MessageOrder,
}

/// One broken rule, with the lines that show it.
#[derive(Clone, Debug)]
pub struct Finding {
    pub rule: Rule,
    pub what: String,
    /// Indices of records.
    pub lines: Vec<usize>,
}

#[derive(Debug)]
pub enum Verdict {
    /// The store kept its word.
    Sound(Summary),
    /// The history proves nothing.
    Invalid(String),
    /// The store broke its word: what was found, the shortest excerpt first; and the lines that show each rule's first.
    Broken(Vec<Finding>, String),
}

impl Verdict {
    pub fn rules(&self) -> Vec<Rule> {
        match self {
            Self::Broken(findings, _) => findings.iter().map(|finding| finding.rule).collect(),
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counted, operations, in_flight, aside } = self;
        write!(
            f,
            "{operations} operations, {in_flight} of unknown outcome, {aside} databases set aside; {counted:?}"
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sound(summary) => write!(f, "sound: {summary}"),
            Self::Invalid(why) => write!(f, "invalid: {why}"),
            Self::Broken(findings, excerpt) => {
                let mut rules: BTreeMap<Rule, usize> = BTreeMap::new();
                findings.iter().for_each(|finding| *rules.entry(finding.rule).or_default() += 1);
                write!(f, "broken: {rules:?}\n{excerpt}")
            }
        }
    }
}

/// What the run was like.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How much later than a use the disk may hear of it, milliseconds.
    pub touch_ms: u64,
    /// Something was done to the disk that makes reads fail.
    pub reads_may_fail: bool,
    /// Something was done to the disk that makes writes fail.
    pub writes_may_fail: bool,
    /// The database was damaged: it may be set aside.
    pub may_be_set_aside: bool,
}

/// Judges a history.
pub fn check(history: &[Record], settings: Settings, floors: &Floors) -> Verdict {
    let index = match Index::of(history) {
        Ok(index) => index,
        Err(why) => return Verdict::Invalid(why),
    };
    let mut findings = Vec::new();
    sessions::check(&index, settings, &mut findings);
    failures(&index, settings, &mut findings);
    fields::check(&index, &mut findings);
    logs::check(&index, &mut findings);
    if !findings.is_empty() {
        // Fewest lines, then earliest.
        findings.sort_by_key(|finding| (finding.lines.len(), finding.lines.iter().max().copied()));
        let mut told: HashSet<Rule> = HashSet::new();
        let first = findings.iter().filter(|finding| told.insert(finding.rule));
        let excerpt = first.map(|finding| excerpt(history, finding)).collect();
        return Verdict::Broken(findings, excerpt);
    }
    let summary = index.summary();
    match missing(&index, &summary.counted, floors) {
        Some(why) => Verdict::Invalid(why),
        None => Verdict::Sound(summary),
    }
}

fn missing(index: &Index<'_>, have: &Floors, want: &Floors) -> Option<String> {
    let floors = [
        ("kills", have.kills, want.kills),
        ("kills with operations in flight", have.kills_in_flight, want.kills_in_flight),
        ("creates", have.creates, want.creates),
        ("puts", have.puts, want.puts),
        ("updates", have.updates, want.updates),
        ("counts", have.counts, want.counts),
        ("appends", have.appends, want.appends),
        ("trims", have.trims, want.trims),
        ("terminates", have.terminates, want.terminates),
        ("touches", have.touches, want.touches),
        ("reads", have.reads, want.reads),
        ("sends", have.sends, want.sends),
    ];
    if let Some((what, have, want)) = floors.into_iter().find(|(_, have, want)| have < want) {
        return Some(format!("{have} {what} are too few, want {want}"));
    }
    let last = index.history.last().map_or(0, |record| record.run);
    if !index.history.iter().any(|record| record.run == last && record.what == What::Final) {
        return Some("there is no final read".into());
    }
    index.unread_in(last).map(|s| format!("session {s} is missing in the final read"))
}

fn failures(index: &Index<'_>, settings: Settings, findings: &mut Vec<Finding>) {
    let reads: HashSet<usize> = index.ops.iter().filter(|op| op.call.is_read()).map(|op| op.told).collect();
    for (at, record) in index.history.iter().enumerate() {
        let allowed = match &record.what {
            What::Refused { .. } => settings.reads_may_fail,
            What::Aside { .. } => settings.may_be_set_aside,
            What::Fail { .. } if reads.contains(&at) => settings.reads_may_fail,
            What::Fail { why, .. } => settings.writes_may_fail || *why == Why::Gone,
            What::Touch { taken, .. } => settings.writes_may_fail || *taken,
            _ => true,
        };
        if !allowed {
            findings.push(Finding {
                rule: Rule::FailedWithoutCause,
                what: "nothing was done to the disk that explains this".into(),
                lines: vec![at],
            });
        }
    }
}

fn excerpt(history: &[Record], finding: &Finding) -> String {
    let mut lines = finding.lines.clone();
    lines.sort_unstable();
    lines.dedup();
    let mut text = format!("{:?}: {}\n", finding.rule, finding.what);
    for at in lines {
        let line = history.get(at).and_then(|record| serde_json::to_string(record).ok()).unwrap_or_default();
        let line: String = line.chars().take(600).collect();
        text.push_str(&format!("  {at:>7}  {line}\n"));
    }
    text
}
