//! What the shared store does with what instances send it, as pure machines: the scripts that run inside Redis answer
//! exactly as these do. Scripts are tested against them, and simulations of the shared store are built of them.
//!
//! Each machine is what one key (or, of a log, two keys) holds. Time is passed in: milliseconds, or microseconds where
//! it is a fence, since the epoch, on the shared store's clock. What has expired is gone when it is looked at.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::lock::{Register, Token};
use super::result::{self, Outcome, Reported};
use super::stamp::Stamp;
use crate::base::ids::Origin;
use crate::base::seal::sha256;

/// The field that ends a document: absorbing, the earliest stands.
pub const END: &[u8] = b"~t";
/// The field that says when a document was last used: its stamp's time counts.
pub const SEEN: &[u8] = b"~s";
/// A document is kept so long beyond its time, milliseconds: clocks of instances may differ.
pub const DOC_GRACE_MS: u64 = 60_000;
/// A lock's fence is remembered for so long, milliseconds.
pub const LOCK_KEEP_MS: u64 = 7 * 24 * 3600 * 1000;
/// Digits of the digest in front of every entry of a log.
pub const DIGEST: usize = 8;

/// An answer in the form in which Redis gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A whole number.
    Int(i64),
    /// Bytes.
    Text(Bytes),
    /// A list.
    List(Vec<Reply>),
}

impl Reply {
    fn text(text: impl Into<Bytes>) -> Self {
        Self::Text(text.into())
    }

    fn number(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// Something that goes at a moment.
#[derive(Clone, Debug)]
pub struct Slot<T> {
    held: Option<T>,
    expires_ms: u64,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { held: None, expires_ms: u64::MAX }
    }
}

impl<T> Slot<T> {
    /// What is there at `now_ms`.
    pub fn at(&mut self, now_ms: u64) -> Option<&mut T> {
        if self.expires_ms <= now_ms {
            self.clear();
        }
        self.held.as_mut()
    }

    /// When it goes, milliseconds since the epoch; `None`: there is nothing, or it stays.
    #[must_use]
    pub fn expires_ms(&self) -> Option<u64> {
        self.held.as_ref().and(Some(self.expires_ms)).filter(|at| *at != u64::MAX)
    }

    /// Loses it: evicted, flushed, or never replicated.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn put(&mut self, held: T, expires_ms: u64, now_ms: u64) {
        match expires_ms > now_ms {
            true => *self = Self { held: Some(held), expires_ms },
            false => self.clear(),
        }
    }
}

/// A field that is offered to a document, as it is sent.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its name.
    pub name: Bytes,
    /// The text of its stamp.
    pub stamp: Bytes,
    /// Its value.
    pub value: Bytes,
}

impl Offer {
    /// A field with a stamp.
    #[must_use]
    pub fn new(name: impl Into<Bytes>, stamp: Stamp, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), stamp: Bytes::from(stamp.to_string()), value: value.into() }
    }
}

/// Fields that are offered together (`doc_merge`).
#[derive(Clone, Debug)]
pub struct DocOffer {
    /// The fields.
    pub fields: Vec<Offer>,
    /// How far a stamp may be ahead of the shared clock, milliseconds.
    pub ahead_ms: u64,
    /// The document goes after so long without use, milliseconds.
    pub idle_ms: u64,
    /// It goes then in any case, milliseconds since the epoch.
    pub deadline_ms: u64,
}

/// What became of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocAnswer {
    /// Joined.
    Merged {
        /// The document is ended.
        ended: bool,
        /// How many fields were news.
        news: u64,
        /// All of it, by name: the text of the stamp, then the value.
        fields: Vec<(Bytes, Bytes)>,
    },
    /// A stamp is too far ahead of this time.
    Skew(u64),
    /// This field has the same stamp with another value.
    Fork(Bytes),
    /// The stamp of this field is none.
    BadStamp(Bytes),
}

impl DocAnswer {
    /// As Redis says it, fields by name.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let pair = |word: &'static str, what: Bytes| Reply::List(vec![Reply::text(word), Reply::Text(what)]);
        match self {
            Self::Merged { ended, news, fields } => Reply::List(vec![
                Reply::text(if *ended { "DEAD" } else { "OK" }),
                Reply::number(*news),
                Reply::List(
                    fields.iter().flat_map(|(name, kept)| [name, kept]).cloned().map(Reply::Text).collect(),
                ),
            ]),
            Self::Skew(now_ms) => pair("SKEW", now_ms.to_string().into()),
            Self::Fork(name) => pair("FORK", name.clone()),
            Self::BadStamp(name) => pair("BADSTAMP", name.clone()),
        }
    }
}

/// A document: by name the text of the stamp, then the value.
pub type DocHash = BTreeMap<Bytes, Bytes>;

/// `doc_merge`: joins fields into a document.
pub fn doc_merge(slot: &mut Slot<DocHash>, now_ms: u64, offer: &DocOffer) -> DocAnswer {
    for field in &offer.fields {
        match stamp_ms(&field.stamp) {
            None => return DocAnswer::BadStamp(field.name.clone()),
            Some(ms) if ms > now_ms.saturating_add(offer.ahead_ms) => return DocAnswer::Skew(now_ms),
            Some(_) => {}
        }
    }
    let mut doc = slot.at(now_ms).map(|doc| doc.clone()).unwrap_or_default();
    let mut dead = doc.get(END).cloned();
    let (mut killed, mut new) = (false, DocHash::new());
    for Offer { name, stamp, value } in &offer.fields {
        let joined = || {
            let mut bytes = BytesMut::with_capacity(stamp.len() + value.len());
            bytes.extend_from_slice(stamp);
            bytes.extend_from_slice(value);
            bytes.freeze()
        };
        if name.as_ref() == END {
            if dead.as_ref().is_none_or(|dead| stamp.as_ref() < stamp_of(dead)) {
                dead = Some(joined());
                killed = true;
            }
        } else if dead.is_none() {
            let current = new.get(name).or_else(|| doc.get(name));
            match current {
                Some(kept) if stamp.as_ref() < stamp_of(kept) => {}
                Some(kept) if stamp.as_ref() == stamp_of(kept) => {
                    if kept.get(Stamp::TEXT..) != Some(value.as_ref()) {
                        return DocAnswer::Fork(name.clone());
                    }
                }
                _ => drop(new.insert(name.clone(), joined())),
            }
        }
    }
    let mut goes_ms = offer.deadline_ms;
    let (ended, news) = match dead {
        Some(dead) => {
            doc = DocHash::from([(Bytes::from_static(END), dead)]);
            (true, u64::from(killed))
        }
        None => {
            let news = new.len() as u64;
            doc.append(&mut new);
            let seen_ms = doc.get(SEEN).and_then(|seen| stamp_ms(stamp_of(seen))).unwrap_or(now_ms);
            goes_ms = goes_ms.min(seen_ms.saturating_add(offer.idle_ms));
            (false, news)
        }
    };
    let fields = doc.iter().map(|(name, kept)| (name.clone(), kept.clone())).collect();
    if doc.is_empty() {
        slot.clear();
    } else {
        slot.put(doc, goes_ms.saturating_add(DOC_GRACE_MS), now_ms);
    }
    DocAnswer::Merged { ended, news, fields }
}

fn stamp_of(kept: &[u8]) -> &[u8] {
    kept.get(..Stamp::TEXT).unwrap_or(kept)
}

fn stamp_ms(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok().and_then(Stamp::parse).map(Stamp::ms)
}

/// What tells two entries of the same number apart: the first digits of the SHA-256, lower-case hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> [u8; DIGEST] {
    let mut text = [0; DIGEST];
    let hash = sha256(bytes);
    for (pair, byte) in text.chunks_exact_mut(2).zip(hash) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        }
    }
    text
}

/// A run of entries of one origin (`log_append`).
#[derive(Clone, Debug)]
pub struct Run {
    /// Whose.
    pub origin: Origin,
    /// The number of the first one.
    pub first: u64,
    /// The oldest number that the caller could supply.
    pub base: u64,
    /// Entries that are kept of the log.
    pub keep: usize,
    /// The log goes then, milliseconds since the epoch.
    pub expires_ms: u64,
    /// The entries.
    pub entries: Vec<Bytes>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogAnswer {
    /// All are there now, up to this number.
    Ok(u64),
    /// All were there; this is the highest number.
    Known(u64),
    /// What is behind this number is missing.
    Gap(u64),
    /// The entry of this number is another one.
    Fork(u64),
}

impl LogAnswer {
    /// As Redis says it.
    #[must_use]
    pub fn reply(self) -> Reply {
        let (word, number) = match self {
            Self::Ok(number) => ("OK", number),
            Self::Known(number) => ("DUP", number),
            Self::Gap(number) => ("GAP", number),
            Self::Fork(number) => ("FORK", number),
        };
        Reply::List(vec![Reply::text(word), Reply::number(number)])
    }
}

/// An entry as it lies in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place, which only this log understands.
    pub place: u64,
    /// Whose it is.
    pub origin: Origin,
    /// Its number.
    pub number: u64,
    /// Its content.
    pub bytes: Bytes,
}

/// A log: the two keys of it.
#[derive(Clone, Debug, Default)]
pub struct LogKeys {
    /// Its entries. Faults may clear it alone.
    pub entries: Slot<VecDeque<Entry>>,
    /// By origin the highest number and the digest of that entry. Faults may clear it alone.
    pub marks: Slot<BTreeMap<Origin, (u64, [u8; DIGEST])>>,
    /// The session has ended: this is all that is left. Faults may clear it.
    pub over: Slot<()>,
    /// The place of the next entry. Another primary gives places anew: a fault may lower it.
    pub next_place: u64,
}

/// `log_end`: lets a log go; nothing is appended to it any more. True if that changed anything.
pub fn log_end(log: &mut LogKeys, now_ms: u64, expires_ms: u64) -> bool {
    if log.over.at(now_ms).is_some() {
        return false;
    }
    log.entries.clear();
    log.marks.clear();
    log.over.put((), expires_ms, now_ms);
    true
}

/// `log_append`: appends a run.
pub fn log_append(log: &mut LogKeys, now_ms: u64, run: &Run) -> LogAnswer {
    if log.over.at(now_ms).is_some() {
        // As if all of it were there: nobody owes it any more.
        return LogAnswer::Known((run.first + run.entries.len() as u64).saturating_sub(1));
    }
    let torn = log.is_torn(now_ms);
    let mut marks = if torn { BTreeMap::new() } else { log.marks.at(now_ms).cloned().unwrap_or_default() };
    let count = run.entries.len() as u64;
    let mark = marks.get(&run.origin).copied();
    let mut skip = 0;
    match mark {
        // What is older than the oldest number that a caller can supply is trimmed everywhere: the hole stays, and
        // readers see it.
        Some((high, _)) if run.first > high.saturating_add(1) && run.first > run.base => {
            return LogAnswer::Gap(high);
        }
        None if run.first > run.base => return LogAnswer::Gap(run.base.saturating_sub(1)),
        Some((high, held)) if run.first <= high => {
            let last = usize::try_from(high - run.first).ok().and_then(|at| run.entries.get(at));
            if last.is_some_and(|last| digest(last) != held) {
                return LogAnswer::Fork(high);
            }
            skip = high - run.first + 1;
            if skip >= count {
                return LogAnswer::Known(high);
            }
        }
        _ => {}
    }
    if count == 0 {
        return LogAnswer::Known(mark.map_or(0, |(high, _)| high));
    }
    let mut entries =
        if torn { VecDeque::new() } else { log.entries.at(now_ms).cloned().unwrap_or_default() };
    let mut mark = (0, [0; DIGEST]);
    for (number, bytes) in (run.first..).zip(&run.entries).skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
        log.next_place += 1;
        entries.push_back(Entry { place: log.next_place, origin: run.origin, number, bytes: bytes.clone() });
        mark = (number, digest(bytes));
    }
    while entries.len() > run.keep {
        entries.pop_front();
    }
    marks.insert(run.origin, mark);
    log.entries.put(entries, run.expires_ms, now_ms);
    log.marks.put(marks, run.expires_ms, now_ms);
    LogAnswer::Ok(mark.0)
}

/// `log_read`: marks and entries at one moment, the latter from behind a known one when it is still there, else all.
pub fn log_read(log: &mut LogKeys, now_ms: u64, behind: Option<(u64, Origin, u64)>) -> LogContent {
    if log.is_torn(now_ms) {
        return LogContent::default();
    }
    let marks = log.marks.at(now_ms).cloned().unwrap_or_default();
    let entries = log.entries.at(now_ms);
    let entries = entries.map(|entries| {
        let known = |entry: &&Entry| behind == Some((entry.place, entry.origin, entry.number));
        let from = entries.iter().find(known).map_or(0, |entry| entry.place + 1);
        entries.iter().filter(|entry| entry.place >= from).cloned().collect()
    });
    LogContent {
        marks: marks.into_iter().map(|(origin, (high, digest))| (origin, high, digest)).collect(),
        entries: entries.unwrap_or_default(),
    }
}

impl LogKeys {
    /// Whether one of the two keys is there without the other.
    pub fn is_torn(&mut self, now_ms: u64) -> bool {
        self.entries.at(now_ms).is_some() != self.marks.at(now_ms).is_some()
    }
}

/// What is in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogContent {
    /// By origin the highest number and the digest of that entry.
    pub marks: Vec<(Origin, u64, [u8; DIGEST])>,
    /// The entries.
    pub entries: Vec<Entry>,
}

impl LogContent {
    /// As Redis says it: marks by the text of the origin, and places as `place_text` writes them.
    #[must_use]
    pub fn reply(&self, place_text: impl Fn(u64) -> String) -> Reply {
        let mut marks: Vec<(String, String)> = self
            .marks
            .iter()
            .map(|(origin, high, digest)| {
                (origin.to_string(), format!("{high}:{}", String::from_utf8_lossy(digest)))
            })
            .collect();
        marks.sort();
        let entry = |entry: &Entry| {
            let mut bytes = BytesMut::from(digest(&entry.bytes).as_slice());
            bytes.extend_from_slice(&entry.bytes);
            let parts = [
                Reply::text("o"),
                Reply::text(entry.origin.to_string()),
                Reply::text("q"),
                Reply::text(entry.number.to_string()),
                Reply::text("p"),
                Reply::Text(bytes.freeze()),
            ];
            Reply::List(vec![Reply::text(place_text(entry.place)), Reply::List(parts.into())])
        };
        Reply::List(vec![
            Reply::List(marks.into_iter().flat_map(|(a, b)| [Reply::text(a), Reply::text(b)]).collect()),
            Reply::List(self.entries.iter().map(entry).collect()),
        ])
    }
}

/// `result_put`: reports on a result that is kept for `ttl_ms`. `again`: it was taken before, and is put back if it is
/// terminal.
pub fn result_put(
    slot: &mut Slot<Outcome>,
    now_ms: u64,
    outcome: &Outcome,
    ttl_ms: u64,
    again: bool,
) -> Reported {
    let standing = slot.at(now_ms).map(|held| (held.fence, held.rev, held.rank));
    let reported = match result::report(standing, outcome.fence, outcome.rev) {
        Reported::Stale { .. } if again && outcome.rank >= result::TERMINAL => Reported::Ok,
        reported => reported,
    };
    if reported == Reported::Ok {
        slot.put(outcome.clone(), now_ms.saturating_add(ttl_ms), now_ms);
    }
    reported
}

/// As Redis says what became of a report.
#[must_use]
pub fn result_reply(reported: Reported, outcome: &Outcome) -> Reply {
    let (word, fence, rev) = match reported {
        Reported::Ok => ("OK", outcome.fence, outcome.rev),
        Reported::Stale { fence, rev } => ("STALE", fence, rev),
        Reported::Final { fence, rev } => ("FINAL", fence, rev),
    };
    Reply::List(vec![Reply::text(word), Reply::text(fence.to_string()), Reply::text(rev.to_string())])
}

/// A step on a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take it, or hold it longer.
    Take,
    /// Hold it longer.
    Renew,
    /// Let it go.
    Drop,
}

impl Step {
    /// Its name in the script.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Renew => "renew",
            Self::Drop => "drop",
        }
    }
}

/// `lock_take`: a step on a lock; its fence, or how long somebody else still has, milliseconds. A new fence is above the
/// last one, and neither below the time nor below `floor`.
///
/// # Errors
/// Who does not hold it learns how long somebody else still does; 0: nobody does.
pub fn lock_take(
    slot: &mut Slot<Register>,
    now_us: u64,
    token: Token,
    ttl_ms: u64,
    step: Step,
    floor: u64,
) -> Result<u64, u64> {
    let now_ms = now_us / 1000;
    let held = slot.at(now_ms).copied();
    let next = match (step, held) {
        (Step::Take, held) => Register::take(held.as_ref(), token, ttl_ms, now_ms, now_us.max(floor)),
        (Step::Renew, Some(held)) => held.renew(token, ttl_ms, now_ms),
        (Step::Drop, Some(held)) => held.release(token, now_ms),
        (Step::Renew | Step::Drop, None) => return Err(0),
    };
    let next = next.map_err(|refused| refused.left_ms)?;
    slot.put(next, now_ms.saturating_add(LOCK_KEEP_MS), now_ms);
    Ok(next.fence)
}

/// As Redis says it.
#[must_use]
pub fn lock_reply(taken: Result<u64, u64>) -> Reply {
    let (done, number) = match taken {
        Ok(fence) => (1, fence),
        Err(left_ms) => (0, left_ms),
    };
    Reply::List(vec![Reply::Int(done), Reply::number(number)])
}

/// `lock_look`: the fence that was given last, 0 where none is known, and how long its holder still has, milliseconds.
#[must_use]
pub fn lock_look(slot: &mut Slot<Register>, now_us: u64) -> (u64, u64) {
    let now_ms = now_us / 1000;
    slot.at(now_ms).map_or((0, 0), |held| (held.fence, held.left_ms(now_ms)))
}

/// As Redis says it.
#[must_use]
pub fn look_reply((fence, left_ms): (u64, u64)) -> Reply {
    Reply::List(vec![Reply::number(fence), Reply::number(left_ms)])
}

/// A cached value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// When it was made, in milliseconds since the epoch: what was made last stands.
    pub made_ms: u64,
    /// What it is.
    pub value: Bytes,
}

/// A value that is offered to the cache, or what was made up to then is forgotten (`cache_put`). Whether anything was
/// done. An empty value is none.
pub fn cache_put(
    slot: &mut Slot<Cached>,
    now_ms: u64,
    offer: Option<Cached>,
    made_ms: u64,
    until_ms: u64,
) -> bool {
    let standing = slot.at(now_ms).map(|held| held.made_ms);
    match offer {
        None => {
            let goes = standing.is_some_and(|standing| standing <= made_ms);
            if goes {
                slot.clear();
            }
            goes
        }
        Some(_) if standing.is_some_and(|standing| standing >= made_ms) || until_ms <= now_ms => false,
        Some(offer) => {
            slot.put(offer, until_ms, now_ms);
            true
        }
    }
}

/// What was voided of the cache, and when, in numbers of a counting of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voided {
    /// Which counting this is: numbers of two countings say nothing of each other.
    pub counting: Bytes,
    /// The last number.
    pub last: u64,
    /// Up to this one all tags count as voided.
    pub floor: u64,
    /// The number of each tag's last voiding.
    pub tags: BTreeMap<Bytes, u64>,
}

/// Tags that are voided (`cache_void`); of none, only that a counting begins unless there is one.
#[derive(Clone, Debug)]
pub struct Voiding {
    /// The name of the counting, if one begins now.
    pub counting: Bytes,
    /// So many tags are remembered.
    pub most: usize,
    /// For so long, milliseconds.
    pub ttl_ms: u64,
    /// Which.
    pub tags: Vec<Bytes>,
}

/// Voids. The counting and its last number.
pub fn cache_void(slot: &mut Slot<Voided>, now_ms: u64, voiding: &Voiding) -> (Bytes, u64) {
    let begins = || Voided { counting: voiding.counting.clone(), ..Voided::default() };
    let mut next = slot.at(now_ms).cloned().unwrap_or_else(begins);
    if !voiding.tags.is_empty() {
        next.last += 1;
        next.tags.extend(voiding.tags.iter().map(|tag| (tag.clone(), next.last)));
        if next.tags.len() > voiding.most {
            next.tags.clear();
            next.floor = next.last;
        }
    }
    let answer = (next.counting.clone(), next.last);
    slot.put(next, now_ms.saturating_add(voiding.ttl_ms), now_ms);
    answer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    fn offers() -> impl Strategy<Value = Vec<DocOffer>> {
        let field = (0_u8..5, 0_u64..4, 0_u16..2, 0_u64..3).prop_map(|(name, ms, counter, who)| {
            let name = [&b"a"[..], b"b", b"c", SEEN, END][usize::from(name)];
            let stamp = Stamp::new(NOW + ms, counter, Origin::from_bits(who));
            // One stamp has one value, as with writers that were not cloned.
            Offer::new(name, stamp, format!("{stamp}{}", String::from_utf8_lossy(name)))
        });
        let offer = proptest::collection::vec(field, 0..6).prop_map(|fields| DocOffer {
            fields,
            ahead_ms: 60_000,
            idle_ms: 1_000_000,
            deadline_ms: NOW + 10_000_000,
        });
        proptest::collection::vec(offer, 0..6)
    }

    fn all(offers: &[DocOffer], order: impl Iterator<Item = usize>) -> DocHash {
        let mut slot = Slot::default();
        for at in order {
            doc_merge(&mut slot, NOW, &offers[at]);
        }
        slot.at(NOW).cloned().unwrap_or_default()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn documents_are_the_same_whatever_the_order_and_repetition(offers in offers()) {
            let forward = all(&offers, 0..offers.len());
            prop_assert_eq!(&forward, &all(&offers, (0..offers.len()).rev()));
            prop_assert_eq!(&forward, &all(&offers, (0..offers.len()).chain(0..offers.len())));
        }

        #[test]
        fn a_log_has_every_number_once_and_in_order(
            steps in proptest::collection::vec((0_u64..3, 1_u64..12, 1_usize..5, any::<bool>()), 1..40)
        ) {
            let mut log = LogKeys::default();
            for (who, first, count, lose) in steps {
                if lose {
                    log.marks.clear();
                }
                let entries = (first..).take(count).map(|n| Bytes::from(format!("{who}:{n}"))).collect();
                let origin = Origin::from_bits(who);
                let run = Run { origin, first, base: 1, keep: 100, expires_ms: NOW + 1, entries };
                let answer = log_append(&mut log, NOW, &run);
                prop_assert!(!matches!(answer, LogAnswer::Fork(_)));
                let content = log_read(&mut log, NOW, None);
                for (origin, high, _) in &content.marks {
                    let numbers: Vec<u64> =
                        content.entries.iter().filter(|e| e.origin == *origin).map(|e| e.number).collect();
                    prop_assert_eq!(numbers, (1..=*high).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn of_two_cached_values_the_later_one_stands_whatever_comes_first() {
        let cached = |made_ms: u64| Cached { made_ms, value: Bytes::from(format!("v{made_ms}")) };
        for order in [[5, 7], [7, 5]] {
            let mut slot = Slot::default();
            for made_ms in order {
                cache_put(&mut slot, NOW, Some(cached(made_ms)), made_ms, NOW + 10);
            }
            assert_eq!(slot.at(NOW), Some(&mut cached(7)));
            assert!(!cache_put(&mut slot, NOW, None, 6, 0));
            assert!(!cache_put(&mut slot, NOW, Some(cached(9)), 9, NOW));
            assert!(cache_put(&mut slot, NOW, None, 7, 0));
            assert_eq!(slot.at(NOW), None);
        }
    }

    #[test]
    fn what_is_known_of_voided_tags_is_bounded_and_errs_towards_voided() {
        let mut slot = Slot::default();
        let voiding = |tags: &[&'static str]| Voiding {
            counting: Bytes::from_static(b"c"),
            most: 2,
            ttl_ms: 1_000,
            tags: tags.iter().map(|tag| Bytes::from_static(tag.as_bytes())).collect(),
        };
        assert_eq!(cache_void(&mut slot, NOW, &voiding(&[])), ("c".into(), 0));
        assert_eq!(cache_void(&mut slot, NOW, &voiding(&["a", "b"])), ("c".into(), 1));
        assert_eq!(cache_void(&mut slot, NOW, &voiding(&["a"])), ("c".into(), 2));
        assert_eq!(slot.at(NOW).unwrap().tags, BTreeMap::from([("a".into(), 2), ("b".into(), 1)]));
        assert_eq!(cache_void(&mut slot, NOW, &voiding(&["x"])), ("c".into(), 3));
        let held = slot.at(NOW).unwrap();
        assert_eq!((held.floor, held.tags.len()), (3, 0));
    }

    #[test]
    fn a_cloned_writer_is_found_out() {
        let stamp = Stamp::new(NOW, 0, Origin::from_bits(1));
        let offer = |value: &'static str| DocOffer {
            fields: vec![Offer::new("a", stamp, value)],
            ahead_ms: 0,
            idle_ms: 1000,
            deadline_ms: NOW + 1000,
        };
        let mut slot = Slot::default();
        assert!(matches!(doc_merge(&mut slot, NOW, &offer("x")), DocAnswer::Merged { news: 1, .. }));
        assert_eq!(doc_merge(&mut slot, NOW, &offer("y")), DocAnswer::Fork("a".into()));
        let mut log = LogKeys::default();
        let run = |text: &'static str| Run {
            origin: Origin::from_bits(1),
            first: 1,
            base: 1,
            keep: 10,
            expires_ms: NOW + 1000,
            entries: vec![Bytes::from(text)],
        };
        assert_eq!(log_append(&mut log, NOW, &run("x")), LogAnswer::Ok(1));
        assert_eq!(log_append(&mut log, NOW, &run("x")), LogAnswer::Known(1));
        assert_eq!(log_append(&mut log, NOW, &run("y")), LogAnswer::Fork(1));
    }

    #[test]
    fn fences_rise_when_the_lock_is_forgotten() {
        let (mut slot, token) = (Slot::default(), Token::from_bytes([1; 16]));
        let first = lock_take(&mut slot, NOW * 1000, token, 10, Step::Take, 0).unwrap();
        assert_eq!(lock_look(&mut slot, NOW * 1000 + 4_000), (first, 6));
        slot.clear();
        assert_eq!(lock_look(&mut slot, NOW * 1000), (0, 0));
        assert!(lock_take(&mut slot, NOW * 1000 + 5, token, 10, Step::Take, 0).unwrap() > first);
        assert_eq!(lock_take(&mut slot, NOW * 1000, Token::from_bytes([2; 16]), 10, Step::Take, 0), Err(10));
        slot.clear();
        // Whoever knows of a later one from elsewhere gets one above it.
        assert_eq!(lock_take(&mut slot, NOW, token, 10, Step::Take, first + 7), Ok(first + 7));
    }
}
