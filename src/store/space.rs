//! Room on the disk: a file that can be given up.
//!
//! The database cannot even be opened on a full disk, so a server that fills it could not be restarted. Therefore a
//! file of some size lies beside the database; it is removed, and new writes are refused, before the disk is full.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::StoreError;

/// The room around a data directory.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    bytes: u64,
    full: Mutex<bool>,
}

impl Space {
    /// Keeps `bytes` in `dir` in reserve; 0: nothing, and the disk is never called full.
    pub(super) fn new(dir: &Path, bytes: u64) -> Self {
        Self { dir: dir.to_owned(), bytes, full: Mutex::new(false) }
    }

    /// Gives up the reserve if it is needed to open the database.
    pub(super) fn before_open(&self) {
        if self.bytes > 0 && self.free().is_ok_and(|free| free < self.bytes) {
            self.release();
        }
    }

    /// Says whether there is room for new writes, and sees to the reserve. `spare` bytes can be written without taking
    /// more of the disk.
    pub(super) fn check(&self, spare: u64) -> Result<(), StoreError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let free = self.free().map_err(|error| {
            StoreError::Full(format!("how much room {} has cannot be found out: {error}", self.dir.display()))
        })?;
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let room = free.saturating_add(spare);
        if free < self.bytes {
            self.release();
        }
        if room < self.bytes {
            *full = true;
        } else if free < self.bytes.saturating_mul(2) {
            *full &= room < self.bytes.saturating_mul(2);
        } else {
            // Without room for the reserve as well the next check would call the disk full again.
            *full = !self.path().exists() && self.reserve().is_err() && *full;
        }
        if *full {
            return Err(StoreError::Full(format!(
                "the filesystem of {} has {free} bytes left; writes are refused until there are {} \
                 (twice store.ballast_bytes)",
                self.dir.display(),
                self.bytes.saturating_mul(2)
            )));
        }
        Ok(())
    }

    /// What may still be taken before the reserve is needed, bytes; `None`: nothing is kept in reserve, and the disk is
    /// never called full.
    pub(super) fn left(&self) -> Option<u64> {
        if self.bytes == 0 {
            return None;
        }
        self.free().ok().map(|free| free.saturating_sub(self.bytes))
    }

    fn path(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    fn free(&self) -> io::Result<u64> {
        let stat = statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn reserve(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(self.path())?;
        let result = fallocate(&file, FallocateFlags::empty(), 0, self.bytes);
        if let Err(error) = result {
            self.release();
            // A filesystem without the call has no reserve; writes are still refused in time.
            if error != rustix::io::Errno::OPNOTSUPP {
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn release(&self) {
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %self.path().display(), %error, "the ballast cannot be removed");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_takes_real_room_and_is_made_once() {
        use std::os::unix::fs::MetadataExt as _;
        let temp = tempfile::tempdir().unwrap();
        let space = Space::new(temp.path(), 1 << 20);
        space.check(0).unwrap();
        space.check(0).unwrap();
        let meta = fs::metadata(temp.path().join("ballast")).unwrap();
        assert_eq!((meta.len(), meta.blocks() * 512 >= 1 << 20), (1 << 20, true));
    }

    #[test]
    fn with_too_little_room_the_reserve_goes_and_writes_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("ballast"), "x").unwrap();
        let space = Space::new(temp.path(), 1 << 60);
        assert!(matches!(space.check(0), Err(StoreError::Full(_))));
        assert!(!temp.path().join("ballast").exists());
        let space = Space::new(temp.path(), 0);
        space.check(0).unwrap();
        assert!(!temp.path().join("ballast").exists());
    }
}
