//! Tools that test a deployment (`--diagnostics`): the drill and the benchmarks call them.

mod arguments;
mod ask;

use std::future::ready;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};

use self::arguments::Arguments;
use crate::base::limits::{EMIT_MAX_COUNT, EMIT_MAX_INTERVAL_MS, FILL_MAX_BYTES, SLEEP_MAX_MS};
use crate::rpc::error::RpcError;
use crate::rpc::message::{notification, quote};
use crate::tools::answer::{failure, quoted_text, raw, text};
use crate::tools::{BoxFuture, Call, Host, LogLevel, Tool};

/// Under this name a session keeps its counter.
const COUNTER: &str = "diagnostics.counter";
/// Between two progress notifications of `sleep`.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The host of `echo`, `sleep`, `counter`, `ask`, `emit` and `fill`.
#[derive(Debug, Default)]
pub struct Diagnostics;

/// What a tool answers.
type Answer = Result<Box<RawValue>, RpcError>;

impl Host for Diagnostics {
    fn name(&self) -> &str {
        "diagnostics"
    }

    fn is_timed(&self) -> bool {
        false
    }

    fn tools(&self) -> BoxFuture<'_, Result<Vec<Tool>, RpcError>> {
        Box::pin(ready(Ok(DESCRIPTIONS
            .iter()
            .map(|(name, json)| Tool {
                name: (*name).into(),
                json: raw((*json).into()),
                resumable: *name == "emit",
            })
            .collect())))
    }

    fn call(&self, tool: &str, call: Call) -> BoxFuture<'static, Answer> {
        match tool {
            "echo" => Box::pin(ready(echo(&call))),
            "fill" => Box::pin(ready(fill(&call))),
            "sleep" => cancellable(call, |call| Box::pin(sleep(call))),
            "counter" => cancellable(call, |call| Box::pin(counter(call))),
            "ask" => cancellable(call, |call| Box::pin(ask::ask(call))),
            "emit" => cancellable(call, |call| Box::pin(emit(call))),
            other => Box::pin(ready(Err(RpcError::invalid_params(format!("no tool {other:?} here"))))),
        }
    }
}

/// Ends a tool at once when its call is cancelled, whatever it waits for.
fn cancellable(
    call: Call,
    run: impl FnOnce(Call) -> BoxFuture<'static, Answer>,
) -> BoxFuture<'static, Answer> {
    let cancel = call.cancel.clone();
    let running = run(call);
    Box::pin(async move {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(failure("the call was cancelled")),
            answer = running => answer,
        }
    })
}

/// The message comes back. Nothing is decoded, so every string that JSON can write comes back as it was written.
fn echo(call: &Call) -> Answer {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        arguments: Message<'a>,
    }
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        message: &'a RawValue,
    }
    match serde_json::from_str::<Params<'_>>(call.params.get()) {
        Ok(params) if params.arguments.message.get().starts_with('"') => {
            Ok(quoted_text(params.arguments.message.get()))
        }
        _ => Arguments::of("echo", call)?.checked(|arguments| arguments.string("message").map(quoted_text)),
    }
}

fn fill(call: &Call) -> Answer {
    Arguments::of("fill", call)?.checked(|arguments| {
        let bytes = arguments.integer("bytes", 0, FILL_MAX_BYTES)?;
        Ok(text(&"x".repeat(usize::try_from(bytes).unwrap_or_default())))
    })
}

async fn sleep(call: Call) -> Answer {
    let ms = match Arguments::of("sleep", &call)?.integer("ms", 0, SLEEP_MAX_MS) {
        Ok(ms) => ms,
        Err(wrong) => return Ok(wrong),
    };
    let start = Instant::now();
    let end = start + Duration::from_millis(ms);
    if let Some(token) = &call.progress_token {
        let mut next = start + PROGRESS_EVERY;
        while next < end {
            sleep_until(next).await;
            let done = (next - start).as_millis();
            let params = format!("{{\"progressToken\":{token},\"progress\":{done},\"total\":{ms}}}");
            call.out.notify(notification("notifications/progress", &params)).await?;
            next += PROGRESS_EVERY;
        }
    }
    sleep_until(end).await;
    Ok(text(&format!("slept {ms} ms")))
}

/// A number kept in the session, or under a handle: without a session, or when the caller names one.
async fn counter(call: Call) -> Answer {
    let (by, handle) = {
        let arguments = Arguments::of("counter", &call)?;
        match (arguments.signed_or("by", 1), arguments.text_or_none("handle")) {
            (Ok(by), Ok(handle)) => (by, handle),
            (Err(wrong), _) | (_, Err(wrong)) => return Ok(wrong),
        }
    };
    let add = move |value: Option<&Bytes>| Bytes::from(number(value).saturating_add(by).to_string());
    let (value, handle) = match (handle, &call.session) {
        (Some(handle), _) => {
            let changed = call
                .handles
                .change(&call.principal, &handle, Box::new(move |value| add(Some(value))))
                .await?;
            match changed {
                Some(value) => (value, Some(handle)),
                None => {
                    return Ok(failure(
                        "counter: \"handle\": no such handle, or it has expired; call without one to get a new one",
                    ));
                }
            }
        }
        (None, Some(session)) => {
            let change = Box::new(move |value: Option<&Bytes>| Some(add(value)));
            (session.change_value(COUNTER, change).await?.unwrap_or_default(), None)
        }
        (None, None) => {
            let value = add(None);
            let handle = call.handles.create(&call.principal, value.clone()).await?;
            (value, Some(handle))
        }
    };
    let value = number(Some(&value));
    Ok(match handle {
        None => raw(format!(
            "{{\"content\":[{{\"type\":\"text\",\"text\":\"{value}\"}}],\"structuredContent\":{{\"value\":{value}}}}}"
        )),
        Some(handle) => raw(format!(
            "{{\"content\":[{{\"type\":\"text\",\"text\":\"{value}\"}},{{\"type\":\"text\",\"text\":{said}}}],\
             \"structuredContent\":{{\"value\":{value},\"handle\":{handle}}}}}",
            said = quote(&format!("handle: {handle}")),
            handle = quote(&handle),
        )),
    })
}

/// A value that is there but is no number counts as 0: somebody else's value is replaced, not misread.
fn number(value: Option<&Bytes>) -> i64 {
    value.and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Numbered log messages on the request's stream; after a crash it goes on behind the last one that was stored.
async fn emit(call: Call) -> Answer {
    let (count, interval) = {
        let arguments = Arguments::of("emit", &call)?;
        match (
            arguments.integer("count", 0, EMIT_MAX_COUNT),
            arguments.integer_or("interval_ms", 0, 0, EMIT_MAX_INTERVAL_MS),
        ) {
            (Ok(count), Ok(interval)) => (count, Duration::from_millis(interval)),
            (Err(wrong), _) | (_, Err(wrong)) => return Ok(wrong),
        }
    };
    let first = call.resumed_after.unwrap_or(0).saturating_add(1);
    let mut next = Instant::now();
    let mut unwanted = 0_u64;
    for n in first..=count {
        if call.out.wants_log(LogLevel::Info) {
            let params = format!("{{\"level\":\"info\",\"logger\":\"emit\",\"data\":{{\"n\":{n}}}}}");
            call.out.notify(notification("notifications/message", &params)).await?;
        } else {
            unwanted += 1;
        }
        if n < count && !interval.is_zero() {
            next += interval;
            sleep_until(next).await;
        } else if n % 64 == 0 {
            // Without pauses and with an outbox that never waits, nobody else would get a turn.
            tokio::task::yield_now().await;
        }
    }
    Ok(text(&match unwanted {
        0 => format!("emitted {count} messages"),
        _ => format!(
            "emitted {count} messages, {unwanted} of them not sent: the client does not want level info"
        ),
    }))
}

const DESCRIPTIONS: &[(&str, &str)] = &[
    (
        "echo",
        r#"{"name":"echo","title":"Echo","description":"Returns the message as it came. For testing a deployment.","inputSchema":{"type":"object","properties":{"message":{"type":"string","description":"What to return"}},"required":["message"]},"annotations":{"readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false}}"#,
    ),
    (
        "sleep",
        r#"{"name":"sleep","title":"Sleep","description":"Waits, with progress every 100 ms when the request has a progress token. For testing a deployment.","inputSchema":{"type":"object","properties":{"ms":{"type":"integer","minimum":0,"maximum":3600000,"description":"How long, milliseconds"}},"required":["ms"]},"execution":{"taskSupport":"optional"},"annotations":{"readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false}}"#,
    ),
    (
        "counter",
        r#"{"name":"counter","title":"Counter","description":"Adds to a number that the session keeps and returns it. Without a session (MCP 2026-07-28) the first call returns a handle; give it to later calls. A handle ends when nobody uses it for as long as sessions may be idle. For testing a deployment.","inputSchema":{"type":"object","properties":{"by":{"type":"integer","default":1,"description":"What to add"},"handle":{"type":"string","description":"The handle that an earlier call returned; only without a session"}}},"annotations":{"readOnlyHint":false,"destructiveHint":false,"idempotentHint":false,"openWorldHint":false}}"#,
    ),
    (
        "ask",
        r#"{"name":"ask","title":"Ask","description":"Asks the user through the client (elicitation) and returns the answer. For testing a deployment.","inputSchema":{"type":"object","properties":{"message":{"type":"string","description":"The question"}},"required":["message"]},"annotations":{"readOnlyHint":true,"destructiveHint":false,"idempotentHint":false,"openWorldHint":true}}"#,
    ),
    (
        "emit",
        r#"{"name":"emit","title":"Emit","description":"Sends log messages of level info, numbered from 1, on the request's stream. Goes on where it was when the server is killed and started again. For testing a deployment.","inputSchema":{"type":"object","properties":{"count":{"type":"integer","minimum":0,"maximum":100000,"description":"How many"},"interval_ms":{"type":"integer","minimum":0,"maximum":60000,"default":0,"description":"Pause between two, milliseconds"}},"required":["count"]},"annotations":{"readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false}}"#,
    ),
    (
        "fill",
        r#"{"name":"fill","title":"Fill","description":"Returns a text of this many bytes. For testing a deployment.","inputSchema":{"type":"object","properties":{"bytes":{"type":"integer","minimum":0,"maximum":8388608,"description":"Length of the text"}},"required":["bytes"]},"annotations":{"readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false}}"#,
    ),
];
