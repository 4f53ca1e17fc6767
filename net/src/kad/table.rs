//! The routing table: a bucket for each length of prefix that a peer can share with us.

use std::time::{Duration, Instant};

use crate::identity::NodeId;
use crate::kad::bucket::{Bucket, Entry, Seen};
use crate::kad::rtt::Rtt;
use crate::kad::{Key, Peer};
use crate::limits::K;

/// All peers that are believed to live.
#[derive(Debug)]
pub(crate) struct Table {
    own: Key,
    buckets: Vec<Bucket>,
    len: usize,
    surveyed: bool,
}

impl Table {
    pub(crate) fn new(own: NodeId) -> Self {
        Self { own: Key::from(own), buckets: Vec::new(), len: 0, surveyed: false }
    }

    /// Notes that a verified peer was heard of. `None` for ourselves.
    pub(crate) fn seen(&mut self, now: Instant, peer: Peer) -> Option<Seen> {
        let seen = self.bucket_for(&peer.id)?.seen(now, peer);
        self.len += usize::from(seen == Seen::Joined);
        Some(seen)
    }

    /// Notes that a peer answered, if it is in the table, without learning an address.
    pub(crate) fn answered(&mut self, now: Instant, id: &NodeId) {
        if let Some(bucket) = self.bucket_mut(id)
            && bucket.entry_mut(id).is_some()
        {
            bucket.seen(now, Peer { id: *id, addresses: Vec::new() });
        }
    }

    /// Notes how long a peer took to answer.
    pub(crate) fn measured(&mut self, id: &NodeId, took: Duration) {
        if let Some(entry) = self.bucket_mut(id).and_then(|bucket| bucket.entry_mut(id)) {
            entry.rtt = Some(Rtt::with(entry.rtt, took));
        }
    }

    /// Marks a peer whose life is in doubt. True where it is in the table and was not marked.
    pub(crate) fn suspect(&mut self, id: &NodeId) -> bool {
        match self.bucket_mut(id).and_then(|bucket| bucket.entry_mut(id)) {
            Some(entry) => !std::mem::replace(&mut entry.suspect, true),
            None => false,
        }
    }

    /// Removes a peer that is gone.
    pub(crate) fn remove(&mut self, id: &NodeId) -> Option<Peer> {
        let bucket = self.bucket_mut(id)?;
        let before = bucket.len();
        let removed = bucket.remove(id);
        let after = bucket.len();
        self.len = self.len + after - before;
        removed
    }

    pub(crate) fn find(&self, id: &NodeId) -> Option<&Entry> {
        let index = self.own.distance(&Key::from(*id)).prefix_bits();
        self.buckets.get(index)?.entries().find(|entry| entry.peer.id == *id)
    }

    /// Up to `count` peers, the closest to `key` first.
    pub(crate) fn closest(&self, key: &Key, count: usize) -> Vec<&Entry> {
        let mut all: Vec<_> =
            self.iter().map(|entry| (entry.peer.key().distance(key), entry)).collect();
        if all.len() > count && count > 0 {
            all.select_nth_unstable_by_key(count - 1, |(distance, _)| *distance);
        }
        all.truncate(count);
        all.sort_unstable_by_key(|(distance, _)| *distance);
        all.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Whether fewer than `count` peers are closer to `key` than we are.
    pub(crate) fn own_in_closest(&self, key: &Key, count: usize) -> bool {
        let ours = self.own.distance(key);
        self.iter().filter(|entry| entry.peer.key().distance(key) < ours).count() < count
    }

    /// Notes whether a lookup of ourselves has just gone through without a failure.
    pub(crate) fn set_surveyed(&mut self, surveyed: bool) {
        self.surveyed = surveyed;
    }

    /// Whether the table knows every node. A lookup of ourselves finds the `K` closest; where it
    /// found fewer there are no others, and newcomers in so small a network contact everybody.
    pub(crate) fn is_complete(&self) -> bool {
        self.surveyed && self.len < K
    }

    /// About how many leading bits the nodes share that one lookup finds: each full bucket means
    /// twice as many nodes.
    pub(crate) fn region_bits(&self) -> usize {
        self.buckets.iter().take_while(|bucket| bucket.len() == K).count() + 1
    }

    /// Indexes of the buckets worth refreshing: all up to the deepest that holds a peer.
    pub(crate) fn depth(&self) -> usize {
        self.buckets.iter().rposition(|bucket| bucket.len() > 0).map_or(0, |deepest| deepest + 1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(Bucket::entries)
    }

    /// Number of peers believed to live.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn bucket_mut(&mut self, id: &NodeId) -> Option<&mut Bucket> {
        let index = self.own.distance(&Key::from(*id)).prefix_bits();
        self.buckets.get_mut(index)
    }

    /// The bucket for a peer, made where it is deeper than all there are; `None` for ourselves.
    fn bucket_for(&mut self, id: &NodeId) -> Option<&mut Bucket> {
        let index = self.own.distance(&Key::from(*id)).prefix_bits();
        if index == 256 {
            return None;
        }
        if self.buckets.len() <= index {
            self.buckets.resize_with(index + 1, Bucket::default);
        }
        self.buckets.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(bytes: [u8; 32]) -> Peer {
        Peer { id: NodeId::from_bytes(bytes), addresses: Vec::new() }
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn we_are_not_our_own_peer() {
        let mut table = Table::new(NodeId::from_bytes([1; 32]));
        assert_eq!(table.seen(now(), peer([1; 32])), None);
        assert_eq!(table.len(), 0);
    }

    proptest! {
        #[test]
        fn closest_is_what_sorting_gives(
            ids in prop::collection::btree_set(any::<[u8; 32]>(), 0..60), target: [u8; 32],
        ) {
            let mut table = Table::new(NodeId::from_bytes([0; 32]));
            let key = Key::from_bytes(target);
            for id in &ids {
                table.seen(now(), peer(*id));
            }
            let mut known: Vec<_> = table.iter().map(|entry| entry.peer.key()).collect();
            known.sort_by_key(|known| known.distance(&key));
            known.truncate(K);
            let closest: Vec<_> =
                table.closest(&key, K).iter().map(|entry| entry.peer.key()).collect();
            prop_assert_eq!(closest, known);
            prop_assert_eq!(table.len(), table.iter().count());
        }
    }
}
