//! Bad blocks: held once, and what is on the disk is not them any more.
//!
//! A read that finds one sets it aside: its bytes and its row go, and `bad` remembers why it was
//! held. To everybody it is then a block that is not here, so it is fetched again like any
//! other, and the `put` that brings it back gives it its standing again. Removing the key also
//! keeps RocksDB from copying the damaged bytes, which would fail and end all writing.

use std::time::{SystemTime, UNIX_EPOCH};

use rocksdb::ReadOptions;

use super::change::Change;
use super::columns::{BadRow, Column, parse_id};
use super::fault::read_error;
use super::{Local, family, locked, rebuild, scan_error};
use crate::block::Block;
use crate::contract::BadBlock;
use crate::error::{ReadError, WriteError};
use crate::gc::Marked;
use crate::id::BlockId;

impl Local {
    /// Sets a block aside that did not read for the reason in `detail`, if it is held. Where
    /// only what leads to it is damaged, it is written anew and returned.
    pub(super) fn set_aside(
        &self,
        id: &BlockId,
        detail: &str,
    ) -> Result<Option<Block>, WriteError> {
        self.health.check()?;
        let mut writer = locked(&self.writer);
        let Some(row) = self.row_to_change(id)? else { return Ok(None) };
        // It may have been mended since.
        if let Ok(Some(block)) = self.find(id, ReadOptions::default()) {
            return Ok(Some(block));
        }
        if detail.contains(".sst")
            && let Err(error) = rebuild::suspect(&self.dir, false)
        {
            tracing::warn!(%error, "could not ask the next opening for a rebuild");
        }
        let mut change = self.change(&writer);
        let salvaged = rebuild::salvage(&self.dir, id, detail);
        match &salvaged {
            Some(block) => {
                change.mend(block);
                self.apply(&mut writer, change)?;
                writer.unflushed.note(*id, Some(block.clone()));
                tracing::warn!(block = %id, "what led to a block was damaged; it is written anew");
            }
            None => {
                change.set_aside(id, row, seconds_now());
                self.apply(&mut writer, change)?;
                tracing::error!(block = %id, detail, "a held block is damaged; it is set aside");
            }
        }
        Ok(salvaged)
    }

    /// What is remembered of a bad block.
    pub(super) fn bad_row(&self, id: &BlockId) -> Result<Option<BadRow>, ReadError> {
        if locked(&self.counters).bad_blocks == 0 {
            return Ok(None);
        }
        let row = self
            .db
            .get_pinned_cf(family(&self.db, Column::Bad), id.as_bytes())
            .map_err(|error| read_error(id, error))?;
        // What does not decode is as good as nothing; the block is put like a new one.
        Ok(row.and_then(|row| BadRow::decode(&row).ok()))
    }

    pub(super) fn bad_blocks(
        &self,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<BadBlock>, ReadError> {
        let mut found = Vec::new();
        let mut rows = self.rows(Column::Bad);
        match after {
            Some(id) => rows.seek([id.as_bytes().as_slice(), &[0]].concat()),
            None => rows.seek_to_first(),
        }
        while found.len() < limit
            && let Some((key, value)) = rows.item()
        {
            if let (Some(id), Ok(BadRow { row, since })) = (parse_id(key), BadRow::decode(value)) {
                found.push(BadBlock {
                    id,
                    class: row.standing.class(),
                    owed: row.standing.owed,
                    length: row.length,
                    since_seconds: since,
                });
            }
            rows.next();
        }
        rows.status().map_err(scan_error)?;
        Ok(found)
    }

    /// The part of a garbage collection that is about bad blocks: those that nothing names any
    /// more are not missed.
    pub(super) fn sweep_bad(&self, marked: &Marked) -> Result<(), WriteError> {
        if locked(&self.counters).bad_blocks == 0 || marked.spares_pinned() {
            return Ok(());
        }
        let mut writer = locked(&self.writer);
        let bad = self.bad_blocks(None, usize::MAX).map_err(|error| self.health.fail(error))?;
        let mut change: Change<'_> = self.change(&writer);
        for block in bad.iter().filter(|block| marked.strength(&block.id).is_none()) {
            change.clear_bad(&block.id);
        }
        self.apply(&mut writer, change)
    }
}

/// Seconds since 1970, for people to read; nothing is decided by them.
pub(super) fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
