//! Seals everything again, with the key that seals now: a walk over all records while nobody else uses them.
//!
//! A record of one row is put in place as a whole. One that is cut into several rows and stays so is first written
//! whole to [`Table::Meta`], so that a crash on the way is made good by [`recover`] at the next start.

use std::collections::BTreeSet;

use super::durable::{Durable, Row, Table, Write};
use super::payload::{At, Sealer, is_split, key_of};
use super::{StoreError, record, rows};

/// A long record on its way to its place.
const META_RESEAL: &[u8] = b"reseal";
const META_PIECES: &[u8] = b"reseal/";

/// The tables whose records may be cut into several rows. A note says which by its number here.
const LONG: [Table; 3] = [Table::Doc, Table::Log, Table::Result];

/// What a walk has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Records that were written anew.
    pub(super) resealed: u64,
    /// Records that could not be opened and were left as they are.
    pub(super) unopened: u64,
}

/// The keys with which something is sealed.
pub(super) fn used(disk: &dyn Durable) -> Result<BTreeSet<u8>, StoreError> {
    let mut used = BTreeSet::new();
    for table in Table::ALL {
        // The first piece of a long record begins like a whole one.
        rows::each(disk, table, &[], |(_, stored)| {
            used.extend(key_of(&stored));
            Ok(())
        })?;
    }
    Ok(used)
}

/// Writes every record anew that is not as it would be written now.
pub(super) fn all(disk: &dyn Durable, sealer: &Sealer) -> Result<Done, StoreError> {
    let mut done = Done::default();
    for table in LONG {
        rows::each(disk, table, &[], |(row, first)| {
            if !rows::is_record(table, &row) {
                return Ok(());
            }
            let renewed = whole(disk, table, &row, &first).and_then(|stored| {
                Ok(renew(sealer, table, &row, &stored)?.map(|renewed| (row, first, renewed)))
            });
            if let Some((row, first, renewed)) = counted(renewed, &mut done)? {
                put(disk, sealer, table, &row, &first, renewed)?;
            }
            Ok(())
        })?;
    }
    for table in [Table::Lock, Table::Conflict, Table::DeadLetter, Table::Cache] {
        rows::each(disk, table, &[], |(row, stored): Row| {
            if !is_split(&stored) {
                return Ok(());
            }
            let renewed = sealer.renew(At { table, key: &row }, &stored);
            match counted(renewed, &mut done)? {
                Some(renewed) => disk.write(vec![Write::Put(table, row, renewed)]),
                None => Ok(()),
            }
        })?;
    }
    disk.sync()?;
    Ok(done)
}

fn counted<T>(renewed: Result<Option<T>, StoreError>, done: &mut Done) -> Result<Option<T>, StoreError> {
    match renewed {
        Ok(Some(renewed)) => {
            done.resealed += 1;
            Ok(Some(renewed))
        }
        Ok(None) => Ok(None),
        Err(StoreError::Sealed(_)) => {
            done.unopened += 1;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Ends what a crash interrupted.
pub(super) fn recover(disk: &dyn Durable) -> Result<(), StoreError> {
    let Some(first) = disk.get(Table::Meta, META_RESEAL)? else { return Ok(()) };
    let stored = joined(disk, Table::Meta, META_PIECES, &first)?;
    let damaged = || StoreError::Io("the note of an interrupted resealing is damaged".into());
    let (&[table, len], rest) = record::tag(&first).split_first_chunk::<2>().ok_or_else(damaged)?;
    let (tag, row) = rest.split_at_checked(usize::from(len)).ok_or_else(damaged)?;
    let table = LONG.get(usize::from(table)).copied().ok_or_else(damaged)?;
    tracing::warn!(table = table.name(), "a resealing was interrupted; its last record is put in place");
    finish(disk, table, row, tag, stored)
}

/// The stored form of a record of which `first` is the row that is looked up.
fn whole(disk: &dyn Durable, table: Table, row: &[u8], first: &[u8]) -> Result<Vec<u8>, StoreError> {
    match record::pieces(first)? {
        0 => Ok(first.to_vec()),
        _ => joined(disk, table, &rows::pieces_of(table, row, first), first),
    }
}

/// The record whose pieces are in the rows that begin with `prefix`; the row of an entry begins like its own pieces.
fn joined(disk: &dyn Durable, table: Table, prefix: &[u8], first: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut pieces = Vec::new();
    rows::each(disk, table, prefix, |(key, piece)| {
        if key.len() > prefix.len() {
            pieces.push(piece);
        }
        Ok(())
    })?;
    record::join(first, pieces.iter().map(Vec::as_slice))
}

fn renew(sealer: &Sealer, table: Table, row: &[u8], stored: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let at = At { table, key: row };
    if is_split(stored) {
        return sealer.renew(at, stored);
    }
    // A record of one part: from before there were keys, or a field that was removed.
    let renewed = match table {
        Table::Doc => {
            let field = record::decode_field(sealer, at, stored)?;
            record::encode_field(sealer, at, &field)?
        }
        Table::Result => {
            let content = record::decode_content(sealer, at, stored)?;
            record::encode_content(sealer, at, &content)?
        }
        _ => {
            let entry = rows::read_entry_key(row)
                .ok_or_else(|| StoreError::Io("a log entry's key is damaged".into()))?;
            let (origin, seq, _) = entry;
            let entry = record::decode_entry(sealer, at, origin, seq, stored)?;
            record::encode_entry(sealer, at, &entry)?
        }
    };
    Ok((renewed != stored).then_some(renewed))
}

fn put(
    disk: &dyn Durable,
    sealer: &Sealer,
    table: Table,
    row: &[u8],
    old: &[u8],
    renewed: Vec<u8>,
) -> Result<(), StoreError> {
    let tag = match table {
        Table::Doc => {
            record::decode_field(sealer, At { table, key: row }, &renewed)?.stamp.to_bytes().to_vec()
        }
        _ => Vec::new(),
    };
    let was_cut = record::pieces(old)? > 0;
    let (first, pieces) = record::cut(renewed.clone(), &tag);
    match (was_cut, pieces.is_empty()) {
        (false, _) => disk.write(rows::put_cut(table, row, first, pieces)?),
        (true, true) => {
            let prefix = rows::pieces_of(table, row, old);
            // The row first: from then on nobody looks at its pieces.
            disk.write(vec![Write::Put(table, row.to_vec(), first), clear(table, &prefix)])
        }
        (true, false) => {
            let len = u8::try_from(tag.len()).unwrap_or(u8::MAX);
            let number = LONG.iter().position(|long| *long == table).and_then(|at| u8::try_from(at).ok());
            let note = [&[number.unwrap_or_default(), len], tag.as_slice(), row].concat();
            let (first, pieces) = record::cut(renewed.clone(), &note);
            let mut writes = Vec::with_capacity(pieces.len() + 2);
            writes.push(clear(Table::Meta, META_PIECES));
            for (at, piece) in pieces.into_iter().enumerate() {
                let key = [META_PIECES, (at as u64).to_be_bytes().as_slice()].concat();
                writes.push(Write::Put(Table::Meta, key, piece));
            }
            // A prefix of the writes survives a crash: with the note all pieces are there.
            writes.push(Write::Put(Table::Meta, META_RESEAL.to_vec(), first));
            disk.write(writes)?;
            disk.sync()?;
            finish(disk, table, row, &tag, renewed)
        }
    }
}

fn finish(
    disk: &dyn Durable,
    table: Table,
    row: &[u8],
    tag: &[u8],
    stored: Vec<u8>,
) -> Result<(), StoreError> {
    let (first, pieces) = record::cut(stored, tag);
    let mut writes = vec![clear(table, &rows::pieces_of(table, row, &first))];
    writes.extend(rows::put_cut(table, row, first, pieces)?);
    writes.push(Write::Delete(Table::Meta, META_RESEAL.to_vec()));
    writes.push(clear(Table::Meta, META_PIECES));
    disk.write(writes)?;
    disk.sync()
}

/// Removes what begins with `prefix`, and not the row that is nothing else.
fn clear(table: Table, prefix: &[u8]) -> Write {
    Write::DeleteRange(table, [prefix, &[0]].concat(), rows::after(prefix))
}

#[cfg(test)]
mod tests;
