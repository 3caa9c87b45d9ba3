//! What was said on streams: I1, I2, I3, and I7 for entries.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::history::{Answer, Call, Stop, What};
use super::index::{Fate, Index, Op};
use super::{Finding, Rule, Settings};

/// A place in a log: session, origin, number. Of broadcasts the session is [`ALL`].
type Place = (u32, u64, u64);
const ALL: u32 = u32::MAX;

pub(super) fn check(index: &Index<'_>, settings: &Settings, findings: &mut Vec<Finding>) {
    let mut said = Said::of(index, findings);
    let trims = trims(index);
    said.in_logs(index, &trims, findings);
    let lost = said.lost(index, settings, &trims, findings);
    Clients::of(index).check(index, &said, &lost, findings);
}

/// By session and origin the number below which somebody asked for entries to go.
type Trims = HashMap<(u32, u64), u64>;

fn trims(index: &Index<'_>) -> Trims {
    let mut trims = Trims::new();
    for op in &index.ops {
        let Call::Append { s, trims: cut, .. } = op.call else { continue };
        for (origin, base) in cut {
            let known = trims.entry((*s, *origin)).or_default();
            *known = (*known).max(*base);
        }
    }
    trims
}

struct Said<'a> {
    /// By value: every value is said once.
    by_value: HashMap<u64, (u32, &'a Op<'a>)>,
    /// What is known to be at a place, and the line that says so.
    at: BTreeMap<Place, (u64, usize)>,
}

impl<'a> Said<'a> {
    fn of(index: &'a Index<'a>, findings: &mut Vec<Finding>) -> Self {
        let mut said = Self { by_value: HashMap::new(), at: BTreeMap::new() };
        for op in &index.ops {
            let (s, value) = match op.call {
                Call::Append { s, value, .. } => (*s, *value),
                Call::Broadcast { value } => (ALL, *value),
                _ => continue,
            };
            said.by_value.insert(value, (s, op));
            if let Some(Answer::Placed(origin, seq)) = op.answer {
                said.note((s, *origin, *seq), value, op.end, findings);
            }
        }
        said
    }

    /// Notes that a value is at a place. Two values at one place, or a value that nobody said there, is a finding.
    fn note(&mut self, place: Place, value: u64, line: usize, findings: &mut Vec<Finding>) {
        let (held, since) = *self.at.entry(place).or_insert((value, line));
        let (s, origin, seq) = place;
        if held != value {
            findings.push(Finding {
                rule: Rule::I2LogBroken,
                what: format!("session {s}: at {origin:x}-{seq} there are {held} and {value}"),
                lines: vec![since, line],
            });
        }
        match self.by_value.get(&value) {
            Some((of, op)) if *of == s && op.begin <= line && op.fate != Fate::Refused => {}
            known => findings.push(Finding {
                rule: Rule::I2LogBroken,
                what: format!("session {s}: {value} is at {origin:x}-{seq}, which nobody said there"),
                lines: known.map_or(vec![line], |(_, op)| vec![op.begin, line]),
            }),
        }
    }

    /// Looks at every log that was read.
    fn in_logs(&mut self, index: &Index<'_>, trims: &Trims, findings: &mut Vec<Finding>) {
        let broken = |what: String, line| Finding { rule: Rule::I2LogBroken, what, lines: vec![line] };
        for op in &index.ops {
            let (Call::ReadLog { s }, Some(Answer::Log(runs))) = (op.call, op.answer) else { continue };
            for run in runs {
                for (at, (seq, _, value)) in run.entries.iter().enumerate() {
                    if *seq != run.base + at as u64 {
                        let what = format!("session {s}: the run of {:x} has a hole at {seq}", run.origin);
                        findings.push(broken(what, op.end));
                        break;
                    }
                    self.note((*s, run.origin, *seq), *value, op.end, findings);
                }
            }
        }
        for shared in &index.shared {
            let s = shared.s;
            for run in shared.log {
                let origin = run.origin;
                // Of what was cut off everywhere a hole may stay.
                let cut = trims.get(&(s, origin)).copied().unwrap_or(0);
                let whole = |pair: &[u64]| pair[1] == pair[0] + 1 || (pair[0] < pair[1] && pair[1] <= cut);
                if let Some(pair) = run.seqs.windows(2).find(|pair| !whole(pair)) {
                    let what =
                        format!("session {s}: shared run of {origin:x}: {} after {}", pair[1], pair[0]);
                    findings.push(broken(what, shared.at));
                } else if run.seqs.last().is_some_and(|last| run.mark != Some(*last)) {
                    let what = format!(
                        "session {s}: shared run of {origin:x}: mark {:?}, last {:?}",
                        run.mark,
                        run.seqs.last()
                    );
                    findings.push(broken(what, shared.at));
                }
            }
        }
    }

    /// Acknowledged entries that are neither in the shared store at the end, nor were cut off; told as findings, and
    /// returned by place.
    fn lost(
        &self,
        index: &Index<'_>,
        settings: &Settings,
        trims: &Trims,
        findings: &mut Vec<Finding>,
    ) -> BTreeSet<Place> {
        let mut lost = BTreeSet::new();
        if !settings.looks_inside {
            return lost;
        }
        let ended = index.maybe_ended();
        let last: HashMap<u32, _> = index
            .shared
            .iter()
            .filter(|shared| shared.at > index.end)
            .map(|shared| (shared.s, shared))
            .collect();
        for op in index.ops.iter().filter(|op| op.end < index.end) {
            let (Call::Append { s, .. }, Some(Answer::Placed(origin, seq))) = (op.call, op.answer) else {
                continue;
            };
            let Some(shared) = last.get(s).filter(|_| !ended.contains(s)) else { continue };
            let run = shared.log.iter().find(|run| run.origin == *origin);
            let held = run.is_some_and(|run| run.seqs.contains(seq));
            let all: usize = shared.log.iter().map(|run| run.seqs.len()).sum();
            // Cut off: by the cap, which leaves the newest; or because somebody asked for it.
            let below = run.is_some_and(|run| run.seqs.first().is_some_and(|first| seq < first))
                || run.is_some_and(|run| run.seqs.is_empty() && run.mark.is_some_and(|mark| *seq <= mark));
            let capped = all >= settings.log_entries && below;
            let asked = trims.get(&(*s, *origin)).is_some_and(|base| seq < base);
            if held || capped || asked {
                continue;
            }
            lost.insert((*s, *origin, *seq));
            let power = index.stopped(op.instance, Stop::PowerCut, op.end, index.end);
            let rule = if power && !op.shared { Rule::I7NotDurable } else { Rule::I1EntryLost };
            let mut lines = op.lines();
            lines.push(shared.at);
            let what = format!("session {s}: {origin:x}-{seq} was acknowledged and is not there");
            findings.push(Finding { rule, what, lines });
        }
        lost
    }
}

struct Client<'a> {
    s: u32,
    stream: &'a str,
    since: usize,
    /// Line, session or [`ALL`], origin, number, value.
    got: Vec<(usize, Place, u64)>,
    /// Line, origin, number.
    gaps: Vec<(usize, u64, u64)>,
}

struct Clients<'a>(BTreeMap<u32, Client<'a>>);

impl<'a> Clients<'a> {
    fn of(index: &Index<'a>) -> Self {
        let mut clients: BTreeMap<u32, Client<'a>> = BTreeMap::new();
        for (at, record) in index.history.iter().enumerate() {
            match &record.what {
                What::Subscribed { client, s, stream } => {
                    clients.entry(*client).or_insert_with(|| Client {
                        s: *s,
                        stream,
                        since: at,
                        got: Vec::new(),
                        gaps: Vec::new(),
                    });
                }
                What::Delivered { client, s, origin, seq, value } => {
                    if let Some(client) = clients.get_mut(client) {
                        client.got.push((at, (*s, *origin, *seq), *value));
                    }
                }
                What::Gap { client, upto } => {
                    if let Some(client) = clients.get_mut(client) {
                        client.gaps.extend(upto.iter().map(|(origin, seq)| (at, *origin, *seq)));
                    }
                }
                _ => {}
            }
        }
        Self(clients)
    }

    fn check(&self, index: &Index<'_>, said: &Said<'_>, lost: &BTreeSet<Place>, findings: &mut Vec<Finding>) {
        let ended = index.maybe_ended();
        let mut by_session: HashMap<u32, Vec<(u64, &Op<'_>)>> = HashMap::new();
        for (value, (s, op)) in &said.by_value {
            by_session.entry(*s).or_default().push((*value, op));
        }
        by_session.values_mut().for_each(|values| values.sort_by_key(|(value, _)| *value));
        for (number, client) in &self.0 {
            self.one(*number, client, said, findings);
            if ended.contains(&client.s) || index.end == index.history.len() {
                continue;
            }
            let got: BTreeSet<u64> = client.got.iter().map(|(_, _, value)| *value).collect();
            let own = by_session.get(&client.s).into_iter().flatten().map(|said| (client.s, said));
            let all = by_session.get(&ALL).into_iter().flatten().map(|said| (ALL, said));
            for (s, (value, op)) in own.chain(all) {
                let wanted = match op.call {
                    Call::Append { stream, .. } => stream == client.stream,
                    _ => client.stream == "g",
                };
                let place = match op.answer {
                    Some(Answer::Placed(origin, seq)) => Some((s, *origin, *seq)),
                    _ => None,
                };
                let told = place.is_some_and(|(_, origin, seq)| {
                    client.gaps.iter().any(|(_, of, upto)| *of == origin && seq <= *upto)
                });
                let is_lost = place.is_some_and(|place| lost.contains(&place));
                // What has no known place is in some gap, if there was one.
                let told = told || (place.is_none() && !client.gaps.is_empty());
                if wanted
                    && op.is_done()
                    && op.begin > client.since
                    && !got.contains(value)
                    && !told
                    && !is_lost
                {
                    findings.push(Finding {
                        rule: Rule::I3Delivery,
                        what: format!("client {number} did not get {value}, and was not told"),
                        lines: [op.lines(), vec![client.since]].concat(),
                    });
                }
            }
        }
    }

    fn one(&self, number: u32, client: &Client<'_>, said: &Said<'_>, findings: &mut Vec<Finding>) {
        let mut last: HashMap<(u32, u64), (u64, usize)> = HashMap::new();
        let mut values: HashMap<u64, usize> = HashMap::new();
        for (line, place, value) in &client.got {
            let (s, origin, seq) = *place;
            let wrong = |what: String, lines| Finding { rule: Rule::I3Delivery, what, lines };
            if let Some(first) = values.insert(*value, *line) {
                findings.push(wrong(format!("client {number} got {value} twice"), vec![first, *line]));
            } else if let Some((before, since)) = last.get(&(s, origin)).filter(|(before, _)| *before >= seq)
            {
                let what = format!("client {number} got {origin:x}-{seq} after {origin:x}-{before}");
                findings.push(wrong(what, vec![*since, *line]));
            }
            last.insert((s, origin), (seq, *line));
            match said.by_value.get(value) {
                Some((of, op))
                    if (*of == client.s || *of == ALL) && op.begin < *line && op.fate != Fate::Refused =>
                {
                    let placed = match op.answer {
                        Some(Answer::Placed(origin, seq)) => (*of, *origin, *seq) == *place,
                        _ => true,
                    };
                    if !placed {
                        let what =
                            format!("client {number} got {value} at {origin:x}-{seq}, where it was not said");
                        findings.push(wrong(what, [op.lines(), vec![*line]].concat()));
                    }
                }
                _ => findings.push(wrong(
                    format!("client {number} got {value}, which nobody said in its session"),
                    vec![*line],
                )),
            }
        }
    }
}
