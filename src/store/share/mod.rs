//! What this instance shares with its sisters: the same documents, logs and results, in a store that all of them reach.
//!
//! There is one way to write and one to read, whatever the state of the link. A write goes to the disk and is noted as
//! owed; if the link is up it is paid before the caller hears of it. A read is of what is held here if nothing newer
//! can be elsewhere, else of what is held joined with what is shared. Payments carry everything that a session owes, so
//! touching a session heals it; the healer pays for the others (docs/failover.md).

mod absorb;
mod cached;
mod conflicts;
mod debts;
mod form;
mod heal;
mod keys;
mod logs;
mod pay;
mod results;
mod risk;
mod wake;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub use self::cached::VoidMark;
use self::conflicts::Conflicts;
pub use self::conflicts::{Conflict, Conflicted};
use self::debts::Pledge;
pub(super) use self::debts::{Owed, OwedDoc};
use self::form::Form;
use self::heal::Pace;
pub use self::keys::Disagreement;
pub use self::logs::{Pulled, Told};
pub(super) use self::results::Asked;
pub use self::wake::Watch;
use self::wake::Woken;
use super::commit::Work;
use super::durable::{Table, Write};
use super::remote::{Event, LinkState, Remote, Shard};
use super::sessions::{Sessions, State};
use super::{Store, StoreError, reading, rows};
use crate::base::clock::millis;
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::RESEED_GRACE;

/// Epochs of shards are kept in so many places: two shards may share one, which costs a look too many.
const EPOCHS: usize = 64;

/// The shared store, and what is known of what it has.
pub(super) struct Sharing {
    /// Whose it is: payments are tasks of their own.
    store: Weak<Store>,
    remote: Arc<dyn Remote>,
    form: Form,
    debts: debts::Debts,
    /// Rise when events may have been missed.
    epochs: [AtomicU64; EPOCHS],
    /// The last number of a look at the shared store.
    looks: AtomicU64,
    woken: Woken,
    pace: Pace,
    /// When it was seen last that the shared store has lost something, on the clock that never goes back; 0: never.
    lost_ms: AtomicU64,
    conflicts: Conflicts,
    values: cached::SharedValues,
    counts: Counts,
    /// This instance and its sisters have the same keys: before that nothing is shared.
    agreed: AtomicBool,
    /// The shared store may have lost what was agreed on: it is said there again.
    unsure: AtomicBool,
    asked_keys: keys::Asked,
    /// The number of the last announcement of this process start. Held while one is made: they come in order.
    announced: tokio::sync::Mutex<u64>,
    /// The same of what is passed on to those who listen to topics.
    relayed: tokio::sync::Mutex<u64>,
    /// Why nothing is shared although the link is up.
    trouble: Mutex<Option<String>>,
}

/// Numbers of what happened.
#[derive(Debug, Default)]
struct Counts {
    healed: AtomicU64,
    healing_ms: AtomicU64,
    audited: AtomicU64,
    late_results: AtomicU64,
    forks: AtomicU64,
    restamped: AtomicU64,
    faults: AtomicU64,
}

/// How things stand between this instance and the shared store.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SharingStatus {
    /// Sessions that owe something, as far as memory knows.
    pub dirty_sessions: usize,
    /// There may be more of them on the disk.
    pub more_on_disk: bool,
    /// Sessions whose debts were paid, not at once but later.
    pub healed_sessions: u64,
    /// Time in which that was done, milliseconds.
    pub healing_ms: u64,
    /// An audit, in which everything that is held is offered again, is under way.
    pub auditing: bool,
    /// Sessions that were offered in audits.
    pub audited_sessions: u64,
    /// Acknowledged writes of fields that lost against a later one of another instance.
    pub conflicts: u64,
    /// Results that came after another one was final.
    pub late_results: u64,
    /// Writes that another process start made under the same name.
    pub forks: u64,
    /// Fields that were stamped anew, because this machine's clock was ahead.
    pub restamped: u64,
    /// Pushes that the shared store did not understand.
    pub faults: u64,
    /// Keys are agreed on with the sister instances: before that nothing is shared.
    pub agreed: bool,
    /// Why they are not, and what to do.
    pub trouble: Option<String>,
}

/// What a write makes owed, until it is on the disk.
pub(super) struct Pledged {
    sharing: Arc<Sharing>,
    key: SessionKey,
    pledge: Option<Pledge>,
    /// The fields that the write writes, of whichever process they are.
    names: BTreeSet<Arc<str>>,
    sessions: Arc<Sessions>,
    origin: Origin,
}

impl Pledged {
    /// The write is over, and the disk has it or not. Returns the number of the debt, which can be paid from now on.
    pub(super) fn arrived(mut self, written: bool) -> u64 {
        let pledge = self.pledge.take();
        if written {
            self.mark();
        }
        pledge.map_or(0, |pledge| self.sharing.debts.arrived(self.key, pledge, written))
    }

    /// Before the debt can be paid: what is paid is at risk no more.
    fn mark(&mut self) {
        // Just written, so it is there.
        let Some(session) = self.sessions.cached(self.key).filter(|_| !self.names.is_empty()) else { return };
        let fields = std::mem::take(&mut self.names).into_iter().filter_map(|name| {
            let stamp = session.doc.field(&name)?.stamp;
            (stamp.origin() == self.origin).then_some((name, stamp))
        });
        self.sharing.conflicts.at_risk.wrote(self.key, fields, !self.sharing.is_up(self.key));
    }
}

impl Drop for Pledged {
    fn drop(&mut self) {
        // Of a write that nobody saw end.
        if let Some(pledge) = self.pledge.take() {
            self.sharing.debts.arrived(self.key, pledge, false);
        }
    }
}

impl Sharing {
    fn epoch(&self, shard: Shard) -> u64 {
        self.place(shard).load(Ordering::Acquire)
    }

    #[expect(clippy::indexing_slicing, reason = "there are EPOCHS of them")]
    fn place(&self, shard: Shard) -> &AtomicU64 {
        &self.epochs[usize::from(shard.0) % EPOCHS]
    }

    fn is_up(&self, key: SessionKey) -> bool {
        self.is_agreed() && self.remote.state(self.remote.shard(key)) == LinkState::Up
    }

    fn is_agreed(&self) -> bool {
        self.agreed.load(Ordering::Acquire)
    }
}

impl Store {
    /// From now on this store shares what it holds. With `seal` it does so sealed with its keys, which all instances
    /// must have then. Called once, before anything else is done with it.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn attach(self: &Arc<Self>, remote: Arc<dyn Remote>, seal: bool) -> Result<(), StoreError> {
        let owing = reading(&self.disk, |disk| disk.scan(Table::Dirty, &[], &[u8::MAX; 64], 1)).await?;
        let sharing = Arc::new(Sharing {
            store: Arc::downgrade(self),
            remote: Arc::clone(&remote),
            form: Form::new(seal.then(|| self.keys().clone())),
            debts: debts::Debts::default(),
            epochs: std::array::from_fn(|_| AtomicU64::new(1)),
            looks: AtomicU64::new(0),
            woken: Woken::default(),
            pace: Pace::default(),
            lost_ms: AtomicU64::new(0),
            conflicts: Conflicts::default(),
            values: cached::SharedValues::default(),
            counts: Counts::default(),
            agreed: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
            asked_keys: keys::Asked::default(),
            announced: tokio::sync::Mutex::new(0),
            relayed: tokio::sync::Mutex::new(0),
            trouble: Mutex::new(None),
        });
        sharing.debts.set_spilled(!owing.is_empty());
        if self.sharing.set(sharing).is_err() {
            return Err(StoreError::Invalid("the store is attached to a shared store already".into()));
        }
        if !self.was_shared() {
            let noted = async {
                let place = self.queue.place().await?;
                self.decide(place, |_| {
                    Ok((vec![Write::Put(Table::Meta, rows::META_SHARED.to_vec(), Vec::new())], ()))
                })
                .await
            };
            if let Err(error) = noted.await {
                tracing::warn!(%error, "the disk does not take the note that it is shared: commands without a server would not owe what they write");
            }
        }
        let store = Arc::downgrade(self);
        remote.listen(Arc::new(move |event| {
            if let Some(store) = store.upgrade() {
                store.hear(event);
            }
        }));
        Ok(())
    }

    /// Whether anything is shared.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.sharing.get().is_some()
    }

    /// The link to the shard of a session; `None`: nothing is shared.
    #[must_use]
    pub fn link(&self, key: SessionKey) -> Option<LinkState> {
        self.sharing.get().map(|sharing| sharing.remote.state(sharing.remote.shard(key)))
    }

    /// Whether every instance finds at once what is written of a session now: nothing is shared, the shared store takes it,
    /// or there is no other instance.
    #[must_use]
    pub fn is_seen_by_all(&self, key: SessionKey) -> bool {
        self.sharing.get().is_none_or(|sharing| sharing.is_up(key) || sharing.remote.is_alone())
    }

    /// Whether what the shared store does not have is not there: it has lost nothing lately, and what was lost was offered
    /// again.
    pub(super) fn is_whole(&self) -> bool {
        self.sharing.get().is_none_or(|sharing| {
            let lost_ms = sharing.lost_ms.load(Ordering::Relaxed);
            let grace_ms = millis(RESEED_GRACE);
            sharing.is_agreed()
                && !sharing.pace.is_auditing()
                && (lost_ms == 0 || self.clock.monotonic_ms().saturating_sub(lost_ms) >= grace_ms)
        })
    }

    /// Who gives locks of all instances; else why nobody does.
    pub(super) fn lock_giver(&self) -> Result<&dyn Remote, String> {
        match self.sharing.get() {
            None => Err("this process shares nothing with others".to_owned()),
            Some(sharing) if !sharing.is_agreed() => {
                Err("this instance has not agreed on keys with its sisters yet".to_owned())
            }
            Some(sharing) => Ok(&*sharing.remote),
        }
    }

    /// How things stand; `None`: nothing is shared.
    #[must_use]
    pub fn sharing_status(&self) -> Option<SharingStatus> {
        let sharing = self.sharing.get()?;
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Some(SharingStatus {
            dirty_sessions: sharing.debts.count(),
            more_on_disk: sharing.debts.is_spilled(),
            healed_sessions: count(&sharing.counts.healed),
            healing_ms: count(&sharing.counts.healing_ms),
            auditing: sharing.pace.is_auditing(),
            audited_sessions: count(&sharing.counts.audited),
            conflicts: sharing.conflicts.count(),
            late_results: count(&sharing.counts.late_results),
            forks: count(&sharing.counts.forks),
            restamped: count(&sharing.counts.restamped),
            faults: count(&sharing.counts.faults),
            agreed: sharing.is_agreed(),
            trouble: sharing.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }

    /// Sessions that owe something, as far as memory knows.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.sharing.get().map_or(0, |sharing| sharing.debts.count())
    }

    /// Pledges what a write makes owed, before the write takes its place: to be told when it is over.
    pub(super) fn pledge(&self, key: SessionKey, owes: Owed, work: &mut Work) -> Option<Pledged> {
        let sharing = self.sharing.get()?;
        if owes.is_nothing() {
            return None;
        }
        let names = match &owes.doc {
            OwedDoc::Fields(names) => names.clone(),
            OwedDoc::Nothing | OwedDoc::All => BTreeSet::new(),
        };
        let pledge = sharing.debts.pledge(key, owes);
        if pledge.row {
            let row = Write::Put(Table::Dirty, key.as_bytes().to_vec(), Vec::new());
            *work = match std::mem::replace(work, Work::Writes(Vec::new())) {
                Work::Writes(mut writes) => {
                    writes.insert(0, row);
                    Work::Writes(writes)
                }
                Work::Decide(decide) => Work::Decide(Box::new(move |disk| {
                    let mut writes = decide(disk)?;
                    writes.insert(0, row);
                    Ok(writes)
                })),
            };
        }
        Some(Pledged {
            sharing: Arc::clone(sharing),
            key,
            pledge: Some(pledge),
            names,
            sessions: Arc::clone(&self.sessions),
            origin: self.origin,
        })
    }

    /// Sees to it that what is held of a session is what any instance made of it, as far as it can be known now.
    ///
    /// # Errors
    /// Failures of the disk; not those of the link.
    pub(super) async fn freshen(&self, key: SessionKey) -> Result<(), StoreError> {
        match self.is_fresh(key) {
            true => Ok(()),
            false => self.refresh(key).await.map(drop),
        }
    }

    /// The same for a write that depends on what is there. News of a write that another instance has acknowledged may
    /// still be on its way here, so the shared store itself is asked while it can be. False: it did not answer, and the
    /// write need not wait for it a second time.
    ///
    /// # Errors
    /// Failures of the disk; not those of the link.
    pub(super) async fn look_again(&self, key: SessionKey) -> Result<bool, StoreError> {
        match self.link(key) {
            Some(LinkState::Up | LinkState::ReadOnly) => {
                self.join_shared(key).await.map(|(_, answered)| answered)
            }
            Some(LinkState::Down | LinkState::Isolated) | None => Ok(true),
        }
    }

    /// Whether nothing newer than what is held of a session can be anywhere, as far as it can be known now: nothing is
    /// shared, or it was confirmed and nothing was heard since.
    #[must_use]
    pub fn is_fresh(&self, key: SessionKey) -> bool {
        let Some(sharing) = self.sharing.get().filter(|sharing| sharing.is_agreed()) else { return true };
        let shard = sharing.remote.shard(key);
        match sharing.remote.state(shard) {
            LinkState::Down | LinkState::Isolated => true,
            LinkState::Up | LinkState::ReadOnly => {
                sharing.remote.is_leased(shard)
                    && self.sessions.cached(key).is_some_and(|held| held.life.is_fresh(sharing.epoch(shard)))
            }
        }
    }

    /// Joins what is held of a session with what is shared of it.
    ///
    /// # Errors
    /// Failures of the disk; not those of the link.
    pub(super) async fn refresh(&self, key: SessionKey) -> Result<State, StoreError> {
        self.join_shared(key).await.map(|(state, _)| state)
    }

    /// The same, and whether the shared store answered.
    async fn join_shared(&self, key: SessionKey) -> Result<(State, bool), StoreError> {
        let held = self.committed(key).await?;
        let Some(sharing) = self.sharing.get().filter(|sharing| sharing.is_agreed()) else {
            return Ok((held, true));
        };
        let shard = sharing.remote.shard(key);
        let epoch = sharing.epoch(shard);
        let look = sharing.looks.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(held) = &held {
            held.life.look(look);
        }
        let Ok(fields) = sharing.remote.pull_doc(key).await else { return Ok((held, false)) };
        let mut read = sharing.form.doc(key, &fields);
        if let Some(id) = read.as_ref().err().and_then(|_| sharing.form.unknown_key(&fields))
            && self.find_key(id).await
        {
            read = sharing.form.doc(key, &fields);
        }
        let doc = match read {
            Ok(doc) => doc,
            Err(error) => {
                sharing.counts.faults.fetch_add(1, Ordering::Relaxed);
                tracing::error!(session = %key, %error, "a session in the shared store cannot be read");
                return Ok((held, true));
            }
        };
        let Some(doc) = doc else {
            // What the shared store does not have although it lives here was lost there.
            if held.as_ref().is_some_and(|held| held.is_live(self.clock.now_ms())) {
                self.owe_again(key, Owed::all());
            }
            return Ok((held, true));
        };
        let now = self.absorb(key, doc).await?;
        if let (Some(held), true) = (&held, sharing.remote.is_leased(shard)) {
            held.life.confirm(look, epoch);
        }
        Ok((now, true))
    }

    /// Notes that something is owed although nothing was written here. The disk is not told: what made it come to light
    /// does so again after a restart.
    fn owe_again(&self, key: SessionKey, owed: Owed) {
        if let Some(sharing) = self.sharing.get() {
            sharing.debts.owe_unwritten(key, owed);
        }
    }

    /// Takes in what the shared store tells. Called in between its work: short.
    fn hear(&self, event: Event) {
        let Some(sharing) = self.sharing.get() else { return };
        match event {
            Event::Document(key) => {
                if let Some(held) = self.sessions.cached(key) {
                    held.life.stale();
                }
                sharing.woken.document(key);
            }
            Event::Log(key) => sharing.woken.log(key),
            Event::Result(key, name) => sharing.woken.result(key, name),
            Event::Cache(key) => {
                self.values.forget(&key);
                // Also where it was put by this instance: several writes are told as one.
                if let Some(watch) = sharing.woken.watcher() {
                    watch.cached(&key);
                }
            }
            Event::Voided => sharing.values.voided(self.clock.monotonic_ms()),
            Event::Lapsed(shard) => {
                sharing.place(shard).fetch_add(1, Ordering::AcqRel);
                self.values.forget_all();
                sharing.values.lapsed();
                sharing.woken.all();
                sharing.woken.lapsed();
            }
            Event::State(shard, state) => {
                sharing.woken.link(shard, state);
                if state == LinkState::Up {
                    sharing.woken.all();
                    sharing.values.wake();
                    sharing.pace.wake();
                }
            }
            Event::Lineage(shard) => {
                tracing::warn!(
                    shard = shard.0,
                    "the shared store has lost something or was replaced: what is held here is offered again"
                );
                sharing.place(shard).fetch_add(1, Ordering::AcqRel);
                sharing.unsure.store(true, Ordering::Release);
                sharing.woken.all();
                sharing.lost_ms.store(self.clock.monotonic_ms().max(1), Ordering::Relaxed);
                sharing.values.lapsed();
                sharing.pace.audit();
            }
        }
    }
}

impl std::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sharing").field("remote", &self.remote).finish_non_exhaustive()
    }
}
