//! Taking a mount out of the tree of directories, whoever still uses it.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::session::point::mounted_at;
use crate::session::{FUSERMOUNT, MountError};

/// Detaches the topmost mount at an absolute path. Nothing there is as good as done.
///
/// Lazy on purpose: the name is free at once, and files that are open go on working until they
/// are closed. Without root the work goes to `fusermount3`.
pub(super) fn detach(dir: &Path) -> Result<(), MountError> {
    let failed = |error: io::Error| MountError::Unmount { dir: dir.to_owned(), error };
    match rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => Ok(()),
        Err(Errno::PERM) => with_fusermount(dir),
        Err(error) => Err(failed(error.into())),
    }
}

/// Detaches the mount with this device, if it is still there. Others at the same place are left
/// alone.
pub(super) fn detach_own(dir: &Path, device: &str) -> Result<(), MountError> {
    let mounts = mounted_at(dir);
    match mounts.last() {
        Some(top) if top.device == device => detach(dir),
        Some(top) if mounts.iter().any(|mounted| mounted.device == device) => {
            Err(MountError::Covered { dir: dir.to_owned(), filesystem: top.filesystem() })
        }
        _ => Ok(()),
    }
}

fn with_fusermount(dir: &Path) -> Result<(), MountError> {
    let before = mounted_at(dir).len();
    let output = Command::new(FUSERMOUNT)
        .args(["-u", "-z", "--"])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoFusermount,
            _ => MountError::Unmount { dir: dir.to_owned(), error },
        })?;
    // It also fails where somebody else was faster; the mount table tells.
    if output.status.success() || before == 0 || mounted_at(dir).len() < before {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MountError::Unmount { dir: dir.to_owned(), error: io::Error::other(reason) })
}
