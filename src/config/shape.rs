//! The keys that exist and the kinds of their values, taken from the structs themselves: what a typo is compared with
//! and how the text of an environment variable is read.

use std::collections::BTreeMap;

use serde::Serialize;
use toml::Value;

use super::{Config, HostedServer, ToolFacts};

/// What may stand at a place of the configuration.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// One value.
    Leaf(Kind),
    /// A section with these keys.
    Table(BTreeMap<String, Shape>),
    /// A section whose keys the operator chooses.
    Map(Box<Shape>),
    /// A list of sections.
    List(Box<Shape>),
}

/// The kind of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Boolean,
    Texts,
}

impl Kind {
    /// What to ask for, with an example.
    pub(super) fn wanted(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Integer => "a whole number such as 30",
            Self::Boolean => "true or false",
            Self::Texts => r#"a list of texts such as ["a", "b"]"#,
        }
    }
}

impl Shape {
    /// The shape of [`Config`].
    pub(super) fn of_config() -> Self {
        let mut root = Self::of(&Config::default());
        let mut server = Self::of(&HostedServer::default());
        for key in ["env", "headers"] {
            server.put(key, Self::Map(Box::new(Self::Leaf(Kind::Text))));
        }
        let headers = Self::Map(Box::new(Self::Leaf(Kind::Text)));
        server.put("headers_by_principal", Self::Map(Box::new(headers)));
        server.put("tools", Self::Map(Box::new(Self::of(&ToolFacts::default()))));
        root.put("servers", Self::Map(Box::new(server)));
        if let Self::Table(sections) = &mut root
            && let Some(auth) = sections.get_mut("auth")
        {
            let token = ["principal", "sha256"].map(|key| (key.to_owned(), Self::Leaf(Kind::Text)));
            auth.put("tokens", Self::List(Box::new(Self::Table(token.into()))));
        }
        if let Self::Table(sections) = &mut root
            && let Some(bridge) = sections.get_mut("bridge")
        {
            bridge.put("mounts", Self::Map(Box::new(Self::Leaf(Kind::Text))));
        }
        root
    }

    fn of(settings: &impl Serialize) -> Self {
        // The structs hold nothing that TOML cannot: a test goes through every key.
        Value::try_from(settings)
            .map_or_else(|_| Self::Table(BTreeMap::new()), |value| Self::of_value(&value))
    }

    fn of_value(value: &Value) -> Self {
        match value {
            Value::Table(table) => {
                Self::Table(table.iter().map(|(key, value)| (key.clone(), Self::of_value(value))).collect())
            }
            Value::Integer(_) => Self::Leaf(Kind::Integer),
            Value::Boolean(_) => Self::Leaf(Kind::Boolean),
            Value::Array(_) => Self::Leaf(Kind::Texts),
            Value::String(_) | Value::Float(_) | Value::Datetime(_) => Self::Leaf(Kind::Text),
        }
    }

    fn put(&mut self, key: &str, shape: Self) {
        if let Self::Table(keys) = self {
            keys.insert(key.to_owned(), shape);
        }
    }

    /// Every key path that has a value, sections of the operator's choice under `NAME`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect_paths("", &mut found);
        found
    }

    /// The path of a key of this name in any section; the public listener's comes first, as the one most often meant.
    pub(super) fn elsewhere(&self, key: &str) -> Option<String> {
        let suffix = format!(".{}", key.to_lowercase());
        let found = self.paths().into_iter().filter(|known| known.ends_with(&suffix));
        found.min_by_key(|path| !path.starts_with("server."))
    }

    fn collect_paths(&self, path: &str, found: &mut Vec<String>) {
        match self {
            Self::Leaf(_) | Self::List(_) => found.push(path.to_owned()),
            Self::Map(inner) => inner.collect_paths(&join(path, "NAME"), found),
            Self::Table(keys) => {
                keys.iter().for_each(|(key, shape)| shape.collect_paths(&join(path, key), found))
            }
        }
    }

    /// The key that was probably meant by `key` in the section `path`, as a whole path.
    pub(super) fn suggest(&self, path: &str, siblings: &BTreeMap<String, Self>, key: &str) -> Option<String> {
        if let Some(near) = nearest(key, siblings.keys().map(String::as_str)) {
            return Some(join(path, near));
        }
        self.elsewhere(key)
    }
}

/// A key under a path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The candidate that is few enough typing errors away to have been meant.
pub(super) fn nearest<'a>(typed: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase().replace('-', "_");
    candidates
        .map(|candidate| (distance(&typed, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).clamp(1, 4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements from one text to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, character) in from.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        let mut next = vec![left];
        for (wanted, up) in to.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(*wanted != character);
            left = replaced.min(left + 1).min(up + 1);
            diagonal = *up;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_and_the_open_ones_are_known() {
        let paths = Shape::of_config().paths();
        for path in [
            "mode",
            "server.listen",
            "auth.tokens",
            "servers.NAME.env.NAME",
            "servers.NAME.command",
            "redis.url",
        ] {
            assert!(paths.iter().any(|known| known == path), "{path} in {paths:?}");
        }
    }

    #[test]
    fn a_typo_finds_its_key_and_nonsense_finds_none() {
        let keys = ["listen", "allow_open", "max_connections"];
        assert_eq!(nearest("listn", keys.into_iter()), Some("listen"));
        assert_eq!(nearest("allow-open", keys.into_iter()), Some("allow_open"));
        assert_eq!(nearest("max_conections", keys.into_iter()), Some("max_connections"));
        assert_eq!(nearest("colour", keys.into_iter()), None);
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("ab", "ab")), (3, 2, 0));
    }
}
