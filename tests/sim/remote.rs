//! One instance's link to the simulated shared store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use outlast::base::ids::{Origin, SessionKey};
use outlast::state::contract::{self, DocAnswer, DocOffer, LogAnswer, Offer, Run, Step};
use outlast::state::lock::Token;
use outlast::state::result::{Outcome, Reported};
use outlast::state::stamp::Stamp;
use outlast::store::remote::{
    Appended, Asked, CachedValue, DocPush, Hear, Hint, LinkState, LockSeen, LockStep, LockTaken, LogPush,
    Merged, Remote, RemoteError, ResultPush, Shard, SharedField, SharedLog, Voided,
};

use super::data::{Answer, Command};
use super::mutants::Mutant;
use super::world::{World, shard_of, shard_of_name};

/// Entries of a log that the shared store keeps.
pub const LOG_ENTRIES: usize = 512;
/// How far a stamp may be ahead of the shared clock, milliseconds.
const SKEW_MS: u64 = 60_000;

pub struct SimLink {
    world: Arc<World>,
    instance: u32,
    pushes: AtomicU64,
}

impl fmt::Debug for SimLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLink").field("instance", &self.instance).finish_non_exhaustive()
    }
}

fn unexpected(answer: &Answer) -> RemoteError {
    RemoteError::Fault(format!("not the answer to that: {answer:?}").into())
}

fn fault(what: &str) -> RemoteError {
    RemoteError::Fault(what.into())
}

fn fields(held: &[(Bytes, Bytes)]) -> Result<Vec<SharedField>, RemoteError> {
    let field = |(name, held): &(Bytes, Bytes)| {
        let text = held.get(..Stamp::TEXT).and_then(|text| std::str::from_utf8(text).ok());
        Some(SharedField {
            name: String::from_utf8(name.to_vec()).ok()?,
            stamp: Stamp::parse(text?)?,
            value: held.slice(Stamp::TEXT..),
        })
    };
    held.iter().map(|held| field(held).ok_or_else(|| fault("a field without stamp"))).collect()
}

impl SimLink {
    pub fn new(world: &Arc<World>, instance: u32) -> Arc<Self> {
        Arc::new(Self { world: Arc::clone(world), instance, pushes: AtomicU64::new(0) })
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.world.mutant == Some(mutant)
    }

    fn swallows(&self) -> bool {
        self.is(Mutant::PushSwallowed) && self.pushes.fetch_add(1, Ordering::Relaxed) % 5 == 4
    }

    fn doc(&self, key: SessionKey, push: DocPush) -> Result<Merged, RemoteError> {
        if self.swallows() {
            return Ok(Merged { ended: false, news: push.fields.len(), fields: push.fields });
        }
        let offers = push.fields.into_iter().map(|field| Offer::new(field.name, field.stamp, field.value));
        let offer = DocOffer {
            fields: offers.collect(),
            ahead_ms: SKEW_MS,
            idle_ms: push.idle_ms,
            deadline_ms: push.deadline_ms,
        };
        match self.world.call(self.instance, Command::Doc(key, offer))? {
            Answer::Doc(DocAnswer::Merged { ended, news, fields: held }) => {
                Ok(Merged { ended, news: usize::try_from(news).unwrap_or(0), fields: fields(&held)? })
            }
            Answer::Doc(DocAnswer::Skew(now_ms)) => Err(RemoteError::Skew { now_ms }),
            Answer::Doc(DocAnswer::Fork(what)) => {
                Err(RemoteError::Fork { what: String::from_utf8_lossy(&what).into_owned() })
            }
            answer => Err(unexpected(&answer)),
        }
    }

    fn log(&self, key: SessionKey, push: LogPush) -> Result<Appended, RemoteError> {
        let last = (push.first + push.entries.len() as u64).saturating_sub(1);
        let foreign = push.origin.bits() != self.world.origin(self.instance);
        if (self.is(Mutant::HealOnlyOwn) && foreign) || self.swallows() {
            return Ok(Appended::Ok(last));
        }
        let run = Run {
            origin: push.origin,
            first: push.first,
            base: push.base,
            keep: LOG_ENTRIES,
            expires_ms: push.expires_ms,
            entries: push.entries,
        };
        match self.world.call(self.instance, Command::Log(key, run))? {
            Answer::Log(LogAnswer::Ok(high)) => Ok(Appended::Ok(high)),
            Answer::Log(LogAnswer::Known(high)) => Ok(Appended::Known(high)),
            Answer::Log(LogAnswer::Gap(high)) => Ok(Appended::Gap(high)),
            Answer::Log(LogAnswer::Fork(_)) => Err(RemoteError::Fork { what: push.origin.to_string() }),
            answer => Err(unexpected(&answer)),
        }
    }

    fn pull_log_now(&self, key: SessionKey, after: Option<Hint>) -> Result<SharedLog, RemoteError> {
        let behind = after.and_then(|hint| {
            let mut parts = hint.0.split('.').map(|part| part.parse::<u64>().ok());
            let (place, origin, number) = (parts.next()??, parts.next()??, parts.next()??);
            Some((place, Origin::from_bits(origin), number))
        });
        let content = self.world.read(self.instance, shard_of(key), |data, now_ms| {
            data.logs.get_mut(&key).map(|log| contract::log_read(log, now_ms, behind)).unwrap_or_default()
        })?;
        let last = content.entries.last();
        let hint = last.map(|last| format!("{}.{}.{}", last.place, last.origin.bits(), last.number));
        Ok(SharedLog {
            marks: content.marks.into_iter().map(|(origin, high, _)| (origin, high)).collect(),
            hint: Hint(hint.unwrap_or_default().into()),
            entries: content
                .entries
                .into_iter()
                .map(|entry| (entry.origin, entry.number, entry.bytes))
                .collect(),
        })
    }
}

fn now<T: Send + 'static>(result: Result<T, RemoteError>) -> Asked<'static, T> {
    Box::pin(std::future::ready(result))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Remote for SimLink {
    fn listen(&self, hear: Hear) {
        self.world.listen(self.instance, hear);
    }

    fn shard(&self, key: SessionKey) -> Shard {
        Shard(shard_of(key))
    }

    fn state(&self, shard: Shard) -> LinkState {
        self.world.state(self.instance, shard.0)
    }

    fn is_leased(&self, shard: Shard) -> bool {
        self.world.is_leased(self.instance, shard.0)
    }

    fn once(&self, field: &str, value: Bytes) -> Asked<'_, Bytes> {
        now(self
            .world
            .read(self.instance, 0, |data, _| data.meta.entry(field.to_owned()).or_insert(value).clone()))
    }

    fn meta(&self, field: &str) -> Asked<'_, Option<Bytes>> {
        now(self.world.read(self.instance, 0, |data, _| data.meta.get(field).cloned()))
    }

    fn instances(&self) -> Asked<'_, Vec<Origin>> {
        now(self.world.instances(self.instance))
    }

    fn is_alone(&self) -> bool {
        false
    }

    fn push_doc(&self, key: SessionKey, push: DocPush) -> Asked<'_, Merged> {
        now(self.doc(key, push))
    }

    fn pull_doc(&self, key: SessionKey) -> Asked<'_, Vec<SharedField>> {
        let held = self.world.read(self.instance, shard_of(key), |data, now_ms| {
            let doc = data.docs.get_mut(&key).and_then(|slot| slot.at(now_ms));
            doc.map(|doc| doc.iter().map(|(name, held)| (name.clone(), held.clone())).collect::<Vec<_>>())
        });
        now(held.and_then(|held| fields(&held.unwrap_or_default())))
    }

    fn push_log(&self, key: SessionKey, push: LogPush) -> Asked<'_, Appended> {
        now(self.log(key, push))
    }

    fn pull_log(&self, key: SessionKey, after: Option<Hint>) -> Asked<'_, SharedLog> {
        now(self.pull_log_now(key, after))
    }

    fn end_log(&self, key: SessionKey, expires_ms: u64) -> Asked<'_, ()> {
        now(match self.world.call(self.instance, Command::LogEnd(key, expires_ms)) {
            Ok(Answer::Done) => Ok(()),
            Ok(answer) => Err(unexpected(&answer)),
            Err(error) => Err(error),
        })
    }

    fn push_result(&self, key: SessionKey, name: &str, push: ResultPush) -> Asked<'_, Reported> {
        let ResultPush { outcome, ttl, again } = push;
        let command = Command::Result(key, name.to_owned(), outcome, millis(ttl), again);
        now(match self.world.call(self.instance, command) {
            Ok(Answer::Result(reported)) => Ok(reported),
            Ok(answer) => Err(unexpected(&answer)),
            Err(error) => Err(error),
        })
    }

    fn pull_result(&self, key: SessionKey, name: &str) -> Asked<'_, Option<(Outcome, Duration)>> {
        let name = name.to_owned();
        now(self.world.read(self.instance, shard_of(key), |data, now_ms| {
            let slot = data.results.get_mut(&(key, name))?;
            let held = slot.at(now_ms).cloned()?;
            let left_ms = slot.expires_ms().unwrap_or(u64::MAX).saturating_sub(now_ms);
            Some((held, Duration::from_millis(left_ms)))
        }))
    }

    fn lock(&self, name: &str, token: Token, ttl: Duration, step: LockStep) -> Asked<'_, LockTaken> {
        let (step, floor) = match step {
            LockStep::Take(floor) => (Step::Take, floor),
            LockStep::Renew => (Step::Renew, 0),
            LockStep::Drop => (Step::Drop, 0),
        };
        let command = Command::Lock(name.to_owned(), token, millis(ttl), step, floor);
        now(match self.world.call(self.instance, command) {
            Ok(Answer::Lock(Ok(fence))) => Ok(LockTaken::Done(fence)),
            Ok(Answer::Lock(Err(left_ms))) => Ok(LockTaken::Held(left_ms)),
            Ok(answer) => Err(unexpected(&answer)),
            Err(RemoteError::Away(_)) if self.is(Mutant::LockAlone) => {
                Ok(LockTaken::Done(self.world.now_ms() * 1_000))
            }
            Err(error) => Err(error),
        })
    }

    fn lock_state(&self, name: &str) -> Asked<'_, LockSeen> {
        let shard = shard_of_name(name);
        if self.state(Shard(shard)) != LinkState::Up {
            return now(Err(RemoteError::Away("its lock could not be taken either".into())));
        }
        let name = name.to_owned();
        now(self.world.read(self.instance, shard, |data, now_ms| {
            let slot = data.locks.entry(name).or_default();
            let (fence, left_ms) = outlast::state::contract::lock_look(slot, now_ms * 1_000);
            LockSeen { fence, left_ms }
        }))
    }

    fn cache_shard(&self) -> Shard {
        Shard(0)
    }

    fn cache_get(&self, key: &str) -> Asked<'_, Option<CachedValue>> {
        let key = key.to_owned();
        now(self.world.read(self.instance, 0, |data, now_ms| {
            let slot = data.values.get_mut(&key)?;
            let contract::Cached { made_ms, value } = slot.at(now_ms).cloned()?;
            let left_ms = slot.expires_ms()?.saturating_sub(now_ms);
            Some(CachedValue { made_ms, value, left: Duration::from_millis(left_ms) })
        }))
    }

    fn cache_put(&self, key: &str, made_ms: u64, value: Option<(Bytes, u64)>) -> Asked<'_, bool> {
        now(match self.world.call(self.instance, Command::Cache(key.to_owned(), made_ms, value)) {
            Ok(Answer::Cached(done)) => Ok(done),
            Ok(answer) => Err(unexpected(&answer)),
            Err(error) => Err(error),
        })
    }

    fn cache_void(&self, tags: Vec<String>) -> Asked<'_, ()> {
        let voiding = contract::Voiding {
            counting: Bytes::from_static(b"sim"),
            most: 1_000,
            ttl_ms: 1_000_000_000,
            tags: tags.into_iter().map(Bytes::from).collect(),
        };
        now(self.world.call(self.instance, Command::Void(voiding)).map(drop))
    }

    fn cache_voided(&self) -> Asked<'_, Option<Voided>> {
        now(self.world.read(self.instance, 0, |data, now_ms| data.voided.at(now_ms).cloned()))
    }
}
