//! Locks, and writes that are refused when somebody has taken the lock since. Those of this instance alone are here; those
//! of all instances ([`Scope::Global`]) are the shared store's, and what was heard of them last is remembered here
//! (`among_all`).
//!
//! All locks are in memory, in the state that the last queued write makes of them; the disk follows in the same order.
//! Under one mutex a step on a lock, or a write that carries a fence of one, is decided and takes its place in the
//! order of all writes. So a write that was let through is on the disk before the next holder of the lock has it.
//!
//! A holder's time runs on the clock that never goes back. Fences are times in microseconds or above, taken from the
//! clock of stamps, which does not go back over restarts either: they rise even for a lock that was forgotten.

mod among_all;
mod counts;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::commit::Work;
use super::durable::{Durable, Table, Write};
use super::listing::LockInfo;
use super::record::{self, StoredLock};
use super::{Lookup, Place, Store, StoreError, rows};
use crate::base::clock::millis;
use crate::base::ids::SessionKey;
use crate::base::limits::{LOCK_KEEP, LOCK_MAX_TTL, LOCKS, NAME_BYTES};
use crate::state::lock::{Register, Scope, Token};

pub(super) use self::among_all::Fenced;
pub use self::among_all::Turn;
pub use self::counts::LockCounts;

/// A lock that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What the holder proves itself with.
    pub token: Token,
    /// Rises with every holder; writes carry it ([`super::Guard::fence`]).
    pub fence: u64,
    /// The holder's time ends at this moment, in milliseconds since the epoch.
    pub expires_ms: u64,
    /// For how long from now the holder may count on it, milliseconds: all of its time where this instance keeps it.
    pub valid_ms: u64,
    /// Among whom it has one holder.
    pub scope: Scope,
}

/// All locks.
pub(super) struct Locks {
    known: Mutex<Known>,
    refused_instance: AtomicU64,
    refused_global: AtomicU64,
}

/// What is known of locks. Forgetting one is safe: its fence is refused from then on, and the next one is higher.
#[derive(Default)]
pub(super) struct Known {
    by_name: HashMap<String, Held>,
    /// Locks that were taken last in the name of a session.
    by_session: HashMap<SessionKey, BTreeSet<String>>,
    /// No fence was ever higher.
    newest: u64,
}

#[derive(Clone, Copy)]
struct Held {
    register: Register,
    ttl_ms: u64,
    session: Option<SessionKey>,
    scope: Scope,
}

impl Held {
    /// Whether more is known of a lock of all instances than that somebody has this fence of it.
    fn is_later_than(&self, fence: u64) -> bool {
        let register = &self.register;
        self.scope == Scope::Global
            && (register.fence > fence || (register.fence == fence && register.token.is_none()))
    }
}

/// Now, on two clocks.
#[derive(Clone, Copy)]
struct Now {
    /// That never goes back, milliseconds.
    monotonic_ms: u64,
    /// Since the epoch, milliseconds.
    wall_ms: u64,
}

impl Now {
    fn expires_ms(self, register: &Register) -> u64 {
        self.wall_ms.saturating_add(register.left_ms(self.monotonic_ms))
    }
}

impl Locks {
    /// The locks on the disk. What is left of a holder's time counts from now on, and is never more than it was given:
    /// the system's clock may have been set while nobody ran. No stamp is later than `clock_ms`.
    pub(super) fn read(
        disk: &dyn Durable,
        clock_ms: u64,
        wall_ms: u64,
        monotonic_ms: u64,
    ) -> Result<Self, StoreError> {
        let mut known = Known { newest: clock_ms.saturating_mul(1_000), ..Known::default() };
        rows::each(disk, Table::Lock, &[], |(name, stored)| {
            let name = String::from_utf8(name)
                .map_err(|_| StoreError::Io("the name of a lock is damaged".into()))?;
            let StoredLock { token, fence, expires_ms, ttl_ms, session, global } = record::decode(&stored)?;
            let until_ms = monotonic_ms.saturating_add(expires_ms.saturating_sub(wall_ms).min(ttl_ms));
            let register = Register { token: token.map(Token::from_bytes), fence, until_ms };
            known.newest = known.newest.max(fence);
            let scope = if global { Scope::Global } else { Scope::Instance };
            known.put(&name, Held { register, ttl_ms, session: session.map(SessionKey::from_bytes), scope });
            Ok(())
        })?;
        Ok(Self {
            known: Mutex::new(known),
            refused_instance: AtomicU64::new(0),
            refused_global: AtomicU64::new(0),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a write under this fence through, as long as the guard lives. `now_ms`: on the clock that never goes back.
    pub(super) fn admit(&self, fenced: &Fenced, now_ms: u64) -> Result<MutexGuard<'_, Known>, StoreError> {
        let Fenced { name, fence, until_ms } = fenced;
        let (name, fence) = (name.as_str(), *fence);
        let known = self.known();
        if let Some(until_ms) = *until_ms {
            // As the shared store says. Taken here meanwhile, it was taken since; what is left of one that was of this
            // instance alone has fences of its own.
            let held = known.by_name.get(name).filter(|held| {
                held.register.fence > fence
                    && (held.scope == Scope::Global || held.register.left_ms(now_ms) > 0)
            });
            return match held.map(|held| held.register) {
                Some(held) => {
                    Err(StoreError::Fenced { lock: name.to_owned(), fence, newest: Some(held.fence) })
                }
                None if now_ms >= until_ms => {
                    Err(StoreError::NotHolder { name: name.to_owned(), left_ms: 0 })
                }
                None => Ok(known),
            };
        }
        let held = known.by_name.get(name).map(|held| held.register);
        match held {
            Some(register) if register.admits(fence) => Ok(known),
            _ => {
                let newest = held.map(|register| register.fence);
                Err(StoreError::Fenced { lock: name.to_owned(), fence, newest })
            }
        }
    }
}

impl Known {
    fn put(&mut self, name: &str, held: Held) {
        let before = self.by_name.insert(name.to_owned(), held).and_then(|before| before.session);
        if before != held.session {
            self.unlink(name, before);
            if let Some(session) = held.session {
                self.by_session.entry(session).or_default().insert(name.to_owned());
            }
        }
    }

    fn forget(&mut self, name: &str) {
        let session = self.by_name.remove(name).and_then(|held| held.session);
        self.unlink(name, session);
    }

    fn unlink(&mut self, name: &str, session: Option<SessionKey>) {
        if let Some(session) = session
            && let Some(names) = self.by_session.get_mut(&session)
        {
            names.remove(name);
            if names.is_empty() {
                self.by_session.remove(&session);
            }
        }
    }

    /// Names of locks that nobody has held for this long.
    fn free_for(&self, idle_ms: u64, now_ms: u64) -> Vec<String> {
        let is_old = |held: &Held| {
            held.register.left_ms(now_ms) == 0 && held.register.until_ms.saturating_add(idle_ms) <= now_ms
        };
        self.by_name.iter().filter(|(_, held)| is_old(held)).map(|(name, _)| name.clone()).collect()
    }

    /// Room for one more lock; what has to be written for that.
    fn make_room(&mut self, name: &str, now_ms: u64) -> Result<Vec<Write>, StoreError> {
        if self.by_name.len() < LOCKS || self.by_name.contains_key(name) {
            return Ok(Vec::new());
        }
        let free = self.free_for(0, now_ms);
        let writes = self.forget_all(free);
        match self.by_name.len() >= LOCKS {
            true => Err(StoreError::Cap(format!("{LOCKS} locks are held: release some first"))),
            false => Ok(writes),
        }
    }

    /// Forgets locks and returns the writes that do so.
    fn forget_all(&mut self, names: Vec<String>) -> Vec<Write> {
        let forget = |name: String| {
            self.forget(&name);
            Write::Delete(Table::Lock, name.into_bytes())
        };
        names.into_iter().map(forget).collect()
    }
}

impl Store {
    /// Takes a lock of this instance for `ttl`: others that share the store know nothing of it. In the name of a
    /// session, which may be none: it is released when the session goes. Resolves when the disk has it.
    ///
    /// # Errors
    /// [`StoreError::Held`], which says for how long; [`StoreError::Invalid`] for a bad name or time;
    /// [`StoreError::Cap`] when there are too many locks; [`StoreError::Gone`] when the session is not there; failures
    /// of the disk.
    pub async fn lock(
        &self,
        name: &str,
        ttl: Duration,
        session: Option<SessionKey>,
    ) -> Result<Lock, StoreError> {
        let ttl_ms = self.check_lock(name, ttl, session).await?;
        let place = self.place().await?;
        let (lock, told) = {
            let mut known = self.locks.known();
            let now = self.now();
            let writes = known.make_room(name, now.monotonic_ms)?;
            let held = known.by_name.get(name).map(|held| held.register);
            let floor = known.newest.saturating_add(1).max(self.stamp().ms().saturating_mul(1_000));
            let token = Token::random();
            let taken = Register::take(held.as_ref(), token, ttl_ms, now.monotonic_ms, floor);
            let register = taken.map_err(|refused| {
                self.locks.refused(Scope::Instance);
                StoreError::Held { name: name.to_owned(), left_ms: refused.left_ms }
            })?;
            known.newest = known.newest.max(register.fence);
            let held = Held { register, ttl_ms, session, scope: Scope::Instance };
            let told = self.put_lock(&mut known, place, name, held, now, writes)?;
            (here(token, &register, ttl_ms, now), told)
        };
        told.await.unwrap_or(Err(StoreError::Closed))?;
        Ok(lock)
    }

    /// Whether a lock may be taken so; its time in milliseconds.
    async fn check_lock(
        &self,
        name: &str,
        ttl: Duration,
        session: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        let ttl_ms = check_ttl(ttl, LOCK_MAX_TTL)?;
        check_name("a lock", name)?;
        match session {
            Some(session) if !matches!(self.load(session).await?, Lookup::Live(_)) => Err(StoreError::Gone),
            _ => Ok(ttl_ms),
        }
    }

    /// Gives the holder `ttl` from now, under the same fence. A lock of all instances is renewed on any of them.
    ///
    /// # Errors
    /// [`StoreError::NotHolder`], which says how long the holder still has; [`StoreError::Unshared`] for a lock of all
    /// instances while the shared store cannot be asked; [`StoreError::Invalid`]; failures of the disk.
    pub async fn renew(&self, name: &str, token: Token, ttl: Duration) -> Result<Lock, StoreError> {
        let ttl_ms = check_ttl(ttl, LOCK_MAX_TTL)?;
        if self.is_of_all(name, token) {
            return self.renew_among_all(name, token, ttl).await;
        }
        let place = self.place().await?;
        self.step(name, place, |held, now_ms| {
            let register = held.register.renew(token, ttl_ms, now_ms)?;
            Ok(Held { register, ttl_ms, ..*held })
        })
        .await
        .map(|(register, now)| here(token, &register, ttl_ms, now))
    }

    /// Lets a lock go. Also works when the disk is full. A lock of all instances is let go on any of them.
    ///
    /// # Errors
    /// [`StoreError::NotHolder`], which says how long the holder still has; [`StoreError::Unshared`] for a lock of all
    /// instances while the shared store cannot be asked: it ends with its time; failures of the disk.
    pub async fn unlock(&self, name: &str, token: Token) -> Result<(), StoreError> {
        if self.is_of_all(name, token) {
            return self.unlock_among_all(name, token).await;
        }
        let place = Place(self.queue.place().await?);
        self.step(name, place, |held, now_ms| {
            Ok(Held { register: held.register.release(token, now_ms)?, ..*held })
        })
        .await
        .map(drop)
    }

    /// Whether a step by the bearer of this token is one on a lock of all instances. One that is not known here may have
    /// been taken elsewhere.
    fn is_of_all(&self, name: &str, token: Token) -> bool {
        let known = self.locks.known();
        match known.by_name.get(name) {
            Some(held) if held.scope == Scope::Global => true,
            Some(held) => {
                let left_ms = held.register.left_ms(self.clock.monotonic_ms());
                left_ms == 0 && held.register.token != Some(token) && self.is_shared()
            }
            None => self.is_shared(),
        }
    }

    /// Where a lock stands as it is known here; `None`: nobody took it, or nobody held it for so long that it is
    /// forgotten.
    #[must_use]
    pub fn lock_state(&self, name: &str) -> Option<LockInfo> {
        let known = self.locks.known();
        known.by_name.get(name).map(|held| info(name, held, self.now()))
    }

    /// The locks that are held in the name of a session, by name.
    pub(super) fn locks_of(&self, session: SessionKey) -> Vec<LockInfo> {
        let known = self.locks.known();
        let now = self.now();
        let names = known.by_session.get(&session).into_iter().flatten();
        let held = names.filter_map(|name| Some(info(name, known.by_name.get(name)?, now)));
        held.filter(|lock| lock.expires_ms.is_some()).collect()
    }

    /// Releases the locks that were taken in the name of a session that is gone.
    pub(super) async fn release_locks_of(&self, session: SessionKey) -> Result<(), StoreError> {
        if !self.locks.known().by_session.contains_key(&session) {
            return Ok(());
        }
        let place = self.queue.place().await?;
        let mut shared = Vec::new();
        let told = {
            let mut known = self.locks.known();
            let now = self.now();
            let names = known.by_session.get(&session).cloned().unwrap_or_default();
            let mut writes = Vec::with_capacity(names.len());
            for name in names {
                let Some(held) = known.by_name.get(&name).copied() else { continue };
                if held.scope == Scope::Global
                    && let Some(token) = held.register.token
                {
                    shared.push((name.clone(), token));
                }
                let until_ms = held.register.until_ms.min(now.monotonic_ms);
                let register = Register { token: None, until_ms, ..held.register };
                let held = Held { register, session: None, ..held };
                writes.push(row(&name, &held, now)?);
                known.put(&name, held);
            }
            self.submit_locks(place, writes, 0)
        };
        for (name, token) in shared {
            self.drop_among_all(&name, token).await;
        }
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Forgets locks that nobody has held for long.
    pub(super) async fn sweep_locks(&self) -> Result<(), StoreError> {
        let keep_ms = millis(LOCK_KEEP);
        if self.locks.known().free_for(keep_ms, self.clock.monotonic_ms()).is_empty() {
            return Ok(());
        }
        let place = self.queue.place().await?;
        let told = {
            let mut known = self.locks.known();
            let old = known.free_for(keep_ms, self.clock.monotonic_ms());
            let writes = known.forget_all(old);
            self.submit_locks(place, writes, 0)
        };
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn step(
        &self,
        name: &str,
        place: Place,
        step: impl FnOnce(&Held, u64) -> Result<Held, crate::state::lock::Refused> + Send,
    ) -> Result<(Register, Now), StoreError> {
        let refused = |left_ms| StoreError::NotHolder { name: name.to_owned(), left_ms };
        let (register, now, told) = {
            let mut known = self.locks.known();
            let now = self.now();
            let held = known.by_name.get(name).ok_or_else(|| refused(0))?;
            let next = step(held, now.monotonic_ms).map_err(|error| refused(error.left_ms))?;
            let told = self.put_lock(&mut known, place, name, next, now, Vec::new())?;
            (next.register, now, told)
        };
        told.await.unwrap_or(Err(StoreError::Closed))?;
        Ok((register, now))
    }

    fn put_lock(
        &self,
        known: &mut Known,
        place: Place,
        name: &str,
        held: Held,
        now: Now,
        mut writes: Vec<Write>,
    ) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        writes.push(row(name, &held, now)?);
        known.put(name, held);
        // What is noted of the clock covers the fence: after a restart the next one is higher, whatever was forgotten.
        Ok(self.submit_locks(place.into(), writes, held.register.fence.div_ceil(1_000)))
    }

    fn submit_locks(
        &self,
        place: tokio::sync::OwnedSemaphorePermit,
        writes: Vec<Write>,
        newest_ms: u64,
    ) -> oneshot::Receiver<Result<(), StoreError>> {
        let (tell, told) = oneshot::channel();
        let done = move |result| {
            let _ = tell.send(result);
        };
        self.queue.submit(place, Work::Writes(writes), newest_ms, Box::new(done));
        told
    }

    fn now(&self) -> Now {
        Now { monotonic_ms: self.clock.monotonic_ms(), wall_ms: self.clock.now_ms() }
    }
}

/// A lock of this instance.
fn here(token: Token, register: &Register, ttl_ms: u64, now: Now) -> Lock {
    let expires_ms = now.expires_ms(register);
    Lock { token, fence: register.fence, expires_ms, valid_ms: ttl_ms, scope: Scope::Instance }
}

fn row(name: &str, held: &Held, now: Now) -> Result<Write, StoreError> {
    let stored = StoredLock {
        token: held.register.token.map(Token::to_bytes),
        fence: held.register.fence,
        expires_ms: now.expires_ms(&held.register),
        ttl_ms: held.ttl_ms,
        session: held.session.map(|session| *session.as_bytes()),
        global: held.scope == Scope::Global,
    };
    Ok(Write::Put(Table::Lock, name.as_bytes().to_vec(), record::encode(&stored)?))
}

fn info(name: &str, held: &Held, now: Now) -> LockInfo {
    let left_ms = held.register.left_ms(now.monotonic_ms);
    LockInfo {
        name: name.to_owned(),
        fence: held.register.fence,
        expires_ms: (left_ms > 0).then(|| now.wall_ms.saturating_add(left_ms)),
        session: held.session,
        scope: held.scope,
    }
}

/// The length of a time that is not 0 and not longer than `most`, in milliseconds.
pub(super) fn check_ttl(ttl: Duration, most: Duration) -> Result<u64, StoreError> {
    let ttl_ms = millis(ttl);
    if ttl_ms == 0 || ttl > most {
        return Err(StoreError::Invalid(format!(
            "a time of {ttl_ms} ms cannot be asked for: want 1 to {} ms",
            millis(most)
        )));
    }
    Ok(ttl_ms)
}

/// Whether something may have this name.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), StoreError> {
    match (1..=NAME_BYTES).contains(&name.len()) && !name.contains('\0') {
        true => Ok(()),
        false => Err(StoreError::Invalid(format!(
            "{name:?} cannot be the name of {what}: want 1 to {NAME_BYTES} bytes without NUL"
        ))),
    }
}
