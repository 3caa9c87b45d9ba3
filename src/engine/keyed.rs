//! What became of calls that have idempotency keys: results of no session, so they are shared as those of tasks are.
//!
//! A key is claimed by a report that only the first one can make, and settled by one that stands for good. Of a claim
//! whose process is dead it is not known whether its call took effect: a tool that may be repeated is run again, any other
//! call ends with an error that says so.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::orphan::interrupted;
use super::session::store_error;
use crate::base::clock::millis;
use crate::base::ids::SessionKey;
use crate::base::limits::INSTANCE_BEAT;
use crate::base::seal::hex;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::state::result::{Outcome as Report, Reported, TERMINAL};
use crate::store::{ResultId, StoreError};
use crate::tools::BoxFuture;
use crate::tools::answer::raw;
use crate::tools::execute::key::{Claim, Key, Keyed, Settled};

/// All claims have one fence: the first of a revision is the one that counts.
const FENCE: u64 = 1;
/// How often the end of a call is offered to a disk that takes nothing.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Keys in the engine's store.
pub(super) struct StoredKeys {
    pub(super) engine: Weak<Engine>,
    /// For so long they are kept.
    pub(super) ttl: Duration,
}

/// What is kept under a key.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// The digest of the call, hexadecimal.
    call: String,
    stage: Stage,
}

#[derive(Serialize, Deserialize)]
enum Stage {
    /// It runs in the process of this start, since then.
    Running {
        /// The bits of the start.
        owner: u64,
        /// In milliseconds since the epoch.
        since_ms: u64,
    },
    /// It was not done.
    Free,
    /// It ended with this result, JSON text.
    Result(String),
    /// It ended with this error, JSON text.
    Error(String),
}

impl Keyed for StoredKeys {
    fn claim(&self, key: &Key, repeatable: bool) -> BoxFuture<'_, Result<Claim, RpcError>> {
        let key = key.clone();
        Box::pin(async move {
            let engine = self.engine.upgrade().ok_or_else(stopping)?;
            let unknown = |error: StoreError| store_error(&error);
            loop {
                let standing = engine.store.result(&id_of(&key)).await.map_err(unknown)?;
                let rev = match standing {
                    // A new key takes room; what is kept already can be collected all the same.
                    None => match engine.store.crowded() {
                        Some(crowded) => return Err(store_error(&crowded)),
                        None => 1,
                    },
                    Some(report) => {
                        let kept: Kept = serde_json::from_slice(&report.payload)
                            .map_err(|_| RpcError::internal("what is kept under this key cannot be read"))?;
                        if kept.call != hex(&key.call) {
                            return Ok(Claim::OfAnother);
                        }
                        match kept.stage {
                            Stage::Result(json) => return Ok(Claim::Ended(Ok(raw(json)))),
                            Stage::Error(json) => return Ok(Claim::Ended(Err(error_of(&json)))),
                            Stage::Free => report.rev + 1,
                            Stage::Running { owner, since_ms }
                                if self.is_over(&engine, owner, since_ms).await =>
                            {
                                if !repeatable {
                                    let error = interrupted("the server was restarted");
                                    self.report(&engine, &key, report.rev + 1, &ended(Err(&error)))
                                        .await
                                        .map_err(unknown)?;
                                    return Ok(Claim::Ended(Err(error)));
                                }
                                report.rev + 1
                            }
                            Stage::Running { .. } => return Ok(Claim::Elsewhere),
                        }
                    }
                };
                let claim =
                    Stage::Running { owner: engine.store.origin().bits(), since_ms: engine.clock.now_ms() };
                match self.report(&engine, &key, rev, &claim).await.map_err(unknown)? {
                    Reported::Ok => return Ok(Claim::Ours(rev)),
                    // Somebody was first: what stands is theirs.
                    Reported::Stale { .. } | Reported::Final { .. } => {}
                }
            }
        })
    }

    fn settle(&self, key: &Key, claim: u64, settled: Settled) -> BoxFuture<'_, ()> {
        let key = key.clone();
        Box::pin(async move {
            let Some(engine) = self.engine.upgrade() else { return };
            let mut stage = match &settled {
                Settled::Ended(Ok(result)) => ended(Ok(result.get())),
                Settled::Ended(Err(error)) => ended(Err(error)),
                Settled::Free => Stage::Free,
            };
            for _ in 0..TRIES {
                match self.report(&engine, &key, claim + 1, &stage).await {
                    Ok(_) => return,
                    Err(StoreError::Cap(why)) => {
                        let error = RpcError::internal(format!(
                            "the call ended, and its result cannot be kept: {why}"
                        ));
                        stage = ended(Err(&error));
                    }
                    Err(StoreError::Closed | StoreError::Poisoned(_)) => return,
                    Err(error) => {
                        tracing::warn!(%error, "what a call with a key came to cannot be stored yet");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            tracing::error!("what a call with a key came to is lost: made again, it ends as interrupted");
        })
    }
}

impl StoredKeys {
    /// Whether nobody runs the call of a claim any more.
    async fn is_over(&self, engine: &Engine, owner: u64, since_ms: u64) -> bool {
        if owner == engine.store.origin().bits() {
            // A call of this process that has the key would have been found.
            return true;
        }
        // An instance is not heard of from its first moment on.
        let heard = !engine.store.is_shared()
            || engine.clock.now_ms().saturating_sub(since_ms) >= millis(INSTANCE_BEAT.1 * 2);
        heard && engine.is_dead(owner).await
    }

    async fn report(
        &self,
        engine: &Engine,
        key: &Key,
        rev: u64,
        stage: &Stage,
    ) -> Result<Reported, StoreError> {
        #[derive(Serialize)]
        struct Written<'a> {
            call: &'a str,
            stage: &'a Stage,
        }
        let rank = match stage {
            Stage::Running { .. } | Stage::Free => 0,
            Stage::Result(_) | Stage::Error(_) => TERMINAL,
        };
        let written = Written { call: &hex(&key.call), stage };
        let payload = serde_json::to_vec(&written)
            .map_err(|error| StoreError::Invalid(format!("a key cannot be written: {error}")))?;
        let report = Report { fence: FENCE, rev, rank, payload: Bytes::from(payload) };
        engine.store.put_result(id_of(key), report, self.ttl).await
    }
}

fn id_of(key: &Key) -> ResultId {
    ResultId { session: SessionKey::BROADCAST, name: format!("key/{}", key.name) }
}

fn ended(outcome: Result<&str, &RpcError>) -> Stage {
    match outcome {
        Ok(json) => Stage::Result(json.to_owned()),
        Err(error) => Stage::Error(
            serde_json::to_string(error)
                .unwrap_or_else(|_| format!("{{\"code\":{INTERNAL},\"message\":\"the call failed\"}}")),
        ),
    }
}

fn error_of(json: &str) -> RpcError {
    serde_json::from_str(json)
        .unwrap_or_else(|_| RpcError::internal("the call ended with an error that cannot be read"))
}

fn stopping() -> RpcError {
    RpcError::new(INTERNAL, "the server is stopping: make this call again later")
        .with_data(&serde_json::json!({ "retryable": true }))
}

/// Keys of this engine.
pub(super) fn of(engine: &Arc<Engine>, ttl: Duration) -> Arc<StoredKeys> {
    Arc::new(StoredKeys { engine: Arc::downgrade(engine), ttl })
}
