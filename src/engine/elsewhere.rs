//! What happens to sessions on other instances, as far as this one holds them: entries of their logs, their ends,
//! answers to questions that were asked here, cancellations of calls that run here.
//!
//! What another instance has to hear is reported as a result under a name of the session ([`answer_name`],
//! [`cancel_name`]): it is stored and shared like any result, and goes by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::Engine;
use super::listen::Lists;
use super::session::{Reason, Session};
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{ASK_TIMEOUT, INTENT_KEPT, STAMP_AHEAD};
use crate::rpc::error::RpcError;
use crate::state::doc::Doc;
use crate::state::log::{Cut, Entry, Log, Refused, StreamName};
use crate::state::result::{Outcome, TERMINAL};
use crate::store::remote::{Hint, LinkState, Shard};
use crate::store::share::{Pulled, Watch};
use crate::store::{ResultId, StoreError};
use crate::tools::catalog::Updated;

/// The result that is the answer to a question.
fn answer_name(id: &str) -> String {
    format!("answer/{id}")
}

/// The result that says that a call is cancelled.
fn cancel_name(id: &str) -> String {
    format!("cancel/{id}")
}

/// How far the shared log of a session was read.
#[derive(Debug, Default)]
pub(super) struct Reading(Mutex<ReadingState>);

#[derive(Debug, Default)]
struct ReadingState {
    hint: Option<Hint>,
    running: bool,
    /// There was news while it was being read.
    again: bool,
}

impl Reading {
    fn state(&self) -> std::sync::MutexGuard<'_, ReadingState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for the one who shall read.
    fn begin(&self) -> bool {
        let mut state = self.state();
        state.again = state.running;
        !std::mem::replace(&mut state.running, true)
    }

    /// True if there was news meanwhile.
    fn end(&self) -> bool {
        let mut state = self.state();
        state.running = std::mem::take(&mut state.again);
        state.running
    }
}

/// The changes that sister instances told of, as far as they were read.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What was told before is nothing to anybody here, milliseconds since the epoch.
    since_ms: u64,
    reading: Reading,
    seen: Mutex<HashMap<Origin, u64>>,
}

impl Changes {
    /// For a process that begins now. Clocks of instances differ a little: what is told once too often does no harm.
    pub(super) fn since(now_ms: u64) -> Self {
        Self { since_ms: now_ms.saturating_sub(STAMP_AHEAD.as_millis() as u64), ..Self::default() }
    }
}

/// A change that no session is told of in its log.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    /// A resource is another one now.
    Updated(String),
    /// Lists are: of tools, prompts, resources.
    Lists(bool, bool, bool),
    /// Somebody listens to what these filters pick, on this instance.
    Tails(String, Vec<String>),
    /// This instance asks, under this number, how many streams carry this session.
    Asked(String, u64, String),
    /// So many, to the question of that number of that instance.
    Answered(String, u64, usize),
}

/// What was new in a shared log.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) entries: Vec<Entry>,
    pub(super) cuts: Vec<Cut>,
    /// What follows them does not follow what is held: all of the log has to be read.
    pub(super) incomplete: bool,
}

/// Takes the entries of other process starts into a log. `whole`: they are all that there is, so what is missing between
/// them and what is held is nowhere any more, which is a gap. Else `news` may say that all has to be read.
pub(super) fn take_in(log: &mut Log, own: Origin, pulled: &Pulled, whole: bool) -> News {
    let mut news = News::default();
    for entry in pulled.entries.iter().filter(|entry| entry.origin != own) {
        let first = !log.marks().any(|(origin, ..)| origin == entry.origin);
        if first && entry.seq > 1 && !whole {
            news.incomplete = true;
            break;
        }
        let taken = match log.union(entry.clone()) {
            Err(Refused::Gap(_)) if whole => {
                news.cuts.extend(log.give_up_below(entry.origin, entry.seq));
                log.union(entry.clone())
            }
            Err(Refused::Gap(_)) => {
                news.incomplete = true;
                break;
            }
            taken => taken,
        };
        match taken {
            Ok(true) => {
                if first && entry.seq > 1 {
                    news.cuts.push(Cut { origin: entry.origin, base: entry.seq, get: entry.seq - 1 });
                }
                news.entries.push(entry.clone());
            }
            Ok(false) => {}
            Err(refused) => {
                tracing::error!(origin = %entry.origin, seq = entry.seq, ?refused, "an entry of the shared log is not the one that is held here");
            }
        }
    }
    news
}

/// The engine as one who watches the shared store.
struct Watcher(Weak<Engine>);

impl Watcher {
    fn hears_topics(&self) -> bool {
        self.0.upgrade().is_some_and(|engine| engine.topics.has_tails())
    }

    fn session(&self, key: SessionKey) -> Option<(Arc<Engine>, Arc<Session>)> {
        let engine = self.0.upgrade()?;
        let session = engine.by_key.with(&key, Weak::upgrade).flatten()?;
        Some((engine, session))
    }
}

impl Watch for Watcher {
    fn watches(&self, key: SessionKey) -> bool {
        key == SessionKey::BROADCAST
            || key == SessionKey::CHANGES
            || (key == SessionKey::TOPICS && self.hears_topics())
            || self.0.upgrade().is_some_and(|engine| engine.by_key.with(&key, |_| ()).is_some())
    }

    fn watched(&self) -> Vec<SessionKey> {
        let Some(engine) = self.0.upgrade() else { return Vec::new() };
        let mut keys = vec![SessionKey::BROADCAST, SessionKey::CHANGES];
        keys.extend(self.hears_topics().then_some(SessionKey::TOPICS));
        engine.by_key.for_each(|key, _| keys.push(*key));
        keys
    }

    fn awaited(&self, key: SessionKey) -> Vec<String> {
        let Some((_, session)) = self.session(key) else { return Vec::new() };
        let answers = session.asks.waiting_ids().into_iter().map(|id| answer_name(&id));
        let cancellations: Vec<String> = session.calls().keys().map(|id| cancel_name(id)).collect();
        answers.chain(cancellations).collect()
    }

    fn document(&self, key: SessionKey, doc: &Arc<Doc>) {
        if let Some((_, session)) = self.session(key) {
            session.learn(doc);
        }
    }

    fn ended(&self, key: SessionKey) {
        if let Some((engine, session)) = self.session(key) {
            tracing::debug!(session = %key, "the session was ended on another instance");
            engine.drop_session(&session, Reason::SessionEnded);
        }
    }

    fn log(&self, key: SessionKey) {
        if key == SessionKey::BROADCAST {
            if let Some(engine) = self.0.upgrade()
                && engine.broadcast.reading.begin()
            {
                engine.tasks.clone().spawn(async move { engine.read_broadcasts().await });
            }
        } else if key == SessionKey::CHANGES {
            if let Some(engine) = self.0.upgrade()
                && engine.changes.reading.begin()
            {
                engine.tasks.clone().spawn(async move { engine.read_changes().await });
            }
        } else if key == SessionKey::TOPICS {
            if let Some(engine) = self.0.upgrade() {
                engine.hear_sisters();
            }
        } else if let Some((engine, session)) = self.session(key) {
            // Who has not read the log of the disk has nobody who waits for entries; it is read as a whole then.
            if session.streams().loaded && session.reading.begin() {
                engine.tasks.clone().spawn(async move { session.read_shared(&engine).await });
            }
        }
    }

    fn lapsed(&self) {
        // Nobody keeps changes for those who were away: everything may be another.
        if let Some(engine) = self.0.upgrade() {
            engine.sisters_missed();
            engine.tell_listeners(Lists { tools: true, prompts: true, resources: true });
            for uri in engine.hearers.uris() {
                engine.tell_hearers(&Updated { uri, session: None });
            }
        }
    }

    fn link(&self, shard: Shard, state: LinkState) {
        if let Some(engine) = self.0.upgrade() {
            let state = || format!("{{\"state\":\"{}\"}}", state.name());
            engine.say(|| format!("outlast/link/{}", shard.0), state);
        }
    }

    fn reported(&self, key: SessionKey, name: &str) {
        if let Some(engine) = self.0.upgrade() {
            engine.heard_of_report(key, name);
        }
    }

    fn cached(&self, name: &str) {
        if let Some(engine) = self.0.upgrade() {
            engine.registry.results().look_again(name);
        }
    }

    fn voided(&self, tags: Option<&[String]>) {
        if let Some(engine) = self.0.upgrade() {
            engine.take_voided(tags);
        }
    }

    fn result(&self, key: SessionKey, name: &str, outcome: Outcome) {
        let Some((_, session)) = self.session(key) else { return };
        if let Some(id) = name.strip_prefix("answer/") {
            let text = std::str::from_utf8(&outcome.payload).ok();
            let answer = text.and_then(|text| serde_json::from_str::<Answer>(text).ok());
            match answer {
                Some(Answer::Result(result)) => session.asks.answer(id, Ok(result)),
                Some(Answer::Error(error)) => session.asks.answer(id, Err(error)),
                None => false,
            };
        } else if let Some(id) = name.strip_prefix("cancel/") {
            let running = session.calls().get(id).cloned();
            if let Some(running) = running {
                running.end(Reason::Client);
            }
        }
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Result(Box<RawValue>),
    Error(RpcError),
}

impl Session {
    /// Reads what is new in the shared log, until nothing is.
    async fn read_shared(self: &Arc<Self>, engine: &Arc<Engine>) {
        loop {
            let hint = self.reading.state().hint.clone();
            let whole = hint.is_none();
            if let Some(pulled) = engine.store.pull_log(self.claims.key, hint).await
                && !self.take_shared(engine, pulled, whole).await
                && let Some(pulled) = engine.store.pull_log(self.claims.key, None).await
            {
                // What a hint leads to may not follow what is held: all of it tells.
                self.take_shared(engine, pulled, true).await;
            }
            if !self.reading.end() {
                return;
            }
        }
    }

    /// Reads all of the shared log, for one whose log on the disk was just read.
    pub(super) async fn read_all_shared(self: &Arc<Self>, engine: &Arc<Engine>) {
        if engine.store.is_shared()
            && let Some(pulled) = engine.store.pull_log(self.claims.key, None).await
        {
            // All of it has no holes that are not gaps.
            self.take_shared(engine, pulled, true).await;
        }
    }

    /// Takes in what was read of the shared log. False: all of it has to be read, with `whole`.
    async fn take_shared(self: &Arc<Self>, engine: &Arc<Engine>, pulled: Pulled, whole: bool) -> bool {
        // Where the disk takes no writes, what others wrote is kept in memory alone: they have it.
        let place = engine.store.place().await;
        let own = engine.store.origin();
        let mut streams = self.streams();
        if self.is_ended() {
            return true;
        }
        let News { entries, mut cuts, incomplete } = take_in(&mut streams.log, own, &pulled, whole);
        // What this instance holds of others and the shared store has lost comes back from here.
        let lost = |(origin, base, hw): (Origin, u64, u64)| {
            origin != own && base <= hw && !pulled.marks.iter().any(|(of, mark)| *of == origin && *mark >= hw)
        };
        if streams.log.marks().any(lost) {
            engine.store.owe_log(self.claims.key);
        }
        if !incomplete {
            self.reading.state().hint = Some(pulled.hint);
        }
        if entries.is_empty() && cuts.is_empty() {
            return !incomplete;
        }
        let now = engine.clock.now_ms();
        // What is cut off may have to be said again, which takes a place.
        let newest = if place.is_ok() { streams.log.high_water(own) + 1 } else { 1 };
        let mut again = Vec::new();
        cuts.extend(streams.trim_for(own, engine.retention, newest, now, &mut again));
        if let Ok(place) = place {
            let (key, session) = (self.claims.key, Arc::clone(self));
            let last = again.last().map_or(0, |entry| entry.seq);
            let done = move |result: Result<(), StoreError>| match result {
                Ok(()) => drop(session.written_up_to(last)),
                Err(error) => {
                    tracing::debug!(session = %key, %error, "what another instance said is not kept here");
                }
            };
            engine.store.adopt(place, key, entries, again, cuts, Box::new(done));
        }
        streams.wake_all();
        !incomplete
    }

    /// Takes in what another instance changed of the document.
    fn learn(&self, doc: &Doc) {
        self.learn_level(doc);
    }
}

impl Engine {
    /// Hears of what happens elsewhere from now on.
    pub(super) fn watch_elsewhere(self: &Arc<Self>) {
        if self.store.is_shared() {
            self.store.watch(Arc::new(Watcher(Arc::downgrade(self))));
        }
    }

    /// Tells sister instances that a resource has changed.
    pub(super) fn announce_update(self: &Arc<Self>, updated: &Updated) {
        // One of a session alone is told to that session, wherever it is.
        if updated.session.is_none() {
            self.announce(&Change::Updated(updated.uri.clone()));
        }
    }

    /// Tells sister instances that lists have changed.
    pub(super) fn announce_changed_lists(self: &Arc<Self>, lists: Lists) {
        self.announce(&Change::Lists(lists.tools, lists.prompts, lists.resources));
    }

    /// Tells sister instances what somebody listens to here.
    pub(super) fn announce_tails(self: &Arc<Self>, filters: Vec<String>) {
        self.announce(&Change::Tails(self.store.origin().to_string(), filters));
    }

    /// Asks sister instances how many streams carry a session.
    pub(super) fn announce_question(self: &Arc<Self>, id: u64, key: SessionKey) {
        self.announce(&Change::Asked(self.store.origin().to_string(), id, key.to_string()));
    }

    /// Answers such a question.
    pub(super) fn announce_answer(self: &Arc<Self>, to: String, id: u64, streams: usize) {
        self.announce(&Change::Answered(to, id, streams));
    }

    fn announce(self: &Arc<Self>, change: &Change) {
        if self.store.is_shared()
            && let Ok(payload) = serde_json::to_vec(change)
        {
            let engine = Arc::clone(self);
            self.tasks.spawn(async move { engine.store.announce(payload.into()).await });
        }
    }

    /// Reads what sister instances told of.
    async fn read_changes(self: &Arc<Self>) {
        loop {
            let hint = self.changes.reading.state().hint.clone();
            if let Some(pulled) = self.store.pull_log(SessionKey::CHANGES, hint).await {
                self.changes.reading.state().hint = Some(pulled.hint);
                for entry in pulled.entries {
                    let is_new = {
                        let mut seen = self.changes.seen.lock().unwrap_or_else(PoisonError::into_inner);
                        let seen = seen.entry(entry.origin).or_default();
                        let is_new = entry.seq > *seen;
                        *seen = (*seen).max(entry.seq);
                        is_new
                    };
                    if is_new && entry.at_ms >= self.changes.since_ms && entry.origin != self.store.origin() {
                        self.take_change(&entry.payload);
                    }
                }
            }
            if !self.changes.reading.end() {
                return;
            }
        }
    }

    fn take_change(self: &Arc<Self>, payload: &[u8]) {
        match serde_json::from_slice(payload) {
            Ok(Change::Updated(uri)) => self.tell_hearers(&Updated { uri, session: None }),
            Ok(Change::Lists(tools, prompts, resources)) => {
                self.tell_listeners(Lists { tools, prompts, resources });
            }
            Ok(Change::Tails(instance, filters)) => self.sister_wants(instance, &filters),
            Ok(Change::Asked(instance, id, key)) => {
                if let Some(key) = SessionKey::parse(&key) {
                    self.asked_by_sister(instance, id, key);
                }
            }
            Ok(Change::Answered(to, id, streams)) => self.answered_by_sister(&to, id, streams),
            Err(error) => tracing::debug!(%error, "a newer sister tells of something that is not known here"),
        }
    }

    /// Reads the broadcasts of other instances.
    pub(super) async fn read_broadcasts(self: &Arc<Self>) {
        loop {
            let hint = self.broadcast.reading.state().hint.clone();
            let whole = hint.is_none();
            if let Some(pulled) = self.store.pull_log(SessionKey::BROADCAST, hint).await
                && !self.take_broadcasts(pulled, whole).await
                && let Some(pulled) = self.store.pull_log(SessionKey::BROADCAST, None).await
            {
                self.take_broadcasts(pulled, true).await;
            }
            if !self.broadcast.reading.end() {
                return;
            }
        }
    }

    /// Takes in what was read of the shared broadcasts. False: all of them have to be read, with `whole`.
    async fn take_broadcasts(&self, pulled: Pulled, whole: bool) -> bool {
        let place = self.store.place().await;
        let hint = pulled.hint.clone();
        let News { entries, cuts, incomplete } =
            self.broadcast.take_in(&pulled, whole, self.retention, self.clock.now_ms());
        if !incomplete {
            self.broadcast.reading.state().hint = Some(hint);
        }
        if entries.is_empty() && cuts.is_empty() {
            return !incomplete;
        }
        if let Ok(place) = place {
            let done = |result: Result<(), StoreError>| {
                if let Err(error) = result {
                    tracing::debug!(%error, "broadcasts of another instance are not kept here");
                }
            };
            self.store.adopt(place, SessionKey::BROADCAST, entries, Vec::new(), cuts, Box::new(done));
        }
        self.broadcast.wake_all();
        !incomplete
    }

    /// Hands the answer to a question that nobody asked here to the instance that did.
    pub(super) fn answer_elsewhere(
        self: &Arc<Self>,
        session: &Arc<Session>,
        id: &str,
        outcome: Result<Box<RawValue>, RpcError>,
    ) {
        let answer = match outcome {
            Ok(result) => Answer::Result(result),
            Err(error) => Answer::Error(error),
        };
        let Ok(payload) = serde_json::to_vec(&answer) else { return };
        self.tell_elsewhere(session, answer_name(id), payload.into(), ASK_TIMEOUT);
    }

    /// Tells the instance that runs a call that its client cancelled it.
    pub(super) fn cancel_elsewhere(self: &Arc<Self>, session: &Arc<Session>, id: &str) {
        self.tell_elsewhere(session, cancel_name(id), Bytes::new(), INTENT_KEPT);
    }

    fn tell_elsewhere(self: &Arc<Self>, session: &Arc<Session>, name: String, payload: Bytes, ttl: Duration) {
        if !self.store.is_shared() || name.len() > crate::base::limits::NAME_BYTES || name.contains('\0') {
            return;
        }
        let (engine, session) = (Arc::clone(self), Arc::clone(session));
        self.tasks.spawn(async move {
            let id = ResultId { session: session.claims.key, name };
            let outcome = Outcome { fence: 1, rev: 1, rank: TERMINAL, payload };
            if let Err(error) = engine.store.put_result(id, outcome, ttl).await {
                tracing::warn!(session = %session.claims.key, %error, "another instance could not be told what the client said");
            }
        });
    }

    /// Whether a stream that is not known here may be one of another instance that cannot be asked now.
    pub(super) fn may_be_elsewhere(&self, session: &Session, stream: StreamName) -> bool {
        let link = self.store.link(session.claims.key);
        stream != StreamName::GET
            && link.is_some_and(|link| matches!(link, LinkState::Down | LinkState::Isolated))
    }
}
