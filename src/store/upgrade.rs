//! From an older format of the data directory to this program's.
//!
//! A format changes when what is stored would be misread, not when something is added. Each step makes one format of
//! the one before it, and notes that it did; a step that a crash cut short is made again, so it must not mind rows that
//! it has changed already. What a format looks like is kept as a directory under `tests/fixtures`, by which the steps
//! from it are proven.

use super::durable::{Durable, Table, Write};
use super::record::{self, Format};
use super::{StoreError, rows};

/// Makes a format of the one before it.
pub(super) struct Step {
    /// The format that it makes.
    pub(super) to: u32,
    /// Changes the rows.
    pub(super) apply: fn(&dyn Durable) -> Result<(), StoreError>,
}

/// The steps to [`super::boot::FORMAT`], in order.
pub(super) const STEPS: &[Step] = &[
    // Records of one part are still read: each takes the new form when it is written next, or resealed.
    Step { to: 2, apply: |_| Ok(()) },
];

/// Brings the tables from format `from` to the last one that `steps` make.
pub(super) fn upgrade(disk: &dyn Durable, from: u32, steps: &[Step]) -> Result<(), StoreError> {
    for Step { to, apply } in steps.iter().filter(|step| step.to > from) {
        tracing::warn!(
            from,
            to,
            "the data is being upgraded: an older version of this program cannot use it any more"
        );
        apply(disk)?;
        // The note must not be on the disk before what it says.
        disk.sync()?;
        let format = Format { format: *to, by: env!("CARGO_PKG_VERSION").into() };
        let note = Write::Put(Table::Meta, rows::META_FORMAT.to_vec(), record::encode(&format)?);
        disk.write(vec![note])?;
        disk.sync()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::store::memory::Memory;

    thread_local! {
        static CRASH: Cell<bool> = const { Cell::new(false) };
    }

    /// Marks every head row that is not marked, and stops half-way when told so.
    fn mark_heads(disk: &dyn Durable) -> Result<(), StoreError> {
        let mut writes = Vec::new();
        rows::each(disk, Table::Head, &[], |(key, value)| {
            if value.last() != Some(&2) {
                writes.push(Write::Put(Table::Head, key, [value, vec![2]].concat()));
            }
            Ok(())
        })?;
        if CRASH.take() {
            writes.truncate(writes.len() / 2);
            disk.write(writes)?;
            return Err(StoreError::Io("cut short".into()));
        }
        disk.write(writes)
    }

    const STEPS: &[Step] = &[Step { to: 2, apply: mark_heads }, Step { to: 3, apply: |_| Ok(()) }];

    fn format(disk: &dyn Durable) -> Option<u32> {
        let stored = disk.get(Table::Meta, rows::META_FORMAT).unwrap()?;
        Some(record::decode::<Format>(&stored).unwrap().format)
    }

    #[test]
    fn a_step_that_was_cut_short_is_made_again_and_none_is_made_twice() {
        let disk = Memory::default();
        let heads = (0_u8..10).map(|n| Write::Put(Table::Head, vec![n], vec![1]));
        disk.write(heads.collect()).unwrap();
        CRASH.set(true);
        assert!(upgrade(&disk, 1, STEPS).is_err());
        assert_eq!(format(&disk), None);
        upgrade(&disk, 1, STEPS).unwrap();
        assert_eq!(format(&disk), Some(3));
        upgrade(&disk, 3, STEPS).unwrap();
        for n in 0_u8..10 {
            assert_eq!(disk.get(Table::Head, &[n]).unwrap(), Some(vec![1, 2]));
        }
    }

    #[test]
    fn a_directory_that_a_later_program_upgraded_is_refused_by_this_one() {
        let temp = tempfile::tempdir().unwrap();
        let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1");
        std::fs::create_dir(temp.path().join("db")).unwrap();
        for name in ["format", "keys", "db/conf", "db/db"] {
            std::fs::copy(from.join(name), temp.path().join(name)).unwrap();
        }
        let settings = crate::config::Store { ballast_bytes: 0, ..Default::default() };
        let open = || {
            let dir = super::super::dir::Dir::open(temp.path()).unwrap();
            super::super::sled::Sled::open(dir, &settings, 1).unwrap()
        };
        let disk = open();
        let before = disk.scan(Table::Head, &[], &rows::after(&[]), usize::MAX).unwrap();
        assert_eq!(before.len(), 3);
        upgrade(&disk, 1, STEPS).unwrap();
        disk.close().unwrap();
        let disk = open();
        assert_eq!(format(&disk), Some(3));
        for (key, value) in before {
            assert_eq!(disk.get(Table::Head, &key).unwrap(), Some([value, vec![2]].concat()));
        }
        let Err(StoreError::Unusable(text)) = super::super::boot::start(&disk, 1, 1) else { panic!() };
        assert!(text.contains("format 3") && text.contains("nothing was changed"), "{text}");
    }

    #[test]
    fn the_steps_lead_to_the_format_of_this_program_one_by_one() {
        let mut at = super::super::boot::OLDEST_FORMAT;
        for step in super::STEPS {
            assert_eq!(step.to, at + 1);
            at = step.to;
        }
        assert_eq!(at, super::super::boot::FORMAT);
    }
}
