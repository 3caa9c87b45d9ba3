//! The faults of a run: many small ones, some large ones, one after the other, each noted in the history when it begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outlast::base::clock::{Clock as _, SystemClock};

use super::failover::history::{History, What};
use super::failover::random::Random;
use super::proxy::Proxy;
use super::topology::{Blow, Form, Topology};

/// Where the instances of a run meet the storm.
pub struct Storm {
    pub topology: Topology,
    pub proxies: Vec<Arc<Proxy>>,
    pub history: Arc<History>,
    pub clock: Arc<SystemClock>,
    pub random: Random,
    /// Faults per second that are aimed at.
    pub rate: u64,
    pub over: Arc<AtomicBool>,
    /// Large faults so far.
    pub large: u64,
}

impl Storm {
    fn note(&self, kind: &str, instance: Option<usize>, loses: bool) {
        let instance = instance.and_then(|instance| u32::try_from(instance).ok());
        self.history.note(self.clock.now_ms(), What::Fault { kind: kind.to_owned(), instance, loses });
    }

    /// Blows until it is told to stop. Blocks.
    pub fn rage(&mut self) {
        let mut blows = 0_u64;
        while !self.over.load(Ordering::SeqCst) {
            blows += 1;
            // About one in forty is large and takes seconds to recover from.
            if blows.is_multiple_of(40) {
                self.large();
            } else if blows.is_multiple_of(8) {
                self.middle();
            } else {
                self.small();
            }
            let pause = 1_000 / self.rate.max(1);
            std::thread::sleep(Duration::from_millis(pause / 2 + self.random.below(pause + 1)));
        }
        self.calm();
    }

    fn any(&mut self) -> (usize, Arc<Proxy>) {
        let at = self.random.below(self.proxies.len() as u64) as usize;
        (at, Arc::clone(&self.proxies[at]))
    }

    /// What is over at once.
    fn small(&mut self) {
        let (at, proxy) = self.any();
        match self.random.below(10) {
            0..5 => {
                // Counted when an answer really was lost.
                let before = proxy.lost_replies.load(Ordering::SeqCst);
                proxy.ills.lose_replies.store(1, Ordering::SeqCst);
                for _ in 0..40 {
                    std::thread::sleep(Duration::from_millis(1));
                    if proxy.lost_replies.load(Ordering::SeqCst) > before {
                        self.note("reply_loss", Some(at), false);
                        break;
                    }
                }
                proxy.ills.lose_replies.store(0, Ordering::SeqCst);
            }
            5..7 => {
                self.note("cut", Some(at), false);
                proxy.cut();
                std::thread::sleep(Duration::from_millis(1 + self.random.below(20)));
                proxy.ills.cut.store(false, Ordering::SeqCst);
            }
            7 => self.strike(Blow::ScriptFlush),
            8 => self.strike(Blow::ClientKill),
            _ => {
                let ms = 5 + self.random.below(60);
                self.strike(Blow::Pause(ms));
            }
        }
    }

    /// What lasts for a while.
    fn middle(&mut self) {
        let (at, proxy) = self.any();
        let ms = 100 + self.random.below(900);
        let ills = &proxy.ills;
        let hold = |kind: &str, storm: &Self, on: &dyn Fn(), off: &dyn Fn()| {
            storm.note(kind, Some(at), false);
            on();
            std::thread::sleep(Duration::from_millis(ms));
            off();
        };
        match self.random.below(10) {
            0 => hold("slow", self, &|| ills.slow_ms.store(120, Ordering::SeqCst), &|| {
                ills.slow_ms.store(0, Ordering::SeqCst);
            }),
            1 => hold("trickle", self, &|| ills.trickle.store(3, Ordering::SeqCst), &|| {
                ills.trickle.store(0, Ordering::SeqCst);
            }),
            2 => hold("half_open", self, &|| ills.half_open.store(true, Ordering::SeqCst), &|| {
                ills.half_open.store(false, Ordering::SeqCst);
            }),
            3 | 4 => {
                ills.deaf.store(true, Ordering::SeqCst);
                self.note("deaf", Some(at), false);
                std::thread::sleep(Duration::from_millis(ms + 700));
                ills.deaf.store(false, Ordering::SeqCst);
            }
            5 => {
                self.note("cut_all", None, false);
                self.proxies.iter().for_each(|proxy| proxy.cut());
                std::thread::sleep(Duration::from_millis(ms / 2));
                self.proxies.iter().for_each(|proxy| proxy.ills.cut.store(false, Ordering::SeqCst));
            }
            6 => self.strike(Blow::Oom(ms / 2)),
            7 => self.strike(Blow::AclChange(ms / 3)),
            _ => self.strike(Blow::Evict),
        }
    }

    fn large(&mut self) {
        self.large += 1;
        let form = self.topology.form();
        let blow = match (form, self.large % 7) {
            (_, 0) => Blow::FlushAll,
            (_, 1) | (Form::Single | Form::Cluster, 4) => Blow::Kill,
            (Form::Sentinel, 2 | 4) => Blow::LossyFailover(200 + self.random.below(600)),
            (Form::Cluster, 2 | 5) => Blow::MoveSlot,
            (_, 3) => Blow::Pause(400 + self.random.below(1_400)),
            // With sentinels an emptied primary may be obeyed by its replicas: the same loss, seen from here.
            (_, 6) => Blow::RestartEmpty,
            _ => Blow::Evict,
        };
        self.strike(blow);
    }

    fn strike(&mut self, blow: Blow) {
        self.note(blow.name(), None, blow.loses(self.topology.form()));
        self.topology.strike(blow, &mut self.random);
    }

    /// Everything is as it should be again.
    pub fn calm(&self) {
        self.proxies.iter().for_each(|proxy| proxy.ills.mend());
        self.topology.settle();
    }
}
