//! Names to hosts: one snapshot of all tools and one of all that stands beside them, each replaced as a whole when a
//! host's list changes.

mod catalog;
mod counted;
mod digest;
mod facts;
pub mod headers;
mod names;
mod source;
mod template;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::{join_all, select_all};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use self::catalog::{Catalog, Offered};
use self::counted::Counts as CallCounts;
pub use self::digest::Digests;
pub use self::facts::Facts;
pub use self::source::Source;
use self::source::{Announced, Entry};
use super::cached::{self, Results, Tag};
use super::catalog::{ListsChanged, Offers, Updated};
use super::execute::key::Keyed;
use super::execute::{self, Execution, Plan};
use super::status::HostStatus;
use super::{BoxFuture, Call, Host, Tool};
use crate::config::{self, Namespacing};
use crate::mcp::task::TaskSupport;
use crate::rpc::error::RpcError;

/// What a request asks of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To run a tool.
    Tool,
    /// To fill in a prompt.
    Prompt,
    /// To read a resource.
    Resource,
    /// To complete an argument.
    Completion,
}

/// A tool or a prompt and who runs it.
#[derive(Clone)]
pub struct Registered {
    /// The tool under its public name.
    pub tool: Tool,
    /// Its host.
    pub host: Arc<dyn Host>,
    /// The host's own name of it.
    pub host_tool: Arc<str>,
    /// What it is.
    pub kind: Kind,
    /// Its arguments that clients of 2026-07-28 repeat in headers.
    pub headers: Arc<headers::HeaderParams>,
    /// Running it twice does no harm: a tool says so with `readOnlyHint` or `idempotentHint`, all else changes nothing.
    pub repeatable: bool,
    /// A hosted server runs it, which may ask in the middle of a call.
    pub hosted: bool,
    /// Whether it may or must be run as a task.
    pub task_support: TaskSupport,
    /// Its version, what it needs, what it is for.
    pub facts: Arc<Facts>,
    /// Where its calls are counted.
    pub(crate) counts: CallCounts,
    /// How its calls are run; none: the host runs them, and that is all.
    pub(crate) plan: Option<Arc<Plan>>,
    /// Where what a resource holds is kept; none: nowhere.
    pub(crate) results: Option<Arc<Results>>,
}

impl Registered {
    /// Has the host run it.
    pub fn run(&self, call: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        match self.kind {
            Kind::Tool => self.counts.count(&self.tool.name, call, |call| match &self.plan {
                Some(plan) => execute::run(plan, call),
                None => self.host.call(&self.host_tool, call),
            }),
            Kind::Prompt => self.host.get_prompt(&self.host_tool, call),
            Kind::Resource => match &self.results {
                Some(results) => cached::read(results, &self.host, &self.tool.name, call),
                None => self.host.read(call),
            },
            Kind::Completion => {
                self.host.complete((!self.host_tool.is_empty()).then_some(&*self.host_tool), call)
            }
        }
    }
}

/// All tools at one moment, in a deterministic order: built-in ones first, then by server and the server's own order.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The tools.
    pub tools: Vec<Registered>,
    by_name: HashMap<String, usize>,
}

impl Snapshot {
    /// The tool of this public name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Registered> {
        self.by_name.get(name).and_then(|at| self.tools.get(*at))
    }

    fn of(tools: Vec<Registered>) -> Self {
        let by_name = tools.iter().enumerate().map(|(at, it)| (it.tool.name.clone(), at)).collect();
        Self { tools, by_name }
    }

    fn lists_the_same_as(&self, other: &Self) -> bool {
        self.tools.len() == other.tools.len()
            && self.tools.iter().zip(&other.tools).all(|(a, b)| a.is_the_same_as(b))
    }
}

/// What is known of changes of the lists.
///
/// A list here is that of one child, or of one that is started to be asked; other children may differ from it, and their
/// announcements concern those whose requests they serve. Who wants few announcements follows `listed`, who wants all
/// follows `announced`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// How often each list became another one here.
    pub listed: Counts,
    /// How often it did, or a host said that it had changed.
    pub announced: Counts,
}

/// A count for each list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The list of tools.
    pub tools: u64,
    /// The list of prompts.
    pub prompts: u64,
    /// The lists of resources and of templates.
    pub resources: u64,
}

/// The registry of one instance.
pub struct Registry {
    shared: Arc<Shared>,
    /// Hosts that were replaced and still finish their calls.
    retiring: Mutex<Vec<Arc<dyn Host>>>,
}

struct Shared {
    entries: ArcSwap<Vec<Arc<Entry>>>,
    execution: Arc<Execution>,
    results: Arc<Results>,
    namespacing: Namespacing,
    /// Held while a snapshot is replaced, so that two sources do not overwrite each other's.
    replacing: Mutex<()>,
    snapshot: ArcSwap<Snapshot>,
    catalog: ArcSwap<Catalog>,
    versions: watch::Sender<Versions>,
    /// Changes when a source has answered or failed for the first time, and when there are other sources.
    answered: watch::Sender<u64>,
}

impl Registry {
    /// A registry of these hosts. Their lists are asked for in the background at once, and again when they change.
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn start(sources: Vec<Source>, namespacing: Namespacing) -> Arc<Self> {
        Self::start_with(sources, &config::Tools { namespacing, ..config::Tools::default() })
    }

    /// As [`Registry::start`], with calls run as these settings say.
    #[must_use]
    pub fn start_with(sources: Vec<Source>, settings: &config::Tools) -> Arc<Self> {
        let results = Results::new(settings.cache_bytes);
        let shared = Arc::new(Shared {
            entries: ArcSwap::default(),
            execution: Execution::new(settings, Arc::clone(&results)),
            results,
            namespacing: settings.namespacing,
            replacing: Mutex::default(),
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            catalog: ArcSwap::from_pointee(Catalog::default()),
            versions: watch::channel(Versions::default()).0,
            answered: watch::channel(0).0,
        });
        let mut entries: Vec<Arc<Entry>> = sources.into_iter().map(Entry::new).collect();
        in_order(&mut entries);
        shared.entries.store(Arc::new(entries.clone()));
        entries.iter().for_each(|entry| shared.watch(entry));
        Arc::new(Self { shared, retiring: Mutex::default() })
    }

    /// Takes hosted servers out by their names and puts others in; all others, and their children, stay as they are.
    /// Until a server that takes the place of one of the same name has listed its tools, it is taken to have those of the
    /// one before; so nobody is told of a list that comes back a moment later. Calls that run end as they would have.
    /// Must be called within a tokio runtime.
    pub fn replace(self: &Arc<Self>, gone: &[String], new: Vec<Source>) {
        let shared = &self.shared;
        let mut leaving = Vec::new();
        let mut arriving = Vec::new();
        {
            let _replacing = shared.replacing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut entries = Vec::clone(&shared.entries.load());
            entries.retain(|entry| {
                let goes = entry.source.server.as_ref().is_some_and(|server| gone.contains(server));
                if goes {
                    leaving.push(Arc::clone(entry));
                }
                !goes
            });
            for source in new {
                let entry = Entry::new(source);
                if let Some(before) = leaving.iter().find(|old| old.source.server == entry.source.server) {
                    entry.take_over(before);
                }
                entries.push(Arc::clone(&entry));
                arriving.push(entry);
            }
            in_order(&mut entries);
            shared.entries.store(Arc::new(entries));
            shared.renew_tools();
            shared.renew_catalog();
        }
        // Whatever stands in their place may answer otherwise.
        let tags: Vec<Tag> =
            gone.iter().flat_map(|server| [Tag::server(server), Tag::resources(server)]).collect();
        shared.results.void(&tags);
        shared.answered.send_modify(|changes| *changes += 1);
        arriving.iter().for_each(|entry| shared.watch(entry));
        for entry in leaving {
            entry.stop_watching();
            let host = Arc::clone(&entry.source.host);
            self.retiring().push(Arc::clone(&host));
            let this = Arc::clone(self);
            tokio::spawn(async move {
                host.retire().await;
                this.retiring().retain(|other| !Arc::ptr_eq(other, &host));
            });
        }
    }

    /// From now on it is kept there what became of calls with idempotency keys. Once.
    pub fn keep_in(&self, keyed: Arc<dyn Keyed>) {
        self.shared.execution.keep_in(keyed);
    }

    fn retiring(&self) -> MutexGuard<'_, Vec<Arc<dyn Host>>> {
        self.retiring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the hosted servers are, in the order of their names.
    #[must_use]
    pub fn statuses(&self) -> Vec<(String, HostStatus)> {
        let entries = self.shared.entries.load();
        entries
            .iter()
            .filter_map(|entry| Some((entry.source.host.name().to_owned(), entry.status()?)))
            .collect()
    }

    /// The results that may be answered again.
    #[must_use]
    pub fn results(&self) -> &Arc<Results> {
        &self.shared.results
    }

    /// A digest of each list as it is now: equal digests are equal lists.
    #[must_use]
    pub fn digests(&self) -> Digests {
        Digests::of(&self.snapshot(), &self.catalog())
    }

    /// The tools as they are now, without waiting.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// What there is beside tools, as it is now, without waiting.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.shared.catalog.load_full()
    }

    /// Whether every host has answered, or failed, at least once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.shared.entries.load().iter().all(|entry| entry.has_answered())
    }

    /// Waits until [`Registry::is_complete`], at most for `at_most`; then the tools as they are.
    pub async fn settled(&self, at_most: Duration) -> Arc<Snapshot> {
        let mut answered = self.shared.answered.subscribe();
        // Either end is fine: the tools as they are.
        let _ = tokio::time::timeout(at_most, answered.wait_for(|_| self.is_complete())).await;
        self.snapshot()
    }

    /// Changes whenever a list does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Versions> {
        self.shared.versions.subscribe()
    }

    /// Waits until resources that are subscribed to have changed. For one caller at a time; may be dropped without
    /// loss.
    pub async fn updated(&self) -> Vec<Updated> {
        let mut others = self.shared.answered.subscribe();
        loop {
            others.mark_unchanged();
            let entries = self.shared.entries.load_full();
            let any = async {
                match entries.is_empty() {
                    true => std::future::pending().await,
                    false => select_all(entries.iter().map(|entry| entry.source.host.updated())).await.0,
                }
            };
            tokio::select! {
                updated = any => return updated,
                // There may be other hosts now. The sender lives as long as this does.
                _ = others.changed() => {}
            }
        }
    }

    /// Takes a subscription back, whichever host has it.
    pub fn unsubscribe(&self, subscriber: &str, uri: &str) {
        for entry in self.shared.entries.load().iter() {
            entry.source.host.unsubscribe(subscriber, uri);
        }
    }

    /// Takes all subscriptions of a subscriber back, at every host.
    pub fn release(&self, subscriber: &str) {
        for entry in self.shared.entries.load().iter() {
            entry.source.host.release(subscriber);
        }
    }

    /// Tells every host that a session has ended.
    pub fn session_ended(&self, session: &str) {
        for entry in self.shared.entries.load().iter() {
            entry.source.host.session_ended(session);
        }
    }

    /// Ends every host.
    pub async fn close(&self) {
        let entries = self.shared.entries.load_full();
        entries.iter().for_each(|entry| entry.stop_watching());
        let retiring = self.retiring().clone();
        let hosts = entries.iter().map(|entry| Arc::clone(&entry.source.host)).chain(retiring);
        join_all(hosts.map(|host| async move { host.close().await })).await;
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.entries.load().iter().for_each(|entry| entry.stop_watching());
    }
}

/// Built-in hosts in the order they came in, then hosted servers by their names.
fn in_order(entries: &mut [Arc<Entry>]) {
    entries.sort_by(|a, b| a.source.server.cmp(&b.source.server));
}

impl Shared {
    fn watch(self: &Arc<Self>, entry: &Arc<Entry>) {
        let task = tokio::spawn(source::watch_source(Arc::clone(self), Arc::clone(entry)));
        entry.watched_by(AbortOnDropHandle::new(task));
    }

    /// Whether the list is another one now.
    fn update(&self, entry: &Entry, tools: Vec<Tool>) -> bool {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        entry.set_tools(tools);
        self.renew_tools()
    }

    /// As [`Shared::update`], for what there is beside tools.
    fn update_offers(&self, entry: &Entry, given: Offers) -> ListsChanged {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        match entry.set_offers(given) {
            true => self.renew_catalog(),
            false => ListsChanged::default(),
        }
    }

    /// Makes the snapshot anew; to be called while `replacing` is held.
    fn renew_tools(&self) -> bool {
        let entries = self.entries.load();
        let mut tools = facts::settle(names::register_tools(&entries, self.namespacing));
        for tool in &mut tools {
            tool.plan = Some(self.execution.plan(tool));
        }
        let next = Snapshot::of(tools);
        if next.lists_the_same_as(&self.snapshot.load()) {
            return false;
        }
        self.snapshot.store(Arc::new(next));
        self.versions.send_modify(|versions| versions.listed.tools += 1);
        true
    }

    /// Makes the catalog anew; to be called while `replacing` is held.
    fn renew_catalog(&self) -> ListsChanged {
        let next = Catalog::of(&self.entries.load(), self.namespacing);
        let before = self.catalog.load_full();
        let changed =
            ListsChanged { prompts: !next.same_prompts(&before), resources: !next.same_resources(&before) };
        self.catalog.store(Arc::new(next));
        if changed != ListsChanged::default() {
            self.versions.send_modify(|versions| {
                versions.listed.prompts += u64::from(changed.prompts);
                versions.listed.resources += u64::from(changed.resources);
            });
        }
        changed
    }

    /// Counts announcements, after the lists that they are about were listed again.
    fn pass_on(&self, announced: Announced) {
        if announced == Announced::default() {
            return;
        }
        self.versions.send_modify(|versions| {
            versions.announced.tools += u64::from(announced.tools);
            versions.announced.prompts += u64::from(announced.prompts);
            versions.announced.resources += u64::from(announced.resources);
        });
    }
}
