//! What is known of the links, for operators.

use serde::Serialize;

use super::instances::Instance;

/// What a server said of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) address: String,
    pub(super) version: String,
    pub(super) run_id: String,
    pub(super) replid: String,
    pub(super) role: String,
    pub(super) policy: String,
    pub(super) replicas: u64,
    pub(super) used_memory: u64,
    pub(super) max_memory: u64,
    /// Its clock less ours, milliseconds.
    pub(super) offset_ms: Option<i64>,
    /// The round trip of the last probe, microseconds.
    pub(super) round_trip_us: Option<u64>,
}

impl Facts {
    /// Takes in what `INFO` says.
    pub(super) fn read(&mut self, info: &str) {
        for (name, value) in info.lines().filter_map(|line| line.trim_end().split_once(':')) {
            let number = || value.parse().unwrap_or(0);
            match name {
                "redis_version" => value.clone_into(&mut self.version),
                "run_id" => value.clone_into(&mut self.run_id),
                "master_replid" => value.clone_into(&mut self.replid),
                "role" => value.clone_into(&mut self.role),
                "maxmemory_policy" => value.clone_into(&mut self.policy),
                "connected_slaves" => self.replicas = number(),
                "used_memory" => self.used_memory = number(),
                "maxmemory" => self.max_memory = number(),
                _ => {}
            }
        }
    }

    /// Why a server that says this is not served, and what to do.
    pub(super) fn unfit(&self, allow_eviction: bool) -> Option<String> {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if !self.version.is_empty() && version < (6, 2) {
            return Some(format!("Redis is version {}; 6.2 or later is needed: update it", self.version));
        }
        if !self.policy.is_empty() && self.policy != "noeviction" && !allow_eviction {
            return Some(format!(
                "maxmemory-policy of Redis is {}: it would throw live sessions away; set it to noeviction, or say \
                 redis.allow_eviction = true",
                self.policy
            ));
        }
        None
    }
}

/// One link.
#[derive(Clone, Debug, Serialize)]
pub struct LinkStatus {
    /// The shard's number.
    pub shard: u16,
    /// `up`, `read_only`, `down` or `isolated`.
    pub state: &'static str,
    /// Why.
    pub reason: &'static str,
    /// Since when, milliseconds since the epoch.
    pub since_ms: u64,
    /// What is wrong and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The server's address; empty: not known yet.
    pub address: String,
    /// Its version.
    pub version: String,
    /// `master` or `slave`, as it says itself.
    pub role: String,
    /// It is another one after a restart.
    pub run_id: String,
    /// Replicas that it has.
    pub replicas: u64,
    /// What it does when its memory is full.
    pub policy: String,
    /// Memory that it uses, bytes.
    pub used_memory: u64,
    /// Memory that it may use, bytes; 0: all.
    pub max_memory: u64,
    /// Its clock less ours, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<i64>,
    /// The clocks are more than 5 s apart: set the clock of this machine, or of that one.
    pub skewed: bool,
    /// The age of the last write that was heard of, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_age_ms: Option<u64>,
    /// Whether what is held in memory counts without asking.
    pub leased: bool,
    /// The round trip of the last probe, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<f64>,
    /// Before this many milliseconds are over it is not tried again.
    pub pause_ms: u64,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct LinksStatus {
    /// `single`, `sentinel` or `cluster`.
    pub kind: &'static str,
    /// What all keys begin with.
    pub prefix: String,
    /// One per shard.
    pub links: Vec<LinkStatus>,
    /// Instances that gave a sign of life, this one included.
    pub instances: Vec<Instance>,
    /// What is wrong beside the links, and what to do.
    pub problems: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_and_one_that_evicts_are_named() {
        let of = |info: &str| {
            let mut facts = Facts::default();
            facts.read(info);
            facts
        };
        let facts = of(
            "# Server\r\nredis_version:7.0.15\r\nrun_id:ab\r\nmaxmemory_policy:noeviction\r\nmaxmemory:7\r\n",
        );
        assert_eq!((facts.unfit(false), facts.run_id.as_str(), facts.max_memory), (None, "ab", 7));
        assert!(of("redis_version:6.0.9").unfit(false).is_some_and(|text| text.contains("6.2 or later")));
        let facts = of("redis_version:8.0.0\r\nmaxmemory_policy:volatile-lru");
        assert!(facts.unfit(false).is_some_and(|text| text.contains("noeviction")));
        assert_eq!(facts.unfit(true), None);
        assert_eq!(of("").unfit(false), None);
    }
}
