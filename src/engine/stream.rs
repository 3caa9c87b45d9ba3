//! The streams of a session: its log in memory, and the connections that read it (`events.rs`).
//!
//! Connections pull. A connection knows how far its client has seen, asks the log for what is owed when
//! it can write, and waits for a wake-up otherwise; so nothing is queued for a reader that does not read, and a resumed
//! stream is the same thing as a live one that starts further back. Only what is on stable storage is shown.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use super::Engine;
use super::session::Session;
use crate::base::ids::Origin;
use crate::base::limits::{STREAMS_PER_SESSION, UNSTORED};
use crate::state::cursor::Cursor;
use crate::state::log::{Cut, Entry, Kind, Log, Retention, Spared, StreamName};
use crate::store::StoreError;

/// A connection that carries a stream.
#[derive(Debug, Default)]
pub(super) struct Reader {
    waker: AtomicWaker,
    ended: AtomicBool,
    /// Another connection has carried the stream since this one last looked.
    superseded: AtomicBool,
    /// Up to this number of this process's run it has looked for what it carries.
    handed: AtomicU64,
    /// It has taken something, or will take nothing any more.
    progress: Notify,
    /// What the disk has no room for, and only whoever reads now is told; each behind the entry of this process's run that
    /// was the last one when it was said.
    unstored: Mutex<VecDeque<(u64, Bytes)>>,
}

impl Reader {
    /// Makes the connection look again.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Hands the connection a message that is not stored, behind the entry of this number. Of more than it takes the newest
    /// are kept.
    pub(super) fn tell_now(&self, after: u64, message: Bytes) {
        let mut unstored = self.unstored.lock().unwrap_or_else(PoisonError::into_inner);
        if unstored.len() >= UNSTORED {
            unstored.pop_front();
        }
        unstored.push_back((after, message));
        drop(unstored);
        self.wake();
    }

    /// The messages that are not stored and come before everything behind the entry `handed`.
    pub(super) fn take_unstored(&self, handed: u64) -> Vec<Bytes> {
        let mut unstored = self.unstored.lock().unwrap_or_else(PoisonError::into_inner);
        let due = unstored.iter().take_while(|(after, _)| *after <= handed).count();
        unstored.drain(..due).map(|(_, message)| message).collect()
    }

    /// Whether the connection has to end; if not, `waker` is told when to look again.
    pub(super) fn is_ended(&self, waker: &std::task::Waker) -> bool {
        self.waker.register(waker);
        self.ended.load(Ordering::Acquire)
    }

    /// Whether another connection has carried the stream since this was asked last.
    pub(super) fn was_superseded(&self) -> bool {
        self.superseded.swap(false, Ordering::Relaxed)
    }

    /// The connection begins having been handed everything up to this number of this process's run.
    pub(super) fn begins_at(&self, number: u64) {
        self.handed.store(number, Ordering::Relaxed);
    }

    /// The connection was handed everything up to this number of this process's run.
    pub(super) fn handed_up_to(&self, number: u64) {
        self.handed.store(number, Ordering::Relaxed);
        self.progress.notify_one();
    }

    /// Ends the connection, not the stream: its client can resume.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.waker.wake();
        self.progress.notify_one();
    }
}

/// A call that runs and has a stream.
#[derive(Debug)]
struct Live {
    stream: StreamName,
    /// The record with which its stream begins.
    open: Bytes,
    /// Where that record is in this process's run.
    open_seq: u64,
    /// Messages of it in the log.
    told: u64,
}

/// The log of a session in memory, and who reads it.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) log: Log,
    /// Whether `log` holds what the disk holds. A session that only makes plain calls never reads it.
    pub(super) loaded: bool,
    /// Highest number of this process's run that is on stable storage.
    pub(super) durable: u64,
    /// The disk refused the entry of this number: it is written again with the next ones. Nothing from it on is durable.
    refused: Option<u64>,
    /// Connections in the order in which they came. The last one of a stream carries it.
    readers: Vec<(StreamName, Arc<Reader>)>,
    /// Calls that run and have a stream.
    live: Vec<Live>,
    /// What was handed to any connection of the GET stream: where one without `Last-Event-ID` begins.
    pub(super) position: Cursor,
    /// `position` is further than what the store has of it.
    pub(super) position_moved: bool,
}

impl Streams {
    /// Without connections; `loaded` when the disk has nothing of it.
    pub(super) fn new(loaded: bool, position: Cursor) -> Self {
        Self { loaded, position, ..Self::default() }
    }

    /// The connection that carries `stream`.
    pub(super) fn carrier(&self, stream: StreamName) -> Option<&Arc<Reader>> {
        self.readers.iter().rev().find(|(name, _)| *name == stream).map(|(_, reader)| reader)
    }

    /// How many connections there are.
    pub(super) fn readers(&self) -> usize {
        self.readers.len()
    }

    /// A new connection for `stream`, which carries it from now on. `take_over`: the connections before it end; else
    /// they stay open beside it, silent, up to a bound.
    pub(super) fn attach(&mut self, stream: StreamName, take_over: bool) -> Arc<Reader> {
        if take_over {
            self.readers.retain(|(name, reader)| {
                if *name == stream {
                    reader.end();
                }
                *name != stream
            });
        } else if self.readers.iter().filter(|(name, _)| *name == stream).count() >= STREAMS_PER_SESSION
            && let Some(at) = self.readers.iter().position(|(name, _)| *name == stream)
        {
            self.readers.remove(at).1.end();
        }
        if let Some(before) = self.carrier(stream) {
            before.superseded.store(true, Ordering::Relaxed);
        }
        let reader = Arc::new(Reader::default());
        self.readers.push((stream, Arc::clone(&reader)));
        reader
    }

    pub(super) fn detach(&mut self, reader: &Arc<Reader>) {
        let Some(at) = self.readers.iter().position(|(_, known)| Arc::ptr_eq(known, reader)) else { return };
        let (stream, gone) = self.readers.remove(at);
        gone.progress.notify_one();
        // One that stood beside it carries on.
        if let Some(next) = self.carrier(stream) {
            next.wake();
        }
    }

    /// A call has a stream from now on, which begins with the record `open`; `told` messages of it were stored by
    /// processes before this one.
    pub(super) fn begin_call(&mut self, stream: StreamName, open: Bytes, told: u64) {
        self.live.push(Live { stream, open, open_seq: 0, told });
    }

    /// The call of this stream runs no more.
    pub(super) fn end_call(&mut self, stream: StreamName) {
        self.live.retain(|call| call.stream != stream);
    }

    /// Whether a call runs that has this stream.
    pub(super) fn is_live(&self, stream: StreamName) -> bool {
        self.live.iter().any(|call| call.stream == stream)
    }

    fn append(
        &mut self,
        own: Origin,
        kind: Kind,
        stream: StreamName,
        payload: Bytes,
        now_ms: u64,
        entries: &mut Vec<Entry>,
    ) {
        let entry = self.log.append(own, kind, stream, payload, now_ms);
        if let Some(call) = self.live.iter_mut().find(|call| call.stream == stream) {
            match kind {
                Kind::Open => call.open_seq = entry.seq,
                Kind::Message => call.told += 1,
                Kind::Final | Kind::Close => {}
            }
        }
        entries.push(entry);
    }

    /// Cuts the log back to what is kept, `newest` being the first number that is being written now. What a
    /// connection is about to take is spared within reason. Where the beginning of a running call is cut off it is
    /// written again: should this process die, the next one finds the call by it.
    pub(super) fn trim_for(
        &mut self,
        own: Origin,
        keep: Retention,
        newest: u64,
        now_ms: u64,
        entries: &mut Vec<Entry>,
    ) -> Vec<Cut> {
        self.trim(own, keep, newest, now_ms, entries)
    }

    fn trim(
        &mut self,
        own: Origin,
        keep: Retention,
        newest: u64,
        now_ms: u64,
        entries: &mut Vec<Entry>,
    ) -> Vec<Cut> {
        let unread = if self.log.exceeds(keep) { self.first_unread(own).unwrap_or(newest) } else { newest };
        let trimmed = self.log.trim(keep, now_ms, Some(Spared { origin: own, newest, unread }));
        let base = self.log.base(own);
        let cut: Vec<(StreamName, Bytes)> = self
            .live
            .iter()
            .filter(|call| (1..base).contains(&call.open_seq))
            .map(|call| (call.stream, super::orphan::record(&call.open, call.told)))
            .collect();
        for (stream, record) in cut {
            self.append(own, Kind::Open, stream, record, now_ms, entries);
        }
        trimmed
    }

    /// The lowest number of this process's run that a connection which carries its stream has not taken yet.
    fn first_unread(&self, own: Origin) -> Option<u64> {
        let mut get_seen = false;
        let carriers = self.readers.iter().rev().filter(|(stream, _)| {
            // Only the last one of the GET stream carries; the other streams have one connection at most.
            *stream != StreamName::GET || !std::mem::replace(&mut get_seen, true)
        });
        carriers.filter_map(|(stream, reader)| self.unread(*stream, reader, own)).min()
    }

    /// The first entry of `stream` that its reader has not taken.
    fn unread(&self, stream: StreamName, reader: &Reader, own: Origin) -> Option<u64> {
        let handed = reader.handed.load(Ordering::Relaxed);
        let first = self.log.of_stream(stream, own, handed).next().map(|entry| entry.seq);
        if first.is_none() {
            // Not looked through again next time.
            reader.handed.fetch_max(self.log.high_water(own), Ordering::Relaxed);
        }
        first
    }

    /// The connection that carries `stream`, if what it has not taken yet would, with what is coming, be more than half
    /// of what is kept.
    fn lagging(
        &self,
        stream: StreamName,
        own: Origin,
        keep: Retention,
        coming: &[(Kind, Bytes)],
    ) -> Option<Arc<Reader>> {
        let reader = self.carrier(stream).filter(|reader| !reader.ended.load(Ordering::Acquire))?;
        let first = self.unread(stream, reader, own)?;
        let mut entries = coming.len();
        let mut bytes: usize = coming.iter().map(|(_, payload)| payload.len()).sum();
        for entry in self.log.of_stream(stream, own, first - 1) {
            entries += 1;
            bytes += entry.cost();
        }
        (entries > keep.entries / 2 || bytes > keep.bytes / 2).then(|| Arc::clone(reader))
    }

    /// Whether `seen` may have been given for this log: it claims nothing of this process's run that was not said. What was
    /// said may have been handed on by another instance before the disk of this one has it.
    pub(super) fn may_have_given(&self, own: Origin, seen: &Cursor) -> bool {
        seen.seen(own) <= self.log.high_water(own)
    }

    /// The entries that the disk refused, to be written again.
    fn take_refused(&mut self, own: Origin) -> Vec<Entry> {
        let refused = self.refused.take();
        refused.map_or_else(Vec::new, |refused| self.log.run_from(own, refused).cloned().collect())
    }

    /// Whether these are the last ones of a stream in memory, be they on the disk or not.
    pub(super) fn ends_with(&self, stream: StreamName, own: Origin, items: &[(Kind, Bytes)]) -> bool {
        let last = self.log.of_stream(stream, own, 0).last();
        last.zip(items.last())
            .is_some_and(|(entry, (kind, payload))| entry.kind == *kind && entry.payload == *payload)
    }

    /// Makes every connection look again.
    pub(super) fn wake_all(&self) {
        self.readers.iter().for_each(|(_, reader)| reader.wake());
    }

    /// Ends every connection.
    pub(super) fn end_all(&mut self) {
        for (_, reader) in self.readers.drain(..) {
            reader.end();
        }
    }
}

impl Session {
    /// Reads the log from the disk if it was not yet, and sees to the calls that a dead process left behind.
    pub(super) async fn load_log(self: &Arc<Self>, engine: &Arc<Engine>) -> Result<(), StoreError> {
        if self.streams().loaded {
            return Ok(());
        }
        let mut log = engine.store.log(self.claims.key).await?;
        log.sort_runs();
        {
            let mut streams = self.streams();
            if streams.loaded {
                return Ok(());
            }
            streams.durable = log.high_water(engine.store.origin());
            streams.log = log;
            streams.loaded = true;
        }
        self.read_all_shared(engine).await;
        // In a task of its own: the request that happened to read the log may be given up by its client.
        if !super::orphan::find(&self.streams().log, engine.store.origin()).is_empty() {
            engine.tasks.spawn(super::orphan::see_to(Arc::clone(engine), Arc::clone(self)));
        }
        Ok(())
    }

    /// Appends to a stream and waits until it is on stable storage; then its connection is woken.
    pub(super) async fn append(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        stream: StreamName,
        items: Vec<(Kind, Bytes)>,
    ) -> Result<(), StoreError> {
        self.load_log(engine).await?;
        let heard: Vec<Bytes> = match engine.topics.is_heard() {
            true => items.iter().filter(|(kind, _)| *kind == Kind::Message).map(|it| it.1.clone()).collect(),
            false => Vec::new(),
        };
        let place = engine.store.place().await?;
        let (done, finished) = tokio::sync::oneshot::channel();
        {
            let mut streams = self.streams();
            // Let go of while this waited: its numbers may be given out anew by whoever follows it.
            if self.is_ended() {
                return Err(StoreError::Gone);
            }
            let now = engine.clock.now_ms();
            let own = engine.store.origin();
            // What the disk refused goes before what comes now: a log has no hole.
            let mut entries = streams.take_refused(own);
            let again = entries.len();
            for (kind, payload) in items {
                streams.append(own, kind, stream, payload, now, &mut entries);
            }
            if entries.is_empty() {
                // Somebody else has what was refused on its way.
                return match streams.durable >= streams.log.high_water(own) {
                    true => Ok(()),
                    false => Err(StoreError::Full("what was refused is on its way again".into())),
                };
            }
            let newest = entries.first().map_or(0, |entry| entry.seq);
            let trimmed = streams.trim(own, engine.retention, newest, now, &mut entries);
            let last = entries.last().map_or(0, |entry| entry.seq);
            let first = entries.first().map_or(u64::MAX, |entry| entry.seq);
            let session = Arc::clone(self);
            // Queued under the lock, so that the order on disk is the order of the numbers.
            engine.store.append(
                place,
                self.claims.key,
                entries,
                trimmed,
                Box::new(move |written| {
                    if written.is_ok() {
                        let streams = session.written_up_to(last);
                        if again > 0 {
                            streams.wake_all();
                        } else if let Some(reader) = streams.carrier(stream) {
                            reader.wake();
                        }
                    } else {
                        let mut streams = session.streams();
                        streams.refused = Some(streams.refused.map_or(first, |refused| refused.min(first)));
                    }
                    let _ = done.send(written);
                }),
            );
        }
        finished.await.unwrap_or(Err(StoreError::Closed))?;
        engine.say_to_session(self.claims.key, heard);
        engine.store.share(self.claims.key).await;
        Ok(())
    }

    /// Notes that this process's run is on stable storage up to this number.
    pub(super) fn written_up_to(&self, number: u64) -> MutexGuard<'_, Streams> {
        let mut streams = self.streams();
        let number = streams.refused.map_or(number, |refused| number.min(refused.saturating_sub(1)));
        streams.durable = streams.durable.max(number);
        streams
    }

    /// Waits while the connection that carries `stream` is so far behind that with what is `coming` the history would
    /// run over. One that takes nothing for `streams.stall_seconds` is not waited for.
    pub(super) async fn await_reader(&self, engine: &Engine, stream: StreamName, coming: &[(Kind, Bytes)]) {
        loop {
            let lagging = self.streams().lagging(stream, engine.store.origin(), engine.retention, coming);
            let Some(reader) = lagging else { return };
            if tokio::time::timeout(engine.stall, reader.progress.notified()).await.is_err() {
                return;
            }
        }
    }
}

/// What became of the retention: settings in the form in which logs want them.
pub(super) fn retention(settings: &crate::config::Streams) -> Retention {
    Retention {
        entries: settings.max_entries,
        bytes: settings.max_bytes,
        age_ms: settings.max_age_seconds.saturating_mul(1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_what_the_disk_does_not_have_yet_is_no_strangers() {
        let own = Origin::from_bits(1);
        let mut streams = Streams::new(true, Cursor::default());
        for _ in 0..3 {
            streams.append(own, Kind::Message, StreamName::GET, Bytes::new(), 1, &mut Vec::new());
        }
        streams.durable = 2;
        let seen = |seq| {
            let mut cursor = Cursor::default();
            cursor.advance(own, seq);
            cursor
        };
        assert!(streams.may_have_given(own, &seen(3)));
        assert!(!streams.may_have_given(own, &seen(4)));
    }

    #[test]
    fn what_the_disk_refused_is_written_again_once_and_told_apart_from_what_was_never_appended() {
        let own = Origin::from_bits(1);
        let mut streams = Streams::new(true, Cursor::default());
        let message = |text: &'static str| (Kind::Message, Bytes::from_static(text.as_bytes()));
        for text in ["1", "2", "3"] {
            let (kind, payload) = message(text);
            streams.append(own, kind, StreamName::GET, payload, 1, &mut Vec::new());
        }
        assert!(streams.ends_with(StreamName::GET, own, &[message("2"), message("3")]));
        assert!(!streams.ends_with(StreamName::GET, own, &[message("4")]));
        streams.refused = Some(2);
        let again: Vec<u64> = streams.take_refused(own).iter().map(|entry| entry.seq).collect();
        assert_eq!((again, streams.take_refused(own).len()), (vec![2, 3], 0));
    }

    #[test]
    fn a_message_that_is_not_stored_waits_for_those_before_it() {
        let reader = Reader::default();
        reader.tell_now(5, Bytes::from_static(b"a"));
        reader.tell_now(7, Bytes::from_static(b"b"));
        assert!(reader.take_unstored(4).is_empty());
        assert_eq!(reader.take_unstored(5), ["a"]);
        assert_eq!(
            (reader.take_unstored(u64::MAX), reader.take_unstored(u64::MAX).len()),
            (vec![Bytes::from("b")], 0)
        );
    }
}
