//! `/init`: a session with values, or the one that its caller has already.

use std::sync::Arc;

use bytes::Bytes;

use super::super::Engine;
use super::super::session::{Birth, Session};
use super::alias::{Bound, stored_name};
use super::values::{ALIAS_FIELD, CREDENTIALS_FIELD, credentials, fingerprint, writes};
use super::{Caller, Opened, Refused, Values, refused};
use crate::auth::Principal;
use crate::auth::external::Verdict;
use crate::base::ids::{Claims, is_session_id};
use crate::base::limits::{BIND_ROUNDS, CALLER_ID_BYTES};
use crate::base::seal::equal;
use crate::mcp::revision::Revision;
use crate::store::{Lookup, StoreError};
use crate::tools::answer::raw;

impl Engine {
    pub(super) async fn rest_init(
        self: &Arc<Self>,
        caller: &Caller,
        name: Option<String>,
        values: Values,
        strict: bool,
    ) -> Result<Opened, Refused> {
        if self.stopping.is_cancelled() {
            return Err(Refused::Unavailable("the server is stopping: try again in a moment".into()));
        }
        let Some(name) = name else {
            self.validate(&values, strict).await?;
            let session = self.rest_create(&caller.principal, &values, None, Birth::default()).await;
            let session = session.map_err(|error| refused(&error))?;
            tracing::debug!(session = %session.claims.key, correlation = %caller.correlation, "session made");
            return self.opened(&session, session.token.to_string()).await;
        };
        let session = match is_session_id(&name) {
            true => {
                let session = self.rest_session(&name, &caller.principal).await?;
                self.rejoin(session, &values, strict).await?
            }
            false => self.rest_named(caller, &name, &values, strict).await?,
        };
        self.opened(&session, name).await
    }

    /// The session of a caller's own name.
    async fn rest_named(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        values: &Values,
        strict: bool,
    ) -> Result<Arc<Session>, Refused> {
        check_name(name)?;
        let mut validated = false;
        let mut floor = 0;
        for _ in 0..BIND_ROUNDS {
            let (standing, revision) = self.standing(name).await?;
            if let Some(token) = standing {
                let session = match self.rest_session_of(&token, &caller.principal).await {
                    Err(Refused::NoSession) if self.is_foreign(&token, &caller.principal) => {
                        return Err(Refused::Foreign(
                            "this session_id is taken by another caller: choose another one".into(),
                        ));
                    }
                    // It went between the two looks.
                    Err(Refused::NoSession) => continue,
                    session => session?,
                };
                return self.rejoin(session, values, strict).await;
            }
            if !std::mem::replace(&mut validated, true) {
                self.validate(values, strict).await?;
            }
            let birth = Birth::default();
            let session = self.rest_create(&caller.principal, values, Some(name), birth).await;
            let session = session.map_err(|error| refused(&error))?;
            match self.bind(&stored_name(name), &session, revision.max(floor)).await {
                Ok(Bound::Yes) => {
                    tracing::debug!(session = %session.claims.key, correlation = %caller.correlation, "session made");
                    return Ok(session);
                }
                Ok(Bound::Not(given)) => {
                    floor = given;
                    self.discard(&session).await;
                }
                Err(error) => {
                    self.discard(&session).await;
                    return Err(refused(&error));
                }
            }
        }
        Err(Refused::Busy("too many callers give this session_id at the same moment: try again".into()))
    }

    /// The session that lives under a name, and how often the name was given.
    pub(super) async fn standing(&self, name: &str) -> Result<(Option<Arc<str>>, u64), Refused> {
        let meaning = self.meaning(&stored_name(name)).await.map_err(|error| refused(&error))?;
        let Some(token) = meaning.token else { return Ok((None, meaning.revision)) };
        let Ok(claims) = Claims::verify(&token, self.store.keys()) else {
            return Ok((None, meaning.revision));
        };
        let alive = match self.store.load(claims.key).await {
            Ok(found) => matches!(found, Lookup::Live(_)),
            Err(error) => return Err(refused(&error)),
        };
        Ok((alive.then_some(token), meaning.revision))
    }

    pub(super) fn is_foreign(&self, token: &str, principal: &Principal) -> bool {
        Claims::verify(token, self.store.keys()).is_ok_and(|claims| claims.principal != principal.hash)
    }

    /// A session that is there is given to who has the credentials it was made with. One that came by MCP, without any,
    /// takes those of the first who brings some. Where callers authenticate it is its principal's, who may bring others
    /// when those have run out.
    async fn rejoin(
        self: &Arc<Self>,
        session: Arc<Session>,
        values: &Values,
        strict: bool,
    ) -> Result<Arc<Session>, Refused> {
        let settings = &self.rest.settings;
        let brought = fingerprint(&credentials(settings, values));
        let foreign = || {
            Refused::Foreign(
                "this session was made with other credentials: shut it down with /shutdown first, or choose another \
                 session_id"
                    .into(),
            )
        };
        // To everybody's principal only the credentials tell callers apart.
        let may_renew = !self.open_to_all && values.0.keys().any(|name| settings.is_sensitive(name));
        let key = session.claims.key;
        match self.store.load(key).await {
            Ok(Lookup::Live(doc)) => match doc.get(CREDENTIALS_FIELD) {
                Some(held) if equal(held, &brought) => return Ok(session),
                Some(_) if may_renew => return self.renew(session, values, strict, brought).await,
                Some(_) => return Err(foreign()),
                None => {}
            },
            Ok(Lookup::Terminated | Lookup::Unknown) => return Err(Refused::NoSession),
            Err(error) => return Err(refused(&error)),
        }
        self.validate(values, strict).await?;
        let mine = brought.clone();
        let first = |held: Option<&Bytes>| held.is_none().then_some(mine);
        let taken = self.store.change(key, CREDENTIALS_FIELD, first).await;
        if taken.map_err(|error| refused(&error))?.is_none() {
            // Somebody was quicker.
            return match self.store.load(key).await {
                Ok(Lookup::Live(doc))
                    if doc.get(CREDENTIALS_FIELD).is_some_and(|held| equal(held, &brought)) =>
                {
                    Ok(session)
                }
                Ok(_) => Err(foreign()),
                Err(error) => Err(refused(&error)),
            };
        }
        let written = self.store.update(key, writes(settings, values)).await;
        written.map_err(|error| refused(&error))?;
        Ok(session)
    }

    /// A session gets other credentials, and the values that came with them. What it had of the earlier ones goes:
    /// nobody has said that they are good together.
    async fn renew(
        &self,
        session: Arc<Session>,
        values: &Values,
        strict: bool,
        brought: Bytes,
    ) -> Result<Arc<Session>, Refused> {
        self.validate(values, strict).await?;
        let settings = &self.rest.settings;
        let mut earlier = Values::default();
        for name in settings.sensitive.iter().filter(|name| !values.0.contains_key(*name)) {
            earlier.0.insert(name.clone(), String::new());
        }
        let mut fields = writes(settings, values);
        fields.extend(writes(settings, &earlier).into_iter().map(|(field, _)| (field, None)));
        fields.push((CREDENTIALS_FIELD.to_owned(), Some(brought)));
        let written = self.store.update(session.claims.key, fields).await;
        written.map_err(|error| refused(&error))?;
        tracing::debug!(session = %session.claims.key, "a session has other credentials");
        Ok(session)
    }

    /// Makes a session with values. Resolves when the disk has all of it.
    pub(super) async fn rest_create(
        &self,
        principal: &Principal,
        values: &Values,
        name: Option<&str>,
        mut birth: Birth,
    ) -> Result<Arc<Session>, StoreError> {
        let settings = &self.rest.settings;
        birth.fields = writes(settings, values);
        let credentials = fingerprint(&credentials(settings, values));
        birth.fields.push((CREDENTIALS_FIELD.to_owned(), Some(credentials)));
        if let Some(name) = name {
            birth.fields.push((ALIAS_FIELD.to_owned(), Some(stored_name(name).into())));
        }
        self.create_session(principal, Revision::LATEST_LEGACY, &raw("{}".into()), birth).await
    }

    /// A session that nobody was told of goes.
    pub(super) async fn discard(self: &Arc<Self>, session: &Arc<Session>) {
        if let Err(error) = self.end_session(session).await {
            tracing::debug!(session = %session.claims.key, %error, "a session that nobody has stays until it is idle");
        }
    }

    async fn validate(&self, values: &Values, strict: bool) -> Result<(), Refused> {
        let Some(external) = &self.rest.external else { return Ok(()) };
        if strict {
            check_form(values)?;
        }
        match external.check(credentials(&self.rest.settings, values)).await {
            Verdict::Good => Ok(()),
            Verdict::Bad(why) => Err(Refused::Denied(why)),
            Verdict::Unknown(why) => Err(Refused::Unvalidated(why)),
        }
    }

    async fn opened(&self, session: &Session, name: String) -> Result<Opened, Refused> {
        let ttl = self.store.ttl(session.claims.key).await.map_err(|error| refused(&error))?;
        Ok(Opened {
            session: name,
            token: Arc::clone(&session.token),
            expires_at: self.clock.now_ms().saturating_add(ttl.idle_left_ms) / 1_000,
            idle_ttl: self.idle_ttl_ms / 1_000,
        })
    }
}

/// Refuses what cannot be the id that a caller chooses.
pub(super) fn check_name(name: &str) -> Result<(), Refused> {
    if name.is_empty() || name.len() > CALLER_ID_BYTES || name.chars().any(char::is_control) {
        return Err(Refused::Bad(format!(
            "session_id: want 1 to {CALLER_ID_BYTES} bytes without control characters"
        )));
    }
    Ok(())
}

/// What the Flask bridge looks at before it asks anybody.
fn check_form(values: &Values) -> Result<(), Refused> {
    let text = |name: &str| values.0.get(name).and_then(|json| serde_json::from_str::<String>(json).ok());
    let address = text("apiUrl").and_then(|url| url.parse::<http::Uri>().ok());
    if !address
        .is_some_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.authority().is_some())
    {
        return Err(Refused::Bad("Invalid API URL format".into()));
    }
    if text("jwtToken").is_none_or(|token| token.split('.').count() != 3) {
        return Err(Refused::Denied("Invalid JWT token format".into()));
    }
    Ok(())
}
