//! How many streams of sister instances carry what an operator says here: they are asked, and waited for a little.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::base::ids::SessionKey;
use crate::base::limits::{CARRIERS_ASKED, CARRIERS_WAIT};
use crate::engine::Engine;
use crate::state::log::StreamName;

/// The questions that wait for answers of sisters.
#[derive(Debug, Default)]
pub(super) struct Asked {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::Sender<usize>>>,
}

impl Asked {
    fn begin(&self) -> (u64, mpsc::Receiver<usize>) {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, answers) = mpsc::channel(CARRIERS_ASKED);
        self.lock().insert(id, sender);
        (id, answers)
    }

    fn answer(&self, id: u64, streams: usize) {
        if let Some(sender) = self.lock().get(&id) {
            // One that is not waited for any more is none that counts.
            let _ = sender.try_send(streams);
        }
    }

    fn end(&self, id: u64) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<usize>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question; dropping it takes it back.
struct Question<'a>(&'a Asked, u64);

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

impl Engine {
    /// How many live streams of sisters carry messages of a session, or of broadcasts, as far as they say so in time.
    pub(super) async fn carried_elsewhere(self: &Arc<Self>, key: SessionKey) -> usize {
        let own = self.store.origin();
        let Some(running) = self.store.running_starts().await else { return 0 };
        let others = running.iter().filter(|origin| **origin != own).count().min(CARRIERS_ASKED);
        if others == 0 {
            return 0;
        }
        let (id, mut answers) = self.topics.asked.begin();
        let _question = Question(&self.topics.asked, id);
        self.announce_question(id, key);
        let mut streams = 0;
        let all = async {
            for _ in 0..others {
                match answers.recv().await {
                    Some(more) => streams += more,
                    None => return,
                }
            }
        };
        let _ = timeout(CARRIERS_WAIT, all).await;
        streams
    }

    /// A sister asks how many streams carry a session here.
    pub(in crate::engine) fn asked_by_sister(self: &Arc<Self>, sister: String, id: u64, key: SessionKey) {
        let streams = if key == SessionKey::BROADCAST {
            self.broadcast.readers()
        } else {
            let session = self.by_key.with(&key, Weak::upgrade).flatten();
            usize::from(session.is_some_and(|session| session.streams().carrier(StreamName::GET).is_some()))
        };
        self.announce_answer(sister, id, streams);
    }

    /// A sister has answered a question, perhaps one of this instance.
    pub(in crate::engine) fn answered_by_sister(&self, to: &str, id: u64, streams: usize) {
        if to == self.store.origin().to_string() {
            self.topics.asked.answer(id, streams);
        }
    }
}
