//! Quotas: how many sessions there may be, what a store that fills up still accepts, and how often somebody may come.

use std::collections::HashMap;
use std::sync::Arc;

/// How many sessions there are, in total and by principal.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    total: usize,
    by_principal: HashMap<Arc<str>, usize>,
}

/// How many sessions there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In total.
    pub total: usize,
    /// Of one principal.
    pub per_principal: usize,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// [`Limits::total`].
    Total,
    /// [`Limits::per_principal`].
    PerPrincipal,
}

impl Counts {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Those of one principal.
    #[must_use]
    pub fn of(&self, principal: &str) -> usize {
        self.by_principal.get(principal).copied().unwrap_or(0)
    }

    /// Counts some that are there already.
    pub fn add(&mut self, principal: &Arc<str>, count: usize) {
        if count > 0 {
            self.total = self.total.saturating_add(count);
            let own = self.by_principal.entry(Arc::clone(principal)).or_default();
            *own = own.saturating_add(count);
        }
    }

    /// Counts one more, in place of one of `before` that goes.
    ///
    /// # Errors
    /// [`Reached`], and nothing is changed.
    pub fn admit(
        &mut self,
        principal: &Arc<str>,
        before: Option<&Arc<str>>,
        limits: Limits,
    ) -> Result<(), Reached> {
        let goes = |same: bool| usize::from(before.is_some_and(|before| !same || before == principal));
        if self.total.saturating_sub(goes(false)) >= limits.total {
            return Err(Reached::Total);
        }
        if self.of(principal).saturating_sub(goes(true)) >= limits.per_principal {
            return Err(Reached::PerPrincipal);
        }
        if let Some(before) = before {
            self.remove(before);
        }
        self.add(principal, 1);
        Ok(())
    }

    /// One of a principal is gone.
    pub fn remove(&mut self, principal: &str) {
        if let Some(count) = self.by_principal.get_mut(principal) {
            self.total = self.total.saturating_sub(1);
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_principal.remove(principal);
            }
        }
    }

    /// The principals that have any.
    pub fn by_principal(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.by_principal.iter().map(|(principal, count)| (principal, *count))
    }
}

/// What a store that fills up still accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    #[default]
    Open,
    /// No new sessions: what lives may go on.
    NoSessions,
    /// Nothing that takes room: what makes room goes on.
    NoWrites,
}

/// From this part of the room on there are no new sessions, percent.
pub const NO_SESSIONS_PERCENT: u64 = 80;
/// From this part of the room on nothing is written that takes room, percent.
pub const NO_WRITES_PERCENT: u64 = 95;
/// A level is left when so much less is used, percent: else it would come and go with every write.
pub const RELIEF_PERCENT: u64 = 2;

impl Level {
    /// The level after `used` of `max` bytes were found in use; `max` 0: no bound.
    #[must_use]
    pub fn after(self, used: u64, max: u64) -> Self {
        if max == 0 {
            return Self::Open;
        }
        let reaches = |percent: u64| u128::from(used) * 100 >= u128::from(max) * u128::from(percent);
        let at = |percent: u64, level: Self| {
            let bound = if self >= level { percent - RELIEF_PERCENT } else { percent };
            reaches(bound)
        };
        if at(NO_WRITES_PERCENT, Self::NoWrites) {
            Self::NoWrites
        } else if at(NO_SESSIONS_PERCENT, Self::NoSessions) {
            Self::NoSessions
        } else {
            Self::Open
        }
    }
}

/// So many per second, and a reserve of two seconds' worth for those who come all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// `per_second`: 0 is any number.
    #[must_use]
    pub fn per_second(per_second: u64) -> Self {
        Self(per_second)
    }

    /// What a full bucket holds, in thousandths of one.
    fn full(self) -> u64 {
        self.0.saturating_mul(2_000)
    }
}

/// What is left for one caller.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// In thousandths of one.
    left: u64,
    /// The time of which `left` is true, milliseconds.
    at_ms: u64,
}

impl Bucket {
    /// Nobody has come yet.
    #[must_use]
    pub fn full(rate: Rate, now_ms: u64) -> Self {
        Self { left: rate.full(), at_ms: now_ms }
    }

    /// Takes one.
    ///
    /// # Errors
    /// After how many milliseconds there will be one.
    pub fn take(&mut self, rate: Rate, now_ms: u64) -> Result<(), u64> {
        if rate.0 == 0 {
            return Ok(());
        }
        self.fill(rate, now_ms);
        match self.left.checked_sub(1_000) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err((1_000 - self.left).div_ceil(rate.0)),
        }
    }

    /// Whether it says no more than that nobody came for a while: it may be forgotten.
    pub fn is_full(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.fill(rate, now_ms);
        self.left == rate.full()
    }

    /// A clock that was set back adds nothing.
    fn fill(&mut self, rate: Rate, now_ms: u64) {
        let more = now_ms.saturating_sub(self.at_ms).saturating_mul(rate.0);
        self.left = self.left.saturating_add(more).min(rate.full());
        self.at_ms = now_ms;
    }
}
