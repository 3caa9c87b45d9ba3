//! `log_append`, `log_read` and `log_end`: the log of a session, in two keys.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::{Reply, Slot};
use crate::base::ids::Origin;
use crate::base::seal::sha256;

/// Digits of the digest in front of every entry of a log.
pub const DIGEST: usize = 8;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

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
    fn a_cloned_writer_is_found_out() {
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
}
