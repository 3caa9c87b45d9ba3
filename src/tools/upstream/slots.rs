//! Which session of the server a call runs in: one of its own session's, one that is shared, or one of its own.
//!
//! A *slot* is a place where a session is, or is made when it is needed. Whoever needs it first makes it, and the others
//! wait for that. A session that is gone is taken out by whoever notices, and made anew for whoever comes next.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::credentials::Credential;
use super::failure::{Failure, Kind};
use super::kept::{self, Kept};
use super::reader;
use super::session::{Owner, Session, Transport};
use super::{Common, Inner, Legacy};
use crate::base::limits::UPSTREAM_SESSIONS;
use crate::rpc::message::quote;
use crate::tools::SessionView;
use crate::tools::hosted::changes::{Ears, Wanted};
use crate::tools::hosted::greeting::EVERYTHING;

/// Sessions that may be gone before they are used, one after another.
const SESSION_TRIES: usize = 3;

/// A place for one session.
pub(super) struct Slot {
    owner: Owner,
    credential: Arc<Credential>,
    /// What the client of its session can do, as JSON text.
    capabilities: String,
    /// The resources of which its session tells changes.
    pub(super) wanted: Arc<Wanted>,
    cell: Mutex<Arc<OnceCell<Arc<Session>>>>,
    /// Calls that use it.
    uses: AtomicUsize,
    last_used: Mutex<Instant>,
    /// A session was in it once.
    had_one: AtomicUsize,
    /// The session of ours that wants to hear of changes.
    serves: Mutex<Option<Weak<dyn SessionView>>>,
}

/// The slots of one server.
#[derive(Default)]
pub(super) struct Slots {
    /// By the principal whose credentials they have, if not everybody's.
    shared: Mutex<HashMap<Option<Arc<str>>, Arc<Slot>>>,
    sessions: Mutex<HashMap<String, Arc<Slot>>>,
}

/// A slot in use.
pub(super) struct Use(pub(super) Arc<Slot>);

impl Drop for Use {
    fn drop(&mut self) {
        *lock(&self.0.last_used) = Instant::now();
        self.0.uses.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Slots {
    /// The slot that all share who have these credentials.
    pub(super) fn shared(&self, credential: &Arc<Credential>, wanted: &Arc<Wanted>) -> Use {
        let mut shared = lock(&self.shared);
        let slot = shared
            .entry(credential.principal.clone())
            .or_insert_with(|| Slot::new(Owner::Shared, credential, EVERYTHING.into(), Arc::clone(wanted)));
        slot.used()
    }

    /// The slot of a session of ours.
    pub(super) fn of_session(&self, view: &dyn SessionView, credential: &Arc<Credential>) -> Option<Use> {
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= UPSTREAM_SESSIONS && !sessions.contains_key(view.key()) {
            sessions.retain(|_, slot| !slot.unload_if_idle(Duration::ZERO));
            if sessions.len() >= UPSTREAM_SESSIONS {
                return None;
            }
        }
        let slot = sessions.entry(view.key().to_owned()).or_insert_with(|| {
            let capabilities = view.client_capabilities().get().to_owned();
            Slot::new(Owner::Session, credential, capabilities, Arc::new(Wanted::of_session(view.key())))
        });
        Some(slot.used())
    }

    /// A slot for one call.
    pub(super) fn single(credential: &Arc<Credential>, capabilities: &str) -> Use {
        Slot::new(Owner::Session, credential, capabilities.to_owned(), Arc::default()).used()
    }

    /// The scopes in which a subscriber may have subscriptions, with their slots.
    pub(super) fn scopes_of(&self, subscriber: &str) -> Vec<Arc<Slot>> {
        let own = lock(&self.sessions).get(subscriber).cloned();
        own.into_iter().chain(lock(&self.shared).values().cloned()).collect()
    }

    /// Takes a session's slot out.
    pub(super) fn take(&self, session: &str) -> Option<Arc<Slot>> {
        lock(&self.sessions).remove(session)
    }

    /// Lets go of what nobody used for this long. The sessions stay in the server, and are gone on with when their
    /// owners come back.
    pub(super) fn sweep(&self, idle: Duration) {
        lock(&self.sessions).retain(|_, slot| !slot.unload_if_idle(idle));
    }

    /// All that there are, for good.
    pub(super) fn take_all(&self) -> Vec<Arc<Slot>> {
        let shared = std::mem::take(&mut *lock(&self.shared));
        let sessions = std::mem::take(&mut *lock(&self.sessions));
        shared.into_values().chain(sessions.into_values()).collect()
    }

    /// Sessions in the server: of how many sessions of ours, and in all.
    pub(super) fn count(&self) -> (usize, usize) {
        let sessions = lock(&self.sessions);
        let own = sessions.len();
        let all = lock(&self.shared)
            .values()
            .chain(sessions.values())
            .filter(|slot| slot.present().is_some())
            .count();
        (own, all)
    }

    /// Those whose session was lost while somebody waits to hear of changes by it.
    pub(super) fn lost(&self) -> Vec<Use> {
        let sessions = lock(&self.sessions);
        let shared = lock(&self.shared);
        let all = shared.values().chain(sessions.values());
        all.filter(|slot| slot.is_lost()).map(Slot::used).collect()
    }

    /// Forgets sessions of everybody: the server is not what it was.
    pub(super) fn forget_shared(&self, which: impl Fn(&Session) -> bool) {
        for slot in lock(&self.shared).values() {
            if let Some(session) = slot.present().filter(|session| which(session)) {
                session.leave();
                slot.forget(&session);
            }
        }
    }
}

impl Slot {
    fn new(
        owner: Owner,
        credential: &Arc<Credential>,
        capabilities: String,
        wanted: Arc<Wanted>,
    ) -> Arc<Self> {
        Arc::new(Self {
            owner,
            credential: Arc::clone(credential),
            capabilities,
            wanted,
            cell: Mutex::default(),
            uses: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
            had_one: AtomicUsize::new(0),
            serves: Mutex::default(),
        })
    }

    fn used(self: &Arc<Self>) -> Use {
        self.uses.fetch_add(1, Ordering::AcqRel);
        Use(Arc::clone(self))
    }

    /// The session that is in it.
    pub(super) fn present(&self) -> Option<Arc<Session>> {
        lock(&self.cell).get().filter(|session| !session.gone.is_cancelled()).cloned()
    }

    /// Takes a session out, unless it was replaced meanwhile.
    pub(super) fn forget(&self, session: &Arc<Session>) {
        let mut cell = lock(&self.cell);
        if cell.get().is_some_and(|known| Arc::ptr_eq(known, session)) {
            *cell = Arc::default();
        }
    }

    /// The session that is in it, be its stream closed or not.
    pub(super) fn for_the_end(&self) -> Option<Arc<Session>> {
        lock(&self.cell).get().cloned()
    }

    pub(super) fn is_shared(&self) -> bool {
        self.owner == Owner::Shared
    }

    /// A session of ours wants to hear of changes by it.
    pub(super) fn serves(&self, view: &Arc<dyn SessionView>) {
        *lock(&self.serves) = Some(Arc::downgrade(view));
    }

    pub(super) fn served(&self) -> Option<Arc<dyn SessionView>> {
        lock(&self.serves).as_ref().and_then(Weak::upgrade)
    }

    fn is_lost(&self) -> bool {
        // By the common session changes of lists are heard of, which everybody waits for.
        let is_waited_for =
            !self.wanted.is_empty() || (self.is_shared() && self.credential.principal.is_none());
        is_waited_for && self.had_one.load(Ordering::Acquire) > 0 && self.present().is_none()
    }

    /// Nobody wants to hear of it any more. Whether the server takes note makes no difference to anybody, so nobody
    /// waits for it.
    pub(super) fn tell_unsubscribed(&self, uri: &str) {
        if let (Some(session), Ok(runtime)) = (self.present(), tokio::runtime::Handle::try_current()) {
            let params = format!("{{\"uri\":{}}}", quote(uri));
            runtime.spawn(async move {
                let _ = session.request("resources/unsubscribe", &params).await;
            });
        }
    }

    fn unload_if_idle(&self, idle: Duration) -> bool {
        let is_idle = self.uses.load(Ordering::Acquire) == 0
            && self.wanted.is_empty()
            && Instant::now().saturating_duration_since(*lock(&self.last_used)) >= idle;
        if is_idle && let Some(session) = self.present() {
            session.leave();
        }
        is_idle
    }

    /// Puts the session in that was made to find out what the server speaks. Calls go on in the one before it.
    pub(super) fn seed(&self, session: Arc<Session>) {
        let again = self.had_one.fetch_add(1, Ordering::AcqRel) > 0;
        let cell = Arc::new(OnceCell::new_with(Some(Arc::clone(&session))));
        let before = std::mem::replace(&mut *lock(&self.cell), cell);
        self.subscribe_anew(&session, again);
        if let Some(before) = before.get().filter(|before| !before.gone.is_cancelled()) {
            tokio::spawn(Arc::clone(before).end_after_its_calls());
        }
    }

    /// The session, made when there is none. `view`: the session of ours that it is for.
    pub(super) async fn session(
        &self,
        inner: &Inner,
        legacy: &Legacy,
        view: Option<&Arc<dyn SessionView>>,
    ) -> Result<Arc<Session>, Failure> {
        for _ in 0..SESSION_TRIES {
            let cell = Arc::clone(&lock(&self.cell));
            let made = cell.get_or_try_init(|| self.make(inner, legacy, view)).await?;
            if !made.gone.is_cancelled() {
                return Ok(Arc::clone(made));
            }
            if inner.common.closing.is_cancelled() {
                return Err(inner.closed().into());
            }
            self.forget(made);
        }
        let what = "ends each session as soon as it is made";
        Err(inner.common.http.trouble(Kind::Down, false, what).into())
    }

    async fn make(
        &self,
        inner: &Inner,
        legacy: &Legacy,
        view: Option<&Arc<dyn SessionView>>,
    ) -> Result<Arc<Session>, Failure> {
        // Whoever waited for others that failed does not try in vain as well.
        drop(inner.admit()?);
        let common = &inner.common;
        let again = self.had_one.load(Ordering::Acquire) > 0;
        let kept = match view {
            // What was kept of one that is gone is of no use.
            Some(view) if !again => kept::of(common, &**view).await,
            _ => None,
        };
        let session = match kept {
            Some(Kept { id: Some(id), .. }) if !legacy.sse => self.resume(common, legacy, id),
            before => {
                let session = open(
                    common,
                    &self.credential,
                    self.owner,
                    self.ears(common),
                    legacy.sse,
                    &self.capabilities,
                )
                .await?;
                // A server without sessions has nothing to lose.
                let has_state = session.id().is_some() || legacy.sse;
                let is_anew = view.is_some() && has_state && (again || before.is_some());
                session.is_anew.store(is_anew, Ordering::Release);
                if let Some(view) = view {
                    kept::keep(common, &**view, &session).await;
                }
                session
            }
        };
        inner.metrics.sessions.inc();
        self.had_one.fetch_add(1, Ordering::AcqRel);
        self.subscribe_anew(&session, again);
        Ok(session)
    }

    /// Goes on with a session that another process of ours, or this one before, had in the server.
    fn resume(&self, common: &Arc<Common>, legacy: &Legacy, id: HeaderValue) -> Arc<Session> {
        let session =
            Session::new(common, &self.credential, self.owner, self.ears(common), Transport::Streamable);
        session.adopt(Some(id), legacy.told.clone());
        reader::read_from_now_on(&session);
        session
    }

    /// A session that is new in its place is told what is wanted, while it serves calls already. What happened while the
    /// place was empty nobody knows, so all of it counts as changed.
    fn subscribe_anew(&self, session: &Arc<Session>, again: bool) {
        if again && self.owner == Owner::Shared {
            session.common.look_again.notify_one();
        }
        if self.wanted.is_empty() {
            return;
        }
        let (session, wanted) = (Arc::clone(session), Arc::clone(&self.wanted));
        tokio::spawn(async move {
            let gone = session.gone.clone();
            tokio::select! {
                () = gone.cancelled() => {}
                () = subscribe_to_all(&session, &wanted, again) => {}
            }
        });
    }

    pub(super) fn ears(&self, common: &Common) -> Ears {
        let lists = match self.owner {
            Owner::Shared => common.ears.lists.clone(),
            // There is one list for everybody: what a session's own lists are is its own affair.
            Owner::Session => tokio::sync::watch::channel(Default::default()).0,
        };
        Ears { lists, news: Arc::clone(&common.ears.news), wanted: Arc::clone(&self.wanted) }
    }
}

/// Opens a session and shakes hands.
pub(super) async fn open(
    common: &Arc<Common>,
    credential: &Arc<Credential>,
    owner: Owner,
    ears: Ears,
    sse: bool,
    capabilities: &str,
) -> Result<Arc<Session>, Failure> {
    if sse {
        let session = reader::open_sse(common, credential, owner, ears).await?;
        session.shake_hands(capabilities).await?;
        return Ok(session);
    }
    let session = Session::new(common, credential, owner, ears, Transport::Streamable);
    session.shake_hands(capabilities).await?;
    reader::read_from_now_on(&session);
    Ok(session)
}

async fn subscribe_to_all(session: &Arc<Session>, wanted: &Wanted, again: bool) {
    for uri in wanted.uris() {
        if let Err(failure) = subscribe(session, &uri).await {
            tracing::warn!(server = %session.common.http.server, uri, "a subscription could not be renewed: {failure}");
        }
        if again {
            session.ears.news.updated(wanted, &uri);
        }
    }
}

/// Subscribes a session to a resource.
pub(super) async fn subscribe(session: &Arc<Session>, uri: &str) -> Result<(), Failure> {
    let params = format!("{{\"uri\":{}}}", quote(uri));
    session.request("resources/subscribe", &params).await.map(|_| ())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a session has no slot.
pub(super) fn full(common: &Common) -> Failure {
    let what = format!("has {UPSTREAM_SESSIONS} sessions of this server, as many as it may; try again later");
    common.http.trouble(Kind::Refused, false, &what).into()
}
