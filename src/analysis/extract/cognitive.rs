//! Cognitive complexity as SonarSource defines it (white paper 1.7), per language as that language's Sonar analyser
//! does it, and gocognit's reading of it for Go where Sonar is silent.

use tree_sitter::Node;

use super::{Frame, NONE, Walk};
use crate::analysis::language::Language;
use crate::analysis::syntax::Class;
use crate::analysis::vector::Construct;

/// A run of logical operators, in the order in which they stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    last: Class,
    /// Short circuits in JSX render conditionally; they do not count.
    free: bool,
}

impl Walk<'_> {
    /// Adds to the unit's number: `nested` increments grow with the nesting.
    pub(super) fn think(&mut self, unit: u32, nesting: u32, nested: bool) {
        if let Some(builder) = self.units.get_mut(unit as usize) {
            builder.cognitive += if nested { 1 + nesting } else { 1 };
            builder.structural += u32::from(nested);
        }
    }

    /// Joins a logical expression to the run of the one around it, or begins a run.
    pub(super) fn logical(&mut self, node: Node<'_>, frame: &mut Frame, parent: &Frame) {
        if !self.is_logical(node, frame.class) {
            return;
        }
        frame.group = if parent.group == NONE {
            let free = parent.class == Class::JsxExpression;
            self.groups.push(Group { last: Class::Other, free });
            super::small(self.groups.len() - 1)
        } else {
            parent.group
        };
    }

    /// A logical operator, met in source order.
    pub(super) fn operator(&mut self, class: Class, frame: &Frame, parent: &Frame) {
        let construct = if class == Class::Nullish { Construct::Nullish } else { Construct::Bool };
        self.add(frame.unit, construct, parent);
        let Some(group) = self.groups.get_mut(parent.group as usize) else { return };
        let begins = group.last != class;
        let free = group.free;
        group.last = class;
        // SonarJS counts runs of `&&` only.
        let counts =
            if self.language.is_ecmascript() { class == Class::And } else { class != Class::Nullish };
        if begins && counts && !free {
            self.think(frame.unit, 0, false);
        }
    }

    fn is_logical(&self, node: Node<'_>, class: Class) -> bool {
        match class {
            Class::LetChain => true,
            Class::Binary if self.language == Language::Python => true,
            Class::Binary => node.child_by_field_name("operator").is_some_and(|operator| {
                matches!(self.syntax.class(operator.kind_id()), Class::And | Class::Or | Class::Nullish)
            }),
            _ => false,
        }
    }

    /// Whether a child stands in the body of the structure around it, where things cost one more.
    pub(super) fn deepens(&self, field: u16, class: Class, parent: &Frame) -> bool {
        let fields = &self.fields;
        match parent.class {
            Class::If => {
                field == fields.consequence
                    || (self.language == Language::Go && field == fields.alternative && class != Class::If)
            }
            Class::Elif => field == fields.consequence,
            Class::Else => class != Class::If,
            Class::For | Class::While | Class::Do | Class::Loop => field == fields.body,
            Class::Catch => class == Class::Block,
            Class::Switch if self.language == Language::Go => matches!(class, Class::Case | Class::Default),
            Class::Switch => field == fields.body,
            Class::Ternary if self.language == Language::Python => true,
            Class::Ternary => field == fields.consequence || field == fields.alternative,
            Class::Let => field == fields.alternative,
            Class::Closure => true,
            _ => false,
        }
    }

    /// A function that consists of one nested function and the return of something: a decorator. What is nested in
    /// it does not cost more for that.
    pub(super) fn is_decorator(&self, function: Node<'_>) -> bool {
        if self.language != Language::Python {
            return false;
        }
        let Some(body) = function.child_by_field_name("body") else { return false };
        let mut functions = 0;
        let mut returns = 0;
        for at in 0..body.named_child_count() {
            let Some(child) = body.named_child(at as u32) else { return false };
            match child.kind() {
                "comment" => {}
                "function_definition" | "decorated_definition" => functions += 1,
                "return_statement" => returns += 1,
                "expression_statement" if at == 0 => {}
                _ => return false,
            }
        }
        functions == 1 && returns == 1
    }
}
