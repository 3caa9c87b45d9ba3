//! The data directory: who may use it, what format it has, and what is set aside.
//!
//! ```text
//! lock             held by the process that uses the directory; its pid
//! format           format and version of the program that wrote it: read before anything is changed
//! keys             keys that sign and seal: outside the database, so that ids stay valid when that is lost (keyring)
//! sealed           with which keys records may be sealed (keyring)
//! db/              the database
//! witness          the last tick that was synced to the database: less in there means that it lost writes
//! ballast          given up when the disk is nearly full (space)
//! suspect          the database is to be checked or set aside at the next start (suspicion)
//! corrupt-<time>/  a database that was set aside
//! backup           a copy of the sessions; backup.old, the one before (backup)
//! restore          the copy is to be put in (backup)
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{StoreError, boot};
use crate::base::limits::{LOCK_LOOKS, LOCK_PAUSE};
use rustix::fs::{FlockOperation, flock};

pub(super) const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// A data directory in use by this process.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    /// The lock lasts as long as this file is open.
    _lock: File,
    witness: Mutex<Option<File>>,
}

impl Dir {
    /// Takes the directory, making it if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Unusable`], with what to do about it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if path.exists() && !path.is_dir() {
            return Err(unusable(path, "is not a directory: choose another with --data-dir"));
        }
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(|error| {
            unusable(path, &format!("cannot be made ({error}): choose another with --data-dir"))
        })?;
        let path =
            path.canonicalize().map_err(|error| unusable(path, &format!("cannot be read: {error}")))?;
        let lock = lock(&path)?;
        let dir = Self { path, _lock: lock, witness: Mutex::default() };
        dir.read_format()?;
        // Whoever made the directory before may have left it open to others.
        if let Err(error) = fs::set_permissions(&dir.path, Permissions::from_mode(DIR_MODE)) {
            tracing::warn!(path = %dir.path.display(), %error, "the data directory may be open to other users");
        }
        Ok(dir)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database is.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    /// Sets the database aside and returns where it is now.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when it cannot be renamed.
    pub fn quarantine(&self, now_ms: u64) -> Result<PathBuf, StoreError> {
        let free = |number: &u64| !self.path.join(format!("corrupt-{number}")).exists();
        let number = (now_ms..).find(free).unwrap_or(now_ms);
        let aside = self.path.join(format!("corrupt-{number}"));
        fs::rename(self.database(), &aside).and_then(|()| self.forget_witness()).map_err(|error| {
            unusable(&self.database(), &format!("is damaged and cannot be renamed: {error}"))
        })?;
        Ok(aside)
    }

    /// Puts a file in place as a whole.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] or [`StoreError::Full`].
    pub fn write_file(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        replace(&self.path.join(name), content)
    }

    /// The last tick that was synced, as far as a file says so that need not have survived a power cut.
    pub(super) fn witnessed(&self) -> u64 {
        let text = fs::read_to_string(self.path.join("witness")).ok();
        text.and_then(|text| text.trim_end().parse().ok()).unwrap_or(0)
    }

    /// Notes the last tick that was synced. In place and of one length: no later reader finds half of it.
    pub(super) fn witness(&self, tick: u64) {
        let path = self.path.join("witness");
        let mut witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner);
        let mut note = || {
            let file = match witness.take() {
                Some(file) => file,
                None => {
                    let mut options = OpenOptions::new();
                    options.write(true).create(true).truncate(false).mode(FILE_MODE).open(&path)?
                }
            };
            file.write_all_at(format!("{tick:020}\n").as_bytes(), 0)?;
            *witness = Some(file);
            Ok::<(), io::Error>(())
        };
        if let Err(error) = note() {
            tracing::warn!(path = %path.display(), %error, "a loss of writes would not be noticed");
        }
    }

    /// There is a new database: nothing is known of it.
    pub(super) fn forget_witness(&self) -> io::Result<()> {
        self.witness.lock().unwrap_or_else(PoisonError::into_inner).take();
        match fs::remove_file(self.path.join("witness")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    /// Makes names in the directory durable.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Closes files and directories of the database to others.
    pub(super) fn restrict(&self) {
        let database = self.database();
        let restrict = || -> io::Result<()> {
            fs::set_permissions(&database, Permissions::from_mode(DIR_MODE))?;
            for entry in fs::read_dir(&database)? {
                let path = entry?.path();
                let mode = if path.is_dir() { DIR_MODE } else { FILE_MODE };
                fs::set_permissions(path, Permissions::from_mode(mode))?;
            }
            Ok(())
        };
        if let Err(error) = restrict() {
            tracing::warn!(path = %database.display(), %error, "the database may be open to other users");
        }
    }

    /// Notes that this program writes to the directory from now on.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] or [`StoreError::Full`].
    pub fn note_format(&self) -> Result<(), StoreError> {
        let line = format!("format {} by {}\n", boot::FORMAT, env!("CARGO_PKG_VERSION"));
        if self.read_format()?.as_ref() == Some(&line) {
            return Ok(());
        }
        self.write_file("format", line.as_bytes())
    }

    fn read_format(&self) -> Result<Option<String>, StoreError> {
        let path = self.path.join("format");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&path, &format!("cannot be read: {error}"))),
        };
        let (format, by) = text
            .strip_prefix("format ")
            .and_then(|rest| rest.trim_end().split_once(" by "))
            .and_then(|(format, by)| Some((format.parse::<u32>().ok()?, by)))
            .ok_or_else(|| {
                unusable(
                    &path,
                    "is not what this program writes: restore it, or choose another data directory",
                )
            })?;
        if format > boot::FORMAT {
            return Err(boot::newer(format, by));
        }
        Ok(Some(text))
    }
}

/// Who uses a data directory, if anybody does: for a program that has to ask him then.
#[must_use]
pub fn holder(path: &Path) -> Option<String> {
    let mut file = File::open(path.join("lock")).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => Some(named(&mut file)),
        _ => None,
    }
}

/// Puts a file in place as a whole, for its owner only. It keeps its owner.
///
/// # Errors
/// [`StoreError::Unusable`] or [`StoreError::Full`].
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let write = || {
        // A link stays one.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut new = path.clone().into_os_string();
        new.push(".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&new)?;
        if let Ok(old) = fs::metadata(&path)
            && (old.uid(), old.gid()) != { file.metadata().map(|own| (own.uid(), own.gid()))? }
        {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full(format!("{} cannot be written: {error}", path.display()))
        }
        _ => unusable(path, &format!("cannot be written: {error}")),
    })
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let mut file = options.open(&path).map_err(|error| {
        let advice = "give this user the right to write there, or choose another with --data-dir";
        unusable(dir, &format!("is not writable ({error}): {advice}"))
    })?;
    let mut looks = 0;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(unusable(dir, &format!("cannot be locked: {error}")));
        }
        // A process that was killed while it started a child is survived by its lock until that child runs its own
        // program.
        if looks < LOCK_LOOKS && is_dead(&mut file) {
            looks += 1;
            std::thread::sleep(LOCK_PAUSE);
            continue;
        }
        let holder = named(&mut file);
        return Err(StoreError::InUse(format!(
            "{} is in use by {holder}: stop it, or choose another with --data-dir",
            dir.display()
        )));
    }
    let note = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    // The lock holds without the pid; a full disk must not keep the server from starting.
    if let Err(error) = note(&mut file) {
        tracing::warn!(path = %path.display(), %error, "the lock file does not say who holds it");
    }
    Ok(file)
}

fn named(lock: &mut File) -> String {
    pid_in(lock).map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

fn pid_in(lock: &mut File) -> Option<u32> {
    let mut pid = String::new();
    lock.rewind().ok()?;
    lock.read_to_string(&mut pid).ok()?;
    pid.trim().parse().ok()
}

/// Whether the process that the lock names runs no more.
fn is_dead(lock: &mut File) -> bool {
    let Some(pid) = pid_in(lock) else { return false };
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The state stands behind the name, which may hold anything (proc(5)).
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// An error that names a path.
pub(super) fn unusable(path: &Path, why: &str) -> StoreError {
    StoreError::Unusable(format!("{} {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<Dir, StoreError>) -> String {
        match result {
            Err(StoreError::Unusable(text) | StoreError::InUse(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_lock_of_a_dead_process_that_a_child_still_has_is_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let path = temp.path().join("lock");
        fs::write(&path, gone.id().to_string()).unwrap();
        // As a child has it between fork and exec.
        let inherited = File::open(&path).unwrap();
        flock(&inherited, FlockOperation::NonBlockingLockExclusive).unwrap();
        let opening = std::thread::spawn({
            let path = temp.path().to_owned();
            move || Dir::open(&path).map(drop)
        });
        std::thread::sleep(LOCK_PAUSE * 3);
        assert!(!opening.is_finished());
        drop(inherited);
        opening.join().unwrap().unwrap();
    }

    #[test]
    fn a_second_user_is_told_who_holds_the_directory() {
        let temp = tempfile::tempdir().unwrap();
        let held = Dir::open(&temp.path().join("a/b")).unwrap();
        assert!(holder(held.path()).unwrap().contains(&std::process::id().to_string()));
        let text = message(Dir::open(held.path()));
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        assert!(text.contains(&held.path().display().to_string()), "{text}");
        let path = held.path().to_owned();
        drop(held);
        assert_eq!((holder(&path), holder(temp.path())), (None, None));
        Dir::open(&path).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused_with_both_versions_and_nothing_is_changed() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("format"), "format 9 by 7.1.0\n").unwrap();
        let text = message(Dir::open(temp.path()));
        assert!(text.contains("7.1.0") && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
        assert_eq!(fs::read_to_string(temp.path().join("format")).unwrap(), "format 9 by 7.1.0\n");
        let old = "format 1 by 0.1.0\n";
        fs::write(temp.path().join("format"), old).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        assert_eq!(fs::read_to_string(temp.path().join("format")).unwrap(), old, "not before it is noted");
        dir.note_format().unwrap();
        assert!(fs::read_to_string(temp.path().join("format")).unwrap().starts_with("format 2 "));
        drop(dir);
        fs::write(temp.path().join("format"), "something else").unwrap();
        message(Dir::open(temp.path()));
    }

    #[test]
    fn what_is_no_directory_or_cannot_be_written_says_so() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(message(Dir::open(&file)).contains("is not a directory"));
        assert!(message(Dir::open(&file.join("below"))).contains("cannot be made"));
        // Read-only for everybody, root included.
        let proc = Path::new("/proc/sys/kernel");
        if proc.exists() {
            assert!(message(Dir::open(proc)).contains("is not writable"));
        }
    }

    #[test]
    fn nobody_else_can_read_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let dir = Dir::open(&path).unwrap();
        dir.note_format().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, DIR_MODE);
        for name in ["lock", "format"] {
            assert_eq!(
                fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777,
                FILE_MODE,
                "{name}"
            );
        }
    }
}
