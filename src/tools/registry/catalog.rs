//! What all hosts have beside tools, at one moment: prompts under public names, resources by URI.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::names::{self, Listing};
use super::source::Entry;
use super::template::Template;
use super::{CallCounts, Kind, Registered, Source};
use crate::base::limits::RESOURCE_URI_BYTES;
use crate::config::Namespacing;
use crate::mcp::task::TaskSupport;
use crate::tools::catalog::{Features, Json, Listed, Offers};
use crate::tools::{Host, Tool};

/// A resource, or a template of resources, and whose it is.
#[derive(Clone)]
pub struct Offered {
    /// Its URI or URI template.
    pub uri: Arc<str>,
    /// The whole description.
    pub json: Json,
    /// Its host.
    pub host: Arc<dyn Host>,
}

/// Everything beside tools, in the order of the sources.
#[derive(Clone, Default)]
pub struct Catalog {
    /// What any host can do.
    pub features: Features,
    /// Prompts under their public names.
    pub prompts: Vec<Registered>,
    /// Resources; each URI once.
    pub resources: Vec<Offered>,
    /// Templates; each once.
    pub templates: Vec<Offered>,
    prompt_at: HashMap<String, usize>,
    resource_at: HashMap<Arc<str>, usize>,
    patterns: Vec<Template>,
    hosts: Vec<(Arc<dyn Host>, Features)>,
}

impl Catalog {
    /// The prompt of this public name.
    #[must_use]
    pub fn prompt(&self, name: &str) -> Option<&Registered> {
        self.prompt_at.get(name).and_then(|at| self.prompts.get(*at))
    }

    /// Who is asked for a resource: the host that lists it, else the first one with a template that it matches, else
    /// the only one that has any.
    #[must_use]
    pub fn host_of(&self, uri: &str) -> Option<&Arc<dyn Host>> {
        let listed = self.resource_at.get(uri).and_then(|at| self.resources.get(*at));
        listed.or_else(|| self.template_for(uri)).map(|offered| &offered.host).or_else(|| self.only_host())
    }

    /// Who is asked to complete a reference to a resource: the host of the template or of the resource.
    #[must_use]
    pub fn host_of_reference(&self, uri: &str) -> Option<&Arc<dyn Host>> {
        let template = self.templates.iter().find(|template| &*template.uri == uri);
        template.map(|template| &template.host).or_else(|| self.host_of(uri))
    }

    /// What a host can do.
    #[must_use]
    pub fn features_of(&self, host: &Arc<dyn Host>) -> Features {
        let known = self.hosts.iter().find(|(known, _)| Arc::ptr_eq(known, host));
        known.map(|(_, features)| *features).unwrap_or_default()
    }

    fn template_for(&self, uri: &str) -> Option<&Offered> {
        let at = self.patterns.iter().position(|pattern| pattern.matches(uri))?;
        self.templates.get(at)
    }

    fn only_host(&self) -> Option<&Arc<dyn Host>> {
        let mut with = self.hosts.iter().filter(|(_, features)| features.resources);
        let (first, _) = with.next()?;
        with.next().is_none().then_some(first)
    }

    pub(super) fn of(entries: &[Arc<Entry>], namespacing: Namespacing) -> Self {
        let offers: Vec<Arc<Offers>> =
            entries.iter().map(|entry| entry.offers().unwrap_or_default()).collect();
        let all: Vec<(&Source, &Offers)> =
            entries.iter().zip(&offers).map(|(entry, offers)| (&entry.source, &**offers)).collect();
        let prompts: Vec<Vec<Tool>> =
            all.iter().map(|(_, it)| it.prompts.iter().map(as_named).collect()).collect();
        let listed = all.iter().zip(&prompts).map(|((source, _), prompts)| (*source, prompts.as_slice()));
        let prompts = names::register(&listed.collect::<Vec<_>>(), namespacing, Listing::Prompts);
        let resources = unique(&all, "resource", |offers| &offers.resources);
        let templates = unique(&all, "resource template", |offers| &offers.templates);
        Self {
            features: all.iter().fold(Features::default(), |sum, (_, it)| sum.or(it.features)),
            prompt_at: prompts.iter().enumerate().map(|(at, it)| (it.tool.name.clone(), at)).collect(),
            resource_at: resources.iter().enumerate().map(|(at, it)| (Arc::clone(&it.uri), at)).collect(),
            patterns: templates.iter().map(|template| Template::parse(&template.uri)).collect(),
            hosts: all.iter().map(|(source, it)| (Arc::clone(&source.host), it.features)).collect(),
            prompts,
            resources,
            templates,
        }
    }

    pub(super) fn same_prompts(&self, other: &Self) -> bool {
        self.features.prompts == other.features.prompts
            && self.prompts.len() == other.prompts.len()
            && self.prompts.iter().zip(&other.prompts).all(|(a, b)| a.is_the_same_as(b))
    }

    pub(super) fn same_resources(&self, other: &Self) -> bool {
        let same = |a: &[Offered], b: &[Offered]| {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| a.json == b.json && Arc::ptr_eq(&a.host, &b.host))
        };
        self.features.resources == other.features.resources
            && self.features.subscribe == other.features.subscribe
            && same(&self.resources, &other.resources)
            && same(&self.templates, &other.templates)
    }
}

fn as_named(prompt: &Listed) -> Tool {
    Tool { name: prompt.name.clone(), json: prompt.json.0.clone(), resumable: false }
}

/// One list of all sources. URIs stay as they are, so where two sources have the same one, the first keeps it.
fn unique(all: &[(&Source, &Offers)], what: &str, list: impl Fn(&Offers) -> &Vec<Listed>) -> Vec<Offered> {
    let mut taken: HashSet<Arc<str>> = HashSet::new();
    let mut kept = Vec::new();
    for (source, offers) in all {
        let server = source.host.name();
        for listed in list(offers) {
            let uri: Arc<str> = Arc::from(listed.name.as_str());
            if uri.is_empty() || uri.len() > RESOURCE_URI_BYTES {
                tracing::warn!(server, "a {what} is left out: want a URI of 1 to {RESOURCE_URI_BYTES} bytes");
            } else if taken.insert(Arc::clone(&uri)) {
                kept.push(Offered { uri, json: listed.json.clone(), host: Arc::clone(&source.host) });
            } else {
                tracing::warn!(server, uri = &*uri, "a {what} is left out: a server before it has this URI");
            }
        }
    }
    kept
}

impl Registered {
    pub(super) fn is_the_same_as(&self, other: &Self) -> bool {
        self.tool.json.get() == other.tool.json.get()
            && self.tool.resumable == other.tool.resumable
            && Arc::ptr_eq(&self.host, &other.host)
    }

    /// A request to a hosted server for something that has no entry of its own: `name` is for logs.
    #[must_use]
    pub fn unlisted(kind: Kind, name: &str, host: &Arc<dyn Host>) -> Self {
        let json = crate::tools::answer::raw("{}".into());
        Self {
            tool: Tool { name: name.to_owned(), json, resumable: false },
            host: Arc::clone(host),
            host_tool: Arc::from(""),
            kind,
            headers: Arc::default(),
            repeatable: true,
            hosted: true,
            task_support: TaskSupport::Forbidden,
            facts: Arc::default(),
            counts: CallCounts::default(),
            plan: None,
            results: None,
        }
    }
}
