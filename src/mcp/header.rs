//! The protocol's request headers: reading, decoding, comparing with the body.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};

const ENCODED_START: &str = "=?base64?";
const ENCODED_END: &str = "?=";
const BOTH: &str = "application/json, text/event-stream";

/// The names that are looked for with every request: to read one costs more than to look it up.
static NAMES: [HeaderName; 4] = [
    HeaderName::from_static(super::SESSION_HEADER),
    HeaderName::from_static(super::VERSION_HEADER),
    HeaderName::from_static(super::METHOD_HEADER),
    HeaderName::from_static(super::NAME_HEADER),
];

/// A header that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// Bytes that are not visible ASCII or blanks.
    #[error("header {0} has characters that are not ASCII")]
    NotAscii(&'static str),
    /// Sent more than once. Of two values a proxy could look at the one and we at the other.
    #[error("header {0} was sent more than once: send it once")]
    Repeated(&'static str),
    /// Between the markers of an encoded value is no Base64 of UTF-8 text.
    #[error("header {0} is marked as Base64 and is none")]
    BadEncoding(&'static str),
}

/// The value of a header, blanks around it removed; `None` when absent.
///
/// # Errors
/// [`BadHeader::NotAscii`], [`BadHeader::Repeated`]
pub fn value<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, BadHeader> {
    let mut values = match NAMES.iter().find(|known| known.as_str() == name) {
        Some(known) => headers.get_all(known),
        None => headers.get_all(name),
    }
    .iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BadHeader::Repeated(name));
    }
    let text = value.to_str().map_err(|_| BadHeader::NotAscii(name))?;
    Ok(Some(text.trim_matches([' ', '\t'])))
}

/// The text that a header value stands for: `=?base64?…?=` is decoded, anything else is itself (MCP 2026-07-28,
/// transports: the markers are lower-case and exact).
///
/// # Errors
/// [`BadHeader::BadEncoding`]
pub fn decode<'a>(text: &'a str, name: &'static str) -> Result<Cow<'a, str>, BadHeader> {
    let Some(encoded) = text.strip_prefix(ENCODED_START).and_then(|rest| rest.strip_suffix(ENCODED_END))
    else {
        return Ok(Cow::Borrowed(text));
    };
    let bytes = STANDARD.decode(encoded).map_err(|_| BadHeader::BadEncoding(name))?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| BadHeader::BadEncoding(name))
}

/// The header value that stands for a text: itself where a header can carry it as it is, else `=?base64?…?=`.
#[must_use]
pub fn encode(text: &str) -> Cow<'_, str> {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && !text.starts_with(ENCODED_START);
    if is_plain {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{ENCODED_START}{}{ENCODED_END}", STANDARD.encode(text)))
}

/// What the client takes as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// `application/json`
    pub json: bool,
    /// `text/event-stream`
    pub sse: bool,
}

impl Accepts {
    /// Reads `Accept`. Absent means anything. Of the ranges that name a type the most specific one decides, and `q=0`
    /// refuses it (RFC 9110 §12.5.1).
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(http::header::ACCEPT).iter();
        // What the specification has clients send, and the SDKs do, is not taken apart.
        if values.next().is_some_and(|value| value == BOTH) && values.next().is_none() {
            return Self { json: true, sse: true };
        }
        // For each type how specific the range was that decides so far, and what it says.
        let (mut json, mut sse) = ((0_u8, false), (0_u8, false));
        let mut any = false;
        for value in headers.get_all(http::header::ACCEPT) {
            any = true;
            for range in value.to_str().unwrap_or_default().split(',') {
                let mut parts = range.split(';').map(|part| part.trim_matches([' ', '\t']));
                let kind = parts.next().unwrap_or_default();
                let refused = parts.any(|part| {
                    part.split_once('=').is_some_and(|(key, q)| {
                        key.trim().eq_ignore_ascii_case("q")
                            && q.trim().parse::<f32>().is_ok_and(|q| q == 0.0)
                    })
                });
                for (decided, names) in [
                    (&mut json, ["*/*", "application/*", "application/json"]),
                    (&mut sse, ["*/*", "text/*", "text/event-stream"]),
                ] {
                    for (specific, name) in (1..).zip(names) {
                        if kind.eq_ignore_ascii_case(name) && specific >= decided.0 {
                            *decided = (specific, !refused);
                        }
                    }
                }
            }
        }
        if any { Self { json: json.1, sse: sse.1 } } else { Self { json: true, sse: true } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_markers_make_an_encoded_value() {
        assert_eq!(decode("=?base64?SGVsbG8=?=", "x").unwrap(), "Hello");
        assert_eq!(decode("=?base64??=", "x").unwrap(), "");
        for literal in ["SGVsbG8=", "=?base64?SGVsbG8=", "SGVsbG8=?=", "=?BASE64?SGVsbG8=?="] {
            assert_eq!(decode(literal, "x").unwrap(), literal);
        }
        for bad in ["=?base64?SGVsbG8?=", "=?base64?SGVs bG8=?=", "=?base64?/w==?="] {
            assert_eq!(decode(bad, "x"), Err(BadHeader::BadEncoding("x")), "{bad}");
        }
    }

    #[test]
    fn accept_is_read_with_wildcards_parameters_and_refusals() {
        let accepts = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("accept", text.parse().unwrap());
            let accepts = Accepts::of(&headers);
            (accepts.json, accepts.sse)
        };
        assert_eq!(accepts("application/json, text/event-stream"), (true, true));
        assert_eq!(accepts("*/*"), (true, true));
        assert_eq!(accepts("Application/JSON;q=0.5"), (true, false));
        assert_eq!(accepts("text/event-stream, application/json;q=0"), (false, true));
        assert_eq!(accepts("text/html"), (false, false));
        assert_eq!(accepts("*/*, text/event-stream;q=0"), (true, false));
        assert_eq!(accepts("application/json;q=0, */*;q=0.1"), (false, true));
        assert_eq!(accepts("text/*;q=0, text/event-stream"), (false, true));
        assert_eq!(Accepts::of(&HeaderMap::new()), Accepts { json: true, sse: true });
        // A second header is read as well.
        let mut two = HeaderMap::new();
        two.append("accept", BOTH.parse().unwrap());
        two.append("accept", "text/event-stream;q=0".parse().unwrap());
        assert_eq!(Accepts::of(&two), Accepts { json: true, sse: false });
    }
}
