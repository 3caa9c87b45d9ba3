//! Calls that are tasks of the hosted server itself (2025-11-25): asking for one, and knowing it by its id.

use std::collections::HashSet;

use serde_json::value::RawValue;

use crate::base::limits::CHILD_TASK_TTL;
use crate::mcp::task::{RELATED, TaskSupport};
use crate::rpc::object::{Change, Object};
use crate::tools::Tool;
use crate::tools::answer::raw;

/// The parameters with the wish that the call be a task, where it is to be one of the hosted server's own.
pub(in crate::tools) fn with_task(params: String, own_task: bool) -> Option<String> {
    if !own_task {
        return Some(params);
    }
    let object = Object::parse(&params).ok()?;
    let mut text = object.with(|key, _| if key == "task" { Change::Drop } else { Change::Keep });
    text.pop();
    let comma = if text.len() > 1 { "," } else { "" };
    text.push_str(&format!("{comma}\"task\":{{\"ttl\":{}}}}}", CHILD_TASK_TTL.as_millis()));
    Some(text)
}

/// The id of the task that a result says was made; `None` for a result that is the call's own.
pub(in crate::tools) fn task_of(result: &RawValue) -> Option<String> {
    let task = Object::parse(result.get()).ok()?.get("task")?;
    serde_json::from_str(Object::parse(task.get()).ok()?.get("taskId")?.get()).ok()
}

/// The task that a message of a hosted server names.
pub(in crate::tools) fn related_task(params: &RawValue) -> Option<String> {
    let meta = Object::parse(params.get()).ok()?.get("_meta")?;
    let related = Object::parse(meta.get()).ok()?.get(RELATED)?;
    serde_json::from_str(Object::parse(related.get()).ok()?.get("taskId")?.get()).ok()
}

/// A result without the id of the hosted server's task, which means nothing to anybody else.
pub(in crate::tools) fn without_related(result: Box<RawValue>) -> Box<RawValue> {
    let Ok(object) = Object::parse(result.get()) else { return result };
    let Some(Ok(meta)) = object.get("_meta").map(|meta| Object::parse(meta.get())) else { return result };
    if meta.get(RELATED).is_none() {
        return result;
    }
    let rest = meta.with(|key, _| if key == RELATED { Change::Drop } else { Change::Keep });
    raw(object.with(|key, _| match key {
        "_meta" if rest == "{}" => Change::Drop,
        "_meta" => Change::Set(rest.clone()),
        _ => Change::Keep,
    }))
}

/// The tools that must be run as tasks. What may be is run without: then the server's messages come as they are made.
pub(in crate::tools) fn required_tasks(tools: &[Tool]) -> HashSet<String> {
    let required = |tool: &&Tool| TaskSupport::of_tool(tool.json.get()) == TaskSupport::Required;
    tools.iter().filter(required).map(|tool| tool.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_that_is_a_task_of_the_child_says_so_to_it() {
        for (params, own_task, sent) in [
            (r#"{"name":"a","n":1e400}"#, false, r#"{"name":"a","n":1e400}"#),
            (r#"{"task":{"ttl":1},"name":"a"}"#, true, r#"{"name":"a","task":{"ttl":86400000}}"#),
            ("{}", true, r#"{"task":{"ttl":86400000}}"#),
        ] {
            assert_eq!(with_task(params.into(), own_task).unwrap(), sent);
        }
    }

    #[test]
    fn the_childs_own_task_is_known_by_its_id_and_hidden_in_its_result() {
        assert_eq!(task_of(&raw(r#"{"task":{"taskId":"a\"b","ttl":null}}"#.into())).as_deref(), Some("a\"b"));
        for other in [r#"{"content":[]}"#, r#"{"task":7}"#, r#"{"task":{"taskId":7}}"#] {
            assert_eq!(task_of(&raw(other.into())), None, "{other}");
        }
        let named = r#"{"message":"?","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"x"}}}"#;
        assert_eq!(related_task(&raw(named.into())).as_deref(), Some("x"));
        assert_eq!(related_task(&raw(r#"{"_meta":{"taskId":"x"}}"#.into())), None);
        for (given, kept) in [
            (r#"{"a":1.0,"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"x"}}}"#, r#"{"a":1.0}"#),
            (
                r#"{"_meta":{"b":1e400,"io.modelcontextprotocol/related-task":{}},"a":1}"#,
                r#"{"_meta":{"b":1e400},"a":1}"#,
            ),
            (r#"{"_meta":{"b":1}}"#, r#"{"_meta":{"b":1}}"#),
        ] {
            assert_eq!(without_related(raw(given.into())).get(), kept);
        }
    }
}
