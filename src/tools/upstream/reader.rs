//! The common stream of a session: what belongs to no request of ours, and under 2024-11-05 everything.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{sleep, timeout};

use super::Common;
use super::asks::Ask;
use super::credentials::Credential;
use super::failure::{Failure, Kind};
use super::frames::Frames;
use super::http::Reply;
use super::session::{Owner, Session, Transport};
use crate::base::backoff::Backoff;
use crate::base::limits::UPSTREAM_REOPEN;
use crate::rpc::message::{Envelope, Message};
use crate::rpc::object::Object;
use crate::tools::hosted::changes::Ears;
use crate::tools::hosted::messages::progress_token;

/// The event that says where requests go (MCP 2024-11-05, transports).
const ENDPOINT: &str = "endpoint";

/// Opens a session over HTTP+SSE and begins to read its stream.
pub(super) async fn open_sse(
    common: &Arc<Common>,
    credential: &Arc<Credential>,
    owner: Owner,
    ears: Ears,
) -> Result<Arc<Session>, Failure> {
    let opening = async {
        let mut frames = match common.http.get(credential.headers()).await? {
            Reply::Stream(_, frames) => frames,
            Reply::Status(refusal) => return Err(common.http.refused(&refusal, &credential.whose)),
            Reply::Json(..) | Reply::Nothing(_) => {
                return Err(common.http.trouble(Kind::Down, false, "has no event stream at this address"));
            }
        };
        match frames.next().await {
            Ok(Some(event)) if event.event.as_deref() == Some(ENDPOINT) => Ok((frames, event.data)),
            Ok(Some(_)) => {
                let what =
                    "does not begin its event stream with the address for requests (HTTP+SSE of 2024-11-05)";
                Err(common.http.trouble(Kind::Down, false, what))
            }
            Ok(None) => Err(common.http.trouble(Kind::Down, false, "ended its event stream at once")),
            Err(why) => {
                Err(common.http.trouble(Kind::Down, false, &format!("broke its event stream off: {why}")))
            }
        }
    };
    let (frames, address) = match timeout(common.within, opening).await {
        Ok(opened) => opened?,
        Err(_) => {
            let what = format!("did not open an event stream within {} s", common.within.as_secs());
            return Err(common.http.trouble(Kind::Down, false, &what).into());
        }
    };
    let address = String::from_utf8_lossy(&address).into_owned();
    let to = common.http.url.join(address.trim()).ok().filter(|to| to.origin() == common.http.url.origin());
    let Some(to) = to else {
        let what = "names an address for requests that is not its own: credentials are not sent there";
        return Err(common.http.trouble(Kind::Down, false, what).into());
    };
    let session = Session::new(common, credential, owner, ears, Transport::Sse(to));
    let (weak, gone) = (Arc::downgrade(&session), session.gone.clone());
    tokio::spawn(async move {
        // What comes is for the calls of the session, which have a time of their own.
        let mut frames = frames.patient();
        tokio::select! {
            () = gone.cancelled() => {}
            _ = read(&weak, &mut frames) => {
                // The session lives as long as its stream.
                gone.cancel();
                if let Some(session) = weak.upgrade() {
                    session.lost();
                }
            }
        }
    });
    Ok(session)
}

/// Reads the common stream of a Streamable HTTP session for as long as there is one, opened anew when it breaks.
pub(super) fn read_from_now_on(session: &Arc<Session>) {
    let (weak, gone) = (Arc::downgrade(session), session.gone.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = gone.cancelled() => {}
            () = keep_reading(&weak) => {}
        }
    });
}

async fn keep_reading(weak: &Weak<Session>) {
    let (first, longest) = UPSTREAM_REOPEN;
    let mut backoff = Backoff::new(first, longest);
    let mut cursor: Option<String> = None;
    let mut retry: Option<Duration> = None;
    let mut was_open = false;
    loop {
        let Some(session) = weak.upgrade() else { return };
        let reply = session.common.http.get(session.headers_to_resume(cursor.as_deref())).await;
        let opened = match reply {
            Ok(Reply::Stream(_, frames)) => {
                if std::mem::replace(&mut was_open, true) && cursor.is_none() {
                    session.missed();
                }
                Some(frames)
            }
            Ok(Reply::Status(refusal)) => {
                match refusal.status.as_u16() {
                    // It has no such stream (MCP 2025-03-26, transports). Where only POST has a route, GET is 404.
                    404..=406 | 501 if !was_open => return,
                    // It had one, so it may be another server by now.
                    405 | 406 | 501 => {
                        session.missed();
                        return;
                    }
                    // The event is not known any more: the stream begins anew, and what was missed is missed.
                    400 if cursor.take().is_some() => session.missed(),
                    _ if was_open && session.is_lost(&refusal, None) => {
                        session.lost();
                        return;
                    }
                    status => {
                        tracing::debug!(server = %session.common.http.server, status, "the common stream is not opened");
                    }
                }
                None
            }
            // Not a stream: there is nothing to read, now or later.
            Ok(Reply::Json(..) | Reply::Nothing(_)) => return,
            Err(trouble) => {
                tracing::debug!("the common stream is not opened: {trouble}");
                None
            }
        };
        // Nobody is kept by being read for.
        drop(session);
        if let Some(mut frames) = opened {
            if read(weak, &mut frames).await {
                backoff.reset();
            }
            cursor = frames.last_event_id().map(str::to_owned).or(cursor);
            retry = frames.retry().or(retry);
        }
        let pause = retry.unwrap_or_default().max(backoff.wait()).min(longest);
        sleep(pause).await;
    }
}

/// Reads until the stream ends. Whether anything came.
async fn read(weak: &Weak<Session>, frames: &mut Frames) -> bool {
    let mut heard = false;
    loop {
        let event = match frames.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return heard,
            Err(why) => {
                tracing::debug!("the common stream of a session broke: {why}");
                return heard;
            }
        };
        let Some(session) = weak.upgrade() else { return heard };
        heard = true;
        sort(&session, &event.data.into());
    }
}

fn sort(session: &Arc<Session>, text: &Bytes) {
    match Envelope::parse(text) {
        Ok(Envelope::One(message)) => pass(session, &message, text),
        Ok(Envelope::Batch(messages)) => {
            for raw in messages {
                if let Ok(message) = Message::parse(raw.get()) {
                    pass(session, &message, &Bytes::copy_from_slice(raw.get().as_bytes()));
                }
            }
        }
        Err(malformed) => {
            let why = malformed.error.message;
            tracing::debug!(server = %session.common.http.server, "an event that is no message: {why}");
        }
    }
}

/// Gives a message to whom it belongs.
fn pass(session: &Arc<Session>, message: &Message<'_>, text: &Bytes) {
    let side = match message {
        Message::Response(response) => {
            let side = response.id.get().parse().ok().and_then(|id| session.side_of(id));
            // An answer is never dropped: it waits until its call has taken what came before it.
            if let Some(side) = &side
                && let Err(TrySendError::Full(text)) = side.try_send(text.clone())
            {
                let side = side.clone();
                tokio::spawn(async move { side.send(text).await });
            }
            return;
        }
        Message::Request(request) => {
            let Some(side) = session.addressee(request.params) else {
                if is_question(&request.method) && session.keep_early(text) {
                    return;
                }
                if let Some(ask) = Ask::of(session, request) {
                    ask.refuse("this question belongs to no single running call, so there is nobody to ask");
                }
                return;
            };
            if side.try_send(text.clone()).is_err()
                && let Some(ask) = Ask::of(session, request)
            {
                ask.refuse("the client is behind with the messages of this call; ask later");
            }
            return;
        }
        Message::Notification(note) => match (&*note.method, note.params) {
            ("notifications/progress", Some(params)) => {
                progress_token(params).and_then(|id| session.side_of(id))
            }
            ("notifications/message", params) => session.addressee(params),
            ("notifications/cancelled", Some(params)) => {
                if Object::parse(params.get()).is_ok_and(|params| params.get("requestId").is_some()) {
                    for side in session.all_sides() {
                        let _ = side.try_send(text.clone());
                    }
                }
                return;
            }
            _ => {
                if !session.ears.hear(&session.common.http.server, note) {
                    tracing::debug!(server = %session.common.http.server, method = %note.method, "a notification that is not passed on");
                }
                return;
            }
        },
    };
    // A call whose client is far behind misses progress and logs.
    if side.is_none_or(|side| side.try_send(text.clone()).is_err()) {
        tracing::debug!(server = %session.common.http.server, "a message on the common stream that no call takes");
    }
}

fn is_question(method: &str) -> bool {
    matches!(method, "elicitation/create" | "sampling/createMessage" | "roots/list")
}
