//! One life of the server on stdin and stdout: for a client that starts it by itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::run::{CLOSE, Signals, close_store, raise_descriptor_limit, runtime, tick};
use super::settings::{Settings, check_here, log_format};
use super::sharing::Sharing;
use super::{Failure, hosts};
use crate::auth::Principal;
use crate::base::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::edge;
use crate::engine::Engine;
use crate::store::{Store, StoreError};
use crate::telemetry::{log, metrics};
use crate::tools::registry::Registry;

/// Serves until stdin ends, or a signal says to end.
pub(crate) fn serve(settings: &Settings) -> Result<(), Failure> {
    let loaded = settings.load()?;
    check_here(&loaded)?;
    let settings = &loaded.config.log;
    let _logs = log::start(log_format(settings.format), &settings.level)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    raise_descriptor_limit();
    let runtime = runtime()?;
    let outcome = runtime.block_on(talk(&loaded.config));
    // A read of stdin cannot be called off: the process ends without it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

async fn talk(config: &Config) -> Result<(), Failure> {
    let mut signals = Signals::install()?;
    let clock: SharedClock = Arc::new(SystemClock::default());
    let store = open(config, &clock).await?;
    let sharing = Sharing::start(config, &store, &clock, metrics::of_process()).await?;
    let registry = Registry::start_with(hosts::sources(config, store.keys())?, &config.tools);
    let engine = Engine::start(config, Arc::clone(&store), Arc::clone(&registry), clock)
        .await
        .context("the log of broadcasts cannot be read")?;
    let healing = tokio::spawn(Arc::clone(&store).run_sharing());
    sharing.first_contact().await;
    engine.resume_tasks().await.context("the tasks of the store cannot be read")?;
    let upkeep =
        tokio::spawn(tick(Arc::clone(&engine), Arc::clone(&store), Arc::clone(metrics::of_process())));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "outlast serves MCP on stdin and stdout");
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    let waiting = tokio::spawn(async move {
        let name = signals.end.next().await;
        tracing::info!(signal = name, "ending");
        signalled.cancel();
    });
    // Whoever started this process is who calls.
    let principal = Arc::new(Principal::new("stdio"));
    let linger = Duration::from_secs(config.server.drain_seconds);
    let served = edge::stdio::serve(
        Arc::clone(&engine),
        principal,
        tokio::io::stdin(),
        tokio::io::stdout(),
        config.server.max_body_bytes,
        linger,
        &stop,
    )
    .await;
    waiting.abort();
    engine.drain(Duration::from_secs(1)).await;
    upkeep.abort();
    if tokio::time::timeout(CLOSE, registry.close()).await.is_err() {
        tracing::warn!("some hosted servers did not end in time");
    }
    sharing.end().await;
    healing.abort();
    close_store(&store).await?;
    Ok(served.context("stdin or stdout failed")?)
}

/// The store of the data directory; one in memory when another process, a server most likely, holds the directory:
/// several clients may each start this command.
async fn open(config: &Config, clock: &SharedClock) -> Result<Arc<Store>, Failure> {
    let durable = (!config.store.ephemeral).then_some(&config.store);
    match Store::open(durable, &config.sessions, Arc::clone(clock)).await {
        Ok(store) => Ok(store),
        Err(StoreError::InUse(text)) => {
            tracing::warn!("{text}; this process keeps its sessions in memory");
            Ok(Store::open(None, &config.sessions, Arc::clone(clock)).await.context("the store in memory")?)
        }
        Err(error) => Err(anyhow::Error::from(error).context("the store cannot be opened").into()),
    }
}
