//! Callers that do not speak MCP: what they ask over plain HTTP, in the terms of sessions and calls (docs/bridge.md).
//!
//! A session of theirs is a session like any other. Its values fill arguments that calls leave away; calls run as
//! `tools/call` does.

mod alias;
mod call;
mod init;
mod strip;
mod take_over;
mod tools;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::call::Called;
use self::call::Wanted;
pub use self::take_over::Old;
use super::session::Session;
use super::{Engine, session};
use crate::auth::Principal;
use crate::auth::external::External;
use crate::base::ids::{Claims, is_session_id};
use crate::config::Bridge;
use crate::mcp::era::Refusal;
use crate::store::{Lookup, StoreError};

pub(super) use self::values::ALIAS_FIELD;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// After authentication.
    pub principal: Arc<Principal>,
    /// Names this request in every log line.
    pub correlation: Arc<str>,
}

/// Named values, each JSON text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Values(pub BTreeMap<String, String>);

impl Values {
    /// What they are, without saying it: a hash.
    fn digest(&self) -> String {
        let members: Vec<String> = self.0.iter().map(|(name, json)| format!("{name:?}:{json}")).collect();
        crate::base::seal::hex(&crate::base::seal::sha256(members.join(",").as_bytes()))
    }
}

/// Names only: values are secrets.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What is asked. A session is named by its id, or by what its caller has chosen for one.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A session with these values, or the one that is there.
    Init {
        /// What the caller calls it; none: the server names it.
        session: Option<String>,
        /// Its values.
        values: Values,
        /// Credentials must have the form that the Flask bridge wants before anybody is asked about them.
        strict: bool,
    },
    /// The tools there are. With a session: for it, which must be there.
    Tools {
        /// Whose.
        session: Option<String>,
    },
    /// A call.
    Call {
        /// Whose values fill its arguments; none: it stands alone.
        session: Option<String>,
        /// The tool.
        tool: String,
        /// Its arguments, a JSON object.
        arguments: Values,
        /// Its idempotency key.
        key: Option<String>,
    },
    /// The end of a session.
    Shutdown {
        /// Which.
        session: String,
    },
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Told {
    /// A session.
    Session(Opened),
    /// Descriptions of all tools without sensitive parameters, a JSON array.
    Tools(Arc<str>),
    /// What came of a call.
    Called(Called),
    /// The session is ended.
    Ended,
}

/// A session that was made, or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What its caller calls it.
    pub session: String,
    /// Its id of this server.
    pub token: Arc<str>,
    /// It is over at this moment if nobody uses it, in seconds since the epoch.
    pub expires_at: u64,
    /// How long it may be idle, seconds.
    pub idle_ttl: u64,
}

/// Why it is not done. The texts are for the caller, and without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such session of this caller's.
    NoSession,
    /// The session is somebody else's, or was made with other credentials.
    Foreign(String),
    /// What was sent makes no sense.
    Bad(String),
    /// The credentials are not good.
    Denied(String),
    /// Whether they are is not known: who would have to say does not.
    Unvalidated(String),
    /// There is no such tool.
    NoTool(String),
    /// The arguments do not fit the tool.
    Arguments(String),
    /// The call failed.
    Failed(String),
    /// Too much at a time, or too many sessions.
    Busy(String),
    /// Nothing can be said of the session at this moment; it may well exist.
    Unavailable(String),
}

/// What the bridge keeps in memory.
pub(super) struct Rest {
    settings: Bridge,
    external: Option<External>,
    aliases: alias::Remembered,
    listing: tools::Listing,
}

impl Rest {
    pub(super) fn new(settings: &Bridge) -> Self {
        let within = Duration::from_secs(settings.validate_timeout_seconds);
        let url = settings.validate_url.as_str();
        Self {
            external: (!url.is_empty()).then(|| External::new(url, within)),
            settings: settings.clone(),
            aliases: alias::Remembered::default(),
            listing: tools::Listing::default(),
        }
    }
}

impl Engine {
    /// Does what a caller without MCP asks.
    ///
    /// # Errors
    /// [`Refused`]
    pub async fn rest(self: &Arc<Self>, caller: &Caller, ask: Ask) -> Result<Told, Refused> {
        match ask {
            Ask::Init { session, values, strict } => {
                self.rest_init(caller, session, values, strict).await.map(Told::Session)
            }
            Ask::Tools { session } => {
                if let Some(session) = session {
                    self.rest_session(&session, &caller.principal).await?;
                }
                Ok(Told::Tools(self.rest_tools().await))
            }
            Ask::Call { session, tool, arguments, key } => {
                let session = match session {
                    Some(session) => Some(self.rest_session(&session, &caller.principal).await?),
                    None => None,
                };
                self.rest_call(caller, session, Wanted { tool, arguments, key }).await.map(Told::Called)
            }
            Ask::Shutdown { session } => {
                let session = self.rest_session(&session, &caller.principal).await?;
                self.end_session(&session).await.map_err(|error| refused(&error))?;
                Ok(Told::Ended)
            }
        }
    }

    /// The session of this name, with the values it was made with: one that would have to begin anew without them is
    /// not there.
    async fn rest_session(
        self: &Arc<Self>,
        name: &str,
        principal: &Principal,
    ) -> Result<Arc<Session>, Refused> {
        let token = match is_session_id(name) {
            true => Arc::from(name),
            false => self.meant_by(name).await.map_err(|error| refused(&error))?.ok_or(Refused::NoSession)?,
        };
        self.rest_session_of(&token, principal).await
    }

    async fn rest_session_of(
        self: &Arc<Self>,
        token: &str,
        principal: &Principal,
    ) -> Result<Arc<Session>, Refused> {
        let claims = Claims::verify(token, self.store.keys()).map_err(|_| Refused::NoSession)?;
        if claims.principal != principal.hash {
            return Err(Refused::NoSession);
        }
        match self.store.load(claims.key).await {
            Ok(Lookup::Live(_)) => {}
            Ok(Lookup::Terminated | Lookup::Unknown) => return Err(Refused::NoSession),
            Err(error) => return Err(refused(&error)),
        }
        self.session(token, principal).await.map_err(|Refusal { status, error }| match status {
            404 => Refused::NoSession,
            _ => Refused::Unavailable(error.message.into_owned()),
        })
    }
}

/// A store's failure as a caller sees it.
fn refused(error: &StoreError) -> Refused {
    match error {
        StoreError::Gone => Refused::NoSession,
        StoreError::Cap(text) => Refused::Busy(text.clone()),
        StoreError::Invalid(text) => Refused::Bad(text.clone()),
        error => Refused::Unavailable(session::store_error(error).message.into_owned()),
    }
}
