//! JSON-RPC messages, read without copying: ids, params and results stay the JSON text that came.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{INVALID_REQUEST, PARSE_ERROR, RpcError};
use crate::base::limits::{MAX_BATCH, MAX_JSON_DEPTH, MAX_REQUEST_ID_BYTES};

/// One message.
#[derive(Debug)]
pub enum Message<'a> {
    /// Wants a response.
    Request(Request<'a>),
    /// Wants none.
    Notification(Notification<'a>),
    /// Answers a request of ours.
    Response(Response<'a>),
}

/// A request.
#[derive(Debug)]
pub struct Request<'a> {
    /// A string or an integer, as JSON text.
    pub id: &'a RawValue,
    /// Its method.
    pub method: Cow<'a, str>,
    /// An object, as JSON text.
    pub params: Option<&'a RawValue>,
}

/// A notification.
#[derive(Debug)]
pub struct Notification<'a> {
    /// Its method.
    pub method: Cow<'a, str>,
    /// An object, as JSON text.
    pub params: Option<&'a RawValue>,
}

/// A response.
#[derive(Debug)]
pub struct Response<'a> {
    /// The id of the request it answers, as JSON text.
    pub id: &'a RawValue,
    /// `result` or `error`, as JSON text.
    pub outcome: Result<&'a RawValue, &'a RawValue>,
}

/// What a body holds.
#[derive(Debug)]
pub enum Envelope<'a> {
    /// One message.
    One(Message<'a>),
    /// An array, each element still to be read with [`Message::parse`].
    Batch(Vec<&'a RawValue>),
}

/// Why a text is not a JSON-RPC message.
#[derive(Debug)]
pub struct Malformed {
    /// What to answer.
    pub error: RpcError,
    /// The id to answer to, as JSON text, where the text had a valid one.
    pub id: Option<String>,
}

impl Malformed {
    fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { error: RpcError::new(code, message), id: None }
    }
}

impl<'a> Envelope<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// -32700 for what is not JSON, -32600 for JSON that is no message, an empty array, or one of too many messages.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(body)
            .map_err(|error| Malformed::new(PARSE_ERROR, format!("the body is not UTF-8: {error}")))?;
        let trimmed = text.trim_start_matches([' ', '\t', '\r', '\n']);
        if !trimmed.starts_with('[') {
            return Message::parse(text).map(Self::One);
        }
        check_depth(text)?;
        let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        if items.is_empty() || items.len() > MAX_BATCH {
            return Err(Malformed::new(
                INVALID_REQUEST,
                format!("a batch holds 1 to {MAX_BATCH} messages, this one {}", items.len()),
            ));
        }
        Ok(Self::Batch(items))
    }
}

impl<'a> Message<'a> {
    /// The parameters, as JSON text; a response has none.
    #[must_use]
    pub fn params(&self) -> Option<&'a RawValue> {
        match self {
            Self::Request(request) => request.params,
            Self::Notification(notification) => notification.params,
            Self::Response(_) => None,
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// As [`Envelope::parse`].
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            jsonrpc: Option<&'a RawValue>,
            #[serde(borrow, default, deserialize_with = "present")]
            id: Option<&'a RawValue>,
            #[serde(borrow)]
            method: Option<&'a RawValue>,
            #[serde(borrow)]
            params: Option<&'a RawValue>,
            #[serde(borrow, default, deserialize_with = "present")]
            result: Option<&'a RawValue>,
            #[serde(borrow)]
            error: Option<&'a RawValue>,
        }
        check_depth(text)?;
        // What reads a struct takes an array of its fields as well.
        if !text.trim_start().starts_with('{') {
            return Err(match serde_json::from_str::<&RawValue>(text) {
                Ok(_) => Malformed::new(INVALID_REQUEST, "not a JSON-RPC message: want an object"),
                Err(error) => not_json(&error),
            });
        }
        let raw: Raw<'a> = match serde_json::from_str(text) {
            Ok(raw) => raw,
            Err(error) if error.is_data() => {
                return Err(Malformed::new(INVALID_REQUEST, format!("not a JSON-RPC message: {error}")));
            }
            Err(error) => return Err(not_json(&error)),
        };
        let id = raw.id.filter(|id| is_request_id(id.get()));
        let fail = |message: &'static str| Malformed {
            error: RpcError::new(INVALID_REQUEST, message),
            id: id.map(|id| id.get().to_owned()),
        };
        if raw.jsonrpc.is_none_or(|version| version.get() != "\"2.0\"") {
            return Err(fail("not a JSON-RPC 2.0 message: want \"jsonrpc\": \"2.0\""));
        }
        let Some(method) = raw.method else {
            let id = id.ok_or_else(|| fail("want a method, or a response with an id"))?;
            return match (raw.result, raw.error) {
                (Some(result), None) => Ok(Self::Response(Response { id, outcome: Ok(result) })),
                (None, Some(error)) => Ok(Self::Response(Response { id, outcome: Err(error) })),
                _ => Err(fail("a response has either a result or an error; a request has a method")),
            };
        };
        let method = text_of(method).ok_or_else(|| fail("method: want a string"))?;
        if raw.params.is_some_and(|params| !params.get().starts_with('{')) {
            return Err(fail("params: want an object"));
        }
        match (raw.id, id) {
            (None, _) => Ok(Self::Notification(Notification { method, params: raw.params })),
            (Some(_), Some(id)) => Ok(Self::Request(Request { id, method, params: raw.params })),
            (Some(_), None) => Err(fail("id: want a string or an integer of at most 256 characters")),
        }
    }
}

/// A response with a result that is JSON text already.
#[must_use]
pub fn response(id: &str, result: &str) -> Bytes {
    let mut text = String::with_capacity(36 + id.len() + result.len());
    text.push_str("{\"jsonrpc\":\"2.0\",\"id\":");
    text.push_str(id);
    text.push_str(",\"result\":");
    text.push_str(result);
    text.push('}');
    Bytes::from(text)
}

/// A response with an error; `id` as JSON text. Without one it is left out, as MCP has it for what no request can be
/// named for (2025-11-25, `JSONRPCErrorResponse`: a string, a number or absent, never `null`).
#[must_use]
pub fn error_response(id: Option<&str>, error: &RpcError) -> Bytes {
    let body = serde_json::to_string(error)
        .unwrap_or_else(|_| "{\"code\":-32603,\"message\":\"the error could not be written\"}".into());
    let id = id.map(|id| format!("\"id\":{id},")).unwrap_or_default();
    Bytes::from(format!("{{\"jsonrpc\":\"2.0\",{id}\"error\":{body}}}"))
}

/// A notification.
#[must_use]
pub fn notification(method: &str, params: &str) -> Bytes {
    Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"method\":{},\"params\":{params}}}", quote(method)))
}

/// A request.
#[must_use]
pub fn request(id: &str, method: &str, params: &str) -> Bytes {
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{},\"params\":{params}}}",
        quote(method)
    ))
}

/// A string as JSON text.
#[must_use]
pub fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".into())
}

/// The characters of a JSON string without escapes; `None` for any other JSON text.
#[must_use]
pub fn borrowed_text(json: &str) -> Option<&str> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains(['\\', '"'])).then_some(inner)
}

/// The string that a value is; borrowed where it has no escapes. `None` for any other value.
#[must_use]
pub fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    match borrowed_text(value.get()) {
        Some(plain) => Some(Cow::Borrowed(plain)),
        None => serde_json::from_str::<String>(value.get()).ok().map(Cow::Owned),
    }
}

/// A string or an integer, of at most [`MAX_REQUEST_ID_BYTES`].
fn is_request_id(json: &str) -> bool {
    let integer = |digits: &str| {
        let digits = digits.strip_prefix('-').unwrap_or(digits);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    json.len() <= MAX_REQUEST_ID_BYTES && (json.starts_with('"') || integer(json))
}

/// Tells an explicit `null` from an absent field.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&'de RawValue>::deserialize(from).map(Some)
}

fn not_json(error: &serde_json::Error) -> Malformed {
    Malformed::new(PARSE_ERROR, format!("the body is not JSON: {error}"))
}

/// How many `[` and `{` there are, strings included. Counted in bytes, a few at a time, which compilers turn into wide
/// instructions: every message is read for it.
fn opening_brackets(text: &str) -> usize {
    let count = |piece: &[u8]| piece.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>();
    text.as_bytes().chunks(128).map(|piece| usize::from(count(piece))).sum()
}

/// Raw values are only skipped over by the parser, which does not count their depth: this does.
fn check_depth(text: &str) -> Result<(), Malformed> {
    // A text with few brackets cannot be deep, and nearly all have few.
    if opening_brackets(text) <= MAX_JSON_DEPTH {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_JSON_DEPTH {
                    return Err(Malformed::new(
                        PARSE_ERROR,
                        format!("the body is nested deeper than {MAX_JSON_DEPTH} levels"),
                    ));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}
