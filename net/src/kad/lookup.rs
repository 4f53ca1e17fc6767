//! An iterative lookup as a state machine: whom to ask next, and when to stop.
//!
//! It ends when the `width` closest candidates that did not fail have all answered, never on the
//! first plausible answers: ending early is what lets a few close liars hide a key. The owner
//! sends the requests and keeps their time; it reports answers, failures and stalls.

use std::collections::BTreeMap;

use crate::identity::NodeId;
use crate::kad::{Distance, Key, Peer};
use crate::limits::CANDIDATES_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Asked,
    /// Asked and slow: still waited for, but another may be asked in its place.
    Stalled,
    Answered,
    Failed,
}

#[derive(Debug)]
struct Candidate {
    peer: Peer,
    state: State,
}

/// One lookup. Holds at most `CANDIDATES_MAX` candidates.
#[derive(Debug)]
pub(crate) struct Lookup {
    target: Key,
    own: NodeId,
    width: usize,
    alpha: usize,
    candidates: BTreeMap<Distance, Candidate>,
}

impl Lookup {
    /// Looks for the `width` closest to `target`, asking `alpha` at a time, from `seeds` on.
    pub(crate) fn new(
        target: Key,
        own: NodeId,
        width: usize,
        alpha: usize,
        seeds: impl IntoIterator<Item = Peer>,
    ) -> Self {
        let mut lookup = Self { target, own, width, alpha, candidates: BTreeMap::new() };
        seeds.into_iter().for_each(|peer| lookup.add(peer));
        lookup
    }

    /// Changes how many are asked at a time.
    pub(crate) fn set_alpha(&mut self, alpha: usize) {
        self.alpha = alpha;
    }

    /// The next peer to ask; call until `None`.
    pub(crate) fn poll_ask(&mut self) -> Option<Peer> {
        let asked = self.candidates.values().filter(|c| c.state == State::Asked).count();
        if asked >= self.alpha {
            return None;
        }
        let next = self
            .candidates
            .values_mut()
            .filter(|candidate| candidate.state != State::Failed)
            .take(self.width)
            .find(|candidate| candidate.state == State::Fresh)?;
        next.state = State::Asked;
        Some(next.peer.clone())
    }

    /// A peer answered and named others.
    pub(crate) fn on_success(&mut self, id: &NodeId, closer: Vec<Peer>) {
        self.settle(id, State::Answered);
        closer.into_iter().for_each(|peer| self.add(peer));
    }

    /// A peer could not be asked, did not answer in time, or answered nonsense.
    pub(crate) fn on_failure(&mut self, id: &NodeId) {
        self.settle(id, State::Failed);
    }

    /// A peer takes long: ask another meanwhile.
    pub(crate) fn on_stall(&mut self, id: &NodeId) {
        if let Some(candidate) = self.candidate_mut(id)
            && candidate.state == State::Asked
        {
            candidate.state = State::Stalled;
        }
    }

    /// Whether the closest have all answered or failed.
    pub(crate) fn is_finished(&self) -> bool {
        self.candidates
            .values()
            .filter(|candidate| candidate.state != State::Failed)
            .take(self.width)
            .all(|candidate| candidate.state == State::Answered)
    }

    /// Whether any peer failed to answer.
    pub(crate) fn has_failures(&self) -> bool {
        self.candidates.values().any(|candidate| candidate.state == State::Failed)
    }

    /// Number of peers that answered.
    pub(crate) fn answered_count(&self) -> usize {
        self.candidates.values().filter(|c| c.state == State::Answered).count()
    }

    /// The closest peers that answered, closest first.
    pub(crate) fn closest(&self) -> Vec<Peer> {
        self.candidates
            .values()
            .filter(|candidate| candidate.state == State::Answered)
            .take(self.width)
            .map(|candidate| candidate.peer.clone())
            .collect()
    }

    fn add(&mut self, peer: Peer) {
        if peer.id == self.own {
            return;
        }
        let distance = peer.key().distance(&self.target);
        if let Some(known) = self.candidates.get_mut(&distance) {
            // What a stranger says of an address comes after what we know, never before.
            let ours = std::mem::take(&mut known.peer.addresses);
            known.peer.addresses = peer.addresses;
            known.peer.learn(&ours);
            return;
        }
        self.candidates.insert(distance, Candidate { peer, state: State::Fresh });
        if self.candidates.len() > CANDIDATES_MAX {
            let farthest = self
                .candidates
                .iter()
                .rev()
                .find(|(_, c)| matches!(c.state, State::Fresh | State::Failed))
                .map(|(distance, _)| *distance);
            farthest.and_then(|distance| self.candidates.remove(&distance));
        }
    }

    fn settle(&mut self, id: &NodeId, state: State) {
        if let Some(candidate) = self.candidate_mut(id)
            && matches!(candidate.state, State::Asked | State::Stalled)
        {
            candidate.state = state;
        }
    }

    fn candidate_mut(&mut self, id: &NodeId) -> Option<&mut Candidate> {
        self.candidates.get_mut(&Key::from(*id).distance(&self.target))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{ALPHA, K};

    fn peer(bytes: [u8; 32]) -> Peer {
        Peer { id: NodeId::from_bytes(bytes), addresses: Vec::new() }
    }

    const OWN: NodeId = NodeId::from_bytes([0; 32]);

    #[test]
    fn asks_the_closest_first_and_no_more_than_alpha() {
        let target = Key::from_bytes([0xff; 32]);
        let seeds = (1..=10).map(|n| peer([n; 32]));
        let mut lookup = Lookup::new(target, OWN, K, ALPHA, seeds);
        let mut asked = 0;
        while let Some(next) = lookup.poll_ask() {
            // Distance to 0xff.. is smallest for the id with the largest bytes.
            asked += 1;
            assert!(next.id.as_bytes()[0] > 0);
        }
        assert_eq!(asked, ALPHA);
        assert!(!lookup.is_finished());
    }

    #[test]
    fn an_empty_lookup_is_finished() {
        let mut lookup = Lookup::new(Key::from_bytes([1; 32]), OWN, K, ALPHA, []);
        assert_eq!(lookup.poll_ask(), None);
        assert!(lookup.is_finished());
    }

    proptest! {
        /// Whatever peers answer, every lookup ends, asks nobody twice and ends with the closest
        /// of those that answered.
        #[test]
        fn every_lookup_ends(
            target: [u8; 32],
            answers in prop::collection::vec(
                (any::<bool>(), prop::collection::vec(any::<u8>(), 0..K)), 1..80),
            seeds in prop::collection::btree_set(any::<u8>(), 1..20),
        ) {
            let make = |n: u8| peer(*blake3::hash(&[n]).as_bytes());
            let mut lookup = Lookup::new(
                Key::from_bytes(target), OWN, K, ALPHA, seeds.into_iter().map(make));
            let (mut asked, mut waiting) = (Vec::new(), Vec::new());
            for step in 0.. {
                prop_assert!(step < 10_000);
                while let Some(next) = lookup.poll_ask() {
                    prop_assert!(!asked.contains(&next.id));
                    asked.push(next.id);
                    waiting.push(next.id);
                }
                if lookup.is_finished() {
                    break;
                }
                prop_assert!(!waiting.is_empty());
                let id = waiting.remove(0);
                let (ok, named) = &answers[step % answers.len()];
                if *ok {
                    lookup.on_success(&id, named.iter().map(|n| make(*n)).collect());
                } else {
                    lookup.on_failure(&id);
                }
            }
            prop_assert!(lookup.closest().len() <= K);
        }
    }
}
