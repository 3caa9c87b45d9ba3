//! Changes in a remote server of 2026-07-28: one stream that names what is wanted, opened anew when that changes.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Common;
use super::credentials::Credential;
use super::failure::{Failure, Kind};
use super::frames::Frames;
use super::http::Reply;
use super::modern::{Asked, judge};
use crate::base::backoff::Backoff;
use crate::base::limits::UPSTREAM_REOPEN;
use crate::rpc::error::{METHOD_NOT_FOUND, RpcError};
use crate::rpc::message::{self, Envelope, Message, quote};
use crate::tools::hosted::changes::{Ears, Wanted};

const LISTEN: &str = "subscriptions/listen";
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
/// A stream that is replaced is read for so much longer: what was said on it may still be on its way.
const OVERLAP: Duration = Duration::from_secs(2);

/// The streams of one server, by the principal whose credentials they have.
#[derive(Default)]
pub(super) struct Listeners(Mutex<HashMap<Option<Arc<str>>, Arc<Listener>>>);

/// One stream of changes.
pub(super) struct Listener {
    pub(super) wanted: Arc<Wanted>,
    /// How often what is wanted has changed.
    version: AtomicU64,
    changed: Notify,
    honoured: watch::Sender<Honoured>,
    closing: CancellationToken,
}

/// What the server said that it tells of.
#[derive(Clone, Debug, Default)]
struct Honoured {
    /// The version of what was wanted then.
    version: u64,
    uris: HashSet<String>,
    /// It does not tell of anything.
    never: bool,
}

impl Listeners {
    /// The stream for these credentials, of what is `wanted`; the common one is told of changes of lists, too.
    pub(super) fn of(
        &self,
        common: &Arc<Common>,
        credential: &Arc<Credential>,
        wanted: &Arc<Wanted>,
    ) -> Arc<Listener> {
        let mut all = self.lock();
        let listener = all.entry(credential.principal.clone()).or_insert_with(|| {
            let listener = Arc::new(Listener {
                wanted: Arc::clone(wanted),
                version: AtomicU64::new(1),
                changed: Notify::new(),
                honoured: watch::Sender::default(),
                closing: common.closing.child_token(),
            });
            let closing = listener.closing.clone();
            let run = run(Arc::clone(&listener), Arc::clone(common), Arc::clone(credential));
            tokio::spawn(async move {
                tokio::select! {
                    () = closing.cancelled() => {}
                    () = run => {}
                }
            });
            listener
        });
        Arc::clone(listener)
    }

    /// Those that there are.
    pub(super) fn all(&self) -> Vec<Arc<Listener>> {
        self.lock().values().cloned().collect()
    }

    /// Forgets those that the server refused: it may have another mind now.
    pub(super) fn forget_refused(&self) {
        self.lock().retain(|_, listener| !listener.honoured.borrow().never);
    }

    /// Ends all streams: the server speaks another revision now.
    pub(super) fn clear(&self) {
        for listener in std::mem::take(&mut *self.lock()).into_values() {
            listener.closing.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<Arc<str>>, Arc<Listener>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Subscribes; resolves when the server has said that it tells of it.
    pub(super) async fn subscribe(
        &self,
        common: &Common,
        uri: &str,
        subscriber: &Arc<str>,
    ) -> Result<(), RpcError> {
        self.wanted.add(uri, subscriber);
        let version = self.wish();
        let mut honoured = self.honoured.subscribe();
        let told = honoured.wait_for(|honoured| honoured.never || honoured.version >= version);
        let outcome = match timeout(common.within, told).await {
            Ok(Ok(honoured)) if honoured.uris.contains(uri) => Ok(()),
            Ok(Ok(_)) => Err(RpcError::invalid_params(format!(
                "server {:?} does not tell of changes of {uri:?}",
                &*common.http.server
            ))),
            Ok(Err(_)) | Err(_) => Err(RpcError::internal(format!(
                "server {:?} did not say within {} s whether it tells of changes",
                &*common.http.server,
                common.within.as_secs()
            ))),
        };
        if outcome.is_err() && self.wanted.remove(uri, subscriber) {
            self.wish();
        }
        outcome
    }

    pub(super) fn unsubscribe(&self, uri: &str, subscriber: &str) {
        if self.wanted.remove(uri, subscriber) {
            self.wish();
        }
    }

    pub(super) fn release(&self, subscriber: &str) {
        if !self.wanted.release(subscriber).is_empty() {
            self.wish();
        }
    }

    /// What is wanted has changed.
    fn wish(&self) -> u64 {
        let version = self.version.fetch_add(1, Ordering::AcqRel) + 1;
        self.changed.notify_one();
        version
    }
}

/// Keeps the stream open. What happened while it was not nobody knows, so all of it counts as changed.
async fn run(this: Arc<Listener>, common: Arc<Common>, credential: Arc<Credential>) {
    let (first, longest) = UPSTREAM_REOPEN;
    let mut backoff = Backoff::new(first, longest);
    let lists = credential.principal.is_none();
    let ears = Ears {
        lists: common.ears.lists.clone(),
        news: Arc::clone(&common.ears.news),
        wanted: Arc::clone(&this.wanted),
    };
    let mut old: Option<Box<Frames>> = None;
    let mut was_broken = false;
    loop {
        let version = this.version.load(Ordering::Acquire);
        let uris = this.wanted.uris();
        if !lists && uris.is_empty() {
            old = None;
            this.changed.notified().await;
            continue;
        }
        match open(&common, &credential, lists, &uris).await {
            Ok((frames, honoured)) => {
                let opened = Instant::now();
                if let Some(old) = old.take() {
                    let (common, ears) = (Arc::clone(&common), ears_like(&ears));
                    tokio::spawn(async move {
                        let mut old = old;
                        let _ = timeout(OVERLAP, hear(&common, &ears, &mut old)).await;
                    });
                }
                if std::mem::take(&mut was_broken) {
                    for uri in &uris {
                        ears.news.updated(&this.wanted, uri);
                    }
                    common.look_again.notify_one();
                }
                this.honoured.send_replace(Honoured { version, uris: honoured, never: false });
                let mut frames = frames;
                tokio::select! {
                    () = this.changed.notified() => {
                        old = Some(frames);
                        continue;
                    }
                    why = hear(&common, &ears, &mut frames) => {
                        was_broken = true;
                        tracing::debug!(server = %common.http.server, "the stream of changes ended: {why}");
                        // One that ends as soon as it is open is not opened the faster for having been open.
                        if opened.elapsed() >= longest {
                            backoff.reset();
                        }
                    }
                }
            }
            Err(Failure::Answer(error)) if error.code == METHOD_NOT_FOUND => {
                tracing::debug!(server = %common.http.server, "it tells of no changes: {error}");
                this.honoured.send_replace(Honoured { version, uris: HashSet::new(), never: true });
                return;
            }
            Err(failure) => {
                was_broken = true;
                tracing::debug!("the stream of changes is not opened: {failure}");
            }
        }
        let changed = this.changed.notified();
        tokio::select! {
            () = changed => {}
            () = sleep(backoff.wait()) => {}
        }
    }
}

fn ears_like(ears: &Ears) -> Ears {
    Ears { lists: ears.lists.clone(), news: Arc::clone(&ears.news), wanted: Arc::clone(&ears.wanted) }
}

/// Opens the stream; what the server says that it tells of.
async fn open(
    common: &Common,
    credential: &Credential,
    lists: bool,
    uris: &[String],
) -> Result<(Box<Frames>, HashSet<String>), Failure> {
    let mut wanted: Vec<String> = Vec::new();
    if lists {
        wanted.extend(
            ["toolsListChanged", "promptsListChanged", "resourcesListChanged"]
                .map(|name| format!("\"{name}\":true")),
        );
    }
    if !uris.is_empty() {
        let uris: Vec<String> = uris.iter().map(|uri| quote(uri)).collect();
        wanted.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
    }
    let asked = Asked::plain(LISTEN, format!("{{\"notifications\":{{{}}}}}", wanted.join(",")));
    let Some(params) = asked.enveloped() else {
        return Err(Failure::Answer(RpcError::invalid_params("params: want an object")));
    };
    let body = message::request(&common.next_id().to_string(), LISTEN, &params);
    let opening = async {
        let mut frames = match common.http.post(&common.http.url, asked.headers(credential), body).await? {
            Reply::Stream(_, frames) => frames,
            Reply::Json(_, body) => return Err(no_stream(common, &body)),
            Reply::Nothing(_) => return Err(no_stream(common, b"")),
            Reply::Status(refusal) => {
                let trouble = common.http.refused(&refusal, &credential.whose);
                return Err(judge(&refusal, trouble));
            }
        };
        match frames.next().await {
            Ok(Some(event)) => match acknowledged(&event.data) {
                Some(uris) => Ok((frames, uris)),
                None => Err(no_stream(common, &event.data)),
            },
            Ok(None) => Err(no_stream(common, b"")),
            Err(why) => Err(common
                .http
                .trouble(Kind::Down, false, &format!("broke off its stream of changes: {why}"))
                .into()),
        }
    };
    match timeout(common.within, opening).await {
        Ok(opened) => opened,
        Err(_) => {
            let what = format!("did not open a stream of changes within {} s", common.within.as_secs());
            Err(common.http.trouble(Kind::Down, false, &what).into())
        }
    }
}

/// What a stream of changes is told of, if this is how it begins.
fn acknowledged(data: &[u8]) -> Option<HashSet<String>> {
    #[derive(Deserialize)]
    struct Params {
        #[serde(default)]
        notifications: Wishes,
    }
    #[derive(Deserialize, Default)]
    struct Wishes {
        #[serde(rename = "resourceSubscriptions", default)]
        uris: HashSet<String>,
    }
    match Envelope::parse(data) {
        Ok(Envelope::One(Message::Notification(note))) if note.method == ACKNOWLEDGED => {
            let params: Params =
                serde_json::from_str(note.params.map_or("{}", |params| params.get())).ok()?;
            Some(params.notifications.uris)
        }
        _ => None,
    }
}

/// An answer that is no stream, or does not begin as one.
fn no_stream(common: &Common, body: &[u8]) -> Failure {
    if let Ok(Envelope::One(Message::Response(response))) = Envelope::parse(body)
        && let Err(error) = response.outcome
    {
        return Failure::Answer(crate::tools::hosted::messages::error_of(&common.http.server, error));
    }
    common
        .http
        .trouble(Kind::Down, false, "does not answer subscriptions/listen with a stream of changes")
        .into()
}

/// Reads until the stream ends, and says why it did.
async fn hear(common: &Common, ears: &Ears, frames: &mut Frames) -> String {
    loop {
        let event = match frames.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return "it ended".into(),
            Err(why) => return why,
        };
        match Envelope::parse(&event.data) {
            Ok(Envelope::One(Message::Notification(note))) => {
                if !ears.hear(&common.http.server, &note) {
                    tracing::debug!(server = %common.http.server, method = %note.method, "a notification that is not passed on");
                }
            }
            Ok(Envelope::One(Message::Response(_))) => return "the server ended it".into(),
            _ => {
                tracing::debug!(server = %common.http.server, "an event of the stream of changes that is no notification")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_begins_with_what_the_server_tells_of() {
        let ack = |params: &str| acknowledged(&message::notification(ACKNOWLEDGED, params));
        assert_eq!(ack("{}"), Some(HashSet::new()));
        let uris =
            ack(r#"{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a"]}}"#).unwrap();
        assert_eq!(uris, HashSet::from(["a".to_owned()]));
        assert_eq!(acknowledged(&message::notification("notifications/tools/list_changed", "{}")), None);
        assert_eq!(acknowledged(b"nonsense"), None);
    }
}
