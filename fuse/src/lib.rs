//! The xorfs filesystem: what a mount shows, and the mount itself.
//!
//! [`View`] is the filesystem over a `BlockStore`: volumes, links, inodes, write-back. It knows
//! no `fuser` type and is tested without a mount; commands use it directly. The adapter turns
//! kernel requests into calls of it.

mod adapter;
mod config;
mod errno;
mod error;
mod handle;
mod session;
mod view;
mod writeback;

pub use config::{HeadSource, ViewConfig};
pub use error::FsError;
pub use session::{Mount, MountError, MountOptions, unmount};
pub use view::types::{
    DirEntry, FileHandle, FsStats, Import, ImportBody, InodeNo, Kind, Owner, RenameMode, SetAttr,
    Stat, VolumeStatus, XattrMode,
};
pub use view::{ChangeHook, View, ViewRoots};
