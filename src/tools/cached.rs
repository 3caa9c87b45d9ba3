//! Results of tools and resources that are answered again without being made again.
//!
//! A result is kept where its tool changes nothing and somebody says for how long it counts: the result itself (`ttlMs`)
//! or the configuration (`cache_seconds`). It is found under a digest of the tool as it is described, the arguments, and
//! the principal, or of nobody where it is public. There are two tiers: memory ([`memory`]), and what instances share
//! ([`shelf`]). Neither is owed anything: what cannot be kept or found is made again, and a failure of the shared tier is
//! never one of the call.
//!
//! What was kept is voided by tags ([`tags`]): each result has those of its server, its tool or resource, and whatever the
//! configuration and the result name. Equal calls that miss at the same moment are made once ([`flight`]).

mod flight;
mod kept;
mod key;
mod memory;
mod rules;
mod shelf;
mod tags;
#[cfg(test)]
mod tests;
mod watched;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::value::RawValue;

use self::flight::{Flights, Landed, Seat};
pub use self::kept::{CACHED, NO_CACHE, TAGS};
use self::kept::{Kept, Verdict};
use self::key::{Key, Keys};
use self::memory::{Entry, Memory, NEVER};
pub(crate) use self::rules::Rules;
pub use self::shelf::{Mark, Shelf};
pub use self::tags::Tag;
use self::tags::Voids;
use self::watched::Watched;
use super::{BoxFuture, Call};
use crate::base::clock::{SharedClock, SystemClock, millis};
use crate::base::table::Table;
use crate::rpc::error::RpcError;

type Outcome = Result<Box<RawValue>, RpcError>;

/// The cache of one instance.
pub struct Results {
    /// None: nothing is kept at all.
    memory: Option<Memory>,
    voids: Voids,
    flights: Flights,
    shelf: OnceLock<Arc<dyn Shelf>>,
    /// Hosts of which a resource said that it may be kept.
    readable: Table<Box<str>, ()>,
    counts: Counts,
    clock: SharedClock,
}

/// What has happened since the start.
#[derive(Debug, Default)]
struct Counts {
    memory: AtomicU64,
    shared: AtomicU64,
    joined: AtomicU64,
    misses: AtomicU64,
    anew: AtomicU64,
    kept: AtomicU64,
    voided: AtomicU64,
}

/// What the cache holds and what it was good for, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct CacheStats {
    /// Calls that memory answered.
    pub memory_hits: u64,
    /// Calls that the shared tier answered.
    pub shared_hits: u64,
    /// Calls that got the result of an equal one that ran.
    pub joined: u64,
    /// Calls that were looked for in vain.
    pub misses: u64,
    /// Calls that wanted a result of now.
    pub anew: u64,
    /// The part of all that were looked for which was answered from here, 0 to 1.
    pub hit_rate: f64,
    /// Results that were kept.
    pub kept: u64,
    /// Results that left memory to make room.
    pub evicted: u64,
    /// Times that something was voided.
    pub voided: u64,
    /// Results in memory.
    pub entries: u64,
    /// What they take, bytes.
    pub bytes: u64,
    /// What they may take, bytes; 0: nothing is kept.
    pub max_bytes: u64,
}

/// A result in memory, for the operator.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CacheEntry {
    /// The tool's public name, or the URI of the resource.
    pub name: Box<str>,
    /// Its server.
    pub server: Box<str>,
    /// Everybody may have it.
    pub public: bool,
    /// How long ago it was made, milliseconds.
    pub age_ms: u64,
    /// How long it still counts, milliseconds.
    pub left_ms: u64,
    /// What it takes here, bytes.
    pub bytes: u64,
    /// It is packed.
    pub packed: bool,
    /// Its tags, but for those of its server and its name.
    pub tags: Vec<Box<str>>,
}

impl Results {
    /// A cache of at most so many bytes in memory; 0: nothing is kept.
    #[must_use]
    pub fn new(bytes: u64) -> Arc<Self> {
        Self::with_clock(bytes, Arc::new(SystemClock::default()))
    }

    fn with_clock(bytes: u64, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            memory: (bytes > 0).then(|| Memory::new(bytes)),
            voids: Voids::default(),
            flights: Flights::default(),
            shelf: OnceLock::new(),
            readable: Table::default(),
            counts: Counts::default(),
            clock,
        })
    }

    /// From now on results are also kept where other instances find them. Called once.
    pub fn share(&self, shelf: Arc<dyn Shelf>) {
        if self.shelf.set(shelf).is_err() {
            tracing::error!("two shared tiers for the cache of results");
        }
    }

    /// Whether anything is kept.
    pub(crate) fn is_on(&self) -> bool {
        self.memory.is_some()
    }

    /// Answers a call of a tool that may be cached: from the cache, else by `run`. `fits`: the result will be held
    /// against the tool's schema.
    pub(crate) async fn answer(
        &self,
        rules: &Rules,
        fits: bool,
        call: Call,
        run: impl FnOnce(Call) -> BoxFuture<'static, Outcome>,
    ) -> Outcome {
        let Some(memory) = self.memory.as_ref().filter(|_| call.resumed_after.is_none()) else {
            return run(call).await;
        };
        let keys = Keys::of(rules, &call, fits);
        let tier = Tier { results: self, memory, rules, keys };
        if call.anew {
            // It joins nobody who began before it.
            bump(&self.counts.anew);
            return tier.make(call, run).await.0;
        }
        if rules.is_looked_for() {
            if let Some(found) = tier.find(&call).await {
                return found;
            }
            bump(&self.counts.misses);
        } else {
            // Nothing of it was ever kept, so nobody waits for anybody.
            return tier.make(call, run).await.0;
        }
        loop {
            match self.flights.board(tier.keys.flight()) {
                Seat::First(pilot) => {
                    // Another one may have landed since the look above.
                    if let Some(found) = tier.in_memory(&call, true) {
                        return found;
                    }
                    let (outcome, kept) = tier.make(call, run).await;
                    pilot.land(kept);
                    return outcome;
                }
                Seat::Behind(flight) => {
                    let landed = tokio::select! {
                        landed = flight.landed() => landed,
                        () = call.cancel.cancelled() => {
                            return Err(RpcError::internal("the call was cancelled"));
                        }
                    };
                    match landed {
                        Landed::With(entry) if !tier.is_void(&entry) => {
                            bump(&self.counts.joined);
                            return Ok(tier.told(&entry, &call));
                        }
                        Landed::With(_) | Landed::Alone => return tier.make(call, run).await.0,
                        // Whoever flew has left: another one flies.
                        Landed::Nowhere => {}
                    }
                }
            }
        }
    }

    /// Voids everything with one of these tags, here and on the other instances.
    pub fn void(&self, tags: &[Tag]) {
        if self.memory.is_none() || tags.is_empty() {
            return;
        }
        self.void_here(tags);
        if let Some(shelf) = self.shelf.get() {
            shelf.void(tags);
        }
    }

    /// As [`Results::void`], for what another instance has voided.
    pub fn void_here(&self, tags: &[Tag]) {
        bump(&self.counts.voided);
        self.voids.void(tags);
    }

    /// A result in the shared tier became another one, perhaps by this instance itself: before memory's is told again,
    /// that tier is asked.
    pub fn look_again(&self, name: &str) {
        let held = self.memory.as_ref().zip(Key::parse(name)).and_then(|(memory, key)| memory.get(&key));
        if let Some(entry) = held {
            entry.epoch.store(NEVER, Ordering::Relaxed);
        }
    }

    /// Voids everything with one of these tags and frees the memory of it; how many results that were here.
    pub fn clear(&self, tags: &[Tag]) -> u64 {
        self.void(tags);
        let Some(memory) = &self.memory else { return 0 };
        let gone: Vec<Key> = memory
            .entries()
            .filter(|(_, entry)| self.voids.is_void(entry.since, &entry.kept.tags))
            .map(|(key, _)| key)
            .collect();
        gone.iter().for_each(|key| memory.forget(key));
        gone.len() as u64
    }

    /// The results in memory that count, those that were made last first; at most `most`. `wanted`: only those with this tag.
    #[must_use]
    pub fn list(&self, wanted: Option<Tag>, most: usize) -> Vec<CacheEntry> {
        let Some(memory) = &self.memory else { return Vec::new() };
        let now_ms = self.clock.monotonic_ms();
        let mut found: Vec<CacheEntry> = memory
            .entries()
            .filter(|(_, entry)| {
                entry.until_ms > now_ms
                    && wanted.is_none_or(|tag| entry.kept.tags.contains(&tag))
                    && !self.voids.is_void(entry.since, &entry.kept.tags)
            })
            .map(|(_, entry)| CacheEntry {
                name: entry.kept.name.clone(),
                server: entry.kept.server.clone(),
                public: entry.kept.public,
                age_ms: self.age_ms(&entry),
                left_ms: entry.until_ms - now_ms,
                bytes: entry.bytes() as u64,
                packed: entry.kept.is_packed(),
                tags: entry.kept.labels.clone(),
            })
            .collect();
        found.sort_by(|a, b| (a.age_ms, &a.name).cmp(&(b.age_ms, &b.name)));
        found.truncate(most);
        found
    }

    /// What it holds and what it was good for.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let counts = &self.counts;
        let (memory_hits, shared_hits) = (count(&counts.memory), count(&counts.shared));
        let (joined, misses) = (count(&counts.joined), count(&counts.misses));
        let answered = memory_hits + shared_hits + joined;
        // A call that joined another one missed before.
        let asked = memory_hits + shared_hits + misses;
        let (entries, bytes, evicted, max_bytes) = self.memory.as_ref().map_or((0, 0, 0, 0), Memory::sizes);
        CacheStats {
            memory_hits,
            shared_hits,
            joined,
            misses,
            anew: count(&counts.anew),
            hit_rate: if asked == 0 { 0.0 } else { answered as f64 / asked as f64 },
            kept: count(&counts.kept),
            evicted,
            voided: count(&counts.voided),
            entries,
            bytes,
            max_bytes,
        }
    }

    fn age_ms(&self, entry: &Entry) -> u64 {
        self.clock.now_ms().saturating_sub(entry.kept.made_ms)
    }
}

/// One call and where it is looked for.
struct Tier<'a> {
    results: &'a Results,
    memory: &'a Memory,
    rules: &'a Rules,
    keys: Keys,
}

impl Tier<'_> {
    /// The answer of either tier.
    async fn find(&self, call: &Call) -> Option<Outcome> {
        let shelf = self.results.shelf.get();
        let Some(shelf) = shelf else { return self.in_memory(call, true) };
        if let Some(found) = self.in_memory(call, false) {
            return Some(found);
        }
        // Before the look: what is voided from now on must not be taken for valid.
        let since = self.results.voids.now();
        for key in self.keys.looked_for(self.rules) {
            let epoch = shelf.epoch();
            let Some((bytes, left)) = shelf.get(&key.name()).await else { continue };
            let Some(kept) = Kept::read(&bytes) else { continue };
            let entry = self.put(key, kept, left, since, epoch);
            if !self.is_void(&entry) {
                bump(&self.results.counts.shared);
                return Some(Ok(self.told(&entry, call)));
            }
        }
        // What memory has and was not vouched for since pushes were missed: the shared tier has nothing newer.
        self.in_memory(call, true)
    }

    /// The answer of memory. `any`: also one of which the shared tier may have a newer one.
    fn in_memory(&self, call: &Call, any: bool) -> Option<Outcome> {
        let shelf = self.results.shelf.get();
        if shelf.is_some_and(|shelf| !shelf.vouches()) {
            return None;
        }
        for key in self.keys.looked_for(self.rules) {
            let Some(entry) = self.memory.get(&key) else { continue };
            if entry.until_ms <= self.results.clock.monotonic_ms() || self.is_void(&entry) {
                self.memory.forget_if(&key, &entry);
                continue;
            }
            if let Some(shelf) = shelf {
                let epoch = shelf.epoch();
                if !any && shelf.is_up() && entry.epoch.load(Ordering::Relaxed) != epoch {
                    continue;
                }
                entry.epoch.store(epoch, Ordering::Relaxed);
            }
            bump(&self.results.counts.memory);
            return Some(Ok(self.told(&entry, call)));
        }
        None
    }

    /// Has it made, and keeps it if it may be kept.
    async fn make(
        &self,
        call: Call,
        run: impl FnOnce(Call) -> BoxFuture<'static, Outcome>,
    ) -> (Outcome, Option<Arc<Entry>>) {
        let since = self.results.voids.now();
        let mark = self.results.shelf.get().and_then(|shelf| shelf.mark());
        let made_ms = self.results.clock.now_ms();
        let (call, watched) = Watched::over(call);
        let outcome = run(call).await;
        let kept = match &outcome {
            Ok(result) if !watched.is_of_one_call() => self.keep(result, made_ms, since, mark),
            _ => None,
        };
        (outcome, kept)
    }

    fn keep(&self, result: &RawValue, made_ms: u64, since: u64, mark: Option<Mark>) -> Option<Arc<Entry>> {
        let Verdict { kept, ttl, says_ttl } = Kept::of(self.rules, result, made_ms)?;
        if says_ttl && self.rules.learn() && self.rules.is_resource() {
            self.results.readable.insert(self.rules.server().into(), ());
        }
        if kept.public {
            self.rules.learn_public();
        }
        // It was begun, so far ago, by what was so then.
        let took = self.results.clock.now_ms().saturating_sub(made_ms);
        let left = ttl.checked_sub(Duration::from_millis(took)).filter(|left| !left.is_zero())?;
        let shelf = self.results.shelf.get();
        let shared = mark.and_then(|mark| Some((shelf?, mark, kept.to_bytes()?, kept.tags.clone())));
        let kept = kept.packed();
        if self.results.voids.is_void(since, &kept.tags) || kept.bytes() as u64 > self.memory.most_each() {
            return None;
        }
        bump(&self.results.counts.kept);
        let key = if kept.public { self.keys.public() } else { self.keys.own() };
        let entry = self.put(key, kept, left, since, shelf.map_or(0, |shelf| shelf.epoch()));
        if let Some((shelf, mark, bytes, tags)) = shared {
            shelf.put(key.name(), bytes, made_ms, left, tags, mark);
        }
        // Under the key of all, but only its own principal's: nobody else may have it.
        (entry.kept.public || self.keys.flight() == self.keys.own()).then_some(entry)
    }

    fn put(&self, key: Key, kept: Kept, left: Duration, since: u64, epoch: u64) -> Arc<Entry> {
        let left_ms = millis(left);
        let until_ms = self.results.clock.monotonic_ms().saturating_add(left_ms);
        let entry = Arc::new(Entry { kept: kept.packed(), until_ms, since, epoch: epoch.into() });
        self.memory.put(key, Arc::clone(&entry));
        entry
    }

    fn is_void(&self, entry: &Entry) -> bool {
        self.results.voids.is_void(entry.since, &entry.kept.tags)
    }

    fn told(&self, entry: &Entry, call: &Call) -> Box<RawValue> {
        let left_ms = entry.until_ms.saturating_sub(self.results.clock.monotonic_ms());
        entry.kept.told(self.results.age_ms(entry), left_ms, call.out.modern_capabilities().is_some())
    }
}

/// Reads a resource of a host, from the cache where its server says that it may be kept.
pub(crate) fn read(
    results: &Arc<Results>,
    host: &Arc<dyn super::Host>,
    uri: &str,
    call: Call,
) -> BoxFuture<'static, Outcome> {
    if !results.is_on() {
        return host.read(call);
    }
    let (results, host) = (Arc::clone(results), Arc::clone(host));
    let rules = Rules::of_resource(host.name(), uri, results.readable.with(host.name(), |()| ()).is_some());
    Box::pin(async move { results.answer(&rules, false, call, |call| host.read(call)).await })
}

fn bump(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}
