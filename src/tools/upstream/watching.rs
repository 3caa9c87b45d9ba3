//! Subscriptions to resources of a remote server: kept for a scope, carried by its session or its stream of changes.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::credentials::Credential;
use super::failure::{Failure, Kind, Trouble};
use super::meet::{Known, Legacy};
use super::slots::Use;
use super::{Inner, lock, slots};
use crate::base::limits::UPSTREAM_RESTORES;
use crate::config::Lifetime;
use crate::rpc::error::RpcError;
use crate::tools::catalog::Subscriber;

impl Inner {
    /// Subscribes in the scope of a session, or of those who have the same credentials.
    pub(super) async fn subscribe(
        self: &Arc<Self>,
        subscriber: &Subscriber,
        uri: &str,
    ) -> Result<(), RpcError> {
        let credential = self.credentials.of_hash(subscriber.principal).map_err(RpcError::internal)?;
        let ticket = self.admit().map_err(|failure| failure.as_rpc_error())?;
        let outcome = self.subscribe_as(&credential, subscriber, uri).await;
        self.judged(&ticket, &outcome);
        outcome.map_err(|failure| failure.as_rpc_error())
    }

    async fn subscribe_as(
        &self,
        credential: &Arc<Credential>,
        subscriber: &Subscriber,
        uri: &str,
    ) -> Result<(), Failure> {
        let known = self.known(credential).await?;
        let legacy = match &*known {
            Known::Modern(_) => {
                let listener = self.listeners.of(&self.common, credential, &self.scope(credential));
                return listener.subscribe(&self.common, uri, &subscriber.key).await.map_err(Failure::Answer);
            }
            Known::Legacy(legacy) => legacy,
        };
        let view = subscriber.session.as_ref().filter(|_| self.lifetime == Lifetime::Session);
        let slot = match view {
            Some(view) => {
                self.slots.of_session(&**view, credential).ok_or_else(|| slots::full(&self.common))?
            }
            None => self.slots.shared(credential, &self.scope(credential)),
        };
        // Before the server is told: a session that is made meanwhile looks at what is wanted when it is ready.
        slot.0.wanted.add(uri, &subscriber.key);
        if let Some(view) = view {
            slot.0.serves(view);
        }
        let told = async {
            let session = slot.0.session(self, legacy, view).await?;
            match slots::subscribe(&session, uri).await {
                Err(Failure::Trouble(Trouble { kind: Kind::Gone, .. })) => {
                    let session = slot.0.session(self, legacy, view).await?;
                    slots::subscribe(&session, uri).await
                }
                outcome => outcome,
            }
        };
        let told = told.await;
        if told.is_err() {
            slot.0.wanted.remove(uri, &subscriber.key);
        }
        told
    }

    /// Whether sessions were lost by which somebody waits to hear of changes.
    pub(super) fn has_lost(&self) -> bool {
        self.legacy().is_some() && !self.slots.lost().is_empty()
    }

    /// Makes those sessions anew: whoever waits makes no call that would notice.
    pub(super) async fn restore(self: &Arc<Self>) {
        let Some(known) = self.legacy() else { return };
        let Known::Legacy(legacy) = &*known else { return };
        let lost = stream::iter(self.slots.lost());
        lost.for_each_concurrent(UPSTREAM_RESTORES, |slot| self.restore_in(slot, &known, legacy)).await;
    }

    async fn restore_in(self: &Arc<Self>, slot: Use, known: &Arc<Known>, legacy: &Legacy) {
        let view = slot.0.served();
        // The session of ours is not in memory any more: its subscriptions go, too.
        if view.is_none() && !slot.0.is_shared() {
            return;
        }
        let Ok(ticket) = self.admit() else { return };
        let outcome = slot.0.session(self, legacy, view.as_ref()).await;
        self.judged(&ticket, &outcome);
        if let Err(failure) = outcome {
            tracing::debug!("a session that was lost is not made anew: {failure}");
            if let Failure::Trouble(Trouble { kind: Kind::Era, .. }) = failure {
                self.forget_known(known);
            }
        }
    }

    /// What the server speaks, where that has sessions.
    fn legacy(&self) -> Option<Arc<Known>> {
        lock(&self.known).get().filter(|known| matches!(***known, Known::Legacy(_))).cloned()
    }

    /// Takes a subscription back, in whatever scope it is.
    pub(super) fn unsubscribe(&self, subscriber: &str, uri: &str) {
        for slot in self.slots.scopes_of(subscriber) {
            if slot.wanted.remove(uri, subscriber) {
                slot.tell_unsubscribed(uri);
            }
        }
        self.listeners.all().iter().for_each(|listener| listener.unsubscribe(uri, subscriber));
    }

    /// Takes all subscriptions of a subscriber back.
    pub(super) fn release(&self, subscriber: &str) {
        for slot in self.slots.scopes_of(subscriber) {
            slot.wanted.release(subscriber).iter().for_each(|uri| slot.tell_unsubscribed(uri));
        }
        self.listeners.all().iter().for_each(|listener| listener.release(subscriber));
    }
}
