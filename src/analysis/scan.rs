//! From files to facts: hash what changed, parse what is new, on several threads, until done, cancelled or late.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cache::{Cache, Content, ContentHash, Seen};
use super::confine::Root;
use super::error::AnalysisError;
use super::extract::extract;
use super::facts::FileFacts;
use super::files::{Found, Listing, Selection, list};
use super::language::Language;
use super::parse::{Parsers, Unparsed};
use crate::base::clock::{Clock, millis};
use crate::base::limits::{MINIFIED_FILE_BYTES, MINIFIED_LINE_BYTES, PARSE_FILE, SOURCE_FILE_BYTES};

/// How far an analysis has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of files that are done.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
    /// One line for people.
    pub message: String,
}

/// Who waits for an analysis.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Whether nobody does any more. Asked per file, and within a file.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Told after every file; from several threads, so numbers may arrive out of order.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// What an analysis runs with.
pub struct Bench<'a> {
    /// What may be read.
    pub root: &'a Root,
    /// What is known already.
    pub cache: &'a Mutex<Cache>,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Threads to parse on.
    pub threads: usize,
}

/// A file with what is known of it, or why nothing is.
#[derive(Debug)]
pub struct Scanned {
    /// Where it is.
    pub path: String,
    /// Its language.
    pub language: Language,
    /// Its facts.
    pub facts: Result<Arc<FileFacts>, &'static str>,
}

/// The files of one call at one moment.
#[derive(Debug)]
pub struct Scan {
    /// All matched files in the order of their paths' bytes.
    pub files: Vec<Scanned>,
    /// Why files, or whole directories, were left out.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Extensions of files of other kinds.
    pub extensions: BTreeMap<String, u64>,
    /// First 16 hex digits of BLAKE3 over sorted (path, content hash).
    pub snapshot: String,
    /// The deadline came before the end.
    pub late: bool,
}

impl Bench<'_> {
    /// Gathers the facts of the files below `target`.
    ///
    /// # Errors
    /// [`AnalysisError::InvalidPattern`], [`AnalysisError::Cancelled`], [`AnalysisError::Io`].
    pub fn scan(
        &self,
        target: &Path,
        selection: &Selection,
        deadline_ms: u64,
        watch: Watch<'_>,
    ) -> Result<Scan, AnalysisError> {
        let Listing { files: found, mut skipped, extensions } =
            list(self.root, target, selection, &|| (watch.cancelled)())?;
        let late = || self.clock.monotonic_ms() >= deadline_ms;
        let contents = self.hash_all(&found, &late, watch);
        if (watch.cancelled)() {
            return Err(AnalysisError::Cancelled);
        }
        let mut outcomes = self.look_up(&contents, &found, selection.respect_ignore);
        self.parse_all(&found, &contents, &mut outcomes, &late, watch);
        if (watch.cancelled)() {
            return Err(AnalysisError::Cancelled);
        }
        let mut hasher = blake3::Hasher::new();
        let mut files = Vec::with_capacity(found.len());
        let mut any_late = false;
        for ((file, content), outcome) in found.into_iter().zip(contents).zip(outcomes) {
            let content = match &outcome {
                Outcome::Parsed(_, hash) => Some(*hash),
                _ => content.ok().map(|seen| seen.hash),
            };
            hasher.update(&(file.shown.len() as u64).to_be_bytes());
            hasher.update(file.shown.as_bytes());
            hasher.update(&content.unwrap_or_default());
            let facts = match outcome {
                Outcome::Known(facts) | Outcome::Parsed(facts, _) => Ok(facts),
                Outcome::Skip(reason) => Err(reason),
                Outcome::Wanted => Err("deadline"),
            };
            if let Err(reason) = &facts {
                any_late |= *reason == "deadline";
                *skipped.entry(reason).or_default() += 1;
            }
            files.push(Scanned { path: file.shown, language: file.language, facts });
        }
        let snapshot = hasher.finalize().to_hex().chars().take(16).collect();
        Ok(Scan { files, skipped, extensions, snapshot, late: any_late })
    }

    /// What each file holds now; only those are read that may have changed.
    fn hash_all(
        &self,
        found: &[Found],
        late: &(dyn Fn() -> bool + Sync),
        watch: Watch<'_>,
    ) -> Vec<Result<Seen, &'static str>> {
        let mut contents: Vec<Option<Result<Seen, &'static str>>> = {
            let mut cache = self.cache();
            found
                .iter()
                .map(|file| {
                    if file.stat.size > SOURCE_FILE_BYTES {
                        return Some(Err("too_large"));
                    }
                    cache.seen(&file.shown, file.stat).map(Ok)
                })
                .collect()
        };
        let changed: Vec<usize> =
            contents.iter().enumerate().filter(|(_, known)| known.is_none()).map(|(at, _)| at).collect();
        let looked = self.on_threads(&changed, |(): &mut (), at| {
            let file = found.get(at)?;
            if late() || (watch.cancelled)() {
                return Some((at, Err("deadline")));
            }
            Some((at, self.look(file).map(|(seen, _)| seen)))
        });
        let mut cache = self.cache();
        for (at, content) in looked {
            if let (Ok(seen), Some(file)) = (&content, found.get(at)) {
                cache.see(&file.shown, *seen);
            }
            if let Some(slot) = contents.get_mut(at) {
                *slot = Some(content);
            }
        }
        contents.into_iter().map(|content| content.unwrap_or(Err("unreadable"))).collect()
    }

    /// Reads a file.
    fn look(&self, file: &Found) -> Result<(Seen, Vec<u8>), &'static str> {
        let at_ms = self.clock.now_ms();
        let (bytes, stat) = self.root.read(&file.path, SOURCE_FILE_BYTES + 1).map_err(|_| "unreadable")?;
        if bytes.len() as u64 > SOURCE_FILE_BYTES {
            return Err("too_large");
        }
        let hash = *blake3::hash(&bytes).as_bytes();
        Ok((Seen { stat, at_ms, hash, content: kind_of(&bytes) }, bytes))
    }

    fn look_up(
        &self,
        contents: &[Result<Seen, &'static str>],
        found: &[Found],
        respect_ignore: bool,
    ) -> Vec<Outcome> {
        let mut cache = self.cache();
        let outcome = |(content, file): (&Result<Seen, &'static str>, &Found)| match content {
            Err(reason) => Outcome::Skip(reason),
            Ok(seen) => match seen.content {
                Content::Binary => Outcome::Skip("binary"),
                Content::Minified => Outcome::Skip("minified"),
                Content::Generated if respect_ignore => Outcome::Skip("generated"),
                Content::Source | Content::Generated => {
                    cache.facts(&seen.hash, file.language).map_or(Outcome::Wanted, Outcome::Known)
                }
            },
        };
        contents.iter().zip(found).map(outcome).collect()
    }

    fn parse_all(
        &self,
        found: &[Found],
        contents: &[Result<Seen, &'static str>],
        outcomes: &mut [Outcome],
        late: &(dyn Fn() -> bool + Sync),
        watch: Watch<'_>,
    ) {
        let mut wanted: Vec<usize> = Vec::new();
        let mut tally = Tally::default();
        for (at, (outcome, file)) in outcomes.iter().zip(found).enumerate() {
            tally.total += file.stat.size;
            tally.files += 1;
            match outcome {
                Outcome::Wanted => wanted.push(at),
                known => {
                    tally.cached += usize::from(matches!(known, Outcome::Known(_)));
                    tally.done += file.stat.size;
                    tally.files_done += 1;
                }
            }
        }
        (watch.progress)(tally.progress());
        // The largest first, so that no thread is left alone with one at the end.
        wanted.sort_by_key(|at| found.get(*at).map(|file| (std::cmp::Reverse(file.stat.size), *at)));
        let tally = Mutex::new(tally);
        let parsed = self.on_threads(&wanted, |parsers: &mut Parsers, at| {
            let file = found.get(at)?;
            if late() || (watch.cancelled)() {
                return None;
            }
            let before = contents.get(at).and_then(|content| content.as_ref().ok());
            let outcome = self.parse(file, before, parsers, &|| late() || (watch.cancelled)());
            let progress = {
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.done += file.stat.size;
                tally.files_done += 1;
                *tally.languages.entry(file.language).or_default() += 1;
                tally.progress()
            };
            (watch.progress)(progress);
            Some((at, outcome))
        });
        let mut cache = self.cache();
        for (at, outcome) in parsed {
            if let Outcome::Parsed(facts, hash) = &outcome {
                cache.keep(*hash, facts);
            }
            if let Some(slot) = outcomes.get_mut(at) {
                *slot = outcome;
            }
        }
    }

    fn parse(
        &self,
        file: &Found,
        before: Option<&Seen>,
        parsers: &mut Parsers,
        stop: &dyn Fn() -> bool,
    ) -> Outcome {
        let (seen, bytes) = match self.look(file) {
            Ok(read) => read,
            Err(reason) => return Outcome::Skip(reason),
        };
        // A file that was changed after it was hashed counts with what it holds now.
        if before.is_none_or(|before| before.hash != seen.hash) {
            self.cache().see(&file.shown, seen);
        }
        // Offsets of the tree are those of the text after a byte order mark, which belongs to no line.
        let source = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let limit = millis(PARSE_FILE);
        let until_ms = self.clock.monotonic_ms().saturating_add(limit);
        let parsed = parsers.parse(file.language, source, self.clock, until_ms, stop).and_then(|tree| {
            let stopped = || stop() || self.clock.monotonic_ms() >= until_ms;
            let facts = extract(file.language, &tree, source, &stopped);
            facts.ok_or_else(|| if stop() { Unparsed::Stopped } else { Unparsed::TooSlow })
        });
        match parsed {
            Ok(facts) => Outcome::Parsed(Arc::new(facts), seen.hash),
            Err(Unparsed::TooSlow) => Outcome::Skip("parse_timeout"),
            Err(Unparsed::Stopped) => Outcome::Wanted,
            Err(Unparsed::NoGrammar) => Outcome::Skip("unsupported"),
        }
    }

    /// Runs `work` for each item; the order of what comes back does not matter to the callers.
    fn on_threads<S: Default, T: Send>(
        &self,
        items: &[usize],
        work: impl Fn(&mut S, usize) -> Option<T> + Sync,
    ) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let run = || {
            let mut state = S::default();
            let mut results = Vec::new();
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                results.extend(work(&mut state, *item));
            }
            results
        };
        let threads = self.threads.min(items.len());
        if threads <= 1 {
            return run();
        }
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
            let mut all = run();
            for other in others {
                // A thread that panicked has lost its files; they are reported as not analysed.
                all.extend(other.join().unwrap_or_default());
            }
            all
        })
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Outcome {
    /// Facts that were known.
    Known(Arc<FileFacts>),
    /// New facts, and the content they are of.
    Parsed(Arc<FileFacts>, ContentHash),
    /// Not analysed, and why.
    Skip(&'static str),
    /// Still to be parsed.
    Wanted,
}

#[derive(Default)]
struct Tally {
    done: u64,
    total: u64,
    files: usize,
    files_done: usize,
    cached: usize,
    languages: BTreeMap<Language, usize>,
}

impl Tally {
    fn progress(&self) -> Progress {
        use std::fmt::Write as _;
        let mut message = format!("parse {}/{} files", self.files_done, self.files);
        for (language, count) in &self.languages {
            let _ = write!(message, " · {} {count}", language.name());
        }
        let _ = write!(message, " · cached {}", self.cached);
        Progress { done: self.done, total: self.total, message }
    }
}

/// Tells source text from what should not be read.
fn kind_of(bytes: &[u8]) -> Content {
    let head = bytes.get(..8_192).unwrap_or(bytes);
    if head.contains(&0) {
        return Content::Binary;
    }
    if bytes.len() > MINIFIED_FILE_BYTES
        && bytes.split(|byte| *byte == b'\n').any(|line| line.len() > MINIFIED_LINE_BYTES)
    {
        return Content::Minified;
    }
    let head = bytes.get(..2_048).unwrap_or(bytes);
    let generated = String::from_utf8_lossy(head).lines().any(|line| {
        let line = line.trim_start();
        let comment = ["//", "#", "/*", "*", "--", "<!--"].iter().any(|mark| line.starts_with(mark));
        comment
            && (line.contains("@generated")
                || (line.contains("Code generated ") && line.contains("DO NOT EDIT")))
    });
    if generated { Content::Generated } else { Content::Source }
}
