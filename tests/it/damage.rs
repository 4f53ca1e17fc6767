//! What damage costs: each kind of file that the store keeps is damaged in each way, and what is
//! lost is exactly what `docs/format.md` says.
//!
//! The sample is a store that was opened and closed several times, so that every family has
//! tables, some of them compacted, and that was then copied while open, so that the log holds
//! what no table does.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xorfs_store::{
    Batch, Block, BlockId, BlockStore, Inventory, Ledger, Local, LocalConfig, Purpose, ReadError,
    Scrubber, Table,
};
use xorfs_tests::conformance::block;

/// Times that the store is opened, each of which makes a table of every family.
const ROUNDS: u64 = 6;

/// Records that are only in the log.
const LOGGED: u64 = 8;

fn config() -> LocalConfig {
    LocalConfig { memory_bytes: 16 << 20, disk_reserve_bytes: 0, ..LocalConfig::default() }
}

struct Sample {
    dir: TempDir,
    blocks: Vec<Block>,
}

/// A way to damage a file.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// One bit, at this share of the file in percent.
    Flip(usize),
    /// The second half goes.
    Cut,
    Delete,
}

const HARMS: [Harm; 5] = [Harm::Flip(0), Harm::Flip(50), Harm::Flip(99), Harm::Cut, Harm::Delete];

/// Records that every undamaged store has, in journal and heads.
const RECORDS: (usize, usize) = ((ROUNDS + LOGGED) as usize, ROUNDS as usize);

impl Sample {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let mut blocks = Vec::new();
        for round in 0..ROUNDS {
            let store = Local::open(&live, config()).unwrap();
            for n in 0..12 {
                blocks.push(block(round << 8 | n, if n % 3 == 0 { 700 } else { 9000 }));
                store.put(&blocks[blocks.len() - 1], Purpose::Own).unwrap();
            }
            record(&store, Table::Heads, round);
            record(&store, Table::Journal, round);
            if round == ROUNDS - 1 {
                store.flush().unwrap();
                (0..LOGGED).for_each(|n| record(&store, Table::Journal, 100 + n));
                copy_store(&live, &dir.path().join("crashed"));
            }
        }
        Self { dir, blocks }
    }

    fn files(&self, matches: &dyn Fn(&str) -> bool) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("crashed/db")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| matches(name)).collect();
        names.sort();
        assert!(!names.is_empty());
        names
    }

    /// A copy with one file damaged.
    fn harmed(&self, file: &str, harm: Harm) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_store(&self.dir.path().join("crashed"), copy.path());
        let path = copy.path().join("db").join(file);
        let mut bytes = fs::read(&path).unwrap();
        let length = bytes.len();
        match harm {
            Harm::Flip(percent) => bytes[length * percent / 100] ^= 4,
            Harm::Cut => bytes.truncate(length / 2),
            Harm::Delete => return fs::remove_file(&path).map(|()| copy).unwrap(),
        }
        fs::write(&path, bytes).unwrap();
        copy
    }

    /// The ids of the blocks that do not read. Whatever reads is right.
    fn lost(&self, store: &Local) -> BTreeSet<BlockId> {
        let read = |block: &&Block| match store.get(&block.id()) {
            Ok(read) => {
                assert_eq!(read, **block);
                false
            }
            Err(ReadError::Missing { .. } | ReadError::Corrupt { .. }) => true,
            Err(error) => panic!("{error:?}"),
        };
        self.blocks.iter().filter(read).map(Block::id).collect()
    }

    fn is_small(&self, id: &BlockId) -> bool {
        let block = self.blocks.iter().find(|block| block.id() == *id).unwrap();
        block.bytes().len() < 4096
    }

    /// The store says of itself what it lost, takes it back, and is whole then, also when it is
    /// opened again.
    fn check_mends(&self, dir: &Path, store: Local, lost: &BTreeSet<BlockId>) {
        let bad = store.bad(None, usize::MAX).unwrap();
        assert_eq!(bad.iter().map(|bad| bad.id).collect::<BTreeSet<_>>(), *lost);
        assert!(bad.iter().all(|bad| bad.owed), "why a block was held is not forgotten");
        assert_eq!(store.usage().bad_blocks, lost.len() as u64);
        assert_eq!(store.usage().blocks, (self.blocks.len() - lost.len()) as u64);
        for block in &self.blocks {
            assert_eq!(store.contains(&block.id()).unwrap(), !lost.contains(&block.id()));
            store.put(block, Purpose::Cache).unwrap();
        }
        assert_eq!(store.check_rows(false).unwrap(), 0);
        store.flush().unwrap();
        drop(store);
        let store = Local::open(dir, config()).unwrap();
        assert_eq!(store.check_rows(true).unwrap(), 0);
        assert_eq!(self.lost(&store), BTreeSet::new());
        let all: u64 = self.blocks.iter().map(|block| block.bytes().len() as u64).sum();
        let usage = store.usage();
        assert_eq!((usage.blocks, usage.bad_blocks), (self.blocks.len() as u64, 0));
        assert_eq!((usage.pinned_bytes, store.owed_totals()), (all, (usage.blocks, all)));
    }
}

fn record(store: &Local, table: Table, n: u64) {
    let mut batch = Batch::new();
    batch.put(table, n.to_be_bytes(), vec![n as u8; 400]);
    store.commit(batch).unwrap();
}

fn records(store: &Local) -> (usize, usize) {
    let count = |table| store.scan(table, b"").unwrap().len();
    (count(Table::Journal), count(Table::Heads))
}

/// Copies a store. Where a compaction removes a file meanwhile, it begins again.
fn copy_store(from: &Path, to: &Path) {
    while !copied(from, to).unwrap() {
        fs::remove_dir_all(to).unwrap();
    }
}

fn copied(from: &Path, to: &Path) -> io::Result<bool> {
    fs::create_dir_all(to.join("db"))?;
    fs::copy(from.join("format"), to.join("format"))?;
    for entry in fs::read_dir(from.join("db"))? {
        let path: PathBuf = entry?.path();
        match fs::copy(&path, to.join("db").join(path.file_name().unwrap())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            copied => copied?,
        };
    }
    Ok(true)
}

#[test]
fn a_damaged_table_costs_what_lies_in_it_alone() {
    let sample = Sample::new();
    let (mut blocks, mut entries) = (0, 0);
    let tables = sample.files(&|name| name.ends_with(".sst"));
    for (n, table) in tables.iter().enumerate() {
        let harm = HARMS[n % HARMS.len()];
        let dir = sample.harmed(table, harm);
        let store = Local::open(dir.path(), config()).unwrap();
        let lost = sample.lost(&store);
        assert!(lost.iter().all(|id| sample.is_small(id)) || lost.len() == 1, "{table} {harm:?}");
        let (journal, heads) = records(&store);
        let missed = RECORDS.0 - journal + RECORDS.1 - heads;
        assert!(missed <= 1, "each table of the ledger has one record: {table} {harm:?}");
        assert!(lost.is_empty() || missed == 0, "{table} {harm:?}");
        blocks += usize::from(!lost.is_empty());
        entries += missed;
        sample.check_mends(dir.path(), store, &lost);
    }
    assert!(blocks > 0 && entries > 0, "of {} tables", tables.len());
}

#[test]
fn a_damaged_blob_file_costs_the_damaged_blocks_alone() {
    let sample = Sample::new();
    let files = sample.files(&|name| name.ends_with(".blob"));
    // Eight blocks of 9,000 bytes lie in each.
    let costs = [(Harm::Flip(0), 0..=0), (Harm::Flip(55), 1..=1), (Harm::Flip(99), 1..=1)];
    let costs = costs.into_iter().chain([(Harm::Cut, 4..=5), (Harm::Delete, 8..=8)]);
    for (file, (harm, expected)) in files.iter().zip(costs) {
        let dir = sample.harmed(file, harm);
        let store = Local::open(dir.path(), config()).unwrap();
        let lost = sample.lost(&store);
        assert!(expected.contains(&lost.len()), "{file} {harm:?}: {}", lost.len());
        assert!(lost.iter().all(|id| matches!(store.get(id), Err(ReadError::Missing { .. }))));
        assert_eq!(records(&store), RECORDS);
        sample.check_mends(dir.path(), store, &lost);
    }
}

#[test]
fn a_rebuild_that_was_asked_for_finds_damaged_blobs() {
    let sample = Sample::new();
    let file = &sample.files(&|name| name.ends_with(".blob"))[0];
    let dir = sample.harmed(file, Harm::Flip(55));
    fs::write(dir.path().join("suspect"), "blobs\n").unwrap();
    let store = Local::open(dir.path(), config()).unwrap();
    assert!(!dir.path().join("suspect").exists());
    assert_eq!(store.usage().bad_blocks, 1, "before anything was read");
    let lost = sample.lost(&store);
    assert_eq!((lost.len(), records(&store)), (1, RECORDS));
    sample.check_mends(dir.path(), store, &lost);
}

#[test]
fn what_only_leads_to_the_rest_costs_nothing() {
    let sample = Sample::new();
    let leads = |name: &str| !name.contains('.') && !name.starts_with("LO");
    for file in sample.files(&leads) {
        for harm in HARMS {
            let dir = sample.harmed(&file, harm);
            let store = Local::open(dir.path(), config())
                .unwrap_or_else(|error| panic!("{file} {harm:?}: {error:?}"));
            assert_eq!(sample.lost(&store), BTreeSet::new(), "{file} {harm:?}");
            assert_eq!(records(&store), RECORDS, "{file} {harm:?}");
            assert_eq!(store.usage().bad_blocks, 0, "{file} {harm:?}");
        }
    }
}

#[test]
fn a_damaged_log_costs_what_came_after() {
    let sample = Sample::new();
    let logs = sample.files(&|name| name.ends_with(".log"));
    for harm in HARMS {
        let dir = sample.harmed(logs.last().unwrap(), harm);
        let store = Local::open(dir.path(), config()).unwrap();
        // Blocks and rows of the last round were in the log and go together.
        assert_eq!(store.usage().bad_blocks, 0, "{harm:?}");
        assert!(sample.lost(&store).len() <= 12, "{harm:?}");
        let journal = store.scan(Table::Journal, b"").unwrap();
        let expected: Vec<_> = (0..ROUNDS).chain(100..100 + LOGGED).collect();
        let keys = journal.iter().map(|(key, _)| u64::from_be_bytes(key[..].try_into().unwrap()));
        assert!(keys.eq(expected[..journal.len()].iter().copied()), "a prefix: {harm:?}");
    }
}

#[test]
fn a_store_that_does_not_read_at_all_is_left_alone() {
    let sample = Sample::new();
    let copy = tempfile::tempdir().unwrap();
    copy_store(&sample.dir.path().join("crashed"), copy.path());
    let tables = sample.files(&|name| name.ends_with(".sst"));
    for table in &tables {
        let path = copy.path().join("db").join(table);
        let mut bytes = fs::read(&path).unwrap();
        bytes.reverse();
        fs::write(&path, bytes).unwrap();
    }
    Local::open(copy.path(), config()).unwrap_err();
    assert!(tables.iter().all(|table| copy.path().join("db").join(table).exists()));
}

#[test]
fn the_scrub_finds_what_nobody_reads_and_goes_on_after_a_restart() {
    let sample = Sample::new();
    let file = &sample.files(&|name| name.ends_with(".blob"))[0];
    let dir = sample.harmed(file, Harm::Flip(55));
    let (now, all) = (Instant::now(), sample.blocks.len() as u64);
    let (mut seen, mut bad, mut opened) = (0, 0, 0);
    let mut ended = false;
    while !ended {
        // A step of one block; the first of an opening notes where it is.
        let store = Local::open(dir.path(), config()).unwrap();
        opened += 1;
        let step = store.scrub_step(now, 1).unwrap();
        (seen, bad, ended) = (seen + step.blocks, bad + step.bad, step.round_ended);
        assert_eq!(store.usage().bad_blocks, bad);
        if opened == 3 {
            let rest = store.scrub_step(now + Duration::from_secs(61), u64::MAX).unwrap();
            (seen, bad, ended) = (seen + rest.blocks, bad + rest.bad, rest.round_ended);
        }
    }
    assert_eq!((seen, bad, opened), (all, 1, 3));
    let store = Arc::new(Local::open(dir.path(), config()).unwrap());
    let again = store.scrub_step(now, u64::MAX).unwrap();
    assert_eq!((again.blocks, again.bad, again.round_ended), (all - 1, 0, true));
    // The thread neither keeps the store open nor its owner waiting.
    let scrubber = Scrubber::start(&store).unwrap();
    drop(scrubber);
    drop(Arc::into_inner(store).expect("nobody else has it"));
}

/// RocksDB copies live blobs when it gives space back, and fails over a damaged one. Writing ends
/// then, and goes on with the next opening, which has found the block.
#[test]
fn damage_that_space_reclaiming_meets_ends_writing_once() {
    if !xorfs_tests::effort::is_long() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let blocks: Vec<_> = (0..120).map(|n| block(n, 1 << 20)).collect();
    let store = Local::open(dir.path(), config()).unwrap();
    for (n, block) in blocks.iter().enumerate() {
        store.put(block, Purpose::Hold).unwrap();
        if n % 16 == 15 {
            store.flush().unwrap();
        }
    }
    drop(store);
    let files = fs::read_dir(dir.path().join("db")).unwrap().map(|entry| entry.unwrap().path());
    let oldest = files.filter(|path| path.extension().is_some_and(|end| end == "blob")).min();
    let oldest = oldest.unwrap();
    let mut bytes = fs::read(&oldest).unwrap();
    // A byte of every block in the file.
    (600..bytes.len() - 1000).step_by((1 << 20) + 64).for_each(|at| bytes[at] ^= 1);
    fs::write(&oldest, bytes).unwrap();

    let store = Local::open(dir.path(), config()).unwrap();
    for block in blocks.iter().enumerate().filter(|(n, _)| n % 8 != 0).map(|(_, block)| block) {
        store.remove(&block.id()).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while store.put(&block(1000, 5000), Purpose::Own).and_then(|()| store.flush()).is_ok() {
        assert!(Instant::now() < deadline, "a pass meets the damage");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(store);
    let store = Local::open(dir.path(), config()).unwrap();
    assert!(store.usage().bad_blocks > 0);
    while store.usage().reclaimable_bytes > 64 << 20 {
        store.put(&block(1001, 5000), Purpose::Own).unwrap();
        assert!(Instant::now() < deadline, "space is given back");
        std::thread::sleep(Duration::from_millis(20));
    }
    store.flush().unwrap();
}
