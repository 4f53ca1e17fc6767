//! `Local`: blocks and ledger on this machine's disk, in RocksDB.
//!
//! Owns everything below its directory: `in-use` (the lock), `format` (the version), `db/`.
//!
//! Invariants:
//!
//! 1. A block, its row in `index` and what repeats that row (`owed`, `evictable`) change in one
//!    batch, which is not logged, and are flushed atomically together; where `flush` logs a few
//!    blocks instead, it logs all of this (see `durable`). So after a crash every row has its
//!    block and every block its row; what was not flushed is gone as a whole, and no later row
//!    brings back the name of a lost block.
//! 2. Changes of rows are serialised by the writer lock, and the counters are set under it after
//!    the batch is written: they always equal the sums over `index`.
//! 3. The ledger is written through the log and synced at each commit. Its order against blocks
//!    is the caller's: flush blocks, then commit what names them.
//! 4. Walking ids, owed ids and evictable ids reads no blob file.
//! 5. After a failed write nothing is written until the store is reopened (see `fault`).
//!
//! Lock order: making room, then flushing, then writer, then counters, then the guards and the
//! reclaimer's state.
//! `usage` and `owed_totals` take the counters alone, so they never wait for the disk's writes.
//!
//! Deliberately absent: a cache of blocks (readers have one of opened segments), and fetching a
//! corrupt block again (see `bad`).

mod admit;
mod bad;
mod budget;
mod change;
mod columns;
mod durable;
mod fault;
mod pieces;
mod rebuild;
mod reclaim;
mod recover;
mod rows;
mod scrub;
mod space;
mod staged;
mod sweep;

pub use scrub::{ScrubStep, Scrubber};

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rocksdb::{ColumnFamily, DB, DBRawIterator, ReadOptions, WriteBatch, WriteOptions};

use crate::block::Block;
use crate::config::LocalConfig;
use crate::contract::{
    BadBlock, Batch, BlockStore, Class, Inventory, Ledger, Purpose, Table, Usage,
};
use crate::crash;
use crate::error::{OpenError, ReadError, WriteError};
use crate::gc::{Marked, Swept};
use crate::horizon::{Guards, Horizon, WriteGuard};
use crate::id::{BlockId, ID_BYTES};
use crate::pieces::{PieceHash, PiecePlace};
use crate::standing::Standing;
use admit::{Admission, Wanted};
use budget::Budget;
use change::{Change, Counters, Cursor, Rows};
use columns::{Column, Row, parse_id, rank_of};
use durable::Unflushed;
use fault::{Health, is_no_space, read_error};
use reclaim::Reclaimer;
use scrub::Place;
use space::Space;
use staged::Staged;

/// Most ids that one call reserves memory for before it found them.
const IDS_RESERVED_MAX: usize = 4096;

/// The store of one home, on disk. One process at a time has it open.
pub struct Local {
    /// Declared before `db`: it ends background work before the database closes.
    reclaimer: Reclaimer,
    db: Arc<DB>,
    dir: PathBuf,
    config: LocalConfig,
    budget: Budget,
    space: Space,
    /// Shortest prefix shared with our point that is in range, in bits.
    range_bits: AtomicU8,
    /// Orders below this are in the older half of what may be evicted.
    older_half: AtomicU64,
    health: Health,
    writer: Mutex<Writer>,
    making_room: Mutex<()>,
    flushing: Mutex<()>,
    counters: Arc<Mutex<Counters>>,
    guards: Arc<Guards>,
    staged: Arc<Mutex<Staged>>,
    /// Taken before every other lock, by the scrub alone.
    scrub: Mutex<Place>,
    /// Declared last: the store is free for others only when the database is closed.
    _lock: File,
}

/// What changes with every block put.
#[derive(Debug)]
struct Writer {
    cursor: Cursor,
    unflushed: Unflushed,
}

impl Local {
    /// Opens the store in `dir`, or makes it. Reads the small row of every block once.
    ///
    /// # Errors
    /// `Locked`, `Newer`, `Damaged` or `Io`.
    pub fn open(dir: &Path, config: LocalConfig) -> Result<Self, OpenError> {
        let budget = Budget::of(&config)?;
        let lock = recover::lock(dir)?;
        recover::check_format(dir)?;
        let (mut db, counters, cursor) = recover::open_database(dir, &budget)?;
        recover::renew(&mut db, config.point.as_ref())?;
        let db = Arc::new(db);
        let staged = Arc::new(Mutex::new(Staged::of(&db)?));
        let counters = Arc::new(Mutex::new(counters));
        let live_bytes = {
            let counters = Arc::clone(&counters);
            move || locked(&counters).blob_bytes
        };
        let staged_bytes = {
            let staged = Arc::clone(&staged);
            move || locked(&staged).bytes()
        };
        let (live_bytes, staged_bytes) = (Box::new(live_bytes), Box::new(staged_bytes));
        let reclaimer = Reclaimer::start(Arc::clone(&db), budget, live_bytes, staged_bytes)
            .map_err(OpenError::Io)?;
        let space = Space::new(dir);
        space.scan(&db).map_err(OpenError::Io)?;
        let unflushed = Unflushed::new(budget.logged_bytes);
        Ok(Self {
            reclaimer,
            db,
            dir: dir.to_owned(),
            config,
            budget,
            space,
            range_bits: AtomicU8::new(0),
            older_half: AtomicU64::new(cursor.middle()),
            health: Health::default(),
            writer: Mutex::new(Writer { cursor, unflushed }),
            making_room: Mutex::new(()),
            flushing: Mutex::new(()),
            counters,
            guards: Arc::default(),
            staged,
            scrub: Mutex::default(),
            _lock: lock,
        })
    }

    fn row(&self, id: &BlockId) -> Result<Option<Row>, ReadError> {
        let row = self
            .db
            .get_pinned_cf(family(&self.db, Column::Index), id.as_bytes())
            .map_err(|error| read_error(id, error))?;
        row.map(|row| Row::decode(&row))
            .transpose()
            .map_err(|error| ReadError::Corrupt { id: *id, detail: error.to_string() })
    }

    /// The row of a block on the way to changing it: a failure ends the writing.
    fn row_to_change(&self, id: &BlockId) -> Result<Option<Row>, WriteError> {
        self.row(id).map_err(|error| self.health.fail(error))
    }

    /// The block as it is on disk. It is checked against its id, so RocksDB's own checksum over
    /// the same bytes, which takes longer, is left out.
    fn find(&self, id: &BlockId, mut options: ReadOptions) -> Result<Option<Block>, ReadError> {
        options.set_verify_checksums(false);
        let found = self
            .db
            .get_pinned_cf_opt(family(&self.db, Column::Blocks), id.as_bytes(), &options)
            .map_err(|error| read_error(id, error))?;
        found
            .map(|found| Block::verified(*id, Bytes::copy_from_slice(&found)))
            .transpose()
            .map_err(|error| ReadError::Corrupt { id: *id, detail: error.to_string() })
    }

    fn read_block(&self, id: &BlockId) -> Result<Block, ReadError> {
        if let Some(block) = self.find(id, ReadOptions::default())? {
            return Ok(block);
        }
        // Damage among the keys may hide a block, which the index knows about. Both are asked
        // as they are at one moment, whatever is put and removed meanwhile.
        let now = self.db.snapshot();
        let at = || {
            let mut options = ReadOptions::default();
            options.set_snapshot(&now);
            options
        };
        let row = self
            .db
            .get_pinned_cf_opt(family(&self.db, Column::Index), id.as_bytes(), &at())
            .map_err(|error| read_error(id, error))?;
        match (self.find(id, at())?, row) {
            (Some(block), _) => Ok(block),
            (None, None) => Err(ReadError::Missing { id: *id }),
            (None, Some(_)) => Err(ReadError::Corrupt {
                id: *id,
                detail: "the index names it and it is not there".to_owned(),
            }),
        }
    }

    fn change(&self, writer: &Writer) -> Change<'_> {
        Change::new(self.repeated(), *locked(&self.counters), writer.cursor)
    }

    /// Puts a block where there is room.
    fn try_put(&self, block: &Block, purpose: Purpose) -> Result<Admission, WriteError> {
        self.health.check()?;
        let id = block.id();
        // Nothing may lean on a block that is named and does not read. Reading takes long, so
        // other writers do not wait for it.
        let reads = || matches!(self.find(&id, ReadOptions::default()), Ok(Some(_)));
        let known = self.row_to_change(&id)?.map(|row| (row.order, reads()));
        let mut writer = locked(&self.writer);
        let Some(row) = self.row_to_change(&id)? else {
            return self.insert(&mut writer, block, purpose);
        };
        let mut raised = Row { standing: row.standing.after_put(purpose), ..row };
        // With another order it was put or used since.
        let known = known.filter(|(order, _)| *order == row.order);
        let reads = known.map_or_else(reads, |(_, reads)| reads);
        if reads && raised == row && self.guards.covers(row.order) {
            return Ok(Admission::Done);
        }
        let mut change = self.change(&writer);
        if !reads {
            change.mend(block);
        }
        raised.order = change.stamp();
        change.replace(&id, Some(row), Some(raised));
        self.apply(&mut writer, change)?;
        if !reads || raised.standing != row.standing {
            writer.unflushed.note(id, (!reads).then(|| block.clone()));
        }
        Ok(Admission::Done)
    }

    /// Where rows are repeated.
    fn repeated(&self) -> Rows<'_> {
        Rows { db: &self.db, point: self.config.point.as_ref() }
    }

    /// Takes note that a block was used, so that others are evicted before it. One that stands in
    /// the newer half stays where it is, so that reading hardly writes; and nobody waits.
    fn touch(&self, id: &BlockId) {
        let older_half = self.older_half.load(Ordering::Relaxed);
        let in_older_half = |row: &Row| {
            row.order < older_half && rank_of(self.config.point.as_ref(), row, id).is_some()
        };
        if self.config.quota_bytes.is_none()
            || !matches!(self.row(id), Ok(Some(row)) if in_older_half(&row))
        {
            return;
        }
        let Ok(mut writer) = self.writer.try_lock() else { return };
        if self.health.check().is_ok()
            && let Ok(Some(row)) = self.row(id)
            && in_older_half(&row)
        {
            let mut change = self.change(&writer);
            let used = Row { order: change.stamp(), ..row };
            change.replace(id, Some(row), Some(used));
            if let Err(error) = self.apply(&mut writer, change) {
                tracing::warn!(%error, "could not take note that a block was used");
            }
        }
    }

    /// Writes a change and lets it count. The writer is held, so nothing came in between.
    fn apply(&self, writer: &mut Writer, change: Change<'_>) -> Result<(), WriteError> {
        self.space.admit(change.batch.size_in_bytes() as u64);
        self.db.write_without_wal(change.batch).map_err(|error| self.write_error(error))?;
        writer.cursor = change.cursor;
        self.older_half.store(change.cursor.middle(), Ordering::Relaxed);
        *locked(&self.counters) = change.counters;
        if change.dropped_bytes > 0 {
            self.reclaimer.dropped(change.dropped_bytes);
        }
        Ok(())
    }

    fn write_error(&self, error: rocksdb::Error) -> WriteError {
        if is_no_space(&error) {
            let used = locked(&self.counters).used_bytes();
            return WriteError::Full { used, limit: used };
        }
        if error.kind() == rocksdb::ErrorKind::Corruption
            && let Err(error) = rebuild::suspect(
                &self.dir,
                error.as_ref().contains(".blob") || !error.as_ref().contains(".sst"),
            )
        {
            tracing::warn!(%error, "could not ask the next opening for a rebuild");
        }
        self.health.fail(error)
    }

    /// Ids in a family whose keys are ids.
    fn walk(
        &self,
        column: Column,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, ReadError> {
        let mut ids = Vec::with_capacity(limit.min(IDS_RESERVED_MAX));
        let mut rows = self.rows(column);
        match after {
            // The shortest key that is greater.
            Some(id) => rows.seek([id.as_bytes().as_slice(), &[0]].concat()),
            None => rows.seek_to_first(),
        }
        while ids.len() < limit
            && let Some(key) = rows.key()
        {
            ids.push(parse_id(key).ok_or_else(|| bad_key(column, key.len()))?);
            rows.next();
        }
        rows.status().map_err(scan_error)?;
        Ok(ids)
    }

    fn rows(&self, column: Column) -> DBRawIterator<'_> {
        self.db.raw_iterator_cf(family(&self.db, column))
    }
}

impl BlockStore for Local {
    fn get(&self, id: &BlockId) -> Result<Block, ReadError> {
        let read = self.read_block(id);
        let Err(ReadError::Corrupt { detail, .. }) = &read else {
            self.touch(id);
            return read;
        };
        match self.set_aside(id, detail) {
            Ok(Some(block)) => Ok(block),
            Ok(None) => read,
            Err(error) => {
                tracing::warn!(block = %id, %error, "could not set a damaged block aside");
                read
            }
        }
    }

    fn contains(&self, id: &BlockId) -> Result<bool, ReadError> {
        Ok(self.row(id)?.is_some())
    }

    fn put(&self, block: &Block, purpose: Purpose) -> Result<(), WriteError> {
        while self.try_put(block, purpose)? == Admission::Short {
            self.make_room(Wanted::block(block, purpose))?;
        }
        Ok(())
    }

    fn renew(&self, id: &BlockId) -> Result<bool, WriteError> {
        self.health.check()?;
        let mut writer = locked(&self.writer);
        let Some(row) = self.row_to_change(id)? else { return Ok(false) };
        if !self.guards.covers(row.order) {
            let mut change = self.change(&writer);
            let renewed = Row { order: change.stamp(), ..row };
            change.replace(id, Some(row), Some(renewed));
            self.apply(&mut writer, change)?;
        }
        Ok(true)
    }

    fn guard(&self) -> WriteGuard {
        let writer = locked(&self.writer);
        self.guards.enter(writer.cursor.next)
    }

    fn flush(&self) -> Result<(), WriteError> {
        self.make_durable()
    }

    fn find_piece(&self, hash: &PieceHash) -> Result<Option<PiecePlace>, ReadError> {
        self.piece(hash)
    }

    fn note_pieces(&self, pieces: &[(PieceHash, PiecePlace)]) -> Result<(), WriteError> {
        self.write_pieces(pieces)
    }
}

impl Inventory for Local {
    fn ids(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BlockId>, ReadError> {
        self.walk(Column::Index, after, limit)
    }

    fn owed(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BlockId>, ReadError> {
        self.walk(Column::Owed, after, limit)
    }

    fn owed_totals(&self) -> (u64, u64) {
        let counters = locked(&self.counters);
        (counters.owed_blocks, counters.owed_bytes)
    }

    fn copies(&self, id: &BlockId) -> Result<u8, ReadError> {
        Ok(self.row(id)?.map_or(0, |row| row.standing.copies))
    }

    fn set_copies(&self, id: &BlockId, copies: u8, settled: bool) -> Result<(), WriteError> {
        self.health.check()?;
        let mut writer = locked(&self.writer);
        let Some(row) = self.row_to_change(id)? else { return Ok(()) };
        let told = Standing { copies, owed: !settled, ..row.standing };
        let told = Row { standing: told, ..row };
        if told == row {
            return Ok(());
        }
        let mut change = self.change(&writer);
        change.replace(id, Some(row), Some(told));
        self.apply(&mut writer, change)
    }

    fn class(&self, id: &BlockId) -> Result<Option<Class>, ReadError> {
        Ok(self.row(id)?.map(|row| row.standing.class()))
    }

    fn vacate(&self, id: &BlockId) -> Result<bool, WriteError> {
        self.health.check()?;
        let mut writer = locked(&self.writer);
        let Some(row) = self.row_to_change(id)? else { return Ok(false) };
        let mut change = self.change(&writer);
        let standing = row.standing.after_vacate();
        match standing {
            Some(standing) if standing == row.standing => return Ok(false),
            Some(standing) => change.replace(id, Some(row), Some(Row { standing, ..row })),
            None => change.remove(id, row),
        }
        self.apply(&mut writer, change)?;
        Ok(standing.is_none())
    }

    fn usage(&self) -> Usage {
        let counters = *locked(&self.counters);
        Usage {
            pinned_bytes: counters.pinned_bytes,
            in_range_bytes: counters.in_range_bytes,
            cached_bytes: counters.cached_bytes,
            blocks: counters.blocks,
            bad_blocks: counters.bad_blocks,
            staged_bytes: locked(&self.staged).bytes(),
            occupied_bytes: self.space.reported(&self.db),
            reclaimable_bytes: self.reclaimer.garbage_bytes(),
            quota_bytes: self.config.quota_bytes.unwrap_or(u64::MAX),
            disk_free_bytes: self.disk_free_bytes().unwrap_or_else(|error| {
                tracing::warn!(%error, "could not tell the free space of the store's disk");
                0
            }),
        }
    }

    fn bad(&self, after: Option<&BlockId>, limit: usize) -> Result<Vec<BadBlock>, ReadError> {
        self.bad_blocks(after, limit)
    }

    fn check_rows(&self, repair: bool) -> Result<u64, WriteError> {
        self.compare_rows(repair)
    }

    fn remove(&self, id: &BlockId) -> Result<(), WriteError> {
        self.health.check()?;
        let mut writer = locked(&self.writer);
        let Some(row) = self.row_to_change(id)? else { return Ok(()) };
        let mut change = self.change(&writer);
        change.remove(id, row);
        crash::point("remove-before");
        self.apply(&mut writer, change)?;
        crash::point("remove-after");
        Ok(())
    }

    fn set_range(&self, prefix_bits: u8) {
        self.range_bits.store(prefix_bits, Ordering::Relaxed);
    }

    fn reclaim(&self) -> Result<(), WriteError> {
        self.health.check()?;
        self.reclaimer.drain();
        self.look();
        self.health.check()
    }

    fn horizon(&self) -> Horizon {
        let writer = locked(&self.writer);
        self.guards.horizon(writer.cursor.next)
    }

    fn sweep(&self, horizon: Horizon, marked: &Marked, dry_run: bool) -> Result<Swept, WriteError> {
        self.sweep_rows(horizon, marked, dry_run)
    }
}

impl Ledger for Local {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let value =
            self.db.get_pinned_cf(family(&self.db, table.into()), key).map_err(scan_error)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, ReadError> {
        let mut found = Vec::new();
        let mut rows = self.rows(table.into());
        rows.seek(prefix);
        while let Some((key, value)) = rows.item()
            && key.starts_with(prefix)
        {
            found.push((key.to_vec(), Bytes::copy_from_slice(value)));
            rows.next();
        }
        rows.status().map_err(scan_error)?;
        Ok(found)
    }

    fn commit(&self, batch: Batch) -> Result<(), WriteError> {
        self.health.check()?;
        let mut writes = WriteBatch::default();
        for (table, key, value) in &batch.changes {
            let family = family(&self.db, (*table).into());
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        // Only what adds to the journal may be refused: heads, and what empties it, go through.
        let staged = batch.changes.iter().filter(|(table, ..)| *table == Table::Journal);
        let staged: usize = staged.filter_map(|(_, _, value)| Some(value.as_ref()?.len())).sum();
        let wanted = Wanted::records(2 * staged as u64);
        while staged > 0 && self.shortage(wanted) > 0 {
            self.make_room(wanted)?;
        }
        // Once into the log, and once more into the buffers.
        self.space.admit(2 * writes.size_in_bytes() as u64);
        self.db.write_opt(writes, &options).map_err(|error| self.write_error(error))?;
        locked(&self.staged).note(&batch);
        Ok(())
    }
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("dir", &self.dir).finish_non_exhaustive()
    }
}

fn family(db: &DB, column: Column) -> &ColumnFamily {
    db.cf_handle(column.name()).expect("the database was opened with every family")
}

/// What these locks hold is replaced as a whole, so a holder that panicked left it whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn scan_error(error: rocksdb::Error) -> ReadError {
    ReadError::Io(io::Error::other(error))
}

fn bad_key(column: Column, length: usize) -> ReadError {
    let name = column.name();
    let detail = format!("a key of {length} bytes in {name}, where ids have {ID_BYTES}");
    ReadError::Io(io::Error::new(io::ErrorKind::InvalidData, detail))
}
