//! Giving what was fetched the attributes it had, and making what has no content.
//!
//! What this machine or this user does not permit is left out: an entry that is missing then is
//! counted, and makes the exit code tell; owners, set-id bits and extended attributes are named
//! once. Whoever made a link chose what is below it, so devices, set-id bits and the attributes
//! that the system itself obeys are restored only from a volume of one's own.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::api::types::{EntryKind, EntryRow, XattrRow};
use crate::progress::Progress;

const SET_IDS: u32 = 0o6000;

/// Namespaces that nothing obeys but the owner of the file.
const HARMLESS: [&[u8]; 2] = [b"user.", ACL_PREFIX];

/// Lists of who may access a file.
const ACL_PREFIX: &[u8] = b"system.posix_acl_";

/// How entries get their attributes.
#[derive(Debug)]
pub(super) struct Dresser<'a> {
    progress: &'a Progress,
    /// Whether what is fetched is from a volume of one's own.
    own: bool,
    is_root: bool,
    left_out: AtomicU64,
    told_modes: AtomicBool,
    told_xattrs: AtomicBool,
}

impl<'a> Dresser<'a> {
    pub(super) fn new(progress: &'a Progress, own: bool) -> Self {
        Self {
            progress,
            own,
            is_root: rustix::process::geteuid().is_root(),
            left_out: AtomicU64::new(0),
            told_modes: AtomicBool::new(false),
            told_xattrs: AtomicBool::new(false),
        }
    }

    /// Entries that could not be made here.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Acquire)
    }

    /// Gives an entry the owner, mode, extended attributes and times that it had.
    pub(super) fn dress(&self, dest: &Path, row: &EntryRow) -> anyhow::Result<()> {
        self.dress_as(dest, row).with_context(|| dest.display().to_string())
    }

    fn dress_as(&self, dest: &Path, row: &EntryRow) -> io::Result<()> {
        if self.is_root {
            lchown(dest, Some(row.uid), Some(row.gid))?;
        }
        // Attributes before the mode, which may take away the right to write them, and lists of
        // who may access after it, because setting a mode changes them.
        let is_acl = |xattr: &&XattrRow| xattr.name.0.starts_with(ACL_PREFIX);
        self.set_xattrs(dest, row.xattrs.iter().filter(|xattr| !is_acl(xattr)));
        // A symbolic link has no mode of its own.
        if row.kind != EntryKind::Symlink {
            let allowed = if self.own { row.mode } else { row.mode & !SET_IDS };
            if allowed != row.mode && row.kind == EntryKind::File {
                self.say_once(&self.told_modes, "set-id bits of a link's files were left out");
            }
            fs::set_permissions(dest, Permissions::from_mode(allowed & 0o7777))?;
        }
        self.set_xattrs(dest, row.xattrs.iter().filter(is_acl));
        set_times(dest, row)
    }

    fn set_xattrs<'x>(&self, dest: &Path, xattrs: impl Iterator<Item = &'x XattrRow>) {
        for xattr in xattrs {
            let (name, value) = (OsStr::from_bytes(&xattr.name.0), xattr.value.0.as_slice());
            let allowed = self.own || HARMLESS.iter().any(|ns| xattr.name.0.starts_with(ns));
            let flags = XattrFlags::empty();
            if !allowed || rustix::fs::lsetxattr(dest, name, value, flags).is_err() {
                self.say_once(&self.told_xattrs, "some extended attributes were left out");
            }
        }
    }

    /// Makes what has no content; what cannot be made here is left out.
    pub(super) fn special(&self, dest: &Path, row: &EntryRow) -> anyhow::Result<()> {
        let made = match (row.kind, &row.target) {
            (EntryKind::Symlink, Some(target)) => {
                clear(dest).and_then(|()| symlink(target.as_os_str(), dest))
            }
            (EntryKind::Fifo, _) => make(dest, FileType::Fifo, 0),
            (EntryKind::Socket, _) => make(dest, FileType::Socket, 0),
            (EntryKind::CharDevice, _) if self.own => {
                make(dest, FileType::CharacterDevice, row.device.unwrap_or(0))
            }
            (EntryKind::BlockDevice, _) if self.own => {
                make(dest, FileType::BlockDevice, row.device.unwrap_or(0))
            }
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        };
        match made {
            Ok(()) => self.dress(dest, row),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.left_out.fetch_add(1, Ordering::AcqRel);
                let text = format!("{} is a device and was left out", dest.display());
                self.progress.say(&text);
                Ok(())
            }
            Err(error) => Err(error).with_context(|| dest.display().to_string()),
        }
    }

    fn say_once(&self, told: &AtomicBool, text: &str) {
        if !told.swap(true, Ordering::AcqRel) {
            self.progress.say(text);
        }
    }
}

/// Removes what an earlier attempt left under a name, if it is no directory.
pub(super) fn clear(dest: &Path) -> io::Result<()> {
    match fs::remove_file(dest) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn make(dest: &Path, kind: FileType, device: u64) -> io::Result<()> {
    clear(dest)?;
    Ok(rustix::fs::mknodat(CWD, dest, kind, Mode::RUSR | Mode::WUSR, device)?)
}

fn set_times(dest: &Path, row: &EntryRow) -> io::Result<()> {
    let time = |seconds, nanos: u32| Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    let times = Timestamps {
        last_access: time(row.atime, row.atime_nanos),
        last_modification: time(row.mtime, row.mtime_nanos),
    };
    Ok(rustix::fs::utimensat(CWD, dest, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
