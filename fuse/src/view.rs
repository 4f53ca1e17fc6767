//! The filesystem that a mount shows; bodies follow.
pub(crate) mod types;

use std::sync::Arc;

use xorfs_store::{Access, BlockId, BlockStore, Head, Inventory, Ledger, Link};
use zeroize::Zeroizing;

use crate::config::ViewConfig;
use crate::error::FsError;
use types::{
    DirEntry, FileHandle, FsStats, InodeNo, Kind, Owner, RenameMode, SetAttr, Stat, VolumeStatus,
    XattrMode,
};

/// The filesystem.
#[derive(Debug)]
pub struct View;

#[allow(unused_variables, missing_docs)]
impl View {
    pub fn new(
        config: ViewConfig,
        blocks: Arc<dyn BlockStore>,
        inventory: Arc<dyn Inventory>,
        ledger: Arc<dyn Ledger>,
        announce: Arc<dyn Fn(Head) + Send + Sync>,
    ) -> Arc<Self> {
        todo!()
    }
    pub fn add_volume(&self, name: &str, access: &Access) -> Result<(), FsError> {
        todo!()
    }
    /// Seals and forgets a volume.
    pub fn remove_volume(&self, name: &str) -> Result<(), FsError> {
        todo!()
    }
    pub fn set_head(&self, head: &Head) -> Result<bool, FsError> {
        todo!()
    }
    pub fn on_change(&self, hook: Arc<dyn Fn(&[InodeNo]) + Send + Sync>) {
        todo!()
    }
    pub fn seal(&self) -> Result<(), FsError> {
        todo!()
    }
    pub fn seal_volume(&self, name: &str) -> Result<Option<Head>, FsError> {
        todo!()
    }
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        todo!()
    }
    pub fn shutdown(&self) -> Result<(), FsError> {
        todo!()
    }

    pub fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<Stat, FsError> {
        todo!()
    }
    pub fn forget(&self, ino: InodeNo, count: u64) {
        todo!()
    }
    pub fn stat(&self, ino: InodeNo) -> Result<Stat, FsError> {
        todo!()
    }
    pub fn set_attr(&self, ino: InodeNo, change: &SetAttr) -> Result<Stat, FsError> {
        todo!()
    }
    pub fn read_link(&self, ino: InodeNo) -> Result<Vec<u8>, FsError> {
        todo!()
    }
    pub fn make_node(
        &self,
        parent: InodeNo,
        name: &[u8],
        kind: Kind,
        mode: u32,
        owner: Owner,
    ) -> Result<Stat, FsError> {
        todo!()
    }
    pub fn make_symlink(
        &self,
        parent: InodeNo,
        name: &[u8],
        target: &[u8],
        owner: Owner,
    ) -> Result<Stat, FsError> {
        todo!()
    }
    /// Counts as a lookup.
    pub fn link(&self, ino: InodeNo, parent: InodeNo, name: &[u8]) -> Result<Stat, FsError> {
        todo!()
    }
    pub fn unlink(&self, parent: InodeNo, name: &[u8]) -> Result<(), FsError> {
        todo!()
    }
    pub fn rmdir(&self, parent: InodeNo, name: &[u8]) -> Result<(), FsError> {
        todo!()
    }
    pub fn rename(
        &self,
        parent: InodeNo,
        name: &[u8],
        to: InodeNo,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        todo!()
    }
    pub fn open(
        &self,
        ino: InodeNo,
        writable: bool,
        truncate: bool,
    ) -> Result<FileHandle, FsError> {
        todo!()
    }
    /// Files and directories.
    pub fn close(&self, handle: FileHandle) {
        todo!()
    }
    pub fn read(
        &self,
        ino: InodeNo,
        offset: u64,
        length: usize,
    ) -> Result<Zeroizing<Vec<u8>>, FsError> {
        todo!()
    }
    pub fn write(&self, ino: InodeNo, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        todo!()
    }
    pub fn fsync(&self, ino: InodeNo) -> Result<(), FsError> {
        todo!()
    }
    pub fn list(&self, ino: InodeNo) -> Result<Vec<DirEntry>, FsError> {
        todo!()
    }
    pub fn open_dir(&self, ino: InodeNo) -> Result<FileHandle, FsError> {
        todo!()
    }
    /// The handle's snapshot of the listing; `rewind` takes a new one (offset 0). Cookies are the
    /// caller's indices into it. No `.` and `..`.
    pub fn read_dir(&self, handle: FileHandle, rewind: bool) -> Result<Arc<[DirEntry]>, FsError> {
        todo!()
    }
    pub fn parent(&self, ino: InodeNo) -> Result<InodeNo, FsError> {
        todo!()
    }
    pub fn xattr(&self, ino: InodeNo, name: &[u8]) -> Result<Vec<u8>, FsError> {
        todo!()
    }
    pub fn xattr_names(&self, ino: InodeNo) -> Result<Vec<Vec<u8>>, FsError> {
        todo!()
    }
    /// `None` removes; the mode is not looked at then.
    pub fn set_xattr(
        &self,
        ino: InodeNo,
        name: &[u8],
        value: Option<&[u8]>,
        mode: XattrMode,
    ) -> Result<(), FsError> {
        todo!()
    }
    pub fn stats(&self) -> FsStats {
        todo!()
    }
    /// Whether the inode's volume can be written through this view.
    pub fn is_writable(&self, ino: InodeNo) -> bool {
        todo!()
    }

    pub fn resolve(&self, path: &[u8]) -> Result<Stat, FsError> {
        todo!()
    }
    pub fn link_of(&self, ino: InodeNo) -> Result<Link, FsError> {
        todo!()
    }
    pub fn blocks_of(&self, ino: InodeNo, recursive: bool) -> Result<Vec<BlockId>, FsError> {
        todo!()
    }
}
