//! Parsing within a bound of time.

use std::collections::HashMap;
use std::ops::ControlFlow;

use tree_sitter::{ParseOptions, ParseState, Parser, Tree};

use super::language::Language;
use crate::base::clock::Clock;

/// Why there is no tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unparsed {
    /// The file took longer than one file may.
    TooSlow,
    /// The caller no longer waits: cancelled, or past the deadline.
    Stopped,
    /// The grammar could not be loaded.
    NoGrammar,
}

/// The parsers of one thread, one per language, made when first needed.
#[derive(Default)]
pub struct Parsers(HashMap<Language, Parser>);

impl Parsers {
    /// Parses a file until `until_ms` on the monotonic clock. `stop` is asked every few hundred tokens.
    ///
    /// # Errors
    /// [`Unparsed`]
    pub fn parse(
        &mut self,
        language: Language,
        source: &[u8],
        clock: &dyn Clock,
        until_ms: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<Tree, Unparsed> {
        let parser = match self.0.entry(language) {
            std::collections::hash_map::Entry::Occupied(parser) => parser.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let mut parser = Parser::new();
                parser.set_language(&language.grammar()).map_err(|_| Unparsed::NoGrammar)?;
                place.insert(parser)
            }
        };
        let mut outcome = Unparsed::TooSlow;
        let mut check = |_: &ParseState| {
            if stop() {
                outcome = Unparsed::Stopped;
                return ControlFlow::Break(());
            }
            if clock.monotonic_ms() >= until_ms { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let options = ParseOptions::new().progress_callback(&mut check);
        let mut read = |at: usize, _| source.get(at..).unwrap_or_default();
        let tree = parser.parse_with_options(&mut read, None, Some(options));
        tree.ok_or_else(|| {
            // Else the next file would go on where this one was left.
            parser.reset();
            outcome
        })
    }
}
