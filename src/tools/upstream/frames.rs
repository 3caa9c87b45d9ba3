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
}

impl Frames {
    pub(super) fn new(response: Response) -> Self {
        Self { response, reader: Reader::new(SSE_EVENT_BYTES), ready: VecDeque::new(), failed: None }
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
            match timeout(UPSTREAM_IDLE, self.response.chunk()).await {
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
