//! Putting back what lost tables said of blocks.
//!
//! Three places name a block: its row in `index`, its key in `blocks`, and, for all but the small
//! ones, the record in a blob file. Each of them makes good for the others:
//!
//! - A row whose key is lost gets its block from a blob file, or the block is set aside as bad.
//! - A key without a row gets one: pinned, in range and owed, the careful choice, because nobody
//!   knows any more why the block was held. The next garbage collection takes back what nothing
//!   names.
//! - A record that neither of the others knows is garbage, unless tables of both were lost.
//!
//! Where RocksDB met damage while it copied blobs, every block in them is read as well, and what
//! does not match its id is set aside: the next copy would fail over it again.
//!
//! Whether a key is there is asked of the probe: it has the tables and no blob files, so that it
//! answers for a block in a blob file with an error, and without reading the block.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rocksdb::{DB, FlushOptions, Options, WriteBatch, WriteOptions};

use super::blobs::{BlobFile, Spot};
use super::{BLOB, Loss, PROBE, RESCUE, file_name, numbers};
use crate::block::Block;
use crate::error::OpenError;
use crate::id::BlockId;
use crate::local::change::Rows;
use crate::local::columns::{BadRow, Column, POINT_KEY, Row, parse_id};
use crate::local::family;
use crate::local::fault::open_error;

/// Bytes of changes that are written at once.
const BATCH_BYTES: usize = 4 << 20;

/// What a rebuild did to blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::local) struct Mended {
    /// Blocks found again in blob files.
    pub(in crate::local) restored: u64,
    /// Blocks that are gone.
    pub(in crate::local) set_aside: u64,
    /// Blocks of which only the bytes were known.
    pub(in crate::local) unknown: u64,
}

struct Mend<'a> {
    db: &'a DB,
    rows: Rows<'a>,
    probe: Option<DB>,
    batch: WriteBatch,
    next_order: u64,
    now: u64,
    mended: Mended,
}

/// Step 4 of a rebuild; `now` in seconds since 1970.
pub(in crate::local) fn mend(
    dir: &Path,
    db: &DB,
    loss: &Loss,
    now: u64,
) -> Result<Mended, OpenError> {
    let mut mend = Mend {
        db,
        rows: Rows { db, point: None },
        probe: open_probe(&dir.join(PROBE))?,
        batch: WriteBatch::default(),
        next_order: 0,
        now,
        mended: Mended::default(),
    };
    let mut lost = mend.check_rows()?;
    let mut ids = BTreeSet::new();
    for number in numbers(&dir.join(RESCUE), BLOB).map_err(OpenError::Io)? {
        let path = dir.join(RESCUE).join(file_name(number, BLOB));
        let file = BlobFile::open(&path).map_err(OpenError::Io)?;
        for spot in file.spots().map_err(OpenError::Io)? {
            ids.insert(spot.id);
            mend.take_up(&file, &spot, &mut lost, loss)?;
        }
    }
    if loss.may_lack(Column::Index) {
        mend.take_up_small(&ids)?;
    }
    for (id, row) in lost {
        mend.rows.forget(&mut mend.batch, &id, &row);
        let bad = BadRow { row, since: mend.now };
        mend.batch.put_cf(family(db, Column::Bad), id.as_bytes(), bad.encode());
        mend.mended.set_aside += 1;
        mend.write_if_full()?;
    }
    mend.drop_stale_owed()?;
    // The order of eviction is made anew from the rows when the store opens.
    mend.batch.delete_cf(family(db, Column::Evictable), POINT_KEY);
    mend.write()?;
    let families = Column::UNLOGGED.map(|column| family(db, column));
    db.flush_cfs_opt(&families.each_ref(), &FlushOptions::default()).map_err(open_error)?;
    Ok(mend.mended)
}

fn open_probe(path: &Path) -> Result<Option<DB>, OpenError> {
    let options = Options::default();
    let families = DB::list_cf(&options, path).map_err(open_error)?;
    if !families.iter().any(|name| name == Column::Blocks.name()) {
        return Ok(None);
    }
    DB::open_cf_for_read_only(&options, path, families, false).map(Some).map_err(open_error)
}

impl Mend<'_> {
    /// Writes all that repeats the rows anew, and returns the rows whose block has no key.
    fn check_rows(&mut self) -> Result<BTreeMap<BlockId, Row>, OpenError> {
        let db = self.db;
        let mut lost = BTreeMap::new();
        let mut rows = db.raw_iterator_cf(family(db, Column::Index));
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            match (parse_id(key), Row::decode(value)) {
                (Some(id), Ok(row)) => {
                    self.next_order = self.next_order.max(row.order.saturating_add(1));
                    self.rows.restate(&mut self.batch, &id, &row);
                    if !self.is_known(&id)? {
                        lost.insert(id, row);
                    }
                }
                _ => self.batch.delete_cf(family(db, Column::Index), key),
            }
            self.write_if_full()?;
            rows.next();
        }
        rows.status().map_err(open_error)?;
        Ok(lost)
    }

    /// Whether `blocks` has the key.
    fn is_known(&self, id: &BlockId) -> Result<bool, OpenError> {
        if let Some(probe) = &self.probe {
            match probe.get_pinned_cf(family(probe, Column::Blocks), id.as_bytes()) {
                Ok(None) => {}
                // An error says that the value is in a blob file, which the probe does not have.
                Ok(Some(_)) | Err(_) => return Ok(true),
            }
        }
        // What came from the log is in no table yet.
        let found = self.db.get_pinned_cf(family(self.db, Column::Blocks), id.as_bytes());
        Ok(found.map_err(open_error)?.is_some())
    }

    /// Makes use of a record in a blob file.
    fn take_up(
        &mut self,
        file: &BlobFile,
        spot: &Spot,
        lost: &mut BTreeMap<BlockId, Row>,
        loss: &Loss,
    ) -> Result<(), OpenError> {
        let db = self.db;
        if lost.contains_key(&spot.id) {
            if let Some(block) = file.block(spot).map_err(OpenError::Io)? {
                self.put_block(&block);
                lost.remove(&spot.id);
                self.mended.restored += 1;
            }
            return self.write_if_full();
        }
        let row = db.get_pinned_cf(family(db, Column::Index), spot.id.as_bytes());
        if let Some(row) = row.map_err(open_error)? {
            if loss.reads_blobs
                && file.block(spot).map_err(OpenError::Io)?.is_none()
                && !self.reads(&spot.id)
                && let Ok(row) = Row::decode(&row)
            {
                lost.insert(spot.id, row);
            }
            return Ok(());
        }
        if self.is_known(&spot.id)? {
            self.add_row(spot.id, spot.length);
        } else if loss.may_hide_blocks()
            && let Some(block) = file.block(spot).map_err(OpenError::Io)?
        {
            self.put_block(&block);
            self.add_row(spot.id, spot.length);
        }
        self.write_if_full()
    }

    /// Whether the store reads a block, wherever it is by now.
    fn reads(&self, id: &BlockId) -> bool {
        let found = self.db.get_pinned_cf(family(self.db, Column::Blocks), id.as_bytes());
        matches!(found, Ok(Some(bytes)) if BlockId::of(&bytes) == *id)
    }

    /// Gives rows to blocks that lie in the tables themselves. `ids` are those in blob files,
    /// over which the probe cannot step.
    fn take_up_small(&mut self, ids: &BTreeSet<BlockId>) -> Result<(), OpenError> {
        let db = self.db;
        let Some(probe) = self.probe.take() else { return Ok(()) };
        let mut keys = probe.raw_iterator_cf(family(&probe, Column::Blocks));
        let mut found = BTreeMap::new();
        keys.seek_to_first();
        let mut next = ids.iter();
        loop {
            while let Some((key, value)) = keys.item() {
                found.extend(parse_id(key).map(|id| (id, value.len() as u32)));
                keys.next();
            }
            let Some(id) = next.next() else { break };
            keys.seek([id.as_bytes().as_slice(), &[0]].concat());
        }
        drop(keys);
        for (id, length) in found {
            let row = db.get_pinned_cf(family(db, Column::Index), id.as_bytes());
            if row.map_err(open_error)?.is_none() {
                self.add_row(id, length);
                self.write_if_full()?;
            }
        }
        Ok(())
    }

    /// Entries of `owed` that no row repeats come from tables that were lost.
    fn drop_stale_owed(&mut self) -> Result<(), OpenError> {
        self.write()?;
        let db = self.db;
        let mut owed = db.raw_iterator_cf(family(db, Column::Owed));
        owed.seek_to_first();
        while let Some(key) = owed.key() {
            let row = db.get_pinned_cf(family(db, Column::Index), key).map_err(open_error)?;
            if !row.is_some_and(|row| Row::decode(&row).is_ok_and(|row| row.standing.owed)) {
                self.batch.delete_cf(family(db, Column::Owed), key);
                self.write_if_full()?;
            }
            owed.next();
        }
        owed.status().map_err(open_error)
    }

    fn put_block(&mut self, block: &Block) {
        let blocks = family(self.db, Column::Blocks);
        self.batch.put_cf(blocks, block.id().as_bytes(), block.bytes());
    }

    fn add_row(&mut self, id: BlockId, length: u32) {
        let row = Row::careful(length, self.next_order);
        self.next_order += 1;
        self.rows.restate(&mut self.batch, &id, &row);
        self.mended.unknown += 1;
    }

    fn write_if_full(&mut self) -> Result<(), OpenError> {
        match self.batch.size_in_bytes() > BATCH_BYTES {
            true => self.write(),
            false => Ok(()),
        }
    }

    fn write(&mut self) -> Result<(), OpenError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        let batch = std::mem::take(&mut self.batch);
        self.db.write_opt(batch, &options).map_err(open_error)
    }
}
