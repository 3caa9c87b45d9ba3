//! What the types of a configuration cannot say.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;

use secrecy::ExposeSecret as _;

use super::{Auth, Config, HostedServer, Mode};
use crate::base::limits::{TAG_BYTES, TAGS_EACH};

/// One thing that is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its key path.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Longest name of a hosted server: it goes in front of the names of its tools, which clients cut at 64 characters.
const SERVER_NAME: usize = 32;
/// Longest text that is said of a tool, and the most needs or intents of one: they go to every client that lists it.
const FACT_BYTES: usize = 128;
const FACTS: usize = 32;
/// Most tries of a call after the first one: each may have a child started.
const RETRIES: u32 = 10;
const DAY: u64 = 24 * 3600;
const YEAR: u64 = 365 * DAY;
const GIB: u64 = 1 << 30;

impl Config {
    /// Everything that is wrong with the values; empty: nothing.
    #[must_use]
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Findings::default();
        findings.mode(self);
        findings.listeners(self);
        findings.tokens(&self.auth);
        findings.numbers(self);
        findings.0.extend(self.bridge.check());
        for (name, server) in &self.servers {
            findings.hosted(name, server);
        }
        findings.0
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Finding { key: key.into(), message: message.into() });
    }

    fn range<N: PartialOrd + Display>(&mut self, key: impl Into<String>, value: N, least: N, most: N) {
        if value < least || value > most {
            let key = key.into();
            let message = format!("`{key}` is {value}; want {least} to {most}");
            self.add(key, message);
        }
    }

    fn mode(&mut self, config: &Config) {
        match config.mode {
            Mode::Local => {}
            Mode::Shadow | Mode::Canary => {
                self.add(
                    "mode",
                    "modes `shadow` and `canary` come later; this version serves `local` and `redis`",
                );
            }
            Mode::Redis if config.store.ephemeral => {
                self.add(
                    "store.ephemeral",
                    "mode `redis` needs a data directory: what Redis does not have yet is kept there",
                );
            }
            Mode::Redis => {}
        }
        let redis = &config.redis;
        if config.mode == Mode::Redis || redis.is_set() {
            let mut wrong = Vec::new();
            redis.check(&mut wrong);
            for (key, message) in wrong {
                self.add(key, message);
            }
        }
        self.range("redis.deadline_ms", redis.deadline_ms, 10, 10_000);
        self.range("redis.connect_ms", redis.connect_ms, 10, 30_000);
        self.range("redis.slow_ms", redis.slow_ms, 1, 10_000);
        self.range("redis.probe_ms", redis.probe_ms, 100, 1_000);
        self.range("redis.database", redis.database, 0, 1_000_000);
    }

    fn listeners(&mut self, config: &Config) {
        let server = &config.server;
        let public = self.address("server.listen", &server.listen);
        if let Some(address) = public
            && !address.ip().to_canonical().is_loopback()
            && config.auth.tokens.is_empty()
            && !server.allow_open
        {
            self.add(
                "server.listen",
                format!(
                    "{address} can be reached from other machines and nobody has to authenticate: add [[auth.tokens]], \
                     or listen on 127.0.0.1, or say --allow-open (server.allow_open = true)"
                ),
            );
        }
        if !config.admin.listen.is_empty() {
            let admin = self.address("admin.listen", &config.admin.listen);
            if admin.is_some() && admin == public && admin.is_some_and(|address| address.port() != 0) {
                self.add("admin.listen", "is the address of `server.listen` too; want another port");
            }
        }
        for (at, host) in server.allowed_hosts.iter().enumerate() {
            if host.is_empty() || host.contains(['/', ' ', '@', '*']) {
                self.add(
                    format!("server.allowed_hosts.{at}"),
                    format!("{host:?}: want HOST or HOST:PORT, such as mcp.example.com"),
                );
            }
        }
        for (at, origin) in server.allowed_origins.iter().enumerate() {
            let host =
                origin.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, host)| host);
            if host.is_none_or(|host| host.is_empty() || host.contains(['/', ' ', '@', '*'])) {
                self.add(
                    format!("server.allowed_origins.{at}"),
                    format!("{origin:?}: want SCHEME://HOST[:PORT] without a path, such as https://app.example.com"),
                );
            }
        }
    }

    /// The address, if it is one without asking a name server; names are resolved when the listener is bound.
    fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let address = text.parse().ok();
        let in_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let is_name = text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && host.chars().all(in_name)
                && host.contains(|c: char| c.is_ascii_alphabetic())
                && port.parse::<u16>().is_ok()
        });
        if address.is_none() && !is_name {
            self.add(
                key,
                format!("`{key}` is {text:?}; want ADDRESS:PORT such as 127.0.0.1:8808 or [::1]:8808"),
            );
        }
        address
    }

    fn tokens(&mut self, auth: &Auth) {
        let mut seen = BTreeSet::new();
        for (at, token) in auth.tokens.iter().enumerate() {
            if token.principal.is_empty() || token.principal.chars().any(char::is_control) {
                self.add(format!("auth.tokens.{at}.principal"), "want the name of who bears the token");
            }
            let hash = token.sha256.expose_secret();
            if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                self.add(
                    format!("auth.tokens.{at}.sha256"),
                    "want the SHA-256 of the token, 64 hexadecimal digits: printf %s TOKEN | sha256sum",
                );
            } else if !seen.insert(hash.to_ascii_lowercase()) {
                self.add(
                    format!("auth.tokens.{at}.sha256"),
                    "this token is listed twice; a token has one principal",
                );
            }
        }
    }

    fn numbers(&mut self, config: &Config) {
        let server = &config.server;
        self.range("server.max_connections", server.max_connections, 1, 1_000_000);
        self.range("server.max_body_bytes", server.max_body_bytes, 256, 256 << 20);
        self.range("server.first_byte_timeout_seconds", server.first_byte_timeout_seconds, 1, 3600);
        self.range("server.header_timeout_seconds", server.header_timeout_seconds, 1, 3600);
        self.range("server.body_timeout_seconds", server.body_timeout_seconds, 1, 3600);
        self.range("server.drain_seconds", server.drain_seconds, 0, 3600);
        let store = &config.store;
        self.range("store.cache_bytes", store.cache_bytes, 1 << 20, 1024 * GIB);
        self.range("store.document_cache_bytes", store.document_cache_bytes, 0, 1024 * GIB);
        self.range("store.ballast_bytes", store.ballast_bytes, 0, 64 * GIB);
        self.range("store.backup_seconds", store.backup_seconds, 0, YEAR);
        if store.max_bytes != 0 {
            self.range("store.max_bytes", store.max_bytes, 64 << 20, 1024 * GIB);
        }
        let sessions = &config.sessions;
        self.range("sessions.idle_ttl_seconds", sessions.idle_ttl_seconds, 1, YEAR);
        self.range("sessions.max_ttl_seconds", sessions.max_ttl_seconds, 1, 10 * YEAR);
        self.range("sessions.max_total", sessions.max_total, 1, 100_000_000);
        self.range("sessions.max_per_principal", sessions.max_per_principal, 1, 100_000_000);
        self.range("sessions.max_bytes", sessions.max_bytes, 256, 1 << 30);
        self.range("sessions.max_value_bytes", sessions.max_value_bytes, 256, 1 << 30);
        self.range("sessions.max_fields", sessions.max_fields, 16, 1_000_000);
        self.range("sessions.unload_after_seconds", sessions.unload_after_seconds, 1, YEAR);
        let streams = &config.streams;
        self.range("streams.json_within_ms", streams.json_within_ms, 0, 60_000);
        self.range("streams.retry_ms", streams.retry_ms, 0, 3_600_000);
        self.range("streams.keep_alive_seconds", streams.keep_alive_seconds, 1, 3600);
        self.range("streams.stall_seconds", streams.stall_seconds, 1, 3600);
        self.range("streams.max_seconds", streams.max_seconds, 0, YEAR);
        self.range("streams.max_entries", streams.max_entries, 1, 1_000_000);
        self.range("streams.max_bytes", streams.max_bytes, 256, 1 << 30);
        self.range("streams.max_age_seconds", streams.max_age_seconds, 1, YEAR);
        self.range("tools.call_timeout_seconds", config.tools.call_timeout_seconds, 1, 7 * DAY);
        self.range("tools.short_timeout_seconds", config.tools.short_timeout_seconds, 1, 7 * DAY);
        self.range("tools.call_max_seconds", config.tools.call_max_seconds, 1, 7 * DAY);
        self.range("tools.retries", config.tools.retries, 0, RETRIES);
        let places = config.tools.max_concurrent_per_principal;
        self.range("tools.max_concurrent_per_principal", places, 0, 1_000_000);
        self.range("tools.queue_seconds", config.tools.queue_seconds, 0, 3600);
        self.range("tools.join_window_seconds", config.tools.join_window_seconds, 0, DAY);
        self.range("tools.key_ttl_seconds", config.tools.key_ttl_seconds, 1, 30 * DAY);
        self.range("tools.cache_bytes", config.tools.cache_bytes, 0, 1 << 40);
        self.range("tools.input_timeout_seconds", config.tools.input_timeout_seconds, 1, DAY);
        self.range("tools.task_ttl_seconds", config.tools.task_ttl_seconds, 10, 30 * DAY);
        self.range("tools.task_max_ttl_seconds", config.tools.task_max_ttl_seconds, 10, 30 * DAY);
        self.range("tools.completions_per_second", config.tools.completions_per_second, 0, 1_000_000);
    }

    fn hosted(&mut self, name: &str, server: &HostedServer) {
        let section = format!("servers.{name}");
        let in_alphabet = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > SERVER_NAME || !name.chars().all(in_alphabet) {
            self.add(&section, format!("server name {name:?}: want 1 to {SERVER_NAME} of A-Z a-z 0-9 _ -"));
        }
        match (server.command.is_empty(), server.url.is_empty()) {
            (true, true) => self.add(
                &section,
                format!("server `{name}`: `command` is missing, the program to start, or `url`, the address of a remote server"),
            ),
            (false, false) => self.add(&section, format!("server `{name}`: has `command` and `url`; want one of them")),
            (true, false) => super::remote::check(name, server, &mut self.0),
            (false, true) => {
                let is_set = [
                    ("headers", !server.headers.is_empty(), "use `env`"),
                    ("headers_by_principal", !server.headers_by_principal.is_empty(), "use `env`"),
                    ("proxy", !server.proxy.is_empty(), "remove it"),
                ];
                for (key, _, instead) in is_set.into_iter().filter(|(_, set, _)| *set) {
                    let message = format!("server `{name}`: `{key}` belongs to a `url`; {instead}");
                    self.add(format!("{section}.{key}"), message);
                }
            }
        }
        for text in std::iter::once(&server.command).chain(&server.args) {
            if text.contains('\0') {
                self.add(
                    &section,
                    format!("server `{name}`: `command` and `args` cannot hold a NUL character"),
                );
            }
        }
        for (variable, value) in &server.env {
            if variable.is_empty() || variable.contains(['=', '\0']) || value.expose_secret().contains('\0') {
                self.add(
                    format!("{section}.env.{variable}"),
                    format!("server `{name}`: {variable:?} cannot be an environment variable"),
                );
            }
        }
        self.range(format!("{section}.max_children"), server.max_children, 1, 10_000);
        self.range(format!("{section}.pool_size"), server.pool_size, 1, server.max_children.max(1));
        self.range(format!("{section}.start_timeout_seconds"), server.start_timeout_seconds, 1, 3600);
        self.range(format!("{section}.call_timeout_seconds"), server.call_timeout_seconds, 0, 7 * DAY);
        self.range(format!("{section}.idle_seconds"), server.idle_seconds, 1, YEAR);
        let limits = &server.limits;
        for (key, value, least, most) in [
            ("memory_bytes", limits.memory_bytes, 16 << 20, 1024 * GIB),
            ("cpu_seconds", limits.cpu_seconds, 1, 10 * YEAR),
            ("open_files", limits.open_files, 16, 1_000_000),
            ("processes", limits.processes, 1, 1_000_000),
        ] {
            // 0: no limit.
            if value != 0 {
                self.range(format!("{section}.limits.{key}"), value, least, most);
            }
        }
        for (tool, facts) in &server.tools {
            let key = format!("{section}.tools.{tool}");
            self.range(format!("{key}.timeout_seconds"), facts.timeout_seconds, 0, 7 * DAY);
            self.range(format!("{key}.retries"), facts.retries, -1, RETRIES.into());
            self.range(format!("{key}.max_concurrent"), facts.max_concurrent, 0, 1_000_000);
            self.range(format!("{key}.cache_seconds"), facts.cache_seconds, -1, (7 * DAY).cast_signed());
            let bad_tag =
                |tag: &String| !(1..=TAG_BYTES).contains(&tag.len()) || tag.chars().any(char::is_control);
            if facts.tags.len() > TAGS_EACH || facts.tags.iter().any(bad_tag) {
                self.add(
                    format!("{key}.tags"),
                    format!("want at most {TAGS_EACH} tags of one line, 1 to {TAG_BYTES} bytes each"),
                );
            }
            if facts.version.len() > FACT_BYTES || facts.version.chars().any(char::is_control) {
                self.add(format!("{key}.version"), format!("want one line of at most {FACT_BYTES} bytes"));
            }
            for (member, texts) in [("needs", &facts.needs), ("intents", &facts.intents)] {
                let bad = |text: &String| {
                    text.is_empty() || text.len() > FACT_BYTES || text.chars().any(char::is_control)
                };
                if texts.len() > FACTS || texts.iter().any(bad) {
                    self.add(
                        format!("{key}.{member}"),
                        format!("want at most {FACTS} texts, each one line of 1 to {FACT_BYTES} bytes"),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<(String, String)> {
        let config: Config = toml::from_str(text).unwrap();
        config.check().into_iter().map(|finding| (finding.key, finding.message)).collect()
    }

    #[test]
    fn the_defaults_are_right() {
        assert_eq!(Config::default().check(), Vec::new());
    }

    #[test]
    fn each_wrong_value_is_named_with_what_would_be_right() {
        let hash = "ab".repeat(32);
        let twice = format!(
            "[auth]\ntokens = [{{ principal = \"a\", sha256 = \"{hash}\" }}, {{ principal = \"b\", sha256 = \"{}\" }}]",
            hash.to_uppercase()
        );
        for (text, key, part) in [
            ("mode = \"shadow\"", "mode", "come later"),
            ("mode = \"canary\"", "mode", "come later"),
            ("mode = \"redis\"", "redis.url", "needs the address"),
            ("mode = \"redis\"\nstore.ephemeral = true", "store.ephemeral", "data directory"),
            ("[redis]\nurl = \"http://h\"", "redis.url", "rediss:// for TLS"),
            ("[redis]\nurl = \"redis://h\"\nprefix = \"a{b}\"", "redis.prefix", "braces"),
            ("[redis]\nurl = \"redis://h\"\npeers = [\"h:1\"]", "redis.peers", "http://HOST:PORT"),
            ("[redis]\nurl = \"redis://h\"\nslow_ms = 300", "redis.slow_ms", "deadline_ms"),
            ("[redis]\nprobe_ms = 5000", "redis.probe_ms", "want 100 to 1000"),
            ("[server]\nlisten = \"localhost\"", "server.listen", "127.0.0.1:8808"),
            ("[server]\nlisten = \"0.0.0.0:80\"", "server.listen", "--allow-open"),
            ("[server]\nlisten = \"[::]:80\"", "server.listen", "--allow-open"),
            ("[server]\nlisten = \"127.0.0.1:70000\"", "server.listen", "127.0.0.1:8808"),
            ("[server]\nlisten = \"127.0.0:80\"", "server.listen", "127.0.0.1:8808"),
            ("[admin]\nlisten = \"x\"", "admin.listen", "ADDRESS:PORT"),
            ("[admin]\nlisten = \"127.0.0.1:8808\"", "admin.listen", "another port"),
            ("[server]\nallowed_origins = [\"app.example\"]", "server.allowed_origins.0", "SCHEME://HOST"),
            ("[server]\nallowed_hosts = [\"http://a\"]", "server.allowed_hosts.0", "HOST:PORT"),
            ("[server]\nmax_connections = 0", "server.max_connections", "want 1 to 1000000"),
            ("[streams]\nkeep_alive_seconds = 4000", "streams.keep_alive_seconds", "want 1 to 3600"),
            ("[auth]\ntokens = [{ principal = \"a\", sha256 = \"abc\" }]", "auth.tokens.0.sha256", "64 hex"),
            ("[auth]\ntokens = [{ principal = \"\", sha256 = \"00\" }]", "auth.tokens.0.principal", "name"),
            (&twice, "auth.tokens.1.sha256", "twice"),
            ("[servers.a]", "servers.a", "`command` is missing"),
            ("[servers.a]\ncommand = \"x\"\nurl = \"http://h\"", "servers.a", "one of them"),
            ("[servers.a]\nurl = \"ftp://h\"", "servers.a.url", "http:// or https://"),
            ("[servers.a]\nurl = \"https://u:p@h\"", "servers.a.url", "`headers`"),
            ("[servers.a]\nurl = \"h/mcp\"", "servers.a.url", "http:// or https://"),
            ("[servers.a]\nurl = \"http://h\"\nargs = [\"x\"]", "servers.a.args", "belongs to a `command`"),
            (
                "[servers.a]\nurl = \"http://h\"\nheaders = { \"a b\" = \"x\" }",
                "servers.a.headers.a b",
                "name of a header",
            ),
            (
                "[servers.a]\nurl = \"http://h\"\nheaders = { Accept = \"x\" }",
                "servers.a.headers.Accept",
                "sets itself",
            ),
            (
                "[servers.a]\nurl = \"http://h\"\nheaders_by_principal = { u = { A = \"x\\ny\" } }",
                "servers.a.headers_by_principal.u.A",
                "one line",
            ),
            ("[servers.a]\nurl = \"http://h\"\nproxy = \"h:1\"", "servers.a.proxy", "environment"),
            ("[servers.a]\ncommand = \"x\"\nheaders = { A = \"b\" }", "servers.a.headers", "use `env`"),
            ("[servers.\"a b\"]\ncommand = \"x\"", "servers.a b", "A-Z a-z"),
            ("[servers.a]\ncommand = \"x\"\npool_size = 65", "servers.a.pool_size", "want 1 to 64"),
            (
                "[servers.a]\ncommand = \"x\"\nlimits = { memory_bytes = 1024 }",
                "servers.a.limits.memory_bytes",
                "want 16777216",
            ),
            (
                "[servers.a]\ncommand = \"x\"\ntools.t = { intents = [\"\"] }",
                "servers.a.tools.t.intents",
                "one line",
            ),
            (
                "[servers.a]\ncommand = \"x\"\ntools.t = { retries = 11 }",
                "servers.a.tools.t.retries",
                "want -1 to 10",
            ),
            (
                "[servers.a]\ncommand = \"x\"\ntools.t = { cache_seconds = 604801 }",
                "servers.a.tools.t.cache_seconds",
                "want -1 to 604800",
            ),
            (
                "[servers.a]\ncommand = \"x\"\ntools.t = { tags = [\"\"] }",
                "servers.a.tools.t.tags",
                "one line",
            ),
            ("[tools]\nshort_timeout_seconds = 0", "tools.short_timeout_seconds", "want 1 to"),
            (
                "[servers.a]\ncommand = \"x\"\nenv = { \"A=B\" = \"\" }",
                "servers.a.env.A=B",
                "environment variable",
            ),
        ] {
            let found = findings(text);
            assert!(found.iter().any(|(k, m)| k == key && m.contains(part)), "{text}: {found:?}");
        }
    }

    #[test]
    fn listening_wide_is_allowed_with_tokens_or_on_demand() {
        let hash = "ab".repeat(32);
        let tokens = format!(
            "[server]\nlisten = \"0.0.0.0:1\"\n[[auth.tokens]]\nprincipal = \"a\"\nsha256 = \"{hash}\""
        );
        for text in [
            tokens.as_str(),
            "[server]\nlisten = \"0.0.0.0:1\"\nallow_open = true",
            "[server]\nlisten = \"[::1]:1\"",
            "[server]\nlisten = \"localhost:1\"",
        ] {
            assert_eq!(findings(text), Vec::new());
        }
    }
}
