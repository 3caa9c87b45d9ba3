//! Doubts about the database that outlive the process.
//!
//! A damaged file can make the database panic, and a panic ends a release build at once. So that the next start does
//! not run into the same wall, a panic in the database's own code leaves a note beside it: if it happened while the
//! database was being opened, the next start sets the database aside; else the next start reads all of it first.

use std::fs;
use std::panic::{self, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

/// What the next start has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Read everything before trusting it.
    Verify,
    /// Set it aside.
    Corrupt,
}

impl Suspicion {
    /// The note of an earlier process, if it left one. A note that cannot be read asks for the milder step.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        match fs::read(note(dir)) {
            Ok(text) if text == b"corrupt" => Some(Self::Corrupt),
            Ok(_) => Some(Self::Verify),
            Err(_) => None,
        }
    }

    /// Leaves a note.
    pub(super) fn write(self, dir: &Path) {
        let text = match self {
            Self::Verify => "verify",
            Self::Corrupt => "corrupt",
        };
        if let Err(error) = fs::write(note(dir), text) {
            tracing::error!(%error, path = %note(dir).display(), "the database cannot be marked for a check");
        }
    }

    /// Removes the note.
    pub(super) fn clear(dir: &Path) {
        let _ = fs::remove_file(note(dir));
    }
}

fn note(dir: &Path) -> PathBuf {
    dir.join("suspect")
}

static WATCHED: Mutex<Vec<(PathBuf, Suspicion)>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

/// As long as it lives, panics in the database's code leave a note in the directory.
#[derive(Debug)]
pub(super) struct Watch {
    dir: PathBuf,
}

impl Watch {
    /// Watches over the opening of the database.
    pub(super) fn opening(dir: &Path) -> Self {
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                on_panic(info);
                before(info);
            }));
        });
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.push((dir.to_owned(), Suspicion::Corrupt));
        Self { dir: dir.to_owned() }
    }

    /// The database is open: a panic is no proof any more.
    pub(super) fn opened(&self) {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, suspicion) in watched.iter_mut().filter(|(dir, _)| *dir == self.dir) {
            *suspicion = Suspicion::Verify;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|(dir, _)| *dir != self.dir);
    }
}

fn on_panic(info: &PanicHookInfo<'_>) {
    if !info.location().is_some_and(|at| at.file().contains("/sled-")) {
        return;
    }
    // Without waiting: whoever panics may hold the lock.
    if let Ok(watched) = WATCHED.try_lock() {
        for (dir, suspicion) in watched.iter() {
            suspicion.write(dir);
        }
    }
}
