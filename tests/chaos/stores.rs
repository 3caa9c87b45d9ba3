//! Several stores in this process, each with links of its own through a proxy of its own, against real Redis. Many
//! tasks use them at once.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outlast::base::clock::{Clock as _, SharedClock, SystemClock};
use outlast::base::ids::{SessionKey, parse_base36};
use outlast::base::seal::Keys;
use outlast::config;
use outlast::state::lock::Token;
use outlast::state::log::StreamName;
use outlast::store::Store;
use outlast::store::durable::Durable;
use outlast::store::memory::Memory;
use outlast::store::redis::Links;
use outlast::store::remote::LinkState;
use outlast::telemetry::metrics;
use tokio::task::JoinSet;

use super::failover::checker::{Settings, Summary, Verdict, check};
use super::failover::history::{self, History, Link, Record, SharedDoc, SharedRun, Stop, What};
use super::failover::instance::{Client, Common, Ground, Instance, Manners};
use super::failover::random::Random;
use super::proxy::Proxy;
use super::storm::Storm;
use super::topology::{Form, Topology};

const INSTANCES: usize = 3;
/// Tasks that use one instance.
const WORKERS: usize = 4;
/// Sessions in use at one time.
const SESSIONS: usize = 40;
/// A session is left alone after so many operations.
const USES: u64 = 160;
const LOG_ENTRIES: usize = 512;
const DAY_MS: u64 = 86_400_000;
/// How long instances may need to reach servers again that are well.
const PATIENCE: Duration = Duration::from_secs(100);

pub fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// How long one form of Redis is fought over.
pub fn span() -> Duration {
    let minutes = setting("CHAOS_MINUTES").map(|minutes| minutes * 60);
    Duration::from_secs(minutes.or_else(|| setting("CHAOS_SECONDS")).unwrap_or(25))
}

/// A session that is in use.
struct Used {
    uses: u64,
    results: BTreeMap<String, (u32, u64, bool)>,
    clients: Vec<Option<Client>>,
}

#[derive(Default)]
struct Pool {
    made: u32,
    used: BTreeMap<u32, Used>,
    /// Left alone; their clients wait for the end.
    left: BTreeMap<u32, Used>,
    ended: VecDeque<u32>,
    clients: u32,
}

struct RealGround {
    seed: u64,
    clock: Arc<SystemClock>,
    stores: Mutex<BTreeMap<u32, Arc<Store>>>,
}

impl Ground for RealGround {
    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    fn key(&self, s: u32) -> SessionKey {
        let mut random = Random::new(self.seed ^ (u64::from(s) << 32));
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&random.next().to_be_bytes());
        bytes[8..].copy_from_slice(&random.next().to_be_bytes());
        SessionKey::from_bytes(bytes)
    }

    fn link(&self, instance: u32, of: Result<SessionKey, &str>) -> Link {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let state = of.ok().and_then(|key| stores.get(&instance)?.link(key));
        match state {
            Some(LinkState::Up) => Link::Up,
            Some(LinkState::ReadOnly) => Link::ReadOnly,
            Some(LinkState::Down | LinkState::Isolated) => Link::Down,
            None => Link::Unknown,
        }
    }

    /// Nobody looks into Redis after every operation.
    fn has_field(&self, _key: SessionKey, _name: &str, _stamp: &str) -> bool {
        false
    }

    fn has_entry(&self, _key: SessionKey, _origin: u64, _seq: u64) -> bool {
        false
    }
}

/// A lock that somebody holds: instance, name, token, fence, holder.
type Grant = (u32, String, Token, u64, u64);

/// What is the same for everybody.
struct Yard {
    common: Arc<Common>,
    ground: Arc<RealGround>,
    pool: Mutex<Pool>,
    locks: Mutex<VecDeque<Grant>>,
    values: AtomicU64,
}

impl Yard {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn note(&self, what: What) {
        self.common.history.note(self.ground.now_ms(), what);
    }
}

/// A place where an instance runs: its disk outlives it.
struct Place {
    number: u32,
    disk: Arc<dyn Durable>,
    proxy: Arc<Proxy>,
    running: Option<Running>,
}

struct Running {
    instance: Arc<Instance>,
    links: Arc<Links>,
    tasks: JoinSet<()>,
}

fn stream(of: u64) -> StreamName {
    if of == 0 { StreamName::GET } else { StreamName::parse("abc234").unwrap() }
}

impl Place {
    async fn start(&mut self, yard: &Arc<Yard>, url: &str, cluster: bool, keys: &Keys, random: &mut Random) {
        let clock: SharedClock = Arc::<SystemClock>::clone(&yard.ground.clock);
        let sessions = config::Sessions {
            idle_ttl_seconds: 86_400,
            max_ttl_seconds: 7 * 86_400,
            ..config::Sessions::default()
        };
        let disk = Arc::clone(&self.disk);
        let store = Store::over(disk, keys.clone(), 4 << 20, &sessions, Arc::clone(&clock)).await.unwrap();
        let settings = config::Redis { url: self.proxy.url(url).into(), cluster, ..config::Redis::default() };
        let metrics = metrics::of_process().links.clone();
        let links = Arc::new(Links::new(&settings, store.origin(), LOG_ENTRIES, clock, metrics).unwrap());
        store.attach(Arc::<Links>::clone(&links) as _, true).await.unwrap();
        let origin = store.origin().bits();
        yard.ground
            .stores
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.number, Arc::clone(&store));
        yard.note(What::Start { instance: self.number, origin });
        let instance = Arc::new(Instance::new(
            self.number,
            Arc::clone(&store),
            Arc::clone(&yard.common),
            Arc::<Links>::clone(&links),
        ));
        let mut tasks = JoinSet::new();
        tasks.spawn(store.run_sharing());
        let looking = Arc::clone(&instance);
        tasks.spawn(async move {
            loop {
                looking.look_at_logs().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        for _ in 0..WORKERS {
            let worker = Worker {
                yard: Arc::clone(yard),
                instance: Arc::clone(&instance),
                random: Random::new(random.next()),
                pause_ms: setting("CHAOS_PAUSE_MS").unwrap_or(8),
            };
            tasks.spawn(worker.work());
        }
        self.running = Some(Running { instance, links, tasks });
    }

    /// As with SIGKILL: whatever is under way is never heard of again.
    async fn kill(&mut self, yard: &Yard, how: Stop) {
        let Some(mut running) = self.running.take() else { return };
        yard.ground.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        running.tasks.shutdown().await;
        yard.note(What::Stop { instance: self.number, how });
        drop(running.links);
        // The commit thread must be done with the disk before the next start reads it.
        let _ = running.instance.store.close().await;
    }
}

struct Worker {
    yard: Arc<Yard>,
    instance: Arc<Instance>,
    random: Random,
    /// Between two operations, milliseconds on average.
    pause_ms: u64,
}

impl Worker {
    async fn work(mut self) {
        // Until Redis is reached for the first time everything is as in an outage.
        loop {
            self.operate().await;
            tokio::time::sleep(Duration::from_millis(self.random.below(2 * self.pause_ms + 1))).await;
        }
    }

    fn session(&mut self) -> Option<u32> {
        let ended = self.random.one_in(16);
        let mut pool = self.yard.pool();
        if ended {
            let at = self.random.below(pool.ended.len() as u64) as usize;
            return pool.ended.get(at).copied();
        }
        let at = self.random.below(pool.used.len() as u64) as usize;
        let s = pool.used.keys().nth(at).copied()?;
        let over = pool.used.get_mut(&s).is_some_and(|used| {
            used.uses += 1;
            // A client that is away is given back to where its session is.
            used.uses > USES && used.clients.iter().all(Option::is_some)
        });
        if over && let Some(used) = pool.used.remove(&s) {
            pool.left.insert(s, used);
        }
        Some(s)
    }

    async fn operate(&mut self) {
        let few = self.yard.pool().used.len();
        if few < SESSIONS / 2 || (few < SESSIONS && self.random.one_in(12)) {
            return self.create().await;
        }
        let Some(s) = self.session() else { return };
        match self.random.below(100) {
            0..26 => {
                let field = format!("f{}", self.random.below(3));
                let value = (!self.random.one_in(12)).then(|| self.yard.value());
                self.instance.put(s, &field, value, None).await;
            }
            26..54 => {
                let (value, of, trim) = (self.yard.value(), self.random.below(3) / 2, self.random.one_in(8));
                self.instance.append(s, stream(of), value, trim).await;
            }
            54..66 => self.instance.read(s).await,
            66..69 => self.instance.read_log(s).await,
            69..86 => self.deliver(s).await,
            86..92 => self.report(s).await,
            92..98 => self.lock(s).await,
            _ => {
                let ends = self.random.one_in(2) && self.end(s);
                if ends {
                    self.instance.terminate(s).await;
                }
            }
        }
    }

    /// A session is ended by whoever finds all of its clients at home.
    fn end(&self, s: u32) -> bool {
        let mut pool = self.yard.pool();
        if !pool.used.get(&s).is_some_and(|used| used.clients.iter().all(Option::is_some)) {
            return false;
        }
        pool.used.remove(&s);
        pool.ended.push_back(s);
        if pool.ended.len() > 16 {
            pool.ended.pop_front();
        }
        true
    }

    async fn create(&mut self) {
        let s = {
            let mut pool = self.yard.pool();
            pool.made += 1;
            pool.made
        };
        let fields = (0..self.random.below(3)).map(|at| (format!("born{at}"), self.yard.value())).collect();
        if !self.instance.create(s, fields).await {
            return;
        }
        let mut clients = Vec::new();
        for of in 0..2 {
            let number = {
                let mut pool = self.yard.pool();
                pool.clients += 1;
                pool.clients
            };
            let client = Client { number, s, stream: stream(of), cursor: None };
            let stream = client.stream.as_str().to_owned();
            self.yard.note(What::Subscribed { client: number, s, stream });
            clients.push(Some(client));
        }
        self.yard.pool().used.insert(s, Used { uses: 0, results: BTreeMap::new(), clients });
    }

    async fn deliver(&mut self, s: u32) {
        let at = self.random.below(2) as usize;
        let taken = self.yard.pool().used.get_mut(&s).and_then(|used| used.clients.get_mut(at)?.take());
        let Some(client) = taken else { return };
        let mut lent = Lent { yard: Arc::clone(&self.yard), at, client: Some(client) };
        let max = 1 + self.random.below(12) as usize;
        if let Some(client) = &mut lent.client {
            self.instance.deliver(client, max).await;
        }
    }

    async fn report(&mut self, s: u32) {
        let name = format!("r{}", self.random.below(3));
        let (number, value) = (self.instance.number, self.yard.value());
        let (owner, rev, over) = {
            let mut pool = self.yard.pool();
            let Some(used) = pool.used.get_mut(&s) else { return };
            let held = used.results.entry(name.clone()).or_insert((number, 0, false));
            held.1 += 1;
            let now = *held;
            held.2 |= held.1 >= 3;
            now
        };
        if owner == number && !over {
            return self.instance.report(s, &name, 1, rev, rev >= 3, value).await;
        }
        if let Some((.., true, _)) = self.instance.read_result(s, &name).await {
            self.instance.report(s, &name, 9, rev, true, value).await;
        }
    }

    async fn lock(&mut self, s: u32) {
        if self.random.one_in(2) {
            let (name, holder) = (format!("all{}", self.random.below(4)), self.yard.value());
            let ttl = Duration::from_millis(20 + self.random.below(300));
            if let Some(token) = self.instance.lock_among_all(&name, ttl, holder).await {
                self.instance.unlock_among_all(&name, token, holder).await;
            }
            return;
        }
        let held = {
            let mut locks = self.yard.locks.lock().unwrap_or_else(PoisonError::into_inner);
            let own = locks.iter().position(|(of, ..)| *of == self.instance.number);
            own.filter(|_| self.random.one_in(2)).and_then(|at| locks.remove(at))
        };
        if let Some((_, name, token, fence, holder)) = held {
            let value = Some(self.yard.value());
            self.instance.put(s, "fenced", value, Some((name.clone(), fence))).await;
            return self.instance.unlock(&name, token, holder).await;
        }
        let (name, holder) = (format!("l{}", self.random.below(8)), self.yard.value());
        let ttl = Duration::from_millis(100 + self.random.below(1_500));
        if let Some((token, fence)) = self.instance.lock(&name, ttl, holder).await {
            let mut locks = self.yard.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.push_back((self.instance.number, name, token, fence, holder));
            if locks.len() > 64 {
                locks.pop_front();
            }
        }
    }
}

/// A client that somebody serves; it comes back whatever becomes of him.
struct Lent {
    yard: Arc<Yard>,
    at: usize,
    client: Option<Client>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        let mut pool = self.yard.pool();
        let Pool { used, left, .. } = &mut *pool;
        let home = used.get_mut(&client.s).or_else(|| left.get_mut(&client.s));
        if let Some(slot) = home.and_then(|used| used.clients.get_mut(self.at)) {
            *slot = Some(client);
        }
    }
}

/// What Redis itself has of a session.
fn look(topology: &Topology, key: SessionKey) -> (SharedDoc, Vec<SharedRun>) {
    const DOC: &str = "local r={} local a=redis.call('HGETALL',KEYS[1]) for i=1,#a,2 do \
                       r[#r+1]=a[i]..' '..string.sub(a[i+1],1,26) end return r";
    const LOG: &str = "local r={} for _,e in ipairs(redis.call('XRANGE',KEYS[1],'-','+')) do local o,q \
                       for i=1,#e[2],2 do if e[2][i]=='o' then o=e[2][i+1] elseif e[2][i]=='q' then q=e[2][i+1] end end \
                       r[#r+1]=o..' '..q end return r";
    const MARK: &str = "local r={} local a=redis.call('HGETALL',KEYS[1]) for i=1,#a,2 do \
                        r[#r+1]=a[i]..' '..a[i+1] end return r";
    let ask =
        |script: &str, kind: &str| topology.ask(&["EVAL", script, "1", &format!("mcp:{kind}:{{{key}}}")]);
    let pairs = |text: &str| -> Vec<(String, String)> {
        text.lines()
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect()
    };
    let fields = pairs(&ask(DOC, "session"));
    let doc = if fields.is_empty() {
        SharedDoc::None
    } else if fields.iter().any(|(name, _)| name == "~t") {
        SharedDoc::Ended
    } else {
        SharedDoc::Live(fields.into_iter().filter(|(name, _)| !name.starts_with('~')).collect())
    };
    let mut runs: BTreeMap<u64, SharedRun> = BTreeMap::new();
    let fresh = |origin| SharedRun { origin, mark: None, seqs: Vec::new() };
    let (log, marks) = (pairs(&ask(LOG, "log")), pairs(&ask(MARK, "mark")));
    if !log.is_empty() && !marks.is_empty() {
        for (origin, mark) in marks {
            let Some(origin) = parse_base36(&origin) else { continue };
            let mark = mark.split(':').next().and_then(|mark| mark.parse().ok());
            runs.entry(origin).or_insert_with(|| fresh(origin)).mark = mark;
        }
        for (origin, seq) in log {
            let (Some(origin), Ok(seq)) = (parse_base36(&origin), seq.parse()) else { continue };
            runs.entry(origin).or_insert_with(|| fresh(origin)).seqs.push(seq);
        }
    }
    (doc, runs.into_values().collect())
}

/// A whole run against one form of Redis: its history.
async fn run(form: Form, seed: u64) -> Vec<Record> {
    let mut random = Random::new(seed);
    let topology = tokio::task::spawn_blocking(move || Topology::start(form)).await.unwrap();
    let clock = Arc::new(SystemClock::default());
    let ground = Arc::new(RealGround { seed, clock: Arc::clone(&clock), stores: Mutex::default() });
    let history = Arc::new(History::in_memory());
    let common = Arc::new(Common {
        history: Arc::clone(&history),
        ground: Arc::<RealGround>::clone(&ground),
        manners: Manners::default(),
        deadline_ms: clock.now_ms() + 7 * DAY_MS,
        keep: 64,
    });
    let yard = Arc::new(Yard {
        common,
        ground,
        pool: Mutex::default(),
        locks: Mutex::default(),
        values: AtomicU64::new(0),
    });
    let (url, ports, keys) = (topology.url(), topology.ports(), Keys::generate());
    let cluster = form == Form::Cluster;
    let mut places: Vec<Place> = (0..INSTANCES)
        .map(|number| Place {
            number: number as u32,
            disk: Arc::new(Memory::default()),
            proxy: Arc::new(Proxy::start(&ports)),
            running: None,
        })
        .collect();
    for place in &mut places {
        place.start(&yard, &url, cluster, &keys, &mut random).await;
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut storm = Storm {
        topology,
        proxies: places.iter().map(|place| Arc::clone(&place.proxy)).collect(),
        history,
        clock,
        random: Random::new(seed ^ 0xf00d),
        rate: setting("CHAOS_RATE").unwrap_or(20),
        over: Arc::clone(&over),
        large: 0,
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let raging = std::thread::spawn(move || {
        storm.rage();
        storm
    });
    let end = tokio::time::Instant::now() + span();
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(400 + random.below(1_600))).await;
        // Also in the middle of a healing.
        let at = random.below(INSTANCES as u64) as usize;
        places[at].kill(&yard, Stop::Killed).await;
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        places[at].start(&yard, &url, cluster, &keys, &mut random).await;
    }
    over.store(true, Ordering::SeqCst);
    let storm = tokio::task::spawn_blocking(move || raging.join()).await.unwrap().unwrap();
    finish(&yard, &mut places, storm, &url, cluster, &keys, &mut random).await
}

async fn finish(
    yard: &Arc<Yard>,
    places: &mut [Place],
    storm: Storm,
    url: &str,
    cluster: bool,
    keys: &Keys,
    random: &mut Random,
) -> Vec<Record> {
    // Whoever works stops, and does not end in the middle of something.
    for place in places.iter_mut() {
        place.kill(yard, Stop::Closed).await;
    }
    for place in places.iter_mut() {
        place.start(yard, url, cluster, keys, random).await;
        if let Some(running) = &mut place.running {
            running.tasks.shutdown().await;
            running.tasks.spawn(Arc::clone(&running.instance.store).run_sharing());
            let looking = Arc::clone(&running.instance);
            running.tasks.spawn(async move {
                loop {
                    looking.look_at_logs().await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    }
    until_up(places).await;
    yard.note(What::Quiet);
    until_paid(yard, places).await;
    yard.note(What::Final);
    let made = yard.pool().made;
    let keys: Vec<(u32, SessionKey)> = (1..=made).map(|s| (s, yard.common.ground.key(s))).collect();
    let looking = Arc::clone(yard);
    let storm = tokio::task::spawn_blocking(move || {
        for (s, key) in keys {
            let (doc, log) = look(&storm.topology, key);
            looking.note(What::Shared { s, doc, log });
        }
        storm
    })
    .await
    .unwrap();
    let (used, left) = {
        let mut pool = yard.pool();
        (std::mem::take(&mut pool.used), std::mem::take(&mut pool.left))
    };
    let mut known: BTreeMap<u32, Used> = used;
    known.extend(left);
    for s in 1..=made {
        let names: Vec<String> =
            known.get(&s).map(|used| used.results.keys().cloned().collect()).unwrap_or_default();
        for place in places.iter() {
            read_at_last(yard, place, places, s, &names).await;
        }
        for client in known.get_mut(&s).into_iter().flat_map(|used| used.clients.iter_mut().flatten()) {
            for round in 0..30 {
                let at = (round + client.number as usize) % INSTANCES;
                let Some(running) = places.get(at).and_then(|place| place.running.as_ref()) else { continue };
                if running.instance.deliver(client, 200).await == 0 && round >= 2 {
                    break;
                }
            }
        }
    }
    for place in places {
        if let Some(mut running) = place.running.take() {
            running.tasks.shutdown().await;
            running.links.close().await;
        }
    }
    drop(storm);
    yard.common.history.take()
}

/// The links that are not up, or of which it is not known that they tell; with who knows of none.
fn not_up(places: &[Place]) -> Vec<String> {
    let mut found = Vec::new();
    for running in places.iter().filter_map(|place| place.running.as_ref()) {
        let (number, links) = (running.instance.number, running.links.status().links);
        if links.is_empty() {
            found.push(format!("instance {number} knows of no link"));
        }
        let down = links.iter().filter(|link| !link.leased);
        found.extend(down.map(|link| format!("instance {number}: {link:?}")));
    }
    found
}

/// Waits until all are up. True if they were.
async fn until_up(places: &[Place]) -> bool {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut were = true;
    loop {
        let down = not_up(places);
        if down.is_empty() {
            return were;
        }
        were = false;
        assert!(tokio::time::Instant::now() < until, "the links do not come up again: {down:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until nobody owes anything any more, for a while on end, during which no link was down.
async fn until_paid(yard: &Yard, places: &[Place]) {
    let until = tokio::time::Instant::now() + 2 * PATIENCE;
    let (mut calm, mut falls) = (0, 0);
    while calm < 15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if !until_up(places).await {
            // A machine that does other things besides: the time for healing begins anew, but not without end.
            falls += 1;
            assert!(falls <= 5, "links fall again and again though nobody does anything to them");
            yard.note(What::Quiet);
            calm = 0;
        }
        let mut owing = Vec::new();
        for running in places.iter().filter_map(|place| place.running.as_ref()) {
            let store = &running.instance.store;
            let status = store.sharing_status().unwrap_or_default();
            // An audit offers all that is held.
            let audited = if status.auditing { store.sessions() as u64 } else { 0 };
            let sessions = (store.owed() as u64).max(u64::from(status.more_on_disk)).max(audited);
            yard.note(What::Owes { instance: running.instance.number, sessions });
            if sessions > 0 {
                owing.push((running.instance.number, status));
            }
        }
        calm = if owing.is_empty() { calm + 1 } else { 0 };
        assert!(tokio::time::Instant::now() < until, "still owed: {owing:#?}");
    }
}

/// Reads a session on an instance, once more if its link was down meanwhile: that would say nothing.
async fn read_at_last(yard: &Yard, place: &Place, places: &[Place], s: u32, names: &[String]) {
    let Some(running) = &place.running else { return };
    let key = Ok(yard.common.ground.key(s));
    for _ in 0..5 {
        until_up(places).await;
        let instance = &running.instance;
        instance.read(s).await;
        instance.read_log(s).await;
        for name in names {
            instance.read_result(s, name).await;
        }
        if yard.common.ground.link(place.number, key).is_up() {
            return;
        }
    }
}

fn settings() -> Settings {
    // On a machine that does other things besides, and without optimization.
    Settings { log_entries: LOG_ENTRIES, heal_per_second: 50, ..Settings::default() }
}

/// At least so many of each per second of a run.
const FLOORS: &[(&str, u64)] =
    &[("put", 20), ("append", 20), ("read", 10), ("delivered", 20), ("resumed", 10)];

#[expect(clippy::print_stderr, reason = "a run says what it was")]
fn weather(form: Form) {
    let seed = setting("CHAOS_SEED").unwrap_or_else(|| SystemClock::default().now_ms() % 1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bound = span() * 2 + Duration::from_secs(600);
    let history = runtime.block_on(async { tokio::time::timeout(bound, run(form, seed)).await });
    let history =
        history.unwrap_or_else(|_| panic!("CHAOS_SEED={seed} against {}: no end in sight", form.name()));
    drop(runtime);
    let seconds = span().as_secs();
    let mut floors: Vec<(&str, u64)> =
        FLOORS.iter().map(|(name, each)| (*name, each * seconds / 2)).collect();
    for kind in
        ["create", "terminate", "report", "lock", "read_log", "fault:cut", "fault:reply_loss", "fault:crash"]
    {
        floors.push((kind, seconds / 10));
    }
    match check(&history, &settings(), &floors) {
        Verdict::Sound(summary) => eprintln!("{} seed {seed}, {seconds} s: {summary}", form.name()),
        verdict => {
            let path =
                Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}-{seed}.jsonl", form.name()));
            history::keep(&path, &history);
            let summary: Summary = verdict_summary(&history);
            panic!(
                "CHAOS_SEED={seed} against {}: {verdict}\nhistory: {}\n{summary}",
                form.name(),
                path.display()
            );
        }
    }
}

/// What was in a run that is not sound.
fn verdict_summary(history: &[Record]) -> Summary {
    let mut summary = Summary::default();
    for record in history {
        if let What::Fault { kind, .. } = &record.what {
            *summary.counts.entry(format!("fault:{kind}")).or_default() += 1;
        }
    }
    summary
}

#[test]
fn against_a_single_server_no_word_is_broken() {
    weather(Form::Single);
}

#[test]
fn against_servers_with_sentinels_no_word_is_broken() {
    weather(Form::Sentinel);
}

#[test]
fn against_a_cluster_no_word_is_broken() {
    weather(Form::Cluster);
}

#[test]
fn a_history_that_was_kept_is_judged_again() {
    let Some(path) = std::env::var_os("CHAOS_HISTORY") else { return };
    let verdict = check(&history::read(Path::new(&path)), &settings(), &[]);
    assert!(matches!(verdict, Verdict::Sound(_)), "{verdict}");
}
