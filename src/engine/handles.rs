//! Values without a session: under names that nobody can guess, for tools that keep state under 2026-07-28.

use std::sync::Arc;

use bytes::Bytes;

use super::session::store_error;
use crate::base::clock::SharedClock;
use crate::base::ids::SessionKey;
use crate::rpc::error::RpcError;
use crate::store::{Lookup, Store};
use crate::tools::{BoxFuture, Handles};

const PREFIX: &str = "h1_";
/// Document field: whose it is.
const OWNER_FIELD: &str = "handle.owner";
/// Document field: the value.
const VALUE_FIELD: &str = "handle.value";

/// Handles kept as documents of the store: they expire as sessions do.
pub(super) struct StoredHandles {
    pub(super) store: Arc<Store>,
    pub(super) clock: SharedClock,
    pub(super) max_ttl_ms: u64,
}

impl Handles for StoredHandles {
    fn create(&self, principal: &str, value: Bytes) -> BoxFuture<'_, Result<String, RpcError>> {
        let owner = Bytes::copy_from_slice(principal.as_bytes());
        let counted = crate::auth::Principal::new(principal).hash;
        Box::pin(async move {
            let key = SessionKey::random();
            let deadline = self.clock.now_ms().saturating_add(self.max_ttl_ms);
            let fields = vec![(OWNER_FIELD.to_owned(), Some(owner)), (VALUE_FIELD.to_owned(), Some(value))];
            let counted = crate::base::seal::hex(&counted.0);
            self.store.create(key, &counted, deadline, fields).await.map_err(|error| store_error(&error))?;
            Ok(format!("{PREFIX}{key}"))
        })
    }

    fn change(
        &self,
        principal: &str,
        handle: &str,
        change: Box<dyn FnOnce(&Bytes) -> Bytes + Send>,
    ) -> BoxFuture<'_, Result<Option<Bytes>, RpcError>> {
        let key = handle.strip_prefix(PREFIX).and_then(SessionKey::parse);
        let principal = principal.to_owned();
        Box::pin(async move {
            let Some(key) = key else { return Ok(None) };
            let found = self.store.load(key).await.map_err(|error| store_error(&error))?;
            let Lookup::Live(doc) = found else { return Ok(None) };
            // Another principal's handle does not exist.
            if doc.get(OWNER_FIELD).is_none_or(|owner| owner.as_ref() != principal.as_bytes()) {
                return Ok(None);
            }
            self.store.touch(key);
            let change = |value: Option<&Bytes>| value.map(change);
            self.store.change(key, VALUE_FIELD, change).await.map_err(|error| store_error(&error))
        })
    }
}
