//! Session ids that callers choose, and the sessions they mean.
//!
//! Which session a name means is kept in the store as a result of no session, under the name's hash, for as long as the
//! session may live: so it outlives a restart, and of two callers who give one name at the same moment one is told of
//! the other. A name that means nothing any more can be given again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::Engine;
use super::super::session::Session;
use crate::base::ids::{Claims, SessionKey};
use crate::base::limits::{CALLER_IDS, RESULT_MAX_TTL};
use crate::base::seal::{hex, sha256};
use crate::base::table::Table;
use crate::state::result::{Outcome, Reported};
use crate::store::{ResultId, StoreError};

/// How long it is remembered that a name was given up: somebody may be about to give it on what he read before.
const RELEASED_FOR: Duration = Duration::from_secs(60);

/// What names mean, as far as it was looked up: a name changes its meaning only when its session is gone.
#[derive(Default)]
pub(super) struct Remembered(Table<Box<str>, Arc<str>>);

/// What a name means at one moment.
pub(super) struct Meaning {
    /// The session's id, if there is one.
    pub(super) token: Option<Arc<str>>,
    /// How often the name was given.
    pub(super) revision: u64,
}

/// What became of the wish to give a name.
pub(super) enum Bound {
    /// The session has it.
    Yes,
    /// It was given so often meanwhile: look again.
    Not(u64),
}

/// Under what the store knows a name. Hashed: nothing that callers say is readable on the disk.
pub(super) fn stored_name(name: &str) -> String {
    format!("bridge/{}", hex(&sha256(name.as_bytes())))
}

fn result_id(stored: &str) -> ResultId {
    ResultId { session: SessionKey::BROADCAST, name: stored.to_owned() }
}

impl Engine {
    /// The id of the session that a caller's name means. Says nothing of whether the session is still there.
    pub(in crate::engine) async fn meant_by(&self, name: &str) -> Result<Option<Arc<str>>, StoreError> {
        let stored = stored_name(name);
        if let Some(token) = self.rest.aliases.0.with(&*stored, Arc::clone)
            && self.is_alive(&token).await?
        {
            return Ok(Some(token));
        }
        let meaning = self.meaning(&stored).await?;
        if let Some(token) = &meaning.token {
            self.remember(&stored, token);
        }
        Ok(meaning.token)
    }

    /// What the store says of a name.
    pub(super) async fn meaning(&self, stored: &str) -> Result<Meaning, StoreError> {
        let Some(held) = self.store.result(&result_id(stored)).await? else {
            return Ok(Meaning { token: None, revision: 0 });
        };
        let token = std::str::from_utf8(&held.payload).ok().filter(|text| !text.is_empty()).map(Arc::from);
        Ok(Meaning { token, revision: held.rev })
    }

    /// Gives a name to a session, unless somebody has given it since it was so often.
    pub(super) async fn bind(
        &self,
        stored: &str,
        session: &Session,
        revision: u64,
    ) -> Result<Bound, StoreError> {
        let left = session.claims.deadline_ms.saturating_sub(self.clock.now_ms()).max(1);
        let payload = Bytes::copy_from_slice(session.token.as_bytes());
        let reported =
            self.report(stored, revision.saturating_add(1), payload, Duration::from_millis(left)).await?;
        match reported {
            Reported::Ok => {
                self.remember(stored, &session.token);
                Ok(Bound::Yes)
            }
            Reported::Stale { rev, .. } | Reported::Final { rev, .. } => Ok(Bound::Not(rev)),
        }
    }

    /// Gives up the name of a session that has ended, so that it can be given again at once. What fails here costs
    /// nothing: a name that means an ended session can be given as well.
    pub(in crate::engine) async fn release_alias(&self, session: &Session) {
        let Some(stored) = session.alias.as_deref() else { return };
        self.rest.aliases.0.remove(stored);
        let Ok(Meaning { token: Some(token), revision }) = self.meaning(stored).await else { return };
        if token == session.token {
            let released = self.report(stored, revision.saturating_add(1), Bytes::new(), RELEASED_FOR).await;
            if let Err(error) = released {
                tracing::debug!(session = %session.claims.key, %error, "the caller's id of an ended session stays");
            }
        }
    }

    async fn report(
        &self,
        stored: &str,
        revision: u64,
        payload: Bytes,
        ttl: Duration,
    ) -> Result<Reported, StoreError> {
        let outcome = Outcome { fence: 0, rev: revision, rank: 0, payload };
        self.store.put_result(result_id(stored), outcome, ttl.min(RESULT_MAX_TTL)).await
    }

    fn remember(&self, stored: &str, token: &Arc<str>) {
        let known = &self.rest.aliases.0;
        // All at once: which of them are in use is not known, and looking one up again costs little.
        if known.len() >= CALLER_IDS {
            known.retain(|_, _| false);
        }
        known.insert(stored.into(), Arc::clone(token));
    }

    async fn is_alive(&self, token: &str) -> Result<bool, StoreError> {
        let Ok(claims) = Claims::verify(token, self.store.keys()) else { return Ok(false) };
        Ok(matches!(self.store.load(claims.key).await?, crate::store::Lookup::Live(_)))
    }
}
