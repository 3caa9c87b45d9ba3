//! The code tools: the analysis engine behind `code_structure` and `code_complexity`.
//!
//! An analysis runs on blocking threads, a bounded number of them at a time. It ends when the call is cancelled or its
//! future is dropped; what it has read by then stays known.

mod catalog;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::{BoxFuture, Call, Host, Outbox, Tool};
use crate::analysis::engine::{COMPLEXITY, Engine, STRUCTURE, failure};
use crate::analysis::error::AnalysisError;
use crate::analysis::request::{ComplexityRequest, StructureRequest};
use crate::analysis::scan::{Progress, Watch};
use crate::base::clock::SystemClock;
use crate::base::limits::ANALYSES_AT_ONCE;
use crate::base::seal::Keys;
use crate::rpc::error::RpcError;

/// Least time between two progress notifications of a call.
const PROGRESS_PACE: Duration = Duration::from_millis(100);

/// The tools that read code below one directory.
pub struct CodeTools {
    engine: Arc<Engine>,
    running: Arc<Semaphore>,
}

/// A call whose arguments have been read.
enum Request {
    Complexity(ComplexityRequest),
    Structure(StructureRequest),
}

impl CodeTools {
    /// Tools for the files below `root`. `keys` sign cursors, so a cursor stays good over a restart.
    ///
    /// # Errors
    /// A sentence that names the directory, when it is none or cannot be read.
    pub fn new(root: PathBuf, keys: &Keys) -> Result<Self, String> {
        let engine = Engine::new(&root, keys, Arc::new(SystemClock::default()))?;
        Ok(Self { engine: Arc::new(engine), running: Arc::new(Semaphore::new(ANALYSES_AT_ONCE)) })
    }
}

impl Host for CodeTools {
    fn name(&self) -> &str {
        "code"
    }

    fn tools(&self) -> BoxFuture<'_, Result<Vec<Tool>, RpcError>> {
        Box::pin(async { catalog::tools() })
    }

    fn call(&self, tool: &str, call: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let engine = Arc::clone(&self.engine);
        let running = Arc::clone(&self.running);
        let tool = tool.to_owned();
        Box::pin(async move {
            let arguments: Map<String, Value> = serde_json::from_str(call.arguments()?.get())
                .map_err(|error| RpcError::invalid_params(format!("params.arguments: {error}")))?;
            let request = match tool.as_str() {
                COMPLEXITY => ComplexityRequest::parse(&arguments).map(Request::Complexity),
                STRUCTURE => StructureRequest::parse(&arguments).map(Request::Structure),
                _ => return Err(RpcError::invalid_params(format!("no tool {tool:?} here"))),
            };
            let outcome = match request {
                Ok(request) => analyse(engine, running, request, call).await?,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(text) => success(&text),
                Err(AnalysisError::Cancelled) => Err(RpcError::internal("the call was cancelled")),
                Err(error) => refusal(&error, arguments),
            }
        })
    }
}

async fn analyse(
    engine: Arc<Engine>,
    running: Arc<Semaphore>,
    request: Request,
    call: Call,
) -> Result<Result<String, AnalysisError>, RpcError> {
    let cancel = call.cancel.child_token();
    // A call whose future is dropped ends its threads too.
    let _ends = cancel.clone().drop_guard();
    let permit = tokio::select! {
        permit = running.acquire_owned() => permit.map_err(|_| RpcError::internal("the server is ending"))?,
        () = cancel.cancelled() => return Ok(Err(AnalysisError::Cancelled)),
    };
    let (report, reports) = watch::channel(None::<Progress>);
    let cancelled = cancel.clone();
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let cancelled = || cancelled.is_cancelled();
        let progress = |next: Progress| {
            report.send_if_modified(|last| {
                let further = last.as_ref().is_none_or(|last| last.done < next.done);
                if further {
                    *last = Some(next);
                }
                further
            });
        };
        let watch = Watch { cancelled: &cancelled, progress: &progress };
        match &request {
            Request::Complexity(request) => engine.complexity(request, watch),
            Request::Structure(request) => engine.structure(request, watch),
        }
    });
    let outcome = match &call.progress_token {
        None => work.await,
        Some(token) => {
            let relay = Relay { token, out: call.out.as_ref(), sent: None };
            relay.until(work, reports, || cancel.cancel()).await
        }
    };
    outcome.map_err(|error| RpcError::internal(format!("the analysis failed: {error}")))
}

/// Tells the client how far a call has come.
struct Relay<'a> {
    token: &'a RawValue,
    out: &'a dyn Outbox,
    sent: Option<u64>,
}

impl Relay<'_> {
    /// Waits for the work. When nobody listens any more, `give_up` is called.
    async fn until<T, E>(
        mut self,
        mut work: JoinHandle<Result<T, E>>,
        mut reports: watch::Receiver<Option<Progress>>,
        give_up: impl Fn(),
    ) -> Result<Result<T, E>, tokio::task::JoinError> {
        let mut pace = tokio::time::interval(PROGRESS_PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut work => break outcome,
                _ = pace.tick() => {
                    let news = reports.borrow_and_update().clone();
                    if let Some(news) = news && !self.send(news).await {
                        give_up();
                    }
                }
            }
        };
        let last = reports.borrow_and_update().clone();
        if let (Ok(Ok(_)), Some(last)) = (&outcome, last) {
            self.send(Progress { done: last.total, ..last }).await;
        }
        outcome
    }

    /// Sends progress if it is any; false when the call is over.
    async fn send(&mut self, news: Progress) -> bool {
        if self.sent.is_some_and(|sent| sent >= news.done) {
            return true;
        }
        self.sent = Some(news.done);
        // The token goes back as it came: a number may be larger than any type of ours.
        let (token, done, total) = (self.token.get(), news.done, news.total);
        let text = Value::from(news.message);
        let message = format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{token},\
             \"progress\":{done},\"total\":{total},\"message\":{text}}}}}"
        );
        self.out.notify(Bytes::from(message)).await.is_ok()
    }
}

/// The same JSON for programs and, as text, for clients that show only text.
fn success(text: &str) -> Result<Box<RawValue>, RpcError> {
    let quoted = serde_json::to_string(text).map_err(unwritable)?;
    RawValue::from_string(format!(
        "{{\"content\":[{{\"type\":\"text\",\"text\":{quoted}}}],\"structuredContent\":{text},\"isError\":false}}"
    ))
    .map_err(unwritable)
}

fn refusal(error: &AnalysisError, arguments: Map<String, Value>) -> Result<Box<RawValue>, RpcError> {
    let text = failure(error, &Value::Object(arguments)).to_string();
    to_raw_value(&json!({ "content": [{ "type": "text", "text": text }], "isError": true }))
        .map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> RpcError {
    RpcError::internal(format!("the result cannot be written: {error}"))
}

#[cfg(test)]
mod tests;
