//! Takes what is sensitive out of what callers are shown, on the JSON text itself: all else stays as it is.

use std::collections::BTreeSet;

use serde_json::value::RawValue;

use crate::base::limits::{MAX_JSON_DEPTH, SECRET_BYTES};
use crate::config::Bridge;
use crate::rpc::message::quote;
use crate::rpc::object::{Change, Object};

/// What stands where a secret was.
const HIDDEN: &str = "[secret]";

/// A tool's description without its sensitive parameters: neither among the properties of its input nor required.
pub(super) fn description(json: &str, settings: &Bridge) -> String {
    if !mentions(json, &settings.sensitive) {
        return json.to_owned();
    }
    let Ok(tool) = Object::parse(json) else { return json.to_owned() };
    tool.with(|key, value| match (key, Object::parse(value.get())) {
        ("inputSchema", Ok(schema)) => {
            Change::Set(schema.with(|key, value| match (key, Object::parse(value.get())) {
                ("properties", Ok(properties)) => {
                    Change::Set(properties.with(|name, _| match settings.is_sensitive(name) {
                        true => Change::Drop,
                        false => Change::Keep,
                    }))
                }
                ("required", _) => match serde_json::from_str::<Vec<String>>(value.get()) {
                    Ok(names) => {
                        let names: Vec<String> = names
                            .iter()
                            .filter(|name| !settings.is_sensitive(name))
                            .map(|name| quote(name))
                            .collect();
                        Change::Set(format!("[{}]", names.join(",")))
                    }
                    Err(_) => Change::Keep,
                },
                _ => Change::Keep,
            }))
        }
        _ => Change::Keep,
    })
}

/// A result without members of sensitive names, at any depth and in texts that are JSON themselves, and without the
/// secrets wherever they are.
pub(super) fn result(json: &str, settings: &Bridge, secrets: &BTreeSet<String>) -> String {
    let without = match mentions(json, &settings.sensitive) {
        true => members(json, settings, 0),
        false => json.to_owned(),
    };
    masked(without, secrets)
}

/// A text for people without the secrets.
pub(super) fn text(text: &str, secrets: &BTreeSet<String>) -> String {
    masked(text.to_owned(), secrets)
}

/// Addresses are no secrets by themselves: results hold links below them.
fn masked(mut text: String, secrets: &BTreeSet<String>) -> String {
    for secret in secrets.iter().filter(|secret| secret.len() >= SECRET_BYTES && !secret.contains("://")) {
        let quoted = quote(secret);
        let escaped = quoted.trim_matches('"');
        for form in [secret.as_str(), escaped] {
            if text.contains(form) {
                text = text.replace(form, HIDDEN);
            }
        }
    }
    text
}

fn mentions(json: &str, names: &[String]) -> bool {
    // A name may be written with escapes: rare, and then everything is looked at.
    json.contains("\\u") || names.iter().any(|name| json.contains(name.as_str()))
}

fn members(json: &str, settings: &Bridge, depth: usize) -> String {
    let trimmed = json.trim_start();
    match trimmed.as_bytes().first() {
        // Nobody nests so deep; what does is not shown.
        Some(b'{' | b'[') if depth >= MAX_JSON_DEPTH => "null".to_owned(),
        Some(b'{') => match Object::parse(json) {
            Ok(object) => object.with(|name, value| match settings.is_sensitive(name) {
                true => Change::Drop,
                false if mentions(value.get(), &settings.sensitive) => {
                    Change::Set(members(value.get(), settings, depth + 1))
                }
                false => Change::Keep,
            }),
            Err(_) => json.to_owned(),
        },
        Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(json) {
            Ok(items) => {
                let items: Vec<String> =
                    items.iter().map(|item| members(item.get(), settings, depth + 1)).collect();
                format!("[{}]", items.join(","))
            }
            Err(_) => json.to_owned(),
        },
        Some(b'"') => match serde_json::from_str::<String>(json) {
            Ok(inner)
                if inner.trim_start().starts_with(['{', '[']) && mentions(&inner, &settings.sensitive) =>
            {
                match serde_json::from_str::<&RawValue>(&inner) {
                    Ok(_) => quote(&members(&inner, settings, depth + 1)),
                    Err(_) => json.to_owned(),
                }
            }
            _ => json.to_owned(),
        },
        _ => json.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_loses_its_sensitive_parameters_and_nothing_else() {
        let tool = r#"{"name":"a","x":1e400,"inputSchema":{"type":"object","properties":{"apiUrl":{"type":"string"},"q":{"const":12345678901234567890123}},"required":["q","apiUrl"],"additionalProperties":false},"description":"wants apiUrl"}"#;
        assert_eq!(
            description(tool, &Bridge::default()),
            r#"{"name":"a","x":1e400,"inputSchema":{"type":"object","properties":{"q":{"const":12345678901234567890123}},"required":["q"],"additionalProperties":false},"description":"wants apiUrl"}"#
        );
        let other = r#"{"name": "a", "inputSchema": {"properties": 3, "required": "apiUrl"}}"#;
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&description(other, &Bridge::default())).unwrap(),
            serde_json::from_str::<serde_json::Value>(other).unwrap()
        );
    }

    #[test]
    fn a_result_loses_sensitive_members_and_secrets_wherever_they_are() {
        let secrets = BTreeSet::from(
            ["aaaa.bbbb.cccc", "https://api.example", "short", "line\nbreak\"x"].map(str::to_owned),
        );
        let strip = |json: &str| result(json, &Bridge::default(), &secrets);
        assert_eq!(strip(r#"{"jwtToken":"x","a":[{"apiUrl":1,"b":1.10}]}"#), r#"{"a":[{"b":1.10}]}"#);
        assert_eq!(strip(r#"{"jwt\u0054oken":"x","b":2}"#), r#"{"b":2}"#);
        assert_eq!(strip(r#"{"text":"{\"jwtToken\":\"x\",\"n\":1}"}"#), r#"{"text":"{\"n\":1}"}"#);
        assert_eq!(
            strip(r#"{"t":"Bearer aaaa.bbbb.cccc of https://api.example/d, short"}"#),
            r#"{"t":"Bearer [secret] of https://api.example/d, short"}"#
        );
        assert_eq!(strip(r#"{"t":"line\nbreak\"x"}"#), r#"{"t":"[secret]"}"#);
        assert_eq!(strip("[1, 2]"), "[1, 2]");
        assert_eq!(text("no aaaa.bbbb.cccc here", &secrets), "no [secret] here");
        let deep = format!("{}\"apiUrl\"{}", "[".repeat(200), "]".repeat(200));
        assert!(!strip(&deep).contains("apiUrl"));
    }
}
