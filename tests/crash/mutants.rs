//! Disks that break their word on purpose: each is a mistake that a store could make, and the checker must find it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use outlast::store::StoreError;
use outlast::store::durable::{Durable, Row, Table, Write};
use outlast::store::record::{self, Head, Mark};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mutant {
    /// Nothing is ever flushed.
    NoFlush,
    /// Groups of writes are acknowledged, and flushed with a later one.
    AckEarly,
    /// A disk that fails is taken for one that does not.
    ErrorsIgnored,
    /// Every seventh field is not written.
    DropNth,
    /// Of two writes of a field in one group the first one stands.
    Reorder,
    /// An entry of a log is also put in the next place.
    DuplicateEntry,
    /// Every ninth entry of a log is not written.
    HoleInLog,
    /// The end of a session is not written.
    LostTombstone,
    /// One field of a create is not written.
    HalfCreate,
    /// A create writes the session before its fields.
    HeadFirst,
    /// After a restart some fields have their value before the last.
    StaleAfterRestart,
    /// A trim takes one entry too many.
    TrimTooFar,
    /// A trim is forgotten, and the entries with it are not.
    TrimForgotten,
    /// A start begins with no sessions.
    EmptyAfterRestart,
    /// Uses of sessions are not written.
    UseForgotten,
    /// What is to hold together is not noted before it is written.
    UpdateUnnoted,
}

/// A field's row, as against a piece of a long one: session, 0, name.
fn is_field(key: &[u8]) -> bool {
    key.get(16) == Some(&0)
}

/// An entry's row: session, origin, number.
fn is_entry(key: &[u8]) -> bool {
    key.len() == 29
}

/// Values that are longer are in pieces of which these mutants know nothing.
const SHORT: usize = 4_000;

#[derive(Default)]
struct Memory {
    /// Fields written since the last sync, with their first value.
    group: HashMap<Vec<u8>, Vec<u8>>,
    /// Fields written by this process.
    written: HashSet<Vec<u8>>,
}

/// A disk with a mistake in front of it.
pub struct Mutated {
    inner: Arc<dyn Durable>,
    mutant: Mutant,
    count: AtomicU64,
    memory: Mutex<Memory>,
}

impl Mutated {
    pub fn new(inner: Arc<dyn Durable>, mutant: Mutant) -> Self {
        if mutant == Mutant::EmptyAfterRestart
            && let Ok(rows) = inner.scan(Table::Head, &[], &[u8::MAX; 20], usize::MAX)
        {
            let _ = inner.write(rows.into_iter().map(|(key, _)| Write::Delete(Table::Head, key)).collect());
        }
        Self { inner, mutant, count: AtomicU64::new(0), memory: Mutex::default() }
    }

    fn nth(&self, n: u64) -> bool {
        (self.count.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(n)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mutate(&self, mut writes: Vec<Write>) -> Vec<Write> {
        let head = |write: &Write| match write {
            Write::Put(Table::Head, _, value) => record::decode::<Head>(value).ok(),
            _ => None,
        };
        let is_create =
            writes.last().and_then(head).is_some_and(|head| head.ended.is_none()) && writes.len() > 1;
        match self.mutant {
            Mutant::LostTombstone if writes.iter().filter_map(head).any(|head| head.ended.is_some()) => {
                return Vec::new();
            }
            Mutant::UseForgotten if writes.len() == 1 && writes.iter().any(|write| head(write).is_some()) => {
                return Vec::new();
            }
            Mutant::HalfCreate if is_create && self.nth(3) => {
                let field = |write: &Write| matches!(write, Write::Put(Table::Doc, key, _) if is_field(key));
                if let Some(at) = writes.iter().position(field) {
                    writes.remove(at);
                }
            }
            Mutant::HeadFirst if is_create => {
                // Not before what clears away an earlier session of the key, which would take this head along.
                let own = |write: &Write| matches!(write, Write::Put(Table::Expiry, ..));
                if let Some(at) = writes.iter().position(own)
                    && let Some(create) = writes.get_mut(at..)
                {
                    create.rotate_right(1);
                }
            }
            _ => {}
        }
        let mut out = Vec::with_capacity(writes.len());
        for write in writes {
            self.mutate_one(write, &mut out);
        }
        out
    }

    fn mutate_one(&self, write: Write, out: &mut Vec<Write>) {
        match (self.mutant, write) {
            (Mutant::DropNth, Write::Put(Table::Doc, key, _)) if is_field(&key) && self.nth(7) => {}
            (Mutant::HoleInLog, Write::Put(Table::Log, key, _)) if is_entry(&key) && self.nth(9) => {}
            (Mutant::Reorder, Write::Put(Table::Doc, key, value))
                if is_field(&key) && value.len() < SHORT =>
            {
                let first = self.memory().group.entry(key.clone()).or_insert(value).clone();
                out.push(Write::Put(Table::Doc, key, first));
            }
            (Mutant::DuplicateEntry, Write::Put(Table::Log, key, value))
                if is_entry(&key) && value.len() < SHORT =>
            {
                let mut next = key.clone();
                if let Some(last) = next.last_chunk_mut::<8>() {
                    *last = (u64::from_be_bytes(*last) + 1).to_be_bytes();
                }
                out.push(Write::Put(Table::Log, key, value.clone()));
                out.push(Write::Put(Table::Log, next, value));
            }
            (Mutant::TrimTooFar, Write::Put(Table::Mark, key, value)) => {
                let value = match record::decode::<Mark>(&value) {
                    Ok(mark) => record::encode(&Mark { base: mark.base + 1, ..mark }).unwrap_or(value),
                    Err(_) => value,
                };
                out.push(Write::Put(Table::Mark, key, value));
            }
            (Mutant::TrimForgotten, Write::Put(Table::Mark, ..) | Write::DeleteRange(Table::Log, ..)) => {}
            (Mutant::StaleAfterRestart, Write::Put(Table::Doc, key, value)) if is_field(&key) => {
                if let Ok(Some(old)) = self.inner.get(Table::Doc, &key)
                    && old.len() < SHORT
                {
                    out.push(Write::Put(Table::Cache, key.clone(), old));
                }
                self.memory().written.insert(key.clone());
                out.push(Write::Put(Table::Doc, key, value));
            }
            (Mutant::UpdateUnnoted, Write::Put(Table::Meta, key, _)) if key == b"redo" => {}
            (_, write) => out.push(write),
        }
    }
}

impl Durable for Mutated {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let mut rows = self.inner.scan(table, from, to, limit)?;
        if self.mutant == Mutant::StaleAfterRestart && table == Table::Doc {
            for (key, value) in &mut rows {
                let unlucky = key.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).is_multiple_of(3);
                if unlucky
                    && !self.memory().written.contains(key)
                    && let Some(old) = self.inner.get(Table::Cache, key)?
                {
                    *value = old;
                }
            }
        }
        Ok(rows)
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        match self.inner.write(self.mutate(writes)) {
            Err(_) if self.mutant == Mutant::ErrorsIgnored => Ok(()),
            result => result,
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.memory().group.clear();
        match self.mutant {
            Mutant::NoFlush => Ok(()),
            Mutant::AckEarly if !self.nth(3) => Ok(()),
            Mutant::ErrorsIgnored => {
                let _ = self.inner.sync();
                Ok(())
            }
            _ => self.inner.sync(),
        }
    }

    fn witness(&self, tick: u64) {
        // A disk that forgets must not be found out by its own guard.
        if self.mutant != Mutant::NoFlush && self.mutant != Mutant::AckEarly {
            self.inner.witness(tick);
        }
    }

    fn check_space(&self) -> Result<(), StoreError> {
        self.inner.check_space()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.inner.close()
    }
}
