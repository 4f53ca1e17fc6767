//! One suite for every store: the promises of `BlockStore`, `Inventory` and `Ledger`, as checks.
//!
//! [`suite`] states them one by one. [`Op`], [`Model`] and [`apply`] run random operations
//! against a reference that is nothing but maps; [`compare`] then asks the store everything that
//! can be asked. What a store promises across a crash or about its disk is tested beside it.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use xorfs_store::{
    BLOCK_BYTES_MAX, Batch, Block, BlockId, BlockStore, Class, Inventory, Ledger, ReadError, Table,
    WriteError,
};

/// Runs every check on a store of its own; `open` makes an empty one without a quota.
pub fn suite<S: BlockStore + Inventory + Ledger>(open: impl Fn() -> S) {
    let checks: [fn(&S); 8] = [
        blocks_of_every_length_come_back,
        what_was_never_put_is_missing,
        a_second_put_only_raises_the_class,
        pinned_blocks_are_owed_until_settled,
        walks_are_ordered_and_paged,
        removed_blocks_are_gone_from_every_figure,
        ledger_batches_apply_in_order,
        ledger_tables_and_prefixes_are_apart,
    ];
    for check in checks {
        check(&open());
    }
}

/// The block that `seed` names: bytes that differ from those of every other seed.
pub fn block(seed: u64, length: usize) -> Block {
    let mut bytes = vec![0; length];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ length as u64;
    for chunk in bytes.chunks_mut(8) {
        // splitmix64: noise that compresses no better than sealed bytes do.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let word = (word ^ (word >> 31)).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    Block::new(bytes.into()).expect("the length is in range")
}

fn blocks_of_every_length_come_back<S: BlockStore>(store: &S) {
    let lengths = [1, 100, 4095, 4096, 4097, 70_000, BLOCK_BYTES_MAX];
    let blocks: Vec<_> = lengths.iter().map(|length| block(7, *length)).collect();
    for block in &blocks {
        assert!(!store.contains(&block.id()).unwrap());
        store.put(block, Class::InRange).unwrap();
        assert!(store.contains(&block.id()).unwrap());
        assert_eq!(store.get(&block.id()).unwrap(), *block, "before a flush");
    }
    store.flush().unwrap();
    for block in &blocks {
        assert_eq!(store.get(&block.id()).unwrap(), *block, "after a flush");
    }
    store.flush().unwrap();
}

fn what_was_never_put_is_missing<S: Inventory>(store: &S) {
    let id = BlockId::of(b"never put");
    assert!(matches!(store.get(&id), Err(ReadError::Missing { id: missing }) if missing == id));
    assert!(!store.contains(&id).unwrap());
    assert_eq!(store.copies(&id).unwrap(), 0);
    store.set_copies(&id, 3, false).unwrap();
    assert_eq!(store.copies(&id).unwrap(), 0, "a block that is not held is ignored");
    store.remove(&id).unwrap();
    assert_eq!(store.usage().blocks, 0);
    assert_eq!(store.owed_totals(), (0, 0));
    assert_eq!(store.usage().quota_bytes, u64::MAX);
}

fn a_second_put_only_raises_the_class<S: Inventory>(store: &S) {
    let block = block(1, 5000);
    let bytes_by_class = || {
        let usage = store.usage();
        (usage.cached_bytes, usage.in_range_bytes, usage.pinned_bytes)
    };
    store.put(&block, Class::Cached).unwrap();
    assert_eq!(bytes_by_class(), (5000, 0, 0));
    store.put(&block, Class::InRange).unwrap();
    assert_eq!(bytes_by_class(), (0, 5000, 0));
    assert_eq!(store.owed_totals(), (0, 0));
    store.put(&block, Class::Pinned).unwrap();
    assert_eq!(bytes_by_class(), (0, 0, 5000));
    assert_eq!(store.owed_totals(), (1, 5000), "a block that becomes pinned becomes owed");
    store.put(&block, Class::Cached).unwrap();
    assert_eq!(bytes_by_class(), (0, 0, 5000));
    assert_eq!(store.usage().blocks, 1);
    assert_eq!(store.usage().used_bytes(), 5000);
}

fn pinned_blocks_are_owed_until_settled<S: Inventory>(store: &S) {
    let (pinned, held) = (block(1, 300), block(2, 6000));
    store.put(&pinned, Class::Pinned).unwrap();
    store.put(&held, Class::InRange).unwrap();
    assert_eq!(store.owed(None, 10).unwrap(), [pinned.id()]);
    store.set_copies(&pinned.id(), 3, false).unwrap();
    assert_eq!(store.copies(&pinned.id()).unwrap(), 3);
    assert_eq!(store.owed_totals(), (1, 300), "3 copies are not settled by themselves");
    store.set_copies(&pinned.id(), 5, true).unwrap();
    assert_eq!(store.copies(&pinned.id()).unwrap(), 5);
    assert_eq!(store.owed(None, 10).unwrap(), []);
    assert_eq!(store.owed_totals(), (0, 0));
    store.put(&pinned, Class::Pinned).unwrap();
    assert_eq!(store.owed_totals(), (0, 0), "a block that was pinned is not owed again");
    store.set_copies(&held.id(), 1, false).unwrap();
    assert_eq!(store.owed(None, 10).unwrap(), [held.id()], "any held block may become owed");
    assert_eq!(store.owed_totals(), (1, 6000));
}

fn walks_are_ordered_and_paged<S: Inventory>(store: &S) {
    let blocks: Vec<_> = (0..25).map(|seed| block(seed, 50 + seed as usize)).collect();
    for (n, block) in blocks.iter().enumerate() {
        store.put(block, if n % 2 == 0 { Class::Pinned } else { Class::Cached }).unwrap();
    }
    let mut all: Vec<_> = blocks.iter().map(Block::id).collect();
    all.sort_unstable();
    let mut owed: Vec<_> = blocks.iter().step_by(2).map(Block::id).collect();
    owed.sort_unstable();
    assert_eq!(paged(|after| store.ids(after, 4).unwrap()), all);
    assert_eq!(paged(|after| store.owed(after, 4).unwrap()), owed);
    assert_eq!(store.ids(None, 0).unwrap(), []);
    assert_eq!(store.ids(None, usize::MAX).unwrap(), all);
    assert_eq!(store.ids(all.last(), 4).unwrap(), []);
}

fn removed_blocks_are_gone_from_every_figure<S: Inventory>(store: &S) {
    let (gone, kept) = (block(1, 9000), block(2, 10));
    store.put(&gone, Class::Pinned).unwrap();
    store.put(&kept, Class::InRange).unwrap();
    store.flush().unwrap();
    store.remove(&gone.id()).unwrap();
    assert!(matches!(store.get(&gone.id()), Err(ReadError::Missing { .. })));
    assert!(!store.contains(&gone.id()).unwrap());
    assert_eq!(store.ids(None, 10).unwrap(), [kept.id()]);
    assert_eq!(store.owed(None, 10).unwrap(), []);
    assert_eq!(store.owed_totals(), (0, 0));
    assert_eq!(store.usage().used_bytes(), 10);
    store.put(&gone, Class::Cached).unwrap();
    assert_eq!(store.get(&gone.id()).unwrap(), gone, "a removed block can be put again");
    assert_eq!(store.owed_totals(), (0, 0));
}

fn ledger_batches_apply_in_order<S: Ledger>(store: &S) {
    let mut batch = Batch::new();
    batch.put(Table::Heads, *b"a", Bytes::from_static(b"1"));
    batch.put(Table::Journal, *b"a", Bytes::from_static(b"2"));
    batch.put(Table::Heads, *b"a", Bytes::from_static(b"3"));
    batch.delete(Table::Journal, *b"a");
    batch.put(Table::Journal, *b"b", Bytes::new());
    store.commit(batch).unwrap();
    assert_eq!(store.read(Table::Heads, b"a").unwrap(), Some(Bytes::from_static(b"3")));
    assert_eq!(store.read(Table::Journal, b"a").unwrap(), None);
    assert_eq!(store.read(Table::Journal, b"b").unwrap(), Some(Bytes::new()));
    store.commit(Batch::new()).unwrap();
}

fn ledger_tables_and_prefixes_are_apart<S: Ledger>(store: &S) {
    let keys: [&[u8]; 6] = [b"", b"a", b"a\0", b"a\xff", b"a\xff\xff", b"b"];
    let mut batch = Batch::new();
    for key in keys {
        batch.put(Table::Peers, key, key.to_vec());
    }
    store.commit(batch).unwrap();
    let scanned = |prefix: &[u8]| -> Vec<Vec<u8>> {
        let found = store.scan(Table::Peers, prefix).unwrap();
        found
            .into_iter()
            .map(|(key, value)| {
                assert_eq!(key, value);
                key
            })
            .collect()
    };
    assert_eq!(scanned(b""), keys);
    assert_eq!(scanned(b"a"), keys[1..5]);
    assert_eq!(scanned(b"a\xff"), keys[3..5]);
    assert_eq!(scanned(b"c"), keys[..0]);
    assert_eq!(store.scan(Table::Journal, b"").unwrap(), []);
    assert_eq!(store.read(Table::Heads, b"a").unwrap(), None);
}

/// Everything a paged walk gives, page after page.
fn paged(page: impl Fn(Option<&BlockId>) -> Vec<BlockId>) -> Vec<BlockId> {
    let mut all: Vec<BlockId> = Vec::new();
    loop {
        let next = page(all.last());
        if next.is_empty() {
            return all;
        }
        all.extend(next);
    }
}

/// One operation on a store. Blocks are named by a seed from a small range, so that operations
/// meet the same block again.
#[derive(Debug, Clone)]
pub enum Op {
    /// `put`.
    Put(u8, Class),
    /// `remove`.
    Remove(u8),
    /// `set_copies`.
    SetCopies(u8, u8, bool),
    /// `flush`.
    Flush,
    /// `commit`: keys, each with a value or its deletion.
    Commit(Vec<(Table, u8, Option<u8>)>),
}

/// Sequences of operations, weighted towards blocks.
pub fn ops() -> impl Strategy<Value = Vec<Op>> {
    let class = || prop::sample::select(vec![Class::Cached, Class::InRange, Class::Pinned]);
    let table = || prop::sample::select(vec![Table::Heads, Table::Journal, Table::Peers]);
    let change = (table(), 0..6_u8, any::<Option<u8>>());
    let op = prop_oneof![
        8 => (0..24_u8, class()).prop_map(|(seed, class)| Op::Put(seed, class)),
        3 => (0..24_u8).prop_map(Op::Remove),
        4 => (0..24_u8, 0..6_u8, any::<bool>())
            .prop_map(|(seed, copies, settled)| Op::SetCopies(seed, copies, settled)),
        1 => Just(Op::Flush),
        2 => prop::collection::vec(change, 0..5).prop_map(Op::Commit),
    ];
    prop::collection::vec(op, 1..60)
}

/// The block that an operation means: lengths on both sides of every threshold.
pub fn op_block(seed: u8) -> Block {
    const LENGTHS: [usize; 6] = [1, 200, 4095, 4096, 10_000, 40_000];
    block(seed.into(), LENGTHS[usize::from(seed) % LENGTHS.len()])
}

/// What a store without a quota must hold.
#[derive(Debug, Default, Clone)]
pub struct Model {
    blocks: BTreeMap<BlockId, Held>,
    records: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Held {
    block: Block,
    class: Class,
    owed: bool,
    copies: u8,
}

/// Does one operation on a store.
pub fn apply<S: Inventory + Ledger>(store: &S, op: &Op) -> Result<(), WriteError> {
    match op {
        Op::Put(seed, class) => store.put(&op_block(*seed), *class),
        Op::Remove(seed) => store.remove(&op_block(*seed).id()),
        Op::SetCopies(seed, copies, settled) => {
            store.set_copies(&op_block(*seed).id(), *copies, *settled)
        }
        Op::Flush => store.flush(),
        Op::Commit(changes) => {
            let mut batch = Batch::new();
            for (table, key, value) in changes {
                match value {
                    Some(value) => batch.put(*table, [*key], vec![*value]),
                    None => batch.delete(*table, [*key]),
                }
            }
            store.commit(batch)
        }
    }
}

impl Model {
    /// Does one operation on the model.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Put(seed, class) => {
                let block = op_block(*seed);
                let held = self.blocks.entry(block.id()).or_insert(Held {
                    block,
                    class: Class::Cached,
                    owed: false,
                    copies: 0,
                });
                if *class > held.class {
                    held.class = *class;
                    held.owed |= *class == Class::Pinned;
                }
            }
            Op::Remove(seed) => {
                self.blocks.remove(&op_block(*seed).id());
            }
            Op::SetCopies(seed, copies, settled) => {
                if let Some(held) = self.blocks.get_mut(&op_block(*seed).id()) {
                    held.copies = *copies;
                    held.owed = !settled;
                }
            }
            Op::Flush => {}
            Op::Commit(changes) => {
                for (table, key, value) in changes {
                    match value {
                        Some(value) => self.records.insert((*table, vec![*key]), vec![*value]),
                        None => self.records.remove(&(*table, vec![*key])),
                    };
                }
            }
        }
    }
}

/// Asks the store everything and compares it with the model.
pub fn compare<S: Inventory + Ledger>(store: &S, model: &Model) {
    let ids: Vec<_> = model.blocks.keys().copied().collect();
    assert_eq!(paged(|after| store.ids(after, 7).unwrap()), ids);
    let owed: Vec<_> =
        model.blocks.iter().filter(|(_, held)| held.owed).map(|(id, _)| *id).collect();
    assert_eq!(paged(|after| store.owed(after, 7).unwrap()), owed);
    let sum = |wanted: &dyn Fn(&Held) -> bool| -> u64 {
        let held = model.blocks.values().filter(|held| wanted(held));
        held.map(|held| held.block.bytes().len() as u64).sum()
    };
    assert_eq!(store.owed_totals(), (owed.len() as u64, sum(&|held| held.owed)));
    let usage = store.usage();
    assert_eq!(usage.blocks, ids.len() as u64);
    assert_eq!(usage.pinned_bytes, sum(&|held| held.class == Class::Pinned));
    assert_eq!(usage.in_range_bytes, sum(&|held| held.class == Class::InRange));
    assert_eq!(usage.cached_bytes, sum(&|held| held.class == Class::Cached));
    for seed in 0..24 {
        let block = op_block(seed);
        match model.blocks.get(&block.id()) {
            Some(held) => {
                assert_eq!(store.get(&block.id()).unwrap(), held.block);
                assert_eq!(store.copies(&block.id()).unwrap(), held.copies);
            }
            None => assert!(matches!(store.get(&block.id()), Err(ReadError::Missing { .. }))),
        }
    }
    for table in [Table::Heads, Table::Journal, Table::Peers] {
        let records: Vec<_> = model
            .records
            .iter()
            .filter(|((found, _), _)| *found == table)
            .map(|((_, key), value)| (key.clone(), Bytes::copy_from_slice(value)))
            .collect();
        assert_eq!(store.scan(table, b"").unwrap(), records);
    }
}
