//! What was put from where: the records of a volume's files, and asking whether one is unchanged.
//!
//! A record is noted when its file is complete and committed when it is sealed: before that it
//! could not outlive a crash together with its file. Invariant: whatever a record says, `unchanged`
//! is true only of a file whose inode and ctime in the volume are those the put ended with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xorfs_store::{SourceRecord, SourceStamp, Sources, TreePath};

use crate::error::FsError;
use crate::view::inode::{Body, ROOT};
use crate::view::overlay::{State, Stop};
use crate::view::types::{InodeNo, Stat};
use crate::view::volume::Volume;

/// Records that may wait for the next commit; further ones are not remembered. Each waits for a
/// file that is not sealed yet, of which memory holds fewer.
const RECORDS_MAX: usize = 100_000;

/// Records that are looked at after a commit, to drop those whose file has gone: a fraction of a
/// volume's, so that it is cheap beside sealing.
const RECORDS_CHECKED: usize = 256;

/// What is remembered of a volume's files, and what is not committed yet.
#[derive(Debug)]
pub(super) struct SourceLog {
    sources: Sources,
    /// Not committed yet.
    waiting: Mutex<HashMap<TreePath, SourceRecord>>,
}

impl SourceLog {
    pub(super) fn new(sources: Sources) -> Self {
        Self { sources, waiting: Mutex::default() }
    }

    fn find(&self, path: &[u8]) -> Option<SourceRecord> {
        if let Some(record) = self.waiting().get(path) {
            return Some(record.clone());
        }
        // A ledger that cannot be read fails what follows; here it only costs reading a file.
        self.sources.find(path).ok().flatten()
    }

    fn note(&self, record: SourceRecord) {
        let mut records = self.waiting();
        if records.len() < RECORDS_MAX || records.contains_key(&record.path) {
            records.insert(record.path.clone(), record);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<TreePath, SourceRecord>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    /// The inode of the file at `path`, if it still is exactly what was put from a source of this
    /// stamp.
    pub(super) fn unchanged(
        &self,
        path: &[u8],
        stamp: &SourceStamp,
    ) -> Result<Option<InodeNo>, FsError> {
        let record = self.sources.as_ref().and_then(|log| log.find(path));
        let Some(record) = record.filter(|record| record.stamp == *stamp) else { return Ok(None) };
        let found = self.run(|state| is_still(state, &record))?;
        Ok(found.map(|ino| InodeNo::new(self.slot, ino)))
    }

    /// Makes what is remembered crash-safe, and drops what files have gone of. Called when what
    /// was put is sealed: before that a record could not outlive a crash with its file. Failing
    /// costs only that files are read again.
    pub(super) fn commit_sources(&self) {
        let Some(log) = &self.sources else { return };
        let records = std::mem::take(&mut *log.waiting());
        if records.is_empty() {
            return;
        }
        // Any share of them will do, as long as it is another one each time.
        let turn = u64::from(self.now().nanos / 1000);
        let seen = log.sources.slice(turn, RECORDS_CHECKED).unwrap_or_default();
        // Directories may have been evicted here; sealing does not wait for the network to tell
        // what became of an old record. Those that cannot be told are left for another time.
        let held = self.around.reader.with_blocks(Arc::clone(&self.around.inventory) as _);
        let gone = |record: &SourceRecord| {
            let find = || self.run_through(&held, |state| is_still(state, record));
            !records.contains_key(&record.path) && matches!(find(), Ok(None))
        };
        let gone: Vec<TreePath> = seen.into_iter().filter(gone).map(|record| record.path).collect();
        if let Err(error) = log.sources.commit(records.values(), &gone) {
            tracing::warn!(volume = %self.name, %error, "what was put will be read again");
        }
    }

    pub(super) fn remember_source(
        &self,
        path: Option<TreePath>,
        stamp: Option<&SourceStamp>,
        stat: &Stat,
    ) {
        if let (Some(log), Some(path), Some(stamp)) = (&self.sources, path, stamp) {
            let (ino, ctime) = (stat.ino.ino(), stat.ctime);
            log.note(SourceRecord { path, stamp: *stamp, ino, ctime });
        }
    }
}

/// The file that a record is about, if nothing has changed it since.
fn is_still(state: &State, record: &SourceRecord) -> Result<Option<u64>, Stop> {
    let found = match state.walk(ROOT, &record.path) {
        Ok(Some(ino)) => ino,
        Ok(None) | Err(Stop::Fail(FsError::NotDirectory)) => return Ok(None),
        Err(stop) => return Err(stop),
    };
    let inode = state.inode(found)?;
    let same = matches!(&inode.body, Body::File(edit) if edit.size() == record.stamp.size)
        && (found, inode.attr.ctime) == (record.ino, record.ctime);
    Ok(same.then_some(found))
}
