//! The end of a garbage collection: rows change as their marks say, unreachable blocks go.
//!
//! Rows are read without the writer lock and changed in batches under it. What was put or
//! renewed since has an order at or above the horizon by then, and is left alone. Changes are
//! not logged, like everything that is known of blocks: a crash makes the next collection do
//! them again.

use std::io;

use rocksdb::IteratorMode;

use super::columns::{Column, Row, parse_id};
use super::{Local, family, locked};
use crate::crash;
use crate::error::WriteError;
use crate::gc::{Marked, Swept};
use crate::horizon::Horizon;
use crate::id::BlockId;
use crate::standing::Standing;

/// Rows that change while writers wait: some milliseconds.
const BATCH_ROWS: usize = 256;

impl Local {
    pub(super) fn sweep_rows(
        &self,
        horizon: Horizon,
        marked: &Marked,
        dry_run: bool,
    ) -> Result<Swept, WriteError> {
        self.health.check()?;
        let verdict = |id: &BlockId, row: &Row| -> Option<Option<Standing>> {
            let after = marked.after_sweep(id, row.standing);
            (row.order < horizon.0 && after != Some(row.standing)).then_some(after)
        };
        let mut swept = Swept::default();
        let mut batch = Vec::with_capacity(BATCH_ROWS);
        let rows = self.db.iterator_cf(family(&self.db, Column::Index), IteratorMode::Start);
        for found in rows {
            let (key, value) = found.map_err(|error| WriteError::Io(io::Error::other(error)))?;
            // A row that does not read is the check's business; its block stays.
            let (Some(id), Ok(row)) = (parse_id(&key), Row::decode(&value)) else { continue };
            match verdict(&id, &row) {
                None => {}
                Some(after) if dry_run => {
                    swept.count(row.length.into(), row.standing, after);
                }
                Some(_) => batch.push(id),
            }
            if batch.len() == BATCH_ROWS {
                self.sweep_batch(&mut batch, &verdict, &mut swept)?;
            }
        }
        self.sweep_batch(&mut batch, &verdict, &mut swept)?;
        if !dry_run {
            self.sweep_bad(marked)?;
        }
        if !dry_run && swept.removed_blocks > 0 {
            self.drop_stale_pieces()?;
        }
        Ok(swept)
    }

    /// Changes the rows of a batch, each as it is by now.
    fn sweep_batch(
        &self,
        batch: &mut Vec<BlockId>,
        verdict: &dyn Fn(&BlockId, &Row) -> Option<Option<Standing>>,
        swept: &mut Swept,
    ) -> Result<(), WriteError> {
        let mut writer = locked(&self.writer);
        let mut change = self.change(&writer);
        let mut done = *swept;
        for id in batch.drain(..) {
            let Some(row) = self.row_to_change(&id)? else { continue };
            let Some(after) = verdict(&id, &row) else { continue };
            done.count(row.length.into(), row.standing, after);
            match after {
                Some(standing) => {
                    change.replace(&id, Some(row), Some(Row { standing, ..row }));
                    writer.unflushed.note(id, None);
                }
                None => change.remove(&id, row),
            }
        }
        crash::point("sweep-before");
        self.apply(&mut writer, change)?;
        crash::point("sweep-after");
        *swept = done;
        Ok(())
    }
}
