//! What things are called.

use tree_sitter::Node;

use super::{Frame, Walk, small};
use crate::analysis::language::Language;
use crate::analysis::syntax::Class;

/// Longest name that is kept, in bytes; what is longer is no name that anyone types.
const LONGEST_NAME: usize = 200;

impl Walk<'_> {
    /// Notes the name that a function below this node will take from it: `const f = …`, `key: …`, `x.y = …`.
    pub(super) fn hint(&mut self, node: Node<'_>, frame: &mut Frame, parent: &Frame) {
        let name = match frame.class {
            Class::VarDef => node.child_by_field_id(self.fields.name),
            Class::Field => node.child_by_field_name("name").or_else(|| node.child_by_field_name("property")),
            Class::Pair => node.child_by_field_name("key"),
            Class::Assignment => node.child_by_field_name("left"),
            Class::Paren if binds(parent.class) || parent.class == Class::Paren => {
                frame.hint = parent.hint;
                return;
            }
            // Methods of an object literal are qualified by the object's name.
            Class::Object if binds(parent.class) && parent.class != Class::Field => {
                if let Some((start, end)) = parent.hint {
                    let name = self.plain(start, end);
                    frame.scope = self.push_scope(frame.scope, &name);
                }
                return;
            }
            _ => return,
        };
        frame.hint = name.map(|name| (small(name.start_byte()), small(name.end_byte())));
    }

    /// The name of a function-like node.
    pub(super) fn function_name(&self, node: Node<'_>, parent: &Frame) -> String {
        if let Some(name) = node.child_by_field_id(self.fields.name) {
            return self.plain(small(name.start_byte()), small(name.end_byte()));
        }
        match parent.hint {
            Some((start, end)) => self.plain(start, end),
            None if parent.class == Class::Export => "default".into(),
            None => "(anonymous)".into(),
        }
    }

    /// A name as people write it: without quotes and white space.
    pub(super) fn plain(&self, start: u32, end: u32) -> String {
        let text = String::from_utf8_lossy(self.bytes(start as usize, end as usize));
        let mut name: String = text.trim_matches(['"', '\'', '`']).split_whitespace().collect();
        if name.len() > LONGEST_NAME {
            let mut cut = LONGEST_NAME;
            while !name.is_char_boundary(cut) {
                cut -= 1;
            }
            name.truncate(cut);
        }
        name
    }

    /// A name with the scopes around it.
    pub(super) fn qualified(&self, scope: u32, name: &str) -> String {
        match self.scopes.get(scope as usize).map(String::as_str) {
            None | Some("") => name.to_owned(),
            Some(prefix) => format!("{prefix}{}{name}", self.language.separator()),
        }
    }

    /// A scope within a scope. Very deep ones are not told apart: their names would grow without bound.
    pub(super) fn push_scope(&mut self, scope: u32, name: &str) -> u32 {
        let prefix = self.qualified(scope, name);
        if prefix.len() > 4 * LONGEST_NAME {
            return scope;
        }
        self.scopes.push(prefix);
        small(self.scopes.len() - 1)
    }

    /// The type that a Go method or a Rust `impl` belongs to, without pointers and type arguments.
    pub(super) fn owner_type(&self, node: Node<'_>) -> Option<String> {
        let mut kind = match self.language {
            Language::Go => {
                let receiver = node.child_by_field_name("receiver")?;
                receiver.named_child(0)?.child_by_field_name("type")?
            }
            _ => node.child_by_field_name("type")?,
        };
        loop {
            kind = match kind.kind() {
                "pointer_type" if self.language == Language::Go => kind.named_child(0)?,
                "parenthesized_type" => kind.named_child(0)?,
                "generic_type" => kind.child_by_field_name("type")?,
                _ => break,
            };
        }
        Some(self.plain(small(kind.start_byte()), small(kind.end_byte())))
    }
}

/// Whether what stands in this construct takes its name from it.
fn binds(class: Class) -> bool {
    matches!(class, Class::VarDef | Class::Field | Class::Pair | Class::Assignment)
}
