//! JSON Schemas of tools, compiled: the one place of the library that does it.
//!
//! A schema comes from a server that may be anybody's. What it refers to is looked for in itself alone; patterns and the
//! work for one value are bounded; a schema that does not compile, or would take too much, is not enforced. Formats are
//! notes to people, as 2020-12 has them by default.

mod bounds;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use self::bounds::Bounds;
use crate::base::limits::{SCHEMA_BYTES, SCHEMA_FAULT_BYTES, SCHEMA_FAULTS, SCHEMA_PATTERN_STEPS};

/// The most that a compiled pattern may take, bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// A schema that values can be held against.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    bounds: Bounds,
}

/// What a value should be and is not: places and wishes, never what stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit(pub String);

impl Schema {
    /// Compiles the JSON text of a schema: 2020-12, or draft-07 (or an older one) where `$schema` says so.
    ///
    /// # Errors
    /// Why it cannot be enforced.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.len() > SCHEMA_BYTES {
            return Err(format!("it has {} bytes; schemas of up to {SCHEMA_BYTES} are enforced", text.len()));
        }
        let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let bounds = Bounds::of(&schema)?;
        let patterns = PatternOptions::fancy_regex()
            .backtrack_limit(SCHEMA_PATTERN_STEPS)
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES);
        let mut options =
            jsonschema::options().with_pattern_options(patterns).should_validate_formats(false).offline();
        if schema.get("$schema").is_none() {
            options = options.with_draft(Draft::Draft202012);
        }
        let validator = options
            .build(&schema)
            .map_err(|error| shortened(&format!("{}: {}", error.instance_path().as_str(), error.masked())))?;
        Ok(Self { validator, bounds })
    }

    /// Holds a value against it. A value that would take too long to judge fits.
    ///
    /// # Errors
    /// What does not fit, and where.
    pub fn check(&self, value: &Value) -> Result<(), Misfit> {
        if !self.bounds.allow(value) || self.validator.is_valid(value) {
            return Ok(());
        }
        let mut faults = Vec::new();
        for error in self.validator.iter_errors(value) {
            // A pattern that takes too long says nothing about the value.
            if matches!(
                error.kind(),
                ValidationErrorKind::BacktrackLimitExceeded { .. }
                    | ValidationErrorKind::RegexEngineFailure { .. }
            ) {
                continue;
            }
            if faults.len() == SCHEMA_FAULTS {
                faults.push("and more".to_owned());
                break;
            }
            let path = error.instance_path().as_str();
            let place = if path.is_empty() { "at the top" } else { path };
            faults.push(shortened(&format!("{place}: {}", error.masked())));
        }
        if faults.is_empty() { Ok(()) } else { Err(Misfit(faults.join("; "))) }
    }
}

/// A text of a bounded length: schemas may hold long ones.
fn shortened(text: &str) -> String {
    if text.len() <= SCHEMA_FAULT_BYTES {
        return text.to_owned();
    }
    let mut end = SCHEMA_FAULT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(value: &Value) -> Schema {
        Schema::compile(&value.to_string()).unwrap()
    }

    fn misfit(schema: &Schema, value: &Value) -> String {
        schema.check(value).unwrap_err().0
    }

    #[test]
    fn a_misfit_names_the_place_and_the_wish_and_never_the_value() {
        let schema = schema(&json!({
            "type": "object",
            "properties": {
                "n": { "type": "integer", "minimum": 3 },
                "mode": { "enum": ["fast", "slow"] },
                "list": { "type": "array", "items": { "type": "string", "pattern": "^a" } },
                "either": { "anyOf": [{ "type": "integer" }, { "const": "x" }] },
            },
            "required": ["n"],
            "additionalProperties": false,
        }));
        assert_eq!(schema.check(&json!({ "n": 3, "mode": "fast", "list": ["a"], "either": "x" })), Ok(()));
        let secret = "s3cr3t-value";
        let told = misfit(
            &schema,
            &json!({ "n": secret, "mode": secret, "list": [secret], "either": secret, "extra": secret }),
        );
        for wanted in ["/n: ", "integer", "/mode: ", "\"fast\"", "/list/0: ", "^a", "extra", "/either"] {
            assert!(told.contains(wanted), "{wanted} in {told}");
        }
        assert!(!told.contains(secret), "{told}");
        assert!(misfit(&schema, &json!({})).contains("\"n\" is a required property"));
    }

    #[test]
    fn many_faults_and_long_ones_are_cut() {
        let schema = schema(&json!({ "items": { "enum": ["x".repeat(100_000)] } }));
        let told = misfit(&schema, &json!(vec![1; 1_000]));
        assert!(told.len() < (SCHEMA_FAULTS + 1) * (SCHEMA_FAULT_BYTES + 40), "{}", told.len());
        assert!(told.ends_with("; and more"), "{told}");
    }

    #[test]
    fn the_dialect_is_the_newest_unless_the_schema_names_another() {
        // `prefixItems` is of 2020-12; draft-07 has lists under `items`.
        let newest = schema(&json!({ "prefixItems": [{ "type": "integer" }] }));
        assert!(newest.check(&json!(["x"])).is_err());
        let older = schema(&json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "items": [{ "type": "integer" }],
            "prefixItems": [{ "type": "string" }],
        }));
        assert_eq!(older.check(&json!([1])), Ok(()));
        assert!(older.check(&json!(["x"])).is_err());
    }

    #[test]
    fn what_cannot_be_enforced_says_why() {
        for (odd, why) in [
            (json!({ "type": "nonsense" }), "/type: "),
            (json!({ "$ref": "https://example.com/schema.json" }), "refers to"),
            (json!({ "$ref": "file:///etc/passwd" }), "refers to"),
            (json!({ "pattern": "(" }), "regex"),
            (json!({ "$ref": "#" }), "itself"),
            (
                json!({ "allOf": [{ "$ref": "#/$defs/a" }], "$defs": { "a": { "not": { "$ref": "#" } } } }),
                "itself",
            ),
            (json!({ "$schema": "https://example.com/dialect" }), "example.com"),
        ] {
            let told = Schema::compile(&odd.to_string()).unwrap_err();
            assert!(told.contains(why), "{odd}: {told}");
        }
        assert!(Schema::compile(&format!("{{\"x\":\"{}\"}}", "y".repeat(SCHEMA_BYTES))).is_err());
        assert!(Schema::compile("{").is_err());
    }

    #[test]
    fn formats_are_notes() {
        let noted = schema(&json!({ "$schema": "http://json-schema.org/draft-07/schema#", "format": "uri" }));
        assert_eq!(noted.check(&json!("no uri")), Ok(()));
    }

    #[test]
    fn a_schema_whose_work_grows_with_the_depth_judges_shallow_values_only() {
        let doubling = schema(&json!({
            "allOf": [{ "items": { "$ref": "#" } }, { "items": { "$ref": "#" } }],
            "type": "array",
        }));
        let nested = |depth: usize, core: Value| (0..depth).fold(core, |value, _| json!([value]));
        assert!(doubling.check(&nested(3, json!(1))).is_err());
        assert_eq!(doubling.check(&nested(100, json!(1))), Ok(()), "not judged");
        let tree = schema(&json!({
            "type": "object",
            "properties": { "left": { "$ref": "#" }, "right": { "$ref": "#" } },
        }));
        let deep = (0..100).fold(json!(1), |value, _| json!({ "left": value }));
        assert!(tree.check(&deep).is_err(), "an ordinary tree is judged at any depth");
    }
}
