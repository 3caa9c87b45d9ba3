//! The engine in this process, over a store in memory and with a clock that stands still until it is moved.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use outlast::auth::Principal;
use outlast::base::clock::{ManualClock, SharedClock};
use outlast::base::seal::{KEY_BYTES, Keys, Secret};
use outlast::config::{Config, Namespacing};
use outlast::engine::{Engine, Events, Inbound, Reply};
use outlast::store::Store;
use outlast::store::memory::Memory;
use outlast::tools::builtin::diagnostics::Diagnostics;
use outlast::tools::registry::{Registry, Source};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::session::BOTH;
use super::soon;

/// An engine and what it stands on.
pub struct Place {
    pub clock: Arc<ManualClock>,
    pub store: Arc<Store>,
    pub engine: Arc<Engine>,
    pub disk: Arc<Memory>,
    config: Config,
    principal: Arc<Principal>,
}

impl Place {
    pub async fn new(config: &Config) -> Self {
        let clock = ManualClock::at(1_795_000_000_000);
        let disk = Arc::new(Memory::default());
        let (store, engine) = start(config, &disk, &clock).await;
        let principal = Arc::new(Principal::new("ann"));
        Self { clock, store, engine, disk, config: config.clone(), principal }
    }

    /// Another process start on the same disk; the one before is not asked.
    pub async fn crash(&mut self) {
        self.clock.advance(Duration::from_millis(1));
        (self.store, self.engine) = start(&self.config, &self.disk, &self.clock).await;
    }

    pub async fn post(&self, session: Option<&str>, message: Value) -> (u16, Option<String>, Value) {
        let headers = headers(&[("accept", Some(BOTH)), ("mcp-session-id", session)]);
        let inbound = Inbound {
            headers: &headers,
            mirrors: true,
            principal: &self.principal,
            correlation: &Arc::from("test"),
        };
        match self.engine.post(inbound, Bytes::from(message.to_string())).await {
            Reply::Whole { status, session, body } => {
                (status, session, serde_json::from_slice(&body).unwrap_or_default())
            }
            Reply::Stream { .. } => panic!("an answer that ends at once is whole"),
        }
    }

    /// A new session.
    pub async fn open(&self) -> String {
        self.open_as("2025-06-18").await
    }

    /// A new session of this revision.
    pub async fn open_as(&self, revision: &str) -> String {
        let params = json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": {}});
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        self.post(None, message).await.1.expect("a session id")
    }

    /// The value of the session's counter, one higher each time; the status when it is refused.
    pub async fn count(&self, session: &str) -> Result<i64, u16> {
        let params = json!({"name": "counter", "arguments": {}});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        match self.post(Some(session), message).await {
            (200, _, answer) => Ok(answer["result"]["structuredContent"]["value"].as_i64().unwrap()),
            (status, ..) => Err(status),
        }
    }

    /// The GET stream of a session.
    pub async fn stream(&self, session: &str, last: Option<&str>) -> Frames {
        let headers = headers(&[("mcp-session-id", Some(session)), ("last-event-id", last)]);
        let inbound = Inbound {
            headers: &headers,
            mirrors: true,
            principal: &self.principal,
            correlation: &Arc::from("test"),
        };
        match self.engine.get(inbound).await {
            Reply::Stream { events, .. } => Frames { events, text: String::new() },
            Reply::Whole { status, body, .. } => panic!("{status} {body:?}"),
        }
    }

    /// Time passes, with all that happens every second.
    pub async fn wait(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            self.engine.tick().await;
            self.store.sweep().await.unwrap();
        }
    }
}

async fn start(config: &Config, disk: &Arc<Memory>, clock: &Arc<ManualClock>) -> (Arc<Store>, Arc<Engine>) {
    let shared: SharedClock = Arc::<ManualClock>::clone(clock);
    let keys = Keys::of(&[Secret::new(1, Zeroizing::new([7; KEY_BYTES]))]);
    let disk = Arc::<Memory>::clone(disk);
    let store = Store::over(disk, keys, 1 << 20, &config.sessions, Arc::clone(&shared)).await.unwrap();
    let source = Source { host: Arc::new(Diagnostics), server: None };
    let registry = Registry::start(vec![source], Namespacing::Auto);
    let engine = Engine::start(config, Arc::clone(&store), registry, shared).await.unwrap();
    engine.resume_tasks().await.unwrap();
    (store, engine)
}

fn headers(pairs: &[(&'static str, Option<&str>)]) -> HeaderMap {
    let pairs = pairs.iter().filter_map(|(name, value)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str((*value)?).unwrap()))
    });
    pairs.collect()
}

/// The frames of a stream, as a connection would pull them.
pub struct Frames {
    events: Events,
    text: String,
}

impl Frames {
    /// The next message and the id of its event.
    pub async fn message(&mut self) -> (Option<String>, Value) {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
                let id = field("id: ").map(ToOwned::to_owned);
                let message = serde_json::from_str(field("data: ").unwrap_or_default()).ok();
                self.text = rest.to_owned();
                if let Some(message) = message {
                    return (id, message);
                }
                continue;
            }
            let events = &mut self.events;
            let next = std::future::poll_fn(|cx| Pin::new(&mut *events).poll_next(cx));
            let frames = soon("frames", next).await.expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&frames).unwrap());
        }
    }
}
