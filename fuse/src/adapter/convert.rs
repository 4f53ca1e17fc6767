//! Between the types of the kernel's protocol and those of the filesystem.
//!
//! Pure. Numbers that the protocol carries in fewer bits saturate instead of wrapping.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, RenameFlags, TimeOrNow};
use xorfs_store::Timestamp;

use crate::{InodeNo, Kind, RenameMode, Stat};

/// What `stat` gives as the preferred size of a request. Programs size their buffers by it: more
/// makes copying a little faster and random access through `stdio` read too much.
const PREFERRED_BYTES: u32 = 128 << 10;

/// Unit of `st_blocks`, whatever the filesystem.
const STAT_BLOCK_BYTES: u64 = 512;

pub(super) fn attributes(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.ino.0),
        size: stat.size,
        blocks: stat.size.div_ceil(STAT_BLOCK_BYTES),
        atime: system_time(stat.atime),
        mtime: system_time(stat.mtime),
        ctime: system_time(stat.ctime),
        crtime: system_time(stat.crtime),
        kind: file_type(stat.kind),
        perm: u16::try_from(stat.mode & 0o7777).expect("twelve bits fit"),
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: device(stat.kind),
        blksize: PREFERRED_BYTES,
        flags: 0,
    }
}

pub(super) fn inode(ino: INodeNo) -> InodeNo {
    InodeNo(ino.0)
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice(_) => FileType::CharDevice,
        Kind::BlockDevice(_) => FileType::BlockDevice,
    }
}

/// The kind that `mknod` asks for; none where it cannot make one.
pub(super) fn kind_of_mode(mode: u32, device: u32) -> Option<Kind> {
    match mode & libc::S_IFMT {
        // POSIX: a type of zero means a regular file.
        0 | libc::S_IFREG => Some(Kind::File),
        libc::S_IFIFO => Some(Kind::Fifo),
        libc::S_IFSOCK => Some(Kind::Socket),
        libc::S_IFCHR => Some(Kind::CharDevice(u64::from(device))),
        libc::S_IFBLK => Some(Kind::BlockDevice(u64::from(device))),
        _ => None,
    }
}

fn device(kind: Kind) -> u32 {
    match kind {
        Kind::CharDevice(device) | Kind::BlockDevice(device) => {
            u32::try_from(device).unwrap_or(u32::MAX)
        }
        Kind::File | Kind::Directory | Kind::Symlink | Kind::Fifo | Kind::Socket => 0,
    }
}

/// None for flags that are unknown or contradict each other.
pub(super) fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else {
        None
    }
}

pub(super) fn timestamp_or(time: TimeOrNow, now: SystemTime) -> Timestamp {
    match time {
        TimeOrNow::SpecificTime(time) => kernel_timestamp(time),
        TimeOrNow::Now => wall_timestamp(now),
    }
}

/// A time as fuser hands it out. The kernel says "-2 s and 0.8 s after that"; fuser 0.18 makes
/// "2.8 s before 1970" of it, which this undoes.
fn kernel_timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after_epoch(after),
        Err(before) => {
            let before = before.duration();
            Timestamp { seconds: -whole_seconds(before), nanos: before.subsec_nanos() }
        }
    }
}

fn wall_timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after_epoch(after),
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => Timestamp { seconds: -whole_seconds(before), nanos: 0 },
                nanos => {
                    Timestamp { seconds: -whole_seconds(before) - 1, nanos: 1_000_000_000 - nanos }
                }
            }
        }
    }
}

fn after_epoch(after: Duration) -> Timestamp {
    Timestamp { seconds: whole_seconds(after), nanos: after.subsec_nanos() }
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Times that the system cannot hold (a damaged or foreign volume may carry them) become 1970.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let seconds = if time.seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    seconds
        .and_then(|seconds| seconds.checked_add(Duration::from_nanos(u64::from(time.nanos))))
        .unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_out_and_come_back() {
        for (seconds, nanos) in [(0, 0), (1, 5), (1_700_000_000, 999_999_999), (-2, 800_000_000)] {
            let time = Timestamp { seconds, nanos };
            assert_eq!(wall_timestamp(system_time(time)), time);
        }
    }

    #[test]
    fn a_time_before_1970_survives_fuser() {
        // What fuser makes of -2 s + 0.8 s.
        let misread = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(kernel_timestamp(misread), Timestamp { seconds: -2, nanos: 800_000_000 });
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        for (seconds, nanos) in [(i64::MAX, 999_999_999), (i64::MIN, 0), (i64::MIN, 999_999_999)] {
            let time = system_time(Timestamp { seconds, nanos });
            kernel_timestamp(time);
            wall_timestamp(time);
        }
    }

    #[test]
    fn contradicting_rename_flags_are_refused() {
        let both = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        assert!(rename_mode(both).is_none());
        assert!(rename_mode(RenameFlags::RENAME_WHITEOUT).is_none());
        assert!(rename_mode(RenameFlags::from_bits_retain(1 << 20)).is_none());
    }

    #[test]
    fn mknod_makes_no_directories() {
        assert!(kind_of_mode(libc::S_IFDIR | 0o755, 0).is_none());
        assert_eq!(kind_of_mode(0o644, 0), Some(Kind::File));
        assert_eq!(kind_of_mode(libc::S_IFCHR, 0x103), Some(Kind::CharDevice(0x103)));
    }
}
