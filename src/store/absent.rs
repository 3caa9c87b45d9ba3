//! A shared store that is away for as long as the process runs: for whoever writes to the data directory of an instance
//! that shares what it holds, and reaches nobody. What is written is owed, and paid when the instance runs again.

use std::time::Duration;

use bytes::Bytes;

use super::remote::{
    Appended, Asked, CachedValue, DocPush, Hear, Hint, LinkState, LockSeen, LockStep, LockTaken, LogPush,
    Merged, Remote, RemoteError, ResultPush, Shard, SharedField, SharedLog, Voided,
};
use crate::base::ids::{Origin, SessionKey};
use crate::state::lock::Token;
use crate::state::result::{Outcome, Reported};

/// Nobody is there.
#[derive(Debug)]
pub struct Absent;

fn away<'a, T: Send + 'a>() -> Asked<'a, T> {
    Box::pin(std::future::ready(Err(RemoteError::Away("no server runs here".into()))))
}

impl Remote for Absent {
    fn listen(&self, _hear: Hear) {}

    fn shard(&self, _key: SessionKey) -> Shard {
        Shard(0)
    }

    fn state(&self, _shard: Shard) -> LinkState {
        LinkState::Down
    }

    fn is_leased(&self, _shard: Shard) -> bool {
        false
    }

    fn once(&self, _field: &str, _value: Bytes) -> Asked<'_, Bytes> {
        away()
    }

    fn meta(&self, _field: &str) -> Asked<'_, Option<Bytes>> {
        away()
    }

    fn instances(&self) -> Asked<'_, Vec<Origin>> {
        away()
    }

    fn is_alone(&self) -> bool {
        true
    }

    fn push_doc(&self, _key: SessionKey, _push: DocPush) -> Asked<'_, Merged> {
        away()
    }

    fn pull_doc(&self, _key: SessionKey) -> Asked<'_, Vec<SharedField>> {
        away()
    }

    fn push_log(&self, _key: SessionKey, _push: LogPush) -> Asked<'_, Appended> {
        away()
    }

    fn pull_log(&self, _key: SessionKey, _after: Option<Hint>) -> Asked<'_, SharedLog> {
        away()
    }

    fn end_log(&self, _key: SessionKey, _expires_ms: u64) -> Asked<'_, ()> {
        away()
    }

    fn push_result(&self, _key: SessionKey, _name: &str, _push: ResultPush) -> Asked<'_, Reported> {
        away()
    }

    fn pull_result(&self, _key: SessionKey, _name: &str) -> Asked<'_, Option<(Outcome, Duration)>> {
        away()
    }

    fn lock(&self, _name: &str, _token: Token, _ttl: Duration, _step: LockStep) -> Asked<'_, LockTaken> {
        away()
    }

    fn lock_state(&self, _name: &str) -> Asked<'_, LockSeen> {
        away()
    }

    fn cache_shard(&self) -> Shard {
        Shard(0)
    }

    fn cache_get(&self, _key: &str) -> Asked<'_, Option<CachedValue>> {
        away()
    }

    fn cache_put(&self, _key: &str, _made_ms: u64, _value: Option<(Bytes, u64)>) -> Asked<'_, bool> {
        away()
    }

    fn cache_void(&self, _tags: Vec<String>) -> Asked<'_, ()> {
        away()
    }

    fn cache_voided(&self) -> Asked<'_, Option<Voided>> {
        away()
    }
}
