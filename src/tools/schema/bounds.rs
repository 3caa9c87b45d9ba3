//! How much work a schema may make for one value.
//!
//! A schema can apply others *in place*, to the same value (`allOf`, `$ref`, …), and to the parts of it. One that applies
//! itself in place never ends; one that applies two of its kind to the same part doubles the work with each level of
//! nesting. Both are found before anything is compiled.

use std::collections::HashMap;

use serde_json::Value;

use crate::base::limits::{SCHEMA_CHAIN, SCHEMA_STEPS};

/// Keywords whose schemas apply to the same value: one, a list, or by names.
const IN_PLACE: &[&str] =
    &["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"];
/// Keywords whose schemas apply to parts.
const PARTS: &[&str] = &[
    "properties",
    "patternProperties",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
];
/// Keywords that lead out of what can be followed here.
const DYNAMIC: &[&str] = &["$dynamicRef", "$recursiveRef"];

/// How the work for a value grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Steps for one value without its parts, at most.
    steps: u64,
    /// How many of them go on into the same part, at most.
    width: u64,
}

impl Bounds {
    /// Of a schema.
    ///
    /// # Errors
    /// Why it is not to be compiled.
    pub(super) fn of(root: &Value) -> Result<Self, String> {
        let mut walk = Walk { root, known: HashMap::new(), chain: 0, most: Self { steps: 1, width: 1 } };
        walk.everywhere(root)?;
        if walk.most.steps > SCHEMA_STEPS {
            return Err(format!("it takes more than {SCHEMA_STEPS} steps for one value"));
        }
        Ok(walk.most)
    }

    /// Whether this value can be judged in a bounded time.
    pub(super) fn allow(&self, value: &Value) -> bool {
        if self.width <= 1 {
            return true;
        }
        let depth = u32::try_from(depth(value)).unwrap_or(u32::MAX);
        self.width
            .checked_pow(depth)
            .and_then(|ways| ways.checked_mul(self.steps))
            .is_some_and(|steps| steps <= SCHEMA_STEPS)
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

struct Walk<'a> {
    root: &'a Value,
    /// By the place of a schema in memory; none while it is being walked.
    known: HashMap<*const Value, Option<Bounds>>,
    /// Schemas that are being walked, one applied by the other.
    chain: usize,
    most: Bounds,
}

impl<'a> Walk<'a> {
    /// Every schema in `value`, applied or not: what is a schema and what is data looks the same, and data does no harm.
    fn everywhere(&mut self, value: &'a Value) -> Result<(), String> {
        match value {
            Value::Object(members) => {
                let bounds = self.in_place(value)?;
                self.most.steps = self.most.steps.max(bounds.steps);
                self.most.width = self.most.width.max(bounds.width);
                members.values().try_for_each(|member| self.everywhere(member))
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.everywhere(item)),
            _ => Ok(()),
        }
    }

    /// What applying a schema to a value takes, without the parts of the value.
    fn in_place(&mut self, schema: &'a Value) -> Result<Bounds, String> {
        let Value::Object(members) = schema else { return Ok(Bounds { steps: 1, width: 0 }) };
        match self.known.get(&std::ptr::from_ref(schema)) {
            Some(Some(bounds)) => return Ok(*bounds),
            Some(None) => return Err("it applies itself to the same value without end".to_owned()),
            None => {}
        }
        if self.chain >= SCHEMA_CHAIN {
            return Err(format!("more than {SCHEMA_CHAIN} of its schemas apply one another"));
        }
        self.known.insert(schema, None);
        self.chain += 1;
        let parts = PARTS.iter().any(|key| members.contains_key(*key));
        let mut bounds = Bounds { steps: 1, width: u64::from(parts) };
        let mut add = |inner: Bounds| {
            bounds.steps = bounds.steps.saturating_add(inner.steps);
            bounds.width = bounds.width.saturating_add(inner.width);
        };
        for key in IN_PLACE {
            match members.get(*key) {
                None => {}
                Some(Value::Array(all)) => {
                    for one in all {
                        add(self.in_place(one)?);
                    }
                }
                Some(Value::Object(named)) if key.starts_with("depend") => {
                    for one in named.values() {
                        add(self.in_place(one)?);
                    }
                }
                Some(one) => add(self.in_place(one)?),
            }
        }
        if let Some(key) = DYNAMIC.iter().find(|key| members.get(**key).is_some_and(Value::is_string)) {
            return Err(format!("it uses {key}, which is not followed here"));
        }
        if let Some(Value::String(to)) = members.get("$ref") {
            let target = to.strip_prefix('#').filter(|to| to.is_empty() || to.starts_with('/'));
            let Some(target) = target.and_then(|pointer| self.root.pointer(&decoded(pointer))) else {
                return Err(format!("it refers to {to:?}, which is not in it"));
            };
            add(self.in_place(target)?);
        }
        self.chain -= 1;
        self.known.insert(schema, Some(bounds));
        Ok(bounds)
    }
}

/// A JSON pointer as a fragment of a URI has it, without percent signs.
fn decoded(pointer: &str) -> String {
    let mut bytes = Vec::with_capacity(pointer.len());
    let mut rest = pointer.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, code.and_then(|code| u8::from_str_radix(code, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_applies_to_the_same_value_is_counted_through_references() {
        let bounds = |schema: Value| Bounds::of(&schema).unwrap();
        assert_eq!(bounds(json!({ "type": "object" })), Bounds { steps: 1, width: 1 });
        let shared = json!({
            "allOf": [{ "$ref": "#/$defs/a%20b" }, { "$ref": "#/$defs/a%20b" }],
            "$defs": { "a b": { "properties": { "x": {} } } },
        });
        assert_eq!(bounds(shared), Bounds { steps: 5, width: 2 });
        // Thirty doublings are a billion steps.
        let mut chain = json!({ "d0": {} });
        for at in 1..=30 {
            let below = format!("#/$defs/d{}", at - 1);
            chain[format!("d{at}")] = json!({ "allOf": [{ "$ref": below }, { "$ref": below }] });
        }
        assert!(Bounds::of(&json!({ "$ref": "#/$defs/d30", "$defs": chain })).unwrap_err().contains("steps"));
    }

    #[test]
    fn a_property_that_is_called_like_a_keyword_is_no_keyword() {
        let schema = json!({
            "type": "object",
            "properties": { "$ref": { "type": "string" }, "not": { "type": "string" }, "items": { "type": "array" } },
        });
        assert!(Bounds::of(&schema).is_ok());
    }
}
