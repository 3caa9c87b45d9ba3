//! The store: session documents and logs, one read path and one write path.
//!
//! A write is acknowledged when the disk has it (`config::Durability`). Reads are served from memory where it holds
//! what is asked for.
//!
//! A write of a session takes its place in the order under a short lock (`sessions`), which also says on what it
//! builds; then it waits for the commit thread (`commit`), the only one that writes to the disk (`durable`). What
//! rows there are and what is in them say `rows` and `record`; how several of them hold together over a crash, `redo`;
//! how values are packed and sealed, `payload`; where the keys are, `keyring`; what happens when time is up, `sweep`.

pub mod absent;
mod backup;
pub mod boot;
mod cache;
mod commit;
pub mod dir;
pub mod durable;
mod error;
mod guard;
pub mod holder;
pub mod keyring;
mod lifetime;
mod listing;
mod locks;
mod log;
pub mod memory;
pub mod payload;
mod read;
pub mod record;
pub mod redis;
mod redo;
pub mod remote;
mod reseal;
mod results;
mod rows;
mod sessions;
pub mod share;
pub mod sled;
mod space;
mod suspicion;
mod sweep;
mod transfer;
mod upgrade;
mod values;
mod write;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use self::backup::Backups;
use self::commit::{CommitQueue, Work};
use self::durable::{Durable, Write};
use self::keyring::Keyring;
use self::locks::Locks;
use self::payload::Sealer;
use self::read::{blocking, doc_of, head_of, read_session, reading, session_of};
use self::sessions::Sessions;
use self::share::Owed;
use self::sled as database;
use self::values::Values;
use self::write::{NewSession, Plan, unchanged};
use crate::base::clock::{SharedClock, millis};
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::CACHE_BYTES;
use crate::base::seal::Keys;
use crate::config;
use crate::state::doc::Doc;
use crate::state::quota::Limits;
use crate::state::stamp::{Hlc, Stamp};

pub use self::error::StoreError;
pub use self::guard::Guard;
pub use self::lifetime::Ttl;
pub use self::listing::{
    FieldInfo, Filter, Inspection, LockInfo, ResultInfo, RunInfo, SessionPage, SessionSummary, StreamInfo,
};
pub use self::locks::{Lock, LockCounts, Turn};
pub use self::results::{KNOWN_LISTS, Known, ResultId};
pub use self::transfer::ImportError;

/// What [`Store::create_new`] found or made.
#[derive(Clone, Debug)]
pub struct Created {
    /// The session's document.
    pub doc: Arc<Doc>,
    /// Whether it was made now; else it lived already and stays as it is.
    pub made: bool,
}

/// Where a session stands in the store.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// It lives.
    Live(Arc<Doc>),
    /// It was ended; the tombstone stays until its deadline.
    Terminated,
    /// Nothing is known of it.
    Unknown,
}

/// A value of a session document: `None` deletes the field.
pub type FieldWrite = (String, Option<Bytes>);

/// Called once the disk has a write, or has refused it. Runs on the commit thread: it must be short.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A place in the queue of the commit thread, taken before a lock is held under which a write's order is decided.
#[derive(Debug)]
pub struct Place(OwnedSemaphorePermit);

/// The store of one instance.
pub struct Store {
    origin: Origin,
    /// Process starts on this disk before this one.
    earlier: Vec<Origin>,
    sealer: Sealer,
    /// Where the keys are kept, if they are.
    keyring: Option<Arc<Mutex<Keyring>>>,
    clock: SharedClock,
    settings: Settings,
    disk: Arc<dyn Durable>,
    queue: CommitQueue,
    sessions: Arc<Sessions>,
    locks: Locks,
    values: Values,
    stamps: Mutex<Hlc>,
    closed: AtomicBool,
    sweeping: Mutex<sweep::Pace>,
    /// An earlier start shared what is held here.
    was_shared: bool,
    /// What is shared with other instances, if anything is.
    sharing: OnceLock<Arc<share::Sharing>>,
    /// Where copies of the sessions are; none: nothing is kept on a disk.
    backups: OnceLock<Backups>,
    /// How far the clock that instances share is ahead of this machine's, milliseconds.
    offset_ms: AtomicI64,
    /// Tells stamps of sessions that were rehydrated apart.
    rehydrated: AtomicU16,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("origin", &self.origin).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    idle_ms: u64,
    keep_ms: u64,
    max_total: usize,
    max_per_principal: usize,
    max_bytes: usize,
    max_value_bytes: usize,
    max_fields: usize,
}

impl Settings {
    fn limits(self) -> Limits {
        Limits { total: self.max_total, per_principal: self.max_per_principal }
    }

    /// Uses are written to the disk this often at most; what is read from the disk may be older by as much.
    fn touch_ms(self) -> u64 {
        self.idle_ms / 10
    }
}

impl Store {
    /// Opens the data directory, or an empty store in memory when `settings` is `None`.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] with advice: locked by another process, not writable, full, of a newer format.
    pub async fn open(
        settings: Option<&config::Store>,
        sessions: &config::Sessions,
        clock: SharedClock,
    ) -> Result<Arc<Self>, StoreError> {
        let Some(settings) = settings.cloned() else {
            let cache = config::Store::default().document_cache_bytes;
            return Self::over(Arc::new(memory::Memory::default()), Keys::generate(), cache, sessions, clock)
                .await;
        };
        let cache = settings.document_cache_bytes;
        let (now_ms, is_shared) = (clock.now_ms(), settings.shared);
        let (disk, sealer, keyring, backups) = blocking(move || {
            let dir = dir::Dir::open(&settings.data_dir)?;
            // Nothing is changed before all keys are there.
            let mut keyring = Keyring::read(dir.path(), &settings)?;
            dir.note_format()?;
            let sealer = keyring.start(now_ms)?;
            let backups = Backups::of(dir.path());
            Ok((Arc::new(database::Sled::open(dir, &settings, now_ms)?), sealer, keyring, backups))
        })
        .await?;
        let store = Self::on(disk, sealer, Some(keyring), cache, sessions, clock).await?;
        let _ = store.backups.set(backups);
        // Sister instances have newer ones.
        if !is_shared && let Err(error) = store.restore().await {
            tracing::error!(%error, "the copy of the sessions could not be put in: the next start tries it again");
        }
        Ok(store)
    }

    /// A store over a disk that is open already, with documents of up to `cache_bytes` in memory. Nothing is sealed.
    ///
    /// # Errors
    /// Failures of the disk; [`StoreError::Unusable`] when it is of a newer format.
    pub async fn over(
        disk: Arc<dyn Durable>,
        keys: Keys,
        cache_bytes: u64,
        sessions: &config::Sessions,
        clock: SharedClock,
    ) -> Result<Arc<Self>, StoreError> {
        Self::on(disk, Sealer::new(keys, false), None, cache_bytes, sessions, clock).await
    }

    /// As [`Store::over`], with values as `sealer` says.
    ///
    /// # Errors
    /// As [`Store::over`].
    pub async fn on(
        disk: Arc<dyn Durable>,
        sealer: Sealer,
        keyring: Option<Keyring>,
        cache_bytes: u64,
        sessions: &config::Sessions,
        clock: SharedClock,
    ) -> Result<Arc<Self>, StoreError> {
        let seconds = |seconds: u64| seconds.saturating_mul(1_000);
        let settings = Settings {
            idle_ms: seconds(sessions.idle_ttl_seconds),
            keep_ms: seconds(sessions.max_ttl_seconds),
            max_total: sessions.max_total,
            max_per_principal: sessions.max_per_principal,
            max_bytes: sessions.max_bytes,
            max_value_bytes: sessions.max_value_bytes,
            max_fields: sessions.max_fields,
        };
        let (now_ms, monotonic_ms, keep_ms) = (clock.now_ms(), clock.monotonic_ms(), settings.keep_ms);
        let (boot, locks) = reading(&disk, move |disk| {
            let boot = boot::start(disk, now_ms, keep_ms)?;
            let locks = Locks::read(disk, boot.clock_ms, now_ms, monotonic_ms)?;
            Ok((boot, locks))
        })
        .await?;
        Ok(Arc::new(Self {
            origin: boot.origin,
            earlier: boot.earlier,
            sealer,
            keyring: keyring.map(|keyring| Arc::new(Mutex::new(keyring))),
            clock,
            settings,
            queue: CommitQueue::start(Arc::clone(&disk), boot.clock_ms, boot.tick)?,
            disk,
            sessions: Sessions::new(cache_bytes, boot.counts),
            locks,
            values: Values::new(CACHE_BYTES),
            stamps: Mutex::new(Hlc::new(boot.origin, boot.clock_ms)),
            closed: AtomicBool::new(false),
            sweeping: Mutex::default(),
            was_shared: boot.shared,
            sharing: OnceLock::new(),
            offset_ms: AtomicI64::new(0),
            rehydrated: AtomicU16::new(0),
            backups: OnceLock::new(),
        }))
    }

    /// Whether an earlier start shared what is held here: other instances may have copies of it, and what is written is
    /// owed to them.
    #[must_use]
    pub fn was_shared(&self) -> bool {
        self.was_shared
    }

    /// This process start.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether whoever wrote under this origin runs no more for certain: it was an earlier start on this disk, or
    /// nobody else writes anything.
    #[must_use]
    pub fn is_over(&self, origin: Origin) -> bool {
        origin != self.origin && (!self.is_shared() || self.earlier.contains(&origin))
    }

    /// The keys that sign session ids and seal values.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        self.sealer.keys()
    }

    /// Makes a session with these fields. Resolves when the disk has it. If it lives already it stays as it is, and
    /// is returned.
    ///
    /// # Errors
    /// [`StoreError::Cap`] when `sessions.max_total` or `sessions.max_per_principal` is reached or the fields are too
    /// long; [`StoreError::Gone`] when it was ended; failures of the disk.
    pub async fn create(
        &self,
        key: SessionKey,
        principal: &str,
        deadline_ms: u64,
        fields: Vec<FieldWrite>,
    ) -> Result<Arc<Doc>, StoreError> {
        self.create_new(key, principal, deadline_ms, fields).await.map(|created| created.doc)
    }

    /// As [`Store::create`], and says whether the session was made: of many callers at once exactly one is told so.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub async fn create_new(
        &self,
        key: SessionKey,
        principal: &str,
        deadline_ms: u64,
        fields: Vec<FieldWrite>,
    ) -> Result<Created, StoreError> {
        self.create_unused(key, principal, deadline_ms, fields, Duration::ZERO).await
    }

    /// As [`Store::create_new`], for a session that was not used for `unused` already: it has so much less of its idle
    /// time until it is used.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub async fn create_unused(
        &self,
        key: SessionKey,
        principal: &str,
        deadline_ms: u64,
        fields: Vec<FieldWrite>,
        unused: Duration,
    ) -> Result<Created, StoreError> {
        let place = self.place().await?;
        let unused_ms = millis(unused);
        let mut stamps = |_| self.stamp();
        let new = NewSession { principal, deadline_ms, unused_ms, fields };
        self.write(key, place, |current| self.plan_create(key, new, &mut stamps, &current)).await
    }

    /// As [`Store::create`], for a session of which nothing but its id is known here: should it turn up elsewhere, what
    /// was written there is newer than these fields, which are stamped with the time of its birth.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub async fn rehydrate(
        &self,
        key: SessionKey,
        principal: &str,
        issued_ms: u64,
        deadline_ms: u64,
        fields: Vec<FieldWrite>,
    ) -> Result<Arc<Doc>, StoreError> {
        let place = self.place().await?;
        let mut stamps = |_| {
            let number = self.rehydrated.fetch_add(1, Ordering::Relaxed);
            Stamp::new(issued_ms.saturating_sub(1), number, self.origin)
        };
        let new = NewSession { principal, deadline_ms, unused_ms: 0, fields };
        let created = self.write(key, place, |current| self.plan_create(key, new, &mut stamps, &current));
        created.await.map(|created| created.doc)
    }

    /// Where a session stands. A session past its idle time or its deadline is `Unknown`.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn load(&self, key: SessionKey) -> Result<Lookup, StoreError> {
        self.freshen(key).await?;
        self.committed(key).await.map(|state| self.lookup(state))
    }

    /// The deadline of a session that lives, in milliseconds since the epoch, also of one whose values do not open.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when there is no such session; failures of the disk.
    pub async fn deadline_ms(&self, key: SessionKey) -> Result<u64, StoreError> {
        let state = match self.committed(key).await {
            Err(StoreError::Sealed(_)) => self.read_head(key).await?,
            state => state?,
        };
        match self.lookup(state) {
            Lookup::Live(doc) => Ok(doc.deadline_ms()),
            Lookup::Terminated | Lookup::Unknown => Err(StoreError::Gone),
        }
    }

    /// Writes fields of a session. Resolves, with the document as it is then, when the disk has them.
    ///
    /// # Errors
    /// [`StoreError::Cap`] when `sessions.max_bytes` would be passed; [`StoreError::Gone`] when there is no such
    /// session; failures of the disk. Nothing is changed then.
    pub async fn update(&self, key: SessionKey, fields: Vec<FieldWrite>) -> Result<Arc<Doc>, StoreError> {
        let now_ms = self.clock.now_ms();
        self.write(key, self.place().await?, |current| {
            let session =
                current.as_ref().filter(|session| session.is_live(now_ms)).ok_or(StoreError::Gone)?;
            let doc = Arc::clone(&session.doc);
            Ok(match self.plan_update(key, session, fields)? {
                Some(plan) => plan,
                None => unchanged(&current, doc),
            })
        })
        .await
    }

    /// Changes one field by a function of its present value, atomically among this instance's writes of the session.
    /// `None` from `change` leaves it as it is. Resolves when the disk has it, with what `change` wrote. `change` runs
    /// under a lock: it must be short.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub async fn change(
        &self,
        key: SessionKey,
        field: &str,
        change: impl FnOnce(Option<&Bytes>) -> Option<Bytes> + Send,
    ) -> Result<Option<Bytes>, StoreError> {
        // On what another instance wrote, not on what it was before.
        let answered = self.look_again(key).await?;
        let now_ms = self.clock.now_ms();
        self.write_after_look(key, self.place().await?, answered, None, |current| {
            let session =
                current.as_ref().filter(|session| session.is_live(now_ms)).ok_or(StoreError::Gone)?;
            let Some(value) = change(session.doc.get(field)) else { return Ok(unchanged(&current, None)) };
            let fields = vec![(field.to_owned(), Some(value.clone()))];
            Ok(match self.plan_update(key, session, fields)? {
                Some(Plan { next, work, newest_ms, owes, .. }) => {
                    Plan { next, work, newest_ms, owes, value: Some(value) }
                }
                None => unchanged(&current, None),
            })
        })
        .await
    }

    /// Ends a session: its values and logs go, a tombstone stays until its deadline. Resolves when the disk has it.
    /// Also works when the disk is full, and when its values do not open.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn terminate(&self, key: SessionKey, deadline_ms: u64) -> Result<(), StoreError> {
        let place = self.queue.place().await?;
        self.write_blind(key, place, |current| self.plan_end(key, deadline_ms, None, &current)).await?;
        self.release_locks_of(key).await
    }

    /// Waits for a place in the commit queue.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::Poisoned`], or [`StoreError::Full`].
    pub async fn place(&self) -> Result<Place, StoreError> {
        let place = self.queue.place().await?;
        self.queue.health().trouble().map_or(Ok(Place(place)), Err)
    }

    /// Number of sessions on this instance, idle ones included.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.counts().total()
    }

    /// Number of sessions of one principal on this instance.
    #[must_use]
    pub fn sessions_of(&self, principal: &str) -> usize {
        self.sessions.counts().of(principal)
    }

    /// Why the store does not accept writes, if it does not.
    #[must_use]
    pub fn trouble(&self) -> Option<StoreError> {
        match self.closed.load(Ordering::Acquire) {
            true => Some(StoreError::Closed),
            false => self.queue.health().trouble(),
        }
    }

    /// Why the store accepts no new sessions, if it does not although it accepts writes: it fills up.
    #[must_use]
    pub fn crowded(&self) -> Option<StoreError> {
        self.queue.health().crowded()
    }

    /// What the store may still take of the disk, bytes; `None`: there is no bound, or nobody has looked yet.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        self.queue.health().free()
    }

    /// Writes what waits, marks the shutdown as clean and closes the database.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn close(&self) -> Result<(), StoreError> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.queue.drain().await;
        let (ending, disk, sessions) =
            (self.queue.ending(), Arc::clone(&self.disk), Arc::clone(&self.sessions));
        let clock_ms = self.stamps.lock().unwrap_or_else(PoisonError::into_inner).ms();
        blocking(move || {
            let ended = ending.join().and_then(|()| boot::end(&*disk, &sessions.counts(), clock_ms));
            ended.and(disk.close())
        })
        .await
    }

    /// Makes changes on the commit thread, where `decide` sees everything that was written before. Resolves with what
    /// it found when the disk has them.
    async fn decide<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        decide: impl FnOnce(&dyn Durable) -> Result<(Vec<Write>, T), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.decide_owing(place, SessionKey::BROADCAST, Owed::default(), decide).await
    }

    /// The same for a change that makes something of a session owed.
    async fn decide_owing<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        key: SessionKey,
        owes: Owed,
        decide: impl FnOnce(&dyn Durable) -> Result<(Vec<Write>, T), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let found = Arc::new(Mutex::new(None));
        let (tell, told) = oneshot::channel();
        let into = Arc::clone(&found);
        let decide = move |disk: &dyn Durable| {
            let (writes, value) = decide(disk)?;
            *into.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            Ok(writes)
        };
        let mut work = Work::Decide(Box::new(decide));
        let pledged = self.pledge(key, owes, &mut work);
        let done = move |result: Result<(), StoreError>| {
            if let Some(pledged) = pledged {
                pledged.arrived(result.is_ok());
            }
            // Nobody listens when the caller has given up; what was decided stands all the same.
            let _ = tell.send(result);
        };
        self.queue.submit(place, work, 0, Box::new(done));
        told.await.unwrap_or(Err(StoreError::Closed))?;
        let value = found.lock().unwrap_or_else(PoisonError::into_inner).take();
        value.ok_or(StoreError::Closed)
    }
}

impl From<Place> for OwnedSemaphorePermit {
    fn from(place: Place) -> Self {
        place.0
    }
}
