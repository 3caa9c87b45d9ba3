//! Between instances: who listens to what there, and what was said here that somebody there listens to.
//!
//! An instance where somebody listens announces the filters now and then; what they pick is put into a log of its own by
//! whoever says it, in the background, and read by those that listen. While Redis is away nothing of other instances is
//! heard, and that is told when it is back.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::Said;
use crate::base::clock::millis;
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{RELAY_BATCH, RELAY_QUEUE, TAILS, WANTED_FOR};
use crate::engine::Engine;
use crate::state::topic::Filter;
use crate::store::remote::Hint;
use crate::store::share::Told;

/// What goes from one instance to the others.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Relayed {
    /// Something was said.
    Said(Said),
    /// So many things were said and not passed on.
    Missed(u64),
}

/// What sisters want to be told, by their process starts.
#[derive(Debug, Default)]
pub(super) struct Wanted(Mutex<HashMap<String, Interest>>);

#[derive(Debug)]
struct Interest {
    filters: Vec<Filter>,
    /// On the clock that never goes back, milliseconds.
    until_ms: u64,
}

impl Wanted {
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn wants(&self, topic: &str, now_ms: u64) -> bool {
        let wanted = self.lock();
        wanted.values().any(|it| it.until_ms > now_ms && it.filters.iter().any(|filter| filter.picks(topic)))
    }

    fn set(&self, instance: String, filters: Vec<Filter>, until_ms: u64) {
        let mut wanted = self.lock();
        if filters.is_empty() {
            wanted.remove(&instance);
        } else {
            wanted.insert(instance, Interest { filters, until_ms });
        }
    }

    fn prune(&self, now_ms: u64) {
        self.lock().retain(|_, it| it.until_ms > now_ms);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Interest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be passed on.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: Mutex<Queue>,
    news: Notify,
    /// When sisters were told last what is wanted here, on the clock that never goes back, milliseconds.
    told_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    said: VecDeque<Said>,
    missed: u64,
}

impl Outgoing {
    /// Queues it; where the queue is full it is missed, and that is passed on.
    pub(super) fn push(&self, said: Said) {
        let mut queue = self.lock();
        if queue.said.len() < RELAY_QUEUE {
            queue.said.push_back(said);
        } else {
            queue.missed = queue.missed.saturating_add(1);
        }
        drop(queue);
        self.news.notify_one();
    }

    fn take(&self) -> Vec<Relayed> {
        let mut queue = self.lock();
        let some = queue.said.len().min(RELAY_BATCH);
        let mut batch: Vec<Relayed> = queue.said.drain(..some).map(Relayed::Said).collect();
        if queue.said.is_empty() && queue.missed > 0 {
            batch.push(Relayed::Missed(std::mem::take(&mut queue.missed)));
        }
        batch
    }

    fn miss(&self, count: u64) {
        let mut queue = self.lock();
        queue.missed = queue.missed.saturating_add(count);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What sisters passed on, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    state: Mutex<Read>,
    pub(super) news: Notify,
}

#[derive(Debug, Default)]
struct Read {
    hint: Option<Hint>,
    seen: HashMap<Origin, u64>,
    /// Of what was said before nobody here wants to hear, milliseconds since the epoch; 0: the marks say it.
    since_ms: u64,
}

impl Incoming {
    fn lock(&self) -> MutexGuard<'_, Read> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read {
    /// Takes note of an entry: `None`: it was read before; else how many before it are not there any more.
    fn note(&mut self, origin: Origin, seq: u64) -> Option<u64> {
        match self.seen.insert(origin, seq) {
            Some(seen) if seen >= seq => {
                self.seen.insert(origin, seen);
                None
            }
            Some(seen) => Some(seq - seen - 1),
            None => Some(0),
        }
    }
}

impl Engine {
    /// Passes on, and takes in what is passed on, from now on.
    pub(in crate::engine) fn relay_topics(self: &Arc<Self>) {
        if !self.store.is_shared() {
            return;
        }
        for outgoing in [true, false] {
            let (engine, stopping) = (Arc::downgrade(self), self.stopping.clone());
            tokio::spawn(async move {
                loop {
                    let Some(engine) = engine.upgrade() else { return };
                    let topics = &engine.topics;
                    let news = if outgoing { &topics.outgoing.news } else { &topics.incoming.news };
                    tokio::select! {
                        () = stopping.cancelled() => return,
                        () = news.notified() => {}
                    }
                    if outgoing { engine.pass_on().await } else { engine.take_in_said().await }
                }
            });
        }
    }

    async fn pass_on(&self) {
        loop {
            let batch = self.topics.outgoing.take();
            if batch.is_empty() {
                return;
            }
            let count = batch.len() as u64;
            let payloads: Vec<Bytes> =
                batch.iter().filter_map(|item| Some(serde_json::to_vec(item).ok()?.into())).collect();
            match self.store.relay(payloads).await {
                Told::Yes => {}
                // The hole that it leaves says so.
                Told::Lost => return,
                Told::Unsent => {
                    // Told with what is passed on next.
                    self.topics.outgoing.miss(count);
                    return;
                }
            }
        }
    }

    /// What was passed on before is nothing to who listens from now on.
    pub(super) async fn begin_to_hear_sisters(&self) {
        {
            let mut read = self.topics.incoming.lock();
            *read = Read { since_ms: self.clock.now_ms(), ..Read::default() };
        }
        if let Some(pulled) = self.store.pull_log(SessionKey::TOPICS, None).await {
            let mut read = self.topics.incoming.lock();
            read.hint = Some(pulled.hint);
            read.seen.extend(pulled.marks);
            // What is new is known by its number: a sister's clock may be behind.
            read.since_ms = 0;
        }
    }

    async fn take_in_said(&self) {
        if !self.topics.has_tails() {
            return;
        }
        let hint = self.topics.incoming.lock().hint.clone();
        let Some(pulled) = self.store.pull_log(SessionKey::TOPICS, hint).await else { return };
        let own = self.store.origin();
        for entry in pulled.entries {
            let (missed, since_ms) = {
                let mut read = self.topics.incoming.lock();
                (read.note(entry.origin, entry.seq), read.since_ms)
            };
            let Some(missed) = missed.filter(|_| entry.origin != own && entry.at_ms >= since_ms) else {
                continue;
            };
            if missed > 0 {
                self.topics.missed(Some(missed));
            }
            match serde_json::from_slice(&entry.payload) {
                Ok(Relayed::Said(said)) => {
                    self.topics.hand(&said);
                }
                Ok(Relayed::Missed(count)) => self.topics.missed(Some(count)),
                Err(error) => tracing::debug!(%error, "a newer sister says something in another form"),
            }
        }
        self.topics.incoming.lock().hint = Some(pulled.hint);
    }

    /// There may be something that sisters passed on.
    pub(in crate::engine) fn hear_sisters(&self) {
        self.topics.incoming.news.notify_one();
    }

    /// Something that sisters passed on may have been missed.
    pub(in crate::engine) fn sisters_missed(&self) {
        self.topics.missed(None);
    }

    /// Tells sisters what somebody listens to here.
    pub(super) fn tell_what_is_wanted(self: &Arc<Self>) {
        if !self.store.is_shared() {
            return;
        }
        let mut filters = Vec::new();
        self.topics.tails.for_each(|_, tail| filters.push(tail.filter.as_str().to_owned()));
        filters.sort();
        filters.dedup();
        self.topics.outgoing.told_ms.store(self.clock.monotonic_ms(), Ordering::Relaxed);
        self.announce_tails(filters);
    }

    /// A sister says what somebody listens to there.
    pub(in crate::engine) fn sister_wants(&self, instance: String, filters: &[String]) {
        let until_ms = self.clock.monotonic_ms().saturating_add(millis(WANTED_FOR));
        let read = filters.iter().take(TAILS).filter_map(|filter| Filter::parse(filter).ok()).collect();
        self.topics.wanted.set(instance, read, until_ms);
        self.topics.count();
    }

    /// Called about once a second.
    pub(in crate::engine) fn look_after_topics(self: &Arc<Self>) {
        let now_ms = self.clock.monotonic_ms();
        if self.topics.wanted.len() > 0 {
            self.topics.wanted.prune(now_ms);
            self.topics.count();
        }
        let told_ms = self.topics.outgoing.told_ms.load(Ordering::Relaxed);
        if self.topics.has_tails() && now_ms.saturating_sub(told_ms) >= millis(WANTED_FOR) / 3 {
            self.tell_what_is_wanted();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn said(n: usize) -> Said {
        let message = RawValue::from_string(n.to_string()).unwrap();
        Said { topic: "a".into(), at_ms: 1, instance: "i".into(), message }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_behind_what_did() {
        let outgoing = Outgoing::default();
        for n in 0..RELAY_QUEUE + 3 {
            outgoing.push(said(n));
        }
        let mut told = 0;
        loop {
            let batch = outgoing.take();
            let Some(last) = batch.last() else { break };
            if let Relayed::Missed(count) = last {
                assert_eq!((*count, told + batch.len() - 1), (3, RELAY_QUEUE));
            }
            told += batch.len();
        }
        assert_eq!(told, RELAY_QUEUE + 1);
        let text = serde_json::to_vec(&Relayed::Said(said(7))).unwrap();
        let Ok(Relayed::Said(back)) = serde_json::from_slice(&text) else { panic!("it is read back") };
        assert_eq!((back.message.get(), back.topic.as_str()), ("7", "a"));
    }

    #[test]
    fn an_entry_counts_once_and_a_hole_before_it_is_seen() {
        let (mut read, origin) = (Read::default(), Origin::from_bits(1));
        assert_eq!(read.note(origin, 5), Some(0), "where one comes in there is no hole");
        assert_eq!(
            (read.note(origin, 5), read.note(origin, 6), read.note(origin, 9)),
            (None, Some(0), Some(2))
        );
        assert_eq!(read.note(origin, 6), None);
        assert_eq!(read.note(origin, 10), Some(0));
    }

    #[test]
    fn what_a_sister_wants_it_wants_for_a_while() {
        let wanted = Wanted::default();
        wanted.set("i".into(), vec![Filter::parse("a/#").unwrap()], 100);
        assert!(wanted.wants("a/b", 99) && !wanted.wants("b", 99) && !wanted.wants("a/b", 100));
        wanted.prune(100);
        assert_eq!(wanted.len(), 0);
        wanted.set("i".into(), vec![Filter::parse("a").unwrap()], 200);
        wanted.set("i".into(), Vec::new(), 300);
        assert_eq!(wanted.len(), 0);
    }
}
