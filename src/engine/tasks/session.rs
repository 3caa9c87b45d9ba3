//! Tasks of 2025-11-25, where the client decides which calls are tasks.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::record::{Named, Stored, report, unpack};
use super::view::{self, related};
use super::{Found, Identity, Running, Wanted, lease_ms};
use crate::auth::Principal;
use crate::base::ids::{TaskClaims, TaskKey};
use crate::base::limits::{TASK_CANCEL_WAIT, TASK_LOOK, TASK_PAGE};
use crate::engine::bridge::Parked;
use crate::engine::bridge::questions::Questions;
use crate::engine::outbox::{CallOutbox, Peer};
use crate::engine::session::{Session, store_error};
use crate::engine::{Engine, Inbound};
use crate::mcp::task::{Augmentation, Status, TaskSupport, no_task, task_id};
use crate::rpc::error::{INTERNAL, METHOD_NOT_FOUND, RpcError};
use crate::rpc::message::{Request, quote};
use crate::state::doc::Doc;
use crate::state::result::Reported;
use crate::state::task::{End, Intents, Question, Task};
use crate::store::{Lookup, ResultId};
use crate::tools::registry::Registered;
use crate::tools::{BoxFuture, Call, Outbox as _};

type Outcome = Result<Box<RawValue>, RpcError>;

/// What the names of fields of a session begin with that say which tasks it has.
const LISTED: &str = "task.";

/// Whether a call of a session is to be a task.
///
/// # Errors
/// -32601 where the tool and the client do not agree about that; -32602 for a `params.task` that cannot be read.
pub(in crate::engine) fn wanted_as_task(
    session: &Session,
    tool: &Registered,
    params: Option<&RawValue>,
) -> Result<Option<Augmentation>, RpcError> {
    // Older clients know nothing of tasks: every tool is run for them as if it had never heard of them either.
    if !session.revision.has_tasks() {
        return Ok(None);
    }
    let name = &tool.tool.name;
    match (Augmentation::read(params)?, tool.task_support) {
        (None, TaskSupport::Required) => Err(RpcError::new(
            METHOD_NOT_FOUND,
            format!("the tool {name:?} is run as a task only: call it with \"task\": {{}} in params"),
        )),
        (Some(_), TaskSupport::Forbidden) => Err(RpcError::new(
            METHOD_NOT_FOUND,
            format!("the tool {name:?} is not run as a task: call it without \"task\" in params"),
        )),
        (wanted, _) => Ok(wanted),
    }
}

impl Engine {
    /// Runs a call as a task. `make` makes the call. Resolves with what the request is answered.
    pub(in crate::engine) async fn call_as_task(
        self: &Arc<Self>,
        session: &Arc<Session>,
        tool: &Registered,
        wanted: Augmentation,
        principal: &Arc<Principal>,
        make: impl FnOnce(&Arc<CallOutbox>, &CancellationToken) -> Call,
    ) -> Result<String, RpcError> {
        let cancel = CancellationToken::new();
        let questions = Questions::of_task(session.client(), false, std::collections::HashMap::new());
        let peer = Peer::Task { session: Arc::clone(session), questions: Box::new(questions) };
        let outbox = CallOutbox::new(peer, cancel.clone(), true);
        let call = make(&outbox, &cancel);
        let wanted = Wanted {
            tool: tool.clone(),
            params: call.params.clone(),
            progress_token: call.progress_token.clone(),
            principal: Arc::clone(principal),
            session: Some(Arc::clone(session)),
            capabilities: session.client_capabilities_text(),
            ttl_ms: wanted.ttl_ms,
        };
        // A task that is made is worked on, though its client is gone in the meantime.
        let engine = Arc::clone(self);
        let making = self.tasks.spawn(async move {
            let tool = wanted.tool.clone();
            let running = engine.make_task(wanted).await?;
            outbox.become_task();
            let future = engine.run(&tool, call);
            let shown = view::legacy(&running.identity, &running.task(), &Intents::default());
            engine.work_on(running, Parked { future, outbox, cancel });
            Ok(format!("{{\"task\":{shown}}}"))
        });
        making.await.unwrap_or_else(|_| Err(RpcError::new(INTERNAL, "the call was given up")))
    }

    /// `tasks/get`, `tasks/cancel` and `tasks/list` of a session.
    pub(in crate::engine) async fn session_tasks(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: &Request<'_>,
        inbound: &Inbound<'_>,
    ) -> Result<String, RpcError> {
        if request.method == "tasks/list" {
            return self.list_tasks(session, request.params, inbound.principal).await;
        }
        let found = self.find_task(&task_id(request.params)?, inbound.principal).await?;
        match request.method.as_ref() {
            "tasks/get" => {
                let intents = self.visible_intents(&found).await?;
                Ok(view::legacy(&found.identity, &found.task, &intents))
            }
            _ => {
                let ended = self.cancel_now(&found).await?;
                Ok(view::legacy(&found.identity, &ended, &Intents::default()))
            }
        }
    }

    /// Cancels a task, and returns when it is cancelled for good.
    async fn cancel_now(self: &Arc<Self>, found: &Found) -> Result<Arc<Task>, RpcError> {
        let over = |task: &Task| {
            let status = task.status().name();
            RpcError::invalid_params(format!(
                "params.taskId: the task is {status} already: it cannot be cancelled"
            ))
        };
        if found.task.end.is_some() {
            return Err(over(&found.task));
        }
        let ended = match &found.running {
            Some(running) => {
                self.cancel_task(found).await?;
                let mut task = running.task.subscribe();
                let ended = task.wait_for(|task| task.end.is_some());
                let ended = tokio::time::timeout(TASK_CANCEL_WAIT, ended).await;
                ended.ok().and_then(Result::ok).map(|task| Arc::clone(&task))
            }
            None if self.is_dead(found.task.owner).await => self.cancel_unowned(found).await?,
            // Another instance works on it.
            None => {
                self.cancel_task(found).await?;
                let ended = tokio::time::timeout(TASK_CANCEL_WAIT, self.stored_end(&found.identity)).await;
                ended.ok().transpose()?
            }
        };
        match ended {
            Some(task) if task.status() == Status::Cancelled => Ok(task),
            Some(task) => Err(over(&task)),
            None => Err(RpcError::new(
                INTERNAL,
                "the task is to be cancelled and its worker has not said so yet: look again",
            )),
        }
    }

    /// Ends a task that nobody works on: its process is dead, and its turn to be taken care of has not come yet.
    async fn cancel_unowned(&self, found: &Found) -> Result<Option<Arc<Task>>, RpcError> {
        let (own, now_ms) = (self.store.origin().bits(), self.clock.now_ms());
        let ended = found.task.claim(own, now_ms, lease_ms(), true).and_then(|claimed| {
            claimed.ended(End::Cancelled, Some("cancelled by its client".into()), now_ms)
        });
        let Some(ended) = ended else { return Ok(None) };
        let state = found.identity.state();
        match self.keep_part(&found.identity, state, report(&found.identity, &ended)).await? {
            Reported::Ok => Ok(Some(Arc::new(ended))),
            _ => Ok(self.stored_task(&found.identity).await?.filter(|task| task.end.is_some()).map(Arc::new)),
        }
    }

    /// Waits until the store has the end of a task.
    async fn stored_end(&self, identity: &Identity) -> Result<Arc<Task>, RpcError> {
        loop {
            match self.stored_task(identity).await? {
                Some(task) if task.end.is_some() => return Ok(Arc::new(task)),
                _ => tokio::time::sleep(TASK_LOOK).await,
            }
        }
    }

    /// Notes in the session which tasks it has: what the store of one instance has cannot be listed on another.
    pub(super) async fn list_for_sisters(&self, session: &Session, identity: &Identity) {
        if !self.store.is_shared() {
            return;
        }
        let noted = async {
            let mut fields =
                vec![(listed_as(identity.key), Some(Bytes::copy_from_slice(identity.id.as_bytes())))];
            if let Lookup::Live(doc) = self.store.load(session.claims.key).await? {
                let over = listed(&doc).filter(|(key, id)| {
                    let claims = TaskClaims::verify(id, self.store.keys());
                    *key != identity.key
                        && claims.is_none_or(|claims| self.clock.now_ms() >= claims.deadline_ms)
                });
                fields.extend(over.map(|(key, _)| (listed_as(key), None)));
            }
            self.store.update(session.claims.key, fields).await.map(drop)
        };
        if let Err(error) = noted.await {
            tracing::warn!(session = %session.claims.key, task = %identity.key, %error, "a task is listed on this instance alone");
        }
    }

    /// The tasks that this session made, oldest first.
    async fn list_tasks(
        self: &Arc<Self>,
        session: &Session,
        params: Option<&RawValue>,
        principal: &Principal,
    ) -> Result<String, RpcError> {
        let after = cursor(params)?;
        let stored = self.store.results_under(session.claims.key, super::record::PREFIX).await;
        let stored = stored.map_err(|error| store_error(&error))?;
        let named = stored.into_iter().filter_map(|info| Named::read(&info.name).filter(|named| named.whole));
        // With its id, where that is known: then it is looked for wherever it is.
        let mut tasks: BTreeMap<TaskKey, (Named, Option<String>)> =
            named.map(|named| (named.key, (named, None))).collect();
        if self.store.is_shared()
            && let Lookup::Live(doc) =
                self.store.load(session.claims.key).await.map_err(|error| store_error(&error))?
        {
            let principal = session.claims.principal;
            for (key, id) in listed(&doc) {
                tasks.insert(key, (Named { principal, key, whole: true }, Some(id)));
            }
        }
        tasks.retain(|key, _| after.is_none_or(|after| *key > after));
        let more = tasks.len() > TASK_PAGE;
        let mut shown = Vec::new();
        let mut last = None;
        for (key, (named, id)) in tasks.into_iter().take(TASK_PAGE) {
            last = Some(key);
            if let Some(id) = id {
                // One that is over is not listed.
                if let Ok(found) = self.known_task(&id, principal).await {
                    if found.running.is_none() && self.may_be_left(&found.task) {
                        let (engine, identity) = (Arc::clone(self), found.identity.clone());
                        tokio::spawn(async move { engine.see_after(&identity).await });
                    }
                    shown.push(view::legacy(&found.identity, &found.task, &Intents::default()));
                }
                continue;
            }
            let part = ResultId { session: session.claims.key, name: named.name() };
            let Some(stored) = self.store.result(&part).await.map_err(|error| store_error(&error))? else {
                continue;
            };
            let stored: Stored = unpack(&stored).map_err(|error| store_error(&error))?;
            let identity = Identity::stored(&stored, session.claims.key, &named);
            shown.push(view::legacy(&identity, &stored.task, &Intents::default()));
        }
        let next = last.filter(|_| more);
        let next = next.map(|key| format!(",\"nextCursor\":{}", quote(&key.to_string()))).unwrap_or_default();
        Ok(format!("{{\"tasks\":[{}]{next}}}", shown.join(",")))
    }

    /// What the call of a task answers, when it does: `tasks/result`. Meanwhile the task's questions are put to the
    /// client here.
    pub(in crate::engine) fn result_of_task(
        self: &Arc<Self>,
        found: Found,
        out: Arc<CallOutbox>,
    ) -> BoxFuture<'static, Outcome> {
        let engine = Arc::clone(self);
        Box::pin(async move {
            if let Some(end) = &found.task.end {
                return view::outcome(&found.identity, end);
            }
            let mut here = found.running.clone();
            loop {
                let over = match &here {
                    Some(running) => engine.follow(&found, running, &out).await,
                    None => engine.look_until_over(&found, &out).await,
                };
                if let Some(outcome) = over {
                    return outcome;
                }
                here = engine.mcp_tasks.running.with(&found.identity.key, Arc::clone);
            }
        })
    }

    /// Waits for the end of a task that is worked on here. `None`: it is not any more.
    async fn follow(
        self: &Arc<Self>,
        found: &Found,
        running: &Arc<Running>,
        out: &Arc<CallOutbox>,
    ) -> Option<Outcome> {
        let mut task = running.task.subscribe();
        let mut carrier = running.carrier.subscribe();
        // Who comes last carries the questions: the others' clients may be gone for long.
        let mut own = 0;
        running.carrier.send_modify(|newest| {
            *newest += 1;
            own = *newest;
        });
        let mut asked: Vec<String> = Vec::new();
        let mut asks = FuturesUnordered::new();
        loop {
            let now = Arc::clone(&task.borrow_and_update());
            if let Some(end) = &now.end {
                return Some(view::outcome(&found.identity, end));
            }
            if *carrier.borrow_and_update() != own {
                asks.clear();
            } else if out.can_ask() {
                for question in now.open.iter().filter(|question| !asked.contains(&question.key)) {
                    asks.push(put(found, out, question));
                }
                asked = now.open.iter().map(|question| question.key.clone()).collect();
            }
            tokio::select! {
                biased;
                changed = task.changed() => if changed.is_err() { return None },
                _ = carrier.changed() => {}
                Some((answer, question)) = asks.next(), if !asks.is_empty() => {
                    let answer = answer.as_ref().map(|result| &**result);
                    if let Err(error) = self.answer_task(found, &question, answer).await {
                        return Some(Err(error));
                    }
                }
            }
            if self.mcp_tasks.running.with(&found.identity.key, |_| ()).is_none()
                && task.borrow().end.is_none()
            {
                return None;
            }
        }
    }

    /// Waits for the end of a task that nobody works on here; its questions are put to the client all the same. `None`: it
    /// is worked on here now.
    async fn look_until_over(self: &Arc<Self>, found: &Found, out: &Arc<CallOutbox>) -> Option<Outcome> {
        let identity = &found.identity;
        let elsewhere = Found { identity: identity.clone(), task: Arc::clone(&found.task), running: None };
        let mut asked: Vec<String> = Vec::new();
        let mut asks = FuturesUnordered::new();
        loop {
            if self.clock.now_ms() >= identity.deadline_ms {
                return Some(Err(no_task()));
            }
            if self.mcp_tasks.running.with(&identity.key, |_| ()).is_some() {
                return None;
            }
            let task = match self.stored_task(identity).await {
                Ok(task) => task,
                Err(error) => return Some(Err(error)),
            };
            if let Some(end) = task.as_ref().and_then(|task| task.end.as_ref()) {
                return Some(view::outcome(identity, end));
            }
            if let Some(task) = &task {
                if self.may_be_left(task) {
                    self.see_after(identity).await;
                    if self.mcp_tasks.running.with(&identity.key, |_| ()).is_some() {
                        return None;
                    }
                }
                if out.can_ask() && !task.open.is_empty() {
                    let intents = match self.intents(identity, &task.open).await {
                        Ok(intents) => intents,
                        Err(error) => return Some(Err(store_error(&error))),
                    };
                    for question in task.seen(&intents).open {
                        if !asked.contains(&question.key) {
                            asked.push(question.key.clone());
                            asks.push(put(found, out, question));
                        }
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(TASK_LOOK) => {}
                Some((answer, question)) = asks.next(), if !asks.is_empty() => {
                    let answer = answer.as_ref().map(|result| &**result);
                    if let Err(error) = self.answer_task(&elsewhere, &question, answer).await {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

/// Puts a question of a task to the client; the answer, and which question it was.
fn put(
    found: &Found,
    out: &Arc<CallOutbox>,
    question: &Question,
) -> impl Future<Output = (Outcome, String)> + Send + use<> {
    let (out, question) = (Arc::clone(out), question.clone());
    let params = related(&question.params, &found.identity.id);
    async move { (out.ask(&question.method, params).await, question.key) }
}

/// The field of a session that says that it has a task.
fn listed_as(key: TaskKey) -> String {
    format!("{LISTED}{key}")
}

/// The tasks that a session has, by key, with their ids.
fn listed(doc: &Doc) -> impl Iterator<Item = (TaskKey, String)> {
    doc.fields().filter_map(|(name, value)| {
        let key = TaskKey::parse(name.strip_prefix(LISTED)?)?;
        Some((key, String::from_utf8(value.to_vec()).ok()?))
    })
}

fn cursor(params: Option<&RawValue>) -> Result<Option<TaskKey>, RpcError> {
    #[derive(Deserialize)]
    struct Params {
        cursor: Option<String>,
    }
    let Some(params) = params else { return Ok(None) };
    let params: Params = serde_json::from_str(params.get())
        .map_err(|_| RpcError::invalid_params("params.cursor: want a string"))?;
    let Some(cursor) = params.cursor else { return Ok(None) };
    let key = TaskKey::parse(&cursor).ok_or_else(|| {
        RpcError::invalid_params("params.cursor: not one of this list; begin again without a cursor")
    })?;
    Ok(Some(key))
}
