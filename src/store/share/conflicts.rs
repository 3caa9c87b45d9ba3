//! Acknowledged writes that lost against a later one of another instance.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::ids::SessionKey;
use crate::base::limits::CONFLICTS_KEPT;
use crate::state::doc::Field;
use crate::state::stamp::Stamp;
use crate::store::durable::{Durable, Row, Table, Write};
use crate::store::payload::{At, Sealer};
use crate::store::record::{self, StoredStamp};
use crate::store::{Store, StoreError, reading, rows};

/// A value that was acknowledged here, and that a later write of another instance replaced unseen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The session.
    pub session: String,
    /// The field.
    pub field: String,
    /// The stamp of the value that lost.
    pub stamp: String,
    /// The stamp of the one that stands.
    pub lost_to: String,
    /// When it was noticed, in milliseconds since the epoch.
    pub at_ms: u64,
    /// The value that lost; `None`: a removal.
    pub value: Option<Vec<u8>>,
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
}

impl Conflicts {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
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
    // Of a key that is gone no value can be shown; that there was one can.
    let value = record::decode_field(sealer, at, &stored.value).ok().and_then(|lost| lost.value);
    Ok(Conflict {
        session: SessionKey::from_bytes(stored.session).to_string(),
        field: stored.field,
        stamp: stored.stamp.0.to_string(),
        lost_to: stored.lost_to.0.to_string(),
        at_ms: stored.at_ms,
        value: value.map(|value| value.to_vec()),
    })
}

impl Store {
    /// Keeps the value that lost.
    pub(super) async fn note_conflict(&self, key: SessionKey, name: &str, lost: &Field, to: Stamp) {
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

    /// The values that lost and are kept, the oldest first.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn conflicts(&self) -> Result<Vec<Conflict>, StoreError> {
        let sealer = self.sealer.clone();
        reading(&self.disk, move |disk| {
            let mut found = Vec::new();
            let mut long: Option<(Row, Vec<Vec<u8>>)> = None;
            rows::each(disk, Table::Conflict, &[], |(row, stored)| {
                if row.len() == 8 {
                    match record::pieces(&stored)? {
                        0 => found.push(read(&sealer, &row, &stored)?),
                        _ => long = Some(((row, stored), Vec::new())),
                    }
                } else if let Some(((head, first), mut pieces)) = long.take() {
                    pieces.push(stored);
                    if pieces.len() < record::pieces(&first)? {
                        long = Some(((head, first), pieces));
                    } else {
                        let whole = record::join(&first, pieces.iter().map(Vec::as_slice))?;
                        found.push(read(&sealer, &head, &whole)?);
                    }
                }
                Ok(())
            })?;
            Ok(found)
        })
        .await
    }
}
