#[path = "../../../../tests/support/redis.rs"]
#[expect(dead_code, reason = "other tests use what these do not")]
pub(super) mod support;

mod contract;
mod links;
mod outage;
mod topology;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{LinkStatus, Links};
use crate::base::clock::SystemClock;
use crate::base::ids::{Origin, SessionKey};
use crate::config;
use crate::state::link::LinkState;
use crate::state::stamp::Stamp;
use crate::store::remote::{DocPush, Event, Merged, Remote as _, RemoteError, Shard, SharedField};
use crate::telemetry::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(20);

/// An instance: its links, and what they told.
struct Bed {
    links: Links,
    heard: Arc<Mutex<Vec<Event>>>,
    origin: Origin,
    metrics: Arc<Metrics>,
}

impl Bed {
    fn new(url: &str) -> Self {
        Self::with(url, |_| {})
    }

    fn with(url: &str, set: impl FnOnce(&mut config::Redis)) -> Self {
        // Longer than in service: a machine that runs other tests at the same time is no failing Redis.
        let mut settings = config::Redis {
            url: url.into(),
            deadline_ms: 1_000,
            slow_ms: 1_000,
            connect_ms: 2_000,
            ..config::Redis::default()
        };
        set(&mut settings);
        let (origin, metrics) = (Origin::random(), Arc::new(Metrics::new()));
        let clock = Arc::new(SystemClock::default());
        let links = Links::new(&settings, origin, 512, clock, metrics.links.clone()).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&heard);
        links.listen(Arc::new(move |event| into.lock().unwrap().push(event)));
        Self { links, heard, origin, metrics }
    }

    async fn up(url: &str) -> Self {
        let bed = Self::new(url);
        bed.is(LinkState::Up).await;
        bed
    }

    async fn is(&self, state: LinkState) {
        self.shard_is(Shard(0), state).await;
    }

    async fn shard_is(&self, shard: Shard, state: LinkState) {
        self.until(&format!("{shard:?} to be {state}"), || self.links.state(shard) == state).await;
    }

    async fn until(&self, what: &str, so: impl Fn() -> bool) {
        let start = Instant::now();
        while !so() {
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}: {:?}", self.links.status());
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn link(&self) -> LinkStatus {
        self.links.status().links.remove(0)
    }

    fn heard(&self, event: &Event) -> usize {
        self.heard.lock().unwrap().iter().filter(|heard| *heard == event).count()
    }

    fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }

    async fn write(&self, key: SessionKey, value: &str) -> Result<Merged, RemoteError> {
        let now_ms = crate::base::clock::Clock::now_ms(&SystemClock::default());
        let stamp = Stamp::new(now_ms, 0, self.origin);
        let field = SharedField { name: "f".into(), stamp, value: Bytes::from(value.to_owned()) };
        let push = DocPush { fields: vec![field], idle_ms: 600_000, deadline_ms: now_ms + 600_000 };
        self.links.push_doc(key, push).await
    }

    async fn read(&self, key: SessionKey) -> Result<Option<String>, RemoteError> {
        let fields = self.links.pull_doc(key).await?;
        Ok(fields.first().map(|field| String::from_utf8(field.value.to_vec()).unwrap()))
    }
}
