//! The body of a request, in whole: bounded in size and time.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use tokio::time::{Sleep, sleep};

use super::reply::Refusal;

/// Reads a body of at most `limit` bytes within `within`; `advice` says what to do about a longer one.
///
/// Most bodies are there with their headers: they are taken as they are, without a copy and without a timer.
///
/// # Errors
/// 413 at once for a body that declares more than `limit`, or when more has come; 408; 400 when it breaks off.
pub(crate) async fn read<B>(
    body: B,
    limit: usize,
    advice: &'static str,
    within: Duration,
) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let limit_bytes = u64::try_from(limit).unwrap_or(u64::MAX);
    if body.size_hint().lower() > limit_bytes {
        return Err(too_large(limit, advice));
    }
    let mut reading = Reading { body, limit, advice, first: Bytes::new(), rest: BytesMut::new() };
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if let Poll::Ready(done) = reading.poll(cx) {
            return Poll::Ready(done);
        }
        let timer = timer.get_or_insert_with(|| Box::pin(sleep(within)));
        timer.as_mut().poll(cx).map(|()| {
            Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body was not there after {} s: send it with its headers", within.as_secs()),
            ))
        })
    })
    .await
}

fn too_large(limit: usize, advice: &str) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes: {advice}"))
}

struct Reading<B> {
    body: B,
    limit: usize,
    advice: &'static str,
    /// The first piece, as it came; it moves to `rest` when there is a second.
    first: Bytes,
    rest: BytesMut,
}

impl<B: Body<Data = Bytes> + Unpin> Reading<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Refusal>> {
        loop {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(self.take())),
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Err(Refusal::bad_request(
                        "the body broke off: send the request again",
                    )));
                }
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            // Trailers mean nothing here.
            let Ok(piece) = frame.into_data() else { continue };
            if self.first.len() + self.rest.len() + piece.len() > self.limit {
                return Poll::Ready(Err(too_large(self.limit, self.advice)));
            }
            if self.first.is_empty() && self.rest.is_empty() {
                self.first = piece;
            } else {
                let first = std::mem::take(&mut self.first);
                self.rest.extend_from_slice(&first);
                self.rest.extend_from_slice(&piece);
            }
            if self.body.is_end_stream() {
                return Poll::Ready(Ok(self.take()));
            }
        }
    }

    fn take(&mut self) -> Bytes {
        if self.rest.is_empty() { std::mem::take(&mut self.first) } else { self.rest.split().freeze() }
    }
}
