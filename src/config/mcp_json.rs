//! The JSON in which desktop clients and editors keep their MCP servers: `{"mcpServers": {NAME: {…}}}`, or `"servers"`.
//!
//! Comments and trailing commas are taken as the editors take them. `${NAME}`, `${NAME:-default}`, `${env:NAME}`,
//! `${workspaceFolder}` and `${userHome}` are replaced in values. What we do not know is ignored with a warning.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use toml::{Table, Value};

use super::error::{ConfigError, Problem};
use super::file::line_and_column;
use super::shape::nearest;

/// The servers of one file.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By name: tables of `[servers.NAME]`.
    pub(super) servers: BTreeMap<String, Table>,
    /// What was passed over.
    pub(super) warnings: Vec<String>,
}

/// Where the values of `${NAME}` come from.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a file.
///
/// # Errors
/// It cannot be read, is not such JSON (line and column are named), names a server twice, or a variable that is not set.
pub(super) fn read(current_dir: &Path, path: &Path, variables: Variables<'_>) -> Result<Found, ConfigError> {
    let text = std::fs::read_to_string(current_dir.join(path))
        .map_err(|error| Problem::general(format!("{}: cannot be read: {error}", path.display())))?;
    parse(current_dir, &path.display().to_string(), &text, variables)
}

fn parse(current_dir: &Path, name: &str, text: &str, variables: Variables<'_>) -> Result<Found, ConfigError> {
    let document: Document = serde_json::from_str(&plain(text)).map_err(|error| {
        let (line, column, message) = (error.line(), error.column(), error.to_string());
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        Problem::general(format!("{name}:{line}:{column}: {message}"))
    })?;
    let mut found = Found::default();
    for key in document.ignored {
        found.warnings.push(format!("{name}: `{key}` is ignored"));
    }
    let Some(entries) = document.servers else {
        return Err(Problem::general(format!("{name}: has no `mcpServers` (or `servers`)")).into());
    };
    for (given, entry) in entries.0 {
        for key in &entry.ignored {
            found.warnings.push(format!("{name}: server `{given}`: `{key}` is ignored"));
        }
        if entry.disabled {
            continue;
        }
        if entry.command.is_none()
            && entry.url.is_none()
            && let Some((key, near)) = entry
                .ignored
                .iter()
                .find_map(|key| Some((key, nearest(key, ["command", "url"].into_iter())?)))
        {
            let (line, column) = place_of(text, &given, key);
            return Err(Problem::general(format!(
                "{name}:{line}:{column}: server `{given}`: unknown key `{key}`; did you mean `{near}`?"
            ))
            .into());
        }
        let server = in_alphabet(&given);
        if server != given {
            found.warnings.push(format!("{name}: server `{given}` is called `{server}` here"));
        }
        let expand = |text: &str| {
            expand(text, current_dir, variables)
                .map_err(|reason| Problem::general(format!("{name}: server `{given}`: {reason}")))
        };
        let table = entry.into_table(&expand)?;
        if found.servers.insert(server.clone(), table).is_some() {
            return Err(
                Problem::general(format!("{name}: two servers are called `{server}`; rename one")).into()
            );
        }
    }
    Ok(found)
}

/// Line and column of a key of a server, from 1.
fn place_of(text: &str, server: &str, key: &str) -> (usize, usize) {
    let quoted = |word: &str| format!("\"{word}\"");
    let after = text.find(&quoted(server)).unwrap_or(0);
    let at = text.get(after..).and_then(|rest| rest.find(&quoted(key))).map_or(after, |at| after + at);
    line_and_column(text, at)
}

/// A name that `[servers.NAME]` takes: other characters become `-`, and it is cut at 32.
fn in_alphabet(name: &str) -> String {
    let map = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' };
    name.trim().chars().map(map).take(32).collect()
}

/// JSON with comments and trailing commas made plain JSON; every byte keeps its place.
fn plain(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let mut at = 0;
    let mut comma = None;
    while let Some(&byte) = out.get(at) {
        let rest = out.get(at..).unwrap_or_default();
        if byte == b'"' {
            at += string_end(rest);
            comma = None;
            continue;
        }
        let comment = if rest.starts_with(b"//") {
            rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            rest.windows(2).skip(2).position(|pair| pair == b"*/").map_or(0, |end| end + 4)
        } else {
            0
        };
        if comment > 0 {
            blank(&mut out, at..at + comment);
            at += comment;
            continue;
        }
        match (byte, comma) {
            (b',', _) => comma = Some(at),
            (b'}' | b']', Some(place)) => {
                blank(&mut out, place..place + 1);
                comma = None;
            }
            (b' ' | b'\t' | b'\r' | b'\n', _) => {}
            _ => comma = None,
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

fn string_end(text: &[u8]) -> usize {
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn blank(bytes: &mut [u8], range: std::ops::Range<usize>) {
    for byte in bytes.get_mut(range).unwrap_or_default() {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// Replaces `${…}`.
pub(super) fn expand(text: &str, current_dir: &Path, variables: Variables<'_>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((inside, remains)) = after.split_once('}') else { break };
        out.push_str(before);
        out.push_str(&variable(inside, current_dir, variables)?);
        rest = remains;
    }
    out.push_str(rest);
    Ok(out)
}

fn variable(inside: &str, current_dir: &Path, variables: Variables<'_>) -> Result<String, String> {
    match inside {
        "workspaceFolder" => return Ok(current_dir.display().to_string()),
        "userHome" => return variables("HOME").ok_or_else(|| "`${userHome}`: HOME is not set".to_owned()),
        "pathSeparator" | "/" => return Ok("/".to_owned()),
        _ => {}
    }
    if inside.starts_with("input:") {
        return Err(format!("`${{{inside}}}` would ask a person; write `${{env:NAME}}` and set NAME"));
    }
    let name = inside.strip_prefix("env:").unwrap_or(inside);
    let (name, default) = name.split_once(":-").map_or((name, None), |(name, default)| (name, Some(default)));
    variables(name)
        .filter(|value| default.is_none() || !value.is_empty())
        .or_else(|| default.map(str::to_owned))
        .ok_or_else(|| format!("`${{{inside}}}`: the environment variable {name} is not set"))
}

#[derive(Default)]
struct Document {
    servers: Option<Entries>,
    ignored: Vec<String>,
}

/// In the order of the file, repeated names included.
#[derive(Default)]
struct Entries(Vec<(String, Entry)>);

#[derive(Default)]
struct Entry {
    command: Option<String>,
    args: Option<Vec<String>>,
    env: Option<BTreeMap<String, Scalar>>,
    cwd: Option<String>,
    url: Option<String>,
    headers: Option<BTreeMap<String, Scalar>>,
    /// `type` is `sse`; all others say only what `command` and `url` say as well.
    sse: bool,
    disabled: bool,
    ignored: Vec<String>,
}

impl Entry {
    fn into_table(self, expand: &dyn Fn(&str) -> Result<String, Problem>) -> Result<Table, Problem> {
        let mut table = Table::new();
        for (key, text) in [("command", self.command), ("cwd", self.cwd), ("url", self.url)] {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                table.insert(key.to_owned(), Value::String(expand(&text)?));
            }
        }
        if let Some(args) = self.args {
            let args =
                args.iter().map(|arg| expand(arg).map(Value::String)).collect::<Result<Vec<_>, _>>()?;
            table.insert("args".to_owned(), Value::Array(args));
        }
        if let Some(env) = self.env.filter(|map| !map.is_empty()) {
            let env = env
                .into_iter()
                .map(|(name, Scalar(text))| Ok((name, Value::String(expand(&text)?))))
                .collect::<Result<Table, Problem>>()?;
            table.insert("env".to_owned(), Value::Table(env));
        }
        // Variables in headers are replaced with those of every other server.
        if let Some(headers) = self.headers.filter(|map| !map.is_empty()) {
            let headers =
                headers.into_iter().map(|(name, Scalar(text))| (name, Value::String(text))).collect();
            table.insert("headers".to_owned(), Value::Table(headers));
        }
        if self.sse {
            table.insert("transport".to_owned(), Value::String("sse".to_owned()));
        }
        Ok(table)
    }
}

/// A text; some files write numbers and booleans where a variable's text is meant.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl Visitor<'_> for Texts {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

/// Reads a JSON object key by key, so that every error keeps its line and column and no key is lost.
trait FromKeys: Default {
    const WHAT: &'static str;

    /// Takes the value of `key` from `map`.
    fn take<'de, M: MapAccess<'de>>(&mut self, key: String, map: &mut M) -> Result<(), M::Error>;
}

struct Keys<T>(std::marker::PhantomData<T>);

impl<'de, T: FromKeys> Visitor<'de> for Keys<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WHAT)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<T, M::Error> {
        let mut value = T::default();
        while let Some(key) = map.next_key::<String>()? {
            value.take(key, &mut map)?;
        }
        Ok(value)
    }
}

impl FromKeys for Document {
    const WHAT: &'static str = "an object with `mcpServers`";

    fn take<'de, M: MapAccess<'de>>(&mut self, key: String, map: &mut M) -> Result<(), M::Error> {
        if key == "mcpServers" || key == "servers" {
            let Entries(more) = map.next_value()?;
            self.servers.get_or_insert_default().0.extend(more);
            return Ok(());
        }
        self.ignored.push(key);
        map.next_value::<IgnoredAny>().map(|_| ())
    }
}

impl FromKeys for Entries {
    const WHAT: &'static str = "an object of servers by name";

    fn take<'de, M: MapAccess<'de>>(&mut self, key: String, map: &mut M) -> Result<(), M::Error> {
        let entry = map.next_value()?;
        self.0.push((key, entry));
        Ok(())
    }
}

impl FromKeys for Entry {
    const WHAT: &'static str = "an object with `command` or `url`";

    fn take<'de, M: MapAccess<'de>>(&mut self, key: String, map: &mut M) -> Result<(), M::Error> {
        match key.as_str() {
            "command" => self.command = map.next_value()?,
            "args" => self.args = map.next_value()?,
            "env" => self.env = map.next_value()?,
            "cwd" => self.cwd = map.next_value()?,
            "url" => self.url = map.next_value()?,
            "headers" => self.headers = map.next_value()?,
            "disabled" => self.disabled = map.next_value::<Option<bool>>()?.unwrap_or_default(),
            "type" => match map.next_value::<Option<String>>()?.as_deref() {
                Some("sse") => self.sse = true,
                None | Some("stdio" | "http" | "streamable-http" | "streamableHttp") => {}
                Some(_) => self.ignored.push(key),
            },
            _ => {
                map.next_value::<IgnoredAny>()?;
                self.ignored.push(key);
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Found, String> {
        let variables = |name: &str| match name {
            "HOME" => Some("/home/a".to_owned()),
            "KEY" => Some("k1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        parse(Path::new("/srv/x"), "m.json", text, &variables).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_of_a_desktop_client_is_taken_as_it_is() {
        let found = parse_text(
            r#"{"mcpServers": {
                "My Files": {"command": "npx", "args": ["-y", "pkg", "${userHome}/x"], "env": {"A": "${KEY}", "N": 5},
                             "cwd": "${workspaceFolder}", "type": "stdio", "autoApprove": []},
                "off": {"command": "x", "disabled": true, "env": {"X": "${UNSET}"}}
            }, "theme": "dark"}"#,
        )
        .unwrap();
        let server = found.servers.get("My-Files").unwrap();
        let want: Table = toml::from_str(
            "command = 'npx'\nargs = ['-y', 'pkg', '/home/a/x']\ncwd = '/srv/x'\nenv = { A = 'k1', N = '5' }",
        )
        .unwrap();
        assert_eq!(server, &want);
        assert_eq!(found.servers.len(), 1);
        let warnings = found.warnings.join("\n");
        for part in ["`theme` is ignored", "`autoApprove` is ignored", "`My Files` is called `My-Files` here"]
        {
            assert!(warnings.contains(part), "{warnings}");
        }
    }

    #[test]
    fn remote_servers_keep_their_headers_and_say_how_they_are_reached() {
        let found = parse_text(
            r#"{"mcpServers": {
                "a": {"type": "streamable-http", "url": "https://${KEY}.example/mcp", "headers": {"Authorization": "Bearer ${UNSET}", "X-N": 5}},
                "b": {"type": "sse", "url": "https://b.example/sse"},
                "c": {"type": "websocket", "url": "https://c.example"}
            }}"#,
        )
        .unwrap();
        let want: Table = toml::from_str(
            "url = 'https://k1.example/mcp'\nheaders = { Authorization = 'Bearer ${UNSET}', X-N = '5' }",
        )
        .unwrap();
        assert_eq!(found.servers["a"], want);
        assert_eq!(found.servers["b"]["transport"].as_str(), Some("sse"));
        assert!(
            found.warnings.iter().any(|warning| warning.contains("`type` is ignored")),
            "{:?}",
            found.warnings
        );
    }

    #[test]
    fn a_file_of_an_editor_may_have_comments_and_trailing_commas() {
        let found = parse_text(
            "{ // servers\n \"servers\": {\"a\": {\"command\": \"//x\", \"args\": [\"1,]\",],}, /* , */ }, }",
        );
        let server = found.unwrap().servers.remove("a").unwrap();
        assert_eq!(server["command"].as_str(), Some("//x"));
        assert_eq!(server["args"].as_array().unwrap()[0].as_str(), Some("1,]"));
    }

    #[test]
    fn defaults_of_variables_are_used_when_they_are_unset_or_empty() {
        let variables = |name: &str| (name == "EMPTY").then(String::new);
        let expand = |text: &str| expand(text, Path::new("/"), &variables);
        assert_eq!(expand("a${X:-b}c${env:EMPTY:-d}${EMPTY}$Y ${"), Ok("abcd$Y ${".to_owned()));
        assert!(expand("${X}").unwrap_err().contains("X is not set"));
        assert!(expand("${input:key}").unwrap_err().contains("${env:NAME}"));
    }

    #[test]
    fn bad_files_name_their_place() {
        for (text, part) in [
            ("{\n  \"mcpServers\": {]}", "m.json:2:18: "),
            ("{\"mcpServers\": {\"a\": {\"command\": 5}}}", "m.json:1:34: invalid type"),
            ("{\"mcpServers\": {\"a\": {\"args\": \"x\"}}}", "expected a sequence"),
            (
                "{\"mcpServers\": {\n  \"a\": {\"comand\": \"x\"}}}",
                "m.json:2:9: server `a`: unknown key `comand`; did you mean `command`?",
            ),
            ("[]", "expected an object with `mcpServers`"),
            ("{}", "has no `mcpServers`"),
            ("", "m.json:1:0: EOF"),
            (
                "{\"servers\": {\"a\": {\"command\": \"${UNSET}\"}}}",
                "server `a`: `${UNSET}`: the environment variable UNSET",
            ),
            ("{\"servers\": {\"a.b\": {}, \"a b\": {}}}", "two servers are called `a-b`"),
            ("{\"servers\": {\"a\": {}, \"a\": {}}}", "two servers are called `a`"),
            ("{\"servers\": /* {}", "m.json:1:"),
        ] {
            let shown = parse_text(text).map(|_| ()).unwrap_err();
            assert!(shown.contains(part), "{text}: {shown}");
        }
    }
}
