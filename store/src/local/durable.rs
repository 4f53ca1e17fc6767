//! What `flush` has to make crash-safe, and the cheaper of two ways to do it.
//!
//! Flushing the write buffers syncs some ten files and leaves a blob file behind, which pays for
//! a lot of blocks. For a few, as a volume in daily use seals them every couple of seconds, it
//! would be slow and end in tens of thousands of small files a day. A few blocks are therefore
//! written once more, through the log: one sync, and their buffers fill up before they go to
//! disk.
//!
//! Invariant: whatever was put since it was last crash-safe is in [`Unflushed`], or `beyond` is
//! set. A logged block is logged with its row and all that repeats the row, so each block stays
//! consistent in itself although a crash loses other blocks' later changes; removals are never
//! logged, and a block whose removal was lost is whole again.

use rocksdb::{FlushOptions, WriteBatch, WriteOptions};

use super::columns::Column;
use super::{Local, family, locked};
use crate::block::Block;
use crate::crash;
use crate::error::WriteError;
use crate::id::BlockId;

/// What a row and an id take, roughly.
const ROW_BYTES: usize = 128;

/// Puts that a crash would lose.
#[derive(Debug)]
pub(super) struct Unflushed {
    /// With the block, or without it where only its class was raised.
    puts: Vec<(BlockId, Option<Block>)>,
    bytes: usize,
    /// Most bytes that go through the log, and that are kept in memory for it. Also about the
    /// least that a blob file holds, so a fraction of it means more files.
    bytes_max: usize,
    /// More was put than the log should take: the buffers have to be flushed.
    beyond: bool,
}

impl Unflushed {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { puts: Vec::new(), bytes: 0, bytes_max, beyond: false }
    }

    /// Takes over what is there.
    fn take(&mut self) -> Self {
        let empty = Self::new(self.bytes_max);
        std::mem::replace(self, empty)
    }

    /// More has changed than is listed: the next flush takes everything.
    pub(super) fn overflow(&mut self) {
        *self = Self { beyond: true, ..Self::new(self.bytes_max) };
    }

    pub(super) fn note(&mut self, id: BlockId, block: Option<Block>) {
        if self.beyond {
            return;
        }
        self.bytes += ROW_BYTES + block.as_ref().map_or(0, |block| block.bytes().len());
        self.puts.push((id, block));
        if self.bytes > self.bytes_max {
            self.overflow();
        }
    }
}

impl Local {
    /// Makes every earlier put crash-safe.
    pub(super) fn make_durable(&self) -> Result<(), WriteError> {
        // One at a time: whoever comes second waits for what the first took over.
        let _turn = locked(&self.flushing);
        self.health.check()?;
        let mut writer = locked(&self.writer);
        let unflushed = writer.unflushed.take();
        let flushed = if unflushed.beyond {
            // Puts go on in the meantime and are noted for the next flush.
            drop(writer);
            crash::point("flush-before");
            let families = Column::UNLOGGED.map(|column| family(&self.db, column));
            self.db
                .flush_cfs_opt(&families.each_ref(), &FlushOptions::default())
                .map_err(|error| self.write_error(error))
        } else {
            // With the lock, so that no put of the same block comes between reading its row and
            // logging it.
            let logged = self.log(&unflushed);
            drop(writer);
            logged
        };
        crash::point("flush-after");
        if flushed.is_err() {
            locked(&self.writer).unflushed.overflow();
        }
        flushed
    }

    fn log(&self, unflushed: &Unflushed) -> Result<(), WriteError> {
        let mut batch = WriteBatch::default();
        for (id, block) in &unflushed.puts {
            // Removed since, or evicted: there is nothing to keep.
            let Some(row) = self.row_to_change(id)? else { continue };
            if let Some(block) = block {
                batch.put_cf(family(&self.db, Column::Blocks), id.as_bytes(), block.bytes());
            }
            self.repeated().restate(&mut batch, id, &row);
        }
        if batch.is_empty() {
            return Ok(());
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        crash::point("log-before");
        // Once into the log, and once more into the buffers.
        self.space.admit(2 * batch.size_in_bytes() as u64);
        self.db.write_opt(batch, &options).map_err(|error| self.write_error(error))?;
        crash::point("log-after");
        Ok(())
    }
}
