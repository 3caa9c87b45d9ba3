//! What a host may have beside tools: prompts, resources with templates, completion, subscriptions.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::SessionView;
use crate::base::ids::PrincipalHash;

/// Something that a host lists: raw JSON, so that no field of a hosted server's description is lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// What it is known by: a prompt's `name`, a resource's `uri`, a template's `uriTemplate`.
    pub name: String,
    /// The whole description, as it was given.
    pub json: Json,
}

/// A JSON text that compares as text.
#[derive(Clone, Debug)]
pub struct Json(pub Box<RawValue>);

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// Which of the optional features a host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `prompts/list` and `prompts/get`
    pub prompts: bool,
    /// `resources/list`, `resources/templates/list` and `resources/read`
    pub resources: bool,
    /// `resources/subscribe` and `resources/unsubscribe`
    pub subscribe: bool,
    /// `completion/complete`
    pub completions: bool,
}

impl Features {
    /// What either has.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            prompts: self.prompts || other.prompts,
            resources: self.resources || other.resources,
            subscribe: self.subscribe || other.subscribe,
            completions: self.completions || other.completions,
        }
    }
}

/// Everything that a host has beside tools, each list in its own order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offers {
    /// What it can do.
    pub features: Features,
    /// Its prompts, by name.
    pub prompts: Vec<Listed>,
    /// Its resources, by URI.
    pub resources: Vec<Listed>,
    /// Its resource templates, by URI template.
    pub templates: Vec<Listed>,
}

/// Which lists a host says have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListsChanged {
    /// `prompts/list`
    pub prompts: bool,
    /// `resources/list` or `resources/templates/list`
    pub resources: bool,
}

/// A resource that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Updated {
    /// Its URI.
    pub uri: String,
    /// The key of the one session that this is news for; none: for everybody who subscribed to it.
    pub session: Option<Arc<str>>,
}

/// Who subscribes.
#[derive(Clone)]
pub struct Subscriber {
    /// Names it; a session's is its key.
    pub key: Arc<str>,
    /// The session; none for a stream of 2026-07-28.
    pub session: Option<Arc<dyn SessionView>>,
    /// Whose subscription it is.
    pub principal: PrincipalHash,
}

/// Whether news of `uri` is news for who subscribed to `subscribed`: the same, or something below it (MCP 2025-11-25,
/// resources: the URI may be that of a sub-resource).
#[must_use]
pub fn covers(subscribed: &str, uri: &str) -> bool {
    match uri.strip_prefix(subscribed) {
        Some("") => true,
        Some(rest) => subscribed.ends_with('/') || rest.starts_with('/'),
        None => false,
    }
}

/// Every text that, subscribed to, covers `uri`.
pub fn subscribed_by(uri: &str) -> impl Iterator<Item = &str> {
    let ends = uri.char_indices().filter(|(_, c)| *c == '/').flat_map(|(at, _)| [at, at + 1]);
    let above = ends.filter_map(|end| uri.get(..end)).filter(move |text| text.len() < uri.len());
    std::iter::once(uri).chain(above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_covers_its_uri_and_what_is_below_it() {
        for (subscribed, uri, is) in [
            ("file:///a", "file:///a", true),
            ("file:///a", "file:///a/b", true),
            ("file:///a/", "file:///a/b", true),
            ("file:///a", "file:///ab", false),
            ("file:///a/b", "file:///a", false),
        ] {
            assert_eq!(covers(subscribed, uri), is, "{subscribed} {uri}");
            assert_eq!(subscribed_by(uri).any(|text| text == subscribed), is, "{subscribed} {uri}");
        }
        assert!(subscribed_by("x://é/ü/").all(|text| covers(text, "x://é/ü/")));
    }
}
