//! What the disk says at the start, and what is written there at the end.

use std::sync::Arc;

use super::durable::{Durable, Table, Write};
use super::record::{self, Clean, Format, Head, Mark, Started};
use super::sessions::Counts;
use super::{StoreError, redo, reseal, rows, upgrade};
use crate::base::ids::{Origin, SessionKey};

/// The format of the data directory that this program writes, and the newest that it reads.
/// 1: values in the clear. 2: records of two parts, which may be packed and sealed; format 1 is read too.
pub const FORMAT: u32 = 2;

/// The oldest format that this program can upgrade.
#[cfg(test)]
pub(super) const OLDEST_FORMAT: u32 = 1;

/// What a start begins with.
pub(super) struct Boot {
    /// The new process start.
    pub(super) origin: Origin,
    /// Earlier process starts on this directory.
    pub(super) earlier: Vec<Origin>,
    /// No earlier stamp has a later time.
    pub(super) clock_ms: u64,
    /// The last tick.
    pub(super) tick: u64,
    /// The sessions that are there.
    pub(super) counts: Counts,
    /// An earlier start shared what it held.
    pub(super) shared: bool,
}

/// What to say of data of a newer program.
pub(super) fn newer(format: u32, by: &str) -> StoreError {
    StoreError::Unusable(format!(
        "the data was written in format {format} by version {by}; this is version {} and reads formats up to {FORMAT}: \
         use the newer version, or another data directory (nothing was changed)",
        env!("CARGO_PKG_VERSION")
    ))
}

/// Reads and notes what a start has to. Runs before the commit thread does.
pub(super) fn start(disk: &dyn Durable, now_ms: u64, keep_ms: u64) -> Result<Boot, StoreError> {
    let mut writes = Vec::new();
    let format = disk.get(Table::Meta, rows::META_FORMAT)?;
    if let Some(Format { format, by }) = format.map(|stored| record::decode(&stored)).transpose()? {
        if format > FORMAT {
            return Err(newer(format, &by));
        }
        upgrade::upgrade(disk, format, upgrade::STEPS)?;
    }
    reseal::recover(disk)?;
    redo::recover(disk)?;
    let own = Format { format: FORMAT, by: env!("CARGO_PKG_VERSION").into() };
    writes.push(Write::Put(Table::Meta, rows::META_FORMAT.to_vec(), record::encode(&own)?));

    let clock = disk.get(Table::Meta, rows::META_CLOCK)?;
    let clock_ms = clock.map_or(Ok(0), |stored| record::decode(&stored))?;

    let counts = match read_clean(disk)? {
        Some(counts) => counts,
        None => count(disk)?,
    };
    writes.push(Write::DeleteRange(Table::Meta, rows::META_CLEAN.to_vec(), rows::after(rows::META_CLEAN)));

    let (origin, earlier) = next_origin(disk, now_ms, keep_ms, &mut writes)?;
    old_broadcast_marks(disk, now_ms, keep_ms, &mut writes)?;
    disk.write(writes)?;
    disk.sync()?;
    let shared = disk.get(Table::Meta, rows::META_SHARED)?.is_some();
    Ok(Boot { origin, earlier, clock_ms, tick: read_tick(disk)?, counts, shared })
}

/// Notes a clean end, after which no stamp is later than `clock_ms`.
pub(super) fn end(disk: &dyn Durable, counts: &Counts, clock_ms: u64) -> Result<(), StoreError> {
    let sessions = counts.by_principal().map(|(name, count)| (name.to_string(), count as u64)).collect();
    let (first, pieces) = record::cut(record::encode(&Clean { sessions })?, &[]);
    let tick = read_tick(disk)?.saturating_add(1);
    let mut writes = Vec::with_capacity(pieces.len() + 3);
    writes.push(Write::Put(Table::Meta, rows::META_CLOCK.to_vec(), record::encode(&clock_ms)?));
    for (at, piece) in pieces.into_iter().enumerate() {
        let key = [rows::META_CLEAN, b"/", (at as u64).to_be_bytes().as_slice()].concat();
        writes.push(Write::Put(Table::Meta, key, piece));
    }
    writes.push(Write::Put(Table::Meta, rows::META_CLEAN.to_vec(), first));
    writes.push(Write::Put(Table::Meta, rows::META_TICK.to_vec(), tick.to_be_bytes().to_vec()));
    disk.write(writes)?;
    disk.sync()?;
    disk.witness(tick);
    Ok(())
}

fn read_tick(disk: &dyn Durable) -> Result<u64, StoreError> {
    let row = disk.get(Table::Meta, rows::META_TICK)?;
    Ok(row.and_then(|row| row.try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// Marks of broadcasts by process starts that nobody asks about any more: every session that has met one is over.
pub(super) fn old_broadcast_marks(
    disk: &dyn Durable,
    now_ms: u64,
    keep_ms: u64,
    writes: &mut Vec<Write>,
) -> Result<(), StoreError> {
    let with_rows = rows::high_waters(disk, SessionKey::BROADCAST)?;
    for (origin, Mark { at_ms, .. }) in rows::read_marks(disk, SessionKey::BROADCAST)? {
        if at_ms.saturating_add(keep_ms) < now_ms && with_rows.iter().all(|(of, _)| *of != origin) {
            writes.push(rows::forget_mark(SessionKey::BROADCAST, origin));
        }
    }
    Ok(())
}

fn read_clean(disk: &dyn Durable) -> Result<Option<Counts>, StoreError> {
    let Some(first) = disk.get(Table::Meta, rows::META_CLEAN)? else { return Ok(None) };
    let stored = match record::pieces(&first)? {
        0 => first,
        _ => {
            let mut pieces = Vec::new();
            rows::each(disk, Table::Meta, &[rows::META_CLEAN, b"/"].concat(), |(_, piece)| {
                pieces.push(piece);
                Ok(())
            })?;
            record::join(&first, pieces.iter().map(Vec::as_slice))?
        }
    };
    let clean: Clean = record::decode(&stored)?;
    let mut counts = Counts::default();
    for (principal, count) in clean.sessions {
        counts.add(&Arc::from(principal), usize::try_from(count).unwrap_or(usize::MAX));
    }
    Ok(Some(counts))
}

fn count(disk: &dyn Durable) -> Result<Counts, StoreError> {
    let mut counts = Counts::default();
    rows::each(disk, Table::Head, &[], |(_, stored)| {
        let head: Head = record::decode(&stored)?;
        if head.ended.is_none() {
            counts.add(&Arc::from(head.principal), 1);
        }
        Ok(())
    })?;
    Ok(counts)
}

fn next_origin(
    disk: &dyn Durable,
    now_ms: u64,
    keep_ms: u64,
    writes: &mut Vec<Write>,
) -> Result<(Origin, Vec<Origin>), StoreError> {
    let mut known = Vec::new();
    rows::each(disk, Table::Meta, rows::META_ORIGIN, |(key, stored)| {
        let Started { at_ms } = record::decode(&stored)?;
        if at_ms.saturating_add(keep_ms) < now_ms {
            writes.push(Write::Delete(Table::Meta, key));
        } else {
            known.push(key);
        }
        Ok(())
    })?;
    let origin = std::iter::repeat_with(Origin::random)
        .find(|origin| !known.contains(&rows::origin(*origin)))
        .unwrap_or_else(Origin::random);
    writes.push(Write::Put(Table::Meta, rows::origin(origin), record::encode(&Started { at_ms: now_ms })?));
    let earlier = known.iter().filter_map(|key| {
        let bytes = key.strip_prefix(rows::META_ORIGIN)?;
        bytes.try_into().ok().map(Origin::from_bytes)
    });
    Ok((origin, earlier.collect()))
}
