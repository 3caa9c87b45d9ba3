//! Disks that fail: slow, full, or with syncs that fail.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outlast::store::StoreError;
use outlast::store::durable::{Durable, Row, Table, Write};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Every sync takes so long, milliseconds.
    SlowSync(u64),
    /// After so many syncs each one fails, without having been done.
    FailingSync(u64),
    /// After so many writes each one fails half way.
    FailingWrite(u64),
    /// The disk counts as full while the switch is there.
    Full,
}

/// A disk with a fault in front of it.
pub struct Faulty {
    inner: Arc<dyn Durable>,
    fault: Fault,
    switch: PathBuf,
    count: AtomicU64,
}

impl Faulty {
    /// `switch`: a file that turns [`Fault::Full`] on.
    pub fn new(inner: Arc<dyn Durable>, fault: Fault, switch: PathBuf) -> Self {
        Self { inner, fault, switch, count: AtomicU64::new(0) }
    }
}

impl Durable for Faulty {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.inner.scan(table, from, to, limit)
    }

    fn write(&self, mut writes: Vec<Write>) -> Result<(), StoreError> {
        if let Fault::FailingWrite(after) = self.fault
            && self.count.fetch_add(1, Ordering::SeqCst) >= after
        {
            writes.truncate(writes.len() / 2);
            self.inner.write(writes)?;
            return Err(StoreError::Io("the write failed half way".into()));
        }
        self.inner.write(writes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        match self.fault {
            Fault::SlowSync(ms) => std::thread::sleep(Duration::from_millis(ms)),
            Fault::FailingSync(after) if self.count.fetch_add(1, Ordering::SeqCst) >= after => {
                return Err(StoreError::Io("the sync failed".into()));
            }
            _ => {}
        }
        self.inner.sync()
    }

    fn witness(&self, tick: u64) {
        self.inner.witness(tick);
    }

    fn check_space(&self) -> Result<(), StoreError> {
        if self.fault == Fault::Full && self.switch.exists() {
            return Err(StoreError::Full("the disk counts as full".into()));
        }
        self.inner.check_space()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.inner.close()
    }
}
