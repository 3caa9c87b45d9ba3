//! A disk in memory that loses its power: what was not synced is there up to some row and no further.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use outlast::store::StoreError;
use outlast::store::durable::{Durable, Row, Table, Write};

use super::random::Random;

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

#[derive(Default)]
struct State {
    /// What is on stable storage.
    synced: Rows,
    /// What was changed since, row by row, in order.
    journal: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
    /// Both together.
    current: Rows,
    /// Changes of rows until the power goes.
    left: u64,
}

/// The contract of [`Durable`] and not a bit more: after a crash a prefix of all changes is there, with at least those
/// that a sync followed.
pub struct Cut {
    state: Mutex<State>,
    dark: AtomicBool,
}

impl Cut {
    /// An empty disk that has power for so many changes of rows.
    pub fn new(rows: u64) -> Self {
        Self { state: Mutex::new(State { left: rows, ..State::default() }), dark: AtomicBool::new(false) }
    }

    pub fn is_dark(&self) -> bool {
        self.dark.load(Ordering::SeqCst)
    }

    /// The disk as a later start finds it, with power for `rows` changes.
    pub fn after_crash(&self, random: &mut Random, rows: u64) -> Self {
        self.dark.store(true, Ordering::SeqCst);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut synced = state.synced.clone();
        let kept = random.below(state.journal.len() as u64 + 1) as usize;
        for (table, key, value) in &state.journal[..kept] {
            apply(&mut synced, *table, key.clone(), value.clone());
        }
        let state = State { current: synced.clone(), synced, journal: Vec::new(), left: rows };
        Self { state: Mutex::new(state), dark: AtomicBool::new(false) }
    }

    fn change(
        &self,
        state: &mut State,
        table: Table,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    ) -> Result<(), StoreError> {
        if self.is_dark() || state.left == 0 {
            self.dark.store(true, Ordering::SeqCst);
            return Err(StoreError::Io("the power is gone".into()));
        }
        state.left -= 1;
        apply(&mut state.current, table, key.clone(), value.clone());
        state.journal.push((table, key, value));
        Ok(())
    }
}

fn apply(rows: &mut Rows, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
    match value {
        Some(value) => rows.insert((table, key), value),
        None => rows.remove(&(table, key)),
    };
}

impl Durable for Cut {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(state.current.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if from >= to {
            return Ok(Vec::new());
        }
        let range = state.current.range((table, from.to_vec())..(table, to.to_vec()));
        Ok(range.take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            match write {
                Write::Put(table, key, value) => self.change(&mut state, table, key, Some(value))?,
                Write::Delete(table, key) => self.change(&mut state, table, key, None)?,
                Write::DeleteRange(table, from, to) => {
                    let range = (table, from.clone())..(table, to.max(from));
                    let keys: Vec<Vec<u8>> =
                        state.current.range(range).map(|((_, key), _)| key.clone()).collect();
                    for key in keys {
                        self.change(&mut state, table, key, None)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_dark() {
            return Err(StoreError::Io("the power is gone".into()));
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

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
