//! What there is: sessions by page, and one of them in detail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::cache::Session;
use super::durable::{Durable, Table};
use super::payload::Sealer;
use super::record::{self, Head, StoredResult};
use super::sessions::{Committed, Sessions, State};
use super::{Settings, Store, StoreError, doc_of, head_of, read_session, reading, rows, session_of};
use crate::base::clock::millis;
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{SESSIONS_LOOKED_AT, SESSIONS_PAGE};
use crate::state::doc::{Field, Version};
use crate::state::lock::Scope;
use crate::state::log::{Log, StreamName};
use crate::state::stamp::Stamp;

/// Sessions that one scan of the disk brings.
const BATCH: usize = 256;

/// Which sessions are listed.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those of this principal, as it was given to [`Store::create`].
    pub principal: Option<String>,
    /// Those that nobody used for longer than this.
    pub idle_longer_than: Option<Duration>,
    /// Also those that were ended, until their tombstones go.
    pub ended: bool,
}

/// One page of sessions, in the order of their keys.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SessionPage {
    /// The sessions: at most as many as were asked for, and fewer, even none, where few of those that were looked at
    /// pass the filter.
    pub sessions: Vec<SessionSummary>,
    /// Where the next page begins; `None`: this was the last.
    #[serde(serialize_with = "maybe_text")]
    pub next: Option<SessionKey>,
}

/// A session in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionSummary {
    /// What it is called inside.
    #[serde(serialize_with = "text")]
    pub key: SessionKey,
    /// Whose it is.
    pub principal: String,
    /// Its birth, in milliseconds since the epoch; 0: it is older than this was kept.
    pub created_ms: u64,
    /// Its last use as far as it is known, in milliseconds since the epoch; the end of an ended one.
    pub last_seen_ms: u64,
    /// What is left of its idle time, milliseconds; 0 for an ended one.
    pub idle_left_ms: u64,
    /// It is over at this moment, in milliseconds since the epoch; the tombstone of an ended one goes then.
    pub deadline_ms: u64,
    /// Names, values and stamps of its fields, bytes.
    pub bytes: usize,
    /// How many fields have a value.
    pub fields: usize,
    /// Whether it was ended.
    pub ended: bool,
    /// The version of its document.
    #[serde(serialize_with = "text")]
    pub version: Version,
}

/// All that is known of a session but its values ([`Store::load`]) and what was said ([`Store::log`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// In one line.
    pub summary: SessionSummary,
    /// Its fields, by name.
    pub fields: Vec<FieldInfo>,
    /// The runs of its log.
    pub runs: Vec<RunInfo>,
    /// The streams of which entries are retained.
    pub streams: Vec<StreamInfo>,
    /// The locks held in its name.
    pub locks: Vec<LockInfo>,
    /// Its results.
    pub results: Vec<ResultInfo>,
}

/// A field of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldInfo {
    /// Its name.
    pub name: String,
    /// Its value's length, bytes.
    pub bytes: usize,
    /// When and by whom it was written.
    #[serde(serialize_with = "text")]
    pub version: Version,
}

/// What one process start said in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RunInfo {
    /// The process start.
    #[serde(serialize_with = "text")]
    pub origin: Origin,
    /// The lowest number that is retained; `high_water + 1`: none is.
    pub base: u64,
    /// The highest number.
    pub high_water: u64,
}

/// A stream of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StreamInfo {
    /// Its name.
    #[serde(serialize_with = "text")]
    pub name: StreamName,
    /// Entries retained.
    pub entries: usize,
    /// Their payload, bytes.
    pub bytes: usize,
    /// The process start that wrote the last one.
    #[serde(serialize_with = "text")]
    pub origin: Origin,
    /// Its number.
    pub last: u64,
    /// Whether nothing follows it.
    pub ended: bool,
}

/// A lock, without what its holder proves itself with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LockInfo {
    /// Its name.
    pub name: String,
    /// The fence that was given last.
    pub fence: u64,
    /// The holder's time ends at this moment, in milliseconds since the epoch; `None`: nobody holds it.
    pub expires_ms: Option<u64>,
    /// The session in whose name it was taken last.
    #[serde(serialize_with = "maybe_text")]
    pub session: Option<SessionKey>,
    /// Among whom it has one holder.
    pub scope: Scope,
}

/// A result, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResultInfo {
    /// Its name within the session.
    pub name: String,
    /// The fence of the report that stands.
    pub fence: u64,
    /// Its revision.
    pub rev: u64,
    /// Its rank; [`crate::state::result::TERMINAL`]: it stays.
    pub rank: u8,
    /// Its content's length, bytes.
    pub bytes: usize,
    /// It is kept up to this moment, in milliseconds since the epoch.
    pub expires_ms: u64,
}

impl ResultInfo {
    pub(super) fn of(name: String, result: &StoredResult) -> Self {
        Self {
            name,
            fence: result.fence,
            rev: result.rev,
            rank: result.rank,
            bytes: usize::try_from(result.bytes).unwrap_or(usize::MAX),
            expires_ms: result.expires_ms,
        }
    }
}

/// The keys of sessions after this one, also of those that are over.
pub(super) fn keys_after(
    disk: &dyn Durable,
    after: Option<SessionKey>,
    limit: usize,
) -> Result<Vec<SessionKey>, StoreError> {
    let from = after.map_or_else(Vec::new, |after| rows::after(after.as_bytes()));
    let rows = disk.scan(Table::Head, &from, &rows::after(&[]), limit)?;
    rows.iter().map(|(row, _)| key_of(row)).collect()
}

fn key_of(row: &[u8]) -> Result<SessionKey, StoreError> {
    let bytes = <[u8; SessionKey::LEN]>::try_from(row);
    bytes.map(SessionKey::from_bytes).map_err(|_| StoreError::Io("the key of a session is damaged".into()))
}

impl Store {
    /// A page of at most `limit` sessions after `after` that pass `filter`. A page looks at a bounded number of
    /// sessions, so listing costs the same however many there are. Sessions that come and go meanwhile may be on a
    /// page or not; those that stay are on exactly one.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn list(
        &self,
        after: Option<SessionKey>,
        limit: usize,
        filter: &Filter,
    ) -> Result<SessionPage, StoreError> {
        let limit = limit.clamp(1, SESSIONS_PAGE);
        let (filter, settings, now_ms) = (filter.clone(), self.settings, self.clock.now_ms());
        let (sessions, sealer) = (Arc::clone(&self.sessions), self.sealer.clone());
        reading(&self.disk, move |disk| {
            let mut page = SessionPage::default();
            let mut from = after.map_or_else(Vec::new, |after| rows::after(after.as_bytes()));
            let (mut looked_at, mut last) = (0, None);
            while looked_at < SESSIONS_LOOKED_AT {
                let rows = disk.scan(Table::Head, &from, &rows::after(&[]), BATCH)?;
                let last_batch = rows.len() < BATCH;
                for (row, stored) in rows {
                    let key = key_of(&row)?;
                    looked_at += 1;
                    last = Some(key);
                    let head: Head = record::decode(&stored)?;
                    // The cheap tests first, on what the disk says: most sessions need not be read as a whole.
                    if !filter.passes(&head) {
                        continue;
                    }
                    let Some(session) = found(&sessions, disk, &sealer, settings, key)? else { continue };
                    let summary = summary(key, &session, now_ms);
                    if session.is_over(now_ms) || !filter.passes_idle(&summary, now_ms) {
                        continue;
                    }
                    page.sessions.push(summary);
                    if page.sessions.len() == limit {
                        page.next = Some(key);
                        return Ok(page);
                    }
                }
                if last_batch {
                    return Ok(page);
                }
                from = last.map_or(from, |last| rows::after(last.as_bytes()));
            }
            page.next = last;
            Ok(page)
        })
        .await
    }

    /// A session in detail, also one that was ended.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when nothing is known of it; failures of the disk.
    pub async fn inspect(&self, key: SessionKey) -> Result<Inspection, StoreError> {
        let now_ms = self.clock.now_ms();
        let session = self.committed(key).await?.filter(|session| !session.is_over(now_ms));
        let session = session.ok_or(StoreError::Gone)?;
        let locks = self.locks_of(key);
        let sealer = self.sealer.clone();
        let (log, results) = reading(&self.disk, move |disk| {
            Ok((rows::read_log(disk, &sealer, key)?, rows::read_results(disk, key)?))
        })
        .await?;
        let field = |(name, field): (&str, &Field)| {
            let value = field.value.as_ref()?;
            Some(FieldInfo { name: name.to_owned(), bytes: value.len(), version: Version(Some(field.stamp)) })
        };
        let results = results.into_iter().filter(|(_, result)| result.expires_ms > now_ms);
        Ok(Inspection {
            summary: summary(key, &session, now_ms),
            fields: session.doc.stamped().filter_map(field).collect(),
            runs: log
                .marks()
                .map(|(origin, base, high_water)| RunInfo { origin, base, high_water })
                .collect(),
            streams: streams(&log),
            locks,
            results: results.map(|(id, result)| ResultInfo::of(id.name, &result)).collect(),
        })
    }
}

impl Filter {
    fn passes(&self, head: &Head) -> bool {
        (self.ended || head.ended.is_none())
            && self.principal.as_ref().is_none_or(|principal| *principal == head.principal)
    }

    fn passes_idle(&self, summary: &SessionSummary, now_ms: u64) -> bool {
        let idle_ms = now_ms.saturating_sub(summary.last_seen_ms);
        (self.ended || !summary.ended) && self.idle_longer_than.is_none_or(|longer| idle_ms > millis(longer))
    }
}

/// A session as it is known, without putting all that are listed into the cache.
fn found(
    sessions: &Sessions,
    disk: &dyn Durable,
    sealer: &Sealer,
    settings: Settings,
    key: SessionKey,
) -> Result<State, StoreError> {
    match sessions.committed(key) {
        Committed::Known(state) => Ok(state),
        Committed::Read(_) => match read_session(disk, sealer, settings, key) {
            // One session whose values do not open hides no other, nor that it is there.
            Err(StoreError::Sealed(_)) => {
                Ok(head_of(disk, key)?.map(|head| session_of(settings, &head, doc_of(&head))))
            }
            read => read,
        },
    }
}

fn summary(key: SessionKey, session: &Session, now_ms: u64) -> SessionSummary {
    let Session { doc, life, created_ms } = session;
    let ended = doc.ended();
    let idle_left_ms = life.until_ms().min(doc.deadline_ms()).saturating_sub(now_ms);
    SessionSummary {
        key,
        principal: doc.principal().to_string(),
        created_ms: *created_ms,
        last_seen_ms: ended.map_or_else(|| life.seen_ms().max(doc.last_seen_ms()), Stamp::ms),
        idle_left_ms: if ended.is_some() { 0 } else { idle_left_ms },
        deadline_ms: doc.deadline_ms(),
        bytes: doc.bytes(),
        fields: doc.fields().count(),
        ended: ended.is_some(),
        version: doc.version(),
    }
}

fn streams(log: &Log) -> Vec<StreamInfo> {
    let mut streams: BTreeMap<StreamName, StreamInfo> = BTreeMap::new();
    for entry in log.entries() {
        let stream = streams.entry(entry.stream).or_insert(StreamInfo {
            name: entry.stream,
            entries: 0,
            bytes: 0,
            origin: entry.origin,
            last: 0,
            ended: false,
        });
        stream.entries += 1;
        stream.bytes += entry.payload.len();
        (stream.origin, stream.last) = (entry.origin, entry.seq);
        stream.ended |= entry.kind.ends_stream();
    }
    streams.into_values().collect()
}

fn text<T: std::fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn maybe_text<T: std::fmt::Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}
