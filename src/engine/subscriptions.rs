//! `resources/subscribe` of a session: kept with the session, told on its GET stream.
//!
//! What a client is owed is a state, not a history: that a resource is not what it was when the client was told last. So
//! a resource that changes while its last announcement is still on its way is not announced again, and after a time in
//! which nobody watched (a restart, a session out of memory) every resource is announced once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Engine;
use super::catalog::{check_uri, no_resource};
use super::hearers::Hearer;
use super::session::{Session, store_error};
use crate::base::backoff::Backoff;
use crate::base::limits::{RELIST_BACKOFF, SUBSCRIPTIONS_EACH, UPDATE_PAUSE, UPDATES_WAITING};
use crate::rpc::error::{INTERNAL, INVALID_REQUEST, RpcError};
use crate::rpc::message::{notification, quote};
use crate::state::doc::Doc;
use crate::state::log::{Kind, StreamName};
use crate::store::StoreError;
use crate::tools::SessionView as _;
use crate::tools::cached::Tag;
use crate::tools::catalog::{Subscriber, Updated, subscribed_by};

/// Document fields: the URIs that are subscribed to, one field each, so that two instances can change two of them.
const FIELD_PREFIX: &str = "sub:";
/// How long announcements wait for a disk that takes nothing before they are tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// The subscriptions of one session.
#[derive(Default)]
pub(super) struct Subscriptions(Mutex<State>);

#[derive(Default)]
struct State {
    uris: BTreeSet<String>,
    /// Changed, and not yet announced.
    changed: BTreeSet<String>,
    /// Announcements that may still be on their way, with their numbers in the log.
    told: BTreeMap<String, u64>,
    /// A task announces.
    telling: bool,
    /// The hosts know of what was subscribed to in an earlier life.
    resumed: bool,
}

impl Subscriptions {
    /// Those that a document holds.
    pub(super) fn of(doc: Option<&Doc>) -> Self {
        let fields = doc.into_iter().flat_map(Doc::fields);
        let uris =
            fields.filter_map(|(name, _)| name.strip_prefix(FIELD_PREFIX)).map(str::to_owned).collect();
        Self(Mutex::new(State { uris, ..State::default() }))
    }

    /// The hosts know of nothing any more.
    pub(super) fn begin_anew(&self) {
        self.lock().resumed = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// `resources/subscribe`
    pub(super) async fn subscribe(
        self: &Arc<Self>,
        session: &Arc<Session>,
        params: Option<&RawValue>,
    ) -> Result<String, RpcError> {
        let uri = uri_of(params)?;
        let catalog = self.settled_catalog().await;
        let host = catalog.host_of(&uri).ok_or_else(|| no_resource(&uri, false))?;
        if !catalog.features_of(host).subscribe {
            return Err(RpcError::invalid_params(format!(
                "the server {:?}, which has this resource, does not tell of changes",
                host.name()
            )));
        }
        {
            let held = session.subscriptions.lock();
            if held.uris.contains(&uri) {
                return Ok("{}".into());
            }
            if held.uris.len() >= SUBSCRIPTIONS_EACH {
                return Err(RpcError::new(
                    INVALID_REQUEST,
                    format!(
                        "a session subscribes to at most {SUBSCRIPTIONS_EACH} resources: unsubscribe first"
                    ),
                ));
            }
        }
        let subscriber = subscriber(session);
        // Before the host: what it tells at once is not lost.
        self.hearers.add(&uri, &subscriber.key, Hearer::Session(Arc::downgrade(session)));
        let kept = match host.subscribe(&subscriber, &uri).await {
            Ok(()) => {
                let write = (format!("{FIELD_PREFIX}{uri}"), Some(Bytes::from_static(b"1")));
                self.store.update(session.claims.key, vec![write]).await.map_err(|error| store_error(&error))
            }
            Err(error) => Err(error),
        };
        match kept {
            Ok(_) => {
                session.subscriptions.lock().uris.insert(uri);
                if session.is_ended() {
                    self.forget_subscriptions(session);
                }
                Ok("{}".into())
            }
            Err(error) => {
                self.hearers.remove(&uri, &subscriber.key);
                host.unsubscribe(&subscriber.key, &uri);
                Err(error)
            }
        }
    }

    /// `resources/unsubscribe`
    pub(super) async fn unsubscribe(
        self: &Arc<Self>,
        session: &Arc<Session>,
        params: Option<&RawValue>,
    ) -> Result<String, RpcError> {
        let uri = uri_of(params)?;
        if session.subscriptions.lock().uris.contains(&uri) {
            let write = (format!("{FIELD_PREFIX}{uri}"), None);
            self.store.update(session.claims.key, vec![write]).await.map_err(|error| store_error(&error))?;
            let mut held = session.subscriptions.lock();
            held.uris.remove(&uri);
            held.changed.remove(&uri);
        }
        self.hearers.remove(&uri, session.key());
        self.registry.unsubscribe(session.key(), &uri);
        Ok("{}".into())
    }

    /// Tells the hosts what a session that was out of memory is subscribed to.
    pub(super) fn resume_subscriptions(self: &Arc<Self>, session: &Arc<Session>) {
        let uris = {
            let mut held = session.subscriptions.lock();
            if std::mem::replace(&mut held.resumed, true) || held.uris.is_empty() {
                return;
            }
            held.uris.clone()
        };
        let subscriber = subscriber(session);
        for uri in &uris {
            self.hearers.add(uri, &subscriber.key, Hearer::Session(Arc::downgrade(session)));
        }
        drop(subscriber);
        let (engine, session) = (Arc::downgrade(self), Arc::downgrade(session));
        let stopping = self.stopping.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = resume(engine, session, uris) => {}
            }
        });
    }

    /// The session is over, or leaves memory: nothing is kept for it outside of its document.
    pub(super) fn forget_subscriptions(&self, session: &Session) {
        for uri in &session.subscriptions.lock().uris {
            self.hearers.remove(uri, session.key());
        }
        self.registry.release(session.key());
    }

    /// Passes on what the hosts say has changed, for as long as the engine lives.
    pub(super) fn announce_updates(self: &Arc<Self>) {
        let (engine, registry) = (Arc::downgrade(self), Arc::clone(&self.registry));
        let stopping = self.stopping.clone();
        tokio::spawn(async move {
            loop {
                let updates = tokio::select! {
                    () = stopping.cancelled() => return,
                    updates = registry.updated() => updates,
                };
                let Some(engine) = engine.upgrade() else { return };
                // Before anybody is told, who would come and read what was.
                let tags: Vec<Tag> =
                    updates.iter().flat_map(|it| subscribed_by(&it.uri)).map(Tag::uri).collect();
                registry.results().void(&tags);
                for updated in &updates {
                    engine.tell_hearers(updated);
                    engine.announce_update(updated);
                }
            }
        });
    }

    /// Tells those who subscribed here.
    pub(super) fn tell_hearers(self: &Arc<Self>, updated: &Updated) {
        for (subscribed, hearer) in self.hearers.of(updated) {
            match hearer {
                Hearer::Listener(listener) => listener.resource_changed(&subscribed, &updated.uri),
                Hearer::Session(session) => {
                    if let Some(session) = session.upgrade() {
                        self.tell_session(&session, &subscribed, &updated.uri);
                    }
                }
            }
        }
    }

    fn tell_session(self: &Arc<Self>, session: &Arc<Session>, subscribed: &str, uri: &str) {
        let begin = {
            let mut held = session.subscriptions.lock();
            // Below one subscription there can be any number of resources.
            let uri = if held.changed.len() < UPDATES_WAITING { uri } else { subscribed };
            held.changed.insert(uri.to_owned());
            !std::mem::replace(&mut held.telling, true)
        };
        if begin {
            self.tasks.spawn(tell(Arc::clone(self), Arc::clone(session)));
        }
    }
}

/// Notifications that everything a session may have seen could be another by now.
pub(super) fn everything_changed(engine: &Engine, session: &Session) -> Vec<Bytes> {
    let features = engine.registry.catalog().features;
    let lists = [
        (true, "notifications/tools/list_changed"),
        (features.prompts, "notifications/prompts/list_changed"),
        (features.resources, "notifications/resources/list_changed"),
    ];
    let lists = lists.into_iter().filter(|(is, _)| *is).map(|(_, method)| notification(method, "{}"));
    lists.chain(session.subscriptions.lock().uris.iter().map(|uri| updated(uri))).collect()
}

fn updated(uri: &str) -> Bytes {
    notification("notifications/resources/updated", &format!("{{\"uri\":{}}}", quote(uri)))
}

/// Announces what has changed until nothing is left to announce.
async fn tell(engine: Arc<Engine>, session: Arc<Session>) {
    loop {
        let due = take_due(&engine, &session);
        if due.is_empty() {
            return;
        }
        let messages: Vec<(String, Bytes)> = due
            .into_iter()
            .map(|uri| {
                let message = updated(&uri);
                (uri, message)
            })
            .collect();
        let items = messages.iter().map(|(_, message)| (Kind::Message, message.clone())).collect();
        let pause = match session.append(&engine, StreamName::GET, items).await {
            Ok(()) => {
                note_told(&engine, &session, messages);
                UPDATE_PAUSE
            }
            Err(error @ StoreError::Full(_)) => {
                tracing::debug!(session = %session.claims.key, %error, "changes of resources wait to be told");
                session.subscriptions.lock().changed.extend(messages.into_iter().map(|(uri, _)| uri));
                STORE_RETRY
            }
            Err(error) => {
                tracing::warn!(session = %session.claims.key, %error, "changes of resources could not be told");
                STORE_RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = engine.stopping.cancelled() => {}
        }
        if session.is_ended() || engine.stopping.is_cancelled() {
            session.subscriptions.lock().telling = false;
            return;
        }
    }
}

/// What is to be announced now. When nothing is, the task that asks is over.
fn take_due(engine: &Engine, session: &Session) -> BTreeSet<String> {
    let waiting: BTreeSet<u64> = {
        let streams = session.streams();
        let seen = streams.position.seen(engine.store.origin());
        let own = streams.log.entries().filter(|entry| entry.origin == engine.store.origin());
        own.filter(|entry| entry.stream == StreamName::GET && entry.seq > seen)
            .map(|entry| entry.seq)
            .collect()
    };
    let mut held = session.subscriptions.lock();
    held.told.retain(|_, seq| waiting.contains(seq));
    let changed = std::mem::take(&mut held.changed);
    let due: BTreeSet<String> = changed.into_iter().filter(|uri| !held.told.contains_key(uri)).collect();
    held.telling = !due.is_empty();
    due
}

/// Notes the numbers that announcements have in the log.
fn note_told(engine: &Engine, session: &Session, messages: Vec<(String, Bytes)>) {
    let streams = session.streams();
    let own = streams.log.entries().filter(|entry| entry.origin == engine.store.origin());
    let numbers: BTreeMap<&Bytes, u64> = own
        .filter(|entry| entry.stream == StreamName::GET)
        .map(|entry| (&entry.payload, entry.seq))
        .collect();
    let mut held = session.subscriptions.lock();
    for (uri, message) in messages {
        if let Some(seq) = numbers.get(&message) {
            held.told.insert(uri, *seq);
        }
    }
}

/// Subscribes at the hosts, again and again where one is away; then says that everything may have changed.
async fn resume(engine: Weak<Engine>, session: Weak<Session>, mut uris: BTreeSet<String>) {
    let (first, longest) = RELIST_BACKOFF;
    let mut backoff = Backoff::new(first, longest);
    loop {
        {
            let (Some(engine), Some(session)) = (engine.upgrade(), session.upgrade()) else { return };
            let catalog = engine.settled_catalog().await;
            let subscriber = subscriber(&session);
            for uri in std::mem::take(&mut uris) {
                if session.is_ended() {
                    return;
                }
                let outcome = match catalog.host_of(&uri) {
                    Some(host) => host.subscribe(&subscriber, &uri).await,
                    None => Err(RpcError::internal("no server has it")),
                };
                if !session.subscriptions.lock().uris.contains(&uri) {
                    // The client took it back meanwhile.
                    engine.registry.unsubscribe(&subscriber.key, &uri);
                    continue;
                }
                match outcome {
                    Err(error) if error.code == INTERNAL => {
                        tracing::debug!(session = %session.claims.key, uri, %error, "a subscription waits for its server");
                        uris.insert(uri);
                    }
                    // What its server does not know any more has changed, too.
                    Ok(()) | Err(_) => engine.tell_session(&session, &uri, &uri),
                }
            }
            if session.is_ended() {
                engine.forget_subscriptions(&session);
                return;
            }
        }
        if uris.is_empty() {
            return;
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}

fn subscriber(session: &Arc<Session>) -> Subscriber {
    Subscriber {
        key: Arc::from(session.key()),
        session: Some(Arc::clone(session) as _),
        principal: session.claims.principal,
    }
}

fn uri_of(params: Option<&RawValue>) -> Result<String, RpcError> {
    #[derive(Deserialize)]
    struct Params {
        uri: String,
    }
    let params: Params = serde_json::from_str(params.map_or("{}", RawValue::get))
        .map_err(|error| RpcError::invalid_params(format!("params: {error}; want {{\"uri\": …}}")))?;
    check_uri(&params.uri)?;
    Ok(params.uri)
}
