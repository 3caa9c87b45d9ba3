//! `[redis]`: where it is and how it is spoken to.

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::redact;
use crate::base::percent::decode;

/// `[redis]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, `rediss://` for TLS, `redis+sentinel://HOST,HOST/MASTER` (or
    /// `rediss+sentinel://`); empty: none.
    #[serde(serialize_with = "redact::secret_address")]
    pub url: SecretString,
    /// Sentinels as `HOST[:PORT]`, instead of `redis+sentinel://`; `url` may then be empty.
    pub sentinels: Vec<String>,
    /// The name under which the sentinels know the primary.
    pub master: String,
    /// It is a cluster: `url` names one or more of its nodes.
    pub cluster: bool,
    /// ACL user.
    pub user: String,
    /// Password.
    #[serde(serialize_with = "redact::secret")]
    pub password: SecretString,
    /// File of the password, read again for every connection.
    pub password_file: PathBuf,
    /// Password of the sentinels themselves.
    #[serde(serialize_with = "redact::secret")]
    pub sentinel_password: SecretString,
    /// Number of the database, unless `url` says one.
    pub database: u32,
    /// PEM file of the authorities that sign certificates, instead of those of the system.
    pub ca_file: PathBuf,
    /// What all keys begin with.
    pub prefix: String,
    /// A command that is not answered within this time counts as failed, milliseconds.
    pub deadline_ms: u64,
    /// So for a connection that is not made, milliseconds.
    pub connect_ms: u64,
    /// An answer that takes longer counts as bad, milliseconds.
    pub slow_ms: u64,
    /// Between two probes, milliseconds.
    pub probe_ms: u64,
    /// Values are sealed in Redis with the keys of the instances.
    pub seal: bool,
    /// Serve with a Redis that may evict keys.
    pub allow_eviction: bool,
    /// Address at which the other instances reach this one; empty: they do not ask it.
    pub advertise_url: String,
    /// Addresses of other instances, beside those that Redis knows.
    pub peers: Vec<String>,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: SecretString::default(),
            sentinels: Vec::new(),
            master: String::new(),
            cluster: false,
            user: String::new(),
            password: SecretString::default(),
            password_file: PathBuf::new(),
            sentinel_password: SecretString::default(),
            database: 0,
            ca_file: PathBuf::new(),
            prefix: "mcp".into(),
            deadline_ms: 250,
            connect_ms: 300,
            slow_ms: 150,
            probe_ms: 1_000,
            seal: true,
            allow_eviction: false,
            advertise_url: String::new(),
            peers: Vec::new(),
        }
    }
}

/// Where Redis is, in parts.
#[derive(Clone, Debug)]
pub struct RedisTarget {
    /// Over TLS.
    pub tls: bool,
    /// Servers, nodes of the cluster, or sentinels: host and port.
    pub hosts: Vec<(String, u16)>,
    /// What the hosts are.
    pub kind: RedisKind,
    /// ACL user; empty: the default one.
    pub user: String,
    /// Password; empty: none, or that of the file.
    pub password: SecretString,
    /// Number of the database.
    pub database: u32,
}

/// How many servers there are and who knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisKind {
    /// One.
    Single,
    /// Sentinels know the primary by this name.
    Sentinel(String),
    /// The nodes know each other.
    Cluster,
}

/// What is wrong, and with which key.
pub type Wrong = (&'static str, String);

const FORMS: &str = "want redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// for TLS, or \
                     redis+sentinel://HOST:PORT,HOST:PORT/MASTER";

impl Redis {
    /// Whether an address is given.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.url.expose_secret().is_empty() || !self.sentinels.is_empty()
    }

    /// Where it is.
    ///
    /// # Errors
    /// The key that is wrong and what would be right, without secrets.
    pub fn target(&self) -> Result<RedisTarget, Wrong> {
        let url = self.url.expose_secret();
        let wrong = |message: &str| ("redis.url", message.to_owned());
        let mut target = RedisTarget {
            tls: false,
            hosts: Vec::new(),
            kind: if self.cluster { RedisKind::Cluster } else { RedisKind::Single },
            user: self.user.clone(),
            password: self.password.clone(),
            database: self.database,
        };
        if !url.is_empty() {
            let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong(FORMS))?;
            let sentinel = match scheme {
                "redis" | "rediss" => false,
                "redis+sentinel" | "rediss+sentinel" => true,
                _ => return Err(wrong(FORMS)),
            };
            target.tls = scheme.starts_with("rediss");
            let (before, hosts) = rest.rsplit_once('@').map_or(("", rest), |(a, b)| (a, b));
            let (hosts, path) = hosts.split_once('/').unwrap_or((hosts, ""));
            if path.contains(['?', '#', '/']) || hosts.contains(['?', '#']) {
                return Err(wrong("nothing may follow the database; use the other keys of [redis]"));
            }
            if !before.is_empty() {
                let (user, password) = before.split_once(':').unwrap_or((before, ""));
                let decode = |text| decode(text).ok_or_else(|| wrong("a wrong %-escape before the `@`"));
                let (user, password) = (decode(user)?, decode(password)?);
                if !user.is_empty() {
                    target.user = user;
                }
                if !password.is_empty() {
                    target.password = password.into();
                }
            }
            let port = if sentinel { 26_379 } else { 6_379 };
            for host in hosts.split(',') {
                let host = host_and_port(host, port).ok_or_else(|| {
                    wrong("`redis.url` names no host, or a wrong port; want HOST or HOST:PORT")
                })?;
                target.hosts.push(host);
            }
            let database = if sentinel {
                let (master, database) = path.split_once(':').unwrap_or((path, ""));
                let master = if master.is_empty() { &self.master } else { master };
                if master.is_empty() {
                    return Err(wrong(
                        "the name of the primary is missing: redis+sentinel://HOST:PORT/MASTER",
                    ));
                }
                target.kind = RedisKind::Sentinel(master.to_owned());
                database
            } else {
                path
            };
            if !database.is_empty() {
                target.database =
                    database.parse().map_err(|_| wrong("the database is a number: redis://HOST/0"))?;
            }
        }
        if !self.sentinels.is_empty() {
            if !target.hosts.is_empty() && !matches!(target.kind, RedisKind::Sentinel(_)) {
                let message = "is set beside `redis.url`, which names a server; want one of them";
                return Err(("redis.sentinels", message.to_owned()));
            }
            if self.master.is_empty() && target.hosts.is_empty() {
                let message = "is missing: the name under which redis.sentinels know the primary";
                return Err(("redis.master", message.to_owned()));
            }
            for text in &self.sentinels {
                let message = || ("redis.sentinels", format!("{text:?}: want HOST or HOST:PORT"));
                target.hosts.push(host_and_port(text, 26_379).ok_or_else(message)?);
            }
            if target.kind == RedisKind::Single || target.kind == RedisKind::Cluster {
                target.kind = RedisKind::Sentinel(self.master.clone());
            }
        }
        if target.hosts.is_empty() {
            return Err(("redis.url", format!("mode `redis` needs the address of Redis: {FORMS}")));
        }
        match &target.kind {
            RedisKind::Single if target.hosts.len() > 1 => Err((
                "redis.url",
                "names several servers: say redis.cluster = true, or use redis+sentinel://".to_owned(),
            )),
            RedisKind::Sentinel(_) if self.cluster => {
                Err(("redis.cluster", "a cluster has no sentinels; want one of them".to_owned()))
            }
            RedisKind::Cluster if target.database != 0 => {
                Err(("redis.database", "a cluster has the database 0 only".to_owned()))
            }
            _ => Ok(target),
        }
    }

    /// What is wrong with the section.
    pub(super) fn check(&self, findings: &mut Vec<Wrong>) {
        if let Err(wrong) = self.target() {
            findings.push(wrong);
        }
        if self.prefix.is_empty()
            || self.prefix.len() > 64
            || self.prefix.contains(|c: char| {
                !c.is_ascii_graphic() || matches!(c, '{' | '}' | '*' | '?' | '[' | ']' | '\\')
            })
        {
            findings.push((
                "redis.prefix",
                "want 1 to 64 visible ASCII characters without { } * ? [ ] \\: braces decide where a cluster keeps a key"
                    .to_owned(),
            ));
        }
        if !self.password.expose_secret().is_empty() && !self.password_file.as_os_str().is_empty() {
            findings
                .push(("redis.password_file", "is set beside redis.password; want one of them".to_owned()));
        }
        for (key, url) in std::iter::once(("redis.advertise_url", &self.advertise_url))
            .filter(|(_, url)| !url.is_empty())
            .chain(self.peers.iter().map(|url| ("redis.peers", url)))
        {
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            if rest.is_none_or(|rest| {
                rest.is_empty() || rest.starts_with('/') || rest.contains(['@', '?', '#', ' '])
            }) {
                findings.push((key, format!("{url:?}: want http://HOST:PORT or https://HOST:PORT")));
            }
        }
        if self.slow_ms > self.deadline_ms {
            findings
                .push(("redis.slow_ms", "is above redis.deadline_ms, which ends a call first".to_owned()));
        }
    }
}

/// Host and port of `HOST`, `HOST:PORT` or `[HOST]:PORT`; `port` where none is said.
pub(crate) fn host_and_port(text: &str, port: u16) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        let port = match after.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if after.is_empty() => port,
            None => return None,
        };
        (host, port)
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, port),
        }
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    (!host.is_empty() && host.chars().all(good) && port != 0).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<RedisTarget, Wrong> {
        toml::from_str::<Redis>(text).unwrap().target()
    }

    #[test]
    fn every_form_of_an_address_is_read() {
        let host = |name: &str, port| (name.to_owned(), port);
        let read = target("url = \"redis://h\"").unwrap();
        assert_eq!((read.tls, read.hosts, read.kind), (false, vec![host("h", 6379)], RedisKind::Single));
        let read = target("url = \"rediss://me:p%40%2Fw@[::1]:1/3\"").unwrap();
        assert_eq!((read.tls, read.hosts, read.database), (true, vec![host("::1", 1)], 3));
        assert_eq!((read.user.as_str(), read.password.expose_secret()), ("me", "p@/w"));
        let read = target("url = \"redis+sentinel://:pw@a,b:2/main:1\"").unwrap();
        assert_eq!(read.kind, RedisKind::Sentinel("main".into()));
        assert_eq!((read.hosts, read.database), (vec![host("a", 26_379), host("b", 2)], 1));
        let read = target("sentinels = [\"a\", \"b:1\"]\nmaster = \"m\"").unwrap();
        assert_eq!(read.kind, RedisKind::Sentinel("m".into()));
        let read = target("cluster = true\nurl = \"redis://a,b:7\"").unwrap();
        assert_eq!((read.kind, read.hosts), (RedisKind::Cluster, vec![host("a", 6379), host("b", 7)]));
    }

    #[test]
    fn a_wrong_address_is_named_without_its_secret() {
        for (text, key, part) in [
            ("", "redis.url", "needs the address"),
            ("url = \"http://h\"", "redis.url", "rediss:// for TLS"),
            ("url = \"redis://:hush@\"", "redis.url", "no host"),
            ("url = \"redis://h:99999\"", "redis.url", "port"),
            ("url = \"redis://h/x\"", "redis.url", "number"),
            ("url = \"redis://h/0?a=b\"", "redis.url", "nothing may follow"),
            ("url = \"redis://:%zz@h\"", "redis.url", "escape"),
            ("url = \"redis://a,b\"", "redis.url", "cluster = true"),
            ("url = \"redis+sentinel://a\"", "redis.url", "name of the primary"),
            ("sentinels = [\"a\"]", "redis.master", "name"),
            ("url = \"redis://h\"\nsentinels = [\"a\"]\nmaster = \"m\"", "redis.sentinels", "one of them"),
            ("cluster = true\nurl = \"redis://h/1\"", "redis.database", "0 only"),
            ("cluster = true\nurl = \"redis+sentinel://h/m\"", "redis.cluster", "no sentinels"),
        ] {
            let (found, message) = target(text).unwrap_err();
            assert!(found == key && message.contains(part) && !message.contains("hush"), "{text}: {message}");
        }
    }
}
