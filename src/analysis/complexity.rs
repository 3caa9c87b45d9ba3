//! The view `functions` of `code_complexity`: one row per function-like unit.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::facts::{FileFacts, Unit};
use super::metric::{Metric, SortKey};
use super::page::{Body, Suggestion, Warning, most_rows};
use super::request::ComplexityRequest;
use super::scan::Scan;
use super::vector::Profile;

/// What a view has to say.
pub struct Answer {
    /// Rows of the page, rendered.
    pub body: Body,
    /// Rows of all pages.
    pub total: usize,
    /// Sums.
    pub totals: BTreeMap<&'static str, u64>,
    /// What the reader should know.
    pub warnings: Vec<Warning>,
    /// What to do next.
    pub next: Vec<Suggestion>,
}

struct Row<'a> {
    path: &'a str,
    unit: &'a Unit,
    cyclomatic: u32,
    modified: u32,
}

impl Row<'_> {
    fn value(&self, metric: Metric) -> u32 {
        metric.of(self.unit, self.cyclomatic, self.modified)
    }
}

/// The functions of the scanned files, from row `offset` on.
#[must_use]
pub fn functions(scan: &Scan, request: &ComplexityRequest, offset: usize) -> Answer {
    let mut rows = Vec::new();
    let (mut uncovered, mut damaged) = (Vec::new(), Vec::new());
    for file in &scan.files {
        let Ok(facts) = &file.facts else { continue };
        if !request.profile.covers(facts.language) {
            uncovered.push(file.path.clone());
        }
        let values = cyclomatic(facts, request.profile);
        for (unit, (cyclomatic, modified)) in facts.units.iter().zip(values) {
            if unit.damaged {
                damaged.push(format!("{}:{} {}", file.path, unit.start, unit.name));
            }
            rows.push(Row { path: &file.path, unit, cyclomatic, modified });
        }
    }
    let totals = totals(&rows);
    rows.retain(|row| request.min.iter().all(|(metric, least)| f64::from(row.value(*metric)) >= *least));
    sort(&mut rows, request.sort, request.descending);
    let most = request.limit.min(most_rows(request.common.max_tokens));
    let mut warnings = Vec::new();
    warnings.extend(Warning::about("damaged", "functions that overlap a parse error", damaged));
    let message = format!(
        "files of languages that {} does not read are counted by the default rules",
        request.profile.name()
    );
    warnings.extend(Warning::about("profile_not_for_language", &message, uncovered));
    let mut columns = vec!["path", "name", "start", "end"];
    columns.extend(request.metrics.iter().map(|metric| metric.name()));
    Answer {
        total: rows.len(),
        totals,
        warnings,
        next: suggestions(rows.first()),
        body: Body {
            open: format!("\"functions\":{{\"columns\":{},\"rows\":[", Value::from(columns)),
            separator: ",",
            close: "]}",
            rows: rows.iter().skip(offset).take(most).map(|row| render(row, &request.metrics)).collect(),
        },
    }
}

/// Both cyclomatic numbers of each unit of a file.
#[must_use]
pub fn cyclomatic(facts: &FileFacts, profile: Profile) -> Vec<(u32, u32)> {
    let mut values: Vec<(u32, u32)> = facts
        .units
        .iter()
        .map(|unit| {
            let of = (&unit.counts, facts.language);
            (profile.cyclomatic(of.0, of.1), profile.cyclomatic_modified(of.0, of.1))
        })
        .collect();
    if profile == Profile::Mccabe && profile.covers(facts.language) {
        // Nested functions come after the one around them, so going back sums from the inside out.
        for (at, unit) in facts.units.iter().enumerate().rev() {
            let inner = values.get(at).copied().unwrap_or_default();
            if let Some(outer) = unit.parent.and_then(|parent| values.get_mut(parent as usize)) {
                outer.0 += inner.0;
                outer.1 += inner.1;
            }
        }
    }
    values
}

fn totals(rows: &[Row<'_>]) -> BTreeMap<&'static str, u64> {
    let sum = |metric: Metric| rows.iter().map(|row| u64::from(row.value(metric))).sum();
    let max = |metric: Metric| rows.iter().map(|row| u64::from(row.value(metric))).max().unwrap_or(0);
    BTreeMap::from([
        ("functions", rows.len() as u64),
        ("max_cognitive", max(Metric::Cognitive)),
        ("max_cyclomatic", max(Metric::Cyclomatic)),
        ("sum_cognitive", sum(Metric::Cognitive)),
        ("sum_cyclomatic", sum(Metric::Cyclomatic)),
    ])
}

/// The wanted order, then path, line, column and name; so no two rows are equal unless they are the same.
fn sort(rows: &mut [Row<'_>], key: SortKey, descending: bool) {
    rows.sort_by(|a, b| {
        let wanted = match key {
            SortKey::Path => a.path.as_bytes().cmp(b.path.as_bytes()),
            SortKey::Metric(metric) => a.value(metric).cmp(&b.value(metric)),
        };
        let wanted = if descending { wanted.reverse() } else { wanted };
        let place = |row: &Row<'_>| (row.unit.start, row.unit.column);
        wanted
            .then_with(|| a.path.as_bytes().cmp(b.path.as_bytes()))
            .then_with(|| place(a).cmp(&place(b)))
            .then_with(|| a.unit.name.cmp(&b.unit.name))
    });
}

fn render(row: &Row<'_>, metrics: &[Metric]) -> String {
    let mut cells: Vec<Value> =
        vec![row.path.into(), row.unit.name.as_ref().into(), row.unit.start.into(), row.unit.end.into()];
    cells.extend(metrics.iter().map(|metric| Value::from(row.value(*metric))));
    Value::from(cells).to_string()
}

fn suggestions(top: Option<&Row<'_>>) -> Vec<Suggestion> {
    let outline = top.map(|row| Suggestion {
        tool: "code_structure",
        arguments: json!({ "path": row.path }),
        why: "what else is in the file of the first row",
    });
    outline.into_iter().collect()
}
