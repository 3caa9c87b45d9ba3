//! Tasks as their clients see them.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::record::Identity;
use crate::engine::bridge::questions::for_client;
use crate::mcp::task::{RELATED, Status, View};
use crate::mcp::view::modern_result;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::rpc::message::quote;
use crate::rpc::object::{Change, Object};
use crate::state::task::{End, Intents, Seen, Task};
use crate::tools::answer::raw;

/// A `Task` of 2025-11-25, an object as JSON text. There a tool that failed makes a task that failed.
pub(super) fn legacy(identity: &Identity, task: &Task, intents: &Intents) -> String {
    let status = match (&task.end, task.seen(intents).status) {
        (Some(End::Completed(result)), _) if is_error(result) => Status::Failed,
        (_, status) => status,
    };
    view(identity, task, status).legacy()
}

/// The members of a `Task` of 2026-07-28, as the answer to a call has them.
pub(super) fn created(identity: &Identity, task: &Task) -> Box<RawValue> {
    let members = view(identity, task, task.status()).modern();
    raw(format!("{{\"resultType\":\"task\",{members}}}"))
}

/// The members of a `DetailedTask` of 2026-07-28.
pub(in crate::engine) fn detailed(identity: &Identity, task: &Task, intents: &Intents) -> String {
    let Seen { status, open } = task.seen(intents);
    let mut text = view(identity, task, status).modern();
    match &task.end {
        Some(End::Completed(result)) => {
            text.push_str(",\"result\":");
            text.push_str(&modern_result(result));
        }
        Some(End::Failed(error)) => {
            text.push_str(",\"error\":");
            text.push_str(error);
        }
        Some(End::Cancelled) => {}
        None if open.is_empty() => {}
        None => {
            text.push_str(",\"inputRequests\":{");
            for (at, question) in open.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                let params = for_client(&raw(question.params.clone()));
                let (key, method) = (quote(&question.key), quote(&question.method));
                text.push_str(&format!("{comma}{key}:{{\"method\":{method},\"params\":{params}}}"));
            }
            text.push('}');
        }
    }
    text
}

fn view<'a>(identity: &'a Identity, task: &'a Task, status: Status) -> View<'a> {
    View {
        id: &identity.id,
        status,
        message: task.message.as_deref(),
        created_ms: identity.key.created_ms(),
        updated_ms: task.updated_ms,
        ttl_ms: identity.ttl_ms(),
    }
}

/// What the call would have answered, for `tasks/result` of 2025-11-25.
pub(super) fn outcome(identity: &Identity, end: &End) -> Result<Box<RawValue>, RpcError> {
    match end {
        End::Completed(result) => Ok(related(result, &identity.id)),
        End::Failed(error) => Err(serde_json::from_str(error)
            .unwrap_or_else(|_| RpcError::internal("the task failed, and why cannot be read"))),
        End::Cancelled => Err(RpcError::new(INTERNAL, "the task was cancelled: it has no result")),
    }
}

/// A result, or the parameters of a message, with the id of the task that it belongs to.
pub(super) fn related(object: &str, id: &str) -> Box<RawValue> {
    let value = format!("{{\"taskId\":{}}}", quote(id));
    let Ok(object) = Object::parse(object) else { return raw(object.to_owned()) };
    let meta = object.get("_meta").map(RawValue::get).filter(|meta| meta.starts_with('{')).unwrap_or("{}");
    let meta = with_member(meta, RELATED, &value);
    raw(with_member(&object.with(|_, _| Change::Keep), "_meta", &meta))
}

/// An object with one member set, others as they are.
fn with_member(object: &str, name: &str, value: &str) -> String {
    let Ok(object) = Object::parse(object) else { return format!("{{{}:{value}}}", quote(name)) };
    let mut text = object.with(|key, _| if key == name { Change::Drop } else { Change::Keep });
    text.pop();
    let comma = if text.len() > 1 { "," } else { "" };
    text.push_str(&format!("{comma}{}:{value}}}", quote(name)));
    text
}

fn is_error(result: &str) -> bool {
    #[derive(Deserialize)]
    struct Result {
        #[serde(rename = "isError", default)]
        is_error: bool,
    }
    serde_json::from_str::<Result>(result).is_ok_and(|result| result.is_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Origin, PrincipalHash, SessionKey, TaskClaims, TaskKey};
    use crate::state::task::Question;
    use serde_json::{Value, json};

    fn identity() -> Identity {
        let claims = TaskClaims {
            deadline_ms: 6_000,
            origin: Origin::from_bits(1),
            session: SessionKey::BROADCAST,
            key: TaskKey::new(1_000),
            principal: PrincipalHash([1; 8]),
        };
        Identity::new("t1.id".into(), &claims)
    }

    fn ended(end: End) -> Task {
        Task::begin(1, 1_000, 1).ended(end, Some("why".into()), 2_000).unwrap()
    }

    fn value(members: &str) -> Value {
        serde_json::from_str(&format!("{{{members}}}")).unwrap()
    }

    #[test]
    fn a_tool_that_failed_is_a_failed_task_of_2025_11_25_and_a_completed_one_of_2026_07_28() {
        let task = ended(End::Completed(r#"{"content":[],"isError":true,"n":1e400}"#.into()));
        let legacy: Value = serde_json::from_str(&legacy(&identity(), &task, &Intents::default())).unwrap();
        assert_eq!((&legacy["status"], &legacy["ttl"]), (&json!("failed"), &json!(5_000)));
        let text = detailed(&identity(), &task, &Intents::default());
        assert!(text.contains("\"status\":\"completed\"") && text.contains("\"n\":1e400"), "{text}");
        assert!(text.contains("\"resultType\":\"complete\"") && !text.contains("related-task"), "{text}");
        let shown = outcome(&identity(), task.end.as_ref().unwrap()).unwrap();
        assert_eq!(
            shown.get(),
            r#"{"content":[],"isError":true,"n":1e400,"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t1.id"}}}"#
        );
    }

    #[test]
    fn each_status_has_its_own_members() {
        let question = |key: &str| Question {
            key: key.into(),
            method: "elicitation/create".into(),
            params: r#"{"message":"?","_meta":{"outlast/inputKey":"k","x":1.0}}"#.into(),
        };
        let task = Task::begin(1, 1_000, 1).asks(vec![question("a"), question("b")], 1_500, 1).unwrap();
        let mut intents = Intents::default();
        let both = value(&detailed(&identity(), &task, &intents));
        assert_eq!(both["status"], "input_required");
        assert_eq!(
            both["inputRequests"]["a"],
            json!({ "method": "elicitation/create", "params": { "message": "?", "_meta": { "x": 1.0 } } })
        );
        intents.answers.insert("a".into(), Ok("{}".into()));
        let one = value(&detailed(&identity(), &task, &intents));
        assert_eq!(one["inputRequests"].as_object().unwrap().keys().collect::<Vec<_>>(), ["b"]);
        intents.answers.insert("b".into(), Err("{}".into()));
        let none = value(&detailed(&identity(), &task, &intents));
        assert_eq!((&none["status"], none.get("inputRequests")), (&json!("working"), None));

        let failed = ended(End::Failed(r#"{"code":-32603,"message":"no"}"#.into()));
        let shown = value(&detailed(&identity(), &failed, &intents));
        assert_eq!((&shown["error"]["code"], shown.get("result")), (&json!(-32603), None));
        assert_eq!(shown["statusMessage"], "why");
        assert_eq!(outcome(&identity(), failed.end.as_ref().unwrap()).unwrap_err().code, -32603);
        let cancelled = value(&detailed(&identity(), &ended(End::Cancelled), &intents));
        assert_eq!(cancelled["status"], "cancelled");
        assert!(cancelled.get("result").is_none() && cancelled.get("error").is_none());
        assert!(outcome(&identity(), &End::Cancelled).is_err());
        let made = created(&identity(), &Task::begin(1, 1_000, 1));
        assert!(
            made.get().starts_with(r#"{"resultType":"task","taskId":"t1.id","status":"working""#),
            "{made}"
        );
    }

    #[test]
    fn the_id_of_its_task_is_set_in_whatever_meta_there_is() {
        for (given, kept) in [
            ("{}", ""),
            (r#"{"_meta":{"a":1.0}}"#, r#""a":1.0,"#),
            (r#"{"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"other"}}}"#, ""),
            (r#"{"_meta":7}"#, ""),
        ] {
            let expected =
                format!(r#"{{"_meta":{{{kept}"io.modelcontextprotocol/related-task":{{"taskId":"i"}}}}}}"#);
            assert_eq!(related(given, "i").get(), expected);
        }
    }
}
