//! Real Redis processes in the three forms in which they are run, and what is done to them.

use std::time::Duration;

use super::failover::random::Random;
use super::redis::{Cluster, Redis, Watched, send};

/// In which form Redis is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Single,
    Sentinel,
    Cluster,
}

impl Form {
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Sentinel => "sentinel",
            Self::Cluster => "cluster",
        }
    }
}

pub enum Topology {
    /// Keeps what it has on disk, so that a restart may find it.
    Single(Box<Redis>),
    Sentinel(Watched),
    Cluster(Cluster),
}

/// What is done to servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL, and a start with what is on the disk.
    Kill,
    /// SIGKILL, and a start with nothing.
    RestartEmpty,
    /// SIGSTOP for so many milliseconds.
    Pause(u64),
    FlushAll,
    ScriptFlush,
    /// No memory for so many milliseconds.
    Oom(u64),
    /// One of our keys is gone.
    Evict,
    /// All connections of clients end.
    ClientKill,
    /// Nobody may execute scripts, for so many milliseconds.
    AclChange(u64),
    /// A replica that does not have everything takes over.
    LossyFailover(u64),
    /// A slot with our keys moves to another node.
    MoveSlot,
}

impl Blow {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::RestartEmpty => "restart_empty",
            Self::Pause(_) => "pause",
            Self::FlushAll => "flushall",
            Self::ScriptFlush => "script_flush",
            Self::Oom(_) => "oom",
            Self::Evict => "evict",
            Self::ClientKill => "client_kill",
            Self::AclChange(_) => "acl_change",
            Self::LossyFailover(_) => "lossy_failover",
            Self::MoveSlot => "slot_move",
        }
    }

    /// Whether something that was there may be gone.
    pub fn loses(self, form: Form) -> bool {
        match self {
            Self::RestartEmpty | Self::FlushAll | Self::Evict | Self::LossyFailover(_) => true,
            // Only the single server writes everything down.
            Self::Kill => form != Form::Single,
            Self::Pause(ms) => form == Form::Sentinel && ms > 800,
            _ => false,
        }
    }
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// A command to a server that may be away.
fn tell(port: u16, args: &[&str]) -> String {
    send(port, args).unwrap_or_default()
}

impl Topology {
    pub fn start(form: Form) -> Self {
        match form {
            Form::Single => {
                Self::Single(Box::new(Redis::with(&["--appendonly", "yes", "--appendfsync", "always"])))
            }
            Form::Sentinel => Self::Sentinel(Watched::start(2, Duration::from_millis(700))),
            Form::Cluster => Self::Cluster(Cluster::start(3)),
        }
    }

    pub fn form(&self) -> Form {
        match self {
            Self::Single(_) => Form::Single,
            Self::Sentinel(_) => Form::Sentinel,
            Self::Cluster(_) => Form::Cluster,
        }
    }

    pub fn url(&self) -> String {
        match self {
            Self::Single(redis) => redis.url(),
            Self::Sentinel(watched) => watched.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    /// Every port that an instance may want to reach.
    pub fn ports(&self) -> Vec<u16> {
        match self {
            Self::Single(redis) => vec![redis.port],
            Self::Sentinel(watched) => {
                watched.servers.iter().chain(&watched.sentinels).map(|redis| redis.port).collect()
            }
            Self::Cluster(cluster) => cluster.nodes.iter().map(|node| node.port).collect(),
        }
    }

    fn servers(&self) -> Vec<&Redis> {
        match self {
            Self::Single(redis) => vec![redis],
            Self::Sentinel(watched) => watched.servers.iter().collect(),
            Self::Cluster(cluster) => cluster.nodes.iter().collect(),
        }
    }

    fn server_mut(&mut self, at: usize) -> &mut Redis {
        match self {
            Self::Single(redis) => redis,
            Self::Sentinel(watched) => &mut watched.servers[at],
            Self::Cluster(cluster) => &mut cluster.nodes[at],
        }
    }

    /// The servers that take writes now, by place.
    fn primaries(&self) -> Vec<usize> {
        let servers = self.servers();
        let is_primary =
            |at: &usize| tell(servers[*at].port, &["INFO", "replication"]).contains("role:master");
        (0..servers.len()).filter(is_primary).collect()
    }

    /// Ports of the servers that take writes now.
    pub fn primary_ports(&self) -> Vec<u16> {
        let servers = self.servers();
        match self {
            Self::Sentinel(watched) => vec![watched.primary().port],
            _ => servers.iter().map(|server| server.port).collect(),
        }
    }

    fn pick(&self, random: &mut Random) -> usize {
        let primaries = self.primaries();
        match primaries.is_empty() {
            true => 0,
            false => primaries[random.below(primaries.len() as u64) as usize],
        }
    }

    /// Does it, and waits until it is over where it has an end. False: it cannot be done here.
    pub fn strike(&mut self, blow: Blow, random: &mut Random) -> bool {
        let form = self.form();
        let at = self.pick(random);
        let port = self.servers()[at].port;
        match blow {
            Blow::Kill => {
                self.server_mut(at).kill();
                sleep_ms(random.below(400));
                self.server_mut(at).restart();
                self.await_primary();
            }
            Blow::RestartEmpty => {
                let dir = self.servers()[at].dir();
                self.server_mut(at).kill();
                let _ = std::fs::remove_dir_all(dir.join("appendonlydir"));
                let _ = std::fs::remove_file(dir.join("dump.rdb"));
                self.server_mut(at).restart();
                self.await_primary();
            }
            Blow::Pause(ms) => {
                self.servers()[at].pause();
                sleep_ms(ms);
                self.servers()[at].resume();
                self.await_primary();
            }
            Blow::FlushAll => drop(tell(port, &["FLUSHALL"])),
            Blow::ScriptFlush => drop(tell(port, &["SCRIPT", "FLUSH"])),
            Blow::ClientKill => drop(tell(port, &["CLIENT", "KILL", "TYPE", "normal"])),
            Blow::Oom(ms) => {
                tell(port, &["CONFIG", "SET", "maxmemory", "1"]);
                sleep_ms(ms);
                tell(port, &["CONFIG", "SET", "maxmemory", "0"]);
            }
            Blow::Evict => {
                for _ in 0..8 {
                    let key = tell(port, &["RANDOMKEY"]);
                    if [":session:", ":log:", ":mark:"].iter().any(|kind| key.contains(kind)) {
                        tell(port, &["DEL", &key]);
                        return true;
                    }
                }
                return false;
            }
            Blow::AclChange(ms) => {
                tell(port, &["ACL", "SETUSER", "default", "-eval", "-evalsha", "-fcall"]);
                sleep_ms(ms);
                tell(port, &["ACL", "SETUSER", "default", "+@all"]);
            }
            Blow::LossyFailover(ms) => {
                let Self::Sentinel(watched) = self else { return false };
                // The replicas hear nothing more of the primary, which goes on for a while.
                for (other, replica) in watched.servers.iter().enumerate() {
                    if other != at {
                        tell(replica.port, &["REPLICAOF", "127.0.0.1", "1"]);
                    }
                }
                sleep_ms(ms);
                watched.servers[at].kill();
                let old = watched.servers[at].port;
                // Until a replica has taken over: the old one would come back with nothing and be obeyed.
                for _ in 0..600 {
                    if watched.primary_port() != Some(old) {
                        break;
                    }
                    sleep_ms(20);
                }
                watched.servers[at].restart();
                self.await_primary();
            }
            Blow::MoveSlot => {
                let Self::Cluster(cluster) = self else { return false };
                let key = tell(port, &["RANDOMKEY"]);
                let slot = tell(port, &["CLUSTER", "KEYSLOT", &key]).parse::<u16>();
                let Ok(slot) = slot else { return false };
                let to = (cluster.owner(slot) + 1) % cluster.nodes.len();
                cluster.begin_move(slot, to);
                sleep_ms(random.below(150));
                cluster.move_keys(slot, to, 1);
                sleep_ms(random.below(150));
                cluster.move_keys(slot, to, 10_000);
                cluster.end_move(slot, to);
            }
        }
        let _ = form;
        true
    }

    /// Waits until somebody takes writes again; where there are sentinels, until all servers follow one of them.
    fn await_primary(&self) {
        match self {
            Self::Single(redis) => {
                super::redis::wait_for("the server", || tell(redis.port, &["PING"]) == "PONG");
            }
            Self::Sentinel(watched) => {
                for _ in 0..1_000 {
                    let writes = watched
                        .primary_port()
                        .is_some_and(|port| tell(port, &["INFO", "replication"]).contains("role:master"));
                    if writes {
                        return;
                    }
                    sleep_ms(20);
                }
            }
            Self::Cluster(cluster) => {
                for node in &cluster.nodes {
                    super::redis::wait_for("the cluster", || {
                        tell(node.port, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    });
                }
            }
        }
    }

    /// Waits until everything is well, as far as servers are concerned.
    pub fn settle(&self) {
        self.await_primary();
        for server in self.servers() {
            tell(server.port, &["CONFIG", "SET", "maxmemory", "0"]);
            tell(server.port, &["ACL", "SETUSER", "default", "+@all"]);
        }
        if let Self::Sentinel(watched) = self {
            // One primary, and the others have all that it has.
            for _ in 0..1_500 {
                let primary = watched.primary_port();
                let follows = |server: &Redis| {
                    let info = tell(server.port, &["INFO", "replication"]);
                    let of = primary.map(|port| format!("master_port:{port}"));
                    Some(server.port) == primary
                        || (of.is_some_and(|of| info.contains(&of)) && info.contains("master_link_status:up"))
                };
                if watched.servers.iter().all(follows) {
                    return;
                }
                sleep_ms(20);
            }
            panic!("the replicas do not follow the primary again");
        }
    }

    /// Runs one command on whoever has a key, following where a cluster points.
    pub fn ask(&self, args: &[&str]) -> String {
        let mut port = self.primary_ports()[0];
        for _ in 0..5 {
            let answer = tell(port, args);
            match answer.strip_prefix("-MOVED ").and_then(|rest| rest.rsplit(':').next()) {
                Some(moved) => port = moved.trim().parse().unwrap_or(port),
                None => return answer,
            }
        }
        String::new()
    }
}
