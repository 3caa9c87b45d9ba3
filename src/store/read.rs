//! Sessions as they are read: from memory where they are there, else from the disk, off the threads that serve.

use std::sync::Arc;

use super::cache::{Life, Session};
use super::durable::{Durable, Table};
use super::payload::Sealer;
use super::record::{self, Head, StoredStamp};
use super::sessions::{Committed, State};
use super::{Lookup, Settings, Store, StoreError, rows, sweep};
use crate::base::ids::SessionKey;
use crate::state::doc::Doc;

impl Store {
    pub(super) fn lookup(&self, state: State) -> Lookup {
        let now_ms = self.clock.now_ms();
        match state {
            Some(session) if session.is_over(now_ms) => Lookup::Unknown,
            Some(session) if session.doc.ended().is_some() => Lookup::Terminated,
            Some(session) => Lookup::Live(Arc::clone(&session.doc)),
            None => Lookup::Unknown,
        }
    }

    /// A session as the disk has it, from memory if it is there.
    pub(super) async fn committed(&self, key: SessionKey) -> Result<State, StoreError> {
        if let Some(session) = self.sessions.cached(key) {
            return Ok(Some(session));
        }
        loop {
            match self.sessions.committed(key) {
                Committed::Known(state) => return Ok(state),
                Committed::Read(epoch) => {
                    if let Some(state) = self.read(key, epoch).await?
                        && self.sessions.settle(key, epoch, &state)
                    {
                        return Ok(state);
                    }
                }
            }
        }
    }

    /// Reads a session from the disk. `None` when it was written meanwhile and cannot be made out: rows of a long value
    /// that are read one by one may be of two versions. Try again then.
    pub(super) async fn read(&self, key: SessionKey, epoch: u64) -> Result<Option<State>, StoreError> {
        let (settings, sealer) = (self.settings, self.sealer.clone());
        match reading(&self.disk, move |disk| read_session(disk, &sealer, settings, key)).await {
            Ok(state) => Ok(Some(state)),
            Err(_) if !self.sessions.is_settled(key, epoch) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A session without its values: for what is over.
    pub(super) async fn read_head(&self, key: SessionKey) -> Result<State, StoreError> {
        let settings = self.settings;
        reading(&self.disk, move |disk| {
            let Some(head) = head_of(disk, key)? else { return Ok(None) };
            Ok(Some(session_of(settings, &head, doc_of(&head))))
        })
        .await
    }
}

pub(super) fn head_of(disk: &dyn Durable, key: SessionKey) -> Result<Option<Head>, StoreError> {
    disk.get(Table::Head, key.as_bytes())?.map(|stored| record::decode(&stored)).transpose()
}

pub(super) fn doc_of(head: &Head) -> Doc {
    let mut doc = Doc::new(&head.principal, head.deadline_ms, head.seen.0);
    if let Some(StoredStamp(ended)) = head.ended {
        doc.end(ended);
    }
    doc
}

pub(super) fn session_of(settings: Settings, head: &Head, doc: Doc) -> Arc<Session> {
    let life = Life::new(sweep::due_ms(settings, head), head.seen.0.ms());
    Arc::new(Session { doc: Arc::new(doc), life, created_ms: head.created_ms })
}

/// A session as the disk has it.
pub(super) fn read_session(
    disk: &dyn Durable,
    sealer: &Sealer,
    settings: Settings,
    key: SessionKey,
) -> Result<State, StoreError> {
    let Some(head) = head_of(disk, key)? else { return Ok(None) };
    let mut doc = doc_of(&head);
    if head.ended.is_none() {
        rows::read_fields(disk, sealer, key, |name, field| match name {
            rows::REMOVED => doc.note_removed(field.stamp),
            _ => {
                doc.put(name, field.stamp, field.value);
            }
        })?;
    }
    Ok(Some(session_of(settings, &head, doc)))
}

/// Reads the disk, where it does not hold up others.
pub(super) async fn reading<T: Send + 'static>(
    disk: &Arc<dyn Durable>,
    read: impl FnOnce(&dyn Durable) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    if !disk.blocks() {
        return read(&**disk);
    }
    let disk = Arc::clone(disk);
    blocking(move || read(&*disk)).await
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StoreError::Io(format!("reading the disk failed: {error}"))))
}
