//! `/livez`, `/readyz`, `/health` and `/metrics`.
//!
//! The first three are open to everybody who reaches the listener, because supervisors and load balancers carry no
//! token; what is wrong is told in words only to callers who could call tools as well, others learn which check fails.
//! `/metrics` wants the same credentials as the MCP endpoint.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::reply::{Body, typed, whole};
use crate::edge::{App, Health, Metrics};

/// 200 as long as requests are answered at all; says nothing of what the server depends on, or a restart would be
/// the answer to a failing disk.
pub(super) fn live() -> Response<Body> {
    whole(StatusCode::OK, Bytes::from_static(b"{\"status\":\"ok\"}"))
}

/// `/health` is 200 with the truth in its body; `/readyz` is 503 when requests should go elsewhere.
pub(super) fn answer<E>(app: &App<E>, readiness: bool, headers: &HeaderMap) -> Response<Body> {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let trusted = app.auth.is_open() || app.auth.authenticate(authorization).is_ok();
    let health = (app.health)();
    let status = if readiness && !health.ready { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut response = whole(status, Bytes::from(report(&health, trusted).to_string()));
    if health.mode == "degraded" {
        response.headers_mut().insert("x-degraded", HeaderValue::from_static("redis"));
    }
    response
}

/// `{"status":…,"ready":…,"mode":…,"checks":{NAME:"ok" or what is wrong}}`
pub(crate) fn report(health: &Health, in_words: bool) -> Value {
    let checks: Map<String, Value> = health
        .checks
        .iter()
        .map(|(name, outcome)| {
            let text = match outcome {
                Ok(()) => "ok",
                Err(reason) if in_words => reason.as_str(),
                Err(_) => "failed",
            };
            (name.clone(), text.into())
        })
        .collect();
    json!({ "status": health.status, "ready": health.ready, "mode": health.mode, "checks": checks })
}

pub(super) fn metrics(metrics: &dyn Metrics) -> Response<Body> {
    let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    typed(StatusCode::OK, content_type, Bytes::from(metrics.encode()))
}
