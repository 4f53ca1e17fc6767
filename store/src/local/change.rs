//! A change of blocks and their rows: one batch, and the counters as they are once it is written.
//!
//! Every way to change `index` goes through [`Change::replace`], so `owed`, `evictable` and the
//! counters follow it by construction. A change that is dropped changed nothing.

use rocksdb::{DB, WriteBatch};

use super::columns::{BadRow, Column, Place, Row, evictable_key, rank_of};
use super::family;
use crate::block::Block;
use crate::contract::{Class, Purpose};
use crate::id::{BlockId, ID_BYTES};
use crate::standing::Standing;

/// Where rows are repeated: the database, and the point that ranks are measured from.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) db: &'a DB,
    pub(super) point: Option<&'a [u8; ID_BYTES]>,
}

impl Rows<'_> {
    /// States a row and everything that repeats it, whatever was there before.
    pub(super) fn restate(&self, batch: &mut WriteBatch, id: &BlockId, row: &Row) {
        batch.put_cf(family(self.db, Column::Index), id.as_bytes(), row.encode());
        let owed = family(self.db, Column::Owed);
        if row.standing.owed {
            batch.put_cf(owed, id.as_bytes(), b"");
        } else {
            batch.delete_cf(owed, id.as_bytes());
        }
        if let Some(key) = self.place(id, row) {
            batch.put_cf(family(self.db, Column::Evictable), key, b"");
        }
    }

    /// Forgets a block, its row and everything that repeats it.
    pub(super) fn forget(&self, batch: &mut WriteBatch, id: &BlockId, row: &Row) {
        batch.delete_cf(family(self.db, Column::Blocks), id.as_bytes());
        self.retract(batch, id, row);
    }

    /// Takes back an old place in the order of eviction where the new row has another one.
    fn leave(&self, batch: &mut WriteBatch, id: &BlockId, old: &Row, new: &Row) {
        if let Some(key) = self.place(id, old)
            && self.place(id, new) != Some(key)
        {
            batch.delete_cf(family(self.db, Column::Evictable), key);
        }
    }

    /// Takes back a row and what repeats it.
    fn retract(&self, batch: &mut WriteBatch, id: &BlockId, row: &Row) {
        batch.delete_cf(family(self.db, Column::Index), id.as_bytes());
        batch.delete_cf(family(self.db, Column::Owed), id.as_bytes());
        if let Some(key) = self.place(id, row) {
            batch.delete_cf(family(self.db, Column::Evictable), key);
        }
    }

    /// Where a block stands in the order of eviction, if it may be evicted at all.
    pub(super) fn place(&self, id: &BlockId, row: &Row) -> Option<Place> {
        rank_of(self.point, row, id).map(|rank| evictable_key(rank, row.order, id))
    }
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
    /// Bytes of the blocks that are long enough for a blob file.
    pub(super) blob_bytes: u64,
}

impl Counters {
    pub(super) fn used_bytes(&self) -> u64 {
        self.pinned_bytes + self.in_range_bytes + self.cached_bytes
    }

    pub(super) fn add(&mut self, row: &Row) {
        *self.class_bytes(row.standing.class()) += u64::from(row.length);
        self.blocks += 1;
        self.blob_bytes += row.blob_bytes();
        if row.standing.owed {
            self.owed_blocks += 1;
            self.owed_bytes += u64::from(row.length);
        }
    }

    fn subtract(&mut self, row: &Row) {
        *self.class_bytes(row.standing.class()) -= u64::from(row.length);
        self.blocks -= 1;
        self.blob_bytes -= row.blob_bytes();
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
    /// No cached block with a lower order can be evicted: eviction starts here and does not walk
    /// over what earlier ones deleted.
    pub(super) evict_from: u64,
}

impl Cursor {
    /// The order in the middle of what may be evicted.
    pub(super) fn middle(&self) -> u64 {
        self.evict_from.midpoint(self.next)
    }
}

/// A change that is not written yet.
pub(super) struct Change<'a> {
    rows: Rows<'a>,
    pub(super) batch: WriteBatch,
    pub(super) counters: Counters,
    pub(super) cursor: Cursor,
    /// Bytes of blocks that the change forgets, and that stay on disk as garbage.
    pub(super) dropped_bytes: u64,
}

impl<'a> Change<'a> {
    pub(super) fn new(rows: Rows<'a>, counters: Counters, cursor: Cursor) -> Self {
        Self { rows, batch: WriteBatch::default(), counters, cursor, dropped_bytes: 0 }
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
        self.batch.put_cf(family(self.rows.db, Column::Blocks), id.as_bytes(), block.bytes());
        self.replace(&id, None, Some(row));
    }

    /// The next number of the order.
    pub(super) fn stamp(&mut self) -> u64 {
        self.cursor.next += 1;
        self.cursor.next - 1
    }

    /// Writes the bytes of a held block anew.
    pub(super) fn mend(&mut self, block: &Block) {
        self.batch.put_cf(
            family(self.rows.db, Column::Blocks),
            block.id().as_bytes(),
            block.bytes(),
        );
    }

    /// Forgets a held block.
    pub(super) fn remove(&mut self, id: &BlockId, row: Row) {
        self.batch.delete_cf(family(self.rows.db, Column::Blocks), id.as_bytes());
        self.dropped_bytes += u64::from(row.length);
        self.replace(id, Some(row), None);
    }

    /// Forgets a held block that does not read, and remembers why it was held.
    pub(super) fn set_aside(&mut self, id: &BlockId, row: Row, since: u64) {
        self.remove(id, row);
        let bad = BadRow { row, since };
        self.batch.put_cf(family(self.rows.db, Column::Bad), id.as_bytes(), bad.encode());
        self.counters.bad_blocks += 1;
    }

    /// Forgets that a block was set aside.
    pub(super) fn clear_bad(&mut self, id: &BlockId) {
        self.batch.delete_cf(family(self.rows.db, Column::Bad), id.as_bytes());
        self.counters.bad_blocks -= 1;
    }

    /// Forgets a place in the order of eviction that no row stands behind any more.
    pub(super) fn drop_place(&mut self, key: &[u8]) {
        self.batch.delete_cf(family(self.rows.db, Column::Evictable), key);
    }

    /// Replaces what is known of a block, and what repeats it.
    pub(super) fn replace(&mut self, id: &BlockId, old: Option<Row>, new: Option<Row>) {
        if let Some(row) = &old {
            self.counters.subtract(row);
            match &new {
                Some(new) => self.rows.leave(&mut self.batch, id, row, new),
                None => self.rows.retract(&mut self.batch, id, row),
            }
        }
        if let Some(row) = &new {
            self.counters.add(row);
            self.rows.restate(&mut self.batch, id, row);
            if rank_of(self.rows.point, row, id) == Some(0) {
                self.cursor.evict_from = self.cursor.evict_from.min(row.order);
            }
        }
    }
}
