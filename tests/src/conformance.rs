//! One suite for every store: the promises of `BlockStore`, `Inventory` and `Ledger`, as checks.
//!
//! [`suite`] states them one by one. [`Op`], [`Model`] and [`apply`] run random operations
//! against a reference that is nothing but maps; [`compare`] then asks the store everything that
//! can be asked. What a store promises across a crash or about its disk is tested beside it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;
use xorfs_store::gc::{Marked, Strength, Swept};
use xorfs_store::{
    BLOCK_BYTES_MAX, Batch, Block, BlockId, BlockStore, Class, Inventory, Ledger, PieceHash,
    PiecePlace, Purpose, ReadError, Table, WriteError, WriteGuard,
};

/// Runs every check on a store of its own; `open` makes an empty one without a quota.
pub fn suite<S: BlockStore + Inventory + Ledger>(open: impl Fn() -> S) {
    let checks: [fn(&S); 15] = [
        blocks_of_every_length_come_back,
        what_was_never_put_is_missing,
        a_second_put_only_raises_the_class,
        pinned_blocks_are_owed_until_settled,
        what_the_network_needs_no_more_goes_unless_it_is_ours,
        walks_are_ordered_and_paged,
        removed_blocks_are_gone_from_every_figure,
        purposes_add_up,
        published_blocks_are_owed_and_not_pinned,
        a_sweep_does_what_the_marks_say,
        a_sweep_leaves_work_in_flight_alone,
        the_journal_is_what_is_staged,
        pieces_are_found_where_they_were_noted_last,
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
        store.put(block, Purpose::Hold).unwrap();
        assert!(store.contains(&block.id()).unwrap());
        assert_eq!(store.get(&block.id()).unwrap(), *block, "before a flush");
    }
    store.flush().unwrap();
    for block in &blocks {
        assert_eq!(store.get(&block.id()).unwrap(), *block, "after a flush");
    }
    store.flush().unwrap();
}

fn pieces_are_found_where_they_were_noted_last<S: Inventory>(store: &S) {
    let hash = |seed| PieceHash::from_bytes([seed; 16]);
    let place = |block: &Block, at: u8| {
        let bytes = [block.id().as_bytes().as_slice(), &[at; 12]].concat();
        PiecePlace::decode(&bytes).expect("the length is right")
    };
    let (one, two) = (block(1, 5_000), block(2, 5_000));
    for block in [&one, &two] {
        store.put(block, Purpose::Own).unwrap();
    }
    assert_eq!(store.find_piece(&hash(1)).unwrap(), None);
    store.note_pieces(&[(hash(1), place(&one, 1)), (hash(2), place(&one, 2))]).unwrap();
    store.note_pieces(&[(hash(1), place(&two, 3))]).unwrap();
    store.note_pieces(&[]).unwrap();
    assert_eq!(store.find_piece(&hash(1)).unwrap(), Some(place(&two, 3)));
    assert_eq!(store.find_piece(&hash(2)).unwrap(), Some(place(&one, 2)));
    store.flush().unwrap();
    // A collection that keeps the second block alone takes the entries of the first with it.
    let marked: Marked = [(two.id(), Strength::Pinned)].into_iter().collect();
    store.sweep(store.horizon(), &marked, false).unwrap();
    assert_eq!(store.find_piece(&hash(1)).unwrap(), Some(place(&two, 3)));
    assert_eq!(store.find_piece(&hash(2)).unwrap(), None);
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
    store.put(&block, Purpose::Cache).unwrap();
    assert_eq!(bytes_by_class(), (5000, 0, 0));
    store.put(&block, Purpose::Hold).unwrap();
    assert_eq!(bytes_by_class(), (0, 5000, 0));
    assert_eq!(store.owed_totals(), (0, 0));
    store.put(&block, Purpose::Own).unwrap();
    assert_eq!(bytes_by_class(), (0, 0, 5000));
    assert_eq!(store.owed_totals(), (1, 5000), "a block that becomes pinned becomes owed");
    store.put(&block, Purpose::Cache).unwrap();
    assert_eq!(bytes_by_class(), (0, 0, 5000));
    assert_eq!(store.usage().blocks, 1);
    assert_eq!(store.usage().used_bytes(), 5000);
}

fn what_the_network_needs_no_more_goes_unless_it_is_ours<S: Inventory>(store: &S) {
    let blocks = [block(1, 300), block(2, 6000), block(3, 70)];
    for (block, purpose) in blocks.iter().zip([Purpose::Hold, Purpose::Own, Purpose::Cache]) {
        store.put(block, purpose).unwrap();
    }
    store.put(&blocks[1], Purpose::Hold).unwrap();
    let class = |block: &Block| store.class(&block.id()).unwrap();
    let classes = [Some(Class::InRange), Some(Class::Pinned), Some(Class::Cached)];
    assert_eq!(blocks.each_ref().map(class), classes);
    assert_eq!(class(&block(4, 9)), None);
    let gone = blocks.each_ref().map(|block| store.vacate(&block.id()).unwrap());
    assert_eq!(gone, [true, false, false]);
    assert_eq!(blocks.each_ref().map(class), [None, Some(Class::Pinned), Some(Class::Cached)]);
    assert_eq!((store.usage().in_range_bytes, store.owed_totals()), (0, (1, 6000)));
    assert!(!store.vacate(&blocks[0].id()).unwrap());
}

fn pinned_blocks_are_owed_until_settled<S: Inventory>(store: &S) {
    let (pinned, held) = (block(1, 300), block(2, 6000));
    store.put(&pinned, Purpose::Own).unwrap();
    store.put(&held, Purpose::Hold).unwrap();
    assert_eq!(store.owed(None, 10).unwrap(), [pinned.id()]);
    store.set_copies(&pinned.id(), 3, false).unwrap();
    assert_eq!(store.copies(&pinned.id()).unwrap(), 3);
    assert_eq!(store.owed_totals(), (1, 300), "3 copies are not settled by themselves");
    store.set_copies(&pinned.id(), 5, true).unwrap();
    assert_eq!(store.copies(&pinned.id()).unwrap(), 5);
    assert_eq!(store.owed(None, 10).unwrap(), []);
    assert_eq!(store.owed_totals(), (0, 0));
    store.put(&pinned, Purpose::Own).unwrap();
    assert_eq!(store.owed_totals(), (0, 0), "a block that was pinned is not owed again");
    store.set_copies(&held.id(), 1, false).unwrap();
    assert_eq!(store.owed(None, 10).unwrap(), [held.id()], "any held block may become owed");
    assert_eq!(store.owed_totals(), (1, 6000));
}

fn walks_are_ordered_and_paged<S: Inventory>(store: &S) {
    let blocks: Vec<_> = (0..25).map(|seed| block(seed, 50 + seed as usize)).collect();
    for (n, block) in blocks.iter().enumerate() {
        store.put(block, if n % 2 == 0 { Purpose::Own } else { Purpose::Cache }).unwrap();
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
    store.put(&gone, Purpose::Own).unwrap();
    store.put(&kept, Purpose::Hold).unwrap();
    store.flush().unwrap();
    store.remove(&gone.id()).unwrap();
    assert!(matches!(store.get(&gone.id()), Err(ReadError::Missing { .. })));
    assert!(!store.contains(&gone.id()).unwrap());
    assert_eq!(store.ids(None, 10).unwrap(), [kept.id()]);
    assert_eq!(store.owed(None, 10).unwrap(), []);
    assert_eq!(store.owed_totals(), (0, 0));
    assert_eq!(store.usage().used_bytes(), 10);
    store.put(&gone, Purpose::Cache).unwrap();
    assert_eq!(store.get(&gone.id()).unwrap(), gone, "a removed block can be put again");
    assert_eq!(store.owed_totals(), (0, 0));
}

fn purposes_add_up<S: Inventory>(store: &S) {
    let all = [Purpose::Cache, Purpose::Hold, Purpose::Publish, Purpose::Own, Purpose::Pin];
    for (n, first) in all.into_iter().enumerate() {
        for (m, second) in all.into_iter().enumerate() {
            let block = block((n * 10 + m) as u64, 100);
            store.put(&block, first).unwrap();
            store.put(&block, second).unwrap();
            let (usage, either) = (store.usage(), [first, second]);
            let pinned = either.contains(&Purpose::Own) || either.contains(&Purpose::Pin);
            let held = !pinned && either.contains(&Purpose::Hold);
            assert_eq!(usage.pinned_bytes, u64::from(pinned) * 100, "{either:?}");
            assert_eq!(usage.in_range_bytes, u64::from(held) * 100, "{either:?}");
            let owed = either.iter().any(|purpose| purpose.publishes());
            assert_eq!(store.owed_totals().0, u64::from(owed), "{either:?}");
            store.remove(&block.id()).unwrap();
        }
    }
}

fn published_blocks_are_owed_and_not_pinned<S: Inventory>(store: &S) {
    let block = block(1, 700);
    store.put(&block, Purpose::Publish).unwrap();
    assert_eq!((store.usage().cached_bytes, store.owed_totals()), (700, (1, 700)));
    store.set_copies(&block.id(), 5, true).unwrap();
    store.put(&block, Purpose::Publish).unwrap();
    assert_eq!(store.owed_totals(), (0, 0), "it was replicated before");
    store.put(&block, Purpose::Own).unwrap();
    assert_eq!((store.usage().pinned_bytes, store.owed_totals()), (700, (1, 700)));
}

/// Blocks by what was done with them, and what a sweep makes of them: pinned, in range or cached,
/// owed or not; `None` where they go.
#[expect(clippy::type_complexity, reason = "a table that is read as one")]
const FATES: [(&[Purpose], bool, Option<Strength>, Option<(char, bool)>); 12] = [
    (&[Purpose::Own], false, Some(Strength::Pinned), Some(('p', true))),
    (&[Purpose::Own], true, Some(Strength::Held), Some(('p', false))),
    (&[Purpose::Own], false, Some(Strength::Kept), Some(('c', true))),
    (&[Purpose::Own], false, None, None),
    (&[Purpose::Own], true, None, None),
    (&[Purpose::Own, Purpose::Hold], false, None, Some(('r', false))),
    (&[Purpose::Own, Purpose::Hold], true, Some(Strength::Kept), Some(('r', false))),
    (&[Purpose::Publish], false, None, None),
    (&[Purpose::Pin], false, None, None),
    (&[Purpose::Cache], false, None, Some(('c', false))),
    (&[Purpose::Cache], false, Some(Strength::Pinned), Some(('p', false))),
    (&[Purpose::Hold], false, Some(Strength::Kept), Some(('r', false))),
];

fn a_sweep_does_what_the_marks_say<S: Inventory>(store: &S) {
    let blocks: Vec<_> = (0..FATES.len()).map(|n| block(n as u64, 1000 + n)).collect();
    for (block, (purposes, settled, ..)) in blocks.iter().zip(&FATES) {
        purposes.iter().for_each(|purpose| store.put(block, *purpose).unwrap());
        if *settled {
            store.set_copies(&block.id(), 5, true).unwrap();
        }
    }
    let marks = blocks.iter().zip(&FATES);
    let marked: Marked = marks.filter_map(|(block, fate)| Some((block.id(), fate.2?))).collect();
    let figures = || {
        let usage = store.usage();
        let bytes = (usage.pinned_bytes, usage.in_range_bytes, usage.cached_bytes);
        (bytes, usage.blocks, store.owed_totals())
    };
    let before = figures();
    let foretold = store.sweep(store.horizon(), &marked, true).unwrap();
    assert_eq!(figures(), before, "a dry run changes nothing");
    let swept = store.sweep(store.horizon(), &marked, false).unwrap();
    assert_eq!(swept, foretold);
    let gone = blocks.iter().zip(&FATES).filter(|(_, fate)| fate.3.is_none());
    let gone_bytes = gone.clone().map(|(block, _)| block.bytes().len() as u64).sum::<u64>();
    assert_eq!((swept.removed_blocks, swept.removed_bytes), (gone.count() as u64, gone_bytes));
    let bytes_of = |wanted: char| -> u64 {
        let of = blocks.iter().zip(&FATES);
        let of = of.filter(|(_, fate)| fate.3.is_some_and(|(class, _)| class == wanted));
        of.map(|(block, _)| block.bytes().len() as u64).sum()
    };
    let usage = store.usage();
    assert_eq!(usage.pinned_bytes, bytes_of('p'));
    assert_eq!(usage.in_range_bytes, bytes_of('r'));
    assert_eq!(usage.cached_bytes, bytes_of('c'));
    let owed = store.owed(None, 100).unwrap();
    for (block, fate) in blocks.iter().zip(&FATES) {
        assert_eq!(store.contains(&block.id()).unwrap(), fate.3.is_some(), "{fate:?}");
        assert_eq!(owed.contains(&block.id()), fate.3.is_some_and(|(_, owed)| owed), "{fate:?}");
    }
    let again = store.sweep(store.horizon(), &marked, false).unwrap();
    assert_eq!(again, Swept::default(), "there is nothing left to do");
}

fn a_sweep_leaves_work_in_flight_alone<S: Inventory>(store: &S) {
    let blocks: Vec<_> = (0..5).map(|seed| block(seed, 10)).collect();
    let (old, renewed, put_again, new, late) =
        (&blocks[0], &blocks[1], &blocks[2], &blocks[3], &blocks[4]);
    for block in [old, renewed, put_again] {
        store.put(block, Purpose::Own).unwrap();
    }
    let guard = store.guard();
    assert!(store.renew(&renewed.id()).unwrap());
    assert!(!store.renew(&new.id()).unwrap(), "it is not held yet");
    store.put(put_again, Purpose::Own).unwrap();
    store.put(new, Purpose::Own).unwrap();
    let horizon = store.horizon();
    store.put(late, Purpose::Own).unwrap();
    drop(guard);
    let held = |expected: [bool; 5]| {
        let ids = blocks.iter().map(Block::id);
        let held: Vec<_> = ids.map(|id| store.contains(&id).unwrap()).collect();
        assert_eq!(held, expected);
    };
    store.sweep(horizon, &Marked::default(), false).unwrap();
    held([false, true, true, true, true]);
    let second = store.guard();
    let third = store.guard();
    store.renew(&late.id()).unwrap();
    drop(second);
    store.sweep(store.horizon(), &Marked::default(), false).unwrap();
    held([false, false, false, false, true]);
    drop(third);
    store.sweep(store.horizon(), &Marked::default(), false).unwrap();
    held([false; 5]);
    assert_eq!(store.usage().used_bytes(), 0);
}

fn the_journal_is_what_is_staged<S: Inventory + Ledger>(store: &S) {
    assert_eq!(store.usage().staged_bytes, 0);
    let mut batch = Batch::new();
    batch.put(Table::Journal, *b"a", vec![1; 100]);
    batch.put(Table::Journal, *b"b", vec![1; 50]);
    batch.put(Table::Heads, *b"c", vec![1; 1000]);
    store.commit(batch).unwrap();
    assert_eq!(store.usage().staged_bytes, 150);
    let mut batch = Batch::new();
    batch.put(Table::Journal, *b"b", vec![1; 70]);
    batch.delete(Table::Journal, *b"a");
    batch.delete(Table::Journal, *b"never there");
    store.commit(batch).unwrap();
    assert_eq!(store.usage().staged_bytes, 70);
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
    Put(u8, Purpose),
    /// `get`, which may move a block in the order of eviction.
    Get(u8),
    /// `renew`.
    Renew(u8),
    /// `guard`.
    Guard,
    /// Drops the oldest guard.
    Release,
    /// `horizon` and `sweep` with these marks.
    Sweep(Vec<(u8, Strength)>),
    /// `remove`.
    Remove(u8),
    /// `set_copies`.
    SetCopies(u8, u8, bool),
    /// `flush`.
    Flush,
    /// `commit`: keys, each with a value or its deletion.
    Commit(Vec<(Table, u8, Option<u8>)>),
}

/// Seeds of blocks on both sides of every threshold of length.
const SMALL: Range<u8> = 0..24;

/// Seeds of blocks that are too many for the smallest quota.
const LARGE: Range<u8> = 100..160;

/// Sequences of operations, weighted towards blocks.
pub fn ops() -> impl Strategy<Value = Vec<Op>> {
    ops_on(SMALL, 1..60)
}

/// Sequences of operations on more than fits the smallest quota.
pub fn large_ops() -> impl Strategy<Value = Vec<Op>> {
    ops_on(LARGE, 60..150)
}

fn ops_on(seeds: Range<u8>, count: Range<usize>) -> impl Strategy<Value = Vec<Op>> {
    let seed = move || seeds.clone();
    let purpose = || {
        let all = [Purpose::Cache, Purpose::Hold, Purpose::Publish, Purpose::Own, Purpose::Pin];
        prop::sample::select(all.to_vec())
    };
    let strength = || prop::sample::select(vec![Strength::Kept, Strength::Held, Strength::Pinned]);
    let table = || prop::sample::select(vec![Table::Heads, Table::Journal, Table::Peers]);
    let change = (table(), 0..6_u8, any::<Option<u8>>());
    let op = prop_oneof![
        12 => (seed(), purpose()).prop_map(|(seed, purpose)| Op::Put(seed, purpose)),
        3 => seed().prop_map(Op::Renew),
        3 => seed().prop_map(Op::Get),
        1 => Just(Op::Guard),
        1 => Just(Op::Release),
        1 => prop::collection::vec((seed(), strength()), 0..20).prop_map(Op::Sweep),
        3 => seed().prop_map(Op::Remove),
        4 => (seed(), 0..6_u8, any::<bool>())
            .prop_map(|(seed, copies, settled)| Op::SetCopies(seed, copies, settled)),
        1 => Just(Op::Flush),
        2 => prop::collection::vec(change, 0..5).prop_map(Op::Commit),
    ];
    prop::collection::vec(op, count)
}

/// The block that an operation means: lengths on both sides of every threshold.
pub fn op_block(seed: u8) -> Block {
    const LENGTHS: [usize; 6] = [1, 200, 4095, 4096, 10_000, 40_000];
    static BLOCKS: LazyLock<Vec<Block>> = LazyLock::new(|| {
        let length = |seed: u8| match LARGE.contains(&seed) {
            true => 300_000 + usize::from(seed) * 4000,
            false => LENGTHS[usize::from(seed) % LENGTHS.len()],
        };
        (0..LARGE.end).map(|seed| block(seed.into(), length(seed))).collect()
    });
    BLOCKS[usize::from(seed)].clone()
}

/// What a store without a quota must hold.
#[derive(Debug, Default, Clone)]
pub struct Model {
    /// Number of the next put or renewal.
    next: u64,
    guards: Vec<u64>,
    blocks: BTreeMap<BlockId, Held>,
    records: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Held {
    block: Block,
    pinned: bool,
    in_range: bool,
    owed: bool,
    copies: u8,
    order: u64,
}

/// Does one operation on a store.
pub fn apply<S: Inventory + Ledger>(
    store: &S,
    guards: &mut Vec<WriteGuard>,
    op: &Op,
) -> Result<(), WriteError> {
    match op {
        Op::Put(seed, purpose) => store.put(&op_block(*seed), *purpose),
        Op::Get(seed) => match store.get(&op_block(*seed).id()) {
            Ok(_) | Err(ReadError::Missing { .. }) => Ok(()),
            Err(error) => panic!("{op:?}: {error:?}"),
        },
        Op::Renew(seed) => store.renew(&op_block(*seed).id()).map(|_| ()),
        Op::Guard => {
            guards.push(store.guard());
            Ok(())
        }
        Op::Release => {
            guards.drain(..guards.len().min(1));
            Ok(())
        }
        Op::Sweep(marks) => {
            let marks = marks.iter().map(|(seed, strength)| (op_block(*seed).id(), *strength));
            store.sweep(store.horizon(), &marks.collect(), false).map(|_| ())
        }
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
            Op::Put(seed, purpose) => self.put(op_block(*seed), *purpose),
            Op::Renew(seed) => {
                if let Some(held) = self.blocks.get_mut(&op_block(*seed).id()) {
                    held.order = self.next;
                }
                self.next += 1;
            }
            Op::Guard => self.guards.push(self.next),
            Op::Release => {
                self.guards.drain(..self.guards.len().min(1));
            }
            Op::Sweep(marks) => self.sweep(marks),
            Op::Remove(seed) => {
                self.blocks.remove(&op_block(*seed).id());
            }
            Op::SetCopies(seed, copies, settled) => {
                if let Some(held) = self.blocks.get_mut(&op_block(*seed).id()) {
                    held.copies = *copies;
                    held.owed = !settled;
                }
            }
            Op::Get(_) | Op::Flush => {}
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

impl Model {
    /// Forgets what a store under a quota evicted, which may be only what is neither pinned nor
    /// owed nor held for the network.
    pub fn forget_evicted<S: Inventory>(&mut self, store: &S) {
        self.blocks.retain(|id, held| {
            let there = store.contains(id).unwrap();
            let evictable = !held.pinned && !held.owed && !held.in_range;
            assert!(there || evictable, "{held:?} was evicted");
            there
        });
    }

    /// What a store's end does to the guards.
    pub fn reopen(&mut self) {
        self.guards.clear();
    }

    fn put(&mut self, block: Block, purpose: Purpose) {
        let held = self.blocks.entry(block.id()).or_insert(Held {
            block,
            pinned: false,
            in_range: false,
            owed: false,
            copies: 0,
            order: 0,
        });
        held.order = self.next;
        self.next += 1;
        match purpose {
            Purpose::Cache => {}
            Purpose::Hold => held.in_range = true,
            Purpose::Pin => held.pinned = true,
            Purpose::Publish => held.owed |= held.copies == 0,
            Purpose::Own => {
                held.owed |= held.copies == 0 || !held.pinned;
                held.pinned = true;
            }
        }
    }

    fn sweep(&mut self, marks: &[(u8, Strength)]) {
        let horizon = self.guards.iter().copied().min().unwrap_or(self.next);
        self.blocks.retain(|id, held| {
            if held.order >= horizon {
                return true;
            }
            let marks = marks.iter().filter(|(seed, _)| op_block(*seed).id() == *id);
            match marks.map(|(_, strength)| *strength).max() {
                Some(Strength::Pinned) => held.pinned = true,
                Some(Strength::Held) => {}
                Some(Strength::Kept) => held.pinned = false,
                None => {
                    let foreign = !held.pinned && !held.owed;
                    (held.pinned, held.owed) = (false, false);
                    return held.in_range || foreign;
                }
            }
            true
        });
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
    assert_eq!(usage.pinned_bytes, sum(&|held| held.pinned));
    assert_eq!(usage.in_range_bytes, sum(&|held| held.in_range && !held.pinned));
    assert_eq!(usage.cached_bytes, sum(&|held| !held.in_range && !held.pinned));
    for seed in SMALL.chain(LARGE) {
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
