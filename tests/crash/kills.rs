//! Processes that are killed at any moment, by the hundred, on the same directory.

use std::time::Duration;

use tokio::time::Instant;

use super::checker::{self, Floors, Rule, Settings, Summary, Verdict};
use super::lane::{Lane, Moment, seed, setting};
use super::mutants::Mutant;
use super::{history, workload};

/// Kills at any moment until there were enough; in the end everything is read.
fn kill_again_and_again(name: &str, seed: u64, kills: u64, until: Option<Instant>) -> Summary {
    let mut lane = Lane::new(name, seed);
    let mut killed = 0;
    while killed < kills || until.is_some_and(|until| Instant::now() < until) {
        let longest = if lane.random.one_in(10) { 300 } else { 60 };
        let ms = lane.random.below(longest);
        let when = match lane.random.one_in(6) {
            true => Moment::AfterStart(Duration::from_millis(ms)),
            false => Moment::AtWork(Duration::from_millis(ms)),
        };
        if let Some(status) = lane.run_and_kill(when) {
            lane.fail(&format!("the process ended by itself: {status}"));
        }
        killed += 1;
    }
    let status = lane.read_all();
    if !status.success() {
        lane.fail(&format!("the last process failed: {status}"));
    }
    let kills = killed as usize;
    lane.must_be_sound(&Floors {
        kills,
        kills_in_flight: kills / 2,
        creates: kills / 4,
        puts: 3 * kills,
        updates: 2 * kills,
        counts: 3 * kills,
        appends: 3 * kills,
        trims: kills,
        terminates: kills / 8,
        touches: kills,
        reads: 5 * kills,
        sends: 0,
    })
}

#[test]
#[expect(clippy::print_stderr, reason = "how much was done is part of the result")]
fn no_kill_at_any_moment_breaks_a_promise() {
    let seed = seed();
    let kills = setting("CRASH_KILLS").unwrap_or(200);
    let until = setting("CRASH_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    // While one directory is read by a new process, the other one is written.
    let lanes: Vec<_> = (0..2)
        .map(|lane| {
            let run =
                move || kill_again_and_again(&format!("kills-{lane}"), seed + lane, kills.div_ceil(2), until);
            std::thread::spawn(run)
        })
        .collect();
    for lane in lanes {
        match lane.join() {
            Ok(summary) => eprintln!("CRASH_SEED={seed}: {summary}"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

#[test]
fn kills_in_the_first_milliseconds_of_a_start_lose_nothing() {
    let mut lane = Lane::new("restarts", seed());
    for _ in 0..3 {
        lane.run_and_kill(Moment::AtWork(Duration::from_millis(150)));
        for _ in 0..30 {
            let us = lane.random.below(60_000);
            if let Some(status) = lane.run_and_kill(Moment::AfterStart(Duration::from_micros(us))) {
                lane.fail(&format!("the process ended by itself: {status}"));
            }
        }
    }
    lane.read_all();
    lane.must_be_sound(&Floors { kills: 93, creates: 5, puts: 5, appends: 5, ..Floors::default() });
}

/// In the real process, over the real database.
#[test]
fn finds_mistakes_of_a_real_process_too() {
    for (mutant, rules) in [
        (Mutant::NoFlush, &[Rule::SessionLost, Rule::FieldOrder, Rule::CountLost, Rule::EntryLost][..]),
        (Mutant::LostTombstone, &[Rule::Revived]),
        (Mutant::StaleAfterRestart, &[Rule::FieldOrder, Rule::CountLost, Rule::HalfUpdate]),
    ] {
        let mut lane = Lane::new("mutant", seed());
        lane.mutant = Some(mutant);
        let found = (0..20).any(|_| {
            lane.run_and_kill(Moment::AtWork(Duration::from_millis(80)));
            lane.check(&Floors::default()).rules().iter().any(|rule| rules.contains(rule))
        });
        if !found {
            lane.fail(&format!("{mutant:?} survived"));
        }
    }
}

/// `CRASH_HISTORY=…/history.jsonl` judges a history that was kept.
#[test]
fn a_history_that_was_kept() {
    let Some(path) = std::env::var_os("CRASH_HISTORY") else { return };
    let history = history::read(path.as_ref());
    let settings = Settings {
        touch_ms: workload::touch_ms(),
        reads_may_fail: true,
        writes_may_fail: true,
        may_be_set_aside: true,
    };
    let verdict = checker::check(&history, settings, &Floors::default());
    assert!(matches!(verdict, Verdict::Sound(_)), "{verdict}");
}
