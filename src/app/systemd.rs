//! The service manager: readiness, status, watchdog, sockets that it opened for us. Without one, all of it does
//! nothing.

use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;

/// The socket of `systemd/outlast.socket`.
const SOCKET: &str = "outlast.socket";

/// The port accepts and the store is open.
pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is read again; [`ready`] ends it.
pub(crate) fn reloading() {
    // systemd wants the time with the word (sd_notify(3)); without a clock it would count the reload as failed.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// The server ends.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// The server is alive.
pub(crate) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is to be said: half of what the service manager waits for.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2).filter(|interval| !interval.is_zero())
}

/// The listening socket that the service manager opened: the one called [`SOCKET`], else the first.
///
/// # Errors
/// It is no listening TCP socket, or the variables that describe it are broken.
pub(crate) fn inherited() -> anyhow::Result<Option<TcpListener>> {
    let sockets: Vec<(RawFd, String)> =
        sd_notify::listen_fds_with_names().context("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES")?.collect();
    let Some((fd, name)) = sockets.iter().find(|(_, name)| name == SOCKET).or(sockets.first()) else {
        return Ok(None);
    };
    let socket = own(*fd);
    let listening = rustix::net::sockopt::socket_acceptconn(&socket);
    anyhow::ensure!(
        listening.is_ok_and(|yes| yes),
        "the inherited descriptor {fd} ({name}) is no listening socket"
    );
    let listener = TcpListener::from(socket);
    listener.local_addr().with_context(|| format!("the inherited socket {fd} ({name}) is no TCP socket"))?;
    if sockets.len() > 1 {
        tracing::warn!(used = %name, sockets = sockets.len(), "more than one socket was inherited; the others are not served");
    }
    Ok(Some(listener))
}

#[expect(unsafe_code, reason = "a descriptor that was passed by number can be taken over in no other way")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: LISTEN_PID says that this process was given the descriptor, sd-notify has just set a flag on it, so it
    // is open; it is taken once, before any other code could have found it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be reached");
    }
}
