//! What was acknowledged survives: a daemon killed in the middle of writes, again and again.
//!
//! Several writers work on a real mount and note after each `fsync` what they were promised. The
//! daemon is killed at a moment that the seed decides, started again on the same home, mounted
//! over the dead mount, and every promise is checked. What was written and not synced may be
//! there or not, but nothing else may be in its place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use xorfs_tests::cluster::{Cluster, Node, fuse_available, wait_until};
use xorfs_tests::files::pattern;

/// Kills in one run.
const ROUNDS: u64 = 6;

/// Printed when the test fails; change it to look elsewhere.
const SEED: u64 = 0x5eed_0001;

/// Bytes of a slot, which is written whole.
const SLOT_BYTES: usize = 4096;

/// Slots of the file that is overwritten at random places.
const SLOTS: usize = 64;

/// A file that only grows: its bytes are the stream of `seed`, synced up to `synced`.
struct Growing {
    path: PathBuf,
    seed: u64,
    synced: AtomicU64,
}

/// A file of slots; each holds a version number over and over.
struct Slotted {
    path: PathBuf,
    tried: Vec<AtomicU64>,
    synced: Vec<AtomicU64>,
}

/// Small files, each made under a temporary name, synced, and renamed into place.
struct Replaced {
    dir: PathBuf,
    synced: AtomicU64,
}

/// Bytes that `Growing` can reach: far more than a run writes.
const GROWING_BYTES_MAX: usize = 32 << 20;

impl Growing {
    fn run(&self) -> io::Result<()> {
        let bytes = pattern(self.seed, GROWING_BYTES_MAX);
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        let mut at = file.metadata()?.len() as usize;
        while at < bytes.len() {
            let end = bytes.len().min(at + 1 + random.next_u32() as usize % 100_000);
            file.write_all(&bytes[at..end])?;
            at = end;
            file.sync_data()?;
            self.synced.store(at as u64, Ordering::Release);
        }
        Ok(())
    }

    fn check(&self) {
        let synced = self.synced.load(Ordering::Acquire) as usize;
        let found =
            if synced == 0 { fs::read(&self.path).unwrap_or_default() } else { read(&self.path) };
        assert!(
            found.len() >= synced,
            "{}: {} bytes are left of {synced} synced ones",
            self.path.display(),
            found.len()
        );
        let expected = pattern(self.seed, found.len());
        let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!(wrong, None, "{}: the first wrong byte", self.path.display());
        // The next writer goes on behind what is there.
        self.synced.store(found.len() as u64, Ordering::Release);
    }
}

impl Slotted {
    fn run(&self, seed: u64) -> io::Result<()> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
        loop {
            let slots: Vec<usize> = (0..1 + random.next_u32() % 4)
                .map(|_| random.next_u32() as usize % SLOTS)
                .collect();
            for &slot in &slots {
                let version = self.tried[slot].fetch_add(1, Ordering::AcqRel) + 1;
                let bytes = version.to_le_bytes().repeat(SLOT_BYTES / 8);
                file.write_all_at(&bytes, (slot * SLOT_BYTES) as u64)?;
            }
            file.sync_all()?;
            for &slot in &slots {
                let version = self.tried[slot].load(Ordering::Acquire);
                self.synced[slot].store(version, Ordering::Release);
            }
        }
    }

    fn check(&self) {
        let promised = self.synced.iter().any(|synced| synced.load(Ordering::Acquire) > 0);
        let found =
            if promised { read(&self.path) } else { fs::read(&self.path).unwrap_or_default() };
        for slot in 0..SLOTS {
            let synced = self.synced[slot].load(Ordering::Acquire);
            let tried = self.tried[slot].load(Ordering::Acquire);
            let bytes = found.get(slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES).unwrap_or_default();
            assert!(synced == 0 || bytes.len() == SLOT_BYTES, "slot {slot} is cut off");
            let versions = bytes
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
            for version in versions {
                assert!(
                    (synced..=tried).contains(&version),
                    "slot {slot} holds version {version}, synced {synced}, tried {tried}"
                );
            }
        }
    }
}

impl Replaced {
    fn run(&self) -> io::Result<()> {
        for number in self.synced.load(Ordering::Acquire) + 1.. {
            let temporary = self.dir.join("being-written");
            let mut file = File::create(&temporary)?;
            file.write_all(&Self::content(number))?;
            file.sync_all()?;
            fs::rename(&temporary, self.dir.join("current"))?;
            File::open(&self.dir)?.sync_all()?;
            self.synced.store(number, Ordering::Release);
        }
        Ok(())
    }

    fn content(number: u64) -> Vec<u8> {
        format!("{number}\n").into_bytes().repeat(1 + number as usize % 700)
    }

    /// Either the synced file or the next one, and never a mixture or a part.
    fn check(&self) {
        let synced = self.synced.load(Ordering::Acquire);
        let path = self.dir.join("current");
        if synced == 0 && !path.exists() {
            return;
        }
        let found = read(&path);
        let number =
            [synced, synced + 1].into_iter().find(|number| found == Self::content(*number));
        let begins = String::from_utf8_lossy(&found[..found.len().min(20)]).into_owned();
        let number = number.unwrap_or_else(|| {
            panic!("file {synced} was synced; found {} bytes: {begins:?}", found.len())
        });
        self.synced.store(number, Ordering::Release);
    }
}

#[track_caller]
fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Lets the writers work until the daemon is killed under them.
fn write_until_killed(
    node: &mut Node,
    run_for: Duration,
    writers: &[&(dyn Fn() -> io::Result<()> + Sync)],
) {
    thread::scope(|scope| {
        for writer in writers {
            // A writer ends with an error once its mount is dead.
            scope.spawn(writer);
        }
        let end = Instant::now() + run_for;
        wait_until("it is time to kill", run_for + Duration::from_secs(5), || {
            Instant::now() >= end
        });
        node.kill9();
    });
}

#[test]
fn every_synced_byte_survives_kill_9() {
    if !fuse_available("every_synced_byte_survives_kill_9") {
        return;
    }
    eprintln!("seed {SEED:#x}");
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut cluster = Cluster::start(1);
    let node = &mut cluster.nodes[0];
    let dir = node.mount().join("main/crash");
    fs::create_dir_all(dir.join("replaced")).expect("creates");
    let growing: Vec<Growing> = (0..2)
        .map(|at| Growing {
            path: dir.join(format!("growing-{at}")),
            seed: 60 + at,
            synced: AtomicU64::new(0),
        })
        .collect();
    let zeros = || (0..SLOTS).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let slotted = Slotted { path: dir.join("slotted"), tried: zeros(), synced: zeros() };
    let replaced = Replaced { dir: dir.join("replaced"), synced: AtomicU64::new(0) };

    for round in 0..ROUNDS {
        // From hardly begun to long past the first seal.
        let run_for = Duration::from_millis(200 + random.next_u64() % 4_000);
        let seed = random.next_u64();
        let slots = || slotted.run(seed);
        write_until_killed(
            node,
            run_for,
            &[&|| growing[0].run(), &|| growing[1].run(), &slots, &|| replaced.run()],
        );
        node.restart();
        node.mount();
        eprintln!("round {round}: killed after {run_for:?}");
        growing.iter().for_each(Growing::check);
        slotted.check();
        replaced.check();
    }
    assert!(growing[0].synced.load(Ordering::Acquire) > 0, "the writers were given time to write");
}

#[test]
fn a_put_that_was_answered_survives_kill_9() {
    let mut cluster = Cluster::start(1);
    let source = cluster.dir().join("answered.bin");
    let node = &mut cluster.nodes[0];
    for (round, wait) in ["staged", "sealed", "staged"].into_iter().enumerate() {
        let bytes = pattern(70 + round as u64, 200_000 << round);
        fs::write(&source, &bytes).expect("writes");
        let source = source.to_str().expect("paths of tests are text");
        node.xorfs(&["put", source, "--wait", wait]).ok();
        node.kill9();
        node.restart();
        assert!(node.xorfs(&["cat", "main:/answered.bin"]).ok().stdout == bytes, "round {round}");
    }
}
