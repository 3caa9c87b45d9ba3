//! Stdio MCP servers as hosts: `[servers.NAME]` with a `command`.
//!
//! The way of a call: [`ChildHost`] picks a child ([`pool`]), which has a process ([`process`]) and a pipe ([`pipe`]);
//! the pipe passes the call's parameters and result on as the text they are.

mod cgroup;
mod confine;
mod error;
mod habits;
mod health;
mod launch;
mod lines;
mod live;
mod pipe;
mod pool;
mod process;
mod usage;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::value::RawValue;
use tokio::sync::watch;

pub use self::error::{Death, LastLines, StartError};
use self::habits::{Habit, Habits};
use self::launch::Launch;
use self::live::{Live, Start, as_rpc_error};
use self::pipe::Outcome;
use self::pool::{Bounds, Lease, Pool, Reservation, StartFailure, stop_in_background};
use crate::base::counted::Counted;
use crate::base::limits::{RETIRE_LOOK, RETIRE_WAIT};
use crate::config::{self, HostedServer, Lifetime, ToolFacts};
use crate::rpc::error::RpcError;
use crate::tools::answer::{failure, failure_with_retry, lasting_failure, timed_out};
use crate::tools::catalog::{ListsChanged, Offers, Subscriber, Updated};
use crate::tools::hosted::anew;
use crate::tools::hosted::changes::{ListCounts, News};
use crate::tools::hosted::greeting::EVERYTHING;
use crate::tools::hosted::own_task::required_tasks;
use crate::tools::hosted::params::Errand;
use crate::tools::status::HostStatus;
use crate::tools::{BoxFuture, Call, Host, Tool};

/// A stdio MCP server as a host of tools. Children are started when they are needed. Dropping it kills all of them.
pub struct ChildHost {
    inner: Arc<Inner>,
}

struct Inner {
    name: Arc<str>,
    lifetime: Lifetime,
    call_timeout: Duration,
    /// As the configuration of this server says it; 0: it does not.
    own_call_timeout: u64,
    list_timeout: Duration,
    pool: Arc<Pool>,
    lists: watch::Sender<ListCounts>,
    news: Arc<News>,
    /// How many changes of the tools there had been when they were listed last.
    listed_at: AtomicU64,
    /// As much for what it has beside tools.
    offered_at: Mutex<ListCounts>,
    /// What it has beside tools, where it was learned with the tools; and when.
    offered: Mutex<Option<(ListCounts, Offers)>>,
    /// Tools that say that calling them twice does no harm.
    repeatable: ArcSwap<HashSet<String>>,
    /// Tools that it must be asked to run as tasks of its own.
    own_tasks: ArcSwap<HashSet<String>>,
    /// Which of its tools ask.
    habits: Habits,
    /// What the configuration says of its tools.
    facts: BTreeMap<String, ToolFacts>,
    /// Calls that run.
    running: AtomicUsize,
}

impl ChildHost {
    /// The server `name` as `settings` describe it; a relative `cwd` is below `root`. Starts nothing yet.
    #[must_use]
    pub fn new(name: &str, settings: &HostedServer, root: &Path, tools: &config::Tools) -> Arc<Self> {
        let seconds = match settings.call_timeout_seconds {
            0 => tools.call_timeout_seconds,
            own => own,
        };
        let start_timeout = Duration::from_secs(settings.start_timeout_seconds.max(1));
        let lists = watch::channel(ListCounts::default()).0;
        let news = Arc::<News>::default();
        let launch = Arc::new(Launch::new(name, settings, root));
        let start = Start {
            launch,
            within: start_timeout,
            lists: lists.clone(),
            news: Arc::clone(&news),
            about: Arc::default(),
        };
        let bounds = Bounds {
            max_children: settings.max_children.clamp(1, usize::from(u16::MAX)),
            pool_size: settings.pool_size,
            warm: usize::from(settings.lifetime == Lifetime::Pool),
            idle: Duration::from_secs(settings.idle_seconds),
        };
        Arc::new(Self {
            inner: Arc::new(Inner {
                name: Arc::from(name),
                lifetime: settings.lifetime,
                call_timeout: Duration::from_secs(seconds),
                own_call_timeout: settings.call_timeout_seconds,
                list_timeout: start_timeout,
                pool: Pool::new(start, bounds),
                lists,
                news,
                listed_at: AtomicU64::new(0),
                offered_at: Mutex::default(),
                offered: Mutex::default(),
                repeatable: ArcSwap::default(),
                own_tasks: ArcSwap::default(),
                habits: Habits::default(),
                facts: settings.tools.clone(),
                running: AtomicUsize::new(0),
            }),
        })
    }

    /// How its children are.
    #[must_use]
    pub fn status(&self) -> HostStatus {
        let (inner, pool) = (&self.inner, &self.inner.pool);
        let parked = pool.parked();
        let about = pool.about().load_full();
        let about = about.as_deref().cloned().unwrap_or_default();
        HostStatus {
            lifetime: match inner.lifetime {
                Lifetime::Call => "call",
                Lifetime::Session => "session",
                Lifetime::Pool => "pool",
            },
            children: pool.children(),
            max_children: pool.max_children(),
            sessions: pool.sessions(),
            calls: inner.running.load(Ordering::Relaxed),
            memory_bytes: usage::memory_of(&inner.name),
            started: pool.started.load(Ordering::Relaxed),
            died: pool.died.load(Ordering::Relaxed),
            parked_seconds: parked.as_ref().map(|(left, _)| left.as_secs().max(1)),
            parked: parked.map(|(_, reason)| reason.to_string()),
            last_death: pool.last_death(),
            listing: None,
            tools: 0,
            name: about.name,
            version: about.version,
            revision: about.revision,
            remote: None,
        }
    }
}

impl Drop for ChildHost {
    fn drop(&mut self) {
        // Ends what starts and what calls still hold; all other children go with the pool.
        self.inner.pool.closing.cancel();
    }
}

impl Host for ChildHost {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn tools(&self) -> BoxFuture<'_, Result<Vec<Tool>, RpcError>> {
        Box::pin(async {
            let inner = &self.inner;
            let (counts, within) = (*inner.lists.borrow(), inner.list_timeout);
            inner.listed_at.store(counts.tools, Ordering::SeqCst);
            let listing = inner.list(async |live| {
                let tools = live.settled_tools(within).await?;
                // A child that is started to be asked is asked for everything at once.
                let offers = match inner.lifetime {
                    Lifetime::Pool => None,
                    Lifetime::Session | Lifetime::Call => live.offers(within).await.ok(),
                };
                Ok((tools, offers, live.tasks))
            });
            let (tools, offers, has_tasks) = listing.await.map_err(|error| as_rpc_error(&error))?;
            *inner.offered() = offers.map(|offers| (counts, offers));
            let repeatable = tools.iter().filter(|tool| tool.is_repeatable()).map(|tool| tool.name.clone());
            inner.repeatable.store(Arc::new(repeatable.collect()));
            inner.own_tasks.store(Arc::new(if has_tasks { required_tasks(&tools) } else { HashSet::new() }));
            inner.habits.keep(&tools);
            Ok(tools)
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
                () = inner.pool.closing.cancelled() => {
                    Ok(lasting_failure(&inner.pool.closed().to_string(), inner.may_repeat(errand)))
                }
                answer = inner.call(errand, &call) => match answer {
                    Ok(answer) => answer,
                    Err(Unanswered { why, retry_safe, kind: Kind::Late }) => Ok(timed_out(&why, retry_safe)),
                    Err(Unanswered { why, retry_safe, kind: Kind::Lasting }) => Ok(lasting_failure(&why, retry_safe)),
                    Err(Unanswered { why, retry_safe, kind: Kind::Died }) => Ok(failure_with_retry(&why, retry_safe)),
                },
            }
        })
    }

    fn has_own_task(&self, tool: &str) -> bool {
        self.inner.own_tasks.load().contains(tool)
    }

    fn offers(&self) -> BoxFuture<'_, Result<Offers, RpcError>> {
        Box::pin(async {
            let inner = &self.inner;
            let (counts, within) = (*inner.lists.borrow(), inner.list_timeout);
            *inner.offered_at.lock().unwrap_or_else(PoisonError::into_inner) = counts;
            if let Some((when, offers)) = inner.offered().take()
                && when.same_offers(counts)
            {
                return Ok(offers);
            }
            inner.list(async |live| live.offers(within).await).await.map_err(|error| as_rpc_error(&error))
        })
    }

    fn offers_changed(&self) -> BoxFuture<'_, ListsChanged> {
        Box::pin(async {
            let known = *self.inner.offered_at.lock().unwrap_or_else(PoisonError::into_inner);
            ListCounts::other_offers(&self.inner.lists, known).await
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
        Box::pin(async move {
            let lease = match (inner.lifetime, &subscriber.session) {
                (Lifetime::Session, Some(session)) => {
                    inner.pool.of_session(session.key(), session.client_capabilities().get()).await
                }
                // Even where each call has a child of its own, one must stay to tell.
                _ => inner.pool.shared().await,
            };
            let lease = lease.map_err(|error| as_rpc_error(&error))?;
            inner.pool.subscribe(&lease, &uri, &subscriber.key, inner.list_timeout).await
        })
    }

    fn unsubscribe(&self, subscriber: &str, uri: &str) {
        self.inner.pool.unsubscribe(uri, subscriber);
    }

    fn release(&self, subscriber: &str) {
        self.inner.pool.release(subscriber);
    }

    fn updated(&self) -> BoxFuture<'_, Vec<Updated>> {
        Box::pin(self.inner.news.take_updated())
    }

    fn session_ended(&self, session: &str) {
        self.inner.pool.session_ended(session);
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let known = self.inner.listed_at.load(Ordering::SeqCst);
            ListCounts::are(&self.inner.lists, |counts| counts.tools != known).await;
        })
    }

    fn status(&self) -> Option<HostStatus> {
        Some(Self::status(self))
    }

    fn has_own_breaker(&self) -> bool {
        // Where nobody shares a child, one that hangs is the affair of whose it is.
        self.inner.lifetime != Lifetime::Pool
    }

    fn facts(&self, tool: &str) -> Option<&ToolFacts> {
        self.inner.facts.get(tool)
    }

    fn call_timeout_seconds(&self) -> u64 {
        self.inner.own_call_timeout
    }

    fn retire(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let ended = async {
                while self.status().calls > 0 {
                    tokio::time::sleep(RETIRE_LOOK).await;
                }
            };
            // A call may wait for a person for hours: it is told, as at the end of the server.
            let _ = tokio::time::timeout(RETIRE_WAIT, ended).await;
            self.inner.pool.close().await;
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.pool.close())
    }
}

/// Why a call has no answer.
struct Unanswered {
    why: String,
    /// It may be made again without being run twice.
    retry_safe: bool,
    kind: Kind,
}

/// What came in the way of an answer.
enum Kind {
    /// The child died; another one may do better.
    Died,
    /// There is no child, nor will there be one soon.
    Lasting,
    /// Its time was over.
    Late,
}

/// The child of one call.
enum Held {
    Leased(Lease),
    /// Nobody else's as long as the call runs.
    Reserved(Lease, #[expect(dead_code, reason = "it is given back when it is dropped")] Reservation),
    /// Nobody else's: it ends with the call.
    Own(Option<Arc<Live>>),
}

impl Inner {
    fn offered(&self) -> MutexGuard<'_, Option<(ListCounts, Offers)>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lists are the same for everybody. Where a child belongs to one client, tools can depend on what that client
    /// can do: then the list is that for a client that can do everything, and a child says which tool it lacks.
    async fn list<T>(
        &self,
        ask: impl AsyncFnOnce(&Live) -> Result<T, StartError>,
    ) -> Result<T, StartFailure> {
        let held = match self.lifetime {
            Lifetime::Session | Lifetime::Call => Held::own(self.pool.single(EVERYTHING).await?),
            Lifetime::Pool => Held::Leased(self.pool.shared().await?),
        };
        let listed = match held.live() {
            Some(live) => ask(&live).await,
            None => Err(self.pool.closed()),
        };
        held.done();
        listed.map_err(Arc::new)
    }

    /// A call of something that is no tool: what prevents an answer is an error.
    async fn ask(&self, errand: Errand<'_>, call: &Call) -> Result<Box<RawValue>, RpcError> {
        let failed = |why: &str, retry_safe: bool| {
            RpcError::internal(why.to_owned()).with_data(&serde_json::json!({ "retryable": retry_safe }))
        };
        tokio::select! {
            biased;
            () = call.cancel.cancelled() => Err(failed("the request was cancelled", true)),
            () = self.pool.closing.cancelled() => Err(failed(&self.pool.closed().to_string(), true)),
            answer = self.call(errand, call) => match answer {
                Ok(answer) => answer,
                Err(Unanswered { why, retry_safe, .. }) => Err(failed(&why, retry_safe)),
            },
        }
    }

    async fn call(
        &self,
        errand: Errand<'_>,
        call: &Call,
    ) -> Result<Result<Box<RawValue>, RpcError>, Unanswered> {
        // A child can die between the moment it is chosen and the moment it is written to. What was not sent was not
        // done, so another child gets it; once, so that a server that always dies is told of.
        let mut again = true;
        let _running = Counted::begin(&self.running);
        loop {
            let held = self.child_for(errand, call).await.map_err(|error| Unanswered {
                why: error.to_string(),
                retry_safe: true,
                kind: Kind::Lasting,
            })?;
            let Some(live) = held.live() else {
                return Err(Unanswered {
                    why: self.pool.closed().to_string(),
                    retry_safe: true,
                    kind: Kind::Lasting,
                });
            };
            let as_task = errand.of_tool().is_some_and(|tool| self.own_tasks.load().contains(tool));
            // Written while the call runs: it is known by the time of its answer.
            let session = call
                .session
                .as_ref()
                .filter(|_| matches!(held, Held::Leased(_)) && self.lifetime == Lifetime::Session);
            let (outcome, is_anew) = tokio::join!(
                live.call(errand, call, as_task, self.call_timeout),
                anew::had_one_before(&self.name, &live.introduced, session)
            );
            self.habits.learn(&errand.habit(), call.out.wanted_to_ask(), matches!(held, Held::Reserved(..)));
            return match outcome {
                Outcome::Answered(answer) => {
                    held.done();
                    Ok(match answer {
                        Ok(result) if is_anew => Ok(anew::tell(&self.name, call, result).await),
                        answer => answer,
                    })
                }
                Outcome::TimedOut => {
                    held.done();
                    Err(Unanswered {
                        why: self.timed_out(errand),
                        retry_safe: self.may_repeat(errand),
                        kind: Kind::Late,
                    })
                }
                Outcome::Died { death, sent: false } if std::mem::take(&mut again) => {
                    self.mourn_own(&held, &death);
                    continue;
                }
                Outcome::Died { death, sent } => {
                    self.mourn_own(&held, &death);
                    Err(self.died(errand, call, &death, sent))
                }
            };
        }
    }

    /// The pool does not see how the child of a single call ends.
    fn mourn_own(&self, held: &Held, death: &Death) {
        if matches!(held, Held::Own(_)) {
            self.pool.mourn(death);
        }
    }

    async fn child_for(&self, errand: Errand<'_>, call: &Call) -> Result<Held, StartFailure> {
        match (self.lifetime, &call.session) {
            (Lifetime::Call, session) => {
                let capabilities =
                    session.as_ref().map_or(EVERYTHING, |session| session.client_capabilities().get());
                self.pool.single(capabilities).await.map(Held::own)
            }
            (Lifetime::Session, Some(session)) => {
                let capabilities = session.client_capabilities().get();
                self.pool.of_session(session.key(), capabilities).await.map(Held::Leased)
            }
            (Lifetime::Session, None) | (Lifetime::Pool, _) => self.shared_child_for(errand, call).await,
        }
    }

    /// A question does not say which call it belongs to: a tool that asks gets a child of its own where it can be had.
    async fn shared_child_for(&self, errand: Errand<'_>, call: &Call) -> Result<Held, StartFailure> {
        let habit = self.habits.of(&errand.habit());
        if habit != Habit::Quiet
            && let Some((lease, reservation)) = self.pool.undisturbed(habit == Habit::Asks, &call.out).await?
        {
            return Ok(Held::Reserved(lease, reservation));
        }
        self.pool.shared().await.map(Held::Leased)
    }

    fn timed_out(&self, errand: Errand<'_>) -> String {
        format!(
            "server {:?}: {errand} gave no answer within {} s and was cancelled (call_timeout_seconds)",
            self.name,
            self.call_timeout.as_secs()
        )
    }

    fn died(&self, errand: Errand<'_>, call: &Call, death: &Death, sent: bool) -> Unanswered {
        let retry_safe = !sent || self.may_repeat(errand);
        let advice = match sent {
            false => "The call did not reach it; it is safe to call again.",
            true => errand.advice(retry_safe),
        };
        let loss = match (self.lifetime, &call.session) {
            (Lifetime::Session, Some(_)) => " What it kept for this session is lost.",
            _ => "",
        };
        Unanswered { why: format!("{death}\n{advice}{loss}"), retry_safe, kind: Kind::Died }
    }

    /// Tools say it of themselves; whatever else is asked for changes nothing.
    fn may_repeat(&self, errand: Errand<'_>) -> bool {
        errand.of_tool().is_none_or(|tool| self.repeatable.load().contains(tool))
    }
}

impl Held {
    fn own(live: Live) -> Self {
        Self::Own(Some(Arc::new(live)))
    }

    fn live(&self) -> Option<Arc<Live>> {
        match self {
            Self::Leased(lease) | Self::Reserved(lease, _) => Some(Arc::clone(&lease.live)),
            Self::Own(live) => live.clone(),
        }
    }

    /// The call is over in an orderly way: so its own child ends in an orderly way. In any other case it is killed.
    fn done(mut self) {
        if let Self::Own(live) = &mut self
            && let Some(live) = live.take()
        {
            stop_in_background(live);
        }
    }
}
