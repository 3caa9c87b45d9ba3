//! The commit thread: it alone writes to the disk, and the writes that wait together share one sync.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::durable::{Durable, Table, Usage, Write};
use super::{Done, StoreError, record, rows};
use crate::base::limits::{COMMIT_GROUP, COMMIT_QUEUE};
use crate::state::quota::Level;
use crate::telemetry::metrics;

/// How often the room on the disk is looked at.
const SPACE_CHECK: Duration = Duration::from_secs(1);
/// How far ahead of the stamps in use their highest possible time is written down: one row per second of activity.
const CLOCK_AHEAD_MS: u64 = 1_000;

/// Makes the changes of a job on the commit thread, where nothing else is written at the same time. An error fails
/// this job alone.
pub(super) type Decide = Box<dyn FnOnce(&dyn Durable) -> Result<Vec<Write>, StoreError> + Send>;

/// What is to be written.
pub(super) enum Work {
    /// These changes.
    Writes(Vec<Write>),
    /// What this finds to be due.
    Decide(Decide),
}

/// One job of the commit thread. Whatever happens to it, its `done` is called once.
struct Job {
    work: Work,
    /// The time of the newest stamp in it; 0: none.
    newest_ms: u64,
    done: Option<Done>,
    health: Arc<Health>,
    _place: OwnedSemaphorePermit,
}

impl Job {
    fn finish(mut self, result: Result<(), StoreError>) {
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // The thread that writes panics, and takes this job along: who waits for it must find the store poisoned.
            let error = match std::thread::panicking() {
                true => self.health.set_poison(&StoreError::Io("the commit thread panicked".into())),
                false => StoreError::Closed,
            };
            done(Err(error));
        }
    }
}

/// Why writes are refused.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Trouble>);

#[derive(Debug, Default)]
struct Trouble {
    poison: Option<StoreError>,
    full: Option<StoreError>,
    level: Level,
    usage: Usage,
}

impl Trouble {
    /// Why nothing that takes room is written, if it is not.
    fn full(&self) -> Option<StoreError> {
        self.full.clone().or_else(|| (self.level == Level::NoWrites).then(|| self.usage_error("writes")))
    }

    fn usage_error(&self, what: &str) -> StoreError {
        let Usage { used, max } = self.usage;
        StoreError::Full(format!(
            "the data takes {used} of the {max} bytes that it may take (store.max_bytes, or what the filesystem has \
             left): new {what} are refused until sessions have ended or there is more room"
        ))
    }
}

impl Health {
    /// The reason, if there is one.
    pub(super) fn trouble(&self) -> Option<StoreError> {
        let trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.poison.clone().or_else(|| trouble.full())
    }

    /// Why there are no new sessions, if there are none.
    pub(super) fn crowded(&self) -> Option<StoreError> {
        let trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (trouble.level >= Level::NoSessions).then(|| trouble.usage_error("sessions"))
    }

    /// What may still be written, bytes, as it was looked at last; `None`: there is no bound, or nobody has looked yet.
    pub(super) fn free(&self) -> Option<u64> {
        let Usage { used, max } = self.0.lock().unwrap_or_else(PoisonError::into_inner).usage;
        (max > 0 && max < u64::MAX).then(|| max.saturating_sub(used))
    }

    /// The reason that stays until a restart, if there is one.
    pub(super) fn poison(&self) -> Option<StoreError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).poison.clone()
    }

    fn set_poison(&self, error: &StoreError) -> StoreError {
        let mut trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        trouble
            .poison
            .get_or_insert_with(|| {
                tracing::error!(%error, "the disk failed: nothing more is written until a restart");
                StoreError::Poisoned(match error {
                    StoreError::Io(text) | StoreError::Poisoned(text) => text.clone(),
                    other => other.to_string(),
                })
            })
            .clone()
    }

    /// Looks at the room that there is.
    fn look(&self, durable: &dyn Durable) {
        let (full, usage) = (durable.check_space().err(), durable.usage());
        let mut trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (trouble.full(), trouble.level);
        trouble.level = trouble.level.after(usage.used, usage.max);
        trouble.usage = usage;
        trouble.full = full;
        match (&before.0, trouble.full()) {
            (None, Some(error)) => tracing::error!(%error, "new writes are refused"),
            (Some(_), None) => tracing::warn!("there is room on the disk again: writes go on"),
            _ => {}
        }
        let Usage { used, max } = usage;
        match (before.1 >= Level::NoSessions, trouble.level >= Level::NoSessions) {
            (false, true) => tracing::error!(used, max, "the disk fills up: new sessions are refused"),
            (true, false) => {
                tracing::warn!(used, max, "there is room on the disk: new sessions are accepted")
            }
            _ => {}
        }
    }
}

/// The way to the commit thread.
pub(super) struct CommitQueue {
    /// `None` once closed: the thread ends when the last sender is gone.
    sender: Mutex<Option<flume::Sender<Job>>>,
    places: Arc<Semaphore>,
    health: Arc<Health>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl CommitQueue {
    /// Starts the thread. `clock_ms` is the time up to which stamps have been written down, `tick` the last tick.
    pub(super) fn start(durable: Arc<dyn Durable>, clock_ms: u64, tick: u64) -> Result<Self, StoreError> {
        let (sender, receiver) = flume::bounded(COMMIT_QUEUE);
        let health = Arc::new(Health::default());
        health.look(&*durable);
        let writer = Writer { durable, health: Arc::clone(&health), clock_ms, tick };
        let thread = std::thread::Builder::new()
            .name("commit".into())
            .spawn(move || serve(writer, &receiver))
            .map_err(|error| StoreError::Io(format!("cannot start the commit thread: {error}")))?;
        Ok(Self {
            sender: Mutex::new(Some(sender)),
            places: Arc::new(Semaphore::new(COMMIT_QUEUE)),
            health,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Why writes are refused, if they are.
    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// Waits for a place; also when the disk is full, for what makes room.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        self.health.poison().map_or(Ok(()), Err)?;
        Arc::clone(&self.places).acquire_owned().await.map_err(|_| StoreError::Closed)
    }

    /// A place, if one is free and the disk takes writes.
    pub(super) fn try_place(&self) -> Option<OwnedSemaphorePermit> {
        if self.health.trouble().is_some() {
            return None;
        }
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Queues a job. The order of the calls is the order on the disk. Never blocks: who has a place has room.
    pub(super) fn submit(&self, place: OwnedSemaphorePermit, work: Work, newest_ms: u64, done: Done) {
        let health = Arc::clone(&self.health);
        let job = Job { work, newest_ms, done: Some(done), health, _place: place };
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = &*sender else { return self.refuse(job) };
        match queue.try_send(job) {
            Ok(()) => {}
            Err(flume::TrySendError::Full(job) | flume::TrySendError::Disconnected(job)) => {
                self.refuse(job);
            }
        }
    }

    /// Not on the caller's thread: it may hold a lock that `done` takes.
    fn refuse(&self, job: Job) {
        let error = self.health.poison().unwrap_or(StoreError::Closed);
        let refuse = std::thread::Builder::new().name("commit-refused".into());
        if let Err(error) = refuse.spawn(move || job.finish(Err(error))) {
            tracing::error!(%error, "a write was refused and its caller could not be told");
        }
    }

    /// Takes no more jobs, and waits until all of them are done.
    pub(super) async fn drain(&self) {
        if let Ok(count) = u32::try_from(COMMIT_QUEUE)
            && let Ok(all) = self.places.acquire_many(count).await
        {
            self.places.close();
            drop(all);
        }
    }

    /// Lets the thread end, after [`CommitQueue::drain`].
    pub(super) fn ending(&self) -> Ending {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ending { thread, health: Arc::clone(&self.health) }
    }
}

/// The commit thread as it ends.
pub(super) struct Ending {
    thread: Option<JoinHandle<()>>,
    health: Arc<Health>,
}

impl Ending {
    /// Blocks until it has ended. An error says why what was written last may not be on the disk.
    pub(super) fn join(self) -> Result<(), StoreError> {
        if self.thread.is_some_and(|thread| thread.join().is_err()) {
            return Err(StoreError::Io("the commit thread panicked".into()));
        }
        self.health.poison().map_or(Ok(()), Err)
    }
}

/// Runs the writer. Should it panic, nobody waits in vain: the store is poisoned, and every job is told so.
fn serve(writer: Writer, receiver: &flume::Receiver<Job>) {
    let health = Arc::clone(&writer.health);
    if catch_unwind(AssertUnwindSafe(|| writer.run(receiver))).is_err() {
        let poison = health.set_poison(&StoreError::Io("the commit thread panicked".into()));
        while let Ok(job) = receiver.recv() {
            job.finish(Err(poison.clone()));
        }
    }
}

struct Writer {
    durable: Arc<dyn Durable>,
    health: Arc<Health>,
    clock_ms: u64,
    tick: u64,
}

impl Writer {
    fn run(mut self, receiver: &flume::Receiver<Job>) {
        let mut since_check = 0_usize;
        let mut next_check = Instant::now() + SPACE_CHECK;
        loop {
            match receiver.recv_timeout(SPACE_CHECK) {
                Ok(first) => {
                    let rest = receiver.try_iter().take(COMMIT_GROUP - 1);
                    self.commit(std::iter::once(first).chain(rest).collect());
                    since_check += 1;
                }
                Err(flume::RecvTimeoutError::Timeout) => since_check = usize::MAX,
                Err(flume::RecvTimeoutError::Disconnected) => return,
            }
            // Under load a second is long: a look per hundred groups is about one in a tenth of a second.
            if since_check >= 100 || Instant::now() >= next_check {
                since_check = 0;
                next_check = Instant::now() + SPACE_CHECK;
                self.health.look(&*self.durable);
            }
        }
    }

    fn commit(&mut self, group: Vec<Job>) {
        let begun = tokio::time::Instant::now();
        let mut written = Vec::with_capacity(group.len());
        let mut failed = self.health.poison();
        let mut dirty = false;
        for mut job in group {
            if let Some(poison) = &failed {
                job.finish(Err(poison.clone()));
                continue;
            }
            let work = std::mem::replace(&mut job.work, Work::Writes(Vec::new()));
            let writes = match work {
                Work::Writes(writes) => Ok(writes),
                Work::Decide(decide) => decide(&*self.durable),
            };
            let writes = match writes {
                Ok(writes) => writes,
                Err(error) if error.is_refusal() => {
                    job.finish(Err(error));
                    continue;
                }
                // Later writes may build on this one: none of them is done either.
                Err(error) => {
                    let poison = self.health.set_poison(&error);
                    job.finish(Err(poison.clone()));
                    failed = Some(poison);
                    continue;
                }
            };
            dirty |= !writes.is_empty();
            let result = self.note_clock(job.newest_ms).and_then(|()| match writes.is_empty() {
                true => Ok(()),
                false => self.durable.write(writes),
            });
            if let Err(error) = result {
                failed = Some(self.health.set_poison(&error));
            }
            written.push(job);
        }
        if failed.is_none() && dirty {
            match self.tick().and_then(|()| self.durable.sync()) {
                Ok(()) => self.durable.witness(self.tick),
                Err(error) => {
                    metrics::of_process().fsync_errors.inc();
                    failed = Some(self.health.set_poison(&error));
                }
            }
            metrics::of_process().commit_seconds.observe(begun.elapsed().as_secs_f64());
        }
        for job in written {
            job.finish(failed.clone().map_or(Ok(()), Err));
        }
    }

    /// Ends a group: a disk on which it is missing has lost what was written since.
    fn tick(&mut self) -> Result<(), StoreError> {
        self.tick = self.tick.saturating_add(1);
        self.durable.write(vec![Write::Put(
            Table::Meta,
            rows::META_TICK.to_vec(),
            self.tick.to_be_bytes().to_vec(),
        )])
    }

    /// Writes down, before the first stamp of a time, that stamps up to a little later may be in use: a restart then
    /// never gives a stamp twice, whatever the system's clock has done.
    fn note_clock(&mut self, newest_ms: u64) -> Result<(), StoreError> {
        if newest_ms <= self.clock_ms {
            return Ok(());
        }
        let ahead = newest_ms.saturating_add(CLOCK_AHEAD_MS);
        let clock = Write::Put(Table::Meta, rows::META_CLOCK.to_vec(), record::encode(&ahead)?);
        self.durable.write(vec![clock])?;
        self.clock_ms = ahead;
        Ok(())
    }
}
