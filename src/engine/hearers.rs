//! Who hears of which resource: sessions that subscribed and streams of `subscriptions/listen`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::listen::Listener;
use super::session::Session;
use crate::tools::catalog::{Updated, subscribed_by};

/// One who subscribed.
#[derive(Clone)]
pub(super) enum Hearer {
    /// Not kept in memory for this.
    Session(Weak<Session>),
    Listener(Arc<Listener>),
}

/// Subscriptions by URI, then by the key of who subscribed.
#[derive(Default)]
pub(super) struct Hearers(Mutex<HashMap<String, HashMap<Arc<str>, Hearer>>>);

impl Hearers {
    pub(super) fn add(&self, uri: &str, key: &Arc<str>, hearer: Hearer) {
        self.lock().entry(uri.to_owned()).or_default().insert(Arc::clone(key), hearer);
    }

    pub(super) fn remove(&self, uri: &str, key: &str) {
        let mut by_uri = self.lock();
        if let Some(hearers) = by_uri.get_mut(uri) {
            hearers.remove(key);
            if hearers.is_empty() {
                by_uri.remove(uri);
            }
        }
    }

    /// Those that a change is news for, each with what it subscribed to.
    pub(super) fn of(&self, updated: &Updated) -> Vec<(String, Hearer)> {
        let by_uri = self.lock();
        let mut found: HashMap<&Arc<str>, (&str, &Hearer)> = HashMap::new();
        for uri in subscribed_by(&updated.uri) {
            for (key, hearer) in by_uri.get(uri).into_iter().flatten() {
                if updated.session.as_ref().is_none_or(|session| session == key) {
                    // One who subscribed to the resource and to what is above it is told once.
                    found.entry(key).or_insert((uri, hearer));
                }
            }
        }
        found.into_values().map(|(uri, hearer)| (uri.to_owned(), hearer.clone())).collect()
    }

    /// Everything that somebody subscribed to.
    pub(super) fn uris(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<Arc<str>, Hearer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
