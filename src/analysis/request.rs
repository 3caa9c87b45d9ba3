//! Arguments: read strictly, so that a mistake is named instead of ignored.

use serde_json::{Map, Value};

use super::error::AnalysisError;
use super::facts::SymbolKind;
use super::files::Selection;
use super::language::Language;
use super::metric::{DEFAULT_METRICS, Metric, SortKey};
use super::vector::Profile;

/// Entries of a list argument.
const LIST: usize = 64;
/// Bytes of a text argument.
const TEXT: usize = 4_096;
/// Bytes of a cursor.
const CURSOR: usize = 512;

/// What both tools take.
#[derive(Clone, Debug)]
pub struct Common {
    /// Directory or file.
    pub path: String,
    /// Which files below it.
    pub selection: Selection,
    /// Bound of the result's size in tokens.
    pub max_tokens: u64,
    /// Where to go on.
    pub cursor: Option<String>,
    /// Milliseconds until what is there is returned.
    pub deadline_ms: u64,
}

/// Arguments of `code_complexity`.
#[derive(Clone, Debug)]
pub struct ComplexityRequest {
    /// What both tools take.
    pub common: Common,
    /// The columns.
    pub metrics: Vec<Metric>,
    /// Whose rules count.
    pub profile: Profile,
    /// The order.
    pub sort: SortKey,
    /// Largest first.
    pub descending: bool,
    /// Rows must have at least this, per metric.
    pub min: Vec<(Metric, f64)>,
    /// Rows on a page.
    pub limit: usize,
}

/// Views of `code_structure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StructureView {
    /// Symbols as rows.
    Outline,
    /// Directories and files as text.
    Tree,
}

/// How much documentation an outline shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Docs {
    None,
    FirstLine,
    Full,
}

/// Arguments of `code_structure`.
#[derive(Clone, Debug)]
pub struct StructureRequest {
    /// What both tools take.
    pub common: Common,
    /// What is shown.
    pub view: StructureView,
    /// Only these kinds of symbols; none: all.
    pub kinds: Vec<SymbolKind>,
    /// Levels of symbols or directories.
    pub depth: u8,
    /// Show signatures.
    pub signatures: bool,
    /// Show documentation.
    pub docs: Docs,
    /// Show what cannot be seen from outside.
    pub private: bool,
}

impl ComplexityRequest {
    /// Reads the arguments of a call.
    ///
    /// # Errors
    /// [`AnalysisError::InvalidArgument`]
    pub fn parse(arguments: &Map<String, Value>) -> Result<Self, AnalysisError> {
        let mut reader = Reader { arguments, known: Vec::new() };
        let common = reader.common()?;
        reader.choice("view", &["functions"], |name| (name == "functions").then_some(()))?;
        let metrics = reader.list("metrics", &Metric::ALL.map(Metric::name), Metric::parse)?;
        let profile = reader.choice("profile", &Profile::ALL.map(Profile::name), Profile::parse)?;
        let mut sorts: Vec<&str> = Metric::ALL.map(Metric::name).to_vec();
        sorts.push("path");
        let sort = reader.choice("sort", &sorts, SortKey::parse)?;
        let order = reader.choice("order", &["desc", "asc"], |name| match name {
            "desc" => Some(true),
            "asc" => Some(false),
            _ => None,
        })?;
        let request = Self {
            common,
            metrics: metrics.unwrap_or_else(|| DEFAULT_METRICS.to_vec()),
            profile: profile.unwrap_or_default(),
            sort: sort.unwrap_or(SortKey::Metric(Metric::Cyclomatic)),
            // Paths read from the beginning unless asked otherwise.
            descending: order.unwrap_or(sort != Some(SortKey::Path)),
            min: reader.minima()?,
            limit: usize::try_from(reader.integer("limit", 1, 5_000, 100)?).unwrap_or(100),
        };
        reader.finish()?;
        Ok(request)
    }
}

impl StructureRequest {
    /// Reads the arguments of a call.
    ///
    /// # Errors
    /// [`AnalysisError::InvalidArgument`]
    pub fn parse(arguments: &Map<String, Value>) -> Result<Self, AnalysisError> {
        let mut reader = Reader { arguments, known: Vec::new() };
        let common = reader.common()?;
        let view = reader.choice("view", &["outline", "tree"], |name| match name {
            "outline" => Some(StructureView::Outline),
            "tree" => Some(StructureView::Tree),
            _ => None,
        })?;
        let docs = reader.choice("docs", &["none", "first_line", "full"], |name| match name {
            "none" => Some(Docs::None),
            "first_line" => Some(Docs::FirstLine),
            "full" => Some(Docs::Full),
            _ => None,
        })?;
        let request = Self {
            common,
            view: view.unwrap_or(StructureView::Outline),
            kinds: reader
                .list("kinds", &SymbolKind::ALL.map(SymbolKind::name), SymbolKind::parse)?
                .unwrap_or_default(),
            depth: u8::try_from(reader.integer("depth", 1, 10, 2)?).unwrap_or(2),
            signatures: reader.boolean("signatures", true)?,
            docs: docs.unwrap_or(Docs::FirstLine),
            private: reader.boolean("private", true)?,
        };
        reader.finish()?;
        Ok(request)
    }
}

struct Reader<'a> {
    arguments: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    fn common(&mut self) -> Result<Common, AnalysisError> {
        Ok(Common {
            path: self.text("path", TEXT)?.unwrap_or_else(|| ".".into()),
            selection: Selection {
                include: self.texts("include")?,
                exclude: self.texts("exclude")?,
                respect_ignore: self.boolean("respect_ignore", true)?,
                languages: self
                    .list("languages", &Language::ALL.map(Language::name), Language::parse)?
                    .unwrap_or_default(),
            },
            max_tokens: self.integer("max_tokens", 200, 20_000, 4_000)?,
            cursor: self.text("cursor", CURSOR)?,
            deadline_ms: self.integer("deadline_ms", 100, 600_000, 20_000)?,
        })
    }

    /// The value of an argument; JSON's null is the same as none.
    fn get(&mut self, field: &'static str) -> Option<&'a Value> {
        self.known.push(field);
        self.arguments.get(field).filter(|value| !value.is_null())
    }

    fn text(&mut self, field: &'static str, longest: usize) -> Result<Option<String>, AnalysisError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= longest => Ok(Some(text.clone())),
            Some(Value::String(_)) => {
                Err(AnalysisError::argument(field, format!("longer than {longest} bytes")))
            }
            Some(other) => Err(wrong(field, "a string", other)),
        }
    }

    fn boolean(&mut self, field: &'static str, default: bool) -> Result<bool, AnalysisError> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(wrong(field, "true or false", other)),
        }
    }

    fn integer(
        &mut self,
        field: &'static str,
        least: u64,
        most: u64,
        default: u64,
    ) -> Result<u64, AnalysisError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        // 4000.0 is an integer to JSON Schema.
        let whole = value.as_f64().filter(|number| number.fract() == 0.0);
        let Some(whole) = whole else { return Err(wrong(field, "an integer", value)) };
        if whole < least as f64 || whole > most as f64 {
            return Err(AnalysisError::argument(
                field,
                format!("must be from {least} to {most}, is {value}"),
            ));
        }
        Ok(whole as u64)
    }

    fn choice<T>(
        &mut self,
        field: &'static str,
        names: &[&str],
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, AnalysisError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(name)) => match parse(name) {
                Some(value) => Ok(Some(value)),
                None => Err(unknown(field, name, names)),
            },
            Some(other) => Err(wrong(field, "a string", other)),
        }
    }

    fn items(&mut self, field: &'static str) -> Result<Option<Vec<&'a str>>, AnalysisError> {
        let items = match self.get(field) {
            None => return Ok(None),
            Some(Value::Array(items)) => items,
            Some(other) => return Err(wrong(field, "a list of strings", other)),
        };
        if items.len() > LIST {
            return Err(AnalysisError::argument(field, format!("holds more than {LIST} entries")));
        }
        let read = |item: &'a Value| match item {
            Value::String(text) if text.len() <= TEXT => Ok(text.as_str()),
            Value::String(_) => {
                Err(AnalysisError::argument(field, format!("holds an entry longer than {TEXT} bytes")))
            }
            other => Err(wrong(field, "a list of strings", other)),
        };
        items.iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    fn texts(&mut self, field: &'static str) -> Result<Vec<String>, AnalysisError> {
        Ok(self.items(field)?.unwrap_or_default().into_iter().map(str::to_owned).collect())
    }

    fn list<T: PartialEq>(
        &mut self,
        field: &'static str,
        names: &[&str],
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<Vec<T>>, AnalysisError> {
        let Some(items) = self.items(field)? else { return Ok(None) };
        let mut values: Vec<T> = Vec::with_capacity(items.len());
        for item in items {
            let value = parse(item).ok_or_else(|| unknown(field, item, names))?;
            if values.contains(&value) {
                return Err(AnalysisError::argument(field, format!("names {item:?} twice")));
            }
            values.push(value);
        }
        Ok(Some(values))
    }

    fn minima(&mut self) -> Result<Vec<(Metric, f64)>, AnalysisError> {
        let minima = match self.get("min") {
            None => return Ok(Vec::new()),
            Some(Value::Object(minima)) => minima,
            Some(other) => return Err(wrong("min", "an object of numbers", other)),
        };
        let read = |(name, value): (&String, &Value)| {
            let metric =
                Metric::parse(name).ok_or_else(|| unknown("min", name, &Metric::ALL.map(Metric::name)))?;
            let least = value.as_f64().ok_or_else(|| wrong(&format!("min.{name}"), "a number", value))?;
            Ok((metric, least))
        };
        minima.iter().map(read).collect()
    }

    fn finish(&self) -> Result<(), AnalysisError> {
        match self.arguments.keys().find(|name| !self.known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let short: String = name.chars().take(64).collect();
                let known = self.known.join(", ");
                Err(AnalysisError::argument(short, format!("no such argument; there are {known}")))
            }
        }
    }
}

fn wrong(field: &str, wanted: &str, value: &Value) -> AnalysisError {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    AnalysisError::argument(field, format!("must be {wanted}, is {kind}"))
}

fn unknown(field: &str, given: &str, names: &[&str]) -> AnalysisError {
    let given: String = given.chars().take(64).collect();
    AnalysisError::argument(field, format!("{given:?} is not one of {}", names.join(", ")))
}
