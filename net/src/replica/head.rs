//! Publishing a head: finding its close group, then storing it there.

use std::collections::BTreeMap;

use xorfs_store::Head;

use crate::identity::NodeId;
use crate::kad::table::Table;
use crate::kad::{Key, Peer};
use crate::limits::K;
use crate::node::call::{Answer, Call, CallError};
use crate::node::search::{Goal, Search};
use crate::replica::placement::{Plan, Wanted, ids, rank};

/// One head on its way.
#[derive(Debug)]
pub(crate) struct HeadSpread {
    own: NodeId,
    head: Head,
    replicas: usize,
    /// Holders that are enough to call it published.
    acks: usize,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Searching(Box<Search>),
    Storing { plan: Plan, peers: BTreeMap<NodeId, Peer> },
}

impl HeadSpread {
    pub(crate) fn new(
        own: NodeId,
        head: Head,
        replicas: usize,
        acks: usize,
        table: &Table,
    ) -> Self {
        let key = Key::from(head.volume());
        let stage = if table.is_complete() {
            let known: Vec<Peer> =
                table.closest(&key, K).into_iter().map(|entry| entry.peer.clone()).collect();
            Stage::storing(own, &key, known, replicas)
        } else {
            Stage::Searching(Box::new(Search::new(own, Goal::Nodes(key), table)))
        };
        Self { own, head, replicas, acks, stage }
    }

    pub(crate) fn poll_call(&mut self) -> Option<(Peer, Call)> {
        if let Stage::Searching(search) = &mut self.stage {
            if let Some(call) = search.poll_call() {
                return Some(call);
            }
            if !search.is_finished() {
                return None;
            }
            let key = Key::from(self.head.volume());
            self.stage = Stage::storing(self.own, &key, search.closest(), self.replicas);
        }
        let Stage::Storing { plan, peers } = &mut self.stage else { return None };
        let node = plan.poll_node()?;
        Some((peers[&node].clone(), Call::StoreHead(self.head.clone())))
    }

    pub(crate) fn on_answer(&mut self, from: &NodeId, answer: Result<Answer, CallError>) {
        match &mut self.stage {
            Stage::Searching(search) => search.on_answer(from, answer),
            Stage::Storing { plan, .. } => match answer {
                Ok(Answer::Stored) => plan.on_held(from),
                _ => plan.on_refused(from),
            },
        }
    }

    pub(crate) fn on_stall(&mut self, from: &NodeId) {
        if let Stage::Searching(search) = &mut self.stage {
            search.on_stall(from);
        }
    }

    /// After `poll_call` gave `None`: how many hold the head, once they are enough or nothing
    /// more will happen. Stores that are under way then may still arrive.
    pub(crate) fn outcome(&self) -> Option<usize> {
        match &self.stage {
            Stage::Storing { plan, .. }
                if plan.is_finished() || plan.holders() >= self.acks.min(plan.target()) =>
            {
                Some(plan.holders())
            }
            _ => None,
        }
    }
}

impl Stage {
    fn storing(own: NodeId, key: &Key, known: Vec<Peer>, replicas: usize) -> Self {
        let ranked = rank(key, own, ids(&known));
        let target = replicas.min(ranked.len());
        let plan = Plan::new(own, ranked, Wanted { target, own_within: target, enough: target });
        let peers = known.into_iter().map(|peer| (peer.id, peer)).collect();
        Self::Storing { plan, peers }
    }
}
