//! What the types of a remote server's section cannot say.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};

use super::HostedServer;
use super::check::Finding;

/// Headers that a request has for reasons of its own.
const OWN: &[&str] = &[
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Finds what is wrong with the section of the remote server `name`.
pub(super) fn check(name: &str, server: &HostedServer, findings: &mut Vec<Finding>) {
    let section = format!("servers.{name}");
    let mut add = |key: &str, message: String| {
        findings.push(Finding {
            key: format!("{section}.{key}"),
            message: format!("server `{name}`: {message}"),
        });
    };
    if let Some(wrong) = wrong_address(&server.url) {
        add("url", format!("`url` {wrong}"));
    }
    let set = [
        ("args", !server.args.is_empty()),
        ("env", !server.env.is_empty()),
        ("cwd", !server.cwd.as_os_str().is_empty()),
    ];
    for (key, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
        add(key, format!("`{key}` belongs to a `command`; remove it"));
    }
    let proxy = &server.proxy;
    let is_address = ["http://", "https://"].iter().any(|scheme| proxy.starts_with(scheme));
    if !(proxy.is_empty() || proxy == "environment" || is_address) {
        add(
            "proxy",
            "`proxy`: want http://HOST:PORT, \"environment\" for those of the environment, or nothing".into(),
        );
    }
    headers("headers", &server.headers, &mut add);
    for (principal, own) in &server.headers_by_principal {
        headers(&format!("headers_by_principal.{principal}"), own, &mut add);
    }
}

/// What is wrong with an address. It is not shown: it may hold a secret.
fn wrong_address(url: &str) -> Option<&'static str> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let Some(rest) = rest else {
        return Some("wants http:// or https://, such as https://tools.example.com/mcp");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || authority.starts_with(':') {
        return Some("has no host");
    }
    if authority.contains('@') {
        return Some("holds a user or password; put them into `headers`, as ${NAME} from the environment");
    }
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("has blanks in it");
    }
    url.contains('#').then_some("has a fragment (#…), which no server gets; remove it")
}

fn headers(path: &str, headers: &BTreeMap<String, SecretString>, add: &mut impl FnMut(&str, String)) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    for (name, value) in headers {
        let key = format!("{path}.{name}");
        if name.is_empty() || !name.chars().all(is_token) {
            add(&key, format!("{name:?} cannot be the name of a header"));
        } else if OWN.contains(&name.to_ascii_lowercase().as_str())
            || name.to_ascii_lowercase().starts_with("mcp-param-")
        {
            add(&key, format!("the header {name} is one that every request sets itself; remove it"));
        }
        if !value.expose_secret().chars().all(|c| c == '\t' || (' '..='~').contains(&c)) {
            add(&key, format!("the value of the header {name} is not one line of ASCII"));
        }
    }
}
