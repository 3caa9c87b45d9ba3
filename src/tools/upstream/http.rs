//! Requests and answers of one remote server over HTTP, bounded in time and size.
//!
//! Credentials go to the origin that was configured, and nowhere else: a redirection is followed only within it, and only
//! one that keeps the method (307, 308). Proxies of the environment are asked only where the configuration says so.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::redirect::Policy;
use reqwest::{Client, Proxy, Response, Url};
use tokio::time::timeout;

use super::failure::{Kind, Trouble};
use super::frames::Frames;
use crate::base::limits::{
    EXCERPT_BYTES, UPSTREAM_BODY_BYTES, UPSTREAM_CONNECT, UPSTREAM_ERROR_BYTES, UPSTREAM_KEEPALIVE,
    UPSTREAM_REDIRECTS,
};
use crate::rpc::error::RpcError;
use crate::rpc::message::{Envelope, Message};
use crate::tools::hosted::messages::{error_of, excerpt};

/// `proxy` that stands for the proxies which the environment names.
const OF_THE_ENVIRONMENT: &str = "environment";

/// The way to one remote server.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) server: Arc<str>,
    pub(super) url: Url,
    /// The address without what may be a secret in it.
    pub(super) shown: String,
    proxy: String,
    client: OnceLock<Client>,
}

/// What came back, its body as far as it makes sense.
#[derive(Debug)]
pub(super) enum Reply {
    /// Accepted; there is nothing to read.
    Nothing(HeaderMap),
    /// A whole answer.
    Json(HeaderMap, Bytes),
    /// A stream of messages.
    Stream(HeaderMap, Box<Frames>),
    /// Not what was asked for.
    Status(Box<Refusal>),
}

/// An answer with a status that is no success.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The error in its body, and the id of the request that it names.
    pub(super) error: Option<(RpcError, Option<Box<str>>)>,
    retry_after: Option<String>,
    location: Option<String>,
    /// The beginning of a body that is no error.
    said: String,
}

impl Refusal {
    /// Whether its body is the answer to a request.
    pub(super) fn names_a_request(&self) -> bool {
        self.error.as_ref().is_some_and(|(_, id)| id.is_some())
    }

    /// Whether its body is the answer to this one.
    pub(super) fn names(&self, id: u64) -> bool {
        let named = self.error.as_ref().and_then(|(_, named)| named.as_deref());
        named.is_some_and(|named| named.parse() == Ok(id))
    }

    /// Whether its body, where that is no error, has this word.
    pub(super) fn says(&self, word: &str) -> bool {
        self.said.to_lowercase().contains(word)
    }
}

impl Http {
    pub(super) fn new(server: &str, url: Url, proxy: &str) -> Self {
        let shown = format!("{}{}", url.origin().ascii_serialization(), url.path());
        Self { server: Arc::from(server), url, shown, proxy: proxy.to_owned(), client: OnceLock::new() }
    }

    /// Sends a message. Resolves when the answer has begun, or is whole where it is no stream.
    pub(super) async fn post(&self, to: &Url, headers: HeaderMap, body: Bytes) -> Result<Reply, Trouble> {
        let mut headers = headers;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        self.exchange(Method::POST, to, headers, Some(body)).await
    }

    /// Opens a stream of messages.
    pub(super) async fn get(&self, headers: HeaderMap) -> Result<Reply, Trouble> {
        let mut headers = headers;
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        self.exchange(Method::GET, &self.url, headers, None).await
    }

    /// Says that a session is over.
    pub(super) async fn delete(&self, headers: HeaderMap) -> Result<Reply, Trouble> {
        self.exchange(Method::DELETE, &self.url, headers, None).await
    }

    async fn exchange(
        &self,
        method: Method,
        to: &Url,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Reply, Trouble> {
        let client = self.client().map_err(|error| {
            self.trouble(Kind::Down, false, &format!("cannot be called: {}", causes(&error)))
        })?;
        let ended = method == Method::DELETE;
        let mut request = client.request(method, to.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.map_err(|error| self.not_answered(error))?;
        let status = response.status();
        if !status.is_success() {
            return Ok(Reply::Status(Box::new(self.refusal(status, response).await)));
        }
        let headers = response.headers().clone();
        if ended || status == StatusCode::ACCEPTED || status == StatusCode::NO_CONTENT {
            return Ok(Reply::Nothing(headers));
        }
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "text/event-stream" => Ok(Reply::Stream(headers, Box::new(Frames::new(response)))),
            "application/json" => {
                let body = self.body(response).await?;
                // What has no answer is also taken like this, by frameworks that name a type whatever they send.
                Ok(if body.is_empty() { Reply::Nothing(headers) } else { Reply::Json(headers, body) })
            }
            _ => {
                let said = head(response, EXCERPT_BYTES).await;
                if said.is_empty() {
                    return Ok(Reply::Nothing(headers));
                }
                let what = format!(
                    "answered with {} where JSON or an event stream was to come, so it is no MCP server; check servers.{}.url{}",
                    if kind.is_empty() { "a body of no type" } else { &kind },
                    self.server,
                    quoted(&said),
                );
                Err(self.trouble(Kind::Down, true, &what))
            }
        }
    }

    /// A whole body. It may take as long as whoever waits for it has.
    async fn body(&self, mut response: Response) -> Result<Bytes, Trouble> {
        let mut body = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(part)) => body.extend_from_slice(&part),
                Ok(None) => return Ok(body.freeze()),
                Err(error) => return Err(self.not_answered(error)),
            }
            if body.len() > UPSTREAM_BODY_BYTES {
                let what = format!("answered with more than {UPSTREAM_BODY_BYTES} bytes");
                return Err(self.trouble(Kind::Down, true, &what));
            }
        }
    }

    async fn refusal(&self, status: StatusCode, response: Response) -> Refusal {
        let text = |name| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(|text| excerpt(text.as_bytes(), EXCERPT_BYTES))
        };
        let (retry_after, location) = (text(RETRY_AFTER), text(LOCATION));
        let body = head(response, UPSTREAM_ERROR_BYTES).await;
        let error = error_in(&self.server, &body);
        let said = if error.is_none() { excerpt(&body, EXCERPT_BYTES) } else { String::new() };
        Refusal { status, error, retry_after, location, said }
    }

    /// A refusal as trouble. `whose`: where the credentials of the request stand in the configuration.
    pub(super) fn refused(&self, refusal: &Refusal, whose: &str) -> Trouble {
        let Refusal { status, error, retry_after, location, said } = refusal;
        let own = match error {
            Some((error, _)) => format!(": {error}"),
            None => quoted(said.as_bytes()),
        };
        let after =
            retry_after.as_ref().map(|after| format!("; it says Retry-After: {after}")).unwrap_or_default();
        let (kind, sent, what) = match status.as_u16() {
            401 => (Kind::Refused, false, format!("does not take the credentials (401): check {whose}{own}")),
            403 => (
                Kind::Refused,
                false,
                format!("forbids this with these credentials (403): check {whose}{own}"),
            ),
            404 | 405 | 410 => (
                Kind::Refused,
                false,
                format!(
                    "has no MCP endpoint at {} ({status}): check servers.{}.url{own}",
                    self.shown, self.server
                ),
            ),
            413 => (Kind::Refused, false, format!("does not take a request of this size (413){own}")),
            429 => (Kind::Refused, false, format!("is called too often (429): try again later{after}{own}")),
            300..=399 => {
                let to = location.as_deref().unwrap_or("nowhere");
                (
                    Kind::Down,
                    false,
                    format!(
                        "redirects to {to} ({status}), which is not followed: set servers.{}.url to where it is",
                        self.server
                    ),
                )
            }
            500..=599 => (Kind::Down, true, format!("failed ({status}): try again later{after}{own}")),
            _ => (Kind::Refused, false, format!("refuses the request ({status}){own}")),
        };
        self.trouble(kind, sent, &what)
    }

    /// A sentence about this server.
    pub(super) fn trouble(&self, kind: Kind, sent: bool, what: &str) -> Trouble {
        Trouble::new(kind, sent, format!("server {:?} ({}) {what}", &*self.server, self.shown))
    }

    fn not_answered(&self, error: reqwest::Error) -> Trouble {
        // Without the address, which may carry a secret of the operator's.
        let error = error.without_url();
        if error.is_connect() || error.is_builder() {
            let what = format!("cannot be reached: {}", causes(&error));
            return self.trouble(Kind::Down, false, &what);
        }
        self.trouble(Kind::Down, true, &format!("broke off: {}", causes(&error)))
    }

    fn client(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let builder = Client::builder()
            .redirect(within_the_origin())
            .connect_timeout(UPSTREAM_CONNECT)
            .tcp_keepalive(UPSTREAM_KEEPALIVE)
            .tcp_keepalive_interval(UPSTREAM_KEEPALIVE / 4)
            .tcp_keepalive_retries(4)
            .referer(false)
            .user_agent(concat!("outlast/", env!("CARGO_PKG_VERSION")));
        let client = match self.proxy.as_str() {
            "" => builder.no_proxy(),
            OF_THE_ENVIRONMENT => builder,
            proxy => builder.proxy(Proxy::all(proxy)?),
        };
        let client = client.build()?;
        Ok(self.client.get_or_init(|| client))
    }
}

fn within_the_origin() -> Policy {
    Policy::custom(|attempt| {
        let keeps =
            matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        let same = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
        if keeps && same && attempt.previous().len() <= UPSTREAM_REDIRECTS {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

/// Whether an address is of this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
        }
        None => false,
    }
}

/// The beginning of a body; nothing when it does not come.
async fn head(mut response: Response, at_most: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < at_most {
        match timeout(UPSTREAM_CONNECT, response.chunk()).await {
            Ok(Ok(Some(part))) => body.extend_from_slice(&part),
            _ => break,
        }
    }
    body.truncate(at_most);
    body
}

/// The error that a body is, and the id of the request that it names.
fn error_in(server: &str, body: &[u8]) -> Option<(RpcError, Option<Box<str>>)> {
    #[derive(serde::Deserialize)]
    struct Nameless {
        error: Box<serde_json::value::RawValue>,
    }
    if let Ok(Envelope::One(Message::Response(response))) = Envelope::parse(body)
        && let Err(error) = response.outcome
    {
        return Some((error_of(server, error), Some(response.id.get().into())));
    }
    // One that answers no request has `id: null`, or none.
    let Nameless { error } = serde_json::from_slice(body).ok()?;
    error.get().starts_with('{').then(|| (error_of(server, &error), None))
}

fn quoted(said: &[u8]) -> String {
    if said.is_empty() { String::new() } else { format!("; it says {:?}", excerpt(said, EXCERPT_BYTES)) }
}

/// An error with what caused it, which is where the reason stands.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}
