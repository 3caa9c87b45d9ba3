//! Where the keys are that sign session ids and seal values, and which of them the disk needs.
//!
//! They come from the first of: the file `store.key_file`, the credential `outlast.keys` of systemd, `store.keys` (which
//! is OUTLAST_STORE__KEYS), the file `keys` in the data directory. The last is made on the first start when there is
//! nothing else; when there is something else, its keys only open and verify, so that moving keys out of the data
//! directory loses nothing.
//!
//! ```text
//! ID:BASE64-OF-32-BYTES [made=SECONDS-SINCE-1970]
//! ```
//! The first key signs and seals. Empty lines and lines that begin with # are passed over.
//!
//! The file `sealed` in the data directory lists, before the first use of a key, its number and [`Secret::check`]. So a
//! start knows without touching the database whether it can read what is there.

mod file;
mod prune;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::{fmt, fs};

use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

pub use self::prune::{Outcome, Pruned, prune};

use self::file::{KeyText, close, parse, read_own, read_secret, read_text, remove, with_line};
use super::dir::{replace, unusable};
use super::payload::Sealer;
use super::{Store, StoreError, blocking};
use crate::base::seal::{CHECK_BYTES, Keys, Secret, hex, random};
use crate::config;

const OWN_FILE: &str = "keys";
const NOTE_FILE: &str = "sealed";
const OTHERS: u32 = 0o077;
/// Where a key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `store.key_file`.
    File(PathBuf),
    /// A credential of systemd.
    Credential(PathBuf),
    /// `store.keys`.
    Setting,
    /// The file in the data directory.
    Own(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Credential(path) | Self::Own(path) => path.display().fmt(f),
            Self::Setting => f.write_str("OUTLAST_STORE__KEYS (store.keys)"),
        }
    }
}

impl Place {
    /// The file, if it is one that this program may write.
    fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Own(path) => Some(path),
            Self::Credential(_) | Self::Setting => None,
        }
    }
}

/// One key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub secret: Secret,
    /// When it was made, in milliseconds since the epoch, if that is known.
    pub made_ms: Option<u64>,
    /// Where it is.
    pub place: Place,
}

impl Entry {
    /// The line of a key file, without its end.
    pub(super) fn line(&self) -> String {
        with_line("", self).trim_end().to_owned()
    }
}

/// A key that is in the list `sealed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Noted {
    id: u8,
    check: [u8; CHECK_BYTES],
}

/// The keys of a data directory, the one that signs and seals first.
#[derive(Debug)]
pub struct Keyring {
    data_dir: PathBuf,
    settings: config::Store,
    entries: Vec<Entry>,
    noted: Vec<Noted>,
}

impl Keyring {
    /// Reads the keys and makes sure that every key is there that the data needs. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unusable`], which names the file and the keys that are missing, or the line that is wrong.
    pub fn read(data_dir: &Path, settings: &config::Store) -> Result<Self, StoreError> {
        let mut entries = external(settings)?;
        let own = data_dir.join(OWN_FILE);
        for entry in read_own(&own)? {
            match entries.iter().find(|known| known.secret.id() == entry.secret.id()) {
                Some(known) if known.secret.check() == entry.secret.check() => {}
                Some(known) => {
                    return Err(unusable(
                        &own,
                        &format!(
                            "and {} have different keys under the number {}: give the new one another number",
                            known.place,
                            known.secret.id()
                        ),
                    ));
                }
                None => entries.push(entry),
            }
        }
        let keyring = Self {
            noted: read_notes(&data_dir.join(NOTE_FILE))?,
            data_dir: data_dir.to_owned(),
            settings: settings.clone(),
            entries,
        };
        keyring.check()?;
        Ok(keyring)
    }

    /// The keys, the current one first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether records may be sealed with this key.
    #[must_use]
    pub fn may_seal(&self, id: u8) -> bool {
        self.noted.iter().any(|noted| noted.id == id)
    }

    pub(super) fn secrets(&self) -> Vec<Secret> {
        self.entries.iter().map(|entry| entry.secret.clone()).collect()
    }

    /// Makes the first key if there is none, and notes that the current one is used from now on.
    pub(super) fn start(&mut self, now_ms: u64) -> Result<Sealer, StoreError> {
        if self.entries.is_empty() {
            self.add(now_ms)?;
        }
        close(&self.data_dir.join(OWN_FILE));
        let current = self.entries.first().map(|entry| (entry.secret.clone(), entry.place.clone()));
        if let Some((secret, place)) = current {
            if self.settings.encryption {
                self.note(&secret)?;
                tracing::info!(key = secret.id(), keys = %place, "values are sealed on the disk");
            } else {
                tracing::warn!(
                    "store.encryption is false: values of sessions and messages of streams are written to the disk in the clear"
                );
            }
        }
        Ok(Sealer::new(Keys::of(&self.secrets()), self.settings.encryption))
    }

    /// Adds a key that signs and seals from now on. Returns its number.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the keys are where this program does not write; failures of the disk.
    pub fn rotate(&mut self, now_ms: u64) -> Result<u8, StoreError> {
        *self = Self::read(&self.data_dir, &self.settings)?;
        self.add(now_ms)
    }

    fn add(&mut self, now_ms: u64) -> Result<u8, StoreError> {
        let place = self
            .entries
            .first()
            .map_or_else(|| Place::Own(self.data_dir.join(OWN_FILE)), |entry| entry.place.clone());
        let id = self.free_id()?;
        let Some(path) = place.file() else {
            return Err(StoreError::Unusable(format!(
                "the keys come from {place}, which this program does not write: put a new first line there, such as the \
                 output of `echo \"{id}:$(head -c 32 /dev/urandom | base64)\"`, keep the others below it, and restart the \
                 server"
            )));
        };
        let entry = Entry { secret: Secret::generate(id), made_ms: Some(now_ms), place: place.clone() };
        let before = read_text(path)?;
        replace(path, with_line(&before.as_text(), &entry).as_bytes())?;
        let secret = entry.secret.clone();
        self.entries.insert(0, entry);
        if self.settings.encryption
            && let Err(error) = self.note(&secret)
        {
            // What is not noted must not be used, so not by the next start either.
            self.entries.remove(0);
            match &before {
                KeyText::None => drop(fs::remove_file(path)),
                KeyText::Text(text) => drop(replace(path, text.as_bytes())),
                KeyText::Old(_, bytes) => drop(replace(path, bytes)),
            }
            return Err(error);
        }
        Ok(id)
    }

    /// Whether another key has the number of this one, a line of a key file.
    pub(super) fn has_other(&self, line: &str) -> Result<bool, StoreError> {
        let parsed = parse(line, &Place::Own(self.data_dir.join(OWN_FILE)))?;
        let other = |entry: &Entry, known: &Entry| {
            known.secret.id() == entry.secret.id() && known.secret.check() != entry.secret.check()
        };
        Ok(parsed.iter().any(|entry| self.entries.iter().any(|known| other(entry, known))))
    }

    /// Takes in a key of a sister instance, as a line of a key file; `current`: it signs and seals from now on. A key of
    /// the same number gives way if it is `unused`.
    pub(super) fn adopt(&mut self, line: &str, current: bool, unused: bool) -> Result<(), StoreError> {
        let own = self.data_dir.join(OWN_FILE);
        let mut parsed = parse(line, &Place::Own(own.clone()))?;
        let entry = parsed.pop().ok_or_else(|| unusable(&own, "cannot take in a key that is none"))?;
        let id = entry.secret.id();
        if let Some(known) = self.entries.iter().position(|known| known.secret.id() == id) {
            let same =
                self.entries.get(known).is_some_and(|known| known.secret.check() == entry.secret.check());
            match (same, unused) {
                (true, _) => return Ok(()),
                (false, false) => {
                    return Err(StoreError::Unusable(format!(
                        "key {id} of this instance is another one than its sisters', and sessions here need it: take its \
                         sessions out with `outlast sessions export`, start it with an empty data directory, and import \
                         them"
                    )));
                }
                (false, true) => {
                    self.entries.remove(known);
                    let kept = self.noted.iter().copied().filter(|noted| noted.id != id).collect();
                    self.write_notes(kept)?;
                    remove(&own, id)?;
                }
            }
        }
        let before = read_text(&own)?.as_text();
        let text = match current {
            true => with_line(&before, &entry),
            false => {
                let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
                Zeroizing::new(format!("{}{gap}{}\n", before.as_str(), entry.line()))
            }
        };
        replace(&own, text.as_bytes())?;
        let secret = entry.secret.clone();
        match current {
            true => self.entries.insert(0, entry),
            false => self.entries.push(entry),
        }
        if self.settings.encryption && current {
            self.note(&secret)?;
        }
        Ok(())
    }

    fn free_id(&self) -> Result<u8, StoreError> {
        let used: BTreeSet<u8> = self
            .entries
            .iter()
            .map(|entry| entry.secret.id())
            .chain(self.noted.iter().map(|noted| noted.id))
            .collect();
        let first = match self.settings.shared {
            // Sister instances may make their first keys without having met: these must not have one number.
            true => {
                let [id] = random::<1>();
                id.max(1)
            }
            false => 1,
        };
        let next = used.last().map_or(Some(first), |last| last.checked_add(1));
        next.or_else(|| (1..=u8::MAX).find(|id| !used.contains(id))).ok_or_else(|| {
            StoreError::Unusable(
                "all 255 numbers of keys are in use: `outlast keys prune --reseal` frees some".into(),
            )
        })
    }

    fn note(&mut self, secret: &Secret) -> Result<(), StoreError> {
        if self.may_seal(secret.id()) {
            return Ok(());
        }
        let mut noted = self.noted.clone();
        noted.push(Noted { id: secret.id(), check: secret.check() });
        self.write_notes(noted)
    }

    fn write_notes(&mut self, noted: Vec<Noted>) -> Result<(), StoreError> {
        if noted != self.noted {
            let lines = noted.iter().map(|noted| format!("{} {}\n", noted.id, hex(&noted.check)));
            replace(&self.data_dir.join(NOTE_FILE), lines.collect::<String>().as_bytes())?;
            self.noted = noted;
        }
        Ok(())
    }

    /// Every key that may have sealed something must be there, and be the same.
    fn check(&self) -> Result<(), StoreError> {
        let (mut missing, mut other) = (Vec::new(), Vec::new());
        for noted in &self.noted {
            match self.entries.iter().find(|entry| entry.secret.id() == noted.id) {
                None => missing.push(noted.id.to_string()),
                Some(entry) if entry.secret.check() != noted.check => other.push(noted.id.to_string()),
                Some(_) => {}
            }
        }
        if missing.is_empty() && other.is_empty() {
            return Ok(());
        }
        let place = match self.entries.first() {
            Some(entry) => entry.place.to_string(),
            None => self.data_dir.join(OWN_FILE).display().to_string(),
        };
        let mut faults = Vec::new();
        if !missing.is_empty() {
            faults.push(format!("does not have the key {}", missing.join(", ")));
        }
        if !other.is_empty() {
            faults.push(format!("has another key under the number {}", other.join(", ")));
        }
        Err(StoreError::Unusable(format!(
            "{place} {}, with which values in {} are sealed: put the right keys back, below the first line if they are \
             not to seal; nobody can read these values without them (nothing was changed)",
            faults.join(" and "),
            self.data_dir.display()
        )))
    }
}

impl Store {
    /// Makes a new key, which signs and seals from now on, and returns its number. What the earlier ones signed and
    /// sealed stays good.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the keys are not in a file that this server may change, or nothing is kept;
    /// failures of the disk. Nothing is changed then.
    pub async fn rotate_keys(&self) -> Result<u8, StoreError> {
        let keyring = self.keyring.clone().ok_or_else(|| {
            StoreError::Unusable(
                "this server keeps nothing on disk, its keys neither: restart it for new ones".into(),
            )
        })?;
        let (keys, now_ms) = (self.sealer.keys().clone(), self.clock.now_ms());
        let id = blocking(move || {
            let mut keyring = keyring.lock().unwrap_or_else(PoisonError::into_inner);
            let id = keyring.rotate(now_ms)?;
            keys.replace(&keyring.secrets());
            tracing::info!(key = id, "a new key signs session ids and seals values");
            Ok(id)
        })
        .await?;
        self.publish_key(id).await;
        Ok(id)
    }
}

fn external(settings: &config::Store) -> Result<Vec<Entry>, StoreError> {
    let (place, text) = if !settings.key_file.as_os_str().is_empty() {
        let path = &settings.key_file;
        let text = read_secret(path)?.ok_or_else(|| {
            unusable(
                path,
                "is not there (store.key_file); to make one: (umask 077; echo \"1:$(head -c 32 /dev/urandom | base64)\" \
                 > FILE)",
            )
        })?;
        let mode = fs::metadata(path).map_err(|error| unusable(path, &format!("cannot be read: {error}")))?;
        let mode = mode.permissions().mode() & 0o777;
        if mode & OTHERS != 0 {
            let why = format!(
                "can be read or written by others (mode {mode:04o}): chmod 0600, and think of new keys"
            );
            return Err(unusable(path, &why));
        }
        (Place::File(path.clone()), text)
    } else if let Some(path) = &settings.key_credential {
        // systemd keeps others out of the directory, and gives this user access by an ACL that looks like a wide mode.
        let text = read_secret(path)?.ok_or_else(|| unusable(path, "is not there"))?;
        (Place::Credential(path.clone()), text)
    } else if !settings.keys.expose_secret().is_empty() {
        let text = settings.keys.expose_secret().replace(',', "\n").into_bytes();
        (Place::Setting, Zeroizing::new(text))
    } else {
        return Ok(Vec::new());
    };
    let text =
        std::str::from_utf8(&text).map_err(|_| StoreError::Unusable(format!("{place} is not UTF-8")))?;
    let entries = parse(text, &place)?;
    if entries.is_empty() {
        return Err(StoreError::Unusable(format!(
            "{place} has no key in it: want lines ID:BASE64-OF-32-BYTES"
        )));
    }
    Ok(entries)
}

fn read_notes(path: &Path) -> Result<Vec<Noted>, StoreError> {
    let Some(text) = read_secret(path)? else { return Ok(Vec::new()) };
    let noted = |line: &str| {
        let (id, check) = line.split_once(' ')?;
        let mut bytes = [0; CHECK_BYTES];
        if check.len() != 2 * CHECK_BYTES {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(check.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Noted { id: id.parse().ok()?, check: bytes })
    };
    let text = String::from_utf8_lossy(&text);
    text.lines().map(noted).collect::<Option<Vec<_>>>().ok_or_else(|| {
        unusable(path, "is damaged: restore it from a backup; it says which keys the data needs")
    })
}

#[cfg(test)]
mod tests;
