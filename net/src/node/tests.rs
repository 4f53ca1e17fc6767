//! Many nodes in a simulated network.

mod adversaries;
mod tables;
mod upkeep;
mod world;

use std::time::Duration;

use bytes::Bytes;
use xorfs_store::{Block, BlockId, BlockStore, Head, Purpose, VolumeSecret};

use super::*;
use world::World;

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
