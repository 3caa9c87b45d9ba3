//! Which tools of a server ask their client, and what else of it does: learned from its calls, because a server does not
//! say it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::limits::{OFFERS_PER_HOST, TOOLS_PER_HOST};
use crate::tools::Tool;

/// What is known of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// It was not called yet, or never alone.
    Unknown,
    /// It has asked.
    Asks,
    /// It ran alone and did not ask.
    Quiet,
}

/// What is known of a server's tools, prompts and resources.
#[derive(Debug, Default)]
pub(super) struct Habits(Mutex<HashMap<String, Habit>>);

impl Habits {
    pub(super) fn of(&self, tool: &str) -> Habit {
        self.lock().get(tool).copied().unwrap_or(Habit::Unknown)
    }

    /// A call of it has ended. `alone`: no other call could be taken for the one that asked.
    pub(super) fn learn(&self, tool: &str, asked: bool, alone: bool) {
        let known = self.of(tool);
        let habit = match (asked, alone, known) {
            (true, ..) => Habit::Asks,
            (false, true, Habit::Unknown) => Habit::Quiet,
            _ => return,
        };
        let mut habits = self.lock();
        // Prompts come and go, too, and only a listing of tools forgets them.
        if habits.len() < TOOLS_PER_HOST + OFFERS_PER_HOST || habits.contains_key(tool) {
            habits.insert(tool.to_owned(), habit);
        }
    }

    /// Forgets what is none of these tools; what stands beside tools is learned again.
    pub(super) fn keep(&self, tools: &[Tool]) {
        let mut habits = self.lock();
        if !habits.is_empty() {
            habits.retain(|name, _| tools.iter().any(|tool| tool.name == *name));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Habit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_quiet_only_when_it_ran_alone_and_asks_for_good_once_it_did() {
        let habits = Habits::default();
        habits.learn("a", false, false);
        assert_eq!(habits.of("a"), Habit::Unknown);
        habits.learn("a", false, true);
        assert_eq!(habits.of("a"), Habit::Quiet);
        habits.learn("a", true, false);
        habits.learn("a", false, true);
        assert_eq!(habits.of("a"), Habit::Asks);
        habits.keep(&[]);
        assert_eq!(habits.of("a"), Habit::Unknown);
    }
}
