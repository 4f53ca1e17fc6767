//! The tables of `docs/benchmarks.md`: how a large network fares. Run by `make sim`.
//!
//! Everything follows from the seed. Latency is 5 to 80 ms each way, one request in a hundred
//! breaks, and nobody's clock or disk is slow. Blocks are 64 bytes long: what is counted is
//! copies, and bytes as multiples of what was lost.

use std::time::Duration;

use rand_chacha::rand_core::Rng;
use xorfs_store::{BlockId, BlockStore, Inventory, Memory};

use crate::node::search::Found;
use crate::node::tests::upkeep::PASS;
use crate::node::tests::world::{Trail, World};

const HOUR: Duration = Duration::from_secs(3_600);
const BLOCK_BYTES: usize = 64;

fn percentile<T: Copy + Ord>(values: &mut [T], of_a_hundred: usize) -> T {
    values.sort_unstable();
    values[(values.len() - 1) * of_a_hundred / 100]
}

/// Steps, requests and times of lookups of blocks that exist.
fn lookups(seed: u64, nodes: usize, count: usize) -> String {
    let mut world = World::converged(seed, nodes);
    let blocks = world.deposit(count, BLOCK_BYTES);
    let (mut steps, mut requests, mut times, mut found) = (vec![], vec![], vec![], 0);
    for id in blocks {
        let searcher = world.living();
        if world.places[searcher].store.contains(&id).unwrap() {
            continue;
        }
        world.trail = Some(Trail { searcher, ..Trail::default() });
        let started = world.now;
        found += usize::from(matches!(world.find(searcher, id), Found::It(_)));
        let trail = world.trail.take().unwrap();
        steps.push(trail.found_after);
        requests.push(trail.requests);
        times.push(world.now - started);
    }
    let of = times.len();
    format!(
        "| {nodes} | {found} of {of} | {} / {} | {} / {} | {} / {} / {} |",
        percentile(&mut steps, 50),
        percentile(&mut steps, 95),
        percentile(&mut requests, 50),
        percentile(&mut requests, 95),
        percentile(&mut times, 50).as_millis(),
        percentile(&mut times, 95).as_millis(),
        percentile(&mut times, 99).as_millis(),
    )
}

/// One run under churn.
struct Churn {
    world: World,
    blocks: Vec<BlockId>,
    deaths: u64,
    lost_bytes: u64,
}

impl Churn {
    fn new(seed: u64, nodes: usize, blocks: usize) -> Self {
        let mut world = World::converged(seed, nodes);
        let blocks = world.deposit(blocks, BLOCK_BYTES);
        world.start_upkeep();
        Self { world, blocks, deaths: 0, lost_bytes: 0 }
    }

    /// Lets nodes fall silent for ever, one at a time, each replaced by a newcomer that holds
    /// nothing; after `median` half of those who were there are gone.
    fn run(&mut self, time: Duration, median: Duration) {
        let end = self.world.now + time;
        let living = self.world.places.iter().filter(|place| place.alive).count();
        let mean = median.as_secs_f64() / std::f64::consts::LN_2 / living as f64;
        loop {
            let uniform = (self.world.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            let wait = Duration::from_secs_f64(-mean * (1.0 - uniform).ln());
            if self.world.now + wait > end {
                return self.world.run_for(end - self.world.now);
            }
            self.world.run_for(wait);
            self.replace_one();
        }
    }

    fn replace_one(&mut self) {
        let dead = self.world.living();
        let place = &mut self.world.places[dead];
        place.alive = false;
        self.lost_bytes += place.store.usage().used_bytes();
        self.deaths += 1;
        let through = self.world.living();
        let newcomer = self.world.add_node();
        self.world.connect(newcomer, through);
        self.world.plan_pass(newcomer);
    }

    fn row(&self, label: &str) -> String {
        let copies = self.blocks.iter().map(|id| self.world.copies(id));
        let copies: Vec<usize> = copies.collect();
        let lost = copies.iter().filter(|count| **count == 0).count();
        let short = copies.iter().filter(|count| **count < 3).count();
        let mean = copies.iter().sum::<usize>() as f64 / copies.len() as f64;
        let least = copies.iter().min().copied().unwrap_or(0);
        let ratio = match self.lost_bytes {
            0 => format!("{} bytes, none lost", self.world.stored_bytes),
            lost => format!("{:.2}", self.world.stored_bytes as f64 / lost as f64),
        };
        let deaths = self.deaths;
        format!("| {label} | {deaths} | {mean:.2} | {least} | {short} | {lost} | {ratio} |")
    }
}

fn churn(seed: u64, nodes: usize, blocks: usize, median: Duration, time: Duration) -> Vec<String> {
    let mut run = Churn::new(seed, nodes, blocks);
    (1..=4_u32)
        .map(|part| {
            run.run(time / 4, median);
            run.row(&format!("{:.1} h", (time / 4 * part).as_secs_f64() / 3_600.0))
        })
        .collect()
}

/// Halves that do not hear each other for two hours, and then do.
fn partition(seed: u64, nodes: usize, blocks: usize) -> Vec<String> {
    let mut run = Churn::new(seed, nodes, blocks);
    let mut rows = Vec::new();
    run.world.run_for(PASS);
    rows.push(run.row("before"));
    run.world.parted = (0..nodes / 2).collect();
    run.world.run_for(2 * HOUR);
    let sides = |run: &Churn| {
        let held = run.blocks.iter().filter(|id| {
            let holds = |index: usize| run.world.places[index].store.contains(id).unwrap();
            (0..nodes / 2).any(holds) && (nodes / 2..nodes).any(holds)
        });
        held.count()
    };
    let both = sides(&run);
    rows.push(run.row(&format!("parted for 2 h ({both} blocks on both sides)")));
    run.world.parted.clear();
    run.world.run_for(2 * HOUR);
    rows.push(run.row("healed for 2 h"));
    rows
}

/// Half of the nodes have no room.
fn half_full(seed: u64, nodes: usize, blocks: usize) -> Vec<String> {
    let mut run = Churn::new(seed, nodes, 1);
    for place in run.world.places.iter_mut().step_by(2) {
        place.store = std::sync::Arc::new(Memory::with_quota(0));
    }
    run.blocks = run.world.publish(blocks);
    let mut rows = vec![run.row("acknowledged")];
    run.world.run_for(2 * PASS);
    rows.push(run.row("20 min later"));
    rows
}

/// As many newcomers as there are nodes, within ten minutes.
fn mass_join(seed: u64, nodes: usize, blocks: usize) -> Vec<String> {
    let mut run = Churn::new(seed, nodes, blocks);
    let mut rows = vec![run.row("before")];
    for _ in 0..nodes {
        let through = run.world.living();
        let newcomer = run.world.add_node();
        run.world.connect(newcomer, through);
        run.world.plan_pass(newcomer);
        run.world.run_for(PASS / nodes as u32);
    }
    rows.push(run.row("all have joined"));
    run.world.run_for(2 * HOUR);
    rows.push(run.row("2 h later"));
    let placed = run
        .blocks
        .iter()
        .map(|id| run.world.holders(id)[..5].iter().filter(|holds| **holds).count());
    let placed: usize = placed.sum();
    rows.push(format!("\n{placed} of {} copies are on the five closest nodes.", blocks * 5));
    rows
}

#[test]
fn churn_loses_nothing_and_runs_the_same_way_twice() {
    let run = || {
        let mut run = Churn::new(31, 60, 100);
        run.run(HOUR, 4 * HOUR);
        let least = run.blocks.iter().map(|id| run.world.copies(id)).min();
        (least, run.deaths, run.world.events, run.world.hash.finalize())
    };
    let (least, deaths, events, hash) = run();
    assert!(least >= Some(3) && deaths > 5, "{deaths} deaths left {least:?} copies");
    assert_eq!(run(), (least, deaths, events, hash));
}

#[test]
#[ignore = "takes minutes; make sim runs it and prints tables"]
fn simulation() {
    let setting = |name, default| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (largest, seed) = (setting("XORFS_SIM_NODES", 10_000), setting("XORFS_SIM_SEED", 1));
    let (nodes, seed) = (setting("XORFS_SIM_CHURN_NODES", 200), seed as u64);
    let print = |title: &str, head: &str, rows: Vec<String>| {
        let rule: String = head.chars().filter(|at| *at == '|').skip(1).map(|_| "---|").collect();
        let table = format!("### {title}\n\n{head}\n|{rule}\n{}\n", rows.join("\n"));
        std::io::Write::write_all(&mut std::io::stdout(), table.as_bytes()).unwrap();
    };
    let sizes = [100, 1_000, 10_000, 100_000].into_iter().filter(|size| *size <= largest);
    print(
        "Lookups of blocks",
        "| nodes | found | steps, median / 95 % | requests, median / 95 % | ms, median / 95 % / 99 % |",
        sizes.map(|size| lookups(seed, size, 1_000)).collect(),
    );
    let head =
        "| | deaths | copies, mean | least | blocks below 3 | lost | bytes sent / bytes lost |";
    let blocks = nodes * 5;
    let time = HOUR * setting("XORFS_SIM_HOURS", 24) as u32;
    print("Churn, median session 24 h", head, churn(seed, nodes, blocks, 24 * HOUR, time));
    print("Churn, median session 1 h", head, churn(seed, nodes, blocks, HOUR, time / 6));
    print("Halves apart and together again", head, partition(seed, nodes, blocks));
    print("Half of the nodes are full", head, half_full(seed, nodes, blocks));
    print("As many newcomers as nodes", head, mass_join(seed, nodes, blocks));
}
