//! Who may come in: Host, Origin, credentials, and what they send and accept. Nothing here allocates for a request
//! that may.
//!
//! Host and Origin are checked against DNS rebinding and cross-site requests (MCP 2025-11-25 §Transports, Security
//! Warning): a web page can make a browser send requests to this server, but it cannot choose these two headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use super::reply::Refusal;
use crate::auth::{Authenticate, Denied, Principal};
use crate::config;

/// Which `Host` and `Origin` a listener serves.
#[derive(Debug)]
pub(crate) struct Sites {
    /// The address of the listener; unspecified when it listens on all of them.
    listen: IpAddr,
    /// Host, and port where only that one is meant.
    hosts: Vec<(Box<str>, Option<u16>)>,
    origins: Vec<Box<str>>,
}

impl Sites {
    /// The sites of a listener: loopback names, the name and address it listens on, and what the settings add.
    pub(crate) fn new(settings: &config::Server, listen: &str, bound: SocketAddr) -> Self {
        let named = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
        // An address is compared as one; 0.0.0.0 is none that a client should name (browsers route it to this machine).
        let name = Some(named).filter(|named| parse_ip(named).is_none());
        let mut hosts: Vec<(Box<str>, Option<u16>)> =
            name.into_iter().map(|name| (name.into(), None)).collect();
        hosts.extend(settings.allowed_hosts.iter().map(|allowed| match split_port(allowed) {
            Some((host, port)) => (host.into(), port),
            None => (allowed.as_str().into(), None),
        }));
        let origins = settings.allowed_origins.iter().map(|origin| origin.trim_end_matches('/').into());
        Self { listen: bound.ip().to_canonical(), hosts, origins: origins.collect() }
    }

    /// Checks the host that a request names. `at` is the address that its connection came to.
    ///
    /// A request that names none is let in under HTTP/1.0: load balancers probe like that, and browsers never do.
    pub(crate) fn check_host(&self, request: &Parts, at: IpAddr) -> Result<(), Refusal> {
        let authority = match request.uri.authority() {
            Some(authority) => authority.as_str(),
            None => {
                let mut sent = request.headers.get_all(HOST).iter();
                match (sent.next(), sent.next()) {
                    (Some(host), None) => host.to_str().unwrap_or_default(),
                    (None, _) if request.version == Version::HTTP_10 => return Ok(()),
                    (None, _) => return Err(Refusal::bad_request("the Host header is missing")),
                    (Some(_), Some(_)) => {
                        return Err(Refusal::bad_request("there is more than one Host header"));
                    }
                }
            }
        };
        if self.knows_host(authority, at) {
            return Ok(());
        }
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "this server is not known as {:?}: call it by its address, or add that name to server.allowed_hosts",
                shown(authority)
            ),
        ))
    }

    fn knows_host(&self, authority: &str, at: IpAddr) -> bool {
        let Some((host, port)) = split_port(authority) else { return false };
        if is_loopback(host) {
            return true;
        }
        let address = parse_ip(host);
        let listen = if self.listen.is_unspecified() { at } else { self.listen };
        address == Some(listen)
            || self.hosts.iter().any(|(allowed, only)| {
                host.eq_ignore_ascii_case(allowed) && (only.is_none() || *only == port)
            })
    }

    /// Checks the origin of a request: the value if there is one and it may call.
    pub(crate) fn check_origin<'a>(
        &self,
        headers: &'a HeaderMap,
    ) -> Result<Option<&'a HeaderValue>, Refusal> {
        let mut sent = headers.get_all(ORIGIN).iter();
        let Some(value) = sent.next() else { return Ok(None) };
        let origin = value.to_str().unwrap_or_default();
        if sent.next().is_none()
            && (is_loopback_origin(origin)
                || self.origins.iter().any(|known| known.eq_ignore_ascii_case(origin)))
        {
            return Ok(Some(value));
        }
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "pages of {:?} may not call this server: add that origin to server.allowed_origins",
                shown(origin)
            ),
        ))
    }
}

/// Whether an `Origin` is a page of this machine.
pub(crate) fn is_loopback_origin(origin: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.and_then(split_port).is_some_and(|(host, _)| is_loopback(host))
}

/// What a foreign header is cut to before it goes into an error.
fn shown(text: &str) -> &str {
    text.get(..100).unwrap_or(text)
}

/// Host and port of `HOST[:PORT]`, where HOST may be an IPv6 address in brackets. `None` for anything else.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at_checked(end)?;
    let plain = !host.is_empty() && !host.contains(['@', '/', ' ', ',']);
    match rest.strip_prefix(':') {
        None if rest.is_empty() && plain => Some((host, None)),
        Some(port) if plain => Some((host, Some(port.parse().ok()?))),
        _ => None,
    }
}

fn parse_ip(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical()),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || parse_ip(host).is_some_and(|ip| ip.is_loopback())
}

/// Finds out who calls.
pub(crate) fn authenticate(auth: &dyn Authenticate, headers: &HeaderMap) -> Result<Arc<Principal>, Refusal> {
    let sent = headers.get(AUTHORIZATION);
    // A value that is not text cannot be a token: it is sent on as one that nobody has.
    let value = sent.map(|value| value.to_str().unwrap_or_default());
    auth.authenticate(value).map_err(|denied| match denied {
        Denied::Missing => Refusal::new(
            StatusCode::UNAUTHORIZED,
            "authentication is needed: send \"Authorization: Bearer TOKEN\"",
        )
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        Denied::Invalid => Refusal::new(
            StatusCode::UNAUTHORIZED,
            "the bearer token is not valid: check it, or ask for a new one",
        )
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\"")),
    })
}

/// A body must say that it is JSON.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the body must be JSON: send \"Content-Type: application/json\"",
    ))
}

const JSON: (&[u8], &[u8]) = (b"application", b"json");
const EVENTS: (&[u8], &[u8]) = (b"text", b"event-stream");

/// A POST is refused only when it accepts neither form of an answer. Clients that name one, or send `*/*`, are served
/// (MCP wants both named; no client loses by being let in).
pub(crate) fn check_accept_post(headers: &HeaderMap) -> Result<(), Refusal> {
    if !headers.contains_key(ACCEPT) || accepts(headers, &[JSON, EVENTS]) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::NOT_ACCEPTABLE,
        "answers are JSON or an event stream: send \"Accept: application/json, text/event-stream\"",
    ))
}

/// A GET opens a stream that need not end, so it must ask for one.
pub(crate) fn check_accept_get(headers: &HeaderMap) -> Result<(), Refusal> {
    if accepts(headers, &[EVENTS]) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::NOT_ACCEPTABLE,
        "GET opens an event stream: send \"Accept: text/event-stream\"; messages go by POST",
    ))
}

/// Whether `Accept` admits one of these types (RFC 9110 §12.5.1). The most specific range is not searched for: a type
/// is refused only by a weight of 0 on every range that names it.
fn accepts(headers: &HeaderMap, types: &[(&[u8], &[u8])]) -> bool {
    let ranges =
        headers.get_all(ACCEPT).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    ranges.into_iter().any(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let essence = parts.next().unwrap_or_default();
        let mut halves = essence.splitn(2, |byte| *byte == b'/');
        let (kind, subtype) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        let names = |wanted: &(&[u8], &[u8])| {
            (kind == b"*" && subtype == b"*")
                || (kind.eq_ignore_ascii_case(wanted.0)
                    && (subtype == b"*" || subtype.eq_ignore_ascii_case(wanted.1)))
        };
        types.iter().any(names) && !parts.any(is_zero_weight)
    })
}

/// `q=0`, `q=0.0`, …
fn is_zero_weight(parameter: &[u8]) -> bool {
    let Some(weight) = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q=")) else {
        return false;
    };
    weight.first() == Some(&b'0') && weight.iter().all(|byte| matches!(byte, b'0' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(listen: &str, hosts: &[&str], origins: &[&str]) -> Sites {
        let settings = config::Server {
            allowed_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            allowed_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            ..config::Server::default()
        };
        Sites::new(&settings, listen, listen.parse().unwrap())
    }

    const AT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

    fn map(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn loopback_names_are_served_on_any_port() {
        let sites = sites("127.0.0.1:8808", &[], &[]);
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8808", "127.9.9.9", "[::1]", "[::1]:99"] {
            assert!(sites.knows_host(host, AT), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.7",
            "a@localhost",
            "localhost:x",
            "[::1",
            "[::1]x",
            "::1",
            "localhost, evil.example",
            "localhost:99999",
        ] {
            assert!(!sites.knows_host(host, AT), "{host}");
        }
    }

    #[test]
    fn a_wide_listener_is_known_by_the_address_a_connection_came_to() {
        let sites = sites("0.0.0.0:8808", &[], &[]);
        assert!(sites.knows_host("10.0.0.7:8808", AT));
        assert!(!sites.knows_host("10.0.0.8:8808", AT));
        assert!(!sites.knows_host("0.0.0.0:8808", AT));
        assert!(super::tests::sites("10.0.0.8:1", &[], &[]).knows_host("10.0.0.8", AT));
    }

    #[test]
    fn allowed_hosts_with_a_port_mean_that_port() {
        let sites = sites("0.0.0.0:1", &["mcp.example", "other.example:8443"], &[]);
        assert!(sites.knows_host("MCP.example:77", AT));
        assert!(sites.knows_host("other.example:8443", AT));
        assert!(!sites.knows_host("other.example", AT));
    }

    #[test]
    fn origins_are_this_machine_or_listed() {
        let sites = sites("127.0.0.1:1", &[], &["https://app.example", "null"]);
        let allowed = |origin: &str| sites.check_origin(&map(ORIGIN, origin)).is_ok();
        for origin in
            ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5", "https://app.example", "null"]
        {
            assert!(allowed(origin), "{origin}");
        }
        for origin in [
            "http://app.example",
            "https://app.example:444",
            "http://localhost.evil.example",
            "file://",
            "localhost",
            "",
        ] {
            assert!(!allowed(origin), "{origin}");
        }
        assert!(sites.check_origin(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn content_types_may_carry_parameters() {
        for good in ["application/json", "Application/JSON ; charset=utf-8"] {
            assert!(check_content_type(&map(CONTENT_TYPE, good)).is_ok(), "{good}");
        }
        for bad in
            ["text/plain", "application/json5", "application/x-www-form-urlencoded; a=application/json"]
        {
            assert!(check_content_type(&map(CONTENT_TYPE, bad)).is_err(), "{bad}");
        }
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }

    #[test]
    fn accept_is_read_leniently() {
        let post = |value: &str| check_accept_post(&map(ACCEPT, value)).is_ok();
        let get = |value: &str| check_accept_get(&map(ACCEPT, value)).is_ok();
        for good in [
            "*/*",
            "application/*",
            "application/json",
            "text/html, text/event-stream;q=0.1",
            "Text/Event-Stream",
        ] {
            assert!(post(good), "{good}");
        }
        for bad in ["text/html", "application/json;q=0", "*/*;q=0.000", "", "json"] {
            assert!(!post(bad), "{bad}");
        }
        assert!(check_accept_post(&HeaderMap::new()).is_ok());
        assert!(get("text/event-stream") && get("*/*") && get("text/*, application/json"));
        assert!(!get("application/json") && !get("text/event-stream; q=0"));
        assert!(check_accept_get(&HeaderMap::new()).is_err());
    }
}
