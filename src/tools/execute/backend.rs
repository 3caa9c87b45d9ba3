//! The breaker of a tool whose children everybody shares: calls that get no answer in time open it.
//!
//! A child that dies, hangs or cannot be started is the business of its pool, which ends it or parks the server; here only
//! counts a tool that is called and does not answer. A call that was given up by its client says nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use super::Outcome;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::tools::Host;
use crate::tools::answer::TIMED_OUT;
use crate::tools::breaker::{Breaker, Ticket};

/// A tool of a host as it is seen by those who call it.
pub(super) struct Backend {
    name: Box<str>,
    tool: Arc<str>,
    host: Weak<dyn Host>,
    breaker: Mutex<Breaker>,
}

impl Backend {
    pub(super) fn new(host: &Arc<dyn Host>, tool: &Arc<str>) -> Arc<Self> {
        let (name, tool) = (host.name().into(), Arc::clone(tool));
        Arc::new(Self { name, tool, host: Arc::downgrade(host), breaker: Mutex::default() })
    }

    /// Whether it is this very host.
    pub(super) fn is_of(&self, host: &Arc<dyn Host>) -> bool {
        std::ptr::addr_eq(self.host.as_ptr(), Arc::as_ptr(host))
    }

    /// Lets a call through.
    ///
    /// # Errors
    /// What it is answered while the host is left alone.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Admitted, Outcome> {
        match self.breaker().admit_or_probe(Instant::now()) {
            Ok(ticket) => Ok(Admitted { backend: Arc::clone(self), ticket: Some(ticket) }),
            Err(refusal) => Err(Err(RpcError::new(
                INTERNAL,
                format!(
                    "{:?} of server {:?} is {refusal}: this call was not begun; make it again later",
                    &*self.tool, self.name
                ),
            )
            .with_data(&serde_json::json!({ "retryable": true, "lasting": true, "reason": "breaker" })))),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that was let through. Dropped, it has learned nothing.
pub(super) struct Admitted {
    backend: Arc<Backend>,
    ticket: Option<Ticket>,
}

impl Admitted {
    /// How it ended.
    pub(super) fn ended(mut self, outcome: &Outcome) {
        let Some(ticket) = self.ticket.take() else { return };
        let now = Instant::now();
        if !is_late(outcome) {
            self.backend.breaker().succeeded(&ticket, now);
        } else if self.backend.breaker().failed(&ticket, now, "calls get no answer in time") {
            tracing::warn!(
                server = &*self.backend.name,
                tool = &*self.backend.tool,
                "a tool is not called for a while: it gives no answers"
            );
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(ticket) = &self.ticket {
            self.backend.breaker().abandoned(ticket, Instant::now());
        }
    }
}

fn is_late(outcome: &Outcome) -> bool {
    outcome.as_ref().is_ok_and(|result| {
        let failed = |result: &str| {
            let value: Option<serde_json::Value> = serde_json::from_str(result).ok();
            value.is_some_and(|value| value["isError"] == true && value["_meta"][TIMED_OUT] == true)
        };
        result.get().contains(TIMED_OUT) && failed(result.get())
    })
}
