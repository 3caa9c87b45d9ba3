//! One request to a remote server: it is sent, and everything that belongs to it is read until its answer is there.
//!
//! Who waits for the answer reads the stream, so a client that is slow holds up its own call and nobody else's. What the
//! server asks on that stream is asked for this call. Messages that come on the common stream of a session reach their
//! call by a queue of their own ([`Session::read`](super::session::Session)).

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::HeaderMap;
use reqwest::Url;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Common;
use super::asks::Ask;
use super::failure::{Failure, Kind, Trouble};
use super::frames::Frames;
use super::http::{Refusal, Reply};
use super::session::Session;
use crate::base::backoff::Backoff;
use crate::base::limits::{ASKS_PER_CALL, UPSTREAM_GARBAGE, UPSTREAM_REOPEN, UPSTREAM_RESUMES};
use crate::rpc::error::RpcError;
use crate::rpc::message::{Envelope, Message, Notification, Request, Response};
use crate::rpc::object::Object;
use crate::tools::hosted::messages::{error_of, level_of, progress_for, progress_token};
use crate::tools::{BoxFuture, Outbox};

/// Who hears what comes before the answer.
#[derive(Clone, Copy)]
pub(super) struct Hearing<'a> {
    /// The number that stands for the caller's progress token, and that token.
    pub(super) token: Option<(u64, &'a RawValue)>,
    pub(super) out: Option<&'a Arc<dyn Outbox>>,
    /// Questions that wait for the caller's answer.
    pub(super) asking: &'a AtomicUsize,
    /// Set as soon as the server has begun to answer.
    pub(super) headed: &'a AtomicBool,
}

/// A request as it is sent.
pub(super) struct Sent<'a> {
    pub(super) id: u64,
    pub(super) to: &'a Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Where its credentials stand in the configuration.
    pub(super) whose: &'a str,
}

/// The result of a request, or the server's error.
type Answer = Result<Box<RawValue>, RpcError>;

/// Sends a request and reads until its answer. `session`: the one it belongs to; none under 2026-07-28. `side`: what
/// comes for it on the session's common stream. Dropping it sends nothing: whoever drops it tells the server.
pub(super) async fn exchange(
    common: &Common,
    session: Option<&Arc<Session>>,
    request: Sent<'_>,
    hearing: Hearing<'_>,
    side: Option<mpsc::Receiver<Bytes>>,
) -> Result<Box<RawValue>, Failure> {
    let (first, longest) = UPSTREAM_REOPEN;
    let exchange = Exchange {
        common,
        session,
        id: request.id,
        whose: request.whose,
        hearing,
        asks: FuturesUnordered::new(),
        withdrawals: HashMap::new(),
        garbage: 0,
        cursor: None,
        resumes: 0,
        backoff: Backoff::new(first, longest),
        retry: None,
    };
    let posting = common.http.post(request.to, request.headers, request.body);
    exchange.run(Source::Opening(Box::pin(posting)), side).await
}

struct Exchange<'a> {
    common: &'a Common,
    session: Option<&'a Arc<Session>>,
    id: u64,
    whose: &'a str,
    hearing: Hearing<'a>,
    asks: FuturesUnordered<BoxFuture<'static, String>>,
    /// Questions that the server may take back.
    withdrawals: HashMap<String, CancellationToken>,
    /// Events in a row that were no messages.
    garbage: usize,
    /// Where a broken stream is resumed.
    cursor: Option<String>,
    /// How often it was, since something came.
    resumes: usize,
    backoff: Backoff,
    /// How long the server wants to be waited before that.
    retry: Option<Duration>,
}

/// Where the answer comes from.
enum Source<'a> {
    /// The server has not begun to answer.
    Opening(BoxFuture<'a, Result<Reply, Trouble>>),
    Stream(Box<Frames>),
    /// Until the stream is opened anew.
    Pause(BoxFuture<'static, ()>),
    /// It comes on the session's common stream, as long as there is one.
    Elsewhere(CancellationToken),
}

enum Step {
    Head(Result<Reply, Trouble>),
    Message(Bytes),
    Ended(Option<String>),
    Reopen,
}

impl Source<'_> {
    /// May be dropped and called again without loss.
    async fn next(&mut self) -> Step {
        match self {
            Self::Opening(reply) => Step::Head(reply.await),
            Self::Stream(frames) => match frames.next().await {
                Ok(Some(event)) => Step::Message(event.data.into()),
                Ok(None) => Step::Ended(None),
                Err(why) => Step::Ended(Some(why)),
            },
            Self::Pause(pause) => {
                pause.await;
                Step::Reopen
            }
            Self::Elsewhere(gone) => {
                gone.cancelled().await;
                Step::Ended(Some("the stream of its session ended".into()))
            }
        }
    }
}

impl<'a> Exchange<'a> {
    async fn run(
        mut self,
        mut source: Source<'a>,
        mut side: Option<mpsc::Receiver<Bytes>>,
    ) -> Result<Box<RawValue>, Failure> {
        loop {
            let step = tokio::select! {
                biased;
                Some(answered) = self.asks.next(), if !self.asks.is_empty() => {
                    self.withdrawals.remove(&answered);
                    self.count_asks();
                    continue;
                }
                Some(message) = aside(side.as_mut()) => Step::Message(message),
                step = source.next() => step,
            };
            match step {
                Step::Message(message) => {
                    if let Some(answer) = self.take(&message).await? {
                        return answer.map_err(Failure::Answer);
                    }
                }
                Step::Head(Ok(reply)) => {
                    self.hearing.headed.store(true, Ordering::Release);
                    match self.begun(reply).await? {
                        Begun::Over(answer) => return answer.map_err(Failure::Answer),
                        Begun::From(from) => source = from,
                    }
                }
                Step::Head(Err(trouble)) if self.cursor.is_none() => return Err(trouble.into()),
                Step::Head(Err(trouble)) => source = self.again(&trouble.why)?,
                Step::Ended(why) => {
                    if let Source::Stream(frames) = &source {
                        if let Some(id) = frames.last_event_id() {
                            self.cursor = Some(id.to_owned());
                        }
                        self.retry = frames.retry().or(self.retry);
                    }
                    source = self.again(why.as_deref().unwrap_or("it ended"))?;
                }
                Step::Reopen => source = self.reopen()?,
            }
        }
    }

    /// What the beginning of an answer means.
    async fn begun(&mut self, reply: Reply) -> Result<Begun<'a>, Failure> {
        match reply {
            Reply::Stream(headers, frames) => {
                self.saw(&headers)?;
                // Who waits for the answer has a time of its own, in which the server may be silent.
                Ok(Begun::From(Source::Stream(frames.patient())))
            }
            Reply::Json(headers, body) => {
                self.saw(&headers)?;
                match self.take(&body).await? {
                    Some(answer) => Ok(Begun::Over(answer)),
                    None => Err(self.broken("answered with JSON that is no answer to the request").into()),
                }
            }
            Reply::Nothing(headers) => {
                self.saw(&headers)?;
                match self.session {
                    Some(session) if session.answers_elsewhere() => {
                        Ok(Begun::From(Source::Elsewhere(session.gone.clone())))
                    }
                    _ => Err(self.broken("took the request and gave no answer").into()),
                }
            }
            Reply::Status(refusal) if self.cursor.is_some() => match refusal.status.as_u16() {
                404 => {
                    if let Some(session) = self.session {
                        session.lost();
                    }
                    let what = "ended the session while the call ran, and the answer with it";
                    Err(self.common.http.trouble(Kind::Gone, true, what).into())
                }
                status @ (400 | 405 | 406 | 501) => {
                    Err(self.broken(&format!("broke off its answer, which is not resumed ({status})")).into())
                }
                status => Ok(Begun::From(self.again(&format!("the stream is not resumed ({status})"))?)),
            },
            Reply::Status(refusal) => Err(self.refused(&refusal)),
        }
    }

    fn saw(&self, headers: &HeaderMap) -> Result<(), Failure> {
        match self.session {
            Some(session) => session.saw(headers),
            None => Ok(()),
        }
    }

    /// A stream broke before the answer: it is resumed where that can be done.
    fn again(&mut self, why: &str) -> Result<Source<'a>, Failure> {
        let resumable =
            self.session.is_some_and(|session| !session.answers_elsewhere() && !session.gone.is_cancelled());
        if !resumable || self.cursor.is_none() || self.resumes >= UPSTREAM_RESUMES {
            return Err(self.broken(&format!("broke off before the answer: {why}")).into());
        }
        self.resumes += 1;
        tracing::debug!(server = %self.common.http.server, why, "the stream of a call broke and is resumed");
        let pause = self.retry.unwrap_or_default().max(self.backoff.wait()).min(UPSTREAM_REOPEN.1);
        Ok(Source::Pause(Box::pin(sleep(pause))))
    }

    fn reopen(&self) -> Result<Source<'a>, Failure> {
        let (Some(session), Some(cursor)) = (self.session, &self.cursor) else {
            return Err(self.broken("broke off before the answer").into());
        };
        let headers = session.headers_to_resume(Some(cursor));
        Ok(Source::Opening(Box::pin(self.common.http.get(headers))))
    }

    fn broken(&self, what: &str) -> Trouble {
        self.common.http.trouble(Kind::Down, true, what)
    }

    /// What a status that is no success means.
    fn refused(&self, refusal: &Refusal) -> Failure {
        let trouble = self.common.http.refused(refusal, self.whose);
        match self.session {
            Some(session) => session.judge(refusal, trouble, Some(self.id)),
            None => super::modern::judge(refusal, trouble),
        }
    }

    /// Reads what came. The answer, if it was in it.
    async fn take(&mut self, text: &[u8]) -> Result<Option<Answer>, Failure> {
        match Envelope::parse(text) {
            Ok(Envelope::One(message)) => {
                self.garbage = 0;
                self.resumes = 0;
                self.sort(message).await
            }
            Ok(Envelope::Batch(messages)) => {
                let mut answer = None;
                for message in messages {
                    if let Ok(message) = Message::parse(message.get()) {
                        answer = self.sort(message).await?.or(answer);
                    }
                }
                Ok(answer)
            }
            Err(malformed) => {
                self.garbage += 1;
                let why = malformed.error.message;
                tracing::debug!(server = %self.common.http.server, "an event that is no message: {why}");
                if self.garbage < UPSTREAM_GARBAGE {
                    return Ok(None);
                }
                let what = format!("sent {UPSTREAM_GARBAGE} events in a row that are no messages: {why}");
                Err(self.broken(&what).into())
            }
        }
    }

    async fn sort(&mut self, message: Message<'_>) -> Result<Option<Answer>, Failure> {
        match message {
            Message::Response(response) => Ok(self.answered(&response)),
            Message::Request(request) => {
                self.requested(&request);
                Ok(None)
            }
            Message::Notification(message) => self.notified(&message).await.map(|()| None),
        }
    }

    fn answered(&self, response: &Response<'_>) -> Option<Answer> {
        let server = &*self.common.http.server;
        if response.id.get().parse() != Ok(self.id) {
            tracing::debug!(server, id = response.id.get(), "an answer that nobody waits for");
            return None;
        }
        Some(match response.outcome {
            Ok(result) if result.get().starts_with('{') => Ok(result.to_owned()),
            Ok(_) => {
                Err(RpcError::internal(format!("server {server:?} answered with a result that is no object")))
            }
            Err(error) => Err(error_of(server, error)),
        })
    }

    fn requested(&mut self, request: &Request<'_>) {
        let Some(session) = self.session else {
            // Nobody may ask so under 2026-07-28, and nobody could answer.
            tracing::debug!(server = %self.common.http.server, method = %request.method, "a request that is not answered");
            return;
        };
        let Some(ask) = Ask::of(session, request) else { return };
        let Some(out) = self.hearing.out else {
            return ask.refuse("this question belongs to no call, so there is nobody to ask");
        };
        if self.asks.len() >= ASKS_PER_CALL {
            return ask.refuse("this call waits for too many answers already");
        }
        self.withdrawals.insert(request.id.get().to_owned(), ask.withdrawn());
        self.asks.push(Box::pin(ask.put_to(Arc::clone(out))));
        self.count_asks();
    }

    fn count_asks(&self) {
        self.hearing.asking.store(self.asks.len(), Ordering::Relaxed);
    }

    /// Passes a notification on. An error: the call is over for its client.
    async fn notified(&mut self, message: &Notification<'_>) -> Result<(), Failure> {
        let server = &*self.common.http.server;
        let passed = match (&*message.method, message.params, self.hearing.out) {
            ("notifications/progress", Some(params), Some(out)) => {
                let ours = self.hearing.token.filter(|(id, _)| progress_token(params) == Some(*id));
                ours.map(|(_, token)| (out, progress_for(params, token)))
            }
            ("notifications/message", Some(params), Some(out)) => {
                let wanted = level_of(params).is_some_and(|level| out.wants_log(level));
                let text = || crate::rpc::message::notification("notifications/message", params.get());
                wanted.then(|| (out, text()))
            }
            ("notifications/cancelled", Some(params), _) => {
                let id = Object::parse(params.get()).ok().and_then(|params| params.get("requestId"));
                if let Some(withdrawn) = id.and_then(|id| self.withdrawals.remove(id.get())) {
                    withdrawn.cancel();
                }
                None
            }
            (method, ..) => {
                let ears = self.session.map_or(&self.common.ears, |session| &session.ears);
                if !ears.hear(server, message) {
                    tracing::debug!(server, method, "a notification that is not passed on");
                }
                None
            }
        };
        match passed {
            Some((out, text)) => out.notify(text).await.map_err(Failure::Answer),
            None => Ok(()),
        }
    }
}

/// How an answer begins.
enum Begun<'a> {
    Over(Answer),
    From(Source<'a>),
}

async fn aside(side: Option<&mut mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match side {
        Some(side) => side.recv().await,
        None => pending().await,
    }
}
