//! Changes that hold together: after a crash all of them are there, or none.
//!
//! A disk keeps a prefix of the rows that were written to it ([`Durable::write`]), so what takes several rows can be torn
//! in two. A value that is cut into pieces names them in its last row, and a session its fields by its head; several
//! fields of a session that is there already have no such row. They are noted before they are written, and a start that
//! finds the note writes them again.

use serde::{Deserialize, Serialize};

use super::durable::{Durable, Table, Write};
use super::{StoreError, record, rows};

/// The note. There from just before the first of its changes until just after the last.
const META_REDO: &[u8] = b"redo";
const META_PIECES: &[u8] = b"redo/";

/// The rows of a change.
#[derive(Serialize, Deserialize)]
struct Note {
    /// The tick of the group before: when it is another one, a program that knows no such notes has written since.
    #[serde(rename = "n")]
    tick: u64,
    #[serde(rename = "w")]
    writes: Vec<Noted>,
}

/// One row: put, if there is a value; removed up to another one, if there is an end; else removed.
#[derive(Serialize, Deserialize)]
struct Noted {
    #[serde(rename = "t")]
    table: String,
    #[serde(rename = "k", with = "serde_bytes")]
    key: Vec<u8>,
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    value: Option<Vec<u8>>,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    end: Option<Vec<u8>>,
}

/// The same changes with a note around them. One alone needs none.
pub(super) fn whole(disk: &dyn Durable, writes: Vec<Write>) -> Result<Vec<Write>, StoreError> {
    if writes.len() < 2 {
        return Ok(writes);
    }
    let note = Note { tick: tick(disk)?, writes: writes.iter().map(noted).collect() };
    let (first, pieces) = record::cut(record::encode(&note)?, &[]);
    let mut all = Vec::with_capacity(writes.len() + pieces.len() + 3);
    let is_long = !pieces.is_empty();
    if is_long {
        // Of a note that a crash left unfinished.
        all.push(forget_pieces());
    }
    for (at, piece) in pieces.into_iter().enumerate() {
        let key = [META_PIECES, (at as u64).to_be_bytes().as_slice()].concat();
        all.push(Write::Put(Table::Meta, key, piece));
    }
    // With the note all its pieces are there.
    all.push(Write::Put(Table::Meta, META_REDO.to_vec(), first));
    all.extend(writes);
    all.push(Write::Delete(Table::Meta, META_REDO.to_vec()));
    if is_long {
        all.push(forget_pieces());
    }
    Ok(all)
}

/// Ends the change that a crash interrupted.
pub(super) fn recover(disk: &dyn Durable) -> Result<(), StoreError> {
    let Some(first) = disk.get(Table::Meta, META_REDO)? else { return Ok(()) };
    let stored = match record::pieces(&first)? {
        0 => first,
        _ => {
            let mut pieces = Vec::new();
            rows::each(disk, Table::Meta, META_PIECES, |(_, piece)| {
                pieces.push(piece);
                Ok(())
            })?;
            record::join(&first, pieces.iter().map(Vec::as_slice))?
        }
    };
    let Note { tick: noted_at, writes } = record::decode(&stored)?;
    let mut all = Vec::with_capacity(writes.len() + 2);
    if noted_at == tick(disk)? {
        tracing::info!(rows = writes.len(), "a change of several values was interrupted; it is made whole");
        for noted in writes {
            all.push(write(noted)?);
        }
    }
    all.push(Write::Delete(Table::Meta, META_REDO.to_vec()));
    all.push(forget_pieces());
    disk.write(all)?;
    disk.sync()
}

fn tick(disk: &dyn Durable) -> Result<u64, StoreError> {
    let row = disk.get(Table::Meta, rows::META_TICK)?;
    Ok(row.and_then(|row| row.try_into().ok()).map_or(0, u64::from_be_bytes))
}

fn forget_pieces() -> Write {
    Write::DeleteRange(Table::Meta, META_PIECES.to_vec(), rows::after(META_PIECES))
}

fn noted(write: &Write) -> Noted {
    let (table, key, value, end) = match write {
        Write::Put(table, key, value) => (table, key, Some(value), None),
        Write::Delete(table, key) => (table, key, None, None),
        Write::DeleteRange(table, from, to) => (table, from, None, Some(to)),
    };
    Noted { table: table.name().to_owned(), key: key.clone(), value: value.cloned(), end: end.cloned() }
}

fn write(Noted { table, key, value, end }: Noted) -> Result<Write, StoreError> {
    let table = Table::ALL.into_iter().find(|known| known.name() == table);
    let table = table.ok_or_else(|| StoreError::Io("the note of an interrupted change is damaged".into()))?;
    Ok(match (value, end) {
        (Some(value), _) => Write::Put(table, key, value),
        (None, Some(end)) => Write::DeleteRange(table, key, end),
        (None, None) => Write::Delete(table, key),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::limits::ROW_VALUE_BYTES;
    use crate::store::memory::Memory;

    const BEFORE: [&[u8]; 3] = [b"a", b"b", b"b2"];

    fn put(key: &[u8], value: Vec<u8>) -> Write {
        Write::Put(Table::Doc, key.to_vec(), value)
    }

    /// A disk that holds a value under each key of [`BEFORE`].
    fn disk() -> Memory {
        let disk = Memory::default();
        disk.write(BEFORE.iter().map(|key| put(key, vec![0])).collect()).unwrap();
        disk
    }

    fn docs(disk: &Memory) -> Vec<(Vec<u8>, Vec<u8>)> {
        disk.scan(Table::Doc, &[], &rows::after(&[]), usize::MAX).unwrap()
    }

    fn change(length: usize) -> Vec<Write> {
        vec![
            put(b"a", vec![1; length]),
            Write::DeleteRange(Table::Doc, b"b".to_vec(), b"c".to_vec()),
            put(b"d", vec![2; length]),
            Write::Delete(Table::Doc, b"zz".to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn a_change_that_was_cut_anywhere_is_there_as_a_whole_or_not_at_all(
            cut in 0_usize..64,
            again in 0_usize..64,
            length in prop_oneof![1_usize..40, ROW_VALUE_BYTES - 200..3 * ROW_VALUE_BYTES],
        ) {
            let (before, whole_disk) = (docs(&disk()), disk());
            whole_disk.write(change(length)).unwrap();
            let after = docs(&whole_disk);
            let disk = disk();
            let mut rows = whole(&disk, change(length)).unwrap();
            rows.truncate(cut);
            disk.write(rows.clone()).unwrap();
            // A start that is cut short as well.
            if disk.get(Table::Meta, META_REDO).unwrap().is_some() {
                disk.write(change(length).into_iter().take(again).collect()).unwrap();
            }
            recover(&disk).unwrap();
            let found = docs(&disk);
            prop_assert!(found == before || found == after, "cut after {} rows: {found:?}", rows.len());
            prop_assert!(disk.get(Table::Meta, META_REDO).unwrap().is_none());
            // The next one leaves nothing of it.
            disk.write(whole(&disk, change(3 * ROW_VALUE_BYTES)).unwrap()).unwrap();
            let left = disk.scan(Table::Meta, META_PIECES, &rows::after(META_PIECES), usize::MAX).unwrap();
            prop_assert!(left.is_empty());
        }
    }

    #[test]
    fn a_note_on_which_a_program_that_knows_none_has_built_is_forgotten() {
        let disk = disk();
        let mut rows = whole(&disk, change(1)).unwrap();
        rows.truncate(2);
        disk.write(rows).unwrap();
        // What it wrote, and the end of its group.
        disk.write(vec![
            put(b"a", vec![9]),
            Write::Put(Table::Meta, rows::META_TICK.to_vec(), 1_u64.to_be_bytes().to_vec()),
        ])
        .unwrap();
        recover(&disk).unwrap();
        assert_eq!(disk.get(Table::Doc, b"a").unwrap(), Some(vec![9]));
        assert!(disk.get(Table::Meta, META_REDO).unwrap().is_none());
    }
}
