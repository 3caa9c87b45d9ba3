//! What Redis tells without being asked, as events.

use redis::{PushInfo, PushKind, Value};

use super::keys::{Keys, Written};
use crate::store::remote::Event;

/// What a push means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Something of ours was written, or is gone.
    Event(Event),
    /// A probe was written, by its name.
    Probe(String),
    /// Everything is gone.
    Flushed,
    /// The connection ended.
    Ended,
}

/// Reads a push and hands on what it says.
pub(super) fn read(keys: &Keys, push: &PushInfo, mut told: impl FnMut(Told)) {
    match push.kind {
        PushKind::Disconnection => told(Told::Ended),
        PushKind::Invalidate => {
            for part in &push.data {
                match part {
                    Value::Nil => told(Told::Flushed),
                    Value::Array(names) => {
                        names.iter().filter_map(|name| of_key(keys, name)).for_each(&mut told);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn of_key(keys: &Keys, name: &Value) -> Option<Told> {
    let name = match name {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        _ => return None,
    };
    Some(match keys.read(name)? {
        Written::Session(key) => Told::Event(Event::Document(key)),
        Written::Probe(name) => Told::Probe(name.to_owned()),
        Written::Log(key) => Told::Event(Event::Log(key)),
        Written::Result(key, name) => Told::Event(Event::Result(key, name.to_owned())),
        Written::Cache(key) => Told::Event(Event::Cache(key.to_owned())),
        Written::Voided => Told::Event(Event::Voided),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::SessionKey;

    fn told(push: &PushInfo) -> Vec<Told> {
        let mut found = Vec::new();
        read(&Keys::new("mcp"), push, |told| found.push(told));
        found
    }

    #[test]
    fn pushes_become_events() {
        let (keys, key) = (Keys::new("mcp"), SessionKey::random());
        let names = [keys.session(key), keys.result(key, "r"), keys.probe("p"), "mcp:other".to_owned()];
        let names = names.map(|name| Value::BulkString(name.into_bytes()));
        let push = PushInfo { kind: PushKind::Invalidate, data: vec![Value::Array(names.into())] };
        let expected = [
            Told::Event(Event::Document(key)),
            Told::Event(Event::Result(key, "r".into())),
            Told::Probe("p".into()),
        ];
        assert_eq!(told(&push), expected);
        let push = PushInfo { kind: PushKind::Invalidate, data: vec![Value::Nil] };
        assert_eq!(told(&push), [Told::Flushed]);
        assert_eq!(told(&PushInfo { kind: PushKind::Disconnection, data: vec![] }), [Told::Ended]);
        assert_eq!(told(&PushInfo { kind: PushKind::Message, data: vec![] }), []);
    }
}
