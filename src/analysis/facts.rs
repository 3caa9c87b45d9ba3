//! What is known of one file after it was read: its functions, its symbols, its lines. Depends on the file's content
//! alone, so it is kept by content hash.

use super::language::Language;
use super::vector::Counts;

/// Facts of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Its language.
    pub language: Language,
    /// Function-like units in source order; an outer one comes before those nested in it.
    pub units: Vec<Unit>,
    /// Symbols in source order; a parent comes before its children.
    pub symbols: Vec<Symbol>,
    /// Lines of the whole file.
    pub lines: LineCounts,
    /// Places where the text does not fit the grammar.
    pub errors: u32,
    /// The line of the first of them, from 1; 0: none.
    pub first_error: u32,
    /// The text is not UTF-8.
    pub not_utf8: bool,
}

/// Lines by what is on them. A line with code is code whatever else is on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct LineCounts {
    pub code: u32,
    pub comment: u32,
    pub doc: u32,
    pub blank: u32,
}

/// A function-like unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Qualified name.
    pub name: Box<str>,
    /// First line, from 1.
    pub start: u32,
    /// Last line.
    pub end: u32,
    /// Column of its first byte, from 0: only to order units of one line.
    pub column: u32,
    /// The unit it is nested in.
    pub parent: Option<u32>,
    /// Its decisions, without those of nested units.
    pub counts: Counts,
    /// Cognitive complexity.
    pub cognitive: u32,
    /// Deepest chain of control structures.
    pub max_nesting: u16,
    /// Declared parameters without the receiver.
    pub params: u16,
    /// Ways out: return, throw, raise, `?`.
    pub exits: u16,
    /// Statements.
    pub statements: u32,
    /// Tokens without comments; a string is one.
    pub tokens: u32,
    /// Its lines.
    pub lines: LineCounts,
    /// A parse error lies within.
    pub damaged: bool,
}

/// A named thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Qualified name.
    pub name: Box<str>,
    /// What it is.
    pub kind: SymbolKind,
    /// First line of the declaration without attributes and decorators, from 1.
    pub start: u32,
    /// Last line.
    pub end: u32,
    /// Where the name stands: line from 1, first column and column after the last, from 1 in UTF-16 units.
    pub name_at: (u32, u32, u32),
    /// Who can see it.
    pub visibility: Visibility,
    /// The declaration up to the body, white space collapsed.
    pub signature: Box<str>,
    /// Its documentation without comment marks, or nothing.
    pub doc: Box<str>,
    /// 1 for a top-level symbol.
    pub depth: u8,
}

/// The kinds of symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum SymbolKind {
    Module,
    Namespace,
    Class,
    Struct,
    Enum,
    EnumMember,
    Interface,
    Trait,
    Impl,
    Type,
    Function,
    Method,
    Constructor,
    Property,
    Field,
    Constant,
    Variable,
    Macro,
    Test,
}

impl SymbolKind {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Module,
        Self::Namespace,
        Self::Class,
        Self::Struct,
        Self::Enum,
        Self::EnumMember,
        Self::Interface,
        Self::Trait,
        Self::Impl,
        Self::Type,
        Self::Function,
        Self::Method,
        Self::Constructor,
        Self::Property,
        Self::Field,
        Self::Constant,
        Self::Variable,
        Self::Macro,
        Self::Test,
    ];

    /// Its name in arguments and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Namespace => "namespace",
            Self::Class => "class",
            Self::Struct => "struct",
            Self::Enum => "enum",
            Self::EnumMember => "enum_member",
            Self::Interface => "interface",
            Self::Trait => "trait",
            Self::Impl => "impl",
            Self::Type => "type",
            Self::Function => "function",
            Self::Method => "method",
            Self::Constructor => "constructor",
            Self::Property => "property",
            Self::Field => "field",
            Self::Constant => "constant",
            Self::Variable => "variable",
            Self::Macro => "macro",
            Self::Test => "test",
        }
    }

    /// From its name in arguments.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Who can see a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Visibility {
    Public,
    Protected,
    Package,
    Private,
}

impl Visibility {
    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Protected => "protected",
            Self::Package => "package",
            Self::Private => "private",
        }
    }

    /// Whether it can be seen outside its file's module or package.
    #[must_use]
    pub fn is_exported(self) -> bool {
        matches!(self, Self::Public | Self::Protected)
    }
}

impl FileFacts {
    /// About how much memory they take, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let units: usize = self.units.iter().map(|unit| size_of::<Unit>() + unit.name.len()).sum();
        let symbols: usize = self
            .symbols
            .iter()
            .map(|symbol| size_of::<Symbol>() + symbol.name.len() + symbol.signature.len() + symbol.doc.len())
            .sum();
        size_of::<Self>() + units + symbols
    }
}
