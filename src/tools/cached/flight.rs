//! Equal calls that miss at the same moment: one is made, the others wait for it.
//!
//! Nothing is spawned: the first caller runs the call as its own. When it leaves, another one of those who wait runs it;
//! when what it got is not kept (a failure, say), everybody runs it for himself.

use std::sync::Arc;

use tokio::sync::watch;

use super::key::Key;
use super::memory::Entry;
use crate::base::table::Table;

/// What became of a call that others wait for.
#[derive(Clone, Debug)]
pub(super) enum Landed {
    /// Its result was kept.
    With(Arc<Entry>),
    /// It was not: each makes the call for himself.
    Alone,
    /// Whoever ran it has left.
    Nowhere,
}

type Waiting = watch::Receiver<Option<Landed>>;

/// The calls that run, by where their results would be.
#[derive(Default)]
pub(super) struct Flights {
    flying: Arc<Table<Key, Waiting>>,
}

/// A place in a flight.
pub(super) enum Seat {
    /// That of the one who makes the call.
    First(Pilot),
    /// Of one who waits.
    Behind(Flight),
}

/// Makes a call that others may wait for.
pub(super) struct Pilot {
    key: Key,
    tell: watch::Sender<Option<Landed>>,
    flying: Arc<Table<Key, Waiting>>,
}

/// Waits for a call that another one makes.
pub(super) struct Flight(Waiting);

impl Flights {
    pub(super) fn board(&self, key: Key) -> Seat {
        let mut own = None;
        let make = || {
            let (tell, waiting) = watch::channel(None);
            own = Some(tell);
            waiting
        };
        let waiting = self.flying.with_or_insert(key, make, |waiting| waiting.clone());
        match own {
            Some(tell) => Seat::First(Pilot { key, tell, flying: Arc::clone(&self.flying) }),
            None => Seat::Behind(Flight(waiting)),
        }
    }
}

impl Pilot {
    /// The call has ended; what was kept of it.
    pub(super) fn land(self, kept: Option<Arc<Entry>>) {
        self.flying.remove(&self.key);
        self.tell.send_replace(Some(kept.map_or(Landed::Alone, Landed::With)));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        // Left before it landed. Whoever waits sees the sender go.
        if self.tell.borrow().is_none() {
            self.flying.remove(&self.key);
        }
    }
}

impl Flight {
    pub(super) async fn landed(mut self) -> Landed {
        match self.0.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or(Landed::Nowhere),
            Err(_) => Landed::Nowhere,
        }
    }
}
