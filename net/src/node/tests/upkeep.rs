//! What the keeper of the driver does, for the simulated network: the same operations in the
//! same order, with the store at hand instead of behind a thread.

use std::time::Duration;

use rand_chacha::rand_core::Rng;
use xorfs_store::{Block, BlockId, BlockStore, Class, Inventory, Purpose};

use crate::kad::Key;
use crate::node::tests::world::{Event, World, digest_of};
use crate::node::{Node, OpId, Outcome};
use crate::replica::spread::Aim;

/// Time between two passes of a node, as in the default settings.
pub(super) const PASS: Duration = Duration::from_secs(600);

const SETTLE: Duration = Duration::from_secs(2);

/// What a node is doing for what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Compare,
    Repair,
    Vacate,
}

impl World {
    /// Has every node look after what it holds from now on, each at its own time.
    pub(super) fn start_upkeep(&mut self) {
        self.upkeep = true;
        (0..self.places.len()).for_each(|index| self.plan_pass(index));
    }

    /// Has a node begin its passes at some time within the first interval.
    pub(super) fn plan_pass(&mut self, index: usize) {
        let wait = self.rng.next_u64() % PASS.as_millis() as u64;
        self.schedule(self.now + Duration::from_millis(wait), Event::Pass(index));
    }

    pub(super) fn note_fresh(&mut self, index: usize, id: BlockId) {
        if self.upkeep && self.places[index].fresh.insert(id) {
            self.schedule(self.now + SETTLE, Event::Check(index));
        }
    }

    pub(super) fn check(&mut self, index: usize) {
        let due: Vec<_> = std::mem::take(&mut self.places[index].fresh).into_iter().collect();
        if self.places[index].alive && !due.is_empty() {
            let now = self.now;
            self.task(index, Task::Repair, |node| node.spread(now, Aim::Repair, due));
        }
    }

    pub(super) fn pass(&mut self, index: usize) {
        if !self.places[index].alive {
            return;
        }
        self.schedule(self.now + PASS, Event::Pass(index));
        let place = &self.places[index];
        let digest = digest_of(&place.node, &place.store);
        let far: Vec<BlockId> = place
            .store
            .ids(None, usize::MAX)
            .unwrap()
            .into_iter()
            .filter(|id| {
                place.node.is_far_from(&Key::from(*id))
                    && place.store.class(id).unwrap() == Some(Class::InRange)
            })
            .collect();
        let now = self.now;
        self.task(index, Task::Compare, |node| node.compare(now, &digest));
        if !far.is_empty() {
            self.task(index, Task::Vacate, |node| node.spread(now, Aim::Vacate, far));
        }
    }

    pub(super) fn kept(&mut self, index: usize, task: Task, outcome: Outcome) {
        if !self.places[index].alive {
            return;
        }
        let now = self.now;
        match (task, outcome) {
            (Task::Compare, Outcome::Compared(differences)) => {
                let place = &self.places[index];
                let held = place.store.ids(None, usize::MAX).unwrap().into_iter();
                let suspects: Vec<BlockId> = held
                    .filter(|id| {
                        let group = place.node.group_with_us(&Key::from(*id));
                        group.is_some_and(|group| differences.concern(id, &group))
                    })
                    .collect();
                if !suspects.is_empty() {
                    self.task(index, Task::Repair, |node| node.spread(now, Aim::Repair, suspects));
                }
            }
            (Task::Repair, Outcome::Spread(placed)) => {
                let coming = placed.iter().filter(|block| block.coming).map(|block| block.id);
                self.places[index].fresh.extend(coming);
                if !self.places[index].fresh.is_empty() {
                    self.schedule(now + SETTLE * 5, Event::Check(index));
                }
            }
            (Task::Vacate, Outcome::Spread(placed)) => {
                for block in placed.iter().filter(|block| block.settled) {
                    self.places[index].store.vacate(&block.id).unwrap();
                }
            }
            (task, outcome) => panic!("{task:?} ended with {outcome:?}"),
        }
    }

    fn task(&mut self, index: usize, task: Task, start: impl FnOnce(&mut Node) -> OpId) {
        // Its end is an event of its own, so the task is known before it.
        let op = start(&mut self.places[index].node);
        self.places[index].tasks.insert(op, task);
        self.act(index, |_| ());
    }

    /// Blocks at the nodes where a network without failures keeps them, and at their first
    /// writer nowhere else.
    pub(super) fn deposit(&mut self, count: usize, bytes: usize) -> Vec<BlockId> {
        let mut by_id: Vec<usize> =
            (0..self.places.len()).filter(|at| self.places[*at].alive).collect();
        (0..count)
            .map(|_| {
                let mut noise = vec![0; bytes];
                self.rng.fill_bytes(&mut noise);
                let block = Block::new(noise.into()).unwrap();
                let key = Key::from(block.id());
                by_id
                    .select_nth_unstable_by_key(4, |at| self.places[*at].peer.key().distance(&key));
                for at in &by_id[..5] {
                    // A full node is passed over.
                    let _ = self.places[*at].store.put(&block, Purpose::Hold);
                }
                block.id()
            })
            .collect()
    }

    /// Copies of a block on living nodes.
    pub(super) fn copies(&self, id: &BlockId) -> usize {
        let living = self.places.iter().filter(|place| place.alive);
        living.filter(|place| place.store.contains(id).unwrap()).count()
    }
}
