//! `outlast keys`: list, rotate and prune the keys that sign session ids and seal values.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};

use super::settings::Settings;
use super::{Failure, admin_token};
use crate::base::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::config::source::{Flag, Inputs};
use crate::store::dir::{Dir, holder};
use crate::store::keyring::{self, Keyring};

/// A rotation takes the server a few writes to its disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer of the admin listener is never that long.
const ANSWER_BYTES: u64 = 64 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List the keys: number, age, which one seals and signs, where they are. Never what they are
    Ls(KeysArgs),
    /// Add a key that seals and signs from now on. A server that runs on the data directory does it itself
    Rotate(KeysArgs),
    /// Remove keys that no value on the disk and no session id needs any more. The server must be stopped
    Prune {
        /// Seal all values with the current key first; in the clear with store.encryption = false
        #[arg(long)]
        reseal: bool,
        #[command(flatten)]
        args: KeysArgs,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct KeysArgs {
    /// Configuration file [default: ./config.toml when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where data lives [default: $STATE_DIRECTORY, else $XDG_STATE_HOME/outlast, else ~/.local/state/outlast]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address and port of the admin listener of the server that runs [default: 127.0.0.1:8809]
    #[arg(long, value_name = "ADDR:PORT")]
    admin_listen: Option<String>,
}

impl KeysArgs {
    fn config(self) -> Result<Config, Failure> {
        let texts = [
            ("--data-dir", "store.data_dir", self.data_dir),
            ("--admin-listen", "admin.listen", self.admin_listen),
        ];
        let flag = |(name, key, text): (_, _, Option<String>)| {
            text.map(|text| Flag { name, key, value: toml::Value::String(text) })
        };
        let flags = texts.into_iter().filter_map(flag).collect();
        let config = Settings::new(Inputs::of_process(self.config, Vec::new(), flags)?).load()?.config;
        if config.store.ephemeral {
            return Err(Failure::Usage("store.ephemeral is true: nothing is kept, keys neither".into()));
        }
        if !config.store.data_dir.is_dir() {
            let path = config.store.data_dir.display();
            return Err(
                anyhow!("{path} is not there: the first start of a server makes it, with its keys").into()
            );
        }
        Ok(config)
    }
}

/// Runs the command and returns what it prints.
pub(crate) fn run(command: KeysCommand) -> Result<String, Failure> {
    let now_ms = SystemClock::default().now_ms();
    match command {
        KeysCommand::Ls(args) => ls(&args.config()?, now_ms),
        KeysCommand::Rotate(args) => rotate(&args.config()?, now_ms),
        KeysCommand::Prune { reseal, args } => prune(&args.config()?, reseal, now_ms),
    }
}

fn ls(config: &Config, now_ms: u64) -> Result<String, Failure> {
    let keyring = Keyring::read(&config.store.data_dir, &config.store).map_err(anyhow::Error::new)?;
    let current = if config.store.encryption { "signs, seals" } else { "signs" };
    let mut out = format!("{:>3}  {:<12}  {:<8}  {:<6}  WHERE\n", "KEY", "USE", "AGE", "VALUES");
    for (at, entry) in keyring.entries().iter().enumerate() {
        let id = entry.secret.id();
        let _ = writeln!(
            out,
            "{id:>3}  {:<12}  {:<8}  {:<6}  {}",
            if at == 0 { current } else { "opens" },
            entry.made_ms.map_or_else(|| "unknown".to_owned(), |made_ms| age(now_ms.saturating_sub(made_ms))),
            if keyring.may_seal(id) { "maybe" } else { "none" },
            entry.place
        );
    }
    Ok(out)
}

fn age(ms: u64) -> String {
    let minutes = ms / 60_000;
    match minutes {
        0..120 => format!("{minutes} min"),
        120..2_880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1_440),
    }
}

fn rotate(config: &Config, now_ms: u64) -> Result<String, Failure> {
    let data_dir = &config.store.data_dir;
    if let Some(who) = holder(data_dir) {
        let key = tell(data_dir, &config.admin.listen).with_context(|| {
            format!(
                "{who} uses {} and could not be told to rotate its keys; or stop it, rotate, and start it again",
                data_dir.display()
            )
        })?;
        return Ok(format!("{who} signs and seals with key {key} from now on\n"));
    }
    let rotated = || {
        let dir = Dir::open(data_dir)?;
        let mut keyring = Keyring::read(dir.path(), &config.store)?;
        dir.note_format()?;
        keyring.rotate(now_ms)
    };
    let key = rotated().map_err(anyhow::Error::new)?;
    Ok(format!("key {key} signs and seals from the next start on\n"))
}

fn prune(config: &Config, reseal: bool, now_ms: u64) -> Result<String, Failure> {
    let keep_ms = config.sessions.max_ttl_seconds.saturating_mul(1_000);
    let outcome = keyring::prune(&config.store, keep_ms, reseal, now_ms).map_err(anyhow::Error::new)?;
    let mut out = String::new();
    if reseal {
        let _ = writeln!(out, "{} records were written anew", outcome.resealed);
    }
    if outcome.unopened > 0 {
        let _ = writeln!(out, "{} records could not be opened and are as they were", outcome.unopened);
    }
    for key in &outcome.keys {
        let _ = match &key.kept {
            None => writeln!(out, "key {} is removed", key.id),
            Some(why) => writeln!(out, "key {} stays: {why}", key.id),
        };
    }
    if outcome.keys.is_empty() {
        out.push_str("there is one key, and it is in use\n");
    }
    Ok(out)
}

/// Asks the server that runs for a new key.
fn tell(data_dir: &Path, listen: &str) -> anyhow::Result<u64> {
    if listen.is_empty() {
        bail!("it has no admin listener (admin.listen is empty)");
    }
    let path = data_dir.join(admin_token::FILE);
    let token =
        std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let unanswered = || format!("no answer from {listen} (admin.listen, --admin-listen)");
    let address = listen.to_socket_addrs().with_context(unanswered)?.next().with_context(unanswered)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(unanswered)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!(
        "POST /admin/keys/rotate HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n",
        token.trim()
    );
    stream.write_all(request.as_bytes()).with_context(unanswered)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).with_context(unanswered)?;
    read_answer(&String::from_utf8_lossy(&answer)).with_context(|| format!("{listen} answered"))
}

fn read_answer(answer: &str) -> anyhow::Result<u64> {
    let (head, body) = answer.split_once("\r\n\r\n").context("something that is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    match body.get("key").and_then(serde_json::Value::as_u64) {
        Some(key) if status.split(' ').nth(1) == Some("200") => Ok(key),
        _ => {
            let message = body.pointer("/error/message").or_else(|| body.get("error"));
            bail!("{status}: {}", message.and_then(serde_json::Value::as_str).unwrap_or("no reason"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_server_is_a_key_or_its_reason() {
        assert_eq!(read_answer("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{\"key\": 7}").unwrap(), 7);
        for (answer, part) in [
            ("HTTP/1.1 500 X\r\n\r\n{\"error\": {\"message\": \"disk full\"}}", "disk full"),
            ("HTTP/1.1 401 Unauthorized\r\n\r\n{\"error\": \"send a token\"}", "send a token"),
            ("HTTP/1.1 200 OK\r\n\r\nhello", "200 OK"),
            ("SSH-2.0-x", "not HTTP"),
        ] {
            let error = format!("{:#}", read_answer(answer).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn ages_are_said_in_the_unit_that_fits() {
        let shown = [59_999, 60_000, 7_200_000, 172_800_000].map(age);
        assert_eq!(shown, ["0 min", "1 min", "2 h", "2 days"]);
    }
}
