//! What the edge and the engine report, put into the metrics of the process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::edge;
use crate::engine::Engine;
use crate::store::Store;
use crate::telemetry::metrics::{Counter, Metrics, Refusal, Route};
use crate::tools::breaker::BreakerState;

/// The counters of the edge, their handles taken once.
pub(crate) struct EdgeCounts {
    metrics: Arc<Metrics>,
    timeouts: Counter,
}

impl EdgeCounts {
    /// Counts into `metrics`.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let timeouts = metrics.refused(Refusal::Timeout);
        Self { metrics, timeouts }
    }
}

impl edge::Metrics for EdgeCounts {
    fn request(&self, route: &'static str, status: u16, took: Duration) {
        let route = match route {
            "mcp_post" => Route::McpPost,
            "mcp_get" => Route::McpGet,
            "mcp_delete" => Route::McpDelete,
            "livez" | "readyz" | "health" => Route::Health,
            "metrics" => Route::Metrics,
            _ if route.starts_with("admin") => Route::Admin,
            _ => Route::Other,
        };
        self.metrics.route(route).observe(status, took.as_secs_f64());
    }

    fn connection_opened(&self) {
        self.metrics.connections.inc();
        self.metrics.connections_accepted.inc();
    }

    fn connection_closed(&self) {
        self.metrics.connections.dec();
    }

    fn connection_refused(&self) {
        self.timeouts.inc();
    }

    fn encode(&self) -> String {
        self.metrics.encode()
    }
}

/// Sets the gauges that are read off the engine and the store.
pub(crate) fn take_stock(metrics: &Metrics, engine: &Engine, store: &Store) {
    let stats = engine.stats();
    let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.sessions_loaded.set(gauge(stats.sessions_loaded));
    metrics.sessions.set(gauge(stats.sessions));
    metrics.streams.set(gauge(stats.streams));
    metrics.calls_in_flight.set(gauge(stats.calls));
    for (server, status) in engine.hosts() {
        if let Some(remote) = &status.remote {
            let state = match remote.breaker {
                BreakerState::Closed => 0,
                BreakerState::HalfOpen => 1,
                BreakerState::Open => 2,
            };
            metrics.upstream(&server).breaker.set(state);
            continue;
        }
        let server = metrics.server(&server);
        server.children.set(gauge(status.children));
        server.memory_bytes.set(i64::try_from(status.memory_bytes).unwrap_or(i64::MAX));
        server.parked.set(i64::from(status.parked.is_some()));
    }
    let cached = engine.cached();
    let cache = &metrics.cache;
    for (counter, number) in [
        (&cache.hits("memory"), cached.memory_hits),
        (&cache.hits("shared"), cached.shared_hits),
        (&cache.joined, cached.joined),
        (&cache.misses, cached.misses),
        (&cache.kept, cached.kept),
        (&cache.evicted, cached.evicted),
        (&cache.voided, cached.voided),
    ] {
        counter.inner().store(number, Ordering::Relaxed);
    }
    cache.entries.set(cached.entries.cast_signed());
    cache.bytes.set(cached.bytes.cast_signed());
    metrics.store_writable.set(i64::from(store.trouble().is_none()));
    if let Some(free) = store.free_bytes() {
        metrics.disk_free.set(i64::try_from(free).unwrap_or(i64::MAX));
    }
    let sharing = &metrics.sharing;
    let (own, global) = store.locks_refused();
    for (counter, number) in [(&sharing.own_locks_refused, own), (&sharing.global_locks_refused, global)] {
        counter.inner().store(number, Ordering::Relaxed);
    }
    if let Some(status) = store.sharing_status() {
        sharing.dirty_sessions.set(gauge(status.dirty_sessions));
        sharing.auditing.set(i64::from(status.auditing));
        sharing.heal_seconds.inner().store((status.healing_ms as f64 / 1_000.0).to_bits(), Ordering::Relaxed);
        for (counter, number) in [
            (&sharing.healed, status.healed_sessions),
            (&sharing.audited, status.audited_sessions),
            (&sharing.conflicts, status.conflicts),
            (&sharing.late_results, status.late_results),
            (&sharing.forks, status.forks),
        ] {
            counter.inner().store(number, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::edge::Metrics as _;
    use super::*;

    #[test]
    fn what_the_edge_reports_is_in_the_metrics() {
        let counts = EdgeCounts::new(Arc::new(Metrics::new()));
        counts.connection_opened();
        counts.connection_opened();
        counts.connection_closed();
        counts.connection_refused();
        counts.request("mcp_post", 200, Duration::from_millis(2));
        counts.request("readyz", 503, Duration::ZERO);
        counts.request("none", 404, Duration::ZERO);
        let text = counts.encode();
        for line in [
            "outlast_connections 1",
            "outlast_connections_accepted_total 2",
            "outlast_connections_refused_total{reason=\"timeout\"} 1",
            "outlast_http_requests_total{route=\"mcp_post\",status=\"2xx\"} 1",
            "outlast_http_requests_total{route=\"health\",status=\"5xx\"} 1",
            "outlast_http_requests_total{route=\"other\",status=\"4xx\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
