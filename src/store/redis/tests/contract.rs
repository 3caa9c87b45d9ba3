//! Each script against its machine: the same random steps on a real Redis, the same answers byte for byte, the same
//! content and the same expiry in the end.
//!
//! `CONTRACT_OPS` says how many steps each script takes (default 4,000), `CONTRACT_SEED` repeats a run. Redis is given
//! the machine's time, so that both have the same one.

#![expect(clippy::print_stdout, reason = "a test prints what repeats it")]

use std::collections::BTreeMap;

use bytes::Bytes;
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{Cmd, Pipeline, Value};

use super::support::Redis;
use crate::base::ids::{Origin, SessionKey};
use crate::base::limits::{CACHED_MAX_TTL, STAMP_AHEAD, VOIDED_KEPT, VOIDED_TAGS};
use crate::base::seal::random;
use crate::state::contract::{
    self, Cached, DocAnswer, DocOffer, LogAnswer, Offer, Reply, Run, Slot, Step, Voided,
};
use crate::state::lock::{Register, Token};
use crate::state::result::{Outcome, Reported};
use crate::state::stamp::Stamp;
use crate::store::redis::keys::Keys;
use crate::store::redis::script::{self, Call};
use crate::store::remote::{
    Appended, DocPush, Hint, LockSeen, LockStep, LockTaken, LogPush, RemoteError, ResultPush, SharedField,
};

const BATCH: usize = 100;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn bytes(&mut self, most: u64) -> Bytes {
        let length = self.below(most);
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// A real Redis under a clock of the test's, commands in batches.
struct Bench {
    _redis: Redis,
    connection: MultiplexedConnection,
    random: Random,
    ops: usize,
    /// Time in microseconds: ahead of the real one, so that nothing expires by itself.
    now_us: u64,
    pipe: Pipeline,
    /// Which answers of the batch are to be compared.
    wanted: Vec<usize>,
    queued: usize,
}

impl Bench {
    async fn new() -> Self {
        let redis = Redis::start();
        let client = redis::Client::open(format!("{}?protocol=resp3", redis.url())).unwrap();
        // A busy machine is no failure.
        let settings =
            redis::AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&settings).await.unwrap();
        let seed = match std::env::var("CONTRACT_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => u64::from_be_bytes(random()),
        };
        println!("CONTRACT_SEED={seed}");
        let ops = std::env::var("CONTRACT_OPS").map_or(4_000, |ops| ops.parse().unwrap());
        let time = redis.command(&["TIME"]);
        let seconds: u64 = time.lines().next().unwrap().parse().unwrap();
        Self {
            _redis: redis,
            connection,
            random: Random(seed),
            ops,
            now_us: (seconds + 86_400) * 1_000_000,
            pipe: Pipeline::new(),
            wanted: Vec::new(),
            queued: 0,
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    /// Time goes on, at times by a lot.
    fn pass(&mut self) {
        let most = if self.random.chance(2) { 100_000_000 } else { 3_000_000 };
        self.now_us += self.random.below(most);
        let (seconds, micros) = (self.now_us / 1_000_000, self.now_us % 1_000_000);
        self.command(redis::cmd("MSET").arg("now:s").arg(seconds).arg("now:us").arg(micros));
    }

    fn command(&mut self, command: &Cmd) {
        self.pipe.add_command(command.clone());
        self.queued += 1;
    }

    fn delete(&mut self, key: &str) {
        self.command(redis::cmd("DEL").arg(key));
    }

    /// The script with the test's clock in place of the server's.
    fn call(&mut self, call: &Call) {
        self.wanted.push(self.queued);
        let whole = call.whole().unwrap();
        let args: Vec<Vec<u8>> = whole
            .args_iter()
            .map(|arg| match arg {
                redis::Arg::Simple(bytes) => bytes.to_vec(),
                _ => panic!("an argument of another kind"),
            })
            .collect();
        let source = String::from_utf8(args[1].clone()).unwrap();
        let clocked = source.replace("redis.call('TIME')", "redis.call('MGET','now:s','now:us')");
        let mut command = redis::cmd("EVAL");
        command.arg(clocked);
        for arg in &args[2..] {
            command.arg(arg.as_slice());
        }
        self.command(&command);
    }

    /// Sends the batch and hands back the answers that matter.
    async fn flush(&mut self) -> Vec<Value> {
        let pipe = std::mem::take(&mut self.pipe);
        let answers = self.connection.req_packed_commands(&pipe, 0, self.queued).await.unwrap();
        self.queued = 0;
        // See where logs are lost.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        std::mem::take(&mut self.wanted).into_iter().map(|at| answers[at].clone()).collect()
    }

    async fn expiry(&mut self, key: &str) -> Option<u64> {
        let at: i64 = redis::cmd("PEXPIRETIME").arg(key).query_async(&mut self.connection).await.unwrap();
        u64::try_from(at).ok()
    }
}

fn reply(value: Value) -> Reply {
    match value {
        Value::Int(number) => Reply::Int(number),
        Value::BulkString(bytes) => Reply::Text(bytes.into()),
        Value::SimpleString(text) => Reply::Text(text.into()),
        Value::Array(items) => Reply::List(items.into_iter().map(reply).collect()),
        other => panic!("{other:?}"),
    }
}

/// A hash has no order: names and values by name.
fn by_name(reply: &mut Reply) {
    let Reply::List(items) = reply else { panic!("{reply:?}") };
    let mut pairs: Vec<(Reply, Reply)> =
        items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    pairs.sort_by(|(a, _), (b, _)| match (a, b) {
        (Reply::Text(a), Reply::Text(b)) => a.cmp(b),
        _ => panic!("a name that is no text"),
    });
    *items = pairs.into_iter().flat_map(|(a, b)| [a, b]).collect();
}

#[tokio::test]
async fn doc_merge_answers_as_its_machine() {
    let mut bench = Bench::new().await;
    let keys: Vec<(String, SessionKey)> =
        (0..8).map(|_| SessionKey::random()).map(|key| (Keys::new("mcp").session(key), key)).collect();
    let mut slots: Vec<Slot<contract::DocHash>> = vec![Slot::default(); keys.len()];
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut done = 0;
    while done < bench.ops {
        let mut expected = Vec::new();
        for _ in 0..BATCH {
            bench.pass();
            let now_ms = bench.now_ms();
            let at = bench.random.below(keys.len() as u64) as usize;
            let fields: Vec<SharedField> = (0..bench.random.below(6))
                .map(|_| {
                    let name = match bench.random.below(1_000) {
                        0..4 => "~t".to_owned(),
                        4..200 => "~s".to_owned(),
                        n => format!("f{}", n % 7),
                    };
                    // Around now: some too far ahead, some of the same moment and writer.
                    let ahead = if bench.random.chance(1) { 90_000 } else { bench.random.below(2) };
                    let ms = now_ms / 20_000 * 20_000 + ahead;
                    let stamp = Stamp::new(ms, 0, Origin::from_bits(bench.random.below(3)));
                    let value = match bench.random.chance(20) {
                        true => bench.random.bytes(40),
                        false => Bytes::from(stamp.to_string()),
                    };
                    SharedField { name, stamp, value }
                })
                .collect();
            let push = DocPush {
                fields,
                idle_ms: 1_000 * bench.random.below(200),
                deadline_ms: now_ms + bench.random.below(100_000_000),
            };
            if bench.random.chance(1) {
                slots[at].clear();
            }
            if slots[at].at(now_ms).is_none() {
                bench.delete(&keys[at].0);
            }
            bench.call(&script::push_doc(&keys[at].0, &push));
            let offer = DocOffer {
                fields: push
                    .fields
                    .iter()
                    .map(|field| Offer::new(field.name.clone(), field.stamp, field.value.clone()))
                    .collect(),
                ahead_ms: STAMP_AHEAD.as_millis() as u64,
                idle_ms: push.idle_ms,
                deadline_ms: push.deadline_ms,
            };
            expected.push(contract::doc_merge(&mut slots[at], now_ms, &offer));
        }
        done += BATCH;
        for (value, expected) in bench.flush().await.into_iter().zip(expected) {
            let mut answered = reply(value.clone());
            if let Reply::List(parts) = &mut answered
                && let Some(fields @ Reply::List(_)) = parts.get_mut(2)
            {
                by_name(fields);
            }
            assert_eq!(answered, expected.reply());
            let read = script::pushed_doc(value);
            let kind = match (&expected, read) {
                (DocAnswer::Merged { ended, news, fields }, Ok(merged)) => {
                    assert_eq!((merged.ended, merged.news as u64), (*ended, *news));
                    let read: Vec<(Bytes, Bytes)> = merged
                        .fields
                        .iter()
                        .map(|f| {
                            let kept = [f.stamp.to_string().as_bytes(), &f.value].concat();
                            (Bytes::from(f.name.clone()), Bytes::from(kept))
                        })
                        .collect();
                    assert_eq!(&read, fields);
                    if *ended { "ended" } else { "merged" }
                }
                (DocAnswer::Skew(now_ms), Err(RemoteError::Skew { now_ms: read })) => {
                    assert_eq!(*now_ms, read);
                    "skew"
                }
                (DocAnswer::Fork(name), Err(RemoteError::Fork { what })) => {
                    assert_eq!(name.as_ref(), what.as_bytes());
                    "fork"
                }
                (expected, read) => panic!("{expected:?} was read as {read:?}"),
            };
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
    }
    let now_ms = bench.now_ms();
    for ((key, _), slot) in keys.iter().zip(&mut slots) {
        if slot.at(now_ms).is_some() {
            assert_eq!(bench.expiry(key).await, slot.expires_ms(), "{key}");
        }
    }
    println!("{counts:?}");
    for kind in ["merged", "ended", "skew", "fork"] {
        assert!(counts.get(kind).copied().unwrap_or(0) > 20, "{kind} in {counts:?}");
    }
}

#[tokio::test]
async fn a_stamp_that_is_none_is_refused_before_anything_is_written() {
    let mut bench = Bench::new().await;
    for bad in
        ["", "0123", "ABCDEF01234567890123456789", "0123456789012345678901234g", "é0123456789012345678901234"]
    {
        let push = DocPush { fields: Vec::new(), idle_ms: 1, deadline_ms: 1 };
        let whole = script::push_doc("d", &push).whole().unwrap();
        let mut command = redis::cmd("EVAL");
        for arg in whole.args_iter().skip(1) {
            if let redis::Arg::Simple(bytes) = arg {
                command.arg(bytes);
            }
        }
        let stamp = Stamp::new(1, 0, Origin::from_bits(1)).to_string();
        command.arg("a").arg(stamp).arg("x").arg("b").arg(bad).arg("y");
        let value: Value = command.query_async(&mut bench.connection).await.unwrap();
        assert_eq!(reply(value.clone()), DocAnswer::BadStamp("b".into()).reply(), "{bad:?}");
        assert!(matches!(script::pushed_doc(value), Err(RemoteError::Fault(_))));
        let there: bool = redis::cmd("EXISTS").arg("d").query_async(&mut bench.connection).await.unwrap();
        assert!(!there);
    }
}

#[tokio::test]
async fn logs_answer_as_their_machine() {
    let mut bench = Bench::new().await;
    let keys: Vec<[String; 2]> = (0..6).map(|_| Keys::new("mcp").log(SessionKey::random())).collect();
    let mut logs = vec![contract::LogKeys::default(); keys.len()];
    // Entries that were read, with the text of their place.
    let mut known: Vec<Vec<(u64, Origin, u64, String)>> = vec![Vec::new(); keys.len()];
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    enum Expected {
        Append(Origin, LogAnswer),
        Read(usize, contract::LogContent, Option<(u64, Origin, u64, String)>),
        End(bool),
    }
    let mut done = 0;
    while done < bench.ops {
        let mut lost = std::collections::BTreeSet::new();
        let mut expected = Vec::new();
        for _ in 0..BATCH {
            bench.pass();
            let now_ms = bench.now_ms();
            let at = bench.random.below(keys.len() as u64) as usize;
            if bench.random.chance(1) {
                match bench.random.below(3) {
                    0 => logs[at].entries.clear(),
                    1 => {
                        logs[at].marks.clear();
                        logs[at].over.clear();
                    }
                    _ => {
                        logs[at] = contract::LogKeys { next_place: logs[at].next_place, ..Default::default() }
                    }
                }
            }
            if logs[at].entries.at(now_ms).is_none() {
                // Ids of a stream begin with the real time: one that is made anew within the same millisecond may give
                // the same entry the same id again; places of the machine never repeat. So what is remembered is of
                // an earlier batch, and batches lie milliseconds apart.
                lost.insert(at);
                bench.delete(&keys[at][0]);
            }
            if logs[at].marks.at(now_ms).is_none() && logs[at].over.at(now_ms).is_none() {
                bench.delete(&keys[at][1]);
            }
            if bench.random.below(1_000) < 3 {
                lost.insert(at);
                let expires_ms = now_ms + bench.random.below(100_000_000);
                bench.call(&script::end_log(&keys[at], expires_ms));
                expected.push(Expected::End(contract::log_end(&mut logs[at], now_ms, expires_ms)));
                continue;
            }
            if bench.random.chance(30) {
                let behind = match known[at].len() as u64 {
                    0 => None,
                    n => {
                        let mut entry = known[at][bench.random.below(n) as usize].clone();
                        entry.2 += u64::from(bench.random.chance(10));
                        Some(entry)
                    }
                };
                let hint = behind.clone().map(|(_, o, q, id)| Hint(format!("{id} {o} {q}").into()));
                bench.call(&script::pull_log(&keys[at], hint.as_ref()));
                let place = behind.clone().map(|(place, o, q, _)| (place, o, q));
                expected.push(Expected::Read(at, contract::log_read(&mut logs[at], now_ms, place), behind));
                continue;
            }
            let origin = Origin::from_bits(bench.random.below(3));
            let high =
                logs[at].marks.at(now_ms).and_then(|marks| marks.get(&origin)).map_or(0, |(high, _)| *high);
            let first = (high + 3).saturating_sub(bench.random.below(6)).max(1);
            let count = bench.random.below(5);
            let fork = bench.random.chance(15);
            let entries = (first..)
                .take(count as usize)
                .map(|n| Bytes::from(format!("{at}/{origin}/{n}/{}", if fork { "other" } else { "" })))
                .collect();
            let push = LogPush {
                origin,
                first,
                base: if bench.random.chance(60) { 1 } else { first },
                expires_ms: now_ms + bench.random.below(100_000_000),
                entries,
            };
            let keep = 1 + bench.random.below(30) as usize;
            bench.call(&script::push_log(&keys[at], keep, &push));
            let run = Run {
                origin,
                first,
                base: push.base,
                keep,
                expires_ms: push.expires_ms,
                entries: push.entries.clone(),
            };
            expected.push(Expected::Append(origin, contract::log_append(&mut logs[at], now_ms, &run)));
        }
        done += BATCH;
        for (value, expected) in bench.flush().await.into_iter().zip(expected) {
            let mut answered = reply(value.clone());
            let kind = match expected {
                Expected::Append(origin, answer) => {
                    assert_eq!(answered, answer.reply());
                    match (answer, script::pushed_log(value, origin)) {
                        (LogAnswer::Ok(a), Ok(Appended::Ok(b))) if a == b => "ok",
                        (LogAnswer::Known(a), Ok(Appended::Known(b))) if a == b => "known",
                        (LogAnswer::Gap(a), Ok(Appended::Gap(b))) if a == b => "gap",
                        (LogAnswer::Fork(_), Err(RemoteError::Fork { .. })) => "fork",
                        (expected, read) => panic!("{expected:?} was read as {read:?}"),
                    }
                }
                Expected::End(now) => {
                    assert_eq!(answered, Reply::Int(now.into()));
                    "end"
                }
                Expected::Read(at, content, behind) => {
                    let Reply::List(parts) = &mut answered else { panic!("{answered:?}") };
                    by_name(&mut parts[0]);
                    let Reply::List(entries) = &mut parts[1] else { panic!("{parts:?}") };
                    let mut fresh = Vec::new();
                    for (answered, entry) in entries.iter_mut().zip(&content.entries) {
                        let Reply::List(entry_parts) = answered else { panic!("{answered:?}") };
                        let Reply::Text(id) = &entry_parts[0] else { panic!("{entry_parts:?}") };
                        let id = String::from_utf8(id.to_vec()).unwrap();
                        entry_parts[0] = Reply::Text(entry.place.to_string().into());
                        fresh.push((entry.place, entry.origin, entry.number, id));
                    }
                    assert_eq!(
                        answered,
                        content.reply(|place| place.to_string()),
                        "behind {behind:?}, {fresh:?}"
                    );
                    let read = script::pulled_log(value, None).unwrap();
                    let mut marks: Vec<_> = content.marks.iter().map(|(o, high, _)| (*o, *high)).collect();
                    marks.sort_unstable();
                    assert_eq!(read.marks, marks);
                    let entries: Vec<_> =
                        content.entries.iter().map(|e| (e.origin, e.number, e.bytes.clone())).collect();
                    assert_eq!(read.entries, entries);
                    if let Some((_, o, q, id)) = fresh.last() {
                        assert_eq!(read.hint.0.as_ref(), format!("{id} {o} {q}"));
                    }
                    if !fresh.is_empty() && !lost.contains(&at) {
                        known[at] = fresh;
                    }
                    "read"
                }
            };
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
    }
    let now_ms = bench.now_ms();
    for (key, log) in keys.iter().zip(&mut logs) {
        for (key, there, expires_ms) in [
            (&key[0], log.entries.at(now_ms).is_some(), log.entries.expires_ms()),
            (&key[1], log.marks.at(now_ms).is_some(), log.marks.expires_ms()),
            (&key[1], log.over.at(now_ms).is_some(), log.over.expires_ms()),
        ] {
            if there {
                assert_eq!(bench.expiry(key).await, expires_ms, "{key}");
            }
        }
    }
    println!("{counts:?}");
    for kind in ["ok", "known", "gap", "fork", "read"] {
        assert!(counts.get(kind).copied().unwrap_or(0) > 20, "{kind} in {counts:?}");
    }
}

#[tokio::test]
async fn results_answer_as_their_machine() {
    let mut bench = Bench::new().await;
    let keys: Vec<String> =
        (0..20).map(|n| Keys::new("mcp").result(SessionKey::random(), &format!("r{n}"))).collect();
    let mut slots: Vec<Slot<Outcome>> = vec![Slot::default(); keys.len()];
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut done = 0;
    while done < bench.ops {
        let mut expected = Vec::new();
        for _ in 0..BATCH {
            bench.pass();
            let now_ms = bench.now_ms();
            let at = bench.random.below(keys.len() as u64) as usize;
            if slots[at].at(now_ms).is_none() {
                bench.delete(&keys[at]);
            }
            // Beyond what numbers of Lua hold, too.
            let fence = match bench.random.chance(50) {
                true => bench.random.below(4),
                false => (1 << 60) + bench.random.below(4),
            };
            let rank = if bench.random.chance(5) { 9 } else { bench.random.below(9) as u8 };
            let outcome =
                Outcome { fence, rev: bench.random.below(12), rank, payload: bench.random.bytes(50) };
            let ttl_ms = 1 + bench.random.below(60_000);
            let ttl = std::time::Duration::from_millis(ttl_ms);
            let push = ResultPush { outcome: outcome.clone(), ttl, again: bench.random.chance(20) };
            bench.call(&script::push_result(&keys[at], &push));
            let reported = contract::result_put(&mut slots[at], now_ms, &outcome, ttl_ms, push.again);
            expected.push((reported, contract::result_reply(reported, &outcome)));
        }
        done += BATCH;
        for (value, (reported, expected)) in bench.flush().await.into_iter().zip(expected) {
            assert_eq!(reply(value.clone()), expected);
            assert_eq!(script::pushed_result(value), Ok(reported));
            let kind = match reported {
                Reported::Ok => "ok",
                Reported::Stale { .. } => "stale",
                Reported::Final { .. } => "final",
            };
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
    }
    let now_ms = bench.now_ms();
    for (key, slot) in keys.iter().zip(&mut slots) {
        let Some(outcome) = slot.at(now_ms).cloned() else { continue };
        assert_eq!(bench.expiry(key).await, slot.expires_ms(), "{key}");
        bench.call(&script::pull_result(key));
        let read = script::pulled_result(bench.flush().await.remove(0)).unwrap();
        assert_eq!(read.map(|(outcome, _)| outcome), Some(outcome));
    }
    bench.call(&script::pull_result("none"));
    assert_eq!(script::pulled_result(bench.flush().await.remove(0)), Ok(None));
    println!("{counts:?}");
    for kind in ["ok", "stale", "final"] {
        assert!(counts.get(kind).copied().unwrap_or(0) > 20, "{kind} in {counts:?}");
    }
}

#[tokio::test]
async fn locks_answer_as_their_machine() {
    let mut bench = Bench::new().await;
    let keys: Vec<String> = (0..5).map(|n| Keys::new("mcp").lock(&format!("l{n}"))).collect();
    let mut slots: Vec<Slot<Register>> = vec![Slot::default(); keys.len()];
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut done = 0;
    while done < bench.ops {
        let mut expected = Vec::new();
        for _ in 0..BATCH {
            bench.pass();
            let now_ms = bench.now_ms();
            let at = bench.random.below(keys.len() as u64) as usize;
            if bench.random.chance(1) {
                slots[at].clear();
            }
            if slots[at].at(now_ms).is_none() {
                bench.delete(&keys[at]);
            }
            let token = Token::from_bytes([bench.random.below(3) as u8; 16]);
            let (step, same) = match bench.random.below(4) {
                0 => (LockStep::Renew, Step::Renew),
                1 => (LockStep::Drop, Step::Drop),
                _ => (LockStep::Take(bench.random.below(3) * (bench.now_us + 5_000_000) / 2), Step::Take),
            };
            // Now and then somebody knows of a fence that is ahead of the time.
            let floor = if let LockStep::Take(floor) = step { floor } else { 0 };
            let ttl_ms = 1 + bench.random.below(20_000);
            bench.call(&script::lock(&keys[at], token, std::time::Duration::from_millis(ttl_ms), step));
            let taken = contract::lock_take(&mut slots[at], bench.now_us, token, ttl_ms, same, floor);
            bench.call(&script::lock_state(&keys[at]));
            expected.push((same, taken, contract::lock_look(&mut slots[at], bench.now_us)));
        }
        done += BATCH;
        let answers = bench.flush().await;
        for (pair, (step, taken, seen)) in answers.chunks(2).zip(expected) {
            let [value, look] = pair else { panic!("two answers a round") };
            let value = value.clone();
            assert_eq!(reply(look.clone()), contract::look_reply(seen));
            let (fence, left_ms) = seen;
            assert_eq!(script::lock_seen(look.clone()), Ok(LockSeen { fence, left_ms }));
            assert_eq!(reply(value.clone()), contract::lock_reply(taken));
            let (read, done) = match taken {
                Ok(fence) => (LockTaken::Done(fence), true),
                Err(left) => (LockTaken::Held(left), false),
            };
            assert_eq!(script::locked(value), Ok(read));
            *counts.entry(format!("{} {done}", step.name())).or_default() += 1;
        }
    }
    let now_ms = bench.now_ms();
    for (key, slot) in keys.iter().zip(&mut slots) {
        if slot.at(now_ms).is_some() {
            assert_eq!(bench.expiry(key).await, slot.expires_ms(), "{key}");
        }
    }
    println!("{counts:?}");
    for step in [Step::Take, Step::Renew, Step::Drop] {
        for done in [true, false] {
            let kind = format!("{} {done}", step.name());
            assert!(counts.get(&kind).copied().unwrap_or(0) > 20, "{kind} in {counts:?}");
        }
    }
}

#[tokio::test]
async fn cached_values_answer_as_their_machine() {
    let mut bench = Bench::new().await;
    let keys: Vec<String> = (0..5).map(|n| Keys::new("mcp").cache(&format!("c{n}"))).collect();
    let mut slots: Vec<Slot<Cached>> = vec![Slot::default(); keys.len()];
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut done = 0;
    while done < bench.ops {
        let mut expected = Vec::new();
        for _ in 0..BATCH {
            bench.pass();
            let now_ms = bench.now_ms();
            let at = bench.random.below(keys.len() as u64) as usize;
            if bench.random.chance(1) {
                slots[at].clear();
            }
            if slots[at].at(now_ms).is_none() {
                bench.delete(&keys[at]);
            }
            // Of before and of now, some of one moment.
            let made_ms = now_ms / 10_000 * 10_000 - 20_000 * bench.random.below(3);
            let until_ms = now_ms + 20_000 * bench.random.below(4);
            // An empty one is none.
            let value = (!bench.random.chance(25)).then(|| [b"x", &*bench.random.bytes(40)].concat().into());
            let sent = value.as_ref().map(|value| (value, until_ms));
            bench.call(&script::cache_put(&keys[at], made_ms, sent));
            let forgets = value.is_none();
            let offer = value.map(|value: Bytes| Cached { made_ms, value });
            let put = contract::cache_put(&mut slots[at], now_ms, offer, made_ms, until_ms);
            expected.push((forgets, put));
        }
        done += BATCH;
        for (value, (forgets, put)) in bench.flush().await.into_iter().zip(expected) {
            assert_eq!(reply(value), Reply::Int(i64::from(put)));
            let kind = if forgets { "forget" } else { "put" };
            *counts.entry(format!("{kind} {put}")).or_default() += 1;
        }
    }
    let now_ms = bench.now_ms();
    for (key, slot) in keys.iter().zip(&mut slots) {
        let Some(held) = slot.at(now_ms).cloned() else { continue };
        assert_eq!(bench.expiry(key).await, slot.expires_ms(), "{key}");
        bench.call(&script::cache_get(key));
        let read = script::cached(bench.flush().await.remove(0)).unwrap().unwrap();
        assert_eq!((read.made_ms, read.value), (held.made_ms, held.value));
    }
    bench.call(&script::cache_get("none"));
    assert_eq!(script::cached(bench.flush().await.remove(0)), Ok(None));
    println!("{counts:?}");
    for kind in ["put true", "put false", "forget true", "forget false"] {
        assert!(counts.get(kind).copied().unwrap_or(0) > 20, "{kind} in {counts:?}");
    }
}

#[tokio::test]
async fn voidings_answer_as_their_machine() {
    let mut bench = Bench::new().await;
    let keys: Vec<String> = (0..3).map(|n| format!("{}{n}", Keys::new("mcp").voided())).collect();
    let mut slots: Vec<Slot<Voided>> = vec![Slot::default(); keys.len()];
    let (mut done, mut begun, mut given_up) = (0, 0, 0);
    while done < bench.ops {
        let mut expected = Vec::new();
        for _ in 0..BATCH {
            bench.pass();
            let now_ms = bench.now_ms();
            let at = bench.random.below(keys.len() as u64) as usize;
            if bench.random.chance(1) {
                slots[at].clear();
            }
            if slots[at].at(now_ms).is_none() {
                bench.delete(&keys[at]);
                begun += 1;
            }
            let many = if bench.random.chance(1) { VOIDED_TAGS as u64 / 10 } else { 4 };
            let tags: Vec<String> = (0..bench.random.below(many))
                .map(|_| format!("t{}", bench.random.below(many * 100)))
                .collect();
            let counting = format!("c{}", bench.random.below(100));
            bench.call(&script::cache_void(&keys[at], &counting, &tags));
            let voiding = contract::Voiding {
                counting: counting.into(),
                most: VOIDED_TAGS,
                ttl_ms: (CACHED_MAX_TTL + VOIDED_KEPT).as_millis() as u64,
                tags: tags.into_iter().map(Bytes::from).collect(),
            };
            let floor = slots[at].at(now_ms).map_or(0, |held| held.floor);
            expected.push(contract::cache_void(&mut slots[at], now_ms, &voiding));
            given_up += usize::from(slots[at].at(now_ms).is_some_and(|held| held.floor > floor));
        }
        done += BATCH;
        for (value, (counting, last)) in bench.flush().await.into_iter().zip(expected) {
            assert_eq!(reply(value), Reply::List(vec![Reply::Text(counting), Reply::Int(last as i64)]));
        }
    }
    let now_ms = bench.now_ms();
    for (key, slot) in keys.iter().zip(&mut slots) {
        let Some(held) = slot.at(now_ms).cloned() else { continue };
        assert_eq!(bench.expiry(key).await, slot.expires_ms(), "{key}");
        let whole = script::cache_voided(key).short().query_async(&mut bench.connection).await.unwrap();
        assert_eq!(script::voided(whole).unwrap(), Some(held));
    }
    assert_eq!(script::voided(Value::Array(Vec::new())), Ok(None));
    println!("begun {begun}, given up {given_up}");
    assert!(begun > 5, "{begun}");
}

#[tokio::test]
async fn a_full_server_refuses_scripts_whole() {
    let mut bench = Bench::new().await;
    bench._redis.command(&["SET", "filler", &"x".repeat(1000)]);
    let [log, marks] = Keys::new("mcp").log(SessionKey::random());
    // A torn log: marks without entries.
    bench._redis.command(&["HSET", &marks, "00000001", "4:abcdefgh"]);
    bench._redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let push = LogPush {
        origin: Origin::from_bits(1),
        first: 1,
        base: 1,
        expires_ms: bench.now_ms(),
        entries: vec![Bytes::from_static(b"x")],
    };
    let fields = vec![SharedField {
        name: "a".into(),
        stamp: Stamp::new(1, 0, Origin::from_bits(1)),
        value: Bytes::from_static(b"v"),
    }];
    let doc = DocPush { fields, idle_ms: bench.now_ms(), deadline_ms: bench.now_ms() };
    let outcome = Outcome { fence: 1, rev: 1, rank: 9, payload: Bytes::new() };
    let second = std::time::Duration::from_secs(1);
    for call in [
        script::push_log(&[log.clone(), marks.clone()], 5, &push),
        script::push_doc("doc", &doc),
        script::push_result("result", &ResultPush { outcome, ttl: second, again: false }),
        script::end_log(&[log.clone(), marks.clone()], bench.now_ms()),
        script::lock("lock", Token::random(), second, LockStep::Take(0)),
        script::cache_put("cached", 1, Some((&Bytes::from_static(b"v"), bench.now_ms()))),
        script::cache_void("voided", "c", &["t".to_owned()]),
    ] {
        let refused = bench.connection.req_packed_command(&call.whole().unwrap()).await;
        let refused = refused.and_then(Value::extract_error).unwrap_err();
        assert_eq!(refused.code(), Some("OOM"), "{:?}: {refused}", call.op);
    }
    assert_eq!(bench._redis.command(&["HGETALL", &marks]), "00000001\n4:abcdefgh");
    assert_eq!(bench._redis.command(&["EXISTS", &log, "doc", "result", "lock", "cached", "voided"]), "0");
}
