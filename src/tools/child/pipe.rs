//! Messages to and from one child: our ids for the callers', raw text for everything else.
//!
//! Three parties share a pipe. The *writer* owns stdin and takes lines from a bounded queue. The *reader* owns stdout
//! and sorts what comes: answers to whoever waits, progress and logs to the call they belong to. Each *call* is a
//! future that passes its own messages on to its own client, so that a slow client holds up its own call first.

mod asks;
mod call;
mod reader;
mod silence;

pub(super) use call::Outcome;
pub(super) use silence::Silence;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::asks::Ask;
use self::silence::Watched;
use super::error::Death;
use super::lines::on_one_line;
use super::process::{Pipes, Watch};
use crate::base::limits::{CHILD_LAST_WORDS, CHILD_QUEUE};
use crate::rpc::error::RpcError;
use crate::rpc::message;
use crate::tools::Outbox;
use crate::tools::hosted::changes::Ears;

/// Whose child it is: decides which call a message without an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// One session, or one call: its most recent call.
    Session,
    /// Everybody: only if exactly one call runs.
    Shared,
}

/// The pipe to one child.
pub(super) struct Pipe {
    shared: Arc<Shared>,
}

struct Shared {
    server: Arc<str>,
    owner: Owner,
    watch: Watch,
    lines: mpsc::Sender<Line>,
    /// Closes the child's stdin.
    closing: CancellationToken,
    /// Where its announcements of changes go.
    ears: Ears,
    next_id: AtomicU64,
    state: Mutex<State>,
    /// The child's questions that wait for an answer, by their ids.
    asks: Mutex<HashMap<String, CancellationToken>>,
    /// What was wrong before it died.
    fault: OnceLock<&'static str>,
    silence: Watched,
}

#[derive(Default)]
struct State {
    running: BTreeMap<u64, Running>,
    /// Questions that came before the first call: many servers ask for roots as soon as they are initialized.
    early: VecDeque<Ask>,
    had_a_call: bool,
    death: Option<Arc<Death>>,
}

/// A request that waits for its answer, or a call whose answer was that it is a task.
struct Running {
    /// None once it was answered.
    answer: Option<oneshot::Sender<Answer>>,
    relay: Option<Relay>,
    /// It stays after its answer: messages of the call may still come.
    stays: bool,
    /// The child's task that the call became.
    task: Option<String>,
}

impl State {
    /// Who waits for the answer to a request.
    fn waiter(&mut self, id: u64) -> Option<oneshot::Sender<Answer>> {
        match self.running.get_mut(&id)? {
            Running { stays: true, answer, .. } => answer.take(),
            Running { stays: false, .. } => self.running.remove(&id)?.answer,
        }
    }
}

enum Answer {
    Result(Box<RawValue>),
    Error(RpcError),
    Died(Arc<Death>),
}

/// Where the messages of a running call go.
#[derive(Clone)]
struct Relay {
    /// The caller's progress token, as JSON text.
    token: Option<Box<RawValue>>,
    to: mpsc::Sender<Event>,
    out: Arc<dyn Outbox>,
    /// Its client was too slow once: it is not waited for again until it catches up.
    stalled: Arc<AtomicBool>,
}

/// What a call passes on.
enum Event {
    Notify(Bytes),
    Ask(Ask),
}

/// A line for the child.
struct Line {
    text: String,
    /// Told when all of it was written: from then on the child may have acted on it. Dropped when that will not be.
    written: Option<oneshot::Sender<()>>,
}

/// Why a request of our own has no result.
pub(super) enum Failure {
    Error(RpcError),
    Died(Arc<Death>),
    TimedOut,
}

impl Pipe {
    /// Starts to read and write.
    pub(super) fn open(
        server: Arc<str>,
        owner: Owner,
        pipes: Pipes,
        watch: Watch,
        ears: Ears,
        patience: Duration,
    ) -> Self {
        let (lines, queue) = mpsc::channel(CHILD_QUEUE);
        let shared = Arc::new(Shared {
            server,
            owner,
            watch,
            lines,
            closing: CancellationToken::new(),
            ears,
            next_id: AtomicU64::new(1),
            state: Mutex::default(),
            asks: Mutex::default(),
            fault: OnceLock::new(),
            silence: Watched::new(patience),
        });
        tokio::spawn(write(Arc::clone(&shared), pipes.stdin, queue));
        tokio::spawn(reader::read(Arc::clone(&shared), pipes.stdout));
        Self { shared }
    }

    /// How the child died, once it has.
    pub(super) fn death(&self) -> Option<Arc<Death>> {
        self.shared.lock().death.clone()
    }

    /// Whether it may hang.
    pub(super) fn silence(&self) -> Silence {
        self.shared.silence.state()
    }

    /// Waits until that is in doubt no more.
    pub(super) async fn decided(&self) {
        self.shared.silence.decided().await;
    }

    /// It did not answer a ping although it had nothing else to do.
    pub(super) fn ignores_pings(&self) {
        self.shared.silence.ignores_pings();
    }

    /// Closes the child's stdin: the polite way to say that it should end.
    pub(super) fn close(&self) {
        self.shared.closing.cancel();
    }

    /// A request of our own.
    pub(super) async fn request(
        &self,
        method: &str,
        params: &str,
        within: Duration,
    ) -> Result<Box<RawValue>, Failure> {
        self.shared.request(method, params, within).await
    }

    /// A request of our own whose answer does not matter.
    pub(super) async fn tell(&self, method: &str, params: &str) {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.shared.send(message::request(&id.to_string(), method, params)).await;
    }

    /// A notification of our own.
    pub(super) async fn notify(&self, method: &str, params: &str) {
        self.shared.send(message::notification(method, params)).await;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for an answer; `stays`: also for what comes after it.
    fn register(
        &self,
        answer: oneshot::Sender<Answer>,
        relay: Option<Relay>,
        stays: bool,
    ) -> Result<u64, Arc<Death>> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        if let Some(death) = &state.death {
            return Err(Arc::clone(death));
        }
        if let Some(relay) = &relay {
            state.had_a_call = true;
            for early in std::mem::take(&mut state.early) {
                // The queue of a new call has room for all of them; if not, dropping a question answers it.
                let _ = relay.to.try_send(Event::Ask(early));
            }
        }
        state.running.insert(id, Running { answer: Some(answer), relay, stays, task: None });
        Ok(id)
    }

    /// Queues a line; waits while the child does not read. A dead child's line is dropped: its death is told to all.
    async fn send(&self, message: Bytes) {
        let _ = self.lines.send(Line { text: one_line(&message), written: None }).await;
    }

    /// Queues a line if there is room, where waiting could hold up those who make room.
    fn try_send(&self, message: &Bytes) {
        if self.lines.try_send(Line { text: one_line(message), written: None }).is_err() {
            tracing::debug!(server = %self.server, "the child does not read: a message to it was dropped");
        }
    }

    /// A request of our own.
    async fn request(
        self: &Arc<Self>,
        method: &str,
        params: &str,
        within: Duration,
    ) -> Result<Box<RawValue>, Failure> {
        let (answer, answered) = oneshot::channel();
        let id = self.register(answer, None, false).map_err(Failure::Died)?;
        let _running = InFlight { shared: self, id, sent_at: None };
        let exchange = async {
            self.send(message::request(&id.to_string(), method, params)).await;
            answered.await
        };
        match timeout(within, exchange).await {
            Err(_) => Err(Failure::TimedOut),
            Ok(Ok(Answer::Result(result))) => Ok(result),
            Ok(Ok(Answer::Error(error))) => Err(Failure::Error(error)),
            Ok(Ok(Answer::Died(death))) => Err(Failure::Died(death)),
            Ok(Err(_)) => Err(Failure::Error(RpcError::internal("the request was forgotten"))),
        }
    }

    /// Tells everybody who waits that there will be no answer.
    fn die(&self, death: Death) {
        let death = Arc::new(death);
        let (running, early) = {
            let mut state = self.lock();
            state.death = Some(Arc::clone(&death));
            (std::mem::take(&mut state.running), std::mem::take(&mut state.early))
        };
        self.closing.cancel();
        drop(early);
        for waiter in running.into_values().filter_map(|request| request.answer) {
            // Who has stopped waiting does not need to know.
            let _ = waiter.send(Answer::Died(Arc::clone(&death)));
        }
    }
}

/// A request that runs in the child. Dropping it before its answer came tells the child to stop.
struct InFlight<'a> {
    shared: &'a Arc<Shared>,
    id: u64,
    /// It may have reached the child; how many lines had come from there by then.
    sent_at: Option<u64>,
}

impl InFlight<'_> {
    fn sent(&mut self) {
        self.sent_at = Some(self.shared.silence.lines());
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let removed = self.shared.lock().running.remove(&self.id);
        let unanswered = removed.is_some_and(|request| request.answer.is_some());
        let Some(lines) = self.sent_at.filter(|_| unanswered) else { return };
        let params = format!("{{\"requestId\":{},\"reason\":\"nobody waits for the answer\"}}", self.id);
        self.shared.try_send(&message::notification("notifications/cancelled", &params));
        if self.shared.silence.lines() == lines {
            self.shared.doubt();
        }
    }
}

fn one_line(message: &Bytes) -> String {
    on_one_line(String::from_utf8_lossy(message).into_owned())
}

/// Writes lines until the pipe is to be closed. A child that does not take them any more is ended.
async fn write(shared: Arc<Shared>, mut stdin: ChildStdin, mut queue: mpsc::Receiver<Line>) {
    let writing = async {
        while let Some(line) = queue.recv().await {
            if stdin.write_all(line.text.as_bytes()).await.is_err() {
                return true;
            }
            // Nothing comes between the last byte and this: who asks after the child's death gets the truth.
            if let Some(written) = line.written {
                let _ = written.send(());
            }
        }
        false
    };
    let broken = tokio::select! {
        () = shared.closing.cancelled() => false,
        broken = writing => broken,
    };
    if broken && timeout(CHILD_LAST_WORDS, shared.watch.ended()).await.is_err() {
        let _ = shared.fault.set("it closed its stdin");
        shared.watch.kill();
    }
}
