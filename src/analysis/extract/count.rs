//! Function-like units and what is counted in them.

use tree_sitter::Node;

use super::{Frame, NONE, Walk, small};
use crate::analysis::facts::{LineCounts, Unit};
use crate::analysis::language::Language;
use crate::analysis::syntax::Class;
use crate::analysis::vector::{Construct, Counts, counts_by_default, counts_for_mccabe};

/// A unit while its text is read.
#[derive(Default)]
pub(super) struct UnitBuilder {
    pub name: String,
    /// The last part of the name, for direct recursion; empty when calls cannot name it.
    pub simple_name: String,
    pub method: bool,
    pub parent: u32,
    pub counts: Counts,
    pub cognitive: u32,
    /// Increments that grow with nesting, so that the unit can be seen from an outer one.
    pub structural: u32,
    /// Nesting at which the unit stands in the one around it.
    pub base: u32,
    /// Numbers of nested functions that count here too (Python): flat, structural, base.
    pub nested: Vec<(u32, u32, u32)>,
    pub recursive: bool,
    pub max_nesting: u32,
    pub params: u32,
    pub exits: u32,
    pub statements: u32,
    pub tokens: u32,
    pub damaged: bool,
    pub start: (u32, u32),
    pub end_row: u32,
    /// An initializer: a unit only if something is decided in it.
    pub only_if_decides: bool,
}

impl Walk<'_> {
    pub(super) fn add(&mut self, unit: u32, construct: Construct, around: &Frame) {
        if let Some(builder) = self.units.get_mut(unit as usize) {
            builder.counts.add(construct);
            if around.in_finally && counts_for_mccabe(construct) {
                builder.counts.add(Construct::InFinally);
            }
            if counts_by_default(construct) {
                if around.in_assert {
                    builder.counts.add(Construct::InAssert);
                } else if around.in_closure {
                    builder.counts.add(Construct::InClosure);
                } else if around.aside {
                    builder.counts.add(Construct::Aside);
                }
            }
        }
    }

    pub(super) fn add_token(&mut self, unit: u32) {
        if let Some(builder) = self.units.get_mut(unit as usize) {
            builder.tokens += 1;
        }
    }

    /// A keyword, an operator or punctuation.
    pub(super) fn token(&mut self, class: Class, frame: &Frame, parent: &Frame) {
        let unit = frame.unit;
        if !parent.in_text {
            self.add_token(unit);
        }
        let in_macro = parent.class == Class::TokenTree;
        let construct = match class {
            Class::And | Class::Or if parent.group != NONE => return self.operator(class, frame, parent),
            Class::Nullish if parent.group != NONE => return self.operator(class, frame, parent),
            Class::And | Class::Or if in_macro => Construct::MacroBool,
            Class::LogicalAssign => Construct::LogicalAssign,
            Class::OptionalChain => Construct::OptionalChain,
            Class::TokenIf if in_macro => Construct::MacroIf,
            Class::TokenFor if in_macro => Construct::MacroFor,
            Class::TokenWhile if in_macro => Construct::MacroWhile,
            Class::TokenLoop if in_macro => Construct::MacroLoop,
            Class::TokenQuestion if in_macro => Construct::MacroQuestion,
            Class::TokenIf if parent.class == Class::Pattern => Construct::Guard,
            Class::TokenElse if parent.class == Class::Let => {
                self.think(unit, parent.nesting, true);
                Construct::LetElse
            }
            Class::TokenElse if parent.class == Class::If && self.language == Language::Go => {
                self.think(unit, 0, false);
                return;
            }
            Class::TokenEquals if parent.class == Class::Param => Construct::DefaultValue,
            _ => return,
        };
        self.add(unit, construct, parent);
    }

    /// Counts a statement, and sees whether it may be a docstring.
    pub(super) fn statement(&mut self, node: Node<'_>, frame: &mut Frame, parent: &mut Frame) {
        let counts = if self.language.is_ecmascript() {
            self.syntax.is_statement(node.kind_id())
        } else {
            parent.class == Class::Block
                && node.is_named()
                && !matches!(frame.class, Class::Case | Class::Attribute | Class::Label)
        };
        if counts && let Some(builder) = self.units.get_mut(frame.unit as usize) {
            builder.statements += 1;
        }
        if self.language == Language::Python && node.is_named() {
            let module = self.frames.len() == 1;
            frame.docstring = frame.class == Class::Wrapper
                && parent.statements == 0
                && (module || (parent.class == Class::Block && self.holds_docstring()))
                && node.named_child_count() == 1;
            parent.statements += 1;
        }
    }

    /// Whether the block that is being read is the body of a definition.
    fn holds_docstring(&self) -> bool {
        self.frames.last().is_some_and(|above| matches!(above.class, Class::Function | Class::ClassDef))
    }

    /// Counts a parameter of the unit around.
    pub(super) fn parameter(&mut self, node: Node<'_>, field: u16, frame: &mut Frame, parent: &Frame) {
        let function = matches!(parent.class, Class::Function | Class::FunctionExpr | Class::Closure);
        if function && parent.opens_unit {
            frame.param_list = frame.class == Class::Params && field == self.fields.parameters;
            frame.aside |= frame.param_list;
            let lone = field == self.fields.parameter && field != 0;
            if lone && let Some(builder) = self.units.get_mut(frame.unit as usize) {
                builder.params += 1;
            }
            return;
        }
        if !parent.param_list || !node.is_named() {
            return;
        }
        let number = match node.kind() {
            "self_parameter" | "attribute_item" | "keyword_separator" | "positional_separator" => 0,
            "parameter_declaration" => {
                let mut cursor = node.walk();
                node.children_by_field_name("name", &mut cursor).count().max(1)
            }
            "identifier" if self.language == Language::Python => {
                let receiver = self.units.get(frame.unit as usize).is_some_and(|unit| {
                    unit.method
                        && unit.params == 0
                        && matches!(self.bytes(node.start_byte(), node.end_byte()), b"self" | b"cls")
                });
                usize::from(!receiver)
            }
            "required_parameter" => {
                let this = node.child_by_field_name("pattern").is_some_and(|name| name.kind() == "this");
                usize::from(!this)
            }
            _ => 1,
        };
        if let Some(builder) = self.units.get_mut(frame.unit as usize) {
            builder.params += small(number);
        }
    }

    /// Counts what decides or nests, and says how deep the children are.
    pub(super) fn control(&mut self, node: Node<'_>, field: u16, frame: &mut Frame, parent: &mut Frame) {
        if !frame.opens_unit && self.deepens(field, frame.class, parent) {
            frame.nesting += 1;
        }
        let (unit, nesting) = (frame.unit, frame.nesting);
        let else_if = frame.class == Class::If
            && (parent.class == Class::Else
                || (self.language == Language::Go
                    && parent.class == Class::If
                    && field == self.fields.alternative));
        let construct = match frame.class {
            Class::If if else_if => Construct::Elif,
            Class::If => {
                self.think(unit, nesting, true);
                Construct::If
            }
            Class::Elif => {
                self.think(unit, 0, false);
                Construct::Elif
            }
            Class::Else => {
                self.think(unit, 0, false);
                match parent.class {
                    Class::For | Class::While => Construct::LoopElse,
                    Class::Try => Construct::TryElse,
                    _ => return,
                }
            }
            Class::For | Class::While | Class::Do | Class::Loop | Class::Catch | Class::Ternary => {
                self.think(unit, nesting, true);
                match frame.class {
                    Class::For => Construct::For,
                    Class::While => Construct::While,
                    Class::Do => Construct::Do,
                    Class::Loop => Construct::Loop,
                    Class::Catch => Construct::Catch,
                    _ => Construct::Ternary,
                }
            }
            Class::Switch => {
                self.think(unit, nesting, true);
                Construct::Switch
            }
            Class::Try => Construct::Try,
            Class::Finally => {
                frame.in_finally = true;
                Construct::Finally
            }
            Class::CompFor => Construct::CompFor,
            Class::IfClause if parent.class == Class::Case => Construct::Guard,
            Class::IfClause => Construct::CompIf,
            Class::Default => Construct::Default,
            Class::Case if self.language == Language::Go || self.language.is_ecmascript() => Construct::Case,
            // Patterns hold patterns; the outermost, first one is the arm's.
            Class::Pattern if parent.class == Class::Case && parent.statements <= 1 => self.pattern(node),
            Class::With => Construct::With,
            Class::Assert => {
                self.add(unit, Construct::Assert, parent);
                frame.in_assert = true;
                return;
            }
            Class::Goto => {
                self.think(unit, 0, false);
                Construct::Goto
            }
            Class::Throw => {
                self.exit(unit);
                Construct::Throw
            }
            Class::Return => return self.exit(unit),
            Class::Question => {
                self.exit(unit);
                Construct::Question
            }
            Class::Label if parent.class == Class::Jump => return self.think(unit, 0, false),
            Class::OptionalChain if node.child_count() == 0 => Construct::OptionalChain,
            Class::DefaultPattern => Construct::DefaultValue,
            Class::Where => Construct::Where,
            Class::ClosureParams if node.end_byte() - node.start_byte() == 2 => Construct::EmptyClosure,
            Class::Binary | Class::LetChain => return self.logical(node, frame, parent),
            Class::Paren => {
                frame.group = parent.group;
                return;
            }
            Class::Call => return self.recursion(node, unit),
            Class::Closure if !frame.opens_unit => {
                // Only Go's are of interest; a lambda of Python may stand in an `assert`.
                frame.in_closure = self.language == Language::Go;
                return self.deeper(frame);
            }
            _ => return,
        };
        self.add(unit, construct, parent);
        let structure = matches!(
            frame.class,
            Class::If | Class::For | Class::While | Class::Do | Class::Loop | Class::Switch | Class::Try
        );
        if structure && !else_if {
            self.deeper(frame);
        }
    }

    fn deeper(&mut self, frame: &mut Frame) {
        frame.depth += 1;
        if let Some(builder) = self.units.get_mut(frame.unit as usize) {
            builder.max_nesting = builder.max_nesting.max(frame.depth);
        }
    }

    fn exit(&mut self, unit: u32) {
        if let Some(builder) = self.units.get_mut(unit as usize) {
            builder.exits += 1;
        }
    }

    /// A pattern of an arm: `_` matches everything, and so does a lone name in Python.
    fn pattern(&self, node: Node<'_>) -> Construct {
        if node.child(0).is_some_and(|first| first.kind() == "_") {
            return Construct::Default;
        }
        let text = self.bytes(node.start_byte(), node.end_byte());
        let name = self.language == Language::Python
            && node.named_child_count() == 1
            && node.named_child(0).is_some_and(|child| child.kind() == "dotted_name")
            && !text.contains(&b'.');
        if name { Construct::Capture } else { Construct::Case }
    }

    /// Direct recursion costs one, once per function.
    fn recursion(&mut self, node: Node<'_>, unit: u32) {
        let Some(builder) = self.units.get(unit as usize) else { return };
        if builder.recursive || builder.simple_name.is_empty() {
            return;
        }
        let Some(callee) = node.child_by_field_id(self.fields.function) else { return };
        let text = self.bytes(callee.start_byte(), callee.end_byte());
        let name = builder.simple_name.as_bytes();
        let Some(before) = text.strip_suffix(name) else { return };
        let calls = if builder.method {
            matches!(before, b"self." | b"cls." | b"this." | b"Self::")
        } else {
            before.is_empty()
        };
        if calls && let Some(builder) = self.units.get_mut(unit as usize) {
            builder.recursive = true;
        }
    }

    /// Begins a unit at this node.
    pub(super) fn open_unit(
        &mut self,
        node: Node<'_>,
        frame: &mut Frame,
        parent: &Frame,
        builder: UnitBuilder,
    ) {
        let start = node.start_position();
        let nests = self.language == Language::Python && parent.unit != NONE;
        self.units.push(UnitBuilder {
            parent: parent.unit,
            base: if nests { parent.nesting + 1 } else { 0 },
            start: (small(start.row), small(start.column)),
            end_row: small(super::last_row(node)),
            ..builder
        });
        frame.unit = small(self.units.len() - 1);
        frame.opens_unit = true;
        frame.nesting = 0;
        frame.depth = 0;
        frame.in_assert = false;
        frame.aside = false;
        frame.in_closure = false;
        frame.in_finally = false;
    }

    /// The text of a unit has been read.
    pub(super) fn close_unit(&mut self, frame: &Frame, node: Node<'_>) {
        let decorator = self.units.get(frame.unit as usize).is_some_and(|unit| !unit.nested.is_empty())
            && self.is_decorator(node);
        let Some(unit) = self.units.get_mut(frame.unit as usize) else { return };
        for (flat, structural, base) in std::mem::take(&mut unit.nested) {
            let base = if decorator { base.saturating_sub(1) } else { base };
            unit.cognitive += flat + base * structural;
            unit.structural += structural;
        }
        let (parent, seen_from_outside) = (unit.parent, (unit.cognitive, unit.structural, unit.base));
        if unit.recursive {
            unit.cognitive += 1;
        }
        if self.language == Language::Python
            && let Some(outer) = self.units.get_mut(parent as usize)
        {
            outer.nested.push(seen_from_outside);
        }
    }

    /// Units as facts. `sums` has the line counts up to each line.
    pub(super) fn finish_units(&mut self, sums: &[LineCounts]) -> Vec<Unit> {
        let mut kept = Vec::with_capacity(self.units.len());
        let mut place = Vec::with_capacity(self.units.len());
        for builder in std::mem::take(&mut self.units) {
            let decides = Construct::ALL.iter().any(|c| counts_by_default(*c) && builder.counts.get(*c) > 0);
            if builder.only_if_decides && !decides {
                place.push(None);
                continue;
            }
            place.push(Some(small(kept.len())));
            let first = sums.get(builder.start.0 as usize).copied().unwrap_or_default();
            let last = sums.get(builder.end_row as usize + 1).or(sums.last()).copied().unwrap_or_default();
            kept.push(Unit {
                name: builder.name.into(),
                start: builder.start.0 + 1,
                end: builder.end_row + 1,
                column: builder.start.1,
                parent: place.get(builder.parent as usize).copied().flatten(),
                counts: builder.counts,
                cognitive: builder.cognitive,
                max_nesting: clamp(builder.max_nesting),
                params: clamp(builder.params),
                exits: clamp(builder.exits),
                statements: builder.statements,
                tokens: builder.tokens,
                lines: LineCounts {
                    code: last.code.saturating_sub(first.code),
                    comment: last.comment.saturating_sub(first.comment),
                    doc: last.doc.saturating_sub(first.doc),
                    blank: last.blank.saturating_sub(first.blank),
                },
                damaged: builder.damaged,
            });
        }
        kept
    }
}

fn clamp(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
