//! Remote MCP servers as hosts: `[servers.NAME]` with a `url`.
//!
//! The way of a call: [`UpstreamHost`] asks its breaker ([`guard`]), knows or finds out what the server speaks ([`meet`]),
//! and runs the call in rounds of 2026-07-28 ([`modern`]) or in a session of an earlier revision ([`slots`], [`session`]);
//! either way one request is one [`exchange`], over [`http`].

mod asks;
mod call;
mod credentials;
mod exchange;
mod failure;
mod frames;
mod guard;
mod http;
mod keeper;
mod kept;
mod listen;
mod lists;
mod meet;
mod modern;
mod reader;
mod refusals;
mod session;
mod slots;
mod tasks;
mod watching;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use reqwest::Url;
use serde_json::value::RawValue;
use tokio::sync::{Notify, OnceCell, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::call::{Outcome, Unanswered};
use self::credentials::{Credential, Credentials};
use self::failure::{Failure, Kind, Trouble};
use self::guard::Guard;
use self::http::{Http, is_loopback};
use self::listen::Listeners;
use self::lists::Listed;
use self::meet::{Known, Legacy};
use self::slots::Slots;
use crate::base::limits::{RETIRE_LOOK, RETIRE_WAIT};
use crate::config::{self, HostedServer, Lifetime, ToolFacts, Transport};
use crate::rpc::error::RpcError;
use crate::telemetry::metrics::{self, UpstreamMetrics};
use crate::tools::answer::{failure, failure_with_retry, lasting_failure, timed_out};
use crate::tools::catalog::{ListsChanged, Offers, Subscriber, Updated};
use crate::tools::hosted::changes::{Ears, ListCounts, News, Wanted};
use crate::tools::hosted::greeting::About;
use crate::tools::hosted::params::Errand;
use crate::tools::registry::headers::HeaderParams;
use crate::tools::status::{HostStatus, Remote};
use crate::tools::{BoxFuture, Call, Host, Tool};

/// A remote MCP server as a host of tools. It is not called before something is wanted of it.
pub struct UpstreamHost {
    inner: Arc<Inner>,
}

/// What everything that belongs to one server has in common.
struct Common {
    http: Http,
    /// How long a handshake, or a request of our own, may take.
    within: Duration,
    /// Ends everything.
    closing: CancellationToken,
    /// Where what it says of everybody's changes goes.
    ears: Ears,
    /// Its lists may be others than they were.
    look_again: Notify,
    /// Who it said it is in the last handshake.
    about: ArcSwapOption<About>,
    next_id: AtomicU64,
}

impl Common {
    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

struct Inner {
    common: Arc<Common>,
    lifetime: Lifetime,
    transport: Transport,
    call_timeout: Duration,
    /// As the configuration of this server says it; 0: it does not.
    own_call_timeout: u64,
    idle: Duration,
    credentials: Credentials,
    slots: Slots,
    listeners: Listeners,
    /// The resources that are wanted by those who share credentials.
    scopes: Mutex<HashMap<Option<Arc<str>>, Arc<Wanted>>>,
    /// What it was found to speak.
    known: Mutex<Arc<OnceCell<Arc<Known>>>>,
    guard: Guard,
    /// How many changes of the tools there had been when they were listed last.
    listed_at: AtomicU64,
    /// As much for what it has beside tools.
    offered_at: Mutex<ListCounts>,
    /// What it listed last.
    listed: Mutex<Listed>,
    /// When the first of its lists is not said to be fresh any more.
    fresh_until: Mutex<Option<Instant>>,
    /// Tools that say that calling them twice does no harm.
    repeatable: ArcSwap<HashSet<String>>,
    /// Tools that it must be asked to run as tasks of its own.
    own_tasks: ArcSwap<HashSet<String>>,
    /// Arguments that are repeated in headers, by tool.
    header_params: ArcSwap<HashMap<String, HeaderParams>>,
    /// What the configuration says of its tools.
    facts: BTreeMap<String, ToolFacts>,
    /// Calls that run.
    running: AtomicUsize,
    metrics: UpstreamMetrics,
    keeper: OnceLock<AbortOnDropHandle<()>>,
}

impl UpstreamHost {
    /// The server `name` as `settings`, which were checked, describe it. Calls nobody yet.
    ///
    /// # Errors
    /// What is wrong with its address.
    pub fn new(name: &str, settings: &HostedServer, tools: &config::Tools) -> Result<Arc<Self>, String> {
        let url = Url::parse(&settings.url).map_err(|error| format!("servers.{name}.url: {error}"))?;
        let seconds = match settings.call_timeout_seconds {
            0 => tools.call_timeout_seconds,
            own => own,
        };
        let credentials = Credentials::new(name, settings);
        if url.scheme() == "http" && !is_loopback(&url) && !credentials.is_empty() {
            tracing::warn!(
                server = name,
                "credentials go to {} over plain HTTP: who is in between can read them; use https",
                url.origin().ascii_serialization()
            );
        }
        let ears = Ears {
            lists: watch::channel(ListCounts::default()).0,
            news: Arc::<News>::default(),
            wanted: Arc::default(),
        };
        let common = Arc::new(Common {
            http: Http::new(name, url, &settings.proxy),
            within: Duration::from_secs(settings.start_timeout_seconds.max(1)),
            closing: CancellationToken::new(),
            ears,
            look_again: Notify::new(),
            about: ArcSwapOption::empty(),
            next_id: AtomicU64::new(1),
        });
        Ok(Arc::new(Self {
            inner: Arc::new(Inner {
                common,
                lifetime: settings.lifetime,
                transport: settings.transport,
                call_timeout: Duration::from_secs(seconds),
                own_call_timeout: settings.call_timeout_seconds,
                idle: Duration::from_secs(settings.idle_seconds),
                credentials,
                slots: Slots::default(),
                listeners: Listeners::default(),
                scopes: Mutex::default(),
                known: Mutex::default(),
                guard: Guard::default(),
                listed_at: AtomicU64::new(0),
                offered_at: Mutex::default(),
                listed: Mutex::default(),
                fresh_until: Mutex::default(),
                repeatable: ArcSwap::default(),
                own_tasks: ArcSwap::default(),
                header_params: ArcSwap::default(),
                facts: settings.tools.clone(),
                running: AtomicUsize::new(0),
                metrics: metrics::of_process().upstream(name),
                keeper: OnceLock::new(),
            }),
        }))
    }
}

impl Drop for UpstreamHost {
    fn drop(&mut self) {
        self.inner.common.closing.cancel();
    }
}

impl Host for UpstreamHost {
    fn name(&self) -> &str {
        &self.inner.common.http.server
    }

    fn tools(&self) -> BoxFuture<'_, Result<Vec<Tool>, RpcError>> {
        Box::pin(async {
            let inner = &self.inner;
            inner.keep_from_now_on();
            inner.listed_at.store(inner.common.ears.lists.borrow().tools, Ordering::SeqCst);
            inner.list_tools().await.map_err(|failure| failure.as_rpc_error())
        })
    }

    fn call(&self, tool: &str, call: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let inner = Arc::clone(&self.inner);
        let tool = tool.to_owned();
        Box::pin(async move {
            let errand = Errand::tool(&tool);
            tokio::select! {
                biased;
                () = call.cancel.cancelled() => Ok(failure("the call was cancelled")),
                () = inner.common.closing.cancelled() => {
                    Ok(lasting_failure(&inner.closed().why, inner.may_repeat(errand)))
                }
                answer = inner.call(errand, &call) => match answer {
                    Ok(answer) => answer,
                    Err(Unanswered { why, retry_safe, outcome: Outcome::Late }) => Ok(timed_out(&why, retry_safe)),
                    Err(Unanswered { why, retry_safe, outcome: Outcome::Lasting }) => Ok(lasting_failure(&why, retry_safe)),
                    Err(Unanswered { why, retry_safe, outcome: Outcome::Failed }) => Ok(failure_with_retry(&why, retry_safe)),
                },
            }
        })
    }

    fn has_own_task(&self, tool: &str) -> bool {
        self.inner.own_tasks.load().contains(tool)
    }

    fn session_ended(&self, session: &str) {
        self.inner.release(session);
        let Some(slot) = self.inner.slots.take(session) else { return };
        if let (Some(session), Ok(runtime)) = (slot.present(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { session.end().await });
        }
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let known = self.inner.listed_at.load(Ordering::SeqCst);
            ListCounts::are(&self.inner.common.ears.lists, |counts| counts.tools != known).await;
        })
    }

    fn offers(&self) -> BoxFuture<'_, Result<Offers, RpcError>> {
        Box::pin(async {
            let inner = &self.inner;
            *lock(&inner.offered_at) = *inner.common.ears.lists.borrow();
            inner.list_offers().await.map_err(|failure| failure.as_rpc_error())
        })
    }

    fn offers_changed(&self) -> BoxFuture<'_, ListsChanged> {
        Box::pin(async {
            let known = *lock(&self.inner.offered_at);
            ListCounts::other_offers(&self.inner.common.ears.lists, known).await
        })
    }

    fn get_prompt(&self, prompt: &str, call: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let (inner, prompt) = (Arc::clone(&self.inner), prompt.to_owned());
        Box::pin(async move { inner.ask(Errand::prompt(&prompt), &call).await })
    }

    fn read(&self, call: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.ask(Errand::READ, &call).await })
    }

    fn complete(
        &self,
        prompt: Option<&str>,
        call: Call,
    ) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let (inner, prompt) = (Arc::clone(&self.inner), prompt.map(str::to_owned));
        Box::pin(async move { inner.ask(Errand::completion(prompt.as_deref()), &call).await })
    }

    fn subscribe(&self, subscriber: &Subscriber, uri: &str) -> BoxFuture<'static, Result<(), RpcError>> {
        let inner = Arc::clone(&self.inner);
        let (subscriber, uri) = (subscriber.clone(), uri.to_owned());
        Box::pin(async move { inner.subscribe(&subscriber, &uri).await })
    }

    fn unsubscribe(&self, subscriber: &str, uri: &str) {
        self.inner.unsubscribe(subscriber, uri);
    }

    fn release(&self, subscriber: &str) {
        self.inner.release(subscriber);
    }

    fn updated(&self) -> BoxFuture<'_, Vec<Updated>> {
        Box::pin(self.inner.common.ears.news.take_updated())
    }

    fn status(&self) -> Option<HostStatus> {
        Some(self.inner.status())
    }

    fn call_timeout_seconds(&self) -> u64 {
        self.inner.own_call_timeout
    }

    fn has_own_breaker(&self) -> bool {
        true
    }

    fn facts(&self, tool: &str) -> Option<&ToolFacts> {
        self.inner.facts.get(tool)
    }

    fn retire(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let ended = async {
                while self.inner.running.load(Ordering::Relaxed) > 0 {
                    tokio::time::sleep(RETIRE_LOOK).await;
                }
            };
            // A call may wait for a person for hours: it is told, as at the end of the server.
            let _ = timeout(RETIRE_WAIT, ended).await;
            self.inner.end_sessions().await;
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.leave_sessions())
    }
}

impl Inner {
    /// What the server speaks, found out when it is not known.
    async fn known(&self, credential: &Arc<Credential>) -> Result<Arc<Known>, Failure> {
        let cell = Arc::clone(&lock(&self.known));
        let found = cell
            .get_or_try_init(|| async {
                // Whoever waited for others that failed does not try in vain as well.
                drop(self.admit()?);
                let slot = self.slots.shared(credential, &self.scope(credential));
                let ears = || slot.0.ears(&self.common);
                let (known, session) = meet::meet(&self.common, credential, ears, self.is_sse()).await?;
                self.leave_what_is_not(&known);
                if let Some(session) = session {
                    self.metrics.sessions.inc();
                    slot.0.seed(session);
                }
                if let Known::Modern(_) = &known {
                    self.listen();
                }
                self.tell_known(&known);
                Ok::<_, Failure>(Arc::new(known))
            })
            .await?;
        Ok(Arc::clone(found))
    }

    /// Opens the streams of changes of a server of 2026-07-28.
    fn listen(&self) {
        let common = self.credentials.common();
        self.listeners.of(&self.common, common, &self.scope(common));
        let scopes: Vec<_> =
            lock(&self.scopes).iter().map(|(key, wanted)| (key.clone(), Arc::clone(wanted))).collect();
        for (principal, wanted) in scopes.into_iter().filter(|(_, wanted)| !wanted.is_empty()) {
            if let Some(Ok(credential)) = principal.map(|principal| self.credentials.of(&principal)) {
                self.listeners.of(&self.common, &credential, &wanted);
            }
        }
    }

    fn tell_known(&self, known: &Known) {
        let (about, sse) = match known {
            Known::Modern(modern) => (&modern.about, false),
            Known::Legacy(legacy) => (&legacy.told.about, legacy.sse),
        };
        tracing::info!(
            server = %self.common.http.server,
            revision = about.revision,
            name = about.name,
            version = about.version,
            transport = if sse { "HTTP+SSE" } else { "Streamable HTTP" },
            "remote server found"
        );
    }

    /// The server answers as if it were not what it was taken for, `used`: it is asked anew what it speaks, unless
    /// somebody else did so meanwhile. What others have in the server stays until that is known.
    fn forget_known(&self, used: &Arc<Known>) {
        let mut known = lock(&self.known);
        if known.get().is_some_and(|current| Arc::ptr_eq(current, used)) {
            *known = Arc::default();
            self.common.look_again.notify_one();
        }
    }

    /// Lets go of what a server that speaks this cannot have.
    fn leave_what_is_not(&self, known: &Known) {
        match known {
            Known::Modern(_) => {
                self.slots.forget_shared(|_| true);
                self.listeners.forget_refused();
            }
            Known::Legacy(legacy) => {
                self.slots.forget_shared(|session| session.answers_elsewhere() != legacy.sse);
                self.listeners.clear();
            }
        }
    }

    fn is_sse(&self) -> bool {
        let known = lock(&self.known);
        let found = known.get().map(Arc::as_ref);
        self.transport == Transport::Sse || matches!(found, Some(Known::Legacy(Legacy { sse: true, .. })))
    }

    /// What is wanted by those who have these credentials.
    fn scope(&self, credential: &Credential) -> Arc<Wanted> {
        Arc::clone(lock(&self.scopes).entry(credential.principal.clone()).or_default())
    }

    fn closed(&self) -> Trouble {
        self.common.http.trouble(Kind::Closed, false, "is being taken out of service here")
    }

    fn status(&self) -> HostStatus {
        let known = lock(&self.known).get().cloned();
        let about = match known.as_deref() {
            Some(Known::Modern(modern)) => modern.about.clone(),
            Some(Known::Legacy(legacy)) => {
                let last = self.common.about.load_full();
                last.map_or_else(|| legacy.told.about.clone(), |about| About::clone(&about))
            }
            None => About::default(),
        };
        let (own, open) = self.slots.count();
        let refusal = self.guard.refused();
        HostStatus {
            lifetime: match self.lifetime {
                Lifetime::Call => "call",
                Lifetime::Session => "session",
                Lifetime::Pool => "pool",
            },
            sessions: own,
            calls: self.running.load(Ordering::Relaxed),
            name: about.name,
            version: about.version,
            revision: about.revision,
            remote: Some(Remote {
                url: self.common.http.shown.clone(),
                breaker: self.guard.state(),
                refused_seconds: refusal.as_ref().map(|refusal| refusal.wait.as_secs().max(1)),
                refused: refusal.map(|refusal| refusal.reason.to_string()),
                open_sessions: open,
                failures: self.guard.failures.load(Ordering::Relaxed),
                last_failure: self.guard.last_failure.load().as_deref().cloned(),
            }),
            ..HostStatus::default()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
