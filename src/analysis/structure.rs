//! The views of `code_structure`: `outline`, symbols as rows, and `tree`, directories as text.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::complexity::Answer;
use super::facts::{LineCounts, Symbol};
use super::page::{Body, Suggestion, most_rows};
use super::request::{Docs, StructureRequest};
use super::scan::{Scan, Scanned};
use crate::base::text::printable;

/// Longest first line of documentation in a row, in characters.
const DOC_LINE: usize = 160;

/// The symbols of the scanned files, from row `offset` on. `single`: the path is a file, whose name need not stand in
/// every row.
#[must_use]
pub fn outline(scan: &Scan, request: &StructureRequest, single: bool, offset: usize) -> Answer {
    let mut rows: Vec<(&str, &Symbol)> = Vec::new();
    let mut symbols = 0;
    for file in &scan.files {
        let Ok(facts) = &file.facts else { continue };
        symbols += facts.symbols.len() as u64;
        let first = rows.len();
        let wanted = facts.symbols.iter().filter(|symbol| {
            symbol.depth <= request.depth
                && (request.kinds.is_empty() || request.kinds.contains(&symbol.kind))
                && (request.private || symbol.visibility.is_exported())
        });
        rows.extend(wanted.map(|symbol| (file.path.as_str(), symbol)));
        if let Some(own) = rows.get_mut(first..) {
            // Of many files, what others can use comes first; one file reads in its own order.
            own.sort_by_key(|(_, symbol)| {
                (!single && !symbol.visibility.is_exported(), symbol.start, symbol.name_at)
            });
        }
    }
    let mut columns = Vec::new();
    if !single {
        columns.push("path");
    }
    columns.extend(["name", "kind", "start", "end", "sel", "visibility"]);
    if request.signatures {
        columns.push("signature");
    }
    if request.docs != Docs::None {
        columns.push("doc");
    }
    let most = most_rows(request.common.max_tokens);
    Answer {
        total: rows.len(),
        totals: BTreeMap::from([("files", analysed(scan)), ("symbols", symbols)]),
        warnings: Vec::new(),
        next: vec![Suggestion {
            tool: "code_complexity",
            arguments: json!({ "path": request.common.path }),
            why: "which of these functions are hard to follow",
        }],
        body: Body {
            open: format!("\"symbols\":{{\"columns\":{},\"rows\":[", Value::from(columns)),
            separator: ",",
            close: "]}",
            rows: rows
                .iter()
                .skip(offset)
                .take(most)
                .map(|(path, symbol)| render(path, symbol, request, single))
                .collect(),
        },
    }
}

fn render(path: &str, symbol: &Symbol, request: &StructureRequest, single: bool) -> String {
    let mut cells: Vec<Value> = Vec::with_capacity(9);
    if !single {
        cells.push(path.into());
    }
    let (line, from, to) = symbol.name_at;
    cells.extend([
        symbol.name.as_ref().into(),
        symbol.kind.name().into(),
        symbol.start.into(),
        symbol.end.into(),
        format!("{line}:{from}-{line}:{to}").into(),
        symbol.visibility.name().into(),
    ]);
    if request.signatures {
        cells.push(symbol.signature.as_ref().into());
    }
    match request.docs {
        Docs::None => {}
        _ if symbol.doc.is_empty() => cells.push(Value::Null),
        Docs::FirstLine => {
            let line = symbol.doc.lines().next().unwrap_or_default();
            cells.push(super::text::collapse(line, DOC_LINE).into());
        }
        Docs::Full => cells.push(symbol.doc.as_ref().into()),
    }
    Value::from(cells).to_string()
}

#[derive(Default)]
struct Directory<'a> {
    files: u64,
    lines: LineCounts,
    languages: BTreeMap<&'static str, u64>,
    listed: Vec<&'a Scanned>,
    directories: BTreeMap<&'a str, Directory<'a>>,
}

/// The directories below the path, `depth` levels deep, with files, lines of code and languages.
#[must_use]
pub fn tree(scan: &Scan, request: &StructureRequest, target: &str, offset: usize) -> Answer {
    let prefix = if target == "." { String::new() } else { format!("{target}/") };
    let mut top = Directory::default();
    for file in &scan.files {
        let below = file.path.strip_prefix(&prefix).unwrap_or(&file.path);
        top.add(file, below, request.depth);
    }
    let mut lines = Vec::new();
    top.write(target, 0, &mut lines);
    let totals = BTreeMap::from([
        ("blank", u64::from(top.lines.blank)),
        ("code", u64::from(top.lines.code)),
        ("comment", u64::from(top.lines.comment)),
        ("doc", u64::from(top.lines.doc)),
        ("files", analysed(scan)),
    ]);
    let heaviest = top.directories.iter().max_by_key(|(name, of)| (of.lines.code, std::cmp::Reverse(*name)));
    let next = heaviest.map(|(name, _)| Suggestion {
        tool: "code_structure",
        arguments: json!({ "path": format!("{prefix}{name}") }),
        why: "the symbols of the largest directory",
    });
    let most = most_rows(request.common.max_tokens);
    Answer {
        total: lines.len(),
        totals,
        warnings: Vec::new(),
        next: next.into_iter().collect(),
        body: Body {
            open: "\"text\":\"".into(),
            separator: "\\n",
            close: "\"",
            rows: lines.iter().skip(offset).take(most).map(|line| escaped(&printable(line))).collect(),
        },
    }
}

impl<'a> Directory<'a> {
    fn add(&mut self, file: &'a Scanned, below: &'a str, levels: u8) {
        self.files += 1;
        *self.languages.entry(file.language.name()).or_default() += 1;
        if let Ok(facts) = &file.facts {
            self.lines.code += facts.lines.code;
            self.lines.comment += facts.lines.comment;
            self.lines.doc += facts.lines.doc;
            self.lines.blank += facts.lines.blank;
        }
        if levels == 0 {
            return;
        }
        match below.split_once('/') {
            Some((name, rest)) => self.directories.entry(name).or_default().add(file, rest, levels - 1),
            None => self.listed.push(file),
        }
    }

    fn write(&self, path: &str, level: usize, lines: &mut Vec<String>) {
        let indent = "  ".repeat(level);
        let languages: Vec<String> =
            self.languages.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let (files, code) = (self.files, self.lines.code);
        lines.push(format!("{indent}{path}/  {files} files  {code} code  {}", languages.join(", ")));
        for file in &self.listed {
            let name = file.path.rsplit('/').next().unwrap_or(&file.path);
            lines.push(match &file.facts {
                Ok(facts) => format!("{indent}  {name}  {} code", facts.lines.code),
                Err(reason) => format!("{indent}  {name}  skipped: {reason}"),
            });
        }
        for (name, directory) in &self.directories {
            let below = if path == "." { (*name).to_owned() } else { format!("{path}/{name}") };
            directory.write(&below, level + 1, lines);
        }
    }
}

fn analysed(scan: &Scan) -> u64 {
    scan.files.iter().filter(|file| file.facts.is_ok()).count() as u64
}

/// A line as it stands within a JSON string.
fn escaped(line: &str) -> String {
    let quoted = Value::from(line).to_string();
    quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default().to_owned()
}
