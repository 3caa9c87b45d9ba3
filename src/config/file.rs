//! A configuration file as text: its values, where each stands, and what is wrong with it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table};

use super::error::{ConfigError, Problem, Source};
use super::shape::{Shape, join};
use super::{Config, redact};

/// A parsed file.
#[derive(Debug)]
pub(super) struct File {
    text: String,
    /// Its values.
    pub(super) table: Table,
    /// Where each value stands, by key path.
    pub(super) values: BTreeMap<String, Source>,
    /// Where each section begins, by key path.
    pub(super) sections: BTreeMap<String, Source>,
}

impl File {
    /// Reads and checks a text by itself: syntax, names of keys, kinds of values. `path` names it in messages.
    pub(super) fn parse(path: &Path, text: String, shape: &Shape) -> Result<Self, ConfigError> {
        let mut reading = Reading {
            path: Arc::new(path.to_owned()),
            text: &text,
            shape,
            problems: Vec::new(),
            values: BTreeMap::new(),
            sections: BTreeMap::new(),
        };
        let parsed = DeTable::parse(&text).map_err(|error| reading.failed(&error))?;
        reading.table("", shape, parsed.get_ref());
        if !reading.problems.is_empty() {
            let mut problems = reading.problems;
            problems.sort_by_key(|problem| match problem.source {
                Some(Source::File { line, column, .. }) => (line, column),
                _ => (0, 0),
            });
            return Err(ConfigError { problems });
        }
        toml::from_str::<Config>(&text).map_err(|error| reading.failed(&error))?;
        let table = toml::from_str(&text).map_err(|error| reading.failed(&error))?;
        let Reading { values, sections, .. } = reading;
        Ok(Self { text, table, values, sections })
    }

    /// The line of a place in this file, without secrets.
    pub(super) fn line(&self, source: &Source) -> Option<String> {
        match source {
            Source::File { line, .. } => redact::source_line(&self.text, *line),
            _ => None,
        }
    }
}

struct Reading<'a> {
    path: Arc<PathBuf>,
    text: &'a str,
    shape: &'a Shape,
    problems: Vec<Problem>,
    values: BTreeMap<String, Source>,
    sections: BTreeMap<String, Source>,
}

impl Reading<'_> {
    fn table(&mut self, path: &str, shape: &Shape, table: &DeTable<'_>) {
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            let below = join(path, name);
            let known = match shape {
                Shape::Table(keys) => match keys.get(name) {
                    Some(known) => known,
                    None => {
                        let hint = self.shape.suggest(path, keys, name);
                        self.unknown(&below, key.span(), hint);
                        continue;
                    }
                },
                Shape::Map(inner) => inner,
                Shape::Leaf(_) | Shape::List(_) => continue,
            };
            self.value(&below, known, key.span(), value);
        }
    }

    fn value(&mut self, path: &str, shape: &Shape, key: Range<usize>, value: &Spanned<DeValue<'_>>) {
        match (shape, value.get_ref()) {
            (Shape::Table(_) | Shape::Map(_), DeValue::Table(table)) => {
                let source = self.source(key.start);
                self.sections.insert(path.to_owned(), source);
                self.table(path, shape, table);
            }
            (Shape::List(inner), DeValue::Array(items)) => {
                let source = self.source(key.start);
                self.values.insert(path.to_owned(), source);
                for (at, item) in items.iter().enumerate() {
                    if let DeValue::Table(table) = item.get_ref() {
                        self.table(&join(path, &at.to_string()), inner, table);
                    }
                }
            }
            _ => {
                let source = self.source(value.span().start);
                self.values.insert(path.to_owned(), source);
            }
        }
    }

    fn unknown(&mut self, path: &str, span: Range<usize>, hint: Option<String>) {
        let hint = hint.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        let problem = self.problem(span.start, format!("unknown key `{path}`{hint}"));
        self.problems.push(problem);
    }

    fn failed(&self, error: &toml::de::Error) -> Problem {
        let at = error.span().map_or(0, |span| span.start);
        self.problem(at, error.message().replace('\n', "; "))
    }

    fn problem(&self, at: usize, message: String) -> Problem {
        let source = self.source(at);
        let shown = match &source {
            Source::File { line, .. } => redact::source_line(self.text, *line),
            _ => None,
        };
        Problem { source: Some(source), shown, message }
    }

    fn source(&self, at: usize) -> Source {
        let (line, column) = line_and_column(self.text, at);
        Source::File { path: Arc::clone(&self.path), line, column }
    }
}

/// The line and column of a byte of a text, from 1; the column in characters.
pub(super) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before.get(line_start..).unwrap_or_default().chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        File::parse(Path::new("c.toml"), text.to_owned(), &Shape::of_config()).unwrap_err().to_string()
    }

    #[test]
    fn a_typo_is_named_with_line_column_line_and_the_key_that_was_meant() {
        let shown = refused("mode = \"local\"\n\n[server]\n  listn = \"127.0.0.1:1\"\n");
        assert_eq!(
            shown,
            "c.toml:4:3: unknown key `server.listn`; did you mean `server.listen`?\n  4 |   listn = \"127.0.0.1:1\"\n    |   ^"
        );
    }

    #[test]
    fn every_unknown_key_is_named_at_once() {
        let shown = refused(
            "listen = \"x\"\n[servr]\na = 1\n[servers.fs]\ncomand = \"x\"\n[[auth.tokens]]\nprincpal = \"a\"\n",
        );
        for part in [
            "c.toml:1:1: unknown key `listen`; did you mean `server.listen`?",
            "c.toml:2:2: unknown key `servr`; did you mean `server`?",
            "c.toml:5:1: unknown key `servers.fs.comand`; did you mean `servers.fs.command`?",
            "c.toml:7:1: unknown key `auth.tokens.0.princpal`; did you mean `auth.tokens.0.principal`?",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[test]
    fn wrong_kinds_broken_syntax_and_wrong_words_name_their_place() {
        for (text, place, word) in [
            ("[server]\nmax_connections = \"many\"\n", "c.toml:2:19", "expected usize"),
            ("[server]\nmax_connections = -1\n", "c.toml:2:19", "-1"),
            ("mode = \"lokal\"\n", "c.toml:1:8", "local"),
            ("[server\nlisten = 1\n", "c.toml:1:8", ""),
            ("server = 5\n", "c.toml:1:10", ""),
            ("a = 1\na = 2\n", "c.toml:2:1", "duplicate"),
        ] {
            let shown = refused(text);
            assert!(shown.starts_with(place) && shown.contains(word), "{text:?}: {shown}");
        }
    }
}
