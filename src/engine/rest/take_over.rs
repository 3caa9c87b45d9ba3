//! Sessions of the Flask bridge become sessions here, under the ids that their callers know.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::Engine;
use super::super::session::Birth;
use super::alias::{Bound, stored_name};
use super::init::check_name;
use super::{Refused, Values, refused};
use crate::auth::Principal;
use crate::base::ids::is_session_id;

/// One session of the Flask bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Old {
    /// What its callers call it.
    pub name: String,
    /// It is over after this time if nobody uses it, milliseconds; none: it has its idle time.
    pub left_ms: Option<u64>,
    /// Its values.
    pub values: Values,
}

/// What became of one.
enum Taken {
    Made,
    /// It is here already.
    Existing,
    /// Its time is over.
    Over,
}

/// What the Flask bridge noted for itself.
const OWN: [&str; 2] = ["created_at", "last_accessed"];

impl Engine {
    /// Takes sessions over, for this principal. May be done again: those that are here stay as they are.
    ///
    /// # Errors
    /// [`Refused::Unavailable`] when the store takes nothing; some may have been taken over then. What is wrong with one
    /// session is told in the answer.
    pub(in crate::engine) async fn take_over(
        self: &Arc<Self>,
        principal: &str,
        sessions: Vec<Old>,
    ) -> Result<Value, Refused> {
        let principal = Principal::new(principal);
        let (mut made, mut existing, mut over) = (0_u64, 0_u64, 0_u64);
        let mut failed = Vec::new();
        for old in sessions {
            let name = old.name.clone();
            match self.take_over_one(&principal, old).await {
                Ok(Taken::Made) => made += 1,
                Ok(Taken::Existing) => existing += 1,
                Ok(Taken::Over) => over += 1,
                Err(Refused::Unavailable(why)) => return Err(Refused::Unavailable(why)),
                Err(refused) => {
                    let reason = match refused {
                        Refused::Bad(why) | Refused::Busy(why) | Refused::Failed(why) => why,
                        Refused::Foreign(why) => why,
                        _ => "it went away while it was taken over: try again".to_owned(),
                    };
                    failed.push(json!({ "session_id": name, "reason": reason }));
                }
            }
        }
        tracing::info!(
            made,
            existing,
            over,
            failed = failed.len(),
            "sessions of the Flask bridge taken over"
        );
        Ok(json!({ "imported": made, "existing": existing, "expired": over, "failed": failed }))
    }

    async fn take_over_one(self: &Arc<Self>, principal: &Principal, old: Old) -> Result<Taken, Refused> {
        let Old { name, left_ms, mut values } = old;
        check_name(&name)?;
        if is_session_id(&name) {
            return Err(Refused::Bad("its session_id looks like one of this server's own".into()));
        }
        if left_ms == Some(0) {
            return Ok(Taken::Over);
        }
        values.0.retain(|name, _| !OWN.contains(&name.as_str()));
        let (standing, revision) = self.standing(&name).await?;
        if let Some(token) = standing {
            // Not a use of it.
            return match self.is_foreign(&token, principal) {
                true => Err(Refused::Foreign("another principal has a session of this session_id".into())),
                false => Ok(Taken::Existing),
            };
        }
        let idle_ms = self.idle_ttl_ms;
        let left_ms = left_ms.unwrap_or(idle_ms);
        let unused = Duration::from_millis(idle_ms.saturating_sub(left_ms));
        let birth = Birth { unused, ..Birth::default() };
        let session = self.rest_create(principal, &values, Some(&name), birth).await;
        let session = session.map_err(|error| refused(&error))?;
        if left_ms > idle_ms {
            let whole = session.claims.deadline_ms.saturating_sub(self.clock.now_ms());
            let longer = Duration::from_millis(left_ms.min(whole));
            let kept = self.store.extend(session.claims.key, longer).await;
            kept.map_err(|error| refused(&error))?;
        }
        let bound = self.bind(&stored_name(&name), &session, revision).await;
        let bound = match bound {
            // Given up long ago and not swept yet.
            Ok(Bound::Not(given)) if self.standing(&name).await?.0.is_none() => {
                self.bind(&stored_name(&name), &session, given).await
            }
            bound => bound,
        };
        match bound {
            Ok(Bound::Yes) => {
                // Not in memory: it counts as used from when its caller comes.
                self.sessions.remove(&*session.token);
                Ok(Taken::Made)
            }
            Ok(Bound::Not(_)) => {
                self.discard(&session).await;
                Ok(Taken::Existing)
            }
            Err(error) => {
                self.discard(&session).await;
                Err(refused(&error))
            }
        }
    }
}
