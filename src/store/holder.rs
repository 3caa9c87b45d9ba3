//! Who uses a data directory, asked from outside, without taking it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Whether a process uses a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody does: it may be opened.
    Nobody,
    /// A process does; its id as far as it is known.
    Process(Option<u32>),
}

/// Who uses the data directory at `path`. The lock is what counts: the id in its file outlives its process.
///
/// # Errors
/// The lock file is there and cannot be read.
pub fn holder(path: &Path) -> io::Result<Holder> {
    let mut file = match File::open(path.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holder::Nobody),
        Err(error) => return Err(error),
    };
    // Had for a moment when nobody holds it; it goes with the file.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Holder::Nobody),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let read = file.read_to_string(&mut pid);
            Ok(Holder::Process(read.ok().and_then(|_| pid.trim().parse().ok())))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dir::Dir;

    #[test]
    fn a_directory_is_held_for_as_long_as_it_is_open() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(holder(&temp.path().join("missing")).unwrap(), Holder::Nobody);
        let dir = Dir::open(temp.path()).unwrap();
        for _ in 0..2 {
            assert_eq!(holder(temp.path()).unwrap(), Holder::Process(Some(std::process::id())));
        }
        drop(dir);
        assert_eq!(holder(temp.path()).unwrap(), Holder::Nobody);
        Dir::open(temp.path()).unwrap();
    }
}
