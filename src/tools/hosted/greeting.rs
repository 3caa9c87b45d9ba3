//! The handshake with a hosted server of the legacy era, and what a server says of itself in it.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::base::limits::EXCERPT_BYTES;
use crate::rpc::message::quote;
use crate::tools::catalog::Features;

/// Capabilities of a client that can do all that a server may ask for.
pub(in crate::tools) const EVERYTHING: &str =
    r#"{"roots":{},"sampling":{},"elicitation":{"form":{},"url":{}}}"#;

/// The revision that is asked for: the latest one with `initialize`.
const ASKED: &str = "2025-11-25";
/// The revisions that a server may answer. What is used of them is the same in all.
const TAKEN: &[&str] = &["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// The parameters of `initialize` for a client with these capabilities, JSON text.
pub(in crate::tools) fn initialize(capabilities: &str) -> String {
    format!(
        "{{\"protocolVersion\":\"{ASKED}\",\"capabilities\":{capabilities},\
         \"clientInfo\":{{\"name\":\"outlast\",\"version\":\"{}\"}}}}",
        env!("CARGO_PKG_VERSION")
    )
}

/// Who a server says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::tools) struct About {
    pub(in crate::tools) name: String,
    pub(in crate::tools) version: String,
    /// The revision of MCP that it answered.
    pub(in crate::tools) revision: String,
}

impl About {
    pub(in crate::tools) fn new(info: &ServerInfo, revision: &str) -> Self {
        Self { name: said(&info.name), version: said(&info.version), revision: revision.to_owned() }
    }
}

/// The answer to `initialize`.
#[derive(Deserialize)]
pub(in crate::tools) struct Greeting {
    #[serde(rename = "protocolVersion")]
    protocol_version: String,
    #[serde(rename = "serverInfo", default)]
    server_info: ServerInfo,
    #[serde(default)]
    pub(in crate::tools) capabilities: Capabilities,
}

impl Greeting {
    /// What is wrong with the revision, if it is none of those that are served.
    pub(in crate::tools) fn check(&self) -> Result<(), String> {
        match TAKEN.contains(&self.protocol_version.as_str()) {
            true => Ok(()),
            false => Err(format!(
                "it speaks protocol version {}, not one of {}",
                quote(&self.protocol_version),
                TAKEN.join(", ")
            )),
        }
    }

    /// Who answered.
    pub(in crate::tools) fn about(&self) -> About {
        About::new(&self.server_info, &self.protocol_version)
    }
}

/// Who a server says it is.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::tools) struct ServerInfo {
    name: String,
    version: String,
}

/// What a server says it has. A feature that is there has an object; `subscribe` is a flag in one.
#[derive(Deserialize, Default)]
pub(in crate::tools) struct Capabilities {
    #[serde(default)]
    prompts: Option<IgnoredAny>,
    #[serde(default)]
    resources: Option<serde_json::Value>,
    #[serde(default)]
    completions: Option<IgnoredAny>,
    #[serde(default)]
    pub(in crate::tools) logging: Option<IgnoredAny>,
    #[serde(default)]
    tasks: Option<serde_json::Value>,
}

impl Capabilities {
    pub(in crate::tools) fn has_tasks(&self) -> bool {
        self.tasks.as_ref().and_then(|tasks| tasks.pointer("/requests/tools/call")).is_some()
    }

    pub(in crate::tools) fn features(&self) -> Features {
        Features {
            prompts: self.prompts.is_some(),
            resources: self.resources.is_some(),
            subscribe: self
                .resources
                .as_ref()
                .and_then(|resources| resources.get("subscribe"))
                .is_some_and(|subscribe| subscribe == true),
            completions: self.completions.is_some(),
        }
    }
}

/// What a server says of itself, in a bounded length.
fn said(text: &str) -> String {
    if text.len() > EXCERPT_BYTES { text.chars().take(EXCERPT_BYTES / 4).collect() } else { text.to_owned() }
}
