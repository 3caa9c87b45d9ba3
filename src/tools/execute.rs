//! How a call of a tool is run: everything that stands between the request for it and the host that does it.
//!
//! From the outside in, each step around the next:
//!
//! 1. counts (`registry::counted`)
//! 2. arguments against the tool's schema ([`validate`])
//! 3. equal calls and calls of one idempotency key become one ([`join`])
//! 4. the cache of results ([`cached`](super::cached)): it sees only what runs now, and keeps nothing that another step had
//! 5. the breaker of the backend ([`backend`])
//! 6. places of the principal and of the tool ([`places`])
//! 7. the call's time ([`deadline`])
//! 8. tries ([`retry`])
//! 9. the host
//! 10. the structured result against the tool's schema ([`validate`])
//!
//! Each step costs nothing where it has nothing to do: an echo pays for the validation of its arguments alone.

mod backend;
mod company;
mod deadline;
mod join;
pub mod key;
mod places;
mod retry;
mod rules;
#[cfg(test)]
mod testing;
mod validate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use self::backend::Backend;
use self::join::Joins;
use self::key::{Identity, Keyed};
use self::places::{Line, Principals};
use self::rules::Rules;
use self::validate::Schemas;
use super::cached::{self, Results};
use super::registry::Registered;
use super::{BoxFuture, Call, Host};
use crate::config;
use crate::rpc::error::RpcError;

/// How a call ends.
pub(crate) type Outcome = Result<Box<RawValue>, RpcError>;

/// By a host's name, and its own name of a tool.
type ByTool<T> = HashMap<(String, Arc<str>), Weak<T>>;

/// What the calls of one instance have in common.
pub(crate) struct Execution {
    settings: config::Tools,
    results: Arc<Results>,
    principals: Principals,
    joins: Joins,
    /// Places of tools, by server and own name. They outlast the lists: a tool that is listed anew has the same.
    lines: Mutex<ByTool<Line>>,
    /// Breakers of tools whose children everybody shares.
    backends: Mutex<ByTool<Backend>>,
}

impl Execution {
    /// By these settings, with results kept here.
    pub(crate) fn new(settings: &config::Tools, results: Arc<Results>) -> Arc<Self> {
        Arc::new(Self {
            settings: settings.clone(),
            results,
            principals: Principals::new(settings.max_concurrent_per_principal),
            joins: Joins::new(Duration::from_secs(settings.join_window_seconds)),
            lines: Mutex::default(),
            backends: Mutex::default(),
        })
    }

    /// From now on it is kept there what became of calls with idempotency keys. Once.
    pub(crate) fn keep_in(&self, keyed: Arc<dyn Keyed>) {
        self.joins.keep_in(keyed);
    }

    /// How the calls of a listed tool are run.
    pub(crate) fn plan(self: &Arc<Self>, tool: &Registered) -> Arc<Plan> {
        let rules = Rules::of(tool, &self.settings);
        Arc::new(Plan {
            schemas: Schemas::of(tool, rules.validate),
            line: self.line(tool, rules.max_concurrent),
            backend: self.backend(tool),
            cached: self.results.is_on().then(|| cached::Rules::of(tool)).flatten(),
            execution: Arc::clone(self),
            name: Arc::from(tool.tool.name.as_str()),
            host: Arc::clone(&tool.host),
            host_tool: Arc::clone(&tool.host_tool),
            repeatable: tool.repeatable,
            rules,
        })
    }

    fn line(&self, tool: &Registered, most: usize) -> Option<Arc<Line>> {
        if most == 0 {
            return None;
        }
        let key = (tool.host.name().to_owned(), Arc::clone(&tool.host_tool));
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|_, line| line.strong_count() > 0);
        let known = lines.get(&key).and_then(Weak::upgrade).filter(|line| line.most() == most);
        let line = known.unwrap_or_else(|| Line::new(most));
        lines.insert(key, Arc::downgrade(&line));
        Some(line)
    }

    fn backend(&self, tool: &Registered) -> Option<Arc<Backend>> {
        if !tool.hosted || tool.host.has_own_breaker() {
            return None;
        }
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends.retain(|_, backend| backend.strong_count() > 0);
        // One tool that takes too long says nothing of the others.
        let key = (tool.host.name().to_owned(), Arc::clone(&tool.host_tool));
        let known = backends.get(&key).and_then(Weak::upgrade);
        // One that took the place of another of the same name is another backend.
        let known = known.filter(|backend| backend.is_of(&tool.host));
        let backend = known.unwrap_or_else(|| Backend::new(&tool.host, &tool.host_tool));
        backends.insert(key, Arc::downgrade(&backend));
        Some(backend)
    }
}

/// How the calls of one tool are run.
pub(crate) struct Plan {
    execution: Arc<Execution>,
    /// The tool's public name.
    name: Arc<str>,
    host: Arc<dyn Host>,
    /// The host's own name of it.
    host_tool: Arc<str>,
    /// Running it twice does no harm.
    repeatable: bool,
    rules: Rules,
    schemas: Schemas,
    /// How its results are kept; none: they are not.
    cached: Option<cached::Rules>,
    /// Its places; none: there is no limit.
    line: Option<Arc<Line>>,
    /// The breaker of its host; none: the host has its own, or needs none.
    backend: Option<Arc<Backend>>,
}

/// Runs a call of a listed tool.
pub(crate) fn run(plan: &Arc<Plan>, call: Call) -> BoxFuture<'static, Outcome> {
    let plan = Arc::clone(plan);
    Box::pin(async move {
        if let Err(refused) = plan.schemas.check_arguments(&plan, &call).await {
            return refused;
        }
        match Identity::of(&plan, &call)? {
            Some(identity) => join::run(&plan, identity, call).await,
            None => plan.run_cached(call).await,
        }
    })
}

impl Plan {
    /// Whether equal calls become one without a key. Those that the cache looks for it joins itself: what is voided there
    /// must not come back from here.
    fn joins_equals(&self) -> bool {
        self.repeatable
            && self.execution.settings.join_window_seconds > 0
            && !self.cached.as_ref().is_some_and(cached::Rules::is_looked_for)
    }

    /// From the cache, else runs it.
    async fn run_cached(self: &Arc<Self>, call: Call) -> Outcome {
        let Some(rules) = &self.cached else { return self.run_once(call).await };
        let plan = Arc::clone(self);
        // What the cache has needs nothing of what follows.
        let run =
            |call| -> BoxFuture<'static, Outcome> { Box::pin(async move { plan.run_once(call).await }) };
        self.execution.results.answer(rules, self.schemas.wants_result(&call), call, run).await
    }

    /// From the breaker on: runs a call that is nobody else's.
    async fn run_once(self: &Arc<Self>, call: Call) -> Outcome {
        let admitted = match &self.backend {
            Some(backend) => match backend.admit() {
                Ok(admitted) => Some(admitted),
                Err(refused) => return refused,
            },
            None => None,
        };
        let cancel = call.cancel.clone();
        // Of both places together.
        let until = Instant::now() + self.rules.queue;
        let outcome = {
            let _own = match self.execution.principals.place(until, &call).await {
                Ok(place) => place,
                Err(refused) => return refused,
            };
            let _place = match &self.line {
                Some(line) => match line.place(&self.name, until, &call).await {
                    Ok(place) => Some(place),
                    Err(refused) => return refused,
                },
                None => None,
            };
            let form = self.schemas.wants_result(&call);
            let outcome = deadline::run(self, call).await;
            match form {
                true => self.schemas.check_result(self, outcome).await,
                false => outcome,
            }
        };
        // Dropped, it says nothing of the backend: what a host says of a call that was given up is no answer.
        if let Some(admitted) = admitted.filter(|_| !cancel.is_cancelled()) {
            admitted.ended(&outcome);
        }
        outcome
    }
}
