//! The root directory, and that nothing outside of it is read.
//!
//! A path that an argument gives is followed part by part; a symlink in it is allowed only if it leads to a place in
//! the root. The walk follows no symlink at all, and files are opened with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`
//! (openat2(2)), so that even a directory that is swapped for a symlink while it is walked leads nowhere.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::error::AnalysisError;

/// The directory that may be read.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    handle: OwnedFd,
}

/// What the file system says of a file: while this does not change, neither has its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// Last modification in nanoseconds since the epoch.
    pub modified_ns: i128,
    /// Device and inode.
    pub inode: (u64, u64),
}

impl Root {
    /// Opens a directory.
    ///
    /// # Errors
    /// A sentence that names the directory, when it is none or cannot be read.
    pub fn open(path: &Path) -> Result<Self, String> {
        let explain = |error: io::Error| format!("{}: not a readable directory: {error}", path.display());
        let path = std::fs::canonicalize(path).map_err(explain)?;
        std::fs::read_dir(&path).map_err(explain)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(|e| explain(e.into()))?;
        Ok(Self { path, handle })
    }

    /// Its absolute path without symlinks.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path, relative to the root and free of symlinks, that an argument means.
    ///
    /// # Errors
    /// [`AnalysisError::PathOutsideRoot`], [`AnalysisError::NotFound`].
    pub fn resolve(&self, given: &str) -> Result<PathBuf, AnalysisError> {
        let outside = || AnalysisError::PathOutsideRoot { path: given.to_owned() };
        if given.contains('\0') {
            return Err(AnalysisError::argument("path", "holds a NUL character"));
        }
        let relative = match Path::new(given) {
            absolute if absolute.is_absolute() => absolute.strip_prefix(&self.path).map_err(|_| outside())?,
            relative => relative,
        };
        let mut real = self.path.clone();
        for part in relative.components() {
            match part {
                Component::Normal(name) => real.push(name),
                Component::ParentDir if real != self.path => {
                    real.pop();
                    continue;
                }
                Component::CurDir => continue,
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(outside()),
            }
            let missing =
                |real: &Path| AnalysisError::NotFound { path: given.to_owned(), nearest: self.nearest(real) };
            let meta = std::fs::symlink_metadata(&real).map_err(|_| missing(&real))?;
            if meta.file_type().is_symlink() {
                // A link that leads outside and one that leads nowhere look the same, so that names outside of the
                // root cannot be probed.
                real = match std::fs::canonicalize(&real) {
                    Ok(target) if target.starts_with(&self.path) => target,
                    _ => return Err(outside()),
                };
            }
        }
        real.strip_prefix(&self.path).map(Path::to_path_buf).map_err(|_| outside())
    }

    /// Opens a file below the root, following no symlink.
    ///
    /// # Errors
    /// Those of the system; also when it is not a regular file.
    pub fn open_file(&self, relative: &Path) -> io::Result<(File, Stat)> {
        // Without NONBLOCK a FIFO would hold the thread until somebody writes.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(&self.handle, relative, flags, Mode::empty(), resolve) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                self.open_file_by_parts(relative, flags)?
            }
            Err(error) => return Err(error.into()),
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok((file, stat_of(&meta)))
    }

    /// Reads at most `most` bytes of a file.
    ///
    /// # Errors
    /// Those of the system.
    pub fn read(&self, relative: &Path, most: u64) -> io::Result<(Vec<u8>, Stat)> {
        let (file, stat) = self.open_file(relative)?;
        let mut bytes = Vec::with_capacity(usize::try_from(stat.size.min(most)).unwrap_or(0));
        file.take(most).read_to_end(&mut bytes)?;
        Ok((bytes, stat))
    }

    /// The same where openat2 is missing or forbidden: directory by directory, none of them a symlink.
    fn open_file_by_parts(&self, relative: &Path, flags: OFlags) -> io::Result<File> {
        let mut handle = rustix::fs::openat(&self.handle, ".", flags | OFlags::DIRECTORY, Mode::empty())?;
        let mut parts = relative.components().peekable();
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
            let kind = if parts.peek().is_some() { flags | OFlags::DIRECTORY } else { flags };
            handle = rustix::fs::openat(&handle, name, kind, Mode::empty())?;
        }
        Ok(File::from(handle))
    }

    /// The names beside a missing one that are most like it.
    fn nearest(&self, missing: &Path) -> Vec<String> {
        let (Some(parent), Some(name)) =
            (missing.parent(), missing.file_name().and_then(|name| name.to_str()))
        else {
            return Vec::new();
        };
        let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
        let mut near: Vec<(usize, String)> = entries
            .flatten()
            .take(10_000)
            .filter_map(|entry| {
                let other = entry.file_name().into_string().ok()?;
                let shown = self.shown(&parent.join(&other));
                Some((distance(name, &other), shown))
            })
            .collect();
        near.sort();
        near.truncate(3);
        near.into_iter().map(|(_, name)| name).collect()
    }

    fn shown(&self, path: &Path) -> String {
        show(path.strip_prefix(&self.path).unwrap_or(path))
    }
}

/// What the file system says of a file.
#[must_use]
pub fn stat_of(meta: &std::fs::Metadata) -> Stat {
    use std::os::unix::fs::MetadataExt as _;
    Stat {
        size: meta.len(),
        modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        inode: (meta.dev(), meta.ino()),
    }
}

/// A relative path as results have it: `/` between parts, `.` for the root.
#[must_use]
pub fn show(relative: &Path) -> String {
    let text = relative.to_string_lossy().into_owned();
    if text.is_empty() { ".".into() } else { text }
}

/// Levenshtein's distance, of the first 64 characters, without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| text.chars().take(64).flat_map(char::to_lowercase).collect::<Vec<_>>();
    let (a, b) = (fold(a), fold(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let here = (diagonal + usize::from(x != y)).min(left + 1).min(*above + 1);
            diagonal = *above;
            *above = here;
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
