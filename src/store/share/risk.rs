//! Values that were acknowledged here and that no other instance may have seen.
//!
//! A write is at risk from the moment it is acknowledged without the shared store until that has it and nobody can come any
//! more who wrote without knowing of it. If such a value is replaced by another instance's, that is a loss. Anything else
//! that another instance puts in its place was written by somebody who could see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::base::clock::millis;
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{AT_RISK, AT_RISK_KEPT, AT_RISK_SWEEP};
use crate::base::table::Table;
use crate::state::doc::Doc;
use crate::state::stamp::Stamp;

/// A value of this process.
#[derive(Debug)]
struct Mark {
    stamp: Stamp,
    /// It was not paid at once.
    away: bool,
    paid: Option<Paid>,
}

/// The shared store has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paid {
    /// Nobody who wrote before then, on the clock of stamps, has seen it.
    pub(super) seen_ms: u64,
    /// Now, on the clock that never goes back.
    pub(super) now_ms: u64,
}

/// All of them, bounded: beyond the bound nothing is remembered.
#[derive(Debug, Default)]
pub(super) struct AtRisk {
    by_session: Table<SessionKey, BTreeMap<Arc<str>, Mark>>,
    count: AtomicUsize,
    swept_ms: AtomicU64,
}

impl AtRisk {
    /// These values were written here; `away`: the shared store cannot be asked now.
    pub(super) fn wrote(
        &self,
        key: SessionKey,
        fields: impl IntoIterator<Item = (Arc<str>, Stamp)>,
        away: bool,
    ) {
        for (name, stamp) in fields {
            let full = self.count.load(Ordering::Relaxed) >= AT_RISK;
            self.change(key, true, |marks| {
                // Whatever was there before is nobody's any more.
                marks.remove(&name);
                if !full {
                    marks.insert(name, Mark { stamp, away, paid: None });
                }
            });
        }
    }

    /// What a session owes could not be paid.
    pub(super) fn unpaid(&self, key: SessionKey) {
        self.change(key, false, |marks| marks.values_mut().for_each(|mark| mark.away = true));
    }

    /// The shared store has these values.
    pub(super) fn paid<'a>(
        &self,
        key: SessionKey,
        fields: impl IntoIterator<Item = (&'a str, Stamp)>,
        paid: Paid,
    ) {
        self.change(key, false, |marks| {
            for (name, stamp) in fields {
                let Some(mark) = marks.get_mut(name).filter(|mark| mark.stamp == stamp) else { continue };
                if mark.away {
                    // What was paid once may have been lost there and be paid again: the first time it could be seen.
                    mark.paid = mark.paid.or(Some(paid));
                } else {
                    marks.remove(name);
                }
            }
        });
        self.sweep(paid.now_ms);
    }

    /// The values of a session were stamped anew.
    pub(super) fn restamped(&self, key: SessionKey, doc: &Doc, own: Origin) {
        self.change(key, false, |marks| {
            for (name, mark) in marks {
                let stands = doc.field(name).filter(|field| field.stamp.origin() == own);
                mark.stamp = stands.map_or(mark.stamp, |field| field.stamp);
            }
        });
    }

    /// A value of this process was replaced by one that another instance wrote then. Whether that one was written without
    /// knowing of it; asked once.
    pub(super) fn replaced(&self, key: SessionKey, name: &str, by: Stamp) -> bool {
        let mark = self.change(key, false, |marks| marks.remove(name)).flatten();
        mark.is_some_and(|mark| mark.paid.is_none_or(|paid| by.ms() <= paid.seen_ms))
    }

    /// Nothing of this session is left.
    pub(super) fn forget(&self, key: SessionKey) {
        self.change(key, false, BTreeMap::clear);
    }

    /// Forgets what was paid long ago.
    fn sweep(&self, now_ms: u64) {
        let before = self.swept_ms.load(Ordering::Relaxed);
        if self.count.load(Ordering::Relaxed) == 0 || now_ms.saturating_sub(before) < millis(AT_RISK_SWEEP) {
            return;
        }
        if self.swept_ms.compare_exchange(before, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let kept = |mark: &Mark| {
            mark.paid.is_none_or(|paid| now_ms.saturating_sub(paid.now_ms) < millis(AT_RISK_KEPT))
        };
        let mut old = Vec::new();
        self.by_session.for_each(|key, marks| {
            if !marks.values().all(kept) {
                old.push(*key);
            }
        });
        for key in old {
            self.change(key, false, |marks| marks.retain(|_, mark| kept(mark)));
        }
    }

    fn change<T>(
        &self,
        key: SessionKey,
        make: bool,
        f: impl FnOnce(&mut BTreeMap<Arc<str>, Mark>) -> T,
    ) -> Option<T> {
        if !make && self.by_session.with(&key, |_| ()).is_none() {
            return None;
        }
        let done = self.by_session.with_or_insert(key, BTreeMap::new, |marks| {
            let before = marks.len();
            let done = f(marks);
            match marks.len().checked_sub(before) {
                Some(more) => self.count.fetch_add(more, Ordering::Relaxed),
                None => self.count.fetch_sub(before.saturating_sub(marks.len()), Ordering::Relaxed),
            };
            done
        });
        self.by_session.remove_if(&key, BTreeMap::is_empty);
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAID: Paid = Paid { seen_ms: 100, now_ms: 5_000 };

    fn at(ms: u64, origin: u64) -> Stamp {
        Stamp::new(ms, 0, Origin::from_bits(origin))
    }

    fn wrote(risk: &AtRisk, key: SessionKey, name: &str, ms: u64, away: bool) {
        risk.wrote(key, [(name.into(), at(ms, 1))], away);
    }

    #[test]
    fn what_was_paid_at_once_is_at_no_risk() {
        let (risk, key) = (AtRisk::default(), SessionKey::random());
        wrote(&risk, key, "a", 10, false);
        risk.paid(key, [("a", at(10, 1))], PAID);
        assert!(!risk.replaced(key, "a", at(50, 2)));
        assert!(risk.by_session.is_empty() && risk.count.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn what_is_not_paid_is_lost_to_anybody_once() {
        let (risk, key) = (AtRisk::default(), SessionKey::random());
        wrote(&risk, key, "a", 10, true);
        assert!(risk.replaced(key, "a", at(5_000, 2)));
        assert!(!risk.replaced(key, "a", at(5_001, 2)));
    }

    #[test]
    fn what_was_paid_late_is_lost_only_to_who_wrote_before() {
        let (risk, key) = (AtRisk::default(), SessionKey::random());
        for (by_ms, lost) in [(100, true), (101, false)] {
            // A payment failed first.
            wrote(&risk, key, "a", 10, false);
            risk.unpaid(key);
            // Of the write before.
            risk.paid(key, [("a", at(9, 1))], Paid { seen_ms: 1, ..PAID });
            risk.paid(key, [("a", at(10, 1))], PAID);
            // Put back after a loss.
            risk.paid(key, [("a", at(10, 1))], Paid { seen_ms: 900, ..PAID });
            assert_eq!(risk.replaced(key, "a", at(by_ms, 2)), lost, "{by_ms}");
        }
    }

    #[test]
    fn a_value_that_was_stamped_anew_is_still_the_same() {
        let (risk, key) = (AtRisk::default(), SessionKey::random());
        wrote(&risk, key, "a", 900, true);
        let mut doc = Doc::new("ann", 10_000, at(1, 1));
        doc.put("a", at(90, 1), None);
        risk.restamped(key, &doc, Origin::from_bits(1));
        risk.paid(key, [("a", at(90, 1))], PAID);
        assert!(!risk.replaced(key, "a", at(101, 2)));
    }

    #[test]
    fn what_was_paid_long_ago_is_forgotten_and_there_is_a_bound() {
        let (risk, key) = (AtRisk::default(), SessionKey::random());
        wrote(&risk, key, "a", 10, true);
        wrote(&risk, key, "b", 10, true);
        risk.paid(key, [("a", at(10, 1))], PAID);
        risk.sweep(PAID.now_ms + millis(AT_RISK_KEPT));
        assert_eq!(risk.count.load(Ordering::Relaxed), 1);
        for n in 0..AT_RISK {
            wrote(&risk, key, &n.to_string(), 10, true);
        }
        assert_eq!(risk.count.load(Ordering::Relaxed), AT_RISK);
        // What it had of a field is not what is there now.
        wrote(&risk, key, "b", 11, true);
        assert!(!risk.replaced(key, "b", at(12, 2)));
        risk.forget(key);
        assert_eq!(risk.count.load(Ordering::Relaxed), 0);
    }
}
