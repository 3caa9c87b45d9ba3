//! Which child runs a call: one of its own, its session's, or one that everybody shares.
//!
//! A *slot* is a place where a child is, starts, or may be started; at most one child is in it. A session has a slot
//! of its own; the shared ones make up the pool, which also serves the listing of tools and calls without a session.
//! A child starts in a task of its own: the call that wanted it may go away, another one may come to wait.

mod slot;
mod watching;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::slot::{Inside, Purpose, Slot};
pub(super) use self::slot::{Lease, Reservation};
use super::error::{Death, StartError};
use super::health::{Gate, Health};
use super::live::{Live, Start};
use super::pipe::Owner;
use crate::base::limits::{
    CHILD_CRASH_WINDOW, CHILD_PLACE_LOOK, CHILD_PLACE_WAIT, CHILD_ROOM_IDLE, CHILD_STOP_STEP,
};
use crate::telemetry::metrics::{self, ServerMetrics};
use crate::tools::Outbox;
use crate::tools::hosted::changes::Wanted;
use crate::tools::hosted::greeting::{About, EVERYTHING};

/// Bounds of a server's children.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_children: usize,
    pub(super) pool_size: usize,
    /// So many shared children stay though nobody uses them.
    pub(super) warm: usize,
    pub(super) idle: Duration,
}

/// The children of one server.
pub(super) struct Pool {
    start: Start,
    bounds: Bounds,
    /// One for each child that may live.
    places: Arc<Semaphore>,
    slots: Mutex<Slots>,
    /// Starts that failed, whoever wanted the child.
    starts: Mutex<Health>,
    /// Deaths of shared children. Those of a session's child count for that session alone, so that nobody can stop
    /// the server for others by crashing it.
    shared_health: Arc<Mutex<Health>>,
    /// The resources of which shared children tell changes.
    shared_wanted: Arc<Wanted>,
    /// Ends everything.
    pub(super) closing: CancellationToken,
    sweeper: OnceLock<AbortOnDropHandle<()>>,
    pub(super) started: AtomicU64,
    pub(super) died: AtomicU64,
    last_death: ArcSwapOption<String>,
    metrics: ServerMetrics,
}

#[derive(Default)]
struct Slots {
    shared: Vec<Arc<Slot>>,
    sessions: HashMap<String, Arc<Slot>>,
}

impl Pool {
    pub(super) fn new(start: Start, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            metrics: metrics::of_process().server(&start.launch.server),
            start,
            bounds,
            places: Arc::new(Semaphore::new(bounds.max_children)),
            slots: Mutex::default(),
            starts: Mutex::default(),
            shared_health: Arc::default(),
            shared_wanted: Arc::default(),
            closing: CancellationToken::new(),
            sweeper: OnceLock::new(),
            started: AtomicU64::new(0),
            died: AtomicU64::new(0),
            last_death: ArcSwapOption::empty(),
        })
    }

    /// The child of a session, started when there is none.
    pub(super) async fn of_session(
        self: &Arc<Self>,
        session: &str,
        capabilities: &str,
    ) -> Result<Lease, StartFailure> {
        let slot = {
            let mut slots = self.lock();
            let slot = slots.sessions.entry(session.to_owned()).or_insert_with(|| {
                let wanted = Arc::new(Wanted::of_session(session));
                Arc::new(Slot::new(Owner::Session, capabilities.to_owned(), Arc::default(), wanted))
            });
            Arc::clone(slot)
        };
        self.lease(slot).await
    }

    /// A shared child: the one with the fewest calls. The pool grows, up to its size, while all of them are busy;
    /// children that run a call undisturbed do not count.
    pub(super) async fn shared(self: &Arc<Self>) -> Result<Lease, StartFailure> {
        let (slot, another) = loop {
            let doubted = {
                let mut slots = self.lock();
                let best = slots.shared.iter().min_by_key(|slot| slot.load()).map(Arc::clone);
                let may_grow = self.may_grow(&slots);
                match best {
                    None => break (self.add_shared(&mut slots), None),
                    Some(best) => match best.doubted() {
                        Some(doubted) => doubted,
                        None if (best.is_asking() || best.is_silent()) && may_grow => {
                            break (self.add_shared(&mut slots), None);
                        }
                        None if best.is_busy() && may_grow => {
                            let another = self.add_shared(&mut slots);
                            break (best, Some(another));
                        }
                        None => break (best, None),
                    },
                }
            };
            doubted.decided().await;
        };
        // For later calls; this one does not wait for it.
        if let Some(another) = another {
            self.begin(&another);
        }
        self.lease(slot).await
    }

    /// A shared child that runs one call alone, so that what it asks can only be asked for that call. None when there
    /// is none to be had. `asks`: the call is known to ask, so that the pool may grow for it beyond its size.
    pub(super) async fn undisturbed(
        self: &Arc<Self>,
        asks: bool,
        out: &Arc<dyn Outbox>,
    ) -> Result<Option<(Lease, Reservation)>, StartFailure> {
        let reservation = loop {
            let doubted = {
                let mut slots = self.lock();
                let purpose = || if asks { Purpose::Asks } else { Purpose::MayAsk(Arc::clone(out)) };
                if let Some(idle) = slots.shared.iter().find_map(|slot| slot.reserve(purpose)) {
                    break idle;
                }
                let idle = slots.shared.iter().filter(|slot| !slot.is_busy());
                match idle.filter_map(|slot| slot.doubted()).next() {
                    Some(doubted) => doubted,
                    None if self.may_grow(&slots) || (asks && self.places.available_permits() > 0) => {
                        match self.add_shared(&mut slots).reserve(purpose) {
                            Some(reservation) => break reservation,
                            None => return Ok(None),
                        }
                    }
                    None => return Ok(None),
                }
            };
            doubted.decided().await;
        };
        let lease = self.lease(Arc::clone(&reservation.0)).await?;
        Ok(Some((lease, reservation)))
    }

    fn may_grow(&self, slots: &Slots) -> bool {
        // Those that others can use.
        let open = slots.shared.iter().filter(|slot| !slot.is_asking() && !slot.is_silent()).count();
        open < self.bounds.pool_size.max(1)
            && (slots.shared.is_empty() || self.places.available_permits() > 0)
    }

    fn add_shared(&self, slots: &mut Slots) -> Arc<Slot> {
        let (health, wanted) = (Arc::clone(&self.shared_health), Arc::clone(&self.shared_wanted));
        let slot = Arc::new(Slot::new(Owner::Shared, EVERYTHING.into(), health, wanted));
        slots.shared.push(Arc::clone(&slot));
        slot
    }

    /// A child for one purpose. The caller ends it.
    pub(super) async fn single(&self, capabilities: &str) -> Result<Live, StartFailure> {
        let (unused, nothing) = (Mutex::default(), Arc::default());
        tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(Arc::new(self.closed())),
            started = self.start_child(Owner::Session, capabilities, &nothing, &unused) => started.map_err(Arc::new),
        }
    }

    /// Ends a session's child and its subscriptions.
    pub(super) fn session_ended(self: &Arc<Self>, session: &str) {
        self.release(session);
        let Some(slot) = self.lock().sessions.remove(session) else { return };
        self.bury(&slot);
        if let Some(live) = slot.close() {
            stop_in_background(live);
        }
    }

    /// Ends all children and waits until they are reaped.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        let slots = std::mem::take(&mut *self.lock());
        let all = slots.shared.iter().chain(slots.sessions.values()).filter_map(|slot| slot.close());
        join_all(all.map(|live| async move { live.stop().await })).await;
        // Children of single calls end with their calls; a place comes back when its child is reaped.
        let places = u32::try_from(self.bounds.max_children).unwrap_or(u32::MAX);
        let _ = timeout(CHILD_STOP_STEP * 3, self.places.acquire_many(places)).await;
    }

    /// Children that live now, those that start included.
    pub(super) fn children(&self) -> usize {
        self.bounds.max_children.saturating_sub(self.places.available_permits())
    }

    /// Children that may live at a time.
    pub(super) fn max_children(&self) -> usize {
        self.bounds.max_children
    }

    /// Who the server says it is.
    pub(super) fn about(&self) -> &ArcSwapOption<About> {
        &self.start.about
    }

    /// For how long no child is started, and why.
    pub(super) fn parked(&self) -> Option<(Duration, Arc<str>)> {
        let now = Instant::now();
        [&self.starts, &*self.shared_health].into_iter().find_map(|health| match lock(health).gate(now) {
            Gate::Parked(left, reason) => Some((left, reason)),
            Gate::Open | Gate::Wait(_) => None,
        })
    }

    /// How a child died the last time.
    pub(super) fn last_death(&self) -> Option<String> {
        self.last_death.load().as_deref().cloned()
    }

    /// Sessions that have a child of their own, or had one a moment ago.
    pub(super) fn sessions(&self) -> usize {
        self.lock().sessions.len()
    }

    pub(super) fn closed(&self) -> StartError {
        StartError::Closed { server: Arc::clone(&self.start.launch.server) }
    }

    /// Takes a dead child out of its slot.
    fn bury(&self, slot: &Slot) {
        if let Some(death) = slot.bury() {
            self.mourn(&death);
        }
    }

    /// Counts a death that nobody else counts, and says it.
    pub(super) fn mourn(&self, death: &Death) {
        self.count_death(death);
        tracing::warn!(server = %self.start.launch.server, "{death}");
    }

    fn count_death(&self, how: &impl ToString) {
        self.died.fetch_add(1, Ordering::Relaxed);
        self.last_death.store(Some(Arc::new(how.to_string())));
        self.metrics.crashes.inc();
        self.metrics.children.set(self.running());
    }

    /// Children that run or start, or have ended and are not yet swept.
    fn running(&self) -> i64 {
        let running = self.bounds.max_children.saturating_sub(self.places.available_permits());
        i64::try_from(running).unwrap_or(i64::MAX)
    }

    async fn lease(self: &Arc<Self>, slot: Arc<Slot>) -> Result<Lease, StartFailure> {
        self.sweep_from_now_on();
        loop {
            self.bury(&slot);
            match slot.find() {
                Inside::Ready(lease) => return Ok(lease),
                Inside::Closed => return Err(Arc::new(self.closed())),
                Inside::Empty => self.begin(&slot),
                Inside::Starting(mut start) => {
                    match start.wait_for(Option::is_some).await.as_deref() {
                        Ok(Some(Err(error))) => return Err(Arc::clone(error)),
                        Ok(_) => {}
                        // The task that starts it went with the runtime.
                        Err(_) => return Err(Arc::new(self.closed())),
                    }
                }
            }
        }
    }

    /// Starts a child in an empty slot, in the background.
    fn begin(self: &Arc<Self>, slot: &Arc<Slot>) {
        let Some(started) = slot.starting() else { return };
        let (pool, slot) = (Arc::clone(self), Arc::clone(slot));
        tokio::spawn(async move {
            let result = tokio::select! {
                biased;
                () = pool.closing.cancelled() => Err(pool.closed()),
                () = slot.closed.cancelled() => Err(pool.closed()),
                result = pool.start_child(slot.owner, &slot.capabilities, &slot.wanted, &slot.health) => result,
            };
            let result = result.map_err(Arc::new);
            let told = match &result {
                Ok(_) => Ok(()),
                Err(error) => Err(Arc::clone(error)),
            };
            let is_there = result.is_ok();
            slot.put(result.ok());
            started.send_replace(Some(told));
            if is_there {
                pool.subscribe_anew(&slot).await;
            }
        });
    }

    /// A new child, when deaths before it and the number of the others allow.
    async fn start_child(
        &self,
        owner: Owner,
        capabilities: &str,
        wanted: &Arc<Wanted>,
        health: &Mutex<Health>,
    ) -> Result<Live, StartError> {
        for health in [&self.starts, health] {
            let gate = lock(health).gate(Instant::now());
            match gate {
                Gate::Open => {}
                Gate::Wait(pause) => sleep(pause).await,
                Gate::Parked(remaining, reason) => {
                    let server = Arc::clone(&self.start.launch.server);
                    return Err(StartError::Parked { server, remaining, reason });
                }
            }
        }
        let place = self.place(owner).await?;
        let started = Live::start(&self.start, owner, capabilities, wanted, place).await;
        match &started {
            Ok(_) => {
                self.started.fetch_add(1, Ordering::Relaxed);
                self.metrics.starts.inc();
                self.metrics.children.set(self.running());
                lock(&self.starts).recovered();
            }
            Err(error) if error.is_failed_start() => {
                self.count_death(error);
                lock(&self.starts).died(Instant::now(), &error.to_string());
                tracing::warn!("{error}");
            }
            Err(_) => {}
        }
        started
    }

    async fn place(&self, owner: Owner) -> Result<OwnedSemaphorePermit, StartError> {
        let end = Instant::now() + CHILD_PLACE_WAIT;
        loop {
            if self.places.available_permits() == 0 {
                self.make_room(owner);
            }
            // Looked at again now and then: a child may have been idle for long enough.
            let wait = end.saturating_duration_since(Instant::now()).min(CHILD_PLACE_LOOK);
            match timeout(wait, Arc::clone(&self.places).acquire_owned()).await {
                Ok(Ok(place)) => return Ok(place),
                Err(_) if Instant::now() < end => {}
                _ => {
                    return Err(StartError::Full {
                        server: Arc::clone(&self.start.launch.server),
                        limit: self.bounds.max_children,
                    });
                }
            }
        }
    }

    /// Ends a child that is not used: a shared one for a session's, else that of the session which has been idle longest.
    /// Its client is told that it was started anew; without this, clients that went away would shut out all others.
    fn make_room(&self, owner: Owner) {
        if owner == Owner::Session && self.end_an_idle_shared_child() {
            return;
        }
        let now = Instant::now();
        let idlest = {
            let slots = self.lock();
            let idle = slots.sessions.values().filter_map(|slot| Some((slot.idle_for(now)?, slot)));
            idle.max_by_key(|(idle, _)| *idle).map(|(_, slot)| Arc::clone(slot))
        };
        if let Some(live) = idlest.and_then(|slot| slot.take_idle(now, CHILD_ROOM_IDLE)) {
            stop_in_background(live);
        }
    }

    /// Shared children keep nothing that anybody would miss: they make room for a session's.
    fn end_an_idle_shared_child(&self) -> bool {
        let now = Instant::now();
        let idle = self.lock().shared.iter().find_map(|slot| slot.take_idle(now, Duration::ZERO));
        idle.map(stop_in_background).is_some()
    }

    /// Ends idle children from now on, for as long as the pool lives.
    fn sweep_from_now_on(self: &Arc<Self>) {
        self.sweeper.get_or_init(|| {
            let pool = Arc::downgrade(self);
            let pause = (self.bounds.idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(5));
            AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    sleep(pause).await;
                    let Some(pool) = Weak::upgrade(&pool) else { return };
                    pool.sweep();
                }
            }))
        });
    }

    fn sweep(self: &Arc<Self>) {
        let now = Instant::now();
        let slots: Vec<Arc<Slot>> = {
            let slots = self.lock();
            slots.shared.iter().chain(slots.sessions.values()).map(Arc::clone).collect()
        };
        slots.iter().for_each(|slot| self.bury(slot));
        let is_warm = |slot: &Slot| slot.owner == Owner::Shared && slot.live().is_some() && !slot.is_silent();
        let mut warm = slots.iter().filter(|slot| is_warm(slot)).count();
        for slot in slots {
            let (counts, is_last) = (is_warm(&slot), warm <= self.bounds.warm);
            if !(counts && is_last)
                && let Some(live) = slot.take_idle(now, self.bounds.idle)
            {
                warm -= usize::from(counts);
                stop_in_background(live);
            }
            if slot.lacks_a_child() {
                self.begin(&slot);
            }
        }
        // An empty slot of a session is kept while its deaths count.
        let keep = self.bounds.idle.max(CHILD_CRASH_WINDOW);
        let mut slots = self.lock();
        slots.sessions.retain(|_, slot| !slot.is_empty_for(now, keep));
        let mut beyond = slots.shared.len().saturating_sub(self.bounds.pool_size.max(1));
        slots.shared.retain(|slot| {
            // Grown for a call that asks. Subscriptions do not keep it: the others carry them. Who is about to use it
            // holds it.
            let goes = beyond > 0 && Arc::strong_count(slot) == 1 && slot.is_idle_for(now, self.bounds.idle);
            if goes {
                beyond -= 1;
                if let Some(live) = slot.close() {
                    stop_in_background(live);
                }
            }
            !goes
        });
        let mut left = slots.shared.len();
        slots.shared.retain(|slot| {
            let goes = left > 1 && slot.is_empty_for(now, Duration::ZERO);
            left -= usize::from(goes);
            !goes
        });
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a start failed, told to all who waited for it.
pub(super) type StartFailure = Arc<StartError>;

/// Ends a child in steps, after whoever ended it has gone on.
pub(super) fn stop_in_background(live: Arc<Live>) {
    // Without a runtime, dropping it kills it at once.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { live.stop().await });
    }
}

fn lock(health: &Mutex<Health>) -> MutexGuard<'_, Health> {
    health.lock().unwrap_or_else(PoisonError::into_inner)
}
