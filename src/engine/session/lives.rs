//! The lives of sessions: finding one by its id, making one, letting it go.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{
    Birth, CAPABILITIES_FIELD, LEVEL_FIELD, MAX_CAPABILITIES_BYTES, POSITION_FIELD, Reason, Session,
    position_text,
};
use crate::auth::Principal;
use crate::base::ids::{Claims, Mode, SessionKey, is_session_id};
use crate::engine::Engine;
use crate::engine::ask::Asks;
use crate::engine::elsewhere::Reading;
use crate::engine::rest::ALIAS_FIELD;
use crate::engine::stream::Streams;
use crate::engine::subscriptions::Subscriptions;
use crate::mcp::capability::ClientCapabilities;
use crate::mcp::era::Refusal;
use crate::mcp::revision::Revision;
use crate::rpc::error::{INTERNAL, INVALID_REQUEST, RpcError};
use crate::state::doc::Doc;
use crate::store::{FieldWrite, Lookup, StoreError};

impl Engine {
    /// The session of this id, if it is one of ours, alive, and the principal's.
    ///
    /// # Errors
    /// 404 for what is forged, over, ended or somebody else's: a client cannot tell these apart. 503 when the store
    /// cannot be read: that is no reason to throw a session away.
    pub(in crate::engine) async fn session(
        self: &Arc<Self>,
        token: &str,
        principal: &Principal,
    ) -> Result<Arc<Session>, Refusal> {
        let session = self.find_session(token, Some(principal)).await?;
        if session.claims.principal != principal.hash {
            return Err(no_session());
        }
        session.used(self);
        Ok(session)
    }

    /// The session of this id, whoever's it is: for the operator.
    pub(in crate::engine) async fn any_session(
        self: &Arc<Self>,
        token: &str,
    ) -> Result<Arc<Session>, Refusal> {
        self.find_session(token, None).await
    }

    /// `token`: a session id, or what a caller of the bridge has chosen for one.
    async fn find_session(
        self: &Arc<Self>,
        token: &str,
        principal: Option<&Principal>,
    ) -> Result<Arc<Session>, Refusal> {
        if is_session_id(token) {
            return self.find_by_token(token, principal).await;
        }
        let meant = self.meant_by(token).await.map_err(|error| unavailable(&error))?;
        self.find_by_token(&meant.ok_or_else(no_session)?, principal).await
    }

    async fn find_by_token(
        self: &Arc<Self>,
        token: &str,
        principal: Option<&Principal>,
    ) -> Result<Arc<Session>, Refusal> {
        let held = self.sessions.with(token, Arc::clone).filter(|session| {
            let now = self.clock.monotonic_ms();
            let idle = now.saturating_sub(session.used_ms.load(Ordering::Relaxed));
            let kept = now < session.kept_until_ms.load(Ordering::Relaxed);
            let expired = idle >= self.idle_ttl_ms && !kept && !session.is_busy();
            if expired {
                // The store has removed it, or is about to: what the id is worth now is for the store to say.
                self.drop_session(session, Reason::SessionEnded);
            }
            !expired
        });
        let session = match held {
            Some(session) => session,
            None => self.load_session(token, principal).await?,
        };
        if !self.store.is_fresh(session.claims.key) {
            // Looking at it takes in what other instances did, its end too.
            let found = self.store.load(session.claims.key).await.map_err(|error| unavailable(&error))?;
            if matches!(found, Lookup::Terminated) {
                self.drop_session(&session, Reason::SessionEnded);
                return Err(no_session());
            }
        }
        if session.is_ended() || self.clock.now_ms() >= session.claims.deadline_ms {
            return Err(no_session());
        }
        Ok(session)
    }

    async fn load_session(
        self: &Arc<Self>,
        token: &str,
        principal: Option<&Principal>,
    ) -> Result<Arc<Session>, Refusal> {
        let mut claims = Claims::verify(token, self.store.keys());
        if claims.is_err()
            && let Some(id) = Claims::key_id(token).filter(|id| !self.store.keys().has(*id))
            && self.store.find_key(id).await
        {
            // A sister instance has a key that is new.
            claims = Claims::verify(token, self.store.keys());
        }
        let claims = claims.map_err(|_| no_session())?;
        let revision = Revision::from_u8(claims.revision).filter(|revision| revision.is_legacy());
        let revision = revision.ok_or_else(no_session)?;
        // A stranger brings no session back to life.
        if principal.is_some_and(|principal| principal.hash != claims.principal) {
            return Err(no_session());
        }
        if self.clock.now_ms() >= claims.deadline_ms {
            return Err(no_session());
        }
        if self.is_closed(claims.key) {
            return Err(closed());
        }
        let found = self.store.load(claims.key).await.map_err(|error| unavailable(&error))?;
        let doc = match found {
            Lookup::Live(doc) => {
                // It counts as used from now on, not from when it left memory.
                self.store.touch(claims.key);
                Some(doc)
            }
            Lookup::Terminated => return Err(no_session()),
            Lookup::Unknown if self.strict_idle_expiry => return Err(no_session()),
            Lookup::Unknown => Some(self.rehydrate(&claims).await.map_err(|error| unavailable(&error))?),
        };
        let shared: Arc<str> = token.into();
        // Also of one that begins anew the log is read: its numbers go on where they were.
        let made = self.build_session(Arc::clone(&shared), claims, revision, doc.as_deref(), false);
        let session = self.sessions.with_or_insert(shared, || made, |held| Arc::clone(held));
        self.by_key.insert(claims.key, Arc::downgrade(&session));
        // It may have been closed or ended between the look at the store and its entry into the table.
        if self.is_closed(claims.key) {
            self.forget_session(&session);
            return Err(closed());
        }
        if let Ok(Lookup::Terminated) = self.store.load(claims.key).await {
            self.forget_session(&session);
            return Err(no_session());
        }
        self.resume_subscriptions(&session);
        Ok(session)
    }

    /// A session whose id is ours though the store does not know it (its disk was lost, or it was removed for
    /// idleness): it goes on with nothing but what its id says.
    async fn rehydrate(&self, claims: &Claims) -> Result<Arc<Doc>, StoreError> {
        self.counters.rehydrated();
        tracing::info!(session = %claims.key, "a session that the store does not know goes on, without its values");
        let position = self.broadcast.end(self.clock.now_ms());
        let fields = birth_fields(claims, &claims_capabilities(claims), &position);
        let owner = crate::base::seal::hex(&claims.principal.0);
        self.store.rehydrate(claims.key, &owner, claims.issued_ms, claims.deadline_ms, fields).await
    }

    /// Makes a session. Resolves when the disk has it.
    pub(in crate::engine) async fn create_session(
        &self,
        principal: &Principal,
        revision: Revision,
        capabilities: &RawValue,
        birth: Birth,
    ) -> Result<Arc<Session>, StoreError> {
        let now = self.clock.now_ms();
        let claims = Claims {
            mode: if self.store.is_shared() { Mode::Redis } else { Mode::Local },
            revision: revision as u8,
            capabilities: ClientCapabilities::read(capabilities.get()).to_bits(),
            issued_ms: now,
            deadline_ms: now.saturating_add(self.max_ttl_ms),
            origin: self.store.origin(),
            key: SessionKey::random(),
            principal: principal.hash,
        };
        let token: Arc<str> = claims.sign(self.store.keys()).into();
        let capabilities = if capabilities.get().len() <= MAX_CAPABILITIES_BYTES {
            capabilities.get().to_owned()
        } else {
            claims_capabilities(&claims)
        };
        let mut fields = birth_fields(&claims, &capabilities, &self.broadcast.end(self.clock.now_ms()));
        fields.extend(birth.fields);
        let owner = crate::base::seal::hex(&principal.hash.0);
        let created =
            self.store.create_unused(claims.key, &owner, claims.deadline_ms, fields, birth.unused).await?;
        let session = self.build_session(Arc::clone(&token), claims, revision, Some(&created.doc), true);
        self.by_key.insert(claims.key, Arc::downgrade(&session));
        self.sessions.insert(token, Arc::clone(&session));
        self.say_of_session(claims.key, "created");
        Ok(session)
    }

    fn build_session(
        &self,
        token: Arc<str>,
        claims: Claims,
        revision: Revision,
        doc: Option<&Doc>,
        fresh: bool,
    ) -> Arc<Session> {
        let field = |name: &str| doc.and_then(|doc| doc.get(name));
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).ok();
        let capabilities = field(CAPABILITIES_FIELD)
            .and_then(text)
            .or_else(|| Some(claims_capabilities(&claims)))
            .and_then(|json| RawValue::from_string(json).ok())
            .unwrap_or_else(|| RawValue::NULL.to_owned());
        let position = field(POSITION_FIELD)
            .and_then(text)
            .and_then(|text| crate::state::cursor::EventId::parse(&text).ok())
            .map_or_else(
                || if fresh { self.broadcast.end(self.clock.now_ms()) } else { Default::default() },
                |id| id.cursor,
            );
        let level = field(LEVEL_FIELD).and_then(|bytes| bytes.first().copied()).unwrap_or(0);
        let now = self.clock.monotonic_ms();
        Arc::new(Session {
            token,
            claims,
            revision,
            key_text: claims.key.to_string().into(),
            capabilities,
            store: Arc::clone(&self.store),
            streams: Mutex::new(Streams::new(fresh, position)),
            calls: Mutex::default(),
            asks: Asks::default(),
            subscriptions: Subscriptions::of(doc),
            tasks: AtomicUsize::new(0),
            alias: field(ALIAS_FIELD).and_then(text).map(Into::into),
            reading: Reading::default(),
            level: AtomicU8::new(level),
            used_ms: AtomicU64::new(now),
            kept_until_ms: AtomicU64::new(0),
            touched_ms: AtomicU64::new(now),
            ended: AtomicBool::new(false),
        })
    }

    /// Ends a session: its calls, its connections, its values. Resolves when the disk has it.
    pub(in crate::engine) async fn end_session(
        self: &Arc<Self>,
        session: &Arc<Session>,
    ) -> Result<(), StoreError> {
        self.store.terminate(session.claims.key, session.claims.deadline_ms).await?;
        self.drop_session(session, Reason::SessionEnded);
        self.say_of_session(session.claims.key, "ended");
        self.release_alias(session).await;
        Ok(())
    }

    /// Lets go of a session in memory that was ended or is being replaced behind its back.
    pub(in crate::engine) fn let_go(&self, session: &Arc<Session>) {
        self.drop_session(session, Reason::SessionEnded);
    }

    /// No client reaches the session of this key until the guard is dropped.
    pub(in crate::engine) fn close_to_clients(self: &Arc<Self>, key: SessionKey) -> Result<Closed, Refusal> {
        match self.closed.insert(key, ()) {
            Some(()) => Err(closed()),
            None => Ok(Closed { engine: Arc::clone(self), key }),
        }
    }

    fn is_closed(&self, key: SessionKey) -> bool {
        self.closed.with(&key, |()| ()).is_some()
    }

    fn forget_session(&self, session: &Arc<Session>) {
        self.sessions.remove(&*session.token);
        // It may be back already, under the same key.
        self.by_key.remove_if(&session.claims.key, |held| std::ptr::eq(held.as_ptr(), Arc::as_ptr(session)));
    }

    pub(in crate::engine) fn drop_session(&self, session: &Arc<Session>, reason: Reason) {
        session.ended.store(true, Ordering::Release);
        for running in session.calls().values() {
            running.end(reason);
        }
        session.asks.close();
        session.streams().end_all();
        self.forget_subscriptions(session);
        self.mcp_tasks.session_ended(session.claims.key);
        self.registry.session_ended(&session.key_text);
        self.forget_session(session);
    }

    /// Lets sessions go that nobody has used for a while; they stay on disk. Sessions that carry a stream are in use.
    pub(in crate::engine) async fn unload_idle(self: &Arc<Self>) {
        let now = self.clock.monotonic_ms();
        let wall = self.clock.now_ms();
        let (mut idle, mut over, mut busy) = (Vec::new(), Vec::new(), Vec::new());
        self.sessions.for_each(|_, session| {
            if wall >= session.claims.deadline_ms {
                over.push(Arc::clone(session));
            } else if session.is_busy() {
                busy.push(Arc::clone(session));
            } else if now.saturating_sub(session.used_ms.load(Ordering::Relaxed)) >= self.unload_after_ms {
                idle.push(Arc::clone(session));
            }
        });
        for session in over {
            self.drop_session(&session, Reason::SessionEnded);
        }
        for session in busy {
            session.used(self);
        }
        for session in idle {
            session.save_position(self).await;
            let token = session.token.clone();
            drop(session);
            // Only the table's own reference is left, and no other can be taken while the table looks.
            let unloaded = self.sessions.remove_if(&*token, |held| {
                Arc::strong_count(held) == 1
                    && now.saturating_sub(held.used_ms.load(Ordering::Relaxed)) >= self.unload_after_ms
            });
            if let Some(session) = unloaded {
                self.by_key.remove_if(&session.claims.key, |held| {
                    std::ptr::eq(held.as_ptr(), Arc::as_ptr(&session))
                });
                self.forget_subscriptions(&session);
                // It may be back already, under the same key.
                if let Some(again) = self.sessions.with(&*token, Arc::clone) {
                    again.subscriptions.begin_anew();
                    self.resume_subscriptions(&again);
                }
            }
        }
    }

    /// Keeps what must outlive the process of every session in memory.
    pub(in crate::engine) async fn save_positions(&self) {
        let mut all = Vec::new();
        self.sessions.for_each(|_, session| all.push(Arc::clone(session)));
        for session in all {
            session.save_position(self).await;
        }
    }
}

/// See [`Engine::close_to_clients`].
pub(in crate::engine) struct Closed {
    engine: Arc<Engine>,
    key: SessionKey,
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.engine.closed.remove(&self.key);
    }
}

fn closed() -> Refusal {
    let message = "this session is being put in from a file: try again in a moment";
    Refusal { status: 503, error: RpcError::new(INTERNAL, message) }
}

/// What the store is told of a new session beyond what its id says already.
pub(in crate::engine) fn birth_fields(
    claims: &Claims,
    capabilities: &str,
    position: &crate::state::cursor::Cursor,
) -> Vec<FieldWrite> {
    let mut fields = Vec::new();
    if capabilities != claims_capabilities(claims) {
        fields.push((CAPABILITIES_FIELD.to_owned(), Some(Bytes::copy_from_slice(capabilities.as_bytes()))));
    }
    if !position.is_empty() {
        fields.push((POSITION_FIELD.to_owned(), Some(position_text(position))));
    }
    fields
}

fn claims_capabilities(claims: &Claims) -> String {
    ClientCapabilities::from_bits(claims.capabilities).to_json()
}

fn no_session() -> Refusal {
    Refusal {
        status: 404,
        error: RpcError::new(
            INVALID_REQUEST,
            "no such session: it has ended, or never was; send initialize again",
        ),
    }
}

/// The answer when the store cannot be reached: the session may well exist.
pub(in crate::engine) fn unavailable(error: &StoreError) -> Refusal {
    Refusal { status: 503, error: store_error(error) }
}

/// A store's failure as a client sees it.
pub(in crate::engine) fn store_error(error: &StoreError) -> RpcError {
    RpcError::new(INTERNAL, error.to_string()).with_data(
        &serde_json::json!({ "retryable": !matches!(error, StoreError::Cap(_) | StoreError::Sealed(_)) }),
    )
}
