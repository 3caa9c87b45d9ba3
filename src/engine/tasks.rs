//! Tasks of both shapes over one store: made, found, cancelled and answered here; worked on in [`worker`].
//!
//! The worker of a task is the only one who writes its state, under a lease. Everybody else, in this process or another,
//! leaves intents in the store (`record`) and wakes the worker if it is here. So what a client sees comes from the
//! worker's last report and from the intents that it has not taken up yet.

mod extension;
mod find;
mod kept;
mod record;
mod recover;
mod session;
mod sisters;
mod view;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::kept::{Kept, Owner};
use self::record::{Answered, Facts, Stored, once, report, unpack};
use self::sisters::Sisters;
use super::Engine;
use super::listen::Listener;
use super::session::{Session, store_error};
use crate::auth::Principal;
use crate::base::clock::millis;
use crate::base::ids::{SessionKey, TaskClaims, TaskKey};
use crate::base::limits::{TASK_LEASE, TASK_MESSAGE_BYTES, TASK_MIN_TTL, TASKS_RUNNING};
use crate::base::table::Table;
use crate::config;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::state::log::{Kind, StreamName};
use crate::state::result::{Outcome, Reported};
use crate::state::task::{End, Intents, Question, Task};
use crate::store::{Lookup, ResultId, StoreError};
use crate::tools::registry::Registered;

pub(super) use self::extension::Offer;
pub(super) use self::record::Identity;
pub(super) use self::session::wanted_as_task;
pub(super) use self::view::detailed;

/// The tasks of this instance.
pub(super) struct Tasks {
    /// Those that are worked on here.
    running: Table<TaskKey, Arc<Running>>,
    kept: Kept,
    sisters: Sisters,
    /// Of what happens to tasks elsewhere one thing is told at a time: what is told last is the newest.
    telling: tokio::sync::Mutex<()>,
    /// Streams that are told of a task.
    heard: Table<TaskKey, Vec<Arc<Listener>>>,
    /// Workers of tasks that are run again after a restart: a shutdown does not wait for those.
    repeatable: TaskTracker,
    ttl_ms: u64,
    max_ttl_ms: u64,
}

impl Tasks {
    pub(super) fn new(config: &config::Tools) -> Self {
        let max_ttl_ms = config.task_max_ttl_seconds.saturating_mul(1_000);
        Self {
            running: Table::default(),
            kept: Kept::default(),
            sisters: Sisters::default(),
            telling: tokio::sync::Mutex::default(),
            heard: Table::default(),
            repeatable: TaskTracker::new(),
            ttl_ms: config.task_ttl_seconds.saturating_mul(1_000).min(max_ttl_ms),
            max_ttl_ms,
        }
    }

    /// How many are worked on here.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Waits for the workers that a shutdown only has to tell.
    pub(super) async fn stopped(&self) {
        self.repeatable.close();
        self.repeatable.wait().await;
    }

    /// A session has ended, and its tasks with it.
    pub(super) fn session_ended(&self, session: SessionKey) {
        self.running.for_each(|_, running| {
            if running.identity.session == session {
                running.stop.cancel();
            }
        });
        self.kept.forget(&Owner::Session(session));
    }
}

/// A task that is worked on here.
pub(super) struct Running {
    pub(super) identity: Identity,
    /// The session that made it.
    session: Option<Arc<Session>>,
    /// It is run again after a restart.
    repeatable: bool,
    /// What was reported last, as the disk has it.
    task: watch::Sender<Arc<Task>>,
    /// There are intents to be read.
    intents: Notify,
    /// The newest of those who carry its questions to the client.
    carrier: watch::Sender<u64>,
    /// It is to end without a report: nobody can see it any more.
    stop: CancellationToken,
}

impl Running {
    fn new(identity: Identity, session: Option<Arc<Session>>, repeatable: bool, task: Task) -> Arc<Self> {
        if let Some(session) = &session {
            session.task_begun();
        }
        Arc::new(Self {
            identity,
            session,
            repeatable,
            task: watch::Sender::new(Arc::new(task)),
            intents: Notify::new(),
            carrier: watch::Sender::new(0),
            stop: CancellationToken::new(),
        })
    }

    fn task(&self) -> Arc<Task> {
        Arc::clone(&self.task.borrow())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            session.task_over();
        }
    }
}

/// Who wants a task made, of what.
pub(super) struct Wanted {
    pub(super) tool: Registered,
    pub(super) params: Box<RawValue>,
    pub(super) progress_token: Option<Box<RawValue>>,
    pub(super) principal: Arc<Principal>,
    pub(super) session: Option<Arc<Session>>,
    /// What the client declared, JSON text.
    pub(super) capabilities: String,
    /// For how long it is to be kept, milliseconds.
    pub(super) ttl_ms: Option<u64>,
}

/// A task, found by its id.
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) task: Arc<Task>,
    running: Option<Arc<Running>>,
}

impl Engine {
    /// Makes a task. It is on the disk when this resolves, and somebody must work on it.
    ///
    /// # Errors
    /// When there are too many, the disk is full or fails, or the server stops: then there is none.
    pub(super) async fn make_task(&self, wanted: Wanted) -> Result<Arc<Running>, RpcError> {
        if self.stopping.is_cancelled() {
            return Err(refused("the server is stopping"));
        }
        if let Some(crowded) = self.store.crowded() {
            return Err(store_error(&crowded));
        }
        if self.mcp_tasks.running() >= TASKS_RUNNING {
            return Err(refused(&format!("{TASKS_RUNNING} tasks run already")));
        }
        let now_ms = self.clock.now_ms();
        let claims = TaskClaims {
            deadline_ms: now_ms.saturating_add(self.task_ttl_ms(&wanted, now_ms)),
            origin: self.store.origin(),
            session: wanted.session.as_ref().map_or(SessionKey::BROADCAST, |session| session.claims.key),
            key: TaskKey::new(now_ms),
            principal: wanted.principal.hash,
        };
        let id: Arc<str> = claims.sign(self.store.keys()).into();
        let identity = Identity::new(id, &claims);
        let admitted = self.mcp_tasks.kept.admit(&claims, now_ms).map_err(|full| refused(&full))?;
        let facts = Facts {
            tool: wanted.tool.tool.name.clone(),
            params: wanted.params.get().to_owned(),
            principal: wanted.principal.name.to_string(),
            session: wanted.session.as_ref().map(|session| session.token.to_string()),
            capabilities: wanted.capabilities,
            progress_token: wanted.progress_token.map(|token| token.get().to_owned()),
        };
        let task = Task::begin(self.store.origin().bits(), now_ms, lease_ms());
        // The request first: a task that is found has one.
        self.keep_part(&identity, identity.request(), once(&facts)).await?;
        self.keep_part(&identity, identity.state(), report(&identity, &task)).await?;
        admitted.keep();
        if let Some(session) = &wanted.session {
            self.list_for_sisters(session, &identity).await;
        }
        let running = Running::new(identity, wanted.session, wanted.tool.repeatable, task);
        self.mcp_tasks.running.insert(claims.key, Arc::clone(&running));
        Ok(running)
    }

    /// What the client asks for within bounds; in a session no longer than the session stays though nobody uses it.
    fn task_ttl_ms(&self, wanted: &Wanted, now_ms: u64) -> u64 {
        let asked = wanted.ttl_ms.unwrap_or(self.mcp_tasks.ttl_ms).min(self.mcp_tasks.max_ttl_ms);
        let asked = asked.max(millis(TASK_MIN_TTL));
        match &wanted.session {
            None => asked,
            // Uses are written down only now and then, so a session may go a little before its time.
            Some(session) => asked
                .min(self.idle_ttl_ms.saturating_sub(self.idle_ttl_ms / 10))
                .min(session.claims.deadline_ms.saturating_sub(now_ms))
                .max(1_000),
        }
    }

    async fn keep_part(
        &self,
        identity: &Identity,
        part: ResultId,
        outcome: Result<Outcome, StoreError>,
    ) -> Result<Reported, RpcError> {
        let kept = self.put_part(identity, part, outcome).await;
        kept.map_err(|error| store_error(&error))
    }

    async fn put_part(
        &self,
        identity: &Identity,
        part: ResultId,
        outcome: Result<Outcome, StoreError>,
    ) -> Result<Reported, StoreError> {
        let left_ms = identity.deadline_ms.saturating_sub(self.clock.now_ms());
        if left_ms == 0 {
            return Err(StoreError::Gone);
        }
        self.store.put_result(part, outcome?, Duration::from_millis(left_ms)).await
    }

    async fn stored_task(&self, identity: &Identity) -> Result<Option<Task>, RpcError> {
        let stored = self.store.result(&identity.state()).await.map_err(|error| store_error(&error))?;
        let task = |stored: Outcome| unpack::<Stored>(&stored).map(|stored| stored.task);
        stored.map(task).transpose().map_err(|error| store_error(&error))
    }

    async fn session_is_ended(&self, session: SessionKey) -> Result<bool, RpcError> {
        if session == SessionKey::BROADCAST {
            return Ok(false);
        }
        let found = self.store.load(session).await.map_err(|error| store_error(&error))?;
        Ok(matches!(found, Lookup::Terminated))
    }

    /// What others want of a task that its worker may not have taken up. `open`: the questions that wait.
    async fn intents(&self, identity: &Identity, open: &[Question]) -> Result<Intents, StoreError> {
        let mut intents = Intents::default();
        // What is written elsewhere is found by its name alone.
        if self.store.is_shared() {
            intents.cancel = self.store.result(&identity.cancel()).await?.is_some();
            for question in open {
                if let Some(stored) = self.store.result(&identity.answer(&question.key)).await? {
                    let Answered { question, answer } = unpack(&stored)?;
                    intents.answers.insert(question, answer);
                }
            }
        }
        let cancel = identity.cancel().name;
        for info in self.store.results_under(identity.session, &identity.parts()).await? {
            if info.name == cancel {
                intents.cancel = true;
            } else if info.name.contains("/answer/") {
                let part = ResultId { session: identity.session, name: info.name };
                if let Some(stored) = self.store.result(&part).await? {
                    let Answered { question, answer } = unpack(&stored)?;
                    intents.answers.insert(question, answer);
                }
            }
        }
        Ok(intents)
    }

    /// Whether the process start with these bits works on nothing any more, as far as it is known.
    pub(super) async fn is_dead(&self, owner: u64) -> bool {
        if owner == self.store.origin().bits() {
            return false;
        }
        match self.store.running_starts().await {
            Some(running) => running.iter().all(|origin| origin.bits() != owner),
            // A store of its own has one process at a time; of a shared one that is away nothing is known.
            None => !self.store.is_shared(),
        }
    }

    /// The intents that count for how a task looks: those of one that waits for answers.
    async fn visible_intents(&self, found: &Found) -> Result<Intents, RpcError> {
        if found.task.open.is_empty() {
            return Ok(Intents::default());
        }
        self.intents(&found.identity, &found.task.open).await.map_err(|error| store_error(&error))
    }

    /// Leaves an intent and wakes the worker if it is here; both or neither, though the client that wants it is gone.
    async fn leave_intent(
        self: &Arc<Self>,
        found: &Found,
        part: ResultId,
        outcome: Result<Outcome, StoreError>,
    ) -> Result<(), RpcError> {
        let (engine, identity, running) = (Arc::clone(self), found.identity.clone(), found.running.clone());
        let leaving = self.tasks.spawn(async move {
            engine.keep_part(&identity, part, outcome).await?;
            if let Some(running) = running {
                running.intents.notify_one();
            }
            Ok(())
        });
        leaving.await.unwrap_or_else(|_| Err(RpcError::new(INTERNAL, "the request was given up")))
    }

    /// Wants a task cancelled that has not ended.
    async fn cancel_task(self: &Arc<Self>, found: &Found) -> Result<(), RpcError> {
        self.leave_intent(found, found.identity.cancel(), once(&true)).await
    }

    /// Answers a question of a task; the first answer counts.
    async fn answer_task(
        self: &Arc<Self>,
        found: &Found,
        question: &str,
        answer: Result<&RawValue, &RpcError>,
    ) -> Result<(), RpcError> {
        let answer = match answer {
            Ok(result) => Ok(result.get().to_owned()),
            Err(error) => Err(error_text(error)),
        };
        let answered = Answered { question: question.to_owned(), answer };
        self.leave_intent(found, found.identity.answer(question), once(&answered)).await
    }

    /// Writes what becomes of a task. False when somebody else has it, or it has ended.
    async fn report_task(self: &Arc<Self>, running: &Running, next: Task) -> Result<bool, StoreError> {
        let identity = &running.identity;
        let reported = self.put_part(identity, identity.state(), report(identity, &next)).await?;
        if reported != Reported::Ok {
            tracing::warn!(task = %identity.key, ?reported, "a task is in other hands, or has ended");
            return Ok(false);
        }
        self.note_report(running, next).await;
        Ok(true)
    }

    /// Takes in a report that stands, and tells clients of it.
    async fn note_report(self: &Arc<Self>, running: &Running, next: Task) {
        let before = running.task.send_replace(Arc::new(next));
        let task = running.task();
        if before.status() != task.status() || before.open != task.open {
            self.tell_task(running, &task).await;
        }
    }

    /// Tells clients where a task stands: its session, and streams that asked for it.
    async fn tell_task(self: &Arc<Self>, running: &Running, task: &Arc<Task>) {
        let identity = &running.identity;
        let listeners = self.mcp_tasks.heard.with(&identity.key, Clone::clone).unwrap_or_default();
        for listener in listeners {
            listener.task_changed(identity, task);
        }
        if let Some(session) = &running.session {
            let params = view::legacy(identity, task, &Intents::default());
            let message = crate::rpc::message::notification("notifications/tasks/status", &params);
            self.tell_news(session, vec![message]).await;
        }
    }

    /// What belongs to no request goes on the session's own stream. It is news, not the task: if it cannot be stored,
    /// it is dropped.
    async fn tell_news(self: &Arc<Self>, session: &Arc<Session>, messages: Vec<Bytes>) {
        let items = messages.into_iter().map(|message| (Kind::Message, message)).collect();
        if let Err(error) = session.append(self, StreamName::GET, items).await {
            tracing::debug!(session = %session.claims.key, %error, "news of a task could not be stored");
        }
    }

    /// A stream is told of a task from now on.
    pub(super) fn hear_task(&self, key: TaskKey, listener: &Arc<Listener>) {
        self.mcp_tasks.heard.with_or_insert(key, Vec::new, |heard| heard.push(Arc::clone(listener)));
    }

    /// A stream that has ended is told of a task no more.
    pub(super) fn unhear_task(&self, key: TaskKey, listener: &Arc<Listener>) {
        let others = |heard: &mut Vec<Arc<Listener>>| heard.retain(|known| !Arc::ptr_eq(known, listener));
        self.mcp_tasks.heard.with_or_insert(key, Vec::new, others);
        self.mcp_tasks.heard.remove_if(&key, Vec::is_empty);
    }
}

fn lease_ms() -> u64 {
    millis(TASK_LEASE)
}

fn refused(why: &str) -> RpcError {
    RpcError::new(INTERNAL, format!("no task can be made: {why}; try again later"))
        .with_data(&serde_json::json!({ "retryable": true }))
}

fn failed(error: &RpcError) -> End {
    End::Failed(error_text(error))
}

fn error_text(error: &RpcError) -> String {
    serde_json::to_string(error)
        .unwrap_or_else(|_| format!("{{\"code\":{INTERNAL},\"message\":\"the call failed\"}}"))
}

/// A `statusMessage` of a text of any length.
fn sentence(text: &str) -> String {
    let mut end = text.len().min(TASK_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
