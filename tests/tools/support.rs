//! The engine's side of a call, as far as a tool sees it, and the fixture child.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use outlast::config::{self, HostedServer, Lifetime};
use outlast::rpc::error::RpcError;
use outlast::tools::child::ChildHost;
use outlast::tools::{
    BoxFuture, Call, HandleChange, Handles, Host, LogLevel, Outbox, SessionView, ValueChange,
};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

pub fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.into()).unwrap()
}

/// Ends a test that hangs.
pub async fn bounded<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(40), what).await.expect("it takes too long")
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// A client that takes what it is sent.
pub struct Client {
    pub messages: Mutex<Vec<Value>>,
    pub texts: Mutex<Vec<String>>,
    /// Answers questions; none: it waits for ever.
    pub answer: Option<Result<&'static str, RpcError>>,
    pub asked: Mutex<Vec<(String, String)>>,
    pub level: LogLevel,
    pub modern: Option<Box<RawValue>>,
    /// Takes no messages while set.
    pub stuck: AtomicBool,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            messages: Mutex::default(),
            texts: Mutex::default(),
            answer: None,
            asked: Mutex::default(),
            level: LogLevel::Info,
            modern: None,
            stuck: AtomicBool::new(false),
        }
    }
}

impl Client {
    /// What it was sent with this method.
    pub fn got(&self, method: &str) -> Vec<Value> {
        self.messages.lock().unwrap().iter().filter(|it| it["method"] == method).cloned().collect()
    }
}

impl Outbox for Client {
    fn notify(&self, message: Bytes) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            while self.stuck.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.messages.lock().unwrap().push(serde_json::from_slice(&message).unwrap());
            self.texts.lock().unwrap().push(String::from_utf8(message.to_vec()).unwrap());
            Ok(())
        })
    }

    fn ask(&self, method: &str, params: Box<RawValue>) -> BoxFuture<'_, Result<Box<RawValue>, RpcError>> {
        self.asked.lock().unwrap().push((method.into(), params.get().into()));
        Box::pin(async move {
            match &self.answer {
                Some(answer) => answer.clone().map(raw),
                None => std::future::pending().await,
            }
        })
    }

    fn wants_log(&self, level: LogLevel) -> bool {
        level >= self.level
    }

    fn can_ask(&self) -> bool {
        self.modern.is_none()
    }

    fn wanted_to_ask(&self) -> bool {
        !self.asked.lock().unwrap().is_empty()
    }

    fn modern_capabilities(&self) -> Option<&RawValue> {
        self.modern.as_deref()
    }
}

/// A session that keeps its values in memory.
pub struct Session {
    key: String,
    capabilities: Box<RawValue>,
    values: Mutex<HashMap<String, Bytes>>,
}

pub fn session(key: &str) -> Arc<Session> {
    Arc::new(Session {
        key: key.into(),
        capabilities: raw(r#"{"elicitation":{},"roots":{"listChanged":true}}"#),
        values: Mutex::default(),
    })
}

impl SessionView for Session {
    fn key(&self) -> &str {
        &self.key
    }

    fn client_capabilities(&self) -> &RawValue {
        &self.capabilities
    }

    fn change_value<'a>(
        &'a self,
        name: &'a str,
        change: ValueChange,
    ) -> BoxFuture<'a, Result<Option<Bytes>, RpcError>> {
        let mut values = self.values.lock().unwrap();
        let next = change(values.get(name));
        match &next {
            Some(value) => values.insert(name.into(), value.clone()),
            None => values.remove(name),
        };
        Box::pin(std::future::ready(Ok(next)))
    }
}

/// Handles in memory.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<(String, String), Bytes>>);

impl Handles for Memory {
    fn create(&self, principal: &str, value: Bytes) -> BoxFuture<'_, Result<String, RpcError>> {
        let mut values = self.0.lock().unwrap();
        let name = format!("h{}", values.len());
        values.insert((principal.into(), name.clone()), value);
        Box::pin(std::future::ready(Ok(name)))
    }

    fn change(
        &self,
        principal: &str,
        handle: &str,
        change: HandleChange,
    ) -> BoxFuture<'_, Result<Option<Bytes>, RpcError>> {
        let mut values = self.0.lock().unwrap();
        let changed = values.get_mut(&(principal.to_owned(), handle.to_owned())).map(|value| {
            *value = change(value);
            value.clone()
        });
        Box::pin(std::future::ready(Ok(changed)))
    }
}

/// A call of `tool` with `arguments`.
pub fn call(tool: &str, arguments: &str, client: &Arc<Client>) -> Call {
    with_params(&format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#), client)
}

/// A call with these `params`.
pub fn with_params(params: &str, client: &Arc<Client>) -> Call {
    let value: Value = serde_json::from_str(params).unwrap();
    let token = value.pointer("/_meta/progressToken").map(|token| raw(&token.to_string()));
    Call {
        params: raw(params),
        progress_token: token,
        session: None,
        out: Arc::clone(client) as _,
        cancel: CancellationToken::new(),
        principal: Arc::from("me"),
        handles: Arc::new(Memory::default()),
        correlation: Arc::from("c"),
        resumed_after: None,
        anew: false,
    }
}

pub trait InSession {
    fn of(self, session: &Arc<Session>) -> Self;
}

impl InSession for Call {
    fn of(mut self, session: &Arc<Session>) -> Self {
        self.session = Some(Arc::clone(session) as _);
        self
    }
}

/// What a host answers, as a value that big numbers do not survive: look at its text for those.
pub async fn run(host: &impl Host, tool: &str, arguments: &str) -> Value {
    run_for(host, tool, call(tool, arguments, &Arc::default())).await
}

pub async fn run_for(host: &impl Host, tool: &str, call: Call) -> Value {
    let answer = bounded(host.call(tool, call)).await.unwrap();
    serde_json::from_str(answer.get()).unwrap()
}

/// The first text of a result.
pub fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().expect("a text")
}

/// The text of a failed result.
pub fn failure(result: &Value) -> &str {
    assert_eq!(result["isError"], true, "{result}");
    text(result)
}

/// A hosted server that runs the fixture.
pub fn fixture(lifetime: Lifetime, args: &[&str]) -> HostedServer {
    HostedServer {
        command: fixture_path().to_str().unwrap().into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        lifetime,
        pool_size: 1,
        start_timeout_seconds: 10,
        call_timeout_seconds: 20,
        ..HostedServer::default()
    }
}

/// Examples are built with the tests and stand beside their directory.
pub fn fixture_path() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples/fixture-child");
    assert!(built.exists(), "{} is missing: cargo build --example fixture-child", built.display());
    built
}

pub fn host(settings: &HostedServer) -> Arc<ChildHost> {
    ChildHost::new("fix", settings, Path::new("/tmp"), &config::Tools::default())
}

pub fn shared(args: &[&str]) -> Arc<ChildHost> {
    host(&fixture(Lifetime::Pool, args))
}

pub async fn pid(host: &impl Host) -> u32 {
    text(&run(host, "pid", "{}").await).parse().unwrap()
}

/// Whether a process runs: one that has ended and only waits to be reaped by somebody else does not.
pub fn runs(pid: u32) -> bool {
    state_of(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// Whether nothing is left of a process, not even a zombie.
pub fn is_reaped(pid: u32) -> bool {
    state_of(pid).is_none()
}

fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
