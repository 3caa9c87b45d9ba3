//! Runs one call of a session to its end, whoever is connected meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::Engine;
use super::call::response_text;
use super::events::{LogEvents, Start};
use super::outbox::CallOutbox;
use super::session::{Reason, Running, Session, store_error};
use crate::rpc::error::RpcError;
use crate::rpc::message::{Envelope, Message};
use crate::state::log::{Kind, Position, StreamName};
use crate::store::StoreError;
use crate::tools::BoxFuture;

type Outcome = Result<Box<RawValue>, RpcError>;

/// How long the end of a call waits for a disk that takes nothing, in steps of a second.
const STORE_FINAL_TRIES: u32 = 600;
const STORE_RETRY: Duration = Duration::from_secs(1);

/// How an answer begins.
pub(super) enum Head {
    Outcome(Outcome),
    Stream(LogEvents),
    Nothing,
}

/// Runs one call of a session to its end.
pub(super) struct Driver {
    pub(super) engine: Arc<Engine>,
    pub(super) session: Arc<Session>,
    pub(super) id: Box<str>,
    /// The record with which the call's stream begins.
    pub(super) open: Bytes,
    pub(super) resumable: bool,
    pub(super) outbox: Arc<CallOutbox>,
    pub(super) handle: Running,
    /// The call's stream, once it has one.
    pub(super) stream: Option<StreamName>,
    pub(super) head: Option<oneshot::Sender<Head>>,
    /// The client takes an event stream.
    pub(super) may_stream: bool,
    /// The client takes nothing else.
    pub(super) at_once: bool,
}

impl Driver {
    /// A driver for a call that goes on after a restart: it has a stream and no connection.
    pub(super) fn resumed(
        engine: &Arc<Engine>,
        session: &Arc<Session>,
        id: &str,
        stream: StreamName,
        open: Bytes,
        outbox: Arc<CallOutbox>,
        handle: Running,
    ) -> Self {
        Self {
            engine: Arc::clone(engine),
            session: Arc::clone(session),
            id: id.into(),
            open,
            resumable: true,
            outbox,
            handle,
            stream: Some(stream),
            head: None,
            may_stream: true,
            at_once: false,
        }
    }

    pub(super) async fn run(mut self, mut future: BoxFuture<'static, Outcome>) {
        self.engine.counters.call_started();
        let upgrade = tokio::time::sleep(if self.at_once { Duration::ZERO } else { self.engine.json_within });
        tokio::pin!(upgrade);
        let cancel = self.handle.cancel.clone();
        let outcome = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break None,
                outcome = &mut future => break Some(outcome),
                () = self.outbox.arrived() => {
                    if let Err(error) = self.forward().await {
                        break Some(Err(error));
                    }
                }
                () = &mut upgrade, if self.stream.is_none() && self.may_stream => {
                    // Without a stream (the disk is full, say) the answer is still a whole one.
                    if self.begin().await.is_err() {
                        self.no_stream();
                    }
                }
            }
        };
        drop(future);
        self.outbox.close();
        let ok = matches!(outcome, Some(Ok(_)));
        // Before the answer goes out: a client that has it may use the id again.
        self.session.calls().remove(&self.id);
        self.finish(outcome).await;
        if let Some(stream) = self.stream {
            self.session.streams().end_call(stream);
        }
        self.session.used(&self.engine);
        self.engine.counters.call_finished(ok);
    }

    /// Makes the answer an event stream.
    async fn begin(&mut self) -> Result<(), StoreError> {
        self.session.load_log(&self.engine).await?;
        let (stream, start) = {
            let streams = self.session.streams();
            (
                name_stream(&streams.log, &self.id),
                Position { scanned: streams.log.end(), ..Position::default() },
            )
        };
        self.session.streams().begin_call(stream, self.open.clone(), 0);
        let begun = self.session.append(&self.engine, stream, vec![(Kind::Open, self.open.clone())]).await;
        if let Err(error) = begun {
            self.session.streams().end_call(stream);
            return Err(error);
        }
        self.stream = Some(stream);
        if let Some(head) = self.head.take() {
            let events = self.session.read(&self.engine, stream, Start::Call(start), true);
            // A handler that is gone drops the connection, not the call.
            let _ = head.send(Head::Stream(events));
        }
        Ok(())
    }

    /// There is nothing that could carry messages to the client.
    fn no_stream(&mut self) {
        self.may_stream = false;
        self.outbox.mute();
    }

    /// Stores what the tool has sent, which puts it on the stream.
    async fn forward(&mut self) -> Result<(), RpcError> {
        if self.outbox.is_empty() || !self.may_stream {
            // Who takes no event stream cannot be told anything before the end.
            self.outbox.take_all();
            return Ok(());
        }
        if self.stream.is_none()
            && let Err(error) = self.begin().await
        {
            tracing::warn!(%error, "what a call says before its end is not sent: its stream cannot be stored");
            self.no_stream();
            return Ok(());
        }
        let Some(stream) = self.stream else { return Ok(()) };
        let items: Vec<_> =
            self.outbox.take_all().into_iter().map(|message| (Kind::Message, message)).collect();
        for piece in items.chunks(self.piece()) {
            self.await_reader(stream, piece).await;
            match self.session.append(&self.engine, stream, piece.to_vec()).await {
                Ok(()) => {}
                // Progress and logs are no reason to end a call: whoever reads now is told of them, and nobody else.
                Err(StoreError::Full(_)) if piece.iter().all(|(_, message)| is_notification(message)) => {
                    let (streams, own) = (self.session.streams(), self.engine.store.origin());
                    let after = streams.log.high_water(own);
                    // What is in the log already is told when the disk has it.
                    let reader = streams.carrier(stream).filter(|_| !streams.ends_with(stream, own, piece));
                    if let Some(reader) = reader {
                        piece.iter().for_each(|(_, message)| reader.tell_now(after, message.clone()));
                    }
                }
                Err(error) => return Err(store_error(&error)),
            }
        }
        Ok(())
    }

    /// So many messages at a time: a connection that reads can take them before the history runs over.
    fn piece(&self) -> usize {
        (self.engine.retention.entries / 4).max(1)
    }

    async fn await_reader(&self, stream: StreamName, coming: &[(Kind, Bytes)]) {
        tokio::select! {
            () = self.session.await_reader(&self.engine, stream, coming) => {}
            () = self.handle.cancel.cancelled() => {}
        }
    }

    async fn finish(&mut self, outcome: Option<Outcome>) {
        let reason = self.handle.reason();
        let outcome = match (outcome, reason) {
            (_, Reason::SessionEnded) => {
                self.answer(Head::Nothing);
                return;
            }
            // A cancelled request is not answered, not even with the words of a host that was quicker to see it.
            (_, Reason::Client) | (None, Reason::None) => None,
            (Some(outcome), _) => Some(outcome),
            // It goes on when the client asks for its stream after the restart.
            (None, Reason::Shutdown) if self.resumable && self.stream.is_some() => return,
            (None, Reason::Shutdown) => Some(Err(super::orphan::interrupted("the server stopped"))),
        };
        if self.stream.is_none() && !self.outbox.is_empty() && self.may_stream && self.begin().await.is_err()
        {
            self.no_stream();
        }
        let Some(stream) = self.stream else {
            self.answer(outcome.map_or(Head::Nothing, Head::Outcome));
            return;
        };
        let mut items: Vec<_> =
            self.outbox.take_all().into_iter().map(|message| (Kind::Message, message)).collect();
        items.push(match outcome {
            Some(outcome) => (Kind::Final, response_text(&self.id, outcome)),
            None => (Kind::Close, Bytes::new()),
        });
        self.store_end(stream, items).await;
    }

    /// The end of a call is not given up because the disk takes nothing just now.
    async fn store_end(&self, stream: StreamName, items: Vec<(Kind, Bytes)>) {
        for piece in items.chunks(self.piece()) {
            self.await_reader(stream, piece).await;
            if !self.store_piece(stream, piece).await {
                if let Some(reader) = self.session.streams().carrier(stream) {
                    reader.end();
                }
                return;
            }
        }
    }

    async fn store_piece(&self, stream: StreamName, piece: &[(Kind, Bytes)]) -> bool {
        let mut left = piece.to_vec();
        for _ in 0..STORE_FINAL_TRIES {
            match self.session.append(&self.engine, stream, left.clone()).await {
                Ok(()) => return true,
                Err(StoreError::Full(reason)) => {
                    // In the log it has its place, and is written again without being appended again.
                    if self.session.streams().ends_with(stream, self.engine.store.origin(), piece) {
                        left.clear();
                    }
                    tracing::warn!(session = %self.session.claims.key, reason, "the end of a call waits for room on the disk");
                }
                Err(error) => {
                    tracing::error!(session = %self.session.claims.key, %error, "the end of a call could not be stored");
                    return false;
                }
            }
            tokio::time::sleep(STORE_RETRY).await;
        }
        false
    }

    fn answer(&mut self, head: Head) {
        if let Some(sender) = self.head.take() {
            let _ = sender.send(head);
        }
    }
}

fn is_notification(message: &[u8]) -> bool {
    matches!(Envelope::parse(message), Ok(Envelope::One(Message::Notification(_))))
}

/// A name that no stream in the log has: clients may use a request id again once it was answered.
fn name_stream(log: &crate::state::log::Log, id: &str) -> StreamName {
    let mut salt = 0_u32;
    loop {
        let name = StreamName::from_hash(&crate::base::seal::sha256(format!("{salt} {id}").as_bytes()));
        if name != StreamName::GET && !log.entries().any(|entry| entry.stream == name) {
            return name;
        }
        salt += 1;
    }
}
