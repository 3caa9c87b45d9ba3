use super::*;
use crate::rpc::error::RpcError;
use crate::tools::answer::{raw, text};
use crate::tools::catalog::{Features, Json, Listed};
use crate::tools::{BoxFuture, Call};
use serde_json::value::RawValue;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Notify;

/// A host whose list and health a test changes.
struct Fake {
    name: String,
    list: Mutex<Vec<Tool>>,
    failing: AtomicBool,
    changed: Notify,
    listings: AtomicUsize,
    offers: Mutex<Offers>,
    offers_changed: Notify,
    ended: Mutex<Vec<String>>,
    closed: AtomicBool,
}

impl Fake {
    fn new(name: &str, tools: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            list: Mutex::new(tools.iter().map(|name| tool(name)).collect()),
            failing: AtomicBool::new(false),
            changed: Notify::new(),
            listings: AtomicUsize::new(0),
            offers: Mutex::default(),
            offers_changed: Notify::new(),
            ended: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Waits until it was asked this often.
    async fn listed(&self, times: usize) {
        let asked = async {
            while self.listings.load(Ordering::SeqCst) < times {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap();
    }

    fn set(&self, tools: Vec<Tool>) {
        *self.list.lock().unwrap() = tools;
        self.changed.notify_one();
    }
}

impl Host for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn tools(&self) -> BoxFuture<'_, Result<Vec<Tool>, RpcError>> {
        self.listings.fetch_add(1, Ordering::SeqCst);
        let list = match self.failing.load(Ordering::SeqCst) {
            true => Err(RpcError::internal("away")),
            false => Ok(self.list.lock().unwrap().clone()),
        };
        Box::pin(std::future::ready(list))
    }

    fn call(&self, tool: &str, _: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let answer = text(tool);
        Box::pin(std::future::ready(Ok(answer)))
    }

    fn offers(&self) -> BoxFuture<'_, Result<Offers, RpcError>> {
        let offers = self.offers.lock().unwrap().clone();
        Box::pin(std::future::ready(Ok(offers)))
    }

    fn offers_changed(&self) -> BoxFuture<'_, ListsChanged> {
        Box::pin(async {
            self.offers_changed.notified().await;
            ListsChanged { prompts: true, resources: false }
        })
    }

    fn session_ended(&self, session: &str) {
        self.ended.lock().unwrap().push(session.into());
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.changed.notified())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::SeqCst);
        Box::pin(async {})
    }
}

fn tool(name: &str) -> Tool {
    described(name, &format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#))
}

fn described(name: &str, json: &str) -> Tool {
    Tool { name: name.into(), json: raw(json.into()), resumable: false }
}

fn listed(key: &str, name: &str) -> Listed {
    let json = raw(format!(r#"{{"{key}":{},"x":[1e400]}}"#, crate::rpc::message::quote(name)));
    Listed { name: name.into(), json: Json(json) }
}

/// A host with these resources and templates, and a prompt.
fn with_resources(name: &str, resources: &[&str], templates: &[&str]) -> Arc<Fake> {
    let host = Fake::new(name, &[]);
    *host.offers.lock().unwrap() = Offers {
        features: Features { prompts: true, resources: true, ..Features::default() },
        prompts: vec![listed("name", "Say hello")],
        resources: resources.iter().map(|uri| listed("uri", uri)).collect(),
        templates: templates.iter().map(|uri| listed("uriTemplate", uri)).collect(),
    };
    host
}

fn built_in(host: &Arc<Fake>) -> Source {
    Source { host: Arc::clone(host) as _, server: None }
}

fn hosted(host: &Arc<Fake>) -> Source {
    Source { host: Arc::clone(host) as _, server: Some(host.name.clone()) }
}

async fn names(sources: Vec<Source>, namespacing: Namespacing) -> Vec<String> {
    let registry = Registry::start(sources, namespacing);
    let snapshot = registry.settled(Duration::from_secs(5)).await;
    assert!(registry.is_complete());
    snapshot.tools.iter().map(|it| it.tool.name.clone()).collect()
}

#[tokio::test]
async fn one_server_keeps_its_names_but_for_those_of_built_in_tools() {
    let code = Fake::new("code", &["outline", "echo"]);
    let one = Fake::new("one", &["echo", "other"]);
    assert_eq!(
        names(vec![hosted(&one), built_in(&code)], Namespacing::Auto).await,
        ["outline", "echo", "one__echo", "other"]
    );
}

#[tokio::test]
async fn several_servers_come_in_the_order_of_their_names_with_prefixes() {
    let (b, a) = (Fake::new("b", &["z", "y"]), Fake::new("a", &["x"]));
    assert_eq!(names(vec![hosted(&b), hosted(&a)], Namespacing::Auto).await, ["a__x", "b__z", "b__y"]);
    assert_eq!(names(vec![hosted(&b), hosted(&a)], Namespacing::Collisions).await, ["x", "z", "y"]);
    assert_eq!(names(vec![hosted(&a)], Namespacing::Always).await, ["a__x"]);
}

#[tokio::test]
async fn colliding_names_of_two_servers_are_both_prefixed() {
    let (a, b) = (Fake::new("a", &["x", "only"]), Fake::new("b", &["x"]));
    assert_eq!(names(vec![hosted(&a), hosted(&b)], Namespacing::Collisions).await, ["a__x", "only", "b__x"]);
}

#[tokio::test]
async fn a_server_name_with_odd_characters_still_makes_names_that_clients_take() {
    let host = Fake::new("My Server/é", &["x"]);
    assert_eq!(names(vec![hosted(&host)], Namespacing::Always).await, ["My_Server____x"]);
}

#[tokio::test]
async fn a_name_that_is_taken_after_prefixing_is_left_out() {
    let (a, b) = (Fake::new("a", &["b__c"]), Fake::new("a__b", &["c"]));
    assert_eq!(names(vec![hosted(&a), hosted(&b)], Namespacing::Always).await, ["a__b__c"]);
}

#[tokio::test]
async fn invalid_descriptions_are_left_out_and_the_first_of_two_equal_names_stays() {
    let host = Fake::new("a", &[]);
    host.set(vec![
        described("", r#"{"inputSchema":{}}"#),
        described("n", r#"{"name":"n"}"#),
        described("m", r#"{"name":"m","inputSchema":null}"#),
        described("has space", r#"{"name":"has space","inputSchema":{}}"#),
        described("good", r#"{"name":"good","inputSchema":{},"title":"first"}"#),
        described("good", r#"{"name":"good","inputSchema":{},"title":"second"}"#),
        described("long", "[]"),
        tool(&"x".repeat(129)),
    ]);
    let registry = Registry::start(vec![hosted(&host)], Namespacing::Auto);
    let snapshot = registry.settled(Duration::from_secs(5)).await;
    assert_eq!(snapshot.tools.len(), 1);
    assert!(snapshot.get("good").unwrap().tool.json.get().contains("first"));
}

#[tokio::test]
async fn a_renamed_tool_keeps_every_other_field_as_it_was() {
    let host = Fake::new("a", &[]);
    host.set(vec![described(
        "t",
        r#"{"x-vendor":{"n":123456789012345678901234567890},"name":"t","inputSchema":{"name":"t"}}"#,
    )]);
    let registry = Registry::start(vec![hosted(&host)], Namespacing::Always);
    let snapshot = registry.settled(Duration::from_secs(5)).await;
    let found = snapshot.get("a__t").unwrap();
    assert_eq!(
        found.tool.json.get(),
        r#"{"x-vendor":{"n":123456789012345678901234567890},"name":"a__t","inputSchema":{"name":"t"}}"#
    );
    assert_eq!(&*found.host_tool, "t");
    assert!(snapshot.get("t").is_none());
}

#[tokio::test]
async fn a_changed_list_makes_a_new_snapshot_and_an_equal_one_does_not() {
    let host = Fake::new("a", &["x"]);
    let registry = Registry::start(vec![hosted(&host)], Namespacing::Auto);
    registry.settled(Duration::from_secs(5)).await;
    let mut changes = registry.changes();
    changes.mark_unchanged();

    host.set(vec![tool("x")]);
    let announced = changes.wait_for(|versions| versions.announced.tools == 2);
    tokio::time::timeout(Duration::from_secs(5), announced).await.unwrap().unwrap();
    assert_eq!(changes.borrow().listed.tools, 1);

    host.set(vec![tool("x"), tool("y")]);
    let listed = changes.wait_for(|versions| versions.listed.tools == 2);
    tokio::time::timeout(Duration::from_secs(5), listed).await.unwrap().unwrap();
    assert!(registry.snapshot().get("y").is_some());
}

#[tokio::test]
async fn a_host_that_fails_counts_as_answered_and_is_asked_again() {
    let (bad, good) = (Fake::new("bad", &["x"]), Fake::new("good", &["y"]));
    bad.failing.store(true, Ordering::SeqCst);
    let registry = Registry::start(vec![hosted(&bad), hosted(&good)], Namespacing::Collisions);
    let snapshot = registry.settled(Duration::from_secs(5)).await;
    assert!(registry.is_complete());
    assert_eq!(snapshot.tools.len(), 1);

    bad.failing.store(false, Ordering::SeqCst);
    let mut changes = registry.changes();
    let both = changes.wait_for(|_| registry.snapshot().get("x").is_some());
    tokio::time::timeout(Duration::from_secs(120), both).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failure_after_an_answer_keeps_what_was_known() {
    let host = Fake::new("a", &["x"]);
    let registry = Registry::start(vec![hosted(&host)], Namespacing::Auto);
    registry.settled(Duration::from_secs(5)).await;
    host.failing.store(true, Ordering::SeqCst);
    host.changed.notify_one();
    host.listed(3).await;
    assert!(registry.snapshot().get("x").is_some());
}

#[tokio::test]
async fn the_end_of_a_session_and_of_the_registry_reach_every_host() {
    let (a, b) = (Fake::new("a", &[]), Fake::new("b", &[]));
    let registry = Registry::start(vec![hosted(&a), built_in(&b)], Namespacing::Auto);
    registry.session_ended("s");
    registry.close().await;
    for host in [a, b] {
        assert_eq!(*host.ended.lock().unwrap(), ["s"]);
        assert!(host.closed.load(Ordering::SeqCst));
    }
}

#[tokio::test]
async fn prompts_are_named_as_tools_are_and_any_line_is_a_name() {
    let (a, b) = (with_resources("a", &[], &[]), with_resources("b", &[], &[]));
    a.offers.lock().unwrap().prompts.extend([listed("name", "two\nlines"), listed("name", "")]);
    let registry = Registry::start(vec![hosted(&b), hosted(&a)], Namespacing::Auto);
    registry.settled(Duration::from_secs(5)).await;
    let catalog = registry.catalog();
    let prompts: Vec<&str> = catalog.prompts.iter().map(|it| it.tool.json.get()).collect();
    assert_eq!(prompts, [r#"{"name":"a__Say hello","x":[1e400]}"#, r#"{"name":"b__Say hello","x":[1e400]}"#]);
    assert_eq!(&*catalog.prompt("b__Say hello").unwrap().host_tool, "Say hello");
}

#[tokio::test]
async fn a_resource_is_asked_of_who_lists_it_then_of_a_template_then_of_the_only_one() {
    let a = with_resources("a", &["x://both", "x://a"], &["x://{id}"]);
    let b = with_resources("b", &["x://both", "x://b"], &["x://{id}", "y://{+path}"]);
    let registry = Registry::start(vec![hosted(&b), hosted(&a)], Namespacing::Auto);
    registry.settled(Duration::from_secs(5)).await;
    let catalog = registry.catalog();
    assert_eq!((catalog.resources.len(), catalog.templates.len()), (3, 2));
    let who = |uri: &str| catalog.host_of(uri).map(|host| host.name().to_owned());
    for (uri, host) in [("x://both", "a"), ("x://b", "b"), ("x://z", "a"), ("y://z/z", "b")] {
        assert_eq!(who(uri).as_deref(), Some(host), "{uri}");
    }
    assert_eq!(who("z://z"), None);

    let (alone, other) = (with_resources("a", &[], &[]), Fake::new("b", &["x"]));
    let registry = Registry::start(vec![hosted(&alone), hosted(&other)], Namespacing::Auto);
    registry.settled(Duration::from_secs(5)).await;
    assert_eq!(registry.catalog().host_of("z://z").map(|host| host.name()), Some("a"));
}

#[tokio::test]
async fn an_announcement_is_passed_on_though_the_list_is_the_same() {
    let host = with_resources("a", &[], &[]);
    let registry = Registry::start(vec![hosted(&host)], Namespacing::Auto);
    registry.settled(Duration::from_secs(5)).await;
    let mut changes = registry.changes();
    let before = *changes.borrow();
    host.offers_changed.notify_one();
    let told = changes.wait_for(|versions| versions.announced.prompts > before.announced.prompts);
    let now = *tokio::time::timeout(Duration::from_secs(5), told).await.unwrap().unwrap();
    assert_eq!((now.listed, now.announced.resources), (before.listed, before.announced.resources));
}
