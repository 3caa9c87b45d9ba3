//! Answers in the form of the client's revision: elements of lists without the fields that it does not have, content that
//! it can carry (`mcp::view` has the rules). What nothing is to be changed of stays the text it was.

use serde_json::value::RawValue;

use crate::mcp::revision::Revision;
use crate::mcp::view::{Block, Listed, block, has_field, is_output_schema, is_structured_content};
use crate::rpc::message::quote;
use crate::rpc::object::{Change, Object};
use crate::tools::answer::raw;

/// An element of a list; what is no object stays as it is.
pub(super) fn element(listed: Listed, json: &str, revision: Revision) -> String {
    let Ok(object) = Object::parse(json) else { return json.to_owned() };
    object.with(|key, value| match key {
        _ if !has_field(listed, key, revision) => Change::Drop,
        "outputSchema" if listed == Listed::Tool && !is_output_schema(value, revision) => Change::Drop,
        "arguments" if listed == Listed::Prompt => Change::Set(arguments(value, revision)),
        _ => Change::Keep,
    })
}

/// A prompt's arguments have titles since 2025-06-18.
fn arguments(all: &RawValue, revision: Revision) -> String {
    let Ok(each) = serde_json::from_str::<Vec<&RawValue>>(all.get()) else { return all.get().to_owned() };
    let each: Vec<String> = each
        .into_iter()
        .map(|argument| match Object::parse(argument.get()) {
            Ok(object) => object.with(|key, _| match key {
                "title" if !has_field(Listed::Prompt, key, revision) => Change::Drop,
                _ => Change::Keep,
            }),
            Err(_) => argument.get().to_owned(),
        })
        .collect();
    format!("[{}]", each.join(","))
}

/// The result of a call, a prompt or a read in a session of this revision.
pub(super) fn result(result: Box<RawValue>, revision: Revision) -> Box<RawValue> {
    let text = result.get();
    // Nearly all results have none of these, and need not be read.
    let has = |word: &str| text.contains(word);
    let structured = has("structuredContent");
    let blocks = revision < Revision::V2025_06_18 && (has("resource_link") || has("audio") || has("\\u"));
    if !structured && !blocks {
        return result;
    }
    let Ok(object) = Object::parse(text) else { return result };
    let mut changed = false;
    let shaped = object.with(|key, value| {
        let change = match key {
            "structuredContent" if !is_structured_content(value, revision) => Change::Drop,
            "content" if blocks => each(value, |item| content(item, revision)),
            "messages" if blocks => each(value, |message| message_of_prompt(message, revision)),
            _ => Change::Keep,
        };
        changed |= !matches!(change, Change::Keep);
        change
    });
    if changed { raw(shaped) } else { result }
}

/// The elements of an array, some of them changed.
fn each(all: &RawValue, change: impl Fn(&RawValue) -> Option<String>) -> Change {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(all.get()) else { return Change::Keep };
    let mut any = false;
    let items: Vec<String> = items
        .into_iter()
        .map(|item| {
            let made = change(item);
            any |= made.is_some();
            made.unwrap_or_else(|| item.get().to_owned())
        })
        .collect();
    if any { Change::Set(format!("[{}]", items.join(","))) } else { Change::Keep }
}

fn message_of_prompt(message: &RawValue, revision: Revision) -> Option<String> {
    let object = Object::parse(message.get()).ok()?;
    let made = content(object.get("content")?, revision)?;
    Some(object.with(|key, _| match key {
        "content" => Change::Set(made.clone()),
        _ => Change::Keep,
    }))
}

/// A block in the form that the revision has for it; none where it can stay.
fn content(item: &RawValue, revision: Revision) -> Option<String> {
    let object = Object::parse(item.get()).ok()?;
    let text = |key: &str| serde_json::from_str::<String>(object.get(key)?.get()).ok();
    let annotations =
        object.get("annotations").map(|value| format!(",\"annotations\":{value}")).unwrap_or_default();
    match block(&text("type")?, revision) {
        Block::AsItIs => None,
        Block::EmbeddedAudio => {
            let (data, kind) =
                (object.get("data")?, object.get("mimeType").map_or("\"audio/*\"", RawValue::get));
            Some(format!(
                "{{\"type\":\"resource\",\"resource\":{{\"uri\":\"outlast:audio\",\"mimeType\":{kind},\"blob\":{data}}}{annotations}}}"
            ))
        }
        Block::LinkText => {
            let uri = text("uri")?;
            let name = text("title").or_else(|| text("name")).filter(|name| *name != uri);
            let mut said = name.map_or_else(|| uri.clone(), |name| format!("{name}: {uri}"));
            if let Some(description) = text("description") {
                said.push_str(&format!(" ({description})"));
            }
            Some(format!("{{\"type\":\"text\",\"text\":{}{annotations}}}", quote(&said)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIG: &str = "123456789012345678901234567890";

    fn fields(json: &str) -> Vec<String> {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    #[test]
    fn an_element_has_the_fields_of_its_revision_and_those_of_nobody() {
        let tool = format!(
            r#"{{"name":"t","title":"T","inputSchema":{{}},"outputSchema":{{"type":"object"}},"annotations":{{}},"icons":[],"execution":{{}},"_meta":{{}},"x":{BIG}}}"#
        );
        let common = ["inputSchema", "name", "x"];
        for (revision, more) in [
            (Revision::V2024_11_05, &[][..]),
            (Revision::V2025_03_26, &["annotations"]),
            (Revision::V2025_06_18, &["annotations", "title", "outputSchema", "_meta"]),
            (Revision::V2025_11_25, &["annotations", "title", "outputSchema", "_meta", "icons", "execution"]),
            (Revision::V2026_07_28, &["annotations", "title", "outputSchema", "_meta", "icons"]),
        ] {
            let mut wanted: Vec<String> = common.iter().chain(more).map(|name| (*name).to_owned()).collect();
            wanted.sort();
            let made = element(Listed::Tool, &tool, revision);
            assert_eq!(fields(&made), wanted, "{revision}");
            assert!(made.contains(BIG));
        }
        let prompt = r#"{"name":"p","title":"P","arguments":[{"name":"a","title":"A","y":1},7]}"#;
        assert_eq!(
            element(Listed::Prompt, prompt, Revision::V2025_03_26),
            r#"{"name":"p","arguments":[{"name":"a","y":1},7]}"#
        );
        assert_eq!(element(Listed::Prompt, prompt, Revision::V2025_06_18), prompt);
        let resource = r#"{"uri":"u","annotations":{},"size":1,"title":"x"}"#;
        assert_eq!(
            element(Listed::Resource, resource, Revision::V2024_11_05),
            r#"{"uri":"u","annotations":{},"size":1}"#
        );
    }

    #[test]
    fn an_output_schema_of_no_object_is_for_the_newest_revision_alone() {
        let tool = r#"{"name":"t","outputSchema":{"type":"array"}}"#;
        assert_eq!(element(Listed::Tool, tool, Revision::V2025_11_25), r#"{"name":"t"}"#);
        assert_eq!(element(Listed::Tool, tool, Revision::V2026_07_28), tool);
    }

    fn shaped(json: &str, revision: Revision) -> String {
        result(raw(json.into()), revision).get().to_owned()
    }

    #[test]
    fn content_that_a_revision_lacks_is_carried_in_a_form_that_it_has() {
        let audio = r#"{"content":[{"type":"audio","data":"AAAA","mimeType":"audio/wav"},{"type":"text","text":"t"}],"n":1.0}"#;
        assert_eq!(
            shaped(audio, Revision::V2024_11_05),
            r#"{"content":[{"type":"resource","resource":{"uri":"outlast:audio","mimeType":"audio/wav","blob":"AAAA"}},{"type":"text","text":"t"}],"n":1.0}"#
        );
        assert_eq!(shaped(audio, Revision::V2025_03_26), audio);
        let link = r#"{"messages":[{"role":"user","content":{"type":"resource_link","uri":"a:b","name":"n","description":"d","annotations":{"priority":1}}}]}"#;
        assert_eq!(
            shaped(link, Revision::V2025_03_26),
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"n: a:b (d)","annotations":{"priority":1}}}]}"#
        );
        assert_eq!(shaped(link, Revision::V2025_06_18), link);
    }

    #[test]
    fn structured_content_is_an_object_in_the_revisions_with_sessions() {
        let list = r#"{"content":[],"structuredContent":[1]}"#;
        assert_eq!(shaped(list, Revision::V2025_11_25), r#"{"content":[]}"#);
        let object = r#"{"content":[],"structuredContent":{"a":1}}"#;
        assert_eq!(shaped(object, Revision::V2025_06_18), object);
    }

    #[test]
    fn what_says_such_words_and_is_none_stays_the_text_it_was() {
        for same in [
            r#"{"content":[{"type":"text","text":"audio resource_link structuredContent \u0061"}]}"#,
            r#"{"content":"audio"}"#,
            r#"["audio"]"#,
            r#"{"content":[{"type":"audio"},{"type":"resource_link"},7]}"#,
        ] {
            assert_eq!(shaped(same, Revision::V2024_11_05), same);
        }
    }
}
