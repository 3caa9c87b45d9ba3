//! Paying the debts of sessions that nobody touches, and offering everything again after the shared store lost some.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Notify;

use super::{Disagreement, Sharing};
use crate::base::clock::millis;
use crate::base::ids::SessionKey;
use crate::base::limits::{HEAL_AT_ONCE, HEAL_MAX_PER_SECOND, HEAL_MIN_PER_SECOND};
use crate::store::durable::{Table, Write};
use crate::store::remote::{LinkState, Shard};
use crate::store::{Store, StoreError, reading, rows};

/// How often the healer works.
const STEP: Duration = Duration::from_millis(100);
const STEPS_PER_SECOND: u64 = 10;
/// After a disagreement that somebody has to settle.
const DISAGREE_PAUSE: Duration = Duration::from_secs(10);
/// A call that takes longer than this says that the shared store is busy, if more than one in so many does.
const SLOW: Duration = Duration::from_millis(20);
const SLOW_SHARE: u64 = 20;
/// Everything is offered again this often, whatever is thought to be there.
const AUDIT_EVERY_MS: u64 = 600_000;
/// An audit that could not offer all is repeated after this long.
const SKIPPED_AGAIN_MS: u64 = 30_000;
/// Rows that are read of the disk together.
const PAGE: usize = 256;
/// Rows that are removed from it together.
const CLEARED: usize = 4_096;

/// Where the healer is.
#[derive(Debug, Default)]
pub(super) struct Pace {
    news: Notify,
    /// An audit was asked for: the next one begins at the first session.
    wanted: AtomicBool,
    auditing: AtomicBool,
    /// Sessions of an audit are offered as fast as debts are paid: something was lost.
    urgent: AtomicBool,
    /// Some of the sessions of this audit could not be offered.
    skipped: AtomicBool,
    cursor: Mutex<Vec<u8>>,
    /// The end of the last one, on the clock that never goes back.
    ended_ms: AtomicU64,
    per_second: AtomicU64,
    /// Calls to the shared store since the last step, and how many of them were slow.
    calls: AtomicU64,
    slow: AtomicU64,
}

impl Pace {
    pub(super) fn wake(&self) {
        self.news.notify_one();
    }

    pub(super) fn audit(&self) {
        self.urgent.store(true, Ordering::Release);
        self.wanted.store(true, Ordering::Release);
        self.news.notify_one();
    }

    pub(super) fn is_auditing(&self) -> bool {
        self.auditing.load(Ordering::Acquire) || self.wanted.load(Ordering::Acquire)
    }

    /// How many in this step.
    fn step(&self) -> usize {
        usize::try_from(self.rate() / STEPS_PER_SECOND).unwrap_or(1)
    }

    fn rate(&self) -> u64 {
        self.per_second.load(Ordering::Relaxed).clamp(HEAL_MIN_PER_SECOND, HEAL_MAX_PER_SECOND)
    }

    /// The shared store took so long for a call. What this instance itself has to do for a payment says nothing of it.
    pub(super) fn saw(&self, call: Duration) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.slow.fetch_add(u64::from(call > SLOW), Ordering::Relaxed);
    }

    /// At what pace the next step goes: half as fast when the shared store was slow in this one, else faster.
    fn adapt(&self) {
        let (calls, slow) = (self.calls.swap(0, Ordering::Relaxed), self.slow.swap(0, Ordering::Relaxed));
        let rate = self.rate();
        let next = if slow.saturating_mul(SLOW_SHARE) > calls { rate / 2 } else { rate + rate / 4 };
        self.per_second.store(next.clamp(HEAL_MIN_PER_SECOND, HEAL_MAX_PER_SECOND), Ordering::Relaxed);
    }

    fn cursor(&self) -> Vec<u8> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_cursor(&self, cursor: Vec<u8>) {
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = cursor;
    }
}

impl Store {
    /// Looks after what is shared, as long as it is polled: what was heard of, what is owed, audits.
    pub async fn run_sharing(self: Arc<Self>) {
        if self.sharing.get().is_some() {
            tokio::join!(self.look_around(), self.heal(), self.keep_voided());
        }
    }

    async fn heal(&self) {
        let Some(sharing) = self.sharing.get() else { return };
        // What this instance held before it came here, and what happened while it was away.
        sharing.pace.wanted.store(true, Ordering::Release);
        let mut since_rows = 0;
        let mut rest = STEP;
        loop {
            let _ = tokio::time::timeout(rest, sharing.pace.news.notified()).await;
            let begun = tokio::time::Instant::now();
            let step = sharing.pace.step();
            self.offset_ms.store(sharing.remote.clock_offset_ms(), Ordering::Relaxed);
            if !sharing.is_agreed() {
                self.try_to_agree(sharing).await;
                rest = STEP;
                continue;
            }
            self.agree_again(sharing).await;
            let result = async {
                let paid = self.heal_some(step).await?;
                let audits = match sharing.pace.urgent.load(Ordering::Acquire) {
                    true => step.saturating_sub(paid),
                    false => (step / 10).max(1).min(step.saturating_sub(paid)),
                };
                self.audit_some(audits).await?;
                since_rows += 1;
                if since_rows >= STEPS_PER_SECOND {
                    since_rows = 0;
                    self.clear_debts().await?;
                }
                Ok::<(), StoreError>(())
            };
            if let Err(error) = result.await {
                tracing::warn!(%error, "healing waits for the disk");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // One burst of news is one step; what the step took is part of its time.
            tokio::time::sleep((STEP / 2).saturating_sub(begun.elapsed())).await;
            rest = STEP.saturating_sub(begun.elapsed());
        }
    }

    /// Agrees with the sisters, as soon as they can be asked.
    async fn try_to_agree(&self, sharing: &Sharing) {
        if sharing.remote.state(Shard(0)) == LinkState::Up
            && let Err(Disagreement::Keys(why)) = self.agree().await
        {
            tracing::error!(why, "nothing is shared with other instances");
            *sharing.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            tokio::time::sleep(DISAGREE_PAUSE).await;
        }
    }

    /// Says again what was agreed on, if the shared store may have lost it: an instance that comes anew would make keys of
    /// its own, and know no session of the others. Sharing goes on meanwhile, unless somebody has said something else.
    async fn agree_again(&self, sharing: &Sharing) {
        if sharing.remote.state(Shard(0)) != LinkState::Up || !sharing.unsure.swap(false, Ordering::AcqRel) {
            return;
        }
        match self.confirm(sharing).await {
            Ok(()) => {}
            Err(Disagreement::Away) => sharing.unsure.store(true, Ordering::Release),
            Err(Disagreement::Keys(_)) => sharing.agreed.store(false, Ordering::Release),
        }
    }

    /// Pays for at most `max` sessions. Returns for how many it was tried.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn heal_some(&self, max: usize) -> Result<usize, StoreError> {
        let Some(sharing) = self.sharing.get() else { return Ok(0) };
        if sharing.debts.is_spilled() && sharing.debts.count() < PAGE.min(sharing.debts.room()) {
            self.find_debts(sharing).await?;
        }
        let now_ms = self.clock.monotonic_ms();
        let mut keys = sharing.debts.owing(max, now_ms);
        keys.retain(|key| sharing.is_up(*key));
        let count = keys.len();
        if count == 0 {
            return Ok(0);
        }
        let begun = tokio::time::Instant::now();
        futures_util::stream::iter(keys)
            .for_each_concurrent(HEAL_AT_ONCE, |key| async move {
                self.pay(key, None).await;
                sharing.counts.healed.fetch_add(1, Ordering::Relaxed);
            })
            .await;
        sharing.counts.healing_ms.fetch_add(millis(begun.elapsed()), Ordering::Relaxed);
        sharing.pace.adapt();
        Ok(count)
    }

    /// Reads from the disk who owes something.
    async fn find_debts(&self, sharing: &Sharing) -> Result<(), StoreError> {
        // Who owes more from here on is known in memory, or sets this again.
        sharing.debts.set_spilled(false);
        let mut from = Vec::new();
        loop {
            let start = from.clone();
            let page =
                reading(&self.disk, move |disk| disk.scan(Table::Dirty, &start, &[u8::MAX; 64], PAGE)).await;
            let page = page.inspect_err(|_| sharing.debts.set_spilled(true))?;
            let full = page.len() == PAGE;
            for (row, _) in page {
                if let Ok(key) = row.as_slice().try_into() {
                    sharing.debts.found(SessionKey::from_bytes(key));
                }
                from = [row.as_slice(), &[0]].concat();
            }
            if !full {
                return Ok(());
            }
            if sharing.debts.room() < PAGE {
                sharing.debts.set_spilled(true);
                return Ok(());
            }
        }
    }

    /// Removes the rows of debts that are paid.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn clear_debts(&self) -> Result<(), StoreError> {
        let Some(sharing) = self.sharing.get() else { return Ok(()) };
        loop {
            let settled = sharing.debts.settled(CLEARED);
            if settled.is_empty() {
                return Ok(());
            }
            let place = self.queue.place().await?;
            let sharing = Arc::clone(sharing);
            self.decide(place, move |_| {
                let rows = settled.into_iter().filter(|key| sharing.debts.forget(*key));
                Ok((rows.map(|key| Write::Delete(Table::Dirty, key.as_bytes().to_vec())).collect(), ()))
            })
            .await?;
        }
    }

    /// Offers the next `max` sessions, if an audit is due.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn audit_some(&self, max: usize) -> Result<(), StoreError> {
        let Some(sharing) = self.sharing.get() else { return Ok(()) };
        let pace = &sharing.pace;
        let now_ms = self.clock.monotonic_ms();
        let due = now_ms.saturating_sub(pace.ended_ms.load(Ordering::Relaxed)) >= AUDIT_EVERY_MS;
        if max == 0 {
            return Ok(());
        }
        if pace.wanted.swap(false, Ordering::AcqRel) || (due && !pace.auditing.load(Ordering::Acquire)) {
            pace.set_cursor(Vec::new());
            pace.auditing.store(true, Ordering::Release);
            sharing.unsure.store(true, Ordering::Release);
            if !self.offer(sharing, SessionKey::BROADCAST).await {
                pace.wanted.store(true, Ordering::Release);
                return Ok(());
            }
        }
        if !pace.auditing.load(Ordering::Acquire) {
            return Ok(());
        }
        let from = pace.cursor();
        let page =
            reading(&self.disk, move |disk| disk.scan(Table::Head, &from, &[u8::MAX; 64], max)).await?;
        let full = page.len() == max;
        for (row, _) in page {
            let Ok(key) = <[u8; SessionKey::LEN]>::try_from(row.as_slice()) else { continue };
            let key = SessionKey::from_bytes(key);
            if self.offer(sharing, key).await {
                sharing.counts.audited.fetch_add(1, Ordering::Relaxed);
            } else {
                pace.skipped.store(true, Ordering::Relaxed);
            }
            pace.set_cursor(rows::after(&row));
        }
        if !full {
            pace.auditing.store(false, Ordering::Release);
            pace.urgent.store(pace.wanted.load(Ordering::Acquire), Ordering::Release);
            // Of a shard that is away nothing was offered: not long from now again.
            let skipped = pace.skipped.swap(false, Ordering::Relaxed);
            let again_ms = if skipped { AUDIT_EVERY_MS - SKIPPED_AGAIN_MS } else { 0 };
            pace.ended_ms.store(now_ms.saturating_sub(again_ms), Ordering::Relaxed);
        }
        Ok(())
    }
}
