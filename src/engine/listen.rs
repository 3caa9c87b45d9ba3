//! `subscriptions/listen` (2026-07-28): a stream of the changes that its client asked for.
//!
//! Nothing of it is stored and nothing is queued: a listener notes what has changed since its connection could write,
//! and a change that was noted twice is told once. It ends with its connection, without a result: to a client that
//! means to listen again, on this instance or on the one that takes its place.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::task::AtomicWaker;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::catalog::check_uri;
use super::hearers::Hearer;
use super::tasks::{Identity, detailed};
use super::{Engine, Events, EventsKind, Inbound, Reply};
use crate::auth::Principal;
use crate::base::ids::PrincipalHash;
use crate::base::ids::TaskKey;
use crate::base::limits::{LISTEN_TASKS, LISTEN_WAIT, LISTENERS, SUBSCRIPTIONS_EACH, UPDATES_WAITING};
use crate::base::seal::{hex, random};
use crate::mcp::era::Envelope;
use crate::mcp::header::Accepts;
use crate::mcp::task::{declares_extension, missing_extension};
use crate::rpc::error::RpcError;
use crate::rpc::message::{Request, notification, quote};
use crate::rpc::sse::write_event;
use crate::state::task::{Intents, Task};
use crate::tools::catalog::Subscriber;

/// Which lists have changed, or are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    pub(super) tools: bool,
    pub(super) prompts: bool,
    pub(super) resources: bool,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Listener {
    key: Arc<str>,
    /// `_meta` of all its messages, as JSON text.
    meta: String,
    lists: Lists,
    changed: Mutex<Changed>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Changed {
    lists: Lists,
    resources: BTreeSet<String>,
    /// The newest report of each.
    tasks: BTreeMap<TaskKey, (Identity, Arc<Task>)>,
}

impl Listener {
    /// Notes that lists have changed.
    pub(super) fn lists_changed(&self, lists: Lists) {
        {
            let mut changed = self.changed();
            changed.lists.tools |= lists.tools && self.lists.tools;
            changed.lists.prompts |= lists.prompts && self.lists.prompts;
            changed.lists.resources |= lists.resources && self.lists.resources;
        }
        self.waker.wake();
    }

    /// Notes that a resource has changed which is, or is below, one that was asked for.
    pub(super) fn resource_changed(&self, subscribed: &str, uri: &str) {
        {
            let mut changed = self.changed();
            let uri = if changed.resources.len() < UPDATES_WAITING { uri } else { subscribed };
            changed.resources.insert(uri.to_owned());
        }
        self.waker.wake();
    }

    /// Notes where a task stands that was asked for.
    pub(super) fn task_changed(&self, identity: &Identity, task: &Arc<Task>) {
        self.changed().tasks.insert(identity.key, (identity.clone(), Arc::clone(task)));
        self.waker.wake();
    }

    /// As [`Listener::task_changed`], unless something newer is noted already.
    fn task_found(&self, identity: &Identity, task: &Arc<Task>) {
        self.changed().tasks.entry(identity.key).or_insert_with(|| (identity.clone(), Arc::clone(task)));
        self.waker.wake();
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, frames: &mut Vec<u8>, method: &str, members: &str) {
        let message = notification(method, &format!("{{{members}\"_meta\":{}}}", self.meta));
        write_event(frames, None, None, &message);
    }
}

/// What is asked for.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Asked {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Option<Vec<String>>,
    task_ids: Option<Vec<String>>,
}

impl Asked {
    fn read(params: Option<&RawValue>) -> Result<Self, RpcError> {
        #[derive(Deserialize)]
        struct Params {
            notifications: Asked,
        }
        let Params { notifications: mut asked } =
            serde_json::from_str(params.map_or("{}", RawValue::get)).map_err(|error| {
                RpcError::invalid_params(format!(
                    "params: {error}; want {{\"notifications\": {{\"toolsListChanged\": true, \"resourceSubscriptions\": […]}}}}"
                ))
            })?;
        if let Some(uris) = &mut asked.resource_subscriptions {
            if uris.len() > SUBSCRIPTIONS_EACH {
                return Err(RpcError::invalid_params(format!(
                    "params.notifications.resourceSubscriptions: at most {SUBSCRIPTIONS_EACH}"
                )));
            }
            uris.iter().try_for_each(|uri| check_uri(uri))?;
            let mut seen = HashSet::new();
            uris.retain(|uri| seen.insert(uri.clone()));
        }
        if let Some(ids) = &mut asked.task_ids {
            if ids.len() > LISTEN_TASKS {
                return Err(RpcError::invalid_params(format!(
                    "params.notifications.taskIds: at most {LISTEN_TASKS}"
                )));
            }
            let mut seen = HashSet::new();
            ids.retain(|id| seen.insert(id.clone()));
        }
        Ok(asked)
    }
}

impl Engine {
    /// `subscriptions/listen`
    pub(super) async fn listen(
        self: &Arc<Self>,
        envelope: &Envelope<'_>,
        request: &Request<'_>,
        inbound: &Inbound<'_>,
        accepts: Accepts,
    ) -> Reply {
        let id = request.id.get();
        if !accepts.sse {
            let error = RpcError::invalid_request("the answer is an event stream: accept text/event-stream");
            return Reply::error_for(406, Some(id), &error);
        }
        let asked = match Asked::read(request.params) {
            Ok(asked) => asked,
            Err(error) => return Reply::error_for(200, Some(id), &error),
        };
        if asked.task_ids.is_some() && !declares_extension(envelope.capabilities.get()) {
            return Reply::error_for(400, Some(id), &missing_extension("to listen to tasks"));
        }
        if self.stopping.is_cancelled() || self.listeners.len() >= LISTENERS {
            let error = RpcError::internal("no more streams are taken just now: try again in a moment");
            return Reply::error_for(503, Some(id), &error);
        }
        let features = self.settled_catalog().await.features;
        let lists = Lists {
            tools: asked.tools_list_changed,
            prompts: asked.prompts_list_changed && features.prompts,
            resources: asked.resources_list_changed && features.resources,
        };
        let key: Arc<str> = format!("listen-{}", hex(&random::<16>())).into();
        let listener = Arc::new(Listener {
            key: Arc::clone(&key),
            meta: format!("{{\"io.modelcontextprotocol/subscriptionId\":{id}}}"),
            lists,
            changed: Mutex::default(),
            waker: AtomicWaker::new(),
        });
        self.listeners.insert(key, Arc::clone(&listener));
        self.counters.next_stream();
        // From here on its end takes everything back, also when the connection goes while hosts are still asked.
        let mut events = ListenEvents {
            engine: Arc::clone(self),
            listener: Arc::clone(&listener),
            uris: Vec::new(),
            tasks: Vec::new(),
            opening: None,
        };
        let wanted = asked.resource_subscriptions.filter(|_| features.subscribe);
        let honoured = match &wanted {
            Some(uris) => {
                events.uris.clone_from(uris);
                Some(self.watch_resources(&listener, uris, inbound.principal.hash).await)
            }
            None => None,
        };
        let mut tasks = None;
        if let Some(ids) = asked.task_ids {
            tasks = Some(self.watch_tasks(&mut events, ids, inbound.principal).await);
        }
        let mut frames = Vec::new();
        let honoured = acknowledged(lists, honoured.as_deref(), tasks.as_deref());
        let members = format!("\"notifications\":{honoured},");
        listener.write(&mut frames, "notifications/subscriptions/acknowledged", &members);
        events.opening = Some(frames.into());
        Reply::Stream { session: None, events: Events(EventsKind::Listen(events)) }
    }

    /// Subscribes at the hosts. Returns what they took, in the order asked for.
    async fn watch_resources(
        &self,
        listener: &Arc<Listener>,
        uris: &[String],
        principal: PrincipalHash,
    ) -> Vec<String> {
        let catalog = self.settled_catalog().await;
        let subscriber = Subscriber { key: Arc::clone(&listener.key), session: None, principal };
        let asking = uris.iter().map(|uri| {
            let host = catalog.host_of(uri).filter(|host| catalog.features_of(host).subscribe);
            let subscriber = &subscriber;
            async move {
                self.hearers.add(uri, &subscriber.key, Hearer::Listener(Arc::clone(listener)));
                let taken = match host {
                    Some(host) => tokio::time::timeout(LISTEN_WAIT, host.subscribe(subscriber, uri)).await,
                    None => return None,
                };
                match taken {
                    Ok(Ok(())) => return Some(uri.clone()),
                    Ok(Err(error)) => tracing::debug!(uri, %error, "a subscription is not taken"),
                    Err(_) => tracing::debug!(uri, "a subscription is not taken in time"),
                }
                None
            }
        });
        let taken: Vec<String> = join_all(asking).await.into_iter().flatten().collect();
        for uri in uris.iter().filter(|uri| !taken.contains(uri)) {
            self.hearers.remove(uri, &listener.key);
            self.registry.unsubscribe(&listener.key, uri);
        }
        taken
    }

    /// Listens to tasks. Returns the ids of those that are the caller's; where they stand is told at once, as they may have
    /// changed since their client has looked.
    async fn watch_tasks(
        self: &Arc<Self>,
        events: &mut ListenEvents,
        ids: Vec<String>,
        principal: &Principal,
    ) -> Vec<String> {
        let mut honoured = Vec::new();
        for id in ids {
            let Ok(found) = self.find_task(&id, principal).await else { continue };
            let key = found.identity.key;
            events.tasks.push(key);
            // First the ear, then the look: what changes in between is heard.
            self.hear_task(key, &events.listener);
            if let Ok(found) = self.find_task(&id, principal).await {
                events.listener.task_found(&found.identity, &found.task);
            }
            honoured.push(id);
        }
        honoured
    }

    /// Tells every listener that lists have changed.
    pub(super) fn tell_listeners(&self, lists: Lists) {
        let mut all = Vec::new();
        self.listeners.for_each(|_, listener| all.push(Arc::clone(listener)));
        for listener in all {
            listener.lists_changed(lists);
        }
    }
}

/// What is honoured of what was asked for, as JSON text.
fn acknowledged(lists: Lists, resources: Option<&[String]>, tasks: Option<&[String]>) -> String {
    let mut parts: Vec<String> = [
        (lists.tools, "toolsListChanged"),
        (lists.prompts, "promptsListChanged"),
        (lists.resources, "resourcesListChanged"),
    ]
    .into_iter()
    .filter(|(is, _)| *is)
    .map(|(_, name)| format!("\"{name}\":true"))
    .collect();
    for (names, member) in [(resources, "resourceSubscriptions"), (tasks, "taskIds")] {
        if let Some(names) = names {
            let names: Vec<String> = names.iter().map(|name| quote(name)).collect();
            parts.push(format!("\"{member}\":[{}]", names.join(",")));
        }
    }
    format!("{{{}}}", parts.join(","))
}

/// The events of one stream.
pub(super) struct ListenEvents {
    engine: Arc<Engine>,
    listener: Arc<Listener>,
    /// What it may be subscribed to.
    uris: Vec<String>,
    /// The tasks that it is told of.
    tasks: Vec<TaskKey>,
    /// The acknowledgement, until it is sent.
    opening: Option<Bytes>,
}

impl ListenEvents {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(opening));
        }
        self.listener.waker.register(cx.waker());
        let Changed { lists, resources, tasks } = std::mem::take(&mut *self.listener.changed());
        let mut frames = Vec::new();
        for (changed, method) in [
            (lists.tools, "notifications/tools/list_changed"),
            (lists.prompts, "notifications/prompts/list_changed"),
            (lists.resources, "notifications/resources/list_changed"),
        ] {
            if changed {
                self.listener.write(&mut frames, method, "");
            }
        }
        for uri in resources {
            let members = format!("\"uri\":{},", quote(&uri));
            self.listener.write(&mut frames, "notifications/resources/updated", &members);
        }
        for (identity, task) in tasks.into_values() {
            let members = format!("{},", detailed(&identity, &task, &Intents::default()));
            self.listener.write(&mut frames, "notifications/tasks", &members);
        }
        if frames.is_empty() { Poll::Pending } else { Poll::Ready(Some(frames.into())) }
    }
}

impl Drop for ListenEvents {
    fn drop(&mut self) {
        let key = &self.listener.key;
        self.engine.listeners.remove(key);
        for uri in &self.uris {
            self.engine.hearers.remove(uri, key);
        }
        for task in &self.tasks {
            self.engine.unhear_task(*task, &self.listener);
        }
        if !self.uris.is_empty() {
            self.engine.registry.release(key);
        }
        self.engine.counters.stream_closed();
    }
}

impl fmt::Debug for ListenEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenEvents").field("listener", &self.listener).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_acknowledgement_names_what_is_honoured_and_nothing_else() {
        assert_eq!(acknowledged(Lists::default(), None, None), "{}");
        let lists = Lists { tools: true, resources: true, ..Lists::default() };
        assert_eq!(
            acknowledged(lists, Some(&["a\"b".to_owned()]), None),
            r#"{"toolsListChanged":true,"resourcesListChanged":true,"resourceSubscriptions":["a\"b"]}"#
        );
        assert_eq!(
            acknowledged(Lists::default(), Some(&[]), Some(&["t1.a".to_owned()])),
            r#"{"resourceSubscriptions":[],"taskIds":["t1.a"]}"#
        );
    }
}
