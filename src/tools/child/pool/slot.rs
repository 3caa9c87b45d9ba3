//! A place for one child.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::StartFailure;
use crate::tools::Outbox;
use crate::tools::child::error::Death;
use crate::tools::child::health::Health;
use crate::tools::child::live::Live;
use crate::tools::child::pipe::{Owner, Silence};
use crate::tools::hosted::changes::Wanted;

/// How a start ended; none while it has not.
type Started = Option<Result<(), StartFailure>>;

pub(super) struct Slot {
    pub(super) owner: Owner,
    /// What the client of its child can do, as JSON text.
    pub(super) capabilities: String,
    pub(super) health: Arc<Mutex<Health>>,
    /// The resources of which its child tells changes: while there are any, it has a child.
    pub(super) wanted: Arc<Wanted>,
    /// A child was in it once.
    pub(super) had_a_child: AtomicBool,
    /// No child is to be in it any more.
    pub(super) closed: CancellationToken,
    state: Mutex<State>,
}

struct State {
    content: Content,
    calls: usize,
    /// Its child is for one call.
    reserved: Option<Purpose>,
    last_used: Instant,
}

impl State {
    fn silence(&self) -> Silence {
        match &self.content {
            Content::Ready(live) => live.silence(),
            Content::Empty | Content::Starting(_) => Silence::None,
        }
    }

    fn is_idle_for(&self, now: Instant, time: Duration) -> bool {
        self.calls == 0 && self.reserved.is_none() && now.saturating_duration_since(self.last_used) >= time
    }
}

/// Why a child is for one call.
pub(super) enum Purpose {
    /// The call asks.
    Asks,
    /// It may ask, which its outbox will know. Others share the child only when there is no other.
    MayAsk(Arc<dyn Outbox>),
}

impl Purpose {
    fn asks(&self) -> bool {
        match self {
            Self::Asks => true,
            Self::MayAsk(out) => out.wanted_to_ask(),
        }
    }
}

/// A slot whose child runs one call alone.
pub(in crate::tools::child) struct Reservation(pub(super) Arc<Slot>);

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.lock().reserved = None;
    }
}

enum Content {
    Empty,
    Starting(watch::Receiver<Started>),
    Ready(Arc<Live>),
}

/// What is in a slot.
pub(super) enum Inside {
    Ready(Lease),
    Starting(watch::Receiver<Started>),
    Empty,
    Closed,
}

/// A child in use: it is not ended for idleness.
pub(in crate::tools::child) struct Lease {
    pub(super) slot: Arc<Slot>,
    pub(in crate::tools::child) live: Arc<Live>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.slot.lock();
        state.calls = state.calls.saturating_sub(1);
        state.last_used = Instant::now();
    }
}

impl Slot {
    pub(super) fn new(
        owner: Owner,
        capabilities: String,
        health: Arc<Mutex<Health>>,
        wanted: Arc<Wanted>,
    ) -> Self {
        Self {
            owner,
            capabilities,
            health,
            wanted,
            had_a_child: AtomicBool::new(false),
            closed: CancellationToken::new(),
            state: Mutex::new(State {
                content: Content::Empty,
                calls: 0,
                reserved: None,
                last_used: Instant::now(),
            }),
        }
    }

    pub(super) fn find(self: &Arc<Self>) -> Inside {
        let mut state = self.lock();
        if self.closed.is_cancelled() {
            return Inside::Closed;
        }
        match &state.content {
            Content::Empty => Inside::Empty,
            Content::Starting(start) => Inside::Starting(start.clone()),
            Content::Ready(live) => {
                let live = Arc::clone(live);
                state.calls += 1;
                Inside::Ready(Lease { slot: Arc::clone(self), live })
            }
        }
    }

    /// Keeps a slot that is not used for one call.
    pub(super) fn reserve(self: &Arc<Self>, purpose: impl FnOnce() -> Purpose) -> Option<Reservation> {
        let mut state = self.lock();
        if state.silence() != Silence::None {
            return None;
        }
        if state.calls > 0 || state.reserved.is_some() || self.closed.is_cancelled() {
            return None;
        }
        state.reserved = Some(purpose());
        drop(state);
        Some(Reservation(Arc::clone(self)))
    }

    /// Whether its child runs a call that asks: another one beside it would make its questions ambiguous.
    pub(super) fn is_asking(&self) -> bool {
        self.lock().reserved.as_ref().is_some_and(Purpose::asks)
    }

    /// Marks an empty slot as starting; the sender tells how it ended. None when there is nothing to start.
    pub(super) fn starting(&self) -> Option<watch::Sender<Started>> {
        let mut state = self.lock();
        if self.closed.is_cancelled() || !matches!(state.content, Content::Empty) {
            return None;
        }
        let (tell, told) = watch::channel(None);
        state.content = Content::Starting(told);
        Some(tell)
    }

    /// Puts the child in that was started, or none. In a slot that was closed meanwhile, it is dropped and so killed.
    pub(super) fn put(&self, live: Option<Live>) {
        let mut state = self.lock();
        state.last_used = Instant::now();
        state.content = match live {
            Some(live) if !self.closed.is_cancelled() => Content::Ready(Arc::new(live)),
            _ => Content::Empty,
        };
    }

    /// Takes a dead child out and counts its death.
    pub(super) fn bury(&self) -> Option<Arc<Death>> {
        let (death, corpse) = {
            let mut state = self.lock();
            let Content::Ready(live) = &state.content else { return None };
            let death = live.death()?;
            (death, std::mem::replace(&mut state.content, Content::Empty))
        };
        drop(corpse);
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.died(Instant::now(), &death.to_string());
        Some(death)
    }

    /// The child that is in it, without using it.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        match &self.lock().content {
            Content::Ready(live) => Some(Arc::clone(live)),
            Content::Empty | Content::Starting(_) => None,
        }
    }

    /// Whether it has no child though it should have one.
    pub(super) fn lacks_a_child(&self) -> bool {
        !self.wanted.is_empty() && matches!(self.lock().content, Content::Empty)
    }

    /// Takes the child out when it runs nothing, nobody used it for this long and nobody waits for its news.
    pub(super) fn take_idle(&self, now: Instant, idle: Duration) -> Option<Arc<Live>> {
        let mut state = self.lock();
        if !self.wanted.is_empty() || !state.is_idle_for(now, idle) {
            return None;
        }
        let Content::Ready(live) = &state.content else { return None };
        let live = Arc::clone(live);
        state.content = Content::Empty;
        Some(live)
    }

    /// Whether nothing runs in it, and nobody used it for this long.
    pub(super) fn is_idle_for(&self, now: Instant, time: Duration) -> bool {
        self.lock().is_idle_for(now, time)
    }

    /// Takes the child out for good.
    pub(super) fn close(&self) -> Option<Arc<Live>> {
        let mut state = self.lock();
        self.closed.cancel();
        match std::mem::replace(&mut state.content, Content::Empty) {
            Content::Ready(live) => Some(live),
            Content::Empty | Content::Starting(_) => None,
        }
    }

    /// How much it has to do: first those that are ready, by their calls; then those that are kept for one call, and last
    /// those whose child may hang.
    pub(super) fn load(&self) -> (Silence, u8, u8, usize) {
        let state = self.lock();
        let readiness = match state.content {
            Content::Ready(_) => 0,
            Content::Starting(_) => 1,
            Content::Empty => 2,
        };
        let kept = match &state.reserved {
            None => 0,
            Some(purpose) => 1 + u8::from(purpose.asks()),
        };
        (state.silence(), kept, readiness, state.calls)
    }

    /// Whether its child hangs, as far as anybody knows.
    pub(super) fn is_silent(&self) -> bool {
        self.lock().silence() == Silence::Silent
    }

    /// Its child, if that is in doubt.
    pub(super) fn doubted(&self) -> Option<Arc<Live>> {
        self.live().filter(|live| live.silence() == Silence::Doubt)
    }

    /// For how long its child has been idle, where nobody would miss more than what it keeps.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let state = self.lock();
        let idle = matches!(state.content, Content::Ready(_))
            && self.wanted.is_empty()
            && state.is_idle_for(now, Duration::ZERO);
        idle.then(|| now.saturating_duration_since(state.last_used))
    }

    /// Whether its child runs a call.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.lock();
        state.calls > 0 && matches!(state.content, Content::Ready(_))
    }

    pub(super) fn is_empty_for(&self, now: Instant, time: Duration) -> bool {
        let state = self.lock();
        matches!(state.content, Content::Empty)
            && self.wanted.is_empty()
            && state.reserved.is_none()
            && now.saturating_duration_since(state.last_used) >= time
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
