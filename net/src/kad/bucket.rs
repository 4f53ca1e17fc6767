//! One bucket: up to `K` peers at about one distance, longest silent first.
//!
//! Peers that live long stay: a newcomer to a full bucket waits among the spares until the peer
//! that was silent longest failed to answer a ping. That also keeps a flood of new identities
//! from pushing out those we know.

use std::collections::VecDeque;
use std::time::Instant;

use crate::identity::NodeId;
use crate::kad::Peer;
use crate::kad::rtt::Rtt;
use crate::limits::K;

/// A peer in the table.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) peer: Peer,
    pub(crate) last_seen: Instant,
    /// A request failed and whether the peer lives is being checked.
    pub(crate) suspect: bool,
    /// How long it takes to answer, where that was measured.
    pub(crate) rtt: Option<Rtt>,
}

/// What became of a peer that was seen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is new in the table.
    Joined,
    /// It was in the table.
    Known,
    /// The bucket is full; it waits, and this peer, silent longest, is to be pinged.
    Waits(Peer),
}

/// Peers in the order they were last heard of, and spares for when one of them dies.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    entries: VecDeque<Entry>,
    spares: VecDeque<Entry>,
}

impl Bucket {
    /// Notes that `peer`, which proved its key, was heard of.
    pub(crate) fn seen(&mut self, now: Instant, peer: Peer) -> Seen {
        let entry = Entry { peer, last_seen: now, suspect: false, rtt: None };
        if let Some(at) = position(&self.entries, &entry.peer.id) {
            refresh(&mut self.entries, at, entry);
            return Seen::Known;
        }
        if self.entries.len() < K {
            self.spares.retain(|spare| spare.peer.id != entry.peer.id);
            self.entries.push_back(entry);
            return Seen::Joined;
        }
        match position(&self.spares, &entry.peer.id) {
            Some(at) => refresh(&mut self.spares, at, entry),
            None => {
                if self.spares.len() == K {
                    self.spares.pop_front();
                }
                self.spares.push_back(entry);
            }
        }
        Seen::Waits(self.entries[0].peer.clone())
    }

    /// Removes a dead peer; the spare that was heard of last takes its place.
    pub(crate) fn remove(&mut self, id: &NodeId) -> Option<Peer> {
        self.spares.retain(|spare| spare.peer.id != *id);
        let at = position(&self.entries, id)?;
        let dead = self.entries.remove(at)?;
        if let Some(spare) = self.spares.pop_back() {
            self.entries.push_back(spare);
        }
        Some(dead.peer)
    }

    pub(crate) fn entry_mut(&mut self, id: &NodeId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.peer.id == *id)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn position(entries: &VecDeque<Entry>, id: &NodeId) -> Option<usize> {
    entries.iter().position(|entry| entry.peer.id == *id)
}

/// Moves an entry to the end, with what is newly known of it.
fn refresh(entries: &mut VecDeque<Entry>, at: usize, seen: Entry) {
    if let Some(mut entry) = entries.remove(at) {
        entry.peer.learn(&seen.peer.addresses);
        entry.last_seen = seen.last_seen;
        entry.suspect = false;
        entries.push_back(entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> Peer {
        Peer { id: NodeId::from_bytes([number; 32]), addresses: Vec::new() }
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_full_bucket_keeps_the_old_until_they_fail() {
        let mut bucket = Bucket::default();
        for number in 0..K as u8 {
            assert_eq!(bucket.seen(now(), peer(number)), Seen::Joined);
        }
        assert_eq!(bucket.seen(now(), peer(100)), Seen::Waits(peer(0)));
        assert_eq!(bucket.seen(now(), peer(0)), Seen::Known);
        assert_eq!(bucket.seen(now(), peer(100)), Seen::Waits(peer(1)));
        assert_eq!(bucket.remove(&peer(1).id), Some(peer(1)));
        assert_eq!(bucket.seen(now(), peer(100)), Seen::Known);
    }

    proptest! {
        #[test]
        fn never_too_long_and_never_twice(steps in prop::collection::vec((0u8..60, any::<bool>()), 0..400)) {
            let (mut bucket, now) = (Bucket::default(), now());
            for (number, lives) in steps {
                if lives {
                    bucket.seen(now, peer(number));
                } else {
                    bucket.remove(&peer(number).id);
                    prop_assert!(bucket.entry_mut(&peer(number).id).is_none());
                }
                let mut ids: Vec<_> =
                    bucket.entries.iter().chain(&bucket.spares).map(|entry| entry.peer.id).collect();
                prop_assert!(bucket.len() <= K && bucket.spares.len() <= K);
                prop_assert!(bucket.spares.is_empty() || bucket.len() == K);
                ids.sort_unstable();
                ids.dedup();
                prop_assert_eq!(ids.len(), bucket.len() + bucket.spares.len());
            }
        }
    }
}
