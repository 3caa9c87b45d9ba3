//! The revision without sessions: every request stands alone.

use std::sync::Arc;

use super::{Engine, Inbound, Reply};
use crate::mcp::era::{Envelope, Refusal};
use crate::mcp::header::Accepts;
use crate::mcp::revision::Revision;
use crate::mcp::view::modern_result;
use crate::rpc::error::RpcError;
use crate::rpc::message::{Request, response};

/// How long clients may keep lists, milliseconds: hosted servers come and go.
const LIST_TTL_MS: u64 = 5_000;

impl Engine {
    /// A request that stands alone.
    pub(super) async fn modern_request(
        self: &Arc<Self>,
        envelope: &Envelope<'_>,
        request: &Request<'_>,
        inbound: &Inbound<'_>,
        accepts: Accepts,
    ) -> Reply {
        let id = request.id.get();
        let result = match request.method.as_ref() {
            "tools/call" => return self.call_alone(envelope, request, inbound, accepts).await,
            // Subscriptions are those of `subscriptions/listen`.
            method @ ("resources/subscribe" | "resources/unsubscribe") => {
                return Reply::error_for(404, Some(id), &RpcError::method_not_found(method));
            }
            method if !self.serves(method, request.params).await => {
                return Reply::error_for(404, Some(id), &RpcError::method_not_found(method));
            }
            "completion/complete" => match self.completers.take(&inbound.principal.name) {
                Ok(()) => return self.call_alone(envelope, request, inbound, accepts).await,
                Err(error) => Err(error),
            },
            "prompts/get" | "resources/read" => {
                return self.call_alone(envelope, request, inbound, accepts).await;
            }
            "prompts/list" | "resources/list" | "resources/templates/list" => self
                .list_offers(&request.method, request.params, Revision::MODERN)
                .await
                .map(|members| format!("{{{members},{}}}", self.cache_hint())),
            "tasks/get" | "tasks/update" | "tasks/cancel" => {
                match self.extension_request(envelope, request, inbound).await {
                    Err(Refusal { status: 400, error }) => return Reply::error_for(400, Some(id), &error),
                    answered => answered.map_err(|refusal| refusal.error),
                }
            }
            "subscriptions/listen" => return self.listen(envelope, request, inbound, accepts).await,
            "tools/list" => self
                .list_tools(request.params, Revision::MODERN)
                .await
                .map(|members| format!("{{{members},{}}}", self.cache_hint())),
            "server/discover" => Ok(self.discover().await),
            method => return Reply::error_for(404, Some(id), &RpcError::method_not_found(method)),
        };
        match result {
            Ok(result) => Reply::whole_or_event(response(id, &modern_result(&result)), accepts),
            Err(error) => Reply::failed(id, &error, accepts),
        }
    }

    async fn discover(&self) -> String {
        format!(
            "{{\"supportedVersions\":[\"{}\"],\"capabilities\":{},{}}}",
            Revision::MODERN,
            self.capabilities(Revision::MODERN).await,
            self.cache_hint()
        )
    }

    fn cache_hint(&self) -> String {
        let scope = if self.open_to_all { "public" } else { "private" };
        format!("\"ttlMs\":{LIST_TTL_MS},\"cacheScope\":\"{scope}\"")
    }
}
