//! The instances that share a Redis: signs of life, and what all of them must agree on.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::line::send;
use super::shared::Shared;
use super::{answer, script};
use crate::base::limits::INSTANCE_BEAT;
use crate::state::link::LinkState;
use crate::store::remote::RemoteError;

/// The form of what this version writes to Redis.
pub const FORMAT: u32 = 1;

/// What an instance says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its process start: an origin.
    pub origin: String,
    /// Where the others reach it; empty: nowhere.
    #[serde(default)]
    pub url: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// The form that it writes.
    #[serde(default)]
    pub format: u32,
    /// `serving` or `draining`.
    #[serde(default)]
    pub state: String,
    /// When it started, milliseconds since the epoch.
    #[serde(default)]
    pub started_ms: u64,
}

/// What the instance of this process says of itself.
pub(super) fn me(shared: &Shared, started_ms: u64) -> Instance {
    Instance {
        origin: shared.me.clone(),
        url: shared.settings.advertise_url.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        format: FORMAT,
        state: "serving".to_owned(),
        started_ms,
    }
}

/// Gives a sign of life, and hears who else gave one.
pub(super) async fn meet(shared: &Shared, me: &Instance) -> Result<Vec<Instance>, RemoteError> {
    let says = serde_json::to_vec(me).map_err(|error| RemoteError::Fault(error.to_string().into()))?;
    let call = script::beat(&shared.keys.instances(), &me.origin, &says, INSTANCE_BEAT.1);
    let beats = script::beats(shared.call(&call).await?)?;
    let mut found: Vec<Instance> =
        beats.iter().filter_map(|(_, says)| serde_json::from_slice(says).ok()).collect();
    found.sort_by(|a, b| (a.started_ms, &a.origin).cmp(&(b.started_ms, &b.origin)));
    shared.instances.store(Arc::new(found.clone()));
    Ok(found)
}

/// Gives signs of life for ever.
pub(super) async fn beat(shared: Arc<Shared>, me: Instance) {
    let every = INSTANCE_BEAT.0;
    // At first often, until one got through.
    let mut clock = interval(Duration::from_millis(250));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut through = false;
    loop {
        clock.tick().await;
        if meet(&shared, &me).await.is_ok() && !through {
            through = true;
            clock = interval(every);
            clock.tick().await;
        }
    }
}

/// Takes this instance out of the list.
pub(super) async fn leave(shared: &Shared) {
    let call = script::beat(&shared.keys.instances(), &shared.me, b"", INSTANCE_BEAT.1);
    let _ = shared.call(&call).await;
}

/// Whether what is in Redis may be written by this version; `Err`: no, and what to do.
pub(super) async fn agree(shared: &Shared, pipe: &super::dial::Pipe) -> Result<(), String> {
    let key = shared.keys.meta();
    let set = script::once(&key, "format", FORMAT.to_string().as_bytes());
    let asked = [set, script::field(&key, "min_writer")];
    let mut numbers = [0_u32; 2];
    for (call, number) in asked.iter().zip(&mut numbers) {
        // A server that refuses writes or is in the middle of a move answers later.
        let answer = tokio::time::timeout(shared.deadline(), send(pipe, call, false)).await;
        match answer {
            Ok(Ok(value)) => *number = answer::text(value).map_or(0, |text| text.parse().unwrap_or(0)),
            // What was said before stands.
            _ => return shared.refusal.load().as_ref().map_or(Ok(()), |refusal| Err(refusal.to_string())),
        }
    }
    let [format, least] = numbers;
    if least > FORMAT {
        return Err(format!(
            "a newer version has taken over `{}` in Redis (format {format}, and writers must know {least}; this one \
             knows {FORMAT}): update this instance, or give it another redis.prefix",
            shared.settings.prefix
        ));
    }
    Ok(())
}

/// Whether a link is not up.
pub(super) fn degraded(shared: &Shared) -> bool {
    shared.lines.load().iter().any(|line| line.place.borrow().is_some() && line.state() != LinkState::Up)
}
