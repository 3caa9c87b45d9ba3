//! The key that a client gives a call, so that the same call made again is not run again.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Outcome, Plan};
use crate::base::limits::IDEMPOTENCY_KEY_BYTES;
use crate::base::seal::{hex, sha256};
use crate::mcp::input::digest;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::tools::{BoxFuture, Call};

/// Member of a call's `_meta`.
pub const IDEMPOTENCY_KEY: &str = "io.outlast/idempotencyKey";

/// Member of a call's `_meta` beside the key: what stands for its arguments, where a part of them was filled in and may be
/// filled in differently when the call is made again.
pub const GIVEN: &str = "outlast/given";

/// Where it is kept what became of the calls that have keys: once for all instances that share a store.
pub trait Keyed: Send + Sync + 'static {
    /// Claims a key for a call that begins now, unless it is taken.
    ///
    /// # Errors
    /// When that cannot be known or kept: the call must not run.
    fn claim(&self, key: &Key, repeatable: bool) -> BoxFuture<'_, Result<Claim, RpcError>>;

    /// Says what became of a call that has claimed its key; resolves when it is kept, as far as it can be.
    fn settle(&self, key: &Key, claim: u64, settled: Settled) -> BoxFuture<'_, ()>;
}

/// A key of a principal's, and the call that it was given for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Names the principal and its key, and proves nothing: a hash.
    pub name: String,
    /// Of the tool and its arguments.
    pub call: [u8; 32],
}

/// Whose a key is.
#[derive(Debug)]
pub enum Claim {
    /// This call's, under this number.
    Ours(u64),
    /// That of a call that has ended so.
    Ended(Outcome),
    /// That of a call that runs in another process.
    Elsewhere,
    /// That of another call.
    OfAnother,
}

/// What became of a call.
#[derive(Debug)]
pub enum Settled {
    /// It ended so, and that stands.
    Ended(Outcome),
    /// It was not done, or may be done again: the key is free for the same call.
    Free,
}

/// What a call is known by to others that are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// By its key.
    Keyed(Key),
    /// By its principal, tool and arguments.
    Equal([u8; 32]),
}

impl Identity {
    /// Of a call; none: it is by itself.
    ///
    /// # Errors
    /// -32602 for a key that is none.
    pub(super) fn of(plan: &Plan, call: &Call) -> Result<Option<Self>, RpcError> {
        if let Some(Given { key, arguments }) = key_of(&call.params)? {
            let name = hash("key", &call.principal, key.as_bytes());
            let call = match arguments {
                Some(arguments) => hash("given", &plan.name, arguments.as_bytes()),
                None => digest("tools/call", Some(&call.params)),
            };
            return Ok(Some(Self::Keyed(Key { name: hex(&name), call })));
        }
        // A round of a call that asks is not the call.
        if !plan.joins_equals()
            || call.anew
            || call.params.get().contains("\"requestState\"")
            || call.params.get().contains("\"inputResponses\"")
        {
            return Ok(None);
        }
        // One whose result is held against a schema is another call.
        let mut whole = digest("tools/call", Some(&call.params)).to_vec();
        whole.push(plan.schemas.wants_result(call).into());
        Ok(Some(Self::Equal(hash("equal", &call.principal, &whole))))
    }

    /// A name for it in this process.
    pub(super) fn name(&self) -> [u8; 32] {
        match self {
            Self::Keyed(key) => sha256(key.name.as_bytes()),
            Self::Equal(hash) => *hash,
        }
    }
}

fn hash(kind: &str, principal: &str, rest: &[u8]) -> [u8; 32] {
    let mut text = format!("{kind}\0{}\0{principal}\0", principal.len()).into_bytes();
    text.extend_from_slice(rest);
    sha256(&text)
}

/// A key, and what stands for the arguments, if something does.
#[derive(Debug, PartialEq)]
struct Given {
    key: String,
    arguments: Option<String>,
}

/// The key in a call's parameters.
fn key_of(params: &RawValue) -> Result<Option<Given>, RpcError> {
    #[derive(Deserialize)]
    struct Params {
        #[serde(rename = "_meta")]
        meta: Option<Meta>,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "io.outlast/idempotencyKey")]
        key: Option<serde_json::Value>,
        #[serde(rename = "outlast/given")]
        arguments: Option<serde_json::Value>,
    }
    // Most calls have none, and are not read for it.
    if !params.get().contains(IDEMPOTENCY_KEY) {
        return Ok(None);
    }
    let meta = serde_json::from_str::<Params>(params.get()).ok().and_then(|params| params.meta);
    let Some(Meta { key, arguments }) = meta else { return Ok(None) };
    let arguments = arguments.and_then(|given| given.as_str().map(str::to_owned));
    match key {
        None => Ok(None),
        Some(serde_json::Value::String(key)) if (1..=IDEMPOTENCY_KEY_BYTES).contains(&key.len()) => {
            Ok(Some(Given { key, arguments }))
        }
        Some(_) => Err(RpcError::invalid_params(format!(
            "params._meta[\"{IDEMPOTENCY_KEY}\"]: want a string of 1 to {IDEMPOTENCY_KEY_BYTES} bytes, a new one for each call"
        ))),
    }
}

/// The refusal of a key that another call has.
pub(super) fn of_another() -> RpcError {
    RpcError::invalid_params(format!(
        "this {IDEMPOTENCY_KEY} was given to another call, of another tool or with other arguments: give each call a key of \
         its own"
    ))
    .with_data(&serde_json::json!({ "reason": "idempotencyKey" }))
}

/// What stands for a call that was ended by those who wanted it.
pub(super) fn given_up() -> RpcError {
    RpcError::new(
        INTERNAL,
        "the call of this idempotency key was cancelled while it ran: whether it took effect is not known",
    )
    .with_data(&serde_json::json!({ "reason": "cancelled", "retry": "unsafe unless the tool is idempotent" }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::answer::raw;

    fn key(params: &str) -> Result<Option<String>, RpcError> {
        key_of(&raw(params.into())).map(|given| given.map(|given| given.key))
    }

    #[test]
    fn a_key_is_a_string_in_the_meta_and_nothing_else() {
        let with =
            |value: &str| key(&format!("{{\"name\":\"t\",\"_meta\":{{\"{IDEMPOTENCY_KEY}\":{value}}}}}"));
        assert_eq!(with("\"a\\u0062\"").unwrap().as_deref(), Some("ab"));
        assert_eq!(with("null").unwrap(), None);
        assert_eq!(key(&format!("{{\"arguments\":{{\"{IDEMPOTENCY_KEY}\":\"x\"}}}}")).unwrap(), None);
        for odd in ["\"\"", "7", "{}", &format!("{:?}", "x".repeat(IDEMPOTENCY_KEY_BYTES + 1))] {
            assert_eq!(with(odd).unwrap_err().code, crate::rpc::error::INVALID_PARAMS, "{odd}");
        }
    }

    #[test]
    fn names_of_two_principals_never_meet() {
        assert_ne!(hash("key", "a", b"b"), hash("key", "ab", b""));
        assert_ne!(hash("key", "a\0", b"b"), hash("key", "a", b"\0b"));
        assert_ne!(hash("key", "a", b"b"), hash("equal", "a", b"b"));
    }
}
