//! Locks of all instances that share a store: that store alone gives them, and while it cannot be asked nobody gets,
//! renews or counts on one.
//!
//! A holder's time is the shared store's. What is left of it here runs on the clock that never goes back, from the moment
//! of the answer, and is nine tenths of what was said less the round trip; so a holder stops before the next one begins,
//! however fast the two clocks run. Fences are times of the shared store, and above every fence of the lock that is known
//! here: they rise though all that was shared is lost, and where a lock was one of this instance before.

use std::time::Duration;

use super::{Held, Known, Lock, LockInfo, Scope, check_ttl};
use crate::base::ids::SessionKey;
use crate::base::limits::LOCK_MAX_TTL;
use crate::state::lock::{Register, Token, assured_ms};
use crate::store::remote::{LockSeen, LockStep, LockTaken, RemoteError};
use crate::store::{Place, Store, StoreError};

/// A fence under which a write is to be made.
#[derive(Clone, Debug)]
pub(in crate::store) struct Fenced {
    /// The lock.
    pub(super) name: String,
    /// The fence.
    pub(super) fence: u64,
    /// Until then, on the clock that never goes back, it is the newest one, as the shared store says; `None`: this
    /// instance says.
    pub(super) until_ms: Option<u64>,
}

/// The turn to do something that one of all instances does at a time; see [`Store::turn`].
#[derive(Debug)]
pub struct Turn {
    name: String,
    token: Token,
    /// Above those of all turns before.
    pub fence: u64,
}

/// An answer, and the moments of question and answer on the clock that never goes back, milliseconds.
struct Answered<T> {
    answer: T,
    asked_ms: u64,
    now_ms: u64,
}

impl<T> Answered<T> {
    /// For how long from now one may count on what was said to last `left_ms`.
    fn assured_ms(&self, left_ms: u64) -> u64 {
        assured_ms(left_ms, self.now_ms.saturating_sub(self.asked_ms))
    }
}

impl Store {
    /// Takes a lock of all instances for `ttl`; else as [`Store::lock`]. One of this instance with the same name is in its
    /// way, and it is in the way of one.
    ///
    /// # Errors
    /// [`StoreError::Unshared`] while the shared store cannot be asked; as [`Store::lock`]. Where its answer was lost,
    /// the lock may be taken, and ends with its time.
    pub async fn lock_among_all(
        &self,
        name: &str,
        ttl: Duration,
        session: Option<SessionKey>,
    ) -> Result<Lock, StoreError> {
        let ttl_ms = self.check_lock(name, ttl, session).await?;
        let taken = self.take_among_all(name, ttl_ms, session).await;
        if let Err(StoreError::Held { .. } | StoreError::Unshared { .. }) = &taken {
            self.locks.refused(Scope::Global);
        }
        taken
    }

    async fn take_among_all(
        &self,
        name: &str,
        ttl_ms: u64,
        session: Option<SessionKey>,
    ) -> Result<Lock, StoreError> {
        // Before anything is asked: what cannot be noted is not taken.
        let place = self.place().await?;
        let floor = self.held_here(name)?;
        let (token, ttl) = (Token::random(), Duration::from_millis(ttl_ms));
        let answered = self.ask_lock(name, token, ttl, LockStep::Take(floor)).await?;
        let fence = match answered.answer {
            LockTaken::Done(fence) => fence,
            LockTaken::Held(left_ms) => return Err(StoreError::Held { name: name.to_owned(), left_ms }),
        };
        // Somebody may have taken one of this instance meanwhile.
        if let Err(error) = self.note_lock(place, name, token, fence, ttl_ms, session).await {
            self.drop_among_all(name, token).await;
            return Err(error);
        }
        Ok(self.among_all(token, fence, ttl_ms, &answered))
    }

    /// Where a lock stands: as this instance says of its own, else as the shared store says. `None`: it is not known.
    ///
    /// # Errors
    /// [`StoreError::Unshared`] while the shared store cannot be asked.
    pub async fn find_lock(&self, name: &str) -> Result<Option<LockInfo>, StoreError> {
        let held = self.lock_state(name);
        if !self.is_shared()
            || held.as_ref().is_some_and(|held| held.scope == Scope::Instance && held.expires_ms.is_some())
        {
            return Ok(held);
        }
        let LockSeen { fence, left_ms } = self.look_at_lock(name).await?.answer;
        if fence == 0 {
            // What is known here of one that the shared store has lost holds nobody up.
            return Ok(held.map(|held| LockInfo { expires_ms: None, ..held }));
        }
        let expires_ms = (left_ms > 0).then(|| self.clock.now_ms().saturating_add(left_ms));
        let session = held.filter(|held| held.fence == fence).and_then(|held| held.session);
        Ok(Some(LockInfo { name: name.to_owned(), fence, expires_ms, session, scope: Scope::Global }))
    }

    /// What a write under this fence stands on. Of a lock of all instances the shared store has to say that the fence is
    /// the newest one, and that its holder's time still runs.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]; [`StoreError::NotHolder`] when the holder's time is over; [`StoreError::Unshared`].
    pub(in crate::store) async fn under_fence(&self, name: String, fence: u64) -> Result<Fenced, StoreError> {
        if self.is_fence_of_here(&name, fence) {
            return Ok(Fenced { name, fence, until_ms: None });
        }
        let answered = self.look_at_lock(&name).await?;
        let LockSeen { fence: newest, left_ms } = answered.answer;
        if newest != fence {
            let newest = (newest > 0).then_some(newest);
            return Err(StoreError::Fenced { lock: name, fence, newest });
        }
        if left_ms == 0 {
            return Err(StoreError::NotHolder { name, left_ms });
        }
        let until_ms = Some(answered.now_ms.saturating_add(answered.assured_ms(left_ms)));
        Ok(Fenced { name, fence, until_ms })
    }

    /// Whether this instance alone says what a fence is worth. What is left of a lock that was one of this instance once
    /// says nothing of the fences of all.
    fn is_fence_of_here(&self, name: &str, fence: u64) -> bool {
        match self.locks.known().by_name.get(name) {
            Some(held) if held.scope == Scope::Global => false,
            Some(held) => {
                let register = held.register;
                !self.is_shared()
                    || register.fence == fence
                    || register.left_ms(self.clock.monotonic_ms()) > 0
            }
            None => !self.is_shared(),
        }
    }

    pub(super) async fn renew_among_all(
        &self,
        name: &str,
        token: Token,
        ttl: Duration,
    ) -> Result<Lock, StoreError> {
        let ttl_ms = check_ttl(ttl, LOCK_MAX_TTL)?;
        let place = self.place().await?;
        let answered = match self.ask_lock(name, token, ttl, LockStep::Renew).await {
            Err(error) => {
                self.locks.refused(Scope::Global);
                return Err(error);
            }
            answered => answered?,
        };
        match answered.answer {
            LockTaken::Done(fence) => {
                let session = self.session_of(name, token);
                match self.note_lock(place, name, token, fence, ttl_ms, session).await {
                    // One of this instance, of which the holder of this one knows nothing: that one is remembered.
                    Ok(()) | Err(StoreError::Held { .. }) => {}
                    Err(error) => return Err(error),
                }
                Ok(self.among_all(token, fence, ttl_ms, &answered))
            }
            LockTaken::Held(left_ms) => Err(StoreError::NotHolder { name: name.to_owned(), left_ms }),
        }
    }

    pub(super) async fn unlock_among_all(&self, name: &str, token: Token) -> Result<(), StoreError> {
        let place = Place(self.queue.place().await?);
        let answered = self.ask_lock(name, token, Duration::from_millis(1), LockStep::Drop).await?;
        if let LockTaken::Held(left_ms) = answered.answer {
            return Err(StoreError::NotHolder { name: name.to_owned(), left_ms });
        }
        let told = {
            let mut known = self.locks.known();
            let now = self.now();
            let held = known.by_name.get(name).copied();
            let held = held.filter(|held| held.scope == Scope::Global && held.register.token == Some(token));
            let Some(held) = held else { return Ok(()) };
            let register = Register { token: None, until_ms: now.monotonic_ms, ..held.register };
            self.put_lock(&mut known, place, name, Held { register, session: None, ..held }, now, Vec::new())?
        };
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Lets go of a lock of all instances as far as that can be done: else it ends with its time.
    pub(super) async fn drop_among_all(&self, name: &str, token: Token) {
        if let Err(error) = self.ask_lock(name, token, Duration::from_millis(1), LockStep::Drop).await {
            tracing::debug!(lock = name, %error, "a lock of all instances could not be let go: it ends with its time");
        }
    }

    /// The turn of this name, for `ttl` at most: a lock of all instances of the server's own, which is not noted here.
    /// `None`: somebody else has it, or nobody can say so.
    pub async fn turn(&self, name: String, ttl: Duration) -> Option<Turn> {
        let token = Token::random();
        match self.ask_lock(&name, token, ttl, LockStep::Take(0)).await {
            Ok(Answered { answer: LockTaken::Done(fence), .. }) => Some(Turn { name, token, fence }),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, "whose turn it is cannot be said");
                None
            }
        }
    }

    /// It is somebody else's turn.
    pub async fn end_turn(&self, turn: Turn) {
        self.drop_among_all(&turn.name, turn.token).await;
    }

    /// The fence that a new one has to be above, so far as it is known here.
    ///
    /// # Errors
    /// [`StoreError::Held`] while one of this instance with that name is held.
    fn held_here(&self, name: &str) -> Result<u64, StoreError> {
        floor(&self.locks.known(), name, self.clock.monotonic_ms())
    }

    fn session_of(&self, name: &str, token: Token) -> Option<SessionKey> {
        let known = self.locks.known();
        let held = known.by_name.get(name).filter(|held| held.register.token == Some(token));
        held.and_then(|held| held.session)
    }

    /// Notes what was heard of a lock: to whom it is given, and until when at the latest. [`StoreError::Held`]: not, because
    /// one of this instance is held.
    async fn note_lock(
        &self,
        place: Place,
        name: &str,
        token: Token,
        fence: u64,
        ttl_ms: u64,
        session: Option<SessionKey>,
    ) -> Result<(), StoreError> {
        let told = {
            let mut known = self.locks.known();
            let now = self.now();
            floor(&known, name, now.monotonic_ms)?;
            if known.by_name.get(name).is_some_and(|held| held.is_later_than(fence)) {
                // The answer took so long that its holder's time was over, or it was let go.
                return Ok(());
            }
            let writes = known.make_room(name, now.monotonic_ms)?;
            known.newest = known.newest.max(fence);
            let until_ms = now.monotonic_ms.saturating_add(ttl_ms);
            let register = Register { token: Some(token), fence, until_ms };
            let held = Held { register, ttl_ms, session, scope: Scope::Global };
            self.put_lock(&mut known, place, name, held, now, writes)?
        };
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    fn among_all(&self, token: Token, fence: u64, ttl_ms: u64, answered: &Answered<LockTaken>) -> Lock {
        // Noting it took a while, too.
        let since_ms = self.clock.monotonic_ms().saturating_sub(answered.now_ms);
        let valid_ms = answered.assured_ms(ttl_ms).saturating_sub(since_ms);
        let expires_ms = self.clock.now_ms().saturating_add(ttl_ms.saturating_sub(since_ms));
        Lock { token, fence, expires_ms, valid_ms, scope: Scope::Global }
    }

    async fn look_at_lock(&self, name: &str) -> Result<Answered<LockSeen>, StoreError> {
        let remote = self.lock_giver().map_err(|why| unshared(name, why))?;
        let asked_ms = self.clock.monotonic_ms();
        let answer = remote.lock_state(name).await.map_err(|error| unshared(name, error.to_string()))?;
        Ok(Answered { answer, asked_ms, now_ms: self.clock.monotonic_ms() })
    }

    async fn ask_lock(
        &self,
        name: &str,
        token: Token,
        ttl: Duration,
        step: LockStep,
    ) -> Result<Answered<LockTaken>, StoreError> {
        let remote = self.lock_giver().map_err(|why| unshared(name, why))?;
        let asked_ms = self.clock.monotonic_ms();
        let asked = remote.lock(name, token, ttl, step).await;
        let answer = asked.map_err(|error: RemoteError| unshared(name, error.to_string()))?;
        Ok(Answered { answer, asked_ms, now_ms: self.clock.monotonic_ms() })
    }
}

fn floor(known: &Known, name: &str, now_ms: u64) -> Result<u64, StoreError> {
    let Some(held) = known.by_name.get(name) else { return Ok(0) };
    match (held.scope, held.register.left_ms(now_ms)) {
        (Scope::Instance, left_ms) if left_ms > 0 => Err(StoreError::Held { name: name.to_owned(), left_ms }),
        _ => Ok(held.register.fence.saturating_add(1)),
    }
}

fn unshared(name: &str, why: String) -> StoreError {
    StoreError::Unshared { name: name.to_owned(), why }
}
