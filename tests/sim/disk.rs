//! A disk in memory that can lose what was not synced.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use outlast::store::StoreError;
use outlast::store::durable::{Durable, Row, Table, Write};

use super::failover::random::Random;
use super::mutants::Mutant;

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

#[derive(Clone, Default)]
struct State {
    /// What is on stable storage.
    synced: Rows,
    /// What was changed since, row by row, in order.
    journal: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
    /// Both together.
    current: Rows,
    gone: bool,
    /// The power goes after so many changes of rows, if it does.
    left: Option<u64>,
}

/// The contract of [`Durable`] and not a bit more.
pub struct Disk {
    state: Mutex<State>,
    mutant: Option<Mutant>,
}

impl Disk {
    pub fn empty(mutant: Option<Mutant>) -> Self {
        Self { state: Mutex::default(), mutant }
    }

    /// The power goes after so many more changes of rows.
    pub fn cut_after(&self, rows: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).left = Some(rows);
    }

    /// The disk as a later start finds it: with all that was written, or after a power cut with what was synced and a
    /// part of what was not. Whoever still uses the old one gets errors.
    pub fn after(&self, power_cut: bool, random: &mut Random) -> Self {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.gone = true;
        let mut synced = std::mem::take(&mut state.synced);
        let all = state.journal.len();
        let kept = if power_cut { random.below(all as u64 + 1) as usize } else { all };
        for (table, key, value) in state.journal.drain(..).take(kept) {
            apply(&mut synced, table, key, value);
        }
        let state = State { current: synced.clone(), synced, ..State::default() };
        Self { state: Mutex::new(state), mutant: self.mutant }
    }
}

fn apply(rows: &mut Rows, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
    match value {
        Some(value) => rows.insert((table, key), value),
        None => rows.remove(&(table, key)),
    };
}

impl State {
    fn check(&self) -> Result<(), StoreError> {
        if self.gone { Err(StoreError::Io("the power is gone".into())) } else { Ok(()) }
    }

    fn change(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        if let Some(left) = &mut self.left {
            if *left == 0 {
                self.gone = true;
                return self.check();
            }
            *left -= 1;
        }
        self.put(table, key, value);
        Ok(())
    }

    fn put(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        apply(&mut self.current, table, key.clone(), value.clone());
        self.journal.push((table, key, value));
    }
}

impl Durable for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.check()?;
        Ok(state.current.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.check()?;
        if from >= to {
            return Ok(Vec::new());
        }
        let range = state.current.range((table, from.to_vec())..(table, to.to_vec()));
        Ok(range.take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.check()?;
        for write in writes {
            match write {
                Write::Put(Table::Dirty, ..) if self.mutant == Some(Mutant::DebtsForgotten) => {}
                Write::Put(table, key, value) => state.change(table, key, Some(value))?,
                Write::Delete(table, key) => state.change(table, key, None)?,
                Write::DeleteRange(table, from, to) => {
                    let range = (table, from.clone())..(table, to.max(from));
                    let keys: Vec<Vec<u8>> =
                        state.current.range(range).map(|((_, key), _)| key.clone()).collect();
                    for key in keys {
                        state.change(table, key, None)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.check()?;
        if self.mutant == Some(Mutant::AckBeforeSync) {
            return Ok(());
        }
        let State { synced, journal, .. } = &mut *state;
        for (table, key, value) in journal.drain(..) {
            apply(synced, table, key, value);
        }
        Ok(())
    }

    fn witness(&self, _tick: u64) {}

    fn check_space(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
