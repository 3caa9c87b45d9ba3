//! Messages to every session, stored once.
//!
//! Broadcasts have a log of their own, with an origin of its own, and a connection of a GET stream reads both logs: so a
//! broadcast costs one write however many sessions there are, and it is resumed by the same event ids.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::elsewhere::{News, Reading, take_in};
use super::stream::Reader;
use crate::base::clock::SharedClock;
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{CURSOR_ROOM, LOG_ORIGINS, MAX_CURSOR_PAIRS, STREAM_BATCH};
use crate::base::table::Table;
use crate::state::cursor::Cursor;
use crate::state::log::{Entry, Kind, Log, Position, Retention, Spared, StreamName, make_room};
use crate::store::share::Pulled;
use crate::store::{Store, StoreError};

#[derive(Debug)]
struct Held {
    log: Log,
    durable: u64,
}

/// The log of broadcasts and the connections that read it.
#[derive(Debug)]
pub(super) struct Broadcast {
    origin: Origin,
    held: Mutex<Held>,
    readers: Table<u64, Arc<Reader>>,
    /// How far the log that instances share was read.
    pub(super) reading: Reading,
}

impl Broadcast {
    /// What the disk has of it. This process start appends under a new origin.
    pub(super) async fn load(store: &Store) -> Result<Self, StoreError> {
        let mut log = store.log(SessionKey::BROADCAST).await?;
        log.sort_runs();
        Ok(Self {
            origin: Origin::random(),
            held: Mutex::new(Held { log, durable: 0 }),
            readers: Table::default(),
            reading: Reading::default(),
        })
    }

    /// Stores a message and wakes every reader. Returns how many connections there are to carry it.
    pub(super) async fn send(
        self: &Arc<Self>,
        store: &Store,
        clock: &SharedClock,
        keep: Retention,
        message: Bytes,
    ) -> Result<usize, StoreError> {
        let place = store.place().await?;
        let (done, finished) = tokio::sync::oneshot::channel();
        {
            let mut held = self.held();
            let now = clock.now_ms();
            let entry = held.log.append(self.origin, Kind::Message, StreamName::GET, message, now);
            let seq = entry.seq;
            let spared = Spared { origin: self.origin, newest: seq, unread: seq };
            let trimmed = held.log.trim(keep, now, Some(spared));
            let this = Arc::clone(self);
            let written = Box::new(move |written: Result<(), StoreError>| {
                if written.is_ok() {
                    let mut held = this.held();
                    held.durable = held.durable.max(seq);
                }
                let _ = done.send(written);
            });
            store.append(place, SessionKey::BROADCAST, vec![entry], trimmed, written);
        }
        finished.await.unwrap_or(Err(StoreError::Closed))?;
        self.wake_all();
        store.share(SessionKey::BROADCAST).await;
        Ok(self.readers.len())
    }

    /// How many connections carry broadcasts.
    pub(super) fn readers(&self) -> usize {
        self.readers.len()
    }

    /// Makes every connection look again.
    pub(super) fn wake_all(&self) {
        self.readers.for_each(|_, reader| reader.wake());
    }

    /// Takes in what other instances said.
    pub(super) fn take_in(&self, pulled: &Pulled, whole: bool, keep: Retention, now_ms: u64) -> News {
        let mut held = self.held();
        let mut news = take_in(&mut held.log, self.origin, pulled, whole);
        news.cuts.extend(held.log.trim(keep, now_ms, None));
        news
    }

    /// The position of one who has seen every broadcast so far: where a new session begins.
    pub(super) fn end(&self, now_ms: u64) -> Cursor {
        let held = self.held();
        let mut end = held.log.end();
        make_room(&mut end, &[&held.log], now_ms);
        end
    }

    /// Makes room in `seen` for what a reader of `log` and of broadcasts may be shown next. True: a gap is to be told.
    pub(super) fn make_room(&self, seen: &mut Cursor, log: &Log, now_ms: u64) -> bool {
        // Mostly there is room, whatever the logs retain.
        seen.len() + 2 * LOG_ORIGINS + CURSOR_ROOM > MAX_CURSOR_PAIRS
            && make_room(seen, &[log, &self.held().log], now_ms)
    }

    /// Whether this process start cannot have said what this cursor claims to have seen.
    pub(super) fn is_beyond(&self, seen: &Cursor) -> bool {
        seen.seen(self.origin) > self.held().log.high_water(self.origin)
    }

    /// Shows what is owed at `position`; true if some of it is gone.
    pub(super) fn visit(&self, position: &mut Position, visit: impl FnMut(&Entry, &Cursor)) -> bool {
        let held = self.held();
        held.log.visit_owed(StreamName::GET, position, self.origin, held.durable, STREAM_BATCH, visit)
    }

    /// Wakes `reader` at every broadcast from now on.
    pub(super) fn listen(&self, number: u64, reader: Arc<Reader>) {
        self.readers.insert(number, reader);
    }

    /// Forgets it.
    pub(super) fn forget(&self, number: u64) {
        self.readers.remove(&number);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
