//! What a failure of RocksDB means to the caller, and the refusal to write after one.
//!
//! A disk without room is an answer (`Full`) and the store goes on: RocksDB keeps what it could
//! not flush and resumes by itself. After any other failed write or sync nobody knows what is on
//! the disk, so nothing more is written until the store is reopened.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{OpenError, ReadError, WriteError};
use crate::id::BlockId;

/// The first failure, if there was one.
#[derive(Debug, Default)]
pub(super) struct Health {
    first: Mutex<Option<String>>,
}

impl Health {
    /// Refuses where an earlier write failed.
    pub(super) fn check(&self) -> Result<(), WriteError> {
        match &*self.first() {
            Some(reason) => Err(WriteError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Records a failure and tells it.
    pub(super) fn fail(&self, error: impl std::error::Error + Send + Sync + 'static) -> WriteError {
        let reason = chain(&error);
        tracing::error!(reason, "a write to the local store failed; it refuses writes from now");
        self.first().get_or_insert(reason);
        WriteError::Io(io::Error::other(error))
    }

    fn first(&self) -> MutexGuard<'_, Option<String>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with its sources in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Whether the disk, or the user's share of it, is full. RocksDB's C interface gives a failure
/// as text alone, so this is the one place that goes by a text.
pub(super) fn is_no_space(error: &rocksdb::Error) -> bool {
    let text = error.as_ref();
    text.contains("No space left on device") || text.contains("Disk quota exceeded")
}

/// Whether a file that should be there is not.
pub(super) fn is_no_file(text: &str) -> bool {
    text.contains("No such file or directory")
}

/// Whether files are damaged, so that a rebuild helps, and not the disk full or forbidden.
pub(super) fn is_damage(error: &OpenError) -> bool {
    match error {
        OpenError::Damaged { .. } => true,
        OpenError::Io(error) => {
            let text = error.to_string();
            is_no_file(&text) || text.contains("Input/output error")
        }
        OpenError::Newer { .. } | OpenError::Locked | OpenError::Quota { .. } => false,
    }
}

pub(super) fn read_error(id: &BlockId, error: rocksdb::Error) -> ReadError {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => {
            ReadError::Corrupt { id: *id, detail: error.into_string() }
        }
        _ if is_no_file(error.as_ref()) => {
            ReadError::Corrupt { id: *id, detail: error.into_string() }
        }
        _ => ReadError::Io(io::Error::other(error)),
    }
}

pub(super) fn open_error(error: rocksdb::Error) -> OpenError {
    match error.kind() {
        rocksdb::ErrorKind::IOError => OpenError::Io(io::Error::other(error)),
        _ => OpenError::Damaged { detail: error.into_string() },
    }
}
