//! A part of the key space whose nodes are all known, because a lookup has just been there.
//!
//! A lookup finds the `K` nodes closest to its target. The farthest of them shares a prefix of
//! some length with the target, so every node that shares a longer one was found. For each key
//! with that longer prefix the closest nodes are known then, without another lookup.

use crate::kad::{Key, Peer};
use crate::limits::K;

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Region {
    centre: Key,
    /// Keys that share as many leading bits with the centre belong to it.
    bits: usize,
    peers: Vec<Peer>,
}

impl Region {
    /// The region that a lookup of `centre`, which ended with `peers`, has seen; as small as the
    /// centre alone where it holds fewer than `count_min` of them. `sound` says that nobody
    /// failed to answer: only then few peers mean that there are no more.
    pub(crate) fn around(centre: Key, peers: Vec<Peer>, sound: bool, count_min: usize) -> Self {
        let shared = |peer: &Peer| peer.key().distance(&centre).prefix_bits();
        let bits = if peers.len() < K {
            if sound { 0 } else { 256 }
        } else {
            let bits = peers.iter().map(shared).min().map_or(0, |least| least + 1);
            let inside = peers.iter().filter(|peer| shared(peer) >= bits).count();
            if inside >= count_min { bits } else { 256 }
        };
        Self { centre, bits, peers }
    }

    /// Whether the nodes closest to `key` are among the peers.
    pub(crate) fn covers(&self, key: &Key) -> bool {
        self.centre.distance(key).prefix_bits() >= self.bits
    }

    /// The nodes that were found.
    pub(crate) fn peers(&self) -> &[Peer] {
        &self.peers
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::NodeId;

    fn closest(all: &[Peer], key: &Key, count: usize) -> Vec<Peer> {
        let mut all = all.to_vec();
        all.sort_by_key(|peer| peer.key().distance(key));
        all.truncate(count);
        all
    }

    proptest! {
        #[test]
        fn what_a_region_covers_has_its_closest_nodes_in_it(
            ids in prop::collection::btree_set(any::<[u8; 32]>(), 1..120),
            centre: [u8; 32], keys in prop::collection::vec(any::<[u8; 32]>(), 20),
        ) {
            let all: Vec<Peer> = ids
                .into_iter()
                .map(|id| Peer { id: NodeId::from_bytes(id), addresses: Vec::new() })
                .collect();
            let centre = Key::from_bytes(centre);
            let region = Region::around(centre, closest(&all, &centre, K), true, 7);
            prop_assert!(region.covers(&centre));
            for (number, key) in keys.into_iter().enumerate() {
                // Some far away, some as close as the region is wide.
                let key = if number % 2 == 0 { Key::from_bytes(key) } else { centre.in_bucket(number, key) };
                if region.covers(&key) && key != centre {
                    prop_assert_eq!(closest(&all, &key, 7), closest(region.peers(), &key, 7));
                }
            }
        }
    }
}
