//! Redis as the place that instances share: a single server, one that sentinels watch, or a cluster.
//!
//! ```text
//! Links ── Shared ── Line (one per shard) ◀── supervise: two connections, probes, what the server says of itself
//!            │         └ state::link::Link            ◀── watch_sentinels / cluster::keep_map: where the shard is
//!            └ script: what is sent and what the answer means
//! ```
//!
//! Nothing here repeats what may have been done; every call ends within `redis.deadline_ms`, and at once where the link
//! is down. Neither CONFIG nor SCRIPT is used, so that hosted services serve.

mod answer;
mod cluster;
mod dial;
mod failure;
pub mod import;
mod instances;
mod keys;
mod line;
mod peers;
mod script;
mod sentinel;
mod shared;
mod status;
mod supervise;
mod track;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use self::dial::Dialer;
use self::keys::Keys;
use self::line::Line;
use self::script::Call;
use self::shared::Shared;
use crate::base::clock::{SharedClock, millis};
use crate::base::ids::{Origin, SessionKey, parse_base36};
use crate::base::limits::SCAN_PAGE;
use crate::base::seal::{hex, random};
use crate::config;
use crate::config::redis::RedisKind;
use crate::state::link::LinkState;
use crate::state::lock::Token;
use crate::state::result::{Outcome, Reported};
use crate::store::remote::{
    Appended, Asked, CachedValue, DocPush, Hear, Hint, LockSeen, LockStep, LockTaken, LogPush, Merged,
    Remote, RemoteError, ResultPush, Shard, SharedField, SharedLog, Voided,
};
use crate::telemetry::metrics::LinkMetrics;

pub use self::instances::{FORMAT, Instance};
pub use self::status::{LinkStatus, LinksStatus};

/// How far clocks may be apart before it is said, milliseconds.
pub const SKEW_MS: i64 = 5_000;

/// Where a scan of all sessions goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanAt {
    shard: u16,
    cursor: u64,
}

/// The links to Redis of one instance. They end when this is dropped.
pub struct Links {
    shared: Arc<Shared>,
    tasks: Arc<Tasks>,
    runtime: Handle,
    me: Instance,
}

#[derive(Default)]
struct Tasks(Mutex<Vec<AbortHandle>>);

impl Tasks {
    fn add(&self, task: AbortHandle) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    fn end(&self) {
        for task in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.tasks.end();
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("prefix", &self.shared.settings.prefix).finish_non_exhaustive()
    }
}

impl Links {
    /// The links that `settings` ask for; they begin with [`Remote::listen`]. `me` names this process start, `keep` is
    /// how many entries are kept of a shared log. To be called within the runtime that they shall run in.
    ///
    /// # Errors
    /// What is wrong with the address or the certificates, and what to do.
    pub fn new(
        settings: &config::Redis,
        me: Origin,
        keep: usize,
        clock: SharedClock,
        metrics: LinkMetrics,
    ) -> Result<Self, String> {
        let dialer = Dialer::new(settings)?;
        let runtime = Handle::try_current().map_err(|error| error.to_string())?;
        let started_ms = clock.now_ms();
        let place = match dialer.target.kind {
            RedisKind::Single => dialer.target.hosts.first().cloned(),
            RedisKind::Sentinel(_) | RedisKind::Cluster => None,
        };
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            dialer,
            keys: Keys::new(&settings.prefix),
            clock,
            metrics,
            me: me.to_string(),
            keep,
            hear: OnceLock::new(),
            lines: ArcSwap::default(),
            slots: ArcSwap::default(),
            stale: Notify::new(),
            refusal: ArcSwapOption::empty(),
            instances: ArcSwap::default(),
            probe_ms: AtomicU64::new(0),
        });
        let first = Arc::new(Line::new(&shared, Shard(0), place));
        shared.lines.store(Arc::new(vec![first]));
        let me = instances::me(&shared, started_ms);
        Ok(Self { shared, tasks: Arc::default(), runtime, me })
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.add(self.runtime.spawn(task).abort_handle());
    }

    fn start(&self) {
        let shared = &self.shared;
        let Some(first) = shared.line(Shard(0)) else { return };
        self.spawn(supervise::supervise(Arc::clone(shared), Arc::clone(&first)));
        match &shared.dialer.target.kind {
            RedisKind::Single => {}
            RedisKind::Sentinel(name) => {
                self.spawn(supervise::watch_sentinels(Arc::clone(shared), first, name.clone()));
            }
            RedisKind::Cluster => {
                let (on, tasks, runtime) =
                    (Arc::clone(shared), Arc::clone(&self.tasks), self.runtime.clone());
                let start = move |line| {
                    tasks.add(runtime.spawn(supervise::supervise(Arc::clone(&on), line)).abort_handle());
                };
                self.spawn(cluster::keep_map(Arc::clone(shared), start));
            }
        }
        self.spawn(instances::beat(Arc::clone(shared), self.me.clone()));
        self.spawn(gauge(Arc::clone(shared)));
        self.spawn(peers::ask_peers(Arc::clone(shared)));
    }

    /// Takes this instance out of the list and ends all links, within the deadline.
    pub async fn close(&self) {
        instances::leave(&self.shared).await;
        self.tasks.end();
    }

    /// Every shard that there is.
    #[must_use]
    pub fn shards(&self) -> Vec<Shard> {
        let lines = self.shared.lines.load();
        let there = lines.iter().enumerate().filter(|(at, line)| *at == 0 || line.place.borrow().is_some());
        there.map(|(_, line)| line.shard).collect()
    }

    /// What is known of the links.
    #[must_use]
    pub fn status(&self) -> LinksStatus {
        let shared = &self.shared;
        let lines = shared.lines.load();
        let mut problems: Vec<String> =
            shared.refusal.load_full().map(|text| text.as_str().to_owned()).into_iter().collect();
        let links: Vec<LinkStatus> = self
            .shards()
            .into_iter()
            .filter_map(|shard| lines.get(usize::from(shard.0)))
            .map(|line| self.link(line))
            .collect();
        for link in links.iter().filter(|link| link.skewed) {
            problems.push(format!(
                "the clock of Redis ({}) is {} ms ahead of this machine's: let both follow the time (NTP)",
                link.address,
                link.clock_offset_ms.unwrap_or_default()
            ));
        }
        let instances = shared.instances.load().to_vec();
        for other in instances.iter().filter(|other| other.format > FORMAT) {
            problems.push(format!(
                "instance {} has version {}, which can write a newer form ({}): update this one",
                other.origin, other.version, other.format
            ));
        }
        let kind = match shared.dialer.target.kind {
            RedisKind::Single => "single",
            RedisKind::Sentinel(_) => "sentinel",
            RedisKind::Cluster => "cluster",
        };
        LinksStatus { kind, prefix: shared.settings.prefix.clone(), links, instances, problems }
    }

    fn link(&self, line: &Line) -> LinkStatus {
        let (state, cause, since_ms, problem, facts) = line.view();
        LinkStatus {
            shard: line.shard.0,
            state: state.name(),
            reason: cause.name(),
            since_ms,
            problem: problem.map(|text| text.to_string()),
            address: facts.address,
            version: facts.version,
            role: facts.role,
            run_id: facts.run_id,
            replicas: facts.replicas,
            policy: facts.policy,
            used_memory: facts.used_memory,
            max_memory: facts.max_memory,
            clock_offset_ms: facts.offset_ms,
            skewed: facts.offset_ms.is_some_and(|offset| offset.saturating_abs() > SKEW_MS),
            lease_age_ms: line.lease_age_ms(&self.shared),
            leased: line.is_leased(&self.shared),
            round_trip_ms: facts.round_trip_us.map(|us| us as f64 / 1000.0),
            pause_ms: millis(line.pause_left(&self.shared)),
        }
    }

    /// A page of the sessions that have a document in Redis, and where to go on: from `None` to `None`. One may come
    /// twice; one that is there from the beginning to the end comes at least once, unless its slot moves meanwhile.
    ///
    /// # Errors
    /// When a shard cannot be asked.
    pub async fn scan(&self, at: Option<ScanAt>) -> Result<(Vec<SessionKey>, Option<ScanAt>), RemoteError> {
        let ScanAt { shard, cursor } = at.unwrap_or(ScanAt { shard: 0, cursor: 0 });
        let shards = self.shards();
        let Some(here) = shards.iter().find(|known| known.0 >= shard) else { return Ok((Vec::new(), None)) };
        let line = self.shared.line(*here);
        let Some(line) = line else { return Ok((Vec::new(), None)) };
        // Another shard than the one of the cursor: that one is gone.
        let cursor = if here.0 == shard { cursor } else { 0 };
        let call = script::scan(&self.shared.keys, cursor, SCAN_PAGE);
        let value = self.shared.call_on(&line, &call).await?;
        let (cursor, found) = script::scanned(&self.shared.keys, value)?;
        let next = if cursor != 0 {
            Some(ScanAt { shard: here.0, cursor })
        } else {
            shards.iter().find(|other| other.0 > here.0).map(|other| ScanAt { shard: other.0, cursor: 0 })
        };
        Ok((found, next))
    }

    async fn ask(&self, call: Call) -> Result<Value, RemoteError> {
        self.shared.call(&call).await
    }
}

/// Once a second what cannot be counted when it happens.
async fn gauge(shared: Arc<Shared>) {
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    loop {
        clock.tick().await;
        if instances::degraded(&shared) {
            shared.metrics.degraded_seconds.inc_by(1.0);
        }
        for line in shared.lines.load().iter() {
            if let Some(age_ms) = line.lease_age_ms(&shared) {
                shared.metrics.lease_age(line.shard.0, age_ms as f64 / 1000.0);
            }
        }
    }
}

impl Remote for Links {
    fn listen(&self, hear: Hear) {
        if self.shared.hear.set(hear).is_ok() {
            self.start();
        }
    }

    fn shard(&self, key: SessionKey) -> Shard {
        self.shared.shard_of(&self.shared.keys.session(key))
    }

    fn state(&self, shard: Shard) -> LinkState {
        self.shared.line(shard).map_or(LinkState::Down, |line| line.state())
    }

    fn is_leased(&self, shard: Shard) -> bool {
        self.shared.line(shard).is_some_and(|line| line.is_leased(&self.shared))
    }

    fn clock_offset_ms(&self) -> i64 {
        // The one that is furthest behind: a stamp that it takes, all take.
        let lines = self.shared.lines.load();
        lines.iter().filter_map(|line| line.facts(|facts| facts.offset_ms)).min().unwrap_or(0)
    }

    fn once(&self, field: &str, value: Bytes) -> Asked<'_, Bytes> {
        let call = script::once(&self.shared.keys.meta(), field, &value);
        Box::pin(async move { answer::bytes(self.ask(call).await?) })
    }

    fn meta(&self, field: &str) -> Asked<'_, Option<Bytes>> {
        let call = script::field(&self.shared.keys.meta(), field);
        Box::pin(async move {
            match self.ask(call).await? {
                Value::Nil => Ok(None),
                value => answer::bytes(value).map(Some),
            }
        })
    }

    fn instances(&self) -> Asked<'_, Vec<Origin>> {
        Box::pin(async move {
            let found = instances::meet(&self.shared, &self.me).await?;
            let origins = found.iter().filter_map(|other| parse_base36(&other.origin));
            Ok(origins.map(Origin::from_bits).collect())
        })
    }

    fn is_alone(&self) -> bool {
        let known = self.shared.instances.load();
        !known.is_empty() && known.iter().all(|instance| instance.origin == self.me.origin)
    }

    fn push_doc(&self, key: SessionKey, push: DocPush) -> Asked<'_, Merged> {
        let call = script::push_doc(&self.shared.keys.session(key), &push);
        Box::pin(async move {
            let merged = self.ask(call).await.and_then(script::pushed_doc);
            self.shared.metrics.merged(match &merged {
                Ok(merged) if merged.ended => "ended",
                Ok(_) => "ok",
                Err(error) => word(error),
            });
            merged
        })
    }

    fn pull_doc(&self, key: SessionKey) -> Asked<'_, Vec<SharedField>> {
        let call = script::pull_doc(&self.shared.keys.session(key));
        Box::pin(async move { script::fields(self.ask(call).await?) })
    }

    fn push_log(&self, key: SessionKey, push: LogPush) -> Asked<'_, Appended> {
        let call = script::push_log(&self.shared.keys.log(key), self.shared.keep, &push);
        Box::pin(async move {
            let appended = match self.ask(call).await {
                Ok(value) => script::pushed_log(value, push.origin),
                Err(error) => Err(error),
            };
            self.shared.metrics.appended(match &appended {
                Ok(Appended::Ok(_)) => "ok",
                Ok(Appended::Known(_)) => "dup",
                Ok(Appended::Gap(_)) => "gap",
                Err(error) => word(error),
            });
            appended
        })
    }

    fn pull_log(&self, key: SessionKey, after: Option<Hint>) -> Asked<'_, SharedLog> {
        let call = script::pull_log(&self.shared.keys.log(key), after.as_ref());
        Box::pin(async move { script::pulled_log(self.ask(call).await?, after) })
    }

    fn end_log(&self, key: SessionKey, expires_ms: u64) -> Asked<'_, ()> {
        let call = script::end_log(&self.shared.keys.log(key), expires_ms);
        Box::pin(async move { self.ask(call).await.map(drop) })
    }

    fn push_result(&self, key: SessionKey, name: &str, push: ResultPush) -> Asked<'_, Reported> {
        let call = script::push_result(&self.shared.keys.result(key, name), &push);
        Box::pin(async move { script::pushed_result(self.ask(call).await?) })
    }

    fn pull_result(&self, key: SessionKey, name: &str) -> Asked<'_, Option<(Outcome, Duration)>> {
        let call = script::pull_result(&self.shared.keys.result(key, name));
        Box::pin(async move { script::pulled_result(self.ask(call).await?) })
    }

    fn lock(&self, name: &str, token: Token, ttl: Duration, step: LockStep) -> Asked<'_, LockTaken> {
        let call = script::lock(&self.shared.keys.lock(name), token, ttl, step);
        Box::pin(async move { script::locked(self.ask(call).await?) })
    }

    fn lock_state(&self, name: &str) -> Asked<'_, LockSeen> {
        let call = script::lock_state(&self.shared.keys.lock(name));
        Box::pin(async move { script::lock_seen(self.ask(call).await?) })
    }

    fn cache_shard(&self) -> Shard {
        self.shared.shard_of(&self.shared.keys.voided())
    }

    fn cache_get(&self, key: &str) -> Asked<'_, Option<CachedValue>> {
        let call = script::cache_get(&self.shared.keys.cache(key));
        Box::pin(async move { script::cached(self.ask(call).await?) })
    }

    fn cache_put(&self, key: &str, made_ms: u64, value: Option<(Bytes, u64)>) -> Asked<'_, bool> {
        let value = value.as_ref().map(|(value, until_ms)| (value, *until_ms));
        let call = script::cache_put(&self.shared.keys.cache(key), made_ms, value);
        Box::pin(async move { Ok(answer::whole(&self.ask(call).await?)? == 1) })
    }

    fn cache_void(&self, tags: Vec<String>) -> Asked<'_, ()> {
        let counting = hex(&random::<8>());
        let call = script::cache_void(&self.shared.keys.voided(), &counting, &tags);
        Box::pin(async move { self.ask(call).await.map(drop) })
    }

    fn cache_voided(&self) -> Asked<'_, Option<Voided>> {
        let call = script::cache_voided(&self.shared.keys.voided());
        Box::pin(async move { script::voided(self.ask(call).await?) })
    }
}

fn word(error: &RemoteError) -> &'static str {
    match error {
        RemoteError::Away(_) => "away",
        RemoteError::Refuses(_) => "refused",
        RemoteError::Skew { .. } => "skew",
        RemoteError::Fork { .. } => "fork",
        RemoteError::Fault(_) => "fault",
    }
}
