//! What the operator says on a topic.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::base::ids::{Claims, SessionKey};
use crate::engine::session::{Session, store_error};
use crate::engine::{Delivery, Engine, check_notification};
use crate::mcp::era::Refusal;
use crate::rpc::error::{INTERNAL, INVALID_REQUEST, RpcError};
use crate::state::log::{Entry, Kind, StreamName};
use crate::state::topic::check_topic;
use crate::store::{Lookup, StoreError};

impl Engine {
    /// Says something on a topic, and says what became of it: for a session or all of them it is delivered and stored as
    /// any message is; on a topic of the operator's own those who listen hear it, and nobody else ever does.
    pub(in crate::engine) async fn publish(
        self: &Arc<Self>,
        topic: &str,
        message: Bytes,
    ) -> Result<Value, Refusal> {
        check_topic(topic).map_err(|why| refusal(400, why))?;
        let levels: Vec<&str> = topic.split('/').collect();
        let delivery = match levels.as_slice() {
            ["mcp", "session", session, "message"] => {
                let sent = self.send_to(session, message).await.map_err(failed)?;
                let sent =
                    sent.ok_or_else(|| refusal(404, format!("there is no such session: {session}")))?;
                let key = SessionKey::parse(session)
                    .or_else(|| Claims::verify(session, self.store.keys()).ok().map(|claims| claims.key));
                self.with_sisters(sent, key).await
            }
            ["mcp", "broadcast", "notification"] => {
                let sent = self.broadcast(message).await.map_err(failed)?;
                self.with_sisters(sent, Some(SessionKey::BROADCAST)).await
            }
            ["mcp" | "outlast", ..] => {
                return Err(refusal(
                    403,
                    format!(
                        "{topic} is not for operators: there are mcp/session/KEY/message, mcp/broadcast/notification, and \
                         any topic that does not begin with mcp or outlast"
                    ),
                ));
            }
            _ => {
                let text = std::str::from_utf8(&message).ok();
                let text = text.filter(|text| serde_json::from_str::<&RawValue>(text).is_ok());
                let Some(text) = text else {
                    return Err(refusal(400, "the message is no JSON: want one value, such as {\"n\": 1}"));
                };
                let delivered = self.say(|| topic.to_owned(), || text.to_owned());
                Delivery { delivered, stored: false }
            }
        };
        let mut told = json!(delivery);
        if let Some(told) = told.as_object_mut() {
            told.insert("topic".to_owned(), topic.into());
        }
        Ok(told)
    }

    /// The same with the streams of sister instances.
    async fn with_sisters(self: &Arc<Self>, here: Delivery, key: Option<SessionKey>) -> Delivery {
        match key.filter(|_| self.store.is_shared()) {
            Some(key) => Delivery { delivered: here.delivered + self.carried_elsewhere(key).await, ..here },
            None => here,
        }
    }

    /// To a session, by its key or its id; `None`: there is none.
    async fn send_to(self: &Arc<Self>, session: &str, message: Bytes) -> Result<Option<Delivery>, RpcError> {
        let Some(key) = SessionKey::parse(session) else { return self.send(session, message).await };
        check_notification(&message)?;
        match self.by_key.with(&key, Weak::upgrade).flatten().filter(|session| !session.is_ended()) {
            Some(session) => {
                let items = vec![(Kind::Message, message)];
                session.append(self, StreamName::GET, items).await.map_err(|error| store_error(&error))?;
                let delivered = usize::from(session.streams().carrier(StreamName::GET).is_some());
                Ok(Some(Delivery { delivered, stored: true }))
            }
            None => match self.store.load(key).await.map_err(|error| store_error(&error))? {
                Lookup::Live(_) => {
                    self.send_to_stored(key, message).await.map_err(|error| store_error(&error))
                }
                Lookup::Terminated | Lookup::Unknown => Ok(None),
            },
        }
    }

    /// To a session that is not in memory here. Whoever has it gives out its numbers, perhaps at this moment; so this is
    /// said in a run of its own.
    async fn send_to_stored(
        self: &Arc<Self>,
        key: SessionKey,
        message: Bytes,
    ) -> Result<Option<Delivery>, StoreError> {
        let origin = self.topics.origin;
        let entry = {
            let _numbering = self.topics.numbering.lock().await;
            let place = self.store.place().await?;
            let seq = self.store.log(key).await?.high_water(origin) + 1;
            let at_ms = self.clock.now_ms();
            let (kind, stream, payload) = (Kind::Message, StreamName::GET, message.clone());
            let entry = Entry { origin, seq, at_ms, kind, stream, payload };
            let (done, written) = tokio::sync::oneshot::channel();
            let tell = move |outcome| drop(done.send(outcome));
            self.store.append(place, key, vec![entry.clone()], Vec::new(), Box::new(tell));
            match written.await.unwrap_or(Err(StoreError::Closed)) {
                Err(StoreError::Gone) => return Ok(None),
                written => written?,
            }
            entry
        };
        self.store.share(key).await;
        self.say_to_session(key, vec![message]);
        // It may have come into memory meanwhile, without this.
        let session: Option<Arc<Session>> = self.by_key.with(&key, Weak::upgrade).flatten();
        let delivered = session.is_some_and(|session| {
            let mut streams = session.streams();
            if streams.loaded {
                let _ = streams.log.union(entry);
                streams.wake_all();
            }
            streams.carrier(StreamName::GET).is_some()
        });
        Ok(Some(Delivery { delivered: usize::from(delivered), stored: true }))
    }
}

fn refusal(status: u16, message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal { status, error: RpcError::new(INVALID_REQUEST, message) }
}

fn failed(error: RpcError) -> Refusal {
    Refusal { status: if error.code == INTERNAL { 500 } else { 400 }, error }
}
