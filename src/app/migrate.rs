//! `outlast migrate`: sessions of other servers become sessions here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::{ArgGroup, Args, Subcommand};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Failure;
use super::operator::Operator;
use super::settings::Settings;
use super::text::printable;
use crate::base::limits::{FLASK_SESSION_BYTES, TAKE_OVER_BYTES, TAKE_OVER_SESSIONS};
use crate::config::source::{Flag, Inputs};
use crate::config::{FlaskRedis, flask_redis};
use crate::store::redis::import::Walk;

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Put in the sessions of the Flask bridge: from its Redis, or from a file of lines of JSON
    ///
    /// While a server runs on the data directory it takes them; else they are put into the directory. What is here
    /// already stays as it is, so this can be run again.
    ImportFlask(ImportFlask),
}

#[derive(Clone, Debug, Default, Args)]
#[command(group = ArgGroup::new("source").args(["redis", "file"]))]
pub(crate) struct ImportFlask {
    /// Its Redis [default: as REDIS_HOST, REDIS_PORT, REDIS_DB and REDIS_PASSWORD say, else redis://localhost:6379/0].
    /// A password is better said by REDIS_PASSWORD: others can see this line
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Lines of JSON instead: {"key": "mcp_session:ID", "ttl": SECONDS, "value": …}; "-" is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What its keys begin with, before the colon [default: MCP_SESSION_KEY_PREFIX, else mcp_session]
    #[arg(long)]
    prefix: Option<String>,
    /// Whose the sessions are to be [default: anonymous, as long as nobody has to authenticate]
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// Only read and count
    #[arg(long)]
    dry_run: bool,
    /// Configuration file [default: ./config.toml when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory [default: as for `outlast serve`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command. `print` gets the report, also where not all went well: what was done is worth knowing then.
pub(crate) fn run(
    command: MigrateCommand,
    print: impl FnOnce(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let MigrateCommand::ImportFlask(args) = command;
    import_flask(&args, print)
}

fn import_flask(args: &ImportFlask, print: impl FnOnce(&str) -> Result<(), Failure>) -> Result<(), Failure> {
    let data_dir = args.data_dir.clone().map(|dir| Flag {
        name: "--data-dir",
        key: "store.data_dir",
        value: toml::Value::String(dir),
    });
    let inputs = Inputs::of_process(args.config.clone(), Vec::new(), data_dir.into_iter().collect())?;
    let config = Settings::new(inputs).load()?.config;
    let principal = match &args.principal {
        Some(principal) if principal.is_empty() || principal.chars().any(char::is_control) => {
            return Err(Failure::Usage("--principal: want the name of a principal".into()));
        }
        Some(principal) => principal.clone(),
        None if config.auth.tokens.is_empty() => "anonymous".to_owned(),
        None => {
            return Err(Failure::Usage(
                "callers have to authenticate (auth.tokens): say whose the sessions are with --principal"
                    .into(),
            ));
        }
    };
    let place = flask_redis(&|name| std::env::var(name).ok())
        .map_err(|problem| Failure::Usage(problem.to_string()))?;
    let prefix = args.prefix.clone().unwrap_or_else(|| place.prefix.clone());
    let mut batches = Batches::new(principal, (!args.dry_run).then(|| Operator::new(config)));
    let read = match &args.file {
        Some(file) => read_file(file, &prefix, &mut batches),
        None => read_redis(args.redis.clone(), place, &prefix, &mut batches),
    };
    let done = read.and_then(|()| batches.send());
    let (report, operator) = (batches.report, batches.operator);
    let ended = operator.map_or(Ok(()), Operator::end);
    let text = if args.json { format!("{}\n", json!(report)) } else { report.lines(args.dry_run) };
    if report.read > 0 || done.is_ok() {
        print(&text)?;
    }
    done.and(ended)?;
    match report.failed.len() {
        0 => Ok(()),
        failed => Err(anyhow!("{failed} of {} sessions cannot be imported", report.read).into()),
    }
}

/// One session on its way.
#[derive(Serialize)]
struct Outgoing {
    session_id: String,
    left_ms: Option<u64>,
    values: Box<RawValue>,
}

/// What became of sessions.
#[derive(Debug, Default, Serialize)]
struct Report {
    read: u64,
    imported: u64,
    existing: u64,
    expired: u64,
    failed: Vec<Failed>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Failed {
    session_id: String,
    reason: String,
}

impl Report {
    fn fail(&mut self, session_id: &str, reason: impl Into<String>) {
        self.failed.push(Failed { session_id: session_id.to_owned(), reason: reason.into() });
    }

    fn lines(&self, dry_run: bool) -> String {
        let mut out = match dry_run {
            true => format!(
                "{} sessions read, {} of them expired; nothing was changed\n",
                self.read, self.expired
            ),
            false => format!(
                "{} sessions read: {} imported, {} here already, {} expired\n",
                self.read, self.imported, self.existing, self.expired
            ),
        };
        for Failed { session_id, reason } in &self.failed {
            out.push_str(&format!("{}: {}\n", printable(session_id), printable(reason)));
        }
        out
    }
}

/// Sends sessions on, some at a time.
struct Batches {
    principal: String,
    /// None: nothing is sent.
    operator: Option<Operator>,
    waiting: Vec<Outgoing>,
    bytes: usize,
    report: Report,
}

impl Batches {
    fn new(principal: String, operator: Option<Operator>) -> Self {
        Self { principal, operator, waiting: Vec::new(), bytes: 0, report: Report::default() }
    }

    fn add(&mut self, session_id: &str, left_ms: Option<u64>, content: &str) -> Result<(), Failure> {
        self.report.read += 1;
        // Not kept as numbers and lists: what is not looked into cannot be changed.
        match serde_json::from_str::<BTreeMap<String, &RawValue>>(content) {
            Ok(_) => {}
            Err(_) => {
                self.report.fail(session_id, "its content is not a JSON object");
                return Ok(());
            }
        }
        let Ok(values) = RawValue::from_string(content.to_owned()) else { return Ok(()) };
        if self.operator.is_none() {
            self.report.expired += u64::from(left_ms == Some(0));
            return Ok(());
        }
        self.bytes += content.len();
        self.waiting.push(Outgoing { session_id: session_id.to_owned(), left_ms, values });
        match self.waiting.len() >= TAKE_OVER_SESSIONS || self.bytes >= TAKE_OVER_BYTES {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn send(&mut self) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Body<'a> {
            principal: &'a str,
            sessions: Vec<Outgoing>,
        }
        #[derive(Deserialize)]
        struct Answer {
            imported: u64,
            existing: u64,
            expired: u64,
            failed: Vec<Failed>,
        }
        let Some(operator) = &mut self.operator else { return Ok(()) };
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let body = Body { principal: &self.principal, sessions: std::mem::take(&mut self.waiting) };
        let body = serde_json::to_vec(&body).context("the sessions cannot be written as JSON")?;
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static("/admin/flask/import");
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = operator.ask(&request)?;
        if !answer.status().is_success() {
            let told: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
            let reason = told.pointer("/error/message").and_then(Value::as_str).unwrap_or("no reason");
            return Err(anyhow!("the server answered {}: {}", answer.status(), printable(reason)).into());
        }
        let answer: Answer =
            serde_json::from_slice(answer.body()).context("the answer of the server cannot be read")?;
        self.report.imported += answer.imported;
        self.report.existing += answer.existing;
        self.report.expired += answer.expired;
        self.report.failed.extend(answer.failed);
        Ok(())
    }
}

fn read_redis(
    url: Option<String>,
    place: FlaskRedis,
    prefix: &str,
    batches: &mut Batches,
) -> Result<(), Failure> {
    let url = url.map_or(place.url, SecretString::from);
    let connect = Duration::from_secs(place.connect_timeout_seconds);
    let answer = Duration::from_secs(place.answer_timeout_seconds);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let mut walk = runtime.block_on(Walk::open(&url, prefix, connect, answer)).map_err(anyhow::Error::new)?;
    while let Some(found) = runtime.block_on(walk.next()).map_err(anyhow::Error::new)? {
        for stored in found {
            match stored.content {
                Ok(content) => batches.add(&stored.name, stored.left_ms, &content)?,
                Err(reason) => {
                    batches.report.read += 1;
                    batches.report.fail(&stored.name, reason);
                }
            }
        }
    }
    Ok(())
}

/// One line of a file.
#[derive(Deserialize)]
struct Line {
    key: String,
    /// Seconds; below 0: for ever.
    ttl: Option<i64>,
    /// Milliseconds; below 0: for ever.
    pttl: Option<i64>,
    /// The content: its text as a string, or the object itself.
    value: Box<RawValue>,
}

fn read_file(path: &Path, prefix: &str, batches: &mut Batches) -> Result<(), Failure> {
    let source: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Box::new(BufReader::new(file))
    };
    read_lines(source, &path.display().to_string(), prefix, batches)
}

fn read_lines(
    mut source: impl BufRead,
    name: &str,
    prefix: &str,
    batches: &mut Batches,
) -> Result<(), Failure> {
    let most = u64::try_from(FLASK_SESSION_BYTES).unwrap_or(u64::MAX).saturating_mul(2);
    let prefix = format!("{prefix}:");
    for number in 1_u64.. {
        let mut line = Vec::new();
        let read = source.by_ref().take(most).read_until(b'\n', &mut line);
        let read = read.with_context(|| format!("{name} cannot be read"))?;
        if read == 0 {
            break;
        }
        if line.len() as u64 >= most {
            return Err(anyhow!("{name}:{number}: the line is longer than {most} bytes").into());
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        // Without the line itself: it has secrets.
        let line: Line = serde_json::from_slice(&line).map_err(|error| {
            anyhow!(
                "{name}:{number}:{}: want {{\"key\": \"{prefix}ID\", \"ttl\": SECONDS, \"value\": …}}",
                error.column()
            )
        })?;
        let Some(session) = line.key.strip_prefix(&prefix) else { continue };
        let left_ms = match (line.pttl, line.ttl) {
            (Some(ms), _) => u64::try_from(ms).ok(),
            (None, Some(seconds)) => u64::try_from(seconds).ok().map(|seconds| seconds.saturating_mul(1_000)),
            (None, None) => None,
        };
        let content = match serde_json::from_str::<String>(line.value.get()) {
            Ok(text) => text,
            Err(_) => line.value.get().to_owned(),
        };
        batches.add(session, left_ms, &content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Report, String> {
        let mut batches = Batches::new("anonymous".into(), None);
        match read_lines(text.as_bytes(), "f", "mcp_session", &mut batches) {
            Ok(()) => Ok(batches.report),
            Err(Failure::Failed(error)) => Err(format!("{error:#}")),
            Err(Failure::Usage(text)) => Err(text),
        }
    }

    #[test]
    fn lines_are_read_with_their_content_as_text_or_as_an_object() {
        let report = read(
            "{\"key\":\"mcp_session:a\",\"ttl\":5,\"value\":\"{\\\"x\\\":1}\"}\n\n\
             {\"key\":\"mcp_session:b\",\"value\":{\"x\":1}}\n{\"key\":\"other:c\",\"value\":{}}\n\
             {\"key\":\"mcp_session:d\",\"pttl\":0,\"value\":{}}\n{\"key\":\"mcp_session:e\",\"value\":[1]}",
        )
        .unwrap();
        assert_eq!((report.read, report.expired, report.failed.len()), (4, 1, 1));
        assert_eq!(report.failed[0].session_id, "e");
        assert!(report.lines(true).contains("4 sessions read, 1 of them expired"));
    }

    #[test]
    fn a_line_that_is_none_is_named_by_its_number_and_not_shown() {
        let error = read("{\"key\":\"mcp_session:a\",\"value\":{}}\n{\"key\": hush}\n").unwrap_err();
        assert!(error.starts_with("f:2:") && !error.contains("hush"), "{error}");
    }
}
