//! Where things are: keys of rows, and what rows a document or a log becomes.
//!
//! ```text
//! head    session                                          record::Head
//! doc     session | 0 | field                              record::encode_field
//!         session | 1 | field | 0 | stamp | piece          pieces of a long one
//! log     session | origin | seq                           an entry
//!         session | origin | seq | piece                   pieces of a long one
//! mark    session | origin                                 record::Mark
//! expiry  time | session                                   empty
//! result  0 | session | name                               record::StoredResult
//!         1 | session | name | 0 | fence | rev             its content
//!         1 | session | name | 0 | fence | rev | piece     pieces of a long one
//!         2 | time | session | name                        empty: when it goes
//! lock    name                                             record::StoredLock
//! meta    clock, tick, used, clean, clean/<piece>, format, origin/<origin>, redo, redo/<piece>
//! ```
//! session 16 bytes, origin 5, seq and time 8, piece 2, stamp 13, all big-endian. A field's name has no NUL. The
//! pieces of a field carry its stamp, which its row names: a crash between them leaves the earlier value whole. The
//! field `~v`, a name that no field of a document has, carries the stamp of the newest removal.

mod results;

use std::collections::BTreeMap;

pub(super) use self::results::{
    put_result, read_all_results_under, read_result, read_result_due, read_results, read_results_under,
    remove_result, result, results_due, seal_result,
};

use self::results::is_result_body;
use super::StoreError;
use super::durable::{Durable, Row, Table, Write};
use super::payload::{At, Sealer};
use super::record::{self, Mark};
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::ROW_VALUE_BYTES;
use crate::state::doc::Field;
use crate::state::log::{Cut, Entry, Log};
use crate::state::stamp::Stamp;

/// Highest time that stamps may have.
pub(super) const META_CLOCK: &[u8] = b"clock";
/// Rises with every group of writes, as its last row: what [`Durable::witness`] vouches for. Eight bytes.
pub(super) const META_TICK: &[u8] = b"tick";
/// Lengths of all keys and values. Eight bytes.
pub(super) const META_USED: &[u8] = b"used";
/// There since a clean shutdown.
pub(super) const META_CLEAN: &[u8] = b"clean";
/// What the directory is.
pub(super) const META_FORMAT: &[u8] = b"format";
/// What is held here is shared with other instances.
pub(super) const META_SHARED: &[u8] = b"shared";
/// Process starts.
pub(super) const META_ORIGIN: &[u8] = b"origin/";

/// The row, among those of a session's fields, that carries the stamp of the newest removal.
pub(super) const REMOVED: &str = "~v";

const FIELD: u8 = 0;
const PIECE: u8 = 1;
/// Rows that one scan brings.
const PAGE: usize = 512;
const ENTRY_KEY: usize = SessionKey::LEN + 13;

/// The first key after all keys that begin with `prefix`.
pub(super) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Longer than any key that is used, for a prefix of 0xff only.
    vec![u8::MAX; prefix.len() + 64]
}

fn key(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// The row of a session in the index by time.
pub(super) fn expiry(due_ms: u64, session: SessionKey) -> Vec<u8> {
    key(&[&due_ms.to_be_bytes(), session.as_bytes()])
}

/// Reads a key of the index by time.
pub(super) fn read_expiry(key: &[u8]) -> Option<(u64, SessionKey)> {
    let (time, session) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*time), SessionKey::from_bytes(session.try_into().ok()?)))
}

/// The row of a process start.
pub(super) fn origin(origin: Origin) -> Vec<u8> {
    key(&[META_ORIGIN, &origin.to_bytes()])
}

/// Removes a session's rows from a table.
pub(super) fn clear(table: Table, session: SessionKey) -> Write {
    Write::DeleteRange(table, session.as_bytes().to_vec(), after(session.as_bytes()))
}

/// All rows whose keys begin with `prefix`, a page at a time.
pub(super) fn each(
    disk: &dyn Durable,
    table: Table,
    prefix: &[u8],
    mut visit: impl FnMut(Row) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (mut from, to) = (prefix.to_vec(), after(prefix));
    loop {
        let page = disk.scan(table, &from, &to, PAGE)?;
        let full = page.len() == PAGE;
        if let Some((last, _)) = page.last() {
            from = key(&[last, &[0]]);
        }
        page.into_iter().try_for_each(&mut visit)?;
        if !full {
            return Ok(());
        }
    }
}

/// The rows that put a field in place of `old`.
pub(super) fn put_field(
    sealer: &Sealer,
    session: SessionKey,
    name: &str,
    field: &Field,
    old: Option<&Field>,
    out: &mut Vec<Write>,
) -> Result<(), StoreError> {
    let row = key(&[session.as_bytes(), &[FIELD], name.as_bytes()]);
    let stored = record::encode_field(sealer, At { table: Table::Doc, key: &row }, field)?;
    let stamp = field.stamp.to_bytes();
    let (first, pieces) = record::cut(stored, &stamp);
    let all = key(&[session.as_bytes(), &[PIECE], name.as_bytes(), &[0]]);
    let own = key(&[&all, &stamp]);
    let long = |field: &Field| field.value.as_ref().is_some_and(|value| value.len() + 128 > ROW_VALUE_BYTES);
    let clear = !pieces.is_empty() || old.is_some_and(long);
    for (at, piece) in pieces.into_iter().enumerate() {
        out.push(Write::Put(Table::Doc, key(&[&own, &piece_number(at)?]), piece));
    }
    out.push(Write::Put(Table::Doc, row, first));
    if clear {
        out.push(Write::DeleteRange(Table::Doc, all, own));
    }
    Ok(())
}

/// Notes the stamp of the newest removal.
pub(super) fn put_removed(
    sealer: &Sealer,
    session: SessionKey,
    stamp: Stamp,
    out: &mut Vec<Write>,
) -> Result<(), StoreError> {
    put_field(sealer, session, REMOVED, &Field { stamp, value: None }, None, out)
}

/// Removes the rows of a field.
pub(super) fn remove_field(session: SessionKey, name: &str, out: &mut Vec<Write>) {
    out.push(Write::Delete(Table::Doc, key(&[session.as_bytes(), &[FIELD], name.as_bytes()])));
    let pieces = key(&[session.as_bytes(), &[PIECE], name.as_bytes(), &[0]]);
    out.push(Write::DeleteRange(Table::Doc, pieces.clone(), after(&pieces)));
}

/// The fields of a session, and [`REMOVED`].
pub(super) fn read_fields(
    disk: &dyn Durable,
    sealer: &Sealer,
    session: SessionKey,
    mut visit: impl FnMut(&str, Field),
) -> Result<(), StoreError> {
    let prefix = key(&[session.as_bytes(), &[FIELD]]);
    each(disk, Table::Doc, &prefix, |(row, first)| {
        let name = row.get(prefix.len()..).and_then(|name| std::str::from_utf8(name).ok());
        let name = name.ok_or_else(|| StoreError::Io("a field's name is damaged".into()))?;
        let stored = match record::pieces(&first)? {
            0 => first,
            _ => {
                let prefix = key(&[session.as_bytes(), &[PIECE], name.as_bytes(), &[0], record::tag(&first)]);
                let mut pieces = Vec::new();
                each(disk, Table::Doc, &prefix, |(_, piece)| {
                    pieces.push(piece);
                    Ok(())
                })?;
                record::join(&first, pieces.iter().map(Vec::as_slice))?
            }
        };
        visit(name, record::decode_field(sealer, At { table: Table::Doc, key: &row }, &stored)?);
        Ok(())
    })
}

/// Whether a row of [`Table::Doc`], [`Table::Log`] or [`Table::Result`] is one by which a record with a value is looked
/// up: not a piece of a longer one, and in the last table nothing but a content.
pub(super) fn is_record(table: Table, row: &[u8]) -> bool {
    match table {
        Table::Doc => row.get(SessionKey::LEN) != Some(&PIECE),
        Table::Result => is_result_body(row),
        _ => row.len() <= ENTRY_KEY,
    }
}

/// What the keys of the pieces begin with that belong to a row for which [`is_record`] holds.
pub(super) fn pieces_of(table: Table, row: &[u8], first: &[u8]) -> Vec<u8> {
    match (table, row.split_at_checked(SessionKey::LEN)) {
        (Table::Doc, Some((session, [_, name @ ..]))) => {
            key(&[session, &[PIECE], name, &[0], record::tag(first)])
        }
        _ => row.to_vec(),
    }
}

/// The rows that put a record that is cut in place, without its pieces of before.
pub(super) fn put_cut(
    table: Table,
    row: &[u8],
    first: Vec<u8>,
    pieces: Vec<Vec<u8>>,
) -> Result<Vec<Write>, StoreError> {
    let prefix = pieces_of(table, row, &first);
    let mut out = Vec::with_capacity(pieces.len() + 1);
    for (at, piece) in pieces.into_iter().enumerate() {
        out.push(Write::Put(table, key(&[&prefix, &piece_number(at)?]), piece));
    }
    out.push(Write::Put(table, row.to_vec(), first));
    Ok(out)
}

fn piece_number(at: usize) -> Result<[u8; 2], StoreError> {
    let number = u16::try_from(at).map_err(|_| StoreError::Cap("a value is longer than 1.5 GiB".into()))?;
    Ok(number.to_be_bytes())
}

/// The rows of an entry: the pieces first, so that an entry that is there is whole.
pub(super) fn put_entry(
    sealer: &Sealer,
    session: SessionKey,
    entry: &Entry,
    out: &mut Vec<Write>,
) -> Result<(), StoreError> {
    let own = key(&[session.as_bytes(), &entry.origin.to_bytes(), &entry.seq.to_be_bytes()]);
    let stored = record::encode_entry(sealer, At { table: Table::Log, key: &own }, entry)?;
    let (first, pieces) = record::cut(stored, &[]);
    for (at, piece) in pieces.into_iter().enumerate() {
        out.push(Write::Put(Table::Log, key(&[&own, &piece_number(at)?]), piece));
    }
    out.push(Write::Put(Table::Log, own, first));
    Ok(())
}

/// The rows that cut off what is gone of a run. The mark goes first: what it excludes is not read again.
pub(super) fn trim(
    session: SessionKey,
    Cut { origin, base, get }: Cut,
    now_ms: u64,
    out: &mut Vec<Write>,
) -> Result<(), StoreError> {
    let run = key(&[session.as_bytes(), &origin.to_bytes()]);
    let below = key(&[&run, &base.to_be_bytes()]);
    let mark = Mark { base, at_ms: now_ms, get: Some(get) };
    out.push(Write::Put(Table::Mark, run.clone(), record::encode(&mark)?));
    out.push(Write::DeleteRange(Table::Log, run, below));
    Ok(())
}

/// The runs of a session that were trimmed, with their marks.
pub(super) fn read_marks(disk: &dyn Durable, session: SessionKey) -> Result<Vec<(Origin, Mark)>, StoreError> {
    let mut marks = Vec::new();
    each(disk, Table::Mark, session.as_bytes(), |(row, stored)| {
        let origin = row.get(SessionKey::LEN..).and_then(|bytes| bytes.try_into().ok());
        let origin = origin.ok_or_else(|| StoreError::Io("a mark's key is damaged".into()))?;
        marks.push((Origin::from_bytes(origin), record::decode(&stored)?));
        Ok(())
    })?;
    Ok(marks)
}

/// Removes the mark of a run.
pub(super) fn forget_mark(session: SessionKey, origin: Origin) -> Write {
    Write::Delete(Table::Mark, key(&[session.as_bytes(), &origin.to_bytes()]))
}

/// Reads a key of the log: whose entry, which, and whether the row is a piece of it.
pub(super) fn read_entry_key(row: &[u8]) -> Option<(Origin, u64, bool)> {
    let (origin, rest) = row.get(SessionKey::LEN..)?.split_first_chunk::<5>()?;
    let (seq, _) = rest.split_first_chunk::<8>()?;
    Some((Origin::from_bytes(*origin), u64::from_be_bytes(*seq), row.len() > ENTRY_KEY))
}

/// The highest number of each run of which there are rows.
pub(super) fn high_waters(disk: &dyn Durable, session: SessionKey) -> Result<Vec<(Origin, u64)>, StoreError> {
    let mut runs: Vec<(Origin, u64)> = Vec::new();
    each(disk, Table::Log, session.as_bytes(), |(row, _)| {
        if let Some((origin, seq, _)) = read_entry_key(&row) {
            match runs.last_mut() {
                Some((last, hw)) if *last == origin => *hw = seq,
                _ => runs.push((origin, seq)),
            }
        }
        Ok(())
    })?;
    Ok(runs)
}

/// The retained log of a session, what was said first before what was said later. A hole in a run, which only a damaged
/// disk can make, is told to readers as a gap: what is below it is given up.
pub(super) fn read_log(disk: &dyn Durable, sealer: &Sealer, session: SessionKey) -> Result<Log, StoreError> {
    let marks = read_marks(disk, session)?;
    let bases: BTreeMap<Origin, u64> = marks.iter().map(|(origin, mark)| (*origin, mark.base)).collect();
    let base_of = |origin: Origin| bases.get(&origin).copied().unwrap_or(1);
    let mut runs: BTreeMap<Origin, Vec<Entry>> = BTreeMap::new();
    read_entries(disk, sealer, session, base_of, |entry| {
        let run = runs.entry(entry.origin).or_default();
        let expected = run.last().map_or_else(|| base_of(entry.origin), |last| last.seq + 1);
        if entry.seq > expected {
            tracing::error!(%session, origin = %entry.origin, seq = entry.seq,
                "entries of a log are missing on the disk: readers are told of a gap");
            run.clear();
        }
        run.push(entry);
    })?;
    let mut log = Log::default();
    for (origin, base) in bases.iter().filter(|(origin, _)| !runs.contains_key(origin)) {
        log.note_mark(*origin, base.saturating_sub(1));
    }
    let mut runs: Vec<Vec<Entry>> = runs.into_values().collect();
    runs.sort_by_key(|run| run.first().map(|first| first.at_ms));
    for run in runs {
        for entry in run {
            if let Err(refused) = log.union(entry) {
                return Err(StoreError::Io(format!("a run of the log is damaged: {refused:?}")));
            }
        }
    }
    for (origin, Mark { base, get, at_ms }) in marks {
        log.note_last(origin, at_ms);
        log.note_cut(Cut { origin, base, get: get.unwrap_or(u64::MAX) });
    }
    Ok(log)
}

/// An entry that is longer than a row, as far as it has been read.
struct Long {
    origin: Origin,
    seq: u64,
    row: Vec<u8>,
    first: Vec<u8>,
    pieces: Vec<Vec<u8>>,
}

/// The entries of a session from the base of their run on, in order.
fn read_entries(
    disk: &dyn Durable,
    sealer: &Sealer,
    session: SessionKey,
    base_of: impl Fn(Origin) -> u64,
    mut take: impl FnMut(Entry),
) -> Result<(), StoreError> {
    let mut long: Option<Long> = None;
    each(disk, Table::Log, session.as_bytes(), |(row, stored)| {
        let (origin, seq, is_piece) =
            read_entry_key(&row).ok_or_else(|| StoreError::Io("a log entry's key is damaged".into()))?;
        if is_piece {
            let Some(mut open) = long.take().filter(|open| (open.origin, open.seq) == (origin, seq)) else {
                return Ok(());
            };
            open.pieces.push(stored);
            if open.pieces.len() < record::pieces(&open.first)? {
                long = Some(open);
            } else {
                let whole = record::join(&open.first, open.pieces.iter().map(Vec::as_slice))?;
                let at = At { table: Table::Log, key: &open.row };
                take(record::decode_entry(sealer, at, origin, seq, &whole)?);
            }
            return Ok(());
        }
        long = None;
        if seq < base_of(origin) {
            return Ok(());
        }
        if record::pieces(&stored)? > 0 {
            long = Some(Long { origin, seq, row, first: stored, pieces: Vec::new() });
        } else {
            let at = At { table: Table::Log, key: &row };
            take(record::decode_entry(sealer, at, origin, seq, &stored)?);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_after_all_its_keys_and_before_the_next() {
        assert_eq!(after(&[1, 2]), [1, 3]);
        assert_eq!(after(&[1, 0xff]), [2]);
        assert!(after(&[0xff, 0xff]) > vec![0xff; 10]);
    }
}
