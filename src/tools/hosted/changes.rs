//! What a hosted server says has changed, and of which resources somebody wants to know.
//!
//! Subscriptions belong to a *scope*: a session that has a child, or a session, of its own in the hosted server, or
//! everybody else. All children and sessions of a scope are subscribed to what is wanted in it, and each new one is when
//! it starts; so one may go and be made again without a subscriber noticing more than one announcement too many.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};

use crate::base::limits::{RESOURCE_URI_BYTES, UPDATES_WAITING};
use crate::rpc::message::Notification;
use crate::tools::catalog::{ListsChanged, Updated, subscribed_by};

/// The resources that are wanted in one scope, each with those who want it.
#[derive(Debug, Default)]
pub(in crate::tools) struct Wanted {
    /// The session whose scope it is.
    session: Option<Arc<str>>,
    by_uri: Mutex<BTreeMap<String, HashSet<Arc<str>>>>,
}

impl Wanted {
    pub(in crate::tools) fn of_session(session: &str) -> Self {
        Self { session: Some(session.into()), by_uri: Mutex::default() }
    }

    pub(in crate::tools) fn add(&self, uri: &str, subscriber: &Arc<str>) {
        self.lock().entry(uri.to_owned()).or_default().insert(Arc::clone(subscriber));
    }

    /// Whether nobody wants it any more who did.
    pub(in crate::tools) fn remove(&self, uri: &str, subscriber: &str) -> bool {
        let mut by_uri = self.lock();
        let Some(subscribers) = by_uri.get_mut(uri) else { return false };
        subscribers.remove(subscriber);
        subscribers.is_empty() && by_uri.remove(uri).is_some()
    }

    /// Removes a subscriber; what nobody wants any more then.
    pub(in crate::tools) fn release(&self, subscriber: &str) -> Vec<String> {
        let mut gone = Vec::new();
        self.lock().retain(|uri, subscribers| {
            let last = subscribers.remove(subscriber) && subscribers.is_empty();
            if last {
                gone.push(uri.clone());
            }
            !last
        });
        gone
    }

    pub(in crate::tools) fn uris(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    pub(in crate::tools) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The wanted URI that makes news of `uri` wanted.
    fn covering(&self, uri: &str) -> Option<String> {
        let by_uri = self.lock();
        subscribed_by(uri).find(|text| by_uri.contains_key(*text)).map(str::to_owned)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, HashSet<Arc<str>>>> {
        self.by_uri.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often it was announced that a list has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::tools) struct ListCounts {
    pub(in crate::tools) tools: u64,
    pub(in crate::tools) prompts: u64,
    pub(in crate::tools) resources: u64,
}

impl ListCounts {
    /// Whether nothing beside tools was announced between the two.
    pub(in crate::tools) fn same_offers(self, other: Self) -> bool {
        (self.prompts, self.resources) == (other.prompts, other.resources)
    }

    /// Waits until the counts are so; for ever, if nobody counts any more.
    pub(in crate::tools) async fn are(counts: &watch::Sender<Self>, so: impl Fn(Self) -> bool) -> Self {
        let mut counts = counts.subscribe();
        let found = counts.wait_for(|counts| so(*counts)).await.ok().map(|counts| *counts);
        match found {
            Some(counts) => counts,
            None => std::future::pending().await,
        }
    }

    /// Waits until something beside tools is announced that was not when the counts were `known`; says which lists.
    pub(in crate::tools) async fn other_offers(counts: &watch::Sender<Self>, known: Self) -> ListsChanged {
        let now = Self::are(counts, |counts| !counts.same_offers(known)).await;
        ListsChanged { prompts: now.prompts != known.prompts, resources: now.resources != known.resources }
    }
}

/// Where the announcements of one child, or of one session, go.
#[derive(Debug)]
pub(in crate::tools) struct Ears {
    pub(in crate::tools) lists: watch::Sender<ListCounts>,
    pub(in crate::tools) news: Arc<News>,
    /// The resources of which changes are wanted.
    pub(in crate::tools) wanted: Arc<Wanted>,
}

/// The resources that one server says have changed.
#[derive(Debug, Default)]
pub(in crate::tools) struct News {
    updated: Mutex<HashSet<Updated>>,
    arrived: Notify,
}

impl News {
    /// A resource changed, for the subscribers of a scope. Kept only if there is one.
    pub(in crate::tools) fn updated(&self, scope: &Wanted, uri: &str) {
        let Some(covering) = scope.covering(uri) else { return };
        let mut updated = self.lock();
        let uri = if updated.len() < UPDATES_WAITING { uri.to_owned() } else { covering };
        if updated.insert(Updated { uri, session: scope.session.clone() }) {
            self.arrived.notify_one();
        }
    }

    /// Waits for changed resources and takes them.
    pub(in crate::tools) async fn take_updated(&self) -> Vec<Updated> {
        loop {
            let arrived = self.arrived.notified();
            let taken: Vec<Updated> = self.lock().drain().collect();
            if !taken.is_empty() {
                return taken;
            }
            arrived.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Updated>> {
        self.updated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ears {
    /// Passes on what a notification says has changed; false when it is about something else.
    pub(in crate::tools) fn hear(&self, server: &str, message: &Notification<'_>) -> bool {
        let count = |change: fn(&mut ListCounts)| self.lists.send_modify(change);
        match (&*message.method, message.params) {
            ("notifications/tools/list_changed", _) => count(|counts| counts.tools += 1),
            ("notifications/prompts/list_changed", _) => count(|counts| counts.prompts += 1),
            ("notifications/resources/list_changed", _) => count(|counts| counts.resources += 1),
            ("notifications/resources/updated", Some(params)) => self.resource_updated(server, params),
            _ => return false,
        }
        true
    }

    /// Something that somebody subscribed to, or is below it, has changed.
    fn resource_updated(&self, server: &str, params: &RawValue) {
        #[derive(Deserialize)]
        struct Updated<'a> {
            #[serde(borrow)]
            uri: Cow<'a, str>,
        }
        match serde_json::from_str::<Updated<'_>>(params.get()) {
            Ok(Updated { uri }) if uri.len() <= RESOURCE_URI_BYTES => self.news.updated(&self.wanted, &uri),
            _ => tracing::debug!(server, "an update of a resource without a usable uri"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_wanted_changes_are_kept_and_each_is_there_once() {
        let (news, scope) = (News::default(), Wanted::of_session("s"));
        scope.add("x://a", &"one".into());
        for uri in ["x://a", "x://a", "x://b", "x://ab"] {
            news.updated(&scope, uri);
        }
        assert_eq!(news.take_updated().await, [Updated { uri: "x://a".into(), session: Some("s".into()) }]);
    }

    #[tokio::test]
    async fn a_flood_below_a_subscription_becomes_news_of_the_subscription() {
        let (news, scope) = (News::default(), Wanted::default());
        scope.add("x://a", &"one".into());
        (0..UPDATES_WAITING * 2).for_each(|n| news.updated(&scope, &format!("x://a/{n}")));
        let taken = news.take_updated().await;
        assert_eq!(taken.len(), UPDATES_WAITING + 1);
        assert!(taken.iter().any(|updated| updated.uri == "x://a"));
    }

    #[test]
    fn a_resource_is_wanted_until_its_last_subscriber_is_gone() {
        let wanted = Wanted::default();
        let (one, two) = (Arc::from("one"), Arc::from("two"));
        wanted.add("u", &one);
        wanted.add("u", &one);
        wanted.add("u", &two);
        wanted.add("v", &two);
        assert!(!wanted.remove("u", &one));
        assert!(!wanted.remove("u", &one));
        assert_eq!(wanted.release(&two), ["u", "v"]);
        assert!(wanted.is_empty());
    }
}
