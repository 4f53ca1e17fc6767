//! Opening the local store: the lock, the format version, the database, the counters.
//!
//! In this order, and each before anything that depends on it is touched. The version stands in
//! a small file beside the database and not in it, so that a store whose database a newer
//! RocksDB wrote is still refused as newer and not as damaged.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rocksdb::{DB, DBRecoveryMode, FlushOptions, ReadOptions, WriteBatch};

use super::bad::seconds_now;
use super::budget::Budget;
use super::change::{Counters, Cursor};
use super::columns::{
    Column, FORMER_CACHED, Memory, POINT_KEY, Row, database_options, descriptors, evictable_key,
    parse_id, rank_of,
};
use super::fault::{chain, is_damage, is_no_file, open_error};
use super::rebuild::Loss;
use super::{family, rebuild};
use crate::crash;
use crate::error::OpenError;
use crate::id::{BlockId, ID_BYTES};

/// Version of the column families and their rows. Raised when this version of xorfs could not
/// use a store as the next one writes it.
const STORE_FORMAT: u32 = 1;

/// Read at a time on a walk over all rows: they lie one after the other.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// What the format file says before the version.
const FORMAT_PREFIX: &str = "xorfs store format ";

/// Tries to take the store before it counts as in use, and the pause between two of them. A
/// process that starts another one shares its locks with it until that one runs its program, so a
/// lock may outlive the store that held it by some milliseconds.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Takes the store for this process. It is free again when the file is closed, however the
/// process ends.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    fs::create_dir_all(dir).map_err(OpenError::Io)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("in-use"))
        .map_err(OpenError::Io)?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(OpenError::Io(error)),
        }
    }
    Err(OpenError::Locked)
}

/// Refuses a store written by a newer version; marks a new one with ours.
pub(super) fn check_format(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join("format");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if dir.join("db").exists() {
                return Err(damaged("the format file is missing"));
            }
            return write_format(dir, &path).map_err(OpenError::Io);
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(damaged("the format file is not text"));
        }
        Err(error) => return Err(OpenError::Io(error)),
    };
    let found = text.strip_prefix(FORMAT_PREFIX).and_then(|rest| rest.trim_end().parse().ok());
    match found {
        Some(STORE_FORMAT) => Ok(()),
        Some(found) if found > STORE_FORMAT => Err(OpenError::Newer { found, known: STORE_FORMAT }),
        _ => Err(damaged("the format file does not hold a version")),
    }
}

/// The database, and what was counted in it.
pub(super) type Opened = (DB, Counters, Cursor);

/// Opens the database, or makes it; a damaged one is rebuilt first (see `rebuild`).
pub(super) fn open_database(dir: &Path, budget: &Budget) -> Result<Opened, OpenError> {
    if rebuild::find_manifest(dir).map_err(OpenError::Io)? {
        tracing::warn!("the database did not say which manifest is its own; the newest is taken");
    }
    let mut hides = rebuild::is_interrupted(dir);
    let installed = rebuild::is_installed(dir);
    if !hides {
        rebuild::drop_probe(dir).map_err(OpenError::Io)?;
    }
    if installed || !rebuild::is_wanted(dir) {
        match try_open(dir, budget) {
            Ok((db, ..)) if installed => {
                let reads_blobs = rebuild::suspects_blobs(dir);
                return mend(dir, db, &Loss { hides, reads_blobs, ..Loss::default() });
            }
            Ok(opened) => return Ok(opened),
            Err(error) if !is_damage(&error) => return Err(error),
            Err(error) => {
                let reason = chain(&error);
                tracing::error!(reason, "the local store is damaged; rebuilding what leads to it");
                hides |= is_no_file(&reason);
            }
        }
    }
    let mut loss = rebuild::rebuild(dir).map_err(rebuild_error)?;
    loss.hides = hides;
    loss.reads_blobs = rebuild::suspects_blobs(dir);
    let (db, ..) = try_open(dir, budget)?;
    mend(dir, db, &loss)
}

/// The last step of a rebuild.
fn mend(dir: &Path, db: DB, loss: &Loss) -> Result<Opened, OpenError> {
    crash::point("rebuild-before-mend");
    let mended = rebuild::mend::mend(dir, &db, loss, seconds_now())?;
    for (table, column) in &loss.tables {
        let family = column.map_or("an unknown family", Column::name);
        tracing::error!(table, family, "a damaged table is lost");
    }
    tracing::error!(
        tables = loss.tables.len(),
        restored = mended.restored,
        set_aside = mended.set_aside,
        unknown = mended.unknown,
        "the local store was rebuilt; `xorfs check` tells what it lacks"
    );
    crash::point("rebuild-after-mend");
    rebuild::finish(dir).map_err(OpenError::Io)?;
    let (counters, cursor) = count(&db)?;
    Ok((db, counters, cursor))
}

/// Opens the database as it is. Everything in the log was synced, so a log that does not read
/// to its end is damaged; what follows the damage is lost then, and that is told.
fn try_open(dir: &Path, budget: &Budget) -> Result<Opened, OpenError> {
    let path = dir.join("db");
    let memory = Memory::new(budget);
    let former = match path.join("CURRENT").exists() {
        true => DB::list_cf(&database_options(budget, &memory), &path).map_err(open_error)?,
        false => Vec::new(),
    };
    let former = former.iter().any(|name| name == FORMER_CACHED).then_some(FORMER_CACHED);
    let open = |mode| {
        let mut options = database_options(budget, &memory);
        options.set_wal_recovery_mode(mode);
        DB::open_cf_descriptors(&options, &path, descriptors(budget, &memory, former))
            .map_err(open_error)
    };
    let modes = [
        DBRecoveryMode::TolerateCorruptedTailRecords,
        DBRecoveryMode::PointInTime,
        DBRecoveryMode::SkipAnyCorruptedRecord,
    ];
    let mut first = None;
    for mode in modes {
        match open(mode) {
            Ok(db) => {
                if let Some(error) = first {
                    let reason = chain(&error);
                    tracing::error!(reason, "the log is damaged; changes behind that are lost");
                }
                let (counters, cursor) = count(&db)?;
                check_small(&db)?;
                return Ok((db, counters, cursor));
            }
            Err(error) if is_damage(&error) => first = first.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(first.expect("a mode was tried"))
}

/// Brings what an earlier version left up to date, and `evictable` where it is measured from
/// another point than ours.
pub(super) fn renew(db: &mut DB, point: Option<&[u8; ID_BYTES]>) -> Result<(), OpenError> {
    rank(db, point)?;
    match db.cf_handle(FORMER_CACHED).is_some() {
        true => db.drop_cf(FORMER_CACHED).map_err(open_error),
        false => Ok(()),
    }
}

/// Makes `evictable` anew from `index` where it is missing or measured from another point.
///
/// The point is written last, so a crash in the middle makes the next opening begin again.
fn rank(db: &DB, point: Option<&[u8; ID_BYTES]>) -> Result<(), OpenError> {
    /// Places written at a time.
    const PLACES: usize = 4096;
    let evictable = family(db, Column::Evictable);
    let point_bytes: &[u8] = point.map_or(&[], |point| point);
    let known = db.get_pinned_cf(evictable, POINT_KEY).map_err(open_error)?;
    if known.is_some_and(|known| *known == *point_bytes) {
        return Ok(());
    }
    let write = |batch| db.write_without_wal(batch).map_err(open_error);
    let mut batch = WriteBatch::default();
    batch.delete_range_cf(evictable, [].as_slice(), &[0xff, 0xff]);
    for_each_row(db, |id, row| {
        if let Some(rank) = rank_of(point, row, id) {
            batch.put_cf(evictable, evictable_key(rank, row.order, id), b"");
        }
        if batch.len() >= PLACES {
            write(std::mem::take(&mut batch))?;
        }
        Ok(())
    })?;
    batch.put_cf(evictable, POINT_KEY, point_bytes);
    write(batch)?;
    let families = Column::UNLOGGED.map(|column| family(db, column));
    db.flush_cfs_opt(&families.each_ref(), &FlushOptions::default()).map_err(open_error)
}

/// Counts what `index` holds. Walks rows of 15 bytes, not the blocks.
fn count(db: &DB) -> Result<(Counters, Cursor), OpenError> {
    let mut counters = Counters::default();
    let mut cursor = Cursor { next: 0, evict_from: u64::MAX };
    for_each_row(db, |id, row| {
        counters.add(row);
        cursor.next = cursor.next.max(row.order.saturating_add(1));
        if rank_of(None, row, id) == Some(0) {
            cursor.evict_from = cursor.evict_from.min(row.order);
        }
        Ok(())
    })?;
    cursor.evict_from = cursor.evict_from.min(cursor.next);
    count_bad(db, &mut counters)?;
    Ok((counters, cursor))
}

fn for_each_row(
    db: &DB,
    mut visit: impl FnMut(&BlockId, &Row) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let mut options = ReadOptions::default();
    options.set_readahead_size(READ_AHEAD_BYTES);
    options.fill_cache(false);
    let mut rows = db.raw_iterator_cf_opt(family(db, Column::Index), options);
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        let id = parse_id(key).ok_or_else(|| damaged("a key of the index is no block id"))?;
        let row = Row::decode(value)
            .map_err(|error| damaged(&format!("the index row of block {id}: {error}")))?;
        visit(&id, &row)?;
        rows.next();
    }
    rows.status().map_err(open_error)
}

/// Counts the bad blocks, and drops those that a crash brought back together with the block.
fn count_bad(db: &DB, counters: &mut Counters) -> Result<(), OpenError> {
    let (bad, index) = (family(db, Column::Bad), family(db, Column::Index));
    let mut rows = db.raw_iterator_cf(bad);
    rows.seek_to_first();
    while let Some(key) = rows.key() {
        if db.get_pinned_cf(index, key).map_err(open_error)?.is_some() {
            let mut batch = WriteBatch::default();
            batch.delete_cf(bad, key);
            db.write_without_wal(batch).map_err(open_error)?;
        } else {
            counters.bad_blocks += 1;
        }
        rows.next();
    }
    rows.status().map_err(open_error)
}

/// Reads the other small families to their end, so that damage is met now and not halfway
/// through some work.
fn check_small(db: &DB) -> Result<(), OpenError> {
    let walked = [Column::Blocks, Column::Index, Column::Bad];
    for column in Column::ALL.into_iter().filter(|column| !walked.contains(column)) {
        let mut rows = db.raw_iterator_cf(family(db, column));
        rows.seek_to_first();
        while rows.valid() {
            rows.next();
        }
        rows.status().map_err(open_error)?;
    }
    Ok(())
}

fn rebuild_error(error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::InvalidData => damaged(&error.to_string()),
        _ => OpenError::Io(error),
    }
}

/// Written under another name first, so that the file is there whole or not at all.
fn write_format(dir: &Path, path: &Path) -> io::Result<()> {
    let new = dir.join("format.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{FORMAT_PREFIX}{STORE_FORMAT}")?;
    file.sync_all()?;
    crash::point("format-before-rename");
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

fn damaged(detail: &str) -> OpenError {
    OpenError::Damaged { detail: detail.to_owned() }
}
