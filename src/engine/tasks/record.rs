//! What the store has of a task, under which names.
//!
//! ```text
//! task/<principal>/<key>                    what was reported last (state::task::Task), until the task's time is over
//! task/<principal>/<key>/request            what was asked for, while it runs
//! task/<principal>/<key>/cancel             it is to be cancelled
//! task/<principal>/<key>/answer/<question>  an answer to one of its questions; the question as the hash of its key
//! ```
//! They are results of the session that made the task, which go with it, or of none (2026-07-28). Intents are written
//! once: a second cancellation or answer changes nothing, whichever process it comes through.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::ids::{PrincipalHash, SessionKey, TaskClaims, TaskKey};
use crate::base::seal::{hex, sha256};
use crate::state::result::{Outcome, TERMINAL};
use crate::state::task::{Answer, Task};
use crate::store::{ResultId, StoreError};

/// What all names of tasks begin with.
pub(super) const PREFIX: &str = "task/";

/// Whose task it is, what it is called, and until when it is kept.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Identity {
    pub(in crate::engine) id: Arc<str>,
    pub(in crate::engine) session: SessionKey,
    pub(in crate::engine) key: TaskKey,
    principal: PrincipalHash,
    pub(super) deadline_ms: u64,
}

impl Identity {
    pub(super) fn new(id: Arc<str>, claims: &TaskClaims) -> Self {
        let TaskClaims { deadline_ms, session, key, principal, .. } = *claims;
        Self { id, session, key, principal, deadline_ms }
    }

    /// Of a task that the store has under this name.
    pub(super) fn stored(stored: &Stored, session: SessionKey, named: &Named) -> Self {
        let (id, deadline_ms) = (stored.id.as_str().into(), stored.deadline_ms);
        Self { id, session, key: named.key, principal: named.principal, deadline_ms }
    }

    /// As its names have it.
    pub(super) fn named(&self) -> Named {
        Named { principal: self.principal, key: self.key, whole: true }
    }

    /// For how long the task is kept from its birth, milliseconds.
    pub(super) fn ttl_ms(&self) -> u64 {
        self.deadline_ms.saturating_sub(self.key.created_ms())
    }

    pub(super) fn state(&self) -> ResultId {
        self.part("")
    }

    pub(super) fn request(&self) -> ResultId {
        self.part("/request")
    }

    pub(super) fn cancel(&self) -> ResultId {
        self.part("/cancel")
    }

    pub(super) fn answer(&self, question: &str) -> ResultId {
        let hash = hex(&sha256(question.as_bytes()));
        self.part(&format!("/answer/{}", hash.get(..32).unwrap_or_default()))
    }

    /// What the names of its parts begin with.
    pub(super) fn parts(&self) -> String {
        self.part("/").name
    }

    fn part(&self, part: &str) -> ResultId {
        ResultId { session: self.session, name: format!("{}{part}", self.named().name()) }
    }
}

/// A name, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) principal: PrincipalHash,
    pub(super) key: TaskKey,
    /// It is the task, not a part of it.
    pub(super) whole: bool,
}

impl Named {
    /// The name of the task itself.
    pub(super) fn name(&self) -> String {
        format!("{PREFIX}{}/{}", hex(&self.principal.0), self.key)
    }

    pub(super) fn read(name: &str) -> Option<Self> {
        let (principal, rest) = name.strip_prefix(PREFIX)?.split_once('/')?;
        let bits = u64::from_str_radix(principal, 16).ok().filter(|_| principal.len() == 16)?;
        let (key, whole) = match rest.split_once('/') {
            Some((key, _)) => (key, false),
            None => (rest, true),
        };
        Some(Self { principal: PrincipalHash(bits.to_be_bytes()), key: TaskKey::parse(key)?, whole })
    }
}

/// What was asked for: all that is needed to run it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The public name of the tool.
    pub(super) tool: String,
    /// `params` of the call, JSON text.
    pub(super) params: String,
    /// The caller's name.
    pub(super) principal: String,
    /// The session's id; none under 2026-07-28.
    pub(super) session: Option<String>,
    /// What the client declared, JSON text.
    pub(super) capabilities: String,
    /// The caller's progress token, JSON text.
    pub(super) progress_token: Option<String>,
}

/// An answer as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) question: String,
    pub(super) answer: Answer,
}

/// What was reported last, with what a listing shows beside it.
#[derive(Debug, Deserialize)]
pub(super) struct Stored {
    /// The task's id.
    pub(super) id: String,
    pub(super) deadline_ms: u64,
    pub(super) task: Task,
}

/// The report of a task for the register.
pub(super) fn report(identity: &Identity, task: &Task) -> Result<Outcome, StoreError> {
    #[derive(Serialize)]
    struct Stored<'a> {
        id: &'a str,
        deadline_ms: u64,
        task: &'a Task,
    }
    let stored = Stored { id: &identity.id, deadline_ms: identity.deadline_ms, task };
    Ok(Outcome { fence: task.fence, rev: task.rev, rank: task.rank(), payload: pack(&stored)? })
}

/// What is written once.
pub(super) fn once(value: &impl Serialize) -> Result<Outcome, StoreError> {
    Ok(Outcome { fence: 1, rev: 1, rank: TERMINAL, payload: pack(value)? })
}

fn pack(value: &impl Serialize) -> Result<Bytes, StoreError> {
    let packed = rmp_serde::to_vec_named(value);
    packed.map(Bytes::from).map_err(|error| StoreError::Io(format!("a task cannot be written: {error}")))
}

pub(super) fn unpack<T: DeserializeOwned>(outcome: &Outcome) -> Result<T, StoreError> {
    rmp_serde::from_slice(&outcome.payload)
        .map_err(|error| StoreError::Io(format!("what is stored of a task cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Origin;
    use crate::base::limits::NAME_BYTES;

    fn identity() -> Identity {
        let claims = TaskClaims {
            deadline_ms: 9_000,
            origin: Origin::from_bits(1),
            session: SessionKey::from_bytes([3; 16]),
            key: TaskKey::new(5_000),
            principal: PrincipalHash([0, 1, 2, 3, 4, 5, 6, 255]),
        };
        Identity::new("t1.x.y".into(), &claims)
    }

    #[test]
    fn every_name_is_read_back_and_fits() {
        let identity = identity();
        assert_eq!(identity.ttl_ms(), 4_000);
        let (principal, key) = (identity.principal, identity.key);
        let named = |whole| Some(Named { principal, key, whole });
        assert_eq!(Named::read(&identity.state().name), named(true));
        for part in [identity.request(), identity.cancel(), identity.answer(&"k".repeat(5_000))] {
            assert_eq!(Named::read(&part.name), named(false), "{}", part.name);
            assert!(part.name.len() <= NAME_BYTES && part.name.starts_with(&identity.parts()));
        }
        assert_ne!(identity.answer("a"), identity.answer("b"));
        for other in ["", "task/", "task/0/", &format!("task/00/{key}"), &format!("x/0001020304050607/{key}")]
        {
            assert_eq!(Named::read(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let task = Task::begin(7, 1_000, 60_000).asks(Vec::new(), 2_000, 60_000).unwrap();
        let outcome = report(&identity(), &task).unwrap();
        assert_eq!((outcome.fence, outcome.rev, outcome.rank), (1_000_000, 1, 0));
        let stored: Stored = unpack(&outcome).unwrap();
        assert_eq!((stored.id.as_str(), stored.deadline_ms, stored.task), ("t1.x.y", 9_000, task));
        let once = once(&Answered { question: "q".into(), answer: Err("{}".into()) }).unwrap();
        let answered: Answered = unpack(&once).unwrap();
        assert_eq!((answered.question.as_str(), answered.answer), ("q", Err("{}".into())));
        assert!(unpack::<Stored>(&once).is_err());
    }
}
