//! What two nodes both should hold, in short, so that they find differences without naming
//! blocks.
//!
//! Invariant: of two nodes with the same view of who is close to what, which hold the same of
//! what belongs to both, the sums are equal. Views that differ, and blocks that came meanwhile,
//! make ranges differ that are whole; that costs an offer, and is why a difference is never
//! taken for a lost copy. Equal sums are a claim: samples of it are audited like every other.

use std::collections::BTreeMap;

use xorfs_store::BlockId;

use crate::identity::NodeId;
use crate::kad::Peer;
use crate::limits::{COMPARES_MAX, RANGE_BITS_MAX};
use crate::node::call::{Answer, Call, CallError};
use crate::wire::RangeSum;

/// Blocks that one range should have on average: a range that differs is offered as a whole.
const RANGE_BLOCKS: u32 = 32;

/// Sums over what this node holds, for each peer that should hold it too.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    peers: BTreeMap<NodeId, Vec<RangeSum>>,
}

impl Digest {
    /// Counts a held block that `others` should hold as well.
    pub(crate) fn add(&mut self, id: &BlockId, others: impl IntoIterator<Item = NodeId>) {
        for other in others {
            let sums = self.peers.entry(other);
            let sums = sums.or_insert_with(|| vec![RangeSum::default(); 1 << RANGE_BITS_MAX]);
            let sum = &mut sums[range_of(id, RANGE_BITS_MAX)];
            sum.count += 1;
            sum.sum = sum.sum.wrapping_add(worth(id));
        }
    }

    /// Those who should hold something that is held here.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &NodeId> {
        self.peers.keys()
    }

    /// The sums for a peer, with as many ranges as the number of blocks is worth.
    fn sums(&self, peer: &NodeId) -> (u8, Vec<RangeSum>) {
        let count: u32 =
            self.peers.get(peer).map_or(0, |sums| sums.iter().map(|sum| sum.count).sum());
        let bits = (count / RANGE_BLOCKS + 1).ilog2().min(RANGE_BITS_MAX as u32) as u8;
        (bits, self.folded(peer, bits))
    }

    /// One bit for each range in which `theirs`, the sums of a peer for us, differ from ours.
    pub(crate) fn differing(&self, peer: &NodeId, bits: u8, theirs: &[RangeSum]) -> Vec<u8> {
        let mut ranges = vec![0; (1_usize << bits).div_ceil(8)];
        for (range, (ours, theirs)) in self.folded(peer, bits).iter().zip(theirs).enumerate() {
            if ours != theirs {
                ranges[range / 8] |= 1 << (range % 8);
            }
        }
        ranges
    }

    fn folded(&self, peer: &NodeId, bits: u8) -> Vec<RangeSum> {
        let mut folded = vec![RangeSum::default(); 1 << bits];
        for (range, sum) in self.peers.get(peer).into_iter().flatten().enumerate() {
            let into = &mut folded[range >> (RANGE_BITS_MAX - usize::from(bits))];
            into.count += sum.count;
            into.sum = into.sum.wrapping_add(sum.sum);
        }
        folded
    }
}

/// Where neighbours hold something else than this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    peers: BTreeMap<NodeId, (u8, Vec<u8>)>,
}

impl Differences {
    /// Whether a block that belongs to `group` may be missing at one of them.
    pub(crate) fn concern(&self, id: &BlockId, group: &[NodeId]) -> bool {
        group.iter().filter_map(|node| self.peers.get(node)).any(|(bits, ranges)| {
            let range = range_of(id, usize::from(*bits));
            ranges.get(range / 8).is_some_and(|byte| byte & (1 << (range % 8)) != 0)
        })
    }
}

/// Comparing one digest with all neighbours. A peer that does not answer is passed over: whether
/// it lives is looked into elsewhere.
#[derive(Debug)]
pub(crate) struct Compare {
    to_ask: Vec<(Peer, u8, Vec<RangeSum>)>,
    asked: BTreeMap<NodeId, u8>,
    found: Differences,
}

impl Compare {
    pub(crate) fn new(digest: &Digest, peers: impl IntoIterator<Item = Peer>) -> Self {
        let asks = peers.into_iter().map(|peer| {
            let (bits, sums) = digest.sums(&peer.id);
            (peer, bits, sums)
        });
        Self { to_ask: asks.collect(), asked: BTreeMap::new(), found: Differences::default() }
    }

    /// The next request to send; call until `None`.
    pub(crate) fn poll_call(&mut self) -> Option<(Peer, Call)> {
        if self.asked.len() >= COMPARES_MAX {
            return None;
        }
        let (peer, bits, sums) = self.to_ask.pop()?;
        self.asked.insert(peer.id, bits);
        Some((peer, Call::Compare { bits, sums: sums.into() }))
    }

    pub(crate) fn on_answer(&mut self, from: &NodeId, answer: Result<Answer, CallError>) {
        let Some(bits) = self.asked.remove(from) else { return };
        if let Ok(Answer::Differs(ranges)) = answer
            && ranges.iter().any(|byte| *byte != 0)
        {
            self.found.peers.insert(*from, (bits, ranges));
        }
    }

    /// After `poll_call` gave `None`: where they differ, once all have answered.
    pub(crate) fn outcome(&self) -> Option<Differences> {
        (self.to_ask.is_empty() && self.asked.is_empty()).then(|| self.found.clone())
    }
}

/// The number of the range, of `2^bits`, that an id is in.
fn range_of(id: &BlockId, bits: usize) -> usize {
    usize::from(id.as_bytes()[0]) >> (8 - bits)
}

/// What an id adds to the sum of its range: ids are hashes, so any part of them is as good.
fn worth(id: &BlockId) -> u64 {
    let mut tail = [0; 8];
    tail.copy_from_slice(&id.as_bytes()[24..]);
    u64::from_le_bytes(tail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    proptest! {
        #[test]
        fn the_ranges_of_what_one_lacks_differ_and_no_others(
            seeds in prop::collection::btree_set(any::<u32>(), 1..400), lacks in 0usize..400,
        ) {
            let ids: Vec<BlockId> =
                seeds.iter().map(|seed| BlockId::of(&seed.to_le_bytes())).collect();
            let (mut ours, mut theirs) = (Digest::default(), Digest::default());
            ids.iter().for_each(|id| ours.add(id, [node(2), node(3)]));
            let kept = ids.iter().enumerate().filter(|(at, _)| *at != lacks);
            kept.for_each(|(_, id)| theirs.add(id, [node(1)]));
            let (bits, sums) = ours.sums(&node(2));
            let ranges = theirs.differing(&node(1), bits, &sums);
            let peers = BTreeMap::from([(node(2), (bits, ranges))]);
            let found = Differences { peers };
            let lost = ids.get(lacks).map(|id| range_of(id, usize::from(bits)));
            for id in &ids {
                let concerned = lost == Some(range_of(id, usize::from(bits)));
                prop_assert_eq!(found.concern(id, &[node(3), node(2)]), concerned);
                prop_assert!(!found.concern(id, &[node(3)]));
            }
        }
    }
}
