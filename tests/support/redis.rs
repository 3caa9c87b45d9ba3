//! Private Redis servers for tests: single, with sentinels, as a cluster; on free loopback ports, with a directory of
//! their own, ended with the test. Commands go over a connection of their own, without any library of the server's.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// How often something is looked at until it is so,
const LOOKS: u32 = 1_500;
/// and the time in between.
const LOOK: Duration = Duration::from_millis(10);

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until it is so.
///
/// # Panics
/// When it does not become so.
pub fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let mut looks = 0;
    while !so() {
        looks += 1;
        assert!(looks < LOOKS, "waited in vain for {what}");
        std::thread::sleep(LOOK);
    }
}

/// One process of redis-server.
pub struct Redis {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    dir: TempDir,
    args: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// A server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A server with these settings beside the port: `&["--appendonly", "yes"]`.
    pub fn with(args: &[&str]) -> Self {
        let args = ["--save", "", "--appendonly", "no"].iter().chain(args);
        Self::launch(args.map(|arg| (*arg).to_owned()).collect())
    }

    fn launch(args: Vec<String>) -> Self {
        // Another process may take the port first: then with another one.
        for _ in 0..5 {
            let dir = tempfile::Builder::new().prefix("redis-").tempdir().unwrap();
            let mut redis = Self { port: free_port(), dir, args: args.clone(), child: None };
            if redis.spawn() {
                return redis;
            }
        }
        panic!("redis-server does not start; is it installed? arguments: {args:?}");
    }

    fn spawn(&mut self) -> bool {
        let mut child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
            .args(["--loglevel", "warning", "--dir"])
            .arg(self.dir.path())
            .args(["--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes"])
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(self.dir.path().join("log")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed for this test");
        for _ in 0..LOOKS {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if is_of(self.port, child.id()) {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(LOOK);
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Runs one command; bulk strings and numbers as text, lists one element per line, errors as `-CODE …`.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn command(&self, args: &[&str]) -> String {
        send(self.port, args).unwrap_or_else(|error| panic!("{args:?} to {}: {error}", self.port))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap().success());
    }

    /// Starts again on the same port after [`Self::kill`], with what it kept on disk.
    pub fn restart(&mut self) {
        self.kill();
        let port = self.port;
        wait_for(&format!("redis-server on port {port} again"), || self.spawn());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A primary, replicas, and three sentinels that watch them under the name `main`.
pub struct Watched {
    /// The servers; the first one began as the primary.
    pub servers: Vec<Redis>,
    /// The sentinels.
    pub sentinels: Vec<Redis>,
}

impl Watched {
    /// The name of the primary.
    pub const NAME: &'static str = "main";

    /// Starts all of them; a primary that is silent for `down_after` is replaced.
    pub fn start(replicas: usize, down_after: Duration) -> Self {
        let primary = Redis::start();
        let port = primary.port.to_string();
        let mut servers = vec![primary];
        for _ in 0..replicas {
            servers.push(Redis::with(&["--replicaof", "127.0.0.1", &port]));
        }
        for replica in &servers[1..] {
            wait_for("replication", || {
                replica.command(&["INFO", "replication"]).contains("master_link_status:up")
            });
        }
        let sentinels: Vec<Redis> = (0..3)
            .map(|_| {
                let dir = tempfile::Builder::new().prefix("sentinel-").tempdir().unwrap();
                let file = dir.path().join("sentinel.conf");
                let text = format!(
                    "sentinel monitor {name} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {name} {}\n\
                     sentinel failover-timeout {name} 6000\nsentinel parallel-syncs {name} 2\n",
                    down_after.as_millis(),
                    name = Self::NAME
                );
                std::fs::write(&file, text).unwrap();
                let mut sentinel = Redis { port: free_port(), dir, args: Vec::new(), child: None };
                sentinel.spawn_sentinel(&file);
                sentinel
            })
            .collect();
        let watched = Self { servers, sentinels };
        for sentinel in &watched.sentinels {
            wait_for("the sentinels to know each other", || {
                let text = sentinel.command(&["SENTINEL", "MASTER", Self::NAME]);
                let value = |name: &str| {
                    let mut lines = text.lines().skip_while(|line| *line != name);
                    lines.nth(1).map(str::to_owned)
                };
                value("num-other-sentinels").as_deref() == Some("2")
                    && value("num-slaves") == Some(replicas.to_string())
            });
        }
        watched
    }

    /// `redis+sentinel://…/main`.
    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/{}", hosts.join(","), Self::NAME)
    }

    /// The server that the sentinels name as the primary.
    pub fn primary(&self) -> &Redis {
        let at = self.primary_at();
        &self.servers[at]
    }

    /// The port of the primary, as the first sentinel that answers says.
    pub fn primary_port(&self) -> Option<u16> {
        let ask = |sentinel: &Redis| {
            let answer = send(sentinel.port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::NAME]).ok()?;
            answer.lines().nth(1)?.parse().ok()
        };
        self.sentinels.iter().find_map(ask)
    }

    /// Its place in `servers`.
    pub fn primary_at(&self) -> usize {
        let answer = self.sentinels[0].command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::NAME]);
        let port = answer.lines().nth(1).and_then(|port| port.parse::<u16>().ok());
        self.servers.iter().position(|server| Some(server.port) == port).expect("a primary of ours")
    }
}

impl Redis {
    fn spawn_sentinel(&mut self, file: &std::path::Path) {
        let child = Command::new("redis-server")
            .arg(file)
            .args([
                "--sentinel",
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--daemonize",
                "no",
            ])
            .args(["--dir"])
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed for this test");
        let (port, id) = (self.port, child.id());
        self.child = Some(child);
        wait_for("a sentinel", || is_of(port, id));
    }
}

/// Whether it is this process that answers on a port, and not one of another test that was quicker.
fn is_of(port: u16, process: u32) -> bool {
    // LOADING and NOAUTH are answers too, of which nobody can tell more.
    send(port, &["INFO", "server"])
        .is_ok_and(|said| !said.contains("process_id:") || said.contains(&format!("process_id:{process}\r")))
}

/// A cluster of masters without replicas; the slots are divided evenly.
pub struct Cluster {
    /// The masters.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Slots of a cluster.
    pub const SLOTS: usize = 16_384;

    /// Starts `masters` of them.
    pub fn start(masters: usize) -> Self {
        let nodes: Vec<Redis> = (0..masters).map(|_| Self::node()).collect();
        let cluster = Self { nodes };
        for (at, node) in cluster.nodes.iter().enumerate() {
            let from = at * Self::SLOTS / masters;
            let to = (at + 1) * Self::SLOTS / masters - 1;
            let added = node.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            assert_eq!(added, "OK");
        }
        for node in &cluster.nodes[1..] {
            cluster.meet(node);
        }
        cluster.settle();
        cluster
    }

    /// A node that belongs to no cluster yet.
    pub fn node() -> Redis {
        Redis::with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &free_port().to_string(),
            "--cluster-node-timeout",
            "1000",
            "--cluster-require-full-coverage",
            "no",
        ])
    }

    /// Introduces a node to the first one.
    pub fn meet(&self, node: &Redis) {
        let bus = node.command(&["CONFIG", "GET", "cluster-port"]);
        let bus = bus.lines().nth(1).expect("the port of the bus").to_owned();
        let met = self.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), &bus]);
        assert_eq!(met, "OK");
    }

    /// Waits until every node knows all of them and is well.
    pub fn settle(&self) {
        for node in &self.nodes {
            wait_for("the cluster", || {
                let info = node.command(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_known_nodes:{}", self.nodes.len()))
                    && info.contains("cluster_slots_assigned:16384")
            });
        }
    }

    /// `redis://` of all nodes.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis://{}", hosts.join(","))
    }

    /// A node's id.
    pub fn id(&self, node: usize) -> String {
        self.nodes[node].command(&["CLUSTER", "MYID"])
    }

    /// The node that has a slot, as the first one sees it.
    pub fn owner(&self, slot: u16) -> usize {
        let nodes = self.nodes[0].command(&["CLUSTER", "NODES"]);
        let has = |line: &&str| {
            line.split(' ').skip(8).any(|range| {
                let (from, to) = range.split_once('-').unwrap_or((range, range));
                matches!((from.parse::<u16>(), to.parse::<u16>()), (Ok(from), Ok(to)) if from <= slot && slot <= to)
            })
        };
        let line = nodes.lines().find(has).expect("somebody has the slot");
        let id = line.split(' ').next().expect("an id");
        (0..self.nodes.len()).find(|node| self.id(*node) == id).expect("a node of ours")
    }

    /// Begins to move a slot: keys that are not at the old node any more are asked for at the new one.
    pub fn begin_move(&self, slot: u16, to: usize) {
        let from = self.owner(slot);
        let slot = slot.to_string();
        let importing = self.nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        assert_eq!(importing, "OK");
        let migrating = self.nodes[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]);
        assert_eq!(migrating, "OK");
    }

    /// Moves at most `keys` keys of a slot that is on the move.
    pub fn move_keys(&self, slot: u16, to: usize, keys: usize) {
        let from = self.owner(slot);
        let found =
            self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &keys.to_string()]);
        let port = self.nodes[to].port.to_string();
        for key in found.lines().filter(|key| !key.is_empty()) {
            let moved = self.nodes[from].command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
            assert!(moved == "OK" || moved == "NOKEY", "{moved}");
        }
    }

    /// Ends the move: the slot is the new node's.
    pub fn end_move(&self, slot: u16, to: usize) {
        let (slot, id) = (slot.to_string(), self.id(to));
        // The new owner first, so that the slot has one at any time.
        for node in std::iter::once(&self.nodes[to]).chain(&self.nodes) {
            let _ = node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }
}

/// Sends one command over a connection of its own.
///
/// # Errors
/// When there is no server or no answer.
pub fn send(port: u16, args: &[&str]) -> std::io::Result<String> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut request = format!("*{}\r\n", args.len());
    for arg in args {
        request.push_str(&format!("${}\r\n{arg}\r\n", arg.len()));
    }
    (&stream).write_all(request.as_bytes())?;
    answer(&mut BufReader::new(stream))
}

fn answer(from: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let (kind, rest) = line.split_at(1);
    Ok(match kind {
        "$" => match rest.parse::<usize>() {
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                from.read_exact(&mut bytes)?;
                bytes.truncate(length);
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Err(_) => String::new(),
        },
        "*" => {
            let count = rest.parse::<usize>().unwrap_or(0);
            let items: std::io::Result<Vec<String>> = (0..count).map(|_| answer(from)).collect();
            items?.join("\n")
        }
        "-" => line.to_owned(),
        _ => rest.to_owned(),
    })
}
