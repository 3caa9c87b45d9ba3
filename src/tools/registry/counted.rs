//! Calls of a tool, counted: how they ended and how long they took.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::rpc::error::RpcError;
use crate::rpc::object::Object;
use crate::telemetry::metrics::{self, Outcome, ToolMetrics};
use crate::tools::answer::TIMED_OUT;
use crate::tools::{BoxFuture, Call};

/// Where the calls of one tool are counted. The metrics of a tool exist from its first call on: a server may list
/// thousands that nobody calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(Arc<OnceLock<ToolMetrics>>);

impl Counts {
    /// Runs a call of the tool of this public name and counts it.
    pub(super) fn count(
        &self,
        tool: &str,
        call: Call,
        run: impl FnOnce(Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>>,
    ) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let metrics = self.0.get_or_init(|| metrics::of_process().tool(tool)).clone();
        let mut counted =
            Counted { metrics, began: Instant::now(), cancel: call.cancel.clone(), outcome: None };
        let running = run(call);
        Box::pin(async move {
            let answer = running.await;
            counted.end(&answer);
            answer
        })
    }
}

/// A call that is counted when it is over, one way or the other.
struct Counted {
    metrics: ToolMetrics,
    began: Instant,
    cancel: CancellationToken,
    /// How it ended; none while it runs, and for one that was given up.
    outcome: Option<Outcome>,
}

impl Counted {
    fn end(&mut self, answer: &Result<Box<RawValue>, RpcError>) {
        self.outcome = Some(outcome(answer));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let outcome = match self.outcome {
            Some(outcome) if !self.cancel.is_cancelled() => outcome,
            _ => Outcome::Cancelled,
        };
        self.metrics.observe(outcome, self.began.elapsed().as_secs_f64());
    }
}

fn outcome(answer: &Result<Box<RawValue>, RpcError>) -> Outcome {
    #[derive(Deserialize)]
    struct Failed<'a> {
        #[serde(default, rename = "isError")]
        is_error: bool,
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    let Ok(result) = answer else { return Outcome::Error };
    match serde_json::from_str::<Failed<'_>>(result.get()) {
        Ok(Failed { is_error: true, meta }) => {
            let meta = meta.and_then(|meta| Object::parse(meta.get()).ok());
            match meta.is_some_and(|meta| meta.get(TIMED_OUT).is_some()) {
                true => Outcome::Timeout,
                false => Outcome::ToolError,
            }
        }
        _ => Outcome::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::answer::{failure, raw, text, timed_out};

    #[test]
    fn an_answer_says_how_its_call_ended() {
        for (answer, wanted) in [
            (Ok(text("\"isError\":true")), Outcome::Ok),
            (Ok(failure("no")), Outcome::ToolError),
            (Ok(timed_out("late", true)), Outcome::Timeout),
            (Err(RpcError::internal("x")), Outcome::Error),
            (Ok(raw("{\"isError\":\"odd\"}".into())), Outcome::Ok),
        ] {
            assert_eq!(outcome(&answer), wanted, "{answer:?}");
        }
    }
}
