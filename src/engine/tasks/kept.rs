//! How many tasks are kept, for whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::ids::{PrincipalHash, SessionKey, TaskClaims, TaskKey};
use crate::base::limits::{TASKS, TASKS_PER_PRINCIPAL, TASKS_PER_SESSION};

/// Whose tasks are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Principal(PrincipalHash),
    Session(SessionKey),
}

/// The tasks that are kept. A task is counted until its time is over.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By deadline, in milliseconds since the epoch, with whose they are.
    all: BTreeMap<(u64, TaskKey), Vec<Owner>>,
    by_owner: HashMap<Owner, BTreeSet<(u64, TaskKey)>>,
}

/// Room for a task that is being made. Dropping it gives the room back.
pub(super) struct Admitted<'a> {
    kept: &'a Kept,
    entry: (u64, TaskKey),
    stays: bool,
}

impl Kept {
    /// Makes room for a task.
    ///
    /// # Errors
    /// What is full, as a sentence.
    pub(super) fn admit(&self, claims: &TaskClaims, now_ms: u64) -> Result<Admitted<'_>, String> {
        let mut owners = vec![Owner::Principal(claims.principal)];
        if claims.session != SessionKey::BROADCAST {
            owners.push(Owner::Session(claims.session));
        }
        let mut state = self.lock();
        state.prune(now_ms);
        if state.all.len() >= TASKS {
            return Err(format!("{TASKS} tasks are kept already"));
        }
        for owner in &owners {
            let (bound, whose) = match owner {
                Owner::Principal(_) => (TASKS_PER_PRINCIPAL, "you have"),
                Owner::Session(_) => (TASKS_PER_SESSION, "this session has"),
            };
            if state.by_owner.get(owner).map_or(0, BTreeSet::len) >= bound {
                return Err(format!(
                    "{whose} {bound} tasks that are kept (ask for a shorter ttl to have more of them)"
                ));
            }
        }
        let entry = (claims.deadline_ms, claims.key);
        state.put(entry, owners);
        Ok(Admitted { kept: self, entry, stays: false })
    }

    /// Counts a task that was found in the store.
    pub(super) fn note(&self, deadline_ms: u64, key: TaskKey, principal: PrincipalHash, session: SessionKey) {
        let mut owners = vec![Owner::Principal(principal)];
        owners.extend((session != SessionKey::BROADCAST).then_some(Owner::Session(session)));
        self.lock().put((deadline_ms, key), owners);
    }

    /// Forgets the tasks of an owner that is no more.
    pub(super) fn forget(&self, owner: &Owner) {
        let mut state = self.lock();
        for entry in state.by_owner.remove(owner).unwrap_or_default() {
            state.remove(entry);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, entry: (u64, TaskKey), owners: Vec<Owner>) {
        for owner in &owners {
            self.by_owner.entry(*owner).or_default().insert(entry);
        }
        self.all.insert(entry, owners);
    }

    fn remove(&mut self, entry: (u64, TaskKey)) {
        for owner in self.all.remove(&entry).unwrap_or_default() {
            if let Some(held) = self.by_owner.get_mut(&owner) {
                held.remove(&entry);
                if held.is_empty() {
                    self.by_owner.remove(&owner);
                }
            }
        }
    }

    /// Forgets what is over.
    fn prune(&mut self, now_ms: u64) {
        while let Some((first, _)) =
            self.all.first_key_value().filter(|((until_ms, _), _)| *until_ms <= now_ms)
        {
            self.remove(*first);
        }
    }
}

impl Admitted<'_> {
    /// The task is there.
    pub(super) fn keep(mut self) {
        self.stays = true;
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.kept.lock().remove(self.entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Origin;

    fn claims(session: u8, principal: u8, deadline_ms: u64) -> TaskClaims {
        TaskClaims {
            deadline_ms,
            origin: Origin::from_bits(1),
            session: SessionKey::from_bytes([session; 16]),
            key: TaskKey::new(1),
            principal: PrincipalHash([principal; 8]),
        }
    }

    fn is_empty(kept: &Kept) -> bool {
        let state = kept.lock();
        state.all.is_empty() && state.by_owner.is_empty()
    }

    #[test]
    fn a_session_has_so_many_tasks_until_their_time_is_over_or_it_ends() {
        let kept = Kept::default();
        for _ in 0..TASKS_PER_SESSION {
            kept.admit(&claims(1, 1, 100), 0).unwrap().keep();
        }
        let full = kept.admit(&claims(1, 1, 100), 99).err().unwrap();
        assert!(full.contains("this session has") && full.contains("shorter ttl"), "{full}");
        // Another session, and none at all, have room of their own.
        kept.admit(&claims(2, 1, 100), 99).unwrap().keep();
        kept.admit(&claims(0, 1, 100), 99).unwrap().keep();
        kept.admit(&claims(1, 1, 200), 100).unwrap().keep();
        kept.forget(&Owner::Session(SessionKey::from_bytes([1; 16])));
        assert!(is_empty(&kept));
    }

    #[test]
    fn room_that_was_not_used_is_given_back_and_a_principal_has_a_bound_of_its_own() {
        let kept = Kept::default();
        drop(kept.admit(&claims(1, 1, 100), 0).unwrap());
        assert!(is_empty(&kept));
        for _ in 0..TASKS_PER_PRINCIPAL {
            let TaskClaims { deadline_ms, key, principal, session, .. } = claims(0, 1, 100);
            kept.note(deadline_ms, key, principal, session);
        }
        assert!(kept.admit(&claims(0, 1, 100), 0).err().unwrap().contains("you have"));
        kept.admit(&claims(0, 2, 100), 0).unwrap().keep();
    }
}
