//! Decides from a history alone whether a cluster of instances has kept its word. Knows nothing of how it works.
//!
//! The rules are the invariants I1 to I14 of docs/failover.md. An operation without an answer may have been done, or be
//! done later. Two operations are ordered if one ended before the other began.

mod docs;
mod index;
mod logs;
mod progress;
mod registers;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use self::index::Index;
use super::history::{Record, What};

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// An acknowledged entry of a log is not there.
    I1EntryLost,
    /// An entry is there twice, out of order, with a hole before it, or was never said.
    I2LogBroken,
    /// A client got something twice or out of order, or did not get something and was not told.
    I3Delivery,
    /// After the healing documents differ, or are not what the acknowledged writes make.
    I4Diverged,
    /// A session was served that had ended.
    I5Revived,
    /// A session was said not to exist that nobody had ended.
    I6FalseNotFound,
    /// What was acknowledged was neither shared nor on the disk.
    I7NotDurable,
    /// A terminal result was changed or lost.
    I8ResultChanged,
    /// A fence did not rise, or an older one was good for a write.
    I9Fence,
    /// Something that is for all instances was done without the shared store.
    I10GlobalAlone,
    /// What was executed late or twice has changed something.
    I11NotIdempotent,
    /// Something was read that was older than what pushes had told.
    I12Stale,
    /// Something is still owed although nothing hinders.
    I13Stuck,
    /// Something has grown past its bound.
    I14Unbounded,
}

impl Rule {
    pub const ALL: [Self; 14] = [
        Self::I1EntryLost,
        Self::I2LogBroken,
        Self::I3Delivery,
        Self::I4Diverged,
        Self::I5Revived,
        Self::I6FalseNotFound,
        Self::I7NotDurable,
        Self::I8ResultChanged,
        Self::I9Fence,
        Self::I10GlobalAlone,
        Self::I11NotIdempotent,
        Self::I12Stale,
        Self::I13Stuck,
        Self::I14Unbounded,
    ];
}

/// One broken rule, with the lines that show it.
#[derive(Clone, Debug)]
pub struct Finding {
    pub rule: Rule,
    pub what: String,
    /// Indices of records.
    pub lines: Vec<usize>,
}

/// What the run was like.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// As many entries of a log are kept in the shared store.
    pub log_entries: usize,
    /// A push may come so late, milliseconds.
    pub lease_ms: u64,
    /// Sessions that are healed per second at least.
    pub heal_per_second: u64,
    /// The shared store was looked into at the end.
    pub looks_inside: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { log_entries: 512, lease_ms: 1_000, heal_per_second: 500, looks_inside: true }
    }
}

/// What must be in a history at least, by name: kinds of operations (acknowledged ones count), `fault:` and the kind
/// of a fault, `delivered`, `resumed`, `gaps`, `replayed`, `compared reads`.
pub type Floors<'a> = &'a [(&'a str, u64)];

/// What is in a history.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub counts: BTreeMap<String, u64>,
}

impl Summary {
    /// How often something is there.
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// All faults.
    pub fn faults(&self) -> u64 {
        let faults = self.counts.iter().filter(|(name, _)| name.starts_with("fault:"));
        faults.map(|(_, count)| count).sum()
    }

    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            *self.counts.entry(name.clone()).or_default() += count;
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |name| self.count(name);
        write!(
            f,
            "{} faults, {} operations ({} without an answer), {} deliveries; ",
            self.faults(),
            count("operations"),
            count("unanswered"),
            count("delivered")
        )?;
        f.debug_map().entries(&self.counts).finish()
    }
}

#[derive(Debug)]
pub enum Verdict {
    /// The word was kept.
    Sound(Summary),
    /// The history proves nothing.
    Invalid(String),
    /// The word was broken: what was found, and the lines that show each rule's shortest.
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

/// Judges a history.
pub fn check(history: &[Record], settings: &Settings, floors: Floors<'_>) -> Verdict {
    let index = match Index::of(history) {
        Ok(index) => index,
        Err(why) => return Verdict::Invalid(why),
    };
    let mut findings = Vec::new();
    let mut summary = index.summary();
    sessions::check(&index, &mut findings);
    logs::check(&index, settings, &mut findings);
    let compared = docs::check(&index, settings, &mut findings);
    summary.counts.insert("compared reads".into(), compared);
    registers::check(&index, &mut findings);
    progress::check(&index, settings, &mut findings);
    if !findings.is_empty() {
        // Fewest lines, then earliest.
        findings.sort_by_key(|finding| (finding.lines.len(), finding.lines.iter().max().copied()));
        let mut told: HashSet<Rule> = HashSet::new();
        let first = findings.iter().filter(|finding| told.insert(finding.rule));
        let excerpt = first.map(|finding| excerpt(history, finding)).collect();
        return Verdict::Broken(findings, excerpt);
    }
    match missing(&index, settings, &summary, floors) {
        Some(why) => Verdict::Invalid(why),
        None => Verdict::Sound(summary),
    }
}

fn missing(index: &Index<'_>, settings: &Settings, summary: &Summary, floors: Floors<'_>) -> Option<String> {
    let at = |wanted: &What| index.history.iter().position(|record| record.what == *wanted);
    let (Some(quiet), Some(end)) = (at(&What::Quiet), at(&What::Final)) else {
        return Some("there is no quiet period with a final read after it".into());
    };
    if quiet > end {
        return Some("the final read comes before the quiet period".into());
    }
    let disturbed = |record: &Record| matches!(record.what, What::Fault { .. } | What::Stop { .. });
    if let Some(at) = index.history.iter().skip(quiet).position(disturbed) {
        return Some(format!("line {}: a fault in the quiet period", quiet + at));
    }
    let running = index.running();
    if running.is_empty() {
        return Some("nobody is left for the final read".into());
    }
    for s in index.created() {
        for instance in &running {
            if !index.is_read_at_last(s, *instance) {
                return Some(format!("session {s} is missing in the final read of instance {instance}"));
            }
        }
        if settings.looks_inside && !index.shared.iter().any(|shared| shared.at > end && shared.s == s) {
            return Some(format!("session {s} was not looked for in the shared store at the end"));
        }
    }
    let few = floors.iter().find(|(name, want)| summary.count(name) < *want);
    few.map(|(name, want)| format!("{} of {name:?} are too few, want {want}", summary.count(name)))
}

fn excerpt(history: &[Record], finding: &Finding) -> String {
    let mut lines = finding.lines.clone();
    lines.sort_unstable();
    lines.dedup();
    let mut text = format!("{:?}: {}\n", finding.rule, finding.what);
    for at in lines.into_iter().take(20) {
        let line = history.get(at).and_then(|record| serde_json::to_string(record).ok()).unwrap_or_default();
        let line: String = line.chars().take(600).collect();
        text.push_str(&format!("  {at:>7}  {line}\n"));
    }
    text
}
