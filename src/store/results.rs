//! Results of tasks and requests: written once for good, kept for a while.

use std::time::Duration;

use super::durable::Table;
use super::locks::{check_name, check_ttl};
use super::record::{self, Head, StoredResult};
use super::share::{Asked, Owed};
use super::{ResultInfo, Store, StoreError, reading, rows};
use crate::base::clock::millis;
use crate::base::ids::SessionKey;
use crate::base::limits::{RESULT_BYTES, RESULT_MAX_TTL, RESULTS_PER_SESSION};
use crate::state::result::{Outcome, Reported, TERMINAL, report};

/// The name of the result of no session that says what clients know of the lists. It can be lost without harm: they are
/// told once more.
pub const KNOWN_LISTS: &str = "lists";

/// What a result is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultId {
    /// The session it belongs to and goes with; [`SessionKey::BROADCAST`]: none.
    pub session: SessionKey,
    /// Its name there: 1 to [`crate::base::limits::NAME_BYTES`] bytes without NUL.
    pub name: String,
}

/// Whether a report stands here whatever is kept, because it stands in the shared store.
#[derive(Clone, Copy)]
enum Force {
    No,
    NotOverFinal,
    Yes,
}

/// A result as it is known.
#[derive(Clone, Debug)]
pub struct Known {
    /// The report that stands, as far as it is known.
    pub outcome: Option<Outcome>,
    /// Nothing else can stand anywhere, as far as the shared store can say that: a result of which nothing is known is
    /// not there.
    pub sure: bool,
}

impl Store {
    /// Reports on a result, to be kept for `ttl` from now. What stands is replaced by a report of a newer (fence,
    /// revision), unless it is terminal ([`TERMINAL`]): then nothing changes it. Resolves when the disk has what
    /// stands.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when the session is not there; [`StoreError::Invalid`] for a bad name, rank or time;
    /// [`StoreError::Cap`] when it is too long or the session has too many; failures of the disk.
    pub async fn put_result(
        &self,
        id: ResultId,
        outcome: Outcome,
        ttl: Duration,
    ) -> Result<Reported, StoreError> {
        check(&id, &outcome, ttl)?;
        if let Some(reported) = self.own_final(&id).await? {
            return Ok(reported);
        }
        match self.ask_for_result(&id, &outcome, ttl).await {
            Asked::Unknown => {
                let (key, owes) = (id.session, Owed::result(&id.name));
                let reported = self.keep_result_owing(id, outcome, ttl, Force::No, owes).await?;
                self.share(key).await;
                Ok(reported)
            }
            asked => self.keep_asked(id, outcome, ttl, asked).await.map(|(reported, _)| reported),
        }
    }

    /// As [`Store::put_result`], of a report that is worth something only where all instances know of it: `None` when the
    /// shared store cannot be asked, and then it is not kept here either, though it may stand there.
    ///
    /// # Errors
    /// As [`Store::put_result`].
    pub async fn put_result_among_all(
        &self,
        id: ResultId,
        outcome: Outcome,
        ttl: Duration,
    ) -> Result<Option<Reported>, StoreError> {
        check(&id, &outcome, ttl)?;
        let asked = self.ask_for_result(&id, &outcome, ttl).await;
        let (reported, known) = self.keep_asked(id, outcome, ttl, asked).await?;
        Ok(known.then_some(reported))
    }

    /// Keeps what the shared store says that stands; false: it does not say anything.
    async fn keep_asked(
        &self,
        id: ResultId,
        outcome: Outcome,
        ttl: Duration,
        asked: Asked,
    ) -> Result<(Reported, bool), StoreError> {
        match asked {
            Asked::Stands => {
                let (force, owes) = (Force::NotOverFinal, Owed::default());
                match self.keep_result_owing(id.clone(), outcome, ttl, force, owes).await? {
                    Reported::Ok => Ok((Reported::Ok, true)),
                    // Another report was final here meanwhile.
                    reported => Ok((self.own_final(&id).await?.unwrap_or(reported), true)),
                }
            }
            Asked::Beaten(beaten, standing) => {
                if let Some((standing, ttl)) = standing {
                    self.keep_standing(id, standing, ttl).await?;
                }
                Ok((beaten, true))
            }
            Asked::Unknown => Ok((Reported::Ok, false)),
        }
    }

    /// What a report is worth when the one that is kept here is final: a client may have seen that one. What stands here
    /// is to stand in the shared store, too, which may have lost it.
    async fn own_final(&self, id: &ResultId) -> Result<Option<Reported>, StoreError> {
        if !self.is_shared() {
            return Ok(None);
        }
        let own_final = || async {
            let own = self.own_result(id).await?.filter(|(own, _)| own.rank == TERMINAL);
            Ok::<_, StoreError>(own.map(|(own, _)| Reported::Final { fence: own.fence, rev: own.rev }))
        };
        if own_final().await?.is_none() {
            return Ok(None);
        }
        self.owe_result(id);
        self.share(id.session).await;
        // Another instance's may have been final before it.
        own_final().await
    }

    /// Keeps here what stands in the shared store, whatever is kept.
    pub(super) async fn keep_standing(
        &self,
        id: ResultId,
        outcome: Outcome,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        self.keep_result_owing(id, outcome, ttl, Force::Yes, Owed::default()).await.map(drop)
    }

    async fn keep_result_owing(
        &self,
        id: ResultId,
        outcome: Outcome,
        ttl: Duration,
        force: Force,
        owes: Owed,
    ) -> Result<Reported, StoreError> {
        let expires_ms = self.clock.now_ms().saturating_add(millis(ttl));
        let place = self.place().await?;
        let next = StoredResult {
            fence: outcome.fence,
            rev: outcome.rev,
            rank: outcome.rank,
            bytes: outcome.payload.len() as u64,
            expires_ms,
        };
        // Sealed here, by the many, not on the one thread that writes.
        let content = rows::seal_result(&self.sealer, &id, &next, &outcome.payload)?;
        let key = id.session;
        self.decide_owing(place.into(), key, owes, move |disk| {
            if id.session != SessionKey::BROADCAST {
                let head = disk.get(Table::Head, id.session.as_bytes())?.ok_or(StoreError::Gone)?;
                if record::decode::<Head>(&head)?.ended.is_some() {
                    return Err(StoreError::Gone);
                }
            }
            let stored = disk.get(Table::Result, &rows::result(&id))?;
            let standing: Option<StoredResult> = stored.map(|stored| record::decode(&stored)).transpose()?;
            let held = standing.map(|held| (held.fence, held.rev, held.rank));
            let reported = match (report(held, outcome.fence, outcome.rev), force) {
                (Reported::Stale { .. }, Force::NotOverFinal) | (_, Force::Yes) => Reported::Ok,
                (reported, _) => reported,
            };
            let mut writes = Vec::new();
            if reported == Reported::Ok {
                if standing.is_none()
                    && id.session != SessionKey::BROADCAST
                    && rows::read_results(disk, id.session)?.len() >= RESULTS_PER_SESSION
                {
                    return Err(StoreError::Cap(format!(
                        "the session has {RESULTS_PER_SESSION} results: no more are kept until one expires"
                    )));
                }
                rows::put_result(&id, &next, content, standing.as_ref(), &mut writes)?;
            }
            Ok((writes, reported))
        })
        .await
    }

    /// The report that stands.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn result(&self, id: &ResultId) -> Result<Option<Outcome>, StoreError> {
        self.find_result(id).await.map(|known| known.outcome)
    }

    /// The report that stands, and whether that is certain.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn find_result(&self, id: &ResultId) -> Result<Known, StoreError> {
        let own = self.own_result(id).await?.map(|(outcome, _)| outcome);
        if !self.is_shared() || own.as_ref().is_some_and(|own| own.rank == TERMINAL) {
            return Ok(Known { outcome: own, sure: true });
        }
        let Ok(standing) = self.shared_result(id).await else {
            return Ok(Known { outcome: own, sure: false });
        };
        let outcome = match (standing, own) {
            // Whoever is shown a final one is to find it here when the shared store has lost it, or is away.
            (Some((standing, ttl)), _) if standing.rank == TERMINAL => {
                if let Err(error) = self.keep_standing(id.clone(), standing.clone(), ttl).await {
                    tracing::debug!(session = %id.session, name = id.name, %error, "a final result is not kept here");
                }
                Some(standing)
            }
            // Reported here while the shared store was away, and still owed.
            (Some((standing, _)), Some(own)) if (own.fence, own.rev) > (standing.fence, standing.rev) => {
                Some(own)
            }
            (Some((standing, _)), _) => Some(standing),
            (None, own) => own,
        };
        Ok(Known { outcome, sure: self.is_whole() })
    }

    /// The report that stands here, and how long it is kept.
    pub(super) async fn own_result(&self, id: &ResultId) -> Result<Option<(Outcome, Duration)>, StoreError> {
        let (id, now_ms) = (id.clone(), self.clock.now_ms());
        loop {
            let (own, sealer) = (id.clone(), self.sealer.clone());
            let read = reading(&self.disk, move |disk| {
                let Some(stored) = disk.get(Table::Result, &rows::result(&own))? else {
                    return Ok(Some(None));
                };
                let held: StoredResult = record::decode(&stored)?;
                if held.expires_ms <= now_ms {
                    return Ok(Some(None));
                }
                let payload = rows::read_result(disk, &sealer, &own, &held);
                // A newer report may have taken its place between the two reads: then this one is gone.
                if disk.get(Table::Result, &rows::result(&own))?.as_ref() != Some(&stored) {
                    return Ok(None);
                }
                let StoredResult { fence, rev, rank, .. } = held;
                let left = Duration::from_millis(held.expires_ms.saturating_sub(now_ms));
                Ok(Some(Some((Outcome { fence, rev, rank, payload: payload?.into() }, left))))
            });
            if let Some(found) = read.await? {
                return Ok(found);
            }
        }
    }

    /// The reports that stand under names that begin with `prefix`, without their contents, by name. `session`: those
    /// of this session, or, for [`SessionKey::BROADCAST`], of none.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn results_under(
        &self,
        session: SessionKey,
        prefix: &str,
    ) -> Result<Vec<ResultInfo>, StoreError> {
        let prefix = prefix.to_owned();
        let found = reading(&self.disk, move |disk| rows::read_results_under(disk, session, &prefix)).await?;
        Ok(self.standing(found).map(|(_, info)| info).collect())
    }

    /// As [`Store::results_under`], of all sessions and of none.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn all_results_under(&self, prefix: &str) -> Result<Vec<(SessionKey, ResultInfo)>, StoreError> {
        let prefix = prefix.to_owned();
        let found = reading(&self.disk, move |disk| rows::read_all_results_under(disk, &prefix)).await?;
        Ok(self.standing(found).collect())
    }

    fn standing(
        &self,
        found: Vec<(ResultId, StoredResult)>,
    ) -> impl Iterator<Item = (SessionKey, ResultInfo)> {
        let now_ms = self.clock.now_ms();
        let standing = found.into_iter().filter(move |(_, result)| result.expires_ms > now_ms);
        standing.map(|(id, result)| (id.session, ResultInfo::of(id.name, &result)))
    }

    /// Forgets results before their time. Those that are not there are no error.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn forget_results(&self, session: SessionKey, names: Vec<String>) -> Result<(), StoreError> {
        let place = self.queue.place().await?;
        self.decide(place, move |disk| {
            let mut writes = Vec::new();
            for name in names {
                let id = ResultId { session, name };
                if let Some(stored) = disk.get(Table::Result, &rows::result(&id))? {
                    rows::remove_result(&id, &record::decode(&stored)?, &mut writes);
                }
            }
            Ok((writes, ()))
        })
        .await
    }
}

fn check(id: &ResultId, outcome: &Outcome, ttl: Duration) -> Result<(), StoreError> {
    check_name("a result", &id.name)?;
    check_ttl(ttl, RESULT_MAX_TTL)?;
    if outcome.rank > TERMINAL {
        return Err(StoreError::Invalid(format!("a result has rank 0 to {TERMINAL}, not {}", outcome.rank)));
    }
    if outcome.payload.len() > RESULT_BYTES {
        return Err(StoreError::Cap(format!(
            "a result of {} bytes is too long: {RESULT_BYTES} are kept",
            outcome.payload.len()
        )));
    }
    Ok(())
}
