//! The public listener: which requests there are, and the way each one takes.
//!
//! Host, Origin, path and method, credentials, form of the body and of the answer, body: in this order, so that who may
//! not call learns nothing and costs nothing.

mod body;
mod correlation;
mod cors;
mod guard;
mod health;
mod held;
mod listen;
mod mcp;
mod reply;
mod rest;
mod serve;
mod sse_legacy;
mod stream;

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use correlation::{X_REQUEST_ID, trace_parent};
pub use listen::{Bound, bind};
pub use rest::PATHS as BRIDGE_PATHS;

pub(crate) use body::read as read_body;
pub(crate) use correlation::{Correlation, Correlations};
pub(crate) use guard::{Sites, check_content_type, is_loopback_origin};
pub(crate) use health::report;
pub(crate) use listen::{accept, listen, resolve};
pub(crate) use reply::{Body, Refusal, streamed, typed, whole};
pub(crate) use serve::{Front, Limits};

use super::{App, Endpoint, Metrics};
use crate::config::Profile;
pub(crate) use stream::Pace;

/// An answer that is being made. Boxed, because a connection keeps the room of its request for as long as it is open,
/// and an idle stream should not pay for what only its beginning needed.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// What a connection's requests are given to.
pub(crate) trait Handle: Send + Sync + 'static {
    /// Answers one request; `at` is the address to which its connection came.
    fn handle(self: Arc<Self>, request: Request<Incoming>, at: IpAddr) -> Answering;
}

/// A request that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Post,
    Get,
    Delete,
    SseOpen,
    SsePost,
    Live,
    Ready,
    Health,
    Metrics,
    Options(&'static str),
    /// Of the bridge, with the profile of its path.
    Bridge(rest::Act, Profile),
}

impl Route {
    fn find(method: &Method, path: &str) -> Result<Self, Refusal> {
        let read = match path {
            "/mcp" => {
                return match *method {
                    Method::POST => Ok(Self::Post),
                    Method::GET => Ok(Self::Get),
                    Method::DELETE => Ok(Self::Delete),
                    Method::OPTIONS => Ok(Self::Options("GET, POST, DELETE, OPTIONS")),
                    _ => Err(Refusal::method("GET, POST, DELETE, OPTIONS")),
                };
            }
            "/sse" if *method == Method::GET => return Ok(Self::SseOpen),
            "/message" if *method == Method::POST => return Ok(Self::SsePost),
            "/sse" | "/message" => {
                let methods = if path == "/sse" { "GET, OPTIONS" } else { "POST, OPTIONS" };
                return match *method {
                    Method::OPTIONS => Ok(Self::Options(methods)),
                    _ => Err(Refusal::method(methods)),
                };
            }
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/health" => Self::Health,
            "/metrics" => Self::Metrics,
            _ => return Err(Refusal::not_found("nothing is served at this path: the MCP endpoint is /mcp")),
        };
        match *method {
            Method::GET | Method::HEAD => Ok(read),
            Method::OPTIONS => Ok(Self::Options("GET, HEAD, OPTIONS")),
            _ => Err(Refusal::method("GET, HEAD, OPTIONS")),
        }
    }

    /// Its name in metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Post => "mcp_post",
            Self::Get => "mcp_get",
            Self::Delete => "mcp_delete",
            Self::SseOpen => "sse",
            Self::SsePost => "message",
            Self::Live => "livez",
            Self::Ready => "readyz",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Options(_) => "options",
            Self::Bridge(act, _) => act.name(),
        }
    }
}

/// The public listener's requests.
struct Public<E> {
    app: Arc<App<E>>,
    sites: Sites,
    correlations: Correlations,
    pace: Pace,
    idle_ttl: HeaderValue,
    sse: sse_legacy::Streams,
    bridged: rest::Bridged,
    body_timeout: Duration,
}

impl<E: Endpoint> Public<E> {
    fn new(app: Arc<App<E>>, bound: SocketAddr, drain: CancellationToken) -> Self {
        let server = &app.config.server;
        Self {
            sites: Sites::new(server, &server.listen, bound),
            correlations: Correlations::default(),
            pace: Pace::new(&app.config.streams, drain),
            sse: sse_legacy::Streams::default(),
            bridged: rest::Bridged::new(&app),
            idle_ttl: HeaderValue::from(app.config.sessions.idle_ttl_seconds),
            body_timeout: Duration::from_secs(server.body_timeout_seconds),
            app,
        }
    }

    async fn answer(&self, request: Request<Incoming>, at: IpAddr) -> Response<Body> {
        let correlation = self.correlations.of(request.headers());
        let mut record = Record::new(&*self.app.metrics);
        let (parts, body) = request.into_parts();
        let checked =
            self.sites.check_host(&parts, at).and_then(|()| self.sites.check_origin(&parts.headers));
        let bridged = self.bridged.find(&parts.method, parts.uri.path());
        let reword = if bridged.is_some() { rest::reworded } else { Refusal::into_response };
        let (origin, answered) = match checked {
            Err(refusal) => (None, Err(refusal)),
            Ok(origin) => {
                let routed = match bridged {
                    Some((act, profile)) => act.map(|act| Route::Bridge(act, profile)),
                    None => Route::find(&parts.method, parts.uri.path()),
                };
                let answered = match routed {
                    Err(refusal) => Err(refusal),
                    Ok(route) => {
                        record.route = route.name();
                        self.serve(route, &parts, body, &correlation).await
                    }
                };
                (origin, answered)
            }
        };
        let mut response = answered.unwrap_or_else(reword);
        response.headers_mut().insert(X_REQUEST_ID, correlation.header);
        if let Some(origin) = origin {
            cors::admit(&mut response, origin.clone());
        }
        record.status = response.status().as_u16();
        if tracing::enabled!(tracing::Level::DEBUG) {
            let trace = trace_parent(&parts.headers).map(|(trace, _)| trace);
            tracing::debug!(
                correlation = &*correlation.text,
                trace,
                route = record.route,
                status = record.status,
                "request answered"
            );
        }
        response
    }

    async fn serve(
        &self,
        route: Route,
        parts: &http::request::Parts,
        body: Incoming,
        correlation: &Correlation,
    ) -> Result<Response<Body>, Refusal> {
        let app = &*self.app;
        match route {
            Route::Post | Route::Get | Route::Delete | Route::SseOpen | Route::SsePost => {
                let caller = guard::authenticate(&*app.auth, &parts.headers)?;
                let call =
                    mcp::Call { headers: &parts.headers, caller: &caller, correlation: &correlation.text };
                match route {
                    Route::Post => mcp::post(self, call, body).await,
                    Route::Get => mcp::get(self, call).await,
                    Route::SseOpen => sse_legacy::open(self, call).await,
                    Route::SsePost => sse_legacy::post(self, call, parts.uri.query(), body).await,
                    _ => mcp::delete(self, call).await,
                }
            }
            Route::Live => Ok(health::live()),
            Route::Ready | Route::Health => Ok(health::answer(app, route == Route::Ready, &parts.headers)),
            Route::Metrics => {
                guard::authenticate(&*app.auth, &parts.headers)?;
                Ok(health::metrics(&*app.metrics))
            }
            Route::Options(methods) => Ok(cors::options(&parts.headers, methods)),
            // Boxed: a connection keeps the room of its largest request.
            Route::Bridge(act, profile) => {
                Box::pin(rest::serve(self, act, profile, parts, body, correlation)).await
            }
        }
    }
}

impl<E: Endpoint> Handle for Public<E> {
    fn handle(self: Arc<Self>, request: Request<Incoming>, at: IpAddr) -> Answering {
        Box::pin(async move { self.answer(request, at).await })
    }
}

/// Counts a request when it is done, however it ends.
struct Record<'a> {
    metrics: &'a dyn Metrics,
    start: Instant,
    route: &'static str,
    /// 499 until there is an answer: the client went away before.
    status: u16,
}

impl<'a> Record<'a> {
    fn new(metrics: &'a dyn Metrics) -> Self {
        Self { metrics, start: Instant::now(), route: "none", status: 499 }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.metrics.request(self.route, self.status, self.start.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_says_which_methods_it_takes() {
        let found = |method: &str, path: &str| {
            Route::find(&Method::from_bytes(method.as_bytes()).unwrap(), path)
                .map(Route::name)
                .map_err(|refusal| refusal.into_response().status().as_u16())
        };
        assert_eq!(found("POST", "/mcp"), Ok("mcp_post"));
        assert_eq!(found("GET", "/mcp"), Ok("mcp_get"));
        assert_eq!(found("DELETE", "/mcp"), Ok("mcp_delete"));
        assert_eq!(found("HEAD", "/livez"), Ok("livez"));
        assert_eq!(found("OPTIONS", "/readyz"), Ok("options"));
        assert_eq!(found("PUT", "/mcp"), Err(405));
        assert_eq!(found("POST", "/metrics"), Err(405));
        assert_eq!(found("GET", "/sse"), Ok("sse"));
        assert_eq!(found("POST", "/message"), Ok("message"));
        assert_eq!(found("POST", "/sse"), Err(405));
        assert_eq!(found("POST", "/mcp/"), Err(404));
        assert_eq!(found("GET", "/"), Err(404));
    }
}
