//! Facts of files by content, and what content each path had when it was last read. Both may forget.

use std::collections::HashMap;
use std::sync::Arc;

use super::confine::Stat;
use super::facts::FileFacts;
use super::language::Language;

/// BLAKE3 of a file's bytes.
pub type ContentHash = [u8; 32];

/// A modification this close to the moment of reading, in milliseconds, may have been followed by another one that
/// left the same time stamp.
const STAMP_GRAIN_MS: i128 = 2_000;
/// Memory of one remembered path beside its text, bytes.
const SEEN_OVERHEAD: usize = 160;

/// What kind of content a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Source text.
    Source,
    /// Source text that says that a program wrote it.
    Generated,
    /// Source text without line breaks.
    Minified,
    /// No text.
    Binary,
}

/// What a path held when it was last read.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The file then.
    pub stat: Stat,
    /// Wall time of the reading, milliseconds since the epoch.
    pub at_ms: u64,
    /// Its content.
    pub hash: ContentHash,
    /// Its kind.
    pub content: Content,
}

impl Seen {
    fn is_current(&self, stat: Stat) -> bool {
        let age = i128::from(self.at_ms) - self.stat.modified_ns / 1_000_000;
        self.stat == stat && age.abs() >= STAMP_GRAIN_MS
    }
}

struct Entry<T> {
    value: T,
    weight: usize,
    used: u64,
}

/// The cache of one engine.
pub struct Cache {
    capacity: usize,
    weight: usize,
    tick: u64,
    facts: HashMap<(ContentHash, Language), Entry<Arc<FileFacts>>>,
    seen: HashMap<String, Entry<Seen>>,
}

impl Cache {
    /// A cache that holds about this many bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, weight: 0, tick: 0, facts: HashMap::new(), seen: HashMap::new() }
    }

    /// What a path holds, if the file has not changed since.
    pub fn seen(&mut self, path: &str, stat: Stat) -> Option<Seen> {
        self.tick += 1;
        let entry = self.seen.get_mut(path)?;
        entry.used = self.tick;
        entry.value.is_current(stat).then_some(entry.value)
    }

    /// Remembers what a path holds.
    pub fn see(&mut self, path: &str, seen: Seen) {
        let weight = path.len() + SEEN_OVERHEAD;
        self.tick += 1;
        let old = self.seen.insert(path.to_owned(), Entry { value: seen, weight, used: self.tick });
        self.weight = self.weight.saturating_sub(old.map_or(0, |old| old.weight)) + weight;
        self.forget_some();
    }

    /// The facts of a content.
    pub fn facts(&mut self, hash: &ContentHash, language: Language) -> Option<Arc<FileFacts>> {
        self.tick += 1;
        let entry = self.facts.get_mut(&(*hash, language))?;
        entry.used = self.tick;
        Some(Arc::clone(&entry.value))
    }

    /// Keeps the facts of a content.
    pub fn keep(&mut self, hash: ContentHash, facts: &Arc<FileFacts>) {
        let weight = facts.weight();
        self.tick += 1;
        let entry = Entry { value: Arc::clone(facts), weight, used: self.tick };
        let old = self.facts.insert((hash, facts.language), entry);
        self.weight = self.weight.saturating_sub(old.map_or(0, |old| old.weight)) + weight;
        self.forget_some();
    }

    /// Bytes in use, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Drops the least recently used down to nine tenths, so that this is not done for every file.
    fn forget_some(&mut self) {
        if self.weight <= self.capacity {
            return;
        }
        let mut ages: Vec<(u64, usize)> =
            self.facts.values().map(|entry| (entry.used, entry.weight)).collect();
        ages.extend(self.seen.values().map(|entry| (entry.used, entry.weight)));
        ages.sort_unstable();
        let goal = self.capacity / 10 * 9;
        let mut weight = self.weight;
        let mut oldest_kept = 0;
        for (used, size) in ages {
            if weight <= goal {
                break;
            }
            weight = weight.saturating_sub(size);
            oldest_kept = used + 1;
        }
        self.facts.retain(|_, entry| entry.used >= oldest_kept);
        self.seen.retain(|_, entry| entry.used >= oldest_kept);
        self.weight = weight;
    }
}
