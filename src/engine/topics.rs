//! What is said on topics, for operators who listen (`tail.rs`): messages to sessions, broadcasts, what happens to sessions,
//! links and lists, and whatever operators say themselves (`publish.rs`).
//!
//! | topic | what is said |
//! |---|---|
//! | `mcp/session/KEY/message` | a notification or request that goes on a stream of the session |
//! | `mcp/broadcast/notification` | a notification to every session |
//! | `outlast/session/KEY/created`, `outlast/session/KEY/ended` | what became of it |
//! | `outlast/link/SHARD` | the link to Redis is in this state now |
//! | `outlast/lists` | which lists of tools, prompts and resources have changed |
//!
//! Something is said once, by the instance where it begins; sisters are told what somebody there listens to
//! (`relay.rs`). Listening is no part of delivery: it is not stored, holds nobody up, and where nobody listens nothing is
//! made up to be heard.

mod carriers;
mod publish;
mod relay;
mod tail;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::carriers::Asked;
use self::relay::{Incoming, Outgoing, Wanted};
use self::tail::Tail;
use super::Engine;
use crate::base::ids::{Origin, SessionKey};
use crate::base::table::Table;
use crate::rpc::sse::write_event;

pub(super) use self::tail::TailEvents;

/// Something that was said.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    topic: String,
    /// When, milliseconds since the epoch.
    at_ms: u64,
    /// Where: a process start.
    instance: String,
    message: Box<RawValue>,
}

impl Said {
    /// As one event of a stream.
    fn frame(&self) -> Option<Bytes> {
        let json = serde_json::to_vec(self).ok()?;
        let mut frame = Vec::with_capacity(json.len() + 16);
        write_event(&mut frame, None, None, &json);
        Some(frame.into())
    }
}

/// Who listens to what.
pub(super) struct Topics {
    /// Of what the operator says to sessions that are not in memory: their own numbers are not given out then.
    origin: Origin,
    /// One at a time gives such a number.
    numbering: tokio::sync::Mutex<()>,
    tails: Table<u64, Arc<Tail>>,
    last_tail: AtomicU64,
    /// What sisters want to be told.
    wanted: Wanted,
    /// Tails here and sisters that have some. While it is 0 nothing is said.
    listeners: AtomicUsize,
    outgoing: Outgoing,
    incoming: Incoming,
    asked: Asked,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            origin: Origin::random(),
            numbering: tokio::sync::Mutex::default(),
            tails: Table::default(),
            last_tail: AtomicU64::new(0),
            wanted: Wanted::default(),
            listeners: AtomicUsize::new(0),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            asked: Asked::default(),
        }
    }
}

impl Topics {
    /// Whether anybody listens to anything.
    pub(super) fn is_heard(&self) -> bool {
        self.listeners.load(Ordering::Relaxed) > 0
    }

    /// Whether somebody listens here.
    pub(super) fn has_tails(&self) -> bool {
        !self.tails.is_empty()
    }

    fn count(&self) {
        self.listeners.store(self.tails.len() + self.wanted.len(), Ordering::Relaxed);
    }

    /// Hands it to those here who listen; how many they are.
    fn hand(&self, said: &Said) -> usize {
        let mut all = Vec::new();
        self.tails.for_each(|_, tail| {
            if tail.filter.picks(&said.topic) {
                all.push(Arc::clone(tail));
            }
        });
        if let Some(frame) = said.frame().filter(|_| !all.is_empty()) {
            all.iter().for_each(|tail| tail.push(&frame));
        }
        all.len()
    }

    /// So many messages of other instances did not come; `None`: it is not known how many.
    fn missed(&self, count: Option<u64>) {
        let mut all = Vec::new();
        self.tails.for_each(|_, tail| all.push(Arc::clone(tail)));
        all.iter().for_each(|tail| tail.miss(count));
    }
}

impl Engine {
    /// Says something on a topic, if anybody listens. `message`: JSON text. Returns how many listen to it here.
    pub(super) fn say(&self, topic: impl FnOnce() -> String, message: impl FnOnce() -> String) -> usize {
        if !self.topics.is_heard() {
            return 0;
        }
        let Ok(message) = RawValue::from_string(message()) else { return 0 };
        let (at_ms, instance) = (self.clock.now_ms(), self.store.origin().to_string());
        let said = Said { topic: topic(), at_ms, instance, message };
        let heard = self.topics.hand(&said);
        if self.topics.wanted.wants(&said.topic, self.clock.monotonic_ms()) {
            self.topics.outgoing.push(said);
        }
        heard
    }

    /// Messages that go on streams of a session.
    pub(super) fn say_to_session(&self, key: SessionKey, messages: Vec<Bytes>) {
        for message in messages {
            self.say(
                || format!("mcp/session/{key}/message"),
                || String::from_utf8(message.to_vec()).unwrap_or_default(),
            );
        }
    }

    /// What became of a session.
    pub(super) fn say_of_session(&self, key: SessionKey, what: &str) {
        self.say(|| format!("outlast/session/{key}/{what}"), || "{}".to_owned());
    }
}
