//! Calls that a dead process left behind: their stream was begun and not ended.
//!
//! A tool that can go on where it stopped does, and one of which running it twice does no harm is run again; any other call
//! ends with an error that says whether a retry is safe. Either way the client that asks for the stream gets its end.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::driver::Driver;
use super::outbox::{CallOutbox, Peer};
use super::session::{Running, Session};
use crate::auth::Principal;
use crate::base::ids::Origin;
use crate::base::limits::{ORPHAN_AFTER, ORPHAN_LOOK};
use crate::rpc::error::{INTERNAL, RpcError};
use crate::rpc::message::error_response;
use crate::state::log::{Kind, Log, StreamName};
use crate::tools::{BoxFuture, Call};

type Outcome = Result<Box<RawValue>, RpcError>;

/// A call without an end.
pub(super) struct Interrupted {
    stream: StreamName,
    /// Who ran it.
    origin: Origin,
    open: Bytes,
    /// Messages of it that were stored.
    messages: u64,
}

#[derive(Deserialize)]
struct Open {
    id: Box<RawValue>,
    tool: String,
    #[serde(default)]
    principal: String,
    params: Option<Box<RawValue>>,
    /// It waited for the result of this task.
    task: Option<String>,
    /// Messages of the call that were stored before this record.
    #[serde(default)]
    told: u64,
}

/// The member that [`record`] puts in front.
const TOLD: &[u8] = b"{\"told\":";

/// The record `open` for a place in the log that `told` messages of the call come before.
pub(super) fn record(open: &Bytes, told: u64) -> Bytes {
    if told == 0 {
        return open.clone();
    }
    let rest = match open.strip_prefix(TOLD) {
        Some(rest) => rest.iter().position(|byte| *byte == b',').and_then(|at| rest.get(at + 1..)),
        None => open.strip_prefix(b"{"),
    };
    let mut text = Vec::from(TOLD);
    text.extend_from_slice(told.to_string().as_bytes());
    text.push(b',');
    text.extend_from_slice(rest.unwrap_or_default());
    text.into()
}

/// The error that ends an interrupted call.
pub(super) fn interrupted(why: &str) -> RpcError {
    RpcError::new(INTERNAL, format!("{why} while this call ran: whether it took effect is not known"))
        .with_data(
            &serde_json::json!({ "reason": "interrupted", "retry": "unsafe unless the tool is idempotent" }),
        )
}

/// Streams that another process start began and nobody ended.
pub(super) fn find(log: &Log, own: Origin) -> Vec<Interrupted> {
    let mut open: Vec<(Interrupted, bool)> = Vec::new();
    for entry in log.entries().filter(|entry| entry.stream != StreamName::GET) {
        let at = match open.iter().position(|(call, _)| call.stream == entry.stream) {
            Some(at) => at,
            None => {
                let call = Interrupted {
                    stream: entry.stream,
                    origin: entry.origin,
                    open: Bytes::new(),
                    messages: 0,
                };
                open.push((call, false));
                open.len() - 1
            }
        };
        let Some((call, done)) = open.get_mut(at) else { continue };
        match entry.kind {
            Kind::Open => {
                call.open = entry.payload.clone();
                call.origin = entry.origin;
                let told = serde_json::from_slice::<Open>(&call.open).map_or(0, |open| open.told);
                call.messages = call.messages.max(told);
            }
            Kind::Message => call.messages += 1,
            Kind::Final | Kind::Close => *done = true,
        }
        *done |= entry.origin == own;
    }
    open.into_iter().filter(|(_, done)| !done).map(|(call, _)| call).collect()
}

/// Sees to the calls that a dead process left behind: at once those of which that is certain, the others when their
/// instance has not said for [`ORPHAN_AFTER`] that it runs.
pub(super) async fn see_to(engine: Arc<Engine>, session: Arc<Session>) {
    let own = engine.store.origin();
    let calls = find(&session.streams().log, own);
    let (over, running): (Vec<_>, Vec<_>) =
        calls.into_iter().partition(|call| engine.store.is_over(call.origin));
    for call in over {
        settle(&engine, &session, call).await;
    }
    if !running.is_empty() {
        let (stopping, session, engine) =
            (engine.stopping.clone(), Arc::downgrade(&session), Arc::downgrade(&engine));
        // Not one of the tasks that a shutdown waits for.
        tokio::spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = await_death(engine, session) => {}
            }
        });
    }
}

/// Looks at those who run calls of a session until none is left without an end.
async fn await_death(engine: Weak<Engine>, session: Weak<Session>) {
    let mut missing: HashMap<Origin, tokio::time::Instant> = HashMap::new();
    loop {
        tokio::time::sleep(ORPHAN_LOOK).await;
        let (Some(engine), Some(session)) = (engine.upgrade(), session.upgrade()) else { return };
        let calls = find(&session.streams().log, engine.store.origin());
        if calls.is_empty() || session.is_ended() {
            return;
        }
        let Some(running) = engine.store.running_starts().await else {
            // Who cannot be asked about is not missing.
            missing.clear();
            continue;
        };
        missing.retain(|origin, _| !running.contains(origin));
        for call in calls.into_iter().filter(|call| !running.contains(&call.origin)) {
            let since = *missing.entry(call.origin).or_insert_with(tokio::time::Instant::now);
            if since.elapsed() >= ORPHAN_AFTER {
                tracing::info!(session = %session.claims.key, origin = %call.origin, "the instance that ran a call is gone");
                settle(&engine, &session, call).await;
            }
        }
    }
}

/// Runs the call again from where it stopped, or ends it.
fn settle<'a>(engine: &'a Arc<Engine>, session: &'a Arc<Session>, call: Interrupted) -> BoxFuture<'a, ()> {
    // Boxed, because a call that goes on appends, and appending begins with reading the log.
    Box::pin(settle_one(engine, session, call))
}

async fn settle_one(engine: &Arc<Engine>, session: &Arc<Session>, call: Interrupted) {
    let Ok(open) = serde_json::from_slice::<Open>(&call.open) else {
        tracing::warn!(session = %session.claims.key, stream = %call.stream, "a stream begins with a record that cannot be read");
        // Whose call it was is not known: its client is at least not kept waiting.
        end(engine, session, call.stream, (Kind::Close, Bytes::new())).await;
        return;
    };
    let cancel = CancellationToken::new();
    let outbox = CallOutbox::new(Peer::Session(Arc::clone(session)), cancel.clone(), true);
    let again = match &open.task {
        Some(task) => wait_again(engine, task, &open.principal, &outbox).await,
        None => run_again(engine, session, &open, call.messages, &outbox, &cancel).await,
    };
    if let Some(future) = again {
        let handle = Running::new(cancel);
        handle.is_of(open.tool.clone(), &outbox);
        session.calls().insert(open.id.get().into(), handle.clone());
        // Says in this process's run that the stream goes on here, and with which record it began.
        session.streams().begin_call(call.stream, call.open.clone(), call.messages);
        let again = record(&call.open, call.messages);
        if let Err(error) = session.append(engine, call.stream, vec![(Kind::Open, again)]).await {
            tracing::warn!(session = %session.claims.key, %error, "an interrupted call cannot go on");
            session.streams().end_call(call.stream);
            session.calls().remove(open.id.get());
            return;
        }
        let driver = Driver::resumed(engine, session, open.id.get(), call.stream, call.open, outbox, handle);
        engine.tasks.spawn(driver.run(future));
        return;
    }
    let answer = error_response(Some(open.id.get()), &interrupted("the server was restarted"));
    end(engine, session, call.stream, (Kind::Final, answer)).await;
}

/// The call of a tool that can go on where it stopped, or begin anew.
async fn run_again(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    open: &Open,
    after: u64,
    outbox: &Arc<CallOutbox>,
    cancel: &CancellationToken,
) -> Option<BoxFuture<'static, Outcome>> {
    let params = open.params.as_ref()?;
    let tool = engine.find_tool(&open.tool).await.filter(|tool| tool.tool.resumable || tool.repeatable)?;
    let resumed_after = tool.tool.resumable.then_some(after);
    tracing::info!(session = %session.claims.key, tool = open.tool, ?resumed_after, "an interrupted call goes on");
    let again = Call {
        params: params.clone(),
        // Of a call that begins anew the client has heard progress that this one has not made yet: it may not go back.
        progress_token: resumed_after.and_then(|_| progress_token(params)),
        session: Some(Arc::clone(session) as _),
        out: Arc::clone(outbox) as _,
        cancel: cancel.clone(),
        principal: open.principal.as_str().into(),
        handles: Arc::clone(&engine.handles) as _,
        correlation: "resumed".into(),
        resumed_after,
        anew: false,
    };
    Some(tool.run(again))
}

/// The request that waited for the result of a task: the task is still there, or says what became of it.
async fn wait_again(
    engine: &Arc<Engine>,
    task: &str,
    principal: &str,
    outbox: &Arc<CallOutbox>,
) -> Option<BoxFuture<'static, Outcome>> {
    match engine.find_task(task, &Principal::new(principal)).await {
        Ok(found) => Some(engine.result_of_task(found, Arc::clone(outbox))),
        Err(error) => Some(Box::pin(std::future::ready(Err(error)))),
    }
}

async fn end(engine: &Arc<Engine>, session: &Arc<Session>, stream: StreamName, last: (Kind, Bytes)) {
    if let Err(error) = session.append(engine, stream, vec![last]).await {
        tracing::warn!(session = %session.claims.key, %error, "the end of an interrupted call could not be stored");
    }
}

fn progress_token(params: &RawValue) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Params {
        #[serde(rename = "_meta")]
        meta: Option<Meta>,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "progressToken")]
        progress_token: Option<Box<RawValue>>,
    }
    serde_json::from_str::<Params>(params.get()).ok()?.meta?.progress_token
}
