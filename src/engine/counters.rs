//! What the engine counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::telemetry::metrics;

/// What the engine holds at this moment, and what it has done since it started.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Stats {
    /// Sessions in memory.
    pub sessions_loaded: usize,
    /// Sessions on this instance.
    pub sessions: usize,
    /// Open event streams of sessions.
    pub streams: usize,
    /// Calls in flight that did not end at once.
    pub calls: usize,
    /// Tasks that run; each is one of the calls, too.
    pub tasks: usize,
    /// Calls that ended well.
    pub calls_ok: u64,
    /// Calls that ended in a JSON-RPC error.
    pub calls_failed: u64,
    /// Times a client was told that messages of its stream are gone.
    pub gaps: u64,
    /// Sessions that the store did not know and that went on by their id alone.
    pub rehydrated: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    streams_opened: AtomicU64,
    streams_closed: AtomicU64,
    calls: AtomicUsize,
    calls_ok: AtomicU64,
    calls_failed: AtomicU64,
    gaps: AtomicU64,
    rehydrated: AtomicU64,
}

impl Counters {
    /// A number for a new stream.
    pub(super) fn next_stream(&self) -> u64 {
        self.streams_opened.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn stream_closed(&self) {
        self.streams_closed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn call_ended(&self, ok: bool) {
        if ok { &self.calls_ok } else { &self.calls_failed }.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn call_started(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn call_finished(&self, ok: bool) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
        self.call_ended(ok);
    }

    pub(super) fn gap(&self) {
        metrics::of_process().gaps_signalled.inc();
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    /// Events were handed to a connection.
    pub(super) fn delivered(&self, events: u64) {
        metrics::of_process().events_delivered.inc_by(events);
    }

    /// A connection took a stream over from another one.
    pub(super) fn taken_over(&self) {
        metrics::of_process().takeovers.inc();
    }

    pub(super) fn rehydrated(&self) {
        metrics::of_process().sessions_rehydrated.inc();
        self.rehydrated.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self, sessions_loaded: usize, sessions: usize, tasks: usize) -> Stats {
        let closed = self.streams_closed.load(Ordering::Relaxed);
        let opened = self.streams_opened.load(Ordering::Relaxed);
        Stats {
            sessions_loaded,
            sessions,
            streams: usize::try_from(opened.saturating_sub(closed)).unwrap_or(usize::MAX),
            calls: self.calls.load(Ordering::Relaxed),
            tasks,
            calls_ok: self.calls_ok.load(Ordering::Relaxed),
            calls_failed: self.calls_failed.load(Ordering::Relaxed),
            gaps: self.gaps.load(Ordering::Relaxed),
            rehydrated: self.rehydrated.load(Ordering::Relaxed),
        }
    }
}
