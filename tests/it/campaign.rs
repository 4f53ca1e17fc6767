//! The crash campaign: a process that writes to a volume dies, again and again, at moments that
//! the seed decides and at every crash point of the store; what is left must be a prefix.
//!
//! The child works through `fuse::View` and `Local` as the daemon does, without a mount, while
//! the view seals in the background. After each death the parent opens the store itself:
//!
//! - the volume is exactly what it was after some operation, none before the last one that was
//!   acknowledged as crash-safe;
//! - every block that the newest head reaches is there, and every block reads;
//! - rows, counters and blocks agree;
//! - blocks held for the network that were flushed are there;
//! - garbage can be collected, and takes nothing of all this.
//!
//! `make test` does some thirty crashes, here and in `crash`, `make test-long` several hundred.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use xorfs_fuse::View;
use xorfs_store::crash::POINTS;
use xorfs_store::{BlockId, BlockStore, Inventory, Local, Purpose, WriteError};
use xorfs_tests::campaign::{
    Model, Op, Upkeep, VOLUME, collect, local_config, open_view, perform, read_out,
};
use xorfs_tests::child::{Child, tell, told};
use xorfs_tests::conformance::block;
use xorfs_tests::effort::{is_long, say, seed};

/// Crashes of one home; then a fresh one.
const CRASHES_A_HOME: u64 = 8;

/// Steps after which a child ends by itself, where it was not to die earlier.
const STEPS_MAX: u64 = 400;

/// Points that writing does not meet: those where a home is made are `crash`'s, those where a
/// damaged one is opened `rebuild`'s.
const ELSEWHERE: [&str; 4] = ["format", "identity", "keyring", "rebuild"];

/// Lines of the child: a step is about to be done, everything up to a step is crash-safe, the
/// held block of a step is crash-safe.
const TRIES: &str = "tries";
const DURABLE: &str = "durable";
const HELD: &str = "held";

#[test]
fn child_works_on_a_volume() {
    let Some(Child { dir, seed }) = Child::wanted() else { return };
    let store = Arc::new(Local::open(&dir, local_config()).unwrap());
    let view = open_view(&store).unwrap();
    let (collections, wanted) = mpsc::sync_channel::<()>(1);
    let collector = thread::spawn({
        let store = Arc::clone(&store);
        move || wanted.iter().for_each(|()| drop(collect(&store).unwrap()))
    });
    churn(&store);
    work(&store, &view, seed, &collections);
    drop(collections);
    collector.join().unwrap();
}

/// Evicts and leaves garbage, where the child is to die of that: steps alone do it too rarely.
fn churn(store: &Local) {
    let armed = env::var("XORFS_CRASH").unwrap_or_default();
    if armed.starts_with("evict") || armed.starts_with("reclaim") {
        for n in 0..300 {
            match store.put(&block(n << 32, 1 << 20), Purpose::Cache) {
                Ok(()) | Err(WriteError::Full { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

fn work(store: &Local, view: &View, seed: u64, collections: &mpsc::SyncSender<()>) {
    for step in 1..=STEPS_MAX {
        tell(TRIES, step);
        perform(view, &Op::of(seed, step)).unwrap();
        match Upkeep::of(seed, step) {
            None => {}
            Some(Upkeep::Sync) => {
                let top = view.resolve(VOLUME.as_bytes()).unwrap();
                view.fsync(top.ino).unwrap();
                tell(DURABLE, step);
            }
            Some(Upkeep::Seal) => {
                view.seal().unwrap();
                tell(DURABLE, step);
            }
            Some(Upkeep::Cache(blocks)) => {
                for block in blocks {
                    match store.put(&block, Purpose::Cache) {
                        Ok(()) | Err(WriteError::Full { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
            Some(Upkeep::Hold(block)) => {
                store.put(&block, Purpose::Hold).unwrap();
                store.flush().unwrap();
                tell(HELD, step);
            }
            Some(Upkeep::Forget(block)) => {
                store.put(&block, Purpose::Pin).unwrap();
                store.remove(&block.id()).unwrap();
            }
            // One that is under way is enough.
            Some(Upkeep::Collect) => drop(collections.try_send(())),
        }
    }
}

/// A home, and what must be in it.
struct Home {
    dir: tempfile::TempDir,
    model: Model,
    held: BTreeSet<BlockId>,
}

/// How one child is to die.
#[derive(Debug)]
enum Death {
    /// At the crash point, the n-th time.
    Point(&'static str, u64),
    /// By SIGKILL, soon after it began a step.
    Kill { step: u64, pause: Duration },
}

impl Death {
    /// The two kinds take turns; the points go round.
    fn of(random: &mut ChaCha8Rng, attempt: u64) -> Self {
        if attempt == 0 {
            return Self::Point("format-before-rename", 1);
        }
        if attempt % 3 == 2 {
            let step = random.random_range(1..STEPS_MAX / 2);
            return Self::Kill {
                step,
                pause: Duration::from_micros(random.random_range(0..5_000)),
            };
        }
        let points: Vec<_> = POINTS.into_iter().filter(|name| !is_elsewhere(name)).collect();
        let turn = attempt - attempt / 3;
        let name = points[turn as usize % points.len()];
        let n = random.random_range(1..12);
        Self::Point(name, if name.starts_with("reclaim") { 1 } else { n })
    }
}

fn is_elsewhere(name: &str) -> bool {
    ELSEWHERE.iter().any(|begin| name.starts_with(begin))
}

/// What a child told before it died.
#[derive(Debug, Default)]
struct Told {
    tried: u64,
    durable: u64,
    held: Vec<u64>,
    died: bool,
}

fn run_child(dir: &Path, seed: u64, death: &Death) -> Told {
    let mut command = Child::command("campaign::child_works_on_a_volume", dir, seed);
    if let Death::Point(name, n) = death {
        command.env("XORFS_CRASH", format!("{name}:{n}"));
    }
    let mut process = command.spawn().unwrap();
    let mut found = Told::default();
    for (word, number) in told(&mut process) {
        match word.as_str() {
            TRIES => found.tried = number,
            DURABLE => found.durable = number,
            HELD => found.held.push(number),
            word => panic!("a child says {word}"),
        }
        if let Death::Kill { step, pause } = death
            && found.tried == *step
            && !found.died
        {
            found.died = true;
            let until = Instant::now() + *pause;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            process.kill().unwrap();
        }
    }
    let status = process.wait().unwrap();
    found.died |= std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL);
    assert!(found.died || status.success(), "the child failed: {status:?}");
    found
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, model: Model::default(), held: BTreeSet::new() }
    }

    /// Checks what a child left, and takes the volume as it is now for the next one.
    fn check(&mut self, seed: u64, told: &Told, context: &str) {
        for step in &told.held {
            let Some(Upkeep::Hold(block)) = Upkeep::of(seed, *step) else { panic!("step {step}") };
            self.held.insert(block.id());
        }
        let store = Arc::new(Local::open(self.dir.path(), local_config()).expect(context));
        check_blocks(&store, &self.held, context);
        let view = open_view(&store).expect(context);
        let found = read_out(&view).expect(context);
        let mut model = std::mem::take(&mut self.model);
        let mut matches = told.durable == 0 && model == found;
        let mut closest = model.differences(&found);
        for step in 1..=told.tried {
            model.apply(&Op::of(seed, step));
            if step >= told.durable && !matches {
                matches = model == found;
                let differences = model.differences(&found);
                if differences.len() < closest.len() || step == told.durable {
                    closest = differences;
                }
            }
        }
        let closest = closest.join("\n");
        assert!(matches, "{context}: {told:?}: nothing that was; expected and found:\n{closest}");
        self.model = found;
        view.seal().expect(context);
        let (_, marked) = collect(&store).expect(context);
        // Every block of the newest head is there, and of all others only what others need.
        let top = view.resolve(VOLUME.as_bytes()).expect(context);
        for id in view.blocks_of(top.ino, true).expect(context) {
            store.get(&id).expect(context);
            assert!(marked.strength(&id).is_some(), "{context}: {id} was taken for garbage");
        }
        check_blocks(&store, &self.held, context);
        for id in store.owed(None, usize::MAX).expect(context) {
            assert!(marked.strength(&id).is_some(), "{context}: {id} is garbage and was left");
        }
        view.shutdown().expect(context);
    }
}

/// Every row has its block, every block reads, the counters are the sums, and what was held and
/// flushed is there.
fn check_blocks(store: &Local, held: &BTreeSet<BlockId>, context: &str) {
    let ids = store.ids(None, usize::MAX).expect(context);
    let length = |id: &BlockId| store.get(id).expect(context).bytes().len() as u64;
    let usage = store.usage();
    let bytes: u64 = ids.iter().map(length).sum();
    assert_eq!((usage.blocks, usage.used_bytes()), (ids.len() as u64, bytes), "{context}");
    let owed = store.owed(None, usize::MAX).expect(context);
    let owed_bytes = owed.iter().map(length).sum();
    assert_eq!(store.owed_totals(), (owed.len() as u64, owed_bytes), "{context}");
    for id in held {
        assert!(store.contains(id).expect(context), "{context}: held block {id} is gone");
    }
}

/// Lets children die until there were `wanted` crashes. Returns how often each point was hit.
fn run_campaign(seed: u64, wanted: u64) -> BTreeMap<&'static str, u64> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut hit = BTreeMap::new();
    let (mut crashes, mut attempt, mut home) = (0, 0, Home::new());
    while crashes < wanted {
        assert!(attempt < wanted * 3, "children live too long: {crashes} of {attempt} died");
        if attempt % CRASHES_A_HOME == 0 {
            home = Home::new();
        }
        let death = Death::of(&mut random, attempt);
        let child_seed = random.random();
        let context = format!("campaign of seed {seed}, attempt {attempt}, {death:?}");
        let told = run_child(home.dir.path(), child_seed, &death);
        if told.died {
            crashes += 1;
            let name = if let Death::Point(name, _) = death { name } else { "SIGKILL" };
            *hit.entry(name).or_default() += 1;
        }
        home.check(child_seed, &told, &context);
        attempt += 1;
    }
    hit
}

#[test]
fn a_volume_survives_every_crash_as_a_prefix() {
    let wanted = if is_long() { 260 } else { 24 };
    let start = Instant::now();
    let hit = run_campaign(seed(1), wanted);
    say(&format!("{wanted} crashes in {:.0?}: {hit:?}", start.elapsed()));
    if is_long() {
        let missed: Vec<_> = POINTS
            .into_iter()
            .filter(|name| !is_elsewhere(name) && !hit.contains_key(name))
            .collect();
        assert_eq!(missed, Vec::<&str>::new(), "points where nothing ever died");
    }
}
