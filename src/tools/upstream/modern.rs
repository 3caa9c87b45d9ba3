//! A remote server of 2026-07-28: no sessions, every request says who asks, and what the server wants to know it asks by
//! its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::try_join_all;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::Common;
use super::credentials::Credential;
use super::exchange::{Hearing, Sent, exchange};
use super::failure::{Failure, Kind, Trouble};
use super::http::Refusal;
use super::tasks;
use crate::base::limits::{ASKS_PER_CALL, UPSTREAM_ROUNDS};
use crate::mcp::header::encode;
use crate::mcp::task::EXTENSION;
use crate::rpc::error::{
    HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_CAPABILITY, RpcError, UNSUPPORTED_VERSION,
};
use crate::rpc::message::{self, quote};
use crate::rpc::object::{Change, Object, with_member};
use crate::tools::answer::raw;
use crate::tools::catalog::Features;
use crate::tools::hosted::greeting::{About, Capabilities, EVERYTHING, ServerInfo};
use crate::tools::hosted::params::{Errand, OwnName, for_server};
use crate::tools::{Call, LogLevel};

/// The revision.
pub(super) const REVISION: &str = "2026-07-28";
/// What `_meta` keys of the envelope begin with.
const ENVELOPE: &str = "io.modelcontextprotocol";
/// In `_meta` of a question: the name that it is to have among the questions of its call. The same question keeps its
/// name when the call is made again.
const KEY: &str = "outlast/inputKey";

/// What a server of 2026-07-28 says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Modern {
    pub(super) about: About,
    pub(super) features: Features,
    /// It may make a task of a call.
    pub(super) tasks: bool,
}

/// A request of this revision.
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    /// Parameters without an envelope, JSON text.
    pub(super) params: String,
    /// What `Mcp-Name` repeats.
    pub(super) name: Option<&'a str>,
    /// Arguments that are repeated in headers.
    pub(super) repeated: Vec<(HeaderName, HeaderValue)>,
    /// What the client can do, JSON text.
    pub(super) capabilities: &'a str,
    pub(super) log_level: Option<LogLevel>,
}

impl<'a> Asked<'a> {
    /// A request of our own.
    pub(super) fn plain(method: &'a str, params: String) -> Self {
        Self { method, params, name: None, repeated: Vec::new(), capabilities: "{}", log_level: None }
    }

    pub(super) fn headers(&self, credential: &Credential) -> HeaderMap {
        let mut headers = credential.headers();
        headers.insert("mcp-protocol-version", HeaderValue::from_static(REVISION));
        if let Ok(method) = HeaderValue::from_str(self.method) {
            headers.insert("mcp-method", method);
        }
        if let Some(name) = self.name.and_then(|name| HeaderValue::from_str(&encode(name)).ok()) {
            headers.insert("mcp-name", name);
        }
        headers.extend(self.repeated.iter().cloned());
        headers
    }

    /// The parameters with the envelope in their `_meta`.
    pub(super) fn enveloped(&self) -> Option<String> {
        let params = Object::parse(&self.params).ok()?;
        let mut meta = params.get("_meta").map_or("{}", RawValue::get).to_owned();
        let info = format!("{{\"name\":\"outlast\",\"version\":{}}}", quote(env!("CARGO_PKG_VERSION")));
        let level = self.log_level.map(|level| quote(level.name()));
        let members = [
            ("protocolVersion", Some(quote(REVISION))),
            ("clientInfo", Some(info)),
            ("clientCapabilities", Some(self.capabilities.to_owned())),
            ("logLevel", level),
        ];
        for (key, value) in members {
            if let Some(value) = value {
                meta = with_member(&meta, &format!("{ENVELOPE}/{key}"), &value)?;
            }
        }
        with_member(&self.params, "_meta", &meta)
    }
}

/// Sends a request and reads until its answer, which has to be in the form of the revision.
pub(super) async fn send(
    common: &Common,
    credential: &Credential,
    asked: &Asked<'_>,
    id: u64,
    hearing: Hearing<'_>,
) -> Result<Box<RawValue>, Failure> {
    let Some(params) = asked.enveloped() else {
        return Err(Failure::Answer(RpcError::invalid_params("params: want an object")));
    };
    let sent = Sent {
        id,
        to: &common.http.url,
        headers: asked.headers(credential),
        body: message::request(&id.to_string(), asked.method, &params),
        whose: &credential.whose,
    };
    match exchange(common, None, sent, hearing, None).await {
        Err(Failure::Answer(error)) => Err(judged(common, error)),
        outcome => outcome,
    }
}

/// A request of our own, within the time of a start.
pub(super) async fn request(
    common: &Common,
    credential: &Credential,
    asked: Asked<'_>,
) -> Result<Box<RawValue>, Failure> {
    let (asking, headed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let hearing = Hearing { token: None, out: None, asking: &asking, headed: &headed };
    send_within(common, credential, &asked, hearing).await
}

/// A request that the server can answer at once, within the time of a start.
pub(super) async fn send_within(
    common: &Common,
    credential: &Credential,
    asked: &Asked<'_>,
    hearing: Hearing<'_>,
) -> Result<Box<RawValue>, Failure> {
    let sending = send(common, credential, asked, common.next_id(), hearing);
    match timeout(common.within, sending).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let what = format!("did not answer `{}` within {} s", asked.method, common.within.as_secs());
            Err(common.http.trouble(Kind::Down, true, &what).into())
        }
    }
}

/// What a status that is no success means under this revision.
pub(super) fn judge(refusal: &Refusal, trouble: Trouble) -> Failure {
    let code = refusal.error.as_ref().map(|(error, _)| error.code);
    let kind = match (refusal.status.as_u16(), code) {
        (400, Some(HEADER_MISMATCH)) => Kind::Headers,
        (400, Some(INVALID_PARAMS | MISSING_CAPABILITY | METHOD_NOT_FOUND))
        | (404, Some(METHOD_NOT_FOUND)) => {
            let error = refusal.error.as_ref().map(|(error, _)| error.clone());
            return error.map_or(trouble.into(), Failure::Answer);
        }
        // What an earlier revision answers to a request of this one. 422: the official Rust SDK, where there is no session.
        (400 | 404 | 405 | 406 | 409 | 415 | 422, _) => Kind::Era,
        _ => return trouble.into(),
    };
    Trouble { kind, sent: false, ..trouble }.into()
}

/// An error of the server that is about the conversation with it, and not about what it was asked.
fn judged(common: &Common, error: RpcError) -> Failure {
    let kind = match error.code {
        UNSUPPORTED_VERSION => Kind::Era,
        HEADER_MISMATCH => Kind::Headers,
        _ => return Failure::Answer(error),
    };
    common.http.trouble(kind, false, &format!("refuses the request: {error}")).into()
}

/// The answer to `server/discover`.
#[derive(Deserialize)]
pub(super) struct Discovered {
    #[serde(rename = "supportedVersions", default)]
    versions: Vec<String>,
    capabilities: Option<Box<RawValue>>,
    #[serde(rename = "_meta", default)]
    meta: Meta,
}

#[derive(Deserialize, Default)]
struct Meta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo", default)]
    server_info: ServerInfo,
}

impl Discovered {
    pub(super) fn read(result: &RawValue) -> Option<Self> {
        serde_json::from_str(result.get()).ok()
    }

    pub(super) fn serves(&self) -> bool {
        self.versions.iter().any(|version| version == REVISION)
    }

    pub(super) fn versions(&self) -> String {
        self.versions.join(", ")
    }

    pub(super) fn known(&self) -> Modern {
        #[derive(Deserialize, Default)]
        struct Extended {
            #[serde(default)]
            extensions: Option<serde_json::Value>,
        }
        let text = self.capabilities.as_ref().map_or("{}", |capabilities| capabilities.get());
        let capabilities: Capabilities = serde_json::from_str(text).unwrap_or_default();
        let extended: Extended = serde_json::from_str(text).unwrap_or_default();
        Modern {
            about: About::new(&self.meta.server_info, REVISION),
            features: capabilities.features(),
            tasks: extended.extensions.is_some_and(|all| all.get(EXTENSION).is_some()),
        }
    }
}

/// A call: its rounds, until it has a result.
pub(super) struct Rounds<'a> {
    pub(super) common: &'a Arc<Common>,
    pub(super) credential: &'a Arc<Credential>,
    pub(super) modern: &'a Modern,
    pub(super) errand: Errand<'a>,
    pub(super) call: &'a Call,
    pub(super) repeated: Vec<(HeaderName, HeaderValue)>,
    pub(super) asking: &'a AtomicUsize,
    pub(super) headed: &'a AtomicBool,
}

impl Rounds<'_> {
    pub(super) async fn run(&self) -> Result<Box<RawValue>, Failure> {
        let token = self.call.progress_token.as_ref().map(|_| self.common.next_id());
        let Some(params) = for_server(&self.call.params, self.errand.name, token) else {
            return Err(Failure::Answer(RpcError::invalid_params("params: want an object")));
        };
        // A task tells its progress to nobody: who wants to hear of it is served without, where the server does that.
        let mut tasks = self.modern.tasks && token.is_none();
        let (plainly, as_task) = (self.capabilities(false), self.capabilities(self.modern.tasks));
        let uri = uri_of(self.errand, &self.call.params);
        let mut asked = Asked {
            method: self.errand.method,
            params: params.clone(),
            name: match self.errand.name {
                OwnName::Member(name) => Some(name),
                OwnName::Reference(_) | OwnName::None => uri.as_deref(),
            },
            repeated: self.repeated.clone(),
            capabilities: if tasks { &as_task } else { &plainly },
            log_level: LogLevel::ALL.into_iter().find(|level| self.call.out.wants_log(*level)),
        };
        for _ in 0..UPSTREAM_ROUNDS {
            let token = token.zip(self.call.progress_token.as_deref());
            let hearing =
                Hearing { token, out: Some(&self.call.out), asking: self.asking, headed: self.headed };
            let sent = send(self.common, self.credential, &asked, self.common.next_id(), hearing).await;
            let result = match sent {
                Err(Failure::Answer(error))
                    if error.code == MISSING_CAPABILITY && self.modern.tasks && !tasks =>
                {
                    tasks = true;
                    asked.capabilities = &as_task;
                    continue;
                }
                sent => sent?,
            };
            match result_type(&result).as_deref() {
                Some("input_required") => {
                    let answers = self.answers(&result).await?;
                    asked.params = retried(&params, &answers, &result).unwrap_or_else(|| params.clone());
                    // It is another request to the server, but the same call.
                    asked.log_level = LogLevel::ALL.into_iter().find(|level| self.call.out.wants_log(*level));
                }
                Some("task") if self.modern.tasks => {
                    return tasks::follow(self, &result, &as_task).await.map(|result| plain(&result));
                }
                _ => return Ok(plain(&result)),
            }
        }
        let what = format!("asked for more input {UPSTREAM_ROUNDS} times in one call and was given up");
        Err(self.common.http.trouble(Kind::Refused, true, &what).into())
    }

    /// What the client can do, and whether we follow tasks of the server.
    fn capabilities(&self, tasks: bool) -> String {
        let declared = match (self.call.out.modern_capabilities(), &self.call.session) {
            (Some(modern), _) => modern.get(),
            (None, Some(session)) => session.client_capabilities().get(),
            (None, None) => EVERYTHING,
        };
        let Ok(object) = Object::parse(declared) else { return "{}".into() };
        // Tasks and extensions are between the client and this server.
        let own = object.with(|key, _| match key {
            "tasks" | "extensions" => Change::Drop,
            _ => Change::Keep,
        });
        if !tasks {
            return own;
        }
        with_member(&own, "extensions", &format!("{{{}:{{}}}}", quote(EXTENSION))).unwrap_or(own)
    }

    /// Puts the questions of a result to the client: its answers as the members of an object, JSON text.
    async fn answers(&self, result: &RawValue) -> Result<String, Failure> {
        let questions = Object::parse(result.get()).ok().and_then(|result| result.get("inputRequests"));
        let Some(questions) = questions else { return Ok("{}".into()) };
        self.ask(questions).await
    }

    /// Asks the client, everything at once. A refusal of one question ends the call.
    pub(super) async fn ask(&self, questions: &RawValue) -> Result<String, Failure> {
        let mut all = Vec::new();
        let malformed = || {
            let what = "asks for input in a form that is not that of 2026-07-28";
            Failure::from(self.common.http.trouble(Kind::Refused, true, what))
        };
        let object = Object::parse(questions.get()).map_err(|_| malformed())?;
        object.with(|key, question| {
            all.push((key.to_owned(), question.to_owned()));
            Change::Keep
        });
        if all.len() > ASKS_PER_CALL {
            let what = format!("asks {} questions at once, more than {ASKS_PER_CALL}", all.len());
            return Err(self.common.http.trouble(Kind::Refused, true, &what).into());
        }
        let mut asks = Vec::new();
        for (key, question) in &all {
            let (method, params) = question_of(question).ok_or_else(malformed)?;
            asks.push((key, method, params_with_key(&params, key)));
        }
        self.asking.store(asks.len(), Ordering::Relaxed);
        let waiting = asks.into_iter().map(|(key, method, params)| async move {
            let answer = self.call.out.ask(&method, params).await.map_err(Failure::Answer)?;
            Ok::<String, Failure>(format!("{}:{}", quote(key), answer.get()))
        });
        let answers = try_join_all(waiting).await;
        self.asking.store(0, Ordering::Relaxed);
        Ok(format!("{{{}}}", answers?.join(",")))
    }
}

/// The parameters of a retry: answers, and the state as it was given.
fn retried(params: &str, answers: &str, result: &RawValue) -> Option<String> {
    let mut params = with_member(params, "inputResponses", answers)?;
    if let Some(state) = Object::parse(result.get()).ok()?.get("requestState") {
        params = with_member(&params, "requestState", state.get())?;
    }
    Some(params)
}

fn question_of(question: &RawValue) -> Option<(String, Box<RawValue>)> {
    #[derive(Deserialize)]
    struct Question {
        method: String,
        params: Option<Box<RawValue>>,
    }
    let Question { method, params } = serde_json::from_str(question.get()).ok()?;
    let known = matches!(method.as_str(), "elicitation/create" | "sampling/createMessage" | "roots/list");
    known.then(|| (method, params.unwrap_or_else(|| raw("{}".into()))))
}

fn params_with_key(params: &RawValue, key: &str) -> Box<RawValue> {
    let meta =
        Object::parse(params.get()).ok().and_then(|params| params.get("_meta")).map_or("{}", RawValue::get);
    let keyed =
        with_member(meta, KEY, &quote(key)).and_then(|meta| with_member(params.get(), "_meta", &meta));
    keyed.map_or_else(|| params.to_owned(), raw)
}

/// What `resources/read` names in its header.
fn uri_of(errand: Errand<'_>, params: &RawValue) -> Option<String> {
    if errand.method != "resources/read" {
        return None;
    }
    serde_json::from_str(Object::parse(params.get()).ok()?.get("uri")?.get()).ok()
}

pub(super) fn result_type(result: &RawValue) -> Option<String> {
    serde_json::from_str(Object::parse(result.get()).ok()?.get("resultType")?.get()).ok()
}

/// A result without what belongs to the conversation with the server: the one with the client has its own.
pub(super) fn plain(result: &RawValue) -> Box<RawValue> {
    let Ok(object) = Object::parse(result.get()) else { return result.to_owned() };
    raw(object.with(|key, value| match key {
        "resultType" | "ttlMs" | "cacheScope" => Change::Drop,
        "_meta" => match Object::parse(value.get()) {
            Ok(meta) => {
                let rest = meta.with(|key, _| match key.strip_prefix(ENVELOPE) {
                    Some(_) => Change::Drop,
                    None => Change::Keep,
                });
                if rest == "{}" { Change::Drop } else { Change::Set(rest) }
            }
            Err(_) => Change::Keep,
        },
        _ => Change::Keep,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_who_asks_and_keeps_what_it_said() {
        let asked = Asked {
            capabilities: r#"{"roots":{}}"#,
            log_level: Some(LogLevel::Info),
            ..Asked::plain("tools/call", r#"{"name":"t","n":1e400,"_meta":{"a/b":1.0}}"#.into())
        };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            asked.enveloped().unwrap(),
            format!(
                r#"{{"name":"t","n":1e400,"_meta":{{"a/b":1.0,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"outlast","version":"{version}"}},"io.modelcontextprotocol/clientCapabilities":{{"roots":{{}}}},"io.modelcontextprotocol/logLevel":"info"}}}}"#
            )
        );
    }

    #[test]
    fn a_result_loses_what_belongs_to_the_conversation_and_nothing_else() {
        for (given, kept) in [
            (
                r#"{"resultType":"complete","content":[],"n":1e400,"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"x"}}}"#,
                r#"{"content":[],"n":1e400}"#,
            ),
            (r#"{"ttlMs":0,"cacheScope":"public","_meta":{"a/b":1}}"#, r#"{"_meta":{"a/b":1}}"#),
        ] {
            assert_eq!(plain(&raw(given.into())).get(), kept);
        }
    }

    #[test]
    fn a_retry_has_the_answers_and_the_state_verbatim() {
        let result = raw(r#"{"resultType":"input_required","requestState":"a\u0062"}"#.into());
        assert_eq!(
            retried(r#"{"name":"t"}"#, r#"{"k":{}}"#, &result).unwrap(),
            r#"{"name":"t","inputResponses":{"k":{}},"requestState":"a\u0062"}"#
        );
        let without = raw("{}".into());
        assert_eq!(
            retried(r#"{"name":"t"}"#, "{}", &without).unwrap(),
            r#"{"name":"t","inputResponses":{}}"#
        );
    }

    #[test]
    fn a_question_is_one_of_three_and_has_its_name_along() {
        let asked = raw(r#"{"method":"elicitation/create","params":{"message":"?","n":1e400}}"#.into());
        let (method, params) = question_of(&asked).unwrap();
        assert_eq!(method, "elicitation/create");
        assert_eq!(
            params_with_key(&params, "a\"b").get(),
            r#"{"message":"?","n":1e400,"_meta":{"outlast/inputKey":"a\"b"}}"#
        );
        assert!(question_of(&raw(r#"{"method":"tools/call"}"#.into())).is_none());
        assert!(question_of(&raw("7".into())).is_none());
    }
}
