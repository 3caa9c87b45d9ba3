//! Cross-origin requests of pages that the guard has let in (Fetch standard, §CORS protocol).

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ALLOW, VARY,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::reply::{Body, empty};
use crate::base::limits::PREFLIGHT_BYTES;

/// What pages may send. `Mcp-Param-*` has no fixed names: those are allowed as they are asked for, since `*` would not
/// hold beside `Authorization`.
const HEADERS: &str = "Authorization, Content-Type, Accept, Mcp-Session-Id, MCP-Protocol-Version, Last-Event-ID, \
     Mcp-Method, Mcp-Name, X-Request-Id, Traceparent, Tracestate, X-Session-Id, X-Outlast-Compat, \
     Idempotency-Key";
/// What pages may read.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("Mcp-Session-Id, Mcp-Session-Idle-Ttl, WWW-Authenticate, X-Request-Id");

/// The answer to `OPTIONS` on a path that takes `methods`. It comes before authentication: browsers send no
/// credentials with it.
pub(crate) fn options(request: &HeaderMap, methods: &'static str) -> Response<Body> {
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(methods));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(request));
    // Two hours: the most that browsers keep it.
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    response
}

fn allowed_headers(request: &HeaderMap) -> HeaderValue {
    let fixed = HeaderValue::from_static(HEADERS);
    let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|value| value.to_str().ok());
    let Some(asked) = asked.filter(|asked| asked.len() <= PREFLIGHT_BYTES) else { return fixed };
    let mut text = String::new();
    for name in asked.split(',').map(str::trim) {
        let parameter = name.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("mcp-param-"));
        if parameter && http::HeaderName::try_from(name).is_ok() {
            text.push_str(", ");
            text.push_str(name);
        }
    }
    if text.is_empty() { fixed } else { HeaderValue::try_from(format!("{HEADERS}{text}")).unwrap_or(fixed) }
}

/// Lets the page of `origin` read this answer.
pub(crate) fn admit(response: &mut Response<Body>, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("Origin"));
}
