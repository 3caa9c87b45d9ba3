//! Which session of a remote server belongs to a session of ours: kept with it, so that it is gone on with after a restart
//! of this server, and on another instance.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::HeaderValue;
use serde::{Deserialize, Serialize};

use super::Common;
use super::session::Session;
use crate::tools::SessionView;

/// What is kept.
#[derive(Debug)]
pub(super) struct Kept {
    /// The session's id; none when it has none, or belongs to another address.
    pub(super) id: Option<HeaderValue>,
}

#[derive(Deserialize, Serialize)]
struct Record {
    id: String,
    /// The address: an id is for the server that gave it, and for nobody else.
    at: String,
}

/// What was kept with a session; none: it never had one in this server.
pub(super) async fn of(common: &Common, view: &dyn SessionView) -> Option<Kept> {
    let seen = Arc::<Mutex<Option<Bytes>>>::default();
    let found = Arc::clone(&seen);
    let name = name(common);
    let look = view.change_value(
        &name,
        Box::new(move |value| {
            *found.lock().unwrap_or_else(PoisonError::into_inner) = value.cloned();
            None
        }),
    );
    if let Err(error) = look.await {
        tracing::debug!(server = %common.http.server, session = view.key(), %error, "what is kept with the session is not known");
    }
    let value = seen.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let record: Option<Record> = serde_json::from_slice(&value).ok();
    let id =
        record.filter(|record| record.at == common.http.shown && !record.id.is_empty()).and_then(|record| {
            let mut id = HeaderValue::from_str(&record.id).ok()?;
            id.set_sensitive(true);
            Some(id)
        });
    Some(Kept { id })
}

/// Keeps which session it is now.
pub(super) async fn keep(common: &Common, view: &dyn SessionView, session: &Session) {
    let record = Record { id: session.id().unwrap_or_default().to_owned(), at: common.http.shown.clone() };
    let Ok(text) = serde_json::to_vec(&record) else { return };
    let name = name(common);
    let kept = view.change_value(&name, Box::new(move |_| Some(Bytes::from(text))));
    if let Err(error) = kept.await {
        tracing::debug!(server = %common.http.server, session = view.key(), %error, "that the session has one in the server is not kept");
    }
}

fn name(common: &Common) -> String {
    format!("outlast.upstream.{}", common.http.server)
}
