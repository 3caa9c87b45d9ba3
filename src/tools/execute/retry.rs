//! Calls that failed are made again where that does no harm.
//!
//! A host says of a failure whether the call may be repeated: it did not reach the server, or its tool says that running
//! it twice does no harm. Failures that will last a while are told at once.

use std::time::Duration;

use serde::Deserialize;

use super::{Outcome, Plan};
use crate::base::backoff::Backoff;
use crate::base::clock::millis;
use crate::base::limits::RETRY_BACKOFF;
use crate::rpc::error::INTERNAL;
use crate::rpc::object::Object;
use crate::tools::Call;
use crate::tools::answer::{LASTING, RETRY_SAFE, TIMED_OUT};

/// Runs a call in its host, more than once if need be. A call that went on to ask its client is not asked anew.
pub(super) async fn run(plan: &Plan, call: Call) -> Outcome {
    if plan.rules.retries == 0 {
        return plan.host.call(&plan.host_tool, call).await;
    }
    let (first, longest) = RETRY_BACKOFF;
    let mut waits: Option<Backoff> = None;
    let mut left = plan.rules.retries;
    loop {
        let outcome = plan.host.call(&plan.host_tool, call.clone()).await;
        let again = left > 0
            && may_repeat(&outcome)
            && !call.cancel.is_cancelled()
            && !call.out.is_task()
            && !call.out.wanted_to_ask();
        if !again {
            return outcome;
        }
        left -= 1;
        let wait = waits.get_or_insert_with(|| Backoff::new(first, longest)).wait();
        tracing::info!(
            tool = &*plan.name,
            correlation = &*call.correlation,
            wait_ms = millis(wait),
            "a call that failed is made again"
        );
        pause(wait, &call).await;
    }
}

async fn pause(wait: Duration, call: &Call) {
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        // The host says what is said of a cancelled call.
        () = call.cancel.cancelled() => {}
    }
}

/// Whether the host says that it may be made again, and that this is of use soon.
fn may_repeat(outcome: &Outcome) -> bool {
    says(outcome, &[TIMED_OUT, LASTING], "lasting")
}

/// Whether the host says that a call was not done, or may be done again without harm.
pub(super) fn is_undone(outcome: &Outcome) -> bool {
    says(outcome, &[], "")
}

/// Whether a failure says of itself that it may be repeated, and nothing that speaks against it.
fn says(outcome: &Outcome, not_in_meta: &[&str], not_in_data: &str) -> bool {
    #[derive(Deserialize)]
    struct Failed<'a> {
        #[serde(default, rename = "isError")]
        is_error: bool,
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a serde_json::value::RawValue>,
    }
    match outcome {
        Ok(result) => {
            // Results are long, and failures that say so are short and rare.
            if !result.get().contains(RETRY_SAFE) {
                return false;
            }
            let failed = serde_json::from_str::<Failed<'_>>(result.get()).ok().filter(|it| it.is_error);
            let meta = failed.and_then(|it| it.meta).and_then(|meta| Object::parse(meta.get()).ok());
            meta.is_some_and(|meta| {
                let is = |key| meta.get(key).is_some_and(|flag| flag.get() == "true");
                is(RETRY_SAFE) && !not_in_meta.iter().any(|key| is(key))
            })
        }
        Err(error) => {
            let data = error.data.as_ref().and_then(|data| Object::parse(data.get()).ok());
            let is =
                |key| data.as_ref().and_then(|data| data.get(key)).is_some_and(|flag| flag.get() == "true");
            error.code == INTERNAL && is("retryable") && !is(not_in_data)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::error::RpcError;
    use crate::tools::answer::{failure, failure_with_retry, lasting_failure, text, timed_out};

    #[test]
    fn only_a_failure_of_which_the_host_says_so_is_tried_again() {
        let internal = |data: serde_json::Value| Err(RpcError::internal("x").with_data(&data));
        for (outcome, again) in [
            (Ok(text("outlast/retrySafe")), false),
            (Ok(failure("no")), false),
            (Ok(failure_with_retry("died", true)), true),
            (Ok(failure_with_retry("died", false)), false),
            (Ok(lasting_failure("parked", true)), false),
            (Ok(timed_out("late", true)), false),
            (internal(serde_json::json!({ "retryable": true })), true),
            (internal(serde_json::json!({ "retryable": true, "lasting": true })), false),
            (internal(serde_json::json!({})), false),
            (Err(RpcError::invalid_params("x").with_data(&serde_json::json!({ "retryable": true }))), false),
        ] {
            assert_eq!(may_repeat(&outcome), again, "{outcome:?}");
        }
    }
}
