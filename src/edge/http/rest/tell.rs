//! How answers of the bridge look, by profile.

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use serde_json::value::RawValue;

use super::Act;
use crate::config::Profile;
use crate::edge::http::reply::{Body, IDLE_TTL, SESSION_ID, whole};
use crate::engine::rest::{Called, Opened, Refused, Told};
use crate::rpc::message::quote;
use crate::rpc::object::{Change, Object};

/// What an answer needs to know of its request.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) act: Act,
    pub(super) profile: Profile,
    pub(super) session: Option<String>,
    pub(super) tool: Option<String>,
}

/// `{"status":"error","error":…}`
pub(super) fn error(status: StatusCode, message: &str) -> Response<Body> {
    whole(status, Bytes::from(format!("{{\"status\":\"error\",\"error\":{}}}", quote(message))))
}

/// The list of tools, in the form of the path that was asked.
pub(super) fn tools(form: &Form, tools: &str, system_info: &RawValue, guidance: &RawValue) -> Response<Body> {
    let text = match form.act {
        Act::Schema => {
            format!("{{\"status\":\"success\",\"tools\":{tools},\"system_info\":{}}}", system_info.get())
        }
        _ => format!("{{\"tools\":{tools},\"workflow_guidance\":{}}}", guidance.get()),
    };
    whole(StatusCode::OK, Bytes::from(text))
}

/// What was done.
pub(super) fn told(form: &Form, told: Told) -> Response<Body> {
    match told {
        Told::Session(opened) => session(&opened),
        Told::Called(called) => match form.profile {
            Profile::Default => wrapped(&called),
            Profile::Sandsiv => bare(form, &called),
        },
        Told::Ended => {
            let name = form.session.as_deref().unwrap_or_default();
            let message = format!("Session {name} shut down.");
            whole(StatusCode::OK, Bytes::from(json!({ "status": "ok", "message": message }).to_string()))
        }
        Told::Tools(tools) => whole(StatusCode::OK, Bytes::from(format!("{{\"tools\":{tools}}}"))),
    }
}

/// Several answers in one, each with the status that it would have had alone.
pub(super) fn batch(answers: Vec<Response<Body>>) -> Response<Body> {
    let mut text = String::from("{\"results\":[");
    for (at, answer) in answers.into_iter().enumerate() {
        let code = answer.status().as_u16();
        let body = match answer.into_body() {
            Body::Whole(body) => body,
            // Nothing of the bridge is a stream.
            Body::Events(_) | Body::Open(_) => Bytes::new(),
        };
        let comma = if at == 0 { "" } else { "," };
        let body = std::str::from_utf8(&body).ok().filter(|body| !body.is_empty()).unwrap_or("null");
        text.push_str(&format!("{comma}{{\"code\":{code},\"body\":{body}}}"));
    }
    text.push_str("]}");
    whole(StatusCode::OK, Bytes::from(text))
}

fn session(opened: &Opened) -> Response<Body> {
    let body = json!({
        "status": "ok",
        "session_id": opened.session,
        "mcp_session_id": &*opened.token,
        "expires_at": opened.expires_at,
        "idle_ttl": opened.idle_ttl,
    });
    let mut response = whole(StatusCode::OK, Bytes::from(body.to_string()));
    if let Ok(token) = HeaderValue::from_str(&opened.token) {
        response.headers_mut().insert(SESSION_ID, token);
        response.headers_mut().insert(IDLE_TTL, HeaderValue::from(opened.idle_ttl));
    }
    response
}

/// The result with what stands beside it.
fn wrapped(called: &Called) -> Response<Body> {
    let result = match (&called.json, &called.text) {
        (Some(json), _) => json.clone(),
        (None, Some(text)) => quote(text),
        (None, None) => "null".to_owned(),
    };
    let (status, word) = match called.is_error {
        true => (StatusCode::INTERNAL_SERVER_ERROR, "error"),
        false => (StatusCode::OK, "success"),
    };
    let mut text = format!("{{\"status\":\"{word}\",");
    if called.is_error {
        text.push_str(&format!("\"error\":{},", quote(&reason(called))));
    }
    text.push_str(&format!(
        "\"result\":{result},\"content\":{},\"isError\":{}",
        called.content, called.is_error
    ));
    if let Some(structured) = &called.structured {
        text.push_str(&format!(",\"structuredContent\":{structured}"));
    }
    if !called.not_kept.is_empty() {
        text.push_str(&format!(",\"not_kept\":{}", json!(called.not_kept)));
    }
    text.push('}');
    whole(status, Bytes::from(text))
}

/// The tool's own JSON without what it says is for the session alone; a text as `result`.
fn bare(form: &Form, called: &Called) -> Response<Body> {
    let text = match (&called.json, &called.text) {
        (Some(json), _) => match Object::parse(json) {
            Ok(object) => object.with(|name, _| match name {
                "intermediate" => Change::Drop,
                _ => Change::Keep,
            }),
            Err(_) => json.clone(),
        },
        (None, Some(_)) if called.is_error => {
            return error(StatusCode::INTERNAL_SERVER_ERROR, &failure(form, &reason(called)));
        }
        (None, Some(text)) => format!("{{\"result\":{}}}", quote(text)),
        (None, None) => format!("{{\"result\":null,\"content\":{}}}", called.content),
    };
    whole(StatusCode::OK, Bytes::from(text))
}

/// What a tool says of its failure.
fn reason(called: &Called) -> String {
    called.text.clone().or_else(|| called.json.clone()).unwrap_or_else(|| "the tool failed".to_owned())
}

fn failure(form: &Form, reason: &str) -> String {
    format!("Error executing tool '{}': {reason}", form.tool.as_deref().unwrap_or_default())
}

/// Why nothing was done.
pub(super) fn refused(form: &Form, refused: Refused) -> Response<Body> {
    let sandsiv = form.profile == Profile::Sandsiv;
    let name = form.session.as_deref().unwrap_or_default();
    let (status, message) = match refused {
        Refused::NoSession => {
            let status = if sandsiv { StatusCode::CONFLICT } else { StatusCode::NOT_FOUND };
            (status, format!("Session {name} not found or expired. Please run /init first."))
        }
        Refused::Foreign(why) => (StatusCode::FORBIDDEN, why),
        // Its wording decides there.
        Refused::Bad(why) if sandsiv && form.act == Act::Init && why.starts_with("Invalid API URL") => {
            (StatusCode::INTERNAL_SERVER_ERROR, why)
        }
        Refused::Bad(why) => (StatusCode::BAD_REQUEST, why),
        Refused::Denied(why) if sandsiv && !blames_credentials(&why) => {
            (StatusCode::INTERNAL_SERVER_ERROR, why)
        }
        Refused::Denied(why) => (StatusCode::UNAUTHORIZED, why),
        Refused::Unvalidated(why) if sandsiv => {
            let denied = blames_credentials(&why);
            (if denied { StatusCode::UNAUTHORIZED } else { StatusCode::INTERNAL_SERVER_ERROR }, why)
        }
        Refused::Unvalidated(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        Refused::NoTool(why) | Refused::Arguments(why) | Refused::Failed(why) if sandsiv => {
            (StatusCode::INTERNAL_SERVER_ERROR, failure(form, &why))
        }
        Refused::NoTool(why) => (StatusCode::NOT_FOUND, why),
        Refused::Arguments(why) => (StatusCode::BAD_REQUEST, why),
        Refused::Failed(why) => (StatusCode::INTERNAL_SERVER_ERROR, why),
        Refused::Busy(why) => (StatusCode::TOO_MANY_REQUESTS, why),
        Refused::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    };
    let mut response = error(status, &message);
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// How the Flask bridge tells bad credentials from a failure of its own.
fn blames_credentials(text: &str) -> bool {
    let text = text.to_lowercase();
    ["forbidden", "403", "authentication", "credentials", "token"].iter().any(|word| text.contains(word))
}

/// `system_info` where the operator gives none.
pub(super) fn system_info(authentication: bool, filled: &[String]) -> Box<RawValue> {
    let info = json!({
        "system_name": "Outlast",
        "system_type": "MCP tool server",
        "version": env!("CARGO_PKG_VERSION"),
        "purpose": "Runs MCP tools in sessions that outlast restarts",
        "when_to_use": [],
        "capabilities": [],
        "workflow_overview": "POST /init, then POST /tools and POST /call-tool, then POST /shutdown",
        "authentication_required": authentication,
        "caching_behavior": {
            "description": "Arguments of calls, and results whose status is success, are kept in the session and fill \
                            arguments that later calls leave away.",
            "auto_injected_params": filled,
        },
    });
    crate::tools::answer::raw(info.to_string())
}
