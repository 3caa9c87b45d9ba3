//! Questions of a remote server of the legacy era to the client of a call: elicitation, sampling, roots.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::session::Session;
use crate::rpc::error::{METHOD_NOT_FOUND, RpcError};
use crate::rpc::message::{Request, error_response, response};
use crate::tools::Outbox;
use crate::tools::answer::raw;

/// A question that waits for its answer. Dropping it unanswered answers it with an error, so that the server does not
/// wait for ever.
pub(super) struct Ask {
    session: Arc<Session>,
    id: Box<RawValue>,
    method: String,
    params: Box<RawValue>,
    /// The server does not want to know any more.
    withdrawn: CancellationToken,
    open: bool,
}

impl Ask {
    /// The question that a request of the server is. Of any other request the server is told at once.
    pub(super) fn of(session: &Arc<Session>, request: &Request<'_>) -> Option<Self> {
        let ask = Self {
            session: Arc::clone(session),
            id: request.id.to_owned(),
            method: request.method.clone().into_owned(),
            params: request.params.map_or_else(|| raw("{}".into()), RawValue::to_owned),
            withdrawn: CancellationToken::new(),
            open: true,
        };
        match &*request.method {
            "elicitation/create" | "sampling/createMessage" | "roots/list" => Some(ask),
            "ping" => {
                let pong = response(ask.id.get(), "{}");
                ask.settle(pong);
                None
            }
            other => {
                let error = error_response(Some(ask.id.get()), &RpcError::method_not_found(other));
                ask.settle(error);
                None
            }
        }
    }

    /// Cancelled when the answer is not wanted any more.
    pub(super) fn withdrawn(&self) -> CancellationToken {
        self.withdrawn.clone()
    }

    /// Asks the client and passes its answer on. Resolves with the id of the question.
    pub(super) async fn put_to(mut self, out: Arc<dyn Outbox>) -> String {
        let id = self.id.get().to_owned();
        let params = std::mem::replace(&mut self.params, RawValue::NULL.to_owned());
        let answer = tokio::select! {
            biased;
            () = self.withdrawn.cancelled() => return id,
            answer = out.ask(&self.method, params) => answer,
        };
        self.open = false;
        let message = match answer {
            Ok(result) => response(&id, result.get()),
            Err(error) => error_response(Some(&id), &error),
        };
        if let Err(trouble) = self.session.send(message).await {
            tracing::warn!(server = %self.session.common.http.server, "the answer to a question did not arrive: {trouble}");
        }
        id
    }

    /// Answers with an error now.
    pub(super) fn refuse(self, why: &'static str) {
        let error = error_response(Some(self.id.get()), &RpcError::new(METHOD_NOT_FOUND, why));
        self.settle(error);
    }

    fn settle(mut self, message: Bytes) {
        self.open = false;
        self.session.send_later(message);
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        if self.open && !self.withdrawn.is_cancelled() {
            let error = RpcError::internal("the call that this question belonged to is over");
            self.session.send_later(error_response(Some(self.id.get()), &error));
        }
    }
}
