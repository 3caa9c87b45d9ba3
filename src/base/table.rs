//! A concurrent map whose guards cannot be held over an `.await`.

use std::borrow::Borrow;
use std::hash::Hash;

use dashmap::DashMap;

/// A sharded map. Values are reached through closures only, because a guard is a shard's lock and holding one over
/// an `.await` can block the runtime.
#[derive(Debug)]
pub struct Table<K: Eq + Hash, V>(DashMap<K, V>);

impl<K: Eq + Hash, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(DashMap::new())
    }
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// Calls `f` with the value of `key`, if there is one.
    pub fn with<Q, R>(&self, key: &Q, f: impl FnOnce(&V) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.get(key).map(|value| f(&value))
    }

    /// Puts a value, returning the one it replaces.
    pub fn insert(&self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// The value of `key`, made by `make` if there is none; `f` sees it under the shard's lock.
    pub fn with_or_insert<R>(&self, key: K, make: impl FnOnce() -> V, f: impl FnOnce(&mut V) -> R) -> R {
        let mut entry = self.0.entry(key).or_insert_with(make);
        f(&mut entry)
    }

    /// Takes a value out.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.remove(key).map(|(_, value)| value)
    }

    /// Takes a value out if `test` says so.
    pub fn remove_if<Q>(&self, key: &Q, test: impl FnOnce(&V) -> bool) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.remove_if(key, |_, value| test(value)).map(|(_, value)| value)
    }

    /// Keeps what `test` accepts.
    pub fn retain(&self, mut test: impl FnMut(&K, &V) -> bool) {
        self.0.retain(|key, value| test(key, value));
    }

    /// Calls `f` with every entry, a shard locked at a time.
    pub fn for_each(&self, mut f: impl FnMut(&K, &V)) {
        for entry in &self.0 {
            f(entry.key(), entry.value());
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
