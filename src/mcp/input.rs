//! Questions in results: what a client of 2026-07-28 is asked, what it answers, and what makes a retry the same request
//! (MCP 2026-07-28, multi round-trip requests).

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::base::seal::sha256;
use crate::rpc::error::RpcError;
use crate::rpc::message::quote;

/// Answers by the names of their questions.
pub type Answers = HashMap<String, Box<RawValue>>;

/// What a request brings of earlier rounds.
#[derive(Debug, Default)]
pub struct Retry {
    /// `inputResponses`
    pub answers: Answers,
    /// `requestState`
    pub state: Option<String>,
}

impl Retry {
    /// Reads it from a request's params; most requests bring nothing.
    ///
    /// # Errors
    /// -32602 when the state is no string.
    pub fn read(params: Option<&RawValue>) -> Result<Self, RpcError> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, rename = "inputResponses")]
            answers: Option<&'a RawValue>,
            #[serde(borrow, rename = "requestState")]
            state: Option<&'a RawValue>,
        }
        let Some(text) = params.map(RawValue::get) else { return Ok(Self::default()) };
        if !text.contains("inputResponses") && !text.contains("requestState") {
            return Ok(Self::default());
        }
        let params: Params<'_> = serde_json::from_str(text)
            .map_err(|error| RpcError::invalid_params(format!("params: {error}")))?;
        // What are no answers is as if it were not there: the questions are asked again.
        let answers = params.answers.and_then(|answers| serde_json::from_str(answers.get()).ok());
        let state = match params.state {
            None => None,
            Some(state) => Some(serde_json::from_str(state.get()).map_err(|_| {
                RpcError::invalid_params("params.requestState: want the string that the last answer had")
            })?),
        };
        Ok(Self { answers: answers.unwrap_or_default(), state })
    }
}

/// Whether `answer` is an answer to this question. One that is none counts as not given, and is asked for again.
#[must_use]
pub fn fits(method: &str, question: &RawValue, answer: &RawValue) -> bool {
    match method {
        "elicitation/create" => is_elicit_result(question, answer),
        "sampling/createMessage" => {
            #[derive(Deserialize)]
            struct Message {
                role: String,
                content: Box<RawValue>,
            }
            serde_json::from_str::<Message>(answer.get()).is_ok_and(|message| {
                message.role == "assistant" && message.content.get().starts_with(['{', '['])
            })
        }
        "roots/list" => {
            #[derive(Deserialize)]
            struct Roots {
                #[expect(dead_code, reason = "only its type counts")]
                roots: Vec<BTreeMap<String, IgnoredAny>>,
            }
            serde_json::from_str::<Roots>(answer.get()).is_ok()
        }
        _ => false,
    }
}

fn is_elicit_result(question: &RawValue, answer: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Question {
        mode: Option<String>,
        #[serde(rename = "requestedSchema")]
        schema: Option<Schema>,
    }
    #[derive(Deserialize)]
    struct Schema {
        #[serde(default)]
        required: Vec<String>,
    }
    #[derive(Deserialize)]
    struct ElicitResult {
        action: String,
        content: Option<BTreeMap<String, IgnoredAny>>,
    }
    let Ok(result) = serde_json::from_str::<ElicitResult>(answer.get()) else { return false };
    if result.action != "accept" {
        return matches!(result.action.as_str(), "decline" | "cancel");
    }
    // A form that cannot be read is for the server that asked with it to judge.
    let Ok(question) = serde_json::from_str::<Question>(question.get()) else { return true };
    if question.mode.as_deref() == Some("url") {
        return true;
    }
    let content = result.content.unwrap_or_default();
    question.schema.is_none_or(|schema| schema.required.iter().all(|field| content.contains_key(field)))
}

/// An `InputRequiredResult`. Questions: name, method, params as JSON text.
pub fn input_required<'a>(
    questions: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
    state: &str,
) -> String {
    let questions: Vec<String> = questions
        .map(|(key, method, params)| {
            format!("{}:{{\"method\":{},\"params\":{params}}}", quote(key), quote(method))
        })
        .collect();
    format!(
        "{{\"resultType\":\"input_required\",\"inputRequests\":{{{}}},\"requestState\":{}}}",
        questions.join(","),
        quote(state)
    )
}

/// What a request and its retries have in common: the method and all params but `_meta`, answers and state. Neither
/// blanks nor the order of members count; numbers are compared as they are written.
#[must_use]
pub fn digest(method: &str, params: Option<&RawValue>) -> [u8; 32] {
    let mut text = quote(method);
    if let Some(params) = params {
        match serde_json::from_str::<BTreeMap<String, &RawValue>>(params.get()) {
            Ok(mut members) => {
                for other in ["_meta", "inputResponses", "requestState"] {
                    members.remove(other);
                }
                write_object(&mut text, members);
            }
            Err(_) => text.push_str(params.get()),
        }
    }
    sha256(text.as_bytes())
}

fn write_object(text: &mut String, members: BTreeMap<String, &RawValue>) {
    text.push('{');
    for (name, value) in members {
        text.push_str(&quote(&name));
        text.push(':');
        write_value(text, value.get());
        text.push(',');
    }
    text.push('}');
}

/// JSON in one way of writing. Nesting was bounded when the message was read.
fn write_value(text: &mut String, json: &str) {
    match json.as_bytes().first() {
        Some(b'{') => {
            if let Ok(members) = serde_json::from_str(json) {
                return write_object(text, members);
            }
        }
        Some(b'[') => {
            if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(json) {
                text.push('[');
                for item in items {
                    write_value(text, item.get());
                    text.push(',');
                }
                text.push(']');
                return;
            }
        }
        Some(b'"') => {
            if let Ok(string) = serde_json::from_str::<String>(json) {
                text.push_str(&quote(&string));
                return;
            }
        }
        _ => {}
    }
    text.push_str(json);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.into()).unwrap()
    }

    #[test]
    fn a_retry_is_read_and_what_are_no_answers_counts_as_none() {
        let retry = |json: &str| Retry::read(Some(&raw(json)));
        let read = retry(r#"{"inputResponses":{"a":{"x":1e400}},"requestState":"s"}"#).unwrap();
        assert_eq!((read.answers["a"].get(), read.state.as_deref()), (r#"{"x":1e400}"#, Some("s")));
        for nothing in ["{}", r#"{"inputResponses":null,"requestState":null}"#, r#"{"name":"requestState"}"#]
        {
            let read = retry(nothing).unwrap();
            assert!(read.answers.is_empty() && read.state.is_none(), "{nothing}");
        }
        assert_eq!(retry(r#"{"requestState":{}}"#).unwrap_err().code, -32602);
    }

    #[test]
    fn an_answer_must_have_the_form_of_its_question() {
        let form = r#"{"message":"?","requestedSchema":{"type":"object","required":["name"]}}"#;
        let url = r#"{"mode":"url","message":"?","url":"https://x"}"#;
        for (method, question, answer, fit) in [
            ("elicitation/create", form, r#"{"action":"accept","content":{"name":"A"}}"#, true),
            ("elicitation/create", form, r#"{"action":"accept","content":{"nam":"A"}}"#, false),
            ("elicitation/create", form, r#"{"action":"accept"}"#, false),
            ("elicitation/create", form, r#"{"action":"decline"}"#, true),
            ("elicitation/create", form, r#"{"action":"maybe"}"#, false),
            ("elicitation/create", form, "12345", false),
            ("elicitation/create", url, r#"{"action":"accept"}"#, true),
            ("elicitation/create", "{}", r#"{"action":"accept","content":[]}"#, false),
            (
                "sampling/createMessage",
                "{}",
                r#"{"role":"assistant","content":{"type":"text","text":"x"},"model":"m"}"#,
                true,
            ),
            ("sampling/createMessage", "{}", r#"{"role":"assistant"}"#, false),
            ("roots/list", "{}", r#"{"roots":[{"uri":"file:///a"}]}"#, true),
            ("roots/list", "{}", r#"{"roots":[1]}"#, false),
            ("roots/list", "{}", "null", false),
            ("ping", "{}", "{}", false),
        ] {
            assert_eq!(fits(method, &raw(question), &raw(answer)), fit, "{method} {answer}");
        }
    }

    #[test]
    fn a_request_and_its_retry_have_one_digest_and_another_request_has_another() {
        let of = |json: &str| digest("tools/call", Some(&raw(json)));
        let first = of(
            r#"{"name":"a","arguments":{"n":12345678901234567890123,"s":"\u0041","l":[1,{"x":2,"y":3}]},"_meta":{"progressToken":1}}"#,
        );
        let again = of(
            r#"{ "requestState":"x", "inputResponses":{"k":{}}, "arguments": {"l":[1, {"y":3,"x":2}],"s":"A","n":12345678901234567890123}, "name":"a", "_meta":{"progressToken":2}}"#,
        );
        assert_eq!(first, again);
        for other in [
            r#"{"name":"a","arguments":{"n":12345678901234567890124,"s":"A","l":[1,{"x":2,"y":3}]}}"#,
            r#"{"name":"b","arguments":{"n":12345678901234567890123,"s":"A","l":[1,{"x":2,"y":3}]}}"#,
            r#"{"name":"a","arguments":{"n":12345678901234567890123,"s":"A","l":[{"x":2,"y":3},1]}}"#,
            r#"{"name":"a"}"#,
        ] {
            assert_ne!(of(other), first, "{other}");
        }
        assert_ne!(digest("prompts/get", Some(&raw("{}"))), of("{}"));
        assert_ne!(of(r#"{"arguments":{"a":"b,\"c\":1"}}"#), of(r#"{"arguments":{"a":"b","c":1}}"#));
    }

    #[test]
    fn what_is_required_is_written_with_each_question_under_its_name() {
        let text = input_required([("a\"b", "roots/list", "{}")].into_iter(), "s");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["resultType"], "input_required");
        assert_eq!(value["inputRequests"]["a\"b"]["method"], "roots/list");
        assert_eq!(value["requestState"], "s");
    }
}
