//! The list of tools as it may be shown, written once per change of the registry.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::Engine;
use super::strip::description;
use crate::tools::registry::Snapshot;

/// The list that was written last, and of what.
#[derive(Default)]
pub(super) struct Listing(Mutex<Option<(Arc<Snapshot>, Arc<str>)>>);

impl Engine {
    /// Descriptions of all tools without sensitive parameters, a JSON array.
    pub(super) async fn rest_tools(&self) -> Arc<str> {
        let snapshot = self.registry.settled(self.settle).await;
        let mut held = self.rest.listing.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = held.as_ref().filter(|(known, _)| Arc::ptr_eq(known, &snapshot)) {
            return Arc::clone(text);
        }
        let mut text = String::from("[");
        for it in &snapshot.tools {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&description(it.tool.json.get(), &self.rest.settings));
        }
        text.push(']');
        let text: Arc<str> = text.into();
        *held = Some((snapshot, Arc::clone(&text)));
        text
    }
}
