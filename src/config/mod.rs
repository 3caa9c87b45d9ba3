//! Settings: one struct per section of `config.toml`, each field with its default.
//!
//! `config.toml` in the repository's root lists every key with its default and its meaning; a test holds it to these
//! structs. [`source::Inputs::load`] puts file, environment and flags together; [`Config::check`] says what the types
//! cannot; [`redact`] prints the outcome. Serialising a configuration never shows a secret.

mod bridge;
pub mod check;
mod environment;
pub mod error;
mod file;
mod flask;
mod hosted;
pub mod mcp_json;
pub mod redact;
pub mod redis;
mod remote;
mod shape;
pub mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use self::redis::Redis;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use self::bridge::{Bridge, Profile};
pub use self::flask::{FlaskRedis, flask_redis};
pub use self::hosted::{CacheScope, ChildLimits, TimeClass, ToolFacts, Validate};

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `local`: everything on this instance. `redis`: shared with other instances.
    pub mode: Mode,
    /// The public listener.
    pub server: Server,
    /// The admin listener.
    pub admin: Admin,
    /// Who may call.
    pub auth: Auth,
    /// Where data lives.
    pub store: Store,
    /// Lifetimes and caps of sessions.
    pub sessions: Sessions,
    /// Event streams.
    pub streams: Streams,
    /// Tools in general.
    pub tools: Tools,
    /// The plain HTTP bridge.
    pub bridge: Bridge,
    /// MCP servers to host, by name.
    pub servers: BTreeMap<String, HostedServer>,
    /// Redis.
    pub redis: Redis,
    /// Logs.
    pub log: Log,
}

/// What the operator wants of Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Mode {
    #[default]
    Local,
    Shadow,
    Canary,
    Redis,
}

/// `[server]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address and port to listen on.
    pub listen: String,
    /// Listen beyond loopback without any authentication.
    pub allow_open: bool,
    /// Values of `Host` that are served beside loopback names and the listen address (host, or host:port).
    pub allowed_hosts: Vec<String>,
    /// Values of `Origin` that are served beside loopback origins (`scheme://host[:port]`).
    pub allowed_origins: Vec<String>,
    /// Connections at a time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Body of a request, bytes.
    pub max_body_bytes: usize,
    /// Until the first byte of a connection, seconds.
    pub first_byte_timeout_seconds: u64,
    /// Until a request's headers are there, and between requests of one connection, seconds.
    pub header_timeout_seconds: u64,
    /// Until a request's body is there, seconds.
    pub body_timeout_seconds: u64,
    /// From SIGTERM until the process ends, seconds.
    pub drain_seconds: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8808".into(),
            allow_open: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            max_connections: 10_000,
            max_body_bytes: 4 * 1024 * 1024,
            first_byte_timeout_seconds: 10,
            header_timeout_seconds: 30,
            body_timeout_seconds: 30,
            drain_seconds: 20,
        }
    }
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address and port of the admin listener; empty: none.
    pub listen: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8809".into() }
    }
}

/// `[auth]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Static bearer tokens; none: everybody is the principal `anonymous`.
    pub tokens: Vec<StaticToken>,
}

/// One entry of `auth.tokens`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StaticToken {
    /// The principal that bears it.
    pub principal: String,
    /// SHA-256 of the token, 64 hexadecimal digits.
    #[serde(serialize_with = "redact::secret")]
    pub sha256: SecretString,
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After fsync: survives a power cut.
    #[default]
    Fsync,
    /// After the operating system has it: survives the process, not a power cut.
    Relaxed,
}

/// `[store]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Where data lives; empty: `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/outlast`, else `~/.local/state/outlast`.
    pub data_dir: PathBuf,
    /// Keep everything in memory and nothing on disk: a restart forgets all sessions.
    pub ephemeral: bool,
    /// When a write counts as done.
    pub durability: Durability,
    /// Cache of the database, bytes.
    pub cache_bytes: u64,
    /// Cache of session documents, bytes.
    pub document_cache_bytes: u64,
    /// Size of the file that is given up when the disk is nearly full, bytes.
    pub ballast_bytes: u64,
    /// How often the sessions are copied to a file for the start that finds the database damaged, seconds; 0: never.
    /// Instances that share what they hold get them back from each other.
    pub backup_seconds: u64,
    /// Seal values of sessions and messages of streams on their way to the disk.
    pub encryption: bool,
    /// File of the keys that sign and seal; empty: the credential `outlast.keys` of systemd, else `keys`, else the file
    /// `keys` in the data directory, which is made.
    pub key_file: PathBuf,
    /// The keys themselves: for the environment.
    #[serde(serialize_with = "redact::secret")]
    pub keys: SecretString,
    /// The credential of systemd, when there is one. Found while the configuration is read.
    #[serde(skip)]
    pub key_credential: Option<PathBuf>,
    /// What it holds is shared with sister instances. Follows from the mode.
    #[serde(skip)]
    pub shared: bool,
    /// What the database may take on the disk, bytes; 0: what the filesystem has. At 80 % of it new sessions are
    /// refused, at 95 % all writes that take room.
    pub max_bytes: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::new(),
            ephemeral: false,
            durability: Durability::Fsync,
            cache_bytes: 64 << 20,
            document_cache_bytes: 64 << 20,
            ballast_bytes: 64 << 20,
            backup_seconds: 3_600,
            encryption: true,
            key_file: PathBuf::new(),
            keys: SecretString::default(),
            shared: false,
            key_credential: None,
            max_bytes: 32 << 30,
        }
    }
}

/// `[sessions]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// A session that nobody uses for this long is removed, seconds.
    pub idle_ttl_seconds: u64,
    /// A session is over this long after its birth, whatever happens, seconds.
    pub max_ttl_seconds: u64,
    /// A session removed for idleness stays gone; else its id, while its deadline lasts, finds a new empty session.
    pub strict_idle_expiry: bool,
    /// Sessions in total.
    pub max_total: usize,
    /// Sessions of one principal.
    pub max_per_principal: usize,
    /// Values of one session, bytes.
    pub max_bytes: usize,
    /// One value, bytes.
    pub max_value_bytes: usize,
    /// Values of one session, number.
    pub max_fields: usize,
    /// A session that nobody uses leaves memory after this long; it stays on disk, seconds.
    pub unload_after_seconds: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            idle_ttl_seconds: 24 * 3600,
            max_ttl_seconds: 7 * 24 * 3600,
            strict_idle_expiry: false,
            max_total: 1_000_000,
            max_per_principal: 100_000,
            max_bytes: 1 << 20,
            max_value_bytes: 1 << 20,
            max_fields: 4_096,
            unload_after_seconds: 300,
        }
    }
}

/// `[streams]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streams {
    /// A call that ends within this time is answered as JSON; a longer one becomes an event stream, milliseconds.
    pub json_within_ms: u64,
    /// `retry:` that clients are told: how long they wait before they reconnect, milliseconds.
    pub retry_ms: u64,
    /// A comment is sent on a stream that was silent for this long, seconds.
    pub keep_alive_seconds: u64,
    /// A reader that takes nothing for this long while something waits for it is cut; it can resume, seconds.
    pub stall_seconds: u64,
    /// A stream is ended, resumably, after this long; 0: never, seconds.
    pub max_seconds: u64,
    /// Entries kept of a session's log.
    pub max_entries: usize,
    /// Bytes kept of a session's log.
    pub max_bytes: usize,
    /// Age to which entries are kept, seconds.
    pub max_age_seconds: u64,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            json_within_ms: 50,
            retry_ms: 3_000,
            keep_alive_seconds: 15,
            stall_seconds: 30,
            max_seconds: 0,
            max_entries: 512,
            max_bytes: 1 << 20,
            max_age_seconds: 24 * 3600,
        }
    }
}

/// When a hosted tool's name gets its server's name in front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespacing {
    /// With more than one hosted server: always; with one: where two names would collide.
    #[default]
    Auto,
    /// Always: `NAME__tool`.
    Always,
    /// Only where two names would collide.
    Collisions,
}

/// `[tools]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tools {
    /// The directory that the code tools may see.
    pub root: PathBuf,
    /// Offer the code tools.
    pub code: bool,
    /// Offer the tools that test a deployment.
    pub diagnostics: bool,
    /// When hosted tools carry their server's name.
    pub namespacing: Namespacing,
    /// Which calls of tools are held against the schemas that the tools give.
    pub validate: Validate,
    /// A call of a tool of the short class that takes longer is ended with an error, seconds.
    pub short_timeout_seconds: u64,
    /// The same for a tool of the long class, and for what is no tool, seconds.
    pub call_timeout_seconds: u64,
    /// No call takes longer, however often its progress renews its time, seconds.
    pub call_max_seconds: u64,
    /// How often a call that failed is made again where that does no harm.
    pub retries: u32,
    /// Calls of one principal that run at a time, of all tools together; 0: any number.
    pub max_concurrent_per_principal: usize,
    /// How long a call waits for others to end, where only so many may run at a time, seconds.
    pub queue_seconds: u64,
    /// For so long an equal call of a tool that may be repeated gets what the first one came to, seconds; 0: never.
    pub join_window_seconds: u64,
    /// For so long what came of a call is kept under its idempotency key, seconds.
    pub key_ttl_seconds: u64,
    /// What results that are answered again may take in memory, bytes; 0: none are kept.
    pub cache_bytes: u64,
    /// A call that asks a client of 2026-07-28 waits this long for the answer, seconds.
    pub input_timeout_seconds: u64,
    /// A task is kept this long from its beginning, unless its client asks for another time, seconds.
    pub task_ttl_seconds: u64,
    /// No task is kept longer, whatever its client asks for, seconds.
    pub task_max_ttl_seconds: u64,
    /// Requests for completion of one caller that are served per second; twice as many at once. 0: any number.
    pub completions_per_second: u64,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            root: PathBuf::from("."),
            code: true,
            diagnostics: false,
            namespacing: Namespacing::Auto,
            validate: Validate::Both,
            short_timeout_seconds: 60,
            call_timeout_seconds: 300,
            call_max_seconds: 3_600,
            retries: 2,
            max_concurrent_per_principal: 0,
            queue_seconds: 10,
            join_window_seconds: 0,
            key_ttl_seconds: 3_600,
            cache_bytes: 64 << 20,
            input_timeout_seconds: 600,
            task_ttl_seconds: 3_600,
            task_max_ttl_seconds: 86_400,
            completions_per_second: 50,
        }
    }
}

/// How messages to a remote server travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Streamable HTTP, and HTTP+SSE where the server does not know that.
    #[default]
    Auto,
    /// HTTP+SSE of 2024-11-05.
    Sse,
}

/// How long a stdio child lives, and whose the sessions in a remote server are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifetime {
    /// One child, or session, per call.
    Call,
    /// One child, or session, per session. Under 2026-07-28, which has no sessions, calls share a pool.
    #[default]
    Session,
    /// Children, or a session, shared by everybody.
    Pool,
}

/// `[servers.NAME]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostedServer {
    /// The program of a stdio server.
    pub command: String,
    /// Its arguments.
    #[serde(serialize_with = "redact::arguments")]
    pub args: Vec<String>,
    /// Environment variables for it, over a clean environment (PATH, HOME, LANG, TMPDIR and the like are kept).
    #[serde(serialize_with = "redact::secrets")]
    pub env: BTreeMap<String, SecretString>,
    /// Its working directory; empty: `tools.root`.
    pub cwd: PathBuf,
    /// How long a child lives.
    pub lifetime: Lifetime,
    /// Children at most, over all sessions.
    pub max_children: usize,
    /// Children of a pool.
    pub pool_size: usize,
    /// From the start of a child until its answer to `initialize`, seconds.
    pub start_timeout_seconds: u64,
    /// A call that takes longer is ended with an error, seconds; 0: as the class of its tool says.
    pub call_timeout_seconds: u64,
    /// A child that nobody used for this long is ended, seconds.
    pub idle_seconds: u64,
    /// What a child may use.
    pub limits: ChildLimits,
    /// What is known of its tools, by its own names of them.
    pub tools: BTreeMap<String, ToolFacts>,
    /// Address of a remote server.
    #[serde(serialize_with = "redact::address")]
    pub url: String,
    /// Headers for a remote server.
    #[serde(serialize_with = "redact::secrets")]
    pub headers: BTreeMap<String, SecretString>,
    /// Headers for a remote server when a principal calls it, over the common ones, by the principal's name.
    #[serde(serialize_with = "redact::secrets_by_name")]
    pub headers_by_principal: BTreeMap<String, BTreeMap<String, SecretString>>,
    /// How messages to a remote server travel.
    pub transport: Transport,
    /// Proxy on the way to a remote server; empty: none; `environment`: those that the environment names.
    #[serde(serialize_with = "redact::address")]
    pub proxy: String,
}

impl Default for HostedServer {
    fn default() -> Self {
        Self {
            command: String::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: PathBuf::new(),
            lifetime: Lifetime::Session,
            max_children: 64,
            pool_size: 2,
            start_timeout_seconds: 30,
            call_timeout_seconds: 0,
            idle_seconds: 600,
            limits: ChildLimits::default(),
            tools: BTreeMap::new(),
            url: String::new(),
            headers: BTreeMap::new(),
            headers_by_principal: BTreeMap::new(),
            transport: Transport::Auto,
            proxy: String::new(),
        }
    }
}

/// Form of the logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// journald under systemd, text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object per line on stderr.
    Json,
    /// Lines for people on stderr.
    Text,
    /// The journal of systemd.
    Journald,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,outlast::engine=debug`.
    pub level: String,
    /// Form.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Auto }
    }
}
