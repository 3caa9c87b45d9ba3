//! One walk over a syntax tree that gathers every fact of a file.
//!
//! The walk keeps its own stack, so that no nesting of the source can exhaust the thread's. A [`Frame`] is what a node
//! hands to its children: the unit and scope they are in, how deep they are, and what of the surroundings changes
//! their meaning.

mod cognitive;
mod count;
mod names;
mod symbols;

use tree_sitter::{Node, Tree};

use super::facts::{FileFacts, LineCounts};
use super::language::Language;
use super::syntax::{Class, Fields, Syntax};
use count::UnitBuilder;
use symbols::SymbolBuilder;

const NONE: u32 = u32::MAX;

const CODE: u8 = 1;
const DOC: u8 = 2;
const COMMENT: u8 = 4;

/// Nodes between two questions whether to go on.
const NODES_AT_A_TIME: u32 = 4_096;

/// Gathers the facts of a parsed file; `None` when `stop` said so before the end.
#[must_use]
pub fn extract(language: Language, tree: &Tree, source: &[u8], stop: &dyn Fn() -> bool) -> Option<FileFacts> {
    let mut walk = Walk {
        language,
        syntax: Syntax::of(language),
        fields: Syntax::of(language).fields,
        source,
        frames: Vec::with_capacity(64),
        lines: vec![0; line_count(source)],
        units: Vec::new(),
        symbols: Vec::new(),
        scopes: vec![String::new()],
        groups: Vec::new(),
        exports: Vec::new(),
        errors: 0,
        first_error: 0,
    };
    walk.run(tree, stop).then(|| walk.finish())
}

#[derive(Clone, Copy)]
struct Frame {
    class: Class,
    /// The unit around; NONE outside of functions.
    unit: u32,
    /// This node opened that unit.
    opens_unit: bool,
    /// Cognitive nesting of the children.
    nesting: u32,
    /// Control structures around the children.
    depth: u32,
    /// The run of logical operators that this node belongs to.
    group: u32,
    scope: u32,
    symbol: u32,
    symbol_depth: u8,
    in_assert: bool,
    aside: bool,
    in_closure: bool,
    in_finally: bool,
    in_text: bool,
    /// The parameter list of the unit around.
    param_list: bool,
    in_class: bool,
    /// Members of a trait or of its implementation are as visible as the trait.
    inherits_public: bool,
    exported: bool,
    attribute_test: bool,
    /// A statement that may be a docstring.
    docstring: bool,
    statements: u32,
    /// Bytes of the name that a function below takes from here.
    hint: Option<(u32, u32)>,
    /// The documentation that waits for its symbol.
    doc: Option<Doc>,
    /// Declared with `const`.
    constant: bool,
}

/// A comment that documents what follows: its bytes and rows.
#[derive(Clone, Copy)]
struct Doc {
    start: u32,
    end: u32,
    first: u32,
    last: u32,
}

struct Walk<'a> {
    language: Language,
    syntax: &'static Syntax,
    fields: Fields,
    source: &'a [u8],
    frames: Vec<Frame>,
    lines: Vec<u8>,
    units: Vec<UnitBuilder>,
    symbols: Vec<SymbolBuilder>,
    scopes: Vec<String>,
    groups: Vec<cognitive::Group>,
    /// Names in export lists (`__all__`, `export { … }`).
    exports: Vec<(u32, u32)>,
    errors: u32,
    first_error: u32,
}

impl Walk<'_> {
    /// Walks the tree; false when it was stopped.
    fn run(&mut self, tree: &Tree, stop: &dyn Fn() -> bool) -> bool {
        let damaged = tree.root_node().has_error();
        let mut cursor = tree.walk();
        let mut parent = Frame {
            class: Class::Other,
            unit: NONE,
            opens_unit: false,
            nesting: 0,
            depth: 0,
            group: NONE,
            scope: 0,
            symbol: NONE,
            symbol_depth: 0,
            in_assert: false,
            aside: false,
            in_closure: false,
            in_finally: false,
            in_text: false,
            param_list: false,
            in_class: false,
            inherits_public: false,
            exported: false,
            attribute_test: false,
            docstring: false,
            statements: 0,
            hint: None,
            doc: None,
            constant: false,
        };
        let mut nodes = 0_u32;
        loop {
            nodes = nodes.wrapping_add(1);
            if nodes.is_multiple_of(NODES_AT_A_TIME) && stop() {
                return false;
            }
            let node = cursor.node();
            if damaged && (node.is_error() || node.is_missing()) {
                self.note_error(node, parent.unit);
            }
            let field = cursor.field_id().map_or(0, std::num::NonZeroU16::get);
            let (frame, descend) = self.enter(node, field, &mut parent);
            if descend && cursor.goto_first_child() {
                self.frames.push(parent);
                parent = frame;
                continue;
            }
            if frame.opens_unit {
                self.close_unit(&frame, node);
            }
            while !cursor.goto_next_sibling() {
                if !cursor.goto_parent() {
                    return true;
                }
                let done = parent;
                let Some(above) = self.frames.pop() else { return true };
                parent = above;
                if done.opens_unit {
                    self.close_unit(&done, cursor.node());
                }
            }
        }
    }

    /// Looks at a node and says what holds for its children, and whether they matter.
    fn enter(&mut self, node: Node<'_>, field: u16, parent: &mut Frame) -> (Frame, bool) {
        let class = self.syntax.class(node.kind_id());
        let mut frame = Frame {
            class,
            opens_unit: false,
            group: NONE,
            param_list: false,
            exported: false,
            attribute_test: false,
            docstring: false,
            statements: 0,
            hint: None,
            doc: None,
            constant: false,
            ..*parent
        };
        if class == Class::Comment {
            self.comment(node, parent);
            return (frame, false);
        }
        let leaf = node.child_count() == 0;
        if leaf && !node.is_named() {
            self.mark(node, CODE);
            self.token(class, &frame, parent);
            return (frame, false);
        }
        if class == Class::Text {
            if parent.class == Class::EnumBody {
                self.define(node, field, &mut frame, parent);
            }
            return self.text(node, frame, parent);
        }
        if leaf {
            self.mark(node, CODE);
            if !parent.in_text {
                self.add_token(parent.unit);
            }
        }
        if class == Class::Interpolation {
            frame.in_text = false;
        }
        self.statement(node, &mut frame, parent);
        self.parameter(node, field, &mut frame, parent);
        self.define(node, field, &mut frame, parent);
        self.control(node, field, &mut frame, parent);
        self.hint(node, &mut frame, parent);
        if node.is_named() && class != Class::Attribute {
            parent.doc = None;
            parent.attribute_test = false;
        }
        (frame, !leaf)
    }

    /// A string is one token. Only what is interpolated into it is looked at.
    fn text(&mut self, node: Node<'_>, mut frame: Frame, parent: &mut Frame) -> (Frame, bool) {
        let docstring = parent.docstring;
        self.mark(node, if docstring { DOC } else { CODE });
        if !parent.in_text {
            self.add_token(parent.unit);
        }
        if docstring && let Some(symbol) = self.symbols.get_mut(parent.symbol as usize) {
            symbol.doc = Some((small(node.start_byte()), small(node.end_byte())));
        }
        frame.in_text = true;
        let interpolates = !docstring && (self.language == Language::Python || self.language.is_ecmascript());
        (frame, interpolates && node.named_child_count() > 0)
    }

    fn comment(&mut self, node: Node<'_>, parent: &mut Frame) {
        let text = self.bytes(node.start_byte(), node.end_byte());
        let row = node.start_position().row;
        let alone = self.lines.get(row).is_some_and(|marks| marks & CODE == 0);
        let (documents_next, doc) = match self.language {
            Language::Rust => {
                let outer = (text.starts_with(b"///") && !text.starts_with(b"////"))
                    || (text.starts_with(b"/**") && !text.starts_with(b"/***") && text.len() > 4);
                (outer, outer || text.starts_with(b"//!") || text.starts_with(b"/*!"))
            }
            Language::JavaScript | Language::TypeScript | Language::Tsx => {
                let doc = text.starts_with(b"/**") && text.len() > 4;
                (doc, doc)
            }
            // Any comment right above a declaration documents it; its lines become documentation when it is used.
            Language::Go => (alone, false),
            Language::Python => (false, false),
        };
        self.mark(node, if doc { DOC } else { COMMENT });
        if !documents_next {
            if alone {
                parent.doc = None;
            }
            return;
        }
        let (first, last) = (small(row), small(last_row(node)));
        let (start, end) = (small(node.start_byte()), small(node.end_byte()));
        parent.doc = Some(match parent.doc {
            Some(above) if above.last + 1 == first => Doc { end, last, ..above },
            _ => Doc { start, end, first, last },
        });
    }

    fn note_error(&mut self, node: Node<'_>, mut unit: u32) {
        self.errors = self.errors.saturating_add(1);
        if self.first_error == 0 {
            self.first_error = small(node.start_position().row).saturating_add(1);
        }
        while let Some(builder) = self.units.get_mut(unit as usize) {
            builder.damaged = true;
            unit = builder.parent;
        }
    }

    fn mark(&mut self, node: Node<'_>, mark: u8) {
        let first = node.start_position().row;
        for line in self.lines.iter_mut().take(last_row(node) + 1).skip(first) {
            *line |= mark;
        }
    }

    fn bytes(&self, start: usize, end: usize) -> &[u8] {
        self.source.get(start..end).unwrap_or_default()
    }

    fn text_of(&self, node: Node<'_>) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.bytes(node.start_byte(), node.end_byte()))
    }

    fn finish(mut self) -> FileFacts {
        let symbols = self.finish_symbols();
        let sums = self.line_sums();
        let lines = sums.last().copied().unwrap_or_default();
        let units = self.finish_units(&sums);
        FileFacts {
            language: self.language,
            units,
            symbols,
            lines,
            errors: self.errors,
            first_error: self.first_error,
            not_utf8: std::str::from_utf8(self.source).is_err(),
        }
    }

    /// Entry `n` counts the first `n` lines.
    fn line_sums(&self) -> Vec<LineCounts> {
        let mut sum = LineCounts::default();
        let mut sums = Vec::with_capacity(self.lines.len() + 1);
        sums.push(sum);
        for marks in &self.lines {
            let slot = match marks {
                marks if marks & CODE != 0 => &mut sum.code,
                marks if marks & DOC != 0 => &mut sum.doc,
                marks if marks & COMMENT != 0 => &mut sum.comment,
                _ => &mut sum.blank,
            };
            *slot += 1;
            sums.push(sum);
        }
        sums
    }
}

/// The last row that a node has text on: some comments end with their line's end.
fn last_row(node: Node<'_>) -> usize {
    let (start, end) = (node.start_position(), node.end_position());
    if end.column == 0 && end.row > start.row { end.row - 1 } else { end.row }
}

fn line_count(source: &[u8]) -> usize {
    let ends = source.iter().filter(|byte| **byte == b'\n').count();
    ends + usize::from(source.last().is_some_and(|last| *last != b'\n'))
}

/// Files are at most a few megabytes, so every offset and row fits.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
