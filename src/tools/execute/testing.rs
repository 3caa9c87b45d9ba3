//! Calls for tests: of a client that keeps what it is told.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::rpc::error::RpcError;
use crate::tools::answer::raw;
use crate::tools::{BoxFuture, Call, HandleChange, Handles, LogLevel, Outbox};

/// What a client was told; while it is held, it takes nothing.
#[derive(Default)]
pub(super) struct Client {
    pub(super) told: Mutex<Vec<String>>,
    pub(super) held: tokio::sync::Mutex<()>,
    /// What it answers to every question; none: it never does.
    pub(super) answer: Option<&'static str>,
}

impl Client {
    pub(super) fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

impl Outbox for Client {
    fn notify(&self, message: Bytes) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            let _free = self.held.lock().await;
            self.told.lock().unwrap().push(String::from_utf8(message.to_vec()).unwrap());
            Ok(())
        })
    }

    fn ask(&self, _: &str, _: Box<RawValue>) -> BoxFuture<'_, Result<Box<RawValue>, RpcError>> {
        Box::pin(async move {
            match self.answer {
                Some(answer) => Ok(raw(answer.into())),
                None => std::future::pending().await,
            }
        })
    }

    fn wants_log(&self, level: LogLevel) -> bool {
        level >= LogLevel::Error
    }

    fn can_ask(&self) -> bool {
        self.answer.is_some()
    }

    fn modern_capabilities(&self) -> Option<&RawValue> {
        None
    }
}

struct NoHandles;

impl Handles for NoHandles {
    fn create(&self, _: &str, _: Bytes) -> BoxFuture<'_, Result<String, RpcError>> {
        Box::pin(std::future::ready(Err(RpcError::internal("no handles here"))))
    }

    fn change(&self, _: &str, _: &str, _: HandleChange) -> BoxFuture<'_, Result<Option<Bytes>, RpcError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// A call of this principal.
pub(super) fn call(principal: &str) -> Call {
    call_of(principal, Arc::default(), None)
}

/// A call of this client, with this progress token.
pub(super) fn call_of(principal: &str, client: Arc<Client>, token: Option<&str>) -> Call {
    Call {
        params: raw("{}".into()),
        progress_token: token.map(|token| raw(token.into())),
        session: None,
        out: client,
        cancel: CancellationToken::new(),
        principal: principal.into(),
        handles: Arc::new(NoHandles),
        correlation: "test".into(),
        resumed_after: None,
        anew: false,
    }
}
