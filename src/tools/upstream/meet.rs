//! What a remote server speaks: asked for the latest revision first, then for the older ones, then over HTTP+SSE.

use std::sync::Arc;

use tokio::time::timeout;

use super::credentials::Credential;
use super::failure::{Failure, Kind, Trouble};
use super::http::Reply;
use super::modern::{Asked, Discovered, Modern, request};
use super::session::{Owner, Session, Told};
use super::{Common, slots};
use crate::base::limits::UPSTREAM_DISCOVER;
use crate::rpc::message;
use crate::tools::hosted::changes::Ears;
use crate::tools::hosted::greeting::EVERYTHING;

const DISCOVER: &str = "server/discover";

/// What a server was found to speak.
#[derive(Debug)]
pub(super) enum Known {
    Modern(Modern),
    Legacy(Legacy),
}

/// A server with sessions, or of the time of sessions.
#[derive(Clone, Debug)]
pub(super) struct Legacy {
    pub(super) told: Told,
    /// Over HTTP+SSE of 2024-11-05.
    pub(super) sse: bool,
}

/// Finds out what the server speaks. In the legacy era that takes a session, which comes along. `sse`: it is known to be
/// of 2024-11-05.
pub(super) async fn meet(
    common: &Arc<Common>,
    credential: &Arc<Credential>,
    ears: impl Fn() -> Ears,
    sse: bool,
) -> Result<(Known, Option<Arc<Session>>), Failure> {
    if sse {
        return legacy(common, credential, ears(), true).await;
    }
    let mut versions = None;
    let within = UPSTREAM_DISCOVER.min(common.within / 2);
    match timeout(within, request(common, credential, Asked::plain(DISCOVER, "{}".into()))).await {
        Ok(Ok(result)) => match Discovered::read(&result) {
            Some(found) if found.serves() => return Ok((Known::Modern(found.known()), None)),
            Some(found) => versions = Some(found.versions()),
            None => {}
        },
        // Who may not ask, and a server that fails, say nothing about what it speaks.
        Ok(Err(Failure::Trouble(trouble))) if !matches!(trouble.kind, Kind::Era | Kind::Headers) => {
            return Err(trouble.into());
        }
        Ok(Err(failure)) => {
            tracing::debug!(server = %common.http.server, "it does not speak 2026-07-28: {failure}")
        }
        Err(_) => {
            tracing::debug!(server = %common.http.server, "it does not say whether it speaks 2026-07-28")
        }
    }
    match legacy(common, credential, ears(), false).await {
        Err(Failure::Trouble(first)) if first.kind == Kind::Era => {
            let found = legacy(common, credential, ears(), true).await;
            // Of the two the newer way is the one that its operator probably meant.
            found.map_err(|_| Trouble { kind: Kind::Refused, ..first }.into())
        }
        Err(Failure::Answer(error)) => {
            let spoken =
                versions.map(|versions| format!("; it names the versions {versions}")).unwrap_or_default();
            let what = format!("speaks no revision that is known here{spoken}: {error}");
            Err(common.http.trouble(Kind::Refused, false, &what).into())
        }
        found => found,
    }
}

async fn legacy(
    common: &Arc<Common>,
    credential: &Arc<Credential>,
    ears: Ears,
    sse: bool,
) -> Result<(Known, Option<Arc<Session>>), Failure> {
    let session = slots::open(common, credential, Owner::Shared, ears, sse, EVERYTHING).await?;
    Ok((Known::Legacy(Legacy { told: session.told(), sse }), Some(session)))
}

/// Whether the server is there again: it answers, whatever it answers. No call of anybody is tried for that.
pub(super) async fn probe(
    common: &Arc<Common>,
    credential: &Arc<Credential>,
    sse: bool,
) -> Result<(), Trouble> {
    let look = async {
        if sse {
            return match common.http.get(credential.headers()).await? {
                Reply::Status(refusal) => seen(common.http.refused(&refusal, &credential.whose)),
                _ => Ok(()),
            };
        }
        let asked = Asked::plain(DISCOVER, "{}".into());
        let Some(params) = asked.enveloped() else { return Ok(()) };
        let body = message::request(&common.next_id().to_string(), DISCOVER, &params);
        match common.http.post(&common.http.url, asked.headers(credential), body).await? {
            Reply::Status(refusal) => seen(common.http.refused(&refusal, &credential.whose)),
            _ => Ok(()),
        }
    };
    let within = UPSTREAM_DISCOVER.min(common.within);
    match timeout(within, look).await {
        Ok(seen) => seen,
        Err(_) => {
            let what = format!("did not answer within {} s", within.as_secs());
            Err(common.http.trouble(Kind::Down, false, &what))
        }
    }
}

fn seen(trouble: Trouble) -> Result<(), Trouble> {
    if trouble.is_down() { Err(trouble) } else { Ok(()) }
}
