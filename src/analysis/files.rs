//! Which files an analysis is about: the walk below a path, ignore files, globs, languages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::confine::{Root, Stat, show, stat_of};
use super::error::AnalysisError;
use super::language::Language;
use crate::base::limits::{ANALYSIS_DEPTH, ANALYSIS_FILES};

/// Longest ignore file that is read, in bytes.
const IGNORE_FILE_BYTES: u64 = 1024 * 1024;
/// Directories of other people's code.
const VENDORED: [&str; 5] =
    ["node_modules", "bower_components", "site-packages", "__pypackages__", "jspm_packages"];
/// What marks a directory as other people's code: a Python environment; Go's and PHP's `vendor`.
const ENVIRONMENT_MARK: &str = "pyvenv.cfg";
/// See [`ENVIRONMENT_MARK`].
const VENDOR_MARKS: [&str; 2] = ["modules.txt", "autoload.php"];

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Globs of which one must match, relative to the path; none: everything.
    pub include: Vec<String>,
    /// Globs of which none may match.
    pub exclude: Vec<String>,
    /// Obey `.gitignore` and `.ignore`, leave out hidden, vendored and generated files.
    pub respect_ignore: bool,
    /// Only these; none: all.
    pub languages: Vec<Language>,
}

/// A file that is to be analysed.
#[derive(Clone, Debug)]
pub struct Found {
    /// Relative to the root.
    pub path: PathBuf,
    /// The same as results have it.
    pub shown: String,
    /// Its language.
    pub language: Language,
    /// What the file system says of it.
    pub stat: Stat,
}

/// What the walk found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Files in the order of their paths' bytes.
    pub files: Vec<Found>,
    /// What was left out on the way, by reason. A vendored directory counts once.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Extensions of the files that are of no supported language.
    pub extensions: BTreeMap<String, u64>,
}

/// Lists the files below `target` (relative to the root; a file or a directory).
///
/// # Errors
/// [`AnalysisError::InvalidPattern`], [`AnalysisError::Cancelled`], [`AnalysisError::Io`].
pub fn list(
    root: &Root,
    target: &Path,
    selection: &Selection,
    stop: &dyn Fn() -> bool,
) -> Result<Listing, AnalysisError> {
    let absolute = root.path().join(target);
    let mut walk = Walk {
        root,
        selection,
        include: globs("include", &absolute, &selection.include)?,
        exclude: globs("exclude", &absolute, &selection.exclude)?,
        rules: Vec::new(),
        listing: Listing::default(),
        stop,
    };
    let meta = std::fs::symlink_metadata(&absolute)
        .map_err(|error| AnalysisError::Io(format!("{}: {error}", show(target))))?;
    if meta.is_file() {
        walk.file(target.to_path_buf(), &meta);
    } else {
        // Ignore files of the directories above apply, as they do for git.
        let mut above = PathBuf::new();
        for part in target.components() {
            walk.load_rules(&above);
            above.push(part);
        }
        walk.directory(target, 0)?;
    }
    walk.listing.files.sort_unstable_by(|a, b| a.shown.as_bytes().cmp(b.shown.as_bytes()));
    Ok(walk.listing)
}

struct Walk<'a> {
    root: &'a Root,
    selection: &'a Selection,
    include: Option<Gitignore>,
    exclude: Option<Gitignore>,
    /// Ignore files from the root down to the directory that is being read.
    rules: Vec<Gitignore>,
    listing: Listing,
    stop: &'a dyn Fn() -> bool,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &Path, depth: usize) -> Result<(), AnalysisError> {
        if (self.stop)() {
            return Err(AnalysisError::Cancelled);
        }
        if depth > ANALYSIS_DEPTH {
            self.skip("too_deep");
            return Ok(());
        }
        let Ok(entries) = std::fs::read_dir(self.root.path().join(directory)) else {
            self.skip("unreadable");
            return Ok(());
        };
        let entries: Vec<_> = entries.flatten().collect();
        let respect = self.selection.respect_ignore;
        let is_vendor = directory.file_name().is_some_and(|name| name == "vendor");
        let vendored = depth > 0
            && respect
            && entries.iter().any(|entry| {
                let name = entry.file_name();
                name == ENVIRONMENT_MARK
                    || is_vendor && name.to_str().is_some_and(|name| VENDOR_MARKS.contains(&name))
            });
        if vendored {
            self.skip("vendored");
            return Ok(());
        }
        let rules = self.rules.len();
        self.load_rules(directory);
        for entry in entries {
            let name = entry.file_name();
            let path = directory.join(&name);
            let Ok(kind) = entry.file_type() else { continue };
            let hidden = name.to_string_lossy().starts_with('.');
            if name == ".git" || (respect && (hidden || self.is_ignored(&path, kind.is_dir()))) {
                continue;
            }
            if matches(self.exclude.as_ref(), &self.root.path().join(&path), kind.is_dir()) {
                continue;
            }
            if kind.is_dir() {
                if respect && name.to_str().is_some_and(|name| VENDORED.contains(&name)) {
                    self.skip("vendored");
                } else {
                    self.directory(&path, depth + 1)?;
                }
            } else if kind.is_symlink() {
                if self.language(&path).is_some() {
                    self.skip("symlink");
                }
            } else if kind.is_file()
                && let Ok(meta) = entry.metadata()
            {
                self.file(path, &meta);
            }
        }
        self.rules.truncate(rules);
        Ok(())
    }

    fn file(&mut self, path: PathBuf, meta: &std::fs::Metadata) {
        let absolute = self.root.path().join(&path);
        if self
            .include
            .as_ref()
            .is_some_and(|include| !include.matched_path_or_any_parents(&absolute, false).is_ignore())
        {
            return;
        }
        let Some(language) = Language::of(&path) else {
            let extension =
                path.extension().map_or_else(|| "(none)".into(), |e| format!(".{}", e.to_string_lossy()));
            *self.listing.extensions.entry(extension).or_default() += 1;
            return;
        };
        if !self.selection.languages.is_empty() && !self.selection.languages.contains(&language) {
            let extension =
                path.extension().map_or_else(String::new, |e| format!(".{}", e.to_string_lossy()));
            *self.listing.extensions.entry(extension).or_default() += 1;
            return;
        }
        if self.listing.files.len() >= ANALYSIS_FILES {
            self.skip("too_many_files");
            return;
        }
        let shown = show(&path);
        self.listing.files.push(Found { path, shown, language, stat: stat_of(meta) });
    }

    fn language(&self, path: &Path) -> Option<Language> {
        let wanted = &self.selection.languages;
        Language::of(path).filter(|language| wanted.is_empty() || wanted.contains(language))
    }

    fn skip(&mut self, reason: &'static str) {
        *self.listing.skipped.entry(reason).or_default() += 1;
    }

    /// Reads the ignore files of a directory, in the order of their force.
    fn load_rules(&mut self, directory: &Path) {
        if !self.selection.respect_ignore {
            return;
        }
        for name in [".gitignore", ".ignore"] {
            let Ok((bytes, _)) = self.root.read(&directory.join(name), IGNORE_FILE_BYTES) else { continue };
            let mut builder = GitignoreBuilder::new(self.root.path().join(directory));
            for line in String::from_utf8_lossy(&bytes).lines() {
                // A line that is no glob ignores nothing, as for git.
                let _ = builder.add_line(None, line);
            }
            if let Ok(rules) = builder.build() {
                self.rules.push(rules);
            }
        }
    }

    fn is_ignored(&self, path: &Path, is_dir: bool) -> bool {
        let absolute = self.root.path().join(path);
        for rules in self.rules.iter().rev() {
            match rules.matched(&absolute, is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }
}

fn matches(globs: Option<&Gitignore>, absolute: &Path, is_dir: bool) -> bool {
    globs.is_some_and(|globs| globs.matched_path_or_any_parents(absolute, is_dir).is_ignore())
}

/// Globs in the syntax of ignore files, relative to a directory; for a file to the directory it is in.
fn globs(
    field: &'static str,
    target: &Path,
    patterns: &[String],
) -> Result<Option<Gitignore>, AnalysisError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let base = if target.is_file() { target.parent().unwrap_or(target) } else { target };
    let mut builder = GitignoreBuilder::new(base);
    // git takes `[z` for its own characters; who asks for it has left something out.
    builder.allow_unclosed_class(false);
    for pattern in patterns {
        let invalid =
            |message: String| AnalysisError::InvalidPattern { field, pattern: pattern.clone(), message };
        if pattern.trim().is_empty() || pattern.starts_with('#') {
            return Err(invalid("it matches nothing".into()));
        }
        builder.add_line(None, pattern).map_err(|error| invalid(error.to_string()))?;
    }
    builder.build().map(Some).map_err(|error| AnalysisError::InvalidPattern {
        field,
        pattern: patterns.join(" "),
        message: error.to_string(),
    })
}
