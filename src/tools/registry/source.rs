//! A host in the registry: what it listed last, and the task that keeps that fresh.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use crate::base::backoff::Backoff;
use crate::base::limits::{RELIST_BACKOFF, RELIST_PAUSE};
use crate::tools::cached::Tag;
use crate::tools::catalog::Offers;
use crate::tools::status::HostStatus;
use crate::tools::{Host, Tool};

/// A host and how its tools are named.
pub struct Source {
    /// The host.
    pub host: Arc<dyn Host>,
    /// The name of a hosted server (`[servers.NAME]`); none for built-in tools, which are never renamed.
    pub server: Option<String>,
}

/// A source and what it listed last; a failure later on keeps what it listed before.
pub(super) struct Entry {
    pub(super) source: Source,
    tools: ArcSwap<Vec<Tool>>,
    offers: ArcSwapOption<Offers>,
    /// It has answered, or failed, at least once.
    answered: AtomicBool,
    /// Why its tools could not be listed, the last time.
    trouble: ArcSwapOption<String>,
    /// Listings that failed in a row.
    failures: AtomicUsize,
    watcher: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Entry {
    pub(super) fn new(source: Source) -> Arc<Self> {
        Arc::new(Self {
            source,
            tools: ArcSwap::default(),
            offers: ArcSwapOption::empty(),
            answered: AtomicBool::new(false),
            trouble: ArcSwapOption::empty(),
            failures: AtomicUsize::new(0),
            watcher: Mutex::default(),
        })
    }

    /// Has what another one had, until it lists its own.
    pub(super) fn take_over(&self, before: &Self) {
        self.tools.store(before.tools.load_full());
        self.offers.store(before.offers.load_full());
    }

    pub(super) fn tools(&self) -> Arc<Vec<Tool>> {
        self.tools.load_full()
    }

    pub(super) fn set_tools(&self, tools: Vec<Tool>) {
        self.tools.store(Arc::new(tools));
    }

    pub(super) fn offers(&self) -> Option<Arc<Offers>> {
        self.offers.load_full()
    }

    /// Whether they are others than before.
    pub(super) fn set_offers(&self, offers: Offers) -> bool {
        let same = self.offers.load().as_deref() == Some(&offers);
        if !same {
            self.offers.store(Some(Arc::new(offers)));
        }
        !same
    }

    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    pub(super) fn watched_by(&self, watcher: AbortOnDropHandle<()>) {
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
    }

    pub(super) fn stop_watching(&self) {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// How it is, if it is a hosted server.
    pub(super) fn status(&self) -> Option<HostStatus> {
        let mut status = self.source.host.status()?;
        status.tools = self.tools.load().len();
        status.listing = self.trouble.load().as_deref().cloned();
        Some(status)
    }
}

/// Lists that a host says have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) tools: bool,
    pub(super) prompts: bool,
    pub(super) resources: bool,
}

/// Keeps the lists of one source fresh, for as long as it is in the registry.
pub(super) async fn watch_source(shared: Arc<Shared>, entry: Arc<Entry>) {
    let host = Arc::clone(&entry.source.host);
    let (first, longest) = RELIST_BACKOFF;
    let mut backoff = Backoff::new(first, longest);
    let (mut tools_due, mut offers_due) = (true, true);
    let mut announced = Announced::default();
    let mut version = String::new();
    loop {
        if tools_due {
            match host.tools().await {
                Ok(tools) => {
                    tracing::debug!(server = host.name(), tools = tools.len(), "tools listed");
                    let changed = shared.update(&entry, tools);
                    let now = host.status().map(|status| status.version).unwrap_or_default();
                    let another = !version.is_empty() && now != version;
                    version = now;
                    // The first list of a process says nothing of what its sisters keep.
                    if announced.tools || another || (changed && entry.has_answered()) {
                        shared.results.void(&[Tag::server(host.name())]);
                    }
                    let tools = std::mem::take(&mut announced.tools) || changed;
                    shared.pass_on(Announced { tools, ..Announced::default() });
                    tools_due = false;
                    entry.trouble.store(None);
                    entry.failures.store(0, Ordering::Relaxed);
                }
                Err(error) => {
                    // Said aloud once, and then as long as it lasts only to who asks.
                    if entry.failures.fetch_add(1, Ordering::Relaxed) == 0 {
                        tracing::warn!(
                            server = host.name(),
                            "its tools could not be listed: {}",
                            error.message
                        );
                    } else {
                        tracing::debug!(
                            server = host.name(),
                            "its tools could not be listed: {}",
                            error.message
                        );
                    }
                    entry.trouble.store(Some(Arc::new(error.message.into_owned())));
                }
            }
        }
        // A server that cannot list its tools is not asked for more.
        if offers_due && !tools_due {
            match host.offers().await {
                Ok(offers) => {
                    let changed = shared.update_offers(&entry, offers);
                    if announced.resources || (changed.resources && entry.has_answered()) {
                        shared.results.void(&[Tag::resources(host.name())]);
                    }
                    let prompts = std::mem::take(&mut announced.prompts) || changed.prompts;
                    let resources = std::mem::take(&mut announced.resources) || changed.resources;
                    shared.pass_on(Announced { tools: false, prompts, resources });
                    offers_due = false;
                }
                Err(error) => {
                    let why = error.message;
                    tracing::warn!(
                        server = host.name(),
                        "what it has beside tools could not be listed: {why}"
                    );
                }
            }
        }
        if !entry.answered.swap(true, Ordering::AcqRel) {
            shared.answered.send_modify(|changes| *changes += 1);
        }
        let failed = tools_due || offers_due;
        let pause = if failed { backoff.wait() } else { Duration::ZERO };
        if !failed {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(pause), if failed => {}
            () = host.changed() => {
                tools_due = true;
                announced.tools = true;
            }
            lists = host.offers_changed() => {
                offers_due = true;
                announced.prompts |= lists.prompts;
                announced.resources |= lists.resources;
            }
        }
        tokio::time::sleep(RELIST_PAUSE).await;
    }
}
