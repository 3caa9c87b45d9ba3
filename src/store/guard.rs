//! Writes on a condition.

use std::sync::Arc;

use super::write::{Plan, unchanged};
use super::{FieldWrite, Store, StoreError};
use crate::base::ids::SessionKey;
use crate::state::doc::{Doc, Version};

/// On what condition a write is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The document is at this version.
    pub version: Option<Version>,
    /// Nobody has taken this lock since this fence of it was given.
    pub fence: Option<(String, u64)>,
}

impl Guard {
    /// The document is at this version.
    #[must_use]
    pub fn version(version: Version) -> Self {
        Self { version: Some(version), fence: None }
    }

    /// Nobody has taken this lock since this fence of it was given.
    #[must_use]
    pub fn fence(lock: &str, fence: u64) -> Self {
        Self { version: None, fence: Some((lock.to_owned(), fence)) }
    }
}

impl Store {
    /// As [`Store::update`], if `guard` holds at the moment at which the write takes its place in the order of all
    /// writes.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], which names both versions; [`StoreError::Fenced`]; for the fence of a lock of all
    /// instances also [`StoreError::NotHolder`] when its holder's time is over, and [`StoreError::Unshared`] while the
    /// shared store cannot say whose it is; as [`Store::update`].
    pub async fn update_if(
        &self,
        key: SessionKey,
        guard: Guard,
        fields: Vec<FieldWrite>,
    ) -> Result<Arc<Doc>, StoreError> {
        let answered = self.look_again(key).await?;
        let Guard { version, fence } = guard;
        let fence = match fence {
            Some((lock, fence)) => Some(self.under_fence(lock, fence).await?),
            None => None,
        };
        let now_ms = self.clock.now_ms();
        self.write_after_look(key, self.place().await?, answered, fence.as_ref(), |current| {
            let session =
                current.as_ref().filter(|session| session.is_live(now_ms)).ok_or(StoreError::Gone)?;
            let actual = session.doc.version();
            if let Some(expected) = version.filter(|expected| *expected != actual) {
                return Err(StoreError::Conflict { expected, actual });
            }
            let doc = Arc::clone(&session.doc);
            Ok(match self.plan_update(key, session, fields)? {
                Some(plan) => plan,
                None => unchanged(&current, doc),
            })
        })
        .await
    }

    /// Removes a field; false if there was none.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub async fn remove_field(&self, key: SessionKey, field: &str) -> Result<bool, StoreError> {
        let now_ms = self.clock.now_ms();
        self.write(key, self.place().await?, |current| {
            let session =
                current.as_ref().filter(|session| session.is_live(now_ms)).ok_or(StoreError::Gone)?;
            Ok(match self.plan_update(key, session, vec![(field.to_owned(), None)])? {
                Some(Plan { next, work, newest_ms, owes, .. }) => {
                    Plan { next, work, newest_ms, owes, value: true }
                }
                None => unchanged(&current, false),
            })
        })
        .await
    }
}
