//! The log of a session: what was said on its streams, one contiguous run per origin.
//!
//! Only the process start that is an origin appends to that origin's run, with sequence numbers 1, 2, 3 … and no
//! hole. So an entry is named by (session, origin, seq) everywhere and for ever, and a reader that knows the highest
//! number it has seen of each origin knows exactly what it is owed (docs/sessions.md). The streams of a session share
//! its runs: entries of other streams are passed over.

mod entry;

use std::collections::VecDeque;

use bytes::Bytes;

pub use self::entry::{Entry, Kind, StreamName};

use super::cursor::Cursor;
use crate::base::ids::Origin;
use crate::base::limits::{CURSOR_ROOM, LOG_ORIGINS, MAX_CURSOR_PAIRS};

#[derive(Clone, Debug)]
struct Run {
    origin: Origin,
    /// Sequence number of the first retained entry; `hw + 1` when none is retained.
    base: u64,
    /// When its last entry was said, retained or not, as far as that is known; 0: it is not.
    last_ms: u64,
    trimmed: Trimmed,
    entries: VecDeque<Entry>,
}

/// Which streams the entries below a run's base belonged to, so that a gap is told to those that have one.
#[derive(Clone, Debug, Default)]
struct Trimmed {
    /// Highest number of the GET stream.
    get: u64,
    /// Highest number of each request's stream that was cut last.
    requests: VecDeque<(StreamName, u64)>,
    /// Below or at this number it is not known any more.
    older: u64,
}

impl Trimmed {
    /// Streams of requests that are remembered: they are resumed soon or never.
    const REMEMBERED: usize = 32;

    fn unknown_up_to(seq: u64) -> Self {
        Self { get: seq, requests: VecDeque::new(), older: seq }
    }

    fn note(&mut self, stream: StreamName, seq: u64) {
        if stream == StreamName::GET {
            self.get = seq;
        } else if let Some((_, highest)) = self.requests.iter_mut().find(|(name, _)| *name == stream) {
            *highest = seq;
        } else {
            if self.requests.len() == Self::REMEMBERED
                && let Some((_, forgotten)) = self.requests.pop_front()
            {
                self.older = self.older.max(forgotten);
            }
            self.requests.push_back((stream, seq));
        }
    }

    /// The highest number that may have been of `stream`.
    fn up_to(&self, stream: StreamName) -> u64 {
        if stream == StreamName::GET {
            return self.get;
        }
        let known = self.requests.iter().find(|(name, _)| *name == stream);
        known.map_or(self.older, |(_, seq)| *seq)
    }
}

impl Run {
    fn hw(&self) -> u64 {
        self.base + self.entries.len() as u64 - 1
    }

    fn after(&self, seen: u64) -> impl Iterator<Item = &Entry> {
        let skip = seen.saturating_add(1).saturating_sub(self.base);
        self.entries.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }
}

/// How much of a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Entries in all runs together.
    pub entries: usize,
    /// Cost in bytes of all runs together ([`Entry::cost`]).
    pub bytes: usize,
    /// Age in milliseconds.
    pub age_ms: u64,
}

/// What was cut off a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whose run.
    pub origin: Origin,
    /// All below this number is gone.
    pub base: u64,
    /// The highest number that is gone and was, or may have been, of the GET stream.
    pub get: u64,
}

/// What a cut for want of room leaves alone, of the run of one origin.
#[derive(Clone, Copy, Debug)]
pub struct Spared {
    /// Whose run.
    pub origin: Origin,
    /// From this number on nothing is cut, however long it is: it was said just now.
    pub newest: u64,
    /// From this number on nothing is cut below twice the retention: a connection is about to take it.
    pub unread: u64,
}

impl Spared {
    fn spares(self, entry: &Entry, twice: bool) -> bool {
        let from = if twice { self.newest } else { self.newest.min(self.unread) };
        entry.origin == self.origin && entry.seq >= from
    }
}

/// Why an entry could not be put into a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is not the next of its origin; the highest contiguous one is named.
    Gap(u64),
    /// The place is taken by another content: an origin was used twice.
    Fork(u64),
}

/// Where a reader of one stream stands.
#[derive(Clone, Debug, Default)]
pub struct Position {
    /// What its client has seen: what event ids say.
    pub seen: Cursor,
    /// How far runs were looked through in vain. Not part of event ids, which would grow with every origin.
    pub scanned: Cursor,
}

impl Position {
    /// The position of a client that has seen this.
    #[must_use]
    pub fn at(seen: Cursor) -> Self {
        Self { seen, scanned: Cursor::default() }
    }
}

/// Makes room in `seen` for what readers of these logs may be shown next, if there is little: the origins that they may
/// still ask for come last, and the first are left away. What is not known here may be retained elsewhere, and matters more
/// than what was cut off. True if something of that had to be left away: what was said of it until now counts as seen, and
/// a gap is to be told.
pub fn make_room(seen: &mut Cursor, logs: &[&Log], now_ms: u64) -> bool {
    let runs = || logs.iter().flat_map(|log| &log.runs);
    // Connections last: new ones are begun meanwhile.
    let news =
        runs().filter(|run| !run.entries.is_empty() && seen.seen(run.origin) == 0).count() + CURSOR_ROOM;
    let room = MAX_CURSOR_PAIRS.saturating_sub(news);
    if seen.len() <= room {
        return false;
    }
    // When the last word was said of one that was seen to its end, and of which nothing is left. Who has seen more of it
    // than is known here has seen it elsewhere, where some of it may be left.
    let over_ms = |origin: Origin, seen: u64| {
        let run = runs().find(|run| run.origin == origin)?;
        (run.entries.is_empty() && seen == run.hw()).then_some(run.last_ms)
    };
    let is_known = |origin: Origin| runs().any(|run| run.origin == origin);
    seen.prefer(|origin, seen| match over_ms(origin, seen) {
        Some(_) => 0,
        None => 1 + u8::from(is_known(origin)),
    });
    let mut unsure = false;
    seen.leave_away(room, |origin, seen| {
        let over_ms = over_ms(origin, seen).filter(|ms| *ms > 0);
        unsure |= over_ms.is_none();
        over_ms.unwrap_or(now_ms)
    });
    unsure
}

/// The retained part of a session's log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    runs: Vec<Run>,
    entries: usize,
    bytes: usize,
}

impl Log {
    /// Appends to this process's own run and returns the entry.
    pub fn append(
        &mut self,
        origin: Origin,
        kind: Kind,
        stream: StreamName,
        payload: Bytes,
        now_ms: u64,
    ) -> Entry {
        let run = self.run(origin, 1);
        let entry = Entry { origin, seq: run.hw() + 1, at_ms: now_ms, kind, stream, payload };
        run.last_ms = run.last_ms.max(now_ms);
        run.entries.push_back(entry.clone());
        self.entries += 1;
        self.bytes += entry.cost();
        entry
    }

    /// Puts in an entry that was read from a disk or came from elsewhere. Entries of one origin come in order; the
    /// first one of an unknown origin sets where its run begins. True if it was new.
    ///
    /// # Errors
    /// [`Refused`] if the run would not stay contiguous; the log is unchanged.
    pub fn union(&mut self, entry: Entry) -> Result<bool, Refused> {
        if entry.seq == 0 {
            return Err(Refused::Gap(self.high_water(entry.origin)));
        }
        let run = self.run(entry.origin, entry.seq);
        let hw = run.hw();
        if entry.seq <= hw {
            let at =
                entry.seq.checked_sub(run.base).and_then(|at| run.entries.get(usize::try_from(at).ok()?));
            return match at {
                Some(held) if *held != entry => Err(Refused::Fork(hw)),
                _ => Ok(false),
            };
        }
        if entry.seq != hw + 1 {
            return Err(Refused::Gap(hw));
        }
        let cost = entry.cost();
        run.last_ms = run.last_ms.max(entry.at_ms);
        run.entries.push_back(entry);
        self.entries += 1;
        self.bytes += cost;
        Ok(true)
    }

    /// Notes that everything of `origin` up to `hw` existed, though none of it is retained here.
    pub fn note_mark(&mut self, origin: Origin, hw: u64) {
        let base = hw.saturating_add(1);
        let run = self.run(origin, base);
        if run.entries.is_empty() && run.base < base {
            run.base = base;
            run.trimmed = Trimmed::unknown_up_to(hw);
        }
    }

    /// Notes that nothing was said in the run of `origin` after `at_ms`, of one of which nothing is retained.
    pub fn note_last(&mut self, origin: Origin, at_ms: u64) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.origin == origin && run.entries.is_empty()) {
            run.last_ms = run.last_ms.max(at_ms);
        }
    }

    /// Notes what is known of a cut, once what is retained of its run was put in: a run that begins there would else be
    /// thought to have lost messages of every stream.
    pub fn note_cut(&mut self, cut: Cut) {
        let run = self.runs.iter_mut().find(|run| run.origin == cut.origin && run.base == cut.base);
        if let Some(run) = run {
            run.trimmed.get = run.trimmed.get.min(cut.get);
        }
    }

    /// Shows `visit` what a reader at `position` is owed of `stream`, each entry with the cursor that has seen it, and
    /// moves the position over what it shows and what it passes over. Entries of the run of `own` beyond `durable` are
    /// not on stable storage yet and are held back. At most `max` entries; an entry that ends the stream is the last.
    ///
    /// True if entries are gone that the reader had not seen and that may have been of this stream: a gap, to be told.
    ///
    /// What was said up to [`Cursor::others_ms`] in a run that the position does not name may have been seen, or not: it is
    /// not shown again, and told as a gap.
    pub fn visit_owed(
        &self,
        stream: StreamName,
        position: &mut Position,
        own: Origin,
        durable: u64,
        max: usize,
        mut visit: impl FnMut(&Entry, &Cursor),
    ) -> bool {
        let mut gap = false;
        let mut left = max;
        for run in &self.runs {
            let mut seen = position.seen.seen(run.origin).max(position.scanned.seen(run.origin));
            let last = if run.origin == own { durable } else { u64::MAX };
            let others_ms = if seen == 0 { position.seen.others_ms() } else { 0 };
            let left_away = others_ms > 0 && run.last_ms <= others_ms;
            if seen.saturating_add(1) < run.base {
                let lost = seen < run.trimmed.up_to(stream)
                    && !left_away
                    && self.begun_ms(stream).is_none_or(|begun_ms| run.last_ms >= begun_ms);
                seen = run.base - 1;
                if lost {
                    // Told once: event ids from here on have seen it.
                    position.seen.advance_at(run.origin, seen, run.last_ms);
                    gap = true;
                }
            }
            if others_ms > 0 {
                let of_before = |entry: &&Entry| entry.at_ms <= others_ms && entry.seq <= last;
                // Not named from here on: more of it than is known here may have been seen.
                for entry in run.entries.iter().take_while(of_before) {
                    gap |= entry.stream == stream;
                    seen = entry.seq;
                }
            }
            for entry in run.after(seen).take_while(|entry| entry.seq <= last) {
                if entry.stream == stream {
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                    position.seen.advance_at(run.origin, entry.seq, entry.at_ms);
                    visit(entry, &position.seen);
                    if entry.kind.ends_stream() {
                        return gap;
                    }
                }
                seen = entry.seq;
            }
            position.scanned.advance(run.origin, seen);
        }
        gap
    }

    /// When a stream was begun, milliseconds since the epoch, if it is retained that it was: nothing that was said before was
    /// said on it. The GET stream has no beginning.
    fn begun_ms(&self, stream: StreamName) -> Option<u64> {
        let all = self.runs.iter().flat_map(|run| &run.entries);
        all.filter(|entry| entry.stream == stream && entry.kind == Kind::Open).map(|entry| entry.at_ms).min()
    }

    /// Puts the runs in the order in which they were begun, as far as clocks tell: a log that was read from a disk.
    pub fn sort_runs(&mut self) {
        self.runs.sort_by_key(|run| run.entries.front().map_or(0, |entry| entry.at_ms));
    }

    /// Drops the oldest entries beyond the retention, and of more origins than an event id has room for; returns
    /// what was cut off each run that lost some. `spared` stays when room is wanted; what is too old
    /// goes all the same.
    pub fn trim(&mut self, keep: Retention, now_ms: u64, spared: Option<Spared>) -> Vec<Cut> {
        let mut cut: Vec<Cut> = Vec::new();
        loop {
            let runs = self.runs.iter().filter(|run| !run.entries.is_empty()).count();
            let over = self.exceeds(keep) || runs > LOG_ORIGINS;
            let twice = Retention {
                entries: keep.entries.saturating_mul(2),
                bytes: keep.bytes.saturating_mul(2),
                ..keep
            };
            let twice = over && self.exceeds(twice);
            let spared = spared.filter(|_| over);
            let Some(run) = self
                .runs
                .iter_mut()
                .filter(|run| {
                    let front = run.entries.front();
                    front.is_some_and(|entry| !spared.is_some_and(|spared| spared.spares(entry, twice)))
                })
                .min_by_key(|run| run.entries.front().map_or(u64::MAX, |entry| entry.at_ms))
            else {
                return cut;
            };
            let oldest = run.entries.front().map_or(u64::MAX, |entry| entry.at_ms);
            if !over && oldest.saturating_add(keep.age_ms) > now_ms {
                return cut;
            }
            let Some(gone) = run.entries.pop_front() else { return cut };
            run.base += 1;
            run.trimmed.note(gone.stream, gone.seq);
            self.entries -= 1;
            self.bytes -= gone.cost();
            let now = Cut { origin: run.origin, base: run.base, get: run.trimmed.get };
            match cut.iter_mut().find(|cut| cut.origin == gone.origin) {
                Some(before) => *before = now,
                None => cut.push(now),
            }
        }
    }

    /// Whether more is retained than this, by number or by bytes.
    #[must_use]
    pub fn exceeds(&self, keep: Retention) -> bool {
        self.entries > keep.entries || self.bytes > keep.bytes
    }

    /// The retained entries of a stream in the run of `origin`, beyond the number `after`.
    pub fn of_stream(&self, stream: StreamName, origin: Origin, after: u64) -> impl Iterator<Item = &Entry> {
        let run = self.runs.iter().find(move |run| run.origin == origin);
        run.into_iter().flat_map(move |run| run.after(after)).filter(move |entry| entry.stream == stream)
    }

    /// The retained entries of an origin from the number `from` on.
    pub fn run_from(&self, origin: Origin, from: u64) -> impl Iterator<Item = &Entry> {
        let run = self.runs.iter().find(move |run| run.origin == origin);
        run.into_iter().flat_map(move |run| run.after(from.saturating_sub(1)))
    }

    /// Gives up what is missing below the number `base` of an origin, and what is held below it: it is nowhere any more.
    /// Readers who have not seen it are told of a gap. Returns what that cuts off, if it does.
    pub fn give_up_below(&mut self, origin: Origin, base: u64) -> Option<Cut> {
        let (entries, bytes) = {
            let run = self.run(origin, base);
            if run.hw() + 1 >= base && run.base >= base {
                return None;
            }
            let below = run.entries.iter().take_while(|entry| entry.seq < base).count();
            let gone: Vec<Entry> = run.entries.drain(..below).collect();
            run.base = base;
            run.trimmed = Trimmed::unknown_up_to(base - 1);
            (gone.len(), gone.iter().map(Entry::cost).sum::<usize>())
        };
        self.entries -= entries;
        self.bytes -= bytes;
        Some(Cut { origin, base, get: base - 1 })
    }

    /// Whether anything of an origin is retained.
    #[must_use]
    pub fn retains(&self, origin: Origin) -> bool {
        self.runs.iter().any(|run| run.origin == origin && !run.entries.is_empty())
    }

    /// The lowest retained number of an origin, or where its next entry goes when none is retained.
    #[must_use]
    pub fn base(&self, origin: Origin) -> u64 {
        self.runs.iter().find(|run| run.origin == origin).map_or(1, |run| run.base)
    }

    /// The highest contiguous number of an origin; 0 if it wrote nothing.
    #[must_use]
    pub fn high_water(&self, origin: Origin) -> u64 {
        self.runs.iter().find(|run| run.origin == origin).map_or(0, Run::hw)
    }

    /// Everything retained, by origin as they were first met, then in order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.runs.iter().flat_map(|run| run.entries.iter())
    }

    /// The origins met, each with its lowest retained number and its highest.
    pub fn marks(&self) -> impl Iterator<Item = (Origin, u64, u64)> {
        self.runs.iter().map(|run| (run.origin, run.base, run.hw()))
    }

    /// What was cut off each run; of a whole one nothing.
    pub fn cuts(&self) -> impl Iterator<Item = Cut> {
        self.runs.iter().map(|run| Cut { origin: run.origin, base: run.base, get: run.trimmed.get })
    }

    /// A position that has seen all there is.
    #[must_use]
    pub fn end(&self) -> Cursor {
        let mut cursor = Cursor::default();
        for run in &self.runs {
            cursor.advance(run.origin, run.hw());
        }
        cursor
    }

    /// How many entries are retained.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Cost in bytes of what is retained.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn run(&mut self, origin: Origin, base: u64) -> &mut Run {
        let at = match self.runs.iter().position(|run| run.origin == origin) {
            Some(at) => at,
            None => {
                self.runs.push(Run {
                    origin,
                    base,
                    last_ms: 0,
                    trimmed: Trimmed::unknown_up_to(base - 1),
                    entries: VecDeque::new(),
                });
                self.runs.len() - 1
            }
        };
        #[expect(clippy::indexing_slicing, reason = "the index was found or made in the lines above")]
        &mut self.runs[at]
    }
}
