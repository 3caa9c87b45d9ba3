//! What a connection is sent: the events of a stream of a session, pulled from its log, and those of an answer that
//! belongs to no session.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Engine;
use super::session::Session;
use super::stream::Reader;
use crate::base::limits::STREAM_BATCH;
use crate::rpc::message::notification;
use crate::rpc::sse::write_event;
use crate::state::cursor::Cursor;
use crate::state::log::{Kind, Position, StreamName};

impl Session {
    /// A connection that carries `stream` from `position` on.
    pub(super) fn read(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        stream: StreamName,
        start: Start,
        take_over: bool,
    ) -> LogEvents {
        let mut streams = self.streams();
        if take_over && streams.carrier(stream).is_some() {
            engine.counters.taken_over();
        }
        let reader = streams.attach(stream, take_over);
        let (position, opening) = match start {
            Start::Call(position) => (position, false),
            Start::Resume(seen) => (Position::at(seen), true),
            Start::Fresh => (Position::at(streams.position.clone()), true),
        };
        let own = engine.store.origin();
        reader.begins_at(position.seen.seen(own).max(position.scanned.seen(own)));
        drop(streams);
        let number = engine.counters.next_stream();
        if stream == StreamName::GET {
            engine.broadcast.listen(number, Arc::clone(&reader));
        }
        LogEvents {
            scanned: Cursor::default(),
            engine: Arc::clone(engine),
            session: Arc::clone(self),
            reader,
            number,
            stream,
            position,
            opening,
            begun: false,
            carried: true,
            over: false,
        }
    }
}

/// Where a connection begins to read.
pub(super) enum Start {
    /// At the beginning of a call's stream.
    Call(Position),
    /// After what the client says it has seen.
    Resume(Cursor),
    /// At what no connection of the GET stream was handed yet.
    Fresh,
}

/// The events of a stream of a session, for one connection.
pub(super) struct LogEvents {
    engine: Arc<Engine>,
    session: Arc<Session>,
    reader: Arc<Reader>,
    number: u64,
    stream: StreamName,
    position: Position,
    /// How far the runs of the log of broadcasts were looked through.
    scanned: Cursor,
    /// The first frame echoes where the client stands.
    opening: bool,
    /// The first frame is sent.
    begun: bool,
    /// It carried the stream when it last looked.
    carried: bool,
    over: bool,
}

impl LogEvents {
    pub(super) fn is_get(&self) -> bool {
        self.stream == StreamName::GET
    }

    pub(super) fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        if this.reader.is_ended(cx.waker()) {
            this.over = true;
            return Poll::Ready(None);
        }
        let mut frames = Vec::new();
        if this.opening && !std::mem::replace(&mut this.begun, true) && this.session.revision.has_priming() {
            push_priming(&mut frames, &this.position.seen.event_id(this.stream), this.engine.retry_ms);
        }
        this.take_session(&mut frames);
        if this.stream == StreamName::GET && this.carried && !this.over {
            this.take_broadcasts(&mut frames);
        }
        if !frames.is_empty() {
            return Poll::Ready(Some(frames.into()));
        }
        if this.over { Poll::Ready(None) } else { Poll::Pending }
    }

    fn take_session(&mut self, frames: &mut Vec<u8>) {
        let Self { session, reader, stream, position, engine, begun, over, carried, .. } = self;
        let stream = *stream;
        let mut streams = session.streams();
        let is_get = stream == StreamName::GET;
        if is_get {
            let carries = streams.carrier(stream).is_some_and(|carrier| Arc::ptr_eq(carrier, reader));
            if carries && reader.was_superseded() {
                // Another connection carried it meanwhile: what that one was handed is not handed out again.
                position.seen.join(&streams.position);
            }
            *carried = carries;
            if !carries {
                return;
            }
        }
        let priming = session.revision.has_priming();
        let own = engine.store.origin();
        let unsure = engine.broadcast.make_room(&mut position.seen, &streams.log, engine.clock.now_ms());
        let (before, mut delivered) = (frames.len(), 0);
        let gap = unsure
            | streams.log.visit_owed(stream, position, own, streams.durable, STREAM_BATCH, |entry, seen| {
                match entry.kind {
                    Kind::Open => {
                        // A call that went on after a restart, or whose beginning was cut off, has several.
                        if !std::mem::replace(begun, true) && priming {
                            push_priming(frames, &seen.event_id(stream), engine.retry_ms);
                        }
                    }
                    Kind::Close => {}
                    Kind::Message | Kind::Final => {
                        delivered += 1;
                        if entry.kind.ends_stream() {
                            // All that is before it was handed out.
                            push_unstored(frames, reader, u64::MAX);
                        }
                        push_event(frames, seen, stream, &entry.payload);
                    }
                }
                *over |= entry.kind.ends_stream();
            });
        if gap {
            engine.counters.gap();
            tell_gap(frames, before, stream, engine, session);
        }
        if delivered > 0 {
            engine.counters.delivered(delivered);
        }
        let handed = position.seen.seen(own).max(position.scanned.seen(own));
        push_unstored(frames, reader, handed);
        reader.handed_up_to(handed);
        if is_get && !streams.position.covers(&position.seen) {
            streams.position.join(&position.seen);
            streams.position_moved = true;
        }
        drop(streams);
        if !frames.is_empty() {
            // A batch may have been cut short: look again once it is written.
            reader.wake();
        }
    }

    fn take_broadcasts(&mut self, frames: &mut Vec<u8>) {
        let Self { position, scanned, engine, stream, session, .. } = self;
        let (before, mut delivered) = (frames.len(), 0);
        std::mem::swap(&mut position.scanned, scanned);
        let gap = engine.broadcast.visit(position, |entry, seen| {
            delivered += 1;
            push_event(frames, seen, *stream, &entry.payload);
        });
        std::mem::swap(&mut position.scanned, scanned);
        if gap {
            engine.counters.gap();
            tell_gap(frames, before, *stream, engine, session);
        }
        if frames.len() > before {
            engine.counters.delivered(delivered);
            let mut streams = session.streams();
            streams.position.join(&position.seen);
            streams.position_moved = true;
        }
    }
}

impl Drop for LogEvents {
    fn drop(&mut self) {
        self.session.streams().detach(&self.reader);
        if self.stream == StreamName::GET {
            self.engine.broadcast.forget(self.number);
        }
        self.engine.counters.stream_closed();
        self.session.used(&self.engine);
    }
}

impl fmt::Debug for LogEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogEvents").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// The events of an answer that belongs to no session: a bounded queue that the call fills.
#[derive(Debug)]
pub(super) struct QueueEvents {
    pub(super) messages: tokio::sync::mpsc::Receiver<Bytes>,
    /// Cancels the call when the connection goes: that is what a disconnect means in 2026-07-28.
    pub(super) _cancel: tokio_util::sync::DropGuard,
}

impl QueueEvents {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.messages.poll_recv(cx).map(|message| message.map(|message| frame(&message)))
    }
}

/// What could not be stored: without an id, because it cannot be resumed from. Nothing comes after what ends a stream.
fn push_unstored(frames: &mut Vec<u8>, reader: &Reader, handed: u64) {
    for message in reader.take_unstored(handed) {
        write_event(frames, None, None, &message);
    }
}

/// An event with an id and no data, and how long to wait before reconnecting (MCP 2025-11-25, transports).
fn push_priming(frames: &mut Vec<u8>, id: &str, retry_ms: u64) {
    write_event(frames, Some(id), Some(retry_ms), b"");
}

fn push_event(frames: &mut Vec<u8>, seen: &Cursor, stream: StreamName, payload: &[u8]) {
    let mut id = String::with_capacity(48);
    seen.write_event_id(stream, &mut id);
    write_event(frames, Some(&id), None, payload);
}

/// One event that cannot be resumed from.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut frame = Vec::new();
    write_event(&mut frame, None, None, message);
    frame.into()
}

/// Says that something is missing, in a form that every client reads, and asks it to look again at the lists and at what
/// it subscribed to: what was lost may have been about them. It goes before the frames from `at` on, which came after what is missing.
fn tell_gap(frames: &mut Vec<u8>, at: usize, stream: StreamName, engine: &Engine, session: &Session) {
    let after = frames.split_off(at);
    let text = format!(
        "{{\"level\":\"warning\",\"logger\":\"outlast.stream\",\"data\":{{\"gap\":true,\"stream\":\"{stream}\",\
         \"message\":\"some messages of this stream were dropped before they could be sent: it was away longer than \
         its history is kept\"}}}}"
    );
    write_event(frames, None, None, &notification("notifications/message", &text));
    if stream == StreamName::GET {
        for message in super::subscriptions::everything_changed(engine, session) {
            write_event(frames, None, None, &message);
        }
    }
    frames.extend_from_slice(&after);
}
