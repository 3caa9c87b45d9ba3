//! Sockets: bind or take over, and accept within a bound.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Public;
use super::serve::{Front, Limits, connection};
use crate::auth::Authenticate;
use crate::base::limits::{ACCEPT_BACKLOG, ACCEPT_PAUSE, SEND_BUFFER_BYTES};
use crate::config;
use crate::edge::{App, EdgeError, Endpoint};

/// A listener that stands, and accepts nothing yet: connections wait in the kernel's queue.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// Binds `server.listen`, or takes over a socket that was opened before this process started.
///
/// # Errors
/// [`EdgeError`]: an address beyond loopback without authentication, no address, or the system refuses.
pub async fn bind(
    settings: &config::Server,
    auth: &dyn Authenticate,
    inherited: Option<std::net::TcpListener>,
) -> Result<Bound, EdgeError> {
    let listener = match inherited {
        Some(listener) => {
            listener.set_nonblocking(true).map_err(EdgeError::Inherited)?;
            TcpListener::from_std(listener).map_err(EdgeError::Inherited)?
        }
        None => {
            let addresses = resolve("server.listen", &settings.listen).await?;
            for address in &addresses {
                admit(*address, settings, auth)?;
            }
            listen("server.listen", &addresses)?
        }
    };
    let address = listener.local_addr().map_err(EdgeError::Inherited)?;
    admit(address, settings, auth)?;
    Ok(Bound { listener, address })
}

fn admit(address: SocketAddr, settings: &config::Server, auth: &dyn Authenticate) -> Result<(), EdgeError> {
    let loopback = address.ip().to_canonical().is_loopback();
    if loopback || !auth.is_open() || settings.allow_open { Ok(()) } else { Err(EdgeError::Open { address }) }
}

/// The addresses that `HOST:PORT` means.
pub(crate) async fn resolve(setting: &'static str, value: &str) -> Result<Vec<SocketAddr>, EdgeError> {
    let refuse = |reason: String| EdgeError::Address { setting, value: value.to_owned(), reason };
    let found: Vec<SocketAddr> =
        lookup_host(value).await.map_err(|error| refuse(error.to_string()))?.collect();
    if found.is_empty() { Err(refuse("the name has no address".to_owned())) } else { Ok(found) }
}

/// Listens on the first of `addresses` that the system grants.
pub(crate) fn listen(setting: &'static str, addresses: &[SocketAddr]) -> Result<TcpListener, EdgeError> {
    let open = |address: SocketAddr| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for connections of the process before it to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(ACCEPT_BACKLOG)
    };
    let mut failure = None;
    for address in addresses {
        match open(*address) {
            Ok(listener) => return Ok(listener),
            Err(source) => failure = Some(EdgeError::Listen { setting, address: *address, source }),
        }
    }
    Err(failure.unwrap_or_else(|| EdgeError::Address {
        setting,
        value: String::new(),
        reason: "the name has no address".to_owned(),
    }))
}

impl Bound {
    /// The address that clients can connect to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `drain` fires; then accepts nothing more, ends streams, lets answers finish for
    /// `server.drain_seconds`, and cuts what is left. Resolves when no connection is left.
    pub async fn serve<E: Endpoint>(self, app: Arc<App<E>>, drain: CancellationToken) {
        let config = Arc::clone(&app.config);
        let limits = Limits::new(&config);
        let metrics = Arc::clone(&app.metrics);
        let public = Arc::new(Public::new(app, self.address, drain.clone()));
        let front = Front::new(public, limits, metrics, drain);
        accept(self.listener, front, config.server.max_connections).await;
    }
}

/// Accepts connections for `front`, at most `most` at a time, until its drain fires; resolves when all are gone.
pub(crate) async fn accept(listener: TcpListener, front: Front, most: usize) {
    let most = u32::try_from(most.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let slots = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS)));
    let front = Arc::new(front);
    // An address that is the same for all connections is not asked for with each.
    let fixed = listener.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified());
    let mut log = Bursts::default();
    loop {
        let next = async {
            let slot = slot(&slots, &mut log).await?;
            Some((slot, next_stream(&listener, &mut log).await))
        };
        let (slot, stream) = tokio::select! {
            biased;
            () = front.drain().cancelled() => break,
            next = next => match next {
                Some(next) => next,
                None => break,
            },
        };
        tune(&stream, front.limits().stall);
        let at = fixed.or_else(|| stream.local_addr().ok().map(|address| address.ip()));
        let at = at.unwrap_or(IpAddr::from([127, 0, 0, 1])).to_canonical();
        let front = Arc::clone(&front);
        tokio::spawn(async move {
            let left_open = connection(stream, at, front).await;
            // In a task of its own, which needs less room than that of a connection that takes requests.
            if let Some(left_open) = left_open {
                tokio::spawn(async move {
                    left_open.carry().await;
                    drop(slot);
                });
            }
        });
    }
    drop(listener);
    // Connections end by themselves within the bound of the drain; each gives its slot back.
    let _ = slots.acquire_many(most).await;
}

/// A slot is taken before a connection is accepted, so that the kernel's queue and the client see the limit.
async fn slot(slots: &Arc<Semaphore>, log: &mut Bursts) -> Option<OwnedSemaphorePermit> {
    if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        log.full = false;
        return Some(slot);
    }
    if !std::mem::replace(&mut log.full, true) {
        tracing::warn!("server.max_connections is reached: new connections wait until one ends");
    }
    Arc::clone(slots).acquire_owned().await.ok()
}

async fn next_stream(listener: &TcpListener, log: &mut Bursts) -> TcpStream {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                log.failing = false;
                return stream;
            }
            // The peer went away while it waited: its affair.
            Err(error)
                if matches!(
                    error.kind(),
                    ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
                ) => {}
            Err(error) => {
                if !std::mem::replace(&mut log.failing, true) {
                    tracing::warn!(
                        %error,
                        "connections cannot be accepted: raise the limit of open files, or lower server.max_connections"
                    );
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What was logged already of a trouble that lasts.
#[derive(Debug, Default)]
struct Bursts {
    full: bool,
    failing: bool,
}

/// Options of a connection. None is vital: a socket that refuses one is served without.
fn tune(stream: &TcpStream, stall: Duration) {
    let _ = stream.set_nodelay(true);
    // tcp(7): data that stays unacknowledged, or unsent because the peer's window is closed, for this long ends the
    // connection. This is what cuts a reader that takes nothing.
    let milliseconds = u32::try_from(stall.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER_BYTES);
}
