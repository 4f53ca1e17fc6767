//! What was acknowledged survives: a daemon killed in the middle of writes, again and again.
//!
//! Several writers work on a real mount and note after each `fsync` what they were promised. The
//! daemon is killed at a moment that the seed decides, started again on the same home, mounted
//! over the dead mount, and every promise is checked. What was written and not synced may be
//! there or not, but nothing else may be in its place. Meanwhile commands put files, collect
//! garbage and check. Every second round the daemon dies at a crash point of the store (see `campaign`).

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustix::process::Signal;
use xorfs_store::crash::POINTS;
use xorfs_tests::cluster::{
    COMMAND_DEADLINE, Cluster, Node, binary, fuse_available, run, wait_until,
};
use xorfs_tests::effort::{is_long, seed};
use xorfs_tests::files::pattern;

/// Kills in one run, and in a long one.
const ROUNDS: u64 = 6;
const ROUNDS_LONG: u64 = 44;

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

/// Files put by command, each under a name of its own.
struct Put {
    source: PathBuf,
    tried: AtomicU64,
    /// Numbers of the puts that were answered.
    answered: Mutex<BTreeSet<u64>>,
}

impl Put {
    fn content(number: u64) -> Vec<u8> {
        pattern(9_000 + number, 30_000 + number as usize * 7_919 % 900_000)
    }

    /// Until `over`, or the first put that fails. Commands here end soon: the daemon answers them,
    /// or its socket does not.
    fn run(&self, node: &Node, over: &AtomicBool) -> io::Result<()> {
        while !over.load(Ordering::Acquire) {
            let number = self.tried.fetch_add(1, Ordering::AcqRel) + 1;
            let source = self.source.join(format!("put-{number}"));
            fs::write(&source, Self::content(number))?;
            let wait = if number.is_multiple_of(2) { "staged" } else { "sealed" };
            let source = source.to_str().expect("paths of tests are text");
            let mut put = node.command(&["put", source, "--to", "crash", "--wait", wait]);
            if run(&mut put, COMMAND_DEADLINE).code != Some(0) {
                break;
            }
            self.answered.lock().expect("no holder panics").insert(number);
        }
        Ok(())
    }

    /// What was answered is there; the rest is there as a whole or not at all.
    fn check(&self, dir: &Path) {
        let answered = self.answered.lock().expect("no holder panics");
        for number in 1..=self.tried.load(Ordering::Acquire) {
            let path = dir.join(format!("put-{number}"));
            if answered.contains(&number) || path.exists() {
                assert!(read(&path) == Self::content(number), "{}", path.display());
            }
        }
    }
}

/// Files that are made, synced and removed again: what is gone stays gone.
struct Removed {
    dir: PathBuf,
    gone: AtomicU64,
}

impl Removed {
    fn run(&self) -> io::Result<()> {
        for number in self.gone.load(Ordering::Acquire) + 1.. {
            let path = self.dir.join(number.to_string());
            let mut file = File::create(&path)?;
            file.write_all(&pattern(number, 20_000))?;
            file.sync_all()?;
            fs::remove_file(&path)?;
            File::open(&self.dir)?.sync_all()?;
            self.gone.store(number, Ordering::Release);
        }
        Ok(())
    }

    fn check(&self) {
        let gone = self.gone.load(Ordering::Acquire);
        for entry in fs::read_dir(&self.dir).expect("lists") {
            let name = entry.expect("lists").file_name();
            let number: u64 = name.to_string_lossy().parse().expect("names are numbers");
            assert!(number > gone, "{number} was removed, and that was synced");
            fs::remove_file(self.dir.join(name)).expect("removes");
        }
    }
}

#[track_caller]
fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Collects garbage and checks, over and over: what is in use is no garbage, and nothing is bad.
fn keep_up(node: &Node, over: &AtomicBool) -> io::Result<()> {
    while !over.load(Ordering::Acquire) {
        for command in ["gc", "check"] {
            let done = run(&mut node.command(&[command]), COMMAND_DEADLINE);
            assert_ne!(done.code, Some(5), "something in use is gone or bad: {done:?}");
        }
    }
    Ok(())
}

/// Lets the writers work until the daemon dies under them, by itself or by our hand. Whether it
/// did so by itself.
fn write_until_killed(
    node: &Node,
    run_for: Duration,
    over: &AtomicBool,
    writers: &[&(dyn Fn() -> io::Result<()> + Sync)],
) -> bool {
    over.store(false, Ordering::Release);
    thread::scope(|scope| {
        for writer in writers {
            // A writer ends with an error once its mount is dead.
            scope.spawn(writer);
        }
        let end = Instant::now() + run_for;
        let mut died = false;
        wait_until("it is time to kill", run_for + Duration::from_secs(5), || {
            died = node.has_died();
            died || Instant::now() >= end
        });
        over.store(true, Ordering::Release);
        if !died {
            node.signal(Signal::KILL);
        }
        died
    })
}

#[test]
fn every_synced_byte_survives_kill_9() {
    if !fuse_available("every_synced_byte_survives_kill_9") {
        return;
    }
    let seed = seed(SEED);
    eprintln!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut cluster = Cluster::start(1);
    let sources = cluster.dir().join("sources");
    fs::create_dir(&sources).expect("creates");
    let node = &mut cluster.nodes[0];
    let dir = node.mount().join("main/crash");
    fs::create_dir_all(dir.join("replaced")).expect("creates");
    fs::create_dir_all(dir.join("removed")).expect("creates");
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
    let removed = Removed { dir: dir.join("removed"), gone: AtomicU64::new(0) };
    let (source, tried, over) = (sources, AtomicU64::new(0), AtomicBool::new(false));
    let put = Put { source, tried, answered: Mutex::default() };

    // What writing meets; the rest is `campaign`'s.
    let aside = ["format", "identity", "keyring", "evict", "remove", "reclaim", "rebuild"];
    let reached: Vec<_> = POINTS
        .into_iter()
        .filter(|name| !aside.iter().any(|aside| name.starts_with(aside)))
        .collect();
    let mut died = 0;
    for round in 0..if is_long() { ROUNDS_LONG } else { ROUNDS } {
        // From hardly begun to long past the first seal.
        let run_for = Duration::from_millis(200 + random.next_u64() % 4_000);
        let seed = random.next_u64();
        let slots = || slotted.run(seed);
        let puts = || put.run(node, &over);
        let upkeep = || keep_up(node, &over);
        let by_itself = write_until_killed(
            node,
            run_for,
            &over,
            &[
                &|| growing[0].run(),
                &|| growing[1].run(),
                &slots,
                &|| replaced.run(),
                &|| removed.run(),
                &puts,
                &upkeep,
            ],
        );
        died += u64::from(by_itself);
        node.kill9();
        eprintln!("round {round}: {run_for:?}, died by itself: {by_itself}");
        node.restart();
        node.mount();
        growing.iter().for_each(Growing::check);
        slotted.check();
        replaced.check();
        removed.check();
        put.check(&dir);
        node.xorfs(&["check"]).ok();
        if round % 2 == 0 {
            // Armed only now, when starting and checking reach no point.
            node.terminate();
            node.arm(
                reached[random.next_u64() as usize % reached.len()],
                1 + random.next_u64() % 6,
            );
            node.restart();
            node.mount();
        }
    }
    eprintln!("{died} deaths at crash points");
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

/// A home in the making: whatever moment the first daemon dies at, the next one starts.
#[test]
fn a_home_is_made_whole_or_made_again() {
    let points: Vec<_> = POINTS
        .into_iter()
        .filter(|name| ["identity", "keyring", "format"].iter().any(|file| name.starts_with(file)))
        .collect();
    assert!(points.len() >= 5, "{points:?}");
    let mut cluster = Cluster::start(1);
    let work = cluster.dir().to_owned();
    let node = &mut cluster.nodes[0];
    node.terminate();
    for point in points {
        let home = work.join(point);
        let xorfs = |args: &[&str], crash: Option<&str>| {
            let mut command = Command::new(binary());
            command.arg("--home").arg(&home).args(args);
            command.envs(crash.map(|point| ("XORFS_CRASH", format!("{point}:1"))));
            run(&mut command, COMMAND_DEADLINE)
        };
        let died = xorfs(&["daemon", "--listen", "127.0.0.1:0"], Some(point));
        assert_eq!(died.code, None, "the daemon dies at {point}, where the binary has such points");
        assert!(died.stderr.contains(&format!("crash point {point}")), "{}", died.stderr);
        let identity = fs::read(home.join("identity")).ok();
        assert!(identity.as_ref().is_none_or(|bytes| bytes.len() == 32), "{point}");

        let source = work.join(format!("{point}.bin"));
        fs::write(&source, pattern(5, 1000)).expect("writes");
        xorfs(&["put", source.to_str().expect("paths of tests are text")], None).ok();
        let found = xorfs(&["cat", &format!("main:/{point}.bin")], None).ok();
        assert!(found.stdout == pattern(5, 1000), "{point}");
        let kept = fs::read(home.join("identity")).expect("it is there by now");
        assert!(identity.is_none_or(|before| before == kept), "{point}: the node kept its name");
    }
}
