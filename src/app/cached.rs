//! `outlast cache`: each a request to the admin listener of the server that runs, and how the answer is shown.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use http::{Method, Request, StatusCode};
use serde_json::Value;

use super::Failure;
use super::operator::Operator;
use super::sessions::{StdoutClosed, print, print_bytes, sentence, show};
use super::settings::Settings;
use super::text::{Table, duration, printable, size};
use crate::base::percent::encode;
use crate::config::source::{Flag, Inputs};

/// Which server is asked, and how it is told.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CachePlace {
    /// Configuration file [default: ./config.toml when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory of the server to ask [default: as for `outlast serve`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Some of the results.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub(crate) struct Of {
    /// Only those of this tool, by the name that clients see
    #[arg(long, value_name = "TOOL")]
    tool: Option<String>,
    /// Only those with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

/// What is done.
#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// List the results in memory, those that were made last first
    Ls(Ls),
    /// Say what the cache holds and what it was good for
    Stats(CachePlace),
    /// Void results, on this instance and on those that share its Redis
    Clear(Clear),
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    of: Of,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    place: CachePlace,
}

#[derive(Debug, Args)]
pub(crate) struct Clear {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    place: CachePlace,
}

impl Cache {
    fn place(&self) -> &CachePlace {
        match self {
            Self::Ls(ls) => &ls.place,
            Self::Stats(place) => place,
            Self::Clear(clear) => &clear.place,
        }
    }

    fn request(&self) -> (Method, String) {
        match self {
            Self::Ls(Ls { of, limit, .. }) => {
                let mut query = of.query();
                query.extend(limit.map(|limit| format!("limit={limit}")));
                (Method::GET, path("/admin/cache/entries", &query))
            }
            Self::Stats(_) => (Method::GET, path("/admin/cache", &[])),
            Self::Clear(Clear { of, .. }) => (Method::DELETE, path("/admin/cache", &of.query())),
        }
    }

    fn shown(&self, told: &Value) -> String {
        match self {
            Self::Ls(_) => list(told),
            Self::Stats(_) => stats(told),
            Self::Clear(_) => {
                let others = match told.get("shared").and_then(Value::as_bool) {
                    Some(true) => "; the other instances are told",
                    _ => "",
                };
                format!("{} results in memory were voided{others}\n", number(told, "cleared"))
            }
        }
    }
}

impl Of {
    fn query(&self) -> Vec<String> {
        let tool = self.tool.as_ref().map(|tool| format!("tool={}", encode(tool)));
        let tag = self.tag.as_ref().map(|tag| format!("tag={}", encode(tag)));
        tool.into_iter().chain(tag).collect()
    }
}

/// `outlast cache …`
pub(super) fn run(command: &Cache) -> Result<(), Failure> {
    let place = command.place();
    let data_dir = place.data_dir.clone().map(|dir| Flag {
        name: "--data-dir",
        key: "store.data_dir",
        value: toml::Value::String(dir),
    });
    let inputs = Inputs::of_process(place.config.clone(), Vec::new(), data_dir.into_iter().collect())?;
    let mut operator = Operator::new(Settings::new(inputs).load()?.config);
    let done = match answer(&mut operator, command) {
        // Whoever reads has what was wanted.
        Err(Failure::Failed(error)) if error.is::<StdoutClosed>() => Ok(()),
        done => done,
    };
    let ended = operator.end();
    done.and(ended)
}

fn answer(operator: &mut Operator, command: &Cache) -> Result<(), Failure> {
    let (method, path) = command.request();
    let mut request = Request::new(bytes::Bytes::new());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
    let answer = operator.ask(&request)?;
    if operator.address().is_none() {
        return Err(
            anyhow!("no server runs on this data directory: results are cached by one that runs").into()
        );
    }
    match answer.status() {
        status if status.is_success() => {}
        StatusCode::BAD_REQUEST => return Err(Failure::Usage(sentence(answer.body()))),
        status => return Err(anyhow!("the server answered {status}: {}", sentence(answer.body())).into()),
    }
    let told = answer.into_body();
    if command.place().json {
        return print_bytes(&[&told[..], b"\n"].concat());
    }
    let told: Value = serde_json::from_slice(&told).context("the answer of the server is not JSON")?;
    let note = match command {
        Cache::Clear(Clear { of: Of { tool: Some(tool), .. }, .. })
            if number(&told, "cleared") == 0 && lacks(operator, tool)? =>
        {
            format!("there is no tool {tool:?}: `outlast tools ls` lists them\n")
        }
        _ => String::new(),
    };
    print(&format!("{}{note}", command.shown(&told)))
}

/// Whether the server has no tool of this name.
fn lacks(operator: &mut Operator, tool: &str) -> Result<bool, Failure> {
    let mut request = Request::new(bytes::Bytes::new());
    let path = format!("/admin/tools/{}", encode(tool));
    *request.uri_mut() = path.parse().map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
    Ok(operator.ask(&request)?.status() == StatusCode::NOT_FOUND)
}

fn path(path: &str, query: &[String]) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

fn list(told: &Value) -> String {
    let entries = told.get("entries").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if entries.is_empty() {
        return "no results\n".to_owned();
    }
    let mut table = Table::new(&["RESULT OF", "SERVER", "FOR", "AGE", "LEFT", "SIZE", "TAGS"]);
    for entry in entries {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let public = entry.get("public").and_then(Value::as_bool) == Some(true);
        let tags = entry.get("tags").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        table.row([
            text("name"),
            text("server"),
            if public { "everybody" } else { "one principal" }.to_owned(),
            duration(number(entry, "age_ms")),
            duration(number(entry, "left_ms")),
            size(number(entry, "bytes")),
            tags.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        ]);
    }
    table.lines("")
}

fn stats(told: &Value) -> String {
    let lines = [
        ("cache", show::cache(told)),
        (
            "hits",
            format!("{} of memory, {} shared", number(told, "memory_hits"), number(told, "shared_hits")),
        ),
        ("joined", format!("{} (got the result of an equal call that ran)", number(told, "joined"))),
        ("misses", number(told, "misses").to_string()),
        ("anew", format!("{} (wanted a result of now)", number(told, "anew"))),
        ("kept", number(told, "kept").to_string()),
        ("evicted", number(told, "evicted").to_string()),
        ("voided", format!("{} times", number(told, "voided"))),
        ("memory", format!("{} of {}", size(number(told, "bytes")), size(number(told, "max_bytes")))),
    ];
    lines.iter().map(|(name, value)| format!("{name:<8}  {}\n", printable(value))).collect()
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_typed_becomes_a_request() {
        let of = |tool: Option<&str>, tag: Option<&str>| Of {
            tool: tool.map(str::to_owned),
            tag: tag.map(str::to_owned),
        };
        let place = CachePlace::default;
        for (command, request) in [
            (Cache::Stats(place()), (Method::GET, "/admin/cache")),
            (
                Cache::Ls(Ls { of: of(Some("a/b"), None), limit: Some(3), place: place() }),
                (Method::GET, "/admin/cache/entries?tool=a%2Fb&limit=3"),
            ),
            (
                Cache::Clear(Clear { of: of(None, Some("x y")), place: place() }),
                (Method::DELETE, "/admin/cache?tag=x%20y"),
            ),
            (Cache::Clear(Clear { of: of(None, None), place: place() }), (Method::DELETE, "/admin/cache")),
        ] {
            assert_eq!(command.request(), (request.0, request.1.to_owned()));
        }
    }

    #[test]
    fn results_are_shown_in_a_table_and_controls_are_not_carried_out() {
        let told = json!({ "entries": [{
            "name": "get\u{1b}[2J", "server": "s", "public": false, "age_ms": 3_000, "left_ms": 60_000, "bytes": 1_536,
            "packed": false, "tags": ["a", "b"],
        }]});
        let shown = list(&told);
        assert!(
            shown.contains("one principal") && shown.contains("1.5 KiB") && shown.contains("a, b"),
            "{shown}"
        );
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert_eq!(list(&json!({ "entries": [] })), "no results\n");
    }
}
