//! `outlast publish` and `outlast tail`: saying something on a topic, and hearing what is said.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::Args;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Failure;
use super::operator::Operator;
use super::sessions::args::Place;
use super::sessions::{StdoutClosed, print, sentence};
use super::settings::Settings;
use super::text::{moment, printable};
use crate::base::limits::ADMIN_BODY_BYTES;
use crate::base::percent::encode;
use crate::config::source::{Flag, Inputs};

/// `outlast publish`
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// mcp/session/KEY/message, mcp/broadcast/notification, or any topic that begins with neither mcp nor outlast
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// What is said, as JSON; on topics of mcp a JSON-RPC notification
    #[arg(long, value_name = "JSON", required_unless_present = "file", conflicts_with = "file")]
    json: Option<String>,
    /// Read what is said from a file, - for stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Configuration file [default: ./config.toml when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory [default: as for `outlast serve`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

/// `outlast tail`
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Which topics: + stands for one level, # at the end for all that follow, as in mcp/session/+/message or #
    #[arg(value_name = "FILTER", default_value = "#")]
    filter: String,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    place: Place,
}

/// What comes out of a tail: something that was said, or how many things were missed.
#[derive(Deserialize)]
struct Heard<'a> {
    #[serde(default)]
    topic: String,
    #[serde(default)]
    at_ms: u64,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

/// `outlast publish …`
pub(super) fn publish(args: &PublishArgs) -> Result<(), Failure> {
    let message = match (&args.json, &args.file) {
        (Some(message), _) => message.clone(),
        (None, Some(file)) => read(file)?,
        (None, None) => return Err(Failure::Usage("what? give it with --json, or --file".to_owned())),
    };
    let mut operator = operator(args.config.clone(), args.data_dir.clone())?;
    let mut request = Request::new(Bytes::from(message));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri("/admin/publish", &args.topic)?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = operator.ask(&request);
    operator.end()?;
    let answer = answer?;
    check(answer.status(), answer.body())?;
    let told: Value =
        serde_json::from_slice(answer.body()).context("the answer of the server is not JSON")?;
    print(&published(&told))
}

fn published(told: &Value) -> String {
    let streams = match told.get("delivered").and_then(Value::as_u64).unwrap_or_default() {
        1 => "1 live stream".to_owned(),
        n => format!("{n} live streams"),
    };
    let stored = match told.get("stored").and_then(Value::as_bool) {
        Some(true) => "stored",
        _ => "not stored",
    };
    let topic = told.get("topic").and_then(Value::as_str).unwrap_or_default();
    format!("{}: delivered to {streams}, {stored}\n", printable(topic))
}

/// `outlast tail …`
pub(super) fn tail(args: &TailArgs) -> Result<(), Failure> {
    let mut operator = operator(args.place.config.clone(), args.place.data_dir.clone())?;
    let heard = listen(&mut operator, args);
    let ended = operator.end();
    match heard {
        // Whoever reads has what was wanted.
        Err(Failure::Failed(error)) if error.is::<StdoutClosed>() => ended,
        heard => heard.and(ended),
    }
}

fn listen(operator: &mut Operator, args: &TailArgs) -> Result<(), Failure> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = uri("/admin/tail", &args.filter)?;
    let answer = operator.stream(&request)?;
    let (status, mut lines) = (answer.status(), answer.into_body());
    if !status.is_success() {
        let mut body = Vec::new();
        let most = u64::try_from(ADMIN_BODY_BYTES).unwrap_or(u64::MAX);
        lines.take(most).read_to_end(&mut body).context("the answer of the server breaks off")?;
        return check(status, &body);
    }
    let mut left = args.count;
    let mut line = String::new();
    while left != Some(0) {
        line.clear();
        if lines.read_line(&mut line).context("the server does not answer any more")? == 0 {
            return Err(anyhow!("the server has ended").into());
        }
        // Every message is one event of one line; comments say that the server is there.
        let Some(data) = line.strip_prefix("data: ").map(str::trim_end) else { continue };
        let Ok(heard) = serde_json::from_str::<Heard<'_>>(data) else {
            return Err(anyhow!("what the server says is not understood: {}", printable(data)).into());
        };
        let Some(message) = heard.message else {
            missed(data);
            continue;
        };
        if args.place.json {
            print(&format!("{data}\n"))?;
        } else {
            print(&format!(
                "{}  {}  {}\n",
                moment(heard.at_ms),
                printable(&heard.topic),
                printable(message.get())
            ))?;
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn missed(data: &str) {
    let count = serde_json::from_str::<Value>(data).ok();
    let count = count.as_ref().and_then(|told| told.get("missed")).and_then(Value::as_u64);
    let _ = match count {
        Some(count) => writeln!(
            io::stderr().lock(),
            "outlast: {count} more were said, faster than they could be shown: they are missing here"
        ),
        None => writeln!(
            io::stderr().lock(),
            "outlast: the link to Redis was away: what was said on other instances may be missing here"
        ),
    };
}

fn operator(config: Option<PathBuf>, data_dir: Option<String>) -> Result<Operator, Failure> {
    let data_dir = data_dir.map(|dir| Flag {
        name: "--data-dir",
        key: "store.data_dir",
        value: toml::Value::String(dir),
    });
    let inputs = Inputs::of_process(config, Vec::new(), data_dir.into_iter().collect())?;
    Ok(Operator::new(Settings::new(inputs).load()?.config))
}

fn uri(path: &str, topic: &str) -> Result<http::Uri, Failure> {
    let uri = format!("{path}?topic={}", encode(topic));
    uri.parse().map_err(|error| Failure::Usage(format!("{topic}: {error}")))
}

fn check(status: StatusCode, body: &[u8]) -> Result<(), Failure> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::BAD_REQUEST => Err(Failure::Usage(sentence(body))),
        status => match sentence(body) {
            sentence if sentence.is_empty() => Err(anyhow!("the server answered {status}").into()),
            sentence => Err(anyhow!(sentence).into()),
        },
    }
}

fn read(file: &std::path::Path) -> Result<String, Failure> {
    let most = u64::try_from(ADMIN_BODY_BYTES).unwrap_or(u64::MAX) + 1;
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        io::stdin().lock().take(most).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(most).read_to_string(&mut text))
    };
    read.with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_became_of_it_is_said_in_a_sentence() {
        let told = |delivered: u64, stored: bool| {
            published(&json!({ "topic": "a/b", "delivered": delivered, "stored": stored }))
        };
        assert_eq!(told(1, true), "a/b: delivered to 1 live stream, stored\n");
        assert_eq!(told(0, false), "a/b: delivered to 0 live streams, not stored\n");
    }

    #[test]
    fn a_filter_goes_into_the_query_as_it_is() {
        let text = uri("/admin/tail", "a/+/#").unwrap_or_default().to_string();
        assert_eq!(text, "/admin/tail?topic=a%2F%2B%2F%23");
    }
}
