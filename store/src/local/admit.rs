//! Whether a new block fits, and which cached blocks go so that it does.
//!
//! Two limits: the quota over sealed bytes, and the reserve of the disk. Cached blocks go in the
//! order in which they came; owed ones stay, and so does every other class. Over the quota, the
//! evicted blocks and the new one change places in one batch. A short disk is another matter,
//! since forgotten blocks give their room back only later: the block is refused at once, and
//! cached blocks are forgotten and reclaimed so that the next one may fit.

use std::io;

use rocksdb::DBRawIterator;

use super::change::Change;
use super::columns::{Column, parse_cached_key};
use super::{Local, Writer, locked};
use crate::block::Block;
use crate::contract::{Class, Purpose};
use crate::crash;
use crate::error::WriteError;

impl Local {
    /// Puts a block that is not held.
    pub(super) fn insert(
        &self,
        writer: &mut Writer,
        block: &Block,
        purpose: Purpose,
    ) -> Result<(), WriteError> {
        let length = block.bytes().len() as u64;
        self.check_disk(writer, length)?;
        let mut change = self.change(writer);
        if let Some(quota) = self.config.quota_bytes {
            let used = change.counters.used_bytes();
            let wanted = used.saturating_add(length).saturating_sub(quota);
            let enough = wanted <= change.counters.cached_bytes;
            if !enough || self.evict(&mut change, wanted)? < wanted {
                return Err(WriteError::Full { used, limit: quota });
            }
        }
        let before = self.bad_row(&block.id()).map_err(|error| self.health.fail(error))?;
        change.insert(block, purpose, before);
        crash::point("put-before");
        self.apply(writer, change)?;
        crash::point("put-after");
        writer.unflushed.note(block.id(), Some(block.clone()));
        Ok(())
    }

    /// Free bytes of the disk, as the system tells.
    pub(super) fn disk_free_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.dir)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Refuses a block that would take from the reserve of the disk.
    fn check_disk(&self, writer: &mut Writer, length: u64) -> Result<(), WriteError> {
        let free = self.disk_free_bytes().map_err(|error| self.health.fail(error))?;
        let reserve = self.config.disk_reserve_bytes;
        let short = reserve.saturating_add(length).saturating_sub(free);
        if short == 0 {
            return Ok(());
        }
        let used = locked(&self.counters).used_bytes();
        // What was forgotten and not yet reclaimed may be enough.
        if self.reclaimer.waiting_bytes() < short {
            let mut change = self.change(writer);
            if self.evict(&mut change, short)? > 0 {
                self.apply(writer, change)?;
            }
        }
        // A pass needs room itself. On a disk filled to the last byte it would be in the way of
        // RocksDB, which waits for running work to end before it goes on.
        if free >= self.config.memory_bytes as u64 {
            self.reclaimer.urge();
        }
        Err(WriteError::Full { used, limit: used.saturating_add(free.saturating_sub(reserve)) })
    }

    /// Forgets cached blocks, oldest first, until `wanted` bytes are gone or none is left.
    /// Returns the bytes gone.
    fn evict(&self, change: &mut Change<'_>, wanted: u64) -> Result<u64, WriteError> {
        if wanted == 0 {
            return Ok(0);
        }
        let mut kept = None;
        let mut end = change.cursor.evict_from;
        let mut rows: DBRawIterator<'_> = self.rows(Column::Cached);
        rows.seek(end.to_be_bytes());
        while change.dropped_bytes < wanted
            && let Some((order, id)) = rows.key().and_then(parse_cached_key)
        {
            match self.row_to_change(&id)? {
                // A crash may leave the entry of an earlier put; the row alone is right.
                Some(row) if row.standing.class() != Class::Cached || row.order != order => {}
                None => {}
                Some(row) if row.standing.owed => kept = kept.or(Some(order)),
                Some(row) => change.remove(&id, row),
            }
            end = order + 1;
            rows.next();
        }
        rows.status().map_err(|error| self.health.fail(error))?;
        change.cursor.evict_from = kept.unwrap_or(end);
        crash::point("evict");
        Ok(change.dropped_bytes)
    }
}
