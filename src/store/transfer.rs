//! A session as a file: taken out of one store, put into another.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cache::{Life, Session};
use super::commit::Work;
use super::durable::{Durable, Table, Write};
use super::locks::check_name;
use super::record::{self, Head, StoredResult, StoredStamp};
use super::sessions::State;
use super::share::Owed;
use super::write::Plan;
use super::{ResultId, Store, StoreError, reading, redo, rows, sweep};
use crate::base::clock::millis;
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{RESULT_BYTES, RESULTS_PER_SESSION, STAMP_AHEAD};
use crate::base::seal::sha256;
use crate::state::doc::{Doc, Field};
use crate::state::log::{Cut, Entry, Kind, Log, StreamName};
use crate::state::result::{Reported, TERMINAL, report};
use crate::state::stamp::Stamp;

/// Why a file was not imported. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Something else.
    #[error("this is not an exported session")]
    NotAnExport,
    /// Of a newer program.
    #[error(
        "the file has format {format}; this program reads formats up to {known}: use the newer program that wrote it"
    )]
    Newer {
        /// The file's format.
        format: u32,
        /// The newest that is read.
        known: u32,
    },
    /// Not all of it is there.
    #[error("the file is truncated: it has {have} of {need} bytes; export the session again")]
    Truncated {
        /// Its length, bytes.
        have: u64,
        /// What it should be.
        need: u64,
    },
    /// Not what was exported.
    #[error("the file was altered after it was exported ({0}); export the session again")]
    Altered(String),
    /// The session is there.
    #[error("the session {0} exists; replace it explicitly, or end it first")]
    Exists(SessionKey),
    /// The session was ended here.
    #[error("the session {0} was ended here; to bring it back, replace it explicitly")]
    Ended(SessionKey),
    /// Its deadline has passed.
    #[error("the session was over at {deadline_ms} ms since the epoch: there is nothing left to import")]
    PastDeadline {
        /// Its deadline, in milliseconds since the epoch.
        deadline_ms: u64,
    },
    /// It was written by a clock that is ahead of this one.
    #[error(
        "the file was written {ahead_ms} ms in the future: set the clocks of both machines right, then try again"
    )]
    Future {
        /// By how much.
        ahead_ms: u64,
    },
}

/// How such a file begins.
const MAGIC: &[u8; 8] = b"outlast\x1a";
/// The format of the file that this program writes, and the newest that it reads.
const FORMAT: u32 = 1;
/// Magic, format and length of the body.
const HEAD: usize = 20;
const SUM: usize = 32;
/// An entry of the log, bytes: what rows can hold.
const ENTRY_BYTES: usize = 1 << 30;

/// The body of the file, as MessagePack with named fields.
#[derive(Serialize, Deserialize)]
struct Body {
    /// The version of the program that wrote it.
    by: String,
    /// By its clock, in milliseconds since the epoch.
    exported_ms: u64,
    #[serde(with = "serde_bytes")]
    key: [u8; SessionKey::LEN],
    principal: String,
    deadline_ms: u64,
    created_ms: u64,
    keep_ms: u64,
    removed: Option<StoredStamp>,
    fields: Vec<FieldOut>,
    runs: Vec<RunOut>,
    results: Vec<ResultOut>,
}

#[derive(Serialize, Deserialize)]
struct FieldOut {
    name: String,
    stamp: StoredStamp,
    #[serde(with = "serde_bytes")]
    value: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct RunOut {
    origin: u64,
    /// The number of the first entry.
    base: u64,
    /// The highest number below it of the GET stream; not known: any.
    #[serde(default)]
    get: Option<u64>,
    entries: Vec<EntryOut>,
}

#[derive(Serialize, Deserialize)]
struct EntryOut {
    at_ms: u64,
    kind: u8,
    stream: String,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct ResultOut {
    name: String,
    fence: u64,
    rev: u64,
    rank: u8,
    expires_ms: u64,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
}

/// What is in a file, as it is here.
struct Import {
    key: SessionKey,
    principal: String,
    deadline_ms: u64,
    created_ms: u64,
    keep_ms: u64,
    removed: Option<Stamp>,
    fields: Vec<(String, Field)>,
    log: Log,
    results: Vec<(ResultId, StoredResult, Vec<u8>)>,
    newest: Option<Stamp>,
}

/// An entry of a log as its rows: whose, and which.
type Sealed = (Origin, u64, Vec<Write>);

impl Store {
    /// A session as a file: document with stamps, log, results. It is self-contained, says its format, and proves
    /// that it is whole. It is not encrypted, whatever the store is.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when it is not there or was ended; failures of the disk.
    pub async fn export(&self, key: SessionKey) -> Result<Vec<u8>, StoreError> {
        let now_ms = self.clock.now_ms();
        let session = self.committed(key).await?.filter(|session| session.is_live(now_ms));
        let session = session.ok_or(StoreError::Gone)?;
        let sealer = self.sealer.clone();
        reading(&self.disk, move |disk| {
            let stored = disk.get(Table::Head, key.as_bytes())?.ok_or(StoreError::Gone)?;
            let head: Head = record::decode(&stored)?;
            let mut results = Vec::new();
            for (id, result) in rows::read_results(disk, key)? {
                let StoredResult { fence, rev, rank, expires_ms, .. } = result;
                let payload = rows::read_result(disk, &sealer, &id, &result)?;
                results.push(ResultOut { name: id.name, fence, rev, rank, expires_ms, payload });
            }
            let field = |(name, field): (&str, &Field)| {
                let value = field.value.as_ref()?.to_vec();
                Some(FieldOut { name: name.to_owned(), stamp: StoredStamp(field.stamp), value })
            };
            seal(&Body {
                by: env!("CARGO_PKG_VERSION").into(),
                exported_ms: now_ms,
                key: *key.as_bytes(),
                principal: session.doc.principal().to_string(),
                deadline_ms: session.doc.deadline_ms(),
                created_ms: session.created_ms,
                keep_ms: head.keep_ms,
                removed: session.doc.removed().map(StoredStamp),
                fields: session.doc.stamped().filter_map(field).collect(),
                runs: runs(&rows::read_log(disk, &sealer, key)?),
                results,
            })
        })
        .await
    }

    /// The key of the session in a file.
    ///
    /// # Errors
    /// What [`Store::import`] would say of the file alone.
    pub fn exported_key(file: &[u8]) -> Result<SessionKey, StoreError> {
        read(file).map(|import| import.key)
    }

    /// Puts an exported session in and returns its key. With `replace` the file's document takes the place of the one
    /// that is there, and of each run of the log the longer one stays, and a session that was ended is brought back; else
    /// a session that is there, or was ended, is an error. The
    /// caller sees to it that nobody uses the session meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Import`], [`StoreError::Cap`], failures of the disk. Nothing is changed then.
    pub async fn import(&self, file: &[u8], replace: bool) -> Result<SessionKey, StoreError> {
        let mut import = read(file)?;
        let key = import.key;
        // What is long is sealed here, not under the lock of the session nor on the one thread that writes.
        let entries = import.log.entries().map(|entry| {
            let mut rows = Vec::with_capacity(1);
            rows::put_entry(&self.sealer, key, entry, &mut rows).map(|()| (entry.origin, entry.seq, rows))
        });
        let entries = entries.collect::<Result<Vec<Sealed>, StoreError>>()?;
        for (id, result, content) in &mut import.results {
            *content = rows::seal_result(&self.sealer, id, result, content)?;
        }
        let place = self.place().await?;
        self.write(key, place, |current| self.plan_import(import, entries, replace, &current)).await?;
        Ok(key)
    }

    fn plan_import(
        &self,
        import: Import,
        mut entries: Vec<Sealed>,
        replace: bool,
        current: &State,
    ) -> Result<Plan<()>, StoreError> {
        let Import {
            key,
            principal,
            deadline_ms,
            created_ms,
            keep_ms,
            removed,
            fields,
            log,
            results,
            newest,
        } = import;
        let now_ms = self.clock.now_ms();
        let refuse = |error: ImportError| Err(StoreError::Import(error));
        if now_ms >= deadline_ms {
            return refuse(ImportError::PastDeadline { deadline_ms });
        }
        match current {
            Some(session) if session.is_live(now_ms) && !replace => return refuse(ImportError::Exists(key)),
            // Who replaces it means to undo its end.
            Some(session) if session.doc.ended().is_some() && !session.is_over(now_ms) && !replace => {
                return refuse(ImportError::Ended(key));
            }
            _ => {}
        }
        let ahead_ms = newest.map_or(0, |newest| newest.ms().saturating_sub(now_ms));
        if ahead_ms > millis(STAMP_AHEAD) {
            return refuse(ImportError::Future { ahead_ms });
        }
        let replaced = current.as_ref().filter(|session| session.is_live(now_ms));
        // To be put in is a use.
        let seen = newest.map_or_else(|| self.stamp(), |newest| self.stamp_after(newest));
        let mut doc = Doc::new(&principal, deadline_ms, seen);
        let mut writes = Vec::new();
        if let Some(removed) = removed {
            doc.note_removed(removed);
            rows::put_removed(&self.sealer, key, removed, &mut writes)?;
        }
        // Pieces of a value that is replaced may carry a later stamp than the file's.
        let old = replaced.into_iter().flat_map(|session| session.doc.stamped());
        old.for_each(|(name, _)| rows::remove_field(key, name, &mut writes));
        for (name, field) in fields {
            self.check_value(&name, field.value.as_ref())?;
            rows::put_field(&self.sealer, key, &name, &field, None, &mut writes)?;
            doc.put(&name, field.stamp, field.value);
        }
        self.check_caps(&doc, 0, 0)?;
        let head = Head {
            principal,
            deadline_ms,
            seen: StoredStamp(seen),
            created_ms,
            keep_ms: keep_ms.min(deadline_ms),
            ended: None,
        };
        let stored = record::encode(&head)?;
        let until_ms = now_ms.saturating_add(self.settings.idle_ms).max(head.keep_ms);
        let due = rows::expiry(sweep::due_ms(self.settings, &head), key);
        let before = current.as_ref().filter(|session| session.doc.ended().is_none());
        self.count_in(doc.principal(), before.map(|session| session.doc.principal()))?;
        let is_new = replaced.is_none();
        let runs: Vec<(Cut, u64)> =
            log.cuts().zip(log.marks()).map(|(cut, (.., high_water))| (cut, high_water)).collect();
        let decide = move |disk: &dyn Durable| {
            let mut all = vec![Write::Put(Table::Expiry, due, Vec::new())];
            if is_new {
                all.extend(sweep::fade(disk, key, now_ms)?);
            }
            // The head comes last: a session that is there is whole. One that is replaced has a head already: what
            // replaces it goes together.
            let head = Write::Put(Table::Head, key.as_bytes().to_vec(), stored);
            let last = match is_new {
                true => {
                    all.append(&mut writes);
                    vec![head]
                }
                false => {
                    writes.push(head);
                    redo::whole(disk, writes)?
                }
            };
            put_log(disk, key, &runs, &mut entries, now_ms, &mut all)?;
            for (id, result, content) in
                results.into_iter().filter(|(_, result, _)| result.expires_ms > now_ms)
            {
                let stored = disk.get(Table::Result, &rows::result(&id))?.filter(|_| !is_new);
                let standing: Option<StoredResult> =
                    stored.map(|stored| record::decode(&stored)).transpose()?;
                let held = standing.map(|held| (held.fence, held.rev, held.rank));
                if report(held, result.fence, result.rev) == Reported::Ok {
                    rows::put_result(&id, &result, content, standing.as_ref(), &mut all)?;
                }
            }
            all.extend(last);
            Ok(all)
        };
        let life = Life::new(until_ms, now_ms);
        Ok(Plan {
            next: Some(Arc::new(Session { doc: Arc::new(doc), life, created_ms })),
            work: Work::Decide(Box::new(decide)),
            newest_ms: seen.ms(),
            owes: Owed::all(),
            value: (),
        })
    }
}

/// The rows that bring a session's log up to `runs`, each with its highest number. An entry has one name for ever: what is there already is the same.
fn put_log(
    disk: &dyn Durable,
    key: SessionKey,
    runs: &[(Cut, u64)],
    entries: &mut [Sealed],
    now_ms: u64,
    out: &mut Vec<Write>,
) -> Result<(), StoreError> {
    let mut held: BTreeMap<Origin, u64> = rows::high_waters(disk, key)?.into_iter().collect();
    for (origin, mark) in rows::read_marks(disk, key)? {
        let high_water = held.entry(origin).or_default();
        *high_water = (*high_water).max(mark.base.saturating_sub(1));
    }
    for (cut, high_water) in runs {
        let Cut { origin, base, .. } = *cut;
        let held = held.get(&origin).copied().unwrap_or(0);
        if held >= *high_water {
            continue;
        }
        if base > held + 1 {
            rows::trim(key, *cut, now_ms, out)?;
        }
        let entries = entries.iter_mut().filter(|(of, seq, _)| *of == origin && *seq > held);
        entries.for_each(|(.., rows)| out.append(rows));
    }
    Ok(())
}

fn runs(log: &Log) -> Vec<RunOut> {
    let entry = |entry: &Entry| EntryOut {
        at_ms: entry.at_ms,
        kind: entry.kind as u8,
        stream: entry.stream.as_str().to_owned(),
        payload: entry.payload.to_vec(),
    };
    let run = |Cut { origin, base, get }| RunOut {
        origin: Origin::bits(origin),
        base,
        get: Some(get),
        entries: log.entries().filter(|entry| entry.origin == origin).map(entry).collect(),
    };
    log.cuts().map(run).collect()
}

fn seal(body: &Body) -> Result<Vec<u8>, StoreError> {
    let mut file = Vec::with_capacity(1_024);
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&FORMAT.to_be_bytes());
    file.extend_from_slice(&[0; 8]);
    rmp_serde::encode::write_named(&mut file, body)
        .map_err(|error| StoreError::Io(format!("the session cannot be written to a file: {error}")))?;
    let len = (file.len() - HEAD) as u64;
    if let Some(slot) = file.get_mut(HEAD - 8..HEAD) {
        slot.copy_from_slice(&len.to_be_bytes());
    }
    let sum = sha256(&file);
    file.extend_from_slice(&sum);
    Ok(file)
}

fn read(file: &[u8]) -> Result<Import, StoreError> {
    open(file).and_then(check).map_err(StoreError::Import)
}

/// The body of a file that is whole.
fn open(file: &[u8]) -> Result<Body, ImportError> {
    let have = file.len() as u64;
    if !file.starts_with(MAGIC.get(..file.len().min(MAGIC.len())).unwrap_or(MAGIC)) || file.is_empty() {
        return Err(ImportError::NotAnExport);
    }
    let truncated = |need: usize| ImportError::Truncated { have, need: need as u64 };
    let rest = file.get(MAGIC.len()..).ok_or_else(|| truncated(HEAD + SUM))?;
    let (format, rest) = rest.split_first_chunk::<4>().ok_or_else(|| truncated(HEAD + SUM))?;
    let format = u32::from_be_bytes(*format);
    if format > FORMAT {
        return Err(ImportError::Newer { format, known: FORMAT });
    }
    let (len, rest) = rest.split_first_chunk::<8>().ok_or_else(|| truncated(HEAD + SUM))?;
    let len = u64::from_be_bytes(*len);
    let need = len.saturating_add((HEAD + SUM) as u64);
    if have < need {
        return Err(ImportError::Truncated { have, need });
    }
    let altered = |what: &str| ImportError::Altered(what.to_owned());
    if have > need {
        return Err(altered("there is more after its end"));
    }
    let (body, sum) = rest.split_last_chunk::<SUM>().ok_or_else(|| altered("its length is wrong"))?;
    let summed = file.get(..file.len() - SUM).unwrap_or_default();
    if sha256(summed) != *sum {
        return Err(altered("its checksum does not fit"));
    }
    rmp_serde::from_slice(body).map_err(|error| ImportError::Altered(error.to_string()))
}

/// What a body says, if it makes sense: a checksum proves no honesty.
fn check(body: Body) -> Result<Import, ImportError> {
    let altered = |what: &str| ImportError::Altered(what.to_owned());
    let key = SessionKey::from_bytes(body.key);
    if key == SessionKey::BROADCAST {
        return Err(altered("it names no session"));
    }
    let mut newest = body.removed.map(|stamp| stamp.0);
    let mut fields = Vec::with_capacity(body.fields.len());
    for FieldOut { name, stamp: StoredStamp(stamp), value } in body.fields {
        if !Doc::is_field_name(&name) || fields.last().is_some_and(|(last, _)| *last >= name) {
            return Err(altered("the names of its fields"));
        }
        newest = newest.max(Some(stamp));
        fields.push((name, Field { stamp, value: Some(value.into()) }));
    }
    let mut log = Log::default();
    for RunOut { origin, base, get, entries } in body.runs {
        let origin = Origin::from_bits(origin);
        if base == 0 || log.marks().any(|(known, ..)| known == origin) {
            return Err(altered("the runs of its log"));
        }
        log.note_mark(origin, base - 1);
        for (seq, EntryOut { at_ms, kind, stream, payload }) in (base..).zip(entries) {
            let kind = Kind::from_u8(kind).ok_or_else(|| altered("an entry of its log"))?;
            let stream = StreamName::parse(&stream).ok_or_else(|| altered("an entry of its log"))?;
            let fits = payload.len() <= ENTRY_BYTES;
            let entry = Entry { origin, seq, at_ms, kind, stream, payload: payload.into() };
            if !fits || log.union(entry).is_err() {
                return Err(altered("an entry of its log"));
            }
        }
        log.note_cut(Cut { origin, base, get: get.unwrap_or(u64::MAX) });
    }
    let mut results = Vec::with_capacity(body.results.len());
    for ResultOut { name, fence, rev, rank, expires_ms, payload } in body.results {
        let fits = check_name("a result", &name).is_ok() && rank <= TERMINAL && payload.len() <= RESULT_BYTES;
        if !fits || results.len() >= RESULTS_PER_SESSION {
            return Err(altered("its results"));
        }
        let result = StoredResult { fence, rev, rank, bytes: payload.len() as u64, expires_ms };
        results.push((ResultId { session: key, name }, result, payload));
    }
    Ok(Import {
        key,
        principal: body.principal,
        deadline_ms: body.deadline_ms,
        created_ms: body.created_ms,
        keep_ms: body.keep_ms,
        removed: body.removed.map(|stamp| stamp.0),
        fields,
        log,
        results,
        newest,
    })
}
