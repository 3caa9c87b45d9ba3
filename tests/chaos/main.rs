//! Instances against real Redis processes that are killed, stopped, emptied and cut off; the same checker as for the
//! simulation decides whether any word was broken.
//!
//! `CHAOS_SECONDS` or `CHAOS_MINUTES` say how long each form of Redis is fought over, `CHAOS_SEED` repeats the choices of
//! a run (though not the moments of the scheduler), `CHAOS_RATE` is the number of faults per second that is aimed at,
//! `CHAOS_PAUSE_MS` the time between two operations of one of the twelve who work, and `CHAOS_HISTORY` has a history
//! judged that was kept.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "shared with the simulation, which uses all of it")]
#[path = "../failover/mod.rs"]
mod failover;
mod frames;
mod proxy;
#[expect(clippy::expect_used, reason = "shared with other tests")]
#[path = "../support/redis.rs"]
mod redis;
mod servers;
mod stores;
mod storm;
#[expect(dead_code, clippy::expect_used, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;
mod topology;

/// Settings of the link: those of the service.
const LINK: &[(&str, &str)] = &[];
