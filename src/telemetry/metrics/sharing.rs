//! What is counted of the links to Redis, of what is owed over them, and of the cache of results.

use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{
    LinkStateLabels, OpLabel, ResultLabel, ScopeLabel, ShardLabel, TierLabel, TransitionLabels,
};
use super::{Counter, FloatCounter, FloatGauge, Gauge, Histogram, counter, gauge};

/// The metrics of the links to Redis. Labels are shards, states, reasons, operations and results: closed sets.
#[derive(Clone, Debug)]
pub struct LinkMetrics {
    state: Family<LinkStateLabels, Gauge>,
    transitions: Family<TransitionLabels, Counter>,
    lease_age: Family<ShardLabel, FloatGauge>,
    clock_offset: Family<ShardLabel, FloatGauge>,
    op_seconds: Family<OpLabel, Histogram, fn() -> Histogram>,
    appends: Family<ResultLabel, Counter>,
    merges: Family<ResultLabel, Counter>,
    /// Seconds in which a link was not up.
    pub degraded_seconds: FloatCounter,
    /// Commands that Redis did not understand: faults of this server.
    pub faults: Counter,
}

impl LinkMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self {
            state: Family::default(),
            transitions: Family::default(),
            lease_age: Family::default(),
            clock_offset: Family::default(),
            op_seconds: Family::new_with_constructor(redis_seconds),
            appends: Family::default(),
            merges: Family::default(),
            degraded_seconds: FloatCounter::default(),
            faults: counter(registry, "redis_faults", "Commands that Redis did not understand"),
        };
        registry.register("link_state", "1 for the state of the link to a shard of Redis", new.state.clone());
        registry.register("link_transitions", "Changes of the state of a link", new.transitions.clone());
        let help = "Age of the last write that was heard of";
        registry.register_with_unit("lease_age", help, Unit::Seconds, new.lease_age.clone());
        let help = "The clock of Redis less that of this machine";
        registry.register_with_unit("clock_offset", help, Unit::Seconds, new.clock_offset.clone());
        let help = "Time from a call to its answer or failure";
        registry.register_with_unit("redis_op", help, Unit::Seconds, new.op_seconds.clone());
        registry.register("append_result", "What became of appends to shared logs", new.appends.clone());
        registry.register("merge_result", "What became of merges into shared documents", new.merges.clone());
        let help = "Time in which a link was not up";
        registry.register_with_unit("degraded", help, Unit::Seconds, new.degraded_seconds.clone());
        new
    }

    /// The state of a shard's link at first.
    pub fn state(&self, shard: u16, state: &'static str) {
        self.state.get_or_create_owned(&LinkStateLabels { shard, state }).set(1);
    }

    /// The state of a shard's link became another one.
    pub fn changed(&self, shard: u16, from: &'static str, to: &'static str, reason: &'static str) {
        self.state.get_or_create_owned(&LinkStateLabels { shard, state: from }).set(0);
        self.state(shard, to);
        self.transitions.get_or_create_owned(&TransitionLabels { from, to, reason }).inc();
    }

    /// A shard of a cluster is gone.
    pub fn forget(&self, shard: u16, state: &'static str) {
        self.state.remove(&LinkStateLabels { shard, state });
        self.lease_age.remove(&ShardLabel { shard });
        self.clock_offset.remove(&ShardLabel { shard });
    }

    /// The age of a shard's lease, seconds.
    pub fn lease_age(&self, shard: u16, seconds: f64) {
        self.lease_age.get_or_create_owned(&ShardLabel { shard }).set(seconds);
    }

    /// How far the clock of a shard's server is ahead, seconds.
    pub fn clock_offset(&self, shard: u16, seconds: f64) {
        self.clock_offset.get_or_create_owned(&ShardLabel { shard }).set(seconds);
    }

    /// The durations of an operation, seconds.
    #[must_use]
    pub fn op(&self, op: &'static str) -> Histogram {
        self.op_seconds.get_or_create_owned(&OpLabel { op })
    }

    /// What became of an append.
    pub fn appended(&self, result: &'static str) {
        self.appends.get_or_create_owned(&ResultLabel { result }).inc();
    }

    /// What became of a merge.
    pub fn merged(&self, result: &'static str) {
        self.merges.get_or_create_owned(&ResultLabel { result }).inc();
    }
}

/// What is owed to the shared store, and what became of it.
#[derive(Debug)]
pub struct SharingMetrics {
    /// Sessions that owe something to the shared store.
    pub dirty_sessions: Gauge,
    /// 1 while everything that is held is offered again.
    pub auditing: Gauge,
    /// Sessions whose debts were paid later.
    pub healed: Counter,
    /// Time in which debts were paid later, seconds.
    pub heal_seconds: FloatCounter,
    /// Sessions that were offered in audits.
    pub audited: Counter,
    /// Acknowledged writes that lost against a later one of another instance.
    pub conflicts: Counter,
    /// Results that came after another one was final.
    pub late_results: Counter,
    /// Writes that another process start made under the same name.
    pub forks: Counter,
    /// Locks of all instances that were asked for and not given.
    pub global_locks_refused: Counter,
    /// Locks of this instance that were asked for and not given.
    pub own_locks_refused: Counter,
}

impl SharingMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let refused = Family::<ScopeLabel, Counter>::default();
        r.register("lock_refused", "Locks that were asked for and not given", refused.clone());
        let heal_seconds = FloatCounter::default();
        let help = "Time in which debts were paid later";
        r.register_with_unit("heal", help, Unit::Seconds, heal_seconds.clone());
        let of = |scope| refused.get_or_create_owned(&ScopeLabel { scope });
        Self {
            global_locks_refused: of("global"),
            own_locks_refused: of("instance"),
            dirty_sessions: gauge(r, "dirty_sessions", "Sessions that owe something to the shared store"),
            auditing: gauge(r, "auditing", "1 while everything that is held is offered again"),
            healed: counter(r, "heal_sessions", "Sessions whose debts were paid later"),
            heal_seconds,
            audited: counter(r, "audited_sessions", "Sessions that were offered in audits"),
            conflicts: counter(r, "conflicts", "Acknowledged writes that lost against a later one elsewhere"),
            late_results: counter(r, "late_results", "Results that came after another one was final"),
            forks: counter(r, "forks", "Writes that a clone of this process start made"),
        }
    }
}

/// What the cache of results was good for.
#[derive(Debug)]
pub struct CacheMetrics {
    hits: Family<TierLabel, Counter>,
    /// Calls that got the result of an equal one that ran.
    pub joined: Counter,
    /// Calls that were looked for in vain.
    pub misses: Counter,
    /// Results that were kept.
    pub kept: Counter,
    /// Results that left memory to make room.
    pub evicted: Counter,
    /// Times that something was voided.
    pub voided: Counter,
    /// Results in memory.
    pub entries: Gauge,
    /// What they take, bytes.
    pub bytes: Gauge,
}

impl CacheMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let hits = Family::default();
        r.register("cache_hits", "Calls that were answered from the cache of results", hits.clone());
        let bytes = Gauge::default();
        r.register_with_unit("cache_memory", "What kept results take in memory", Unit::Bytes, bytes.clone());
        Self {
            hits,
            joined: counter(r, "cache_joined", "Calls that got the result of an equal one that ran"),
            misses: counter(r, "cache_misses", "Calls that the cache of results had nothing for"),
            kept: counter(r, "cache_kept", "Results that were kept"),
            evicted: counter(r, "cache_evictions", "Kept results that left memory to make room"),
            voided: counter(r, "cache_voidings", "Times that kept results were voided"),
            entries: gauge(r, "cache_entries", "Kept results in memory"),
            bytes,
        }
    }

    /// Calls that a tier answered: `memory` or `shared`.
    #[must_use]
    pub fn hits(&self, tier: &'static str) -> Counter {
        self.hits.get_or_create_owned(&TierLabel { tier })
    }
}

fn redis_seconds() -> Histogram {
    Histogram::new([0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.15, 0.25, 1.0])
}
