//! What happens when time is up: sessions that nobody used, sessions past their deadline, old tombstones.
//!
//! The index by time names every session once or more, at a time not after it is due. Its rows are looked at when
//! their time has come, and put off when the session was used since; so a use costs nothing here.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use tokio::sync::oneshot;

use super::commit::Work;
use super::durable::{Durable, Table, Write};
use super::record::{Head, StoredResult};
use super::sessions::{Shard, State};
use super::{Settings, Store, StoreError, boot, reading, record, rows};
use crate::base::ids::SessionKey;
use crate::state::log::Cut;

/// Rows of the index that are looked at together.
const BATCH: usize = 256;
/// How often old marks of broadcasts are looked for.
const MARKS_EVERY_MS: u64 = 3_600_000;

/// When was what done last.
#[derive(Debug, Default)]
pub(super) struct Pace {
    marks_ms: u64,
}

/// When somebody has to look at a session, by what the disk knows of it. Uses come to the disk late by up to a tenth
/// of the idle time, so a session is given that much more before it is judged by the disk alone.
pub(super) fn due_ms(settings: Settings, head: &Head) -> u64 {
    if head.ended.is_some() {
        return head.deadline_ms;
    }
    let idle = settings.idle_ms.saturating_add(settings.touch_ms());
    head.seen.0.ms().saturating_add(idle).max(head.keep_ms).min(head.deadline_ms)
}

/// The changes that take away a session's document and log, but leave the highest number of each run: its id may
/// come back, and then nobody may take a new entry for one that he has seen.
pub(super) fn fade(disk: &dyn Durable, key: SessionKey, now_ms: u64) -> Result<Vec<Write>, StoreError> {
    let mut writes = vec![Write::Delete(Table::Head, key.as_bytes().to_vec()), rows::clear(Table::Doc, key)];
    for (id, result) in rows::read_results(disk, key)? {
        rows::remove_result(&id, &result, &mut writes);
    }
    for (origin, hw) in rows::high_waters(disk, key)? {
        let all = Cut { origin, base: hw.saturating_add(1), get: hw };
        rows::trim(key, all, now_ms, &mut writes)?;
    }
    Ok(writes)
}

/// The changes that leave nothing of a session.
fn purge(disk: &dyn Durable, key: SessionKey) -> Result<Vec<Write>, StoreError> {
    let mut writes = vec![
        rows::clear(Table::Doc, key),
        rows::clear(Table::Log, key),
        rows::clear(Table::Mark, key),
        Write::Delete(Table::Head, key.as_bytes().to_vec()),
    ];
    for (id, result) in rows::read_results(disk, key)? {
        rows::remove_result(&id, &result, &mut writes);
    }
    Ok(writes)
}

impl Store {
    /// Removes what has expired: sessions past their idle time or deadline, old tombstones. Returns how many sessions.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        let now_ms = self.clock.now_ms();
        let mut from = Vec::new();
        let mut removed = 0;
        loop {
            let start = from.clone();
            let end = now_ms.saturating_add(1).to_be_bytes();
            let due = reading(&self.disk, move |disk| disk.scan(Table::Expiry, &start, &end, BATCH)).await?;
            let Some((last, _)) = due.last() else { break };
            from = rows::after(last);
            let full = due.len() == BATCH;
            let mut by_session: BTreeMap<SessionKey, Vec<Vec<u8>>> = BTreeMap::new();
            for (row, _) in due {
                if let Some((_, key)) = rows::read_expiry(&row) {
                    by_session.entry(key).or_default().push(row);
                }
            }
            let mut waiting = Vec::with_capacity(by_session.len());
            for (key, rows) in by_session {
                waiting.extend(self.look_at(rows, key, now_ms).await?.map(|told| (key, told)));
            }
            for (key, told) in waiting {
                if told.await.unwrap_or(Err(StoreError::Closed))? {
                    removed += 1;
                    self.release_locks_of(key).await?;
                }
            }
            if !full {
                break;
            }
        }
        self.sweep_results(now_ms).await?;
        self.sweep_locks().await?;
        self.sweep_marks(now_ms).await?;
        Ok(removed)
    }

    /// Queues what is due for a session's rows of the index. Nothing while the session is being written: the next
    /// sweep finds the rows again.
    async fn look_at(
        &self,
        index: Vec<Vec<u8>>,
        key: SessionKey,
        now_ms: u64,
    ) -> Result<Option<oneshot::Receiver<Result<bool, StoreError>>>, StoreError> {
        let place = self.queue.place().await?;
        let mut look = |shard: &mut Shard, current: State| {
            if shard.is_writing(key) {
                return None;
            }
            let stays = current.as_ref().filter(|session| !session.is_over(now_ms));
            let due_ms = stays.map(|session| match session.doc.ended() {
                Some(_) => session.doc.deadline_ms(),
                None => session.life.until_ms().min(session.doc.deadline_ms()),
            });
            let next = stays.cloned();
            let counted = current.as_ref().filter(|session| session.doc.ended().is_none() && next.is_none());
            let principal = counted.map(|session| Arc::clone(session.doc.principal()));
            shard.begin(key, current, next.clone());
            let (tell, told) = oneshot::channel();
            let sessions = Arc::clone(&self.sessions);
            let done = move |result: Result<(), StoreError>| {
                if let (Ok(()), Some(principal)) = (&result, &principal) {
                    sessions.counts().remove(principal);
                }
                sessions.finish(key, next, &result);
                // A sweep that was given up wants to know nothing.
                let _ = tell.send(result.map(|()| principal.is_some()));
            };
            let decide = move |disk: &dyn Durable| decide(disk, index, key, now_ms, due_ms);
            self.queue.submit(place, Work::Decide(Box::new(decide)), 0, Box::new(done));
            Some(told)
        };
        let mut read = None;
        loop {
            match self.sessions.with_latest(key, read.take(), look) {
                Ok(told) => return Ok(told),
                Err((epoch, back)) => {
                    look = back;
                    let state = match self.read(key, epoch).await {
                        // Its time can be over although its values cannot be read; until then it stays as it is.
                        Err(StoreError::Sealed(_)) => match self.read_head(key).await? {
                            Some(session) if session.is_over(now_ms) => Some(Some(session)),
                            _ => return Ok(None),
                        },
                        read => read?,
                    };
                    read = state.map(|state| (epoch, state));
                }
            }
        }
    }

    /// Removes the results whose time is over.
    async fn sweep_results(&self, now_ms: u64) -> Result<(), StoreError> {
        let (mut from, to) = rows::results_due(now_ms);
        loop {
            let (start, end) = (from.clone(), to.clone());
            let due = reading(&self.disk, move |disk| disk.scan(Table::Result, &start, &end, BATCH)).await?;
            let Some((last, _)) = due.last() else { return Ok(()) };
            from = [last, [0].as_slice()].concat();
            let full = due.len() == BATCH;
            let place = self.queue.place().await?;
            self.decide(place, move |disk| {
                let mut writes = Vec::new();
                for (row, _) in due {
                    // The result may have been put anew, to be kept for longer, in the meantime.
                    if let Some((due_ms, id)) = rows::read_result_due(&row)
                        && let Some(stored) = disk.get(Table::Result, &rows::result(&id))?
                    {
                        let result: StoredResult = record::decode(&stored)?;
                        if result.expires_ms == due_ms {
                            rows::remove_result(&id, &result, &mut writes);
                        }
                    }
                    writes.push(Write::Delete(Table::Result, row));
                }
                Ok((writes, ()))
            })
            .await?;
            if !full {
                return Ok(());
            }
        }
    }

    async fn sweep_marks(&self, now_ms: u64) -> Result<(), StoreError> {
        {
            let mut pace = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
            if now_ms < pace.marks_ms.saturating_add(MARKS_EVERY_MS) {
                return Ok(());
            }
            pace.marks_ms = now_ms;
        }
        let keep_ms = self.settings.keep_ms;
        let place = self.queue.place().await?;
        self.decide(place, move |disk| {
            let mut writes = Vec::new();
            boot::old_broadcast_marks(disk, now_ms, keep_ms, &mut writes)?;
            Ok((writes, ()))
        })
        .await
    }
}

/// What is due for a session whose rows of the index have come up. `due_ms`: it stays, and that is when to look again.
fn decide(
    disk: &dyn Durable,
    index: Vec<Vec<u8>>,
    key: SessionKey,
    now_ms: u64,
    due_ms: Option<u64>,
) -> Result<Vec<Write>, StoreError> {
    let mut writes = Vec::new();
    let put_off = |to_ms: u64| Write::Put(Table::Expiry, rows::expiry(to_ms, key), Vec::new());
    let head = disk.get(Table::Head, key.as_bytes())?;
    match (due_ms, head.map(|stored| record::decode::<Head>(&stored)).transpose()?) {
        (Some(due_ms), Some(_)) => writes.push(put_off(due_ms)),
        (None, Some(head)) if now_ms < head.deadline_ms => {
            writes.extend(fade(disk, key, now_ms)?);
            // The marks that stay go at the deadline; there are none if nothing was ever said.
            if writes.iter().any(|write| matches!(write, Write::Put(Table::Mark, ..)))
                || !rows::read_marks(disk, key)?.is_empty()
            {
                writes.push(put_off(head.deadline_ms));
            }
        }
        (_, _) => writes.extend(purge(disk, key)?),
    }
    // The index goes last: a crash before leaves it to be looked at again.
    writes.extend(index.into_iter().map(|row| Write::Delete(Table::Expiry, row)));
    Ok(writes)
}
