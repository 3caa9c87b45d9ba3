mod flights;
mod shared;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use bytes::Bytes;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::base::clock::ManualClock;
use crate::config::{CacheScope, ToolFacts};
use crate::tools::answer::{failure, raw};
use crate::tools::registry::{Kind, Registered};
use crate::tools::{HandleChange, Handles, Host, LogLevel, Outbox, SessionView, Tool, ValueChange};

const READ_ONLY: &str = r#"{"name":"t","annotations":{"readOnlyHint":true}}"#;
const IDEMPOTENT: &str = r#"{"name":"t","annotations":{"idempotentHint":true}}"#;
const NO_HINT: &str = r#"{"name":"t"}"#;
/// A result that says that it counts for ten seconds.
const TEN: &str = r#"{"content":[],"ttlMs":10000,"big":123456789012345678901234567890}"#;

/// A host of which only what is said of its tool counts.
#[derive(Default)]
struct Fake(ToolFacts);

impl Host for Fake {
    fn name(&self) -> &str {
        "server"
    }

    fn tools(&self) -> BoxFuture<'_, Result<Vec<Tool>, RpcError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn call(&self, _: &str, _: Call) -> BoxFuture<'static, Outcome> {
        Box::pin(std::future::ready(Err(RpcError::internal("nobody calls it"))))
    }

    fn facts(&self, _: &str) -> Option<&ToolFacts> {
        Some(&self.0)
    }
}

/// A client that is asked, if it is.
#[derive(Default)]
struct Client {
    asked: AtomicBool,
    modern: Option<Box<RawValue>>,
}

impl Outbox for Client {
    fn notify(&self, _: Bytes) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn ask(&self, _: &str, _: Box<RawValue>) -> BoxFuture<'_, Result<Box<RawValue>, RpcError>> {
        self.asked.store(true, Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(raw("{}".into()))))
    }

    fn wants_log(&self, _: LogLevel) -> bool {
        false
    }

    fn can_ask(&self) -> bool {
        true
    }

    fn wanted_to_ask(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    fn modern_capabilities(&self) -> Option<&RawValue> {
        self.modern.as_deref()
    }
}

struct Keeps;

impl Handles for Keeps {
    fn create(&self, _: &str, _: Bytes) -> BoxFuture<'_, Result<String, RpcError>> {
        Box::pin(std::future::ready(Ok("h".into())))
    }

    fn change(&self, _: &str, _: &str, _: HandleChange) -> BoxFuture<'_, Result<Option<Bytes>, RpcError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

impl SessionView for Keeps {
    fn key(&self) -> &str {
        "s"
    }

    fn client_capabilities(&self) -> &RawValue {
        RawValue::NULL
    }

    fn change_value<'a>(
        &'a self,
        _: &'a str,
        _: ValueChange,
    ) -> BoxFuture<'a, Result<Option<Bytes>, RpcError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

fn rules_of(json: &str, facts: ToolFacts) -> Option<Rules> {
    let host: Arc<dyn Host> = Arc::new(Fake(facts));
    let tool = Tool { name: "t".into(), json: raw(json.into()), resumable: false };
    let repeatable = tool.is_repeatable();
    Rules::of(&Registered {
        tool,
        kind: Kind::Tool,
        repeatable,
        ..Registered::unlisted(Kind::Tool, "t", &host)
    })
}

fn facts(cache_seconds: i64) -> ToolFacts {
    ToolFacts { cache_seconds, ..ToolFacts::default() }
}

fn call_of(principal: &str, arguments: &str) -> Call {
    Call {
        params: raw(format!(r#"{{"name":"t","arguments":{arguments},"_meta":{{"progressToken":1}}}}"#)),
        progress_token: None,
        session: Some(Arc::new(Keeps)),
        out: Arc::new(Client::default()),
        cancel: CancellationToken::new(),
        principal: principal.into(),
        handles: Arc::new(Keeps),
        correlation: "c".into(),
        resumed_after: None,
        anew: false,
    }
}

/// A cache, its clock, and how often calls were made.
struct Bench {
    results: Arc<Results>,
    clock: Arc<ManualClock>,
    made: Arc<AtomicUsize>,
}

impl Bench {
    fn new() -> Self {
        Self::of(1 << 20)
    }

    fn of(bytes: u64) -> Self {
        let clock = ManualClock::at(1_000_000);
        let results = Results::with_clock(bytes, Arc::clone(&clock) as _);
        Self { results, clock, made: Arc::default() }
    }

    async fn ask(&self, rules: &Rules, call: Call, result: &str) -> serde_json::Value {
        let result = result.to_owned();
        let answered = self.run(rules, call, move |_| Box::pin(async move { Ok(raw(result)) })).await;
        serde_json::from_str(answered.unwrap().get()).unwrap()
    }

    async fn run(
        &self,
        rules: &Rules,
        call: Call,
        make: impl FnOnce(Call) -> BoxFuture<'static, Outcome>,
    ) -> Outcome {
        let made = Arc::clone(&self.made);
        let make = move |call| {
            made.fetch_add(1, Ordering::SeqCst);
            make(call)
        };
        self.results.answer(rules, false, call, make).await
    }

    /// Lets everybody else go on until they wait for something.
    async fn settle(&self) {
        for _ in 0..500 {
            tokio::task::yield_now().await;
        }
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

#[test]
fn only_what_changes_nothing_is_kept_or_what_the_operator_says() {
    for (json, seconds, is) in [
        (READ_ONLY, -1, true),
        (READ_ONLY, 5, true),
        (READ_ONLY, 0, false),
        (IDEMPOTENT, -1, false),
        (IDEMPOTENT, 5, true),
        (NO_HINT, -1, false),
        (NO_HINT, 5, false),
    ] {
        assert_eq!(rules_of(json, facts(seconds)).is_some(), is, "{json} {seconds}");
    }
    let host: Arc<dyn Host> = Arc::new(Fake::default());
    let built_in = Registered { hosted: false, ..Registered::unlisted(Kind::Tool, "t", &host) };
    assert!(Rules::of(&built_in).is_none());
}

#[tokio::test]
async fn a_result_is_answered_again_with_its_age_and_the_time_that_is_left() {
    let (bench, rules) = (Bench::new(), rules_of(READ_ONLY, facts(-1)).unwrap());
    let first = bench.ask(&rules, call_of("ann", r#"{"a":1,"b":[2.0]}"#), TEN).await;
    assert!(first.get("_meta").is_none() && first["ttlMs"] == 10_000);
    bench.clock.advance(Duration::from_millis(2_500));
    let again = bench.ask(&rules, call_of("ann", r#"{"b": [2.0], "a": 1}"#), TEN).await;
    assert_eq!(
        (again["_meta"][CACHED]["ageMs"].as_u64(), again["ttlMs"].as_u64()),
        (Some(2_500), Some(7_500))
    );
    assert_eq!(bench.made(), 1);
    // Numbers are compared as they are written.
    bench.ask(&rules, call_of("ann", r#"{"a":1,"b":[2]}"#), TEN).await;
    assert_eq!(bench.made(), 2);
    bench.clock.advance(Duration::from_millis(7_500));
    bench.ask(&rules, call_of("ann", r#"{"a":1,"b":[2.0]}"#), TEN).await;
    assert_eq!(bench.made(), 3);
    let stats = bench.results.stats();
    assert_eq!((stats.memory_hits, stats.misses, stats.kept), (1, 2, 3));
}

#[tokio::test]
async fn what_is_told_again_is_what_was_told_but_for_what_is_said_anew() {
    let bench = Bench::new();
    let rules = rules_of(READ_ONLY, facts(60)).unwrap();
    for result in [
        r#"{}"#,
        r#"{"content":[{"type":"text","text":"}{\""}],"x":{"f":1.10,"e":1e400,"n":123456789012345678901234567890}}"#,
        r#"{"_meta":{"a/b":[1e400]},"content":[]}"#,
        r#"{"_meta":{"outlast/cached":{"ageMs":99},"a":1}}"#,
        r#"{"content":[],"_meta":{}}"#,
    ] {
        let call = || call_of("ann", &format!("{{\"of\":{}}}", result.len()));
        // Read as text: no number of a value holds some of these.
        let own = raw(result.to_owned());
        bench.run(&rules, call(), move |_| Box::pin(async move { Ok(own) })).await.unwrap();
        let answered = bench.run(&rules, call(), |_| panic!("it is there")).await.unwrap();
        let text = answered.get();
        for kept in ["1.10", "1e400", "123456789012345678901234567890", "}{\\\"", "a/b"] {
            assert_eq!(text.contains(kept), result.contains(kept), "{text}");
        }
        assert!(text.contains("\"ageMs\":0") && !text.contains("99") && !text.contains("ttlMs"), "{text}");
    }
}

#[tokio::test]
async fn a_client_of_2026_07_28_is_told_the_server_too() {
    let (bench, rules) = (Bench::new(), rules_of(READ_ONLY, facts(60)).unwrap());
    bench.ask(&rules, call_of("ann", "{}"), "{}").await;
    let client = Client { modern: Some(raw("{}".into())), ..Client::default() };
    let modern = Call { out: Arc::new(client), ..call_of("ann", "{}") };
    let told = bench.ask(&rules, modern, "{}").await;
    assert_eq!(told["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "outlast");
}

#[tokio::test]
async fn failures_questions_and_results_of_no_time_are_not_kept() {
    let (bench, rules) = (Bench::new(), rules_of(READ_ONLY, facts(60)).unwrap());
    let failed = failure("no").get().to_owned();
    let bad = [
        failed.as_str(),
        r#"{"resultType":"input_required","inputRequests":{}}"#,
        r#"{"resultType":"task","taskId":"x"}"#,
        r#"{"task":{"taskId":"x"}}"#,
        r#"{"content":[],"ttlMs":0}"#,
        r#"{"content":[],"ttlMs":-5}"#,
        r#"{"content":[],"ttlMs":"soon"}"#,
        "[]",
    ];
    for result in bad {
        let before = bench.made();
        bench.ask(&rules, call_of("ann", "{}"), result).await;
        bench.ask(&rules, call_of("ann", "{}"), result).await;
        assert_eq!(bench.made() - before, 2, "{result}");
    }
    let refused =
        || bench.run(&rules, call_of("ann", "{}"), |_| Box::pin(async { Err(RpcError::internal("x")) }));
    assert!(refused().await.is_err() && refused().await.is_err());
    assert_eq!(bench.results.stats().entries, 0);
}

#[tokio::test]
async fn a_call_that_asked_or_used_what_is_kept_for_a_session_is_its_own() {
    let (bench, rules) = (Bench::new(), rules_of(READ_ONLY, facts(60)).unwrap());
    type Make = fn(Call) -> BoxFuture<'static, Outcome>;
    let uses: [Make; 3] = [
        |call| {
            Box::pin(async move {
                call.out.ask("roots/list", raw("{}".into())).await?;
                Ok(raw("{}".into()))
            })
        },
        |call| {
            Box::pin(async move {
                call.session.unwrap().change_value("v", Box::new(|_| None)).await?;
                Ok(raw("{}".into()))
            })
        },
        |call| {
            Box::pin(async move {
                call.handles.create("ann", Bytes::new()).await?;
                Ok(raw("{}".into()))
            })
        },
    ];
    for make in uses {
        let before = bench.made();
        bench.run(&rules, call_of("ann", "{}"), make).await.unwrap();
        bench.run(&rules, call_of("ann", "{}"), make).await.unwrap();
        assert_eq!(bench.made() - before, 2);
    }
}

#[tokio::test]
async fn principals_do_not_see_each_others_unless_it_is_everybodys() {
    let public = r#"{"content":[],"cacheScope":"public"}"#;
    let private = r#"{"content":[],"cacheScope":"private"}"#;
    let silent = r#"{"content":[]}"#;
    for (scope, result, made) in [
        (CacheScope::Auto, silent, 2),
        (CacheScope::Auto, private, 2),
        (CacheScope::Auto, public, 1),
        (CacheScope::Private, public, 2),
        (CacheScope::Public, silent, 1),
        (CacheScope::Public, private, 2),
    ] {
        let bench = Bench::new();
        let rules = rules_of(READ_ONLY, ToolFacts { cache_scope: scope, ..facts(60) }).unwrap();
        for principal in ["ann", "bob", "ann", "bob"] {
            bench.ask(&rules, call_of(principal, "{}"), result).await;
        }
        assert_eq!(bench.made(), made, "{scope:?} {result}");
    }
    // A principal cannot be called as everybody is.
    let (bench, rules) = (Bench::new(), rules_of(READ_ONLY, facts(60)).unwrap());
    bench.ask(&rules, call_of("ann", "{}"), public).await;
    for name in ["", "*", "=ann", "ann*"] {
        let keys = Keys::of(&rules, &call_of(name, "{}"), false);
        assert!(
            keys.own() != keys.public() && keys.own() != Keys::of(&rules, &call_of("ann", "{}"), false).own()
        );
    }
}

#[tokio::test]
async fn who_wants_a_result_of_now_gets_one_and_leaves_it_for_others() {
    let (bench, rules) = (Bench::new(), rules_of(READ_ONLY, facts(60)).unwrap());
    bench.ask(&rules, call_of("ann", "{}"), r#"{"n":1}"#).await;
    let anew = Call { anew: true, ..call_of("ann", "{}") };
    let now = bench.ask(&rules, anew, r#"{"n":2}"#).await;
    assert!(now["n"] == 2 && now.get("_meta").is_none());
    assert_eq!(bench.ask(&rules, call_of("ann", "{}"), "{}").await["n"], 2);
    assert_eq!(bench.results.stats().anew, 1);
}

#[tokio::test]
async fn a_tag_voids_what_has_it_here_and_what_is_still_being_made() {
    let bench = Bench::new();
    let rules = rules_of(READ_ONLY, ToolFacts { tags: vec!["of-config".into()], ..facts(60) }).unwrap();
    let result = r#"{"_meta":{"outlast/tags":["of-result",""]}}"#;
    let all =
        [Tag::all(), Tag::server("server"), Tag::tool("t"), Tag::named("of-config"), Tag::named("of-result")];
    for (number, tag) in all.into_iter().enumerate() {
        bench.ask(&rules, call_of("ann", "{}"), result).await;
        assert_eq!(bench.results.list(Some(tag), 10).len(), 1);
        bench.results.void(&[Tag::server("another"), Tag::tool("u"), Tag::named("")]);
        bench.ask(&rules, call_of("ann", "{}"), result).await;
        assert_eq!(bench.made(), number + 1);
        bench.results.void(&[tag]);
        assert_eq!(bench.results.list(None, 10).len(), 0);
    }
    // In the middle of a call: what it saw may be what was.
    let results = Arc::clone(&bench.results);
    let made = bench.run(&rules, call_of("ann", "{}"), move |_| {
        Box::pin(async move {
            results.void(&[Tag::server("server")]);
            Ok(raw("{}".into()))
        })
    });
    made.await.unwrap();
    let before = bench.made();
    bench.ask(&rules, call_of("ann", "{}"), result).await;
    assert_eq!(bench.made() - before, 1);
    assert_eq!(bench.results.clear(&[Tag::tool("t")]), 1);
    assert_eq!(bench.results.stats().entries, 0);
}

#[tokio::test]
async fn a_tool_of_another_description_or_version_is_another_one() {
    let bench = Bench::new();
    let described = |text: &str, version: &str| {
        let json = format!(r#"{{"name":"t","description":"{text}","annotations":{{"readOnlyHint":true}}}}"#);
        let host: Arc<dyn Host> = Arc::new(Fake(facts(60)));
        let facts = crate::tools::registry::Facts { version: version.into(), ..Default::default() };
        Rules::of(&Registered {
            tool: Tool { name: "t".into(), json: raw(json), resumable: false },
            facts: Arc::new(facts),
            ..Registered::unlisted(Kind::Tool, "t", &host)
        })
        .unwrap()
    };
    for (rules, made) in [
        (described("a", "1"), 1),
        (described("a", "1"), 1),
        (described("b", "1"), 2),
        (described("a", "2"), 3),
    ] {
        bench.ask(&rules, call_of("ann", "{}"), "{}").await;
        assert_eq!(bench.made(), made);
    }
}

#[tokio::test]
async fn memory_is_bounded_and_long_results_are_packed() {
    let bench = Bench::of(400_000);
    let rules = rules_of(READ_ONLY, facts(60)).unwrap();
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(100_000));
    bench.ask(&rules, call_of("ann", "{}"), &long).await;
    let again = bench.ask(&rules, call_of("ann", "{}"), "{}").await;
    assert_eq!(again["text"].as_str().map(str::len), Some(100_000));
    assert!(bench.results.list(None, 1)[0].packed);
    // Of what packs badly there is only so much room, and for one of it only a part.
    let noise = |seed: u64, len: usize| {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'!' + ((state >> 33) % 90) as u8)
        };
        let text: String =
            std::iter::repeat_with(&mut next).filter(|c| !"\"\\".contains(*c)).take(len).collect();
        format!(r#"{{"text":"{text}"}}"#)
    };
    for number in 0..60 {
        let call = call_of("ann", &format!("{{\"n\":{number}}}"));
        bench.ask(&rules, call, &noise(number, 20_000)).await;
        let stats = bench.results.stats();
        assert!(stats.bytes <= 400_000, "{stats:?}");
    }
    assert!(bench.results.stats().evicted > 0);
    let before = bench.results.stats().kept;
    bench.ask(&rules, call_of("ann", "{\"n\":-1}"), &noise(1, 100_000)).await;
    assert_eq!(bench.results.stats().kept, before);
}

#[tokio::test]
async fn without_room_everything_is_made() {
    let bench = Bench::of(0);
    let rules = rules_of(READ_ONLY, facts(60)).unwrap();
    bench.ask(&rules, call_of("ann", "{}"), "{}").await;
    bench.ask(&rules, call_of("ann", "{}"), "{}").await;
    bench.results.void(&[Tag::all()]);
    assert_eq!(
        (bench.made(), bench.results.clear(&[Tag::all()]), bench.results.list(None, 9).len()),
        (2, 0, 0)
    );
}

#[tokio::test]
async fn a_resource_is_kept_as_its_server_says_and_found_from_then_on() {
    let bench = Bench::new();
    let rules =
        || Rules::of_resource("server", "x://a", bench.results.readable.with("server", |()| ()).is_some());
    let read = |principal: &str| Call {
        params: raw(r#"{"uri":"x://a","_meta":{}}"#.into()),
        ..call_of(principal, "{}")
    };
    for _ in 0..2 {
        bench.ask(&rules(), read("ann"), r#"{"contents":[]}"#).await;
    }
    assert_eq!((bench.made(), bench.results.stats().misses), (2, 0), "it is not even looked for");
    bench.ask(&rules(), read("ann"), TEN).await;
    let told = bench.ask(&rules(), read("ann"), TEN).await;
    assert!(told["ttlMs"] == 10_000 && told["_meta"][CACHED]["ageMs"] == 0, "{told}");
    assert_eq!(bench.made(), 3);
    bench.results.void(&[Tag::uri("x://a")]);
    bench.ask(&rules(), read("ann"), TEN).await;
    bench.results.void(&[Tag::resources("server")]);
    bench.ask(&rules(), read("ann"), TEN).await;
    assert_eq!(bench.made(), 5);
}

proptest! {
    #[test]
    fn any_result_that_is_kept_comes_back_as_it_was(
        members in proptest::collection::btree_map("[a-z_\"\\\\é]{1,6}", any::<i64>(), 0..6),
        meta in proptest::option::of(proptest::collection::btree_map("[a-z/]{1,6}", any::<bool>(), 0..4)),
        ttl in proptest::option::of(1_u64..100_000),
        shared in any::<bool>(),
    ) {
        let mut value = serde_json::json!(members);
        if let Some(meta) = &meta {
            value["_meta"] = serde_json::json!(meta);
        }
        if let Some(ttl) = ttl {
            value["ttlMs"] = ttl.into();
        }
        prop_assume!(!members.contains_key("task") && !members.contains_key("_meta"));
        let rules = rules_of(READ_ONLY, facts(60)).unwrap();
        let kept = Kept::of(&rules, &raw(value.to_string()), 5).unwrap().kept;
        let kept = if shared { Kept::read(&kept.to_bytes().unwrap()).unwrap() } else { kept.packed() };
        let mut told: serde_json::Value = serde_json::from_str(kept.told(3, 70, false).get()).unwrap();
        prop_assert_eq!(told["_meta"].as_object_mut().unwrap().remove(CACHED), Some(serde_json::json!({ "ageMs": 3 })));
        if ttl.is_some() {
            value["ttlMs"] = 70.into();
        }
        if meta.is_none() {
            told.as_object_mut().unwrap().remove("_meta");
        }
        prop_assert_eq!(told, value);
    }

    #[test]
    fn bytes_of_any_kind_in_the_shared_tier_are_no_result(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(Kept::read(&bytes).is_none());
    }
}
