//! The local store against what disks and processes do: SIGKILL, failed writes, damaged files,
//! a second process, a newer version.
//!
//! Where a process has to die, a test starts this binary again with one of the `child_` tests
//! below (see [`Child`]).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use xorfs_store::{
    Batch, Block, BlockStore, Inventory, Ledger, Local, LocalConfig, OpenError, Purpose, ReadError,
    Table, WriteError,
};
use xorfs_tests::child::{Child, parse, tell, told};
use xorfs_tests::conformance::block;

fn config() -> LocalConfig {
    LocalConfig { memory_bytes: 16 << 20, disk_reserve_bytes: 0, ..LocalConfig::default() }
}

/// The number in a line with which a child says what was promised to it.
fn acknowledged(line: &str) -> Option<u64> {
    parse(line).map(|(_, number)| number)
}

/// What step `step` of the crash writer does is a function of the seed, so that the parent knows
/// what to look for.
struct Step {
    blocks: Vec<(Block, Purpose)>,
    /// The first block of this earlier step is removed.
    removes: Option<u64>,
}

impl Step {
    fn of(seed: u64, step: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed << 32 | step);
        let blocks = (0..random.random_range(1..if step % 7 == 6 { 10 } else { 5 }))
            .map(|n| {
                // Most steps are small enough for the log, some are not.
                let length = random.random_range(1..if step % 7 == 6 { 1 << 20 } else { 200_000 });
                let class = match random.random_range(0..3) {
                    0 => Purpose::Cache,
                    1 => Purpose::Hold,
                    _ => Purpose::Own,
                };
                (block(seed << 40 | step << 8 | n, length), class)
            })
            .collect();
        Self { blocks, removes: (step % 5 == 4).then(|| step - 3) }
    }
}

#[test]
fn child_writes_until_killed() {
    let Some(Child { dir, seed }) = Child::wanted() else { return };
    let store = Local::open(&dir, config()).unwrap();
    for step in 0.. {
        let Step { blocks, removes } = Step::of(seed, step);
        for (block, class) in &blocks {
            store.put(block, *class).unwrap();
        }
        store.set_copies(&blocks[0].0.id(), 3, step % 2 == 0).unwrap();
        if let Some(earlier) = removes {
            store.remove(&Step::of(seed, earlier).blocks[0].0.id()).unwrap();
        }
        store.flush().unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Heads, *b"newest", step.to_be_bytes().to_vec());
        batch.put(Table::Journal, step.to_be_bytes(), vec![7; 2000]);
        store.commit(batch).unwrap();
        tell("acknowledged", step);
    }
}

#[test]
fn what_was_acknowledged_survives_sigkill() {
    for seed in 1..=6 {
        let dir = tempfile::tempdir().unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut child =
            Child::command("local::child_writes_until_killed", dir.path(), seed).spawn().unwrap();
        let mut promises = told(&mut child).map(|(_, step)| step);
        let wanted = random.random_range(1..40);
        let mut acked = None;
        while acked.is_none_or(|acked| acked < wanted) {
            acked = Some(promises.next().expect("the child goes on until killed"));
        }
        // Somewhere inside a later step, not between two.
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let acked = promises.last().or(acked).unwrap();
        check_after_crash(&Local::open(dir.path(), config()).unwrap(), seed, acked);
    }
}

fn check_after_crash(store: &Local, seed: u64, acked: u64) {
    let newest = store.read(Table::Heads, b"newest").unwrap().expect("a head was acknowledged");
    let newest = u64::from_be_bytes((*newest).try_into().unwrap());
    assert!(newest >= acked, "seed {seed}: step {acked} was acknowledged, {newest} is there");
    let journal = store.scan(Table::Journal, b"").unwrap();
    let keys: Vec<_> = (0..=newest).map(|step| step.to_be_bytes().to_vec()).collect();
    assert!(journal.iter().map(|(key, _)| key).eq(&keys), "seed {seed}: batches are whole");

    // The newest head is there, so everything flushed before it is, acknowledged or not.
    let removed: BTreeSet<_> = (0..=newest + 1).filter_map(|s| Step::of(seed, s).removes).collect();
    for step in 0..=newest {
        for (n, (block, _)) in Step::of(seed, step).blocks.iter().enumerate() {
            let read = store.get(&block.id());
            match read {
                Ok(read) => assert_eq!(read, *block),
                // A removal may be lost or not; nothing else may be missing.
                Err(ReadError::Missing { .. }) if n == 0 && removed.contains(&step) => {}
                Err(error) => panic!("seed {seed} step {step}: {error:?}"),
            }
        }
    }
    check_consistency(store);
}

/// Every row has its block, and the counters are the sums over the rows.
fn check_consistency(store: &Local) {
    let ids = store.ids(None, usize::MAX).unwrap();
    let lengths: Vec<_> =
        ids.iter().map(|id| store.get(id).unwrap().bytes().len() as u64).collect();
    let usage = store.usage();
    assert_eq!((usage.blocks, usage.used_bytes()), (ids.len() as u64, lengths.iter().sum()));
    let owed = store.owed(None, usize::MAX).unwrap();
    let owed_bytes = owed.iter().map(|id| store.get(id).unwrap().bytes().len() as u64).sum();
    assert_eq!(store.owed_totals(), (owed.len() as u64, owed_bytes));
}

/// Under a limit on the size of a file a flush fails as on a broken disk: not with `ENOSPC`.
#[test]
fn child_meets_a_failing_disk() {
    let Some(Child { dir, .. }) = Child::wanted() else { return };
    let store = Local::open(&dir, config()).unwrap();
    store.put(&block(1, 100_000), Purpose::Own).unwrap();
    store.flush().unwrap();
    let limit = libc::rlimit { rlim_cur: 200_000, rlim_max: 200_000 };
    // SAFETY: both calls only change limits of this child process; the struct outlives the call.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
    store.put(&block(2, 500_000), Purpose::Own).unwrap();
    assert!(matches!(store.flush(), Err(WriteError::Io(_))));
    let refused = |result| matches!(result, Err(WriteError::Poisoned { reason }) if reason.contains("File too large"));
    assert!(refused(store.flush()));
    assert!(refused(store.put(&block(3, 10), Purpose::Cache)));
    assert!(refused(store.remove(&block(1, 100_000).id())));
    assert!(refused(store.set_copies(&block(1, 100_000).id(), 1, true)));
    assert!(refused(store.commit(Batch::new())));
    assert_eq!(store.get(&block(1, 100_000).id()).unwrap(), block(1, 100_000), "reads go on");
    tell("acknowledged", 1);
    // As a crash would: what is not on the disk now never gets there.
    std::process::exit(0);
}

#[test]
fn a_failed_write_stops_writes_until_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let output = Child::command("local::child_meets_a_failing_disk", dir.path(), 0)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.lines().any(|line| acknowledged(line) == Some(1)), "{output:?}");
    let store = Local::open(dir.path(), config()).unwrap();
    assert_eq!(store.get(&block(1, 100_000).id()).unwrap(), block(1, 100_000));
    assert!(matches!(store.get(&block(2, 500_000).id()), Err(ReadError::Missing { .. })));
    check_consistency(&store);
    store.put(&block(2, 500_000), Purpose::Own).unwrap();
    store.flush().unwrap();
}

/// Files of the store with this ending.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect();
    found.sort();
    found
}

#[test]
fn a_damaged_file_never_reads_as_wrong_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let blocks: Vec<_> = (0..60).map(|n| block(n, if n % 3 == 0 { 700 } else { 9000 })).collect();
    {
        let store = Local::open(dir.path(), config()).unwrap();
        for block in &blocks {
            store.put(block, Purpose::Own).unwrap();
        }
        store.flush().unwrap();
    }
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut corrupt = 0;
    for (ending, flips) in [("blob", 12), ("sst", 24)] {
        for _ in 0..flips {
            // Opening may rewrite files, so each flip gets a copy of its own.
            let copy = copy_of_store(dir.path());
            let files = files(copy.path(), ending);
            let file = &files[random.random_range(0..files.len())];
            let mut damaged = fs::read(file).unwrap();
            let at = random.random_range(0..damaged.len());
            damaged[at] ^= 1 << random.random_range(0..8);
            fs::write(file, damaged).unwrap();
            let store = Local::open(copy.path(), config()).unwrap();
            corrupt += damaged_reads(&store, &blocks);
            blocks.iter().for_each(|block| store.put(block, Purpose::Own).unwrap());
            assert_eq!(damaged_reads(&store, &blocks), 0, "putting a block mends it");
        }
        assert!(corrupt >= 6, "many flips hit a block: {corrupt}");
    }
    assert_eq!(damaged_reads(&Local::open(dir.path(), config()).unwrap(), &blocks), 0);
}

fn copy_of_store(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::copy(dir.join("format"), copy.path().join("format")).unwrap();
    fs::create_dir(copy.path().join("db")).unwrap();
    for entry in fs::read_dir(dir.join("db")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join("db").join(entry.file_name())).unwrap();
    }
    copy
}

/// Reads every block: right, or an error. Returns the number of errors.
fn damaged_reads(store: &Local, blocks: &[Block]) -> usize {
    let mut damaged = 0;
    for block in blocks {
        match store.get(&block.id()) {
            Ok(read) => assert_eq!(read, *block),
            // Damage that is met when the store is opened is set aside by then.
            Err(ReadError::Corrupt { id, .. } | ReadError::Missing { id }) if id == block.id() => {
                damaged += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    damaged
}

#[test]
fn a_newer_store_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    drop(Local::open(dir.path(), config()).unwrap());
    let format = dir.path().join("format");
    assert_eq!(fs::read_to_string(&format).unwrap(), "xorfs store format 1\n");
    fs::write(&format, "xorfs store format 2\n").unwrap();
    let before = files(dir.path(), "log");
    let refused = Local::open(dir.path(), config());
    assert!(matches!(refused, Err(OpenError::Newer { found: 2, known: 1 })), "{refused:?}");
    assert_eq!(files(dir.path(), "log"), before);
    for text in ["", "xorfs store format 0\n", "xorfs store format x\n", "something else"] {
        fs::write(&format, text).unwrap();
        let refused = Local::open(dir.path(), config());
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{text:?}: {refused:?}");
    }
    fs::remove_file(&format).unwrap();
    let refused = Local::open(dir.path(), config());
    assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{refused:?}");
}

#[test]
fn a_store_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::open(dir.path(), config()).unwrap();
    assert!(matches!(Local::open(dir.path(), config()), Err(OpenError::Locked)));
    drop(store);
    Local::open(dir.path(), config()).unwrap();
}

/// Bytes of all blob files.
fn blob_bytes(dir: &Path) -> u64 {
    files(dir, "blob").iter().map(|file| fs::metadata(file).map_or(0, |file| file.len())).sum()
}

#[test]
fn the_space_of_forgotten_blocks_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::open(dir.path(), config()).unwrap();
    let blocks = || (0..160).map(|n| block(n, 1 << 20));
    for (n, block) in blocks().enumerate() {
        store.put(&block, Purpose::Hold).unwrap();
        if n % 16 == 15 {
            store.flush().unwrap();
        }
    }
    assert!(blob_bytes(dir.path()) >= 160 << 20);
    for (n, block) in blocks().enumerate() {
        if n % 4 != 0 {
            store.remove(&block.id()).unwrap();
        }
    }
    // 40 MiB are alive, and 64 MiB of garbage are allowed.
    let deadline = Instant::now() + Duration::from_secs(60);
    while blob_bytes(dir.path()) > 120 << 20 {
        assert!(Instant::now() < deadline, "{} are left", blob_bytes(dir.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
    for block in blocks().step_by(4) {
        assert_eq!(store.get(&block.id()).unwrap(), block);
    }
    check_consistency(&store);
}

/// Puts and reads as many times 16 MiB as the seed says, and acknowledges its peak of memory.
#[test]
fn child_fills_a_store() {
    let Some(Child { dir, seed: rounds }) = Child::wanted() else { return };
    let store = Local::open(&dir, LocalConfig::default()).unwrap();
    let mut bytes = block(0, 1 << 18).bytes().to_vec();
    let mut ids = Vec::new();
    let (mut putting, mut getting) = (Duration::ZERO, Duration::ZERO);
    for n in 0..rounds * 64 {
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        let block = Block::new(bytes.clone().into()).unwrap();
        ids.push(block.id());
        let start = Instant::now();
        store.put(&block, Purpose::Own).unwrap();
        putting += start.elapsed();
    }
    let start = Instant::now();
    store.flush().unwrap();
    putting += start.elapsed();
    for id in &ids {
        let start = Instant::now();
        store.get(id).unwrap();
        getting += start.elapsed();
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let mib = (rounds * 16) as f64;
    writeln!(
        std::io::stderr(),
        "{mib} MiB in blocks of 256 KiB: put and flush {:.0} MiB/s, get {:.0} MiB/s, peak {} MiB",
        mib / putting.as_secs_f64(),
        mib / getting.as_secs_f64(),
        peak_kib / 1024
    )
    .unwrap();
    tell("acknowledged", peak_kib);
}

#[test]
fn memory_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    // Four times what the settings allow in memory.
    let output = Child::command("local::child_fills_a_store", dir.path(), 32)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let peak_kib = text.lines().find_map(acknowledged).expect("the child ended well");
    assert!(peak_kib < 256 << 10, "{peak_kib} KiB");
}

/// Runs on a disk of 64 MiB of its own.
#[test]
fn child_meets_a_full_disk() {
    let Some(Child { dir, .. }) = Child::wanted() else { return };
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![1; 16 << 20]).unwrap();
    let store = Local::open(&dir.join("store"), config()).unwrap();
    let mut flushed = Vec::new();
    let full = (0..).find_map(|n| {
        let block = block(n, 1 << 20);
        let error = store.put(&block, Purpose::Own).and_then(|()| store.flush()).err();
        flushed.push(block);
        error
    });
    assert!(matches!(full, Some(WriteError::Full { .. })), "{full:?}");
    flushed.pop();
    assert!(flushed.len() >= 20, "{} MiB fit", flushed.len());
    for block in &flushed {
        assert_eq!(store.get(&block.id()).unwrap(), *block);
    }
    let record = |n: u64| {
        let mut batch = Batch::new();
        batch.put(Table::Journal, n.to_be_bytes(), vec![n as u8; 100_000]);
        store.commit(batch)
    };
    let (committed, full) = (0..).find_map(|n| Some((n, record(n).err()?))).unwrap();
    assert!(matches!(full, WriteError::Full { .. }), "{full:?}");
    fs::remove_file(&ballast).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let late = block(1000, 1 << 20);
    while let Err(error) = store.put(&late, Purpose::Own).and_then(|()| store.flush()) {
        assert!(matches!(error, WriteError::Full { .. }), "{error:?}");
        assert!(Instant::now() < deadline, "writes resume when there is room");
        std::thread::sleep(Duration::from_millis(50));
    }
    flushed.push(late);
    record(committed + 1).unwrap();
    drop(store);
    let store = Local::open(&dir.join("store"), config()).unwrap();
    for block in &flushed {
        assert_eq!(store.get(&block.id()).unwrap(), *block);
    }
    for n in (0..committed).chain([committed + 1]) {
        assert!(store.read(Table::Journal, &n.to_be_bytes()).unwrap().is_some(), "record {n}");
    }
    check_consistency(&store);
    tell("acknowledged", 1);
}

#[test]
fn a_full_disk_is_an_answer_and_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let child = Child::command("local::child_meets_a_full_disk", dir.path(), 0);
    // The mount is seen by the child alone and ends with it.
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=64m xorfs-test \"$0\" || exit 99; exec \"$@\"")
        .arg(dir.path())
        .arg(child.get_program())
        .args(child.get_args())
        .envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = match command.output() {
        Ok(output) if output.status.code() != Some(99) && !refused_namespace(&output) => output,
        other => {
            let mut err = std::io::stderr();
            writeln!(err, "SKIPPED: no disk of its own for this test: {other:?}").unwrap();
            return;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.lines().any(|line| acknowledged(line) == Some(1)), "{output:?}");
}

/// Whether `unshare` itself failed, before anything ran.
fn refused_namespace(output: &std::process::Output) -> bool {
    String::from_utf8_lossy(&output.stderr).starts_with("unshare: ")
}
