//! An event stream of a remote server as it comes.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Response;
use tokio::time::timeout;

use crate::base::limits::{SSE_EVENT_BYTES, UPSTREAM_IDLE};
use crate::rpc::sse::{Event, Reader};

/// What it means that nothing comes on a stream for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The stream may be half gone, so it has ended.
    Ends,
    /// The same, once it has an event behind which it can be resumed. Without one, its end would be that of what waits
    /// for it.
    EndsWhereResumable,
    /// Nothing. Whoever reads the stream does not wait for ever.
    Borne,
}

/// A stream of events.
#[derive(Debug)]
pub(super) struct Frames {
    response: Response,
    reader: Reader,
    ready: VecDeque<Event>,
    failed: Option<String>,
    on_silence: Silence,
    /// How long a silence is that means something.
    idle: Duration,
}

impl Frames {
    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            reader: Reader::new(SSE_EVENT_BYTES),
            ready: VecDeque::new(),
            failed: None,
            on_silence: Silence::Ends,
            idle: UPSTREAM_IDLE,
        }
    }

    pub(super) fn on_silence(&mut self, means: Silence) {
        self.on_silence = means;
    }

    /// The next event that has data; `None` at the end, why it broke otherwise. May be dropped and called again without
    /// loss.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, String> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                // The first event of a stream may carry an id and nothing else (MCP 2025-11-25, transports).
                if event.data.is_empty() {
                    continue;
                }
                return Ok(Some(event));
            }
            if let Some(why) = &self.failed {
                return Err(why.clone());
            }
            let idle = match self.on_silence {
                Silence::Ends => self.idle,
                Silence::EndsWhereResumable if self.last_event_id().is_some() => self.idle,
                Silence::EndsWhereResumable | Silence::Borne => Duration::MAX,
            };
            match timeout(idle, self.response.chunk()).await {
                Ok(Ok(Some(part))) => {
                    let mut events = Vec::new();
                    if let Err(error) = self.reader.push(&part, &mut events) {
                        self.failed = Some(error.to_string());
                    }
                    self.ready.extend(events);
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(error.without_url().to_string()),
                Err(_) => return Err(format!("nothing came for {} s", self.idle.as_secs())),
            }
        }
    }

    /// The id to resume the stream with.
    pub(super) fn last_event_id(&self) -> Option<&str> {
        self.reader.last_event_id()
    }

    /// How long the server wants to be waited before the stream is opened anew.
    pub(super) fn retry(&self) -> Option<Duration> {
        self.reader.retry().map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use tokio::time::sleep;

    use super::*;

    const IDLE: Duration = Duration::from_millis(100);

    /// A stream that begins with this and says one thing after a silence.
    fn silent(begins: &'static str, means: Silence) -> Frames {
        let parts = stream::unfold(0, move |n| async move {
            let text = match n {
                0 => begins,
                1 => {
                    sleep(IDLE * 5).await;
                    "data: late\n\n"
                }
                _ => return None,
            };
            Some((Ok::<_, std::io::Error>(Bytes::from(text)), n + 1))
        });
        let mut frames = Frames::new(http::Response::new(reqwest::Body::wrap_stream(parts)).into());
        frames.on_silence(means);
        frames.idle = IDLE;
        frames
    }

    #[tokio::test]
    async fn silence_ends_a_stream_only_where_that_harms_nobody() {
        const WITH_ID: &str = "id: 1\ndata: \n\n";
        for (begins, means, is_heard) in [
            (": hello\n\n", Silence::Ends, false),
            (": hello\n\n", Silence::EndsWhereResumable, true),
            (WITH_ID, Silence::EndsWhereResumable, false),
            (WITH_ID, Silence::Borne, true),
        ] {
            let heard = silent(begins, means).next().await;
            let heard = heard.is_ok_and(|event| event.is_some_and(|event| event.data == b"late"));
            assert_eq!(heard, is_heard, "{begins:?} {means:?}");
        }
    }
}
