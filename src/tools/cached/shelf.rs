//! The tier that instances share, as the cache of results sees it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::tags::Tag;
use crate::tools::BoxFuture;

/// How far the voidings of all instances were known at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which counting it is.
    pub counting: Arc<str>,
    /// Its last number.
    pub last: u64,
}

/// The tier that instances share. Nothing here fails: what cannot be done is not done.
pub trait Shelf: Send + Sync + 'static {
    /// Whether it can be asked and told now.
    fn is_up(&self) -> bool;

    /// Whether memory may answer: it is up and what is voided elsewhere is heard of within a second, or it is away, so
    /// that memory is all there is.
    fn vouches(&self) -> bool;

    /// Rises when it may have been missed that a value became another one.
    fn epoch(&self) -> u64;

    /// How far voidings are known now; none: what is made now cannot be shared.
    fn mark(&self) -> Option<Mark>;

    /// A value that no voiding is known of, and how long it counts.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<(Bytes, Duration)>>;

    /// Keeps a value in the background. `made_ms`: when its making began, milliseconds since the epoch; `mark`: how far
    /// voidings were known then.
    fn put(&self, name: String, value: Bytes, made_ms: u64, ttl: Duration, tags: Vec<Tag>, mark: Mark);

    /// Tells all instances that these were voided, in the background, and later when it cannot be told now.
    fn void(&self, tags: &[Tag]);
}
