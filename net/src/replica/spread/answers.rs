//! What a spread makes of the answers it gets.

use std::sync::Arc;

use xorfs_store::BlockId;

use crate::identity::NodeId;
use crate::node::call::{Answer, Call, CallError, Verdict};
use crate::replica::spread::Spread;
use crate::wire::{OfferReply, Offered};

impl Spread {
    /// A request that `poll_call` gave was answered or failed.
    pub(crate) fn on_answer(
        &mut self,
        from: &NodeId,
        call: &Call,
        answer: Result<Answer, CallError>,
    ) {
        match call {
            Call::FindNode(key) => {
                if let Some(search) = self.searches.get_mut(key) {
                    search.on_answer(from, answer);
                }
                self.harvest(key);
            }
            Call::Offer(offered) => self.on_offered(from, offered, answer),
            Call::Prove { ids, .. } => self.on_proved(from, ids, answer),
            Call::Store(id) => self.on_stored(from, *id, answer),
            Call::Sync => self.on_synced(from, answer),
            Call::Ping
            | Call::FindBlock(_)
            | Call::FindHead(_)
            | Call::StoreHead(_)
            | Call::Compare { .. } => {}
        }
    }

    /// A peer takes long to answer a request of a placement search.
    pub(crate) fn on_stall(&mut self, from: &NodeId, call: &Call) {
        if let Call::FindNode(key) = call
            && let Some(search) = self.searches.get_mut(key)
        {
            search.on_stall(from);
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
        let mut claimed = Vec::new();
        for (index, id) in blocks.iter().enumerate() {
            match offered.reply(index) {
                OfferReply::Held => claimed.push(*id),
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
        self.claimed(from, claimed);
    }

    /// Counts what was proved, and once all that was asked for is, what goes with it. After a
    /// claim that was not proved the others are not believed either.
    fn on_proved(
        &mut self,
        from: &NodeId,
        blocks: &Arc<[BlockId]>,
        answer: Result<Answer, CallError>,
    ) {
        let verdicts = match answer {
            Ok(Answer::Proved(verdicts)) => verdicts,
            Ok(_) => vec![Verdict::Unknown; blocks.len()],
            Err(_) => {
                blocks.iter().for_each(|id| self.refused(from, *id));
                return self.on_peer_failed(from);
            }
        };
        let mut sound = true;
        for (id, verdict) in blocks.iter().zip(verdicts) {
            if verdict == Verdict::Proved {
                self.held(from, *id);
            } else {
                sound &= verdict != Verdict::Lacking;
                self.refused(from, *id);
            }
        }
        let Some(claims) = self.claims.get_mut(from) else { return };
        claims.proving = false;
        if sound && !claims.to_prove.is_empty() {
            return;
        }
        let Some(claims) = self.claims.remove(from) else { return };
        for id in claims.believed_then.into_iter().chain(claims.to_prove) {
            if sound { self.held(from, id) } else { self.refused(from, id) }
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

    pub(super) fn held(&mut self, from: &NodeId, id: BlockId) {
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
        if let Some(claims) = self.claims.remove(from) {
            orphans.extend(claims.believed_then.into_iter().chain(claims.to_prove));
        }
        self.to_push.retain(|(id, node)| {
            if node == from {
                orphans.push(*id);
            }
            node != from
        });
        orphans.into_iter().for_each(|id| self.refused(from, id));
    }
}
