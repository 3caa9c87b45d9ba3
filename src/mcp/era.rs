//! Legacy or modern? The body decides, the headers are mirrors of it (MCP 2026-07-28, versioning and transports).
//!
//! A request whose `params._meta` names a protocol version makes a *claim*: it is served by itself, without a session.
//! Everything else belongs to a session. `docs/protocol.md` has the table.

use std::borrow::Cow;

use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::header::{self, BadHeader};
use super::revision::Revision;
use super::{METHOD_HEADER, NAME_HEADER, VERSION_HEADER};
use crate::rpc::error::{HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, RpcError, UNSUPPORTED_VERSION};
use crate::rpc::message::{Notification, Request, text_of};

/// The key of a claim in `_meta`.
pub const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";

/// What a modern request says of itself.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// The client's capabilities, an object as JSON text.
    pub capabilities: &'a RawValue,
    /// Log messages of this severity or above are wanted.
    pub log_level: Option<Cow<'a, str>>,
}

/// The era of a request.
#[derive(Clone, Debug)]
pub enum Era<'a> {
    /// Belongs to a session, or makes one.
    Legacy,
    /// Stands alone.
    Modern(Envelope<'a>),
}

/// A refusal with its HTTP status.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The error.
    pub error: RpcError,
}

impl Refusal {
    fn bad(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status: 400, error: RpcError::new(code, message) }
    }
}

impl From<BadHeader> for Refusal {
    fn from(bad: BadHeader) -> Self {
        Self::bad(HEADER_MISMATCH, bad.to_string())
    }
}

/// Which era a request belongs to. `headers`: those of the HTTP request that carried it; none on stdio.
///
/// # Errors
/// [`Refusal`], in the order of the specification's checks: the envelope, the version header, the version, the other
/// headers.
pub fn of_request<'a>(request: &Request<'a>, headers: Option<&HeaderMap>) -> Result<Era<'a>, Refusal> {
    let version = match headers {
        Some(headers) => header::value(headers, VERSION_HEADER)
            .map_err(|bad| Refusal::bad(INVALID_REQUEST, bad.to_string()))?,
        None => None,
    };
    let header_is_modern = version == Some(Revision::MODERN.as_str());
    let Some(claim) = claim(request.params) else {
        return match (header_is_modern, request.method.as_ref()) {
            (false, _) => Ok(Era::Legacy),
            (true, "initialize") => Err(Refusal::bad(
                HEADER_MISMATCH,
                "the header names 2026-07-28, which has no initialize: leave the header away, or send server/discover",
            )),
            (true, _) => Err(Refusal::bad(
                INVALID_PARAMS,
                format!(
                    "params._meta lacks \"{VERSION_KEY}\" and \"{CAPABILITIES_KEY}\", which 2026-07-28 requires"
                ),
            )),
        };
    };
    let envelope = match claim.envelope() {
        Ok(envelope) => envelope,
        // A broken claim on the handshake is a legacy client with an odd `_meta`.
        Err(_) if request.method == "initialize" => return Ok(Era::Legacy),
        Err(refusal) => return Err(refusal),
    };
    let claimed = claim.version()?;
    if version.is_some_and(|version| version != claimed) {
        return Err(Refusal::bad(
            HEADER_MISMATCH,
            format!(
                "the header MCP-Protocol-Version says {:?}, the body {claimed:?}",
                version.unwrap_or_default()
            ),
        ));
    }
    if claimed != Revision::MODERN.as_str() {
        return Err(Refusal {
            status: 400,
            error: RpcError::new(
                UNSUPPORTED_VERSION,
                format!(
                    "{claimed:?} is not served by per-request metadata; older revisions begin with initialize"
                ),
            )
            .with_data(
                &serde_json::json!({ "supported": [Revision::MODERN.as_str()], "requested": claimed }),
            ),
        });
    }
    if let Some(headers) = headers {
        check_mirrors(request, &claim, headers, version)?;
    }
    Ok(Era::Modern(envelope))
}

/// Whether a notification is modern: it makes a claim or its header does.
#[must_use]
pub fn is_modern_notification(notification: &Notification<'_>, headers: Option<&HeaderMap>) -> bool {
    let header = headers.and_then(|headers| header::value(headers, VERSION_HEADER).ok().flatten());
    header == Some(Revision::MODERN.as_str()) || claim(notification.params).is_some()
}

/// Whether an element of a batch makes a claim, which no batch may.
#[must_use]
pub fn has_claim(params: Option<&RawValue>) -> bool {
    claim(params).is_some()
}

struct Claim<'a> {
    version: &'a RawValue,
    capabilities: Option<&'a RawValue>,
    log_level: Option<&'a RawValue>,
    /// What `Mcp-Name` may be compared with: read along, so that the params are read once.
    name: Option<&'a RawValue>,
    uri: Option<&'a RawValue>,
    task_id: Option<&'a RawValue>,
}

impl<'a> Claim<'a> {
    fn version(&self) -> Result<Cow<'a, str>, Refusal> {
        text_of(self.version).ok_or_else(|| {
            Refusal::bad(INVALID_PARAMS, format!("params._meta: \"{VERSION_KEY}\": want a string"))
        })
    }

    fn envelope(&self) -> Result<Envelope<'a>, Refusal> {
        self.version()?;
        let capabilities = self.capabilities.ok_or_else(|| {
            Refusal::bad(INVALID_PARAMS, format!("params._meta lacks \"{CAPABILITIES_KEY}\" ({{}} will do)"))
        })?;
        if !capabilities.get().starts_with('{') {
            return Err(Refusal::bad(
                INVALID_PARAMS,
                format!("params._meta: \"{CAPABILITIES_KEY}\": want an object"),
            ));
        }
        let log_level = match self.log_level {
            None => None,
            Some(raw) => Some(text_of(raw).filter(|level| is_log_level(level)).ok_or_else(|| {
                Refusal::bad(
                    INVALID_PARAMS,
                    "params._meta: \"io.modelcontextprotocol/logLevel\": want debug, info, notice, warning, error, \
                     critical, alert or emergency",
                )
            })?),
        };
        Ok(Envelope { capabilities, log_level })
    }
}

fn claim<'a>(params: Option<&'a RawValue>) -> Option<Claim<'a>> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Option<&'a RawValue>,
        #[serde(borrow)]
        name: Option<&'a RawValue>,
        #[serde(borrow)]
        uri: Option<&'a RawValue>,
        #[serde(borrow, rename = "taskId")]
        task_id: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
        version: Option<&'a RawValue>,
        #[serde(borrow, rename = "io.modelcontextprotocol/clientCapabilities")]
        capabilities: Option<&'a RawValue>,
        #[serde(borrow, rename = "io.modelcontextprotocol/logLevel")]
        log_level: Option<&'a RawValue>,
    }
    let text = params?.get();
    // Most legacy requests name no version anywhere, and need not be read twice. (The key's slash may be escaped.)
    if !text.contains("protocolVersion") {
        return None;
    }
    // One that is there twice is none: others might take the other one.
    let params: Params<'a> = serde_json::from_str(text).ok()?;
    let meta = params.meta.filter(|meta| meta.get().starts_with('{'))?;
    let meta: Meta<'a> = serde_json::from_str(meta.get()).ok()?;
    Some(Claim {
        version: meta.version?,
        capabilities: meta.capabilities,
        log_level: meta.log_level,
        name: params.name,
        uri: params.uri,
        task_id: params.task_id,
    })
}

fn check_mirrors(
    request: &Request<'_>,
    claim: &Claim<'_>,
    headers: &HeaderMap,
    version: Option<&str>,
) -> Result<(), Refusal> {
    if version.is_none() {
        return Err(Refusal::bad(HEADER_MISMATCH, "the header MCP-Protocol-Version is missing"));
    }
    match header::value(headers, METHOD_HEADER)? {
        None => return Err(Refusal::bad(HEADER_MISMATCH, "the header Mcp-Method is missing")),
        Some(named) if named != request.method => {
            return Err(Refusal::bad(
                HEADER_MISMATCH,
                format!("the header Mcp-Method says {named:?}, the body {:?}", request.method),
            ));
        }
        Some(_) => {}
    }
    let (field, said) = match request.method.as_ref() {
        "tools/call" | "prompts/get" => ("name", claim.name),
        "resources/read" => ("uri", claim.uri),
        "tasks/get" | "tasks/update" | "tasks/cancel" => ("taskId", claim.task_id),
        _ => return Ok(()),
    };
    let named = header::value(headers, NAME_HEADER)?
        .ok_or_else(|| Refusal::bad(HEADER_MISMATCH, "the header Mcp-Name is missing"))?;
    let named = header::decode(named, "Mcp-Name")?;
    // A body without the field is refused by the method itself, as invalid params.
    match said.and_then(text_of) {
        Some(said) if said != named => Err(Refusal::bad(
            HEADER_MISMATCH,
            format!("the header Mcp-Name says {named:?}, params.{field} {said:?}"),
        )),
        _ => Ok(()),
    }
}

fn is_log_level(level: &str) -> bool {
    matches!(level, "debug" | "info" | "notice" | "warning" | "error" | "critical" | "alert" | "emergency")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::message::{Envelope as Body, Message};

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

    fn classify(body: &str, headers: &[(&str, &str)]) -> Result<bool, (u16, i32)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let Ok(Body::One(Message::Request(request))) = Body::parse(body.as_bytes()) else { panic!("{body}") };
        match of_request(&request, Some(&map)) {
            Ok(Era::Modern(_)) => Ok(true),
            Ok(Era::Legacy) => Ok(false),
            Err(refusal) => Err((refusal.status, refusal.error.code)),
        }
    }

    fn call(params: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
    }

    const MODERN: (&str, &str) = ("mcp-protocol-version", "2026-07-28");
    const CALL: (&str, &str) = ("mcp-method", "tools/call");

    #[test]
    fn the_table_of_eras_holds_row_by_row() {
        let body = call(&format!(r#"{{"name":"t",{META}}}"#));
        assert_eq!(classify(&body, &[MODERN, CALL, ("mcp-name", "t")]), Ok(true));
        assert_eq!(classify(&body, &[MODERN, CALL, ("mcp-name", " =?base64?dA==?= ")]), Ok(true));
        assert_eq!(classify(&body.replace('/', "\\/"), &[MODERN, CALL, ("mcp-name", "t")]), Ok(true));
        assert_eq!(classify(&call(r#"{"name":"t"}"#), &[]), Ok(false));
        assert_eq!(classify(&call(r#"{"name":"protocolVersion"}"#), &[]), Ok(false));
        assert_eq!(classify(&call(r#"{"name":"t"}"#), &[("mcp-protocol-version", "2025-06-18")]), Ok(false));
        // no claim, modern header
        assert_eq!(classify(&call(r#"{"name":"t"}"#), &[MODERN]), Err((400, -32602)));
        // headers that do not mirror the body
        for headers in [
            &[CALL, ("mcp-name", "t")][..],
            &[("mcp-protocol-version", "2025-11-25"), CALL, ("mcp-name", "t")],
            &[MODERN, ("mcp-name", "t")],
            &[MODERN, ("mcp-method", "Tools/Call"), ("mcp-name", "t")],
            &[MODERN, CALL],
            &[MODERN, CALL, ("mcp-name", "u")],
            &[MODERN, CALL, ("mcp-name", "=?base64?dA?=")],
        ] {
            assert_eq!(classify(&body, headers), Err((400, -32020)), "{headers:?}");
        }
        // a version that is not served so
        let old = body.replace("2026-07-28", "2025-11-25");
        assert_eq!(classify(&old, &[("mcp-protocol-version", "2025-11-25")]), Err((400, -32022)));
        // a broken envelope
        let broken = call(r#"{"name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#);
        assert_eq!(classify(&broken, &[MODERN, CALL, ("mcp-name", "t")]), Err((400, -32602)));
        let odd = body.replace("Capabilities\":{}", "Capabilities\":[]");
        assert_eq!(classify(&odd, &[MODERN, CALL, ("mcp-name", "t")]), Err((400, -32602)));
    }

    #[test]
    fn the_handshake_is_legacy_unless_its_claim_is_whole() {
        let initialize =
            |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}"#);
        let plain =
            r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#;
        assert_eq!(classify(&initialize(plain), &[]), Ok(false));
        assert_eq!(classify(&initialize(plain), &[MODERN]), Err((400, -32020)));
        let claimed = initialize(&format!("{{{META}}}"));
        assert_eq!(classify(&claimed, &[MODERN, ("mcp-method", "initialize")]), Ok(true));
        let broken = initialize(r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#);
        assert_eq!(classify(&broken, &[]), Ok(false));
    }
}
