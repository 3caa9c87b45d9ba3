//! Whether a call was answered from more than what it says of itself: then its result is its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::mcp::revision::Revision;
use crate::rpc::error::RpcError;
use crate::tools::{BoxFuture, Call, HandleChange, Handles, Outbox, SessionView, ValueChange};

/// What a call does beside answering.
pub(super) struct Watched {
    out: Arc<dyn Outbox>,
    touched: Arc<AtomicBool>,
}

impl Watched {
    /// Looks over the shoulder of a call.
    pub(super) fn over(call: Call) -> (Call, Self) {
        let touched = Arc::new(AtomicBool::new(false));
        let watched = Self { out: Arc::clone(&call.out), touched: Arc::clone(&touched) };
        let session = call.session.map(|session| {
            Arc::new(Session { session, touched: Arc::clone(&touched) }) as Arc<dyn SessionView>
        });
        let handles = Arc::new(Kept { handles: call.handles, touched });
        (Call { session, handles, ..call }, watched)
    }

    /// It asked its client, or used what is kept for a session or under a handle.
    pub(super) fn is_of_one_call(&self) -> bool {
        self.touched.load(Ordering::Acquire) || self.out.wanted_to_ask()
    }
}

struct Session {
    session: Arc<dyn SessionView>,
    touched: Arc<AtomicBool>,
}

impl SessionView for Session {
    fn key(&self) -> &str {
        self.session.key()
    }

    fn client_capabilities(&self) -> &RawValue {
        self.session.client_capabilities()
    }

    fn revision(&self) -> Revision {
        self.session.revision()
    }

    fn change_value<'a>(
        &'a self,
        name: &'a str,
        change: ValueChange,
    ) -> BoxFuture<'a, Result<Option<Bytes>, RpcError>> {
        self.touched.store(true, Ordering::Release);
        self.session.change_value(name, change)
    }
}

struct Kept {
    handles: Arc<dyn Handles>,
    touched: Arc<AtomicBool>,
}

impl Handles for Kept {
    fn create(&self, principal: &str, value: Bytes) -> BoxFuture<'_, Result<String, RpcError>> {
        self.touched.store(true, Ordering::Release);
        self.handles.create(principal, value)
    }

    fn change(
        &self,
        principal: &str,
        handle: &str,
        change: HandleChange,
    ) -> BoxFuture<'_, Result<Option<Bytes>, RpcError>> {
        self.touched.store(true, Ordering::Release);
        self.handles.change(principal, handle, change)
    }
}
