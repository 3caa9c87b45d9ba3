//! Questions of a child to its client: elicitation, sampling, roots.

use std::sync::{Arc, PoisonError};

use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{Event, Owner, Shared, State};
use crate::base::limits::ASKS_PER_CALL;
use crate::rpc::error::{METHOD_NOT_FOUND, RpcError};
use crate::rpc::message::{Request, error_response, response};
use crate::tools::Outbox;
use crate::tools::answer::raw;

/// A question that waits for its answer. Dropping it unanswered answers it with an error, so that the child does not
/// wait for ever.
pub(super) struct Ask {
    shared: Arc<Shared>,
    id: Box<RawValue>,
    method: String,
    params: Box<RawValue>,
    /// The child does not want to know any more.
    withdrawn: CancellationToken,
    open: bool,
}

impl Ask {
    fn new(shared: &Arc<Shared>, request: &Request<'_>) -> Self {
        let withdrawn = CancellationToken::new();
        let mut asks = shared.asks.lock().unwrap_or_else(PoisonError::into_inner);
        asks.insert(request.id.get().to_owned(), withdrawn.clone());
        Self {
            shared: Arc::clone(shared),
            id: request.id.to_owned(),
            method: request.method.clone().into_owned(),
            params: request.params.map_or_else(|| raw("{}".into()), RawValue::to_owned),
            withdrawn,
            open: true,
        }
    }

    /// Asks the client and passes its answer on.
    pub(super) async fn put_to(mut self, out: Arc<dyn Outbox>) {
        let params = std::mem::replace(&mut self.params, RawValue::NULL.to_owned());
        let withdrawn = self.withdrawn.clone();
        let answer = tokio::select! {
            biased;
            () = withdrawn.cancelled() => return,
            answer = out.ask(&self.method, params) => answer,
        };
        self.open = false;
        self.shared
            .send(match answer {
                Ok(result) => response(self.id.get(), result.get()),
                Err(error) => error_response(Some(self.id.get()), &error),
            })
            .await;
    }

    /// Answers with an error now.
    pub(super) fn refuse(mut self, why: &'static str) {
        self.open = false;
        let error = RpcError::new(METHOD_NOT_FOUND, why);
        self.shared.try_send(&error_response(Some(self.id.get()), &error));
    }
}

impl Drop for Ask {
    // Must not take the lock of the pipe's state: questions are dropped under it.
    fn drop(&mut self) {
        self.shared.asks.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id.get());
        if self.open && !self.withdrawn.is_cancelled() {
            let error = RpcError::internal("the call that this question belonged to is over");
            self.shared.try_send(&error_response(Some(self.id.get()), &error));
        }
    }
}

impl Shared {
    /// Gives a question of the child to the one call that it can belong to.
    pub(super) fn asked(self: &Arc<Self>, request: &Request<'_>) {
        let ask = Ask::new(self, request);
        let to = {
            let mut state = self.lock();
            match self.asker(&state, request.params) {
                Some(relay) => Some(relay.to.clone()),
                None if self.waits_for_its_first_call(&state) => {
                    state.early.push_back(ask);
                    return;
                }
                None => {
                    for relay in state.running.values().filter_map(|running| running.relay.as_ref()) {
                        relay.out.may_have_asked();
                    }
                    None
                }
            }
        };
        let Some(to) = to else {
            ask.refuse("this question belongs to no single running call, so there is nobody to ask");
            return;
        };
        if let Err(full) = to.try_send(Event::Ask(ask))
            && let Event::Ask(ask) = full.into_inner()
        {
            ask.refuse("the client is behind with the messages of this call; ask later");
        }
    }

    /// The child does not want an answer any more.
    pub(super) fn withdraw(&self, id: &str) {
        let withdrawn = self.asks.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(ask) = withdrawn {
            ask.cancel();
        }
    }

    fn waits_for_its_first_call(&self, state: &State) -> bool {
        self.owner == Owner::Session
            && !state.had_a_call
            && state.death.is_none()
            && state.early.len() < ASKS_PER_CALL
    }
}
