//! What every request costs before anything is done for it: its envelope is parsed and its era decided.
//!
//! Bound: below 1.5 µs for a `tools/call` of 1 KiB, its params not copied.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use http::HeaderMap;
use outlast::mcp::era::{Era, of_request};
use outlast::rpc::message::{Envelope, Message};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// A `tools/call` of about `bytes` bytes; with the claim of 2026-07-28 if `modern`.
fn call(bytes: usize, modern: bool) -> String {
    let meta = if modern {
        r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"},"io.modelcontextprotocol/clientCapabilities":{"elicitation":{}},"progressToken":7}"#
    } else {
        r#","_meta":{"progressToken":7}"#
    };
    let with = |text: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{{"name":"files__search","arguments":{{"path":"/src","limit":20,"text":"{text}"}}{meta}}}}}"#
        )
    };
    let room = bytes.saturating_sub(with("").len());
    with("some words of text ".repeat(room.div_ceil(19)).get(..room).unwrap())
}

fn headers(modern: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: &'static str| headers.insert(name, value.parse().unwrap());
    put("content-type", "application/json");
    put("accept", "application/json, text/event-stream");
    put("mcp-protocol-version", if modern { "2026-07-28" } else { "2025-11-25" });
    if modern {
        put("mcp-method", "tools/call");
        put("mcp-name", "files__search");
    } else {
        put("mcp-session-id", "s1.x");
    }
    headers
}

fn route(body: &[u8], headers: &HeaderMap, modern: bool) -> usize {
    let Ok(Envelope::One(Message::Request(request))) = Envelope::parse(body) else { panic!("no request") };
    let era = of_request(&request, Some(headers)).unwrap();
    assert_eq!(matches!(era, Era::Modern(_)), modern);
    let params = request.params.unwrap().get().as_bytes();
    // Inside the body, not beside it.
    assert!(body.as_ptr_range().contains(&params.as_ptr()));
    params.len()
}

#[divan::bench(args = [256, 1_024, 16_384], sample_count = 500)]
fn legacy_call(bencher: Bencher, bytes: usize) {
    measure(bencher, bytes, false);
}

#[divan::bench(args = [512, 1_024, 16_384], sample_count = 500)]
fn modern_call(bencher: Bencher, bytes: usize) {
    measure(bencher, bytes, true);
}

fn measure(bencher: Bencher, bytes: usize, modern: bool) {
    let (body, headers) = (call(bytes, modern), headers(modern));
    bencher
        .counter(BytesCount::new(body.len()))
        .bench(|| route(black_box(body.as_bytes()), black_box(&headers), modern));
}

/// What the validation of a call's arguments costs: they are read as a value and held against a compiled schema. Bound:
/// below 2 µs for an echo.
#[divan::bench(args = [16, 1024])]
fn arguments_against_a_schema(bencher: Bencher, bytes: usize) {
    let schema = outlast::tools::schema::Schema::compile(
        r#"{"type":"object","properties":{"message":{"type":"string"}},"required":["message"],"additionalProperties":false}"#,
    )
    .unwrap();
    let arguments = format!("{{\"message\":\"{}\"}}", "x".repeat(bytes));
    bencher.counter(BytesCount::new(arguments.len())).bench_local(|| {
        let value: serde_json::Value = serde_json::from_str(black_box(&arguments)).unwrap();
        schema.check(&value).unwrap();
        value
    });
}
