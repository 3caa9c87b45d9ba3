//! What every fuzz target does with its bytes: no panic, and what was read holds together.
//!
//! The same functions are run by libFuzzer (`fuzz_targets`) and, bounded and on any toolchain, by `main.rs`.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use outlast::base::ids::{Claims, Mode, Origin, PrincipalHash, SessionKey};
use outlast::base::seal::{Keys, Secret};
use outlast::mcp::era::{Era, Refusal, has_claim, is_modern_notification, of_request};
use outlast::mcp::header::{Accepts, decode, value};
use outlast::mcp::input::{Retry, digest, fits};
use outlast::mcp::revision::Revision;
use outlast::mcp::view::modern_result;
use outlast::rpc::message::{Envelope, Message, error_response, response};
use outlast::rpc::object::{Change, Object};
use outlast::rpc::sse::{Event, Reader, write_event};
use outlast::state::cursor::{Cursor, EventId};
use outlast::store::durable::Table;
use outlast::store::payload::{At, Sealer, key_of};
use outlast::store::record;
use outlast::tools::registry::headers::HeaderParams;
use serde_json::Value;
use serde_json::value::RawValue;

/// A target: takes any bytes, panics when a promise does not hold.
pub type Target = fn(&[u8]);

/// All of them, by the names of their seed directories.
pub const ALL: &[(&str, Target)] = &[
    ("envelope", envelope),
    ("era", era),
    ("headers", headers),
    ("cursor", cursor),
    ("sse", sse),
    ("record", record),
    ("ids", ids),
    ("view", view),
];

/// A body is one message, an array, or an error that can be sent.
pub fn envelope(data: &[u8]) {
    match Envelope::parse(data) {
        Ok(Envelope::One(message)) => whole(&message),
        Ok(Envelope::Batch(items)) => {
            assert!(!items.is_empty());
            for item in items {
                match Message::parse(item.get()) {
                    Ok(message) => whole(&message),
                    Err(bad) => sendable(bad.id.as_deref(), &bad.error),
                }
            }
        }
        Err(bad) => sendable(bad.id.as_deref(), &bad.error),
    }
}

fn whole(message: &Message<'_>) {
    let params = message.params().map(RawValue::get);
    assert!(params.is_none_or(|params| params.starts_with('{') && params.ends_with('}')));
    let retry = Retry::read(message.params());
    match message {
        Message::Request(request) => {
            let id = request.id.get();
            assert!(id.starts_with('"') || id.parse::<f64>().is_ok(), "{id}");
            let answer = response(id, "{}");
            let read = Envelope::parse(&answer);
            assert!(
                matches!(read, Ok(Envelope::One(Message::Response(read))) if read.id.get() == id),
                "the answer to {id}"
            );
            assert_eq!(digest(&request.method, request.params), digest(&request.method, request.params));
            // One answer as the answer to another: any pair of texts may come.
            for answer in retry.iter().flat_map(|retry| retry.answers.values()) {
                let question = request.params.unwrap_or(RawValue::NULL);
                let _ = fits(&request.method, question, answer);
            }
        }
        Message::Notification(_) => {}
        Message::Response(read) => {
            let (Ok(text) | Err(text)) = read.outcome;
            assert!(!text.get().is_empty());
        }
    }
}

fn sendable(id: Option<&str>, error: &outlast::rpc::error::RpcError) {
    let text = error_response(id, error);
    let text = std::str::from_utf8(&text).unwrap_or_else(|why| panic!("{why}: {text:?}"));
    // The id is what came: it may name half of a surrogate pair, which is JSON, and no text that Rust has.
    let answer = Object::parse(text).unwrap_or_else(|why| panic!("{why}: {text}"));
    let read: Value =
        answer.get("error").and_then(|error| serde_json::from_str(error.get()).ok()).unwrap_or_default();
    assert_eq!(read["code"], error.code, "{text}");
    assert_eq!(answer.get("id").map_or("null", RawValue::get), id.unwrap_or("null"), "{text}");
}

/// Lines `name: value`, a blank line, the rest.
fn with_headers(data: &[u8]) -> (HeaderMap, &[u8]) {
    let mut map = HeaderMap::new();
    let mut rest = data;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, tail) = rest.split_at(end);
        rest = tail.get(1..).unwrap_or_default();
        if line.is_empty() || map.len() >= 64 {
            break;
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        if let (Some(name), Some(value)) = (parts.next(), parts.next())
            && let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            map.append(name, value);
        }
    }
    (map, rest)
}

/// The era of a message is decided by the table, whatever the headers and the body are.
pub fn era(data: &[u8]) {
    let (map, body) = with_headers(data);
    match Envelope::parse(body) {
        Ok(Envelope::One(Message::Request(request))) => {
            for headers in [Some(&map), None] {
                match of_request(&request, headers) {
                    Ok(Era::Legacy) => {
                        assert!(!has_claim(request.params) || request.method == "initialize");
                    }
                    Ok(Era::Modern(envelope)) => {
                        assert!(has_claim(request.params));
                        assert!(envelope.capabilities.get().starts_with('{'));
                        // What is modern with headers is modern without.
                        assert!(matches!(of_request(&request, None), Ok(Era::Modern(_))));
                    }
                    Err(Refusal { status, error }) => {
                        assert_eq!(status, 400);
                        assert!(
                            matches!(error.code, -32_600 | -32_602 | -32_020 | -32_022),
                            "{}",
                            error.code
                        );
                        sendable(Some(request.id.get()), &error);
                    }
                }
            }
        }
        Ok(Envelope::One(Message::Notification(notification))) => {
            let claims = has_claim(notification.params);
            assert_eq!(is_modern_notification(&notification, None), claims);
            assert!(is_modern_notification(&notification, Some(&map)) || !claims);
        }
        _ => {}
    }
}

/// Header values are read, decoded and compared with arguments.
pub fn headers(data: &[u8]) {
    let (map, rest) = with_headers(data);
    let _ = Accepts::of(&map);
    for name in ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "last-event-id"] {
        let Ok(Some(text)) = value(&map, name) else { continue };
        assert_eq!(text, text.trim_matches([' ', '\t']));
        match decode(text, name) {
            Ok(said) if text.starts_with("=?base64?") && text.ends_with("?=") && text.len() >= 11 => {
                assert!(said.len() < text.len());
            }
            Ok(said) => assert_eq!(said, text),
            Err(_) => assert!(text.starts_with("=?base64?")),
        }
        let negotiated = Revision::negotiate(text);
        assert!(negotiated.is_legacy());
        assert!(Revision::parse(text).is_none_or(|known| known.as_str() == text));
    }
    // A schema, a line end, the params of a call.
    let text = String::from_utf8_lossy(rest);
    let (schema, params) = text.split_once('\n').unwrap_or((&text, "{}"));
    if let (Ok(schema), Ok(params)) =
        (serde_json::from_str::<&RawValue>(schema), serde_json::from_str::<&RawValue>(params))
        && let Ok(annotated) = HeaderParams::read(schema)
    {
        let _ = annotated.check(&map, Some(params));
        if annotated != HeaderParams::default() && params.get() == "{}" && map.is_empty() {
            assert!(annotated.check(&map, Some(params)).is_ok(), "no argument, no header");
        }
    }
}

/// An event id that is read says what it was written from.
pub fn cursor(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut joined = Cursor::default();
    for line in text.lines() {
        let Ok(id) = EventId::parse(line) else { continue };
        assert_eq!(id.to_string(), line, "an id has one form");
        let before = joined.clone();
        joined.join(&id.cursor);
        assert!(joined.covers(&id.cursor) && joined.covers(&before));
        let written = joined.event_id(id.stream);
        let read = EventId::parse(&written).unwrap_or_else(|_| panic!("{written} is not read back"));
        assert!(joined.covers(&read.cursor));
        assert_eq!(read.stream, id.stream);
    }
}

/// The reader reads the same events whatever the pieces are, and no event is longer than it takes.
pub fn sse(data: &[u8]) {
    let Some((&shape, stream)) = data.split_first() else { return };
    let limit = if shape & 1 == 0 { 64 } else { 1 << 20 };
    let piece = usize::from(shape >> 1).max(1);
    let (mut at_once, mut events) = (Reader::new(limit), Vec::new());
    let whole = at_once.push(stream, &mut events);
    let (mut in_pieces, mut again) = (Reader::new(limit), Vec::new());
    let mut pieces = Ok(());
    for piece in stream.chunks(piece) {
        pieces = in_pieces.push(piece, &mut again);
        if pieces.is_err() {
            break;
        }
    }
    assert_eq!(whole, pieces);
    assert_eq!(events, again);
    assert_eq!((at_once.last_event_id(), at_once.retry()), (in_pieces.last_event_id(), in_pieces.retry()));
    assert!(events.iter().all(|event| event.data.len() <= limit));

    let mut written = Vec::new();
    let text = String::from_utf8_lossy(stream);
    let id = text.lines().next().unwrap_or_default();
    write_event(&mut written, Some(id), Some(u64::from(shape)), text.as_bytes());
    let (mut reader, mut read) = (Reader::new(usize::MAX), Vec::new());
    assert!(reader.push(&written, &mut read).is_ok());
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    // The standard takes one blank after the colon, and an id with a line end or a NUL is not written.
    let id = (!id.contains(['\r', '\n', '\0'])).then(|| id.to_owned());
    assert_eq!(read, [Event { id, event: None, data: lines.into_bytes() }]);
}

const FIELD: At<'static> = At { table: Table::Doc, key: b"fuzz" };

fn sealers() -> &'static [Sealer; 2] {
    static SEALERS: OnceLock<[Sealer; 2]> = OnceLock::new();
    SEALERS.get_or_init(|| [false, true].map(|on| Sealer::new(keys().clone(), on)))
}

/// Keys that are the same in every run, so that seeds with signatures and seals stay good.
pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| Keys::of(&[Secret::new(1, [7; 32].into())]))
}

/// A stored form is read, or refused; what is read is written and read again.
pub fn record(data: &[u8]) {
    let [open, sealed] = sealers();
    let _ = key_of(data);
    let _ = (record::tag(data), record::pieces(data));
    let _ = record::join(data, data.chunks(7));
    let _ = record::decode::<record::Head>(data);
    let _ = record::decode::<record::Mark>(data);
    let _ = record::decode::<record::StoredLock>(data);
    let _ = record::decode::<record::StoredResult>(data);
    let _ = record::decode::<record::Format>(data);
    if let Ok(field) = record::decode_field(open, FIELD, data) {
        for sealer in [open, sealed] {
            let stored = record::encode_field(sealer, FIELD, &field).unwrap_or_else(|why| panic!("{why}"));
            let read = record::decode_field(sealer, FIELD, &stored).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(read, field);
            let renewed = sealed.renew(FIELD, &stored).ok().flatten().unwrap_or(stored);
            // A field without a value has one part, which is not sealed.
            let read = record::decode_field(open, FIELD, &renewed).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(read, field);
        }
    }
    let log = At { table: Table::Log, key: b"fuzz" };
    if let Ok(entry) = record::decode_entry(open, log, Origin::from_bits(5), 9, data) {
        let stored = record::encode_entry(sealed, log, &entry).unwrap_or_else(|why| panic!("{why}"));
        let read = record::decode_entry(open, log, entry.origin, entry.seq, &stored);
        assert_eq!(read.unwrap_or_else(|why| panic!("{why}")), entry);
        assert!(record::decode_entry(open, FIELD, entry.origin, entry.seq, &stored).is_err(), "moved");
    }
    if let Ok(content) = record::decode_content(open, FIELD, data) {
        let stored = record::encode_content(sealed, FIELD, &content).unwrap_or_else(|why| panic!("{why}"));
        assert!(record::decode_content(open, FIELD, &stored).is_ok_and(|read| read == content));
    }
}

/// The token that [`ids`] changes.
pub fn token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| {
        let claims = Claims {
            mode: Mode::Local,
            revision: 3,
            capabilities: 0x1234,
            issued_ms: 1_795_000_000_000,
            deadline_ms: 1_795_600_000_000,
            origin: Origin::from_bits(0xab_cdef_0123),
            key: SessionKey::from_bytes([7; 16]),
            principal: PrincipalHash([9; 8]),
        };
        claims.sign(keys())
    })
}

/// No text but those that were signed is a session id.
pub fn ids(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(claims) = Claims::verify(&text, keys()) {
        assert_eq!(claims.sign(keys()), text, "a session id has one form");
    }
    if let Some(key) = SessionKey::parse(&text) {
        assert_eq!(key.to_string(), text, "a key has one form");
    }
    // Pairs of a place and a byte: a real token with these changes.
    let mut changed = token().as_bytes().to_vec();
    for pair in data.chunks_exact(2) {
        if let [at, byte] = *pair
            && let Some(place) = changed.get_mut(usize::from(at))
        {
            *place = byte;
        }
    }
    let changed = String::from_utf8_lossy(&changed);
    assert_eq!(Claims::verify(&changed, keys()).is_ok(), changed == token(), "{changed}");
    for cut in data.iter().map(|cut| usize::from(*cut)).filter(|cut| *cut < token().len()) {
        let short = token().get(..cut).unwrap_or_default();
        assert!(Claims::verify(short, keys()).is_err(), "{short}");
    }
}

/// Answers that are changed as text stay JSON, with all that was in them.
pub fn view(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // As in the server: only what a JSON reader has taken comes so far.
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return;
    }
    let made = modern_result(text);
    assert!(serde_json::from_str::<&RawValue>(&made).is_ok(), "{made}");
    let Ok(object) = Object::parse(text) else { return };
    let kept = object.with(|_, _| Change::Keep);
    let made = Object::parse(&made).unwrap_or_else(|why| panic!("{why}: {made}"));
    assert!(made.get("resultType").is_some() && made.get("_meta").is_some());
    let again = Object::parse(&kept).unwrap_or_else(|why| panic!("{why}: {kept}"));
    assert_eq!(again.with(|_, _| Change::Keep), kept);
    let set = object.with(|_, _| Change::Set("1".into()));
    assert!(serde_json::from_str::<Value>(&set).is_ok() || has_odd_keys(&set), "{set}");
    assert_eq!(object.with(|_, _| Change::Drop), "{}");
}

/// Keys with half a surrogate pair are JSON by its grammar and no text.
fn has_odd_keys(json: &str) -> bool {
    json.contains("\\u")
}
