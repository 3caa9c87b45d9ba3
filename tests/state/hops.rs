//! A client that hops between instances which are replaced again and again, and of which each knows what the others said
//! only as of its last look: it gets everything once, or is told of a gap.

use std::collections::BTreeSet;

use bytes::Bytes;
use outlast::base::ids::Origin;
use outlast::base::limits::LOG_ORIGINS;
use outlast::state::cursor::{Cursor, EventId};
use outlast::state::log::{Entry, Kind, Log, Position, Refused, Retention, StreamName, make_room};

use super::random::Random;

const KEEP: Retention = Retention { entries: 400, bytes: 1 << 30, age_ms: 1 << 40 };
const INSTANCES: usize = 3;
/// The log of a session, and that of broadcasts.
const LOGS: usize = 2;

#[derive(Default)]
struct Instance {
    /// Its process start, by log.
    own: [u64; LOGS],
    logs: [Log; LOGS],
    /// It does not reach the others before then.
    away_until: u64,
    /// What it said and has not shared, by log.
    owed: [Vec<Entry>; LOGS],
}

struct World {
    random: Random,
    now: u64,
    starts: u64,
    instances: Vec<Instance>,
    shared: [Vec<Entry>; LOGS],
    said: [Vec<Entry>; LOGS],
    id: Option<String>,
    got: BTreeSet<(usize, u64, u64)>,
    gaps: usize,
    /// How many entries had been said when the client was told of a gap last, by log.
    excused: [usize; LOGS],
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            now: 1_000,
            starts: 0,
            instances: (0..INSTANCES).map(|_| Instance::default()).collect(),
            shared: Default::default(),
            said: Default::default(),
            id: None,
            got: BTreeSet::new(),
            gaps: 0,
            excused: [0; LOGS],
        };
        (0..INSTANCES).for_each(|at| world.restart(at));
        world
    }

    fn restart(&mut self, at: usize) {
        self.starts += 1;
        self.instances[at].own = [2 * self.starts, 2 * self.starts + 1];
    }

    fn say(&mut self, at: usize, log: usize) {
        let (now, instance) = (self.now, &mut self.instances[at]);
        let origin = Origin::from_bits(instance.own[log]);
        let entry = instance.logs[log].append(origin, Kind::Message, StreamName::GET, Bytes::new(), now);
        instance.logs[log].trim(KEEP, now, None);
        instance.owed[log].push(entry.clone());
        self.said[log].push(entry);
    }

    fn look(&mut self, at: usize) {
        let instance = &mut self.instances[at];
        if self.now < instance.away_until {
            return;
        }
        for log in 0..LOGS {
            self.shared[log].append(&mut instance.owed[log]);
            let from = self.shared[log].len().saturating_sub(2 * KEEP.entries);
            let held = &mut instance.logs[log];
            for entry in &self.shared[log][from..] {
                if let Err(Refused::Gap(_)) = held.union(entry.clone()) {
                    held.give_up_below(entry.origin, entry.seq);
                    held.union(entry.clone()).unwrap();
                }
            }
            held.trim(KEEP, self.now, None);
        }
    }

    /// The client comes, reads all there is, and goes.
    fn visit(&mut self, at: usize) {
        let instance = &self.instances[at];
        let seen = self.id.as_deref().map_or_else(Cursor::default, |id| EventId::parse(id).unwrap().cursor);
        let mut position = Position::at(seen);
        let unsure = make_room(&mut position.seen, &[&instance.logs[0], &instance.logs[1]], self.now);
        let mut got = Vec::new();
        let own = Origin::from_bits(0);
        for log in 0..LOGS {
            let take = |entry: &Entry, _: &Cursor| got.push((log, entry.origin.bits(), entry.seq));
            let gap = instance.logs[log].visit_owed(StreamName::GET, &mut position, own, 0, usize::MAX, take);
            if gap | unsure {
                self.gaps += 1;
                self.excused[log] = self.said[log].len();
            }
        }
        self.id = Some(position.seen.event_id(StreamName::GET));
        for place in got {
            assert!(self.got.insert(place), "{place:?} came twice, after {} process starts", self.starts);
        }
    }

    /// `away`: the longest time for which an instance may not reach the others.
    fn run(&mut self, steps: u64, away: u64) {
        for _ in 0..steps {
            self.now += 1 + self.random.below(20);
            let at = self.random.below(INSTANCES as u64) as usize;
            match self.random.below(40) {
                0 => self.restart(at),
                1 if self.now >= self.instances[at].away_until => {
                    self.look(at);
                    self.instances[at].away_until = self.now + self.random.below(away);
                }
                2..12 => self.say(at, 0),
                12 => self.say(at, 1),
                13..26 => self.look(at),
                _ => self.visit(at),
            }
        }
        self.now += away;
        for at in (0..INSTANCES).chain(0..INSTANCES) {
            self.look(at);
        }
        (0..INSTANCES).for_each(|at| self.visit(at));
    }

    /// Those that never came, by log and place there.
    fn missing(&self) -> Vec<(usize, usize)> {
        let all = (0..LOGS)
            .flat_map(|log| self.said[log].iter().enumerate().map(move |(at, entry)| (log, at, entry)));
        all.filter(|(log, _, entry)| !self.got.contains(&(*log, entry.origin.bits(), entry.seq)))
            .map(|(log, at, _)| (log, at))
            .collect()
    }
}

#[test]
fn whoever_hops_between_instances_that_are_replaced_gets_everything_once() {
    let mut gaps = 0;
    for seed in 0..8 {
        let mut world = World::new(seed);
        // Some are away for a few replacements at a time, which is less than an event id has room for.
        world.run(8_000, 2_000);
        assert!(world.starts > 6 * LOG_ORIGINS as u64);
        assert_eq!(world.missing(), [], "seed {seed}");
        gaps += world.gaps;
    }
    // What an instance lags behind may be told as one.
    assert!(gaps <= 80, "{gaps} gaps, and nothing is missing");
}

#[test]
fn an_instance_that_lags_behind_more_replacements_than_an_event_id_names_repeats_nothing_and_tells_of_a_gap()
{
    let (mut gaps, mut lost) = (0, 0);
    for seed in 0..8 {
        let mut world = World::new(seed);
        world.run(8_000, 30_000);
        let silent: Vec<_> =
            world.missing().into_iter().filter(|(log, at)| *at >= world.excused[*log]).collect();
        assert!(silent.is_empty(), "seed {seed}: nobody said that these are missing: {silent:?}");
        lost += world.missing().len();
        gaps += world.gaps;
    }
    assert!(gaps > 0 && lost > 0, "nobody was away for long enough: {gaps} gaps, {lost} lost");
}
