//! A simulated network: many nodes, virtual time, links with delay and failure, one seed.
//!
//! Messages go through the real codec and the real server over `Memory` stores; only the
//! transport is simulated. A call to a dead node is never answered, and one in a hundred calls
//! breaks, as connections do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use xorfs_store::{Block, BlockId, BlockStore, Inventory, Memory, Purpose};

use crate::node::tests::upkeep::Task;
use crate::node::*;
use crate::replica::proof;
use crate::serve::{HeadGate, Routes, Server};
use crate::wire::{PREFIX_BYTES, RangeSum, Request, Response};

pub(super) enum Event {
    Request {
        from: usize,
        to: usize,
        call: CallId,
        frame: Bytes,
        payload: Bytes,
    },
    Answer {
        from: usize,
        to: usize,
        call: CallId,
        frame: Bytes,
        payload: Bytes,
    },
    Broken {
        to: usize,
        call: CallId,
    },
    /// What a node was to send is not there any more.
    Unsent {
        at: usize,
        call: CallId,
    },
    Wake(usize),
    /// A node looks after what it holds.
    Pass(usize),
    /// A node looks whether others have what it got a moment ago.
    Check(usize),
    /// What a node was doing for its upkeep came to an end.
    Kept {
        index: usize,
        task: Task,
        outcome: Outcome,
    },
}

pub(super) struct Place {
    pub(super) node: Node,
    pub(super) peer: Peer,
    pub(super) store: Arc<Memory>,
    head_gate: HeadGate,
    pub(super) alive: bool,
    pub(super) calls: BTreeMap<CallId, Call>,
    outcomes: BTreeMap<OpId, Outcome>,
    connected: BTreeSet<usize>,
    wake_at: Option<Instant>,
    pub(super) nature: Nature,
    expected: BTreeMap<BlockId, (NodeId, Instant)>,
    pub(super) fresh: BTreeSet<BlockId>,
    pub(super) tasks: BTreeMap<OpId, Task>,
}

/// How a node behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    Honest,
    /// Never answers.
    Silent,
    /// Answers after this time.
    Slow(Duration),
    /// Sends other bytes than were asked for.
    WrongBytes,
    /// Names nodes that do not exist, right beside what is looked for.
    FalseNeighbours,
    /// Says that it holds whatever it is offered, and cannot prove it.
    Boasts,
    /// Answers with a head whose signature is not the volume's.
    Forges,
    /// Keeps the head that it got first, and knows of no blocks.
    Denies,
}

/// One node as its own server sees it.
struct Here<'a> {
    node: &'a Node,
    store: &'a Memory,
    now: Instant,
    expected: RefCell<&'a mut BTreeMap<BlockId, (NodeId, Instant)>>,
    stored: Cell<bool>,
}

impl Routes for Here<'_> {
    fn own(&self) -> NodeId {
        self.node.own
    }

    fn closest(&self, key: &Key, asker: &NodeId) -> Vec<Peer> {
        self.node.closest(key, asker)
    }

    fn is_close_to(&self, key: &Key) -> bool {
        self.node.is_close_to(key)
    }

    fn expect(&self, id: BlockId, asker: &NodeId) -> bool {
        let turn = (*asker, self.now + Duration::from_secs(20));
        let mut expected = self.expected.borrow_mut();
        let held = expected.entry(id).or_insert(turn);
        if held.1 <= self.now {
            *held = turn;
        }
        held.0 == *asker
    }

    fn differing(&self, asker: &NodeId, bits: u8, sums: &[RangeSum]) -> Vec<u8> {
        digest_of(self.node, self.store).differing(asker, bits, sums)
    }

    fn on_stored(&self, id: BlockId) {
        self.expected.borrow_mut().remove(&id);
        self.stored.set(true);
    }

    fn on_corrupt(&self, _id: BlockId) {}
}

/// What a node holds, summed up for its neighbours.
pub(super) fn digest_of(node: &Node, store: &Memory) -> Digest {
    let mut digest = Digest::default();
    for id in store.ids(None, usize::MAX).unwrap() {
        if let Some(group) = node.group_with_us(&Key::from(id)) {
            digest.add(&id, group);
        }
    }
    digest
}

/// How far a search has got, for those who count its steps.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub(super) searcher: usize,
    pub(super) steps: BTreeMap<NodeId, u32>,
    pub(super) requests: u32,
    pub(super) found_after: u32,
}

pub(super) struct World {
    start: Instant,
    pub(super) now: Instant,
    pub(super) rng: ChaCha8Rng,
    queue: BTreeMap<(Instant, u64), Event>,
    pub(super) events: u64,
    pub(super) hash: blake3::Hasher,
    pub(super) places: Vec<Place>,
    /// Nodes on this side hear only each other, where the network is parted.
    pub(super) parted: BTreeSet<usize>,
    /// Of a hundred requests, those that break or are lost.
    pub(super) broken_percent: u64,
    /// Whether nodes keep what they hold in order by themselves.
    pub(super) upkeep: bool,
    /// Sealed bytes that were sent in stores.
    pub(super) stored_bytes: u64,
    /// Bytes of headers, that is everything else.
    pub(super) header_bytes: u64,
    pub(super) trail: Option<Trail>,
}

impl World {
    /// `count` nodes that know each other as nodes of a grown network do: all neighbours, and
    /// up to `K` of each farther part of the key space. Nothing is sent for it.
    pub(super) fn converged(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed);
        for _ in 0..count {
            world.add_node();
        }
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_unstable_by_key(|index| world.places[*index].peer.id);
        let bit = |id: &NodeId, at: usize| id.as_bytes()[at / 8] & (0x80 >> (at % 8)) != 0;
        for index in 0..count {
            let own = world.places[index].peer.id;
            // Those that share all bits so far, narrowed by a bit each time.
            let mut near = order.as_slice();
            for depth in 0..256 {
                let split = near.partition_point(|at| !bit(&world.places[*at].peer.id, depth));
                let (zeros, ones) = near.split_at(split);
                let (ours, theirs) = if bit(&own, depth) { (ones, zeros) } else { (zeros, ones) };
                for step in 0..K.min(theirs.len()) {
                    let start = world.rng.next_u64() as usize % theirs.len();
                    let at = if theirs.len() <= K { step } else { (start + step) % theirs.len() };
                    let (now, peer) = (world.now, world.places[theirs[at]].peer.clone());
                    world.places[index].node.table.seen(now, peer);
                }
                near = ours;
                if near.len() <= 1 {
                    break;
                }
            }
            world.places[index].node.table.set_surveyed(count <= K);
        }
        world
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time has to start at some instant")]
    pub(super) fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            events: 0,
            hash: blake3::Hasher::new(),
            places: Vec::new(),
            parted: BTreeSet::new(),
            broken_percent: 1,
            upkeep: false,
            stored_bytes: 0,
            header_bytes: 0,
            trail: None,
        }
    }

    /// `count` nodes, each joined through a random earlier one.
    pub(super) fn grown(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed);
        for _ in 0..count {
            let index = world.add_node();
            if index > 0 {
                let through = world.random(index);
                world.connect(index, through);
                world.run_for(Duration::from_secs(2));
            }
        }
        world.run_for(Duration::from_secs(20));
        world
    }

    pub(super) fn add_node(&mut self) -> usize {
        let mut id = [0; 32];
        self.rng.fill_bytes(&mut id);
        self.add_node_as(NodeId::from_bytes(id))
    }

    pub(super) fn add_node_as(&mut self, id: NodeId) -> usize {
        let index = self.places.len();
        let address = SocketAddr::from((Ipv4Addr::from(index as u32 + 1), 9));
        self.places.push(Place {
            node: Node::new(id, (&NetConfig::default()).into(), index as u64),
            peer: Peer { id, addresses: vec![address] },
            store: Arc::new(Memory::new()),
            head_gate: HeadGate::default(),
            alive: true,
            calls: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            connected: BTreeSet::new(),
            wake_at: None,
            nature: Nature::Honest,
            expected: BTreeMap::new(),
            fresh: BTreeSet::new(),
            tasks: BTreeMap::new(),
        });
        index
    }

    pub(super) fn random(&mut self, below: usize) -> usize {
        (self.rng.next_u64() % below as u64) as usize
    }

    pub(super) fn schedule(&mut self, at: Instant, event: Event) {
        self.events += 1;
        self.queue.insert((at, self.events), event);
    }

    pub(super) fn delay(&mut self) -> Duration {
        Duration::from_millis(5 + self.rng.next_u64() % 75)
    }

    pub(super) fn connect(&mut self, one: usize, other: usize) {
        if self.places[one].connected.insert(other) {
            self.places[other].connected.insert(one);
            for (here, there) in [(one, other), (other, one)] {
                let peer = self.places[there].peer.clone();
                let now = self.now;
                self.act(here, |node| node.handle_connected(now, peer));
            }
        }
    }

    pub(super) fn act<T>(&mut self, index: usize, act: impl FnOnce(&mut Node) -> T) -> T {
        let result = act(&mut self.places[index].node);
        while let Some(action) = self.places[index].node.poll_action() {
            self.carry_out(index, action);
        }
        let place = &mut self.places[index];
        if let Some(due) = place.node.poll_timeout()
            && place.wake_at.is_none_or(|at| due < at)
        {
            place.wake_at = Some(due);
            self.schedule(due, Event::Wake(index));
        }
        result
    }

    pub(super) fn carry_out(&mut self, index: usize, action: Action) {
        match action {
            Action::Call { id, to, call } => {
                let peer = to.id;
                let SocketAddr::V4(address) = to.addresses[0] else { unreachable!() };
                let to = u32::from(*address.ip()) as usize - 1;
                if let Some(trail) = &mut self.trail
                    && trail.searcher == index
                {
                    trail.requests += 1;
                    trail.steps.entry(peer).or_insert(1);
                }
                let block = match &call {
                    Call::Store(block) => match self.places[index].store.get(block) {
                        Ok(block) => Some(block),
                        // It moved on between the offer and now.
                        Err(_) => {
                            self.places[index].calls.insert(id, call);
                            return self.schedule(self.now, Event::Unsent { at: index, call: id });
                        }
                    },
                    _ => None,
                };
                let (request, payload) = call.request(block.as_ref()).unwrap();
                self.places[index].calls.insert(id, call);
                let at = self.now + self.delay();
                let breaks = self.rng.next_u64() % 100 < self.broken_percent;
                let exists = self.places.get(to).is_some_and(|place| place.peer.id == peer);
                let event = if breaks || !exists {
                    Event::Broken { to: index, call: id }
                } else {
                    let frame = request.encode();
                    self.header_bytes += frame.len() as u64;
                    self.stored_bytes += payload.len() as u64;
                    Event::Request { from: index, to, call: id, frame, payload }
                };
                self.schedule(at, event);
            }
            Action::Cancel { id } => drop(self.places[index].calls.remove(&id)),
            Action::Finished { op, outcome } => match self.places[index].tasks.remove(&op) {
                Some(task) => self.schedule(self.now, Event::Kept { index, task, outcome }),
                None => drop(self.places[index].outcomes.insert(op, outcome)),
            },
            Action::PeersChanged { .. } => {}
        }
    }

    /// Runs one event; false where none is left before `until`.
    pub(super) fn step(&mut self, until: Instant) -> bool {
        let Some(next) = self.queue.first_entry() else { return false };
        if next.key().0 > until {
            return false;
        }
        let ((at, _), event) = next.remove_entry();
        self.now = at;
        self.hash.update(&(at - self.start).as_nanos().to_le_bytes());
        match event {
            Event::Request { from, to, call, frame, payload } => {
                self.hash.update(&frame);
                self.serve(from, to, call, &frame, payload);
            }
            Event::Answer { from, to, call, frame, payload } => {
                self.hash.update(&frame);
                let response = Response::decode(&frame[PREFIX_BYTES..]).unwrap();
                self.checked_answer(from, to, call, response, payload);
                assert!(self.places[from].peer.id != self.places[to].peer.id);
            }
            Event::Unsent { at, call } => self.answer(at, call, |_| Err(CallError::Unsent)),
            Event::Pass(index) => self.pass(index),
            Event::Check(index) => self.check(index),
            Event::Kept { index, task, outcome } => self.kept(index, task, outcome),
            Event::Broken { to, call } => self.answer(to, call, |_| Err(CallError::Unreachable)),
            Event::Wake(index) => {
                self.places[index].wake_at = None;
                if self.places[index].alive {
                    self.act(index, |node| node.handle_timeout(at));
                }
            }
        }
        true
    }

    pub(super) fn serve(
        &mut self,
        from: usize,
        to: usize,
        call: CallId,
        frame: &Bytes,
        payload: Bytes,
    ) {
        let apart = self.parted.contains(&from) != self.parted.contains(&to);
        if !self.places[to].alive || apart {
            return;
        }
        self.connect(from, to);
        let (now, asker) = (self.now, self.places[from].peer.clone());
        self.act(to, |node| node.handle_request(now, asker));
        let request = Request::decode(&frame[PREFIX_BYTES..]).unwrap();
        let asker = self.places[from].peer.id;
        let place = &mut self.places[to];
        let here = Here {
            node: &place.node,
            store: &place.store,
            now,
            expected: RefCell::new(&mut place.expected),
            stored: Cell::new(false),
        };
        let server = Server { store: &*place.store, routes: &here, head_gate: &place.head_gate };
        let honest = server.serve(&asker, request.clone(), payload);
        let stored = here.stored.get();
        if let (true, Request::Store { id, .. }) = (stored, &request) {
            self.note_fresh(to, BlockId::from_bytes(*id));
        }
        let (nature, mut delay) = (self.places[to].nature, self.delay());
        if let Nature::Slow(by) = nature {
            delay += by;
        }
        if let Some((response, payload)) = self.as_its_nature(nature, request, honest) {
            let (at, frame) = (self.now + delay, response.encode());
            self.header_bytes += frame.len() as u64;
            self.schedule(at, Event::Answer { from: to, to: from, call, frame, payload });
        }
    }

    pub(super) fn answer(
        &mut self,
        to: usize,
        id: CallId,
        answer: impl FnOnce(&Call) -> Result<Answer, CallError>,
    ) {
        if !self.places[to].alive {
            return;
        }
        let Some(call) = self.places[to].calls.remove(&id) else { return };
        let (now, answer) = (self.now, answer(&call));
        self.act(to, |node| node.handle_answer(now, id, answer));
    }

    /// Does with an answer what the driver does before the node gets it.
    pub(super) fn checked_answer(
        &mut self,
        from: usize,
        to: usize,
        id: CallId,
        response: Response,
        payload: Bytes,
    ) {
        let (prover, store) = (self.places[from].peer.id, Arc::clone(&self.places[to].store));
        if let Some(trail) = &mut self.trail
            && trail.searcher == to
        {
            let steps = trail.steps.get(&prover).copied().unwrap_or(1);
            match &response {
                Response::Peers { peers } => peers.iter().for_each(|peer| {
                    trail.steps.entry(peer.id).or_insert(steps + 1);
                }),
                Response::Block { .. } => trail.found_after = steps,
                _ => {}
            }
        }
        self.answer(to, id, |call| match (call, call.answer(response, payload)?) {
            (Call::Prove { nonce, ids }, Answer::Proofs(proofs)) => {
                proof::check(nonce, &prover, ids, &proofs, |id| store.get(id).ok())
            }
            (_, answer) => Ok(answer),
        });
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until an operation has its outcome.
    pub(super) fn outcome(&mut self, index: usize, op: OpId) -> Outcome {
        let limit = self.now + Duration::from_secs(600);
        loop {
            if let Some(outcome) = self.places[index].outcomes.remove(&op) {
                return outcome;
            }
            assert!(self.step(limit), "an operation did not end");
        }
    }

    pub(super) fn spread(&mut self, index: usize, aim: Aim, blocks: Vec<BlockId>) -> Vec<Placed> {
        let now = self.now;
        let op = self.act(index, |node| node.spread(now, aim, blocks));
        let Outcome::Spread(placed) = self.outcome(index, op) else { panic!("not a spread") };
        placed
    }

    pub(super) fn find(&mut self, index: usize, id: BlockId) -> Found<Block> {
        let now = self.now;
        let op = self.act(index, |node| node.find_block(now, id));
        let Outcome::Block(found) = self.outcome(index, op) else { panic!("not a block") };
        found
    }

    /// A random living node.
    pub(super) fn living(&mut self) -> usize {
        loop {
            let index = self.random(self.places.len());
            if self.places[index].alive {
                return index;
            }
        }
    }

    /// Living nodes, the closest to a block first, and whether each holds it.
    pub(super) fn holders(&self, id: &BlockId) -> Vec<bool> {
        let key = Key::from(*id);
        let mut living: Vec<_> = self.places.iter().filter(|place| place.alive).collect();
        living.sort_by_key(|place| place.peer.key().distance(&key));
        living.iter().map(|place| place.store.contains(id).unwrap()).collect()
    }

    /// New blocks at random nodes, published. A connection may break in between, so what is not
    /// settled is tried again, as the keeper does.
    pub(super) fn publish(&mut self, count: usize) -> Vec<BlockId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let mut bytes = vec![0; 64];
            self.rng.fill_bytes(&mut bytes);
            let block = Block::new(bytes.into()).unwrap();
            // A writer needs room for its own copy.
            let mut index = self.living();
            while self.places[index].store.put(&block, Purpose::Own).is_err() {
                index = self.living();
            }
            let settled =
                (0..5).any(|_| self.spread(index, Aim::Publish, vec![block.id()])[0].settled);
            assert!(settled, "a block was not settled");
            ids.push(block.id());
        }
        ids
    }

    pub(super) fn repair(&mut self) {
        for index in 0..self.places.len() {
            let held = self.places[index].store.ids(None, 1_000).unwrap();
            if self.places[index].alive && !held.is_empty() {
                self.spread(index, Aim::Repair, held);
            }
        }
    }
}
