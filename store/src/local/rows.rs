//! Whether all that repeats the rows of blocks agrees with them.
//!
//! By construction it does (see `change`); a check looks whether that holds for what is on the
//! disk. The rows are right and everything else follows them.

use super::change::{Counters, restate};
use super::columns::{Column, Row, cached_key, parse_cached_key, parse_id};
use super::fault::read_error;
use super::{Local, family, locked};
use crate::contract::Class;
use crate::error::{ReadError, WriteError};
use crate::id::BlockId;

impl Local {
    /// Compares rows with `owed`, `cached` and the counters; returns how many entries are wrong
    /// or lacking. Writers wait while it runs: some seconds for a million blocks.
    pub(super) fn compare_rows(&self, repair: bool) -> Result<u64, WriteError> {
        self.health.check()?;
        let mut writer = locked(&self.writer);
        let mut change = self.change(&writer);
        let mut counters =
            Counters { bad_blocks: change.counters.bad_blocks, ..Counters::default() };
        let mut wrong = 0;
        let mut rows = self.rows(Column::Index);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if let (Some(id), Ok(row)) = (parse_id(key), Row::decode(value)) {
                counters.add(&row);
                if !self.is_repeated(&id, &row).map_err(|error| self.health.fail(error))? {
                    restate(&self.db, &mut change.batch, &id, &row);
                    wrong += 1;
                }
            } else {
                change.batch.delete_cf(family(&self.db, Column::Index), key);
                wrong += 1;
            }
            rows.next();
        }
        rows.status().map_err(|error| self.write_error(error))?;
        wrong += self.entries_without_row(&mut change.batch)?;
        wrong += u64::from(counters != change.counters);
        if repair && wrong > 0 {
            change.counters = counters;
            self.apply(&mut writer, change)?;
            // What was mended is not in the list of what the log takes.
            writer.unflushed.overflow();
        }
        Ok(wrong)
    }

    fn is_repeated(&self, id: &BlockId, row: &Row) -> Result<bool, ReadError> {
        let has = |column, key: &[u8]| {
            let found = self.db.get_pinned_cf(family(&self.db, column), key);
            found.map(|found| found.is_some()).map_err(|error| read_error(id, error))
        };
        let owed = has(Column::Owed, id.as_bytes())?;
        let cached = has(Column::Cached, &cached_key(row.order, id))?;
        Ok(owed == row.standing.owed && cached == (row.standing.class() == Class::Cached))
    }

    /// Entries of `owed` and `cached` that no row repeats go.
    fn entries_without_row(&self, batch: &mut rocksdb::WriteBatch) -> Result<u64, WriteError> {
        let mut wrong = 0;
        for column in [Column::Owed, Column::Cached] {
            let mut entries = self.rows(column);
            entries.seek_to_first();
            while let Some(key) = entries.key() {
                let named = match column {
                    Column::Owed => parse_id(key).map(|id| (None, id)),
                    _ => parse_cached_key(key).map(|(order, id)| (Some(order), id)),
                };
                let row = match &named {
                    Some((_, id)) => self.row_to_change(id)?,
                    None => None,
                };
                let order = named.and_then(|(order, _)| order);
                if row.is_none_or(|row| order.is_some_and(|order| order != row.order)) {
                    batch.delete_cf(family(&self.db, column), key);
                    wrong += 1;
                }
                entries.next();
            }
            entries.status().map_err(|error| self.write_error(error))?;
        }
        Ok(wrong)
    }
}
