//! Which admin requests there are: a path, a method and a query become a command to the engine.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::IF_MATCH;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base::ids::SessionKey;
use crate::base::limits::{
    ADMIN_BODY_BYTES, CACHED_SHOWN, CONFLICTS_PAGE, FIELD_NAME_BYTES, IMPORT_BYTES, MAX_SESSION_ID_BYTES,
    SESSION_PAGE, SESSIONS_PAGE, TAG_BYTES, TAKE_OVER_BODY_BYTES, TOOL_NAME_BYTES,
};
use crate::base::percent::decode;
use crate::edge::http::Refusal;
use crate::engine::operate::{Act, CacheAct, Command, Filter, LockAct, VALUE_PREFIX, Which};
use crate::engine::rest::{Old, Values};
use crate::state::doc::Version;
use crate::state::lock::Scope;

/// An admin request, but for its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Status,
    Broadcast,
    RotateKeys,
    /// To the session of this id.
    Send(String),
    /// On this topic.
    Publish(String),
    /// What is said on the topics that this filter picks.
    Tail(String),
    /// All there is to a command is in the path and the query.
    Command(Command),
    /// The body is a value.
    Set {
        session: String,
        name: String,
        expected: Option<Version>,
        fence: Option<(String, u64)>,
    },
    /// The body may say whose, and under which key.
    Create,
    /// The body says by how much.
    Extend {
        session: String,
    },
    /// The body says what to do with the lock.
    Lock {
        name: String,
    },
    /// The body is the arguments of a call of a tool.
    Call {
        name: String,
    },
    /// The body is an exported session.
    Import {
        replace: bool,
    },
    /// The body has sessions of the Flask bridge.
    TakeOver,
}

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Bytes at most.
    pub(super) most: usize,
    /// What to do about a longer one.
    pub(super) advice: &'static str,
    /// It must say that it is JSON.
    pub(super) json: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    principal: Option<String>,
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendBody {
    extend_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LockBody {
    action: LockVerb,
    ttl_seconds: Option<u64>,
    token: Option<String>,
    scope: Option<Scope>,
    session: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TakeOverBody {
    principal: String,
    sessions: Vec<OldBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldBody {
    session_id: String,
    left_ms: Option<u64>,
    values: BTreeMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LockVerb {
    Take,
    Renew,
    Release,
}

const PATHS: &str = "nothing is served at this path: there are /admin/status, /admin/broadcast, /admin/send, \
                     /admin/publish, /admin/tail, /admin/sessions, /admin/locks, /admin/conflicts, /admin/servers, /admin/tools, /admin/cache, /admin/keys/rotate and \
                     /admin/flask/import";

impl Route {
    /// The route of a request.
    pub(super) fn find(request: &Parts) -> Result<Self, Refusal> {
        let method = &request.method;
        let query = request.uri.query().unwrap_or_default();
        let path = request.uri.path().strip_prefix("/admin/").ok_or_else(|| Refusal::not_found(PATHS))?;
        let segments: Vec<&str> = path.split('/').collect();
        match segments.as_slice() {
            ["status"] => only(method, "GET").map(|()| Self::Status),
            ["broadcast"] => only(method, "POST").map(|()| Self::Broadcast),
            ["flask", "import"] => only(method, "POST").map(|()| Self::TakeOver),
            ["keys", "rotate"] => only(method, "POST").map(|()| Self::RotateKeys),
            ["send"] => {
                only(method, "POST")?;
                let ask = "which session? send to /admin/send?sid=SESSION";
                let session = Query::read(query, &["sid"])?.take("sid").filter(|session| is_session(session));
                session.map(Self::Send).ok_or_else(|| Refusal::bad_request(ask))
            }
            ["publish"] => {
                only(method, "POST")?;
                topic(query, "on which topic? send to /admin/publish?topic=TOPIC").map(Self::Publish)
            }
            ["tail"] => {
                only(method, "GET")?;
                topic(query, "which topics? ask for /admin/tail?topic=FILTER; # (as %23) is all of them")
                    .map(Self::Tail)
            }
            ["sessions"] => match *method {
                Method::GET => list(query),
                Method::POST => Ok(Self::Create),
                _ => Err(Refusal::method("GET, POST")),
            },
            ["sessions", "import"] => {
                only(method, "POST")?;
                let replace = match Query::read(query, &["replace"])?.take("replace").as_deref() {
                    None | Some("false") => false,
                    Some("true") => true,
                    Some(_) => return Err(Refusal::bad_request("replace: want true or false")),
                };
                Ok(Self::Import { replace })
            }
            ["sessions", session, rest @ ..] => {
                let session = decode(session).filter(|session| is_session(session)).ok_or_else(|| {
                    Refusal::bad_request(
                        "want /admin/sessions/SESSION, where SESSION is a key or a session id",
                    )
                })?;
                of_session(request, session, rest)
            }
            ["cache"] => match *method {
                Method::GET => {
                    Query::read(query, &[]).map(|_| Self::Command(Command::Cache(CacheAct::Stats)))
                }
                Method::DELETE => {
                    let mut query = Query::read(query, &["tool", "tag"])?;
                    let which = which(&mut query)?;
                    Ok(Self::Command(Command::Cache(CacheAct::Clear { which })))
                }
                _ => Err(Refusal::method("GET, DELETE")),
            },
            ["cache", "entries"] => {
                only(method, "GET")?;
                let mut query = Query::read(query, &["tool", "tag", "limit"])?;
                let (usual, most) = CACHED_SHOWN;
                let limit = bounded(query.take("limit"), usual, most)?;
                let which = which(&mut query)?;
                Ok(Self::Command(Command::Cache(CacheAct::List { which, limit })))
            }
            ["conflicts"] => {
                only(method, "GET")?;
                let mut query = Query::read(query, &["after", "limit"])?;
                let after = query.take("after").map_or(Ok(0), |text| text.parse()).map_err(|_| {
                    Refusal::bad_request("after: want a number, as `next` of the page before has it")
                })?;
                let (usual, most) = CONFLICTS_PAGE;
                let limit = bounded(query.take("limit"), usual, most)?;
                Ok(Self::Command(Command::Conflicts { after, limit }))
            }
            ["servers"] => only(method, "GET").map(|()| Self::Command(Command::Servers)),
            ["tools"] => only(method, "GET").map(|()| Self::Command(Command::Tools)),
            ["tools", name, rest @ ..] => {
                let name = decode(name).filter(|name| (1..=TOOL_NAME_BYTES).contains(&name.len()));
                let name = name.ok_or_else(|| Refusal::bad_request("want /admin/tools/NAME"))?;
                match rest {
                    [] => only(method, "GET").map(|()| Self::Command(Command::Tool { name })),
                    ["call"] => only(method, "POST").map(|()| Self::Call { name }),
                    _ => Err(Refusal::not_found("nothing is served at this path: a tool has /call")),
                }
            }
            ["locks"] => only(method, "GET").map(|()| Self::Command(Command::Locks)),
            ["locks", name] => {
                let name = decode(name).filter(|name| (1..=FIELD_NAME_BYTES).contains(&name.len()));
                let name = name.ok_or_else(|| Refusal::bad_request("want /admin/locks/NAME"))?;
                match *method {
                    Method::GET => Ok(Self::Command(Command::Lock { name, act: LockAct::Look })),
                    Method::POST => Ok(Self::Lock { name }),
                    _ => Err(Refusal::method("GET, POST")),
                }
            }
            _ => Err(Refusal::not_found(PATHS)),
        }
    }

    /// Its name in logs, where a path would show session ids.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Broadcast => "broadcast",
            Self::RotateKeys => "rotate",
            Self::Send(_) => "send",
            Self::Publish(_) | Self::Command(Command::Publish { .. }) => "publish",
            Self::Tail(_) => "tail",
            Self::Command(Command::List(_)) => "list",
            Self::Command(Command::Create { .. }) | Self::Create => "create",
            Self::Command(Command::Session { act, .. }) => match act {
                Act::Inspect => "inspect",
                Act::Value { .. } => "value",
                Act::SetValue { .. } => "set",
                Act::RemoveValue { .. } => "remove",
                Act::End => "end",
                Act::Ttl => "ttl",
                Act::Extend { .. } => "extend",
                Act::Export => "export",
            },
            Self::Command(Command::Cache(act)) => match act {
                CacheAct::Stats => "cache",
                CacheAct::List { .. } => "cache_entries",
                CacheAct::Clear { .. } => "cache_clear",
            },
            Self::Command(Command::Conflicts { .. }) => "conflicts",
            Self::Command(Command::Servers) => "servers",
            Self::Command(Command::Tools) => "tools",
            Self::Command(Command::Tool { .. }) => "tool",
            Self::Command(Command::Call { .. }) | Self::Call { .. } => "call",
            Self::Command(Command::Locks) => "locks",
            Self::Command(Command::Lock { .. }) | Self::Lock { .. } => "lock",
            Self::Command(Command::Import { .. }) | Self::Import { .. } => "import",
            Self::Command(Command::TakeOver { .. }) | Self::TakeOver => "flask_import",
            Self::Set { .. } => "set",
            Self::Extend { .. } => "extend",
        }
    }

    /// The body it takes; none: it is not read. `value_bytes`: what a value may have.
    pub(super) fn wanted(&self, value_bytes: usize) -> Option<Wanted> {
        let json = |advice| Some(Wanted { most: ADMIN_BODY_BYTES, advice, json: true });
        match self {
            Self::Status | Self::RotateKeys | Self::Tail(_) | Self::Command(_) => None,
            Self::Publish(_) => json("one message is never that long"),
            Self::Broadcast | Self::Send(_) => json("one notification is never that long"),
            Self::Call { .. } => json("the arguments of a call here have 1 MiB at most"),
            Self::Create | Self::Extend { .. } | Self::Lock { .. } => json("want one small object"),
            Self::Set { .. } => Some(Wanted {
                most: value_bytes,
                advice: "sessions.max_value_bytes allows no longer value",
                json: false,
            }),
            Self::TakeOver => Some(Wanted {
                most: TAKE_OVER_BODY_BYTES,
                advice: "send fewer sessions at a time",
                json: true,
            }),
            Self::Import { .. } => {
                Some(Wanted { most: IMPORT_BYTES, advice: "no exported session is that long", json: false })
            }
        }
    }

    /// The command that it is with this body; a route that is none comes back.
    pub(super) fn with_body(self, body: Bytes) -> Result<Result<Command, Self>, Refusal> {
        let command = match self {
            Self::Command(command) => command,
            Self::Set { session, name, expected, fence } => {
                Command::Session { session, act: Act::SetValue { name, value: body, expected, fence } }
            }
            Self::Extend { session } => {
                let ExtendBody { extend_seconds } = read(&body, "{\"extend_seconds\": N}")?;
                Command::Session { session, act: Act::Extend { by_ms: millis(extend_seconds) } }
            }
            Self::Create => create(&body)?,
            Self::Publish(topic) => Command::Publish { topic, message: body },
            Self::Lock { name } => Command::Lock { name, act: lock(&body)? },
            Self::Call { name } => Command::Call { name, arguments: body },
            Self::Import { replace } => Command::Import { file: body, replace },
            Self::TakeOver => take_over(&body)?,
            other @ (Self::Status | Self::Broadcast | Self::RotateKeys | Self::Send(_) | Self::Tail(_)) => {
                return Ok(Err(other));
            }
        };
        Ok(Ok(command))
    }
}

fn take_over(body: &[u8]) -> Result<Command, Refusal> {
    const WANTED: &str = "{\"principal\": \"NAME\", \"sessions\": [{\"session_id\": \"ID\", \"left_ms\": N, \"values\": {…}}]}";
    let TakeOverBody { principal, sessions } = read(body, WANTED)?;
    if principal.is_empty() || principal.chars().any(char::is_control) {
        return Err(Refusal::bad_request("principal: want the name of whose they are to be"));
    }
    let sessions = sessions.into_iter().map(|old| {
        let values = old.values.into_iter().map(|(name, json)| (name, json.get().to_owned())).collect();
        Old { name: old.session_id, left_ms: old.left_ms, values: Values(values) }
    });
    Ok(Command::TakeOver { principal, sessions: sessions.collect() })
}

fn of_session(request: &Parts, session: String, rest: &[&str]) -> Result<Route, Refusal> {
    let method = &request.method;
    let act = match rest {
        [] => match *method {
            Method::GET => Act::Inspect,
            Method::DELETE => Act::End,
            _ => return Err(Refusal::method("GET, DELETE")),
        },
        ["values", name] => {
            let name = decode(name).filter(|name| is_value_name(name)).ok_or_else(|| {
                Refusal::bad_request(
                    "the name of a value: percent-encoded UTF-8, 1 to 4094 bytes, without NUL",
                )
            })?;
            match *method {
                Method::GET => Act::Value { name },
                Method::PUT => {
                    let expected = expected(&request.headers)?;
                    return Ok(Route::Set { session, name, expected, fence: fence(request)? });
                }
                Method::DELETE => Act::RemoveValue { name, expected: expected(&request.headers)? },
                _ => return Err(Refusal::method("GET, PUT, DELETE")),
            }
        }
        ["ttl"] => match *method {
            Method::GET => Act::Ttl,
            Method::POST => return Ok(Route::Extend { session }),
            _ => return Err(Refusal::method("GET, POST")),
        },
        ["export"] => only(method, "GET").map(|()| Act::Export)?,
        _ => {
            return Err(Refusal::not_found(
                "nothing is served at this path: a session has values/NAME, ttl and export",
            ));
        }
    };
    Ok(Route::Command(Command::Session { session, act }))
}

fn topic(query: &str, ask: &'static str) -> Result<String, Refusal> {
    Query::read(query, &["topic"])?
        .take("topic")
        .filter(|topic| !topic.is_empty())
        .ok_or_else(|| Refusal::bad_request(ask))
}

fn list(query: &str) -> Result<Route, Refusal> {
    let mut query = Query::read(query, &["after", "limit", "principal", "idle_over"])?;
    let after = match query.take("after") {
        Some(text) => Some(SessionKey::parse(&text).ok_or_else(|| {
            Refusal::bad_request("after: want the key of a session, as `next` of the page before has it")
        })?),
        None => None,
    };
    let limit = bounded(query.take("limit"), SESSION_PAGE, SESSIONS_PAGE)?;
    let idle_over_ms = match query.take("idle_over") {
        Some(text) => Some(
            text.parse().map(millis).map_err(|_| Refusal::bad_request("idle_over: want whole seconds"))?,
        ),
        None => None,
    };
    let principal = query.take("principal");
    Ok(Route::Command(Command::List(Filter { after, limit, principal, idle_over_ms })))
}

fn bounded(text: Option<String>, usual: usize, most: usize) -> Result<usize, Refusal> {
    let Some(text) = text else { return Ok(usual) };
    text.parse().ok().filter(|limit| (1..=most).contains(limit)).ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("limit: want a number from 1 to {most}"))
    })
}

fn which(query: &mut Query) -> Result<Option<Which>, Refusal> {
    match (query.take("tool"), query.take("tag")) {
        (None, None) => Ok(None),
        (Some(tool), None) if (1..=TOOL_NAME_BYTES).contains(&tool.len()) => Ok(Some(Which::Tool(tool))),
        (None, Some(tag)) if (1..=TAG_BYTES).contains(&tag.len()) => Ok(Some(Which::Tag(tag))),
        (Some(_), Some(_)) => Err(Refusal::bad_request("want tool=NAME or tag=NAME, not both")),
        _ => Err(Refusal::bad_request("want tool=NAME, 1 to 128 bytes, or tag=NAME, 1 to 128 bytes")),
    }
}

fn lock(body: &[u8]) -> Result<LockAct, Refusal> {
    const WANTED: &str = "{\"action\": \"take\", \"ttl_seconds\": N} with \"scope\": \"global\" or \"instance\" and \
                          \"session\": KEY where wanted, {\"action\": \"renew\", \"ttl_seconds\": N, \
                          \"token\": TOKEN} or {\"action\": \"release\", \"token\": TOKEN}";
    let LockBody { action, ttl_seconds, token, scope, session } = read(body, WANTED)?;
    let ttl_ms = ttl_seconds.map(millis).filter(|ttl| *ttl > 0);
    // The token says which lock it is.
    let bare = scope.is_none() && session.is_none();
    match (action, ttl_ms, token) {
        (LockVerb::Take, Some(ttl_ms), None) => Ok(LockAct::Take { ttl_ms, scope, session }),
        (LockVerb::Renew, Some(ttl_ms), Some(token)) if bare => Ok(LockAct::Renew { token, ttl_ms }),
        (LockVerb::Release, None, Some(token)) if bare && ttl_seconds.is_none() => {
            Ok(LockAct::Release { token })
        }
        _ => Err(Refusal::new(StatusCode::BAD_REQUEST, format!("the body: want {WANTED}"))),
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8], wanted: &str) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body: {error}; want {wanted}")))
}

fn only(method: &Method, wanted: &'static str) -> Result<(), Refusal> {
    if method.as_str() == wanted { Ok(()) } else { Err(Refusal::method(wanted)) }
}

fn millis(seconds: u64) -> u64 {
    seconds.saturating_mul(1_000)
}

/// The version that a value must still have.
fn expected(headers: &HeaderMap) -> Result<Option<Version>, Refusal> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let advice = "If-Match: want the version that was read: 26 hexadecimal digits";
    Version::parse(text).map(Some).ok_or_else(|| Refusal::bad_request(advice))
}

/// The lock and the fence under which a value is written.
fn fence(request: &Parts) -> Result<Option<(String, u64)>, Refusal> {
    let mut query = Query::read(request.uri.query().unwrap_or_default(), &["lock", "fence"])?;
    let fence = query.take("fence").map(|text| text.parse::<u64>());
    match (query.take("lock").filter(|lock| !lock.is_empty()), fence) {
        (None, None) => Ok(None),
        (Some(lock), Some(Ok(fence))) => Ok(Some((lock, fence))),
        _ => Err(Refusal::bad_request(
            "a write under a lock: want ?lock=NAME&fence=N, the fence as it was told when the lock was taken",
        )),
    }
}

fn is_session(text: &str) -> bool {
    (1..=MAX_SESSION_ID_BYTES).contains(&text.len())
}

fn is_value_name(name: &str) -> bool {
    (1..=FIELD_NAME_BYTES - VALUE_PREFIX.len()).contains(&name.len()) && !name.contains('\0')
}

fn create(body: &[u8]) -> Result<Command, Refusal> {
    let CreateBody { principal, key } = read(body, "{\"principal\": NAME, \"key\": KEY}, both optional")?;
    let key = match key {
        Some(text) => {
            let key = SessionKey::parse(&text).filter(|key| *key != SessionKey::BROADCAST);
            let want = "key: want 22 characters of base64url, as keys of sessions are listed";
            Some(key.ok_or_else(|| Refusal::bad_request(want))?)
        }
        None => None,
    };
    Ok(Command::Create { principal, key })
}

/// The parameters of a query.
struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query that may have these parameters, each once.
    fn read(query: &str, known: &[&str]) -> Result<Self, Refusal> {
        let mut found: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value)
                .ok_or_else(|| Refusal::bad_request("the query is not percent-encoded UTF-8"))?;
            if !known.contains(&name) || found.iter().any(|(before, _)| before == name) {
                return Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    format!("the query: want each of {} at most once, and nothing else", known.join(", ")),
                ));
            }
            found.push((name.to_owned(), value));
        }
        Ok(Self(found))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }
}

#[cfg(test)]
mod tests;
