//! What all links of an instance have in common: settings, the map of slots, and how a call finds its shard.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use redis::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::dial::Dialer;
use super::instances::Instance;
use super::keys::{Keys, slot};
use super::line::{Line, Refusal};
use super::script::Call;
use crate::base::backoff::Backoff;
use crate::base::clock::SharedClock;
use crate::base::limits::{REDIRECTIONS, TRY_AGAIN};
use crate::config;
use crate::store::remote::{Event, Hear, RemoteError, Shard};
use crate::telemetry::metrics::LinkMetrics;

/// What all links have in common.
pub(super) struct Shared {
    pub(super) settings: config::Redis,
    pub(super) dialer: Dialer,
    pub(super) keys: Keys,
    pub(super) clock: SharedClock,
    pub(super) metrics: LinkMetrics,
    /// The name of this process start.
    pub(super) me: String,
    /// Entries that are kept of a shared log.
    pub(super) keep: usize,
    pub(super) hear: OnceLock<Hear>,
    pub(super) lines: ArcSwap<Vec<Arc<Line>>>,
    /// Of a cluster, the shard of each slot; empty: all is in shard 0.
    pub(super) slots: ArcSwap<Vec<u16>>,
    /// The map of slots is wrong somewhere.
    pub(super) stale: Notify,
    /// Why nothing may be shared at all, and what to do.
    pub(super) refusal: ArcSwapOption<String>,
    pub(super) instances: ArcSwap<Vec<Instance>>,
    /// The stamp of the last probe, milliseconds.
    pub(super) probe_ms: AtomicU64,
}

impl Shared {
    /// For how long a write that was heard of vouches for what is held, milliseconds: the time between two probes, and
    /// the longest that one of them takes.
    pub(super) fn lease_ms(&self) -> u64 {
        self.settings.probe_ms + self.settings.deadline_ms
    }

    pub(super) fn deadline(&self) -> Duration {
        self.dialer.deadline
    }

    pub(super) fn tell(&self, event: Event) {
        if let Some(hear) = self.hear.get() {
            hear(event);
        }
    }

    pub(super) fn shard_of(&self, key: &str) -> Shard {
        Shard(self.slots.load().get(usize::from(slot(key))).copied().unwrap_or(0))
    }

    pub(super) fn line(&self, shard: Shard) -> Option<Arc<Line>> {
        self.lines.load().get(usize::from(shard.0)).cloned()
    }

    fn line_at(&self, node: &str) -> Option<Arc<Line>> {
        let (host, port) = node.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let at = |line: &&Arc<Line>| {
            line.place.borrow().as_ref().is_some_and(|(known, known_port)| {
                // A node may leave its own host out: it is the one that answered.
                *known_port == port && (known == host || host.is_empty())
            })
        };
        self.lines.load().iter().find(at).cloned()
    }

    /// Sends a call where it belongs and waits for the answer, until the deadline at most.
    pub(super) async fn call(&self, call: &Call) -> Result<Value, RemoteError> {
        let until = Instant::now() + self.deadline();
        let timer = self.metrics.op(call.op.name());
        let start = Instant::now();
        let answer = self.route(call, until).await;
        timer.observe(start.elapsed().as_secs_f64());
        answer
    }

    async fn route(&self, call: &Call, until: Instant) -> Result<Value, RemoteError> {
        let none = || RemoteError::Away("no shard of Redis is known yet".into());
        let mut line = self.line(self.shard_of(&call.key)).ok_or_else(none)?;
        let (mut asking, mut redirections, mut tries) = (false, 0, 0);
        let (most_tries, least, most) = TRY_AGAIN;
        loop {
            let refusal = match line.call(self, call, asking, until).await {
                Ok(value) => return Ok(value),
                Err(refusal) => refusal,
            };
            let node = match refusal {
                Refusal::Away(text) => return Err(RemoteError::Away(text)),
                Refusal::Refuses(text) => return Err(RemoteError::Refuses(text)),
                Refusal::Fault(text) => return Err(RemoteError::Fault(text)),
                Refusal::TryAgain if tries < most_tries => {
                    tries += 1;
                    asking = false;
                    let wait = Backoff::new(most, most).wait().max(least);
                    if Instant::now() + wait >= until {
                        return Err(RemoteError::Away("its keys are being moved".into()));
                    }
                    sleep(wait).await;
                    continue;
                }
                Refusal::Moved(node) => {
                    asking = false;
                    self.stale.notify_one();
                    node
                }
                Refusal::Ask(node) => {
                    asking = true;
                    node
                }
                Refusal::TryAgain => return Err(RemoteError::Away("its keys are being moved".into())),
            };
            redirections += 1;
            if redirections > REDIRECTIONS {
                return Err(RemoteError::Away("the cluster sends from one node to the next".into()));
            }
            line = match self.line_at(&node) {
                Some(line) => line,
                None => {
                    self.stale.notify_one();
                    return Err(RemoteError::Away(format!("the node {node} is not known yet").into()));
                }
            };
        }
    }

    /// Sends a call to one shard, whatever its key.
    pub(super) async fn call_on(&self, line: &Line, call: &Call) -> Result<Value, RemoteError> {
        let until = Instant::now() + self.deadline();
        line.call(self, call, false, until).await.map_err(|refusal| match refusal {
            Refusal::Away(text) => RemoteError::Away(text),
            Refusal::Refuses(text) => RemoteError::Refuses(text),
            Refusal::Fault(text) => RemoteError::Fault(text),
            Refusal::Moved(_) | Refusal::Ask(_) | Refusal::TryAgain => {
                RemoteError::Away("its keys are being moved".into())
            }
        })
    }
}
