//! What a remote server lists: tools, and what it has beside them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::credentials::Credential;
use super::failure::{Failure, Kind, Trouble};
use super::meet::Known;
use super::modern::{self, Asked};
use super::session::Session;
use super::{Inner, lock};
use crate::base::limits::{OFFERS_PER_HOST, TOOLS_PER_HOST, UPSTREAM_FRESH};
use crate::rpc::error::METHOD_NOT_FOUND;
use crate::rpc::object::Object;
use crate::tools::Tool;
use crate::tools::catalog::{Features, Json, Offers};
use crate::tools::hosted::listing::{Pages, described, named};
use crate::tools::hosted::own_task::required_tasks;
use crate::tools::registry::headers::HeaderParams;

/// What was listed last, to see whether it has changed.
#[derive(Debug, Default)]
pub(super) struct Listed {
    tools: Option<Vec<Json>>,
    offers: Option<Offers>,
}

/// Whom lists are asked of.
enum Lister {
    Modern,
    Session(Arc<Session>),
}

impl Inner {
    pub(super) async fn list_tools(self: &Arc<Self>) -> Result<Vec<Tool>, Failure> {
        let (all, _, has_tasks) = self.listing(true).await?;
        let tools: Vec<Tool> = all.into_iter().map(described).collect();
        let repeatable = tools.iter().filter(|tool| tool.is_repeatable()).map(|tool| tool.name.clone());
        self.repeatable.store(Arc::new(repeatable.collect()));
        self.own_tasks.store(Arc::new(if has_tasks { required_tasks(&tools) } else { Default::default() }));
        let params: HashMap<_, _> =
            tools.iter().filter_map(|tool| Some((tool.name.clone(), params_of(tool)?))).collect();
        self.header_params.store(Arc::new(params));
        lock(&self.listed).tools = Some(texts(&tools));
        Ok(tools)
    }

    /// Lists the tools, which have just been found to be others than they were listed as: that is as if the server had
    /// said so.
    pub(super) async fn list_tools_anew(self: &Arc<Self>) -> Result<(), Failure> {
        let before = lock(&self.listed).tools.clone();
        let now = texts(&self.list_tools().await?);
        if before.is_some_and(|before| before != now) {
            self.common.ears.lists.send_modify(|counts| counts.tools += 1);
        }
        Ok(())
    }

    pub(super) async fn list_offers(self: &Arc<Self>) -> Result<Offers, Failure> {
        let (_, offers, _) = self.listing(false).await?;
        lock(&self.listed).offers = Some(offers.clone());
        Ok(offers)
    }

    /// The server may be another one than before: if its lists differ, that is as if it had said so.
    pub(super) async fn look_again(self: &Arc<Self>) {
        let known = {
            let listed = lock(&self.listed);
            (listed.tools.clone(), listed.offers.clone())
        };
        // Nothing was listed yet: whoever lists for the first time sees what there is.
        let (Some(tools), Some(offers)) = known else { return };
        let now = match self.listing(true).await {
            Ok((all, ..)) => texts(&all.into_iter().map(described).collect::<Vec<_>>()),
            Err(failure) => return tracing::debug!("its lists are not looked at again: {failure}"),
        };
        let beside = match self.listing(false).await {
            Ok((_, offers, _)) => offers,
            Err(failure) => return tracing::debug!("its lists are not looked at again: {failure}"),
        };
        self.common.ears.lists.send_if_modified(|counts| {
            let prompts = beside.prompts != offers.prompts || beside.features != offers.features;
            let resources = beside.resources != offers.resources || beside.templates != offers.templates;
            counts.tools += u64::from(now != tools);
            counts.prompts += u64::from(prompts);
            counts.resources += u64::from(resources);
            now != tools || prompts || resources
        });
    }

    /// Lists tools, or everything else; and whether the server runs tools as tasks of its own. Once more when the server
    /// has lost its session, or speaks another revision than it did.
    async fn listing(self: &Arc<Self>, tools: bool) -> Result<(Vec<Box<RawValue>>, Offers, bool), Failure> {
        let mut again = true;
        loop {
            let ticket = self.admit()?;
            let mut used = None;
            let outcome = self.list_once(tools, &mut used).await;
            self.judged(&ticket, &outcome);
            let Err(Failure::Trouble(Trouble { kind, .. })) = &outcome else { return outcome };
            match (kind, used) {
                (Kind::Gone, _) if std::mem::take(&mut again) => {}
                (Kind::Era, Some(used)) if std::mem::take(&mut again) => self.forget_known(&used),
                _ => return outcome,
            }
        }
    }

    /// `used`: what the server was taken to speak.
    async fn list_once(
        &self,
        tools: bool,
        used: &mut Option<Arc<Known>>,
    ) -> Result<(Vec<Box<RawValue>>, Offers, bool), Failure> {
        let credential = self.credentials.common();
        let known = used.insert(self.known(credential).await?);
        let (lister, features, has_tasks) = match &**known {
            Known::Modern(modern) => (Lister::Modern, modern.features, false),
            Known::Legacy(legacy) => {
                let slot = self.slots.shared(credential, &self.scope(credential));
                let session = slot.0.session(self, legacy, None).await?;
                let told = session.told();
                (Lister::Session(session), told.features, told.tasks)
            }
        };
        if tools {
            let all = self.all(&lister, credential, "tools/list", "tools", TOOLS_PER_HOST).await?;
            return Ok((all, Offers::default(), has_tasks));
        }
        let offers = self.offers_of(&lister, credential, features).await?;
        Ok((Vec::new(), offers, has_tasks))
    }

    async fn offers_of(
        &self,
        lister: &Lister,
        credential: &Credential,
        features: Features,
    ) -> Result<Offers, Failure> {
        let mut offers = Offers { features, ..Offers::default() };
        if features.prompts {
            offers.prompts =
                named(self.all_or_none(lister, credential, "prompts/list", "prompts").await?, "name");
        }
        if features.resources {
            offers.resources =
                named(self.all_or_none(lister, credential, "resources/list", "resources").await?, "uri");
            let templates =
                self.all_or_none(lister, credential, "resources/templates/list", "resourceTemplates").await?;
            offers.templates = named(templates, "uriTemplate");
        }
        Ok(offers)
    }

    /// A list beside the tools. A server that has it and cannot say it is taken as having an empty one: the rest of
    /// what it has is not held back for that.
    async fn all_or_none(
        &self,
        lister: &Lister,
        credential: &Credential,
        method: &'static str,
        member: &'static str,
    ) -> Result<Vec<Box<RawValue>>, Failure> {
        match self.all(lister, credential, method, member, OFFERS_PER_HOST).await {
            Err(Failure::Answer(error)) => {
                tracing::warn!(server = %self.common.http.server, "{method}: {error}");
                Ok(Vec::new())
            }
            outcome => outcome,
        }
    }

    /// A list that counts for a while (`ttlMs`) is to be looked at again after it: not every server tells of changes.
    fn note_freshness(&self, page: &RawValue) {
        let ttl = Object::parse(page.get())
            .ok()
            .and_then(|page| serde_json::from_str(page.get("ttlMs")?.get()).ok());
        // 0 says that nobody should keep it, not that somebody should ask for it all the time.
        let Some(ttl_ms) = ttl.filter(|ttl_ms: &u64| *ttl_ms > 0) else { return };
        let until = Instant::now() + Duration::from_millis(ttl_ms).min(UPSTREAM_FRESH);
        let mut first = lock(&self.fresh_until);
        *first = Some(first.map_or(until, |first| first.min(until)));
    }

    /// Whether one of the lists is not said to be fresh any more. Says so once.
    pub(super) fn is_stale(&self) -> bool {
        lock(&self.fresh_until).take_if(|until| *until <= Instant::now()).is_some()
    }

    /// The elements of a list, all pages.
    async fn all(
        &self,
        lister: &Lister,
        credential: &Credential,
        method: &'static str,
        member: &'static str,
        at_most: usize,
    ) -> Result<Vec<Box<RawValue>>, Failure> {
        let mut pages = Pages::new(member, at_most);
        loop {
            let page = match lister {
                Lister::Modern => {
                    modern::request(&self.common, credential, Asked::plain(method, pages.params())).await
                }
                Lister::Session(session) => session.request(method, &pages.params()).await,
            };
            let page = match page {
                Ok(page) => page,
                // A server without such a list.
                Err(Failure::Answer(error)) if error.code == METHOD_NOT_FOUND && pages.is_first() => break,
                Err(failure) => return Err(failure),
            };
            if matches!(lister, Lister::Modern) {
                self.note_freshness(&page);
            }
            match pages.take(&page) {
                Ok(true) => {}
                Ok(false) => break,
                Err(reason) => {
                    let what = format!("gave an answer to `{method}` that cannot be used: {reason}");
                    return Err(self.common.http.trouble(Kind::Down, true, &what).into());
                }
            }
        }
        Ok(pages.all())
    }
}

fn texts(tools: &[Tool]) -> Vec<Json> {
    tools.iter().map(|tool| Json(tool.json.clone())).collect()
}

/// The arguments of a tool that are repeated in headers, if there are any that can be.
fn params_of(tool: &Tool) -> Option<HeaderParams> {
    let schema = Object::parse(tool.json.get()).ok()?.get("inputSchema")?;
    HeaderParams::read(schema).ok().filter(|params| *params != HeaderParams::default())
}
