//! Keys that nothing needs any more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::file::remove;
use super::{Entry, Keyring};
use crate::config;
use crate::store::backup::Backups;
use crate::store::dir::{Dir, unusable};
use crate::store::durable::Durable as _;
use crate::store::{StoreError, database, redo, reseal};

/// What became of a key that neither signs nor seals any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Its number.
    pub id: u8,
    /// Why it is still there; `None`: it is not.
    pub kept: Option<String>,
}

/// What [`prune`] did.
#[derive(Debug)]
pub struct Outcome {
    /// Records that were written anew, if that was asked for.
    pub resealed: u64,
    /// Records that could not be opened and were left as they are.
    pub unopened: u64,
    /// The keys but the current one.
    pub keys: Vec<Pruned>,
}

/// Removes keys that nothing needs any more from the keys of a data directory that no server uses; before that, seals
/// all values with the current key (or none, without `store.encryption`) if `reseal`. Session ids are good for
/// `keep_ms` after they were signed.
///
/// # Errors
/// [`StoreError::Unusable`] when the directory is in use or a key is missing; failures of the disk.
pub fn prune(
    settings: &config::Store,
    keep_ms: u64,
    reseal: bool,
    now_ms: u64,
) -> Result<Outcome, StoreError> {
    let dir = Dir::open(&settings.data_dir)?;
    let path = dir.path().to_owned();
    let mut keyring = Keyring::read(&path, settings)?;
    let aside = set_aside(&path)?;
    dir.note_format()?;
    let sealer = keyring.start(now_ms)?;
    let disk = database::Sled::open(dir, settings, now_ms)?;
    // Sealed with the keys of then; the server writes others.
    Backups::of(&path).remove()?;
    reseal::recover(&disk)?;
    redo::recover(&disk)?;
    let done = if reseal { reseal::all(&disk, &sealer)? } else { reseal::Done::default() };
    let used = reseal::used(&disk)?;
    disk.sync()?;
    let keys = match aside {
        None => keyring.prune(&used, now_ms, keep_ms)?,
        Some(aside) => {
            let why = format!(
                "{} may need it: remove that directory first, if nobody wants it back",
                aside.display()
            );
            let kept = |entry: &Entry| Pruned { id: entry.secret.id(), kept: Some(why.clone()) };
            keyring.entries.iter().skip(1).map(kept).collect()
        }
    };
    disk.close()?;
    Ok(Outcome { resealed: done.resealed, unopened: done.unopened, keys })
}

impl Keyring {
    /// Removes the keys that neither records (`used`) nor session ids that are still good need.
    pub(super) fn prune(
        &mut self,
        used: &BTreeSet<u8>,
        now_ms: u64,
        keep_ms: u64,
    ) -> Result<Vec<Pruned>, StoreError> {
        let mut noted = self.noted.clone();
        let current = self.entries.first().map(|entry| entry.secret.id());
        let sealing = current.filter(|_| self.settings.encryption);
        noted.retain(|noted| used.contains(&noted.id) || sealing == Some(noted.id));
        // First the list: a crash before the keys are gone leaves a key too many, not one too few.
        self.write_notes(noted)?;
        let mut pruned = Vec::new();
        let mut followed = None;
        for entry in std::mem::take(&mut self.entries) {
            let id = entry.secret.id();
            let retired = followed.replace(entry.made_ms);
            let kept = match retired {
                None => {
                    self.entries.push(entry);
                    continue;
                }
                Some(retired) => still_needed(&entry, retired, used, now_ms, keep_ms),
            };
            let kept = match (kept, entry.place.file()) {
                (Some(why), _) => Some(why),
                (None, Some(path)) => remove(path, id).err().map(|error| error.to_string()),
                (None, None) => Some(format!(
                    "nothing needs it: remove it from {}, which this program does not write",
                    entry.place
                )),
            };
            if kept.is_some() {
                self.entries.push(entry);
            }
            pruned.push(Pruned { id, kept });
        }
        Ok(pruned)
    }
}

/// A database that was set aside, if there is one.
fn set_aside(data_dir: &Path) -> Result<Option<PathBuf>, StoreError> {
    let unread = |error| unusable(data_dir, &format!("cannot be read: {error}"));
    for entry in fs::read_dir(data_dir).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        if entry.file_name().to_string_lossy().starts_with("corrupt-") {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Why a key must stay that stopped signing when the next one was made.
fn still_needed(
    entry: &Entry,
    retired: Option<u64>,
    used: &BTreeSet<u8>,
    now_ms: u64,
    keep_ms: u64,
) -> Option<String> {
    if used.contains(&entry.secret.id()) {
        return Some("values are sealed with it: --reseal seals them with the current key".into());
    }
    match retired {
        None => Some(
            "nobody noted when it last signed a session id: remove its line yourself once that is longer ago than \
             sessions.max_ttl_seconds"
                .into(),
        ),
        Some(retired) if now_ms < retired.saturating_add(keep_ms) => {
            let days = retired.saturating_add(keep_ms).saturating_sub(now_ms).div_ceil(86_400_000);
            Some(format!("session ids that it signed are good for up to {days} more days"))
        }
        Some(_) => None,
    }
}
