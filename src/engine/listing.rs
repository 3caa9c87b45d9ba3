//! `tools/list` and the other lists: pages of one snapshot, written once.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Engine, shape};
use crate::base::limits::LIST_PAGE;
use crate::mcp::revision::Revision;
use crate::mcp::view::Listed;
use crate::rpc::error::RpcError;
use crate::tools::registry::{Catalog, Snapshot};

/// The pages of each list, as `"tools":[…]` with `nextCursor` where there is one.
#[derive(Default)]
pub(super) struct Pages {
    tools: Written<Snapshot>,
    prompts: Written<Catalog>,
    resources: Written<Catalog>,
    templates: Written<Catalog>,
}

/// The pages of one list for each revision that asked, and of what they were written.
struct Written<T>(Mutex<Option<(Arc<T>, EachRevision)>>);

type EachRevision = [Option<Texts>; Revision::ALL.len()];

type Texts = Arc<[String]>;

impl<T> Default for Written<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Written<T> {
    fn of(&self, from: &Arc<T>, revision: Revision, write: impl FnOnce(&T) -> Texts) -> Texts {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match &mut *held {
            Some((of, pages)) if Arc::ptr_eq(of, from) => pages,
            other => &mut other.insert((Arc::clone(from), Default::default())).1,
        };
        match known.get_mut(revision as usize) {
            Some(pages) => Arc::clone(pages.get_or_insert_with(|| write(from))),
            None => write(from),
        }
    }
}

impl Engine {
    /// The members of a `tools/list` result.
    ///
    /// # Errors
    /// -32602 for a cursor that no page named.
    pub(super) async fn list_tools(
        &self,
        params: Option<&RawValue>,
        revision: Revision,
    ) -> Result<String, RpcError> {
        let page = page_asked(params)?;
        let snapshot = self.registry.settled(self.settle).await;
        let pages = self.pages.tools.of(&snapshot, revision, |snapshot| {
            let each = snapshot.tools.iter().map(|it| it.tool.json.get());
            write("tools", each.map(|json| shape::element(Listed::Tool, json, revision)))
        });
        pages.get(page).cloned().ok_or_else(no_page)
    }

    /// As [`Engine::list_tools`], for `prompts/list`, `resources/list` and `resources/templates/list`.
    pub(super) async fn list_offers(
        &self,
        method: &str,
        params: Option<&RawValue>,
        revision: Revision,
    ) -> Result<String, RpcError> {
        let page = page_asked(params)?;
        let catalog = self.settled_catalog().await;
        let resource = |json: &str| shape::element(Listed::Resource, json, revision);
        let pages = match method {
            "prompts/list" => self.pages.prompts.of(&catalog, revision, |catalog| {
                let each = catalog.prompts.iter().map(|it| it.tool.json.get());
                write("prompts", each.map(|json| shape::element(Listed::Prompt, json, revision)))
            }),
            "resources/list" => self.pages.resources.of(&catalog, revision, |catalog| {
                write("resources", catalog.resources.iter().map(|it| resource(it.json.0.get())))
            }),
            _ => self.pages.templates.of(&catalog, revision, |catalog| {
                write("resourceTemplates", catalog.templates.iter().map(|it| resource(it.json.0.get())))
            }),
        };
        pages.get(page).cloned().ok_or_else(no_page)
    }
}

fn no_page() -> RpcError {
    RpcError::invalid_params("cursor: not one of this list; begin again without a cursor")
}

fn page_asked(params: Option<&RawValue>) -> Result<usize, RpcError> {
    #[derive(Deserialize)]
    struct Params {
        cursor: Option<String>,
    }
    let Some(params) = params else { return Ok(0) };
    let params: Params = serde_json::from_str(params.get())
        .map_err(|_| RpcError::invalid_params("params.cursor: want a string"))?;
    let Some(cursor) = params.cursor else { return Ok(0) };
    cursor
        .strip_prefix("page-")
        .and_then(|number| number.parse().ok())
        .filter(|number| *number > 0)
        .ok_or_else(no_page)
}

/// The pages of a list; one that is empty where the list is.
fn write(member: &str, mut all: impl ExactSizeIterator<Item = String>) -> Texts {
    let count = all.len().div_ceil(LIST_PAGE).max(1);
    (1..=count)
        .map(|next| {
            let mut text = format!("\"{member}\":[");
            for (at, json) in all.by_ref().take(LIST_PAGE).enumerate() {
                if at > 0 {
                    text.push(',');
                }
                text.push_str(&json);
            }
            text.push(']');
            if next < count {
                text.push_str(&format!(",\"nextCursor\":\"page-{next}\""));
            }
            text
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_on_one_page_and_the_last_page_names_no_next() {
        let elements = vec!["1"; LIST_PAGE * 2 + 1];
        let pages = write("x", elements.iter().map(|it| (*it).to_owned()));
        let counts: Vec<usize> = pages.iter().map(|page| page.matches('1').count()).collect();
        assert_eq!(pages.len(), 3);
        // The cursor of the first page has a digit of its own.
        assert_eq!(counts, [LIST_PAGE + 1, LIST_PAGE, 1]);
        assert!(pages[1].ends_with(",\"nextCursor\":\"page-2\"") && pages[2].ends_with(']'));
        assert_eq!(write("x", [].into_iter()).to_vec(), ["\"x\":[]"]);
    }
}
