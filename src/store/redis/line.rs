//! The link to one shard: what it is now, and how a call goes through it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::Value;
use redis::aio::ConnectionLike as _;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::dial::{Pipe, Place};
use super::failure::{Class, Failure};
use super::script::Call;
use super::shared::Shared;
use super::status::Facts;
use crate::state::link::{Called, Cause, Change, Link, LinkState};
use crate::store::remote::{Event, Shard};

/// Why a call through a link has no answer.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    Away(Arc<str>),
    Refuses(Arc<str>),
    Moved(String),
    Ask(String),
    TryAgain,
    Fault(Arc<str>),
}

/// The link to one shard.
pub(super) struct Line {
    pub(super) shard: Shard,
    state: AtomicU8,
    /// The moment (monotonic, milliseconds) of the last write that was heard of; 0: what is written now may be missed.
    heard_ms: AtomicU64,
    inner: Mutex<Inner>,
    pipe: ArcSwapOption<Pipe>,
    /// Where the shard is; `None`: nowhere yet, or it is gone.
    pub(super) place: watch::Sender<Option<Place>>,
    /// The connection is of no use any more.
    pub(super) broken: Notify,
    /// Probes that were heard of.
    pub(super) echoes: AtomicU64,
    pub(super) echo: Notify,
    /// The server said that it is no primary.
    pub(super) doubted: AtomicBool,
}

struct Inner {
    link: Link,
    /// When the state began, milliseconds since the epoch.
    since_ms: u64,
    problem: Option<Arc<str>>,
    facts: Facts,
}

impl Line {
    pub(super) fn new(shared: &Shared, shard: Shard, place: Option<Place>) -> Self {
        let link = Link::new(shared.clock.monotonic_ms(), shared.settings.slow_ms);
        let inner = Inner { link, since_ms: shared.clock.now_ms(), problem: None, facts: Facts::default() };
        let line = Self {
            shard,
            state: AtomicU8::new(0),
            heard_ms: AtomicU64::new(0),
            inner: Mutex::new(inner),
            pipe: ArcSwapOption::empty(),
            place: watch::channel(place).0,
            broken: Notify::new(),
            echoes: AtomicU64::new(0),
            echo: Notify::new(),
            doubted: AtomicBool::new(false),
        };
        line.state.store(code(LinkState::Down), Ordering::SeqCst);
        shared.metrics.state(shard.0, LinkState::Down.name());
        line
    }

    pub(super) fn state(&self) -> LinkState {
        let code = usize::from(self.state.load(Ordering::SeqCst));
        LinkState::ALL.get(code).copied().unwrap_or(LinkState::Down)
    }

    pub(super) fn is_leased(&self, shared: &Shared) -> bool {
        let heard_ms = self.heard_ms.load(Ordering::SeqCst);
        heard_ms > 0
            && self.state() == LinkState::Up
            && shared.clock.monotonic_ms().saturating_sub(heard_ms) <= shared.lease_ms()
    }

    /// From now on writes may be missed, until a probe is heard of again.
    pub(super) fn unlease(&self) {
        self.heard_ms.store(0, Ordering::SeqCst);
    }

    pub(super) fn lease(&self, at_ms: u64) {
        self.heard_ms.store(at_ms.max(1), Ordering::SeqCst);
    }

    /// The lease's age, milliseconds.
    pub(super) fn lease_age_ms(&self, shared: &Shared) -> Option<u64> {
        match self.heard_ms.load(Ordering::SeqCst) {
            0 => None,
            at_ms => Some(shared.clock.monotonic_ms().saturating_sub(at_ms)),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the machine what was seen, and everybody what came of it.
    pub(super) fn note(&self, shared: &Shared, see: impl FnOnce(&mut Link, u64) -> Option<Change>) {
        let now_ms = shared.clock.monotonic_ms();
        let mut inner = self.inner();
        let Some(Change { from, to, cause }) = see(&mut inner.link, now_ms) else { return };
        inner.since_ms = shared.clock.now_ms();
        if to == LinkState::Up {
            inner.problem = None;
        } else {
            self.unlease();
        }
        self.state.store(code(to), Ordering::SeqCst);
        shared.metrics.changed(self.shard.0, from.name(), to.name(), cause.name());
        let (shard, problem) = (self.shard.0, inner.problem.clone().unwrap_or_default());
        match to {
            LinkState::Up => tracing::info!(shard, %from, "Redis is up"),
            _ => tracing::warn!(shard, %from, %to, reason = %cause, problem = &*problem, "Redis is not up"),
        }
        if to == LinkState::Down {
            self.broken.notify_one();
        }
        // Under the lock, so that states are told in their order.
        shared.tell(Event::State(self.shard, to));
    }

    /// Notes what is wrong, for people.
    pub(super) fn problem(&self, text: impl Into<Arc<str>>) {
        self.inner().problem = Some(text.into());
    }

    pub(super) fn facts<T>(&self, with: impl FnOnce(&mut Facts) -> T) -> T {
        with(&mut self.inner().facts)
    }

    pub(super) fn pause_left(&self, shared: &Shared) -> Duration {
        Duration::from_millis(self.inner().link.pause_left_ms(shared.clock.monotonic_ms()))
    }

    /// What is known of it: state, cause, since when (milliseconds since the epoch), problem, facts.
    pub(super) fn view(&self) -> (LinkState, Cause, u64, Option<Arc<str>>, Facts) {
        let inner = self.inner();
        (inner.link.state(), inner.link.cause(), inner.since_ms, inner.problem.clone(), inner.facts.clone())
    }

    pub(super) fn open(&self, pipe: Arc<Pipe>) {
        self.pipe.store(Some(pipe));
    }

    pub(super) fn close(&self) {
        self.unlease();
        self.pipe.store(None);
    }

    pub(super) fn pipe(&self) -> Option<Arc<Pipe>> {
        self.pipe.load_full()
    }

    /// Sends a call of a user and waits for the answer.
    pub(super) async fn call(
        &self,
        shared: &Shared,
        call: &Call,
        asking: bool,
        until: Instant,
    ) -> Result<Value, Refusal> {
        let state = self.state();
        match state {
            LinkState::Up => {}
            LinkState::ReadOnly if !call.op.writes() => {}
            LinkState::ReadOnly => return Err(Refusal::Refuses(self.reason())),
            LinkState::Down | LinkState::Isolated => return Err(Refusal::Away(self.reason())),
        }
        let Some(pipe) = self.pipe() else {
            return Err(Refusal::Away("the connection to Redis is being made anew".into()));
        };
        let start_ms = shared.clock.monotonic_ms();
        let sent = timeout_at(until, send(&pipe, call, asking)).await;
        let took_ms = shared.clock.monotonic_ms().saturating_sub(start_ms);
        let failure = match sent {
            Ok(Ok(value)) => {
                self.note(shared, |link, now_ms| link.called(now_ms, Called::Answered(took_ms)));
                return Ok(value);
            }
            Ok(Err(failure)) => failure,
            Err(_) => {
                let ms = shared.settings.deadline_ms;
                self.note(shared, |link, now_ms| link.called(now_ms, Called::Missed));
                return Err(Refusal::Away(format!("Redis did not answer within {ms} ms").into()));
            }
        };
        Err(self.failed(shared, &pipe, failure, took_ms))
    }

    /// What follows from a failed call.
    fn failed(&self, shared: &Shared, pipe: &Arc<Pipe>, failure: Failure, took_ms: u64) -> Refusal {
        let answered = |link: &mut Link, now_ms| link.called(now_ms, Called::Answered(took_ms));
        match failure.class {
            Class::Lost => {
                // Of the connection that is in use: another one may stand in its place already.
                if self.pipe().is_some_and(|current| Arc::ptr_eq(&current, pipe)) {
                    self.close();
                    self.broken.notify_one();
                }
                // All calls of a connection that broke are one failure: making it anew decides what that means.
                Refusal::Away(failure.text)
            }
            Class::Hard(cause) => {
                self.problem(Arc::clone(&failure.text));
                self.note(shared, |link, now_ms| link.failed(now_ms, cause));
                Refusal::Away(failure.text)
            }
            Class::RefusesWrites(cause) => {
                self.problem(Arc::clone(&failure.text));
                self.note(shared, |link, now_ms| link.refused(now_ms, cause));
                Refusal::Refuses(failure.text)
            }
            Class::NotPrimary => {
                self.broken.notify_one();
                Refusal::Away(failure.text)
            }
            Class::Moved(node) => {
                self.note(shared, answered);
                Refusal::Moved(node)
            }
            Class::Ask(node) => {
                self.note(shared, answered);
                Refusal::Ask(node)
            }
            Class::TryAgain => {
                self.note(shared, answered);
                Refusal::TryAgain
            }
            Class::NoScript | Class::Bug => {
                self.note(shared, answered);
                shared.metrics.faults.inc();
                tracing::error!(error = &*failure.text, "Redis does not understand a command of this server");
                Refusal::Fault(failure.text)
            }
        }
    }

    fn reason(&self) -> Arc<str> {
        let inner = self.inner();
        match &inner.problem {
            Some(problem) => Arc::clone(problem),
            None => inner.link.cause().name().into(),
        }
    }
}

fn code(state: LinkState) -> u8 {
    LinkState::ALL.iter().position(|known| *known == state).map_or(u8::MAX, |at| at as u8)
}

/// Sends a call over a connection: a script by its name, and where that is unknown, whole.
pub(super) async fn send(pipe: &Pipe, call: &Call, asking: bool) -> Result<Value, Failure> {
    match send_one(pipe, call.short(), asking).await {
        Err(Failure { class: Class::NoScript, text }) => match call.whole() {
            Some(whole) => send_one(pipe, whole, asking).await,
            None => Err(Failure::new(Class::Bug, text)),
        },
        sent => sent,
    }
}

async fn send_one(pipe: &Pipe, command: redis::Cmd, asking: bool) -> Result<Value, Failure> {
    let mut connection = pipe.connection.clone();
    if !asking {
        let answer = connection.req_packed_command(&command).await;
        return answer.and_then(Value::extract_error).map_err(Failure::from);
    }
    let mut pair = redis::Pipeline::with_capacity(2);
    pair.add_command(redis::cmd("ASKING")).add_command(command);
    let answers = connection.req_packed_commands(&pair, 0, 2).await?;
    let last = answers.into_iter().next_back().unwrap_or_default();
    last.extract_error().map_err(Failure::from)
}
