//! Tells clients when a list has changed.
//!
//! Sessions outlast the process, and so does what their clients know of the lists: a digest of each list is kept on the
//! disk, and a restart after which a list is what it was tells nobody anything.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::listen::Lists;
use crate::base::ids::SessionKey;
use crate::base::limits::RESULT_MAX_TTL;
use crate::rpc::message::notification;
use crate::state::result::Outcome;
use crate::store::{KNOWN_LISTS, ResultId, StoreError};
use crate::tools::registry::{Counts, Digests, Versions};

impl Engine {
    /// Tells clients when a list has changed. Changes that come while one is being told are told together.
    pub(super) fn announce_changes(self: &Arc<Self>) {
        let changes = self.registry.changes();
        let first = Some(self.store.sessions() > 0);
        tokio::spawn(announce(Arc::downgrade(self), changes, self.stopping.clone(), first));
    }

    /// Tells every session of lists that are not what their clients know.
    /// `first`: the first time in this process, and whether there were sessions when it started; those that came since have
    /// asked for the lists as they are.
    async fn announce_lists(&self, first: Option<bool>) {
        let now = self.registry.digests();
        let (revision, known) = match self.known_lists().await {
            Ok(known) => known.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "what clients know of the lists cannot be read: they are told once more");
                Default::default()
            }
        };
        let same = known.as_ref() == Some(&now);
        if same && first.is_none() {
            return;
        }
        // Without a session, nobody has a list yet that could be out of date.
        if !same && first.unwrap_or_else(|| self.store.sessions() > 0) {
            let before = known.unwrap_or_default();
            for (changed, method) in [
                (now.tools != before.tools, "notifications/tools/list_changed"),
                (now.prompts != before.prompts, "notifications/prompts/list_changed"),
                (now.resources != before.resources, "notifications/resources/list_changed"),
            ] {
                if changed && let Err(error) = self.broadcast(notification(method, "{}")).await {
                    tracing::warn!(%error, method, "a change of a list could not be announced");
                    // The next change, or the next start, tells it.
                    return;
                }
            }
        }
        if let Err(error) = self.know_lists(revision + 1, &now).await {
            tracing::warn!(%error, "what clients know of the lists cannot be kept: the next start tells them once more");
        }
    }

    async fn known_lists(&self) -> Result<Option<(u64, Option<Digests>)>, StoreError> {
        let kept = self.store.result(&known()).await?;
        Ok(kept.map(|kept| (kept.rev, serde_json::from_slice(&kept.payload).ok())))
    }

    /// Keeps it for as long as a result can be kept, from each start on anew.
    async fn know_lists(&self, revision: u64, lists: &Digests) -> Result<(), StoreError> {
        let payload = Bytes::from(serde_json::to_vec(lists).unwrap_or_default());
        let outcome = Outcome { fence: 0, rev: revision, rank: 0, payload };
        self.store.put_result(known(), outcome, RESULT_MAX_TTL).await.map(drop)
    }
}

fn known() -> ResultId {
    ResultId { session: SessionKey::BROADCAST, name: KNOWN_LISTS.into() }
}

/// `first`: whether there were sessions at the start.
async fn announce(
    engine: Weak<Engine>,
    mut changes: watch::Receiver<Versions>,
    stopping: CancellationToken,
    mut first: Option<bool>,
) {
    let mut told = Versions::default();
    let mut settled = {
        let Some(engine) = engine.upgrade() else { return };
        let (registry, within) = (Arc::clone(&engine.registry), engine.settle);
        // Lists of servers that still start are not shorter lists.
        Box::pin(async move {
            registry.settled(within).await;
        })
    };
    let mut is_settled = false;
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = &mut settled, if !is_settled => is_settled = true,
            changed = changes.changed() => if changed.is_err() { return },
        }
        let now = *changes.borrow_and_update();
        let announced = differ(now.announced, told.announced);
        told = now;
        let Some(engine) = engine.upgrade() else { return };
        engine.tell_listeners(announced);
        engine.announce_changed_lists(announced);
        if announced != Lists::default() {
            let Lists { tools, prompts, resources } = announced;
            let changed =
                || serde_json::json!({ "tools": tools, "prompts": prompts, "resources": resources });
            engine.say(|| "outlast/lists".to_owned(), || changed().to_string());
        }
        if is_settled {
            engine.announce_lists(first.take()).await;
        }
    }
}

fn differ(a: Counts, b: Counts) -> Lists {
    Lists {
        tools: a.tools != b.tools,
        prompts: a.prompts != b.prompts,
        resources: a.resources != b.resources,
    }
}
