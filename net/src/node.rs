//! A node as a state machine: routing table, operations, requests in flight and one timer table.
//!
//! Pure: no sockets, no clock, no tasks, no ambient randomness, no store; blocks pass through
//! it only as answers. The same inputs in the same order give the same actions, which the
//! simulation checks.
//!
//! Calling order. Every `handle_*` and every method that starts an operation may queue actions
//! and move timers, so after each call:
//! 1. `poll_action` until it gives `None`, and do what it says: send a call and report its end
//!    with `handle_answer`, exactly once, unless it was cancelled; hand on what has finished;
//! 2. `poll_timeout`, and call `handle_timeout` once that instant has passed.
//!
//! Connections are the driver's: it reports each verified peer with `handle_connected` and each
//! lost one with `handle_disconnected`. Instants passed in never go backwards.

pub(crate) mod call;
mod membership;
pub(crate) mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use xorfs_store::{Block, BlockId, Head, VolumeId};

use crate::config::NetConfig;
use crate::identity::NodeId;
use crate::kad::rtt::Rtt;
use crate::kad::table::Table;
use crate::kad::{Key, Peer};
use crate::limits::{FAR_SLACK, K};
use crate::replica::digest::{Compare, Differences, Digest};
use crate::replica::head::HeadSpread;
use crate::replica::spread::{Aim, Placed, Spread, Terms};
use call::{Answer, Call, CallError, Verdict};
use membership::Membership;
use search::{Found, Goal, Search};

/// Names a request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CallId(u64);

/// Names an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OpId(u64);

/// What the driver has to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send this request and report its end.
    Call { id: CallId, to: Peer, call: Call },
    /// Nobody waits for this request any more; do not report it.
    Cancel { id: CallId },
    /// An operation ended.
    Finished { op: OpId, outcome: Outcome },
    /// A peer joined the table or left it.
    PeersChanged { joined: bool },
}

/// How an operation ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Nodes,
    Block(Found<Block>),
    Head(Found<Head>),
    /// How many nodes hold the head.
    HeadStored(usize),
    Spread(Vec<Placed>),
    Compared(Differences),
}

/// The times and numbers that a node goes by.
#[derive(Debug, Clone)]
pub(crate) struct NodeSettings {
    pub(crate) replicas: usize,
    pub(crate) acks: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) transfer_timeout: Duration,
    pub(crate) hedge_delay: Duration,
    pub(crate) ping_timeout: Duration,
    /// How long a peer that fell silent is waited for before its copies are replaced.
    pub(crate) absence_grace: Duration,
}

impl From<&NetConfig> for NodeSettings {
    fn from(config: &NetConfig) -> Self {
        Self {
            replicas: usize::from(config.replicas.max(1)),
            acks: usize::from(config.acks.max(1)),
            request_timeout: config.request_timeout,
            transfer_timeout: config.transfer_timeout,
            hedge_delay: config.hedge_delay,
            ping_timeout: config.ping_timeout,
            absence_grace: config.repair_interval,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The request has taken too long.
    CallExpires(CallId),
    /// The request is slow: ask another peer too.
    CallStalls(CallId),
    /// A peer that is gone is tried again.
    Redial(NodeId),
    /// The routing table is looked after.
    Refresh,
}

#[derive(Debug)]
enum Op {
    Search(Search),
    Head(HeadSpread),
    Spread(Box<Spread>),
    Compare(Compare),
}

#[derive(Debug)]
struct Running {
    op: Op,
    calls: BTreeSet<CallId>,
    /// Started by the node itself; nobody waits for it.
    internal: bool,
}

#[derive(Debug)]
struct InFlight {
    /// The operation it belongs to; none for a ping of the node's own.
    op: Option<OpId>,
    to: Peer,
    call: Call,
    sent: Instant,
    expires: Instant,
    stalls: Option<Instant>,
}

/// See the module's header for the order of calls.
#[derive(Debug)]
pub(crate) struct Node {
    own: NodeId,
    settings: NodeSettings,
    table: Table,
    members: Membership,
    /// How long small answers take over all peers, for those not measured yet.
    typical: Option<Rtt>,
    running: BTreeMap<OpId, Running>,
    in_flight: BTreeMap<CallId, InFlight>,
    timers: BTreeSet<(Instant, Timer)>,
    actions: VecDeque<Action>,
    next_id: u64,
    rng: ChaCha8Rng,
}

impl Node {
    pub(crate) fn new(own: NodeId, settings: NodeSettings, seed: u64) -> Self {
        Self {
            own,
            settings,
            table: Table::new(own),
            members: Membership::default(),
            typical: None,
            running: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            next_id: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Peers for an answer to `asker`: the closest to `key` that are not in doubt.
    pub(crate) fn closest(&self, key: &Key, asker: &NodeId) -> Vec<Peer> {
        let known = self.table.closest(key, K + 1).into_iter();
        let sound = known.filter(|entry| !entry.suspect && entry.peer.id != *asker);
        sound.take(K).map(|entry| entry.peer.clone()).collect()
    }

    /// Whether this node is close enough to `key` to keep things for others there.
    pub(crate) fn is_close_to(&self, key: &Key) -> bool {
        self.table.own_in_closest(key, K)
    }

    /// Whether this node is one of those that should hold what lives at `key`.
    pub(crate) fn is_in_close_group(&self, key: &Key) -> bool {
        self.table.own_in_closest(key, self.settings.replicas)
    }

    /// Whether so many others are closer to `key` that a copy here is no use to anybody.
    pub(crate) fn is_far_from(&self, key: &Key) -> bool {
        !self.table.own_in_closest(key, self.settings.replicas + FAR_SLACK)
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Looks for the nodes closest to `key`.
    pub(crate) fn find_nodes(&mut self, now: Instant, key: Key) -> OpId {
        self.start_search(now, Goal::Nodes(key))
    }

    /// Looks for a block among other nodes.
    pub(crate) fn find_block(&mut self, now: Instant, id: BlockId) -> OpId {
        self.start_search(now, Goal::Block(id))
    }

    /// Looks for the newest head of a volume among other nodes.
    pub(crate) fn find_head(&mut self, now: Instant, volume: VolumeId) -> OpId {
        self.start_search(now, Goal::Head(volume))
    }

    /// Stores a head, which this node holds, at its close group.
    pub(crate) fn spread_head(&mut self, now: Instant, head: Head) -> OpId {
        let NodeSettings { replicas, acks, .. } = self.settings;
        let spread = HeadSpread::new(self.own, head, replicas, acks, &self.table);
        self.start(now, Op::Head(spread), false)
    }

    /// Brings blocks, which this node holds, to their close groups.
    pub(crate) fn spread(&mut self, now: Instant, aim: Aim, blocks: Vec<BlockId>) -> OpId {
        let away = match aim {
            Aim::Repair => self.away(now),
            Aim::Publish | Aim::Vacate | Aim::Leave => BTreeSet::new(),
        };
        let NodeSettings { replicas, acks, .. } = self.settings;
        let terms = Terms { aim, replicas, acks, away, seed: self.rng.next_u64() };
        let spread = Spread::new(self.own, terms, blocks, &self.table);
        self.start(now, Op::Spread(Box::new(spread)), false)
    }

    /// The others that should hold what lives at `key`, where this node should too.
    pub(crate) fn group_with_us(&self, key: &Key) -> Option<Vec<NodeId>> {
        let replicas = self.settings.replicas;
        let own = Key::from(self.own).distance(key);
        let closest = self.table.closest(key, replicas);
        let closer = closest.iter().filter(|entry| entry.peer.key().distance(key) < own).count();
        let others = closest.into_iter().take(replicas - 1).map(|entry| entry.peer.id);
        (closer < replicas).then(|| others.collect())
    }

    /// Asks all neighbours where they hold something else than `digest` says this node does.
    pub(crate) fn compare(&mut self, now: Instant, digest: &Digest) -> OpId {
        let known = digest.peers().filter_map(|id| self.table.find(id));
        let sound = known.filter(|entry| !entry.suspect).map(|entry| entry.peer.clone());
        let compare = Compare::new(digest, sound.collect::<Vec<_>>());
        self.start(now, Op::Compare(compare), false)
    }

    /// Ends an operation that nobody waits for any more, without an outcome.
    pub(crate) fn cancel(&mut self, op: OpId) {
        if let Some(running) = self.running.remove(&op) {
            self.cancel_calls(running.calls);
        }
    }

    /// A call ended: with an answer that was checked, or without one.
    pub(crate) fn handle_answer(
        &mut self,
        now: Instant,
        id: CallId,
        answer: Result<Answer, CallError>,
    ) {
        let Some(done) = self.take_call(id) else { return };
        match &answer {
            Ok(answer) => {
                self.on_peer_answered(now, &done.to);
                self.measure(now, &done);
                if matches!(answer, Answer::Proved(verdicts) if verdicts.contains(&Verdict::Lacking))
                {
                    self.on_claim_unproved(now, &done.to.id);
                }
            }
            Err(CallError::Unsent) => {}
            Err(CallError::Wrong) => self.on_peer_lied(now, &done.to.id),
            Err(CallError::Unreachable | CallError::TimedOut) => {
                self.on_peer_failed(now, &done.to, matches!(done.call, Call::Ping));
            }
        }
        if let Some(op) = done.op {
            if let Some(running) = self.running.get_mut(&op) {
                running.calls.remove(&id);
                running.on_answer(&done.to.id, &done.call, answer);
            }
            self.drive(now, op);
        }
    }

    /// Does what is due at `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, timer)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::CallExpires(id) => {
                    self.actions.push_back(Action::Cancel { id });
                    self.handle_answer(now, id, Err(CallError::TimedOut));
                }
                Timer::CallStalls(id) => self.on_stall(now, id),
                Timer::Redial(id) => self.redial(now, &id),
                Timer::Refresh => self.refresh(now),
            }
        }
    }

    /// When `handle_timeout` wants to be called next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn start_search(&mut self, now: Instant, goal: Goal) -> OpId {
        let search = Search::new(self.own, goal, &self.table);
        self.start(now, Op::Search(search), false)
    }

    fn start(&mut self, now: Instant, op: Op, internal: bool) -> OpId {
        let id = OpId(self.fresh_id());
        self.running.insert(id, Running { op, calls: BTreeSet::new(), internal });
        self.drive(now, id);
        id
    }

    /// Sends what an operation wants sent, and ends it where it is finished.
    fn drive(&mut self, now: Instant, op: OpId) {
        loop {
            let Some(running) = self.running.get_mut(&op) else { return };
            let Some((to, call)) = running.poll_call(&self.table) else { break };
            let id = self.send(now, Some(op), to, call);
            if let Some(running) = self.running.get_mut(&op) {
                running.calls.insert(id);
            }
        }
        let Some(outcome) = self.running.get(&op).and_then(Running::outcome) else { return };
        let Some(running) = self.running.remove(&op) else { return };
        // Of a head that is published, the stores under way go on for those still to get it.
        if !matches!(running.op, Op::Head(_)) {
            self.cancel_calls(running.calls);
        }
        if running.internal {
            if let Op::Search(search) = &running.op {
                self.on_surveyed(now, search);
            }
            self.refresh_next(now);
        } else {
            self.actions.push_back(Action::Finished { op, outcome });
        }
    }

    fn send(&mut self, now: Instant, op: Option<OpId>, to: Peer, call: Call) -> CallId {
        let id = CallId(self.fresh_id());
        let limit = match &call {
            Call::Ping => self.settings.ping_timeout,
            call if call.is_transfer() => self.settings.transfer_timeout,
            _ => self.settings.request_timeout,
        };
        let stalls = self.patience(&to.id, &call).map(|patience| now + patience);
        let expires = now + limit;
        self.timers.insert((expires, Timer::CallExpires(id)));
        if let Some(stalls) = stalls {
            self.timers.insert((stalls, Timer::CallStalls(id)));
        }
        self.actions.push_back(Action::Call { id, to: to.clone(), call: call.clone() });
        self.in_flight.insert(id, InFlight { op, to, call, sent: now, expires, stalls });
        id
    }

    /// How long a request may take before another peer is asked too. Blocks take long on thin
    /// lines without anybody being slow, so for them it is fixed.
    fn patience(&self, to: &NodeId, call: &Call) -> Option<Duration> {
        let longest = self.settings.hedge_delay;
        match call {
            Call::FindNode(_) | Call::FindHead(_) => {
                let measured = self.table.find(to).and_then(|entry| entry.rtt);
                let rtt = measured.or(self.typical);
                Some(rtt.map_or(longest, |rtt| rtt.patience().min(longest)))
            }
            Call::FindBlock(_) => Some(longest),
            _ => None,
        }
    }

    fn measure(&mut self, now: Instant, done: &InFlight) {
        if matches!(done.call, Call::FindNode(_) | Call::FindHead(_) | Call::Ping) {
            let took = now.saturating_duration_since(done.sent);
            self.table.measured(&done.to.id, took);
            self.typical = Some(Rtt::with(self.typical, took));
        }
    }

    /// A request is slower than the peer usually is, so another is asked too. Whether the peer
    /// lives is looked into only once it is slower than any healthy one.
    fn on_stall(&mut self, now: Instant, id: CallId) {
        let Some(slow) = self.in_flight.get_mut(&id) else { return };
        let (to, call, op) = (slow.to.clone(), slow.call.clone(), slow.op);
        let doubtful = slow.sent + self.settings.hedge_delay;
        if now < doubtful {
            slow.stalls = Some(doubtful);
            self.timers.insert((doubtful, Timer::CallStalls(id)));
        } else {
            self.suspect(now, &to);
        }
        if let Some(op) = op {
            if let Some(running) = self.running.get_mut(&op) {
                running.on_stall(&to.id, &call);
            }
            self.drive(now, op);
        }
    }

    fn cancel_calls(&mut self, calls: BTreeSet<CallId>) {
        for id in calls {
            if self.take_call(id).is_some() {
                self.actions.push_back(Action::Cancel { id });
            }
        }
    }

    fn take_call(&mut self, id: CallId) -> Option<InFlight> {
        let call = self.in_flight.remove(&id)?;
        self.timers.remove(&(call.expires, Timer::CallExpires(id)));
        if let Some(stalls) = call.stalls {
            self.timers.remove(&(stalls, Timer::CallStalls(id)));
        }
        Some(call)
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Running {
    fn poll_call(&mut self, table: &Table) -> Option<(Peer, Call)> {
        match &mut self.op {
            Op::Search(search) => search.poll_call(),
            Op::Head(spread) => spread.poll_call(),
            Op::Spread(spread) => spread.poll_call(table),
            Op::Compare(compare) => compare.poll_call(),
        }
    }

    fn on_answer(&mut self, from: &NodeId, call: &Call, answer: Result<Answer, CallError>) {
        match &mut self.op {
            Op::Search(search) => search.on_answer(from, answer),
            Op::Head(spread) => spread.on_answer(from, answer),
            Op::Spread(spread) => spread.on_answer(from, call, answer),
            Op::Compare(compare) => compare.on_answer(from, answer),
        }
    }

    fn on_stall(&mut self, from: &NodeId, call: &Call) {
        match &mut self.op {
            Op::Search(search) => search.on_stall(from),
            Op::Head(spread) => spread.on_stall(from),
            Op::Spread(spread) => spread.on_stall(from, call),
            Op::Compare(_) => {}
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        match &self.op {
            Op::Search(search) if !search.is_finished() => None,
            Op::Search(search) => Some(match search.goal() {
                Goal::Nodes(_) => Outcome::Nodes,
                Goal::Block(_) => Outcome::Block(search.block()),
                Goal::Head(_) => Outcome::Head(search.head()),
            }),
            Op::Head(spread) => spread.outcome().map(Outcome::HeadStored),
            Op::Spread(spread) => spread.outcome().map(Outcome::Spread),
            Op::Compare(compare) => compare.outcome().map(Outcome::Compared),
        }
    }
}
