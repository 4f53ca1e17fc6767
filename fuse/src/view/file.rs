//! Reading, writing and syncing files.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use xorfs_store::{Plaintext, WriteError};

use crate::error::FsError;
use crate::view::apply::Action;
use crate::view::inode::Body;
use crate::view::operations::{FILE_BYTES_MAX, check_file};
use crate::view::volume::{Capability, Surroundings, Volume};

/// Bytes of one change. A larger write is several, so that no record of the journal and no
/// buffer in memory grows past this.
const WRITE_BYTES_MAX: usize = 1 << 20;

impl Volume {
    /// Opens a file: it stays readable until it is closed, whatever happens to its names.
    pub(super) fn open_file(
        &self,
        ino: u64,
        writable: bool,
        truncate: bool,
    ) -> Result<(), FsError> {
        if writable || truncate {
            self.check_writable()?;
        }
        let time = self.now();
        self.run(|state| {
            let inode = state.inode(ino)?;
            check_file(&inode.body)?;
            if truncate && !matches!(&inode.body, Body::File(edit) if edit.size() == 0) {
                state.require_names(ino)?;
                state.commit(Action::Resize { ino, size: 0, time });
            }
            state.inode_mut(ino)?.opens += 1;
            state.references += 1;
            Ok(())
        })
    }

    pub(super) fn open_directory(&self, ino: u64) -> Result<(), FsError> {
        let mut state = self.lock();
        state.directory(ino)?;
        state.inode_mut(ino)?.opens += 1;
        state.references += 1;
        Ok(())
    }

    pub(super) fn close(&self, ino: u64) {
        let mut state = self.lock();
        let Ok(inode) = state.inode_mut(ino) else { return };
        inode.opens = inode.opens.saturating_sub(1);
        state.references = state.references.saturating_sub(1);
        state.release(ino);
    }

    pub(super) fn read(&self, ino: u64, offset: u64, length: usize) -> Result<Plaintext, FsError> {
        let (edit, ahead) = {
            let mut state = self.lock();
            let inode = state.inode_mut(ino)?;
            check_file(&inode.body)?;
            let Body::File(edit) = &inode.body else { unreachable!("it was just checked") };
            let ahead = inode.read_ahead.on_read(offset, length as u64, edit.size());
            (std::sync::Arc::clone(edit), ahead)
        };
        let reader = &self.around.reader;
        if let Some(range) = ahead
            && edit.base().root.is_some()
        {
            reader.prefetch(edit.base(), range);
        }
        Ok(edit.read_at(reader, offset, length)?)
    }

    pub(super) fn write(&self, ino: u64, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        self.check_writable()?;
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(FsError::TooLarge);
        }
        let mut offset = offset;
        for part in bytes.chunks(WRITE_BYTES_MAX) {
            self.wait_for_room(part.len() as u64)?;
            let bytes = Bytes::from_owner(Plaintext::from(part.to_vec()));
            self.commit_write(ino, offset, &bytes)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Writes bytes that are at most one change long and wiped by whoever drops them last.
    pub(super) fn write_owned(&self, ino: u64, offset: u64, bytes: Bytes) -> Result<(), FsError> {
        if bytes.len() > WRITE_BYTES_MAX {
            return self.write(ino, offset, &bytes);
        }
        self.check_writable()?;
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(FsError::TooLarge);
        }
        self.wait_for_room(bytes.len() as u64)?;
        self.commit_write(ino, offset, &bytes)
    }

    fn commit_write(&self, ino: u64, offset: u64, bytes: &Bytes) -> Result<(), FsError> {
        let time = self.now();
        self.run(|state| {
            check_file(&state.inode(ino)?.body)?;
            state.require_names(ino)?;
            state.commit(Action::Write { ino, offset, bytes: bytes.clone(), time });
            Ok(())
        })
    }

    /// Where a file has bytes rather than holes.
    pub(super) fn runs(&self, ino: u64, range: Range<u64>) -> Result<Vec<Range<u64>>, FsError> {
        let edit = {
            let state = self.lock();
            match &state.inode(ino)?.body {
                Body::File(edit) => std::sync::Arc::clone(edit),
                other => return Err(check_file(other).err().unwrap_or(FsError::IsDirectory)),
            }
        };
        let end = range.end.min(edit.size());
        Ok(edit.runs(&self.around.reader, range.start.min(end)..end)?)
    }

    /// Makes every change so far crash-safe. Callers that come while another is at it wait and
    /// mostly find their changes in its batch.
    pub(super) fn fsync(&self) -> Result<(), FsError> {
        let pending_bytes = self.lock().pending_bytes;
        if pending_bytes > self.around.config.journal_batch_bytes_max {
            return self.seal().map(drop);
        }
        self.stage()
    }

    /// Records every change so far in the journal.
    pub(super) fn stage(&self) -> Result<(), FsError> {
        let Capability::Write { journal, .. } = &self.capability else { return Ok(()) };
        let target = self.lock().sequence;
        if self.lock().durable >= target {
            return Ok(());
        }
        let journal = journal.lock().expect("no holder panics");
        let batch = {
            let mut state = self.lock();
            if state.durable >= target {
                return Ok(());
            }
            state.pending_bytes = 0;
            Vec::from(std::mem::take(&mut state.pending))
        };
        let result = journal.append(&batch);
        let mut state = self.lock();
        match result {
            Ok(()) => {
                if let Some((last, _)) = batch.last() {
                    state.durable = state.durable.max(*last);
                }
                Ok(())
            }
            Err(error) => {
                // What failed stays to be written, before what came meanwhile.
                for (seq, change) in batch.into_iter().rev() {
                    if let xorfs_store::Change::Write { bytes, .. } = &change {
                        state.pending_bytes += bytes.len() as u64;
                    }
                    state.pending.push_front((seq, change));
                }
                Err(error.into())
            }
        }
    }

    /// Waits until `bytes` more may wait in memory.
    pub(super) fn wait_for_room(&self, bytes: u64) -> Result<(), FsError> {
        let Surroundings { config, budget, pacer, .. } = &*self.around;
        let hopeless = || self.retry.lock().expect("no holder panics").is_full;
        if budget.wait_for_room(bytes, Duration::ZERO, hopeless) {
            return Ok(());
        }
        pacer.wake();
        if budget.wait_for_room(bytes, config.write_wait_max, hopeless) {
            return Ok(());
        }
        if hopeless() {
            return Err(FsError::NoSpace);
        }
        let reason = self.retry.lock().expect("no holder panics").reason.clone();
        match reason {
            Some(reason) => Err(WriteError::Poisoned { reason }.into()),
            None => Err(FsError::NoSpace),
        }
    }
}
