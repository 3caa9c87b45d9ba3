//! A call that a remote server of 2026-07-28 made a task of: it is looked at until it has ended, and what it asks is asked.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::credentials::Credential;
use super::exchange::Hearing;
use super::failure::{Failure, Kind};
use super::modern::{Asked, Rounds, send_within};
use super::{Common, modern};
use crate::base::backoff::Backoff;
use crate::base::limits::{UPSTREAM_POLL, UPSTREAM_POLL_FAILURES, UPSTREAM_REOPEN};
use crate::mcp::task::Status;
use crate::rpc::error::RpcError;
use crate::rpc::message::quote;
use crate::rpc::object::{Change, Object};
use crate::tools::hosted::messages::error_of;

/// A task as the server describes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    task_id: String,
    status: Status,
    poll_interval_ms: Option<u64>,
    result: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
    input_requests: Option<Box<RawValue>>,
}

/// The result of the task that `created` says was made.
pub(super) async fn follow(
    rounds: &Rounds<'_>,
    created: &RawValue,
    capabilities: &str,
) -> Result<Box<RawValue>, Failure> {
    let mut task = read(rounds.common, created)?;
    rounds.call.out.task_begun();
    let mut guard = Cancels { rounds, task: task.task_id.clone(), capabilities, over: false };
    let mut answered: Vec<String> = Vec::new();
    loop {
        match task.status {
            Status::Completed => {
                guard.over = true;
                return task
                    .result
                    .ok_or_else(|| unusable(rounds.common, "it is completed and has no result"));
            }
            Status::Failed => {
                guard.over = true;
                let error = task.error.as_deref().map(|error| error_of(&rounds.common.http.server, error));
                let error = error.unwrap_or_else(|| RpcError::internal("the task of the server failed"));
                return Err(Failure::Answer(error));
            }
            Status::Cancelled => {
                guard.over = true;
                return Err(Failure::Answer(RpcError::internal("the server cancelled the task")));
            }
            Status::InputRequired => {
                let open = task.input_requests.as_deref().and_then(|all| still_open(all, &answered));
                if let Some((questions, keys)) = open {
                    let answers = rounds.ask(&questions).await?;
                    let params =
                        format!("{{\"taskId\":{},\"inputResponses\":{answers}}}", quote(&guard.task));
                    ask(rounds, "tasks/update", params, &guard.task, capabilities).await?;
                    answered.extend(keys);
                }
            }
            Status::Working => {}
        }
        let (least, most) = UPSTREAM_POLL;
        let pause = task.poll_interval_ms.map_or(least * 2, Duration::from_millis).clamp(least, most);
        sleep(pause).await;
        let params = format!("{{\"taskId\":{}}}", quote(&guard.task));
        let described = ask(rounds, "tasks/get", params, &guard.task, capabilities).await?;
        task = read(rounds.common, &described)?;
    }
}

fn read(common: &Common, described: &RawValue) -> Result<Described, Failure> {
    serde_json::from_str(described.get()).map_err(|error| unusable(common, &error.to_string()))
}

fn unusable(common: &Common, why: &str) -> Failure {
    common
        .http
        .trouble(Kind::Refused, true, &format!("describes a task in a form that cannot be used: {why}"))
        .into()
}

async fn ask(
    rounds: &Rounds<'_>,
    method: &str,
    params: String,
    task: &str,
    capabilities: &str,
) -> Result<Box<RawValue>, Failure> {
    let asked = Asked { name: Some(task), capabilities, ..Asked::plain(method, params) };
    let hearing = Hearing { token: None, out: None, asking: rounds.asking, headed: rounds.headed };
    let mut patience = Patience::default();
    loop {
        match send_within(rounds.common, rounds.credential, &asked, hearing).await {
            Err(failure) => patience.bear(failure.begun()).await?,
            answer => return answer,
        }
    }
}

/// Failures in a row that are borne while a task runs: its work is not lost because one look at it failed.
pub(super) struct Patience {
    failures: usize,
    backoff: Backoff,
}

impl Default for Patience {
    fn default() -> Self {
        let (first, longest) = UPSTREAM_REOPEN;
        Self { failures: 0, backoff: Backoff::new(first, longest) }
    }
}

impl Patience {
    /// Waits until the next attempt.
    ///
    /// # Errors
    /// The failure, when there is to be none.
    pub(super) async fn bear(&mut self, failure: Failure) -> Result<(), Failure> {
        self.failures += 1;
        match failure {
            Failure::Trouble(trouble)
                if matches!(trouble.kind, Kind::Down | Kind::Refused)
                    && self.failures < UPSTREAM_POLL_FAILURES =>
            {
                tracing::debug!("a task is asked for again: {trouble}");
                sleep(self.backoff.wait()).await;
                Ok(())
            }
            failure => Err(failure),
        }
    }
}

/// The questions that were not answered yet, and their names.
fn still_open(questions: &RawValue, answered: &[String]) -> Option<(Box<RawValue>, Vec<String>)> {
    let mut keys = Vec::new();
    let rest = Object::parse(questions.get()).ok()?.with(|key, _| {
        if answered.iter().any(|known| known == key) {
            return Change::Drop;
        }
        keys.push(key.to_owned());
        Change::Keep
    });
    (!keys.is_empty()).then(|| (crate::tools::answer::raw(rest), keys))
}

/// Cancels the task when nobody waits for it any more.
struct Cancels<'a> {
    rounds: &'a Rounds<'a>,
    task: String,
    capabilities: &'a str,
    over: bool,
}

impl Drop for Cancels<'_> {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.over {
            return;
        }
        let (common, credential) = (self.rounds.common.clone(), self.rounds.credential.clone());
        let (task, capabilities) = (self.task.clone(), self.capabilities.to_owned());
        runtime.spawn(async move { cancel(&common, &credential, &task, &capabilities).await });
    }
}

async fn cancel(common: &Common, credential: &Credential, task: &str, capabilities: &str) {
    let params = format!("{{\"taskId\":{}}}", quote(task));
    let asked = Asked { name: Some(task), capabilities, ..Asked::plain("tasks/cancel", params) };
    if let Err(failure) = modern::request(common, credential, asked).await {
        tracing::debug!(server = %common.http.server, "a task was not cancelled: {failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::answer::raw;

    #[test]
    fn only_questions_without_an_answer_are_asked() {
        let all = raw(r#"{"a":{"n":1e400},"b":{}}"#.into());
        let (open, keys) = still_open(&all, &["b".into()]).unwrap();
        assert_eq!((open.get(), keys), (r#"{"a":{"n":1e400}}"#, vec!["a".to_owned()]));
        assert!(still_open(&all, &["a".into(), "b".into()]).is_none());
    }
}
