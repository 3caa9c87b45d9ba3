//! Tasks of 2026-07-28: the extension `io.modelcontextprotocol/tasks`. The server decides which calls become tasks.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{Wanted, refused, view};
use crate::auth::Principal;
use crate::base::ids::SessionKey;
use crate::engine::bridge::Parked;
use crate::engine::{Engine, Inbound};
use crate::mcp::era::{Envelope, Refusal};
use crate::mcp::input::fits;
use crate::mcp::task::{TaskSupport, declares_extension, input_responses, missing_extension, task_id};
use crate::rpc::error::RpcError;
use crate::rpc::message::Request;
use crate::tools::answer::raw;
use crate::tools::registry::Registered;

/// A call that may become a task.
pub(in crate::engine) struct Offer {
    tool: Registered,
    principal: Arc<Principal>,
    /// The hosted server makes a task of it, and says when; what it asks before that is asked by the answer to the
    /// request. Else the call becomes a task when it does not end soon.
    pub(in crate::engine) own: bool,
    /// It is a task or nothing.
    pub(in crate::engine) required: bool,
}

impl Offer {
    /// Whether a call may become one.
    ///
    /// # Errors
    /// -32021 for a tool that must be run as a task, and a client that takes none.
    pub(in crate::engine) fn of(
        tool: &Registered,
        envelope: &Envelope<'_>,
        principal: &Arc<Principal>,
    ) -> Result<Option<Self>, RpcError> {
        let declared = declares_extension(envelope.capabilities.get());
        match (tool.task_support, declared) {
            (TaskSupport::Forbidden, _) | (TaskSupport::Optional, false) => Ok(None),
            (TaskSupport::Required, false) => {
                Err(missing_extension(&format!("the tool {:?}", tool.tool.name)))
            }
            (support, true) => Ok(Some(Self {
                tool: tool.clone(),
                principal: Arc::clone(principal),
                own: tool.host.has_own_task(&tool.host_tool),
                required: support == TaskSupport::Required,
            })),
        }
    }
}

impl Engine {
    /// Makes a task of a call that runs. Returns what the request is answered, and has the task worked on.
    ///
    /// While Redis is away the other instances would know nothing of the task but that it may exist: the client would ask
    /// them for its end in vain. Then the call goes on as one, unless it must be a task.
    ///
    /// # Errors
    /// Why there is no task, and the call, which runs on.
    pub(in crate::engine) async fn make_task_of(
        self: &Arc<Self>,
        offer: &Offer,
        capabilities: &str,
        params: Option<&RawValue>,
        parked: Parked,
    ) -> Result<Box<RawValue>, (RpcError, Parked)> {
        if !offer.required && !self.store.is_seen_by_all(SessionKey::BROADCAST) {
            return Err((refused("the other instances could not find the task now"), parked));
        }
        let wanted = Wanted {
            tool: offer.tool.clone(),
            params: params.map_or_else(|| raw("{}".into()), ToOwned::to_owned),
            progress_token: None,
            principal: Arc::clone(&offer.principal),
            session: None,
            capabilities: capabilities.to_owned(),
            ttl_ms: None,
        };
        let running = match self.make_task(wanted).await {
            Ok(running) => running,
            Err(error) => return Err((error, parked)),
        };
        // A task has no progress and no logs.
        parked.outbox.mute();
        let shown = view::created(&running.identity, &running.task());
        self.work_on(running, parked);
        Ok(shown)
    }

    /// Cancels a task whose client went away before it had its id.
    pub(in crate::engine) async fn cancel_unseen(self: &Arc<Self>, created: &RawValue, offer: &Offer) {
        let Ok(id) = task_id(Some(created)) else { return };
        let cancelled = async { self.cancel_task(&self.find_task(&id, &offer.principal).await?).await };
        if let Err(error) = cancelled.await {
            tracing::debug!(%error, "a task whose client is gone runs on");
        }
    }

    /// `tasks/get`, `tasks/update` and `tasks/cancel`.
    ///
    /// # Errors
    /// 400 with -32021 for a client that does not declare the extension; else errors of the method.
    pub(in crate::engine) async fn extension_request(
        self: &Arc<Self>,
        envelope: &Envelope<'_>,
        request: &Request<'_>,
        inbound: &Inbound<'_>,
    ) -> Result<String, Refusal> {
        let answered = |error| Refusal { status: 200, error };
        if !declares_extension(envelope.capabilities.get()) {
            return Err(Refusal { status: 400, error: missing_extension(&request.method) });
        }
        let id = task_id(request.params).map_err(answered)?;
        // Read before the task is looked for, so that what is malformed is so for every id.
        let answers = match request.method.as_ref() {
            "tasks/update" => Some(input_responses(request.params).map_err(answered)?),
            _ => None,
        };
        let found = self.find_task(&id, inbound.principal).await.map_err(answered)?;
        if request.method == "tasks/get" {
            let intents = self.visible_intents(&found).await.map_err(answered)?;
            return Ok(format!("{{{}}}", view::detailed(&found.identity, &found.task, &intents)));
        }
        if found.task.end.is_some() {
            return Ok("{}".into());
        }
        match answers {
            None => self.cancel_task(&found).await.map_err(answered)?,
            Some(answers) => {
                let intents = self.visible_intents(&found).await.map_err(answered)?;
                for question in found.task.seen(&intents).open {
                    let params = raw(question.params.clone());
                    // What is no answer to its question counts as not given: the question stays open.
                    let answer =
                        answers.get(&question.key).filter(|answer| fits(&question.method, &params, answer));
                    if let Some(answer) = answer {
                        self.answer_task(&found, &question.key, Ok(answer)).await.map_err(answered)?;
                    }
                }
            }
        }
        Ok("{}".into())
    }
}
