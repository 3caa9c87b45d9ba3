//! Lists of a hosted server, page by page.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base::limits::TOOL_LIST_PAGES;
use crate::rpc::message::quote;
use crate::rpc::object::Object;
use crate::tools::Tool;
use crate::tools::catalog::{Json, Listed};

/// A list that is read page by page.
#[derive(Debug)]
pub(in crate::tools) struct Pages {
    member: &'static str,
    at_most: usize,
    all: Vec<Box<RawValue>>,
    cursor: Option<String>,
    read: usize,
}

impl Pages {
    /// Of a list whose elements stand under `member`; more than `at_most` of them are not taken.
    pub(in crate::tools) fn new(member: &'static str, at_most: usize) -> Self {
        Self { member, at_most, all: Vec::new(), cursor: None, read: 0 }
    }

    /// Whether nothing was read yet.
    pub(in crate::tools) fn is_first(&self) -> bool {
        self.read == 0
    }

    /// The parameters of the request for the next page.
    pub(in crate::tools) fn params(&self) -> String {
        match &self.cursor {
            None => "{}".into(),
            Some(cursor) => format!("{{\"cursor\":{}}}", quote(cursor)),
        }
    }

    /// Takes a page. Whether there is another one, or what is wrong with this one.
    pub(in crate::tools) fn take(&mut self, page: &RawValue) -> Result<bool, String> {
        let (elements, next) = read_page(page.get(), self.member)?;
        self.read += 1;
        self.all.extend(elements.into_iter().map(RawValue::to_owned));
        if self.all.len() > self.at_most {
            return Err(format!("it has more than {} {}", self.at_most, self.member));
        }
        match next {
            None => return Ok(false),
            same if same == self.cursor => return Err("its pages go in a circle".into()),
            next => self.cursor = next,
        }
        if self.read >= TOOL_LIST_PAGES {
            return Err(format!("it has more than {TOOL_LIST_PAGES} pages"));
        }
        Ok(true)
    }

    /// Everything that was read.
    pub(in crate::tools) fn all(self) -> Vec<Box<RawValue>> {
        self.all
    }
}

/// Descriptions with the names that stand in them under `key`.
pub(in crate::tools) fn named(all: Vec<Box<RawValue>>, key: &str) -> Vec<Listed> {
    let named = all.into_iter().map(|json| {
        let name = Object::parse(json.get())
            .ok()
            .and_then(|object| object.get(key))
            .and_then(|name| serde_json::from_str(name.get()).ok())
            .unwrap_or_default();
        Listed { name, json: Json(json) }
    });
    named.collect()
}

/// Elements and the cursor of the next page.
type Page<'a> = (Vec<&'a RawValue>, Option<String>);

fn read_page<'a>(page: &'a str, member: &str) -> Result<Page<'a>, String> {
    let page = Object::parse(page).map_err(|error| error.to_string())?;
    let elements = page.get(member).ok_or_else(|| format!("it has no {member:?}"))?;
    let elements = serde_json::from_str(elements.get()).map_err(|error| format!("{member}: {error}"))?;
    let next = match page.get("nextCursor") {
        None => None,
        Some(next) => serde_json::from_str(next.get()).map_err(|error| format!("nextCursor: {error}"))?,
    };
    Ok((elements, next))
}

/// A tool as it was described. One without a usable name is passed on too: the registry says what is wrong with it.
pub(in crate::tools) fn described(json: Box<RawValue>) -> Tool {
    #[derive(Deserialize)]
    struct Name {
        name: String,
    }
    let name = serde_json::from_str::<Name>(json.get()).map(|it| it.name).unwrap_or_default();
    Tool { name, json, resumable: false }
}
