//! One life of the server: built bottom up, serving until a signal, taken down in the opposite order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::counts::{EdgeCounts, take_stock};
use super::notice::Notice;
use super::settings::{Settings, check_here, log_format};
use super::sharing::Sharing;
use super::{Failure, admin_token, bridge_texts, health, hosts, reload, systemd};
use crate::auth::token::Tokens;
use crate::auth::{Authenticate, Open};
use crate::base::clock::{SharedClock, SystemClock};
use crate::config::source::Loaded;
use crate::config::{Auth, Config};
use crate::edge;
use crate::engine::Engine;
use crate::store::Store;
use crate::telemetry::log::{self, Logs};
use crate::telemetry::metrics::{self, Metrics};
use crate::tools::registry::Registry;

/// Between two rounds of the engine's periodic work.
const TICK: Duration = Duration::from_secs(1);
/// How often sessions whose time is up are looked for.
const SWEEP: Duration = Duration::from_secs(2);
/// What closing connections may take beyond `server.drain_seconds`: to write the ends of streams.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// What ending the children and closing the store may take, each.
pub(crate) const CLOSE: Duration = Duration::from_secs(10);

/// Serves until a signal says to end.
pub(crate) fn serve(settings: Settings) -> Result<(), Failure> {
    let loaded = settings.load()?;
    check_here(&loaded)?;
    let log = &loaded.config.log;
    let logs =
        log::start(log_format(log.format), &log.level).map_err(|error| Failure::Usage(error.to_string()))?;
    raise_descriptor_limit();
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let signals = Signals::install()?;
        let server = Server::start(&loaded).await?;
        server.run(signals, &settings, &loaded, &logs).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// One worker per processor that this process may use.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("outlast")
        .build()
        .context("the runtime cannot be started")
}

/// A server that accepts requests.
struct Server {
    config: Arc<Config>,
    store: Arc<Store>,
    sharing: Sharing,
    /// Looks after what is shared.
    healing: JoinSet<()>,
    registry: Arc<Registry>,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    /// Fires when no new request is to be taken.
    drain: CancellationToken,
    /// Whoever answers requests; each ends when drained.
    listeners: JoinSet<()>,
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    /// What the command line reads; none where there is no directory for it.
    notice: Option<Notice>,
}

impl Server {
    async fn start(loaded: &Loaded) -> Result<Self, Failure> {
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let config = Arc::new(loaded.config.clone());
        let clock: SharedClock = Arc::new(SystemClock::default());
        let metrics = Arc::clone(metrics::of_process());
        metrics.start_time_seconds.set(Duration::from_millis(clock.now_ms()).as_secs_f64());
        let inherited = systemd::inherited()?;

        let durable = (!config.store.ephemeral).then_some(&config.store);
        let store =
            Store::open(durable, &config.sessions, Arc::clone(&clock)).await.with_context(
                || match durable {
                    Some(store) => format!("the data directory {}", store.data_dir.display()),
                    None => "the store in memory".to_owned(),
                },
            )?;
        // From here on whatever fails must close the store, so that the next start finds it clean.
        match Self::on_store(&config, Arc::clone(&store), clock, metrics, inherited).await {
            Ok(server) => Ok(server),
            Err(failure) => {
                close_store(&store).await.unwrap_or_else(|error| tracing::error!("{error:#}"));
                Err(failure)
            }
        }
    }

    async fn on_store(
        config: &Arc<Config>,
        store: Arc<Store>,
        clock: SharedClock,
        metrics: Arc<Metrics>,
        inherited: Option<std::net::TcpListener>,
    ) -> Result<Self, Failure> {
        let auth = authentication(&config.auth);
        let bound =
            edge::http::bind(&config.server, auth.as_ref(), inherited).await.map_err(cannot_listen)?;
        let admin_listener = match keeps_admin_token(config) {
            true => edge::admin::bind(&config.admin).await.map_err(cannot_listen)?,
            false => None,
        };
        let admin_address = admin_listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let admin = match admin_listener {
            Some(listener) => Some((listener, load_token(&config.store.data_dir).await?)),
            None => None,
        };
        let sharing = Sharing::start(config, &store, &clock, &metrics).await?;
        let registry = Registry::start_with(hosts::sources(config, store.keys())?, &config.tools);
        let engine = Engine::start(config, Arc::clone(&store), Arc::clone(&registry), clock)
            .await
            .context("the log of broadcasts cannot be read")?;
        // Only from here on is there anybody who could be told of what happens elsewhere.
        let mut healing = JoinSet::new();
        healing.spawn(Arc::clone(&store).run_sharing());
        sharing.first_contact().await;
        engine.resume_tasks().await.context("the tasks of the store cannot be read")?;
        let drain = CancellationToken::new();
        let look = {
            let (store, registry, drain) = (Arc::clone(&store), Arc::clone(&registry), drain.clone());
            let sharing = sharing.clone();
            Arc::new(move || health::look(&store, &registry, &sharing, &drain))
        };
        let app = Arc::new(edge::App {
            engine: Arc::clone(&engine),
            auth,
            config: Arc::clone(config),
            health: look,
            metrics: Arc::new(EdgeCounts::new(Arc::clone(&metrics))),
            bridge: bridge_texts::read(config)?,
        });
        let address = bound.local_addr();
        let mut listeners = JoinSet::new();
        listeners.spawn(bound.serve(Arc::clone(&app), drain.clone()));
        if let Some((listener, token)) = admin {
            listeners.spawn(edge::admin::serve(listener, app, token, drain.clone()));
        }
        let notice = leave_notice(config, admin_address).await;
        let config = Arc::clone(config);
        Ok(Self {
            config,
            store,
            sharing,
            healing,
            registry,
            engine,
            metrics,
            drain,
            listeners,
            address,
            admin_address,
            notice,
        })
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    async fn run(
        mut self,
        mut signals: Signals,
        settings: &Settings,
        loaded: &Loaded,
        logs: &Logs,
    ) -> Result<(), Failure> {
        let mut upkeep = JoinSet::new();
        upkeep.spawn(tick(Arc::clone(&self.engine), Arc::clone(&self.store), Arc::clone(&self.metrics)));
        upkeep.spawn(sweep(Arc::clone(&self.store)));
        let every = Duration::from_secs(self.config.store.backup_seconds);
        upkeep.spawn(Arc::clone(&self.store).run_backups(every));
        if let Some(every) = systemd::watchdog_interval() {
            upkeep.spawn(pat_watchdog(Arc::clone(&self.store), every));
        }
        self.announce(logs);
        let status = format!("serving {}", self.url());
        systemd::ready(&status);
        let mut reloaded = reload::Reloaded {
            settings,
            started: loaded,
            running: loaded.clone(),
            logs,
            registry: Arc::clone(&self.registry),
        };
        let ended = loop {
            tokio::select! {
                name = signals.end.next() => {
                    tracing::info!(signal = name, "ending");
                    break Ok(());
                }
                Some(()) = signals.hang_up.recv() => reloaded.reload(&status).await,
                Some(_) = self.listeners.join_next() => {
                    break Err(anyhow::anyhow!("a listener ended by itself").into());
                }
            }
        };
        systemd::stopping();
        tokio::select! {
            drained = self.drain() => {
                drop(upkeep);
                ended.and(drained)
            }
            name = signals.end.next() => {
                tracing::warn!(signal = name, "ending at once, by the second signal");
                Err(anyhow::anyhow!("ended before everything was drained, by a second signal").into())
            }
        }
    }

    /// Ends streams resumably, lets calls finish, ends the children, closes the store.
    async fn drain(mut self) -> Result<(), Failure> {
        self.drain.cancel();
        let at_most = Duration::from_secs(self.config.server.drain_seconds);
        let calls = self.engine.drain(at_most);
        let connections = async { while self.listeners.join_next().await.is_some() {} };
        if timeout(at_most + DRAIN_GRACE, async { tokio::join!(calls, connections) }).await.is_err() {
            tracing::warn!("some connections or calls had to be cut; streams of sessions can be resumed");
        }
        self.listeners.shutdown().await;
        if timeout(CLOSE, self.registry.close()).await.is_err() {
            tracing::warn!("some hosted servers did not end in time");
        }
        // While the directory is still held: nobody takes it for the notice of another server.
        if let Some(notice) = self.notice.take() {
            let data_dir = self.config.store.data_dir.clone();
            let _ = tokio::task::spawn_blocking(move || notice.remove(&data_dir)).await;
        }
        self.sharing.end().await;
        self.healing.shutdown().await;
        close_store(&self.store).await?;
        tracing::info!("ended");
        Ok(())
    }

    fn url(&self) -> String {
        format!("http://{}/mcp", reachable(self.address))
    }

    fn announce(&self, logs: &Logs) {
        let url = self.url();
        let admin =
            self.admin_address.map_or_else(|| "none".to_owned(), |at| format!("http://{}", reachable(at)));
        let everywhere = if self.address.ip().is_unspecified() { ", on every address" } else { "" };
        let data = match self.config.store.ephemeral {
            true => "in memory only".to_owned(),
            false => self.config.store.data_dir.display().to_string(),
        };
        let mode = self.sharing.mode();
        let version = env!("CARGO_PKG_VERSION");
        let line = format!(
            "outlast {version} serves MCP at {url}{everywhere} (mode: {mode}, data: {data}, admin: {admin})"
        );
        let fields = [
            ("version", version),
            ("url", url.as_str()),
            ("mode", mode),
            ("data_dir", data.as_str()),
            ("admin", admin.as_str()),
        ];
        logs.announce(&line, &fields);
    }
}

/// The signals that are listened to.
pub(crate) struct Signals {
    pub(crate) end: EndSignals,
    hang_up: Signal,
}

/// SIGTERM and SIGINT.
pub(crate) struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn install() -> anyhow::Result<Self> {
        let install = |kind| signal(kind).context("signal handlers cannot be installed");
        let end = EndSignals {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        };
        Ok(Self { end, hang_up: install(SignalKind::hangup())? })
    }
}

impl EndSignals {
    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

pub(crate) async fn tick(engine: Arc<Engine>, store: Arc<Store>, metrics: Arc<Metrics>) {
    let mut ticks = interval(TICK);
    // Rounds that a slow disk made late are not made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        engine.tick().await;
        take_stock(&metrics, &engine, &store);
    }
}

/// Removes sessions whose time is up. On its own, because a disk with much to remove takes its time.
async fn sweep(store: Arc<Store>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match store.sweep().await {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(removed, "sessions whose time was up are removed"),
            // What is wrong with the disk is said where it is found; the next round tries again.
            Err(error) => tracing::debug!(%error, "sessions whose time is up could not be removed"),
        }
    }
}

/// Says that the server is alive for as long as the runtime runs this task and the store answers.
async fn pat_watchdog(store: Arc<Store>, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if health::store_answers(&store).await {
            systemd::alive();
        } else {
            tracing::error!("the store does not answer; the service manager will restart the server");
        }
    }
}

pub(crate) async fn close_store(store: &Store) -> anyhow::Result<()> {
    match timeout(CLOSE, store.close()).await {
        Ok(closed) => closed.context("the store could not be closed"),
        Err(_) => anyhow::bail!("the store did not close within {} seconds", CLOSE.as_secs()),
    }
}

/// Whoever keeps nothing on disk has no place for a token, unless one is named.
fn keeps_admin_token(config: &Config) -> bool {
    !config.store.ephemeral || !config.store.data_dir.as_os_str().is_empty()
}

async fn load_token(data_dir: &Path) -> anyhow::Result<Arc<str>> {
    let data_dir = data_dir.to_owned();
    let load = move || {
        std::fs::create_dir_all(&data_dir)
            .with_context(|| format!("{} cannot be made", data_dir.display()))?;
        admin_token::load_or_create(&data_dir)
    };
    tokio::task::spawn_blocking(load).await?
}

/// Tells the command line where the admin listener is. A server whose directory takes no file serves all the same.
async fn leave_notice(config: &Config, admin: Option<SocketAddr>) -> Option<Notice> {
    let (data_dir, ephemeral) = (config.store.data_dir.clone(), config.store.ephemeral);
    // Who keeps nothing on disk may not even have the directory.
    if data_dir.as_os_str().is_empty() || (ephemeral && admin.is_none()) {
        return None;
    }
    let notice = Notice { pid: std::process::id(), address: admin.map(reachable), ephemeral };
    let leave = move || match notice.write(&data_dir) {
        Ok(()) => Some(notice),
        Err(error) => {
            tracing::warn!(%error, "the data directory takes no file: `outlast sessions` will not find this server");
            None
        }
    };
    tokio::task::spawn_blocking(leave).await.ok().flatten()
}

fn authentication(auth: &Auth) -> Arc<dyn Authenticate> {
    if auth.tokens.is_empty() {
        return Arc::new(Open::default());
    }
    let tokens = auth.tokens.iter().filter_map(|token| {
        // Checked to be 64 digits when the configuration was loaded.
        let hash = hash_of(token.sha256.expose_secret())?;
        Some((hash, token.principal.clone()))
    });
    Arc::new(Tokens::new(tokens))
}

/// 32 bytes from 64 hexadecimal digits.
fn hash_of(digits: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        let digit =
            |character: u8| char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(*high)? * 16 + digit(*low)?;
    }
    Some(hash)
}

fn cannot_listen(error: edge::EdgeError) -> Failure {
    match error {
        edge::EdgeError::Open { .. } | edge::EdgeError::Address { .. } => Failure::Usage(error.to_string()),
        edge::EdgeError::Listen { .. } | edge::EdgeError::Inherited(_) => Failure::Failed(error.into()),
    }
}

/// An address to connect to: a listener on every address is reached over loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Each connection is a descriptor, and the usual soft limit is 1,024.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Err(error) = raised {
        tracing::warn!(%error, limit = ?limit.current, "the limit of open files cannot be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StaticToken;

    #[test]
    fn a_hash_is_read_from_its_digits_and_from_nothing_else() {
        let digits = "00ff".repeat(16);
        assert_eq!(hash_of(&digits).unwrap()[..4], [0, 255, 0, 255]);
        assert_eq!(hash_of(&digits.to_uppercase()), hash_of(&digits));
        for bad in ["", "00", &"0g".repeat(32), &"0".repeat(63), &"0".repeat(65)] {
            assert_eq!(hash_of(bad), None);
        }
    }

    #[test]
    fn configured_tokens_close_the_door() {
        assert!(authentication(&Auth::default()).is_open());
        let sha256 = crate::base::seal::hex(&crate::base::seal::sha256(b"hush")).into();
        let auth = authentication(&Auth { tokens: vec![StaticToken { principal: "alice".into(), sha256 }] });
        assert!(!auth.is_open());
        assert_eq!(auth.authenticate(Some("Bearer hush")).unwrap().name.as_ref(), "alice");
        assert!(auth.authenticate(Some("Bearer other")).is_err());
    }

    #[test]
    fn the_address_for_clients_can_be_connected_to() {
        for (bound, shown) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), shown);
        }
    }
}
