//! Results that a client takes page by page. It says so with its request (`outlast/pageBytes` in `_meta`); of a longer
//! result it gets the first page and a link, and reads on with `resources/read`.
//!
//! The whole is kept as results of tasks are: on the disk, sealed, shared with sister instances, for an hour at least. It is
//! found by its principal alone.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Engine;
use super::catalog::no_resource;
use super::session::store_error;
use crate::base::clock::{SharedClock, millis};
use crate::base::ids::SessionKey;
use crate::base::limits::{PAGE_BYTES, PAGED_BYTES, PAGED_BYTES_EACH, PAGED_KEPT};
use crate::base::seal::{hex, sha256};
use crate::rpc::error::RpcError;
use crate::rpc::message::quote;
use crate::rpc::object::{Change, Object, with_member};
use crate::state::result::{Outcome as Report, TERMINAL};
use crate::store::{ResultId, Store, StoreError};
use crate::tools::answer::raw;
use crate::tools::{BoxFuture, Call, Host, Tool};

/// Key in a request's `_meta`: a result longer than so many bytes is to come in pages of as many.
const WISH: &str = "outlast/pageBytes";
/// Key in a result's `_meta`: which pages there are.
const PAGES: &str = "outlast/pages";
/// What the URI of a paged result begins with.
const PREFIX: &str = "outlast://result/";
/// Digits of its id.
const ID: usize = 32;

/// When each of a principal's results ends, milliseconds since the epoch, and its bytes.
type Room = VecDeque<(u64, usize)>;

/// Keeps and serves them.
pub(super) struct Paged {
    store: Arc<Store>,
    clock: SharedClock,
    /// What each principal has kept here: until when, milliseconds, and how many bytes.
    room: Mutex<HashMap<Arc<str>, Room>>,
}

/// A whole result, as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    #[serde(rename = "p", borrow)]
    principal: Cow<'a, str>,
    #[serde(rename = "m", borrow)]
    kind: Cow<'a, str>,
    #[serde(rename = "b")]
    page_bytes: usize,
    #[serde(rename = "t", borrow)]
    text: Cow<'a, str>,
}

/// How long the pages are that a request wants; none: it wants none.
pub(super) fn wish(params: &RawValue) -> Option<usize> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    if !params.get().contains(WISH) {
        return None;
    }
    let params: Params<'_> = serde_json::from_str(params.get()).ok()?;
    let meta = Object::parse(params.meta?.get()).ok()?;
    let bytes: usize = serde_json::from_str(meta.get(WISH)?.get()).ok()?;
    let (least, most) = PAGE_BYTES;
    Some(bytes.clamp(least, most))
}

/// Whether a request reads a paged result.
pub(super) fn is_read(method: &str, params: Option<&RawValue>) -> bool {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        uri: Option<Cow<'a, str>>,
    }
    let read = |params: &RawValue| {
        serde_json::from_str::<Params<'_>>(params.get()).ok()?.uri.map(|uri| is_ours(&uri))
    };
    method == "resources/read" && params.and_then(read).unwrap_or(false)
}

/// Whether it is the URI of a paged result.
pub(super) fn is_ours(uri: &str) -> bool {
    uri.starts_with(PREFIX)
}

impl Paged {
    pub(super) fn new(store: Arc<Store>, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { store, clock, room: Mutex::default() })
    }

    /// The first page of a result that is longer than a page, with a link to the others. What cannot be kept is told whole.
    pub(super) async fn cut(
        &self,
        result: Box<RawValue>,
        page_bytes: usize,
        principal: &Arc<str>,
    ) -> Box<RawValue> {
        if result.get().len() <= page_bytes {
            return result;
        }
        let Some((kind, text)) = whole(&result) else { return result };
        if text.len() <= page_bytes || text.len() > PAGED_BYTES {
            return result;
        }
        let id = id_of(principal, page_bytes, self.clock.now_ms() / millis(PAGED_KEPT).max(1), &text);
        let kept = Kept {
            principal: Cow::Borrowed(principal),
            kind: Cow::Borrowed(kind),
            page_bytes,
            text: text.into(),
        };
        match self.keep(&id, &kept, principal).await {
            Ok(true) => cut(&result, &id, &kept).unwrap_or(result),
            Ok(false) => result,
            Err(error) => {
                tracing::debug!(%error, "a long result is told whole: it could not be kept");
                result
            }
        }
    }

    async fn keep(&self, id: &str, kept: &Kept<'_>, principal: &Arc<str>) -> Result<bool, StoreError> {
        let name = name_of(id);
        if self.store.result(&name).await?.is_some() {
            return Ok(true);
        }
        if !self.admit(principal, kept.text.len()) {
            return Ok(false);
        }
        let payload = rmp_serde::to_vec_named(kept).map_err(|error| StoreError::Io(error.to_string()))?;
        let report = Report { fence: 1, rev: 1, rank: TERMINAL, payload: Bytes::from(payload) };
        // Of an equal result the same one is told within an hour of the clock: it lasts for another one after that.
        let put = self.store.put_result(name, report, PAGED_KEPT * 2).await;
        if put.is_err() {
            self.give_back(principal, kept.text.len());
        }
        put.map(|_| true)
    }

    /// Whether a principal may keep so much more here.
    fn admit(&self, principal: &Arc<str>, bytes: usize) -> bool {
        let now_ms = self.clock.monotonic_ms();
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        room.retain(|_, kept| {
            while kept.front().is_some_and(|(until_ms, _)| *until_ms <= now_ms) {
                kept.pop_front();
            }
            !kept.is_empty()
        });
        let kept = room.entry(Arc::clone(principal)).or_default();
        if kept.iter().map(|(_, bytes)| bytes).sum::<usize>() + bytes > PAGED_BYTES_EACH {
            return false;
        }
        kept.push_back((now_ms.saturating_add(millis(PAGED_KEPT * 2)), bytes));
        true
    }

    /// What was admitted was not kept.
    fn give_back(&self, principal: &str, bytes: usize) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = room.get_mut(principal)
            && let Some(at) = kept.iter().rposition(|(_, of)| *of == bytes)
        {
            kept.remove(at);
        }
    }

    async fn read(&self, call: &Call) -> Result<Box<RawValue>, RpcError> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow)]
            uri: Cow<'a, str>,
        }
        let Params { uri } = serde_json::from_str(call.params.get())
            .map_err(|error| RpcError::invalid_params(format!("params: {error}")))?;
        let (id, number) = place_of(&uri)?;
        let found = self.store.result(&name_of(id)).await.map_err(|error| store_error(&error))?;
        let none = || no_resource(&uri, false);
        let report = found.ok_or_else(none)?;
        let kept: Kept<'_> = rmp_serde::from_slice(&report.payload).map_err(|_| none())?;
        // Another principal's does not exist.
        if kept.principal != *call.principal {
            return Err(none());
        }
        let page = kept.page(number).ok_or_else(|| {
            RpcError::invalid_params(format!("params.uri: the result has {} pages", kept.pages()))
        })?;
        Ok(raw(format!(
            "{{\"contents\":[{{\"uri\":{},\"mimeType\":{},\"text\":{}}}],\"_meta\":{{\"{PAGES}\":{}}}}}",
            quote(&uri),
            quote(&kept.kind),
            quote(page),
            kept.told(id, number)
        )))
    }
}

impl Kept<'_> {
    fn pages(&self) -> usize {
        self.text.len().div_ceil(self.page_bytes.max(1)).max(1)
    }

    /// A page, counted from 1: cut between characters, so that all of them together are the whole.
    fn page(&self, number: usize) -> Option<&str> {
        if number == 0 || number > self.pages() {
            return None;
        }
        let at = |number: usize| self.text.floor_char_boundary(number.saturating_mul(self.page_bytes));
        self.text.get(at(number - 1)..at(number))
    }

    /// Which pages there are, for one who has this one: JSON text.
    fn told(&self, id: &str, number: usize) -> String {
        let (pages, bytes) = (self.pages(), self.text.len());
        let next = match number < pages {
            true => format!(",\"next\":\"{PREFIX}{id}?page={}\"", number + 1),
            false => String::new(),
        };
        format!("{{\"page\":{number},\"pages\":{pages},\"bytes\":{bytes}{next}}}")
    }
}

/// What is paged of a result: its text, if that is all it has, else all of it as JSON. None: it is told as it is.
fn whole(result: &RawValue) -> Option<(&'static str, String)> {
    #[derive(Deserialize)]
    struct Block<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        text: Option<Cow<'a, str>>,
    }
    let object = Object::parse(result.get()).ok()?;
    let failed = object.get("isError").is_some_and(|it| it.get() == "true");
    let complete = object.get("resultType").is_none_or(|it| it.get() == "\"complete\"");
    if failed || !complete || object.get("task").is_some() {
        return None;
    }
    let content =
        object.get("content").and_then(|it| serde_json::from_str::<Vec<&RawValue>>(it.get()).ok())?;
    if let ([block], None) = (content.as_slice(), object.get("structuredContent"))
        && let Ok(Block { kind, text: Some(text) }) = serde_json::from_str::<Block<'_>>(block.get())
        && kind == "text"
    {
        return Some(("text/plain", text.into_owned()));
    }
    Some(("application/json", result.get().to_owned()))
}

/// The first page of it, in the form of a result.
fn cut(result: &RawValue, id: &str, kept: &Kept<'_>) -> Option<Box<RawValue>> {
    let is_text = kept.kind == "text/plain";
    let (pages, bytes) = (kept.pages(), kept.text.len());
    let notice = format!(
        "The result has {bytes} bytes in {pages} pages{}: read {PREFIX}{id}?page=N, N from 1 to {pages}.",
        if is_text { ", of which this was the first" } else { ", as JSON" }
    );
    let first = match is_text {
        true => format!("{{\"type\":\"text\",\"text\":{}}},", quote(kept.page(1)?)),
        false => String::new(),
    };
    let content = format!(
        "[{first}{{\"type\":\"text\",\"text\":{}}},{{\"type\":\"resource_link\",\"uri\":\"{PREFIX}{id}\",\"name\":\"the whole result\",\"mimeType\":{},\"size\":{bytes}}}]",
        quote(&notice),
        quote(&kept.kind)
    );
    let object = Object::parse(result.get()).ok()?;
    let meta = object.get("_meta").map_or("{}", RawValue::get);
    let meta = with_member(meta, PAGES, &kept.told(id, usize::from(is_text)))?;
    let text = object.with(|key, _| match key {
        "content" => Change::Set(content.clone()),
        "structuredContent" => Change::Drop,
        _ => Change::Keep,
    });
    with_member(&text, "_meta", &meta).map(raw)
}

/// `hour`: equal results of another one are another one.
fn id_of(principal: &str, page_bytes: usize, hour: u64, text: &str) -> String {
    let (principal, text) = (sha256(principal.as_bytes()), sha256(text.as_bytes()));
    let whole = [&principal[..], &page_bytes.to_be_bytes(), &hour.to_be_bytes(), &text].concat();
    hex(&sha256(&whole)).chars().take(ID).collect()
}

fn name_of(id: &str) -> ResultId {
    ResultId { session: SessionKey::BROADCAST, name: format!("paged/{id}") }
}

/// The id and the number of the page of a URI.
fn place_of(uri: &str) -> Result<(&str, usize), RpcError> {
    let rest = uri.strip_prefix(PREFIX).unwrap_or_default();
    let (id, query) = rest.split_once('?').unwrap_or((rest, "page=1"));
    let number = query.strip_prefix("page=").and_then(|number| number.parse().ok());
    let is_id = id.len() == ID && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match (is_id, number) {
        (true, Some(number)) => Ok((id, number)),
        _ => Err(RpcError::invalid_params(format!("params.uri: want {PREFIX}ID or {PREFIX}ID?page=N"))),
    }
}

/// The host that paged results are read from.
pub(super) struct PagedHost(pub(super) Arc<Paged>);

impl Host for PagedHost {
    fn name(&self) -> &str {
        "outlast"
    }

    fn tools(&self) -> BoxFuture<'_, Result<Vec<Tool>, RpcError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn call(&self, tool: &str, _: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        Box::pin(std::future::ready(Err(super::call::unknown_tool(tool))))
    }

    fn read(&self, call: Call) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let paged = Arc::clone(&self.0);
        Box::pin(async move { paged.read(&call).await })
    }
}

impl Engine {
    /// [`Engine::run_whole`], and what comes of it in pages, if the request wants them.
    pub(super) fn run(
        &self,
        target: &crate::tools::registry::Registered,
        call: Call,
    ) -> BoxFuture<'static, Result<Box<RawValue>, RpcError>> {
        let is_tool = target.kind == crate::tools::registry::Kind::Tool;
        let Some(page_bytes) = is_tool.then(|| wish(&call.params)).flatten() else {
            return self.run_whole(target, call);
        };
        let (paged, principal) = (Arc::clone(&self.paged), Arc::clone(&call.principal));
        let running = self.run_whole(target, call);
        Box::pin(async move { Ok(paged.cut(running.await?, page_bytes, &principal).await) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(text: &str, page_bytes: usize) -> Kept<'_> {
        Kept { principal: "ann".into(), kind: "text/plain".into(), page_bytes, text: text.into() }
    }

    #[test]
    fn a_request_says_how_long_pages_are_within_bounds() {
        let of = |json: &str| wish(&raw(json.into()));
        let (least, most) = PAGE_BYTES;
        assert_eq!(of(r#"{"_meta":{"outlast/pageBytes":5000}}"#), Some(5_000));
        assert_eq!(of(r#"{"_meta":{"outlast/pageBytes":1}}"#), Some(least));
        assert_eq!(of(r#"{"_meta":{"outlast/pageBytes":99999999999}}"#), Some(most));
        for none in [
            "{}",
            r#"{"_meta":{}}"#,
            r#"{"_meta":{"outlast/pageBytes":"1"}}"#,
            r#"{"outlast/pageBytes":9}"#,
            "[]",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_uri_names_a_result_and_a_page() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(place_of(&format!("{PREFIX}{id}")).unwrap(), (id, 1));
        assert_eq!(place_of(&format!("{PREFIX}{id}?page=7")).unwrap(), (id, 7));
        for bad in [
            "",
            "0123",
            &format!("{id}?page="),
            &format!("{id}?page=-1"),
            &format!("{id}?x=1"),
            &id.to_uppercase(),
        ] {
            assert!(place_of(&format!("{PREFIX}{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn of_a_text_the_first_page_is_told_and_of_anything_else_where_it_is() {
        let text = raw(format!(
            r#"{{"content":[{{"type":"text","text":"{}"}}],"isError":false,"n":1e400}}"#,
            "é".repeat(3_000)
        ));
        let (kind, whole_text) = whole(&text).unwrap();
        assert_eq!((kind, whole_text.len()), ("text/plain", 6_000));
        let told = cut(&text, "ID", &kept(&whole_text, 1_025)).unwrap();
        assert!(told.get().contains("1e400"), "{told}");
        let told = told.get().replace("1e400", "1");
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["content"][0]["text"].as_str().unwrap().len(), 1_024);
        assert_eq!(told["content"][2]["uri"], "outlast://result/ID");
        assert_eq!(told["_meta"][PAGES]["next"], "outlast://result/ID?page=2");
        assert_eq!(told["isError"], false);

        let structured =
            raw(r#"{"content":[{"type":"text","text":"x"}],"structuredContent":{"a":1},"_meta":{"k":1}}"#
                .into());
        let (kind, whole_text) = whole(&structured).unwrap();
        assert_eq!((kind, whole_text.as_str()), ("application/json", structured.get()));
        let kept = Kept { kind: kind.into(), ..kept(&whole_text, 1_024) };
        let told: serde_json::Value =
            serde_json::from_str(cut(&structured, "ID", &kept).unwrap().get()).unwrap();
        assert!(told.get("structuredContent").is_none() && told["_meta"]["k"] == 1, "{told}");
        assert_eq!(told["content"][1]["type"], "resource_link");

        for as_it_is in [
            r#"{"content":[],"isError":true}"#,
            r#"{"resultType":"input_required"}"#,
            r#"{"content":7}"#,
            "[]",
        ] {
            assert!(whole(&raw(as_it_is.into())).is_none(), "{as_it_is}");
        }
    }

    proptest! {
        #[test]
        fn all_pages_together_are_the_whole(text in "(a|é|€|😀){1,200}", page_bytes in 4_usize..64) {
            let kept = kept(&text, page_bytes);
            let pages: Vec<&str> = (1..=kept.pages()).map(|number| kept.page(number).unwrap()).collect();
            prop_assert_eq!(pages.concat(), text.clone());
            prop_assert!(pages.iter().all(|page| page.len() < page_bytes + 4));
            prop_assert!(kept.page(0).is_none() && kept.page(kept.pages() + 1).is_none());
        }
    }
}
