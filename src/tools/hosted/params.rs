//! What is changed in the parameters of a request on its way to a hosted server: a few members, everything else is passed
//! on as the text it was.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use crate::rpc::message::quote;
use crate::rpc::object::{Change, Object};

/// Keys of `_meta` that belong to the envelope of 2026-07-28: they speak about the connection between the client and
/// this server, and a hosted server must not take them for its own.
const ENVELOPE: &str = "io.modelcontextprotocol/";

/// What a hosted server is asked to do.
#[derive(Clone, Copy, Debug)]
pub(in crate::tools) struct Errand<'a> {
    pub(in crate::tools) method: &'static str,
    pub(in crate::tools) name: OwnName<'a>,
}

/// Where its own name of what it is asked for stands.
#[derive(Clone, Copy, Debug)]
pub(in crate::tools) enum OwnName<'a> {
    /// In `params.name`.
    Member(&'a str),
    /// In `params.ref.name`.
    Reference(&'a str),
    /// Nowhere.
    None,
}

impl<'a> Errand<'a> {
    /// To read a resource.
    pub(in crate::tools) const READ: Self = Self { method: "resources/read", name: OwnName::None };

    /// To run a tool.
    pub(in crate::tools) fn tool(name: &'a str) -> Self {
        Self { method: "tools/call", name: OwnName::Member(name) }
    }

    /// To fill in a prompt.
    pub(in crate::tools) fn prompt(name: &'a str) -> Self {
        Self { method: "prompts/get", name: OwnName::Member(name) }
    }

    /// To complete an argument, of this prompt if it is one's.
    pub(in crate::tools) fn completion(prompt: Option<&'a str>) -> Self {
        Self { method: "completion/complete", name: prompt.map_or(OwnName::None, OwnName::Reference) }
    }

    /// The tool, if it is to run one.
    pub(in crate::tools) fn of_tool(&self) -> Option<&'a str> {
        match (self.method, self.name) {
            ("tools/call", OwnName::Member(tool)) => Some(tool),
            _ => None,
        }
    }

    /// What to do after it has failed and may have been carried out. `retry_safe`: doing it twice does no harm.
    pub(in crate::tools) fn advice(&self, retry_safe: bool) -> &'static str {
        match (retry_safe, self.method) {
            (true, "tools/call") => "The tool says that calling it again does no harm.",
            (true, _) => "It is safe to ask again.",
            (false, _) => "The call may have been carried out in part; check before calling again.",
        }
    }

    /// Under which name it is remembered whether it asks: one for each tool and each prompt, one for all resources, one
    /// for all completions.
    pub(in crate::tools) fn habit(&self) -> Cow<'_, str> {
        match (self.method, self.name) {
            ("tools/call", OwnName::Member(tool)) => Cow::Borrowed(tool),
            // No tool has a name with a slash: the registry leaves such a tool out.
            (method, OwnName::Member(name)) => Cow::Owned(format!("{method} {name}")),
            (method, OwnName::Reference(_) | OwnName::None) => Cow::Borrowed(method),
        }
    }
}

impl fmt::Display for Errand<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.method, self.name) {
            ("tools/call", OwnName::Member(tool)) => write!(to, "{tool:?}"),
            (method, OwnName::Member(name) | OwnName::Reference(name)) => write!(to, "{method} of {name:?}"),
            (method, OwnName::None) => to.write_str(method),
        }
    }
}

/// Parameters for a hosted server: its own name, our progress token for the caller's, no envelope.
pub(in crate::tools) fn for_server(
    params: &RawValue,
    name: OwnName<'_>,
    progress_token: Option<u64>,
) -> Option<String> {
    let params = Object::parse(params.get()).ok()?;
    Some(params.with(|key, value| match key {
        "name" if let OwnName::Member(name) = name => Change::Set(quote(name)),
        "ref" if let OwnName::Reference(name) = name => match Object::parse(value.get()) {
            Ok(reference) => Change::Set(reference.with(|key, _| match key {
                "name" => Change::Set(quote(name)),
                _ => Change::Keep,
            })),
            Err(_) => Change::Keep,
        },
        // The rounds between the client and this server are not those between this server and the hosted one.
        "inputResponses" | "requestState" => Change::Drop,
        "_meta" => match Object::parse(value.get()) {
            Ok(meta) => {
                let rest = meta.with(|key, _| match (key, progress_token) {
                    ("progressToken", Some(token)) => Change::Set(token.to_string()),
                    ("progressToken", None) => Change::Drop,
                    (key, _) if key.starts_with(ENVELOPE) => Change::Drop,
                    _ => Change::Keep,
                });
                // Of an envelope nothing is left.
                match rest == "{}" && value.get() != "{}" {
                    true => Change::Drop,
                    false => Change::Set(rest),
                }
            }
            Err(_) => Change::Keep,
        },
        _ => Change::Keep,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::answer::raw;

    fn sent(params: &str, token: Option<u64>) -> String {
        for_server(&raw(params.into()), OwnName::Member("own"), token).unwrap()
    }

    #[test]
    fn the_name_and_the_token_are_replaced_and_the_rest_stays() {
        let params = r#"{"arguments":{"n":123456789012345678901234567890,"name":"x"},"name":"a__own","task":{"ttl":1},"_meta":{"progressToken":"abc","x/y":1.0},"inputResponses":{},"requestState":"s"}"#;
        assert_eq!(
            sent(params, Some(7)),
            r#"{"arguments":{"n":123456789012345678901234567890,"name":"x"},"name":"own","task":{"ttl":1},"_meta":{"progressToken":7,"x/y":1.0}}"#
        );
    }

    #[test]
    fn the_envelope_of_the_stateless_revision_goes() {
        let params = r#"{"name":"own","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"traceparent":"00-1"}}"#;
        assert_eq!(sent(params, None), r#"{"name":"own","_meta":{"traceparent":"00-1"}}"#);
    }

    #[test]
    fn the_prompt_of_a_completion_gets_its_own_name_and_a_resource_keeps_its_uri() {
        let complete =
            r#"{"ref":{"type":"ref/prompt","name":"a__p","x":1e400},"argument":{"name":"n","value":"v"}}"#;
        assert_eq!(
            for_server(&raw(complete.into()), OwnName::Reference("p"), None).unwrap(),
            r#"{"ref":{"type":"ref/prompt","name":"p","x":1e400},"argument":{"name":"n","value":"v"}}"#
        );
        let read = r#"{"uri":"x://y","name":"kept"}"#;
        assert_eq!(for_server(&raw(read.into()), OwnName::None, None).unwrap(), read);
    }

    #[test]
    fn tools_and_prompts_of_one_name_are_told_apart() {
        let habit = |method, name| Errand { method, name }.habit().into_owned();
        let all = [
            habit("tools/call", OwnName::Member("a")),
            habit("prompts/get", OwnName::Member("a")),
            habit("prompts/get", OwnName::Member("b")),
            habit("resources/read", OwnName::None),
            habit("completion/complete", OwnName::Reference("a")),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{one}");
        }
        assert_eq!(all[4], habit("completion/complete", OwnName::None));
    }
}
