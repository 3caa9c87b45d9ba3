//! `ask`: a question to the user, in the way that each era has.
//!
//! Up to 2025-11-25 the server sends `elicitation/create` and waits. Under 2026-07-28 it sends nothing: the result
//! says what is wanted, and the client makes the call again with the answer in it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Answer;
use super::arguments::Arguments;
use crate::rpc::error::{MISSING_CAPABILITY, RpcError};
use crate::rpc::object::Object;
use crate::tools::Call;
use crate::tools::answer::{failure, raw, text};

/// Key of the question among `inputRequests` and of its answer among `inputResponses`.
const KEY: &str = "answer";

pub(super) async fn ask(call: Call) -> Answer {
    let question = match Arguments::of("ask", &call)?.string("message") {
        Ok(message) => message.to_owned(),
        Err(wrong) => return Ok(wrong),
    };
    if let Some(capabilities) = call.out.modern_capabilities() {
        return modern(&call, capabilities, &question);
    }
    if !call.out.can_ask() {
        return Ok(failure("ask: there is no way to ask the client on this connection"));
    }
    match call.out.ask("elicitation/create", raw(form(&question, ""))).await {
        Ok(answer) => Ok(said(&answer).unwrap_or_else(|| failure("ask: the client's answer has no action"))),
        Err(error) => Ok(failure(&format!("ask: the question could not be asked: {}", error.message))),
    }
}

fn modern(call: &Call, capabilities: &RawValue, question: &str) -> Answer {
    if !takes_forms(capabilities) {
        return Err(RpcError::new(
            MISSING_CAPABILITY,
            "this tool needs the client capability \"elicitation\"",
        )
        .with_data(&raw(r#"{"requiredCapabilities":{"elicitation":{}}}"#.into())));
    }
    // No answer, or one that cannot be read: ask (again). Other keys are none of ours (MCP 2026-07-28, MRTR).
    if let Some(answer) = answered(call.params.get()).and_then(said) {
        return Ok(answer);
    }
    Ok(raw(format!(
        "{{\"resultType\":\"input_required\",\"inputRequests\":{{\"{KEY}\":{{\"method\":\"elicitation/create\",\
         \"params\":{}}}}}}}",
        form(question, "\"mode\":\"form\",")
    )))
}

/// `elicitation: {}` means forms; with modes in it, `form` must be one of them.
fn takes_forms(capabilities: &RawValue) -> bool {
    let Ok(declared) = Object::parse(capabilities.get()) else { return false };
    let Some(Ok(modes)) = declared.get("elicitation").map(|modes| Object::parse(modes.get())) else {
        return false;
    };
    modes.get("form").is_some() || modes.get("url").is_none()
}

fn form(question: &str, mode: &str) -> String {
    format!(
        "{{{mode}\"message\":{question},\"requestedSchema\":{{\"type\":\"object\",\"properties\":{{\"answer\":\
         {{\"type\":\"string\",\"title\":\"Answer\"}}}},\"required\":[\"answer\"]}}}}"
    )
}

fn answered(params: &str) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, rename = "inputResponses")]
        responses: Option<&'a RawValue>,
    }
    let params: Params<'_> = serde_json::from_str(params).ok()?;
    Object::parse(params.responses?.get()).ok()?.get(KEY)
}

/// The text of an `ElicitResult`; `None` when it is none.
fn said(result: &RawValue) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Said {
        action: String,
        content: Option<Content>,
    }
    #[derive(Deserialize)]
    struct Content {
        answer: String,
    }
    let said: Said = serde_json::from_str(result.get()).ok()?;
    match (said.action.as_str(), said.content) {
        ("accept", Some(content)) => Some(text(&content.answer)),
        ("decline", _) => Some(text("declined")),
        ("cancel", _) => Some(text("cancelled")),
        _ => None,
    }
}
