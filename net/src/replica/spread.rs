//! Bringing a batch of blocks to their close groups: placed, offered, sent only where wanted.
//!
//! Ids are offered to each peer in batches of up to `OFFER_IDS_MAX`, one offer per peer at a
//! time; at most `PUSHES_MAX` blocks are under way. Once a peer has got all it wanted it is asked
//! to sync, and only then its copies count. A peer that fails a request is not tried again by
//! this spread. Which blocks to spread, and when again, is the owner's decision.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use xorfs_store::BlockId;

use crate::identity::NodeId;
use crate::kad::table::Table;
use crate::kad::{Key, Peer};
use crate::limits::{K, OFFER_IDS_MAX, PLACEMENT_SEARCHES_MAX, PUSHES_MAX};
use crate::node::call::{Answer, Call, CallError};
use crate::node::search::{Goal, Search};
use crate::replica::placement::{Plan, ids, rank};
use crate::wire::{OfferReply, Offered};

/// What became of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) id: BlockId,
    /// Nodes that hold it, this one included where it is one of the closest.
    pub(crate) copies: u8,
    /// As many as there should be hold it.
    pub(crate) settled: bool,
    /// Copies that were sent just now.
    pub(crate) sent: u8,
}

/// A batch of blocks on their way. This node holds all of them.
#[derive(Debug)]
pub(crate) struct Spread {
    own: NodeId,
    replicas: usize,
    /// Nodes that should hold a block where too few answered to tell: all that were believed to
    /// live at the start, and at least one beside this one. A node whose network has just gone
    /// finds nobody, and must not take its own copy for enough.
    nodes_min: usize,
    unplaced: VecDeque<BlockId>,
    searches: BTreeMap<Key, (BlockId, Search)>,
    plans: BTreeMap<BlockId, Plan>,
    sent: BTreeMap<BlockId, u8>,
    peers: BTreeMap<NodeId, Peer>,
    failed: BTreeSet<NodeId>,
    to_offer: BTreeMap<NodeId, Vec<BlockId>>,
    offering: BTreeSet<NodeId>,
    to_push: BTreeSet<(BlockId, NodeId)>,
    pushing: BTreeMap<NodeId, usize>,
    /// Stored by a peer, and not yet known to survive its crash.
    unsynced: BTreeMap<NodeId, Vec<BlockId>>,
    syncing: BTreeMap<NodeId, Vec<BlockId>>,
}

impl Spread {
    pub(crate) fn new(own: NodeId, replicas: usize, blocks: Vec<BlockId>, table: &Table) -> Self {
        let mut spread = Self {
            own,
            replicas,
            nodes_min: (table.len() + 1).max(2),
            unplaced: VecDeque::new(),
            searches: BTreeMap::new(),
            plans: BTreeMap::new(),
            sent: BTreeMap::new(),
            peers: BTreeMap::new(),
            failed: BTreeSet::new(),
            to_offer: BTreeMap::new(),
            offering: BTreeSet::new(),
            to_push: BTreeSet::new(),
            pushing: BTreeMap::new(),
            unsynced: BTreeMap::new(),
            syncing: BTreeMap::new(),
        };
        if table.is_complete() {
            for id in blocks {
                let close = table.closest(&Key::from(id), K);
                spread.place(id, close.into_iter().map(|entry| entry.peer.clone()).collect());
            }
        } else {
            spread.unplaced = blocks.into();
        }
        spread
    }

    /// The next request to send; call until `None`.
    pub(crate) fn poll_call(&mut self, table: &Table) -> Option<(Peer, Call)> {
        self.poll_search(table)
            .or_else(|| self.poll_offer())
            .or_else(|| self.poll_push())
            .or_else(|| self.poll_sync())
    }

    /// A request that `poll_call` gave was answered or failed.
    pub(crate) fn on_answer(
        &mut self,
        from: &NodeId,
        call: &Call,
        answer: Result<Answer, CallError>,
    ) {
        match call {
            Call::FindNode(key) => {
                if let Some((_, search)) = self.searches.get_mut(key) {
                    search.on_answer(from, answer);
                }
                self.harvest(key);
            }
            Call::Offer(offered) => self.on_offered(from, offered, answer),
            Call::Store(id) => self.on_stored(from, *id, answer),
            Call::Sync => self.on_synced(from, answer),
            Call::Ping | Call::FindBlock(_) | Call::FindHead(_) | Call::StoreHead(_) => {}
        }
    }

    /// A peer takes long to answer a request of a placement search.
    pub(crate) fn on_stall(&mut self, from: &NodeId, call: &Call) {
        if let Call::FindNode(key) = call
            && let Some((_, search)) = self.searches.get_mut(key)
        {
            search.on_stall(from);
        }
    }

    /// After `poll_call` gave `None`: what became of each block, once nothing more will happen.
    pub(crate) fn outcome(&self) -> Option<Vec<Placed>> {
        let done = self.unplaced.is_empty()
            && self.searches.is_empty()
            && self.plans.values().all(Plan::is_finished);
        done.then(|| self.placed())
    }

    /// What is known of each placed block now.
    pub(crate) fn placed(&self) -> Vec<Placed> {
        let placed = self.plans.iter().map(|(id, plan)| Placed {
            id: *id,
            copies: u8::try_from(plan.holders()).unwrap_or(u8::MAX),
            settled: plan.target() > 0 && plan.holders() >= plan.target(),
            sent: self.sent.get(id).copied().unwrap_or(0),
        });
        placed.collect()
    }

    fn poll_search(&mut self, table: &Table) -> Option<(Peer, Call)> {
        loop {
            let next = self.searches.values_mut().find_map(|(_, search)| search.poll_call());
            if next.is_some() {
                return next;
            }
            if self.searches.len() >= PLACEMENT_SEARCHES_MAX {
                return None;
            }
            let id = self.unplaced.pop_front()?;
            let key = Key::from(id);
            self.searches.insert(key, (id, Search::new(self.own, Goal::Nodes(key), table)));
            // A search without seeds is finished before it began.
            self.harvest(&key);
        }
    }

    fn poll_offer(&mut self) -> Option<(Peer, Call)> {
        let free = self.to_offer.keys().find(|node| !self.offering.contains(node))?;
        let node = *free;
        let waiting = self.to_offer.get_mut(&node)?;
        let batch = waiting.split_off(waiting.len().saturating_sub(OFFER_IDS_MAX));
        if waiting.is_empty() {
            self.to_offer.remove(&node);
        }
        self.offering.insert(node);
        Some((self.peers[&node].clone(), Call::Offer(batch.into())))
    }

    fn poll_push(&mut self) -> Option<(Peer, Call)> {
        if self.pushing.values().sum::<usize>() >= PUSHES_MAX {
            return None;
        }
        let (id, node) = self.to_push.pop_first()?;
        *self.pushing.entry(node).or_default() += 1;
        Some((self.peers[&node].clone(), Call::Store(id)))
    }

    /// Asks a peer to sync that has got everything that is meant for it at present.
    fn poll_sync(&mut self) -> Option<(Peer, Call)> {
        let done = |node: &&NodeId| {
            !self.pushing.contains_key(node)
                && !self.offering.contains(node)
                && !self.syncing.contains_key(node)
                && !self.to_push.iter().any(|(_, to)| to == *node)
        };
        let node = *self.unsynced.keys().find(done)?;
        let stored = self.unsynced.remove(&node)?;
        self.syncing.insert(node, stored);
        Some((self.peers[&node].clone(), Call::Sync))
    }

    /// Takes the result of a placement search that is finished.
    fn harvest(&mut self, key: &Key) {
        if self.searches.get(key).is_some_and(|(_, search)| search.is_finished())
            && let Some((id, search)) = self.searches.remove(key)
        {
            self.place(id, search.closest());
        }
    }

    fn place(&mut self, id: BlockId, close: Vec<Peer>) {
        let ranked = rank(&Key::from(id), self.own, ids(&close));
        let target = self.replicas.min(ranked.len().max(self.nodes_min));
        self.plans.insert(id, Plan::new(self.own, ranked, target));
        for peer in close {
            self.peers.entry(peer.id).or_insert(peer);
        }
        self.advance(id);
    }

    /// Queues offers of a block to the nodes that should have it next.
    fn advance(&mut self, id: BlockId) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        while let Some(node) = plan.poll_node() {
            if self.failed.contains(&node) {
                plan.on_refused(&node);
            } else {
                self.to_offer.entry(node).or_default().push(id);
            }
        }
    }

    fn on_offered(
        &mut self,
        from: &NodeId,
        blocks: &Arc<[BlockId]>,
        answer: Result<Answer, CallError>,
    ) {
        self.offering.remove(from);
        let offered = match answer {
            Ok(Answer::Offered(offered)) => offered,
            Ok(_) => Offered::default(),
            Err(_) => {
                blocks.iter().for_each(|id| self.refused(from, *id));
                return self.on_peer_failed(from);
            }
        };
        for (index, id) in blocks.iter().enumerate() {
            match offered.reply(index) {
                OfferReply::Held => self.held(from, *id),
                OfferReply::Coming => {
                    if let Some(plan) = self.plans.get_mut(id) {
                        plan.on_coming(from);
                    }
                }
                OfferReply::Wanted if !self.failed.contains(from) => {
                    self.to_push.insert((*id, *from));
                }
                OfferReply::Wanted | OfferReply::Refused => self.refused(from, *id),
            }
        }
    }

    fn on_stored(&mut self, from: &NodeId, id: BlockId, answer: Result<Answer, CallError>) {
        if let Some(pushing) = self.pushing.get_mut(from) {
            *pushing -= 1;
            if *pushing == 0 {
                self.pushing.remove(from);
            }
        }
        match answer {
            Ok(Answer::Stored) => {
                *self.sent.entry(id).or_default() += 1;
                self.unsynced.entry(*from).or_default().push(id);
            }
            Ok(_) | Err(CallError::Unsent) => self.refused(from, id),
            Err(_) => {
                self.refused(from, id);
                self.on_peer_failed(from);
            }
        }
    }

    fn on_synced(&mut self, from: &NodeId, answer: Result<Answer, CallError>) {
        let stored = self.syncing.remove(from).unwrap_or_default();
        match answer {
            Ok(Answer::Stored) => stored.into_iter().for_each(|id| self.held(from, id)),
            Ok(_) => stored.into_iter().for_each(|id| self.refused(from, id)),
            Err(_) => {
                stored.into_iter().for_each(|id| self.refused(from, id));
                self.on_peer_failed(from);
            }
        }
    }

    fn held(&mut self, from: &NodeId, id: BlockId) {
        if let Some(plan) = self.plans.get_mut(&id) {
            plan.on_held(from);
        }
        self.advance(id);
    }

    fn refused(&mut self, from: &NodeId, id: BlockId) {
        if let Some(plan) = self.plans.get_mut(&id) {
            plan.on_refused(from);
        }
        self.advance(id);
    }

    /// Everything still meant for a peer that failed goes to the next closest ones.
    fn on_peer_failed(&mut self, from: &NodeId) {
        self.failed.insert(*from);
        let mut orphans = self.to_offer.remove(from).unwrap_or_default();
        orphans.extend(self.unsynced.remove(from).unwrap_or_default());
        self.to_push.retain(|(id, node)| {
            if node == from {
                orphans.push(*id);
            }
            node != from
        });
        orphans.into_iter().for_each(|id| self.refused(from, id));
    }
}
