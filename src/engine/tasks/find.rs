//! Finding a task by its id, wherever it is.

use std::sync::Arc;
use std::time::Duration;

use super::record::{Stored, report, unpack};
use super::{Found, Identity, failed, lease_ms, sentence};
use crate::auth::Principal;
use crate::base::ids::{Origin, TaskClaims};
use crate::engine::Engine;
use crate::engine::session::store_error;
use crate::mcp::task::no_task;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::state::result::Reported;
use crate::state::task::Task;
use crate::store::StoreError;

impl Engine {
    /// The task of this id, if it is the principal's. One whose instance is gone is taken over, if that can be done.
    ///
    /// # Errors
    /// -32602 for what is forged, somebody else's, or over: a client cannot tell these apart. -32603 when the store
    /// cannot be read: that is no reason to forget a task.
    pub(in crate::engine) async fn find_task(
        self: &Arc<Self>,
        id: &str,
        principal: &Principal,
    ) -> Result<Found, RpcError> {
        let found = self.known_task(id, principal).await?;
        if found.running.is_some() || !self.may_be_left(&found.task) {
            return Ok(found);
        }
        self.see_after(&found.identity).await;
        self.known_task(id, principal).await
    }

    /// The same as it is known, whatever became of its instance.
    pub(super) async fn known_task(&self, id: &str, principal: &Principal) -> Result<Found, RpcError> {
        let claims = TaskClaims::verify(id, self.store.keys()).ok_or_else(no_task)?;
        if claims.principal != principal.hash || self.clock.now_ms() >= claims.deadline_ms {
            return Err(no_task());
        }
        let identity = Identity::new(id.into(), &claims);
        if let Some(running) = self.mcp_tasks.running.with(&claims.key, Arc::clone) {
            // Its worker may not have heard of the end yet.
            if self.session_is_ended(claims.session).await? {
                return Err(no_task());
            }
            let task = running.task();
            return Ok(Found { identity, task, running: Some(running) });
        }
        let known = self.store.find_result(&identity.state()).await.map_err(|error| store_error(&error))?;
        let task = match known.outcome {
            Some(stored) => unpack::<Stored>(&stored).map_err(|error| store_error(&error))?.task,
            None if self.session_is_ended(claims.session).await? => return Err(no_task()),
            None if !known.sure || self.may_be_held_by(claims.origin).await => {
                // Worked on, or stored, where nobody can look now.
                Task::begin(claims.origin.bits(), claims.key.created_ms(), lease_ms())
            }
            None => self.lose_task(&identity, &claims).await?,
        };
        Ok(Found { identity, task: Arc::new(task), running: None })
    }

    /// Whether a process start of another instance may have what the shared store does not have.
    async fn may_be_held_by(&self, origin: Origin) -> bool {
        self.store.is_shared() && origin != self.store.origin() && !self.is_dead(origin.bits()).await
    }

    /// A task that is nowhere. Where others could say something else of it later, that is written down first.
    async fn lose_task(&self, identity: &Identity, claims: &TaskClaims) -> Result<Task, RpcError> {
        tracing::warn!(task = %claims.key, "a task whose id is ours is not in the store: its data was lost");
        let lost = lost(claims);
        if self.store.is_shared() {
            let failed = |error: StoreError| store_error(&error);
            let left = Duration::from_millis(claims.deadline_ms.saturating_sub(self.clock.now_ms()).max(1));
            let outcome = report(identity, &lost).map_err(failed)?;
            match self.store.put_result_among_all(identity.state(), outcome, left).await {
                Ok(Some(Reported::Ok)) => {}
                // Of a session that is not known here: it is not written down.
                Err(StoreError::Gone) => {}
                Err(error) => return Err(failed(error)),
                Ok(_) => {
                    let stored = self.stored_task(identity).await?;
                    return Ok(stored.unwrap_or_else(|| {
                        Task::begin(claims.origin.bits(), claims.key.created_ms(), lease_ms())
                    }));
                }
            }
        }
        Ok(lost)
    }
}

/// The task of an id that is ours and of which nothing is known: it was there, and nobody works on it.
fn lost(claims: &TaskClaims) -> Task {
    let error = RpcError::new(
        INTERNAL,
        "this server has lost what it knew of the task: whether it took effect is not known",
    )
    .with_data(&serde_json::json!({ "reason": "lost" }));
    let begun = Task::begin(0, claims.key.created_ms(), 0);
    let ended = begun.ended(failed(&error), Some(sentence(&error.message)), claims.key.created_ms());
    ended.unwrap_or(begun)
}
