//! Shaping answers for the peer's revision, on the JSON text itself so that no field is lost.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::revision::Revision;
use crate::rpc::object::Object;

/// What a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// `tools/list`
    Tool,
    /// `prompts/list`
    Prompt,
    /// `resources/list` and `resources/templates/list`
    Resource,
}

/// Whether a revision has a field of a list's element. Fields that no revision defines belong to the hosted server, and
/// every client may see them.
///
/// Source: the `Tool`, `Prompt`, `Resource` and `ResourceTemplate` of each revision's schema.
#[must_use]
pub fn has_field(listed: Listed, field: &str, revision: Revision) -> bool {
    use Revision::{V2025_03_26, V2025_06_18, V2025_11_25};
    match (listed, field) {
        (Listed::Tool, "annotations") => revision >= V2025_03_26,
        (Listed::Tool, "outputSchema") => revision >= V2025_06_18,
        (Listed::Tool, "execution") => revision == V2025_11_25,
        (_, "title" | "_meta") => revision >= V2025_06_18,
        (_, "icons") => revision >= V2025_11_25,
        _ => true,
    }
}

/// Whether an `outputSchema` may be listed: before 2026-07-28 it describes an object and says so.
#[must_use]
pub fn is_output_schema(schema: &RawValue, revision: Revision) -> bool {
    #[derive(Deserialize)]
    struct Schema<'a> {
        #[serde(borrow, rename = "type")]
        kind: Option<&'a RawValue>,
    }
    revision == Revision::MODERN
        || serde_json::from_str::<Schema<'_>>(schema.get())
            .is_ok_and(|schema| schema.kind.is_some_and(|kind| kind.get() == "\"object\""))
}

/// The form in which a revision without it can carry a block of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// The revision has it.
    AsItIs,
    /// `audio` (since 2025-03-26) as an embedded resource with the same bytes.
    EmbeddedAudio,
    /// `resource_link` (since 2025-06-18) as a text that names it.
    LinkText,
}

/// How a block of content of this `type` is carried.
#[must_use]
pub fn block(kind: &str, revision: Revision) -> Block {
    match kind {
        "audio" if revision < Revision::V2025_03_26 => Block::EmbeddedAudio,
        "resource_link" if revision < Revision::V2025_06_18 => Block::LinkText,
        _ => Block::AsItIs,
    }
}

/// Whether a result may have this `structuredContent`: before 2026-07-28 it is an object.
#[must_use]
pub fn is_structured_content(value: &RawValue, revision: Revision) -> bool {
    revision == Revision::MODERN || value.get().starts_with('{')
}

/// Key in a result's `_meta` (2026-07-28): who made it.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// `io.modelcontextprotocol/serverInfo` and the `serverInfo` of `initialize`.
#[must_use]
pub fn server_info() -> &'static str {
    concat!("{\"name\":\"outlast\",\"title\":\"Outlast\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}")
}

/// A result as 2026-07-28 wants it: with `resultType` (`complete` unless it says otherwise) and the server's name in
/// `_meta`. A result that is not an object is an error of the tool, and is left for the client to refuse.
#[must_use]
pub fn modern_result(result: &str) -> String {
    let Some(rest) = result.trim_start().strip_prefix('{') else { return result.to_owned() };
    let may_have = |key: &str| result.contains(key);
    let (has_type, has_meta) = if may_have("resultType") || may_have("_meta") {
        // Its keys are not decoded, so that one that is no text keeps nobody from an answer.
        match Object::parse(result) {
            Ok(top) => (top.get("resultType").is_some(), top.get("_meta").is_some()),
            Err(_) => return result.to_owned(),
        }
    } else {
        (false, false)
    };
    let mut text = String::with_capacity(result.len() + 160);
    text.push('{');
    if !has_type {
        text.push_str("\"resultType\":\"complete\",");
    }
    if !has_meta {
        text.push_str("\"_meta\":{\"");
        text.push_str(SERVER_INFO);
        text.push_str("\":");
        text.push_str(server_info());
        text.push_str("},");
    }
    if rest.trim_start().starts_with('}') {
        text.pop();
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modern_result_gains_what_it_lacks_and_keeps_the_rest() {
        for (given, has_type) in [
            ("{}", "complete"),
            (" { } ", "complete"),
            (r#"{"content":[],"big":12345678901234567890123}"#, "complete"),
            (r#"{"resultType":"input_required","x":1}"#, "input_required"),
            (r#"{"content":[{"text":"resultType _meta"}]}"#, "complete"),
            (r#"{"x":1,"x":"resultType"}"#, "complete"),
        ] {
            let made = modern_result(given);
            let value: serde_json::Value = serde_json::from_str(&made).unwrap();
            assert_eq!(value["resultType"], has_type, "{made}");
            assert_eq!(value["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "outlast", "{made}");
        }
        assert!(modern_result(r#"{"big":12345678901234567890123}"#).contains("12345678901234567890123"));
        // A key that is no text is the server's business.
        assert!(modern_result(r#"{"\ud800":"resultType"}"#).starts_with("{\"resultType\":\"complete\""));
        let own = modern_result(r#"{"_meta":{"a":1}}"#);
        assert_eq!(own, r#"{"resultType":"complete","_meta":{"a":1}}"#);
    }
}
