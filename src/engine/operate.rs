//! What the operator may do with sessions and locks, whoever's they are, and with tools.
//!
//! A change is made through the store, whose documents the sessions in memory read; what these keep besides (their
//! streams, their calls, the numbers of their log) is let go where the change makes it wrong.

mod command;
mod create;
mod told;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

pub use self::command::{Act, CacheAct, Command, Filter, LockAct, Outcome, Which};
use self::told::{conflict, content, no_value, refusal, refused, shown, ttl, value_told};
use super::Engine;
use super::rest::Refused;
use super::session::Session;
use crate::auth::Principal;
use crate::base::ids::{Claims, SessionKey};
use crate::base::limits::ENDED_REMEMBERED;
use crate::base::seal::hex;
use crate::mcp::era::Refusal;
use crate::state::doc::Doc;
use crate::state::lock::{Scope, Token};
use crate::state::log::{Cut, StreamName};
use crate::store::{self, Guard, Lock, Lookup, Store, StoreError};
use crate::tools::cached::Tag;

/// What the names of tools' values begin with in a document; all other fields are the server's own.
pub const VALUE_PREFIX: &str = "v:";
/// Fields of the server that may be shown; the others are a client's secrets.
const SHOWN_PREFIX: &str = "session.";

impl Engine {
    /// Does what the operator wants.
    ///
    /// # Errors
    /// [`Refusal`] with a sentence that says what to do; nothing was changed then.
    pub async fn operate(self: &Arc<Self>, command: Command) -> Result<Outcome, Refusal> {
        match command {
            Command::List(filter) => self.list(filter).await.map(Outcome::Told),
            Command::Create { principal, key } => {
                self.create_by_operator(principal.as_deref(), key).await.map(Outcome::Told)
            }
            Command::Session { session, act } => {
                let key = self.key_of(&session)?;
                self.act(key, act).await
            }
            Command::Lock { name, act } => self.lock(&name, act).await.map(Outcome::Told),
            Command::Publish { topic, message } => self.publish(&topic, message).await.map(Outcome::Told),
            Command::Locks => Ok(Outcome::Told(json!({ "locks": self.store.lock_counts() }))),
            Command::Conflicts { after, limit } => self.conflicts(after, limit).await.map(Outcome::Told),
            Command::Cache(act) => Ok(Outcome::Told(self.cache(act))),
            Command::Servers => Ok(Outcome::Told(self.servers())),
            Command::Tools => Ok(Outcome::Told(self.tools_told().await)),
            Command::Tool { name } => self.tool_told(&name).await.map(Outcome::Text),
            Command::Call { name, arguments } => {
                self.call_for_operator(&name, &arguments).await.map(Outcome::Text)
            }
            Command::Import { file, replace } => self.import(&file, replace).await.map(Outcome::Told),
            Command::TakeOver { principal, sessions } => {
                let taken = self.take_over(&principal, sessions).await;
                taken.map(Outcome::Told).map_err(|refused| match refused {
                    Refused::Unavailable(why) => refusal(503, why),
                    _ => refusal(400, "these sessions cannot be taken over"),
                })
            }
        }
    }

    async fn conflicts(&self, after: u64, limit: usize) -> Result<Value, Refusal> {
        let (found, more) = self.store.conflicts(after, limit).await.map_err(refused)?;
        let next = found.last().filter(|_| more).map(|last| last.number);
        let conflicts: Vec<Value> = found.iter().map(conflict).collect();
        Ok(json!({ "conflicts": conflicts, "next": next }))
    }

    fn cache(&self, act: CacheAct) -> Value {
        let tag = |which: Which| match which {
            Which::Tool(name) => Tag::tool(&name),
            Which::Tag(name) => Tag::named(&name),
        };
        let results = self.registry.results();
        match act {
            CacheAct::Stats => json!(results.stats()),
            CacheAct::List { which, limit } => json!({ "entries": results.list(which.map(tag), limit) }),
            CacheAct::Clear { which } => {
                tracing::info!(?which, "cached results are voided by the operator");
                let cleared = results.clear(&[which.map_or_else(Tag::all, tag)]);
                json!({ "cleared": cleared, "shared": self.store.is_shared() })
            }
        }
    }

    async fn act(self: &Arc<Self>, key: SessionKey, act: Act) -> Result<Outcome, Refusal> {
        let told = match act {
            Act::Inspect => self.inspect(key).await?,
            Act::Value { name } => self.value(key, &name).await?,
            Act::SetValue { name, value, expected, fence } => {
                self.set_value(key, &name, value, Guard { version: expected, fence }).await?
            }
            Act::RemoveValue { name, expected } => {
                self.remove_value(key, &name, Guard { version: expected, fence: None }).await?
            }
            Act::End => self.end_by_operator(key).await?,
            Act::Ttl => ttl(key, self.store.ttl(key).await.map_err(refused)?),
            Act::Extend { by_ms } => self.extend(key, by_ms).await?,
            Act::Export => {
                let file = self.store.export(key).await.map_err(refused)?;
                tracing::info!(session = %key, bytes = file.len(), "exported by the operator");
                return Ok(Outcome::File(file.into()));
            }
        };
        Ok(Outcome::Told(told))
    }

    /// The key of a session that is named by it, or by its whole id.
    fn key_of(&self, session: &str) -> Result<SessionKey, Refusal> {
        if let Some(key) = SessionKey::parse(session) {
            return Ok(key);
        }
        let claims = Claims::verify(session, self.store.keys());
        claims.map(|claims| claims.key).map_err(|_| {
            refusal(
                400,
                "this is neither the key of a session (22 characters) nor a session id of this server",
            )
        })
    }

    async fn list(&self, filter: Filter) -> Result<Value, Refusal> {
        let Filter { after, limit, principal, idle_over_ms } = filter;
        let filter = store::Filter {
            principal: principal.map(|principal| principal_hash(&principal)),
            idle_longer_than: idle_over_ms.map(Duration::from_millis),
            ended: false,
        };
        let page = self.store.list(after, limit, &filter).await.map_err(refused)?;
        let mut page = json!(page);
        for session in page.get_mut("sessions").and_then(Value::as_array_mut).into_iter().flatten() {
            self.name_principal(session);
        }
        Ok(page)
    }

    /// Adds the name of the principal to an object that has its hash, where the configuration knows it.
    fn name_principal(&self, session: &mut Value) {
        let Some(session) = session.as_object_mut() else { return };
        let hash = session.get("principal").and_then(Value::as_str).unwrap_or_default();
        let name = self.principals.get(hash).map_or(Value::Null, |name| Value::from(&**name));
        session.insert("principal_name".to_owned(), name);
    }

    async fn inspect(&self, key: SessionKey) -> Result<Value, Refusal> {
        let inspection = self.store.inspect(key).await.map_err(refused)?;
        let doc = match self.store.load(key).await.map_err(refused)? {
            Lookup::Live(doc) => Some(doc),
            Lookup::Terminated | Lookup::Unknown => None,
        };
        let mut session = json!(inspection.summary);
        self.name_principal(&mut session);
        let (mut values, mut fields) = (Vec::new(), Vec::new());
        for field in &inspection.fields {
            let mut told = json!(field);
            let Some(object) = told.as_object_mut() else { continue };
            if let Some(name) = field.name.strip_prefix(VALUE_PREFIX) {
                object.insert("name".to_owned(), name.into());
                values.push(told);
            } else {
                if let Some(content) = doc.as_ref().and_then(|doc| shown(doc, &field.name)) {
                    object.extend(content);
                }
                fields.push(told);
            }
        }
        let kind = if inspection.fields.iter().any(|field| field.name.starts_with("handle.")) {
            "handle"
        } else {
            "session"
        };
        if let Some(session) = session.as_object_mut() {
            session.insert("kind".to_owned(), kind.into());
            // Counted as they are listed.
            session.insert("fields".to_owned(), fields.into());
            session.insert("values".to_owned(), values.into());
            session.insert("runs".to_owned(), json!(inspection.runs));
            session.insert("streams".to_owned(), json!(inspection.streams));
            session.insert("locks".to_owned(), json!(inspection.locks));
            session.insert("results".to_owned(), json!(inspection.results));
            let live = self.live(key).map(|session| {
                let calls = session.calls().len();
                let mut running: Vec<(String, Value)> = session
                    .calls()
                    .iter()
                    .filter_map(|(id, call)| {
                        let (tool, seconds, state) = call.told()?;
                        let id: Value = serde_json::from_str(id).unwrap_or_default();
                        let told = json!({ "id": id, "tool": tool, "state": state, "seconds": seconds });
                        Some((id.to_string(), told))
                    })
                    .collect();
                running.sort_by(|(a, _), (b, _)| a.cmp(b));
                let running: Vec<Value> = running.into_iter().map(|(_, told)| told).collect();
                let streams = session.streams();
                // Where a stream without Last-Event-ID would begin: newer than what the document has of it.
                let position = streams.position.event_id(StreamName::GET);
                json!({ "streams": streams.readers(), "calls": calls, "running": running, "position": position })
            });
            session.insert("live".to_owned(), json!(live));
        }
        Ok(session)
    }

    async fn value(&self, key: SessionKey, name: &str) -> Result<Value, Refusal> {
        let doc = self.document(key).await?;
        let (value, read_only) = match (doc.get(&field(name)), shown(&doc, name)) {
            (Some(value), _) => (content(value), false),
            (None, Some(content)) => (content, true),
            (None, None) => return Err(no_value(key, name)),
        };
        let mut told = value_told(key, name, &doc);
        if let Some(object) = told.as_object_mut() {
            object.insert("read_only".to_owned(), read_only.into());
            object.extend(value);
        }
        Ok(told)
    }

    async fn set_value(
        &self,
        key: SessionKey,
        name: &str,
        value: Bytes,
        guard: Guard,
    ) -> Result<Value, Refusal> {
        self.check_not_ours(key, name).await?;
        let bytes = value.len();
        let doc = self.write(key, name, Some(value), guard).await?;
        tracing::info!(session = %key, name, bytes, "a value was set by the operator");
        let mut told = value_told(key, name, &doc);
        if let Some(object) = told.as_object_mut() {
            object.insert("bytes".to_owned(), bytes.into());
        }
        Ok(told)
    }

    async fn remove_value(&self, key: SessionKey, name: &str, guard: Guard) -> Result<Value, Refusal> {
        let doc = self.check_not_ours(key, name).await?;
        if doc.get(&field(name)).is_none() {
            return Err(no_value(key, name));
        }
        let doc = self.write(key, name, None, guard).await?;
        tracing::info!(session = %key, name, "a value was removed by the operator");
        Ok(value_told(key, name, &doc))
    }

    async fn write(
        &self,
        key: SessionKey,
        name: &str,
        value: Option<Bytes>,
        guard: Guard,
    ) -> Result<Arc<Doc>, Refusal> {
        let fields = vec![(field(name), value)];
        let written = match guard == Guard::default() {
            true => self.store.update(key, fields).await,
            false => self.store.update_if(key, guard, fields).await,
        };
        written.map_err(refused)
    }

    /// The document, unless `name` is a field of the server's own: a value of a tool has any other name.
    async fn check_not_ours(&self, key: SessionKey, name: &str) -> Result<Arc<Doc>, Refusal> {
        let doc = self.document(key).await?;
        if doc.get(name).is_some() && doc.get(&field(name)).is_none() {
            return Err(refusal(403, format!("{name} is the server's own, and read-only")));
        }
        Ok(doc)
    }

    async fn document(&self, key: SessionKey) -> Result<Arc<Doc>, Refusal> {
        match self.store.load(key).await.map_err(refused)? {
            Lookup::Live(doc) => Ok(doc),
            Lookup::Terminated | Lookup::Unknown => Err(refused(StoreError::Gone)),
        }
    }

    async fn end_by_operator(self: &Arc<Self>, key: SessionKey) -> Result<Value, Refusal> {
        // Also one whose records do not open: there is nothing else to be done with it.
        let deadline_ms = self.store.deadline_ms(key).await.map_err(refused)?;
        let mut said = self.store.high_water(key).await.map_err(refused)?;
        self.store.terminate(key, deadline_ms).await.map_err(refused)?;
        // Whoever was about to load it finds the tombstone.
        if let Some(session) = self.live(key) {
            self.let_go(&session);
            said = said.max(session.streams().durable);
        } else {
            self.registry.session_ended(&key.to_string());
        }
        if said > 0 && self.said.len() < ENDED_REMEMBERED {
            self.said.insert(key, said);
        }
        tracing::info!(session = %key, "ended by the operator");
        self.say_of_session(key, "ended");
        Ok(json!({ "key": key.to_string(), "ended": true }))
    }

    async fn extend(&self, key: SessionKey, by_ms: u64) -> Result<Value, Refusal> {
        if by_ms == 0 {
            return Err(refusal(400, "by how much? want at least one second"));
        }
        let extended = self.store.extend(key, Duration::from_millis(by_ms)).await.map_err(refused)?;
        if let Some(session) = self.live(key) {
            session.keep_for(self, by_ms);
        }
        tracing::info!(session = %key, seconds = by_ms / 1_000, "kept for longer by the operator");
        Ok(ttl(key, extended))
    }

    async fn lock(&self, name: &str, act: LockAct) -> Result<Value, Refusal> {
        let proof = |token: &str| {
            let advice = "token: want the 32 hexadecimal digits that were told when the lock was taken";
            Token::parse(token).ok_or_else(|| refusal(400, advice))
        };
        let lock = match act {
            LockAct::Look => {
                let known = self.store.find_lock(name).await.map_err(refused)?;
                return known.map(|lock| json!(lock)).ok_or_else(|| {
                    refusal(
                        404,
                        format!("nobody knows of a lock {name:?}: it was never taken, or is forgotten"),
                    )
                });
            }
            LockAct::Take { ttl_ms, scope, session } => {
                let session = session.map(|session| self.key_of(&session)).transpose()?;
                let ttl = Duration::from_millis(ttl_ms);
                match scope.unwrap_or(self.lock_scope) {
                    Scope::Global => self.store.lock_among_all(name, ttl, session).await,
                    Scope::Instance => self.store.lock(name, ttl, session).await,
                }
            }
            LockAct::Renew { token, ttl_ms } => {
                self.store.renew(name, proof(&token)?, Duration::from_millis(ttl_ms)).await
            }
            LockAct::Release { token } => {
                self.store.unlock(name, proof(&token)?).await.map_err(refused)?;
                return Ok(json!({ "name": name, "released": true }));
            }
        };
        let Lock { token, fence, expires_ms, valid_ms, scope } = lock.map_err(refused)?;
        let token = token.to_string();
        Ok(json!({
            "name": name, "scope": scope, "token": token, "fence": fence, "expires_ms": expires_ms,
            "valid_ms": valid_ms,
        }))
    }

    async fn import(self: &Arc<Self>, file: &[u8], replace: bool) -> Result<Value, Refusal> {
        let key = Store::exported_key(file).map_err(refused)?;
        // Nobody loads it until it is whole. What is in memory of a session that is replaced would write what belongs
        // to the one before.
        let _closed = self.close_to_clients(key)?;
        if replace {
            match self.live(key) {
                Some(session) => self.let_go(&session),
                None => self.registry.session_ended(&key.to_string()),
            }
        }
        let key = self.store.import(file, replace).await.map_err(refused)?;
        self.skip_said(key).await.map_err(refused)?;
        tracing::info!(session = %key, replace, "imported by the operator");
        let imported = self.document(key).await?;
        Ok(json!({
            "key": key.to_string(),
            "deadline_ms": imported.deadline_ms(),
            "version": imported.version().to_string(),
        }))
    }

    /// A session that was ended here, and came back from a file that is older than its last messages, must not number
    /// new messages as those: a client that has seen them would miss the new ones. What the file has of this process's
    /// run is given up then, and clients are told of the gap.
    async fn skip_said(&self, key: SessionKey) -> Result<(), StoreError> {
        let Some(said) = self.said.remove(&key) else { return Ok(()) };
        let origin = self.store.origin();
        if self.store.log(key).await?.high_water(origin) >= said {
            return Ok(());
        }
        let (done, written) = tokio::sync::oneshot::channel();
        let place = self.store.place().await?;
        let skipped = vec![Cut { origin, base: said.saturating_add(1), get: said }];
        let tell = move |outcome| {
            let _ = done.send(outcome);
        };
        self.store.append(place, key, Vec::new(), skipped, Box::new(tell));
        written.await.unwrap_or(Err(StoreError::Closed))
    }

    /// The session of this key, if it is in memory.
    fn live(&self, key: SessionKey) -> Option<Arc<Session>> {
        let mut found = None;
        self.sessions.for_each(|_, session| {
            if session.claims.key == key {
                found = Some(Arc::clone(session));
            }
        });
        found
    }
}

fn field(name: &str) -> String {
    format!("{VALUE_PREFIX}{name}")
}

/// What a store knows a principal by.
fn principal_hash(principal: &str) -> String {
    let is_hash =
        principal.len() == 16 && principal.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hash { principal.to_owned() } else { hex(&Principal::new(principal).hash.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_found_by_name_and_by_hash() {
        let hash = principal_hash("anonymous");
        assert_eq!(hash.len(), 16);
        assert_eq!(principal_hash(&hash), hash);
        assert_ne!(principal_hash("ABCDEF0123456789"), "ABCDEF0123456789");
    }
}
