//! Staging: the crash-safe journal of what is not sealed yet.
use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{BlockStore, Ledger};
use crate::error::{ReadError, WriteError};
use crate::tree::entry::{Entry, Timestamp};
use crate::tree::head::{Head, VolumeId};
use crate::tree::volume::StagingKey;

/// A path inside a volume: names joined with `/`, no slash at either end; empty for the root.
pub type TreePath = Vec<u8>;

/// One change of a volume, as absolute as can be, so that replaying it needs no judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new name with a new inode. The entry's content is empty; its `attr.ino` is fresh.
    Create {
        /// Where.
        path: TreePath,
        /// What, complete.
        entry: Box<Entry>,
    },
    /// A further name of a file.
    Link {
        /// An existing name.
        from: TreePath,
        /// The new one.
        to: TreePath,
        /// New ctime.
        time: Timestamp,
    },
    /// A name goes (file, empty directory or anything else).
    Remove {
        /// Which.
        path: TreePath,
        /// When.
        time: Timestamp,
    },
    /// A name moves, replacing what is at `to`, or changes places with it.
    Rename {
        /// From here.
        from: TreePath,
        /// To here.
        to: TreePath,
        /// Whether both change places.
        exchange: bool,
        /// When.
        time: Timestamp,
    },
    /// Bytes are written; the file grows where needed.
    Write {
        /// The file.
        path: TreePath,
        /// Where in it.
        offset: u64,
        /// What.
        bytes: Bytes,
        /// New mtime and ctime.
        time: Timestamp,
    },
    /// A file is cut or extended.
    Resize {
        /// The file.
        path: TreePath,
        /// New size in bytes.
        size: u64,
        /// New mtime and ctime.
        time: Timestamp,
    },
    /// Mode, owner or times.
    SetAttr {
        /// Whose.
        path: TreePath,
        /// Permission and set-id bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Modification time.
        mtime: Timestamp,
        /// Access time.
        atime: Timestamp,
        /// Change time.
        ctime: Timestamp,
    },
    /// An extended attribute is set, or removed with `None`.
    SetXattr {
        /// Whose.
        path: TreePath,
        /// Name.
        name: Vec<u8>,
        /// Value.
        value: Option<Vec<u8>>,
        /// New ctime.
        time: Timestamp,
    },
}

/// The journal of one volume.
#[derive(Debug)]
pub struct Journal;

impl Journal {
    /// Opens a volume's journal and reads what it holds, oldest first, with sequence numbers.
    pub fn open(
        _ledger: Arc<dyn Ledger>,
        _volume: VolumeId,
        _key: &StagingKey,
    ) -> Result<(Self, Vec<(u64, Change)>), ReadError> {
        todo!()
    }
    /// Makes changes crash-safe: one synced batch. Sequence numbers ascend and are the caller's.
    pub fn append(&self, _changes: &[(u64, Change)]) -> Result<(), WriteError> {
        todo!()
    }
    /// Flushes `blocks`, then makes `head` the volume's newest and drops every record up to and
    /// including `through`, in one synced batch.
    pub fn commit_head(
        &self,
        _blocks: &dyn BlockStore,
        _head: &Head,
        _through: u64,
    ) -> Result<(), WriteError> {
        todo!()
    }
}

/// The newest head that the ledger holds of a volume.
pub fn stored_head(_ledger: &dyn Ledger, _volume: VolumeId) -> Result<Option<Head>, ReadError> {
    todo!()
}
