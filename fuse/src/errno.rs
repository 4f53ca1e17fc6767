//! The only map from errors to errno. Exhaustive on purpose: a new variant has to choose.

use xorfs_store::{ReadError, WriteError};

use crate::error::FsError;

impl FsError {
    /// The number a system call reports for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsDirectory => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::ReadOnly => libc::EROFS,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::Invalid(_) => libc::EINVAL,
            Self::CrossVolume => libc::EXDEV,
            Self::NoXattr => libc::ENODATA,
            Self::XattrTooLarge => libc::E2BIG,
            Self::TooLarge => libc::EFBIG,
            Self::TooManyLinks => libc::EMLINK,
            Self::NoSpace => libc::ENOSPC,
            Self::Stale => libc::ESTALE,
            Self::BadHandle => libc::EBADF,
            Self::NotPermitted => libc::EPERM,
            Self::Unsupported => libc::EOPNOTSUPP,
            Self::Busy => libc::EBUSY,
            Self::ShutDown => libc::ESHUTDOWN,
            Self::Damaged(_) => libc::EIO,
            Self::Read(error) => match error {
                ReadError::Missing { .. }
                | ReadError::Corrupt { .. }
                | ReadError::Newer { .. }
                | ReadError::Unreachable { .. }
                | ReadError::Io(_) => libc::EIO,
            },
            Self::Write(error) => match error {
                WriteError::Full { .. } => libc::ENOSPC,
                WriteError::Poisoned { .. } | WriteError::Io(_) => libc::EIO,
            },
            // What is no link names nothing, as for every other name.
            Self::Link(_) => libc::ENOENT,
        }
    }
}
