//! Every store against the one suite, and against each other.

use proptest::prelude::*;
use xorfs_store::{BlockStore, Class, Inventory, Local, LocalConfig, Memory, WriteError};
use xorfs_tests::conformance::{Model, Op, apply, block, compare, op_block, ops, suite};

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
        for op in &ops {
            apply(&store, op).unwrap();
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
            for op in ops {
                apply(&store, op).unwrap();
                model.apply(op);
            }
            compare(&store, &model);
        }
        compare(&Local::open(dir.path(), config()).unwrap(), &model);
    }

    #[test]
    fn stores_agree_on_what_a_quota_evicts(ops in ops(), quota in 20_000..150_000_u64) {
        let dir = tempfile::tempdir().unwrap();
        let config = LocalConfig { quota_bytes: Some(quota), ..config() };
        let (local, memory) = (Local::open(dir.path(), config).unwrap(), Memory::with_quota(quota));
        for op in &ops {
            match (apply(&local, op), apply(&memory, op)) {
                (Ok(()), Ok(())) => {}
                (
                    Err(WriteError::Full { used, limit }),
                    Err(WriteError::Full { used: used_memory, limit: limit_memory }),
                ) => prop_assert_eq!((used, limit), (used_memory, limit_memory)),
                (local, memory) => prop_assert!(false, "{op:?}: {local:?}, {memory:?}"),
            }
            prop_assert!(local.usage().used_bytes() <= quota);
            prop_assert_eq!(local.ids(None, 100).unwrap(), memory.ids(None, 100).unwrap());
            prop_assert_eq!(local.owed_totals(), memory.owed_totals());
        }
    }
}

#[test]
fn the_oldest_cached_blocks_make_room_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let config = LocalConfig { quota_bytes: Some(10_000), ..config() };
    let store = Local::open(dir.path(), config).unwrap();
    let blocks: Vec<_> = (0..6).map(|seed| block(seed, 2500)).collect();
    store.put(&blocks[0], Class::Pinned).unwrap();
    for block in &blocks[1..4] {
        store.put(block, Class::Cached).unwrap();
    }
    store.set_copies(&blocks[1].id(), 1, false).unwrap();
    store.put(&blocks[4], Class::InRange).unwrap();
    let held: Vec<_> = blocks.iter().map(|block| store.contains(&block.id()).unwrap()).collect();
    assert_eq!(held, [true, true, false, true, true, false], "owed and pinned blocks stay");
    store.put(&blocks[5], Class::Pinned).unwrap();
    assert!(!store.contains(&blocks[3].id()).unwrap());
    let one_more = block(9, 1);
    assert!(matches!(
        store.put(&one_more, Class::Pinned),
        Err(WriteError::Full { used: 10_000, limit: 10_000 })
    ));
    assert!(!store.contains(&one_more.id()).unwrap());
    store.set_copies(&blocks[1].id(), 5, true).unwrap();
    store.put(&one_more, Class::Cached).unwrap();
    assert!(!store.contains(&blocks[1].id()).unwrap(), "settled, it is cached like any other");
}

#[test]
fn the_reserve_of_the_disk_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::open(dir.path(), config()).unwrap();
    store.put(&op_block(1), Class::Cached).unwrap();
    drop(store);
    let config = LocalConfig { disk_reserve_bytes: u64::MAX, ..config() };
    let store = Local::open(dir.path(), config).unwrap();
    let refused = apply(&store, &Op::Put(2, Class::Pinned));
    assert!(matches!(refused, Err(WriteError::Full { .. })));
    assert!(!store.contains(&op_block(1).id()).unwrap(), "cached blocks go for a short disk");
    apply(&store, &Op::Commit(Vec::new())).unwrap();
    store.flush().unwrap();
}
