//! One integration binary: the server as a process, spoken to over real sockets; a module per promise.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod bad_input;
mod bridge;
mod cached;
mod catalog;
mod children;
mod cli;
mod crash;
mod duplex;
mod execute;
mod full;
mod history;
mod idle;
mod legacy;
mod modern;
#[path = "../support/redis.rs"]
#[expect(dead_code, reason = "other tests use what this one does not")]
mod redis;
mod rest;
mod sealing;
mod sessions;
mod sessions_cli;
mod shared;
mod stream_model;
mod streams;
mod support;
mod tasks;
#[path = "../support/tls.rs"]
mod tls;
mod upstream;
mod wire;

/// A machine that does other things besides is no Redis that fails.
const LINK: &[(&str, &str)] = &[
    ("OUTLAST_REDIS__DEADLINE_MS", "1000"),
    ("OUTLAST_REDIS__SLOW_MS", "1000"),
    ("OUTLAST_REDIS__CONNECT_MS", "2000"),
];
