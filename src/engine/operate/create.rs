//! A session that the operator makes, for a client that is given its id instead of asking for one.

use std::sync::Arc;

use serde_json::{Value, json};

use super::told::{refusal, refused};
use crate::auth::Principal;
use crate::base::ids::{Claims, Mode, SessionKey};
use crate::base::seal::hex;
use crate::engine::Engine;
use crate::engine::session::birth_fields;
use crate::mcp::capability::ClientCapabilities;
use crate::mcp::era::Refusal;
use crate::mcp::revision::Revision;
use crate::store::StoreError;

/// Whose a session is when nobody is named.
const ANYBODY: &str = "anonymous";

impl Engine {
    /// Makes a session of the newest revision with sessions, unless it is there: of many who make one under the same
    /// key at once, exactly one is told its id.
    pub(super) async fn create_by_operator(
        self: &Arc<Self>,
        principal: Option<&str>,
        key: Option<SessionKey>,
    ) -> Result<Value, Refusal> {
        let principal = Principal::new(principal.unwrap_or(ANYBODY));
        let owner = hex(&principal.hash.0);
        if !self.principals.contains_key(&owner) {
            let mut known: Vec<&str> = self.principals.values().map(|name| &**name).collect();
            known.sort_unstable();
            let known = known.join(", ");
            return Err(refusal(400, format!("no client can be {:?}: want one of {known}", principal.name)));
        }
        let now_ms = self.clock.now_ms();
        let capabilities = ClientCapabilities::default();
        let claims = Claims {
            mode: if self.store.is_shared() { Mode::Redis } else { Mode::Local },
            revision: Revision::LATEST_LEGACY as u8,
            capabilities: capabilities.to_bits(),
            issued_ms: now_ms,
            deadline_ms: now_ms.saturating_add(self.max_ttl_ms),
            origin: self.store.origin(),
            key: key.unwrap_or_else(SessionKey::random),
            principal: principal.hash,
        };
        let fields = birth_fields(&claims, &capabilities.to_json(), &self.broadcast.end(now_ms));
        let created = self.store.create_new(claims.key, &owner, claims.deadline_ms, fields).await;
        let created = created.map_err(|error| match error {
            StoreError::Gone => {
                refusal(409, format!("the session {} was ended: its key stays taken for a while", claims.key))
            }
            other => refused(other),
        })?;
        let mut told = json!({
            "key": claims.key.to_string(),
            "made": created.made,
            "version": created.doc.version().to_string(),
        });
        if let Some(fields) = told.as_object_mut().filter(|_| created.made) {
            fields.insert("session_id".to_owned(), claims.sign(self.store.keys()).into());
            fields.insert("deadline_ms".to_owned(), claims.deadline_ms.into());
            tracing::info!(session = %claims.key, principal = %principal.name, "made by the operator");
        }
        Ok(told)
    }
}
