//! Prints a configuration without its secrets.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serializer;
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use toml::{Table, Value};

use super::source::Loaded;

/// What stands in place of a secret.
pub const HIDDEN: &str = "[secret]";

/// The effective configuration as TOML, each key with its source as a comment.
#[must_use]
pub fn show(loaded: &Loaded) -> String {
    let mut out = String::new();
    match Table::try_from(&loaded.config) {
        Ok(table) => section(&mut out, "", "", &table, loaded),
        // Only a number beyond TOML's 64 bits could end here, and none passes the checks.
        Err(error) => out.push_str(&format!("# cannot be shown: {error}\n")),
    }
    out
}

fn section(out: &mut String, header: &str, path: &str, table: &Table, loaded: &Loaded) {
    let (tables, values): (Vec<_>, Vec<_>) = table.iter().partition(|(_, value)| value.is_table());
    if !values.is_empty() && !header.is_empty() {
        out.push_str(&format!("\n[{header}]\n"));
    }
    for (key, value) in values {
        let source = loaded.source_of(&super::shape::join(path, key));
        out.push_str(&format!("{} = {value}  # {source}\n", quoted(key)));
    }
    for (key, value) in tables {
        if let Value::Table(inner) = value {
            let header = super::shape::join(header, &quoted(key));
            section(out, &header, &super::shape::join(path, key), inner, loaded);
        }
    }
}

fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { key.to_owned() } else { Value::String(key.to_owned()).to_string() }
}

/// Serialises a secret as [`HIDDEN`], an empty one as empty.
pub(super) fn secret<S: Serializer>(value: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(hide(value))
}

/// Serialises a map of secrets: names as they are, values hidden.
pub(super) fn secrets<S: Serializer>(
    values: &BTreeMap<String, SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(values.len()))?;
    for (name, value) in values {
        map.serialize_entry(name, hide(value))?;
    }
    map.end()
}

/// Serialises maps of secrets by name: names as they are, values hidden.
pub(super) fn secrets_by_name<S: Serializer>(
    all: &BTreeMap<String, BTreeMap<String, SecretString>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(all.len()))?;
    for (name, values) in all {
        let hidden: BTreeMap<&str, &str> =
            values.iter().map(|(key, value)| (key.as_str(), hide(value))).collect();
        map.serialize_entry(name, &hidden)?;
    }
    map.end()
}

/// Serialises the arguments of a program; what follows a flag that is named like a secret is hidden.
pub(super) fn arguments<S: Serializer>(values: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(values.len()))?;
    let mut hide_next = false;
    for value in values {
        let (shown, hide) = argument(value, hide_next);
        hide_next = hide;
        list.serialize_element(&shown)?;
    }
    list.end()
}

/// Serialises an address without its user, password and query.
pub(super) fn address<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&without_credentials(value))
}

/// Like [`address`], for an address that is kept as a secret.
pub(super) fn secret_address<S: Serializer>(value: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    address(value.expose_secret(), serializer)
}

fn hide(value: &SecretString) -> &'static str {
    if value.expose_secret().is_empty() { "" } else { HIDDEN }
}

/// An argument as it may be shown, and whether the next one is a secret.
fn argument(value: &str, hidden: bool) -> (String, bool) {
    if hidden && !value.starts_with("--") {
        return (HIDDEN.to_owned(), false);
    }
    match value.split_once(['=', ':']) {
        Some((name, _)) if names_a_secret(name) => {
            let separator =
                if value.get(name.len()..).is_some_and(|rest| rest.starts_with('=')) { "=" } else { ": " };
            (format!("{name}{separator}{HIDDEN}"), false)
        }
        _ if value.contains("://") => (without_credentials(value), false),
        _ => (value.to_owned(), value.starts_with('-') && names_a_secret(value)),
    }
}

fn names_a_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["token", "secret", "passw", "auth", "credential", "cookie"].iter().any(|word| name.contains(word))
        || name.ends_with("key")
}

fn without_credentials(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return if address.contains('@') { HIDDEN.to_owned() } else { address.to_owned() };
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // The last `@` before the path: a password may hold one itself, and a `/` too, so look beyond it as well.
    let (authority, path) = match rest.rfind('@') {
        Some(at) if at >= end => return format!("{scheme}://{HIDDEN}"),
        _ => rest.split_at(end),
    };
    let authority = authority
        .rsplit_once('@')
        .map_or_else(|| authority.to_owned(), |(_, host)| format!("{HIDDEN}@{host}"));
    let path = path.split_once('?').map_or_else(|| path.to_owned(), |(path, _)| format!("{path}?{HIDDEN}"));
    format!("{scheme}://{authority}{path}")
}

/// Line `number` (from 1) of a configuration file as it may be shown in an error message: what is assigned to a key
/// that holds a secret is left out.
pub(super) fn source_line(text: &str, number: usize) -> Option<String> {
    let at = number.checked_sub(1)?;
    let line = text.lines().nth(at)?.trim_end();
    let section =
        text.lines().take(at).filter(|line| line.trim_start().starts_with('[')).last().unwrap_or_default();
    let secret_section = [".env]", ".headers]"].iter().any(|end| section.trim_end().ends_with(end))
        || section.contains(".headers_by_principal");
    // A further line of `store.keys`: base64 ends with the sign that ends a key here.
    let key_line = section.trim() == "[store]"
        && line.trim_start().split_once(':').is_some_and(|(id, _)| id.parse::<u8>().is_ok());
    if key_line {
        return Some("…".to_owned());
    }
    let Some((key, _)) = line.split_once('=') else {
        // A continued list or text: only its first line tells what it belongs to.
        return Some(if line.contains("://") || secret_section { "…".to_owned() } else { line.to_owned() });
    };
    let last = key.trim().rsplit('.').next().unwrap_or_default().trim_matches(['"', '\'', ' ']);
    let secret = secret_section
        || matches!(
            last,
            "sha256"
                | "url"
                | "keys"
                | "store"
                | "env"
                | "headers"
                | "headers_by_principal"
                | "proxy"
                | "args"
                | "tokens"
                | "redis"
        )
        || key.contains(".env.")
        || key.contains(".headers.")
        || key.contains("headers_by_principal.")
        || names_a_secret(last);
    Some(if secret { format!("{}= …", key) } else { line.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_loses_its_credentials_and_keeps_its_host() {
        for (address, shown) in [
            ("", ""),
            ("redis://redis.example:6379/0", "redis://redis.example:6379/0"),
            ("redis://:pw@redis.example:6379/0", "redis://[secret]@redis.example:6379/0"),
            ("rediss://user:p@ss@h/1", "rediss://[secret]@h/1"),
            ("redis://:p/w@h/1", "redis://[secret]"),
            ("https://h/mcp?key=abc", "https://h/mcp?[secret]"),
            ("user:pw@h", "[secret]"),
        ] {
            assert_eq!(without_credentials(address), shown);
        }
    }

    #[test]
    fn arguments_that_carry_secrets_are_hidden() {
        let shown = |values: &[&str]| {
            let mut hide = false;
            let mut out = Vec::new();
            for value in values {
                let (text, next) = argument(value, hide);
                hide = next;
                out.push(text);
            }
            out.join(" ")
        };
        assert_eq!(shown(&["-y", "pkg", "--api-key", "abc", "dir"]), "-y pkg --api-key [secret] dir");
        assert_eq!(shown(&["--token=abc", "postgres://u:p@h/d"]), "--token=[secret] postgres://[secret]@h/d");
        assert_eq!(shown(&["--header", "Authorization: Bearer abc"]), "--header Authorization: [secret]");
        assert_eq!(shown(&["--auth", "--verbose"]), "--auth --verbose");
    }

    #[test]
    fn a_shown_line_keeps_no_secret() {
        let text =
            "mode = \"x\"\n[redis]\nurl = \"redis://:pw@h\"\n[servers.a.env]\nANY = \"pw\"\nlisten = 1\n";
        assert_eq!(source_line(text, 1).as_deref(), Some("mode = \"x\""));
        assert_eq!(source_line(text, 3).as_deref(), Some("url = …"));
        assert_eq!(source_line(text, 5).as_deref(), Some("ANY = …"));
        assert_eq!(source_line(text, 9), None);
        for (line, shown) in [(2, "keys = …"), (3, "…"), (4, "…")] {
            assert_eq!(source_line("[store]\nkeys = \"\"\"1:pw\n2:pw=\n 3:pw", line).as_deref(), Some(shown));
        }
        assert_eq!(source_line("a.headers.X = \"pw\"", 1).as_deref(), Some("a.headers.X = …"));
    }
}
