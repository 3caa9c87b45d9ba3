//! A task: one owner at a time reports what becomes of it, everybody else leaves intents.
//!
//! The owner holds the task by a *lease* with a fence. Its reports go into a register ([`super::result`]) that rises by
//! (fence, revision) and stands still for ever once it is terminal; so an owner that was taken for dead and is not
//! changes nothing any more. Cancellation and answers are intents: written once, read by the owner, and taken into
//! account by whoever looks at the task before the owner has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::result::TERMINAL;
use crate::mcp::task::Status;

/// A question to the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Names it; unique in the life of the task.
    pub key: String,
    /// `elicitation/create`, `sampling/createMessage` or `roots/list`.
    pub method: String,
    /// Its parameters, JSON text.
    pub params: String,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this result, JSON text; it may say of itself that the tool failed.
    Completed(String),
    /// With this JSON-RPC error, JSON text.
    Failed(String),
    /// Its client did not want it any more.
    Cancelled,
}

/// What was reported of a task last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Who works on it: the bits of a process start.
    pub owner: u64,
    /// The owner's fence.
    pub fence: u64,
    /// The owner's revision.
    pub rev: u64,
    /// Until when the owner has it without news, in milliseconds since the epoch.
    pub lease_ms: u64,
    /// When its status changed last, in milliseconds since the epoch.
    pub updated_ms: u64,
    /// A sentence about its status.
    pub message: Option<String>,
    /// The questions that wait for answers.
    pub open: Vec<Question>,
    /// How it ended, if it did.
    pub end: Option<End>,
}

/// An answer: the client's result or its error, JSON text.
pub type Answer = Result<String, String>;

/// What others want of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intents {
    /// It is to be cancelled.
    pub cancel: bool,
    /// Answers, by the keys of their questions; the first one counts.
    pub answers: BTreeMap<String, Answer>,
}

/// A task as it looks with intents that its owner may not have seen yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Where it stands.
    pub status: Status,
    /// The questions that still wait.
    pub open: Vec<&'a Question>,
}

/// What becomes of a task whose owner is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// It has ended: nothing.
    Ended,
    /// It ends as cancelled, as its client wants.
    Cancel,
    /// It is run again with the answers that it had.
    Run(BTreeMap<String, Answer>),
    /// It ends with an error: nobody knows whether it took effect.
    Fail,
}

impl Task {
    /// A task that begins now, worked on by `owner` for `lease_ms` without news.
    #[must_use]
    pub fn begin(owner: u64, now_ms: u64, lease_ms: u64) -> Self {
        Self {
            owner,
            fence: fence(now_ms),
            rev: 0,
            lease_ms: now_ms.saturating_add(lease_ms),
            updated_ms: now_ms,
            message: None,
            open: Vec::new(),
            end: None,
        }
    }

    /// The task in the hands of another owner; `None` while its own has it, or when it has ended. `dead`: its owner is
    /// known to be gone, whatever its lease says. No questions wait: who asked them is gone, too.
    #[must_use]
    pub fn claim(&self, owner: u64, now_ms: u64, lease_ms: u64, dead: bool) -> Option<Self> {
        if self.end.is_some() || (now_ms < self.lease_ms && !dead) {
            return None;
        }
        Some(Self {
            fence: fence(now_ms).max(self.fence.saturating_add(1)),
            ..Self::begin(owner, now_ms, lease_ms)
        })
    }

    /// The next report: these questions wait, which is none when it works on.
    #[must_use]
    pub fn asks(&self, open: Vec<Question>, now_ms: u64, lease_ms: u64) -> Option<Self> {
        let updated_ms = if open == self.open { self.updated_ms } else { now_ms.max(self.updated_ms) };
        let next = self.next(now_ms, lease_ms)?;
        Some(Self { open, updated_ms, ..next })
    }

    /// The next report: nothing is new, and the owner goes on.
    #[must_use]
    pub fn renewed(&self, now_ms: u64, lease_ms: u64) -> Option<Self> {
        self.next(now_ms, lease_ms)
    }

    /// The last report.
    #[must_use]
    pub fn ended(&self, end: End, message: Option<String>, now_ms: u64) -> Option<Self> {
        let next = self.next(now_ms, 0)?;
        Some(Self {
            end: Some(end),
            message,
            open: Vec::new(),
            updated_ms: now_ms.max(self.updated_ms),
            ..next
        })
    }

    fn next(&self, now_ms: u64, lease_ms: u64) -> Option<Self> {
        if self.end.is_some() {
            return None;
        }
        let lease_ms = now_ms.saturating_add(lease_ms);
        Some(Self { rev: self.rev.saturating_add(1), lease_ms, ..self.clone() })
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.end {
            Some(End::Completed(_)) => Status::Completed,
            Some(End::Failed(_)) => Status::Failed,
            Some(End::Cancelled) => Status::Cancelled,
            None if self.open.is_empty() => Status::Working,
            None => Status::InputRequired,
        }
    }

    /// The rank of its report in the register.
    #[must_use]
    pub fn rank(&self) -> u8 {
        match self.status() {
            Status::Working => 0,
            Status::InputRequired => 1,
            Status::Completed | Status::Failed | Status::Cancelled => TERMINAL,
        }
    }

    /// How it looks to who knows these intents.
    #[must_use]
    pub fn seen(&self, intents: &Intents) -> Seen<'_> {
        let open: Vec<&Question> =
            self.open.iter().filter(|question| !intents.answers.contains_key(&question.key)).collect();
        let status = match self.status() {
            Status::InputRequired if open.is_empty() => Status::Working,
            status => status,
        };
        Seen { status, open }
    }

    /// What becomes of it when its owner is dead. `repeatable`: running it twice does no harm, and it can be run.
    #[must_use]
    pub fn recover(&self, intents: Intents, repeatable: bool) -> Recovery {
        match (&self.end, intents.cancel, repeatable) {
            (Some(_), ..) => Recovery::Ended,
            (None, true, _) => Recovery::Cancel,
            (None, false, true) => Recovery::Run(intents.answers),
            (None, false, false) => Recovery::Fail,
        }
    }
}

/// Fences rise with the clock, and by one where it stands or goes back.
fn fence(now_ms: u64) -> u64 {
    now_ms.saturating_mul(1_000)
}
