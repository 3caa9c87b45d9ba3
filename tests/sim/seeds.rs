//! Many runs: none may break a promise, and no mutant may survive.

use std::path::Path;

use super::failover::checker::{Settings, Summary, Verdict, check};
use super::failover::history::{self, Record};
use super::mutants::Mutant;
use super::remote::LOG_ENTRIES;
use super::run::Sim;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn settings() -> Settings {
    Settings { log_entries: LOG_ENTRIES, ..Settings::default() }
}

fn steps() -> u64 {
    setting("SIM_OPS").unwrap_or(600)
}

fn play(seed: u64, mutant: Option<Mutant>) -> Vec<Record> {
    Sim::new(seed, mutant).play(steps())
}

fn keep(seed: u64, history: &[Record]) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sim-{seed}.jsonl"));
    history::keep(&path, history);
    path.display().to_string()
}

/// What a seed came to, or why it is not sound.
fn judged(seed: u64) -> Result<Summary, String> {
    let history = play(seed, None);
    match check(&history, &settings(), &[]) {
        Verdict::Sound(summary) => Ok(summary),
        verdict => {
            Err(format!("SIM_SEED={seed} SIM_SEEDS=1: {verdict}\nhistory: {}\n", keep(seed, &history)))
        }
    }
}

/// At least so many of each in all runs together, per seed.
const FLOORS: &[(&str, u64)] = &[
    ("create", 8),
    ("put", 60),
    ("append", 60),
    ("read", 40),
    ("read_log", 30),
    ("report", 8),
    ("lock", 4),
    ("terminate", 4),
    ("delivered", 60),
    ("resumed", 60),
    ("replayed", 60),
    ("while down", 20),
    ("compared reads", 10),
];

/// At least so many of each per ten seeds.
const RARE_FLOORS: &[(&str, u64)] = &[
    ("fault:cut", 10),
    ("fault:deaf", 10),
    ("fault:reply_loss", 10),
    ("fault:slow_pushes", 5),
    ("fault:restart", 5),
    ("fault:restart_empty", 2),
    ("fault:flushall", 2),
    ("fault:failover", 5),
    ("fault:zombie", 5),
    ("fault:evict", 10),
    ("fault:refuses", 5),
    ("fault:lag", 5),
    ("fault:clock_jump", 5),
    ("fault:crash", 20),
    ("gaps", 1),
    ("fenced_put", 4),
];

#[test]
#[expect(clippy::print_stderr, reason = "a run says what it was")]
fn no_seed_breaks_a_promise() {
    let first = setting("SIM_SEED").unwrap_or(1);
    let seeds = setting("SIM_SEEDS").unwrap_or(40);
    let mut all = Summary::default();
    let mut broken = Vec::new();
    for seed in first..first + seeds {
        match judged(seed) {
            Ok(summary) => all.add(&summary),
            Err(verdict) => broken.push(verdict),
        }
    }
    let told: String = broken.iter().take(3).map(String::as_str).collect();
    assert!(broken.is_empty(), "{} of {seeds} seeds are broken:\n{told}", broken.len());
    eprintln!("seeds {first} to {}: {all}", first + seeds - 1);
    if seeds >= 20 {
        let floor = |(name, each): &(&'static str, u64), per: u64| {
            let (have, want) = (all.count(name), each * seeds / per);
            assert!(have >= want, "{name}: {have} are too few, want {want}");
        };
        FLOORS.iter().for_each(|of| floor(of, 1));
        RARE_FLOORS.iter().for_each(|of| floor(of, 10));
    }
}

/// What does not differ between two runs of one seed: origins are random, and keep their order of appearance.
fn shape(history: &[Record]) -> Vec<String> {
    let mut origins: Vec<String> = Vec::new();
    for record in history {
        if let history::What::Start { origin, .. } = record.what {
            origins.push(origin.to_string());
        }
    }
    history
        .iter()
        .map(|record| {
            let text = serde_json::to_string(record).unwrap();
            match &record.what {
                // Stamps and places have the origin in them.
                history::What::Start { instance, .. } => format!("start {instance}"),
                history::What::Ok { op, link, .. } => format!("ok {op} {link:?}"),
                history::What::Delivered { client, value, .. } => format!("delivered {client} {value}"),
                history::What::Invoke { call: history::Call::Append { s, value, .. }, .. } => {
                    format!("append {s} {value}")
                }
                history::What::Shared { s, .. } => format!("shared {s}"),
                history::What::Gap { client, .. } => format!("gap {client}"),
                _ => text,
            }
        })
        .collect()
}

#[test]
fn one_seed_makes_one_run() {
    for seed in [3, 8] {
        let (one, two) = (shape(&play(seed, None)), shape(&play(seed, None)));
        let differs = one.iter().zip(&two).position(|(one, two)| one != two);
        assert_eq!(differs.map(|at| (at, &one[at], &two[at])), None, "seed {seed}");
        assert_eq!(one.len(), two.len(), "seed {seed}");
    }
}

#[test]
fn a_history_that_was_kept_is_judged_again() {
    let Some(path) = std::env::var_os("SIM_HISTORY") else { return };
    let history = history::read(Path::new(&path));
    let verdict = check(&history, &settings(), &[]);
    assert!(matches!(verdict, Verdict::Sound(_)), "{verdict}");
}

/// Seeds that every mutant has to be found within.
const MUTANT_SEEDS: u64 = 48;
/// Those in which the shyest were found before.
const LIKELY: [u64; 5] = [1, 9, 29, 4, 43];

#[test]
#[expect(clippy::print_stderr, reason = "says how long each lived")]
fn no_mutant_survives() {
    let mut survivors = Vec::new();
    let only = std::env::var("SIM_MUTANT").ok();
    for mutant in Mutant::ALL {
        if only.as_ref().is_some_and(|only| *only != format!("{mutant:?}")) {
            continue;
        }
        let most = setting("SIM_SEEDS").unwrap_or(MUTANT_SEEDS);
        let seeds = LIKELY.into_iter().chain(1..=most);
        let found = seeds.into_iter().find_map(|seed| {
            let verdict = check(&play(seed, Some(mutant)), &settings(), &[]);
            let rules = verdict.rules();
            (!rules.is_empty()).then_some((seed, rules))
        });
        match found {
            Some((seed, mut rules)) => {
                rules.sort_unstable();
                rules.dedup();
                eprintln!("{mutant:?}: seed {seed}, {rules:?}");
            }
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "these survived every seed: {survivors:?}");
}
