//! The crash suite: the store is killed, damaged, starved of room and lied to by its disk, and a checker decides from
//! the history of what was said and acknowledged whether it has kept its word.
//!
//! `CRASH_SEED`, `CRASH_KILLS`, `CRASH_SECONDS`, `CRASH_CUTS`, `CRASH_DAMAGES` and `CRASH_SERVER_KILLS` set how much is
//! done; `CRASH_HISTORY` has a history judged that was kept.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checker;
mod cut;
mod damage;
mod disk;
mod faults;
mod history;
mod kills;
mod lane;
mod mutants;
mod power;
#[path = "../support/random.rs"]
mod random;
mod server;
#[expect(dead_code, clippy::expect_used, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;
mod workload;

/// Settings of the link: those of the service.
const LINK: &[(&str, &str)] = &[];
