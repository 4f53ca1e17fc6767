//! The vocabulary of the view: what callers name and what they are told. Plain values only.

use bytes::Bytes;
use xorfs_store::{Head, Timestamp, VolumeId, XattrMap};

/// An inode of the mount: the volume's slot in the upper 16 bits, the inode number inside the
/// volume in the lower 48. Never reused while the view lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeNo(pub u64);

impl InodeNo {
    /// The mount's top directory.
    pub const ROOT: Self = Self(1);

    pub(crate) const BITS: u32 = 48;

    pub(crate) fn new(slot: u16, ino: u64) -> Self {
        debug_assert!(ino >> Self::BITS == 0, "inode numbers are checked where they are read");
        Self(u64::from(slot) << Self::BITS | ino)
    }

    pub(crate) fn slot(self) -> u16 {
        (self.0 >> Self::BITS) as u16
    }

    pub(crate) fn ino(self) -> u64 {
        self.0 & ((1 << Self::BITS) - 1)
    }
}

/// An open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileHandle(pub u64);

/// What kind of file an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
    /// A character device by number.
    CharDevice(u64),
    /// A block device by number.
    BlockDevice(u64),
}

/// What `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Which inode.
    pub ino: InodeNo,
    /// Its kind.
    pub kind: Kind,
    /// Permission, set-id and sticky bits: `0..=0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of it; 1 for every directory.
    pub nlink: u32,
    /// Bytes of a file or of a symlink's target, else 0.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Last access, as set by hand.
    pub atime: Timestamp,
    /// Creation.
    pub crtime: Timestamp,
}

/// Who asks: the owner of what is created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group; a set-group-id directory overrides it.
    pub gid: u32,
}

/// Attributes to set; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission, set-id and sticky bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes, of files only.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of the content.
    pub mtime: Option<Timestamp>,
}

/// Something from outside, complete with its attributes.
#[derive(Debug, Clone)]
pub struct Import {
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Extended attributes.
    pub xattrs: XattrMap,
    /// What it is.
    pub body: ImportBody,
}

/// What is imported, and its content.
#[derive(Debug, Clone)]
pub enum ImportBody {
    /// A file: its size, and runs of bytes by offset, in order; between them are holes.
    File {
        /// Bytes, holes included.
        size: u64,
        /// Offset and bytes of each run.
        parts: Vec<(u64, Bytes)>,
    },
    /// A directory; only to be dressed.
    Directory,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
    /// A character device by number.
    CharDevice(u64),
    /// A block device by number.
    BlockDevice(u64),
}

/// What `rename` does about a name that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Refuse.
    NoReplace,
    /// Let both change places; both must exist.
    Exchange,
}

/// What `set_xattr` does about an attribute that is there, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Set it either way.
    Any,
    /// Refuse where it exists.
    Create,
    /// Refuse where it does not.
    Replace,
}

/// One name of a listed directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// What it names, as it was when listed.
    pub stat: Stat,
}

/// How a mounted volume is doing.
#[derive(Debug, Clone)]
pub struct VolumeStatus {
    /// Its petname, the directory in the mount's root.
    pub name: String,
    /// Its public key.
    pub id: VolumeId,
    /// Whether this home may write it.
    pub writable: bool,
    /// Whether what it holds is never evicted.
    pub pinned: bool,
    /// The newest head known here.
    pub head: Option<Head>,
    /// Whether nothing waits to be sealed.
    pub sealed: bool,
    /// Bytes written since the last seal, with an allowance for names and attributes.
    pub dirty_bytes: u64,
    /// Changes since the last seal that are not crash-safe yet.
    pub unsynced_changes: u64,
    /// Changes since the last seal, crash-safe or not.
    pub unsealed_changes: u64,
    /// Why the last seal failed, while it keeps failing.
    pub seal_error: Option<String>,
}

/// What `statfs` tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsStats {
    /// Bytes used and bytes that could be: the quota, or what the disk has room for.
    pub total_bytes: u64,
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Sealed bytes in the local store.
    pub used_bytes: u64,
    /// Inodes in use; 0, because they are not counted.
    pub files: u64,
    /// Longest name in bytes.
    pub name_bytes_max: u32,
}
