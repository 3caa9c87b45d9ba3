//! A session's child that is not the one that the session had: after a crash, an idle time, a restart of this server, or
//! on another instance. What the child before kept in its memory is gone, and the session's client is told with the first
//! answer of the new one: in the result's `_meta`, and as a log message where the client takes those. Under 2026-07-28
//! there are no sessions, and so no child that belongs to one: what lasts is kept under handles.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use crate::rpc::message::notification;
use crate::rpc::object::{Object, with_member};
use crate::tools::answer::raw;
use crate::tools::{Call, LogLevel, SessionView};

/// Key in the `_meta` of a result: the child that ran the call was started anew for its session.
pub const STARTED_ANEW: &str = "outlast/startedAnew";

/// Whether a session has had a child of this server before. `introduced`: whether this child has been asked about. The
/// answer is kept in the session, so it is written once for each server that a session uses.
pub(in crate::tools) async fn had_one_before(
    server: &str,
    introduced: &AtomicBool,
    session: Option<&Arc<dyn SessionView>>,
) -> bool {
    let Some(session) = session else { return false };
    if introduced.swap(true, Ordering::AcqRel) {
        return false;
    }
    let before = Arc::<AtomicBool>::default();
    let seen = Arc::clone(&before);
    let name = format!("outlast.child.{server}");
    let changed = session.change_value(
        &name,
        Box::new(move |value| {
            seen.store(value.is_some(), Ordering::Release);
            value.is_none().then(|| Bytes::from_static(b"1"))
        }),
    );
    if let Err(error) = changed.await {
        tracing::debug!(server, session = session.key(), %error, "that the session has a child could not be kept");
    }
    before.load(Ordering::Acquire)
}

/// Tells the client of a call, whose result this is.
pub(in crate::tools) async fn tell(server: &str, call: &Call, result: Box<RawValue>) -> Box<RawValue> {
    let text = format!(
        "server {server:?} was started anew for this session: what it kept in memory for the session is gone"
    );
    tracing::info!(
        server,
        session = call.session.as_ref().map(|session| session.key()),
        "started anew for its session"
    );
    if call.out.wants_log(LogLevel::Warning) {
        let data =
            json!({ "level": "warning", "logger": "outlast", "data": { "server": server, "message": text } });
        // The call's end says what is wrong with it.
        let _ = call.out.notify(notification("notifications/message", &data.to_string())).await;
    }
    let meta =
        Object::parse(result.get()).ok().and_then(|result| result.get("_meta")).map_or("{}", RawValue::get);
    let said = json!({ "server": server, "message": text }).to_string();
    let told =
        with_member(meta, STARTED_ANEW, &said).and_then(|meta| with_member(result.get(), "_meta", &meta));
    told.map_or(result, raw)
}
