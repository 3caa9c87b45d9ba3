//! The tables in sled 0.34, with guards against what it does not do by itself.
//!
//! `flush` of sled hands its buffers to the kernel and waits for the pages, but never calls fsync (spacejam/sled#1452);
//! so after it this file syncs the data file through a handle of its own, whose errors nobody else can have consumed.
//! Only the commit thread writes and flushes: concurrent flushes can deadlock (spacejam/sled#1308). Pages larger than
//! a quarter of a segment would become files that are never synced: segments are 2 MiB and rows short. Unfinished
//! snapshots, which sled would take for whole ones, are removed before it opens. Transactions, batches, merge
//! operators and subscribers are not used: the first two lock the whole process, the last blocks writers.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use super::backup::Backups;
use super::dir::{Dir, unusable};
use super::durable::{Durable, Row, Table, Usage, Write};
use super::space::Space;
use super::suspicion::{Suspicion, Watch};
use super::{StoreError, rows};
use crate::config::{self, Durability};

/// A leaf page is 16 rows; it stays below a quarter of this with rows of `limits::ROW_VALUE_BYTES`.
const SEGMENT_BYTES: usize = 2 << 20;
/// Our own lock says that no other process has the database: sled's lock can only be one that this process is about to
/// let go of.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The tables in a data directory.
#[derive(Debug)]
pub struct Sled {
    /// `None` once closed.
    open: RwLock<Option<Open>>,
    space: Space,
    durability: Durability,
    /// Something in the database could not be read. The next start sets it aside, so nothing more is written to it.
    damaged: AtomicBool,
    max_bytes: u64,
}

/// The order of the fields is the order in which they are let go: the lock of the directory last.
struct Open {
    /// Lengths of all keys and values, and what of them the row says.
    used: AtomicI64,
    noted: AtomicI64,
    trees: Vec<(Table, sled::Tree)>,
    db: sled::Db,
    /// Our own handle of the data file, for syncs.
    file: File,
    _watch: Watch,
    dir: Dir,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Sled {
    /// Opens the database of a data directory. A damaged one is set aside, and an empty one takes its place.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Unusable`].
    pub fn open(dir: Dir, settings: &config::Store, now_ms: u64) -> Result<Self, StoreError> {
        let space = Space::new(dir.path(), settings.ballast_bytes);
        space.before_open();
        let suspicion = Suspicion::read(dir.path()).filter(|_| dir.database().exists());
        if suspicion == Some(Suspicion::Corrupt) {
            set_aside(&dir, now_ms, "an earlier start failed on it")?;
        }
        if !dir.database().exists() {
            dir.forget_witness()
                .map_err(|error| unusable(dir.path(), &format!("cannot be written: {error}")))?;
        }
        let watch = Watch::opening(dir.path());
        let verify = suspicion == Some(Suspicion::Verify);
        let opened = match try_open(&dir, settings, verify) {
            Err(Failure::Damaged(why)) => {
                set_aside(&dir, now_ms, &why)?;
                try_open(&dir, settings, false)
            }
            other => other,
        };
        let (db, trees, file) = opened.map_err(|failure| match failure {
            Failure::Damaged(why) => unusable(&dir.database(), &format!("cannot be opened: {why}")),
            Failure::Other(error) => error,
        })?;
        Suspicion::clear(dir.path());
        watch.opened();
        dir.restrict();
        let used = used(&trees).map_err(|error| StoreError::Io(error.to_string()))?;
        let (used, noted) = (AtomicI64::new(used), AtomicI64::new(-1));
        let open = Open { used, noted, trees, db, file, _watch: watch, dir };
        Ok(Self {
            open: RwLock::new(Some(open)),
            space,
            durability: settings.durability,
            damaged: AtomicBool::new(false),
            max_bytes: settings.max_bytes,
        })
    }

    fn is_sound(&self) -> Result<(), StoreError> {
        match self.damaged.load(Ordering::Acquire) {
            true => Err(StoreError::Poisoned("the database is damaged".into())),
            false => Ok(()),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&Open) -> Result<T, sled::Error>) -> Result<T, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let open = open.as_ref().ok_or(StoreError::Closed)?;
        act(open).map_err(|error| match error {
            sled::Error::Corruption { at, .. } => {
                Suspicion::Corrupt.write(open.dir.path());
                self.damaged.store(true, Ordering::Release);
                tracing::error!(?at, path = %open.dir.database().display(),
                    "the database is damaged: the next start sets it aside and begins with an empty one");
                StoreError::Poisoned(format!("the database is damaged at {at:?}"))
            }
            other => StoreError::Io(other.to_string()),
        })
    }
}

impl Open {
    fn tree(&self, table: Table) -> Result<&sled::Tree, sled::Error> {
        let found = self.trees.iter().find(|(of, _)| *of == table);
        found.map(|(_, tree)| tree).ok_or_else(|| sled::Error::Unsupported(table.name().into()))
    }

    fn apply(&self, write: Write) -> Result<(), sled::Error> {
        match write {
            Write::Put(table, key, value) => {
                let (key_bytes, value_bytes) = (key.len(), value.len());
                match self.tree(table)?.insert(key, value)? {
                    Some(old) => self.count(value_bytes, old.len()),
                    None => self.count(key_bytes + value_bytes, 0),
                }
            }
            Write::Delete(table, key) => self.remove(self.tree(table)?, &key)?,
            Write::DeleteRange(table, from, to) => {
                let tree = self.tree(table)?;
                for key in tree.range(from..to).keys() {
                    self.remove(tree, &key?)?;
                }
            }
        }
        Ok(())
    }

    fn remove(&self, tree: &sled::Tree, key: &[u8]) -> Result<(), sled::Error> {
        if let Some(old) = tree.remove(key)? {
            self.count(0, key.len() + old.len());
        }
        Ok(())
    }

    fn count(&self, more: usize, less: usize) {
        let by = i64::try_from(more).unwrap_or(0) - i64::try_from(less).unwrap_or(0);
        self.used.fetch_add(by, Ordering::Relaxed);
    }

    /// Writes down how much is used, so that nobody has to read everything to know.
    fn note_used(&self) -> Result<(), sled::Error> {
        let used = self.used.load(Ordering::Relaxed).max(0);
        if self.noted.swap(used, Ordering::Relaxed) != used {
            self.tree(Table::Meta)?.insert(rows::META_USED, &used.to_be_bytes())?;
        }
        Ok(())
    }

    /// What the database takes, and how much of its file that leaves for other data. The file does not become shorter;
    /// but what was removed makes room in it, surely when it is three times as long as what is in it: sled gathers the
    /// segments of which at most half is in use.
    fn taken(&self) -> (u64, u64) {
        let file = self.db.size_on_disk().unwrap_or(0);
        let used = u64::try_from(self.used.load(Ordering::Relaxed)).unwrap_or(0);
        let taken = file.min(used.saturating_mul(3).saturating_add(4 * SEGMENT_BYTES as u64));
        (taken, file - taken)
    }
}

impl Durable for Sled {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|open| Ok(open.tree(table)?.get(key)?.map(|value| value.to_vec())))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        self.with(|open| {
            let rows = open.tree(table)?.range(from..to).take(limit);
            rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
        })
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        self.is_sound()?;
        self.with(|open| writes.into_iter().try_for_each(|write| open.apply(write)))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.is_sound()?;
        self.with(|open| {
            open.note_used()?;
            open.db.flush()?;
            match self.durability {
                Durability::Fsync => Ok(open.file.sync_data()?),
                Durability::Relaxed => Ok(()),
            }
        })
    }

    fn witness(&self, tick: u64) {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*open {
            open.dir.witness(tick);
        }
    }

    fn check_space(&self) -> Result<(), StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        self.space.check(open.as_ref().map_or(0, |open| open.taken().1))
    }

    fn usage(&self) -> Usage {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let (used, spare) = open.as_ref().map_or((0, 0), Open::taken);
        let left = self.space.left().map_or(u64::MAX, |left| left.saturating_add(used).saturating_add(spare));
        Usage { used, max: if self.max_bytes == 0 { left } else { self.max_bytes.min(left) } }
    }

    fn close(&self) -> Result<(), StoreError> {
        let result = self.sync();
        drop(self.open.write().unwrap_or_else(PoisonError::into_inner).take());
        result
    }
}

/// Lengths of all keys and values, as the database says; counted, if it does not.
fn used(trees: &[(Table, sled::Tree)]) -> Result<i64, sled::Error> {
    let meta = trees.iter().find(|(table, _)| *table == Table::Meta);
    let noted = meta.map(|(_, meta)| meta.get(rows::META_USED)).transpose()?.flatten();
    if let Some(noted) = noted.and_then(|row| row.as_ref().try_into().ok()) {
        return Ok(i64::from_be_bytes(noted));
    }
    let mut used = 0;
    for row in trees.iter().flat_map(|(_, tree)| tree.iter()) {
        let (key, value) = row?;
        used += i64::try_from(key.len() + value.len()).unwrap_or(0);
    }
    Ok(used)
}

enum Failure {
    /// What is on the disk is not to be trusted.
    Damaged(String),
    Other(StoreError),
}

type Parts = (sled::Db, Vec<(Table, sled::Tree)>, File);

fn try_open(dir: &Dir, settings: &config::Store, verify: bool) -> Result<Parts, Failure> {
    let open = AssertUnwindSafe(|| open_database(dir, settings, verify));
    // A build that aborts on panic does not come back here; the note that `Watch` leaves does the same then.
    catch_unwind(open).unwrap_or_else(|_| Err(Failure::Damaged("reading it failed beyond repair".into())))
}

fn open_database(dir: &Dir, settings: &config::Store, verify: bool) -> Result<Parts, Failure> {
    let path = dir.database();
    remove_unfinished_snapshots(&path).map_err(|error| failure(dir, sled::Error::Io(error)))?;
    let config = sled::Config::new()
        .path(&path)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(settings.cache_bytes)
        .mode(sled::Mode::HighThroughput);
    let mut tries = 0;
    let db = loop {
        match config.open() {
            Ok(db) => break db,
            Err(sled::Error::Io(error))
                if tries < LOCK_TRIES && error.to_string().contains("could not acquire lock") =>
            {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(error) => return Err(failure(dir, error)),
        }
    };
    let mut trees = Vec::with_capacity(Table::ALL.len());
    for table in Table::ALL {
        trees.push((table, db.open_tree(table.name()).map_err(|error| failure(dir, error))?));
    }
    let tick = match trees.iter().find(|(table, _)| *table == Table::Meta) {
        Some((_, meta)) => meta.get(rows::META_TICK).map_err(|error| failure(dir, error))?,
        None => None,
    };
    let tick = tick.and_then(|tick| tick.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes);
    // sled takes what it cannot read at the end of its file for the trace of a crash, and drops it without a word.
    let witnessed = dir.witnessed();
    if tick < witnessed {
        return Err(Failure::Damaged(format!("writes are missing: it ends at tick {tick}, not {witnessed}")));
    }
    if verify {
        tracing::warn!(path = %path.display(), "the database failed while it was in use: reading all of it");
        for (_, tree) in &trees {
            for row in tree.iter() {
                row.map_err(|error| failure(dir, error))?;
            }
        }
    }
    let file = path.join("db");
    let file = File::options().write(true).open(&file).and_then(|handle| {
        handle.sync_all()?;
        File::open(&path)?.sync_all()?;
        dir.sync()?;
        Ok(handle)
    });
    let file = file.map_err(|error| failure(dir, sled::Error::Io(error)))?;
    Ok((db, trees, file))
}

/// sled writes a snapshot of its page table under another name and then renames it. A start that was killed there, or
/// had no room, leaves half of one, which sled takes for the newest at the next start and calls the database corrupt.
/// The one before it is kept until the rename, so what is unfinished is never needed.
fn remove_unfinished_snapshots(database: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn failure(dir: &Dir, error: sled::Error) -> Failure {
    let path = dir.database();
    match error {
        sled::Error::Corruption { at, .. } => Failure::Damaged(format!("corruption at {at:?}")),
        sled::Error::ReportableBug(text) => Failure::Damaged(text),
        sled::Error::Io(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                Failure::Damaged(error.to_string())
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::Other(StoreError::Full(
                format!("{}: {error}: make room and start again", path.display()),
            )),
            _ => Failure::Other(unusable(&path, &format!("cannot be opened: {error}"))),
        },
        other => Failure::Other(unusable(&path, &format!("cannot be opened: {other}"))),
    }
}

fn set_aside(dir: &Dir, now_ms: u64, why: &str) -> Result<(), StoreError> {
    let aside = dir.quarantine(now_ms)?;
    Backups::of(dir.path()).mark();
    Suspicion::clear(dir.path());
    tracing::error!(
        why,
        aside = %aside.display(),
        "the database is damaged and was set aside; the server starts with an empty one: values and streams of all \
         sessions are lost, but for what a copy or a sister instance has of them; their ids stay valid"
    );
    Ok(())
}
