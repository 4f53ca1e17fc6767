//! Opening the local store: the lock, the format version, the database, the counters.
//!
//! In this order, and each before anything that depends on it is touched. The version stands in
//! a small file beside the database and not in it, so that a store whose database a newer
//! RocksDB wrote is still refused as newer and not as damaged.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use rocksdb::DB;

use super::change::{Counters, Cursor};
use super::columns::{Column, Row, database_options, descriptors, parse_id};
use super::family;
use super::fault::open_error;
use crate::config::LocalConfig;
use crate::crash;
use crate::error::OpenError;

/// Version of the column families and their rows. Raised when this version of xorfs could not
/// use a store as the next one writes it.
const STORE_FORMAT: u32 = 1;

/// What the format file says before the version.
const FORMAT_PREFIX: &str = "xorfs store format ";

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
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked),
        Err(TryLockError::Error(error)) => Err(OpenError::Io(error)),
    }
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

/// Opens the database, or makes it.
pub(super) fn open_database(dir: &Path, config: &LocalConfig) -> Result<DB, OpenError> {
    DB::open_cf_descriptors(&database_options(), dir.join("db"), descriptors(config))
        .map_err(open_error)
}

/// Counts what `index` holds. Walks rows of 15 bytes, not the blocks.
pub(super) fn count(db: &DB) -> Result<(Counters, Cursor), OpenError> {
    let mut counters = Counters::default();
    let mut cursor = Cursor::default();
    let mut rows = db.raw_iterator_cf(family(db, Column::Index));
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        let id = parse_id(key).ok_or_else(|| damaged("a key of the index is no block id"))?;
        let row = Row::decode(value)
            .map_err(|error| damaged(&format!("the index row of block {id}: {error}")))?;
        counters.add(&row);
        cursor.next = cursor.next.max(row.order.saturating_add(1));
        rows.next();
    }
    rows.status().map_err(open_error)?;
    Ok((counters, cursor))
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
