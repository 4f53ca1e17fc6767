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

/// How many nodes should hold one thing, and whether this one counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Nodes that should hold it.
    pub(crate) target: usize,
    /// This node counts where it is one of so many closest; 0 where it never does.
    pub(crate) own_within: usize,
    /// With fewer than these, nodes that are away for a short time are not waited for.
    pub(crate) enough: usize,
}

/// How far one block or head has got on its way to the nodes that should hold it.
#[derive(Debug)]
pub(crate) struct Plan {
    own: NodeId,
    wanted: Wanted,
    ranked: Vec<NodeId>,
    next: usize,
    waiting: BTreeSet<NodeId>,
    holders: usize,
    /// Nodes that get it from somebody else: no copies yet, and no others are needed for them.
    coming: usize,
    /// Nodes that fell silent a short time ago: no copies, but probably soon.
    away: BTreeSet<NodeId>,
    awaited: usize,
}

impl Plan {
    /// `ranked` is what `rank` gave; this node holds the thing itself. Beyond `own_within` it
    /// counts where closer ones do not take it. Where fewer are ranked than should hold it, the
    /// plan finishes short of its target.
    pub(crate) fn new(own: NodeId, mut ranked: Vec<NodeId>, wanted: Wanted) -> Self {
        let place = ranked.iter().position(|id| *id == own);
        let counts = place.is_some_and(|place| place < wanted.own_within);
        if let Some(place) = place
            && (counts || wanted.own_within == 0)
        {
            ranked.remove(place);
        }
        Self {
            own,
            wanted,
            ranked,
            next: 0,
            waiting: BTreeSet::new(),
            holders: usize::from(counts),
            coming: 0,
            away: BTreeSet::new(),
            awaited: 0,
        }
    }

    /// Does not ask these nodes of the ranking, nor others in their place, while `enough` hold it.
    pub(crate) fn wait_for(&mut self, away: &BTreeSet<NodeId>) {
        self.away = self.ranked.iter().filter(|id| away.contains(id)).copied().collect();
    }

    /// The next node to bring it to; call until `None`.
    pub(crate) fn poll_node(&mut self) -> Option<NodeId> {
        loop {
            while self.holders + self.waiting.len() + self.coming + self.awaited
                < self.wanted.target
            {
                let Some(node) = self.ranked.get(self.next).copied() else { break };
                self.next += 1;
                if node == self.own {
                    self.holders += 1;
                } else if self.away.contains(&node) {
                    self.awaited += 1;
                } else {
                    self.waiting.insert(node);
                    return Some(node);
                }
            }
            let enough = self.wanted.enough.min(self.wanted.target);
            if self.awaited == 0 || !self.waiting.is_empty() || self.holders + self.coming >= enough
            {
                return None;
            }
            self.awaited = 0;
        }
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
            && (self.holders + self.coming + self.awaited >= self.wanted.target
                || self.next == self.ranked.len())
    }

    /// Nodes known to hold it, this one included where it counts.
    pub(crate) fn holders(&self) -> usize {
        self.holders
    }

    /// Nodes that have to hold it.
    pub(crate) fn target(&self) -> usize {
        self.wanted.target
    }

    /// Whether somebody else was just bringing it to a node that should have it.
    pub(crate) fn is_coming(&self) -> bool {
        self.coming > 0
    }

    /// Whether it is safe, though perhaps not everywhere it should be.
    pub(crate) fn is_enough(&self) -> bool {
        let enough = self.wanted.enough.min(self.wanted.target);
        enough > 0 && self.holders >= enough
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes(*blake3::hash(&[n]).as_bytes())
    }

    fn all(target: usize) -> Wanted {
        Wanted { target, own_within: target, enough: target }
    }

    #[test]
    fn we_count_only_where_we_are_close() {
        let key = Key::from(node(1));
        let ranked = rank(&key, node(0), (1..10).map(node));
        assert_eq!(ranked[0], node(1));
        let place = ranked.iter().position(|id| *id == node(0)).unwrap();
        for replicas in 1..=10 {
            let mut plan = Plan::new(node(0), ranked.clone(), all(replicas));
            let asked = std::iter::from_fn(|| plan.poll_node()).count();
            assert_eq!(asked, replicas - usize::from(place < replicas));
        }
    }

    #[test]
    fn alone_there_is_nothing_to_do() {
        let mut plan = Plan::new(node(0), rank(&Key::from(node(1)), node(0), []), all(1));
        assert_eq!(plan.poll_node(), None);
        assert!(plan.is_finished());
        assert_eq!((plan.holders(), plan.target()), (1, 1));
    }

    #[test]
    fn a_writer_in_the_close_group_counts_and_one_that_leaves_does_not() {
        let key = Key::from(node(1));
        let ranked = rank(&key, node(0), (1..5).map(node));
        let wanted = Wanted { target: 3, own_within: 5, enough: 3 };
        let mut plan = Plan::new(node(0), ranked.clone(), wanted);
        assert_eq!(std::iter::from_fn(|| plan.poll_node()).count(), 2);
        let mut plan = Plan::new(node(0), ranked, Wanted { own_within: 0, ..wanted });
        assert_eq!(std::iter::from_fn(|| plan.poll_node()).count(), 3);
    }

    #[test]
    fn who_is_away_is_waited_for_while_enough_hold_it() {
        let ranked: Vec<NodeId> = (1..=7).map(node).collect();
        let wanted = Wanted { target: 5, own_within: 0, enough: 3 };
        let away = BTreeSet::from([node(1), node(2)]);
        for (holding, asked) in [(3, 3), (2, 5)] {
            let mut plan = Plan::new(node(0), ranked.clone(), wanted);
            plan.wait_for(&away);
            let mut count = 0;
            while let Some(next) = plan.poll_node() {
                count += 1;
                if count <= holding { plan.on_held(&next) } else { plan.on_refused(&next) }
            }
            assert!(plan.is_finished());
            assert_eq!((plan.holders(), count), (holding, asked));
            assert_eq!(plan.is_enough(), holding == 3);
        }
    }

    proptest! {
        #[test]
        fn every_plan_ends_and_asks_as_few_as_it_can(
            peers in 0u8..20, replicas in 1usize..8, takes in prop::collection::vec(any::<bool>(), 20),
        ) {
            let ranked = rank(&Key::from(node(99)), node(0), (1..=peers).map(node));
            let mut plan = Plan::new(node(0), ranked, all(replicas));
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
