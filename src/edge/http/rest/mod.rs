//! The plain HTTP bridge: its paths, and the way of a request through it (docs/bridge.md).

mod body;
mod tell;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::value::RawValue;

use self::body::Asked;
use super::reply::{Body, Refusal, whole};
use super::{Correlation, Public, guard, read_body};
use crate::base::limits::BRIDGE_BATCH_AT_ONCE;
use crate::config::{Bridge, Profile};
use crate::edge::{App, Endpoint};
use crate::engine::rest::{Caller, Refused, Told};

/// The header by which a request chooses the form of its answer.
const COMPAT: &str = "x-outlast-compat";

/// Every path of the bridge with the methods it takes, as `/openapi.json` describes them.
pub const PATHS: &[(&str, &str)] = &[
    ("/init", "POST"),
    ("/tools", "GET, POST"),
    ("/tools-schema", "GET"),
    ("/call-tool", "POST"),
    ("/call_tool", "POST"),
    ("/tools/call", "POST"),
    ("/shutdown", "POST"),
    ("/openapi.json", "GET"),
];

/// What is asked of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Init,
    ListTools,
    ToolsOf,
    Schema,
    Call,
    Shutdown,
    OpenApi,
    /// Only where a mount has no other `/health`.
    Health,
    Options(&'static str),
}

impl Act {
    /// Its name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Init => "bridge_init",
            Self::ListTools | Self::ToolsOf => "bridge_tools",
            Self::Schema => "bridge_tools_schema",
            Self::Call => "bridge_call",
            Self::Shutdown => "bridge_shutdown",
            Self::OpenApi => "bridge_openapi",
            Self::Health => "health",
            Self::Options(_) => "options",
        }
    }

    fn find(method: &Method, path: &str, mounted: bool) -> Option<Result<Self, Refusal>> {
        let (get, post, methods) = match path {
            "/init" => (None, Some(Self::Init), "POST, OPTIONS"),
            "/tools" => (Some(Self::ListTools), Some(Self::ToolsOf), "GET, HEAD, POST, OPTIONS"),
            "/tools-schema" => (Some(Self::Schema), None, "GET, HEAD, OPTIONS"),
            "/call-tool" | "/call_tool" | "/tools/call" => (None, Some(Self::Call), "POST, OPTIONS"),
            "/shutdown" => (None, Some(Self::Shutdown), "POST, OPTIONS"),
            "/openapi.json" => (Some(Self::OpenApi), None, "GET, HEAD, OPTIONS"),
            "/health" if mounted => (Some(Self::Health), None, "GET, HEAD, OPTIONS"),
            _ => return None,
        };
        let act = match *method {
            Method::GET | Method::HEAD => get,
            Method::POST => post,
            Method::OPTIONS => Some(Self::Options(methods)),
            _ => None,
        };
        Some(act.ok_or_else(|| Refusal::method(methods)))
    }
}

/// Where the bridge is served, and what it says of itself.
pub(super) struct Bridged {
    enabled: bool,
    profile: Profile,
    /// The longest first.
    mounts: Vec<(Box<str>, Profile)>,
    system_info: Box<RawValue>,
    workflow_guidance: Box<RawValue>,
}

impl Bridged {
    pub(super) fn new<E>(app: &App<E>) -> Self {
        let settings: &Bridge = &app.config.bridge;
        let mut mounts: Vec<(Box<str>, Profile)> =
            settings.mounts.iter().map(|(path, profile)| (path.as_str().into(), *profile)).collect();
        mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self {
            enabled: settings.enabled,
            profile: settings.profile,
            mounts,
            system_info: app
                .bridge
                .system_info
                .clone()
                .unwrap_or_else(|| tell::system_info(!app.auth.is_open(), &settings.sensitive)),
            workflow_guidance: app
                .bridge
                .workflow_guidance
                .clone()
                .unwrap_or_else(|| crate::tools::answer::raw("{}".into())),
        }
    }

    /// What a request asks of the bridge, and the profile of its path; none: it is not for it.
    pub(super) fn find(&self, method: &Method, path: &str) -> Option<(Result<Act, Refusal>, Profile)> {
        if !self.enabled {
            return None;
        }
        for (mount, profile) in &self.mounts {
            if let Some(below) = path.strip_prefix(&**mount)
                && let Some(found) = Act::find(method, below, true)
            {
                return Some((found, *profile));
            }
        }
        Act::find(method, path, false).map(|found| (found, self.profile))
    }
}

/// Answers a request whose path and method are known. What is refused has the form of the bridge, too.
pub(super) async fn serve<E: Endpoint>(
    public: &Public<E>,
    act: Act,
    mounted: Profile,
    parts: &Parts,
    incoming: Incoming,
    correlation: &Correlation,
) -> Result<Response<Body>, Refusal> {
    if let Act::Options(methods) = act {
        return Ok(super::cors::options(&parts.headers, methods));
    }
    if act == Act::Health {
        return Ok(super::health::answer(&public.app, false, &parts.headers));
    }
    let principal = guard::authenticate(&*public.app.auth, &parts.headers)?;
    let profile = profile(&parts.headers, mounted)?;
    if act == Act::OpenApi {
        return Ok(whole(StatusCode::OK, Bytes::from_static(include_bytes!("openapi.json"))));
    }
    let mut calls = None;
    let asked = match act {
        Act::ListTools | Act::Schema => Asked::default(),
        _ => {
            // A page of a browser must say that it is JSON, or it could send it without being asked whether it may.
            if parts.headers.contains_key(http::header::ORIGIN) {
                guard::check_content_type(&parts.headers)?;
            }
            let limit = public.app.config.server.max_body_bytes;
            let within = public.body_timeout;
            let read = read_body(incoming, limit, "send less, or raise server.max_body_bytes", within);
            let body = read.await?;
            if act == Act::Call {
                calls = body::batch(&body, &parts.headers)?;
            }
            match calls {
                Some(_) => Asked::default(),
                None => Asked::read(&body, &parts.headers, profile)?,
            }
        }
    };
    let caller = Caller { principal, correlation: Arc::clone(&correlation.text) };
    if let Some(calls) = calls {
        let answers = calls.into_iter().map(|asked| answer_one(public, act, profile, &caller, asked));
        // Each call answers for itself; so many run at a time.
        let answers: Vec<Response<Body>> =
            stream::iter(answers).buffered(BRIDGE_BATCH_AT_ONCE).collect().await;
        return Ok(tell::batch(answers));
    }
    Ok(answer_one(public, act, profile, &caller, Ok(asked)).await)
}

/// What is answered to one thing that is asked.
async fn answer_one<E: Endpoint>(
    public: &Public<E>,
    act: Act,
    profile: Profile,
    caller: &Caller,
    asked: Result<Asked, String>,
) -> Response<Body> {
    let asked = match asked {
        Ok(asked) => asked,
        Err(why) => return tell::error(StatusCode::BAD_REQUEST, &why),
    };
    let form = tell::Form { act, profile, session: asked.session.clone(), tool: asked.tool.clone() };
    let ask = match asked.into_ask(act, profile) {
        Ok(ask) => ask,
        Err(refused) => return tell::refused(&form, refused),
    };
    match public.app.engine.rest(caller, ask).await {
        Ok(Told::Tools(tools)) => {
            tell::tools(&form, &tools, &public.bridged.system_info, &public.bridged.workflow_guidance)
        }
        Ok(told) => tell::told(&form, told),
        // Of a session that is gone nothing is left to be ended.
        Err(Refused::NoSession) if act == Act::Shutdown && profile == Profile::Sandsiv => {
            tell::told(&form, Told::Ended)
        }
        Err(refused) => tell::refused(&form, refused),
    }
}

fn profile(headers: &HeaderMap, mounted: Profile) -> Result<Profile, Refusal> {
    let Some(value) = headers.get(COMPAT) else { return Ok(mounted) };
    let named = value.to_str().ok().and_then(Profile::parse);
    named.ok_or_else(|| Refusal::bad_request("X-Outlast-Compat: want default or sandsiv"))
}

/// A refusal of the edge in the form of the bridge: `{"status":"error","error":…}`.
pub(super) fn reworded(refusal: Refusal) -> Response<Body> {
    let (status, message, header) = refusal.into_parts();
    let mut response = tell::error(status, &message);
    if let Some((name, value)) = header {
        response.headers_mut().insert(name, value);
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridged(mounts: &[(&str, Profile)]) -> Bridged {
        let mut mounts: Vec<(Box<str>, Profile)> =
            mounts.iter().map(|(path, profile)| ((*path).into(), *profile)).collect();
        mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        let empty = || crate::tools::answer::raw("{}".into());
        Bridged {
            enabled: true,
            profile: Profile::Default,
            mounts,
            system_info: empty(),
            workflow_guidance: empty(),
        }
    }

    #[test]
    fn a_path_is_found_at_the_root_and_under_its_mounts_with_their_profiles() {
        let bridged = bridged(&[("/a", Profile::Default), ("/a/b", Profile::Sandsiv)]);
        let find = |method: &str, path: &str| {
            let found = bridged.find(&Method::from_bytes(method.as_bytes()).unwrap(), path);
            found.map(|(act, profile)| {
                (act.map_err(|refusal| refusal.into_response().status().as_u16()), profile)
            })
        };
        assert_eq!(find("POST", "/init"), Some((Ok(Act::Init), Profile::Default)));
        assert_eq!(find("POST", "/a/b/tools"), Some((Ok(Act::ToolsOf), Profile::Sandsiv)));
        assert_eq!(find("GET", "/a/tools"), Some((Ok(Act::ListTools), Profile::Default)));
        assert_eq!(find("GET", "/a/b/health"), Some((Ok(Act::Health), Profile::Sandsiv)));
        assert_eq!(find("GET", "/init"), Some((Err(405), Profile::Default)));
        assert_eq!(find("DELETE", "/tools"), Some((Err(405), Profile::Default)));
        for other in ["/", "/health", "/init/", "/abc/init", "/a/mcp", "/mcp", "/a"] {
            assert!(find("GET", other).is_none(), "{other}");
        }
    }

    #[test]
    fn every_listed_path_takes_the_methods_that_are_listed() {
        for (path, methods) in PATHS {
            for method in ["GET", "POST"] {
                let found = Act::find(&Method::from_bytes(method.as_bytes()).unwrap(), path, false).unwrap();
                assert_eq!(
                    found.is_ok(),
                    methods.split(", ").any(|known| known == method),
                    "{method} {path}"
                );
            }
        }
    }
}
