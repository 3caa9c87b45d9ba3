//! An event stream of a remote server as it comes.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Response;
use tokio::time::timeout;

use crate::base::limits::{SSE_EVENT_BYTES, UPSTREAM_IDLE};
use crate::rpc::sse::{Event, Reader};

/// A stream of events.
#[derive(Debug)]
pub(super) struct Frames {
    response: Response,
    reader: Reader,
    ready: VecDeque<Event>,
    failed: Option<String>,
    /// The silence after which the stream counts as half gone; none: whoever reads it does not wait for ever.
    idle: Option<Duration>,
}

impl Frames {
    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            reader: Reader::new(SSE_EVENT_BYTES),
            ready: VecDeque::new(),
            failed: None,
            idle: Some(UPSTREAM_IDLE),
        }
    }

    /// Bears silence: its end would be that of what waits for it.
    pub(super) fn patient(mut self: Box<Self>) -> Box<Self> {
        self.idle = None;
        self
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
            match timeout(self.idle.unwrap_or(Duration::MAX), self.response.chunk()).await {
                Ok(Ok(Some(part))) => {
                    let mut events = Vec::new();
                    if let Err(error) = self.reader.push(&part, &mut events) {
                        self.failed = Some(error.to_string());
                    }
                    self.ready.extend(events);
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(error.without_url().to_string()),
                Err(_) => return Err(format!("nothing came for {} s", UPSTREAM_IDLE.as_secs())),
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

    /// A stream that says one thing after a silence.
    fn silent() -> Box<Frames> {
        let parts = stream::once(async {
            sleep(IDLE * 5).await;
            Ok::<_, std::io::Error>(Bytes::from("data: late\n\n"))
        });
        let response = http::Response::new(reqwest::Body::wrap_stream(parts));
        let mut frames = Box::new(Frames::new(response.into()));
        frames.idle = frames.idle.map(|_| IDLE);
        frames
    }

    #[tokio::test]
    async fn silence_ends_a_stream_unless_it_is_borne() {
        assert!(silent().next().await.is_err());
        assert_eq!(silent().patient().next().await.unwrap().unwrap().data, b"late");
    }
}
