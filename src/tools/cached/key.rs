//! Under what a result is found.

use super::rules::{Rules, Scope};
use crate::base::seal::{hex, sha256};
use crate::mcp::input::digest;
use crate::tools::Call;

/// The place of one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// As the shared tier calls it.
    pub(super) fn name(&self) -> String {
        hex(&self.0)
    }

    /// From what the shared tier calls it.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut key = [0; 32];
        let (pairs, rest) = name.as_bytes().as_chunks::<2>();
        if pairs.len() != key.len() || !rest.is_empty() {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(pairs) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(key))
    }
}

/// The places of one call: its principal's, and everybody's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    own: Key,
    public: Key,
    scope: Scope,
}

impl Keys {
    /// Of a call: the tool as it is described, all its params but `_meta` (neither blanks nor the order of members
    /// count, numbers are compared as they are written), whether the result is held against a schema, and who calls.
    pub(super) fn of(rules: &Rules, call: &Call, fits: bool) -> Self {
        let mut text = Vec::with_capacity(66 + call.principal.len());
        text.extend_from_slice(rules.identity());
        text.extend_from_slice(&digest(rules.method(), Some(&call.params)));
        text.push(u8::from(fits));
        text.push(b'*');
        let public = Key(sha256(&text));
        // Behind another letter: no principal is everybody.
        text.pop();
        text.push(b'=');
        text.extend_from_slice(call.principal.as_bytes());
        Self { own: Key(sha256(&text)), public, scope: rules.scope() }
    }

    pub(super) fn own(&self) -> Key {
        self.own
    }

    pub(super) fn public(&self) -> Key {
        self.public
    }

    /// Equal calls meet here.
    pub(super) fn flight(&self) -> Key {
        if self.scope == Scope::Public { self.public } else { self.own }
    }

    /// Where it can be.
    pub(super) fn looked_for(&self, rules: &Rules) -> impl Iterator<Item = Key> + use<> {
        let public = rules.may_be_public().then_some(self.public);
        std::iter::once(self.own).chain(public)
    }
}
