//! The shared tier of the cache of results: values of the store that instances share.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Engine;
use crate::store::Store;
use crate::store::share::VoidMark;
use crate::tools::BoxFuture;
use crate::tools::cached::{CacheStats, Mark, Shelf, Tag};

/// What the store shares, as the cache of results sees it.
struct StoreShelf(Arc<Store>);

impl Shelf for StoreShelf {
    fn is_up(&self) -> bool {
        self.0.reaches_values()
    }

    fn vouches(&self) -> bool {
        self.0.vouches_for_values()
    }

    fn epoch(&self) -> u64 {
        self.0.values_epoch()
    }

    fn mark(&self) -> Option<Mark> {
        self.0.void_mark().map(|VoidMark { counting, last }| Mark { counting, last })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<(Bytes, Duration)>> {
        Box::pin(self.0.shared_value(name))
    }

    fn put(&self, name: String, value: Bytes, made_ms: u64, ttl: Duration, tags: Vec<Tag>, mark: Mark) {
        let mark = VoidMark { counting: mark.counting, last: mark.last };
        self.0.put_shared_value(name, value, made_ms, ttl, texts(&tags), mark);
    }

    fn void(&self, tags: &[Tag]) {
        self.0.void_shared_values(texts(tags), Tag::all().to_string());
    }
}

fn texts(tags: &[Tag]) -> Vec<String> {
    tags.iter().map(Tag::to_string).collect()
}

impl Engine {
    /// From now on results are kept where sister instances find them.
    pub(super) fn share_results(&self) {
        if self.store.is_shared() && self.registry.results().is_on() {
            self.registry.results().share(Arc::new(StoreShelf(Arc::clone(&self.store))));
            self.store.share_values();
        }
    }

    /// What the cache of results holds and what it was good for.
    #[must_use]
    pub fn cached(&self) -> CacheStats {
        self.registry.results().stats()
    }

    /// Tags were voided on another instance; none: any may have been.
    pub(super) fn take_voided(&self, tags: Option<&[String]>) {
        let tags = match tags {
            Some(tags) => tags.iter().filter_map(|tag| Tag::parse(tag)).collect(),
            None => vec![Tag::all()],
        };
        self.registry.results().void_here(&tags);
    }
}
