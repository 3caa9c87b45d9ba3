//! The result: a frame that is always complete and as many rows as the budget allows.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::error::AnalysisError;
use crate::base::limits::RESULT_BYTES_PER_TOKEN;

/// Examples of one warning.
pub const EXAMPLES: usize = 3;

/// Something the reader should know.
#[derive(Clone, Debug, Serialize)]
pub struct Warning {
    /// By which programs tell it.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
    /// How often.
    pub count: u64,
    /// At most three.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

impl Warning {
    /// A warning about some of many; `None` when there are none.
    #[must_use]
    pub fn about(code: &'static str, message: &str, mut examples: Vec<String>) -> Option<Self> {
        let count = examples.len() as u64;
        examples.truncate(EXAMPLES);
        (count > 0).then(|| Self { code, message: message.into(), count, examples })
    }
}

/// A call that would be a good next one.
#[derive(Clone, Debug, Serialize)]
pub struct Suggestion {
    /// The tool.
    pub tool: &'static str,
    /// Its arguments.
    pub arguments: Value,
    /// Why.
    pub why: &'static str,
}

/// What of the files was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Coverage {
    /// Files of a supported language that were asked for.
    pub files_matched: usize,
    /// Those of which there are facts.
    pub files_analysed: usize,
    /// Those whose text does not fit the grammar everywhere.
    pub files_with_parse_errors: usize,
    /// What was left out, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Matched files by language.
    pub languages: BTreeMap<&'static str, u64>,
}

/// The moment that an answer is of.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// 16 hex digits.
    pub id: String,
    /// The commit that is checked out, if the root is a git work tree.
    pub vcs_head: Option<String>,
    /// Files that differ from that commit; `None`: not looked at.
    pub dirty_files: Option<u64>,
}

/// Everything of an answer but its rows.
#[derive(Clone, Debug)]
pub struct Head {
    /// Name and version of the result's form.
    pub schema: &'static str,
    /// The root directory.
    pub root: String,
    /// The moment.
    pub snapshot: Snapshot,
    /// What was seen.
    pub coverage: Coverage,
    /// The view.
    pub view: &'static str,
    /// Whose rules counted, where that matters.
    pub profile: Option<&'static str>,
    /// Sums over all rows of all pages.
    pub totals: BTreeMap<&'static str, u64>,
    /// What the reader should know.
    pub warnings: Vec<Warning>,
    /// What to do next.
    pub next: Vec<Suggestion>,
}

/// Rows as JSON text, and what stands around them.
pub struct Body {
    /// Before the first row.
    pub open: String,
    /// Between two rows.
    pub separator: &'static str,
    /// After the last.
    pub close: &'static str,
    /// The rows of this and all later pages up to what could fit; empty when there are none.
    pub rows: Vec<String>,
}

/// The page that is wanted.
pub struct Page<'a> {
    /// Index of its first row among all rows.
    pub offset: usize,
    /// All rows.
    pub total: usize,
    /// Rows on a page at most.
    pub limit: usize,
    /// Bound of the result's size in tokens.
    pub max_tokens: u64,
    /// Not all files were looked at: there is no next page, only a longer deadline.
    pub late: bool,
    /// Makes the cursor of the page that begins at a row.
    pub cursor: &'a dyn Fn(usize) -> String,
}

/// Tokens of a text of this many bytes, rounded up.
#[must_use]
pub fn tokens(bytes: usize) -> u64 {
    (bytes as f64 / RESULT_BYTES_PER_TOKEN).ceil() as u64
}

/// Rows of a page that could fit at most, so that no more need to be made.
#[must_use]
pub fn most_rows(max_tokens: u64) -> usize {
    // The shortest row is about eight bytes long.
    usize::try_from(max_tokens).unwrap_or(usize::MAX).min(20_000)
}

/// Puts an answer together: the longest page that fits. Suggestions go first when even one row does not, then
/// examples.
///
/// # Errors
/// [`AnalysisError::BudgetTooSmall`] when one row does not fit: a page without rows would never end the walk.
pub fn compose(head: &Head, body: &Body, page: &Page<'_>) -> Result<String, AnalysisError> {
    let rest = page.total.saturating_sub(page.offset);
    let most = rest.min(page.limit).min(body.rows.len());
    let mut head = head.clone();
    for attempt in 0..3 {
        match attempt {
            1 => head.next.clear(),
            2 => head.warnings.iter_mut().for_each(|warning| warning.examples.clear()),
            _ => {}
        }
        if let Some(text) = longest(&head, body, page, most)? {
            return Ok(text);
        }
    }
    let least = frame(&head, body, page, most.min(1))?;
    Err(AnalysisError::BudgetTooSmall { needed: tokens(least.size) })
}

fn longest(head: &Head, body: &Body, page: &Page<'_>, most: usize) -> Result<Option<String>, AnalysisError> {
    let fitting = |count: usize| {
        let frame = frame(head, body, page, count)?;
        Ok((tokens(frame.size) <= page.max_tokens).then_some((count, frame)))
    };
    let mut best = fitting(most)?;
    if best.is_none() && most > 1 {
        best = fitting(1)?;
        let mut fails = most;
        while let Some(low) = best.as_ref().map(|(count, _)| *count).filter(|low| fails - low > 1) {
            let middle = low + (fails - low) / 2;
            match fitting(middle)? {
                Some(better) => best = Some(better),
                None => fails = middle,
            }
        }
    }
    Ok(best.map(|(count, frame)| {
        let mut text = String::with_capacity(frame.size);
        text.push_str(&frame.before);
        text.push_str(&body.open);
        for (at, row) in body.rows.iter().take(count).enumerate() {
            if at > 0 {
                text.push_str(body.separator);
            }
            text.push_str(row);
        }
        text.push_str(body.close);
        text.push_str(&frame.after);
        text
    }))
}

struct Frame {
    before: String,
    after: String,
    /// Bytes of the whole with its rows; a few more than there are.
    size: usize,
}

#[derive(Serialize)]
struct Before<'a> {
    schema: &'a str,
    root: &'a str,
    snapshot: &'a Snapshot,
    coverage: &'a Coverage,
    view: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a str>,
}

#[derive(Serialize)]
struct After<'a> {
    totals: &'a BTreeMap<&'static str, u64>,
    page: PageNote,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [Warning],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    next: &'a [Suggestion],
}

#[derive(Serialize)]
struct PageNote {
    returned: usize,
    total: usize,
    next_cursor: Option<String>,
    truncated_by: Option<&'static str>,
    estimated_tokens: u64,
}

fn frame(head: &Head, body: &Body, page: &Page<'_>, count: usize) -> Result<Frame, AnalysisError> {
    let json = |error: serde_json::Error| AnalysisError::Io(format!("the result cannot be written: {error}"));
    let before = serde_json::to_string(&Before {
        schema: head.schema,
        root: &head.root,
        snapshot: &head.snapshot,
        coverage: &head.coverage,
        view: head.view,
        profile: head.profile,
    })
    .map_err(json)?;
    let before = format!("{},", before.strip_suffix('}').unwrap_or(&before));
    let end = page.offset + count;
    let more = end < page.total;
    let truncated_by = match (page.late, more) {
        (true, _) => Some("deadline"),
        (false, true) if count >= page.limit => Some("limit"),
        (false, true) => Some("tokens"),
        (false, false) => None,
    };
    let mut after = After {
        totals: &head.totals,
        page: PageNote {
            returned: count,
            total: page.total,
            next_cursor: (more && !page.late).then(|| (page.cursor)(end)),
            truncated_by,
            estimated_tokens: 0,
        },
        warnings: &head.warnings,
        next: &head.next,
    };
    let rows: usize = body.rows.iter().take(count).map(String::len).sum();
    let separators = body.separator.len() * count.saturating_sub(1);
    let around = before.len() + body.open.len() + body.close.len() + rows + separators;
    let text = serde_json::to_string(&after).map_err(json)?;
    // The estimate stands in the text that it is of: its digits are at most five.
    let size = around + text.len() + 5;
    after.page.estimated_tokens = tokens(size);
    let text = serde_json::to_string(&after).map_err(json)?;
    let after = format!(",{}", text.get(1..).unwrap_or_default());
    Ok(Frame { before, after, size })
}
