//! The fuzz targets on any toolchain, bounded: every seed, then seeds that are changed at random.
//!
//! `FUZZ_SECONDS` says how long each target runs (default 1), `FUZZ_SEED` repeats a run; both are printed. An input that
//! fails is kept under `target/fuzz`. `scripts/fuzz.sh` runs the same targets under libFuzzer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a run is repeated by what it prints")]

mod mutate;
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use outlast::base::ids::Origin;
use outlast::state::doc::Field;
use outlast::state::log::{Entry, Kind, StreamName};
use outlast::state::stamp::Stamp;
use outlast::store::durable::Table;
use outlast::store::payload::{At, Sealer};
use outlast::store::record;
use tokio::time::Instant;

use self::mutate::Mutator;

fn seeds_of(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}: want a number")))
}

fn check(name: &str, target: targets::Target, input: &[u8], from: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
        fs::create_dir_all(&kept).unwrap();
        let kept = kept.join(format!("{name}-failed"));
        fs::write(&kept, input).unwrap();
        eprintln!("{name}: {from} fails; the input is {}:\n{}", kept.display(), input.escape_ascii());
        resume_unwind(panic);
    }
}

fn run(name: &str) {
    let (_, target) = targets::ALL.iter().find(|(known, _)| *known == name).unwrap();
    let seeds = seeds_of(name);
    assert!(seeds.len() >= 3, "{name} has {} seeds", seeds.len());
    for (path, seed) in &seeds {
        check(name, *target, seed, &path.display().to_string());
    }
    let seconds = number("FUZZ_SECONDS").unwrap_or(1);
    let seed = number("FUZZ_SEED").unwrap_or_else(|| u64::from_be_bytes(outlast::base::seal::random()));
    println!("{name}: FUZZ_SECONDS={seconds} FUZZ_SEED={seed}");
    let inputs: Vec<&[u8]> = seeds.iter().map(|(_, seed)| seed.as_slice()).collect();
    let mut mutator = Mutator::new(seed, &inputs);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut runs = 0_u64;
    while Instant::now() < until {
        for _ in 0..64 {
            let input = mutator.next();
            check(name, *target, &input, &format!("run {runs} of FUZZ_SEED={seed}"));
            runs += 1;
        }
    }
    println!("{name}: {runs} runs");
}

#[test]
fn every_target_has_a_test_and_a_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let tests = fs::read_to_string(root.join("main.rs")).unwrap();
    for (name, _) in targets::ALL {
        assert!(root.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name} has no program");
        assert!(tests.contains(&format!("run(\"{name}\")")), "{name} has no test");
    }
}

#[test]
fn any_body_is_a_message_or_an_error_that_can_be_sent() {
    run("envelope");
}

#[test]
fn any_message_has_an_era_or_a_refusal() {
    run("era");
}

#[test]
fn any_headers_are_read_or_refused() {
    run("headers");
}

#[test]
fn an_event_id_says_what_it_was_written_from() {
    run("cursor");
}

#[test]
fn an_event_stream_is_read_alike_in_any_pieces() {
    run("sse");
}

#[test]
fn any_record_is_read_or_refused() {
    run("record");
}

#[test]
fn no_text_but_a_signed_one_is_a_session_id() {
    run("ids");
}

#[test]
fn answers_changed_as_text_stay_json() {
    run("view");
}

/// Seeds that must be good, made by the code of today; `FUZZ_WRITE_SEEDS=1` writes them.
fn good_records() -> Vec<(&'static str, Vec<u8>)> {
    let at = At { table: Table::Doc, key: b"fuzz" };
    let log = At { table: Table::Log, key: b"fuzz" };
    let plain = Sealer::new(targets::keys().clone(), false);
    let stamp = Stamp::from_bytes([3; Stamp::LEN]);
    let value = |text: &[u8]| Some(Bytes::copy_from_slice(text));
    let field = |value| record::encode_field(&plain, at, &Field { stamp, value }).unwrap();
    let entry = Entry {
        origin: Origin::from_bits(5),
        seq: 9,
        at_ms: 1_795_000_000_000,
        kind: Kind::Message,
        stream: StreamName::GET,
        payload: Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"method\":\"x\"}"),
    };
    let mark = record::Mark { base: 7, at_ms: 1, get: Some(3) };
    vec![
        ("good-field", field(value(b"short"))),
        ("good-field-packed", field(value(&[b'x'; 3_000]))),
        ("good-field-removed", field(None)),
        ("good-entry", record::encode_entry(&plain, log, &entry).unwrap()),
        ("good-content", record::encode_content(&plain, at, b"content").unwrap()),
        ("good-mark", record::encode(&mark).unwrap()),
    ]
}

#[test]
fn seeds_named_good_are_what_is_written_today() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
    let mut all: Vec<(PathBuf, Vec<u8>)> =
        good_records().into_iter().map(|(name, stored)| (dir.join("record").join(name), stored)).collect();
    all.push((dir.join("ids/good-token"), targets::token().as_bytes().to_vec()));
    for (path, bytes) in all {
        if number("FUZZ_WRITE_SEEDS").is_some() {
            fs::write(&path, &bytes).unwrap();
        }
        let held = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            held == bytes,
            "{} is not what is written today: FUZZ_WRITE_SEEDS=1 renews it",
            path.display()
        );
    }
}
