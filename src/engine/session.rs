//! A session in memory, and the calls that run in it.

mod lives;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

pub(super) use self::lives::{birth_fields, store_error, unavailable};
use super::Engine;
use super::ask::Asks;
use super::elsewhere::Reading;
use super::outbox::{CallOutbox, Standing};
use super::stream::Streams;
use super::subscriptions::Subscriptions;
use crate::base::ids::Claims;
use crate::mcp::capability::ClientCapabilities;
use crate::mcp::revision::Revision;
use crate::rpc::error::RpcError;
use crate::state::doc::Doc;
use crate::store::{FieldWrite, Store, StoreError};
use crate::tools::{BoxFuture, Change, LogLevel, SessionView};

/// Document field: the client's `capabilities`, as JSON text.
const CAPABILITIES_FIELD: &str = "session.capabilities";
/// Document field: the log level, one byte.
const LEVEL_FIELD: &str = "session.level";
/// Document field: the position of the GET stream, as an event id.
const POSITION_FIELD: &str = "session.position";
/// Capabilities longer than this are kept as the bits of the session id only.
const MAX_CAPABILITIES_BYTES: usize = 16 * 1024;

/// How often at most the store is told that a session is in use, milliseconds. Less than the time between two rounds of
/// periodic work, so that none of them counts for nothing.
const TOUCH_EVERY_MS: u64 = 500;

/// Why a running call is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reason {
    /// It is not to end.
    None = 0,
    /// The client cancelled it: no response is sent.
    Client = 1,
    /// Its session ended.
    SessionEnded = 2,
    /// The server ends.
    Shutdown = 3,
}

/// A call that did not end at once.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) cancel: CancellationToken,
    reason: Arc<AtomicU8>,
    about: Arc<OnceLock<About>>,
}

/// What the operator is shown of a call.
#[derive(Debug)]
struct About {
    tool: String,
    since: tokio::time::Instant,
    out: Weak<CallOutbox>,
}

impl Running {
    pub(super) fn new(cancel: CancellationToken) -> Self {
        Self { cancel, reason: Arc::new(AtomicU8::new(Reason::None as u8)), about: Arc::default() }
    }

    /// Tells what runs. Once.
    pub(super) fn is_of(&self, tool: String, out: &Arc<CallOutbox>) {
        let about = About { tool, since: tokio::time::Instant::now(), out: Arc::downgrade(out) };
        let _ = self.about.set(about);
    }

    /// What runs, for how many seconds, and where it stands; none: it is over, or begins at this moment.
    pub(super) fn told(&self) -> Option<(String, u64, Standing)> {
        let about = self.about.get()?;
        Some((about.tool.clone(), about.since.elapsed().as_secs(), about.out.upgrade()?.standing()))
    }

    pub(super) fn end(&self, reason: Reason) {
        let _ = self.reason.compare_exchange(
            Reason::None as u8,
            reason as u8,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        self.cancel.cancel();
    }

    pub(super) fn reason(&self) -> Reason {
        match self.reason.load(Ordering::Acquire) {
            1 => Reason::Client,
            2 => Reason::SessionEnded,
            3 => Reason::Shutdown,
            _ => Reason::None,
        }
    }
}

/// What a new session has beside what every one has.
#[derive(Default)]
pub(super) struct Birth {
    /// Fields of its document.
    pub(super) fields: Vec<FieldWrite>,
    /// For so long nobody has used it already.
    pub(super) unused: Duration,
}

/// A session in memory. There is at most one of a key in a process: numbers of the log are given out under its lock.
pub(super) struct Session {
    pub(super) token: Arc<str>,
    pub(super) claims: Claims,
    pub(super) revision: Revision,
    key_text: Box<str>,
    capabilities: Box<RawValue>,
    store: Arc<Store>,
    streams: Mutex<Streams>,
    calls: Mutex<HashMap<Box<str>, Running>>,
    pub(super) asks: Asks,
    pub(super) subscriptions: Subscriptions,
    /// Tasks of it that run.
    tasks: AtomicUsize,
    /// The name under which the store knows the id that a caller of the bridge has chosen for it.
    pub(super) alias: Option<Box<str>>,
    /// How far the log that instances share was read.
    pub(super) reading: Reading,
    level: AtomicU8,
    used_ms: AtomicU64,
    /// The operator keeps it until then though nobody uses it, on the monotonic clock.
    kept_until_ms: AtomicU64,
    touched_ms: AtomicU64,
    ended: AtomicBool,
}

impl Session {
    pub(super) fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn calls(&self) -> MutexGuard<'_, HashMap<Box<str>, Running>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn client(&self) -> ClientCapabilities {
        ClientCapabilities::from_bits(self.claims.capabilities)
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether it carries a stream or runs a call or a task: that is use, too.
    fn is_busy(&self) -> bool {
        self.tasks.load(Ordering::Relaxed) > 0 || self.streams().readers() > 0 || !self.calls().is_empty()
    }

    /// A task of it runs from now on.
    pub(super) fn task_begun(&self) {
        self.tasks.fetch_add(1, Ordering::Relaxed);
    }

    /// One of them runs no more.
    pub(super) fn task_over(&self) {
        self.tasks.fetch_sub(1, Ordering::Relaxed);
    }

    /// What its client declared, JSON text.
    pub(super) fn client_capabilities_text(&self) -> String {
        self.capabilities.get().to_owned()
    }

    /// The session is in use now: its idle time starts anew.
    pub(super) fn used(&self, engine: &Engine) {
        let now = engine.clock.monotonic_ms();
        self.used_ms.store(now, Ordering::Relaxed);
        let touched = self.touched_ms.load(Ordering::Relaxed);
        if now.saturating_sub(touched) >= TOUCH_EVERY_MS {
            self.touched_ms.store(now, Ordering::Relaxed);
            engine.store.touch(self.claims.key);
        }
    }

    /// Its idle time is not over before then.
    pub(super) fn keep_for(&self, engine: &Engine, by_ms: u64) {
        let until = engine.clock.monotonic_ms().saturating_add(by_ms);
        self.kept_until_ms.fetch_max(until, Ordering::Relaxed);
    }

    pub(super) fn level(&self) -> u8 {
        self.level.load(Ordering::Relaxed)
    }

    /// Takes over the log level that was set on another instance.
    pub(super) fn learn_level(&self, doc: &Doc) {
        if let Some(level) = doc.get(LEVEL_FIELD).and_then(|bytes| bytes.first().copied()) {
            self.level.store(level, Ordering::Relaxed);
        }
    }

    /// Sets the log level; it stays over a restart.
    pub(super) async fn set_level(&self, level: LogLevel) -> Result<(), StoreError> {
        let write = (LEVEL_FIELD.to_owned(), Some(Bytes::copy_from_slice(&[level as u8])));
        self.store.update(self.claims.key, vec![write]).await?;
        self.level.store(level as u8, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps the position of the GET stream over a restart, for clients that come back without `Last-Event-ID`.
    async fn save_position(&self, engine: &Engine) {
        let position = {
            let mut streams = self.streams();
            if !std::mem::take(&mut streams.position_moved) {
                return;
            }
            let mut position = streams.position.clone();
            engine.broadcast.make_room(&mut position, &streams.log, engine.clock.now_ms());
            position_text(&position)
        };
        let write = (POSITION_FIELD.to_owned(), Some(position));
        if let Err(error) = self.store.update(self.claims.key, vec![write]).await {
            tracing::debug!(session = %self.claims.key, %error, "the position of a stream could not be saved");
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("key", &self.claims.key).finish_non_exhaustive()
    }
}

impl SessionView for Session {
    fn key(&self) -> &str {
        &self.key_text
    }

    fn client_capabilities(&self) -> &RawValue {
        &self.capabilities
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn change_value<'a>(
        &'a self,
        name: &'a str,
        change: Change,
    ) -> BoxFuture<'a, Result<Option<Bytes>, RpcError>> {
        Box::pin(async move {
            let field = format!("v:{name}");
            self.store.change(self.claims.key, &field, change).await.map_err(|error| store_error(&error))
        })
    }
}

fn position_text(position: &crate::state::cursor::Cursor) -> Bytes {
    Bytes::from(position.event_id(crate::state::log::StreamName::GET))
}
