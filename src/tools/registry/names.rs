//! Which name each tool and each prompt gets, and which are left out.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::facts::{Facts, described};
use super::headers::{HeaderParams, without_annotations};
use super::source::Entry;
use super::{CallCounts, Kind, Registered, Source};
use crate::base::limits::{PROMPT_NAME_BYTES, TOOL_NAME_BYTES};
use crate::config::Namespacing;
use crate::mcp::task::TaskSupport;
use crate::rpc::message::{quote, text_of};
use crate::rpc::object::{Change, Object};
use crate::tools::Tool;
use crate::tools::answer::raw;

/// Which list is named. A prompt is listed in the form of a tool that has no schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Tools,
    Prompts,
}

impl Listing {
    /// What one of it is called.
    fn noun(self) -> &'static str {
        match self {
            Self::Tools => "tool",
            Self::Prompts => "prompt",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Tools => Kind::Tool,
            Self::Prompts => Kind::Prompt,
        }
    }

    fn is_name(self, name: &str) -> bool {
        match self {
            Self::Tools => is_tool_name(name),
            // No revision says of what a prompt's name is made; it must be one line.
            Self::Prompts => {
                (1..=PROMPT_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
            }
        }
    }
}

/// The tools of all sources, under public names, in the order of the sources.
pub(super) fn register_tools(entries: &[Arc<Entry>], namespacing: Namespacing) -> Vec<Registered> {
    let tools: Vec<Arc<Vec<Tool>>> = entries.iter().map(|entry| entry.tools()).collect();
    let listed = entries.iter().zip(&tools).map(|(entry, tools)| (&entry.source, tools.as_slice()));
    register(&listed.collect::<Vec<_>>(), namespacing, Listing::Tools)
}

/// What all sources list, under public names, in the order of the sources.
pub(super) fn register(
    listed: &[(&Source, &[Tool])],
    namespacing: Namespacing,
    listing: Listing,
) -> Vec<Registered> {
    let valid: Vec<(&Source, Vec<&Tool>)> = listed
        .iter()
        .map(|(source, tools)| (*source, acceptable(source.host.name(), tools, listing)))
        .collect();

    let mut uses: HashMap<&str, usize> = HashMap::new();
    for tool in valid.iter().flat_map(|(_, tools)| tools) {
        *uses.entry(&tool.name).or_default() += 1;
    }
    let hosted = listed.iter().filter(|(source, _)| source.server.is_some()).count();
    let always = match namespacing {
        Namespacing::Always => true,
        Namespacing::Collisions => false,
        Namespacing::Auto => hosted > 1,
    };

    let mut taken: HashSet<String> = HashSet::new();
    let mut registered = Vec::new();
    for (source, tools) in valid {
        for tool in tools {
            let collides = uses.get(tool.name.as_str()).is_some_and(|count| *count > 1);
            let name = match &source.server {
                Some(server) if always || collides => Cow::Owned(prefixed(server, &tool.name)),
                _ => Cow::Borrowed(tool.name.as_str()),
            };
            let server = source.host.name();
            let noun = listing.noun();
            if !listing.is_name(&name) {
                tracing::warn!(
                    server,
                    name = &*name,
                    "a {noun} is left out: its name with the server's in front is too long; give the server a shorter \
                     name"
                );
                continue;
            }
            if !taken.insert(name.clone().into_owned()) {
                tracing::warn!(
                    server,
                    name = &*name,
                    "a {noun} is left out: another server has one of this name; rename one of the two servers"
                );
                continue;
            }
            let mut public = match name {
                Cow::Borrowed(_) => tool.clone(),
                Cow::Owned(name) => renamed(tool, name),
            };
            let configured = match listing {
                Listing::Tools => source.host.facts(&tool.name),
                Listing::Prompts => None,
            };
            let facts = Arc::new(Facts::of(&public.json, configured));
            if let Some(described) = configured.and_then(|facts| described(&public.json, facts)) {
                public.json = described;
            }
            registered.push(Registered {
                facts,
                counts: CallCounts::default(),
                plan: None,
                results: None,
                host: Arc::clone(&source.host),
                host_tool: Arc::from(tool.name.as_str()),
                kind: listing.kind(),
                headers: Arc::new(match listing {
                    Listing::Tools => header_params(server, &mut public),
                    Listing::Prompts => HeaderParams::default(),
                }),
                repeatable: listing == Listing::Prompts || public.is_repeatable(),
                hosted: source.server.is_some(),
                task_support: match listing {
                    Listing::Tools => TaskSupport::of_tool(public.json.get()),
                    Listing::Prompts => TaskSupport::Forbidden,
                },
                tool: public,
            });
        }
    }
    registered
}

/// What one source lists, without what no client could use.
fn acceptable<'a>(server: &str, tools: &'a [Tool], listing: Listing) -> Vec<&'a Tool> {
    let mut seen = HashSet::new();
    let noun = listing.noun();
    tools
        .iter()
        .filter(|tool| match fault(tool, listing) {
            None if seen.insert(tool.name.as_str()) => true,
            None => {
                tracing::warn!(
                    server,
                    name = tool.name,
                    "a {noun} is left out: the server lists this name twice"
                );
                false
            }
            Some(fault) => {
                tracing::warn!(server, name = tool.name, "a {noun} is left out: {fault}");
                false
            }
        })
        .collect()
}

/// The arguments that clients repeat in headers. A tool with an annotation that clients would refuse it for loses all.
fn header_params(server: &str, tool: &mut Tool) -> HeaderParams {
    let Ok(object) = Object::parse(tool.json.get()) else { return HeaderParams::default() };
    let Some(schema) = object.get("inputSchema") else { return HeaderParams::default() };
    match HeaderParams::read(schema) {
        Ok(params) => params,
        Err(fault) => {
            tracing::warn!(server, tool = tool.name, "listed without its x-mcp-header annotations: {fault}");
            let plain = without_annotations(schema);
            tool.json = raw(object.with(|key, _| match key {
                "inputSchema" => Change::Set(plain.get().to_owned()),
                _ => Change::Keep,
            }));
            HeaderParams::default()
        }
    }
}

fn fault(tool: &Tool, listing: Listing) -> Option<&'static str> {
    let Ok(object) = Object::parse(tool.json.get()) else { return Some("its description is no object") };
    if object.get("name").and_then(text_of).as_deref() != Some(tool.name.as_str()) || tool.name.is_empty() {
        return Some("its description has no name");
    }
    if !listing.is_name(&tool.name) {
        return Some(match listing {
            Listing::Tools => "its name: want 1 to 128 of A-Z a-z 0-9 _ . -",
            Listing::Prompts => "its name: want 1 to 256 bytes on one line",
        });
    }
    if listing == Listing::Tools
        && !object.get("inputSchema").is_some_and(|schema| schema.get().starts_with('{'))
    {
        return Some("its inputSchema: want an object");
    }
    None
}

fn renamed(tool: &Tool, name: String) -> Tool {
    let json = match Object::parse(tool.json.get()) {
        Ok(object) => raw(object.with(|key, _| match key {
            "name" => Change::Set(quote(&name)),
            _ => Change::Keep,
        })),
        Err(_) => tool.json.clone(),
    };
    Tool { name, json, resumable: tool.resumable }
}

/// `NAME__tool`. The names of servers are free text, those of tools are not.
fn prefixed(server: &str, tool: &str) -> String {
    let server: String = server.chars().map(|c| if is_name_char(c) { c } else { '_' }).collect();
    format!("{server}__{tool}")
}

fn is_tool_name(name: &str) -> bool {
    (1..=TOOL_NAME_BYTES).contains(&name.len()) && name.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}
