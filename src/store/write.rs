//! How a write of a session is decided: under a lock that gives writes their order, on what the last one made.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::cache::{Life, Session};
use super::commit::Work;
use super::durable::{Durable, Table, Write};
use super::locks::Fenced;
use super::record::{Head, StoredStamp};
use super::sessions::{Shard, State};
use super::share::{Owed, OwedDoc};
use super::{Created, FieldWrite, Settings, Store, StoreError, record, redo, rows, sweep};
use crate::base::clock::millis;
use crate::base::ids::SessionKey;
use crate::base::limits::{FIELD_NAME_BYTES, STAMP_AHEAD};
use crate::state::doc::{Doc, Field};
use crate::state::quota::Reached;
use crate::state::stamp::Stamp;

/// A write that was decided on: what it makes of the session, and what goes to the disk.
pub(super) struct Plan<T> {
    pub(super) next: State,
    pub(super) work: Work,
    pub(super) newest_ms: u64,
    /// What this makes owed to the shared store, if there is one.
    pub(super) owes: Owed,
    pub(super) value: T,
}

/// How a write is made.
struct How {
    /// Also when the values do not open.
    blind: bool,
    /// What it makes owed is paid at once, if it can be.
    pays: bool,
}

impl Default for How {
    fn default() -> Self {
        Self { blind: false, pays: true }
    }
}

/// A session that is to be made.
pub(super) struct NewSession<'a> {
    pub(super) principal: &'a str,
    pub(super) deadline_ms: u64,
    /// Nobody has used it for so long already, milliseconds.
    pub(super) unused_ms: u64,
    pub(super) fields: Vec<FieldWrite>,
}

/// Writes nothing, and resolves when everything before it is on the disk.
pub(super) fn unchanged<T>(current: &State, value: T) -> Plan<T> {
    Plan { next: current.clone(), work: Work::Writes(Vec::new()), newest_ms: 0, owes: Owed::default(), value }
}

impl Store {
    /// Decides on a write of a session under its lock, and waits until the disk has it.
    pub(super) async fn write<T, F>(
        &self,
        key: SessionKey,
        place: impl Into<OwnedSemaphorePermit>,
        plan: F,
    ) -> Result<T, StoreError>
    where
        F: FnOnce(State) -> Result<Plan<T>, StoreError>,
    {
        self.write_on(key, place.into(), None, How::default(), plan).await
    }

    /// The same for a write that needs no values: it is also made when they do not open.
    pub(super) async fn write_blind<T, F>(
        &self,
        key: SessionKey,
        place: OwnedSemaphorePermit,
        plan: F,
    ) -> Result<T, StoreError>
    where
        F: FnOnce(State) -> Result<Plan<T>, StoreError>,
    {
        self.write_on(key, place, None, How { blind: true, ..How::default() }, plan).await
    }

    /// The same after [`Store::look_again`], which said whether the shared store `answered`, and if nobody has taken the
    /// lock since this fence of it was given.
    pub(super) async fn write_after_look<T, F>(
        &self,
        key: SessionKey,
        place: impl Into<OwnedSemaphorePermit>,
        answered: bool,
        fence: Option<&Fenced>,
        plan: F,
    ) -> Result<T, StoreError>
    where
        F: FnOnce(State) -> Result<Plan<T>, StoreError>,
    {
        self.write_on(key, place.into(), fence, How { pays: answered, ..How::default() }, plan).await
    }

    async fn write_on<T, F>(
        &self,
        key: SessionKey,
        place: OwnedSemaphorePermit,
        fence: Option<&Fenced>,
        how: How,
        plan: F,
    ) -> Result<T, StoreError>
    where
        F: FnOnce(State) -> Result<Plan<T>, StoreError>,
    {
        let mut attempt = |shard: &mut Shard, current: State| {
            // Held until the write has its place: nobody takes the lock in between.
            let now_ms = self.clock.monotonic_ms();
            let _fenced = fence.map(|fence| self.locks.admit(fence, now_ms)).transpose()?;
            let Plan { next, mut work, newest_ms, owes, value } = plan(current.clone())?;
            let pledged = self.pledge(key, owes, &mut work);
            let (tell, told) = oneshot::channel();
            shard.begin(key, current, next.clone());
            let sessions = Arc::clone(&self.sessions);
            let done = move |result: Result<(), StoreError>| {
                sessions.finish(key, next, &result);
                let number = pledged.map(|pledged| pledged.arrived(result.is_ok()));
                // Nobody listens when the caller has given up; the write stands all the same.
                let _ = tell.send(result.map(|()| number));
            };
            self.queue.submit(place, work, newest_ms, Box::new(done));
            Ok((value, told))
        };
        let mut read = None;
        let (value, told) = loop {
            match self.sessions.with_latest(key, read.take(), attempt) {
                Ok(decided) => break decided?,
                Err((epoch, back)) => {
                    attempt = back;
                    let state = match self.read(key, epoch).await {
                        Err(StoreError::Sealed(_)) if how.blind => Some(self.read_head(key).await?),
                        read => read?,
                    };
                    read = state.map(|state| (epoch, state));
                }
            }
        };
        if let Some(number) = told.await.unwrap_or(Err(StoreError::Closed))?.filter(|_| how.pays) {
            // Boxed: paying takes in what others wrote, which is a write.
            Box::pin(self.pay(key, Some(number))).await;
        }
        Ok(value)
    }

    /// A session that begins, unless it lives already.
    pub(super) fn plan_create(
        &self,
        key: SessionKey,
        new: NewSession<'_>,
        stamps: &mut dyn FnMut(Option<Stamp>) -> Stamp,
        current: &State,
    ) -> Result<Plan<Created>, StoreError> {
        let NewSession { principal, deadline_ms, unused_ms, fields } = new;
        let now_ms = self.clock.now_ms();
        match current {
            Some(session) if session.is_live(now_ms) => {
                return Ok(unchanged(current, Created { doc: Arc::clone(&session.doc), made: false }));
            }
            Some(session) if session.doc.ended().is_some() && !session.is_over(now_ms) => {
                return Err(StoreError::Gone);
            }
            _ => {}
        }
        if now_ms >= deadline_ms {
            return Err(StoreError::Gone);
        }
        let born = self.stamp();
        let mut doc = Doc::new(principal, deadline_ms, born);
        let mut writes = Vec::new();
        let newest = self.put_fields(key, &mut doc, fields, stamps, &mut writes)?.unwrap_or(born);
        let seen = match unused_ms {
            0 => born,
            // What is judged by the disk alone is given the time between two notes of its use; this is none.
            _ => {
                let before_ms = unused_ms.saturating_add(self.settings.touch_ms());
                Stamp::new(born.ms().saturating_sub(before_ms), 0, born.origin())
            }
        };
        let head = Head {
            principal: doc.principal().to_string(),
            deadline_ms,
            seen: StoredStamp(seen),
            created_ms: now_ms,
            keep_ms: 0,
            ended: None,
        };
        let seen_ms = now_ms.saturating_sub(unused_ms);
        let life = Life::new(seen_ms.saturating_add(self.settings.idle_ms), seen_ms);
        let due = rows::expiry(sweep::due_ms(self.settings, &head), key);
        writes.insert(0, Write::Put(Table::Expiry, due, Vec::new()));
        // The head comes last: a session that is there is whole.
        writes.push(Write::Put(Table::Head, key.as_bytes().to_vec(), record::encode(&head)?));
        let before = current.as_ref().filter(|session| session.doc.ended().is_none());
        self.count_in(doc.principal(), before.map(|session| session.doc.principal()))?;
        let decide = move |disk: &dyn Durable| {
            let mut all = sweep::fade(disk, key, now_ms)?;
            all.append(&mut writes);
            Ok(all)
        };
        let doc = Arc::new(doc);
        Ok(Plan {
            next: Some(Arc::new(Session { doc: Arc::clone(&doc), life, created_ms: now_ms })),
            work: Work::Decide(Box::new(decide)),
            newest_ms: newest.ms(),
            owes: Owed::all(),
            value: Created { doc, made: true },
        })
    }

    /// A session that ends, unless it has. `stamp`: when, if it was ended elsewhere.
    pub(super) fn plan_end(
        &self,
        key: SessionKey,
        deadline_ms: u64,
        stamp: Option<Stamp>,
        current: &State,
    ) -> Result<Plan<()>, StoreError> {
        if current.as_ref().is_some_and(|session| session.doc.ended().is_some()) {
            return Ok(unchanged(current, ()));
        }
        let owes = if stamp.is_some() { Owed::default() } else { Owed::doc(OwedDoc::All) };
        let stamp = stamp.unwrap_or_else(|| self.stamp());
        let mut doc = current
            .as_ref()
            .map_or_else(|| Doc::new("", deadline_ms, stamp), |session| Doc::clone(&session.doc));
        let created_ms = current.as_ref().map_or(0, |session| session.created_ms);
        let head = Head {
            principal: doc.principal().to_string(),
            deadline_ms: doc.deadline_ms(),
            seen: StoredStamp(doc.seen().unwrap_or(stamp)),
            created_ms,
            keep_ms: 0,
            ended: Some(StoredStamp(stamp)),
        };
        doc.end(stamp);
        if current.is_some() {
            self.sessions.counts().remove(doc.principal());
        }
        let mut writes = vec![
            Write::Put(Table::Expiry, rows::expiry(doc.deadline_ms(), key), Vec::new()),
            Write::Put(Table::Head, key.as_bytes().to_vec(), record::encode(&head)?),
            rows::clear(Table::Doc, key),
            rows::clear(Table::Log, key),
            rows::clear(Table::Mark, key),
        ];
        let life = Life::new(doc.deadline_ms(), stamp.ms());
        let decide = move |disk: &dyn Durable| {
            for (id, result) in rows::read_results(disk, key)? {
                rows::remove_result(&id, &result, &mut writes);
            }
            Ok(writes)
        };
        Ok(Plan {
            next: Some(Arc::new(Session { doc: Arc::new(doc), life, created_ms })),
            work: Work::Decide(Box::new(decide)),
            newest_ms: stamp.ms(),
            owes,
            value: (),
        })
    }

    /// Fields that are written, all or none whatever happens; `None` when nothing would change.
    pub(super) fn plan_update(
        &self,
        key: SessionKey,
        session: &Arc<Session>,
        fields: Vec<FieldWrite>,
    ) -> Result<Option<Plan<Arc<Doc>>>, StoreError> {
        let mut doc = Doc::clone(&session.doc);
        let mut writes = Vec::with_capacity(fields.len());
        let names = fields.iter().map(|(name, _)| name.as_str().into()).collect();
        // A value alone, however long, is there by its last row.
        let is_one = matches!(fields.as_slice(), [(_, Some(_))]);
        let mut stamps = |old: Option<Stamp>| old.map_or_else(|| self.stamp(), |old| self.stamp_after(old));
        let Some(newest) = self.put_fields(key, &mut doc, fields, &mut stamps, &mut writes)? else {
            return Ok(None);
        };
        let doc = Arc::new(doc);
        Ok(Some(Plan {
            next: Some(Arc::new(Session {
                doc: Arc::clone(&doc),
                life: Arc::clone(&session.life),
                created_ms: session.created_ms,
            })),
            work: match is_one {
                true => Work::Writes(writes),
                false => Work::Decide(Box::new(move |disk| redo::whole(disk, writes))),
            },
            newest_ms: newest.ms(),
            owes: Owed::doc(OwedDoc::Fields(names)),
            value: doc,
        }))
    }

    /// Puts fields into a document, stamped by `stamps` after the stamp that each has, and their rows into `writes`. Returns the newest stamp.
    pub(super) fn put_fields(
        &self,
        key: SessionKey,
        doc: &mut Doc,
        fields: Vec<FieldWrite>,
        stamps: &mut dyn FnMut(Option<Stamp>) -> Stamp,
        writes: &mut Vec<Write>,
    ) -> Result<Option<Stamp>, StoreError> {
        let mut newest = None;
        let (before, fields_before) = (doc.bytes(), doc.fields().count());
        for (name, value) in fields {
            if !Doc::is_field_name(&name) {
                return Err(StoreError::Invalid(format!(
                    "{name:?} cannot be the name of a field: want 1 to {FIELD_NAME_BYTES} bytes without NUL, not \
                     beginning with ~"
                )));
            }
            let old = doc.field(&name).cloned();
            if value.is_none() && old.as_ref().is_none_or(|old| old.value.is_none()) {
                continue;
            }
            self.check_value(&name, value.as_ref())?;
            // A value of another instance may carry a later stamp than this one's clock has reached.
            let stamp = stamps(old.as_ref().map(|old| old.stamp));
            let is_marker = value.is_none() && !self.is_shared();
            doc.put(&name, stamp, value);
            if let Some(field) = doc.field(&name).filter(|_| !is_marker) {
                rows::put_field(&self.sealer, key, &name, field, old.as_ref(), writes)?;
            }
            newest = Some(stamp);
        }
        self.check_caps(doc, before, fields_before)?;
        if self.is_shared() {
            return Ok(newest);
        }
        // No other copy of the document is anywhere from which a removed field could come back.
        let dropped = doc.drop_markers();
        if let Some(stamp) = doc.removed().filter(|_| !dropped.is_empty()) {
            rows::put_removed(&self.sealer, key, stamp, writes)?;
        }
        dropped.iter().for_each(|name| rows::remove_field(key, name, writes));
        Ok(newest)
    }

    /// Whether a value is not too long.
    pub(super) fn check_value(&self, name: &str, value: Option<&Bytes>) -> Result<(), StoreError> {
        let max = self.settings.max_value_bytes;
        match value.map(Bytes::len) {
            Some(len) if len > max => Err(StoreError::Cap(format!(
                "the value of {name:?} has {len} bytes; sessions.max_value_bytes allows {max}"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a document that has grown is not too large.
    pub(super) fn check_caps(
        &self,
        doc: &Doc,
        bytes_before: usize,
        fields_before: usize,
    ) -> Result<(), StoreError> {
        let (bytes, fields) = (doc.bytes(), doc.fields().count());
        let Settings { max_bytes, max_fields, .. } = self.settings;
        if bytes > max_bytes && bytes > bytes_before {
            return Err(StoreError::Cap(format!(
                "the values of this session would take {bytes} bytes; sessions.max_bytes allows {max_bytes}"
            )));
        }
        if fields > max_fields && fields > fields_before {
            return Err(StoreError::Cap(format!(
                "this session would have {fields} values; sessions.max_fields allows {max_fields}"
            )));
        }
        Ok(())
    }

    /// Counts a new session in, in place of the one of `before`.
    pub(super) fn count_in(&self, principal: &Arc<str>, before: Option<&Arc<str>>) -> Result<(), StoreError> {
        if before.is_none() {
            self.queue.health().crowded().map_or(Ok(()), Err)?;
        }
        let admitted = self.sessions.counts().admit(principal, before, self.settings.limits());
        admitted.map_err(|reached| match reached {
            Reached::Total => StoreError::Cap(format!(
                "there are {} sessions; sessions.max_total allows no more",
                self.settings.max_total
            )),
            Reached::PerPrincipal => StoreError::Cap(format!(
                "this principal has {} sessions; sessions.max_per_principal allows no more",
                self.settings.max_per_principal
            )),
        })
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner).next(self.shared_now_ms())
    }

    pub(super) fn stamp_after(&self, seen: Stamp) -> Stamp {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        stamps.observe(seen);
        stamps.next(self.shared_now_ms())
    }

    /// Now, as the shared store's clock has it as far as that is known: instances agree on it better than on their own.
    pub(super) fn shared_now_ms(&self) -> u64 {
        self.clock.now_ms().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    /// Stamps what carries a stamp further ahead of `now_ms` than the shared store takes anew, in the same order. The clock
    /// of stamps goes back.
    pub(super) async fn restamp_from(&self, key: SessionKey, now_ms: u64) -> Result<(), StoreError> {
        let taken_ms = now_ms.saturating_add(millis(STAMP_AHEAD));
        let own_ms = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let offset_ms = i64::try_from(now_ms).unwrap_or(i64::MAX).saturating_sub(own_ms);
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
        let place = self.place().await?;
        let write = self.write(key, place, |current| {
            self.stamps.lock().unwrap_or_else(PoisonError::into_inner).set_back(now_ms);
            let Some(session) = &current else { return Ok(unchanged(&current, ())) };
            let mut doc = Doc::clone(&session.doc);
            let mut late: Vec<(Arc<str>, Field)> = doc
                .stamped()
                .filter(|(_, field)| field.stamp.ms() > taken_ms)
                .map(|(name, field)| (name.into(), field.clone()))
                .collect();
            late.sort_by_key(|(_, field)| field.stamp);
            let mut writes = Vec::with_capacity(late.len());
            for (name, old) in &late {
                doc.restamp(name, self.stamp());
                if let Some(field) = doc.field(name) {
                    rows::put_field(&self.sealer, key, name, field, Some(old), &mut writes)?;
                }
            }
            let late_seen = doc.seen().is_some_and(|seen| seen.ms() > taken_ms);
            let late_end = doc.ended().is_some_and(|ended| ended.ms() > taken_ms);
            if late_seen || late_end {
                doc.restamp_life(self.stamp());
            }
            session.life.set_back(now_ms);
            let newest = self.stamp();
            let (seen, ended) = (doc.seen(), doc.ended());
            let decide = move |disk: &dyn Durable| {
                if let Some(stored) = disk.get(Table::Head, key.as_bytes())? {
                    let head: Head = record::decode(&stored)?;
                    let seen = seen.map_or(head.seen, StoredStamp);
                    let head = Head { seen, ended: ended.map(StoredStamp), ..head };
                    writes.push(Write::Put(Table::Head, key.as_bytes().to_vec(), record::encode(&head)?));
                }
                redo::whole(disk, writes)
            };
            let next = Session {
                doc: Arc::new(doc),
                life: Arc::clone(&session.life),
                created_ms: session.created_ms,
            };
            Ok(Plan {
                next: Some(Arc::new(next)),
                work: Work::Decide(Box::new(decide)),
                newest_ms: newest.ms(),
                owes: Owed::default(),
                value: (),
            })
        });
        write.await
    }
}
