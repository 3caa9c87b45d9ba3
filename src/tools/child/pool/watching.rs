//! Subscriptions to resources: kept for a scope, carried by its children.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::slot::Slot;
use super::{Lease, Pool};
use crate::rpc::error::RpcError;
use crate::tools::child::live::Live;
use crate::tools::hosted::changes::Wanted;

const SUBSCRIBE: &str = "resources/subscribe";
const UNSUBSCRIBE: &str = "resources/unsubscribe";

impl Pool {
    /// Subscribes in the scope of a leased child; the child says whether there is such a resource.
    pub(in crate::tools::child) async fn subscribe(
        &self,
        lease: &Lease,
        uri: &str,
        subscriber: &Arc<str>,
        within: Duration,
    ) -> Result<(), RpcError> {
        let wanted = lease.wanted();
        // Before the child is told: one that starts meanwhile looks at what is wanted when it is ready.
        wanted.add(uri, subscriber);
        let told = lease.live.watch_resource(SUBSCRIBE, uri, within).await;
        if told.is_err() {
            self.unsubscribe_in(&wanted, uri, subscriber);
            return told;
        }
        for live in self.children_of(&wanted).into_iter().filter(|live| !Arc::ptr_eq(live, &lease.live)) {
            // One that fails is dying or refuses what another one took; its own calls will tell.
            let _ = live.watch_resource(SUBSCRIBE, uri, within).await;
        }
        Ok(())
    }

    /// Takes a subscription back, in whatever scope it is.
    pub(in crate::tools::child) fn unsubscribe(&self, uri: &str, subscriber: &str) {
        for wanted in self.scopes_of(subscriber) {
            self.unsubscribe_in(&wanted, uri, subscriber);
        }
    }

    /// Takes all subscriptions of a subscriber back.
    pub(in crate::tools::child) fn release(&self, subscriber: &str) {
        for wanted in self.scopes_of(subscriber) {
            for uri in wanted.release(subscriber) {
                self.tell_unsubscribed(&wanted, &uri);
            }
        }
    }

    /// A child that is new in its place is told what is wanted. What happened while the place was empty nobody knows,
    /// so all of it counts as changed.
    pub(super) async fn subscribe_anew(&self, slot: &Slot) {
        let again = slot.had_a_child.swap(true, Ordering::AcqRel);
        let Some(live) = slot.live() else { return };
        if !live.features.subscribe {
            return;
        }
        for uri in slot.wanted.uris() {
            match live.watch_resource(SUBSCRIBE, &uri, self.start.within).await {
                Ok(()) if again => self.start.news.updated(&slot.wanted, &uri),
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(server = %self.start.launch.server, uri, "a subscription could not be renewed: {error}");
                }
            }
        }
    }

    fn unsubscribe_in(&self, wanted: &Arc<Wanted>, uri: &str, subscriber: &str) {
        if wanted.remove(uri, subscriber) {
            self.tell_unsubscribed(wanted, uri);
        }
    }

    /// Nobody wants to hear of it any more. Whether the children take note makes no difference to anybody, so nobody
    /// waits for them.
    fn tell_unsubscribed(&self, wanted: &Arc<Wanted>, uri: &str) {
        let children = self.children_of(wanted);
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !children.is_empty()
        {
            let (uri, within) = (uri.to_owned(), self.start.within);
            runtime.spawn(async move {
                for live in children {
                    let _ = live.watch_resource(UNSUBSCRIBE, &uri, within).await;
                }
            });
        }
    }

    /// The scopes in which a subscriber may have subscriptions.
    fn scopes_of(&self, subscriber: &str) -> Vec<Arc<Wanted>> {
        let own = self.lock().sessions.get(subscriber).map(|slot| Arc::clone(&slot.wanted));
        own.into_iter().chain([Arc::clone(&self.shared_wanted)]).collect()
    }

    /// The children of a scope.
    fn children_of(&self, wanted: &Arc<Wanted>) -> Vec<Arc<Live>> {
        let slots = self.lock();
        let all = slots.shared.iter().chain(slots.sessions.values());
        all.filter(|slot| Arc::ptr_eq(&slot.wanted, wanted)).filter_map(|slot| slot.live()).collect()
    }
}

impl Lease {
    fn wanted(&self) -> Arc<Wanted> {
        Arc::clone(&self.slot.wanted)
    }
}
