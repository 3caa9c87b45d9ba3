//! What an instance shares with its sisters: the links to Redis from the first contact to the last, and what is said of
//! them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::base::clock::SharedClock;
use crate::config::{Config, Mode};
use crate::state::link::LinkState;
use crate::store::Store;
use crate::store::redis::{Links, LinksStatus};
use crate::store::remote::Remote as _;
use crate::telemetry::metrics::Metrics;

/// How long a start waits for Redis before it serves what it has.
const FIRST_CONTACT: Duration = Duration::from_secs(3);
/// How long an end waits until everything that is owed is paid; what is not is paid after the next start.
const LAST_PAYMENTS: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);
/// An instance that is cut off for longer than this asks for no new requests.
const ISOLATED: Duration = Duration::from_secs(5);

/// The links of this instance, if there are any.
#[derive(Clone)]
pub(crate) struct Sharing {
    store: Arc<Store>,
    links: Option<Arc<Links>>,
    clock: SharedClock,
}

impl Sharing {
    /// Attaches the store to Redis, when `mode` says so.
    pub(crate) async fn start(
        config: &Config,
        store: &Arc<Store>,
        clock: &SharedClock,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let (store, clock) = (Arc::clone(store), Arc::clone(clock));
        if config.mode != Mode::Redis {
            return Ok(Self { store, links: None, clock });
        }
        let keep = config.streams.max_entries;
        let links =
            Links::new(&config.redis, store.origin(), keep, Arc::clone(&clock), metrics.links.clone());
        let links = Arc::new(links.map_err(|error| anyhow!(error)).context("[redis]")?);
        store
            .attach(Arc::clone(&links) as _, config.redis.seal)
            .await
            .context("the store cannot be shared")?;
        Ok(Self { store, links: Some(links), clock })
    }

    /// Returns when this instance shares what it has, or it is not to be waited for any longer.
    pub(crate) async fn first_contact(&self) {
        let Some(links) = &self.links else { return };
        let begun = Instant::now();
        while begun.elapsed() < FIRST_CONTACT {
            if self.store.sharing_status().is_some_and(|status| status.agreed) && all_up(&links.status()) {
                return;
            }
            sleep(STEP).await;
        }
        let why = problem(&links.status(), self.store.sharing_status().and_then(|status| status.trouble));
        tracing::warn!(
            why = why.unwrap_or_else(|| "no answer yet".into()),
            "Redis is not there: this instance serves what it holds, and shares it when Redis comes back"
        );
    }

    /// `local`, `redis`, or `degraded`: Redis is wanted and not all of it is up.
    pub(crate) fn mode(&self) -> &'static str {
        match &self.links {
            None => "local",
            Some(links) => {
                let agreed = self.store.sharing_status().is_some_and(|status| status.agreed);
                if agreed && all_up(&links.status()) { "redis" } else { "degraded" }
            }
        }
    }

    /// What is wrong with Redis; `None`: it is not used.
    pub(crate) fn check(&self) -> Option<Result<(), String>> {
        let links = self.links.as_ref()?;
        let trouble = self.store.sharing_status().and_then(|status| status.trouble);
        Some(problem(&links.status(), trouble).map_or(Ok(()), Err))
    }

    /// Whether this instance, and not Redis, is the one that is cut off: requests are better served by a sister.
    pub(crate) fn is_isolated(&self) -> bool {
        let Some(links) = &self.links else { return false };
        let now_ms = self.clock.now_ms();
        links.status().links.iter().any(|link| {
            let for_ms = u128::from(now_ms.saturating_sub(link.since_ms));
            link.state == LinkState::Isolated.name() && for_ms >= ISOLATED.as_millis()
        })
    }

    /// Everything that is known of it, for operators.
    pub(crate) fn status(&self) -> Option<Value> {
        let links = self.links.as_ref()?;
        Some(json!({ "links": links.status(), "sharing": self.store.sharing_status() }))
    }

    /// Pays what is owed, as far as that goes quickly, and takes leave of the sisters.
    pub(crate) async fn end(&self) {
        let Some(links) = &self.links else { return };
        let pay = async {
            while self.store.owed() > 0 && links.state(crate::store::remote::Shard(0)) == LinkState::Up {
                match self.store.heal_some(usize::MAX).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
            // The rows of what is paid would be offered again.
            let _ = self.store.clear_debts().await;
        };
        if timeout(LAST_PAYMENTS, pay).await.is_err() {
            tracing::warn!(
                sessions = self.store.owed(),
                "not everything that is owed to Redis could be paid: it is after the next start"
            );
        }
        links.close().await;
    }
}

fn all_up(status: &LinksStatus) -> bool {
    !status.links.is_empty() && status.links.iter().all(|link| link.state == LinkState::Up.name())
}

fn problem(status: &LinksStatus, trouble: Option<String>) -> Option<String> {
    let links = status.links.iter().filter(|link| link.state != LinkState::Up.name()).map(|link| {
        let what = link.problem.as_deref().unwrap_or(link.reason);
        format!("shard {} is {}: {what}", link.shard, link.state)
    });
    let mut all: Vec<String> =
        trouble.into_iter().chain(status.problems.iter().cloned()).chain(links).collect();
    all.dedup();
    (!all.is_empty()).then(|| all.join("; "))
}
