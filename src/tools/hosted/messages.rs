//! Messages of a hosted server on their way to the client of a call.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base::limits::EXCERPT_BYTES;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::rpc::message::notification;
use crate::rpc::object::{Change, Object};
use crate::tools::LogLevel;

/// The request that progress is of: our tokens are the numbers of requests.
pub(in crate::tools) fn progress_token(params: &RawValue) -> Option<u64> {
    Object::parse(params.get()).ok()?.get("progressToken")?.get().parse().ok()
}

/// Progress with the caller's token in place of ours.
pub(in crate::tools) fn progress_for(params: &RawValue, token: &RawValue) -> Bytes {
    let params = match Object::parse(params.get()) {
        Ok(params) => params.with(|key, _| match key {
            "progressToken" => Change::Set(token.get().to_owned()),
            _ => Change::Keep,
        }),
        Err(_) => params.get().to_owned(),
    };
    notification("notifications/progress", &params)
}

/// How severe a log message is.
pub(in crate::tools) fn level_of(params: &RawValue) -> Option<LogLevel> {
    #[derive(Deserialize)]
    struct Log<'a> {
        #[serde(borrow)]
        level: Cow<'a, str>,
    }
    serde_json::from_str::<Log<'_>>(params.get()).ok().and_then(|log| LogLevel::parse(&log.level))
}

/// A hosted server's error as it is; what is none becomes one.
pub(in crate::tools) fn error_of(server: &str, error: &RawValue) -> RpcError {
    serde_json::from_str(error.get()).unwrap_or_else(|_| {
        RpcError::new(
            INTERNAL,
            format!(
                "server {server:?} answered with an error of no known form: {}",
                excerpt(error.get().as_bytes(), EXCERPT_BYTES)
            ),
        )
    })
}

/// The beginning of a text, for a log.
pub(in crate::tools) fn excerpt(text: &[u8], at_most: usize) -> String {
    let shown = String::from_utf8_lossy(text.get(..at_most).unwrap_or(text)).into_owned();
    if text.len() > at_most { format!("{shown}… ({} bytes)", text.len()) } else { shown }
}
