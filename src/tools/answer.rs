//! Results of `tools/call` that the server itself makes.

use serde_json::value::RawValue;

use crate::rpc::message::quote;

/// Key in a failed result's `_meta`: whether the call may be made again without being run twice.
pub const RETRY_SAFE: &str = "outlast/retrySafe";

/// Key in a failed result's `_meta`: it failed because its time was over.
pub const TIMED_OUT: &str = "outlast/timedOut";

/// Key in a failed result's `_meta`: it will fail for a while, so that making it again soon is of no use.
pub const LASTING: &str = "outlast/lasting";

/// Key in a failed result's `_meta`: the tool did not run, because its arguments do not fit its schema.
pub const INVALID_ARGUMENTS: &str = "outlast/invalidArguments";

/// JSON text as a value. Text that is not JSON becomes `null`.
#[must_use]
pub fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A result with one text.
#[must_use]
pub fn text(text: &str) -> Box<RawValue> {
    quoted_text(&quote(text))
}

/// A result with one text that is a JSON string already.
#[must_use]
pub fn quoted_text(quoted: &str) -> Box<RawValue> {
    const HEAD: &str = "{\"content\":[{\"type\":\"text\",\"text\":";
    const TAIL: &str = "}]}";
    let mut json = String::with_capacity(HEAD.len() + quoted.len() + TAIL.len());
    json.push_str(HEAD);
    json.push_str(quoted);
    json.push_str(TAIL);
    raw(json)
}

/// A tool's own failure: a result with `isError`, so that the model reads it.
#[must_use]
pub fn failure(text: &str) -> Box<RawValue> {
    raw(format!("{{\"content\":[{{\"type\":\"text\",\"text\":{}}}],\"isError\":true}}", quote(text)))
}

/// A failure that says whether the call may be made again without being run twice.
#[must_use]
pub fn failure_with_retry(text: &str, retry_safe: bool) -> Box<RawValue> {
    raw(format!(
        "{{\"content\":[{{\"type\":\"text\",\"text\":{}}}],\"isError\":true,\"_meta\":{{\"{RETRY_SAFE}\":{retry_safe}}}}}",
        quote(text)
    ))
}

/// A failure of a call whose time was over.
#[must_use]
pub fn timed_out(text: &str, retry_safe: bool) -> Box<RawValue> {
    raw(format!(
        "{{\"content\":[{{\"type\":\"text\",\"text\":{}}}],\"isError\":true,\"_meta\":{{\"{RETRY_SAFE}\":{retry_safe},\"{TIMED_OUT}\":true}}}}",
        quote(text)
    ))
}

/// A failure that will last a while.
#[must_use]
pub fn lasting_failure(text: &str, retry_safe: bool) -> Box<RawValue> {
    raw(format!(
        "{{\"content\":[{{\"type\":\"text\",\"text\":{}}}],\"isError\":true,\"_meta\":{{\"{RETRY_SAFE}\":{retry_safe},\"{LASTING}\":true}}}}",
        quote(text)
    ))
}

/// A failure of a call that was not begun: its arguments do not fit.
#[must_use]
pub fn invalid_arguments(text: &str) -> Box<RawValue> {
    raw(format!(
        "{{\"content\":[{{\"type\":\"text\",\"text\":{}}}],\"isError\":true,\"_meta\":{{\"{INVALID_ARGUMENTS}\":true}}}}",
        quote(text)
    ))
}
