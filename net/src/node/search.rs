//! A lookup with a goal: the closest nodes, a block, or the newest head of a volume.
//!
//! For a block the closest peer is asked alone, so that the block travels once; only where that
//! one does not have it, or is slow, others are asked beside it. For a head everybody close is
//! asked, because any of them may have a newer one.

use xorfs_store::{Block, BlockId, Head, VolumeId};

use crate::identity::NodeId;
use crate::kad::lookup::Lookup;
use crate::kad::table::Table;
use crate::kad::{Key, Peer};
use crate::limits::{ALPHA, K};
use crate::node::call::{Answer, Call, CallError};

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    Nodes(Key),
    Block(BlockId),
    Head(VolumeId),
}

/// What came of looking for a block or a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found<T> {
    It(T),
    /// Everybody close answered, and nobody has it.
    Missing,
    /// Somebody close did not answer, or nobody is known.
    Unreachable,
}

/// One search.
#[derive(Debug)]
pub(crate) struct Search {
    goal: Goal,
    lookup: Lookup,
    block: Option<Block>,
    head: Option<Head>,
    /// Peers were left out because their life is in doubt.
    skipped: bool,
}

impl Search {
    pub(crate) fn new(own: NodeId, goal: Goal, table: &Table) -> Self {
        let key = goal.key();
        let known = table.closest(&key, K);
        let trusted: Vec<Peer> =
            known.iter().filter(|entry| !entry.suspect).map(|entry| entry.peer.clone()).collect();
        let skipped = trusted.len() < known.len();
        let alpha = if matches!(goal, Goal::Block(_)) { 1 } else { ALPHA };
        let lookup = Lookup::new(key, own, K, alpha, trusted);
        Self { goal, lookup, block: None, head: None, skipped }
    }

    pub(crate) fn poll_call(&mut self) -> Option<(Peer, Call)> {
        if self.block.is_some() {
            return None;
        }
        let call = match self.goal {
            Goal::Nodes(key) => Call::FindNode(key),
            Goal::Block(id) => Call::FindBlock(id),
            Goal::Head(volume) => Call::FindHead(volume),
        };
        self.lookup.poll_ask().map(|peer| (peer, call))
    }

    pub(crate) fn on_answer(&mut self, from: &NodeId, answer: Result<Answer, CallError>) {
        match answer {
            Ok(Answer::Peers(peers)) => self.lookup.on_success(from, peers),
            Ok(Answer::Block(block)) => {
                self.block = Some(block);
                self.lookup.on_success(from, Vec::new());
            }
            Ok(Answer::Head(head, peers)) => {
                if self.head.as_ref().is_none_or(|best| head.supersedes(best)) {
                    self.head = Some(head);
                }
                self.lookup.on_success(from, peers);
            }
            Ok(_) | Err(_) => self.lookup.on_failure(from),
        }
        self.lookup.set_alpha(ALPHA);
    }

    pub(crate) fn on_stall(&mut self, from: &NodeId) {
        self.lookup.on_stall(from);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.block.is_some() || self.lookup.is_finished()
    }

    pub(crate) fn goal(&self) -> Goal {
        self.goal
    }

    /// The closest peers that answered.
    pub(crate) fn closest(&self) -> Vec<Peer> {
        self.lookup.closest()
    }

    /// Whether somebody was asked, and everybody who was asked answered.
    pub(crate) fn is_sound(&self) -> bool {
        self.lookup.is_finished()
            && !self.lookup.has_failures()
            && !self.skipped
            && self.lookup.answered_count() > 0
    }

    /// What became of the search for a block.
    pub(crate) fn block(&self) -> Found<Block> {
        self.block.clone().map_or_else(|| self.nothing(), Found::It)
    }

    /// What became of the search for a head.
    pub(crate) fn head(&self) -> Found<Head> {
        self.head.clone().map_or_else(|| self.nothing(), Found::It)
    }

    fn nothing<T>(&self) -> Found<T> {
        if self.is_sound() { Found::Missing } else { Found::Unreachable }
    }
}

impl Goal {
    fn key(&self) -> Key {
        match self {
            Self::Nodes(key) => *key,
            Self::Block(id) => Key::from(*id),
            Self::Head(volume) => Key::from(*volume),
        }
    }
}
