//! What was said in a session, and what is said now.

use super::commit::Work;
use super::durable::{Durable, Table};
use super::record::{self, Head};
use super::{Done, Place, Store, StoreError, reading, rows};
use crate::base::ids::SessionKey;
use crate::state::log::{Cut, Entry, Log};

impl Store {
    /// The retained log of a session, of all origins, as far as the disk has it. Runs of which nothing is retained
    /// are there with their highest number.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn log(&self, key: SessionKey) -> Result<Log, StoreError> {
        let sealer = self.sealer.clone();
        reading(&self.disk, move |disk| rows::read_log(disk, &sealer, key)).await
    }

    /// The highest number in a session's run of this process, as far as the disk has it; 0: nothing was said. The
    /// entries need not open for it.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn high_water(&self, key: SessionKey) -> Result<u64, StoreError> {
        let origin = self.origin;
        reading(&self.disk, move |disk| {
            let marks = rows::read_marks(disk, key)?.into_iter();
            let cut = marks.map(|(of, mark)| (of, mark.base.saturating_sub(1)));
            let all = cut.chain(rows::high_waters(disk, key)?);
            Ok(all.filter(|(of, _)| *of == origin).map(|(_, number)| number).max().unwrap_or(0))
        })
        .await
    }

    /// Queues entries of this process's run for the disk, in the order of the calls; `done` is called when they are
    /// there. `trimmed`: what goes of the runs. Never blocks. Entries for a session that is
    /// not there fail with [`StoreError::Gone`]; those of [`SessionKey::BROADCAST`] need no session.
    pub fn append(&self, place: Place, key: SessionKey, entries: Vec<Entry>, trimmed: Vec<Cut>, done: Done) {
        self.append_as(place, key, &[], &entries, trimmed, done);
    }

    /// As [`Store::append`], of entries that the shared store has and of `own` ones that it does not have yet.
    pub(super) fn append_as(
        &self,
        place: Place,
        key: SessionKey,
        shared: &[Entry],
        own: &[Entry],
        trimmed: Vec<Cut>,
        done: Done,
    ) {
        let now_ms = self.clock.now_ms();
        // Sealed here, by the many, not on the one thread that writes.
        let mut writes = Vec::with_capacity(shared.len() + own.len() + 2 * trimmed.len());
        let mut entries = shared.iter().chain(own);
        let sealed = entries.try_for_each(|entry| rows::put_entry(&self.sealer, key, entry, &mut writes));
        let decide = move |disk: &dyn Durable| {
            sealed?;
            if key != SessionKey::BROADCAST {
                let head = disk.get(Table::Head, key.as_bytes())?.ok_or(StoreError::Gone)?;
                if record::decode::<Head>(&head)?.ended.is_some() {
                    return Err(StoreError::Gone);
                }
            }
            for cut in trimmed {
                rows::trim(key, cut, now_ms, &mut writes)?;
            }
            Ok(writes)
        };
        let mut work = Work::Decide(Box::new(decide));
        let pledged = self.pledge_entries(key, own, &mut work);
        let done: Done = match pledged {
            Some(pledged) => Box::new(move |result| {
                pledged.arrived(result.is_ok());
                done(result);
            }),
            None => done,
        };
        self.queue.submit(place.0, work, 0, done);
    }
}
