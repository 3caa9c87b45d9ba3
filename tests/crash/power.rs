//! Power cuts at every row that the store writes, in memory and therefore by the hundred: and the mutants, which must
//! not survive the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outlast::base::seal::Keys;
use outlast::store::Store;
use outlast::store::durable::Durable;

use super::checker::{self, Floors, Rule, Settings, Verdict};
use super::cut::Cut;
use super::history::{Record, Sink, What};
use super::lane::{Known, seed, setting};
use super::mutants::{Mutant, Mutated};
use super::random::Random;
use super::workload::{self, Twist};

/// A disk through many power cuts.
struct Powered {
    random: Random,
    disk: Arc<Cut>,
    known: Known,
    run: u32,
    history: Vec<Record>,
    mutant: Option<Mutant>,
    twist: Option<Twist>,
}

impl Powered {
    fn new(seed: u64, mutant: Option<Mutant>, twist: Option<Twist>) -> Self {
        let disk = Arc::new(Cut::new(500));
        Self {
            random: Random::new(seed),
            disk,
            known: Known::default(),
            run: 0,
            history: Vec::new(),
            mutant,
            twist,
        }
    }

    /// One start, until the power goes.
    fn run(&mut self, read_only: bool) {
        self.run += 1;
        let mut plan = self.known.plan(self.run, &mut self.random, read_only);
        plan.twist = self.twist;
        if self.mutant == Some(Mutant::HeadFirst) {
            // Only a cut within a create shows it, so every second step is one; and the clock does not jump, or the
            // many sessions would expire.
            (plan.sessions, plan.ahead_ms) = (plan.live.len() + 64, 0);
        }
        let clock = workload::clock(plan.ahead_ms);
        let sink = Arc::new(Sink::in_memory(self.run, Arc::clone(&clock)));
        let mut disk: Arc<dyn Durable> = Arc::<Cut>::clone(&self.disk);
        if let Some(mutant) = self.mutant {
            disk = Arc::new(Mutated::new(disk, mutant));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // The power may go before the store is open.
            let opened = Store::over(disk, Keys::generate(), 16 << 10, &workload::sessions(), clock).await;
            let Ok(store) = opened else { return };
            let work = workload::work(store, &plan, Arc::clone(&sink), Arc::clone(&stop), || {});
            let lights = async {
                while !self.disk.is_dark() {
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
                // What a store without power says is part of the history.
                tokio::time::sleep(Duration::from_millis(1)).await;
                stop.store(true, Ordering::Relaxed);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = work => {}
                () = lights => {}
            }
        });
        drop(runtime);
        let records = sink.take();
        self.known.learn(&records);
        self.history.extend(records);
        let how = if read_only { What::Ended } else { What::Killed };
        self.history.push(Record { run: self.run, n: 0, at: 0, what: how });
        let rows = match self.random.below(10) {
            // Some have power for a part of the start only.
            0 => self.random.below(12),
            1..6 => 20 + self.random.below(200),
            _ => 20 + self.random.below(1_000),
        };
        self.disk = Arc::new(self.disk.after_crash(&mut self.random, rows));
    }

    fn cuts(&mut self, count: u64) {
        for _ in 0..count {
            self.run(false);
        }
        // With power for all that a start writes.
        self.disk = Arc::new(self.disk.after_crash(&mut self.random, 1 << 30));
        self.run(true);
    }

    fn check(&self, floors: &Floors) -> Verdict {
        let settings = Settings {
            touch_ms: workload::touch_ms(),
            reads_may_fail: false,
            writes_may_fail: true,
            may_be_set_aside: false,
        };
        checker::check(&self.history, settings, floors)
    }
}

/// Cuts that every mutant has to be found within, in rounds.
const ROUNDS: u64 = 10;
const CUTS: u64 = 8;

#[test]
fn no_power_cut_at_any_row_breaks_a_promise() {
    let seed = seed();
    let cuts = setting("CRASH_CUTS").unwrap_or(120);
    let mut powered = Powered::new(seed, None, None);
    powered.cuts(cuts);
    let cuts = cuts as usize;
    let floors = Floors {
        kills: cuts,
        kills_in_flight: cuts / 2,
        creates: cuts / 4,
        puts: cuts / 2,
        updates: cuts / 2,
        counts: cuts,
        appends: cuts,
        trims: cuts / 4,
        terminates: cuts / 4,
        touches: cuts / 4,
        reads: cuts,
        sends: 0,
    };
    match powered.check(&floors) {
        Verdict::Sound(_) => {}
        verdict => panic!("CRASH_SEED={seed}: {verdict}"),
    }
}

fn must_be_found(mutant: Option<Mutant>, twist: Option<Twist>, rules: &[Rule]) {
    let seed = seed();
    let mut powered = Powered::new(seed, mutant, twist);
    for _ in 0..ROUNDS {
        powered.cuts(CUTS);
        let verdict = powered.check(&Floors::default());
        let found = verdict.rules();
        if !found.is_empty() {
            assert!(
                found.iter().any(|rule| rules.contains(rule)),
                "CRASH_SEED={seed}: {mutant:?} {twist:?} was found by {found:?}, not by {rules:?}: {verdict}"
            );
            return;
        }
        assert!(matches!(verdict, Verdict::Sound(_)), "CRASH_SEED={seed}: {verdict}");
    }
    panic!("CRASH_SEED={seed}: {mutant:?} {twist:?} survived {} power cuts", ROUNDS * CUTS);
}

#[test]
fn a_store_without_mistakes_passes_what_the_mutants_have_to() {
    let seed = seed();
    let mut powered = Powered::new(seed, None, None);
    for _ in 0..ROUNDS {
        powered.cuts(CUTS);
        let verdict = powered.check(&Floors::default());
        assert!(matches!(verdict, Verdict::Sound(_)), "CRASH_SEED={seed}: {verdict}");
    }
}

macro_rules! mutants {
    ($($name:ident: $mutant:expr, $twist:expr, [$($rule:ident),+];)+) => {$(
        #[test]
        fn $name() {
            must_be_found($mutant, $twist, &[$(Rule::$rule),+]);
        }
    )+};
}

mutants! {
    finds_writes_that_are_never_flushed: Some(Mutant::NoFlush), None, [SessionLost, FieldOrder, CountLost, EntryLost];
    finds_acknowledgements_before_the_commit: Some(Mutant::AckEarly), None, [FieldOrder, CountLost, EntryLost, SessionLost];
    finds_errors_that_are_taken_for_success: Some(Mutant::ErrorsIgnored), None, [SessionLost, FieldOrder, CountLost, EntryLost];
    finds_writes_that_are_dropped: Some(Mutant::DropNth), None, [FieldOrder, CountLost, HalfCreate, HalfUpdate];
    finds_writes_of_a_field_in_the_wrong_order: Some(Mutant::Reorder), None, [FieldOrder, CountLost, HalfUpdate];
    finds_an_entry_that_is_there_twice: Some(Mutant::DuplicateEntry), None, [EntryFromNowhere];
    finds_a_hole_in_a_log: Some(Mutant::HoleInLog), None, [TrimmedTooMuch, EntryLost];
    finds_a_terminated_session_that_comes_back: Some(Mutant::LostTombstone), None, [Revived];
    finds_half_a_create: Some(Mutant::HalfCreate), None, [HalfCreate];
    finds_a_session_that_is_there_before_its_fields: Some(Mutant::HeadFirst), None, [HalfCreate];
    finds_half_an_update: Some(Mutant::UpdateUnnoted), None, [HalfUpdate];
    finds_a_value_that_is_older_after_a_restart: Some(Mutant::StaleAfterRestart), None, [FieldOrder, CountLost, HalfUpdate];
    finds_a_trim_that_takes_too_much: Some(Mutant::TrimTooFar), None, [TrimmedTooMuch];
    finds_a_trim_that_is_undone: Some(Mutant::TrimForgotten), None, [Untrimmed];
    finds_sessions_that_are_lost_without_a_word: Some(Mutant::EmptyAfterRestart), None, [SessionLost];
    finds_uses_that_are_not_noted: Some(Mutant::UseForgotten), None, [UseLost];
    finds_an_origin_that_is_used_again: None, Some(Twist::SameOrigin), [OriginReused];
    finds_an_increment_that_is_applied_twice: None, Some(Twist::CountTwice), [CountTwice];
    finds_an_increment_that_is_overwritten: None, Some(Twist::CountByReading), [CountLost];
}
