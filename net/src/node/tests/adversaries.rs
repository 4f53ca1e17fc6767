//! Nodes that lie, and what comes of it: the honest result arrives, and the liar is charged.

use std::time::Duration;

use bytes::Bytes;
use xorfs_store::{Block, BlockId, BlockStore, Head, Purpose, VolumeSecret};

use crate::identity::NodeId;
use crate::kad::Peer;
use crate::node::search::Found;
use crate::node::tests::world::{Nature, World};
use crate::node::{Aim, Outcome};
use crate::wire::{Offered, Request, Response};

impl World {
    /// What a node of this nature makes of an honest answer; `None` where it keeps silent.
    pub(super) fn as_its_nature(
        &mut self,
        nature: Nature,
        request: Request,
        honest: (Response, Bytes),
    ) -> Option<(Response, Bytes)> {
        let plain = |response| Some((response, Bytes::new()));
        match (nature, request) {
            (Nature::Silent, _) => None,
            (Nature::WrongBytes, Request::FindBlock { .. }) => {
                Some((Response::Block { length: 5 }, Bytes::from_static(b"wrong")))
            }
            (Nature::FalseNeighbours, Request::FindBlock { id }) => {
                plain(Response::Peers { peers: invented(id) })
            }
            (Nature::FalseNeighbours, Request::FindNode { key }) => {
                plain(Response::Peers { peers: invented(*key.as_bytes()) })
            }
            (Nature::Boasts, Request::Offer { ids }) => {
                let mut offered = Offered::default();
                (0..ids.len()).for_each(|index| offered.set_held(index));
                plain(Response::Offered(offered))
            }
            (Nature::Boasts, Request::Prove { ids, .. }) => {
                plain(Response::Proofs { proofs: vec![None; ids.len()] })
            }
            (Nature::Forges, Request::FindHead { .. }) => {
                let forger = VolumeSecret::from_bytes([66; 32]);
                let forged = Head::sign(&forger, None, 9, Bytes::from_static(b"forged"));
                let bytes = forged.encoded().clone();
                let length = bytes.len() as u32;
                Some((Response::Head { length, peers: Vec::new() }, bytes))
            }
            (Nature::Denies, Request::StoreHead { .. }) => plain(Response::Stored),
            (Nature::Denies, Request::FindBlock { .. }) => {
                plain(Response::Peers { peers: Vec::new() })
            }
            _ => Some(honest),
        }
    }

    fn corrupted(seed: u64, count: usize, liars: usize, nature: Nature) -> Self {
        let mut world = Self::converged(seed, count);
        world.broken_percent = 0;
        world.places[..liars].iter_mut().for_each(|place| place.nature = nature);
        world
    }

    fn knows(&self, index: usize, other: usize) -> bool {
        self.places[index].node.table.find(&self.places[other].peer.id).is_some()
    }
}

/// Nodes that do not exist, each closer to `key` than any that does.
fn invented(key: [u8; 32]) -> Vec<Peer> {
    let peer = |number: u8| {
        let mut id = key;
        id[31] ^= number;
        let address = (std::net::Ipv4Addr::new(240, 0, 0, number), 9).into();
        Peer { id: NodeId::from_bytes(id), addresses: vec![address] }
    };
    (1..=20).map(peer).collect()
}

/// Every block that honest nodes hold is found from honest nodes.
#[track_caller]
fn expect_found(world: &mut World, liars: usize, blocks: &[BlockId], limit: Duration) {
    let mut asked = 0;
    for (number, id) in blocks.iter().enumerate() {
        let reader = liars + number % (world.places.len() - liars);
        let holds = |index: usize| world.places[index].store.contains(id).unwrap();
        if !(liars..world.places.len()).any(|honest| honest != reader && holds(honest)) {
            continue;
        }
        asked += 1;
        let started = world.now;
        let found = world.find(reader, *id);
        assert!(matches!(found, Found::It(_)), "block {number} from {reader}: {found:?}");
        let took = world.now - started;
        assert!(took < limit, "block {number} took {took:?}");
    }
    assert!(asked >= blocks.len() * 3 / 4, "only {asked} blocks have another honest holder");
}

#[test]
fn wrong_bytes_cost_the_sender_its_place() {
    let mut world = World::corrupted(21, 60, 12, Nature::WrongBytes);
    let blocks = world.deposit(40, 64);
    expect_found(&mut world, 12, &blocks, Duration::from_secs(3));
    let kept = (12..60).flat_map(|honest| (0..12).map(move |liar| (honest, liar)));
    let kept = kept.filter(|(honest, liar)| world.knows(*honest, *liar)).count();
    assert!(kept < 12 * 48, "nobody was charged");
    // Nobody is charged for what others did.
    assert!((12..60).all(|one| (12..60).filter(|other| world.knows(one, *other)).count() >= 20));
}

#[test]
fn silent_and_slow_nodes_are_passed_over() {
    for (seed, nature) in [(22, Nature::Silent), (23, Nature::Slow(Duration::from_secs(4)))] {
        let mut world = World::corrupted(seed, 60, 15, nature);
        let blocks = world.deposit(40, 64);
        expect_found(&mut world, 15, &blocks, Duration::from_secs(12));
    }
}

#[test]
fn neighbours_that_do_not_exist_hide_nothing() {
    let mut world = World::corrupted(24, 60, 15, Nature::FalseNeighbours);
    let blocks = world.deposit(40, 64);
    expect_found(&mut world, 15, &blocks, Duration::from_secs(12));
    let real: Vec<NodeId> = world.places.iter().map(|place| place.peer.id).collect();
    for place in &world.places {
        assert!(place.node.table.iter().all(|entry| real.contains(&entry.peer.id)));
    }
}

#[test]
fn nodes_ground_close_to_a_key_do_not_hide_it() {
    let mut world = World::converged(25, 60);
    world.broken_percent = 0;
    let block = world.deposit(1, 64)[0];
    // As many as there are copies, closer to the block than any honest node.
    for peer in invented(*block.as_bytes()).into_iter().take(5) {
        let index = world.add_node_as(peer.id);
        world.places[index].nature = Nature::Denies;
        world.connect(index, 7);
        world.run_for(Duration::from_secs(30));
    }
    for reader in 0..60 {
        assert!(matches!(world.find(reader, block), Found::It(_)), "hidden from {reader}");
    }
}

#[test]
fn a_claim_without_a_copy_is_charged_and_does_not_count() {
    let mut world = World::corrupted(26, 40, 3, Nature::Boasts);
    let writer = 20;
    let mut short = Vec::new();
    for number in 0..60_u8 {
        let block = Block::new(Bytes::from(vec![number; 64])).unwrap();
        world.places[writer].store.put(&block, Purpose::Own).unwrap();
        let placed = world.spread(writer, Aim::Publish, vec![block.id()])[0];
        let copies = world.copies(&block.id());
        let close = world.holders(&block.id())[..5].iter().any(|holds| *holds);
        assert!(close && copies >= usize::from(placed.copies), "{placed:?}, {copies} copies");
        if !placed.acknowledged {
            short.push(block.id());
        }
    }
    assert_eq!(short, []);
    assert!((0..3).any(|liar| !world.knows(writer, liar)), "no liar was charged");
    assert!((3..40).filter(|honest| world.knows(writer, *honest)).count() >= 20);
}

#[test]
fn forged_and_old_heads_do_not_win() {
    let secret = VolumeSecret::from_bytes([7; 32]);
    let first = Head::sign(&secret, None, 1, Bytes::from_static(b"root"));
    let second = Head::sign(&secret, Some(&first), 2, Bytes::from_static(b"root 2"));
    for (seed, nature) in [(27, Nature::Forges), (28, Nature::Denies)] {
        let mut world = World::corrupted(seed, 40, 0, nature);
        for head in [&first, &second] {
            let (now, head) = (world.now, head.clone());
            let op = world.act(30, |node| node.spread_head(now, head));
            assert!(matches!(world.outcome(30, op), Outcome::HeadStored(holders) if holders >= 3));
            // Having taken the first, some keep it: what they answer from then on is a replay.
            world.places[..10].iter_mut().for_each(|place| place.nature = nature);
        }
        for reader in 10..40 {
            let now = world.now;
            let op = world.act(reader, |node| node.find_head(now, secret.id()));
            let Outcome::Head(found) = world.outcome(reader, op) else { panic!("not a head") };
            assert_eq!(found, Found::It(second.clone()), "reader {reader} and {nature:?}");
        }
        let charged = (10..40).any(|reader| (0..10).any(|liar| !world.knows(reader, liar)));
        assert!(charged || nature == Nature::Denies, "nobody was charged for a forgery");
    }
}
