//! What stands beside tools: prompts, resources and completion, in both eras.
//!
//! Lists come from the registry. Requests to one host (`prompts/get`, `resources/read`, `completion/complete`) run as
//! calls of tools do: so they may tell of progress, log, ask the client and be cancelled.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::bridge::errors;
use super::paged::{self, PagedHost};
use super::{Engine, shape};
use crate::base::limits::{CAPABILITIES_WAIT, RESOURCE_URI_BYTES};
use crate::mcp::revision::Revision;
use crate::mcp::task;
use crate::rpc::error::{INVALID_PARAMS, RESOURCE_NOT_FOUND, RpcError};
use crate::rpc::message::{Request, quote};
use crate::rpc::object::{Change, Object};
use crate::tools::answer::raw;
use crate::tools::catalog::Features;
use crate::tools::registry::{Catalog, Kind, Registered};
use crate::tools::{BoxFuture, Call, Host};

type Outcome = Result<Box<RawValue>, RpcError>;

impl Engine {
    /// The `capabilities` that are declared, as JSON text. They name what some host has; while hosted servers still
    /// start, after a moment, everything: a list that turns out empty does no harm, one that is never asked for does.
    pub(super) async fn capabilities(&self, revision: Revision) -> String {
        self.registry.settled(CAPABILITIES_WAIT).await;
        let features = match self.registry.is_complete() {
            true => self.registry.catalog().features,
            false => Features { prompts: true, resources: true, subscribe: true, completions: true },
        };
        let mut text = String::from("{\"tools\":{\"listChanged\":true},\"logging\":{}");
        if features.prompts {
            text.push_str(",\"prompts\":{\"listChanged\":true}");
        }
        if features.resources {
            let subscribe = features.subscribe;
            text.push_str(&format!(",\"resources\":{{\"subscribe\":{subscribe},\"listChanged\":true}}"));
        }
        if features.completions {
            text.push_str(",\"completions\":{}");
        }
        if revision.has_tasks() {
            text.push_str(",\"tasks\":{\"list\":{},\"cancel\":{},\"requests\":{\"tools\":{\"call\":{}}}}");
        }
        if revision == Revision::MODERN {
            text.push_str(&format!(",\"extensions\":{{\"{}\":{{}}}}", task::EXTENSION));
        }
        text.push('}');
        text
    }

    /// Whether a method is there: those beside tools only where some host has what they are about.
    pub(super) async fn serves(&self, method: &str, params: Option<&RawValue>) -> bool {
        if paged::is_read(method, params) {
            return true;
        }
        let has: fn(Features) -> bool = match method {
            "prompts/list" | "prompts/get" => |features| features.prompts,
            "resources/list" | "resources/templates/list" | "resources/read" => |features| features.resources,
            "resources/subscribe" | "resources/unsubscribe" => |features| features.subscribe,
            "completion/complete" => |features| features.completions,
            _ => return true,
        };
        has(self.settled_catalog().await.features) || !self.registry.is_complete()
    }

    /// What there is beside tools, once every host has answered or failed.
    pub(super) async fn settled_catalog(&self) -> Arc<Catalog> {
        if !self.registry.is_complete() {
            self.registry.settled(self.settle).await;
        }
        self.registry.catalog()
    }

    /// What a request is to run.
    ///
    /// # Errors
    /// -32602 for a name that nothing has; for a resource -32002 in the revisions with sessions.
    pub(super) async fn find_target(
        &self,
        request: &Request<'_>,
        name: &str,
        modern: bool,
    ) -> Result<Registered, RpcError> {
        match request.method.as_ref() {
            "prompts/get" => {
                let catalog = self.settled_catalog().await;
                catalog.prompt(name).cloned().ok_or_else(|| unknown_prompt(name))
            }
            "resources/read" => {
                check_uri(name)?;
                if paged::is_ours(name) {
                    let host: Arc<dyn Host> = Arc::new(PagedHost(Arc::clone(&self.paged)));
                    return Ok(Registered {
                        hosted: false,
                        ..Registered::unlisted(Kind::Resource, name, &host)
                    });
                }
                let catalog = self.settled_catalog().await;
                let host = catalog.host_of(name).ok_or_else(|| no_resource(name, modern))?;
                let results = Some(Arc::clone(self.registry.results()));
                Ok(Registered { results, ..Registered::unlisted(Kind::Resource, name, host) })
            }
            "completion/complete" => self.find_completion(request.params).await,
            _ => self.find_tool(name).await.ok_or_else(|| super::call::unknown_tool(name)),
        }
    }

    async fn find_completion(&self, params: Option<&RawValue>) -> Result<Registered, RpcError> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, rename = "ref")]
            reference: Reference<'a>,
            #[serde(rename = "argument")]
            _argument: Argument,
        }
        #[derive(Deserialize)]
        struct Reference<'a> {
            #[serde(borrow, rename = "type")]
            kind: Cow<'a, str>,
            #[serde(borrow)]
            name: Option<Cow<'a, str>>,
            #[serde(borrow)]
            uri: Option<Cow<'a, str>>,
        }
        #[derive(Deserialize)]
        struct Argument {
            #[serde(rename = "name")]
            _name: String,
            #[serde(rename = "value")]
            _value: String,
        }
        let params: Params<'_> =
            serde_json::from_str(params.map_or("{}", RawValue::get)).map_err(|error| {
                RpcError::invalid_params(format!(
                    "params: {error}; want {{\"ref\": {{\"type\": …}}, \"argument\": {{\"name\": …, \"value\": …}}}}"
                ))
            })?;
        let catalog = self.settled_catalog().await;
        match (params.reference.kind.as_ref(), params.reference.name, params.reference.uri) {
            ("ref/prompt", Some(name), _) => {
                let prompt = catalog.prompt(&name).ok_or_else(|| unknown_prompt(&name))?;
                Ok(Registered { kind: Kind::Completion, ..prompt.clone() })
            }
            ("ref/resource", _, Some(uri)) => {
                let host = catalog.host_of_reference(&uri).ok_or_else(|| {
                    RpcError::invalid_params(format!("params.ref.uri: no resource or template {uri:?}"))
                })?;
                Ok(Registered::unlisted(Kind::Completion, "", host))
            }
            _ => Err(RpcError::invalid_params(
                "params.ref: want {\"type\": \"ref/prompt\", \"name\": …} or {\"type\": \"ref/resource\", \"uri\": …}",
            )),
        }
    }

    /// [`Engine::run`] in a session of this revision.
    pub(super) fn run_for(
        &self,
        revision: Revision,
        target: &Registered,
        call: Call,
    ) -> BoxFuture<'static, Outcome> {
        let running = self.run(target, call);
        Box::pin(async move { running.await.map(|result| shape::result(result, revision)) })
    }

    /// Runs what was found, and gives its answer the form that the request's era wants.
    pub(super) fn run_whole(&self, target: &Registered, call: Call) -> BoxFuture<'static, Outcome> {
        let modern = call.out.modern_capabilities().is_some();
        let begin = |call: Call| match modern && target.hosted {
            true => errors::run(target, call),
            false => target.run(call),
        };
        match target.kind {
            Kind::Tool | Kind::Prompt if modern && target.hosted => {
                let running = begin(call);
                Box::pin(async move { running.await.map_err(errors::translated) })
            }
            Kind::Tool | Kind::Prompt => target.run(call),
            Kind::Completion => {
                if !self.registry.catalog().features_of(&target.host).completions {
                    // Others have it, so it is declared; of this server's prompts there is nothing to suggest.
                    let none = "{\"completion\":{\"values\":[],\"total\":0,\"hasMore\":false}}";
                    return Box::pin(std::future::ready(Ok(raw(none.into()))));
                }
                let running = target.run(call);
                Box::pin(async move {
                    running.await.map_err(|error| if modern { errors::translated(error) } else { error })
                })
            }
            Kind::Resource => {
                let uri = target.tool.name.clone();
                let running = begin(call);
                Box::pin(async move {
                    match running.await {
                        Ok(result) if modern => Ok(with_cache_hint(result)),
                        Err(error) if modern && error.code == RESOURCE_NOT_FOUND => {
                            // Whatever the server says beyond it stays.
                            let names_it = |data: &RawValue| {
                                Object::parse(data.get()).is_ok_and(|data| data.get("uri").is_some())
                            };
                            let own = no_resource(&uri, true);
                            let data = error.data.filter(|data| names_it(data)).or(own.data);
                            Err(RpcError { code: own.code, message: error.message, data })
                        }
                        Err(error) if modern => Err(errors::translated(error)),
                        outcome => outcome,
                    }
                })
            }
        }
    }
}

/// The error for a resource that nobody has: 2026-07-28 has no code of its own for it.
pub(super) fn no_resource(uri: &str, modern: bool) -> RpcError {
    let code = if modern { INVALID_PARAMS } else { RESOURCE_NOT_FOUND };
    RpcError::new(
        code,
        "there is no such resource: resources/list and resources/templates/list name those there are",
    )
    .with_data(&serde_json::json!({ "uri": uri }))
}

/// Refuses what cannot be a URI that anybody serves.
pub(super) fn check_uri(uri: &str) -> Result<(), RpcError> {
    if uri.is_empty() || uri.len() > RESOURCE_URI_BYTES || uri.chars().any(char::is_control) {
        return Err(RpcError::invalid_params(format!(
            "params.uri: want a URI of 1 to {RESOURCE_URI_BYTES} bytes, on one line"
        )));
    }
    Ok(())
}

fn unknown_prompt(name: &str) -> RpcError {
    let shown: String = name.chars().take(128).collect();
    RpcError::invalid_params(format!("no prompt {}: prompts/list names those there are", quote(&shown)))
}

/// What a legacy server cannot say of its resource: how long it may be kept. Nobody knows, so not at all.
fn with_cache_hint(result: Box<RawValue>) -> Box<RawValue> {
    let Ok(object) = Object::parse(result.get()) else { return result };
    if object.get("resultType").is_some_and(|kind| kind.get() != "\"complete\"") {
        return result;
    }
    let mut text = object.with(|_, _| Change::Keep);
    let empty = text == "{}";
    for (key, value) in [("ttlMs", "0"), ("cacheScope", "\"private\"")] {
        if object.get(key).is_none() {
            text.pop();
            let comma = if empty && key == "ttlMs" { "" } else { "," };
            text.push_str(&format!("{comma}\"{key}\":{value}}}"));
        }
    }
    raw(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_result_says_how_long_it_may_be_kept_unless_it_does_already() {
        let hinted = |json: &str| with_cache_hint(raw(json.into())).get().to_owned();
        assert_eq!(hinted("{}"), r#"{"ttlMs":0,"cacheScope":"private"}"#);
        assert_eq!(
            hinted(r#"{"contents":[],"big":123456789012345678901234567890,"ttlMs":7}"#),
            r#"{"contents":[],"big":123456789012345678901234567890,"ttlMs":7,"cacheScope":"private"}"#
        );
        let asks = r#"{"resultType":"input_required","inputRequests":{}}"#;
        assert_eq!(hinted(asks), asks);
    }
}
