//! Making the mount: the kernel's end at a directory, ours in a file descriptor.
//!
//! As root with the system call, else through `fusermount3`, which may do for a user what the
//! user may not. fuser could do this too; its ways of undoing it are what we avoid (it may
//! unmount a stranger's mount at the same place), so it gets a descriptor and never learns of
//! the mount.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::session::{FUSERMOUNT, MountError, MountOptions};

/// The kernel's FUSE device.
const DEVICE: &str = "/dev/fuse";

/// Where an administrator lets users open their mounts to others.
const FUSE_SETTINGS: &str = "/etc/fuse.conf";

/// Source and subtype as `mount` shows them.
const NAME: &str = "xorfs";

/// Kind of our mounts in the mount table.
pub(super) const KIND: &str = "fuse.xorfs";

/// Mounts on an absolute path and returns the device that talks to the kernel.
pub(super) fn attach(dir: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = open_device()?;
    if rustix::process::geteuid().is_root() {
        match with_mount(dir, &device, options) {
            Ok(()) => return Ok(device.into()),
            // Root in a container may lack the capability; the helper cannot do worse.
            Err(Errno::PERM) => {}
            Err(error) => {
                return Err(MountError::Refused { dir: dir.to_owned(), reason: error.to_string() });
            }
        }
    } else if options.allow_other && !others_allowed() {
        return Err(MountError::OthersForbidden);
    }
    drop(device);
    with_fusermount(dir, options)
}

fn open_device() -> Result<File, MountError> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoDevice,
        io::ErrorKind::PermissionDenied => MountError::DeviceForbidden,
        _ => match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => MountError::NoDevice,
            _ => MountError::Device(error),
        },
    })
}

fn with_mount(dir: &Path, device: &File, options: &MountOptions) -> rustix::io::Result<()> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        uid.as_raw(),
        gid.as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).expect("numbers and words hold no NUL");
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    rustix::mount::mount(NAME, dir, KIND, flags, data.as_c_str())
}

fn others_allowed() -> bool {
    let settings = fs::read_to_string(FUSE_SETTINGS).unwrap_or_default();
    settings.lines().any(|line| line.trim() == "user_allow_other")
}

/// The helper mounts, sends the device over its standard input and ends.
fn with_fusermount(dir: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let refused = |reason: String| MountError::Refused { dir: dir.to_owned(), reason };
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Device)?;
    let mut words =
        format!("fsname={NAME},subtype={NAME},default_permissions,nodev,nosuid,noatime");
    if options.read_only {
        words.push_str(",ro");
    }
    if options.allow_other {
        words.push_str(",allow_other");
    }
    let child = Command::new(FUSERMOUNT)
        .args(["-o", &words, "--"])
        .arg(dir)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoFusermount,
            _ => refused(error.to_string()),
        })?;
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(|error| refused(error.to_string()))?;
    match received {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// None where the other end closed without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        let flags = RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::session::detach::detach;
    use crate::session::point::mounted_at;

    #[test]
    fn the_helper_mounts_and_sends_the_device() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dir = dir.path().canonicalize().expect("a path");
        let options = MountOptions { read_only: true, ..MountOptions::default() };
        let device = match with_fusermount(&dir, &options) {
            Ok(device) => device,
            Err(error) => {
                // Straight to the terminal: what the macros print is shown of failed tests only.
                writeln!(io::stderr(), "SKIPPED: fusermount3 cannot be used here: {error}").ok();
                return;
            }
        };
        let mounted = mounted_at(&dir).pop().expect("it is mounted");
        assert_eq!((mounted.kind.as_str(), mounted.source.as_str()), (KIND, NAME));
        drop(device);
        detach(&dir).expect("it unmounts");
        assert!(mounted_at(&dir).is_empty());
    }
}
