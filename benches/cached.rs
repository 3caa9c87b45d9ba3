//! What a call costs whose result is answered again: from the registered tool to the result, on one thread.
//!
//! Bound: below 15 µs for a result of 1 KiB.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use outlast::config::{self, ToolFacts};
use outlast::rpc::error::RpcError;
use outlast::tools::answer::{raw, text};
use outlast::tools::registry::{Registered, Registry, Source};
use outlast::tools::{BoxFuture, Call, HandleChange, Handles, Host, LogLevel, Outbox, Tool};
use serde_json::value::RawValue;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// A server whose one tool answers with a text of this size.
struct Server {
    facts: ToolFacts,
    bytes: usize,
    made: AtomicUsize,
}

impl Host for Server {
    fn name(&self) -> &str {
        "files"
    }

    fn tools(&self) -> BoxFuture<'_, Result<Vec<Tool>, RpcError>> {
        let json = r#"{"name":"search","description":"Finds text in files.","inputSchema":{"type":"object","properties":{"path":{"type":"string"},"limit":{"type":"integer"}}},"annotations":{"readOnlyHint":true}}"#;
        let tool = Tool { name: "search".into(), json: raw(json.into()), resumable: false };
        Box::pin(std::future::ready(Ok(vec![tool])))
    }

    fn call(&self, _: &str, _: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        self.made.fetch_add(1, Ordering::Relaxed);
        let result = text(&"some words of text ".repeat(self.bytes.div_ceil(19)));
        Box::pin(std::future::ready(Ok(result)))
    }

    fn facts(&self, _: &str) -> Option<&ToolFacts> {
        Some(&self.facts)
    }
}

struct Nobody;

impl Outbox for Nobody {
    fn notify(&self, _: Bytes) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn ask(&self, _: &str, _: Box<RawValue>) -> BoxFuture<'_, Result<Box<RawValue>, RpcError>> {
        Box::pin(std::future::ready(Err(RpcError::internal("nobody"))))
    }

    fn wants_log(&self, _: LogLevel) -> bool {
        false
    }

    fn can_ask(&self) -> bool {
        false
    }

    fn modern_capabilities(&self) -> Option<&RawValue> {
        None
    }
}

impl Handles for Nobody {
    fn create(&self, _: &str, _: Bytes) -> BoxFuture<'_, Result<String, RpcError>> {
        Box::pin(std::future::ready(Err(RpcError::internal("none"))))
    }

    fn change(&self, _: &str, _: &str, _: HandleChange) -> BoxFuture<'_, Result<Option<Bytes>, RpcError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

fn call(nobody: &Arc<Nobody>) -> Call {
    let params = r#"{"name":"search","arguments":{"path":"/src","limit":20},"_meta":{"progressToken":7}}"#;
    Call {
        params: raw(params.into()),
        progress_token: None,
        session: None,
        out: Arc::clone(nobody) as _,
        cancel: CancellationToken::new(),
        principal: Arc::from("ann"),
        handles: Arc::clone(nobody) as _,
        correlation: Arc::from("c"),
        resumed_after: None,
        anew: false,
    }
}

/// The tool, and how often it ran.
fn tool(runtime: &Runtime, bytes: usize, cache_seconds: i64) -> (Arc<Registry>, Registered, Arc<Server>) {
    let facts = ToolFacts { cache_seconds, ..ToolFacts::default() };
    let server = Arc::new(Server { facts, bytes, made: AtomicUsize::new(0) });
    let source = Source { host: Arc::clone(&server) as _, server: Some("files".into()) };
    let registry = runtime.block_on(async {
        let registry = Registry::start_with(vec![source], &config::Tools::default());
        registry.settled(Duration::from_secs(5)).await;
        registry
    });
    let tool = registry.snapshot().get("search").unwrap().clone();
    (registry, tool, server)
}

fn run(bencher: Bencher<'_, '_>, bytes: usize, cache_seconds: i64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_registry, tool, server) = tool(&runtime, bytes, cache_seconds);
    let nobody = Arc::new(Nobody);
    runtime.block_on(tool.run(call(&nobody))).unwrap();
    let answer = || runtime.block_on(tool.run(call(&nobody))).unwrap();
    let len = answer().get().len();
    bencher.counter(BytesCount::new(len)).bench_local(|| black_box(answer()));
    assert_eq!(
        server.made.load(Ordering::Relaxed) == 1,
        cache_seconds > 0,
        "what is measured is not what is meant"
    );
}

/// A result that is kept.
#[divan::bench(args = [100, 1_024, 16_384, 65_536])]
fn kept(bencher: Bencher<'_, '_>, bytes: usize) {
    run(bencher, bytes, 600);
}

/// The same call without a cache, of a host that costs nothing.
#[divan::bench(args = [100, 1_024])]
fn made(bencher: Bencher<'_, '_>, bytes: usize) {
    run(bencher, bytes, -1);
}
