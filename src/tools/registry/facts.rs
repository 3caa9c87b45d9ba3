//! What is known of a tool beside its description: its version, the tools that it needs, what it is for.
//!
//! A tool says it in its `_meta`, its server's configuration says it better. Clients find both in `_meta`.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::Registered;
use crate::config::ToolFacts;
use crate::rpc::message::quote;
use crate::rpc::object::{Object, with_member};
use crate::tools::answer::raw;

/// Key in a tool's `_meta`: its version.
const VERSION: &str = "outlast/version";
/// Key in a tool's `_meta`: tools that it is of no use without.
const NEEDS: &str = "outlast/needs";
/// Key in a tool's `_meta`: what it is for.
const INTENTS: &str = "outlast/intents";

/// What is known of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Facts {
    /// Its version; empty: not known.
    pub version: String,
    /// Tools, by their public names, without which it is not listed.
    pub needs: Vec<String>,
    /// What it is for.
    pub intents: Vec<String>,
}

impl Facts {
    /// Of a tool with this description; `configured` goes over it.
    pub(super) fn of(json: &RawValue, configured: Option<&ToolFacts>) -> Self {
        let meta = Object::parse(json.get()).ok().and_then(|tool| tool.get("_meta"));
        let meta = meta.and_then(|meta| Object::parse(meta.get()).ok());
        let said = |key: &str| meta.as_ref().and_then(|meta| meta.get(key));
        let none = ToolFacts::default();
        let configured = configured.unwrap_or(&none);
        let or = |own: &Vec<String>, key| match own.is_empty() {
            true => read(said(key)),
            false => own.clone(),
        };
        Self {
            version: match configured.version.is_empty() {
                true => read(said(VERSION)),
                false => configured.version.clone(),
            },
            needs: or(&configured.needs, NEEDS),
            intents: or(&configured.intents, INTENTS),
        }
    }
}

/// What a member of `_meta` says; nothing, where it is of another kind: it may be somebody else's.
fn read<T: DeserializeOwned + Default>(said: Option<&RawValue>) -> T {
    said.and_then(|said| serde_json::from_str(said.get()).ok()).unwrap_or_default()
}

/// A description with what the configuration says of the tool in its `_meta`.
pub(super) fn described(json: &RawValue, configured: &ToolFacts) -> Option<Box<RawValue>> {
    let texts = |texts: &[String]| {
        let quoted: Vec<String> = texts.iter().map(|text| quote(text)).collect();
        format!("[{}]", quoted.join(","))
    };
    let mut members = Vec::new();
    if !configured.version.is_empty() {
        members.push((VERSION, quote(&configured.version)));
    }
    if !configured.needs.is_empty() {
        members.push((NEEDS, texts(&configured.needs)));
    }
    if !configured.intents.is_empty() {
        members.push((INTENTS, texts(&configured.intents)));
    }
    if members.is_empty() {
        return None;
    }
    let tool = Object::parse(json.get()).ok()?;
    let meta = tool.get("_meta").map_or("{}", RawValue::get);
    // One that is no object says nothing.
    let mut meta = if meta.starts_with('{') { meta.to_owned() } else { "{}".to_owned() };
    for (key, value) in members {
        meta = with_member(&meta, key, &value)?;
    }
    Some(raw(with_member(json.get(), "_meta", &meta)?))
}

/// Leaves tools out whose needs are not there, and those that need them.
pub(super) fn settle(mut tools: Vec<Registered>) -> Vec<Registered> {
    if tools.iter().all(|tool| tool.facts.needs.is_empty()) {
        return tools;
    }
    loop {
        let names: HashSet<String> = tools.iter().map(|it| it.tool.name.clone()).collect();
        let before = tools.len();
        tools.retain(|it| {
            let missing = it.facts.needs.iter().find(|need| !names.contains(*need));
            if let Some(missing) = missing {
                tracing::warn!(
                    server = it.host.name(),
                    tool = it.tool.name,
                    "a tool is left out: it needs {missing:?}, which is not there"
                );
            }
            missing.is_none()
        });
        if tools.len() == before {
            return tools;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_goes_over_what_a_tool_says_and_nothing_else_changes() {
        let tool = raw(
            r#"{"name":"t","n":1e400,"_meta":{"x/y":1.0,"outlast/version":"0","outlast/intents":["read"]}}"#
                .into(),
        );
        assert_eq!(
            Facts::of(&tool, None),
            Facts { version: "0".into(), needs: vec![], intents: vec!["read".into()] }
        );
        let configured =
            ToolFacts { version: "2".into(), needs: vec!["a__b".into()], ..ToolFacts::default() };
        let facts = Facts::of(&tool, Some(&configured));
        assert_eq!((facts.version.as_str(), facts.intents.len()), ("2", 1));
        assert_eq!(
            described(&tool, &configured).unwrap().get(),
            r#"{"name":"t","n":1e400,"_meta":{"x/y":1.0,"outlast/version":"2","outlast/intents":["read"],"outlast/needs":["a__b"]}}"#
        );
        let bare = raw(r#"{"name":"t"}"#.into());
        assert_eq!(
            described(&bare, &configured).unwrap().get(),
            r#"{"name":"t","_meta":{"outlast/version":"2","outlast/needs":["a__b"]}}"#
        );
        assert!(described(&bare, &ToolFacts::default()).is_none());
        assert_eq!(
            Facts::of(&raw(r#"{"_meta":{"outlast/needs":"x","outlast/version":7}}"#.into()), None),
            Facts::default()
        );
    }
}
