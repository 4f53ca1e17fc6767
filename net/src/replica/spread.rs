//! Bringing a batch of blocks to their close groups: placed, offered, sent only where wanted.
//!
//! Ids are offered to each peer in batches of up to `OFFER_IDS_MAX`, one offer per peer at a
//! time; a bounded number of blocks is under way. Once a peer has got all it wanted it is asked
//! to sync, and only then its copies count. Of the blocks that a peer claims to hold already, a
//! sample has to be proved before any of them counts. A peer that fails a request is not tried
//! again by this spread. Which blocks to spread, and when again, is the owner's decision.

mod answers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use xorfs_store::BlockId;

use crate::identity::NodeId;
use crate::kad::region::Region;
use crate::kad::table::Table;
use crate::kad::{Key, Peer};
use crate::limits::{
    BACKGROUND_PUSHES_MAX, FAR_SLACK, K, OFFER_IDS_MAX, PLACEMENT_SEARCHES_MAX, PROOF_SAMPLE,
    PROVE_IDS_MAX, PUSHES_MAX,
};
use crate::node::call::Call;
use crate::node::search::{Goal, Search};
use crate::replica::placement::{Plan, Wanted, ids, rank};

/// What a spread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// New blocks of this home: ends once enough nodes hold them, who spread the rest.
    Publish,
    /// Blocks that are kept here: all copies that should be there.
    Repair,
    /// Blocks that are kept here though others are closer: the closest have to prove each copy.
    Vacate,
    /// This node leaves: all copies without its own.
    Leave,
}

/// What became of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) id: BlockId,
    /// Nodes that hold it, this one included where it is one of the closest.
    pub(crate) copies: u8,
    /// Enough hold it for the network to keep it.
    pub(crate) acknowledged: bool,
    /// As many as there should be hold it.
    pub(crate) settled: bool,
    /// Others are on their way from somebody else.
    pub(crate) coming: bool,
    /// Copies that were sent just now.
    pub(crate) sent: u8,
}

/// How many copies there should be, and what is known of who could have them.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) aim: Aim,
    pub(crate) replicas: usize,
    pub(crate) acks: usize,
    /// Nodes that fell silent so short a time ago that they are expected back.
    pub(crate) away: BTreeSet<NodeId>,
    /// Makes nonces, and picks what has to be proved.
    pub(crate) seed: u64,
}

/// A batch of blocks on their way. This node holds all of them.
#[derive(Debug)]
pub(crate) struct Spread {
    own: NodeId,
    terms: Terms,
    rng: ChaCha8Rng,
    /// Nodes that should hold a block where too few answered to tell: all that were believed to
    /// live at the start, and at least one beside this one. A node whose network has just gone
    /// finds nobody, and must not take its own copy for enough.
    nodes_min: usize,
    unplaced: VecDeque<BlockId>,
    searches: BTreeMap<Key, Search>,
    plans: BTreeMap<BlockId, Plan>,
    sent: BTreeMap<BlockId, u8>,
    peers: BTreeMap<NodeId, Peer>,
    failed: BTreeSet<NodeId>,
    to_offer: BTreeMap<NodeId, Vec<BlockId>>,
    offering: BTreeSet<NodeId>,
    /// Blocks that a peer says it holds, until what is asked of it is proved.
    claims: BTreeMap<NodeId, Claims>,
    to_push: BTreeSet<(BlockId, NodeId)>,
    pushing: BTreeMap<NodeId, usize>,
    /// Stored by a peer, and not yet known to survive its crash.
    unsynced: BTreeMap<NodeId, Vec<BlockId>>,
    syncing: BTreeMap<NodeId, Vec<BlockId>>,
}

/// What one peer claims to hold.
#[derive(Debug, Default)]
struct Claims {
    /// Counted once the proofs are in.
    believed_then: Vec<BlockId>,
    to_prove: Vec<BlockId>,
    proving: bool,
}

impl Spread {
    pub(crate) fn new(own: NodeId, terms: Terms, blocks: Vec<BlockId>, table: &Table) -> Self {
        let mut spread = Self {
            own,
            rng: ChaCha8Rng::seed_from_u64(terms.seed),
            terms,
            nodes_min: (table.len() + 1).max(2),
            unplaced: VecDeque::new(),
            searches: BTreeMap::new(),
            plans: BTreeMap::new(),
            sent: BTreeMap::new(),
            peers: BTreeMap::new(),
            failed: BTreeSet::new(),
            to_offer: BTreeMap::new(),
            offering: BTreeSet::new(),
            claims: BTreeMap::new(),
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
            .or_else(|| self.poll_proof())
            .or_else(|| self.poll_push())
            .or_else(|| self.poll_sync())
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
            acknowledged: plan.is_enough(),
            settled: plan.target() > 0 && plan.holders() >= plan.target(),
            coming: plan.is_coming(),
            sent: self.sent.get(id).copied().unwrap_or(0),
        });
        placed.collect()
    }

    fn poll_search(&mut self, table: &Table) -> Option<(Peer, Call)> {
        loop {
            let next = self.searches.values_mut().find_map(Search::poll_call);
            if next.is_some() {
                return next;
            }
            if self.searches.len() >= PLACEMENT_SEARCHES_MAX {
                return None;
            }
            // What a search under way will probably answer too waits for it.
            let near = table.region_bits();
            let apart = |id: &BlockId| {
                let key = Key::from(*id);
                !self.searches.keys().any(|at| at.distance(&key).prefix_bits() >= near)
            };
            let place = self.unplaced.iter().position(apart)?;
            let key = Key::from(self.unplaced.remove(place)?);
            // Searched for a block, so the block itself is placed with the rest of its region.
            self.unplaced.push_front(BlockId::from_bytes(*key.as_bytes()));
            self.searches.insert(key, Search::new(self.own, Goal::Nodes(key), table));
            // A search without seeds is finished before it began.
            self.harvest(&key);
        }
    }

    fn poll_offer(&mut self) -> Option<(Peer, Call)> {
        let free = self
            .to_offer
            .keys()
            .find(|node| !self.offering.contains(node) && !self.claims.contains_key(node))?;
        let node = *free;
        let waiting = self.to_offer.get_mut(&node)?;
        let batch = waiting.split_off(waiting.len().saturating_sub(OFFER_IDS_MAX));
        if waiting.is_empty() {
            self.to_offer.remove(&node);
        }
        self.offering.insert(node);
        Some((self.peers[&node].clone(), Call::Offer(batch.into())))
    }

    fn poll_proof(&mut self) -> Option<(Peer, Call)> {
        let (node, claims) = self.claims.iter_mut().find(|(_, claims)| !claims.proving)?;
        let batch = claims.to_prove.split_off(claims.to_prove.len().saturating_sub(PROVE_IDS_MAX));
        claims.proving = true;
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        Some((self.peers[node].clone(), Call::Prove { nonce, ids: batch.into() }))
    }

    fn poll_push(&mut self) -> Option<(Peer, Call)> {
        let limit = match self.terms.aim {
            Aim::Publish | Aim::Leave => PUSHES_MAX,
            Aim::Repair | Aim::Vacate => BACKGROUND_PUSHES_MAX,
        };
        if self.pushing.values().sum::<usize>() >= limit {
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
        if !self.searches.get(key).is_some_and(Search::is_finished) {
            return;
        }
        let Some(search) = self.searches.remove(key) else { return };
        // Refusals are answered by the next closest, so a few more than the copies are wanted.
        let count_min = self.terms.replicas + 2;
        let region = Region::around(*key, search.closest(), search.is_sound(), count_min);
        let covered = |id: &BlockId| region.covers(&Key::from(*id));
        let (here, elsewhere) = std::mem::take(&mut self.unplaced).into_iter().partition(covered);
        self.unplaced = elsewhere;
        let here: VecDeque<BlockId> = here;
        for id in here {
            self.place(id, region.peers().to_vec());
        }
    }

    fn place(&mut self, id: BlockId, close: Vec<Peer>) {
        let Terms { aim, replicas, acks, .. } = self.terms;
        let counted = matches!(aim, Aim::Publish | Aim::Repair);
        let away = self.terms.away.iter().copied();
        let mut ranked = rank(&Key::from(id), self.own, ids(&close).chain(away));
        if aim == Aim::Vacate {
            // Those farther may be giving up theirs just now, counting on this one.
            ranked.truncate(replicas + FAR_SLACK);
        }
        let most = if aim == Aim::Publish { acks.min(replicas) } else { replicas };
        let others = usize::from(!counted);
        let nodes = ranked.len().max(self.nodes_min) - others;
        let wanted = Wanted {
            target: most.min(nodes),
            own_within: if counted { replicas } else { 0 },
            enough: acks,
        };
        let mut plan = Plan::new(self.own, ranked, wanted);
        plan.wait_for(&self.terms.away);
        self.plans.insert(id, plan);
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

    /// Picks what a peer has to prove of the blocks that it claims to hold.
    fn claimed(&mut self, from: &NodeId, mut held: Vec<BlockId>) {
        let sample = match self.terms.aim {
            Aim::Vacate => held.len(),
            Aim::Publish | Aim::Repair => PROOF_SAMPLE,
            Aim::Leave => 0,
        };
        for place in 0..sample.min(held.len()) {
            let rest = (held.len() - place) as u64;
            let pick = place + (self.rng.next_u64() % rest) as usize;
            held.swap(place, pick);
        }
        let believed_then = held.split_off(sample.min(held.len()));
        if held.is_empty() {
            believed_then.into_iter().for_each(|id| self.held(from, id));
        } else {
            let claims = Claims { believed_then, to_prove: held, proving: false };
            self.claims.insert(*from, claims);
        }
    }
}
