//! Equal calls become one: who makes a call that runs already waits for it, and who makes one again that has ended gets
//! what it came to.
//!
//! A call that others may join runs in a task of its own, so that it goes on when the one who began it leaves. It ends
//! when the last one has left; a keyed one whose clients only lost their connections is given time for them to come back.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use moka::sync::Cache;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::company::Company;
use super::key::{Claim, Identity, Key, Keyed, Settled, given_up, of_another};
use super::places::busy;
use super::{Outcome, Plan, retry};
use crate::base::limits::{JOIN_BYTES, JOIN_LINGER, KEY_LOOK, KEYED_CALLS};
use crate::base::table::Table;
use crate::rpc::error::{INTERNAL, RpcError, URL_ELICITATION};
use crate::tools::Call;
use crate::tools::answer::{failure, raw};

/// The calls that others may join.
pub(super) struct Joins {
    running: Arc<Table<[u8; 32], Arc<Running>>>,
    /// What calls without a key came to, for a while.
    ended: Option<Cache<[u8; 32], Arc<RawValue>>>,
    /// What calls with a key came to.
    keyed: OnceLock<Arc<dyn Keyed>>,
}

/// A call that runs, and those who wait for it.
struct Running {
    call: [u8; 32],
    keyed: bool,
    company: Arc<Company>,
    cancel: CancellationToken,
    outcome: watch::Sender<Option<Arc<Outcome>>>,
}

impl Joins {
    /// `window`: for so long what equal calls came to is kept.
    pub(super) fn new(window: Duration) -> Self {
        let weight =
            |_: &[u8; 32], result: &Arc<RawValue>| u32::try_from(result.get().len()).unwrap_or(u32::MAX);
        Self {
            running: Arc::default(),
            ended: (!window.is_zero()).then(|| {
                Cache::builder().max_capacity(JOIN_BYTES).weigher(weight).time_to_live(window).build()
            }),
            keyed: OnceLock::new(),
        }
    }

    /// From now on what calls with a key come to is kept there. Once.
    pub(super) fn keep_in(&self, keyed: Arc<dyn Keyed>) {
        let _ = self.keyed.set(keyed);
    }

    /// Joins the call that runs, or begins it.
    ///
    /// # Errors
    /// When the key is another call's, or too many run.
    fn join(&self, plan: &Arc<Plan>, identity: &Identity, call: &Call) -> Result<Joined, RpcError> {
        let digest = match identity {
            Identity::Keyed(key) => key.call,
            Identity::Equal(hash) => *hash,
        };
        if self.running.len() >= KEYED_CALLS {
            return Err(busy(&format!("{KEYED_CALLS} calls that others may join run already")));
        }
        let mut begun = false;
        let make = || {
            begun = true;
            Arc::new(Running {
                call: digest,
                keyed: matches!(identity, Identity::Keyed(_)),
                company: Company::of(call),
                cancel: CancellationToken::new(),
                outcome: watch::Sender::new(None),
            })
        };
        let (running, number) = self.running.with_or_insert(identity.name(), make, |running| {
            let fits = running.call == digest;
            (Arc::clone(running), fits.then(|| running.company.enter(call)))
        });
        let Some(number) = number else { return Err(of_another()) };
        let Some(number) = number else { return Ok(Joined::Ending(running)) };
        let place = Place { running: Arc::clone(&running), number, call: call.clone() };
        if begun {
            let (plan, identity, call) = (Arc::clone(plan), identity.clone(), call.clone());
            tokio::spawn(run_for_all(plan, identity, call, running));
        }
        Ok(Joined::Waits(place))
    }
}

enum Joined {
    /// The call waits with others.
    Waits(Place),
    /// One was given up that has not ended yet.
    Ending(Arc<Running>),
}

/// Runs a call, or finds what one like it came to.
pub(super) async fn run(plan: &Arc<Plan>, identity: Identity, call: Call) -> Outcome {
    let joins = &plan.execution.joins;
    loop {
        if let (Identity::Equal(hash), Some(ended)) = (&identity, &joins.ended)
            && let Some(result) = ended.get(hash)
        {
            return Ok(raw(result.get().to_owned()));
        }
        let joined = joins.join(plan, &identity, &call)?;
        let running = match &joined {
            Joined::Waits(place) => &place.running,
            Joined::Ending(running) => running,
        };
        let mut outcome = running.outcome.subscribe();
        let ended = tokio::select! {
            biased;
            () = call.cancel.cancelled() => return Ok(failure("the call was cancelled")),
            ended = outcome.wait_for(Option::is_some) => ended.ok().and_then(|ended| ended.clone()),
        };
        match (joined, ended) {
            (Joined::Ending(_), _) => {}
            (Joined::Waits(_), Some(outcome)) => return copy(&outcome),
            (Joined::Waits(_), None) => return Err(RpcError::new(INTERNAL, "the call was given up")),
        }
    }
}

/// A place among those who wait for a call.
struct Place {
    running: Arc<Running>,
    number: u64,
    call: Call,
}

impl Drop for Place {
    fn drop(&mut self) {
        let running = &self.running;
        let (left, came) = running.company.leave(self.number);
        if left > 0 || running.outcome.borrow().is_some() {
            return;
        }
        let linger = running.keyed && self.call.out.is_abandoned();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if linger => {
                let running = Arc::clone(running);
                runtime.spawn(async move {
                    tokio::time::sleep(JOIN_LINGER).await;
                    running.give_up(came);
                });
            }
            _ => running.give_up(came),
        }
    }
}

impl Running {
    /// Ends the call, if nobody waits for it any more and nobody came after so many.
    fn give_up(&self, came: u64) {
        if self.company.close_if_empty(came) {
            self.cancel.cancel();
        }
    }
}

/// Takes the call out of those that run when it is over, whichever way.
struct Entered<'a> {
    running: &'a Table<[u8; 32], Arc<Running>>,
    name: [u8; 32],
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.running.remove(&self.name);
    }
}

async fn run_for_all(plan: Arc<Plan>, identity: Identity, first: Call, running: Arc<Running>) {
    let joins = &plan.execution.joins;
    let call = Call {
        // Asked for always: somebody who wants to hear of progress may come later.
        progress_token: Some(raw("\"all\"".into())),
        out: Arc::clone(&running.company) as _,
        cancel: running.cancel.clone(),
        ..first
    };
    let outcome = {
        let _entered = Entered { running: &joins.running, name: identity.name() };
        let outcome = match (&identity, joins.keyed.get()) {
            (Identity::Keyed(key), Some(kept)) => run_keyed(&plan, kept, key, call, &running.cancel).await,
            _ => plan.run_cached(call).await,
        };
        if let (Identity::Equal(hash), Some(ended), Ok(result)) = (&identity, &joins.ended, &outcome)
            && stands(result)
            && !running.cancel.is_cancelled()
        {
            ended.insert(*hash, Arc::from(result.clone()));
        }
        outcome
    };
    running.outcome.send_replace(Some(Arc::new(outcome)));
}

/// Runs a call whose key is not taken; of one whose key is, says what became of it.
async fn run_keyed(
    plan: &Arc<Plan>,
    kept: &Arc<dyn Keyed>,
    key: &Key,
    call: Call,
    cancel: &CancellationToken,
) -> Outcome {
    let patience = plan.rules.time.map_or(JOIN_LINGER, |time| time.most);
    let until = tokio::time::Instant::now() + patience;
    let number = loop {
        match kept.claim(key, plan.repeatable).await? {
            Claim::Ours(number) => break number,
            Claim::Ended(outcome) => return outcome,
            Claim::OfAnother => return Err(of_another()),
            Claim::Elsewhere if tokio::time::Instant::now() < until => {}
            Claim::Elsewhere => {
                return Err(RpcError::new(
                    INTERNAL,
                    "the call of this idempotency key still runs on another instance: make this call again later",
                )
                .with_data(&serde_json::json!({ "retryable": true, "reason": "elsewhere" })));
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(failure("the call was cancelled")),
            () = tokio::time::sleep(KEY_LOOK) => {}
        }
    };
    let outcome = plan.run_cached(call).await;
    let settled = match &outcome {
        _ if cancel.is_cancelled() && plan.repeatable => Settled::Free,
        _ if cancel.is_cancelled() => Settled::Ended(Err(given_up())),
        // Of what did not reach its server, and of rounds of a call that asks, nothing stands.
        outcome if retry::is_undone(outcome) || is_round(outcome) => Settled::Free,
        outcome => Settled::Ended(copy(outcome)),
    };
    kept.settle(key, number, settled).await;
    outcome
}

/// Whether it only asks for what the tool needs before it can run.
fn is_round(outcome: &Outcome) -> bool {
    match outcome {
        Ok(result) => asks(result),
        Err(error) => error.code == URL_ELICITATION,
    }
}

fn copy(outcome: &Outcome) -> Outcome {
    match outcome {
        Ok(result) => Ok(result.clone()),
        Err(error) => Err(error.clone()),
    }
}

/// Whether a result is a good one, that an equal call may have, too.
fn stands(result: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct Failed {
        #[serde(default, rename = "isError")]
        is_error: bool,
    }
    !asks(result) && serde_json::from_str::<Failed>(result.get()).is_ok_and(|it| !it.is_error)
}

/// Whether a result only asks for what the tool needs.
fn asks(result: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct Kind {
        #[serde(default, rename = "resultType")]
        kind: Option<String>,
    }
    result.get().contains("input_required")
        && serde_json::from_str::<Kind>(result.get())
            .is_ok_and(|it| it.kind.as_deref() == Some("input_required"))
}
