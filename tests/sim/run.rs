//! One run: operations on instances, faults in between, a quiet period, and the final read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outlast::base::clock::{Clock, SharedClock};
use outlast::base::ids::SessionKey;
use outlast::base::seal::Keys;
use outlast::config;
use outlast::state::log::StreamName;
use outlast::store::Store;
use outlast::store::durable::Durable;

use super::disk::Disk;
use super::failover::history::{History, Link, Record, Stop, What};
use super::failover::instance::{Client, Common, Ground, Instance, Manners};
use super::failover::random::Random;
use super::mutants::Mutant;
use super::remote::{LOG_ENTRIES, SimLink};
use super::world::{SHARDS, World, shard_of};

pub const INSTANCES: u32 = 3;
pub const START_MS: u64 = 1_700_000_000_000;
const DAY_MS: u64 = 86_400_000;
/// Sessions that live at one time.
const SESSIONS: usize = 14;
/// Faults that are there at one time.
const FAULTS: usize = 3;
/// A client comes so often at most to take what is left: far more often than it takes.
const DRAIN: u32 = 40;
/// Steps of the quiet period, each a tenth of a second.
const HEAL_STEPS: u32 = 400;

/// The clock of one instance: true time, and what it is off by.
pub struct SimClock {
    pub world: Arc<World>,
    pub off_ms: Arc<AtomicI64>,
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        self.world.now_ms().saturating_add_signed(self.off_ms.load(Ordering::SeqCst))
    }

    fn monotonic_ms(&self) -> u64 {
        self.world.now_ms() - START_MS
    }
}

struct SimGround {
    world: Arc<World>,
    seed: u64,
}

impl Ground for SimGround {
    fn now_ms(&self) -> u64 {
        self.world.now_ms()
    }

    fn key(&self, s: u32) -> SessionKey {
        let mut random = Random::new(self.seed ^ (u64::from(s) << 32));
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&random.next().to_be_bytes());
        bytes[8..].copy_from_slice(&random.next().to_be_bytes());
        SessionKey::from_bytes(bytes)
    }

    fn link(&self, instance: u32, of: Result<SessionKey, &str>) -> Link {
        self.world.link(instance, of.map_or_else(super::world::shard_of_name, shard_of))
    }

    fn has_field(&self, key: SessionKey, name: &str, stamp: &str) -> bool {
        self.world.has_field(key, name, stamp)
    }

    fn has_entry(&self, key: SessionKey, origin: u64, seq: u64) -> bool {
        self.world.has_entry(key, origin, seq)
    }
}

/// A place where an instance runs, or could.
struct Place {
    disk: Arc<Disk>,
    off_ms: Arc<AtomicI64>,
    instance: Option<Instance>,
    /// It starts again at this step.
    back_at: u64,
}

/// Something that is wrong now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ill {
    Cut(u32, u16),
    Deaf(u32, u16),
    Unreliable(u32, u16),
    Slow(u32, u16),
    Away(u16),
    Refuses(u16),
    Lagging(u16),
}

/// What the workload knows of a session.
struct Known {
    fields: u64,
    results: BTreeMap<String, (u32, u64, bool)>,
    clients: Vec<Client>,
}

pub struct Sim {
    random: Random,
    world: Arc<World>,
    common: Arc<Common>,
    keys: Keys,
    mutant: Option<Mutant>,
    places: Vec<Place>,
    sessions: BTreeMap<u32, Known>,
    ended: BTreeSet<u32>,
    made: u32,
    values: u64,
    clients: u32,
    ills: BTreeMap<Ill, u64>,
    locks: BTreeMap<u64, (u32, String, outlast::state::lock::Token, u64)>,
    step: u64,
    /// In such a run disks die, and the shared store loses nothing: both together nobody survives.
    disks_die: bool,
    /// What went wrong with the run itself.
    trouble: Mutex<Option<String>>,
}

fn stream(of: u64) -> StreamName {
    if of == 0 { StreamName::GET } else { StreamName::parse("abc234").unwrap() }
}

impl Sim {
    pub fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let world = World::new(seed, START_MS, mutant);
        let ground = Arc::new(SimGround { world: Arc::clone(&world), seed });
        let is = |other| mutant == Some(other);
        let manners = Manners {
            cursor_from_instance: is(Mutant::CursorFromInstance),
            cursor_forgotten: is(Mutant::CursorForgotten),
            not_found_while_down: is(Mutant::NotFoundWhileDown),
            gap_untold: is(Mutant::GapUntold),
        };
        let common = Arc::new(Common {
            history: Arc::new(History::in_memory()),
            ground,
            manners,
            deadline_ms: START_MS + 7 * DAY_MS,
            keep: 12,
        });
        let place = |_| Place {
            disk: Arc::new(Disk::empty(mutant)),
            off_ms: Arc::default(),
            instance: None,
            back_at: 0,
        };
        Self {
            random: Random::new(seed),
            world,
            common,
            keys: Keys::generate(),
            mutant,
            places: (0..INSTANCES).map(place).collect(),
            sessions: BTreeMap::new(),
            ended: BTreeSet::new(),
            made: 0,
            values: 0,
            clients: 0,
            ills: BTreeMap::new(),
            locks: BTreeMap::new(),
            step: 0,
            disks_die: seed % 4 == 3,
            trouble: Mutex::new(None),
        }
    }

    /// The whole run, as its history.
    pub fn play(mut self, steps: u64) -> Vec<Record> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for number in 0..INSTANCES {
                self.start(number).await;
            }
            self.tick(1_000).await;
            self.tick(1_000).await;
            while self.step < steps {
                self.step += 1;
                let by_ms = 4 + self.random.below(30) * if self.random.one_in(20) { 40 } else { 1 };
                self.tick(by_ms).await;
                self.operate().await;
                if self.random.one_in(9) {
                    self.disturb().await;
                }
                self.recover().await;
            }
            self.finish().await;
        });
        if let Some(trouble) = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
            panic!("the run itself failed: {trouble}");
        }
        self.common.history.take()
    }

    fn note(&self, what: What) {
        self.common.history.note(self.world.now_ms(), what);
    }

    fn fault(&self, kind: &str, instance: Option<u32>, loses: bool) {
        self.note(What::Fault { kind: kind.to_owned(), instance, loses });
    }

    async fn start(&mut self, number: u32) {
        let place = &mut self.places[number as usize];
        let clock: SharedClock =
            Arc::new(SimClock { world: Arc::clone(&self.world), off_ms: Arc::clone(&place.off_ms) });
        let sessions = config::Sessions {
            idle_ttl_seconds: 86_400,
            max_ttl_seconds: 7 * 86_400,
            ..config::Sessions::default()
        };
        let disk: Arc<dyn Durable> = Arc::<Disk>::clone(&place.disk);
        let store = Store::over(disk, self.keys.clone(), 1 << 20, &sessions, clock).await.unwrap();
        let origin = store.origin().bits();
        self.world.join(number);
        self.world.set_origin(number, origin);
        let link = SimLink::new(&self.world, number);
        store.attach(Arc::<SimLink>::clone(&link) as _, false).await.unwrap();
        self.common.history.note(self.world.now_ms(), What::Start { instance: number, origin });
        place.instance = Some(Instance::new(number, store, Arc::clone(&self.common), link));
    }

    /// Time goes on, and what instances do by themselves they do now and then.
    async fn tick(&mut self, by_ms: u64) {
        self.world.tick(by_ms);
        for instance in self.places.iter().filter_map(|place| place.instance.as_ref()) {
            // While the shared store is away there is nobody to agree with.
            let _ = instance.store.agree().await;
        }
        let at = self.random.below(u64::from(INSTANCES) * 4);
        if let Some(instance) = self.places.get(at as usize).and_then(|place| place.instance.as_ref()) {
            instance.heal(8).await;
        }
    }

    fn any_instance(&mut self) -> Option<u32> {
        let running: Vec<u32> =
            (0..INSTANCES).filter(|number| self.places[*number as usize].instance.is_some()).collect();
        (!running.is_empty()).then(|| running[self.random.below(running.len() as u64) as usize])
    }

    fn any_session(&mut self) -> Option<u32> {
        // Seldom one that has ended: late writes must not bring it back.
        let of: Vec<u32> = match self.random.below(12) {
            0 => self.ended.iter().rev().take(8).copied().collect(),
            _ => self.sessions.keys().copied().collect(),
        };
        (!of.is_empty()).then(|| of[self.random.below(of.len() as u64) as usize])
    }

    fn value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    async fn operate(&mut self) {
        if let Some(number) = self.any_instance() {
            self.operate_on(number).await;
        }
    }

    async fn operate_on(&mut self, number: u32) {
        if self.sessions.len() < SESSIONS / 2 || (self.sessions.len() < SESSIONS && self.random.one_in(12)) {
            return self.create(number).await;
        }
        let Some(s) = self.any_session() else { return };
        let choice = self.random.below(100);
        match choice {
            0..26 => self.put(number, s).await,
            26..52 => {
                let (value, trim) = (self.value(), self.random.one_in(4));
                let of = stream(self.random.below(3) / 2);
                self.on(number).append(s, of, value, trim).await;
            }
            52..62 => self.on(number).read(s).await,
            62..66 => self.on(number).read_log(s).await,
            66..82 => self.deliver(number, s).await,
            82..89 => self.report(number, s).await,
            89..97 => self.lock(number, s).await,
            _ => {
                if self.sessions.contains_key(&s) && self.random.one_in(2) {
                    self.sessions.remove(&s);
                    self.ended.insert(s);
                    self.on(number).terminate(s).await;
                }
            }
        }
    }

    fn on(&self, number: u32) -> &Instance {
        self.places[number as usize].instance.as_ref().unwrap()
    }

    async fn create(&mut self, number: u32) {
        self.made += 1;
        let s = self.made;
        let fields = (0..self.random.below(3)).map(|at| (format!("born{at}"), self.value())).collect();
        if !self.on(number).create(s, fields).await {
            return;
        }
        let clients = (0..2).map(|of| {
            self.clients += 1;
            Client { number: self.clients, s, stream: stream(of), cursor: None }
        });
        let clients: Vec<Client> = clients.collect();
        for client in &clients {
            let stream = client.stream.as_str().to_owned();
            self.note(What::Subscribed { client: client.number, s, stream });
        }
        let fields = 1 + self.random.below(5);
        self.sessions.insert(s, Known { fields, results: BTreeMap::new(), clients });
    }

    async fn put(&mut self, number: u32, s: u32) {
        let fields = self.sessions.get(&s).map_or(2, |known| known.fields);
        let field = format!("f{}", self.random.below(fields));
        let value = (!self.random.one_in(12)).then(|| self.value());
        self.on(number).put(s, &field, value, None).await;
    }

    async fn deliver(&mut self, number: u32, s: u32) {
        let at = self.random.below(2) as usize;
        let Some(mut client) = self.sessions.get(&s).and_then(|known| known.clients.get(at)).cloned() else {
            return self.on(number).read(s).await;
        };
        let max = 1 + self.random.below(8) as usize;
        self.on(number).deliver(&mut client, max).await;
        if let Some(known) = self.sessions.get_mut(&s) {
            known.clients[at] = client;
        }
    }

    /// Whoever works on something reports from one instance. Another one reports only what it may: after it was shown
    /// the end, when nothing changes it any more.
    async fn report(&mut self, number: u32, s: u32) {
        if !self.sessions.contains_key(&s) {
            return;
        }
        let name = format!("r{}", self.random.below(3));
        let value = self.value();
        let (owner, rev, over) = {
            let known = self.sessions.get_mut(&s).unwrap();
            let held = known.results.entry(name.clone()).or_insert((number, 0, false));
            held.1 += 1;
            *held
        };
        let instance = self.on(number);
        if owner == number && !over {
            let terminal = rev >= 3;
            instance.report(s, &name, 1, rev, terminal, value).await;
            if terminal && let Some(known) = self.sessions.get_mut(&s) {
                known.results.entry(name).and_modify(|held| held.2 = true);
            }
            return;
        }
        if let Some((.., terminal, _)) = instance.read_result(s, &name).await
            && terminal
        {
            instance.report(s, &name, 9, rev, true, value).await;
        }
    }

    async fn lock_among_all(&mut self, number: u32) {
        let name = format!("all{}", self.random.below(2));
        let holder = self.value();
        let ttl = Duration::from_millis(20 + self.random.below(400));
        let instance = self.on(number);
        if let Some(token) = instance.lock_among_all(&name, ttl, holder).await
            && holder.is_multiple_of(3)
        {
            instance.unlock_among_all(&name, token, holder).await;
        }
    }

    async fn lock(&mut self, number: u32, s: u32) {
        if self.random.one_in(2) {
            return self.lock_among_all(number).await;
        }
        let name = format!("l{}", self.random.below(3));
        let held: Vec<u64> = self.locks.keys().copied().collect();
        if !held.is_empty() && self.random.one_in(2) {
            let holder = held[self.random.below(held.len() as u64) as usize];
            let (of, name, token, fence) = self.locks.get(&holder).cloned().unwrap();
            if self.places[of as usize].instance.is_none() || self.random.one_in(3) {
                self.locks.remove(&holder);
                if self.places[of as usize].instance.is_some() {
                    self.on(of).unlock(&name, token, holder).await;
                }
                return;
            }
            if self.sessions.contains_key(&s) {
                let value = Some(self.value());
                self.on(of).put(s, "fenced", value, Some((name, fence))).await;
            }
            return;
        }
        let holder = self.value();
        let ttl = Duration::from_millis(200 + self.random.below(4_000));
        if let Some((token, fence)) = self.on(number).lock(&name, ttl, holder).await {
            self.locks.insert(holder, (number, name, token, fence));
            if self.locks.len() > 12 {
                self.locks.pop_first();
            }
        }
    }

    async fn disturb(&mut self) {
        let shard = self.random.below(u64::from(SHARDS)) as u16;
        let until = self.step + 3 + self.random.below(60);
        let number = self.random.below(u64::from(INSTANCES)) as u32;
        let choice = self.random.below(100);
        match choice {
            0..10 => self.ill(Ill::Cut(number, shard), "cut", until, |world| world.cut(number, shard, true)),
            10..18 => {
                self.ill(Ill::Deaf(number, shard), "deaf", until, |world| world.deaf(number, shard, true))
            }
            18..28 => {
                let (lost, late) = (self.random.below(250), self.random.below(150));
                self.ill(Ill::Unreliable(number, shard), "reply_loss", until, |world| {
                    world.unreliable(number, shard, lost, late);
                });
            }
            28..34 => {
                let delay_ms = 50 + self.random.below(750);
                self.ill(Ill::Slow(number, shard), "slow_pushes", until, |world| {
                    world.slow_pushes(number, shard, delay_ms);
                });
            }
            34..40 => self.ill(Ill::Away(shard), "restart", until, |world| world.away(shard, true)),
            40..45 => {
                self.ill(Ill::Refuses(shard), "refuses", until, |world| world.refuse(shard, Some("OOM")))
            }
            45..53 => self.ill(Ill::Lagging(shard), "lag", until, |world| world.lag(shard, true)),
            53..60 if !self.disks_die => {
                let zombie = self.random.one_in(2).then_some(number);
                self.fault(if zombie.is_some() { "zombie" } else { "failover" }, None, true);
                self.world.fail_over(shard, zombie.as_slice());
                self.ills.remove(&Ill::Lagging(shard));
            }
            60..64 if !self.disks_die => {
                let restart = self.random.one_in(2);
                self.fault(if restart { "restart_empty" } else { "flushall" }, None, true);
                self.world.empty(shard, restart);
            }
            64..76 if !self.disks_die => {
                let Some(s) = self.any_session() else { return };
                self.fault("evict", None, true);
                let which = self.random.next();
                self.world.evict(self.common.ground.key(s), which);
                // Before anybody has looked.
                if self.random.one_in(2)
                    && let Some(number) = self.any_instance()
                {
                    let value = self.value();
                    self.on(number).append(s, StreamName::GET, value, false).await;
                }
            }
            76..82 => {
                let by_ms = self.random.below(1_200_000) as i64 - 600_000;
                let by_ms = if self.random.one_in(2) { by_ms / 100 } else { by_ms };
                self.fault("clock_jump", Some(number), false);
                self.places[number as usize].off_ms.store(by_ms, Ordering::SeqCst);
            }
            82..90 => self.crash(number, false).await,
            90..97 => {
                // Every other time in the middle of something.
                if self.random.one_in(2) && self.places[number as usize].instance.is_some() {
                    let rows = self.random.below(8);
                    self.places[number as usize].disk.cut_after(rows);
                    for _ in 0..2 {
                        self.operate_on(number).await;
                    }
                }
                self.crash(number, true).await;
            }
            _ if self.disks_die => self.lose_disk(number).await,
            _ => {}
        }
    }

    fn ill(&mut self, ill: Ill, kind: &str, until: u64, begin: impl FnOnce(&World)) {
        if self.ills.len() >= FAULTS || self.ills.contains_key(&ill) {
            return;
        }
        let instance = match ill {
            Ill::Cut(number, _)
            | Ill::Deaf(number, _)
            | Ill::Unreliable(number, _)
            | Ill::Slow(number, _) => Some(number),
            Ill::Away(_) | Ill::Refuses(_) | Ill::Lagging(_) => None,
        };
        self.fault(kind, instance, false);
        begin(&self.world);
        self.ills.insert(ill, until);
    }

    async fn crash(&mut self, number: u32, power_cut: bool) {
        let up = self.places.iter().filter(|place| place.instance.is_some()).count();
        let back_at = self.step + 1 + self.random.below(if up > 1 { 40 } else { 1 });
        let place = &mut self.places[number as usize];
        let Some(instance) = place.instance.take() else { return };
        self.world.leave(number);
        place.disk = Arc::new(place.disk.after(power_cut, &mut self.random));
        place.back_at = back_at;
        drop(instance);
        let how = if power_cut { Stop::PowerCut } else { Stop::Killed };
        self.note(What::Stop { instance: number, how });
    }

    /// Only of one that owes nothing, and while a primary has what it ever paid.
    async fn lose_disk(&mut self, number: u32) {
        let Some(instance) = self.places[number as usize].instance.as_ref() else { return };
        let owes = instance.store.owed() > 0
            || instance.store.sharing_status().is_none_or(|status| status.more_on_disk);
        if owes || self.ills.len() > 1 {
            return;
        }
        let place = &mut self.places[number as usize];
        place.instance = None;
        place.disk = Arc::new(Disk::empty(self.mutant));
        place.back_at = self.step + 30 + self.random.below(100);
        self.world.leave(number);
        self.note(What::Stop { instance: number, how: Stop::DiskLost });
    }

    async fn recover(&mut self) {
        let over: Vec<Ill> =
            self.ills.iter().filter(|(_, until)| **until <= self.step).map(|(ill, _)| *ill).collect();
        for ill in over {
            self.ills.remove(&ill);
            match ill {
                Ill::Cut(number, shard) => self.world.cut(number, shard, false),
                Ill::Deaf(number, shard) => self.world.deaf(number, shard, false),
                Ill::Unreliable(number, shard) => self.world.unreliable(number, shard, 0, 0),
                Ill::Slow(number, shard) => self.world.slow_pushes(number, shard, 0),
                Ill::Away(shard) => self.world.away(shard, false),
                Ill::Refuses(shard) => self.world.refuse(shard, None),
                Ill::Lagging(shard) => self.world.lag(shard, false),
            }
        }
        for number in 0..INSTANCES {
            let place = &self.places[number as usize];
            if place.instance.is_none() && place.back_at <= self.step {
                self.start(number).await;
            }
        }
    }

    async fn finish(&mut self) {
        for number in 0..INSTANCES {
            if self.places[number as usize].instance.is_none() {
                self.start(number).await;
            }
            self.places[number as usize].off_ms.store(0, Ordering::SeqCst);
        }
        self.world.mend();
        self.note(What::Quiet);
        let mut calm = 0;
        for _ in 0..HEAL_STEPS {
            self.world.tick(100);
            let executed = self.world.executed();
            let mut owed = false;
            for place in &self.places {
                let Some(instance) = &place.instance else { continue };
                instance.heal(50).await;
                let status = instance.store.sharing_status().unwrap_or_default();
                let more = u64::from(status.more_on_disk || status.auditing);
                let sessions = (instance.store.owed() as u64).max(more);
                owed |= sessions > 0;
                self.note(What::Owes { instance: instance.number, sessions });
            }
            let quiet = !owed && self.world.all_up() && executed == self.world.executed();
            calm = if quiet { calm + 1 } else { 0 };
            // Late commands come within three seconds.
            if calm > 40 {
                break;
            }
        }
        self.note(What::Final);
        let all: Vec<u32> = (1..=self.made).collect();
        self.look(&all);
        for s in &all {
            for place in &self.places {
                let Some(instance) = &place.instance else { continue };
                instance.read(*s).await;
                instance.read_log(*s).await;
                let names: Vec<String> = self
                    .sessions
                    .get(s)
                    .map(|known| known.results.keys().cloned().collect())
                    .unwrap_or_default();
                for name in names {
                    instance.read_result(*s, &name).await;
                }
            }
        }
        self.drain().await;
        self.look(&all);
        let commands = self.world.replay();
        self.note(What::Replayed { commands });
        self.look(&all);
    }

    fn look(&self, all: &[u32]) {
        for s in all {
            let key = self.common.ground.key(*s);
            let (doc, log) = self.world.look(key);
            self.note(What::Shared { s: *s, doc, log });
            self.note(What::Measure {
                instance: 0,
                name: format!("shared log of {s}"),
                value: self.world.log_length(key) as u64,
                bound: LOG_ENTRIES as u64,
            });
        }
    }

    /// Every client takes all that it is owed, from any instance.
    async fn drain(&mut self) {
        let sessions: Vec<u32> = self.sessions.keys().copied().collect();
        for s in sessions {
            for at in 0..2 {
                let Some(mut client) = self.sessions.get(&s).and_then(|known| known.clients.get(at)).cloned()
                else {
                    continue;
                };
                let mut nothing = 0;
                for _ in 0..DRAIN {
                    if nothing == 2 {
                        break;
                    }
                    let Some(number) = self.any_instance() else { return };
                    let got = self.on(number).deliver(&mut client, 64).await;
                    nothing = if got == 0 { nothing + 1 } else { 0 };
                }
            }
        }
    }
}
