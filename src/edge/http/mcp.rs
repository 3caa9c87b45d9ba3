//! POST, GET and DELETE of the MCP endpoint: the last checks, then the engine.

use std::sync::Arc;

use http::{HeaderMap, Response};
use hyper::body::Incoming;

use super::reply::{Body, Refusal, answer};
use super::{Public, body, guard};
use crate::auth::Principal;
use crate::edge::Endpoint;
use crate::engine::Inbound;

/// A request that was let in.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) caller: &'a Arc<Principal>,
    pub(super) correlation: &'a Arc<str>,
}

impl<'a> Call<'a> {
    fn inbound(self) -> Inbound<'a> {
        Inbound {
            headers: self.headers,
            mirrors: true,
            principal: self.caller,
            correlation: self.correlation,
        }
    }
}

pub(super) async fn post<E: Endpoint>(
    public: &Public<E>,
    call: Call<'_>,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    guard::check_content_type(call.headers)?;
    guard::check_accept_post(call.headers)?;
    let limit = public.app.config.server.max_body_bytes;
    let bytes =
        body::read(body, limit, "send less, or raise server.max_body_bytes", public.body_timeout).await?;
    Ok(answer(public.app.engine.post(call.inbound(), bytes).await, &public.pace, &public.idle_ttl))
}

pub(super) async fn get<E: Endpoint>(public: &Public<E>, call: Call<'_>) -> Result<Response<Body>, Refusal> {
    guard::check_accept_get(call.headers)?;
    Ok(answer(public.app.engine.get(call.inbound()).await, &public.pace, &public.idle_ttl))
}

pub(super) async fn delete<E: Endpoint>(
    public: &Public<E>,
    call: Call<'_>,
) -> Result<Response<Body>, Refusal> {
    Ok(answer(public.app.engine.delete(call.inbound()).await, &public.pace, &public.idle_ttl))
}
