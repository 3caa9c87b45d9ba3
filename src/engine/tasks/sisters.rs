//! Tasks that sister instances work on: one whose instance is gone is taken over here.
//!
//! Every report of a task is a write to the shared store, of which every instance hears. So each of them remembers the
//! tasks of the others, and looks at one of which nothing was heard for longer than its lease; one that somebody asks for
//! is looked at when its lease is over. Whether it is taken over decides [`Engine::take_care`], for one instance at a time
//! and only while the shared store can be asked.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::record::{Named, Stored, unpack};
use super::{Identity, lease_ms};
use crate::base::ids::{SessionKey, TaskKey};
use crate::base::limits::{TASK_TURN_WAIT, TASKS_HEARD_OF, TASKS_LOOKED_AT};
use crate::engine::Engine;
use crate::state::task::Task;
use crate::store::ResultId;
use crate::tools::BoxFuture;

/// What was heard of the tasks of all instances.
#[derive(Debug, Default)]
pub(super) struct Sisters(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    heard: HashMap<TaskKey, Heard>,
    /// Those that are being taken care of.
    busy: HashSet<TaskKey>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    session: SessionKey,
    named: Named,
    /// When it is to be looked at, on the clock that never goes back, milliseconds.
    look_ms: u64,
}

impl Sisters {
    /// A report of a task was heard of.
    pub(super) fn heard(&self, session: SessionKey, named: Named, now_ms: u64) {
        let mut state = self.lock();
        if state.heard.len() < TASKS_HEARD_OF || state.heard.contains_key(&named.key) {
            let look_ms = now_ms.saturating_add(silence_ms());
            state.heard.insert(named.key, Heard { session, named, look_ms });
        }
    }

    /// Those of which nothing was heard for too long. Each is looked at again after another such time, unless it is
    /// forgotten.
    fn silent(&self, now_ms: u64) -> Vec<(SessionKey, Named)> {
        let mut state = self.lock();
        let silent = state.heard.values_mut().filter(|heard| heard.look_ms <= now_ms).take(TASKS_LOOKED_AT);
        silent
            .map(|heard| {
                heard.look_ms = now_ms.saturating_add(silence_ms());
                (heard.session, heard.named)
            })
            .collect()
    }

    fn forget(&self, key: TaskKey) {
        self.lock().heard.remove(&key);
    }

    /// True for the one who takes care of it now.
    fn begin(&self, key: TaskKey) -> bool {
        self.lock().busy.insert(key)
    }

    fn end(&self, key: TaskKey) {
        self.lock().busy.remove(&key);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long nothing may be heard of a task before it is looked at, milliseconds: when its lease is over for certain.
fn silence_ms() -> u64 {
    lease_ms().saturating_add(1_000)
}

/// A task that is being taken care of; dropping it lets others try.
struct Busy(Arc<Engine>, TaskKey);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.mcp_tasks.sisters.end(self.1);
    }
}

impl Engine {
    /// A result was reported somewhere; of tasks it is remembered, and told to who listens here.
    pub(in crate::engine) fn heard_of_report(self: &Arc<Self>, session: SessionKey, name: &str) {
        let Some(named) = Named::read(name).filter(|named| named.whole) else { return };
        self.mcp_tasks.sisters.heard(session, named, self.clock.monotonic_ms());
        // Of one that is worked on here it is told by its worker.
        if self.mcp_tasks.heard.with(&named.key, |_| ()).is_some()
            && self.mcp_tasks.running.with(&named.key, |_| ()).is_none()
        {
            let engine = Arc::clone(self);
            self.tasks.spawn(async move { engine.tell_of_sister(session, named).await });
        }
    }

    /// Tells who listens here where a task stands that is worked on elsewhere.
    async fn tell_of_sister(&self, session: SessionKey, named: Named) {
        let _one = self.mcp_tasks.telling.lock().await;
        let state = ResultId { session, name: named.name() };
        let stored = self.store.result(&state).await.ok().flatten();
        let Some(stored) = stored.and_then(|stored| unpack::<Stored>(&stored).ok()) else { return };
        let identity = Identity::stored(&stored, session, &named);
        let task = Arc::new(stored.task);
        for listener in self.mcp_tasks.heard.with(&named.key, Clone::clone).unwrap_or_default() {
            listener.task_changed(&identity, &task);
        }
    }

    /// Looks at tasks of which nothing was heard for longer than their lease. Called about once a second.
    pub(in crate::engine) fn look_after_sisters(self: &Arc<Self>) {
        if !self.store.is_shared() || self.stopping.is_cancelled() {
            return;
        }
        for (session, named) in self.mcp_tasks.sisters.silent(self.clock.monotonic_ms()) {
            if self.mcp_tasks.running.with(&named.key, |_| ()).is_none() {
                tokio::spawn(self.look_after(session, named));
            }
        }
    }

    /// Whether nobody may be working on a task, as far as its last report says.
    pub(super) fn may_be_left(&self, task: &Task) -> bool {
        self.store.is_shared() && task.end.is_none() && self.clock.now_ms() >= task.lease_ms
    }

    /// Takes care of a task that may be left alone, and waits for that a little.
    pub(super) async fn see_after(self: &Arc<Self>, identity: &Identity) {
        let looking = tokio::spawn(self.look_after(identity.session, identity.named()));
        let _ = tokio::time::timeout(TASK_TURN_WAIT, looking).await;
    }

    // Boxed: taking over a task loads its session, whose calls may wait for tasks.
    fn look_after(self: &Arc<Self>, session: SessionKey, named: Named) -> BoxFuture<'static, ()> {
        let engine = Arc::clone(self);
        Box::pin(async move {
            if !engine.mcp_tasks.sisters.begin(named.key) {
                return;
            }
            let busy = Busy(engine, named.key);
            let engine = &busy.0;
            match engine.recover(session, named, &named.name()).await {
                // It has ended, is worked on here, or is nowhere.
                Ok(true) => engine.mcp_tasks.sisters.forget(named.key),
                // Its worker lives, or whether it does cannot be said.
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(task = %named.key, %error, "a task of another instance cannot be looked at now")
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::PrincipalHash;

    #[test]
    fn a_task_is_looked_at_when_nothing_was_heard_of_it_for_its_lease_and_once_at_a_time() {
        let sisters = Sisters::default();
        let named = Named { principal: PrincipalHash([1; 8]), key: TaskKey::new(5), whole: true };
        let session = SessionKey::BROADCAST;
        sisters.heard(session, named, 0);
        sisters.heard(session, named, 1_000);
        assert_eq!(sisters.silent(lease_ms() + 1_000), []);
        assert_eq!(sisters.silent(lease_ms() + 2_000), [(session, named)]);
        assert_eq!(sisters.silent(lease_ms() + 2_000), [], "not again at once");
        assert!(sisters.begin(named.key) && !sisters.begin(named.key));
        sisters.end(named.key);
        assert!(sisters.begin(named.key));
        sisters.forget(named.key);
        assert_eq!(sisters.silent(u64::MAX), []);
    }
}
