//! A change of blocks and their rows: one batch, and the counters as they are once it is written.
//!
//! Every way to change `index` goes through [`Change::replace`], so `owed`, `cached` and the
//! counters follow it by construction. A change that is dropped changed nothing.

use rocksdb::{DB, WriteBatch};

use super::columns::{BadRow, Column, Row, cached_key};
use super::family;
use crate::block::Block;
use crate::contract::{Class, Purpose};
use crate::id::BlockId;
use crate::standing::Standing;

/// States a row and everything that repeats it, whatever was there before.
pub(super) fn restate(db: &DB, batch: &mut WriteBatch, id: &BlockId, row: &Row) {
    batch.put_cf(family(db, Column::Index), id.as_bytes(), row.encode());
    let owed = family(db, Column::Owed);
    if row.standing.owed {
        batch.put_cf(owed, id.as_bytes(), b"");
    } else {
        batch.delete_cf(owed, id.as_bytes());
    }
    let (cached, key) = (family(db, Column::Cached), cached_key(row.order, id));
    if row.standing.class() == Class::Cached {
        batch.put_cf(cached, key, b"");
    } else {
        batch.delete_cf(cached, key);
    }
}

/// Forgets a block, its row and everything that repeats it.
pub(super) fn forget(db: &DB, batch: &mut WriteBatch, id: &BlockId, row: &Row) {
    for column in [Column::Blocks, Column::Index, Column::Owed] {
        batch.delete_cf(family(db, column), id.as_bytes());
    }
    batch.delete_cf(family(db, Column::Cached), cached_key(row.order, id));
}

/// Sums over `index`, kept so that nobody has to walk it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) pinned_bytes: u64,
    pub(super) in_range_bytes: u64,
    pub(super) cached_bytes: u64,
    pub(super) blocks: u64,
    pub(super) owed_blocks: u64,
    pub(super) owed_bytes: u64,
    /// Blocks in `bad`, which are in no other sum.
    pub(super) bad_blocks: u64,
}

impl Counters {
    pub(super) fn used_bytes(&self) -> u64 {
        self.pinned_bytes + self.in_range_bytes + self.cached_bytes
    }

    pub(super) fn add(&mut self, row: &Row) {
        *self.class_bytes(row.standing.class()) += u64::from(row.length);
        self.blocks += 1;
        if row.standing.owed {
            self.owed_blocks += 1;
            self.owed_bytes += u64::from(row.length);
        }
    }

    fn subtract(&mut self, row: &Row) {
        *self.class_bytes(row.standing.class()) -= u64::from(row.length);
        self.blocks -= 1;
        if row.standing.owed {
            self.owed_blocks -= 1;
            self.owed_bytes -= u64::from(row.length);
        }
    }

    fn class_bytes(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Pinned => &mut self.pinned_bytes,
            Class::InRange => &mut self.in_range_bytes,
            Class::Cached => &mut self.cached_bytes,
        }
    }
}

/// Where the order of blocks begins and ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Order of the next block put.
    pub(super) next: u64,
    /// No block with a lower order can be evicted: eviction starts here and does not walk over
    /// what earlier ones deleted.
    pub(super) evict_from: u64,
}

/// A change that is not written yet.
pub(super) struct Change<'a> {
    db: &'a DB,
    pub(super) batch: WriteBatch,
    pub(super) counters: Counters,
    pub(super) cursor: Cursor,
    /// Bytes of blocks that the change forgets, and that stay on disk as garbage.
    pub(super) dropped_bytes: u64,
}

impl<'a> Change<'a> {
    pub(super) fn new(db: &'a DB, counters: Counters, cursor: Cursor) -> Self {
        Self { db, batch: WriteBatch::default(), counters, cursor, dropped_bytes: 0 }
    }

    /// Adds a block that is not held.
    /// `before` is what is remembered of it.
    pub(super) fn insert(&mut self, block: &Block, purpose: Purpose, before: Option<BadRow>) {
        let id = block.id();
        let length = u32::try_from(block.bytes().len()).expect("a block is at most 1 MiB");
        let known = before.map_or_else(Standing::default, |bad| bad.row.standing);
        let standing = known.after_put(purpose);
        if before.is_some() {
            self.clear_bad(&id);
        }
        let row = Row { standing, length, order: self.stamp() };
        self.batch.put_cf(family(self.db, Column::Blocks), id.as_bytes(), block.bytes());
        self.replace(&id, None, Some(row));
    }

    /// The next number of the order.
    pub(super) fn stamp(&mut self) -> u64 {
        self.cursor.next += 1;
        self.cursor.next - 1
    }

    /// Writes the bytes of a held block anew.
    pub(super) fn mend(&mut self, block: &Block) {
        self.batch.put_cf(family(self.db, Column::Blocks), block.id().as_bytes(), block.bytes());
    }

    /// Forgets a held block.
    pub(super) fn remove(&mut self, id: &BlockId, row: Row) {
        self.batch.delete_cf(family(self.db, Column::Blocks), id.as_bytes());
        self.dropped_bytes += u64::from(row.length);
        self.replace(id, Some(row), None);
    }

    /// Forgets a held block that does not read, and remembers why it was held.
    pub(super) fn set_aside(&mut self, id: &BlockId, row: Row, since: u64) {
        self.remove(id, row);
        let bad = BadRow { row, since };
        self.batch.put_cf(family(self.db, Column::Bad), id.as_bytes(), bad.encode());
        self.counters.bad_blocks += 1;
    }

    /// Forgets that a block was set aside.
    pub(super) fn clear_bad(&mut self, id: &BlockId) {
        self.batch.delete_cf(family(self.db, Column::Bad), id.as_bytes());
        self.counters.bad_blocks -= 1;
    }

    /// Replaces what is known of a block, and what repeats it.
    pub(super) fn replace(&mut self, id: &BlockId, old: Option<Row>, new: Option<Row>) {
        match (&old, &new) {
            (old, Some(row)) => {
                if let Some(old) = old
                    && old.order != row.order
                {
                    let key = cached_key(old.order, id);
                    self.batch.delete_cf(family(self.db, Column::Cached), key);
                }
                restate(self.db, &mut self.batch, id, row);
            }
            (Some(row), None) => {
                self.batch.delete_cf(family(self.db, Column::Index), id.as_bytes());
                self.batch.delete_cf(family(self.db, Column::Owed), id.as_bytes());
                let key = cached_key(row.order, id);
                self.batch.delete_cf(family(self.db, Column::Cached), key);
            }
            (None, None) => {}
        }
        if let Some(row) = &old {
            self.counters.subtract(row);
        }
        if let Some(row) = &new {
            self.counters.add(row);
        }
    }
}
