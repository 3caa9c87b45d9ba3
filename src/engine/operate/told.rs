//! Answers to the operator, and the refusals among them.

use serde_json::{Map, Value, json};

use super::{SHOWN_PREFIX, VALUE_PREFIX};
use crate::base::ids::SessionKey;
use crate::mcp::era::Refusal;
use crate::rpc::error::{INTERNAL, INVALID_REQUEST, RpcError};
use crate::state::doc::Doc;
use crate::state::lock::Scope;
use crate::store::share::{Conflict, Conflicted};
use crate::store::{self, ImportError, StoreError};

pub(super) fn value_told(key: SessionKey, name: &str, doc: &Doc) -> Value {
    json!({ "key": key.to_string(), "name": name, "version": doc.version().to_string() })
}

pub(super) fn ttl(key: SessionKey, ttl: store::Ttl) -> Value {
    let mut told = json!(ttl);
    if let Some(object) = told.as_object_mut() {
        object.insert("key".to_owned(), key.to_string().into());
    }
    told
}

/// A field of the server that may be shown.
pub(super) fn shown(doc: &Doc, name: &str) -> Option<Map<String, Value>> {
    let value = doc.get(name).filter(|_| name.starts_with(SHOWN_PREFIX))?;
    Some(content(value))
}

/// A value as `text` where it is text, else as `base64`; both exact.
pub(super) fn content(value: &[u8]) -> Map<String, Value> {
    use base64::Engine as _;
    let (name, text) = match std::str::from_utf8(value) {
        Ok(text) => ("text", text.to_owned()),
        Err(_) => ("base64", base64::engine::general_purpose::STANDARD.encode(value)),
    };
    let bytes = ("bytes".to_owned(), Value::from(value.len()));
    Map::from_iter([bytes, (name.to_owned(), Value::from(text))])
}

/// A value that lost. What is a client's secret is not shown here either.
pub(super) fn conflict(conflict: &Conflict) -> Value {
    let Conflict { number, session, field, stamp, lost_to, at_ms, lost } = conflict;
    let own = field.strip_prefix(VALUE_PREFIX);
    let mut told = json!({
        "number": number, "key": session.to_string(), "name": own.unwrap_or(field), "at_ms": at_ms,
        "stamp": stamp.to_string(), "written_ms": stamp.ms(), "origin": stamp.origin().to_string(),
        "lost_to": {
            "stamp": lost_to.to_string(), "written_ms": lost_to.ms(), "origin": lost_to.origin().to_string(),
        },
        "lost": match lost {
            Conflicted::Value(_) => "value",
            Conflicted::Removal => "removal",
            Conflicted::Sealed => "sealed",
        },
    });
    if let (Some(object), Conflicted::Value(value)) = (told.as_object_mut(), lost)
        && (own.is_some() || field.starts_with(SHOWN_PREFIX))
    {
        object.extend(content(value));
    }
    told
}

pub(super) fn no_value(key: SessionKey, name: &str) -> Refusal {
    refusal(404, format!("the session {key} has no value {name:?}"))
}

pub(super) fn refusal(status: u16, message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal { status, error: RpcError::new(INVALID_REQUEST, message) }
}

/// A store's failure as the operator sees it.
pub(super) fn refused(error: StoreError) -> Refusal {
    let (status, data) = match &error {
        StoreError::Gone => {
            return refusal(404, "there is no such session: it never was, it was ended, or its time is over");
        }
        StoreError::Conflict { expected, actual } => {
            (409, json!({ "expected": expected.to_string(), "actual": actual.to_string() }))
        }
        StoreError::Held { left_ms, .. } | StoreError::NotHolder { left_ms, .. } => {
            (409, json!({ "left_ms": left_ms }))
        }
        StoreError::Unshared { .. } => (503, json!({ "scope": Scope::Global.name(), "retryable": true })),
        StoreError::BeyondDeadline { deadline_ms, left_ms } => {
            (409, json!({ "deadline_ms": deadline_ms, "left_ms": left_ms }))
        }
        StoreError::Fenced { .. } => (409, Value::Null),
        StoreError::Import(ImportError::Exists(_) | ImportError::Ended(_)) => (409, Value::Null),
        StoreError::Import(_) | StoreError::Invalid(_) => (400, Value::Null),
        StoreError::Cap(_) => (413, Value::Null),
        StoreError::Full(_) => (507, Value::Null),
        _ => (503, Value::Null),
    };
    let code = if error.is_refusal() { INVALID_REQUEST } else { INTERNAL };
    let mut told = RpcError::new(code, error.to_string());
    if !data.is_null() {
        told = told.with_data(&data);
    }
    Refusal { status, error: told }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::doc::Version;

    #[test]
    fn a_value_is_told_exactly() {
        assert_eq!(Value::Object(content(b"a\n")), json!({ "bytes": 2, "text": "a\n" }));
        assert_eq!(Value::Object(content(b"\xff\x00")), json!({ "bytes": 2, "base64": "/wA=" }));
    }

    #[test]
    fn of_a_value_that_lost_what_is_secret_is_only_named() {
        use crate::state::stamp::Stamp;
        let stamp = |text| Stamp::parse(text).unwrap();
        let told = |field: &str, lost| {
            conflict(&Conflict {
                number: 7,
                session: SessionKey::from_bytes([1; 16]),
                field: field.to_owned(),
                stamp: stamp("0000000000010000000000000a"),
                lost_to: stamp("0000000000020000000000000b"),
                at_ms: 3,
                lost,
            })
        };
        let value = || Conflicted::Value("x".into());
        let of_tool = told("v:a", value());
        assert_eq!((&of_tool["name"], &of_tool["text"]), (&json!("a"), &json!("x")));
        assert_eq!((&of_tool["written_ms"], &of_tool["lost_to"]["origin"]), (&json!(1), &json!("0000000b")));
        assert_eq!(told("session.a", value())["text"], "x");
        let secret = told("handle.a", value());
        assert_eq!((&secret["name"], &secret["lost"]), (&json!("handle.a"), &json!("value")));
        assert!(secret.get("text").is_none() && secret.get("bytes").is_none(), "{secret}");
        assert_eq!(told("v:a", Conflicted::Removal)["lost"], "removal");
    }

    #[test]
    fn a_conflict_names_both_versions_in_words_and_for_programs() {
        let (one, two) = ("0123456789ab0000000000cdef", "0123456789ac0000000000cdef");
        let version = |text| Version::parse(text).unwrap();
        let refused = refused(StoreError::Conflict { expected: version(one), actual: version(two) });
        let text = refused.error.to_string();
        assert_eq!(refused.status, 409);
        assert!(text.contains(one) && text.contains(two), "{text}");
        let data = refused.error.data.unwrap();
        assert_eq!(data.get(), format!("{{\"actual\":\"{two}\",\"expected\":\"{one}\"}}"));
    }
}
