//! The body of a streamed answer: the engine's events, comments while it is silent, and an end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::reply::EventBody;
use crate::config;
use crate::edge::Frames;
use crate::rpc::sse::KEEP_ALIVE;

/// When streams get comments, and when they end by themselves.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    keep_alive: Option<Duration>,
    max: Option<Duration>,
    drain: CancellationToken,
}

impl Pace {
    /// The pace of the settings; streams end when `drain` fires.
    pub(crate) fn new(settings: &config::Streams, drain: CancellationToken) -> Self {
        let seconds = |value: u64| (value > 0).then(|| Duration::from_secs(value));
        Self { keep_alive: seconds(settings.keep_alive_seconds), max: seconds(settings.max_seconds), drain }
    }
}

/// The body. Nothing is queued here: the source is asked when the connection has room.
pub(crate) struct EventStream<F> {
    events: Pin<Box<F>>,
    keep_alive: Option<Duration>,
    /// When something was sent last.
    last: Instant,
    ends: Option<Instant>,
    /// Due for the next comment or the end, whichever is first. It is not moved with every event, which would cost
    /// more than the event: when it fires early, it is set anew.
    timer: Option<Pin<Box<Sleep>>>,
    drained: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<F> std::fmt::Debug for EventStream<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream")
            .field("last", &self.last)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl<F: Frames> EventStream<F> {
    pub(crate) fn new(events: F, pace: &Pace) -> Self {
        let now = Instant::now();
        let mut stream = Self {
            events: Box::pin(events),
            keep_alive: pace.keep_alive,
            last: now,
            ends: pace.max.map(|max| now + max),
            timer: None,
            drained: Box::pin(pace.drain.clone().cancelled_owned()),
        };
        stream.timer = stream.due().map(|due| Box::pin(sleep_until(due)));
        stream
    }

    fn due(&self) -> Option<Instant> {
        let comment = self.keep_alive.map(|every| self.last + every);
        comment.into_iter().chain(self.ends).min()
    }
}

impl<F: Frames> EventBody for EventStream<F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        // Events first: what is ready when a drain begins still goes out.
        if let Poll::Ready(next) = self.events.as_mut().poll_next(cx) {
            self.last = Instant::now();
            return Poll::Ready(next);
        }
        if self.drained.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if self.ends.is_some_and(|ends| ends <= now) {
                return Poll::Ready(None);
            }
            let silent = self.keep_alive.is_some_and(|every| self.last + every <= now);
            if silent {
                self.last = now;
            }
            let due = self.due();
            if let (Some(timer), Some(due)) = (&mut self.timer, due) {
                timer.as_mut().reset(due);
            }
            if silent {
                return Poll::Ready(Some(Bytes::from_static(KEEP_ALIVE)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::mpsc;

    use super::*;

    struct Queue(mpsc::Receiver<Bytes>);

    impl Frames for Queue {
        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
            self.0.poll_recv(cx)
        }

        fn is_left_open(&self) -> bool {
            true
        }
    }

    type Opened = (mpsc::Sender<Bytes>, CancellationToken, EventStream<Queue>);

    fn stream(keep_alive: Option<Duration>, max: Option<Duration>) -> Opened {
        let (sender, receiver) = mpsc::channel(8);
        let drain = CancellationToken::new();
        let pace = Pace { keep_alive, max, drain: drain.clone() };
        (sender, drain, EventStream::new(Queue(receiver), &pace))
    }

    async fn next(stream: &mut EventStream<Queue>) -> Option<Bytes> {
        poll_fn(|cx| stream.poll(cx)).await
    }

    const TICK: Duration = Duration::from_millis(60);

    #[tokio::test]
    async fn a_comment_follows_silence_and_only_silence() {
        let (sender, _drain, mut stream) = stream(Some(TICK), None);
        let start = Instant::now();
        assert_eq!(next(&mut stream).await.unwrap(), KEEP_ALIVE);
        assert!(start.elapsed() >= TICK);
        sleep_until(Instant::now() + TICK / 2).await;
        sender.send(Bytes::from_static(b"event")).await.unwrap();
        let sent = Instant::now();
        assert_eq!(next(&mut stream).await.unwrap(), b"event".as_slice());
        assert_eq!(next(&mut stream).await.unwrap(), KEEP_ALIVE);
        assert!(sent.elapsed() >= TICK);
    }

    #[tokio::test]
    async fn a_stream_ends_after_its_time_whatever_else_is_due() {
        let (_sender, _drain, mut stream) = stream(Some(TICK), Some(TICK * 5 / 2));
        let start = Instant::now();
        while next(&mut stream).await.is_some() {}
        assert!(start.elapsed() >= TICK * 5 / 2);
    }

    #[tokio::test]
    async fn a_drain_ends_a_stream_after_what_is_ready() {
        let (sender, drain, mut stream) = stream(None, None);
        sender.send(Bytes::from_static(b"last")).await.unwrap();
        drain.cancel();
        assert_eq!(next(&mut stream).await.unwrap(), b"last".as_slice());
        assert_eq!(next(&mut stream).await, None);
    }

    #[tokio::test]
    async fn a_drain_wakes_a_silent_stream() {
        let (_sender, drain, mut stream) = stream(None, None);
        let reader = tokio::spawn(async move { next(&mut stream).await });
        tokio::task::yield_now().await;
        drain.cancel();
        assert_eq!(reader.await.unwrap(), None);
    }

    #[test]
    fn zero_seconds_mean_never() {
        let settings =
            config::Streams { keep_alive_seconds: 0, max_seconds: 0, ..config::Streams::default() };
        let pace = Pace::new(&settings, CancellationToken::new());
        assert_eq!((pace.keep_alive, pace.max), (None, None));
    }
}
