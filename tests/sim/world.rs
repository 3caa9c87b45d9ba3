//! The shared store, simulated: shards with a primary and a replica, links of instances to them, and everything that
//! can go wrong with either. Nothing happens in it but what a call or [`World::tick`] makes happen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outlast::base::ids::{Origin, SessionKey};
use outlast::state::contract::{DocAnswer, END, SEEN};
use outlast::store::remote::{Event, Hear, LinkState, RemoteError, Shard};

use super::data::{Answer, Command, Data};
use super::failover::history::{Link, SharedDoc, SharedRun};
use super::mutants::Mutant;

pub const SHARDS: u16 = 2;
/// A push proves for so long that nothing was missed, milliseconds.
pub const LEASE_MS: u64 = 1_000;
/// A link that has no lease for so long is down, milliseconds.
const DEAF_MS: u64 = 2_000;
/// Commands are remembered for being executed again, so many of a shard.
const REMEMBERED: usize = 200;

#[derive(Default)]
struct Server {
    primary: Data,
    replica: Data,
    /// What the replica does not have yet.
    behind: VecDeque<(u64, Command)>,
    /// A primary that is none any more, though some instances do not know it.
    zombie: Option<Data>,
    /// The replica does not get anything.
    lagging: bool,
    away: bool,
    refuses: Option<&'static str>,
    /// Rises when what it holds is not what it held.
    lineage: u64,
    done: VecDeque<Command>,
}

/// How an instance reaches a shard.
#[derive(Clone, Debug)]
struct Way {
    state: LinkState,
    cut: bool,
    deaf: bool,
    zombie: bool,
    /// Of a thousand commands so many are done and their answer is lost; are done later.
    lost: u64,
    late: u64,
    /// Pushes come so late, milliseconds.
    push_delay_ms: u64,
    echo_ms: u64,
    lineage: u64,
    /// Pushes were missed.
    missed: bool,
}

struct Instance {
    ways: Vec<Way>,
    hear: Option<Hear>,
    waiting: VecDeque<(u64, u16, Event)>,
    /// Its origin, for those that would offer nothing else.
    origin: u64,
}

struct Inner {
    now_ms: u64,
    servers: Vec<Server>,
    instances: BTreeMap<u32, Instance>,
    late: Vec<(u64, u32, u16, Command)>,
    calls: BTreeMap<(u32, SessionKey), u64>,
    pushes: u64,
    executed: u64,
}

pub struct World {
    seed: u64,
    pub mutant: Option<Mutant>,
    inner: Mutex<Inner>,
}

type Told = Vec<(Hear, Vec<Event>)>;

fn tell(told: Told) {
    for (hear, events) in told {
        events.into_iter().for_each(|event| hear(event));
    }
}

fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |hash, part| {
        let hash = (hash ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash ^ (hash >> 29)
    })
}

pub fn shard_of(key: SessionKey) -> u16 {
    u16::from(key.as_bytes().first().copied().unwrap_or(0)) % SHARDS
}

pub fn shard_of_name(name: &str) -> u16 {
    name.bytes().fold(0_u16, |sum, byte| sum.wrapping_add(u16::from(byte))) % SHARDS
}

impl Command {
    pub fn shard(&self) -> u16 {
        match self {
            Self::Doc(key, _) | Self::Log(key, _) | Self::LogEnd(key, _) | Self::Result(key, ..) => {
                shard_of(*key)
            }
            Self::Lock(name, ..) => shard_of_name(name),
            Self::Cache(..) | Self::Void(..) => 0,
        }
    }

    fn key(&self) -> SessionKey {
        match self {
            Self::Doc(key, _) | Self::Log(key, _) | Self::LogEnd(key, _) | Self::Result(key, ..) => *key,
            Self::Lock(..) | Self::Cache(..) | Self::Void(..) => SessionKey::BROADCAST,
        }
    }

    fn event(&self) -> Option<Event> {
        match self {
            Self::Doc(key, _) => Some(Event::Document(*key)),
            Self::Log(key, _) | Self::LogEnd(key, _) => Some(Event::Log(*key)),
            Self::Result(key, name, ..) => Some(Event::Result(*key, name.clone())),
            Self::Cache(key, ..) => Some(Event::Cache(key.clone())),
            Self::Void(_) => Some(Event::Voided),
            Self::Lock(..) => None,
        }
    }
}

impl World {
    pub fn new(seed: u64, now_ms: u64, mutant: Option<Mutant>) -> Arc<Self> {
        let inner = Inner {
            now_ms,
            servers: (0..SHARDS).map(|_| Server { lineage: 1, ..Server::default() }).collect(),
            instances: BTreeMap::new(),
            late: Vec::new(),
            calls: BTreeMap::new(),
            pushes: 0,
            executed: 0,
        };
        Arc::new(Self { seed, mutant, inner: Mutex::new(inner) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now_ms(&self) -> u64 {
        self.inner().now_ms
    }

    /// An instance starts, with links that have yet to come up.
    pub fn join(&self, instance: u32) {
        let mut inner = self.inner();
        let way = Way {
            state: LinkState::Down,
            cut: false,
            deaf: false,
            zombie: false,
            lost: 0,
            late: 0,
            push_delay_ms: 0,
            echo_ms: 0,
            lineage: 0,
            missed: true,
        };
        let ways = (0..SHARDS).map(|_| way.clone()).collect();
        inner.instances.insert(instance, Instance { ways, hear: None, waiting: VecDeque::new(), origin: 0 });
    }

    pub fn leave(&self, instance: u32) {
        self.inner().instances.remove(&instance);
    }

    pub fn listen(&self, instance: u32, hear: Hear) {
        if let Some(instance) = self.inner().instances.get_mut(&instance) {
            instance.hear = Some(hear);
        }
    }

    pub fn set_origin(&self, instance: u32, origin: u64) {
        if let Some(instance) = self.inner().instances.get_mut(&instance) {
            instance.origin = origin;
        }
    }

    pub fn origin(&self, instance: u32) -> u64 {
        self.inner().instances.get(&instance).map_or(0, |instance| instance.origin)
    }

    /// The process starts that live, as an instance can know it.
    pub fn instances(&self, instance: u32) -> Result<Vec<Origin>, RemoteError> {
        let mut inner = self.inner();
        inner.reach(instance, 0)?;
        Ok(inner.instances.values().map(|other| Origin::from_bits(other.origin)).collect())
    }

    pub fn state(&self, instance: u32, shard: u16) -> LinkState {
        let inner = self.inner();
        inner.way(instance, shard).map_or(LinkState::Down, |way| way.state)
    }

    pub fn is_leased(&self, instance: u32, shard: u16) -> bool {
        let inner = self.inner();
        inner.way(instance, shard).is_some_and(|way| {
            way.state == LinkState::Up
                && (inner.now_ms.saturating_sub(way.echo_ms) <= LEASE_MS
                    || self.mutant == Some(Mutant::LeaseIgnored))
        })
    }

    /// What the checker is told of a link: without the mistakes of mutants.
    pub fn link(&self, instance: u32, shard: u16) -> Link {
        let inner = self.inner();
        match inner.way(instance, shard).map(|way| way.state) {
            // An instance that takes itself for leased is held to it.
            Some(LinkState::Up) if self.mutant == Some(Mutant::LeaseIgnored) => Link::Leased,
            Some(LinkState::Up) => {
                let echo = inner.way(instance, shard).map_or(0, |way| way.echo_ms);
                if inner.now_ms.saturating_sub(echo) <= LEASE_MS { Link::Leased } else { Link::Up }
            }
            Some(LinkState::ReadOnly) => Link::ReadOnly,
            _ => Link::Down,
        }
    }

    /// Executes a command for an instance, or does not, as things stand.
    pub fn call(&self, instance: u32, command: Command) -> Result<Answer, RemoteError> {
        let (result, told) = self.inner().call(self, instance, command);
        tell(told);
        result
    }

    /// Reads for an instance.
    pub fn read<T>(
        &self,
        instance: u32,
        shard: u16,
        read: impl FnOnce(&mut Data, u64) -> T,
    ) -> Result<T, RemoteError> {
        let mut inner = self.inner();
        let now_ms = inner.now_ms;
        let way = inner.reach(instance, shard)?;
        let server = inner.server(shard);
        let data = match (&mut server.zombie, way.zombie) {
            (Some(zombie), true) => zombie,
            _ => &mut server.primary,
        };
        Ok(read(data, now_ms))
    }

    /// Time goes on: what is late is done, pushes come, replicas follow, probes find out how things are.
    pub fn tick(&self, by_ms: u64) {
        let told = self.inner().tick(self, by_ms);
        tell(told);
    }

    pub fn cut(&self, instance: u32, shard: u16, cut: bool) {
        self.inner().with_way(instance, shard, |way| {
            way.cut = cut;
            way.missed |= cut;
        });
    }

    pub fn deaf(&self, instance: u32, shard: u16, deaf: bool) {
        self.inner().with_way(instance, shard, |way| {
            way.deaf = deaf;
            way.missed |= deaf;
        });
    }

    /// Of a thousand commands so many are done without an answer, or late.
    pub fn unreliable(&self, instance: u32, shard: u16, lost: u64, late: u64) {
        self.inner().with_way(instance, shard, |way| (way.lost, way.late) = (lost, late));
    }

    pub fn slow_pushes(&self, instance: u32, shard: u16, delay_ms: u64) {
        self.inner().with_way(instance, shard, |way| way.push_delay_ms = delay_ms.min(LEASE_MS - 200));
    }

    pub fn away(&self, shard: u16, away: bool) {
        let mut inner = self.inner();
        inner.server(shard).away = away;
        inner.all_missed(shard);
    }

    pub fn refuse(&self, shard: u16, why: Option<&'static str>) {
        self.inner().server(shard).refuses = why;
    }

    pub fn lag(&self, shard: u16, lag: bool) {
        self.inner().server(shard).lagging = lag;
    }

    /// The replica takes over with what it has. Of the instances those of `unaware` go on with the old primary.
    pub fn fail_over(&self, shard: u16, unaware: &[u32]) -> usize {
        let mut inner = self.inner();
        let server = inner.server(shard);
        let lost = server.behind.len();
        let old = std::mem::replace(&mut server.primary, server.replica.clone());
        server.behind.clear();
        server.done.clear();
        server.zombie = (!unaware.is_empty()).then_some(old);
        server.lagging = false;
        server.lineage += 1;
        for (number, instance) in &mut inner.instances {
            if let Some(way) = instance.ways.get_mut(usize::from(shard)) {
                way.zombie = unaware.contains(number);
                way.missed = true;
            }
        }
        lost
    }

    /// Everything is gone. With a restart, connections too.
    pub fn empty(&self, shard: u16, restart: bool) {
        let told = {
            let mut inner = self.inner();
            let server = inner.server(shard);
            (server.primary, server.replica) = (Data::default(), Data::default());
            server.behind.clear();
            server.done.clear();
            server.zombie = None;
            server.lineage += 1;
            if restart {
                inner.all_missed(shard);
                Told::new()
            } else {
                inner.push_to_all(self, shard, &Event::Lapsed(Shard(shard)))
            }
        };
        tell(told);
    }

    /// One key is gone.
    pub fn evict(&self, key: SessionKey, which: u64) {
        let told = {
            let mut inner = self.inner();
            let shard = shard_of(key);
            let server = inner.server(shard);
            server.done.retain(|command| command.key() != key);
            let mut event = Event::Document(key);
            for data in [&mut server.primary, &mut server.replica] {
                match which % 4 {
                    0 => drop(data.docs.remove(&key)),
                    1 => {
                        event = Event::Log(key);
                        if let Some(log) = data.logs.get_mut(&key) {
                            log.entries.clear();
                        }
                    }
                    2 => {
                        event = Event::Log(key);
                        if let Some(log) = data.logs.get_mut(&key) {
                            log.marks.clear();
                            log.over.clear();
                        }
                    }
                    _ => {
                        event = Event::Log(key);
                        data.logs.remove(&key);
                    }
                }
            }
            inner.push_to_all(self, shard, &event)
        };
        tell(told);
    }

    /// Everything is as it should be from now on, and late commands are done.
    pub fn mend(&self) {
        let mut inner = self.inner();
        for server in &mut inner.servers {
            (server.away, server.refuses, server.lagging, server.zombie) = (false, None, false, None);
        }
        for instance in inner.instances.values_mut() {
            for way in &mut instance.ways {
                way.missed |= way.cut || way.deaf || way.zombie;
                (way.cut, way.deaf, way.zombie, way.lost, way.late, way.push_delay_ms) =
                    (false, false, false, 0, 0, 0);
            }
        }
    }

    pub fn all_up(&self) -> bool {
        let inner = self.inner();
        inner.instances.values().flat_map(|instance| &instance.ways).all(|way| way.state == LinkState::Up)
    }

    /// Executes again what was executed since the last loss. Returns how many commands.
    pub fn replay(&self) -> u64 {
        let mut inner = self.inner();
        let now_ms = inner.now_ms;
        let mut count = 0;
        for server in &mut inner.servers {
            for command in std::mem::take(&mut server.done) {
                server.primary.execute(now_ms, &command, self.mutant);
                count += 1;
            }
        }
        count
    }

    pub fn executed(&self) -> u64 {
        self.inner().executed
    }

    /// Whether a field with this stamp, or a later one, is there.
    pub fn has_field(&self, key: SessionKey, name: &str, stamp: &str) -> bool {
        let mut inner = self.inner();
        let now_ms = inner.now_ms;
        let doc = inner.server(shard_of(key)).primary.docs.get_mut(&key).and_then(|slot| slot.at(now_ms));
        let held = doc.and_then(|doc| doc.get(name.as_bytes())).and_then(|held| held.get(..stamp.len()));
        held.is_some_and(|held| held >= stamp.as_bytes())
    }

    pub fn has_entry(&self, key: SessionKey, origin: u64, seq: u64) -> bool {
        let mut inner = self.inner();
        let now_ms = inner.now_ms;
        let log = inner.server(shard_of(key)).primary.logs.get_mut(&key);
        let marks = log.and_then(|log| log.marks.at(now_ms).map(|marks| marks.clone())).unwrap_or_default();
        marks.iter().any(|(of, (high, _))| of.bits() == origin && *high >= seq)
    }

    /// What is there of a session.
    pub fn look(&self, key: SessionKey) -> (SharedDoc, Vec<SharedRun>) {
        let mut inner = self.inner();
        let now_ms = inner.now_ms;
        let data = &mut inner.server(shard_of(key)).primary;
        let doc = match data.docs.get_mut(&key).and_then(|slot| slot.at(now_ms)) {
            None => SharedDoc::None,
            Some(doc) if doc.contains_key(END) => SharedDoc::Ended,
            Some(doc) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let fields = doc.iter().filter(|(name, _)| *name != SEEN && !name.starts_with(b"~"));
                SharedDoc::Live(
                    fields.map(|(name, held)| (text(name), text(held.get(..26).unwrap_or(&[])))).collect(),
                )
            }
        };
        let mut runs: BTreeMap<u64, SharedRun> = BTreeMap::new();
        // Of a log of which one key is gone the other one counts for nothing.
        if let Some(log) = data.logs.get_mut(&key).filter(|log| !(**log).clone().is_torn(now_ms)) {
            let fresh = |origin| SharedRun { origin, mark: None, seqs: Vec::new() };
            for (origin, (high, _)) in log.marks.at(now_ms).map(|marks| marks.clone()).into_iter().flatten() {
                runs.entry(origin.bits()).or_insert_with(|| fresh(origin.bits())).mark = Some(high);
            }
            for entry in log.entries.at(now_ms).into_iter().flatten() {
                let origin = entry.origin.bits();
                runs.entry(origin).or_insert_with(|| fresh(origin)).seqs.push(entry.number);
            }
        }
        (doc, runs.into_values().collect())
    }

    pub fn log_length(&self, key: SessionKey) -> usize {
        let mut inner = self.inner();
        let now_ms = inner.now_ms;
        let log = inner.server(shard_of(key)).primary.logs.get_mut(&key);
        log.and_then(|log| log.entries.at(now_ms).map(|entries| entries.len())).unwrap_or(0)
    }
}

impl Inner {
    #[expect(clippy::indexing_slicing, reason = "there are SHARDS of them")]
    fn server(&mut self, shard: u16) -> &mut Server {
        &mut self.servers[usize::from(shard)]
    }

    fn way(&self, instance: u32, shard: u16) -> Option<&Way> {
        self.instances.get(&instance)?.ways.get(usize::from(shard))
    }

    fn with_way(&mut self, instance: u32, shard: u16, change: impl FnOnce(&mut Way)) {
        let ways = self.instances.get_mut(&instance).map(|instance| &mut instance.ways);
        if let Some(way) = ways.and_then(|ways| ways.get_mut(usize::from(shard))) {
            change(way);
        }
    }

    fn all_missed(&mut self, shard: u16) {
        for instance in self.instances.values_mut() {
            if let Some(way) = instance.ways.get_mut(usize::from(shard)) {
                way.missed = true;
            }
        }
    }

    fn reach(&mut self, instance: u32, shard: u16) -> Result<Way, RemoteError> {
        let away = |why: &str| RemoteError::Away(why.into());
        let way = self.way(instance, shard).cloned().ok_or_else(|| away("no such instance"))?;
        match way.state {
            LinkState::Up | LinkState::ReadOnly => {}
            LinkState::Down | LinkState::Isolated => return Err(away("the link is down")),
        }
        let server = self.server(shard);
        if way.cut || (server.away && !way.zombie) {
            return Err(away("no answer in time"));
        }
        Ok(way)
    }

    fn call(
        &mut self,
        world: &World,
        instance: u32,
        command: Command,
    ) -> (Result<Answer, RemoteError>, Told) {
        let away = |why: &str| Err(RemoteError::Away(why.into()));
        let (shard, key) = (command.shard(), command.key());
        let way = match self.reach(instance, shard) {
            Ok(way) => way,
            Err(error) => return (Err(error), Told::new()),
        };
        if let Some(why) = self.server(shard).refuses.filter(|_| !way.zombie) {
            return (Err(RemoteError::Refuses(why.into())), Told::new());
        }
        // What becomes of a command depends on whose it is and on nothing else: so the order in which several sessions
        // are healed at once changes nothing.
        let calls = self.calls.entry((instance, key)).or_default();
        *calls += 1;
        let of_key = key.as_bytes().iter().fold(0_u64, |sum, byte| sum.rotate_left(7) ^ u64::from(*byte));
        let fate = mix(&[world.seed, u64::from(instance), of_key, *calls]) % 1_000;
        if fate < way.late {
            let due = self.now_ms + 20 + (fate * 37) % 3_000;
            self.late.push((due, instance, shard, command));
            return (away("no answer in time"), Told::new());
        }
        let (answer, mut told) = self.execute(world, shard, &command, way.zombie);
        if fate < way.late + way.lost {
            if world.mutant == Some(Mutant::BlindRetry) {
                let (again, more) = self.execute(world, shard, &command, way.zombie);
                told.extend(more);
                return (Ok(again), told);
            }
            return (away("the connection broke"), told);
        }
        (Ok(answer), told)
    }

    fn execute(&mut self, world: &World, shard: u16, command: &Command, zombie: bool) -> (Answer, Told) {
        let now_ms = self.now_ms;
        self.executed += 1;
        let server = self.server(shard);
        if let (Some(old), true) = (&mut server.zombie, zombie) {
            let (answer, _) = old.execute(now_ms, command, world.mutant);
            return (answer, Told::new());
        }
        let (answer, wrote) = server.primary.execute(now_ms, command, world.mutant);
        server.behind.push_back((now_ms, command.clone()));
        if !server.lagging {
            server.replicate(usize::MAX, world.mutant);
        }
        // What was refused because a stamp was ahead would be taken later.
        let refused = matches!(answer, Answer::Doc(DocAnswer::Skew(_) | DocAnswer::Fork(_)));
        if !refused && !matches!(command, Command::Lock(..) | Command::Cache(..) | Command::Void(_)) {
            server.done.push_back(command.clone());
            if server.done.len() > REMEMBERED {
                server.done.pop_front();
            }
        }
        let told = match command.event().filter(|_| wrote) {
            Some(event) => self.push_to_all(world, shard, &event),
            None => Told::new(),
        };
        (answer, told)
    }

    /// A push to every instance that listens to the primary of a shard.
    fn push_to_all(&mut self, world: &World, shard: u16, event: &Event) -> Told {
        let now_ms = self.now_ms;
        self.pushes += 1;
        let pushes = self.pushes;
        let mut told = Told::new();
        for instance in self.instances.values_mut() {
            let Some(way) = instance.ways.get(usize::from(shard)) else { continue };
            if way.cut || way.deaf || way.zombie || way.state == LinkState::Down {
                continue;
            }
            let lapse = matches!(event, Event::Lapsed(_));
            if (world.mutant == Some(Mutant::PushesLost) && pushes.is_multiple_of(3))
                || (world.mutant == Some(Mutant::LapseUntold) && lapse)
            {
                continue;
            }
            if way.push_delay_ms == 0 && !instance.waiting.iter().any(|(_, of, _)| *of == shard) {
                told.extend(instance.hear.clone().map(|hear| (hear, vec![event.clone()])));
            } else {
                instance.waiting.push_back((now_ms + way.push_delay_ms, shard, event.clone()));
            }
        }
        told
    }

    fn tick(&mut self, world: &World, by_ms: u64) -> Told {
        self.now_ms += by_ms;
        let now_ms = self.now_ms;
        let mut told = Told::new();
        let (due, late): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.late).into_iter().partition(|(due, ..)| *due <= now_ms);
        self.late = late;
        for (_, _, shard, command) in due {
            if !self.server(shard).away && self.server(shard).refuses.is_none() {
                told.extend(self.execute(world, shard, &command, false).1);
            }
        }
        for server in &mut self.servers {
            if server.lagging {
                // Slowly, so that there is always something that it does not have.
                let keep = server.behind.len().saturating_sub(12);
                server.replicate(keep, world.mutant);
            } else {
                server.replicate(usize::MAX, world.mutant);
            }
        }
        let numbers: BTreeSet<u32> = self.instances.keys().copied().collect();
        for number in numbers {
            for shard in 0..SHARDS {
                told.extend(self.probe(world, number, shard));
            }
            let Some(instance) = self.instances.get_mut(&number) else { continue };
            let mut due = Vec::new();
            while let Some((at, shard, _)) = instance.waiting.front() {
                let heard = instance.ways.get(usize::from(*shard)).is_some_and(|way| !way.deaf && !way.cut);
                if *at > now_ms {
                    break;
                }
                let event = instance.waiting.pop_front().map(|(_, _, event)| event);
                due.extend(event.filter(|_| heard));
            }
            if let Some(hear) = instance.hear.clone().filter(|_| !due.is_empty()) {
                told.push((hear, due));
            }
        }
        told
    }

    /// One probe of an instance: what becomes of its link.
    fn probe(&mut self, world: &World, number: u32, shard: u16) -> Told {
        let now_ms = self.now_ms;
        let server = self.server(shard);
        let (away, refuses, lineage) = (server.away, server.refuses.is_some(), server.lineage);
        let Some(instance) = self.instances.get_mut(&number) else { return Told::new() };
        let waits = instance.waiting.iter().any(|(_, of, _)| *of == shard);
        let Some(way) = instance.ways.get_mut(usize::from(shard)) else { return Told::new() };
        let before = way.state;
        let mut events = Vec::new();
        if way.zombie {
            // Its own lease goes on for a while: whoever answers there is alive. Then it learns of the new primary.
            if mix(&[world.seed, now_ms, u64::from(number)]).is_multiple_of(8) {
                way.zombie = false;
                way.state = LinkState::Down;
            }
        } else if way.cut || away {
            way.state = LinkState::Down;
        } else {
            let heard = !way.deaf;
            if before == LinkState::Down {
                // A new connection: whatever was on the old one is void.
                if heard {
                    way.echo_ms = now_ms;
                    way.state = if refuses { LinkState::ReadOnly } else { LinkState::Up };
                }
            } else {
                if heard && !waits {
                    way.echo_ms = now_ms;
                }
                let lost = now_ms.saturating_sub(way.echo_ms) > DEAF_MS;
                way.state = match lost && world.mutant != Some(Mutant::LeaseIgnored) {
                    true => LinkState::Down,
                    false if refuses => LinkState::ReadOnly,
                    false => LinkState::Up,
                };
            }
        }
        if way.state != LinkState::Down && !way.zombie {
            if way.missed && !way.deaf {
                way.missed = false;
                if world.mutant != Some(Mutant::LapseUntold) {
                    events.push(Event::Lapsed(Shard(shard)));
                }
            }
            if way.lineage != lineage {
                way.lineage = lineage;
                if world.mutant != Some(Mutant::NoAudit) {
                    events.push(Event::Lineage(Shard(shard)));
                }
            }
        }
        if way.state != before {
            events.push(Event::State(Shard(shard), way.state));
            if way.state == LinkState::Down {
                way.missed = true;
                instance.waiting.retain(|(_, of, _)| *of != shard);
            }
        }
        match (&instance.hear, events.is_empty()) {
            (Some(hear), false) => vec![(Arc::clone(hear), events)],
            _ => Told::new(),
        }
    }
}

impl Server {
    fn replicate(&mut self, at_most: usize, mutant: Option<Mutant>) {
        for _ in 0..at_most {
            let Some((at, command)) = self.behind.pop_front() else { return };
            self.replica.execute(at, &command, mutant);
        }
    }
}
