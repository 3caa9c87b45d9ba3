//! The text of a key file.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Entry, OTHERS, Place};
use crate::base::seal::{KEY_BYTES, Secret};
use crate::store::dir::{replace, unusable};
use crate::store::{StoreError, record};

const HEADER: &str = "# Keys of Outlast. The first signs session ids and seals values, the others verify and open.\n\
                      # Whoever has them can read the data; whoever loses them cannot. Keep a copy elsewhere.\n";
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const LOST: &str = "restore it from a backup, or remove it: then no session id that was handed out is valid, and sealed \
                    values are lost";

/// The form of the file in the data directory before format 2.
#[derive(Serialize, Deserialize)]
pub(super) struct OldFile {
    #[serde(rename = "c")]
    pub(super) current: u8,
    #[serde(rename = "k")]
    pub(super) ring: Vec<OldKey>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct OldKey {
    #[serde(rename = "i")]
    pub(super) id: u8,
    #[serde(rename = "s", with = "serde_bytes")]
    pub(super) secret: [u8; KEY_BYTES],
}

pub(super) fn read_own(path: &Path) -> Result<Vec<Entry>, StoreError> {
    let place = Place::Own(path.to_owned());
    match read_text(path)? {
        KeyText::None => Ok(Vec::new()),
        KeyText::Old(entries, _) => Ok(entries),
        KeyText::Text(text) => {
            let entries = parse(&text, &place)?;
            if entries.is_empty() {
                return Err(unusable(path, &format!("has no key in it: {LOST}")));
            }
            Ok(entries)
        }
    }
}

/// What a key file holds.
pub(super) enum KeyText {
    None,
    Text(Zeroizing<String>),
    Old(Vec<Entry>, Zeroizing<Vec<u8>>),
}

impl KeyText {
    pub(super) fn as_text(&self) -> Zeroizing<String> {
        match self {
            Self::None => Zeroizing::new(HEADER.to_owned()),
            Self::Text(text) => text.clone(),
            Self::Old(entries, _) => {
                let empty = Zeroizing::new(HEADER.to_owned());
                entries.iter().rev().fold(empty, |text, entry| with_line(&text, entry))
            }
        }
    }
}

pub(super) fn read_text(path: &Path) -> Result<KeyText, StoreError> {
    let Some(bytes) = read_secret(path)? else { return Ok(KeyText::None) };
    if bytes.first() != Some(&record::VERSION) {
        let text = String::from_utf8(bytes.to_vec()).map_err(|error| {
            error.into_bytes().zeroize();
            unusable(path, &format!("is not UTF-8: {LOST}"))
        })?;
        return Ok(KeyText::Text(Zeroizing::new(text)));
    }
    let mut old: OldFile =
        record::decode(&bytes).map_err(|error| unusable(path, &format!("({error}): {LOST}")))?;
    let entry = |key: &mut OldKey| {
        let secret = Secret::new(key.id, Zeroizing::new(key.secret));
        key.secret.zeroize();
        Entry { secret, made_ms: None, place: Place::Own(path.to_owned()) }
    };
    let mut entries: Vec<Entry> = old.ring.iter_mut().map(entry).collect();
    // A file of that form had one key.
    entries.sort_by_key(|entry| entry.secret.id() != old.current);
    if entries.first().is_none_or(|entry| entry.secret.id() != old.current) {
        return Err(unusable(path, &format!("names a key that is not in it: {LOST}")));
    }
    Ok(KeyText::Old(entries, bytes))
}

pub(super) fn read_secret(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(path, &format!("cannot be read: {error}"))),
    }
}

/// Reads key lines. Errors name the line and never what is in it.
pub(super) fn parse(text: &str, place: &Place) -> Result<Vec<Entry>, StoreError> {
    let mut entries: Vec<Entry> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let wrong = |why: &str| StoreError::Unusable(format!("{place}, line {}: {why}", at + 1));
        let mut words = line.split_whitespace();
        let Some(key) = words.next().filter(|word| !word.starts_with('#')) else { continue };
        let (id, base64) = key.split_once(':').ok_or_else(|| {
            wrong("want ID:BASE64, such as the output of `echo \"1:$(head -c 32 /dev/urandom | base64)\"`")
        })?;
        let id =
            id.parse().ok().filter(|id| *id > 0).ok_or_else(|| wrong("the number of a key is 1 to 255"))?;
        let mut bytes = Zeroizing::new([0; KEY_BYTES + 4]);
        let len = BASE64.decode_slice(base64, bytes.as_mut_slice()).unwrap_or(0);
        let secret = bytes.first_chunk::<KEY_BYTES>().filter(|_| len == KEY_BYTES);
        let secret =
            secret.ok_or_else(|| wrong("after ID: want 32 bytes in base64, which is 44 characters"))?;
        let secret = Secret::new(id, Zeroizing::new(*secret));
        let mut made_ms = None;
        for word in words {
            let seconds = word.strip_prefix("made=").and_then(|seconds| seconds.parse::<u64>().ok());
            let seconds = seconds.ok_or_else(|| {
                wrong("after the key there may only be made=SECONDS, the time since 1970 when it was made")
            })?;
            made_ms = Some(seconds.saturating_mul(1_000));
        }
        if entries.iter().any(|known| known.secret.id() == id) {
            return Err(wrong(&format!("there is a key {id} above it already: give it another number")));
        }
        entries.push(Entry { secret, made_ms, place: place.clone() });
    }
    Ok(entries)
}

/// The text with a further key before all others.
pub(super) fn with_line(text: &str, entry: &Entry) -> Zeroizing<String> {
    let base64 = Zeroizing::new(BASE64.encode(entry.secret.expose()));
    let made = entry.made_ms.map(|made_ms| format!(" made={}", made_ms / 1_000)).unwrap_or_default();
    let is_key = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let head: usize = text.split_inclusive('\n').take_while(|line| !is_key(line)).map(str::len).sum();
    let (head, rest) = text.split_at_checked(head).unwrap_or((text, ""));
    let gap = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
    Zeroizing::new(format!("{head}{gap}{}:{}{made}\n{rest}", entry.secret.id(), base64.as_str()))
}

/// Takes a key out of a file; a file without any goes.
pub(super) fn remove(path: &Path, id: u8) -> Result<(), StoreError> {
    let text = read_text(path)?.as_text();
    let id_of = |line: &str| line.split_once(':').and_then(|(id, _)| id.trim().parse::<u8>().ok());
    let mut left = Zeroizing::new(String::with_capacity(text.len()));
    for line in text.split_inclusive('\n').filter(|line| id_of(line) != Some(id)) {
        left.push_str(line);
    }
    if left.lines().all(|line| id_of(line).is_none()) {
        return fs::remove_file(path).map_err(|error| unusable(path, &format!("cannot be removed: {error}")));
    }
    replace(path, left.as_bytes())
}

/// The file in the data directory belongs to its owner alone, whoever restored it.
pub(super) fn close(path: &Path) {
    let wide = fs::metadata(path).is_ok_and(|file| file.permissions().mode() & OTHERS != 0);
    if wide {
        match fs::set_permissions(path, Permissions::from_mode(0o600)) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), "the keys could be read by others; their mode is 0600 now");
            }
            Err(error) => tracing::error!(path = %path.display(), %error, "the keys can be read by others"),
        }
    }
}
