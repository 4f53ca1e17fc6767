//! Whether all that repeats the rows of blocks agrees with them.
//!
//! By construction it does (see `change`); a check looks whether that holds for what is on the
//! disk. The rows are right and everything else follows them.

use super::change::Counters;
use super::columns::{Column, Row, parse_evictable_key, parse_id, rank_of};
use super::fault::read_error;
use super::{Local, family, locked};
use crate::error::{ReadError, WriteError};
use crate::id::BlockId;

impl Local {
    /// Compares rows with `owed`, `evictable` and the counters; returns how many entries are wrong
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
                    self.repeated().restate(&mut change.batch, &id, &row);
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
        let place = self.repeated().place(id, row);
        let placed = place.map_or(Ok(true), |place| has(Column::Evictable, &place))?;
        Ok(owed == row.standing.owed && placed)
    }

    /// Entries of `owed` and `evictable` that no row repeats go. Those of `evictable` are not
    /// wrong: a crash may leave the place of an earlier put, and whoever meets it asks the row.
    fn entries_without_row(&self, batch: &mut rocksdb::WriteBatch) -> Result<u64, WriteError> {
        let mut wrong = 0;
        let mut owed = self.rows(Column::Owed);
        owed.seek_to_first();
        while let Some(key) = owed.key() {
            let row = parse_id(key).map(|id| self.row_to_change(&id)).transpose()?.flatten();
            if !row.is_some_and(|row| row.standing.owed) {
                batch.delete_cf(family(&self.db, Column::Owed), key);
                wrong += 1;
            }
            owed.next();
        }
        owed.status().map_err(|error| self.write_error(error))?;
        let mut places = self.rows(Column::Evictable);
        places.seek_to_first();
        // The last key is not a place.
        while let Some(key) = places.key()
            && let Some((rank, order, id)) = parse_evictable_key(key)
        {
            let row = self.row_to_change(&id)?.filter(|row| row.order == order);
            let point = self.config.point.as_ref();
            if row.and_then(|row| rank_of(point, &row, &id)) != Some(rank) {
                batch.delete_cf(family(&self.db, Column::Evictable), key);
            }
            places.next();
        }
        places.status().map_err(|error| self.write_error(error))?;
        Ok(wrong)
    }
}
