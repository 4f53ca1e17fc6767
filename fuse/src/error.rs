//! What a filesystem operation can fail with, split by what the caller is told.
//!
//! Every variant maps to one errno (see `errno`) and to one exit code of the command line. What
//! failed below the filesystem is carried as its source and never flattened into text.

use xorfs_store::{LinkError, ReadError, TreeError, WriteError};

/// Why an operation on the view failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No such name, inode or volume.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("it exists already")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory was found where none may be.
    #[error("it is a directory")]
    IsDirectory,
    /// A directory that was to go still holds names.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A followed volume, an immutable link or one of the mount's own directories.
    #[error("it is read-only here")]
    ReadOnly,
    /// Longer than `NAME_BYTES_MAX`, or a symlink target past its limit.
    #[error("the name is too long")]
    NameTooLong,
    /// An argument that makes no sense, and which.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// A rename or hard link from one volume to another.
    #[error("cannot move or link between volumes")]
    CrossVolume,
    /// No such extended attribute.
    #[error("no such extended attribute")]
    NoXattr,
    /// An extended attribute over its limit.
    #[error("the extended attribute is too large")]
    XattrTooLarge,
    /// A file past the largest size.
    #[error("the file is too large")]
    TooLarge,
    /// A file with too many hard links.
    #[error("the file has too many links")]
    TooManyLinks,
    /// No room, on the disk, under the quota or in a table with a limit.
    #[error("no space left")]
    NoSpace,
    /// The inode is gone.
    #[error("the file is gone")]
    Stale,
    /// A handle that was never opened, or is closed.
    #[error("no such open file")]
    BadHandle,
    /// Refused whoever asks.
    #[error("not permitted")]
    NotPermitted,
    /// xorfs does not do this.
    #[error("not supported")]
    Unsupported,
    /// In use.
    #[error("in use")]
    Busy,
    /// The view was shut down.
    #[error("the filesystem is shutting down")]
    ShutDown,
    /// A tree says something that cannot be, and what.
    #[error("the tree is damaged: {0}")]
    Damaged(&'static str),
    /// Reading a block or a record failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing a block or a record failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A name under `link/` is no link.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl From<TreeError> for FsError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Read(error) => Self::Read(error),
            TreeError::Write(error) => Self::Write(error),
        }
    }
}
