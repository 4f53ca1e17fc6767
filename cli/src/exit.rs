//! Exit codes: what a script may rely on, and how an error finds its code.
//!
//! The numbers are a promise (see the table in `xorfs --help`). The same enum travels through
//! the local API as the machine-readable kind of an error, so a command ends with the same code
//! whether the daemon or the command itself met the problem. Errors are classified by type,
//! never by the text of their message.

use std::io;

use serde::{Deserialize, Serialize};
use xorfs_fuse::{FsError, MountError};
use xorfs_net::{FetchError, PublishError, StartError};
use xorfs_store::check::CheckError;
use xorfs_store::{KeyringError, LinkError, OpenError, ReadError, TreeError, WriteError};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// Everything that was asked for was done.
    Done = 0,
    /// It failed for a reason that has no code of its own.
    Failed = 1,
    /// The arguments, a link or a size make no sense.
    Usage = 2,
    /// A link, path or block was not found, after the deadline where the network was asked.
    NotFound = 3,
    /// Refused: it exists, is read only, permission is lacking, or the store is full.
    Refused = 4,
    /// What was read is not what was written.
    Corrupt = 5,
}

/// A failure that already knows its exit code.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// The code.
    pub(crate) exit: Exit,
    /// One line for the user.
    pub(crate) message: String,
}

impl Failure {
    /// A failure with a code of the caller's choice.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Arguments that make no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something that is not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    /// Something that would destroy, or is not allowed.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// Everything else.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }
}

/// The code of an error: that of the first cause which has one.
pub(crate) fn classify(error: &anyhow::Error) -> Exit {
    error.chain().find_map(exit_of).unwrap_or(Exit::Failed)
}

fn exit_of(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    if let Some(error) = cause.downcast_ref::<FsError>() {
        return Some(of_fs(error));
    }
    if let Some(error) = cause.downcast_ref::<ReadError>() {
        return Some(of_read(error));
    }
    if let Some(error) = cause.downcast_ref::<WriteError>() {
        return Some(of_write(error));
    }
    if let Some(error) = cause.downcast_ref::<TreeError>() {
        return Some(match error {
            TreeError::Read(error) => of_read(error),
            TreeError::Write(error) => of_write(error),
        });
    }
    if let Some(error) = cause.downcast_ref::<CheckError>() {
        return Some(match error {
            CheckError::Read(error) => of_read(error),
            CheckError::Write(error) => of_write(error),
        });
    }
    if cause.is::<LinkError>() {
        return Some(Exit::Usage);
    }
    if let Some(error) = cause.downcast_ref::<KeyringError>() {
        return Some(match error {
            KeyringError::Exists(_) | KeyringError::WrongPassphrase => Exit::Refused,
            KeyringError::Name(_) => Exit::Usage,
            KeyringError::Damaged(_) => Exit::Corrupt,
            KeyringError::Newer(_) => Exit::Refused,
            KeyringError::Io(error) => of_io(error),
        });
    }
    if let Some(error) = cause.downcast_ref::<OpenError>() {
        return Some(match error {
            OpenError::Newer { .. } | OpenError::Locked => Exit::Refused,
            OpenError::Quota { .. } => Exit::Usage,
            OpenError::Damaged { .. } => Exit::Corrupt,
            OpenError::Io(error) => of_io(error),
        });
    }
    if let Some(error) = cause.downcast_ref::<StartError>() {
        return Some(match error {
            StartError::PortInUse { .. } => Exit::Refused,
            StartError::Socket { source, .. } => of_io(source),
            StartError::Tls(_) => Exit::Failed,
            StartError::Store(error) => of_read(error),
        });
    }
    if let Some(error) = cause.downcast_ref::<FetchError>() {
        return Some(match error {
            FetchError::Unreachable { .. } => Exit::NotFound,
            FetchError::Stopped => Exit::Failed,
        });
    }
    if cause.is::<PublishError>() {
        return Some(Exit::Failed);
    }
    if let Some(error) = cause.downcast_ref::<MountError>() {
        return Some(of_mount(error));
    }
    cause.downcast_ref::<io::Error>().map(of_io)
}

fn of_read(error: &ReadError) -> Exit {
    match error {
        ReadError::Missing { .. } | ReadError::Unreachable { .. } => Exit::NotFound,
        ReadError::Corrupt { .. } => Exit::Corrupt,
        ReadError::Newer { .. } => Exit::Refused,
        ReadError::Io(_) => Exit::Failed,
    }
}

fn of_write(error: &WriteError) -> Exit {
    match error {
        WriteError::Full { .. } => Exit::Refused,
        WriteError::Poisoned { .. } | WriteError::Io(_) => Exit::Failed,
    }
}

fn of_io(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded => Exit::Refused,
        _ => Exit::Failed,
    }
}

fn of_mount(error: &MountError) -> Exit {
    match error {
        MountError::Missing { .. } | MountError::NotMounted { .. } => Exit::NotFound,
        MountError::NotDirectory { .. }
        | MountError::NotEmpty { .. }
        | MountError::Mounted { .. }
        | MountError::NoDevice
        | MountError::DeviceForbidden
        | MountError::NoFusermount
        | MountError::OthersForbidden
        | MountError::Refused { .. }
        | MountError::Covered { .. } => Exit::Refused,
        MountError::Unreadable { error, .. } => of_io(error),
        MountError::Device(_) | MountError::Unusable(_) | MountError::Unmount { .. } => {
            Exit::Failed
        }
    }
}

fn of_fs(error: &FsError) -> Exit {
    match error {
        FsError::NotFound | FsError::NoXattr | FsError::Stale => Exit::NotFound,
        FsError::Exists
        | FsError::NotDirectory
        | FsError::IsDirectory
        | FsError::NotEmpty
        | FsError::ReadOnly
        | FsError::CrossVolume
        | FsError::XattrTooLarge
        | FsError::TooLarge
        | FsError::TooManyLinks
        | FsError::NoSpace
        | FsError::NotPermitted
        | FsError::Busy => Exit::Refused,
        FsError::NameTooLong | FsError::Invalid(_) | FsError::Link(_) => Exit::Usage,
        FsError::BadHandle | FsError::Unsupported | FsError::ShutDown => Exit::Failed,
        FsError::Damaged(_) => Exit::Corrupt,
        FsError::Read(error) => of_read(error),
        FsError::Write(error) => of_write(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::Context;
    use xorfs_store::BlockId;

    use super::*;

    #[test]
    fn codes_are_the_documented_ones() {
        let codes = [
            (Exit::Done, 0),
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::NotFound, 3),
            (Exit::Refused, 4),
            (Exit::Corrupt, 5),
        ];
        for (exit, code) in codes {
            assert_eq!(exit as u8, code, "{exit:?}");
        }
    }

    #[test]
    fn errors_find_their_code_through_any_context() {
        let id = BlockId::of(b"a block");
        let read = |error: ReadError| Err::<(), _>(FsError::from(error)).context("main:/file");
        let code = |failed: anyhow::Result<()>| classify(&failed.unwrap_err());
        assert_eq!(code(read(ReadError::Missing { id })), Exit::NotFound);
        let waited = Duration::from_secs(30);
        assert_eq!(code(read(ReadError::Unreachable { id, waited })), Exit::NotFound);
        let detail = "a byte".to_owned();
        assert_eq!(code(read(ReadError::Corrupt { id, detail })), Exit::Corrupt);
        let full = WriteError::Full { used: 2, limit: 1 };
        assert_eq!(code(Err(full.into())), Exit::Refused);
        assert_eq!(code(Err(FsError::Exists.into())), Exit::Refused);
        assert_eq!(code(Err(Failure::usage("a size").into())), Exit::Usage);
        assert_eq!(code(Err(anyhow::anyhow!("anything"))), Exit::Failed);
    }
}
