//! Whether requests can be served, and whether a restart would help.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::sharing::Sharing;
use crate::base::ids::SessionKey;
use crate::edge::Health;
use crate::store::{Store, StoreError};
use crate::tools::registry::Registry;

/// How long the store may take to answer before it counts as stuck.
const STORE_ANSWER: Duration = Duration::from_secs(5);

/// How the server is at this moment.
pub(crate) fn look(
    store: &Store,
    registry: &Registry,
    sharing: &Sharing,
    drain: &CancellationToken,
) -> Health {
    let trouble = store.trouble();
    let status = match &trouble {
        _ if drain.is_cancelled() => "draining",
        Some(StoreError::Full(_)) => "disk full",
        Some(_) => "store failed",
        None if sharing.is_isolated() => "isolated",
        None => "ok",
    };
    // A hosted server that is slow to start keeps nobody from using the others.
    let tools = if registry.is_complete() {
        Ok(())
    } else {
        Err("some hosted servers have not listed their tools yet".to_owned())
    };
    let mut checks = vec![
        ("store".to_owned(), trouble.as_ref().map_or(Ok(()), |trouble| Err(trouble.to_string()))),
        ("tools".to_owned(), tools),
    ];
    // Without Redis everything that can be served here is: no reason to send requests elsewhere.
    checks.extend(sharing.check().map(|redis| ("redis".to_owned(), redis)));
    Health { ready: status == "ok", status, checks, mode: sharing.mode(), redis: sharing.status() }
}

/// Whether the store answers, or would not answer after a restart either. A poisoned store does not write until a
/// restart; a full disk is no better after one.
pub(crate) async fn store_answers(store: &Arc<Store>) -> bool {
    if !matches!(store.trouble(), None | Some(StoreError::Full(_))) {
        return false;
    }
    let read = tokio::time::timeout(STORE_ANSWER, store.load(SessionKey::random())).await;
    matches!(read, Ok(Ok(_) | Err(StoreError::Full(_))))
}
