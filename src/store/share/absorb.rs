//! Taking in what other instances made of a session.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use super::conflicts::Losses;
use super::{Owed, OwedDoc};
use crate::base::ids::SessionKey;
use crate::state::doc::Doc;
use crate::store::cache::{Life, Session};
use crate::store::commit::Work;
use crate::store::durable::{Durable, Table, Write};
use crate::store::record::{self, Head, StoredStamp};
use crate::store::sessions::State;
use crate::store::write::{Plan, unchanged};
use crate::store::{Store, StoreError, redo, rows, sweep};

impl Store {
    /// Joins a session with a copy of it, and returns what it is then. What the copy lacks is owed. A disk that takes no
    /// writes leaves what is held as it is.
    pub(super) async fn absorb(&self, key: SessionKey, copy: Doc) -> Result<State, StoreError> {
        let now_ms = self.clock.now_ms();
        let held = self.committed(key).await?;
        if let Some(held) =
            held.as_ref().filter(|held| !held.is_over(now_ms) && adds_nothing(&held.doc, &copy))
        {
            self.owe_what_lacks(key, &held.doc, &copy);
            self.use_until(&held.life, &copy);
            return Ok(Some(Arc::clone(held)));
        }
        if now_ms >= copy.deadline_ms() {
            return Ok(held);
        }
        if let Some(newest) = copy.version().0 {
            self.stamps.lock().unwrap_or_else(PoisonError::into_inner).observe(newest);
        }
        let place = match self.place().await {
            Ok(place) => place,
            Err(error) => {
                tracing::debug!(session = %key, %error, "what another instance wrote is not kept here");
                return Ok(held);
            }
        };
        let watched = held.is_some();
        let mut losses = Losses::new(self.sharing.get().cloned(), key, self.origin);
        let written =
            self.write(key, place, |current| self.plan_absorb(key, copy, &current, &mut losses)).await;
        if written.is_err() {
            losses.none();
        }
        drop(losses);
        let state = written?;
        if watched && let Some(sharing) = self.sharing.get() {
            sharing.woken.absorbed(key, state.as_ref());
        }
        if state.as_ref().is_some_and(|state| state.doc.ended().is_some()) {
            if let Some(sharing) = self.sharing.get() {
                sharing.conflicts.at_risk.forget(key);
            }
            // Boxed: it asks for locks of all instances to be let go.
            Box::pin(self.release_locks_of(key)).await?;
        }
        Ok(state)
    }

    /// A use elsewhere is a use.
    fn use_until(&self, life: &Life, copy: &Doc) {
        life.extend(copy.last_seen_ms().saturating_add(self.settings.idle_ms));
    }

    fn owe_what_lacks(&self, key: SessionKey, held: &Doc, copy: &Doc) {
        let lacking = |name: &str| match (held.field(name), copy.field(name)) {
            (Some(held), Some(copy)) => held.stamp > copy.stamp,
            (held, _) => held.is_some(),
        };
        let owed = match (held.ended(), copy.ended()) {
            (Some(ended), copy) if copy.is_none_or(|copy| ended < copy) => Owed::doc(OwedDoc::All),
            (None, None) => {
                let names = held.stamped().map(|(name, _)| name).filter(|name| lacking(name));
                let names: BTreeSet<Arc<str>> = names.map(Into::into).collect();
                if names.is_empty() {
                    return;
                }
                Owed::doc(OwedDoc::Fields(names))
            }
            _ => return,
        };
        self.owe_again(key, owed);
    }

    fn plan_absorb(
        &self,
        key: SessionKey,
        copy: Doc,
        current: &State,
        losses: &mut Losses,
    ) -> Result<Plan<State>, StoreError> {
        let now_ms = self.clock.now_ms();
        let as_state = |plan: Plan<()>| {
            let Plan { next, work, newest_ms, owes, .. } = plan;
            Plan { value: next.clone(), next, work, newest_ms, owes }
        };
        if let Some(stamp) = copy.ended() {
            // This instance may have put some of the log there since. Not waited for: who pays may be who takes this in.
            self.owe_again(key, Owed::log());
            return self.plan_end(key, copy.deadline_ms(), Some(stamp), current).map(as_state);
        }
        let standing = current.as_ref().filter(|held| !held.is_over(now_ms));
        if let Some(held) =
            standing.filter(|held| held.doc.ended().is_some() || adds_nothing(&held.doc, &copy))
        {
            self.owe_what_lacks(key, &held.doc, &copy);
            return Ok(unchanged(current, current.clone()));
        }
        let mut writes = Vec::new();
        // Also of one whose time was over here: nobody knew that it was used elsewhere.
        let mut doc = current.as_ref().map_or_else(|| copy.clone(), |held| Doc::clone(&held.doc));
        doc.join(&copy);
        for (name, field) in doc.stamped() {
            let old = standing.and_then(|held| held.doc.field(name));
            if old != Some(field) {
                if let Some(old) = old {
                    losses.replaced(name, old, field);
                }
                rows::put_field(&self.sealer, key, name, field, old, &mut writes)?;
            }
        }
        let created_ms = current.as_ref().map_or(0, |held| held.created_ms);
        let seen = doc.seen().unwrap_or_else(|| self.stamp());
        let head = Head {
            principal: doc.principal().to_string(),
            deadline_ms: doc.deadline_ms(),
            seen: StoredStamp(seen),
            created_ms,
            keep_ms: 0,
            ended: None,
        };
        let life = match standing {
            Some(held) => Arc::clone(&held.life),
            None => {
                if let Some(before) = current.as_ref().filter(|held| held.doc.ended().is_none()) {
                    self.sessions.counts().remove(before.doc.principal());
                }
                // Caps are for those who make sessions: this one is made.
                self.sessions.counts().add(doc.principal(), 1);
                writes.insert(
                    0,
                    Write::Put(
                        Table::Expiry,
                        rows::expiry(sweep::due_ms(self.settings, &head), key),
                        Vec::new(),
                    ),
                );
                Life::new(seen.ms().saturating_add(self.settings.idle_ms), seen.ms())
            }
        };
        self.use_until(&life, &copy);
        let is_new = standing.is_none();
        let decide = move |disk: &dyn Durable| {
            let mut all = if is_new { sweep::fade(disk, key, now_ms)? } else { Vec::new() };
            all.append(&mut writes);
            let stored = disk.get(Table::Head, key.as_bytes())?.filter(|_| !is_new);
            let standing: Option<Head> = stored.map(|stored| record::decode(&stored)).transpose()?;
            let head = match standing {
                // Uses and extensions change the row there.
                Some(standing) => {
                    let seen = if standing.seen.0 > head.seen.0 { standing.seen } else { head.seen };
                    Head { seen, keep_ms: standing.keep_ms, ..head }
                }
                None => head,
            };
            // The head comes last: a session that is new here is there when it is whole. What is changed of one that is
            // there goes together.
            all.push(Write::Put(Table::Head, key.as_bytes().to_vec(), record::encode(&head)?));
            if is_new { Ok(all) } else { redo::whole(disk, all) }
        };
        self.owe_what_lacks(key, &doc, &copy);
        let next = Some(Arc::new(Session { doc: Arc::new(doc), life, created_ms }));
        Ok(Plan {
            value: next.clone(),
            next,
            work: Work::Decide(Box::new(decide)),
            newest_ms: 0,
            owes: Owed::default(),
        })
    }
}

/// Whether joining `copy` into `held` would change nothing but the time of the last use.
fn adds_nothing(held: &Doc, copy: &Doc) -> bool {
    if let Some(ended) = held.ended() {
        return copy.ended().is_none_or(|copy| copy >= ended);
    }
    copy.ended().is_none()
        && copy.deadline_ms() <= held.deadline_ms()
        && copy.stamped().all(|(name, field)| {
            held.field(name).is_some_and(|own| (own.stamp, &own.value) >= (field.stamp, &field.value))
        })
}
