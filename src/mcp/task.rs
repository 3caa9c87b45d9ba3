//! Tasks in both shapes: the core feature of 2025-11-25 and the extension `io.modelcontextprotocol/tasks` of 2026-07-28.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::input::Answers;
use crate::base::limits::{MAX_TASK_ID_BYTES, TASK_POLL};
use crate::rpc::error::{MISSING_CAPABILITY, RpcError};
use crate::rpc::message::quote;

/// The extension's name among `capabilities.extensions`.
pub const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// In `_meta` under 2025-11-25: which task a message or a result belongs to.
pub const RELATED: &str = "io.modelcontextprotocol/related-task";

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Status {
    Working,
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::InputRequired => "input_required",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing follows it.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Whether a tool may or must be run as a task (`execution.taskSupport`, MCP 2025-11-25, tasks).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskSupport {
    /// It must not: what a tool that says nothing means.
    #[default]
    Forbidden,
    /// As the client likes; under 2026-07-28 as the server likes.
    Optional,
    /// It must.
    Required,
}

impl TaskSupport {
    /// Reads it from a tool's description, JSON text.
    #[must_use]
    pub fn of_tool(json: &str) -> Self {
        #[derive(Deserialize)]
        struct Tool {
            #[serde(default)]
            execution: Execution,
        }
        #[derive(Deserialize, Default)]
        struct Execution {
            #[serde(rename = "taskSupport", default)]
            task_support: String,
        }
        let said = serde_json::from_str::<Tool>(json).map(|tool| tool.execution.task_support);
        match said.as_deref() {
            Ok("optional") => Self::Optional,
            Ok("required") => Self::Required,
            _ => Self::Forbidden,
        }
    }
}

/// Whether the capabilities of a request declare the extension. An object is a declaration, whatever is in it.
#[must_use]
pub fn declares_extension(capabilities: &str) -> bool {
    #[derive(Deserialize)]
    struct Capabilities<'a> {
        #[serde(borrow)]
        extensions: Option<Extensions<'a>>,
    }
    #[derive(Deserialize)]
    struct Extensions<'a> {
        #[serde(borrow, rename = "io.modelcontextprotocol/tasks")]
        tasks: Option<&'a RawValue>,
    }
    serde_json::from_str::<Capabilities<'_>>(capabilities)
        .ok()
        .and_then(|capabilities| capabilities.extensions?.tasks)
        .is_some_and(|tasks| tasks.get().starts_with('{'))
}

/// -32021 for who did not declare the extension.
#[must_use]
pub fn missing_extension(what: &str) -> RpcError {
    RpcError::new(
        MISSING_CAPABILITY,
        format!("{what} needs a client that declares the extension \"{EXTENSION}\" with this request"),
    )
    .with_data(&serde_json::json!({ "requiredCapabilities": { "extensions": { EXTENSION: {} } } }))
}

/// What `params.task` of a request of 2025-11-25 asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Augmentation {
    /// For how long the task is to be kept, milliseconds.
    pub ttl_ms: Option<u64>,
}

impl Augmentation {
    /// Reads it; `None` when the request is not to be a task.
    ///
    /// # Errors
    /// -32602 when it is no object, or its `ttl` no whole number of milliseconds.
    pub fn read(params: Option<&RawValue>) -> Result<Option<Self>, RpcError> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow)]
            task: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Task<'a> {
            #[serde(borrow)]
            ttl: Option<&'a RawValue>,
        }
        let Some(text) = params.map(RawValue::get).filter(|text| text.contains("\"task\"")) else {
            return Ok(None);
        };
        let Ok(Params { task: Some(task) }) = serde_json::from_str(text) else { return Ok(None) };
        let bad = || RpcError::invalid_params("params.task: want {} or {\"ttl\": MILLISECONDS}");
        let task: Task<'_> = Some(task.get())
            .filter(|text| text.starts_with('{'))
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(bad)?;
        let ttl_ms = match task.ttl.map(RawValue::get) {
            None | Some("null") => None,
            Some(number) => Some(milliseconds(number).ok_or_else(bad)?),
        };
        Ok(Some(Self { ttl_ms }))
    }
}

/// A number of milliseconds: clients that compute in floating point write `60000.0`.
fn milliseconds(json: &str) -> Option<u64> {
    let whole = json.split_once('.').map_or(json, |(whole, rest)| match rest.bytes().all(|b| b == b'0') {
        true => whole,
        false => json,
    });
    whole.parse().ok()
}

/// `params.taskId`.
///
/// # Errors
/// -32602 when there is none.
pub fn task_id(params: Option<&RawValue>) -> Result<String, RpcError> {
    #[derive(Deserialize)]
    struct Params {
        #[serde(rename = "taskId")]
        task_id: String,
    }
    let read = params.and_then(|params| serde_json::from_str::<Params>(params.get()).ok());
    let Params { task_id } = read.ok_or_else(|| RpcError::invalid_params("params.taskId: want a string"))?;
    if task_id.len() > MAX_TASK_ID_BYTES {
        return Err(no_task());
    }
    Ok(task_id)
}

/// `params.inputResponses` of `tasks/update`.
///
/// # Errors
/// -32602 when it is missing or no object.
pub fn input_responses(params: Option<&RawValue>) -> Result<Answers, RpcError> {
    #[derive(Deserialize)]
    struct Params {
        #[serde(rename = "inputResponses")]
        answers: Answers,
    }
    params
        .and_then(|params| serde_json::from_str::<Params>(params.get()).ok())
        .map(|params| params.answers)
        .ok_or_else(|| {
            RpcError::invalid_params("params.inputResponses: want an object of answers by their keys")
        })
}

/// -32602 for an id that names no task of the caller's, or none any more.
#[must_use]
pub fn no_task() -> RpcError {
    RpcError::invalid_params("params.taskId: no such task: it never was, is not yours, or its time is over")
}

/// A task as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its id.
    pub id: &'a str,
    /// Where it stands.
    pub status: Status,
    /// A sentence about that.
    pub message: Option<&'a str>,
    /// Its birth, in milliseconds since the epoch.
    pub created_ms: u64,
    /// Its last change, in milliseconds since the epoch.
    pub updated_ms: u64,
    /// For how long it is kept from its birth, milliseconds.
    pub ttl_ms: u64,
}

impl View<'_> {
    /// A `Task` of 2025-11-25, an object as JSON text.
    #[must_use]
    pub fn legacy(&self) -> String {
        format!("{{{},\"ttl\":{},\"pollInterval\":{}}}", self.common(), self.ttl_ms, TASK_POLL.as_millis())
    }

    /// The members of a `Task` of 2026-07-28, without braces.
    #[must_use]
    pub fn modern(&self) -> String {
        format!("{},\"ttlMs\":{},\"pollIntervalMs\":{}", self.common(), self.ttl_ms, TASK_POLL.as_millis())
    }

    fn common(&self) -> String {
        let mut text = format!("\"taskId\":{},\"status\":\"{}\"", quote(self.id), self.status.name());
        if let Some(message) = self.message {
            // Writing to a string cannot fail.
            let _ = write!(text, ",\"statusMessage\":{}", quote(message));
        }
        let (created, updated) = (date_time(self.created_ms), date_time(self.updated_ms));
        let _ = write!(text, ",\"createdAt\":\"{created}\",\"lastUpdatedAt\":\"{updated}\"");
        text
    }
}

/// A moment, in milliseconds since the epoch, as ISO 8601 has it in UTC.
#[must_use]
pub fn date_time(ms: u64) -> String {
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    // Years begin in March here, so that a leap day is the last one of its year.
    let from_march_0 = days.saturating_add(719_468);
    let (era, day_of_era) = (from_march_0 / 146_097, from_march_0 % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", in_day % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.into()).unwrap()
    }

    #[test]
    fn the_extension_is_declared_by_an_object_and_the_older_capability_declares_nothing() {
        for (json, is) in [
            (r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#, true),
            (r#"{"extensions":{"x":1,"io.modelcontextprotocol\/tasks":{"later":true}}}"#, true),
            (r#"{"extensions":{"io.modelcontextprotocol/tasks":true}}"#, false),
            (r#"{"extensions":[]}"#, false),
            (r#"{"tasks":{"list":{},"requests":{"tools":{"call":{}}}}}"#, false),
            ("{}", false),
        ] {
            assert_eq!(declares_extension(json), is, "{json}");
        }
        let data = missing_extension("x").data.unwrap();
        assert_eq!(
            data.get(),
            r#"{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}"#
        );
    }

    #[test]
    fn a_tool_says_whether_it_is_run_as_a_task() {
        for (json, support) in [
            (r#"{"execution":{"taskSupport":"required"}}"#, TaskSupport::Required),
            (r#"{"name":"a","execution":{"taskSupport":"optional","x":1}}"#, TaskSupport::Optional),
            (r#"{"execution":{"taskSupport":"forbidden"}}"#, TaskSupport::Forbidden),
            (r#"{"execution":{}}"#, TaskSupport::Forbidden),
            (r#"{"execution":7}"#, TaskSupport::Forbidden),
            ("{}", TaskSupport::Forbidden),
        ] {
            assert_eq!(TaskSupport::of_tool(json), support, "{json}");
        }
    }

    #[test]
    fn what_a_request_asks_for_is_read_and_what_makes_no_sense_is_refused() {
        let read = |json: &str| Augmentation::read(Some(&raw(json))).map(|it| it.map(|it| it.ttl_ms));
        for (json, asked) in [
            ("{}", None),
            (r#"{"arguments":{"task":{"ttl":1}}}"#, None),
            (r#"{"task":null}"#, None),
            (r#"{"task":{}}"#, Some(None)),
            (r#"{"task":{"ttl":null}}"#, Some(None)),
            (r#"{"task":{"ttl":60000,"pollInterval":5}}"#, Some(Some(60_000))),
            (r#"{"task":{"ttl":60000.0}}"#, Some(Some(60_000))),
        ] {
            assert_eq!(read(json).unwrap(), asked, "{json}");
        }
        for bad in [
            r#"{"task":1}"#,
            r#"{"task":[]}"#,
            r#"{"task":{"ttl":-1}}"#,
            r#"{"task":{"ttl":1.5}}"#,
            r#"{"task":{"ttl":"1"}}"#,
        ] {
            assert_eq!(read(bad).unwrap_err().code, -32602, "{bad}");
        }
        for bad in ["{}", r#"{"taskId":7}"#, r#"{"taskId":null}"#] {
            assert_eq!(task_id(Some(&raw(bad))).unwrap_err().code, -32602, "{bad}");
        }
        assert_eq!(
            task_id(Some(&raw(&format!(r#"{{"taskId":"{}"}}"#, "x".repeat(1000))))).unwrap_err().code,
            -32602
        );
        for bad in ["{}", r#"{"inputResponses":[]}"#, r#"{"inputResponses":null}"#] {
            assert_eq!(input_responses(Some(&raw(bad))).unwrap_err().code, -32602, "{bad}");
        }
    }

    #[test]
    fn a_task_has_the_members_of_its_revision() {
        let view = View {
            id: "t1.a",
            status: Status::InputRequired,
            message: Some("a \"word\""),
            created_ms: 1_785_229_500_999,
            updated_ms: 951_782_400_000,
            ttl_ms: 5_000,
        };
        let legacy: serde_json::Value = serde_json::from_str(&view.legacy()).unwrap();
        assert_eq!(
            legacy,
            serde_json::json!({
                "taskId": "t1.a", "status": "input_required", "statusMessage": "a \"word\"", "ttl": 5000,
                "createdAt": "2026-07-28T09:05:00.999Z", "lastUpdatedAt": "2000-02-29T00:00:00.000Z",
                "pollInterval": 1000
            })
        );
        let modern: serde_json::Value = serde_json::from_str(&format!("{{{}}}", view.modern())).unwrap();
        let keys: Vec<&String> = modern.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["createdAt", "lastUpdatedAt", "pollIntervalMs", "status", "statusMessage", "taskId", "ttlMs"]
        );
        assert_eq!(date_time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(date_time(4_107_542_399_000), "2100-02-28T23:59:59.000Z");
        assert_eq!(date_time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
