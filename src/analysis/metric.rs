//! The numbers of a function.

use super::facts::Unit;

/// A number of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation; facts::Unit says what each one is")]
pub enum Metric {
    Cyclomatic,
    CyclomaticModified,
    Cognitive,
    MaxNesting,
    Params,
    Lines,
    Code,
    Comment,
    Doc,
    Blank,
    Statements,
    Tokens,
    Exits,
}

/// The columns when none are asked for.
pub const DEFAULT_METRICS: [Metric; 5] =
    [Metric::Cyclomatic, Metric::Cognitive, Metric::MaxNesting, Metric::Params, Metric::Code];

impl Metric {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Cyclomatic,
        Self::CyclomaticModified,
        Self::Cognitive,
        Self::MaxNesting,
        Self::Params,
        Self::Lines,
        Self::Code,
        Self::Comment,
        Self::Doc,
        Self::Blank,
        Self::Statements,
        Self::Tokens,
        Self::Exits,
    ];

    /// Its name in arguments and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cyclomatic => "cyclomatic",
            Self::CyclomaticModified => "cyclomatic_modified",
            Self::Cognitive => "cognitive",
            Self::MaxNesting => "max_nesting",
            Self::Params => "params",
            Self::Lines => "lines",
            Self::Code => "code",
            Self::Comment => "comment",
            Self::Doc => "doc",
            Self::Blank => "blank",
            Self::Statements => "statements",
            Self::Tokens => "tokens",
            Self::Exits => "exits",
        }
    }

    /// From its name in arguments.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// The number of a unit whose two cyclomatic numbers are known.
    #[must_use]
    pub fn of(self, unit: &Unit, cyclomatic: u32, modified: u32) -> u32 {
        match self {
            Self::Cyclomatic => cyclomatic,
            Self::CyclomaticModified => modified,
            Self::Cognitive => unit.cognitive,
            Self::MaxNesting => unit.max_nesting.into(),
            Self::Params => unit.params.into(),
            Self::Lines => unit.end.saturating_sub(unit.start) + 1,
            Self::Code => unit.lines.code,
            Self::Comment => unit.lines.comment,
            Self::Doc => unit.lines.doc,
            Self::Blank => unit.lines.blank,
            Self::Statements => unit.statements,
            Self::Tokens => unit.tokens,
            Self::Exits => unit.exits.into(),
        }
    }
}

/// What rows are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortKey {
    /// A number.
    Metric(Metric),
    /// The path, then the place in the file.
    Path,
}

impl SortKey {
    /// From its name in arguments.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if name == "path" { Some(Self::Path) } else { Metric::parse(name).map(Self::Metric) }
    }
}
