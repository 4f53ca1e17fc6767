//! What the store occupies: of the disk, and in memory on the way there.
//!
//! The directory tells the truth and takes a while to be asked, so it is asked now and then, and
//! what was admitted since is added: the sum may be too high and is never too low. What RocksDB
//! writes of itself in the meantime, the output of compactions, fits the headroom (`budget`).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rocksdb::DB;

use super::columns::Column;
use super::family;

/// How old what is known may be where it is only reported.
const REPORT_AGE_MAX: Duration = Duration::from_secs(1);

/// What is known about the directory of the store.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    known: Mutex<Known>,
    /// One scan at a time: each takes off what was admitted before it began.
    scanning: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// Allocated bytes of the files, and the write buffers, when they were looked at.
    scanned_bytes: u64,
    /// Bytes written since.
    admitted_bytes: u64,
    at: Option<Instant>,
}

impl Space {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), known: Mutex::default(), scanning: Mutex::default() }
    }

    /// Bytes went into the write buffers or the log.
    pub(super) fn admit(&self, bytes: u64) {
        self.known().admitted_bytes += bytes;
    }

    /// What is occupied at the most, and how much of it was admitted since it was looked at.
    pub(super) fn occupied(&self) -> (u64, u64) {
        let known = self.known();
        (known.scanned_bytes.saturating_add(known.admitted_bytes), known.admitted_bytes)
    }

    /// What is occupied, for reports: looked at anew where that was a while ago.
    pub(super) fn reported(&self, db: &DB) -> u64 {
        let fresh = self.known().at.is_some_and(|at| at.elapsed() < REPORT_AGE_MAX);
        if !fresh && let Err(error) = self.scan(db) {
            tracing::warn!(%error, "could not tell what the store occupies");
        }
        self.occupied().0
    }

    /// Looks at the directory.
    pub(super) fn scan(&self, db: &DB) -> io::Result<()> {
        let _turn = self.scanning.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.known().admitted_bytes;
        // The buffers first: what is flushed in between is then counted twice, not left out.
        let scanned_bytes = buffer_bytes(db) + allocated_bytes(&self.dir)?;
        let mut known = self.known();
        known.scanned_bytes = scanned_bytes;
        known.admitted_bytes -= before;
        known.at = Some(Instant::now());
        Ok(())
    }

    /// Every change is a single assignment, so a holder that panicked left it whole.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that the disk gave to the files below a directory.
fn allocated_bytes(dir: &Path) -> io::Result<u64> {
    /// Unit of what the system tells, whatever the disk's own is.
    const UNIT_BYTES: u64 = 512;
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(file) if file.is_dir() => bytes += allocated_bytes(&entry.path())?,
            Ok(file) => bytes += file.blocks() * UNIT_BYTES,
            // Deleted since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// Bytes of the blob files in use, garbage included.
pub(super) fn blob_bytes(db: &DB) -> u64 {
    property(db, Column::Blocks, "rocksdb.live-blob-file-size")
}

/// Number of the blob files in use.
pub(super) fn blob_files(db: &DB) -> u64 {
    property(db, Column::Blocks, "rocksdb.num-blob-files")
}

/// Bytes in the write buffers of all families.
pub(super) fn buffer_bytes(db: &DB) -> u64 {
    Column::ALL.into_iter().map(|of| property(db, of, "rocksdb.cur-size-all-mem-tables")).sum()
}

/// Bytes of the tables of the journal.
pub(super) fn journal_bytes(db: &DB) -> u64 {
    property(db, Column::Journal, "rocksdb.total-sst-files-size")
}

fn property(db: &DB, column: Column, name: &str) -> u64 {
    match db.property_int_value_cf(family(db, column), name) {
        Ok(value) => value.unwrap_or(0),
        Err(error) => {
            tracing::warn!(%error, name, "could not tell the size of the store");
            0
        }
    }
}
