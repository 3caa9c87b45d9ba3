//! Parts of answers of Redis, as what they have to be.

use bytes::Bytes;
use redis::Value;

use crate::store::remote::RemoteError;

pub(super) fn fault(what: &str) -> RemoteError {
    RemoteError::Fault(format!("{what}, in an answer of Redis").into())
}

pub(super) fn list(value: Value) -> Result<Vec<Value>, RemoteError> {
    match value {
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        other => Err(fault(&format!("{} for a list", kind(&other)))),
    }
}

/// The first parts of a list; missing ones are nil.
pub(super) fn parts<const N: usize>(value: Value) -> Result<[Value; N], RemoteError> {
    let mut items = list(value)?;
    items.resize(N, Value::Nil);
    items.try_into().map_err(|_| fault("a list"))
}

/// Names and values, as a list in which they take turns or as a map.
pub(super) fn pairs(value: Value) -> Result<Vec<(Value, Value)>, RemoteError> {
    if let Value::Map(pairs) = value {
        return Ok(pairs);
    }
    let mut items = list(value)?.into_iter();
    let mut found = Vec::with_capacity(items.len() / 2);
    while let (Some(name), Some(value)) = (items.next(), items.next()) {
        found.push((name, value));
    }
    Ok(found)
}

pub(super) fn bytes(value: Value) -> Result<Bytes, RemoteError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        Value::SimpleString(text) => Ok(text.into()),
        Value::Int(number) => Ok(number.to_string().into()),
        Value::VerbatimString { text, .. } => Ok(text.into()),
        Value::Okay => Ok(Bytes::from_static(b"OK")),
        other => Err(fault(&format!("{} for a text", kind(&other)))),
    }
}

pub(super) fn text(value: Value) -> Result<String, RemoteError> {
    String::from_utf8(bytes(value)?.into()).map_err(|_| fault("a text that is not UTF-8"))
}

pub(super) fn whole(value: &Value) -> Result<i64, RemoteError> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::BulkString(bytes) => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| fault("a text for a number")),
        other => Err(fault(&format!("{} for a number", kind(other)))),
    }
}

pub(super) fn natural(value: &Value) -> Result<u64, RemoteError> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| fault("a text for a number")),
        other => u64::try_from(whole(other)?).map_err(|_| fault("a negative number")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::Array(_) | Value::Set(_) => "a list",
        Value::ServerError(_) => "an error",
        _ => "something else",
    }
}
