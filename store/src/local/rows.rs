//! Whether all that repeats the rows of blocks agrees with them.
//!
//! By construction it does (see `change`); a check looks whether that holds for what is on the
//! disk. The rows are right and everything else follows them. A row that does not decode says
//! nothing; where its block reads, it is kept as one of which only the bytes are known.

use std::collections::BTreeMap;

use rocksdb::ReadOptions;

use super::change::{Change, Counters};
use super::columns::{Column, Row, parse_evictable_key, parse_id, rank_of};
use super::fault::read_error;
use super::{Local, family, locked};
use crate::error::{ReadError, WriteError};
use crate::id::BlockId;

/// What becomes of rows that do not decode; `None` for those whose block does not read either.
type Replaced = BTreeMap<BlockId, Option<Row>>;

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
        let mut replaced = Replaced::new();
        let mut rows = self.rows(Column::Index);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            match (parse_id(key), Row::decode(value)) {
                (Some(id), Ok(row)) => {
                    counters.add(&row);
                    if !self.is_repeated(&id, &row).map_err(|error| self.health.fail(error))? {
                        self.repeated().restate(&mut change.batch, &id, &row);
                        wrong += 1;
                    }
                }
                (Some(id), Err(_)) => {
                    let row = self.replace_row(&mut change, &id);
                    row.iter().for_each(|row| counters.add(row));
                    replaced.insert(id, row);
                    wrong += 1;
                }
                (None, _) => {
                    change.batch.delete_cf(family(&self.db, Column::Index), key);
                    wrong += 1;
                }
            }
            rows.next();
        }
        rows.status().map_err(|error| self.write_error(error))?;
        wrong += self.entries_without_row(&mut change.batch, &replaced)?;
        wrong += u64::from(counters != change.counters);
        if repair && wrong > 0 {
            change.counters = counters;
            self.apply(&mut writer, change)?;
            // What was mended is not in the list of what the log takes.
            writer.unflushed.overflow();
        }
        Ok(wrong)
    }

    /// A new row for a block whose own does not decode. Where the block does not read either, all
    /// that is left of it goes.
    fn replace_row(&self, change: &mut Change<'_>, id: &BlockId) -> Option<Row> {
        let Ok(Some(block)) = self.find(id, ReadOptions::default()) else {
            change.batch.delete_cf(family(&self.db, Column::Index), id.as_bytes());
            change.batch.delete_cf(family(&self.db, Column::Blocks), id.as_bytes());
            return None;
        };
        let length = u32::try_from(block.bytes().len()).expect("a block is at most 1 MiB");
        let row = Row::careful(length, change.stamp());
        self.repeated().restate(&mut change.batch, id, &row);
        Some(row)
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
    fn entries_without_row(
        &self,
        batch: &mut rocksdb::WriteBatch,
        replaced: &Replaced,
    ) -> Result<u64, WriteError> {
        let row_of = |id: &BlockId| match replaced.get(id) {
            Some(row) => Ok(*row),
            None => self.row_to_change(id),
        };
        let mut wrong = 0;
        let mut owed = self.rows(Column::Owed);
        owed.seek_to_first();
        while let Some(key) = owed.key() {
            let row = parse_id(key).map(|id| row_of(&id)).transpose()?.flatten();
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
            let row = row_of(&id)?.filter(|row| row.order == order);
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::block::Block;
    use crate::config::LocalConfig;
    use crate::contract::{BlockStore, Class, Inventory, Purpose};

    #[test]
    fn a_block_is_kept_whose_row_does_not_decode() {
        let dir = tempfile::tempdir().unwrap();
        let config = LocalConfig { disk_reserve_bytes: 0, ..LocalConfig::default() };
        let store = Local::open(dir.path(), config).unwrap();
        let blocks = [7, 8, 9].map(|byte| Block::new(Bytes::from(vec![byte; 5000])).unwrap());
        blocks.iter().for_each(|block| store.put(block, Purpose::Publish).unwrap());
        let (garbled, gone) = (blocks[0].id(), blocks[1].id());
        for id in [&garbled, &gone] {
            store.db.put_cf(family(&store.db, Column::Index), id.as_bytes(), b"no row").unwrap();
        }
        store.db.delete_cf(family(&store.db, Column::Blocks), gone.as_bytes()).unwrap();
        assert!(store.check_rows(true).unwrap() > 0);
        assert_eq!(store.check_rows(false).unwrap(), 0);
        assert_eq!(store.class(&garbled).unwrap(), Some(Class::Pinned));
        assert_eq!(store.get(&garbled).unwrap(), blocks[0]);
        assert!(!store.contains(&gone).unwrap());
        assert_eq!((store.usage().blocks, store.owed_totals().0), (2, 2));
    }
}
