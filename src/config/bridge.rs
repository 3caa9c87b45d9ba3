//! `[bridge]`: plain HTTP for callers that do not speak MCP.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::Finding;

/// How answers of the bridge look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Wrapped, with the tool's content beside its result; 404 for a session that is not there.
    #[default]
    Default,
    /// As the Flask bridge of Sandsiv has them: the tool's JSON itself; 409 for a session that is not there.
    Sandsiv,
}

impl Profile {
    /// The profile of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "default" => Some(Self::Default),
            "sandsiv" => Some(Self::Sandsiv),
            _ => None,
        }
    }
}

/// `[bridge]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bridge {
    /// Serve it.
    pub enabled: bool,
    /// How answers look where a request does not say.
    pub profile: Profile,
    /// Further paths under which it is served, with the profile of each.
    pub mounts: BTreeMap<String, Profile>,
    /// Names of values and arguments that nobody is shown.
    pub sensitive: Vec<String>,
    /// Keep arguments and results of calls as values of the session.
    pub keep_values: bool,
    /// Who is asked whether credentials are good; empty: nobody.
    pub validate_url: String,
    /// How long that may take, seconds.
    pub validate_timeout_seconds: u64,
    /// A file with the `system_info` of `/tools-schema`; empty: one about this server.
    pub system_info_file: PathBuf,
    /// A file with the `workflow_guidance` of `/tools`; empty: an empty object.
    pub workflow_guidance_file: PathBuf,
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            enabled: true,
            profile: Profile::Default,
            mounts: BTreeMap::new(),
            sensitive: vec!["apiUrl".into(), "jwtToken".into()],
            keep_values: true,
            validate_url: String::new(),
            validate_timeout_seconds: 5,
            system_info_file: PathBuf::new(),
            workflow_guidance_file: PathBuf::new(),
        }
    }
}

impl Bridge {
    /// Whether a value or an argument of this name is shown to nobody.
    #[must_use]
    pub fn is_sensitive(&self, name: &str) -> bool {
        self.sensitive.iter().any(|known| known == name)
    }

    /// What is wrong with it.
    pub(super) fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |key: String, message: String| findings.push(Finding { key, message });
        for mount in self.mounts.keys() {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
            let whole = mount.strip_prefix('/').is_some_and(|rest| {
                !rest.is_empty() && rest.chars().all(plain) && rest.split('/').all(|part| !part.is_empty())
            });
            if !whole {
                add(
                    format!("bridge.mounts.{mount}"),
                    format!("{mount:?}: want a path such as \"/flask\", without a slash at its end"),
                );
            } else if ["/mcp", "/sse", "/message"].contains(&mount.as_str()) {
                add(
                    format!("bridge.mounts.{mount}"),
                    format!("{mount:?} is a path of MCP; want another one"),
                );
            }
        }
        for (at, name) in self.sensitive.iter().enumerate() {
            if name.is_empty() || name.len() > 256 || name.contains('\0') {
                add(format!("bridge.sensitive.{at}"), "want the name of a parameter, 1 to 256 bytes".into());
            }
        }
        let url = &self.validate_url;
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if !url.is_empty()
            && (host.is_none_or(|host| host.is_empty() || host.starts_with('/'))
                || url.parse::<http::Uri>().is_err())
        {
            add("bridge.validate_url".into(), "want http://HOST/PATH or https://HOST/PATH".into());
        }
        if !(1..=60).contains(&self.validate_timeout_seconds) {
            add(
                "bridge.validate_timeout_seconds".into(),
                format!(
                    "`bridge.validate_timeout_seconds` is {}; want 1 to 60",
                    self.validate_timeout_seconds
                ),
            );
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_mounts_addresses_and_times_are_named() {
        for (text, key) in [
            ("mounts = { \"flask\" = \"sandsiv\" }", "bridge.mounts.flask"),
            ("mounts = { \"/flask/\" = \"sandsiv\" }", "bridge.mounts./flask/"),
            ("mounts = { \"/a//b\" = \"sandsiv\" }", "bridge.mounts./a//b"),
            ("mounts = { \"/\" = \"sandsiv\" }", "bridge.mounts./"),
            ("mounts = { \"/mcp\" = \"default\" }", "bridge.mounts./mcp"),
            ("sensitive = [\"\"]", "bridge.sensitive.0"),
            ("validate_url = \"ftp://h\"", "bridge.validate_url"),
            ("validate_url = \"https://\"", "bridge.validate_url"),
            ("validate_url = \"https://a b/\"", "bridge.validate_url"),
            ("validate_timeout_seconds = 0", "bridge.validate_timeout_seconds"),
        ] {
            let bridge: Bridge = toml::from_str(text).unwrap();
            let keys: Vec<String> = bridge.check().into_iter().map(|finding| finding.key).collect();
            assert_eq!(keys, [key], "{text}");
        }
        for text in [
            "mounts = { \"/a/b-c\" = \"sandsiv\" }",
            "validate_url = \"http://127.0.0.1:1/settings/validate\"",
        ] {
            assert_eq!(toml::from_str::<Bridge>(text).unwrap().check(), Vec::new(), "{text}");
        }
        assert!(toml::from_str::<Bridge>("profile = \"flask\"").is_err());
    }
}
