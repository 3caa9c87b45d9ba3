//! Definitions: which nodes are symbols, what they are called, who can see them.

use std::collections::HashSet;

use tree_sitter::Node;

use super::count::UnitBuilder;
use super::{COMMENT, DOC, Doc, Frame, NONE, Walk, last_row, small};
use crate::analysis::facts::{Symbol, SymbolKind, Visibility};
use crate::analysis::language::Language;
use crate::analysis::syntax::Class;
use crate::analysis::text;

/// Bytes of a declaration that may end up in its signature.
const SIGNATURE_SOURCE: usize = 4_096;

/// A symbol while its file is read.
pub(super) struct SymbolBuilder {
    pub symbol: Symbol,
    /// Bytes of its documentation.
    pub doc: Option<(u32, u32)>,
    /// Its own name, for export lists.
    pub simple_name: String,
}

impl Walk<'_> {
    /// Opens the units, scopes and symbols that begin at a node.
    pub(super) fn define(&mut self, node: Node<'_>, field: u16, frame: &mut Frame, parent: &mut Frame) {
        match frame.class {
            Class::Function | Class::Signature => self.function(node, frame, parent),
            Class::FunctionExpr => self.function_expression(node, frame, parent),
            Class::Closure
                if parent.unit == NONE && parent.hint.is_some() && self.language == Language::Go =>
            {
                let name = self.function_name(node, parent);
                let name = self.qualified(parent.scope, &name);
                self.open_unit(node, frame, parent, UnitBuilder { name, ..UnitBuilder::default() });
            }
            Class::StaticBlock => {
                let name = self.qualified(parent.scope, "static");
                let builder = UnitBuilder { name, only_if_decides: true, ..UnitBuilder::default() };
                self.open_unit(node, frame, parent, builder);
            }
            Class::ClassDef
            | Class::StructDef
            | Class::EnumDef
            | Class::InterfaceDef
            | Class::TraitDef
            | Class::ImplDef
            | Class::ModuleDef
            | Class::TypeDef => self.container(node, frame, parent),
            Class::ConstDef | Class::VarDef | Class::Field | Class::EnumMember | Class::MacroDef => {
                self.value(node, frame, parent);
            }
            Class::Assignment if self.language == Language::Python => self.value(node, frame, parent),
            // `exports.run = function …`
            Class::Assignment if self.value_function(node).is_some() => self.value(node, frame, parent),
            Class::Call if self.language.is_ecmascript() => self.test_call(node, frame, parent),
            Class::Export => {
                frame.exported = true;
                frame.doc = parent.doc.take();
            }
            Class::Wrapper | Class::Declarator => {
                frame.exported = parent.exported;
                frame.constant = frame.class == Class::Declarator
                    && node.child_by_field_name("kind").is_some_and(|kind| kind.kind() == "const");
                frame.doc = parent.doc.take();
            }
            Class::ExportItem => {
                if let Some(name) = node.child_by_field_id(self.fields.name) {
                    self.exports.push((small(name.start_byte()), small(name.end_byte())));
                }
            }
            Class::Attribute if self.language == Language::Rust => {
                let text = self.text_of(node);
                let path = text.trim_start_matches("#[").split(['(', ']', '=']).next().unwrap_or("").trim();
                if path.rsplit("::").next() == Some("test") {
                    parent.attribute_test = true;
                }
            }
            _ if parent.class == Class::EnumBody && field == self.fields.name && field != 0 => {
                let name = self.plain(small(node.start_byte()), small(node.end_byte()));
                self.symbol(node, Some(node), &name, SymbolKind::EnumMember, frame, parent);
            }
            // An initializer of a class field decides for itself, whatever function the class stands in.
            _ if parent.class == Class::Field
                && field == self.fields.value
                && field != 0
                && self.language.is_ecmascript() =>
            {
                let name = parent.hint.map_or_else(String::new, |(start, end)| self.plain(start, end));
                let name = self.qualified(parent.scope, &name);
                let builder = UnitBuilder { name, only_if_decides: true, ..UnitBuilder::default() };
                self.open_unit(node, frame, parent, builder);
            }
            _ => {}
        }
    }

    fn function(&mut self, node: Node<'_>, frame: &mut Frame, parent: &mut Frame) {
        let name = self.function_name(node, parent);
        let owner = if self.language == Language::Go { self.owner_type(node) } else { None };
        let scope = match &owner {
            Some(owner) => self.push_scope(0, owner),
            None => parent.scope,
        };
        let method =
            owner.is_some() || parent.in_class || frame.class == Class::Signature && parent.symbol != NONE;
        let kind = self.function_kind(node, &name, method, parent);
        frame.scope = scope;
        let at = node.child_by_field_id(self.fields.name);
        self.symbol(node, at, &name, kind, frame, parent);
        let qualified = self.qualified(scope, &name);
        frame.scope = self.push_scope(scope, &name);
        frame.in_class = false;
        let has_body = node.child_by_field_id(self.fields.body).is_some();
        if frame.class == Class::Function && has_body {
            let builder =
                UnitBuilder { name: qualified, simple_name: name, method, ..UnitBuilder::default() };
            self.open_unit(node, frame, parent, builder);
        }
    }

    fn function_expression(&mut self, node: Node<'_>, frame: &mut Frame, parent: &mut Frame) {
        let name = self.function_name(node, parent);
        let qualified = self.qualified(parent.scope, &name);
        let default_export = parent.class == Class::Export;
        if default_export {
            let at = node.child_by_field_id(self.fields.name);
            self.symbol(node, at, &name, SymbolKind::Function, frame, parent);
        }
        if name != "(anonymous)" {
            frame.scope = self.push_scope(parent.scope, &name);
        }
        frame.in_class = false;
        let simple_name = name.rsplit('.').next().unwrap_or("").to_owned();
        let builder = UnitBuilder {
            method: parent.in_class || name.contains('.'),
            name: qualified,
            simple_name,
            ..UnitBuilder::default()
        };
        self.open_unit(node, frame, parent, builder);
    }

    fn function_kind(&self, node: Node<'_>, name: &str, method: bool, parent: &Frame) -> SymbolKind {
        let test = match self.language {
            Language::Python => name.starts_with("test_"),
            Language::Rust => parent.attribute_test,
            Language::Go => {
                let kind = ["Test", "Benchmark", "Fuzz"].iter().any(|prefix| name.starts_with(prefix));
                kind && node
                    .child_by_field_id(self.fields.parameters)
                    .is_some_and(|list| self.text_of(list).contains("testing."))
            }
            _ => false,
        };
        if test {
            return SymbolKind::Test;
        }
        if !method {
            return SymbolKind::Function;
        }
        match name {
            "__init__" if self.language == Language::Python => SymbolKind::Constructor,
            "constructor" if self.language.is_ecmascript() => SymbolKind::Constructor,
            _ if self.language.is_ecmascript() => {
                let accessor = (0..node.child_count())
                    .any(|at| node.child(at).is_some_and(|child| matches!(child.kind(), "get" | "set")));
                if accessor { SymbolKind::Property } else { SymbolKind::Method }
            }
            _ => SymbolKind::Method,
        }
    }

    fn container(&mut self, node: Node<'_>, frame: &mut Frame, parent: &mut Frame) {
        let kind = match frame.class {
            Class::ClassDef => SymbolKind::Class,
            Class::StructDef => SymbolKind::Struct,
            Class::EnumDef => SymbolKind::Enum,
            Class::InterfaceDef => SymbolKind::Interface,
            Class::TraitDef => SymbolKind::Trait,
            Class::ImplDef => SymbolKind::Impl,
            Class::ModuleDef if self.language == Language::Rust => SymbolKind::Module,
            // The root of a Python or Go file is no module of its own here.
            Class::ModuleDef => SymbolKind::Namespace,
            _ => match node.child_by_field_name("type").map(|of| of.kind()) {
                Some("struct_type") => SymbolKind::Struct,
                Some("interface_type") => SymbolKind::Interface,
                _ => SymbolKind::Type,
            },
        };
        let at = match frame.class {
            Class::ImplDef => node.child_by_field_name("type"),
            _ => node
                .child_by_field_id(self.fields.name)
                .or_else(|| node.child_by_field_name("left").and_then(|left| left.named_child(0))),
        };
        let own = match (frame.class, at) {
            (Class::ImplDef, _) => self.owner_type(node).unwrap_or_default(),
            (_, Some(at)) => self.plain(small(at.start_byte()), small(at.end_byte())),
            (_, None) => match parent.hint {
                Some((start, end)) => self.plain(start, end),
                None if parent.class == Class::Export => "default".into(),
                None => "(anonymous)".into(),
            },
        };
        let implements = node.child_by_field_name("trait").map(|of| self.text_of(of).into_owned());
        let shown = match &implements {
            Some(of) => format!("{of} for {own}"),
            None => own.clone(),
        };
        let local_alias = parent.unit != NONE && frame.class == Class::TypeDef;
        if !local_alias {
            self.symbol(node, at, &shown, kind, frame, parent);
        }
        frame.scope = self.push_scope(parent.scope, &own);
        frame.in_class = frame.class != Class::ModuleDef;
        frame.aside |= parent.unit != NONE;
        frame.inherits_public = match frame.class {
            Class::TraitDef | Class::EnumDef | Class::InterfaceDef => self.is_public(frame.symbol),
            Class::ImplDef => implements.is_some(),
            _ => false,
        };
        frame.hint = None;
    }

    /// Constants, variables, fields, members of enums, macros.
    fn value(&mut self, node: Node<'_>, frame: &mut Frame, parent: &mut Frame) {
        if parent.unit != NONE && !parent.in_class {
            return;
        }
        let at = match frame.class {
            Class::Assignment => node.child_by_field_name("left"),
            Class::Field => node.child_by_field_name("name").or_else(|| node.child_by_field_name("property")),
            _ => node.child_by_field_id(self.fields.name),
        };
        let Some(at) = at.or_else(|| node.child_by_field_name("type")) else { return };
        let simple = at.kind().ends_with("identifier")
            || matches!(at.kind(), "string" | "computed_property_name" | "member_expression");
        let attribute = self.language == Language::Python && at.kind() != "identifier";
        if (!simple && self.language != Language::Go) || attribute {
            return;
        }
        let name = self.plain(small(at.start_byte()), small(at.end_byte()));
        if self.language == Language::Python && name == "__all__" {
            self.export_list(node);
        }
        let function = self.value_function(node);
        let upper = name.chars().any(char::is_alphabetic) && !name.chars().any(char::is_lowercase);
        let kind = match frame.class {
            Class::ConstDef => SymbolKind::Constant,
            Class::EnumMember => SymbolKind::EnumMember,
            Class::MacroDef => SymbolKind::Macro,
            Class::Field if function.is_some() => SymbolKind::Method,
            Class::Field if self.language.is_ecmascript() => SymbolKind::Property,
            Class::Field => SymbolKind::Field,
            Class::Assignment if function.is_some() => SymbolKind::Function,
            Class::Assignment if parent.in_class => SymbolKind::Field,
            Class::Assignment if upper => SymbolKind::Constant,
            Class::VarDef if function.is_some() => SymbolKind::Function,
            Class::VarDef if parent.constant => SymbolKind::Constant,
            _ => SymbolKind::Variable,
        };
        self.symbol(node, Some(at), &name, kind, frame, parent);
        if self.language == Language::Go {
            self.more_names(node, kind, frame, parent);
        }
        if frame.class == Class::EnumMember {
            frame.scope = self.push_scope(frame.scope, &name);
        }
    }

    /// Go declares several names at once.
    fn more_names(&mut self, node: Node<'_>, kind: SymbolKind, frame: &mut Frame, parent: &mut Frame) {
        let mut cursor = node.walk();
        let others: Vec<Node<'_>> = node.children_by_field_name("name", &mut cursor).skip(1).collect();
        for at in others.into_iter().filter(|at| at.is_named()) {
            let name = self.plain(small(at.start_byte()), small(at.end_byte()));
            self.symbol(node, Some(at), &name, kind, frame, parent);
        }
    }

    fn value_function<'t>(&self, node: Node<'t>) -> Option<Node<'t>> {
        let value = node
            .child_by_field_id(self.fields.value)
            .or_else(|| node.child_by_field_id(self.fields.right))?;
        (self.syntax.class(value.kind_id()) == Class::FunctionExpr).then_some(value)
    }

    /// The strings of `__all__`.
    fn export_list(&mut self, assignment: Node<'_>) {
        let Some(list) = assignment.child_by_field_name("right") else { return };
        for at in 0..list.named_child_count() {
            let Some(item) = list.named_child(small(at)) else { continue };
            if item.kind() == "string" {
                self.exports.push((small(item.start_byte()), small(item.end_byte())));
            }
        }
    }

    /// `it("…", …)` and `test("…", …)`.
    fn test_call(&mut self, node: Node<'_>, frame: &mut Frame, parent: &mut Frame) {
        let Some(callee) = node.child_by_field_id(self.fields.function) else { return };
        if !matches!(self.bytes(callee.start_byte(), callee.end_byte()), b"it" | b"test") {
            return;
        }
        let Some(arguments) = node.child_by_field_name("arguments") else { return };
        let (Some(title), Some(body)) = (arguments.named_child(0), arguments.named_child(1)) else { return };
        if self.syntax.class(title.kind_id()) != Class::Text
            || self.syntax.class(body.kind_id()) != Class::FunctionExpr
        {
            return;
        }
        let text = self.text_of(title);
        let name = text::collapse(text.trim_matches(['"', '\'', '`']), 120);
        let (symbol, depth, scope) = (frame.symbol, frame.symbol_depth, frame.scope);
        frame.scope = 0;
        self.symbol(node, Some(title), &name, SymbolKind::Test, frame, parent);
        (frame.symbol, frame.symbol_depth, frame.scope) = (symbol, depth, scope);
    }

    fn symbol(
        &mut self,
        node: Node<'_>,
        at: Option<Node<'_>>,
        name: &str,
        kind: SymbolKind,
        frame: &mut Frame,
        parent: &mut Frame,
    ) {
        let visibility = self.visibility(node, name, kind, frame, parent);
        let signature_end = match frame.class {
            Class::VarDef | Class::Field | Class::Assignment => self.value_function(node).unwrap_or(node),
            _ => node,
        };
        let body = signature_end.child_by_field_id(self.fields.body).filter(|body| {
            body.start_byte() > node.start_byte() && body.kind() != "ordered_field_declaration_list"
        });
        // Far more than a signature is never looked at, else a declaration of many names would cost their square.
        let end = body.map_or(node.end_byte(), |body| body.start_byte());
        let end = end.min(node.start_byte() + SIGNATURE_SOURCE);
        let source = String::from_utf8_lossy(self.bytes(node.start_byte(), end));
        let source = match kind {
            SymbolKind::Struct | SymbolKind::Interface if self.language == Language::Go => {
                source.split('{').next().unwrap_or_default()
            }
            SymbolKind::Test if self.language.is_ecmascript() => name,
            SymbolKind::Macro => name,
            _ => &source,
        };
        let signature = text::signature(source);
        let place = at.unwrap_or(node);
        let row = small(node.start_position().row);
        let doc = parent.doc.take().filter(|doc| self.language != Language::Go || doc.last + 1 == row);
        if let (Some(doc), Language::Go) = (doc, self.language) {
            self.redoc(doc);
        }
        let symbol = Symbol {
            name: self.qualified(frame.scope, name).into(),
            kind,
            start: small(node.start_position().row) + 1,
            end: small(last_row(node)) + 1,
            name_at: self.place(place),
            visibility,
            signature: signature.into(),
            doc: Box::default(),
            depth: parent.symbol_depth.saturating_add(1),
        };
        self.symbols.push(SymbolBuilder {
            symbol,
            doc: doc.map(|doc| (doc.start, doc.end)),
            simple_name: name.to_owned(),
        });
        frame.symbol = small(self.symbols.len() - 1);
        frame.symbol_depth = parent.symbol_depth.saturating_add(1);
    }

    /// Comments above a Go declaration turn out to be documentation.
    fn redoc(&mut self, doc: Doc) {
        for line in self.lines.iter_mut().take(doc.last as usize + 1).skip(doc.first as usize) {
            if *line & COMMENT != 0 {
                *line = *line & !COMMENT | DOC;
            }
        }
    }

    /// Line, first column and the column after the last, from 1, in UTF-16 units.
    fn place(&self, node: Node<'_>) -> (u32, u32, u32) {
        let start = node.start_position();
        let line_start = node.start_byte().saturating_sub(start.column);
        let before =
            String::from_utf8_lossy(self.bytes(line_start, node.start_byte())).encode_utf16().count();
        let name = self.text_of(node);
        let width = name.lines().next().unwrap_or_default().encode_utf16().count();
        (small(start.row) + 1, small(before) + 1, small(before + width) + 1)
    }

    fn is_public(&self, symbol: u32) -> bool {
        self.symbols.get(symbol as usize).is_some_and(|of| of.symbol.visibility == Visibility::Public)
    }

    fn visibility(
        &self,
        node: Node<'_>,
        name: &str,
        kind: SymbolKind,
        frame: &Frame,
        parent: &Frame,
    ) -> Visibility {
        if parent.unit != NONE && kind != SymbolKind::Test {
            return Visibility::Private;
        }
        match self.language {
            Language::Python => {
                let dunder = name.starts_with("__") && name.ends_with("__") && name.len() > 4;
                if name.starts_with('_') && !dunder { Visibility::Private } else { Visibility::Public }
            }
            Language::Go => {
                if name.chars().next().is_some_and(char::is_uppercase) {
                    Visibility::Public
                } else {
                    Visibility::Package
                }
            }
            Language::Rust => {
                let modifier = (0..node.child_count().min(4))
                    .filter_map(|at| node.child(at))
                    .find(|child| child.kind() == "visibility_modifier");
                match modifier {
                    Some(modifier) if modifier.child_count() > 1 => Visibility::Package,
                    Some(_) => Visibility::Public,
                    None if parent.inherits_public || kind == SymbolKind::Impl => Visibility::Public,
                    None if kind == SymbolKind::Macro => Visibility::Package,
                    None => Visibility::Private,
                }
            }
            Language::JavaScript | Language::TypeScript | Language::Tsx => {
                if name.starts_with('#') {
                    return Visibility::Private;
                }
                let modifier = (0..node.child_count().min(6))
                    .filter_map(|at| node.child(at))
                    .find(|child| child.kind() == "accessibility_modifier");
                match modifier.map(|modifier| self.text_of(modifier).into_owned()).as_deref() {
                    Some("private") => Visibility::Private,
                    Some("protected") => Visibility::Protected,
                    Some(_) => Visibility::Public,
                    None if parent.in_class || frame.exported || parent.exported => Visibility::Public,
                    None if name.starts_with("exports.") || name.starts_with("module.exports") => {
                        Visibility::Public
                    }
                    None => Visibility::Package,
                }
            }
        }
    }

    /// Symbols as facts, with what the export lists of the file say.
    pub(super) fn finish_symbols(&mut self) -> Vec<Symbol> {
        let exports: HashSet<String> =
            self.exports.iter().map(|(start, end)| self.plain(*start, *end)).collect();
        let python = self.language == Language::Python;
        let builders = std::mem::take(&mut self.symbols);
        builders
            .into_iter()
            .map(|builder| {
                let mut symbol = builder.symbol;
                if symbol.depth == 1 && !exports.is_empty() {
                    match exports.contains(&builder.simple_name) {
                        true => symbol.visibility = Visibility::Public,
                        false if python && symbol.visibility == Visibility::Public => {
                            symbol.visibility = Visibility::Package;
                        }
                        false => {}
                    }
                }
                if let Some((start, end)) = builder.doc {
                    let source = String::from_utf8_lossy(self.bytes(start as usize, end as usize));
                    symbol.doc = text::documentation(&source).into();
                }
                symbol
            })
            .collect()
    }
}
