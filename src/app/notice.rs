//! The file in the data directory by which the command line finds the admin listener of the server that runs on it.
//!
//! It outlives a server that is killed, so it counts only while the process that wrote it holds the directory: nobody
//! sends the admin token to whoever has that port now.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Its name in the data directory.
const FILE: &str = "admin.address";
/// More than any of ours has.
const MOST: u64 = 4 * 1024;

/// What a running server says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Notice {
    /// Its process.
    pub(crate) pid: u32,
    /// Where its admin listener can be reached; none: it has none.
    pub(crate) address: Option<SocketAddr>,
    /// It keeps nothing in the directory, so it does not hold it either.
    #[serde(default)]
    pub(crate) ephemeral: bool,
}

impl Notice {
    /// Puts it in place as a whole, for its owner's eyes only.
    pub(crate) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let beside = data_dir.join(format!("{FILE}.new"));
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let text = serde_json::to_string(self).map_err(io::Error::other)?;
        writeln!(file, "{text}")?;
        // Not synced: after a power cut there is no server that it could name.
        fs::rename(&beside, data_dir.join(FILE))
    }

    /// The one in a directory. `None` when there is none, or nothing that a server wrote.
    pub(crate) fn read(data_dir: &Path) -> io::Result<Option<Self>> {
        let path = data_dir.join(FILE);
        match fs::metadata(&path) {
            Ok(found) if found.is_file() && found.len() <= MOST => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the one of this process away: the server ends.
    pub(crate) fn remove(&self, data_dir: &Path) {
        if Self::read(data_dir).ok().flatten().as_ref() == Some(self)
            && let Err(error) = fs::remove_file(data_dir.join(FILE))
        {
            tracing::debug!(%error, "the address of the admin listener stays in the data directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn notice(pid: u32) -> Notice {
        Notice { pid, address: Some(([127, 0, 0, 1], 8809).into()), ephemeral: false }
    }

    #[test]
    fn it_reads_back_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Notice::read(dir.path()).unwrap(), None);
        notice(1).write(dir.path()).unwrap();
        notice(2).write(dir.path()).unwrap();
        assert_eq!(Notice::read(dir.path()).unwrap(), Some(notice(2)));
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // That of another server is not ours to remove.
        notice(1).remove(dir.path());
        assert!(path.exists());
        notice(2).remove(dir.path());
        assert!(!path.exists());
    }

    #[test]
    fn anything_else_in_its_place_is_no_notice() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(5_000);
        for text in ["", "{}", "{\"pid\":1,\"address\":\"nowhere\"}", &long] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert_eq!(Notice::read(dir.path()).unwrap(), None, "{text:.20}");
        }
    }
}
