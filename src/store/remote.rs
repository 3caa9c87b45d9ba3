//! What the store asks of the place that instances share: Redis, or a model of it in simulations.
//!
//! Everything that is written there is a join or an append with a place of its own, so it may be repeated, reordered
//! or executed late without harm. Payloads are opaque: what is in them says [`super::record`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::ids::{Origin, SessionKey};
pub use crate::state::contract::Voided;
pub use crate::state::link::LinkState;
use crate::state::lock::Token;
use crate::state::result::{Outcome, Reported};
use crate::state::stamp::Stamp;

/// What a call resolves with, once the deadline of the link is over at the latest.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, RemoteError>> + Send + 'a>>;

/// Why the shared store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// It cannot be asked now, or did not answer in time: whether it did it is not known. It stays owed.
    #[error("the shared store is away: {0}")]
    Away(Arc<str>),
    /// It answers reads and refuses writes (full, read-only, without replicas). It stays owed.
    #[error("the shared store refuses writes: {0}")]
    Refuses(Arc<str>),
    /// A stamp lies further ahead of its clock, in milliseconds since the epoch, than is allowed: stamp anew.
    #[error("a stamp lies ahead of the shared clock, which says {now_ms} ms")]
    Skew {
        /// Its time.
        now_ms: u64,
    },
    /// One stamp, or one place in a log, with two contents: a process start was cloned. Take a new origin.
    #[error("{what} was written twice under the same name: this process start was cloned")]
    Fork {
        /// The field, or the origin.
        what: String,
    },
    /// A fault of ours: what was sent is not understood. Nothing was written.
    #[error("the shared store does not understand: {0}")]
    Fault(Arc<str>),
}

/// A field of a document as it is shared. `~t`: the end (absorbing); `~s`: the last use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedField {
    /// Its name.
    pub name: String,
    /// Its stamp.
    pub stamp: Stamp,
    /// Its stored form.
    pub value: Bytes,
}

/// Fields of a document that are offered.
#[derive(Clone, Debug)]
pub struct DocPush {
    /// The fields. At most [`crate::base::limits::PUSH_FIELDS`].
    pub fields: Vec<SharedField>,
    /// It is gone after so long without use, milliseconds.
    pub idle_ms: u64,
    /// It is gone then in any case, milliseconds since the epoch.
    pub deadline_ms: u64,
}

/// A document after a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// It was ended: `fields` has `~t` alone.
    pub ended: bool,
    /// How many fields of the push were news.
    pub news: usize,
    /// All of it.
    pub fields: Vec<SharedField>,
}

/// A report on a result.
#[derive(Clone, Debug)]
pub struct ResultPush {
    /// What is reported.
    pub outcome: Outcome,
    /// It is kept for so long.
    pub ttl: Duration,
    /// It was taken before: a terminal one is put back in place of any that is not.
    pub again: bool,
}

/// A run of entries of one origin that is offered.
#[derive(Clone, Debug)]
pub struct LogPush {
    /// Whose.
    pub origin: Origin,
    /// The number of the first one.
    pub first: u64,
    /// The oldest number that the caller could supply.
    pub base: u64,
    /// The log goes then, milliseconds since the epoch.
    pub expires_ms: u64,
    /// The entries, contiguous. At most [`crate::base::limits::PUSH_ENTRIES`].
    pub entries: Vec<Bytes>,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// All are there now; the highest number.
    Ok(u64),
    /// All were there; the highest number.
    Known(u64),
    /// Something between this number and the first one offered is missing: offer from this number plus one.
    Gap(u64),
}

/// Where a reader of a log went on reading: a place that is meaningful to the shared store alone, and only a shortcut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint(pub Box<str>);

/// What is in a log.
#[derive(Clone, Debug, Default)]
pub struct SharedLog {
    /// The highest number of every origin.
    pub marks: Vec<(Origin, u64)>,
    /// The entries behind the hint, those of an origin in order: origin, number, stored form. The first ones may be
    /// known.
    pub entries: Vec<(Origin, u64, Bytes)>,
    /// Where to go on.
    pub hint: Hint,
}

/// A step on a shared lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockStep {
    /// Take it, under a fence not below this one, or hold it longer.
    Take(u64),
    /// Hold it longer.
    Renew,
    /// Let it go.
    Drop,
}

/// Where a shared lock stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockSeen {
    /// The fence that was given last; 0: none is known.
    pub fence: u64,
    /// How long its holder still has, milliseconds; 0: nobody holds it.
    pub left_ms: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockTaken {
    /// Done, under this fence.
    Done(u64),
    /// Somebody else holds it for so many milliseconds more; 0: nobody does.
    Held(u64),
}

/// A cached value as the shared store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedValue {
    /// When it was made, milliseconds since the epoch on the shared clock.
    pub made_ms: u64,
    /// Its stored form.
    pub value: Bytes,
    /// How long it counts.
    pub left: Duration,
}

/// One shard of the shared store, by its number; a single server is shard 0 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub u16);

/// What is told without being asked. Events of one shard come in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A document was written, by this instance or by another, or is gone.
    Document(SessionKey),
    /// A log was written or is gone.
    Log(SessionKey),
    /// A result was written or is gone.
    Result(SessionKey, String),
    /// A cached value was written or is gone.
    Cache(String),
    /// Tags of cached values were voided, or it is not known any more which were.
    Voided,
    /// Writes may have been missed: whatever is held of this shard may be old.
    Lapsed(Shard),
    /// The link to a shard is in this state now.
    State(Shard, LinkState),
    /// The shard has lost something, or another one stands in its place: whatever is held of it is to be offered again,
    /// and nothing follows from its absence for a while.
    Lineage(Shard),
}

/// Takes events in. Called in between other work: it must be short.
pub type Hear = Arc<dyn Fn(Event) + Send + Sync>;

/// The shared store. Every method returns within the deadline of the link, at once where the link is down, and never
/// repeats anything by itself that may have been done.
pub trait Remote: Send + Sync + fmt::Debug {
    /// From now on events go to `hear`; called once, before anything else.
    fn listen(&self, hear: Hear);

    /// The shard that has a session.
    fn shard(&self, key: SessionKey) -> Shard;

    /// The link to a shard.
    fn state(&self, shard: Shard) -> LinkState;

    /// Whether what is held of a shard is as new as the last event heard of it: what is written there is heard of here
    /// within a second. Never while the link is not up.
    fn is_leased(&self, shard: Shard) -> bool;

    /// How far its clock is ahead of this machine's, milliseconds, as far as it is known.
    fn clock_offset_ms(&self) -> i64 {
        0
    }

    /// Notes a fact about the instances as a whole, unless one of that name stands; returns the one that stands.
    fn once(&self, field: &str, value: Bytes) -> Asked<'_, Bytes>;

    /// A fact about the instances as a whole.
    fn meta(&self, field: &str) -> Asked<'_, Option<Bytes>>;

    /// The process starts that have said lately that they run.
    fn instances(&self) -> Asked<'_, Vec<Origin>>;

    /// Whether no other instance gave a sign of life when that could last be asked. False: one did, or it never could.
    fn is_alone(&self) -> bool;

    /// Joins fields into a document.
    fn push_doc(&self, key: SessionKey, push: DocPush) -> Asked<'_, Merged>;

    /// A document; no fields: there is none.
    fn pull_doc(&self, key: SessionKey) -> Asked<'_, Vec<SharedField>>;

    /// Appends to a log.
    fn push_log(&self, key: SessionKey, push: LogPush) -> Asked<'_, Appended>;

    /// A log, from `after` on; from its beginning when there is no such place any more.
    fn pull_log(&self, key: SessionKey, after: Option<Hint>) -> Asked<'_, SharedLog>;

    /// Lets a log go whose session has ended: what is appended late does not bring it back before `expires_ms`.
    fn end_log(&self, key: SessionKey, expires_ms: u64) -> Asked<'_, ()>;

    /// Reports on a result.
    fn push_result(&self, key: SessionKey, name: &str, push: ResultPush) -> Asked<'_, Reported>;

    /// The report that stands, and how long it is kept.
    fn pull_result(&self, key: SessionKey, name: &str) -> Asked<'_, Option<(Outcome, Duration)>>;

    /// A step on a lock.
    fn lock(&self, name: &str, token: Token, ttl: Duration, step: LockStep) -> Asked<'_, LockTaken>;

    /// Where a lock stands.
    fn lock_state(&self, name: &str) -> Asked<'_, LockSeen>;

    /// The shard that knows which tags of cached values were voided.
    fn cache_shard(&self) -> Shard;

    /// A cached value.
    fn cache_get(&self, key: &str) -> Asked<'_, Option<CachedValue>>;

    /// Caches a value that counts up to a moment (milliseconds since the epoch), unless one stands that was made then or
    /// later; without a value, what was made up to then is forgotten. Whether anything was done.
    fn cache_put(&self, key: &str, made_ms: u64, value: Option<(Bytes, u64)>) -> Asked<'_, bool>;

    /// Voids tags: whatever was made of them before counts no more. Of no tags: a counting begins, if there is none.
    fn cache_void(&self, tags: Vec<String>) -> Asked<'_, ()>;

    /// Which tags were voided; `None`: no counting has begun, or it was lost.
    fn cache_voided(&self) -> Asked<'_, Option<Voided>>;
}
