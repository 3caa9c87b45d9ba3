//! What the operator may do, on a listener and with a token of its own.

mod route;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::route::{Route, Wanted};
use super::http::{
    Answering, Body, Correlations, Front, Handle, Limits, Pace, Refusal, Sites, X_REQUEST_ID, accept,
    check_content_type, is_loopback_origin, listen, read_body, report, resolve, streamed, typed, whole,
};
use super::{App, EdgeError, Endpoint};
use crate::base::limits::ADMIN_CONNECTIONS;
use crate::base::seal::{equal, sha256};
use crate::config;
use crate::engine::Delivery;
use crate::engine::operate::{CacheAct, Command, Outcome};
use crate::mcp::era;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::rpc::message::error_response;

/// Binds `admin.listen`; `None` when it is empty. Beyond loopback it is allowed, since a token is always needed, but
/// said in the log: the token travels in the clear.
///
/// # Errors
/// [`EdgeError`]: no address, or the system refuses.
pub async fn bind(settings: &config::Admin) -> Result<Option<tokio::net::TcpListener>, EdgeError> {
    if settings.listen.is_empty() {
        return Ok(None);
    }
    let addresses = resolve("admin.listen", &settings.listen).await?;
    if let Some(address) = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback()) {
        tracing::warn!(%address, "admin.listen can be reached from other machines, and its token is not encrypted");
    }
    listen("admin.listen", &addresses).map(Some)
}

/// Serves the admin routes until `drain` fires and all its connections are gone. `token` is what a caller must bear.
pub async fn serve<E: Endpoint>(
    listener: tokio::net::TcpListener,
    app: Arc<App<E>>,
    token: Arc<str>,
    drain: CancellationToken,
) {
    let bound = listener.local_addr().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let config = Arc::clone(&app.config);
    let admin = Admin {
        sites: Sites::new(&config.server, &config.admin.listen, bound),
        correlations: Correlations::default(),
        token: sha256(token.as_bytes()),
        body_timeout: Duration::from_secs(config.server.body_timeout_seconds),
        // Who listens does so for as long as they like.
        pace: Pace::new(&config::Streams { max_seconds: 0, ..config.streams.clone() }, drain.clone()),
        app: Arc::clone(&app),
    };
    let front = Front::new(Arc::new(admin), Limits::new(&config), Arc::clone(&app.metrics), drain);
    accept(listener, front, ADMIN_CONNECTIONS).await;
}

struct Admin<E> {
    app: Arc<App<E>>,
    sites: Sites,
    correlations: Correlations,
    token: [u8; 32],
    body_timeout: Duration,
    pace: Pace,
}

impl<E: Endpoint> Handle for Admin<E> {
    fn handle(self: Arc<Self>, request: Request<Incoming>, at: IpAddr) -> Answering {
        Box::pin(async move {
            let correlation = self.correlations.of(request.headers());
            let (parts, body) = request.into_parts();
            // Not the path: session ids are in it.
            let mut route = "none";
            let answered = self.answer(&parts, body, at, &mut route).await;
            let mut response = answered.unwrap_or_else(Refusal::into_response);
            tracing::debug!(
                correlation = &*correlation.text,
                method = %parts.method,
                route,
                status = response.status().as_u16(),
                "admin request"
            );
            response.headers_mut().insert(X_REQUEST_ID, correlation.header);
            response
        })
    }
}

impl<E: Endpoint> Admin<E> {
    async fn answer(
        &self,
        parts: &Parts,
        body: Incoming,
        at: IpAddr,
        name: &mut &'static str,
    ) -> Result<Response<Body>, Refusal> {
        self.sites.check_host(parts, at)?;
        check_origin(parts)?;
        let route = Route::find(parts)?;
        *name = route.name();
        self.authenticate(parts)?;
        let body = match route.wanted(self.app.config.sessions.max_value_bytes) {
            Some(wanted) => self.body(parts, body, wanted).await?,
            None => Bytes::new(),
        };
        if let Route::Tail(filter) = route {
            return match self.app.engine.tail(&filter).await {
                Ok(events) => Ok(streamed(events, &self.pace)),
                Err(refusal) => Ok(told(Err(refusal))),
            };
        }
        perform(&self.app, route, body).await
    }

    /// Compares hashes, whose length says nothing of the token's, in constant time.
    fn authenticate(&self, parts: &Parts) -> Result<(), Refusal> {
        let value =
            parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, token) = value.split_once(' ').unwrap_or_default();
        if scheme.eq_ignore_ascii_case("bearer") && equal(&sha256(token.trim().as_bytes()), &self.token) {
            return Ok(());
        }
        Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "send \"Authorization: Bearer TOKEN\" with the token in admin.token in the data directory",
        )
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
    }

    async fn body(&self, parts: &Parts, body: Incoming, wanted: Wanted) -> Result<Bytes, Refusal> {
        if wanted.json {
            check_content_type(&parts.headers)?;
        }
        read_body(body, wanted.most, wanted.advice, self.body_timeout).await
    }
}

/// The answer to an admin request of this process's own, which needs no listener and no token.
pub async fn answer<E: Endpoint>(app: &App<E>, request: &Request<Bytes>) -> Response<Bytes> {
    let (parts, ()) = parts_of(request);
    let response = match Route::find(&parts) {
        Ok(route) => perform(app, route, request.body().clone()).await,
        Err(refusal) => Err(refusal),
    };
    response.unwrap_or_else(Refusal::into_response).map(|body| match body {
        Body::Whole(bytes) => bytes,
        // None of these answers is a stream.
        Body::Events(_) | Body::Open(_) => Bytes::new(),
    })
}

fn parts_of(request: &Request<Bytes>) -> (Parts, ()) {
    let mut bare = Request::new(());
    bare.method_mut().clone_from(request.method());
    bare.uri_mut().clone_from(request.uri());
    bare.headers_mut().clone_from(request.headers());
    bare.into_parts()
}

async fn perform<E: Endpoint>(app: &App<E>, route: Route, body: Bytes) -> Result<Response<Body>, Refusal> {
    Ok(match route {
        Route::Status => status(app).await,
        Route::Broadcast => delivered(app.engine.broadcast(body).await.map(Some)),
        Route::Send(session) => delivered(app.engine.send(&session, body).await),
        Route::RotateKeys => match app.engine.rotate_keys().await {
            Ok(key) => whole(StatusCode::OK, Bytes::from(json!({ "key": key }).to_string())),
            Err(error) => whole(StatusCode::INTERNAL_SERVER_ERROR, error_response(None, &error)),
        },
        Route::Tail(_) => {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no server runs here, so nothing is said that could be heard: start it first",
            ));
        }
        route => match route.with_body(body)? {
            Ok(command) => told(app.engine.operate(command).await),
            // All other routes are above.
            Err(_) => return Err(Refusal::not_found("nothing is served at this path")),
        },
    })
}

async fn status<E: Endpoint>(app: &App<E>) -> Response<Body> {
    let health = (app.health)();
    let mut status = report(&health, true);
    if let Some(fields) = status.as_object_mut() {
        if let Some(redis) = health.redis {
            fields.insert("redis".to_owned(), redis);
        }
        fields.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        fields.insert("engine".to_owned(), json!(app.engine.stats()));
        for (name, command) in [("servers", Command::Servers), ("locks", Command::Locks)] {
            if let Ok(Outcome::Told(mut told)) = app.engine.operate(command).await
                && let Some(what) = told.get_mut(name)
            {
                fields.insert(name.to_owned(), what.take());
            }
        }
        if let Ok(Outcome::Told(cache)) = app.engine.operate(Command::Cache(CacheAct::Stats)).await {
            fields.insert("cache".to_owned(), cache);
        }
    }
    whole(StatusCode::OK, Bytes::from(status.to_string()))
}

fn told(outcome: Result<Outcome, era::Refusal>) -> Response<Body> {
    match outcome {
        Ok(Outcome::Told(value)) => whole(StatusCode::OK, Bytes::from(value.to_string())),
        Ok(Outcome::Text(text)) => whole(StatusCode::OK, text),
        Ok(Outcome::File(file)) => {
            typed(StatusCode::OK, HeaderValue::from_static("application/octet-stream"), file)
        }
        Err(era::Refusal { status, error }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            whole(status, error_response(None, &error))
        }
    }
}

/// Pages of other machines may not even ask.
fn check_origin(parts: &Parts) -> Result<(), Refusal> {
    let foreign =
        parts.headers.get_all(ORIGIN).iter().any(|value| !value.to_str().is_ok_and(is_loopback_origin));
    if foreign {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "pages of other origins may not call the admin listener",
        ));
    }
    Ok(())
}

fn delivered(outcome: Result<Option<Delivery>, RpcError>) -> Response<Body> {
    match outcome {
        Ok(Some(delivery)) => whole(StatusCode::OK, Bytes::from(json!(delivery).to_string())),
        Ok(None) => Refusal::not_found("there is no such session").into_response(),
        Err(error) => {
            let mine = error.code == INTERNAL;
            let status = if mine { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::BAD_REQUEST };
            whole(status, error_response(None, &error))
        }
    }
}
