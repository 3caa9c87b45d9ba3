//! Everything that is asked of Redis, as typed calls: what is sent, and what the answer means.
//!
//! Only this file writes to Redis, and whatever it writes is a join, an append with a place of its own, or set once:
//! it may be repeated or executed late without harm. The scripts (`lua/`) say in their heads what they promise;
//! [`crate::state::contract`] says it as code.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};

use super::answer::{bytes, fault, list, natural, pairs, parts, text, whole};
use super::keys::Keys;
use crate::base::clock::millis;
use crate::base::ids::{Origin, SessionKey, parse_base36};
use crate::base::limits::{CACHED_MAX_TTL, STAMP_AHEAD, VOIDED_KEPT, VOIDED_TAGS};
use crate::state::contract::{DIGEST, Voided, digest};
use crate::state::lock::Token;
use crate::state::result::{Outcome, Reported};
use crate::state::stamp::Stamp;
use crate::store::remote::{
    Appended, CachedValue, DocPush, Hint, LockSeen, LockStep, LockTaken, LogPush, Merged, RemoteError,
    ResultPush, SharedField, SharedLog,
};

/// A script and the name that Redis gives it.
#[derive(Debug)]
pub(super) struct Script {
    source: &'static str,
    sha: String,
}

macro_rules! scripts {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!($file)));)*
    };
}

scripts! {
    DOC_MERGE = "lua/doc_merge.lua",
    LOG_APPEND = "lua/log_append.lua",
    LOG_READ = "lua/log_read.lua",
    LOG_END = "lua/log_end.lua",
    RESULT_PUT = "lua/result_put.lua",
    RESULT_GET = "lua/result_get.lua",
    LOCK_TAKE = "lua/lock_take.lua",
    LOCK_LOOK = "lua/lock_look.lua",
    CACHE_GET = "lua/cache_get.lua",
    CACHE_PUT = "lua/cache_put.lua",
    CACHE_VOID = "lua/cache_void.lua",
    ONCE = "lua/once.lua",
    BEAT = "lua/beat.lua",
    CANARY = "lua/canary.lua",
}

impl Script {
    fn new(source: &'static str) -> Self {
        Self { source, sha: redis::Script::new(source).get_hash().to_owned() }
    }
}

/// What a call is for: a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Op {
    DocMerge,
    DocRead,
    LogAppend,
    LogRead,
    LogEnd,
    ResultPut,
    ResultGet,
    Lock,
    CacheGet,
    CachePut,
    CacheVoid,
    CacheVoided,
    Once,
    Meta,
    Beat,
    Canary,
    Scan,
}

impl Op {
    /// Its name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DocMerge => "doc_merge",
            Self::DocRead => "doc_read",
            Self::LogAppend => "log_append",
            Self::LogRead => "log_read",
            Self::LogEnd => "log_end",
            Self::ResultPut => "result_put",
            Self::ResultGet => "result_get",
            Self::Lock => "lock",
            Self::CacheGet => "cache_get",
            Self::CachePut => "cache_put",
            Self::CacheVoid => "cache_void",
            Self::CacheVoided => "cache_voided",
            Self::Once => "once",
            Self::Meta => "meta",
            Self::Beat => "beat",
            Self::Canary => "canary",
            Self::Scan => "scan",
        }
    }

    /// Whether a server that refuses writes refuses it.
    pub(super) fn writes(self) -> bool {
        !matches!(
            self,
            Self::DocRead
                | Self::LogRead
                | Self::ResultGet
                | Self::CacheGet
                | Self::CacheVoided
                | Self::Meta
                | Self::Scan
        )
    }
}

/// One call, ready to be sent, more than once if it must be.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) op: Op,
    /// The key that says where it is sent.
    pub(super) key: String,
    script: Option<&'static Script>,
    keys: usize,
    /// Keys, then arguments; of a plain command all of it.
    args: Vec<Vec<u8>>,
}

impl Call {
    fn script(op: Op, script: &'static Script, keys: &[&str], args: Vec<Vec<u8>>) -> Self {
        let all = keys.iter().map(|key| key.as_bytes().to_vec()).chain(args).collect();
        let key = keys.first().copied().unwrap_or_default().to_owned();
        Self { op, key, script: Some(script), keys: keys.len(), args: all }
    }

    fn plain(op: Op, key: &str, args: Vec<Vec<u8>>) -> Self {
        Self { op, key: key.to_owned(), script: None, keys: 0, args }
    }

    /// The command to try first: a script by its name.
    pub(super) fn short(&self) -> Cmd {
        match self.script {
            Some(script) => self.eval("EVALSHA", &script.sha),
            None => self.args.iter().fold(Cmd::new(), |mut cmd, arg| {
                cmd.arg(arg.as_slice());
                cmd
            }),
        }
    }

    /// The command with the text of the script, for a server that does not know it; `None`: it has none.
    pub(super) fn whole(&self) -> Option<Cmd> {
        self.script.map(|script| self.eval("EVAL", script.source))
    }

    fn eval(&self, command: &str, script: &str) -> Cmd {
        let size = self.args.iter().map(|arg| arg.len() + 16).sum::<usize>() + script.len() + 64;
        let mut cmd = Cmd::with_capacity(self.args.len() + 3, size);
        cmd.arg(command).arg(script).arg(self.keys);
        for arg in &self.args {
            cmd.arg(arg.as_slice());
        }
        cmd
    }
}

fn number(number: impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// A number that Lua and Redis take for a moment: beyond it both go wrong.
fn moment(ms: u64) -> Vec<u8> {
    number(ms.min(1 << 52))
}

pub(super) fn push_doc(key: &str, push: &DocPush) -> Call {
    let mut args = vec![number(STAMP_AHEAD.as_millis()), moment(push.idle_ms), moment(push.deadline_ms)];
    for field in &push.fields {
        args.extend([
            field.name.as_bytes().to_vec(),
            field.stamp.to_string().into_bytes(),
            field.value.to_vec(),
        ]);
    }
    Call::script(Op::DocMerge, &DOC_MERGE, &[key], args)
}

pub(super) fn pushed_doc(value: Value) -> Result<Merged, RemoteError> {
    let [word, second, third] = parts(value)?;
    let word = text(word)?;
    match word.as_str() {
        "OK" | "DEAD" => Ok(Merged {
            ended: word == "DEAD",
            news: usize::try_from(whole(&second)?).map_err(|_| fault("a negative number"))?,
            fields: fields(third)?,
        }),
        "SKEW" => Err(RemoteError::Skew { now_ms: whole(&second)?.unsigned_abs() }),
        "FORK" => Err(RemoteError::Fork { what: text(second)? }),
        "BADSTAMP" => Err(fault(&format!("the stamp of the field `{}`", text(second)?))),
        other => Err(fault(&format!("the answer `{other}`"))),
    }
}

pub(super) fn pull_doc(key: &str) -> Call {
    Call::plain(Op::DocRead, key, vec![b"HGETALL".to_vec(), key.as_bytes().to_vec()])
}

pub(super) fn fields(value: Value) -> Result<Vec<SharedField>, RemoteError> {
    let mut found = Vec::new();
    for (name, kept) in pairs(value)? {
        let name = text(name)?;
        let kept = bytes(kept)?;
        let stamp = kept.get(..Stamp::TEXT).and_then(|text| std::str::from_utf8(text).ok());
        let stamp =
            stamp.and_then(Stamp::parse).ok_or_else(|| fault(&format!("the field `{name}` has no stamp")))?;
        found.push(SharedField { name, stamp, value: kept.slice(Stamp::TEXT..) });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

pub(super) fn push_log(keys: &[String; 2], keep: usize, push: &LogPush) -> Call {
    let [log, marks] = keys;
    let mut args = vec![
        push.origin.to_string().into_bytes(),
        number(push.first),
        // The lowest number there is: one.
        number(push.base.max(1)),
        number(keep.max(1)),
        moment(push.expires_ms),
    ];
    for entry in &push.entries {
        let mut bytes = Vec::with_capacity(DIGEST + entry.len());
        bytes.extend_from_slice(&digest(entry));
        bytes.extend_from_slice(entry);
        args.push(bytes);
    }
    Call::script(Op::LogAppend, &LOG_APPEND, &[log, marks], args)
}

pub(super) fn pushed_log(value: Value, origin: Origin) -> Result<Appended, RemoteError> {
    let [word, high] = parts(value)?;
    let high = u64::try_from(whole(&high)?).map_err(|_| fault("a negative number"))?;
    match text(word)?.as_str() {
        "OK" => Ok(Appended::Ok(high)),
        "DUP" => Ok(Appended::Known(high)),
        "GAP" => Ok(Appended::Gap(high)),
        "FORK" => Err(RemoteError::Fork { what: origin.to_string() }),
        other => Err(fault(&format!("the answer `{other}`"))),
    }
}

pub(super) fn end_log(keys: &[String; 2], expires_ms: u64) -> Call {
    let [log, marks] = keys;
    Call::script(Op::LogEnd, &LOG_END, &[log, marks], vec![moment(expires_ms)])
}

/// The text of a hint: the id, the origin and the number of an entry.
pub(super) fn pull_log(keys: &[String; 2], after: Option<&Hint>) -> Call {
    let [log, marks] = keys;
    let parts: Vec<&str> = after.map(|hint| hint.0.split(' ').collect()).unwrap_or_default();
    let is_id = |id: &str| {
        id.split_once('-').is_some_and(|(ms, n)| ms.parse::<u64>().is_ok() && n.parse::<u64>().is_ok())
    };
    let args = match parts.as_slice() {
        [id, origin, number] if is_id(id) => [*id, *origin, *number],
        _ => ["", "", ""],
    };
    let args = args.map(|arg| arg.as_bytes().to_vec()).to_vec();
    Call::script(Op::LogRead, &LOG_READ, &[log, marks], args)
}

pub(super) fn pulled_log(value: Value, after: Option<Hint>) -> Result<SharedLog, RemoteError> {
    let [marks, entries] = parts(value)?;
    let mut log = SharedLog { marks: Vec::new(), entries: Vec::new(), hint: after.unwrap_or_default() };
    for (origin, mark) in pairs(marks)? {
        let mark = text(mark)?;
        let high = mark.split_once(':').and_then(|(high, _)| high.parse().ok());
        log.marks.push((parse_origin(&text(origin)?)?, high.ok_or_else(|| fault("a mark"))?));
    }
    log.marks.sort_unstable();
    if log.marks.is_empty() {
        log.hint = Hint::default();
    }
    for entry in list(entries)? {
        let [id, fields] = parts(entry)?;
        let id = text(id)?;
        let [_, origin, _, number, _, payload] = parts(fields)?;
        let (origin_text, number) = (text(origin)?, whole(&number)?);
        let payload = bytes(payload)?;
        let content = if payload.len() >= DIGEST { payload.slice(DIGEST..) } else { Bytes::new() };
        let number = u64::try_from(number).map_err(|_| fault("a negative number"))?;
        log.hint = Hint(format!("{id} {origin_text} {number}").into());
        log.entries.push((parse_origin(&origin_text)?, number, content));
    }
    Ok(log)
}

pub(super) fn push_result(key: &str, push: &ResultPush) -> Call {
    let ResultPush { outcome, ttl, again } = push;
    let args = vec![
        number(outcome.fence),
        number(outcome.rev),
        number(outcome.rank.min(crate::state::result::TERMINAL)),
        outcome.payload.to_vec(),
        moment(millis(*ttl)),
        if *again { b"again".to_vec() } else { Vec::new() },
    ];
    Call::script(Op::ResultPut, &RESULT_PUT, &[key], args)
}

pub(super) fn pushed_result(value: Value) -> Result<Reported, RemoteError> {
    let [word, fence, rev] = parts(value)?;
    let (fence, rev) = (natural(&fence)?, natural(&rev)?);
    match text(word)?.as_str() {
        "OK" => Ok(Reported::Ok),
        "STALE" => Ok(Reported::Stale { fence, rev }),
        "FINAL" => Ok(Reported::Final { fence, rev }),
        other => Err(fault(&format!("the answer `{other}`"))),
    }
}

pub(super) fn pull_result(key: &str) -> Call {
    Call::script(Op::ResultGet, &RESULT_GET, &[key], Vec::new())
}

pub(super) fn pulled_result(value: Value) -> Result<Option<(Outcome, Duration)>, RemoteError> {
    let parts = list(value)?;
    if parts.is_empty() {
        return Ok(None);
    }
    let [fence, rev, rank, payload, left]: [Value; 5] =
        parts.try_into().map_err(|_| fault("a result of other parts"))?;
    let rank = u8::try_from(natural(&rank)?).map_err(|_| fault("a rank"))?;
    let outcome = Outcome { fence: natural(&fence)?, rev: natural(&rev)?, rank, payload: bytes(payload)? };
    Ok(u64::try_from(whole(&left)?).ok().map(|left| (outcome, Duration::from_millis(left))))
}

pub(super) fn lock(key: &str, token: Token, ttl: Duration, step: LockStep) -> Call {
    let (step, floor) = match step {
        LockStep::Take(floor) => ("take", floor),
        LockStep::Renew => ("renew", 0),
        LockStep::Drop => ("drop", 0),
    };
    let args =
        vec![token.to_string().into_bytes(), moment(millis(ttl)), step.as_bytes().to_vec(), moment(floor)];
    Call::script(Op::Lock, &LOCK_TAKE, &[key], args)
}

pub(super) fn locked(value: Value) -> Result<LockTaken, RemoteError> {
    let [done, number] = parts(value)?;
    let number = natural(&number)?;
    Ok(if whole(&done)? == 1 { LockTaken::Done(number) } else { LockTaken::Held(number) })
}

pub(super) fn lock_state(key: &str) -> Call {
    // Not asked of a server that refuses writes: its lock could not be taken either.
    Call::script(Op::Lock, &LOCK_LOOK, &[key], Vec::new())
}

pub(super) fn lock_seen(value: Value) -> Result<LockSeen, RemoteError> {
    let [fence, left] = parts(value)?;
    Ok(LockSeen { fence: natural(&fence)?, left_ms: natural(&left)? })
}

pub(super) fn cache_get(key: &str) -> Call {
    Call::script(Op::CacheGet, &CACHE_GET, &[key], Vec::new())
}

/// Digits of the moment in front of a cached value.
const MADE: usize = 16;

pub(super) fn cached(value: Value) -> Result<Option<CachedValue>, RemoteError> {
    let parts = list(value)?;
    if parts.is_empty() {
        return Ok(None);
    }
    let [value, left]: [Value; 2] = parts.try_into().map_err(|_| fault("a cached value of other parts"))?;
    let Ok(left) = u64::try_from(whole(&left)?) else { return Ok(None) };
    let stored = bytes(value)?;
    let made = stored.get(..MADE).and_then(|digits| std::str::from_utf8(digits).ok());
    let made_ms = made.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let made_ms = made_ms.ok_or_else(|| fault("a cached value without the moment of its making"))?;
    Ok(Some(CachedValue { made_ms, value: stored.slice(MADE..), left: Duration::from_millis(left) }))
}

/// Caches a value; without one, what was made up to then is forgotten.
pub(super) fn cache_put(key: &str, made_ms: u64, value: Option<(&Bytes, u64)>) -> Call {
    let (value, until_ms) = value.map_or((Vec::new(), 0), |(value, until_ms)| (value.to_vec(), until_ms));
    let args = vec![format!("{made_ms:016x}").into_bytes(), moment(until_ms), value];
    Call::script(Op::CachePut, &CACHE_PUT, &[key], args)
}

/// Voids tags of cached values; a counting of this name begins if there is none.
pub(super) fn cache_void(key: &str, counting: &str, tags: &[String]) -> Call {
    let mut args = vec![
        counting.as_bytes().to_vec(),
        number(VOIDED_TAGS),
        // It outlives whatever it is about.
        moment(millis(CACHED_MAX_TTL.saturating_add(VOIDED_KEPT))),
    ];
    args.extend(tags.iter().map(|tag| tag.as_bytes().to_vec()));
    Call::script(Op::CacheVoid, &CACHE_VOID, &[key], args)
}

pub(super) fn cache_voided(key: &str) -> Call {
    Call::plain(Op::CacheVoided, key, vec![b"HGETALL".to_vec(), key.as_bytes().to_vec()])
}

/// What was voided; `None`: no counting has begun.
pub(super) fn voided(value: Value) -> Result<Option<Voided>, RemoteError> {
    let mut voided = Voided::default();
    let mut counts = false;
    for (name, value) in pairs(value)? {
        let name = bytes(name)?;
        match &*name {
            b"~e" => {
                voided.counting = bytes(value)?;
                counts = true;
            }
            b"~n" => voided.last = natural(&value)?,
            b"~f" => voided.floor = natural(&value)?,
            _ => drop(voided.tags.insert(name, natural(&value)?)),
        }
    }
    Ok(counts.then_some(voided))
}

/// Sets a field of a hash unless it is set.
pub(super) fn once(key: &str, field: &str, value: &[u8]) -> Call {
    Call::script(Op::Once, &ONCE, &[key], vec![field.as_bytes().to_vec(), value.to_vec()])
}

pub(super) fn field(key: &str, field: &str) -> Call {
    let args = vec![b"HGET".to_vec(), key.as_bytes().to_vec(), field.as_bytes().to_vec()];
    Call::plain(Op::Meta, key, args)
}

pub(super) fn beat(key: &str, instance: &str, says: &[u8], ttl: Duration) -> Call {
    let args = vec![instance.as_bytes().to_vec(), says.to_vec(), moment(millis(ttl))];
    Call::script(Op::Beat, &BEAT, &[key], args)
}

pub(super) fn beats(value: Value) -> Result<Vec<(String, Bytes)>, RemoteError> {
    pairs(value)?.into_iter().map(|(name, says)| Ok((text(name)?, bytes(says)?))).collect()
}

pub(super) fn canary(key: &str, value: &str) -> Call {
    Call::script(Op::Canary, &CANARY, &[key], vec![value.as_bytes().to_vec()])
}

/// Whether it was set now, and the value that stands.
pub(super) fn canaried(value: Value) -> Result<(bool, String), RemoteError> {
    let [set, value] = parts(value)?;
    Ok((whole(&set)? == 1, text(value)?))
}

/// A page of the names of one server's documents.
pub(super) fn scan(keys: &Keys, cursor: u64, count: usize) -> Call {
    let args = vec![
        b"SCAN".to_vec(),
        number(cursor),
        b"MATCH".to_vec(),
        keys.session_pattern().into_bytes(),
        b"COUNT".to_vec(),
        number(count),
    ];
    Call::plain(Op::Scan, "", args)
}

/// Where to go on (0: it was the last page), and the sessions.
pub(super) fn scanned(keys: &Keys, value: Value) -> Result<(u64, Vec<SessionKey>), RemoteError> {
    let [cursor, names] = parts(value)?;
    let mut found = Vec::new();
    for name in list(names)? {
        if let Some(super::keys::Written::Session(key)) = keys.read(&text(name)?) {
            found.push(key);
        }
    }
    Ok((natural(&cursor)?, found))
}

fn parse_origin(text: &str) -> Result<Origin, RemoteError> {
    parse_base36(text).map(Origin::from_bits).ok_or_else(|| fault(&format!("the origin `{text}`")))
}
