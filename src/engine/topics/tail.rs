//! One who listens: a bounded queue that nobody waits for, and the stream of events that empties it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use crate::base::limits::{STREAM_BATCH, TAIL_QUEUE, TAIL_QUEUE_BYTES, TAILS};
use crate::engine::{Engine, Events, EventsKind};
use crate::mcp::era::Refusal;
use crate::rpc::error::{INTERNAL, INVALID_REQUEST, RpcError};
use crate::rpc::sse::write_event;
use crate::state::topic::Filter;

/// One who listens to the topics that a filter picks.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) filter: Filter,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// What did not fit since the last one that did.
    missed: u64,
}

impl Tail {
    fn new(filter: Filter) -> Self {
        Self { filter, queue: Mutex::default(), waker: AtomicWaker::new() }
    }

    /// Queues a frame, or notes that it is missed.
    pub(super) fn push(&self, frame: &Bytes) {
        let mut queue = self.queue();
        // Room for this one, and for saying what was missed before it.
        let fits = queue.frames.len() + 2 <= TAIL_QUEUE && queue.bytes + frame.len() <= TAIL_QUEUE_BYTES;
        if fits {
            queue.tell_missed();
            queue.add(frame.clone());
        } else {
            queue.missed = queue.missed.saturating_add(1);
        }
        drop(queue);
        self.waker.wake();
    }

    /// So many were missed elsewhere; `None`: some, perhaps.
    pub(super) fn miss(&self, count: Option<u64>) {
        let mut queue = self.queue();
        match count {
            Some(count) => queue.missed = queue.missed.saturating_add(count),
            None if queue.frames.len() + 2 <= TAIL_QUEUE => queue.add(missed_frame("null")),
            None => queue.missed = queue.missed.saturating_add(1),
        }
        drop(queue);
        self.waker.wake();
    }

    /// What is next; nothing: nothing was said.
    fn take(&self) -> Vec<u8> {
        let mut queue = self.queue();
        let mut frames = Vec::new();
        for _ in 0..STREAM_BATCH {
            let Some(frame) = queue.frames.pop_front() else { break };
            queue.bytes = queue.bytes.saturating_sub(frame.len());
            frames.extend_from_slice(&frame);
        }
        if queue.frames.is_empty() && queue.missed > 0 {
            let missed = std::mem::take(&mut queue.missed);
            frames.extend_from_slice(&missed_frame(&missed.to_string()));
        }
        frames
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn add(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    fn tell_missed(&mut self) {
        if self.missed > 0 {
            let missed = std::mem::take(&mut self.missed);
            self.add(missed_frame(&missed.to_string()));
        }
    }
}

fn missed_frame(count: &str) -> Bytes {
    let mut frame = Vec::new();
    write_event(&mut frame, None, None, format!("{{\"missed\":{count}}}").as_bytes());
    frame.into()
}

impl Engine {
    /// A stream of what is said on the topics that a filter picks, on this instance and on its sisters.
    ///
    /// # Errors
    /// 400 for a filter that makes no sense; 503 when there are too many streams of this kind, or the server stops.
    pub async fn tail(self: &Arc<Self>, filter: &str) -> Result<Events, Refusal> {
        let filter = Filter::parse(filter)
            .map_err(|why| Refusal { status: 400, error: RpcError::new(INVALID_REQUEST, why) })?;
        let topics = &self.topics;
        if self.stopping.is_cancelled() || topics.tails.len() >= TAILS {
            let why =
                format!("{TAILS} tails at a time are what a server takes, while it does not stop: end one");
            return Err(Refusal { status: 503, error: RpcError::new(INTERNAL, why) });
        }
        let first = topics.tails.is_empty();
        let number = topics.last_tail.fetch_add(1, Ordering::Relaxed);
        let tail = Arc::new(Tail::new(filter));
        topics.tails.insert(number, Arc::clone(&tail));
        topics.count();
        let events = TailEvents { engine: Arc::clone(self), tail, number, opened: false };
        if first {
            self.begin_to_hear_sisters().await;
        }
        self.tell_what_is_wanted();
        Ok(Events(EventsKind::Tail(events)))
    }
}

/// The events of one who listens.
pub(in crate::engine) struct TailEvents {
    engine: Arc<Engine>,
    tail: Arc<Tail>,
    number: u64,
    /// The first frame, which only says that it has begun, is sent.
    opened: bool,
}

impl TailEvents {
    pub(in crate::engine) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if !std::mem::replace(&mut self.opened, true) {
            return Poll::Ready(Some(Bytes::from(format!(": {}\n\n", self.tail.filter.as_str()))));
        }
        self.tail.waker.register(cx.waker());
        let frames = self.tail.take();
        if frames.is_empty() { Poll::Pending } else { Poll::Ready(Some(frames.into())) }
    }
}

impl Drop for TailEvents {
    fn drop(&mut self) {
        self.engine.topics.tails.remove(&self.number);
        self.engine.topics.count();
        self.engine.tell_what_is_wanted();
    }
}

impl fmt::Debug for TailEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TailEvents").field("filter", &self.tail.filter.as_str()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(frames: &[u8]) -> Vec<&str> {
        let text = std::str::from_utf8(frames).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    #[test]
    fn one_who_does_not_read_is_told_how_many_it_missed_and_where() {
        let tail = Tail::new(Filter::parse("#").unwrap());
        let frame = |n: usize| {
            let mut frame = Vec::new();
            write_event(&mut frame, None, None, n.to_string().as_bytes());
            Bytes::from(frame)
        };
        assert!(tail.take().is_empty());
        for n in 0..TAIL_QUEUE + 10 {
            tail.push(&frame(n));
        }
        let first = tail.take();
        assert_eq!(lines(&first), (0..STREAM_BATCH).map(|n| n.to_string()).collect::<Vec<_>>());
        // There is room again: what comes now stands behind what is missing.
        tail.push(&frame(9_999));
        let mut all: Vec<String> = Vec::new();
        loop {
            let frames = tail.take();
            if frames.is_empty() {
                break;
            }
            all.extend(lines(&frames).iter().map(|line| (*line).to_owned()));
        }
        let missed = TAIL_QUEUE + 10 - (TAIL_QUEUE - 1);
        let end = [(TAIL_QUEUE - 2).to_string(), format!("{{\"missed\":{missed}}}"), "9999".to_owned()];
        assert!(all.ends_with(&end), "{:?}", all.iter().rev().take(4).collect::<Vec<_>>());
        // Also when nothing comes after it.
        tail.push(&Bytes::from(vec![b'x'; TAIL_QUEUE_BYTES + 1]));
        tail.miss(Some(4));
        assert_eq!(lines(&tail.take()), ["{\"missed\":5}"]);
        tail.miss(None);
        assert_eq!(lines(&tail.take()), ["{\"missed\":null}"]);
    }
}
