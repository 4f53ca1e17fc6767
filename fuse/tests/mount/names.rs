//! Names: directories, renames, links, and files that are only names.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use rustix::io::Errno;

use crate::{Mounted, errno};

#[test]
fn directories_come_and_go() {
    let Some(mounted) = Mounted::new() else { return };
    fs::create_dir(mounted.path("dir")).expect("a directory");
    assert_eq!(errno(fs::create_dir(mounted.path("dir"))), Some(libc::EEXIST));
    fs::write(mounted.path("dir/file"), b"x").expect("a file");
    assert_eq!(errno(fs::remove_dir(mounted.path("dir"))), Some(libc::ENOTEMPTY));
    assert_eq!(errno(fs::remove_file(mounted.path("dir"))), Some(libc::EISDIR));
    assert_eq!(errno(fs::remove_dir(mounted.path("dir/file"))), Some(libc::ENOTDIR));
    assert_eq!(errno(fs::read(mounted.path("dir/none"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::read(mounted.path("dir/file/none"))), Some(libc::ENOTDIR));
    fs::remove_file(mounted.path("dir/file")).expect("it goes");
    fs::remove_dir(mounted.path("dir")).expect("it goes");
    assert!(!mounted.path("dir").exists());
}

#[test]
fn renaming_replaces_only_what_fits() {
    let Some(mounted) = Mounted::new() else { return };
    let path = |name: &str| mounted.path(name);
    fs::create_dir_all(path("full/sub")).expect("directories");
    fs::create_dir(path("empty")).expect("a directory");
    fs::write(path("file"), b"file").expect("a file");
    fs::write(path("other"), b"other").expect("a file");
    let rename = |from: &str, to: &str| errno(fs::rename(path(from), path(to)));
    assert_eq!(rename("none", "new"), Some(libc::ENOENT));
    assert_eq!(rename("file", "empty"), Some(libc::EISDIR));
    assert_eq!(rename("empty", "file"), Some(libc::ENOTDIR));
    assert_eq!(rename("empty", "full"), Some(libc::ENOTEMPTY));
    assert_eq!(rename("full", "full/sub/deeper"), Some(libc::EINVAL));
    assert_eq!(rename("file", "other"), None);
    assert_eq!(fs::read(path("other")).expect("it reads"), b"file");
    assert!(!path("file").exists());
    assert_eq!(rename("full", "empty"), None);
    assert!(path("empty/sub").is_dir());
    assert!(!path("full").exists());
    assert_eq!(rename("other", "empty/sub/other"), None);
    let mounted = mounted.reopen();
    assert_eq!(fs::read(mounted.path("empty/sub/other")).expect("it reads"), b"file");
    assert_eq!(fs::read_dir(mounted.dir()).expect("it lists").count(), 1);
}

#[test]
fn renaming_with_flags() {
    let Some(mounted) = Mounted::new() else { return };
    let path = |name: &str| mounted.path(name);
    let rename = |from: &str, to: &str, flags| renameat_with(CWD, path(from), CWD, path(to), flags);
    fs::write(path("a"), b"a").expect("a file");
    fs::create_dir_all(path("b/inside")).expect("directories");
    assert_eq!(rename("a", "b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(rename("a", "c", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    assert_eq!(rename("a", "b", RenameFlags::EXCHANGE), Ok(()));
    assert!(path("a/inside").is_dir());
    assert_eq!(fs::read(path("b")).expect("it reads"), b"a");
    assert_eq!(rename("b", "a/moved", RenameFlags::NOREPLACE), Ok(()));
    assert_eq!(rename("a/moved", "a/inside", RenameFlags::EXCHANGE), Ok(()));
    assert_eq!(fs::read(path("a/inside")).expect("it reads"), b"a");
    assert!(path("a/moved").is_dir());
}

#[test]
fn symbolic_links_say_what_they_were_told() {
    let Some(mounted) = Mounted::new() else { return };
    fs::create_dir(mounted.path("dir")).expect("a directory");
    fs::write(mounted.path("dir/file"), b"through").expect("a file");
    let long = "x/".repeat(2_047);
    for (name, target) in [("to", "dir/file"), ("dangling", "nowhere"), ("long", &long)] {
        symlink(target, mounted.path(name)).expect("a link");
    }
    symlink("loop", mounted.path("loop")).expect("a link");
    let mounted = mounted.reopen();
    assert_eq!(fs::read(mounted.path("to")).expect("it follows"), b"through");
    assert_eq!(errno(fs::read(mounted.path("dangling"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::read(mounted.path("loop"))), Some(libc::ELOOP));
    assert_eq!(fs::read_link(mounted.path("long")).expect("a target").as_os_str(), long.as_str());
    let meta = fs::symlink_metadata(mounted.path("to")).expect("attributes");
    assert_eq!(meta.len(), 8);
    fs::remove_file(mounted.path("to")).expect("the link goes");
    assert!(mounted.path("dir/file").exists());
}

#[test]
fn hard_links_are_one_file() {
    let Some(mounted) = Mounted::new() else { return };
    fs::create_dir(mounted.path("dir")).expect("a directory");
    fs::write(mounted.path("first"), b"one").expect("a file");
    fs::hard_link(mounted.path("first"), mounted.path("dir/second")).expect("a link");
    assert_eq!(
        errno(fs::hard_link(mounted.path("first"), mounted.path("dir/second"))),
        Some(libc::EEXIST)
    );
    let directory = fs::hard_link(mounted.path("dir"), mounted.path("no"));
    assert_eq!(errno(directory), Some(libc::EPERM));
    let mounted = mounted.reopen();
    let stat = |name: &str| fs::metadata(mounted.path(name)).expect("attributes");
    assert_eq!(stat("first").ino(), stat("dir/second").ino());
    assert_eq!((stat("first").nlink(), stat("dir/second").nlink()), (2, 2));
    fs::write(mounted.path("dir/second"), b"changed").expect("it writes");
    assert_eq!(fs::read(mounted.path("first")).expect("it reads"), b"changed");
    fs::remove_file(mounted.path("first")).expect("one name goes");
    assert_eq!(stat("dir/second").nlink(), 1);
    let mounted = mounted.reopen();
    assert_eq!(fs::read(mounted.path("dir/second")).expect("it reads"), b"changed");
    assert_eq!(fs::metadata(mounted.path("dir/second")).expect("attributes").nlink(), 1);
}

#[test]
fn names_are_bytes_up_to_255() {
    let Some(mounted) = Mounted::new() else { return };
    let longest = "n".repeat(255);
    fs::write(mounted.path(&longest), b"long").expect("a file");
    let longer = "n".repeat(256);
    assert_eq!(errno(fs::write(mounted.path(&longer), b"")), Some(libc::ENAMETOOLONG));
    let odd: [&[u8]; 5] = [b"\xff\xfe", b" ", b"new\nline", b"-rf", "ü".as_bytes()];
    for name in odd {
        fs::write(mounted.dir().join(OsStr::from_bytes(name)), name).expect("a file");
    }
    let mounted = mounted.reopen();
    assert_eq!(fs::read(mounted.path(&longest)).expect("it reads"), b"long");
    for name in odd {
        let content = fs::read(mounted.dir().join(OsStr::from_bytes(name)));
        assert_eq!(content.expect("it reads"), name);
    }
}

#[test]
fn files_that_are_only_names() {
    let Some(mounted) = Mounted::new() else { return };
    let mode = Mode::from_raw_mode(0o644);
    mknodat(CWD, mounted.path("fifo"), FileType::Fifo, mode, 0).expect("a fifo");
    mknodat(CWD, mounted.path("plain"), FileType::RegularFile, mode, 0).expect("a file");
    UnixListener::bind(mounted.path("socket")).expect("a socket");
    let root = rustix::process::geteuid().is_root();
    if root {
        let device = rustix::fs::makedev(1, 3);
        mknodat(CWD, mounted.path("null"), FileType::CharacterDevice, mode, device)
            .expect("a device");
    }
    let mounted = mounted.reopen();
    let stat = |name: &str| fs::symlink_metadata(mounted.path(name)).expect("attributes");
    assert!(stat("fifo").file_type().is_fifo());
    assert!(stat("plain").file_type().is_file());
    assert!(stat("socket").file_type().is_socket());
    if root {
        assert!(stat("null").file_type().is_char_device());
        assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
        // The mount has no devices, whoever made them.
        assert_eq!(errno(File::open(mounted.path("null"))), Some(libc::EACCES));
    }
}

#[test]
fn nothing_moves_between_volumes_and_the_mount_itself() {
    let Some(mounted) = Mounted::new() else { return };
    let root = mounted.home.path();
    fs::write(mounted.path("file"), b"x").expect("a file");
    assert!(fs::rename(mounted.path("file"), root.join("file")).is_err());
    assert!(fs::create_dir(root.join("volume")).is_err());
    assert!(fs::remove_dir(root.join("main")).is_err());
    assert_eq!(fs::read(mounted.path("file")).expect("it reads"), b"x");
}
