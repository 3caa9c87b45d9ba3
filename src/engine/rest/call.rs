//! `/call-tool`: a `tools/call` whose missing arguments the session's values fill.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::session::Session;
use super::super::{Engine, Inbound, Reply};
use super::values::{of_result, secrets, value};
use super::{Caller, Refused, Values, refused, strip};
use crate::base::seal::{hex, random};
use crate::mcp::era::Envelope;
use crate::mcp::header::Accepts;
use crate::rpc::error::{INTERNAL, INVALID_PARAMS, INVALID_REQUEST, RpcError};
use crate::rpc::message::{Request, quote};
use crate::rpc::object::Object;
use crate::state::doc::Doc;
use crate::store::Lookup;
use crate::tools::answer::{INVALID_ARGUMENTS, raw};
use crate::tools::execute::key::{GIVEN, IDEMPOTENCY_KEY};
use crate::tools::registry::Registered;

/// What came of a call, without anything sensitive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// What the tool says, as JSON text: the JSON that its first text is, else its structured content; none: its first
    /// text is no JSON, or it has none.
    pub json: Option<String>,
    /// Its first text, where that is no JSON.
    pub text: Option<String>,
    /// `content` of the result, JSON text.
    pub content: String,
    /// `structuredContent` of the result, JSON text.
    pub structured: Option<String>,
    /// The tool says that it failed.
    pub is_error: bool,
    /// Names of values that did not fit into the session.
    pub not_kept: Vec<String>,
}

/// A call, as its caller wants it.
pub(super) struct Wanted {
    pub(super) tool: String,
    pub(super) arguments: Values,
    /// Its idempotency key.
    pub(super) key: Option<String>,
}

/// A session takes part in a call.
struct Held {
    session: Arc<Session>,
    doc: Arc<Doc>,
}

impl Engine {
    pub(super) async fn rest_call(
        self: &Arc<Self>,
        caller: &Caller,
        session: Option<Arc<Session>>,
        wanted: Wanted,
    ) -> Result<Called, Refused> {
        let tool = &wanted.tool;
        let Some(target) = self.find_tool(tool).await else {
            let shown: String = tool.chars().take(128).collect();
            return Err(Refused::NoTool(format!("no tool {shown:?}: /tools names those there are")));
        };
        let Some(session) = session else {
            // It ends with its connection, as requests that stand alone do.
            return self.call_without_session(caller, &wanted).await;
        };
        let doc = match self.store.load(session.claims.key).await {
            Ok(Lookup::Live(doc)) => doc,
            Ok(Lookup::Terminated | Lookup::Unknown) => return Err(Refused::NoSession),
            Err(error) => return Err(refused(&error)),
        };
        // What it comes to is kept though the caller goes away.
        let (engine, caller) = (Arc::clone(self), caller.clone());
        let held = Held { session, doc };
        let running = self.tasks.spawn(async move { engine.call_held(caller, held, target, wanted).await });
        running.await.unwrap_or_else(|_| Err(Refused::Failed("the call was given up".into())))
    }

    async fn call_held(
        self: Arc<Self>,
        caller: Caller,
        held: Held,
        target: Registered,
        wanted: Wanted,
    ) -> Result<Called, Refused> {
        let settings = &self.rest.settings;
        let Held { session, doc } = held;
        let Wanted { arguments: given, key, .. } = wanted;
        // A call made again is the same call although the session has other values by then.
        let key = key.map(|key| (key, given.digest()));
        let mut hidden = secrets(settings, &doc);
        hidden.extend(given_secrets(&given, |name| settings.is_sensitive(name)));
        let arguments = fill(&target, given, |name| value(settings, &doc, name).filter(|json| is_some(json)));
        let mut inputs = arguments.clone();
        inputs.0.retain(|name, json| !settings.is_sensitive(name) && is_some(json));

        let (id, params) = request_of(&target.tool.name, &arguments, key.as_ref());
        let request = Request { id: &id, method: "tools/call".into(), params: Some(&params) };
        let headers = HeaderMap::new();
        let inbound = Inbound {
            headers: &headers,
            mirrors: false,
            principal: &caller.principal,
            correlation: &caller.correlation,
        };
        let whole = Accepts { json: true, sse: false };
        let reply = self.call_in_session(&session, &request, &inbound, whole).await;
        let answer = match outcome(&reply) {
            Some(Ok(result)) => match refused_arguments(result.get(), &hidden) {
                Some(refused) => Err(refused),
                None => Ok(result),
            },
            Some(Err(error)) => Err(failed(error, &hidden)),
            None if session.is_ended() => Err(Refused::NoSession),
            None => Err(Refused::Failed("the call was cancelled".into())),
        };
        let mut not_kept = match &answer {
            // They would be refused again in the next call, which they fill.
            Err(Refused::Arguments(_)) => Vec::new(),
            // What filled it is in the document of its beginning, and undoes nothing that others have kept since.
            _ => self.keep(&session, &doc, &inputs).await,
        };
        let result = answer?;
        let mut kept = said(result.get()).map(|json| of_result(&json)).unwrap_or_default();
        kept.0.retain(|_, json| is_some(json));
        if !kept.0.is_empty()
            && let Ok(Lookup::Live(doc)) = self.store.load(session.claims.key).await
        {
            not_kept.extend(self.keep(&session, &doc, &kept).await);
            // A call may bring new ones.
            hidden.extend(given_secrets(&kept, |name| settings.is_sensitive(name)));
        }
        not_kept.sort();
        not_kept.dedup();
        Ok(Called { not_kept, ..shown(&strip::result(result.get(), settings, &hidden)) })
    }

    async fn call_without_session(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: &Wanted,
    ) -> Result<Called, Refused> {
        let settings = &self.rest.settings;
        let Wanted { tool, arguments: given, key } = wanted;
        let key = key.as_ref().map(|key| (key.clone(), given.digest()));
        let hidden = given_secrets(given, |name| settings.is_sensitive(name));
        let (id, params) = request_of(tool, given, key.as_ref());
        let request = Request { id: &id, method: "tools/call".into(), params: Some(&params) };
        let capabilities = raw("{}".into());
        let envelope = Envelope { capabilities: &capabilities, log_level: None };
        let headers = HeaderMap::new();
        let inbound = Inbound {
            headers: &headers,
            mirrors: false,
            principal: &caller.principal,
            correlation: &caller.correlation,
        };
        let whole = Accepts { json: true, sse: false };
        let reply = self.call_alone(&envelope, &request, &inbound, whole).await;
        match outcome(&reply) {
            Some(Ok(result)) => match refused_arguments(result.get(), &hidden) {
                Some(refused) => Err(refused),
                None => Ok(shown(&strip::result(result.get(), settings, &hidden))),
            },
            Some(Err(error)) => Err(failed(error, &hidden)),
            None => Err(Refused::Failed("the call was cancelled".into())),
        }
    }
}

fn given_secrets(values: &Values, is_sensitive: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let sensitive = values.0.iter().filter(|(name, _)| is_sensitive(name));
    sensitive.filter_map(|(_, json)| serde_json::from_str(json).ok()).collect()
}

/// Whether a value says anything. `null` is what a tool says for want of one, and would be refused where it filled an
/// argument that may not be null.
fn is_some(json: &str) -> bool {
    json != "null"
}

/// The arguments with those that the tool's schema names, the caller left away and the session has. The caller's own
/// stay whatever they are.
fn fill(target: &Registered, mut given: Values, value: impl Fn(&str) -> Option<String>) -> Values {
    let properties = Object::parse(target.tool.json.get())
        .ok()
        .and_then(|tool| tool.get("inputSchema"))
        .and_then(|schema| Object::parse(schema.get()).ok())
        .and_then(|schema| schema.get("properties"))
        .and_then(|properties| Object::parse(properties.get()).ok());
    let Some(properties) = properties else { return given };
    properties.with(|name, _| {
        if !given.0.contains_key(name)
            && let Some(json) = value(name)
        {
            given.0.insert(name.to_owned(), json);
        }
        crate::rpc::object::Change::Drop
    });
    given
}

/// The id and the params of a `tools/call`. `key`: its idempotency key, and a digest of what was given for it.
fn request_of(
    tool: &str,
    arguments: &Values,
    key: Option<&(String, String)>,
) -> (Box<RawValue>, Box<RawValue>) {
    let id = format!("\"bridge-{}\"", hex(&random::<12>()));
    let members: Vec<String> =
        arguments.0.iter().map(|(name, json)| format!("{}:{json}", quote(name))).collect();
    let meta = key.map_or_else(String::new, |(key, given)| {
        format!(",\"_meta\":{{\"{IDEMPOTENCY_KEY}\":{},\"{GIVEN}\":{}}}", quote(key), quote(given))
    });
    let params = format!("{{\"name\":{},\"arguments\":{{{}}}{meta}}}", quote(tool), members.join(","));
    (raw(id), raw(params))
}

/// What a reply to a request says; none: nothing.
fn outcome(reply: &Reply) -> Option<Result<Box<RawValue>, RpcError>> {
    #[derive(Deserialize)]
    struct Response {
        result: Option<Box<RawValue>>,
        error: Option<RpcError>,
    }
    let Reply::Whole { body, .. } = reply else { return None };
    if body.is_empty() {
        return None;
    }
    Some(match serde_json::from_slice::<Response>(body) {
        Ok(Response { result: Some(result), .. }) => Ok(result),
        Ok(Response { error: Some(error), .. }) => Err(error),
        _ => Err(RpcError::internal("the tool answered with something that cannot be read")),
    })
}

/// A call that was not begun, because its arguments do not fit.
fn refused_arguments(result: &str, hidden: &BTreeSet<String>) -> Option<Refused> {
    if !result.contains(INVALID_ARGUMENTS) {
        return None;
    }
    let parts = Parts::of(result);
    let meta = Object::parse(result).ok()?.get("_meta").and_then(|meta| Object::parse(meta.get()).ok())?;
    meta.get(INVALID_ARGUMENTS)?;
    let text = parts.first_text.filter(|_| parts.is_error)?;
    Some(Refused::Arguments(strip::text(&text, hidden)))
}

fn failed(error: RpcError, hidden: &BTreeSet<String>) -> Refused {
    #[derive(Deserialize, Default)]
    struct Data {
        #[serde(default)]
        retryable: bool,
        #[serde(default)]
        reason: String,
    }
    let text = strip::text(&error.message, hidden);
    let data: Data =
        error.data.as_ref().and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
    match error.code {
        INVALID_PARAMS => Refused::Arguments(text),
        INVALID_REQUEST => Refused::Busy(text),
        INTERNAL if data.retryable && data.reason == "busy" => Refused::Busy(text),
        INTERNAL if data.retryable => Refused::Unavailable(text),
        _ => Refused::Failed(text),
    }
}

/// The parts of a result.
struct Parts<'a> {
    content: Option<&'a RawValue>,
    structured: Option<&'a RawValue>,
    is_error: bool,
    first_text: Option<String>,
}

impl<'a> Parts<'a> {
    fn of(result: &'a str) -> Self {
        #[derive(Deserialize)]
        struct Block {
            r#type: Option<String>,
            text: Option<String>,
        }
        let object = Object::parse(result).ok();
        let get = |key| object.as_ref().and_then(|object| object.get(key));
        let content = get("content").filter(|content| content.get().starts_with('['));
        let blocks: Vec<Block> =
            content.and_then(|content| serde_json::from_str(content.get()).ok()).unwrap_or_default();
        let text = |block: Block| block.text.filter(|_| block.r#type.is_none_or(|kind| kind == "text"));
        Self {
            content,
            structured: get("structuredContent").filter(|content| content.get() != "null"),
            is_error: get("isError").is_some_and(|flag| flag.get() == "true"),
            first_text: blocks.into_iter().find_map(text),
        }
    }

    /// What the tool says as JSON.
    fn json(&self) -> Option<String> {
        match &self.first_text {
            Some(text) => {
                serde_json::from_str::<&RawValue>(text.trim()).ok().map(|json| json.get().to_owned())
            }
            None => None,
        }
        .or_else(|| self.structured.map(|structured| structured.get().to_owned()))
    }
}

/// What a result says as JSON.
fn said(result: &str) -> Option<String> {
    let parts = Parts::of(result);
    if parts.is_error { None } else { parts.json() }
}

fn shown(result: &str) -> Called {
    let parts = Parts::of(result);
    let json = parts.json();
    Called {
        text: parts.first_text.clone().filter(|_| json.is_none()),
        json,
        content: parts.content.map_or_else(|| "[]".to_owned(), |content| content.get().to_owned()),
        structured: parts.structured.map(|structured| structured.get().to_owned()),
        is_error: parts.is_error,
        not_kept: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_says_is_its_first_text_as_json_else_its_structured_content_else_the_text() {
        let of = |json: &str| {
            let called = shown(json);
            (called.json, called.text, called.is_error)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            of(r#"{"content":[{"type":"text","text":" {\"a\":1.10} "}]}"#),
            (some("{\"a\":1.10}"), None, false)
        );
        assert_eq!(of(r#"{"content":[{"type":"text","text":"hello"}]}"#), (None, some("hello"), false));
        assert_eq!(
            of(r#"{"content":[{"type":"text","text":"3 rows"}],"structuredContent":{"n":3}}"#),
            (some("{\"n\":3}"), None, false)
        );
        assert_eq!(
            of(r#"{"content":[{"type":"image","data":""},{"type":"text","text":"[1]"}],"isError":true}"#),
            (some("[1]"), None, true)
        );
        for odd in ["{}", "[]", "3", r#"{"content":3}"#, r#"{"content":[3]}"#] {
            assert_eq!(of(odd), (None, None, false), "{odd}");
        }
    }

    #[test]
    fn an_error_is_told_without_secrets_and_says_whose_it_is() {
        let hidden = BTreeSet::from(["aaaa.bbbb.cccc".to_owned()]);
        let of = |code, retryable: bool| {
            let error = RpcError::new(code, "bad token aaaa.bbbb.cccc")
                .with_data(&serde_json::json!({ "retryable": retryable }));
            failed(error, &hidden)
        };
        let text = "bad token [secret]".to_owned();
        assert_eq!(of(INVALID_PARAMS, false), Refused::Arguments(text.clone()));
        assert_eq!(of(INTERNAL, false), Refused::Failed(text.clone()));
        assert_eq!(of(INTERNAL, true), Refused::Unavailable(text.clone()));
        assert_eq!(of(-1, true), Refused::Failed(text));
    }
}
