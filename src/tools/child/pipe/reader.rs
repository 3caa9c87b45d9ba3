//! Everything that a child prints on its stdout.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::process::ChildStdout;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{sleep, timeout};

use super::{Answer, Event, Relay, Shared};
use crate::base::limits::{
    CHILD_GARBAGE_LINES, CHILD_LAST_WORDS, CHILD_LINE_BYTES, CHILD_RELAY_WAIT, EXCERPT_BYTES,
};
use crate::rpc::error::RpcError;
use crate::rpc::message::{
    Envelope, Message, Notification, Request, Response, error_response, notification, response,
};
use crate::rpc::object::Object;
use crate::tools::child::error::Death;
use crate::tools::child::lines::{Line, Lines};
use crate::tools::hosted::messages::{error_of, excerpt, level_of, progress_for, progress_token};

/// Reads until the child is gone, ends what is left of it, and tells everybody who waits.
pub(super) async fn read(shared: Arc<Shared>, stdout: ChildStdout) {
    let mut reason = read_lines(&shared, stdout).await;
    // It closed its stdout, which is as good as gone, or did what no server may do.
    let _ = timeout(CHILD_LAST_WORDS, shared.watch.ended()).await;
    shared.watch.kill();
    let (status, stderr) = shared.watch.last_words().await;
    if let Some(fault) = shared.watch.overuse(status.as_deref(), &stderr) {
        reason = fault;
    } else if let Some(fault) = shared.fault.get() {
        reason = (*fault).into();
    }
    shared.die(Death { server: Arc::clone(&shared.server), reason, status, stderr });
}

/// Why there is nothing more to read.
async fn read_lines(shared: &Arc<Shared>, stdout: ChildStdout) -> String {
    let mut lines = Lines::new(stdout, CHILD_LINE_BYTES);
    let mut garbage = 0;
    let mut gone = pin!(async {
        shared.watch.ended().await;
        sleep(CHILD_LAST_WORDS).await;
    });
    loop {
        let line = tokio::select! {
            biased;
            line = lines.next() => line,
            // A process that left the group can hold the pipe open for ever.
            () = &mut gone => return "it ended".into(),
        };
        let line = match line {
            Ok(Some(Line::Whole(line))) => line,
            Ok(Some(Line::Cut(_))) => {
                shared.watch.kill();
                return format!("it printed a line of more than {CHILD_LINE_BYTES} bytes");
            }
            Ok(None) => return "it ended, or closed its stdout".into(),
            Err(error) => return format!("its stdout cannot be read: {error}"),
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        // Whatever it is, it lives. Before it is passed on: that may wait for a client.
        shared.silence.hear();
        match shared.receive(&line).await {
            Ok(()) => garbage = 0,
            Err(why) => {
                garbage += 1;
                tracing::warn!(
                    server = %shared.server,
                    pid = shared.watch.pid,
                    line = excerpt(&line, EXCERPT_BYTES),
                    "skipped a line of its stdout that is no message: {why}"
                );
                if garbage >= CHILD_GARBAGE_LINES {
                    shared.watch.kill();
                    return format!(
                        "it printed {garbage} lines in a row that are no messages, so it is no MCP server"
                    );
                }
            }
        }
    }
}

impl Shared {
    async fn receive(self: &Arc<Self>, line: &Bytes) -> Result<(), String> {
        match Envelope::parse(line) {
            Ok(Envelope::One(message)) => self.sort(message).await,
            // Only a server of 2025-03-26 prints these.
            Ok(Envelope::Batch(messages)) => {
                for message in messages {
                    match Message::parse(message.get()) {
                        Ok(message) => self.sort(message).await,
                        Err(malformed) => return Err(malformed.error.message.into()),
                    }
                }
            }
            Err(malformed) => {
                let why = malformed.error.message.to_string();
                self.fail_malformed(line, &why);
                return Err(why);
            }
        }
        Ok(())
    }

    async fn sort(self: &Arc<Self>, message: Message<'_>) {
        match message {
            Message::Response(response) => self.answered(&response),
            Message::Request(request) => self.requested(&request),
            Message::Notification(notification) => self.notified(&notification).await,
        }
    }

    fn answered(&self, answer: &Response<'_>) {
        let waiter = answer.id.get().parse().ok().and_then(|id: u64| self.lock().waiter(id));
        let Some(waiter) = waiter else {
            // Late, twice, or never asked: nobody waits for it.
            tracing::debug!(server = %self.server, id = answer.id.get(), "an answer that nobody waits for");
            return;
        };
        // Who has stopped waiting does not need it.
        let _ = waiter.send(match answer.outcome {
            Ok(result) if result.get().starts_with('{') => Answer::Result(result.to_owned()),
            Ok(_) => Answer::Error(RpcError::internal(format!(
                "server {:?} answered with a result that is no object",
                self.server
            ))),
            Err(error) => Answer::Error(error_of(&self.server, error)),
        });
    }

    /// A line that is no message but has the id of a request: whoever waits is told, instead of waiting in vain.
    fn fail_malformed(&self, line: &Bytes, why: &str) {
        #[derive(Deserialize)]
        struct OnlyId {
            id: u64,
            method: Option<serde::de::IgnoredAny>,
        }
        if let Ok(OnlyId { id, method: None }) = serde_json::from_slice(line)
            && let Some(waiter) = self.lock().waiter(id)
        {
            let error =
                format!("server {:?} answered with something that is no response: {why}", self.server);
            let _ = waiter.send(Answer::Error(RpcError::internal(error)));
        }
    }

    fn requested(self: &Arc<Self>, request: &Request<'_>) {
        match &*request.method {
            "ping" => self.try_send(&response(request.id.get(), "{}")),
            "elicitation/create" | "sampling/createMessage" | "roots/list" => self.asked(request),
            other => {
                let error = RpcError::method_not_found(other);
                self.try_send(&error_response(Some(request.id.get()), &error));
            }
        }
    }

    async fn notified(&self, message: &Notification<'_>) {
        match (&*message.method, message.params) {
            ("notifications/progress", Some(params)) => self.progress(params).await,
            ("notifications/message", Some(params)) => self.log(params).await,
            ("notifications/cancelled", Some(params)) => {
                if let Some(id) = Object::parse(params.get()).ok().and_then(|params| params.get("requestId"))
                {
                    self.withdraw(id.get());
                }
            }
            (other, _) => {
                if !self.ears.hear(&self.server, message) {
                    tracing::debug!(server = %self.server, method = other, "a notification that is not passed on");
                }
            }
        }
    }

    /// Our token back to the caller's, for exactly the call that it was made for.
    async fn progress(&self, params: &RawValue) {
        let relay = progress_token(params)
            .and_then(|id| self.lock().running.get(&id).and_then(|running| running.relay.clone()));
        let Some((relay, token)) = relay.and_then(|relay| relay.token.clone().map(|token| (relay, token)))
        else {
            tracing::debug!(server = %self.server, "progress of no running call");
            return;
        };
        self.relay(&relay, progress_for(params, &token)).await;
    }

    async fn log(&self, params: &RawValue) {
        let level = level_of(params);
        let relay = self.addressee(&self.lock()).cloned();
        match (level, relay) {
            (Some(level), Some(relay)) if relay.out.wants_log(level) => {
                self.relay(&relay, notification("notifications/message", params.get())).await;
            }
            _ => tracing::debug!(
                server = %self.server,
                log = excerpt(params.get().as_bytes(), EXCERPT_BYTES),
                "a log message that no call wants"
            ),
        }
    }

    /// Gives a message to its call. A client that is behind is waited for once, for a bounded time.
    async fn relay(&self, relay: &Relay, message: Bytes) {
        let event = match relay.to.try_send(Event::Notify(message)) {
            Ok(()) => return relay.stalled.store(false, Ordering::Relaxed),
            Err(TrySendError::Closed(_)) => return,
            Err(TrySendError::Full(event)) => event,
        };
        if relay.stalled.load(Ordering::Relaxed) {
            return;
        }
        if timeout(CHILD_RELAY_WAIT, relay.to.send(event)).await.is_err() {
            relay.stalled.store(true, Ordering::Relaxed);
            tracing::warn!(
                server = %self.server,
                "a call's client does not take its messages: they are dropped until it does; its answer is not"
            );
        }
    }
}
