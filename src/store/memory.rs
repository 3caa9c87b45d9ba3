//! The tables in memory, for tests and for servers that keep nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::StoreError;
use super::durable::{Durable, Row, Table, Usage, Write};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Tables that end with the process.
#[derive(Debug, Default)]
pub struct Memory {
    tables: RwLock<BTreeMap<Table, Rows>>,
    /// Lengths of all keys and values.
    used: AtomicI64,
    max_bytes: u64,
}

impl Memory {
    /// Tables that are full when keys and values take `max_bytes`.
    #[must_use]
    pub fn bounded(max_bytes: u64) -> Self {
        Self { max_bytes, ..Self::default() }
    }

    fn count(&self, by: isize) {
        self.used.fetch_add(by as i64, Ordering::Relaxed);
    }
}

fn cost(key: &[u8], value: &[u8]) -> isize {
    isize::try_from(key.len() + value.len()).unwrap_or(isize::MAX)
}

impl Durable for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        Ok(tables.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let Some(rows) = tables.get(&table).filter(|_| from < to) else { return Ok(Vec::new()) };
        let range = rows.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to)));
        Ok(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            match write {
                Write::Put(table, key, value) => {
                    let (len, new) = (key.len(), cost(&key, &value));
                    let old = tables.entry(table).or_default().insert(key, value);
                    self.count(new - old.map_or(0, |old| cost(&[], &old) + len as isize));
                }
                Write::Delete(table, key) => {
                    if let Some(old) = tables.entry(table).or_default().remove(&key) {
                        self.count(-cost(&key, &old));
                    }
                }
                Write::DeleteRange(table, from, to) if from < to => {
                    let gone = tables.entry(table).or_default().extract_if(from..to, |_, _| true);
                    gone.for_each(|(key, old)| self.count(-cost(&key, &old)));
                }
                Write::DeleteRange(..) => {}
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn witness(&self, _tick: u64) {}

    fn check_space(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }

    fn usage(&self) -> Usage {
        let used = self.used.load(Ordering::Relaxed);
        Usage { used: u64::try_from(used).unwrap_or(0), max: self.max_bytes }
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
