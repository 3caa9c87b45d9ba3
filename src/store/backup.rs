//! A copy of the sessions beside the database, for the start that finds the database damaged.
//!
//! An instance that shares nothing has nobody to get its sessions back from. So it writes them to a file now and then; the
//! two last ones are kept. A database that is set aside leaves a mark, and the start that finds the mark puts in what the
//! newest file has. What was acknowledged after that file was written is lost then, and said to be.
//!
//! ```text
//! backup           magic | per session: length, key, the exported session as it is sealed at rest | 0, count, SHA-256
//! backup.old       the one before
//! restore          the mark
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::dir::{FILE_MODE, unusable};
use super::durable::Table;
use super::payload::{At, Sealer};
use super::{Store, StoreError, blocking, listing, reading, record};
use crate::base::clock::millis;
use crate::base::ids::SessionKey;
use crate::base::seal::Sha256;

const MAGIC: &[u8; 8] = b"outlbk1\x1a";
const SUM: usize = 32;
/// Sessions that are put in at a time: as many as one sync of the disk takes along.
const AT_ONCE: usize = 256;
/// Sessions whose keys are read together.
const PAGE: usize = 256;
/// The longest exported session that is read, bytes.
const SESSION_BYTES: u64 = 1 << 31;

/// Where the copies of a data directory are.
#[derive(Clone, Debug)]
pub(super) struct Backups {
    newest: PathBuf,
    older: PathBuf,
    mark: PathBuf,
}

/// What came back after the database was set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Restored {
    /// Sessions that were put in.
    pub(super) sessions: u64,
    /// Those that could not be: over by now, or sealed with a key that is not there.
    pub(super) refused: u64,
    /// When the copy was written, milliseconds since the epoch.
    pub(super) of_ms: u64,
}

impl Backups {
    pub(super) fn of(data_dir: &Path) -> Self {
        let file = |name| data_dir.join(name);
        Self { newest: file("backup"), older: file("backup.old"), mark: file("restore") }
    }

    /// Notes that the database was set aside.
    pub(super) fn mark(&self) {
        let there = [&self.newest, &self.older].iter().any(|path| path.exists());
        if there && let Err(error) = fs::write(&self.mark, "") {
            tracing::error!(%error, path = %self.mark.display(), "the copy of the sessions will not be put in");
        }
    }

    fn is_marked(&self) -> bool {
        self.mark.exists()
    }

    fn unmark(&self) {
        let _ = fs::remove_file(&self.mark);
    }

    /// Removes the copies: what they are sealed with is to be forgotten.
    pub(super) fn remove(&self) -> Result<(), StoreError> {
        for path in [&self.newest, &self.older] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(unusable(path, &format!("cannot be removed: {error}")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// When the newest one was written, milliseconds since the epoch; none: there is none.
    fn newest_ms(&self) -> Option<u64> {
        modified_ms(&self.newest)
    }

    /// A file that takes the place of the newest one when it is whole.
    fn create(&self) -> io::Result<Writer> {
        let path = self.newest.with_extension("new");
        let _ = fs::remove_file(&path);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path)?;
        let mut writer = Writer { file: BufWriter::new(file), sum: Sha256::default(), count: 0, path };
        writer.put(MAGIC)?;
        Ok(writer)
    }

    fn keep(&self, mut writer: Writer) -> io::Result<()> {
        writer.put(&0_u64.to_be_bytes())?;
        writer.put(&writer.count.to_be_bytes())?;
        let sum = writer.sum.clone().finish();
        writer.file.write_all(&sum)?;
        let file = writer.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        if self.newest.exists() {
            fs::rename(&self.newest, &self.older)?;
        }
        fs::rename(&writer.path, &self.newest)?;
        self.newest.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

fn modified_ms(path: &Path) -> Option<u64> {
    let modified = fs::metadata(path).ok()?.modified().ok()?;
    Some(millis(modified.duration_since(std::time::UNIX_EPOCH).ok()?))
}

struct Writer {
    file: BufWriter<File>,
    sum: Sha256,
    count: u64,
    path: PathBuf,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.file.write_all(bytes)
    }

    fn session(&mut self, key: SessionKey, sealed: &[u8]) -> io::Result<()> {
        self.put(&(sealed.len() as u64).to_be_bytes())?;
        self.put(key.as_bytes())?;
        self.put(sealed)?;
        self.count += 1;
        Ok(())
    }
}

/// Whether a file is whole.
fn is_whole(path: &Path) -> bool {
    let check = || -> io::Result<bool> {
        let mut file = File::open(path)?;
        let Some(mut left) = file.metadata()?.len().checked_sub(SUM as u64) else { return Ok(false) };
        let (mut sum, mut buffer) = (Sha256::default(), vec![0; 1 << 16]);
        while left > 0 {
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let Some(part) = buffer.get_mut(..some) else { return Ok(false) };
            file.read_exact(part)?;
            sum.update(part);
            left -= some as u64;
        }
        let mut said = [0; SUM];
        file.read_exact(&mut said)?;
        Ok(sum.finish() == said)
    };
    check().unwrap_or(false)
}

/// Reads the sessions of a file, one after the other.
struct Reader {
    file: BufReader<File>,
    is_over: bool,
}

impl Reader {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic)?;
        match &magic == MAGIC {
            true => Ok(Self { file, is_over: false }),
            false => Err(io::Error::other("it is none of this program's")),
        }
    }

    fn next(&mut self) -> io::Result<Option<(SessionKey, Vec<u8>)>> {
        if self.is_over {
            return Ok(None);
        }
        let mut length = [0; 8];
        self.file.read_exact(&mut length)?;
        let length = u64::from_be_bytes(length);
        if length == 0 {
            self.is_over = true;
            return Ok(None);
        }
        if length > SESSION_BYTES {
            return Err(io::Error::other("a session in it is longer than any can be"));
        }
        let mut key = [0; SessionKey::LEN];
        self.file.read_exact(&mut key)?;
        let mut sealed = Vec::new();
        self.file.by_ref().take(length).read_to_end(&mut sealed)?;
        match sealed.len() as u64 == length {
            true => Ok(Some((SessionKey::from_bytes(key), sealed))),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// What a session in a file is bound to.
fn place(key: SessionKey) -> Vec<u8> {
    [b"backup/".as_slice(), key.as_bytes()].concat()
}

fn seal(sealer: &Sealer, key: SessionKey, exported: &[u8]) -> Result<Vec<u8>, StoreError> {
    record::encode_content(sealer, At { table: Table::Head, key: &place(key) }, exported)
}

fn open(sealer: &Sealer, key: SessionKey, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
    record::decode_content(sealer, At { table: Table::Head, key: &place(key) }, sealed)
}

impl Store {
    /// Writes the sessions to a file every `every` for as long as it is polled, unless other instances have them.
    pub async fn run_backups(self: Arc<Self>, every: Duration) {
        let Some(backups) = self.backups.get().filter(|_| !every.is_zero()) else { return };
        loop {
            let newest = backups.clone();
            let newest_ms = blocking(move || Ok(newest.newest_ms())).await.ok().flatten();
            // One that is of the future is of another clock.
            let age_ms = newest_ms.and_then(|ms| self.clock.now_ms().checked_sub(ms)).unwrap_or(u64::MAX);
            let left_ms = millis(every).saturating_sub(age_ms);
            if left_ms > 0 {
                tokio::time::sleep(Duration::from_millis(left_ms)).await;
                continue;
            }
            if !self.is_shared() {
                match self.back_up().await {
                    Ok(sessions) => tracing::debug!(sessions, "the sessions were copied"),
                    Err(error) => {
                        tracing::warn!(%error, "the sessions were not copied: the last copy stands")
                    }
                }
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Writes the sessions to a file beside the database, from which a start that finds the database damaged gets them
    /// back. Returns how many; 0 also where nothing is kept on a disk.
    ///
    /// # Errors
    /// [`StoreError::Full`] while the disk is nearly full; failures of the disk. The file of before stands then.
    pub async fn back_up(&self) -> Result<u64, StoreError> {
        let Some(backups) = self.backups.get().cloned() else { return Ok(0) };
        // What is left of the disk is not for copies.
        drop(self.place().await?);
        let failed =
            |error: io::Error| StoreError::Io(format!("a copy of the sessions cannot be written: {error}"));
        let into = backups.clone();
        let mut writer = blocking(move || into.create().map_err(failed)).await?;
        let mut after = None;
        loop {
            let page = reading(&self.disk, move |disk| listing::keys_after(disk, after, PAGE)).await?;
            let Some(last) = page.last().copied() else { break };
            for key in page {
                let sealed = match self.export(key).await {
                    Ok(exported) => seal(&self.sealer, key, &exported)?,
                    // Ended, over, or not readable here either.
                    Err(StoreError::Gone | StoreError::Sealed(_)) => continue,
                    Err(error) => return Err(error),
                };
                writer =
                    blocking(move || writer.session(key, &sealed).map(|()| writer).map_err(failed)).await?;
            }
            after = Some(last);
        }
        let count = writer.count;
        blocking(move || backups.keep(writer).map_err(failed)).await?;
        Ok(count)
    }

    /// Puts in what the newest whole file has, if the database was set aside; see [`Store::back_up`].
    pub(super) async fn restore(self: &Arc<Self>) -> Result<Option<Restored>, StoreError> {
        let Some(backups) = self.backups.get().cloned() else { return Ok(None) };
        let found = blocking({
            let backups = backups.clone();
            move || {
                if !backups.is_marked() {
                    return Ok(None);
                }
                let files = [&backups.newest, &backups.older];
                Ok(files.into_iter().find(|path| is_whole(path)).cloned())
            }
        })
        .await?;
        let Some(path) = found else {
            backups.unmark();
            return Ok(None);
        };
        let mut restored = Restored { of_ms: modified_ms(&path).unwrap_or(0), ..Restored::default() };
        let failed =
            |error: io::Error| StoreError::Io(format!("the copy of the sessions cannot be read: {error}"));
        let mut reader = Reader::open(&path).map_err(failed)?;
        let mut running = JoinSet::new();
        loop {
            let (back, some) = blocking(move || {
                let mut some = Vec::new();
                while some.len() < AT_ONCE {
                    match reader.next().map_err(failed)? {
                        Some(session) => some.push(session),
                        None => break,
                    }
                }
                Ok((reader, some))
            })
            .await?;
            reader = back;
            if some.is_empty() {
                break;
            }
            for (key, sealed) in some {
                let store = Arc::clone(self);
                running.spawn(async move {
                    let exported = open(&store.sealer, key, &sealed)?;
                    store.import(&exported, false).await
                });
            }
            while let Some(imported) = running.join_next().await {
                match imported {
                    Ok(Ok(_)) => restored.sessions += 1,
                    // The disk takes nothing: the next start tries again.
                    Ok(Err(error @ (StoreError::Io(_) | StoreError::Poisoned(_) | StoreError::Full(_)))) => {
                        return Err(error);
                    }
                    Ok(Err(error)) => {
                        restored.refused += 1;
                        tracing::debug!(%error, "a session of the copy is not put in");
                    }
                    Err(_) => restored.refused += 1,
                }
            }
        }
        backups.unmark();
        let Restored { sessions, refused, of_ms } = restored;
        let age_seconds = self.clock.now_ms().saturating_sub(of_ms) / 1_000;
        tracing::warn!(
            sessions,
            refused,
            age_seconds,
            "the sessions are those of the last copy: what was acknowledged after it is lost, and what ended after it is back"
        );
        Ok(Some(restored))
    }
}
