//! `outlast tools`: each a request to the admin listener, and how the answer is shown.

pub(super) mod args;

use std::fmt::Write as _;
use std::io::{self, Read as _};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use serde_json::{Map, Value};

use self::args::{Call, Tools};
use super::operator::Operator;
use super::sessions::{StdoutClosed, print, print_bytes, sentence};
use super::settings::Settings;
use super::text::{Table, printable};
use super::{Failure, text};
use crate::base::limits::ADMIN_BODY_BYTES;
use crate::base::percent::encode;
use crate::config::source::{Flag, Inputs};

/// What is shown of a description in a table, characters.
const SUMMARY: usize = 70;

/// `outlast tools …`
pub(super) fn run(command: &Tools) -> Result<(), Failure> {
    let place = command.place();
    let data_dir = place.data_dir.clone().map(|dir| Flag {
        name: "--data-dir",
        key: "store.data_dir",
        value: toml::Value::String(dir),
    });
    let inputs =
        Inputs::of_process(place.config.clone(), place.mcp_json.clone(), data_dir.into_iter().collect())?;
    let mut operator = Operator::of_tools(Settings::new(inputs).load()?.config);
    let done = match answer(&mut operator, command) {
        // Whoever reads has what was wanted.
        Err(Failure::Failed(error)) if error.is::<StdoutClosed>() => Ok(()),
        done => done,
    };
    let ended = operator.end();
    done.and(ended)
}

fn answer(operator: &mut Operator, command: &Tools) -> Result<(), Failure> {
    let json = command.place().json;
    match command {
        Tools::Ls(_) => {
            let told = ask(operator, Method::GET, "/admin/tools", None)?;
            if json { print_json(&told) } else { print(&list(&read(&told)?)) }
        }
        Tools::Show(show) => {
            let told = ask(operator, Method::GET, &format!("/admin/tools/{}", encode(&show.name)), None)?;
            if json { print_json(&told) } else { print(&tool(&read(&told)?)) }
        }
        Tools::Call(call) => {
            let path = format!("/admin/tools/{}/call", encode(&call.name));
            let told = ask(operator, Method::POST, &path, Some(arguments(call)?))?;
            let result = read(&told);
            if json {
                print_json(&told)?;
            } else {
                print(&content(result.as_ref().unwrap_or(&Value::Null)))?;
            }
            let failed =
                result.is_ok_and(|result| result.get("isError").and_then(Value::as_bool) == Some(true));
            if failed { Err(anyhow!("the tool says that it failed").into()) } else { Ok(()) }
        }
    }
}

fn ask(operator: &mut Operator, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, Failure> {
    let mut request = Request::new(body.unwrap_or_default());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = operator.ask(&request)?;
    match answer.status() {
        status if status.is_success() => Ok(answer.into_body()),
        StatusCode::BAD_REQUEST => Err(Failure::Usage(sentence(answer.body()))),
        status => match sentence(answer.body()) {
            sentence if sentence.is_empty() => Err(anyhow!("the server answered {status}").into()),
            sentence => Err(anyhow!(sentence).into()),
        },
    }
}

/// The arguments of a call, as JSON text.
fn arguments(call: &Call) -> Result<Bytes, Failure> {
    let text = match call.arguments.as_deref() {
        Some("-") => {
            let mut text = String::new();
            let most = u64::try_from(ADMIN_BODY_BYTES).unwrap_or(u64::MAX);
            io::stdin().lock().take(most + 1).read_to_string(&mut text).context("stdin cannot be read")?;
            text
        }
        Some(text) => text.to_owned(),
        None => {
            let mut object = Map::new();
            for each in &call.arg {
                let (name, value) = each
                    .split_once('=')
                    .ok_or_else(|| Failure::Usage(format!("--arg {each}: want NAME=VALUE")))?;
                let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
                object.insert(name.to_owned(), value);
            }
            Value::Object(object).to_string()
        }
    };
    // Said here, where it was typed.
    serde_json::from_str::<Map<String, Value>>(&text).map_err(|error| {
        Failure::Usage(format!("the arguments: want a JSON object, such as {{\"path\": \".\"}}: {error}"))
    })?;
    Ok(text.into())
}

fn read(told: &[u8]) -> Result<Value, Failure> {
    Ok(serde_json::from_slice(told).context("the answer of the server is not JSON")?)
}

/// As it came, so that no number changes on the way.
fn print_json(told: &[u8]) -> Result<(), Failure> {
    print_bytes(&[told, b"\n"].concat())
}

fn list(told: &Value) -> String {
    let tools = told.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if tools.is_empty() {
        return "no tools\n".to_owned();
    }
    let mut table = Table::new(&["TOOL", "SERVER", "VERSION", "DESCRIPTION"]);
    for tool in tools {
        let description = string(tool, "description");
        let about = if description.is_empty() { string(tool, "title") } else { description };
        let line = about.lines().next().unwrap_or_default();
        let summary: String = line.chars().take(SUMMARY).collect();
        let more = if line.chars().count() > SUMMARY { "…" } else { "" };
        table.row([
            string(tool, "name").to_owned(),
            string(tool, "server").to_owned(),
            string(tool, "version").to_owned(),
            format!("{summary}{more}"),
        ]);
    }
    table.lines("")
}

fn tool(told: &Value) -> String {
    let texts = |name: &str| {
        let all = told.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let again = told.get("repeatable").and_then(Value::as_bool) == Some(true);
    let mut out = String::new();
    for (name, value) in [
        ("tool", string(told, "name").to_owned()),
        ("server", format!("{} (there: {})", string(told, "server"), string(told, "own_name"))),
        ("version", string(told, "version").to_owned()),
        ("needs", texts("needs")),
        ("intents", texts("intents")),
        ("repeatable", if again { "yes" } else { "no" }.to_owned()),
    ] {
        if !value.is_empty() {
            let _ = writeln!(out, "{name:<10}  {}", printable(&value));
        }
    }
    let description = string(told, "description");
    if !description.is_empty() {
        out.push('\n');
        description.lines().for_each(|line| {
            let _ = writeln!(out, "{}", printable(line));
        });
    }
    for (name, heading) in
        [("inputSchema", "arguments"), ("outputSchema", "result"), ("annotations", "hints")]
    {
        if let Some(schema) = told.pointer(&format!("/tool/{name}")) {
            let _ = write!(out, "\n{heading}\n{schema:#}\n");
        }
    }
    out
}

/// What a tool answers, for people: its texts as they are, everything else by its kind and size.
fn content(result: &Value) -> String {
    let mut out = String::new();
    for block in result.get("content").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
        match (string(block, "type"), block.pointer("/resource/text").and_then(Value::as_str)) {
            ("text", _) => push_lines(&mut out, string(block, "text")),
            ("resource", Some(text)) => push_lines(&mut out, text),
            (kind @ ("image" | "audio"), _) => {
                let bytes = string(block, "data").len() / 4 * 3;
                let size = text::size(u64::try_from(bytes).unwrap_or(u64::MAX));
                let _ = writeln!(out, "[{kind}, {}, about {size}]", printable(string(block, "mimeType")));
            }
            _ => {
                let _ = writeln!(out, "{block:#}");
            }
        }
    }
    if out.is_empty()
        && let Some(structured) = result.get("structuredContent")
    {
        let _ = writeln!(out, "{structured:#}");
    }
    out
}

/// Lines as they are, but for what would move the cursor.
fn push_lines(out: &mut String, text: &str) {
    for line in text.lines() {
        out.push_str(&line.split('\t').map(printable).collect::<Vec<_>>().join("\t"));
        out.push('\n');
    }
}

fn string<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn typed(arguments: Option<&str>, arg: &[&str]) -> Result<String, Failure> {
        let call = Call {
            name: "t".into(),
            arguments: arguments.map(str::to_owned),
            arg: arg.iter().map(|arg| (*arg).to_owned()).collect(),
            place: args::ToolPlace::default(),
        };
        super::arguments(&call).map(|text| String::from_utf8(text.to_vec()).unwrap())
    }

    #[test]
    fn arguments_are_an_object_or_single_values() {
        assert_eq!(typed(None, &[]).unwrap(), "{}");
        assert_eq!(typed(Some("{\"n\":1e400}"), &[]).unwrap_or_default(), "");
        assert_eq!(
            typed(Some("{\"a\":12345678901234567890123}"), &[]).unwrap(),
            "{\"a\":12345678901234567890123}"
        );
        assert_eq!(
            typed(None, &["n=3", "s=a=b", "o={\"x\":[]}"]).unwrap(),
            r#"{"n":3,"o":{"x":[]},"s":"a=b"}"#
        );
        for (text, arg) in [(Some("[1]"), &[][..]), (Some("{"), &[]), (None, &["novalue"])] {
            assert!(matches!(typed(text, arg), Err(Failure::Usage(_))), "{text:?} {arg:?}");
        }
    }

    #[test]
    fn an_answer_is_shown_by_the_kinds_of_its_parts() {
        let shown = content(&json!({ "content": [
            { "type": "text", "text": "a\tb\n\u{1b}[2J" },
            { "type": "image", "mimeType": "image/png", "data": "AAAAAAAA" },
            { "type": "resource", "resource": { "uri": "x://y", "text": "inside" } },
        ]}));
        assert_eq!(shown, "a\tb\n\\u{1b}[2J\n[image, image/png, about 6 B]\ninside\n");
        assert!(content(&json!({ "content": [], "structuredContent": { "n": 1 } })).contains("\"n\": 1"));
    }
}
