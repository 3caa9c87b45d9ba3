//! A child that says nothing: whether it is busy, or hangs.
//!
//! A call that was given up without a word from its child since says nothing by itself: a child that works on one thing at
//! a time is silent as well. So it is asked (MCP 2025-11-25, ping: the answer comes promptly). Until it has had a moment for
//! that it is in doubt, and who wants a child waits for it; then it is silent, and others are taken; and if it stays silent it
//! is ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Failure, Shared};
use crate::base::limits::CHILD_PROMPT;

/// What is known of a child's silence, the best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::tools::child) enum Silence {
    /// Nothing speaks for any.
    #[default]
    None,
    /// It was asked just now.
    Doubt,
    /// It was asked and says nothing.
    Silent,
}

/// The silence of one child.
pub(super) struct Watched {
    /// How many lines came from it.
    lines: AtomicU64,
    state: watch::Sender<Silence>,
    /// It left a ping unanswered when it had nothing else to do: its silence says nothing.
    ignores_pings: AtomicBool,
    /// For how long a silent child is waited for.
    patience: Duration,
}

impl Watched {
    pub(super) fn new(patience: Duration) -> Self {
        let (lines, ignores_pings) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { lines, state: watch::channel(Silence::None).0, ignores_pings, patience }
    }

    pub(super) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// A line came.
    pub(super) fn hear(&self) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        if *self.state.borrow() != Silence::None {
            self.state.send_replace(Silence::None);
        }
    }

    pub(super) fn state(&self) -> Silence {
        *self.state.borrow()
    }

    /// Waits while it is in doubt: a moment at most.
    pub(super) async fn decided(&self) {
        // The sender is here.
        let _ = self.state.subscribe().wait_for(|state| *state != Silence::Doubt).await;
    }

    pub(super) fn ignores_pings(&self) {
        self.ignores_pings.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// A call was given up, and no line came since it was sent.
    pub(super) fn doubt(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.silence.ignores_pings.load(Ordering::Relaxed) {
            return;
        }
        let begins = self.silence.state.send_if_modified(|state| {
            let begins = *state == Silence::None;
            if begins {
                *state = Silence::Doubt;
            }
            begins
        });
        if begins {
            let shared = Arc::clone(self);
            runtime.spawn(async move { shared.ask_for_a_sign().await });
        }
    }

    async fn ask_for_a_sign(self: &Arc<Self>) {
        let lines = self.silence.lines();
        let said_nothing = || self.silence.lines() == lines;
        let mut ping = std::pin::pin!(self.request("ping", "{}", self.silence.patience));
        let answer = match timeout(CHILD_PROMPT, ping.as_mut()).await {
            Ok(answer) => answer,
            Err(_) => {
                self.silence.state.send_if_modified(|state| {
                    // Looked at here: a line that comes from now on undoes it.
                    let is_silent = said_nothing();
                    if is_silent {
                        *state = Silence::Silent;
                    }
                    is_silent
                });
                ping.await
            }
        };
        if matches!(answer, Err(Failure::TimedOut)) && said_nothing() {
            let _ = self.fault.set("it did not answer any more");
            self.watch.kill();
        }
    }
}
