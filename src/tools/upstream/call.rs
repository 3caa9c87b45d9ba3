//! One call in a remote server, of a tool or of what stands beside tools: attempts until there is an answer, each only
//! where the one before cannot have done anything, or where doing it twice does no harm.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::value::RawValue;
use tokio::time::sleep;

use super::exchange::Hearing;
use super::failure::{Failure, Kind, Trouble};
use super::meet::{Known, Legacy};
use super::modern::Rounds;
use super::session::Session;
use super::slots::{self, Slots};
use super::tasks::Patience;
use super::{Inner, lock};
use crate::base::counted::Counted;
use crate::base::limits::UPSTREAM_AGAIN;
use crate::config::Lifetime;
use crate::rpc::error::RpcError;
use crate::rpc::message::quote;
use crate::tools::Call;
use crate::tools::breaker::Ticket;
use crate::tools::hosted::anew;
use crate::tools::hosted::call_time::deadline;
use crate::tools::hosted::greeting::EVERYTHING;
use crate::tools::hosted::own_task::{task_of, with_task, without_related};
use crate::tools::hosted::params::{Errand, for_server};

/// Why a call has no answer.
pub(super) struct Unanswered {
    pub(super) why: String,
    /// It may be made again without being run twice.
    pub(super) retry_safe: bool,
    pub(super) outcome: Outcome,
}

/// What came in the way of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server failed; it may do better the next time.
    Failed,
    /// It will not do better soon.
    Lasting,
    /// The time was over.
    Late,
}

/// What may still be tried, each once.
struct Chances {
    /// The session was lost.
    gone: bool,
    /// The server speaks something else.
    era: bool,
    /// It has other headers for its arguments.
    headers: bool,
    /// The server was not reached, or broke off a call that does no harm twice.
    down: bool,
}

/// What is known of a call while it runs.
#[derive(Default)]
struct Progress {
    asking: AtomicUsize,
    /// The server has begun to answer what was sent last.
    headed: AtomicBool,
    /// Of the attempt that runs.
    ticket: Mutex<Option<Ticket>>,
}

impl Progress {
    fn begins(&self, ticket: Ticket) {
        self.headed.store(false, Ordering::Release);
        *lock(&self.ticket) = Some(ticket);
    }

    /// The ticket of an attempt that is over.
    fn ended(&self) -> Option<Ticket> {
        lock(&self.ticket).take()
    }

    /// The ticket of an attempt to which the server has answered nothing.
    fn unheard(&self) -> Option<Ticket> {
        self.ended().filter(|_| !self.headed.load(Ordering::Acquire))
    }
}

impl Inner {
    /// A call of something that is no tool: what prevents an answer is an error.
    pub(super) async fn ask(
        self: &Arc<Self>,
        errand: Errand<'_>,
        call: &Call,
    ) -> Result<Box<RawValue>, RpcError> {
        let failed = |why: &str, retry_safe: bool| {
            RpcError::internal(why.to_owned()).with_data(&serde_json::json!({ "retryable": retry_safe }))
        };
        tokio::select! {
            biased;
            () = call.cancel.cancelled() => Err(failed("the request was cancelled", true)),
            () = self.common.closing.cancelled() => Err(failed(&self.closed().why, true)),
            answer = self.call(errand, call) => match answer {
                Ok(answer) => answer,
                Err(Unanswered { why, retry_safe, .. }) => Err(failed(&why, retry_safe)),
            },
        }
    }

    pub(super) async fn call(
        self: &Arc<Self>,
        errand: Errand<'_>,
        call: &Call,
    ) -> Result<Result<Box<RawValue>, RpcError>, Unanswered> {
        let _running = Counted::begin(&self.running);
        let progress = Progress::default();
        let _silence = Silence { inner: self, call, progress: &progress };
        let outcome = tokio::select! {
            biased;
            outcome = self.attempts(errand, call, &progress) => Some(outcome),
            () = deadline(self.call_timeout, &progress.asking, &call.out) => None,
        };
        match outcome {
            Some(Ok(result)) => Ok(Ok(result)),
            Some(Err(Failure::Answer(error))) => Ok(Err(error)),
            Some(Err(Failure::Trouble(trouble))) => Err(self.unanswered(errand, call, &trouble)),
            None => {
                let what = format!(
                    "gave no answer to {errand} within {} s, which was cancelled (call_timeout_seconds)",
                    self.call_timeout.as_secs()
                );
                let trouble = self.common.http.trouble(Kind::Down, true, &what);
                if let Some(ticket) = progress.unheard() {
                    self.failed(&ticket, &trouble);
                }
                Err(Unanswered {
                    why: trouble.why.to_string(),
                    retry_safe: self.may_repeat(errand),
                    outcome: Outcome::Late,
                })
            }
        }
    }

    async fn attempts(
        self: &Arc<Self>,
        errand: Errand<'_>,
        call: &Call,
        progress: &Progress,
    ) -> Result<Box<RawValue>, Failure> {
        let mut left = Chances { gone: true, era: true, headers: true, down: true };
        loop {
            progress.begins(self.admit()?);
            let mut used = None;
            let outcome = self.once(errand, call, progress, &mut used).await;
            if let Some(ticket) = progress.ended() {
                self.judged(&ticket, &outcome);
            }
            let trouble = match outcome {
                Err(Failure::Trouble(trouble)) => trouble,
                outcome => return outcome,
            };
            let undone = !trouble.sent || self.may_repeat(errand);
            let again = match trouble.kind {
                Kind::Gone => undone && std::mem::take(&mut left.gone),
                Kind::Era => match used {
                    Some(used) if undone && std::mem::take(&mut left.era) => {
                        self.forget_known(&used);
                        true
                    }
                    _ => false,
                },
                Kind::Headers => {
                    undone && std::mem::take(&mut left.headers) && self.list_tools_anew().await.is_ok()
                }
                // Calls of tools are made again by whoever makes them.
                Kind::Down if errand.method != "tools/call" => {
                    let again = std::mem::take(&mut left.down);
                    if again {
                        sleep(UPSTREAM_AGAIN).await;
                    }
                    again
                }
                Kind::Down | Kind::Refused | Kind::Open | Kind::Closed => false,
            };
            if !again {
                return Err(trouble.into());
            }
            tracing::debug!("{errand} is tried again: {trouble}");
        }
    }

    /// `used`: what the server was taken to speak.
    async fn once(
        self: &Arc<Self>,
        errand: Errand<'_>,
        call: &Call,
        progress: &Progress,
        used: &mut Option<Arc<Known>>,
    ) -> Result<Box<RawValue>, Failure> {
        let credential =
            self.credentials.of(&call.principal).map_err(|why| Trouble::new(Kind::Refused, false, why))?;
        let known = used.insert(self.known(&credential).await?);
        match &**known {
            Known::Modern(modern) => {
                let repeated = match errand.of_tool() {
                    Some(tool) => {
                        let params = self.header_params.load();
                        params.get(tool).map(|params| params.repeat(&call.params)).unwrap_or_default()
                    }
                    None => Vec::new(),
                };
                let rounds = Rounds {
                    common: &self.common,
                    credential: &credential,
                    modern,
                    errand,
                    call,
                    repeated,
                    asking: &progress.asking,
                    headed: &progress.headed,
                };
                rounds.run().await
            }
            Known::Legacy(legacy) => {
                let view = call.session.as_ref();
                let slot = match (self.lifetime, view) {
                    (Lifetime::Session, Some(view)) => self
                        .slots
                        .of_session(&**view, &credential)
                        .ok_or_else(|| slots::full(&self.common))?,
                    (Lifetime::Call, view) => {
                        let capabilities = view.map_or(EVERYTHING, |view| view.client_capabilities().get());
                        Slots::single(&credential, capabilities)
                    }
                    (Lifetime::Session, None) | (Lifetime::Pool, _) => {
                        self.slots.shared(&credential, &self.scope(&credential))
                    }
                };
                let view = view.filter(|_| self.lifetime == Lifetime::Session);
                let session = slot.0.session(self, legacy, view).await?;
                let _ends = (self.lifetime == Lifetime::Call).then(|| Ends(Arc::clone(&session)));
                self.in_session(&session, legacy, errand, call, progress).await
            }
        }
    }

    async fn in_session(
        &self,
        session: &Arc<Session>,
        legacy: &Legacy,
        errand: Errand<'_>,
        call: &Call,
        progress: &Progress,
    ) -> Result<Box<RawValue>, Failure> {
        let is_tool = errand.method == "tools/call";
        let own_task = is_tool
            && legacy.told.tasks
            && errand.of_tool().is_some_and(|tool| self.own_tasks.load().contains(tool));
        let params = |id: u64| {
            let token = call.progress_token.as_ref().map(|_| id);
            for_server(&call.params, errand.name, token).and_then(|params| with_task(params, own_task))
        };
        let (asking, headed) = (&progress.asking, &progress.headed);
        let (mut result, id) = session.call(errand.method, params, call, asking, headed).await?;
        if own_task && let Some(task) = task_of(&result) {
            call.out.task_begun();
            let mut cancels = CancelsTask { session, task: &task, over: false };
            let token = call.progress_token.as_deref().map(|token| (id, token));
            let hearing = Hearing { token, out: Some(&call.out), asking, headed };
            let params = format!("{{\"taskId\":{}}}", quote(&task));
            let mut patience = Patience::default();
            let ended = loop {
                let ended = session.exchange("tasks/result", &params, hearing, Some(&task)).await;
                match ended.map_err(Failure::begun) {
                    Err(failure) if !session.gone.is_cancelled() => {
                        if let Err(failure) = patience.bear(failure).await {
                            break Err(failure);
                        }
                    }
                    ended => break ended,
                }
            };
            cancels.over = matches!(ended, Ok(_) | Err(Failure::Answer(_)));
            result = without_related(ended?);
        }
        if is_tool && session.is_anew.swap(false, Ordering::AcqRel) {
            result = anew::tell(&self.common.http.server, call, result).await;
        }
        Ok(result)
    }

    fn unanswered(&self, errand: Errand<'_>, call: &Call, trouble: &Trouble) -> Unanswered {
        let retry_safe = !trouble.sent || self.may_repeat(errand);
        let advice = match (trouble.kind, trouble.sent) {
            // What it refuses it would refuse again.
            (Kind::Refused | Kind::Closed, false) => String::new(),
            (_, false) => "\nThe call was not carried out; it is safe to call again.".to_owned(),
            (_, true) => format!("\n{}", errand.advice(retry_safe)),
        };
        tracing::debug!(correlation = %call.correlation, "{errand}: {trouble}");
        let outcome = match trouble.kind {
            // What it speaks, and what headers it wants, it was asked already.
            Kind::Refused | Kind::Open | Kind::Closed | Kind::Era | Kind::Headers => Outcome::Lasting,
            Kind::Down | Kind::Gone => Outcome::Failed,
        };
        Unanswered { why: format!("{trouble}{advice}"), retry_safe, outcome }
    }

    /// Tools say it of themselves; whatever else is asked for changes nothing.
    pub(super) fn may_repeat(&self, errand: Errand<'_>) -> bool {
        errand.of_tool().is_none_or(|tool| self.repeatable.load().contains(tool))
    }
}

/// A call that is dropped because its time is over: a server that has answered nothing by then does not work.
struct Silence<'a> {
    inner: &'a Arc<Inner>,
    call: &'a Call,
    progress: &'a Progress,
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        if self.call.out.is_late()
            && let Some(ticket) = self.progress.unheard()
        {
            let what = "gave no answer to a call before its time was over";
            self.inner.failed(&ticket, &self.inner.common.http.trouble(Kind::Down, true, what));
        }
    }
}

/// A session for one call: it ends with the call.
struct Ends(Arc<Session>);

impl Drop for Ends {
    fn drop(&mut self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let session = Arc::clone(&self.0);
            runtime.spawn(async move { session.end().await });
        }
    }
}

/// A task of the server. Dropping it before it is over cancels it.
struct CancelsTask<'a> {
    session: &'a Arc<Session>,
    task: &'a str,
    over: bool,
}

impl Drop for CancelsTask<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.session.cancel_task(self.task);
        }
    }
}
