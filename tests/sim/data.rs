//! What one server of the shared store holds, and what it does with a command: the contracts, and the mistakes that
//! mutants make in them.

use std::collections::BTreeMap;

use bytes::Bytes;
use outlast::base::ids::SessionKey;
use outlast::state::contract::{
    self, DocAnswer, DocHash, DocOffer, END, Entry, LogAnswer, LogKeys, Run, SEEN, Slot, Step,
};
use outlast::state::lock::{Register, Token};
use outlast::state::result::{Outcome, Reported};
use outlast::state::stamp::Stamp;

use super::mutants::Mutant;

/// A command, as it travels.
#[derive(Clone, Debug)]
pub enum Command {
    Doc(SessionKey, DocOffer),
    Log(SessionKey, Run),
    Result(SessionKey, String, Outcome, u64, bool),
    LogEnd(SessionKey, u64),
    Lock(String, Token, u64, Step, u64),
    Cache(String, u64, Option<(Bytes, u64)>),
    Void(contract::Voiding),
}

/// What it says.
#[derive(Clone, Debug)]
pub enum Answer {
    Doc(DocAnswer),
    Log(LogAnswer),
    Result(Reported),
    Lock(Result<u64, u64>),
    Cached(bool),
    Done,
}

#[derive(Clone, Debug, Default)]
pub struct Data {
    pub docs: BTreeMap<SessionKey, Slot<DocHash>>,
    pub logs: BTreeMap<SessionKey, LogKeys>,
    pub results: BTreeMap<(SessionKey, String), Slot<Outcome>>,
    pub locks: BTreeMap<String, Slot<Register>>,
    pub meta: BTreeMap<String, Bytes>,
    pub values: BTreeMap<String, Slot<contract::Cached>>,
    pub voided: Slot<contract::Voided>,
}

/// A terminated session is remembered for so long when that is too short, milliseconds.
const TOO_SHORT_MS: u64 = 3_000;

impl Data {
    /// Executes a command; also says whether it has written anything.
    pub fn execute(&mut self, now_ms: u64, command: &Command, mutant: Option<Mutant>) -> (Answer, bool) {
        match command {
            Command::Doc(key, offer) => {
                let slot = self.docs.entry(*key).or_default();
                let answer = match mutant {
                    Some(Mutant::TiesByArrival | Mutant::LateWriteRevives) => {
                        naive_merge(slot, now_ms, offer, mutant)
                    }
                    Some(Mutant::TombstoneTooShort) => {
                        let ended = offer.fields.iter().any(|field| field.name == END);
                        let known = slot.at(now_ms).is_some_and(|doc| doc.contains_key(END));
                        let deadline_ms = match ended || known {
                            true => (now_ms + TOO_SHORT_MS).saturating_sub(contract::DOC_GRACE_MS),
                            false => offer.deadline_ms,
                        };
                        contract::doc_merge(slot, now_ms, &DocOffer { deadline_ms, ..offer.clone() })
                    }
                    _ => contract::doc_merge(slot, now_ms, offer),
                };
                let wrote = matches!(&answer, DocAnswer::Merged { news, .. } if *news > 0);
                (Answer::Doc(answer), wrote)
            }
            Command::Log(key, run) => {
                let log = self.logs.entry(*key).or_default();
                let answer = match mutant {
                    Some(
                        Mutant::MaxWatermark
                        | Mutant::NoTornCheck
                        | Mutant::NoDuplicateCheck
                        | Mutant::BaseIgnored
                        | Mutant::BlindRetry,
                    ) => naive_append(log, now_ms, run, mutant),
                    _ => contract::log_append(log, now_ms, run),
                };
                (Answer::Log(answer), matches!(answer, LogAnswer::Ok(_)))
            }
            Command::LogEnd(key, expires_ms) => {
                let log = self.logs.entry(*key).or_default();
                (Answer::Done, contract::log_end(log, now_ms, *expires_ms))
            }
            Command::Result(key, name, outcome, ttl_ms, again) => {
                let slot = self.results.entry((*key, name.clone())).or_default();
                if mutant == Some(Mutant::ResultLastWins) {
                    slot.clear();
                }
                let reported = contract::result_put(slot, now_ms, outcome, *ttl_ms, *again);
                (Answer::Result(reported), reported == Reported::Ok)
            }
            Command::Lock(name, token, ttl_ms, step, floor) => {
                let slot = self.locks.entry(name.clone()).or_default();
                let before = slot.at(now_ms).copied();
                let taken = contract::lock_take(slot, now_ms * 1_000, *token, *ttl_ms, *step, *floor);
                if mutant == Some(Mutant::FenceWithoutTime)
                    && let Ok(fence) = taken
                    && let Some(held) = slot.at(now_ms)
                    && before.is_none_or(|before| before.fence != fence)
                {
                    held.fence = before.map_or(1, |before| before.fence + 1);
                    return (Answer::Lock(Ok(held.fence)), true);
                }
                (Answer::Lock(taken), taken.is_ok())
            }
            Command::Cache(key, made_ms, value) => {
                let slot = self.values.entry(key.clone()).or_default();
                let until_ms = value.as_ref().map_or(0, |(_, until_ms)| *until_ms);
                let offer = value.clone().map(|(value, _)| contract::Cached { made_ms: *made_ms, value });
                let done = contract::cache_put(slot, now_ms, offer, *made_ms, until_ms);
                (Answer::Cached(done), done)
            }
            Command::Void(voiding) => {
                contract::cache_void(&mut self.voided, now_ms, voiding);
                (Answer::Done, true)
            }
        }
    }
}

/// A merge that does not look at stamps, or lets an ended session be written again.
fn naive_merge(slot: &mut Slot<DocHash>, now_ms: u64, offer: &DocOffer, mutant: Option<Mutant>) -> DocAnswer {
    let ends = offer.fields.iter().any(|field| field.name == END);
    match mutant {
        Some(Mutant::TiesByArrival) if !ends => {
            // What is there gives way, whatever its stamp.
            if let Some(doc) = slot.at(now_ms).filter(|doc| !doc.contains_key(END)) {
                for field in offer.fields.iter().filter(|field| field.name != SEEN) {
                    let same = doc.get(&field.name).is_some_and(|held| held.starts_with(&field.stamp));
                    if !same {
                        doc.remove(&field.name);
                    }
                }
            }
        }
        Some(Mutant::LateWriteRevives) => {
            let newest =
                offer.fields.iter().filter(|field| field.name != SEEN).map(|field| &field.stamp).max();
            let ended = slot.at(now_ms).and_then(|doc| doc.get(END)).and_then(|end| end.get(..Stamp::TEXT));
            if ended.is_some_and(|ended| newest.is_some_and(|newest| &**newest > ended)) && !ends {
                slot.clear();
            }
        }
        _ => {}
    }
    contract::doc_merge(slot, now_ms, offer)
}

/// An append with one check missing.
fn naive_append(log: &mut LogKeys, now_ms: u64, run: &Run, mutant: Option<Mutant>) -> LogAnswer {
    let lacks = |other| mutant == Some(other);
    let marks = log.marks.at(now_ms).cloned().unwrap_or_default();
    let mark = marks.get(&run.origin).map(|(high, _)| *high);
    let last = run.first + run.entries.len() as u64 - 1;
    let torn = log.is_torn(now_ms);
    // The contract takes a run whose first number is the oldest that the caller has: then whatever is asked for follows.
    let lenient = match mark {
        Some(high) if run.first > high + 1 => lacks(Mutant::MaxWatermark),
        None if run.first > run.base => lacks(Mutant::BaseIgnored) || lacks(Mutant::MaxWatermark),
        Some(high) if run.first <= high => lacks(Mutant::NoDuplicateCheck) || lacks(Mutant::BlindRetry),
        _ => false,
    };
    if torn
        && lacks(Mutant::NoTornCheck)
        && let Some(high) = mark.filter(|high| run.first <= high + 1)
    {
        // Marks stay, and what they speak of is gone.
        if last <= high {
            return LogAnswer::Known(high);
        }
        let mut fresh = LogKeys { next_place: log.next_place, ..LogKeys::default() };
        let skip = usize::try_from(high + 1 - run.first).unwrap_or(0);
        let rest = run.entries.iter().skip(skip).cloned().collect();
        let rest = Run { first: high + 1, base: high + 1, entries: rest, ..run.clone() };
        let answer = contract::log_append(&mut fresh, now_ms, &rest);
        if let Some(all) = fresh.marks.at(now_ms) {
            marks.into_iter().for_each(|(origin, mark)| {
                all.entry(origin).or_insert(mark);
            });
        }
        *log = fresh;
        return answer;
    }
    if torn || !lenient {
        return contract::log_append(log, now_ms, run);
    }
    // As a run of an origin of which nothing was known, behind what is there.
    let held: Vec<Entry> = log.entries.at(now_ms).into_iter().flatten().map(|entry| entry.clone()).collect();
    let mut fresh = LogKeys { next_place: log.next_place, ..LogKeys::default() };
    let alone = Run { base: run.first, ..run.clone() };
    contract::log_append(&mut fresh, now_ms, &alone);
    if let Some(entries) = fresh.entries.at(now_ms) {
        held.into_iter().rev().for_each(|entry| entries.push_front(entry));
    }
    if let Some(all) = fresh.marks.at(now_ms) {
        for (origin, mark) in marks {
            let known = all.entry(origin).or_insert(mark);
            if known.0 < mark.0 {
                *known = mark;
            }
        }
    }
    *log = fresh;
    LogAnswer::Ok(last.max(mark.unwrap_or(0)))
}
