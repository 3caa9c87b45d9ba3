//! The values of a bridged session: fields of its document, each JSON text.
//!
//! Sensitive ones are fields that nobody is shown. The others are values like those of tools, under names that begin with
//! `bridge/`, so that an operator can read and change them.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::super::Engine;
use super::super::operate::VALUE_PREFIX;
use super::super::session::Session;
use super::Values;
use crate::base::seal::sha256;
use crate::config::Bridge;
use crate::rpc::message::quote;
use crate::rpc::object::Object;
use crate::state::doc::Doc;
use crate::store::{FieldWrite, StoreError};

/// Document field: under what the store knows the id that the caller has chosen.
pub(in crate::engine) const ALIAS_FIELD: &str = "bridge.alias";
/// Document field: the hash of the credentials with which the session was made.
pub(super) const CREDENTIALS_FIELD: &str = "bridge.credentials";
const SECRET_PREFIX: &str = "bridge.secret.";
const SHOWN_PREFIX: &str = "bridge/";

/// The field that keeps a value.
fn field(settings: &Bridge, name: &str) -> String {
    match settings.is_sensitive(name) {
        true => format!("{SECRET_PREFIX}{name}"),
        false => format!("{VALUE_PREFIX}{SHOWN_PREFIX}{name}"),
    }
}

/// A value of a session, JSON text. What an operator has set that is no JSON is a string.
pub(super) fn value(settings: &Bridge, doc: &Doc, name: &str) -> Option<String> {
    let text = std::str::from_utf8(doc.get(&field(settings, name))?).ok()?;
    match serde_json::from_str::<&RawValue>(text) {
        Ok(json) => Some(json.get().to_owned()),
        Err(_) => Some(quote(text)),
    }
}

/// The strings among the sensitive values of a session.
pub(super) fn secrets(settings: &Bridge, doc: &Doc) -> BTreeSet<String> {
    let sensitive = settings.sensitive.iter().filter_map(|name| value(settings, doc, name));
    sensitive.filter_map(|json| serde_json::from_str(&json).ok()).collect()
}

/// The writes that put values into a document.
pub(super) fn writes(settings: &Bridge, values: &Values) -> Vec<FieldWrite> {
    let write = |(name, json): (&String, &String)| (field(settings, name), Some(Bytes::from(json.clone())));
    values.0.iter().map(write).collect()
}

/// The sensitive ones among values, as a JSON object: what a session is opened with, in a form of its own.
pub(super) fn credentials(settings: &Bridge, values: &Values) -> String {
    let mut found = Map::new();
    for (name, json) in values.0.iter().filter(|(name, _)| settings.is_sensitive(name)) {
        found.insert(name.clone(), serde_json::from_str(json).unwrap_or(Value::Null));
    }
    Value::Object(found).to_string()
}

/// What is kept of credentials, to know them again.
pub(super) fn fingerprint(credentials: &str) -> Bytes {
    Bytes::copy_from_slice(&sha256(format!("outlast bridge credentials\0{credentials}").as_bytes()))
}

/// What a result gives a session: all its members when its `status` is `success`, those of `intermediate` one by one.
pub(super) fn of_result(json: &str) -> Values {
    let mut values = Values::default();
    let Ok(result) = Object::parse(json) else { return values };
    if result.get("status").is_none_or(|status| status.get() != "\"success\"") {
        return values;
    }
    each(&result, |name, value| match (name, Object::parse(value.get())) {
        ("status", _) => {}
        ("intermediate", Ok(inner)) => each(&inner, |name, value| {
            values.0.insert(name.to_owned(), value.get().to_owned());
        }),
        _ => {
            values.0.insert(name.to_owned(), value.get().to_owned());
        }
    });
    values
}

fn each<'a>(object: &Object<'a>, mut see: impl FnMut(&str, &'a RawValue)) {
    object.with(|name, value| {
        see(name, value);
        crate::rpc::object::Change::Drop
    });
}

impl Engine {
    /// Keeps values in a session; each is written by itself, so that of calls side by side none undoes another's.
    /// Returns the names of those that do not fit: what the session had of them is gone then, since it would be wrong.
    pub(super) async fn keep(&self, session: &Session, doc: &Doc, values: &Values) -> Vec<String> {
        let settings = &self.rest.settings;
        if !settings.keep_values {
            return Vec::new();
        }
        let mut fresh = values.clone();
        fresh.0.retain(|name, json| {
            doc.get(&field(settings, name)).is_none_or(|held| held.as_ref() != json.as_bytes())
        });
        if fresh.0.is_empty() {
            return Vec::new();
        }
        let key = session.claims.key;
        let error = match self.store.update(key, writes(settings, &fresh)).await {
            Ok(_) => return Vec::new(),
            Err(error) => error,
        };
        let mut lost = Vec::new();
        for (name, json) in fresh.0 {
            let alone = match &error {
                // Some of them may fit.
                StoreError::Cap(_) | StoreError::Invalid(_) => {
                    let write = (field(settings, &name), Some(Bytes::from(json)));
                    self.store.update(key, vec![write]).await.is_ok()
                }
                _ => false,
            };
            if !alone {
                // As far as that is possible at all: a name that is too long has no field.
                let _ = self.store.update(key, vec![(field(settings, &name), None)]).await;
                lost.push(name);
            }
        }
        if !lost.is_empty() {
            tracing::debug!(session = %key, %error, values = lost.len(), "values of a call are not kept");
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_gives_its_members_when_it_is_a_success() {
        let values = of_result(
            r#"{"status":"success","n":12345678901234567890123,"intermediate":{"a":{"b":1}},"data":[1]}"#,
        );
        let kept: Vec<(&str, &str)> =
            values.0.iter().map(|(name, json)| (name.as_str(), json.as_str())).collect();
        assert_eq!(kept, [("a", "{\"b\":1}"), ("data", "[1]"), ("n", "12345678901234567890123")]);
        for json in [r#"{"status":"error","n":1}"#, r#"{"n":1}"#, "[1]", "1", "{"] {
            assert_eq!(of_result(json), Values::default(), "{json}");
        }
        assert_eq!(of_result(r#"{"status":"success","intermediate":3}"#).0["intermediate"], "3");
    }

    #[test]
    fn credentials_are_known_again_however_they_are_written() {
        let settings = Bridge::default();
        let of = |pairs: &[(&str, &str)]| {
            let values = pairs.iter().map(|(name, json)| ((*name).to_owned(), (*json).to_owned())).collect();
            credentials(&settings, &Values(values))
        };
        let plain = of(&[("jwtToken", r#""a/b""#), ("apiUrl", r#""u""#), ("other", "1")]);
        assert_eq!(plain, r#"{"apiUrl":"u","jwtToken":"a/b"}"#);
        assert_eq!(of(&[("jwtToken", r#""\u0061\/b""#), ("apiUrl", r#""u""#)]), plain);
        assert_ne!(fingerprint(&plain), fingerprint(&of(&[("jwtToken", r#""a/c""#), ("apiUrl", r#""u""#)])));
    }
}
