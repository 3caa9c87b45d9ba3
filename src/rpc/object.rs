//! A JSON object that is changed in single members while all the rest stays the text it was.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::message::{quote, text_of};

/// The members of an object, in order, keys and values as JSON text.
///
/// Nothing is decoded, so no unknown field is lost, no big integer becomes a float, and a key that occurs twice still
/// does.
#[derive(Debug)]
pub struct Object<'a> {
    members: Vec<(&'a RawValue, &'a RawValue)>,
}

/// What becomes of a member.
#[derive(Debug)]
pub enum Change {
    /// It stays.
    Keep,
    /// It goes.
    Drop,
    /// It gets this value, JSON text.
    Set(String),
}

impl<'a> Object<'a> {
    /// Reads an object; nothing below its first level is looked at.
    ///
    /// # Errors
    /// When the text is not JSON or no object.
    pub fn parse(json: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// The value of a key; the last one, as most readers have it, where there are two.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.members.iter().rev().find(|(name, _)| decoded(name) == key).map(|(_, value)| *value)
    }

    /// The object with some members changed.
    pub fn with(&self, mut change: impl FnMut(&str, &'a RawValue) -> Change) -> String {
        let mut json = String::with_capacity(
            2 + self.members.iter().map(|(k, v)| k.get().len() + v.get().len() + 2).sum::<usize>(),
        );
        json.push('{');
        for (key, value) in &self.members {
            let replaced;
            let value = match change(&decoded(key), value) {
                Change::Keep => value.get(),
                Change::Drop => continue,
                Change::Set(text) => {
                    replaced = text;
                    &replaced
                }
            };
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(key.get());
            json.push(':');
            json.push_str(value);
        }
        json.push('}');
        json
    }
}

/// An object, as JSON text, with this member: in its place, or as the last one. None when the text is no object.
#[must_use]
pub fn with_member(object: &str, key: &str, value: &str) -> Option<String> {
    let object = Object::parse(object).ok()?;
    if object.get(key).is_some() {
        return Some(object.with(|name, _| match name == key {
            true => Change::Set(value.to_owned()),
            false => Change::Keep,
        }));
    }
    let mut text = object.with(|_, _| Change::Keep);
    text.pop();
    if text.len() > 1 {
        text.push(',');
    }
    text.push_str(&quote(key));
    text.push(':');
    text.push_str(value);
    text.push('}');
    Some(text)
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(&'de RawValue, &'de RawValue)>;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(8));
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        from.deserialize_map(Members).map(|members| Self { members })
    }
}

fn decoded(key: &RawValue) -> Cow<'_, str> {
    text_of(key).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_stays_the_text_it_was() {
        let json =
            r#"{"z":18446744073709551616123,"name" : "a","x":{"deep":[1.0e400,"\ud83d\ude00"]},"y":1.10}"#;
        let object = Object::parse(json).unwrap();
        let renamed = object.with(|key, _| match key {
            "name" => Change::Set("\"b\"".into()),
            _ => Change::Keep,
        });
        assert_eq!(
            renamed,
            r#"{"z":18446744073709551616123,"name":"b","x":{"deep":[1.0e400,"\ud83d\ude00"]},"y":1.10}"#
        );
    }

    #[test]
    fn a_key_written_with_escapes_is_found_and_kept_as_written() {
        let object = Object::parse(r#"{"n\u0061me":1,"b":2}"#).unwrap();
        assert_eq!(object.get("name").unwrap().get(), "1");
        assert_eq!(object.with(|_, _| Change::Keep), r#"{"n\u0061me":1,"b":2}"#);
        assert_eq!(
            object.with(|key, _| if key == "name" { Change::Drop } else { Change::Keep }),
            r#"{"b":2}"#
        );
    }

    #[test]
    fn the_last_of_two_equal_keys_counts_and_both_stay() {
        let object = Object::parse(r#"{"a":1,"a":2}"#).unwrap();
        assert_eq!(object.get("a").unwrap().get(), "2");
        assert_eq!(object.with(|_, _| Change::Keep), r#"{"a":1,"a":2}"#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["[]", "1", "", "{", "{\"a\"}", "null"] {
            assert!(Object::parse(json).is_err(), "{json}");
        }
    }
}
