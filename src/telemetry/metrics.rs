//! Every metric of the server, registered in one struct.
//!
//! Whoever counts takes a handle once (a field of [`Metrics`], [`Metrics::route`], [`Metrics::tool`],
//! [`Metrics::server`]) and keeps it: counting is then one atomic addition, without a look-up by name. Labels take
//! their values from closed sets or from the configuration, never from what a client sends.

mod labels;
mod sharing;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

pub use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use self::labels::{Outcome, Refusal, Route};
use self::labels::{RefusalLabel, RouteLabel, RouteLabels, ServerLabel, StatusClass, ToolLabel, ToolLabels};
pub use self::sharing::{CacheMetrics, LinkMetrics, SharingMetrics};

/// A gauge of fractions.
pub type FloatGauge = Gauge<f64, AtomicU64>;
/// A counter of fractions.
pub type FloatCounter = Counter<f64, AtomicU64>;

/// Media type of [`Metrics::encode`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of this process. Code that is not handed any counts here.
pub fn of_process() -> &'static Arc<Metrics> {
    static METRICS: OnceLock<Arc<Metrics>> = OnceLock::new();
    METRICS.get_or_init(|| Arc::new(Metrics::new()))
}

/// The handles of one route.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    informational: Counter,
    success: Counter,
    redirection: Counter,
    client_error: Counter,
    server_error: Counter,
    seconds: Histogram,
}

impl RouteMetrics {
    /// Counts one request: its HTTP status and, in seconds, the time from its headers to the beginning of its answer.
    pub fn observe(&self, status: u16, seconds: f64) {
        let counter = match status / 100 {
            1 => &self.informational,
            2 => &self.success,
            3 => &self.redirection,
            4 => &self.client_error,
            _ => &self.server_error,
        };
        counter.inc();
        self.seconds.observe(seconds);
    }
}

/// The handles of one tool.
#[derive(Clone, Debug)]
pub struct ToolMetrics {
    ok: Counter,
    tool_error: Counter,
    error: Counter,
    timeout: Counter,
    cancelled: Counter,
    seconds: Histogram,
}

impl ToolMetrics {
    /// Counts one call: how it ended and how long it took in seconds.
    pub fn observe(&self, outcome: Outcome, seconds: f64) {
        let counter = match outcome {
            Outcome::Ok => &self.ok,
            Outcome::ToolError => &self.tool_error,
            Outcome::Error => &self.error,
            Outcome::Timeout => &self.timeout,
            Outcome::Cancelled => &self.cancelled,
        };
        counter.inc();
        self.seconds.observe(seconds);
    }
}

/// The handles of one hosted server.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    /// Its children that run.
    pub children: Gauge,
    /// Its children that were started.
    pub starts: Counter,
    /// Its children that ended although nobody ended them.
    pub crashes: Counter,
    /// Memory of all processes of its children, bytes.
    pub memory_bytes: Gauge,
    /// 1 while it died too often to be started.
    pub parked: Gauge,
}

/// The handles of one remote server.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    /// What its breaker lets through: 0 everything, 1 a probe, 2 nothing.
    pub breaker: Gauge,
    /// How often its breaker opened.
    pub openings: Counter,
    /// Requests that found that it does not work.
    pub failures: Counter,
    /// Sessions that were opened in it.
    pub sessions: Counter,
}

/// All metrics of one instance.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    routes: [RouteMetrics; Route::ALL.len()],
    tool_calls: Family<ToolLabels, Counter>,
    tool_seconds: Family<ToolLabel, Histogram, fn() -> Histogram>,
    children: Family<ServerLabel, Gauge>,
    child_starts: Family<ServerLabel, Counter>,
    child_crashes: Family<ServerLabel, Counter>,
    child_memory: Family<ServerLabel, Gauge>,
    child_parked: Family<ServerLabel, Gauge>,
    upstream_breaker: Family<ServerLabel, Gauge>,
    upstream_openings: Family<ServerLabel, Counter>,
    upstream_failures: Family<ServerLabel, Counter>,
    upstream_sessions: Family<ServerLabel, Counter>,
    refused: Family<RefusalLabel, Counter>,
    /// Those of the links to Redis.
    pub links: LinkMetrics,
    /// Those of what is shared over them.
    pub sharing: SharingMetrics,
    /// Those of the cache of results.
    pub cache: CacheMetrics,
    /// Open connections of the public listener.
    pub connections: Gauge,
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Sessions in memory.
    pub sessions_loaded: Gauge,
    /// Sessions on this instance, idle ones included.
    pub sessions: Gauge,
    /// Open event streams.
    pub streams: Gauge,
    /// Tool calls in flight.
    pub calls_in_flight: Gauge,
    /// Events that were written to a stream.
    pub events_delivered: Counter,
    /// Resumptions that found a part of their stream trimmed, and said so.
    pub gaps_signalled: Counter,
    /// Streams that were taken over by a newer connection of their client.
    pub takeovers: Counter,
    /// Sessions that were brought back from the disk into memory.
    pub sessions_rehydrated: Counter,
    /// From the first write of a group until the disk had it, seconds.
    pub commit_seconds: Histogram,
    /// Writes and syncs that the disk refused.
    pub fsync_errors: Counter,
    /// 1 while the store accepts writes.
    pub store_writable: Gauge,
    /// What the store may still take of the disk, bytes.
    pub disk_free: Gauge,
    /// When the process started, seconds since the Unix epoch.
    pub start_time_seconds: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("outlast");
        let r = &mut registry;
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        r.register("build", "The version that runs", Info::new(build.to_vec()));

        let requests = Family::<RouteLabels, Counter>::default();
        r.register("http_requests", "HTTP requests", requests.clone());
        let seconds =
            Family::<RouteLabel, Histogram, fn() -> Histogram>::new_with_constructor(request_seconds);
        let help = "From a request's headers to the beginning of its answer";
        r.register_with_unit("http_request", help, Unit::Seconds, seconds.clone());

        let tool_calls = Family::default();
        r.register("tool_calls", "Tool calls that ended", tool_calls.clone());
        let tool_seconds = Family::<_, _, fn() -> Histogram>::new_with_constructor(call_seconds);
        r.register_with_unit("tool_call", "Duration of tool calls", Unit::Seconds, tool_seconds.clone());

        let children = Family::default();
        r.register("child_processes", "Children of hosted servers that run", children.clone());
        let child_starts = Family::default();
        r.register("child_starts", "Children of hosted servers that were started", child_starts.clone());
        let child_crashes = Family::default();
        let help = "Children of hosted servers that ended by themselves";
        r.register("child_crashes", help, child_crashes.clone());
        let child_memory = Family::default();
        let help = "Memory of all processes of the children of hosted servers";
        r.register_with_unit("child_memory", help, Unit::Bytes, child_memory.clone());
        let child_parked = Family::default();
        let help = "1 while a hosted server is not started because it died too often";
        r.register("child_parked", help, child_parked.clone());
        let upstream_breaker = Family::default();
        let help = "What the breaker of a remote server lets through: 0 everything, 1 a probe, 2 nothing";
        r.register("upstream_breaker", help, upstream_breaker.clone());
        let upstream_openings = Family::default();
        let help = "How often the breaker of a remote server opened";
        r.register("upstream_breaker_openings", help, upstream_openings.clone());
        let upstream_failures = Family::default();
        let help = "Requests to a remote server that found that it does not work";
        r.register("upstream_failures", help, upstream_failures.clone());
        let upstream_sessions = Family::default();
        let help = "Sessions that were opened in a remote server";
        r.register("upstream_sessions_opened", help, upstream_sessions.clone());

        let refused = Family::default();
        let help = "Connections and requests that were turned away unread";
        r.register("connections_refused", help, refused.clone());

        let commit_seconds =
            Histogram::new([0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]);
        let help = "Until the disk had a group of writes";
        r.register_with_unit("store_commit", help, Unit::Seconds, commit_seconds.clone());
        let start_time_seconds = Gauge::default();
        let help = "When the process started, since the Unix epoch";
        r.register_with_unit("start_time", help, Unit::Seconds, start_time_seconds.clone());

        let disk_free = Gauge::default();
        let help = "What the store may still take of the disk";
        r.register_with_unit("disk_free", help, Unit::Bytes, disk_free.clone());
        Self {
            routes: Route::ALL.map(|route| RouteMetrics::new(&requests, &seconds, route)),
            connections: gauge(r, "connections", "Open connections of the public listener"),
            connections_accepted: counter(r, "connections_accepted", "Connections accepted"),
            sessions_loaded: gauge(r, "sessions_loaded", "Sessions in memory"),
            sessions: gauge(r, "sessions", "Sessions on this instance, idle ones included"),
            streams: gauge(r, "streams", "Open event streams"),
            calls_in_flight: gauge(r, "calls_in_flight", "Tool calls in flight"),
            events_delivered: counter(r, "events_delivered", "Events written to streams"),
            gaps_signalled: counter(
                r,
                "gaps_signalled",
                "Resumptions that found a part of their stream trimmed",
            ),
            takeovers: counter(
                r,
                "stream_takeovers",
                "Streams taken over by a newer connection of their client",
            ),
            sessions_rehydrated: counter(
                r,
                "sessions_rehydrated",
                "Sessions brought back from disk into memory",
            ),
            fsync_errors: counter(r, "store_fsync_errors", "Writes and syncs that the disk refused"),
            store_writable: gauge(r, "store_writable", "1 while the store accepts writes"),
            disk_free,
            tool_calls,
            tool_seconds,
            children,
            child_starts,
            child_crashes,
            child_memory,
            child_parked,
            upstream_breaker,
            upstream_openings,
            upstream_failures,
            upstream_sessions,
            refused,
            links: LinkMetrics::new(r),
            sharing: SharingMetrics::new(r),
            cache: CacheMetrics::new(r),
            commit_seconds,
            start_time_seconds,
            registry,
        }
    }

    /// The handles of a route.
    #[must_use]
    pub fn route(&self, route: Route) -> &RouteMetrics {
        let [post, get, delete, health, metrics, admin, other] = &self.routes;
        match route {
            Route::McpPost => post,
            Route::McpGet => get,
            Route::McpDelete => delete,
            Route::Health => health,
            Route::Metrics => metrics,
            Route::Admin => admin,
            Route::Other => other,
        }
    }

    /// The handles of a tool that exists, by its public name: to be kept, and never to be asked for by a name that
    /// only a client has said.
    #[must_use]
    pub fn tool(&self, name: &str) -> ToolMetrics {
        let tool: Arc<str> = name.into();
        let counter =
            |outcome| self.tool_calls.get_or_create_owned(&ToolLabels { tool: Arc::clone(&tool), outcome });
        ToolMetrics {
            ok: counter(Outcome::Ok),
            tool_error: counter(Outcome::ToolError),
            error: counter(Outcome::Error),
            timeout: counter(Outcome::Timeout),
            cancelled: counter(Outcome::Cancelled),
            seconds: self.tool_seconds.get_or_create_owned(&ToolLabel { tool: Arc::clone(&tool) }),
        }
    }

    /// The handles of a hosted server, by its name in the configuration.
    #[must_use]
    pub fn server(&self, name: &str) -> ServerMetrics {
        let label = ServerLabel { server: name.into() };
        ServerMetrics {
            children: self.children.get_or_create_owned(&label),
            starts: self.child_starts.get_or_create_owned(&label),
            crashes: self.child_crashes.get_or_create_owned(&label),
            memory_bytes: self.child_memory.get_or_create_owned(&label),
            parked: self.child_parked.get_or_create_owned(&label),
        }
    }

    /// The handles of a remote server, by its name in the configuration.
    #[must_use]
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        let label = ServerLabel { server: name.into() };
        UpstreamMetrics {
            breaker: self.upstream_breaker.get_or_create_owned(&label),
            openings: self.upstream_openings.get_or_create_owned(&label),
            failures: self.upstream_failures.get_or_create_owned(&label),
            sessions: self.upstream_sessions.get_or_create_owned(&label),
        }
    }

    /// The counter of a refusal.
    #[must_use]
    pub fn refused(&self, reason: Refusal) -> Counter {
        self.refused.get_or_create_owned(&RefusalLabel { reason })
    }

    /// All metrics as OpenMetrics text ([`MEDIA_TYPE`]).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl RouteMetrics {
    fn new(
        requests: &Family<RouteLabels, Counter>,
        seconds: &Family<RouteLabel, Histogram, fn() -> Histogram>,
        route: Route,
    ) -> Self {
        let counter =
            |class| requests.get_or_create_owned(&RouteLabels { route, status: StatusClass(class) });
        Self {
            informational: counter(1),
            success: counter(2),
            redirection: counter(3),
            client_error: counter(4),
            server_error: counter(5),
            seconds: seconds.get_or_create_owned(&RouteLabel { route }),
        }
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn request_seconds() -> Histogram {
    Histogram::new([0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
}

fn call_seconds() -> Histogram {
    Histogram::new([0.0001, 0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_found_in_the_text() {
        let metrics = Metrics::new();
        metrics.route(Route::McpPost).observe(200, 0.002);
        metrics.route(Route::McpPost).observe(404, 0.002);
        metrics.route(Route::Admin).observe(503, 0.002);
        metrics.tool("echo").observe(Outcome::ToolError, 0.2);
        metrics.server("fs").children.set(2);
        metrics.refused(Refusal::Host).inc();
        metrics.sessions.set(7);
        let text = metrics.encode();
        for line in [
            "outlast_build_info{version=\"",
            "outlast_http_requests_total{route=\"mcp_post\",status=\"2xx\"} 1",
            "outlast_http_requests_total{route=\"mcp_post\",status=\"4xx\"} 1",
            "outlast_http_requests_total{route=\"admin\",status=\"5xx\"} 1",
            "outlast_http_request_seconds_count{route=\"mcp_post\"} 2",
            "outlast_tool_calls_total{tool=\"echo\",outcome=\"tool_error\"} 1",
            "outlast_tool_call_seconds_bucket{le=\"0.3\",tool=\"echo\"} 1",
            "outlast_child_processes{server=\"fs\"} 2",
            "outlast_connections_refused_total{reason=\"host\"} 1",
            "outlast_sessions 7",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_metric_has_help_and_no_name_twice() {
        let text = Metrics::new().encode();
        let types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let mut names: Vec<&str> = types.iter().filter_map(|line| line.split(' ').next()).collect();
        assert!(names.iter().all(|name| text.contains(&format!("# HELP {name} "))));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
