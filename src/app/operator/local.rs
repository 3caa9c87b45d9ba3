//! A data directory on which no server runs, opened by this process: the admin listener's answers without a listener.

use std::io::Cursor;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{Request, Response};
use tokio::runtime::Runtime;

use super::{Ask, Lines, Trouble};
use crate::app::counts::EdgeCounts;
use crate::app::run::CLOSE;
use crate::app::{Failure, hosts};
use crate::auth::Open;
use crate::base::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::edge::{self, Health};
use crate::engine::Engine;
use crate::store::Store;
use crate::store::absent::Absent;
use crate::telemetry::{log, metrics};
use crate::tools::registry::Registry;

/// The directory, open; or the tools alone, over a store in memory.
pub(crate) struct Local {
    runtime: Runtime,
    store: Arc<Store>,
    registry: Arc<Registry>,
    app: edge::App,
}

impl Local {
    /// Takes the data directory of `config`. Makes none.
    pub(crate) fn open(config: &Config) -> Result<Self, Failure> {
        let dir = &config.store.data_dir;
        check(dir)?;
        // What opening it finds wrong is worth saying: a database that had to be set aside, writes that were lost.
        let _ = log::start(log::Format::Text, "warn");
        let runtime = runtime()?;
        let (store, registry, app) = runtime.block_on(build(config, Over::Directory))?;
        Ok(Self { runtime, store, registry, app })
    }

    /// Starts the hosts of `config` for itself. The data directory stays untouched.
    pub(crate) fn with_hosts(config: &Config) -> Result<Self, Failure> {
        let _ = log::start(log::Format::Text, "warn");
        let runtime = runtime()?;
        let (store, registry, app) = runtime.block_on(build(config, Over::Hosts))?;
        Ok(Self { runtime, store, registry, app })
    }
}

impl Ask for Local {
    fn ask(&mut self, request: &Request<Bytes>) -> Result<Response<Bytes>, Trouble> {
        Ok(self.runtime.block_on(edge::admin::answer(&self.app, request)))
    }

    fn stream(&mut self, request: &Request<Bytes>) -> Result<Response<Lines>, Trouble> {
        // None goes on without a server; the answer says so.
        self.ask(request).map(|answer| answer.map(|body| Box::new(Cursor::new(body)) as Lines))
    }

    fn address(&self) -> Option<SocketAddr> {
        None
    }

    fn end(self: Box<Self>) -> anyhow::Result<()> {
        let Self { runtime, store, registry, app } = *self;
        let closed = runtime.block_on(async {
            // What does not end by then is killed as this process ends.
            let _ = tokio::time::timeout(CLOSE, registry.close()).await;
            store.close().await
        });
        drop(app);
        runtime.shutdown_background();
        closed.context("the store could not be closed")
    }
}

/// What is opened.
enum Over {
    /// The data directory. No tools: nothing is called here.
    Directory,
    /// The tools, and nothing that is kept.
    Hosts,
}

fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().context("the runtime cannot be started")
}

async fn build(config: &Config, over: Over) -> Result<(Arc<Store>, Arc<Registry>, edge::App), Failure> {
    let clock: SharedClock = Arc::new(SystemClock::default());
    let dir = config.store.data_dir.display();
    let durable = matches!(over, Over::Directory).then_some(&config.store);
    let store = Store::open(durable, &config.sessions, Arc::clone(&clock))
        .await
        .with_context(|| format!("the data directory {dir}"))?;
    if store.was_shared() {
        // Redis is not asked: the server pays what is written here when it runs again.
        store.attach(Arc::new(Absent), false).await.with_context(|| format!("the data directory {dir}"))?;
    }
    let sources = match over {
        Over::Directory => Vec::new(),
        Over::Hosts => hosts::sources(config, store.keys())?,
    };
    let registry = Registry::start_with(sources, &config.tools);
    let config = Arc::new(config.clone());
    // Whoever looks must not tell the clients of a server that its lists are empty.
    let engine = match Engine::over(&config, Arc::clone(&store), Arc::clone(&registry), clock).await {
        Ok(engine) => engine,
        Err(error) => {
            let _ = store.close().await;
            return Err(anyhow!(error).context("the log of broadcasts cannot be read").into());
        }
    };
    let trouble = Arc::clone(&store);
    let health = move || Health {
        ready: false,
        status: "stopped",
        checks: vec![("store".into(), trouble.trouble().map_or(Ok(()), |error| Err(error.to_string())))],
        mode: "local",
        redis: None,
    };
    let app = edge::App {
        engine,
        auth: Arc::new(Open::default()),
        config,
        health: Arc::new(health),
        metrics: Arc::new(EdgeCounts::new(Arc::clone(metrics::of_process()))),
        bridge: edge::BridgeTexts::default(),
    };
    Ok((store, registry, app))
}

/// A mistyped path must not become a data directory, and files of another user would keep the server from starting.
fn check(dir: &Path) -> anyhow::Result<()> {
    let found = std::fs::metadata(dir).with_context(|| {
        format!("there is no data directory {}: name it with --data-dir or --config", dir.display())
    })?;
    anyhow::ensure!(
        dir.join("format").exists(),
        "{} is no data directory of Outlast: name it with --data-dir or --config",
        dir.display()
    );
    let (owner, own) = (found.uid(), rustix::process::geteuid().as_raw());
    anyhow::ensure!(
        owner == own,
        "{} belongs to user {owner}, and no server runs on it: run this as that user (files of user {own} in there \
         would keep the server from starting), or start the server",
        dir.display()
    );
    Ok(())
}
