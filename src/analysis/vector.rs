//! The decision vector: how often each construct occurs in a function. Every tool's cyclomatic number is a weighted
//! sum of it, so one walk serves all of them.

use super::language::Language;

macro_rules! constructs {
    ($($name:ident => $text:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names are those of the constructs; the odd ones are explained below")]
        #[repr(u8)]
        pub enum Construct { $($name,)* }

        impl Construct {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its name, as fixtures and explanations have it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

constructs! {
    If => "if",
    Elif => "elif",
    For => "for",
    While => "while",
    Do => "do",
    Loop => "loop",
    Try => "try",
    Catch => "catch",
    Finally => "finally",
    Ternary => "ternary",
    CompFor => "compfor",
    CompIf => "compif",
    Bool => "bool",
    Nullish => "nullish",
    // An arm or case with a test; an arm that is only `_` is a Default, one that is only a name (Python) a Capture.
    Case => "case",
    Capture => "capture",
    Default => "default",
    Guard => "guard",
    Question => "qmark",
    Where => "where",
    LetElse => "letelse",
    Assert => "assert",
    With => "with",
    LoopElse => "loopelse",
    TryElse => "tryelse",
    OptionalChain => "optchain",
    DefaultValue => "defparam",
    LogicalAssign => "logassign",
    Goto => "goto",
    Throw => "throw",
    Switch => "switch",
    // `||` without parameters, which lizard takes for a logical or.
    EmptyClosure => "emptyclosure",
    // Decisions inside Python's `assert`, and inside parameter lists and bodies of local classes: radon does not look
    // there.
    InAssert => "inassert",
    Aside => "aside",
    // Decisions inside `finally`: mccabe does not look there.
    InFinally => "infinally",
    // Decisions inside closures that count to the function around them: lizard lists Go's function literals apart.
    InClosure => "inclosure",
    // The same tokens inside macro calls.
    MacroIf => "macro_if",
    MacroFor => "macro_for",
    MacroWhile => "macro_while",
    MacroLoop => "macro_loop",
    MacroBool => "macro_bool",
    MacroQuestion => "macro_qmark",
}

/// Counts by construct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts([u16; Construct::COUNT]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Construct::COUNT])
    }
}

impl Counts {
    /// Counts one more; stays at the largest number.
    pub fn add(&mut self, construct: Construct) {
        if let Some(slot) = self.0.get_mut(construct as usize) {
            *slot = slot.saturating_add(1);
        }
    }

    /// How often a construct occurs.
    #[must_use]
    pub fn get(&self, construct: Construct) -> u32 {
        self.0.get(construct as usize).copied().map_or(0, u32::from)
    }

    fn sum(&self, constructs: &[Construct]) -> u32 {
        constructs.iter().map(|construct| self.get(*construct)).sum()
    }
}

/// Whether a construct adds to the default cyclomatic number.
#[must_use]
pub fn counts_by_default(construct: Construct) -> bool {
    DEFAULT.contains(&construct)
}

use Construct as C;

const DEFAULT: &[C] = &[
    C::If,
    C::Elif,
    C::For,
    C::While,
    C::Do,
    C::Loop,
    C::Catch,
    C::Ternary,
    C::CompFor,
    C::CompIf,
    C::Bool,
    C::Nullish,
    C::Case,
    C::Capture,
    C::Guard,
    C::Question,
    C::LetElse,
    C::LogicalAssign,
    C::MacroIf,
    C::MacroFor,
    C::MacroWhile,
    C::MacroLoop,
    C::MacroBool,
    C::MacroQuestion,
];

/// What mccabe counts.
const MCCABE: &[C] = &[C::If, C::Elif, C::For, C::While, C::Try, C::Catch];

/// Whether a construct adds to mccabe's number.
#[must_use]
pub fn counts_for_mccabe(construct: Construct) -> bool {
    MCCABE.contains(&construct)
}

/// Whose rules count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Ours: what the tools below agree on.
    #[default]
    Default,
    /// lizard 1.24: Python, Go and Rust.
    Lizard,
    /// radon 6: Python.
    Radon,
    /// mccabe 0.7, as flake8 and ruff have it: Python; nested functions count to the outer one.
    Mccabe,
    /// ESLint's `complexity`: JavaScript and TypeScript.
    Eslint,
    /// gocyclo: Go.
    Gocyclo,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Default, Self::Lizard, Self::Radon, Self::Mccabe, Self::Eslint, Self::Gocyclo];

    /// Its name in arguments and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Lizard => "lizard",
            Self::Radon => "radon",
            Self::Mccabe => "mccabe",
            Self::Eslint => "eslint",
            Self::Gocyclo => "gocyclo",
        }
    }

    /// From its name in arguments.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Whether the tool reads the language; the files of others are counted by the default rules.
    #[must_use]
    pub fn covers(self, language: Language) -> bool {
        match self {
            Self::Default => true,
            Self::Lizard => matches!(language, Language::Python | Language::Go | Language::Rust),
            Self::Radon | Self::Mccabe => language == Language::Python,
            Self::Eslint => language.is_ecmascript(),
            Self::Gocyclo => language == Language::Go,
        }
    }

    /// The cyclomatic number of one function by itself; under [`Profile::Mccabe`] the caller adds the functions
    /// nested in it.
    #[must_use]
    pub fn cyclomatic(self, counts: &Counts, language: Language) -> u32 {
        let plain = 1 + counts.sum(DEFAULT);
        if !self.covers(language) {
            return plain;
        }
        match self {
            Self::Default | Self::Gocyclo => plain,
            Self::Lizard => match language {
                Language::Python => plain + counts.sum(&[C::Finally, C::Default]),
                Language::Rust => {
                    let arms = counts.sum(&[C::Case, C::Default]).saturating_sub(counts.get(C::Switch));
                    let not = counts.sum(&[C::Loop, C::MacroLoop, C::Case]);
                    plain.saturating_sub(not) + arms + counts.sum(&[C::Where, C::EmptyClosure])
                }
                _ => plain.saturating_sub(counts.get(C::InClosure)),
            },
            Self::Radon => (plain + counts.sum(&[C::Assert, C::LoopElse, C::TryElse]))
                .saturating_sub(counts.sum(&[C::Guard, C::Capture, C::InAssert, C::Aside])),
            Self::Mccabe => (1 + counts.sum(MCCABE)).saturating_sub(counts.get(C::InFinally)),
            Self::Eslint => plain + counts.sum(&[C::OptionalChain, C::DefaultValue]),
        }
    }

    /// The same with every switch or match counted once instead of by its cases.
    #[must_use]
    pub fn cyclomatic_modified(self, counts: &Counts, language: Language) -> u32 {
        if self == Self::Mccabe && language == Language::Python {
            return self.cyclomatic(counts, language);
        }
        let full = self.cyclomatic(counts, language);
        let cases = match (self, language) {
            (Self::Lizard, Language::Python) => counts.sum(&[C::Case, C::Capture, C::Default]),
            (Self::Lizard, Language::Rust) => {
                counts.sum(&[C::Case, C::Default]).saturating_sub(counts.get(C::Switch))
            }
            (Self::Radon, Language::Python) => counts.get(C::Case),
            _ => counts.sum(&[C::Case, C::Capture]),
        };
        full.saturating_sub(cases) + counts.get(C::Switch)
    }
}
