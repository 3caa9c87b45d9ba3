//! What is owed to the shared store, by session.
//!
//! A write that makes a debt pledges it before it goes to the disk, together with a row there that says so; the debt is
//! there, and can be paid, when the write is on the disk, because what is paid is what the disk has. It is taken by
//! whoever pays, given back when paying failed, and forgotten when nothing was added meanwhile. A row on the disk without
//! a debt in memory means: all that the session has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{OWED_IN_MEMORY, PUSH_BYTES, PUSH_ENTRIES};
use crate::base::table::Table;

/// What is owed of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) enum OwedDoc {
    /// Nothing.
    #[default]
    Nothing,
    /// These fields, and the time of the last use.
    Fields(BTreeSet<Arc<str>>),
    /// All of it, as it is then.
    All,
}

impl OwedDoc {
    fn add(&mut self, more: Self) {
        match (&mut *self, more) {
            (_, Self::Nothing) | (Self::All, _) => {}
            (Self::Fields(fields), Self::Fields(more)) => fields.extend(more),
            (_, more) => *self = more,
        }
    }
}

/// What is owed of a run of entries.
#[derive(Clone, Debug)]
pub(in crate::store) struct OwedRun {
    /// The entries in their shared form; `None`: they are to be read from the disk.
    pub(super) entries: Option<VecDeque<Bytes>>,
    /// The number of the first one.
    pub(super) first: u64,
    bytes: usize,
}

impl OwedRun {
    const FROM_DISK: Self = Self { entries: None, first: 1, bytes: 0 };

    fn of(first: u64, entries: Vec<Bytes>) -> Self {
        let bytes = entries.iter().map(Bytes::len).sum();
        Self { entries: Some(entries.into()), first, bytes }
    }

    /// Adds what comes after it.
    fn add(&mut self, more: Self) {
        let contiguous = |held: &VecDeque<Bytes>| self.first + held.len() as u64 == more.first;
        let fits = self.bytes + more.bytes <= PUSH_BYTES;
        match (&mut self.entries, more.entries) {
            (Some(held), Some(more_entries))
                if contiguous(held) && fits && held.len() + more_entries.len() <= PUSH_ENTRIES =>
            {
                held.extend(more_entries);
                self.bytes += more.bytes;
            }
            _ => *self = Self::FROM_DISK,
        }
    }
}

/// What is owed of a session.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Owed {
    pub(super) doc: OwedDoc,
    pub(super) runs: BTreeMap<Origin, OwedRun>,
    /// Every run of the log, from the disk.
    pub(super) log: bool,
    pub(super) results: BTreeSet<String>,
    /// Every result.
    pub(super) all_results: bool,
}

impl Owed {
    /// Everything there is.
    pub(in crate::store) fn all() -> Self {
        Self { doc: OwedDoc::All, log: true, all_results: true, ..Self::default() }
    }

    /// All of the log.
    pub(in crate::store) fn log() -> Self {
        Self { log: true, ..Self::default() }
    }

    pub(in crate::store) fn doc(doc: OwedDoc) -> Self {
        Self { doc, ..Self::default() }
    }

    pub(super) fn run(origin: Origin, first: u64, entries: Vec<Bytes>) -> Self {
        Self { runs: BTreeMap::from([(origin, OwedRun::of(first, entries))]), ..Self::default() }
    }

    pub(in crate::store) fn result(name: &str) -> Self {
        Self { results: BTreeSet::from([name.to_owned()]), ..Self::default() }
    }

    pub(in crate::store) fn is_nothing(&self) -> bool {
        self.doc == OwedDoc::Nothing
            && self.runs.is_empty()
            && !self.log
            && self.results.is_empty()
            && !self.all_results
    }

    /// Adds what came after it.
    fn add(&mut self, more: Self) {
        self.doc.add(more.doc);
        self.log |= more.log;
        self.all_results |= more.all_results;
        if self.all_results {
            self.results.clear();
        } else {
            self.results.extend(more.results);
        }
        if self.log {
            self.runs.clear();
            return;
        }
        for (origin, run) in more.runs {
            match self.runs.get_mut(&origin) {
                Some(held) => held.add(run),
                None => {
                    self.runs.insert(origin, run);
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Debt {
    owed: Owed,
    /// The number of the last debt that was made.
    made: u64,
    /// The number up to which they are paid.
    paid: u64,
    paying: bool,
    /// Writes that are on their way to the disk.
    pledged: usize,
    /// A row on the disk says that there is a debt.
    on_disk: bool,
    /// Nobody pays without being asked to before then, on the clock that never goes back: it was not understood.
    not_before_ms: u64,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Debt {
    /// Whether there is nothing to remember of it.
    fn is_over(&self) -> bool {
        self.owed.is_nothing() && !self.paying && self.pledged == 0
    }
}

/// The debt of a write that is on its way to the disk.
#[derive(Debug)]
pub(super) struct Pledge {
    owed: Owed,
    /// The write has the row with it.
    pub(super) row: bool,
    /// Nothing is known of it in memory.
    beyond: bool,
}

/// What somebody who wants to pay finds.
pub(super) enum Due {
    /// Nothing is owed up to the number that he asked for.
    Paid,
    /// Somebody is paying: ask again then.
    Wait(oneshot::Receiver<()>),
    /// To be paid by him, with the number of the last debt in it.
    Pay(Owed, u64),
}

/// All debts.
#[derive(Debug, Default)]
pub(super) struct Debts {
    by_session: Table<SessionKey, Debt>,
    /// Sessions that owe something, as far as they are in memory.
    owing: AtomicUsize,
    /// There may be rows on the disk of which nothing is known here.
    spilled: AtomicBool,
}

impl Debts {
    /// Pledges what a write makes owed, before the write takes its place.
    pub(super) fn pledge(&self, key: SessionKey, owed: Owed) -> Pledge {
        // Beyond the bound only the disk knows: then nobody knows what else is owed.
        let full = self.by_session.len() >= OWED_IN_MEMORY;
        if full && self.by_session.with(&key, |_| ()).is_none() {
            self.spilled.store(true, Ordering::Release);
            return Pledge { owed, row: true, beyond: true };
        }
        let spilled = self.spilled.load(Ordering::Acquire);
        self.change(key, |debt| {
            debt.pledged += 1;
            let owed = if spilled && !debt.on_disk { Owed::all() } else { owed };
            Pledge { owed, row: !debt.on_disk, beyond: false }
        })
    }

    /// The write that made a pledge is over; `written`: the disk has it. Returns the number of the debt.
    pub(super) fn arrived(&self, key: SessionKey, pledge: Pledge, written: bool) -> u64 {
        if pledge.beyond {
            // The disk may have been read while the write was on its way there.
            self.set_spilled(true);
            return 0;
        }
        self.change(key, |debt| {
            debt.pledged = debt.pledged.saturating_sub(1);
            debt.on_disk |= pledge.row && written;
            // Also of a write that failed the disk may have a part.
            debt.owed.add(pledge.owed);
            debt.made += 1;
            debt.made
        })
    }

    /// Notes a debt that no write of this instance made: no row on the disk says so. Beyond the bound it is not noted.
    pub(super) fn owe_unwritten(&self, key: SessionKey, owed: Owed) {
        if self.room() == 0 && self.by_session.with(&key, |_| ()).is_none() {
            return;
        }
        self.change(key, |debt| {
            debt.owed.add(owed);
            debt.made += 1;
        });
    }

    /// Notes that everything is owed of a session that a row on the disk names.
    pub(super) fn found(&self, key: SessionKey) {
        self.change(key, |debt| {
            debt.owed.add(Owed::all());
            debt.made += 1;
            debt.on_disk = true;
        });
    }

    /// Changes a debt, and counts it as long as it is one.
    fn change<R>(&self, key: SessionKey, change: impl FnOnce(&mut Debt) -> R) -> R {
        self.by_session.with_or_insert(key, Debt::default, |debt| {
            let before = debt.is_over();
            let result = change(debt);
            match (before, debt.is_over()) {
                (true, false) => self.owing.fetch_add(1, Ordering::Relaxed),
                (false, true) => self.owing.fetch_sub(1, Ordering::Relaxed),
                _ => 0,
            };
            result
        })
    }

    /// What is to be paid of the debts up to `number`; `None`: of all.
    pub(super) fn due(&self, key: SessionKey, number: Option<u64>) -> Due {
        self.change(key, |debt| {
            if number.is_some_and(|number| debt.paid >= number) || (debt.owed.is_nothing() && !debt.paying) {
                return Due::Paid;
            }
            if debt.paying {
                let (tell, told) = oneshot::channel();
                debt.waiting.push(tell);
                return Due::Wait(told);
            }
            debt.paying = true;
            Due::Pay(std::mem::take(&mut debt.owed), debt.made)
        })
    }

    /// Ends what [`Debts::due`] began: it was paid up to a number, or some of it is still owed and not to be tried again
    /// before a moment.
    pub(super) fn settle(&self, key: SessionKey, outcome: Result<u64, (Owed, u64)>) {
        self.change(key, |debt| {
            debt.paying = false;
            match outcome {
                Ok(number) => debt.paid = number,
                Err((mut back, not_before_ms)) => {
                    debt.not_before_ms = not_before_ms;
                    // What was added meanwhile is newer.
                    back.add(std::mem::take(&mut debt.owed));
                    debt.owed = back;
                }
            }
            for waiting in debt.waiting.drain(..) {
                // Who gave up waiting wants to know nothing.
                let _ = waiting.send(());
            }
        });
    }

    /// Sessions that owe nothing any more, at most `max`.
    pub(super) fn settled(&self, max: usize) -> Vec<SessionKey> {
        let mut settled = Vec::new();
        self.by_session.for_each(|key, debt| {
            if settled.len() < max && debt.is_over() {
                settled.push(*key);
            }
        });
        settled
    }

    /// Forgets a session that owes nothing; true if a row on the disk is to be removed. Called where no other row is
    /// written at the same time: whoever owes next puts it anew, after this.
    pub(super) fn forget(&self, key: SessionKey) -> bool {
        let forgotten = self.by_session.remove_if(&key, Debt::is_over);
        forgotten.is_some_and(|debt| debt.on_disk)
    }

    /// Sessions that owe something and that nobody is paying for, at most `max`.
    pub(super) fn owing(&self, max: usize, now_ms: u64) -> Vec<SessionKey> {
        let mut found = Vec::new();
        if self.owing.load(Ordering::Relaxed) > 0 {
            self.by_session.for_each(|key, debt| {
                if found.len() < max
                    && !debt.owed.is_nothing()
                    && !debt.paying
                    && debt.not_before_ms <= now_ms
                {
                    found.push(*key);
                }
            });
        }
        found
    }

    /// How many sessions owe something, as far as it is known in memory.
    pub(super) fn count(&self) -> usize {
        self.owing.load(Ordering::Relaxed)
    }

    /// Whether the disk may know of more.
    pub(super) fn is_spilled(&self) -> bool {
        self.spilled.load(Ordering::Acquire)
    }

    /// Whether it may, from now on.
    pub(super) fn set_spilled(&self, spilled: bool) {
        self.spilled.store(spilled, Ordering::Release);
    }

    /// How many more fit into memory.
    pub(super) fn room(&self) -> usize {
        OWED_IN_MEMORY.saturating_sub(self.by_session.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(names: &[&str]) -> Owed {
        Owed::doc(OwedDoc::Fields(names.iter().map(|name| (*name).into()).collect()))
    }

    fn take(debts: &Debts, key: SessionKey) -> (Owed, u64) {
        match debts.due(key, None) {
            Due::Pay(owed, number) => (owed, number),
            Due::Paid | Due::Wait(_) => panic!("nothing to pay"),
        }
    }

    /// A write that makes a debt, all of it: its number, and whether it had the row with it.
    fn owe(debts: &Debts, key: SessionKey, owed: Owed) -> (u64, bool) {
        let pledge = debts.pledge(key, owed);
        let row = pledge.row;
        (debts.arrived(key, pledge, true), row)
    }

    #[test]
    fn what_is_not_on_the_disk_yet_cannot_be_paid_and_is_not_forgotten() {
        let (debts, key) = (Debts::default(), SessionKey::random());
        let (first, second) = (debts.pledge(key, fields(&["a"])), debts.pledge(key, fields(&["b"])));
        // Either may be the one that fails.
        assert!(first.row && second.row);
        assert_eq!(debts.count(), 1);
        assert!(debts.owing(9, 0).is_empty() && matches!(debts.due(key, None), Due::Paid));
        assert!(debts.settled(9).is_empty() && !debts.forget(key));
        let number = debts.arrived(key, first, true);
        let (owed, up_to) = take(&debts, key);
        assert_eq!((&owed.doc, up_to), (&fields(&["a"]).doc, number));
        // Who pays while the second one arrives has not paid for it.
        let number = debts.arrived(key, second, true);
        debts.settle(key, Ok(up_to));
        let Due::Pay(owed, up_to) = debts.due(key, Some(number)) else { panic!("it was not paid") };
        assert_eq!((owed.doc, up_to), (fields(&["b"]).doc, number));
        debts.settle(key, Ok(up_to));
        assert_eq!((debts.count(), debts.forget(key)), (0, true));
    }

    #[test]
    fn the_row_of_a_write_that_failed_is_written_by_the_next_one() {
        let (debts, key) = (Debts::default(), SessionKey::random());
        let failed = debts.pledge(key, fields(&["a"]));
        debts.arrived(key, failed, false);
        let next = debts.pledge(key, fields(&["b"]));
        assert!(next.row);
        debts.arrived(key, next, true);
        assert!(!debts.pledge(key, fields(&["c"])).row);
    }

    #[test]
    fn what_is_added_while_somebody_pays_is_still_owed_afterwards() {
        let (debts, key) = (Debts::default(), SessionKey::random());
        assert_eq!(owe(&debts, key, fields(&["a"])), (1, true));
        let (owed, number) = take(&debts, key);
        assert_eq!(owed.doc, fields(&["a"]).doc);
        assert_eq!(owe(&debts, key, fields(&["b"])), (2, false));
        assert!(matches!(debts.due(key, Some(2)), Due::Wait(_)));
        debts.settle(key, Ok(number));
        assert!(matches!(debts.due(key, Some(1)), Due::Paid));
        assert!(debts.settled(9).is_empty() && !debts.forget(key));
        let (owed, number) = take(&debts, key);
        assert_eq!(owed.doc, fields(&["b"]).doc);
        debts.settle(key, Ok(number));
        assert_eq!((debts.count(), debts.settled(9)), (0, vec![key]));
        assert!(debts.forget(key));
        assert_eq!(owe(&debts, key, fields(&["c"])), (1, true));
    }

    #[test]
    fn what_could_not_be_paid_is_owed_again_with_what_came_after_it() {
        let (debts, key, origin) = (Debts::default(), SessionKey::random(), Origin::from_bits(1));
        owe(&debts, key, Owed::run(origin, 1, vec![Bytes::from_static(b"1")]));
        let (owed, _) = take(&debts, key);
        owe(&debts, key, Owed::run(origin, 2, vec![Bytes::from_static(b"2")]));
        debts.settle(key, Err((owed, 0)));
        assert_eq!(debts.count(), 1);
        let (owed, number) = take(&debts, key);
        let run = &owed.runs[&origin];
        assert_eq!((run.first, run.entries.as_ref().unwrap().len()), (1, 2));
        debts.settle(key, Ok(number));
        // A hole is not bridged.
        owe(&debts, key, Owed::run(origin, 3, vec![Bytes::new()]));
        owe(&debts, key, Owed::run(origin, 5, vec![Bytes::new()]));
        assert!(take(&debts, key).0.runs[&origin].entries.is_none());
    }

    #[test]
    fn beyond_the_bound_the_disk_alone_knows_and_everything_is_owed() {
        let debts = Debts::default();
        for _ in 0..OWED_IN_MEMORY {
            owe(&debts, SessionKey::random(), fields(&["a"]));
        }
        let key = SessionKey::random();
        assert_eq!(owe(&debts, key, fields(&["a"])), (0, true));
        assert!(debts.is_spilled() && debts.room() == 0);
        let any = debts.owing(1, 0)[0];
        let (_, number) = take(&debts, any);
        debts.settle(any, Ok(number));
        assert!(debts.forget(any));
        // What was owed before of this one only the disk knows.
        owe(&debts, key, fields(&["b"]));
        assert_eq!(take(&debts, key).0.doc, OwedDoc::All);
    }
}
