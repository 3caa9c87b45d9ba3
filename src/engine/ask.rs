//! Questions to the client: elicitation, sampling, roots.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::oneshot;

use crate::base::limits::ASKS_PER_SESSION;
use crate::base::seal::{hex, random};
use crate::rpc::error::{INTERNAL, RpcError};

type Answer = Result<Box<RawValue>, RpcError>;

/// The questions of a session that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Asks {
    waiting: Mutex<HashMap<Box<str>, oneshot::Sender<Answer>>>,
    last: AtomicU64,
}

impl Asks {
    /// A new question: its id as JSON text, and where the answer arrives.
    ///
    /// # Errors
    /// When too many wait already.
    pub(super) fn open(&self) -> Result<(String, oneshot::Receiver<Answer>), RpcError> {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        // Random, so that an answer to a question of a process that is gone fits none of this one.
        let id = format!("\"ask-{number}-{}\"", hex(&random::<6>()));
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.len() >= ASKS_PER_SESSION {
            return Err(RpcError::new(INTERNAL, "too many questions to the client wait for answers"));
        }
        waiting.insert(id.as_str().into(), sender);
        Ok((id, receiver))
    }

    /// Whether somebody waits for the answer to this question.
    pub(super) fn waits(&self, id: &str) -> bool {
        self.waiting().contains_key(id)
    }

    /// The questions that wait for answers.
    pub(super) fn waiting_ids(&self) -> Vec<Box<str>> {
        self.waiting().keys().cloned().collect()
    }

    /// Hands an answer to the one who asked. False when nobody waits for it.
    pub(super) fn answer(&self, id: &str, outcome: Answer) -> bool {
        let waiter = self.waiting().remove(id);
        waiter.is_some_and(|waiter| waiter.send(outcome).is_ok())
    }

    /// Gives a question up.
    pub(super) fn forget(&self, id: &str) {
        self.waiting().remove(id);
    }

    /// Gives every question up: who waits is told.
    pub(super) fn close(&self) {
        self.waiting().clear();
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Box<str>, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
