//! What all lists are, in a few bytes: to know after a restart whether one has become another.

use super::{Catalog, Snapshot};
use crate::base::seal::{hex, sha256};

/// A digest of each list.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Digests {
    /// Of the tools.
    pub tools: String,
    /// Of the prompts.
    pub prompts: String,
    /// Of the resources and the templates.
    pub resources: String,
}

impl Digests {
    pub(super) fn of(snapshot: &Snapshot, catalog: &Catalog) -> Self {
        let resources = catalog.resources.iter().map(|it| it.json.0.get());
        let templates = catalog.templates.iter().map(|it| it.json.0.get());
        Self {
            tools: digest(snapshot.tools.iter().map(|it| it.tool.json.get())),
            prompts: digest(catalog.prompts.iter().map(|it| it.tool.json.get())),
            // A text that no JSON is parts the two.
            resources: digest(resources.chain([""]).chain(templates)),
        }
    }
}

fn digest<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut all = Vec::new();
    for text in texts {
        all.extend_from_slice(&sha256(text.as_bytes()));
    }
    hex(&sha256(&all))
}
