//! What a source is stored with: mode, owner, times and extended attributes, and the stamp that
//! tells whether it has to be read again.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use crate::api::wire::{Meta, Special, Stamp, Time, XattrPairs};

/// How long a file must have been left alone for its stamp to say that it did not change: two
/// changes within one tick of the system's clock (10 ms at most) look the same. A disk whose clock
/// is another machine's and behind ours is beyond this.
const SETTLED: Duration = Duration::from_millis(50);

/// The same on a disk that keeps whole seconds, or two of them (FAT): git's rule.
const SETTLED_COARSE: Duration = Duration::from_secs(3);

/// Where both of a file's times are multiples of this, its disk is taken for a coarse one: FAT
/// keeps hundredths of some times and seconds of others.
const COARSE_NANOS: u32 = 10_000_000;

/// Attributes that only describe the filesystem they are on.
const VIRTUAL_PREFIX: &[u8] = b"user.xorfs.";

/// Namespaces that are kept.
const PREFIXES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];

/// Who puts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Putter {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Putter {
    pub(super) fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self { uid, gid: rustix::process::getegid().as_raw() }
    }

    /// Mode and times, the owner where root puts, else whoever puts it; no extended attributes.
    pub(super) fn meta(self, metadata: &Metadata) -> Meta {
        let (uid, gid) =
            if self.uid == 0 { (metadata.uid(), metadata.gid()) } else { (self.uid, self.gid) };
        Meta {
            mode: metadata.mode() & 0o7777,
            uid,
            gid,
            mtime: time(metadata.mtime(), metadata.mtime_nsec()),
            atime: time(metadata.atime(), metadata.atime_nsec()),
            xattrs: Vec::new(),
        }
    }
}

/// What a file looks like, if that is enough to know it again.
pub(super) fn stamp(metadata: &Metadata) -> Option<Stamp> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let stamp = plain_stamp(metadata);
    is_settled(&stamp, now).then_some(stamp)
}

/// Whether any later change would show in the times of a file that looked like this.
fn is_settled(stamp: &Stamp, now: Duration) -> bool {
    let is_coarse = [stamp.mtime, stamp.ctime].iter().all(|time| time.1 % COARSE_NANOS == 0);
    let settled = if is_coarse { SETTLED_COARSE } else { SETTLED };
    let Ok(seconds) = u64::try_from(stamp.ctime.0) else { return false };
    now.checked_sub(Duration::new(seconds, stamp.ctime.1)).is_some_and(|age| age >= settled)
}

/// What a file looks like.
pub(super) fn plain_stamp(metadata: &Metadata) -> Stamp {
    Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// What is neither a file nor a directory; a symbolic link is read.
pub(super) fn special(metadata: &Metadata, path: &Path) -> io::Result<Special> {
    use std::os::unix::ffi::OsStringExt;
    let kind = metadata.file_type();
    Ok(if kind.is_symlink() {
        Special::Symlink(std::fs::read_link(path)?.into_os_string().into_vec())
    } else if kind.is_fifo() {
        Special::Fifo
    } else if kind.is_socket() {
        Special::Socket
    } else if kind.is_char_device() {
        Special::CharDevice(metadata.rdev())
    } else if kind.is_block_device() {
        Special::BlockDevice(metadata.rdev())
    } else {
        return Err(io::ErrorKind::Unsupported.into());
    })
}

/// The extended attributes of what a path names, links not followed unless `follow`, and whether
/// some could not be read.
pub(super) fn xattrs(path: &Path, follow: bool) -> (XattrPairs, bool) {
    let list = |buffer: &mut [u8]| match follow {
        true => rustix::fs::listxattr(path, buffer),
        false => rustix::fs::llistxattr(path, buffer),
    };
    let read = |name: &str, buffer: &mut [u8]| match follow {
        true => rustix::fs::getxattr(path, name, buffer),
        false => rustix::fs::lgetxattr(path, name, buffer),
    };
    let names = match grown(&mut [0; 256], list) {
        Ok(names) => names,
        // A disk that knows of no attributes has none.
        Err(Errno::NOTSUP | Errno::NOSYS) => return (Vec::new(), false),
        Err(_) => return (Vec::new(), true),
    };
    let (mut found, mut skipped) = (Vec::new(), false);
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let kept = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if !kept || name.starts_with(VIRTUAL_PREFIX) {
            continue;
        }
        let value = std::str::from_utf8(name)
            .map_err(|_| Errno::ILSEQ)
            .and_then(|name| grown(&mut [0; 256], |buffer| read(name, buffer)));
        match value {
            Ok(value) => found.push((name.to_vec(), value)),
            Err(Errno::NODATA) => {}
            Err(_) => skipped = true,
        }
    }
    (found, skipped)
}

/// Calls `read` with a buffer that fits: the small one mostly does.
fn grown(
    small: &mut [u8],
    read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    match read(small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    // The most that Linux lets one value, or the list of names, have.
    let mut large = vec![0; 64 << 10];
    let length = read(&mut large)?;
    large.truncate(length);
    Ok(large)
}

fn time(seconds: i64, nanos: i64) -> Time {
    (seconds, u32::try_from(nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_settled_when_its_disk_would_show_a_change() {
        let settled = |mtime: u32, ctime: u32, age: u64| {
            let stamp =
                Stamp { device: 1, inode: 2, size: 3, mtime: (9, mtime), ctime: (9, ctime) };
            is_settled(&stamp, Duration::new(9, ctime) + Duration::from_millis(age))
        };
        assert!(!settled(1, 2, 49) && settled(1, 2, 50));
        assert!(settled(0, 2, 50), "a time that somebody set says nothing of the disk");
        assert!(!settled(0, 0, 2999) && settled(0, 0, 3000), "whole seconds");
        assert!(!settled(0, 70_000_000, 2999) && settled(0, 70_000_000, 3000), "FAT");
        let ahead = Stamp { device: 1, inode: 2, size: 3, mtime: (9, 1), ctime: (9, 1) };
        assert!(!is_settled(&ahead, Duration::from_secs(8)), "a clock that is ahead of ours");
    }
}
