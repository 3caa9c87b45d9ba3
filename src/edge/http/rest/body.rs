//! What callers send: one object, whose members go by several names.

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Act;
use crate::base::limits::MAX_BATCH;
use crate::config::Profile;
use crate::edge::http::reply::Refusal;
use crate::engine::rest::{Ask, Refused, Values};
use crate::mcp::{SESSION_HEADER, header};

const OTHER_SESSION_HEADER: &str = "x-session-id";
const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// What `/init` of the Flask bridge must have beside a session's id.
const FLASK_CREDENTIALS: [&str; 2] = ["apiUrl", "jwtToken"];

/// A body, and what headers say beside it.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The session.
    pub(super) session: Option<String>,
    /// The tool.
    pub(super) tool: Option<String>,
    /// The idempotency key.
    key: Option<String>,
    members: BTreeMap<String, Box<RawValue>>,
}

impl Asked {
    /// Reads a body; one that is empty is an empty object.
    pub(super) fn read(body: &[u8], headers: &HeaderMap, profile: Profile) -> Result<Self, Refusal> {
        let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
        let text = body.trim_ascii();
        let members: BTreeMap<String, Box<RawValue>> = match text {
            // Flask's own reading of an empty body fails.
            [] if profile == Profile::Default => BTreeMap::new(),
            [b'{', ..] => {
                serde_json::from_slice(text).map_err(|error| bad(format!("the body is not JSON: {error}")))?
            }
            _ => return Err(bad("the body must be a JSON object".into())),
        };
        let mut asked = Self::of(members, headers).map_err(bad)?;
        let header = header::value(headers, IDEMPOTENCY_HEADER).map_err(|error| bad(error.to_string()))?;
        asked.key = asked.key_of(header).map_err(bad)?;
        Ok(asked)
    }

    fn of(members: BTreeMap<String, Box<RawValue>>, headers: &HeaderMap) -> Result<Self, String> {
        let mut asked = Self { members, ..Self::default() };
        asked.session = asked.session_of(headers)?;
        asked.tool = asked.text(&["tool", "name", "tool_name"])?;
        Ok(asked)
    }

    /// The key of a call: of the header, which may be a string of structured fields (RFC 8941), or of the body.
    fn key_of(&self, header: Option<&str>) -> Result<Option<String>, String> {
        let quoted =
            |value: &str| value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map(str::to_owned);
        let header = header.map(|value| quoted(value).unwrap_or_else(|| value.to_owned()));
        let named = self.text(&["idempotency_key"])?;
        match (header, named) {
            (Some(header), Some(named)) if header != named => {
                Err("the body and Idempotency-Key give two keys: give one".into())
            }
            (header, named) => Ok(header.or(named)),
        }
    }

    /// The session's id: of the body, or of a header; the two must not differ.
    fn session_of(&self, headers: &HeaderMap) -> Result<Option<String>, String> {
        let mut named = match self.members.get("session_id").map(|json| json.get()) {
            None | Some("null" | "\"\"") => None,
            Some(json) => Some(
                // Flask takes numbers as well.
                serde_json::from_str::<String>(json)
                    .or_else(|_| serde_json::from_str::<i64>(json).map(|number| number.to_string()))
                    .map_err(|_| "session_id: want a string".to_owned())?,
            ),
        };
        for name in [SESSION_HEADER, OTHER_SESSION_HEADER] {
            let Some(value) = header::value(headers, name).map_err(|error| error.to_string())? else {
                continue;
            };
            match &named {
                Some(known) if known != value => {
                    return Err(format!("the body and {name} name two sessions: name one"));
                }
                Some(_) => {}
                None => named = Some(value.to_owned()),
            }
        }
        Ok(named)
    }

    /// A string by the first of its names that is there.
    fn text(&self, names: &[&str]) -> Result<Option<String>, String> {
        let Some((name, json)) = self.member(names) else { return Ok(None) };
        match serde_json::from_str::<String>(json.get()) {
            Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
            Err(_) => Err(format!("{name}: want a string")),
        }
    }

    fn member<'a>(&self, names: &[&'a str]) -> Option<(&'a str, &RawValue)> {
        let mut found = names.iter().filter_map(|name| self.members.get(*name).map(|json| (*name, &**json)));
        found.find(|(_, json)| json.get() != "null")
    }

    /// What it asks.
    pub(super) fn into_ask(mut self, act: Act, profile: Profile) -> Result<Ask, Refused> {
        let strict = profile == Profile::Sandsiv;
        match act {
            Act::Init => {
                let missing = |name: &str| self.members.get(name).is_none_or(|json| is_falsy(json.get()));
                if strict && (self.session.is_none() || FLASK_CREDENTIALS.iter().any(|name| missing(name))) {
                    return Err(Refused::Bad("Missing session_id, apiUrl, or jwtToken".into()));
                }
                let values = values(std::mem::take(&mut self.members));
                Ok(Ask::Init { session: self.session, values, strict })
            }
            Act::ToolsOf if strict && self.session.is_none() => {
                Err(Refused::Bad("Missing session_id".into()))
            }
            Act::Call => {
                let arguments = match self.member(&["params", "arguments", "args", "parameters"]) {
                    None => BTreeMap::new(),
                    Some((name, json)) => serde_json::from_str(json.get()).map_err(|_| {
                        Refused::Bad(match strict {
                            true => "params must be a dictionary".into(),
                            false => format!("{name}: want an object"),
                        })
                    })?,
                };
                let tool = match self.tool {
                    Some(tool) if !strict || self.session.is_some() => tool,
                    _ if strict => return Err(Refused::Bad("Missing session_id or tool name".into())),
                    _ => {
                        return Err(Refused::Bad("name is missing: which tool? (or tool, tool_name)".into()));
                    }
                };
                Ok(Ask::Call { session: self.session, tool, arguments: values(arguments), key: self.key })
            }
            Act::Shutdown => match self.session {
                Some(session) => Ok(Ask::Shutdown { session }),
                None => Err(Refused::Bad("session_id is missing: which session?".into())),
            },
            Act::ToolsOf => Ok(Ask::Tools { session: self.session }),
            _ => Ok(Ask::Tools { session: None }),
        }
    }
}

/// The calls of one request: what each asks, or what is wrong with it.
pub(super) type Batch = Vec<Result<Asked, String>>;

/// Reads several calls: an array, or an object with `calls`, whose `session_id` is that of calls without one. None: it is
/// one call.
///
/// # Errors
/// 400 for what is no list of 1 to [`MAX_BATCH`] calls.
pub(super) fn batch(body: &[u8], headers: &HeaderMap) -> Result<Option<Batch>, Refusal> {
    #[derive(Deserialize)]
    struct Calls {
        #[serde(default)]
        calls: Option<Vec<Box<RawValue>>>,
        #[serde(default)]
        session_id: Option<Box<RawValue>>,
    }
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let text = body.trim_ascii();
    let (calls, session) = match text {
        [b'[', ..] => {
            let calls: Vec<Box<RawValue>> = serde_json::from_slice(text)
                .map_err(|error| bad(format!("the body is not JSON: {error}")))?;
            (calls, None)
        }
        [b'{', ..] => match serde_json::from_slice(text) {
            Ok(Calls { calls: Some(calls), session_id }) => (calls, session_id),
            // Whatever is wrong with it is told of one call.
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    if calls.is_empty() || calls.len() > MAX_BATCH {
        return Err(bad(format!(
            "the body must be a JSON object, or 1 to {MAX_BATCH} of them: these are {}",
            calls.len()
        )));
    }
    if headers.contains_key(IDEMPOTENCY_HEADER) {
        return Err(bad(
            "Idempotency-Key is for one call: give each call of a batch its own idempotency_key".into(),
        ));
    }
    Ok(Some(calls.into_iter().map(|call| one(&call, session.as_deref(), headers)).collect()))
}

fn one(call: &RawValue, session: Option<&RawValue>, headers: &HeaderMap) -> Result<Asked, String> {
    let mut members: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(call.get()).map_err(|_| "a call of a batch must be a JSON object".to_owned())?;
    if let Some(session) = session
        && !members.contains_key("session_id")
    {
        members.insert("session_id".to_owned(), session.to_owned());
    }
    let mut asked = Asked::of(members, headers)?;
    asked.key = asked.key_of(None)?;
    Ok(asked)
}

fn values(members: BTreeMap<String, Box<RawValue>>) -> Values {
    Values(members.into_iter().map(|(name, json)| (name, json.get().to_owned())).collect())
}

/// What Python takes for nothing.
fn is_falsy(json: &str) -> bool {
    matches!(json, "null" | "\"\"" | "false" | "0" | "{}" | "[]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(body: &str, headers: &[(&'static str, &str)], profile: Profile) -> Result<Asked, u16> {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        Asked::read(body.as_bytes(), &headers, profile)
            .map_err(|refusal| refusal.into_response().status().as_u16())
    }

    #[test]
    fn a_call_is_read_by_all_its_names() {
        for (tool, arguments) in
            [("name", "arguments"), ("tool", "params"), ("tool_name", "args"), ("tool", "parameters")]
        {
            let body = format!(r#"{{"session_id":"s","{tool}":"echo","{arguments}":{{"n":1.10}}}}"#);
            let ask = asked(&body, &[], Profile::Default).unwrap().into_ask(Act::Call, Profile::Default);
            let Ok(Ask::Call { session, tool, arguments, .. }) = ask else { panic!("{body}") };
            assert_eq!((session.as_deref(), tool.as_str()), (Some("s"), "echo"));
            assert_eq!(arguments.0["n"], "1.10");
        }
    }

    #[test]
    fn a_session_is_named_by_the_body_or_a_header_and_never_twice() {
        let of = |body: &str, headers: &[(&'static str, &str)]| {
            asked(body, headers, Profile::Default).map(|asked| asked.session)
        };
        assert_eq!(of(r#"{"session_id":"a"}"#, &[]), Ok(Some("a".into())));
        assert_eq!(of(r#"{"session_id":125}"#, &[]), Ok(Some("125".into())));
        assert_eq!(of("{}", &[("mcp-session-id", "a")]), Ok(Some("a".into())));
        assert_eq!(of("", &[("x-session-id", "a")]), Ok(Some("a".into())));
        assert_eq!(of(r#"{"session_id":"a"}"#, &[("mcp-session-id", "a")]), Ok(Some("a".into())));
        assert_eq!(of(r#"{"session_id":"a"}"#, &[("mcp-session-id", "b")]), Err(400));
        assert_eq!(of("{}", &[("mcp-session-id", "a"), ("x-session-id", "b")]), Err(400));
        for body in [r#"{"session_id":""}"#, r#"{"session_id":null}"#, "{}"] {
            assert_eq!(of(body, &[]), Ok(None));
        }
        assert_eq!(of(r#"{"session_id":["a"]}"#, &[]), Err(400));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["[]", "3", "null", "{", "{\"a\":}", "\u{0}", "\"x\""] {
            assert_eq!(asked(body, &[], Profile::Default).map(|_| ()), Err(400), "{body:?}");
        }
        assert_eq!(asked("", &[], Profile::Sandsiv).map(|_| ()), Err(400));
    }

    #[test]
    fn what_the_flask_bridge_wants_is_wanted_in_its_words() {
        for (act, body, words) in [
            (Act::Init, r#"{"session_id":"a","apiUrl":"u"}"#, "Missing session_id, apiUrl, or jwtToken"),
            (
                Act::Init,
                r#"{"session_id":"a","apiUrl":"u","jwtToken":""}"#,
                "Missing session_id, apiUrl, or jwtToken",
            ),
            (Act::Init, r#"{"apiUrl":"u","jwtToken":"t"}"#, "Missing session_id, apiUrl, or jwtToken"),
            (Act::Call, r#"{"session_id":"a"}"#, "Missing session_id or tool name"),
            (Act::Call, r#"{"tool":"a"}"#, "Missing session_id or tool name"),
            (Act::Call, r#"{"session_id":"a","tool":"b","params":[1]}"#, "params must be a dictionary"),
        ] {
            let ask = asked(body, &[], Profile::Sandsiv).unwrap().into_ask(act, Profile::Sandsiv);
            assert_eq!(ask.map(|_| ()).unwrap_err(), Refused::Bad(words.into()), "{body}");
        }
    }

    #[test]
    fn a_batch_is_an_array_or_an_object_with_calls_and_each_call_is_read_by_itself() {
        let headers = HeaderMap::new();
        let read = |body: &str| {
            batch(body.as_bytes(), &headers).map_err(|refusal| refusal.into_response().status().as_u16())
        };
        let calls = read(
            r#"{"session_id":"s","calls":[{"name":"a"},{"name":"b","session_id":"t","idempotency_key":"k"},3,{"name":7}]}"#,
        );
        let calls: Vec<_> = calls
            .unwrap()
            .unwrap()
            .into_iter()
            .map(|call| call.map(|it| (it.tool, it.session, it.key)))
            .collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(calls[0], Ok((some("a"), some("s"), None)));
        assert_eq!(calls[1], Ok((some("b"), some("t"), some("k"))));
        assert!(calls[2].is_err() && calls[3].is_err(), "{calls:?}");
        assert_eq!(read(r#"[{"name":"a"}]"#).unwrap().unwrap().len(), 1);
        assert!(read(r#"{"name":"a"}"#).unwrap().is_none() && read("").unwrap().is_none());
        let many = format!("[{}]", vec!["{}"; MAX_BATCH + 1].join(","));
        for odd in ["[]", "{\"calls\":[]}", "[1", many.as_str()] {
            assert_eq!(read(odd).map(|_| ()), Err(400), "{odd}");
        }
    }

    #[test]
    fn a_key_comes_in_a_header_with_or_without_quotes_or_in_the_body() {
        let key = |body: &str, headers: &[(&'static str, &str)]| {
            asked(body, headers, Profile::Default).map(|asked| asked.key)
        };
        assert_eq!(key("{}", &[("idempotency-key", "\"8e03\"")]), Ok(Some("8e03".into())));
        assert_eq!(
            key(r#"{"idempotency_key":"8e03"}"#, &[("idempotency-key", "8e03")]),
            Ok(Some("8e03".into()))
        );
        assert_eq!(key(r#"{"idempotency_key":"a"}"#, &[("idempotency-key", "b")]), Err(400));
        assert_eq!(key(r#"{"idempotency_key":7}"#, &[]), Err(400));
    }
}
