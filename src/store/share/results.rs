//! Results in the shared store: who is first there is first.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::pay::Unpaid;
use super::{Owed, Sharing};
use crate::base::ids::SessionKey;
use crate::state::result::{Outcome, Reported, TERMINAL};
use crate::store::remote::{RemoteError, ResultPush};
use crate::store::{ResultId, Store, StoreError, reading, rows};

/// What a report is worth before the disk has it.
pub(in crate::store) enum Asked {
    /// The shared store took it: it stands.
    Stands,
    /// Another one stands there: what became of the report, and that one.
    Beaten(Reported, Option<(Outcome, Duration)>),
    /// The shared store cannot be asked now.
    Unknown,
}

impl Store {
    /// Reports to the shared store first: what it takes stands everywhere.
    pub(in crate::store) async fn ask_for_result(
        &self,
        id: &ResultId,
        outcome: &Outcome,
        ttl: Duration,
    ) -> Asked {
        let Some(sharing) = self.sharing.get().filter(|sharing| sharing.is_up(id.session)) else {
            return Asked::Unknown;
        };
        // A report of before that it does not have yet comes before this one.
        self.pay(id.session, None).await;
        let Ok(payload) = sharing.form.content(id.session, &id.name, &outcome.payload) else {
            return Asked::Unknown;
        };
        let shared = Outcome { payload, ..outcome.clone() };
        let push = ResultPush { outcome: shared, ttl, again: false };
        match sharing.remote.push_result(id.session, &id.name, push).await {
            Ok(Reported::Ok) => Asked::Stands,
            Ok(beaten) => match self.shared_result(id).await {
                Ok(standing) => Asked::Beaten(beaten, standing),
                Err(_) => Asked::Unknown,
            },
            Err(error) => {
                tracing::debug!(session = %id.session, name = id.name, %error, "a result is reported here alone");
                Asked::Unknown
            }
        }
    }

    /// Notes that a result is owed again: the shared store may have lost it.
    pub(in crate::store) fn owe_result(&self, id: &ResultId) {
        self.owe_again(id.session, Owed::result(&id.name));
    }

    /// The report that stands in the shared store, and how long it is kept.
    ///
    /// # Errors
    /// When it cannot be asked, or what it has cannot be read.
    pub(in crate::store) async fn shared_result(
        &self,
        id: &ResultId,
    ) -> Result<Option<(Outcome, Duration)>, RemoteError> {
        let Some(sharing) = self.sharing.get().filter(|sharing| sharing.is_agreed()) else { return Ok(None) };
        let Some((outcome, ttl)) = sharing.remote.pull_result(id.session, &id.name).await? else {
            return Ok(None);
        };
        let payload = sharing.form.read_content(id.session, &id.name, &outcome.payload);
        let payload = payload.map_err(|error| RemoteError::Fault(error.to_string().into()))?;
        Ok(Some((Outcome { payload, ..outcome }, ttl)))
    }

    /// Pays the results that a session owes. One that came too late gives way to the one that stands there.
    pub(super) async fn push_results(
        &self,
        sharing: &Sharing,
        key: SessionKey,
        owed: &Owed,
    ) -> Result<(), Unpaid> {
        let here = |error: StoreError| Unpaid::Here(error.to_string());
        let names: Vec<String> = if owed.all_results {
            let all = reading(&self.disk, move |disk| rows::read_results(disk, key)).await.map_err(here)?;
            all.into_iter().map(|(id, _)| id.name).collect()
        } else {
            owed.results.iter().cloned().collect()
        };
        for name in names {
            let id = ResultId { session: key, name };
            let Some((outcome, ttl)) = self.own_result(&id).await.map_err(here)? else { continue };
            let payload = sharing.form.content(key, &id.name, &outcome.payload).map_err(here)?;
            let shared = Outcome { payload, ..outcome.clone() };
            // A client may have seen a final one here: it stands, unless another one is final there.
            let push = ResultPush { outcome: shared, ttl, again: outcome.rank == TERMINAL };
            match sharing.remote.push_result(key, &id.name, push).await? {
                Reported::Ok => {}
                Reported::Stale { fence, rev } | Reported::Final { fence, rev }
                    if (fence, rev) == (outcome.fence, outcome.rev) => {}
                Reported::Stale { .. } | Reported::Final { .. } => {
                    if let Some((standing, ttl)) = self.shared_result(&id).await? {
                        if outcome.rank == TERMINAL && standing != outcome {
                            sharing.counts.late_results.fetch_add(1, Ordering::Relaxed);
                            tracing::warn!(session = %key, name = id.name,
                                "a result came after another instance's was final: that one stands");
                        }
                        self.keep_standing(id, standing, ttl).await.map_err(here)?;
                    }
                }
            }
        }
        Ok(())
    }
}
