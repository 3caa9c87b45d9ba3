//! The log against a model that keeps everything: no entry is delivered twice, none is lost without a word.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use outlast::base::ids::Origin;
use outlast::base::limits::{LOG_ORIGINS, MAX_CURSOR_PAIRS};
use outlast::state::cursor::EventId;
use outlast::state::log::{Cut, Entry, Kind, Log, Position, Refused, Retention, StreamName};
use proptest::prelude::*;

const OWN: u64 = 0;

#[derive(Clone, Debug)]
enum Step {
    /// This process writes to a stream.
    Append { stream: u8, len: u8 },
    /// An entry of another origin comes: this far from the next one that is due.
    Union { origin: u8, stream: u8, off: i8, forged: bool },
    /// The disk has everything up to this part of what was written, in percent.
    Durable(u8),
    /// The log is cut.
    Trim { entries: u8, bytes: u16, age: u8 },
    /// A reader takes at most so many.
    Take { reader: u8, max: u8 },
    /// A reader comes back with the event id it was given.
    Resume(u8),
    /// The log is written down and read again, as a restart does.
    Reload,
    /// Time passes.
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..3, 0_u8..100).prop_map(|(stream, len)| Step::Append { stream, len }),
        6 => (1_u8..4, 0_u8..3, prop_oneof![6 => Just(0_i8), 1 => -3_i8..3], proptest::bool::weighted(0.1))
            .prop_map(|(origin, stream, off, forged)| Step::Union { origin, stream, off, forged }),
        3 => (0_u8..=100).prop_map(Step::Durable),
        2 => (0_u8..20, 0_u16..3_000, 0_u8..60)
            .prop_map(|(entries, bytes, age)| Step::Trim { entries, bytes, age }),
        6 => (0_u8..3, 0_u8..6).prop_map(|(reader, max)| Step::Take { reader, max }),
        1 => (0_u8..3).prop_map(Step::Resume),
        1 => Just(Step::Reload),
        2 => (0_u8..20).prop_map(Step::Wait),
    ]
}

fn stream(number: u8) -> StreamName {
    StreamName::parse(["g", "aa", "bb"][usize::from(number)]).unwrap()
}

/// What [`Log::visit_owed`] shows.
struct Owed {
    entries: Vec<Entry>,
    gap: bool,
}

fn take_owed(
    log: &Log,
    stream: StreamName,
    at: &mut Position,
    own: Origin,
    durable: u64,
    max: usize,
) -> Owed {
    let mut entries = Vec::new();
    let gap = log.visit_owed(stream, at, own, durable, max, |entry, seen| {
        assert_eq!(seen.seen(entry.origin), entry.seq, "the event id of an entry has seen it");
        entries.push(entry.clone());
    });
    Owed { entries, gap }
}

#[derive(Default)]
struct Reader {
    at: Position,
    delivered: BTreeSet<(Origin, u64)>,
    /// Up to here entries may have been lost, and the reader was told.
    excused: BTreeMap<Origin, u64>,
}

struct Model {
    /// Everything that was ever written, by origin.
    all: BTreeMap<Origin, Vec<Entry>>,
    /// The lowest number of each origin that is retained.
    base: BTreeMap<Origin, u64>,
    /// Up to this number of each origin a log that was read again cannot know whose the entries were.
    loose: BTreeMap<Origin, u64>,
    durable: u64,
    now: u64,
    log: Log,
    /// Reader n reads stream n.
    readers: [Reader; 3],
}

impl Model {
    fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            base: BTreeMap::new(),
            loose: BTreeMap::new(),
            durable: 0,
            now: 1_000,
            log: Log::default(),
            readers: Default::default(),
        }
    }

    fn base(&self, origin: Origin) -> u64 {
        self.base.get(&origin).copied().unwrap_or(1)
    }

    fn retained(&self) -> impl Iterator<Item = &Entry> {
        self.all.iter().flat_map(|(origin, run)| run.iter().skip(self.base(*origin) as usize - 1))
    }

    fn apply(&mut self, step: Step) {
        let own = Origin::from_bits(OWN);
        match step {
            Step::Append { stream: number, len } => {
                let payload = Bytes::from(vec![number; usize::from(len)]);
                let entry = self.log.append(own, Kind::Message, stream(number), payload, self.now);
                let run = self.all.entry(own).or_default();
                assert_eq!(entry.seq, run.len() as u64 + 1);
                run.push(entry);
            }
            Step::Union { origin, stream: number, off, forged } => self.union(origin, number, off, forged),
            Step::Durable(percent) => {
                let written = self.all.get(&own).map_or(0, Vec::len) as u64;
                self.durable = self.durable.max(written * u64::from(percent) / 100);
            }
            Step::Trim { entries, bytes, age } => self.trim(entries, bytes, age),
            Step::Take { reader, max } => {
                self.take(usize::from(reader), usize::from(max));
            }
            Step::Resume(reader) => {
                let reader = &mut self.readers[usize::from(reader)];
                let id = reader.at.seen.event_id(StreamName::GET);
                reader.at = Position::at(EventId::parse(&id).unwrap().cursor);
            }
            Step::Reload => {
                let mut log = Log::default();
                for (origin, base, _) in self.log.marks() {
                    self.loose.insert(origin, base - 1);
                    log.note_mark(origin, base - 1);
                }
                for entry in self.log.entries() {
                    assert_eq!(log.union(entry.clone()), Ok(true));
                }
                self.log = log;
            }
            Step::Wait(ms) => self.now += u64::from(ms),
        }
        self.check();
    }

    fn union(&mut self, origin: u8, number: u8, off: i8, forged: bool) {
        let origin = Origin::from_bits(u64::from(origin));
        let run = self.all.entry(origin).or_default();
        let next = run.len() as u64 + 1;
        let Some(seq) = next.checked_add_signed(i64::from(off)).filter(|seq| *seq > 0) else { return };
        let held = run.get(seq as usize - 1).cloned();
        let mut entry = held.clone().unwrap_or(Entry {
            origin,
            seq,
            at_ms: self.now,
            kind: Kind::Message,
            stream: stream(number),
            payload: Bytes::from_static(b"x"),
        });
        if held.is_some() && forged {
            entry.payload = Bytes::from_static(b"forged");
        }
        let first = next == 1;
        let retained = self.base.get(&origin).copied().unwrap_or(1) <= seq;
        match self.log.union(entry.clone()) {
            Ok(true) => {
                assert!(seq == next || first, "{seq} after {}", next - 1);
                if first {
                    // The first entry of an origin says where its run begins.
                    self.base.insert(origin, seq);
                    self.loose.insert(origin, seq - 1);
                    run.extend((1..seq).map(|seq| Entry { seq, ..entry.clone() }));
                }
                run.push(entry);
            }
            Ok(false) => assert!(held.is_some() && (!forged || !retained)),
            Err(Refused::Gap(hw)) => assert!(!first && seq > next && hw == next - 1),
            Err(Refused::Fork(hw)) => assert!(forged && retained && held.is_some() && hw == next - 1),
        }
    }

    fn trim(&mut self, entries: u8, bytes: u16, age: u8) {
        let keep =
            Retention { entries: usize::from(entries), bytes: usize::from(bytes), age_ms: u64::from(age) };
        let before: Vec<Entry> = self.retained().cloned().collect();
        for Cut { origin, base, get } in self.log.trim(keep, self.now, None) {
            let gone = &self.all[&origin][..base as usize - 1];
            let of_get = gone.iter().rev().find(|entry| entry.stream == StreamName::GET);
            assert!(get >= of_get.map_or(0, |entry| entry.seq) && get < base);
            assert!(base > self.base(origin), "a run that is named has lost something");
            self.base.insert(origin, base);
        }
        let kept: Vec<&Entry> = self.retained().collect();
        assert!(kept.len() <= keep.entries);
        assert!(kept.iter().map(|entry| entry.cost()).sum::<usize>() <= keep.bytes);
        assert!(kept.iter().all(|entry| entry.at_ms + keep.age_ms > self.now));
        // Nothing goes without need: with the last one that went the log would have been too big or too old.
        let newest_gone = before.iter().filter(|entry| !kept.contains(entry)).map(|entry| entry.at_ms).max();
        let oldest_kept = kept.iter().map(|entry| entry.at_ms).min();
        if let (Some(gone), Some(kept)) = (newest_gone, oldest_kept) {
            assert!(gone <= kept, "the oldest go first");
        }
    }

    fn take(&mut self, number: usize, max: usize) -> usize {
        let (own, name) = (Origin::from_bits(OWN), stream(number as u8));
        let bases: BTreeMap<Origin, u64> =
            self.all.keys().map(|origin| (*origin, self.base(*origin))).collect();
        let reader = &mut self.readers[number];
        let seen = |origin: &Origin| reader.at.seen.seen(*origin).max(reader.at.scanned.seen(*origin));
        let passed: Vec<(Origin, u64)> = bases
            .iter()
            .filter(|(origin, base)| seen(origin) + 1 < **base)
            .map(|(origin, base)| (*origin, base - 1))
            .collect();
        let lost = passed.iter().any(|(origin, up_to)| {
            let gone = &self.all[origin][seen(origin) as usize..*up_to as usize];
            gone.iter().any(|entry| entry.stream == name)
        });
        let unsure =
            passed.iter().any(|(origin, _)| seen(origin) < self.loose.get(origin).copied().unwrap_or(0));
        let before = reader.at.seen.clone();
        let owed = take_owed(&self.log, name, &mut reader.at, own, self.durable, max);
        assert!(owed.gap || !lost, "a loss is told");
        assert!(!owed.gap || lost || unsure, "a loss that was none is not told");
        if owed.gap {
            reader.excused.extend(passed);
        }
        assert!(owed.entries.len() <= max);
        let mut last: BTreeMap<Origin, u64> = BTreeMap::new();
        for entry in &owed.entries {
            assert_eq!(entry.stream, name);
            assert_eq!(entry, &self.all[&entry.origin][entry.seq as usize - 1]);
            assert!(
                entry.seq > before.seen(entry.origin).max(last.insert(entry.origin, entry.seq).unwrap_or(0))
            );
            assert!(entry.origin != own || entry.seq <= self.durable, "only what the disk has");
            assert!(entry.seq >= bases[&entry.origin]);
            assert!(reader.delivered.insert((entry.origin, entry.seq)), "{entry:?} twice");
        }
        owed.entries.len()
    }

    fn check(&self) {
        assert_eq!(self.log.len(), self.retained().count());
        assert_eq!(self.log.is_empty(), self.retained().next().is_none());
        assert_eq!(self.log.bytes(), self.retained().map(Entry::cost).sum::<usize>());
        for (origin, run) in &self.all {
            assert_eq!(self.log.high_water(*origin), run.len() as u64);
        }
    }

    /// Every reader takes all there is: then everything of its stream was delivered or its loss was told.
    fn drain(&mut self) {
        self.durable = self.all.get(&Origin::from_bits(OWN)).map_or(0, Vec::len) as u64;
        for number in 0..3 {
            while self.take(number, 3) > 0 {}
            let reader = &self.readers[number];
            let mine = self.all.values().flatten().filter(|entry| entry.stream == stream(number as u8));
            for entry in mine {
                let excused = reader.excused.get(&entry.origin).is_some_and(|up_to| entry.seq <= *up_to);
                let delivered = reader.delivered.contains(&(entry.origin, entry.seq));
                assert!(delivered || excused, "{entry:?} is lost");
            }
            assert_eq!(self.take(number, 9), 0);
        }
    }
}

proptest! {
    #![proptest_config(super::cases(10_000))]

    #[test]
    fn every_entry_is_delivered_once_or_its_loss_is_told(steps in proptest::collection::vec(step(), 1..80)) {
        let mut model = Model::new();
        for step in steps {
            model.apply(step);
        }
        model.drain();
    }
}

#[test]
fn a_log_of_many_process_starts_is_read_once_and_resumed_without_repeats() {
    let mut log = Log::default();
    let count = 3 * MAX_CURSOR_PAIRS as u64;
    for start in 1..=count {
        log.append(Origin::from_bits(start), Kind::Message, StreamName::GET, Bytes::new(), start);
    }
    let (own, mut at) = (Origin::from_bits(count), Position::default());
    assert_eq!(take_owed(&log, StreamName::GET, &mut at, own, 1, 1_000).entries.len(), count as usize);
    assert!(take_owed(&log, StreamName::GET, &mut at, own, 1, 1_000).entries.is_empty());

    let keep = Retention { entries: 1_000, bytes: 1 << 20, age_ms: 1 << 40 };
    let cut = log.trim(keep, count, None);
    assert_eq!(
        cut.len(),
        count as usize - LOG_ORIGINS,
        "of more origins than it has room for, the oldest go"
    );
    let resumed = EventId::parse(&at.seen.event_id(StreamName::GET)).unwrap().cursor;
    assert!(take_owed(&log, StreamName::GET, &mut Position::at(resumed), own, 1, 1_000).entries.is_empty());
}

#[test]
fn nothing_follows_the_end_of_a_stream() {
    let (own, name) = (Origin::from_bits(1), StreamName::parse("aa").unwrap());
    let mut log = Log::default();
    log.append(own, Kind::Open, name, Bytes::new(), 1);
    log.append(own, Kind::Final, name, Bytes::new(), 1);
    log.append(own, Kind::Message, StreamName::GET, Bytes::new(), 1);
    let mut at = Position::default();
    let owed = take_owed(&log, name, &mut at, own, 3, 10);
    assert_eq!(owed.entries.iter().map(|entry| entry.kind).collect::<Vec<_>>(), [Kind::Open, Kind::Final]);
    assert_eq!(at.seen.seen(own), 2);
}

/// A copy of one run as a machine may hold it: entries from a number on, up to a number.
fn copy(origin: u64, from: u64, to: u64) -> Log {
    let origin = Origin::from_bits(origin);
    let mut log = Log::default();
    log.note_mark(origin, from - 1);
    for seq in from..=to {
        let payload = Bytes::from(format!("{origin}/{seq}"));
        let entry = Entry { origin, seq, at_ms: seq, kind: Kind::Message, stream: StreamName::GET, payload };
        log.union(entry).unwrap();
    }
    log
}

fn unite(into: &mut Log, from: &Log) {
    for entry in from.entries() {
        // What a copy has no room for yet comes with another one.
        let _ = into.union(entry.clone());
    }
}

proptest! {
    #![proptest_config(super::cases(10_000))]
    /// Copies that all begin at the first entry: what one holds of a run is the beginning of what another holds.
    #[test]
    fn union_takes_copies_in_any_order_and_any_number_of_times(
        lengths in proptest::collection::vec((1_u64..4, 0_u64..6), 1..6),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
    ) {
        let copies: Vec<Log> = lengths.iter().map(|(origin, len)| copy(*origin, 1, *len)).collect();
        let mut straight = Log::default();
        copies.iter().for_each(|copy| unite(&mut straight, copy));
        let mut shuffled = Log::default();
        for copy in order.iter().map(|index| index.get(&copies)).chain(copies.iter().rev()) {
            unite(&mut shuffled, copy);
        }
        for origin in (1..4).map(Origin::from_bits) {
            let longest = lengths.iter().filter(|(of, _)| Origin::from_bits(*of) == origin).map(|(_, len)| *len);
            prop_assert_eq!(straight.high_water(origin), longest.max().unwrap_or(0));
            let of = |log: &Log| log.entries().filter(|e| e.origin == origin).cloned().collect::<Vec<_>>();
            prop_assert_eq!(of(&straight), of(&shuffled));
        }
        let (entries, bytes) = (straight.len(), straight.bytes());
        for copy in &copies {
            unite(&mut straight, copy);
        }
        prop_assert_eq!((straight.len(), straight.bytes()), (entries, bytes));
    }

    #[test]
    fn union_leaves_no_hole_and_takes_nothing_forged(from in 2_u64..6, len in 1_u64..6, ahead in 1_u64..4) {
        let origin = Origin::from_bits(1);
        let mut log = copy(1, from, from + len);
        let hw = from + len;
        let [last] = &log.entries().skip(len as usize).cloned().collect::<Vec<_>>()[..] else { panic!() };
        let hole = Entry { seq: hw + 1 + ahead, ..last.clone() };
        prop_assert_eq!(log.union(hole), Err(Refused::Gap(hw)));
        let forged = Entry { payload: Bytes::from_static(b"forged"), ..last.clone() };
        prop_assert_eq!(log.union(forged), Err(Refused::Fork(hw)));
        prop_assert_eq!(log.union(last.clone()), Ok(false));
        // Below what is retained nothing is known, and nothing comes back.
        let old = Entry { seq: from - 1, ..last.clone() };
        prop_assert_eq!(log.union(old), Ok(false));
        prop_assert_eq!((log.high_water(origin), log.len() as u64), (hw, len + 1));
    }
}
