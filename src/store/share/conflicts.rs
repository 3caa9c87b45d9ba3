//! Acknowledged writes that lost against a later one of another instance.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::Sharing;
use super::risk::AtRisk;
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{CONFLICTS_KEPT, CONFLICTS_PAGE_BYTES};
use crate::state::doc::Field;
use crate::state::stamp::Stamp;
use crate::store::durable::{Durable, Row, Table, Write};
use crate::store::payload::{At, Sealer};
use crate::store::record::{self, StoredStamp};
use crate::store::{Store, StoreError, reading, rows};

/// A value that was acknowledged here, and that a later write of another instance replaced unseen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Its number, which rises.
    pub number: u64,
    /// The session.
    pub session: SessionKey,
    /// The field.
    pub field: String,
    /// The stamp of the value that lost.
    pub stamp: Stamp,
    /// The stamp of the one that stood when it was noticed.
    pub lost_to: Stamp,
    /// When it was noticed, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What lost.
    pub lost: Conflicted,
}

/// What lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflicted {
    /// This value.
    Value(Bytes),
    /// A removal.
    Removal,
    /// Something that does not open: its key is gone.
    Sealed,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "k", with = "serde_bytes")]
    session: [u8; SessionKey::LEN],
    #[serde(rename = "f")]
    field: String,
    #[serde(rename = "s")]
    stamp: StoredStamp,
    #[serde(rename = "o")]
    lost_to: StoredStamp,
    #[serde(rename = "a")]
    at_ms: u64,
    /// Sealed as a field of a document is.
    #[serde(rename = "v", with = "serde_bytes")]
    value: Vec<u8>,
}

/// Counts them, and gives out the numbers of their rows.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    count: AtomicU64,
    next: Mutex<Option<u64>>,
    pub(super) at_risk: AtRisk,
}

impl Conflicts {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Values of this process that are replaced by other instances'. Those that are lost by it are noted when this is dropped, also
/// by a caller who gave up: the write that replaces them stands all the same.
pub(super) struct Losses {
    sharing: Option<Arc<Sharing>>,
    key: SessionKey,
    origin: Origin,
    replaced: Vec<Replaced>,
}

struct Replaced {
    name: String,
    old: Field,
    by: Stamp,
    /// It is another value.
    other: bool,
}

impl Losses {
    pub(super) fn new(sharing: Option<Arc<Sharing>>, key: SessionKey, origin: Origin) -> Self {
        Self { sharing, key, origin, replaced: Vec::new() }
    }

    /// A field is replaced.
    pub(super) fn replaced(&mut self, name: &str, old: &Field, by: &Field) {
        if old.stamp.origin() == self.origin && by.stamp.origin() != self.origin {
            let (name, other) = (name.to_owned(), old.value != by.value);
            self.replaced.push(Replaced { name, old: old.clone(), by: by.stamp, other });
        }
    }

    /// Nothing was replaced.
    pub(super) fn none(&mut self) {
        self.replaced.clear();
    }
}

impl Drop for Losses {
    fn drop(&mut self) {
        let Some(sharing) = &self.sharing else { return };
        let mut lost = std::mem::take(&mut self.replaced);
        lost.retain(|it| sharing.conflicts.at_risk.replaced(self.key, &it.name, it.by) && it.other);
        if lost.is_empty() {
            return;
        }
        let (Some(store), Ok(runtime)) = (sharing.store.upgrade(), Handle::try_current()) else { return };
        let key = self.key;
        // A task of its own: who takes something in may be waited for by what this waits for.
        runtime.spawn(async move {
            for it in lost {
                store.note_conflict(key, &it.name, &it.old, it.by).await;
            }
        });
    }
}

fn last_number(disk: &dyn Durable) -> Result<u64, StoreError> {
    let mut last = 0;
    rows::each(disk, Table::Conflict, &[], |(row, _)| {
        last = number(&row).unwrap_or(last);
        Ok(())
    })?;
    Ok(last)
}

/// Rows: number (8 bytes), and for pieces of a long one two bytes more.
fn number(row: &[u8]) -> Option<u64> {
    row.first_chunk::<8>().map(|number| u64::from_be_bytes(*number))
}

fn read(sealer: &Sealer, row: &[u8], stored: &[u8]) -> Result<Conflict, StoreError> {
    let stored: Stored = record::decode(stored)?;
    let at = At { table: Table::Conflict, key: row };
    let lost = match record::decode_field(sealer, at, &stored.value).map(|field| field.value) {
        Ok(Some(value)) => Conflicted::Value(value),
        Ok(None) => Conflicted::Removal,
        Err(_) => Conflicted::Sealed,
    };
    Ok(Conflict {
        number: number(row).unwrap_or_default(),
        session: SessionKey::from_bytes(stored.session),
        field: stored.field,
        stamp: stored.stamp.0,
        lost_to: stored.lost_to.0,
        at_ms: stored.at_ms,
        lost,
    })
}

/// A part of the list that is being read.
struct Page {
    after: u64,
    limit: usize,
    bytes: usize,
    found: Vec<Conflict>,
    more: bool,
}

impl Page {
    fn take(&mut self, sealer: &Sealer, row: &[u8], stored: &[u8]) -> Result<(), StoreError> {
        if self.more || number(row).is_none_or(|number| number <= self.after) {
            return Ok(());
        }
        if self.found.len() >= self.limit
            || (self.bytes > 0 && self.bytes + stored.len() > CONFLICTS_PAGE_BYTES)
        {
            self.more = true;
            return Ok(());
        }
        let found = read(sealer, row, stored)?;
        // What was packed is longer than its row.
        self.bytes += match &found.lost {
            Conflicted::Value(value) => value.len().max(stored.len()),
            Conflicted::Removal | Conflicted::Sealed => stored.len(),
        };
        self.found.push(found);
        Ok(())
    }
}

impl Store {
    /// Keeps the value that lost.
    async fn note_conflict(&self, key: SessionKey, name: &str, lost: &Field, to: Stamp) {
        let Some(sharing) = self.sharing.get() else { return };
        sharing.conflicts.count.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(session = %key, field = name, lost = %lost.stamp, to = %to,
            "two instances wrote one value while they could not see each other: the later write stands, the other one is kept in the list of conflicts");
        if let Err(error) = self.keep_conflict(key, name, lost, to).await {
            tracing::warn!(session = %key, field = name, %error, "the value that lost could not be kept");
        }
    }

    async fn keep_conflict(
        &self,
        key: SessionKey,
        name: &str,
        lost: &Field,
        to: Stamp,
    ) -> Result<(), StoreError> {
        let Some(sharing) = self.sharing.get() else { return Ok(()) };
        let known = *sharing.conflicts.next.lock().unwrap_or_else(PoisonError::into_inner);
        let last = match known {
            Some(next) => next,
            None => reading(&self.disk, last_number).await?,
        };
        let number = {
            let mut next = sharing.conflicts.next.lock().unwrap_or_else(PoisonError::into_inner);
            let number = next.unwrap_or(last) + 1;
            *next = Some(number);
            number
        };
        let row = number.to_be_bytes().to_vec();
        let stored = Stored {
            session: *key.as_bytes(),
            field: name.to_owned(),
            stamp: StoredStamp(lost.stamp),
            lost_to: StoredStamp(to),
            at_ms: self.clock.now_ms(),
            value: record::encode_field(&self.sealer, At { table: Table::Conflict, key: &row }, lost)?,
        };
        let (first, pieces) = record::cut(record::encode(&stored)?, &[]);
        let mut writes = rows::put_cut(Table::Conflict, &row, first, pieces)?;
        if let Some(old) = number.checked_sub(CONFLICTS_KEPT as u64) {
            writes.push(Write::DeleteRange(Table::Conflict, vec![0; 8], (old + 1).to_be_bytes().to_vec()));
        }
        let place = self.place().await?;
        self.decide(place.into(), move |_| Ok((writes, ()))).await
    }

    /// The values that lost and are kept, the oldest first: at most `limit` (and not too many bytes) of those whose numbers are
    /// higher than `after`, and whether there are more.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn conflicts(&self, after: u64, limit: usize) -> Result<(Vec<Conflict>, bool), StoreError> {
        let sealer = self.sealer.clone();
        reading(&self.disk, move |disk| {
            let mut page = Page { after, limit, bytes: 0, found: Vec::new(), more: false };
            let mut long: Option<(Row, Vec<Vec<u8>>)> = None;
            rows::each(disk, Table::Conflict, &[], |(row, stored)| {
                if row.len() == 8 {
                    match record::pieces(&stored)? {
                        0 => page.take(&sealer, &row, &stored)?,
                        _ => long = Some(((row, stored), Vec::new())),
                    }
                } else if let Some(((head, first), mut pieces)) = long.take() {
                    pieces.push(stored);
                    if pieces.len() < record::pieces(&first)? {
                        long = Some(((head, first), pieces));
                    } else {
                        let whole = record::join(&first, pieces.iter().map(Vec::as_slice))?;
                        page.take(&sealer, &head, &whole)?;
                    }
                }
                Ok(())
            })?;
            Ok((page.found, page.more))
        })
        .await
    }
}
