//! One engine per root directory: takes a request, scans, and puts the answer together.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::cache::Cache;
use super::complexity::{Answer, functions};
use super::confine::{Root, show};
use super::cursor::Binding;
use super::error::AnalysisError;
use super::page::{Coverage, Head, Page, Snapshot, Suggestion, Warning, compose};
use super::request::{Common, ComplexityRequest, StructureRequest, StructureView};
use super::scan::{Bench, Scan, Watch};
use super::structure::{outline, tree};
use crate::base::clock::SharedClock;
use crate::base::limits::{ANALYSIS_THREADS, FACTS_CACHE_BYTES};
use crate::base::seal::Keys;

/// Name of the tool that outlines code.
pub const STRUCTURE: &str = "code_structure";
/// Name of the tool that measures functions.
pub const COMPLEXITY: &str = "code_complexity";

/// The analysis of one directory tree. Calls may run at the same time; they share what is known of files.
pub struct Engine {
    root: Root,
    clock: SharedClock,
    keys: Keys,
    cache: Mutex<Cache>,
    threads: usize,
}

/// Which rows a call wants, after its cursor was proven.
struct Wanted {
    offset: usize,
    snapshot: Option<String>,
    arguments: String,
}

impl Engine {
    /// An engine for a directory.
    ///
    /// # Errors
    /// A sentence that names the directory, when it is none or cannot be read.
    pub fn new(root: &Path, keys: &Keys, clock: SharedClock) -> Result<Self, String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            root: Root::open(root)?,
            clock,
            keys: keys.clone(),
            cache: Mutex::new(Cache::new(FACTS_CACHE_BYTES)),
            threads: threads.min(ANALYSIS_THREADS),
        })
    }

    /// The same with another number of threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// The directory that may be read.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// About how much memory the known facts take, in bytes.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).weight()
    }

    /// Runs `code_complexity`; the answer is JSON text.
    ///
    /// # Errors
    /// [`AnalysisError`]
    pub fn complexity(&self, request: &ComplexityRequest, watch: Watch<'_>) -> Result<String, AnalysisError> {
        let arguments = format!(
            "{:?}",
            (
                &request.common.path,
                &request.common.selection,
                &request.metrics,
                request.profile,
                request.sort,
                request.descending,
                &request.min
            )
        );
        let wanted = self.wanted(COMPLEXITY, arguments, &request.common)?;
        let (scan, _) = self.scan(&request.common, &wanted, watch)?;
        let answer = functions(&scan, request, wanted.offset);
        let head = self.head(COMPLEXITY, "functions", &scan, &answer, &request.common);
        let head = Head { profile: Some(request.profile.name()), ..head };
        self.answer(COMPLEXITY, head, &answer, &scan, &request.common, &wanted, request.limit)
    }

    /// Runs `code_structure`; the answer is JSON text.
    ///
    /// # Errors
    /// [`AnalysisError`]
    pub fn structure(&self, request: &StructureRequest, watch: Watch<'_>) -> Result<String, AnalysisError> {
        let arguments = format!(
            "{:?}",
            (
                &request.common.path,
                &request.common.selection,
                request.view,
                &request.kinds,
                request.depth,
                request.signatures,
                request.docs,
                request.private
            )
        );
        let wanted = self.wanted(STRUCTURE, arguments, &request.common)?;
        let (scan, target) = self.scan(&request.common, &wanted, watch)?;
        let single = scan.files.len() == 1 && scan.files.iter().all(|file| file.path == target);
        let (view, answer) = match request.view {
            StructureView::Outline => ("outline", outline(&scan, request, single, wanted.offset)),
            StructureView::Tree => ("tree", tree(&scan, request, &target, wanted.offset)),
        };
        let head = self.head(STRUCTURE, view, &scan, &answer, &request.common);
        self.answer(STRUCTURE, head, &answer, &scan, &request.common, &wanted, usize::MAX)
    }

    fn wanted(
        &self,
        tool: &'static str,
        arguments: String,
        common: &Common,
    ) -> Result<Wanted, AnalysisError> {
        let Some(cursor) = &common.cursor else { return Ok(Wanted { offset: 0, snapshot: None, arguments }) };
        let place = Binding { keys: &self.keys, tool, arguments: &arguments }.read(cursor)?;
        Ok(Wanted { offset: place.offset, snapshot: Some(place.snapshot), arguments })
    }

    fn scan(
        &self,
        common: &Common,
        wanted: &Wanted,
        watch: Watch<'_>,
    ) -> Result<(Scan, String), AnalysisError> {
        let deadline_ms = self.clock.monotonic_ms().saturating_add(common.deadline_ms);
        let target = self.root.resolve(&common.path)?;
        let bench =
            Bench { root: &self.root, cache: &self.cache, clock: self.clock.as_ref(), threads: self.threads };
        let scan = bench.scan(&target, &common.selection, deadline_ms, watch)?;
        if scan.files.is_empty() {
            let mut seen: Vec<_> = scan.extensions.iter().collect();
            seen.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
            let extensions = seen.into_iter().take(10).map(|(name, _)| name.clone()).collect();
            return Err(AnalysisError::NoSupportedFiles { path: common.path.clone(), extensions });
        }
        // A late scan has not seen all files, so its snapshot says nothing about change.
        if !scan.late && wanted.snapshot.as_ref().is_some_and(|snapshot| *snapshot != scan.snapshot) {
            return Err(AnalysisError::CursorStale);
        }
        Ok((scan, show(&target)))
    }

    fn head(
        &self,
        tool: &'static str,
        view: &'static str,
        scan: &Scan,
        answer: &Answer,
        common: &Common,
    ) -> Head {
        let mut coverage = Coverage {
            files_matched: scan.files.len(),
            skipped: scan.skipped.clone(),
            ..Coverage::default()
        };
        let (mut broken, mut encoding) = (Vec::new(), Vec::new());
        for file in &scan.files {
            *coverage.languages.entry(file.language.name()).or_default() += 1;
            let Ok(facts) = &file.facts else { continue };
            coverage.files_analysed += 1;
            if facts.errors > 0 {
                coverage.files_with_parse_errors += 1;
                broken.push(format!("{}:{}", file.path, facts.first_error));
            }
            if facts.not_utf8 {
                encoding.push(file.path.clone());
            }
        }
        let mut warnings = Vec::new();
        let broken =
            Warning::about("parse_error", "files that do not fit the grammar, first place each", broken);
        warnings.extend(broken);
        warnings.extend(Warning::about("encoding", "files that are not UTF-8, read with loss", encoding));
        warnings.extend(answer.warnings.iter().cloned());
        let mut next = answer.next.clone();
        if scan.late {
            next.insert(0, longer(tool, common));
        }
        next.truncate(3);
        Head {
            schema: if tool == STRUCTURE { "code_structure/1" } else { "code_complexity/1" },
            root: self.root.path().to_string_lossy().into_owned(),
            snapshot: Snapshot { id: scan.snapshot.clone(), vcs_head: self.vcs_head(), dirty_files: None },
            coverage,
            view,
            profile: None,
            totals: answer.totals.clone(),
            warnings,
            next,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is a different part of one answer")]
    fn answer(
        &self,
        tool: &'static str,
        head: Head,
        answer: &Answer,
        scan: &Scan,
        common: &Common,
        wanted: &Wanted,
        limit: usize,
    ) -> Result<String, AnalysisError> {
        let binding = Binding { keys: &self.keys, tool, arguments: &wanted.arguments };
        let page = Page {
            offset: wanted.offset,
            total: answer.total,
            limit,
            max_tokens: common.max_tokens,
            late: scan.late,
            cursor: &|offset| binding.write(offset, &scan.snapshot),
        };
        compose(&head, &answer.body, &page)
    }

    /// The commit that is checked out, if the root is a git work tree whose directory lies in the root.
    fn vcs_head(&self) -> Option<String> {
        let read = |path: &str| {
            let (bytes, _) = self.root.read(Path::new(path), 1024 * 1024).ok()?;
            String::from_utf8(bytes).ok()
        };
        let head = read(".git/HEAD")?;
        let head = head.trim();
        let commit = match head.strip_prefix("ref: ") {
            None => head.to_owned(),
            Some(name) => match read(&format!(".git/{name}")) {
                Some(commit) => commit.trim().to_owned(),
                None => {
                    let packed = read(".git/packed-refs")?;
                    let line = packed.lines().find(|line| line.ends_with(&format!(" {name}")))?;
                    line.split(' ').next()?.to_owned()
                }
            },
        };
        let is_hash = matches!(commit.len(), 40 | 64) && commit.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then_some(commit)
    }
}

fn longer(tool: &'static str, common: &Common) -> Suggestion {
    let deadline = (common.deadline_ms * 4).min(600_000);
    let arguments = json!({ "path": common.path, "deadline_ms": deadline });
    Suggestion { tool, arguments, why: "the deadline came first; what was read is remembered" }
}

/// A failure as JSON: its code, a sentence, and what helps to do better. `arguments` are those of the call.
#[must_use]
pub fn failure(error: &AnalysisError, arguments: &Value) -> Value {
    let mut json = json!({ "error": error.code(), "message": error.message() });
    let Some(fields) = json.as_object_mut() else { return json };
    match error {
        AnalysisError::InvalidArgument { field, .. } => {
            fields.insert("field".into(), field.as_str().into());
        }
        AnalysisError::NotFound { nearest, .. } => {
            fields.insert("nearest".into(), nearest.clone().into());
        }
        AnalysisError::NoSupportedFiles { extensions, .. } => {
            fields.insert("extensions".into(), extensions.clone().into());
        }
        AnalysisError::InvalidPattern { field, .. } => {
            fields.insert("field".into(), (*field).into());
        }
        AnalysisError::CursorStale | AnalysisError::InvalidCursor => {
            let mut first_page = arguments.clone();
            if let Some(first_page) = first_page.as_object_mut() {
                first_page.remove("cursor");
            }
            fields.insert("arguments".into(), first_page);
        }
        AnalysisError::BudgetTooSmall { needed } => {
            fields.insert("needed_tokens".into(), (*needed).into());
        }
        AnalysisError::PathOutsideRoot { .. } | AnalysisError::Cancelled | AnalysisError::Io(_) => {}
    }
    json
}

/// A shared engine.
pub type SharedEngine = Arc<Engine>;
