//! A tool that asks in the middle of a call, and a client that can only be asked by the answer to its request.
//!
//! The call is *held*: it runs on in a task of its own while its client is gone to find answers. What the client carries
//! meanwhile ([`state`]) names the held call; its retry takes the call over and goes on with it. A held call belongs to
//! one principal and one request, is taken over once, and ends when its time is up. It is held in this process's memory:
//! after a restart the call is run again with the answers that it had, where that does no harm.

pub(super) mod errors;
pub(super) mod questions;
mod state;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::state::{State, portable};
use super::Engine;
use super::outbox::CallOutbox;
use crate::base::clock::millis;
use crate::base::limits::{HELD_CALLS, HELD_CALLS_PER_PRINCIPAL};
use crate::base::seal::{hex, random};
use crate::base::table::Table;
use crate::mcp::input::{Answers, Retry, digest};
use crate::rpc::error::{INTERNAL, RpcError};
use crate::rpc::message::Request;
use crate::tools::BoxFuture;

type Outcome = Result<Box<RawValue>, RpcError>;

/// A call without a connection.
pub(super) struct Parked {
    pub(super) future: BoxFuture<'static, Outcome>,
    pub(super) outbox: Arc<CallOutbox>,
    pub(super) cancel: CancellationToken,
}

/// How a request begins.
pub(super) enum Start {
    /// Anew, with answers to questions that will be asked.
    Anew(Answers),
    /// Where it stopped.
    Resumed(Parked, Answers),
}

/// The calls that wait for their clients.
pub(super) struct Held {
    calls: Table<String, Entry>,
    within: Duration,
}

struct Entry {
    principal: Arc<str>,
    since_ms: u64,
    /// Asks the task that sits with the call to hand it over. Dropping it ends the call.
    take: oneshot::Sender<oneshot::Sender<Parked>>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("calls", &self.calls.len()).finish_non_exhaustive()
    }
}

impl Held {
    /// Calls wait `within` at most.
    pub(super) fn new(within: Duration) -> Self {
        Self { calls: Table::default(), within }
    }
}

impl Engine {
    /// Where a request goes on. `repeatable`: running it twice does no harm.
    ///
    /// # Errors
    /// -32602 for a state that is not for this request, or of a call that is gone.
    pub(super) async fn start_alone(
        &self,
        request: &Request<'_>,
        principal: &str,
        repeatable: bool,
    ) -> Result<Start, RpcError> {
        let Retry { answers, state } = Retry::read(request.params)?;
        let Some(state) = state else { return Ok(Start::Anew(answers)) };
        let state = State::open(&state, self.store.keys())
            .filter(|state| state.is_for(principal, &digest(&request.method, request.params)))
            .ok_or_else(|| gone("this requestState was not given to this request"))?;
        if state.expires_ms <= self.clock.now_ms() {
            return Err(gone("this requestState has expired"));
        }
        if state.origin == self.store.origin().bits() {
            let parked = self.take(&state.held, principal).await;
            return parked
                .map(|parked| Start::Resumed(parked, answers))
                .ok_or_else(|| gone("this requestState was used before, or its call has ended"));
        }
        if !repeatable {
            return Err(gone(
                "the server was restarted and the call is gone; whether it took effect is not known",
            ));
        }
        tracing::info!(method = %request.method, "a call that was held before a restart is run again");
        let mut known = state.answers;
        known.extend(answers);
        Ok(Start::Anew(known))
    }

    /// Holds a call that waits for answers, and asks for them: the result that ends this round.
    ///
    /// # Errors
    /// When too many are held already: the call is over.
    pub(super) fn hold(self: &Arc<Self>, parked: Parked, principal: &Arc<str>, digest: &[u8; 32]) -> Outcome {
        self.make_room(principal);
        if self.held.calls.len() >= HELD_CALLS {
            parked.cancel.cancel();
            return Err(RpcError::new(
                INTERNAL,
                "too many calls wait for answers of their clients: make this call again later",
            ));
        }
        let Some(questions) = parked.outbox.questions() else {
            return Err(RpcError::internal("a call of a session is not held"));
        };
        let now = self.clock.now_ms();
        let name = hex(&random::<16>());
        let within = millis(self.held.within);
        let state = State::new(
            principal,
            digest,
            now.saturating_add(within),
            self.store.origin().bits(),
            name.clone(),
            portable(&questions.given()),
        );
        let result = questions.input_required(&state.seal(self.store.keys()));
        // Without a request there is nobody to be told anything.
        parked.outbox.mute();
        let (take, taken) = oneshot::channel();
        let entry = Entry { principal: Arc::clone(principal), since_ms: now, take };
        self.held.calls.insert(name.clone(), entry);
        // Not one of the tasks that a shutdown waits for: its client may never come.
        tokio::spawn(sit(Arc::clone(&self.held), self.stopping.clone(), name, parked, taken));
        Ok(result)
    }

    /// Takes a held call over, which is possible once.
    async fn take(&self, name: &str, principal: &str) -> Option<Parked> {
        let entry = self.held.calls.remove_if(name, |entry| &*entry.principal == principal)?;
        let (hand, handed) = oneshot::channel();
        entry.take.send(hand).ok()?;
        handed.await.ok()
    }

    /// Ends the call that waits longest when a principal has as many as it may have.
    fn make_room(&self, principal: &Arc<str>) {
        let mut own: Vec<(u64, String)> = Vec::new();
        self.held.calls.for_each(|name, entry| {
            if entry.principal == *principal {
                own.push((entry.since_ms, name.clone()));
            }
        });
        if own.len() < HELD_CALLS_PER_PRINCIPAL {
            return;
        }
        if let Some((_, oldest)) = own.into_iter().min() {
            tracing::debug!(%principal, "too many calls wait for this client: the oldest is ended");
            self.held.calls.remove(&oldest);
        }
    }
}

/// Sits with a held call until it is taken over, or its time is up. The call runs on: a child must be read.
async fn sit(
    held: Arc<Held>,
    stopping: CancellationToken,
    name: String,
    mut parked: Parked,
    mut taken: oneshot::Receiver<oneshot::Sender<Parked>>,
) {
    let up = tokio::time::sleep(held.within);
    tokio::pin!(up);
    let mut over = false;
    loop {
        tokio::select! {
            biased;
            asked = &mut taken => {
                // Without an asker it made room for another call.
                let Ok(hand) = asked else { break };
                // A retry whose client is gone already has closed its answer, which cancels the call.
                if let Err(parked) = hand.send(parked) {
                    parked.cancel.cancel();
                }
                return;
            }
            () = stopping.cancelled() => break,
            () = &mut up => {
                tracing::debug!("a held call ends: its client did not answer in time");
                break;
            }
            outcome = &mut parked.future, if !over => {
                over = true;
                parked.future = Box::pin(std::future::ready(outcome));
            }
        }
    }
    held.calls.remove(&name);
    parked.cancel.cancel();
}

fn gone(why: &str) -> RpcError {
    RpcError::invalid_params(format!(
        "params.requestState: {why}: start the call again, without requestState"
    ))
    .with_data(&serde_json::json!({ "reason": "requestState" }))
}
