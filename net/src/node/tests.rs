//! A simulated network: many nodes, virtual time, links with delay and failure, one seed.
//!
//! Messages go through the real codec and the real server over `Memory` stores; only the
//! transport is simulated. A call to a dead node is never answered, and one in a hundred calls
//! breaks, as connections do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use xorfs_store::{Block, BlockId, BlockStore, Head, Inventory, Memory, Purpose, VolumeSecret};

use super::*;
use crate::replica::proof;
use crate::serve::{HeadGate, Routes, Server};
use crate::wire::{PREFIX_BYTES, RangeSum, Request, Response};

enum Event {
    Request { from: usize, to: usize, call: CallId, frame: Bytes, payload: Bytes },
    Answer { from: usize, to: usize, call: CallId, frame: Bytes, payload: Bytes },
    Broken { to: usize, call: CallId },
    Wake(usize),
}

struct Place {
    node: Node,
    peer: Peer,
    store: Arc<Memory>,
    head_gate: HeadGate,
    alive: bool,
    calls: BTreeMap<CallId, Call>,
    outcomes: BTreeMap<OpId, Outcome>,
    connected: BTreeSet<usize>,
    wake_at: Option<Instant>,
}

impl Routes for Node {
    fn own(&self) -> NodeId {
        self.own
    }

    fn closest(&self, key: &Key, asker: &NodeId) -> Vec<Peer> {
        Self::closest(self, key, asker)
    }

    fn is_close_to(&self, key: &Key) -> bool {
        Self::is_close_to(self, key)
    }

    fn expect(&self, _id: BlockId, _asker: &NodeId) -> bool {
        true
    }

    fn differing(&self, _asker: &NodeId, _bits: u8, _sums: &[RangeSum]) -> Vec<u8> {
        Vec::new()
    }

    fn on_stored(&self, _id: BlockId) {}

    fn on_corrupt(&self, _id: BlockId) {}
}

struct World {
    start: Instant,
    now: Instant,
    rng: ChaCha8Rng,
    queue: BTreeMap<(Instant, u64), Event>,
    events: u64,
    hash: blake3::Hasher,
    places: Vec<Place>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "virtual time has to start at some instant")]
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            events: 0,
            hash: blake3::Hasher::new(),
            places: Vec::new(),
        }
    }

    /// `count` nodes, each joined through a random earlier one.
    fn grown(seed: u64, count: usize) -> Self {
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

    fn add_node(&mut self) -> usize {
        let index = self.places.len();
        let mut id = [0; 32];
        self.rng.fill_bytes(&mut id);
        let id = NodeId::from_bytes(id);
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
        });
        index
    }

    fn random(&mut self, below: usize) -> usize {
        (self.rng.next_u64() % below as u64) as usize
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.events += 1;
        self.queue.insert((at, self.events), event);
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(5 + self.rng.next_u64() % 75)
    }

    fn connect(&mut self, one: usize, other: usize) {
        if self.places[one].connected.insert(other) {
            self.places[other].connected.insert(one);
            for (here, there) in [(one, other), (other, one)] {
                let peer = self.places[there].peer.clone();
                let now = self.now;
                self.act(here, |node| node.handle_connected(now, peer));
            }
        }
    }

    fn act<T>(&mut self, index: usize, act: impl FnOnce(&mut Node) -> T) -> T {
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

    fn carry_out(&mut self, index: usize, action: Action) {
        match action {
            Action::Call { id, to, call } => {
                let SocketAddr::V4(address) = to.addresses[0] else { unreachable!() };
                let to = u32::from(*address.ip()) as usize - 1;
                let block = match &call {
                    Call::Store(id) => Some(self.places[index].store.get(id).unwrap()),
                    _ => None,
                };
                let (request, payload) = call.request(block.as_ref()).unwrap();
                self.places[index].calls.insert(id, call);
                let at = self.now + self.delay();
                let event = if self.rng.next_u64().is_multiple_of(100) {
                    Event::Broken { to: index, call: id }
                } else {
                    let frame = request.encode();
                    Event::Request { from: index, to, call: id, frame, payload }
                };
                self.schedule(at, event);
            }
            Action::Cancel { id } => drop(self.places[index].calls.remove(&id)),
            Action::Finished { op, outcome } => {
                self.places[index].outcomes.insert(op, outcome);
            }
            Action::PeersChanged { .. } => {}
        }
    }

    /// Runs one event; false where none is left before `until`.
    fn step(&mut self, until: Instant) -> bool {
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

    fn serve(&mut self, from: usize, to: usize, call: CallId, frame: &Bytes, payload: Bytes) {
        if !self.places[to].alive {
            return;
        }
        self.connect(from, to);
        let (now, asker) = (self.now, self.places[from].peer.clone());
        self.act(to, |node| node.handle_request(now, asker));
        let request = Request::decode(&frame[PREFIX_BYTES..]).unwrap();
        let (place, asker) = (&self.places[to], self.places[from].peer.id);
        let server =
            Server { store: &*place.store, routes: &place.node, head_gate: &place.head_gate };
        let (response, payload) = server.serve(&asker, request, payload);
        let (at, frame) = (self.now + self.delay(), response.encode());
        self.schedule(at, Event::Answer { from: to, to: from, call, frame, payload });
    }

    fn answer(
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
    fn checked_answer(
        &mut self,
        from: usize,
        to: usize,
        id: CallId,
        response: Response,
        payload: Bytes,
    ) {
        let (prover, store) = (self.places[from].peer.id, self.places[to].store.clone());
        self.answer(to, id, |call| match (call, call.answer(response, payload)?) {
            (Call::Prove { nonce, ids }, Answer::Proofs(proofs)) => {
                proof::check(nonce, &prover, ids, &proofs, |id| store.get(id).ok())
            }
            (_, answer) => Ok(answer),
        });
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until an operation has its outcome.
    fn outcome(&mut self, index: usize, op: OpId) -> Outcome {
        let limit = self.now + Duration::from_secs(600);
        loop {
            if let Some(outcome) = self.places[index].outcomes.remove(&op) {
                return outcome;
            }
            assert!(self.step(limit), "an operation did not end");
        }
    }

    fn spread(&mut self, index: usize, aim: Aim, blocks: Vec<BlockId>) -> Vec<Placed> {
        let now = self.now;
        let op = self.act(index, |node| node.spread(now, aim, blocks));
        let Outcome::Spread(placed) = self.outcome(index, op) else { panic!("not a spread") };
        placed
    }

    fn find(&mut self, index: usize, id: BlockId) -> Found<Block> {
        let now = self.now;
        let op = self.act(index, |node| node.find_block(now, id));
        let Outcome::Block(found) = self.outcome(index, op) else { panic!("not a block") };
        found
    }

    /// A random living node.
    fn living(&mut self) -> usize {
        loop {
            let index = self.random(self.places.len());
            if self.places[index].alive {
                return index;
            }
        }
    }

    /// Living nodes, the closest to a block first, and whether each holds it.
    fn holders(&self, id: &BlockId) -> Vec<bool> {
        let key = Key::from(*id);
        let mut living: Vec<_> = self.places.iter().filter(|place| place.alive).collect();
        living.sort_by_key(|place| place.peer.key().distance(&key));
        living.iter().map(|place| place.store.contains(id).unwrap()).collect()
    }

    /// New blocks at random nodes, published. A connection may break in between, so what is not
    /// settled is tried again, as the keeper does.
    fn publish(&mut self, count: usize) -> Vec<BlockId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let mut bytes = vec![0; 64];
            self.rng.fill_bytes(&mut bytes);
            let block = Block::new(bytes.into()).unwrap();
            let index = self.living();
            self.places[index].store.put(&block, Purpose::Own).unwrap();
            let settled =
                (0..5).any(|_| self.spread(index, Aim::Publish, vec![block.id()])[0].settled);
            assert!(settled, "a block was not settled");
            ids.push(block.id());
        }
        ids
    }

    fn repair(&mut self) {
        for index in 0..self.places.len() {
            let held = self.places[index].store.ids(None, 1_000).unwrap();
            if self.places[index].alive && !held.is_empty() {
                self.spread(index, Aim::Repair, held);
            }
        }
    }
}

#[test]
fn two_hundred_nodes_keep_what_they_are_given() {
    let seed = 1;
    let mut world = World::grown(seed, 200);
    let blocks = world.publish(40);
    for id in &blocks {
        let copies = world.holders(id).iter().filter(|holds| **holds).count();
        assert!((3..6).contains(&copies), "seed {seed}: the writer made {copies} copies of {id}");
    }
    // The holders bring the rest.
    world.repair();
    let mut placed_close = 0;
    for id in &blocks {
        let holders = world.holders(id);
        let close = holders[..5].iter().filter(|holds| **holds).count();
        assert!(close >= 3, "seed {seed}: {close} of the five closest hold {id}");
        placed_close += close;
        for _ in 0..5 {
            let index = world.living();
            let found = (0..3).map(|_| world.find(index, *id)).find(|f| matches!(f, Found::It(_)));
            assert!(found.is_some(), "seed {seed}: {id} was not found from {index}");
        }
    }
    // A broken connection makes the next closest take a copy now and then.
    assert!(placed_close >= blocks.len() * 5 * 9 / 10, "seed {seed}: {placed_close} in place");
    for _ in 0..20 {
        let index = world.living();
        world.places[index].alive = false;
    }
    // The first round notices the dead and waits for them, the next work without them.
    for _ in 0..3 {
        world.repair();
        world.run_for(Duration::from_secs(700));
    }
    for id in &blocks {
        let copies = world.holders(id).iter().filter(|holds| **holds).count();
        assert!(copies >= 5, "seed {seed}: {copies} copies of {id}");
        let index = world.living();
        let found = (0..3).map(|_| world.find(index, *id)).find(|f| matches!(f, Found::It(_)));
        assert!(found.is_some(), "seed {seed}: {id} was not found from {index}");
    }
}

#[test]
fn one_seed_gives_one_run() {
    let run = |seed| {
        let mut world = World::grown(seed, 40);
        world.publish(10);
        world.places[3].alive = false;
        world.repair();
        (world.events, world.hash.finalize())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).1, run(8).1);
}

#[test]
fn nothing_is_missing_only_when_nobody_answers() {
    let mut world = World::grown(3, 8);
    let nowhere = BlockId::of(b"nowhere");
    assert!((0..5).any(|_| world.find(0, nowhere) == Found::Missing));
    for place in &mut world.places[1..] {
        place.alive = false;
    }
    assert_eq!(world.find(0, nowhere), Found::Unreachable);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.places[0].node.table().len(), 0);
}

#[test]
fn the_dead_come_back() {
    let mut world = World::grown(4, 5);
    world.places[2].alive = false;
    world.find(0, BlockId::of(b"any"));
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.places[0].node.table().len(), 3);
    world.places[2].alive = true;
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.places[0].node.table().len(), 4);
}

#[test]
fn the_newest_head_is_found() {
    let mut world = World::grown(5, 30);
    let secret = VolumeSecret::from_bytes([7; 32]);
    let first = Head::sign(&secret, None, 1, Bytes::from_static(b"root"));
    let second = Head::sign(&secret, Some(&first), 2, Bytes::from_static(b"root 2"));
    // The newer one is published before the older: nobody may go back.
    for head in [&second, &first] {
        let (now, head) = (world.now, head.clone());
        let op = world.act(0, |node| node.spread_head(now, head));
        let Outcome::HeadStored(holders) = world.outcome(0, op) else { panic!("not a head") };
        assert!(holders >= 3);
    }
    let now = world.now;
    let op = world.act(20, |node| node.find_head(now, secret.id()));
    let Outcome::Head(found) = world.outcome(20, op) else { panic!("not a head") };
    assert_eq!(found, Found::It(second));
}

#[test]
fn a_liar_leaves_the_table() {
    let mut world = World::grown(6, 5);
    let block = Block::new(Bytes::from_static(b"a true block")).unwrap();
    let now = world.now;
    let op = world.act(0, |node| node.find_block(now, block.id()));
    let (call, _) = world.places[0].calls.iter().next().map(|(id, c)| (*id, c.clone())).unwrap();
    world.answer(0, call, |_| Err(CallError::Wrong));
    assert_eq!(world.places[0].node.table().len(), 3);
    world.outcome(0, op);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.places[0].node.table().len(), 3);
}

#[test]
fn a_node_that_lost_everybody_settles_nothing() {
    let mut world = World::grown(8, 30);
    let block = Block::new(Bytes::from_static(b"a block that nobody took")).unwrap();
    world.places[0].store.put(&block, Purpose::Own).unwrap();
    for place in &mut world.places[1..] {
        place.alive = false;
    }
    // The first finds that nobody answers, the last that nobody is known.
    for _ in 0..10 {
        let placed = world.spread(0, Aim::Publish, vec![block.id()])[0];
        assert!(!placed.settled && placed.copies <= 1, "{placed:?}");
        world.run_for(Duration::from_secs(20));
    }
    assert_eq!(world.places[0].node.table().len(), 0);
}
