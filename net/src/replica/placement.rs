//! The close group of a key, and the progress of bringing one thing to it.
//!
//! The close group is the R nodes closest to a key among those known, ourselves included. A node
//! of it that refuses or fails is replaced by the next closest one, so that a full or dying node
//! does not leave a block short.

use std::collections::BTreeSet;

use crate::identity::NodeId;
use crate::kad::{Key, Peer};

/// Peers and ourselves, the closest to `key` first.
pub(crate) fn rank(key: &Key, own: NodeId, peers: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let mut ranked: Vec<NodeId> = peers.into_iter().chain([own]).collect();
    ranked.sort_unstable_by_key(|id| Key::from(*id).distance(key));
    ranked.dedup();
    ranked
}

/// The ids of `peers`.
pub(crate) fn ids(peers: &[Peer]) -> impl Iterator<Item = NodeId> + '_ {
    peers.iter().map(|peer| peer.id)
}

/// How far one block or head has got on its way to `target` nodes.
#[derive(Debug)]
pub(crate) struct Plan {
    own: NodeId,
    ranked: Vec<NodeId>,
    next: usize,
    waiting: BTreeSet<NodeId>,
    holders: usize,
    /// Nodes that get it from somebody else: no copies yet, and no others are needed for them.
    coming: usize,
    target: usize,
}

impl Plan {
    /// `ranked` is what `rank` gave; this node holds the thing itself. It counts as one of the
    /// `target` nodes that should where its place in the ranking says so. Where fewer are ranked
    /// than should hold it, the plan finishes short of its target.
    pub(crate) fn new(own: NodeId, ranked: Vec<NodeId>, target: usize) -> Self {
        Self { own, ranked, next: 0, waiting: BTreeSet::new(), holders: 0, coming: 0, target }
    }

    /// The next node to bring it to; call until `None`.
    pub(crate) fn poll_node(&mut self) -> Option<NodeId> {
        while self.holders + self.waiting.len() + self.coming < self.target {
            let node = *self.ranked.get(self.next)?;
            self.next += 1;
            if node == self.own {
                self.holders += 1;
            } else {
                self.waiting.insert(node);
                return Some(node);
            }
        }
        None
    }

    /// A node that `poll_node` gave holds it now.
    pub(crate) fn on_held(&mut self, node: &NodeId) {
        self.holders += usize::from(self.waiting.remove(node));
    }

    /// A node that `poll_node` gave is getting it from somebody else.
    pub(crate) fn on_coming(&mut self, node: &NodeId) {
        self.coming += usize::from(self.waiting.remove(node));
    }

    /// A node that `poll_node` gave does not take it.
    pub(crate) fn on_refused(&mut self, node: &NodeId) {
        self.waiting.remove(node);
    }

    /// Nothing is under way and, after `poll_node` gave `None`, nothing will be.
    pub(crate) fn is_finished(&self) -> bool {
        self.waiting.is_empty()
            && (self.holders + self.coming >= self.target || self.next == self.ranked.len())
    }

    /// Nodes known to hold it, this one included where it counts.
    pub(crate) fn holders(&self) -> usize {
        self.holders
    }

    /// Nodes that have to hold it.
    pub(crate) fn target(&self) -> usize {
        self.target
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes(*blake3::hash(&[n]).as_bytes())
    }

    #[test]
    fn we_count_only_where_we_are_close() {
        let key = Key::from(node(1));
        let ranked = rank(&key, node(0), (1..10).map(node));
        assert_eq!(ranked[0], node(1));
        let place = ranked.iter().position(|id| *id == node(0)).unwrap();
        for replicas in 1..=10 {
            let mut plan = Plan::new(node(0), ranked.clone(), replicas);
            let asked = std::iter::from_fn(|| plan.poll_node()).count();
            assert_eq!(asked, replicas - usize::from(place < replicas));
        }
    }

    #[test]
    fn alone_there_is_nothing_to_do() {
        let mut plan = Plan::new(node(0), rank(&Key::from(node(1)), node(0), []), 1);
        assert_eq!(plan.poll_node(), None);
        assert!(plan.is_finished());
        assert_eq!((plan.holders(), plan.target()), (1, 1));
    }

    proptest! {
        #[test]
        fn every_plan_ends_and_asks_as_few_as_it_can(
            peers in 0u8..20, replicas in 1usize..8, takes in prop::collection::vec(any::<bool>(), 20),
        ) {
            let ranked = rank(&Key::from(node(99)), node(0), (1..=peers).map(node));
            let mut plan = Plan::new(node(0), ranked, replicas);
            let (mut asked, mut waiting) = (BTreeSet::new(), Vec::new());
            loop {
                while let Some(next) = plan.poll_node() {
                    prop_assert!(asked.insert(next));
                    waiting.push(next);
                }
                let Some(next) = waiting.pop() else { break };
                if takes[asked.len() % 20] { plan.on_held(&next) } else { plan.on_refused(&next) }
            }
            prop_assert!(plan.is_finished());
            prop_assert!(plan.holders() <= plan.target());
            prop_assert!(plan.holders() == plan.target() || asked.len() == usize::from(peers));
        }
    }
}
