//! Subscriptions to resources of a remote server: kept for a scope, carried by its session or its stream of changes.

use std::sync::Arc;

use super::credentials::Credential;
use super::failure::{Failure, Kind, Trouble};
use super::meet::Known;
use super::{Inner, slots};
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
        let told = async {
            let session = slot.0.session(self, legacy, view).await?;
            match slots::subscribe(&session, uri).await {
                // It is made anew, and told what is wanted.
                Err(Failure::Trouble(Trouble { kind: Kind::Gone, .. })) => {
                    slot.0.session(self, legacy, view).await.map(|_| ())
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
