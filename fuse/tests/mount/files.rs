//! Files: content, size, attributes, and what programs do with them.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Timespec, Timestamps, XattrFlags, fallocate, getxattr, listxattr,
    removexattr, setxattr, statvfs, utimensat,
};

use xorfs_fuse::MountOptions;

use crate::{Mounted, errno};

/// Bytes that tell their place.
fn pattern(length: usize, salt: u8) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8 ^ salt).collect()
}

#[test]
fn a_file_reads_back_as_written() {
    let Some(mounted) = Mounted::new() else { return };
    let sizes = [0, 1, 4_095, 4_096, 4_097, 128 << 10, (1 << 20) - 1, (1 << 20) + 1, 5 << 20];
    for size in sizes {
        fs::write(mounted.path(&size.to_string()), pattern(size, 1)).expect("it writes");
    }
    let mounted = mounted.remount();
    for size in sizes {
        let content = fs::read(mounted.path(&size.to_string())).expect("it reads");
        assert!(content == pattern(size, 1), "{size} bytes differ");
    }
    let mounted = mounted.reopen();
    for size in sizes {
        let content = fs::read(mounted.path(&size.to_string())).expect("it reads");
        assert!(content == pattern(size, 1), "{size} bytes differ after a restart");
    }
}

#[test]
fn writes_go_to_any_offset() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.expect("a file");
    let mut expected = vec![0; 3 << 20];
    for (offset, length) in
        [(100, 10), (0, 5), (3_000_000, 145_728), (1 << 20, 70_000), (99, 12), (1_048_570, 20)]
    {
        let bytes = pattern(length, offset as u8);
        file.write_all_at(&bytes, offset as u64).expect("it writes");
        expected[offset..offset + length].copy_from_slice(&bytes);
    }
    assert_eq!(file.metadata().expect("attributes").len(), 3 << 20);
    let mut found = vec![0; 3 << 20];
    file.read_exact_at(&mut found, 0).expect("it reads");
    assert!(found == expected);
    drop(file);
    let mounted = mounted.remount();
    assert!(fs::read(mounted.path("file")).expect("it reads") == expected);
}

#[test]
fn truncating_cuts_and_fills_with_zeros() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("file");
    fs::write(&path, pattern(300_000, 7)).expect("it writes");
    let file = File::options().write(true).open(&path).expect("the file");
    file.set_len(1_000).expect("it shrinks");
    file.set_len(5_000).expect("it grows");
    let mut expected = pattern(1_000, 7);
    expected.resize(5_000, 0);
    assert_eq!(fs::read(&path).expect("it reads"), expected);
    file.set_len(0).expect("it empties");
    assert_eq!(fs::read(&path).expect("it reads"), b"");
    fs::write(&path, b"long enough").expect("it writes");
    File::options().write(true).truncate(true).open(&path).expect("it opens");
    assert_eq!(fs::metadata(&path).expect("attributes").len(), 0);
}

#[test]
fn open_flags_do_what_they_say() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("file");
    fs::write(&path, b"one").expect("it writes");
    let exclusive = OpenOptions::new().write(true).create_new(true).open(&path);
    assert_eq!(errno(exclusive), Some(libc::EEXIST));
    let mut first = OpenOptions::new().append(true).open(&path).expect("the file");
    let mut second = OpenOptions::new().append(true).open(&path).expect("the file");
    first.write_all(b" two").expect("it appends");
    second.write_all(b" three").expect("it appends");
    assert_eq!(fs::read(&path).expect("it reads"), b"one two three");
    let mut sparse = File::create(mounted.path("sparse")).expect("a file");
    sparse.seek(SeekFrom::Start(1 << 40)).expect("it seeks");
    sparse.write_all(b"far").expect("it writes");
    assert_eq!(sparse.metadata().expect("attributes").len(), (1 << 40) + 3);
    let mut hole = [1; 16];
    let reader = File::open(mounted.path("sparse")).expect("the file");
    reader.read_exact_at(&mut hole, 1 << 39).expect("it reads");
    assert_eq!(hole, [0; 16]);
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("file");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.as_mut().expect("a file");
    file.write_all(b"before").expect("it writes");
    fs::remove_file(&path).expect("it goes");
    assert!(!path.exists());
    file.write_all(b" and after").expect("it writes");
    mounted.view.seal().expect("it seals meanwhile");
    assert_eq!(file.metadata().expect("attributes").nlink(), 0);
    let mut content = String::new();
    file.rewind().expect("it seeks");
    file.read_to_string(&mut content).expect("it reads");
    assert_eq!(content, "before and after");
    fs::write(&path, b"another").expect("the name is free");
    assert_eq!(fs::read(&path).expect("it reads"), b"another");
    file.sync_all().expect("it syncs");
}

#[test]
fn a_replaced_file_lives_while_it_is_open() {
    let Some(mounted) = Mounted::new() else { return };
    fs::write(mounted.path("old"), b"old").expect("it writes");
    let mut old = File::open(mounted.path("old")).expect("the file");
    fs::write(mounted.path("new"), b"new").expect("it writes");
    fs::rename(mounted.path("new"), mounted.path("old")).expect("it replaces");
    let mut content = String::new();
    old.read_to_string(&mut content).expect("it reads");
    assert_eq!(content, "old");
    assert_eq!(fs::read(mounted.path("old")).expect("it reads"), b"new");
}

#[test]
fn attributes_are_kept() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("file");
    fs::write(&path, b"x").expect("it writes");
    fs::set_permissions(&path, Permissions::from_mode(0o4751)).expect("chmod");
    let times = Timestamps {
        last_access: Timespec { tv_sec: 1_234_567_890, tv_nsec: 123_456_789 },
        last_modification: Timespec { tv_sec: -2, tv_nsec: 800_000_000 },
    };
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12_345), Some(54_321)).expect("chown");
        // Changing hands takes the set-id bits away, as POSIX has it.
        assert_eq!(fs::metadata(&path).expect("attributes").mode() & 0o7777, 0o751);
    }
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("chmod");
    utimensat(CWD, &path, &times, AtFlags::empty()).expect("utimens");
    let check = |mounted: &Mounted| {
        let meta = fs::metadata(mounted.path("file")).expect("attributes");
        assert_eq!(meta.mode() & 0o7777, 0o640);
        assert_eq!((meta.atime(), meta.atime_nsec()), (1_234_567_890, 123_456_789));
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (-2, 800_000_000));
        if rustix::process::geteuid().is_root() {
            assert_eq!((meta.uid(), meta.gid()), (12_345, 54_321));
        }
    };
    check(&mounted);
    let mounted = mounted.remount();
    check(&mounted);
    check(&mounted.reopen());
}

#[test]
fn whoever_changes_a_program_does_not_become_its_owner() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let options = MountOptions { allow_other: true, ..MountOptions::default() };
    let Some(mounted) = Mounted::with(options) else { return };
    let path = mounted.path("program");
    // The directory below the mount is for its owner only, so the other user starts inside.
    for change in ["echo x >> program", ": > program", "truncate -s 5 program"] {
        fs::write(&path, b"program").expect("it writes");
        fs::set_permissions(&path, Permissions::from_mode(0o6777)).expect("chmod");
        fs::write(&path, b"by root").expect("it writes");
        assert_eq!(fs::metadata(&path).expect("attributes").mode() & 0o7777, 0o6777, "by root");
        let done = Command::new("/bin/sh")
            .args(["-c", change])
            .current_dir(mounted.dir())
            .uid(65_534)
            .gid(65_534)
            .status();
        assert!(done.expect("it runs").success(), "{change}");
        assert_eq!(fs::metadata(&path).expect("attributes").mode() & 0o7777, 0o777, "{change}");
    }
}

#[test]
fn a_change_moves_the_times() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("file");
    fs::write(&path, b"x").expect("it writes");
    let past = Timespec { tv_sec: 1_000, tv_nsec: 0 };
    let times = Timestamps { last_access: past, last_modification: past };
    utimensat(CWD, &path, &times, AtFlags::empty()).expect("utimens");
    utimensat(CWD, mounted.dir(), &times, AtFlags::empty()).expect("utimens");
    fs::read(&path).expect("it reads");
    assert_eq!(fs::metadata(&path).expect("attributes").mtime(), 1_000);
    OpenOptions::new().append(true).open(&path).expect("it").write_all(b"y").expect("it writes");
    assert!(fs::metadata(&path).expect("attributes").mtime() > 1_000);
    assert_eq!(fs::metadata(mounted.dir()).expect("attributes").mtime(), 1_000);
    fs::create_dir(mounted.path("new")).expect("a directory");
    assert!(fs::metadata(mounted.dir()).expect("attributes").mtime() > 1_000);
}

#[test]
fn extended_attributes_are_kept() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("file");
    fs::write(&path, b"x").expect("it writes");
    let large = pattern(40_000, 3);
    setxattr(&path, "user.small", b"value", XattrFlags::CREATE).expect("a new one");
    setxattr(&path, "user.large", &large, XattrFlags::empty()).expect("a new one");
    let again = setxattr(&path, "user.small", b"other", XattrFlags::CREATE);
    assert_eq!(again, Err(rustix::io::Errno::EXIST));
    let absent = setxattr(&path, "user.absent", b"other", XattrFlags::REPLACE);
    assert_eq!(absent, Err(rustix::io::Errno::NODATA));
    let mounted = mounted.reopen();
    let path = mounted.path("file");
    let mut buffer = vec![0; 65_536];
    assert_eq!(getxattr(&path, "user.small", &mut buffer), Ok(5));
    assert_eq!(&buffer[..5], b"value");
    assert_eq!(getxattr(&path, "user.large", &mut buffer), Ok(large.len()));
    assert!(buffer[..large.len()] == large);
    assert_eq!(getxattr(&path, "user.small", &mut [0; 4]), Err(rustix::io::Errno::RANGE));
    let length = listxattr(&path, &mut buffer).expect("it lists");
    let mut names: Vec<&[u8]> = buffer[..length].split_inclusive(|byte| *byte == 0).collect();
    names.sort_unstable();
    assert_eq!(names, [b"user.large\0".as_slice(), b"user.small\0"]);
    removexattr(&path, "user.small").expect("it goes");
    assert_eq!(removexattr(&path, "user.small"), Err(rustix::io::Errno::NODATA));
}

#[test]
fn a_file_tells_how_safe_it_is() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("file");
    let mut file = File::create(&path).expect("a file");
    file.write_all(b"precious").expect("it writes");
    let state = || {
        let mut buffer = [0; 64];
        let length = getxattr(&path, "user.xorfs.state", &mut buffer).expect("it tells");
        String::from_utf8(buffer[..length].to_vec()).expect("a word")
    };
    file.sync_all().expect("it syncs");
    assert!(matches!(state().as_str(), "staged" | "sealed"), "after fsync: {}", state());
    mounted.view.seal().expect("it seals");
    assert_eq!(state(), "sealed");
    let mut link = [0; 4_096];
    let length = getxattr(&path, "user.xorfs.link", &mut link).expect("it has one");
    assert!(link[..length].starts_with(b"xorfs:"));
    assert!(setxattr(&path, "user.xorfs.state", b"replicated", XattrFlags::empty()).is_err());
}

#[test]
fn room_is_told_truly() {
    let Some(mounted) = Mounted::new() else { return };
    let stats = statvfs(mounted.dir()).expect("it tells");
    assert!(stats.f_blocks > 0 && stats.f_bavail > 0 && stats.f_bavail <= stats.f_blocks);
    assert_eq!(stats.f_namemax, 255);
}

#[test]
fn allocating_only_lengthens() {
    let Some(mounted) = Mounted::new() else { return };
    let file = File::create(mounted.path("file")).expect("a file");
    fallocate(&file, FallocateFlags::empty(), 1_000, 3_000).expect("it grows");
    assert_eq!(file.metadata().expect("attributes").len(), 4_000);
    fallocate(&file, FallocateFlags::empty(), 0, 10).expect("nothing to do");
    assert_eq!(file.metadata().expect("attributes").len(), 4_000);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(fallocate(&file, punch, 0, 10), Err(rustix::io::Errno::OPNOTSUPP));
}

#[test]
fn a_shared_mapping_and_reads_see_the_same() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("mapped");
    fs::write(&path, pattern(20_000, 9)).expect("it writes");
    let file = File::options().read(true).write(true).open(&path).expect("the file");
    // SAFETY: a new mapping at an address of the kernel's choice, as long as the file.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            20_000,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: the mapping is that long, and this is the only slice over it.
    let mapping = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), 20_000) };
    assert!(mapping == pattern(20_000, 9));
    mapping[10_000..10_005].copy_from_slice(b"hello");
    let mut found = [0; 5];
    file.read_exact_at(&mut found, 10_000).expect("it reads");
    assert_eq!(&found, b"hello");
    // SAFETY: unmaps exactly what was mapped; the slice is not used any more.
    assert_eq!(unsafe { libc::munmap(start, 20_000) }, 0);
    file.sync_all().expect("it syncs");
    drop(file);
    let mounted = mounted.remount();
    let mut expected = pattern(20_000, 9);
    expected[10_000..10_005].copy_from_slice(b"hello");
    assert!(fs::read(mounted.path("mapped")).expect("it reads") == expected);
}

#[test]
fn direct_io_reads_and_writes() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path("direct");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .expect("it opens");
    file.write_all_at(&pattern(100_000, 5), 0).expect("it writes");
    let mut found = vec![0; 100_000];
    file.read_exact_at(&mut found, 0).expect("it reads");
    assert!(found == pattern(100_000, 5));
    assert!(fs::read(&path).expect("it reads") == pattern(100_000, 5));
}

#[test]
fn programs_run_from_it() {
    let Some(mounted) = Mounted::new() else { return };
    let program = mounted.path("program");
    fs::copy("/bin/sh", &program).expect("it copies");
    // Opening for writing elsewhere in this process while forking would give ETXTBSY; nothing
    // here has it open any more.
    let output = Command::new(&program).args(["-c", "echo it runs"]).output().expect("it runs");
    assert_eq!(output.stdout, b"it runs\n");
}

#[test]
fn parallel_writers_do_not_mix() {
    const WRITERS: usize = 8;
    const PART: usize = 100_000;
    let Some(mounted) = Mounted::new() else { return };
    let mounted = Arc::new(mounted);
    let shared = Arc::new(File::create(mounted.path("shared")).expect("a file"));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (mounted, shared) = (Arc::clone(&mounted), Arc::clone(&shared));
            scope.spawn(move || {
                let bytes = pattern(PART, writer as u8);
                for (turn, part) in bytes.chunks(7_000).enumerate() {
                    let offset = writer * PART + turn * 7_000;
                    shared.write_all_at(part, offset as u64).expect("it writes");
                    let own = mounted.path(&format!("{writer}-{turn}"));
                    fs::write(&own, part).expect("it writes");
                    assert!(fs::read(&own).expect("it reads") == part);
                    if turn == 5 {
                        shared.sync_all().expect("it syncs");
                    }
                }
            });
        }
    });
    drop(shared);
    let expected: Vec<u8> = (0..WRITERS).flat_map(|writer| pattern(PART, writer as u8)).collect();
    let Some(mounted) = Arc::into_inner(mounted) else { panic!("the threads have ended") };
    let mounted = mounted.reopen();
    assert!(fs::read(mounted.path("shared")).expect("it reads") == expected);
    for writer in 0..WRITERS {
        for (turn, part) in pattern(PART, writer as u8).chunks(7_000).enumerate() {
            let own = fs::read(mounted.path(&format!("{writer}-{turn}"))).expect("it reads");
            assert!(own == part, "file {writer}-{turn} differs");
        }
    }
}
