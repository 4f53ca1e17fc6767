//! Space on the disk: the quota is a hard cap on what `du` counts, what goes goes in order, and
//! what was deleted is given back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use xorfs_store::gc::{Marked, Strength};
use xorfs_store::{
    Batch, Block, BlockId, BlockStore, Inventory, Ledger, Local, LocalConfig, OpenError, Purpose,
    QUOTA_BYTES_MIN, Table, WriteError,
};
use xorfs_tests::conformance::block;
use xorfs_tests::files::disk_usage;

const MIB: u64 = 1 << 20;

fn config(quota_mib: u64) -> LocalConfig {
    LocalConfig {
        quota_bytes: Some(quota_mib * MIB),
        memory_bytes: 16 << 20,
        disk_reserve_bytes: 0,
        ..LocalConfig::default()
    }
}

/// Runs `work` while another thread looks at the disk all the time. Returns the most it saw.
fn peak_of(dir: &Path, work: impl FnOnce()) -> u64 {
    let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(disk_usage(dir), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
    peak.into_inner()
}

#[test]
fn a_quota_holds_on_the_disk_whatever_is_put() {
    const QUOTA_MIB: u64 = 64;
    let dir = tempfile::tempdir().unwrap();
    let store = Local::open(dir.path(), config(QUOTA_MIB)).unwrap();
    let own: Vec<_> = (0..12).map(|n| block(n, 1 << 20)).collect();
    own.iter().for_each(|block| store.put(block, Purpose::Own).unwrap());
    store.flush().unwrap();
    let peak = peak_of(dir.path(), || {
        for n in 0..1200_u64 {
            let length = [2000, 70_000, 300_000, 1 << 20][n as usize % 4];
            let block = block(100 + n, length);
            store.put(&block, Purpose::Cache).unwrap();
            assert_eq!(store.get(&block.id()).unwrap(), block);
            if n % 10 == 0 {
                store.flush().unwrap();
                let mut batch = Batch::new();
                batch.put(Table::Journal, (n % 30).to_be_bytes(), vec![1; 60_000]);
                store.commit(batch).unwrap();
            }
        }
    });
    assert!(peak <= QUOTA_MIB * MIB, "{} MiB of {QUOTA_MIB}", peak / MIB);
    assert!(peak >= QUOTA_MIB * MIB / 2, "it is made use of: {} MiB", peak / MIB);
    let usage = store.usage();
    assert!(usage.cached_bytes >= 16 * MIB, "{usage:?}");
    assert!(usage.occupied_bytes <= usage.quota_bytes);
    for block in &own {
        assert_eq!(store.get(&block.id()).unwrap(), *block);
    }
}

#[test]
fn what_is_deleted_and_collected_leaves_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let open = LocalConfig { quota_bytes: None, ..config(0) };
    let store = Local::open(dir.path(), open).unwrap();
    let blocks: Vec<_> = (0..48).map(|n| block(n, 1 << 20)).collect();
    blocks.iter().for_each(|block| store.put(block, Purpose::Own).unwrap());
    store.flush().unwrap();
    assert!(disk_usage(dir.path()) >= 48 * MIB);
    let kept = |n: usize| n % 16 == 5;
    let marked: Marked = (blocks.iter().enumerate())
        .filter(|(n, _)| kept(*n))
        .map(|(_, block)| (block.id(), Strength::Pinned))
        .collect();
    let swept = store.sweep(store.horizon(), &marked, false).unwrap();
    assert_eq!((swept.removed_blocks, swept.removed_bytes), (45, 45 * MIB));
    assert!(store.usage().reclaimable_bytes >= 40 * MIB);
    store.reclaim().unwrap();
    let left = disk_usage(dir.path());
    assert!(left <= 12 * MIB, "{} MiB are left", left / MIB);
    assert!(store.usage().occupied_bytes <= 16 * MIB, "{:?}", store.usage());
    for (n, block) in blocks.iter().enumerate() {
        assert_eq!(store.get(&block.id()).is_ok(), kept(n));
    }
}

#[test]
fn records_that_are_no_more_leave_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let open = LocalConfig { quota_bytes: None, ..config(0) };
    let store = Local::open(dir.path(), open).unwrap();
    let key = |n: u64| n.to_be_bytes();
    for n in 0..40 {
        let mut batch = Batch::new();
        batch.put(Table::Journal, key(n), vec![n as u8; 1 << 20]);
        store.commit(batch).unwrap();
    }
    let staged = disk_usage(dir.path());
    assert!(staged >= 40 * MIB, "{} MiB", staged / MIB);
    let mut batch = Batch::new();
    (1..40).for_each(|n| batch.delete(Table::Journal, key(n)));
    store.commit(batch).unwrap();
    store.reclaim().unwrap();
    let left = disk_usage(dir.path());
    assert!(left <= 6 * MIB, "{} MiB are left", left / MIB);
    assert_eq!(store.read(Table::Journal, &key(0)).unwrap().unwrap(), vec![0; 1 << 20]);
}

#[test]
fn a_store_full_of_its_own_refuses_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::open(dir.path(), config(40)).unwrap();
    let mut own = Vec::new();
    let full = loop {
        let block = block(own.len() as u64, 1 << 20);
        match store.put(&block, Purpose::Own) {
            Ok(()) => own.push(block),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, WriteError::Full { limit, .. } if limit == 40 * MIB), "{full:?}");
    assert!(own.len() >= 20, "{} MiB fit", own.len());
    assert!(store.put(&block(1000, 1 << 20), Purpose::Cache).is_err());
    // What removing a file takes goes on: a record, and small blocks of metadata.
    let mut batch = Batch::new();
    batch.put(Table::Journal, *b"removal", vec![1; 1000]);
    store.commit(batch).unwrap();
    store.put(&block(1001, 20_000), Purpose::Own).unwrap();
    store.flush().unwrap();
    let (dropped, kept) = own.split_at(own.len() / 2);
    let marks = kept.iter().map(|block| (block.id(), Strength::Pinned));
    let marked: Marked = marks.chain([(block(1001, 20_000).id(), Strength::Pinned)]).collect();
    store.sweep(store.horizon(), &marked, false).unwrap();
    for n in 0..dropped.len() as u64 - 2 {
        store.put(&block(2000 + n, 1 << 20), Purpose::Own).unwrap();
    }
    assert!(disk_usage(dir.path()) <= 40 * MIB);
    for block in kept {
        assert_eq!(store.get(&block.id()).unwrap(), *block);
    }
}

/// Of the blocks that are evicted, each goes before the next in this order: cached ones by their
/// last use, then those that are out of range, the farthest band first.
#[test]
fn blocks_go_by_class_distance_and_use() {
    let dir = tempfile::tempdir().unwrap();
    let point = [0x55; 32];
    let store = Local::open(dir.path(), LocalConfig { point: Some(point), ..config(64) }).unwrap();
    // Leading bits shared with the point.
    let shared = |id: &BlockId| (id.as_bytes()[0] ^ 0x55).leading_zeros();
    // More than one eviction takes, of each band.
    let of_band = |band: u32| -> Vec<Block> {
        let fits = |block: &Block| shared(&block.id()).min(2) == band;
        (0..).map(|n| block(n, 1 << 20)).filter(fits).take(6).collect()
    };
    let (far, middle, near) = (of_band(0), of_band(1), of_band(2));
    let (old, used, owed) = (block(300, 1 << 20), block(301, 1 << 20), block(302, 1 << 20));
    store.put(&old, Purpose::Cache).unwrap();
    store.put(&used, Purpose::Cache).unwrap();
    store.put(&owed, Purpose::Publish).unwrap();
    let young: Vec<_> = (400..410).map(|n| block(n, 1 << 20)).collect();
    young.iter().for_each(|block| store.put(block, Purpose::Cache).unwrap());
    for block in near.iter().chain(&middle).chain(&far) {
        store.put(block, Purpose::Hold).unwrap();
    }
    store.get(&used.id()).unwrap();

    // When each block went: the number of the put that it made room for.
    let mut gone: BTreeMap<BlockId, u64> = BTreeMap::new();
    let bands = [&near, &middle, &far];
    let watched: Vec<_> =
        bands.into_iter().chain([&young]).flatten().chain([&old, &used, &owed]).collect();
    let mut fill = |first: u64| {
        for n in first.. {
            let put = store.put(&block(n, 1 << 20), Purpose::Own);
            for block in &watched {
                if !store.contains(&block.id()).unwrap() {
                    gone.entry(block.id()).or_insert(n);
                }
            }
            if put.is_err() {
                return (n, gone.clone());
            }
        }
        unreachable!("a quota is full in the end")
    };
    let (filled, first) = fill(1000);
    let at = |block: &Block| first.get(&block.id()).copied();
    assert!(at(&old).is_some() && at(&old) < at(&used), "it was used since");
    assert!(at(&young[0]).is_some() && at(&young[0]) < at(&used), "it was used since");
    assert!(young.iter().all(|block| at(block).is_some()), "every cached block has gone");
    let kept = bands.into_iter().flatten().chain([&owed]);
    assert!(kept.clone().all(|block| at(block).is_none()), "all is in range until told otherwise");

    store.set_range(2);
    let (_, second) = fill(filled + 1);
    let at = |block: &Block| second.get(&block.id()).copied();
    let last_far = far.iter().map(|block| at(block).expect("it is out of range")).max();
    let first_middle = middle.iter().map(|block| at(block).expect("it is out of range")).min();
    assert!(last_far <= first_middle, "the farthest band goes first");
    assert!(near.iter().chain([&owed]).all(|block| at(block).is_none()));
}

#[test]
fn a_quota_that_is_too_small_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = Local::open(dir.path(), config(QUOTA_BYTES_MIN / MIB - 1));
    assert!(matches!(refused, Err(OpenError::Quota { least: QUOTA_BYTES_MIN, .. })), "{refused:?}");
    Local::open(dir.path(), config(QUOTA_BYTES_MIN / MIB)).unwrap();
}
