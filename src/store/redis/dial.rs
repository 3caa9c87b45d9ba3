//! Connections to one server: TCP or TLS, authenticated, RESP3, with nothing between us and the socket that retries.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, ProtocolVersion, PushInfo, RedisConnectionInfo, Value};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::failure::{Class, Failure};
use crate::base::limits::REDIS_PIPELINE;
use crate::config;
use crate::config::redis::{RedisKind, RedisTarget};
use crate::state::link::Cause;

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Server,
    Sentinel,
}

/// A host and a port.
pub(super) type Place = (String, u16);

/// What a push is handed to.
pub(super) type Pushed = Box<dyn Fn(PushInfo) + Send + Sync>;

/// Makes connections.
pub(super) struct Dialer {
    pub(super) target: RedisTarget,
    settings: config::Redis,
    tls: Option<TlsConnector>,
    pub(super) connect: Duration,
    pub(super) deadline: Duration,
}

/// One connection; it ends when this is dropped.
pub(super) struct Pipe {
    pub(super) connection: MultiplexedConnection,
    /// The socket's other end.
    pub(super) peer: SocketAddr,
    driver: AbortHandle,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Pipe {
    /// Sends one command and waits for its answer until the deadline.
    pub(super) async fn ask(&self, command: &Cmd, deadline: Duration) -> Result<Value, Asked> {
        let mut connection = self.connection.clone();
        match timeout(deadline, connection.req_packed_command(command)).await {
            Err(_) => Err(Asked::Missed),
            Ok(answer) => answer.and_then(Value::extract_error).map_err(|error| Asked::Failed(error.into())),
        }
    }
}

/// Why a command has no answer.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// The deadline passed.
    Missed,
    /// It failed.
    Failed(Failure),
}

impl Asked {
    pub(super) fn into_failure(self, deadline: Duration) -> Failure {
        match self {
            Self::Missed => Failure::new(
                Class::Hard(Cause::Timeout),
                format!("no answer within {} ms", deadline.as_millis()),
            ),
            Self::Failed(failure) => failure,
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Dialer {
    /// # Errors
    /// What is wrong with the address or the certificates, and what to do.
    pub(super) fn new(settings: &config::Redis) -> Result<Self, String> {
        let target = settings.target().map_err(|(key, message)| format!("{key}: {message}"))?;
        let tls = match target.tls {
            true => Some(tls(&settings.ca_file)?),
            false => None,
        };
        Ok(Self {
            target,
            settings: settings.clone(),
            tls,
            connect: Duration::from_millis(settings.connect_ms),
            deadline: Duration::from_millis(settings.deadline_ms),
        })
    }

    /// A connection to the server at `place`.
    pub(super) async fn dial(
        &self,
        place: &Place,
        whom: Whom,
        pushed: Option<Pushed>,
    ) -> Result<Pipe, Failure> {
        let (host, port) = place;
        let dialed = timeout(self.connect, self.open(host, *port, whom, pushed)).await;
        let late = || {
            let ms = self.connect.as_millis();
            Failure::new(Class::Lost, format!("no connection to {host}:{port} within {ms} ms"))
        };
        dialed.unwrap_or_else(|_| Err(late()))
    }

    async fn open(&self, host: &str, port: u16, whom: Whom, pushed: Option<Pushed>) -> Result<Pipe, Failure> {
        let unreachable = |error: std::io::Error| {
            Failure::new(Class::Lost, format!("{host}:{port} cannot be reached: {error}; check the address"))
        };
        let tcp = TcpStream::connect((host, port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        // A peer that vanished is noticed by probes; this lets go of the socket.
        let _ = rustix::net::sockopt::set_socket_keepalive(&tcp, true);
        let peer = tcp.peer_addr().map_err(unreachable)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|_| {
                    Failure::new(Class::Hard(Cause::Unfit), format!("{host:?} is no name of a certificate"))
                })?;
                Box::new(tls.connect(name, tcp).await.map_err(|error| {
                    let text = format!(
                        "{host}:{port}: no TLS: {error}; check redis.ca_file, and whether the port speaks TLS"
                    );
                    Failure::new(Class::Hard(Cause::Unfit), text)
                })?)
            }
        };
        let mut info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (user, password) = self.credentials(whom)?;
        if !user.is_empty() {
            info = info.set_username(user);
        }
        if !password.is_empty() {
            info = info.set_password(password);
        }
        if whom == Whom::Server {
            info = info.set_protocol(ProtocolVersion::RESP3);
            if self.target.kind != RedisKind::Cluster && self.target.database != 0 {
                info = info.set_db(i64::from(self.target.database));
            }
        }
        let mut settings = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(REDIS_PIPELINE);
        if let Some(pushed) = pushed {
            settings =
                settings.set_push_sender(move |info: PushInfo| -> Result<(), std::convert::Infallible> {
                    pushed(info);
                    Ok(())
                });
        }
        let (connection, driver) = MultiplexedConnection::new_with_config(&info, stream, settings).await?;
        Ok(Pipe { connection, peer, driver: tokio::spawn(driver).abort_handle() })
    }

    fn credentials(&self, whom: Whom) -> Result<(String, String), Failure> {
        if whom == Whom::Sentinel {
            return Ok((String::new(), self.settings.sentinel_password.expose_secret().to_owned()));
        }
        let user = self.target.user.clone();
        let file = &self.settings.password_file;
        if file.as_os_str().is_empty() {
            return Ok((user, self.target.password.expose_secret().to_owned()));
        }
        match std::fs::read_to_string(file) {
            Ok(password) => Ok((user, password.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(Failure::new(
                Class::Hard(Cause::Auth),
                format!("redis.password_file {} cannot be read: {error}", file.display()),
            )),
        }
    }
}

/// TLS that trusts the authorities of the file, or those of the system.
pub(super) fn tls(ca_file: &Path) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    if ca_file.as_os_str().is_empty() {
        // One that cannot be read does not take the others along.
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(
                "redis.ca_file: the system has no certificates of authorities; name a file".to_owned()
            );
        }
    } else {
        let wrong = |error: &dyn std::fmt::Display| {
            format!("redis.ca_file {}: {error}; want a PEM file of certificates", ca_file.display())
        };
        for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| wrong(&error))? {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"holds no certificate"));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
