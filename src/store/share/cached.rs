//! Cached values in the shared store, and the tags by which they are voided.
//!
//! A value is written with the number that the counting of voidings had when its making began, as far as it was known
//! here. It counts as long as none of its tags has a higher number. The numbers are one hash in the shared store; every
//! instance has a copy of it, which is read anew when it is heard that it is another one. So voiding costs one write,
//! whatever it is that goes, and nobody has to look for it: not even what comes too late counts.
//!
//! ```text
//! value     kind 1 as of a field | MessagePack: counting, number, tags, content
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

use super::Sharing;
use crate::base::clock::millis;
use crate::base::limits::{CACHED_PUTS, CACHED_SHARED_BYTES, VOIDED_TAGS};
use crate::store::Store;
use crate::store::remote::{LinkState, Voided};

/// For so long after it was heard that tags were voided, what is held may still be used: docs/caching.md.
const UNREAD_MS: u64 = 1_000;
/// Voidings of so long are told together.
const TOGETHER: Duration = Duration::from_millis(20);
/// What could not be told is tried again after this long, should nothing be heard before.
const AGAIN: Duration = Duration::from_secs(1);
/// Tags in one command: a script that runs long holds up everybody.
const TAGS_AT_ONCE: usize = 256;

/// How far the voidings of all instances were known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoidMark {
    /// Which counting it is.
    pub counting: Arc<str>,
    /// Its last number.
    pub last: u64,
}

/// A value as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    #[serde(rename = "e")]
    counting: std::borrow::Cow<'a, str>,
    #[serde(rename = "n")]
    last: u64,
    #[serde(rename = "t")]
    tags: Vec<String>,
    #[serde(rename = "p", with = "serde_bytes")]
    content: Vec<u8>,
}

/// What is known of cached values in the shared store.
pub(super) struct SharedValues {
    /// Somebody here caches values: before that nothing is asked.
    wanted: AtomicBool,
    /// The voidings as they were read last.
    known: Mutex<Option<Arc<Known>>>,
    /// Since when (monotonic, milliseconds, at least 1) there is news of them that was not read; 0: there is none.
    unread_ms: AtomicU64,
    /// News may have been missed altogether.
    lapsed: AtomicBool,
    epoch: AtomicU64,
    /// Tags that were voided here and of which the shared store does not know yet.
    owed: Mutex<Owed>,
    news: Notify,
    puts: Arc<Semaphore>,
}

impl Default for SharedValues {
    fn default() -> Self {
        Self {
            wanted: AtomicBool::new(false),
            known: Mutex::default(),
            unread_ms: AtomicU64::new(0),
            lapsed: AtomicBool::new(true),
            epoch: AtomicU64::new(1),
            owed: Mutex::default(),
            news: Notify::new(),
            puts: Arc::new(Semaphore::new(CACHED_PUTS)),
        }
    }
}

/// Tags of which the shared store is to be told.
#[derive(Default)]
struct Owed {
    /// By tag, the newest of its voidings here.
    tags: BTreeMap<String, u64>,
    newest: u64,
    /// The tag that stands for everything, once there were more than are remembered.
    all: Option<String>,
}

struct Known {
    counting: Arc<str>,
    last: u64,
    floor: u64,
    tags: HashMap<String, u64>,
}

impl Known {
    fn of(voided: Voided) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            counting: text(&voided.counting).into(),
            last: voided.last,
            floor: voided.floor,
            tags: voided.tags.into_iter().map(|(tag, number)| (text(&tag), number)).collect(),
        }
    }

    fn is_void(&self, stored: &Stored<'_>) -> bool {
        *stored.counting != *self.counting
            || stored.last < self.floor
            || stored.tags.iter().any(|tag| self.tags.get(tag).is_some_and(|last| *last > stored.last))
    }

    /// The tags that were voided since `before`; `None`: it cannot be said.
    fn since(&self, before: &Self) -> Option<Vec<String>> {
        if self.counting != before.counting || self.floor > before.last || self.last < before.last {
            return None;
        }
        let news = self.tags.iter().filter(|(_, number)| **number > before.last);
        Some(news.map(|(tag, _)| tag.clone()).collect())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedValues {
    /// Voidings were heard of.
    pub(super) fn voided(&self, now_ms: u64) {
        let _ = self.unread_ms.compare_exchange(0, now_ms.max(1), Ordering::AcqRel, Ordering::Acquire);
        self.news.notify_one();
    }

    /// Anything may have been missed.
    pub(super) fn lapsed(&self) {
        self.lapsed.store(true, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.news.notify_one();
    }

    /// The link is another one.
    pub(super) fn wake(&self) {
        self.news.notify_one();
    }

    /// The voidings, if they are known as of now.
    fn fresh(&self, now_ms: u64) -> Option<Arc<Known>> {
        let unread_ms = self.unread_ms.load(Ordering::Acquire);
        let late = unread_ms != 0 && now_ms.saturating_sub(unread_ms) > UNREAD_MS;
        if late || self.lapsed.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.known).clone()
    }

    fn owes_any(&self, tags: &[String]) -> bool {
        lock(&self.owed).owes_any(tags)
    }
}

impl Store {
    /// From now on values are cached in the shared store. The watcher of the store hears of those that change, and of tags
    /// that are voided elsewhere.
    pub fn share_values(&self) {
        if let Some(sharing) = self.sharing.get() {
            sharing.values.wanted.store(true, Ordering::Release);
            sharing.values.wake();
        }
    }

    /// Whether cached values can be asked for, and put.
    #[must_use]
    pub fn reaches_values(&self) -> bool {
        self.values_link().is_some_and(|(_, state)| state == LinkState::Up)
    }

    /// Whether what an instance holds of cached values is not older than a second: the link is up and whatever is voided is
    /// heard of; or it is away, and what is held is all there is.
    #[must_use]
    pub fn vouches_for_values(&self) -> bool {
        match self.values_link() {
            Some((sharing, LinkState::Up)) => {
                sharing.remote.is_leased(sharing.remote.cache_shard())
                    && sharing.values.fresh(self.clock.monotonic_ms()).is_some()
            }
            _ => true,
        }
    }

    /// Rises when it may have been missed that a cached value became another one.
    #[must_use]
    pub fn values_epoch(&self) -> u64 {
        self.sharing.get().map_or(0, |sharing| sharing.values.epoch.load(Ordering::Acquire))
    }

    /// How far the voidings of all instances are known; none: not now.
    #[must_use]
    pub fn void_mark(&self) -> Option<VoidMark> {
        let (sharing, state) = self.values_link()?;
        if state != LinkState::Up {
            return None;
        }
        let known = sharing.values.fresh(self.clock.monotonic_ms())?;
        Some(VoidMark { counting: Arc::clone(&known.counting), last: known.last })
    }

    /// A cached value that no voiding is known of, and how long it counts. Any failure is as if there were none.
    pub async fn shared_value(&self, name: &str) -> Option<(Bytes, Duration)> {
        let (sharing, state) = self.values_link()?;
        if !matches!(state, LinkState::Up | LinkState::ReadOnly) {
            return None;
        }
        let found = sharing.remote.cache_get(name).await.ok()??;
        if let Some(id) = sharing.form.unknown_key_of(&found.value) {
            self.find_key(id).await;
        }
        let opened = match sharing.form.read_value(name, &found.value) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(%error, "a cached value cannot be read");
                return None;
            }
        };
        let stored: Stored<'_> = rmp_serde::from_slice(&opened).ok()?;
        // As they are known now, behind the look. Where writes are refused nobody voids.
        let known = match state {
            LinkState::ReadOnly => lock(&sharing.values.known).clone()?,
            _ => sharing.values.fresh(self.clock.monotonic_ms())?,
        };
        if known.is_void(&stored) || sharing.values.owes_any(&stored.tags) {
            let _ = sharing.remote.cache_put(name, found.made_ms, None).await;
            return None;
        }
        Some((stored.content.into(), found.left))
    }

    /// Caches a value for `ttl`, in the background: too many at a time are not cached. `made_ms`: when its making began;
    /// `mark`: how far voidings were known then.
    pub fn put_shared_value(
        self: &Arc<Self>,
        name: String,
        content: Bytes,
        made_ms: u64,
        ttl: Duration,
        tags: Vec<String>,
        mark: VoidMark,
    ) {
        let Some((sharing, LinkState::Up)) = self.values_link() else { return };
        let Ok(permit) = Arc::clone(&sharing.values.puts).try_acquire_owned() else { return };
        let store = Arc::clone(self);
        tokio::spawn(async move {
            let _permit = permit;
            let Some(sharing) = store.sharing.get() else { return };
            let stored = Stored {
                counting: std::borrow::Cow::Borrowed(&*mark.counting),
                last: mark.last,
                tags,
                content: content.into(),
            };
            let Ok(written) = rmp_serde::to_vec_named(&stored) else { return };
            let Ok(sealed) = sharing.form.value(&name, &written) else { return };
            if sealed.len() > CACHED_SHARED_BYTES {
                return;
            }
            let offset_ms = store.offset_ms.load(Ordering::Relaxed);
            let until_ms = store.shared_now_ms().saturating_add(millis(ttl));
            let made_ms = made_ms.saturating_add_signed(offset_ms);
            // Not kept, it is made again.
            let _ = sharing.remote.cache_put(&name, made_ms, Some((sealed, until_ms))).await;
        });
    }

    /// Tells all instances that tags are voided: soon, or when the shared store can be told again. `all`: the tag that
    /// stands for everything.
    pub fn void_shared_values(&self, tags: Vec<String>, all: String) {
        let Some(sharing) = self.sharing.get() else { return };
        lock(&sharing.values.owed).add(tags, &all);
        sharing.values.news.notify_one();
    }

    fn values_link(&self) -> Option<(&Arc<Sharing>, LinkState)> {
        let sharing = self.sharing.get()?;
        // Before keys are agreed on nothing is shared.
        let state = match sharing.is_agreed() {
            true => sharing.remote.state(sharing.remote.cache_shard()),
            false => LinkState::Down,
        };
        Some((sharing, state))
    }

    /// Reads what was voided elsewhere and tells what was voided here, as long as it is polled.
    pub(super) async fn keep_voided(&self) {
        let Some(sharing) = self.sharing.get() else { return };
        let values = &sharing.values;
        loop {
            let behind = values.lapsed.load(Ordering::Acquire)
                || values.unread_ms.load(Ordering::Acquire) != 0
                || !lock(&values.owed).is_empty();
            match behind && values.wanted.load(Ordering::Acquire) {
                true => drop(tokio::time::timeout(AGAIN, values.news.notified()).await),
                false => values.news.notified().await,
            }
            if !values.wanted.load(Ordering::Acquire) || !self.reaches_values() {
                continue;
            }
            self.tell_voided(sharing).await;
            self.read_voided(sharing).await;
            tokio::time::sleep(TOGETHER).await;
        }
    }

    async fn tell_voided(&self, sharing: &Sharing) {
        loop {
            let (batch, up_to) = lock(&sharing.values.owed).batch();
            if batch.is_empty() || sharing.remote.cache_void(batch.clone()).await.is_err() {
                return;
            }
            // Owed until it is read back, so that what was voided here is not found there again meanwhile.
            sharing.values.voided(self.clock.monotonic_ms());
            if !self.read_voided(sharing).await {
                return;
            }
            lock(&sharing.values.owed).told(&batch, up_to);
        }
    }

    /// False: they could not be read.
    async fn read_voided(&self, sharing: &Sharing) -> bool {
        let values = &sharing.values;
        // Before it is read: what is heard from now on is news again.
        let unread_ms = values.unread_ms.swap(0, Ordering::AcqRel);
        let lapsed = values.lapsed.load(Ordering::Acquire);
        if unread_ms == 0 && !lapsed && lock(&values.known).is_some() {
            return true;
        }
        let epoch = values.epoch.load(Ordering::Acquire);
        let read = match sharing.remote.cache_voided().await {
            // A counting begins.
            Ok(None) => match sharing.remote.cache_void(Vec::new()).await {
                Ok(()) => sharing.remote.cache_voided().await,
                Err(error) => Err(error),
            },
            read => read,
        };
        let Ok(Some(voided)) = read else {
            values.unread_ms.store(unread_ms, Ordering::Release);
            return false;
        };
        let now = Arc::new(Known::of(voided));
        let before = lock(&values.known).replace(Arc::clone(&now));
        if let Some(watch) = sharing.woken.watcher() {
            // Of what was held before it was known what is voided, nothing can be said.
            let tags = before.and_then(|before| now.since(&before));
            match tags {
                Some(tags) if tags.is_empty() => {}
                tags => watch.voided(tags.as_deref()),
            }
        }
        if values.epoch.load(Ordering::Acquire) == epoch {
            values.lapsed.store(false, Ordering::Release);
        }
        true
    }
}

impl Owed {
    fn add(&mut self, tags: impl IntoIterator<Item = String>, all: &str) {
        self.newest += 1;
        self.tags.extend(tags.into_iter().map(|tag| (tag, self.newest)));
        if self.tags.len() > VOIDED_TAGS {
            self.tags.clear();
            self.tags.insert(all.to_owned(), self.newest);
            self.all = Some(all.to_owned());
        }
    }

    /// Some of them, and the newest voiding that telling them now tells.
    fn batch(&self) -> (Vec<String>, u64) {
        // The one that stands for all comes first: what it voids must not wait for the others.
        let all = self.all.iter().filter(|all| self.tags.contains_key(*all));
        let others = self.tags.keys().filter(|tag| Some(*tag) != self.all.as_ref());
        (all.chain(others).take(TAGS_AT_ONCE).cloned().collect(), self.newest)
    }

    /// These are told; those that were voided once more meanwhile are not.
    fn told(&mut self, tags: &[String], up_to: u64) {
        for tag in tags {
            if self.tags.get(tag).is_some_and(|number| *number <= up_to) {
                self.tags.remove(tag);
            }
        }
        if self.all.as_ref().is_some_and(|all| !self.tags.contains_key(all)) {
            self.all = None;
        }
    }

    fn owes_any(&self, tags: &[String]) -> bool {
        self.all.is_some() || tags.iter().any(|tag| self.tags.contains_key(tag))
    }

    fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(last: u64, floor: u64, tags: &[(&str, u64)]) -> Known {
        Known {
            counting: "c".into(),
            last,
            floor,
            tags: tags.iter().map(|(tag, number)| ((*tag).to_owned(), *number)).collect(),
        }
    }

    #[test]
    fn a_value_is_void_when_a_tag_of_it_was_voided_after_it_was_begun() {
        let stored = |last: u64, tags: &[&str]| Stored {
            counting: "c".into(),
            last,
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            content: Vec::new(),
        };
        let known = known(9, 3, &[("a", 5), ("b", 9)]);
        for (value, is) in [
            (stored(5, &["a"]), false),
            (stored(4, &["a"]), true),
            (stored(4, &["x"]), false),
            (stored(8, &["a", "b"]), true),
            (stored(2, &["x"]), true),
            (Stored { counting: "other".into(), ..stored(9, &[]) }, true),
        ] {
            assert_eq!(known.is_void(&value), is, "{} {:?}", value.last, value.tags);
        }
    }

    #[test]
    fn what_was_voided_meanwhile_is_named_or_else_everything_was() {
        let before = known(5, 0, &[("a", 5)]);
        assert_eq!(known(7, 0, &[("a", 5), ("b", 7)]).since(&before), Some(vec!["b".to_owned()]));
        assert_eq!(known(5, 0, &[("a", 5)]).since(&before), Some(Vec::new()));
        assert_eq!(known(9, 8, &[("b", 9)]).since(&before), None);
        assert_eq!(Known { counting: "d".into(), ..known(9, 0, &[]) }.since(&before), None);
        assert_eq!(known(4, 0, &[]).since(&before), None);
    }

    #[test]
    fn what_is_voided_again_while_it_is_told_is_owed_still() {
        let mut owed = Owed::default();
        owed.add(["a".to_owned(), "b".to_owned()], "all");
        let (told, up_to) = owed.batch();
        assert_eq!(told, ["a", "b"]);
        owed.add(["b".to_owned()], "all");
        owed.told(&told, up_to);
        assert_eq!(owed.batch().0, ["b"]);
        let (told, up_to) = owed.batch();
        owed.told(&told, up_to);
        assert!(owed.is_empty());
    }

    #[test]
    fn too_many_tags_become_the_one_that_stands_for_all() {
        let mut owed = Owed::default();
        owed.add((0..=VOIDED_TAGS).map(|n| n.to_string()), "all");
        let (told, up_to) = owed.batch();
        assert_eq!(told, ["all"]);
        assert!(owed.owes_any(&["x".to_owned()]));
        // Once more, while the first is told.
        owed.add((0..=VOIDED_TAGS).map(|n| n.to_string()), "all");
        owed.told(&told, up_to);
        assert_eq!(owed.batch().0, ["all"]);
    }
}
