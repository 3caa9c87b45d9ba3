//! Tasks that a process left behind when it died: run again where that does no harm, else ended so that it shows.
//!
//! Where instances share a store, any of them may find such a task: one at a time takes care of it ([`Turn`]), only while
//! the shared store can be asked, and only when the lease of its last worker is over and that worker's instance is gone.
//! Whoever takes it has a higher fence, so what the last worker should still report is refused.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::record::{Facts, Identity, Named, PREFIX, Stored, report, unpack};
use super::worker::read_answer;
use super::{Running, failed, lease_ms, sentence};
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::TASK_TURN;
use crate::engine::Engine;
use crate::engine::bridge::Parked;
use crate::engine::bridge::questions::Questions;
use crate::engine::orphan::interrupted;
use crate::engine::outbox::{Alone, CallOutbox, Peer};
use crate::engine::session::Session;
use crate::mcp::capability::ClientCapabilities;
use crate::state::result::{Reported, TERMINAL};
use crate::state::task::{Answer, End, Recovery, Task};
use crate::store::{ResultId, StoreError, Turn};
use crate::tools::Call;
use crate::tools::answer::raw;
use crate::tools::registry::Registered;

/// Between two attempts where the disk fails.
const RETRY: Duration = Duration::from_secs(5);

impl Engine {
    /// Counts the tasks that the store has, and takes care of those whose process is dead. For a process that
    /// serves; once.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn resume_tasks(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut orphans = Vec::new();
        for (session, info) in self.store.all_results_under(PREFIX).await? {
            let Some(named) = Named::read(&info.name).filter(|named| named.whole) else { continue };
            self.mcp_tasks.kept.note(info.expires_ms, named.key, named.principal, session);
            if info.rank < TERMINAL {
                orphans.push((session, named, info.name));
            }
        }
        if !orphans.is_empty() {
            tracing::info!(tasks = orphans.len(), "tasks were interrupted by the end of the last process");
            let engine = Arc::clone(self);
            tokio::spawn(async move { engine.recover_all(orphans).await });
        }
        Ok(())
    }

    async fn recover_all(self: &Arc<Self>, mut orphans: Vec<(SessionKey, Named, String)>) {
        while !orphans.is_empty() {
            let mut left = Vec::new();
            for (session, named, name) in orphans {
                if self.stopping.is_cancelled() {
                    return;
                }
                match self.recover(session, named, &name).await {
                    Ok(true) => {}
                    // Somebody who may live has it: it is looked at again.
                    Ok(false) => left.push((session, named, name)),
                    // A record that does not open is left alone; nothing else is given up.
                    Err(error @ StoreError::Sealed(_)) => {
                        tracing::error!(task = %named.key, %error, "a task cannot be read")
                    }
                    Err(error) => {
                        tracing::warn!(task = %named.key, %error, "an interrupted task cannot be taken care of yet");
                        left.push((session, named, name));
                    }
                }
            }
            orphans = left;
            if !orphans.is_empty() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Takes care of one. False when it cannot be told yet whether it needs that.
    pub(super) async fn recover(
        self: &Arc<Self>,
        session: SessionKey,
        named: Named,
        name: &str,
    ) -> Result<bool, StoreError> {
        if !self.store.is_shared() {
            return self.take_care(session, named, name, None).await;
        }
        if self.mcp_tasks.running.with(&named.key, |_| ()).is_some() {
            return Ok(true);
        }
        // What does not need anybody is not worth a turn.
        let known = self.store.find_result(&ResultId { session, name: name.to_owned() }).await?;
        let Some(outcome) = known.outcome else { return Ok(known.sure) };
        let task = unpack::<Stored>(&outcome)?.task;
        if task.end.is_some() {
            return Ok(true);
        }
        if !self.is_left(&task).await {
            return Ok(false);
        }
        let Some(turn) = self.store.turn(format!("~task/{}", named.key), TASK_TURN).await else {
            return Ok(false);
        };
        let done = self.take_care(session, named, name, Some(&turn)).await;
        self.store.end_turn(turn).await;
        done
    }

    /// Whether nobody works on a task, for certain. Of one of all instances that takes two things: that its worker's lease
    /// is over, and that its worker's instance is gone; of an earlier start on this disk that is certain at once.
    async fn is_left(&self, task: &Task) -> bool {
        if !self.store.is_shared() {
            return self.is_dead(task.owner).await;
        }
        if self.store.is_over(Origin::from_bits(task.owner)) {
            return true;
        }
        let is_over = self.clock.now_ms() >= task.lease_ms;
        // One of its own that it does not work on was to be taken over, and the answer to that was lost.
        is_over && (task.owner == self.store.origin().bits() || self.is_dead(task.owner).await)
    }

    /// `turn`: of a task of all instances, which nobody else takes care of meanwhile.
    async fn take_care(
        self: &Arc<Self>,
        session: SessionKey,
        named: Named,
        name: &str,
        turn: Option<&Turn>,
    ) -> Result<bool, StoreError> {
        let state = ResultId { session, name: name.to_owned() };
        // Once more: somebody else may have had the turn before.
        let known = self.store.find_result(&state).await?;
        let Some(stored) = known.outcome else { return Ok(known.sure) };
        let stored: Stored = unpack(&stored)?;
        let task = &stored.task;
        if task.end.is_some() {
            return Ok(true);
        }
        if turn.is_none() && task.owner == self.store.origin().bits() {
            return Ok(true);
        }
        let request = ResultId { session, name: format!("{name}/request") };
        let request = self.store.find_result(&request).await?;
        let Some(asked) = request.outcome else {
            if turn.is_some() {
                return Ok(false);
            }
            // Its making was interrupted: nobody has its id.
            self.store.forget_results(session, vec![state.name]).await?;
            return Ok(true);
        };
        let facts: Facts = unpack(&asked)?;
        let identity = Identity::stored(&stored, session, &named);
        let owner = match &facts.session {
            None => None,
            // Without its session it is gone, too.
            Some(token) => match self.any_session(token).await {
                Ok(session) => Some(session),
                Err(refusal) if refusal.status != 404 => return Ok(false),
                Err(refusal) => {
                    tracing::debug!(task = %named.key, error = %refusal.error, "a task whose session is gone");
                    return Ok(true);
                }
            },
        };
        let tool = self.find_tool(&facts.tool).await.filter(|tool| tool.repeatable);
        let recovery = task.recover(self.intents(&identity, &task.open).await?, tool.is_some());
        let left = self.is_left(task).await;
        if turn.is_some() && !left {
            return Ok(false);
        }
        let claimed = task.claim(self.store.origin().bits(), self.clock.now_ms(), lease_ms(), left);
        let Some(mut claimed) = claimed else { return Ok(task.end.is_some()) };
        claimed.fence = claimed.fence.max(turn.map_or(0, |turn| turn.fence));
        let (end, why) = match recovery {
            Recovery::Ended => return Ok(true),
            Recovery::Run(answers) => {
                return match tool {
                    Some(tool) => self.run_again(identity, &facts, owner, &tool, claimed, answers).await,
                    None => Ok(true),
                };
            }
            Recovery::Cancel => (End::Cancelled, "cancelled by its client".to_owned()),
            Recovery::Fail => {
                let error = interrupted("the server was restarted");
                (failed(&error), sentence(&error.message))
            }
        };
        let Some(ended) = claimed.ended(end, Some(why), self.clock.now_ms()) else { return Ok(true) };
        if turn.is_some() {
            tracing::info!(task = %identity.key, tool = facts.tool, "a task whose instance is gone is ended here");
        }
        let running = Running::new(identity, owner, false, claimed);
        let Some(_) = self.claim_task(&running, ended).await? else { return Ok(false) };
        self.forget_parts(&running.identity).await;
        Ok(true)
    }

    /// Reports under a new fence. False when somebody else has the task, or it has ended; `None` when that cannot be said
    /// now, and then the report counts for nothing here.
    async fn claim_task(self: &Arc<Self>, running: &Running, next: Task) -> Result<Option<bool>, StoreError> {
        if !self.store.is_shared() {
            return self.report_task(running, next).await.map(Some);
        }
        let identity = &running.identity;
        let outcome = report(identity, &next)?;
        let left_ms = identity.deadline_ms.saturating_sub(self.clock.now_ms());
        if left_ms == 0 {
            return Err(StoreError::Gone);
        }
        let left = Duration::from_millis(left_ms);
        let Some(reported) = self.store.put_result_among_all(identity.state(), outcome, left).await? else {
            return Ok(None);
        };
        if reported != Reported::Ok {
            return Ok(Some(false));
        }
        self.note_report(running, next).await;
        Ok(Some(true))
    }

    async fn run_again(
        self: &Arc<Self>,
        identity: Identity,
        facts: &Facts,
        session: Option<Arc<Session>>,
        tool: &Registered,
        claimed: Task,
        answers: BTreeMap<String, Answer>,
    ) -> Result<bool, StoreError> {
        tracing::info!(task = %identity.key, tool = facts.tool, "an interrupted task is run again");
        let taken = answers.into_iter().map(|(key, answer)| (key, read_answer(answer))).collect();
        let (outbox, cancel) = outbox_of(facts, session.as_ref(), taken);
        let call = self.call_of(facts, session.as_ref(), &outbox, &cancel);
        let running = Running::new(identity, session, true, claimed.clone());
        match self.claim_task(&running, claimed).await? {
            Some(true) => {}
            Some(false) => return Ok(true),
            None => return Ok(false),
        }
        let Identity { deadline_ms, key, session, .. } = running.identity;
        self.mcp_tasks.kept.note(deadline_ms, key, running.identity.named().principal, session);
        self.mcp_tasks.running.insert(running.identity.key, Arc::clone(&running));
        outbox.become_task();
        let future = self.run(tool, call);
        self.work_on(running, Parked { future, outbox, cancel });
        Ok(true)
    }

    /// The call that a task is, as it was asked for.
    fn call_of(
        &self,
        facts: &Facts,
        session: Option<&Arc<Session>>,
        outbox: &Arc<CallOutbox>,
        cancel: &CancellationToken,
    ) -> Call {
        Call {
            params: raw(facts.params.clone()),
            // Under 2026-07-28 progress belongs to the request, which was answered.
            progress_token: facts.progress_token.clone().filter(|_| session.is_some()).map(raw),
            session: session.map(|session| Arc::clone(session) as _),
            out: Arc::clone(outbox) as _,
            cancel: cancel.clone(),
            principal: facts.principal.as_str().into(),
            handles: Arc::clone(&self.handles) as _,
            correlation: "resumed".into(),
            resumed_after: None,
            anew: false,
        }
    }

    /// Forgets what is only needed while a task runs. It would go with the task's time anyhow.
    pub(super) async fn forget_parts(&self, identity: &Identity) {
        let forget = async {
            let parts = self.store.results_under(identity.session, &identity.parts()).await?;
            let names = parts.into_iter().map(|info| info.name).collect();
            self.store.forget_results(identity.session, names).await
        };
        if let Err(error) = forget.await {
            tracing::debug!(task = %identity.key, %error, "parts of a task that has ended stay until its time is over");
        }
    }
}

fn outbox_of(
    facts: &Facts,
    session: Option<&Arc<Session>>,
    taken: HashMap<String, Result<Box<RawValue>, crate::rpc::error::RpcError>>,
) -> (Arc<CallOutbox>, CancellationToken) {
    let cancel = CancellationToken::new();
    let outbox = match session {
        Some(session) => {
            let client = ClientCapabilities::read(&facts.capabilities);
            let questions = Box::new(Questions::of_task(client, false, taken));
            CallOutbox::new(Peer::Task { session: Arc::clone(session), questions }, cancel.clone(), true)
        }
        None => {
            let alone = Alone::of_task(raw(facts.capabilities.clone()), taken);
            CallOutbox::new(Peer::Alone(Box::new(alone)), cancel.clone(), false)
        }
    };
    (outbox, cancel)
}
