//! Who is there: peers that join, fall silent, leave and come back.
//!
//! A peer that failed a request or lost its connection is *suspect*: it gets one ping. Where
//! that fails too it leaves the table at once, so that close groups are made of the living, and
//! is tried again at growing intervals; for a while it is *away*, and repair expects it back. A peer that sent something else than it was asked for is
//! *distrusted* for a while: only what we saw ourselves counts, never what others say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand_chacha::rand_core::Rng;

use crate::identity::NodeId;
use crate::kad::bucket::Seen;
use crate::kad::{Key, Peer};
use crate::limits::{
    ABSENT_MAX, K, REDIAL_FIRST, REDIAL_LAST, REDIALS_MAX, REFRESH_INTERVAL, UNPROVED_MAX,
};
use crate::node::call::Call;
use crate::node::search::{Goal, Search};
use crate::node::{Action, Node, Op, Timer};

/// How long a peer that lied is kept out. Long enough to make lying useless, short enough to
/// forgive a machine with bad memory after its repair.
const DISTRUST: Duration = Duration::from_secs(600);

/// Peers that are gone, in doubt or kept out.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// Peers that a ping of ours is on its way to.
    pinged: BTreeSet<NodeId>,
    absent: BTreeMap<NodeId, Absent>,
    distrusted: BTreeMap<NodeId, Instant>,
    /// Claims that peers did not prove, and since when they are counted.
    unproved: BTreeMap<NodeId, (u32, Instant)>,
    /// Points still to be looked up in the refresh that is under way.
    refreshes: VecDeque<Key>,
    refresh_at: Option<Instant>,
}

#[derive(Debug)]
struct Absent {
    peer: Peer,
    attempts: u32,
    redial: Instant,
    /// When it fell silent; none where it said that it leaves.
    silent_since: Option<Instant>,
}

/// How a peer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Silent,
    /// It said so, and handed over what it held.
    Left,
}

impl Node {
    /// A connection to a peer stands, and it proved its key.
    pub(crate) fn handle_connected(&mut self, now: Instant, peer: Peer) {
        self.see(now, peer);
    }

    /// A connected peer asked something of us. One that we have given up is pinged first: that it
    /// asks does not mean that it answers.
    pub(crate) fn handle_request(&mut self, now: Instant, peer: Peer) {
        if self.members.absent.contains_key(&peer.id) {
            self.ping(now, peer);
        } else if self.table.find(&peer.id).is_none_or(|entry| !entry.suspect) {
            self.see(now, peer);
        }
    }

    /// The last connection to a peer is gone. `left`: it said that it is leaving.
    pub(crate) fn handle_disconnected(&mut self, now: Instant, id: &NodeId, left: bool) {
        let Some(entry) = self.table.find(id) else { return };
        let peer = entry.peer.clone();
        if left {
            self.lose(now, &peer, Loss::Left);
        } else {
            self.suspect(now, &peer);
        }
    }

    /// A peer answered a call.
    pub(super) fn on_peer_answered(&mut self, now: Instant, peer: &Peer) {
        self.members.pinged.remove(&peer.id);
        if self.table.find(&peer.id).is_some() {
            self.table.answered(now, &peer.id);
        } else {
            self.see(now, peer.clone());
        }
    }

    /// A peer did not answer a call; `ping` tells whether it was the last chance.
    pub(super) fn on_peer_failed(&mut self, now: Instant, peer: &Peer, ping: bool) {
        if !ping {
            return self.suspect(now, peer);
        }
        self.members.pinged.remove(&peer.id);
        self.lose(now, peer, Loss::Silent);
    }

    /// A peer did not prove what it had claimed to hold. Once may be chance: a block can be lost
    /// between claim and proof.
    pub(super) fn on_claim_unproved(&mut self, now: Instant, id: &NodeId) {
        self.members.unproved.retain(|_, (_, since)| *since + DISTRUST > now);
        if self.members.unproved.len() >= ABSENT_MAX {
            self.members.unproved.pop_first();
        }
        let (count, _) = self.members.unproved.entry(*id).or_insert((0, now));
        *count += 1;
        if *count >= UNPROVED_MAX {
            self.members.unproved.remove(id);
            self.on_peer_lied(now, id);
        }
    }

    /// Peers that fell silent so short a time ago that they are expected back.
    pub(super) fn away(&self, now: Instant) -> BTreeSet<NodeId> {
        let grace = self.settings.absence_grace;
        let recent = self.members.absent.values().filter(|absent| {
            absent.silent_since.is_some_and(|since| now.saturating_duration_since(since) < grace)
        });
        recent.map(|absent| absent.peer.id).collect()
    }

    /// A peer sent something that no honest peer sends.
    pub(super) fn on_peer_lied(&mut self, now: Instant, id: &NodeId) {
        if self.members.distrusted.len() >= ABSENT_MAX {
            self.members.distrusted.pop_first();
        }
        self.members.distrusted.insert(*id, now + DISTRUST);
        if self.table.remove(id).is_some() {
            self.actions.push_back(Action::PeersChanged { joined: false });
        }
    }

    /// Pings a peer whose life is in doubt, once.
    pub(super) fn suspect(&mut self, now: Instant, peer: &Peer) {
        if self.table.suspect(&peer.id) {
            self.ping(now, peer.clone());
        }
    }

    pub(super) fn redial(&mut self, now: Instant, id: &NodeId) {
        if let Some(absent) = self.members.absent.get(id) {
            let peer = absent.peer.clone();
            self.ping(now, peer);
        }
    }

    /// Looks after the table: a lookup of ourselves and of a point in each bucket.
    pub(super) fn refresh(&mut self, now: Instant) {
        let own = Key::from(self.own);
        self.members.refreshes = VecDeque::from([own]);
        // Where everybody fits in an answer, the lookup of ourselves has asked everybody.
        if self.table.len() >= K {
            for index in 0..self.table.depth() {
                let mut random = [0; 32];
                self.rng.fill_bytes(&mut random);
                self.members.refreshes.push_back(own.in_bucket(index, random));
            }
        }
        let jitter = Duration::from_millis(self.rng.next_u64() % 60_000);
        self.refresh_at(now + REFRESH_INTERVAL + jitter);
        self.refresh_next(now);
    }

    /// Goes on with the refresh that is under way.
    pub(super) fn refresh_next(&mut self, now: Instant) {
        if let Some(key) = self.members.refreshes.pop_front() {
            let search = Search::new(self.own, Goal::Nodes(key), &self.table);
            self.start(now, Op::Search(search), true);
        }
    }

    /// A lookup of the refresh ended. One of ourselves tells whether we know everybody; where it
    /// met failures and we know few, it is repeated soon.
    pub(super) fn on_surveyed(&mut self, now: Instant, search: &Search) {
        if !matches!(search.goal(), Goal::Nodes(key) if key == Key::from(self.own)) {
            return;
        }
        let sound = search.is_sound();
        self.table.set_surveyed(sound);
        if !sound && self.table.len() < K && self.table.len() > 0 {
            self.refresh_at(now + REDIAL_FIRST);
        }
    }

    fn refresh_at(&mut self, at: Instant) {
        if let Some(before) = self.members.refresh_at.replace(at) {
            self.timers.remove(&(before, Timer::Refresh));
        }
        self.timers.insert((at, Timer::Refresh));
    }

    fn see(&mut self, now: Instant, peer: Peer) {
        match self.members.distrusted.get(&peer.id) {
            Some(until) if *until > now => return,
            Some(_) => drop(self.members.distrusted.remove(&peer.id)),
            None => {}
        }
        let id = peer.id;
        match self.table.seen(now, peer) {
            Some(Seen::Joined) => {
                if let Some(absent) = self.members.absent.remove(&id) {
                    self.timers.remove(&(absent.redial, Timer::Redial(id)));
                }
                self.actions.push_back(Action::PeersChanged { joined: true });
                if self.table.len() == 1 {
                    self.refresh(now);
                }
            }
            Some(Seen::Waits(oldest)) => self.ping(now, oldest),
            Some(Seen::Known) | None => {}
        }
    }

    fn ping(&mut self, now: Instant, peer: Peer) {
        if self.members.pinged.insert(peer.id) {
            self.send(now, None, peer, Call::Ping);
        }
    }

    /// Takes a peer out of the table and remembers to try it again.
    fn lose(&mut self, now: Instant, peer: &Peer, loss: Loss) {
        let known = self.table.remove(&peer.id);
        let before = self.members.absent.get(&peer.id);
        let attempts = before.map(|absent| absent.attempts + 1);
        let silent_since = match (before, loss) {
            (Some(absent), _) => absent.silent_since,
            (None, Loss::Silent) => Some(now),
            (None, Loss::Left) => None,
        };
        if known.is_some() {
            self.actions.push_back(Action::PeersChanged { joined: false });
        } else if attempts.is_none() {
            // Never was a peer of ours: a candidate that a lookup tried in vain.
            return;
        }
        if let Some(before) = self.members.absent.remove(&peer.id) {
            self.timers.remove(&(before.redial, Timer::Redial(peer.id)));
        }
        let attempts = attempts.unwrap_or(0);
        if attempts >= REDIALS_MAX {
            return;
        }
        if self.members.absent.len() >= ABSENT_MAX
            && let Some(id) = self.longest_absent()
            && let Some(dropped) = self.members.absent.remove(&id)
        {
            self.timers.remove(&(dropped.redial, Timer::Redial(id)));
        }
        let wait = REDIAL_FIRST.saturating_mul(1 << attempts.min(10)).min(REDIAL_LAST);
        let redial = now + wait;
        let peer = known.unwrap_or_else(|| peer.clone());
        self.timers.insert((redial, Timer::Redial(peer.id)));
        let absent = Absent { peer, attempts, redial, silent_since };
        self.members.absent.insert(absent.peer.id, absent);
    }

    fn longest_absent(&self) -> Option<NodeId> {
        let absent = self.members.absent.iter();
        absent.max_by_key(|(_, absent)| absent.attempts).map(|(id, _)| *id)
    }
}
