//! All that the server knows of a disk.

use super::StoreError;

/// What is kept apart on the disk. The names are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Facts about the data directory as a whole.
    Meta,
    /// One small row per session: whose it is, when it ends, when it was last used, whether it was ended.
    Head,
    /// The fields of session documents.
    Doc,
    /// Log entries.
    Log,
    /// Where the retained part of a run begins.
    Mark,
    /// Sessions and tombstones by the time at which somebody has to look at them.
    Expiry,
    /// Sessions that owe something to another store.
    Dirty,
    /// Results of tasks and requests.
    Result,
    /// Locks.
    Lock,
    /// Values that lost against a newer write.
    Conflict,
    /// Results that came too late.
    DeadLetter,
    /// What may be forgotten.
    Cache,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 12] = [
        Self::Meta,
        Self::Head,
        Self::Doc,
        Self::Log,
        Self::Mark,
        Self::Expiry,
        Self::Dirty,
        Self::Result,
        Self::Lock,
        Self::Conflict,
        Self::DeadLetter,
        Self::Cache,
    ];

    /// Its name on the disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Head => "head",
            Self::Doc => "doc",
            Self::Log => "log",
            Self::Mark => "mark",
            Self::Expiry => "expiry",
            Self::Dirty => "dirty",
            Self::Result => "result",
            Self::Lock => "lock",
            Self::Conflict => "conflict",
            Self::DeadLetter => "dead_letter",
            Self::Cache => "cache",
        }
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// One change of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Puts a row.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Removes a row.
    Delete(Table, Vec<u8>),
    /// Removes all rows from a key on, up to and without another.
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}

/// How much of the room that the tables may take is taken, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What they take.
    pub used: u64,
    /// What they may take; 0: there is no bound.
    pub max: u64,
}

/// A disk: ordered tables of bytes. All writes come from one thread; reads come from any, and block.
pub trait Durable: Send + Sync + 'static {
    /// A row's value, with everything written so far, synced or not.
    ///
    /// # Errors
    /// Failures of the disk.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// At most `limit` rows from `from` on, up to and without `to`, in the order of their keys.
    ///
    /// # Errors
    /// Failures of the disk.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError>;

    /// Applies changes in order. After a crash a prefix of all changes is there, with at least those that a
    /// [`Durable::sync`] followed.
    ///
    /// # Errors
    /// Failures of the disk: some of the changes may have been applied.
    fn write(&self, writes: Vec<Write>) -> Result<(), StoreError>;

    /// Returns when everything written so far is on stable storage.
    ///
    /// # Errors
    /// Failures of the disk: nothing is known of what was written since the last sync.
    fn sync(&self) -> Result<(), StoreError>;

    /// Notes outside the tables that a sync has returned after [`Table::Meta`] row `tick` was `tick`. A later start
    /// that finds a lower number there knows that writes were lost which had been acknowledged. Called for every group
    /// of writes: it must be quick, and need not survive a power cut.
    fn witness(&self, tick: u64);

    /// Looks after the room on the disk, about once a second, and says whether there is enough for new writes.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is not.
    fn check_space(&self) -> Result<(), StoreError>;

    /// How full the disk is. Asked about as often as [`Durable::check_space`].
    fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Whether reads wait for a device: then they are not made on threads that serve others.
    fn blocks(&self) -> bool {
        true
    }

    /// Syncs and lets go of the disk. Everything fails with [`StoreError::Closed`] from then on.
    ///
    /// # Errors
    /// Failures of the disk.
    fn close(&self) -> Result<(), StoreError>;
}
