//! Model tests of the pure machines, and of the store against a model and against real files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backup;
mod crash;
mod cursor;
mod doc;
mod files;
mod hops;
mod lock;
mod log;
mod quota;
#[expect(dead_code, reason = "shared with other tests, which use all of it")]
#[path = "../support/random.rs"]
mod random;
mod result;
mod store;
mod task;
mod topic;
mod upgrade;

use proptest::test_runner::Config;

/// At least `cases` cases; `PROPTEST_CASES` raises them.
fn cases(cases: u32) -> Config {
    let config = Config::default();
    Config { cases: config.cases.max(cases), failure_persistence: None, ..config }
}
