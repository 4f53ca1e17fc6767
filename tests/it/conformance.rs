//! Every store against the one suite, and against each other.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use xorfs_store::{
    BlockId, BlockStore, Inventory, Local, LocalConfig, Memory, Purpose, QUOTA_BYTES_MIN,
    ReadError, WriteError,
};
use xorfs_tests::conformance::{Model, Op, apply, compare, large_ops, op_block, ops, suite};
use xorfs_tests::files::disk_usage;

/// Little memory, so that RocksDB flushes on its own, and whatever room the disk has.
fn config() -> LocalConfig {
    LocalConfig { memory_bytes: 16 << 20, disk_reserve_bytes: 0, ..LocalConfig::default() }
}

#[test]
fn memory_conforms() {
    suite(Memory::new);
}

#[test]
fn local_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let opened = std::cell::Cell::new(0);
    suite(|| {
        opened.set(opened.get() + 1);
        Local::open(&dir.path().join(opened.get().to_string()), config()).unwrap()
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_matches_the_model(ops in ops()) {
        let (store, mut model) = (Memory::new(), Model::default());
        let mut guards = Vec::new();
        for op in &ops {
            apply(&store, &mut guards, op).unwrap();
            model.apply(op);
        }
        compare(&store, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn local_matches_the_model_across_reopening(runs in prop::collection::vec(ops(), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        for ops in &runs {
            let store = Local::open(dir.path(), config()).unwrap();
            compare(&store, &model);
            let mut guards = Vec::new();
            for op in ops {
                apply(&store, &mut guards, op).unwrap();
                model.apply(op);
            }
            compare(&store, &model);
            model.reopen();
        }
        compare(&Local::open(dir.path(), config()).unwrap(), &model);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn local_under_a_quota_loses_only_what_may_go(ops in large_ops()) {
        let dir = tempfile::tempdir().unwrap();
        let config = LocalConfig { quota_bytes: Some(QUOTA_BYTES_MIN), ..config() };
        let mut store = Local::open(dir.path(), config).unwrap();
        let (mut model, mut guards) = (Model::default(), Vec::new());
        for (n, op) in ops.iter().enumerate() {
            match apply(&store, &mut guards, op) {
                Ok(()) => model.apply(op),
                Err(WriteError::Full { limit: QUOTA_BYTES_MIN, .. }) => {}
                Err(error) => prop_assert!(false, "{op:?}: {error:?}"),
            }
            model.forget_evicted(&store);
            let occupied = disk_usage(dir.path());
            prop_assert!(occupied <= QUOTA_BYTES_MIN, "{occupied} bytes after {op:?}");
            if n % 50 == 49 {
                compare(&store, &model);
                guards.clear();
                drop(store);
                store = Local::open(dir.path(), config).unwrap();
                model.reopen();
            }
        }
        compare(&store, &model);
    }
}

#[test]
fn the_reserve_of_the_disk_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::open(dir.path(), config()).unwrap();
    store.put(&op_block(1), Purpose::Cache).unwrap();
    drop(store);
    let config = LocalConfig { disk_reserve_bytes: u64::MAX, ..config() };
    let store = Local::open(dir.path(), config).unwrap();
    let refused = apply(&store, &mut Vec::new(), &Op::Put(2, Purpose::Own));
    assert!(matches!(refused, Err(WriteError::Full { .. })));
    assert!(!store.contains(&op_block(1).id()).unwrap(), "cached blocks go for a short disk");
    apply(&store, &mut Vec::new(), &Op::Commit(Vec::new())).unwrap();
    store.flush().unwrap();
}

/// Many threads on few blocks: whatever the order, every figure is the sum over what is held.
#[test]
fn figures_hold_under_threads() {
    let dir = tempfile::tempdir().unwrap();
    let config = LocalConfig { quota_bytes: Some(QUOTA_BYTES_MIN), ..config() };
    let store = Local::open(dir.path(), config).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                let mut random = ChaCha8Rng::seed_from_u64(thread);
                for _ in 0..400 {
                    let seed = random.random_range(0..24);
                    let op = match random.random_range(0..10) {
                        0..3 => Op::Put(seed, Purpose::Cache),
                        3 => Op::Put(seed, Purpose::Hold),
                        4 => Op::Put(seed, Purpose::Own),
                        5 => Op::SetCopies(seed, 3, random.random()),
                        6 => Op::Flush,
                        _ => Op::Remove(seed),
                    };
                    match apply(store, &mut Vec::new(), &op) {
                        Ok(()) | Err(WriteError::Full { .. }) => {}
                        Err(error) => panic!("{op:?}: {error:?}"),
                    }
                    let block = op_block(seed);
                    match store.get(&block.id()) {
                        Ok(read) => assert_eq!(read, block),
                        Err(error) => {
                            assert!(matches!(error, ReadError::Missing { .. }), "{error:?}")
                        }
                    }
                }
            });
        }
    });
    let sums = |ids: Vec<BlockId>| {
        let bytes = ids.iter().map(|id| store.get(id).unwrap().bytes().len() as u64).sum();
        (ids.len() as u64, bytes)
    };
    let usage = store.usage();
    assert_eq!((usage.blocks, usage.used_bytes()), sums(store.ids(None, usize::MAX).unwrap()));
    assert_eq!(store.owed_totals(), sums(store.owed(None, usize::MAX).unwrap()));
    drop(store);
    let reopened = Local::open(dir.path(), config).unwrap().usage();
    assert_eq!(
        (reopened.pinned_bytes, reopened.in_range_bytes, reopened.cached_bytes),
        (usage.pinned_bytes, usage.in_range_bytes, usage.cached_bytes)
    );
}
