//! A child that has shaken hands.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::error::{Death, StartError};
use super::launch::Launch;
use super::pipe::{Failure, Outcome, Owner, Pipe, Silence};
use super::process::Process;
use crate::base::limits::{CHILD_FIRST_PING, OFFERS_PER_HOST, TOOLS_PER_HOST};
use crate::rpc::error::{METHOD_NOT_FOUND, RpcError};
use crate::rpc::message::quote;
use crate::tools::catalog::{Features, Listed, Offers};
use crate::tools::hosted::changes::{Ears, ListCounts, News, Wanted};
use crate::tools::hosted::greeting::{About, EVERYTHING, Greeting, initialize};
use crate::tools::hosted::listing::{Pages, described, named};
use crate::tools::hosted::params::Errand;
use crate::tools::{Call, LogLevel, Tool};

/// A child, ready for calls. Dropping it kills its process group.
pub(super) struct Live {
    process: Process,
    pipe: Pipe,
    server: Arc<str>,
    /// What it says it has beside tools.
    pub(super) features: Features,
    /// It runs tools as tasks of its own.
    pub(super) tasks: bool,
    /// Counts its announcements that its lists have changed.
    lists: watch::Sender<ListCounts>,
    /// The level of log messages that it was told; none for a child that has no logs or more than one client.
    log_level: Option<Mutex<Option<LogLevel>>>,
    /// Its session was asked whether it had another child before.
    pub(super) introduced: AtomicBool,
}

/// What all children of a server have in common.
pub(super) struct Start {
    pub(super) launch: Arc<Launch>,
    /// From the start until the answer to `initialize`.
    pub(super) within: Duration,
    /// Counts the announcements of shared children that their lists have changed. Those of a session's child are its
    /// own affair: there is one list for everybody.
    pub(super) lists: watch::Sender<ListCounts>,
    /// What they say of resources.
    pub(super) news: Arc<News>,
    /// Who they say they are.
    pub(super) about: Arc<ArcSwapOption<About>>,
}

impl Live {
    /// Starts a child and shakes hands with it. `capabilities` are those of its client, as JSON text.
    pub(super) async fn start(
        start: &Start,
        owner: Owner,
        capabilities: &str,
        wanted: &Arc<Wanted>,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, StartError> {
        let server = Arc::clone(&start.launch.server);
        let end = Instant::now() + start.within;
        let silent = |stderr| StartError::Silent {
            server: Arc::clone(&server),
            step: "initialize",
            within: start.within,
            stderr,
        };
        let spawned = timeout_at(end, Process::spawn(Arc::clone(&start.launch), place)).await;
        let (process, pipes) = spawned.map_err(|_| silent(super::error::LastLines::default()))??;
        let watch = process.watch();
        let lists = match owner {
            Owner::Shared => start.lists.clone(),
            Owner::Session => watch::channel(ListCounts::default()).0,
        };
        let ears = Ears { lists: lists.clone(), news: Arc::clone(&start.news), wanted: Arc::clone(wanted) };
        let pipe = Pipe::open(Arc::clone(&server), owner, pipes, process.watch(), ears, start.within * 2);
        let features = Features::default();
        let mut live = Self {
            process,
            pipe,
            server: Arc::clone(&server),
            features,
            tasks: false,
            lists,
            log_level: None,
            introduced: AtomicBool::new(false),
        };

        let params = initialize(capabilities);
        let left = end.saturating_duration_since(Instant::now());
        let result = match live.pipe.request("initialize", &params, left).await {
            Ok(result) => result,
            Err(Failure::TimedOut) => return Err(silent(watch.last_lines())),
            Err(Failure::Died(death)) => return Err(StartError::Died(death)),
            Err(Failure::Error(error)) => return Err(live.unusable("initialize", error.to_string())),
        };
        let greeting: Greeting = serde_json::from_str(result.get())
            .map_err(|error| live.unusable("initialize", error.to_string()))?;
        greeting.check().map_err(|reason| live.unusable("initialize", reason))?;
        live.features = greeting.capabilities.features();
        live.tasks = greeting.capabilities.has_tasks();
        if owner == Owner::Session && greeting.capabilities.logging.is_some() {
            live.log_level = Some(Mutex::default());
        }
        live.pipe.notify("notifications/initialized", "{}").await;
        if owner == Owner::Shared {
            // Many servers ask for the roots as soon as they are initialized. Here nobody is there to be asked: what
            // comes before the answer is refused, instead of being taken for a question of the first call. A server
            // that does not answer is served all the same.
            let pinged = live.pipe.request("ping", "{}", CHILD_FIRST_PING.min(start.within)).await;
            if matches!(pinged, Err(Failure::TimedOut)) {
                live.pipe.ignores_pings();
            }
        }
        let about = greeting.about();
        tracing::debug!(
            server = %live.server,
            pid = watch.pid,
            revision = about.revision,
            name = about.name,
            version = about.version,
            "child started"
        );
        let about = Arc::new(about);
        let before = start.about.swap(Some(Arc::clone(&about)));
        let another =
            before.is_some_and(|before| (&before.name, &before.version) != (&about.name, &about.version));
        // One that is started to be asked for its lists does not count: a server that is another one at each start
        // would be asked for ever.
        if another && (owner == Owner::Shared || capabilities != EVERYTHING) {
            start.lists.send_modify(|counts| {
                counts.tools += 1;
                counts.prompts += 1;
                counts.resources += 1;
            });
        }
        Ok(live)
    }

    /// Its tools. A child may add some as soon as it knows its client, and announce them while it is asked.
    pub(super) async fn settled_tools(&self, within: Duration) -> Result<Vec<Tool>, StartError> {
        let before = self.lists.borrow().tools;
        let tools = self.tools(within).await?;
        if self.lists.borrow().tools == before { Ok(tools) } else { self.tools(within).await }
    }

    /// Its tools, all pages.
    async fn tools(&self, within: Duration) -> Result<Vec<Tool>, StartError> {
        let all = self.all_pages("tools/list", "tools", TOOLS_PER_HOST, within).await?;
        Ok(all.into_iter().map(described).collect())
    }

    /// What it has beside tools, all pages of all lists.
    pub(super) async fn offers(&self, within: Duration) -> Result<Offers, StartError> {
        let features = self.features;
        let list = async |wanted: bool, step, member, key| match wanted {
            true => self.listed(step, member, key, within).await,
            false => Ok(Vec::new()),
        };
        Ok(Offers {
            features,
            prompts: list(features.prompts, "prompts/list", "prompts", "name").await?,
            resources: list(features.resources, "resources/list", "resources", "uri").await?,
            templates: list(
                features.resources,
                "resources/templates/list",
                "resourceTemplates",
                "uriTemplate",
            )
            .await?,
        })
    }

    /// Tells it that the changes of a resource are wanted, or are not any more.
    pub(super) async fn watch_resource(
        &self,
        method: &str,
        uri: &str,
        within: Duration,
    ) -> Result<(), RpcError> {
        let params = format!("{{\"uri\":{}}}", quote(uri));
        match self.pipe.request(method, &params, within).await {
            Ok(_) => Ok(()),
            Err(Failure::Error(error)) => Err(error),
            Err(Failure::Died(death)) => Err(RpcError::internal(death.to_string())),
            Err(Failure::TimedOut) => Err(RpcError::internal(format!(
                "server {:?} did not answer {method} within {} s",
                self.server,
                within.as_secs()
            ))),
        }
    }

    /// A list beside the tools. A server that has it and cannot say it is taken as having an empty one: the rest of
    /// what it has is not held back for that.
    async fn listed(
        &self,
        step: &'static str,
        member: &'static str,
        key: &str,
        within: Duration,
    ) -> Result<Vec<Listed>, StartError> {
        let all = match self.all_pages(step, member, OFFERS_PER_HOST, within).await {
            Ok(all) => all,
            Err(error @ StartError::Unusable { .. }) => {
                tracing::warn!("{error}");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        Ok(named(all, key))
    }

    /// The elements of a list, all pages.
    async fn all_pages(
        &self,
        step: &'static str,
        member: &'static str,
        at_most: usize,
        within: Duration,
    ) -> Result<Vec<Box<RawValue>>, StartError> {
        let end = Instant::now() + within;
        let mut pages = Pages::new(member, at_most);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let page = match self.pipe.request(step, &pages.params(), left).await {
                Ok(result) => result,
                // A server without such a list.
                Err(Failure::Error(error)) if error.code == METHOD_NOT_FOUND && pages.is_first() => break,
                Err(Failure::Error(error)) => return Err(self.unusable(step, error.to_string())),
                Err(Failure::Died(death)) => return Err(StartError::Died(death)),
                Err(Failure::TimedOut) => {
                    return Err(StartError::Silent {
                        server: Arc::clone(&self.server),
                        step,
                        within,
                        stderr: self.process.watch().last_lines(),
                    });
                }
            };
            if !pages.take(&page).map_err(|reason| self.unusable(step, reason))? {
                break;
            }
        }
        Ok(pages.all())
    }

    /// Runs a call; `as_task`: as a task of its own, if it has any.
    pub(super) async fn call(
        &self,
        errand: Errand<'_>,
        call: &Call,
        as_task: bool,
        within: Duration,
    ) -> Outcome {
        self.tell_log_level(call).await;
        self.pipe.call(errand, call, as_task && self.tasks, within).await
    }

    /// Tells a child that has one client which log messages that client wants.
    async fn tell_log_level(&self, call: &Call) {
        let Some(told) = &self.log_level else { return };
        let wanted = LogLevel::ALL.into_iter().find(|level| call.out.wants_log(*level));
        let changed = {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.is_some() && std::mem::replace(&mut *told, wanted) != wanted
        };
        if let (Some(level), true) = (wanted, changed) {
            self.pipe.tell("logging/setLevel", &format!("{{\"level\":\"{}\"}}", level.name())).await;
        }
    }

    /// Whether it may hang.
    pub(super) fn silence(&self) -> Silence {
        self.pipe.silence()
    }

    /// Waits until that is in doubt no more.
    pub(super) async fn decided(&self) {
        self.pipe.decided().await;
    }

    /// How it died, once it has.
    pub(super) fn death(&self) -> Option<Arc<Death>> {
        self.pipe.death()
    }

    /// Ends it in steps. Done when it is reaped.
    pub(super) async fn stop(&self) {
        self.pipe.close();
        self.process.stop().await;
        tracing::debug!(server = %self.server, pid = self.process.watch().pid, "child ended");
    }

    fn unusable(&self, step: &'static str, reason: String) -> StartError {
        StartError::Unusable { server: Arc::clone(&self.server), step, reason }
    }
}

/// An error of this layer as an answer to a request.
pub(super) fn as_rpc_error(error: &StartError) -> RpcError {
    RpcError::internal(error.to_string())
}
