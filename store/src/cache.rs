//! A cache limited in bytes, around the `lru` crate, which limits entries only.

use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Least recently used entries leave once the sizes add up to more than the limit.
pub(crate) struct ByteCache<K: Hash + Eq, V> {
    bytes_max: usize,
    state: Mutex<State<K, V>>,
}

struct State<K: Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
}

impl<K: Hash + Eq, V: Clone> ByteCache<K, V> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::new(State { entries: LruCache::unbounded(), bytes: 0 }) }
    }

    pub(crate) fn find(&self, key: &K) -> Option<V> {
        self.lock().entries.get(key).map(|(value, _)| value.clone())
    }

    /// Keeps a value that takes `bytes` of memory; one larger than an eighth of the cache is not
    /// kept, so that it cannot push out everything else.
    pub(crate) fn keep(&self, key: K, value: V, bytes: usize) {
        if bytes > self.bytes_max / 8 {
            return;
        }
        let mut state = self.lock();
        if let Some((_, replaced)) = state.entries.put(key, (value, bytes)) {
            state.bytes -= replaced;
        }
        state.bytes += bytes;
        while state.bytes > self.bytes_max {
            let Some((_, (_, freed))) = state.entries.pop_lru() else { break };
            state.bytes -= freed;
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        state.entries.clear();
        state.bytes = 0;
    }

    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        // A panic between two updates can at worst leave the count of bytes off.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_leave_first() {
        let cache = ByteCache::new(80);
        for key in 0..8 {
            cache.keep(key, key, 10);
        }
        assert_eq!(cache.find(&0), Some(0));
        cache.keep(8, 8, 10);
        assert_eq!((cache.find(&0), cache.find(&1)), (Some(0), None));
        cache.keep(9, 9, 11);
        assert_eq!(cache.find(&9), None);
    }
}
