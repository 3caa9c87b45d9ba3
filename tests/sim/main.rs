//! Several instances in one thread on a simulated shared store: every run follows from its seed.
//!
//! `SIM_SEED` and `SIM_SEEDS` say which runs are made, `SIM_OPS` how long each is; `SIM_HISTORY` has a history judged
//! that was kept.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data;
mod directed;
mod disk;
#[expect(dead_code, reason = "shared with the chaos runs, which use all of it")]
#[path = "../failover/mod.rs"]
mod failover;
mod mutants;
mod remote;
mod run;
mod seeds;
mod world;
